//! Normalisation with affine and leaky ReLU: statistics, scale and shift, and the passes over memory.
//!
//! Normalising is `x * scale + shift` per sample and channel, so what the network carries from layer to layer is a pair of
//! small vectors ([`ScaleShift`]) made from a convolution's sums; the next convolution applies them as it reads. The
//! functions that do walk over memory here are for tensors something else reads: outputs of residual blocks, and training.

use rayon::prelude::*;

use crate::buffer::Shared;
use crate::isa::{Cpu, Isa, Kernel};
use crate::source::{Prologue, apply_prologue};
use crate::stats::{ChannelStats, Partial};

/// Values per job of a pass over memory.
pub(crate) const CHUNK: usize = 32 * 1024;

/// Which values share mean and variance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NormKind {
    /// Every channel of every sample by itself.
    Instance,
    /// Every sample by itself, channels in so many equal groups.
    Group(usize),
    /// Every channel over all samples.
    Batch,
}

impl NormKind {
    /// Sets of values that share mean and variance.
    pub fn sets(self, batch: usize, channels: usize) -> usize {
        match self {
            Self::Instance => batch * channels,
            Self::Group(groups) => batch * groups,
            Self::Batch => channels,
        }
    }

    /// The set that channel `c` of sample `n` belongs to.
    ///
    /// # Panics
    /// If the channels do not split into equal groups.
    pub fn set_of(self, n: usize, c: usize, channels: usize) -> usize {
        match self {
            Self::Instance => n * channels + c,
            Self::Group(groups) => {
                assert!(
                    groups > 0 && channels.is_multiple_of(groups),
                    "{channels} channels in {groups} groups"
                );
                n * groups + c / (channels / groups)
            }
            Self::Batch => c,
        }
    }
}

/// Mean and biased variance of every set of a [`NormKind`].
#[derive(Debug, Clone, PartialEq)]
pub struct Moments {
    /// Means.
    pub mean: Vec<f64>,
    /// Biased variances, never negative.
    pub var: Vec<f64>,
    /// Values per set.
    pub count: usize,
}

impl Moments {
    /// From the sums of all channels of all samples.
    ///
    /// # Panics
    /// If the channels do not split into `kind`'s groups.
    pub fn new(stats: &ChannelStats, kind: NormKind) -> Self {
        let channels = stats.channels;
        let batch = stats.sum.len() / channels;
        let sets = kind.sets(batch, channels);
        let (mut sum, mut sum_sq) = (vec![0.0; sets], vec![0.0; sets]);
        for n in 0..batch {
            for c in 0..channels {
                let set = kind.set_of(n, c, channels);
                sum[set] += stats.sum[n * channels + c];
                sum_sq[set] += stats.sum_sq[n * channels + c];
            }
        }
        let count = batch * channels * stats.voxels / sets;
        let mean: Vec<_> = sum.iter().map(|s| s / count as f64).collect();
        let var = sum_sq.iter().zip(&mean).map(|(s, m)| (s / count as f64 - m * m).max(0.0)).collect();
        Self { mean, var, count }
    }
}

/// Factor and offset per sample and channel, `[n, c]`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScaleShift {
    /// Factors.
    pub scale: Vec<f32>,
    /// Offsets.
    pub shift: Vec<f32>,
}

impl ScaleShift {
    /// `scale = gamma / sqrt(var + eps)`, `shift = beta - mean * scale`, computed in f64.
    ///
    /// # Shapes
    /// `gamma` and `beta` are `[c]`; `moments` as `kind` has them for `batch` samples.
    ///
    /// # Panics
    /// If a length contradicts another.
    pub fn new(
        moments: &Moments,
        kind: NormKind,
        batch: usize,
        gamma: &[f32],
        beta: &[f32],
        eps: f64,
    ) -> Self {
        let channels = gamma.len();
        assert_eq!(beta.len(), channels, "length of beta");
        assert_eq!(moments.mean.len(), kind.sets(batch, channels), "sets of {kind:?}");
        let (mut scale, mut shift) =
            (Vec::with_capacity(batch * channels), Vec::with_capacity(batch * channels));
        for n in 0..batch {
            for c in 0..channels {
                let set = kind.set_of(n, c, channels);
                let factor = f64::from(gamma[c]) / (moments.var[set] + eps).sqrt();
                scale.push(factor as f32);
                shift.push((f64::from(beta[c]) - moments.mean[set] * factor) as f32);
            }
        }
        Self { scale, shift }
    }

    /// As a prologue with the given slope of the leaky ReLU.
    pub fn prologue(&self, slope: f32) -> Prologue<'_> {
        Prologue { scale: &self.scale, shift: &self.shift, slope }
    }
}

/// Sums of every channel of `data`, `[n, c, voxels]`; the same bits for any number of threads.
///
/// # Panics
/// If `data` is not whole samples.
pub fn channel_stats(cpu: Cpu, data: &[f32], channels: usize, voxels: usize) -> ChannelStats {
    struct Sums<'a>(&'a [f32]);
    impl Kernel for Sums<'_> {
        type Out = [f64; 2];
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) -> [f64; 2] {
            let (mut sum, mut sum_sq) = (isa.zero64(), isa.zero64());
            let mut i = 0;
            while i < self.0.len() {
                let n = (self.0.len() - i).min(I::LANES);
                // SAFETY: `i + n <= len`.
                let v =
                    unsafe { if n == I::LANES { isa.load(self.0, i) } else { isa.load_first(self.0, i, n) } };
                sum = isa.add_wide(sum, v);
                sum_sq = isa.fma_wide(sum_sq, v, v);
                i += n;
            }
            [isa.sum64(sum), isa.sum64(sum_sq)]
        }
    }
    let rows = rows(data.len(), voxels);
    assert!(channels > 0 && rows.is_multiple_of(channels), "{rows} rows of {channels} channels");
    let mut stats = ChannelStats::new(rows / channels, channels, voxels);
    let mut partial = Partial::new(rows, voxels.div_ceil(CHUNK));
    let parts = partial.parts;
    partial.sums.par_iter_mut().enumerate().for_each(|(i, sums)| {
        let start = i % parts * CHUNK;
        let row = &data[i / parts * voxels..][..voxels];
        *sums = cpu.dispatch(Sums(&row[start..voxels.min(start + CHUNK)]));
    });
    partial.reduce(&mut stats);
    stats
}

/// `data = leaky(data * scale + shift)` per sample and channel.
///
/// # Shapes
/// `data` is `[n, c, voxels]`, the prologue's vectors `[n, c]`.
///
/// # Panics
/// If a length contradicts another.
pub fn normalize_in_place(cpu: Cpu, data: &mut [f32], voxels: usize, prologue: Prologue<'_>) {
    struct Apply<'a>(&'a mut [f32], (f32, f32, f32));
    impl Kernel for Apply<'_> {
        type Out = ();
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) {
            let (scale, shift, slope) = (isa.splat(self.1.0), isa.splat(self.1.1), isa.splat(self.1.2));
            let mut i = 0;
            while i < self.0.len() {
                let n = (self.0.len() - i).min(I::LANES);
                // SAFETY: `i + n <= len`.
                unsafe {
                    let y = isa.fma(isa.load_first(self.0, i, n), scale, shift);
                    isa.store_first(self.0, i, n, isa.max(y, isa.mul(y, slope)));
                }
                i += n;
            }
        }
    }
    check_prologue(data.len(), voxels, prologue);
    for_chunks(data, voxels, |row, _, chunk| {
        cpu.dispatch(Apply(chunk, (prologue.scale[row], prologue.shift[row], prologue.slope)));
    });
}

/// `out = leaky(data * scale + shift)` per sample and channel; shapes as [`normalize_in_place`].
///
/// # Panics
/// If a length contradicts another.
pub fn normalize(cpu: Cpu, data: &[f32], out: &mut [f32], voxels: usize, prologue: Prologue<'_>) {
    assert_eq!(data.len(), out.len(), "lengths of input and output");
    check_prologue(data.len(), voxels, prologue);
    for_chunks(out, voxels, |row, start, chunk| {
        let from = &data[row * voxels + start..][..chunk.len()];
        let affine = (prologue.scale[row], prologue.shift[row], prologue.slope);
        cpu.dispatch(PackRow { from, prologue: Some(affine), to: chunk });
    });
}

struct PackRow<'a> {
    from: &'a [f32],
    prologue: Option<(f32, f32, f32)>,
    to: &'a mut [f32],
}

impl Kernel for PackRow<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        crate::conv3d::pack::pack_row(isa, self.from, 0, self.prologue, self.to);
    }
}

/// The end of a residual block: `main = leaky(norm(main) + norm(skip))`, each normalisation without activation.
///
/// # Shapes
/// Both are `[n, c, voxels]`; the affine of `skip` may be absent (an identity).
///
/// # Panics
/// If a length differs.
pub fn add_activate(
    cpu: Cpu,
    main: &mut [f32],
    skip: &[f32],
    voxels: usize,
    main_affine: &ScaleShift,
    skip_affine: Option<&ScaleShift>,
    slope: f32,
) {
    struct Add<'a> {
        main: &'a mut [f32],
        skip: &'a [f32],
        scale: [f32; 2],
        shift: f32,
        slope: f32,
    }
    impl Kernel for Add<'_> {
        type Out = ();
        #[inline(always)]
        fn run<I: Isa>(self, isa: I) {
            let (a, b) = (isa.splat(self.scale[0]), isa.splat(self.scale[1]));
            let (shift, slope) = (isa.splat(self.shift), isa.splat(self.slope));
            let mut i = 0;
            while i < self.main.len() {
                let n = (self.main.len() - i).min(I::LANES);
                // SAFETY: `i + n <= len` of both.
                unsafe {
                    let y = isa.fma(isa.load_first(self.main, i, n), a, shift);
                    let y = isa.fma(isa.load_first(self.skip, i, n), b, y);
                    isa.store_first(self.main, i, n, isa.max(y, isa.mul(y, slope)));
                }
                i += n;
            }
        }
    }
    assert_eq!(main.len(), skip.len(), "lengths of the two branches");
    check_prologue(main.len(), voxels, main_affine.prologue(slope));
    if let Some(affine) = skip_affine {
        check_prologue(main.len(), voxels, affine.prologue(slope));
    }
    for_chunks(main, voxels, |row, start, chunk| {
        let (scale, shift) = skip_affine.map_or((1.0, 0.0), |a| (a.scale[row], a.shift[row]));
        cpu.dispatch(Add {
            skip: &skip[row * voxels + start..][..chunk.len()],
            main: chunk,
            scale: [main_affine.scale[row], scale],
            shift: main_affine.shift[row] + shift,
            slope,
        });
    });
}

fn rows(len: usize, voxels: usize) -> usize {
    assert!(voxels > 0 && len.is_multiple_of(voxels), "{len} values in rows of {voxels}");
    len / voxels
}

fn check_prologue(len: usize, voxels: usize, prologue: Prologue<'_>) {
    let rows = rows(len, voxels);
    assert_eq!((prologue.scale.len(), prologue.shift.len()), (rows, rows), "lengths of scale and shift");
    assert!(prologue.slope <= 1.0, "slope {} of a leaky ReLU above 1", prologue.slope);
}

/// Calls `work(row, start, chunk)` for pieces of every row, in parallel.
pub(crate) fn for_chunks(data: &mut [f32], voxels: usize, work: impl Fn(usize, usize, &mut [f32]) + Sync) {
    let rows = rows(data.len(), voxels);
    let parts = voxels.div_ceil(CHUNK);
    let shared = Shared::new(data);
    (0..rows * parts).into_par_iter().for_each(|i| {
        let (row, start) = (i / parts, i % parts * CHUNK);
        // SAFETY: pieces are disjoint.
        let chunk = unsafe { shared.range(row * voxels + start, CHUNK.min(voxels - start)) };
        work(row, start, chunk);
    });
}

/// What [`channel_stats`], [`ScaleShift::new`] and [`normalize`] compute together: mean and biased variance in two passes
/// in f64, then affine and leaky ReLU.
pub fn norm_reference(
    data: &[f32],
    batch: usize,
    kind: NormKind,
    gamma: &[f32],
    beta: &[f32],
    eps: f64,
    slope: f32,
) -> Vec<f32> {
    let channels = gamma.len();
    let voxels = data.len() / (batch * channels);
    let set = |i: usize| kind.set_of(i / (channels * voxels), i / voxels % channels, channels);
    let sets = kind.sets(batch, channels);
    let (mut mean, mut var, mut count) = (vec![0.0; sets], vec![0.0; sets], vec![0.0; sets]);
    for (i, &x) in data.iter().enumerate() {
        mean[set(i)] += f64::from(x);
        count[set(i)] += 1.0;
    }
    for s in 0..sets {
        mean[s] /= count[s];
    }
    for (i, &x) in data.iter().enumerate() {
        var[set(i)] += (f64::from(x) - mean[set(i)]).powi(2) / count[set(i)];
    }
    let value = |(i, &x): (usize, &f32)| {
        let c = i / voxels % channels;
        let y = (f64::from(x) - mean[set(i)]) / (var[set(i)] + eps).sqrt() * f64::from(gamma[c])
            + f64::from(beta[c]);
        apply_prologue(Some((1.0, 0.0, slope)), y as f32)
    };
    data.iter().enumerate().map(value).collect()
}
