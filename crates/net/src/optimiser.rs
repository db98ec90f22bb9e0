//! Optimisers whose state is plain numbers: PyTorch's SGD with momentum, and `AdamW`.
//!
//! The state comes back bit for bit from a checkpoint under the parameters' names, and weights are changed in place, in one pass
//! over weight, gradient and state.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::shapes::ParameterShape;

/// Values of one unit of parallel work.
const CHUNK: usize = 1 << 14;

/// Which optimiser, and its constants.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case", deny_unknown_fields)]
pub enum OptimiserOptions {
    /// Stochastic gradient descent with momentum, dampening 0.
    Sgd {
        /// Share of the velocity that is kept.
        momentum: f64,
        /// Looks ahead along the velocity.
        nesterov: bool,
        /// Times the weight is added to the gradient, of all parameters.
        weight_decay: f64,
    },
    /// Adam with decoupled weight decay.
    #[serde(rename = "adamw")]
    AdamW {
        /// Share of the mean gradient that is kept.
        beta1: f64,
        /// Share of the mean squared gradient that is kept.
        beta2: f64,
        /// Added to the root of the mean square.
        eps: f64,
        /// Times learning rate and weight is taken off the weight, of all parameters.
        weight_decay: f64,
    },
}

impl OptimiserOptions {
    /// nnU-Net's, both versions.
    pub const NNUNET: Self = Self::Sgd { momentum: 0.99, nesterov: true, weight_decay: 3e-5 };
    /// PyTorch's defaults.
    pub const ADAMW: Self = Self::AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 1e-2 };

    /// Names of the numbers that are kept per parameter.
    pub(crate) fn kept(self) -> &'static [&'static str] {
        match self {
            Self::Sgd { .. } => &["momentum_buffer"],
            Self::AdamW { .. } => &["exp_avg", "exp_avg_sq"],
        }
    }
}

/// What is kept of one parameter.
#[derive(Debug, Clone, Default, PartialEq)]
struct Kept {
    /// Steps that were taken.
    steps: u64,
    /// As many as [`OptimiserOptions::kept`] names, none before the first step.
    values: Vec<Vec<f32>>,
}

/// An optimiser with its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimiser {
    options: OptimiserOptions,
    /// Names of the parameters, and what is kept of each.
    parameters: Vec<(String, Kept)>,
}

/// Euclidean norm of all gradients together.
///
/// # Source
/// `torch.nn.utils.clip_grad_norm_`; sums here have a fixed order and are in f64.
pub(crate) fn norm<'a>(gradients: impl Iterator<Item = &'a [f32]>) -> f64 {
    let squares = |values: &[f32]| -> f64 {
        let of = |chunk: &[f32]| chunk.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>();
        let parts: Vec<f64> = values.par_chunks(CHUNK).map(of).collect();
        parts.iter().sum()
    };
    gradients.map(squares).sum::<f64>().sqrt()
}

impl Optimiser {
    /// An optimiser before its first step.
    pub fn new(options: OptimiserOptions, shapes: &[ParameterShape]) -> Self {
        let trained = shapes.iter().filter(|s| s.trained);
        Self { options, parameters: trained.map(|s| (s.name.clone(), Kept::default())).collect() }
    }

    /// Its constants.
    pub fn options(&self) -> OptimiserOptions {
        self.options
    }

    /// Bytes of what is kept per value of a parameter.
    pub fn bytes_per_value(options: OptimiserOptions) -> usize {
        options.kept().len() * size_of::<f32>()
    }

    /// Panics if the parameters are not those that it was made for.
    pub(crate) fn check(&self, shapes: &[ParameterShape]) {
        let names = shapes.iter().filter(|s| s.trained).map(|s| &s.name);
        assert!(names.eq(self.parameters.iter().map(|(name, _)| name)), "an optimiser of another network");
    }

    /// Changes the `at`-th of the trained parameters. `factor` multiplies the gradient first.
    ///
    /// # Source
    /// PyTorch's `SGD` (dampening 0) and `AdamW`.
    pub(crate) fn step(&mut self, at: usize, weights: &mut [f32], gradient: &[f32], factor: f32, lr: f64) {
        let kept = &mut self.parameters[at].1;
        let first = kept.values.is_empty();
        if first {
            kept.values = vec![vec![0.0; gradient.len()]; self.options.kept().len()];
        }
        kept.steps += 1;
        let values = &mut kept.values;
        match self.options {
            OptimiserOptions::Sgd { momentum, nesterov, weight_decay } => {
                let constants = [momentum as f32, weight_decay as f32, lr as f32];
                sgd(weights, gradient, &mut values[0], constants, nesterov, first, factor);
            }
            OptimiserOptions::AdamW { beta1, beta2, eps, weight_decay } => {
                let [mean, square] = &mut values[..] else { unreachable!("two numbers per weight") };
                let correction = [beta1, beta2].map(|b| 1.0 - b.powf(kept.steps as f64));
                let size = (lr / correction[0]) as f32;
                let root = correction[1].sqrt() as f32;
                let shrink = (1.0 - lr * weight_decay) as f32;
                let constants = [beta1 as f32, beta2 as f32, eps as f32, size, root, shrink];
                adamw(weights, gradient, mean, square, constants, factor);
            }
        }
    }

    /// Steps of the `at`-th of the trained parameters, and what is kept of it: nothing before its first step.
    pub(crate) fn kept(&self, at: usize) -> (u64, &[Vec<f32>]) {
        let kept = &self.parameters[at].1;
        (kept.steps, &kept.values)
    }

    /// Puts steps and what is kept of a parameter in the place of what was.
    pub(crate) fn set_kept(&mut self, at: usize, steps: u64, values: Vec<Vec<f32>>) {
        self.parameters[at].1 = Kept { steps, values };
    }

    /// Everything that [`Self::restore`] needs, by the names `optimizer.PARAMETER.WHAT`.
    pub fn state(&self) -> impl Iterator<Item = (String, &[f32])> {
        self.parameters.iter().flat_map(|(name, kept)| {
            let names = self.options.kept().iter();
            names.zip(&kept.values).map(move |(what, v)| (state_name(name, what), v.as_slice()))
        })
    }

    /// Steps per parameter, in the order of the network's tensors.
    pub fn steps(&self) -> Vec<u64> {
        self.parameters.iter().map(|(_, kept)| kept.steps).collect()
    }

    /// Takes the state that `read` gives for its names, after so many steps of every parameter.
    pub(crate) fn set_state<E>(
        &mut self,
        steps: &[u64],
        mut read: impl FnMut(&str) -> Result<Vec<f32>, E>,
    ) -> Result<(), E> {
        for ((name, kept), &steps) in self.parameters.iter_mut().zip(steps) {
            *kept = Kept { steps, values: vec![] };
            if steps > 0 {
                for what in self.options.kept() {
                    kept.values.push(read(&state_name(name, what))?);
                }
            }
        }
        Ok(())
    }
}

fn state_name(parameter: &str, what: &str) -> String {
    format!("optimizer.{parameter}.{what}")
}

fn sgd(
    weights: &mut [f32],
    gradient: &[f32],
    velocity: &mut [f32],
    [momentum, decay, lr]: [f32; 3],
    nesterov: bool,
    first: bool,
    factor: f32,
) {
    let pieces = weights.par_chunks_mut(CHUNK).zip(velocity.par_chunks_mut(CHUNK));
    pieces.zip(gradient.par_chunks(CHUNK)).for_each(|((weights, velocity), gradient)| {
        for ((w, v), &g) in weights.iter_mut().zip(velocity).zip(gradient) {
            let g = g * factor + decay * *w;
            *v = if first { g } else { *v * momentum + g };
            *w -= lr * if nesterov { g + momentum * *v } else { *v };
        }
    });
}

fn adamw(
    weights: &mut [f32],
    gradient: &[f32],
    mean: &mut [f32],
    square: &mut [f32],
    [beta1, beta2, eps, size, root, shrink]: [f32; 6],
    factor: f32,
) {
    let kept = mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK));
    let pieces = weights.par_chunks_mut(CHUNK).zip(gradient.par_chunks(CHUNK)).zip(kept);
    pieces.for_each(|((weights, gradient), (mean, square))| {
        for (((w, &g), m), s) in weights.iter_mut().zip(gradient).zip(mean).zip(square) {
            let g = g * factor;
            *m += (g - *m) * (1.0 - beta1);
            *s = *s * beta2 + (1.0 - beta2) * g * g;
            *w = *w * shrink - size * *m / (s.sqrt() / root + eps);
        }
    });
}

/// Learning rate when the share `done` of the training is done; it falls to 0 as a power of what is left.
///
/// # Source
/// nnU-Net v2, `PolyLRScheduler`, where `done` is the epoch by the number of epochs.
pub fn poly_lr(initial: f64, done: f64, exponent: f64) -> f64 {
    initial * (1.0 - done).max(0.0).powf(exponent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_is_nnunets() {
        assert!((poly_lr(0.01, 0.0, 0.9) - 0.01).abs() < 1e-18);
        assert!((poly_lr(0.01, 0.5, 0.9) - 0.005_358_867_312_681_466).abs() < 1e-15);
        assert!((poly_lr(0.01, 0.999, 0.9) - 1.995_262_314_968_883e-5).abs() < 1e-15);
        assert!(poly_lr(0.01, 1.001, 0.9).abs() < 1e-18);
    }

    /// What PyTorch 2.15 makes of weight 0.5 with the gradients 1, -2, 0.25 at learning rate 0.1.
    #[test]
    fn three_steps_are_pytorchs() {
        let (mut w, mut v) = ([0.5f32], [0f32]);
        for (i, g) in [1.0f32, -2.0, 0.25].into_iter().enumerate() {
            sgd(&mut w, &[g], &mut v, [0.9, 0.01, 0.1], true, i == 0, 1.0);
        }
        assert!((w[0] - SGD).abs() < 1e-6, "{}", w[0]);
        let (mut w, mut m, mut s) = ([0.5f32], [0f32], [0f32]);
        for (i, g) in [1.0f32, -2.0, 0.25].into_iter().enumerate() {
            let steps = i as i32 + 1;
            let size = (0.1 / (1.0 - 0.9f64.powi(steps))) as f32;
            let root = (1.0 - 0.999f64.powi(steps)).sqrt() as f32;
            adamw(&mut w, &[g], &mut m, &mut s, [0.9, 0.999, 1e-8, size, root, 1.0 - 0.1 * 0.01], 1.0);
        }
        assert!((w[0] - ADAMW).abs() < 1e-6, "{}", w[0]);
    }

    const SGD: f32 = 0.646_889_57;
    const ADAMW: f32 = 0.456_297_46;
}
