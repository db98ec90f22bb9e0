//! `glioseg devices`: what networks could run on here, and what is missing for it.

use glioseg_cuda::{CudaError, LIBRARIES_VARIABLE, Libraries, Survey, python_folder, survey};
use glioseg_diagnose::{Diagnose, gib};
use glioseg_kernels::{Amx, Cpu};
use glioseg_net::Precision;
use glioseg_plan::free_memory;
use serde_json::{Map, Value, json};

use super::{Outcome, print};
use crate::cli::Devices;

/// What computes, or what does not: a name, what is known about it, and what is missing.
struct Device {
    name: &'static str,
    facts: Map<String, Value>,
    missing: Vec<Missing>,
}

/// Why something is not there, and what to do.
struct Missing {
    what: String,
    hint: Option<String>,
}

impl Missing {
    fn new(error: &impl Diagnose) -> Self {
        Self { what: error.to_string(), hint: error.hint() }
    }
}

pub(crate) fn run(options: &Devices) -> anyhow::Result<Outcome> {
    let devices = [cpu()?, cuda(&survey(&Libraries::find()), python_folder)];
    if options.json {
        let of = |device: &Device| {
            let mut facts = device.facts.clone();
            let missing = |m: &Missing| json!({"what": m.what, "hint": m.hint});
            facts.insert("missing".into(), device.missing.iter().map(missing).collect());
            (device.name.to_owned(), Value::Object(facts))
        };
        let all: Map<String, Value> = devices.iter().map(of).collect();
        print(&serde_json::to_string_pretty(&all)?)?;
    } else {
        for line in devices.iter().flat_map(words) {
            print(&line)?;
        }
    }
    Ok(Outcome::Done)
}

fn facts(of: impl IntoIterator<Item = (&'static str, Value)>) -> Map<String, Value> {
    of.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn cpu() -> anyhow::Result<Device> {
    let mut precisions = vec![Precision::F32.word()];
    let mut missing = vec![];
    match Amx::detect() {
        Ok(_) => precisions.push(Precision::Bf16.word()),
        Err(reason) => missing.push(Missing::new(&reason)),
    }
    let facts = facts([
        ("kernels", Cpu::detect()?.name().into()),
        ("threads", rayon::current_num_threads().into()),
        ("free_gib", free_memory().map(|bytes| (gib(bytes) * 10.0).round() / 10.0).into()),
        ("precisions", precisions.into()),
    ]);
    Ok(Device { name: "cpu", facts, missing })
}

/// `python` looks for cuDNN in the Python of this machine.
fn cuda(found: &Survey, python: impl FnOnce() -> Option<std::path::PathBuf>) -> Device {
    let (mut known, mut missing) = (Map::new(), vec![]);
    match &found.driver {
        Ok((version, gpus)) => {
            known.insert("driver".into(), format!("CUDA {version}").into());
            let gpu = |gpu: &glioseg_cuda::Gpu| {
                let [major, minor] = gpu.capability;
                json!({
                    "device": format!("cuda:{}", gpu.index),
                    "name": gpu.name,
                    "memory_gib": (gib(gpu.memory) * 10.0).round() / 10.0,
                    "multiprocessors": gpu.multiprocessors,
                    "capability": format!("{major}.{minor}"),
                })
            };
            known.insert("gpus".into(), gpus.iter().map(gpu).collect());
            if gpus.is_empty() {
                missing.push(Missing::new(&CudaError::NoGpu { index: 0, found: 0 }));
            }
        }
        Err(error) => missing.push(Missing::new(error)),
    }
    match &found.cudnn {
        Ok((version, file)) => {
            known.insert("cudnn".into(), format!("{version} ({})", file.display()).into());
        }
        Err(error) => {
            let mut missed = Missing::new(error);
            if let (CudaError::NoCudnn { .. }, Some(folder)) = (error, python()) {
                let set = format!("export {LIBRARIES_VARIABLE}={}", folder.display());
                missed.hint = Some(format!("the Python of this machine has it: {set}"));
            }
            missing.push(missed);
        }
    }
    let engine = "this version finds NVIDIA GPUs, but does not compute on them yet";
    missing.push(Missing { what: engine.into(), hint: Some("compute with --device cpu".into()) });
    Device { name: "cuda", facts: known, missing }
}

fn words(device: &Device) -> Vec<String> {
    let mut lines = vec![device.name.to_owned()];
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
        }
        Value::Null => "unknown".into(),
        other => other.to_string(),
    };
    for (name, value) in &device.facts {
        match value {
            Value::Array(items) if items.iter().any(Value::is_object) => {
                for item in items.iter().filter_map(Value::as_object) {
                    let all = item.iter().map(|(name, value)| match name.as_str() {
                        "device" => format!("{}:", text(value)),
                        "name" => text(value),
                        "memory_gib" => format!("| {} GiB", text(value)),
                        _ => format!("| {} {}", name.replace('_', " "), text(value)),
                    });
                    lines.push(format!("  {}", all.collect::<Vec<_>>().join(" ")));
                }
            }
            Value::Array(items) if items.is_empty() => {}
            _ => match name.strip_suffix("_gib") {
                Some(name) => lines.push(format!("  {name}: {} GiB", text(value))),
                None => lines.push(format!("  {name}: {}", text(value))),
            },
        }
    }
    for Missing { what, hint } in &device.missing {
        lines.push(format!("  not available: {what}"));
        lines.extend(hint.iter().map(|hint| format!("    hint: {hint}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_is_shown_with_what_is_missing_next_to_it() {
        let gpu = glioseg_cuda::Gpu {
            index: 0,
            name: "NVIDIA H100 80GB HBM3".into(),
            memory: 85_000_000_000,
            multiprocessors: 132,
            capability: [9, 0],
        };
        let no_cudnn = CudaError::NoCudnn { file: "libcudnn.so.9", searched: vec!["/a".into(), "".into()] };
        let found = Survey { driver: Ok(("13.0".into(), vec![gpu])), cudnn: Err(no_cudnn) };
        let lines = words(&cuda(&found, || Some("/env/nvidia/cudnn/lib".into())));
        insta::assert_snapshot!(lines.join("\n"), @r"
        cuda
          driver: CUDA 13.0
          cuda:0: NVIDIA H100 80GB HBM3 | 79.2 GiB | multiprocessors 132 | capability 9.0
          not available: cuDNN 9 was not found: there is no libcudnn.so.9 in /a, the system's library folders
            hint: the Python of this machine has it: export GLIOSEG_CUDA_LIBS=/env/nvidia/cudnn/lib
          not available: this version finds NVIDIA GPUs, but does not compute on them yet
            hint: compute with --device cpu
        ");
        let without = Survey { driver: Err(CudaError::NoDriver { file: "libcuda.so.1" }), ..found };
        let lines = words(&cuda(&without, || None));
        insta::assert_snapshot!(lines.join("\n"), @r"
        cuda
          not available: there is no NVIDIA driver on this machine: libcuda.so.1 was not found
            hint: install NVIDIA's driver (on Debian and Ubuntu `apt install nvidia-driver`), start containers with `--gpus all`, or compute with --device cpu
          not available: cuDNN 9 was not found: there is no libcudnn.so.9 in /a, the system's library folders
            hint: run `pip install nvidia-cudnn-cu13` (nvidia-cudnn-cu12 for drivers before 580; 0.9 GB) and set GLIOSEG_CUDA_LIBS to the folder nvidia/cudnn/lib below its site-packages; a Python environment with PyTorch has it already
          not available: this version finds NVIDIA GPUs, but does not compute on them yet
            hint: compute with --device cpu
        ");
    }
}
