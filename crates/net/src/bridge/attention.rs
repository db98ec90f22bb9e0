//! Axial attention on plain slices, with its backward pass recorded in Burn's graph as one operation.
//!
//! In evaluation the axes share one map, which they change in place. In training the map between two axes is kept, two beside the
//! input; scores are never kept, the backward pass makes them again line by line.

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::{Flex, GradientCheckpointingStrategy};
use burn::tensor::Tensor;
use glioseg_kernels::{
    AxialOutput, AxialShape, AxialWeights, Positions, axial_attention as attend, axial_attention_backward,
    position_gradients,
};
use rayon::prelude::*;

use super::gradient::{ids, with_strategy};
use super::memory::{contiguous, give, recycle, take, tensor, values};
use super::profile::Timer;
use super::{Path, Tracked, cpu, from_plain, from_tracked, plain, tracked};
use crate::ops::AttentionWeights;

/// The parameters as the kernels read them.
#[derive(Debug, Clone)]
struct Parameters {
    heads: usize,
    dim_heads: usize,
    sum: bool,
    residual: bool,
    positions: [FlexTensor; 3],
    /// Queries, keys and values, output, bias of every axis.
    axes: [[FlexTensor; 4]; 3],
}

impl Parameters {
    /// From the parameters and a way to take a tensor apart.
    fn new(
        weights: AttentionWeights,
        mut five: impl FnMut(Tensor<5>) -> FlexTensor,
        mut two: impl FnMut(Tensor<2>) -> FlexTensor,
        mut one: impl FnMut(Tensor<1>) -> FlexTensor,
    ) -> Self {
        let AttentionWeights { heads, dim_heads, positions, axes, sum, residual } = weights;
        let positions = positions.map(|p| contiguous(five(p)));
        let axes = axes.map(|(q, kv, out, bias)| [two(q), two(kv), two(out), one(bias)].map(contiguous));
        Self { heads, dim_heads, sum, residual, positions, axes }
    }

    fn shape(&self, dims: &[usize], axis: usize) -> AxialShape {
        AxialShape {
            batch: dims[0],
            channels: dims[1],
            size: [dims[2], dims[3], dims[4]],
            axis,
            heads: self.heads,
            dim_heads: self.dim_heads,
        }
    }

    fn weights(&self, axis: usize) -> AxialWeights<'_> {
        let [q, kv, out, bias] = self.axes[axis].each_ref().map(values);
        AxialWeights { q, kv, out, bias }
    }

    fn positions(&self) -> Positions<'_> {
        self.positions.each_ref().map(values)
    }

    fn flops(&self, dims: &[usize]) -> f64 {
        (0..3).map(|axis| self.shape(dims, axis).flops()).sum()
    }
}

/// The result, and the maps between the axes if they are to be kept.
fn run(x: &FlexTensor, parameters: &Parameters, keep: bool) -> (FlexTensor, Vec<FlexTensor>) {
    let timer = Timer::start();
    let dims = x.layout().shape().to_vec();
    let input = values(x);
    let (embedded, last) =
        (Some(parameters.positions()), if parameters.residual { Some(input) } else { None });
    let mut kept = Vec::new();
    let mut out = take(input.len());
    for axis in 0..3 {
        let (shape, weights) = (parameters.shape(&dims, axis), parameters.weights(axis));
        let output = match (parameters.sum, axis, last) {
            (true, 1 | 2, _) => AxialOutput::Add,
            (false, 2, Some(input)) => AxialOutput::StoreWith(input),
            _ => AxialOutput::Store,
        };
        if axis == 0 || parameters.sum {
            attend(cpu(), &shape, Some(input), embedded, &weights, output, &mut out);
        } else if keep {
            let before = tensor(std::mem::replace(&mut out, take(input.len())), dims.clone());
            attend(cpu(), &shape, Some(values(&before)), None, &weights, output, &mut out);
            kept.push(before);
        } else {
            attend(cpu(), &shape, None, None, &weights, output, &mut out);
        }
    }
    if let (true, Some(input)) = (parameters.sum, last) {
        out.par_iter_mut().zip(input).for_each(|(y, x)| *y += x);
    }
    timer.stop(parameters.flops(&dims), 0, || {
        let Parameters { heads, dim_heads, .. } = parameters;
        format!("attention {} @ {}x{}x{}, {heads} heads of {dim_heads}", dims[1], dims[2], dims[3], dims[4])
    });
    (tensor(out, dims), kept)
}

/// Position embeddings and axial attention.
pub(crate) fn axial_attention(path: Path, x: Tensor<5>, weights: AttentionWeights) -> Tensor<5> {
    match path {
        Path::Plain => {
            let parameters = Parameters::new(weights, plain, plain, plain);
            let x = contiguous(plain(x));
            let (out, _) = run(&x, &parameters, false);
            recycle(x);
            from_plain(out)
        }
        Path::Tracked(strategy) => {
            let out = with_strategy!(strategy, record(x, weights));
            from_tracked(out, strategy)
        }
    }
}

/// Sixteen nodes: the input, three embeddings, and queries, keys and values, output and bias of three axes.
#[derive(Debug)]
struct Attention;

#[derive(Debug, Clone)]
struct State {
    x: NodeId,
    parameters: Parameters,
    /// Between the axes; none where they are summed.
    kept: Vec<FlexTensor>,
}

fn record<C: CheckpointStrategy>(x: Tensor<5>, weights: AttentionWeights) -> Tracked {
    let x = tracked(x);
    let mut nodes = vec![x.node()];
    let mut note = |tensor: Tracked| {
        nodes.push(tensor.node());
        tensor.primitive().clone()
    };
    let note = std::cell::RefCell::new(&mut note);
    let parameters = Parameters::new(
        weights,
        |t| (note.borrow_mut())(tracked(t)),
        |t| (note.borrow_mut())(tracked(t)),
        |t| (note.borrow_mut())(tracked(t)),
    );
    let (out, kept) = run(&contiguous(x.primitive().clone()), &parameters, true);
    let nodes: [_; 16] = nodes.try_into().unwrap_or_else(|_| unreachable!("1 + 3 + 12 tensors"));
    match Attention.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(out),
        OpsKind::Tracked(mut prep) => {
            let state = State { x: prep.checkpoint(&x), parameters, kept };
            prep.finish(state, out)
        }
    }
}

impl Backward<Flex, 16> for Attention {
    type State = State;

    fn backward(self, ops: Ops<State, 16>, grads: &mut Gradients, checkpointer: &mut Checkpointer) {
        let nodes = ids(&ops);
        let State { x, parameters, kept } = ops.state;
        let grad = contiguous(grads.consume::<Flex>(&ops.node));
        let x: FlexTensor = contiguous(checkpointer.retrieve_node_output(x));
        let dims = x.layout().shape().to_vec();
        let embedded = Some(parameters.positions());
        // What is left of the gradient on the way from the last axis to the first.
        let mut current: Option<Vec<f32>> = None;
        for axis in (0..3).rev() {
            let (shape, weights) = (parameters.shape(&dims, axis), parameters.weights(axis));
            let found = if parameters.sum {
                let output = if current.is_some() { AxialOutput::Add } else { AxialOutput::Store };
                let mut sum = current.take().unwrap_or_else(|| take(shape.len()));
                let (x, grad) = (values(&x), values(&grad));
                let found =
                    axial_attention_backward(cpu(), &shape, x, embedded, &weights, grad, output, &mut sum);
                current = Some(sum);
                found
            } else {
                let before = current.take();
                let mut result = take(shape.len());
                let (input, positions) = match axis {
                    0 => (values(&x), embedded),
                    _ => (values(&kept[axis - 1]), None),
                };
                let from = before.as_deref().unwrap_or_else(|| values(&grad));
                let output = AxialOutput::Store;
                let found = axial_attention_backward(
                    cpu(),
                    &shape,
                    input,
                    positions,
                    &weights,
                    from,
                    output,
                    &mut result,
                );
                before.into_iter().for_each(give);
                current = Some(result);
                found
            };
            let parts = [found.q, found.kv, found.out, found.bias];
            for ((id, part), parameter) in nodes[4 + 4 * axis..].iter().zip(parts).zip(&parameters.axes[axis])
            {
                if let Some(id) = id {
                    grads.register::<Flex>(*id, tensor(part, parameter.layout().shape().clone()));
                }
            }
        }
        let mut result = current.expect("three axes");
        let of_positions = position_gradients(&result, dims[1], [dims[2], dims[3], dims[4]]);
        for ((id, part), parameter) in nodes[1..4].iter().zip(of_positions).zip(&parameters.positions) {
            if let Some(id) = id {
                grads.register::<Flex>(*id, tensor(part, parameter.layout().shape().clone()));
            }
        }
        if parameters.residual {
            result.par_iter_mut().zip(values(&grad)).for_each(|(r, g)| *r += g);
        }
        match nodes[0] {
            Some(id) => grads.register::<Flex>(id, tensor(result, dims)),
            None => give(result),
        }
        kept.into_iter().for_each(recycle);
        recycle(x);
        recycle(grad);
    }
}
