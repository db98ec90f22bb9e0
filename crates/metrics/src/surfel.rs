//! Distances between surfaces weighted by area, as the `surface-distance` library measures them (BraTS 2023).
//!
//! The surface lies between voxels: every corner whose eight voxels are not all alike carries the area of the
//! triangles that marching cubes would put there. `TRIANGLES` and `CASE` hold the library's table of their normals
//! (Copyright 2018 Google Inc., Apache License 2.0) in eighths, signs left out, since only lengths count.

use crate::surface::nearest;

/// Surface elements of two masks: distances in mm to the other surface and areas in mm², sorted by both.
#[derive(Debug, Clone, PartialEq)]
pub struct Surfels {
    /// Of the reference: distance, area. Distances are infinite where the prediction is empty.
    pub reference: Vec<(f64, f64)>,
    /// Of the prediction.
    pub prediction: Vec<(f64, f64)>,
}

impl Surfels {
    /// Measures both ways.
    ///
    /// # Shapes and units
    /// Masks are `[z, y, x]` of `shape`; `spacing` is mm along z, y, x.
    ///
    /// # Source
    /// surface-distance, `compute_surface_distances` on arrays `[x, y, z]`.
    pub fn between(reference: &[bool], prediction: &[bool], shape: [usize; 3], spacing: [f64; 3]) -> Self {
        let areas = areas(spacing);
        let corners = shape.map(|n| n + 1);
        let (a, b) = (elements(reference, shape), elements(prediction, shape));
        let places = |list: &[(usize, u8)]| list.iter().map(|&(i, _)| i).collect::<Vec<_>>();
        let (from, to) = (places(&a), places(&b));
        let list = |own: &[(usize, u8)], from: &[usize], to: &[usize]| {
            let squares = nearest(from, to, corners, spacing);
            let mut list: Vec<(f64, f64)> =
                own.iter().zip(squares).map(|(&(_, code), d)| (d.sqrt(), areas[usize::from(code)])).collect();
            list.sort_unstable_by(|p, q| p.0.total_cmp(&q.0).then(p.1.total_cmp(&q.1)));
            list
        };
        let (reference, prediction) = rayon::join(|| list(&a, &from, &to), || list(&b, &to, &from));
        Self { reference, prediction }
    }

    /// The larger of the two directions' 95th percentiles by area; infinite if either mask is empty.
    ///
    /// # Source
    /// surface-distance, `compute_robust_hausdorff(…, 95)`.
    pub fn hd95(&self) -> f64 {
        let one_way = |list: &[(f64, f64)]| {
            let Some(&(last, _)) = list.last() else { return f64::INFINITY };
            let total = pairwise_sum(&list.iter().map(|&(_, area)| area).collect::<Vec<_>>());
            let mut so_far = 0.0;
            for &(distance, area) in list {
                so_far += area;
                if so_far / total >= 0.95 {
                    return distance;
                }
            }
            last
        };
        one_way(&self.reference).max(one_way(&self.prediction))
    }

    /// Fraction of both surfaces' area that lies within `tolerance_mm` of the other; NaN if both masks are empty.
    ///
    /// # Source
    /// surface-distance, `compute_surface_dice_at_tolerance`.
    pub fn dice_at(&self, tolerance_mm: f64) -> f64 {
        let area = |list: &[(f64, f64)], limit: f64| {
            list.iter().filter(|&&(distance, _)| distance <= limit).fold(0.0, |sum, &(_, area)| sum + area)
        };
        let close = area(&self.reference, tolerance_mm) + area(&self.prediction, tolerance_mm);
        close / (area(&self.reference, f64::INFINITY) + area(&self.prediction, f64::INFINITY))
    }
}

/// Corners of the voxels of a mask with both kinds of voxels around them, and which: a bit for each of the eight, the
/// highest for the one before in x, y and z, then z fastest.
fn elements(mask: &[bool], shape: [usize; 3]) -> Vec<(usize, u8)> {
    let [depth, height, width] = shape;
    let mut found = Vec::new();
    let empty = vec![false; width];
    let row = |z: Option<usize>, y: Option<usize>| match (z, y) {
        (Some(z), Some(y)) if z < depth && y < height => &mask[(z * height + y) * width..][..width],
        _ => &empty[..],
    };
    for z in 0..=depth {
        for y in 0..=height {
            let (before_z, before_y) = (z.checked_sub(1), y.checked_sub(1));
            // In the order of the bits of one step along x: (y - 1, z - 1), (y - 1, z), (y, z - 1), (y, z).
            let rows = [
                row(before_z, before_y),
                row(Some(z), before_y),
                row(before_z, Some(y)),
                row(Some(z), Some(y)),
            ];
            let mut before = 0u8;
            for x in 0..=width {
                let mut here = 0u8;
                if x < width {
                    for line in rows {
                        here = here << 1 | u8::from(line[x]);
                    }
                }
                let code = before << 4 | here;
                if code != 0 && code != 255 {
                    found.push(((z * (height + 1) + y) * (width + 1) + x, code));
                }
                before = here;
            }
        }
    }
    found
}

/// Area in mm² of every arrangement of eight voxels; `spacing` is mm along z, y, x.
fn areas(spacing: [f64; 3]) -> [f64; 256] {
    let [z, y, x] = spacing;
    CASE.map(|case| {
        let lengths = TRIANGLES[usize::from(case)].iter().map(|normal| {
            let [a, b, c] = normal.map(|v| f64::from(v) / 8.0);
            let (a, b, c) = (a * y * z, b * x * z, c * x * y);
            (a * a + b * b + c * c).sqrt()
        });
        lengths.sum()
    })
}

/// The sum in numpy's order, so that a percentile that falls on the edge of a step falls on the same side.
///
/// # Source
/// numpy, `pairwise_sum` of its `add.reduce`.
fn pairwise_sum(values: &[f64]) -> f64 {
    let n = values.len();
    if n < 8 {
        return values.iter().sum();
    }
    if n <= 128 {
        let mut r = [0.0; 8];
        r.copy_from_slice(&values[..8]);
        let whole = n - n % 8;
        for block in values[8..whole].chunks_exact(8) {
            for (r, v) in r.iter_mut().zip(block) {
                *r += v;
            }
        }
        let start = ((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7]));
        return values[whole..].iter().fold(start, |sum, v| sum + v);
    }
    let half = n / 2 - n / 2 % 8;
    pairwise_sum(&values[..half]) + pairwise_sum(&values[half..])
}

/// The different sets of triangles: lengths of the components x, y, z of each normal, in eighths.
#[rustfmt::skip]
const TRIANGLES: [&[[u8; 3]]; 45] = [
    &[[0, 0, 0]],
    &[[1, 1, 1]],
    &[[0, 0, 4], [0, 0, 4]],
    &[[0, 2, 2], [0, 2, 2]],
    &[[0, 4, 0], [0, 4, 0]],
    &[[1, 1, 1], [1, 1, 1]],
    &[[2, 0, 2], [2, 0, 2]],
    &[[2, 2, 0], [2, 2, 0]],
    &[[4, 0, 0], [4, 0, 0]],
    &[[0, 0, 4], [2, 2, 2], [1, 1, 1]],
    &[[0, 2, 2], [0, 2, 2], [1, 1, 1]],
    &[[0, 4, 0], [1, 1, 1], [2, 2, 2]],
    &[[0, 4, 0], [2, 2, 2], [1, 1, 1]],
    &[[1, 1, 1], [0, 2, 2], [0, 2, 2]],
    &[[1, 1, 1], [1, 1, 1], [1, 1, 1]],
    &[[1, 1, 1], [2, 0, 2], [2, 0, 2]],
    &[[1, 1, 1], [2, 2, 0], [2, 2, 0]],
    &[[1, 1, 1], [2, 2, 2], [0, 0, 4]],
    &[[2, 0, 2], [2, 0, 2], [1, 1, 1]],
    &[[2, 2, 0], [2, 2, 0], [1, 1, 1]],
    &[[4, 0, 0], [1, 1, 1], [2, 2, 2]],
    &[[4, 0, 0], [2, 2, 2], [1, 1, 1]],
    &[[0, 0, 4], [2, 2, 2], [1, 1, 1], [1, 1, 1]],
    &[[0, 2, 2], [0, 2, 2], [0, 2, 2], [0, 2, 2]],
    &[[0, 2, 2], [3, 3, 3], [1, 1, 1], [2, 2, 0]],
    &[[0, 4, 0], [1, 1, 1], [2, 2, 2], [1, 1, 1]],
    &[[0, 4, 0], [2, 2, 2], [1, 1, 1], [1, 1, 1]],
    &[[1, 1, 1], [0, 4, 0], [2, 2, 2], [1, 1, 1]],
    &[[1, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 1]],
    &[[1, 1, 1], [1, 1, 1], [2, 2, 2], [0, 0, 4]],
    &[[1, 1, 1], [2, 2, 2], [2, 2, 2], [1, 1, 1]],
    &[[1, 1, 1], [3, 3, 3], [0, 2, 2], [2, 0, 2]],
    &[[2, 0, 2], [2, 0, 2], [2, 0, 2], [2, 0, 2]],
    &[[2, 0, 2], [3, 3, 3], [0, 2, 2], [1, 1, 1]],
    &[[2, 0, 2], [3, 3, 3], [2, 2, 0], [1, 1, 1]],
    &[[2, 2, 0], [2, 2, 0], [2, 2, 0], [2, 2, 0]],
    &[[2, 2, 2], [1, 1, 1], [2, 2, 2], [1, 1, 1]],
    &[[2, 2, 2], [2, 2, 2], [1, 1, 1], [1, 1, 1]],
    &[[3, 3, 3], [0, 2, 2], [1, 1, 1], [2, 0, 2]],
    &[[3, 3, 3], [0, 2, 2], [1, 1, 1], [2, 2, 0]],
    &[[3, 3, 3], [2, 0, 2], [1, 1, 1], [2, 2, 0]],
    &[[3, 3, 3], [2, 2, 0], [0, 2, 2], [1, 1, 1]],
    &[[3, 3, 3], [2, 2, 0], [1, 1, 1], [2, 0, 2]],
    &[[4, 0, 0], [1, 1, 1], [2, 2, 2], [1, 1, 1]],
    &[[4, 0, 0], [2, 2, 2], [1, 1, 1], [1, 1, 1]],
];

/// For every arrangement of eight voxels the number of its set.
#[rustfmt::skip]
const CASE: [u8; 256] = [
     0,  1,  1,  7,  1,  6,  5, 21,  1,  5,  6, 21,  7, 21, 21,  8,  1,  3,  5, 12,  5,  9, 14, 30,  5, 10, 18, 31, 16, 39, 43, 20,
     1,  5,  3, 11,  5, 15, 10, 38,  5, 14,  9, 37, 16, 44, 24, 21,  7, 12, 11,  4, 19, 40, 27, 12, 16, 26, 42, 12, 35, 19, 16,  7,
     1,  5,  5, 16,  3,  9, 10, 39,  5, 14, 15, 44, 12, 37, 33, 21,  6,  9, 15, 34,  9,  2, 29, 17, 18, 22, 32, 15, 34,  9, 15,  6,
     5, 14, 13, 25, 10, 22, 23, 10, 14, 28, 22, 14, 26, 14, 10,  5, 21, 36, 38, 12, 41, 17, 13,  3, 44, 14, 18,  5, 19,  5,  5,  1,
     1,  5,  5, 19,  5, 18, 14, 44,  3, 13, 17, 41, 12, 38, 36, 21,  5, 10, 14, 26, 14, 22, 28, 14, 10, 23, 22, 10, 25, 13, 14,  5,
     6, 15,  9, 34, 15, 32, 22, 18, 17, 29,  2,  9, 34, 15,  9,  6, 21, 33, 37, 12, 44, 15, 14,  5, 39, 10,  9,  3, 16,  5,  5,  1,
     7, 16, 19, 35, 12, 42, 26, 16, 12, 27, 40, 19,  4, 11, 12,  7, 21, 24, 44, 16, 37,  9, 14,  5, 38, 10, 15,  5, 11,  3,  5,  1,
    20, 43, 39, 16, 31, 18, 10,  5, 30, 14,  9,  5, 12,  5,  3,  1,  8, 21, 21,  7, 21,  6,  5,  1, 21,  5,  6,  1,  7,  1,  1,  0,
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_flat_surface_has_the_area_of_its_faces() {
        // Four voxels of one side filled: a square of spacing x times spacing y, seen along each axis.
        for (code, area) in [(0b0000_1111, 6.0), (0b0011_0011, 3.0), (0b0101_0101, 2.0)] {
            let found = areas([3.0, 2.0, 1.0])[code];
            assert!((found - area).abs() < 1e-12, "{code:08b}: {found}");
        }
    }

    #[test]
    fn a_voxel_has_eight_elements() {
        let found = elements(&[true], [1, 1, 1]);
        assert_eq!(found.iter().map(|&(_, code)| code).collect::<Vec<_>>(), [1, 16, 4, 64, 2, 32, 8, 128]);
        assert_eq!(found.iter().map(|&(i, _)| i).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn distances_are_measured_between_the_surfaces() {
        // Two voxels with one between them: the near corners are 1 apart, the far ones 2.
        let (a, b) = ([true, false, false], [false, false, true]);
        let found = Surfels::between(&a, &b, [1, 1, 3], [1.0; 3]);
        let distances: Vec<f64> = found.reference.iter().map(|&(d, _)| d).collect();
        assert_eq!(distances, [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
        assert!((found.hd95() - 2.0).abs() < 1e-12);
        assert!((found.dice_at(1.0) - 0.5).abs() < 1e-12);
        let same = Surfels::between(&a, &a, [1, 1, 3], [1.0; 3]);
        assert_eq!((same.hd95(), same.dice_at(0.0)), (0.0, 1.0));
        let none = Surfels::between(&a, &[false; 3], [1, 1, 3], [1.0; 3]);
        assert_eq!((none.hd95(), none.dice_at(9.0)), (f64::INFINITY, 0.0));
    }

    proptest! {
        #[test]
        fn shares_and_percentiles_are_those_of_trying_every_pair(
            shape in [1..6usize, 1..6usize, 1..7usize],
            spacing in prop::array::uniform3(prop::sample::select(vec![0.5, 1.0, 0.9375, 3.0])),
            seed in any::<u64>(),
            tolerance in 0.0..4.0f64,
        ) {
            let mut state = seed;
            let mut mask = || -> Vec<bool> {
                let one = |_| {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (state >> 33).is_multiple_of(4)
                };
                (0..shape.iter().product::<usize>()).map(one).collect()
            };
            let (a, b) = (mask(), mask());
            let found = Surfels::between(&a, &b, shape, spacing);
            let corners = shape.map(|n| n + 1);
            let place = |i: usize| [i / (corners[1] * corners[2]), i / corners[2] % corners[1], i % corners[2]];
            let areas = areas(spacing);
            let brute = |own: &[bool], other: &[bool]| -> Vec<(f64, f64)> {
                let others = elements(other, shape);
                let to = |i: usize| {
                    let far = |j: usize| {
                        let (p, q) = (place(i), place(j));
                        (0..3).map(|k| ((p[k] as f64 - q[k] as f64) * spacing[k]).powi(2)).sum::<f64>().sqrt()
                    };
                    others.iter().map(|&(j, _)| far(j)).fold(f64::INFINITY, f64::min)
                };
                elements(own, shape).iter().map(|&(i, code)| (to(i), areas[usize::from(code)])).collect()
            };
            let (ours, theirs) = (brute(&a, &b), brute(&b, &a));
            let sum = |list: &[(f64, f64)], limit: f64| list.iter().filter(|e| e.0 <= limit).map(|e| e.1).sum::<f64>();
            let all = sum(&ours, f64::INFINITY) + sum(&theirs, f64::INFINITY);
            let share = (sum(&ours, tolerance) + sum(&theirs, tolerance)) / all;
            prop_assert!((found.dice_at(tolerance) - share).abs() < 1e-12 || all == 0.0, "{} {share}", found.dice_at(tolerance));
            for (list, brute) in [(&found.reference, &ours), (&found.prediction, &theirs)] {
                let mut brute = brute.clone();
                brute.sort_unstable_by(|p, q| p.0.total_cmp(&q.0).then(p.1.total_cmp(&q.1)));
                prop_assert_eq!(list.len(), brute.len());
                for (x, y) in list.iter().zip(&brute) {
                    prop_assert!((x.0 - y.0).abs() < 1e-12 || x.0.to_bits() == y.0.to_bits(), "{} {}", x.0, y.0);
                }
            }
        }
    }

    #[test]
    fn sums_of_any_length_are_sums() {
        for n in [0, 1, 7, 8, 9, 127, 128, 129, 1000] {
            let values: Vec<f64> = (1..=n).map(f64::from).collect();
            assert!((pairwise_sum(&values) - f64::from(n * (n + 1) / 2)).abs() < 1e-9, "{n}");
        }
    }
}
