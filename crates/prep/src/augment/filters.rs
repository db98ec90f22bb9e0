//! Filters over neighbouring voxels: median and sharpening.

use glioseg_kernels::vectorised;

use super::random::{Draw, PatchRng};
use super::{Layout, Patch};

/// Replaces every voxel by the median of a cube (2d: a square) around it.
#[derive(Debug, Clone, PartialEq)]
pub struct MedianFilter {
    /// Smallest edge of the cube in voxels.
    pub smallest: usize,
    /// Largest edge.
    pub largest: usize,
    /// Probability per channel.
    pub p_channel: f64,
}

/// What [`MedianFilter`] drew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MedianParams {
    /// Edge per channel.
    pub sizes: Vec<Option<usize>>,
    /// The window has one slice.
    pub planar: bool,
}

impl MedianFilter {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> MedianParams {
        let size = |rng: &mut PatchRng| rng.between(self.smallest as isize, self.largest as isize) as usize;
        MedianParams { sizes: rng.per_channel(layout.channels, self.p_channel, size), planar: layout.planar }
    }
}

impl MedianParams {
    /// Filters; the border repeats the edge voxel and reflects, windows of even size reach further to the left.
    ///
    /// # Source
    /// batchgeneratorsv2, `MedianFilterTransform`; `scipy.ndimage.median_filter`.
    pub fn apply(&self, patch: &mut Patch) {
        let shape = patch.shape;
        for (channel, &size) in patch.selected(&self.sizes) {
            let window = [if self.planar { 1 } else { size }, size, size];
            let filtered = median(channel, shape, window);
            channel.copy_from_slice(&filtered);
        }
    }
}

/// A number whose order as an integer is that of the float.
fn key(v: f32) -> i32 {
    let bits = v.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

fn value(key: i32) -> f32 {
    f32::from_bits((key ^ (((key >> 31) as u32) >> 1) as i32) as u32)
}

/// The voxels of the window along an axis of `n`, for every voxel one after the other.
fn window_indices(n: usize, size: usize) -> Vec<usize> {
    let period = 2 * n as isize;
    let reflect = |i: isize| {
        let i = i.rem_euclid(period);
        (if i < n as isize { i } else { period - 1 - i }) as usize
    };
    // scipy's window of even size begins size / 2 before the voxel.
    (0..(n + size - 1) as isize).map(|i| reflect(i - (size / 2) as isize)).collect()
}

fn median(channel: &[f32], shape: [usize; 3], window: [usize; 3]) -> Vec<f32> {
    let [_, ny, nx] = shape;
    let indices = [0, 1, 2].map(|a| window_indices(shape[a], window[a]));
    let keys: Vec<i32> = channel.iter().map(|&v| key(v)).collect();
    let rank = window.iter().product::<usize>() / 2;
    // Columns of the window: all its voxels with one x, gathered once for all windows over that x.
    let column = window[0] * window[1];
    let mut columns = vec![0i32; indices[2].len() * column];
    let mut sorted = Vec::new();
    let mut out = Vec::with_capacity(channel.len());
    for z in 0..shape[0] {
        for y in 0..ny {
            for (x, &sx) in indices[2].iter().enumerate() {
                let column = &mut columns[x * column..(x + 1) * column];
                let mut k = 0;
                for &sz in &indices[0][z..z + window[0]] {
                    for &sy in &indices[1][y..y + window[1]] {
                        column[k] = keys[(sz * ny + sy) * nx + sx];
                        k += 1;
                    }
                }
            }
            for x in 0..nx {
                sorted.clear();
                sorted.extend_from_slice(&columns[x * column..(x + window[2]) * column]);
                out.push(value(*sorted.select_nth_unstable(rank).1));
            }
        }
    }
    out
}

/// Adds a multiple of the Laplacian.
#[derive(Debug, Clone, PartialEq)]
pub struct Sharpen {
    /// The multiple.
    pub strength: Draw,
    /// Probability per channel.
    pub p_channel: f64,
}

/// What [`Sharpen`] drew.
#[derive(Debug, Clone, PartialEq)]
pub struct SharpenParams {
    /// Per channel.
    pub strengths: Vec<Option<f32>>,
}

impl Sharpen {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> SharpenParams {
        let strengths =
            rng.per_channel(layout.channels, self.p_channel, |rng| self.strength.sample(rng) as f32);
        SharpenParams { strengths }
    }
}

impl SharpenParams {
    /// Adds `strength * (6 x - the six neighbours)`; the border repeats the edge voxel, so that one slice gives
    /// `4 x - the four neighbours`.
    ///
    /// # Source
    /// batchgeneratorsv2, `SharpeningTransform` without clamping.
    pub fn apply(&self, patch: &mut Patch) {
        let [nz, ny, nx] = patch.shape;
        let mut before = Vec::new();
        for (channel, &strength) in patch.selected(&self.strengths) {
            before.clear();
            before.extend_from_slice(channel);
            let row = |z: usize, y: usize| &before[(z * ny + y) * nx..][..nx];
            vectorised(
                #[inline(always)]
                || {
                    for (r, out) in channel.chunks_exact_mut(nx).enumerate() {
                        let (z, y) = (r / ny, r % ny);
                        let here = row(z, y);
                        let (up, down) = (row(z.saturating_sub(1), y), row((z + 1).min(nz - 1), y));
                        let (front, back) = (row(z, y.saturating_sub(1)), row(z, (y + 1).min(ny - 1)));
                        for x in 0..nx {
                            let sides = here[x.saturating_sub(1)] + here[(x + 1).min(nx - 1)];
                            let others = up[x] + down[x] + front[x] + back[x] + sides;
                            out[x] = here[x] + strength * (6.0 * here[x] - others);
                        }
                    }
                },
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_keep_the_order_and_the_value() {
        let values = [f32::NEG_INFINITY, -3.5, -1e-30, -0.0, 0.0, 1e-30, 2.0, f32::INFINITY];
        assert!(values.windows(2).all(|w| key(w[0]) < key(w[1])));
        assert!(values.iter().all(|&v| value(key(v)).to_bits() == v.to_bits()));
    }

    #[test]
    fn medians_are_scipys() {
        // scipy.ndimage.median_filter([[1, 5, 2], [8, 3, 9]], size=2) and size=3.
        let p = |size| {
            let mut p = Patch::new([1, 2, 3], vec![1.0, 5.0, 2.0, 8.0, 3.0, 9.0], vec![0; 6]).expect("fits");
            MedianParams { sizes: vec![Some(size)], planar: true }.apply(&mut p);
            p.data
        };
        assert_eq!(p(2), [1.0, 5.0, 5.0, 8.0, 5.0, 5.0]);
        assert_eq!(p(3), [3.0, 3.0, 3.0, 5.0, 5.0, 5.0]);
    }

    #[test]
    fn a_planar_median_equals_the_cube_over_one_slice() {
        let data: Vec<f32> = (0..42).map(|i| (i * 29 % 23) as f32).collect();
        for size in 2..6 {
            let run = |planar| {
                let mut p = Patch::new([1, 6, 7], data.clone(), vec![0; 42]).expect("fits");
                MedianParams { sizes: vec![Some(size)], planar }.apply(&mut p);
                p
            };
            assert_eq!(run(true), run(false), "size {size}");
        }
    }

    #[test]
    fn sharpening_raises_a_peak_and_keeps_a_ramps_middle() {
        let mut p = Patch::new([1, 3, 3], vec![0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0], vec![0; 9])
            .expect("fits");
        SharpenParams { strengths: vec![Some(0.5)] }.apply(&mut p);
        assert_eq!(p.data, [0.0, -0.5, 0.0, -0.5, 3.0, -0.5, 0.0, -0.5, 0.0]);
        let mut p = Patch::new([1, 1, 5], vec![0.0, 1.0, 2.0, 3.0, 4.0], vec![0; 5]).expect("fits");
        SharpenParams { strengths: vec![Some(0.5)] }.apply(&mut p);
        assert_eq!(p.data, [-0.5, 1.0, 2.0, 3.0, 4.5]);
    }
}
