//! How far predicted and true voxels overlap.

use rayon::prelude::*;

use super::{HeadShape, Targets};

/// Voxels of one unit of work.
const CHUNK: usize = 1 << 14;

/// Voxels of a label or region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Overlap {
    /// Predicted and in the target.
    pub both: u64,
    /// Predicted.
    pub predicted: u64,
    /// In the target.
    pub reference: u64,
}

impl Overlap {
    /// Adds the voxels of another batch.
    pub fn add(&mut self, other: Self) {
        self.both += other.both;
        self.predicted += other.predicted;
        self.reference += other.reference;
    }

    /// Dice; none where neither has a voxel.
    pub fn dice(self) -> Option<f64> {
        let sum = self.predicted + self.reference;
        (sum > 0).then(|| 2.0 * self.both as f64 / sum as f64)
    }
}

/// What every region, or every label but background, has right in a batch; the target has been checked.
///
/// # Source
/// nnU-Net v2, `nnUNetTrainer.validation_step`.
pub(crate) fn overlap_of_batch(
    logits: &[f32],
    target: Targets<'_>,
    shape: HeadShape,
    ignore_label: Option<i16>,
) -> Vec<Overlap> {
    let HeadShape { batch, channels, voxels } = shape;
    let mut total: Vec<Overlap> = vec![];
    for n in 0..batch {
        let logits = &logits[n * channels * voxels..][..channels * voxels];
        let found = match target {
            Targets::Regions(regions) => {
                // One channel more than there are regions where voxels are ignored.
                let of_sample = regions.len() / batch;
                of_regions(logits, &regions[n * of_sample..][..of_sample], voxels)
            }
            Targets::Labels(labels) => of_labels(logits, &labels[n * voxels..][..voxels], ignore_label),
        };
        total.resize(found.len(), Overlap::default());
        total.iter_mut().zip(found).for_each(|(all, one)| all.add(one));
    }
    total
}

fn sum(parts: Vec<Vec<Overlap>>, classes: usize) -> Vec<Overlap> {
    let mut total = vec![Overlap::default(); classes];
    for part in parts {
        total.iter_mut().zip(part).for_each(|(all, one)| all.add(one));
    }
    total
}

/// A region is predicted where its logit is above 0; targets beyond the regions are what is ignored.
fn of_regions(logits: &[f32], regions: &[u8], voxels: usize) -> Vec<Overlap> {
    let classes = logits.len() / voxels;
    let ignored = regions.chunks(voxels).nth(classes);
    (0..classes)
        .into_par_iter()
        .map(|c| {
            let mut overlaps = Overlap::default();
            let (logits, target) = (&logits[c * voxels..][..voxels], &regions[c * voxels..][..voxels]);
            for i in 0..voxels {
                if ignored.is_some_and(|ignored| ignored[i] == 1) {
                    continue;
                }
                let (p, t) = (logits[i] > 0.0, target[i] == 1);
                overlaps.both += u64::from(p && t);
                overlaps.predicted += u64::from(p);
                overlaps.reference += u64::from(t);
            }
            overlaps
        })
        .collect()
}

/// The largest output is predicted, the first of equal ones; background has no overlaps.
fn of_labels(logits: &[f32], labels: &[i16], ignored: Option<i16>) -> Vec<Overlap> {
    let voxels = labels.len();
    let channels = logits.len() / voxels;
    let parts = labels
        .par_chunks(CHUNK)
        .enumerate()
        .map(|(chunk, labels)| {
            let mut overlaps = vec![Overlap::default(); channels];
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
                overlaps[best].predicted += 1;
                if let Some(of_label) = overlaps.get_mut(label) {
                    of_label.reference += 1;
                    of_label.both += u64::from(label == best);
                }
            }
            overlaps
        })
        .collect();
    sum(parts, channels).split_off(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dice_counts_every_voxel_but_the_ignored() {
        // Three voxels, channels background, a, b.
        let logits = [0.0, 0.0, 5.0, 1.0, 0.0, 0.0, -1.0, 2.0, 0.0];
        let overlaps = of_labels(&logits, &[1, 1, 2], None);
        assert_eq!(overlaps[0], Overlap { both: 1, predicted: 1, reference: 2 });
        assert_eq!(overlaps[1], Overlap { both: 0, predicted: 1, reference: 1 });
        assert_eq!(overlaps[0].dice(), Some(2.0 / 3.0));
        let overlaps = of_labels(&logits, &[1, 3, 2], Some(3));
        assert_eq!(overlaps[1], Overlap { both: 0, predicted: 0, reference: 1 });

        let overlaps = of_regions(&[1.0, -1.0, 3.0, -1.0], &[1, 1, 0, 0, 0, 1], 2);
        assert_eq!(
            overlaps,
            [
                Overlap { both: 1, predicted: 1, reference: 1 },
                Overlap { both: 0, predicted: 1, reference: 0 }
            ]
        );
        let overlaps = of_regions(&[-1.0, -1.0], &[0, 0], 2);
        assert_eq!(overlaps[0].dice(), None);
    }
}
