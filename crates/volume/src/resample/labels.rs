//! Resampling of label maps: every label's indicator is interpolated, the best one wins.

use super::taps::Taps;
use super::{Flavour, Order, ResampleOptions, spline};
use rayon::prelude::*;

/// Which label a voxel gets from the interpolated indicators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelRule {
    /// The label with the largest indicator; of equal ones that of the nearest voxel, else the smallest.
    ///
    /// # Source
    /// batchgenerators 0.25, `resize_segmentation` (nnU-Net v2).
    Best,
    /// The largest label whose indicator is at least a half, else 0.
    ///
    /// # Source
    /// batchgenerators up to 0.24, `resize_segmentation` (nnU-Net v1).
    Half,
}

/// Resamples a label map to another shape; the same shape gives a copy.
///
/// Orders 0 and 1 give nnU-Net's labels exactly, ties included. With orders 2 and 3 equal scores differ by rounding alone, so
/// that voxels on a tie may get the other label; no plan of nnU-Net's has it.
///
/// # Shapes
/// `labels` holds `from` voxels in `[z, y, x]` order, the result holds `to`.
///
/// # Panics
/// If `labels` does not hold `from` voxels, a shape has an axis of no voxels, or `options` asks for torch's arithmetic.
///
/// # Source
/// nnU-Net v2, `resample_data_or_seg` with `is_seg`.
pub fn resample_labels<T>(
    labels: &[T],
    from: [usize; 3],
    to: [usize; 3],
    options: &ResampleOptions,
    rule: LabelRule,
) -> Vec<T>
where
    T: Copy + Ord + Default + Send + Sync,
{
    super::check(labels.len(), from, to, options);
    assert_eq!(options.flavour, Flavour::Scipy, "label maps are only resampled as scipy does");
    if from == to {
        return labels.to_vec();
    }
    let Some(axis) = options.separate_axis else {
        return resize(labels, from, to, options.order, rule, None);
    };
    let mut mid_shape = to;
    mid_shape[axis] = from[axis];
    let mid = resize(labels, from, mid_shape, options.order, rule, Some(axis));
    if mid_shape == to {
        return mid;
    }
    match options.order_z {
        Order::Nearest => resize(&mid, mid_shape, to, Order::Nearest, rule, None),
        order => along_axis(&mid, mid_shape, axis, to[axis], order),
    }
}

/// Distinct values, ascending.
fn distinct<T: Copy + Ord + Send + Sync>(labels: &[T]) -> Vec<T> {
    let add = |mut set: Vec<T>, &v: &T| {
        if let Err(at) = set.binary_search(&v) {
            set.insert(at, v);
        }
        set
    };
    labels
        .par_chunks(1 << 16)
        .map(|chunk| chunk.iter().fold(Vec::new(), add))
        .reduce(Vec::new, |a, b| b.iter().fold(a, add))
}

/// Resizes all axes with one order; sizes along `slices` are equal and its slices do not see each other.
fn resize<T>(
    labels: &[T],
    from: [usize; 3],
    to: [usize; 3],
    order: Order,
    rule: LabelRule,
    slices: Option<usize>,
) -> Vec<T>
where
    T: Copy + Ord + Default + Send + Sync,
{
    let taps = [0, 1, 2].map(|a| Taps::new(from[a], to[a], order.min(Order::Linear), Flavour::Scipy));
    let mut out = vec![T::default(); to.iter().product()];
    let planes = out.par_chunks_mut(to[1] * to[2]).enumerate();
    match order {
        Order::Nearest => planes.for_each(|(z, out)| {
            let mut out = out.iter_mut();
            for &y in &taps[1].nearest {
                let row = &labels[(taps[0].nearest[z] * from[1] + y) * from[2]..][..from[2]];
                out.by_ref().zip(&taps[2].nearest).for_each(|(o, &x)| *o = row[x]);
            }
        }),
        Order::Linear => planes.for_each(|(z, out)| {
            for (y, out) in out.chunks_exact_mut(to[2]).enumerate() {
                for (x, out) in out.iter_mut().enumerate() {
                    *out = best_of_corners(labels, from, &taps, [z, y, x], rule);
                }
            }
        }),
        Order::Quadratic | Order::Cubic => {
            return spline_order(labels, [from, to], &taps, rule, slices, order);
        }
    }
    out
}

/// Order 1: the scores of the labels at the eight corners, added up in scipy's order so that ties are its ties.
fn best_of_corners<T: Copy + Ord + Default>(
    labels: &[T],
    from: [usize; 3],
    taps: &[Taps; 3],
    at: [usize; 3],
    rule: LabelRule,
) -> T {
    let [tz, ty, tx] = taps;
    let [z, y, x] = at;
    let read = |z: usize, y: usize, x: usize| labels[(z * from[1] + y) * from[2] + x];
    let first = read(tz.index[z][0], ty.index[y][0], tx.index[x][0]);
    let mut scores = [(first, 0f64); 8];
    let mut count = 1;
    for dz in 0..2 {
        for dy in 0..2 {
            for dx in 0..2 {
                let label = read(tz.index[z][dz], ty.index[y][dy], tx.index[x][dx]);
                let weight = tz.weight[z][dz] * ty.weight[y][dy] * tx.weight[x][dx];
                if let Some(score) = scores[..count].iter_mut().find(|s| s.0 == label) {
                    score.1 += weight;
                } else {
                    scores[count] = (label, weight);
                    count += 1;
                }
            }
        }
    }
    if count == 1 {
        return first;
    }
    let scores = &mut scores[..count];
    for score in scores.iter_mut() {
        score.1 = score.1.min(1.0);
    }
    pick(scores, rule, || read(tz.nearest[z], ty.nearest[y], tx.nearest[x]))
}

fn pick<T: Copy + Ord + Default>(scores: &[(T, f64)], rule: LabelRule, nearest: impl Fn() -> T) -> T {
    if rule == LabelRule::Half {
        return scores.iter().filter(|s| s.1 >= 0.5).map(|s| s.0).max().unwrap_or_default();
    }
    let top = scores.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
    #[expect(clippy::float_cmp, reason = "only exact ties are ties")]
    let tied = || scores.iter().filter(|s| s.1 == top).map(|s| s.0);
    if tied().count() > 1 && top > 0.0 {
        let nearest = nearest();
        if tied().any(|label| label == nearest) {
            return nearest;
        }
    }
    tied().min().unwrap_or_default()
}

/// Orders 2 and 3: one indicator volume after the other.
fn spline_order<T>(
    labels: &[T],
    [from, to]: [[usize; 3]; 2],
    taps: &[Taps; 3],
    rule: LabelRule,
    slices: Option<usize>,
    order: Order,
) -> Vec<T>
where
    T: Copy + Ord + Default + Send + Sync,
{
    let values = distinct(labels);
    let indicators: Vec<Vec<f32>> = values
        .iter()
        .map(|&label| {
            let indicator: Vec<f32> = labels.par_iter().map(|&l| f32::from(u8::from(l == label))).collect();
            super::spline_order(&indicator, from, to, slices, order)
        })
        .collect();
    (0..to.iter().product::<usize>())
        .into_par_iter()
        .map_init(Vec::new, |scores, i| {
            scores.clear();
            scores.extend(values.iter().zip(&indicators).map(|(&label, v)| (label, f64::from(v[i]))));
            let (z, y, x) = (i / (to[1] * to[2]), i / to[2] % to[1], i % to[2]);
            pick(scores, rule, || {
                labels[(taps[0].nearest[z] * from[1] + taps[1].nearest[y]) * from[2] + taps[2].nearest[x]]
            })
        })
        .collect()
}

/// Orders 1, 2 and 3 along the separate axis: a label is set where its indicator rounds to 1, later labels win.
fn along_axis<T>(labels: &[T], from: [usize; 3], axis: usize, to: usize, order: Order) -> Vec<T>
where
    T: Copy + Ord + Default + Send + Sync,
{
    let mut shape = from;
    shape[axis] = to;
    let mut out = vec![T::default(); shape.iter().product()];
    for label in distinct(labels) {
        let indicator: Vec<f32> = labels.par_iter().map(|&l| f32::from(u8::from(l == label))).collect();
        let resized = match order {
            Order::Quadratic | Order::Cubic => spline::pass(&indicator, from, axis, to, order),
            _ => super::small_order(&indicator, from, shape, &ResampleOptions::uniform(order)),
        };
        out.par_iter_mut().zip(resized).for_each(|(o, v)| {
            if v > 0.5 {
                *o = label;
            }
        });
    }
    out
}
