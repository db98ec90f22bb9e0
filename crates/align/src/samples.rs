//! Where the fixed image is looked at, and what intensities count.

use crate::pyramid::Grid;

/// Root of `g⁴ = g + 1`: its powers fill a box evenly in three dimensions.
const ROOT: f64 = 1.220_744_084_605_759_5;
/// Tries per sample, for boxes that lie outside the image in part.
const TRIES: usize = 60;
/// Values below and above these parts of all are taken for outliers.
const RANGE: [f64; 2] = [0.001, 0.999];
/// Values that a threshold is taken of, at least.
const ENOUGH: usize = 200_000;

/// Places of the fixed image and their values.
#[derive(Debug)]
pub(crate) struct Samples {
    /// Places in the world.
    pub(crate) points: Vec<[f64; 3]>,
    /// Value of each.
    pub(crate) values: Vec<f32>,
    /// Mean of the places.
    pub(crate) centre: [f64; 3],
}

impl Samples {
    /// `count` places in the box of the head, evenly spread and between the voxels, so that both images are interpolated and the
    /// grid of neither leaves a mark. Air around the head is sampled too.
    pub(crate) fn of(fixed: &Grid, count: usize) -> Self {
        let head = fixed.head_box();
        let steps = [1.0 / ROOT, 1.0 / (ROOT * ROOT), 1.0 / (ROOT * ROOT * ROOT)];
        let mut at = [0.5f64; 3];
        let (mut points, mut values) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count * TRIES {
            if points.len() == count {
                break;
            }
            for (a, step) in at.iter_mut().zip(steps) {
                *a = (*a + step).fract();
            }
            let place = [0, 1, 2].map(|k| head[k][0] + at[k] * (head[k][1] - head[k][0]));
            if let Some((value, _)) = fixed.interpolate(place) {
                points.push(fixed.to_world.apply(place));
                values.push(value);
            }
        }
        let mut centre = [0.0; 3];
        for point in &points {
            for (c, p) in centre.iter_mut().zip(point) {
                *c += p / points.len() as f64;
            }
        }
        Self { points, values, centre }
    }
}

/// Lower and upper end of the values without outliers.
pub(crate) fn range(values: &[f32]) -> [f32; 2] {
    let mut sorted = values.to_vec();
    RANGE.map(|q| quantile(&mut sorted, q))
}

/// At most about `most` of the values, evenly taken.
pub(crate) fn thinned(values: &[f32], most: usize) -> Vec<f32> {
    values.iter().step_by((values.len() / most).max(1)).copied().collect()
}

/// The value below which a part `q` of all lies; 0 for none.
fn quantile(values: &mut [f32], q: f64) -> f32 {
    let Some(last) = values.len().checked_sub(1) else { return 0.0 };
    let at = (last as f64 * q) as usize;
    *values.select_nth_unstable_by(at, f32::total_cmp).1
}

/// Otsu's threshold, of 256 bins between the ends of [`range`].
///
/// # Source
/// Otsu, *A threshold selection method from gray-level histograms* (1979).
pub(crate) fn otsu(values: &[f32]) -> f32 {
    const BINS: usize = 256;
    let values = thinned(values, ENOUGH);
    let [low, high] = range(&values);
    if high <= low {
        return low;
    }
    let mut histogram = [0f64; BINS];
    for value in &values {
        histogram[(((value - low) / (high - low)).clamp(0.0, 1.0) * (BINS as f32 - 1.0)) as usize] += 1.0;
    }
    let total: f64 = histogram.iter().sum();
    let moment: f64 = histogram.iter().enumerate().map(|(i, c)| i as f64 * c).sum();
    let (mut below, mut moment_below, mut best, mut threshold) = (0.0, 0.0, -1.0, 0);
    for (i, count) in histogram.iter().enumerate().take(BINS - 1) {
        below += count;
        moment_below += i as f64 * count;
        let above = total - below;
        if below <= 0.0 || above <= 0.0 {
            continue;
        }
        let gap = moment_below / below - (moment - moment_below) / above;
        let between = below * above * gap * gap;
        if between > best {
            (best, threshold) = (between, i);
        }
    }
    low + (high - low) * (threshold as f32 + 1.0) / BINS as f32
}
