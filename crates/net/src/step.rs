//! One step of training.

use burn::tensor::Tensor;

use crate::loss::{self, Loss, LossOptions, Targets};
use crate::optimiser::{Optimiser, ParameterGradients};
use crate::{NetError, Unet};

/// How a step is taken.
#[derive(Debug, Clone, Copy)]
pub struct StepOptions<'a> {
    /// The loss of one head.
    pub loss: &'a LossOptions,
    /// Weight of every head, full resolution first.
    pub weights: &'a [f64],
    /// Learning rate.
    pub lr: f64,
    /// Gradients together are made no longer than this.
    pub clip: Option<f64>,
}

/// What a step saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The loss before the step.
    pub loss: Loss,
    /// Length of all gradients together before clipping; not a number if the loss was none.
    pub norm: f64,
    /// Whether the weights were changed: not if loss or gradients were infinite or no numbers.
    pub done: bool,
}

/// Forward pass, loss, backward pass, clipping and one step of the optimiser.
///
/// # Shapes
/// `x` is `[n, c, z, y, x]` on a device that records gradients; targets as of [`Targets`], one per head.
///
/// # Errors
/// [`NetError::Target`] if the targets do not fit.
///
/// # Panics
/// If the input does not fit; see [`crate::NetworkSpec::check_input`].
///
/// # Source
/// nnU-Net v2, `nnUNetTrainer.train_step`.
pub fn training_step(
    net: &mut Unet,
    optimiser: &mut Optimiser,
    x: Tensor<5>,
    targets: &[Targets<'_>],
    options: &StepOptions<'_>,
) -> Result<StepReport, NetError> {
    let heads = net.forward_heads(x);
    let (loss, gradients) = loss::backward(heads, targets, options.weights, options.loss)?;
    let Some(mut gradients) = gradients else {
        return Ok(StepReport { loss, norm: f64::NAN, done: false });
    };
    let gradients = ParameterGradients::take(net, &mut gradients);
    let norm = gradients.norm();
    let done = norm.is_finite();
    if done {
        let factor = options.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
        optimiser.step(net, gradients, factor as f32, options.lr);
    }
    Ok(StepReport { loss, norm, done })
}
