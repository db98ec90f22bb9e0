//! Resampling of images, logits and label maps to another grid, as nnU-Net does it.
//!
//! Everything works on one channel at a time, a slice in `[z, y, x]` order, and computes in f64. Orders 0 and 1 need
//! two voxels per axis and are evaluated row by row without intermediate volumes; so the exporter can ask for a few
//! slices of every class ([`resample_slabs`]) and get the very numbers of the whole-volume call. Orders 2 and 3 are
//! separable: one pass per axis, each filtering and evaluating a line at once. Left out: anti-aliasing and orders 4 and 5.
//!
//! Besides, [`affine`] takes an image to any other grid by one interpolation, as registration needs it.

mod affine;
mod labels;
mod spline;
mod taps;

pub use affine::{Interpolation, affine, affine_labels};
pub use labels::{LabelRule, resample_labels};

use rayon::prelude::*;
use std::ops::Range;
use taps::Taps;

/// Interpolation along an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Order 0: the nearest voxel.
    Nearest,
    /// Order 1.
    Linear,
    /// Order 2: quadratic B-spline through the voxels.
    Quadratic,
    /// Order 3: cubic B-spline through the voxels.
    Cubic,
}

/// Whose arithmetic is followed where orders 0 and 1 leave room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// scikit-image's `resize` and scipy's `map_coordinates`: nnU-Net's `resample_data_or_seg_to_shape`.
    Scipy,
    /// `torch.nn.functional.interpolate` (orders 0 and 1 only): nnU-Net's `resample_torch_fornnunet`.
    Torch,
}

/// How a channel is resampled.
///
/// First every slice across `separate_axis` is resized with `order`, then the slices are interpolated along that axis
/// with `order_z`; without a separate axis all three axes are resized at once with `order`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResampleOptions {
    /// Interpolation of the slices, or of all axes where none is separate.
    pub order: Order,
    /// Interpolation along the separate axis.
    pub order_z: Order,
    /// The axis that is treated separately: see [`separate_axis`].
    pub separate_axis: Option<usize>,
    /// Whose arithmetic.
    pub flavour: Flavour,
}

impl ResampleOptions {
    /// The same order along all axes, scipy's arithmetic.
    pub fn uniform(order: Order) -> Self {
        ResampleOptions { order, order_z: Order::Nearest, separate_axis: None, flavour: Flavour::Scipy }
    }

    /// The order along `axis`.
    fn along(&self, axis: usize) -> Order {
        if self.separate_axis == Some(axis) { self.order_z } else { self.order }
    }
}

/// The axis that is resampled separately because its spacing is much larger than the others.
///
/// `force`: `Some(true)` always, `Some(false)` never, `None` where one of the grids has a largest spacing of more than
/// `threshold` times its smallest. Where two or three axes share the largest spacing, none is separate.
///
/// # Source
/// nnU-Net v2, `determine_do_sep_z_and_axis`.
pub fn separate_axis(
    force: Option<bool>,
    threshold: f64,
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
) -> Option<usize> {
    let max = |s: [f64; 3]| s[0].max(s[1]).max(s[2]);
    let anisotropic = |s: [f64; 3]| max(s) / s[0].min(s[1]).min(s[2]) > threshold;
    let spacing = match force {
        Some(true) => spacing_mm,
        None if anisotropic(spacing_mm) => spacing_mm,
        None if anisotropic(new_spacing_mm) => new_spacing_mm,
        _ => return None,
    };
    #[expect(
        clippy::float_cmp,
        reason = "nnU-Net compares exactly: an axis is coarse if it has the largest spacing"
    )]
    let mut coarse = (0..3).filter(|&a| max(spacing) / spacing[a] == 1.0);
    match (coarse.next(), coarse.next()) {
        (Some(axis), None) => Some(axis),
        _ => None,
    }
}

/// Voxels per axis of a grid of `new_spacing_mm` that covers the same extent; at least 1 per axis.
///
/// # Source
/// nnU-Net v2, `compute_new_shape` (rounds half to even; fails where we say 1).
pub fn resampled_shape(shape: [usize; 3], spacing_mm: [f64; 3], new_spacing_mm: [f64; 3]) -> [usize; 3] {
    [0, 1, 2].map(|a| {
        let size = (spacing_mm[a] / new_spacing_mm[a] * shape[a] as f64).round_ties_even();
        (size as usize).max(1)
    })
}

/// Resamples one channel to another shape; the same shape gives a copy.
///
/// # Shapes
/// `data` holds `from` voxels in `[z, y, x]` order, the result holds `to`.
///
/// # Panics
/// If `data` does not hold `from` voxels, a shape has an axis of no voxels, or `options` asks torch for orders 2 or 3.
///
/// # Source
/// nnU-Net v2, `resample_data_or_seg` and `resample_torch_fornnunet` without `is_seg`.
pub fn resample(data: &[f32], from: [usize; 3], to: [usize; 3], options: &ResampleOptions) -> Vec<f32> {
    check(data.len(), from, to, options);
    if from == to {
        return data.to_vec();
    }
    let small = options.order <= Order::Linear
        && (options.order_z <= Order::Linear || options.separate_axis.is_none());
    if small {
        return small_order(data, from, to, options);
    }
    let mut mid_shape = to;
    if let Some(axis) = options.separate_axis {
        mid_shape[axis] = from[axis];
    }
    let mid = match options.order {
        Order::Quadratic | Order::Cubic => {
            spline_order(data, from, mid_shape, options.separate_axis, options.order)
        }
        _ => small_order(data, from, mid_shape, options),
    };
    match options.separate_axis {
        Some(axis) if mid_shape != to && options.order_z > Order::Linear => {
            spline::pass(&mid, mid_shape, axis, to[axis], options.order_z)
        }
        Some(_) if mid_shape != to => small_order(&mid, mid_shape, to, options),
        _ => mid,
    }
}

/// Resamples several channels a few slices at a time: `f` gets a range of slices (axis 0) of the result and for every
/// channel their voxels.
///
/// With orders 0 and 1 only those slices are in memory, and they hold exactly what [`resample`] gives; with orders 2 and 3
/// every channel is resampled first. Ranges ascend and cover the result; the first error of `f` ends it.
///
/// # Shapes
/// Every channel holds `from` voxels; `f`'s slices hold `range.len() * to[1] * to[2]`.
///
/// # Errors
/// The first error of `f`.
///
/// # Panics
/// As [`resample`].
pub fn resample_slabs<E>(
    channels: &[&[f32]],
    from: [usize; 3],
    to: [usize; 3],
    options: &ResampleOptions,
    mut f: impl FnMut(Range<usize>, &[&[f32]]) -> Result<(), E>,
) -> Result<(), E> {
    for channel in channels {
        check(channel.len(), from, to, options);
    }
    let plane = to[1] * to[2];
    let depth = SLAB_VOXELS.div_ceil(plane).min(to[0]);
    let ranges = (0..to[0]).step_by(depth).map(|z| z..(z + depth).min(to[0]));
    let splines =
        options.order > Order::Linear || options.separate_axis.is_some() && options.order_z > Order::Linear;
    if from == to || splines {
        let resampled: Vec<Vec<f32>> = if from == to {
            Vec::new()
        } else {
            channels.iter().map(|c| resample(c, from, to, options)).collect()
        };
        for range in ranges {
            let whole = |c: usize| resampled.get(c).map_or(channels[c], Vec::as_slice);
            let slab: Vec<&[f32]> =
                (0..channels.len()).map(|c| &whole(c)[range.start * plane..range.end * plane]).collect();
            f(range, &slab)?;
        }
        return Ok(());
    }
    let taps = axis_taps(from, to, options);
    let mut buffers = vec![vec![0f32; depth * plane]; channels.len()];
    for range in ranges {
        let jobs: Vec<(&[f32], usize, &mut [f32])> = buffers
            .iter_mut()
            .zip(channels)
            .flat_map(|(buffer, channel)| {
                buffer.chunks_mut(plane).zip(range.clone()).map(|(out, z)| (*channel, z, out))
            })
            .collect();
        jobs.into_par_iter()
            .for_each_init(Vec::new, |row, (channel, z, out)| taps::plane(channel, from, &taps, z, out, row));
        let slab: Vec<&[f32]> = buffers.iter().map(|b| &b[..range.len() * plane]).collect();
        f(range, &slab)?;
    }
    Ok(())
}

/// About how many voxels of a channel [`resample_slabs`] makes at once: enough to occupy all threads, 2 MiB.
const SLAB_VOXELS: usize = 1 << 19;

fn check(len: usize, from: [usize; 3], to: [usize; 3], options: &ResampleOptions) {
    assert_eq!(len, from.iter().product::<usize>(), "data of another size than its shape {from:?}");
    assert!(from.iter().chain(&to).all(|&n| n > 0), "a shape without voxels: from {from:?} to {to:?}");
    let torch_spline =
        options.flavour == Flavour::Torch && options.order.max(options.order_z) > Order::Linear;
    assert!(!torch_spline, "torch has no orders 2 and 3 in three dimensions");
}

fn axis_taps(from: [usize; 3], to: [usize; 3], options: &ResampleOptions) -> [Taps; 3] {
    [0, 1, 2].map(|a| Taps::new(from[a], to[a], options.along(a), options.flavour))
}

/// Orders 0 and 1 along every axis that changes.
fn small_order(data: &[f32], from: [usize; 3], to: [usize; 3], options: &ResampleOptions) -> Vec<f32> {
    let taps = axis_taps(from, to, options);
    let mut out = vec![0f32; to.iter().product()];
    out.par_chunks_mut(to[1] * to[2])
        .enumerate()
        .for_each_init(Vec::new, |row, (z, out)| taps::plane(data, from, &taps, z, out, row));
    out
}

/// Order 2 or 3 along every axis but `separate`; clipped to the range of the input, of each slice where an axis is separate.
fn spline_order(
    data: &[f32],
    from: [usize; 3],
    to: [usize; 3],
    separate: Option<usize>,
    order: Order,
) -> Vec<f32> {
    let bounds = ranges(data, from, separate);
    let (mut out, mut shape) = (None, from);
    for axis in (0..3).filter(|&a| from[a] != to[a]) {
        let passed = spline::pass(out.as_deref().unwrap_or(data), shape, axis, to[axis], order);
        shape[axis] = to[axis];
        out = Some(passed);
    }
    let mut out = out.unwrap_or_else(|| data.to_vec());
    out.par_chunks_mut(shape[2]).enumerate().for_each(|(row, values)| {
        let (z, y) = (row / shape[1], row % shape[1]);
        for (x, v) in values.iter_mut().enumerate() {
            let (lo, hi) = bounds[separate.map_or(0, |a| [z, y, x][a])];
            *v = if *v < lo {
                lo
            } else if *v > hi {
                hi
            } else {
                *v
            };
        }
    });
    out
}

/// Least and greatest value of the volume, or of every slice across an axis; NaN is passed over.
fn ranges(data: &[f32], shape: [usize; 3], separate: Option<usize>) -> Vec<(f32, f32)> {
    let count = separate.map_or(1, |a| shape[a]);
    let nothing = || vec![(f32::INFINITY, f32::NEG_INFINITY); count];
    data.par_chunks(shape[2])
        .enumerate()
        .fold(nothing, |mut bounds, (row, values)| {
            let (z, y) = (row / shape[1], row % shape[1]);
            for (x, &v) in values.iter().enumerate() {
                let (lo, hi) = &mut bounds[separate.map_or(0, |a| [z, y, x][a])];
                (*lo, *hi) = (lo.min(v), hi.max(v));
            }
            bounds
        })
        .reduce(nothing, |mut a, b| {
            for (a, b) in a.iter_mut().zip(b) {
                *a = (a.0.min(b.0), a.1.max(b.1));
            }
            a
        })
}

#[cfg(test)]
mod tests;
