//! Training as a user runs it: stopped, killed, resumed, and given what it cannot take.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use glioseg_formats::nifti;
use support::{glioseg, run};

/// A network of two stages on patches of 16³ voxels.
const PRESET: &str = r#"{
    "epochs": 3, "iterations": 4, "val_iterations": 1, "lr": 0.02,
    "configuration": {
        "patch_size": [16, 16, 16], "batch_size": 2,
        "architecture": {"arch_kwargs": {
            "n_stages": 2, "features_per_stage": [4, 8], "kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [2, 2, 2]], "n_conv_per_stage": [2, 2], "n_conv_per_stage_decoder": [2]
        }}
    }
}"#;

/// Five phantoms of 32³ voxels and the preset, in a folder of their own.
struct Workplace {
    folder: tempfile::TempDir,
}

impl Workplace {
    fn new(cases: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let place = Self { folder };
        let (out, cases) = (place.text("Dataset001_P"), cases.to_string());
        let (code, _, log) = run(&["phantom", "--cases", &cases, "--size", "32", "--out", &out]);
        assert_eq!(code, 0, "{log}");
        std::fs::write(place.path("tiny.json"), PRESET).expect("written");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Arguments of a training into `results`.
    fn arguments(&self, results: &str, more: &[&str]) -> Vec<String> {
        let (dataset, preset, pre, out) =
            (self.text("Dataset001_P"), self.text("tiny.json"), self.text("pre"), self.text(results));
        let fixed = ["train", &dataset, "--preprocessed", &pre, "-o", &out, "--save-every", "0.001s"];
        let mut all: Vec<String> = fixed.iter().map(|&s| s.to_owned()).collect();
        if !more.contains(&"--resume") {
            all.extend(["--preset".to_owned(), preset]);
        }
        all.extend(more.iter().map(|&s| s.to_owned()));
        all
    }

    fn train(&self, results: &str, more: &[&str]) -> (i32, String, String) {
        let arguments = self.arguments(results, more);
        run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// A training that runs while the test does; it says nothing but to `stderr`.
    fn start(&self, results: &str, more: &[&str], stderr: Stdio) -> Child {
        let arguments = self.arguments(results, more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        glioseg(&arguments).stderr(stderr).stdout(Stdio::null()).spawn().expect("the program starts")
    }

    fn fold(&self, results: &str) -> PathBuf {
        self.path(results).join("nnUNetTrainer__nnUNetPlans__3d_fullres/fold_0")
    }

    /// Changes the labels of every case; cases are numbered from 0.
    fn relabel(&self, change: impl Fn(usize, u16) -> u16) {
        for number in 0.. {
            let path = self.path(&format!("Dataset001_P/labelsTr/phantom_{number:03}.nii.gz"));
            if !path.exists() {
                return;
            }
            let mut map = nifti::read_labels(&path).expect("labels");
            map.data.iter_mut().for_each(|label| *label = change(number, *label));
            nifti::write_labels(&path, &map).expect("written");
        }
    }

    fn weights(&self, results: &str) -> Vec<u8> {
        std::fs::read(self.fold(results).join("checkpoint_final.safetensors")).expect("final weights")
    }
}

fn kill(mut child: Child) {
    child.kill().expect("killed");
    child.wait().expect("gone");
}

fn wait_for(what: &str, path: &Path) {
    let start = Instant::now();
    while !path.exists() {
        assert!(start.elapsed() < Duration::from_mins(2), "{what} did not come: {}", path.display());
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_killed_training_goes_on_to_the_same_bytes_whatever_the_threads() {
    let place = Workplace::new(5);
    let (code, out, log) = place.train("whole", &[]);
    assert_eq!(code, 0, "{log}");
    assert!(out.contains("validation | Dice whole tumor "), "{out}");
    for line in ["train | Dataset001_P | 3d_fullres | fold 0: 4 cases, 1 to validate", "epoch 3/3 | train "] {
        assert!(log.contains(line), "{log}");
    }
    let fold = place.fold("whole");
    for file in [
        "checkpoint_best.safetensors",
        "progress.png",
        "training_log.jsonl",
        "events.out.tfevents.0.glioseg",
        "validation/summary.json",
        "../plans.json",
        "../dataset.json",
    ] {
        assert!(fold.join(file).is_file(), "{file}");
    }
    for gone in ["checkpoint_latest.safetensors", "checkpoint_previous.safetensors"] {
        assert!(!fold.join(gone).exists(), "{gone}");
    }
    let history = std::fs::read_to_string(fold.join("training_log.jsonl")).expect("a log");
    assert_eq!(history.lines().count(), 3);
    let expected = place.weights("whole");

    let (code, _, log) = place.train("one", &["--threads", "1", "--batch-threads", "2"]);
    assert_eq!(code, 0, "{log}");
    assert!(place.weights("one") == expected, "one thread gives other weights");

    let latest = place.fold("killed").join("checkpoint_latest.safetensors");
    for attempt in 0..3 {
        let more: &[&str] = if attempt == 0 { &[] } else { &["--resume"] };
        let child = place.start("killed", more, Stdio::null());
        wait_for("a checkpoint", &latest);
        std::thread::sleep(Duration::from_millis(37 * (attempt + 1)));
        kill(child);
    }
    let (code, _, log) = place.train("killed", &["--resume"]);
    assert_eq!(code, 0, "{log}");
    assert!(place.weights("killed") == expected, "a killed training ends in other weights");

    // predict takes the result as it is.
    let (model, images) =
        (place.text("whole/nnUNetTrainer__nnUNetPlans__3d_fullres"), place.text("Dataset001_P/imagesTr"));
    let (code, _, log) =
        run(&["predict", "-m", &model, "-i", &images, "-o", &place.text("out"), "--no-mirroring"]);
    assert_eq!(code, 0, "{log}");
}

#[test]
#[allow(clippy::print_stderr, reason = "a test names what it could not test")]
fn a_training_in_bf16_is_resumed_in_bf16_to_the_same_bytes() {
    if let Err(reason) = glioseg_kernels::Amx::detect() {
        eprintln!("not tested: {reason}");
        return;
    }
    let place = Workplace::new(5);
    let bf16 = ["--precision", "bf16"];
    let (code, _, log) = place.train("whole", &bf16);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("computes | cpu | bf16 | "), "{log}");
    let expected = place.weights("whole");
    let (code, _, log) = place.train("one", &[&bf16[..], &["--threads", "1"]].concat());
    assert_eq!(code, 0, "{log}");
    assert!(place.weights("one") == expected, "one thread gives other weights");

    let latest = place.fold("killed").join("checkpoint_latest.safetensors");
    let child = place.start("killed", &bf16, Stdio::null());
    wait_for("a checkpoint", &latest);
    kill(child);
    for precision in ["f32", "auto"] {
        let (code, _, log) = place.train("killed", &["--resume", "--precision", precision]);
        assert_eq!(code, 2, "{log}");
        let told = "was started with the precision bf16, but now the precision is f32";
        assert!(log.contains(told) && log.contains("hint: give the options of the first run again"), "{log}");
    }
    let (code, _, log) = place.train("killed", &[&bf16[..], &["--resume"]].concat());
    assert_eq!(code, 0, "{log}");
    assert!(place.weights("killed") == expected, "a killed training ends in other weights");
}

#[test]
fn a_training_in_bf16_without_tiles_says_what_there_is() {
    let place = Workplace::new(1);
    let dataset = place.text("Dataset001_P");
    for arguments in [vec!["train", &dataset], vec!["crossval", &dataset], vec!["bench", "step"]] {
        let arguments = [&arguments[..], &["--precision", "bf16"]].concat();
        let output = glioseg(&arguments).env("GLIOSEG_KERNELS_TILES", "off").output().expect("it starts");
        let log = String::from_utf8(output.stderr).expect("utf-8");
        assert_eq!(output.status.code(), Some(2), "{log}");
        assert!(log.contains("GLIOSEG_KERNELS_TILES is `off`") && log.contains("hint:"), "{log}");
    }
    // Without tiles the automatic choice is single precision.
    let plans = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/phantom-model/plans.json");
    let arguments = ["bench", "step", "--net", plans, "--size", "16", "--batch", "1", "--runs", "1"];
    let arguments = [&arguments[..], &["--precision", "auto"]].concat();
    let output = glioseg(&arguments).env("GLIOSEG_KERNELS_TILES", "off").output().expect("it starts");
    let out = String::from_utf8(output.stdout).expect("utf-8");
    assert!(out.contains("\"precision\":\"f32\"") || out.contains("\"precision\": \"f32\""), "{out}");
}

#[test]
fn what_stands_in_the_way_of_a_training_is_named() {
    let place = Workplace::new(5);
    let (code, _, log) = place.train("r", &["--epochs", "1"]);
    assert_eq!(code, 0, "{log}");
    let (code, _, log) = place.train("r", &[]);
    assert_eq!(code, 2);
    assert!(
        log.contains("holds a finished training") && log.contains("hint: continue with --resume"),
        "{log}"
    );

    // A loss that is not a number: the cases of the batch are named, the checkpoint before stays.
    let (code, _, log) = place.train("nan", &["--lr", "1e36", "--optimiser", "adamw"]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("the batch is of the cases phantom_00"), "{log}");
    let latest = place.fold("nan").join("checkpoint_latest.safetensors");
    if latest.exists() {
        assert!(log.contains("the last good checkpoint is"), "{log}");
    }

    // Another seed, and another patch.
    let stopped = place.fold("stopped").join("checkpoint_latest.safetensors");
    let child = place.start("stopped", &["--epochs", "500"], Stdio::null());
    wait_for("a checkpoint", &stopped);
    wait_for("a second one", &place.fold("stopped").join("checkpoint_previous.safetensors"));
    kill(child);
    let (code, _, log) = place.train("stopped", &["--resume", "--seed", "7"]);
    assert_eq!(code, 2);
    assert!(log.contains("was started with the setting `seed` 0, but now the setting is `seed` 7"), "{log}");
    let (code, _, log) = place.train("stopped", &["--resume", "--patch", "16,16,8"]);
    assert_eq!(code, 2);
    assert!(log.contains("but now"), "{log}");

    // A damaged latest checkpoint: the one before serves, and that is said.
    let mut bytes = std::fs::read(&stopped).expect("the checkpoint");
    let middle = bytes.len() - 100;
    bytes[middle] ^= 1;
    std::fs::write(&stopped, bytes).expect("written");
    let mut child = place.start("stopped", &["--resume"], Stdio::piped());
    let stderr = child.stderr.take().expect("piped");
    let lines = std::io::BufRead::lines(std::io::BufReader::new(stderr));
    let mut seen = vec![];
    for line in lines {
        seen.push(line.expect("utf-8"));
        if seen.last().is_some_and(|l| l.starts_with("epoch ")) {
            break;
        }
    }
    kill(child);
    let seen = seen.join("\n");
    assert!(seen.contains("its values are not those that were written; the training resumes from"), "{seen}");
    assert!(seen.contains("resumes from epoch"), "{seen}");
}

#[test]
fn too_few_cases_and_wrong_options_are_refused_with_a_remedy() {
    let place = Workplace::new(3);
    let (code, _, log) = place.train("r", &[]);
    assert_eq!(code, 2);
    assert!(log.contains("3 cases cannot be split into 5 folds") && log.contains("-f all"), "{log}");
    let (code, _, log) = place.train("r", &["-f", "all", "--epochs", "1", "--patch", "16,16,15"]);
    assert_eq!(code, 2);
    assert!(log.contains("[16, 16, 15]") && log.contains("multiples of [2, 2, 2]"), "{log}");
    let (code, _, log) = place.train("r", &["-f", "all", "--epochs", "1", "--patch", "4096,4096,4096"]);
    assert_eq!(code, 2);
    assert!(log.contains("GB of memory, but") && log.contains("--patch"), "{log}");
    let (code, _, log) = place.train("r", &["-f", "all", "--epochs", "0"]);
    assert_eq!(code, 2);
    assert!(log.contains("the setting `epochs` is 0, but must be at least 1"), "{log}");
    let (code, _, log) = place.train("r", &["-f", "all", "--epochs", "1", "--budget", "1h"]);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("3 of 3 validation cases are trained on"), "{log}");
}

#[test]
fn labels_that_are_missing_and_small_images_are_told() {
    let place = Workplace::new(5);
    // No enhancing tumor anywhere, and nothing at all in the first case.
    place.relabel(|case, label| if case == 0 || label == 3 { 0 } else { label });
    let short = ["-f", "all", "--epochs", "1", "--iterations", "1", "--patch", "48,16,16"];
    let (code, _, log) = place.train("r", &short);
    assert_eq!(code, 0, "{log}");
    for part in [
        "no case has a voxel of label [3]",
        "no training case of this fold has `enhancing tumor`: it cannot be learned",
        "phantom_000",
        "5 of 5 cases are smaller than the patch and are padded",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    for wrong in ["has `whole tumor`", "has `tumor core`"] {
        assert!(!log.contains(wrong), "{wrong}: {log}");
    }

    // The winner's plans list voxels by label, not by region.
    let results = place.text("winner");
    let dataset = place.text("Dataset001_P");
    let width = "configuration.architecture.arch_kwargs.base_num_features=4";
    let mut arguments = vec!["train", &dataset, "-o", &results, "--preset", "bl", "--set", width];
    arguments.extend(["-f", "all", "--epochs", "1", "--iterations", "1", "--val-iterations", "1"]);
    let (code, _, log) = run(&arguments);
    assert_eq!(code, 0, "{log}");
    assert_eq!(log.matches("it cannot be learned").count(), 1, "{log}");
    assert!(log.contains("has `enhancing tumor`: it cannot be learned"), "{log}");
}

#[test]
fn a_dataset_of_background_alone_is_refused() {
    let place = Workplace::new(5);
    place.relabel(|_, _| 0);
    let (code, _, log) = place.train("r", &[]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("none of the 5 training cases has a labelled voxel"), "{log}");
    assert!(log.contains("hint: check that the label maps are those of this dataset"), "{log}");
}

#[test]
fn two_configurations_and_their_ensemble_are_compared() {
    let place = Workplace::new(5);
    let (dataset, pre, out) = (place.text("Dataset001_P"), place.text("pre"), place.text("results"));
    let mut arguments = vec!["crossval", &dataset, "--preprocessed", &pre, "-o", &out, "--folds", "0"];
    arguments.extend(["-c", "3d_fullres,2d", "--epochs", "1", "--iterations", "1", "--val-iterations", "1"]);
    arguments.extend(["--batch", "2"]);
    let (code, printed, log) = run(&arguments);
    assert_eq!(code, 0, "{log}");
    for line in ["\n3d_fullres | mean Dice", "\n2d | mean Dice", "\n3d_fullres + 2d | mean Dice", "\nbest "] {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let information = std::fs::read(place.path("results/inference_information.json")).expect("information");
    let information: serde_json::Value = serde_json::from_slice(&information).expect("JSON");
    let scores = information["all_results"].as_object().expect("scores");
    assert_eq!(scores.keys().collect::<Vec<_>>(), ["3d_fullres", "2d", "3d_fullres + 2d"]);
}

#[test]
fn the_demo_goes_from_phantoms_to_scores() {
    let folder = tempfile::tempdir().expect("a folder");
    let out = folder.path().join("demo").display().to_string();
    let (code, _, log) =
        run(&["demo", "--out", &out, "--cases", "1", "--training-cases", "5", "--epochs", "1"]);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("next, with this model") && log.contains("epoch 1/1 | train"), "{log}");
    let out = Path::new(&out);
    for file in [
        "results/gliosegDemo__nnUNetPlans__3d_fullres/fold_0/checkpoint_final.safetensors",
        "predicted/phantom_000.nii.gz",
        "scores/scores.json",
    ] {
        assert!(out.join(file).is_file(), "{file}\n{log}");
    }
}

#[test]
fn five_folds_become_one_recommendation_that_predict_follows() {
    let place = Workplace::new(5);
    let (dataset, pre, out) = (place.text("Dataset001_P"), place.text("pre"), place.text("results"));
    let preset = place.text("tiny.json");
    let arguments =
        ["crossval", &dataset, "--preprocessed", &pre, "-o", &out, "--preset", &preset, "--epochs", "1"];
    let (code, printed, log) = run(&arguments);
    assert_eq!(code, 0, "{log}");
    assert!(printed.contains("best 3d_fullres | mean Dice "), "{printed}");
    let model = place.path("results/nnUNetTrainer__nnUNetPlans__3d_fullres");
    let collected = model.join("crossval_results_folds_0_1_2_3_4");
    for i in 0..5 {
        assert!(collected.join(format!("phantom_{i:03}.nii.gz")).is_file());
    }
    assert!(collected.join("summary.json").is_file() && model.join("postprocessing.json").is_file());
    let information = std::fs::read(place.path("results/inference_information.json")).expect("information");
    let information: serde_json::Value = serde_json::from_slice(&information).expect("JSON");
    assert_eq!(information["considered_models"][0]["configuration"], "3d_fullres");
    // What it recommends runs as it stands.
    let command = information["command"].as_str().expect("a command").to_owned();
    let input = place.text("Dataset001_P/imagesTr");
    let command = command.replace("INPUT", &input).replace("OUTPUT", &place.text("predicted"));
    let mut words: Vec<&str> = command.split_whitespace().skip(1).collect();
    words.push("--no-mirroring");
    let (code, _, log) = run(&words);
    assert_eq!(code, 0, "{log}");
    // Given again, nothing is trained again.
    let (code, _, log) = run(&arguments);
    assert_eq!(code, 0, "{log}");
    assert!(!log.contains("epoch 1/1"), "{log}");
}

#[test]
fn more_epochs_are_added_and_what_cannot_be_resumed_is_named() {
    let place = Workplace::new(5);
    let (code, _, log) = place.train("r", &["--epochs", "2"]);
    assert_eq!(code, 0, "{log}");
    let first = place.weights("r");
    // The options of the first run hold: nothing is left to train.
    let (code, _, log) = place.train("r", &["--resume"]);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("only the validation is done"), "{log}");
    let (code, _, log) = place.train("r", &["--resume", "--epochs", "3"]);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("resumes from epoch"), "{log}");
    assert!(place.weights("r") != first, "a third epoch changes the weights");
    let history = std::fs::read_to_string(place.fold("r").join("training_log.jsonl")).expect("a log");
    assert_eq!(history.lines().count(), 3, "{history}");

    // Nothing to resume: the stopped trainings of the fold are listed.
    let (code, _, log) = place.train("none", &["--resume"]);
    assert_eq!(code, 2);
    assert!(
        log.contains("there is no training to resume in") && log.contains("hint: leave out --resume"),
        "{log}"
    );
    let other = place.path("none").join("Other__p__c/fold_0");
    std::fs::create_dir_all(&other).expect("a folder");
    std::fs::write(other.join("checkpoint_latest.safetensors"), b"").expect("written");
    let (code, _, log) = place.train("none", &["--resume"]);
    assert_eq!(code, 2);
    assert!(log.contains("stopped trainings of this fold: ") && log.contains("Other__p__c/fold_0"), "{log}");

    // A training of nnU-Net is neither trained over nor resumed.
    let theirs = place.fold("theirs");
    std::fs::create_dir_all(&theirs).expect("a folder");
    std::fs::write(theirs.join("checkpoint_best.pth"), b"weights").expect("written");
    for more in [&[][..], &["--resume"]] {
        let (code, _, log) = place.train("theirs", more);
        assert_eq!(code, 2, "{log}");
        assert!(
            log.contains(if more.is_empty() {
                "holds a training of nnU-Net (checkpoint_best.pth)"
            } else {
                "no training to resume"
            }),
            "{log}"
        );
    }
    assert_eq!(std::fs::read(theirs.join("checkpoint_best.pth")).expect("there"), b"weights");
}
