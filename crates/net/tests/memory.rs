//! What an engine says that it takes.

mod common;

use common::{Failure, cases};
use glioseg_net::{EngineChoice, Kernels, MemoryPlan, Mode, NetworkSpec, Program};

const BUDGETS: [usize; 3] = [0, 100_000, 64 << 20];

fn modes(heads: usize) -> [Mode; 3] {
    [Mode::Predict, Mode::Evaluate, Mode::Train { heads: vec![true; heads] }]
}

#[test]
fn the_plan_is_what_prepare_says() -> Result<(), Failure> {
    for kernels in Kernels::ALL {
        for packed_budget in BUDGETS {
            let mut engine = EngineChoice { kernels, packed_budget, ..EngineChoice::default() }.start()?;
            for case in cases() {
                for mode in modes(case.spec.decoder.len()) {
                    let program = case.program(mode)?;
                    let plan = engine.plan(&program);
                    assert_eq!(engine.prepare(&program)?, plan, "{}, {kernels:?}", case.name);
                    assert_eq!(engine.prepare(&program)?, plan, "{}, {kernels:?}: once more", case.name);
                    assert!(plan.packed <= packed_budget as u64, "{}: {plan:?}", case.name);
                    assert_eq!(plan.gradients > 0, program.mode.is_training(), "{}", case.name);
                    let MemoryPlan { parameters, gradients, maps, packed, scratch, input } = plan;
                    assert_eq!(plan.total(), parameters + gradients + maps + packed + scratch + input);
                    assert_eq!(input, (case.patch().len() * size_of::<f32>()) as u64, "{}", case.name);
                }
            }
        }
    }
    Ok(())
}

/// Prepared weights that stay are not made in every pass, so they do not count twice.
#[test]
fn a_larger_budget_keeps_more_and_takes_no_more_for_maps() -> Result<(), Failure> {
    let program = Program::new(&NetworkSpec::brats(3), 1, [64; 3], Mode::Predict)?;
    let plans = BUDGETS.map(|packed_budget| {
        EngineChoice { packed_budget, ..EngineChoice::default() }.start().map(|e| e.plan(&program))
    });
    let [none, little, much] = plans;
    let (none, little, much) = (none?, little?, much?);
    assert_eq!(none.packed, 0);
    assert!(little.packed > 0 && little.packed < much.packed, "{little:?} and {much:?}");
    assert!(little.maps <= none.maps && much.maps <= little.maps, "{none:?}, {little:?}, {much:?}");
    assert_eq!((none.parameters, none.gradients), (much.parameters, 0));
    Ok(())
}

/// nnU-Net's network for BraTS: weights and gradients by their number, maps by what has to be alive together.
#[test]
fn nnunets_network_takes_what_its_maps_say() -> Result<(), Failure> {
    let spec = NetworkSpec::brats(3);
    let engine = EngineChoice::default().start()?;
    let bytes = |values: usize| (values * size_of::<f32>()) as u64;
    let of = |batch: usize, mode: Mode| -> Result<(Program, MemoryPlan), Failure> {
        let program = Program::new(&spec, batch, [64; 3], mode)?;
        let plan = engine.plan(&program);
        Ok((program, plan))
    };
    let (program, training) = of(2, Mode::Train { heads: vec![true; 5] })?;
    let parameters = program.parameters.iter().map(glioseg_net::ParameterShape::len).sum();
    assert_eq!(training.parameters, bytes(parameters));
    assert_eq!(training.gradients, bytes(31_198_991));
    // Every map is kept until its layer's backward pass; the input is the caller's.
    let maps: usize = program.maps.iter().skip(1).map(|m| 2 * m.values()).sum();
    assert!(training.maps >= bytes(maps), "{training} for maps of {maps} values");
    assert!(training.maps <= bytes(maps) * 2, "{training} for maps of {maps} values");
    // Outside training a skip and two maps of the full resolution, not all of them.
    let (program, predicting) = of(1, Mode::Predict)?;
    let full = bytes(32 * 64 * 64 * 64);
    assert!(predicting.maps >= 3 * full, "{predicting}");
    assert!(predicting.maps <= 5 * full, "{predicting}");
    let maps: usize = program.maps.iter().skip(1).map(|m| m.values()).sum();
    assert!(predicting.maps < bytes(maps), "{predicting} for maps of {maps} values");
    Ok(())
}

#[test]
fn a_plan_reads_as_one_line() {
    let plan = MemoryPlan { parameters: 1 << 29, gradients: 1 << 28, maps: 3 << 30, ..MemoryPlan::default() };
    assert_eq!(plan.to_string(), "3.75 GiB (maps 3.00, weights 0.50, gradients 0.25)");
    let plan = MemoryPlan { gradients: 0, packed: 1 << 28, scratch: 1 << 28, input: 1 << 29, ..plan };
    let text =
        "4.50 GiB (maps 3.00, weights 0.50, prepared weights 0.25, scratch of the threads 0.25, patch 0.50)";
    assert_eq!(plan.to_string(), text);
}
