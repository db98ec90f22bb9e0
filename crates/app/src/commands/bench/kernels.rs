//! `glioseg bench kernels`: every layer's convolution alone, forward or one of its gradients.
//!
//! GFLOP/s count the direct algorithm's operations, whatever algorithm runs; the peak is a loop of fused multiply-adds, measured
//! in the same run on all threads. `cpu_ms` is the processor time of all threads: on a busy machine it tells more
//! than the clock.

use std::time::Instant;

use glioseg_kernels::{
    Algorithm, ChannelStats, ConvShape, Cpu, PackedBackwardData, PackedConv, PackedTransposed, Prologue,
    Source, TransposedShape, backward_weights_scratch, conv_transpose3d, conv3d, conv3d_backward_data,
    conv3d_backward_weights, measure_peak, zeroed_tensor,
};
use glioseg_net::program::{Conv, MapId, Step};
use glioseg_net::{Mode, NetError, NetworkSpec, Program};
use serde_json::json;

use super::{check_runs, noise, rounded};
use crate::cli::{BenchKernels, KernelAlgorithm, KernelPass};
use crate::commands::{Outcome, print};
use crate::problem::Problem;
use crate::ui::Ui;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    /// With the channels of the first of two sources; zero for one source.
    Conv(ConvShape, usize),
    Transposed(TransposedShape),
}

/// A layer and how often the network has it.
#[derive(Debug)]
struct Layer {
    kind: Kind,
    times: usize,
}

impl Layer {
    fn name(&self) -> String {
        let join = |axes: [usize; 3]| {
            let same = axes.iter().all(|&a| a == axes[0]);
            if same { axes[0].to_string() } else { axes.map(|a| a.to_string()).join("x") }
        };
        match self.kind {
            Kind::Conv(s, _) => format!(
                "conv3d_k{}s{}/c{}_c{}/{}",
                join(s.kernel),
                join(s.stride),
                s.in_channels,
                s.out_channels,
                join(s.input)
            ),
            Kind::Transposed(s) => {
                let (ci, co) = (s.in_channels, s.out_channels);
                format!("transposed_k{}/c{ci}_c{co}/{}", join(s.kernel), join(s.input))
            }
        }
    }

    fn flops(&self) -> f64 {
        match self.kind {
            Kind::Conv(s, _) => s.flops(),
            Kind::Transposed(s) => s.flops(),
        }
    }
}

pub(super) fn run(options: &BenchKernels, ui: &Ui) -> anyhow::Result<Outcome> {
    check_runs(options.runs)?;
    let cpu = Cpu::detect()?;
    let (spec, size) = options.net.spec()?;
    let mut peak = measure_peak(cpu);
    let (mut total, mut flops) = ([0.0; 2], 0.0);
    let mut found = false;
    for layer in layers(&spec, size, options.batch)? {
        let name = layer.name();
        if options.layer.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
            continue;
        }
        found = true;
        ui.begin(&name);
        let (seconds, algorithm) = time(cpu, layer.kind, options);
        ui.stop();
        peak = peak.max(measure_peak(cpu));
        let rate = layer.flops() / seconds[0] / 1e9;
        let line = json!({
            "bench": "kernels",
            "layer": name,
            "pass": options.pass.word(),
            "times": layer.times,
            "algorithm": algorithm,
            "ms": rounded(seconds[0] * 1e3, 2),
            "cpu_ms": rounded(seconds[1] * 1e3, 2),
            "gflops_per_second": rounded(rate, 1),
            "of_peak": rounded(rate / peak, 3),
        });
        print(&line.to_string())?;
        for i in 0..2 {
            total[i] += seconds[i] * layer.times as f64;
        }
        flops += layer.flops() * layer.times as f64;
    }
    if !found {
        let part = options.layer.clone().unwrap_or_default();
        return Err(Problem::new(
            format!("no layer's name contains `{part}`"),
            "run without --layer to see all names, such as conv3d_k3s1/c32_c32/128",
        ));
    }
    let rate = flops / total[0] / 1e9;
    let line = json!({
        "bench": "kernels",
        "layer": "sum",
        "pass": options.pass.word(),
        "isa": cpu.name(),
        "threads": rayon::current_num_threads(),
        "batch": options.batch,
        "ms": rounded(total[0] * 1e3, 1),
        "cpu_ms": rounded(total[1] * 1e3, 1),
        "gflops_per_second": rounded(rate, 1),
        "peak_gflops_per_second": rounded(peak, 1),
        "of_peak": rounded(rate / peak, 3),
    });
    print(&line.to_string())?;
    Ok(Outcome::Done)
}

/// All convolutions of a network for an input of `size` voxels; equal ones are counted together.
fn layers(spec: &NetworkSpec, size: [usize; 3], batch: usize) -> Result<Vec<Layer>, NetError> {
    let program = Program::new(spec, batch, size, Mode::Predict)?;
    let channels = |map: MapId| program.map(map).channels;
    let conv = |conv: &Conv, inputs: [usize; 2], from: MapId, out: MapId| {
        let shape = ConvShape {
            batch,
            in_channels: inputs.iter().sum(),
            out_channels: channels(out),
            input: program.map(from).size,
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
        };
        Kind::Conv(shape, if inputs[1] > 0 { inputs[0] } else { 0 })
    };
    let transposed = |conv: &Conv, from: MapId, out_channels: usize| {
        Kind::Transposed(TransposedShape {
            batch,
            in_channels: channels(from),
            out_channels,
            input: program.map(from).size,
            kernel: conv.kernel,
        })
    };
    let mut found: Vec<Layer> = Vec::new();
    let mut add = |kind: Kind| match found.iter_mut().find(|l| l.kind == kind) {
        Some(layer) => layer.times += 1,
        None => found.push(Layer { kind, times: 1 }),
    };
    for step in &program.forward {
        match step {
            Step::Block(s) => {
                let second = s.inputs.get(1).map_or(0, |&map| channels(map));
                add(conv(&s.conv, [channels(s.inputs[0]), second], s.inputs[0], s.out));
            }
            Step::UpBlock(s) => {
                add(transposed(&s.up, s.below, s.between.channels));
                add(conv(&s.conv, [s.between.channels, channels(s.skip)], s.skip, s.out));
            }
            Step::Up(s) => add(transposed(&s.conv, s.input, channels(s.out))),
            Step::Head(s) => add(conv(&s.conv, [channels(s.input), 0], s.input, s.out)),
            Step::AddActivate(_) | Step::Pool(_) | Step::Attention(_) => {}
        }
    }
    Ok(found)
}

/// Seconds all threads of this process spent on a CPU, where the system tells (Linux).
fn cpu_seconds() -> Option<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += text.split(' ').next()?.parse::<f64>().ok()?;
    }
    Some(nanoseconds * 1e-9)
}

/// The least seconds on the clock and on the processors.
fn best(runs: usize, mut work: impl FnMut()) -> [f64; 2] {
    let mut best = [f64::INFINITY; 2];
    for _ in 0..runs {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        work();
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        if let (Some(from), Some(to)) = (cpu_start, cpu_seconds()) {
            best[1] = best[1].min(to - from);
        }
    }
    best
}

fn random(len: usize) -> Vec<f32> {
    let mut values = zeroed_tensor(len);
    values.iter_mut().enumerate().for_each(|(i, v)| *v = noise(i));
    values
}

/// Seconds and the algorithm's word.
fn time(cpu: Cpu, kind: Kind, options: &BenchKernels) -> ([f64; 2], &'static str) {
    let (in_len, weight_len, out_len, rows, outs) = match kind {
        Kind::Conv(s, _) => {
            (s.in_len(), s.weight_len(), s.out_len(), s.batch * s.in_channels, s.out_channels)
        }
        Kind::Transposed(s) => {
            (s.in_len(), s.weight_len(), s.out_len(), s.batch * s.in_channels, s.out_channels)
        }
    };
    let (data, weights, scale, shift) = (random(in_len), random(weight_len), random(rows), random(rows));
    let bias = random(outs);
    let prologue = |r: std::ops::Range<usize>| {
        Some(Prologue { scale: &scale[r.clone()], shift: &shift[r], slope: 0.01 })
    };
    let algorithm = match options.algorithm {
        KernelAlgorithm::Auto => Algorithm::Auto,
        KernelAlgorithm::Direct => Algorithm::Direct,
        KernelAlgorithm::Winograd => Algorithm::Winograd,
        KernelAlgorithm::Gemm => Algorithm::Gemm,
    };
    match (kind, options.pass) {
        (Kind::Conv(shape, split), KernelPass::Forward | KernelPass::Weights) => {
            let split = if shape.batch > 1 { 0 } else { split };
            let first = if split == 0 { shape.in_channels } else { split };
            let (low, high) = data.split_at(shape.batch * first * shape.in_voxels());
            let mut sources =
                vec![Source { data: low, channels: first, prologue: prologue(0..shape.batch * first) }];
            if !high.is_empty() {
                let prologue = prologue(first..shape.in_channels);
                sources.push(Source { data: high, channels: shape.in_channels - first, prologue });
            }
            if options.pass == KernelPass::Weights {
                let grad = random(out_len);
                let grad = Source::plain(&grad, shape.out_channels);
                let mut result = vec![0.0; weight_len];
                let mut scratch = zeroed_tensor(backward_weights_scratch(cpu, &shape, Algorithm::Auto).lent);
                let work = || conv3d_backward_weights(cpu, &shape, &sources, grad, &mut result, &mut scratch);
                return (best(options.runs, work), "auto");
            }
            let algorithm = if algorithm.supports(&shape) { algorithm } else { Algorithm::Auto };
            let packed = PackedConv::new(cpu, &shape, &weights, algorithm);
            let mut out = zeroed_tensor(out_len);
            let mut stats = ChannelStats::new(shape.batch, shape.out_channels, shape.out_voxels());
            let mut scratch = zeroed_tensor(PackedConv::scratch(cpu, &shape, algorithm).lent);
            let work = || {
                conv3d(&shape, &sources, &packed, Some(&bias), &mut out, Some(&mut stats), &mut scratch);
            };
            (best(options.runs, work), packed.algorithm().word())
        }
        (Kind::Conv(shape, _), KernelPass::Data) => {
            let packed = PackedBackwardData::new(cpu, &shape, &weights, algorithm);
            let grad = random(out_len);
            let mut result = zeroed_tensor(in_len);
            let mut scratch = zeroed_tensor(PackedBackwardData::scratch(cpu, &shape, algorithm).lent);
            let work = || conv3d_backward_data(&shape, &grad, &packed, &mut scratch, &mut result);
            (best(options.runs, work), packed.algorithm().word())
        }
        (Kind::Transposed(shape), KernelPass::Forward) => {
            let packed = PackedTransposed::new(cpu, &shape, &weights);
            let source = Source { data: &data, channels: shape.in_channels, prologue: prologue(0..rows) };
            let mut out = zeroed_tensor(out_len);
            let work = || conv_transpose3d(&shape, source, &packed, Some(&bias), &mut out);
            (best(options.runs, work), "direct")
        }
        (Kind::Transposed(shape), KernelPass::Data) => {
            let gradient = shape.gradient_shape();
            let grad = random(out_len);
            let sources = [Source::plain(&grad, shape.out_channels)];
            let packed = PackedConv::new(cpu, &gradient, &weights, Algorithm::Auto);
            let mut result = zeroed_tensor(in_len);
            let mut scratch = zeroed_tensor(PackedConv::scratch(cpu, &gradient, Algorithm::Auto).lent);
            let work = || conv3d(&gradient, &sources, &packed, None, &mut result, None, &mut scratch);
            (best(options.runs, work), packed.algorithm().word())
        }
        (Kind::Transposed(shape), KernelPass::Weights) => {
            let gradient = shape.gradient_shape();
            let grad = random(out_len);
            let sources = [Source::plain(&grad, shape.out_channels)];
            let source = Source { data: &data, channels: shape.in_channels, prologue: prologue(0..rows) };
            let mut result = vec![0.0; weight_len];
            let mut scratch = zeroed_tensor(backward_weights_scratch(cpu, &gradient, Algorithm::Auto).lent);
            let work =
                || conv3d_backward_weights(cpu, &gradient, &sources, source, &mut result, &mut scratch);
            (best(options.runs, work), "auto")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layers_have_all_the_networks_operations() -> Result<(), NetError> {
        let residual = NetworkSpec::residual(
            4,
            3,
            &[(8, [3; 3], [1; 3]), (16, [3; 3], [2; 3]), (16, [1, 3, 3], [1, 2, 2])],
            &[1, 2, 2],
        );
        for (spec, size) in [(NetworkSpec::brats(3), [64; 3]), (residual, [16, 32, 24])] {
            let found: f64 = layers(&spec, size, 1)?.iter().map(|l| l.flops() * l.times as f64).sum();
            let expected = spec.flops(size)? as f64;
            assert!((found / expected - 1.0).abs() < 0.01, "{found} of {expected}");
        }
        Ok(())
    }

    #[test]
    fn names_say_kernel_stride_channels_and_size() -> Result<(), NetError> {
        let names: Vec<String> =
            layers(&NetworkSpec::brats(3), [128; 3], 1)?.iter().map(Layer::name).collect();
        for name in ["conv3d_k3s1/c64_c32/128", "conv3d_k3s2/c32_c64/128", "transposed_k2/c64_c32/64"] {
            assert!(names.iter().any(|n| n == name), "{name} in {names:?}");
        }
        Ok(())
    }
}
