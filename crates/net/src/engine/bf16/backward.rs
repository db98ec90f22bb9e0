//! The backward pass.
//!
//! What a step gives to the gradient of a map is that of the map as its readers see it; the step that wrote the map leads the sum back
//! through activation and normalisation, so that one pass does it for all readers.

use glioseg_kernels::{
    ConvShape, NormGradients, PackedTiles, TileCall, TileInput, TileNormCall, TileOutput, TileSource,
    bf16_view, bf16_view_mut, bias_gradient, tile_activation_backward, tile_avg_pool_backward,
    tile_bias_gradient, tile_conv3d, tile_conv3d_backward_data, tile_conv3d_backward_weights,
    tile_from_planar, tile_give, tile_norm_backward, tile_scale_channels,
};

use super::Pass;
use super::forward::source;
use crate::engine::cpu::{conv_shape, join, transposed_name, transposed_shape};
use crate::engine::shared::views;
use crate::program::{AddActivate, BackwardStep, Block, Conv, Head, MapId, Meeting, Pool, Program, Step, Up};

impl Pass<'_> {
    pub(super) fn backward(&mut self) {
        for (back, of) in self.program.backward.iter().enumerate() {
            match &self.program.forward[of.step] {
                Step::Block(step) => self.block_backward(back, of, step),
                Step::Head(step) => self.head_backward(back, of, step),
                Step::Up(step) => self.up_backward(back, of, step),
                Step::AddActivate(step) => self.add_backward(of, step),
                Step::Pool(step) => self.pool_backward(of, step),
                Step::Attention(step) => self.attention_backward(back, of, step),
                Step::UpBlock(_) => unreachable!("a step outside training"),
            }
        }
    }

    /// Leads the gradient of a map back to what was written, through what is deferred; the sums of the result per channel where a
    /// normalisation made them.
    pub(super) fn lead_back(&mut self, map: MapId) -> Option<Vec<f32>> {
        let deferred = self.state.deferred[map.0].as_ref()?;
        let len = self.program.values(map);
        let [x, grad] = views(self.arena, [self.lowered.range(map), self.lowered.gradient(map)]);
        let (x, grad) = (&bf16_view(x)[..len], &mut bf16_view_mut(grad)[..len]);
        let Some(source) = &deferred.source else {
            tile_activation_backward(x, deferred.slope, grad);
            return None;
        };
        let call = TileNormCall {
            x,
            voxels: self.program.map(map).voxels(),
            kind: source.kind,
            moments: &source.moments,
            gamma: &source.gamma,
            beta: &source.beta,
            eps: source.norm.spec.eps,
            slope: deferred.slope,
        };
        let (NormGradients { gamma, beta }, sums) = tile_norm_backward(&call, grad);
        if let Some(affine) = source.norm.affine {
            self.state.add_gradient(affine[0], &gamma);
            self.state.add_gradient(affine[1], &beta);
        }
        Some(sums)
    }

    fn block_backward(&mut self, back: usize, of: &BackwardStep, step: &Block) {
        let timer = self.timer();
        let mut sums = self.lead_back(step.out);
        let (shape, len) = (self.program.map(step.out), self.program.values(step.out));
        // What was written is there only where something is deferred.
        if let (true, Some(slope), Some(_)) =
            (step.epilogue.nonlin_first, step.epilogue.slope, step.epilogue.norm)
        {
            let ranges = [self.lowered.range(step.out), self.lowered.gradient(step.out)];
            let [x, grad] = views(self.arena, ranges);
            tile_activation_backward(&bf16_view(x)[..len], slope, &mut bf16_view_mut(grad)[..len]);
            sums = None;
        }
        let grad = &mut self.arena[self.lowered.gradient(step.out)];
        let grad = &mut bf16_view_mut(grad)[..len];
        let sizes = [shape.channels, shape.voxels()];
        if let Some(mask) = self.state.masks[step.out.0].take() {
            tile_scale_channels(grad, &mask, sizes);
            sums = None;
        }
        if let Some(id) = step.conv.bias {
            let sums = sums.unwrap_or_else(|| tile_bias_gradient(grad, sizes));
            self.state.add_gradient(id, &sums);
        }
        timer.stop(&mut self.times, 0.0, 0, || {
            format!("gradient of what follows {} @ {}", shape.channels, join(shape.size))
        });
        let grad = self.lowered.gradient(step.out);
        self.convolution(back, of, &step.conv, (&step.inputs, step.out), grad);
    }

    fn head_backward(&mut self, back: usize, of: &BackwardStep, step: &Head) {
        let shape = self.program.map(step.out);
        let rounded = self.lowered.buffer(self.lowered.backward[back].rounded);
        let [grad, to] = views(self.arena, [self.lowered.gradient(step.out), rounded.clone()]);
        if let Some(id) = step.conv.bias {
            let sums = bias_gradient(self.cpu, grad, shape.channels, shape.voxels());
            self.state.add_gradient(id, &sums);
        }
        let sizes = [shape.channels, shape.voxels()];
        tile_from_planar(grad, sizes, &mut bf16_view_mut(to)[..self.program.values(step.out)]);
        self.convolution(back, of, &step.conv, (&[step.input], step.out), rounded);
    }

    /// Gradients of a convolution's weights and inputs; `grad` is where that of its output lies.
    fn convolution(
        &mut self,
        back: usize,
        of: &BackwardStep,
        conv: &Conv,
        (inputs, out): (&[MapId], MapId),
        grad: std::ops::Range<usize>,
    ) {
        let program = self.program;
        let channels: Vec<usize> = inputs.iter().map(|&i| program.map(i).channels).collect();
        let shape = conv_shape(program, conv, channels.iter().sum(), inputs[0], out);
        self.weights_gradient(back, conv, &shape, inputs, grad.clone());
        let mut first = 0;
        for (i, (&input, &count)) in inputs.iter().zip(&channels).enumerate() {
            if of.meetings[i] != Meeting::Unused {
                let timer = self.timer();
                let part = ConvShape { in_channels: count, ..shape };
                let weights = self.parameters.values(conv.weight);
                let packed = self.packed[of.step].backward[i].get(
                    || PackedTiles::backward_data(&part, weights, first),
                    |packed| packed.refill_backward_data(&part, weights, first),
                );
                let [grad, result] = views(self.arena, [grad.clone(), self.lowered.gradient(input)]);
                let grad = &bf16_view(grad)[..part.out_len()];
                let result = &mut bf16_view_mut(result)[..part.in_len()];
                let add = of.meetings[i] == Meeting::Add;
                tile_conv3d_backward_data(self.amx, &part, grad, packed, result, add);
                timer.stop(&mut self.times, part.flops(), packed.bytes(), || {
                    format!("gradient of the input of {}", conv_name(&part))
                });
            }
            first += count;
        }
    }

    fn weights_gradient(
        &mut self,
        back: usize,
        conv: &Conv,
        shape: &ConvShape,
        inputs: &[MapId],
        grad: std::ops::Range<usize>,
    ) {
        let timer = self.timer();
        let program = self.program;
        let second = inputs.get(1).map_or(0..0, |&map| self.lowered.range(map));
        let scratch = self.lowered.buffer(self.lowered.backward[back].scratch);
        let [grad, a, b, scratch] = views(self.arena, [grad, self.lowered.range(inputs[0]), second, scratch]);
        let memory = [&*a, &*b];
        let tile_inputs: Vec<TileInput<'_>> = inputs
            .iter()
            .zip(memory)
            .map(|(&map, data)| {
                let channels = program.map(map).channels;
                if map == Program::INPUT {
                    return TileInput::Planar { data: self.patch, channels };
                }
                let deferred = self.state.deferred[map.0].as_ref();
                TileInput::Map(source(data, program.values(map), channels, deferred))
            })
            .collect();
        let grad = TileSource::plain(&bf16_view(grad)[..shape.out_len()], shape.out_channels);
        let result = &mut self.state.gradients[conv.weight.0];
        tile_conv3d_backward_weights(self.amx, shape, &tile_inputs, &grad, result, scratch);
        self.state.written[conv.weight.0] = true;
        timer.stop(&mut self.times, shape.flops(), 0, || {
            format!("gradient of the weights of {}", conv_name(shape))
        });
    }

    /// The data gradient of a transposed convolution is the convolution with the same weights and kernel = stride; its weight
    /// gradient is that convolution's, with the roles of input and output gradient exchanged.
    fn up_backward(&mut self, back: usize, of: &BackwardStep, step: &Up) {
        let timer = self.timer();
        let forward =
            transposed_shape(self.program, &step.conv, step.input, self.program.map(step.out).channels);
        let shape = forward.gradient_shape();
        let scratch = self.lowered.buffer(self.lowered.backward[back].scratch);
        let ranges = [
            self.lowered.gradient(step.out),
            self.lowered.range(step.input),
            scratch,
            self.lowered.gradient(step.input),
        ];
        let [grad, input, scratch, result] = views(self.arena, ranges);
        let grad = &bf16_view(grad)[..forward.out_len()];
        if let Some(id) = step.conv.bias {
            let sums = tile_bias_gradient(grad, [forward.out_channels, forward.out_voxels()]);
            self.state.add_gradient(id, &sums);
        }
        let plain = [TileInput::Map(TileSource::plain(grad, forward.out_channels))];
        let deferred = self.state.deferred[step.input.0].as_ref();
        let read = source(input, forward.in_len(), forward.in_channels, deferred);
        let of_weights = &mut self.state.gradients[step.conv.weight.0];
        tile_conv3d_backward_weights(self.amx, &shape, &plain, &read, of_weights, scratch);
        self.state.written[step.conv.weight.0] = true;
        if of.meetings[0] != Meeting::Unused {
            let weights = self.parameters.values(step.conv.weight);
            let packed = self.packed[of.step].backward[0]
                .get(|| PackedTiles::conv(&shape, weights), |packed| packed.refill_conv(&shape, weights));
            let result = &mut bf16_view_mut(result)[..forward.in_len()];
            let output = if of.meetings[0] == Meeting::Add {
                TileOutput::Add(result)
            } else {
                TileOutput::Map(result)
            };
            let call = TileCall { shape: &shape, inputs: &plain, weights: packed, bias: None };
            tile_conv3d(self.amx, &call, output, None);
        }
        timer.stop(&mut self.times, 2.0 * forward.flops(), 0, || {
            format!("gradients of {}", transposed_name(&forward))
        });
    }

    fn add_backward(&mut self, of: &BackwardStep, step: &AddActivate) {
        let timer = self.timer();
        let len = self.program.values(step.out);
        let [values, grad] =
            views(self.arena, [self.lowered.range(step.out), self.lowered.gradient(step.out)]);
        tile_activation_backward(&bf16_view(values)[..len], step.slope, &mut bf16_view_mut(grad)[..len]);
        for (input, &meeting) in [step.main, step.skip].into_iter().zip(&of.meetings) {
            if meeting != Meeting::Unused {
                let ranges = [self.lowered.gradient(step.out), self.lowered.gradient(input)];
                let [grad, to] = views(self.arena, ranges);
                let to = &mut bf16_view_mut(to)[..len];
                tile_give(&bf16_view(grad)[..len], to, meeting == Meeting::Add);
            }
        }
        let shape = self.program.map(step.out);
        timer.stop(&mut self.times, 0.0, 0, || {
            format!("gradient of add {} @ {}", shape.channels, join(shape.size))
        });
    }

    fn pool_backward(&mut self, of: &BackwardStep, step: &Pool) {
        if of.meetings[0] == Meeting::Unused {
            return;
        }
        let shape = self.program.map(step.input);
        let ranges = [self.lowered.gradient(step.out), self.lowered.gradient(step.input)];
        let [grad, result] = views(self.arena, ranges);
        let grad = &bf16_view(grad)[..self.program.values(step.out)];
        let result = &mut bf16_view_mut(result)[..self.program.values(step.input)];
        let add = of.meetings[0] == Meeting::Add;
        tile_avg_pool_backward(grad, (shape.channels, shape.size), step.kernel, result, add);
    }
}

fn conv_name(shape: &ConvShape) -> String {
    let (ci, co, kernel, [z, y, x]) =
        (shape.in_channels, shape.out_channels, join(shape.kernel), shape.output());
    let stride = if shape.stride == [1; 3] { String::new() } else { format!("/{}", join(shape.stride)) };
    format!("conv {ci} -> {co} @ {z}x{y}x{x}, {kernel}{stride}, tiles")
}
