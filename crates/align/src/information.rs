//! Mutual information of two images under a transform, and its slope.
//!
//! Each sample of the fixed image falls into one bin. The value that it meets in the moving image is spread over four bins by a
//! cubic B-spline, which makes the histogram, and with it the information, a smooth function of the transform.
//!
//! # Source
//! Mattes et al., *PET-CT image registration in the chest using free-form deformations* (2003); Thévenaz and Unser (2000).

use rayon::prelude::*;

use crate::motion::RowSlopes;
use crate::pyramid::Grid;
use crate::samples::{Samples, range, thinned};
use crate::transform::Transform;

const BINS: usize = 32;
/// Bins on each side of the moving image's range that only the spline reaches.
const MARGIN: f32 = 2.0;
/// Width of the moving image's range in bins.
const WIDTH: f32 = BINS as f32 - 1.0 - 2.0 * MARGIN;
/// Samples are cut into this many parts whatever the number of threads, so that sums have one order.
const CHUNKS: usize = 16;
/// Fewer samples are not worth the threads.
const PARALLEL: usize = 8000;
/// Values that the moving image's range is taken of.
const ENOUGH: usize = 300_000;
/// The least part of the samples that must lie inside the moving image: one in so many.
const INSIDE: usize = 4;

/// Two images of one level, ready to be compared.
#[derive(Debug)]
pub(crate) struct Information<'a> {
    points: Vec<[f64; 3]>,
    /// The bin of each point's value in the fixed image.
    bins: Vec<u8>,
    /// Mean of the points.
    pub(crate) centre: [f64; 3],
    moving: &'a Grid<'a>,
    to_voxel: Transform,
    /// The moving image's lowest value, and bins per unit of it.
    low: f32,
    per_value: f32,
}

/// What one part of the samples gives.
struct Part {
    histogram: Vec<f64>,
    met: Vec<Met>,
}

/// A sample inside the moving image.
struct Met {
    sample: u32,
    /// Place in the histogram, in bins.
    place: f32,
    /// Slope of the moving image per voxel.
    slope: [f32; 3],
}

impl<'a> Information<'a> {
    pub(crate) fn new(fixed: &Grid, moving: &'a Grid<'a>, count: usize) -> Self {
        let samples = Samples::of(fixed, count);
        let [low, high] = range(&samples.values);
        let per_value = (BINS as f32 - 1e-3) / (high - low).max(f32::MIN_POSITIVE);
        let bin = |v: &f32| (((v - low) * per_value).max(0.0) as usize).min(BINS - 1) as u8;
        let bins = samples.values.iter().map(bin).collect();
        let [low, high] = range(&thinned(&moving.values, ENOUGH));
        Self {
            points: samples.points,
            bins,
            centre: samples.centre,
            moving,
            to_voxel: moving.to_world.inverse(),
            low,
            per_value: WIDTH / (high - low).max(f32::MIN_POSITIVE),
        }
    }

    /// The part of the samples that the transform takes into the moving image.
    pub(crate) fn overlap(&self, transform: &Transform) -> f64 {
        let to_voxel = self.to_voxel.after(transform);
        let inside = self.points.iter().filter(|p| self.moving.holds(to_voxel.apply(**p))).count();
        inside as f64 / self.points.len().max(1) as f64
    }

    /// The information in nats. With less than a quarter of the samples inside the moving image it is 0.
    pub(crate) fn value(&self, transform: &Transform) -> f64 {
        self.counted(transform).map_or(0.0, |(_, joint)| joint.information)
    }

    /// The information and its slope with respect to the transform's rows about [`Information::centre`], per mm.
    pub(crate) fn value_and_slope(&self, transform: &Transform) -> (f64, RowSlopes) {
        let Some((parts, joint)) = self.counted(transform) else { return (0.0, [[0.0; 4]; 3]) };
        let sums = self.in_parts(|chunk| self.slope_of_part(&parts[chunk], &joint.likelihood));
        let mut in_voxels = [[0f64; 4]; 3];
        for sum in sums {
            for (total, value) in in_voxels.as_flattened_mut().iter_mut().zip(sum.as_flattened()) {
                *total += value;
            }
        }
        // From voxels of the moving image to mm.
        let rows = self.to_voxel.rows();
        let factor = f64::from(self.per_value) / joint.total;
        let slopes = [0, 1, 2].map(|i| {
            [0, 1, 2, 3].map(|j| factor * (0..3).map(|k| rows[k][i] * in_voxels[k][j]).sum::<f64>())
        });
        (joint.information, slopes)
    }

    fn in_parts<T: Send>(&self, part: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
        if self.points.len() < PARALLEL {
            return (0..CHUNKS).map(part).collect();
        }
        (0..CHUNKS).into_par_iter().map(part).collect()
    }

    fn counted(&self, transform: &Transform) -> Option<(Vec<Part>, Joint)> {
        let to_voxel = self.to_voxel.after(transform);
        let parts = self.in_parts(|chunk| self.count_part(chunk, &to_voxel));
        let met: usize = parts.iter().map(|p| p.met.len()).sum();
        if met * INSIDE < self.points.len() || met == 0 {
            return None;
        }
        let mut histogram = vec![0f64; BINS * BINS];
        for part in &parts {
            histogram.iter_mut().zip(&part.histogram).for_each(|(total, count)| *total += count);
        }
        Some((parts, Joint::of(histogram)))
    }

    /// The histogram of one part of the samples: rows are bins of the fixed image, columns of the moving one.
    fn count_part(&self, chunk: usize, to_voxel: &Transform) -> Part {
        let length = self.points.len().div_ceil(CHUNKS);
        let first = (chunk * length).min(self.points.len());
        let last = (first + length).min(self.points.len());
        let mut histogram = vec![0f64; BINS * BINS];
        let mut met = Vec::with_capacity(last - first);
        for sample in first..last {
            let Some((value, slope)) = self.moving.interpolate(to_voxel.apply(self.points[sample])) else {
                continue;
            };
            let from_low = (value - self.low) * self.per_value;
            let place = from_low.clamp(0.0, WIDTH) + MARGIN;
            let bin = place as usize;
            let row = &mut histogram[usize::from(self.bins[sample]) * BINS + bin - 1..][..4];
            row.iter_mut().zip(spline(place - bin as f32)).for_each(|(count, w)| *count += f64::from(w));
            // A value beyond the range stays at its end however the point moves.
            let moves = from_low > 0.0 && from_low < WIDTH;
            met.push(Met { sample: sample as u32, place, slope: if moves { slope } else { [0.0; 3] } });
        }
        Part { histogram, met }
    }

    fn slope_of_part(&self, part: &Part, likelihood: &[f32]) -> RowSlopes {
        let mut sum = [[0f64; 4]; 3];
        for Met { sample, place, slope } in &part.met {
            let (sample, bin) = (*sample as usize, *place as usize);
            let row = &likelihood[usize::from(self.bins[sample]) * BINS + bin - 1..][..4];
            let change: f32 = spline_slope(place - bin as f32).iter().zip(row).map(|(s, l)| s * l).sum();
            let point = self.points[sample];
            let about = [0, 1, 2].map(|k| point[k] - self.centre[k]);
            for (line, s) in sum.iter_mut().zip(slope) {
                let along = f64::from(change * s);
                for (total, x) in line.iter_mut().zip(about) {
                    *total += along * x;
                }
                line[3] += along;
            }
        }
        sum
    }
}

/// What follows from a joint histogram.
struct Joint {
    information: f64,
    /// Sum of the histogram.
    total: f64,
    /// `ln(p(f, m) / p(m))`, 0 where nothing was counted.
    likelihood: Vec<f32>,
}

impl Joint {
    fn of(mut p: Vec<f64>) -> Self {
        /// Below this a probability counts as none.
        const NONE: f64 = 1e-16;
        let total: f64 = p.iter().sum();
        for probability in &mut p {
            *probability /= total;
        }
        let fixed: Vec<f64> = p.chunks_exact(BINS).map(|row| row.iter().sum()).collect();
        let moving: Vec<f64> = (0..BINS).map(|m| (0..BINS).map(|f| p[f * BINS + m]).sum()).collect();
        let mut information = 0.0;
        let mut likelihood = vec![0f32; BINS * BINS];
        for f in 0..BINS {
            for m in 0..BINS {
                let joint = p[f * BINS + m];
                if joint > NONE && fixed[f] > NONE {
                    information += joint * (joint / (fixed[f] * moving[m])).ln();
                    likelihood[f * BINS + m] = (joint / moving[m]).ln() as f32;
                }
            }
        }
        Self { information, total, likelihood }
    }
}

/// Weights of the four bins around a value that lies `t` above the second of them.
fn spline(t: f32) -> [f32; 4] {
    let s = 1.0 - t;
    let (t2, t3) = (t * t, t * t * t);
    [
        s * s * s / 6.0,
        (3.0 * t3 - 6.0 * t2 + 4.0) / 6.0,
        (-3.0 * t3 + 3.0 * t2 + 3.0 * t + 1.0) / 6.0,
        t3 / 6.0,
    ]
}

/// Their slopes.
fn spline_slope(t: f32) -> [f32; 4] {
    let s = 1.0 - t;
    let t2 = t * t;
    [-s * s / 2.0, (3.0 * t2 - 4.0 * t) / 2.0, (-3.0 * t2 + 2.0 * t + 1.0) / 2.0, t2 / 2.0]
}

#[cfg(test)]
mod tests;
