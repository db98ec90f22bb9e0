//! Convolution as a matrix product, for small volumes.
//!
//! Where rows are shorter than a vector, reading them in place wastes lanes. Here the values that the taps read are written out first (one row of
//! a matrix per input channel and tap, one column per output voxel), so that the product runs on full vectors whatever the
//! volume's shape and stride. The matrix is made in pieces of [`DEPTH`] rows, and in panels of a few vectors of columns, so that a
//! panel stays in the second-level cache while all output channels of a job use it.

use rayon::prelude::*;

use super::direct::{CO_BLOCK, PackedRows, accumulate};
use super::pack::pack_row;
use super::{ConvShape, OutputPart, Target};
use crate::buffer::{Shared, with_scratch};
use crate::isa::{Cpu, Isa, Kernel};
use crate::scratch::{Scratch, split};
use crate::source::{Plane, Window, window_plane};
use crate::stats::Partial;

/// Rows of the matrix at a time, at most; also keeps the rounding error below 1e-6.
const DEPTH: usize = 1728;
/// Vectors of columns in a panel.
const PANEL: usize = 3;
/// Values of the matrix at a time: 16 MiB.
const MATRIX_LEN: usize = 4 << 20;

/// Whether it is faster than the direct algorithm; the numbers come from measurements.
///
/// Writing the matrix costs as much as the products of about twenty output channels. Rows of a vector or more fill the
/// direct algorithm's vectors anyway.
pub(super) fn pays(shape: &ConvShape) -> bool {
    let [_, _, width] = shape.output();
    shape.taps() > 1
        && shape.out_channels >= 32
        && shape.in_channels >= 16
        && shape.out_voxels() * shape.taps() <= MATRIX_LEN / 16
        && width < 16
}

/// How a call is cut into jobs; a function of the shape and the lanes alone.
#[derive(Debug)]
struct Cut {
    /// Columns of a panel, and panels.
    panel: usize,
    panels: usize,
    /// Input channels whose rows are made at once.
    channels: usize,
    /// Blocks of output channels, and panels, of a job.
    blocks: usize,
    columns: usize,
}

impl Cut {
    fn new(shape: &ConvShape, part: &OutputPart, lanes: usize) -> Self {
        let panel = PANEL * lanes;
        let voxels: usize = part.output.iter().product();
        let panels = voxels.div_ceil(panel);
        let channels = (DEPTH / shape.taps()).min(MATRIX_LEN / (panels * panel * shape.taps()));
        let channels = channels.clamp(1, shape.in_channels);
        let channels = shape.in_channels.div_ceil(shape.in_channels.div_ceil(channels));
        let blocks = shape.out_channels.div_ceil(CO_BLOCK);
        // At least 32 jobs where that leaves 32 output channels and two panels per job.
        let splits = 32usize.min(blocks.div_ceil(4)).max(1);
        let more = 32usize.div_ceil(splits).min(panels.div_ceil(2)).max(1);
        Self { panel, panels, channels, blocks: blocks.div_ceil(splits), columns: panels.div_ceil(more) }
    }

    /// Values of a padded channel with what is read behind it, and of a row of the matrix with what is written behind it.
    fn lengths(&self, shape: &ConvShape, part: &OutputPart, lanes: usize) -> [usize; 2] {
        [span(shape, part).iter().product::<usize>() + 2 * lanes, self.panels * self.panel + lanes]
    }

    /// Values of the matrix.
    fn matrix_len(&self, shape: &ConvShape) -> usize {
        self.panels * self.panel * self.channels * shape.taps()
    }
}

/// Input voxels per axis that the outputs' taps span.
fn span(shape: &ConvShape, part: &OutputPart) -> [usize; 3] {
    std::array::from_fn(|a| (part.output[a] - 1) * shape.stride[a] + shape.kernel[a])
}

/// What a call takes: every thread the rows that it makes, the caller's memory the matrix.
pub(super) fn scratch(shape: &ConvShape, part: &OutputPart, lanes: usize) -> Scratch {
    let cut = Cut::new(shape, part, lanes);
    Scratch { per_thread: cut.lengths(shape, part, lanes).iter().sum(), lent: cut.matrix_len(shape) }
}

/// The call: everything the jobs share.
pub(super) struct Gemm<'a> {
    pub(super) cpu: Cpu,
    pub(super) shape: &'a ConvShape,
    pub(super) part: OutputPart,
    pub(super) sources: &'a [Window<'a>],
    pub(super) weights: &'a [f32],
    pub(super) bias: Option<&'a [f32]>,
}

impl Gemm<'_> {
    pub(super) fn run(&self, target: Target<'_>) {
        let Target { out, stats, scratch } = target;
        let shape = self.shape;
        let lanes = self.cpu.lanes();
        let cut = Cut::new(shape, &self.part, lanes);
        let blocks = shape.out_channels.div_ceil(CO_BLOCK);
        let jobs = [blocks.div_ceil(cut.blocks), cut.panels.div_ceil(cut.columns)];
        let mut partial = stats.as_ref().map(|_| Partial::new(shape.batch * shape.out_channels, jobs[1]));
        let shared = Shared::new(out);
        let shared_stats = partial.as_mut().map(|p| Shared::new(&mut p.sums));
        let taps = shape.taps();
        let (matrix, _) = split(scratch, cut.matrix_len(shape));
        let lengths = cut.lengths(shape, &self.part, lanes);
        for n in 0..shape.batch {
            for ci in (0..shape.in_channels).step_by(cut.channels) {
                let end = (ci + cut.channels).min(shape.in_channels);
                let depth = (end - ci) * taps;
                let rows = Shared::new(matrix);
                (ci..end).into_par_iter().for_each(|channel| {
                    with_scratch(lengths.iter().sum(), |scratch| {
                        let first = (channel - ci) * taps;
                        self.cpu.dispatch(Spread {
                            call: self,
                            cut: &cut,
                            n,
                            channel,
                            first,
                            depth,
                            scratch,
                            padded: lengths[0],
                            rows,
                        });
                    });
                });
                let matrix = &*matrix;
                (0..jobs[0] * jobs[1]).into_par_iter().for_each(|job| {
                    self.cpu.dispatch(Job {
                        call: self,
                        cut: &cut,
                        n,
                        depth: [ci * taps, end * taps],
                        blocks: [job / jobs[1] * cut.blocks, (job / jobs[1] + 1) * cut.blocks],
                        index: job % jobs[1],
                        parts: jobs[1],
                        matrix,
                        out: shared,
                        stats: shared_stats,
                    });
                });
            }
        }
        if let (Some(partial), Some(stats)) = (partial, stats) {
            partial.reduce(stats);
        }
    }
}

/// Writes the rows of one input channel.
struct Spread<'a> {
    call: &'a Gemm<'a>,
    cut: &'a Cut,
    n: usize,
    channel: usize,
    /// Number of the first row, and rows of the matrix.
    first: usize,
    depth: usize,
    scratch: &'a mut [f32],
    /// How much of it is for the padded channel.
    padded: usize,
    rows: Shared<'a, f32>,
}

impl Kernel for Spread<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let shape = self.call.shape;
        let [id, ih, iw] = shape.input;
        let [sd, sh, sw] = shape.stride;
        let [od, oh, ow] = self.call.part.output;
        let origin = self.call.part.origin;
        let span = span(shape, &self.call.part);
        let (padded, row) = self.scratch.split_at_mut(self.padded);
        row.fill(0.0);
        let Plane { data, prologue } = window_plane(self.call.sources, self.n, self.channel, id * ih * iw);
        for z in 0..span[0] {
            for y in 0..span[1] {
                let (iz, iy) = (z as isize + origin[0], y as isize + origin[1]);
                let to = &mut padded[(z * span[1] + y) * span[2]..][..span[2]];
                if iz < 0 || iy < 0 || iz >= id as isize || iy >= ih as isize {
                    to.fill(0.0);
                } else {
                    let from = &data[(iz as usize * ih + iy as usize) * iw..][..iw];
                    pack_row(isa, from, origin[2], prologue, to);
                }
            }
        }
        let [kd, kh, kw] = shape.kernel;
        for tap in 0..kd * kh * kw {
            let [a, b, c] = [tap / (kh * kw), tap / kw % kh, tap % kw];
            for z in 0..od {
                for y in 0..oh {
                    let from = ((z * sd + a) * span[1] + y * sh + b) * span[2] + c;
                    let to = (z * oh + y) * ow;
                    // Whole vectors: what is written behind a row is overwritten by the next one.
                    let mut x = 0;
                    while sw <= 2 && x < ow {
                        // SAFETY: both have room for two vectors behind their last row.
                        unsafe {
                            let low = isa.load(padded, from + x * sw);
                            let value = if sw == 1 {
                                low
                            } else {
                                isa.deinterleave2(low, isa.load(padded, from + x * sw + I::LANES)).0
                            };
                            isa.store(row, to + x, value);
                        }
                        x += I::LANES;
                    }
                    while x < ow {
                        row[to + x] = padded[from + x * sw];
                        x += 1;
                    }
                }
            }
            let row = &row[..self.cut.panels * self.cut.panel];
            for (panel, values) in row.chunks_exact(self.cut.panel).enumerate() {
                let at = (panel * self.depth + self.first + tap) * self.cut.panel;
                // SAFETY: this job alone writes the rows of this channel.
                unsafe { self.rows.range(at, self.cut.panel) }.copy_from_slice(values);
            }
        }
    }
}

/// The product for some output channels and panels.
struct Job<'a> {
    call: &'a Gemm<'a>,
    cut: &'a Cut,
    n: usize,
    /// Rows of the matrix, counted over all pieces.
    depth: [usize; 2],
    blocks: [usize; 2],
    /// Which range of panels, of how many.
    index: usize,
    parts: usize,
    matrix: &'a [f32],
    out: Shared<'a, f32>,
    stats: Option<Shared<'a, [f64; 2]>>,
}

impl Kernel for Job<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let channels = self.call.shape.out_channels;
        let blocks = self.blocks[1].min(channels.div_ceil(CO_BLOCK));
        let first = self.index * self.cut.columns;
        for panel in first..(first + self.cut.columns).min(self.cut.panels) {
            for block in self.blocks[0]..blocks {
                if I::REGISTERS >= 32 {
                    self.product::<I, 8>(isa, panel, block * CO_BLOCK, panel == first);
                } else {
                    self.product::<I, 4>(isa, panel, block * CO_BLOCK, panel == first);
                    if block * CO_BLOCK + 4 < channels {
                        self.product::<I, 4>(isa, panel, block * CO_BLOCK + 4, panel == first);
                    }
                }
            }
        }
    }
}

impl Job<'_> {
    /// `C` output channels from `co` on of one panel.
    #[inline(always)]
    fn product<I: Isa, const C: usize>(&self, isa: I, panel: usize, co: usize, fresh: bool) {
        let shape = self.call.shape;
        let all = shape.in_channels * shape.taps();
        let depth = self.depth[1] - self.depth[0];
        let width = self.cut.panel;
        let weights =
            &self.call.weights[(co / CO_BLOCK * all + self.depth[0]) * CO_BLOCK..][..depth * CO_BLOCK];
        let values = &self.matrix[panel * depth * width..][..depth * width];
        let base = std::array::from_fn(|r| r * I::LANES);
        let acc = [[isa.splat(0.0); PANEL]; C];
        let rows = PackedRows { values, channel: width, taps: &[0] };
        // SAFETY: a panel has `PANEL` vectors per row, and as many rows as there are weights.
        let acc = unsafe { accumulate(isa, rows, base, (weights, co % CO_BLOCK), acc) };
        let voxels: usize = self.call.part.output.iter().product();
        for (c, acc) in acc.iter().enumerate().take(shape.out_channels - co) {
            let bias = isa.splat(self.call.bias.map_or(0.0, |b| b[co + c]));
            let channel = self.call.part.channel(self.n, shape.out_channels, co + c);
            let mut sums = [isa.zero64(); 2];
            for (r, &value) in acc.iter().enumerate() {
                let at = panel * width + r * I::LANES;
                if at >= voxels {
                    break;
                }
                let n = I::LANES.min(voxels - at);
                // SAFETY: this job alone touches these outputs of this channel.
                unsafe {
                    let to = self.out.range(channel + at, n);
                    let before = if self.depth[0] == 0 { bias } else { isa.load_first(to, 0, n) };
                    let value = isa.keep_first(isa.add(value, before), n);
                    isa.store_first(to, 0, n, value);
                    sums = [isa.add_wide(sums[0], value), isa.fma_wide(sums[1], value, value)];
                }
            }
            if let (Some(stats), true) = (self.stats, self.depth[1] == all) {
                let row = self.n * shape.out_channels + co + c;
                // SAFETY: this job alone writes this part of this channel's sums.
                let total = unsafe { &mut stats.range(row * self.parts + self.index, 1)[0] };
                let before = if fresh { [0.0; 2] } else { *total };
                *total = [before[0] + isa.sum64(sums[0]), before[1] + isa.sum64(sums[1])];
            }
        }
    }
}
