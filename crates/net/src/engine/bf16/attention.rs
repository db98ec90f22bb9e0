//! Axial attention, by way of single precision and the kernels of the other engine of the CPU.
//!
//! Nothing of it is kept for the backward pass, which makes the maps between the axes again.

use std::ops::Range;

use glioseg_kernels::{
    AxialCall, AxialGradients, AxialOutput, NormCall, NormGradients, TileSource, axial_attention,
    axial_attention_backward, bf16_view, bf16_view_mut, channel_stats, norm_backward, normalize_in_place,
    position_gradients, tile_from_planar, tile_to_planar,
};

use super::Pass;
use super::forward::source;
use crate::engine::cpu::{adds_behind, axial_shape, axial_weights, join, positions};
use crate::engine::norm::reads_statistics;
use crate::engine::shared::views;
use crate::engine::state::add;
use crate::program::{Attention, BackwardStep, Meeting};

impl Pass<'_> {
    /// Puts the finished input of an attention, `[n, c, z, y, x]`, into its place.
    fn attended(&mut self, at: usize, step: &Attention, to: Range<usize>) {
        let shape = self.program.map(step.input);
        let input = self.read_from(at, step.input);
        let [input, x] = views(self.arena, [input, to]);
        let deferred = self.state.deferred[step.input.0].as_ref();
        let source = source(input, self.program.values(step.input), shape.channels, deferred);
        tile_to_planar(&source, shape.voxels(), x);
    }

    /// Attention along one axis, in place where `from` is `to`.
    fn axis(
        &mut self,
        step: &Attention,
        axis: usize,
        [from, to]: [Range<usize>; 2],
        output: AxialOutput<'_>,
    ) {
        let shape = axial_shape(self.program, step, axis);
        let in_place = from == to;
        let [from, to] = views(self.arena, [if in_place { 0..0 } else { from }, to]);
        let positions = (axis == 0 || step.sum).then(|| positions(self.parameters, step));
        let (weights, _) = axial_weights(self.parameters, step, axis);
        let input = (!in_place).then_some(&*from);
        axial_attention(
            self.cpu,
            &AxialCall { shape: &shape, input, positions, weights: &weights },
            output,
            to,
        );
    }

    pub(super) fn attention(&mut self, at: usize, step: &Attention) {
        let timer = self.timer();
        let shape = self.program.map(step.input);
        let (channels, voxels, len) = (shape.channels, shape.voxels(), self.program.values(step.input));
        let [x, y] = self.lowered.steps[at].planar.map(|id| self.lowered.buffer(id));
        self.attended(at, step, x.clone());
        let behind = adds_behind(step.norm.as_ref(), step.residual);
        for axis in 0..3 {
            let from = if step.sum || axis == 0 { x.clone() } else { y.clone() };
            let output = if step.sum && axis > 0 { AxialOutput::Add } else { AxialOutput::Store };
            self.axis(step, axis, [from, y.clone()], output);
        }
        let flops = (0..3).map(|axis| axial_shape(self.program, step, axis).flops()).sum();
        let mut deferred = None;
        if let Some((norm, slope)) = &step.norm {
            let stats = reads_statistics(self.program, norm)
                .then(|| channel_stats(self.cpu, &self.arena[y.clone()], channels, voxels));
            deferred = Some(self.normalisation(norm, channels, *slope, stats));
        }
        let [x, y, out] = views(self.arena, [x, y, self.lowered.range(step.out)]);
        if let (true, Some(deferred)) = (behind, &deferred) {
            normalize_in_place(self.cpu, y, voxels, deferred.prologue());
        }
        if step.residual {
            add(x, y);
        }
        tile_from_planar(y, [channels, voxels], &mut bf16_view_mut(out)[..len]);
        let place = if behind { &mut self.state.inner } else { &mut self.state.deferred };
        place[step.out.0] = deferred;
        timer.stop(&mut self.times, flops, 0, || {
            let (heads, dim) = (step.heads, step.dim_heads);
            format!("attention {channels} @ {}, {heads} heads of {dim}", join(shape.size))
        });
    }

    pub(super) fn attention_backward(&mut self, back: usize, of: &BackwardStep, step: &Attention) {
        self.lead_back(step.out);
        let own = &self.lowered.backward[back];
        let buffers = own.attention.expect("buffers of an attention");
        let place = |id| self.lowered.placement.range(id);
        let (x, kept, grad) = (place(buffers.x), buffers.kept.map(place), place(buffers.grad));
        let (between, result) = (buffers.between.map(place), place(buffers.result));
        let scratch = self.lowered.buffer(own.scratch);
        let shape = self.program.map(step.input);
        let (channels, voxels, len) = (shape.channels, shape.voxels(), self.program.values(step.out));
        let behind = adds_behind(step.norm.as_ref(), step.residual);
        self.attended(of.step, step, x.clone());
        self.make_again(step, &x, &kept, behind);
        let [of_out, planar] = views(self.arena, [self.lowered.gradient(step.out), grad.clone()]);
        tile_to_planar(&TileSource::plain(&bf16_view(of_out)[..len], channels), voxels, planar);
        // The gradient of what the last axis wrote.
        let mut from = grad.clone();
        if behind {
            let inner = self.state.inner[step.out.0].take().expect("kept by the forward pass");
            let source = inner.source.as_ref().expect("a normalisation");
            let [x, grad, copy] = views(self.arena, [kept[2].clone(), grad.clone(), between[0].clone()]);
            copy.copy_from_slice(grad);
            let call = NormCall {
                x,
                voxels,
                kind: source.kind,
                moments: &source.moments,
                gamma: &source.gamma,
                beta: &source.beta,
                eps: source.norm.spec.eps,
                slope: inner.slope,
            };
            let NormGradients { gamma, beta } = norm_backward(self.cpu, &call, copy);
            if let Some(affine) = source.norm.affine {
                self.state.add_gradient(affine[0], &gamma);
                self.state.add_gradient(affine[1], &beta);
            }
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
        let found = position_gradients(&self.arena[result.clone()], channels, shape.size);
        for (id, part) in step.positions.into_iter().zip(found) {
            self.state.add_gradient(id, &part);
        }
        let meeting = of.meetings[0];
        if meeting == Meeting::Unused {
            return;
        }
        let target = self.lowered.gradient(step.input);
        let [grad, before, result, target] = views(self.arena, [grad, between[1].clone(), result, target]);
        let target = &mut bf16_view_mut(target)[..len];
        if step.residual {
            add(grad, result);
        }
        if meeting == Meeting::Add {
            tile_to_planar(&TileSource::plain(target, channels), voxels, before);
            add(before, result);
        }
        tile_from_planar(result, [channels, voxels], target);
    }

    /// What the axes wrote: the last one only where a normalisation follows that needs it.
    fn make_again(&mut self, step: &Attention, x: &Range<usize>, kept: &[Range<usize>; 3], last: bool) {
        if step.sum {
            for axis in (0..3).filter(|_| last) {
                let output = if axis > 0 { AxialOutput::Add } else { AxialOutput::Store };
                self.axis(step, axis, [x.clone(), kept[2].clone()], output);
            }
            return;
        }
        for axis in 0..if last { 3 } else { 2 } {
            let from = if axis == 0 { x } else { &kept[axis - 1] };
            self.axis(step, axis, [from.clone(), kept[axis].clone()], AxialOutput::Store);
        }
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
