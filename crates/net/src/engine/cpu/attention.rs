//! Axial attention in both directions.
//!
//! Outside training the axes share one map, which they change in place. In training the map between two axes is kept, two next to
//! the input; scores are never kept, the backward pass makes them again line by line.

use std::ops::Range;

use glioseg_kernels::{
    AxialCall, AxialGradients, AxialOutput, AxialWeights, Positions, axial_attention,
    axial_attention_backward, normalize, normalize_in_place, position_gradients,
};

use super::forward::{adds_behind, copy, join};
use super::lower::axial_shape;
use super::{Pass, views};
use crate::engine::norm::Deferred;
use crate::engine::state::add;
use crate::parameters::Parameters;
use crate::program::{Attention, BackwardStep, ParameterId};

impl Pass<'_> {
    /// Where attention's finished input lies.
    fn attended(&self, at: usize, step: &Attention) -> Range<usize> {
        match self.lowered.forward[at].finished[0] {
            Some(id) => self.lowered.placement.range(id),
            None => self.range(step.input),
        }
    }

    pub(super) fn attention(&mut self, at: usize, step: &Attention) {
        self.finish(at, 0, step.input);
        if self.lowered.forward[at].finished[0].is_none()
            && let Some(deferred) = self.state.deferred[step.input.0].take()
        {
            // Nobody else reads the map.
            self.finish_in_place(step.input, &deferred);
        }
        let timer = self.timer();
        let training = self.program.mode.is_training();
        let behind = adds_behind(step.norm.as_ref(), step.residual);
        let kept: Vec<Range<usize>> =
            self.lowered.forward[at].kept.iter().map(|&id| self.lowered.placement.range(id)).collect();
        let out = self.range(step.out);
        // What the last axis writes: in training the normalisation's gradient needs it.
        let last = if behind && training { kept[kept.len() - 1].clone() } else { out.clone() };
        let x = self.attended(at, step);
        let within = step.residual && step.norm.is_none();
        for axis in 0..3 {
            let output = match (step.sum, axis) {
                (true, 1 | 2) => AxialOutput::Add,
                _ => AxialOutput::Store,
            };
            let between = !step.sum && training;
            let from =
                if step.sum || axis == 0 { x.clone() } else { kept_or(&kept, between, axis - 1, &last) };
            let to = if between && axis < 2 { kept[axis].clone() } else { last.clone() };
            let skip = (within && !step.sum && axis == 2).then_some(&x);
            self.axis(step, axis, [from, to], output, skip);
        }
        if within && step.sum {
            let [x, out] = views(self.arena, [x.clone(), last.clone()]);
            add(x, out);
        }
        let shape = self.program.map(step.input);
        let flops = (0..3).map(|axis| axial_shape(self.program, step, axis).flops()).sum();
        timer.stop(&mut self.times, flops, 0, || {
            let (heads, dim) = (step.heads, step.dim_heads);
            format!("attention {} @ {}, {heads} heads of {dim}", shape.channels, join(shape.size))
        });
        let Some((norm, slope)) = &step.norm else { return };
        let deferred = self.deferred_at(norm, last.clone(), shape, None, *slope);
        if !behind {
            self.state.deferred[step.out.0] = Some(deferred);
            return;
        }
        let [x, inner, out] =
            views(self.arena, [x, if last == out { 0..0 } else { last.clone() }, out.clone()]);
        if training {
            normalize(self.cpu, inner, out, shape.voxels(), deferred.prologue());
            self.state.inner[step.out.0] = Some(deferred);
        } else {
            normalize_in_place(self.cpu, out, shape.voxels(), deferred.prologue());
        }
        add(x, out);
    }

    /// Attention along one axis, in place where `from` is `to`; `skip` is added.
    fn axis(
        &mut self,
        step: &Attention,
        axis: usize,
        [from, to]: [Range<usize>; 2],
        output: AxialOutput<'_>,
        skip: Option<&Range<usize>>,
    ) {
        let shape = axial_shape(self.program, step, axis);
        let (in_place, same) = (from == to, skip == Some(&from));
        let other = skip.filter(|_| !same).cloned().unwrap_or(0..0);
        let [from, to, other] = views(self.arena, [if in_place { 0..0 } else { from }, to, other]);
        let (from, other) = (&*from, &*other);
        let positions = (axis == 0 || step.sum).then(|| positions(self.parameters, step));
        let (weights, _) = axial_weights(self.parameters, step, axis);
        let input = (!in_place).then_some(from);
        let output = match skip {
            Some(_) => AxialOutput::StoreWith(if same { from } else { other }),
            None => output,
        };
        let call = AxialCall { shape: &shape, input, positions, weights: &weights };
        axial_attention(self.cpu, &call, output, to);
    }

    pub(super) fn attention_backward(&mut self, back: usize, of: &BackwardStep, step: &Attention) {
        let at = of.step;
        let x = self.attended(at, step);
        let kept: Vec<Range<usize>> =
            self.lowered.forward[at].kept.iter().map(|&id| self.lowered.placement.range(id)).collect();
        let own = &self.lowered.backward[back];
        let between = own.between.map(|id| self.buffer(id));
        let scratch = self.buffer(own.scratch);
        let result = self.buffer(own.results[0]);
        let of_out = self.gradient(step.out);
        let shape = self.program.map(step.input);
        // The gradient of what the last axis wrote.
        let mut from = of_out.clone();
        if adds_behind(step.norm.as_ref(), step.residual) {
            let inner: Deferred = self.state.inner[step.out.0].take().expect("kept by the forward pass");
            copy_to(self.arena, of_out.clone(), between[0].clone());
            let ranges = [kept[kept.len() - 1].clone(), between[0].clone()];
            self.norm_gradient(&inner, ranges, shape.voxels());
            from = between[0].clone();
        }
        for axis in (0..3).rev() {
            let output = if step.sum && axis < 2 { AxialOutput::Add } else { AxialOutput::Store };
            let to = match (step.sum, axis) {
                (true, _) | (false, 0) => result.clone(),
                (false, 2) => between[1].clone(),
                _ => between[0].clone(),
            };
            let input = if step.sum || axis == 0 { x.clone() } else { kept[axis - 1].clone() };
            self.axis_backward(step, axis, [input, from.clone(), to.clone(), scratch.clone()], output);
            if !step.sum {
                from = to;
            }
        }
        let found = position_gradients(&self.arena[result.clone()], shape.channels, shape.size);
        for (id, part) in step.positions.into_iter().zip(found) {
            self.state.add_gradient(id, &part);
        }
        if step.residual {
            let [result, of_out] = views(self.arena, [result, of_out]);
            add(of_out, result);
        }
        self.deliver(back, 0, step.input, of.meetings[0]);
    }

    fn axis_backward(
        &mut self,
        step: &Attention,
        axis: usize,
        ranges: [Range<usize>; 4],
        output: AxialOutput<'_>,
    ) {
        let shape = axial_shape(self.program, step, axis);
        let [input, grad, result, scratch] = views(self.arena, ranges);
        let positions = (axis == 0 || step.sum).then(|| positions(self.parameters, step));
        let (weights, ids) = axial_weights(self.parameters, step, axis);
        let call = AxialCall { shape: &shape, input: Some(input), positions, weights: &weights };
        let AxialGradients { q, kv, out, bias } =
            axial_attention_backward(self.cpu, &call, grad, output, result, scratch);
        for (id, part) in ids.into_iter().zip([q, kv, out, bias]) {
            self.state.add_gradient(id, &part);
        }
    }
}

pub(in crate::engine) fn positions<'a>(parameters: &'a Parameters, step: &Attention) -> Positions<'a> {
    step.positions.map(|id| parameters.values(id))
}

pub(in crate::engine) fn axial_weights<'a>(
    parameters: &'a Parameters,
    step: &Attention,
    axis: usize,
) -> (AxialWeights<'a>, [ParameterId; 4]) {
    let axis = step.axes[axis];
    let ids = [axis.q, axis.kv, axis.out, axis.bias];
    let [q, kv, out, bias] = ids.map(|id| parameters.values(id));
    (AxialWeights { q, kv, out, bias }, ids)
}

/// The map that an axis reads: the one that the axis before wrote.
fn kept_or(kept: &[Range<usize>], between: bool, at: usize, last: &Range<usize>) -> Range<usize> {
    if between { kept[at].clone() } else { last.clone() }
}

/// `to = from`, if they are not the same place.
pub(super) fn copy_to(arena: &mut [f32], from: Range<usize>, to: Range<usize>) {
    if from != to {
        let [from, to] = views(arena, [from, to]);
        copy(from, to);
    }
}
