//! What a training pass leaves, in every engine of the CPU.

use std::sync::Arc;

use rayon::prelude::*;

use super::interface::Update;
use super::norm::Deferred;
use crate::optimiser;
use crate::parameters::Parameters;
use crate::program::Program;
use crate::shapes::ParameterId;

/// Values of one unit of parallel work.
pub(super) const CHUNK: usize = 1 << 15;

/// What a pass leaves for whoever reads its maps.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Normalisation and activation that readers of a map apply.
    pub(super) deferred: Vec<Option<Deferred>>,
    /// Factors of dropout per sample and channel, per map.
    pub(super) masks: Vec<Option<Vec<f32>>>,
    /// The normalisation inside an attention whose input is added behind it, per map.
    pub(super) inner: Vec<Option<Deferred>>,
    /// Running statistics of this pass.
    pub(super) running: Vec<(ParameterId, Vec<f32>)>,
    /// Gradients of the parameters, and which of them the last step wrote.
    pub(super) gradients: Vec<Vec<f32>>,
    pub(super) written: Vec<bool>,
}

fn none<T>(len: usize) -> Vec<Option<T>> {
    std::iter::repeat_with(|| None).take(len).collect()
}

impl State {
    pub(super) fn new(program: &Program) -> Self {
        let maps = program.maps.len();
        let training = program.mode.is_training();
        let gradients = program.parameters.iter();
        Self {
            deferred: none(maps),
            masks: none(maps),
            inner: none(maps),
            running: vec![],
            gradients: gradients
                .map(|p| if training && p.trained { vec![0.0; p.len()] } else { vec![] })
                .collect(),
            written: vec![false; program.parameters.len()],
        }
    }

    /// Adds to the gradient of a parameter, or begins it.
    pub(super) fn add_gradient(&mut self, id: ParameterId, part: &[f32]) {
        let gradient = &mut self.gradients[id.0];
        if std::mem::replace(&mut self.written[id.0], true) {
            add(part, gradient);
        } else {
            gradient.copy_from_slice(part);
        }
    }

    /// Puts the running statistics of a pass into the parameters.
    pub(super) fn keep_running(&mut self, parameters: &mut Arc<Parameters>) {
        let running = std::mem::take(&mut self.running);
        if !running.is_empty() {
            let parameters = Arc::make_mut(parameters);
            for (id, values) in running {
                parameters.set(id, values);
            }
        }
    }

    /// Clips the gradients of the last step and changes the parameters; the length before clipping, and whether it was finite: else
    /// nothing changes.
    pub(super) fn update(&self, parameters: &mut Arc<Parameters>, update: &Update<'_>) -> (f64, bool) {
        let written = self.gradients.iter().zip(&self.written).filter(|(_, w)| **w);
        let norm = optimiser::norm(written.map(|(g, _)| g.as_slice()));
        let done = norm.is_finite();
        if done {
            let factor = update.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
            let (gradients, written) = (&self.gradients, &self.written);
            let parameters = Arc::make_mut(parameters);
            parameters.update(update.optimiser, (update.lr, factor as f32), |id| {
                written[id.0].then(|| gradients[id.0].as_slice())
            });
        }
        (norm, done)
    }

    /// Gradients of the last step.
    pub(super) fn written_gradients(&self) -> Vec<Option<Vec<f32>>> {
        let all = self.gradients.iter().zip(&self.written);
        all.map(|(gradient, written)| written.then(|| gradient.clone())).collect()
    }
}

/// `to += from`.
pub(super) fn add(from: &[f32], to: &mut [f32]) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| {
        to.iter_mut().zip(from).for_each(|(t, f)| *t += f);
    });
}
