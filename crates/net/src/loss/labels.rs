//! One softmax over all labels, with a Dice per label and categorical cross entropy.

use glioseg_kernels::vectorised;
use rayon::prelude::*;

use super::math::{exp, ln, sums};
use super::{HeadShape, LossOptions, Sums, Terms};
use crate::NetError;

/// Voxels of one unit of work: rows of it for every channel stay in the cache.
const CHUNK: usize = 1 << 12;

/// The parts of every channel's plane that belong to the same voxels.
struct Piece<'a> {
    sample: usize,
    first: usize,
    planes: Vec<&'a mut [f32]>,
}

/// Cuts `[n, c, voxels]` into pieces of voxels with all their channels.
fn pieces(values: &mut [f32], shape: HeadShape) -> Vec<Piece<'_>> {
    let count = shape.voxels.div_ceil(CHUNK);
    let mut pieces: Vec<Piece<'_>> = Vec::with_capacity(shape.batch * count);
    for (plane, values) in values.chunks_mut(shape.voxels).enumerate() {
        let (sample, channel) = (plane / shape.channels, plane % shape.channels);
        for (i, part) in values.chunks_mut(CHUNK).enumerate() {
            if channel == 0 {
                pieces.push(Piece { sample, first: i * CHUNK, planes: Vec::with_capacity(shape.channels) });
            }
            pieces[sample * count + i].planes.push(part);
        }
    }
    pieces
}

/// Checks the number of labels, and that each has a channel.
pub(super) fn check(labels: &[i16], shape: HeadShape, options: &LossOptions) -> Result<(), NetError> {
    let HeadShape { batch, channels, voxels } = shape;
    if labels.len() != batch * voxels {
        return Err(NetError::Target {
            what: format!("{} labels where the head has {} voxels", labels.len(), batch * voxels),
        });
    }
    let known = |l: i16| Some(l) == options.ignore_label || usize::try_from(l).is_ok_and(|l| l < channels);
    if let Some(&label) = labels.iter().find(|&&l| !known(l)) {
        return Err(NetError::Target { what: format!("label {label} for a head of {channels} channels") });
    }
    Ok(())
}

/// Probabilities of all labels, and the sums.
pub(super) fn probabilities(
    logits: &[f32],
    labels: &[i16],
    shape: HeadShape,
    options: &LossOptions,
    probs: &mut [f32],
) -> Sums {
    let HeadShape { batch, channels, voxels } = shape;
    assert_eq!(labels.len(), batch * voxels, "labels of a head that were checked");
    let ignored = options.ignore_label;
    let parts: Vec<(usize, Vec<[f64; 3]>, [f64; 2])> = pieces(probs, shape)
        .into_par_iter()
        .map(|Piece { sample, first, planes }| {
            let labels = &labels[sample * voxels + first..][..planes[0].len()];
            let logits = |c: usize| &logits[(sample * channels + c) * voxels + first..][..labels.len()];
            let (per_channel, entropy) = vectorised(
                #[inline(always)]
                || activate(logits, labels, ignored, planes),
            );
            (sample, per_channel, entropy)
        })
        .collect();
    let planes = batch * channels;
    let mut total = Sums {
        both: vec![0.0; planes],
        prob: vec![0.0; planes],
        target: vec![0.0; planes],
        ..Sums::default()
    };
    for (sample, per_channel, [entropy, count]) in parts {
        for (c, [both, prob, target]) in per_channel.into_iter().enumerate() {
            let at = sample * channels + c;
            total.both[at] += both;
            total.prob[at] += prob;
            total.target[at] += target;
        }
        total.entropy += entropy;
        total.count += count;
    }
    total
}

/// 1 for voxels that count.
#[inline(always)]
fn counts(label: i16, ignored: Option<i16>) -> f32 {
    if Some(label) == ignored { 0.0 } else { 1.0 }
}

/// Softmax of a piece; per channel the sums of p t, p and t, then those of the cross entropy and of the weights.
#[inline(always)]
fn activate<'a>(
    logits: impl Fn(usize) -> &'a [f32],
    labels: &[i16],
    ignored: Option<i16>,
    mut probs: Vec<&mut [f32]>,
) -> (Vec<[f64; 3]>, [f64; 2]) {
    let len = labels.len();
    let mut largest = [f32::NEG_INFINITY; CHUNK];
    let mut sum = [0f32; CHUNK];
    let mut chosen = [0f32; CHUNK];
    let (largest, sum, chosen) = (&mut largest[..len], &mut sum[..len], &mut chosen[..len]);
    for c in 0..probs.len() {
        let logits = &logits(c)[..len];
        for i in 0..len {
            let x = logits[i];
            // A NaN stays, so that the loss becomes one.
            largest[i] = if x <= largest[i] { largest[i] } else { x };
            chosen[i] = if usize::from(labels[i].cast_unsigned()) == c { x } else { chosen[i] };
        }
    }
    for (c, probs) in probs.iter_mut().enumerate() {
        let (logits, probs) = (&logits(c)[..len], &mut probs[..len]);
        for i in 0..len {
            let e = exp(logits[i] - largest[i]);
            probs[i] = e;
            sum[i] += e;
        }
    }
    let entropy = sums(
        len,
        #[inline(always)]
        |i| {
            let w = counts(labels[i], ignored);
            [(ln(sum[i]) + largest[i] - chosen[i]) * w, w]
        },
    );
    for s in &mut *sum {
        *s = 1.0 / *s;
    }
    let mut per_channel = Vec::with_capacity(probs.len());
    for (c, probs) in probs.iter_mut().enumerate() {
        let probs = &mut probs[..len];
        per_channel.push(sums(
            len,
            #[inline(always)]
            |i| {
                let p = probs[i] * sum[i];
                probs[i] = p;
                let (w, is) = (counts(labels[i], ignored), usize::from(labels[i].cast_unsigned()) == c);
                let (p, t) = (p * w, if is { w } else { 0.0 });
                [p * t, p, t]
            },
        ));
    }
    (per_channel, entropy)
}

/// Turns probabilities into the gradient with respect to the logits.
pub(super) fn gradient(
    labels: &[i16],
    shape: HeadShape,
    options: &LossOptions,
    terms: &Terms,
    probs: &mut [f32],
) {
    let HeadShape { channels, voxels, .. } = shape;
    let ignored = options.ignore_label;
    pieces(probs, shape).into_par_iter().for_each(|Piece { sample, first, mut planes }| {
        let labels = &labels[sample * voxels + first..][..planes[0].len()];
        let of_sample = sample * channels..(sample + 1) * channels;
        let (slope, offset) = (&terms.slope[of_sample.clone()], &terms.offset[of_sample]);
        vectorised(
            #[inline(always)]
            || {
                let len = labels.len();
                let mut mean = [0f32; CHUNK];
                let mean = &mut mean[..len];
                // Gradient of the Dice with respect to a probability.
                let dice = |c: usize, i: usize| through_dice(labels[i], c, slope[c], offset[c]);
                for (c, probs) in planes.iter().enumerate() {
                    let probs = &probs[..len];
                    for i in 0..len {
                        mean[i] += probs[i] * dice(c, i);
                    }
                }
                for (c, probs) in planes.iter_mut().enumerate() {
                    let probs = &mut probs[..len];
                    for i in 0..len {
                        let t = if usize::from(labels[i].cast_unsigned()) == c { 1.0 } else { 0.0 };
                        let p = probs[i];
                        let through = (p - t) * terms.entropy + p * (dice(c, i) - mean[i]);
                        probs[i] = through * counts(labels[i], ignored);
                    }
                }
            },
        );
    });
}

/// Gradient of the Dice with respect to the probability of channel `c`.
#[inline(always)]
fn through_dice(label: i16, c: usize, slope: f32, offset: f32) -> f32 {
    offset + if usize::from(label.cast_unsigned()) == c { slope } else { 0.0 }
}
