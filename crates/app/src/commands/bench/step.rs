//! `glioseg bench step`: training steps with nnU-Net's loss and optimiser, on noise.

use std::time::Instant;

use burn::tensor::Device;
use glioseg_net::loss::{LossOptions, Targets, deep_supervision_weights};
use glioseg_net::optimiser::{Optimiser, OptimiserOptions};
use glioseg_net::{StepOptions, Unet, training_step};
use serde_json::json;

use super::{check_runs, input, median, noise, report, rounded};
use crate::cli::BenchStep;
use crate::commands::{Outcome, print};
use crate::ui::Ui;

pub(super) fn run(options: &BenchStep, ui: &Ui) -> anyhow::Result<Outcome> {
    check_runs(options.runs)?;
    options.kernels.choose()?;
    let (spec, size) = options.net.spec()?;
    spec.check_input(spec.in_channels, size)?;
    let device = Device::flex().autodiff();
    let mut network = Unet::new(&spec, &device)?;
    let parameters = network.num_parameters();
    let [z, y, x] = size;
    let batch = options.batch;
    ui.say(&format!("{parameters} parameters, input {batch}x{}x{z}x{y}x{x}", spec.in_channels));
    let targets: Vec<Vec<u8>> = spec
        .head_sizes(size)
        .iter()
        .map(|head| {
            let values = batch * spec.num_outputs * head.iter().product::<usize>();
            (0..values).map(|i| u8::from(noise(i) > 1.0)).collect()
        })
        .collect();
    let targets: Vec<Targets<'_>> = targets.iter().map(|t| Targets::Regions(t)).collect();
    let loss = LossOptions::v2(true, false);
    let weights = deep_supervision_weights(targets.len());
    let step = StepOptions { loss: &loss, weights: &weights, lr: 0.01, clip: Some(12.0) };
    let mut optimiser = Optimiser::new(OptimiserOptions::NNUNET, &network);
    let mut seconds = Vec::with_capacity(options.runs);
    // One to warm up.
    for run in 0..=options.runs {
        let data = input(&spec, batch, size, &device);
        let start = Instant::now();
        let done = training_step(&mut network, &mut optimiser, data, &targets, &step)?;
        if !done.done {
            anyhow::bail!("the step's loss is {}", done.loss.total);
        }
        if run > 0 {
            seconds.push(start.elapsed().as_secs_f64());
        }
    }
    // Forward, gradient of the inputs, gradient of the weights: three times the forward pass's operations.
    let flops = 3.0 * spec.flops(size) as f64 * batch as f64;
    let more = json!({
        "net": options.net.net,
        "size": size,
        "batch": batch,
        "parameters": parameters,
        "gflop": (flops / 1e9).round(),
        "gflops_per_second": rounded(flops / median(&seconds) / 1e9, 1),
    });
    print(&report("step", &seconds, more))?;
    Ok(Outcome::Done)
}
