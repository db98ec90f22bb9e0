//! Gradient of axial attention: every block does its forward pass again.

use rayon::prelude::*;

use super::block::{Block, Heads, softmax_rows};
use super::matrix::{Factor, Lines, multiply, multiply_lines, multiply_transposed};
use super::{AxialCall, AxialOutput, AxialShape, AxialWeights, Positions, ROWS};
use crate::buffer::{Shared, with_scratch};
use crate::isa::{Cpu, Isa, Kernel};
use crate::scratch::{Scratch, split};

/// Gradients of the parameters, in the layout of [`AxialWeights`].
#[derive(Debug, Clone, PartialEq)]
pub struct AxialGradients {
    /// Of the queries' weights.
    pub q: Vec<f32>,
    /// Of the keys' and values' weights.
    pub kv: Vec<f32>,
    /// Of the output's weights.
    pub out: Vec<f32>,
    /// Of the output's bias.
    pub bias: Vec<f32>,
}

impl AxialGradients {
    fn zeros(shape: &AxialShape) -> Self {
        let (c, hidden) = (shape.channels, shape.hidden());
        let matrix = vec![0.0; c * hidden];
        Self { q: matrix.clone(), kv: vec![0.0; 2 * c * hidden], out: matrix, bias: vec![0.0; c] }
    }

    fn add(&mut self, other: &GradientPart<'_>) {
        for (sum, part) in [
            (&mut self.q, &*other.q),
            (&mut self.kv, &*other.kv),
            (&mut self.out, &*other.out),
            (&mut self.bias, &*other.bias),
        ] {
            sum.par_chunks_mut(1 << 14).zip(part.par_chunks(1 << 14)).for_each(|(sum, part)| {
                sum.iter_mut().zip(part).for_each(|(s, p)| *s += p);
            });
        }
    }
}

/// What one job adds up, in memory that the caller lends.
struct GradientPart<'a> {
    q: &'a mut [f32],
    kv: &'a mut [f32],
    out: &'a mut [f32],
    bias: &'a mut [f32],
}

impl<'a> GradientPart<'a> {
    fn len(shape: &AxialShape) -> usize {
        4 * shape.channels * shape.hidden() + shape.channels
    }

    fn new(shape: &AxialShape, values: &'a mut [f32]) -> Self {
        let matrix = shape.channels * shape.hidden();
        let (q, rest) = values.split_at_mut(matrix);
        let (kv, rest) = rest.split_at_mut(2 * matrix);
        let (out, bias) = rest.split_at_mut(matrix);
        Self { q, kv, out, bias }
    }
}

/// Bytes of gradients that may exist at the same time, besides one of each; decides how many jobs there are.
const MOST_BYTES: usize = 64 << 20;
/// The most jobs.
const MOST_JOBS: usize = 32;

/// Blocks of lines, and jobs that they are given to.
fn cut(shape: &AxialShape, lanes: usize) -> [usize; 2] {
    let blocks = shape.batch * shape.blocks(lanes);
    let bytes = size_of::<f32>() * GradientPart::len(shape);
    [blocks, (MOST_BYTES / bytes).clamp(2, MOST_JOBS).min(blocks)]
}

pub(super) fn scratch(shape: &AxialShape, lanes: usize) -> Scratch {
    let [_, jobs] = cut(shape, lanes);
    Scratch { per_thread: Backward::scratch(shape, lanes), lent: jobs * GradientPart::len(shape) }
}

/// Gradient of [`axial_attention`](super::axial_attention) for the input, stored or added to `grad_input`, and for the parameters.
///
/// `input` is what the forward pass read, without position embeddings if it added them. The gradient of the embedded input is that of the
/// input; [`position_gradients`] sums it up for the embeddings. The same bits for any number of threads. `scratch` has as many values
/// as [`AxialShape::backward_scratch`] wants to be lent; their contents do not matter.
///
/// # Panics
/// If there is no input, or a slice has another length than the shape says.
pub fn axial_attention_backward(
    cpu: Cpu,
    call: &AxialCall<'_>,
    grad: &[f32],
    output: AxialOutput<'_>,
    grad_input: &mut [f32],
    scratch: &mut [f32],
) -> AxialGradients {
    let AxialCall { shape, input, positions, weights } = *call;
    let input = input.expect("the gradient of attention needs its input");
    shape.check(weights);
    let lengths = [input.len(), grad.len(), grad_input.len()];
    assert_eq!(lengths, [shape.len(); 3], "values of input, gradient and result");
    let mut sum = AxialGradients::zeros(shape);
    if shape.is_empty() {
        return sum;
    }
    let lanes = cpu.lanes();
    let [blocks, jobs] = cut(shape, lanes);
    let result = Shared::new(grad_input);
    let (parts, _) = split(scratch, jobs * GradientPart::len(shape));
    let parts: Vec<GradientPart<'_>> = parts
        .par_chunks_mut(GradientPart::len(shape))
        .enumerate()
        .map(|(job, part)| {
            part.fill(0.0);
            let mut gradients = GradientPart::new(shape, part);
            for i in job * blocks / jobs..(job + 1) * blocks / jobs {
                let block = Block::new(shape, lanes, i);
                with_scratch(Backward::scratch(shape, lanes), |scratch| {
                    let gradients = &mut gradients;
                    let work = Backward {
                        shape,
                        block,
                        input,
                        positions,
                        weights,
                        grad,
                        output,
                        result,
                        gradients,
                        scratch,
                    };
                    cpu.dispatch(work);
                });
            }
            gradients
        })
        .collect();
    for part in &parts {
        sum.add(part);
    }
    sum
}

/// One block of lines.
struct Backward<'a, 'p> {
    shape: &'a AxialShape,
    block: Block,
    input: &'a [f32],
    positions: Option<Positions<'a>>,
    weights: &'a AxialWeights<'a>,
    grad: &'a [f32],
    output: AxialOutput<'a>,
    result: Shared<'a, f32>,
    gradients: &'a mut GradientPart<'p>,
    scratch: &'a mut [f32],
}

impl Backward<'_, '_> {
    /// Values of: input, gradient and result block; queries, keys, values of a head and their gradients; the head's result and its gradient;
    /// two tables of scores.
    fn scratch(shape: &AxialShape, lanes: usize) -> usize {
        let n = shape.positions() * lanes;
        n * (3 * shape.channels + 8 * shape.dim_heads + 2 * shape.positions())
    }
}

impl Kernel for Backward<'_, '_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let Self { shape, block, input, positions, weights, grad, output, result, gradients, scratch } = self;
        let (c, e, t, hidden) = (shape.channels, shape.dim_heads, shape.positions(), shape.hidden());
        let n = t * I::LANES;
        let (x, rest) = scratch.split_at_mut(c * n);
        let (dy, rest) = rest.split_at_mut(c * n);
        let (dx, rest) = rest.split_at_mut(c * n);
        let (projected, rest) = rest.split_at_mut(3 * e * n);
        let (d_projected, rest) = rest.split_at_mut(3 * e * n);
        let (o, rest) = rest.split_at_mut(e * n);
        let (d_o, rest) = rest.split_at_mut(e * n);
        let (weight, d_score) = rest.split_at_mut(t * n);
        block.gather(shape, I::LANES, x, |from, len| &input[from..from + len]);
        if let Some(positions) = positions {
            block.add_positions(shape, I::LANES, x, positions);
        }
        block.gather(shape, I::LANES, dy, |from, len| &grad[from..from + len]);
        dx.fill(0.0);
        for (row, bias) in dy.chunks_exact(n).zip(&mut *gradients.bias) {
            *bias += sum_of(isa, row);
        }
        for head in 0..shape.heads {
            let heads = Heads { weights, channels: c, dim: e, hidden, head };
            heads.project(isa, x, projected, n);
            let (q, rest) = projected.split_at(e * n);
            let (k, v) = rest.split_at(e * n);
            let mut first = 0;
            while first < t {
                let rows = ROWS.min(t - first);
                softmax_rows(isa, q, k, &mut weight[first * n..], (first, rows), [e, t]);
                first += rows;
            }
            // In the comments, i counts features and p, r positions.
            // o(i, p) = Σ_r v(i, r) weight(p, r)
            multiply_lines(isa, Lines::rows(v, t), Lines::rows(weight, t), o, (t, 1), [e, t, t]);
            let to_out = Factor { values: &weights.out[head * e..], row: 1, column: hidden };
            multiply(isa, to_out, dy, d_o, [e, c, n], false);
            multiply_transposed(isa, dy, o, &mut gradients.out[head * e..], (hidden, 1), [c, e, n]);
            let (dq, rest) = d_projected.split_at_mut(e * n);
            let (dk, dv) = rest.split_at_mut(e * n);
            // dv(i, r) = Σ_p d_o(i, p) weight(p, r)
            multiply_lines(isa, Lines::rows(d_o, t), Lines::columns(weight, t), dv, (t, 1), [e, t, t]);
            // d_weight(p, r) = Σ_i d_o(i, p) v(i, r)
            multiply_lines(isa, Lines::columns(d_o, t), Lines::columns(v, t), d_score, (t, 1), [t, t, e]);
            through_softmax(isa, weight, d_score, [e, t]);
            // dq(i, p) = Σ_r k(i, r) d_score(p, r); dk(i, r) = Σ_p q(i, p) d_score(p, r)
            multiply_lines(isa, Lines::rows(k, t), Lines::rows(d_score, t), dq, (t, 1), [e, t, t]);
            multiply_lines(isa, Lines::rows(q, t), Lines::columns(d_score, t), dk, (t, 1), [e, t, t]);
            let GradientPart { q, kv, .. } = &mut *gradients;
            for (which, d) in d_projected.chunks_exact(e * n).enumerate() {
                let rows = Factor { values: heads.rows(which), row: 1, column: c };
                multiply(isa, rows, d, dx, [c, e, n], true);
                let to = match which {
                    0 => &mut q[head * e * c..],
                    1 => &mut kv[head * e * c..],
                    _ => &mut kv[(hidden + head * e) * c..],
                };
                multiply_transposed(isa, d, x, to, (c, 1), [e, c, n]);
            }
        }
        block.scatter(shape, I::LANES, dx, output, result);
    }
}

/// `d_score = weight (d_weight - Σ weight d_weight) / √dim` in place, row by row.
#[inline(always)]
fn through_softmax<I: Isa>(isa: I, weight: &[f32], d_score: &mut [f32], [dim, positions]: [usize; 2]) {
    let n = positions * I::LANES;
    let scale = isa.splat(1.0 / (dim as f32).sqrt());
    for (weight, d) in weight.chunks_exact(n).zip(d_score.chunks_exact_mut(n)) {
        // SAFETY: every index is a whole vector of the row.
        unsafe {
            let mut sum = isa.splat(0.0);
            for p in 0..positions {
                sum = isa.fma(isa.load(weight, p * I::LANES), isa.load(d, p * I::LANES), sum);
            }
            for p in 0..positions {
                let difference = isa.sub(isa.load(d, p * I::LANES), sum);
                let product = isa.mul(isa.load(weight, p * I::LANES), difference);
                isa.store(d, p * I::LANES, isa.mul(product, scale));
            }
        }
    }
}

#[inline(always)]
fn sum_of<I: Isa>(isa: I, values: &[f32]) -> f32 {
    let mut sum = isa.splat(0.0);
    for i in 0..values.len() / I::LANES {
        // SAFETY: a whole vector inside the slice.
        sum = isa.add(sum, unsafe { isa.load(values, i * I::LANES) });
    }
    isa.sum(sum)
}

/// Gradients of the position embeddings from that of the embedded input, `[n, c, z, y, x]`: sums over samples and the other two axes.
///
/// # Panics
/// If `grad` is not whole samples of `channels` volumes of `size`.
pub fn position_gradients(grad: &[f32], channels: usize, size: [usize; 3]) -> [Vec<f32>; 3] {
    let voxels: usize = size.iter().product();
    assert!(channels * voxels > 0 && grad.len().is_multiple_of(channels * voxels), "{} values", grad.len());
    let samples = grad.len() / (channels * voxels);
    let per_channel: Vec<[Vec<f64>; 3]> = (0..channels)
        .into_par_iter()
        .map(|c| {
            let mut sums = size.map(|n| vec![0f64; n]);
            for sample in 0..samples {
                let volume = &grad[(sample * channels + c) * voxels..][..voxels];
                for (row, values) in volume.chunks_exact(size[2]).enumerate() {
                    let mut sum = 0f64;
                    for (s, &v) in sums[2].iter_mut().zip(values) {
                        *s += f64::from(v);
                        sum += f64::from(v);
                    }
                    sums[0][row / size[1]] += sum;
                    sums[1][row % size[1]] += sum;
                }
            }
            sums
        })
        .collect();
    std::array::from_fn(|axis| {
        per_channel.iter().flat_map(|sums| sums[axis].iter().map(|&s| s as f32)).collect()
    })
}
