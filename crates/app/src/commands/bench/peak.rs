//! `glioseg bench peak`: the yardstick of the other benches.

use glioseg_kernels::{Amx, Cpu, measure_peak, measure_tile_peak};
use serde_json::json;

use super::rounded;
use crate::commands::{Outcome, print};

pub(super) fn run() -> anyhow::Result<Outcome> {
    let cpu = Cpu::detect()?;
    let f32 = measure_peak(cpu);
    let (bf16, without) = match Amx::detect() {
        Ok(amx) => (Some(rounded(measure_tile_peak(amx), 1)), None),
        Err(reason) => (None, Some(reason.to_string())),
    };
    let line = json!({
        "bench": "peak",
        "threads": rayon::current_num_threads(),
        "kernels": cpu.name(),
        "f32_gflops_per_second": rounded(f32, 1),
        "bf16_tiles_gflops_per_second": bf16,
        "no_tiles_because": without,
    });
    print(&line.to_string())?;
    Ok(Outcome::Done)
}
