//! The processor: single precision on our own kernels.
//!
//! The one decision here: a program's memory is one arena, laid out before the first step ([`lower`]), so that a step allocates
//! next to nothing and what it takes is known exactly. Results are the same bytes for any number of threads.

mod attention;
mod backward;
mod forward;
mod lower;
mod norm;

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use glioseg_kernels::{Arena, Cpu, PackedConv, PackedTransposed};
use glioseg_plan::free_memory;

use super::device::Kernels;
use super::interface::{Engine, Evaluation, LayerTime, Logits, StepReport, Update};
use super::memory::{Held, MemoryPlan};
use super::shared::{add_head, check_targets, head_gradients, head_shape, views};
use super::state::State;
use crate::NetError;
use crate::loss::{LossOptions, Targets};
use crate::parameters::Parameters;
use crate::program::{BufferId, MapId, Program};
use crate::shapes::ParameterShape;
pub(super) use attention::{axial_weights, positions};
pub(super) use forward::{adds_behind, join, transposed_name};
use lower::Lowered;
pub(super) use lower::{axial_shape, conv_shape, deferred_slope, transposed_shape};

/// Single precision on the kernels of this machine's best instruction set.
#[derive(Debug)]
pub struct CpuEngine {
    cpu: Cpu,
    kernels: Kernels,
    /// Bytes of prepared weights that may stay between passes.
    packed_budget: usize,
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
    /// Prepared weights that stay: of a step's transposed convolution and of its convolution.
    packed: Vec<Packed>,
    state: State,
}

/// What stays prepared of a step's weights.
#[derive(Debug, Default)]
struct Packed {
    transposed: Option<PackedTransposed<'static>>,
    conv: Option<PackedConv<'static>>,
}

impl CpuEngine {
    /// An engine with these kernels that keeps at most `packed_budget` bytes of prepared weights between passes.
    ///
    /// # Errors
    /// [`NetError::Kernels`] if the environment asks for an instruction set that does not exist here.
    pub fn new(kernels: Kernels, packed_budget: usize) -> Result<Self, NetError> {
        glioseg_kernels::return_freed_memory();
        Ok(Self {
            cpu: Cpu::detect()?,
            kernels,
            packed_budget,
            parameters: None,
            present: None,
            arena: Arena::default(),
            scratch: 0,
            times: None,
        })
    }

    fn lowered(&self, program: &Program) -> (Lowered, MemoryPlan) {
        let lowered = Lowered::new(program, self.cpu, self.kernels.algorithm(), self.packed_budget);
        let bytes = |values: usize| (values * size_of::<f32>()) as u64;
        let trained = program.num_parameters();
        let plan = MemoryPlan {
            parameters: bytes(program.parameters.iter().map(ParameterShape::len).sum()),
            gradients: if program.mode.is_training() { bytes(trained) } else { 0 },
            maps: bytes(lowered.placement.len),
            packed: lowered.kept_bytes as u64,
            scratch: lowered.scratch_bytes as u64,
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

    /// [`Engine::prepare`] with so many bytes free.
    fn prepare_within(&mut self, program: &Program, free: Option<u64>) -> Result<MemoryPlan, NetError> {
        if let Some(present) = &self.present
            && present.program == *program
        {
            return Ok(present.plan);
        }
        let (lowered, plan) = self.lowered(program);
        plan.check(plan.held_by(self.held()), free)?;
        self.present = None;
        self.scratch = self.scratch.max(plan.scratch);
        if self.arena.len() < lowered.placement.len {
            self.arena = Arena::default();
            self.arena = Arena::new(lowered.placement.len);
        }
        let state = State::new(program);
        let packed = program.forward.iter().map(|_| Packed::default()).collect();
        self.present = Some(Present { program: program.clone(), lowered, plan, packed, state });
        Ok(plan)
    }

    /// The present program.
    fn program(&self) -> &Program {
        &self.present.as_ref().expect("a program was prepared").program
    }

    /// Runs the forward pass of the present program.
    fn run_forward(&mut self, patch: &[f32], seed: u64) {
        let parameters = self.parameters.as_mut().expect("parameters were loaded");
        let Present { program, lowered, packed, state, .. } =
            self.present.as_mut().expect("a program was prepared");
        assert_eq!(patch.len(), program.values(Program::INPUT), "values of the input");
        let mut pass = Pass {
            cpu: self.cpu,
            kernels: self.kernels,
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
    cpu: Cpu,
    kernels: Kernels,
    program: &'a Program,
    lowered: &'a Lowered,
    parameters: &'a Parameters,
    patch: &'a [f32],
    arena: &'a mut [f32],
    packed: &'a mut [Packed],
    state: &'a mut State,
    times: Option<&'a mut Vec<LayerTime>>,
}

impl Pass<'_> {
    /// Where the values of a map lie; nowhere for the input.
    fn range(&self, map: MapId) -> Range<usize> {
        self.lowered.maps[map.0].map_or(0..0, |id| self.lowered.placement.range(id))
    }

    /// Where a buffer lies; nowhere if there is none.
    fn buffer(&self, id: Option<BufferId>) -> Range<usize> {
        id.map_or(0..0, |id| self.lowered.placement.range(id))
    }

    /// Where the gradient of a map lies.
    fn gradient(&self, map: MapId) -> Range<usize> {
        self.buffer(self.lowered.gradients[map.0])
    }
}

/// Measures one layer from its making to [`Timer::stop`], if times are wanted.
pub(super) struct Timer {
    start: Option<Instant>,
    packing: f64,
}

impl Timer {
    pub(super) fn start(wanted: bool) -> Self {
        Self { start: wanted.then(Instant::now), packing: 0.0 }
    }

    /// The weights are ready.
    pub(super) fn packed(&mut self) {
        if let Some(start) = self.start {
            self.packing = start.elapsed().as_secs_f64();
        }
    }

    pub(super) fn stop(
        self,
        times: &mut Option<&mut Vec<LayerTime>>,
        flops: f64,
        packed_bytes: usize,
        name: impl FnOnce() -> String,
    ) {
        if let (Some(start), Some(times)) = (self.start, times) {
            let seconds = start.elapsed().as_secs_f64();
            times.push(LayerTime { name: name(), seconds, packing: self.packing, flops, packed_bytes });
        }
    }
}

impl Engine for CpuEngine {
    fn kernels(&self) -> &'static str {
        self.kernels.word()
    }

    fn plan(&self, program: &Program) -> MemoryPlan {
        self.lowered(program).1
    }

    fn prepare(&mut self, program: &Program) -> Result<MemoryPlan, NetError> {
        self.prepare_within(program, free_memory())
    }

    fn load(&mut self, parameters: Arc<Parameters>) -> Result<(), NetError> {
        if let Some(present) = &mut self.present {
            present.packed.iter_mut().for_each(|p| *p = Packed::default());
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
        let heads = program.heads.iter().map(|head| {
            let id = lowered.maps[head.0].expect("a head's map is not the input");
            &arena[lowered.placement.range(id)]
        });
        Ok(Logits { heads: heads.collect() })
    }

    fn evaluate(
        &mut self,
        patch: &[f32],
        targets: &[Targets<'_>],
        options: &LossOptions,
        weights: &[f64],
    ) -> Result<Evaluation, NetError> {
        check_targets(self.program(), targets, weights, options)?;
        self.run_forward(patch, 0);
        let Present { program, lowered, .. } = self.present.as_ref().expect("a program was prepared");
        let arena = self.arena.values();
        let mut evaluation = Evaluation::default();
        for ((&head, &target), &weight) in program.heads.iter().zip(targets).zip(weights) {
            let shape = head_shape(program, head);
            let id = lowered.maps[head.0].expect("a head's map is not the input");
            let probabilities = lowered.probabilities.map_or(0..0, |id| lowered.placement.range(id));
            let [logits, probabilities] = views(arena, [lowered.placement.range(id), probabilities]);
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
        let program = self.program();
        assert!(program.mode.is_training(), "a step of a program of mode {:?}", program.mode);
        check_targets(program, targets, update.weights, update.loss)?;
        self.run_forward(patch, update.seed);
        let parameters = self.parameters.as_mut().expect("parameters were loaded");
        let Present { program, lowered, packed, state, .. } =
            self.present.as_mut().expect("a program was prepared");
        state.written.iter_mut().for_each(|w| *w = false);
        let arena = self.arena.values();
        let heads = |head: MapId| [lowered.maps[head.0], lowered.gradients[head.0]];
        let ranges = |head: MapId| heads(head).map(|id| id.map_or(0..0, |id| lowered.placement.range(id)));
        let loss = head_gradients(program, arena, ranges, targets, update);
        if !loss.total.is_finite() {
            return Ok(StepReport { loss, norm: f64::NAN, done: false });
        }
        let mut pass = Pass {
            cpu: self.cpu,
            kernels: self.kernels,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::program::Mode;
    use crate::spec::NetworkSpec;

    #[test]
    fn a_program_that_does_not_fit_leaves_the_present_one() -> Result<(), NetError> {
        let spec = NetworkSpec::plain(2, 2, &[(16, [3; 3], [1; 3]), (32, [3; 3], [2; 3])]);
        let mut engine = CpuEngine::new(Kernels::Auto, 1 << 20)?;
        let program = |size| Program::new(&spec, 1, [size; 3], Mode::Predict);
        let (small, large) = (program(16)?, program(32)?);
        let (of_small, of_large) = (engine.plan(&small), engine.plan(&large));
        let error = engine.prepare_within(&small, Some(of_small.total() - 1)).expect_err("a byte too few");
        assert!(matches!(error, NetError::Memory { .. }), "{error}");
        engine.prepare_within(&small, Some(of_small.total()))?;
        engine.load(Arc::new(Parameters::random(&spec, 0)?))?;
        // What is held does not count again.
        let held =
            of_small.maps + of_small.parameters + of_small.packed + of_small.scratch.min(of_large.scratch);
        let grows = of_large.total() - held;
        let refused = engine.prepare_within(&large, Some(grows - 1)).expect_err("a byte too few");
        let NetError::Memory { needed, free, plan } = refused else { panic!("{refused}") };
        assert_eq!((needed, free, plan), (grows, grows - 1, of_large));
        // The small one is still there.
        assert_eq!(engine.forward(&vec![0.5; small.values(Program::INPUT)])?.heads.len(), 1);
        engine.prepare_within(&large, Some(grows))?;
        // A smaller one needs its patch alone.
        engine.prepare_within(&small, Some(of_small.input))?;
        Ok(())
    }
}
