//! Gradient of a convolution with respect to its input.
//!
//! With stride 1 it is a convolution of the output's gradient with the flipped kernel, channels exchanged, so it runs on
//! the forward kernels, Winograd included. With a stride, inputs of equal remainder (a *phase*) see the same subset of taps:
//! each phase is a small stride-1 convolution, written to a buffer and spread over the input's gradient.

use rayon::prelude::*;

use crate::buffer::{Shared, Storage};
use crate::conv3d::direct::{self, Direct, pack_weights};
use crate::conv3d::phases::{phase_axis, phases};
use crate::conv3d::{Algorithm, ConvShape, OutputPart, PackedConv, Target, WeightView, conv3d};
use crate::isa::Cpu;
use crate::scratch::{Scratch, split};
use crate::source::{Source, Window};

/// Weights prepared for [`conv3d_backward_data`].
#[derive(Debug)]
pub struct PackedBackwardData<'a> {
    cpu: Cpu,
    channels: [usize; 2],
    kernel: [usize; 3],
    stride: [usize; 3],
    form: Form<'a>,
}

#[derive(Debug)]
enum Form<'a> {
    /// Stride 1.
    Flipped(PackedConv<'a>),
    /// Any other stride; phases without taps are left out.
    Phases(Vec<Phase<'a>>),
}

/// Inputs whose position plus padding leaves `remainder` modulo the stride.
#[derive(Debug)]
struct Phase<'a> {
    remainder: [usize; 3],
    taps: [usize; 3],
    weights: Storage<'a>,
}

/// The stride-1 convolution that [`conv3d_backward_data`] of `shape` is.
fn flipped_shape(shape: &ConvShape) -> ConvShape {
    ConvShape {
        batch: shape.batch,
        in_channels: shape.out_channels,
        out_channels: shape.in_channels,
        input: shape.output(),
        kernel: shape.kernel,
        stride: [1; 3],
        padding: std::array::from_fn(|a| {
            assert!(shape.padding[a] < shape.kernel[a], "padding as large as the kernel in {shape:?}");
            shape.kernel[a] - 1 - shape.padding[a]
        }),
    }
}

/// The stride-1 convolution of a phase's inputs, and where its outputs lie; none where it has none.
fn phase_call(
    shape: &ConvShape,
    remainder: [usize; 3],
    taps: [usize; 3],
) -> Option<(ConvShape, OutputPart, [usize; 3])> {
    let axes: [_; 3] = std::array::from_fn(|a| phase_axis(shape, remainder, a));
    let count = axes.map(|(_, _, count)| count);
    if count.contains(&0) {
        return None;
    }
    let small = ConvShape {
        batch: shape.batch,
        in_channels: shape.out_channels,
        out_channels: shape.in_channels,
        input: shape.output(),
        kernel: taps,
        stride: [1; 3],
        padding: [0; 3],
    };
    let part = OutputPart {
        output: count,
        // The padding is not the same on both sides.
        origin: std::array::from_fn(|a| axes[a].0 as isize - (taps[a] as isize - 1)),
        sample: 0,
        voxels: count.iter().product(),
        start: 0,
    };
    Some((small, part, axes.map(|(_, from, _)| from)))
}

impl PackedBackwardData<'static> {
    /// Prepares the forward weights, `[out, in, kd, kh, kw]`, for gradients of convolutions like `shape`.
    ///
    /// An `algorithm` that cannot compute the gradient, such as Winograd with a stride, stands for [`Algorithm::Auto`].
    ///
    /// # Panics
    /// If the length of `weights` is not `shape`'s, or the padding reaches the kernel's size.
    pub fn new(cpu: Cpu, shape: &ConvShape, weights: &[f32], algorithm: Algorithm) -> Self {
        assert_eq!(weights.len(), shape.weight_len(), "length of the weights of {shape:?}");
        PackedBackwardData::made(cpu, shape, (weights, 0), algorithm, None)
    }
}

impl<'a> PackedBackwardData<'a> {
    /// Values of the weights prepared for gradients of convolutions like `shape`.
    pub fn packed_len(shape: &ConvShape, algorithm: Algorithm) -> usize {
        if shape.stride == [1; 3] {
            let flipped = flipped_shape(shape);
            return PackedConv::packed_len(&flipped, supported(algorithm, &flipped));
        }
        let of = |taps: [usize; 3]| {
            direct::packed_len(shape.in_channels, shape.out_channels, taps.iter().product())
        };
        phases(shape).into_iter().map(|(_, taps)| of(taps)).sum()
    }

    /// What [`conv3d_backward_data`] of `shape` takes next to its operands if its weights are prepared for it.
    pub fn scratch(cpu: Cpu, shape: &ConvShape, algorithm: Algorithm) -> Scratch {
        if shape.stride == [1; 3] {
            let flipped = flipped_shape(shape);
            return PackedConv::scratch(cpu, &flipped, supported(algorithm, &flipped));
        }
        let calls = phases(shape).into_iter().filter_map(|(r, taps)| phase_call(shape, r, taps));
        calls.fold(Scratch::default(), |most, (small, part, _)| {
            let lent = shape.batch * shape.in_channels * part.voxels;
            most.max(Scratch { lent, ..direct::scratch(&small, part.output, cpu.lanes()) })
        })
    }

    /// [`PackedBackwardData::new`] in memory of [`Self::packed_len`] values, whose contents do not matter.
    ///
    /// `weights` may be those of a convolution that reads more channels: `shape` is about those from `first` on.
    ///
    /// # Panics
    /// As [`PackedBackwardData::new`], and if the memory is shorter.
    pub fn new_in(
        cpu: Cpu,
        shape: &ConvShape,
        weights: &[f32],
        first: usize,
        algorithm: Algorithm,
        memory: &'a mut [f32],
    ) -> Self {
        Self::made(cpu, shape, (weights, first), algorithm, Some(memory))
    }

    fn made(
        cpu: Cpu,
        shape: &ConvShape,
        (weights, first): (&[f32], usize),
        algorithm: Algorithm,
        mut memory: Option<&'a mut [f32]>,
    ) -> Self {
        let (ins, outs, taps) = (shape.in_channels, shape.out_channels, shape.taps());
        let all = weights.len() / (outs * taps);
        assert!(
            weights.len() == outs * all * taps && first + ins <= all,
            "{} weights of {shape:?} with its channels from {first} on",
            weights.len()
        );
        let [_, kh, kw] = shape.kernel;
        // Channels exchanged, and the taps that `tap` maps a small kernel's taps to.
        let places = |size: [usize; 3], tap: &dyn Fn([usize; 3]) -> [usize; 3]| -> Vec<usize> {
            let small = (0..size[0])
                .flat_map(|a| (0..size[1]).flat_map(move |b| (0..size[2]).map(move |c| [a, b, c])));
            small.map(tap).map(|[a, b, c]| (a * kh + b) * kw + c).collect()
        };
        let values = &weights[first * taps..];
        let steps = [taps, all * taps];
        let form = if shape.stride == [1; 3] {
            let places = places(shape.kernel, &|t| std::array::from_fn(|a| shape.kernel[a] - 1 - t[a]));
            let shape = flipped_shape(shape);
            let algorithm = supported(algorithm, &shape);
            Form::Flipped(PackedConv::made(
                cpu,
                &shape,
                WeightView { values, steps, taps: &places },
                algorithm,
                memory,
            ))
        } else {
            let mut packed = Vec::new();
            for (remainder, taps) in phases(shape) {
                // Flipped, so that the small convolution reads forwards.
                let tap = |t: [usize; 3]| -> [usize; 3] {
                    std::array::from_fn(|a| remainder[a] + shape.stride[a] * (taps[a] - 1 - t[a]))
                };
                let places = places(taps, &tap);
                let mut part = None;
                if let Some(all) = memory.take() {
                    let (first, rest) = all.split_at_mut(direct::packed_len(ins, outs, places.len()));
                    (part, memory) = (Some(first), Some(rest));
                }
                let view = WeightView { values, steps, taps: &places };
                let weights = pack_weights([ins, outs], view, part);
                packed.push(Phase { remainder, taps, weights });
            }
            Form::Phases(packed)
        };
        Self { cpu, channels: [ins, outs], kernel: shape.kernel, stride: shape.stride, form }
    }

    /// The algorithm the weights are prepared for.
    pub fn algorithm(&self) -> Algorithm {
        match &self.form {
            Form::Flipped(packed) => packed.algorithm(),
            Form::Phases(_) => Algorithm::Direct,
        }
    }
}

/// The algorithm, or [`Algorithm::Auto`] where it cannot compute `shape`.
fn supported(algorithm: Algorithm, shape: &ConvShape) -> Algorithm {
    if algorithm.supports(shape) { algorithm } else { Algorithm::Auto }
}

/// Gradient of the loss with respect to the input of `shape`'s convolution, after its prologue.
///
/// # Shapes
/// `grad` is the gradient of the output, `[n, out, d, h, w]`; `result` is `[n, in, d, h, w]` and is overwritten. `scratch` has
/// as many values as [`PackedBackwardData::scratch`] wants to be lent; their contents do not matter. The result does not depend on the number of threads.
///
/// # Panics
/// If a length contradicts `shape`, or `weights` were prepared for another.
pub fn conv3d_backward_data(
    shape: &ConvShape,
    grad: &[f32],
    weights: &PackedBackwardData<'_>,
    scratch: &mut [f32],
    result: &mut [f32],
) {
    assert_eq!(
        (weights.channels, weights.kernel, weights.stride),
        ([shape.in_channels, shape.out_channels], shape.kernel, shape.stride),
        "prepared weights against {shape:?}"
    );
    assert_eq!(grad.len(), shape.out_len(), "length of the output's gradient of {shape:?}");
    assert_eq!(result.len(), shape.in_len(), "length of the input's gradient of {shape:?}");
    let sources = [Source::plain(grad, shape.out_channels)];
    let phases = match &weights.form {
        Form::Flipped(packed) => {
            let mut flipped = flipped_shape(shape);
            // A last row that no output reads has no gradient; with stride 1 there is none.
            flipped.batch = shape.batch;
            assert_eq!(flipped.output(), shape.input, "the flipped convolution covers the input");
            return conv3d(&flipped, &sources, packed, None, result, None, scratch);
        }
        Form::Phases(phases) => phases,
    };
    if phases.len() < shape.stride.iter().product() {
        result.par_chunks_mut(crate::norm::CHUNK).for_each(|chunk| chunk.fill(0.0));
    }
    let windows = sources.map(|s| Window::whole(s, shape.out_voxels()));
    for phase in phases {
        let Some((small, part, from)) = phase_call(shape, phase.remainder, phase.taps) else { continue };
        let (values, rest) = split(scratch, shape.batch * shape.in_channels * part.voxels);
        let call = Direct {
            cpu: weights.cpu,
            shape: &small,
            part,
            sources: &windows,
            weights: &phase.weights,
            bias: None,
        };
        call.run(Target { out: &mut *values, stats: None, scratch: rest });
        let count = part.output;
        let shared = Shared::new(result);
        let [_, ih, iw] = shape.input;
        let [sd, sh, sw] = shape.stride;
        values.par_chunks(count[2]).enumerate().for_each(|(i, values)| {
            let (y, rest) = (i % count[1], i / count[1]);
            let (z, row) = (rest % count[0], rest / count[0]);
            let y = from[1] + y * sh;
            let z = from[0] + z * sd;
            let at = row * shape.in_voxels() + (z * ih + y) * iw + from[2];
            // SAFETY: every row of a phase is written once, and ends inside its row of the result.
            let to = unsafe { shared.range(at, (count[2] - 1) * sw + 1) };
            for (to, &v) in to.iter_mut().step_by(sw).zip(values) {
                *to = v;
            }
        });
    }
}

/// What [`conv3d_backward_data`] computes, tap by tap.
///
/// # Panics
/// If a length contradicts `shape`.
pub fn conv3d_backward_data_reference(shape: &ConvShape, grad: &[f32], weights: &[f32]) -> Vec<f32> {
    let mut sums = vec![0.0f64; shape.in_len()];
    for_each_product(shape, |out, weight, input| {
        sums[input] += f64::from(grad[out]) * f64::from(weights[weight]);
    });
    sums.into_iter().map(|s| s as f32).collect()
}

/// Calls `visit(output, weight, input)` with the indices of every product of a convolution.
pub(crate) fn for_each_product(shape: &ConvShape, mut visit: impl FnMut(usize, usize, usize)) {
    let ([id, ih, iw], [kd, kh, kw], [od, oh, ow]) = (shape.input, shape.kernel, shape.output());
    let inside = |o: usize, k: usize, axis: usize| {
        (o * shape.stride[axis] + k).checked_sub(shape.padding[axis]).filter(|&i| i < shape.input[axis])
    };
    for n in 0..shape.batch {
        for co in 0..shape.out_channels {
            for z in 0..od {
                for y in 0..oh {
                    for x in 0..ow {
                        let out = (((n * shape.out_channels + co) * od + z) * oh + y) * ow + x;
                        for ci in 0..shape.in_channels {
                            for a in 0..kd {
                                let Some(iz) = inside(z, a, 0) else { continue };
                                for b in 0..kh {
                                    let Some(iy) = inside(y, b, 1) else { continue };
                                    for c in 0..kw {
                                        let Some(ix) = inside(x, c, 2) else { continue };
                                        let weight =
                                            (((co * shape.in_channels + ci) * kd + a) * kh + b) * kw + c;
                                        let input =
                                            (((n * shape.in_channels + ci) * id + iz) * ih + iy) * iw + ix;
                                        visit(out, weight, input);
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}
