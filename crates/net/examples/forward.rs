//! Time, arithmetic and memory of one forward pass (or training step) of a full-size network; a JSON line per choice.
//!
//! ```text
//! cargo run --release -p glioseg-net --example forward -- --net brats --size 128 --runs 3 --kernels auto --layers
//! ```
//! `--net brats|bl|bl-l|bl-gn|bl-l-gn|bl-aa`, `--step` for forward and backward with `--batch`, `--layers` for the least time of
//! every layer over the runs.
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::time::Instant;

use glioseg_net::{
    Device, Kernels, NetworkSpec, Tensor, TensorData, Unet, packed_bytes, profile_layers, set_kernels,
    set_packed_budget, take_layer_times,
};

type Failure = Box<dyn std::error::Error>;

/// Most memory that was ever resident, in bytes.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
}

fn main() -> Result<(), Failure> {
    let (mut net_name, mut size, mut runs, mut batch) = ("brats".to_owned(), 128, 3, 1);
    let (mut layers, mut step, mut kernels) = (false, false, Kernels::Auto);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or_else(|| format!("{argument} needs a value"));
        match argument.as_str() {
            "--net" => net_name = value()?,
            "--size" => size = value()?.parse()?,
            "--runs" => runs = value()?.parse()?,
            "--batch" => batch = value()?.parse()?,
            "--packed-mib" => set_packed_budget(value()?.parse::<usize>()? << 20),
            "--kernels" => {
                let word = value()?;
                kernels =
                    Kernels::named(&word).ok_or_else(|| format!("--kernels {word}: auto, direct or burn"))?;
            }
            "--layers" => layers = true,
            "--step" => step = true,
            other => return Err(format!("unknown option {other}").into()),
        }
    }
    set_kernels(kernels)?;
    let spec = match net_name.as_str() {
        "brats" => NetworkSpec::brats(3),
        other => {
            let names = NetworkSpec::BRATS21.join(", ");
            NetworkSpec::brats21(&other.replace('_', "-"))
                .ok_or_else(|| format!("--net {other}: brats, {names}"))?
        }
    };
    let device = if step { Device::flex().autodiff() } else { Device::flex() };
    let net = Unet::new(&spec, &device)?;
    let shape = [batch, spec.in_channels, size, size, size];
    let input = || {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|i| ((i.wrapping_mul(2_654_435_761) >> 7) % 2048) as f32 / 512.0 - 2.0)
            .collect();
        Tensor::<5>::from_data(TensorData::new(values, shape), &device)
    };
    let pass = |net: &Unet, x: Tensor<5>| -> f32 {
        if step {
            let heads = net.forward_heads(x);
            let loss = heads.into_iter().map(|h| h.square().mean()).reduce(|a, b| a + b).expect("heads");
            let gradients = loss.backward();
            return net.gradients(&gradients).iter().filter_map(|(_, g)| Some(g.as_ref()?[0])).sum();
        }
        net.forward(x).into_data().try_to_vec::<f32>().map_or(f32::NAN, |v| v[v.len() / 2])
    };
    let check = pass(&net, input());
    profile_layers(layers);
    let mut times = vec![];
    let mut profiles: Vec<Vec<glioseg_net::LayerTime>> = vec![];
    for _ in 0..runs {
        let x = input();
        let start = Instant::now();
        let result = pass(&net, x);
        times.push(start.elapsed().as_secs_f64());
        assert!(result.to_bits() == check.to_bits(), "{result} after {check}");
        profiles.push(take_layer_times());
    }
    let mut sorted = times.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted[sorted.len() / 2];
    let flops = spec.flops([size; 3]) as f64 * batch as f64 * if step { 3.0 } else { 1.0 };
    let line = serde_json::json!({
        "engine": format!("glioseg-{}", kernels.word()),
        "net": net_name,
        "size": size,
        "batch": batch,
        "what": if step { "step" } else { "forward" },
        "threads": rayon::current_num_threads(),
        "seconds": (median * 1e3).round() / 1e3,
        "best": (sorted[0] * 1e3).round() / 1e3,
        "runs": times.iter().map(|t| (t * 1e3).round() / 1e3).collect::<Vec<_>>(),
        "gflops": (flops / median / 1e9).round(),
        "peak_gb": peak_rss().map(|b| (b as f64 / 1e7).round() / 1e2),
        "packed_mb": packed_bytes() as f64 / 1e6,
        "parameters": net.num_parameters(),
    });
    println!("{line}");
    if layers && let Some(first) = profiles.first() {
        let mut accounted = 0.0;
        for (i, layer) in first.iter().enumerate() {
            let seconds: Vec<f64> = profiles.iter().map(|p| p[i].seconds).collect();
            let seconds = seconds.into_iter().fold(f64::INFINITY, f64::min);
            accounted += seconds;
            println!(
                "{:58} {:8.1} ms {:6.0} GFLOP/s, prepared {:6.1} MB in {:5.1} ms",
                layer.name,
                seconds * 1e3,
                layer.flops / seconds / 1e9,
                layer.packed_bytes as f64 / 1e6,
                layer.packing * 1e3
            );
        }
        println!("{:58} {:8.1} ms", "all layers", accounted * 1e3);
    }
    Ok(())
}
