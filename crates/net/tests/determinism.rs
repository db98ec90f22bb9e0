//! The same bits whatever runs besides, came before, stays prepared, or how many threads there are.

mod common;

use std::sync::{Arc, Barrier};

use common::{Case, Failure, Trained, cases, engine};
use glioseg_net::{Engine, EngineChoice, Kernels, Mode, ParameterId, Parameters};
use glioseg_volume::testing::relative_l2;

const CHOICES: [EngineChoice; 3] = {
    let usual = EngineChoice {
        device: glioseg_net::Device::Cpu,
        precision: glioseg_net::Precision::F32,
        kernels: Kernels::Auto,
        packed_budget: 64 << 20,
    };
    [
        usual,
        EngineChoice { packed_budget: 0, ..usual },
        EngineChoice { kernels: Kernels::Direct, packed_budget: 10_000, ..usual },
    ]
};

/// Everything that an engine makes of a network.
fn all(case: &Case, engine: &mut dyn Engine) -> Result<(Vec<f32>, Trained), String> {
    let predicted = case.predict(engine).map_err(|e| e.to_string())?;
    Ok((predicted, case.train(engine, 0).map_err(|e| e.to_string())?))
}

#[test]
fn results_are_the_same_bits_on_any_number_of_threads() -> Result<(), Failure> {
    for choice in [CHOICES[0], CHOICES[2]] {
        for case in cases() {
            let mut first = None;
            for threads in [1, 2, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
                let result = pool.install(|| {
                    let mut engine = choice.start().map_err(|e| e.to_string())?;
                    all(&case, &mut *engine)
                })?;
                let first = first.get_or_insert_with(|| result.clone());
                assert!(*first == result, "{}, {choice:?}: {threads} threads differ from 1", case.name);
            }
        }
    }
    Ok(())
}

#[test]
fn engines_side_by_side_give_what_each_gives_alone() -> Result<(), Failure> {
    let cases = cases();
    let cases = [&cases[2], &cases[3], &cases[10]];
    let alone = |choice: EngineChoice| -> Result<Vec<_>, String> {
        let mut engine = choice.start().map_err(|e| e.to_string())?;
        cases.iter().map(|case| all(case, &mut *engine)).collect()
    };
    let expected = CHOICES.map(alone);
    assert!(expected[0] == expected[1], "the budget decides what is kept, not what is computed");
    assert!(expected[0] != expected[2], "other kernels round otherwise, else this test shows nothing");
    let start = Barrier::new(CHOICES.len());
    std::thread::scope(|scope| -> Result<(), Failure> {
        let together = CHOICES.map(|choice| {
            let (start, alone) = (&start, &alone);
            scope.spawn(move || {
                start.wait();
                [alone(choice), alone(choice)]
            })
        });
        for ((thread, expected), choice) in together.into_iter().zip(&expected).zip(CHOICES) {
            let found = thread.join().map_err(|_| "a thread panicked")?;
            for found in found {
                assert!(
                    found? == *expected.as_ref().map_err(String::clone)?,
                    "{choice:?} while the others run"
                );
            }
        }
        Ok(())
    })
}

#[test]
fn what_was_prepared_before_does_not_matter() -> Result<(), Failure> {
    let cases = cases();
    for choice in CHOICES {
        let fresh = |case: &Case| all(case, &mut *choice.start().map_err(|e| e.to_string())?);
        let expected: Vec<_> = cases.iter().map(fresh).collect::<Result<_, String>>()?;
        // One engine goes there and back: its memory holds what a smaller or larger network left.
        let mut engine = choice.start()?;
        let there = cases.iter().zip(&expected);
        for (case, expected) in there.clone().chain(there.rev()) {
            assert!(all(case, &mut *engine)? == *expected, "{}, {choice:?}", case.name);
        }
        engine.release();
        assert!(all(&cases[0], &mut *engine)? == expected[0], "{choice:?}: after a release");
    }
    Ok(())
}

/// What an engine has loaded stays loaded when another program is prepared.
#[test]
fn parameters_outlive_programs() -> Result<(), Failure> {
    let case = &cases()[0];
    for kernels in Kernels::ALL {
        let mut engine = engine(kernels)?;
        let trained = case.train(&mut *engine, 0)?;
        engine.prepare(&case.program(Mode::Predict)?)?;
        let after = engine.forward(&case.patch())?.heads[0].to_vec();
        engine.release();
        engine.prepare(&case.program(Mode::Predict)?)?;
        assert!(engine.forward(&case.patch())?.heads[0] == after, "{kernels:?}: after a release");
        assert!(*engine.parameters()? == *trained.parameters, "{kernels:?}");
        assert!(after != case.predict(&mut *engine)?, "{kernels:?}: the step changed nothing");
        engine.load(trained.parameters)?;
        assert!(engine.forward(&case.patch())?.heads[0] == after, "{kernels:?}: loaded again");
    }
    Ok(())
}

#[test]
fn changed_weights_are_seen_though_prepared_ones_are_kept() -> Result<(), Failure> {
    let case = &cases()[2];
    let one = Arc::new(Parameters::random(&case.spec, 1)?);
    let squared = {
        let mut squared = (*one).clone();
        for i in 0..squared.shapes().len() {
            squared.values_mut(ParameterId(i)).iter_mut().for_each(|v| *v *= *v);
        }
        Arc::new(squared)
    };
    let program = case.program(Mode::Predict)?;
    let patch = case.patch();
    let run = |engine: &mut dyn Engine, parameters: &Arc<Parameters>| -> Result<Vec<f32>, Failure> {
        engine.load(parameters.clone())?;
        Ok(engine.forward(&patch)?.heads[0].to_vec())
    };
    let mut keeping = CHOICES[0].start()?;
    assert!(keeping.prepare(&program)?.packed > 0, "nothing is kept");
    let first = run(&mut *keeping, &one)?;
    let changed = run(&mut *keeping, &squared)?;
    assert!(relative_l2(&changed, &first) > 0.1);
    let mut plain = engine(Kernels::Reference)?;
    plain.prepare(&program)?;
    assert!(relative_l2(&changed, &run(&mut *plain, &squared)?) < 1e-5);
    assert!(run(&mut *keeping, &one)? == first);
    // Without a budget nothing is kept, and nothing changes.
    let mut forgetting = CHOICES[1].start()?;
    assert_eq!(forgetting.prepare(&program)?.packed, 0);
    assert!(run(&mut *forgetting, &one)? == first);
    assert!(run(&mut *forgetting, &squared)? == changed);
    Ok(())
}
