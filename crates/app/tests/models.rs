//! `glioseg predict` with model folders as people keep them.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use glioseg_formats::nifti;
use serde_json::{Value, json};
use support::{glioseg, model, numbered, record, run, write_case};

/// A copy of the model that comes along, with these labels and this ending if they are given.
fn model_copy(to: &Path, labels: Option<Value>, ending: &str) -> PathBuf {
    fs::create_dir_all(to.join("fold_0")).expect("a folder");
    for file in ["plans.json", "fold_0/checkpoint_final.pth"] {
        fs::copy(model().join(file), to.join(file)).expect("copied");
    }
    let text = fs::read(model().join("dataset.json")).expect("a description");
    let mut description: Value = serde_json::from_slice(&text).expect("JSON");
    if let Some(labels) = labels {
        description["labels"] = labels;
        description.as_object_mut().expect("an object").remove("regions_class_order");
    }
    description["file_ending"] = ending.into();
    fs::write(to.join("dataset.json"), description.to_string()).expect("written");
    to.into()
}

/// Exit code and stderr of a prediction without mirroring.
fn predict(models: &[&Path], input: &Path, out: &Path, more: &[&str]) -> (i32, String) {
    let paths: Vec<String> =
        models.iter().copied().chain([input, out]).map(|p| p.display().to_string()).collect();
    let (models, places) = paths.split_at(models.len());
    let mut arguments = vec!["predict", "--no-mirroring", "-i", &places[0], "-o", &places[1], "-m"];
    arguments.extend(models.iter().map(String::as_str));
    arguments.extend(more);
    let (code, _, stderr) = run(&arguments);
    (code, stderr)
}

fn input(dir: &Path) -> PathBuf {
    let input = dir.join("in");
    fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "one"), 2);
    input
}

#[test]
fn copies_of_folds_are_left_out_and_any_checkpoint_can_be_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, folder) = (input(dir.path()), model_copy(&dir.path().join("m"), None, ".nii.gz"));
    let checkpoint = folder.join("fold_0/checkpoint_final.pth");
    for stray in ["fold_0 (copy)", "fold_2_v1"] {
        fs::create_dir(folder.join(stray)).expect("a folder");
        fs::copy(&checkpoint, folder.join(stray).join("checkpoint_final.pth")).expect("copied");
    }
    let out = dir.path().join("out");
    let (code, stderr) = predict(&[&folder], &input, &out, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("are left out: fold_0 (copy), fold_2_v1"), "{stderr}");
    assert_eq!(
        record(&out)["models"][0]["folds"].as_object().map(serde_json::Map::len),
        Some(1),
        "{}",
        record(&out)
    );

    fs::rename(&checkpoint, folder.join("fold_0/checkpoint_latest.pth")).expect("renamed");
    let (code, stderr) = predict(&[&folder], &input, &dir.path().join("none"), &[]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("with --checkpoint: checkpoint_latest.pth"), "{stderr}");
    let (code, stderr) =
        predict(&[&folder], &input, &dir.path().join("latest"), &["--checkpoint", "checkpoint_latest"]);
    assert_eq!(code, 0, "{stderr}");
    let same = |folder: &str| fs::read(dir.path().join(folder).join("one.nii.gz")).expect("a label map");
    assert_eq!(same("out"), same("latest"));
}

#[test]
fn softmax_models_with_swapped_labels_are_not_averaged() {
    let dir = tempfile::tempdir().expect("a folder");
    let input = input(dir.path());
    let plain = |name: &str, labels: Value| model_copy(&dir.path().join(name), Some(labels), ".nii.gz");
    let one = plain("a", json!({"background": 0, "edema": 1, "vessel": 2}));
    let other = plain("b", json!({"background": 0, "vessel": 1, "edema": 2}));
    let again = plain("c", json!({"background": 0, "Oedema": 1, "Vessel": 2}));
    let (code, stderr) = predict(&[&one, &other], &input, &dir.path().join("mixed"), &[]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("the labels are 1 edema, 2 vessel in ") && stderr.contains("1 vessel, 2 edema in "),
        "{stderr}"
    );
    let mut saved = vec![];
    for (name, model) in [("pa", &one), ("pb", &other), ("pc", &again)] {
        let out = dir.path().join(name);
        let (code, stderr) = predict(&[model], &input, &out, &["--save-probabilities"]);
        assert_eq!(code, 0, "{stderr}");
        saved.push(out.display().to_string());
    }
    let ensemble = |a: &str, b: &str| {
        let out = dir.path().join("e").display().to_string();
        run(&["ensemble", "-i", a, b, "-o", &out])
    };
    let (code, _, stderr) = ensemble(&saved[0], &saved[1]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("the outputs differ") && stderr.contains("1 vessel, 2 edema"), "{stderr}");
    let (code, _, stderr) = ensemble(&saved[0], &saved[2]);
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn a_dataset_of_plain_nifti_files_gets_plain_nifti_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, folder) = (input(dir.path()), model_copy(&dir.path().join("m"), None, ".nii"));
    for path in numbered(&input, "one") {
        let image = nifti::read_volume(&path).expect("an image");
        nifti::write_volume(&path.with_extension(""), &image).expect("written");
        fs::remove_file(path).expect("removed");
    }
    let out = dir.path().join("out");
    let (code, stderr) = predict(&[&folder], &input, &out, &["--save-probabilities"]);
    assert_eq!(code, 0, "{stderr}");
    let written = fs::read(out.join("one.nii")).expect("a label map");
    assert_eq!(written[..4], 348i32.to_le_bytes(), "not compressed");
    assert!(!out.join("one.nii.gz").exists());
    let description: Value =
        serde_json::from_slice(&fs::read(out.join("dataset.json")).expect("a description")).expect("JSON");
    assert_eq!(description["file_ending"], ".nii");
    // What reads the folder finds them: nothing is left to do, an ensemble and postprocessing write the same kind.
    let (code, stderr) = predict(&[&folder], &input, &out, &["--save-probabilities", "--continue"]);
    assert!(code == 0 && stderr.contains("1 more are finished"), "{stderr}");
    let text = |p: PathBuf| p.display().to_string();
    let (from, mean, post) = (text(out.clone()), dir.path().join("mean"), dir.path().join("post"));
    for arguments in [
        vec!["ensemble".into(), "-i".into(), from.clone(), from.clone(), "-o".into(), text(mean.clone())],
        vec![
            "postprocess".into(),
            "-i".into(),
            from.clone(),
            "-o".into(),
            text(post.clone()),
            "--labels".into(),
            "2023".into(),
        ],
        vec![
            "evaluate".into(),
            "--ref".into(),
            from.clone(),
            "--pred".into(),
            from,
            "-o".into(),
            text(dir.path().join("scores")),
        ],
    ] {
        let output =
            glioseg(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).output().expect("started");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(mean.join("one.nii").is_file() && post.join("one.nii").is_file());
}

#[test]
fn every_command_knows_the_codings_by_their_challenges() {
    let dir = tempfile::tempdir().expect("a folder");
    let input = input(dir.path());
    let out = dir.path().join("out");
    let (code, stderr) =
        predict(&[&model()], &input, &out, &["--labels", "brats2021", "--save-probabilities"]);
    assert_eq!(code, 0, "{stderr}");
    let description = fs::read_to_string(out.join("dataset.json")).expect("a description");
    let description: Value = serde_json::from_str(&description).expect("JSON");
    assert_eq!(description["labels"]["enhancing tumor"], json!([4]));
    let [predicted, post, mean, scores] =
        ["out", "post", "mean", "scores"].map(|name| dir.path().join(name).display().to_string());
    for arguments in [
        vec!["postprocess", "-i", &predicted, "-o", &post, "--labels", "BraTS2023"],
        vec!["ensemble", "-i", &predicted, &predicted, "-o", &mean, "--labels", "1-2-3"],
        vec![
            "evaluate",
            "--ref",
            &predicted,
            "--pred",
            &post,
            "-o",
            &scores,
            "--labels",
            "2022",
            "--pred-labels",
            "brats2023",
        ],
    ] {
        let (code, _, stderr) = run(&arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
    }
    for command in ["postprocess", "ensemble"] {
        let (code, _, stderr) = run(&[command, "-i", &predicted, "-o", &post, "--labels", "brats2012"]);
        assert!(code == 2 && stderr.contains("brats2018 to brats2022"), "{command}: {stderr}");
    }
}
