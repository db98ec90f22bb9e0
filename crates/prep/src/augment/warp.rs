//! Sampling a patch at transformed coordinates.
//!
//! One row of the patch at a time: its coordinates, then every channel of the image and of the segmentation there.
//! Stretches whose neighbours all lie inside the source, which is nearly everything, take a path without checks per
//! neighbour. The linear path repeats torch's arithmetic in f32 step by step, because ties between labels depend on it.

use glioseg_kernels::vectorised;

use super::math::floor;
use super::spline;
use super::{Patch, Source};
use half::f16;

/// Which coordinates of the source the voxels of a patch are sampled at.
pub(super) struct Coordinates {
    matrix: [[f64; 3]; 3],
    pub(super) patch: [usize; 3],
    full: [usize; 3],
    offsets: Option<[Vec<f32>; 3]>,
    /// What moves the mean of all coordinates to the centre.
    shift: [f64; 3],
}

impl Coordinates {
    pub(super) fn new(
        matrix: [[f64; 3]; 3],
        patch: [usize; 3],
        source: &Source<'_>,
        offsets: Option<[Vec<f32>; 3]>,
    ) -> Coordinates {
        // The grid is centred, so only the displacements can move the mean.
        let mean = offsets.as_ref().map_or([0.0; 3], |fields| {
            [0, 1, 2].map(|a| {
                assert_eq!(fields[a].len(), patch.iter().product::<usize>(), "one displacement per voxel");
                fields[a].iter().map(|&v| f64::from(v)).sum::<f64>() / fields[a].len() as f64
            })
        });
        let shift = matrix.map(|row| -(row[0] * mean[0] + row[1] * mean[1] + row[2] * mean[2]));
        Coordinates { matrix, patch, full: source.full, offsets, shift }
    }

    /// Position on axis `a` of the centred grid.
    fn grid(&self, a: usize, i: usize) -> f64 {
        i as f64 - (self.patch[a] as f64 - 1.0) / 2.0
    }

    /// The displacements of a row.
    fn displacement(&self, a: usize, row: usize) -> Option<&[f32]> {
        let nx = self.patch[2];
        self.offsets.as_ref().map(|fields| &fields[a][row * nx..(row + 1) * nx])
    }

    /// Coordinates of a row in the enlarged patch, in torch's arithmetic.
    #[inline(always)]
    fn row_f32(&self, row: usize, x_grid: &[f32], out: &mut [Vec<f32>; 3]) {
        let ny = self.patch[1];
        let (gz, gy) = (self.grid(0, row / ny) as f32, self.grid(1, row % ny) as f32);
        for (d, out) in out.iter_mut().enumerate() {
            let [a, b, c] = self.matrix[d].map(|v| v as f32);
            let (shift, size) = (self.shift[d] as f32, self.full[d] as f32);
            let half = size / 2.0;
            let to_pixel = |v: f32| (((v + shift) / half + 1.0) * size - 1.0) / 2.0;
            if let Some(((oz, oy), ox)) =
                self.displacement(0, row).zip(self.displacement(1, row)).zip(self.displacement(2, row))
            {
                for x in 0..out.len() {
                    let v = a * (gz + oz[x]) + b * (gy + oy[x]) + c * (x_grid[x] + ox[x]);
                    out[x] = to_pixel(v);
                }
            } else {
                let first = a * gz + b * gy;
                for (v, g) in out.iter_mut().zip(x_grid) {
                    *v = to_pixel(first + c * g);
                }
            }
        }
    }

    /// Coordinates of a row in the enlarged patch, in f64.
    #[inline(always)]
    pub(super) fn row_f64(&self, row: usize, out: &mut [Vec<f64>; 3]) {
        let ny = self.patch[1];
        let (gz, gy) = (self.grid(0, row / ny), self.grid(1, row % ny));
        let gx = -(self.patch[2] as f64 - 1.0) / 2.0;
        for (d, out) in out.iter_mut().enumerate() {
            let [a, b, c] = self.matrix[d];
            let centre = self.full[d] as f64 / 2.0 - 0.5 + self.shift[d];
            if let Some(((oz, oy), ox)) =
                self.displacement(0, row).zip(self.displacement(1, row)).zip(self.displacement(2, row))
            {
                for x in 0..out.len() {
                    let (dz, dy, dx) = (f64::from(oz[x]), f64::from(oy[x]), f64::from(ox[x]));
                    out[x] = a * (gz + dz) + b * (gy + dy) + c * (gx + x as f64 + dx) + centre;
                }
            } else {
                for (x, v) in out.iter_mut().enumerate() {
                    *v = a * gz + b * gy + c * (gx + x as f64) + centre;
                }
            }
        }
    }
}

/// Slices and rows that are sampled together, channel by channel: what they need of a channel stays in the cache.
const BLOCK: [usize; 2] = [4, 16];

/// The coordinates of a row and their neighbours.
struct RowTaps {
    /// Which row of the patch.
    row: usize,
    /// Coordinates in the enlarged patch.
    at: [Vec<f32>; 3],
    /// Lower neighbour per axis, relative to what was read.
    low: [Vec<i32>; 3],
    /// Weight of the upper neighbour per axis.
    up: [Vec<f32>; 3],
    /// Index of the lower neighbour, where all neighbours were read.
    index: Vec<u32>,
    /// All neighbours were read.
    inside: Vec<bool>,
}

impl RowTaps {
    fn new(n: usize) -> RowTaps {
        RowTaps {
            row: 0,
            at: [(); 3].map(|()| vec![0.0; n]),
            low: [(); 3].map(|()| vec![0; n]),
            up: [(); 3].map(|()| vec![0.0; n]),
            index: vec![0; n],
            inside: vec![false; n],
        }
    }

    #[inline(always)]
    #[expect(clippy::needless_bitwise_bool, reason = "without branches the loop vectorises")]
    fn fill(&mut self, shape: [usize; 3], origin: [usize; 3], planar: bool) {
        for a in 0..3 {
            let origin = origin[a] as i32;
            // Far outside is far outside, however far.
            let limit = (shape[a] + origin as usize + 4) as f32;
            for ((low, up), &v) in self.low[a].iter_mut().zip(&mut self.up[a]).zip(&self.at[a]) {
                let v = v.max(-4.0).min(limit);
                let (whole, index) = floor(v);
                *low = index - origin;
                *up = v - whole;
            }
        }
        let [nz, ny, nx] = shape.map(|n| n as i32);
        // Planar transforms keep to their slice and need no upper neighbour along axis 0.
        let top = if planar { nz } else { nz - 1 };
        for x in 0..self.index.len() {
            let (z, y, c) = (self.low[0][x], self.low[1][x], self.low[2][x]);
            self.inside[x] = (z >= 0) & (z < top) & (y >= 0) & (y < ny - 1) & (c >= 0) & (c < nx - 1);
            self.index[x] = z.wrapping_mul(ny).wrapping_add(y).wrapping_mul(nx).wrapping_add(c) as u32;
        }
    }

    /// Calls `f` with every maximal stretch and whether it is inside.
    #[inline(always)]
    fn stretches(&self, mut f: impl FnMut(std::ops::Range<usize>, bool)) {
        let mut start = 0;
        while start < self.inside.len() {
            let inside = self.inside[start];
            let len = self.inside[start..].iter().take_while(|&&i| i == inside).count();
            f(start..start + len, inside);
            start += len;
        }
    }

    /// The neighbours of position `x`, lower before upper, x fastest: index if it was read, and weight as torch has it.
    fn neighbours(&self, x: usize, shape: [usize; 3]) -> [(Option<usize>, f32); 8] {
        let low = [0, 1, 2].map(|a| self.low[a][x]);
        let weights = weights([0, 1, 2].map(|a| self.up[a][x]));
        std::array::from_fn(|corner| {
            let bit = [corner >> 2 & 1, corner >> 1 & 1, corner & 1];
            let at = [0, 1, 2].map(|a| low[a] + bit[a] as i32);
            let read = (0..3).all(|a| (0..shape[a] as i32).contains(&at[a]));
            let index =
                read.then(|| (at[0] as usize * shape[1] + at[1] as usize) * shape[2] + at[2] as usize);
            (index, weights[corner])
        })
    }
}

/// Samples as batchgeneratorsv2: image linear with zeros outside, label with the largest score, `pad` outside.
pub(super) fn linear(
    source: &Source<'_>,
    coordinates: &Coordinates,
    planar: bool,
    pad: i16,
    out: &mut Patch,
) {
    vectorised(
        #[inline(always)]
        || {
            if planar {
                linear_rows::<true>(source, coordinates, pad, out);
            } else {
                linear_rows::<false>(source, coordinates, pad, out);
            }
        },
    );
}

#[inline(always)]
fn linear_rows<const PLANAR: bool>(
    source: &Source<'_>,
    coordinates: &Coordinates,
    pad: i16,
    out: &mut Patch,
) {
    let from = source.patch;
    let (voxels, [nz, ny, nx]) = (out.voxels(), out.shape);
    let x_grid: Vec<f32> = (0..nx).map(|x| coordinates.grid(2, x) as f32).collect();
    let mut block: Vec<RowTaps> = (0..BLOCK[0] * BLOCK[1]).map(|_| RowTaps::new(nx)).collect();
    for z in (0..nz).step_by(BLOCK[0]) {
        for y in (0..ny).step_by(BLOCK[1]) {
            let rows =
                (z..(z + BLOCK[0]).min(nz)).flat_map(|z| (y..(y + BLOCK[1]).min(ny)).map(move |y| (z, y)));
            let mut filled = 0;
            for ((z, y), taps) in rows.zip(&mut block) {
                taps.row = z * ny + y;
                coordinates.row_f32(taps.row, &x_grid, &mut taps.at);
                if PLANAR {
                    // torch samples every slice on its own.
                    taps.at[0].fill(z as f32);
                }
                taps.fill(from.shape, source.origin, PLANAR);
                filled += 1;
            }
            for (src, out) in from.data.chunks_exact(from.voxels()).zip(out.data.chunks_exact_mut(voxels)) {
                for taps in &block[..filled] {
                    image_row::<PLANAR>(src, from.shape, taps, &mut out[taps.row * nx..][..nx]);
                }
            }
            for (src, out) in from.seg.chunks_exact(from.voxels()).zip(out.seg.chunks_exact_mut(voxels)) {
                for taps in &block[..filled] {
                    label_row::<PLANAR>(src, source, pad, taps, &mut out[taps.row * nx..][..nx]);
                }
            }
        }
    }
}

#[inline(always)]
fn image_row<const PLANAR: bool>(src: &[f32], shape: [usize; 3], taps: &RowTaps, out: &mut [f32]) {
    let (row, plane) = (shape[2], shape[1] * shape[2]);
    let span = if PLANAR { row + 2 } else { plane + row + 2 };
    taps.stretches(
        #[inline(always)]
        |range, inside| {
            if inside {
                let [uz, uy, ux] = [0, 1, 2].map(|a| &taps.up[a][range.clone()]);
                let index = &taps.index[range.clone()];
                let out = &mut out[range];
                for x in 0..out.len() {
                    let first = index[x] as usize;
                    let s = &src[first..first + span];
                    let low = s[0] + ux[x] * (s[1] - s[0]);
                    let high = s[row] + ux[x] * (s[row + 1] - s[row]);
                    let front = low + uy[x] * (high - low);
                    out[x] = if PLANAR {
                        front
                    } else {
                        let t = &s[plane..];
                        let low = t[0] + ux[x] * (t[1] - t[0]);
                        let high = t[row] + ux[x] * (t[row + 1] - t[row]);
                        front + uz[x] * (low + uy[x] * (high - low) - front)
                    };
                }
            } else {
                for x in range {
                    let near = taps.neighbours(x, shape);
                    out[x] = near.iter().filter_map(|&(i, w)| i.map(|i| src[i] * w)).sum();
                }
            }
        },
    );
}

#[inline(always)]
fn label_row<const PLANAR: bool>(
    src: &[i16],
    source: &Source<'_>,
    pad: i16,
    taps: &RowTaps,
    out: &mut [i16],
) {
    let shape = source.patch.shape;
    let (row, plane) = (shape[2], shape[1] * shape[2]);
    let span = if PLANAR { row + 2 } else { plane + row + 2 };
    let nearest = |x: usize| {
        let i = [0, 1, 2].map(|a| taps.at[a][x].round_ties_even() as i32 - source.origin[a] as i32);
        let read = (0..3).all(|a| (0..shape[a] as i32).contains(&i[a]));
        if read { src[(i[0] as usize * shape[1] + i[1] as usize) * shape[2] + i[2] as usize] } else { pad }
    };
    taps.stretches(
        #[inline(always)]
        |range, inside| {
            if !inside {
                for x in range {
                    let near = taps.neighbours(x, shape);
                    let labels = near.map(|n| n.0.map_or(pad, |i| src[i]));
                    out[x] = best_label(labels, near.map(|n| n.1), || nearest(x));
                }
                return;
            }
            for x in range {
                let first = taps.index[x] as usize;
                let s = &src[first..first + span];
                let labels = if PLANAR {
                    // The other slice has no weight.
                    [s[0], s[1], s[row], s[row + 1], s[0], s[1], s[row], s[row + 1]]
                } else {
                    let t = &s[plane..];
                    [s[0], s[1], s[row], s[row + 1], t[0], t[1], t[row], t[row + 1]]
                };
                let mut differ = 0;
                for label in labels {
                    differ |= label ^ labels[0];
                }
                out[x] = if differ == 0 {
                    labels[0]
                } else {
                    best_label(labels, weights([0, 1, 2].map(|a| taps.up[a][x])), || nearest(x))
                };
            }
        },
    );
}

/// The weights of the eight neighbours, lower before upper, x fastest, in torch's order of multiplication.
#[inline(always)]
fn weights([uz, uy, ux]: [f32; 3]) -> [f32; 8] {
    let (lz, ly, lx) = (1.0 - uz, 1.0 - uy, 1.0 - ux);
    [
        lx * ly * lz,
        ux * ly * lz,
        lx * uy * lz,
        ux * uy * lz,
        lx * ly * uz,
        ux * ly * uz,
        lx * uy * uz,
        ux * uy * uz,
    ]
}

/// The label with the largest score, the lowest of several; but if the nearest neighbour is one of them, that one.
///
/// Scores are thousandths, rounded to half precision.
///
/// # Source
/// batchgeneratorsv2, `SpatialTransform._apply_to_segmentation`.
#[inline(always)]
fn best_label(labels: [i16; 8], weights: [f32; 8], nearest: impl FnOnce() -> i16) -> i16 {
    let score = |label: i16| {
        let mut sum = 0f32;
        for k in 0..8 {
            sum += if labels[k] == label { 1000.0 * weights[k] } else { 0.0 };
        }
        sum
    };
    let first = labels[0];
    let other = labels.into_iter().find(|&l| l != first).unwrap_or(first);
    if labels.iter().all(|&l| l == first || l == other) {
        // Rounding moves a score by a quarter at most.
        let difference = score(first) - score(other);
        if difference.abs() > 1.0 {
            return if difference > 0.0 { first } else { other };
        }
    }
    let score = |label| f16::from_f32(score(label));
    let mut best = (i16::MAX, f16::NEG_INFINITY);
    let mut tied = false;
    for (k, &label) in labels.iter().enumerate() {
        if labels[..k].contains(&label) {
            continue;
        }
        let s = score(label);
        if s > best.1 {
            best = (label, s);
            tied = false;
        } else if s == best.1 {
            best.0 = best.0.min(label);
            tied = true;
        }
    }
    if tied {
        let nearest = nearest();
        if labels.contains(&nearest) && score(nearest) == best.1 {
            return nearest;
        }
    }
    best.0
}

/// Samples as batchgenerators: image by cubic spline, 0 outside; label with the largest linear score, `pad` outside.
pub(super) fn cubic(source: &Source<'_>, coordinates: &Coordinates, pad: i16, out: &mut Patch) {
    let from = source.patch;
    assert_eq!(from.shape, source.full, "a spline needs the whole enlarged patch");
    let (voxels, nx) = (out.voxels(), out.shape[2]);
    let mut coefficients = Vec::new();
    vectorised(
        #[inline(always)]
        || {
            let mut at = [(); 3].map(|()| vec![0f64; nx]);
            for (src, out) in from.data.chunks_exact(from.voxels()).zip(out.data.chunks_exact_mut(voxels)) {
                coefficients.clear();
                coefficients.extend_from_slice(src);
                spline::prefilter(&mut coefficients, from.shape);
                for (row, out) in out.chunks_exact_mut(nx).enumerate() {
                    coordinates.row_f64(row, &mut at);
                    spline::evaluate(&coefficients, from.shape, &at, out);
                }
            }
            for (src, out) in from.seg.chunks_exact(from.voxels()).zip(out.seg.chunks_exact_mut(voxels)) {
                for (row, out) in out.chunks_exact_mut(nx).enumerate() {
                    coordinates.row_f64(row, &mut at);
                    for (x, out) in out.iter_mut().enumerate() {
                        *out = scipy_label(src, from.shape, [at[0][x], at[1][x], at[2][x]], pad);
                    }
                }
            }
        },
    );
}

/// The label with the largest linear score at a coordinate; `pad` outside.
///
/// # Source
/// batchgenerators 0.25, `_resample_seg_by_argmax` on `scipy.ndimage.map_coordinates`.
fn scipy_label(src: &[i16], shape: [usize; 3], at: [f64; 3], pad: i16) -> i16 {
    if (0..3).any(|a| at[a] < 0.0 || at[a] > (shape[a] - 1) as f64) {
        return pad;
    }
    let low = at.map(|v| v as usize);
    let high = [0, 1, 2].map(|a| (low[a] + 1).min(shape[a] - 1));
    let up = [0, 1, 2].map(|a| at[a] - low[a] as f64);
    let index = |z: usize, y: usize, x: usize| (z * shape[1] + y) * shape[2] + x;
    let near: [(i16, f64); 8] = std::array::from_fn(|corner| {
        let bit = [corner >> 2 & 1, corner >> 1 & 1, corner & 1];
        let i = [0, 1, 2].map(|a| if bit[a] == 1 { high[a] } else { low[a] });
        let side = |a: usize| if bit[a] == 1 { up[a] } else { 1.0 - up[a] };
        (src[index(i[0], i[1], i[2])], side(0) * side(1) * side(2))
    });
    if near.iter().all(|n| n.0 == near[0].0) {
        return near[0].0;
    }
    let score = |label: i16| near.iter().filter(|n| n.0 == label).map(|n| n.1).sum::<f64>();
    let mut best = (i16::MAX, f64::NEG_INFINITY);
    for (label, _) in near {
        let s = score(label);
        if s > best.1 || (s.total_cmp(&best.1).is_eq() && label < best.0) {
            best = (label, s);
        }
    }
    let i = at.map(|v| (v + 0.5).floor() as usize);
    let nearest = src[index(i[0], i[1], i[2])];
    if score(nearest).total_cmp(&best.1).is_eq() { nearest } else { best.0 }
}
