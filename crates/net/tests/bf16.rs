//! The bf16 engine against plain loops that round every stored map.

mod common;

use common::{Case, Failure, cases, curved_cases};
use glioseg_diagnose::Diagnose as _;
use glioseg_kernels::Amx;
use glioseg_net::engine::{Bf16Engine, ReferenceEngine, Rounding};
use glioseg_net::loss::{LossOptions, Targets};
use glioseg_net::{Engine, EngineChoice, Kernels, Mode, NetworkSpec, Precision, Program};
use glioseg_volume::testing::relative_l2;

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

#[test]
fn a_training_in_bf16_is_refused_with_a_remedy() -> Result<(), Failure> {
    if !has_tiles() {
        return Ok(());
    }
    let error = Bf16Engine::new()?.prepare(&cases()[0].training()?).expect_err("a training");
    assert_eq!(error.to_string(), "in bf16 networks can predict, but not be trained");
    assert!(error.hint().is_some_and(|h| h.contains("--precision f32")));
    Ok(())
}

/// Half of what single precision takes, and weights once.
#[test]
fn bf16_takes_half_the_maps() -> Result<(), Failure> {
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
    Ok(())
}
