//! Weights as tiles read them.

use half::bf16;
use rayon::prelude::*;

use super::frame::{Frame, Group};
use super::leaf::PAIR;
use super::maps::{bf16_values, bf16_view, bf16_view_mut, round};
use crate::buffer::{Buffer, buffer_bytes};
use crate::conv3d::ConvShape;
use crate::transposed::TransposedShape;

/// Values of the weights of one step: 32 inputs of 32 outputs.
const STEP: usize = PAIR * PAIR;

/// Weights rounded to bf16, in blocks of 32 outputs, in the order in which tiles multiply them.
#[derive(Debug)]
pub struct PackedTiles {
    memory: Buffer,
    layout: Layout,
    pub(super) out_channels: usize,
}

/// Blocks of weights: per group as many as there are blocks of 32 outputs, all of a group equally long.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Layout {
    /// Blocks of 32 outputs of a group.
    pairs: usize,
    /// Blocks of 32 inputs of every group.
    steps: Vec<usize>,
    /// Steps before every group.
    starts: Vec<usize>,
    all: usize,
}

impl Layout {
    fn new(pairs: usize, steps: Vec<usize>) -> Self {
        let mut all = 0;
        let starts = steps
            .iter()
            .map(|steps| {
                let start = all;
                all += steps * pairs;
                start
            })
            .collect();
        Self { pairs, steps, starts, all }
    }

    fn of(frame: &Frame) -> Self {
        Self::new(frame.pairs(), frame.groups.iter().map(|g| frame.steps(g)[1]).collect())
    }

    fn transposed(shape: &TransposedShape) -> Self {
        let steps = shape.in_channels.div_ceil(PAIR);
        Self::new(shape.out_channels.div_ceil(PAIR), vec![steps; shape.taps()])
    }

    fn bytes(&self) -> usize {
        buffer_bytes(bf16_values(self.all * STEP))
    }
}

/// The weights of one group of a convolution: `values[output * outs + input * ins + tap]` for every tap, along x last.
#[derive(Debug, Clone)]
struct View<'a> {
    values: &'a [f32],
    outs: usize,
    ins: usize,
    taps: Vec<usize>,
    /// Taps along x.
    row: usize,
}

impl View<'_> {
    /// Fills the block of the 32 outputs from `first` on: per step of 32 inputs `[output / 16][input / 2][output][2]`.
    fn fill(&self, block: &mut [bf16], first: usize, [ins, outs]: [usize; 2]) {
        block.fill(bf16::ZERO);
        let steps = (self.row * ins).div_ceil(PAIR);
        let count = PAIR.min(outs - first);
        // Two inputs that stand side by side are written together.
        let pairs = ins.is_multiple_of(2);
        let (step_in, width) = if pairs { (2, ins / 2) } else { (1, ins) };
        let mut starts = vec![0; self.taps.len()];
        let second = if pairs { self.ins } else { 0 };
        // In this order the lines that are read and written stay in the first-level cache.
        for ci in (0..width).map(|i| i * step_in) {
            for (at, start) in starts.iter_mut().enumerate() {
                let k = at % self.row * ins + ci;
                *start = (at / self.row * steps + k / PAIR) * STEP + k % PAIR / 2 * PAIR + k % 2;
            }
            for c in 0..count {
                let values = &self.values[(first + c) * self.outs + ci * self.ins..];
                let place = c / 16 * (STEP / 2) + c % 16 * 2;
                for (&start, &tap) in starts.iter().zip(&self.taps) {
                    let to = &mut block[start + place..];
                    to[0] = round(values[tap]);
                    if pairs {
                        to[1] = round(values[second + tap]);
                    }
                }
            }
        }
    }
}

impl PackedTiles {
    /// `weights` is `[out, in, kz, ky, kx]`.
    ///
    /// # Panics
    /// If there are not as many as the shape says.
    pub fn conv(shape: &ConvShape, weights: &[f32]) -> Self {
        let layout = Layout::of(&Frame::forward(shape));
        Self::made(layout, shape.out_channels, |packed| packed.refill_conv(shape, weights))
    }

    /// For the gradient of a convolution's input: `shape` is about the channels from `first` on, `weights` may be those of a
    /// convolution that reads more of them.
    ///
    /// # Panics
    /// If there are not as many as the shape says.
    pub fn backward_data(shape: &ConvShape, weights: &[f32], first: usize) -> Self {
        let layout = Layout::of(&Frame::backward(shape));
        Self::made(layout, shape.in_channels, |packed| packed.refill_backward_data(shape, weights, first))
    }

    /// `weights` is `[in, out, kz, ky, kx]`.
    ///
    /// # Panics
    /// If there are not as many as the shape says.
    pub fn transposed(shape: &TransposedShape, weights: &[f32]) -> Self {
        Self::made(Layout::transposed(shape), shape.out_channels, |packed| {
            packed.refill_transposed(shape, weights);
        })
    }

    fn made(layout: Layout, out_channels: usize, fill: impl FnOnce(&mut Self)) -> Self {
        let memory = Buffer::zeroed(bf16_values(layout.all * STEP));
        let mut packed = Self { memory, layout, out_channels };
        fill(&mut packed);
        packed
    }

    /// [`Self::conv`] in the memory of weights of the same shape.
    ///
    /// # Panics
    /// If they are those of another.
    pub fn refill_conv(&mut self, shape: &ConvShape, weights: &[f32]) {
        assert_eq!(weights.len(), shape.weight_len(), "values of the weights");
        let view = View {
            values: weights,
            outs: shape.in_channels * shape.taps(),
            ins: shape.taps(),
            taps: (0..shape.taps()).collect(),
            row: shape.kernel[2],
        };
        self.fill(&[view], [shape.in_channels, shape.out_channels]);
    }

    /// [`Self::backward_data`] in the memory of weights of the same shape.
    ///
    /// # Panics
    /// If they are those of another.
    pub fn refill_backward_data(&mut self, shape: &ConvShape, weights: &[f32], first: usize) {
        let (ins, outs, taps) = (shape.in_channels, shape.out_channels, shape.taps());
        let all = weights.len() / (outs * taps);
        assert!(weights.len() == outs * all * taps && first + ins <= all, "values of the weights");
        let groups = Frame::backward(shape).groups;
        let view = |group: Group| View {
            values: &weights[first * taps..],
            outs: taps,
            ins: all * taps,
            taps: group.weights,
            row: group.taps[2],
        };
        let views: Vec<View<'_>> = groups.into_iter().map(view).collect();
        self.fill(&views, [outs, ins]);
    }

    /// [`Self::transposed`] in the memory of weights of the same shape.
    ///
    /// # Panics
    /// If they are those of another.
    pub fn refill_transposed(&mut self, shape: &TransposedShape, weights: &[f32]) {
        assert_eq!(weights.len(), shape.weight_len(), "values of the weights");
        let taps = shape.taps();
        let view = |tap| View {
            values: weights,
            outs: taps,
            ins: shape.out_channels * taps,
            taps: vec![tap],
            row: 1,
        };
        let views: Vec<View<'_>> = (0..taps).map(view).collect();
        self.fill(&views, [shape.in_channels, shape.out_channels]);
    }

    /// One view per group.
    fn fill(&mut self, views: &[View<'_>], [ins, outs]: [usize; 2]) {
        let Self { memory, layout, out_channels } = self;
        assert_eq!((views.len(), outs), (layout.steps.len(), *out_channels), "groups and outputs");
        let mut rest = bf16_view_mut(memory);
        let mut blocks = vec![];
        for (view, &steps) in views.iter().zip(&layout.steps) {
            assert_eq!(
                steps,
                view.taps.len() / view.row * (view.row * ins).div_ceil(PAIR),
                "steps of a group"
            );
            for pair in 0..layout.pairs {
                let (block, behind) = rest.split_at_mut(steps * STEP);
                blocks.push((view, pair, block));
                rest = behind;
            }
        }
        blocks.into_par_iter().for_each(|(view, pair, block)| view.fill(block, pair * PAIR, [ins, outs]));
    }

    /// The weights of block `pair` of group `group` (of a transposed convolution: of a tap).
    pub(super) fn block(&self, group: usize, pair: usize) -> &[bf16] {
        let steps = self.layout.steps[group];
        &bf16_view(&self.memory)[(self.layout.starts[group] + pair * steps) * STEP..][..steps * STEP]
    }

    /// Blocks of 32 inputs of a group.
    pub(super) fn steps(&self, group: usize) -> usize {
        self.layout.steps[group]
    }

    /// Blocks of 32 outputs of a group.
    pub(super) fn pairs(&self) -> usize {
        self.layout.pairs
    }

    /// Whether they are the weights of such a convolution.
    pub(super) fn fits(&self, frame: &Frame) -> bool {
        self.out_channels == frame.out_channels && self.layout == Layout::of(frame)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        buffer_bytes(self.memory.len())
    }

    /// Bytes that [`Self::conv`] takes.
    pub fn conv_bytes(shape: &ConvShape) -> usize {
        Layout::of(&Frame::forward(shape)).bytes()
    }

    /// Bytes that [`Self::backward_data`] takes.
    pub fn backward_data_bytes(shape: &ConvShape) -> usize {
        Layout::of(&Frame::backward(shape)).bytes()
    }

    /// Bytes that [`Self::transposed`] takes.
    pub fn transposed_bytes(shape: &TransposedShape) -> usize {
        Layout::transposed(shape).bytes()
    }
}
