//! Losses against sums written out plainly.

use super::{DiceForm, HeadShape, Loss, LossOptions, Targets, check_target, head_gradient, head_value};
use crate::NetError;

const BATCH: usize = 2;
const SIZE: [usize; 3] = [3, 5, 7];

fn voxels() -> usize {
    SIZE.iter().product()
}

/// Numbers between -3 and 3 without pattern.
fn noise(count: usize, salt: u64) -> Vec<f32> {
    let mix = |i: u64| (i + salt * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..count as u64).map(|i| (mix(i) % 60_000) as f32 / 10_000.0 - 3.0).collect()
}

/// The targets as numbers `[n, c, voxels]`, and which voxels count `[n, voxels]`.
fn spread(target: Targets<'_>, channels: usize, options: &LossOptions) -> (Vec<f64>, Vec<f64>) {
    let n = voxels();
    let mut wide = vec![0.0; BATCH * channels * n];
    let mut counts = vec![1.0; BATCH * n];
    for b in 0..BATCH {
        for c in 0..channels {
            for i in 0..n {
                wide[(b * channels + c) * n + i] = match target {
                    Targets::Labels(labels) => f64::from(u8::from(labels[b * n + i] == c as i16)),
                    Targets::Regions(regions) => {
                        let stored = channels + usize::from(options.ignore_label.is_some());
                        f64::from(regions[(b * stored + c) * n + i])
                    }
                };
            }
        }
        for i in 0..n {
            let ignored = match (target, options.ignore_label) {
                (Targets::Labels(labels), Some(label)) => labels[b * n + i] == label,
                (Targets::Regions(regions), Some(_)) => regions[(b * (channels + 1) + channels) * n + i] == 1,
                (_, None) => false,
            };
            counts[b * n + i] = f64::from(u8::from(!ignored));
        }
    }
    (wide, counts)
}

/// The loss of one head as the papers write it, in f64.
fn plain(logits: &[f64], target: Targets<'_>, channels: usize, options: &LossOptions) -> f64 {
    let n = voxels();
    let (wide, counts) = spread(target, channels, options);
    let labels = matches!(target, Targets::Labels(_));
    let at = |b: usize, c: usize, i: usize| (b * channels + c) * n + i;
    let mut probs = vec![0.0; logits.len()];
    let (mut entropy, mut counted) = (0.0, 0.0);
    for b in 0..BATCH {
        for i in 0..n {
            let w = counts[b * n + i];
            counted += w;
            let sum: f64 = (0..channels).map(|c| logits[at(b, c, i)].exp()).sum();
            for c in 0..channels {
                let (x, t) = (logits[at(b, c, i)], wide[at(b, c, i)]);
                let p = if labels { x.exp() / sum } else { 1.0 / (1.0 + (-x).exp()) };
                probs[at(b, c, i)] = p;
                entropy -= w * if labels { t * p.ln() } else { t * p.ln() + (1.0 - t) * (1.0 - p).ln() };
            }
        }
    }
    let divisor = if labels || options.ignore_label.is_some() { counted } else { counted * channels as f64 };
    let first = usize::from(!options.background);
    let groups: Vec<Vec<usize>> =
        if options.batch_dice { vec![(0..BATCH).collect()] } else { (0..BATCH).map(|b| vec![b]).collect() };
    let mut dices = vec![];
    for group in &groups {
        for c in first..channels {
            let (mut both, mut total) = (0.0, 0.0);
            for &b in group {
                for i in 0..n {
                    let (p, t, w) = (probs[at(b, c, i)], wide[at(b, c, i)], counts[b * n + i]);
                    both += p * t * w;
                    total += (p + t) * w;
                }
            }
            let below = match options.form {
                DiceForm::V2 => (total + options.smooth).max(1e-8),
                DiceForm::V1 => total + options.smooth + 1e-8,
            };
            dices.push((2.0 * both + options.smooth) / below);
        }
    }
    let dice = dices.iter().sum::<f64>() / dices.len() as f64;
    options.voxel_weight * entropy / divisor - options.dice_weight * dice
}

/// Every switch of the loss, with targets for three channels.
fn cases() -> Vec<(LossOptions, bool)> {
    let mut cases = vec![];
    for regions in [false, true] {
        for batch_dice in [false, true] {
            let v2 = LossOptions::v2(regions, batch_dice);
            cases.push((v2.clone(), regions));
            cases.push((LossOptions { ignore_label: Some(3), ..v2.clone() }, regions));
            cases.push((LossOptions { form: DiceForm::V1, smooth: 0.0, ..v2.clone() }, regions));
            cases.push((LossOptions { dice_weight: 0.0, ..v2.clone() }, regions));
            cases.push((LossOptions { voxel_weight: 0.0, dice_weight: 0.7, ..v2.clone() }, regions));
            cases.push((LossOptions { background: !regions, ..v2 }, regions));
        }
    }
    cases
}

fn labels(ignoring: bool) -> Vec<i16> {
    let values = noise(BATCH * voxels(), 5);
    values.iter().map(|&v| if ignoring && v > 2.0 { 3 } else { (v.abs() as i16).min(2) }).collect()
}

fn regions(ignoring: bool) -> Vec<u8> {
    noise(BATCH * (3 + usize::from(ignoring)) * voxels(), 9).iter().map(|&v| u8::from(v > 1.0)).collect()
}

/// Loss of one head and the gradient of `weight` times it; both ways to the value agree.
fn both(
    logits: &[f32],
    target: Targets<'_>,
    shape: HeadShape,
    options: &LossOptions,
    weight: f64,
) -> Result<(Loss, Vec<f32>), NetError> {
    check_target(target, shape, options)?;
    // What is there before does not matter.
    let mut gradient = vec![7.0; logits.len()];
    let loss = head_gradient(logits, target, shape, options, weight, &mut gradient);
    let alone = head_value(logits, target, shape, options, &mut vec![7.0; logits.len()]);
    assert!(alone == loss || (alone.total.is_nan() && loss.total.is_nan()), "{alone:?} and {loss:?}");
    Ok((loss, gradient))
}

#[test]
fn value_and_gradient_are_those_of_the_plain_formula() -> Result<(), NetError> {
    let logits = noise(BATCH * 3 * voxels(), 1);
    let shape = HeadShape { batch: BATCH, channels: 3, voxels: voxels() };
    for (options, of_regions) in cases() {
        let ignoring = options.ignore_label.is_some();
        let (labels, regions) = (labels(ignoring), regions(ignoring));
        let target = if of_regions { Targets::Regions(&regions) } else { Targets::Labels(&labels) };
        let wide: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
        let expected = plain(&wide, target, 3, &options);
        let (loss, gradient) = both(&logits, target, shape, &options, 0.5)?;
        assert!((loss.total - expected).abs() < 1e-6, "{options:?}: {loss:?} instead of {expected}");
        for i in (0..logits.len()).step_by(11) {
            let mut moved = [wide.clone(), wide.clone()];
            moved[0][i] += 1e-4;
            moved[1][i] -= 1e-4;
            let [up, down] = moved.map(|m| plain(&m, target, 3, &options));
            let slope = 0.5 * (up - down) / 2e-4;
            let ours = f64::from(gradient[i]);
            assert!((ours - slope).abs() < 1e-7 + 1e-4 * slope.abs(), "{options:?}, {i}: {ours} {slope}");
        }
    }
    Ok(())
}

#[test]
fn an_empty_region_without_smoothing_gives_no_dice_and_no_nan() -> Result<(), NetError> {
    let shape = HeadShape { batch: 1, channels: 2, voxels: 8 };
    let options = LossOptions { smooth: 0.0, form: DiceForm::V1, ..LossOptions::v2(true, true) };
    let (loss, gradient) = both(&[-20.0; 16], Targets::Regions(&[0; 16]), shape, &options, 1.0)?;
    assert!(loss.dice.abs() < 1e-12 && loss.total.abs() < 1e-6, "{loss:?}");
    assert!(gradient.iter().all(|g| g.is_finite() && g.abs() < 1e-6));
    Ok(())
}

#[test]
fn one_logit_that_is_no_number_makes_the_loss_none() -> Result<(), NetError> {
    let shape = HeadShape { batch: 2, channels: 2, voxels: 8 };
    let options = LossOptions::v2(false, false);
    for at in [0, 17, 31] {
        let mut logits = vec![0.5f32; 32];
        logits[at] = f32::NAN;
        for target in [Targets::Labels(&[1; 16]), Targets::Regions(&[1; 32])] {
            let (loss, _) = both(&logits, target, shape, &options, 1.0)?;
            assert!(loss.total.is_nan(), "{at}: {loss:?}");
        }
    }
    Ok(())
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let options = LossOptions::v2(false, false);
    let shape = HeadShape { batch: 1, channels: 3, voxels: 8 };
    let refused = |target: Targets<'_>| {
        both(&[0.0; 24], target, shape, &options, 1.0).expect_err("refused").to_string()
    };
    let mut labels = [2i16; 8];
    labels[5] = 3;
    assert_eq!(
        refused(Targets::Labels(&labels)),
        "the targets do not fit the network: label 3 for a head of 3 channels"
    );
    labels[5] = -1;
    assert!(refused(Targets::Labels(&labels)).contains("label -1"));
    assert!(refused(Targets::Labels(&labels[1..])).contains("7 labels where the head has 8 voxels"));
    assert!(refused(Targets::Regions(&[0; 8])).contains("8 values of regions where the head asks for 24"));
}
