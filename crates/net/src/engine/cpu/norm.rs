//! Normalisation and activation that readers of a map apply.

use glioseg_kernels::{ChannelStats, Moments, NormKind, Prologue, ScaleShift, Source, channel_stats};

use super::Pass;
use crate::engine::shared::blend_running;
use crate::program::{MapId, MapShape, Norm};

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

impl Deferred {
    pub(super) fn prologue(&self) -> Prologue<'_> {
        self.affine.prologue(self.slope)
    }
}

/// Factor 1 and offset 0 for every sample and channel.
pub(super) fn identity(rows: usize) -> ScaleShift {
    ScaleShift { scale: vec![1.0; rows], shift: vec![0.0; rows] }
}

/// A map as the kernels read it.
pub(super) fn source<'a>(data: &'a [f32], channels: usize, deferred: Option<&'a Deferred>) -> Source<'a> {
    Source { data, channels, prologue: deferred.map(Deferred::prologue) }
}

impl Pass<'_> {
    /// Whether a normalisation needs the sums of what it reads rather than statistics it has kept.
    pub(super) fn reads_statistics(&self, norm: &Norm) -> bool {
        norm.running.is_none() || self.program.mode.is_training()
    }

    /// What is to be done to a map, from its sums, which are made if they are needed and not there.
    pub(super) fn deferred(
        &mut self,
        norm: &Norm,
        map: MapId,
        stats: Option<ChannelStats>,
        slope: f32,
    ) -> Deferred {
        let range = self.range(map);
        self.deferred_at(norm, range, self.program.map(map), stats, slope)
    }

    pub(super) fn deferred_at(
        &mut self,
        norm: &Norm,
        range: std::ops::Range<usize>,
        shape: MapShape,
        stats: Option<ChannelStats>,
        slope: f32,
    ) -> Deferred {
        let MapShape { channels, .. } = shape;
        let (batch, training) = (self.program.batch, self.program.mode.is_training());
        // Statistics that were kept are the same for every sample.
        let kept = norm.running.is_some() && !training;
        let kind = if kept { NormKind::Batch } else { norm.spec.kind };
        let moments = match norm.running {
            Some(running) if !training => {
                let wide = |id| self.parameters.values(id).iter().map(|&v| f64::from(v)).collect();
                let [mean, var] = running.map(wide);
                Moments { mean, var, count: 1 }
            }
            _ => {
                let stats = stats
                    .unwrap_or_else(|| channel_stats(self.cpu, &self.arena[range], channels, shape.voxels()));
                Moments::new(&stats, kind)
            }
        };
        if let Some(running) = norm.running.filter(|_| training) {
            self.update_running(running, &moments);
        }
        let values = |at: usize, default: f32| match norm.affine {
            Some(affine) => self.parameters.values(affine[at]).to_vec(),
            None => vec![default; channels],
        };
        let (gamma, beta) = (values(0, 1.0), values(1, 0.0));
        let affine = ScaleShift::new(&moments, kind, batch, &gamma, &beta, norm.spec.eps);
        Deferred { affine, slope, source: Some(NormSource { norm: *norm, kind, moments, gamma, beta }) }
    }

    fn update_running(&mut self, running: [crate::program::ParameterId; 2], moments: &Moments) {
        let old = running.map(|id| self.parameters.values(id));
        let new = blend_running(old, moments);
        self.state.running.extend(running.into_iter().zip(new));
    }
}
