//! The backward pass as the derivatives read.

use glioseg_kernels::{
    NormCall, NormGradients, Source, avg_pool3d_backward, conv3d_backward_data_reference,
    conv3d_backward_weights_reference, conv3d_reference, norm_backward_reference,
};

use super::ReferenceEngine;
use super::attention::attend_backward;
use super::forward::{affine, conv_shape, moments, transposed_shape};
use crate::parameters::Parameters;
use crate::program::{Attention, Block, Conv, MapId, MapShape, Norm, ParameterId, Program, Step, Up};

/// Gradients of all maps.
type OfMaps = [Vec<f32>];

impl ReferenceEngine {
    pub(super) fn run_backward(&mut self, program: &Program, parameters: &Parameters, of_maps: &mut OfMaps) {
        for back in &program.backward {
            let step = &program.forward[back.step];
            let grad = std::mem::take(&mut of_maps[step.out().0]);
            match step {
                Step::Block(block) => {
                    let grad = self.before_epilogue(program, parameters, block, grad);
                    let read = (block.inputs.as_slice(), block.out);
                    self.conv_backward(program, parameters, &block.conv, read, &grad, of_maps);
                }
                Step::Head(head) => {
                    let read = (&[head.input][..], head.out);
                    self.conv_backward(program, parameters, &head.conv, read, &grad, of_maps);
                }
                Step::Up(up) => self.up_backward(program, parameters, up, &grad, of_maps),
                Step::AddActivate(add) => {
                    let mut grad = grad;
                    through_activation(&self.maps[add.out.0], add.slope, &mut grad);
                    self.give(of_maps, add.main, grad.clone());
                    self.give(of_maps, add.skip, grad);
                }
                Step::Pool(pool) => {
                    let mut result = vec![0.0; program.values(pool.input)];
                    avg_pool3d_backward(&grad, program.map(pool.input).size, pool.kernel, &mut result);
                    self.give(of_maps, pool.input, result);
                }
                Step::Attention(step) => self.attention_backward(program, parameters, step, &grad, of_maps),
                Step::UpBlock(_) => unreachable!("a step outside training"),
            }
        }
    }

    /// Adds to the gradient of a map.
    fn give(&self, of_maps: &mut OfMaps, map: MapId, mut part: Vec<f32>) {
        if map == Program::INPUT {
            return;
        }
        let gradient = &mut of_maps[map.0];
        if !gradient.is_empty() {
            part.iter_mut().zip(gradient.iter()).for_each(|(p, g)| *p += g);
        }
        self.rounding.round(&mut part);
        *gradient = part;
    }

    fn of_parameter(&mut self, id: ParameterId, part: Vec<f32>) {
        match &mut self.gradients[id.0] {
            Some(sum) => sum.iter_mut().zip(part).for_each(|(s, p)| *s += p),
            none => *none = Some(part),
        }
    }

    /// The gradient of what a normalisation read.
    fn norm_backward(
        &mut self,
        parameters: &Parameters,
        norm: &Norm,
        (map, shape): (MapId, MapShape),
        slope: f32,
        grad: &[f32],
    ) -> Vec<f32> {
        let raw = &self.raw[map.0];
        let [gamma, beta] = affine(parameters, norm, shape.channels);
        let call = NormCall {
            x: raw,
            voxels: shape.voxels(),
            kind: norm.spec.kind,
            moments: &moments(raw, shape, norm.spec.kind),
            gamma: &gamma,
            beta: &beta,
            eps: norm.spec.eps,
            slope,
        };
        let (result, NormGradients { gamma, beta }) = norm_backward_reference(&call, grad);
        if let Some([of_gamma, of_beta]) = norm.affine {
            self.of_parameter(of_gamma, gamma);
            self.of_parameter(of_beta, beta);
        }
        result
    }

    /// The gradient of what a block's convolution wrote.
    fn before_epilogue(
        &mut self,
        program: &Program,
        parameters: &Parameters,
        block: &Block,
        mut grad: Vec<f32>,
    ) -> Vec<f32> {
        let (shape, slope) = (program.map(block.out), block.epilogue.slope.unwrap_or(1.0));
        match &block.epilogue.norm {
            Some(norm) => {
                let behind = if block.epilogue.nonlin_first { 1.0 } else { slope };
                grad = self.norm_backward(parameters, norm, (block.out, shape), behind, &grad);
                if block.epilogue.nonlin_first {
                    through_activation(&self.raw[block.out.0], slope, &mut grad);
                }
            }
            None => through_activation(&self.raw[block.out.0], slope, &mut grad),
        }
        for (values, factor) in grad.chunks_exact_mut(shape.voxels()).zip(&self.masks[block.out.0]) {
            for value in values {
                *value *= factor;
            }
        }
        self.rounding.round(&mut grad);
        grad
    }

    fn bias_backward(&mut self, bias: Option<ParameterId>, shape: MapShape, grad: &[f32]) {
        if let Some(id) = bias {
            let mut sums = vec![0.0f64; shape.channels];
            for (row, values) in grad.chunks_exact(shape.voxels()).enumerate() {
                sums[row % shape.channels] += values.iter().map(|&v| f64::from(v)).sum::<f64>();
            }
            self.of_parameter(id, sums.into_iter().map(|s| s as f32).collect());
        }
    }

    fn conv_backward(
        &mut self,
        program: &Program,
        parameters: &Parameters,
        conv: &Conv,
        (inputs, out): (&[MapId], MapId),
        grad: &[f32],
        of_maps: &mut OfMaps,
    ) {
        let input = self.joined(program, inputs);
        let channels = inputs.iter().map(|&i| program.map(i).channels).sum();
        let shape = conv_shape(program, conv, channels, inputs[0], out);
        self.bias_backward(conv.bias, program.map(out), grad);
        let sources = [Source::plain(&input, channels)];
        let of_out = Source::plain(grad, shape.out_channels);
        self.of_parameter(conv.weight, conv3d_backward_weights_reference(&shape, &sources, of_out));
        if inputs == [Program::INPUT] {
            return;
        }
        let joined = conv3d_backward_data_reference(&shape, grad, parameters.values(conv.weight));
        let (sample, voxels) = (joined.len() / program.batch, shape.in_voxels());
        let mut first = 0;
        for &input in inputs {
            let len = program.map(input).channels * voxels;
            let parts = joined.chunks_exact(sample).flat_map(|s| &s[first..first + len]);
            self.give(of_maps, input, parts.copied().collect());
            first += len;
        }
    }

    fn up_backward(
        &mut self,
        program: &Program,
        parameters: &Parameters,
        up: &Up,
        grad: &[f32],
        of_maps: &mut OfMaps,
    ) {
        let forward = transposed_shape(program, &up.conv, up.input, program.map(up.out).channels);
        let shape = forward.gradient_shape();
        self.bias_backward(up.conv.bias, program.map(up.out), grad);
        let plain = [Source::plain(grad, forward.out_channels)];
        let input = Source::plain(&self.maps[up.input.0], forward.in_channels);
        let of_weights = conv3d_backward_weights_reference(&shape, &plain, input);
        self.of_parameter(up.conv.weight, of_weights);
        let result = conv3d_reference(&shape, &plain, parameters.values(up.conv.weight), None);
        self.give(of_maps, up.input, result);
    }

    fn attention_backward(
        &mut self,
        program: &Program,
        parameters: &Parameters,
        step: &Attention,
        grad: &[f32],
        of_maps: &mut OfMaps,
    ) {
        let mut inner = grad.to_vec();
        if let Some((norm, slope)) = &step.norm {
            inner = self.norm_backward(parameters, norm, (step.out, program.map(step.out)), *slope, &inner);
        }
        let (input, between) = (&self.maps[step.input.0], &self.between[step.out.0]);
        let (mut result, gradients) = attend_backward(program, parameters, step, (input, between), &inner);
        for (id, part) in gradients {
            self.of_parameter(id, part);
        }
        if step.residual {
            result.iter_mut().zip(grad).for_each(|(r, g)| *r += g);
        }
        self.give(of_maps, step.input, result);
    }
}

/// Multiplies the gradient with the slope where the value, before or after the activation, is not positive.
fn through_activation(values: &[f32], slope: f32, grad: &mut [f32]) {
    grad.iter_mut().zip(values).for_each(|(g, &v)| *g *= if v > 0.0 { 1.0 } else { slope });
}
