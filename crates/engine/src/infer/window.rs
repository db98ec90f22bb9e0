//! Sliding-window prediction: tiles, mirroring and one running sum.
//!
//! The decision that shaped it: one `f32` sum of weighted logits and one sum of weights serve every tile, fold and mirrored
//! pass, so memory does not grow with their number. nnU-Net keeps the same sums in half precision, which rounds logits where only
//! tile corners contribute; the sums here are not rounded. The order of additions is fixed, so the result does not depend
//! on the number of threads. What the network is stays outside: a closure from a patch to its logits.

use rayon::prelude::*;

use super::{Grid, InferError, gaussian_weights};

/// A prepared case: `data` is `[channels, z, y, x]` of `shape`.
#[derive(Debug, Clone, Copy)]
pub struct Image<'a> {
    /// Values, channel after channel.
    pub data: &'a [f32],
    /// Number of channels.
    pub channels: usize,
    /// Voxels, `[z, y, x]`.
    pub shape: [usize; 3],
}

/// How the window slides.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowOptions {
    /// Voxels of one tile, `[z, y, x]`; a 2D network has one slice.
    pub tile: [usize; 3],
    /// Distance of neighbouring tiles as a fraction of the tile.
    pub step: f64,
    /// Axes of `[z, y, x]` along which the tile is mirrored; every combination is predicted, and the logits averaged.
    pub mirror_axes: Vec<usize>,
}

/// The running sums of one case: weighted logits, and weights.
#[derive(Debug)]
pub struct LogitSum {
    channels: usize,
    grid: Grid,
    sum: Vec<f32>,
    weight: Vec<f32>,
    tile_weights: Vec<f32>,
    mirrors: Vec<Vec<usize>>,
}

/// Every combination of the mirror axes in nnU-Net's order: none, single axes, pairs, all three.
pub fn mirror_combinations(axes: &[usize]) -> Vec<Vec<usize>> {
    let mut axes = axes.to_vec();
    axes.sort_unstable();
    axes.dedup();
    let mut all: Vec<Vec<usize>> = (0..1usize << axes.len())
        .map(|bits| (0..axes.len()).filter(|i| bits >> i & 1 == 1).map(|i| axes[i]).collect())
        .collect();
    all.sort_by(|a: &Vec<usize>, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    all
}

impl LogitSum {
    /// Empty sums for `channels` outputs over a volume of `shape` voxels.
    ///
    /// # Errors
    /// [`InferError::Step`] for a step outside `0 < step <= 1`; [`InferError::TileLargerThanVolume`] for an empty tile.
    pub fn new(channels: usize, shape: [usize; 3], options: &WindowOptions) -> Result<Self, InferError> {
        let grid = Grid::new(shape, options.tile, options.step)?;
        let voxels: usize = shape.iter().product();
        Ok(Self {
            channels,
            sum: vec![0.0; channels * voxels],
            weight: vec![0.0; voxels],
            tile_weights: gaussian_weights(options.tile),
            mirrors: mirror_combinations(&options.mirror_axes),
            grid,
        })
    }

    /// Number of network passes of one [`LogitSum::add`].
    pub fn passes(&self) -> usize {
        self.grid.len() * self.mirrors.len()
    }

    /// Adds one network's logits of the whole case.
    ///
    /// `network` maps a patch `[1, c, z, y, x]` (as a vector and its shape) to logits `[1, channels, z, y, x]`;
    /// `progress` is told after every pass.
    ///
    /// # Errors
    /// What `network` returns, and [`InferError::LogitsShape`] if it answers with another number of values.
    pub fn add(
        &mut self,
        image: Image<'_>,
        network: &mut dyn FnMut(Vec<f32>, [usize; 5]) -> Result<Vec<f32>, InferError>,
        progress: &mut dyn FnMut(),
    ) -> Result<(), InferError> {
        assert_eq!(image.shape, self.grid.shape, "the sums are for another volume");
        let tile = self.grid.tile;
        let voxels: usize = tile.iter().product();
        let starts: Vec<_> = self.grid.starts().collect();
        let share = 1.0 / self.mirrors.len() as f32;
        for start in starts {
            let inside = self.grid.inside(start);
            let mut mean: Option<Vec<f32>> = None;
            for axes in &self.mirrors {
                let patch = gather(image, tile, start, inside, axes);
                let logits = network(patch, [1, image.channels, tile[0], tile[1], tile[2]])?;
                if logits.len() != self.channels * voxels {
                    return Err(InferError::LogitsShape { expected: self.channels * voxels, found: logits.len() });
                }
                match &mut mean {
                    None => mean = Some(logits),
                    Some(mean) => add_flipped(mean, &logits, tile, axes),
                }
                progress();
            }
            if let Some(logits) = mean {
                self.accumulate(&logits, share, start, inside);
            }
        }
        Ok(())
    }

    /// `sum += logits * share * weight` and `weight += weight` over the part of the tile inside the volume.
    fn accumulate(&mut self, logits: &[f32], share: f32, start: [isize; 3], inside: [[usize; 2]; 3]) {
        let (tile, shape) = (self.grid.tile, self.grid.shape);
        let weights = &self.tile_weights;
        let (tile_voxels, voxels) = (tile.iter().product::<usize>(), shape.iter().product::<usize>());
        let plane = shape[1] * shape[2];
        let [[z0, z1], [y0, y1], [x0, x1]] = inside;
        // Row of the tile, and where the same row begins in the volume.
        let rows = |z: usize| {
            (y0..y1).map(move |y| {
                let tile_row = (z * tile[1] + y) * tile[2];
                let volume_row = (start[1] + y as isize) as usize * shape[2] + (start[2] + x0 as isize) as usize;
                (tile_row + x0..tile_row + x1, volume_row)
            })
        };
        let first = (start[0] + z0 as isize) as usize;
        let slices = first..first + (z1 - z0);
        self.sum.par_chunks_mut(voxels).zip(logits.par_chunks(tile_voxels)).for_each(|(sum, logits)| {
            sum.par_chunks_mut(plane).enumerate().filter(|(z, _)| slices.contains(z)).for_each(|(z, sum)| {
                for (tile_row, row) in rows(z - first + z0) {
                    let sum = &mut sum[row..row + tile_row.len()];
                    for ((s, &l), &w) in sum.iter_mut().zip(&logits[tile_row.clone()]).zip(&weights[tile_row]) {
                        *s += l * share * w;
                    }
                }
            });
        });
        self.weight.par_chunks_mut(plane).enumerate().filter(|(z, _)| slices.contains(z)).for_each(|(z, sum)| {
            for (tile_row, row) in rows(z - first + z0) {
                for (s, &w) in sum[row..row + tile_row.len()].iter_mut().zip(&weights[tile_row]) {
                    *s += w;
                }
            }
        });
    }

    /// The mean logits, `[channels, z, y, x]`.
    ///
    /// # Errors
    /// [`InferError::NonFiniteLogits`] if the network gave NaN or infinity anywhere.
    pub fn finish(mut self) -> Result<Vec<f32>, InferError> {
        let voxels = self.weight.len();
        let weight = &self.weight;
        let bad: usize = self
            .sum
            .par_chunks_mut(voxels)
            .map(|channel| {
                let mut bad = 0;
                for (v, &w) in channel.iter_mut().zip(weight) {
                    *v /= w;
                    bad += usize::from(!v.is_finite());
                }
                bad
            })
            .sum();
        if bad > 0 {
            return Err(InferError::NonFiniteLogits { count: bad, total: self.sum.len() });
        }
        Ok(self.sum)
    }
}

/// The tile at `start` of every channel, mirrored along `axes`; zeros where it leaves the volume.
fn gather(
    image: Image<'_>,
    tile: [usize; 3],
    start: [isize; 3],
    inside: [[usize; 2]; 3],
    axes: &[usize],
) -> Vec<f32> {
    let (voxels, plane) = (tile.iter().product::<usize>(), tile[1] * tile[2]);
    let volume: usize = image.shape.iter().product();
    let mut patch = vec![0f32; image.channels * voxels];
    let [mirror_z, mirror_y, mirror_x] = [0, 1, 2].map(|a| axes.contains(&a));
    let [[z0, z1], [y0, y1], [x0, x1]] = inside;
    patch.par_chunks_mut(plane).enumerate().for_each(|(i, out)| {
        let (channel, out_z) = (i / tile[0], i % tile[0]);
        let z = if mirror_z { tile[0] - 1 - out_z } else { out_z };
        if !(z0..z1).contains(&z) {
            return;
        }
        for y in y0..y1 {
            let at = |a: usize, v: usize| (start[a] + v as isize) as usize;
            let from = channel * volume + (at(0, z) * image.shape[1] + at(1, y)) * image.shape[2] + at(2, x0);
            let row = &image.data[from..from + (x1 - x0)];
            let out_y = if mirror_y { tile[1] - 1 - y } else { y };
            let out = &mut out[out_y * tile[2]..][..tile[2]];
            if mirror_x {
                for (o, &v) in out[tile[2] - x1..tile[2] - x0].iter_mut().rev().zip(row) {
                    *o = v;
                }
            } else {
                out[x0..x1].copy_from_slice(row);
            }
        }
    });
    patch
}

/// `mean += flip(logits)` along `axes`.
fn add_flipped(mean: &mut [f32], logits: &[f32], tile: [usize; 3], axes: &[usize]) {
    let plane = tile[1] * tile[2];
    let [mirror_z, mirror_y, mirror_x] = [0, 1, 2].map(|a| axes.contains(&a));
    mean.par_chunks_mut(plane).enumerate().for_each(|(i, mean)| {
        let (channel, z) = (i / tile[0], i % tile[0]);
        let z = if mirror_z { tile[0] - 1 - z } else { z };
        let from = &logits[(channel * tile[0] + z) * plane..][..plane];
        for (y, mean) in mean.chunks_mut(tile[2]).enumerate() {
            let y = if mirror_y { tile[1] - 1 - y } else { y };
            let row = &from[y * tile[2]..][..tile[2]];
            if mirror_x {
                for (m, &l) in mean.iter_mut().zip(row.iter().rev()) {
                    *m += l;
                }
            } else {
                for (m, &l) in mean.iter_mut().zip(row) {
                    *m += l;
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(channels: usize, shape: [usize; 3]) -> Vec<f32> {
        (0..channels * shape.iter().product::<usize>()).map(|i| ((i * 2_654_435_761) % 1000) as f32 / 100.0).collect()
    }

    /// A network that answers with its input's first channel and its negative.
    fn echo(patch: Vec<f32>, shape: [usize; 5]) -> Vec<f32> {
        let voxels: usize = shape[2..].iter().product();
        let first = &patch[..voxels];
        first.iter().copied().chain(first.iter().map(|v| -v)).collect()
    }

    #[test]
    fn a_network_that_echoes_gives_the_image_back() {
        for (shape, tile) in
            [([9, 14, 11], [4, 6, 8]), ([3, 5, 20], [4, 8, 8]), ([5, 5, 5], [5, 5, 5]), ([6, 9, 9], [1, 8, 6])]
        {
            for axes in [vec![], vec![2], vec![0, 1, 2]] {
                let data = image(3, shape);
                let options = WindowOptions { tile, step: 0.5, mirror_axes: axes };
                let mut sum = LogitSum::new(2, shape, &options).expect("valid");
                let mut passes = 0;
                sum.add(
                    Image { data: &data, channels: 3, shape },
                    &mut |p, s| Ok(echo(p, s)),
                    &mut || passes += 1,
                )
                .expect("a prediction");
                assert_eq!(passes, sum.passes());
                let logits = sum.finish().expect("finite");
                let voxels: usize = shape.iter().product();
                for i in 0..voxels {
                    assert!((logits[i] - data[i]).abs() < 1e-4, "{options:?}: {} {}", logits[i], data[i]);
                    assert!((logits[voxels + i] + data[i]).abs() < 1e-4, "{options:?}");
                }
            }
        }
    }

    #[test]
    fn a_patch_of_a_small_volume_is_padded_with_zeros_on_both_sides() {
        let data = vec![1.0; 2 * 2 * 2];
        let options = WindowOptions { tile: [4, 4, 5], step: 0.5, mirror_axes: vec![] };
        let mut sum = LogitSum::new(1, [2; 3], &options).expect("valid");
        let mut seen = Vec::new();
        sum.add(
            Image { data: &data, channels: 1, shape: [2; 3] },
            &mut |p, _| {
                seen = p.clone();
                Ok(p)
            },
            &mut || {},
        )
        .expect("a prediction");
        let filled: Vec<usize> = (0..seen.len()).filter(|&i| seen[i] != 0.0).collect();
        let expected: Vec<usize> =
            [1, 2].iter().flat_map(|z| [1, 2].map(|y| (z * 4 + y) * 5)).flat_map(|r| [r + 1, r + 2]).collect();
        assert_eq!(filled, expected);
    }

    #[test]
    fn mirrors_come_in_the_order_of_nnunet() {
        let none: Vec<usize> = vec![];
        assert_eq!(
            mirror_combinations(&[0, 1, 2]),
            [none, vec![0], vec![1], vec![2], vec![0, 1], vec![0, 2], vec![1, 2], vec![0, 1, 2]]
        );
    }

    #[test]
    fn nan_logits_are_an_error_with_their_count() {
        let options = WindowOptions { tile: [2; 3], step: 0.5, mirror_axes: vec![] };
        let mut sum = LogitSum::new(1, [2; 3], &options).expect("valid");
        let data = [0.0; 8];
        sum.add(Image { data: &data, channels: 1, shape: [2; 3] }, &mut |_, _| Ok(vec![f32::NAN; 8]), &mut || {})
            .expect("a prediction");
        assert!(matches!(sum.finish(), Err(InferError::NonFiniteLogits { count: 8, total: 8 })));
    }
}
