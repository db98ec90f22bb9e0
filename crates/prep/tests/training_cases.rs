//! Labelled cases against nnU-Net's own: small made-up ones of every kind of plan, and genuine runs.
//!
//! `fixtures/training_cases.py` made `fixtures/training_cases.json`. `TRAINING_CASES_FIXTURE` names another file of its
//! making.

use glioseg_plan::{Dataset, Plans, RawDataset, read_json};
use glioseg_prep::store::{PrepareOptions, StoredCase, prepare_dataset};
use glioseg_prep::{Image, preprocess_training_case};
use glioseg_volume::testing::{assert_close, shared_data};
use serde_json::{Value, json};
use std::fs::File;
use std::path::Path;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

#[test]
fn every_kind_of_plan_prepares_nnunets_labels_and_locations() {
    let path = std::env::var("TRAINING_CASES_FIXTURE").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/training_cases.json").to_owned()
    });
    let records = read_json(Path::new(&path)).expect("the fixture");
    let records = records.as_array().expect("a list");
    assert!(records.len() >= 20);
    let mut wrong = Vec::new();
    for (i, r) in records.iter().enumerate() {
        let plans = Plans::from_value(r["plans"].clone(), Path::new("plans.json")).expect("plans");
        let configuration = plans.configuration("c").expect("a configuration");
        let dataset = Dataset::from_value(r["dataset"].clone(), Path::new("dataset.json")).expect("valid");
        let shape: Vec<usize> = numbers(&r["shape"]).iter().map(|&n| n as usize).collect();
        let image = Image {
            data: numbers(&r["input"]).into_iter().map(|v| v as f32).collect(),
            channels: dataset.channel_names.len(),
            shape: shape.try_into().expect("three sizes"),
            spacing_mm: numbers(&r["spacing"]).try_into().expect("three spacings"),
            grid: None,
        };
        let labels: Vec<u16> = numbers(&r["labels"]).iter().map(|&v| v as u16).collect();
        let made = preprocess_training_case(image, &labels, &dataset.labels, &plans, &configuration)
            .expect("a case that fits");
        assert_eq!(
            json!([&[made.case.channels], &made.case.shape[..]].concat()),
            r["output_shape"],
            "record {i}"
        );
        let seg: Vec<i16> = numbers(&r["output_seg"]).iter().map(|&v| v as i16).collect();
        let differing = made.seg.iter().zip(&seg).filter(|(a, b)| a != b).count();
        if differing > 0 {
            let function = configuration.resampling_seg.function.name();
            wrong.push(format!("record {i}: {differing} of {} labels ({function})", seg.len()));
        }
        let expected: Vec<f32> = numbers(&r["output"]).iter().map(|&v| v as f32).collect();
        let scale = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
        let worst =
            made.case.data.iter().zip(&expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max);
        if worst > 5e-6 {
            wrong.push(format!("record {i}: image off by {worst} of its range"));
        }
        let classes: Vec<Value> = made.class_locations.iter().map(|c| json!([c.labels, c.voxels])).collect();
        if differing == 0 && json!(classes) != r["classes"] {
            wrong.push(format!("record {i}: other class locations"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} records:\n{}", wrong.len(), records.len(), wrong.join("\n"));
}

/// Values of an array of an npz file.
fn read_npz<T: npyz::Deserialize>(path: &Path, name: &str) -> Vec<T> {
    let mut archive = zip::ZipArchive::new(File::open(path).expect("an npz file")).expect("a zip archive");
    let entry = archive.by_name(&format!("{name}.npy")).expect("the array");
    npyz::NpyFile::new(entry).expect("an npy file").into_vec().expect("values of that type")
}

/// The key of nnU-Net's properties for the labels of a class: `1` or `(1, 2)`.
fn key(labels: &[i16], regions: bool) -> String {
    let list: Vec<String> = labels.iter().map(ToString::to_string).collect();
    match (regions, &list[..]) {
        (false, [one]) => one.clone(),
        (true, [one]) => format!("({one},)"),
        _ => format!("({})", list.join(", ")),
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn prepared_cases_match_those_of_nnunet() {
    for set in ["iso", "aniso"] {
        let root = shared_data(&format!("golden/pipeline/{set}"));
        let dataset = RawDataset::open(&root.join("raw")).expect("a dataset");
        let plans = Plans::read(&root.join("plans.json")).expect("plans");
        let configuration = plans.configuration("3d_fullres").expect("a configuration");
        let out = tempfile::tempdir().expect("a folder");
        let folder = out.path().join(&configuration.data_identifier);
        let summary =
            prepare_dataset(&dataset, &plans, &configuration, &folder, PrepareOptions::default(), &|_| {})
                .expect("prepared");
        assert_eq!((summary.prepared, summary.failed.len()), (6, 0), "{set}");
        let patch = &configuration.patch_size;
        let smaller = |case: &&StoredCase| case.shape().iter().zip(patch).any(|(size, patch)| size < patch);
        let narrow: Vec<&str> = summary.cases.iter().filter(smaller).map(StoredCase::name).collect();
        let told = format!(
            "{} of 6 cases are smaller than the patch {patch:?} along some axis and will be padded: {}",
            narrow.len(),
            narrow.join(", ")
        );
        assert_eq!(summary.warnings, if narrow.is_empty() { vec![] } else { vec![told] }, "{set}");
        for case in &summary.cases {
            let name = format!("{set}/{}", case.name());
            let golden = root.join("preprocessed").join(case.name());
            let (data, seg) = case.read_all().expect("readable");
            assert_close(&data, &read_npz::<f32>(&golden.with_extension("npz"), "data"), 1e-4, &name);
            assert_eq!(seg, read_npz::<i16>(&golden.with_extension("npz"), "seg"), "{name}");
            let properties = read_json(&golden.with_extension("json")).expect("JSON");
            let stored = json!(case.stored_properties());
            for key in ["shape_before_cropping", "bbox_used_for_cropping", "spacing"] {
                assert_eq!(stored[key], properties[key], "{name} {key}");
            }
            let counts = (0..case.num_classes()).map(|c| {
                let voxels = case.class_voxels(c).expect("readable");
                let [_, ny, nx] = case.shape();
                let label = |[z, y, x]: [usize; 3]| seg[(z * ny + y) * nx + x];
                assert!(voxels.iter().all(|&at| case.class_labels(c).contains(&label(at))), "{name}");
                assert_eq!(voxels.len(), case.class_count(c));
                (key(case.class_labels(c), dataset.description.labels.has_regions()), json!(voxels.len()))
            });
            let counts: Value = counts.collect::<serde_json::Map<_, _>>().into();
            assert_eq!(counts, properties["class_locations_count"], "{name}");
            assert_eq!(StoredCase::open(case.path()).expect("readable").shape(), case.shape());
        }
    }
}
