//! Both stages of a cascade against nnU-Net's own predictions (`fixtures/cascade`), and what is refused.

use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::{nifti, npz};
use glioseg_infer::model::{CheckpointChoice, Folds, Model};
use glioseg_infer::{
    Batch, CaseImages, Event, InferError, PredictOptions, PredictSummary, Predictor, Watch, predict,
    previous_model,
};
use glioseg_plan::record::Record;

const SECOND: &str = "nnUNetTrainer__nnUNetPlans__3d_cascade_fullres";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/cascade").join(name)
}

fn images() -> PathBuf {
    fixture("raw/Dataset007_Tiny/imagesTs")
}

fn model(path: &Path) -> Model {
    Model::open(path, &Folds::Found, &CheckpointChoice::Final).expect("a model")
}

fn options() -> PredictOptions {
    PredictOptions { save_probabilities: true, ..PredictOptions::default() }
}

fn run(model: &Path, input: &[PathBuf], previous: Option<&Path>, out: &Path) -> PredictSummary {
    let batch = Batch { previous, ..Batch::new(input, out) };
    predict(&[model.to_owned()], options(), &batch, &|_: Event<'_>| {}).expect("a prediction")
}

fn probabilities(path: &Path) -> (Vec<f32>, Vec<usize>) {
    let mut archive = npz::Archive::open(path).expect("an npz");
    let mut array = archive.array("probabilities").expect("the array");
    let shape = array.shape().to_vec();
    let mut values = vec![0.0; shape.iter().product()];
    array.read(&mut values).expect("all values");
    (values, shape)
}

/// Labels equal at 99.9 % of voxels; probabilities, whose reference is saved in half precision, within 2e-3 at 99.9 % and 2e-4 on
/// average: sums are rounded to half precision tile by tile.
fn assert_as_nnunet(out: &Path, reference: &Path, case: &str) {
    let label = |folder: &Path| nifti::read_labels(&folder.join(format!("{case}.nii.gz"))).expect("labels");
    let (ours, theirs) = (label(out), label(reference));
    let different = ours.data.iter().zip(&theirs.data).filter(|(a, b)| a != b).count();
    assert!(different <= ours.data.len() / 1000, "{case}: {different} labels of {}", ours.data.len());
    let npz = reference.join(format!("{case}.npz"));
    if !npz.exists() {
        return;
    }
    let ((theirs, their_shape), (ours, shape)) =
        (probabilities(&npz), probabilities(&out.join(format!("{case}.npz"))));
    assert_eq!(shape, their_shape, "{case}");
    let errors: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| f64::from((a - b).abs())).collect();
    let far = errors.iter().filter(|&&e| e > 2e-3).count();
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    assert!(far <= errors.len() / 1000, "{case}: {far} of {} beyond 2e-3", errors.len());
    assert!(mean <= 2e-4, "{case}: mean difference {mean}");
}

#[test]
fn the_second_stage_from_a_folder_of_the_first_ones_predictions_equals_nnunet() {
    let out = tempfile::tempdir().expect("a folder");
    let previous = fixture("first");
    let summary = run(&fixture("models").join(SECOND), &[images()], Some(&previous), out.path());
    assert_eq!(summary, PredictSummary { done: 2, ..PredictSummary::default() });
    for case in ["case_5", "case_6"] {
        assert_as_nnunet(out.path(), &fixture("second"), case);
    }
    let record = Record::read(out.path()).expect("whole").expect("a record");
    assert_eq!(record.settings.expect("settings").previous_stage, Some(previous));
}

#[test]
fn both_stages_after_each_other_equal_nnunet() {
    let dir = tempfile::tempdir().expect("a folder");
    let second = fixture("models").join(SECOND);
    let first = previous_model(&[model(&second)], None).expect("a first stage").expect("a folder");
    assert!(first.ends_with("nnUNetTrainer__nnUNetPlans__3d_lowres"), "{}", first.display());
    run(&first, &[images()], None, &dir.path().join("first"));
    run(&second, &[images()], Some(&dir.path().join("first")), &dir.path().join("second"));
    for case in ["case_5", "case_6"] {
        assert_as_nnunet(&dir.path().join("first"), &fixture("first"), case);
        assert_as_nnunet(&dir.path().join("second"), &fixture("second"), case);
    }
}

/// The network reads one channel per label inside the regions and none for the ignore label, and what the first stage labelled
/// outside the non-zero region counts for the normalisation.
#[test]
fn a_second_stage_with_regions_and_an_ignore_label_equals_nnunet() {
    let out = tempfile::tempdir().expect("a folder");
    let path = fixture("regions").join(SECOND);
    assert_eq!(model(&path).network.in_channels, 2 + 3);
    let files: Vec<PathBuf> = (0..2).map(|c| images().join(format!("case_5_{c:04}.nii.gz"))).collect();
    run(&path, &files, Some(&fixture("regions/previous")), out.path());
    assert_as_nnunet(out.path(), &fixture("regions/predicted"), "case_5");
}

#[test]
fn a_case_in_memory_gives_the_bytes_of_the_same_case_in_files() {
    let out = tempfile::tempdir().expect("a folder");
    let path = fixture("models").join(SECOND);
    run(&path, &[images()], Some(&fixture("first")), out.path());
    let files: Vec<PathBuf> = (0..2).map(|c| images().join(format!("case_6_{c:04}.nii.gz"))).collect();
    let (image, _) = nifti::read_stack_along(&files, None).expect("an image");
    let previous = nifti::read_labels(&fixture("first/case_6.nii.gz")).expect("labels");
    let predictor = Predictor::open(&[path], options()).expect("a predictor");
    let found = predictor
        .predict(CaseImages::new("x", image.clone()).with_previous(previous.clone()), &Watch::default())
        .expect("a prediction");
    assert_eq!(
        found.labels.data,
        nifti::read_labels(&out.path().join("case_6.nii.gz")).expect("labels").data
    );

    let refused = |case: CaseImages| predictor.prepare(case).expect_err("refused").to_string();
    let text = refused(CaseImages::new("x", image.clone()));
    assert!(text.contains("is missing; the network reads that of `3d_lowres`"), "{text}");
    let mut wrong = previous.clone();
    wrong.data[0..3].fill(4);
    let text = refused(CaseImages::new("x", image.clone()).with_previous(wrong));
    assert!(text.contains("labels that the model does not know: 4 (3 voxels); it knows 0, 1, 2"), "{text}");
    let other = nifti::read_labels(&fixture("first/case_5.nii.gz")).expect("labels");
    let text = refused(CaseImages::new("x", image).with_previous(other));
    assert!(text.contains("has shape [26, 28, 16], but the image [28, 26, 15]"), "{text}");
}

#[test]
fn what_is_missing_is_told_with_its_remedy() {
    let dir = tempfile::tempdir().expect("a folder");
    let (second, first) =
        (fixture("models").join(SECOND), fixture("models/nnUNetTrainer__nnUNetPlans__3d_lowres"));
    let out = dir.path().join("out");
    let start = |model: &Path, previous: Option<&Path>| {
        let input = [images()];
        let batch = Batch { previous, ..Batch::new(&input, &out) };
        predict(&[model.to_owned()], options(), &batch, &|_: Event<'_>| {})
    };
    let error = start(&second, None).expect_err("no previous stage");
    assert!(error.hint().expect("a hint").contains("--prev-stage"), "{error}");
    let error = start(&first, Some(&fixture("first"))).expect_err("not a cascade");
    assert!(matches!(error, InferError::NoLaterStage), "{error}");
    assert!(!out.exists(), "nothing was started");

    // Alone, without its first stage next to it.
    let alone = dir.path().join(SECOND);
    std::fs::create_dir_all(alone.join("fold_0")).expect("a folder");
    for name in ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"] {
        std::fs::copy(second.join(name), alone.join(name)).expect("copied");
    }
    let error = previous_model(&[model(&alone)], None).expect_err("no model next to it");
    assert!(error.to_string().contains("3d_lowres is not a model"), "{error}");
    assert_eq!(previous_model(&[model(&alone)], Some(&first)).expect("given"), Some(first.clone()));
    let error =
        previous_model(&[model(&alone), model(&second)], None).expect_err("no first stage next to it");
    assert!(matches!(error, InferError::NoPreviousStage { .. }), "{error}");
    assert!(matches!(previous_model(&[model(&first)], Some(&first)), Err(InferError::NoLaterStage)));

    // One case has no file; the other is predicted.
    let part = dir.path().join("part");
    std::fs::create_dir(&part).expect("a folder");
    std::fs::copy(fixture("first/case_5.nii.gz"), part.join("case_5.nii.gz")).expect("copied");
    let summary = start(&second, Some(&part)).expect("a prediction");
    assert_eq!((summary.done, summary.failed), (1, 1));
    let record = Record::read(&out).expect("whole").expect("a record");
    let failed = record.cases.iter().find(|c| c.case == "case_6").expect("in the record");
    let text = failed.error.clone().expect("an error");
    assert!(text.contains("the segmentation of the previous stage `3d_lowres` is missing"), "{text}");

    // Label maps of another coding.
    let description = std::fs::read_to_string(second.join("dataset.json")).expect("read");
    let swapped = description.replace("\"outer\": 1", "\"outer\": 2").replace("\"inner\": 2", "\"inner\": 1");
    assert_ne!(description, swapped);
    std::fs::write(part.join("dataset.json"), swapped).expect("written");
    assert!(matches!(start(&second, Some(&part)), Err(InferError::PreviousLabels { .. })));
}
