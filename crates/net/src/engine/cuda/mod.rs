//! The engine of NVIDIA GPUs: a program lowered to launches and convolutions over one memory.
//!
//! `Lowered` is pure: what is started, on which places of the memory, how much memory there is, all known before
//! anything runs. A [`Machine`] runs it. Maps are channels last with channels padded to groups of 8, in the engine's precision;
//! weights, statistics, sums and losses are in f32 or f64.

mod layout;
mod lower;
mod step;

use std::sync::Arc;

use glioseg_cuda::{Convolution, Element, Machine, Slice};

use self::layout::{Region, Role};
use self::lower::{Lowered, Work};
use super::interface::{Engine, Evaluation, LayerTime, Logits, StepReport, Update};
use super::memory::MemoryPlan;
use super::shared::{add_head, check_targets, dropout_factors, head_shape, layer_seed};
use crate::NetError;
use crate::loss::{LossOptions, Targets};
use crate::optimiser::{Optimiser, OptimiserOptions};
use crate::parameters::Parameters;
use crate::program::{ParameterId, Program};

/// All convolutions that a GPU computes for a program with maps of `element`, in their order.
///
/// # Errors
/// [`NetError::Spec`] if GPUs lack something that the program needs.
pub fn convolutions(program: &Program, element: Element) -> Result<Vec<Convolution>, NetError> {
    Ok(Lowered::new(program, element)?.convolutions().copied().collect())
}

/// Runs programs on a machine.
#[derive(Debug)]
pub struct CudaEngine {
    machine: Box<dyn Machine>,
    element: Element,
    program: Option<Program>,
    lowered: Option<Lowered>,
    parameters: Option<Arc<Parameters>>,
    /// The machine has the parameters.
    there: bool,
    /// The machine's are newer.
    newer: bool,
    /// Steps of every trained parameter, in their order.
    steps: Vec<u64>,
    optimiser: Option<OptimiserOptions>,
    logits: Vec<Vec<f32>>,
}

impl CudaEngine {
    /// An engine on a machine, with maps of `element`.
    pub fn new(machine: Box<dyn Machine>, element: Element) -> Self {
        Self {
            machine,
            element,
            program: None,
            lowered: None,
            parameters: None,
            there: false,
            newer: false,
            steps: vec![],
            optimiser: None,
            logits: vec![],
        }
    }

    fn ready(&self) -> (Program, Lowered) {
        let program = self.program.clone().expect("a program was prepared");
        (program, self.lowered.clone().expect("a program was prepared"))
    }

    fn read(&mut self, from: Slice) -> Result<Vec<f32>, NetError> {
        let mut bytes = vec![0; from.bytes()];
        self.machine.read(from, &mut bytes)?;
        Ok(bytes.as_chunks().0.iter().map(|&b| f32::from_ne_bytes(b)).collect())
    }

    fn write(&mut self, to: Slice, values: &[f32]) -> Result<(), NetError> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
        Ok(self.machine.write(to.part(0, bytes.len()), &bytes)?)
    }

    fn run(&mut self, work: &[Work]) -> Result<(), NetError> {
        for work in work {
            match work {
                Work::Launch(launch) => self.machine.launch(launch)?,
                Work::Product(product) => self.machine.convolve(product)?,
                Work::Clear(slice) => self.machine.clear(*slice)?,
            }
        }
        Ok(())
    }

    /// Brings the parameters to the machine, unless it has them.
    fn send(&mut self, lowered: &Lowered) -> Result<(), NetError> {
        if self.there {
            return Ok(());
        }
        let parameters = self.parameters.clone().expect("parameters were loaded");
        let mut regions = lowered.layout.len.map(|len| vec![0f32; len]);
        for (place, (_, values)) in lowered.layout.places.iter().zip(parameters.iter()) {
            pack(&place.role, values, &mut regions[place.region as usize][place.range.clone()]);
        }
        for (slice, values) in lowered.fixed.weights.into_iter().zip(&regions) {
            self.write(slice, values)?;
        }
        let matrices = lowered.layout.len[0];
        if matrices > 0 {
            let [weights, ..] = lowered.fixed.weights;
            let copy = glioseg_cuda::Launch::copy(weights, lowered.fixed.copy, self.element, matrices);
            self.machine.launch(&copy)?;
        }
        if lowered.fixed.kept[0][0].bytes() + lowered.fixed.kept[0][1].bytes() > 0 {
            self.send_optimiser(lowered, &parameters)?;
        }
        (self.there, self.newer) = (true, false);
        Ok(())
    }

    fn send_optimiser(&mut self, lowered: &Lowered, parameters: &Parameters) -> Result<(), NetError> {
        let trained = parameters.shapes().iter().filter(|shape| shape.trained).count();
        self.optimiser = parameters.optimiser().map(Optimiser::options);
        self.steps = parameters.optimiser().map_or_else(|| vec![0; trained], Optimiser::steps);
        for gradients in lowered.fixed.gradients {
            self.machine.clear(gradients)?;
        }
        let [matrices, vectors, _] = lowered.layout.len;
        for (which, slices) in lowered.fixed.kept.into_iter().enumerate() {
            let mut regions = [matrices, vectors].map(|len| vec![0f32; len]);
            if let Some(optimiser) = parameters.optimiser() {
                for (at, id) in trained_ids(parameters).enumerate() {
                    let place = &lowered.layout.places[id.0];
                    if let Some(values) = optimiser.kept(at).1.get(which) {
                        let region = &mut regions[place.region as usize];
                        pack(&place.role, values, &mut region[place.range.clone()]);
                    }
                }
            }
            for (slice, values) in slices.into_iter().zip(&regions) {
                self.write(slice, values)?;
            }
        }
        Ok(())
    }

    /// Brings newer parameters back.
    fn fetch(&mut self) -> Result<(), NetError> {
        if !self.newer {
            return Ok(());
        }
        let (_, lowered) = self.ready();
        let mut regions = vec![];
        for slice in lowered.fixed.weights {
            regions.push(self.read(slice)?);
        }
        let mut kept = vec![];
        for slices in lowered.fixed.kept {
            kept.push([self.read(slices[0])?, self.read(slices[1])?]);
        }
        let mut parameters = self.parameters.clone().expect("parameters were loaded");
        let new = Arc::make_mut(&mut parameters);
        for (i, place) in lowered.layout.places.iter().enumerate() {
            let values = &regions[place.region as usize][place.range.clone()];
            new.set(ParameterId(i), unpack(&place.role, values));
        }
        if let Some(options) = self.optimiser {
            let mut optimiser = Optimiser::new(options, new.shapes());
            for (at, id) in trained_ids(new).enumerate() {
                let place = &lowered.layout.places[id.0];
                let values = |which: usize| {
                    let region: &Vec<f32> = &kept[which][place.region as usize];
                    unpack(&place.role, &region[place.range.clone()])
                };
                if self.steps[at] > 0 {
                    optimiser.set_kept(at, self.steps[at], (0..options.kept().len()).map(values).collect());
                }
            }
            new.set_optimiser(Some(optimiser));
        }
        (self.parameters, self.newer) = (Some(parameters), false);
        Ok(())
    }

    fn run_forward(&mut self, patch: &[f32], seed: u64) -> Result<(Program, Lowered), NetError> {
        let (program, lowered) = self.ready();
        assert_eq!(patch.len(), program.values(Program::INPUT), "values of a patch");
        self.send(&lowered)?;
        self.write(lowered.fixed.patch, patch)?;
        for mask in &lowered.masks {
            let factors = dropout_factors(mask.p, mask.rows, layer_seed(seed, mask.step));
            self.write(mask.at, &factors)?;
        }
        self.run(&lowered.forward)?;
        // Running statistics may have changed.
        self.newer |= program.mode.is_training();
        Ok((program, lowered))
    }

    /// Logits of all heads to the host.
    fn fetch_logits(&mut self, lowered: &Lowered) -> Result<(), NetError> {
        self.logits.clear();
        for head in &lowered.heads {
            let logits = self.read(head.logits.at)?;
            self.logits.push(logits);
        }
        Ok(())
    }
}

fn trained_ids(parameters: &Parameters) -> impl Iterator<Item = ParameterId> {
    let trained = parameters.shapes().iter().enumerate().filter(|(_, shape)| shape.trained);
    trained.map(|(i, _)| ParameterId(i))
}

fn pack(role: &Role, values: &[f32], to: &mut [f32]) {
    match role {
        Role::Matrix(matrix) | Role::Head(matrix) => matrix.pack(values, to),
        Role::Vector => to.copy_from_slice(values),
    }
}

fn unpack(role: &Role, values: &[f32]) -> Vec<f32> {
    match role {
        Role::Matrix(matrix) | Role::Head(matrix) => matrix.unpack(values),
        Role::Vector => values.to_vec(),
    }
}

impl Engine for CudaEngine {
    fn kernels(&self) -> &'static str {
        "cuda"
    }

    fn plan(&self, program: &Program) -> MemoryPlan {
        Lowered::new(program, self.element).map_or_else(|_| MemoryPlan::default(), |l| memory(&l, program))
    }

    fn prepare(&mut self, program: &Program) -> Result<MemoryPlan, NetError> {
        if let (Some(present), Some(lowered)) = (&self.program, &self.lowered)
            && present == program
        {
            return Ok(memory(lowered, program));
        }
        self.fetch()?;
        let lowered = Lowered::new(program, self.element)?;
        let plan = memory(&lowered, program);
        self.release();
        plan.check(0, self.machine.free())?;
        self.machine.reserve(lowered.bytes)?;
        (self.program, self.lowered) = (Some(program.clone()), Some(lowered));
        Ok(plan)
    }

    fn load(&mut self, parameters: Arc<Parameters>) -> Result<(), NetError> {
        self.parameters = Some(parameters);
        (self.there, self.newer) = (false, false);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Arc<Parameters>, NetError> {
        self.fetch()?;
        Ok(self.parameters.clone().expect("parameters were loaded"))
    }

    fn forward(&mut self, patch: &[f32]) -> Result<Logits<'_>, NetError> {
        let (_, lowered) = self.run_forward(patch, 0)?;
        self.fetch_logits(&lowered)?;
        Ok(Logits { heads: self.logits.iter().map(Vec::as_slice).collect() })
    }

    fn evaluate(
        &mut self,
        patch: &[f32],
        targets: &[Targets<'_>],
        options: &LossOptions,
        weights: &[f64],
    ) -> Result<Evaluation, NetError> {
        let program = self.program.clone().expect("a program was prepared");
        check_targets(&program, targets, weights, options)?;
        let (program, lowered) = self.run_forward(patch, 0)?;
        self.fetch_logits(&lowered)?;
        let mut evaluation = Evaluation::default();
        let heads = program.heads.iter().zip(&self.logits).zip(targets).zip(weights);
        for (((&head, logits), &target), &weight) in heads {
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
        self.train(patch, targets, update)
    }

    fn gradients(&mut self) -> Result<Vec<Option<Vec<f32>>>, NetError> {
        let (program, lowered) = self.ready();
        let mut found = vec![None; program.parameters.len()];
        for id in &lowered.trained {
            let place = &lowered.layout.places[id.0];
            let (which, element) = match place.region {
                Region::Matrices => (0, self.element),
                Region::Vectors | Region::Kept => (1, Element::F32),
            };
            let bytes = element.bytes();
            let at =
                lowered.fixed.gradients[which].part(place.range.start * bytes, place.range.len() * bytes);
            let mut raw = vec![0; at.bytes()];
            self.machine.read(at, &mut raw)?;
            found[id.0] = Some(unpack(&place.role, &step::decode(&raw, element)));
        }
        Ok(found)
    }

    fn profile(&mut self, _: bool) {}

    fn take_layer_times(&mut self) -> Vec<LayerTime> {
        vec![]
    }

    fn release(&mut self) {
        // What cannot be fetched is lost with the memory; a caller that wants it has asked for it.
        (self.program, self.lowered, self.there, self.newer) = (None, None, false, false);
    }
}

/// Parameters with what an optimiser keeps of them, their gradients, and everything else.
fn memory(lowered: &Lowered, program: &Program) -> MemoryPlan {
    let fixed = &lowered.fixed;
    let bytes = |slices: &[Slice]| slices.iter().map(|slice| slice.bytes() as u64).sum::<u64>();
    let parameters = bytes(&fixed.weights) + bytes(&[fixed.copy]) + bytes(fixed.kept.as_flattened());
    let gradients = bytes(&fixed.gradients);
    let input = (program.values(Program::INPUT) * size_of::<f32>()) as u64;
    let maps = (lowered.bytes as u64).saturating_sub(parameters + gradients);
    MemoryPlan { parameters, gradients, maps, packed: 0, scratch: 0, input }
}
