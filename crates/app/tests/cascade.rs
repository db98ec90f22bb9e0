//! The second stage of a cascade as a user predicts with it: in one command, or from the first stage's label maps.

mod support;

use std::path::{Path, PathBuf};

use support::{copy_folder, record, run};

const SECOND: &str = "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/cascade").join(name)
}

fn predict(model: &Path, out: &Path, more: &[&str]) -> (i32, String, String) {
    let [model, input, out] =
        [model, &fixture("raw/Dataset007_Tiny/imagesTs"), out].map(|path| path.display().to_string());
    let mut arguments = vec!["predict", "-m", &model, "-i", &input, "-o", &out];
    arguments.extend(more);
    run(&arguments)
}

#[test]
fn one_command_gives_what_two_give_and_says_it_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let (model, both) = (fixture("models").join(SECOND), dir.path().join("both"));
    let (code, out, log) = predict(&model, &both, &[]);
    assert_eq!(code, 0, "{log}");
    assert_eq!(out.lines().count(), 2, "{out}");
    assert!(log.contains("first stage of the cascade | ") && log.contains("second stage"), "{log}");
    let previous = both.join("previous_stage");
    assert_eq!(record(&both)["settings"]["previous_stage"], previous.display().to_string());

    let alone = dir.path().join("alone");
    let (code, _, log) = predict(&model, &alone, &["--prev-stage", &previous.display().to_string()]);
    assert_eq!(code, 0, "{log}");
    let bytes = |folder: &Path| std::fs::read(folder.join("case_5.nii.gz")).expect("labels");
    assert_eq!(bytes(&alone), bytes(&both));
    assert!(!alone.join("previous_stage").exists());

    // Only what is missing is done again.
    std::fs::remove_file(both.join("case_5.nii.gz")).expect("removed");
    let (code, out, log) = predict(&model, &both, &["--continue"]);
    assert_eq!((code, out.lines().count()), (0, 1), "{log}");
    assert!(
        log.contains("0 done, 0 failed, 2 skipped") && log.contains("1 done, 0 failed, 1 skipped"),
        "{log}"
    );
    assert_eq!(bytes(&both), bytes(&alone));
}

#[test]
fn both_stages_are_cross_validated_in_their_order_and_predict_together() {
    let dir = tempfile::tempdir().expect("a folder");
    let text = |name: &str| dir.path().join(name).display().to_string();
    let dataset = text("Dataset007_Tiny");
    copy_folder(&fixture("raw/Dataset007_Tiny"), Path::new(&dataset));
    std::fs::create_dir(text("pre")).expect("a folder");
    std::fs::copy(fixture("plans.json"), text("pre/nnUNetPlans.json")).expect("copied");
    let crossval = |more: &[&str]| {
        let (pre, out) = (text("pre"), text("results"));
        let mut arguments = vec!["crossval", &dataset, "--preprocessed", &pre, "-o", &out];
        arguments.extend(["--epochs", "1", "--iterations", "1", "--val-iterations", "1", "--batch", "2"]);
        arguments.extend(more);
        run(&arguments)
    };
    let both = ["-c", "3d_lowres,3d_cascade_fullres"];
    // The second stage trains on all cases, and each needs the first stage that has not seen it.
    let (code, _, log) = crossval(&[both[0], both[1], "--folds", "0,1"]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("3 of 5 cases have no segmentation of the stage `3d_lowres`"), "{log}");
    let (code, printed, log) = crossval(&both);
    assert_eq!(code, 0, "{log}");
    for line in ["3d_lowres | mean", "\n3d_cascade_fullres | mean", "\n3d_lowres + 3d_cascade_fullres | mean"]
    {
        assert!(printed.contains(line), "{line}: {printed}");
    }
    let next = "results/nnUNetTrainer__nnUNetPlans__3d_lowres/predicted_next_stage/3d_cascade_fullres";
    assert_eq!(std::fs::read_dir(text(next)).expect("the first stage's answers").count(), 5);
    let models = ["3d_lowres", "3d_cascade_fullres"]
        .map(|c| text(&format!("results/nnUNetTrainer__nnUNetPlans__{c}")));
    let (input, out) = (fixture("raw/Dataset007_Tiny/imagesTs").display().to_string(), text("out"));
    let (code, printed, log) =
        run(&["predict", "-m", &models[0], &models[1], "-f", "0,1,2,3,4", "-i", &input, "-o", &out]);
    assert_eq!((code, printed.lines().count()), (0, 2), "{log}");
}

#[test]
fn a_second_stage_without_its_first_names_the_remedies() {
    let dir = tempfile::tempdir().expect("a folder");
    let model = dir.path().join(SECOND);
    copy_folder(&fixture("models").join(SECOND), &model);
    let out = dir.path().join("out");
    let (code, _, log) = predict(&model, &out, &[]);
    assert_eq!(code, 2, "{log}");
    for part in ["needs the segmentations of `3d_lowres`", "--prev-stage-model", "--prev-stage"] {
        assert!(log.contains(part), "{log}");
    }
    let first = fixture("models/nnUNetTrainer__nnUNetPlans__3d_lowres").display().to_string();
    let (code, _, log) = predict(&model, &out, &["--prev-stage-model", &first]);
    assert_eq!(code, 0, "{log}");
    let (code, _, log) = predict(Path::new(&first), &out, &["--prev-stage-model", &first]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("no model is a later stage of a cascade"), "{log}");
}
