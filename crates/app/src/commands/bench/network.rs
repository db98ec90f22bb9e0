//! `glioseg bench network`: forward passes of a network with random weights.

use std::time::Instant;

use burn::tensor::Device;
use glioseg_net::{LayerTime, Unet, profile_layers, take_layer_times};
use serde_json::json;

use super::{check_runs, input, median, report, rounded};
use crate::cli::BenchNetwork;
use crate::commands::{Outcome, print};
use crate::ui::Ui;

pub(super) fn run(options: &BenchNetwork, ui: &Ui) -> anyhow::Result<Outcome> {
    check_runs(options.runs)?;
    options.kernels.choose()?;
    let (spec, size) = options.net.spec()?;
    let device = Device::flex();
    let network = Unet::new(&spec, &device)?;
    spec.check_input(spec.in_channels, size)?;
    let [z, y, x] = size;
    ui.say(&format!(
        "{} parameters, input {}x{}x{z}x{y}x{x}",
        network.num_parameters(),
        options.batch,
        spec.in_channels
    ));
    let data = input(&spec, options.batch, size, &device);
    let pass = || {
        let start = Instant::now();
        let values = network.forward(data.clone()).into_data();
        (start.elapsed().as_secs_f64(), values.num_elements())
    };
    pass();
    profile_layers(options.layers);
    let mut layers: Vec<LayerTime> = Vec::new();
    let mut seconds = Vec::with_capacity(options.runs);
    for _ in 0..options.runs {
        seconds.push(pass().0);
        keep_least(&mut layers, take_layer_times());
    }
    profile_layers(false);
    for layer in &layers {
        let line = json!({
            "bench": "network",
            "layer": layer.name,
            "ms": rounded(layer.seconds * 1e3, 2),
            "preparing_weights_ms": rounded(layer.packing * 1e3, 2),
            "gflops_per_second": rounded(layer.flops / layer.seconds / 1e9, 1),
            "prepared_mib": rounded(layer.packed_bytes as f64 / (1u64 << 20) as f64, 1),
        });
        print(&line.to_string())?;
    }
    let flops = spec.flops(size) as f64 * options.batch as f64;
    let more = json!({
        "net": options.net.net,
        "size": size,
        "batch": options.batch,
        "parameters": network.num_parameters(),
        "gflop": (flops / 1e9).round(),
        "gflops_per_second": rounded(flops / median(&seconds) / 1e9, 1),
    });
    print(&report("network", &seconds, more))?;
    Ok(Outcome::Done)
}

/// Keeps the faster of two passes, layer by layer.
fn keep_least(least: &mut Vec<LayerTime>, times: Vec<LayerTime>) {
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
