//! Axial attention: self-attention of every line of a volume along one axis.
//!
//! The decision that shaped it: as many lines as a vector has lanes are gathered into a block `[channel, position, line]` that stays in
//! the cache, and everything, projections, scores, softmax and sums, happens there with lines as lanes. So a volume is read once and
//! written once per axis whatever the axis' stride, in place if wanted, and the scores of a few positions at a time are the only ones
//! that ever exist: memory is linear in the axis. The gradient does the same again and keeps nothing between the passes.

mod backward;
pub(crate) mod block;
mod matrix;

pub use backward::{AxialGradients, axial_attention_backward, position_gradients};

use rayon::prelude::*;

use crate::buffer::{Shared, with_scratch};
use crate::isa::{Cpu, Isa, Kernel};
use crate::scratch::Scratch;
use block::{Block, Heads, attend};
use matrix::{Factor, multiply};

/// Sizes of an axial attention.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AxialShape {
    /// Samples.
    pub batch: usize,
    /// Channels of input and output.
    pub channels: usize,
    /// Voxels, `[z, y, x]`.
    pub size: [usize; 3],
    /// The axis along which voxels see each other: 0, 1 or 2.
    pub axis: usize,
    /// Heads.
    pub heads: usize,
    /// Features of a head.
    pub dim_heads: usize,
}

impl AxialShape {
    /// Values of the input, and of the output.
    pub fn len(&self) -> usize {
        self.batch * self.channels * self.voxels()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Floating point operations of the forward pass: two per multiply-add.
    pub fn flops(&self) -> f64 {
        let hidden = self.hidden() as f64;
        let per_voxel = 4.0 * self.channels as f64 * hidden + 2.0 * self.positions() as f64 * hidden;
        2.0 * (self.batch * self.voxels()) as f64 * per_voxel
    }

    fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// What [`axial_attention`] takes next to its operands.
    pub fn scratch(&self, cpu: Cpu) -> Scratch {
        Scratch { per_thread: Forward::scratch(self, cpu.lanes()), lent: 0 }
    }

    /// What [`axial_attention_backward`] takes next to its operands: the caller's memory the gradients of every job.
    pub fn backward_scratch(&self, cpu: Cpu) -> Scratch {
        backward::scratch(self, cpu.lanes())
    }

    /// Features of all heads.
    fn hidden(&self) -> usize {
        self.heads * self.dim_heads
    }

    /// Voxels of a line.
    fn positions(&self) -> usize {
        self.size[self.axis]
    }

    /// Voxels from one position of a line to the next.
    fn stride(&self) -> usize {
        self.size[self.axis + 1..].iter().product()
    }

    /// Lines of a sample.
    fn lines(&self) -> usize {
        self.voxels() / self.positions().max(1)
    }

    /// Blocks of a sample.
    fn blocks(&self, lanes: usize) -> usize {
        self.lines().div_ceil(lanes)
    }

    fn check(&self, weights: &AxialWeights<'_>) {
        assert!(self.axis < 3, "axis {}", self.axis);
        let (c, hidden) = (self.channels, self.hidden());
        let lengths = [weights.q.len(), weights.kv.len(), weights.out.len(), weights.bias.len()];
        assert_eq!(lengths, [hidden * c, 2 * hidden * c, c * hidden, c], "weights of attention {self:?}");
    }
}

/// Parameters of the attention along one axis; matrices are row by row, `[out, in]`.
#[derive(Debug, Clone, Copy)]
pub struct AxialWeights<'a> {
    /// Queries, `[heads dim_heads, channels]`.
    pub q: &'a [f32],
    /// Keys, then values, `[2 heads dim_heads, channels]`.
    pub kv: &'a [f32],
    /// `[channels, heads dim_heads]`.
    pub out: &'a [f32],
    /// `[channels]`.
    pub bias: &'a [f32],
}

/// Operands of an attention along an axis.
#[derive(Debug, Clone, Copy)]
pub struct AxialCall<'a> {
    /// Its sizes.
    pub shape: &'a AxialShape,
    /// `[n, c, z, y, x]`; none if it is what the output holds.
    pub input: Option<&'a [f32]>,
    /// Added to the input, if there are any.
    pub positions: Option<Positions<'a>>,
    /// Its parameters.
    pub weights: &'a AxialWeights<'a>,
}

/// Position embeddings that are added to the input: `[channels, z]`, `[channels, y]`, `[channels, x]`.
pub type Positions<'a> = [&'a [f32]; 3];

/// What becomes of an attention's result `y`.
#[derive(Debug, Clone, Copy)]
pub enum AxialOutput<'a> {
    /// It is written.
    Store,
    /// It is added to what the output holds.
    Add,
    /// It is written with these values added: a skip connection.
    StoreWith(&'a [f32]),
}

/// Attention along an axis: `out = to_out(softmax(q kᵀ / √dim_heads) v)`, for every line and head.
///
/// `out` is `[n, c, z, y, x]`. The same bits for any number of threads.
///
/// # Panics
/// If a slice has another length than the shape says.
///
/// # Source
/// axial-attention 0.5, `SelfAttention` within `PermuteToFrom`.
pub fn axial_attention(cpu: Cpu, call: &AxialCall<'_>, output: AxialOutput<'_>, out: &mut [f32]) {
    let AxialCall { shape, input, positions, weights } = *call;
    shape.check(weights);
    assert_eq!(out.len(), shape.len(), "values of the output");
    assert!(input.is_none_or(|i| i.len() == shape.len()), "values of the input");
    if let Some(positions) = positions {
        assert_eq!(
            positions.map(<[f32]>::len),
            shape.size.map(|n| n * shape.channels),
            "position embeddings"
        );
    }
    if let AxialOutput::StoreWith(other) = output {
        assert_eq!(other.len(), shape.len(), "values that are added");
    }
    if shape.is_empty() {
        return;
    }
    let lanes = cpu.lanes();
    let out = Shared::new(out);
    (0..shape.batch * shape.blocks(lanes)).into_par_iter().for_each(|i| {
        let block = Block::new(shape, lanes, i);
        with_scratch(Forward::scratch(shape, lanes), |scratch| {
            cpu.dispatch(Forward { shape, block, input, positions, weights, output, out, scratch });
        });
    });
}

/// One block of lines from input to output.
struct Forward<'a> {
    shape: &'a AxialShape,
    block: Block,
    input: Option<&'a [f32]>,
    positions: Option<Positions<'a>>,
    weights: &'a AxialWeights<'a>,
    output: AxialOutput<'a>,
    out: Shared<'a, f32>,
    scratch: &'a mut [f32],
}

/// Positions whose scores exist at the same time.
const ROWS: usize = 4;

impl Forward<'_> {
    /// Values of: input and output block, queries, keys, values and result of a head, scores.
    fn scratch(shape: &AxialShape, lanes: usize) -> usize {
        let n = shape.positions() * lanes;
        n * (2 * shape.channels + 4 * shape.dim_heads + ROWS)
    }
}

impl Kernel for Forward<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { shape, block, input, positions, weights, output, out, scratch } = self;
        let (c, e, hidden) = (shape.channels, shape.dim_heads, shape.hidden());
        let n = shape.positions() * I::LANES;
        let (x, rest) = scratch.split_at_mut(c * n);
        let (y, rest) = rest.split_at_mut(c * n);
        let (projected, rest) = rest.split_at_mut(3 * e * n);
        let (result, scores) = rest.split_at_mut(e * n);
        match input {
            Some(input) => block.gather(shape, I::LANES, x, |from, len| &input[from..from + len]),
            // SAFETY: the lines of a block belong to it alone, and it reads them before it writes.
            None => block.gather(shape, I::LANES, x, |from, len| unsafe { &*out.range(from, len) }),
        }
        if let Some(positions) = positions {
            block.add_positions(shape, I::LANES, x, positions);
        }
        for (row, &bias) in y.chunks_exact_mut(n).zip(weights.bias) {
            row.fill(bias);
        }
        for head in 0..shape.heads {
            let heads = Heads { weights, channels: c, dim: e, hidden, head };
            heads.project(isa, x, projected, n);
            attend(isa, projected, result, scores, [e, shape.positions()]);
            multiply(isa, heads.out(), result, y, [c, e, n], true);
        }
        block.scatter(shape, I::LANES, y, output, out);
    }
}

/// [`axial_attention`] as its definition reads, one line after the other in f64.
///
/// # Panics
/// As [`axial_attention`].
pub fn axial_attention_reference(
    shape: &AxialShape,
    input: &[f32],
    positions: Option<Positions<'_>>,
    weights: &AxialWeights<'_>,
) -> Vec<f32> {
    shape.check(weights);
    let (c, e, hidden, t) = (shape.channels, shape.dim_heads, shape.hidden(), shape.positions());
    let mut out = vec![0f32; shape.len()];
    for sample in 0..shape.batch {
        for line in 0..shape.lines() {
            let (outer, inner) = (line / shape.stride(), line % shape.stride());
            let voxel = |p: usize| (outer * t + p) * shape.stride() + inner;
            let at = |channel: usize, p: usize| (sample * c + channel) * shape.voxels() + voxel(p);
            let x = |channel: usize, p: usize| {
                let v = voxel(p);
                let [_, sy, sx] = shape.size;
                let place = [v / (sy * sx), v / sx % sy, v % sx];
                let embedded: f64 = positions.map_or(0.0, |ps| {
                    (0..3).map(|a| f64::from(ps[a][channel * shape.size[a] + place[a]])).sum()
                });
                f64::from(input[at(channel, p)]) + embedded
            };
            let x: Vec<f64> =
                (0..c).flat_map(|k| (0..t).map(move |p| (k, p))).map(|(k, p)| x(k, p)).collect();
            let project = |matrix: &[f32]| -> Vec<f64> {
                let rows = matrix.chunks_exact(c).flat_map(|row| (0..t).map(move |p| (row, p)));
                rows.map(|(row, p)| row.iter().enumerate().map(|(k, &w)| f64::from(w) * x[k * t + p]).sum())
                    .collect()
            };
            let (q, kv) = (project(weights.q), project(weights.kv));
            let mut result = vec![0f64; hidden * t];
            for head in 0..shape.heads {
                let rows = head * e..(head + 1) * e;
                for p in 0..t {
                    let score = |other: usize| {
                        rows.clone().map(|r| q[r * t + p] * kv[r * t + other]).sum::<f64>()
                            / (e as f64).sqrt()
                    };
                    let scores: Vec<f64> = (0..t).map(score).collect();
                    let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = scores.iter().map(|s| (s - largest).exp()).sum();
                    for r in rows.clone() {
                        let value = |(other, s): (usize, &f64)| {
                            (s - largest).exp() / sum * kv[(hidden + r) * t + other]
                        };
                        result[r * t + p] = scores.iter().enumerate().map(value).sum();
                    }
                }
            }
            for channel in 0..c {
                for p in 0..t {
                    let products =
                        (0..hidden).map(|r| f64::from(weights.out[channel * hidden + r]) * result[r * t + p]);
                    out[at(channel, p)] = (products.sum::<f64>() + f64::from(weights.bias[channel])) as f32;
                }
            }
        }
    }
    out
}

impl<'a> Heads<'a> {
    /// The columns of `to_out` that belong to this head, `[channels, dim]`.
    fn out(&self) -> Factor<'a> {
        Factor { values: &self.weights.out[self.head * self.dim..], row: self.hidden, column: 1 }
    }
}
