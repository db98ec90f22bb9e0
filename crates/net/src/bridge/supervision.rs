//! Gradients with respect to the logits that are known already, entered into Burn's graph.

use burn::backend::Flex;
use burn::backend::GradientCheckpointingStrategy;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::{
    BalancedCheckpointing, CheckpointStrategy, NoCheckpointing,
};
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::memory::{contiguous, into_values, tensor, values};
use super::{Path, Tracked, device_path, from_tracked, plain, tracked};
use crate::loss::surrogate;

/// Calls `read` with the values of a tensor, which are copied only if they are not on the CPU in one piece.
pub(crate) fn with_values<const D: usize, R>(x: &Tensor<D>, read: impl FnOnce(&[f32]) -> R) -> R {
    match device_path(x) {
        Some(Path::Plain) => read(values(&contiguous(plain(x.clone())))),
        Some(Path::Tracked(_)) => read(values(&contiguous(tracked(x.clone()).primitive().clone()))),
        None => {
            let data = x.clone().into_data().convert::<f32>();
            read(&data.try_into_vec::<f32>().expect("converted to f32"))
        }
    }
}

/// The node from which [`Tensor::backward`] gives `head` this gradient, and what hangs on `before` its own.
pub(crate) fn supervise(head: Tensor<5>, gradient: Vec<f32>, before: Option<Tensor<1>>) -> Tensor<1> {
    let Some(Path::Tracked(strategy)) = device_path(&head) else {
        let root = surrogate(head, gradient);
        return before.map_or_else(|| root.clone(), |before| before.add(root.clone()));
    };
    let before = before.unwrap_or_else(|| Tensor::zeros([1], &head.device()));
    let out = match strategy {
        GradientCheckpointingStrategy::Balanced => record::<BalancedCheckpointing>(head, gradient, before),
        GradientCheckpointingStrategy::Disabled => record::<NoCheckpointing>(head, gradient, before),
    };
    from_tracked(out, strategy)
}

/// A head with a known gradient, and the heads before: two nodes.
#[derive(Debug)]
struct Supervise;

impl Backward<Flex, 2> for Supervise {
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let [head, before] = ops.parents.each_ref().map(|p| p.as_ref().map(|p| p.id));
        let incoming = grads.consume::<Flex>(&ops.node);
        if let Some(id) = head {
            let factor = values(&contiguous(incoming.clone()))[0];
            let shape = ops.state.layout().shape().clone();
            #[expect(clippy::float_cmp, reason = "1 is what a root starts with, exactly")]
            let gradient = if factor == 1.0 {
                ops.state
            } else {
                let mut scaled = into_values(ops.state).unwrap_or_else(|shared| values(&shared).to_vec());
                for v in &mut scaled {
                    *v *= factor;
                }
                tensor(scaled, shape)
            };
            grads.register::<Flex>(id, gradient);
        }
        if let Some(id) = before {
            grads.register::<Flex>(id, incoming);
        }
    }
}

fn record<C: CheckpointStrategy>(head: Tensor<5>, gradient: Vec<f32>, before: Tensor<1>) -> Tracked {
    let gradient = tensor(gradient, head.dims());
    let (head, before) = (tracked(head), tracked(before));
    let out = tensor(vec![0.0], [1]);
    match Supervise.prepare::<C>([head.node(), before.node()]).compute_bound().stateful() {
        OpsKind::UnTracked(prep) => prep.finish(out),
        OpsKind::Tracked(prep) => prep.finish(gradient, out),
    }
}
