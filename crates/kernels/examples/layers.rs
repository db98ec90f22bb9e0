//! Times every convolution of nnU-Net's BraTS network: one JSON line per layer, then the sum.
//!
//! ```text
//! cargo run --release -p glioseg-kernels --example layers -- \
//!     [--pass forward|data|weights] [--algorithm auto|direct|winograd] [--repeats 3] [--batch 1] [--size 128] \
//!     [--layer PART_OF_A_NAME] [--shape IN,OUT,SIZE,KERNEL,STRIDE]
//! ```
//!
//! The passes are the forward one (with the prologue and the sums that the network has) and the gradients of input and
//! weights. GFLOP/s count the direct algorithm's operations, whatever algorithm runs; the peak is a loop of fused
//! multiply-adds measured in the same run on all threads. `cpu_ms` is processor time of all threads: on a busy machine
//! it tells more than the clock.

#![expect(clippy::print_stdout, reason = "a benchmark's output")]

use std::time::Instant;

use glioseg_kernels::{
    Algorithm, ChannelStats, ConvShape, Cpu, PackedBackwardData, PackedConv, PackedTransposed, Prologue,
    Source, TransposedShape, conv_transpose3d, conv3d, conv3d_backward_data, conv3d_backward_weights,
    measure_peak, zeroed_tensor,
};

#[derive(Clone, Copy, PartialEq)]
enum Pass {
    Forward,
    Data,
    Weights,
}

struct Options {
    pass: Pass,
    algorithm: Algorithm,
    repeats: usize,
    batch: usize,
    size: usize,
    layer: Option<String>,
    shape: Option<[usize; 5]>,
}

impl Options {
    fn parse() -> Result<Self, Box<dyn std::error::Error>> {
        let mut options = Self {
            pass: Pass::Forward,
            algorithm: Algorithm::Auto,
            repeats: 3,
            batch: 1,
            size: 128,
            layer: None,
            shape: None,
        };
        let mut args = std::env::args().skip(1);
        while let Some(name) = args.next() {
            let value = args.next().ok_or_else(|| format!("{name} needs a value"))?;
            match (name.as_str(), value.as_str()) {
                ("--pass", "forward") => options.pass = Pass::Forward,
                ("--pass", "data") => options.pass = Pass::Data,
                ("--pass", "weights") => options.pass = Pass::Weights,
                ("--algorithm", "auto") => options.algorithm = Algorithm::Auto,
                ("--algorithm", "direct") => options.algorithm = Algorithm::Direct,
                ("--algorithm", "winograd") => options.algorithm = Algorithm::Winograd,
                ("--repeats", n) => options.repeats = n.parse()?,
                ("--batch", n) => options.batch = n.parse()?,
                ("--size", n) => options.size = n.parse()?,
                ("--layer", part) => options.layer = Some(part.to_owned()),
                ("--shape", numbers) => {
                    let numbers: Vec<usize> = numbers.split(',').map(str::parse).collect::<Result<_, _>>()?;
                    options.shape = Some(numbers.try_into().map_err(|_| "--shape needs five numbers")?);
                }
                _ => return Err(format!("unknown option {name} {value}").into()),
            }
        }
        Ok(options)
    }
}

#[derive(Clone, Copy)]
enum Kind {
    /// Channels of the first of two sources; zero for one source.
    Conv(ConvShape, usize),
    Transposed(TransposedShape),
}

/// A layer and how often the network has it.
struct Layer {
    kind: Kind,
    times: usize,
}

impl Layer {
    fn name(&self) -> String {
        match self.kind {
            Kind::Conv(s, _) => format!(
                "conv3d_k{}s{}/c{}_c{}/{}",
                s.kernel[0], s.stride[0], s.in_channels, s.out_channels, s.input[0]
            ),
            Kind::Transposed(s) => {
                format!("transposed_k{}/c{}_c{}/{}", s.kernel[0], s.in_channels, s.out_channels, s.input[0])
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

fn network(batch: usize, size: usize) -> Vec<Layer> {
    let features = [32, 64, 128, 256, 320, 320];
    let conv = |ci, co, size: usize, kernel: usize, stride: usize, split, times| {
        let shape = ConvShape::same(batch, ci, co, [size; 3], [kernel; 3], [stride; 3]);
        Layer { kind: Kind::Conv(shape, split), times }
    };
    let mut layers = vec![conv(4, 32, size, 3, 1, 0, 1)];
    for s in 0..6 {
        let (f, size) = (features[s], size >> s);
        if s > 0 {
            layers.push(conv(features[s - 1], f, size * 2, 3, 2, 0, 1));
            layers.push(Layer {
                kind: Kind::Transposed(TransposedShape {
                    batch,
                    in_channels: f,
                    out_channels: features[s - 1],
                    input: [size; 3],
                    kernel: [2; 3],
                }),
                times: 1,
            });
        }
        if s < 5 {
            layers.push(conv(2 * f, f, size, 3, 1, f, 1));
        }
        layers.push(conv(f, f, size, 3, 1, 0, if s < 5 { 2 } else { 1 }));
    }
    layers.push(conv(32, 3, size, 1, 1, 0, 1));
    layers
}

/// Seconds all threads of this process spent on a CPU (Linux).
fn cpu_seconds() -> Option<f64> {
    let mut nanoseconds = 0.0;
    for task in std::fs::read_dir("/proc/self/task").ok()? {
        let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        nanoseconds += text.split(' ').next()?.parse::<f64>().ok()?;
    }
    Some(nanoseconds * 1e-9)
}

/// The least seconds on the clock and on the processors.
fn best(repeats: usize, mut work: impl FnMut()) -> [f64; 2] {
    let mut best = [f64::INFINITY; 2];
    for _ in 0..repeats {
        let (start, cpu_start) = (Instant::now(), cpu_seconds());
        work();
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        if let (Some(from), Some(to)) = (cpu_start, cpu_seconds()) {
            best[1] = best[1].min(to - from);
        }
    }
    best
}

fn random(n: usize) -> Vec<f32> {
    let mut seed = n as u32;
    let mut values = zeroed_tensor(n);
    for value in &mut values {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *value = (seed >> 8) as f32 / (1 << 23) as f32 - 1.0;
    }
    values
}

/// Seconds and the algorithm's word.
fn time(cpu: Cpu, kind: Kind, options: &Options) -> ([f64; 2], &'static str) {
    let (in_len, weight_len, out_len, rows) = match kind {
        Kind::Conv(s, _) => (s.in_len(), s.weight_len(), s.out_len(), s.batch * s.in_channels),
        Kind::Transposed(s) => (s.in_len(), s.weight_len(), s.out_len(), s.batch * s.in_channels),
    };
    let (data, weights, scale, shift) = (random(in_len), random(weight_len), random(rows), random(rows));
    let bias = random(640);
    let mut out = zeroed_tensor(out_len);
    let prologue = |r: std::ops::Range<usize>| {
        Some(Prologue { scale: &scale[r.clone()], shift: &shift[r], slope: 0.01 })
    };
    match (kind, options.pass) {
        (Kind::Conv(shape, split), Pass::Forward | Pass::Weights) => {
            let split = if shape.batch > 1 { 0 } else { split };
            let first = if split == 0 { shape.in_channels } else { split };
            let (low, high) = data.split_at(shape.batch * first * shape.in_voxels());
            let mut sources =
                vec![Source { data: low, channels: first, prologue: prologue(0..shape.batch * first) }];
            if !high.is_empty() {
                let prologue = prologue(first..shape.in_channels);
                sources.push(Source { data: high, channels: shape.in_channels - first, prologue });
            }
            if options.pass == Pass::Weights {
                let grad = random(out_len);
                let grad = Source::plain(&grad, shape.out_channels);
                let mut result = vec![0.0; weight_len];
                let work = || conv3d_backward_weights(cpu, &shape, &sources, grad, &mut result);
                return (best(options.repeats, work), "direct");
            }
            let algorithm =
                if options.algorithm.supports(&shape) { options.algorithm } else { Algorithm::Auto };
            let packed = PackedConv::new(cpu, &shape, &weights, algorithm);
            let mut stats = ChannelStats::new(shape.batch, shape.out_channels, shape.out_voxels());
            let bias = &bias[..shape.out_channels];
            let work = || conv3d(&shape, &sources, &packed, Some(bias), &mut out, Some(&mut stats));
            (best(options.repeats, work), packed.algorithm().word())
        }
        (Kind::Conv(shape, _), Pass::Data) => {
            let packed = PackedBackwardData::new(cpu, &shape, &weights, options.algorithm);
            let grad = random(out_len);
            let mut result = zeroed_tensor(in_len);
            let work = || conv3d_backward_data(&shape, &grad, &packed, &mut result);
            (best(options.repeats, work), packed.algorithm().word())
        }
        (Kind::Transposed(shape), Pass::Forward) => {
            let packed = PackedTransposed::new(cpu, &shape, &weights);
            let source = Source { data: &data, channels: shape.in_channels, prologue: prologue(0..rows) };
            let bias = &bias[..shape.out_channels];
            let work = || conv_transpose3d(&shape, source, &packed, Some(bias), &mut out);
            (best(options.repeats, work), "direct")
        }
        (Kind::Transposed(shape), pass) => {
            let gradient = shape.gradient_shape();
            let grad = random(out_len);
            let sources = [Source::plain(&grad, shape.out_channels)];
            if pass == Pass::Data {
                let packed = PackedConv::new(cpu, &gradient, &weights, Algorithm::Auto);
                let mut result = zeroed_tensor(in_len);
                let work = || conv3d(&gradient, &sources, &packed, None, &mut result, None);
                (best(options.repeats, work), packed.algorithm().word())
            } else {
                let source = Source { data: &data, channels: shape.in_channels, prologue: prologue(0..rows) };
                let mut result = vec![0.0; weight_len];
                let work = || conv3d_backward_weights(cpu, &gradient, &sources, source, &mut result);
                (best(options.repeats, work), "direct")
            }
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = Options::parse()?;
    let cpu = Cpu::detect()?;
    let mut peak = measure_peak(cpu);
    let (mut total, mut flops) = ([0.0; 2], 0.0);
    let layers = match options.shape {
        None => network(options.batch, options.size),
        Some([ci, co, size, kernel, stride]) => {
            let shape = ConvShape::same(options.batch, ci, co, [size; 3], [kernel; 3], [stride; 3]);
            vec![Layer { kind: Kind::Conv(shape, 0), times: 1 }]
        }
    };
    for layer in layers {
        let name = layer.name();
        if options.layer.as_ref().is_some_and(|part| !name.contains(part.as_str())) {
            continue;
        }
        let (seconds, algorithm) = time(cpu, layer.kind, &options);
        peak = peak.max(measure_peak(cpu));
        let rate = layer.flops() / seconds[0] / 1e9;
        println!(
            "{{\"layer\":\"{name}\",\"times\":{},\"algorithm\":\"{algorithm}\",\"ms\":{:.2},\"cpu_ms\":{:.2},\
             \"gflops\":{rate:.1},\"of_peak\":{:.3}}}",
            layer.times,
            seconds[0] * 1e3,
            seconds[1] * 1e3,
            rate / peak
        );
        for i in 0..2 {
            total[i] += seconds[i] * layer.times as f64;
        }
        flops += layer.flops() * layer.times as f64;
    }
    let rate = flops / total[0] / 1e9;
    println!(
        "{{\"layer\":\"sum\",\"isa\":\"{}\",\"threads\":{},\"ms\":{:.1},\"cpu_ms\":{:.1},\"gflops\":{rate:.1},\
         \"peak_gflops\":{peak:.1},\"of_peak\":{:.3}}}",
        cpu.name(),
        rayon::current_num_threads(),
        total[0] * 1e3,
        total[1] * 1e3,
        rate / peak
    );
    Ok(())
}
