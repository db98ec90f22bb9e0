//! The fingerprint of a dataset is nnU-Net's; folds too.

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::nifti::{write_labels, write_volume};
use glioseg_plan::{Fingerprint, PlanError, RawDataset, Splits, read_json};
use glioseg_volume::testing::shared_data;
use glioseg_volume::{Geometry, LabelMap, Volume};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Mutex;

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn golden_fingerprints_are_reproduced() {
    for set in ["iso", "aniso"] {
        let folder = shared_data(&format!("golden/pipeline/{set}"));
        let dataset = RawDataset::open(&folder.join("raw")).expect("a dataset");
        assert_eq!(dataset.case_names(), ["case_00", "case_01", "case_02", "case_04", "case_05", "case_06"]);
        assert!(dataset.strays.is_empty());
        let done = Mutex::new(Vec::new());
        let fingerprint = Fingerprint::extract(&dataset, &|case, _| {
            done.lock().expect("no panic").push(case.to_owned());
        })
        .expect("a fingerprint");
        let mut done = done.into_inner().expect("no panic");
        done.sort();
        assert_eq!(done, dataset.case_names());
        let out = tempfile::tempdir().expect("a folder");
        let path = out.path().join(Fingerprint::FILE);
        fingerprint.write(&path).expect("written");
        assert_eq!(Fingerprint::read(&path).expect("read again"), fingerprint);
        let golden = folder.join("planned/dataset_fingerprint.json");
        let text = |path: &Path| std::fs::read_to_string(path).expect("text");
        let (ours, theirs) = (text(&path), text(&golden));
        let differing = ours.lines().zip(theirs.lines()).enumerate().find(|(_, (a, b))| a != b);
        assert_eq!(differing, None, "{set}");
        assert_eq!(ours.len(), theirs.len(), "{set}");
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn golden_folds_are_reproduced() {
    let path = shared_data("golden/transforms/transforms.json");
    let records = read_json(&path).expect("JSON");
    let mut seen = 0;
    for record in records.as_array().expect("a list").iter().filter(|r| r["op"] == "five_folds") {
        let ids: Vec<&str> =
            record["params"]["ids"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let splits = Splits::five_folds(&ids).expect("enough cases");
        let ours: Value = serde_json::from_str(&splits.to_json()).expect("JSON");
        assert_eq!(ours, record["value"], "{} cases", ids.len());
        seen += 1;
    }
    assert_eq!(seen, 3);
}

/// A dataset of one channel with a ramp of intensities, labelled where `labelled` says.
fn made(folder: &Path, cases: usize, labelled: impl Fn(usize, usize) -> u16) -> RawDataset {
    let geometry = Geometry::isotropic([4, 5, 6]);
    std::fs::create_dir_all(folder.join("imagesTr")).expect("a folder");
    std::fs::create_dir_all(folder.join("labelsTr")).expect("a folder");
    let description = json!({
        "channel_names": {"0": "t1"}, "labels": {"background": 0, "tumor": 1},
        "numTraining": cases, "file_ending": ".nii.gz"
    });
    std::fs::write(folder.join("dataset.json"), description.to_string()).expect("written");
    for case in 0..cases {
        let image = (0..120u16).map(|i| f32::from(i % 97) * 0.37 + 1.0).collect();
        let image = Volume::new(1, image, geometry.clone()).expect("an image");
        write_volume(&folder.join(format!("imagesTr/c{case}_0000.nii.gz")), &image).expect("written");
        let labels = (0..120).map(|i| labelled(case, i)).collect();
        let labels = LabelMap::new(labels, geometry.clone()).expect("labels");
        write_labels(&folder.join(format!("labelsTr/c{case}.nii.gz")), &labels).expect("written");
    }
    RawDataset::open(folder).expect("a dataset")
}

#[test]
fn a_case_without_foreground_counts_for_shapes_only() {
    let folder = tempfile::tempdir().expect("a folder");
    let dataset = made(folder.path(), 2, |case, i| u16::from(case == 1 && i == 50));
    let fingerprint = Fingerprint::extract(&dataset, &|_, _| {}).expect("a fingerprint");
    assert_eq!(fingerprint.shapes_after_crop, [[4, 5, 6]; 2]);
    let f = fingerprint.foreground_intensities[0];
    let value = f64::from(50f32 * 0.37 + 1.0).to_bits();
    assert_eq!([f.min, f.median, f.max].map(f64::to_bits), [value; 3]);
    // numpy's own mean of 5 * 10^7 equal numbers is off by as much.
    assert!((f.mean - f64::from_bits(value)).abs() < 1e-2 && f.std < 1e-2, "{f:?}");
}

#[test]
fn a_dataset_without_any_foreground_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let dataset = made(folder.path(), 2, |_, _| 0);
    let error = Fingerprint::extract(&dataset, &|_, _| {}).expect_err("nothing labelled");
    insta::assert_snapshot!(error, @"none of the 2 training cases has a labelled voxel");
    assert!(error.hint().is_some());
}

#[test]
fn images_that_cannot_be_used_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let dataset = made(folder.path(), 3, |_, i| u16::from(i < 9));
    let labels = folder.path().join("labelsTr/c1.nii.gz");
    let small = LabelMap::new(vec![1; 60], Geometry::isotropic([2, 5, 6])).expect("labels");
    write_labels(&labels, &small).expect("written");
    let error = Fingerprint::extract(&dataset, &|_, _| {}).expect_err("another shape");
    assert_eq!(
        error.to_string(),
        format!(
            "case `c1`: the label map {} has shape [2, 5, 6], but the image [4, 5, 6] (z, y, x)",
            labels.display()
        )
    );
    assert!(error.hint().expect("a hint").contains("dataset check"));

    std::fs::remove_file(&labels).expect("there");
    let error = Fingerprint::extract(&dataset, &|_, _| {}).expect_err("no label map");
    assert!(matches!(error, PlanError::Volume(_)) && error.to_string().contains("c1.nii.gz"), "{error}");
}

#[test]
fn broken_fingerprints_are_refused_with_the_key() {
    let read = |text: &str| {
        Fingerprint::parse(text.as_bytes(), Path::new("dataset_fingerprint.json"))
            .expect_err("broken")
            .to_string()
    };
    insta::assert_snapshot!(read("{}"), @"dataset_fingerprint.json: `spacings` is missing; found no keys");
    insta::assert_snapshot!(
        read(r#"{"spacings": [[1, 0, 1]]}"#),
        @"dataset_fingerprint.json: `spacings[0][1]` is 0, but must be a length in mm above 0"
    );
    insta::assert_snapshot!(
        read(r#"{"spacings": [[1, 1, 1], [1, 1, 1]], "shapes_after_crop": [[5, 5, 5]]}"#),
        @"dataset_fingerprint.json: 2 spacings and 1 shapes, but there must be one of each per case"
    );
    let error = Fingerprint::read(Path::new("no/dataset_fingerprint.json")).expect_err("not there");
    assert_eq!(error.hint().as_deref(), Some("make it with `glioseg fingerprint`"));
}
