//! Calibration of saved probabilities: made cases against sums over all voxels, and everything that can be wrong with the files.

use std::fs;
use std::path::Path;

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::{nifti, npz};
use glioseg_metrics::{LabelScheme, Rule};
use glioseg_plan::Convention;
use glioseg_plan::record::{CaseRecord, CaseStatus as Written, Record};
use glioseg_report::{EvaluateOptions, LabelSource, evaluate_cohort};
use glioseg_volume::{Affine, Geometry, LabelMap};
use glioseg_workflow::calibration::{Calibrated, calibration};

/// z, y, x; spacing 2, 1 and 4 mm, so that the margin of 10 mm is 5, 10 and 3 voxels (2.5 is rounded up).
const SHAPE: [usize; 3] = [24, 34, 12];
const VOXELS: usize = SHAPE[0] * SHAPE[1] * SHAPE[2];
const REGIONS: &str = r#"{"channel_names": {"0": "T1"}, "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "ET": [3]},
    "regions_class_order": [1, 2, 3], "numTraining": 1, "file_ending": ".nii.gz"}"#;
const PLAIN: &str = r#"{"channel_names": {"0": "T1"}, "labels": {"background": 0, "oedema": 1, "core": 2, "ET": 3}, "numTraining": 1,
    "file_ending": ".nii.gz"}"#;

fn write_map(path: &Path, data: Vec<u16>) {
    let affine = Affine::from_rows([[4.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]);
    let geometry = Geometry::from_affine(SHAPE, affine).expect("regular");
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    nifti::write_labels(path, &LabelMap::new(data, geometry).expect("right length")).expect("written");
}

fn write_npz(path: &Path, shape: [usize; 4], values: &[f32]) {
    npz::write(path, "probabilities", &shape, |push| push(values)).expect("written");
}

/// A number from 0 to 1 that looks like chance.
fn chance(i: usize) -> f32 {
    f32::from((i.wrapping_mul(2_654_435_761) >> 7) as u16) / f32::from(u16::MAX)
}

/// Softmax outputs of every voxel, `[label, voxel]`, and a tumour in the middle that they nearly follow.
fn made() -> (Vec<u16>, Vec<f32>) {
    let (mut labels, mut outputs) = (vec![0u16; VOXELS], vec![0f32; 4 * VOXELS]);
    for i in 0..VOXELS {
        let place = [i / (SHAPE[1] * SHAPE[2]), i / SHAPE[2] % SHAPE[1], i % SHAPE[2]];
        let inside =
            |low: [usize; 3], high: [usize; 3]| (0..3).all(|a| (low[a]..high[a]).contains(&place[a]));
        if inside([10, 12, 4], [15, 20, 8]) {
            labels[i] =
                1 + u16::from(inside([11, 13, 5], [14, 19, 8])) + u16::from(inside([12, 15, 6], [13, 17, 7]));
        }
        let sure = 0.4 + 0.6 * chance(i);
        for l in 0..4 {
            outputs[l * VOXELS + i] = if l == usize::from(labels[i]) { sure } else { (1.0 - sure) / 3.0 };
        }
    }
    (labels, outputs)
}

/// What the labels of `region` sum up to.
fn region(outputs: &[f32], labels: &[u16]) -> Vec<f32> {
    (0..VOXELS).map(|i| labels.iter().map(|&l| outputs[usize::from(l) * VOXELS + i]).sum()).collect()
}

/// A folder with reference `ref/a.nii.gz` and prediction `pred/a.nii.gz`, a description of the outputs, and no probabilities.
fn folder(dataset: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let (labels, _) = made();
    for name in ["ref/a.nii.gz", "pred/a.nii.gz"] {
        write_map(&dir.path().join(name), labels.clone());
    }
    fs::write(dir.path().join("pred/dataset.json"), dataset).expect("written");
    dir
}

fn calibrated(dir: &tempfile::TempDir) -> Calibrated {
    let options = EvaluateOptions {
        rules: vec![Rule::Brats2021],
        labels: LabelSource::Known(Box::new(LabelScheme::brats(Convention::NnUnet))),
        trust_labels: true,
        ..EvaluateOptions::default()
    };
    let scores = evaluate_cohort(&dir.path().join("ref"), &dir.path().join("pred"), &options, &|_, _, _| {});
    calibration(&scores.expect("scores"))
}

fn error(dir: &tempfile::TempDir) -> (String, String) {
    let found = calibrated(dir);
    assert!(found.scores.is_none(), "{:?}", found.scores);
    let [(case, error)] = &found.failed[..] else { panic!("{:?}", found.failed) };
    assert_eq!(case, "a");
    let text = error.to_string().replace(&dir.path().display().to_string(), "DIR");
    (text, error.hint().unwrap_or_default())
}

#[test]
fn regions_and_sums_of_labels_are_those_of_all_voxels_near_the_tumour() {
    let (labels, outputs) = made();
    let sums = [&[1, 2, 3][..], &[2, 3], &[3]].map(|l| region(&outputs, l));
    for (dataset, values, count) in [(REGIONS, sums.concat(), 3), (PLAIN, outputs, 4)] {
        let dir = folder(dataset);
        write_npz(&dir.path().join("pred/a.npz"), [count, SHAPE[0], SHAPE[1], SHAPE[2]], &values);
        let found = calibrated(&dir);
        assert!(found.failed.is_empty(), "{:?}", found.failed);
        let found = found.scores.expect("a calibration");
        assert_eq!((found.cases, found.margin_mm, found.regions.len()), (1, 10.0, 3));
        for (r, sum) in sums.iter().enumerate() {
            let (mut squares, mut voxels) = (0.0, 0u64);
            let (mut probability, mut positive) = ([0f64; 15], [0f64; 15]);
            for z in 5..20 {
                for y in 2..30 {
                    for x in 1..11 {
                        let i = (z * SHAPE[1] + y) * SHAPE[2] + x;
                        let p = f64::from(sum[i].min(1.0));
                        let truth = f64::from(u8::from(usize::from(labels[i]) > r));
                        let bin = ((p * 15.0).ceil() as usize).clamp(1, 15) - 1;
                        squares += (p - truth).powi(2);
                        probability[bin] += p;
                        positive[bin] += truth;
                        voxels += 1;
                    }
                }
            }
            let ece: f64 = probability.iter().zip(&positive).map(|(p, t)| (p - t).abs()).sum::<f64>();
            let own = &found.regions[r];
            assert_eq!(own.bins.iter().map(|b| b.voxels).sum::<u64>(), voxels, "{dataset}");
            assert!((own.brier - squares / voxels as f64).abs() < 1e-9, "{own:?}");
            assert!((own.ece - ece / voxels as f64).abs() < 1e-9, "{own:?}");
        }
        let names: Vec<&str> = found.regions.iter().map(|r| r.region.as_str()).collect();
        assert_eq!(names, ["WT", "TC", "ET"]);
    }
}

#[test]
fn without_probabilities_there_is_nothing_to_say() {
    let found = calibrated(&folder(REGIONS));
    assert!(found.scores.is_none() && found.failed.is_empty());
}

#[test]
fn probabilities_of_an_earlier_prediction_are_left_out() {
    let dir = folder(REGIONS);
    write_npz(&dir.path().join("pred/a.npz"), [3, SHAPE[0], SHAPE[1], SHAPE[2]], &vec![0.5; 3 * VOXELS]);
    let say = |saved_probabilities| {
        let failed = CaseRecord::failed("a".into(), vec![], String::new(), None);
        let mut record = Record::default();
        record.put(CaseRecord { status: Written::Done, saved_probabilities, ..failed });
        record.write(&dir.path().join("pred/predict.json")).expect("written");
        calibrated(&dir)
    };
    let found = say(Some(false));
    assert!(found.scores.is_none() && found.failed.is_empty());
    assert_eq!(found.stale, ["a"]);
    for saved in [None, Some(true)] {
        let found = say(saved);
        assert!(found.scores.is_some() && found.stale.is_empty(), "{saved:?}");
    }
}

#[test]
fn a_region_that_the_model_does_not_know_is_left_out() {
    let dir = folder(
        &REGIONS
            .replace(r#""core": [2, 3], "#, "")
            .replace(r#""regions_class_order": [1, 2, 3]"#, r#""regions_class_order": [1, 3]"#),
    );
    write_npz(&dir.path().join("pred/a.npz"), [2, SHAPE[0], SHAPE[1], SHAPE[2]], &vec![0.5; 2 * VOXELS]);
    let found = calibrated(&dir).scores.expect("a calibration");
    assert_eq!(found.regions.iter().map(|r| r.region.as_str()).collect::<Vec<_>>(), ["WT", "ET"]);
}

#[test]
fn probabilities_that_cannot_be_used_are_named_with_a_remedy() {
    let [z, y, x] = SHAPE;
    let write = |dir: &tempfile::TempDir, shape, values: &[f32]| {
        write_npz(&dir.path().join("pred/a.npz"), shape, values);
    };
    let dir = folder(REGIONS);
    write(&dir, [3, z, y, x], &vec![f32::NAN; 3 * VOXELS]);
    let (text, hint) = error(&dir);
    assert_eq!(text, "DIR/pred/a.npz holds 408 values that are NaN or infinite");
    assert!(hint.contains("predict the case again"), "{hint}");
    write(&dir, [3, z, y, x], &vec![1.5; 3 * VOXELS]);
    assert_eq!(error(&dir).0, "DIR/pred/a.npz: it holds 1.5, which is not a probability");
    write(&dir, [2, z, y, x], &vec![0.5; 2 * VOXELS]);
    assert_eq!(error(&dir).0, "DIR/pred/a.npz: it has 2 outputs, but the dataset has 3");
    write(&dir, [3, z, x, y], &vec![0.5; 3 * VOXELS]);
    assert!(
        error(&dir).0.contains("the probabilities belong to an image of [24, 12, 34]"),
        "{}",
        error(&dir).0
    );
    write(&dir, [3, z, y, x], &vec![0.5; 3 * VOXELS]);
    fs::remove_file(dir.path().join("pred/dataset.json")).expect("removed");
    let (text, hint) = error(&dir);
    assert_eq!(text, "DIR/pred has no dataset.json, so the meaning of its outputs is unknown");
    assert!(hint.contains("dataset.json"), "{hint}");
}
