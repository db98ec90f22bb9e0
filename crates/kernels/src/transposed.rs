//! Transposed convolution with kernel = stride: every input voxel paints its own block of outputs.
//!
//! Nothing overlaps, so it is a matrix product: rows are (output channel, tap), columns input voxels, summed over input
//! channels. Input is packed once per job with its prologue; along the width the taps of a step of two stay in registers
//! together and are interleaved as they are stored. Other steps are stored value by value.

use rayon::prelude::*;

use crate::buffer::{Buffer, Shared, Storage, with_scratch};
use crate::conv3d::ConvShape;
use crate::conv3d::pack::pack_row;
use crate::isa::{Cpu, Isa, Kernel};
use crate::scratch::Scratch;
use crate::source::{Plane, Source, Window, apply_prologue, check_sources, plane, window_plane};

/// Virtual output channels per packed block: 8 channels, or 4 channels times 2 taps.
const BLOCK: usize = 8;
/// Packed input of one job, in values: 512 KiB.
const PACKED_LEN: usize = 128 * 1024;

/// Sizes of a transposed convolution whose kernel equals its stride; axes are depth, height, width.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TransposedShape {
    /// Samples.
    pub batch: usize,
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Input voxels per axis.
    pub input: [usize; 3],
    /// Kernel voxels and step per axis.
    pub kernel: [usize; 3],
}

impl TransposedShape {
    /// Output voxels per axis.
    pub fn output(&self) -> [usize; 3] {
        std::array::from_fn(|a| self.input[a] * self.kernel[a])
    }

    /// Input voxels of one channel.
    pub fn in_voxels(&self) -> usize {
        self.input.iter().product()
    }

    /// Output voxels of one channel.
    pub fn out_voxels(&self) -> usize {
        self.output().iter().product()
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Length of the input.
    pub fn in_len(&self) -> usize {
        self.batch * self.in_channels * self.in_voxels()
    }

    /// Length of the output.
    pub fn out_len(&self) -> usize {
        self.batch * self.out_channels * self.out_voxels()
    }

    /// Length of the weights, `[in, out, kd, kh, kw]`.
    pub fn weight_len(&self) -> usize {
        self.in_channels * self.out_channels * self.taps()
    }

    /// The convolution whose forward pass, with the same weights, is this one's data gradient, and whose weight gradient,
    /// with input and output gradient exchanged, is this one's.
    pub fn gradient_shape(&self) -> ConvShape {
        ConvShape {
            batch: self.batch,
            in_channels: self.out_channels,
            out_channels: self.in_channels,
            input: self.output(),
            kernel: self.kernel,
            stride: self.kernel,
            padding: [0; 3],
        }
    }

    /// Floating point operations.
    pub fn flops(&self) -> f64 {
        2.0 * (self.batch * self.in_voxels()) as f64 * self.weight_len() as f64
    }
}

/// What [`conv_transpose3d`] computes, one voxel at a time. `weights` is `[in, out, kd, kh, kw]`.
pub fn conv_transpose3d_reference(
    shape: &TransposedShape,
    source: Source<'_>,
    weights: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let ([_, ih, iw], [kd, kh, kw], [od, oh, ow]) = (shape.input, shape.kernel, shape.output());
    let mut out = Vec::with_capacity(shape.out_len());
    for n in 0..shape.batch {
        for co in 0..shape.out_channels {
            for z in 0..od {
                for y in 0..oh {
                    for x in 0..ow {
                        let mut sum = bias.map_or(0.0, |b| f64::from(b[co]));
                        for ci in 0..shape.in_channels {
                            let plane = plane(&[source], n, ci, shape.in_voxels());
                            let value = plane.data[(z / kd * ih + y / kh) * iw + x / kw];
                            let tap = (z % kd * kh + y % kh) * kw + x % kw;
                            let weight = weights[(ci * shape.out_channels + co) * shape.taps() + tap];
                            sum += f64::from(weight) * f64::from(apply_prologue(plane.prologue, value));
                        }
                        out.push(sum as f32);
                    }
                }
            }
        }
    }
    out
}

/// Weights prepared once, used for every tile and from any thread.
#[derive(Debug)]
pub struct PackedTransposed<'a> {
    cpu: Cpu,
    in_channels: usize,
    out_channels: usize,
    kernel: [usize; 3],
    /// `[kd, kh][kw or pair of taps][co / block][ci][8]`.
    panels: Storage<'a>,
}

/// How the 8 lanes of a panel are used.
#[derive(Debug, Clone, Copy)]
struct Lanes {
    /// Taps along the width in one panel: 1 or 2.
    taps: usize,
    /// Output channels in one panel.
    channels: usize,
    /// Panels along the width and along the output channels.
    panels: [usize; 2],
}

impl Lanes {
    fn new(kw: usize, out_channels: usize) -> Self {
        let taps = if kw == 2 { 2 } else { 1 };
        let channels = BLOCK / taps;
        Self { taps, channels, panels: [kw / taps, out_channels.div_ceil(channels)] }
    }
}

impl PackedTransposed<'static> {
    /// Prepares `weights`, `[in, out, kd, kh, kw]`; `shape`'s batch and input size do not matter.
    ///
    /// # Panics
    /// If the length of `weights` is not `shape`'s.
    pub fn new(cpu: Cpu, shape: &TransposedShape, weights: &[f32]) -> Self {
        PackedTransposed::made(cpu, shape, weights, None)
    }
}

impl<'a> PackedTransposed<'a> {
    /// Values of the weights prepared for layers like `shape`.
    pub fn packed_len(shape: &TransposedShape) -> usize {
        let [kd, kh, kw] = shape.kernel;
        let lanes = Lanes::new(kw, shape.out_channels);
        kd * kh * lanes.panels[0] * lanes.panels[1] * shape.in_channels * BLOCK
    }

    /// What [`conv_transpose3d`] of `shape` takes next to its operands.
    pub fn scratch(shape: &TransposedShape) -> Scratch {
        Scratch { per_thread: Cut::new(shape).packed_len(shape), lent: 0 }
    }

    /// [`PackedTransposed::new`] in memory of [`Self::packed_len`] values, whose contents do not matter.
    ///
    /// # Panics
    /// As [`PackedTransposed::new`], and if the memory is shorter.
    pub fn new_in(cpu: Cpu, shape: &TransposedShape, weights: &[f32], memory: &'a mut [f32]) -> Self {
        Self::made(cpu, shape, weights, Some(memory))
    }

    fn made(cpu: Cpu, shape: &TransposedShape, weights: &[f32], memory: Option<&'a mut [f32]>) -> Self {
        assert_eq!(weights.len(), shape.weight_len(), "length of the weights of {shape:?}");
        let kw = shape.kernel[2];
        let lanes = Lanes::new(kw, shape.out_channels);
        let panel = shape.in_channels * BLOCK;
        let len = Self::packed_len(shape);
        let mut own = Buffer::zeroed(if memory.is_some() { 0 } else { len });
        let mut memory = memory.map(|m| &mut m[..len]);
        let panels = memory.as_deref_mut().unwrap_or(&mut own);
        if panel > 0 {
            panels.par_chunks_mut(panel).enumerate().for_each(|(index, panel)| {
                let (rest, block) = (index / lanes.panels[1], index % lanes.panels[1]);
                let (row_tap, column) = (rest / lanes.panels[0], rest % lanes.panels[0]);
                for lane in 0..BLOCK {
                    let co = block * lanes.channels + lane / lanes.taps;
                    let tap = row_tap * kw + column * lanes.taps + lane % lanes.taps;
                    for ci in 0..shape.in_channels {
                        let at = (ci * shape.out_channels + co) * shape.taps() + tap;
                        panel[ci * BLOCK + lane] = if co < shape.out_channels { weights[at] } else { 0.0 };
                    }
                }
            });
        }
        Self {
            cpu,
            in_channels: shape.in_channels,
            out_channels: shape.out_channels,
            kernel: shape.kernel,
            panels: memory.map_or(Storage::Own(own), Storage::Lent),
        }
    }

    /// Bytes of the prepared weights.
    pub fn bytes(&self) -> usize {
        self.panels.len() * size_of::<f32>()
    }
}

/// `out[s * i + k] = sum over channels of weight[k] * prologue(source)[i]`, plus bias; stride `s` = kernel.
///
/// # Shapes
/// `source` has `shape.in_channels`; `bias` is `[out]`; `out` is `[n, out, d, h, w]` and is overwritten. It does not
/// depend on the number of threads.
///
/// # Panics
/// If a length contradicts `shape`, or `weights` were prepared for other channels or another kernel.
pub fn conv_transpose3d(
    shape: &TransposedShape,
    source: Source<'_>,
    weights: &PackedTransposed<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    check_sources(&[source], shape.batch, shape.in_channels, shape.in_voxels());
    upsample(shape, Window::whole(source, shape.in_voxels()), weights, bias, out);
}

/// How a call is cut into jobs; a function of the shape alone.
struct Cut {
    lanes: Lanes,
    /// Input voxels of a job, and how many pieces of a sample there are.
    chunk: usize,
    chunks: usize,
    /// Panels of output channels of a job, and how many parts they make.
    blocks: usize,
    parts: usize,
    /// Values from one packed channel to the next.
    pitch: usize,
}

impl Cut {
    fn new(shape: &TransposedShape) -> Self {
        let voxels = shape.in_voxels();
        let chunk = (PACKED_LEN / shape.in_channels.max(1)).clamp(48, 4096).min(voxels);
        let chunks = voxels.div_ceil(chunk);
        let lanes = Lanes::new(shape.kernel[2], shape.out_channels);
        // At least 64 jobs where that leaves two panels of channels per job.
        let splits = 64usize.div_ceil(shape.batch * chunks).min(lanes.panels[1].div_ceil(2)).max(1);
        let blocks = lanes.panels[1].div_ceil(splits);
        let parts = lanes.panels[1].div_ceil(blocks);
        Self { lanes, chunk, chunks, blocks, parts, pitch: chunk.next_multiple_of(16) + 16 }
    }

    /// Values of a job's packed input.
    fn packed_len(&self, shape: &TransposedShape) -> usize {
        shape.in_channels * self.pitch
    }
}

/// [`conv_transpose3d`] of a window of `shape`'s size.
pub(crate) fn upsample(
    shape: &TransposedShape,
    source: Window<'_>,
    weights: &PackedTransposed<'_>,
    bias: Option<&[f32]>,
    out: &mut [f32],
) {
    assert_eq!(
        (weights.in_channels, weights.out_channels, weights.kernel),
        (shape.in_channels, shape.out_channels, shape.kernel),
        "prepared weights against {shape:?}"
    );
    assert_eq!(out.len(), shape.out_len(), "length of the output of {shape:?}");
    if let Some(bias) = bias {
        assert_eq!(bias.len(), shape.out_channels, "length of the bias");
    }
    let voxels = shape.in_voxels();
    if out.is_empty() {
        return;
    }
    let cut = Cut::new(shape);
    let Cut { lanes, chunk, chunks, blocks, parts, pitch } = cut;
    let shared = Shared::new(out);
    (0..shape.batch * chunks * parts).into_par_iter().for_each(|job| {
        let (rest, part) = (job / parts, job % parts);
        let (n, start) = (rest / chunks, rest % chunks * chunk);
        with_scratch(cut.packed_len(shape), |packed| {
            weights.cpu.dispatch(Job {
                shape,
                source,
                panels: &weights.panels,
                lanes,
                bias,
                out: shared,
                n,
                start,
                len: chunk.min(voxels - start),
                blocks: [part * blocks, ((part + 1) * blocks).min(lanes.panels[1])],
                pitch,
                packed,
            });
        });
    });
}

struct Job<'a> {
    shape: &'a TransposedShape,
    source: Window<'a>,
    panels: &'a [f32],
    lanes: Lanes,
    bias: Option<&'a [f32]>,
    out: Shared<'a, f32>,
    n: usize,
    /// First input voxel and number of voxels, flat.
    start: usize,
    len: usize,
    /// Range of panels along the output channels.
    blocks: [usize; 2],
    pitch: usize,
    packed: &'a mut [f32],
}

impl Kernel for Job<'_> {
    type Out = ();

    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let shape = self.shape;
        for ci in 0..shape.in_channels {
            let Plane { data, prologue } = window_plane(&[self.source], self.n, ci, shape.in_voxels());
            let dst = &mut self.packed[ci * self.pitch..][..self.len];
            pack_row(isa, &data[self.start..self.start + self.len], 0, prologue, dst);
        }
        let panel = shape.in_channels * BLOCK;
        for block in self.blocks[0]..self.blocks[1] {
            for row_tap in 0..shape.kernel[0] * shape.kernel[1] {
                for column in 0..self.lanes.panels[0] {
                    let index = (row_tap * self.lanes.panels[0] + column) * self.lanes.panels[1] + block;
                    let weights = &self.panels[index * panel..(index + 1) * panel];
                    let spot = Spot { block, row_tap, column };
                    let mut at = 0;
                    while at < self.len {
                        let left = (self.len - at).div_ceil(I::LANES);
                        if I::REGISTERS >= 32 && left >= 3 {
                            self.group::<I, 8, 3>(isa, weights, spot, at, 0);
                            at += 3 * I::LANES;
                        } else if I::REGISTERS >= 32 {
                            self.group::<I, 8, 1>(isa, weights, spot, at, 0);
                            at += I::LANES;
                        } else {
                            self.group::<I, 4, 2>(isa, weights, spot, at, 0);
                            self.group::<I, 4, 2>(isa, weights, spot, at, 4);
                            at += 2 * I::LANES;
                        }
                    }
                }
            }
        }
    }
}

/// A panel: a block of output channels, a row of taps and a column of it.
#[derive(Clone, Copy)]
struct Spot {
    block: usize,
    row_tap: usize,
    column: usize,
}

impl Job<'_> {
    /// `R` vectors from `at` on for lanes `lane..lane + C` of a panel.
    #[inline(always)]
    fn group<I: Isa, const C: usize, const R: usize>(
        &self,
        isa: I,
        weights: &[f32],
        Spot { block, row_tap, column }: Spot,
        at: usize,
        lane: usize,
    ) {
        let mut acc = [[isa.splat(0.0); R]; C];
        let mut base = at;
        for w in weights.chunks_exact(BLOCK) {
            let mut x = [isa.splat(0.0); R];
            for r in 0..R {
                // A vector that starts behind the voxels is not stored: read the first one instead.
                let from = if at + r * I::LANES < self.len { base + r * I::LANES } else { base };
                // SAFETY: a channel has `LANES` values of room behind its voxels.
                x[r] = unsafe { isa.load(self.packed, from) };
            }
            for c in 0..C {
                let weight = isa.splat(w[lane + c]);
                for r in 0..R {
                    acc[c][r] = isa.fma(weight, x[r], acc[c][r]);
                }
            }
            base += self.pitch;
        }
        let step = self.lanes.taps;
        for c in (0..C).step_by(step) {
            let co = block * self.lanes.channels + (lane + c) / step;
            if co >= self.shape.out_channels {
                break;
            }
            let bias = isa.splat(self.bias.map_or(0.0, |b| b[co]));
            for r in 0..R {
                let first = at + r * I::LANES;
                if first >= self.len {
                    break;
                }
                let n = I::LANES.min(self.len - first);
                if step == 2 {
                    let (a, b) =
                        isa.interleave2(isa.add(acc[c][r], bias), isa.add(acc[(c + 1) % C][r], bias));
                    self.write(isa, [a, b], 2 * n, co, [row_tap, 0], self.start + first);
                } else {
                    let a = isa.add(acc[c][r], bias);
                    self.write(isa, [a, a], n, co, [row_tap, column], self.start + first);
                }
            }
        }
    }

    /// Writes `n` values of one row of taps that belong to input voxels from `voxel` on.
    #[inline(always)]
    fn write<I: Isa>(
        &self,
        isa: I,
        values: [I::F32; 2],
        n: usize,
        co: usize,
        [row_tap, column]: [usize; 2],
        voxel: usize,
    ) {
        let ([_, ih, iw], [kd, kh, kw]) = (self.shape.input, self.shape.kernel);
        let [_, oh, ow] = self.shape.output();
        let (tap_z, tap_y) = (row_tap / kh, row_tap % kh);
        let per_voxel = self.lanes.taps;
        let spread = kw / per_voxel;
        let channel = (self.n * self.shape.out_channels + co) * self.shape.out_voxels();
        let mut lanes = [0.0f32; 64];
        let mut stored = false;
        let (mut done, mut voxel) = (0, voxel);
        while done < n {
            let (z, y, x) = (voxel / (ih * iw), voxel / iw % ih, voxel % iw);
            let count = ((iw - x) * per_voxel).min(n - done);
            let at = channel + ((z * kd + tap_z) * oh + y * kh + tap_y) * ow + x * kw + column;
            // SAFETY: no other job writes outputs of these voxels and channels, and `count` ends within the row.
            let row = unsafe { self.out.range(at, (count - 1) * spread + 1) };
            if spread == 1 && done == 0 && count == n {
                // SAFETY: `row` has `n` values.
                unsafe {
                    if n >= I::LANES {
                        isa.store(row, 0, values[0]);
                    } else {
                        isa.store_first(row, 0, n, values[0]);
                    }
                    if n == 2 * I::LANES {
                        isa.store(row, I::LANES, values[1]);
                    } else if n > I::LANES {
                        isa.store_first(row, I::LANES, n - I::LANES, values[1]);
                    }
                }
                return;
            }
            if !stored {
                // SAFETY: two vectors of at most 16 lanes fit.
                unsafe {
                    isa.store(&mut lanes, 0, values[0]);
                    isa.store(&mut lanes, I::LANES, values[1]);
                }
                stored = true;
            }
            for i in 0..count {
                row[i * spread] = lanes[done + i];
            }
            done += count;
            voxel += count / per_voxel;
        }
    }
}
