//! How the gradient of a convolution's weights is cut into jobs; a function of the shape alone.

use super::leaf::PAIR;
use super::maps::bf16_values;
use crate::conv3d::ConvShape;
use crate::scratch::Scratch;

/// Bytes of packed planes and gradients that a job keeps: half a second-level cache.
const PACKED_BYTES: usize = 896 << 10;
/// Jobs that a call is cut into where it is large enough.
const JOBS: usize = 16;
/// Values of all partial sums together.
const PARTIAL_VALUES: usize = 4 << 20;
/// Steps of 32 voxels whose packed values should stay in the first-level cache.
pub(super) const CHUNK: usize = 8;
/// Values of the sums of one tap of a pair of blocks.
pub(super) const BLOCK: usize = PAIR * PAIR;

/// A job takes some blocks of 32 inputs and 32 outputs, and some units: a strip of rows of a sample, in a range of planes.
#[derive(Debug, Clone)]
pub(super) struct OuterCut {
    /// Output rows of a strip.
    pub(super) rows: usize,
    pub(super) strips: usize,
    /// Output planes that are multiplied together, and such lots of a unit.
    pub(super) planes: usize,
    pub(super) lots: usize,
    pub(super) segments: usize,
    /// Blocks of 32 inputs and outputs, of all and of a job, and jobs side by side.
    pub(super) all: [usize; 2],
    pub(super) pairs: [usize; 2],
    pub(super) splits: [usize; 2],
    /// Jobs whose sums are added up, and units of each.
    pub(super) parts: usize,
    pub(super) units: usize,
    /// Phases of a plane along y and x: voxels of equal remainder lie together.
    pub(super) phases: [usize; 2],
    /// Packed planes of inputs; voxels of a packed row; values of a packed channel.
    pub(super) slots: usize,
    pub(super) width: usize,
    pub(super) pitch: usize,
    /// Blocks of 32 voxels of an output plane.
    pub(super) blocks: usize,
}

impl OuterCut {
    pub(super) fn new(shape: &ConvShape) -> Self {
        let [zo, yo, xo] = shape.output();
        let [kz, ky, kx] = shape.kernel;
        let [sz, sy, sx] = shape.stride;
        let all = [shape.in_channels, shape.out_channels].map(|c| c.div_ceil(PAIR));
        let weights = all[0] * all[1] * shape.taps() * BLOCK;
        let most = (PARTIAL_VALUES / weights).clamp(1, JOBS);
        // Packing inputs costs more than packing gradients: their blocks are shared out first.
        let wanted = JOBS.div_ceil(most);
        let first = wanted.min(all[0]);
        let mut splits = [first, wanted.div_ceil(first).min(all[1])];
        let pairs: [usize; 2] = std::array::from_fn(|i| all[i].div_ceil(splits[i]));
        splits = std::array::from_fn(|i| all[i].div_ceil(pairs[i]));
        let phases = [sy.min(ky), sx.min(kx)];
        // Pairs of voxels do not cross rows.
        let width = (xo + (kx - 1) / sx).max((shape.input[2] - 1 + shape.padding[2]) / sx + 1);
        let width = width.next_multiple_of(2);
        let blocks = |rows: usize| ((rows - 1) * width + xo).div_ceil(PAIR);
        let pitch = |rows: usize| {
            let read = blocks(rows) * PAIR + (ky - 1) / sy * width + (kx - 1) / sx;
            let lines = read.max((rows + (ky - 1) / sy) * width).div_ceil(PAIR);
            // An even number of cache lines from channel to channel would let them compete for places in the cache.
            (lines | 1) * PAIR
        };
        let bytes = |planes: usize, rows: usize| {
            let inputs = ((planes - 1) * sz + kz) * phases[0] * phases[1] * pairs[0] * pitch(rows);
            2 * PAIR * (inputs + planes * pairs[1] * blocks(rows) * PAIR)
        };
        let mut rows = yo;
        while rows > 1 && bytes(1, rows) > PACKED_BYTES {
            rows -= 1;
        }
        let strips = yo.div_ceil(rows);
        let rows = yo.div_ceil(strips);
        let strips = yo.div_ceil(rows);
        let mut planes = 1;
        while planes < zo && planes * blocks(rows) < 2 * CHUNK && bytes(planes + 1, rows) <= PACKED_BYTES {
            planes += 1;
        }
        let lots = zo.div_ceil(planes);
        let segments = most.div_ceil(shape.batch * strips).min((zo / 8).clamp(1, lots));
        let lots = lots.div_ceil(segments);
        let segments = zo.div_ceil(planes).div_ceil(lots);
        let all_units = shape.batch * strips * segments;
        let units = all_units.div_ceil(most.min(all_units));
        Self {
            rows,
            strips,
            planes,
            lots,
            segments,
            all,
            pairs,
            splits,
            parts: all_units.div_ceil(units),
            units,
            phases,
            slots: (planes - 1) * sz + kz,
            width,
            pitch: pitch(rows),
            blocks: blocks(rows),
        }
    }

    /// Values of a packed plane of inputs.
    pub(super) fn slot_len(&self) -> usize {
        self.phases[0] * self.phases[1] * self.pairs[0] * PAIR * self.pitch
    }

    /// Values of a packed plane of gradients, of 32 channels.
    pub(super) fn plane_len(&self) -> usize {
        self.blocks * PAIR * PAIR
    }

    /// Values of all packed inputs and gradients.
    pub(super) fn packed_len(&self) -> [usize; 2] {
        [self.slots * self.slot_len(), self.planes * self.pairs[1] * self.plane_len()]
    }

    /// Values of the sums of one part.
    pub(super) fn sums_len(&self, taps: usize) -> usize {
        self.all[0] * self.all[1] * taps * BLOCK
    }

    pub(super) fn scratch(&self, taps: usize) -> Scratch {
        let per_thread = self.packed_len().into_iter().map(bf16_values).sum();
        Scratch { per_thread, lent: self.parts * self.sums_len(taps) }
    }
}

/// What [`super::tile_conv3d_backward_weights`] takes next to its operands.
pub fn tile_conv3d_backward_weights_scratch(shape: &ConvShape) -> Scratch {
    OuterCut::new(shape).scratch(shape.taps())
}
