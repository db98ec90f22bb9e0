//! Losses against sums written out plainly, and what training keeps between runs.

use burn::tensor::{Device, Tensor, TensorData};
use glioseg_net::checkpoint::{Metadata, write_training};
use glioseg_net::loss::{self, DiceForm, Loss, LossOptions, Targets, deep_supervision_weights};
use glioseg_net::optimiser::{Optimiser, OptimiserOptions};
use glioseg_net::{Checkpoint, NetworkSpec, StepOptions, Unet, training_step};

type Failure = Box<dyn std::error::Error>;

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

#[test]
fn value_and_gradient_are_those_of_the_plain_formula() -> Result<(), Failure> {
    let [z, y, x] = SIZE;
    let logits = noise(BATCH * 3 * voxels(), 1);
    for (options, of_regions) in cases() {
        let ignoring = options.ignore_label.is_some();
        let (labels, regions) = (labels(ignoring), regions(ignoring));
        let target = if of_regions { Targets::Regions(&regions) } else { Targets::Labels(&labels) };
        let wide: Vec<f64> = logits.iter().map(|&v| f64::from(v)).collect();
        let expected = plain(&wide, target, 3, &options);
        let device = Device::flex().autodiff();
        let data = TensorData::new(logits.clone(), [BATCH, 3, z, y, x]);
        let head = Tensor::<5>::from_data(data, &device).require_grad();
        let (loss, gradients) =
            loss::backward(vec![head.clone().mul_scalar(1.0)], &[target], &[0.5], &options)?;
        assert!((2.0 * loss.total - expected).abs() < 2e-6, "{options:?}: {loss:?} instead of {expected}");
        let gradient = head.grad(&gradients.ok_or("no gradients")?).ok_or("no gradient")?;
        let gradient: Vec<f32> = gradient.into_data().try_into_vec().map_err(|e| format!("{e:?}"))?;
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
fn an_empty_region_without_smoothing_gives_no_dice_and_no_nan() -> Result<(), Failure> {
    let device = Device::flex().autodiff();
    let head = Tensor::<5>::from_data(TensorData::new(vec![-20f32; 16], [1, 2, 2, 2, 2]), &device);
    let head = head.require_grad();
    let options = LossOptions { smooth: 0.0, form: DiceForm::V1, ..LossOptions::v2(true, true) };
    let empty = [0u8; 16];
    let (loss, gradients) =
        loss::backward(vec![head.clone()], &[Targets::Regions(&empty)], &[1.0], &options)?;
    assert!(loss.dice.abs() < 1e-12 && loss.total.abs() < 1e-6, "{loss:?}");
    let gradient = head.grad(&gradients.ok_or("gradients")?).ok_or("a gradient")?.into_data();
    assert!(gradient.iter::<f32>().all(|g| g.is_finite() && g.abs() < 1e-6));
    Ok(())
}

#[test]
fn nothing_is_learned_from_a_loss_that_is_no_number() -> Result<(), Failure> {
    let device = Device::flex().autodiff();
    for at in [0, 17, 31] {
        let mut logits = vec![0.5f32; 32];
        logits[at] = f32::NAN;
        let head = Tensor::<5>::from_data(TensorData::new(logits, [2, 2, 2, 2, 2]), &device).require_grad();
        let labels = [1i16; 16];
        let options = LossOptions::v2(false, false);
        let of = |target| loss::backward(vec![head.clone()], &[target], &[1.0], &options);
        let (loss, gradients) = of(Targets::Labels(&labels))?;
        assert!(loss.total.is_nan() && gradients.is_none());
        let (loss, gradients) = of(Targets::Regions(&[1; 32]))?;
        assert!(loss.total.is_nan() && gradients.is_none());
    }
    Ok(())
}

#[test]
fn targets_that_do_not_fit_are_refused() {
    let head = || Tensor::<5>::zeros([1, 3, 2, 2, 2], &Device::flex());
    let options = LossOptions::v2(false, false);
    let refused = |target: Targets<'_>| {
        loss::value(vec![head()], &[target], &[1.0], &options).expect_err("refused").to_string()
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

#[test]
fn deep_supervision_halves_and_leaves_the_last_head_out() {
    let expected = [8.0, 4.0, 2.0, 1.0, 0.0].map(|w| w / 15.0);
    assert!(deep_supervision_weights(5).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-15));
    assert_eq!(deep_supervision_weights(2), [1.0, 0.0]);
    assert_eq!(deep_supervision_weights(1), [1.0]);
}

fn small() -> NetworkSpec {
    NetworkSpec::plain(2, 2, &[(4, [3; 3], [1; 3]), (8, [3; 3], [2; 3]), (8, [3; 3], [2; 3])])
}

/// Takes steps `from..to` of a training on noise.
fn train(
    net: &mut Unet,
    optimiser: &mut Optimiser,
    steps: std::ops::Range<u64>,
) -> Result<Vec<Loss>, Failure> {
    let device = Device::flex().autodiff();
    let weights = deep_supervision_weights(2);
    let loss = LossOptions::v2(true, false);
    let options = StepOptions { loss: &loss, weights: &weights, lr: 0.02, clip: Some(0.5) };
    let mut losses = vec![];
    for step in steps {
        let data = TensorData::new(noise(2 * 2 * 512, step), [2, 2, 8, 8, 8]);
        let x = Tensor::from_data(data, &device);
        let target: Vec<u8> = noise(2 * 2 * 512, step + 100).iter().map(|&v| u8::from(v > 0.5)).collect();
        let half: Vec<u8> = noise(2 * 2 * 64, step + 200).iter().map(|&v| u8::from(v > 0.5)).collect();
        let targets = [Targets::Regions(&target), Targets::Regions(&half)];
        let report = training_step(net, optimiser, x, &targets, &options)?;
        assert!(report.done);
        losses.push(report.loss);
    }
    Ok(losses)
}

#[test]
fn training_goes_on_from_a_file_bit_for_bit() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint_latest.safetensors");
    let device = Device::flex().autodiff();
    for options in [OptimiserOptions::NNUNET, OptimiserOptions::ADAMW] {
        let mut net = Unet::seeded(&small(), 7, &device)?;
        let mut optimiser = Optimiser::new(options, &net);
        train(&mut net, &mut optimiser, 0..2)?;
        let steps = optimiser.steps();
        write_training(&path, &net, &optimiser, &Metadata::default())?;
        let bytes = std::fs::read(&path)?;
        write_training(&path, &net, &optimiser, &Metadata::default())?;
        assert_eq!(bytes, std::fs::read(&path)?, "the same state gives the same file");
        let losses = train(&mut net, &mut optimiser, 2..4)?;

        let checkpoint = Checkpoint::open(&path)?;
        checkpoint.verify()?;
        let mut again = Unet::seeded(&small(), 8, &device)?;
        again.load_weights(&checkpoint)?;
        let mut restored = Optimiser::new(options, &again);
        restored.restore(&checkpoint, &steps)?;
        assert_eq!(train(&mut again, &mut restored, 2..4)?, losses);
        assert!(again.export() == net.export(), "{options:?}: other weights");
        assert!(restored == optimiser, "{options:?}: another state");
    }
    Ok(())
}

#[test]
fn a_flipped_bit_of_a_checkpoint_is_found() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint_latest.safetensors");
    let net = Unet::seeded(&small(), 7, &Device::flex().autodiff())?;
    write_training(&path, &net, &Optimiser::new(OptimiserOptions::NNUNET, &net), &Metadata::default())?;
    let mut bytes = std::fs::read(&path)?;
    let last = bytes.len() - 5;
    bytes[last] ^= 4;
    std::fs::write(&path, bytes)?;
    let error = Checkpoint::open(&path)?.verify().expect_err("another value");
    assert!(error.to_string().contains("its values are not those that were written"), "{error}");
    Ok(())
}

#[test]
fn one_thread_and_three_give_the_same_bits() -> Result<(), Failure> {
    let run = |threads: usize| -> Result<_, Failure> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        pool.install(|| {
            let mut net = Unet::seeded(&small(), 3, &Device::flex().autodiff()).map_err(|e| e.to_string())?;
            let mut optimiser = Optimiser::new(OptimiserOptions::NNUNET, &net);
            let losses = train(&mut net, &mut optimiser, 0..3).map_err(|e| e.to_string())?;
            Ok::<_, String>((losses, net.export()))
        })
        .map_err(Into::into)
    };
    assert!(run(1)? == run(3)?);
    Ok(())
}
