//! What the ring, the cut and the jobs see of a convolution, be it a layer or the gradient of its input.
//!
//! With a stride, the inputs of equal remainder (a *phase*) see the same taps, so that the gradient is as many small convolutions
//! of stride 1. They all read the same planes: here they are groups of outputs of one call, each with its own taps and weights.

use super::leaf::PAIR;
use crate::conv3d::ConvShape;
use crate::conv3d::phases::{phase_axis, phases};

/// Outputs that see the same taps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// First tap and number of taps per axis, among those of the frame.
    pub(super) first: [usize; 3],
    pub(super) taps: [usize; 3],
    /// Outputs per axis, and the voxel of the target that the first of them is.
    pub(super) output: [usize; 3],
    pub(super) from: [usize; 3],
    /// Taps of the layer whose gradient it is, in the order of this group's, along x last; all in order for a layer itself.
    pub(super) weights: Vec<usize>,
}

/// Taps of a phase: flipped, so that the small convolution reads forwards.
fn flipped(shape: &ConvShape, remainder: [usize; 3], taps: [usize; 3]) -> Vec<usize> {
    let [_, ky, kx] = shape.kernel;
    let tap = |a: usize, t: usize| remainder[a] + shape.stride[a] * (taps[a] - 1 - t);
    let mut places = vec![];
    for z in 0..taps[0] {
        for y in 0..taps[1] {
            places.extend((0..taps[2]).map(|x| (tap(0, z) * ky + tap(1, y)) * kx + tap(2, x)));
        }
    }
    places
}

/// A convolution without its numbers.
#[derive(Debug, Clone)]
pub(super) struct Frame {
    pub(super) batch: usize,
    pub(super) in_channels: usize,
    pub(super) out_channels: usize,
    /// Voxels that are read.
    pub(super) input: [usize; 3],
    /// Taps of all groups together.
    pub(super) kernel: [usize; 3],
    pub(super) stride: [usize; 3],
    /// Zeros before the first voxel.
    pub(super) padding: [usize; 3],
    /// The most outputs of a group.
    pub(super) output: [usize; 3],
    /// Voxels of a row with its zeros.
    pub(super) width: usize,
    pub(super) groups: Vec<Group>,
    /// Voxels of the target, and steps between a group's outputs there.
    pub(super) target: [usize; 3],
    pub(super) spread: [usize; 3],
}

/// Blocks of 32 values that cover `taps` voxels of `channels` channels.
pub(super) fn steps_of(taps: usize, channels: usize) -> usize {
    (taps * channels).div_ceil(PAIR)
}

impl Frame {
    /// A layer.
    pub(super) fn forward(shape: &ConvShape) -> Self {
        let output = shape.output();
        Self {
            batch: shape.batch,
            in_channels: shape.in_channels,
            out_channels: shape.out_channels,
            input: shape.input,
            kernel: shape.kernel,
            stride: shape.stride,
            padding: shape.padding,
            output,
            width: shape.input[2] + 2 * shape.padding[2],
            groups: vec![Group {
                first: [0; 3],
                taps: shape.kernel,
                output,
                from: [0; 3],
                weights: (0..shape.taps()).collect(),
            }],
            target: output,
            spread: [1; 3],
        }
    }

    /// The gradient of a layer's input.
    pub(super) fn backward(shape: &ConvShape) -> Self {
        assert!(
            (0..3).all(|a| shape.padding[a] < shape.kernel[a]),
            "padding as large as the kernel in {shape:?}"
        );
        let mut groups = vec![];
        let (mut low, mut high) = ([isize::MAX; 3], [isize::MIN; 3]);
        let mut origins = vec![];
        for (remainder, taps) in phases(shape) {
            let axes: [_; 3] = std::array::from_fn(|a| phase_axis(shape, remainder, a));
            let output = axes.map(|(_, _, count)| count);
            if output.contains(&0) {
                continue;
            }
            let origin: [isize; 3] = std::array::from_fn(|a| axes[a].0 as isize - (taps[a] as isize - 1));
            for a in 0..3 {
                low[a] = low[a].min(origin[a]);
                high[a] = high[a].max(origin[a] + taps[a] as isize);
            }
            origins.push(origin);
            groups.push(Group {
                first: [0; 3],
                taps,
                output,
                from: axes.map(|(_, from, _)| from),
                weights: flipped(shape, remainder, taps),
            });
        }
        // Voxels before the first one that any group reads are read all the same.
        let low = low.map(|l| l.min(0));
        let offset = |value: isize, a: usize| usize::try_from(value - low[a]).expect("not below the lowest");
        for (group, origin) in groups.iter_mut().zip(origins) {
            group.first = std::array::from_fn(|a| offset(origin[a], a));
        }
        let kernel: [usize; 3] = std::array::from_fn(|a| offset(high[a].max(low[a] + 1), a));
        let most = |a: usize| groups.iter().map(|g| g.output[a]).max().unwrap_or(0);
        let output: [usize; 3] = std::array::from_fn(most);
        let input = shape.output();
        let padding = low.map(|l| usize::try_from(-l).expect("at most 0"));
        Self {
            batch: shape.batch,
            in_channels: shape.out_channels,
            out_channels: shape.in_channels,
            input,
            kernel,
            stride: [1; 3],
            padding,
            output,
            width: (padding[2] + input[2]).max(output[2] + kernel[2] - 1),
            groups,
            target: shape.input,
            spread: shape.stride,
        }
    }

    /// Blocks of 32 output channels of a group.
    pub(super) fn pairs(&self) -> usize {
        self.out_channels.div_ceil(PAIR)
    }

    /// Steps of a row of a group's taps, and of all of them.
    pub(super) fn steps(&self, group: &Group) -> [usize; 2] {
        let row = steps_of(group.taps[2], self.in_channels);
        [row, group.taps[0] * group.taps[1] * row]
    }

    /// Values that a group's row of taps reads from the first tap of the frame on, at most.
    pub(super) fn row_reads(&self) -> usize {
        let reads = |g: &Group| g.first[2] * self.in_channels + self.steps(g)[0] * PAIR;
        self.groups.iter().map(reads).max().unwrap_or(0)
    }

    /// Whether every voxel of the target belongs to a group.
    pub(super) fn covers(&self) -> bool {
        let written: usize = self.groups.iter().map(|g| g.output.iter().product::<usize>()).sum();
        written == self.target.iter().product()
    }

    pub(super) fn out_len(&self) -> usize {
        self.batch * self.out_channels * self.target.iter().product::<usize>()
    }
}
