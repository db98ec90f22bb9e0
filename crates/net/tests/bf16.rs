//! The bf16 engine against plain loops that round every stored map.

mod common;

use std::sync::Arc;

use common::{Case, Failure, cases, curved_cases};
use glioseg_kernels::Amx;
use glioseg_net::engine::{Bf16Engine, ReferenceEngine, Rounding};
use glioseg_net::loss::{LossOptions, Targets};
use glioseg_net::{Engine, EngineChoice, Kernels, Mode, NetworkSpec, ParameterId, Precision, Program};
use glioseg_volume::testing::relative_l2;
use half::bf16;

/// Whether this machine has tiles; says what was not tested.
#[allow(clippy::print_stderr, reason = "a test names what it could not test")]
fn has_tiles() -> bool {
    Amx::detect().inspect_err(|e| eprintln!("not tested: {e}")).is_ok()
}

fn bf16_cases() -> Vec<Case> {
    [cases(), curved_cases()].concat()
}

/// Both round every map, in another order of sums: a value on the edge may go either way, which is what bf16 costs as a whole.
/// So the engine's distance from the rounding loops is held against the loops' own distance from single precision.
#[test]
fn networks_give_on_tiles_what_rounding_loops_give() -> Result<(), Failure> {
    if !has_tiles() {
        return Ok(());
    }
    for case in bf16_cases() {
        let exact = case.predict(&mut *common::engine(Kernels::Auto)?)?;
        let rounding = case.predict(&mut ReferenceEngine::new(Rounding::Bf16))?;
        let ours = case.predict(&mut Bf16Engine::new()?)?;
        let (own, theirs) = (relative_l2(&ours, &exact), relative_l2(&rounding, &exact));
        let apart = relative_l2(&ours, &rounding);
        let name = case.name;
        // Normalisations of a handful of voxels amplify what was rounded; a wrong value would be off by its own size.
        assert!(own < 3.0 * theirs + 4e-3, "{name}: {own} from single precision, rounding loops {theirs}");
        assert!(
            apart < 3.0 * theirs + 4e-3,
            "{name}: {apart} from the rounding loops, which are off by {theirs}"
        );
        assert!(own > 1e-6, "{name}: nothing was rounded");
    }
    Ok(())
}

#[test]
fn bf16_results_are_the_same_bits_on_any_number_of_threads() -> Result<(), Failure> {
    if !has_tiles() {
        return Ok(());
    }
    for case in bf16_cases() {
        let mut first = None;
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let result = pool.install(|| -> Result<Vec<f32>, String> {
                let mut engine = Bf16Engine::new().map_err(|e| e.to_string())?;
                let once = case.predict(&mut engine).map_err(|e| e.to_string())?;
                assert!(
                    once == case.predict(&mut engine).map_err(|e| e.to_string())?,
                    "{}: once more",
                    case.name
                );
                Ok(once)
            })?;
            let first = first.get_or_insert_with(|| result.clone());
            assert!(*first == result, "{}: {threads} threads differ from 1", case.name);
        }
    }
    Ok(())
}

#[test]
fn evaluation_in_bf16_knows_all_heads() -> Result<(), Failure> {
    if !has_tiles() {
        return Ok(());
    }
    let case = &cases()[0];
    let targets = case.targets();
    let targets: Vec<Targets<'_>> = targets.iter().map(|t| Targets::Regions(t)).collect();
    let weights = vec![0.5; targets.len()];
    let options = LossOptions::v2(true, true);
    let of = |engine: &mut dyn Engine| -> Result<f64, Failure> {
        let alone = case.predict(engine)?;
        engine.prepare(&case.program(Mode::Evaluate)?)?;
        let heads = engine.forward(&case.patch())?.heads;
        assert!(heads.len() == targets.len() && heads[0] == alone, "the full-resolution head alone differs");
        Ok(engine.evaluate(&case.patch(), &targets, &options, &weights)?.loss.total)
    };
    let (ours, exact) = (of(&mut Bf16Engine::new()?)?, of(&mut *common::engine(Kernels::Auto)?)?);
    assert!((ours - exact).abs() < 2e-2 * exact.abs(), "loss {ours} instead of {exact}");
    Ok(())
}

fn all(gradients: &[Option<Vec<f32>>]) -> Vec<f32> {
    gradients.iter().flatten().flatten().copied().collect()
}

fn length(values: &[f32]) -> f64 {
    values.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt()
}

/// What a training step leaves.
struct Stepped {
    loss: f64,
    gradients: Vec<Option<Vec<f32>>>,
}

/// One step from weights that bf16 has exactly: the loops do not round weights.
fn step(case: &Case, engine: &mut dyn Engine) -> Result<Stepped, Failure> {
    let mut parameters = (*case.parameters()?).clone();
    for i in 0..parameters.shapes().len() {
        for value in parameters.values_mut(ParameterId(i)) {
            *value = bf16::from_f32(*value).to_f32();
        }
    }
    engine.prepare(&case.training()?)?;
    engine.load(Arc::new(parameters))?;
    let report = case.step(engine, 5)?;
    assert!(report.done, "{}", case.name);
    Ok(Stepped { loss: report.loss.total, gradients: engine.gradients()? })
}

/// All that a training step leaves, held against the rounding loops as predictions are: of every parameter, too, unless its gradient
/// is a thousandth of all, which is rounding where a bias stands before a normalisation.
#[test]
fn training_steps_on_tiles_are_those_of_rounding_loops() -> Result<(), Failure> {
    if !has_tiles() {
        return Ok(());
    }
    let mut far = vec![];
    for case in cases() {
        let exact = step(&case, &mut *common::engine(Kernels::Auto)?)?;
        let rounding = step(&case, &mut ReferenceEngine::new(Rounding::Bf16))?;
        let ours = step(&case, &mut Bf16Engine::new()?)?;
        let (name, shapes) = (case.name, case.parameters()?);
        let (loss, single) = (ours.loss, exact.loss);
        assert!((loss - single).abs() < 2e-2 * single.abs(), "{name}: loss {loss} instead of {single}");
        let all = [&ours, &rounding, &exact].map(|trained| all(&trained.gradients));
        let (own, theirs) = (relative_l2(&all[0], &all[2]), relative_l2(&all[1], &all[2]));
        let apart = relative_l2(&all[0], &all[1]);
        let whole = length(&all[2]);
        // A value on the kink of a ReLU goes either way, which a normalisation of few voxels amplifies.
        assert!(own < 3.0 * theirs + 6e-2, "{name}: {own} from single precision, rounding loops {theirs}");
        assert!(
            apart < 3.0 * theirs + 6e-2,
            "{name}: {apart} from rounding loops, which are off by {theirs}"
        );
        let smooth = case.spec.norm.is_none();
        assert!(apart < 1e-2 || !smooth, "{name}: {apart} from rounding loops without any normalisation");
        let mut compared = 0;
        for (i, (shape, _)) in shapes.iter().enumerate() {
            let found = [&ours, &rounding, &exact].map(|trained| trained.gradients[i].as_deref());
            let [Some(ours), Some(rounding), Some(exact)] = found else {
                assert_eq!(found, [None; 3], "{name}: {}", shape.name);
                continue;
            };
            let size = length(exact);
            if size < 1e-3 * whole {
                let found = length(ours);
                assert!(found < 5e-2 * whole, "{name}: {} is {found} instead of {size}", shape.name);
                continue;
            }
            let (own, others) = (relative_l2(ours, exact), relative_l2(rounding, exact).max(theirs));
            let apart = relative_l2(ours, rounding);
            // A value that goes the other way at the kink of a plain ReLU changes an offset's gradient by all of its own.
            let kink = if case.spec.slope > 0.0 { 0.0 } else { 0.5 };
            if own.min(apart) > f64::max(kink, 5.0 * others + 0.1) || (smooth && apart > 3e-2) {
                let name = format!("{name}: {}", shape.name);
                far.push(format!("{name}: {own} from single precision, loops {others}, apart {apart}"));
            }
            compared += 1;
        }
        assert!(compared > 8, "{name}: only {compared} gradients compared");
    }
    assert!(far.is_empty(), "{far:#?}");
    Ok(())
}

#[test]
fn bf16_trains_to_the_same_bits_on_any_number_of_threads() -> Result<(), Failure> {
    if !has_tiles() {
        return Ok(());
    }
    for case in cases().into_iter().step_by(2) {
        let mut first = None;
        for threads in [1, 2, 3] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            let steps = pool.install(|| -> Result<_, String> {
                let mut engine = Bf16Engine::new().map_err(|e| e.to_string())?;
                let first = case.train(&mut engine, 5).map_err(|e| e.to_string())?;
                // Weights that were rounded before are out of date now.
                let second = case.step(&mut engine, 6).map_err(|e| e.to_string())?;
                let again = engine.parameters().map_err(|e| e.to_string())?;
                engine.load(first.parameters.clone()).map_err(|e| e.to_string())?;
                assert_eq!(case.step(&mut engine, 6).map_err(|e| e.to_string())?, second, "{}", case.name);
                Ok((first, again))
            })?;
            let first = first.get_or_insert_with(|| steps.clone());
            assert!(*first == steps, "{}: {threads} threads differ from 1", case.name);
        }
    }
    Ok(())
}

#[test]
fn bf16_takes_little_more_than_half_the_maps() -> Result<(), Failure> {
    if !has_tiles() {
        return Ok(());
    }
    let program = Program::new(&NetworkSpec::brats(3), 1, [64; 3], Mode::Predict)?;
    let single = EngineChoice::default().start()?.plan(&program);
    let choice = EngineChoice { precision: Precision::Bf16, ..EngineChoice::default() };
    let mut engine = choice.start()?;
    let half = engine.plan(&program);
    assert!(half.maps * 2 <= single.maps * 21 / 20, "{half} and {single}");
    assert!(half.packed * 2 < half.parameters * 5 / 4, "{half}");
    assert_eq!(engine.prepare(&program)?, half);
    let training = Program::new(&NetworkSpec::brats(3), 2, [64; 3], Mode::train(&[1.0, 0.5, 0.2, 0.1, 0.0]))?;
    let single = EngineChoice::default().start()?.plan(&training);
    let half = engine.plan(&training);
    assert!(half.maps * 5 <= single.maps * 3, "{half} and {single}");
    assert_eq!(half.gradients, single.gradients);
    Ok(())
}
