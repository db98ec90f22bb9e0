//! Resampling against small arrays that nnU-Net's functions resampled, every order and separate axis among them.
//!
//! `fixtures/resample.py` made `fixtures/resample.json` and `resample-order2.json`. `RESAMPLE_FIXTURE` names another file of
//! its making.

use glioseg_volume::resample::{Flavour, LabelRule, Order, ResampleOptions, resample, resample_labels};
use serde_json::Value;

fn sizes(value: &Value) -> [usize; 3] {
    let list: Vec<usize> =
        value.as_array().expect("a list").iter().map(|v| v.as_u64().expect("a size") as usize).collect();
    <[usize; 3]>::try_from(list).expect("three sizes")
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number") as f32).collect()
}

fn order(value: &Value) -> Order {
    match value.as_u64() {
        Some(0) => Order::Nearest,
        Some(1) => Order::Linear,
        Some(2) => Order::Quadratic,
        _ => Order::Cubic,
    }
}

#[test]
fn every_order_and_separate_axis_gives_nnunets_values() {
    let path = std::env::var("RESAMPLE_FIXTURE")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/resample.json").to_owned());
    assert!(compare(&path) >= 30);
}

#[test]
fn order_2_gives_nnunets_values() {
    assert!(compare(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/resample-order2.json")) >= 20);
}

/// Compares every record of a file; returns how many there are.
fn compare(path: &str) -> usize {
    let records: Vec<Value> =
        serde_json::from_slice(&std::fs::read(path).expect("the fixture")).expect("JSON");
    let mut wrong = Vec::new();
    for (i, r) in records.iter().enumerate() {
        let (from, to) = (sizes(&r["old"]), sizes(&r["new"]));
        let kind = r["kind"].as_str().expect("a kind");
        let options = ResampleOptions {
            order: order(&r["order"]),
            order_z: order(&r["order_z"]),
            separate_axis: r["axis"].as_u64().map(|a| a as usize),
            flavour: if kind == "torch" { Flavour::Torch } else { Flavour::Scipy },
        };
        let (input, expected) = (numbers(&r["input"]), numbers(&r["output"]));
        // f32 between the passes of order 3; torch computes in f32.
        let (ours, tolerance) = if kind == "seg" {
            let labels: Vec<i16> = input.iter().map(|&v| v as i16).collect();
            let out = resample_labels(&labels, from, to, &options, LabelRule::Best);
            (out.into_iter().map(f32::from).collect(), 0.0)
        } else {
            (resample(&input, from, to, &options), 5e-6)
        };
        assert_eq!(ours.len(), expected.len());
        let worst = ours.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let count = ours.iter().zip(&expected).filter(|(a, b)| (*a - *b).abs() > tolerance).count();
        if count > 0 {
            wrong.push(format!("record {i}: {kind} {from:?} -> {to:?} {options:?}: {count} of {} values differ, by up to {worst}", ours.len()));
        }
    }
    assert!(wrong.is_empty(), "{} of {} records:\n{}", wrong.len(), records.len(), wrong.join("\n"));
    records.len()
}
