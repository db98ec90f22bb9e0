//! Operations on a part of the image: blank rectangles, brightness gradients, local gamma.

use glioseg_kernels::vectorised;

use super::math::{Moments, power};
use super::random::{Draw, PatchRng};
use super::{Layout, Patch};

/// Fills boxes with their mean.
#[derive(Debug, Clone, PartialEq)]
pub struct BlankRectangles {
    /// Most boxes per channel; at least one is made.
    pub most: usize,
    /// Probability per channel.
    pub p_channel: f64,
}

/// A box: first voxel and size per axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rectangle {
    /// First voxel.
    pub start: [usize; 3],
    /// Voxels per axis.
    pub size: [usize; 3],
}

/// What [`BlankRectangles`] drew: boxes per channel, in the order of filling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RectanglesParams {
    /// Per channel.
    pub rectangles: Vec<Option<Vec<Rectangle>>>,
}

impl BlankRectangles {
    /// Draws the parameters: sizes from a tenth of the patch (at least 1) to below a third.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> RectanglesParams {
        let rectangles = rng.per_channel(layout.channels, self.p_channel, |rng| {
            let count = rng.between(1, self.most as isize);
            (0..count).map(|_| Rectangle::sample(layout, rng)).collect()
        });
        RectanglesParams { rectangles }
    }
}

impl Rectangle {
    fn sample(layout: &Layout, rng: &mut PatchRng) -> Rectangle {
        let (mut start, mut size) = ([0; 3], [1; 3]);
        for a in layout.axes() {
            let n = layout.shape[a];
            let low = (n / 10).max(1);
            // Where a third is no more than a tenth, nnU-Net fails; the smallest size serves.
            size[a] = rng.between(low as isize, (n / 3).max(low + 1) as isize - 1) as usize;
            start[a] = rng.below(n - size[a] + 1);
        }
        Rectangle { start, size }
    }
}

impl RectanglesParams {
    /// Fills; later boxes see earlier ones.
    ///
    /// # Source
    /// batchgeneratorsv2, `BlankRectangleTransform` with `torch.mean`.
    pub fn apply(&self, patch: &mut Patch) {
        let [_, ny, nx] = patch.shape;
        for (channel, rectangles) in patch.selected(&self.rectangles) {
            for Rectangle { start, size } in rectangles {
                let rows: Vec<usize> = (start[0]..start[0] + size[0])
                    .flat_map(|z| (start[1]..start[1] + size[1]).map(move |y| (z * ny + y) * nx + start[2]))
                    .collect();
                let sum: f64 =
                    rows.iter().flat_map(|&r| &channel[r..r + size[2]]).map(|&v| f64::from(v)).sum();
                let mean = (sum / size.iter().product::<usize>() as f64) as f32;
                for r in rows {
                    channel[r..r + size[2]].fill(mean);
                }
            }
        }
    }
}

/// A smooth bump between 0 and 1: along every axis the mass of a Gaussian in each voxel.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalKernel {
    /// Factors per axis.
    pub factors: [Vec<f32>; 3],
}

impl LocalKernel {
    /// Draws one: centre uniform from half a patch before to half a patch behind it, width log-uniform between a sixth
    /// of the patch and the patch.
    pub fn sample(layout: &Layout, rng: &mut PatchRng) -> LocalKernel {
        let mut factors = layout.shape.map(|n| vec![1.0; n]);
        for a in layout.axes() {
            let n = layout.shape[a];
            let centre = rng.uniform(-0.5, 1.5) * n as f64;
            // nnU-Net fails below six voxels, where a sixth is 0; there one voxel serves.
            let width = rng.uniform(((n / 6).max(1) as f64).ln(), (n as f64).ln()).exp();
            factors[a] = LocalKernel::axis(n, centre, width);
        }
        LocalKernel { factors }
    }

    /// Mass of a Gaussian in each of `n` voxels.
    ///
    /// # Source
    /// batchgeneratorsv2, `LocalTransform._generate_kernel`.
    pub fn axis(n: usize, centre_vox: f64, width_vox: f64) -> Vec<f32> {
        let below =
            |edge: f64| 0.5 * libm::erfc((centre_vox - edge) / width_vox * std::f64::consts::FRAC_1_SQRT_2);
        (0..n).map(|i| (below(i as f64 + 0.5) - below(i as f64 - 0.5)) as f32).collect()
    }

    /// Least value of the product and what it is divided by to end at 1; none if it is flat.
    fn range(&self) -> Option<(f32, f32)> {
        let product = |of: fn(f32, f32) -> f32, start: f32| {
            let ends = [0, 1, 2].map(|a| self.factors[a].iter().copied().fold(start, of));
            ends[0] * ends[1] * ends[2]
        };
        let (min, max) = (product(f32::min, f32::INFINITY), product(f32::max, 0.0));
        (max - min > 0.0).then_some((min, max - min))
    }

    /// Calls `f` with every row of the channel and of the kernel.
    #[inline(always)]
    fn rows(&self, channel: &mut [f32], mut f: impl FnMut(&mut [f32], &[f32])) {
        let Some((min, range)) = self.range() else { return };
        let [fz, fy, fx] = &self.factors;
        let mut row = vec![0f32; fx.len()];
        for (r, out) in channel.chunks_exact_mut(fx.len()).enumerate() {
            let factor = fz[r / fy.len()] * fy[r % fy.len()];
            for (k, x) in row.iter_mut().zip(fx) {
                *k = (factor * x - min) / range;
            }
            f(out, &row);
        }
    }
}

/// Adds a smooth bump of brightness.
#[derive(Debug, Clone, PartialEq)]
pub struct BrightnessGradient {
    /// Height of the bump.
    pub strength: Draw,
    /// Probability per channel.
    pub p_channel: f64,
}

/// What [`BrightnessGradient`] drew: bump and height per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct GradientParams {
    /// Per channel.
    pub bumps: Vec<Option<(LocalKernel, f32)>>,
}

impl BrightnessGradient {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> GradientParams {
        let bumps = rng.per_channel(layout.channels, self.p_channel, |rng| {
            let kernel = LocalKernel::sample(layout, rng);
            (kernel, self.strength.sample(rng) as f32)
        });
        GradientParams { bumps }
    }
}

impl GradientParams {
    /// Adds.
    ///
    /// # Source
    /// batchgeneratorsv2, `BrightnessGradientAdditiveTransform(mean_centered=False)`.
    pub fn apply(&self, patch: &mut Patch) {
        for (channel, (kernel, strength)) in patch.selected(&self.bumps) {
            vectorised(
                #[inline(always)]
                || {
                    kernel.rows(
                        channel,
                        #[inline(always)]
                        |out, row| {
                            for (v, k) in out.iter_mut().zip(row) {
                                *v += strength * k;
                            }
                        },
                    );
                },
            );
        }
    }
}

/// Blends with a gamma-corrected image by a smooth bump.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalGamma {
    /// The exponent.
    pub gamma: Draw,
    /// Probability per channel.
    pub p_channel: f64,
}

/// What [`LocalGamma`] drew: bump and exponent per channel.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalGammaParams {
    /// Per channel.
    pub bumps: Vec<Option<(LocalKernel, f32)>>,
}

impl LocalGamma {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> LocalGammaParams {
        let bumps = rng.per_channel(layout.channels, self.p_channel, |rng| {
            let kernel = LocalKernel::sample(layout, rng);
            (kernel, self.gamma.sample(rng) as f32)
        });
        LocalGammaParams { bumps }
    }
}

impl LocalGammaParams {
    /// Blends.
    ///
    /// # Source
    /// batchgeneratorsv2, `LocalGammaTransform`.
    pub fn apply(&self, patch: &mut Patch) {
        for (channel, (kernel, gamma)) in patch.selected(&self.bumps) {
            let moments = Moments::of(channel);
            let (min, range) = (moments.min, (moments.max - moments.min).max(1e-8));
            let scale = 1.0 / range;
            vectorised(
                #[inline(always)]
                || {
                    kernel.rows(
                        channel,
                        #[inline(always)]
                        |out, row| {
                            for (v, k) in out.iter_mut().zip(row) {
                                let n = (*v - min) * scale;
                                *v = (n * (1.0 - k) + power(n, *gamma) * k) * range + min;
                            }
                        },
                    );
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Patch {
        Patch::new([4, 6, 8], (0..192).map(|i| i as f32).collect(), vec![0; 192]).expect("fits")
    }

    fn kernel() -> LocalKernel {
        LocalKernel { factors: [(4, 1.0), (6, 2.0), (8, 9.0)].map(|(n, c)| LocalKernel::axis(n, c, 3.0)) }
    }

    #[test]
    fn rectangles_hold_the_mean_and_the_rest_stays() {
        let mut p = ramp();
        let rectangle = Rectangle { start: [1, 2, 3], size: [2, 1, 2] };
        RectanglesParams { rectangles: vec![Some(vec![rectangle])] }.apply(&mut p);
        let inside: Vec<f32> = p.data.iter().copied().filter(|v| v.fract() != 0.0).collect();
        assert_eq!(inside, [91.5; 4]);
        assert_eq!((p.data[0], p.data[191]), (0.0, 191.0));
    }

    #[test]
    fn rectangles_fit_into_the_patch() {
        let layout = Layout { channels: 2, shape: [1, 8, 30], planar: true };
        let op = BlankRectangles { most: 4, p_channel: 1.0 };
        let mut rng = PatchRng::new(3, 0, 0);
        for _ in 0..500 {
            for r in op.sample(&layout, &mut rng).rectangles.iter().flatten().flatten() {
                assert!((0..3).all(|a| r.start[a] + r.size[a] <= layout.shape[a]), "{r:?}");
                assert!(r.size[0] == 1 && r.size[1] == 1 && (3..10).contains(&r.size[2]), "{r:?}");
            }
        }
    }

    #[test]
    fn a_bump_of_height_h_adds_at_most_h_and_at_least_0() {
        let (before, mut p) = (ramp(), ramp());
        GradientParams { bumps: vec![Some((kernel(), -2.0))] }.apply(&mut p);
        let added: Vec<f32> = p.data.iter().zip(&before.data).map(|(a, b)| a - b).collect();
        let (low, high) = added.iter().fold((0f32, -9f32), |(l, h), v| (l.min(*v), h.max(*v)));
        assert!((low + 2.0).abs() < 1e-3 && high.abs() < 1e-3, "{low} {high}");
    }

    #[test]
    fn exponent_one_changes_nothing_and_the_range_stays() {
        let (before, mut p) = (ramp(), ramp());
        LocalGammaParams { bumps: vec![Some((kernel(), 1.0))] }.apply(&mut p);
        assert!(p.data.iter().zip(&before.data).all(|(a, b)| (a - b).abs() < 1e-3));
        LocalGammaParams { bumps: vec![Some((kernel(), 3.0))] }.apply(&mut p);
        let m = Moments::of(&p.data);
        assert!(m.min.abs() < 1e-3 && (m.max - 191.0).abs() < 1e-2, "{m:?}");
        assert!(p.data.iter().zip(&before.data).any(|(a, b)| (a - b).abs() > 10.0));
    }
}
