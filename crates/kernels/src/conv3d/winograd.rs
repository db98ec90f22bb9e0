//! Winograd convolution, F(4, 3) along every axis the kernel spans with three taps.
//!
//! Tiles of 4 outputs per axis need 6 products instead of 12, so a 3×3×3 kernel costs 216 products per 64 outputs instead
//! of 1728, an eighth, and a 1×3×3 kernel a quarter. The interpolation points are 0, ±2/3, ±3/2 and infinity: with them the
//! relative L2 error of 256 channels is 3e-6, a third of what the usual 0, ±1, ±2 give, and the transforms stay as short
//! because the points are reciprocal (their squares multiply to one).
//!
//! A job is a few vectors of tiles of one sample. It transforms the tiles of all input channels, multiplies frequency by
//! frequency (a small matrix product each), and transforms back. Vectors hold one value of `LANES` tiles: a *chunk*
//! is `LANES / 4` neighbouring tiles along the width, `LANES` outputs, and a vector of tiles is four chunks, wherever they
//! lie, so that a 4×4 transposition turns four loads of contiguous values into the four values of all tiles.

use rayon::prelude::*;

use super::ConvShape;
use super::pack::{pack_row, zero_range};
use crate::buffer::{Buffer, Shared, with_scratch};
use crate::isa::{Cpu, Isa, Kernel};
use crate::source::{Plane, Source, plane};
use crate::stats::{ChannelStats, Partial};

/// Outputs per tile and axis, and frequencies.
const OUT: usize = 4;
const FREQ: usize = 6;
/// Output channels per packed block of weights.
const CO_BLOCK: usize = 16;
/// Output channels whose products are held at once.
const CO_HELD: usize = 16;

/// Chunks of the most vectors of tiles held.
const MAX_CHUNKS: usize = 16;

const A: f64 = 2.0 / 3.0;
const B: f64 = 3.0 / 2.0;

/// Whether this algorithm computes `shape`.
pub(super) fn supports(shape: &ConvShape) -> bool {
    shape.stride == [1; 3] && shape.kernel[1..] == [3, 3] && (shape.kernel[0] == 3 || shape.kernel[0] == 1)
}

/// Whether it is faster than the direct algorithm: enough channels to pay for the transforms, wide enough to fill tiles.
pub(super) fn pays(shape: &ConvShape) -> bool {
    supports(shape) && shape.in_channels >= 16 && shape.out_channels >= 16 && shape.output()[2] >= 12
}

/// The six frequencies of three taps.
fn weight_frequencies(g: [f64; 3]) -> [f64; FREQ] {
    let (a2, b2) = (A * A, B * B);
    let (na, nb) = (1.0 / (2.0 * a2 * (a2 - b2)), 1.0 / (2.0 * b2 * (b2 - a2)));
    [
        g[0],
        na * (g[0] + A * g[1] + a2 * g[2]),
        na * (g[0] - A * g[1] + a2 * g[2]),
        nb * (g[0] + B * g[1] + b2 * g[2]),
        nb * (g[0] - B * g[1] + b2 * g[2]),
        g[2],
    ]
}

/// Frequencies of six inputs.
#[inline(always)]
fn forward<I: Isa>(isa: I, d: [I::F32; FREQ]) -> [I::F32; FREQ] {
    let s = isa.splat((A * A + B * B) as f32);
    let (a, b) = (isa.splat(A as f32), isa.splat(B as f32));
    let (a2, b2) = (isa.splat((A * A) as f32), isa.splat((B * B) as f32));
    let (even_a, odd_a) = (isa.fnma(b2, d[2], d[4]), isa.fnma(b2, d[1], d[3]));
    let (even_b, odd_b) = (isa.fnma(a2, d[2], d[4]), isa.fnma(a2, d[1], d[3]));
    [
        isa.add(isa.fnma(s, d[2], d[0]), d[4]),
        isa.fma(a, odd_a, even_a),
        isa.fnma(a, odd_a, even_a),
        isa.fma(b, odd_b, even_b),
        isa.fnma(b, odd_b, even_b),
        isa.add(isa.fnma(s, d[3], d[5]), d[1]),
    ]
}

/// Four outputs from six frequencies.
#[inline(always)]
fn backward<I: Isa>(isa: I, m: [I::F32; FREQ]) -> [I::F32; OUT] {
    let (a, b) = (isa.splat(A as f32), isa.splat(B as f32));
    let (a2, b2) = (isa.splat((A * A) as f32), isa.splat((B * B) as f32));
    let (a3, b3) = (isa.splat((A * A * A) as f32), isa.splat((B * B * B) as f32));
    let (even_a, odd_a) = (isa.add(m[1], m[2]), isa.sub(m[1], m[2]));
    let (even_b, odd_b) = (isa.add(m[3], m[4]), isa.sub(m[3], m[4]));
    [
        isa.add(isa.add(m[0], even_a), even_b),
        isa.fma(a, odd_a, isa.mul(b, odd_b)),
        isa.fma(a2, even_a, isa.mul(b2, even_b)),
        isa.fma(a3, odd_a, isa.fma(b3, odd_b, m[5])),
    ]
}

/// Groups of [`FREQ`] frequencies: along depth (one if the kernel is flat) times along height.
fn groups(kernel: [usize; 3]) -> usize {
    if kernel[0] == 3 { FREQ * FREQ } else { FREQ }
}

/// Transformed weights, `[group][co / 16][6][ci][16]`, missing output channels zero.
pub(super) fn pack_weights(shape: &ConvShape, weights: &[f32]) -> Buffer {
    let (ci, taps) = (shape.in_channels, shape.taps());
    let blocks = shape.out_channels.div_ceil(CO_BLOCK);
    let groups = groups(shape.kernel);
    let panel = FREQ * ci * CO_BLOCK;
    let mut packed = Buffer::zeroed(groups * blocks * panel);
    let shared = Shared::new(&mut packed);
    (0..shape.out_channels).into_par_iter().for_each(|co| {
        for c in 0..ci {
            let g = &weights[(co * ci + c) * taps..][..taps];
            let tap = |z: usize, y: usize, x: usize| f64::from(g[(z * 3 + y) * 3 + x]);
            // Depth, then height, then width; a flat kernel has one plane of taps and of frequencies.
            let mut planes = [[[0.0; 3]; 3]; FREQ];
            for y in 0..3 {
                for x in 0..3 {
                    if shape.kernel[0] == 3 {
                        let f = weight_frequencies([tap(0, y, x), tap(1, y, x), tap(2, y, x)]);
                        for (plane, f) in planes.iter_mut().zip(f) {
                            plane[y][x] = f;
                        }
                    } else {
                        planes[0][y][x] = tap(0, y, x);
                    }
                }
            }
            for (z, plane) in planes.iter().take(groups / FREQ).enumerate() {
                let mut rows = [[0.0; 3]; FREQ];
                for x in 0..3 {
                    let f = weight_frequencies([plane[0][x], plane[1][x], plane[2][x]]);
                    for (row, f) in rows.iter_mut().zip(f) {
                        row[x] = f;
                    }
                }
                for (y, row) in rows.iter().enumerate() {
                    for (x, f) in weight_frequencies(*row).into_iter().enumerate() {
                        let at = ((z * FREQ + y) * blocks + co / CO_BLOCK) * panel + (x * ci + c) * CO_BLOCK;
                        // SAFETY: this output channel's lane of the panel, written by nobody else.
                        unsafe { shared.range(at + co % CO_BLOCK, 1)[0] = f as f32 }
                    }
                }
            }
        }
    });
    packed
}

/// How a call is cut into jobs; a function of the shape and the lanes alone.
///
/// Where a layer of tiles (one tile deep) fills enough vectors, a job *marches* along the depth: it keeps the two planes
/// that the next tile needs again, and so reads and transforms four new planes per tile instead of six. In small volumes
/// vectors of tiles go on from one layer to the next, and a job takes one step only.
#[derive(Debug, Clone)]
struct Cut {
    lanes: usize,
    /// Frequencies along depth, and outputs per tile: 6 and 4, or 1 and 1.
    depth: [usize; 2],
    output: [usize; 3],
    /// Tiles along depth and height, chunks along width.
    tiles: [usize; 3],
    /// Vectors of tiles per job and step.
    held: usize,
    /// Jobs side by side, jobs along the depth, steps per job.
    blocks: usize,
    segments: usize,
    steps: usize,
    /// Output channels per job.
    co_chunk: usize,
}

impl Cut {
    fn new(shape: &ConvShape, lanes: usize) -> Self {
        let output = shape.output();
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

    /// First output voxel of chunk `chunk` of a job's vectors at a step.
    fn chunk(&self, segment: usize, step: usize, chunk: usize) -> Chunk {
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

/// The call: everything the jobs share.
pub(super) struct Winograd<'a> {
    pub(super) cpu: Cpu,
    pub(super) shape: &'a ConvShape,
    pub(super) sources: &'a [Source<'a>],
    pub(super) weights: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
}

impl Winograd<'_> {
    pub(super) fn run(&self, out: &mut [f32], stats: Option<&mut ChannelStats>) {
        let shape = self.shape;
        let cut = Cut::new(shape, self.cpu.lanes());
        let parts = shape.out_channels.div_ceil(cut.co_chunk);
        let places = cut.blocks * cut.segments;
        let mut partial = stats.as_ref().map(|_| Partial::new(shape.batch * shape.out_channels, places));
        let shared = Shared::new(out);
        let shared_stats = partial.as_mut().map(|p| Shared::new(&mut p.sums));
        let group = cut.held * cut.lanes * FREQ;
        let groups = groups(shape.kernel);
        // Rows of one input channel, its frequencies, all channels' kept planes and frequencies, products.
        let rows = cut.depth[0] * FREQ * 8 * cut.held * cut.lanes;
        let tile = groups * FREQ * cut.lanes;
        let kept = if cut.steps > 1 { 2 * FREQ * group * shape.in_channels } else { 0 };
        // A little more than the values per group, so that groups do not fall onto the same cache sets.
        let in_group = shape.in_channels * group + 16;
        let out_group = CO_HELD.min(shape.out_channels.next_multiple_of(CO_BLOCK)) * group + 16;
        (0..shape.batch * places * parts).into_par_iter().for_each(|job| {
            let (rest, part) = (job / parts, job % parts);
            let (n, place) = (rest / places, rest % places);
            with_scratch(rows + tile + kept + groups * (in_group + out_group), |scratch| {
                let (rows, scratch) = scratch.split_at_mut(rows);
                let (tile, scratch) = scratch.split_at_mut(tile);
                let (kept, scratch) = scratch.split_at_mut(kept);
                let (input, products) = scratch.split_at_mut(groups * in_group);
                self.cpu.dispatch(Job {
                    call: self,
                    cut: &cut,
                    n,
                    block: place / cut.segments,
                    segment: place % cut.segments,
                    co: part * cut.co_chunk,
                    co_end: ((part + 1) * cut.co_chunk).min(shape.out_channels),
                    out: shared,
                    stats: shared_stats,
                    rows,
                    tile,
                    kept,
                    input,
                    products,
                    in_group,
                    out_group,
                });
            });
        });
        if let (Some(partial), Some(stats)) = (partial, stats) {
            partial.reduce(stats);
        }
    }
}

struct Job<'a> {
    call: &'a Winograd<'a>,
    cut: &'a Cut,
    n: usize,
    block: usize,
    segment: usize,
    co: usize,
    co_end: usize,
    out: Shared<'a, f32>,
    stats: Option<Shared<'a, [f64; 2]>>,
    /// Packed input rows of one channel.
    rows: &'a mut [f32],
    /// Frequencies of one channel and vector of tiles, `[plane][6][6][LANES]`.
    tile: &'a mut [f32],
    /// The last two planes of every channel and vector of tiles, `[ci][held][2][6][6][LANES]`.
    kept: &'a mut [f32],
    /// Frequencies of the input, `[group][ci][6][held * LANES]`.
    input: &'a mut [f32],
    /// Products, `[group][co][6][held * LANES]`.
    products: &'a mut [f32],
    in_group: usize,
    out_group: usize,
}

/// First output voxel of a chunk; `None` behind the last chunk.
type Chunk = Option<[usize; 3]>;

impl Kernel for Job<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        match self.cut.held {
            1 => self.run_held::<I, 1>(isa),
            2 => self.run_held::<I, 2>(isa),
            3 => self.run_held::<I, 3>(isa),
            4 => self.run_held::<I, 4>(isa),
            other => unreachable!("{other} vectors of tiles held"),
        }
    }
}

impl Job<'_> {
    #[inline(always)]
    fn run_held<I: Isa, const T: usize>(&mut self, isa: I) {
        let shape = self.call.shape;
        let steps = if self.cut.steps == 1 {
            1
        } else {
            self.cut.steps.min(self.cut.tiles[0] - self.segment * self.cut.steps)
        };
        for step in 0..steps {
            let mut chunks: [[Chunk; 4]; T] = [[None; 4]; T];
            for (t, chunks) in chunks.iter_mut().enumerate() {
                for (c, chunk) in chunks.iter_mut().enumerate() {
                    *chunk = self.cut.chunk(self.segment, step, (self.block * T + t) * 4 + c);
                }
            }
            let from = if step == 0 { 0 } else { FREQ - OUT };
            let last = step + 1 == steps;
            for ci in 0..shape.in_channels {
                let offsets = self.pack(isa, ci, chunks.as_flattened(), from);
                for (t, chunks) in chunks.iter().enumerate() {
                    self.transform_rows::<I, T>(isa, ci, chunks, &offsets[4 * t..4 * t + 4], from);
                    self.transform_planes::<I, T>(isa, ci, t, from > 0, !last);
                }
            }
            let mut co = self.co;
            while co < self.co_end {
                let end = (co + CO_HELD).min(self.co_end);
                self.multiply::<I, T>(isa, co, end);
                for c in co..end {
                    let mut sums = [0.0; 2];
                    for (t, chunks) in chunks.iter().enumerate() {
                        let part = self.transform_output::<I, T>(isa, c, c - co, t, chunks);
                        sums = [sums[0] + part[0], sums[1] + part[1]];
                    }
                    if let Some(stats) = self.stats {
                        let places = self.cut.blocks * self.cut.segments;
                        let place = self.block * self.cut.segments + self.segment;
                        let row = self.n * shape.out_channels + c;
                        // SAFETY: this job alone writes these tiles of this channel.
                        let total = unsafe { &mut stats.range(row * places + place, 1)[0] };
                        *total = [total[0] + sums[0], total[1] + sums[1]];
                    }
                }
                co = end;
            }
        }
    }

    /// Packs the rows that a job's tiles read of one channel, from plane `from` on, and returns where each chunk's
    /// values start in a row.
    /// Neighbouring chunks of one row are packed together.
    #[inline(always)]
    fn pack<I: Isa>(&mut self, isa: I, ci: usize, chunks: &[Chunk], from: usize) -> [usize; MAX_CHUNKS] {
        let shape = self.call.shape;
        let [id, ih, iw] = shape.input;
        let [pd, ph, pw] = shape.padding;
        let Plane { data, prologue } = plane(self.call.sources, self.n, ci, id * ih * iw);
        let pitch = 2 * chunks.len() * I::LANES;
        let planes = self.cut.depth[0];
        let mut offsets = [0; MAX_CHUNKS];
        let (mut c, mut at) = (0, 0);
        while c < chunks.len() {
            let mut run = 1;
            while c + run < chunks.len() {
                match (chunks[c], chunks[c + run]) {
                    (Some(a), Some(b)) if a[0] == b[0] && a[1] == b[1] => run += 1,
                    _ => break,
                }
            }
            let len = run * I::LANES + 4;
            for i in 0..run {
                offsets[c + i] = at + i * I::LANES;
            }
            let [z, y, x] = chunks[c].unwrap_or([usize::MAX / 2; 3]);
            for dz in from..planes {
                let iz = (z + dz).wrapping_sub(pd);
                for dy in 0..FREQ {
                    let iy = (y + dy).wrapping_sub(ph);
                    let start = (dz * FREQ + dy) * pitch + at;
                    if iz >= id || iy >= ih {
                        zero_range(isa, self.rows, start, start + len);
                    } else {
                        let row = &data[(iz * ih + iy) * iw..][..iw];
                        pack_row(
                            isa,
                            row,
                            x as isize - pw as isize,
                            prologue,
                            &mut self.rows[start..start + len],
                        );
                    }
                }
            }
            c += run;
            at += (run + 1) * I::LANES;
        }
        offsets
    }

    /// Frequencies along width and height of the packed planes from `from` on.
    #[inline(always)]
    fn transform_rows<I: Isa, const T: usize>(
        &mut self,
        isa: I,
        ci: usize,
        chunks: &[Chunk; 4],
        offsets: &[usize],
        from: usize,
    ) {
        let [_, ih, iw] = self.call.shape.input;
        let [pd, ph, _] = self.call.shape.padding;
        // The same rows of the next channel lie far away: ask for them now, a few at a time.
        let next = (ci + 1).min(self.call.shape.in_channels - 1);
        let next = plane(self.call.sources, self.n, next, self.call.shape.in_voxels()).data;
        let ahead = chunks.map(|c| {
            let [z, y, x] = c.unwrap_or_default();
            ((z * ih + y) * iw + x).wrapping_sub((pd * ih + ph) * iw)
        });
        let (rows, tile) = (&*self.rows, &mut *self.tile);
        let pitch = 8 * T * I::LANES;
        // SAFETY: `rows` has six rows of `pitch` per plane, `tile` has 36 vectors per plane; debug assertions check.
        unsafe {
            for row in from * FREQ..self.cut.depth[0] * FREQ {
                let at = row * pitch;
                let row_ahead = (row / FREQ * ih + row % FREQ) * iw;
                for from in ahead {
                    isa.prefetch(next, from.wrapping_add(row_ahead));
                }
                let low = isa.transpose4([
                    isa.load(rows, at + offsets[0]),
                    isa.load(rows, at + offsets[1]),
                    isa.load(rows, at + offsets[2]),
                    isa.load(rows, at + offsets[3]),
                ]);
                // The next tile's first two values.
                let high = isa.transpose4([
                    isa.load(rows, at + offsets[0] + 4),
                    isa.load(rows, at + offsets[1] + 4),
                    isa.load(rows, at + offsets[2] + 4),
                    isa.load(rows, at + offsets[3] + 4),
                ]);
                let f = forward(isa, [low[0], low[1], low[2], low[3], high[0], high[1]]);
                for (x, &f) in f.iter().enumerate() {
                    isa.store(tile, (row * FREQ + x) * I::LANES, f);
                }
            }
            let row = FREQ * I::LANES;
            for z in from..self.cut.depth[0] {
                for x in 0..FREQ {
                    let at = z * FREQ * row + x * I::LANES;
                    let f = forward(
                        isa,
                        [
                            isa.load(tile, at),
                            isa.load(tile, at + row),
                            isa.load(tile, at + 2 * row),
                            isa.load(tile, at + 3 * row),
                            isa.load(tile, at + 4 * row),
                            isa.load(tile, at + 5 * row),
                        ],
                    );
                    for (y, &f) in f.iter().enumerate() {
                        isa.store(tile, at + y * row, f);
                    }
                }
            }
        }
    }

    /// Frequencies along depth, into `input`. The first two planes come from `kept` if `resume`; the last two go there if
    /// `keep`.
    #[inline(always)]
    fn transform_planes<I: Isa, const T: usize>(
        &mut self,
        isa: I,
        ci: usize,
        t: usize,
        resume: bool,
        keep: bool,
    ) {
        let tile = &*self.tile;
        let plane = FREQ * FREQ * I::LANES;
        let to = (ci * FREQ * T + t) * I::LANES;
        let kept_at = (ci * T + t) * 2 * plane;
        // SAFETY: `tile` has 36 vectors per plane, `kept` 72 per channel and held vector of tiles, `input` one per group,
        // channel, frequency and held vector of tiles; debug assertions check every access.
        unsafe {
            for y in 0..FREQ {
                for x in 0..FREQ {
                    let at = (y * FREQ + x) * I::LANES;
                    let to = to + x * T * I::LANES;
                    if self.cut.depth[0] == 1 {
                        isa.store(self.input, y * self.in_group + to, isa.load(tile, at));
                        continue;
                    }
                    let (d0, d1) = if resume {
                        (isa.load(self.kept, kept_at + at), isa.load(self.kept, kept_at + plane + at))
                    } else {
                        (isa.load(tile, at), isa.load(tile, at + plane))
                    };
                    let (d4, d5) = (isa.load(tile, at + 4 * plane), isa.load(tile, at + 5 * plane));
                    if keep {
                        isa.store(self.kept, kept_at + at, d4);
                        isa.store(self.kept, kept_at + plane + at, d5);
                    }
                    let d = [d0, d1, isa.load(tile, at + 2 * plane), isa.load(tile, at + 3 * plane), d4, d5];
                    for (z, &f) in forward(isa, d).iter().enumerate() {
                        isa.store(self.input, (z * FREQ + y) * self.in_group + to, f);
                    }
                }
            }
        }
    }

    /// Products of all frequencies for output channels `co..end`.
    #[inline(always)]
    fn multiply<I: Isa, const T: usize>(&mut self, isa: I, co: usize, end: usize) {
        let cis = self.call.shape.in_channels;
        let blocks = self.call.shape.out_channels.div_ceil(CO_BLOCK);
        let panel = FREQ * cis * CO_BLOCK;
        let vector = T * I::LANES;
        for group in 0..groups(self.call.shape.kernel) {
            let input = &self.input[group * self.in_group..];
            let products = &mut self.products[group * self.out_group..][..self.out_group];
            for block in co / CO_BLOCK..end.div_ceil(CO_BLOCK) {
                let weights = &self.call.weights[(group * blocks + block) * panel..][..panel];
                let held = block * CO_BLOCK - co;
                for x in 0..FREQ {
                    let weights = &weights[x * cis * CO_BLOCK..][..cis * CO_BLOCK];
                    let to = (held * FREQ + x) * vector;
                    let ahead = if x + 1 < FREQ { vector } else { self.in_group - x * vector };
                    // SAFETY: panels, inputs and products have room for all channels of the block; debug assertions
                    // check every access.
                    unsafe {
                        if I::REGISTERS >= 32 {
                            match T {
                                1 => product::<I, 16, 1>(
                                    isa,
                                    input,
                                    x * vector,
                                    vector,
                                    ahead,
                                    weights,
                                    products,
                                    to,
                                ),
                                2 => product::<I, 8, 2>(
                                    isa,
                                    input,
                                    x * vector,
                                    vector,
                                    ahead,
                                    weights,
                                    products,
                                    to,
                                ),
                                3 => product::<I, 8, 3>(
                                    isa,
                                    input,
                                    x * vector,
                                    vector,
                                    ahead,
                                    weights,
                                    products,
                                    to,
                                ),
                                _ => product::<I, 4, 4>(
                                    isa,
                                    input,
                                    x * vector,
                                    vector,
                                    ahead,
                                    weights,
                                    products,
                                    to,
                                ),
                            }
                        } else {
                            match T {
                                1 => product::<I, 8, 1>(
                                    isa,
                                    input,
                                    x * vector,
                                    vector,
                                    ahead,
                                    weights,
                                    products,
                                    to,
                                ),
                                2 => product::<I, 4, 2>(
                                    isa,
                                    input,
                                    x * vector,
                                    vector,
                                    ahead,
                                    weights,
                                    products,
                                    to,
                                ),
                                3 => product::<I, 4, 3>(
                                    isa,
                                    input,
                                    x * vector,
                                    vector,
                                    ahead,
                                    weights,
                                    products,
                                    to,
                                ),
                                _ => product::<I, 2, 4>(
                                    isa,
                                    input,
                                    x * vector,
                                    vector,
                                    ahead,
                                    weights,
                                    products,
                                    to,
                                ),
                            }
                        }
                    }
                }
            }
        }
    }

    /// Outputs of channel `co` for a vector of tiles; returns their sum and sum of squares if statistics are wanted.
    #[inline(always)]
    fn transform_output<I: Isa, const T: usize>(
        &mut self,
        isa: I,
        co: usize,
        held: usize,
        t: usize,
        chunks: &[Chunk; 4],
    ) -> [f64; 2] {
        let size = self.cut.output;
        let [planes, outs] = self.cut.depth;
        let (products, tile) = (&*self.products, &mut *self.tile);
        let row = FREQ * I::LANES;
        let plane = FREQ * row;
        let from = (held * FREQ * T + t) * I::LANES;
        let bias = isa.splat(self.call.bias.map_or(0.0, |b| b[co]));
        let channel = (self.n * self.call.shape.out_channels + co) * size.iter().product::<usize>();
        let whole = chunks.iter().all(|c| {
            c.is_some_and(|[z, y, x]| z + outs <= size[0] && y + OUT <= size[1] && x + I::LANES <= size[2])
        });
        // The next channel's outputs, to be in the cache when their turn comes.
        let ahead = size.iter().product::<usize>();
        let mut wide = [isa.zero64(); 2];
        let (mut sum, mut squares, mut centre) = (isa.splat(0.0), isa.splat(0.0), isa.splat(0.0));
        // SAFETY: as in `transform_input`; this job alone writes these tiles of this channel.
        unsafe {
            for y in 0..FREQ {
                for x in 0..FREQ {
                    let at = y * row + x * I::LANES;
                    let load = from + x * T * I::LANES;
                    if planes == 1 {
                        isa.store(tile, at, isa.load(products, y * self.out_group + load));
                        continue;
                    }
                    let m = backward(
                        isa,
                        [
                            isa.load(products, y * self.out_group + load),
                            isa.load(products, (FREQ + y) * self.out_group + load),
                            isa.load(products, (2 * FREQ + y) * self.out_group + load),
                            isa.load(products, (3 * FREQ + y) * self.out_group + load),
                            isa.load(products, (4 * FREQ + y) * self.out_group + load),
                            isa.load(products, (5 * FREQ + y) * self.out_group + load),
                        ],
                    );
                    for (z, &m) in m.iter().enumerate() {
                        isa.store(tile, z * plane + at, m);
                    }
                }
            }
            for z in 0..outs {
                for x in 0..FREQ {
                    let at = z * plane + x * I::LANES;
                    let m = backward(
                        isa,
                        [
                            isa.load(tile, at),
                            isa.load(tile, at + row),
                            isa.load(tile, at + 2 * row),
                            isa.load(tile, at + 3 * row),
                            isa.load(tile, at + 4 * row),
                            isa.load(tile, at + 5 * row),
                        ],
                    );
                    for (y, &m) in m.iter().enumerate() {
                        isa.store(tile, at + y * row, m);
                    }
                }
                for y in 0..OUT {
                    let at = z * plane + y * row;
                    let m = backward(
                        isa,
                        [
                            isa.load(tile, at),
                            isa.load(tile, at + I::LANES),
                            isa.load(tile, at + 2 * I::LANES),
                            isa.load(tile, at + 3 * I::LANES),
                            isa.load(tile, at + 4 * I::LANES),
                            isa.load(tile, at + 5 * I::LANES),
                        ],
                    );
                    let m =
                        [isa.add(m[0], bias), isa.add(m[1], bias), isa.add(m[2], bias), isa.add(m[3], bias)];
                    let v = isa.transpose4(m);
                    if whole {
                        for c in 0..4 {
                            let [z0, y0, x0] = chunks[c].unwrap_or_default();
                            let at = channel + ((z0 + z) * size[1] + y0 + y) * size[2] + x0;
                            isa.store(self.out.range(at, I::LANES), 0, v[c]);
                            isa.prefetch_write(self.out.address(at + ahead));
                        }
                        if z == 0 && y == 0 {
                            centre = m[0];
                        }
                        for m in m {
                            let d = isa.sub(m, centre);
                            sum = isa.add(sum, d);
                            squares = isa.fma(d, d, squares);
                        }
                    } else {
                        for c in 0..4 {
                            let Some([z0, y0, x0]) = chunks[c] else { continue };
                            if z0 + z < size[0] && y0 + y < size[1] {
                                let n = I::LANES.min(size[2] - x0);
                                let at = channel + ((z0 + z) * size[1] + y0 + y) * size[2] + x0;
                                isa.store_first(self.out.range(at, n), 0, n, v[c]);
                                let v = isa.keep_first(v[c], n);
                                wide = [isa.add_wide(wide[0], v), isa.fma_wide(wide[1], v, v)];
                            }
                        }
                    }
                }
            }
        }
        if whole {
            // The sums were taken around each lane's first value c, for accuracy: with n values and d = x - c,
            // sum x = n c + sum d and sum x² = n c² + 2 c sum d + sum d².
            let n = (outs * OUT * OUT) as f64;
            let centres = isa.sum64(isa.add_wide(isa.zero64(), centre));
            let centres_sq = isa.sum64(isa.fma_wide(isa.zero64(), centre, centre));
            let sums = isa.sum64(isa.add_wide(isa.zero64(), sum));
            let mixed = isa.sum64(isa.fma_wide(isa.zero64(), centre, sum));
            let squares = isa.sum64(isa.add_wide(isa.zero64(), squares));
            [n * centres + sums, n * centres_sq + 2.0 * mixed + squares]
        } else {
            [isa.sum64(wide[0]), isa.sum64(wide[1])]
        }
    }
}

/// `products[co] = sum over ci of weights[ci][co] * input[ci]` for one frequency and [`CO_BLOCK`] output channels,
/// `C` channels times `R` vectors in registers at a time. The next frequency starts `ahead`.
///
/// # Safety
/// `input[at + ci * FREQ * vector ..]` has `R` vectors for every input channel, `products[to + co * FREQ * vector ..]` for
/// every output channel of the block; `weights` has [`CO_BLOCK`] per input channel.
#[inline(always)]
unsafe fn product<I: Isa, const C: usize, const R: usize>(
    isa: I,
    input: &[f32],
    at: usize,
    vector: usize,
    ahead: usize,
    weights: &[f32],
    products: &mut [f32],
    to: usize,
) {
    for lane in (0..CO_BLOCK).step_by(C) {
        let mut acc = [[isa.splat(0.0); R]; C];
        let mut from = at;
        for w in weights.chunks_exact(CO_BLOCK) {
            let mut x = [isa.splat(0.0); R];
            for r in 0..R {
                // SAFETY: the caller's promise.
                x[r] = unsafe { isa.load(input, from + r * I::LANES) };
                if lane == 0 {
                    isa.prefetch(input, from + ahead + r * I::LANES);
                }
            }
            for c in 0..C {
                // SAFETY: `lane + c < CO_BLOCK`.
                let w = isa.splat(unsafe { *w.get_unchecked(lane + c) });
                for r in 0..R {
                    acc[c][r] = isa.fma(w, x[r], acc[c][r]);
                }
            }
            from += FREQ * vector;
        }
        for c in 0..C {
            for r in 0..R {
                // SAFETY: the caller's promise.
                unsafe { isa.store(products, to + (lane + c) * FREQ * vector + r * I::LANES, acc[c][r]) }
            }
        }
    }
}
