//! Winograd convolution, F(4, 3) along every axis the kernel spans with three taps.
//!
//! Tiles of 4 outputs per axis need 6 products instead of 12, so a 3×3×3 kernel costs 216 products per 64 outputs instead
//! of 1728, an eighth, and a 1×3×3 kernel a quarter.
//!
//! A job is a few vectors of tiles of one sample. It transforms the tiles of all input channels along width and height, then
//! takes one frequency of height and width after the other: transforms along depth, multiplies (a small matrix product per
//! frequency), transforms back along depth and, row by row, along width; in the end along height. Transforming
//! late and back early keeps what has to wait in the second-level cache small. Vectors hold one value of `LANES` tiles: a *chunk*
//! is `LANES / 4` neighbouring tiles along the width, `LANES` outputs, and a vector of tiles is four chunks, wherever they
//! lie, so that a 4×4 transposition turns four loads of contiguous values into the four values of all tiles.

use rayon::prelude::*;

use super::cut::{CO_BLOCK, CO_HELD, Chunk, Cut, GROUPS};
use super::frequencies::{FREQ, OUT, backward, forward};
use super::pack::{pack_row, zero_range};
use super::{ConvShape, OutputPart, Target};
use crate::buffer::{Shared, with_scratch};
use crate::isa::{Cpu, Isa, Kernel};
use crate::scratch::Scratch;
use crate::source::{Plane, Window, window_plane};
use crate::stats::Partial;

/// Chunks of the most vectors of tiles held.
const MAX_CHUNKS: usize = 16;

/// Whether this algorithm computes `shape`.
pub(crate) fn supports(shape: &ConvShape) -> bool {
    shape.stride == [1; 3] && shape.kernel[1..] == [3, 3] && (shape.kernel[0] == 3 || shape.kernel[0] == 1)
}

/// Transformed weights of a layer larger than this are not worth their memory: 256 MiB.
const MAX_PACKED_LEN: usize = 64 << 20;

/// Whether it is faster than the direct algorithm; the numbers come from measurements.
///
/// The transforms cost as much as the products of about ten channels, so there must be more than that on either side. Each
/// weight becomes eight (or four, of a flat kernel) and is used once per few vectors of tiles, so a volume below 2000 voxels
/// only waits for them. Tiles and vectors that stick out of the volume are computed for nothing.
pub(super) fn pays(shape: &ConvShape) -> bool {
    if !supports(shape) || shape.in_channels < 16 || shape.out_channels < 16 {
        return false;
    }
    let [d, h, w] = shape.output();
    let deep = if shape.kernel[0] == 3 { OUT } else { 1 };
    let padded = d.next_multiple_of(deep) * h.next_multiple_of(OUT) * w.next_multiple_of(16);
    let packed =
        GROUPS * self::deep(shape.kernel) * shape.in_channels * shape.out_channels.next_multiple_of(CO_BLOCK);
    d * h * w >= 2000 && padded <= 3 * d * h * w && packed <= MAX_PACKED_LEN
}

/// Frequencies along depth: one if the kernel is flat.
pub(super) fn deep(kernel: [usize; 3]) -> usize {
    if kernel[0] == 3 { FREQ } else { 1 }
}

/// What a call with these outputs takes.
pub(super) fn scratch(shape: &ConvShape, output: [usize; 3], lanes: usize) -> Scratch {
    Scratch { per_thread: Cut::new(shape, output, lanes).lengths(shape).iter().sum(), lent: 0 }
}

/// The call: everything the jobs share.
pub(super) struct Winograd<'a> {
    pub(super) cpu: Cpu,
    pub(super) shape: &'a ConvShape,
    pub(super) part: OutputPart,
    pub(super) sources: &'a [Window<'a>],
    pub(super) weights: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
}

impl Winograd<'_> {
    pub(super) fn run(&self, target: Target<'_>) {
        let Target { out, stats, .. } = target;
        let shape = self.shape;
        let cut = Cut::new(shape, self.part.output, self.cpu.lanes());
        let parts = shape.out_channels.div_ceil(cut.co_chunk);
        let places = cut.blocks * cut.segments;
        let mut partial = stats.as_ref().map(|_| Partial::new(shape.batch * shape.out_channels, places));
        let shared = Shared::new(out);
        let shared_stats = partial.as_mut().map(|p| Shared::new(&mut p.sums));
        let (lengths, group) = (cut.lengths(shape), cut.group(shape));
        (0..shape.batch * places * parts).into_par_iter().for_each(|job| {
            let (rest, part) = (job / parts, job % parts);
            let (n, place) = (rest / places, rest % places);
            with_scratch(lengths.iter().sum(), |scratch| {
                let (rows, scratch) = scratch.split_at_mut(lengths[0]);
                let (tile, scratch) = scratch.split_at_mut(lengths[1]);
                let (planes, scratch) = scratch.split_at_mut(lengths[2]);
                let (input, scratch) = scratch.split_at_mut(lengths[3]);
                let (products, scratch) = scratch.split_at_mut(lengths[4]);
                let (columns, back) = scratch.split_at_mut(lengths[5]);
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
                    planes,
                    input,
                    products,
                    columns,
                    back,
                    group,
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
    /// One channel and vector of tiles on its way, `[plane][y][x]`; all but `rows` are in vectors of `LANES`.
    tile: &'a mut [f32],
    /// Frequencies of height and width, `[y, x][ci][plane][held]`; planes are a ring.
    planes: &'a mut [f32],
    /// All frequencies of one `y, x`, `[ci][z][held]`.
    input: &'a mut [f32],
    /// Products of one `y, x` and block of output channels, `[z][co][held]`.
    products: &'a mut [f32],
    /// Transformed back along depth, for one `y`: `[co][held][plane][x]`.
    columns: &'a mut [f32],
    /// Transformed back along depth and width, `[co][held][y][plane][4]`.
    back: &'a mut [f32],
    /// Values per `y, x` in `planes`.
    group: usize,
}

/// Whether two chunks are neighbours along the width.
fn adjoin(a: Chunk, b: Chunk) -> bool {
    matches!((a, b), (Some(a), Some(b)) if a[0] == b[0] && a[1] == b[1])
}

/// Vectors in a packed row: one per chunk, and one behind every run of neighbours for what the last tile reads on.
fn row_pitch(chunks: &[Chunk]) -> usize {
    chunks.len() + 1 + chunks.windows(2).filter(|w| !adjoin(w[0], w[1])).count()
}

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
            // Where in the ring the first plane of this step is.
            let ring = step * OUT % FREQ;
            for ci in 0..shape.in_channels {
                let (offsets, pitch) = self.pack(isa, ci, chunks.as_flattened(), from);
                for (t, chunks) in chunks.iter().enumerate() {
                    let rows = (chunks, &offsets[4 * t..4 * t + 4], pitch);
                    self.transform_rows::<I, T>(isa, ci, t, rows, from, ring);
                }
            }
            let mut co = self.co;
            while co < self.co_end {
                let end = (co + CO_HELD).min(self.co_end);
                self.multiply::<I, T>(isa, co, end, ring);
                for c in co..end {
                    let mut sums = [0.0; 2];
                    for (t, chunks) in chunks.iter().enumerate() {
                        let part = self.transform_output::<I>(isa, c, (c - co) * T + t, chunks);
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
    /// values start in a row, and the length of a row.
    /// Neighbouring chunks of one row are packed together.
    #[inline(always)]
    fn pack<I: Isa>(
        &mut self,
        isa: I,
        ci: usize,
        chunks: &[Chunk],
        from: usize,
    ) -> ([usize; MAX_CHUNKS], usize) {
        let shape = self.call.shape;
        let [id, ih, iw] = shape.input;
        let [od, oh, ow] = self.call.part.origin;
        let Plane { data, prologue } = window_plane(self.call.sources, self.n, ci, id * ih * iw);
        let pitch = row_pitch(chunks) * I::LANES;
        let planes = self.cut.depth[0];
        let mut offsets = [0; MAX_CHUNKS];
        let (mut c, mut at) = (0, 0);
        while c < chunks.len() {
            let mut run = 1;
            while c + run < chunks.len() {
                if !adjoin(chunks[c], chunks[c + run]) {
                    break;
                }
                run += 1;
            }
            let len = run * I::LANES + 4;
            for i in 0..run {
                offsets[c + i] = at + i * I::LANES;
            }
            let [z, y, x] = chunks[c].unwrap_or([usize::MAX / 2; 3]);
            for dz in from..planes {
                let iz = (z + dz).wrapping_add_signed(od);
                for dy in 0..FREQ {
                    let iy = (y + dy).wrapping_add_signed(oh);
                    let start = (dz * FREQ + dy) * pitch + at;
                    if iz >= id || iy >= ih {
                        zero_range(isa, self.rows, start, start + len);
                    } else {
                        let row = &data[(iz * ih + iy) * iw..][..iw];
                        pack_row(isa, row, x as isize + ow, prologue, &mut self.rows[start..start + len]);
                    }
                }
            }
            c += run;
            at += (run + 1) * I::LANES;
        }
        (offsets, pitch)
    }

    /// Frequencies along width and height of the packed planes from `from` on, into `planes`.
    #[inline(always)]
    fn transform_rows<I: Isa, const T: usize>(
        &mut self,
        isa: I,
        ci: usize,
        t: usize,
        (chunks, offsets, pitch): (&[Chunk; 4], &[usize], usize),
        from: usize,
        ring: usize,
    ) {
        let [_, ih, iw] = self.call.shape.input;
        let [od, oh, _] = self.call.part.origin;
        // The same rows of the next channel lie far away: ask for them now, a few at a time.
        let next = (ci + 1).min(self.call.shape.in_channels - 1);
        let next = window_plane(self.call.sources, self.n, next, self.call.shape.in_voxels()).data;
        let ahead = chunks.map(|c| {
            let [z, y, x] = c.unwrap_or_default();
            ((z * ih + y) * iw + x).wrapping_add_signed((od * ih as isize + oh) * iw as isize)
        });
        let (rows, tile) = (&*self.rows, &mut *self.tile);
        let deep = self.cut.depth[0];
        // SAFETY: `rows` has six rows of `pitch` per plane, `tile` 36 vectors per plane, `planes` one per `y, x`, channel,
        // plane and held vector of tiles; debug assertions check every access.
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
            for z in from..deep {
                let plane = if z + ring < FREQ { z + ring } else { z + ring - FREQ };
                let to = ((ci * deep + plane) * T + t) * I::LANES;
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
                        isa.store(self.planes, (y * FREQ + x) * self.group + to, f);
                    }
                }
            }
        }
    }

    /// Products of all frequencies for output channels `co..end`, transformed back along depth and width into `back`.
    #[inline(always)]
    fn multiply<I: Isa, const T: usize>(&mut self, isa: I, co: usize, end: usize, ring: usize) {
        let cis = self.call.shape.in_channels;
        let blocks = self.call.shape.out_channels.div_ceil(CO_BLOCK);
        let [deep, outs] = self.cut.depth;
        let panel = deep * cis * CO_BLOCK;
        let vector = T * I::LANES;
        let ring: [usize; FREQ] = std::array::from_fn(|z| (z + ring) % FREQ * vector);
        for y in 0..FREQ {
            for x in 0..FREQ {
                let group = y * FREQ + x;
                // SAFETY: see the fields of `Job` for the sizes; debug assertions check every access.
                unsafe {
                    if deep == FREQ {
                        for ci in 0..cis {
                            let at = ci * FREQ * vector;
                            let from = group * self.group + at;
                            for t in 0..T {
                                let from = from + t * I::LANES;
                                let f = forward(
                                    isa,
                                    [
                                        isa.load(self.planes, from + ring[0]),
                                        isa.load(self.planes, from + ring[1]),
                                        isa.load(self.planes, from + ring[2]),
                                        isa.load(self.planes, from + ring[3]),
                                        isa.load(self.planes, from + ring[4]),
                                        isa.load(self.planes, from + ring[5]),
                                    ],
                                );
                                for (z, &f) in f.iter().enumerate() {
                                    isa.store(self.input, at + z * vector + t * I::LANES, f);
                                }
                            }
                        }
                    }
                    let input = if deep == FREQ {
                        &*self.input
                    } else {
                        &self.planes[group * self.group..][..self.group]
                    };
                    for block in co / CO_BLOCK..end.div_ceil(CO_BLOCK) {
                        let weights = &self.call.weights[(group * blocks + block) * panel..][..panel];
                        for z in 0..deep {
                            let weights = &weights[z * cis * CO_BLOCK..][..cis * CO_BLOCK];
                            let (at, step, to) = (z * vector, deep * vector, z * CO_BLOCK * vector);
                            let products = &mut *self.products;
                            if I::REGISTERS >= 32 {
                                match T {
                                    1 => product::<I, 16, 1>(isa, input, at, step, weights, products, to),
                                    2 => product::<I, 8, 2>(isa, input, at, step, weights, products, to),
                                    3 => product::<I, 8, 3>(isa, input, at, step, weights, products, to),
                                    _ => product::<I, 4, 4>(isa, input, at, step, weights, products, to),
                                }
                            } else {
                                match T {
                                    1 => product::<I, 8, 1>(isa, input, at, step, weights, products, to),
                                    2 => product::<I, 4, 2>(isa, input, at, step, weights, products, to),
                                    3 => product::<I, 4, 3>(isa, input, at, step, weights, products, to),
                                    _ => product::<I, 2, 4>(isa, input, at, step, weights, products, to),
                                }
                            }
                        }
                        let held = block * CO_BLOCK - co;
                        for v in 0..CO_BLOCK * T {
                            let at = v * I::LANES;
                            let to = ((held * T + v) * outs * FREQ + x) * I::LANES;
                            if deep == 1 {
                                isa.store(self.columns, to, isa.load(self.products, at));
                                continue;
                            }
                            let plane = CO_BLOCK * vector;
                            let m = backward(
                                isa,
                                [
                                    isa.load(self.products, at),
                                    isa.load(self.products, at + plane),
                                    isa.load(self.products, at + 2 * plane),
                                    isa.load(self.products, at + 3 * plane),
                                    isa.load(self.products, at + 4 * plane),
                                    isa.load(self.products, at + 5 * plane),
                                ],
                            );
                            for (z, &m) in m.iter().enumerate() {
                                isa.store(self.columns, to + z * FREQ * I::LANES, m);
                            }
                        }
                    }
                }
            }
            for v in 0..(end - co) * T {
                for z in 0..outs {
                    let at = (v * outs + z) * FREQ * I::LANES;
                    let to = ((v * FREQ + y) * outs + z) * OUT * I::LANES;
                    // SAFETY: `columns` has six vectors per channel, vector of tiles and plane, `back` 24; debug assertions check every access.
                    unsafe {
                        let m = backward(
                            isa,
                            [
                                isa.load(self.columns, at),
                                isa.load(self.columns, at + I::LANES),
                                isa.load(self.columns, at + 2 * I::LANES),
                                isa.load(self.columns, at + 3 * I::LANES),
                                isa.load(self.columns, at + 4 * I::LANES),
                                isa.load(self.columns, at + 5 * I::LANES),
                            ],
                        );
                        for (x, &m) in m.iter().enumerate() {
                            isa.store(self.back, to + x * I::LANES, m);
                        }
                    }
                }
            }
        }
    }

    /// Outputs of channel `co` for a vector of tiles, the `v`-th in `back`; returns their sum and sum of squares.
    #[inline(always)]
    fn transform_output<I: Isa>(&mut self, isa: I, co: usize, v: usize, chunks: &[Chunk; 4]) -> [f64; 2] {
        let size = self.cut.output;
        let outs = self.cut.depth[1];
        let back = &*self.back;
        let bias = isa.splat(self.call.bias.map_or(0.0, |b| b[co]));
        let channel = self.call.part.channel(self.n, self.call.shape.out_channels, co);
        let whole = chunks.iter().all(|c| {
            c.is_some_and(|[z, y, x]| z + outs <= size[0] && y + OUT <= size[1] && x + I::LANES <= size[2])
        });
        // The next channel's outputs, to be in the cache when their turn comes.
        let ahead = self.call.part.voxels;
        let mut wide = [isa.zero64(); 2];
        let (mut sum, mut squares, mut centre) = (isa.splat(0.0), isa.splat(0.0), isa.splat(0.0));
        // SAFETY: `back` has 24 vectors per plane, channel and vector of tiles, debug assertions check; this job alone writes
        // these tiles of this channel.
        unsafe {
            for z in 0..outs {
                let mut columns = [[isa.splat(0.0); OUT]; OUT];
                let row = outs * OUT * I::LANES;
                for (x, column) in columns.iter_mut().enumerate() {
                    let at = (v * FREQ * outs + z) * OUT * I::LANES + x * I::LANES;
                    *column = backward(
                        isa,
                        [
                            isa.load(back, at),
                            isa.load(back, at + row),
                            isa.load(back, at + 2 * row),
                            isa.load(back, at + 3 * row),
                            isa.load(back, at + 4 * row),
                            isa.load(back, at + 5 * row),
                        ],
                    );
                }
                for y in 0..OUT {
                    let m = [
                        isa.add(columns[0][y], bias),
                        isa.add(columns[1][y], bias),
                        isa.add(columns[2][y], bias),
                        isa.add(columns[3][y], bias),
                    ];
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
/// `C` channels times `R` vectors in registers at a time.
///
/// # Safety
/// `input[at + ci * step ..]` has `R` vectors for every input channel, `products[to ..]` has `R` for every output channel of
/// the block; `weights` has [`CO_BLOCK`] per input channel.
#[inline(always)]
unsafe fn product<I: Isa, const C: usize, const R: usize>(
    isa: I,
    input: &[f32],
    at: usize,
    step: usize,
    weights: &[f32],
    products: &mut [f32],
    to: usize,
) {
    for lane in (0..CO_BLOCK).step_by(C) {
        let mut acc = [[isa.splat(0.0); R]; C];
        let mut from = at;
        for w in weights.chunks_exact(CO_BLOCK) {
            // The weights of the frequencies to come follow in memory. They are used once per job and step and come from
            // afar, so each pass asks for its share of the next ones.
            if lane == 0 {
                isa.prefetch(w, weights.len());
            }
            let mut x = [isa.splat(0.0); R];
            for r in 0..R {
                // SAFETY: the caller's promise.
                x[r] = unsafe { isa.load(input, from + r * I::LANES) };
            }
            for c in 0..C {
                // SAFETY: `lane + c < CO_BLOCK`.
                let w = isa.splat(unsafe { *w.get_unchecked(lane + c) });
                for r in 0..R {
                    acc[c][r] = isa.fma(w, x[r], acc[c][r]);
                }
            }
            from += step;
        }
        for c in 0..C {
            for r in 0..R {
                // SAFETY: the caller's promise.
                unsafe { isa.store(products, to + ((lane + c) * R + r) * I::LANES, acc[c][r]) }
            }
        }
    }
}
