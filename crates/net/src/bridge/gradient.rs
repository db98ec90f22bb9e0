//! The layers in Burn's graph, with their backward passes.
//!
//! A layer is recorded as a function of what the layer before *wrote*, of that layer's factor and offset, and of its own
//! parameters: normalisation and activation are never stored. So one feature map per layer is kept for the
//! backward pass, and beside it only means and variances. A feature map that two layers read gets its normalisation's gradient
//! in two parts; it is linear, so the graph may add them.

use std::sync::Arc;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, GradientCheckpointingStrategy};
use burn::tensor::Tensor;
use glioseg_kernels::{
    Algorithm, ChannelStats, ConvShape, NormGradients, PackedBackwardData, PackedConv, ScaleShift, Source,
    avg_pool3d_backward, bias_gradient, conv3d, conv3d_backward_data, conv3d_backward_weights, norm_backward,
};
use rayon::prelude::*;

use super::forward::{self, Held};
use super::memory::{contiguous, give, into_values, recycle, take, tensor, values};
use super::packed::Packed;
use super::{
    Due, Geometry, Input, NormSource, Tracked, conv_shape, cpu, from_tracked, kernels, tracked,
    transposed_shape,
};

/// Calls a function that is generic in Burn's checkpointing strategy.
macro_rules! with_strategy {
    ($strategy:expr, $function:ident($($argument:expr),*)) => {
        match $strategy {
            GradientCheckpointingStrategy::Balanced => $function::<BalancedCheckpointing>($($argument),*),
            GradientCheckpointingStrategy::Disabled => $function::<NoCheckpointing>($($argument),*),
        }
    };
}

pub(super) use with_strategy;

/// A feature map in the graph, with the parameters of the normalisation that is due.
struct Operand {
    raw: Tracked,
    parameters: [Option<Tracked>; 2],
    due: Option<Due>,
}

impl Operand {
    fn new((raw, due): Input) -> Self {
        let parameters = due.as_ref().map_or([None, None], |d| d.parameters.clone().map(|p| p.map(tracked)));
        Self { raw: tracked(raw), parameters, due }
    }

    fn held(&self) -> Held {
        Held::new(self.raw.primitive().clone(), self.due.clone())
    }

    /// The nodes of the feature map, the factor and the offset.
    fn nodes(&self, none: &Tracked) -> [NodeGuard; 3] {
        let [gamma, beta] = &self.parameters;
        [self.raw.node(), node(gamma.as_ref(), none), node(beta.as_ref(), none)]
    }

    fn saved(&self, raw: NodeId) -> Saved {
        Saved {
            raw,
            affine: self.due.as_ref().map(|d| d.affine.clone()),
            slope: self.due.as_ref().map_or(1.0, |d| d.slope),
            source: self.due.as_ref().and_then(|d| d.source.clone()),
        }
    }
}

fn node(tensor: Option<&Tracked>, none: &Tracked) -> NodeGuard {
    tensor.unwrap_or(none).node()
}

/// A tensor without gradient, which stands for an operand that a layer does not have.
fn nothing(like: &Tensor<5>) -> Tracked {
    tracked(Tensor::<1>::zeros([1], &like.device()))
}

/// What the backward pass needs of one feature map.
#[derive(Debug, Clone)]
struct Saved {
    raw: NodeId,
    affine: Option<Arc<ScaleShift>>,
    slope: f32,
    source: Option<Arc<NormSource>>,
}

impl Saved {
    fn values(&self, checkpointer: &mut Checkpointer) -> FlexTensor {
        contiguous(checkpointer.retrieve_node_output(self.raw))
    }

    fn source<'a>(&'a self, raw: &'a FlexTensor) -> Source<'a> {
        Source {
            data: values(raw),
            channels: raw.layout().shape()[1],
            prologue: self.affine.as_ref().map(|a| a.prologue(self.slope)),
        }
    }

    /// From the gradient after what was due to those of the feature map and of factor and offset.
    fn through(&self, raw: &FlexTensor, grad: Vec<f32>) -> (Vec<f32>, Option<NormGradients>) {
        let Some(source) = &self.source else {
            assert!(self.affine.is_none(), "a normalisation without what its gradient needs");
            return (grad, None);
        };
        let NormSource { kind, eps, moments, gamma, beta } = &**source;
        let voxels = raw.layout().shape()[2..].iter().product();
        let mut result = take(grad.len());
        let gradients = norm_backward(
            cpu(),
            values(raw),
            &grad,
            voxels,
            *kind,
            moments,
            gamma,
            beta,
            *eps,
            self.slope,
            &mut result,
        );
        give(grad);
        (result, Some(gradients))
    }

    /// Hands the gradient after what was due on to the three nodes of [`Operand::nodes`].
    fn register(&self, nodes: &[Option<NodeId>], raw: &FlexTensor, grad: Vec<f32>, grads: &mut Gradients) {
        let shape = raw.layout().shape().clone();
        let (grad, gradients) = self.through(raw, grad);
        match nodes[0] {
            Some(id) => grads.register::<Flex>(id, tensor(grad, shape)),
            None => give(grad),
        }
        let Some(NormGradients { gamma, beta }) = gradients else { return };
        for (id, values) in [(nodes[1], gamma), (nodes[2], beta)] {
            if let Some(id) = id {
                let channels = values.len();
                grads.register::<Flex>(id, tensor(values, [channels]));
            }
        }
    }
}

pub(super) fn ids<const N: usize, S>(ops: &Ops<S, N>) -> [Option<NodeId>; N] {
    ops.parents.each_ref().map(|p| p.as_ref().map(|p| p.id))
}

/// Convolution: three nodes per source (the second may be missing), weight, bias.
#[derive(Debug)]
struct Conv;

#[derive(Debug, Clone)]
struct ConvState {
    sources: Vec<Saved>,
    weight: NodeId,
    geometry: Geometry,
    algorithm: Algorithm,
}

impl Backward<Flex, 8> for Conv {
    type State = ConvState;

    fn backward(self, ops: Ops<ConvState, 8>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let nodes = ids(&ops);
        let ConvState { sources: saved, weight, geometry, algorithm } = ops.state;
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let raws: Vec<FlexTensor> = saved.iter().map(|s| s.values(checkpointer)).collect();
        let weight: FlexTensor = contiguous(checkpointer.retrieve_node_output(weight));
        let sources: Vec<Source<'_>> = saved.iter().zip(&raws).map(|(s, raw)| s.source(raw)).collect();
        let channels: usize = sources.iter().map(|s| s.channels).sum();
        let shape = conv_shape(channels, raws[0].layout().shape(), weight.layout().shape(), geometry);
        if let Some(id) = nodes[7] {
            let bias = bias_gradient(cpu(), values(&grad), shape.out_channels, shape.out_voxels());
            grads.register::<Flex>(id, tensor(bias, [shape.out_channels]));
        }
        if let Some(id) = nodes[6] {
            let mut result = vec![0.0; shape.weight_len()];
            let source = Source::plain(values(&grad), shape.out_channels);
            conv3d_backward_weights(cpu(), &shape, &sources, source, &mut result);
            grads.register::<Flex>(id, tensor(result, weight.layout().shape().clone()));
        }
        let mut first = 0;
        for (i, (saved, raw)) in saved.iter().zip(&raws).enumerate() {
            let count = raw.layout().shape()[1];
            let nodes = &nodes[3 * i..3 * i + 3];
            if nodes.iter().any(Option::is_some) {
                let part = ConvShape { in_channels: count, ..shape };
                let part_weight = input_channels(&weight, first, count);
                let packed = PackedBackwardData::new(cpu(), &part, &part_weight, algorithm);
                let mut result = take(part.in_len());
                conv3d_backward_data(&part, values(&grad), &packed, &mut result);
                drop(packed);
                saved.register(nodes, raw, result, grads);
            }
            first += count;
        }
        recycle(grad);
        raws.into_iter().for_each(recycle);
    }
}

/// The weights of some input channels.
fn input_channels(weight: &FlexTensor, first: usize, count: usize) -> Vec<f32> {
    let shape = weight.layout().shape();
    let taps: usize = shape[2..].iter().product();
    let rows = values(weight).chunks_exact(shape[1] * taps);
    rows.flat_map(|row| &row[first * taps..(first + count) * taps]).copied().collect()
}

pub(super) fn conv(
    strategy: GradientCheckpointingStrategy,
    inputs: Vec<Input>,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
    geometry: Geometry,
    want_stats: bool,
) -> (Tensor<5>, Option<ChannelStats>) {
    let (out, stats) = with_strategy!(strategy, record_conv(inputs, weight, bias, geometry, want_stats));
    (from_tracked(out, strategy), stats)
}

fn record_conv<C: CheckpointStrategy>(
    inputs: Vec<Input>,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
    geometry: Geometry,
    want_stats: bool,
) -> (Tracked, Option<ChannelStats>) {
    let none = nothing(&weight);
    let operands: Vec<Operand> = inputs.into_iter().map(Operand::new).collect();
    assert!(matches!(operands.len(), 1 | 2), "{} sources of a convolution", operands.len());
    let (weight, bias) = (tracked(weight), bias.map(tracked));
    let held: Vec<Held> = operands.iter().map(Operand::held).collect();
    let (out, stats) = forward::convolve(
        &held,
        weight.primitive().clone(),
        bias.as_ref().map(|b| b.primitive().clone()),
        geometry,
        &Packed::default(),
        want_stats,
    );
    let [a, b, c] = operands[0].nodes(&none);
    let [d, e, f] =
        operands.get(1).map_or_else(|| [none.node(), none.node(), none.node()], |o| o.nodes(&none));
    let nodes = [a, b, c, d, e, f, weight.node(), node(bias.as_ref(), &none)];
    let out = match Conv.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(out),
        OpsKind::Tracked(mut prep) => {
            let sources = operands.iter().map(|o| o.saved(prep.checkpoint(&o.raw))).collect();
            let algorithm = kernels().algorithm();
            let state = ConvState { sources, weight: prep.checkpoint(&weight), geometry, algorithm };
            prep.finish(state, out)
        }
    };
    (out, stats)
}

/// Transposed convolution: three nodes of the source, weight, bias.
#[derive(Debug)]
struct Transposed;

#[derive(Debug, Clone)]
struct TransposedState {
    source: Saved,
    weight: NodeId,
}

impl Backward<Flex, 5> for Transposed {
    type State = TransposedState;

    /// Its data gradient is the convolution with the same weights and kernel = stride; its weight gradient is that
    /// convolution's, with the roles of input and output gradient exchanged.
    fn backward(self, ops: Ops<TransposedState, 5>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let nodes = ids(&ops);
        let TransposedState { source: saved, weight } = ops.state;
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let raw = saved.values(checkpointer);
        let weight: FlexTensor = contiguous(checkpointer.retrieve_node_output(weight));
        let forward = transposed_shape(raw.layout().shape(), weight.layout().shape());
        let shape = ConvShape {
            batch: forward.batch,
            in_channels: forward.out_channels,
            out_channels: forward.in_channels,
            input: forward.output(),
            kernel: forward.kernel,
            stride: forward.kernel,
            padding: [0; 3],
        };
        if let Some(id) = nodes[4] {
            let bias = bias_gradient(cpu(), values(&grad), forward.out_channels, forward.out_voxels());
            grads.register::<Flex>(id, tensor(bias, [forward.out_channels]));
        }
        let plain = [Source::plain(values(&grad), forward.out_channels)];
        if let Some(id) = nodes[3] {
            let mut result = vec![0.0; shape.weight_len()];
            conv3d_backward_weights(cpu(), &shape, &plain, saved.source(&raw), &mut result);
            grads.register::<Flex>(id, tensor(result, weight.layout().shape().clone()));
        }
        if nodes[..3].iter().any(Option::is_some) {
            let packed = PackedConv::new(cpu(), &shape, values(&weight), Algorithm::Direct);
            let mut result = take(forward.in_len());
            conv3d(&shape, &plain, &packed, None, &mut result, None);
            saved.register(&nodes[..3], &raw, result, grads);
        }
        recycle(grad);
        recycle(raw);
    }
}

pub(super) fn conv_transpose(
    strategy: GradientCheckpointingStrategy,
    input: Input,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
) -> Tensor<5> {
    from_tracked(with_strategy!(strategy, record_transposed(input, weight, bias)), strategy)
}

fn record_transposed<C: CheckpointStrategy>(
    input: Input,
    weight: Tensor<5>,
    bias: Option<Tensor<1>>,
) -> Tracked {
    let none = nothing(&weight);
    let operand = Operand::new(input);
    let (weight, bias) = (tracked(weight), bias.map(tracked));
    let plain_bias = bias.as_ref().map(|b| b.primitive().clone());
    let out = forward::upsample(&operand.held(), weight.primitive().clone(), plain_bias, &Packed::default());
    let [a, b, c] = operand.nodes(&none);
    let nodes = [a, b, c, weight.node(), node(bias.as_ref(), &none)];
    match Transposed.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(out),
        OpsKind::Tracked(mut prep) => {
            let source = operand.saved(prep.checkpoint(&operand.raw));
            let state = TransposedState { source, weight: prep.checkpoint(&weight) };
            prep.finish(state, out)
        }
    }
}

/// Normalisation and activation by themselves: three nodes.
#[derive(Debug)]
struct Finish;

impl Backward<Flex, 3> for Finish {
    type State = Saved;

    fn backward(self, ops: Ops<Saved, 3>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let nodes = ids(&ops);
        let grad = own(grads.consume::<Flex>(&ops.node));
        let raw = ops.state.values(checkpointer);
        ops.state.register(&nodes, &raw, grad, grads);
        recycle(raw);
    }
}

/// The values of a gradient, copied only if somebody else reads them.
fn own(grad: FlexTensor) -> Vec<f32> {
    into_values(contiguous(grad)).unwrap_or_else(|shared| {
        let mut copy = take(shared.layout().num_elements());
        copy.copy_from_slice(values(&shared));
        copy
    })
}

pub(super) fn materialize(strategy: GradientCheckpointingStrategy, raw: Tensor<5>, due: Due) -> Tensor<5> {
    from_tracked(with_strategy!(strategy, record_finish(raw, due)), strategy)
}

fn record_finish<C: CheckpointStrategy>(raw: Tensor<5>, due: Due) -> Tracked {
    let none = nothing(&raw);
    let operand = Operand::new((raw, Some(due)));
    let out = forward::finish(operand.held());
    match Finish.prepare::<C>(operand.nodes(&none)).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(out),
        OpsKind::Tracked(mut prep) => {
            let state = operand.saved(prep.checkpoint(&operand.raw));
            prep.finish(state, out)
        }
    }
}

/// The end of a residual block: three nodes of either branch.
#[derive(Debug)]
struct Add;

#[derive(Debug, Clone)]
struct AddState {
    branches: [Saved; 2],
    /// The result; its sign is that of the sum.
    out: FlexTensor,
    slope: f32,
}

impl Backward<Flex, 6> for Add {
    type State = AddState;

    fn backward(self, ops: Ops<AddState, 6>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let nodes = ids(&ops);
        let AddState { branches: [main, skip], out, slope } = ops.state;
        let mut grad = own(grads.consume::<Flex>(&ops.node));
        grad.par_iter_mut().zip(values(&out)).for_each(|(g, &y)| *g *= if y > 0.0 { 1.0 } else { slope });
        drop(out);
        let raw = main.values(checkpointer);
        let mut copy = take(grad.len());
        copy.copy_from_slice(&grad);
        main.register(&nodes[..3], &raw, copy, grads);
        recycle(raw);
        let raw = skip.values(checkpointer);
        skip.register(&nodes[3..], &raw, grad, grads);
        recycle(raw);
    }
}

pub(super) fn add_act(
    strategy: GradientCheckpointingStrategy,
    main: Input,
    skip: Input,
    slope: f32,
) -> Tensor<5> {
    from_tracked(with_strategy!(strategy, record_add(main, skip, slope)), strategy)
}

fn record_add<C: CheckpointStrategy>(main: Input, skip: Input, slope: f32) -> Tracked {
    let none = nothing(&main.0);
    let [main, skip] = [main, skip].map(Operand::new);
    let out = forward::add(main.held(), &skip.held(), slope);
    let ([a, b, c], [d, e, f]) = (main.nodes(&none), skip.nodes(&none));
    match Add.prepare::<C>([a, b, c, d, e, f]).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(out),
        OpsKind::Tracked(mut prep) => {
            let branches = [main.saved(prep.checkpoint(&main.raw)), skip.saved(prep.checkpoint(&skip.raw))];
            prep.finish(AddState { branches, out: out.clone(), slope }, out)
        }
    }
}

/// Average pooling: one node.
#[derive(Debug)]
struct Pool;

#[derive(Debug, Clone)]
struct PoolState {
    shape: Vec<usize>,
    kernel: [usize; 3],
}

impl Backward<Flex, 1> for Pool {
    type State = PoolState;

    fn backward(self, ops: Ops<PoolState, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [id] = ids(&ops);
        let PoolState { shape, kernel } = ops.state;
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        if let Some(id) = id {
            let mut result = take(shape.iter().product());
            avg_pool3d_backward(values(&grad), [shape[2], shape[3], shape[4]], kernel, &mut result);
            grads.register::<Flex>(id, tensor(result, shape));
        }
        recycle(grad);
    }
}

pub(super) fn avg_pool(
    strategy: GradientCheckpointingStrategy,
    input: Tensor<5>,
    kernel: [usize; 3],
) -> Tensor<5> {
    from_tracked(with_strategy!(strategy, record_pool(input, kernel)), strategy)
}

fn record_pool<C: CheckpointStrategy>(input: Tensor<5>, kernel: [usize; 3]) -> Tracked {
    let shape = input.dims().to_vec();
    let input = tracked(input);
    let out = forward::pool(&contiguous(input.primitive().clone()), kernel);
    match Pool.prepare::<C>([input.node()]).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(out),
        OpsKind::Tracked(prep) => prep.finish(PoolState { shape, kernel }, out),
    }
}
