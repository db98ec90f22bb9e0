//! The forward pass.

use glioseg_kernels::{
    ChannelStats, PackedConv, PackedTransposed, UpsampledCall, Upsampling, add_activate, avg_pool3d,
    conv_transpose3d, conv3d, conv3d_upsampled, normalize, normalize_in_place,
};
use rayon::prelude::*;

use super::lower::{conv_shape, transposed_shape};
use super::norm::source;
use super::{Packed, Pass, Timer, views};
use crate::engine::norm::{Deferred, identity};
use crate::engine::shared::{bend, dropout_factors, layer_seed};
use crate::engine::state::CHUNK;
use crate::program::{
    AddActivate, Block, Conv, Curved, Epilogue, Head, MapId, MapShape, Norm, Pool, Program, Step, Up, UpBlock,
};

impl Pass<'_> {
    /// Runs every step; dropout draws from `seed` and the number of the step.
    pub(super) fn forward(&mut self, seed: u64) {
        self.state.deferred.iter_mut().for_each(|d| *d = None);
        for (at, step) in self.program.forward.iter().enumerate() {
            match step {
                Step::Block(step) => self.block(at, step, seed),
                Step::UpBlock(step) => self.up_block(at, step, seed),
                Step::Up(step) => self.up(at, step),
                Step::AddActivate(step) => self.add_activate(at, step),
                Step::Pool(step) => self.pool(at, step),
                Step::Attention(step) => self.attention(at, step),
                Step::Head(step) => self.head(at, step),
            }
        }
    }

    pub(super) fn timer(&self) -> Timer {
        Timer::start(self.times.is_some())
    }

    fn drops(&self, epilogue: &Epilogue) -> bool {
        epilogue.dropout > 0.0 && self.program.mode.is_training()
    }

    /// Whether the convolution should add up what it writes.
    fn wants_statistics(&self, epilogue: &Epilogue) -> bool {
        epilogue.norm.as_ref().is_some_and(|n| self.reads_statistics(n))
            && !epilogue.nonlin_first
            && !self.drops(epilogue)
    }

    fn block(&mut self, at: usize, step: &Block, seed: u64) {
        let stats = self.wants_statistics(&step.epilogue);
        let stats = self.convolve(at, &step.inputs, &step.conv, step.out, stats);
        self.epilogue(&step.epilogue, step.out, stats, layer_seed(seed, at));
    }

    fn head(&mut self, at: usize, step: &Head) {
        self.convolve(at, &[step.input], &step.conv, step.out, false);
    }

    /// Convolution of one or two maps, and the sums of the result if they are wanted.
    fn convolve(
        &mut self,
        at: usize,
        inputs: &[MapId],
        conv: &Conv,
        out: MapId,
        want_stats: bool,
    ) -> Option<ChannelStats> {
        let mut timer = self.timer();
        let program = self.program;
        let channels: Vec<usize> = inputs.iter().map(|&i| program.map(i).channels).collect();
        let shape = conv_shape(program, conv, channels.iter().sum(), inputs[0], out);
        let second = inputs.get(1).copied();
        let ranges = [
            self.range(inputs[0]),
            second.map_or(0..0, |map| self.range(map)),
            self.buffer(self.lowered.forward[at].packed[1]),
            self.buffer(self.lowered.forward[at].scratch),
            self.range(out),
        ];
        let [a, b, memory, scratch, target] = views(self.arena, ranges);
        let first: &[f32] = if inputs[0] == Program::INPUT { self.patch } else { a };
        let deferred = |map: MapId| self.state.deferred[map.0].as_ref();
        let mut sources = vec![source(first, channels[0], deferred(inputs[0]))];
        if let Some(map) = second {
            sources.push(source(b, channels[1], deferred(map)));
        }
        let made;
        let weights = self.parameters.values(conv.weight);
        let algorithm = self.kernels.algorithm();
        let packed: &PackedConv<'_> = if self.lowered.keeps[at][1] {
            let make = || PackedConv::new(self.cpu, &shape, weights, algorithm);
            self.packed[at].conv.get_or_insert_with(make)
        } else {
            made = PackedConv::new_in(self.cpu, &shape, weights, algorithm, memory);
            &made
        };
        timer.packed();
        let bias = conv.bias.map(|id| self.parameters.values(id));
        let mut stats =
            want_stats.then(|| ChannelStats::new(shape.batch, shape.out_channels, shape.out_voxels()));
        conv3d(&shape, &sources, packed, bias, target, stats.as_mut(), scratch);
        timer.stop(&mut self.times, shape.flops(), packed.bytes(), || {
            let inputs: Vec<String> = channels.iter().map(ToString::to_string).collect();
            let (co, kernel, [z, y, x]) = (shape.out_channels, join(shape.kernel), shape.output());
            let stride =
                if shape.stride == [1; 3] { String::new() } else { format!("/{}", join(shape.stride)) };
            let word = packed.algorithm().word();
            format!("conv {} -> {co} @ {z}x{y}x{x}, {kernel}{stride}, {word}", inputs.join("+"))
        });
        stats
    }

    /// What follows a convolution: done to the map at once, or deferred.
    fn epilogue(&mut self, epilogue: &Epilogue, out: MapId, stats: Option<ChannelStats>, seed: u64) {
        let MapShape { channels, .. } = self.program.map(out);
        if self.drops(epilogue) {
            self.drop_channels(epilogue.dropout, out, seed);
        }
        if let Some(curved) = &epilogue.curve {
            self.curve(curved, epilogue, out, stats);
            return;
        }
        let deferred = match (epilogue.norm, epilogue.slope) {
            (Some(norm), Some(slope)) if epilogue.nonlin_first => {
                self.finish_in_place(out, &Deferred::activation(self.program.batch * channels, slope));
                self.deferred(&norm, out, None, 1.0)
            }
            (Some(norm), slope) => self.deferred(&norm, out, stats, slope.unwrap_or(1.0)),
            (None, Some(slope)) => Deferred::activation(self.program.batch * channels, slope),
            (None, None) => return,
        };
        self.state.deferred[out.0] = Some(deferred);
    }

    /// An activation that no reader of a map can apply: it is done at once, and what stands before it too.
    fn curve(&mut self, curved: &Curved, epilogue: &Epilogue, out: MapId, stats: Option<ChannelStats>) {
        if let (Some(norm), false) = (epilogue.norm, epilogue.nonlin_first) {
            let deferred = self.deferred(&norm, out, stats, 1.0);
            self.finish_in_place(out, &deferred);
        }
        let range = self.range(out);
        bend(curved, self.parameters, &mut self.arena[range], self.program.map(out));
        if let (Some(norm), true) = (epilogue.norm, epilogue.nonlin_first) {
            self.state.deferred[out.0] = Some(self.deferred(&norm, out, None, 1.0));
        }
    }

    /// Drops whole channels with probability `p` and scales the others up.
    fn drop_channels(&mut self, p: f64, out: MapId, seed: u64) {
        let shape = self.program.map(out);
        let mask = dropout_factors(p, self.program.batch * shape.channels, seed);
        let range = self.range(out);
        scale_channels(&mut self.arena[range], &mask);
        self.state.masks[out.0] = Some(mask);
    }

    pub(super) fn finish_in_place(&mut self, map: MapId, deferred: &Deferred) {
        let (range, voxels) = (self.range(map), self.program.map(map).voxels());
        normalize_in_place(self.cpu, &mut self.arena[range], voxels, deferred.prologue());
    }

    /// Puts the input `i` of step `at` into its buffer with what is deferred done.
    pub(super) fn finish(&mut self, at: usize, i: usize, map: MapId) {
        let Some(id) = self.lowered.forward[at].finished[i] else { return };
        let timer = self.timer();
        let shape = self.program.map(map);
        let ranges = [self.range(map), self.lowered.placement.range(id)];
        let [raw, finished] = views(self.arena, ranges);
        let deferred = self.state.deferred[map.0].as_ref().expect("something is deferred");
        normalize(self.cpu, raw, finished, shape.voxels(), deferred.prologue());
        timer
            .stop(&mut self.times, 0.0, 0, || format!("normalize {} @ {}", shape.channels, join(shape.size)));
    }

    fn up(&mut self, at: usize, step: &Up) {
        let mut timer = self.timer();
        let channels = self.program.map(step.out).channels;
        let shape = transposed_shape(self.program, &step.conv, step.input, channels);
        let packed = self.buffer(self.lowered.forward[at].packed[0]);
        let ranges = [self.range(step.input), packed, self.range(step.out)];
        let [input, memory, out] = views(self.arena, ranges);
        let weights = self.parameters.values(step.conv.weight);
        let keeps = self.lowered.keeps[at][0];
        let made;
        let packed: &PackedTransposed<'_> = if keeps {
            let make = || PackedTransposed::new(self.cpu, &shape, weights);
            self.packed[at].transposed.get_or_insert_with(make)
        } else {
            made = PackedTransposed::new_in(self.cpu, &shape, weights, memory);
            &made
        };
        timer.packed();
        let bias = step.conv.bias.map(|id| self.parameters.values(id));
        let input = source(input, shape.in_channels, self.state.deferred[step.input.0].as_ref());
        conv_transpose3d(&shape, input, packed, bias, out);
        timer.stop(&mut self.times, shape.flops(), packed.bytes(), || transposed_name(&shape));
    }

    /// The upsampled map is made and read a slab of planes at a time where it is large.
    fn up_block(&mut self, at: usize, step: &UpBlock, seed: u64) {
        let mut timer = self.timer();
        let program = self.program;
        let up_shape = transposed_shape(program, &step.up, step.below, step.between.channels);
        let (made_channels, skip_channels) = (step.between.channels, program.map(step.skip).channels);
        let shape = conv_shape(program, &step.conv, made_channels + skip_channels, step.skip, step.out);
        let own = &self.lowered.forward[at];
        let ranges = [
            self.range(step.below),
            self.range(step.skip),
            self.buffer(own.packed[0]),
            self.buffer(own.packed[1]),
            self.buffer(own.between),
            self.buffer(own.scratch),
            self.range(step.out),
        ];
        let want_stats = self.wants_statistics(&step.epilogue);
        let [below, skip, up_memory, memory, between, scratch, out] = views(self.arena, ranges);
        let deferred = |map: MapId| self.state.deferred[map.0].as_ref();
        let below = source(below, up_shape.in_channels, deferred(step.below));
        let skip = source(skip, skip_channels, deferred(step.skip));
        let [up_weights, weights] = [&step.up, &step.conv].map(|c| self.parameters.values(c.weight));
        let [up_bias, bias] = [&step.up, &step.conv].map(|c| c.bias.map(|id| self.parameters.values(id)));
        let keeps = self.lowered.keeps[at];
        let Packed { transposed: kept_up, conv: kept } = &mut self.packed[at];
        let (cpu, algorithm) = (self.cpu, self.kernels.algorithm());
        let (made_up, made);
        let up_packed: &PackedTransposed<'_> = if keeps[0] {
            kept_up.get_or_insert_with(|| PackedTransposed::new(cpu, &up_shape, up_weights))
        } else {
            made_up = PackedTransposed::new_in(cpu, &up_shape, up_weights, up_memory);
            &made_up
        };
        let packed: &PackedConv<'_> = if keeps[1] {
            kept.get_or_insert_with(|| PackedConv::new(cpu, &shape, weights, algorithm))
        } else {
            made = PackedConv::new_in(cpu, &shape, weights, algorithm, memory);
            &made
        };
        timer.packed();
        let mut stats =
            want_stats.then(|| ChannelStats::new(shape.batch, shape.out_channels, shape.out_voxels()));
        if Upsampling::slabs(&up_shape) == 1 {
            conv_transpose3d(&up_shape, below, up_packed, up_bias, between);
            let sources = [source(between, made_channels, None), skip];
            conv3d(&shape, &sources, packed, bias, out, stats.as_mut(), scratch);
        } else {
            let upsampling =
                Upsampling { shape: &up_shape, source: below, weights: up_packed, bias: up_bias };
            let call = UpsampledCall { shape: &shape, upsampling, skip, weights: packed, bias };
            conv3d_upsampled(call, out, stats.as_mut(), scratch);
        }
        let flops = shape.flops() + up_shape.flops();
        timer.stop(&mut self.times, flops, packed.bytes() + up_packed.bytes(), || {
            let (word, kernel, [z, y, x]) = (packed.algorithm().word(), join(shape.kernel), shape.output());
            let (below, co) = (up_shape.in_channels, shape.out_channels);
            format!(
                "conv {made_channels} (of {below})+{skip_channels} -> {co} @ {z}x{y}x{x}, {kernel}, {word}"
            )
        });
        self.epilogue(&step.epilogue, step.out, stats, layer_seed(seed, at));
    }

    fn add_activate(&mut self, at: usize, step: &AddActivate) {
        self.finish(at, 0, step.main);
        self.finish(at, 1, step.skip);
        let timer = self.timer();
        let shape = self.program.map(step.out);
        let finished = self.lowered.forward[at].finished;
        let main = finished[0].map_or_else(|| self.range(step.main), |id| self.buffer(Some(id)));
        let skip = finished[1].map_or_else(|| self.range(step.skip), |id| self.buffer(Some(id)));
        let out = self.range(step.out);
        // Outside training the result takes the place of the branch.
        let in_place = main == out;
        let [main, skip, out] = views(self.arena, [if in_place { 0..0 } else { main }, skip, out]);
        if !in_place {
            copy(main, out);
        }
        let skip: &[f32] = if step.skip == Program::INPUT { self.patch } else { skip };
        let affine = |map: MapId, finished: bool| {
            self.state.deferred[map.0].as_ref().filter(|_| !finished).map(|d| &d.affine)
        };
        let identity = identity(self.program.batch * shape.channels);
        let main_affine = affine(step.main, finished[0].is_some()).unwrap_or(&identity);
        let skip_affine = affine(step.skip, finished[1].is_some());
        add_activate(self.cpu, out, skip, shape.voxels(), main_affine, skip_affine, step.slope);
        if let Some(curved) = &step.curve {
            bend(curved, self.parameters, out, shape);
        }
        timer.stop(&mut self.times, 0.0, 0, || format!("add {} @ {}", shape.channels, join(shape.size)));
    }

    fn pool(&mut self, at: usize, step: &Pool) {
        self.finish(at, 0, step.input);
        let timer = self.timer();
        let (from, shape) = (self.program.map(step.input), self.program.map(step.out));
        let finished = self.lowered.forward[at].finished[0];
        let input = finished.map_or_else(|| self.range(step.input), |id| self.buffer(Some(id)));
        let [input, out] = views(self.arena, [input, self.range(step.out)]);
        avg_pool3d(input, from.size, step.kernel, out);
        timer.stop(&mut self.times, 0.0, 0, || format!("average {} @ {}", shape.channels, join(shape.size)));
    }
}

pub(in crate::engine) fn transposed_name(shape: &glioseg_kernels::TransposedShape) -> String {
    let [z, y, x] = shape.output();
    format!(
        "transposed {} -> {} @ {z}x{y}x{x}, {}",
        shape.in_channels,
        shape.out_channels,
        join(shape.kernel)
    )
}

pub(in crate::engine) fn join(axes: [usize; 3]) -> String {
    axes.map(|a| a.to_string()).join("x")
}

pub(super) fn copy(from: &[f32], to: &mut [f32]) {
    to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
}

/// Multiplies every channel of every sample with its factor.
pub(super) fn scale_channels(values: &mut [f32], factors: &[f32]) {
    let voxels = values.len() / factors.len();
    values.par_chunks_mut(voxels).zip(factors).for_each(|(values, &factor)| {
        for value in values {
            *value *= factor;
        }
    });
}

/// Whether a normalisation follows an attention whose input is added behind it.
pub(in crate::engine) fn adds_behind(norm: Option<&(Norm, f32)>, residual: bool) -> bool {
    norm.is_some() && residual
}
