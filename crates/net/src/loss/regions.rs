//! One sigmoid per region, each with its own Dice and binary cross entropy.

use glioseg_kernels::vectorised;
use rayon::prelude::*;

use super::math::{exp, ln, sums};
use super::{HeadShape, LossOptions, Sums, Terms};
use crate::NetError;

/// Voxels of one unit of work.
const CHUNK: usize = 1 << 14;

/// Targets by plane, and the channel of ignored voxels.
struct Layout<'a> {
    regions: &'a [u8],
    shape: HeadShape,
    /// Channels of the targets.
    channels: usize,
    ignoring: bool,
}

impl<'a> Layout<'a> {
    fn new(regions: &'a [u8], shape: HeadShape, options: &LossOptions) -> Self {
        let ignoring = options.ignore_label.is_some();
        let channels = stored_channels(shape, options);
        let expected = channels * shape.batch * shape.voxels;
        assert_eq!(regions.len(), expected, "regions of a head that were checked");
        Self { regions, shape, channels, ignoring }
    }

    /// Targets and ignored voxels of a piece of plane `n * channels + c`.
    fn piece(&self, plane: usize, piece: usize, len: usize) -> (&'a [u8], Option<&'a [u8]>) {
        let (n, c) = (plane / self.shape.channels, plane % self.shape.channels);
        let voxels = self.shape.voxels;
        let of = |c: usize| &self.regions[(n * self.channels + c) * voxels + piece * CHUNK..][..len];
        (of(c), self.ignoring.then(|| of(self.shape.channels)))
    }
}

/// Checks the number of values.
pub(super) fn check(regions: &[u8], shape: HeadShape, options: &LossOptions) -> Result<(), NetError> {
    let expected = stored_channels(shape, options) * shape.batch * shape.voxels;
    if regions.len() != expected {
        let what = format!("{} values of regions where the head asks for {expected}", regions.len());
        return Err(NetError::Target { what });
    }
    Ok(())
}

/// Channels of the targets: one per region, and one of ignored voxels.
fn stored_channels(shape: HeadShape, options: &LossOptions) -> usize {
    shape.channels + usize::from(options.ignore_label.is_some())
}

/// Probabilities of all regions, and the sums.
pub(super) fn probabilities(
    logits: &[f32],
    regions: &[u8],
    shape: HeadShape,
    options: &LossOptions,
    probs: &mut [f32],
) -> Sums {
    let layout = Layout::new(regions, shape, options);
    let pieces: Vec<(usize, [f64; 5])> = probs
        .par_chunks_mut(shape.voxels)
        .enumerate()
        .flat_map(|(plane, probs)| probs.par_chunks_mut(CHUNK).enumerate().map(move |(i, p)| (plane, i, p)))
        .map(|(plane, i, probs)| {
            let logits = &logits[plane * shape.voxels + i * CHUNK..][..probs.len()];
            let (target, ignored) = layout.piece(plane, i, probs.len());
            (
                plane,
                vectorised(
                    #[inline(always)]
                    || match ignored {
                        None => activate(logits, target, |_| 1.0, probs),
                        Some(ignored) => activate(logits, target, |i| f32::from(1 - ignored[i]), probs),
                    },
                ),
            )
        })
        .collect();
    let planes = shape.batch * shape.channels;
    let mut total = Sums {
        both: vec![0.0; planes],
        prob: vec![0.0; planes],
        target: vec![0.0; planes],
        ..Sums::default()
    };
    let mut counted = 0.0;
    for (plane, [both, prob, target, entropy, count]) in pieces {
        total.both[plane] += both;
        total.prob[plane] += prob;
        total.target[plane] += target;
        total.entropy += entropy;
        counted += count;
    }
    // With an ignore label nnU-Net divides the sum over all regions by the number of voxels.
    total.count = if layout.ignoring { (counted / shape.channels as f64).max(1e-8) } else { counted };
    total
}

/// Sigmoid of a piece; sums of p t, p, t, the cross entropy and the weights.
#[inline(always)]
fn activate(logits: &[f32], target: &[u8], weight: impl Fn(usize) -> f32, probs: &mut [f32]) -> [f64; 5] {
    let len = probs.len();
    let (logits, target) = (&logits[..len], &target[..len]);
    sums(
        len,
        #[inline(always)]
        |i| {
            let (x, t, w) = (logits[i], f32::from(target[i]), weight(i));
            let e = exp(-x.abs());
            let u = 1.0 + e;
            let p = if x >= 0.0 { 1.0 / u } else { e / u };
            probs[i] = p;
            let positive = if x < 0.0 { 0.0 } else { x };
            let entropy = positive - x * t + ln(u);
            let p = p * w;
            [p * t, p, t * w, entropy * w, w]
        },
    )
}

/// Turns probabilities into the gradient with respect to the logits.
pub(super) fn gradient(
    regions: &[u8],
    shape: HeadShape,
    options: &LossOptions,
    terms: &Terms,
    probs: &mut [f32],
) {
    let layout = Layout::new(regions, shape, options);
    probs.par_chunks_mut(shape.voxels).enumerate().for_each(|(plane, probs)| {
        let (slope, offset, entropy) = (terms.slope[plane], terms.offset[plane], terms.entropy);
        let through = |p: f32, t: f32| logit_gradient(p, t, entropy, slope, offset);
        probs.par_chunks_mut(CHUNK).enumerate().for_each(|(i, probs)| {
            let (target, ignored) = layout.piece(plane, i, probs.len());
            vectorised(
                #[inline(always)]
                || match ignored {
                    None => probs.iter_mut().zip(target).for_each(|(p, &t)| *p = through(*p, f32::from(t))),
                    Some(ignored) => {
                        for ((p, &t), &ignored) in probs.iter_mut().zip(target).zip(ignored) {
                            *p = through(*p, f32::from(t)) * f32::from(1 - ignored);
                        }
                    }
                },
            );
        });
    });
}

/// Gradient with respect to a logit of probability `p` and target `t`.
#[inline(always)]
fn logit_gradient(p: f32, t: f32, entropy: f32, slope: f32, offset: f32) -> f32 {
    (p - t) * entropy + p * (1.0 - p) * (slope * t + offset)
}
