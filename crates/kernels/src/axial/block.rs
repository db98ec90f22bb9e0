//! A block of lines: where it lies, and the attention of one head in it.

use super::matrix::{Factor, Lines, multiply, multiply_lines};
use super::{AxialOutput, AxialShape, AxialWeights, Positions, ROWS};
use crate::buffer::Shared;
use crate::isa::Isa;

/// The most lanes of any instruction set.
const MOST_LANES: usize = 16;

/// As many lines of a sample as there are lanes, or fewer at the end.
#[derive(Clone, Copy)]
pub(super) struct Block {
    sample: usize,
    /// Voxel of every line's first position.
    starts: [usize; MOST_LANES],
    count: usize,
}

impl Block {
    /// The block of this number, over all samples.
    pub(super) fn new(shape: &AxialShape, lanes: usize, number: usize) -> Self {
        assert!(lanes <= MOST_LANES, "{lanes} lanes");
        let (sample, block) = (number / shape.blocks(lanes), number % shape.blocks(lanes));
        let (first, stride) = (block * lanes, shape.stride());
        let count = lanes.min(shape.lines() - first);
        let mut starts = [0; MOST_LANES];
        for (line, start) in (first..first + count).zip(&mut starts) {
            *start = line / stride * stride * shape.positions() + line % stride;
        }
        Self { sample, starts, count }
    }

    /// Whether the lines lie side by side.
    fn contiguous(&self) -> bool {
        (1..self.count).all(|i| self.starts[i] == self.starts[0] + i)
    }

    /// Reads the lines into `[channel, position, line]`; absent lines are zero. `values` gives a part of the volume.
    #[inline(always)]
    pub(super) fn gather<'a>(
        &self,
        shape: &AxialShape,
        lanes: usize,
        to: &mut [f32],
        values: impl Fn(usize, usize) -> &'a [f32],
    ) {
        let (positions, stride) = (shape.positions(), shape.stride());
        for (c, to) in to.chunks_exact_mut(positions * lanes).enumerate() {
            let channel = (self.sample * shape.channels + c) * shape.voxels();
            if self.contiguous() {
                for (p, to) in to.chunks_exact_mut(lanes).enumerate() {
                    let from = values(channel + self.starts[0] + p * stride, self.count);
                    to[..self.count].copy_from_slice(from);
                    to[self.count..].fill(0.0);
                }
                continue;
            }
            for line in 0..lanes {
                if line >= self.count {
                    to.iter_mut().skip(line).step_by(lanes).for_each(|t| *t = 0.0);
                    continue;
                }
                let (start, line) = (channel + self.starts[line], to.iter_mut().skip(line).step_by(lanes));
                if stride == 1 {
                    line.zip(values(start, positions)).for_each(|(t, &v)| *t = v);
                } else {
                    // One value at a time: those between belong to other lines.
                    line.enumerate().for_each(|(p, t)| *t = values(start + p * stride, 1)[0]);
                }
            }
        }
    }

    /// Adds the position embeddings to a gathered block, absent lines left out.
    #[inline(always)]
    pub(super) fn add_positions(
        &self,
        shape: &AxialShape,
        lanes: usize,
        block: &mut [f32],
        positions: Positions<'_>,
    ) {
        let ([sz, sy, sx], axis) = (shape.size, shape.axis);
        for (c, block) in block.chunks_exact_mut(shape.positions() * lanes).enumerate() {
            let [z, y, x] =
                [(0, sz), (1, sy), (2, sx)].map(|(a, size)| &positions[a][c * size..(c + 1) * size]);
            for (line, &start) in self.starts[..self.count].iter().enumerate() {
                let place = [start / (sy * sx), start / sx % sy, start % sx];
                for (p, v) in block.iter_mut().skip(line).step_by(lanes).enumerate() {
                    let at = |a: usize| if a == axis { p } else { place[a] };
                    *v = *v + z[at(0)] + y[at(1)] + x[at(2)];
                }
            }
        }
    }

    /// Writes a block back to where its lines lie.
    #[inline(always)]
    pub(super) fn scatter(
        &self,
        shape: &AxialShape,
        lanes: usize,
        block: &[f32],
        output: AxialOutput<'_>,
        out: Shared<'_, f32>,
    ) {
        let (positions, stride) = (shape.positions(), shape.stride());
        let contiguous = self.contiguous();
        for (c, block) in block.chunks_exact(positions * lanes).enumerate() {
            let channel = (self.sample * shape.channels + c) * shape.voxels();
            let put = |at: usize, to: &mut f32, value: f32| match output {
                AxialOutput::Store => *to = value,
                AxialOutput::Add => *to += value,
                AxialOutput::StoreWith(other) => *to = value + other[at],
            };
            if contiguous {
                for (p, from) in block.chunks_exact(lanes).enumerate() {
                    let at = channel + self.starts[0] + p * stride;
                    // SAFETY: the lines of a block belong to it alone.
                    let to = unsafe { out.range(at, self.count) };
                    for (i, (to, &v)) in to.iter_mut().zip(from).enumerate() {
                        put(at + i, to, v);
                    }
                }
                continue;
            }
            for (line, &start) in self.starts[..self.count].iter().enumerate() {
                for (p, &v) in block.iter().skip(line).step_by(lanes).enumerate() {
                    let at = channel + start + p * stride;
                    // SAFETY: the lines of a block belong to it alone; one value at a time, since those between belong to others.
                    put(at, unsafe { &mut out.range(at, 1)[0] }, v);
                }
            }
        }
    }
}

/// One head's part of the weights.
#[derive(Clone, Copy)]
pub(super) struct Heads<'a> {
    pub(super) weights: &'a AxialWeights<'a>,
    pub(super) channels: usize,
    pub(super) dim: usize,
    pub(super) hidden: usize,
    pub(super) head: usize,
}

impl<'a> Heads<'a> {
    /// Rows of queries (0), keys (1) or values (2), `[dim, channels]`.
    pub(super) fn rows(&self, which: usize) -> &'a [f32] {
        let first = self.head * self.dim;
        let (matrix, first) = match which {
            0 => (self.weights.q, first),
            1 => (self.weights.kv, first),
            _ => (self.weights.kv, self.hidden + first),
        };
        &matrix[first * self.channels..(first + self.dim) * self.channels]
    }

    /// Queries, keys and values of a block, each `[dim, position, line]`.
    #[inline(always)]
    pub(super) fn project<I: Isa>(&self, isa: I, x: &[f32], to: &mut [f32], n: usize) {
        for (which, to) in to.chunks_exact_mut(self.dim * n).enumerate() {
            let rows = Factor { values: self.rows(which), row: self.channels, column: 1 };
            multiply(isa, rows, x, to, [self.dim, self.channels, n], false);
        }
    }
}

/// The attention of one head: `projected` are queries, keys and values, `result` is `[dim, position, line]`, `scores` room for
/// [`ROWS`] rows.
#[inline(always)]
pub(super) fn attend<I: Isa>(
    isa: I,
    projected: &[f32],
    result: &mut [f32],
    scores: &mut [f32],
    [dim, positions]: [usize; 2],
) {
    let n = positions * I::LANES;
    let (q, rest) = projected.split_at(dim * n);
    let (k, v) = rest.split_at(dim * n);
    let mut first = 0;
    while first < positions {
        let rows = ROWS.min(positions - first);
        softmax_rows(isa, q, k, scores, (first, rows), [dim, positions]);
        // result(feature, row) = Σ_position v(feature, position) scores(row, position)
        multiply_lines(
            isa,
            Lines::rows(v, positions),
            Lines::rows(scores, positions),
            &mut result[first * I::LANES..],
            (positions, 1),
            [dim, rows, positions],
        );
        first += rows;
    }
}

/// Weights of all positions for `rows` positions from `first`, `[row, position, line]`.
#[inline(always)]
pub(super) fn softmax_rows<I: Isa>(
    isa: I,
    q: &[f32],
    k: &[f32],
    scores: &mut [f32],
    (first, rows): (usize, usize),
    [dim, positions]: [usize; 2],
) {
    let n = positions * I::LANES;
    // scores(row, position) = Σ_feature q(feature, row) k(feature, position)
    multiply_lines(
        isa,
        Lines::columns(&q[first * I::LANES..], positions),
        Lines::columns(k, positions),
        scores,
        (positions, 1),
        [rows, positions, dim],
    );
    let scale = isa.splat(1.0 / (dim as f32).sqrt());
    for row in scores[..rows * n].chunks_exact_mut(n) {
        // SAFETY: every index is a whole vector of the row.
        unsafe {
            let mut largest = isa.load(row, 0);
            for p in 1..positions {
                largest = isa.max(largest, isa.load(row, p * I::LANES));
            }
            for p in 0..positions {
                let difference = isa.sub(isa.load(row, p * I::LANES), largest);
                isa.store(row, p * I::LANES, isa.mul(difference, scale));
            }
        }
        exp_in_place(row);
        // SAFETY: every index is a whole vector of the row, and `factor` has as many values as any vector has lanes.
        unsafe {
            let mut sum = isa.load(row, 0);
            for p in 1..positions {
                sum = isa.add(sum, isa.load(row, p * I::LANES));
            }
            let mut factor = [0f32; MOST_LANES];
            isa.store(&mut factor, 0, sum);
            factor[..I::LANES].iter_mut().for_each(|f| *f = 1.0 / *f);
            let factor = isa.load(&factor, 0);
            for p in 0..positions {
                isa.store(row, p * I::LANES, isa.mul(isa.load(row, p * I::LANES), factor));
            }
        }
    }
}

/// `e^x` of values of at most 0, to about two units in the last place; plain arithmetic, which the compiler vectorises for the caller's
/// instructions.
#[inline(always)]
pub fn exp_in_place(values: &mut [f32]) {
    /// Adding it rounds to a whole number, which then stands in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts.
    const LN2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    for v in values {
        let x = if *v < -87.0 { -87.0 } else { *v };
        let z = x * std::f32::consts::LOG2_E + ROUND;
        let n = z - ROUND;
        let r = (x - n * LN2[0]) - n * LN2[1];
        let p = 1.0 / 120.0 + r * (1.0 / 720.0);
        let p = 1.0 / 6.0 + r * (1.0 / 24.0 + r * p);
        let p = 1.0 + r * (1.0 + r * (0.5 + r * p));
        *v = p * f32::from_bits((z.to_bits() << 23).wrapping_add(0x3f80_0000));
    }
}
