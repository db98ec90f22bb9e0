//! How fast this machine's tiles are: the yardstick of the bf16 kernels.

use std::time::Instant;

use half::bf16;

use super::leaf::{PAIR, Product, ROWS, Tiles};
use super::token::Amx;

/// Steps of a product.
const STEPS: usize = 10_000;

/// GFLOP/s of tile products whose operands lie in the first-level cache, on all threads of the pool at once; the best of a hundred short
/// runs, since other programs interrupt long ones.
///
/// Other programs on the machine lower it, and with it what a kernel can reach: compare within one run.
pub fn measure_tile_peak(amx: Amx) -> f64 {
    let threads = rayon::current_num_threads();
    // Four products of 16 x 16 x 32 per step.
    let flops = 2.0 * (threads * STEPS * 4 * ROWS * ROWS * PAIR) as f64;
    let once = || {
        let start = Instant::now();
        rayon::broadcast(|_| {
            let values = vec![bf16::ONE; 2 * PAIR * PAIR];
            let mut sums = vec![0f32; 2 * ROWS * PAIR];
            let offsets = vec![0; 1000];
            let tiles = Tiles::new(amx);
            let (low, high) = sums.split_at_mut(ROWS * PAIR);
            for _ in 0..STEPS / offsets.len() {
                // SAFETY: 16 rows of 64 bytes twice, weights of one step, and sums of 16 rows of 32 values.
                unsafe {
                    tiles.multiply_same(Product {
                        voxels: [values.as_ptr(), values.as_ptr().wrapping_add(ROWS * PAIR)],
                        stride: PAIR * size_of::<bf16>(),
                        offsets: &offsets,
                        weights: values.as_ptr(),
                        sums: [low.as_mut_ptr(), high.as_mut_ptr()],
                    });
                }
            }
            std::hint::black_box(&sums);
        });
        flops / start.elapsed().as_secs_f64() / 1e9
    };
    (0..100).map(|_| once()).fold(0.0, f64::max)
}
