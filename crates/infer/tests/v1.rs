//! Models of nnU-Net v1 as the BraTS 2021 winner's fork wrote them: networks, preprocessing and predictions.

use std::path::Path;
use std::sync::Arc;

use glioseg_formats::nifti;
use glioseg_infer::convert::convert;
use glioseg_infer::model::{CheckpointChoice, Folds, Model};
use glioseg_infer::{Batch, Event, PostprocessingChoice, PredictOptions, PredictSummary, predict};
use glioseg_interop::read_pickle_file;
use glioseg_net::{Checkpoint, EngineChoice, Mode, Parameters, Program};
use glioseg_prep::{PreparedCase, preprocess_case, preprocess_training_case};
use glioseg_volume::testing::{assert_close, relative_l2, shared_data};

fn open(folder: &Path) -> Model {
    Model::open(folder, &Folds::Found, &CheckpointChoice::Final).expect("a model")
}

/// An array of an npz and its shape.
fn array(path: &Path, key: &str) -> (Vec<f32>, Vec<usize>) {
    let file = std::fs::File::open(path).expect("an npz");
    let mut zip = zip::ZipArchive::new(file).expect("a zip");
    let entry = zip.by_name(&format!("{key}.npy")).expect("the array");
    let array = npyz::NpyFile::new(entry).expect("an npy");
    let shape = array.shape().iter().map(|&n| n as usize).collect();
    let values = match array.try_data::<f32>() {
        Ok(data) => data.map(|v| v.expect("f32")).collect(),
        Err(array) => match array.try_data::<half::f16>() {
            Ok(data) => data.map(|v| v.expect("f16").to_f32()).collect(),
            Err(array) => array.into_vec::<i8>().expect("i8").into_iter().map(f32::from).collect(),
        },
    };
    (values, shape)
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn every_network_answers_as_the_winners_own() {
    let golden = shared_data("golden/v1");
    let mut engine = EngineChoice::default().start().expect("an engine");
    let file = Checkpoint::open(golden.join("forward.safetensors")).expect("reference");
    for (name, input, heads) in [
        ("BL", [24, 32, 40], 3),
        ("BL_L", [24, 32, 40], 3),
        ("BL_GN", [24, 32, 40], 1),
        ("BL_L_GN", [24, 32, 40], 1),
        ("BL_AA", [24, 32, 40], 3),
        ("BL_ANISO", [12, 32, 40], 2),
    ] {
        let model = open(&golden.join(name));
        assert_eq!(model.tile(), input, "{name}");
        let mut weights = Parameters::zeros(&model.network).expect("a network");
        let checkpoint = Checkpoint::open(&model.folds[0].checkpoint).expect("weights");
        weights.load_checkpoint(&checkpoint).expect("its weights");
        let [z, y, x] = input;
        let values = file.read(&format!("input.{z}x{y}x{x}")).expect("input");
        engine
            .prepare(&Program::new(&model.network, 1, input, Mode::Evaluate).expect("a program"))
            .expect("memory");
        engine.load(Arc::new(weights)).expect("weights");
        let answers = engine.forward(&values).expect("an answer").heads;
        assert_eq!(answers.len(), heads, "{name}");
        for (i, ours) in answers.into_iter().enumerate() {
            let distance = relative_l2(ours, &file.read(&format!("{name}.out.{i}")).expect("output"));
            assert!(distance < 1e-5, "{name}, head {i}: {distance}");
        }
    }
}

fn prepare(model: &Model, images: &Path, case: &str) -> PreparedCase {
    let files: Vec<_> = (0..4).map(|c| images.join(format!("{case}_000{c}.nii.gz"))).collect();
    let (volume, _) = nifti::read_stack(&files).expect("the channels");
    preprocess_case(volume, &model.plans, &model.configuration).expect("a case")
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn cases_are_prepared_in_version_1s_order() {
    let golden = shared_data("golden/v1");
    let raw = golden.join("../pipeline/iso/raw");
    let (bl, masked) = (open(&golden.join("BL")), open(&golden.join("masked/BL")));
    assert_eq!(masked.folds[0].name, "all");
    for (model, images, case, reference) in [
        (&bl, raw.join("imagesTs"), "case_03", "preprocessed/test_case_03"),
        (&masked, golden.join("masked/raw/imagesTs"), "case_07", "masked/preprocessed/test_case_07"),
        (&bl, golden.join("other_grids/raw"), "oblique", "other_grids/preprocessed/oblique"),
        (&bl, golden.join("other_grids/raw"), "thick", "other_grids/preprocessed/thick"),
    ] {
        let ours = prepare(model, &images, case);
        let (theirs, shape) = array(&golden.join(format!("{reference}.npz")), "data");
        assert_eq!(shape, [&[4], &ours.shape[..]].concat(), "{case}");
        assert_close(&ours.data, &theirs, 1e-4, reference);
    }
    for (model, raw, case, reference) in [
        (&bl, raw, "case_02", "preprocessed/case_02"),
        (&masked, golden.join("masked/raw"), "case_05", "masked/preprocessed/case_05"),
    ] {
        let files: Vec<_> = (0..4).map(|c| raw.join(format!("imagesTr/{case}_000{c}.nii.gz"))).collect();
        let (volume, _) = nifti::read_stack(&files).expect("the channels");
        let seg = nifti::read_labels(&raw.join(format!("labelsTr/{case}.nii.gz"))).expect("labels");
        let ours = preprocess_training_case(
            volume,
            &seg.data,
            &model.dataset.labels,
            &model.plans,
            &model.configuration,
        )
        .expect("a case");
        let (theirs, shape) = array(&golden.join(format!("{reference}.npz")), "data");
        assert_eq!(shape, [&[5], &ours.case.shape[..]].concat(), "{case}");
        let (data, labels) = theirs.split_at(ours.case.data.len());
        assert_close(&ours.case.data, data, 1e-4, reference);
        let different = ours.seg.iter().zip(labels).filter(|(a, b)| i32::from(**a) != **b as i32).count();
        assert_eq!(different, 0, "{case}: labels");
        let classes: Vec<_> = ours.class_locations.iter().map(|c| c.labels.clone()).collect();
        assert_eq!(classes, [[1], [2], [3]], "{case}");
    }
}

fn options(mirroring: bool) -> PredictOptions {
    PredictOptions {
        mirroring,
        postprocessing: PostprocessingChoice::Nothing,
        save_probabilities: true,
        ..PredictOptions::default()
    }
}

/// All numbers of nested lists.
fn numbers(json: &serde_json::Value) -> Vec<f64> {
    match json {
        serde_json::Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().expect("a number")],
    }
}

/// Predicts cases of the folder `images` and compares with what the fork wrote: labels at 99.99 % of the voxels, probabilities
/// at 5e-4, and the place of the box.
fn compare(golden: &Path, models: &[&str], images: &str, cases: &[&str], reference: &str, mirroring: bool) {
    let models: Vec<_> = models.iter().map(|m| golden.join(m)).collect();
    let file = |case: &str, channel: usize| golden.join(images).join(format!("{case}_000{channel}.nii.gz"));
    let files: Vec<_> = cases.iter().flat_map(|case| (0..4).map(|c| file(case, c))).collect();
    let out = tempfile::tempdir().expect("a folder");
    let batch = Batch::new(&files, out.path());
    let done = predict(&models, options(mirroring), &batch, &|_: Event<'_>| {}).expect("a prediction");
    let reference = golden.join(reference);
    assert_eq!(done, PredictSummary { done: cases.len(), ..PredictSummary::default() });
    for case in cases {
        let at = |folder: &Path, ending: &str| folder.join(format!("{case}.{ending}"));
        let ours = nifti::read_labels(&at(out.path(), "nii.gz")).expect("ours");
        let theirs = nifti::read_labels(&at(&reference, "nii.gz")).expect("theirs");
        assert_eq!(ours.geometry.shape, theirs.geometry.shape, "{case}");
        let different = ours.data.iter().zip(&theirs.data).filter(|(a, b)| a != b).count();
        assert!(
            different <= ours.data.len() / 10_000,
            "{} {case}: {different} of {}",
            reference.display(),
            ours.data.len()
        );
        let properties = read_pickle_file(&at(out.path(), "pkl")).expect("our properties");
        let expected = read_pickle_file(&at(&reference, "pkl")).expect("their properties");
        // An ensemble of version 1 keeps a list with one entry per model.
        let expected = expected.as_list().map_or(expected.clone(), |list| list[0].clone());
        for key in
            ["crop_bbox", "original_size_of_raw_data", "size_after_resampling", "itk_direction", "itk_origin"]
        {
            let [ours, theirs] = [&properties, &expected].map(|v| numbers(&v.get(key).expect(key).to_json()));
            assert_eq!(ours.len(), theirs.len(), "{case}: {key}");
            let close = ours.iter().zip(&theirs).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(close, "{case}: {key}: {ours:?} {theirs:?}");
        }
        if at(&reference, "npz").is_file() {
            let (ours, shape) = array(&at(out.path(), "npz"), "softmax");
            let (theirs, their_shape) = array(&at(&reference, "npz"), "softmax");
            assert_eq!(shape, their_shape, "{case}");
            assert_close(&ours, &theirs, 5e-4, &format!("{} {case}", reference.display()));
        }
    }
}

const RAW: &str = "../pipeline/iso/raw/imagesTs";
const BOTH: &[&str] = &["case_03", "case_07"];

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn predictions_with_mirroring_equal_the_winners() {
    let golden = shared_data("golden/v1");
    compare(&golden, &["BL"], RAW, BOTH, "predicted/BL", true);
    for name in ["BL_L", "BL_GN", "BL_AA"] {
        compare(&golden, &[name], RAW, &["case_03"], &format!("predicted/{name}"), true);
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn predictions_without_mirroring_equal_the_winners() {
    let golden = shared_data("golden/v1");
    for name in ["BL", "BL_L", "BL_GN", "BL_L_GN", "BL_AA"] {
        compare(&golden, &[name], RAW, BOTH, &format!("predicted/{name}_no_mirroring"), false);
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn masked_and_other_grids_equal_the_winners() {
    let golden = shared_data("golden/v1");
    compare(&golden, &["masked/BL"], "masked/raw/imagesTs", &["case_07"], "masked/predicted", true);
    compare(&golden, &["BL"], "other_grids/raw", &["oblique", "thick"], "other_grids/predicted", true);
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn several_models_are_combined_as_nnunet_ensemble_does() {
    let golden = shared_data("golden/v1");
    compare(&golden, &["BL", "BL_L_GN"], RAW, &["case_03"], "ensemble", true);
}

/// Every file that both folders have under the same name, but for the record, is the same bytes.
fn same_files(a: &Path, b: &Path) -> usize {
    let names = std::fs::read_dir(a).expect("a folder").flatten().map(|e| e.file_name());
    let mut compared = 0;
    for name in names.filter(|n| n != "predict.json") {
        let [a, b] = [a, b].map(|folder| std::fs::read(folder.join(&name)).expect("a file"));
        assert!(a == b, "{} differs", name.display());
        compared += 1;
    }
    compared
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn a_converted_model_predicts_the_same_bytes() {
    let golden = shared_data("golden");
    let images = golden.join("pipeline/iso/raw/imagesTs");
    let files: Vec<_> = (0..4).map(|c| images.join(format!("case_03_000{c}.nii.gz"))).collect();
    for (name, folds) in [("v1/BL", 2), ("v1/BL_AA", 1), ("v1/masked/BL", 1), ("pipeline/iso/model", 1)] {
        let dir = tempfile::tempdir().expect("a folder");
        let (target, before, after) = (dir.path().join("model"), dir.path().join("a"), dir.path().join("b"));
        let mut told = Vec::new();
        let model = convert(&golden.join(name), &target, &mut |c| told.push(c.clone())).expect(name);
        assert!(told.len() >= folds && model.folds.len() == folds, "{name}: {told:?}");
        assert!(told.iter().all(|c| c.file.extension().is_some_and(|e| e == "safetensors")));
        for (model, out) in [(&golden.join(name), &before), (&target, &after)] {
            let batch = Batch::new(&files, out);
            let done = predict(std::slice::from_ref(model), options(false), &batch, &|_: Event<'_>| {});
            assert_eq!(done.expect(name).done, 1, "{name}");
        }
        assert!(same_files(&before, &after) >= 2, "{name}");
        let again = convert(&golden.join(name), &target, &mut |_| ()).expect_err("there is a model");
        assert!(again.to_string().ends_with("is not empty"), "{again}");
    }
}
