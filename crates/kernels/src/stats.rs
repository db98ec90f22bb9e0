//! Sums per sample and channel, from which normalisation takes mean and variance.

/// Sum and sum of squares of every channel of every sample, `[n, c]`, in f64.
///
/// Squares of f32 values are exact in f64, so the variance keeps 1e-5 relative even where the mean is 1e5 standard
/// deviations away from zero.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelStats {
    /// Channels per sample.
    pub channels: usize,
    /// Values that each sum covers.
    pub voxels: usize,
    /// Sums.
    pub sum: Vec<f64>,
    /// Sums of squares.
    pub sum_sq: Vec<f64>,
}

impl ChannelStats {
    /// All zero, for `batch` samples.
    pub fn new(batch: usize, channels: usize, voxels: usize) -> Self {
        Self { channels, voxels, sum: vec![0.0; batch * channels], sum_sq: vec![0.0; batch * channels] }
    }
}

/// Partial sums `[n, c, part]`, reduced in order so that the result does not depend on threads.
pub(crate) struct Partial {
    pub(crate) parts: usize,
    pub(crate) sums: Vec<[f64; 2]>,
}

impl Partial {
    pub(crate) fn new(rows: usize, parts: usize) -> Self {
        Self { parts, sums: vec![[0.0; 2]; rows * parts] }
    }

    pub(crate) fn reduce(&self, stats: &mut ChannelStats) {
        for (row, sums) in self.sums.chunks_exact(self.parts).enumerate() {
            stats.sum[row] = sums.iter().map(|s| s[0]).sum();
            stats.sum_sq[row] = sums.iter().map(|s| s[1]).sum();
        }
    }
}
