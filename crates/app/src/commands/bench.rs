//! `glioseg bench`: speed and memory on this machine, as lines of JSON.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use burn::tensor::{Device, Tensor, TensorData};
use glioseg_net::{NetworkSpec, Unet};
use glioseg_plan::Plans;
use serde_json::json;

use super::{Outcome, Problem, peak_memory, print};
use crate::cli::{Bench, BenchNetwork};
use crate::ui::Ui;

pub(crate) fn run(bench: &Bench, ui: &Ui) -> anyhow::Result<Outcome> {
    match bench {
        Bench::Network(options) => network(options, ui),
    }
}

fn network(options: &BenchNetwork, ui: &Ui) -> anyhow::Result<Outcome> {
    if options.runs == 0 {
        return Err(Problem::new("--runs is 0", "time at least one pass"));
    }
    options.kernels.choose()?;
    let (spec, size) = spec_of(options)?;
    let device = Device::flex();
    let network = Unet::new(&spec, &device)?;
    spec.check_input(spec.in_channels, size)?;
    let values: Vec<f32> = (0..spec.in_channels * size.iter().product::<usize>()).map(noise).collect();
    let [z, y, x] = size;
    let input = Tensor::<5>::from_data(TensorData::new(values, [1, spec.in_channels, z, y, x]), &device);
    ui.say(&format!("{} parameters, input {}x{z}x{y}x{x}", network.num_parameters(), spec.in_channels));
    let pass = || {
        let start = Instant::now();
        let output = network.forward(input.clone()).into_data();
        (start.elapsed().as_secs_f64(), output.num_elements())
    };
    pass();
    let mut runs: Vec<f64> = (0..options.runs).map(|_| pass().0).collect();
    let rounded: Vec<f64> = runs.iter().map(|s| (s * 1000.0).round() / 1000.0).collect();
    runs.sort_by(f64::total_cmp);
    let seconds = runs[runs.len() / 2];
    let flops = spec.flops(size) as f64;
    let line = json!({
        "bench": "network",
        "net": options.net,
        "size": size,
        "parameters": network.num_parameters(),
        "kernels": glioseg_net::kernels().word(),
        "threads": rayon::current_num_threads(),
        "seconds": (seconds * 1000.0).round() / 1000.0,
        "runs": rounded,
        "gflop": (flops / 1e9).round(),
        "gflops_per_second": (flops / seconds / 1e9 * 10.0).round() / 10.0,
        "peak_gib": peak_memory().map(|b| (b as f64 / (1u64 << 30) as f64 * 1000.0).round() / 1000.0),
    });
    print(&line.to_string())?;
    Ok(Outcome::Done)
}

/// The network to time, and the size of its input.
fn spec_of(options: &BenchNetwork) -> anyhow::Result<(NetworkSpec, [usize; 3])> {
    if options.net == "nnunet" {
        return Ok((NetworkSpec::brats(3), [options.size.unwrap_or(128); 3]));
    }
    let path = Path::new(&options.net);
    if !path.is_file() {
        return Err(Problem::new(
            format!("--net {} is neither a known network nor a plans.json", options.net),
            "give `nnunet`, or the path of a plans.json",
        ));
    }
    let plans = Plans::read(path)?;
    let configuration = plans.configuration(&options.configuration)?;
    let channels = configuration.normalization.len();
    let outputs = outputs_beside(path)?;
    let spec = NetworkSpec::from_plan(&configuration.architecture, channels, outputs)?;
    let size = match (options.size, configuration.patch_size.as_slice()) {
        (Some(size), [_, _, _]) => [size; 3],
        (Some(size), _) => [1, size, size],
        (None, &[z, y, x]) => [z, y, x],
        (None, &[y, x]) => [1, y, x],
        (None, other) => anyhow::bail!("a patch of {} axes", other.len()),
    };
    Ok((spec, size))
}

/// Number of outputs from the `dataset.json` beside the plans, else three.
fn outputs_beside(plans: &Path) -> anyhow::Result<usize> {
    let dataset = plans.with_file_name("dataset.json");
    if !dataset.is_file() {
        return Ok(3);
    }
    let dataset = glioseg_plan::Dataset::read(&dataset).context("the number of outputs")?;
    Ok(dataset.labels.num_outputs())
}

/// Values between -1.7 and 1.7 without a pattern; speed must not depend on zeros.
fn noise(i: usize) -> f32 {
    let hash = (i as u32).wrapping_mul(2_654_435_761).rotate_left(13).wrapping_mul(2_246_822_519);
    (hash >> 8) as f32 / (1u32 << 23) as f32 * 1.7 - 1.7
}
