//! Weight gradient by Winograd's method, for kernels of three taps along height and width and stride 1.
//!
//! The gradient of F(4, 3) with respect to the weights transforms input tiles as the forward pass does and tiles of four
//! gradients to the same six frequencies; per frequency and pair of channels the products of all tiles are summed, and only
//! the sums are transformed back to taps. That is an eighth of the direct products for 3×3×3 kernels.
//!
//! Here vectors hold channels, not tiles: the sum over tiles then stays within a lane, and a small matrix product per
//! frequency (output channels × input channels, over [`TILES`] tiles) adds to sums that live in the second-level cache. A job
//! owns a block of output and input channels and a range of columns of tiles, and marches along depth as the forward
//! pass does.

use rayon::prelude::*;

use crate::buffer::{Shared, with_scratch};
use crate::conv3d::ConvShape;
use crate::conv3d::frequencies::{FREQ, OUT, backward_weights, forward, forward_gradient};
use crate::conv3d::pack::{pack_row, zero_range};
use crate::conv3d::winograd::supports;
use crate::isa::{Cpu, Isa, Kernel};
use crate::scratch::{Scratch, split};
use crate::source::{Source, plane};

/// Tiles multiplied at a time.
const TILES: usize = 16;
/// Output channels of a job; input channels are two vectors.
const CO_BLOCK: usize = 32;
/// Groups of frequencies: height times width.
const GROUPS: usize = FREQ * FREQ;
/// Values of all partial results together: 32 MiB.
const PARTIAL_LEN: usize = 8 << 20;

/// Whether it is faster than the direct algorithm: enough channels to fill blocks, enough tiles to pay for them.
pub(super) fn pays(shape: &ConvShape) -> bool {
    supports(shape) && shape.in_channels >= 16 && shape.out_channels >= 16 && shape.output()[2] >= 12
}

/// How a call is cut into jobs; a function of the shape and the lanes alone.
#[derive(Debug)]
struct Cut {
    lanes: usize,
    /// Frequencies along depth, and outputs per tile: 6 and 4, or 1 and 1.
    deep: usize,
    outs: usize,
    tiles: [usize; 3],
    /// Columns of tiles of one sample; columns per range, over all samples.
    columns: usize,
    per_range: usize,
    ranges: usize,
    /// Blocks of output and input channels.
    blocks: [usize; 2],
}

impl Cut {
    fn new(shape: &ConvShape, lanes: usize) -> Self {
        let output = shape.output();
        let (deep, outs) = if shape.kernel[0] == 3 { (FREQ, OUT) } else { (1, 1) };
        let tiles = [output[0].div_ceil(outs), output[1].div_ceil(OUT), output[2].div_ceil(OUT)];
        let columns = (tiles[1] * tiles[2]).div_ceil(TILES);
        let all = shape.batch * columns;
        let blocks = [shape.out_channels.div_ceil(CO_BLOCK), shape.in_channels.div_ceil(2 * lanes)];
        // At least 64 jobs, as far as the partial results may grow.
        let most = (PARTIAL_LEN / shape.weight_len().max(1)).clamp(1, all);
        let per_range = all.div_ceil(64usize.div_ceil(blocks[0] * blocks[1]).clamp(1, most));
        Self { lanes, deep, outs, tiles, columns, per_range, ranges: all.div_ceil(per_range), blocks }
    }

    fn ci_block(&self) -> usize {
        2 * self.lanes
    }

    /// Values per frequency of height and width, of the input and of the gradient: a few more than there are, so that they do
    /// not fall onto the same cache sets.
    fn groups(&self) -> [usize; 2] {
        [self.deep * TILES * self.ci_block() + 16, self.outs * TILES * CO_BLOCK + 16]
    }

    /// Values of every buffer of a job, in the order of [`Job`]'s fields.
    fn lengths(&self) -> [usize; 8] {
        // Longest run of tiles, its neighbours' values, rounded up to whole vectors.
        let width = (TILES * OUT + 2).next_multiple_of(self.lanes);
        let [input_group, grad_group] = self.groups();
        [
            GROUPS * self.deep * CO_BLOCK * self.ci_block(),
            GROUPS * input_group,
            GROUPS * grad_group,
            self.deep * TILES * self.ci_block(),
            self.deep * TILES * CO_BLOCK,
            self.lanes * width,
            self.lanes * width,
            TILES * GROUPS * self.lanes,
        ]
    }

    /// Values of the sums of all ranges; none if there is one, which is the result.
    fn partial_len(&self, shape: &ConvShape) -> usize {
        if self.ranges > 1 { self.ranges * shape.weight_len() } else { 0 }
    }
}

/// See [`backward_weights_scratch`](super::weights::backward_weights_scratch).
pub(super) fn scratch(shape: &ConvShape, lanes: usize) -> Scratch {
    let cut = Cut::new(shape, lanes);
    Scratch { per_thread: cut.lengths().iter().sum(), lent: cut.partial_len(shape) }
}

/// See [`conv3d_backward_weights`](super::weights::conv3d_backward_weights), whose checks come first.
pub(super) fn run(
    cpu: Cpu,
    shape: &ConvShape,
    sources: &[Source<'_>],
    grad: Source<'_>,
    result: &mut [f32],
    scratch: &mut [f32],
) {
    let cut = Cut::new(shape, cpu.lanes());
    let (partial, _) = split(scratch, cut.partial_len(shape));
    let shared = Shared::new(if cut.ranges > 1 { &mut *partial } else { &mut *result });
    let (lengths, [input_group, grad_group]) = (cut.lengths(), cut.groups());
    let blocks = cut.blocks[0] * cut.blocks[1];
    (0..cut.ranges * blocks).into_par_iter().for_each(|job| {
        let (range, block) = (job / blocks, job % blocks);
        let co = block / cut.blocks[1] * CO_BLOCK;
        let ci = block % cut.blocks[1] * cut.ci_block();
        with_scratch(lengths.iter().sum(), |scratch| {
            let (sums, scratch) = scratch.split_at_mut(lengths[0]);
            let (input_planes, scratch) = scratch.split_at_mut(lengths[1]);
            let (grad_planes, scratch) = scratch.split_at_mut(lengths[2]);
            let (input, scratch) = scratch.split_at_mut(lengths[3]);
            let (gradient, scratch) = scratch.split_at_mut(lengths[4]);
            let (rows, scratch) = scratch.split_at_mut(lengths[5]);
            let (turned, half) = scratch.split_at_mut(lengths[6]);
            cpu.dispatch(Job {
                shape,
                cut: &cut,
                sources,
                grad: [grad],
                range,
                co: [co, (co + CO_BLOCK).min(shape.out_channels)],
                ci: [ci, (ci + cut.ci_block()).min(shape.in_channels)],
                sums,
                input_planes,
                grad_planes,
                input,
                gradient,
                rows,
                turned,
                half,
                input_group,
                grad_group,
                out: shared,
            });
        });
    });
    if cut.ranges > 1 {
        let len = result.len();
        result.par_iter_mut().enumerate().for_each(|(i, r)| {
            *r = (0..cut.ranges).map(|range| f64::from(partial[range * len + i])).sum::<f64>() as f32;
        });
    }
}

struct Job<'a> {
    shape: &'a ConvShape,
    cut: &'a Cut,
    sources: &'a [Source<'a>],
    grad: [Source<'a>; 1],
    range: usize,
    co: [usize; 2],
    ci: [usize; 2],
    /// Sums over tiles, `[y, x][z][co][ci]`.
    sums: &'a mut [f32],
    /// Frequencies of height and width, `[y, x][plane][tile][channel]`; planes of the input are a ring.
    input_planes: &'a mut [f32],
    grad_planes: &'a mut [f32],
    /// All frequencies of one `y, x`, `[z][tile][channel]`.
    input: &'a mut [f32],
    gradient: &'a mut [f32],
    /// Rows of a vector of channels, `[channel][x]`, and turned, `[x][channel]`.
    rows: &'a mut [f32],
    turned: &'a mut [f32],
    /// Frequencies of width of a plane of tiles, `[tile][row][x][channel]`.
    half: &'a mut [f32],
    input_group: usize,
    grad_group: usize,
    out: Shared<'a, f32>,
}

/// Rows of a range of channels of one sample.
#[derive(Clone, Copy)]
struct Rows<'a> {
    sources: &'a [Source<'a>],
    n: usize,
    channels: [usize; 2],
    size: [usize; 3],
}

/// Neighbouring tiles of one row: the first one's index in the column, how many, and where they are.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    count: usize,
    tile: [usize; 2],
}

impl Kernel for Job<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let cut = self.cut;
        let len = self.sums.len();
        zero_range(isa, self.sums, 0, len);
        let end = ((self.range + 1) * cut.per_range).min(self.shape.batch * cut.columns);
        for column in self.range * cut.per_range..end {
            let (n, column) = (column / cut.columns, column % cut.columns);
            let mut runs = [Run { first: 0, count: 0, tile: [0, 0] }; TILES];
            let runs = self.runs(column, &mut runs);
            if runs.iter().map(|r| r.count).sum::<usize>() < TILES {
                // Tiles that do not exist must not leave values of another column behind.
                let (input, grad) = (self.input_planes.len(), self.grad_planes.len());
                zero_range(isa, self.input_planes, 0, input);
                zero_range(isa, self.grad_planes, 0, grad);
            }
            for step in 0..cut.tiles[0] {
                let ring = step * OUT % FREQ;
                let from = if step == 0 || cut.deep == 1 { 0 } else { FREQ - OUT };
                for z in from..cut.deep {
                    let at = (step * cut.outs + z) as isize - self.shape.padding[0] as isize;
                    let slot = if cut.deep == 1 { 0 } else { (z + ring) % FREQ };
                    for run in runs {
                        for group in 0..2 {
                            self.input_plane(isa, n, at, *run, slot, group);
                        }
                    }
                }
                for z in 0..cut.outs {
                    for run in runs {
                        for group in 0..CO_BLOCK / I::LANES {
                            self.grad_plane(isa, n, step * cut.outs + z, *run, z, group);
                        }
                    }
                }
                self.multiply(isa, ring);
            }
        }
        self.finish(isa);
    }
}

impl Job<'_> {
    fn runs<'r>(&self, column: usize, runs: &'r mut [Run; TILES]) -> &'r [Run] {
        let [_, th, tw] = self.cut.tiles;
        let (mut count, mut i) = (0, 0);
        while i < TILES {
            let tile = column * TILES + i;
            if tile >= th * tw {
                break;
            }
            let run = (tw - tile % tw).min(TILES - i).min(th * tw - tile);
            runs[count] = Run { first: i, count: run, tile: [tile / tw, tile % tw] };
            count += 1;
            i += run;
        }
        &runs[..count]
    }

    /// Reads `len` values of a row of `LANES` channels from `c` on, and turns them so that channels are neighbours.
    #[inline(always)]
    fn turn<I: Isa>(
        &mut self,
        isa: I,
        Rows { sources, n, channels, size }: Rows<'_>,
        at: [isize; 3],
        len: usize,
    ) {
        let width = len.next_multiple_of(I::LANES);
        let outside = at[0] < 0 || at[1] < 0 || at[0] >= size[0] as isize || at[1] >= size[1] as isize;
        for lane in 0..I::LANES {
            let to = &mut self.rows[lane * width..(lane + 1) * width];
            let channel = channels[0] + lane;
            if outside || channel >= channels[1] {
                zero_range(isa, to, 0, width);
                continue;
            }
            let source = plane(sources, n, channel, size.iter().product());
            let row = &source.data[(at[0] as usize * size[1] + at[1] as usize) * size[2]..][..size[2]];
            pack_row(isa, row, at[2], source.prologue, to);
        }
        // SAFETY: `rows` and `turned` hold `LANES * width` values; debug assertions check.
        unsafe {
            for x in (0..width).step_by(I::LANES) {
                for lane in (0..I::LANES).step_by(4) {
                    let four = isa.transpose4([
                        isa.load(self.rows, lane * width + x),
                        isa.load(self.rows, (lane + 1) * width + x),
                        isa.load(self.rows, (lane + 2) * width + x),
                        isa.load(self.rows, (lane + 3) * width + x),
                    ]);
                    for (i, &v) in four.iter().enumerate() {
                        isa.store_quads(self.turned, (x + i) * I::LANES + lane, 4 * I::LANES, v);
                    }
                }
            }
        }
    }

    /// Frequencies of width and height of one plane of input, for a run of tiles and a vector of channels.
    #[inline(always)]
    fn input_plane<I: Isa>(&mut self, isa: I, n: usize, z: isize, run: Run, slot: usize, group: usize) {
        let [_, ph, pw] = self.shape.padding;
        let channels = [self.ci[0] + group * I::LANES, self.ci[1]];
        let x = (run.tile[1] * OUT) as isize - pw as isize;
        let sources = self.sources;
        let row = FREQ * I::LANES;
        // SAFETY: `turned` has the run's values, `half` 36 vectors per tile, `input_planes` one per `y, x`, plane, tile and
        // vector of channels; debug assertions check every access.
        unsafe {
            for dy in 0..FREQ {
                let y = (run.tile[0] * OUT + dy) as isize - ph as isize;
                let rows = Rows { sources, n, channels, size: self.shape.input };
                self.turn(isa, rows, [z, y, x], run.count * OUT + 2);
                for t in 0..run.count {
                    let at = t * OUT * I::LANES;
                    let f = forward(
                        isa,
                        [
                            isa.load(self.turned, at),
                            isa.load(self.turned, at + I::LANES),
                            isa.load(self.turned, at + 2 * I::LANES),
                            isa.load(self.turned, at + 3 * I::LANES),
                            isa.load(self.turned, at + 4 * I::LANES),
                            isa.load(self.turned, at + 5 * I::LANES),
                        ],
                    );
                    for (x, &f) in f.iter().enumerate() {
                        isa.store(self.half, (t * FREQ + dy) * row + x * I::LANES, f);
                    }
                }
            }
            let to = (slot * TILES + run.first) * self.cut.ci_block() + group * I::LANES;
            for t in 0..run.count {
                for x in 0..FREQ {
                    let at = t * FREQ * row + x * I::LANES;
                    let f = forward(
                        isa,
                        [
                            isa.load(self.half, at),
                            isa.load(self.half, at + row),
                            isa.load(self.half, at + 2 * row),
                            isa.load(self.half, at + 3 * row),
                            isa.load(self.half, at + 4 * row),
                            isa.load(self.half, at + 5 * row),
                        ],
                    );
                    for (y, &f) in f.iter().enumerate() {
                        let at = (y * FREQ + x) * self.input_group + to + t * self.cut.ci_block();
                        isa.store(self.input_planes, at, f);
                    }
                }
            }
        }
    }

    /// The same of one plane of the output's gradient.
    #[inline(always)]
    fn grad_plane<I: Isa>(&mut self, isa: I, n: usize, z: usize, run: Run, slot: usize, group: usize) {
        let channels = [self.co[0] + group * I::LANES, self.co[1]];
        let x = (run.tile[1] * OUT) as isize;
        let (grad, size) = (self.grad, self.shape.output());
        let row = FREQ * I::LANES;
        // SAFETY: `turned` has the run's values, `half` 36 vectors per tile, `grad_planes` one per `y, x`, plane, tile and
        // vector of channels; debug assertions check every access.
        unsafe {
            for dy in 0..OUT {
                let y = (run.tile[0] * OUT + dy) as isize;
                let rows = Rows { sources: &grad, n, channels, size };
                self.turn(isa, rows, [z as isize, y, x], run.count * OUT);
                for t in 0..run.count {
                    let at = t * OUT * I::LANES;
                    let f = forward_gradient(
                        isa,
                        [
                            isa.load(self.turned, at),
                            isa.load(self.turned, at + I::LANES),
                            isa.load(self.turned, at + 2 * I::LANES),
                            isa.load(self.turned, at + 3 * I::LANES),
                        ],
                    );
                    for (x, &f) in f.iter().enumerate() {
                        isa.store(self.half, (t * FREQ + dy) * row + x * I::LANES, f);
                    }
                }
            }
            let to = (slot * TILES + run.first) * CO_BLOCK + group * I::LANES;
            for t in 0..run.count {
                for x in 0..FREQ {
                    let at = t * FREQ * row + x * I::LANES;
                    let f = forward_gradient(
                        isa,
                        [
                            isa.load(self.half, at),
                            isa.load(self.half, at + row),
                            isa.load(self.half, at + 2 * row),
                            isa.load(self.half, at + 3 * row),
                        ],
                    );
                    for (y, &f) in f.iter().enumerate() {
                        let at = (y * FREQ + x) * self.grad_group + to + t * CO_BLOCK;
                        isa.store(self.grad_planes, at, f);
                    }
                }
            }
        }
    }

    /// Transforms along depth and adds the products of all tiles to the sums.
    #[inline(always)]
    fn multiply<I: Isa>(&mut self, isa: I, ring: usize) {
        let (deep, ci_block) = (self.cut.deep, self.cut.ci_block());
        let (input_plane, grad_plane) = (TILES * ci_block, TILES * CO_BLOCK);
        let ring: [usize; FREQ] = std::array::from_fn(|z| (z + ring) % FREQ * input_plane);
        for group in 0..GROUPS {
            // SAFETY: see the fields of `Job` for the sizes; debug assertions check every access.
            unsafe {
                if deep == FREQ {
                    for v in (0..input_plane).step_by(I::LANES) {
                        let from = group * self.input_group + v;
                        let f = forward(
                            isa,
                            [
                                isa.load(self.input_planes, from + ring[0]),
                                isa.load(self.input_planes, from + ring[1]),
                                isa.load(self.input_planes, from + ring[2]),
                                isa.load(self.input_planes, from + ring[3]),
                                isa.load(self.input_planes, from + ring[4]),
                                isa.load(self.input_planes, from + ring[5]),
                            ],
                        );
                        for (z, &f) in f.iter().enumerate() {
                            isa.store(self.input, z * input_plane + v, f);
                        }
                    }
                    for v in (0..grad_plane).step_by(I::LANES) {
                        let from = group * self.grad_group + v;
                        let f = forward_gradient(
                            isa,
                            [
                                isa.load(self.grad_planes, from),
                                isa.load(self.grad_planes, from + grad_plane),
                                isa.load(self.grad_planes, from + 2 * grad_plane),
                                isa.load(self.grad_planes, from + 3 * grad_plane),
                            ],
                        );
                        for (z, &f) in f.iter().enumerate() {
                            isa.store(self.gradient, z * grad_plane + v, f);
                        }
                    }
                }
                for z in 0..deep {
                    let (input, grad) = if deep == FREQ {
                        (&self.input[z * input_plane..], &self.gradient[z * grad_plane..])
                    } else {
                        (
                            &self.input_planes[group * self.input_group..],
                            &self.grad_planes[group * self.grad_group..],
                        )
                    };
                    let sums =
                        &mut self.sums[(group * deep + z) * CO_BLOCK * ci_block..][..CO_BLOCK * ci_block];
                    if I::REGISTERS >= 32 {
                        add_products::<I, 8>(isa, input, grad, sums);
                    } else {
                        add_products::<I, 4>(isa, input, grad, sums);
                    }
                }
            }
        }
    }

    /// Transforms the sums back to taps and writes them out.
    #[inline(always)]
    fn finish<I: Isa>(&mut self, isa: I) {
        let (deep, ci_block) = (self.cut.deep, self.cut.ci_block());
        let taps = self.shape.taps();
        let step = CO_BLOCK * ci_block;
        let mut lanes = [0.0f32; 16];
        for co in self.co[0]..self.co[1] {
            for group in 0..2 {
                let first = self.ci[0] + group * I::LANES;
                if first >= self.ci[1] {
                    continue;
                }
                let at = (co - self.co[0]) * ci_block + group * I::LANES;
                // Depth, then height, then width.
                let mut planes = [[isa.splat(0.0); GROUPS]; 3];
                let mut taps_done = [[isa.splat(0.0); 9]; 3];
                // SAFETY: `sums` holds all frequencies of all channels of the block.
                unsafe {
                    for g in 0..GROUPS {
                        let at = at + g * deep * step;
                        if deep == FREQ {
                            let t = backward_weights(
                                isa,
                                [
                                    isa.load(self.sums, at),
                                    isa.load(self.sums, at + step),
                                    isa.load(self.sums, at + 2 * step),
                                    isa.load(self.sums, at + 3 * step),
                                    isa.load(self.sums, at + 4 * step),
                                    isa.load(self.sums, at + 5 * step),
                                ],
                            );
                            for z in 0..3 {
                                planes[z][g] = t[z];
                            }
                        } else {
                            planes[0][g] = isa.load(self.sums, at);
                        }
                    }
                }
                for z in 0..self.shape.kernel[0] {
                    let p = &planes[z];
                    let mut rows = [[isa.splat(0.0); FREQ]; 3];
                    for x in 0..FREQ {
                        let t = backward_weights(
                            isa,
                            [p[x], p[6 + x], p[12 + x], p[18 + x], p[24 + x], p[30 + x]],
                        );
                        for y in 0..3 {
                            rows[y][x] = t[y];
                        }
                    }
                    for y in 0..3 {
                        let t = backward_weights(isa, rows[y]);
                        for x in 0..3 {
                            taps_done[z][y * 3 + x] = t[x];
                        }
                    }
                }
                for t in 0..taps {
                    // SAFETY: 16 lanes at most; this job alone writes these weights of its range.
                    unsafe {
                        isa.store(&mut lanes, 0, taps_done[t / 9][t % 9]);
                        for ci in first..self.ci[1].min(first + I::LANES) {
                            let index = (co * self.shape.in_channels + ci) * taps + t;
                            self.out.range(self.range * self.shape.weight_len() + index, 1)[0] =
                                lanes[ci - first];
                        }
                    }
                }
            }
        }
    }
}

/// `sums[co][ci] += sum over tiles of grad[tile][co] * input[tile][ci]` for one frequency.
///
/// # Safety
/// `input` holds [`TILES`] times two vectors, `grad` [`TILES`] times [`CO_BLOCK`] values, `sums` [`CO_BLOCK`] times two vectors.
#[inline(always)]
unsafe fn add_products<I: Isa, const C: usize>(isa: I, input: &[f32], grad: &[f32], sums: &mut [f32]) {
    let ci_block = 2 * I::LANES;
    for co in (0..CO_BLOCK).step_by(C) {
        let mut acc = [[isa.splat(0.0); 2]; C];
        for t in 0..TILES {
            // SAFETY: the caller's promise.
            unsafe {
                let x = [isa.load(input, t * ci_block), isa.load(input, t * ci_block + I::LANES)];
                for c in 0..C {
                    debug_assert!(t * CO_BLOCK + co + c < grad.len());
                    let g = isa.splat(*grad.get_unchecked(t * CO_BLOCK + co + c));
                    acc[c][0] = isa.fma(g, x[0], acc[c][0]);
                    acc[c][1] = isa.fma(g, x[1], acc[c][1]);
                }
            }
        }
        for c in 0..C {
            for r in 0..2 {
                let at = (co + c) * ci_block + r * I::LANES;
                // SAFETY: the caller's promise.
                unsafe { isa.store(sums, at, isa.add(isa.load(sums, at), acc[c][r])) }
            }
        }
    }
}
