//! Direct convolution: a block of output channels times a few vectors along the width stays in registers.
//!
//! A job is a box of output rows of one sample times a range of output channels. It packs the input rows it needs once
//! (prologue, padding and, for strides along the width, one phase after the other), so that every tap is a plain
//! vector load. How a call is cut into jobs depends on the shape alone, never on the number of threads, and neither do the
//! results. A box of few rows needs its neighbours' rows again, so rows are packed up to twice; in return no padded copy
//! of the whole input exists.

use rayon::prelude::*;

use super::pack::{pack_row, split_phases, zero_range};
use super::{ConvShape, OutputPart, Target, WeightView};
use crate::buffer::{Buffer, Shared, Storage, with_scratch};
use crate::isa::{Cpu, Isa, Kernel};
use crate::scratch::Scratch;
use crate::source::{Plane, Window, window_plane};
use crate::stats::Partial;

/// Output channels per packed block of weights.
pub(crate) const CO_BLOCK: usize = 8;
/// Packed input of one job, in values: 1 MiB, half of a usual L2.
const PACKED_LEN: usize = 256 * 1024;
/// Products summed one after the other before the sum joins the total: keeps the rounding error below 1e-6.
const MAX_PRODUCTS: usize = 1728;

/// Length of packed weights.
pub(crate) fn packed_len(out_channels: usize, in_channels: usize, taps: usize) -> usize {
    out_channels.div_ceil(CO_BLOCK) * in_channels * taps * CO_BLOCK
}

/// Weights as `[co / 8][ci][taps][8]`, missing output channels zero, in memory of [`packed_len`].
pub(crate) fn pack_weights<'a>(
    [out_channels, in_channels]: [usize; 2],
    weights: WeightView<'_>,
    memory: Option<&'a mut [f32]>,
) -> Storage<'a> {
    let taps = weights.taps.len();
    let panel = in_channels * taps * CO_BLOCK;
    let len = packed_len(out_channels, in_channels, taps);
    let mut own = Buffer::zeroed(if memory.is_some() { 0 } else { len });
    let mut memory = memory.map(|m| &mut m[..len]);
    let packed = memory.as_deref_mut().unwrap_or(&mut own);
    if panel > 0 {
        packed.par_chunks_mut(panel).enumerate().for_each(|(block, panel)| {
            if out_channels < (block + 1) * CO_BLOCK {
                panel.fill(0.0);
            }
            for c in 0..CO_BLOCK.min(out_channels - block * CO_BLOCK) {
                for (ci, panel) in panel.chunks_exact_mut(taps * CO_BLOCK).enumerate() {
                    let row = weights.row(block * CO_BLOCK + c, ci);
                    for (to, &tap) in panel.iter_mut().skip(c).step_by(CO_BLOCK).zip(weights.taps) {
                        *to = row[tap];
                    }
                }
            }
        });
    }
    memory.map_or(Storage::Own(own), Storage::Lent)
}

/// How a call is cut into jobs; a function of the shape alone.
///
/// Packed input is `[ci][depth][height phase][width phase][height][width]`: with a stride, rows and columns of equal
/// remainder lie together, so that neighbouring outputs always read neighbouring values.
#[derive(Debug, Clone)]
struct Cut {
    /// Output rows per job, along depth and height.
    rows: [usize; 2],
    /// Input channels packed at once.
    ci_chunk: usize,
    /// Output channels per job, a multiple of [`CO_BLOCK`].
    co_chunk: usize,
    /// Packed values of one channel, of one plane, of one phase, of one row.
    channel: usize,
    plane: usize,
    phase: usize,
    row: usize,
    /// Values used of a row.
    width: usize,
    /// Where each tap's values start, relative to the output voxel's.
    taps: Vec<usize>,
}

impl Cut {
    fn new(shape: &ConvShape, [od, oh, ow]: [usize; 3]) -> Self {
        let ([kd, kh, kw], [sd, sh, sw]) = (shape.kernel, shape.stride);
        let width = ow + (kw - 1) / sw;
        let row = if ow >= 32 { width.next_multiple_of(16) } else { width };
        let phase = |r: [usize; 2]| (r[1] + (kh - 1) / sh) * row;
        let plane = |r: [usize; 2]| phase(r) * sh * sw;
        let channel = |r: [usize; 2]| plane(r) * ((r[0] - 1) * sd + kd);
        // Grow the box from one row towards 8 x 16 rows while 32 channels of it, or all, still fit.
        let want = shape.in_channels.min(32);
        let mut rows = [1, 1];
        for candidate in [[1, 2], [1, 4], [2, 4], [2, 8], [4, 8], [4, 16], [8, 16]] {
            let candidate = [candidate[0].min(od), candidate[1].min(oh)];
            if channel(candidate) * want <= PACKED_LEN {
                rows = candidate;
            }
        }
        let accurate = MAX_PRODUCTS.div_ceil(shape.taps());
        let ci_chunk = (PACKED_LEN / channel(rows)).min(accurate).clamp(1, shape.in_channels);
        // Equal chunks rather than a short last one.
        let ci_chunk = shape.in_channels.div_ceil(shape.in_channels.div_ceil(ci_chunk));
        let boxes = shape.batch * od.div_ceil(rows[0]) * oh.div_ceil(rows[1]);
        let blocks = shape.out_channels.div_ceil(CO_BLOCK);
        // At least 32 jobs where that leaves 32 output channels per job.
        let splits = 32usize.div_ceil(boxes).min(blocks.div_ceil(4)).max(1);
        let co_chunk = blocks.div_ceil(splits) * CO_BLOCK;
        let (channel, plane, phase) = (channel(rows), plane(rows), phase(rows));
        let mut taps = Vec::with_capacity(shape.taps());
        for a in 0..kd {
            for b in 0..kh {
                for c in 0..kw {
                    taps.push(a * plane + (b % sh * sw + c % sw) * phase + b / sh * row + c / sw);
                }
            }
        }
        Self { rows, ci_chunk, co_chunk, channel, plane, phase, row, width, taps }
    }

    /// Values of a job's packed input with what is read behind it, and of a line.
    fn lengths(&self, shape: &ConvShape, lanes: usize) -> [usize; 2] {
        [self.ci_chunk * self.channel + 2 * lanes, self.line(shape) + lanes]
    }

    /// Values of a row before it is split into phases.
    fn line(&self, shape: &ConvShape) -> usize {
        self.width * shape.stride[2]
    }
}

/// What a call with these outputs takes.
pub(crate) fn scratch(shape: &ConvShape, output: [usize; 3], lanes: usize) -> Scratch {
    Scratch { per_thread: Cut::new(shape, output).lengths(shape, lanes).iter().sum(), lent: 0 }
}

/// The call: everything the jobs share.
pub(crate) struct Direct<'a> {
    pub(crate) cpu: Cpu,
    pub(crate) shape: &'a ConvShape,
    pub(crate) part: OutputPart,
    pub(crate) sources: &'a [Window<'a>],
    pub(crate) weights: &'a [f32],
    pub(crate) bias: Option<&'a [f32]>,
}

impl Direct<'_> {
    pub(crate) fn run(&self, target: Target<'_>) {
        let Target { out, stats, .. } = target;
        let cut = Cut::new(self.shape, self.part.output);
        let [od, oh, ow] = self.part.output;
        let boxes = [od.div_ceil(cut.rows[0]), oh.div_ceil(cut.rows[1])];
        let co_parts = self.shape.out_channels.div_ceil(cut.co_chunk);
        let jobs = self.shape.batch * boxes[0] * boxes[1] * co_parts;
        let mut partial = stats
            .as_ref()
            .map(|_| Partial::new(self.shape.batch * self.shape.out_channels, boxes[0] * boxes[1]));
        let shared = Shared::new(out);
        let shared_stats = partial.as_mut().map(|p| Shared::new(&mut p.sums));
        let row = cut.line(self.shape);
        let lengths = cut.lengths(self.shape, self.cpu.lanes());
        (0..jobs).into_par_iter().for_each(|job| {
            let (rest, part) = (job / co_parts, job % co_parts);
            let (n, at) = (rest / (boxes[0] * boxes[1]), rest % (boxes[0] * boxes[1]));
            let start = [at / boxes[1] * cut.rows[0], at % boxes[1] * cut.rows[1]];
            let rows = [cut.rows[0].min(od - start[0]), cut.rows[1].min(oh - start[1])];
            let co = part * cut.co_chunk;
            with_scratch(lengths.iter().sum(), |scratch| {
                let (packed, line) = scratch.split_at_mut(lengths[0]);
                self.cpu.dispatch(Job {
                    call: self,
                    cut: &cut,
                    n,
                    start,
                    rows,
                    size: [od, oh, ow],
                    co,
                    co_end: (co + cut.co_chunk).min(self.shape.out_channels),
                    out: shared,
                    stats: shared_stats,
                    box_index: at,
                    boxes: boxes[0] * boxes[1],
                    packed,
                    line: &mut line[..row],
                });
            });
        });
        if let (Some(partial), Some(stats)) = (partial, stats) {
            partial.reduce(stats);
        }
    }
}

struct Job<'a> {
    call: &'a Direct<'a>,
    cut: &'a Cut,
    n: usize,
    /// First output row and number of rows, along depth and height.
    start: [usize; 2],
    rows: [usize; 2],
    size: [usize; 3],
    co: usize,
    co_end: usize,
    out: Shared<'a, f32>,
    stats: Option<Shared<'a, [f64; 2]>>,
    box_index: usize,
    boxes: usize,
    packed: &'a mut [f32],
    line: &'a mut [f32],
}

/// Where a vector of outputs reads and writes.
///
/// Of rows shorter than a vector, one vector computes several, with useless lanes between them where the padding is.
#[derive(Clone, Copy)]
struct Spot {
    packed: usize,
    /// Output of the first lane used, and lanes from there to the end of the row.
    out: usize,
    n: usize,
    /// The first lane used; then lanes from row to row and how many rows follow (all lanes of these are used).
    first: usize,
    pitch: usize,
    more: usize,
    /// Lanes used of the last of the rows that follow.
    last: usize,
}

impl Kernel for Job<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(mut self, isa: I) {
        let spots = self.spots(I::LANES);
        let cis = self.call.shape.in_channels;
        let mut ci = 0;
        while ci < cis {
            let ci_end = (ci + self.cut.ci_chunk).min(cis);
            self.pack(isa, ci, ci_end);
            let mut co = self.co;
            while co < self.co_end {
                if I::REGISTERS >= 32 {
                    self.block::<I, 8>(isa, &spots, ci, ci_end, co);
                } else {
                    self.block::<I, 4>(isa, &spots, ci, ci_end, co);
                    if co + 4 < self.co_end {
                        self.block::<I, 4>(isa, &spots, ci, ci_end, co + 4);
                    }
                }
                co += CO_BLOCK;
            }
            ci = ci_end;
        }
    }
}

impl Job<'_> {
    fn spots(&self, lanes: usize) -> Vec<Spot> {
        let ([_, oh, ow], sd) = (self.size, self.call.shape.stride[0]);
        let row = self.cut.row;
        let mut spots = Vec::with_capacity(self.rows[0] * self.rows[1] * ow.div_ceil(lanes));
        for z in 0..self.rows[0] {
            let (packed, out) = (z * sd * self.cut.plane, ((self.start[0] + z) * oh + self.start[1]) * ow);
            if ow < lanes && self.rows[1] > 1 {
                let end = (self.rows[1] - 1) * row + ow;
                for at in (0..end).step_by(lanes) {
                    // The vector covers `at..stop` of the rows laid end to end; find the first voxel inside.
                    let stop = end.min(at + lanes);
                    let (mut y, mut x) = (at / row, at % row);
                    if x >= ow {
                        (y, x) = (y + 1, 0);
                    }
                    let start = y * row + x;
                    if start >= stop {
                        continue;
                    }
                    let last_row = (stop - 1) / row;
                    spots.push(Spot {
                        packed: packed + at,
                        out: out + y * ow + x,
                        n: (ow - x).min(stop - start),
                        first: start - at,
                        pitch: row,
                        more: last_row - y,
                        last: ow.min(stop - last_row * row),
                    });
                }
            } else {
                for y in 0..self.rows[1] {
                    for x in (0..ow).step_by(lanes) {
                        let (packed, out) = (packed + y * row + x, out + y * ow + x);
                        spots.push(Spot {
                            packed,
                            out,
                            n: lanes.min(ow - x),
                            first: 0,
                            pitch: 0,
                            more: 0,
                            last: 0,
                        });
                    }
                }
            }
        }
        spots
    }

    /// Packs input channels `ci..ci_end` of the box.
    #[inline(always)]
    fn pack<I: Isa>(&mut self, isa: I, ci: usize, ci_end: usize) {
        let (shape, cut) = (self.call.shape, self.cut);
        let [id, ih, iw] = shape.input;
        let [_, sh, sw] = shape.stride;
        let rows = [
            (self.rows[0] - 1) * shape.stride[0] + shape.kernel[0],
            (self.rows[1] - 1) * shape.stride[1] + shape.kernel[1],
        ];
        let begin: [isize; 2] =
            std::array::from_fn(|a| (self.start[a] * shape.stride[a]) as isize + self.call.part.origin[a]);
        for c in ci..ci_end {
            let Plane { data, prologue } = window_plane(self.call.sources, self.n, c, id * ih * iw);
            for dz in 0..rows[0] {
                let z = begin[0] + dz as isize;
                for dy in 0..rows[1] {
                    let y = begin[1] + dy as isize;
                    let at = (c - ci) * cut.channel
                        + dz * cut.plane
                        + dy % sh * sw * cut.phase
                        + dy / sh * cut.row;
                    if z < 0 || y < 0 || z >= id as isize || y >= ih as isize {
                        for phase in 0..sw {
                            let at = at + phase * cut.phase;
                            zero_range(isa, self.packed, at, at + cut.width);
                        }
                        continue;
                    }
                    let row = &data[(z as usize * ih + y as usize) * iw..][..iw];
                    if sw == 1 {
                        let dst = &mut self.packed[at..at + cut.width];
                        pack_row(isa, row, self.call.part.origin[2], prologue, dst);
                    } else {
                        pack_row(isa, row, self.call.part.origin[2], prologue, self.line);
                        split_phases(isa, self.line, sw, &mut self.packed[at..], cut.phase);
                    }
                }
            }
        }
    }

    /// Output channels `co..co + C` of all spots, from input channels `ci..ci_end`.
    #[inline(always)]
    fn block<I: Isa, const C: usize>(&mut self, isa: I, spots: &[Spot], ci: usize, ci_end: usize, co: usize) {
        let shape = self.call.shape;
        let taps = self.cut.taps.len();
        let valid = C.min(self.co_end - co);
        let panel = ((co / CO_BLOCK) * shape.in_channels + ci) * taps * CO_BLOCK;
        let weights = &self.call.weights[panel..panel + (ci_end - ci) * taps * CO_BLOCK];
        let last = ci_end == shape.in_channels;
        let outputs = Outputs { co, valid, first: ci == 0, last };
        let mut sums = [[isa.zero64(); 2]; C];
        let mut i = 0;
        while i < spots.len() {
            // Two twos rather than a three and a one.
            let left = spots.len() - i;
            if left >= 3 && left != 4 {
                self.group::<I, C, 3>(isa, &spots[i..i + 3], weights, outputs, &mut sums);
                i += 3;
            } else if left >= 2 {
                self.group::<I, C, 2>(isa, &spots[i..i + 2], weights, outputs, &mut sums);
                i += 2;
            } else {
                self.group::<I, C, 1>(isa, &spots[i..=i], weights, outputs, &mut sums);
                i += 1;
            }
        }
        if let (true, Some(stats)) = (last, self.stats) {
            for c in 0..valid {
                let row = self.n * shape.out_channels + co + c;
                // SAFETY: this job alone writes this box of these channels.
                let part = unsafe { stats.range(row * self.boxes + self.box_index, 1) };
                part[0] = [isa.sum64(sums[c][0]), isa.sum64(sums[c][1])];
            }
        }
    }

    #[inline(always)]
    fn group<I: Isa, const C: usize, const R: usize>(
        &mut self,
        isa: I,
        spots: &[Spot],
        weights: &[f32],
        Outputs { co, valid, first, last }: Outputs,
        sums: &mut [[I::F64; 2]; C],
    ) {
        let out_at = |c: usize| self.call.part.channel(self.n, self.call.shape.out_channels, co + c);
        let mut acc = [[isa.splat(0.0); R]; C];
        let base: [usize; R] = std::array::from_fn(|r| spots[r].packed);
        // SAFETY: `Cut` and `spots` keep every tap of every spot inside the packed rows plus the lanes behind them;
        // debug assertions in `load` check it.
        acc = unsafe {
            let rows = PackedRows { values: self.packed, channel: self.cut.channel, taps: &self.cut.taps };
            accumulate(isa, rows, base, (weights, co % CO_BLOCK), acc)
        };
        for c in 0..valid {
            let bias = isa.splat(self.call.bias.map_or(0.0, |b| b[co + c]));
            for r in 0..R {
                let spot = spots[r];
                let at = out_at(c) + spot.out;
                if spot.more > 0 || spot.first > 0 {
                    let v = self.store_rows(isa, acc[c][r], bias, at, spot, first);
                    if last && self.stats.is_some() {
                        sums[c][0] = isa.add_wide(sums[c][0], v);
                        sums[c][1] = isa.fma_wide(sums[c][1], v, v);
                    }
                    continue;
                }
                let n = spot.n;
                let v;
                // SAFETY: this job alone touches these outputs; the spot lies inside the row.
                unsafe {
                    let row = self.out.range(at, n);
                    v = isa.add(acc[c][r], if first { bias } else { isa.load_first(row, 0, n) });
                    if n == I::LANES {
                        isa.store(row, 0, v);
                    } else {
                        isa.store_first(row, 0, n, v);
                    }
                }
                if last && self.stats.is_some() {
                    let v = if n == I::LANES { v } else { isa.keep_first(v, n) };
                    sums[c][0] = isa.add_wide(sums[c][0], v);
                    sums[c][1] = isa.fma_wide(sums[c][1], v, v);
                }
            }
        }
    }

    /// Adds a vector that covers pieces of several rows to them, and returns the results, zero in useless lanes.
    #[inline(always)]
    fn store_rows<I: Isa>(
        &self,
        isa: I,
        values: I::F32,
        bias: I::F32,
        at: usize,
        spot: Spot,
        first: bool,
    ) -> I::F32 {
        let mut lanes = [0.0f32; 16];
        let mut kept = [0.0f32; 16];
        // SAFETY: at most 16 lanes. Every piece lies inside one output row, which this job alone touches.
        unsafe {
            isa.store(&mut lanes, 0, isa.add(values, if first { bias } else { isa.splat(0.0) }));
            let (mut out, mut lane, mut n) = (at, spot.first, spot.n);
            for i in 0..=spot.more {
                let row = self.out.range(out, n);
                for x in 0..n {
                    let v = if first { lanes[lane + x] } else { row[x] + lanes[lane + x] };
                    row[x] = v;
                    kept[lane + x] = v;
                }
                // The next row starts behind this one, one pitch further in the lanes; only the first row may have
                // started late.
                out += n;
                let column = if i == 0 { self.size[2] - n } else { 0 };
                lane += spot.pitch - column;
                n = if i + 1 == spot.more { spot.last } else { self.size[2] };
            }
            isa.load(&kept, 0)
        }
    }
}

/// Output channels of a job, and which of its input channels it has reached.
#[derive(Clone, Copy)]
struct Outputs {
    /// The first channel, and how many there are.
    co: usize,
    valid: usize,
    /// Whether the present input channels are the first ones, and the last ones.
    first: bool,
    last: bool,
}

/// What [`accumulate`] reads.
#[derive(Clone, Copy)]
pub(super) struct PackedRows<'a> {
    pub(super) values: &'a [f32],
    /// Values of one channel.
    pub(super) channel: usize,
    /// Offset of every tap.
    pub(super) taps: &'a [usize],
}

/// The inner loops: all input channels and taps for `C` output channels and `R` vectors.
///
/// # Safety
/// For every packed channel, tap and base, `LANES` values lie inside the rows; `weights` holds a panel of
/// [`CO_BLOCK`] per channel and tap, of which `lane` is the first that counts.
#[inline(always)]
pub(super) unsafe fn accumulate<I: Isa, const C: usize, const R: usize>(
    isa: I,
    PackedRows { values: packed, channel, taps }: PackedRows<'_>,
    base: [usize; R],
    (weights, lane): (&[f32], usize),
    mut acc: [[I::F32; R]; C],
) -> [[I::F32; R]; C] {
    let mut at = 0;
    for panel in weights.chunks_exact(taps.len() * CO_BLOCK) {
        for (t, &tap) in taps.iter().enumerate() {
            let offset = at + tap;
            let mut x = [isa.splat(0.0); R];
            for r in 0..R {
                // SAFETY: the caller's promise.
                x[r] = unsafe { isa.load(packed, base[r] + offset) };
            }
            for c in 0..C {
                debug_assert!(t * CO_BLOCK + lane + c < panel.len());
                // SAFETY: a panel has `CO_BLOCK` weights per tap.
                let w = isa.splat(unsafe { *panel.get_unchecked(t * CO_BLOCK + lane + c) });
                for r in 0..R {
                    acc[c][r] = isa.fma(w, x[r], acc[c][r]);
                }
            }
        }
        at += channel;
    }
    acc
}
