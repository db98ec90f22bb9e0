//! A training step: loss, backward pass and update, all on the machine; numbers come back.

use std::ops::Range;

use glioseg_cuda::launch::{LossRule, LossTarget};
use glioseg_cuda::{Element, Launch};
use half::{bf16, f16};

use super::CudaEngine;
use super::layout::Region;
use super::lower::{Lowered, OfHead};
use crate::NetError;
use crate::engine::interface::{StepReport, Update};
use crate::engine::shared::check_targets;
use crate::loss::{DiceForm, Loss, LossOptions, Targets};
use crate::optimiser::OptimiserOptions;
use crate::program::{ParameterId, Program};

/// The values of bytes that a machine has.
pub(super) fn decode(bytes: &[u8], element: Element) -> Vec<f32> {
    match element {
        Element::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_ne_bytes(b)).collect(),
        Element::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_ne_bytes(b).to_f32()).collect(),
        Element::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_ne_bytes(b).to_f32()).collect(),
    }
}

/// Neighbouring parameters of a region that are changed alike: their values, and the steps that were taken.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    region: Region,
    range: Range<usize>,
    steps: u64,
}

impl CudaEngine {
    pub(super) fn train(
        &mut self,
        patch: &[f32],
        targets: &[Targets<'_>],
        update: &Update<'_>,
    ) -> Result<StepReport, NetError> {
        let program = self.program.clone().expect("a program was prepared");
        assert!(program.mode.is_training(), "a step of a program of mode {:?}", program.mode);
        check_targets(&program, targets, update.weights, update.loss)?;
        let (program, lowered) = self.run_forward(patch, update.seed)?;
        let present = self.optimiser.unwrap_or(update.optimiser);
        assert_eq!(present, update.optimiser, "constants of the optimiser");
        self.losses(&program, &lowered, targets, update)?;
        self.run(&lowered.backward)?;
        let runs = self.runs(&lowered);
        self.lengths(&lowered, &runs, update.clip)?;
        self.update(&lowered, &runs, update)?;
        self.newer = true;
        let report = self.report(&program, &lowered, update)?;
        if report.done {
            self.optimiser = Some(update.optimiser);
            let trained = program.parameters.iter().enumerate().filter(|(_, shape)| shape.trained);
            for (steps, (i, _)) in self.steps.iter_mut().zip(trained) {
                *steps += u64::from(lowered.trained.contains(&ParameterId(i)));
            }
        }
        Ok(report)
    }

    /// Targets up, losses and gradients of the logits.
    fn losses(
        &mut self,
        program: &Program,
        lowered: &Lowered,
        targets: &[Targets<'_>],
        update: &Update<'_>,
    ) -> Result<(), NetError> {
        for (i, (head, &level)) in lowered.heads.iter().zip(&program.levels).enumerate() {
            let (bytes, target) = target(head, targets[level], update.loss);
            self.machine.write(head.target.part(0, bytes.len()), &bytes)?;
            let rule = rule(update.loss, update.weights[level]);
            let OfHead { logits, gradient, part, sums, terms, .. } = head;
            let loss = lowered.fixed.losses.part(i * 24, 24);
            let launches = [
                Launch::loss(logits, target, *gradient, *part),
                Launch::loss_terms(logits, target, &rule, [*part, *sums], [*terms, loss]),
                Launch::loss_gradient(logits, target, *terms, *gradient),
            ];
            for launch in launches {
                self.machine.launch(&launch)?;
            }
        }
        Ok(())
    }

    /// The parameters that have a gradient, as long pieces as there are.
    fn runs(&self, lowered: &Lowered) -> Vec<Run> {
        let mut runs: Vec<Run> = vec![];
        let shapes = self.parameters.as_ref().expect("parameters were loaded").shapes();
        let mut trained = 0;
        for (i, place) in lowered.layout.places.iter().enumerate() {
            let at = trained;
            trained += usize::from(shapes[i].trained);
            if !lowered.trained.contains(&ParameterId(i)) {
                continue;
            }
            let run = Run { region: place.region, range: place.range.clone(), steps: self.steps[at] };
            runs.push(run);
        }
        runs.sort_by_key(|run| (run.region as usize, run.range.start));
        let mut joined: Vec<Run> = vec![];
        for run in runs {
            match joined.last_mut() {
                // The gap between two is padding, which is 0.
                Some(last)
                    if last.region == run.region
                        && last.steps == run.steps
                        && run.range.start - last.range.end < super::layout::ALIGNMENT =>
                {
                    last.range.end = run.range.end;
                }
                _ => joined.push(run),
            }
        }
        joined
    }

    /// The length of all gradients, and what an update makes of it.
    fn lengths(&mut self, lowered: &Lowered, runs: &[Run], clip: Option<f64>) -> Result<(), NetError> {
        let fixed = &lowered.fixed;
        let mut parts = 0;
        for run in runs {
            let count = Launch::square_parts(run.range.len());
            let (gradient, element) = self.gradient(lowered, run);
            let room = fixed.squares.part(parts * 8, count * 8);
            self.machine.launch(&Launch::squares(gradient, element, run.range.len(), room))?;
            parts += count;
        }
        let (squares, losses) = ((fixed.squares, parts), (fixed.losses, lowered.heads.len()));
        let total = Launch::norm_total(squares, losses, fixed.control, fixed.norm, clip, 1.0);
        Ok(self.machine.launch(&total)?)
    }

    fn gradient(&self, lowered: &Lowered, run: &Run) -> (glioseg_cuda::Slice, Element) {
        let (which, element) = match run.region {
            Region::Matrices => (0, self.element),
            Region::Vectors | Region::Kept => (1, Element::F32),
        };
        let bytes = element.bytes();
        let slice = lowered.fixed.gradients[which];
        (slice.part(run.range.start * bytes, run.range.len() * bytes), element)
    }

    fn update(&mut self, lowered: &Lowered, runs: &[Run], update: &Update<'_>) -> Result<(), NetError> {
        let fixed = &lowered.fixed;
        for run in runs {
            let region = run.region as usize;
            let (len, start) = (run.range.len(), run.range.start);
            let of = |slice: glioseg_cuda::Slice| slice.part(start * 4, len * 4);
            let (weights, kept) = (of(fixed.weights[region]), fixed.kept.map(|kept| of(kept[region])));
            let (gradient, element) = self.gradient(lowered, run);
            let bytes = element.bytes();
            let copy = (run.region == Region::Matrices).then(|| fixed.copy.part(start * bytes, len * bytes));
            let small = [fixed.control, fixed.hyper];
            let (hyper, launch) = match update.optimiser {
                OptimiserOptions::Sgd { momentum, nesterov, weight_decay } => {
                    let flag = |on: bool| f64::from(u8::from(on));
                    let hyper = vec![update.lr, momentum, weight_decay, flag(nesterov), flag(run.steps == 0)];
                    (hyper, Launch::sgd([weights, kept[0]], (gradient, element), copy, small, len))
                }
                OptimiserOptions::AdamW { beta1, beta2, eps, weight_decay } => {
                    let [first, second] = [beta1, beta2].map(|b| 1.0 - b.powf((run.steps + 1) as f64));
                    let shrink = 1.0 - update.lr * weight_decay;
                    let hyper = vec![beta1, beta2, eps, update.lr / first, second.sqrt(), shrink];
                    let all = [weights, kept[0], kept[1]];
                    (hyper, Launch::adamw(all, (gradient, element), copy, small, len))
                }
            };
            let hyper: Vec<f32> = hyper.into_iter().map(|v| v as f32).collect();
            self.write(fixed.hyper, &hyper)?;
            self.machine.launch(&launch)?;
        }
        Ok(())
    }

    fn report(
        &mut self,
        program: &Program,
        lowered: &Lowered,
        update: &Update<'_>,
    ) -> Result<StepReport, NetError> {
        let mut bytes = vec![0; lowered.heads.len() * 24];
        self.machine.read(lowered.fixed.losses.part(0, bytes.len()), &mut bytes)?;
        let values: Vec<f64> = bytes.as_chunks().0.iter().map(|&b| f64::from_ne_bytes(b)).collect();
        let mut loss = Loss::default();
        for (&[total, dice, voxel], &level) in values.as_chunks().0.iter().zip(&program.levels) {
            loss.add(Loss { total, dice, voxel }, update.weights[level]);
        }
        let mut norm = [0; 8];
        self.machine.read(lowered.fixed.norm.part(0, 8), &mut norm)?;
        let control = self.read(lowered.fixed.control)?;
        let norm = if loss.total.is_finite() { f64::from_ne_bytes(norm) } else { f64::NAN };
        Ok(StepReport { loss, norm, done: control[1] > 0.0 })
    }
}

fn rule(options: &LossOptions, weight: f64) -> LossRule {
    LossRule {
        dice_weight: options.dice_weight,
        voxel_weight: options.voxel_weight,
        smooth: options.smooth,
        weight,
        batch_dice: options.batch_dice,
        background: options.background,
        v1: options.form == DiceForm::V1,
    }
}

/// A target as a machine has it.
fn target(head: &OfHead, target: Targets<'_>, options: &LossOptions) -> (Vec<u8>, LossTarget) {
    match target {
        Targets::Labels(labels) => (
            labels.iter().flat_map(|label| label.to_ne_bytes()).collect(),
            LossTarget::Labels { at: head.target, ignored: options.ignore_label },
        ),
        Targets::Regions(regions) => (
            regions.to_vec(),
            LossTarget::Regions { at: head.target, ignoring: options.ignore_label.is_some() },
        ),
    }
}
