//! Answers of scipy: `fixtures/eval/scipy.json`.

use glioseg_metrics::assignment::{Costs, assign};
use glioseg_metrics::significance::wilcoxon;
use serde_json::Value;

fn fixture() -> Value {
    serde_json::from_str(include_str!("../../../fixtures/eval/scipy.json")).expect("valid JSON")
}

fn whole(value: &Value) -> usize {
    value.as_u64().expect("a whole number") as usize
}

#[test]
fn assignments_are_those_of_scipy_even_where_costs_are_equal() {
    let fixture = fixture();
    let cases = fixture["assignments"].as_array().expect("a list");
    for case in cases {
        let entries = case["entries"].as_array().expect("a list").iter();
        let costs = Costs {
            rows: whole(&case["rows"]),
            columns: whole(&case["columns"]),
            default: case["default"].as_f64().expect("a number"),
            entries: entries
                .map(|e| ((whole(&e[0]), whole(&e[1])), e[2].as_f64().expect("a number")))
                .collect(),
        };
        let pairs = case["pairs"].as_array().expect("a list").iter();
        let expected: Vec<(usize, usize)> = pairs.map(|p| (whole(&p[0]), whole(&p[1]))).collect();
        assert_eq!(assign(&costs), expected, "{case}");
    }
    assert_eq!(cases.len(), 120);
}

#[test]
fn signed_rank_tests_are_those_of_scipy() {
    let fixture = fixture();
    let cases = fixture["wilcoxon"].as_array().expect("a list");
    for case in cases {
        let differences: Vec<f64> = case["differences"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|v| v.as_f64().expect("a number"))
            .collect();
        let (found, expected) = (wilcoxon(&differences), case["p"].as_f64().expect("a number"));
        assert!((found - expected).abs() < 1e-9, "{found}, not {expected}: {case}");
    }
    assert_eq!(cases.len(), 30);
}
