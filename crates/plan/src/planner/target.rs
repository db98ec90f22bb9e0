//! Spacing to resample to, order of the axes, and what the cases become by it.

use crate::Fingerprint;
use crate::fingerprint::median;

/// The largest spacing is anisotropic from this factor above the others.
const ANISOTROPY: f64 = 3.0;

/// What every configuration starts from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    /// Axis of the image for every axis of the plan.
    pub transpose_forward: [usize; 3],
    /// Its inverse.
    pub transpose_backward: [usize; 3],
    /// Spacing of `3d_fullres` in mm, transposed.
    pub spacing_mm: [f64; 3],
    /// Median shape of the cases at that spacing, transposed; may be halves.
    pub median_shape: [f64; 3],
    /// Median spacing of the images, transposed.
    pub original_spacing_mm: [f64; 3],
    /// Median shape of the cropped images, transposed; may be halves.
    pub original_shape: [f64; 3],
}

impl Target {
    /// # Source
    /// nnU-Net v2, `ExperimentPlanner.determine_fullres_target_spacing`, `determine_transpose`, `plan_experiment`.
    pub(super) fn of(fingerprint: &Fingerprint, overwrite_spacing_mm: Option<[f64; 3]>) -> Target {
        let spacing = overwrite_spacing_mm.unwrap_or_else(|| fullres_spacing(fingerprint));
        // The first of equal maxima.
        let worst = worst_axis(spacing);
        let mut transpose_forward = [worst, 0, 0];
        (0..3).filter(|&a| a != worst).enumerate().for_each(|(i, a)| transpose_forward[i + 1] = a);
        let mut transpose_backward = [0; 3];
        transpose_forward.iter().enumerate().for_each(|(i, &a)| transpose_backward[a] = i);

        let cases = || fingerprint.spacings_mm.iter().zip(&fingerprint.shapes_after_crop);
        let own_spacing = |a: usize| median(cases().map(|(own, _)| own[a]));
        let own_shape = |a: usize| median(cases().map(|(_, shape)| shape[a] as f64));
        // No image shrinks to nothing.
        let resampled = |a: usize| {
            let size = |own: &[f64; 3], shape: &[usize; 3]| own[a] / spacing[a] * shape[a] as f64;
            median(cases().map(|(own, shape)| size(own, shape).round_ties_even().max(1.0)))
        };
        Target {
            spacing_mm: transpose_forward.map(|a| spacing[a]),
            median_shape: transpose_forward.map(resampled),
            original_spacing_mm: transpose_forward.map(own_spacing),
            original_shape: transpose_forward.map(own_shape),
            transpose_forward,
            transpose_backward,
        }
    }
}

fn worst_axis(spacing: [f64; 3]) -> usize {
    (1..3).fold(0, |worst, a| if spacing[a] > spacing[worst] { a } else { worst })
}

fn fullres_spacing(fingerprint: &Fingerprint) -> [f64; 3] {
    let spacings = &fingerprint.spacings_mm;
    let shapes = &fingerprint.shapes_after_crop;
    let along = |a: usize| spacings.iter().map(move |s| s[a]);
    let mut target = [0, 1, 2].map(|a| percentile(along(a), 50.0));
    let size = [0, 1, 2].map(|a| percentile(shapes.iter().map(|s| s[a] as f64), 50.0));
    let worst = worst_axis(target);
    let others = || (0..3).filter(|&a| a != worst);
    let coarsest_other = others().map(|a| target[a]).fold(0.0, f64::max);
    let smallest_other = others().map(|a| size[a]).fold(f64::INFINITY, f64::min);
    if target[worst] > ANISOTROPY * coarsest_other && size[worst] * ANISOTROPY < smallest_other {
        let finer = percentile(along(worst), 10.0);
        target[worst] = if finer < coarsest_other { coarsest_other + 1e-5 } else { finer };
    }
    target
}

/// Percentile with linear interpolation, in numpy's arithmetic.
fn percentile(values: impl Iterator<Item = f64>, percent: f64) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let position = (values.len() - 1) as f64 * (percent / 100.0);
    let (below, t) = (position.floor() as usize, position - position.floor());
    let (a, b) = (values[below], values[(below + 1).min(values.len() - 1)]);
    if t >= 0.5 { b - (b - a) * (1.0 - t) } else { a + (b - a) * t }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the arithmetic is numpy's, to the last bit")]
mod tests {
    use super::*;

    fn fingerprint(spacings: &[[f64; 3]], shape: [usize; 3]) -> Fingerprint {
        Fingerprint {
            spacings_mm: spacings.to_vec(),
            shapes_after_crop: vec![shape; spacings.len()],
            foreground_intensities: Vec::new(),
            median_relative_size_after_cropping: 1.0,
        }
    }

    #[test]
    fn anisotropic_data_get_the_tenth_percentile_of_the_coarse_axis_in_front() {
        let spacings = [[1.0, 1.0, 10.0], [1.0, 1.0, 8.0], [1.0, 1.0, 5.0], [1.0, 1.0, 10.0]];
        let target = Target::of(&fingerprint(&spacings, [256, 200, 12]), None);
        assert_eq!(target.transpose_forward, [2, 0, 1]);
        assert_eq!(target.transpose_backward, [1, 2, 0]);
        // Positions 0.3 of 5, 8, 10, 10.
        assert_eq!(target.spacing_mm, [5.0 + 3.0 * (3.0 * 0.1), 1.0, 1.0]);
        assert_eq!(target.original_spacing_mm, [9.0, 1.0, 1.0]);
        // Many voxels along the coarse axis: the median stays.
        assert_eq!(Target::of(&fingerprint(&spacings, [256, 200, 100]), None).spacing_mm, [9.0, 1.0, 1.0]);
    }

    #[test]
    fn the_coarse_axis_never_gets_finer_than_the_others() {
        let spacings =
            [[10.0, 1.0, 1.0], [10.0, 1.0, 1.0], [10.0, 1.0, 1.0], [0.2, 1.0, 1.0], [0.2, 1.0, 1.0]];
        assert_eq!(
            Target::of(&fingerprint(&spacings, [12, 200, 200]), None).spacing_mm,
            [1.0 + 1e-5, 1.0, 1.0]
        );
    }

    #[test]
    fn a_given_spacing_replaces_the_median() {
        let target = Target::of(&fingerprint(&[[1.0; 3]; 3], [100, 90, 81]), Some([2.0, 3.0, 2.0]));
        assert_eq!((target.transpose_forward, target.spacing_mm), ([1, 0, 2], [3.0, 2.0, 2.0]));
        // Half to even: 40.5 becomes 40.
        assert_eq!(target.median_shape, [30.0, 50.0, 40.0]);
        assert_eq!(target.original_shape, [90.0, 100.0, 81.0]);
    }
}
