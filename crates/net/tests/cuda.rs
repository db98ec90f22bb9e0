//! The engine of NVIDIA GPUs on the host: its launches, its kernels and its memory, with plain loops for cuDNN.

mod common;

use std::path::Path;

use common::{Case, Failure};
use glioseg_cuda::Element;
use glioseg_cuda::host::Host;
use glioseg_net::engine::cuda::{CudaEngine, convolutions};
use glioseg_net::loss::{LossOptions, Targets};
use glioseg_net::optimiser::OptimiserOptions;
use glioseg_net::{Engine, Kernels, Mode, NetworkSpec, Update};
use glioseg_volume::testing::relative_l2;

/// `None`, with a word, where there is no C++ compiler.
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
fn engine(element: Element) -> Option<CudaEngine> {
    match Host::build(Path::new(env!("CARGO_TARGET_TMPDIR"))) {
        Ok(host) => Some(CudaEngine::new(Box::new(host), element)),
        Err(reason) => {
            assert!(reason.contains("there is no C++ compiler"), "{reason}");
            eprintln!("left out: {reason}");
            None
        }
    }
}

/// The most voxels of a case: the host takes its time.
const MOST_VOXELS: usize = 1600;

/// Predictions and everything that a training step leaves, against plain loops.
fn assert_as_the_reference(cases: Vec<Case>) -> Result<(), Failure> {
    let small = |case: &Case| case.batch * case.size.iter().product::<usize>() <= MOST_VOXELS;
    let cases: Vec<Case> = cases.into_iter().filter(small).collect();
    assert!(cases.len() > 2, "cases small enough for the host");
    for case in cases {
        let Some(mut ours) = engine(Element::F32) else { return Ok(()) };
        let mut plain = common::engine(Kernels::Reference)?;
        let distance = relative_l2(&case.predict(&mut ours)?, &case.predict(&mut *plain)?);
        assert!(distance < 1e-5, "{}: logits differ by {distance}", case.name);
        let (ours, plain) = (case.train(&mut ours, 3)?, case.train(&mut *plain, 3)?);
        for (i, (head, expected)) in ours.heads.iter().zip(&plain.heads).enumerate() {
            let distance = relative_l2(head, expected);
            assert!(distance < 1e-5, "{}: head {i} differs by {distance}", case.name);
        }
        let (loss, expected) = (ours.report.loss.total, plain.report.loss.total);
        assert!((loss - expected).abs() < 1e-5 * expected.abs(), "{}: {loss}, {expected}", case.name);
        let (length, expected) = (ours.report.norm, plain.report.norm);
        assert!((length / expected - 1.0).abs() < 1e-3, "{}: {length}, {expected}", case.name);
        let shapes = plain.parameters.shapes();
        for ((shape, ours), plain) in shapes.iter().zip(&ours.gradients).zip(&plain.gradients) {
            let name = format!("{}: {}", case.name, shape.name);
            assert_eq!(ours.is_some(), plain.is_some(), "{name}");
            let (Some(ours), Some(plain)) = (ours, plain) else { continue };
            let size = plain.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if size < 1e-6 {
                // Without influence on the loss a gradient is rounding.
                assert!(ours.iter().all(|v| v.abs() < 1e-5), "{name}: {ours:?} instead of 0");
                continue;
            }
            let distance = relative_l2(ours, plain);
            assert!(distance < 1e-3, "{name} differs by {distance} of {size}");
        }
        for ((shape, ours), (_, plain)) in ours.parameters.iter().zip(plain.parameters.iter()) {
            let distance = relative_l2(ours, plain);
            assert!(distance < 1e-4, "{}: {} after the step differs by {distance}", case.name, shape.name);
        }
    }
    Ok(())
}

#[test]
fn plain_networks_give_on_launches_what_they_give_in_plain_loops() -> Result<(), Failure> {
    assert_as_the_reference(common::plain_cases())
}

#[test]
fn normalisations_give_on_launches_what_they_give_in_plain_loops() -> Result<(), Failure> {
    assert_as_the_reference(common::norm_cases())
}

#[test]
fn residual_networks_give_on_launches_what_they_give_in_plain_loops() -> Result<(), Failure> {
    assert_as_the_reference(common::residual_cases())
}

#[test]
fn attention_gives_on_launches_what_it_gives_in_plain_loops() -> Result<(), Failure> {
    assert_as_the_reference(common::attention_cases())
}

/// Twenty steps of a small network, each from where the one before ended.
fn losses(
    engine: &mut dyn Engine,
    case: &Case,
    optimiser: OptimiserOptions,
    labels: bool,
) -> Result<Vec<f64>, Failure> {
    engine.prepare(&case.training()?)?;
    engine.load(case.parameters()?)?;
    let regions = case.targets();
    let numbers: Vec<Vec<i16>> = regions
        .iter()
        .map(|r| {
            let voxels = r.len() / case.spec.num_outputs;
            (0..voxels).map(|i| i16::from(r[i]) + i16::from(r[i + r.len() - voxels])).collect()
        })
        .collect();
    let targets: Vec<Targets<'_>> = if labels {
        numbers.iter().map(|labels| Targets::Labels(labels)).collect()
    } else {
        regions.iter().map(|regions| Targets::Regions(regions)).collect()
    };
    let weights: Vec<f64> = (0..targets.len()).map(|i| 1.0 / (1 + i) as f64).collect();
    let loss = LossOptions::v2(!labels, true);
    let mut found = vec![];
    for seed in 0..20 {
        let lr = if labels { 1e-3 } else { 0.01 };
        let update = Update { loss: &loss, weights: &weights, optimiser, lr, clip: Some(12.0), seed };
        let report = engine.step(&case.patch(), &targets, &update)?;
        assert!(report.done);
        found.push(report.loss.total);
        if seed == 9 {
            // What is fetched and loaded again continues.
            let parameters = engine.parameters()?;
            engine.release();
            engine.prepare(&case.training()?)?;
            engine.load(parameters)?;
        }
    }
    Ok(found)
}

#[test]
fn twenty_steps_follow_the_cpu() -> Result<(), Failure> {
    let stages = [(8, [3; 3], [1; 3]), (16, [3; 3], [2; 3]), (20, [3; 3], [1, 2, 2])];
    let spec = NetworkSpec::plain(4, 3, &stages);
    let case = Case { name: "twenty steps", spec, batch: 2, size: [8, 12, 8] };
    for (optimiser, labels) in [(OptimiserOptions::NNUNET, false), (OptimiserOptions::ADAMW, true)] {
        let expected = losses(&mut *common::engine(Kernels::Auto)?, &case, optimiser, labels)?;
        for element in [Element::F32, Element::Bf16] {
            let Some(mut engine) = engine(element) else { return Ok(()) };
            let found = losses(&mut engine, &case, optimiser, labels)?;
            let far = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let most = if element == Element::F32 { 1e-3 } else { 5e-3 };
            assert!(far < most, "{element:?}, {optimiser:?}: losses {found:?} instead of {expected:?}");
        }
        assert!(expected[19] < expected[0] - 0.01, "{expected:?}");
    }
    Ok(())
}

#[test]
fn convolutions_and_memory_of_a_large_network_are_known_before_it_runs() -> Result<(), Failure> {
    use glioseg_net::Program;
    let spec = NetworkSpec::brats(3);
    let heads = vec![true, true, true, true, false];
    let program = Program::new(&spec, 2, [128; 3], Mode::Train { heads })?;
    // 22 blocks and 5 transposed convolutions in three passes, but no gradient of the input; heads are kernels of our own.
    let found = convolutions(&program, Element::Bf16)?;
    assert_eq!(found.len(), 27 * 3 - 1);
    let Some(engine) = engine(Element::Bf16) else { return Ok(()) };
    let plan = engine.plan(&program);
    let gib = plan.total() as f64 / f64::from(1u32 << 30);
    assert!((3.0..6.0).contains(&gib), "{plan}");
    Ok(())
}
