//! The normalisation schemes.
//!
//! Statistics are summed in f64, per chunk and then in order, so that they do not depend on the number of threads; the
//! values themselves are changed in f32, as numpy does it.

use crate::PrepError;
use glioseg_plan::{ForegroundIntensities, Normalization};
use rayon::prelude::*;

/// Values of a chunk of a reduction or of a change in place.
const CHUNK: usize = 1 << 16;

/// The least standard deviation or maximum that is divided by.
const EPS: f32 = 1e-8;

/// Normalises one channel in place.
///
/// `mask`, used by z-scores only, says which voxels count and are changed; without one all are.
///
/// # Errors
/// [`PrepError::NoIntensities`], [`PrepError::NotRgb`]; both name `channel`.
///
/// # Source
/// nnU-Net v2, `default_normalization_schemes.py`.
pub(crate) fn normalize(
    values: &mut [f32],
    scheme: Normalization,
    mask: Option<&[bool]>,
    intensities: &[ForegroundIntensities],
    channel: usize,
) -> Result<(), PrepError> {
    match scheme {
        Normalization::ZScore => z_score(values, mask),
        Normalization::Ct => {
            let known = intensities.len();
            let fg = intensities.get(channel).ok_or(PrepError::NoIntensities { channel, known })?;
            let (low, high) = (fg.percentile_00_5 as f32, fg.percentile_99_5 as f32);
            let (mean, std) = (fg.mean as f32, fg.std.max(f64::from(EPS)) as f32);
            change(values, |v| (v.max(low).min(high) - mean) / std);
        }
        Normalization::None => {}
        Normalization::RescaleTo01 => {
            let (min, max) = range(values);
            let scale = (max - min).max(EPS);
            change(values, |v| (v - min) / scale);
        }
        Normalization::RgbTo01 => {
            let (min, max) = range(values);
            if min < 0.0 || max > 255.0 {
                return Err(PrepError::NotRgb { channel, min, max });
            }
            change(values, |v| v / 255.0);
        }
    }
    Ok(())
}

/// Normalises one channel in place by version 1's rules: a small number is added to the deviation, and what lies
/// outside the mask becomes 0.
///
/// # Errors
/// As [`normalize`].
///
/// # Source
/// nnU-Net v1, `GenericPreprocessor.resample_and_normalize`.
pub(crate) fn normalize_v1(
    values: &mut [f32],
    scheme: Normalization,
    mask: Option<&[bool]>,
    intensities: &[ForegroundIntensities],
    channel: usize,
) -> Result<(), PrepError> {
    match scheme {
        Normalization::ZScore => {
            let (mean, std) = channel_mean_and_std(values, mask);
            let std = std + EPS;
            change(values, |v| (v - mean) / std);
        }
        Normalization::Ct => {
            let known = intensities.len();
            let fg = intensities.get(channel).ok_or(PrepError::NoIntensities { channel, known })?;
            let (low, high) = (fg.percentile_00_5 as f32, fg.percentile_99_5 as f32);
            let (mean, std) = (fg.mean as f32, fg.std as f32);
            change(values, |v| (v.max(low).min(high) - mean) / std);
        }
        other => return normalize(values, other, None, intensities, channel),
    }
    if let Some(mask) = mask {
        values.par_chunks_mut(CHUNK).zip(mask.par_chunks(CHUNK)).for_each(|(values, mask)| {
            for (v, _) in values.iter_mut().zip(mask).filter(|(_, m)| !**m) {
                *v = 0.0;
            }
        });
    }
    Ok(())
}

/// Mean and population standard deviation of a channel, inside the mask if there is one.
fn channel_mean_and_std(values: &[f32], mask: Option<&[bool]>) -> (f32, f32) {
    match mask {
        None => mean_and_std(values.par_chunks(CHUNK).map(|v| v.iter().copied())),
        Some(mask) => mean_and_std(
            values
                .par_chunks(CHUNK)
                .zip(mask.par_chunks(CHUNK))
                .map(|(values, mask)| values.iter().zip(mask).filter(|(_, m)| **m).map(|(v, _)| *v)),
        ),
    }
}

/// Mean 0 and standard deviation 1; values that are all the same become 0.
fn z_score(values: &mut [f32], mask: Option<&[bool]>) {
    let (mean, std) = channel_mean_and_std(values, mask);
    let std = std.max(EPS);
    match mask {
        None => change(values, |v| (v - mean) / std),
        Some(mask) => values.par_chunks_mut(CHUNK).zip(mask.par_chunks(CHUNK)).for_each(|(values, mask)| {
            for (v, _) in values.iter_mut().zip(mask).filter(|(_, m)| **m) {
                *v = (*v - mean) / std;
            }
        }),
    }
}

/// Mean and population standard deviation of all values of all chunks; of none, 0 and 0.
fn mean_and_std<V>(chunks: impl IndexedParallelIterator<Item = V> + Clone) -> (f32, f32)
where
    V: Iterator<Item = f32>,
{
    let sums: Vec<(f64, usize)> = chunks
        .clone()
        .map(|values| values.fold((0.0, 0), |(sum, n), v| (sum + f64::from(v), n + 1)))
        .collect();
    let (sum, count) = sums.iter().fold((0.0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    if count == 0 {
        return (0.0, 0.0);
    }
    let mean = sum / count as f64;
    let squares: Vec<f64> =
        chunks.map(|values| values.fold(0.0, |sum, v| sum + (f64::from(v) - mean).powi(2))).collect();
    let variance = squares.iter().sum::<f64>() / count as f64;
    (mean as f32, variance.sqrt() as f32)
}

fn range(values: &[f32]) -> (f32, f32) {
    let nothing = || (f32::INFINITY, f32::NEG_INFINITY);
    let join = |a: (f32, f32), b: (f32, f32)| (a.0.min(b.0), a.1.max(b.1));
    values.par_chunks(CHUNK).map(|c| c.iter().fold(nothing(), |a, &v| join(a, (v, v)))).reduce(nothing, join)
}

fn change(values: &mut [f32], f: impl Fn(f32) -> f32 + Sync) {
    values.par_chunks_mut(CHUNK).for_each(|values| values.iter_mut().for_each(|v| *v = f(*v)));
}

#[cfg(test)]
mod tests {
    use super::*;

    const FG: ForegroundIntensities = ForegroundIntensities {
        mean: 10.0,
        std: 4.0,
        percentile_00_5: 2.0,
        percentile_99_5: 18.0,
        min: 0.0,
        max: 20.0,
        median: 9.0,
    };

    fn run(values: &[f32], scheme: Normalization, mask: Option<&[bool]>) -> Vec<f32> {
        let mut values = values.to_vec();
        normalize(&mut values, scheme, mask, &[FG], 0).expect("values that fit the scheme");
        values
    }

    #[test]
    fn a_z_score_has_mean_0_and_deviation_1() {
        assert_eq!(run(&[1.0, 3.0, 1.0, 3.0], Normalization::ZScore, None), [-1.0, 1.0, -1.0, 1.0]);
    }

    #[test]
    fn outside_the_mask_nothing_counts_or_changes() {
        let mask = [true, true, false, true, true];
        let out = run(&[1.0, 3.0, 99.0, 1.0, 3.0], Normalization::ZScore, Some(&mask));
        assert_eq!(out, [-1.0, 1.0, 99.0, -1.0, 1.0]);
        assert_eq!(run(&[0.0, 0.0], Normalization::ZScore, Some(&[false, false])), [0.0, 0.0]);
    }

    #[test]
    fn version_1_zeroes_what_lies_outside_the_mask() {
        let run = |values: &[f32], scheme, mask: &[bool]| {
            let mut values = values.to_vec();
            normalize_v1(&mut values, scheme, Some(mask), &[FG], 0).expect("values that fit the scheme");
            values
        };
        let out = run(&[1.0, 3.0, 99.0, 1.0, 3.0], Normalization::ZScore, &[true, true, false, true, true]);
        assert_eq!(out, [-1.0, 1.0, 0.0, -1.0, 1.0]);
        let out = run(&[-5.0, 10.0, 14.0, 100.0], Normalization::Ct, &[true, false, true, true]);
        assert_eq!(out, [-2.0, 0.0, 1.0, 2.0]);
    }

    #[test]
    fn constant_channels_become_0() {
        for scheme in [Normalization::ZScore, Normalization::RescaleTo01] {
            assert_eq!(run(&[0.1; 3000], scheme, None), [0.0; 3000], "{scheme:?}");
        }
    }

    #[test]
    fn ct_clips_to_the_percentiles() {
        assert_eq!(run(&[-5.0, 10.0, 14.0, 100.0], Normalization::Ct, None), [-2.0, 0.0, 1.0, 2.0]);
        let error = normalize(&mut [1.0], Normalization::Ct, None, &[FG], 1).expect_err("no second channel");
        assert_eq!(error, PrepError::NoIntensities { channel: 1, known: 1 });
    }

    #[test]
    fn other_schemes_scale_by_their_range() {
        assert_eq!(run(&[2.0, 4.0, 6.0], Normalization::RescaleTo01, None), [0.0, 0.5, 1.0]);
        assert_eq!(run(&[0.0, 51.0, 255.0], Normalization::RgbTo01, None), [0.0, 0.2, 1.0]);
        assert_eq!(run(&[-3.0, 7.0], Normalization::None, None), [-3.0, 7.0]);
        let error = normalize(&mut [0.0, 256.0], Normalization::RgbTo01, None, &[], 2).expect_err("no byte");
        assert_eq!(error, PrepError::NotRgb { channel: 2, min: 0.0, max: 256.0 });
    }
}
