//! Plain loops, which the other engines are compared with.
//!
//! Every map is kept as its readers see it, in a vector of its own, and every step is written as its definition reads, on the
//! kernels' slow twins. With [`Rounding`] every map and every gradient of one is rounded where it is stored: what an engine of
//! that precision may be compared with. For small networks only.

mod attention;
mod backward;
mod forward;

use std::sync::Arc;

use glioseg_plan::free_memory;
use half::{bf16, f16};

use super::interface::{Engine, Evaluation, LayerTime, Logits, StepReport, Update};
use super::memory::MemoryPlan;
use super::shared::{add_head, check_targets, head_shape};
use crate::NetError;
use crate::loss::{self, Loss, LossOptions, Targets};
use crate::optimiser;
use crate::parameters::Parameters;
use crate::program::{MapId, Program};
use crate::shapes::{ParameterId, ParameterShape};

/// What is done to every value of a map that is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rounding {
    /// Nothing: single precision.
    #[default]
    None,
    /// Rounded to bfloat16.
    Bf16,
    /// Rounded to half precision.
    F16,
}

impl Rounding {
    fn round(self, values: &mut [f32]) {
        match self {
            Self::None => {}
            Self::Bf16 => values.iter_mut().for_each(|v| *v = bf16::from_f32(*v).to_f32()),
            Self::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
        }
    }
}

/// Plain loops in f32, or with every stored map rounded.
#[derive(Debug)]
pub struct ReferenceEngine {
    rounding: Rounding,
    program: Option<Program>,
    parameters: Option<Arc<Parameters>>,
    /// What readers of every map see.
    maps: Vec<Vec<f32>>,
    /// What the convolution or the attention of a map wrote, before its normalisation.
    raw: Vec<Vec<f32>>,
    /// Factors of dropout.
    masks: Vec<Vec<f32>>,
    /// Between the axes of attention.
    between: Vec<Vec<Vec<f32>>>,
    gradients: Vec<Option<Vec<f32>>>,
}

impl ReferenceEngine {
    /// An engine that rounds like this.
    pub fn new(rounding: Rounding) -> Self {
        Self {
            rounding,
            program: None,
            parameters: None,
            maps: vec![],
            raw: vec![],
            masks: vec![],
            between: vec![],
            gradients: vec![],
        }
    }

    fn store(&mut self, map: MapId, mut values: Vec<f32>) {
        self.rounding.round(&mut values);
        self.maps[map.0] = values;
    }

    fn ready(&self) -> (Program, Arc<Parameters>) {
        let program = self.program.clone().expect("a program was prepared");
        (program, self.parameters.clone().expect("parameters were loaded"))
    }

    fn set(&mut self, id: ParameterId, values: Vec<f32>) {
        if let Some(parameters) = &mut self.parameters {
            Arc::make_mut(parameters).set(id, values);
        }
    }
}

impl Engine for ReferenceEngine {
    fn kernels(&self) -> &'static str {
        super::Kernels::Reference.word()
    }

    fn plan(&self, program: &Program) -> MemoryPlan {
        let bytes = |values: usize| (values * size_of::<f32>()) as u64;
        let maps: usize = program.maps.iter().map(|m| program.batch * m.values()).sum();
        let training = program.mode.is_training();
        MemoryPlan {
            parameters: bytes(program.parameters.iter().map(ParameterShape::len).sum()),
            gradients: if training { bytes(program.num_parameters()) } else { 0 },
            // As written and as read; in training with their gradients.
            maps: bytes(maps) * if training { 3 } else { 2 },
            input: bytes(program.values(Program::INPUT)),
            ..MemoryPlan::default()
        }
    }

    fn prepare(&mut self, program: &Program) -> Result<MemoryPlan, NetError> {
        let plan = self.plan(program);
        if let Some(present) = &self.program
            && present == program
        {
            return Ok(plan);
        }
        let held = if self.parameters.is_some() { plan.parameters } else { 0 };
        plan.check(held + self.program.as_ref().map_or(0, |p| self.plan(p).maps), free_memory())?;
        self.release();
        self.program = Some(program.clone());
        Ok(plan)
    }

    fn load(&mut self, parameters: Arc<Parameters>) -> Result<(), NetError> {
        self.parameters = Some(parameters);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Arc<Parameters>, NetError> {
        Ok(self.parameters.clone().expect("parameters were loaded"))
    }

    fn forward(&mut self, patch: &[f32]) -> Result<Logits<'_>, NetError> {
        let (program, _) = self.ready();
        self.run_forward(patch, 0);
        Ok(Logits { heads: program.heads.iter().map(|head| self.maps[head.0].as_slice()).collect() })
    }

    fn evaluate(
        &mut self,
        patch: &[f32],
        targets: &[Targets<'_>],
        options: &LossOptions,
        weights: &[f64],
    ) -> Result<Evaluation, NetError> {
        let (program, _) = self.ready();
        check_targets(&program, targets, weights, options)?;
        self.run_forward(patch, 0);
        let mut evaluation = Evaluation::default();
        for ((&head, &target), &weight) in program.heads.iter().zip(targets).zip(weights) {
            let logits = self.maps[head.0].as_slice();
            let mut scratch = vec![0.0; logits.len()];
            let shape = head_shape(&program, head);
            add_head(&mut evaluation, (logits, shape), (target, weight), options, &mut scratch);
        }
        Ok(evaluation)
    }

    fn step(
        &mut self,
        patch: &[f32],
        targets: &[Targets<'_>],
        update: &Update<'_>,
    ) -> Result<StepReport, NetError> {
        let (program, parameters) = self.ready();
        assert!(program.mode.is_training(), "a step of a program of mode {:?}", program.mode);
        check_targets(&program, targets, update.weights, update.loss)?;
        drop(parameters);
        self.run_forward(patch, update.seed);
        let (program, parameters) = self.ready();
        let mut of_maps: Vec<Vec<f32>> = vec![vec![]; program.maps.len()];
        let mut sum = Loss::default();
        for (&head, &level) in program.heads.iter().zip(&program.levels) {
            let logits = &self.maps[head.0];
            let mut gradient = vec![0.0; logits.len()];
            let (shape, weight) = (head_shape(&program, head), update.weights[level]);
            let target = targets[level];
            sum.add(loss::head_gradient(logits, target, shape, update.loss, weight, &mut gradient), weight);
            of_maps[head.0] = gradient;
        }
        self.gradients = vec![None; program.parameters.len()];
        if !sum.total.is_finite() {
            return Ok(StepReport { loss: sum, norm: f64::NAN, done: false });
        }
        self.run_backward(&program, &parameters, &mut of_maps);
        drop(parameters);
        let norm = optimiser::norm(self.gradients.iter().flatten().map(Vec::as_slice));
        let done = norm.is_finite();
        if let (true, Some(parameters)) = (done, &mut self.parameters) {
            let factor = update.clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
            let gradients = &self.gradients;
            Arc::make_mut(parameters)
                .update(update.optimiser, (update.lr, factor as f32), |id| gradients[id.0].as_deref());
        }
        Ok(StepReport { loss: sum, norm, done })
    }

    fn gradients(&mut self) -> Result<Vec<Option<Vec<f32>>>, NetError> {
        Ok(self.gradients.clone())
    }

    fn profile(&mut self, _: bool) {}

    fn take_layer_times(&mut self) -> Vec<LayerTime> {
        vec![]
    }

    fn release(&mut self) {
        *self = Self { parameters: self.parameters.take(), ..Self::new(self.rounding) };
    }
}
