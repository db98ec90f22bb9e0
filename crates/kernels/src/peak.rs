//! How fast this machine's multiply-add units are: the yardstick of the benchmarks.

use std::time::Instant;

use crate::isa::{Cpu, Isa, Kernel};

const ROUNDS: usize = 200_000;
const CHAINS: usize = 12;

struct Chains;

impl Kernel for Chains {
    type Out = f32;

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> f32 {
        let (a, b) = (isa.splat(std::hint::black_box(0.999)), isa.splat(std::hint::black_box(1e-3)));
        let mut acc = [isa.splat(1.0); CHAINS];
        for _ in 0..ROUNDS {
            for chain in &mut acc {
                *chain = isa.fma(*chain, a, b);
            }
        }
        let mut sum = acc[0];
        for chain in &acc[1..] {
            sum = isa.add(sum, *chain);
        }
        isa.sum(sum)
    }
}

/// GFLOP/s of independent fused multiply-adds in registers, on all threads of the pool at once; the best of five.
///
/// Other programs on the machine lower it, and with it what a kernel can reach: compare within one run.
pub fn measure_peak(cpu: Cpu) -> f64 {
    let threads = rayon::current_num_threads();
    let flops = 2.0 * (threads * ROUNDS * CHAINS * cpu.lanes()) as f64;
    let once = || {
        let start = Instant::now();
        rayon::broadcast(|_| std::hint::black_box(cpu.dispatch(Chains)));
        flops / start.elapsed().as_secs_f64() / 1e9
    };
    (0..5).map(|_| once()).fold(0.0, f64::max)
}
