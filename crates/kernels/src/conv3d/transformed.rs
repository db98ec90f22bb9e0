//! Weights transformed for Winograd's method.
//!
//! A 3×3×3 kernel becomes 216 frequencies, eight values for one, and layers whose weights do not stay prepared pay for that in
//! every pass. So the lanes of a vector are the output channels of one block, which is also how the frequencies lie in memory:
//! all arithmetic is in vectors (f64, rounded once at the end), every store fills a cache line, and nothing is
//! zeroed first.

use rayon::prelude::*;

use super::cut::{CO_BLOCK, GROUPS};
use super::frequencies::{FREQ, weight_frequencies};
use super::winograd::deep;
use super::{ConvShape, WeightView};
use crate::buffer::{Buffer, Shared, Storage};
use crate::isa::{Cpu, Isa, Kernel};

/// One value of every output channel of a block.
type Lanes = [f64; CO_BLOCK];

/// Length of transformed weights.
pub(crate) fn packed_len(shape: &ConvShape) -> usize {
    GROUPS * shape.out_channels.div_ceil(CO_BLOCK) * deep(shape.kernel) * shape.in_channels * CO_BLOCK
}

/// Transformed weights, `[height and width][co / 16][depth][ci][16]`, missing output channels zero, in memory of [`packed_len`].
pub(crate) fn pack_weights<'a>(
    cpu: Cpu,
    shape: &ConvShape,
    weights: WeightView<'_>,
    memory: Option<&'a mut [f32]>,
) -> Storage<'a> {
    let blocks = shape.out_channels.div_ceil(CO_BLOCK);
    let fill = |out: Shared<'_, f32>| {
        (0..blocks * shape.in_channels).into_par_iter().for_each(|job| {
            let (block, ci) = (job / shape.in_channels, job % shape.in_channels);
            cpu.dispatch(Job { shape, weights, block, ci, out });
        });
    };
    let len = packed_len(shape);
    match memory {
        Some(memory) => {
            let memory = &mut memory[..len];
            fill(Shared::new(memory));
            Storage::Lent(memory)
        }
        // SAFETY: every block of output channels and input channel has a job, which writes all frequencies of both.
        None => Storage::Own(unsafe { Buffer::written_by(len, fill) }),
    }
}

/// All frequencies of one input channel and block of output channels.
struct Job<'a> {
    shape: &'a ConvShape,
    weights: WeightView<'a>,
    block: usize,
    ci: usize,
    out: Shared<'a, f32>,
}

impl Kernel for Job<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, _: I) {
        let shape = self.shape;
        let (cis, deep) = (shape.in_channels, deep(shape.kernel));
        let blocks = shape.out_channels.div_ceil(CO_BLOCK);
        let mut g = [[0.0; CO_BLOCK]; 27];
        for lane in 0..CO_BLOCK.min(shape.out_channels - self.block * CO_BLOCK) {
            let row = self.weights.row(self.block * CO_BLOCK + lane, self.ci);
            for (g, &tap) in g.iter_mut().zip(self.weights.taps) {
                g[lane] = f64::from(row[tap]);
            }
        }
        // Depth, then height, then width; a flat kernel has one plane of taps and of frequencies.
        let mut planes = [[[0.0; CO_BLOCK]; 9]; FREQ];
        if deep == FREQ {
            for tap in 0..9 {
                let f = transform([&g[tap], &g[9 + tap], &g[18 + tap]]);
                for z in 0..FREQ {
                    planes[z][tap] = f[z];
                }
            }
        } else {
            planes[0].copy_from_slice(&g[..9]);
        }
        for (z, plane) in planes.iter().take(deep).enumerate() {
            let mut rows = [[[0.0; CO_BLOCK]; 3]; FREQ];
            for x in 0..3 {
                let f = transform([&plane[x], &plane[3 + x], &plane[6 + x]]);
                for y in 0..FREQ {
                    rows[y][x] = f[y];
                }
            }
            for (y, row) in rows.iter().enumerate() {
                for (x, f) in transform([&row[0], &row[1], &row[2]]).iter().enumerate() {
                    let panel = ((y * FREQ + x) * blocks + self.block) * deep;
                    let at = ((panel + z) * cis + self.ci) * CO_BLOCK;
                    // SAFETY: this job alone writes this input channel of the panel.
                    unsafe { self.out.write(at, f.map(|f| f as f32)) }
                }
            }
        }
    }
}

/// [`weight_frequencies`] of every lane.
#[inline(always)]
fn transform(g: [&Lanes; 3]) -> [Lanes; FREQ] {
    let mut out = [[0.0; CO_BLOCK]; FREQ];
    for lane in 0..CO_BLOCK {
        let f = weight_frequencies([g[0][lane], g[1][lane], g[2][lane]]);
        for i in 0..FREQ {
            out[i][lane] = f[i];
        }
    }
    out
}
