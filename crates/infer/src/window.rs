//! Sliding-window prediction: tiles, mirroring and one running sum.
//!
//! The decision that shaped it: one sum of weighted logits and one sum of weights serve every tile and mirrored pass of a fold,
//! and one sum of mean logits every fold, so memory does not grow with their number. The sums are kept in half precision, as
//! nnU-Net keeps them ([`Accumulation::Half`]), because the rounding shows: where only the corners of tiles contribute, logits become
//! whole numbers. [`Accumulation::Single`] does not round. The order of additions is fixed, so the result does not depend on the
//! number of threads. What the network is stays outside: a closure that shows the logits of a patch, or their probabilities, which
//! version 1 averages instead.

use half::f16;
use half::slice::HalfFloatSliceExt as _;
use rayon::prelude::*;

use glioseg_plan::{Rules, free_memory};
use glioseg_volume::crop::Box3;
use glioseg_volume::try_zeroed;

use super::gaussian::gaussian_weights_v1;
use super::uncertainty::{Moments, PassPlace};
use super::{Grid, InferError, Watch, gaussian_weights};

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

/// A network pass: takes a patch `[1, c, z, y, x]` of the tile's size and calls the reader with the answer, `[1, outputs, z, y, x]`,
/// where it lies.
pub type Pass<'a> = dyn FnMut(&[f32], &mut dyn FnMut(&[f32])) -> Result<(), InferError> + 'a;

/// How the window slides.
#[derive(Debug, Clone, PartialEq)]
pub struct WindowOptions {
    /// Voxels of one tile, `[z, y, x]`; a 2D network has one slice.
    pub tile: [usize; 3],
    /// Distance of neighbouring tiles as a fraction of the tile.
    pub step: f64,
    /// Axes of `[z, y, x]` along which the tile is mirrored; every combination is predicted, and the answers averaged.
    pub mirror_axes: Vec<usize>,
    /// Whose weights of a tile's voxels, and whose order of mirrored passes.
    pub rules: Rules,
}

/// Precision of the running sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Accumulation {
    /// Half precision, nnU-Net's own: its numbers, and half the memory.
    #[default]
    Half,
    /// Single precision: no rounding where tiles hardly overlap, no overflow of large logits.
    Single,
}

impl Accumulation {
    /// The precision under a plan's rules; version 1's sums are in single precision always.
    pub(crate) fn under(self, rules: Rules) -> Self {
        match rules {
            Rules::V2 => self,
            Rules::V1 => Self::Single,
        }
    }

    /// The name on the command line and in the record.
    pub fn name(self) -> &'static str {
        match self {
            Self::Half => "half",
            Self::Single => "single",
        }
    }
}

/// Running sums of either precision; sums are made in `f32` and rounded when they are put back.
#[derive(Debug)]
enum Sums {
    Half(Vec<f16>),
    Single(Vec<f32>),
}

impl Sums {
    /// `None` if the system does not give the memory.
    fn zeros(precision: Accumulation, len: usize) -> Option<Self> {
        Some(match precision {
            Accumulation::Half => Self::Half(try_zeroed(len)?),
            Accumulation::Single => Self::Single(try_zeroed(len)?),
        })
    }

    fn empty(precision: Accumulation) -> Self {
        match precision {
            Accumulation::Half => Self::Half(Vec::new()),
            Accumulation::Single => Self::Single(Vec::new()),
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Self::Half(v) => v.is_empty(),
            Self::Single(v) => v.is_empty(),
        }
    }

    fn clear(&mut self) {
        match self {
            Self::Half(v) => v.par_chunks_mut(BLOCK).for_each(|v| v.fill(f16::ZERO)),
            Self::Single(v) => v.par_chunks_mut(BLOCK).for_each(|v| v.fill(0.0)),
        }
    }

    /// Calls `change` with the values `size` at a time: the number of the piece, its values as `f32`; what it makes of them is kept.
    ///
    /// `wanted` tells which pieces change at all.
    fn change(
        &mut self,
        size: usize,
        wanted: impl Fn(usize) -> bool + Sync,
        change: impl Fn(usize, &mut [f32]) + Sync,
    ) {
        match self {
            Self::Single(v) => {
                v.par_chunks_mut(size)
                    .enumerate()
                    .filter(|(i, _)| wanted(*i))
                    .for_each(|(i, v)| change(i, v));
            }
            Self::Half(v) => v.par_chunks_mut(size).enumerate().filter(|(i, _)| wanted(*i)).for_each_init(
                || vec![0f32; size],
                |buffer, (i, v)| {
                    let buffer = &mut buffer[..v.len()];
                    v.convert_to_f32_slice(buffer);
                    change(i, buffer);
                    v.convert_from_f32_slice(buffer);
                },
            ),
        }
    }

    /// Values `start` to `start + out.len()` as `f32`.
    fn read(&self, start: usize, out: &mut [f32]) {
        match self {
            Self::Half(v) => v[start..start + out.len()].convert_to_f32_slice(out),
            Self::Single(v) => out.copy_from_slice(&v[start..start + out.len()]),
        }
    }

    fn into_f32(self) -> Vec<f32> {
        match self {
            Self::Single(v) => v,
            Self::Half(v) => {
                let mut out = vec![0f32; v.len()];
                out.par_chunks_mut(BLOCK)
                    .zip(v.par_chunks(BLOCK))
                    .for_each(|(out, v)| v.convert_to_f32_slice(out));
                out
            }
        }
    }
}

/// Values that one thread works on at a time where no shape says it.
const BLOCK: usize = 1 << 15;

/// The running sums of one case.
#[derive(Debug)]
pub struct LogitSum {
    channels: usize,
    grid: Grid,
    precision: Accumulation,
    /// Weighted logits of the present fold.
    sum: Sums,
    /// Weights of the present fold.
    weight: Sums,
    /// Mean logits of the folds before, summed.
    total: Sums,
    folds: usize,
    tile_weights: Vec<f32>,
    mirrors: Vec<Vec<usize>>,
    /// Sums over single passes, where it is asked how far they agree.
    moments: Option<Moments>,
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

/// The same in version 1's order: none, x, y, xy, z, xz, yz, xyz.
///
/// # Source
/// nnU-Net v1, `SegmentationNetwork._internal_maybe_mirror_and_pred_3D`.
fn mirror_combinations_v1(axes: &[usize]) -> Vec<Vec<usize>> {
    let mut all = mirror_combinations(axes);
    all.sort_by_key(|axes| axes.iter().map(|&a| 4usize >> a.min(2)).sum::<usize>());
    all
}

impl LogitSum {
    /// Empty sums for `channels` outputs over a volume of `shape` voxels.
    ///
    /// # Errors
    /// [`InferError::Step`] for a step outside `0 < step <= 1`; [`InferError::TileLargerThanVolume`] for an empty tile.
    pub fn new(
        channels: usize,
        shape: [usize; 3],
        options: &WindowOptions,
        precision: Accumulation,
    ) -> Result<Self, InferError> {
        let grid = Grid::new(shape, options.tile, options.step)?;
        let voxels: usize = shape.iter().product();
        let (tile_weights, mirrors) = match options.rules {
            Rules::V2 => (gaussian_weights(options.tile), mirror_combinations(&options.mirror_axes)),
            Rules::V1 => {
                // A single tile is not weighed.
                let flat = || vec![1.0; options.tile.iter().product()];
                let weights = if grid.len() > 1 { gaussian_weights_v1(options.tile) } else { flat() };
                (weights, mirror_combinations_v1(&options.mirror_axes))
            }
        };
        let sums = Sums::zeros(precision, channels * voxels).zip(Sums::zeros(precision, voxels));
        let (sum, weight) = sums.ok_or_else(|| no_memory(channels, shape, precision))?;
        Ok(Self {
            channels,
            precision,
            sum,
            weight,
            total: Sums::empty(precision),
            folds: 0,
            tile_weights,
            mirrors,
            grid,
            moments: None,
        })
    }

    /// Has every pass counted in `moments` too.
    pub(crate) fn watch(&mut self, moments: Moments) {
        self.moments = Some(moments);
    }

    /// What [`Self::watch`] was given, with all passes so far.
    pub(crate) fn take_moments(&mut self) -> Option<Moments> {
        self.moments.take()
    }

    /// Number of network passes of one [`LogitSum::add`].
    pub fn passes(&self) -> usize {
        self.grid.len() * self.mirrors.len()
    }

    /// Adds the logits of one fold's network for the whole case.
    ///
    /// `network` maps a patch `[1, c, z, y, x]` to logits `[1, channels, z, y, x]`; `watch` is asked before every pass and told after it.
    ///
    /// # Errors
    /// What `network` returns, [`InferError::LogitsShape`] if it answers with another number of values, and
    /// [`InferError::Stopped`]; the sums are of no use then.
    ///
    /// # Panics
    /// If the image has another shape than the sums.
    pub fn add(
        &mut self,
        image: Image<'_>,
        network: &mut Pass<'_>,
        watch: &Watch<'_>,
    ) -> Result<(), InferError> {
        assert_eq!(image.shape, self.grid.shape, "the sums are for another volume");
        let tile = self.grid.tile;
        let voxels: usize = tile.iter().product();
        if self.sum.is_empty() {
            let shape = self.grid.shape;
            self.sum = Sums::zeros(self.precision, self.channels * shape.iter().product::<usize>())
                .ok_or_else(|| no_memory(self.channels, shape, self.precision))?;
        } else {
            self.sum.clear();
        }
        self.weight.clear();
        let starts: Vec<_> = self.grid.starts().collect();
        let share = 1.0 / self.mirrors.len() as f32;
        let mut patch = vec![0f32; image.channels * voxels];
        let expected = self.channels * voxels;
        let mirrors = self.mirrors.clone();
        // A single pass is its own mean, and is read where it lies.
        let mut mean = vec![0f32; if mirrors.len() > 1 { expected } else { 0 }];
        for start in starts {
            let inside = self.grid.inside(start);
            for (at, axes) in mirrors.iter().enumerate() {
                watch.check()?;
                gather(image, tile, (start, inside), axes, &mut patch);
                let mut found = 0;
                network(&patch, &mut |logits| {
                    found = logits.len();
                    if found != expected {
                        return;
                    }
                    if let Some(moments) = &mut self.moments {
                        let (grid, weights) = (&self.grid, &self.tile_weights);
                        moments.add(logits, PassPlace { grid, start, inside, mirrored: axes, weights });
                    }
                    match at {
                        _ if mirrors.len() == 1 => self.accumulate(logits, share, start, inside),
                        // The first combination of axes is none.
                        0 => mean.copy_from_slice(logits),
                        _ => add_flipped(&mut mean, logits, tile, axes),
                    }
                })?;
                if found != expected {
                    return Err(InferError::LogitsShape { expected, found });
                }
                watch.passed();
            }
            if mirrors.len() > 1 {
                self.accumulate(&mean, share, start, inside);
            }
        }
        self.end_fold();
        Ok(())
    }

    /// `sum += logits * share * weight` and `weight += weight` over the part of the tile inside the volume.
    fn accumulate(&mut self, logits: &[f32], share: f32, start: [isize; 3], inside: Box3) {
        let (tile, shape) = (self.grid.tile, self.grid.shape);
        let weights = &self.tile_weights;
        let tile_voxels: usize = tile.iter().product();
        let plane = shape[1] * shape[2];
        let [[z0, z1], [y0, y1], [x0, x1]] = inside;
        let first = (start[0] + z0 as isize) as usize;
        // The plane's own number, and the same rows of the tile and of the plane.
        let reaches = |i: usize| (first..first + (z1 - z0)).contains(&(i % shape[0]));
        let rows = |i: usize| {
            let z = i % shape[0] - first + z0;
            (y0..y1).map(move |y| {
                let tile_row = (z * tile[1] + y) * tile[2];
                let row = (start[1] + y as isize) as usize * shape[2] + (start[2] + x0 as isize) as usize;
                (tile_row + x0..tile_row + x1, row)
            })
        };
        self.sum.change(plane, reaches, |i, sum| {
            let logits = &logits[i / shape[0] * tile_voxels..][..tile_voxels];
            for (tile_row, row) in rows(i) {
                let sum = &mut sum[row..row + tile_row.len()];
                for ((s, &l), &w) in sum.iter_mut().zip(&logits[tile_row.clone()]).zip(&weights[tile_row]) {
                    *s += l * share * w;
                }
            }
        });
        self.weight.change(plane, reaches, |i, sum| {
            for (tile_row, row) in rows(i) {
                for (s, &w) in sum[row..row + tile_row.len()].iter_mut().zip(&weights[tile_row]) {
                    *s += w;
                }
            }
        });
    }

    /// Divides the fold's sum by its weights and adds it to the folds before.
    fn end_fold(&mut self) {
        let plane = self.grid.shape[1] * self.grid.shape[2];
        let (weight, planes) = (&self.weight, self.grid.shape[0]);
        self.sum.change(
            plane,
            |_| true,
            |i, sum| {
                let mut weights = vec![0f32; plane];
                weight.read(i % planes * plane, &mut weights);
                sum.iter_mut().zip(&weights).for_each(|(s, w)| *s /= w);
            },
        );
        self.folds += 1;
        if self.folds == 1 {
            self.total = std::mem::replace(&mut self.sum, Sums::empty(self.precision));
            return;
        }
        let fold = &self.sum;
        self.total.change(
            plane,
            |_| true,
            |i, total| {
                let mut mean = vec![0f32; plane];
                fold.read(i * plane, &mut mean);
                total.iter_mut().zip(&mean).for_each(|(t, m)| *t += m);
            },
        );
    }

    /// The mean logits of all folds, `[channels, z, y, x]`.
    ///
    /// # Errors
    /// [`InferError::NonFiniteLogits`] if the network gave NaN or infinity anywhere, or a sum in half precision overflowed.
    ///
    /// # Panics
    /// If no fold was added.
    pub fn finish(mut self) -> Result<Vec<f32>, InferError> {
        assert!(self.folds > 0, "the mean of no folds");
        if self.folds > 1 {
            let folds = self.folds as f32;
            self.total.change(BLOCK, |_| true, |_, total| total.iter_mut().for_each(|t| *t /= folds));
        }
        let logits = self.total.into_f32();
        let bad: usize = logits.par_chunks(BLOCK).map(|c| c.iter().filter(|v| !v.is_finite()).count()).sum();
        if bad > 0 {
            return Err(InferError::NonFiniteLogits {
                count: bad,
                total: logits.len(),
                precision: self.precision,
            });
        }
        Ok(logits)
    }
}

/// Bytes that the mean of `folds` folds takes: sums and weights, and in the end the logits as `f32`.
pub(super) fn sum_bytes(channels: usize, shape: [usize; 3], precision: Accumulation, folds: usize) -> u64 {
    let voxels: u64 = shape.iter().map(|&n| n as u64).product();
    let value = match precision {
        Accumulation::Half => 2,
        Accumulation::Single => 4,
    };
    let (channels, sums) = (channels as u64, if folds > 1 { 2 } else { 1 });
    // The last fold's sum is there no longer when the mean becomes f32, but its weights are.
    voxels * (value * (channels * sums + 1)).max(value * (channels + 1) + 4 * channels)
}

fn no_memory(channels: usize, shape: [usize; 3], precision: Accumulation) -> InferError {
    let needed = sum_bytes(channels, shape, precision, 1);
    InferError::CaseMemory { shape, needed, free: free_memory().unwrap_or(0) }
}

/// Writes the tile at `start` of every channel, mirrored along `axes`, into `patch`; zeros where it leaves the volume.
fn gather(
    image: Image<'_>,
    tile: [usize; 3],
    (start, inside): ([isize; 3], Box3),
    axes: &[usize],
    patch: &mut [f32],
) {
    let plane = tile[1] * tile[2];
    let volume: usize = image.shape.iter().product();
    let [mirror_z, mirror_y, mirror_x] = [0, 1, 2].map(|a| axes.contains(&a));
    let [[z0, z1], [y0, y1], [x0, x1]] = inside;
    patch.par_chunks_mut(plane).enumerate().for_each(|(i, out)| {
        let (channel, out_z) = (i / tile[0], i % tile[0]);
        let z = if mirror_z { tile[0] - 1 - out_z } else { out_z };
        let whole = (y0, y1, x0, x1) == (0, tile[1], 0, tile[2]);
        if !(z0..z1).contains(&z) || !whole {
            out.fill(0.0);
        }
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
        (0..channels * shape.iter().product::<usize>())
            .map(|i| ((i * 2_654_435_761) % 1000) as f32 / 100.0)
            .collect()
    }

    /// A network that is a function of its patch.
    fn answer<'a>(of: impl Fn(&[f32]) -> Vec<f32> + 'a) -> Box<Pass<'a>> {
        Box::new(move |patch, read| {
            read(&of(patch));
            Ok(())
        })
    }

    /// A network that answers with the first channel of three and its negative.
    fn echo(patch: &[f32]) -> Vec<f32> {
        let first = &patch[..patch.len() / 3];
        first.iter().copied().chain(first.iter().map(|v| -v)).collect()
    }

    #[test]
    fn a_network_that_echoes_gives_the_image_back() {
        for (shape, tile) in [
            ([9, 14, 11], [4, 6, 8]),
            ([3, 5, 20], [4, 8, 8]),
            ([5, 5, 5], [5, 5, 5]),
            ([6, 9, 9], [1, 8, 6]),
        ] {
            for axes in [vec![], vec![2], vec![0, 1, 2]] {
                let data = image(3, shape);
                let options = WindowOptions { tile, step: 0.5, mirror_axes: axes, rules: Rules::V2 };
                let mut sum = LogitSum::new(2, shape, &options, Accumulation::Single).expect("valid");
                let passes = std::cell::Cell::new(0);
                let count = || passes.set(passes.get() + 1);
                let picture = Image { data: &data, channels: 3, shape };
                sum.add(picture, &mut *answer(echo), &Watch::default().on_pass(&count))
                    .expect("a prediction");
                assert_eq!(passes.get(), sum.passes());
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
        let options = WindowOptions { tile: [4, 4, 5], step: 0.5, mirror_axes: vec![], rules: Rules::V2 };
        let mut sum = LogitSum::new(1, [2; 3], &options, Accumulation::Half).expect("valid");
        let mut seen = Vec::new();
        sum.add(
            Image { data: &data, channels: 1, shape: [2; 3] },
            &mut |p, read| {
                seen = p.to_vec();
                read(p);
                Ok(())
            },
            &Watch::default(),
        )
        .expect("a prediction");
        let filled: Vec<usize> = (0..seen.len()).filter(|&i| seen[i] != 0.0).collect();
        let expected: Vec<usize> = [1, 2]
            .iter()
            .flat_map(|z| [1, 2].map(|y| (z * 4 + y) * 5))
            .flat_map(|r| [r + 1, r + 2])
            .collect();
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
    fn version_1_mirrors_x_first() {
        let none: Vec<usize> = vec![];
        assert_eq!(
            mirror_combinations_v1(&[0, 1, 2]),
            [none, vec![2], vec![1], vec![1, 2], vec![0], vec![0, 2], vec![0, 1], vec![0, 1, 2]]
        );
    }

    #[test]
    fn version_1_weighs_no_single_tile() {
        let options = WindowOptions { tile: [4; 3], step: 0.5, mirror_axes: vec![], rules: Rules::V1 };
        let one = LogitSum::new(1, [4; 3], &options, Accumulation::Single).expect("valid");
        assert_eq!(one.tile_weights, [1.0; 64]);
        let more = LogitSum::new(1, [4, 4, 5], &options, Accumulation::Single).expect("valid");
        assert!(more.tile_weights[0] < 0.01, "{}", more.tile_weights[0]);
    }

    #[test]
    fn nan_logits_are_an_error_with_their_count() {
        let options = WindowOptions { tile: [2; 3], step: 0.5, mirror_axes: vec![], rules: Rules::V2 };
        let mut sum = LogitSum::new(1, [2; 3], &options, Accumulation::Half).expect("valid");
        let data = [0.0; 8];
        sum.add(
            Image { data: &data, channels: 1, shape: [2; 3] },
            &mut *answer(|_| vec![f32::NAN; 8]),
            &Watch::default(),
        )
        .expect("a prediction");
        assert!(matches!(sum.finish(), Err(InferError::NonFiniteLogits { count: 8, total: 8, .. })));
    }

    #[test]
    fn folds_are_averaged_in_either_precision() {
        let shape = [5, 6, 7];
        let data = image(1, shape);
        let options = WindowOptions { tile: [4, 4, 4], step: 0.5, mirror_axes: vec![], rules: Rules::V2 };
        for (precision, tolerance) in [(Accumulation::Single, 1e-4), (Accumulation::Half, 5e-2)] {
            let mut sum = LogitSum::new(1, shape, &options, precision).expect("valid");
            for factor in [1.0, 2.0, 6.0] {
                sum.add(
                    Image { data: &data, channels: 1, shape },
                    &mut *answer(move |p| p.iter().map(|v| v * factor).collect()),
                    &Watch::default(),
                )
                .expect("a prediction");
            }
            let logits = sum.finish().expect("finite");
            for (l, d) in logits.iter().zip(&data) {
                assert!((l - 3.0 * d).abs() <= tolerance * d.abs().max(1.0), "{precision:?}: {l} {d}");
            }
        }
    }

    #[test]
    fn a_stop_ends_it_before_the_next_pass() {
        let stop = std::sync::atomic::AtomicBool::new(false);
        let options = WindowOptions { tile: [4; 3], step: 0.5, mirror_axes: vec![0, 1, 2], rules: Rules::V2 };
        let mut sum = LogitSum::new(1, [9; 3], &options, Accumulation::Half).expect("valid");
        let (data, mut passes) = (image(1, [9; 3]), 0);
        let result = sum.add(
            Image { data: &data, channels: 1, shape: [9; 3] },
            &mut |p, read| {
                passes += 1;
                stop.store(passes == 3, std::sync::atomic::Ordering::SeqCst);
                read(p);
                Ok(())
            },
            &Watch::default().stop(&stop),
        );
        assert!(matches!(result, Err(InferError::Stopped)), "{result:?}");
        assert_eq!(passes, 3);
    }

    #[test]
    fn corners_alone_are_whole_numbers_in_half_precision_only() {
        // One 128-wide row of tiles: the last voxel of the volume sees only the end of one tile.
        let shape = [1, 128, 128];
        let data = vec![0.7; 128 * 128];
        let options = WindowOptions { tile: shape, step: 0.5, mirror_axes: vec![], rules: Rules::V2 };
        let corner = |precision| {
            let mut sum = LogitSum::new(1, shape, &options, precision).expect("valid");
            sum.add(
                Image { data: &data, channels: 1, shape },
                &mut *answer(<[f32]>::to_vec),
                &Watch::default(),
            )
            .expect("a prediction");
            *sum.finish().expect("finite").last().expect("a voxel")
        };
        assert!((corner(Accumulation::Single) - 0.7).abs() < 1e-6);
        let half = corner(Accumulation::Half);
        assert!((half - 0.7).abs() > 1e-4 && (half - 0.7).abs() < 0.5, "{half}");
    }
}
