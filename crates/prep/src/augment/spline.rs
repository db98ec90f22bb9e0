//! Cubic B-spline interpolation at arbitrary coordinates.

/// `sqrt(3) - 2`.
const POLE: f32 = -0.267_949_2;
/// Terms of the sums at the ends; the pole to this power is below f32's resolution.
const HORIZON: usize = 16;
/// Rows that are filtered side by side along x.
const ROWS: usize = 16;

/// Turns voxels into spline coefficients in place; the image continues mirrored beyond its edges.
///
/// # Source
/// `scipy.ndimage.spline_filter` with `mode='mirror'`.
#[inline(always)]
pub(super) fn prefilter(values: &mut [f32], [nz, ny, nx]: [usize; 3]) {
    let plane = ny * nx;
    if nz > 1 {
        for y in 0..ny {
            filter_rows(values, y * nx, plane, nz, nx);
        }
    }
    if ny > 1 {
        for slice in values.chunks_exact_mut(plane) {
            filter_rows(slice, 0, nx, ny, nx);
        }
    }
    if nx > 1 {
        let mut block = vec![0f32; nx * ROWS];
        for rows in values.chunks_mut(ROWS * nx) {
            for (r, row) in rows.chunks_exact(nx).enumerate() {
                for (x, &v) in row.iter().enumerate() {
                    block[x * ROWS + r] = v;
                }
            }
            filter_rows(&mut block, 0, ROWS, nx, ROWS);
            for (r, row) in rows.chunks_exact_mut(nx).enumerate() {
                for (x, v) in row.iter_mut().enumerate() {
                    *v = block[x * ROWS + r];
                }
            }
        }
    }
}

/// Filters `width` neighbouring lines of `n` voxels, which lie `stride` apart.
#[inline(always)]
fn filter_rows(values: &mut [f32], start: usize, stride: usize, n: usize, width: usize) {
    let at = |k: usize| start + k * stride;
    // Causal part at the first voxel: the mirrored line summed backwards from it.
    let mut first = values[at(0)..at(0) + width].to_vec();
    let mut power = POLE;
    let period = 2 * n - 2;
    for k in 1..=HORIZON.max(2) {
        let k = k % period;
        let k = if k < n { k } else { period - k };
        for (f, v) in first.iter_mut().zip(&values[at(k)..]) {
            *f += power * v;
        }
        power *= POLE;
    }
    for (v, f) in values[at(0)..at(0) + width].iter_mut().zip(&first) {
        *v = 6.0 * f;
    }
    for k in 1..n {
        let (before, now) = values.split_at_mut(at(k));
        for (v, p) in now[..width].iter_mut().zip(&before[at(k - 1)..]) {
            *v = 6.0 * *v + POLE * p;
        }
    }
    let (before, last) = values.split_at_mut(at(n - 1));
    for (v, p) in last[..width].iter_mut().zip(&before[at(n - 2)..]) {
        *v = (POLE * p + *v) * (POLE / (POLE * POLE - 1.0));
    }
    for k in (0..n - 1).rev() {
        let (now, after) = values.split_at_mut(at(k + 1));
        for (v, a) in now[at(k)..].iter_mut().zip(&after[..width]) {
            *v = POLE * (a - *v);
        }
    }
}

/// The weights of the four coefficients around a position `t` after the second.
#[inline(always)]
fn weights(t: f32) -> [f32; 4] {
    let s = 1.0 - t;
    let (w0, w3) = (s * s * s / 6.0, t * t * t / 6.0);
    let w1 = (t * t * (t - 2.0) * 3.0 + 4.0) / 6.0;
    [w0, w1, 1.0 - w0 - w1 - w3, w3]
}

/// The spline along a row of coordinates; 0 outside the image.
///
/// # Source
/// `scipy.ndimage.map_coordinates(order=3, mode='constant')`.
#[inline(always)]
pub(super) fn evaluate(coefficients: &[f32], shape: [usize; 3], at: &[Vec<f64>; 3], out: &mut [f32]) {
    let (row, plane) = (shape[2], shape[1] * shape[2]);
    let last = shape.map(|n| (n - 1) as f64);
    for (x, out) in out.iter_mut().enumerate() {
        let p = [at[0][x], at[1][x], at[2][x]];
        if (0..3).any(|a| p[a] < 0.0 || p[a] > last[a]) {
            *out = 0.0;
            continue;
        }
        // Truncation is the floor of what is not negative.
        let low = p.map(|v| v as usize);
        let [wz, wy, wx] = [0, 1, 2].map(|a| weights((p[a] - low[a] as f64) as f32));
        let mut sum = [0f32; 4];
        if (0..3).all(|a| low[a] >= 1 && low[a] + 2 < shape[a]) {
            let first = (low[0] - 1) * plane + (low[1] - 1) * row + low[2] - 1;
            let block = &coefficients[first..first + 3 * plane + 3 * row + 4];
            for (z, wz) in wz.iter().enumerate() {
                for (y, wy) in wy.iter().enumerate() {
                    let c = &block[z * plane + y * row..][..4];
                    let w = wz * wy;
                    for k in 0..4 {
                        sum[k] += w * c[k];
                    }
                }
            }
        } else {
            let near = [0, 1, 2].map(|a| [0, 1, 2, 3].map(|k| mirrored(low[a] as isize + k - 1, shape[a])));
            for (z, wz) in near[0].iter().zip(wz) {
                for (y, wy) in near[1].iter().zip(wy) {
                    for k in 0..4 {
                        sum[k] += wz * wy * coefficients[z * plane + y * row + near[2][k]];
                    }
                }
            }
        }
        *out = sum[0] * wx[0] + sum[1] * wx[1] + sum[2] * wx[2] + sum[3] * wx[3];
    }
}

fn mirrored(i: isize, n: usize) -> usize {
    if n == 1 {
        return 0;
    }
    let period = 2 * n as isize - 2;
    let i = i.rem_euclid(period);
    (if i < n as isize { i } else { period - i }) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spline_goes_through_the_voxels() {
        for shape in [[5, 7, 20], [1, 3, 2], [40, 2, 1], [17, 33, 18]] {
            let n: usize = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|i| (i * 7919 % 101) as f32 * 0.1 - 4.0).collect();
            let mut c = values.clone();
            prefilter(&mut c, shape);
            let mut worst = 0f32;
            for r in 0..shape[0] * shape[1] {
                let at = [
                    vec![(r / shape[1]) as f64; shape[2]],
                    vec![(r % shape[1]) as f64; shape[2]],
                    (0..shape[2]).map(|x| x as f64).collect(),
                ];
                let mut out = vec![0.0; shape[2]];
                evaluate(&c, shape, &at, &mut out);
                for (o, v) in out.iter().zip(&values[r * shape[2]..]) {
                    worst = worst.max((o - v).abs());
                }
            }
            assert!(worst < 5e-5, "{shape:?}: off by {worst}");
        }
    }
}
