//! Gradient of normalisation with affine and leaky ReLU, in two passes over memory.
//!
//! With x̂ = (x - mean) / σ and g the gradient before the activation, the first pass sums g and g·x per channel (f64); the
//! rest is `dx = a g + b x + c` with three numbers per channel, which the second pass applies.

use rayon::prelude::*;

use crate::isa::{Cpu, Isa, Kernel};
use crate::norm::{CHUNK, Moments, NormKind, ScaleShift, for_chunks};
use crate::stats::{ChannelStats, Partial};

/// Gradients of the affine parameters, `[c]`.
#[derive(Debug, Clone, PartialEq)]
pub struct NormGradients {
    /// Of the factors.
    pub gamma: Vec<f32>,
    /// Of the offsets.
    pub beta: Vec<f32>,
}

/// One piece of a row: x, the gradient after the activation, and the forward scale and shift, which tell on which side of
/// the activation a value was.
#[derive(Clone, Copy)]
struct Piece<'a> {
    x: &'a [f32],
    grad: &'a [f32],
    affine: (f32, f32),
    slope: f32,
}

impl Piece<'_> {
    /// x and the gradient before the activation, `n` values from `i`.
    ///
    /// # Safety
    /// `i + n` is at most the length.
    #[inline(always)]
    unsafe fn load<I: Isa>(&self, isa: I, i: usize, n: usize) -> (I::F32, I::F32) {
        // SAFETY: the caller's promise.
        let (x, g) = unsafe { (isa.load_first(self.x, i, n), isa.load_first(self.grad, i, n)) };
        let y = isa.fma(x, isa.splat(self.affine.0), isa.splat(self.affine.1));
        (x, isa.select_positive(y, g, isa.mul(g, isa.splat(self.slope))))
    }
}

struct Sums<'a>(Piece<'a>);

impl Kernel for Sums<'_> {
    type Out = [f64; 2];
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) -> [f64; 2] {
        let (mut sum, mut with_x) = (isa.zero64(), isa.zero64());
        let mut i = 0;
        while i < self.0.x.len() {
            let n = (self.0.x.len() - i).min(I::LANES);
            // SAFETY: `i + n <= len`; lanes behind `n` have a zero gradient.
            let (x, g) = unsafe { self.0.load(isa, i, n) };
            sum = isa.add_wide(sum, g);
            with_x = isa.fma_wide(with_x, g, x);
            i += n;
        }
        [isa.sum64(sum), isa.sum64(with_x)]
    }
}

struct Apply<'a> {
    x: &'a [f32],
    affine: (f32, f32),
    slope: f32,
    /// Factors of g and x, and offset.
    factors: [f32; 3],
    /// The gradient, and what becomes of it.
    grad: &'a mut [f32],
}

impl Kernel for Apply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<I: Isa>(self, isa: I) {
        let [a, b, c] = self.factors.map(|f| isa.splat(f));
        let mut i = 0;
        while i < self.grad.len() {
            let n = (self.grad.len() - i).min(I::LANES);
            let piece = Piece { x: self.x, grad: self.grad, affine: self.affine, slope: self.slope };
            // SAFETY: `i + n <= len` of both.
            unsafe {
                let (x, g) = piece.load(isa, i, n);
                isa.store_first(self.grad, i, n, isa.fma(a, g, isa.fma(b, x, c)));
            }
            i += n;
        }
    }
}

/// A normalisation and the activation behind it, as the backward pass needs them.
#[derive(Debug, Clone, Copy)]
pub struct NormCall<'a> {
    /// What was normalised, `[n, c, voxels]`.
    pub x: &'a [f32],
    /// Voxels of a channel.
    pub voxels: usize,
    /// Which values share mean and variance.
    pub kind: NormKind,
    /// Mean and variance of `x`.
    pub moments: &'a Moments,
    /// Factors, `[c]`.
    pub gamma: &'a [f32],
    /// Offsets, `[c]`.
    pub beta: &'a [f32],
    /// Added to the variance.
    pub eps: f64,
    /// Slope of the leaky ReLU below zero; 1 for no activation.
    pub slope: f32,
}

/// Gradient of `y = leaky((x - mean) / sqrt(var + eps) * gamma + beta)` where mean and variance depend on `x`.
///
/// # Shapes
/// `grad` is as `x`: of `y` before, of `x` afterwards. Nothing depends on the number of threads.
///
/// # Panics
/// If a length contradicts another.
pub fn norm_backward(cpu: Cpu, call: &NormCall<'_>, grad: &mut [f32]) -> NormGradients {
    let NormCall { x, voxels, kind, moments, gamma, beta, eps, slope } = *call;
    let channels = gamma.len();
    assert_eq!(x.len(), grad.len(), "lengths of input and gradient");
    assert!(x.len().is_multiple_of(channels * voxels), "{} values of {channels} x {voxels}", x.len());
    let rows = x.len() / voxels;
    let batch = rows / channels;
    let forward = ScaleShift::new(moments, kind, batch, gamma, beta, eps);
    let affine = |row: usize| (forward.scale[row], forward.shift[row]);
    let values = |row: usize, start: usize, len: usize| &x[row * voxels + start..][..len];
    let mut partial = Partial::new(rows, voxels.div_ceil(CHUNK));
    let parts = partial.parts;
    partial.sums.par_iter_mut().enumerate().for_each(|(i, sums)| {
        let (row, start) = (i / parts, i % parts * CHUNK);
        let x = values(row, start, CHUNK.min(voxels - start));
        let grad = &grad[row * voxels + start..][..x.len()];
        *sums = cpu.dispatch(Sums(Piece { x, grad, affine: affine(row), slope }));
    });
    let mut sums = ChannelStats::new(batch, channels, voxels);
    partial.reduce(&mut sums);
    for n in 0..batch {
        for c in 0..channels {
            let row = n * channels + c;
            sums.sum_sq[row] -= moments.mean[kind.set_of(n, c, channels)] * sums.sum[row];
        }
    }
    let (gradients, factors) = finish(&sums, (kind, moments), gamma, eps);
    for_chunks(grad, voxels, |row, start, grad| {
        let x = values(row, start, grad.len());
        cpu.dispatch(Apply { x, affine: affine(row), slope, factors: factors[row], grad });
    });
    gradients
}

/// From the sums of g and of g (x - mean): gradients of the parameters, and per row what makes `dx = a g + b x + c`.
pub(crate) fn finish(
    sums: &ChannelStats,
    (kind, moments): (NormKind, &Moments),
    gamma: &[f32],
    eps: f64,
) -> (NormGradients, Vec<[f32; 3]>) {
    let channels = gamma.len();
    let rows = sums.sum.len();
    let batch = rows / channels;
    // Per channel sums of g and g x̂; per set sums of them times gamma.
    let sets = kind.sets(batch, channels);
    let (mut of_gamma, mut of_beta) = (vec![0.0; channels], vec![0.0; channels]);
    let (mut plain, mut with_x) = (vec![0.0; sets], vec![0.0; sets]);
    for n in 0..batch {
        for c in 0..channels {
            let (row, set) = (n * channels + c, kind.set_of(n, c, channels));
            let factor = 1.0 / (moments.var[set] + eps).sqrt();
            let normalized = sums.sum_sq[row] * factor;
            of_gamma[c] += normalized;
            of_beta[c] += sums.sum[row];
            plain[set] += sums.sum[row] * f64::from(gamma[c]);
            with_x[set] += normalized * f64::from(gamma[c]);
        }
    }
    let factors: Vec<[f32; 3]> = (0..rows)
        .map(|row| {
            let (n, c) = (row / channels, row % channels);
            let set = kind.set_of(n, c, channels);
            let factor = 1.0 / (moments.var[set] + eps).sqrt();
            let count = moments.count as f64;
            let b = -factor * factor * with_x[set] / count;
            let offset = -factor * plain[set] / count - b * moments.mean[set];
            [(f64::from(gamma[c]) * factor) as f32, b as f32, offset as f32]
        })
        .collect();
    let narrow = |v: Vec<f64>| v.into_iter().map(|x| x as f32).collect();
    (NormGradients { gamma: narrow(of_gamma), beta: narrow(of_beta) }, factors)
}

/// What [`norm_backward`] computes, written as the derivative reads: gradients of x, gamma and beta.
///
/// The call's moments are not read.
pub fn norm_backward_reference(call: &NormCall<'_>, grad: &[f32]) -> (Vec<f32>, NormGradients) {
    let NormCall { x, voxels, kind, gamma, beta, eps, slope, .. } = *call;
    let channels = gamma.len();
    let batch = x.len() / (channels * voxels);
    let channel = |i: usize| i / voxels % channels;
    let set = |i: usize| kind.set_of(i / (channels * voxels), channel(i), channels);
    let sets = kind.sets(batch, channels);
    let mean_by_set = |value: &dyn Fn(usize) -> f64| {
        let (mut sums, mut counts) = (vec![0.0; sets], vec![0.0; sets]);
        for i in 0..x.len() {
            sums[set(i)] += value(i);
            counts[set(i)] += 1.0;
        }
        sums.iter().zip(&counts).map(|(s, n)| s / n).collect::<Vec<f64>>()
    };
    let mean = mean_by_set(&|i| f64::from(x[i]));
    let var = mean_by_set(&|i| (f64::from(x[i]) - mean[set(i)]).powi(2));
    let normalized = |i: usize| (f64::from(x[i]) - mean[set(i)]) / (var[set(i)] + eps).sqrt();
    let before = |i: usize| {
        let y = normalized(i) * f64::from(gamma[channel(i)]) + f64::from(beta[channel(i)]);
        f64::from(grad[i]) * if y > 0.0 { 1.0 } else { f64::from(slope) }
    };
    let scaled = |i: usize| before(i) * f64::from(gamma[channel(i)]);
    let plain = mean_by_set(&scaled);
    let with_x = mean_by_set(&|i| scaled(i) * normalized(i));
    let mut gradients = NormGradients { gamma: vec![0.0; channels], beta: vec![0.0; channels] };
    for c in 0..channels {
        let own = || (0..x.len()).filter(|&i| channel(i) == c);
        gradients.gamma[c] = own().map(|i| before(i) * normalized(i)).sum::<f64>() as f32;
        gradients.beta[c] = own().map(before).sum::<f64>() as f32;
    }
    let dx = (0..x.len())
        .map(|i| {
            let s = set(i);
            ((scaled(i) - plain[s] - normalized(i) * with_x[s]) / (var[s] + eps).sqrt()) as f32
        })
        .collect();
    (dx, gradients)
}
