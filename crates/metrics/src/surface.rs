//! Distances between the borders of two masks, voxel by voxel: what medpy and panoptica measure.

use glioseg_volume::distance::squared_distances;

/// Distances in mm from the border voxels of either mask to the border of the other.
#[derive(Debug, Clone, PartialEq)]
pub struct SurfaceDistances {
    /// From every border voxel of the reference, in memory order.
    pub reference: Vec<f64>,
    /// From every border voxel of the prediction.
    pub prediction: Vec<f64>,
}

/// Indices of the border voxels of a mask `[z, y, x]`: those with a face towards background or the end of the array.
pub fn border(mask: &[bool], shape: [usize; 3]) -> Vec<usize> {
    let [depth, height, width] = shape;
    let slice = height * width;
    let mut found = Vec::new();
    for z in 0..depth {
        for y in 0..height {
            let start = (z * height + y) * width;
            let row = &mask[start..start + width];
            let mut x = 0;
            while let Some(skip) = row[x..].iter().position(|&v| v) {
                x += skip;
                let i = start + x;
                let inner = x > 0
                    && x + 1 < width
                    && y > 0
                    && y + 1 < height
                    && z > 0
                    && z + 1 < depth
                    && mask[i - 1]
                    && mask[i + 1]
                    && mask[i - width]
                    && mask[i + width]
                    && mask[i - slice]
                    && mask[i + slice];
                if !inner {
                    found.push(i);
                }
                x += 1;
            }
        }
    }
    found
}

impl SurfaceDistances {
    /// Measures both ways; `None` if a mask is empty.
    ///
    /// # Shapes and units
    /// Masks are `[z, y, x]` of `shape`; `spacing` is mm along z, y, x.
    ///
    /// # Source
    /// medpy, `__surface_distances` with connectivity 1; panoptica, `_surface_distance_pair`.
    pub fn between(
        reference: &[bool],
        prediction: &[bool],
        shape: [usize; 3],
        spacing: [f64; 3],
    ) -> Option<Self> {
        let (a, b) = (border(reference, shape), border(prediction, shape));
        if a.is_empty() || b.is_empty() {
            return None;
        }
        let (mut reference, mut prediction) =
            rayon::join(|| nearest(&a, &b, shape, spacing), || nearest(&b, &a, shape, spacing));
        for squared in reference.iter_mut().chain(&mut prediction) {
            *squared = squared.sqrt();
        }
        Some(Self { reference, prediction })
    }

    /// 95th percentile of all distances of both directions together.
    ///
    /// # Source
    /// medpy, `hd95`.
    pub fn hd95(&self) -> f64 {
        let mut all = Vec::with_capacity(self.reference.len() + self.prediction.len());
        all.extend_from_slice(&self.reference);
        all.extend_from_slice(&self.prediction);
        percentile(&mut all, 0.95)
    }

    /// Mean of the mean distances of the two directions.
    ///
    /// # Source
    /// medpy and panoptica, `assd`.
    pub fn average(&self) -> f64 {
        let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
        f64::midpoint(mean(&self.reference), mean(&self.prediction))
    }

    /// Mean of the fractions of either border that lie within `tolerance_mm` of the other.
    ///
    /// # Source
    /// panoptica, `_nsd_from_pair`; borders count by voxel, not by area.
    pub fn nsd(&self, tolerance_mm: f64) -> f64 {
        let within = |v: &[f64]| v.iter().filter(|&&d| d <= tolerance_mm).count() as f64 / v.len() as f64;
        let beyond = |v: &[f64]| v.iter().filter(|&&d| d > tolerance_mm).count() as f64 / v.len() as f64;
        let hit = within(&self.reference) + within(&self.prediction);
        hit / (hit + beyond(&self.reference) + beyond(&self.prediction) + f64::MIN_POSITIVE)
    }
}

/// Squared distance in mm² from every voxel of `from` to the nearest of `to`, both indices into `[z, y, x]`.
///
/// Surfaces of a reference and a prediction mostly lie within a few voxels of each other, so that the neighbourhood is
/// searched first, nearest voxels before farther ones. What is left is compared voxel by voxel if it is little, else a
/// distance transform of the whole box is cheaper.
pub(crate) fn nearest(from: &[usize], to: &[usize], shape: [usize; 3], spacing: [f64; 3]) -> Vec<f64> {
    let mut found = vec![f64::INFINITY; from.len()];
    if to.is_empty() {
        return found;
    }
    let voxels: usize = shape.iter().product();
    let few = |left: usize| left.saturating_mul(to.len()) <= 12 * voxels;
    let mut left: Vec<usize> = (0..from.len()).collect();
    if from.len() * to.len() > 4096 {
        search_near(from, to, shape, spacing, &mut found, &mut left);
    }
    if left.is_empty() {
        return found;
    }
    if few(left.len()) {
        let place = |i: usize| {
            let zyx = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
            [0, 1, 2].map(|a| zyx[a] as f64)
        };
        let targets: Vec<[f64; 3]> = to.iter().map(|&i| place(i)).collect();
        for which in left {
            let p = place(from[which]);
            found[which] = targets.iter().fold(f64::INFINITY, |least, q| {
                least.min(squared([0, 1, 2].map(|a| (p[a] - q[a]) * spacing[a])))
            });
        }
        return found;
    }
    let mut seeds = vec![false; voxels];
    for &i in to {
        seeds[i] = true;
    }
    let distances = squared_distances(&seeds, shape, spacing);
    for which in left {
        found[which] = distances[from[which]];
    }
    found
}

fn squared([z, y, x]: [f64; 3]) -> f64 {
    x * x + y * y + z * z
}

/// Voxels looked at around each voxel, along every axis.
const REACH: usize = 6;

/// Finds the nearest voxels within reach; `left` keeps those of `from` that found none, or whose search was given up
/// because the distance transform had become cheaper.
fn search_near(
    from: &[usize],
    to: &[usize],
    shape: [usize; 3],
    spacing: [f64; 3],
    found: &mut [f64],
    left: &mut Vec<usize>,
) {
    // With a margin of the reach around it, a step never leaves the array.
    let wide = shape.map(|n| n + 2 * REACH);
    let index = |i: usize| {
        let [z, y, x] = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
        ((z + REACH) * wide[1] + y + REACH) * wide[2] + x + REACH
    };
    let mut seeds = vec![false; wide.iter().product()];
    for &i in to {
        seeds[index(i)] = true;
    }
    let starts: Vec<usize> = from.iter().map(|&i| index(i)).collect();
    let offsets = offsets_within_reach(wide, spacing);
    let voxels: usize = shape.iter().product();
    let mut looks = 0;
    for some in offsets.chunks(32) {
        left.retain(|&which| {
            let start = starts[which];
            let hit = some.iter().find(|(step, _)| seeds[start.wrapping_add_signed(*step)]);
            if let Some(&(_, distance)) = hit {
                found[which] = distance;
            }
            hit.is_none()
        });
        looks += left.len() * some.len();
        if left.is_empty() || looks > 2 * voxels {
            break;
        }
    }
}

/// Steps in memory and squared distances of all voxels that are nearer than any beyond the reach, nearest first.
fn offsets_within_reach(wide: [usize; 3], spacing: [f64; 3]) -> Vec<(isize, f64)> {
    let reach = REACH.cast_signed();
    let smallest = spacing.iter().copied().fold(f64::INFINITY, f64::min);
    let limit = ((REACH + 1) as f64 * smallest).powi(2);
    let mut offsets = Vec::with_capacity((2 * REACH + 1).pow(3));
    for z in -reach..=reach {
        for y in -reach..=reach {
            for x in -reach..=reach {
                let [dz, dy, dx] = [z, y, x];
                let distance =
                    squared([dz as f64 * spacing[0], dy as f64 * spacing[1], dx as f64 * spacing[2]]);
                if distance < limit {
                    offsets.push(((dz * wide[1].cast_signed() + dy) * wide[2].cast_signed() + dx, distance));
                }
            }
        }
    }
    offsets.sort_by(|a, b| a.1.total_cmp(&b.1));
    offsets
}

/// Percentile with linear interpolation; `q` is a fraction. Reorders `values`; NaN if there are none.
///
/// # Source
/// numpy, `percentile` with its default method.
pub fn percentile(values: &mut [f64], q: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let position = last as f64 * q;
    let low = (position.floor() as usize).min(last);
    let weight = position - low as f64;
    let (_, &mut a, above) = values.select_nth_unstable_by(low, f64::total_cmp);
    let b = above.iter().copied().min_by(f64::total_cmp).unwrap_or(a);
    // numpy's lerp, which rounds symmetrically; infinite neighbours must not become NaN.
    if a.to_bits() == b.to_bits() || weight == 0.0 {
        a
    } else if weight >= 0.5 {
        b - (b - a) * (1.0 - weight)
    } else {
        a + (b - a) * weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two masks of one shape that are not empty.
    pub(crate) fn pairs() -> impl Strategy<Value = (Vec<bool>, Vec<bool>, [usize; 3])> {
        [2..7usize, 2..7usize, 2..8usize].prop_flat_map(|shape| {
            let mask = move || {
                prop::collection::vec(prop::bool::weighted(0.4), shape.iter().product::<usize>()).prop_map(
                    |mut mask| {
                        mask[0] = true;
                        mask
                    },
                )
            };
            (mask(), mask(), Just(shape))
        })
    }

    /// Some voxels in a long box, near and far.
    fn sparse_pairs() -> impl Strategy<Value = (Vec<bool>, Vec<bool>, [usize; 3])> {
        [8..20usize, 8..20usize, 20..40usize].prop_flat_map(|shape| {
            let mask = move |density: f64| {
                prop::collection::vec(prop::bool::weighted(density), shape.iter().product::<usize>())
                    .prop_map(|mut mask| {
                        mask[0] = true;
                        mask
                    })
            };
            (mask(0.05), prop_oneof![mask(0.0005), mask(0.02)], Just(shape))
        })
    }

    proptest! {
        #[test]
        fn distances_are_those_of_all_border_pairs((a, b, shape) in pairs(), thick in 0.5..3.0f64) {
            let spacing = [thick, 1.0, 0.75];
            let found = SurfaceDistances::between(&a, &b, shape, spacing).expect("not empty");
            let place = |i: usize| [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
            let edge = |mask: &[bool]| -> Vec<usize> {
                (0..mask.len()).filter(|&i| mask[i] && {
                    let p = place(i);
                    (0..3).any(|k| [-1, 1].iter().any(|&s| {
                        let mut q = p;
                        match p[k].checked_add_signed(s).filter(|&v| v < shape[k]) {
                            None => true,
                            Some(v) => { q[k] = v; !mask[(q[0] * shape[1] + q[1]) * shape[2] + q[2]] }
                        }
                    }))
                }).collect()
            };
            let (from, to) = (edge(&a), edge(&b));
            for (d, &i) in found.reference.iter().zip(&from) {
                let least = to.iter().map(|&j| {
                    let (p, q) = (place(i), place(j));
                    (0..3).map(|k| ((p[k] as f64 - q[k] as f64) * spacing[k]).powi(2)).sum::<f64>().sqrt()
                }).fold(f64::INFINITY, f64::min);
                prop_assert!((d - least).abs() < 1e-12);
            }
            prop_assert_eq!((found.reference.len(), found.prediction.len()), (from.len(), to.len()));
        }

        #[test]
        fn all_ways_of_measuring_agree((a, b, shape) in prop_oneof![pairs(), sparse_pairs()], thick in 0.3..3.0f64) {
            let spacing = [thick, 1.0, 0.9];
            let (from, to) = (border(&a, shape), border(&b, shape));
            let direct = nearest(&from, &to, shape, spacing);
            let mut seeds = vec![false; a.len()];
            for &i in &to { seeds[i] = true; }
            let transform = squared_distances(&seeds, shape, spacing);
            for (d, &i) in direct.iter().zip(&from) {
                prop_assert!((d - transform[i]).abs() < 1e-12, "{} {}", d, transform[i]);
            }
        }

        #[test]
        fn swapping_the_masks_swaps_the_directions((a, b, shape) in pairs()) {
            let one = SurfaceDistances::between(&a, &b, shape, [1.0; 3]).expect("not empty");
            let two = SurfaceDistances::between(&b, &a, shape, [1.0; 3]).expect("not empty");
            prop_assert_eq!(&one.reference, &two.prediction);
            prop_assert_eq!(one.hd95().to_bits(), two.hd95().to_bits());
            prop_assert!((one.nsd(1.0) - two.nsd(1.0)).abs() < 1e-15);
        }

        #[test]
        fn distances_grow_with_the_spacing((a, b, shape) in pairs(), factor in 0.25..4.0f64) {
            let one = SurfaceDistances::between(&a, &b, shape, [1.0, 2.0, 0.5]).expect("not empty");
            let two = SurfaceDistances::between(&a, &b, shape, [1.0, 2.0, 0.5].map(|s| s * factor)).expect("not empty");
            prop_assert!((one.hd95() * factor - two.hd95()).abs() < 1e-9);
            prop_assert!((one.average() * factor - two.average()).abs() < 1e-9);
        }

        #[test]
        fn percentiles_lie_between_their_neighbours(mut values in prop::collection::vec(0.0..9.0f64, 1..40)) {
            let found = percentile(&mut values.clone(), 0.95);
            values.sort_by(f64::total_cmp);
            let position = 0.95 * (values.len() - 1) as f64;
            let (low, high) = (values[position.floor() as usize], values[position.ceil() as usize]);
            prop_assert!(low <= found && found <= high);
            prop_assert!((found - (low + (high - low) * position.fract())).abs() < 1e-12);
        }
    }

    #[test]
    fn a_mask_is_at_no_distance_from_itself() {
        let mask = [true, false, true, true, false, false, true, true];
        let d = SurfaceDistances::between(&mask, &mask, [2, 2, 2], [1.0; 3]).expect("not empty");
        assert_eq!((d.hd95(), d.average(), d.nsd(0.0)), (0.0, 0.0, 1.0));
        assert!(SurfaceDistances::between(&mask, &[false; 8], [2, 2, 2], [1.0; 3]).is_none());
    }
}
