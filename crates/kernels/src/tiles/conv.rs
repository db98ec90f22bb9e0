//! Convolutions.

use half::bf16;
use rayon::prelude::*;

use super::cut::Cut;
use super::frame::Frame;
use super::leaf::{Finish, PAIR, Product, ROWS, Tiles};
use super::maps::{bf16_values, bf16_view_mut};
use super::pack::{Ring, TileInput, TileSource};
use super::token::Amx;
use super::upsample::padded;
use super::weights::PackedTiles;
use crate::buffer::{Shared, with_scratch};
use crate::conv3d::ConvShape;
use crate::stats::{ChannelStats, Partial};

/// Operands of a convolution.
#[derive(Debug, Clone, Copy)]
pub struct TileCall<'a> {
    /// Its sizes.
    pub shape: &'a ConvShape,
    /// What it reads, as if concatenated along the channels; one of them at most upsampled.
    pub inputs: &'a [TileInput<'a>],
    /// Its weights.
    pub weights: &'a PackedTiles,
    /// `[out_channels]`.
    pub bias: Option<&'a [f32]>,
}

/// What a convolution writes.
#[derive(Debug)]
pub enum TileOutput<'a> {
    /// A map `[n, z, y, x, out_channels]`, rounded.
    Map(&'a mut [bf16]),
    /// The same, added to what the map holds before it is rounded.
    Add(&'a mut [bf16]),
    /// Logits `[n, out_channels, z, y, x]` as they leave the sums.
    Planar(&'a mut [f32]),
}

impl TileOutput<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Map(values) | Self::Add(values) => values.len(),
            Self::Planar(values) => values.len(),
        }
    }
}

/// Convolution of any kernel, stride and padding, without dilation and groups; the sums of what it writes, before rounding, go to
/// `stats`. The same bytes for any number of threads.
///
/// # Panics
/// If a length contradicts the shape.
pub fn tile_conv3d(amx: Amx, call: &TileCall<'_>, output: TileOutput<'_>, stats: Option<&mut ChannelStats>) {
    let TileCall { shape, inputs, bias, .. } = *call;
    let channels: usize = inputs.iter().map(TileInput::channels).sum();
    assert_eq!(channels, shape.in_channels, "channels of all inputs");
    for input in inputs {
        input.check(shape);
    }
    assert!(bias.is_none_or(|b| b.len() == shape.out_channels), "values of the bias");
    assert!(stats.is_none() || !matches!(output, TileOutput::Add(_)), "sums of what is added");
    run(amx, &Frame::forward(shape), call, output, stats);
}

/// Gradient of the loss with respect to the input of `shape`'s convolution, behind its normalisation and activation.
///
/// # Shapes
/// `grad` is the gradient of the output, `[n, z, y, x, out_channels]`; `result` is `[n, z, y, x, in_channels]`: the gradient is
/// rounded and written, or with `add` added to what is there before it is rounded. The same bytes for any number of threads.
///
/// # Panics
/// If a length contradicts the shape, or the weights were not packed by [`PackedTiles::backward_data`] for it.
pub fn tile_conv3d_backward_data(
    amx: Amx,
    shape: &ConvShape,
    grad: &[bf16],
    weights: &PackedTiles,
    result: &mut [bf16],
    add: bool,
) {
    assert_eq!(grad.len(), shape.out_len(), "values of the output's gradient");
    let frame = Frame::backward(shape);
    if !add && !frame.covers() {
        result.par_chunks_mut(1 << 16).for_each(|part| part.fill(bf16::ZERO));
    }
    let inputs = [TileInput::Map(TileSource::plain(grad, shape.out_channels))];
    let call = TileCall { shape, inputs: &inputs, weights, bias: None };
    let output = if add { TileOutput::Add(result) } else { TileOutput::Map(result) };
    run(amx, &frame, &call, output, None);
}

fn run(
    amx: Amx,
    frame: &Frame,
    call: &TileCall<'_>,
    output: TileOutput<'_>,
    stats: Option<&mut ChannelStats>,
) {
    assert_eq!(output.len(), frame.out_len(), "values of the output");
    assert!(call.weights.fits(frame), "weights of another convolution");
    let cut = Cut::new(frame);
    let parts = cut.parts();
    let mut partial = stats.is_some().then(|| Partial::new(frame.batch * frame.out_channels, parts));
    let jobs = Jobs {
        amx,
        frame,
        call,
        cut: &cut,
        add: matches!(output, TileOutput::Add(_)),
        output: match output {
            TileOutput::Map(values) | TileOutput::Add(values) => Target::Map(Shared::new(values)),
            TileOutput::Planar(values) => Target::Planar(Shared::new(values)),
        },
        sums: partial.as_mut().map(|p| Shared::new(&mut p.sums)),
    };
    (0..frame.batch * parts * cut.splits).into_par_iter().for_each(|job| {
        let (split, part) = (job % cut.splits, job / cut.splits % parts);
        let sample = job / cut.splits / parts;
        with_scratch(cut.scratch(frame, call.inputs), |scratch| jobs.run(sample, part, split, scratch));
    });
    if let (Some(stats), Some(partial)) = (stats, partial) {
        partial.reduce(stats);
    }
}

#[derive(Clone, Copy)]
enum Target<'a> {
    Map(Shared<'a, bf16>),
    Planar(Shared<'a, f32>),
}

struct Jobs<'a> {
    amx: Amx,
    frame: &'a Frame,
    call: &'a TileCall<'a>,
    cut: &'a Cut,
    output: Target<'a>,
    /// Whether values are added to what the output holds.
    add: bool,
    /// Sums and squares of every sample, channel and part.
    sums: Option<Shared<'a, [f64; 2]>>,
}

/// A strip's planes of one step.
struct Lot {
    sample: usize,
    /// Output planes and rows.
    planes: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
}

impl Jobs<'_> {
    fn run(&self, sample: usize, part: usize, split: usize, scratch: &mut [f32]) {
        let (cut, shape) = (self.cut, self.frame);
        let (segment, strip) = (part / cut.strips, part % cut.strips);
        let rows = strip * cut.rows..shape.output[1].min((strip + 1) * cut.rows);
        let first = segment * cut.steps * cut.planes;
        let end = shape.output[0].min(first + cut.steps * cut.planes);
        let pairs = split * cut.pairs..(shape.groups.len() * shape.pairs()).min((split + 1) * cut.pairs);
        let (ring, rest) = scratch.split_at_mut(bf16_values(cut.ring_len(shape)));
        let (sums, below) = rest.split_at_mut(cut.sums_len());
        let ring = bf16_view_mut(ring);
        ring.fill(bf16::ZERO);
        let tiles = Tiles::new(self.amx);
        let mut ring = Ring {
            amx: self.amx,
            tiles: &tiles,
            shape,
            cut,
            inputs: self.call.inputs,
            sample,
            first_row: rows.start * shape.stride[1],
            values: ring,
            scratch: below,
        };
        let mut totals = vec![[[0f64; 2]; PAIR]; pairs.len()];
        let mut packed = first * shape.stride[0];
        for z in (first..end).step_by(cut.planes) {
            let planes = z..end.min(z + cut.planes);
            let needed = (planes.end - 1) * shape.stride[0] + shape.kernel[0];
            // With a stride beyond the kernel some planes are read by nobody.
            for plane in packed.max(z * shape.stride[0])..needed {
                ring.pack(plane);
            }
            packed = needed;
            let lot = Lot { sample, planes, rows: rows.clone() };
            for (pair, totals) in pairs.clone().zip(&mut totals) {
                self.multiply(&tiles, ring.values, &lot, pair, sums);
                self.finish(&lot, pair, sums, totals);
            }
        }
        let Some(target) = self.sums else { return };
        // A convolution whose output is counted has one group.
        for (pair, totals) in pairs.zip(&totals) {
            for (c, &total) in totals.iter().enumerate().take(shape.out_channels - pair * PAIR) {
                let row = sample * shape.out_channels + pair * PAIR + c;
                // SAFETY: this job alone has this part of these channels.
                unsafe { target.write(row * cut.parts() + part, [total]) };
            }
        }
    }

    /// Sums of 32 channels of a group, of all voxels of a lot.
    fn multiply(&self, tiles: &Tiles, ring: &[bf16], lot: &Lot, pair: usize, sums: &mut [f32]) {
        let (cut, shape) = (self.cut, self.frame);
        let bytes = shape.in_channels * size_of::<bf16>();
        let [slots, rows, width] = cut.ring;
        let (group, pair) = (pair / shape.pairs(), pair % shape.pairs());
        let weights = self.call.weights.block(group, pair);
        let group = &shape.groups[group];
        let [in_row, all] = shape.steps(group);
        let [_, ky, _] = group.taps;
        // The last strip may have fewer rows.
        let blocks =
            if lot.rows.len() == cut.rows { cut.blocks } else { cut.blocks_of(shape, lot.rows.len()) };
        let mut offsets = vec![0usize; all];
        for (at, z) in lot.planes.clone().enumerate() {
            for (row, offsets) in offsets.chunks_exact_mut(in_row).enumerate() {
                let slot = (z * shape.stride[0] + group.first[0] + row / ky) % slots;
                let start = (slot * rows + group.first[1] + row % ky) * width + group.first[2];
                for (step, offset) in offsets.iter_mut().enumerate() {
                    *offset = start * bytes + step * PAIR * size_of::<bf16>();
                }
            }
            let first = at * cut.blocks;
            for block in (0..blocks).step_by(2) {
                let voxels = [block, (block + 1).min(blocks - 1)].map(|b| {
                    let start = cut.block_start(shape, b) * shape.in_channels;
                    debug_assert!(start < ring.len());
                    ring.as_ptr().wrapping_add(start)
                });
                let places = [first + block, first + block + 1].map(|b| b * ROWS * PAIR);
                assert!(places[1] + ROWS * PAIR <= sums.len(), "room for the sums");
                // SAFETY: the ring is as long as the last block of the last plane reads; the sums have room, as was checked, and
                // the second block of an odd last pair is written over by the next plane or lies behind all.
                unsafe {
                    tiles.multiply(Product {
                        voxels,
                        stride: shape.stride[2] * bytes,
                        offsets: &offsets,
                        weights: weights.as_ptr(),
                        sums: places.map(|place| sums.as_mut_ptr().add(place)),
                    });
                }
            }
        }
    }

    /// Writes 32 channels of a group, of all voxels of a lot.
    fn finish(&self, lot: &Lot, pair: usize, sums: &[f32], totals: &mut [[f64; 2]; PAIR]) {
        let (cut, shape) = (self.cut, self.frame);
        let [depth, height, width] = shape.target;
        let [sz, sy, sx] = shape.spread;
        let channels = shape.out_channels;
        let (group, pair) = (&shape.groups[pair / shape.pairs()], pair % shape.pairs());
        let [count_z, count_y, count_x] = group.output;
        let first = pair * PAIR;
        let count = (channels - first).min(PAIR);
        let bias = padded(self.call.bias, first);
        // Not every group has as many outputs as the frame.
        for (at, z) in lot.planes.clone().enumerate().filter(|(_, z)| *z < count_z) {
            for (i, y) in lot.rows.clone().enumerate().filter(|(_, y)| *y < count_y) {
                let sums = &sums[(at * cut.blocks * ROWS + i * cut.row_sums) * PAIR..][..count_x * PAIR];
                let (z, y, x) = (z * sz + group.from[0], y * sy + group.from[1], group.from[2]);
                match self.output {
                    Target::Map(out) => {
                        let start = (((lot.sample * depth + z) * height + y) * width + x) * channels + first;
                        let to = out.address(start).cast_mut();
                        let finish = Finish { sums, bias: &bias, to, pitch: sx * channels, channels: count };
                        // SAFETY: this job alone writes these channels of these voxels, which lie in the map.
                        unsafe {
                            finish.run(self.amx, self.add, self.sums.is_some().then_some(&mut *totals));
                        }
                    }
                    Target::Planar(out) => {
                        for (c, bias) in bias.iter().enumerate().take(count) {
                            let start = ((lot.sample * channels + first + c) * depth + z) * height + y;
                            // SAFETY: this job alone writes these rows; logits are not spread.
                            let row = unsafe { out.range(start * width, width) };
                            for (to, sums) in row.iter_mut().zip(sums.chunks_exact(PAIR)) {
                                *to = sums[c] + bias;
                            }
                        }
                    }
                }
            }
        }
    }
}
