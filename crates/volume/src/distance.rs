//! Exact Euclidean distances to the nearest voxel of a mask, in linear time.
//!
//! Separable lower envelopes of parabolas (Felzenszwalb and Huttenlocher; Maurer, Qi and Raghavan): rows along x and
//! y are done slice by slice while a slice is in the cache, then columns along z. Squares stay in f64, so that
//! distances of any spacing equal those of scipy's `distance_transform_edt` but for the last bit.

use rayon::prelude::*;

/// Squared distance in mm² from every voxel of an array `[z, y, x]` to the nearest `true` voxel of `seeds`; infinite
/// if there is none.
///
/// # Shapes and units
/// `shape` counts voxels along z, y, x; `spacing` is mm along the same axes.
///
/// # Panics
/// If `seeds` has another length than `shape` asks for, or a spacing is not positive.
///
/// # Source
/// The square of `scipy.ndimage.distance_transform_edt(~seeds, sampling=spacing)`.
///
/// ```
/// use glioseg_volume::distance::squared_distances;
/// let d = squared_distances(&[true, false, false, false], [1, 2, 2], [1.0, 2.0, 3.0]);
/// assert_eq!(d, [0.0, 9.0, 4.0, 13.0]);
/// ```
pub fn squared_distances(seeds: &[bool], shape: [usize; 3], spacing: [f64; 3]) -> Vec<f64> {
    assert_eq!(seeds.len(), shape.iter().product::<usize>(), "seeds and shape {shape:?}");
    assert!(spacing.iter().all(|&s| s > 0.0), "spacing {spacing:?} is not positive");
    let [depth, height, width] = shape;
    let mut out = vec![f64::INFINITY; seeds.len()];
    if seeds.is_empty() {
        return out;
    }
    let slice = height * width;
    out.par_chunks_mut(slice).zip(seeds.par_chunks(slice)).for_each_init(
        || (Envelope::new(height, spacing[1]), vec![0.0; slice]),
        |(envelope, columns), (out, seeds)| {
            if !seeds.contains(&true) {
                return;
            }
            for y in 0..height {
                row_distances(&seeds[y * width..][..width], spacing[2], &mut out[y * width..][..width]);
            }
            columns_of(out, width, width, columns, height);
            for column in columns.chunks_exact_mut(height) {
                envelope.transform(column, spacing[1]);
            }
            for (x, column) in columns.chunks_exact(height).enumerate() {
                for (y, &value) in column.iter().enumerate() {
                    out[y * width + x] = value;
                }
            }
        },
    );
    if depth > 1 {
        along_z(&mut out, shape, spacing[0]);
    }
    out
}

/// Copies `width` columns of `height` values, rows `stride` apart, into contiguous columns.
fn columns_of(data: &[f64], stride: usize, width: usize, columns: &mut [f64], height: usize) {
    for y in 0..height {
        for x in 0..width {
            columns[x * height + y] = data[y * stride + x];
        }
    }
}

/// Squared distances along one row.
fn row_distances(seeds: &[bool], spacing: f64, out: &mut [f64]) {
    if !seeds.contains(&true) {
        out.fill(f64::INFINITY);
        return;
    }
    let mut last: Option<usize> = None;
    for (x, value) in out.iter_mut().enumerate() {
        if seeds[x] {
            last = Some(x);
        }
        *value = last.map_or(f64::INFINITY, |s| (x - s) as f64);
    }
    let mut next: Option<usize> = None;
    for (x, value) in out.iter_mut().enumerate().rev() {
        if seeds[x] {
            next = Some(x);
        }
        let steps = next.map_or(f64::INFINITY, |s| (s - x) as f64).min(*value);
        *value = (steps * spacing) * (steps * spacing);
    }
}

/// The last pass, over the columns of every `y`, in parallel.
fn along_z(data: &mut [f64], shape: [usize; 3], spacing: f64) {
    let [depth, height, width] = shape;
    // Every y owns the rows (z, y) of all z, which are apart in memory: hand out rows, grouped by y.
    let mut rows: Vec<Vec<&mut [f64]>> = (0..height).map(|_| Vec::with_capacity(depth)).collect();
    for (i, row) in data.chunks_exact_mut(width).enumerate() {
        rows[i % height].push(row);
    }
    rows.into_par_iter().for_each_init(
        || (Envelope::new(depth, spacing), vec![0.0; depth * width]),
        |(envelope, columns), mut rows| {
            for (z, row) in rows.iter().enumerate() {
                for (x, &value) in row.iter().enumerate() {
                    columns[x * depth + z] = value;
                }
            }
            for column in columns.chunks_exact_mut(depth) {
                envelope.transform(column, spacing);
            }
            for (z, row) in rows.iter_mut().enumerate() {
                for (x, value) in row.iter_mut().enumerate() {
                    *value = columns[x * depth + z];
                }
            }
        },
    );
}

/// Scratch of the lower envelope of parabolas along one line.
struct Envelope {
    /// Index and height of the parabolas that are part of the envelope.
    vertex: Vec<usize>,
    height: Vec<f64>,
    /// Where each takes over from the one before, in voxels.
    from: Vec<f64>,
    /// `0.5 / (distance * spacing²)`, so that the loop needs no division.
    inverse: Vec<f64>,
}

impl Envelope {
    fn new(length: usize, spacing: f64) -> Self {
        Self {
            vertex: vec![0; length],
            height: vec![0.0; length],
            from: vec![0.0; length],
            inverse: (0..length).map(|d| 0.5 / (d as f64 * spacing * spacing)).collect(),
        }
    }

    /// Replaces `f(q)` by the minimum over `p` of `f(p) + ((q - p) * spacing)²`.
    fn transform(&mut self, line: &mut [f64], spacing: f64) {
        let mut count = 0;
        for (q, &f) in line.iter().enumerate() {
            if f.is_infinite() {
                continue;
            }
            let mut start = f64::NEG_INFINITY;
            while count > 0 {
                let (p, g) = (self.vertex[count - 1], self.height[count - 1]);
                // Rounding moves the border by less than it takes to change a distance.
                start = (f - g) * self.inverse[q - p] + 0.5 * (q + p) as f64;
                if start > self.from[count - 1] {
                    break;
                }
                count -= 1;
                start = f64::NEG_INFINITY;
            }
            self.vertex[count] = q;
            self.height[count] = f;
            self.from[count] = start;
            count += 1;
        }
        if count == 0 {
            return;
        }
        let mut k = 0;
        for (q, value) in line.iter_mut().enumerate() {
            while k + 1 < count && self.from[k + 1] < q as f64 {
                k += 1;
            }
            let steps = (q as f64 - self.vertex[k] as f64) * spacing;
            *value = self.height[k] + steps * steps;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn brute_force(seeds: &[bool], shape: [usize; 3], spacing: [f64; 3]) -> Vec<f64> {
        let place = |i: usize| [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
        (0..seeds.len())
            .map(|i| {
                let a = place(i);
                let to = |j: usize| -> f64 {
                    let b = place(j);
                    (0..3).map(|k| ((a[k] as f64 - b[k] as f64) * spacing[k]).powi(2)).sum()
                };
                (0..seeds.len()).filter(|&j| seeds[j]).map(to).fold(f64::INFINITY, f64::min)
            })
            .collect()
    }

    proptest! {
        #[test]
        fn distances_are_those_of_trying_every_seed(
            shape in [1..7usize, 1..8usize, 1..9usize],
            spacing in prop::array::uniform3(prop::sample::select(vec![0.5, 1.0, 0.9375, 3.0, 1.1])),
            density in prop::sample::select(vec![0.0, 0.02, 0.2, 0.7]),
            seed in any::<u64>(),
        ) {
            let mut state = seed;
            let seeds: Vec<bool> = (0..shape.iter().product::<usize>()).map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                ((state >> 33) as f64 / f64::from(1u32 << 31)) < density
            }).collect();
            let found = squared_distances(&seeds, shape, spacing);
            for (a, b) in found.iter().zip(brute_force(&seeds, shape, spacing)) {
                prop_assert!(a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-12 * b, "{} {}", a, b);
            }
        }
    }

    #[test]
    fn without_seeds_everything_is_infinitely_far() {
        assert!(squared_distances(&[false; 24], [2, 3, 4], [1.0; 3]).iter().all(|d| d.is_infinite()));
        assert!(squared_distances(&[], [0, 3, 4], [1.0; 3]).is_empty());
    }
}
