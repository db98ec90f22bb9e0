//! What every engine can do.

use std::fmt;
use std::sync::Arc;

use super::memory::MemoryPlan;
use crate::NetError;
use crate::loss::{Loss, LossOptions, Overlap, Targets};
use crate::optimiser::OptimiserOptions;
use crate::parameters::Parameters;
use crate::program::Program;

/// How a training step is taken.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// The loss of one head.
    pub loss: &'a LossOptions,
    /// Weight of every head, full resolution first; those of weight 0 are not part of the program.
    pub weights: &'a [f64],
    /// Which optimiser; its state is the parameters'.
    pub optimiser: OptimiserOptions,
    /// Learning rate.
    pub lr: f64,
    /// Gradients together are made no longer than this.
    pub clip: Option<f64>,
    /// From which dropout draws, with the number of the layer.
    pub seed: u64,
}

/// What a training step saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepReport {
    /// The loss before the step.
    pub loss: Loss,
    /// Length of all gradients together before clipping; NaN if the loss was.
    pub norm: f64,
    /// Whether the weights were changed: not if loss or gradients were infinite or NaN.
    pub done: bool,
}

/// What a batch of the validation showed.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Evaluation {
    /// The loss of all heads.
    pub loss: Loss,
    /// At full resolution, per region or per label but background.
    pub overlaps: Vec<Overlap>,
}

/// Logits of a forward pass, in the engine's memory.
#[derive(Debug, Clone)]
pub struct Logits<'a> {
    /// Of every head of the program, `[n, outputs, z, y, x]`, full resolution first.
    pub heads: Vec<&'a [f32]>,
}

/// Time of one layer.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTime {
    /// Operation, channels, output size, kernel, stride and algorithm.
    pub name: String,
    /// Seconds, preparation of weights included.
    pub seconds: f64,
    /// Seconds of the preparation of weights.
    pub packing: f64,
    /// Floating point operations of the direct algorithm.
    pub flops: f64,
    /// Bytes of the prepared weights.
    pub packed_bytes: usize,
}

/// Runs one program at a time with one set of parameters.
///
/// `patch` is `[n, c, z, y, x]` of the prepared program everywhere.
pub trait Engine: Send + fmt::Debug {
    /// What a record calls it: the kernels' word on the CPU.
    fn kernels(&self) -> &'static str;

    /// What a program would take, before anything is allocated.
    fn plan(&self, program: &Program) -> MemoryPlan;

    /// Makes a program the present one; at once if it is already.
    ///
    /// # Errors
    /// [`NetError::Memory`] if less is free than it needs beyond what the engine holds already.
    fn prepare(&mut self, program: &Program) -> Result<MemoryPlan, NetError>;

    /// Takes the parameters of the network.
    ///
    /// # Errors
    /// What a device says that cannot take them.
    fn load(&mut self, parameters: Arc<Parameters>) -> Result<(), NetError>;

    /// The parameters as they are now. Whoever keeps them while the training continues pays for a copy.
    ///
    /// # Errors
    /// What a device says that cannot give them.
    ///
    /// # Panics
    /// If none were loaded.
    fn parameters(&mut self) -> Result<Arc<Parameters>, NetError>;

    /// Forward pass. A training program draws its dropout from seed 0 here and updates running statistics.
    ///
    /// # Errors
    /// What a device says that fails.
    ///
    /// # Panics
    /// If nothing was prepared or loaded, or the patch has another length.
    fn forward(&mut self, patch: &[f32]) -> Result<Logits<'_>, NetError>;

    /// Forward pass of an evaluation program, and what it has right.
    ///
    /// # Errors
    /// [`NetError::Target`] if the targets, one per head, do not fit, before anything is computed.
    ///
    /// # Panics
    /// As [`Self::forward`].
    fn evaluate(
        &mut self,
        patch: &[f32],
        targets: &[Targets<'_>],
        loss: &LossOptions,
        weights: &[f64],
    ) -> Result<Evaluation, NetError>;

    /// Forward pass, loss, backward pass, clipping and one step of the optimiser, of a training program.
    ///
    /// # Errors
    /// [`NetError::Target`] if the targets, one per head of the network, do not fit, before anything is computed or changed.
    ///
    /// # Panics
    /// As [`Self::forward`].
    ///
    /// # Source
    /// nnU-Net v2, `nnUNetTrainer.train_step`.
    fn step(
        &mut self,
        patch: &[f32],
        targets: &[Targets<'_>],
        update: &Update<'_>,
    ) -> Result<StepReport, NetError>;

    /// The gradient of every parameter in the last step, before clipping; `None` where it had no influence on the loss.
    ///
    /// # Errors
    /// What a device says that cannot give them.
    fn gradients(&mut self) -> Result<Vec<Option<Vec<f32>>>, NetError>;

    /// Whether layers note their times from now on.
    fn profile(&mut self, on: bool);

    /// The times noted since the last call, in order.
    fn take_layer_times(&mut self) -> Vec<LayerTime>;

    /// Frees everything but the parameters; the next program has to be prepared again.
    fn release(&mut self);
}
