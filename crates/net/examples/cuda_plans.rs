//! Plans every convolution of full-size networks with cuDNN for GPUs that are only described: `cuda_plans DEVICE.json …`.
//!
//! Needs no GPU, but cuDNN 9.8 or later (`GLIOSEG_CUDA_LIBS`) and a `libcuda.so.1` that can be opened. A description is cuDNN's own
//! JSON of a device's properties.
#![expect(clippy::print_stdout, reason = "a program for developers")]

use std::collections::BTreeSet;
use std::error::Error;
use std::time::Instant;

use glioseg_cuda::{Convolution, Cudnn, DeviceProperties, Element, Libraries, Plan, Target};
use glioseg_net::engine::cuda::convolutions;
use glioseg_net::{Mode, NetworkSpec, Program, networks};

/// nnU-Net's residual encoder in its medium setting.
fn residual_encoder() -> NetworkSpec {
    let features = [32, 64, 128, 256, 320, 320];
    let stage = |(s, f): (usize, usize)| (f, [3; 3], if s == 0 { [1; 3] } else { [2; 3] });
    let stages: Vec<_> = features.into_iter().enumerate().map(stage).collect();
    NetworkSpec::residual(4, 3, &stages, &[1, 3, 4, 6, 6, 6])
}

/// Every convolution of a training step and of a prediction of four tiles, once.
fn all(spec: &NetworkSpec, element: Element) -> Result<Vec<Convolution>, Box<dyn Error>> {
    let training = Mode::Train { heads: vec![true; spec.decoder.len()] };
    let mut found = vec![];
    for (batch, mode) in [(2, training), (4, Mode::Predict)] {
        found.extend(convolutions(&Program::new(spec, batch, [128; 3], mode)?, element)?);
    }
    Ok(found.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
}

fn main() -> Result<(), Box<dyn Error>> {
    let cudnn = Cudnn::open(&Libraries::find())?;
    println!("cuDNN {}", cudnn.version_text());
    for path in std::env::args().skip(1) {
        let properties = DeviceProperties::from_json(&cudnn, &std::fs::read_to_string(&path)?)?;
        let names = networks::NAMES.into_iter().chain(["resenc"]);
        for name in names {
            let spec = networks::named(name).unwrap_or_else(residual_encoder);
            // GPUs before compute capability 8.0 have no bfloat16.
            let halves = if path.contains("t4") { Element::F16 } else { Element::Bf16 };
            for element in [halves, Element::F32] {
                let (start, convolutions) = (Instant::now(), all(&spec, element)?);
                let (mut without, mut workspace) = (vec![], 0);
                for convolution in &convolutions {
                    match Plan::candidates(&cudnn, Target::Described(&properties), convolution, 1) {
                        Ok(plans) => workspace = workspace.max(plans[0].workspace),
                        Err(error) => without.push(error.to_string()),
                    }
                }
                println!(
                    "{path}: {name}, {}: {} convolutions, {} without a plan, workspace up to {} MiB, {:.1} s",
                    element.word(),
                    convolutions.len(),
                    without.len(),
                    workspace >> 20,
                    start.elapsed().as_secs_f64()
                );
                without.iter().take(3).for_each(|error| println!("    {error}"));
            }
        }
    }
    Ok(())
}
