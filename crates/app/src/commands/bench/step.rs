//! `glioseg bench step`: training steps with nnU-Net's loss and optimiser, on noise.

use std::sync::Arc;
use std::time::Instant;

use glioseg_net::loss::{LossOptions, Targets, deep_supervision_weights};
use glioseg_net::optimiser::{Optimiser, OptimiserOptions};
use glioseg_net::{Mode, Parameters, Program, Update};
use serde_json::json;

use super::network::{keep_least, print_layers};
use super::{check_runs, input, median, noise, report, rounded};
use crate::cli::BenchStep;
use crate::commands::{Outcome, print};
use crate::ui::Ui;

pub(super) fn run(options: &BenchStep, ui: &Ui) -> anyhow::Result<Outcome> {
    check_runs(options.runs)?;
    let choice = options.compute.engine(ui)?;
    let (spec, size) = options.net.spec()?;
    let batch = options.batch;
    let weights = deep_supervision_weights(spec.decoder.len());
    let mut engine = choice.start()?;
    let memory = engine.prepare(&Program::new(&spec, batch, size, Mode::train(&weights))?)?;
    let values = Parameters::random(&spec, 0)?;
    let parameters = values.num_trained();
    engine.load(Arc::new(values))?;
    let [z, y, x] = size;
    ui.say(&format!(
        "{parameters} parameters, input {batch}x{}x{z}x{y}x{x}, memory {memory}",
        spec.in_channels
    ));
    let targets: Vec<Vec<u8>> = spec
        .head_sizes(size)
        .iter()
        .map(|head| {
            let values = batch * spec.num_outputs * head.iter().product::<usize>();
            (0..values).map(|i| u8::from(noise(i) > 1.0)).collect()
        })
        .collect();
    let of_targets: usize = targets.iter().map(Vec::len).sum();
    let targets: Vec<Targets<'_>> = targets.iter().map(|t| Targets::Regions(t)).collect();
    let loss = LossOptions::v2(true, false);
    let optimiser = OptimiserOptions::NNUNET;
    let update = Update { loss: &loss, weights: &weights, optimiser, lr: 0.01, clip: Some(12.0), seed: 0 };
    let data = input(&spec, batch, size);
    let mut seconds = Vec::with_capacity(options.runs);
    let mut layers = vec![];
    engine.profile(options.layers);
    // One to warm up.
    for run in 0..=options.runs {
        let start = Instant::now();
        let done = engine.step(&data, &targets, &update)?;
        if !done.done {
            anyhow::bail!("the step's loss is {}", done.loss.total);
        }
        if run > 0 {
            seconds.push(start.elapsed().as_secs_f64());
            keep_least(&mut layers, engine.take_layer_times());
        }
        engine.take_layer_times();
    }
    if options.layers {
        print_layers("step", choice.precision, &layers)?;
    }
    let kept = parameters * Optimiser::bytes_per_value(optimiser);
    let planned = memory.total() + (kept + of_targets) as u64;
    // Forward, gradient of the inputs, gradient of the weights: three times the forward pass's operations.
    let flops = 3.0 * spec.flops(size)? as f64 * batch as f64;
    let more = json!({
        "net": options.net.net,
        "size": size,
        "batch": batch,
        "parameters": parameters,
        "planned_gib": rounded(planned as f64 / (1u64 << 30) as f64, 3),
        "gflop": (flops / 1e9).round(),
        "gflops_per_second": rounded(flops / median(&seconds) / 1e9, 1),
    });
    print(&report("step", choice, &seconds, more))?;
    Ok(Outcome::Done)
}
