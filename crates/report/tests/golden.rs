//! Every case and rule of the reference results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use glioseg_formats::nifti::read_labels;
use glioseg_metrics::rules::Challenge;
use glioseg_metrics::{LabelScheme, NnUnetSummary, Pair, RegionScores, Rule, ScoreOptions};
use glioseg_plan::Convention;
use glioseg_plan::Dataset;
use glioseg_report::{EvaluateOptions, LabelSource, evaluate_cohort};
use glioseg_volume::testing::shared_data;
use serde_json::Value;

/// Reference and prediction of a case, and their labels.
fn case(name: &str) -> (PathBuf, PathBuf, LabelScheme) {
    if let Some((case, algorithm)) = name.split_once("__") {
        let folder = shared_data("real").join(case);
        return (
            folder.join(format!("{case}_seg.nii.gz")),
            folder.join(format!("{case}_algo-{algorithm}.nii.gz")),
            LabelScheme::brats(Convention::Brats124),
        );
    }
    let folder = shared_data("golden/metrics");
    (
        folder.join(format!("{name}_ref.nii.gz")),
        folder.join(format!("{name}_pred.nii.gz")),
        LabelScheme::brats(Convention::Brats123),
    )
}

fn load(reference: &Path, prediction: &Path) -> Pair {
    let read = |path: &Path| read_labels(path).unwrap_or_else(|e| panic!("{e}"));
    Pair::new(&read(reference), &read(prediction), None)
}

fn json(path: &Path) -> Value {
    glioseg_plan::read_json(path).unwrap_or_else(|e| panic!("{e}"))
}

fn number(value: &Value) -> f64 {
    match value {
        Value::String(s) => s.parse().unwrap_or_else(|_| panic!("{s} is not a number")),
        Value::Null => f64::NAN,
        v => v.as_f64().unwrap_or_else(|| panic!("{v} is not a number")),
    }
}

/// Equal, or both NaN, or within 1e-6.
fn same(ours: f64, golden: f64) -> bool {
    ours.to_bits() == golden.to_bits()
        || (ours.is_nan() && golden.is_nan())
        || (ours - golden).abs() <= 1e-6 * golden.abs().max(1.0)
}

/// Differences between our values and an object of numbers, both ways.
fn compare(place: &str, ours: &RegionScores, golden: &Value, wrong: &mut Vec<String>) -> usize {
    let golden: BTreeMap<&str, f64> = golden
        .as_object()
        .expect("an object")
        .iter()
        .filter(|(_, v)| !v.is_array())
        .map(|(k, v)| (k.as_str(), number(v)))
        .collect();
    for (name, &expected) in &golden {
        match ours.values.get(name) {
            Some(found) if same(found, expected) => {}
            found => wrong.push(format!("{place} {name}: {found:?}, not {expected}")),
        }
    }
    for (name, found) in ours.values.iter() {
        if !golden.contains_key(name) {
            wrong.push(format!("{place} {name}: {found}, which is not there"));
        }
    }
    golden.len()
}

fn region<'a>(scores: &'a [RegionScores], name: &str) -> &'a RegionScores {
    scores.iter().find(|r| r.region == name).unwrap_or_else(|| panic!("no region {name}"))
}

fn report(wrong: &[String], compared: usize, at_least: usize) {
    assert!(wrong.is_empty(), "{} of {compared} values differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared >= at_least, "only {compared} values were compared");
}

#[test]
#[cfg_attr(
    not(all(golden, real_cases)),
    ignore = "needs golden data and two real cases, see CONTRIBUTING.md"
)]
fn brats_2021_and_2026_give_the_reference_numbers() {
    let path = shared_data("golden/metrics/metrics.json");
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (name, golden) in json(&path).as_object().expect("cases") {
        let (reference, prediction, scheme) = case(name);
        let pair = load(&reference, &prediction);
        let found = Rule::Brats2021.score(&pair, &scheme, &ScoreOptions::default()).regions;
        for (group, values) in golden["brats21"].as_object().expect("regions") {
            let renamed: serde_json::Map<String, Value> = values
                .as_object()
                .expect("values")
                .iter()
                .map(|(k, v)| {
                    let ours = match k.as_str() {
                        "dice" => "Dice",
                        "sensitivity" => "Sensitivity",
                        "specificity" => "Specificity",
                        other => &other.to_uppercase(),
                    };
                    (ours.to_owned(), v.clone())
                })
                .collect();
            let ours = region(&found, &group.to_uppercase());
            compared += compare(&format!("{name} {group}"), ours, &Value::Object(renamed), &mut wrong);
        }
        let found = Rule::Brats2026.score(&pair, &scheme, &ScoreOptions::default()).regions;
        for (group, values) in golden["lesionwise"].as_object().expect("groups") {
            let place = format!("{name} {group}");
            let ours = region(&found, group);
            compared += compare(&place, ours, &without_list(values), &mut wrong);
            let list = values["reference_instances"].as_array().expect("a list");
            assert_eq!(ours.lesions.len(), list.len(), "{place}");
            for (i, (lesion, golden)) in ours.lesions.iter().zip(list).enumerate() {
                let pairs = [
                    ("voxel_count", lesion.voxels as f64),
                    ("volume", lesion.volume_mm3),
                    ("is_matched", f64::from(u8::from(lesion.matched))),
                    ("sq_dsc", lesion.dice),
                    ("sq_nsd", lesion.nsd),
                    ("sq_hd95", lesion.hd95),
                ];
                for (key, found) in pairs {
                    let expected = number(&golden[key]);
                    compared += 1;
                    if !same(found, expected) {
                        wrong.push(format!("{place} instance {i} {key}: {found}, not {expected}"));
                    }
                }
            }
        }
    }
    // As many as the smallest cohort of random pairs gives; how many lesions they have depends on the seed.
    report(&wrong, compared, 4000);
}

fn without_list(values: &Value) -> Value {
    let mut values = values.clone();
    values.as_object_mut().expect("an object").remove("reference_instances");
    values
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn brats_2023_gives_the_numbers_of_its_script() {
    let path = shared_data("golden/metrics/brats2023.json");
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (name, golden) in json(&path).as_object().expect("cases") {
        let (reference, prediction, scheme) = case(name);
        let pair = load(&reference, &prediction);
        for (challenge, values) in golden.as_object().expect("challenges") {
            let rule = Rule::Brats2023(match challenge.as_str() {
                "BraTS-GLI" => Challenge::Gli,
                "BraTS-MET" => Challenge::Met,
                other => panic!("challenge {other}"),
            });
            let found = rule.score(&pair, &scheme, &ScoreOptions::default()).regions;
            for (group, values) in values.as_object().expect("regions") {
                let place = format!("{name} {challenge} {group}");
                compared += compare(&place, region(&found, group), values, &mut wrong);
            }
        }
    }
    report(&wrong, compared, 840);
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn both_genuine_summaries_are_reproduced() {
    for name in ["iso", "aniso"] {
        let folder = shared_data(&format!("golden/pipeline/{name}"));
        let dataset = Dataset::read(&folder.join("raw/dataset.json")).unwrap_or_else(|e| panic!("{e}"));
        let options = EvaluateOptions {
            rules: vec![Rule::NnUnet],
            labels: LabelSource::Known(Box::new(LabelScheme::dataset(&dataset.labels))),
            // The networks have hardly learned, so that their labels look like nothing.
            trust_labels: true,
            ..EvaluateOptions::default()
        };
        let (reference, prediction) = (folder.join("raw/labelsTs"), folder.join("predicted"));
        let scores = evaluate_cohort(&reference, &prediction, &options, &|_, _, _| {})
            .unwrap_or_else(|e| panic!("{e}"));
        let ours = scores.nnunet_summary().expect("nnU-Net's rule was asked for");
        let golden = NnUnetSummary::read(&folder.join("summary.json")).unwrap_or_else(|e| panic!("{e}"));
        // The golden file was written again with file names only.
        let bare = |mut summary: NnUnetSummary| {
            for case in &mut summary.cases {
                for file in [&mut case.prediction_file, &mut case.reference_file] {
                    *file = file.rsplit('/').next().expect("a name").to_owned();
                }
            }
            summary
        };
        assert_eq!(bare(ours).to_json(), golden.to_json(), "{name}");
    }
}
