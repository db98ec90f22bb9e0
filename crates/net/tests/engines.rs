//! The CPU's kernels against the plain loops, which are what every engine should compute.

mod common;

use std::sync::Arc;

use common::{Case, Failure, Trained, cases, dropping, engine};
use glioseg_diagnose::Diagnose as _;
use glioseg_net::engine::{ReferenceEngine, Rounding};
use glioseg_net::loss::{LossOptions, Targets};
use glioseg_net::optimiser::OptimiserOptions;
use glioseg_net::{Device, Kernels, Mode, NetworkSpec, NormKind, NormSpec, ParameterId, Precision, Update};
use glioseg_volume::testing::relative_l2;

fn length(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// Compares everything that a step leaves.
fn assert_same_step(name: &str, ours: &Trained, expected: &Trained) {
    assert_eq!(ours.heads.len(), expected.heads.len(), "{name}");
    for (i, (head, expected)) in ours.heads.iter().zip(&expected.heads).enumerate() {
        let distance = relative_l2(head, expected);
        assert!(distance < 1e-5, "{name}: head {i} differs by {distance}");
    }
    let (loss, plain) = (ours.report.loss.total, expected.report.loss.total);
    assert!((loss - plain).abs() < 1e-6 * plain.abs(), "{name}: loss {loss}, reference {plain}");
    assert!(ours.report.done && expected.report.done, "{name}");
    let mut compared = 0;
    let gradients = ours.gradients.iter().zip(&expected.gradients);
    for ((shape, before), (gradient, expected)) in expected.parameters.iter().zip(gradients) {
        let name = format!("{name}: {}", shape.name);
        if !shape.trained {
            assert!(gradient.is_none() && expected.is_none(), "{name} has a gradient");
            continue;
        }
        let gradient = gradient.as_ref().unwrap_or_else(|| panic!("{name} has no gradient"));
        let expected = expected.as_ref().unwrap_or_else(|| panic!("{name} has no gradient in the reference"));
        assert_eq!(gradient.len(), before.len(), "{name}");
        let (distance, size) = (relative_l2(gradient, expected), length(expected));
        // Without influence on the loss a gradient is rounding: a bias before a normalisation by channel.
        if size < 1e-6 {
            assert!(length(gradient) < 1e-6, "{name} has {} instead of {size}", length(gradient));
            continue;
        }
        assert!(distance < 1e-3, "{name} differs by {distance} of {size}");
        compared += 1;
    }
    assert!(compared > 10, "{name}: only {compared} gradients compared");
    for (i, (shape, values)) in ours.parameters.iter().enumerate() {
        let distance = relative_l2(values, expected.parameters.values(ParameterId(i)));
        assert!(distance < 1e-5, "{name}: {} after the step differs by {distance}", shape.name);
    }
}

/// Every kernel against plain loops: a prediction, and all that a training step leaves.
fn assert_kernels_agree(cases: Vec<Case>) -> Result<(), Failure> {
    for case in cases {
        let mut plain = engine(Kernels::Reference)?;
        let (logits, trained) = (case.predict(&mut *plain)?, case.train(&mut *plain, 0)?);
        for kernels in [Kernels::Auto, Kernels::Direct] {
            let name = format!("{}, {kernels:?}", case.name);
            let mut engine = engine(kernels)?;
            let distance = relative_l2(&case.predict(&mut *engine)?, &logits);
            assert!(distance < 1e-5, "{name}: logits differ by {distance}");
            assert_same_step(&name, &case.train(&mut *engine, 0)?, &trained);
        }
    }
    Ok(())
}

#[test]
fn plain_networks_give_on_our_kernels_what_they_give_in_plain_loops() -> Result<(), Failure> {
    assert_kernels_agree(common::plain_cases())
}

#[test]
fn normalisations_give_on_our_kernels_what_they_give_in_plain_loops() -> Result<(), Failure> {
    assert_kernels_agree(common::norm_cases())
}

#[test]
fn residual_networks_give_on_our_kernels_what_they_give_in_plain_loops() -> Result<(), Failure> {
    assert_kernels_agree(common::residual_cases())
}

/// Such networks only predict.
#[test]
fn curved_activations_give_on_our_kernels_what_they_give_in_plain_loops() -> Result<(), Failure> {
    for case in common::curved_cases() {
        let logits = case.predict(&mut *engine(Kernels::Reference)?)?;
        for kernels in [Kernels::Auto, Kernels::Direct] {
            let distance = relative_l2(&case.predict(&mut *engine(kernels)?)?, &logits);
            assert!(distance < 1e-5, "{}, {kernels:?}: logits differ by {distance}", case.name);
        }
        let heads = vec![true; case.spec.decoder.len()];
        let error = case.program(Mode::Train { heads }).expect_err(case.name).to_string();
        assert!(error.contains("can predict, but not be trained"), "{}: {error}", case.name);
    }
    Ok(())
}

#[test]
fn attention_gives_on_our_kernels_what_it_gives_in_plain_loops() -> Result<(), Failure> {
    assert_kernels_agree(common::attention_cases())
}

/// Evaluation knows all heads, and the first one is what a prediction gives.
#[test]
fn evaluation_gives_the_same_loss_and_overlaps_everywhere() -> Result<(), Failure> {
    for case in cases().into_iter().step_by(3) {
        let targets = case.targets();
        let targets: Vec<Targets<'_>> = targets.iter().map(|t| Targets::Regions(t)).collect();
        let weights: Vec<f64> = (0..targets.len()).map(|i| if i == 1 { 0.0 } else { 0.5 }).collect();
        let options = LossOptions::v2(true, true);
        let mut found = vec![];
        for kernels in Kernels::ALL {
            let mut engine = engine(kernels)?;
            let alone = case.predict(&mut *engine)?;
            engine.prepare(&case.program(Mode::Evaluate)?)?;
            let patch = case.patch();
            let heads = engine.forward(&patch)?.heads;
            assert_eq!(heads.len(), targets.len(), "{}", case.name);
            assert!(heads[0] == alone, "{}: the full-resolution head alone differs", case.name);
            let before = engine.parameters()?;
            found.push(engine.evaluate(&patch, &targets, &options, &weights)?);
            assert_eq!(before, engine.parameters()?, "{}: evaluation changes nothing", case.name);
        }
        let expected = found.pop().ok_or("the reference")?;
        for ours in found {
            let (loss, plain) = (ours.loss, expected.loss);
            assert!((loss.total - plain.total).abs() < 1e-6, "{}: {loss:?}, reference {plain:?}", case.name);
            assert!((loss.dice - plain.dice).abs() < 1e-6 && (loss.voxel - plain.voxel).abs() < 1e-6);
            assert_eq!(ours.overlaps.len(), case.spec.num_outputs, "{}", case.name);
            assert_eq!(ours.overlaps, expected.overlaps, "{}", case.name);
        }
    }
    Ok(())
}

/// A head whose weight is 0 is not part of the program: what only it reads gets no gradient, and does not decay.
#[test]
fn heads_without_weight_are_left_alone() -> Result<(), Failure> {
    let case = &cases()[1];
    let targets = case.targets();
    let targets: Vec<Targets<'_>> = targets.iter().map(|t| Targets::Regions(t)).collect();
    let options = LossOptions::v2(true, false);
    for kernels in [Kernels::Auto, Kernels::Reference] {
        let mut engine = engine(kernels)?;
        for weights in [[1.0, 0.0], [0.0, 1.0]] {
            engine.prepare(&case.program(Mode::train(&weights))?)?;
            let before = case.parameters()?;
            engine.load(before.clone())?;
            let optimiser = OptimiserOptions::NNUNET;
            let update =
                Update { loss: &options, weights: &weights, optimiser, lr: 0.01, clip: None, seed: 0 };
            assert!(engine.step(&case.patch(), &targets, &update)?.done);
            let (after, gradients) = (engine.parameters()?, engine.gradients()?);
            // Heads and decoder steps count from the deepest, weights from the full resolution.
            let unused: &[&str] = if weights[0] > 0.0 {
                &["seg_layers.0."]
            } else {
                &["seg_layers.1.", "decoder.stages.1.", "transpconvs.1."]
            };
            for (i, (shape, values)) in after.iter().enumerate() {
                let name = format!("{kernels:?}, {weights:?}, {}", shape.name);
                let left_out = unused.iter().any(|part| shape.name.contains(part));
                assert_eq!(gradients[i].is_none(), left_out, "{name}");
                assert_eq!(before.values(ParameterId(i)) == values, left_out, "{name}");
            }
        }
    }
    Ok(())
}

#[test]
fn the_seed_of_a_step_decides_its_dropout() -> Result<(), Failure> {
    let case = Case { spec: dropping(cases()[1].spec.clone()), ..cases()[1].clone() };
    for kernels in [Kernels::Auto, Kernels::Reference] {
        let mut first = engine(kernels)?;
        let steps = [5, 6, 5].map(|seed| case.train(&mut *first, seed));
        let [five, six, again] = steps;
        let (five, six) = (five?, six?);
        assert!(five == again?, "{kernels:?}: the same seed");
        assert!(five.gradients != six.gradients && five.report.loss != six.report.loss, "{kernels:?}");
        // Somebody else continues with the same parameters.
        first.load(five.parameters.clone())?;
        let next = case.step(&mut *first, 9)?;
        let mut second = engine(kernels)?;
        second.prepare(&case.training()?)?;
        second.load(five.parameters)?;
        assert_eq!(case.step(&mut *second, 9)?, next, "{kernels:?}");
        assert!(first.parameters()? == second.parameters()?, "{kernels:?}: other weights");
    }
    Ok(())
}

/// Half precision keeps 11 bits of a map's values, bfloat16 8: what is computed from them stays as near.
#[test]
fn rounded_maps_stay_near_single_precision() -> Result<(), Failure> {
    // One of every kind.
    for case in
        [common::plain_cases(), common::norm_cases(), common::residual_cases(), common::attention_cases()]
            .into_iter()
            .flat_map(|cases| [cases[1].clone(), cases[cases.len() - 1].clone()])
    {
        let mut exact = engine(Kernels::Reference)?;
        let (logits, trained) = (case.predict(&mut *exact)?, case.train(&mut *exact, 0)?);
        for (rounding, tolerance) in [(Rounding::F16, 1e-2), (Rounding::Bf16, 8e-2)] {
            let name = format!("{}, {rounding:?}", case.name);
            let mut engine = ReferenceEngine::new(rounding);
            let distance = relative_l2(&case.predict(&mut engine)?, &logits);
            assert!(distance < tolerance, "{name}: logits differ by {distance}");
            assert!(distance > 1e-6, "{name}: nothing was rounded");
            let rounded = case.train(&mut engine, 0)?;
            let (loss, expected) = (rounded.report.loss.total, trained.report.loss.total);
            assert!((loss - expected).abs() < tolerance, "{name}: loss {loss} instead of {expected}");
            assert!(rounded.report.done, "{name}");
            let (norm, expected) = (rounded.report.norm, trained.report.norm);
            assert!((norm / expected - 1.0).abs() < 5.0 * tolerance, "{name}: norm {norm} for {expected}");
        }
    }
    Ok(())
}

#[test]
fn a_patch_that_is_no_number_changes_no_weight() -> Result<(), Failure> {
    let spec = NetworkSpec::plain(2, 2, &[(4, [3; 3], [1; 3]), (8, [3; 3], [2; 3])]);
    let case = Case { name: "plain", spec, batch: 1, size: [8; 3] };
    let targets = case.targets();
    let targets: Vec<Targets<'_>> = targets.iter().map(|t| Targets::Regions(t)).collect();
    let loss = LossOptions::v2(true, false);
    for kernels in Kernels::ALL {
        let mut engine = engine(kernels)?;
        engine.prepare(&case.training()?)?;
        let before = case.parameters()?;
        engine.load(before.clone())?;
        let mut patch = case.patch();
        patch[100] = f32::NAN;
        let optimiser = OptimiserOptions::ADAMW;
        let update = Update { loss: &loss, weights: &[1.0], optimiser, lr: 0.01, clip: None, seed: 0 };
        let report = engine.step(&patch, &targets, &update)?;
        assert!(
            !report.done && report.loss.total.is_nan() && report.norm.is_nan(),
            "{kernels:?}: {report:?}"
        );
        assert!(Arc::ptr_eq(&before, &engine.parameters()?), "{kernels:?}: the weights were copied");
        assert!(engine.gradients()?.iter().all(Option::is_none), "{kernels:?}");
        // The next patch is a number again.
        assert!(engine.step(&case.patch(), &targets, &update)?.done, "{kernels:?}");
        assert!(before != engine.parameters()?, "{kernels:?}");
    }
    Ok(())
}

#[test]
fn targets_and_weights_must_be_as_many_as_heads() -> Result<(), Failure> {
    let case = &cases()[1];
    let targets = case.targets();
    let targets = [Targets::Regions(&targets[0])];
    let loss = LossOptions::v2(true, false);
    for kernels in Kernels::ALL {
        let mut engine = engine(kernels)?;
        engine.load(case.parameters()?)?;
        engine.prepare(&case.training()?)?;
        let optimiser = OptimiserOptions::NNUNET;
        let update = Update { loss: &loss, weights: &[0.5, 0.5], optimiser, lr: 0.01, clip: None, seed: 0 };
        let error = engine.step(&case.patch(), &targets, &update).expect_err("one target").to_string();
        assert_eq!(error, "the targets do not fit the network: 1 targets and 2 weights for 2 heads");
        engine.prepare(&case.program(Mode::Evaluate)?)?;
        let error = engine.evaluate(&case.patch(), &targets, &loss, &[1.0]).expect_err("one target");
        assert!(error.to_string().ends_with("1 targets and 1 weights for 2 heads"), "{error}");
    }
    Ok(())
}

/// Targets are looked at first: a refused step has not moved the running statistics of batch norm.
#[test]
fn a_step_that_is_refused_changes_nothing() -> Result<(), Failure> {
    let mut spec = NetworkSpec::plain(2, 2, &[(4, [3; 3], [1; 3]), (8, [3; 3], [2; 3])]);
    spec.norm = Some(NormSpec::new(NormKind::Batch));
    let case = Case { name: "batch norm", spec, batch: 2, size: [8; 3] };
    let mut targets = case.targets();
    let loss = LossOptions::v2(true, false);
    let optimiser = OptimiserOptions::NNUNET;
    let update = Update { loss: &loss, weights: &[1.0], optimiser, lr: 0.01, clip: None, seed: 0 };
    for kernels in [Kernels::Auto, Kernels::Reference] {
        let mut engine = engine(kernels)?;
        let before = case.parameters()?;
        engine.load(before.clone())?;
        engine.prepare(&case.training()?)?;
        let last = targets[0].pop().expect("a target has values");
        let error = engine.step(&case.patch(), &[Targets::Regions(&targets[0])], &update);
        assert!(error.expect_err("a value too few").to_string().contains("values of regions"), "{kernels:?}");
        let labels = vec![2i16; 2 * 8 * 8 * 8];
        let error = engine.step(&case.patch(), &[Targets::Labels(&labels)], &update);
        assert!(error.expect_err("no such label").to_string().contains("label 2"), "{kernels:?}");
        assert!(Arc::ptr_eq(&before, &engine.parameters()?), "{kernels:?}: the parameters have changed");
        targets[0].push(last);
        assert!(engine.step(&case.patch(), &[Targets::Regions(&targets[0])], &update)?.done, "{kernels:?}");
        let running = |p: &glioseg_net::Parameters| -> Vec<f32> {
            p.iter().filter(|(shape, _)| !shape.trained).flat_map(|(_, v)| v.to_vec()).collect()
        };
        let (old, new) = (running(&before), running(&*engine.parameters()?));
        assert!(!old.is_empty() && old != new, "{kernels:?}: a step moves the running statistics");
    }
    Ok(())
}

#[test]
fn what_this_build_does_not_know_is_named_with_what_it_knows() {
    let error = "tpu".parse::<Device>().expect_err("no such device");
    assert_eq!(error.to_string(), "unknown device `tpu`; this build runs on: cpu");
    assert!(error.hint().is_some_and(|h| h.contains("leave the option out")));
    let error = "f64".parse::<Precision>().expect_err("no such precision");
    assert_eq!(error.to_string(), "unknown precision `f64`; this build computes in: f32, bf16");
    assert!(error.hint().is_some_and(|h| h.contains("leave the option out")));
    for device in Device::ALL {
        assert_eq!(device.to_string().parse::<Device>().expect("its own word"), device);
    }
    for precision in Precision::ALL {
        assert_eq!(precision.word().parse::<Precision>().expect("its own word"), precision);
    }
    for kernels in Kernels::ALL {
        assert_eq!(Kernels::named(kernels.word()), Some(kernels));
    }
    assert_eq!(Kernels::named("burn"), None);
}
