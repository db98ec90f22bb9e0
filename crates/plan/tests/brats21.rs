//! Plans of the winner's planner against those of nnU-Net v1 itself.

mod support;

use glioseg_plan::{
    ArchitectureKind, Fingerprint, NormKind, PlanOptions, Planned, Planner, RawDataset, Rules, plan,
};
use glioseg_plan::{Plans, read_json};
use glioseg_volume::testing::shared_data;
use serde_json::{Value, json};
use std::path::Path;
use support::intensities;

fn planned(dataset: &RawDataset, facts: &Fingerprint) -> Planned {
    plan(dataset, facts, &PlanOptions { planner: Planner::Brats21, ..PlanOptions::default() }).expect("plans")
}

/// The raw dataset, and a fingerprint with what version 1's plans say of the cropped cases.
fn from_v1(raw: &Path, plans: &Value) -> (RawDataset, Fingerprint) {
    let dataset = RawDataset::open(raw).expect("a dataset");
    let rows = |key: &str| plans[key].as_array().expect("a list").clone();
    let numbers = |row: &Value| {
        row.as_array().expect("a row").iter().map(|n| n.as_f64().expect("a number")).collect::<Vec<_>>()
    };
    let triple = |row: &Value| <[f64; 3]>::try_from(numbers(row)).expect("three numbers");
    let mut reductions: Vec<f64> = plans["dataset_properties"]["size_reductions"]
        .as_object()
        .expect("an object")
        .values()
        .map(|v| v.as_f64().expect("a number"))
        .collect();
    reductions.sort_by(f64::total_cmp);
    let n = reductions.len();
    let facts = Fingerprint {
        spacings_mm: rows("original_spacings").iter().map(triple).collect(),
        shapes_after_crop: rows("original_sizes").iter().map(|r| triple(r).map(|v| v as usize)).collect(),
        foreground_intensities: vec![intensities(); dataset.description.channel_names.len()],
        median_relative_size_after_cropping: f64::midpoint(reductions[(n - 1) / 2], reductions[n / 2]),
    };
    (dataset, facts)
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn plans_are_those_of_version_1() {
    let golden = shared_data("golden");
    for (raw, folder) in [("pipeline/iso/raw", "v1"), ("v1/masked/raw", "v1/masked")] {
        let folder = golden.join(folder);
        let theirs = read_json(&folder.join("plans.json")).expect("their plans");
        let (dataset, facts) = from_v1(&golden.join(raw), &theirs);
        let ours = planned(&dataset, &facts);
        let plans = Plans::from_value(ours.json.clone(), Path::new("plans.json")).expect("plans");
        let stage = &theirs["plans_per_stage"]["0"];
        let compare = |name: &str, stage: &Value, masks: &Value| {
            let c = plans.configuration(name).expect(name);
            assert_eq!(c.rules, Rules::V1);
            assert_eq!(json!(c.patch_size), stage["patch_size"], "{raw} {name}");
            assert_eq!(json!(c.batch_size), stage["batch_size"], "{raw} {name}");
            assert_eq!(json!(c.architecture.strides[1..]), stage["pool_op_kernel_sizes"], "{raw} {name}");
            assert_eq!(json!(c.architecture.kernel_sizes), stage["conv_kernel_sizes"], "{raw} {name}");
            assert_eq!(c.raw["median_image_size_in_voxels"], stage["median_patient_size_in_voxels"]);
            assert_eq!(c.architecture.kind, ArchitectureKind::GenericUNet);
            assert_eq!(c.architecture.norm.kind, NormKind::Batch);
            let theirs: Vec<&Value> = masks.as_object().expect("an object").values().collect();
            assert_eq!(json!(c.use_mask_for_norm), json!(theirs), "{raw} {name}");
        };
        compare("3d_fullres", stage, &theirs["use_mask_for_norm"]);
        let flat = folder.join("plans_2D.json");
        if flat.is_file() {
            let flat = read_json(&flat).expect("their plans in two dimensions");
            compare("2d", &flat["plans_per_stage"]["0"], &flat["use_mask_for_norm"]);
        }
        assert_eq!(plans.configuration_names(), ["2d", "3d_fullres"], "{raw}");
    }
}
