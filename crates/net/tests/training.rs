//! What training keeps between runs, and how it weighs heads.

use std::sync::Arc;

use glioseg_net::checkpoint::{Metadata, write_training};
use glioseg_net::loss::{Loss, LossOptions, Targets, deep_supervision_weights};
use glioseg_net::optimiser::{Optimiser, OptimiserOptions};
use glioseg_net::{Checkpoint, Engine, EngineChoice, Mode, NetworkSpec, Parameters, Program, Update};

type Failure = Box<dyn std::error::Error>;

/// Numbers between -3 and 3 without pattern.
fn noise(count: usize, salt: u64) -> Vec<f32> {
    let mix = |i: u64| (i + salt * 7919).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..count as u64).map(|i| (mix(i) % 60_000) as f32 / 10_000.0 - 3.0).collect()
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

/// An engine that trains these values.
fn engine(parameters: Parameters) -> Result<Box<dyn Engine>, Failure> {
    let mut engine = EngineChoice::default().start()?;
    engine.prepare(&Program::new(&small(), 2, [8; 3], Mode::train(&deep_supervision_weights(2)))?)?;
    engine.load(Arc::new(parameters))?;
    Ok(engine)
}

/// Takes steps `steps` of a training on noise.
fn train(
    engine: &mut dyn Engine,
    optimiser: OptimiserOptions,
    steps: std::ops::Range<u64>,
) -> Result<Vec<Loss>, Failure> {
    let weights = deep_supervision_weights(2);
    let loss = LossOptions::v2(true, false);
    let mut losses = vec![];
    for step in steps {
        let target: Vec<u8> = noise(2 * 2 * 512, step + 100).iter().map(|&v| u8::from(v > 0.5)).collect();
        let half: Vec<u8> = noise(2 * 2 * 64, step + 200).iter().map(|&v| u8::from(v > 0.5)).collect();
        let targets = [Targets::Regions(&target), Targets::Regions(&half)];
        let update =
            Update { loss: &loss, weights: &weights, optimiser, lr: 0.02, clip: Some(0.5), seed: step };
        let report = engine.step(&noise(2 * 2 * 512, step), &targets, &update)?;
        assert!(report.done);
        losses.push(report.loss);
    }
    Ok(losses)
}

#[test]
fn training_goes_on_from_a_file_bit_for_bit() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint_latest.safetensors");
    for options in [OptimiserOptions::NNUNET, OptimiserOptions::ADAMW] {
        let mut first = engine(Parameters::random(&small(), 7)?)?;
        train(&mut *first, options, 0..2)?;
        let kept = first.parameters()?;
        let steps = kept.optimiser().ok_or("an optimiser")?.steps();
        assert!(steps.contains(&2) && steps.contains(&0), "the head that is not trained takes no steps");
        write_training(&path, &kept, &Metadata::default())?;
        let bytes = std::fs::read(&path)?;
        write_training(&path, &kept, &Metadata::default())?;
        assert_eq!(bytes, std::fs::read(&path)?, "the same state gives the same file");
        let losses = train(&mut *first, options, 2..4)?;
        assert!(*kept != *first.parameters()?, "who keeps the values has them as they were");

        let checkpoint = Checkpoint::open(&path)?;
        checkpoint.verify()?;
        let mut again = Parameters::random(&small(), 8)?;
        again.load_checkpoint(&checkpoint)?;
        let mut restored = Optimiser::new(options, again.shapes());
        restored.restore(&checkpoint, &steps)?;
        again.set_optimiser(Some(restored));
        assert!(again == *kept, "{options:?}: another state in the file");
        let mut second = engine(again)?;
        assert_eq!(train(&mut *second, options, 2..4)?, losses);
        assert!(*second.parameters()? == *first.parameters()?, "{options:?}: other weights or another state");
    }
    Ok(())
}

#[test]
fn a_flipped_bit_of_a_checkpoint_is_found() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint_latest.safetensors");
    let mut parameters = Parameters::random(&small(), 7)?;
    parameters.set_optimiser(Some(Optimiser::new(OptimiserOptions::NNUNET, parameters.shapes())));
    write_training(&path, &parameters, &Metadata::default())?;
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
        let trained = pool.install(|| -> Result<_, String> {
            let of = || -> Result<_, Failure> {
                let mut engine = engine(Parameters::random(&small(), 3)?)?;
                let losses = train(&mut *engine, OptimiserOptions::NNUNET, 0..3)?;
                Ok((losses, engine.parameters()?))
            };
            of().map_err(|e| e.to_string())
        });
        Ok(trained?)
    };
    assert!(run(1)? == run(3)?);
    Ok(())
}
