//! The processor in bfloat16: maps and weights rounded, products on tiles, sums, statistics and logits in single precision.
//!
//! As for single precision a program's memory is one arena, a map holds what its convolution wrote, and whoever reads it
//! normalises and activates. Maps are channels last. Weights are rounded once and stay: they are half of the parameters' bytes.
//! What is rare (an activation before its normalisation, curved activations, attention) takes a way around through single
//! precision. Results are the same bytes for any number of threads.
//!
//! In training the gradient of a map is what its readers say, added up and rounded; the step that wrote the map leads it back through
//! activation and normalisation in place. Weights are rounded once per update; they, their gradients and what the optimiser keeps
//! are in single precision.

mod attention;
mod backward;
mod forward;
mod lower;

use std::sync::Arc;

use glioseg_kernels::{Amx, Arena, Cpu, PackedTiles};
use glioseg_plan::free_memory;

use super::interface::{Engine, Evaluation, LayerTime, Logits, StepReport, Update};
use super::memory::{Held, MemoryPlan};
use super::shared::{add_head, check_targets, head_gradients, head_shape, views};
use super::state::State;
use crate::NetError;
use crate::loss::{LossOptions, Targets};
use crate::parameters::Parameters;
use crate::program::Program;
use crate::shapes::ParameterShape;
use lower::Lowered;

/// Bfloat16 on the tiles of this machine.
#[derive(Debug)]
pub struct Bf16Engine {
    amx: Amx,
    cpu: Cpu,
    parameters: Option<Arc<Parameters>>,
    present: Option<Present>,
    arena: Arena,
    /// Bytes of scratch that the threads keep of earlier programs.
    scratch: u64,
    times: Option<Vec<LayerTime>>,
}

/// The present program.
#[derive(Debug)]
struct Present {
    program: Program,
    lowered: Lowered,
    plan: MemoryPlan,
    /// Rounded weights of every step.
    packed: Vec<Packed>,
    state: State,
}

/// Rounded weights, which are out of date once the parameters have changed.
#[derive(Debug, Default)]
struct Rounded {
    weights: Option<PackedTiles>,
    stale: bool,
}

impl Rounded {
    /// The weights, made or made again.
    fn get(
        &mut self,
        make: impl FnOnce() -> PackedTiles,
        refill: impl FnOnce(&mut PackedTiles),
    ) -> &PackedTiles {
        if let (true, Some(weights)) = (self.stale, &mut self.weights) {
            refill(weights);
        }
        self.stale = false;
        self.weights.get_or_insert_with(make)
    }
}

/// Rounded weights of a step.
#[derive(Debug, Default)]
struct Packed {
    transposed: Rounded,
    conv: Rounded,
    /// For the gradient of every input.
    backward: [Rounded; 2],
}

impl Packed {
    fn all(&mut self) -> impl Iterator<Item = &mut Rounded> {
        [&mut self.transposed, &mut self.conv].into_iter().chain(&mut self.backward)
    }
}

impl Present {
    /// The parameters have changed.
    fn outdate(&mut self) {
        self.packed.iter_mut().flat_map(Packed::all).for_each(|rounded| rounded.stale = true);
    }
}

impl Bf16Engine {
    /// An engine on this machine's tiles.
    ///
    /// # Errors
    /// [`NetError::Kernels`] if there are none, or may not be used.
    pub fn new() -> Result<Self, NetError> {
        glioseg_kernels::return_freed_memory();
        Ok(Self {
            amx: Amx::detect()?,
            cpu: Cpu::detect()?,
            parameters: None,
            present: None,
            arena: Arena::default(),
            scratch: 0,
            times: None,
        })
    }

    fn lowered(&self, program: &Program) -> (Lowered, MemoryPlan) {
        let lowered = Lowered::new(program, self.cpu);
        let bytes = |values: usize| (values * size_of::<f32>()) as u64;
        let plan = MemoryPlan {
            parameters: bytes(program.parameters.iter().map(ParameterShape::len).sum()),
            gradients: if program.mode.is_training() { bytes(program.num_parameters()) } else { 0 },
            maps: bytes(lowered.placement.len),
            packed: lowered.packed_bytes as u64,
            scratch: lowered.scratch.bytes_of_threads() as u64,
            input: bytes(program.values(Program::INPUT)),
        };
        (lowered, plan)
    }

    fn held(&self) -> Held {
        Held {
            arena: self.arena.len(),
            parameters: self.parameters.is_some(),
            present: self.present.as_ref().map(|present| present.plan),
            scratch: self.scratch,
        }
    }

    fn run_forward(&mut self, patch: &[f32], seed: u64) {
        let parameters = self.parameters.as_mut().expect("parameters were loaded");
        let Present { program, lowered, packed, state, .. } =
            self.present.as_mut().expect("a program was prepared");
        assert_eq!(patch.len(), program.values(Program::INPUT), "values of the input");
        let mut pass = Pass {
            amx: self.amx,
            cpu: self.cpu,
            program,
            lowered,
            parameters,
            patch,
            arena: self.arena.values(),
            packed,
            state,
            times: self.times.as_mut(),
        };
        pass.forward(seed);
        state.keep_running(parameters);
    }
}

/// One pass over the program.
struct Pass<'a> {
    amx: Amx,
    cpu: Cpu,
    program: &'a Program,
    lowered: &'a Lowered,
    parameters: &'a Parameters,
    patch: &'a [f32],
    arena: &'a mut [f32],
    packed: &'a mut [Packed],
    state: &'a mut State,
    times: Option<&'a mut Vec<LayerTime>>,
}

impl Engine for Bf16Engine {
    fn kernels(&self) -> &'static str {
        super::Kernels::Auto.word()
    }

    fn plan(&self, program: &Program) -> MemoryPlan {
        self.lowered(program).1
    }

    fn prepare(&mut self, program: &Program) -> Result<MemoryPlan, NetError> {
        if let Some(present) = &self.present
            && present.program == *program
        {
            return Ok(present.plan);
        }
        let (lowered, plan) = self.lowered(program);
        plan.check(plan.held_by(self.held()), free_memory())?;
        self.present = None;
        self.scratch = self.scratch.max(plan.scratch);
        if self.arena.len() < lowered.placement.len {
            self.arena = Arena::default();
            self.arena = Arena::new(lowered.placement.len);
        }
        let packed = program.forward.iter().map(|_| Packed::default()).collect();
        let state = State::new(program);
        self.present = Some(Present { program: program.clone(), lowered, plan, packed, state });
        Ok(plan)
    }

    fn load(&mut self, parameters: Arc<Parameters>) -> Result<(), NetError> {
        if let Some(present) = &mut self.present {
            present.outdate();
        }
        self.parameters = Some(parameters);
        glioseg_kernels::trim_freed_memory();
        Ok(())
    }

    fn parameters(&mut self) -> Result<Arc<Parameters>, NetError> {
        Ok(self.parameters.clone().expect("parameters were loaded"))
    }

    fn forward(&mut self, patch: &[f32]) -> Result<Logits<'_>, NetError> {
        self.run_forward(patch, 0);
        let Present { program, lowered, .. } = self.present.as_ref().expect("a program was prepared");
        let arena = &*self.arena.values();
        Ok(Logits { heads: program.heads.iter().map(|&head| &arena[lowered.range(head)]).collect() })
    }

    fn evaluate(
        &mut self,
        patch: &[f32],
        targets: &[Targets<'_>],
        options: &LossOptions,
        weights: &[f64],
    ) -> Result<Evaluation, NetError> {
        let program = &self.present.as_ref().expect("a program was prepared").program;
        check_targets(program, targets, weights, options)?;
        self.run_forward(patch, 0);
        let Present { program, lowered, .. } = self.present.as_ref().expect("a program was prepared");
        let arena = self.arena.values();
        let mut evaluation = Evaluation::default();
        for ((&head, &target), &weight) in program.heads.iter().zip(targets).zip(weights) {
            let shape = head_shape(program, head);
            let probabilities = lowered.probabilities.map_or(0..0, |id| lowered.placement.range(id));
            let [logits, probabilities] = views(arena, [lowered.range(head), probabilities]);
            add_head(&mut evaluation, (logits, shape), (target, weight), options, probabilities);
        }
        Ok(evaluation)
    }

    fn step(
        &mut self,
        patch: &[f32],
        targets: &[Targets<'_>],
        update: &Update<'_>,
    ) -> Result<StepReport, NetError> {
        let program = &self.present.as_ref().expect("a program was prepared").program;
        assert!(program.mode.is_training(), "a step of a program of mode {:?}", program.mode);
        check_targets(program, targets, update.weights, update.loss)?;
        self.run_forward(patch, update.seed);
        let parameters = self.parameters.as_mut().expect("parameters were loaded");
        let present = self.present.as_mut().expect("a program was prepared");
        let Present { program, lowered, packed, state, .. } = &mut *present;
        state.written.iter_mut().for_each(|w| *w = false);
        let arena = self.arena.values();
        let ranges = |head| [lowered.range(head), lowered.gradient(head)];
        let loss = head_gradients(program, arena, ranges, targets, update);
        if !loss.total.is_finite() {
            return Ok(StepReport { loss, norm: f64::NAN, done: false });
        }
        let mut pass = Pass {
            amx: self.amx,
            cpu: self.cpu,
            program,
            lowered,
            parameters,
            patch,
            arena,
            packed,
            state,
            times: self.times.as_mut(),
        };
        pass.backward();
        let (norm, done) = state.update(parameters, update);
        if done {
            present.outdate();
        }
        Ok(StepReport { loss, norm, done })
    }

    fn gradients(&mut self) -> Result<Vec<Option<Vec<f32>>>, NetError> {
        Ok(self.present.as_ref().map_or(vec![], |present| present.state.written_gradients()))
    }

    fn profile(&mut self, on: bool) {
        self.times = on.then(Vec::new);
    }

    fn take_layer_times(&mut self) -> Vec<LayerTime> {
        self.times.as_mut().map(std::mem::take).unwrap_or_default()
    }

    fn release(&mut self) {
        self.present = None;
        self.arena = Arena::default();
    }
}
