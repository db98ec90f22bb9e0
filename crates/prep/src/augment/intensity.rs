//! Operations on intensities, voxel by voxel: noise, brightness, contrast, gamma.
//!
//! A channel without a value stays as it is. The statistics that contrast and gamma need are taken in f64.

use glioseg_kernels::vectorised;

use super::math::{Moments, Sums, power};
use super::random::{Draw, PatchRng};
use super::{Layout, Patch};

/// Adds Gaussian noise; all channels share the deviation.
#[derive(Debug, Clone, PartialEq)]
pub struct GaussianNoise {
    /// Standard deviation (nnU-Net calls it variance).
    pub deviation: Draw,
}

/// What [`GaussianNoise`] drew.
#[derive(Debug, Clone, PartialEq)]
pub struct NoiseParams {
    /// Standard deviation.
    pub deviation: f32,
    /// Seed of the field, see [`PatchRng::field`].
    pub seed: u64,
}

impl GaussianNoise {
    /// Draws the parameters.
    pub fn sample(&self, _layout: &Layout, rng: &mut PatchRng) -> NoiseParams {
        NoiseParams { deviation: self.deviation.sample(rng) as f32, seed: rng.word() }
    }
}

impl NoiseParams {
    /// Adds the noise.
    ///
    /// # Source
    /// batchgeneratorsv2, `GaussianNoiseTransform`; batchgenerators, `augment_gaussian_noise`.
    pub fn apply(&self, patch: &mut Patch) {
        let mut rng = PatchRng::field(self.seed);
        for value in &mut patch.data {
            *value += self.deviation * rng.normal();
        }
    }
}

/// Multiplies by a factor.
#[derive(Debug, Clone, PartialEq)]
pub struct Brightness {
    /// The factor.
    pub factor: Draw,
}

/// What [`Brightness`] drew: a factor per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct BrightnessParams {
    /// Per channel.
    pub factors: Vec<Option<f32>>,
}

impl Brightness {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> BrightnessParams {
        let factors = rng.per_channel(layout.channels, 1.0, |rng| self.factor.sample(rng) as f32);
        BrightnessParams { factors }
    }
}

impl BrightnessParams {
    /// Multiplies.
    ///
    /// # Source
    /// batchgeneratorsv2, `MultiplicativeBrightnessTransform`.
    pub fn apply(&self, patch: &mut Patch) {
        for (channel, &factor) in patch.selected(&self.factors) {
            for v in channel {
                *v *= factor;
            }
        }
    }
}

/// Adds a normal number.
#[derive(Debug, Clone, PartialEq)]
pub struct AdditiveBrightness {
    /// Standard deviation of the shift; its mean is 0.
    pub deviation: f64,
    /// Probability per channel.
    pub p_channel: f64,
}

/// What [`AdditiveBrightness`] drew: a shift per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct AdditiveBrightnessParams {
    /// Per channel.
    pub shifts: Vec<Option<f32>>,
}

impl AdditiveBrightness {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> AdditiveBrightnessParams {
        let shift = |rng: &mut PatchRng| (f64::from(rng.normal()) * self.deviation) as f32;
        AdditiveBrightnessParams { shifts: rng.per_channel(layout.channels, self.p_channel, shift) }
    }
}

impl AdditiveBrightnessParams {
    /// Adds.
    ///
    /// # Source
    /// batchgeneratorsv2, `BrightnessAdditiveTransform`.
    pub fn apply(&self, patch: &mut Patch) {
        for (channel, &shift) in patch.selected(&self.shifts) {
            for v in channel {
                *v += shift;
            }
        }
    }
}

/// Stretches intensities around the channel's mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrast {
    /// The factor.
    pub factor: Draw,
    /// Probability per channel.
    pub p_channel: f64,
    /// Clamp to the channel's range before.
    pub preserve_range: bool,
}

/// What [`Contrast`] drew: a factor per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct ContrastParams {
    /// Per channel.
    pub factors: Vec<Option<f32>>,
    /// Clamp to the channel's range before.
    pub preserve_range: bool,
}

impl Contrast {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> ContrastParams {
        let factors = rng.per_channel(layout.channels, self.p_channel, |rng| self.factor.sample(rng) as f32);
        ContrastParams { factors, preserve_range: self.preserve_range }
    }
}

impl ContrastParams {
    /// Stretches.
    ///
    /// # Source
    /// batchgeneratorsv2, `ContrastTransform`; batchgenerators, `augment_contrast`.
    pub fn apply(&self, patch: &mut Patch) {
        let preserve = self.preserve_range;
        for (channel, &factor) in patch.selected(&self.factors) {
            let moments = Moments::of(channel);
            let mean = moments.mean as f32;
            let (low, high) =
                if preserve { (moments.min, moments.max) } else { (f32::NEG_INFINITY, f32::INFINITY) };
            vectorised(
                #[inline(always)]
                || {
                    for v in channel.iter_mut() {
                        let stretched = (*v - mean) * factor + mean;
                        let raised = if stretched < low { low } else { stretched };
                        *v = if raised > high { high } else { raised };
                    }
                },
            );
        }
    }
}

/// Whose gamma.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GammaFlavour {
    /// batchgeneratorsv2: ranges below 1e-7 count as 1e-7; the deviation is the unbiased one.
    V2,
    /// batchgenerators: 1e-7 is added to the range; the deviation is the population's.
    V1,
}

/// Raises the intensities, scaled to `[0, 1]`, to a power.
#[derive(Debug, Clone, PartialEq)]
pub struct Gamma {
    /// The exponent.
    pub gamma: Draw,
    /// Work on the negative image.
    pub invert: bool,
    /// Whose arithmetic.
    pub flavour: GammaFlavour,
}

/// What [`Gamma`] drew: an exponent per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct GammaParams {
    /// Per channel.
    pub gammas: Vec<Option<f32>>,
    /// Work on the negative image.
    pub invert: bool,
    /// Restore mean and deviation.
    pub retain_stats: bool,
    /// Whose arithmetic.
    pub flavour: GammaFlavour,
}

impl Gamma {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> GammaParams {
        let gammas = rng.per_channel(layout.channels, 1.0, |rng| self.gamma.sample(rng) as f32);
        GammaParams { gammas, invert: self.invert, retain_stats: true, flavour: self.flavour }
    }
}

impl GammaParams {
    /// Applies the power, then restores mean and deviation.
    ///
    /// # Source
    /// batchgeneratorsv2, `GammaTransform`; batchgenerators, `augment_gamma`.
    pub fn apply(&self, patch: &mut Patch) {
        let sign = if self.invert { -1.0 } else { 1.0 };
        for (channel, &gamma) in patch.selected(&self.gammas) {
            let before = Moments::of(channel);
            let min = if self.invert { -before.max } else { before.min };
            let range = before.max - before.min;
            let (divide, multiply) = match self.flavour {
                GammaFlavour::V2 => (range.max(1e-7), range),
                GammaFlavour::V1 => (range + 1e-7, range + 1e-7),
            };
            let scale = 1.0 / divide;
            // The power of the negative image and its statistics; negated back by the second pass or at once.
            let mut sums = Sums::new(min);
            vectorised(
                #[inline(always)]
                || {
                    for block in channel.chunks_mut(4096) {
                        for v in block.iter_mut() {
                            *v = power((sign * *v - min) * scale, gamma) * multiply + min;
                        }
                        sums.add(block);
                    }
                },
            );
            let (gain, from, to) = if self.retain_stats {
                let after = sums.moments(channel.len());
                let ddof = usize::from(self.flavour == GammaFlavour::V2);
                let divisor = match self.flavour {
                    GammaFlavour::V2 => after.deviation(ddof).max(1e-7),
                    GammaFlavour::V1 => after.deviation(ddof) + 1e-8,
                };
                let mean = f64::from(sign) * before.mean;
                ((before.deviation(ddof) / divisor) as f32, after.mean as f32, mean as f32)
            } else if self.invert {
                (1.0, 0.0, 0.0)
            } else {
                continue;
            };
            vectorised(
                #[inline(always)]
                || {
                    for v in channel.iter_mut() {
                        *v = sign * ((*v - from) * gain + to);
                    }
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch() -> Patch {
        let data = (0..2 * 5 * 6 * 7).map(|i| (i * 37 % 101) as f32 * 0.1 - 3.0).collect();
        Patch::new([5, 6, 7], data, vec![0; 210]).expect("fits")
    }

    #[test]
    fn identity_parameters_change_nothing() {
        let before = patch();
        let all: [&dyn Fn(&mut Patch); 6] = [
            &|p| NoiseParams { deviation: 0.0, seed: 3 }.apply(p),
            &|p| BrightnessParams { factors: vec![Some(1.0); 2] }.apply(p),
            &|p| AdditiveBrightnessParams { shifts: vec![Some(0.0), None] }.apply(p),
            &|p| ContrastParams { factors: vec![Some(1.0); 2], preserve_range: true }.apply(p),
            &|p| {
                let gammas = vec![Some(1.0); 2];
                GammaParams { gammas, invert: false, retain_stats: true, flavour: GammaFlavour::V2 }.apply(p);
            },
            &|p| {
                let gammas = vec![Some(1.0); 2];
                GammaParams { gammas, invert: true, retain_stats: false, flavour: GammaFlavour::V1 }.apply(p);
            },
        ];
        for (i, op) in all.into_iter().enumerate() {
            let mut after = before.clone();
            op(&mut after);
            let worst = after.data.iter().zip(&before.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 2e-5, "operation {i} changes by {worst}");
        }
    }

    #[test]
    fn unselected_channels_stay() {
        let (before, mut after) = (patch(), patch());
        ContrastParams { factors: vec![None, Some(1.4)], preserve_range: false }.apply(&mut after);
        assert_eq!(before.channel(0), after.channel(0));
        assert_ne!(before.channel(1), after.channel(1));
    }

    #[test]
    fn gamma_retains_mean_and_deviation() {
        for invert in [false, true] {
            let mut p = patch();
            let before = Moments::of(p.channel(1));
            let gammas = vec![None, Some(1.4)];
            GammaParams { gammas, invert, retain_stats: true, flavour: GammaFlavour::V2 }.apply(&mut p);
            let after = Moments::of(p.channel(1));
            assert!((before.mean - after.mean).abs() < 1e-5, "{} {}", before.mean, after.mean);
            assert!((before.deviation(1) - after.deviation(1)).abs() < 1e-5);
        }
    }

    #[test]
    fn a_constant_channel_stays_finite() {
        for flavour in [GammaFlavour::V1, GammaFlavour::V2] {
            let mut p = Patch::new([2, 2, 2], vec![3.0; 8], vec![0; 8]).expect("fits");
            GammaParams { gammas: vec![Some(1.3)], invert: false, retain_stats: true, flavour }.apply(&mut p);
            assert!(p.data.iter().all(|v| (v - 3.0).abs() < 1e-5), "{:?}", p.data);
        }
    }

    #[test]
    fn noise_has_the_deviation_asked_for_and_the_same_values_again() {
        let make = || {
            let mut p = Patch::new([16, 32, 32], vec![0.0; 16 * 1024], vec![0; 16 * 1024]).expect("fits");
            NoiseParams { deviation: 0.1, seed: 9 }.apply(&mut p);
            p
        };
        let p = make();
        let m = Moments::of(&p.data);
        assert!(m.mean.abs() < 3e-3 && (m.deviation(0) - 0.1).abs() < 3e-3, "{m:?}");
        assert_eq!(p, make());
    }
}
