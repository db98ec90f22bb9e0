//! Preprocessed cases and exported predictions of genuine nnU-Net v2 runs.

use glioseg_formats::nifti::read_stack;
use glioseg_plan::{Configuration, Plans};
use glioseg_prep::{PreparedCase, preprocess_case};
use glioseg_volume::testing::{assert_close, shared_data};
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;

/// Shape and f32 values of an array of an npz file.
fn read_npz(path: &Path, name: &str) -> (Vec<usize>, Vec<f32>) {
    let file = File::open(path).expect("an npz file");
    let mut archive = zip::ZipArchive::new(file).expect("a zip archive");
    let entry = archive.by_name(&format!("{name}.npy")).expect("the array");
    let npy = npyz::NpyFile::new(entry).expect("an npy file");
    let shape = npy.shape().iter().map(|&n| n as usize).collect();
    (shape, npy.into_vec::<f32>().expect("f32 values"))
}

fn plans(root: &Path) -> (Plans, Configuration) {
    let plans = Plans::read(&root.join("plans.json")).expect("plans");
    let configuration = plans.configuration("3d_fullres").expect("a configuration");
    (plans, configuration)
}

fn prepare(root: &Path, case: &str, folder: &str) -> PreparedCase {
    let (plans, configuration) = plans(root);
    let files: Vec<_> = (0..configuration.normalization.len())
        .map(|c| root.join(format!("raw/{folder}/{case}_{c:04}.nii.gz")))
        .collect();
    let (volume, _) = read_stack(&files).expect("the channels of a case");
    preprocess_case(volume, &plans, &configuration).expect("a case that fits its plan")
}

fn cases(root: &Path) -> Vec<String> {
    let files = std::fs::read_dir(root.join("preprocessed")).expect("the folder");
    let mut cases: Vec<String> =
        files.filter_map(|f| f.ok()?.file_name().to_str()?.strip_suffix(".npz").map(str::to_owned)).collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn preprocessed_cases_match_nnunet() {
    for set in ["iso", "aniso"] {
        let root = shared_data(&format!("golden/pipeline/{set}"));
        for case in cases(&root) {
            let ours = prepare(&root, &case, "imagesTr");
            let (shape, data) = read_npz(&root.join(format!("preprocessed/{case}.npz")), "data");
            assert_eq!(shape, [&[ours.channels], &ours.shape[..]].concat(), "{set}/{case}");
            assert_close(&ours.data, &data, 1e-4, &format!("{set}/{case}"));

            let file = File::open(root.join(format!("preprocessed/{case}.json"))).expect("the properties");
            let properties: Value = serde_json::from_reader(file).expect("JSON");
            let p = ours.properties;
            assert_eq!(json!(p.shape_before_cropping), properties["shape_before_cropping"], "{set}/{case}");
            assert_eq!(json!(p.bbox), properties["bbox_used_for_cropping"], "{set}/{case}");
            let cropped = &properties["shape_after_cropping_and_before_resampling"];
            assert_eq!(&json!(p.shape_after_cropping), cropped, "{set}/{case}");
            assert_eq!(json!(p.spacing_transposed), properties["spacing"], "{set}/{case}");
        }
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn predictions_lie_where_the_way_back_puts_them() {
    for set in ["iso", "aniso"] {
        let root = shared_data(&format!("golden/pipeline/{set}"));
        let p = prepare(&root, "case_03", "imagesTs").properties;
        let trail = p.trail(&plans(&root).1);
        let (shape, probabilities) = read_npz(&root.join("predicted/case_03.npz"), "probabilities");
        assert_eq!(shape[1..], p.transpose_backward.map(|a| p.shape_before_cropping[a]));
        let voxels: usize = shape[1..].iter().product();
        for channel in probabilities.chunks_exact(voxels) {
            // Cut the box out and put it back: outside it nnU-Net has one value only.
            let inside = |i: usize| {
                let [_, y, x] = p.shape_before_cropping;
                let at = [i / (y * x), i / x % y, i % x];
                (0..3).all(|a| (p.bbox[a][0]..p.bbox[a][1]).contains(&at[a]))
            };
            let outside = (0..voxels).find(|&i| !inside(i)).map_or(0.0, |i| channel[i]);
            let cropped = glioseg_volume::crop::crop(channel.to_vec(), p.shape_before_cropping, p.bbox);
            assert_eq!(trail.back(cropped).channel(0, outside), channel, "{set}");
        }
    }
}
