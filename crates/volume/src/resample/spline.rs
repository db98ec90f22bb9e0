//! Orders 2 and 3: the quadratic or cubic B-spline through the voxels, one axis at a time.

use rayon::prelude::*;

use super::Order;

/// Lines that are filtered side by side; 16 f32 are one cache line.
const LANES: usize = 16;
type Lanes = [f64; LANES];

/// Coefficients kept beyond each end of a line; evaluation reaches no further.
pub(super) const MARGIN: usize = 2;

/// What makes coefficients of samples: the pole of the filter, and its gain.
#[derive(Clone, Copy)]
struct Filter {
    pole: f64,
    gain: f64,
}

impl Filter {
    /// # Source
    /// scipy, `get_filter_poles`, `filter_gain`.
    fn new(order: Order) -> Filter {
        match order {
            Order::Quadratic => Filter { pole: 8f64.sqrt() - 3.0, gain: 8.0 },
            _ => Filter { pole: 3f64.sqrt() - 2.0, gain: 6.0 },
        }
    }
}

/// For every output index the first of four coefficients (counted from the margin) and their weights; order 2 has three.
struct Weights {
    start: Vec<usize>,
    weight: Vec<[f64; 4]>,
}

impl Weights {
    /// Half-pixel centres; coordinates are not clamped: the line continues beyond its ends with the values there.
    fn new(from: usize, to: usize, order: Order) -> Weights {
        let zoom = from as f64 / to as f64;
        let mut weights = Weights { start: Vec::with_capacity(to), weight: Vec::with_capacity(to) };
        for o in 0..to {
            let x = (o as f64 + 0.5) * zoom - 0.5;
            if order == Order::Quadratic {
                let nearest = (x + 0.5).floor();
                let t = x - nearest;
                let w0 = 0.5 * (0.5 - t) * (0.5 - t);
                let w1 = 0.75 - t * t;
                weights.start.push((nearest + MARGIN as f64 - 1.0) as usize);
                weights.weight.push([w0, w1, 1.0 - w0 - w1, 0.0]);
                continue;
            }
            let low = x.floor();
            let t = x - low;
            let s = 1.0 - t;
            let (w0, w3) = (s * s * s / 6.0, t * t * t / 6.0);
            let w1 = (t * t * (t - 2.0) * 3.0 + 4.0) / 6.0;
            // `low` is at least -1, so this is at least 0.
            weights.start.push((low + MARGIN as f64 - 1.0) as usize);
            weights.weight.push([w0, w1, 1.0 - w0 - w1 - w3, w3]);
        }
        weights
    }
}

/// Turns samples into spline coefficients in place; `line[MARGIN..MARGIN + n]` are the samples, the margins are filled.
///
/// The line is taken to continue for ever with its end values. nnU-Net repeats them 12 times and then reflects, which
/// differs by less than 1e-13 of the range.
///
/// # Source
/// Unser, *Splines: a perfect fit for signal and image processing* (1999), box 2; scipy, `spline_filter1d`.
fn filter(line: &mut [Lanes], Filter { pole, gain }: Filter) {
    let n = line.len() - 2 * MARGIN;
    let (first, last) = (MARGIN, MARGIN + n - 1);
    let (mut before, mut after) = ([0.0; LANES], [0.0; LANES]);
    for l in 0..LANES {
        before[l] = gain / (1.0 - pole) * line[first][l];
        after[l] = gain / (1.0 - pole) * line[last][l];
    }
    let mut causal = before;
    for values in &mut line[first..=last] {
        for l in 0..LANES {
            causal[l] = gain * values[l] + pole * causal[l];
        }
        *values = causal;
    }
    // Beyond the end the causal part decays from its last value to `after`; the sum over it has a closed form.
    for (k, factor) in [(0, 1.0), (1, pole), (2, pole * pole)] {
        for l in 0..LANES {
            let excess = (causal[l] - after[l]) * factor;
            line[last + k][l] = -pole * (after[l] / (1.0 - pole) + excess / (1.0 - pole * pole));
        }
    }
    let mut anticausal = line[last];
    for values in line[first..last].iter_mut().rev() {
        for l in 0..LANES {
            anticausal[l] = pole * (anticausal[l] - values[l]);
        }
        *values = anticausal;
    }
    for k in (0..MARGIN).rev() {
        for l in 0..LANES {
            anticausal[l] = pole * (anticausal[l] - before[l]);
        }
        line[k] = anticausal;
    }
}

/// The value at output index `o`.
fn evaluate(line: &[Lanes], weights: &Weights, o: usize) -> Lanes {
    let (start, w) = (weights.start[o], weights.weight[o]);
    // Three taps of order 2 may be the last of the line.
    let taps = [0, 1, 2, 3].map(|k| &line[(start + k).min(line.len() - 1)]);
    let mut out = [0.0; LANES];
    for l in 0..LANES {
        out[l] = w[0] * taps[0][l] + w[1] * taps[1][l] + w[2] * taps[2][l] + w[3] * taps[3][l];
    }
    out
}

/// Resizes one axis to `to` voxels.
pub(super) fn pass(src: &[f32], shape: [usize; 3], axis: usize, to: usize, order: Order) -> Vec<f32> {
    let weights = Weights::new(shape[axis], to, order);
    along(src, shape, axis, to, Filter::new(order), |line, o| evaluate(line, &weights, o))
}

/// Coefficients of the cubic B-spline through the voxels, along all axes, with [`MARGIN`] more at each end of each axis.
///
/// # Shapes
/// `[z, y, x]` of `shape` and two margins along every axis.
pub(super) fn coefficients(src: &[f32], shape: [usize; 3]) -> Vec<f32> {
    let (mut values, mut at) = (None, shape);
    for axis in 0..3 {
        let to = shape[axis] + 2 * MARGIN;
        let source = values.as_deref().unwrap_or(src);
        values = Some(along(source, at, axis, to, Filter::new(Order::Cubic), |line, o| line[o]));
        at[axis] = to;
    }
    values.unwrap_or_default()
}

/// Filters every line along an axis and makes `to` values of it, each from the filtered line by `value`.
fn along(
    src: &[f32],
    shape: [usize; 3],
    axis: usize,
    to: usize,
    poles: Filter,
    value: impl Fn(&[Lanes], usize) -> Lanes + Sync,
) -> Vec<f32> {
    let from = shape[axis];
    let mut out = vec![0f32; src.len() / from * to];
    let new_line = || vec![[0.0; LANES]; from + 2 * MARGIN];
    if axis == 2 {
        let blocks = out.par_chunks_mut(LANES * to).zip(src.par_chunks(LANES * from));
        blocks.for_each_init(new_line, |line, (out, src)| {
            for (lane, row) in src.chunks_exact(from).enumerate() {
                line[MARGIN..].iter_mut().zip(row).for_each(|(values, &s)| values[lane] = f64::from(s));
            }
            filter(line, poles);
            for o in 0..to {
                let values = value(line, o);
                for (lane, row) in out.chunks_exact_mut(to).enumerate() {
                    row[o] = values[lane] as f32;
                }
            }
        });
        return out;
    }
    // Every job owns the output rows of one input position across the axis, so that jobs write apart.
    let [nz, ny, nx] = shape;
    let mut jobs: Vec<Vec<&mut [f32]>> = Vec::new();
    if axis == 0 {
        jobs.resize_with(ny, || Vec::with_capacity(to));
        for plane in out.chunks_mut(ny * nx) {
            for (job, row) in jobs.iter_mut().zip(plane.chunks_mut(nx)) {
                job.push(row);
            }
        }
    } else {
        jobs.resize_with(nz, || Vec::with_capacity(to));
        for (job, plane) in jobs.iter_mut().zip(out.chunks_mut(to * nx)) {
            job.extend(plane.chunks_mut(nx));
        }
    }
    jobs.into_par_iter().enumerate().for_each_init(new_line, |line, (i, mut rows)| {
        let (start, step) = if axis == 0 { (i * nx, ny * nx) } else { (i * ny * nx, nx) };
        for x in (0..nx).step_by(LANES) {
            let width = LANES.min(nx - x);
            for (k, values) in line[MARGIN..MARGIN + from].iter_mut().enumerate() {
                let source = &src[start + k * step + x..][..width];
                values.iter_mut().zip(source).for_each(|(v, &s)| *v = f64::from(s));
            }
            filter(line, poles);
            for (o, row) in rows.iter_mut().enumerate() {
                let values = value(line, o);
                row[x..x + width].iter_mut().zip(values).for_each(|(r, v)| *r = v as f32);
            }
        }
    });
    out
}
