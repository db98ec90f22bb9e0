//! Values of an image where an affine transform says: one interpolation from any grid to any other.

use rayon::prelude::*;

use super::spline;
use crate::affine::Affine;

/// How values between voxels are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Interpolation {
    /// The nearest voxel: for labels.
    Nearest,
    /// Between the eight voxels around.
    #[default]
    Linear,
    /// The cubic B-spline through the voxels, kept within the range of the image.
    Cubic,
}

/// A place this near to a voxel is on it: what a header's single precision leaves of an exact place.
const ON_A_VOXEL: f64 = 1e-4;

/// Resamples one channel to another grid: voxel `v` of the result is the value at `to_input(v)` of `data`.
///
/// A place up to half a voxel outside has the value of the border; farther outside it is 0. Nothing is smoothed before, even where
/// the result is coarser.
///
/// # Shapes and units
/// `data` holds `from` voxels in `[z, y, x]` order, the result holds `to`. `to_input` takes an index `x, y, z` of the result to a
/// place in `data`, `x, y, z` in voxels.
///
/// # Panics
/// If `data` does not hold `from` voxels, or has none.
///
/// ```
/// use glioseg_volume::Affine;
/// use glioseg_volume::resample::{Interpolation, affine};
///
/// // Half a voxel to the right.
/// let shift = Affine::from_rows([[1.0, 0.0, 0.0, 0.5], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]);
/// let row = affine(&[1.0, 3.0, 7.0], [1, 1, 3], [1, 1, 3], &shift, Interpolation::Linear);
/// assert_eq!(row, [2.0, 5.0, 7.0]);
/// ```
pub fn affine(
    data: &[f32],
    from: [usize; 3],
    to: [usize; 3],
    to_input: &Affine,
    interpolation: Interpolation,
) -> Vec<f32> {
    check(data.len(), from);
    match interpolation {
        Interpolation::Nearest => rows(from, to, to_input, |place| nearest(data, from, place)),
        Interpolation::Linear => rows(from, to, to_input, |place| linear(data, from, place)),
        Interpolation::Cubic => {
            let (low, high) =
                data.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(l, h), &v| (l.min(v), h.max(v)));
            let coefficients = spline::coefficients(data, from);
            let padded = from.map(|n| n + 2 * spline::MARGIN);
            rows(from, to, to_input, |place| cubic(&coefficients, padded, place).max(low).min(high))
        }
    }
}

/// Resamples labels to another grid by the nearest voxel; outside is the default label.
///
/// # Shapes and units
/// As [`affine`].
///
/// # Panics
/// As [`affine`].
pub fn affine_labels<T>(labels: &[T], from: [usize; 3], to: [usize; 3], to_input: &Affine) -> Vec<T>
where
    T: Copy + Default + Send + Sync,
{
    check(labels.len(), from);
    rows(from, to, to_input, |place| nearest(labels, from, place))
}

fn check(length: usize, from: [usize; 3]) {
    assert_eq!(length, from.iter().product::<usize>(), "data of another size than its shape {from:?}");
    assert!(length > 0, "a shape without voxels: {from:?}");
}

/// One value per voxel of the result, from its place (`x, y, z`) in the input; the default outside.
fn rows<T>(
    from: [usize; 3],
    to: [usize; 3],
    to_input: &Affine,
    value: impl Fn([f64; 3]) -> T + Sync,
) -> Vec<T>
where
    T: Copy + Default + Send + Sync,
{
    let [_, ny, nx] = to;
    let mut out = vec![T::default(); to.iter().product()];
    if out.is_empty() {
        return out;
    }
    let end = [from[2], from[1], from[0]].map(|n| n as f64 - 0.5);
    out.par_chunks_mut(nx).enumerate().for_each(|(row, out)| {
        let (z, y) = (row / ny, row % ny);
        for (x, out) in out.iter_mut().enumerate() {
            let place = to_input.apply([x as f64, y as f64, z as f64]).map(|p| {
                let voxel = p.round();
                if (p - voxel).abs() < ON_A_VOXEL { voxel } else { p }
            });
            if (0..3).all(|k| place[k] >= -0.5 && place[k] <= end[k]) {
                *out = value(place);
            }
        }
    });
    out
}

fn nearest<T: Copy>(data: &[T], [nz, ny, nx]: [usize; 3], place: [f64; 3]) -> T {
    let index = |p: f64, n: usize| ((p + 0.5).max(0.0) as usize).min(n - 1);
    let [x, y, z] = [index(place[0], nx), index(place[1], ny), index(place[2], nz)];
    data[(z * ny + y) * nx + x]
}

fn linear(data: &[f32], [nz, ny, nx]: [usize; 3], place: [f64; 3]) -> f32 {
    // The cell's first voxel, the step to the next (0 where there is none), and how far between them.
    let cell = |p: f64, n: usize| {
        let inside = p.clamp(0.0, n as f64 - 1.0);
        let first = (inside as usize).min(n.saturating_sub(2));
        (first, usize::from(n > 1), inside - first as f64)
    };
    let ((x, dx, tx), (y, dy, ty), (z, dz, tz)) =
        (cell(place[0], nx), cell(place[1], ny), cell(place[2], nz));
    let between = |a: f64, b: f64, t: f64| a + (b - a) * t;
    let row = |z: usize, y: usize| {
        let at = (z * ny + y) * nx + x;
        between(f64::from(data[at]), f64::from(data[at + dx]), tx)
    };
    let plane = |z: usize| between(row(z, y), row(z, y + dy), ty);
    between(plane(z), plane(z + dz), tz) as f32
}

/// `shape` is that of the coefficients, margins and all.
fn cubic(coefficients: &[f32], [_, ny, nx]: [usize; 3], place: [f64; 3]) -> f32 {
    let taps = place.map(|p| {
        let low = p.floor();
        let t = p - low;
        let s = 1.0 - t;
        let weights = [
            s * s * s / 6.0,
            (t * t * (t - 2.0) * 3.0 + 4.0) / 6.0,
            (s * s * (s - 2.0) * 3.0 + 4.0) / 6.0,
            t * t * t / 6.0,
        ];
        // `low` is at least -1, so this is at least 0.
        ((low + spline::MARGIN as f64 - 1.0) as usize, weights)
    });
    let [(x, wx), (y, wy), (z, wz)] = taps;
    let mut sum = 0.0;
    for (k, wz) in wz.iter().enumerate() {
        for (j, wy) in wy.iter().enumerate() {
            let row = &coefficients[((z + k) * ny + y + j) * nx + x..][..4];
            let along: f64 = row.iter().zip(wx).map(|(&c, w)| f64::from(c) * w).sum();
            sum += wz * wy * along;
        }
    }
    sum as f32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orientation::Turn;
    use crate::resample::{Order, ResampleOptions, resample};
    use crate::testing::assert_close;

    const ALL: [Interpolation; 3] = [Interpolation::Nearest, Interpolation::Linear, Interpolation::Cubic];

    fn noise(n: usize) -> Vec<f32> {
        let mut state = 12345u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / 65536.0
        };
        (0..n).map(|_| next()).collect()
    }

    /// The affine of a small turn about the middle of `shape`.
    fn turned(shape: [usize; 3]) -> Affine {
        let (s, c) = 0.3f64.sin_cos();
        let [z, y, x] = shape.map(|n| (n as f64 - 1.0) / 2.0);
        let rows = [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]];
        Affine::from_rows([0, 1, 2].map(|r| {
            let [a, b, d] = rows[r];
            [a, b, d, [x, y, z][r] - a * x - b * y - d * z]
        }))
    }

    #[test]
    fn the_identity_and_every_order_of_axes_leave_voxels_exactly_as_they_are() {
        let shape = [5, 6, 7];
        let data = noise(210);
        for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for flip in [[false; 3], [true, false, true], [false, true, false]] {
                let turn = Turn { axes, flip };
                // Rounded as the transforms of two headers leave it.
                let affine = Affine::IDENTITY.turned(&turn, shape);
                let shifted = Affine::from_rows(affine.rows().map(|r| [r[0], r[1], r[2], r[3] + 3e-6]));
                let expected = turn.apply(data.clone(), shape);
                for interpolation in [Interpolation::Nearest, Interpolation::Linear] {
                    let found = super::affine(&data, shape, turn.along(shape), &shifted, interpolation);
                    assert_eq!(found, expected, "{turn:?} {interpolation:?}");
                }
                let found = super::affine(&data, shape, turn.along(shape), &shifted, Interpolation::Cubic);
                assert_close(&found, &expected, 1e-4, "cubic");
            }
        }
    }

    #[test]
    fn a_plane_stays_a_plane_under_a_turn() {
        let (shape, step) = ([9, 12, 14], [0.5f32, -1.25, 2.0]);
        let value = |z: f32, y: f32, x: f32| 20.0 + step[0] * x + step[1] * y + step[2] * z;
        let mut data = Vec::new();
        for i in 0..9 * 12 * 14 {
            data.push(value((i / 168) as f32, (i / 14 % 12) as f32, (i % 14) as f32));
        }
        let turn = turned(shape);
        for interpolation in [Interpolation::Linear, Interpolation::Cubic] {
            let found = super::affine(&data, shape, shape, &turn, interpolation);
            let mut seen = 0;
            for (i, v) in found.iter().enumerate() {
                let [x, y, z] = turn.apply([(i % 14) as f64, (i / 14 % 12) as f64, (i / 168) as f64]);
                // The spline bends near the borders, where the plane ends.
                let inner = |p: f64, n: f64| p > 3.5 && p < n - 4.5;
                if inner(x, 14.0) && inner(y, 12.0) && z > 3.5 && z < 4.5 {
                    assert!((v - value(z as f32, y as f32, x as f32)).abs() < 0.02, "{interpolation:?} {v}");
                    seen += 1;
                }
            }
            assert!(seen > 10, "{seen}");
        }
    }

    #[test]
    fn the_spline_is_that_of_the_other_resampling() {
        let (from, to) = ([6, 7, 8], [9, 5, 16]);
        let data = noise(6 * 7 * 8);
        let zoom = |a: usize| from[a] as f64 / to[a] as f64;
        let [z, y, x] = [0, 1, 2].map(zoom);
        let affine = Affine::from_rows([
            [x, 0.0, 0.0, 0.5 * x - 0.5],
            [0.0, y, 0.0, 0.5 * y - 0.5],
            [0.0, 0.0, z, 0.5 * z - 0.5],
        ]);
        let found = super::affine(&data, from, to, &affine, Interpolation::Cubic);
        let expected = resample(&data, from, to, &ResampleOptions::uniform(Order::Cubic));
        assert_close(&found, &expected, 2e-3, "of 0 to 256");
    }

    #[test]
    fn outside_is_zero_and_the_spline_stays_in_the_range_of_the_image() {
        let mut data = vec![5f32; 8 * 8 * 8];
        data[100] = 90.0;
        let affine = Affine::from_rows([[1.0, 0.0, 0.0, 3.3], [0.0, 1.0, 0.0, -0.4], [0.0, 0.0, 1.0, 0.2]]);
        for interpolation in ALL {
            let found = super::affine(&data, [8; 3], [8; 3], &affine, interpolation);
            for (i, &v) in found.iter().enumerate() {
                let outside = i % 8 > 4;
                assert!(
                    if outside { v == 0.0 } else { (5.0..=90.0).contains(&v) },
                    "{interpolation:?} {i} {v}"
                );
            }
        }
        let labels: Vec<u16> = (0..512).collect();
        let found = affine_labels(&labels, [8; 3], [8; 3], &affine);
        assert_eq!((found[0], found[7], found[511]), (3, 0, 0));
    }

    #[test]
    fn one_thread_gives_the_same_bytes() {
        let (shape, data) = ([20, 21, 22], noise(20 * 21 * 22));
        for interpolation in ALL {
            let run = || super::affine(&data, shape, [30, 10, 25], &turned(shape), interpolation);
            let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
            assert_eq!(run(), pool.install(run));
        }
    }
}
