//! The layers on plain slices.
//!
//! Every function takes its tensors by value and keeps their memory for the next layer if this was their last use.

use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;
use glioseg_kernels::{
    ChannelStats, ScaleShift, Source, Upsampling, add_activate, avg_pool3d, conv_transpose3d, conv3d,
    conv3d_upsampled, normalize, normalize_in_place,
};

use super::memory::{contiguous, give, into_values, recycle, take, tensor, values};
use super::packed::Packed;
use super::profile::Timer;
use crate::ops::Weights;

use super::{Due, Geometry, Input, conv_shape, cpu, from_plain, kernels, plain, transposed_shape};

/// A feature map as the kernels read it.
pub(super) struct Held {
    pub(super) tensor: FlexTensor,
    pub(super) due: Option<Due>,
}

impl Held {
    pub(super) fn new(tensor: FlexTensor, due: Option<Due>) -> Self {
        Self { tensor: contiguous(tensor), due }
    }

    pub(super) fn shape(&self) -> Vec<usize> {
        self.tensor.layout().shape().to_vec()
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source {
            data: values(&self.tensor),
            channels: self.tensor.layout().shape()[1],
            prologue: self.due.as_ref().map(|d| d.affine.prologue(d.slope)),
        }
    }
}

/// Convolution of the concatenation of `inputs`, and the sums of its output if wanted.
pub(super) fn convolve(
    inputs: &[Held],
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    geometry: Geometry,
    packed: &Packed,
    want_stats: bool,
) -> (FlexTensor, Option<ChannelStats>) {
    let mut timer = Timer::start();
    let sources: Vec<Source<'_>> = inputs.iter().map(Held::source).collect();
    let channels = sources.iter().map(|s| s.channels).sum();
    let weight = contiguous(weight);
    let shape = conv_shape(channels, &inputs[0].shape(), weight.layout().shape(), geometry);
    let weights = packed.conv(&shape, &weight, kernels().algorithm());
    timer.packed();
    let bias = bias.map(contiguous);
    let mut stats =
        want_stats.then(|| ChannelStats::new(shape.batch, shape.out_channels, shape.out_voxels()));
    let mut out = take(shape.out_len());
    conv3d(&shape, &sources, &weights, bias.as_ref().map(values), &mut out, stats.as_mut());
    let [z, y, x] = shape.output();
    timer.stop(shape.flops(), weights.bytes(), || {
        let inputs: Vec<String> = sources.iter().map(|s| s.channels.to_string()).collect();
        let (co, kernel) = (shape.out_channels, join(shape.kernel));
        let stride = if shape.stride == [1; 3] { String::new() } else { format!("/{}", join(shape.stride)) };
        let word = weights.algorithm().word();
        format!("conv {} -> {co} @ {z}x{y}x{x}, {kernel}{stride}, {word}", inputs.join("+"))
    });
    (tensor(out, [shape.batch, shape.out_channels, z, y, x]), stats)
}

fn join(axes: [usize; 3]) -> String {
    axes.map(|a| a.to_string()).join("x")
}

/// Transposed convolution whose stride is its kernel.
pub(super) fn upsample(
    input: &Held,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    packed: &Packed,
) -> FlexTensor {
    let mut timer = Timer::start();
    let weight = contiguous(weight);
    let shape = transposed_shape(&input.shape(), weight.layout().shape());
    let weights = packed.transposed(&shape, &weight);
    timer.packed();
    let bias = bias.map(contiguous);
    let mut out = take(shape.out_len());
    conv_transpose3d(&shape, input.source(), &weights, bias.as_ref().map(values), &mut out);
    let [z, y, x] = shape.output();
    let flops = 2.0 * (shape.in_len() * shape.out_channels * shape.taps()) as f64;
    timer.stop(flops, weights.bytes(), || {
        format!(
            "transposed {} -> {} @ {z}x{y}x{x}, {}",
            shape.in_channels,
            shape.out_channels,
            join(shape.kernel)
        )
    });
    tensor(out, [shape.batch, shape.out_channels, z, y, x])
}

/// Does what is due; in place if nobody else holds the values.
pub(super) fn finish(input: Held) -> FlexTensor {
    let Some(due) = &input.due else { return input.tensor };
    let timer = Timer::start();
    let shape = input.shape();
    let voxels = shape[2..].iter().product();
    let prologue = due.affine.prologue(due.slope);
    let out = match into_values(input.tensor) {
        Ok(mut out) => {
            normalize_in_place(cpu(), &mut out, voxels, prologue);
            out
        }
        Err(shared) => {
            let mut out = take(shared.layout().num_elements());
            normalize(cpu(), values(&shared), &mut out, voxels, prologue);
            out
        }
    };
    timer.stop(0.0, 0, || format!("normalize {} @ {}", shape[1], join([shape[2], shape[3], shape[4]])));
    tensor(out, shape)
}

/// `leaky(main + skip)` after what is due of both, which has no activation.
pub(super) fn add(main: Held, skip: &Held, slope: f32) -> FlexTensor {
    let timer = Timer::start();
    let shape = main.shape();
    let voxels = shape[2..].iter().product();
    let identity =
        ScaleShift { scale: vec![1.0; shape[0] * shape[1]], shift: vec![0.0; shape[0] * shape[1]] };
    let affine = main.due.as_ref().map_or(&identity, |d| &*d.affine).clone();
    let mut out = match into_values(main.tensor) {
        Ok(out) => out,
        Err(shared) => {
            let mut out = take(shared.layout().num_elements());
            out.copy_from_slice(values(&shared));
            out
        }
    };
    let skip_affine = skip.due.as_ref().map(|d| &*d.affine);
    add_activate(cpu(), &mut out, values(&skip.tensor), voxels, &affine, skip_affine, slope);
    timer.stop(0.0, 0, || format!("add {} @ {}", shape[1], join([shape[2], shape[3], shape[4]])));
    tensor(out, shape)
}

/// Mean of every block of `kernel` voxels.
pub(super) fn pool(input: &FlexTensor, kernel: [usize; 3]) -> FlexTensor {
    let timer = Timer::start();
    let shape = input.layout().shape().to_vec();
    let size = [shape[2], shape[3], shape[4]];
    let [z, y, x]: [usize; 3] = std::array::from_fn(|a| size[a] / kernel[a]);
    let mut out = take(shape[0] * shape[1] * z * y * x);
    avg_pool3d(values(input), size, kernel, &mut out);
    timer.stop(0.0, 0, || format!("average {} @ {z}x{y}x{x}", shape[1]));
    tensor(out, [shape[0], shape[1], z, y, x])
}

/// [`convolve`] of tensors outside Burn's graph.
pub(super) fn conv(
    inputs: Vec<Input>,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
    geometry: Geometry,
    packed: &Packed,
    want_stats: bool,
) -> (Tensor<5>, Option<ChannelStats>) {
    let inputs: Vec<Held> = inputs.into_iter().map(|(raw, due)| Held::new(plain(raw), due)).collect();
    let (out, stats) = convolve(&inputs, plain(weight), bias.map(plain), geometry, packed, want_stats);
    for input in inputs {
        recycle(input.tensor);
    }
    (from_plain(out), stats)
}

/// [`upsample`] of tensors outside Burn's graph.
pub(super) fn conv_transpose(
    (raw, due): Input,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
    packed: &Packed,
) -> Tensor<5> {
    let input = Held::new(plain(raw), due);
    let out = upsample(&input, plain(weight), bias.map(plain), packed);
    recycle(input.tensor);
    from_plain(out)
}

/// [`upsample`] and [`convolve`] of its result and `skip`, slab by slab where the map between them is large.
pub(super) fn up_conv(
    below: Input,
    up: Weights<'_>,
    (skip_raw, skip_due): Input,
    weights: Weights<'_>,
    padding: [usize; 3],
    want_stats: bool,
) -> (Tensor<5>, Option<ChannelStats>) {
    let geometry = Geometry { stride: [1; 3], padding };
    let [batch, _, z, y, x] = below.0.dims();
    let up_shape = transposed_shape(&[batch, 0, z, y, x], &up.weight.dims());
    if Upsampling::slabs(&up_shape) == 1 {
        let made = conv_transpose(below, up.weight, up.bias, up.packed);
        let inputs = vec![(made, None), (skip_raw, skip_due)];
        return conv(inputs, weights.weight, weights.bias, geometry, weights.packed, want_stats);
    }
    let mut timer = Timer::start();
    let below = Held::new(plain(below.0), below.1);
    let skip = Held::new(plain(skip_raw), skip_due);
    let [up_weight, weight] = [up.weight, weights.weight].map(|w| contiguous(plain(w)));
    let [up_bias, bias] = [up.bias, weights.bias].map(|b| b.map(|b| contiguous(plain(b))));
    let up_packed = up.packed.transposed(&up_shape, &up_weight);
    let channels = up_shape.out_channels + skip.source().channels;
    let shape = conv_shape(channels, &skip.shape(), weight.layout().shape(), geometry);
    let packed = weights.packed.conv(&shape, &weight, kernels().algorithm());
    timer.packed();
    let mut stats =
        want_stats.then(|| ChannelStats::new(shape.batch, shape.out_channels, shape.out_voxels()));
    let mut out = take(shape.out_len());
    let mut scratch = take(Upsampling::scratch_len(&up_shape, shape.kernel[0]));
    let upsampling = Upsampling {
        shape: &up_shape,
        source: below.source(),
        weights: &up_packed,
        bias: up_bias.as_ref().map(values),
    };
    let bias = bias.as_ref().map(values);
    conv3d_upsampled(
        &shape,
        upsampling,
        skip.source(),
        &packed,
        bias,
        &mut out,
        stats.as_mut(),
        &mut scratch,
    );
    give(scratch);
    let [z, y, x] = shape.output();
    timer.stop(shape.flops() + up_shape.flops(), packed.bytes() + up_packed.bytes(), || {
        let (below, made, co) = (up_shape.in_channels, up_shape.out_channels, shape.out_channels);
        let (word, kernel) = (packed.algorithm().word(), join(shape.kernel));
        format!("conv {made} (of {below})+{} -> {co} @ {z}x{y}x{x}, {kernel}, {word}", channels - made)
    });
    recycle(below.tensor);
    recycle(skip.tensor);
    (from_plain(tensor(out, [shape.batch, shape.out_channels, z, y, x])), stats)
}

/// [`finish`] of a tensor outside Burn's graph.
pub(super) fn materialize(raw: Tensor<5>, due: Due) -> Tensor<5> {
    from_plain(finish(Held::new(plain(raw), Some(due))))
}

/// [`add`] of tensors outside Burn's graph.
pub(super) fn add_act((main, main_due): Input, (skip, skip_due): Input, slope: f32) -> Tensor<5> {
    let skip = Held::new(plain(skip), skip_due);
    let out = add(Held::new(plain(main), main_due), &skip, slope);
    recycle(skip.tensor);
    from_plain(out)
}

/// [`pool`] of a tensor outside Burn's graph.
pub(super) fn avg_pool((raw, due): Input, kernel: [usize; 3]) -> Tensor<5> {
    let input = finish(Held::new(plain(raw), due));
    let out = pool(&input, kernel);
    recycle(input);
    from_plain(out)
}
