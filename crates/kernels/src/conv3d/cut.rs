//! How a Winograd convolution is cut into jobs.

use super::ConvShape;
use super::frequencies::{FREQ, OUT};

/// Output channels per packed block of weights.
pub(super) const CO_BLOCK: usize = 16;
/// Output channels whose products are held at once.
pub(super) const CO_HELD: usize = 64;

/// Frequencies of height and width.
pub(super) const GROUPS: usize = FREQ * FREQ;

/// First output voxel of a chunk; `None` behind the last chunk.
pub(super) type Chunk = Option<[usize; 3]>;

/// How a call is cut into jobs; a function of the shape and the lanes alone.
///
/// Where a layer of tiles (one tile deep) fills enough vectors, a job *marches* along the depth: it keeps the two planes
/// that the next tile needs again, and so reads and transforms four new planes per tile instead of six. In small volumes
/// vectors of tiles continue from one layer to the next, and a job takes one step only.
#[derive(Debug, Clone)]
pub(super) struct Cut {
    pub(super) lanes: usize,
    /// Frequencies along depth, and outputs per tile: 6 and 4, or 1 and 1.
    pub(super) depth: [usize; 2],
    pub(super) output: [usize; 3],
    /// Tiles along depth and height, chunks along width.
    pub(super) tiles: [usize; 3],
    /// Vectors of tiles per job and step.
    pub(super) held: usize,
    /// Jobs side by side, jobs along the depth, steps per job.
    pub(super) blocks: usize,
    pub(super) segments: usize,
    pub(super) steps: usize,
    /// Output channels per job.
    pub(super) co_chunk: usize,
}

impl Cut {
    pub(super) fn new(shape: &ConvShape, output: [usize; 3], lanes: usize) -> Self {
        let depth = if shape.kernel[0] == 3 { [FREQ, OUT] } else { [1, 1] };
        let tiles = [output[0].div_ceil(depth[1]), output[1].div_ceil(OUT), output[2].div_ceil(lanes)];
        let layer = (tiles[1] * tiles[2]).div_ceil(4);
        let held = held(shape, layer * tiles[0]);
        let marching = depth[0] == FREQ && layer >= held;
        let (blocks, steps) = if marching {
            let blocks = layer.div_ceil(held);
            // At least 16 jobs where that leaves two steps per job.
            let segments = 16usize.div_ceil(shape.batch * blocks).min(tiles[0] / 2).max(1);
            (blocks, tiles[0].div_ceil(segments))
        } else {
            ((tiles.iter().product::<usize>()).div_ceil(4).div_ceil(held), 1)
        };
        let segments = if marching { tiles[0].div_ceil(steps) } else { 1 };
        let jobs = shape.batch * blocks * segments;
        // At least 16 jobs where that leaves 64 output channels per job: a job transforms all its input itself.
        let parts = shape.out_channels.div_ceil(64);
        let splits = 16usize.div_ceil(jobs).min(parts).max(1);
        let co_chunk = parts.div_ceil(splits) * 64;
        Self { lanes, depth, output, tiles, held, blocks, segments, steps, co_chunk }
    }

    /// Values of every buffer of a job, in the order of [`Job`]'s fields.
    pub(super) fn lengths(&self, shape: &ConvShape) -> [usize; 7] {
        let vector = self.held * self.lanes;
        let [deep, outs] = self.depth;
        let held = CO_HELD.min(shape.out_channels.next_multiple_of(CO_BLOCK));
        let group = self.group(shape);
        [
            deep * FREQ * 8 * vector,
            deep * GROUPS * self.lanes,
            GROUPS * group,
            group,
            deep * CO_BLOCK * vector,
            held * outs * FREQ * vector,
            held * outs * FREQ * OUT * vector,
        ]
    }

    /// Values per frequency of height and width: a few more than there are, so that they do not fall onto the same cache sets.
    pub(super) fn group(&self, shape: &ConvShape) -> usize {
        shape.in_channels * self.depth[0] * self.held * self.lanes + 16
    }

    /// First output voxel of chunk `chunk` of a job's vectors at a step.
    pub(super) fn chunk(&self, segment: usize, step: usize, chunk: usize) -> Chunk {
        let [td, th, tw] = self.tiles;
        let (z, i) = if self.steps > 1 || self.segments > 1 {
            let z = segment * self.steps + step;
            if chunk >= th * tw {
                return None;
            }
            (z, chunk)
        } else {
            (chunk / (th * tw), chunk % (th * tw))
        };
        (z < td).then(|| [z * self.depth[1], i / tw * OUT, i % tw * self.lanes])
    }
}

/// Vectors of tiles per job and step. Two keep 32 channels in a 2 MiB cache and let every transformed weight that is
/// loaded serve twice; with many channels the weights come from further away and must serve more often.
fn held(shape: &ConvShape, vectors: usize) -> usize {
    let held = if shape.in_channels < 256 { 2 } else { 4 };
    held.min(vectors)
}
