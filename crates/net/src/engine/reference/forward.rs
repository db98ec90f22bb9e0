//! The forward pass as its definition reads.

use glioseg_kernels::{
    ChannelStats, ConvShape, Moments, NormKind, Source, TransposedShape, avg_pool3d,
    conv_transpose3d_reference, conv3d_reference,
};
use rayon::prelude::*;

use super::ReferenceEngine;
use super::attention::attend;
use crate::engine::shared::{bend, blend_running, dropout_factors, layer_seed};
use crate::parameters::Parameters;
use crate::program::{Block, Conv, Epilogue, MapId, MapShape, Norm, Program, Step};

/// Factor and offset per channel.
pub(super) fn affine(parameters: &Parameters, norm: &Norm, channels: usize) -> [Vec<f32>; 2] {
    match norm.affine {
        Some(ids) => ids.map(|id| parameters.values(id).to_vec()),
        None => [vec![1.0; channels], vec![0.0; channels]],
    }
}

/// Sums of a map per sample and channel.
pub(super) fn moments(values: &[f32], shape: MapShape, kind: NormKind) -> Moments {
    let voxels = shape.voxels();
    let mut stats = ChannelStats::new(values.len() / shape.values(), shape.channels, voxels);
    for (row, values) in values.chunks_exact(voxels).enumerate() {
        stats.sum[row] = values.iter().map(|&v| f64::from(v)).sum();
        stats.sum_sq[row] = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    }
    Moments::new(&stats, kind)
}

pub(super) fn leaky(values: &mut [f32], slope: f32) {
    for v in values.iter_mut().filter(|v| **v <= 0.0) {
        *v *= slope;
    }
}

/// The activation of a block.
fn activate(epilogue: &Epilogue, parameters: &Parameters, values: &mut [f32], shape: MapShape) {
    leaky(values, epilogue.slope.unwrap_or(1.0));
    if let Some(curved) = &epilogue.curve {
        bend(curved, parameters, values, shape);
    }
}

/// The channel-wise concatenation of maps with these channels.
pub(super) fn concatenated(parts: &[(&[f32], usize)], voxels: usize, batch: usize) -> Vec<f32> {
    let mut out = vec![];
    for n in 0..batch {
        for (values, channels) in parts {
            out.extend_from_slice(&values[n * channels * voxels..][..channels * voxels]);
        }
    }
    out
}

/// One output channel after the other, side by side.
fn convolve(shape: &ConvShape, input: &[f32], weights: &[f32], bias: Option<&[f32]>) -> Vec<f32> {
    let (row, voxels) = (shape.in_channels * shape.taps(), shape.out_voxels());
    let one = ConvShape { out_channels: 1, ..*shape };
    let channel = |co: usize| {
        let bias = bias.map(|b| &b[co..=co]);
        let source = Source::plain(input, shape.in_channels);
        conv3d_reference(&one, &[source], &weights[co * row..][..row], bias)
    };
    let channels: Vec<Vec<f32>> = (0..shape.out_channels).into_par_iter().map(channel).collect();
    let samples = (0..shape.batch).flat_map(|n| channels.iter().map(move |c| &c[n * voxels..][..voxels]));
    samples.flatten().copied().collect()
}

impl ReferenceEngine {
    pub(super) fn run_forward(&mut self, patch: &[f32], seed: u64) {
        let (program, parameters) = self.ready();
        let maps = program.maps.len();
        assert_eq!(patch.len(), program.values(Program::INPUT), "values of the input");
        self.maps = vec![vec![]; maps];
        self.raw = vec![vec![]; maps];
        self.masks = vec![vec![]; maps];
        self.between = vec![vec![]; maps];
        self.store(Program::INPUT, patch.to_vec());
        for (at, step) in program.forward.iter().enumerate() {
            self.forward_step(&program, &parameters, step, layer_seed(seed, at));
        }
    }

    fn forward_step(&mut self, program: &Program, parameters: &Parameters, step: &Step, seed: u64) {
        match step {
            Step::Block(block) => self.block(program, parameters, block, seed),
            Step::UpBlock(block) => {
                let made = self.up(program, parameters, &block.up, block.below, block.between.channels);
                let skip = (self.maps[block.skip.0].as_slice(), program.map(block.skip).channels);
                let voxels = block.between.voxels();
                let parts = [(made.as_slice(), block.between.channels), skip];
                let input = concatenated(&parts, voxels, program.batch);
                let raw = conv(program, parameters, &block.conv, &input, block.skip, block.out);
                self.epilogue(program, parameters, &block.epilogue, (block.out, raw), seed);
            }
            Step::Up(up) => {
                let made = self.up(program, parameters, &up.conv, up.input, program.map(up.out).channels);
                self.store(up.out, made);
            }
            Step::AddActivate(add) => {
                let (main, skip) = (&self.maps[add.main.0], &self.maps[add.skip.0]);
                let mut sum: Vec<f32> = main.iter().zip(skip).map(|(a, b)| a + b).collect();
                leaky(&mut sum, add.slope);
                if let Some(curved) = &add.curve {
                    bend(curved, parameters, &mut sum, program.map(add.out));
                }
                self.store(add.out, sum);
            }
            Step::Pool(pool) => {
                let mut out = vec![0.0; program.values(pool.out)];
                avg_pool3d(&self.maps[pool.input.0], program.map(pool.input).size, pool.kernel, &mut out);
                self.store(pool.out, out);
            }
            Step::Attention(attention) => {
                let (mut out, between) =
                    attend(program, parameters, attention, &self.maps[attention.input.0]);
                self.between[attention.out.0] = between;
                if let Some((norm, slope)) = &attention.norm {
                    self.raw[attention.out.0].clone_from(&out);
                    out = self.normalised(program, parameters, norm, attention.out, &out);
                    leaky(&mut out, *slope);
                }
                if attention.residual {
                    out.iter_mut().zip(&self.maps[attention.input.0]).for_each(|(y, x)| *y += x);
                }
                self.store(attention.out, out);
            }
            Step::Head(head) => {
                let raw =
                    conv(program, parameters, &head.conv, &self.maps[head.input.0], head.input, head.out);
                // Logits are never rounded.
                self.maps[head.out.0] = raw;
            }
        }
    }

    fn block(&mut self, program: &Program, parameters: &Parameters, block: &Block, seed: u64) {
        let input = self.joined(program, &block.inputs);
        let raw = conv(program, parameters, &block.conv, &input, block.inputs[0], block.out);
        self.epilogue(program, parameters, &block.epilogue, (block.out, raw), seed);
    }

    /// The concatenation of one or two maps.
    pub(super) fn joined(&self, program: &Program, inputs: &[MapId]) -> Vec<f32> {
        let parts: Vec<(&[f32], usize)> =
            inputs.iter().map(|&i| (self.maps[i.0].as_slice(), program.map(i).channels)).collect();
        concatenated(&parts, program.map(inputs[0]).voxels(), program.batch)
    }

    fn up(
        &self,
        program: &Program,
        parameters: &Parameters,
        conv: &Conv,
        below: MapId,
        channels: usize,
    ) -> Vec<f32> {
        let shape = transposed_shape(program, conv, below, channels);
        let bias = conv.bias.map(|id| parameters.values(id));
        let source = Source::plain(&self.maps[below.0], shape.in_channels);
        conv_transpose3d_reference(&shape, source, parameters.values(conv.weight), bias)
    }

    fn epilogue(
        &mut self,
        program: &Program,
        parameters: &Parameters,
        epilogue: &Epilogue,
        (out, mut raw): (MapId, Vec<f32>),
        seed: u64,
    ) {
        let shape = program.map(out);
        if epilogue.dropout > 0.0 && program.mode.is_training() {
            let mask = dropout_factors(epilogue.dropout, program.batch * shape.channels, seed);
            for (values, factor) in raw.chunks_exact_mut(shape.voxels()).zip(&mask) {
                for value in values {
                    *value *= factor;
                }
            }
            self.masks[out.0] = mask;
        }
        if epilogue.nonlin_first && epilogue.norm.is_some() {
            activate(epilogue, parameters, &mut raw, shape);
        }
        self.rounding.round(&mut raw);
        self.raw[out.0].clone_from(&raw);
        if let Some(norm) = &epilogue.norm {
            raw = self.normalised(program, parameters, norm, out, &raw);
        }
        if !epilogue.nonlin_first || epilogue.norm.is_none() {
            activate(epilogue, parameters, &mut raw, shape);
        }
        self.store(out, raw);
    }

    fn normalised(
        &mut self,
        program: &Program,
        parameters: &Parameters,
        norm: &Norm,
        out: MapId,
        raw: &[f32],
    ) -> Vec<f32> {
        let (shape, training) = (program.map(out), program.mode.is_training());
        // Statistics that were kept are the same for every sample.
        let kept = norm.running.is_some() && !training;
        let kind = if kept { NormKind::Batch } else { norm.spec.kind };
        let moments = match norm.running {
            Some(running) if !training => {
                let wide = |id| parameters.values(id).iter().map(|&v| f64::from(v)).collect();
                let [mean, var] = running.map(wide);
                Moments { mean, var, count: 1 }
            }
            _ => moments(raw, shape, kind),
        };
        if let Some(ids) = norm.running.filter(|_| training) {
            let new = blend_running(ids.map(|id| parameters.values(id)), &moments);
            ids.into_iter().zip(new).for_each(|(id, values)| self.set(id, values));
        }
        let [gamma, beta] = affine(parameters, norm, shape.channels);
        let voxels = shape.voxels();
        let value = |(i, &x): (usize, &f32)| {
            let (n, c) = (i / shape.values(), i / voxels % shape.channels);
            let set = kind.set_of(n, c, shape.channels);
            let y = (f64::from(x) - moments.mean[set]) / (moments.var[set] + norm.spec.eps).sqrt();
            (y * f64::from(gamma[c]) + f64::from(beta[c])) as f32
        };
        raw.iter().enumerate().map(value).collect()
    }
}

/// Sizes of a convolution of maps with `channels` channels together.
pub(super) fn conv_shape(
    program: &Program,
    conv: &Conv,
    channels: usize,
    from: MapId,
    out: MapId,
) -> ConvShape {
    ConvShape {
        batch: program.batch,
        in_channels: channels,
        out_channels: program.map(out).channels,
        input: program.map(from).size,
        kernel: conv.kernel,
        stride: conv.stride,
        padding: conv.padding,
    }
}

/// Sizes of a transposed convolution to `channels` channels.
pub(super) fn transposed_shape(
    program: &Program,
    conv: &Conv,
    below: MapId,
    channels: usize,
) -> TransposedShape {
    TransposedShape {
        batch: program.batch,
        in_channels: program.map(below).channels,
        out_channels: channels,
        input: program.map(below).size,
        kernel: conv.kernel,
    }
}

fn conv(
    program: &Program,
    parameters: &Parameters,
    conv: &Conv,
    input: &[f32],
    from: MapId,
    out: MapId,
) -> Vec<f32> {
    let channels = input.len() / (program.batch * program.map(from).voxels());
    let shape = conv_shape(program, conv, channels, from, out);
    let bias = conv.bias.map(|id| parameters.values(id));
    convolve(&shape, input, parameters.values(conv.weight), bias)
}
