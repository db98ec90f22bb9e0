//! Simulated low resolution: down to fewer voxels, up again.

use glioseg_kernels::vectorised;

use super::random::{Draw, PatchRng};
use super::{Layout, Patch};
use glioseg_volume::resample::{Order, ResampleOptions, resample};

/// Whose resampling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LowResolutionFlavour {
    /// batchgeneratorsv2: down by picking (`nearest-exact`), up linearly, half-pixel centres.
    Torch,
    /// batchgenerators: scikit-image's `resize`, down with order 0, up with order 3, clipped to the range.
    Scipy,
}

/// Simulates a lower resolution.
#[derive(Debug, Clone, PartialEq)]
pub struct LowResolution {
    /// Voxels after by voxels before; one for all axes of a channel.
    pub scale: Draw,
    /// Probability per channel.
    pub p_channel: f64,
    /// Axis 0 keeps its size (dummy 2d).
    pub keep_axis_0: bool,
    /// Whose resampling.
    pub flavour: LowResolutionFlavour,
}

/// What [`LowResolution`] drew.
#[derive(Debug, Clone, PartialEq)]
pub struct LowResolutionParams {
    /// Per channel, per axis: voxels after by voxels before.
    pub scales: Vec<Option<[f64; 3]>>,
    /// Whose resampling.
    pub flavour: LowResolutionFlavour,
}

impl LowResolution {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> LowResolutionParams {
        let keep = self.keep_axis_0 || layout.planar;
        let scales = rng.per_channel(layout.channels, self.p_channel, |rng| {
            let scale = self.scale.sample(rng);
            [if keep { 1.0 } else { scale }, scale, scale]
        });
        LowResolutionParams { scales, flavour: self.flavour }
    }
}

impl LowResolutionParams {
    /// Goes down and up again; an axis keeps at least one voxel.
    ///
    /// # Source
    /// batchgeneratorsv2, `SimulateLowResolutionTransform`; batchgenerators, `augment_linear_downsampling_scipy`.
    pub fn apply(&self, patch: &mut Patch) {
        let shape = patch.shape;
        for (channel, scales) in patch.selected(&self.scales) {
            let small = [0, 1, 2].map(|a| ((shape[a] as f64 * scales[a]).round_ties_even() as usize).max(1));
            match self.flavour {
                LowResolutionFlavour::Torch => vectorised(
                    #[inline(always)]
                    || down_and_up(channel, shape, small),
                ),
                LowResolutionFlavour::Scipy => {
                    let down = resample(channel, shape, small, &ResampleOptions::uniform(Order::Nearest));
                    let up = resample(&down, small, shape, &ResampleOptions::uniform(Order::Cubic));
                    channel.copy_from_slice(&up);
                }
            }
        }
    }
}

/// The voxels of an axis of `from` that `nearest-exact` picks for an axis of `to`.
///
/// # Source
/// PyTorch, `nearest_exact_idx`.
pub(super) fn nearest_exact(from: usize, to: usize) -> Vec<usize> {
    let scale = from as f32 / to as f32;
    (0..to).map(|i| (((i as f32 + 0.5) * scale) as usize).min(from - 1)).collect()
}

/// For every voxel of an axis of `to`, the two of an axis of `from` around it and the weight of the second.
fn linear(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let scale = from as f32 / to as f32;
    let tap = |i: usize| {
        let x = (scale * (i as f32 + 0.5) - 0.5).max(0.0);
        let low = (x as usize).min(from - 1);
        (low, (low + 1).min(from - 1), (x - low as f32).clamp(0.0, 1.0))
    };
    (0..to).map(tap).collect()
}

#[inline(always)]
fn down_and_up(channel: &mut [f32], shape: [usize; 3], small: [usize; 3]) {
    let nx = shape[2];
    let picks = [0, 1, 2].map(|a| nearest_exact(shape[a], small[a]));
    let taps = [0, 1, 2].map(|a| linear(small[a], shape[a]));
    // Few rows are picked; each is stretched along x at once.
    let mut rows = vec![0f32; small[0] * small[1] * nx];
    for (r, out) in rows.chunks_exact_mut(nx).enumerate() {
        let start = (picks[0][r / small[1]] * shape[1] + picks[1][r % small[1]]) * nx;
        let row = &channel[start..start + nx];
        for (v, &(a, b, w)) in out.iter_mut().zip(&taps[2]) {
            *v = row[picks[2][a]] * (1.0 - w) + row[picks[2][b]] * w;
        }
    }
    let plane = small[1] * nx;
    let mut slice = vec![0f32; plane];
    for (out, &(a, b, w)) in channel.chunks_exact_mut(shape[1] * nx).zip(&taps[0]) {
        mix(&mut slice, &rows[a * plane..][..plane], &rows[b * plane..][..plane], w);
        for (out, &(a, b, w)) in out.chunks_exact_mut(nx).zip(&taps[1]) {
            mix(out, &slice[a * nx..][..nx], &slice[b * nx..][..nx], w);
        }
    }
}

#[inline(always)]
fn mix(out: &mut [f32], a: &[f32], b: &[f32], weight: f32) {
    for ((v, a), b) in out.iter_mut().zip(a).zip(b) {
        *v = a * (1.0 - weight) + b * weight;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_picks_the_odd_voxels() {
        assert_eq!(nearest_exact(8, 4), [1, 3, 5, 7]);
        assert_eq!(nearest_exact(16, 4), [2, 6, 10, 14]);
        assert_eq!(nearest_exact(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(nearest_exact(128, 8), (0..8).map(|i| 8 + 16 * i).collect::<Vec<_>>());
    }

    #[test]
    fn scale_one_is_the_identity_and_one_voxel_remains() {
        let before =
            Patch::new([3, 4, 5], (0..60).map(|i| (i * i % 17) as f32).collect(), vec![0; 60]).expect("fits");
        for flavour in [LowResolutionFlavour::Torch, LowResolutionFlavour::Scipy] {
            let mut after = before.clone();
            LowResolutionParams { scales: vec![Some([1.0; 3])], flavour }.apply(&mut after);
            assert_eq!(before, after);
            LowResolutionParams { scales: vec![Some([0.01; 3])], flavour }.apply(&mut after);
            assert!(after.data.iter().all(|v| (v - after.data[0]).abs() < 1e-6), "one voxel fills the patch");
        }
    }
}
