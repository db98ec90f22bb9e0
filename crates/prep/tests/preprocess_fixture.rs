//! Preprocessing against small images that nnU-Net's own preprocessor prepared: transposed axes, every normalisation,
//! masks, 2d and anisotropic plans, every resampling function.
//!
//! `fixtures/preprocess.py` made `fixtures/preprocess.json`. `PREPROCESS_FIXTURE` names another file of its making.

use glioseg_plan::{Plans, read_json};
use glioseg_prep::{Image, preprocess_case};
use serde_json::{Value, json};
use std::path::Path;

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    numbers(value).into_iter().map(|v| v as f32).collect()
}

#[test]
fn every_kind_of_plan_prepares_nnunets_values() {
    let path = std::env::var("PREPROCESS_FIXTURE").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/preprocess.json").to_owned()
    });
    let records = read_json(Path::new(&path)).expect("the fixture");
    let records = records.as_array().expect("a list");
    assert!(records.len() >= 20);
    let mut wrong = Vec::new();
    for (i, r) in records.iter().enumerate() {
        let plans = Plans::from_value(r["plans"].clone(), Path::new("plans.json")).expect("plans");
        let configuration = plans.configuration("c").expect("a configuration");
        let spacing = numbers(&r["spacing"]);
        let image = Image {
            data: floats(&r["input"]),
            channels: r["channels"].as_u64().expect("a number") as usize,
            shape: numbers(&r["shape"])
                .iter()
                .map(|&n| n as usize)
                .collect::<Vec<_>>()
                .try_into()
                .expect("three sizes"),
            spacing_mm: spacing.try_into().expect("three spacings"),
            grid: None,
        };
        let case = preprocess_case(image, &plans, &configuration).expect("a case that fits");
        assert_eq!(json!(case.properties.shape_before_cropping), r["shape_before_cropping"], "record {i}");
        assert_eq!(json!(case.properties.bbox), r["bbox"], "record {i}");
        assert_eq!(json!(case.properties.shape_after_cropping), r["shape_after_cropping"], "record {i}");
        assert_eq!(json!([&[case.channels], &case.shape[..]].concat()), r["output_shape"], "record {i}");
        let expected = floats(&r["output"]);
        // Of the largest value: channels that are not normalised have values up to 255.
        let scale = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
        let worst = case.data.iter().zip(&expected).map(|(a, b)| (a - b).abs() / scale).fold(0.0, f32::max);
        if worst > 5e-6 {
            wrong.push(format!(
                "record {i}: off by {worst} of the range: {:?}",
                configuration.resampling_data
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {} records:\n{}", wrong.len(), records.len(), wrong.join("\n"));
}
