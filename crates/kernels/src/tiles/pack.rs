//! What a convolution reads, and the ring of planes that it is packed into.

use half::bf16;

use super::cut::Cut;
use super::frame::Frame;
use super::leaf::{Copy, Tiles};
use super::token::Amx;
use super::upsample::{Below, Rows};
use super::weights::PackedTiles;
use crate::conv3d::ConvShape;
use crate::source::Prologue;
use crate::transposed::TransposedShape;

/// A map `[n, z, y, x, channels]`.
#[derive(Debug, Clone, Copy)]
pub struct TileSource<'a> {
    /// The values.
    pub data: &'a [bf16],
    /// Number of channels.
    pub channels: usize,
    /// Normalisation and activation to apply while reading.
    pub prologue: Option<Prologue<'a>>,
}

impl<'a> TileSource<'a> {
    /// A map read as it is.
    pub fn plain(data: &'a [bf16], channels: usize) -> Self {
        Self { data, channels, prologue: None }
    }

    /// Factor, offset and slope of a sample.
    pub(super) fn factors(&self, sample: usize) -> Option<(&'a [f32], &'a [f32], f32)> {
        let c = self.channels;
        self.prologue.map(|p| (&p.scale[sample * c..][..c], &p.shift[sample * c..][..c], p.slope))
    }

    pub(super) fn check(&self, batch: usize, voxels: usize) {
        assert_eq!(self.data.len(), batch * voxels * self.channels, "values of a map");
        if let Some(p) = self.prologue {
            assert_eq!([p.scale.len(), p.shift.len()], [batch * self.channels; 2], "length of a prologue");
            assert!(p.slope <= 1.0, "slope {} of a leaky ReLU above 1", p.slope);
        }
    }
}

/// A map that a transposed convolution upsamples.
#[derive(Debug, Clone, Copy)]
pub struct TileUpsampling<'a> {
    /// Its sizes.
    pub shape: &'a TransposedShape,
    /// What it reads.
    pub source: TileSource<'a>,
    /// Its weights.
    pub weights: &'a PackedTiles,
    /// Its bias.
    pub bias: Option<&'a [f32]>,
}

impl TileUpsampling<'_> {
    pub(super) fn check(&self) {
        self.source.check(self.shape.batch, self.shape.in_voxels());
        assert_eq!(self.source.channels, self.shape.in_channels, "channels of the map");
        assert_eq!(self.weights.out_channels, self.shape.out_channels, "outputs of the weights");
        assert!(self.bias.is_none_or(|b| b.len() == self.shape.out_channels), "values of the bias");
    }
}

/// One of the maps that a convolution reads as if concatenated along the channels.
#[derive(Debug, Clone, Copy)]
pub enum TileInput<'a> {
    /// A map.
    Map(TileSource<'a>),
    /// An image in single precision, `[n, channels, z, y, x]`.
    Planar {
        /// The values.
        data: &'a [f32],
        /// Number of channels.
        channels: usize,
    },
    /// A map that is upsampled as it is read.
    Upsampled(TileUpsampling<'a>),
}

impl TileInput<'_> {
    /// Number of channels.
    pub fn channels(&self) -> usize {
        match self {
            Self::Map(source) => source.channels,
            Self::Planar { channels, .. } => *channels,
            Self::Upsampled(up) => up.shape.out_channels,
        }
    }

    pub(super) fn check(&self, shape: &ConvShape) {
        match self {
            Self::Map(source) => source.check(shape.batch, shape.in_voxels()),
            Self::Planar { data, channels } => {
                assert_eq!(data.len(), shape.batch * channels * shape.in_voxels(), "values of an image");
            }
            Self::Upsampled(up) => {
                up.check();
                assert_eq!(
                    (up.shape.batch, up.shape.output()),
                    (shape.batch, shape.input),
                    "size of an upsampled map"
                );
            }
        }
    }
}

/// The planes that a job's strip reads, each in the slot of its number.
pub(super) struct Ring<'a> {
    pub(super) amx: Amx,
    pub(super) tiles: &'a Tiles,
    pub(super) shape: &'a Frame,
    pub(super) cut: &'a Cut,
    pub(super) inputs: &'a [TileInput<'a>],
    pub(super) sample: usize,
    /// First row of the strip among all with padding.
    pub(super) first_row: usize,
    /// `[slot, row, x, channel]`.
    pub(super) values: &'a mut [bf16],
    /// For upsampling.
    pub(super) scratch: &'a mut [f32],
}

impl Ring<'_> {
    /// Packs plane `plane`, counted with padding. Rows and columns of padding are zero already.
    pub(super) fn pack(&mut self, plane: usize) {
        let [slots, rows, width] = self.cut.ring;
        let len = rows * width * self.shape.in_channels;
        let start = plane % slots * len;
        let [depth, height, _] = self.shape.input;
        let [pz, py, px] = self.shape.padding;
        let Some(z) = plane.checked_sub(pz).filter(|&z| z < depth) else {
            self.values[start..start + len].fill(bf16::ZERO);
            return;
        };
        // Rows of the image that the strip has.
        let first = self.first_row.max(py) - py;
        let last = (self.first_row + rows).saturating_sub(py).min(height);
        if first >= last {
            return;
        }
        let (pitch, first_row) = (self.shape.in_channels, self.first_row);
        let mut channel = 0;
        for input in self.inputs {
            let place = |y: usize| start + ((y + py - first_row) * width + px) * pitch + channel;
            match input {
                TileInput::Map(source) => self.copy(source, z, first..last, place),
                TileInput::Planar { data, channels } => self.planar(data, *channels, z, first..last, place),
                TileInput::Upsampled(up) => self.upsample(up, z, first..last, place),
            }
            channel += input.channels();
        }
    }

    fn copy(
        &mut self,
        source: &TileSource<'_>,
        z: usize,
        rows: std::ops::Range<usize>,
        place: impl Fn(usize) -> usize,
    ) {
        let [depth, height, width] = self.shape.input;
        let len = width * source.channels;
        let prologue = source.factors(self.sample);
        for y in rows {
            let from = &source.data[((self.sample * depth + z) * height + y) * len..][..len];
            let to = &mut self.values[place(y)..];
            let (channels, pitch) = (source.channels, self.shape.in_channels);
            Copy { from, step: channels, channels, prologue, to, pitch }.run(self.amx);
        }
    }

    fn planar(
        &mut self,
        data: &[f32],
        channels: usize,
        z: usize,
        rows: std::ops::Range<usize>,
        place: impl Fn(usize) -> usize,
    ) {
        let [depth, height, width] = self.shape.input;
        let pitch = self.shape.in_channels;
        for y in rows {
            let to = &mut self.values[place(y)..][..(width - 1) * pitch + channels];
            for c in 0..channels {
                let from =
                    &data[(((self.sample * channels + c) * depth + z) * height + y) * width..][..width];
                for (to, &value) in to[c..].iter_mut().step_by(pitch).zip(from) {
                    *to = bf16::from_f32(value);
                }
            }
        }
    }

    fn upsample(
        &mut self,
        up: &TileUpsampling<'_>,
        z: usize,
        rows: std::ops::Range<usize>,
        place: impl Fn(usize) -> usize,
    ) {
        let [kz, ky, _] = up.shape.kernel;
        let (first_row, end) = (rows.start / ky, rows.end.div_ceil(ky));
        let below = Below { up, sample: self.sample, z: z / kz, first_row, rows: end - first_row };
        below.pack(self.amx, self.scratch);
        let values = self.values.as_mut_ptr();
        let len = self.values.len();
        let (width, channels, pitch) = (self.shape.input[2], up.shape.out_channels, self.shape.in_channels);
        let place = |y: usize| {
            rows.contains(&y).then(|| {
                assert!(place(y) + (width - 1) * pitch + channels <= len, "room for an upsampled row");
                values.wrapping_add(place(y))
            })
        };
        // SAFETY: the rows lie in the ring, as was checked, which is borrowed mutably.
        unsafe { below.multiply(self.amx, self.tiles, self.scratch, &Rows { tap: z % kz, pitch, place }) };
    }
}
