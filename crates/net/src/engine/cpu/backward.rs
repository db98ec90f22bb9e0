//! The backward pass.
//!
//! A layer is a function of what the layer before *wrote*, of that layer's factor and offset, and of its own parameters: so one
//! map per layer is kept, and next to it only means and variances. A map that several layers read gets its normalisation's
//! gradient in parts, which is linear.

use std::ops::Range;

use glioseg_kernels::{
    Algorithm, ConvShape, NormCall, NormGradients, PackedBackwardData, PackedConv, Source,
    avg_pool3d_backward, bias_gradient, conv3d, conv3d_backward_data, conv3d_backward_weights, norm_backward,
};
use rayon::prelude::*;

use super::attention::copy_to;
use super::forward::scale_channels;
use super::lower::{conv_shape, transposed_shape};
use super::norm::source;
use super::{Pass, views};
use crate::engine::norm::Deferred;
use crate::engine::state::{CHUNK, add};
use crate::program::{AddActivate, BackwardStep, Block, Conv, MapId, Meeting, Pool, Program, Step, Up};

impl Pass<'_> {
    pub(super) fn backward(&mut self) {
        for (back, of) in self.program.backward.iter().enumerate() {
            match &self.program.forward[of.step] {
                Step::Block(step) => {
                    self.before_convolution(step);
                    self.convolution(back, of, &step.conv, &step.inputs, step.out);
                }
                Step::Head(step) => self.convolution(back, of, &step.conv, &[step.input], step.out),
                Step::Up(step) => self.up_backward(back, of, step),
                Step::AddActivate(step) => self.add_backward(back, of, step),
                Step::Pool(step) => self.pool_backward(back, of, step),
                Step::Attention(step) => self.attention_backward(back, of, step),
                Step::UpBlock(_) => unreachable!("a step outside training"),
            }
        }
    }

    /// What an activation before the normalisation, and dropout, do to the gradient of what a convolution wrote.
    fn before_convolution(&mut self, step: &Block) {
        if let (true, Some(slope), Some(_)) =
            (step.epilogue.nonlin_first, step.epilogue.slope, step.epilogue.norm)
        {
            let [values, grad] = views(self.arena, [self.range(step.out), self.gradient(step.out)]);
            through_activation(values, slope, grad);
        }
        let range = self.gradient(step.out);
        if let Some(mask) = self.state.masks[step.out.0].take() {
            scale_channels(&mut self.arena[range], &mask);
        }
    }

    fn convolution(&mut self, back: usize, of: &BackwardStep, conv: &Conv, inputs: &[MapId], out: MapId) {
        let program = self.program;
        let channels: Vec<usize> = inputs.iter().map(|&i| program.map(i).channels).collect();
        let shape = conv_shape(program, conv, channels.iter().sum(), inputs[0], out);
        self.parameter_gradients(back, conv, &shape, inputs, out);
        let mut first = 0;
        for (i, (&input, &count)) in inputs.iter().zip(&channels).enumerate() {
            if of.meetings[i] != Meeting::Unused {
                let part = ConvShape { in_channels: count, ..shape };
                let own = &self.lowered.backward[back];
                let ranges = [
                    self.gradient(out),
                    self.buffer(own.packed[i]),
                    self.buffer(own.scratch),
                    self.buffer(own.results[i]),
                ];
                let [grad, memory, scratch, result] = views(self.arena, ranges);
                let weights = self.parameters.values(conv.weight);
                let algorithm = self.kernels.algorithm();
                let packed = PackedBackwardData::new_in(self.cpu, &part, weights, first, algorithm, memory);
                conv3d_backward_data(&part, grad, &packed, scratch, result);
                self.deliver(back, i, input, of.meetings[i]);
            }
            first += count;
        }
    }

    /// Gradients of the bias and the weights.
    fn parameter_gradients(
        &mut self,
        back: usize,
        conv: &Conv,
        shape: &ConvShape,
        inputs: &[MapId],
        out: MapId,
    ) {
        let program = self.program;
        let second = inputs.get(1).copied();
        let ranges = [
            self.gradient(out),
            self.range(inputs[0]),
            second.map_or(0..0, |map| self.range(map)),
            self.buffer(self.lowered.backward[back].scratch),
        ];
        let [grad, a, b, scratch] = views(self.arena, ranges);
        let a: &[f32] = if inputs[0] == Program::INPUT { self.patch } else { a };
        let deferred = |map: MapId| self.state.deferred[map.0].as_ref();
        let mut sources = vec![source(a, program.map(inputs[0]).channels, deferred(inputs[0]))];
        if let Some(map) = second {
            sources.push(source(b, program.map(map).channels, deferred(map)));
        }
        let bias =
            conv.bias.map(|id| (id, bias_gradient(self.cpu, grad, shape.out_channels, shape.out_voxels())));
        let result = &mut self.state.gradients[conv.weight.0];
        let grad = Source::plain(grad, shape.out_channels);
        conv3d_backward_weights(self.cpu, shape, &sources, grad, result, scratch);
        self.state.written[conv.weight.0] = true;
        if let Some((id, bias)) = bias {
            self.state.add_gradient(id, &bias);
        }
    }

    /// The data gradient of a transposed convolution is the convolution with the same weights and kernel = stride; its weight
    /// gradient is that convolution's, with the roles of input and output gradient exchanged.
    fn up_backward(&mut self, back: usize, of: &BackwardStep, step: &Up) {
        let forward =
            transposed_shape(self.program, &step.conv, step.input, self.program.map(step.out).channels);
        let shape = forward.gradient_shape();
        let own = &self.lowered.backward[back];
        let ranges = [
            self.gradient(step.out),
            self.range(step.input),
            self.buffer(own.packed[0]),
            self.buffer(own.scratch),
            self.buffer(own.results[0]),
        ];
        let [grad, input, memory, scratch, result] = views(self.arena, ranges);
        let bias = step.conv.bias;
        let bias =
            bias.map(|id| (id, bias_gradient(self.cpu, grad, forward.out_channels, forward.out_voxels())));
        let plain = [Source::plain(grad, forward.out_channels)];
        let read = source(input, forward.in_channels, self.state.deferred[step.input.0].as_ref());
        let of_weights = &mut self.state.gradients[step.conv.weight.0];
        conv3d_backward_weights(self.cpu, &shape, &plain, read, of_weights, scratch);
        self.state.written[step.conv.weight.0] = true;
        let weights = self.parameters.values(step.conv.weight);
        let packed = PackedConv::new_in(self.cpu, &shape, weights, Algorithm::Direct, memory);
        conv3d(&shape, &plain, &packed, None, result, None, scratch);
        if let Some((id, bias)) = bias {
            self.state.add_gradient(id, &bias);
        }
        self.deliver(back, 0, step.input, of.meetings[0]);
    }

    fn add_backward(&mut self, back: usize, of: &BackwardStep, step: &AddActivate) {
        let [values, grad] = views(self.arena, [self.range(step.out), self.gradient(step.out)]);
        through_activation(values, step.slope, grad);
        self.deliver(back, 0, step.main, of.meetings[0]);
        self.deliver(back, 1, step.skip, of.meetings[1]);
    }

    fn pool_backward(&mut self, back: usize, of: &BackwardStep, step: &Pool) {
        if of.meetings[0] != Meeting::Unused {
            let result = self.buffer(self.lowered.backward[back].results[0]);
            let [grad, result] = views(self.arena, [self.gradient(step.out), result]);
            avg_pool3d_backward(grad, self.program.map(step.input).size, step.kernel, result);
            self.deliver(back, 0, step.input, of.meetings[0]);
        }
    }

    /// Leads the gradient of input `i`, as the step read it, back to what was written, and joins it with those of other steps.
    pub(super) fn deliver(&mut self, back: usize, i: usize, input: MapId, meeting: Meeting) {
        if meeting == Meeting::Unused {
            return;
        }
        let own = &self.lowered.backward[back];
        let (result, raw) = (self.buffer(own.results[i]), own.raw[i].map(|id| self.buffer(Some(id))));
        let target = self.gradient(input);
        // Where the gradient is led back, in place.
        let at = match meeting {
            Meeting::Add => raw.unwrap_or_else(|| result.clone()),
            _ => target.clone(),
        };
        copy_to(self.arena, result, at.clone());
        if let Some(deferred) = self.state.deferred[input.0].take() {
            self.norm_gradient(&deferred, [self.range(input), at.clone()], self.program.map(input).voxels());
            self.state.deferred[input.0] = Some(deferred);
        }
        if meeting == Meeting::Add {
            let [part, target] = views(self.arena, [at, target]);
            add(part, target);
        }
    }

    /// The gradient of what was written, in place of that behind normalisation and activation; adds to those of the parameters.
    pub(super) fn norm_gradient(&mut self, deferred: &Deferred, ranges: [Range<usize>; 2], voxels: usize) {
        let [x, grad] = views(self.arena, ranges);
        let Some(source) = &deferred.source else {
            through_activation(x, deferred.slope, grad);
            return;
        };
        let call = NormCall {
            x,
            voxels,
            kind: source.kind,
            moments: &source.moments,
            gamma: &source.gamma,
            beta: &source.beta,
            eps: source.norm.spec.eps,
            slope: deferred.slope,
        };
        let NormGradients { gamma, beta } = norm_backward(self.cpu, &call, grad);
        if let Some(affine) = source.norm.affine {
            self.state.add_gradient(affine[0], &gamma);
            self.state.add_gradient(affine[1], &beta);
        }
    }
}

/// Multiplies the gradient with the slope where the value, before or after the activation, is not positive.
fn through_activation(values: &[f32], slope: f32, grad: &mut [f32]) {
    grad.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK)).for_each(|(grad, values)| {
        grad.iter_mut().zip(values).for_each(|(g, &v)| *g *= if v > 0.0 { 1.0 } else { slope });
    });
}
