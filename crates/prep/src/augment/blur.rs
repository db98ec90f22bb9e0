//! Gaussian blur, one axis at a time.
//!
//! The pass along y writes into a padded row, which the pass along x reads, so a channel goes through memory twice.

use glioseg_kernels::vectorised;

use super::random::{Draw, PatchRng};
use super::{Layout, Patch};

/// Whose kernel and border.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlurFlavour {
    /// batchgeneratorsv2: an odd number of taps near `6 σ`; the border mirrors without repeating the edge voxel.
    Torch,
    /// `scipy.ndimage.gaussian_filter`: `int(4 σ + 0.5)` taps to each side; the border repeats the edge voxel.
    Scipy,
}

/// Blurs with a Gaussian.
#[derive(Debug, Clone, PartialEq)]
pub struct GaussianBlur {
    /// Standard deviation in voxels.
    pub sigma: Draw,
    /// One standard deviation per axis, rather than one for all.
    pub per_axis: bool,
    /// Probability per channel.
    pub p_channel: f64,
    /// Whose kernel.
    pub flavour: BlurFlavour,
}

/// What [`GaussianBlur`] drew: standard deviations per channel and axis.
#[derive(Debug, Clone, PartialEq)]
pub struct BlurParams {
    /// Per channel, per axis, in voxels; 0 leaves the axis alone.
    pub sigmas: Vec<Option<[f64; 3]>>,
    /// Whose kernel.
    pub flavour: BlurFlavour,
}

impl GaussianBlur {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> BlurParams {
        let sigmas = rng.per_channel(layout.channels, self.p_channel, |rng| {
            let common = if self.per_axis { 0.0 } else { self.sigma.sample(rng) };
            let mut sigmas = [0.0; 3];
            for a in layout.axes() {
                sigmas[a] = if self.per_axis { self.sigma.sample(rng) } else { common };
            }
            sigmas
        });
        BlurParams { sigmas, flavour: self.flavour }
    }
}

impl BlurParams {
    /// Blurs.
    ///
    /// # Source
    /// batchgeneratorsv2, `GaussianBlurTransform` (`blur_dimension` with `truncate=6`); batchgenerators,
    /// `augment_gaussian_blur`.
    pub fn apply(&self, patch: &mut Patch) {
        let shape = patch.shape;
        let mut scratch = vec![0.0; patch.voxels()];
        for (channel, sigmas) in patch.selected(&self.sigmas) {
            let taps = sigmas.map(|s| half_kernel(s, self.flavour));
            vectorised(
                #[inline(always)]
                || blur(channel, shape, &taps, self.flavour, &mut scratch),
            );
        }
    }
}

/// The middle tap and those to one side of it; they sum to 1 with the other side.
fn half_kernel(sigma: f64, flavour: BlurFlavour) -> Vec<f32> {
    if sigma <= 0.0 {
        return vec![1.0];
    }
    let radius = match flavour {
        BlurFlavour::Torch => {
            let size = sigma * 6.0 + 0.5;
            let even = size.round_ties_even();
            let odd = match even as usize {
                n if n % 2 == 1 => n,
                n if size - even >= 0.0 => n + 1,
                n => n - 1,
            };
            odd / 2
        }
        BlurFlavour::Scipy => (4.0 * sigma + 0.5) as usize,
    };
    let taps: Vec<f64> = (0..=radius).map(|i| (-0.5 * (i as f64 / sigma).powi(2)).exp()).collect();
    let sum = taps[0] + 2.0 * taps[1..].iter().sum::<f64>();
    taps.iter().map(|t| (t / sum) as f32).collect()
}

/// The voxel that stands for position `i` of an axis of `n`.
fn reflect(i: isize, n: usize, flavour: BlurFlavour) -> usize {
    if n == 1 {
        return 0;
    }
    let n = n as isize;
    let (period, edge) = match flavour {
        BlurFlavour::Torch => (2 * n - 2, 0),
        BlurFlavour::Scipy => (2 * n, 1),
    };
    let i = i.rem_euclid(period);
    (if i < n { i } else { period - i - edge }) as usize
}

#[inline(always)]
fn blur(channel: &mut [f32], shape: [usize; 3], taps: &[Vec<f32>; 3], flavour: BlurFlavour, mid: &mut [f32]) {
    let [nz, ny, nx] = shape;
    let plane = ny * nx;
    for (z, out) in mid.chunks_exact_mut(plane).enumerate() {
        out.copy_from_slice(&channel[z * plane..][..plane]);
        if taps[0].len() == 1 {
            continue;
        }
        for v in out.iter_mut() {
            *v *= taps[0][0];
        }
        for (j, &w) in taps[0].iter().enumerate().skip(1) {
            let a = reflect(z as isize - j as isize, nz, flavour) * plane;
            let b = reflect((z + j) as isize, nz, flavour) * plane;
            add_pair(out, &channel[a..a + plane], &channel[b..b + plane], w);
        }
    }
    let radius = taps[2].len() - 1;
    let mut row = vec![0f32; nx + 2 * radius];
    for (r, out) in channel.chunks_exact_mut(nx).enumerate() {
        let (z, y) = (r / ny, r % ny);
        let slice = &mid[z * plane..][..plane];
        let middle = &mut row[radius..radius + nx];
        for (v, s) in middle.iter_mut().zip(&slice[y * nx..]) {
            *v = s * taps[1][0];
        }
        for (j, &w) in taps[1].iter().enumerate().skip(1) {
            let a = reflect(y as isize - j as isize, ny, flavour) * nx;
            let b = reflect((y + j) as isize, ny, flavour) * nx;
            add_pair(middle, &slice[a..a + nx], &slice[b..b + nx], w);
        }
        for j in 1..=radius {
            row[radius - j] = row[radius + reflect(-(j as isize), nx, flavour)];
            row[radius + nx - 1 + j] = row[radius + reflect((nx - 1 + j) as isize, nx, flavour)];
        }
        for (v, s) in out.iter_mut().zip(&row[radius..]) {
            *v = s * taps[2][0];
        }
        for (j, &w) in taps[2].iter().enumerate().skip(1) {
            add_pair(out, &row[radius - j..][..nx], &row[radius + j..][..nx], w);
        }
    }
}

#[inline(always)]
fn add_pair(out: &mut [f32], a: &[f32], b: &[f32], weight: f32) {
    for ((v, a), b) in out.iter_mut().zip(a).zip(b) {
        *v += weight * (a + b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_nnunets_sizes() {
        let radius = |s, f| half_kernel(s, f).len() - 1;
        // 3.5 rounds to 4, which is above, so 3 taps; 6.5 rounds to 6, which is below, so 7 taps.
        assert_eq!(radius(0.5, BlurFlavour::Torch), 1);
        assert_eq!(radius(1.0, BlurFlavour::Torch), 3);
        assert_eq!(radius(0.75, BlurFlavour::Torch), 2);
        assert_eq!(radius(1.5, BlurFlavour::Torch), 4);
        assert_eq!(radius(0.5, BlurFlavour::Scipy), 2);
        assert_eq!(radius(1.5, BlurFlavour::Scipy), 6);
    }

    #[test]
    fn borders_reflect_with_and_without_the_edge() {
        let torch: Vec<usize> = (-3..7).map(|i| reflect(i, 4, BlurFlavour::Torch)).collect();
        assert_eq!(torch, [3, 2, 1, 0, 1, 2, 3, 2, 1, 0]);
        let scipy: Vec<usize> = (-3..7).map(|i| reflect(i, 4, BlurFlavour::Scipy)).collect();
        assert_eq!(scipy, [2, 1, 0, 0, 1, 2, 3, 3, 2, 1]);
    }

    #[test]
    fn a_constant_stays_and_no_width_changes_nothing() {
        let mut p = Patch::new([3, 4, 5], vec![2.5; 60], vec![0; 60]).expect("fits");
        BlurParams { sigmas: vec![Some([1.4, 0.7, 2.0])], flavour: BlurFlavour::Torch }.apply(&mut p);
        assert!(p.data.iter().all(|v| (v - 2.5).abs() < 1e-5));
        let mut p = Patch::new([3, 4, 5], (0..60).map(|i| i as f32).collect(), vec![0; 60]).expect("fits");
        let before = p.clone();
        BlurParams { sigmas: vec![Some([0.0; 3])], flavour: BlurFlavour::Torch }.apply(&mut p);
        assert_eq!(p, before);
    }
}
