//! The validation after every epoch: what batches and classes have in common.

use glioseg_net::loss::{Overlap, Targets};
use glioseg_prep::augment::{Target, TargetValues};

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

/// Dice per class and the mean of those there are.
pub(super) fn dices(overlaps: &[Overlap]) -> (Vec<Option<f64>>, Option<f64>) {
    let dice: Vec<Option<f64>> = overlaps.iter().map(|c| c.dice()).collect();
    let known: Vec<f64> = dice.iter().copied().flatten().collect();
    let mean = (!known.is_empty()).then(|| known.iter().sum::<f64>() / known.len() as f64);
    (dice, mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_leaves_out_what_nobody_has() {
        let some = Overlap { both: 1, predicted: 1, reference: 1 };
        let half = Overlap { both: 1, predicted: 3, reference: 1 };
        assert_eq!(dices(&[some, Overlap::default(), half]), (vec![Some(1.0), None, Some(0.5)], Some(0.75)));
        assert_eq!(dices(&[Overlap::default()]), (vec![None], None));
    }
}
