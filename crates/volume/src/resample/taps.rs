//! Orders 0 and 1: two voxels and two weights for every output index of an axis.

use super::{Flavour, Order};

/// For every output index of an axis the two input indices and their weights.
#[derive(Debug)]
pub(super) struct Taps {
    /// Input indices; equal at the borders and for order 0.
    pub(super) index: Vec<[usize; 2]>,
    /// Their weights, which add up to 1.
    pub(super) weight: Vec<[f64; 2]>,
    /// The input index order 0 takes.
    pub(super) nearest: Vec<usize>,
    /// Whether output is input.
    identity: bool,
}

impl Taps {
    /// Taps for `to` outputs on an axis of `from` inputs; half-pixel centres, the border repeated.
    ///
    /// # Source
    /// scipy, `NI_ZoomShift` with `grid_mode` and mode `nearest`; torch, `area_pixel_compute_source_index`, whose
    /// coordinates are f32.
    pub(super) fn new(from: usize, to: usize, order: Order, flavour: Flavour) -> Taps {
        let last = from - 1;
        let zoom = from as f64 / to as f64;
        let mut taps = Taps {
            index: Vec::with_capacity(to),
            weight: Vec::with_capacity(to),
            nearest: Vec::with_capacity(to),
            identity: from == to,
        };
        for o in 0..to {
            let (low, weight, nearest) = match flavour {
                Flavour::Scipy => {
                    // Not clamped, but the indices are: both taps of a voxel beyond the border read the border.
                    let x = (o as f64 + 0.5) * zoom - 0.5;
                    let low = x.floor();
                    // scipy takes the last weight as what is missing to 1, which is not exactly the fraction.
                    let first = 1.0 - (x - low);
                    (low, [first, 1.0 - first], (x + 0.5).floor())
                }
                Flavour::Torch => {
                    let zoom = from as f32 / to as f32;
                    let x = (zoom * (o as f32 + 0.5) - 0.5).max(0.0);
                    let low = x.floor().min(last as f32);
                    let second = (x - low).clamp(0.0, 1.0);
                    let weight = [f64::from(1.0 - second), f64::from(second)];
                    (f64::from(low), weight, f64::from((x + 0.5).floor()))
                }
            };
            let inside = |i: f64| (i.max(0.0) as usize).min(last);
            let nearest = inside(nearest);
            taps.nearest.push(nearest);
            if order == Order::Nearest {
                taps.index.push([nearest; 2]);
                taps.weight.push([1.0, 0.0]);
            } else {
                taps.index.push([inside(low), inside(low + 1.0)]);
                taps.weight.push(weight);
            }
        }
        taps
    }
}

/// One output slice (axis 0): the four input rows of every output row are blended, then the row is resized.
pub(super) fn plane(
    data: &[f32],
    from: [usize; 3],
    taps: &[Taps; 3],
    z: usize,
    out: &mut [f32],
    row: &mut Vec<f64>,
) {
    let [_, ny, nx] = from;
    row.resize(nx, 0.0);
    let at = |z: usize, y: usize| &data[(z * ny + y) * nx..][..nx];
    let ([z0, z1], [wz0, wz1]) = (taps[0].index[z], taps[0].weight[z]);
    let x_taps = &taps[2];
    for (y, out) in out.chunks_exact_mut(x_taps.index.len()).enumerate() {
        let ([y0, y1], [wy0, wy1]) = (taps[1].index[y], taps[1].weight[y]);
        // Taps without weight are not read: this is what makes order 0 and equal sizes exact, NaN neighbours included.
        let rows = [(z0, y0, wz0 * wy0), (z0, y1, wz0 * wy1), (z1, y0, wz1 * wy0), (z1, y1, wz1 * wy1)];
        let mut first = true;
        for (z, y, w) in rows.into_iter().filter(|r| r.2 != 0.0) {
            let values = at(z, y);
            if first {
                row.iter_mut().zip(values).for_each(|(r, &v)| *r = w * f64::from(v));
                first = false;
            } else {
                row.iter_mut().zip(values).for_each(|(r, &v)| *r += w * f64::from(v));
            }
        }
        if x_taps.identity {
            out.iter_mut().zip(&*row).for_each(|(o, &r)| *o = r as f32);
            continue;
        }
        for ((o, &[i, j]), &[wi, wj]) in out.iter_mut().zip(&x_taps.index).zip(&x_taps.weight) {
            *o = if wj == 0.0 { row[i] } else { wi * row[i] + wj * row[j] } as f32;
        }
    }
}
