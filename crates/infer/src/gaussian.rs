//! How much a voxel of a tile counts: most in the middle, least in the corners.

use half::f16;

/// Weight of every voxel of a tile, `[z, y, x]`, at most 10.
///
/// A Gaussian of σ = an eighth of the tile around its middle voxel (`tile / 2`), cut off four σ away. nnU-Net keeps the map in
/// half precision, and the corners of a 128³ tile lie below the smallest such number, so the rounding is part of the
/// definition: the values here are those half numbers, and what became zero is the smallest that did not.
///
/// An axis of one voxel (the slice axis of a 2D network) does not weigh.
///
/// # Source
/// nnU-Net v2, `compute_gaussian` with `value_scaling_factor = 10`; scipy's `gaussian_filter`, mode `constant`.
pub fn gaussian_weights(tile: [usize; 3]) -> Vec<f32> {
    gaussian(tile, 10.0, |w| f16::from_f64(w).to_f32())
}

/// Version 1's weight of every voxel of a tile, `[z, y, x]`, at most 1 and in single precision.
///
/// # Source
/// nnU-Net v1, `SegmentationNetwork._get_gaussian`.
pub(crate) fn gaussian_weights_v1(tile: [usize; 3]) -> Vec<f32> {
    gaussian(tile, 1.0, |w| w as f32)
}

/// The Gaussian scaled to `largest`, rounded; what becomes zero is the smallest that does not.
fn gaussian(tile: [usize; 3], largest: f64, round: impl Fn(f64) -> f32) -> Vec<f32> {
    let axes = tile.map(axis_weights);
    let product = |[z, y, x]: [usize; 3]| axes[0][z] * axes[1][y] * axes[2][x];
    let scale = product(tile.map(|t| t / 2)) / largest;
    let mut weights = Vec::with_capacity(tile.iter().product());
    for z in 0..tile[0] {
        for y in 0..tile[1] {
            weights.extend((0..tile[2]).map(|x| round(product([z, y, x]) / scale)));
        }
    }
    let smallest = weights.iter().copied().filter(|&w| w > 0.0).fold(f32::INFINITY, f32::min);
    for w in &mut weights {
        if *w == 0.0 {
            *w = smallest;
        }
    }
    weights
}

/// The one-dimensional kernel, centred on voxel `size / 2`.
fn axis_weights(size: usize) -> Vec<f64> {
    if size == 1 {
        return vec![1.0];
    }
    let sigma = size as f64 / 8.0;
    let radius = (4.0 * sigma + 0.5) as isize;
    let value = |d: isize| (-0.5 / (sigma * sigma) * (d * d) as f64).exp();
    let sum: f64 = (-radius..=radius).map(value).sum();
    let centre = (size / 2) as isize;
    (0..size as isize)
        .map(|i| {
            let d = i - centre;
            if d.abs() <= radius { value(d) / sum } else { 0.0 }
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "half-precision numbers are exact in f32")]
mod tests {
    use super::*;

    #[test]
    fn weights_of_a_128_cube_equal_nnunets() {
        let w = gaussian_weights([128; 3]);
        let at = |z: usize, y: usize, x: usize| w[(z * 128 + y) * 128 + x];
        assert_eq!(at(64, 64, 64), 10.0);
        let smallest = 2f32.powi(-24);
        assert_eq!(at(0, 0, 0), smallest);
        assert_eq!(at(127, 127, 127), smallest);
        assert!((at(0, 64, 64) - 0.0034).abs() < 5e-5, "{}", at(0, 64, 64));
        // Subnormal halves are counted in nnU-Net 2.8.1's own map.
        assert_eq!(w.iter().filter(|&&v| v == smallest).count(), 18987);
    }

    #[test]
    fn version_1s_weights_of_a_128_cube_equal_nnunets() {
        let w = gaussian_weights_v1([128; 3]);
        let at = |z: usize, y: usize, x: usize| w[(z * 128 + y) * 128 + x];
        assert_eq!(at(64, 64, 64), 1.0);
        for (found, expected) in [
            (at(0, 0, 0), 3.78e-11),
            (at(127, 127, 127), 7.95e-11),
            (at(0, 64, 64), 3.4e-4),
            (at(127, 64, 64), 4.3e-4),
        ] {
            assert!((found / expected - 1.0).abs() < 0.02, "{found}, nnU-Net {expected}");
        }
    }

    #[test]
    fn a_slice_weighs_like_its_two_axes() {
        let slice = gaussian_weights([1, 16, 24]);
        assert_eq!(slice.len(), 16 * 24);
        assert_eq!(slice[8 * 24 + 12], 10.0);
        assert!(slice.iter().all(|&w| w > 0.0));
    }
}
