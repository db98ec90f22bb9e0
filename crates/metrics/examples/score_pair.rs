//! Scores one pair of label maps by every rule, or by those named, and prints the numbers and the seconds taken, as JSON.
//!
//! `cargo run --release -p glioseg-metrics --example score_pair -- REFERENCE PREDICTION 1-2-4 [REPEATS [RULES]]`; `bench_peers.py`
//! next to it compares with the Python programs.
#![expect(clippy::print_stdout, reason = "an example that prints its result")]

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use glioseg_formats::nifti::read_labels;
use glioseg_metrics::{LabelScheme, Pair, Rule, RuleScores, ScoreOptions};
use glioseg_plan::Convention;
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [reference, prediction, convention, rest @ ..] = &arguments[..] else {
        return Err("give REFERENCE PREDICTION CONVENTION [REPEATS [RULES]]".into());
    };
    let scheme = LabelScheme::brats(convention.parse::<Convention>()?);
    let repeats: usize = rest.first().map_or(Ok(1), |n| n.parse())?;
    let rules = Rule::parse_list(rest.get(1).map_or("all", String::as_str))?;
    let (mut read, mut score) = (Vec::new(), Vec::new());
    let mut scores: Vec<RuleScores> = Vec::new();
    for _ in 0..repeats {
        let start = Instant::now();
        let (a, b) = rayon::join(|| read_labels(Path::new(reference)), || read_labels(Path::new(prediction)));
        let (a, b) = (a?, b?);
        read.push(start.elapsed().as_secs_f64());
        let start = Instant::now();
        let pair = Pair::new(&a, &b, None);
        scores = rules.iter().map(|rule| rule.score(&pair, &scheme, &ScoreOptions::default())).collect();
        score.push(start.elapsed().as_secs_f64());
    }
    let threads = rayon::current_num_threads();
    println!(
        "{}",
        json!({"threads": threads, "seconds_read": read, "seconds_score": score, "scores": scores})
    );
    Ok(())
}
