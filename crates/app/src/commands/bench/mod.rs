//! `glioseg bench`: speed and memory on this machine, as lines of JSON.
//!
//! From the inside out: `peak` measures what the
//! units of the processor can do, `kernels` times every layer's convolution alone, `network` a forward pass, `step` a training step, `case` a whole case
//! from files to file. Each line says what was timed, with which settings; compare ratios of one run on a quiet machine.

mod case;
mod kernels;
mod network;
mod peak;
mod step;

use std::path::Path;

use anyhow::Context as _;
use glioseg_net::{EngineChoice, NetworkSpec, networks};
use glioseg_plan::Plans;
use serde_json::{Value, json};

use super::{Outcome, peak_memory};
use crate::cli::{Bench, BenchNet};
use crate::problem::Problem;
use crate::ui::Ui;

pub(crate) fn run(bench: &Bench, ui: &Ui) -> anyhow::Result<Outcome> {
    match bench {
        Bench::Kernels(options) => kernels::run(options, ui),
        Bench::Network(options) => network::run(options, ui),
        Bench::Peak => peak::run(),
        Bench::Step(options) => step::run(options, ui),
        Bench::Case(options) => case::run(options, ui),
    }
}

/// Refuses to time nothing.
fn check_runs(runs: usize) -> anyhow::Result<()> {
    if runs == 0 {
        return Err(Problem::new("--runs is 0", "time at least one pass"));
    }
    Ok(())
}

impl BenchNet {
    /// The network to time, and the size of its input.
    fn spec(&self) -> anyhow::Result<(NetworkSpec, [usize; 3])> {
        if let Some(spec) = networks::named(&self.net) {
            let size = [self.size.unwrap_or(128); 3];
            // Position embeddings are for one size.
            return Ok((spec.with_positions_for(size), size));
        }
        let path = Path::new(&self.net);
        if !path.is_file() {
            return Err(Problem::new(
                format!("--net {} is neither a known network nor a plans.json", self.net),
                format!("give one of {}, or the path of a plans.json", networks::NAMES.join(", ")),
            ));
        }
        let plans = Plans::read(path)?;
        let configuration = plans.configuration(&self.configuration)?;
        let channels = configuration.normalization.len();
        let outputs = outputs_beside(path)?;
        let spec = NetworkSpec::from_plan(&configuration.architecture, channels, outputs)?;
        let size = match (self.size, configuration.patch_size.as_slice()) {
            (Some(size), [_, _, _]) => [size; 3],
            (Some(size), _) => [1, size, size],
            (None, &[z, y, x]) => [z, y, x],
            (None, &[y, x]) => [1, y, x],
            (None, other) => anyhow::bail!("a patch of {} axes", other.len()),
        };
        Ok((spec, size))
    }
}

/// Number of outputs from the `dataset.json` next to the plans, else three.
fn outputs_beside(plans: &Path) -> anyhow::Result<usize> {
    let dataset = glioseg_plan::Dataset::describing(None, plans.parent()).context("the number of outputs")?;
    Ok(dataset.map_or(3, |found| found.dataset.labels.num_outputs()))
}

/// Values between -1.7 and 1.7 without a pattern; speed must not depend on zeros.
fn noise(i: usize) -> f32 {
    let hash = (i as u32).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(2_246_822_519);
    (hash >> 8) as f32 / (1u32 << 23) as f32 * 1.7 - 1.7
}

/// A batch of noise.
fn input(spec: &NetworkSpec, batch: usize, size: [usize; 3]) -> Vec<f32> {
    (0..batch * spec.in_channels * size.iter().product::<usize>()).map(noise).collect()
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

/// What every timing reports: median, least and all seconds, peak memory, threads and kernels.
fn report(bench: &str, engine: EngineChoice, seconds: &[f64], more: Value) -> String {
    let mut line = json!({
        "bench": bench,
        "seconds": rounded(median(seconds), 3),
        "least": rounded(seconds.iter().copied().fold(f64::INFINITY, f64::min), 3),
        "runs": seconds.iter().map(|&s| rounded(s, 3)).collect::<Vec<_>>(),
        "threads": rayon::current_num_threads(),
        "device": engine.device.word(),
        "precision": engine.precision.word(),
        "kernels": engine.kernels.word(),
        "peak_gib": peak_memory().map(|b| rounded(b as f64 / (1u64 << 30) as f64, 3)),
    });
    if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
        line.extend(more);
    }
    line.to_string()
}

/// Median seconds.
fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
