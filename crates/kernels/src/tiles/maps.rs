//! Passes over whole maps, channels last, and other forms of them. Plain loops, which the compiler turns into vectors.

use half::bf16;
use rayon::prelude::*;

use super::pack::TileSource;
use crate::isa::vectorised;
use crate::norm::ScaleShift;
use crate::source::Prologue;

/// Voxels of a job.
const CHUNK: usize = 1024;

/// Values of f32 whose memory holds `len` values of bf16.
pub fn bf16_values(len: usize) -> usize {
    len.div_ceil(2)
}

/// Memory of f32 as values of bf16, two for each.
pub fn bf16_view(values: &[f32]) -> &[bf16] {
    // SAFETY: any bits are a value of either type, and bf16 needs no stricter alignment.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), 2 * values.len()) }
}

/// As [`bf16_view`], to be written; what is written need not be a number as f32.
pub fn bf16_view_mut(values: &mut [f32]) -> &mut [bf16] {
    // SAFETY: any bits are a value of either type, and bf16 needs no stricter alignment.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), 2 * values.len()) }
}

/// Exact.
#[inline(always)]
pub(super) fn wide(value: bf16) -> f32 {
    f32::from_bits(u32::from(value.to_bits()) << 16)
}

/// To the nearest, ties to even; NaN stays NaN.
#[inline(always)]
pub(super) fn round(value: f32) -> bf16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    let quiet = (bits >> 16) as u16 | 0x40;
    bf16::from_bits(if value.is_nan() { quiet } else { rounded })
}

#[inline(always)]
fn leaky(value: f32, slope: f32) -> f32 {
    if value > 0.0 { value } else { value * slope }
}

/// The derivative of a leaky ReLU at a value.
#[inline(always)]
pub(super) fn leaky_factor(value: f32, slope: f32) -> f32 {
    if value > 0.0 { 1.0 } else { slope }
}

/// Factor and offset of the channels of one sample.
fn factors(affine: Option<&ScaleShift>, sample: usize, channels: usize) -> (Vec<f32>, Vec<f32>) {
    affine.map_or_else(
        || (vec![1.0; channels], vec![0.0; channels]),
        |a| {
            let range = sample * channels..(sample + 1) * channels;
            (a.scale[range.clone()].to_vec(), a.shift[range].to_vec())
        },
    )
}

/// One of the two maps that a residual block ends with.
#[derive(Debug, Clone, Copy)]
pub struct TileBranch<'a> {
    /// `[n, z, y, x, channels]`.
    pub data: &'a [bf16],
    /// The normalisation that is still to be applied, none for none.
    pub affine: Option<&'a ScaleShift>,
    /// Slope of the activation behind it; 1 for none.
    pub slope: f32,
}

/// The end of a residual block: `main = leaky(norm(main) + branch)`, where `branch` is a map that may have to be normalised and
/// activated first.
///
/// # Shapes
/// Both are `[n, voxels, channels]`.
///
/// # Panics
/// If a length differs.
pub fn tile_add_activate(
    main: &mut [bf16],
    main_affine: Option<&ScaleShift>,
    branch: TileBranch<'_>,
    [channels, voxels]: [usize; 2],
    slope: f32,
) {
    assert_eq!(main.len(), branch.data.len(), "lengths of the two branches");
    let sample_len = channels * voxels;
    for (sample, (main, skip)) in
        main.chunks_exact_mut(sample_len).zip(branch.data.chunks_exact(sample_len)).enumerate()
    {
        let (scale, shift) = factors(main_affine, sample, channels);
        let (skip_scale, skip_shift) = factors(branch.affine, sample, channels);
        let len = CHUNK * channels;
        main.par_chunks_mut(len).zip(skip.par_chunks(len)).for_each(|(main, skip)| {
            vectorised(
                #[inline(always)]
                || {
                    for (main, skip) in main.chunks_exact_mut(channels).zip(skip.chunks_exact(channels)) {
                        for c in 0..channels {
                            let y = leaky(wide(skip[c]).mul_add(skip_scale[c], skip_shift[c]), branch.slope);
                            let x = wide(main[c]).mul_add(scale[c], shift[c]) + y;
                            main[c] = round(leaky(x, slope));
                        }
                    }
                },
            );
        });
    }
}

/// Mean of every block of `kernel` voxels of a map of `size` voxels, which it divides.
///
/// # Panics
/// If a length contradicts the sizes.
pub fn tile_avg_pool(source: &TileSource<'_>, size: [usize; 3], kernel: [usize; 3], out: &mut [bf16]) {
    let (channels, voxels) = (source.channels, size.iter().product::<usize>());
    let [oz, oy, ox] = std::array::from_fn(|a| size[a] / kernel[a]);
    let batch = source.data.len() / (channels * voxels);
    source.check(batch, voxels);
    assert_eq!(out.len(), batch * oz * oy * ox * channels, "values of the output");
    let share = 1.0 / kernel.iter().product::<usize>() as f32;
    out.par_chunks_mut(ox * channels).enumerate().for_each(|(row, out)| {
        let (sample, z, y) = (row / (oz * oy), row / oy % oz, row % oy);
        let (scale, shift, slope) = match source.factors(sample) {
            Some((scale, shift, slope)) => (scale.to_vec(), shift.to_vec(), slope),
            None => (vec![1.0; channels], vec![0.0; channels], 1.0),
        };
        let mut sums = vec![0f32; ox * channels];
        vectorised(
            #[inline(always)]
            || {
                for tap in 0..kernel[0] * kernel[1] {
                    let (kz, ky) = (tap / kernel[1], tap % kernel[1]);
                    let line = (sample * size[0] + z * kernel[0] + kz) * size[1] + y * kernel[1] + ky;
                    let from = &source.data[line * size[2] * channels..][..size[2] * channels];
                    for (x, from) in from.chunks_exact(channels).enumerate() {
                        let sums = &mut sums[x / kernel[2] * channels..][..channels];
                        for c in 0..channels {
                            // Rounded as every map is that is stored.
                            sums[c] += wide(round(leaky(wide(from[c]).mul_add(scale[c], shift[c]), slope)));
                        }
                    }
                }
                for (out, sum) in out.iter_mut().zip(&sums) {
                    *out = round(sum * share);
                }
            },
        );
    });
}

/// A map as `[n, channels, z, y, x]` in single precision, normalised and activated, which is rounded.
///
/// # Panics
/// If a length contradicts another.
pub fn tile_to_planar(source: &TileSource<'_>, voxels: usize, out: &mut [f32]) {
    let channels = source.channels;
    let batch = source.data.len() / (channels * voxels);
    source.check(batch, voxels);
    assert_eq!(out.len(), source.data.len(), "values of the output");
    out.par_chunks_mut(voxels).enumerate().for_each(|(row, out)| {
        let (sample, c) = (row / channels, row % channels);
        let from = source.data[sample * channels * voxels + c..].iter().step_by(channels);
        match source.prologue {
            Some(Prologue { scale, shift, slope }) => {
                let (scale, shift) = (scale[row], shift[row]);
                for (to, &value) in out.iter_mut().zip(from) {
                    *to = wide(round(leaky(wide(value).mul_add(scale, shift), slope)));
                }
            }
            None => out.iter_mut().zip(from).for_each(|(to, &value)| *to = wide(value)),
        }
    });
}

/// The way back of [`tile_to_planar`]; rounds.
///
/// # Panics
/// If a length contradicts another.
pub fn tile_from_planar(planar: &[f32], [channels, voxels]: [usize; 2], out: &mut [bf16]) {
    assert_eq!(planar.len(), out.len(), "values of the output");
    assert!(out.len().is_multiple_of(channels * voxels), "{} values of {channels} x {voxels}", out.len());
    for (planar, out) in planar.chunks_exact(channels * voxels).zip(out.chunks_exact_mut(channels * voxels)) {
        out.par_chunks_mut(CHUNK * channels).enumerate().for_each(|(chunk, out)| {
            for (c, from) in planar.chunks_exact(voxels).enumerate() {
                let to = out[c..].iter_mut().step_by(channels);
                to.zip(&from[chunk * CHUNK..]).for_each(|(to, &value)| *to = round(value));
            }
        });
    }
}
