//! Normalisation and activation that readers of a map apply.

use glioseg_kernels::{ChannelStats, Source, channel_stats};

use super::Pass;
use crate::engine::norm::{Deferred, reads_statistics};
use crate::program::{MapId, MapShape, Norm};

/// A map as the kernels read it.
pub(super) fn source<'a>(data: &'a [f32], channels: usize, deferred: Option<&'a Deferred>) -> Source<'a> {
    Source { data, channels, prologue: deferred.map(Deferred::prologue) }
}

impl Pass<'_> {
    /// Whether a normalisation needs the sums of what it reads rather than statistics it has kept.
    pub(super) fn reads_statistics(&self, norm: &Norm) -> bool {
        reads_statistics(self.program, norm)
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
        let (cpu, arena) = (self.cpu, &*self.arena);
        let stats =
            || stats.unwrap_or_else(|| channel_stats(cpu, &arena[range], shape.channels, shape.voxels()));
        let of = (self.program, self.parameters);
        let (deferred, running) = Deferred::normalisation(of, norm, shape.channels, slope, stats);
        self.state.running.extend(running.into_iter().flatten());
        deferred
    }
}
