//! Predictions against nnU-Net v2's own, file to file.

use std::path::Path;

use glioseg_formats::nifti;
use glioseg_infer::{Batch, Event, PredictOptions, PredictSummary, predict};
use glioseg_volume::testing::shared_data;

fn options(mirroring: bool) -> PredictOptions {
    PredictOptions { mirroring, save_probabilities: true, ..PredictOptions::default() }
}

/// `probabilities` of an npz, `[output, z, y, x]`, and its shape.
fn probabilities(path: &Path) -> (Vec<f32>, Vec<u64>) {
    let file = std::fs::File::open(path).expect("an npz");
    let mut zip = zip::ZipArchive::new(file).expect("a zip");
    let entry = zip.by_name("probabilities.npy").expect("the array");
    let array = npyz::NpyFile::new(entry).expect("an npy");
    let shape = array.shape().to_vec();
    (array.into_vec::<f32>().expect("f32"), shape)
}

/// Probabilities within 2e-3 at 99.9 % of voxels and 1e-4 on average, labels equal at 99.99 %: sums are rounded to half precision
/// tile by tile, so a last digit of a logit can become the next half number.
fn compare(dataset: &str, mirroring: bool) {
    let golden = shared_data(&format!("golden/pipeline/{dataset}"));
    let out = tempfile::tempdir().expect("a folder");
    let summary = predict(
        &[golden.join("model")],
        options(mirroring),
        &Batch::new(&[golden.join("raw/imagesTs")], out.path()),
        &|_: Event<'_>| {},
    )
    .expect("a prediction");
    assert_eq!(summary, PredictSummary { done: 2, ..PredictSummary::default() });
    let reference = golden.join(if mirroring { "predicted" } else { "predicted_no_mirroring" });
    for case in ["case_03", "case_07"] {
        if !reference.join(format!("{case}.nii.gz")).exists() {
            continue;
        }
        let ours = nifti::read_labels(&out.path().join(format!("{case}.nii.gz"))).expect("ours");
        let theirs = nifti::read_labels(&reference.join(format!("{case}.nii.gz"))).expect("theirs");
        let grid = theirs.geometry.same_grid(&ours.geometry);
        assert!(
            grid.shape && grid.spacing && grid.origin && grid.direction,
            "{dataset} {case}: another grid"
        );
        let different = ours.data.iter().zip(&theirs.data).filter(|(a, b)| a != b).count();
        let allowed = ours.data.len() / 10_000;
        assert!(different <= allowed, "{dataset} {case}: {different} labels differ of {}", ours.data.len());
        if !reference.join(format!("{case}.npz")).exists() {
            continue;
        }
        let (ours, our_shape) = probabilities(&out.path().join(format!("{case}.npz")));
        let (theirs, their_shape) = probabilities(&reference.join(format!("{case}.npz")));
        assert_eq!(our_shape, their_shape, "{dataset} {case}");
        let errors: Vec<f64> = ours.iter().zip(&theirs).map(|(a, b)| f64::from((a - b).abs())).collect();
        let far = errors.iter().filter(|&&e| e > 2e-3).count();
        let mean = errors.iter().sum::<f64>() / errors.len() as f64;
        assert!(far <= errors.len() / 1000, "{dataset} {case}: {far} of {} beyond 2e-3", errors.len());
        assert!(mean <= 1e-4, "{dataset} {case}: mean difference {mean}");
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn iso_with_mirroring_equals_nnunet() {
    compare("iso", true);
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn iso_without_mirroring_equals_nnunet() {
    compare("iso", false);
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn aniso_with_mirroring_equals_nnunet() {
    compare("aniso", true);
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn aniso_without_mirroring_equals_nnunet() {
    compare("aniso", false);
}
