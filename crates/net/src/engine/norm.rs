//! Normalisation and activation that readers of a map apply, in the engines of the CPU.

use glioseg_kernels::{ChannelStats, Moments, NormKind, Prologue, ScaleShift};

use super::shared::blend_running;
use crate::parameters::Parameters;
use crate::program::{Norm, Program};
use crate::shapes::ParameterId;

/// `leaky_relu(v * scale[n, c] + shift[n, c], slope)`, to be done to every value `v` of a map.
#[derive(Debug)]
pub(super) struct Deferred {
    pub(super) affine: ScaleShift,
    /// Slope of the activation; 1 is none.
    pub(super) slope: f32,
    /// Where factor and offset came from; none if there is an activation alone.
    pub(super) source: Option<NormSource>,
}

/// What the gradient of a normalisation needs.
#[derive(Debug)]
pub(super) struct NormSource {
    pub(super) norm: Norm,
    pub(super) kind: NormKind,
    pub(super) moments: Moments,
    /// Values of the parameters, 1 and 0 where there are none.
    pub(super) gamma: Vec<f32>,
    pub(super) beta: Vec<f32>,
}

/// New running mean and variance.
pub(super) type Running = [(ParameterId, Vec<f32>); 2];

impl Deferred {
    pub(super) fn prologue(&self) -> Prologue<'_> {
        self.affine.prologue(self.slope)
    }

    /// An activation alone.
    pub(super) fn activation(rows: usize, slope: f32) -> Self {
        Self { affine: identity(rows), slope, source: None }
    }

    /// A normalisation of a map of `channels` channels from its sums, which are asked for unless statistics were kept, and in
    /// training what the kept ones become.
    pub(super) fn normalisation(
        (program, parameters): (&Program, &Parameters),
        norm: &Norm,
        channels: usize,
        slope: f32,
        stats: impl FnOnce() -> ChannelStats,
    ) -> (Self, Option<Running>) {
        let training = program.mode.is_training();
        // Statistics that were kept are the same for every sample.
        let kept = norm.running.is_some() && !training;
        let kind = if kept { NormKind::Batch } else { norm.spec.kind };
        let moments = match norm.running {
            Some(running) if !training => {
                let wide = |id| parameters.values(id).iter().map(|&v| f64::from(v)).collect();
                let [mean, var] = running.map(wide);
                Moments { mean, var, count: 1 }
            }
            _ => Moments::new(&stats(), kind),
        };
        let running = norm.running.filter(|_| training).map(|ids| {
            let [mean, var] = blend_running(ids.map(|id| parameters.values(id)), &moments);
            [(ids[0], mean), (ids[1], var)]
        });
        let values = |at: usize, default: f32| match norm.affine {
            Some(affine) => parameters.values(affine[at]).to_vec(),
            None => vec![default; channels],
        };
        let (gamma, beta) = (values(0, 1.0), values(1, 0.0));
        let affine = ScaleShift::new(&moments, kind, program.batch, &gamma, &beta, norm.spec.eps);
        let source = Some(NormSource { norm: *norm, kind, moments, gamma, beta });
        (Self { affine, slope, source }, running)
    }
}

/// Factor 1 and offset 0 for every sample and channel.
pub(super) fn identity(rows: usize) -> ScaleShift {
    ScaleShift { scale: vec![1.0; rows], shift: vec![0.0; rows] }
}

/// Whether a normalisation needs the sums of what it reads rather than statistics it has kept.
pub(super) fn reads_statistics(program: &Program, norm: &Norm) -> bool {
    norm.running.is_none() || program.mode.is_training()
}
