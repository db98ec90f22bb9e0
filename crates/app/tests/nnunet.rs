//! Habits of nnU-Net's users: its options, its names of datasets, its files.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use glioseg_formats::nifti;
use glioseg_volume::{Geometry, LabelMap, Turn, Volume};
use serde_json::{Value, json};
use support::{copy_folder, edit_json, glioseg, model, numbered, run, small_phantom, write_case};

/// nnU-Net's three folders with the model that comes along.
struct Folders(tempfile::TempDir);

impl Folders {
    const MODEL: &'static str = "res/Dataset137_BraTS/nnUNetTrainer__nnUNetPlans__3d_fullres";

    fn new() -> Self {
        let made = Self(tempfile::tempdir().expect("a folder"));
        copy_folder(&model(), &made.at(Self::MODEL));
        for folder in ["raw/Dataset137_BraTS", "pre/Dataset137_BraTS", "raw/Dataset138_A", "raw/Dataset138_B"]
        {
            fs::create_dir_all(made.at(folder)).expect("a folder");
        }
        made
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A run with the variables set.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        let mut command = glioseg(arguments);
        for (variable, folder) in
            [("nnUNet_raw", "raw"), ("nnUNet_preprocessed", "pre"), ("nnUNet_results", "res")]
        {
            command.env(variable, self.at(folder));
        }
        let out = command.current_dir(self.0.path()).output().expect("the program starts");
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("utf-8");
        (out.status.code().expect("an exit code"), text(out.stdout), text(out.stderr))
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_prediction_as_nnunet_spells_it_is_the_same_prediction() {
    let folders = Folders::new();
    fs::create_dir(folders.at("in")).expect("a folder");
    write_case(&numbered(&folders.at("in"), "a"), 11);
    let fold = folders.at(Folders::MODEL).join("fold_0");
    fs::copy(fold.join("checkpoint_final.pth"), fold.join("checkpoint_best.pth")).expect("copied");
    let line = "predict -i in -o theirs -d 137 -c 3d_fullres -f 0 -tr nnUNetTrainer -p nnUNetPlans -chk checkpoint_best.pth \
                --disable_tta -npp 2 -nps 2";
    let (code, _, stderr) = folders.run(&line.split_whitespace().collect::<Vec<_>>());
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("-npp 2 has no effect"), "{stderr}");
    let (code, _, stderr) =
        folders.run(&["predict", "-m", "137", "-i", "in", "-o", "ours", "--no-mirroring"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("137 is "), "{stderr}");
    assert_eq!(bytes(&folders.at("theirs/a.nii.gz")), bytes(&folders.at("ours/a.nii.gz")));
}

#[test]
fn a_trainer_of_ones_own_is_named_in_a_warning() {
    let folders = Folders::new();
    fs::create_dir(folders.at("in")).expect("a folder");
    write_case(&numbered(&folders.at("in"), "a"), 11);
    let checkpoint = folders.at(Folders::MODEL).join("fold_0/checkpoint_final.pth");
    // Of the same length, so that the pickle stays one: the archive's check sums are not compared.
    let (old, new) = (b"nnUNetTrainer".as_slice(), b"nnUNetMyOwn_x".as_slice());
    let mut whole = bytes(&checkpoint);
    let at = whole.windows(old.len()).position(|w| w == old).expect("the trainer's name");
    whole[at..at + new.len()].copy_from_slice(new);
    fs::write(&checkpoint, whole).expect("written");
    let (code, _, stderr) = folders.run(&["predict", "-m", "137", "-i", "in", "-o", "out", "--no-mirroring"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("the trainer `nnUNetMyOwn_x` of") && stderr.contains("weights fit"), "{stderr}");
}

#[test]
fn names_that_stand_for_nothing_or_for_two_are_errors_that_say_what_there_is() {
    let folders = Folders::new();
    for (line, message) in [
        ("plan -d 99", "there is no dataset `99`"),
        ("prep -d 138", "more than one dataset: Dataset138_A, Dataset138_B"),
        ("predict -d 137 -c 2d -i in -o out", "there is no model nnUNetTrainer__nnUNetPlans__2d"),
        ("predict -d 137 -c 3d_fullres -i in -o out -device cuda", "--device cpu"),
        ("train 137 3d_fullres 0 --val", "--val is an option of nnU-Net"),
    ] {
        let (code, stdout, stderr) = folders.run(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((code, stdout.as_str()), (2, ""), "{line}: {stderr}");
        assert!(stderr.contains(message) && stderr.contains("hint:"), "{line}: {stderr}");
    }
}

/// Writes the images of `case` with other axes.
fn turned(folder: &Path, case: &str, turn: Turn) {
    let volume = small_phantom(11);
    let shape = volume.geometry.shape;
    for (c, path) in numbered(folder, case).iter().enumerate() {
        let data = turn.apply(volume.channel(c).to_vec(), shape);
        let channel = Volume::new(1, data, volume.geometry.turned(&turn)).expect("a channel");
        nifti::write_volume(path, &channel).expect("written");
    }
}

#[test]
fn saved_probabilities_have_the_readers_order_and_lead_back_to_the_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    fs::create_dir(at("in")).expect("a folder");
    let turn = Turn { axes: [2, 0, 1], flip: [true, false, true] };
    turned(&at("in"), "a", turn);
    for (reader, key) in [
        ("NibabelIOWithReorient", "reoriented_affine"),
        ("SimpleITKIOWithReorient", "original_orientation"),
        ("SimpleITKIO", "sitk_stuff"),
    ] {
        let model_folder = text(&format!("model_{reader}"));
        copy_folder(&model(), Path::new(&model_folder));
        edit_json(&Path::new(&model_folder).join("plans.json"), |plans| {
            plans["image_reader_writer"] = json!(reader);
        });
        let (out, mean, alone) =
            (text(reader), text(&format!("mean_{reader}")), text(&format!("alone_{reader}")));
        let predict = [
            "predict",
            "-m",
            &model_folder,
            "-i",
            &text("in"),
            "-o",
            &out,
            "--no-mirroring",
            "--save-probabilities",
        ];
        let (code, _, stderr) = run(&predict);
        assert_eq!(code, 0, "{stderr}");
        let plans: Value = serde_json::from_slice(&bytes(&Path::new(&out).join("plans.json"))).expect("JSON");
        assert_eq!(plans["image_reader_writer"], reader);
        let pickle = bytes(&Path::new(&out).join("a.pkl"));
        assert!(String::from_utf8_lossy(&pickle).contains(key), "{reader}");
        let (_, stdout, _) = run(&["info", &format!("{out}/a.npz"), "--json"]);
        let facts: Value = serde_json::from_str(&stdout).expect("JSON");
        // The phantom's own axes lead to R, A, S.
        let turns = reader.ends_with("Reorient");
        let expected = if turns { json!([3, 44, 42, 40]) } else { json!([3, 40, 44, 42]) };
        assert_eq!(facts["shape"], expected, "{reader}");

        // An ensemble of one is the prediction, also where the properties alone tell the place.
        fs::create_dir(&alone).expect("a folder");
        for name in ["a.npz", "a.pkl", "dataset.json"] {
            fs::copy(Path::new(&out).join(name), Path::new(&alone).join(name)).expect("copied");
        }
        let predicted = nifti::read_labels(&Path::new(&out).join("a.nii.gz")).expect("labels");
        assert_eq!(predicted.shape(), turn.along([44, 42, 40]));
        for from in [&out, &alone] {
            let to = format!("{mean}_{}", from == &out);
            let (code, _, stderr) = run(&["ensemble", "-i", from, "-o", &to]);
            assert_eq!(code, 0, "{reader}: {stderr}");
            let found = nifti::read_labels(&Path::new(&to).join("a.nii.gz")).expect("labels");
            assert_eq!(found.data, predicted.data, "{reader}");
            assert!(found.geometry.same_grid(&predicted.geometry).same_position(), "{reader}");
        }
        let scored =
            ["evaluate", "--ref", &out, "--pred", &out, "-o", &text(&format!("scores_{reader}")), "--json"];
        let (code, stdout, stderr) = run(&scored);
        assert_eq!(code, 0, "{stderr}");
        let brier = stdout
            .lines()
            .filter_map(|l| serde_json::from_str::<Value>(l).ok()?["calibration"]["brier"].as_f64());
        // Against its own decision a prediction is nearly right, unless its axes are mixed up.
        assert!(brier.clone().count() == 3 && brier.into_iter().all(|b| b < 0.2), "{reader}: {stdout}");
    }
    let (readers, mixed) = (["NibabelIOWithReorient", "SimpleITKIO"].map(text), text("mixed"));
    let (code, _, stderr) = run(&["ensemble", "-i", &readers[0], &readers[1], "-o", &mixed]);
    assert_ne!(code, 0, "{stderr}");
}

#[test]
fn plans_are_taken_over_from_another_dataset() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    for name in ["nnUNet_raw/Dataset001_A", "nnUNet_raw/Dataset002_B"] {
        let (code, _, stderr) = run(&["phantom", "--cases", "1", "--size", "32", "--out", &text(name)]);
        assert_eq!(code, 0, "{stderr}");
    }
    edit_json(&at("nnUNet_raw/Dataset002_B/dataset.json"), |dataset| {
        dataset["overwrite_image_reader_writer"] = json!("NibabelIO");
    });
    let source = at("nnUNet_preprocessed/Dataset001_A/nnUNetPlans.json");
    fs::create_dir_all(source.parent().expect("a folder")).expect("a folder");
    fs::copy(model().join("plans.json"), &source).expect("copied");
    edit_json(&source, |plans| {
        plans["configurations"]["mine"] = json!({"inherits_from": "3d_fullres", "data_identifier": "other"});
    });
    let (from, to) = (text("nnUNet_raw/Dataset001_A"), text("nnUNet_raw/Dataset002_B"));
    let moved = ["plan", &to, "--plans-from", &from, "--name", "mine", "--json"];
    let (code, stdout, stderr) = run(&moved);
    assert_eq!(code, 0, "{stderr}");
    let path = at("nnUNet_preprocessed/Dataset002_B/mine.json");
    let written: Value = serde_json::from_slice(&bytes(&path)).expect("JSON");
    assert_eq!(serde_json::from_str::<Value>(&stdout).expect("JSON"), written);
    let mut expected: Value = serde_json::from_slice(&bytes(&source)).expect("JSON");
    expected["dataset_name"] = json!("Dataset002_B");
    expected["plans_name"] = json!("mine");
    expected["image_reader_writer"] = json!("NibabelIO");
    for (name, configuration) in expected["configurations"].as_object_mut().expect("configurations") {
        let Some(Value::String(identifier)) = configuration.get_mut("data_identifier") else { continue };
        *identifier = if name == "mine" {
            "mine_other".to_owned()
        } else {
            identifier.replacen("nnUNetPlans", "mine", 1)
        };
    }
    assert_eq!(written, expected);
    assert_eq!(run(&moved).0, 0, "the same again");
    edit_json(&path, |plans| plans["plans_name"] = json!("changed"));
    let (code, _, stderr) = run(&moved);
    assert!(code == 2 && stderr.contains("holds other plans"), "{stderr}");
    let (code, _, stderr) = run(&["prep", &to, "--plans", "nnUNetPlans"]);
    assert_eq!(code, 2, "{stderr}");
}

#[test]
fn the_search_for_largest_components_writes_nnunets_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    let text = |name: &str| at(name).display().to_string();
    let write = |name: &str, data: &[u16]| {
        let map = LabelMap::new(data.to_vec(), Geometry::isotropic([1, 1, data.len()])).expect("a map");
        fs::create_dir_all(at(name).parent().expect("a folder")).expect("a folder");
        nifti::write_labels(&at(name), &map).expect("written");
    };
    write("gt/a.nii.gz", &[1, 1, 1, 0, 0, 2, 2, 0, 2, 0]);
    write("pred/a.nii.gz", &[1, 1, 1, 0, 1, 2, 2, 0, 2, 0]);
    let description = json!({"channel_names": {"0": "t1"}, "labels": {"background": 0, "a": 1, "b": 2},
        "numTraining": 1, "file_ending": ".nii.gz"});
    fs::write(at("pred/dataset.json"), description.to_string()).expect("written");
    let (code, stdout, stderr) =
        run(&["postprocess", "-i", &text("pred"), "--search", "largest", "--ref", &text("gt")]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("adopted"), "{stdout}");
    let written: Value = serde_json::from_slice(&bytes(&at("pred/postprocessing.json"))).expect("JSON");
    assert_eq!(written["postprocessing_kwargs"], json!([{"labels_or_regions": 1}]));
    let cleaned = nifti::read_labels(&at("pred/postprocessed/a.nii.gz")).expect("labels");
    assert_eq!(cleaned.data, [1, 1, 1, 0, 0, 2, 2, 0, 2, 0]);
    // The pickle has the same effect; a file without steps copies.
    for (file, out) in [("pred/postprocessing.pkl", "by_pickle"), ("none.json", "copied")] {
        fs::write(at("none.json"), r#"{"steps": []}"#).expect("written");
        let (code, _, stderr) =
            run(&["postprocess", "-i", &text("pred"), "-o", &text(out), "--file", &text(file)]);
        assert_eq!(code, 0, "{stderr}");
    }
    assert_eq!(bytes(&at("by_pickle/a.nii.gz")), bytes(&at("pred/postprocessed/a.nii.gz")));
    let copied = nifti::read_labels(&at("copied/a.nii.gz")).expect("labels");
    assert_eq!(copied.data, [1, 1, 1, 0, 1, 2, 2, 0, 2, 0]);
    // Two folders without any dataset.json.
    write("simple/a.nii.gz", &[1, 1, 1, 0, 1, 2, 2, 0, 2, 0]);
    let line = ["evaluate", &text("gt"), &text("simple"), "-l", "1", "2", "-o", &text("scores")];
    let (code, _, stderr) = run(&line);
    assert_eq!(code, 0, "{stderr}");
    let summary: Value = serde_json::from_slice(&bytes(&at("scores/summary.json"))).expect("JSON");
    assert_eq!(summary["mean"]["2"]["Dice"], 1.0);
    assert!((summary["mean"]["1"]["Dice"].as_f64().expect("a number") - 6.0 / 7.0).abs() < 1e-12);
}

#[test]
fn info_tells_nnunets_files_and_what_a_file_is_instead() {
    let dir = tempfile::tempdir().expect("a folder");
    let write = |name: &str, content: &str| {
        let path = dir.path().join(name);
        fs::write(&path, content).expect("written");
        path.display().to_string()
    };
    for (name, content, told) in [
        ("splits_final.json", r#"[{"train": ["a", "b"], "val": ["c"]}]"#, "fold 0 | train 2 | val 1"),
        (
            "f.json",
            r#"{"spacings": [[1,1,2],[1,1,4]], "shapes_after_crop": [[4,4,4],[6,4,4]]}"#,
            "1.0, 1.0, 3.0",
        ),
        (
            "s.json",
            r#"{"foreground_mean": {"Dice": NaN}, "mean": {"1": {"Dice": 0.5}}, "metric_per_case": [{}]}"#,
            "class 1 | dice 0.5",
        ),
        (
            "v1.json",
            r#"{"results": {"all": [{}], "mean": {"1": {"Dice": 0.25}}}, "task": "T"}"#,
            "scores of nnU-Net v1",
        ),
        (
            "debug.json",
            r#"{"my_init_kwargs": {}, "torch_version": "2.1", "fold": "0"}"#,
            "attribute torch_version | is 2.1",
        ),
        ("p.json", r#"{"postprocessing_fns": [], "postprocessing_kwargs": []}"#, "number of steps  0"),
        (
            "plans.json",
            r#"{"plans_name": "P", "transpose_forward": [0,1,2], "transpose_backward": [0,1,2], "image_reader_writer": "SimpleITKIO",
                "configurations": {"x": {"patch_size": [8,8,8], "architecture": {"network_class_name": "other.package.Net"}}}}"#,
            "network other.package.Net | patch 8, 8, 8",
        ),
        ("odd.json", r#"{"mine": [1, 2]}"#, "key mine | holds a list of 2"),
        ("w.pth", "version https://git-lfs.github.com/spec/v1\noid sha256:4d\n", "git lfs pull"),
        ("i.nii.gz", "<!DOCTYPE html><title>Sign in</title>", "an HTML page that asks for a login"),
        ("i.nrrd", "NRRD0005\n", "an NRRD image"),
    ] {
        let (code, stdout, stderr) = run(&["info", &write(name, content)]);
        assert_eq!(code, 0, "{name}: {stderr}");
        assert!(stdout.contains(told), "{name}: {stdout}");
    }
    let page = write("page.json", "<html>404</html>");
    let (code, _, stderr) =
        run(&["evaluate", "--ref", &page, "--pred", &page, "-o", &page, "--dataset", &page]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("is an HTML page that says `not found`, not a JSON file") && stderr.contains("hint:"),
        "{stderr}"
    );
}
