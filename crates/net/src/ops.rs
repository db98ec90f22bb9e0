//! The layers' arithmetic, and the place where a device can get its own kernels.
//!
//! The one decision here: normalisation and activation do not make a pass over memory of their own. A
//! [`Features`] holds what the convolution wrote and, still pending, one factor and offset per sample and channel
//! and the slope of the activation; whoever reads it next applies them. All functions take their operands by
//! value, so that a tensor is freed, or its memory used again, at its last use.
//!
//! On Burn's CPU device they run on our kernels ([`crate::Kernels`]). The other bodies use Burn's own operations,
//! work on every device and are differentiable; they apply the pending part first.

use std::sync::Arc;

use burn::module::{Module, Param, RunningState};
use burn::tensor::ops::{ConvOptions, ConvTransposeOptions};
use burn::tensor::{Device, Distribution, Tensor, TensorData, activation, module};
use glioseg_kernels::{ChannelStats, Moments, ScaleShift};

use crate::bridge::{self, Due, Geometry, NormSource, Packed, Path};
use crate::spec::{NormKind, NormSpec};

/// Weight of the newest batch in running statistics (PyTorch's default).
const BATCH_NORM_MOMENTUM: f64 = 0.1;

/// `[n, c, z, y, x]`, of which the last step, a factor and offset per channel and an activation, may still be due.
#[derive(Debug, Clone)]
pub struct Features {
    raw: Tensor<5>,
    step: Step,
}

/// The last step of [`Features`].
#[derive(Debug, Clone)]
enum Step {
    Done,
    /// For Burn's operations.
    Pending(Pending),
    /// For our kernels.
    Due(Due),
}

/// What is still to be done to every value `v` of sample `n` and channel `c`:
/// `leaky_relu(v * scale[n, c] + shift[n, c], slope)`.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Factor, `[n, c]`.
    pub scale: Tensor<2>,
    /// Offset, `[n, c]`.
    pub shift: Tensor<2>,
    /// Slope for negative values; 1 is no activation.
    pub slope: f32,
}

impl From<Tensor<5>> for Features {
    /// Nothing is pending.
    fn from(raw: Tensor<5>) -> Self {
        Self { raw, step: Step::Done }
    }
}

impl Features {
    /// `raw` with a pending step.
    pub fn new(raw: Tensor<5>, pending: Pending) -> Self {
        Self { raw, step: Step::Pending(pending) }
    }

    fn due(raw: Tensor<5>, due: Due) -> Self {
        Self { raw, step: Step::Due(due) }
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.raw.dims()[1]
    }

    /// Spatial size `[z, y, x]`.
    pub fn size(&self) -> [usize; 3] {
        let [_, _, z, y, x] = self.raw.dims();
        [z, y, x]
    }

    /// The values with the pending step done.
    pub fn materialize(self) -> Tensor<5> {
        let Self { raw, step } = self;
        match step {
            Step::Done => raw,
            Step::Pending(Pending { scale, shift, slope }) => {
                let [n, c] = scale.dims();
                let y = raw.mul(scale.reshape([n, c, 1, 1, 1])).add(shift.reshape([n, c, 1, 1, 1]));
                leaky_relu(y, slope)
            }
            Step::Due(due) => {
                let Some(path) = bridge::device_path(&raw) else {
                    unreachable!("a step for our kernels is made on their device")
                };
                bridge::materialize(path, (raw, Some(due)))
            }
        }
    }

    /// As our kernels take it.
    fn into_input(self) -> bridge::Input {
        match self.step {
            Step::Due(due) => (self.raw, Some(due)),
            Step::Done | Step::Pending(_) => (self.materialize(), None),
        }
    }
}

/// The path on our kernels that all these tensors can take.
fn path<'a>(features: impl IntoIterator<Item = &'a Features>, weight: Option<&Tensor<5>>) -> Option<Path> {
    let mut tensors = features.into_iter().map(|f| &f.raw).chain(weight);
    let first = bridge::path(tensors.next()?)?;
    tensors.all(|t| bridge::path(t) == Some(first)).then_some(first)
}

/// Leaky ReLU, where slope 1 is the identity.
pub fn leaky_relu(x: Tensor<5>, slope: f32) -> Tensor<5> {
    #[expect(clippy::float_cmp, reason = "1 means exactly: no activation")]
    if slope == 1.0 { x } else { activation::leaky_relu(x, f64::from(slope)) }
}

/// A convolution's parameters, and what a device has prepared of them.
#[derive(Debug, Clone)]
pub struct Weights<'a> {
    /// `[co, ci, kz, ky, kx]`, or `[ci, co, kz, ky, kx]` of a transposed convolution.
    pub weight: Tensor<5>,
    /// `[co]`.
    pub bias: Option<Tensor<1>>,
    /// Belongs to this layer alone.
    pub packed: &'a Packed,
}

/// Convolution of the channel-wise concatenation of `inputs` with zero padding.
///
/// # Shapes
/// Inputs `[n, ci, z, y, x]` (channels add up), result `[n, co, ...]`.
pub fn conv3d<const N: usize>(
    inputs: [Features; N],
    weights: Weights<'_>,
    stride: [usize; 3],
    padding: [usize; 3],
) -> Tensor<5> {
    conv3d_stats(inputs, weights, stride, padding, false).0
}

/// [`conv3d`], and the sums of the result per channel if `want_stats` and our kernels compute it.
fn conv3d_stats<const N: usize>(
    inputs: [Features; N],
    Weights { weight, bias, packed }: Weights<'_>,
    stride: [usize; 3],
    padding: [usize; 3],
    want_stats: bool,
) -> (Tensor<5>, Option<ChannelStats>) {
    if let Some(path) = path(&inputs, Some(&weight))
        && N <= 2
    {
        let inputs = inputs.into_iter().map(Features::into_input).collect();
        return bridge::conv(path, inputs, weight, bias, Geometry { stride, padding }, packed, want_stats);
    }
    let mut parts: Vec<Tensor<5>> = inputs.into_iter().map(Features::materialize).collect();
    let x = if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 1) };
    (module::conv3d(x, weight, bias, ConvOptions::new(stride, padding, [1; 3], 1)), None)
}

/// What follows the convolution in a block.
#[derive(Debug, Clone, Copy)]
pub struct After<'a> {
    /// Probability with which a channel is dropped in training.
    pub dropout: f64,
    /// Normalisation, if any.
    pub norm: Option<&'a Norm>,
    /// Slope of the activation, if any.
    pub slope: Option<f32>,
    /// Activation before instead of after the normalisation.
    pub nonlin_first: bool,
}

/// A whole block: convolution, dropout, normalisation and activation.
///
/// One function, so that a device's own kernel can take the statistics of the normalisation while it writes the
/// convolution's result.
pub fn conv_block<const N: usize>(
    inputs: [Features; N],
    weights: Weights<'_>,
    stride: [usize; 3],
    padding: [usize; 3],
    after: After<'_>,
) -> Features {
    let want_stats = after.wants_statistics(&weights);
    let (raw, stats) = conv3d_stats(inputs, weights, stride, padding, want_stats);
    after.apply(raw, stats)
}

/// The start of a decoder step: a transposed convolution of `below`, and a block with stride 1 that reads its result and `skip`.
///
/// One function, so that a device's own kernels need not keep the upsampled map, one of the three largest of a network.
pub fn up_block(
    below: Features,
    up: Weights<'_>,
    skip: Features,
    weights: Weights<'_>,
    padding: [usize; 3],
    after: After<'_>,
) -> Features {
    if path([&below, &skip], Some(&weights.weight)) == Some(Path::Plain) {
        let want_stats = after.wants_statistics(&weights);
        let (below, skip) = (below.into_input(), skip.into_input());
        let (raw, stats) = bridge::up_conv(below, up, skip, weights, padding, want_stats);
        return after.apply(raw, stats);
    }
    conv_block([conv_transpose3d(below, up).into(), skip], weights, [1; 3], padding, after)
}

impl After<'_> {
    fn drops(&self, training: bool) -> bool {
        self.dropout > 0.0 && training
    }

    /// Whether the normalisation needs the sums of what the convolution writes.
    fn wants_statistics(&self, weights: &Weights<'_>) -> bool {
        let training = weights.weight.device().is_autodiff();
        self.norm.is_some_and(|n| n.reads_statistics(training)) && !self.nonlin_first && !self.drops(training)
    }

    fn apply(self, raw: Tensor<5>, stats: Option<ChannelStats>) -> Features {
        let raw = dropout(raw, self.dropout);
        match (self.norm, self.slope) {
            (Some(norm), Some(slope)) if self.nonlin_first => normalize(leaky_relu(raw, slope), norm, None),
            (Some(norm), slope) => normalize_stats(raw, stats, norm, slope),
            (None, slope) => activate(raw, slope.unwrap_or(1.0)),
        }
    }
}

/// Leaky ReLU without normalisation, which stays pending for our kernels outside training.
fn activate(raw: Tensor<5>, slope: f32) -> Features {
    if slope < 1.0 && bridge::path(&raw) == Some(Path::Plain) {
        let [n, c, ..] = raw.dims();
        let affine = Arc::new(ScaleShift { scale: vec![1.0; n * c], shift: vec![0.0; n * c] });
        return Features::due(raw, Due { affine, slope, source: None, parameters: [None, None] });
    }
    leaky_relu(raw, slope).into()
}

/// Transposed convolution whose stride is its kernel size, so that outputs do not overlap.
///
/// # Shapes
/// Input `[n, ci, z, y, x]`, result `[n, co, z kz, y ky, x kx]`.
pub fn conv_transpose3d(input: Features, weights: Weights<'_>) -> Tensor<5> {
    let Weights { weight, bias, packed } = weights;
    if let Some(path) = path([&input], Some(&weight)) {
        return bridge::conv_transpose(path, input.into_input(), weight, bias, packed);
    }
    let [_, _, kz, ky, kx] = weight.dims();
    let options = ConvTransposeOptions::new([kz, ky, kx], [0; 3], [0; 3], [1; 3], 1);
    module::conv_transpose3d(input.materialize(), weight, bias, options)
}

/// Normalisation, then leaky ReLU where `slope` is given.
///
/// Both stay pending, except for Burn's operations on a device that records gradients: there the mean is subtracted
/// first, since the gradient of the shorter form `v * scale + shift` is a difference of large sums.
pub fn normalize(raw: Tensor<5>, norm: &Norm, slope: Option<f32>) -> Features {
    normalize_stats(raw, None, norm, slope)
}

/// [`normalize`] with the sums of `raw`, if they are known.
fn normalize_stats(raw: Tensor<5>, stats: Option<ChannelStats>, norm: &Norm, slope: Option<f32>) -> Features {
    let [n, c, ..] = raw.dims();
    let slope = slope.unwrap_or(1.0);
    // The kernels' leaky ReLU is a maximum.
    if let Some(path) = bridge::path(&raw)
        && slope <= 1.0
    {
        let due = norm.due(path, &raw, stats, slope);
        return Features::due(raw, due);
    }
    let (mean, var) = norm.mean_and_var(&raw);
    let mut scale = var.add_scalar(norm.spec.eps).sqrt().recip();
    if let Some(gamma) = &norm.gamma {
        scale = scale.mul(gamma.val().reshape([1, c]));
    }
    let beta = norm.beta.as_ref().map(|b| b.val().reshape([1, c]));
    if raw.device().is_autodiff() {
        let wide = |t: Tensor<2>| {
            let [n, c] = t.dims();
            t.reshape([n, c, 1, 1, 1])
        };
        let mut y = raw.sub(wide(mean)).mul(wide(scale));
        if let Some(beta) = beta {
            y = y.add(wide(beta));
        }
        return leaky_relu(y, slope).into();
    }
    let mut shift = mean.mul(scale.clone()).neg();
    if let Some(beta) = beta {
        shift = shift.add(beta);
    }
    Features::new(raw, Pending { scale: scale.expand([n, c]), shift: shift.expand([n, c]), slope })
}

/// Parameters of position embeddings and axial attention, and how the axes are joined.
#[derive(Debug, Clone)]
pub struct AttentionWeights {
    /// Number of heads.
    pub heads: usize,
    /// Features of a head.
    pub dim_heads: usize,
    /// `[1, c, z, 1, 1]`, `[1, c, 1, y, 1]`, `[1, c, 1, 1, x]`.
    pub positions: [Tensor<5>; 3],
    /// For every axis queries `[h e, c]`, keys and values `[2 h e, c]`, output `[c, h e]` and its bias `[c]`.
    pub axes: [(Tensor<2>, Tensor<2>, Tensor<2>, Tensor<1>); 3],
    /// Whether the axes' results are added; else one axis reads the result of the one before.
    pub sum: bool,
    /// Whether the input (without embeddings) is added to the result.
    pub residual: bool,
}

/// Adds position embeddings and lets every voxel see the others of its line, one axis after the other.
///
/// # Shapes
/// `[n, c, z, y, x]` to the same.
pub fn axial_attention(x: Tensor<5>, weights: AttentionWeights) -> Tensor<5> {
    if let Some(path) = bridge::path(&x)
        && weights.positions.iter().all(|p| bridge::path(p) == Some(path))
    {
        return bridge::axial_attention(path, x, weights);
    }
    let AttentionWeights { heads, dim_heads, positions: [z, y, w], axes, sum, residual } = weights;
    let embedded = x.clone().add(z).add(y).add(w);
    let mut joined: Option<Tensor<5>> = None;
    let mut input = embedded;
    for (axis, (q, kv, out, bias)) in axes.into_iter().enumerate() {
        // The attended axis next to last, the channels last.
        let order = [[0, 3, 4, 2, 1], [0, 2, 4, 3, 1], [0, 2, 3, 4, 1]][axis];
        let permuted = input.clone().permute(order.map(|a: isize| a));
        let [n, a, b, t, c] = permuted.dims();
        let (lines, hidden) = (n * a * b, heads * dim_heads);
        let flat = permuted.reshape([lines * t, c]);
        let by_head = |m: Tensor<2>| m.reshape([lines, t, heads, dim_heads]).swap_dims(1, 2);
        let q = by_head(flat.clone().matmul(q.transpose()));
        let kv = flat.matmul(kv.transpose());
        let k = by_head(kv.clone().slice([0..lines * t, 0..hidden]));
        let v = by_head(kv.slice([0..lines * t, hidden..2 * hidden]));
        let scores = q.matmul(k.swap_dims(2, 3)).mul_scalar((dim_heads as f64).powf(-0.5));
        let result = activation::softmax(scores, 3).matmul(v).swap_dims(1, 2).reshape([lines * t, hidden]);
        let result = result.matmul(out.transpose()).add(bias.reshape([1, c])).reshape([n, a, b, t, c]);
        let back = [[0, 4, 3, 1, 2], [0, 4, 1, 3, 2], [0, 4, 1, 2, 3]][axis];
        let result = result.permute(back.map(|a: isize| a));
        if sum {
            joined = Some(joined.map_or(result.clone(), |j| j.add(result)));
        } else {
            input = result;
        }
    }
    let result = joined.unwrap_or(input);
    if residual { result.add(x) } else { result }
}

/// `leaky_relu(main + skip)`: the end of a residual block.
pub fn add_act(main: Features, skip: Features, slope: f32) -> Features {
    if let Some(path) = path([&main, &skip], None)
        && slope <= 1.0
    {
        return bridge::add_act(path, main.into_input(), skip.into_input(), slope).into();
    }
    leaky_relu(main.materialize().add(skip.materialize()), slope).into()
}

/// Average over blocks of `kernel` voxels.
///
/// # Panics
/// If an axis is not divisible by its kernel.
pub fn avg_pool(input: Features, kernel: [usize; 3]) -> Tensor<5> {
    let [n, c, z, y, x] = input.raw.dims();
    let [kz, ky, kx] = kernel;
    assert!(z % kz == 0 && y % ky == 0 && x % kx == 0, "average pool {kernel:?} of {:?}", [z, y, x]);
    if let Some(path) = path([&input], None) {
        return bridge::avg_pool(path, input.into_input(), kernel);
    }
    let (z, y, x) = (z / kz, y / ky, x / kx);
    let mut t = input.materialize();
    if kz > 1 {
        t = t.reshape([n * c * z, kz, y * ky * x * kx]).mean_dim(1).reshape([n, c, z, y * ky, x * kx]);
    }
    if ky > 1 {
        t = t.reshape([n * c * z * y, ky, x * kx]).mean_dim(1).reshape([n, c, z, y, x * kx]);
    }
    if kx > 1 {
        t = t.reshape([n * c * z * y, x, kx]).mean_dim(2).reshape([n, c, z, y, x]);
    }
    t
}

/// Drops whole channels with probability `p` and scales the others up, on a device that records gradients;
/// elsewhere the identity.
pub fn dropout(x: Tensor<5>, p: f64) -> Tensor<5> {
    let device = x.device();
    if p <= 0.0 || !device.is_autodiff() {
        return x;
    }
    let [n, c, ..] = x.dims();
    let keep = Tensor::<5>::random([n, c, 1, 1, 1], Distribution::Bernoulli(1.0 - p), &device).detach();
    x.mul(keep.div_scalar(1.0 - p))
}

/// A normalisation layer's parameters.
#[derive(Module, Debug)]
pub struct Norm {
    /// Factor per channel.
    pub(crate) gamma: Option<Param<Tensor<1>>>,
    /// Offset per channel.
    pub(crate) beta: Option<Param<Tensor<1>>>,
    /// Batch norm only.
    pub(crate) running_mean: Option<RunningState<Tensor<1>>>,
    /// Batch norm only; the unbiased variance, as PyTorch keeps it.
    pub(crate) running_var: Option<RunningState<Tensor<1>>>,
    #[module(skip)]
    spec: NormSpec,
}

impl Norm {
    /// Factor 1 (or `gamma`), offset 0, running statistics of a standard normal.
    pub(crate) fn new(spec: NormSpec, channels: usize, gamma: f32, device: &burn::tensor::Device) -> Self {
        let running = |value: f32| {
            (spec.kind == NormKind::Batch).then(|| RunningState::new(Tensor::full([channels], value, device)))
        };
        Self {
            gamma: spec.affine.then(|| crate::init::constant(channels, gamma, device)),
            beta: spec.affine.then(|| crate::init::constant(channels, 0.0, device)),
            running_mean: running(0.0),
            running_var: running(1.0),
            spec,
        }
    }

    /// Mean and biased variance per sample and channel, `[n, c]`, or `[1, c]` where all samples share them.
    ///
    /// Batch norm uses and updates its running statistics on a device that records gradients (training), and only
    /// reads them elsewhere.
    fn mean_and_var(&self, raw: &Tensor<5>) -> (Tensor<2>, Tensor<2>) {
        let [n, c, z, y, x] = raw.dims();
        match self.spec.kind {
            NormKind::Instance => mean_and_var(raw.clone().reshape([n, c, z, y * x])),
            NormKind::Group(groups) => {
                let per_group = c / groups;
                let (mean, var) = mean_and_var(raw.clone().reshape([n, groups, per_group * z, y * x]));
                let spread =
                    |t: Tensor<2>| t.reshape([n, groups, 1]).expand([n, groups, per_group]).reshape([n, c]);
                (spread(mean), spread(var))
            }
            NormKind::Batch => {
                let (mean, var) = self.batch_statistics(raw);
                (mean.reshape([1, c]), var.reshape([1, c]))
            }
        }
    }

    /// Mean and biased variance per channel: of this batch in training, else the running ones.
    fn batch_statistics(&self, raw: &Tensor<5>) -> (Tensor<1>, Tensor<1>) {
        let device = raw.device();
        if !device.is_autodiff() {
            let [mean, var] = self.running();
            return (mean.value().to_device(&device), var.value().to_device(&device));
        }
        let [n, c, z, y, x] = raw.dims();
        let (mean, var) = mean_and_var(raw.clone().swap_dims(0, 1).reshape([1, c, n * z, y * x]));
        let (mean, var) = (mean.reshape([c]), var.reshape([c]));
        self.update_running(mean.clone().detach(), var.clone().detach(), n * z * y * x, &device);
        (mean, var)
    }

    /// Running mean and variance of a batch norm.
    fn running(&self) -> [&RunningState<Tensor<1>>; 2] {
        let (Some(mean), Some(var)) = (&self.running_mean, &self.running_var) else {
            unreachable!("a batch norm has running statistics")
        };
        [mean, var]
    }

    /// Blends mean and biased variance of a batch of `count` values per channel into the running ones.
    fn update_running(&self, mean: Tensor<1>, var: Tensor<1>, count: usize, device: &Device) {
        let unbiased = count as f64 / (count as f64 - 1.0).max(1.0);
        for (state, new) in self.running().into_iter().zip([mean, var.mul_scalar(unbiased)]) {
            let old = state.value_sync().to_device(device).mul_scalar(1.0 - BATCH_NORM_MOMENTUM);
            state.update(old.add(new.mul_scalar(BATCH_NORM_MOMENTUM)).detach());
        }
    }

    /// Whether the layer needs statistics of its input rather than those it has kept.
    fn reads_statistics(&self, training: bool) -> bool {
        self.spec.kind != NormKind::Batch || training
    }

    /// Factor and offset per sample and channel for our kernels, from the sums of `raw`.
    fn due(&self, path: Path, raw: &Tensor<5>, stats: Option<ChannelStats>, slope: f32) -> Due {
        let [n, c, ..] = raw.dims();
        let training = path != Path::Plain;
        let kind = match self.spec.kind {
            NormKind::Instance => glioseg_kernels::NormKind::Instance,
            NormKind::Group(groups) => glioseg_kernels::NormKind::Group(groups),
            NormKind::Batch => glioseg_kernels::NormKind::Batch,
        };
        let moments = if self.spec.kind == NormKind::Batch && !training {
            let [mean, var] = self.running().map(|s| host(s.value()).into_iter().map(f64::from).collect());
            Moments { mean, var, count: 1 }
        } else {
            Moments::new(&stats.unwrap_or_else(|| bridge::statistics(raw)), kind)
        };
        if self.spec.kind == NormKind::Batch && training {
            let device = raw.device();
            let vector = |values: &[f64]| {
                let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
                Tensor::from_data(TensorData::new(values, [c]), &device)
            };
            self.update_running(vector(&moments.mean), vector(&moments.var), moments.count, &device);
        }
        let parameters = [&self.gamma, &self.beta].map(|p| p.as_ref().map(Param::val));
        let [gamma, beta] = [1.0, 0.0].map(|value| vec![value; c]);
        let gamma = parameters[0].clone().map_or(gamma, host);
        let beta = parameters[1].clone().map_or(beta, host);
        let eps = self.spec.eps;
        let affine = Arc::new(ScaleShift::new(&moments, kind, n, &gamma, &beta, eps));
        if !training {
            return Due { affine, slope, source: None, parameters: [None, None] };
        }
        let source = Some(Arc::new(NormSource { kind, eps, moments, gamma, beta }));
        Due { affine, slope, source, parameters }
    }
}

/// The values of a small tensor.
fn host(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().try_into_vec().expect("converted to f32")
}

/// Mean and biased variance over the last two axes.
///
/// Two means in a row instead of one over all voxels: shorter sums lose fewer digits.
fn mean_and_var(x: Tensor<4>) -> (Tensor<2>, Tensor<2>) {
    let [a, b, _, _] = x.dims();
    let mean = x.clone().mean_dim(3).mean_dim(2);
    let var = x.sub(mean.clone()).square().mean_dim(3).mean_dim(2);
    (mean.reshape([a, b]), var.reshape([a, b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(tensor: Tensor<5>) -> Vec<f32> {
        tensor.into_data().try_into_vec().expect("f32 on the host")
    }

    #[test]
    fn dropout_acts_on_whole_channels_and_only_in_training() {
        let plain = Device::flex();
        let x = Tensor::<5>::ones([4, 64, 2, 3, 2], &plain);
        assert_eq!(values(dropout(x.clone(), 0.25)), values(x));
        let training = plain.autodiff();
        training.seed(1);
        let y = values(dropout(Tensor::ones([4, 64, 2, 3, 2], &training), 0.25));
        let mut dropped = 0;
        for channel in y.chunks(12) {
            let expected = if channel[0] == 0.0 { 0.0 } else { 1.0 / 0.75 };
            assert!(channel.iter().all(|v| (v - expected).abs() < 1e-6), "{channel:?}");
            dropped += usize::from(channel[0] == 0.0);
        }
        assert!((40..90).contains(&dropped), "{dropped} of 256 channels were dropped");
    }

    #[test]
    fn the_pending_step_is_factor_offset_and_slope_per_sample_and_channel() {
        let device = Device::flex();
        let data =
            |v: Vec<f32>, shape: [usize; 2]| Tensor::<2>::from_data(TensorData::new(v, shape), &device);
        let raw =
            Tensor::<5>::from_data(TensorData::new(vec![1f32, -1.0, 1.0, -1.0], [2, 1, 1, 1, 2]), &device);
        let pending =
            Pending { scale: data(vec![2.0, 3.0], [2, 1]), shift: data(vec![0.5, -4.0], [2, 1]), slope: 0.1 };
        let y = values(Features::new(raw, pending).materialize());
        let expected = [2.5, -0.15, -0.1, -0.7];
        assert!(y.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{y:?}");
    }

    #[test]
    fn average_pool_takes_blocks_along_every_axis() {
        let device = Device::flex();
        let x: Vec<f32> = (0..24u8).map(f32::from).collect();
        let x = Tensor::<5>::from_data(TensorData::new(x, [1, 1, 2, 3, 4]), &device);
        // v = 12 z + 4 y + x, averaged over z and pairs of x
        let y = values(avg_pool(x.into(), [2, 1, 2]));
        assert_eq!(y, [6.5, 8.5, 10.5, 12.5, 14.5, 16.5]);
    }
}
