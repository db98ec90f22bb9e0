//! Times every convolution of nnU-Net's BraTS network: one JSON line per layer, then the sum.
//!
//! `cargo run --release -p glioseg-kernels --example layers -- [direct|winograd|auto] [repeats] [part of a layer's name, or
//! in,out,size,kernel,stride]`
//!
//! GFLOP/s count the direct algorithm's operations, whatever algorithm runs; the peak is a loop of fused
//! multiply-adds measured in the same run on all threads.

#![expect(clippy::print_stdout, reason = "a benchmark's output")]

use std::time::Instant;

use glioseg_kernels::{
    Algorithm, ChannelStats, ConvShape, Cpu, PackedConv, Prologue, Source, conv3d, measure_peak,
    zeroed_tensor,
};

/// Shape, channels of the first of two sources (0: one), and how often the network has it.
struct Layer {
    shape: ConvShape,
    split: usize,
    times: usize,
}

fn network() -> Vec<Layer> {
    let features = [32, 64, 128, 256, 320, 320];
    let mut layers = Vec::new();
    let mut add = |ci, co, size: usize, kernel: usize, stride: usize, split, times| {
        let shape = ConvShape::same(1, ci, co, [size; 3], [kernel; 3], [stride; 3]);
        layers.push(Layer { shape, split, times });
    };
    add(4, 32, 128, 3, 1, 0, 1);
    for s in 0..6 {
        let (f, size) = (features[s], 128 >> s);
        if s > 0 {
            add(features[s - 1], f, size * 2, 3, 2, 0, 1);
        }
        if s < 5 {
            add(2 * f, f, size, 3, 1, f, 1);
        }
        add(f, f, size, 3, 1, 0, if s < 5 { 2 } else { 1 });
    }
    add(32, 3, 128, 1, 1, 0, 1);
    layers
}

/// Seconds all threads of this process spent on a CPU (Linux): what the wall clock would say on a quiet machine.
fn cpu_seconds() -> Option<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += text.split(' ').next()?.parse::<f64>().ok()?;
    }
    Some(nanoseconds * 1e-9)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let algorithm = match args.next().as_deref() {
        None | Some("auto") => Algorithm::Auto,
        Some("direct") => Algorithm::Direct,
        Some("winograd") => Algorithm::Winograd,
        Some(other) => return Err(format!("unknown algorithm {other}").into()),
    };
    let repeats: usize = args.next().map_or(Ok(3), |r| r.parse())?;
    let mut only = args.next();
    let cpu = Cpu::detect()?;
    let mut peak = measure_peak(cpu);
    let (mut total, mut total_cpu) = (0.0, 0.0);
    let mut flops = 0.0;
    let numbers: Vec<usize> =
        only.iter().flat_map(|o| o.split(',')).filter_map(|n| n.parse().ok()).collect();
    let layers = if let [ci, co, size, kernel, stride] = numbers[..] {
        only = None;
        let shape = ConvShape::same(1, ci, co, [size; 3], [kernel; 3], [stride; 3]);
        vec![Layer { shape, split: 0, times: 1 }]
    } else {
        network()
    };
    for layer in layers {
        let shape = &layer.shape;
        let name = format!(
            "conv3d_k{}s{}/c{}_c{}/{}",
            shape.kernel[0], shape.stride[0], shape.in_channels, shape.out_channels, shape.input[0]
        );
        if only.as_ref().is_some_and(|o| !name.contains(o.as_str())) {
            continue;
        }
        let mut seed = 1u32;
        let mut random = |n: usize| -> Vec<f32> {
            let mut values = zeroed_tensor(n);
            for value in &mut values {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                *value = (seed >> 8) as f32 / (1 << 23) as f32 - 1.0;
            }
            values
        };
        let data = random(shape.in_len());
        let weights = random(shape.weight_len());
        let (scale, shift, bias) =
            (random(shape.in_channels), random(shape.in_channels), random(shape.out_channels));
        let first = if layer.split == 0 { shape.in_channels } else { layer.split };
        let (low, high) = data.split_at(first * shape.in_voxels());
        let source = |data, range: std::ops::Range<usize>| Source {
            data,
            channels: range.len(),
            prologue: Some(Prologue { scale: &scale[range.clone()], shift: &shift[range], slope: 0.01 }),
        };
        let mut sources = vec![source(low, 0..first)];
        if !high.is_empty() {
            sources.push(source(high, first..shape.in_channels));
        }
        let packed = PackedConv::new(cpu, shape, &weights, algorithm);
        let mut out = zeroed_tensor(shape.out_len());
        let mut stats = ChannelStats::new(1, shape.out_channels, shape.out_voxels());
        let (mut best, mut best_cpu) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..repeats {
            let (start, cpu_start) = (Instant::now(), cpu_seconds());
            conv3d(shape, &sources, &packed, Some(&bias), &mut out, Some(&mut stats));
            best = best.min(start.elapsed().as_secs_f64());
            if let (Some(from), Some(to)) = (cpu_start, cpu_seconds()) {
                best_cpu = best_cpu.min(to - from);
            }
        }
        peak = peak.max(measure_peak(cpu));
        let rate = shape.flops() / best / 1e9;
        println!(
            "{{\"layer\":\"{name}\",\"times\":{},\"algorithm\":\"{}\",\"ms\":{:.2},\"cpu_ms\":{:.2},\"gflops\":{rate:.1},\"of_peak\":{:.3}}}",
            layer.times,
            packed.algorithm().word(),
            best * 1e3,
            best_cpu * 1e3,
            rate / peak
        );
        total_cpu += best_cpu * layer.times as f64;
        total += best * layer.times as f64;
        flops += shape.flops() * layer.times as f64;
    }
    println!(
        "{{\"layer\":\"sum\",\"isa\":\"{}\",\"threads\":{},\"ms\":{:.1},\"cpu_ms\":{:.1},\"gflops\":{:.1},\"peak_gflops\":{peak:.1},\"of_peak\":{:.3}}}",
        cpu.name(),
        rayon::current_num_threads(),
        total * 1e3,
        total_cpu * 1e3,
        flops / total / 1e9,
        flops / total / 1e9 / peak
    );
    Ok(())
}
