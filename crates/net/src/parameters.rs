//! The values of a network: weights, running statistics, and what an optimiser keeps of them.
//!
//! This is the truth on disk. An engine is given it ([`Engine::load`](crate::Engine::load)) and gives it back
//! ([`Engine::parameters`](crate::Engine::parameters)); names and order are nnU-Net's, of version 1 or 2.

use std::sync::Arc;

use crate::NetError;
use crate::init;
use crate::optimiser::{Optimiser, OptimiserOptions};
use crate::shapes::{ParameterId, ParameterShape};
use crate::spec::{Naming, NetworkSpec};

/// The values of a network.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    shapes: Arc<[ParameterShape]>,
    naming: Naming,
    values: Vec<Vec<f32>>,
    optimiser: Option<Optimiser>,
}

impl Parameters {
    /// nnU-Net's initial values, drawn from `seed`.
    ///
    /// Every tensor has its own stream of random numbers, so the values do not depend on the number of threads.
    ///
    /// # Errors
    /// [`NetError::Spec`] if the description contradicts itself.
    ///
    /// # Source
    /// `InitWeights_He(1e-2)` on every convolution, biases 0; in residual blocks the second normalisation starts as 0.
    pub fn random(spec: &NetworkSpec, seed: u64) -> Result<Self, NetError> {
        Self::made(spec, |shape| init::draw(shape, seed))
    }

    /// All values 0; to be loaded.
    ///
    /// # Errors
    /// [`NetError::Spec`] if the description contradicts itself.
    pub fn zeros(spec: &NetworkSpec) -> Result<Self, NetError> {
        Self::made(spec, |shape| vec![0.0; shape.len()])
    }

    fn made(spec: &NetworkSpec, make: impl Fn(&ParameterShape) -> Vec<f32>) -> Result<Self, NetError> {
        let shapes = spec.parameters()?;
        let values = shapes.iter().map(make).collect();
        Ok(Self { shapes, naming: spec.naming, values, optimiser: None })
    }

    /// Names and shapes in nnU-Net's order.
    pub fn shapes(&self) -> &Arc<[ParameterShape]> {
        &self.shapes
    }

    /// How nnU-Net calls the tensors.
    pub fn naming(&self) -> Naming {
        self.naming
    }

    /// The values of a tensor.
    pub fn values(&self, id: ParameterId) -> &[f32] {
        &self.values[id.0]
    }

    /// The values of a tensor, to be changed.
    pub fn values_mut(&mut self, id: ParameterId) -> &mut [f32] {
        &mut self.values[id.0]
    }

    /// Replaces the values of a tensor.
    ///
    /// # Panics
    /// If their number is not the shape's.
    pub fn set(&mut self, id: ParameterId, values: Vec<f32>) {
        let shape = &self.shapes[id.0];
        assert_eq!(values.len(), shape.len(), "values of {}", shape.name);
        self.values[id.0] = values;
    }

    /// All tensors in nnU-Net's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&ParameterShape, &[f32])> {
        self.shapes.iter().zip(&self.values).map(|(shape, values)| (shape, values.as_slice()))
    }

    /// The values of the tensor of this name.
    pub fn named(&self, name: &str) -> Option<&[f32]> {
        self.iter().find(|(shape, _)| shape.name == name).map(|(_, values)| values)
    }

    /// Number of trainable values.
    pub fn num_trained(&self) -> usize {
        self.shapes.iter().filter(|s| s.trained).map(ParameterShape::len).sum()
    }

    /// What an optimiser keeps of them; none before training.
    pub fn optimiser(&self) -> Option<&Optimiser> {
        self.optimiser.as_ref()
    }

    /// Starts a training or resumes one.
    ///
    /// # Panics
    /// If the optimiser is for another network.
    pub fn set_optimiser(&mut self, optimiser: Option<Optimiser>) {
        if let Some(optimiser) = &optimiser {
            optimiser.check(&self.shapes);
        }
        self.optimiser = optimiser;
    }

    /// Changes every trained parameter that has a gradient; the others stay as they are. `factor` multiplies the gradients first.
    ///
    /// # Panics
    /// If a training with other constants was started.
    pub(crate) fn update<'a>(
        &mut self,
        options: OptimiserOptions,
        (lr, factor): (f64, f32),
        gradient: impl Fn(ParameterId) -> Option<&'a [f32]>,
    ) {
        let optimiser = self.optimiser.get_or_insert_with(|| Optimiser::new(options, &self.shapes));
        assert_eq!(optimiser.options(), options, "constants of the optimiser");
        let trained =
            self.shapes.iter().zip(&mut self.values).enumerate().filter(|(_, (shape, _))| shape.trained);
        for (at, (id, (_, values))) in trained.enumerate() {
            if let Some(gradient) = gradient(ParameterId(id)) {
                optimiser.step(at, values, gradient, factor, lr);
            }
        }
    }
}
