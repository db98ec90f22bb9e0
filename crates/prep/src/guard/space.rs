//! Are the images in the space that the network was trained in?
//!
//! Networks for brain tumours are trained on skull-stripped images on one grid. A raw head makes them answer nonsense, and its skull
//! spoils the comparison of channels, which knows the brain alone. So this question comes first: where the answer is no, channels are
//! not compared.
//!
//! Two things are looked at. Background: an image that is zero in no more than 40 % of its voxels is not masked, if the training's
//! images were. Rim: the brightest tenth of the outer 6 mm against the median from 20 mm inwards, on T1, enhanced T1 and FLAIR,
//! where scalp and marrow are bright and the brain's cortex is not: 2.2 to 2.3 on a study as scanned, 0.7 to 1.2 on skull-stripped
//! ones.

use glioseg_volume::components::{Connectivity, components};
use glioseg_volume::crop::fill_holes;
use glioseg_volume::distance::squared_distances;
use glioseg_volume::{Geometry, Volume};

use super::Contrast;

/// The largest part of voxels that are not zero in a masked image.
const MASKED: f64 = 0.6;
/// From this ratio on the rim is scalp.
const BRIGHT_RIM: f64 = 1.6;
/// Thickness of the rim, and from where on it is inside, in mm.
const RIM_MM: [f64; 2] = [6.0, 20.0];
/// About the edge of the voxels that are looked at, in mm.
const COARSE_MM: f64 = 3.0;
/// Fewer voxels of either part are not judged.
const FEWEST: usize = 200;

/// What is known of the images that a network was trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TrainingSpace {
    /// Whether they were masked: their background was zero.
    pub masked: bool,
    /// Their median spacing in mm, z, y, x, where it is known.
    pub spacing_mm: Option<[f64; 3]>,
}

/// Why the images do not seem to be in the space of the training, a sentence; `None` if they do, or if no channel is one of a
/// brain.
pub fn check_space(volume: &Volume, names: &[String], training: &TrainingSpace) -> Option<String> {
    let heads: Vec<usize> = (0..names.len().min(volume.channels))
        .filter(|&c| {
            matches!(Contrast::of(&names[c]), Some(Contrast::T1 | Contrast::T1Enhanced | Contrast::Flair))
        })
        .collect();
    if heads.is_empty() {
        return None;
    }
    let mut reasons = Vec::new();
    let filled: Vec<f64> = (0..volume.channels).map(|c| filled(volume.channel(c))).collect();
    let ratios: Vec<f64> =
        heads.iter().filter_map(|&c| rim_ratio(volume.channel(c), filled[c], &volume.geometry)).collect();
    let filled = filled.into_iter().fold(0.0, f64::max);
    let bright = ratios.iter().filter(|&&ratio| ratio > BRIGHT_RIM).count();
    if bright > 0 && 2 * bright >= ratios.len() {
        let most = ratios.iter().copied().fold(0.0, f64::max);
        reasons.push(format!(
            "the rim of the head is {most:.1} times as bright as what lies inside, as scalp is"
        ));
    }
    if training.masked && filled > MASKED {
        let percent = 100.0 * filled;
        reasons.push(format!(
            "{percent:.0} % of the voxels are not zero, but the training's images were masked"
        ));
    }
    if reasons.is_empty() {
        return None;
    }
    if let Some(trained) = training.spacing_mm
        && unlike(volume.geometry.spacing, trained)
    {
        reasons.push(format!(
            "voxels are {} mm, in the training {} mm",
            size(volume.geometry.spacing),
            size(trained)
        ));
    }
    Some(format!("the images do not look skull-stripped and registered: {}", reasons.join("; ")))
}

/// Sorted spacings that differ by more than a factor of 2 somewhere: the order of axes does not matter.
fn unlike(a: [f64; 3], b: [f64; 3]) -> bool {
    let sorted = |mut s: [f64; 3]| {
        s.sort_unstable_by(f64::total_cmp);
        s
    };
    sorted(a).into_iter().zip(sorted(b)).any(|(a, b)| a > 2.0 * b || b > 2.0 * a)
}

fn size(spacing: [f64; 3]) -> String {
    spacing.map(|s| format!("{}", (s * 100.0).round() / 100.0)).join(" x ")
}

/// The part of voxels that are not zero.
fn filled(values: &[f32]) -> f64 {
    values.iter().filter(|&&v| v != 0.0).count() as f64 / values.len().max(1) as f64
}

/// The 90th percentile of the head's rim over the median of its inside; `None` for an image that is too small to have both.
/// `filled` is the part of its voxels that are not zero.
fn rim_ratio(values: &[f32], filled: f64, geometry: &Geometry) -> Option<f64> {
    let step = geometry.spacing.map(|s| ((COARSE_MM / s).round() as usize).max(1));
    let shape = [0, 1, 2].map(|a| geometry.shape[a].div_ceil(step[a]));
    let spacing = [0, 1, 2].map(|a| geometry.spacing[a] * step[a] as f64);
    let [_, ny, nx] = geometry.shape;
    // One voxel of background all around, so that a head that touches the border has a rim there.
    let padded = shape.map(|n| n + 2);
    let place = |z: usize, y: usize, x: usize| ((z + 1) * padded[1] + y + 1) * padded[2] + x + 1;
    let mut coarse = vec![0f32; padded.iter().product()];
    for z in 0..shape[0] {
        for y in 0..shape[1] {
            for x in 0..shape[2] {
                coarse[place(z, y, x)] = values[(z * step[0] * ny + y * step[1]) * nx + x * step[2]];
            }
        }
    }
    // Air is zero in a masked image, and noise in a raw one.
    let mut sorted = coarse.clone();
    let floor = if filled > MASKED { 0.15 * quantile(&mut sorted, 0.99)? } else { 0.0 };
    let mut head: Vec<bool> = coarse.iter().map(|&v| v > floor).collect();
    keep_largest(&mut head, padded);
    fill_holes(&mut head, padded);
    let outside: Vec<bool> = head.iter().map(|inside| !inside).collect();
    let distances = squared_distances(&outside, padded, spacing);
    let part = |from: f64, to: f64| -> Vec<f32> {
        let within = |d: f64| d > from * from && d <= to * to;
        coarse.iter().zip(&distances).filter(|(_, d)| within(**d)).map(|(v, _)| *v).collect()
    };
    let (mut rim, mut inside) = (part(0.0, RIM_MM[0]), part(RIM_MM[1], 1e6));
    if rim.len() < FEWEST || inside.len() < FEWEST {
        return None;
    }
    let (rim, inside) = (quantile(&mut rim, 0.9)?, quantile(&mut inside, 0.5)?);
    (inside > 0.0).then(|| f64::from(rim / inside))
}

fn keep_largest(mask: &mut [bool], shape: [usize; 3]) {
    let found = components(mask, shape, Connectivity::Faces);
    let Some(largest) = (0..found.count()).max_by_key(|&i| found.sizes[i]) else { return };
    let largest = largest as u32 + 1;
    mask.iter_mut().zip(&found.labels).for_each(|(m, &label)| *m = label == largest);
}

fn quantile(values: &mut [f32], q: f64) -> Option<f32> {
    let at = ((values.len().checked_sub(1)? as f64) * q).round() as usize;
    Some(*values.select_nth_unstable_by(at, f32::total_cmp).1)
}
