//! Smooth random displacements.

use super::random::PatchRng;
use rustfft::FftPlanner;
use rustfft::num_complex::Complex64;
use std::f64::consts::PI;

/// What is needed to make the displacements of a patch.
#[derive(Debug, Clone, PartialEq)]
pub struct ElasticParams {
    /// Standard deviation of the Gaussian that smooths the noise, per axis, in voxels.
    pub sigmas_vox: [f64; 3],
    /// Largest displacement along each axis, in voxels.
    pub magnitudes_vox: [f64; 3],
    /// Seed of the noise, see [`PatchRng::field`].
    pub seed: u64,
}

impl ElasticParams {
    /// Displacement along every axis, in voxels, for every voxel of a patch. In planar patches nothing moves along
    /// axis 0.
    pub fn offsets(&self, patch: [usize; 3], planar: bool) -> [Vec<f32>; 3] {
        let mut rng = PatchRng::field(self.seed);
        [0, 1, 2].map(|axis| {
            let voxels = patch.iter().product();
            if planar && axis == 0 {
                return vec![0.0; voxels];
            }
            let noise: Vec<f64> = (0..voxels).map(|_| rng.uniform(-1.0, 1.0)).collect();
            let mut field = smooth(noise, patch, self.sigmas_vox);
            scale_to(&mut field, self.magnitudes_vox[axis]);
            field.into_iter().map(|v| v as f32).collect()
        })
    }
}

/// Makes the largest absolute value `magnitude_vox`.
///
/// # Source
/// batchgenerators, `elastic_deform_coordinates_2`.
pub fn scale_to(field: &mut [f64], magnitude_vox: f64) {
    let largest = field.iter().fold(0f64, |m, v| m.max(v.abs()));
    if largest > 0.0 {
        let factor = (magnitude_vox + 1e-8) / largest;
        for v in field {
            *v *= factor;
        }
    }
}

/// Neighbouring lines that are filtered together, so that reading across an axis uses whole cache lines.
const LINES: usize = 16;

/// Smooths with a periodic Gaussian of `sigmas_vox` per axis, in Fourier space.
///
/// # Source
/// `scipy.ndimage.fourier_gaussian` between forward and inverse transform, real part. The Gaussian is separable and its
/// spectrum real and even, so one axis after the other is filtered, two lines at a time as real and imaginary part.
///
/// # Panics
/// If `field` does not hold `shape` voxels.
pub fn smooth(mut field: Vec<f64>, shape: [usize; 3], sigmas_vox: [f64; 3]) -> Vec<f64> {
    assert_eq!(field.len(), shape.iter().product::<usize>(), "a field of shape {shape:?}");
    let mut planner = FftPlanner::new();
    let strides = [shape[1] * shape[2], shape[2], 1];
    for axis in 0..3 {
        let n = shape[axis];
        if n == 1 || sigmas_vox[axis] == 0.0 {
            continue;
        }
        let forward = planner.plan_fft_forward(n);
        let inverse = planner.plan_fft_inverse(n);
        let exponent = -2.0 * (PI * sigmas_vox[axis] / n as f64).powi(2);
        let spectrum: Vec<f64> = (0..n)
            .map(|k| {
                let k = k.min(n - k) as f64;
                (exponent * k * k).exp() / n as f64
            })
            .collect();
        let mut scratch = vec![
            Complex64::default();
            forward.get_inplace_scratch_len().max(inverse.get_inplace_scratch_len())
        ];
        let starts: Vec<usize> = (0..field.len()).filter(|i| (i / strides[axis]).is_multiple_of(n)).collect();
        let mut lines = vec![Complex64::default(); n * LINES / 2];
        for block in starts.chunks(LINES) {
            for (pair, line) in block.chunks(2).zip(lines.chunks_exact_mut(n)) {
                for (k, v) in line.iter_mut().enumerate() {
                    let at = |start: &usize| field[start + k * strides[axis]];
                    *v = Complex64::new(at(&pair[0]), pair.get(1).map_or(0.0, at));
                }
                forward.process_with_scratch(line, &mut scratch);
                line.iter_mut().zip(&spectrum).for_each(|(v, s)| *v *= s);
                inverse.process_with_scratch(line, &mut scratch);
            }
            for (pair, line) in block.chunks(2).zip(lines.chunks_exact(n)) {
                for (k, v) in line.iter().enumerate() {
                    field[pair[0] + k * strides[axis]] = v.re;
                    if let Some(second) = pair.get(1) {
                        field[second + k * strides[axis]] = v.im;
                    }
                }
            }
        }
    }
    field
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_stays_and_an_impulse_spreads_evenly() {
        let flat = smooth(vec![3.0; 4 * 5 * 6], [4, 5, 6], [1.0, 2.0, 0.5]);
        assert!(flat.iter().all(|v| (v - 3.0).abs() < 1e-12));
        let mut impulse = vec![0.0; 9 * 9 * 9];
        impulse[(4 * 9 + 4) * 9 + 4] = 1.0;
        let s = smooth(impulse, [9, 9, 9], [1.0, 1.0, 1.0]);
        assert!((s.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let at = |z: usize, y: usize, x: usize| s[(z * 9 + y) * 9 + x];
        assert!((at(3, 4, 4) - at(5, 4, 4)).abs() < 1e-12 && (at(3, 4, 4) - at(4, 4, 5)).abs() < 1e-12);
        // A Gaussian cut off at the Nyquist frequency: nearly, not quite, exp(-1/2).
        assert!((at(3, 4, 4) / at(4, 4, 4) - (-0.5f64).exp()).abs() < 0.01);
    }

    #[test]
    fn displacements_have_the_magnitude_asked_for() {
        let params = ElasticParams { sigmas_vox: [2.0; 3], magnitudes_vox: [0.5, 1.5, 3.0], seed: 4 };
        let offsets = params.offsets([7, 9, 8], false);
        for (field, magnitude) in offsets.iter().zip([0.5, 1.5, 3.0]) {
            let largest = field.iter().fold(0f32, |m, v| m.max(v.abs()));
            assert!((largest - magnitude).abs() < 1e-6, "{largest} instead of {magnitude}");
        }
        assert_eq!(offsets, params.offsets([7, 9, 8], false));
        assert!(params.offsets([1, 9, 8], true)[0].iter().all(|&v| v == 0.0));
    }
}
