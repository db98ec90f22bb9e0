//! `glioseg bench network`: forward passes of a network with random weights.

use std::sync::Arc;
use std::time::Instant;

use glioseg_kernels::{Amx, Cpu, measure_peak, measure_tile_peak};
use glioseg_net::{LayerTime, Mode, Parameters, Precision, Program};
use serde_json::json;

use super::{check_runs, input, median, report, rounded};
use crate::cli::BenchNetwork;
use crate::commands::{Outcome, print};
use crate::ui::Ui;

pub(super) fn run(options: &BenchNetwork, ui: &Ui) -> anyhow::Result<Outcome> {
    check_runs(options.runs)?;
    let choice = options.compute.engine(ui)?;
    let (spec, size) = options.net.spec()?;
    let mut engine = choice.start()?;
    let memory = engine.prepare(&Program::new(&spec, options.batch, size, Mode::Predict)?)?;
    let weights = Parameters::random(&spec, 0)?;
    let parameters = weights.num_trained();
    engine.load(Arc::new(weights))?;
    let [z, y, x] = size;
    ui.say(&format!(
        "{parameters} parameters, input {}x{}x{z}x{y}x{x}, memory {memory}",
        options.batch, spec.in_channels
    ));
    let data = input(&spec, options.batch, size);
    engine.forward(&data)?;
    engine.profile(options.layers);
    let mut layers: Vec<LayerTime> = Vec::new();
    let mut seconds = Vec::with_capacity(options.runs);
    for _ in 0..options.runs {
        let start = Instant::now();
        engine.forward(&data)?;
        seconds.push(start.elapsed().as_secs_f64());
        keep_least(&mut layers, engine.take_layer_times());
    }
    if options.layers {
        print_layers("network", choice.precision, &layers)?;
    }
    let flops = spec.flops(size)? as f64 * options.batch as f64;
    let more = json!({
        "net": options.net.net,
        "size": size,
        "batch": options.batch,
        "parameters": parameters,
        "planned_gib": rounded(memory.total() as f64 / (1u64 << 30) as f64, 3),
        "gflop": (flops / 1e9).round(),
        "gflops_per_second": rounded(flops / median(&seconds) / 1e9, 1),
    });
    print(&report("network", choice, &seconds, more))?;
    Ok(Outcome::Done)
}

/// A line per layer, with its share of the peak of this moment.
pub(super) fn print_layers(bench: &str, precision: Precision, layers: &[LayerTime]) -> anyhow::Result<()> {
    let peak = peak(precision)?;
    for layer in layers {
        let per_second = layer.flops / layer.seconds / 1e9;
        let line = json!({
            "bench": bench,
            "layer": layer.name,
            "ms": rounded(layer.seconds * 1e3, 2),
            "preparing_weights_ms": rounded(layer.packing * 1e3, 2),
            "gflops_per_second": rounded(per_second, 1),
            "of_peak": rounded(per_second / peak, 3),
            "prepared_mib": rounded(layer.packed_bytes as f64 / (1u64 << 20) as f64, 1),
        });
        print(&line.to_string())?;
    }
    Ok(())
}

/// GFLOP/s of this moment that no product of this precision exceeds.
fn peak(precision: Precision) -> anyhow::Result<f64> {
    Ok(match precision {
        Precision::F32 => measure_peak(Cpu::detect()?),
        Precision::Bf16 => measure_tile_peak(Amx::detect()?),
    })
}

/// Keeps the faster of two passes, layer by layer.
pub(super) fn keep_least(least: &mut Vec<LayerTime>, times: Vec<LayerTime>) {
    if least.len() != times.len() {
        *least = times;
        return;
    }
    for (least, time) in least.iter_mut().zip(times) {
        if time.seconds < least.seconds {
            *least = time;
        }
    }
}
