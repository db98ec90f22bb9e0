//! The validation after every epoch: loss and Dice on patches.

use burn::tensor::Tensor;
use glioseg_net::loss::{self, LossOptions, Targets};
use glioseg_net::{NetError, Unet};
use glioseg_prep::augment::{Batch, Target, TargetValues};
use rayon::prelude::*;

/// Voxels of one unit of work.
const CHUNK: usize = 1 << 14;

/// What of a label or region was right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Counts {
    both: u64,
    predicted: u64,
    reference: u64,
}

impl Counts {
    fn add(&mut self, other: Self) {
        self.both += other.both;
        self.predicted += other.predicted;
        self.reference += other.reference;
    }

    /// Dice; none where neither has a voxel.
    pub(super) fn dice(self) -> Option<f64> {
        let sum = self.predicted + self.reference;
        (sum > 0).then(|| 2.0 * self.both as f64 / sum as f64)
    }
}

/// The targets of a batch, as the loss takes them.
pub(super) fn targets(targets: &[Target]) -> Vec<Targets<'_>> {
    targets
        .iter()
        .map(|target| match &target.values {
            TargetValues::Labels(values) => Targets::Labels(values),
            TargetValues::Regions(values) => Targets::Regions(values),
        })
        .collect()
}

/// Loss of a batch; adds what was right to `counts`, one per region or per label but background.
///
/// # Source
/// nnU-Net v2, `nnUNetTrainer.validation_step`.
pub(super) fn validate(
    net: &Unet,
    x: Tensor<5>,
    batch: &Batch,
    options: &LossOptions,
    weights: &[f64],
    counts: &mut [Counts],
) -> Result<f64, NetError> {
    let heads = net.forward_heads(x);
    let logits: Vec<f32> =
        heads[0].clone().into_data().convert::<f32>().try_into_vec().expect("converted to f32");
    let voxels: usize = batch.shape.iter().product();
    let samples = batch.cases.len();
    let channels = logits.len() / (voxels * samples);
    for n in 0..samples {
        let logits = &logits[n * channels * voxels..][..channels * voxels];
        let found = match &batch.targets[0].values {
            TargetValues::Regions(regions) => {
                let stored = regions.len() / (voxels * samples);
                of_regions(logits, &regions[n * stored * voxels..][..stored * voxels], voxels)
            }
            TargetValues::Labels(labels) => {
                of_labels(logits, &labels[n * voxels..][..voxels], options.ignore_label)
            }
        };
        counts.iter_mut().zip(found).for_each(|(all, one)| all.add(one));
    }
    Ok(loss::value(heads, &targets(&batch.targets), weights, options)?.total)
}

fn sum(parts: Vec<Vec<Counts>>, classes: usize) -> Vec<Counts> {
    let mut total = vec![Counts::default(); classes];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(all, one)| all.add(one));
    }
    total
}

/// A region is predicted where its logit is above 0; targets beyond the regions are what is ignored.
fn of_regions(logits: &[f32], regions: &[u8], voxels: usize) -> Vec<Counts> {
    let classes = logits.len() / voxels;
    let ignored = regions.chunks(voxels).nth(classes);
    (0..classes)
        .into_par_iter()
        .map(|c| {
            let mut counts = Counts::default();
            let (logits, target) = (&logits[c * voxels..][..voxels], &regions[c * voxels..][..voxels]);
            for i in 0..voxels {
                if ignored.is_some_and(|ignored| ignored[i] == 1) {
                    continue;
                }
                let (p, t) = (logits[i] > 0.0, target[i] == 1);
                counts.both += u64::from(p && t);
                counts.predicted += u64::from(p);
                counts.reference += u64::from(t);
            }
            counts
        })
        .collect()
}

/// The largest output is predicted, the first of equal ones; background has no counts.
fn of_labels(logits: &[f32], labels: &[i16], ignored: Option<i16>) -> Vec<Counts> {
    let voxels = labels.len();
    let channels = logits.len() / voxels;
    let parts = labels
        .par_chunks(CHUNK)
        .enumerate()
        .map(|(chunk, labels)| {
            let mut counts = vec![Counts::default(); channels];
            for (i, &label) in labels.iter().enumerate() {
                if Some(label) == ignored {
                    continue;
                }
                let at = chunk * CHUNK + i;
                let mut best = 0;
                for c in 1..channels {
                    if logits[c * voxels + at] > logits[best * voxels + at] {
                        best = c;
                    }
                }
                let label = usize::from(label.cast_unsigned());
                counts[best].predicted += 1;
                if let Some(of_label) = counts.get_mut(label) {
                    of_label.reference += 1;
                    of_label.both += u64::from(label == best);
                }
            }
            counts
        })
        .collect();
    sum(parts, channels).split_off(1)
}

/// Dice per class and the mean of those there are.
pub(super) fn dices(counts: &[Counts]) -> (Vec<Option<f64>>, Option<f64>) {
    let dice: Vec<Option<f64>> = counts.iter().map(|c| c.dice()).collect();
    let known: Vec<f64> = dice.iter().copied().flatten().collect();
    let mean = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
    (dice, mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_counts_every_voxel_but_the_ignored() {
        // Three voxels, channels background, a, b.
        let logits = [0.0, 0.0, 5.0, 1.0, 0.0, 0.0, -1.0, 2.0, 0.0];
        let counts = of_labels(&logits, &[1, 1, 2], None);
        assert_eq!(counts[0], Counts { both: 1, predicted: 1, reference: 2 });
        assert_eq!(counts[1], Counts { both: 0, predicted: 1, reference: 1 });
        let counts = of_labels(&logits, &[1, 3, 2], Some(3));
        assert_eq!(counts[1], Counts { both: 0, predicted: 0, reference: 1 });
        assert_eq!(dices(&counts), (vec![Some(1.0), Some(0.0)], Some(0.5)));

        let counts = of_regions(&[1.0, -1.0, 3.0, -1.0], &[1, 1, 0, 0, 0, 1], 2);
        assert_eq!(
            counts,
            [Counts { both: 1, predicted: 1, reference: 1 }, Counts { both: 0, predicted: 1, reference: 0 }]
        );
        let counts = of_regions(&[-1.0, -1.0], &[0, 0], 2);
        assert_eq!(dices(&counts), (vec![None], None));
    }
}
