//! What the first stage of a cascade leaves for the second, and the second's validation, against nnU-Net's (`fixtures/cascade`).

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::label_array::{self, LabelArray};
use glioseg_formats::nifti;
use glioseg_infer::convert::convert;
use glioseg_plan::{Plans, RawDataset};
use glioseg_prep::store::{PrepareOptions, prepare_dataset};
use glioseg_train::{FoldChoice, Places, Settings, Setup, TrainError, TrainOptions, TrainOutcome, train};

const SECOND: &str = "3d_cascade_fullres";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/cascade").join(name)
}

/// The dataset, prepared for both stages, and nnU-Net's trained models as if they were trained here.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().expect("a folder") };
        let pre = place.path("pre");
        std::fs::create_dir(&pre).expect("a folder");
        for (from, to) in [("plans.json", "nnUNetPlans.json"), ("splits_final.json", "splits_final.json")] {
            std::fs::copy(fixture(from), pre.join(to)).expect("copied");
        }
        let dataset = RawDataset::open(&fixture("raw/Dataset007_Tiny")).expect("a dataset");
        let plans = Plans::read(&pre.join("nnUNetPlans.json")).expect("plans");
        for name in ["3d_lowres", SECOND] {
            let configuration = plans.configuration(name).expect("a configuration");
            let folder = pre.join(&configuration.data_identifier);
            let options = PrepareOptions::default();
            let summary = prepare_dataset(&dataset, &plans, &configuration, &folder, options, &|_| {});
            assert_eq!(summary.expect("prepared").cases.len(), 5, "{name}");
            let model = format!("nnUNetTrainer__nnUNetPlans__{name}");
            convert(&fixture("models").join(&model), &place.path("results").join(&model), &mut |_| {})
                .expect("converted");
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Where the first stage leaves its segmentations.
    fn next_stage(&self, name: &str) -> PathBuf {
        self.path("results/nnUNetTrainer__nnUNetPlans__3d_lowres/predicted_next_stage")
            .join(SECOND)
            .join(name)
    }

    fn setup(&self, configuration: &str) -> Result<Setup, TrainError> {
        let places = Places {
            dataset: fixture("raw/Dataset007_Tiny"),
            preprocessed: self.path("pre"),
            results: self.path("results"),
            plans: "nnUNetPlans".to_owned(),
            configuration: configuration.to_owned(),
        };
        let settings = Settings { epochs: 1, iterations: 3, val_iterations: 1, ..Settings::default() };
        Setup::new(&places, FoldChoice::Number(0), &settings)
    }

    fn run(&self, configuration: &str, options: &TrainOptions) {
        let setup = self.setup(configuration).expect("a set-up");
        let trained = train(&setup, options, &AtomicBool::new(false), &mut |_| {}).expect("trained");
        assert_eq!(trained.outcome, TrainOutcome::Finished);
    }

    /// Only the validation, since the final checkpoint is there.
    fn validate(&self, configuration: &str) {
        self.run(configuration, &TrainOptions { resume: true, ..TrainOptions::default() });
    }

    /// nnU-Net's segmentations for the second stage, of all folds.
    fn take_nnunets(&self) {
        let folder = self.next_stage("");
        std::fs::create_dir_all(&folder).expect("a folder");
        for entry in std::fs::read_dir(fixture("next_stage")).expect("a folder").flatten() {
            std::fs::copy(entry.path(), folder.join(entry.file_name())).expect("copied");
        }
    }

    /// The held-out case of the validation differs from nnU-Net's in at most 0.1 % of the voxels.
    fn assert_validated_as_nnunet(&self, configuration: &str) {
        let model = format!("results/nnUNetTrainer__nnUNetPlans__{configuration}/fold_0/validation");
        let labels =
            |folder: PathBuf| nifti::read_labels(&folder.join("case_0.nii.gz")).expect("labels").data;
        let (ours, theirs) = (labels(self.path(&model)), labels(fixture("validation").join(configuration)));
        let different = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
        assert!(different <= ours.len() / 1000, "{configuration}: {different} of {}", ours.len());
    }
}

#[test]
fn both_stages_validate_as_nnunet_and_the_first_leaves_what_the_second_reads() {
    let place = Place::new();
    place.validate("3d_lowres");
    place.assert_validated_as_nnunet("3d_lowres");

    let ours = LabelArray::open(&place.next_stage("case_0.npy")).expect("an array");
    let theirs = LabelArray::open(&fixture("next_stage/case_0.npy")).expect("nnU-Net's array");
    assert_eq!(ours.shape(), theirs.shape());
    let (ours, theirs) = (ours.read_all().expect("labels"), theirs.read_all().expect("labels"));
    let different = ours.iter().zip(&theirs).filter(|(a, b)| a != b).count();
    assert!(different <= ours.len() / 1000, "{different} of {}", ours.len());
    assert!(ours.contains(&1) && ours.contains(&2));

    // The other folds are not validated here.
    let error = place.setup(SECOND).expect_err("four cases are missing");
    let text = error.to_string();
    assert!(text.starts_with("4 of 5 cases have no segmentation of the stage `3d_lowres`"), "{text}");
    let TrainError::NoPreviousStage { first, fold, .. } = &error else { panic!("{error}") };
    let hint = error.hint().expect("a hint");
    let command = format!("glioseg train DATASET -c 3d_lowres -f {}", fold.expect("a fold"));
    assert!(hint.contains(&command) && hint.contains(&format!("{first}.npy")), "{hint}");

    place.take_nnunets();
    place.validate(SECOND);
    place.assert_validated_as_nnunet(SECOND);
}

#[test]
fn the_second_stage_trains_on_what_the_first_left() {
    let place = Place::new();
    place.take_nnunets();
    assert_eq!(place.setup(SECOND).expect("a set-up").network.in_channels, 4);
    let options = TrainOptions { overwrite: true, ..TrainOptions::default() };
    place.run(SECOND, &options);
    let folder = place.path("results").join(format!("nnUNetTrainer__nnUNetPlans__{SECOND}/fold_0"));
    let weights = || std::fs::read(folder.join("checkpoint_final.safetensors")).expect("weights");
    let first = weights();
    // What the first stage says decides the weights.
    let mut shape = [0; 3];
    for number in 1..5 {
        let path = place.next_stage(&format!("case_{number}.npy"));
        shape = LabelArray::open(&path).expect("an array").shape();
        let empty = vec![0; shape.iter().product()];
        label_array::write(&path, shape, &empty).expect("written");
    }
    place.run(SECOND, &options);
    assert_ne!(weights(), first);

    // A segmentation of another grid.
    let case = place.next_stage("case_4.npy");
    let [z, y, x] = shape;
    label_array::write(&case, [z + 1, y, x], &vec![0; (z + 1) * y * x]).expect("written");
    let text = place.setup(SECOND).expect_err("another grid").to_string();
    assert!(text.starts_with("case `case_4`: the segmentation of the previous stage has"), "{text}");
    // nnU-Net's own file alone.
    std::fs::rename(&case, case.with_extension("b2nd")).expect("renamed");
    let text = place.setup(SECOND).expect_err("not readable").to_string();
    assert!(text.contains("1 of 5 cases") && text.contains(".b2nd"), "{text}");
}

#[test]
fn what_is_left_for_the_next_stage_is_made_again_only_where_it_must_be() {
    let place = Place::new();
    place.validate("3d_lowres");
    let file = place.next_stage("case_0.npy");
    let written = || std::fs::metadata(&file).and_then(|m| m.modified());
    let before = written().expect("there");
    place.validate("3d_lowres");
    assert_eq!(written().expect("there"), before);
    std::fs::remove_file(&file).expect("removed");
    place.validate("3d_lowres");
    let bytes = std::fs::read(&file).expect("made again");
    // Another network.
    place.run("3d_lowres", &TrainOptions { overwrite: true, ..TrainOptions::default() });
    assert_ne!(std::fs::read(&file).expect("made again"), bytes);
}
