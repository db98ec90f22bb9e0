//! How a convolution is cut into jobs; a function of the shape alone.

use super::frame::Frame;
use super::leaf::{PAIR, ROWS};
use super::maps::bf16_values;
use super::pack::TileInput;
use super::upsample::Below;
use crate::conv3d::ConvShape;
use crate::scratch::Scratch;
use crate::transposed::TransposedShape;

/// Bytes of packed planes that a job keeps: half a second-level cache.
const PACKED_BYTES: usize = 896 << 10;
/// Jobs that a call is cut into where it is large enough.
const JOBS: usize = 16;
/// Blocks of 16 voxels that share one way through the weights.
const BLOCKS: usize = 48;

/// A job takes `rows` rows of `planes` planes at a time, one lot after the other along z.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    /// Output planes of a step, and rows of a strip.
    pub(super) planes: usize,
    pub(super) rows: usize,
    pub(super) strips: usize,
    /// Steps of a job along z, and jobs.
    pub(super) steps: usize,
    pub(super) segments: usize,
    /// Blocks of 32 output channels of a job, counted over all groups, and jobs side by side.
    pub(super) pairs: usize,
    pub(super) splits: usize,
    /// Planes, rows and voxels of a row of the ring.
    pub(super) ring: [usize; 3],
    /// Voxels of the sums of one output row, and blocks of 16 of one output plane.
    pub(super) row_sums: usize,
    pub(super) blocks: usize,
    /// Blocks run on from row to row, over the zeros between them.
    linear: bool,
}

impl Cut {
    pub(super) fn new(shape: &Frame) -> Self {
        let [zo, yo, xo] = shape.output;
        let [kz, ky, _] = shape.kernel;
        let [sz, sy, sx] = shape.stride;
        let width = shape.width;
        let row_bytes = width * shape.in_channels * 2;
        let bytes =
            |planes: usize, rows: usize| ((planes - 1) * sz + kz) * ((rows - 1) * sy + ky) * row_bytes;
        let mut rows = yo;
        while rows > 1 && bytes(1, rows) > PACKED_BYTES {
            rows -= 1;
        }
        // A single plane is shared along y.
        let strips = yo.div_ceil(rows).max(JOBS.div_ceil(shape.batch * zo).min(yo.div_ceil(8)));
        rows = yo.div_ceil(strips);
        let strips = yo.div_ceil(rows);
        let dense = (rows - 1) * width + xo;
        let linear = sx == 1 && sy == 1 && dense.div_ceil(ROWS) <= rows * xo.div_ceil(ROWS);
        let (row_sums, blocks) = if linear {
            (width, dense.div_ceil(ROWS))
        } else {
            (xo.next_multiple_of(ROWS), rows * xo.div_ceil(ROWS))
        };
        let mut planes = 1;
        while planes < zo && planes * blocks < BLOCKS && bytes(planes + 1, rows) <= PACKED_BYTES {
            planes += 1;
        }
        let lots = zo.div_ceil(planes);
        // A segment packs planes that its neighbours pack too: not for fewer than eight.
        let most = (zo / 8).clamp(1, lots);
        let segments = JOBS.div_ceil(shape.batch * strips).min(most);
        let steps = lots.div_ceil(segments);
        let segments = lots.div_ceil(steps);
        let all = shape.groups.len() * shape.pairs();
        let splits = JOBS.div_ceil(shape.batch * strips * segments).clamp(1, all.max(1));
        let pairs = all.div_ceil(splits).max(1);
        let splits = all.div_ceil(pairs);
        let ring = [(planes - 1) * sz + kz, (rows - 1) * sy + ky, width];
        Self { planes, rows, strips, steps, segments, pairs, splits, ring, row_sums, blocks, linear }
    }

    /// Jobs of a sample, but for those that differ in their channels.
    pub(super) fn parts(&self) -> usize {
        self.strips * self.segments
    }

    /// Voxels of the ring from the first one of a plane to the first that block `block` of its outputs reads.
    pub(super) fn block_start(&self, shape: &Frame, block: usize) -> usize {
        if self.linear {
            return block * ROWS;
        }
        let of_row = self.row_sums / ROWS;
        block / of_row * shape.stride[1] * self.ring[2] + block % of_row * ROWS * shape.stride[2]
    }

    /// Blocks of a strip of fewer rows.
    pub(super) fn blocks_of(&self, shape: &Frame, rows: usize) -> usize {
        if self.linear {
            ((rows - 1) * self.ring[2] + shape.output[2]).div_ceil(ROWS)
        } else {
            rows * self.row_sums / ROWS
        }
    }

    /// Values of the ring of packed planes, with what blocks read behind it.
    pub(super) fn ring_len(&self, shape: &Frame) -> usize {
        let [planes, rows, width] = self.ring;
        let last = ((planes - 1) * rows + shape.kernel[1] - 1) * width
            + self.block_start(shape, self.blocks - 1)
            + (ROWS - 1) * shape.stride[2];
        let read = last * shape.in_channels + shape.row_reads();
        read.max(planes * rows * width * shape.in_channels).next_multiple_of(PAIR)
    }

    /// Values of the sums of a step, with a block that fills up a pair.
    pub(super) fn sums_len(&self) -> usize {
        (self.planes * self.blocks + 1) * ROWS * PAIR
    }

    /// Rows of the smaller map that a strip's rows of an upsampled one read.
    pub(super) fn below_rows(&self, up: &TransposedShape) -> usize {
        ((self.ring[1] - 1) / up.kernel[1] + 2).min(up.input[1])
    }

    fn per_thread(&self, shape: &Frame, up: Option<&TransposedShape>) -> usize {
        let below = up.map_or(0, |up| Below::len(up, self.below_rows(up)));
        bf16_values(self.ring_len(shape)) + self.sums_len() + below
    }

    pub(super) fn scratch(&self, shape: &Frame, inputs: &[TileInput<'_>]) -> usize {
        let up = inputs.iter().find_map(|input| match input {
            TileInput::Upsampled(up) => Some(up.shape),
            _ => None,
        });
        self.per_thread(shape, up)
    }
}

/// What [`super::tile_conv3d`] takes next to its operands, with an input that is upsampled if there is one.
pub fn tile_conv3d_scratch(shape: &ConvShape, upsampled: Option<&TransposedShape>) -> Scratch {
    let frame = Frame::forward(shape);
    Scratch { per_thread: Cut::new(&frame).per_thread(&frame, upsampled), lent: 0 }
}

/// What [`super::tile_conv3d_backward_data`] takes next to its operands.
pub fn tile_conv3d_backward_data_scratch(shape: &ConvShape) -> Scratch {
    let frame = Frame::backward(shape);
    Scratch { per_thread: Cut::new(&frame).per_thread(&frame, None), lent: 0 }
}

/// Whether an input should be upsampled as it is read: not where several jobs would do it again for their channels.
pub fn tile_upsampling_fits(shape: &ConvShape) -> bool {
    Cut::new(&Frame::forward(shape)).splits == 1
}
