//! The forward pass.

use std::ops::Range;

use glioseg_kernels::{
    ChannelStats, PackedTiles, TileBranch, TileCall, TileInput, TileOutput, TileSource, TileUpsampling,
    bf16_view, bf16_view_mut, channel_stats, tile_add_activate, tile_avg_pool, tile_conv3d, tile_from_planar,
    tile_scale_channels, tile_to_planar, tile_transposed, tile_upsampling_fits,
};
use half::bf16;

use super::lower::detour;
use super::{Packed, Pass};
use crate::engine::cpu::{Timer, conv_shape, join, transposed_name, transposed_shape};
use crate::engine::norm::{Deferred, reads_statistics};
use crate::engine::shared::{bend, dropout_factors, layer_seed, views};
use crate::program::{
    AddActivate, Block, Conv, Curved, Epilogue, Head, MapId, Norm, Pool, Program, Step, Up, UpBlock,
};

/// A map with what is deferred.
pub(super) fn source<'a>(
    data: &'a [f32],
    values: usize,
    channels: usize,
    deferred: Option<&'a Deferred>,
) -> TileSource<'a> {
    let prologue = deferred.map(Deferred::prologue);
    TileSource { data: &bf16_view(data)[..values], channels, prologue }
}

impl Pass<'_> {
    /// Runs every step; dropout draws from `seed` and the number of the step.
    pub(super) fn forward(&mut self, seed: u64) {
        self.state.deferred.iter_mut().for_each(|d| *d = None);
        for (at, step) in self.program.forward.iter().enumerate() {
            match step {
                Step::Block(step) => self.block(at, step, seed),
                Step::UpBlock(step) => self.up_block(at, step),
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

    /// Whether the convolution should add up what it writes.
    fn wants_statistics(&self, epilogue: &Epilogue) -> bool {
        epilogue.norm.is_some_and(|n| reads_statistics(self.program, &n)) && !epilogue.nonlin_first
    }

    fn block(&mut self, at: usize, step: &Block, seed: u64) {
        let want = self.wants_statistics(&step.epilogue);
        let mut stats = self.convolve(at, &step.inputs, &step.conv, step.out, want);
        if step.epilogue.dropout > 0.0 && self.program.mode.is_training() {
            self.drop_channels(step.epilogue.dropout, step.out, layer_seed(seed, at), stats.as_mut());
        }
        self.epilogue(at, &step.epilogue, step.out, stats);
    }

    /// Drops whole channels with probability `p` and scales the others up, and their sums.
    fn drop_channels(&mut self, p: f64, out: MapId, seed: u64, stats: Option<&mut ChannelStats>) {
        let shape = self.program.map(out);
        let mask = dropout_factors(p, self.program.batch * shape.channels, seed);
        let map = &mut self.arena[self.lowered.range(out)];
        let map = &mut bf16_view_mut(map)[..self.program.values(out)];
        tile_scale_channels(map, &mask, [shape.channels, shape.voxels()]);
        if let Some(stats) = stats {
            for (row, &factor) in mask.iter().enumerate() {
                let factor = f64::from(factor);
                stats.sum[row] *= factor;
                stats.sum_sq[row] *= factor * factor;
            }
        }
        self.state.masks[out.0] = Some(mask);
    }

    fn head(&mut self, at: usize, step: &Head) {
        self.convolve(at, &[step.input], &step.conv, step.out, false);
    }

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
        let second = inputs.get(1).map_or(0..0, |&map| self.lowered.range(map));
        let [a, b, target] =
            views(self.arena, [self.lowered.range(inputs[0]), second, self.lowered.range(out)]);
        let memory = [&*a, &*b];
        let tile_inputs: Vec<TileInput<'_>> = inputs
            .iter()
            .zip(memory)
            .map(|(&map, data)| {
                let channels = program.map(map).channels;
                if map == Program::INPUT {
                    TileInput::Planar { data: self.patch, channels }
                } else {
                    let deferred = self.state.deferred[map.0].as_ref();
                    TileInput::Map(source(data, program.values(map), channels, deferred))
                }
            })
            .collect();
        let weights = self.parameters.values(conv.weight);
        let packed = self.packed[at]
            .conv
            .get(|| PackedTiles::conv(&shape, weights), |packed| packed.refill_conv(&shape, weights));
        timer.packed();
        let bias = conv.bias.map(|id| self.parameters.values(id));
        let mut stats =
            want_stats.then(|| ChannelStats::new(shape.batch, shape.out_channels, shape.out_voxels()));
        let call = TileCall { shape: &shape, inputs: &tile_inputs, weights: packed, bias };
        let is_head = matches!(program.forward[at], Step::Head(_));
        let output = if is_head {
            TileOutput::Planar(target)
        } else {
            TileOutput::Map(&mut bf16_view_mut(target)[..shape.out_len()])
        };
        tile_conv3d(self.amx, &call, output, stats.as_mut());
        timer.stop(&mut self.times, shape.flops(), packed.bytes(), || {
            let inputs: Vec<String> = channels.iter().map(ToString::to_string).collect();
            let (co, kernel, [z, y, x]) = (shape.out_channels, join(shape.kernel), shape.output());
            let stride =
                if shape.stride == [1; 3] { String::new() } else { format!("/{}", join(shape.stride)) };
            format!("conv {} -> {co} @ {z}x{y}x{x}, {kernel}{stride}, tiles", inputs.join("+"))
        });
        stats
    }

    /// A normalisation of a map from its sums, unless statistics were kept.
    pub(super) fn normalisation(
        &mut self,
        norm: &Norm,
        channels: usize,
        slope: f32,
        stats: Option<ChannelStats>,
    ) -> Deferred {
        let stats = || stats.expect("sums of what is normalised");
        let of = (self.program, self.parameters);
        let (deferred, running) = Deferred::normalisation(of, norm, channels, slope, stats);
        self.state.running.extend(running.into_iter().flatten());
        deferred
    }

    /// What follows a convolution, which readers of the map do where they can.
    fn epilogue(&mut self, at: usize, epilogue: &Epilogue, out: MapId, stats: Option<ChannelStats>) {
        let channels = self.program.map(out).channels;
        let rows = self.program.batch * channels;
        if detour(epilogue) {
            let slope = epilogue.slope.unwrap_or(1.0);
            let before = match (&epilogue.norm, epilogue.nonlin_first) {
                (Some(norm), false) => self.normalisation(norm, channels, slope, stats),
                _ => Deferred::activation(rows, slope),
            };
            let behind = epilogue.norm.as_ref().filter(|_| epilogue.nonlin_first);
            self.redraw(at, out, &before, epilogue.curve.as_ref(), behind);
            return;
        }
        self.state.deferred[out.0] = match (&epilogue.norm, epilogue.slope) {
            (Some(norm), slope) => Some(self.normalisation(norm, channels, slope.unwrap_or(1.0), stats)),
            (None, Some(slope)) => Some(Deferred::activation(rows, slope)),
            (None, None) => None,
        };
    }

    /// Normalises, activates and bends a map by way of single precision; a normalisation behind it is deferred.
    fn redraw(
        &mut self,
        at: usize,
        map: MapId,
        first: &Deferred,
        curve: Option<&Curved>,
        norm: Option<&Norm>,
    ) {
        let shape = self.program.map(map);
        let (channels, voxels, len) = (shape.channels, shape.voxels(), self.program.values(map));
        let planar = self.lowered.buffer(self.lowered.steps[at].planar[0]);
        let [values, planar] = views(self.arena, [self.lowered.range(map), planar]);
        tile_to_planar(&source(values, len, channels, Some(first)), voxels, planar);
        if let Some(curve) = curve {
            bend(curve, self.parameters, planar, shape);
        }
        let stats = norm
            .filter(|n| reads_statistics(self.program, n))
            .map(|_| channel_stats(self.cpu, planar, channels, voxels));
        tile_from_planar(planar, [channels, voxels], &mut bf16_view_mut(values)[..len]);
        self.state.deferred[map.0] = norm.map(|norm| self.normalisation(norm, channels, 1.0, stats));
    }

    fn up(&mut self, at: usize, step: &Up) {
        let mut timer = self.timer();
        let channels = self.program.map(step.out).channels;
        let shape = transposed_shape(self.program, &step.conv, step.input, channels);
        let [input, out] = views(self.arena, [self.lowered.range(step.input), self.lowered.range(step.out)]);
        let weights = self.parameters.values(step.conv.weight);
        let packed = self.packed[at].transposed.get(
            || PackedTiles::transposed(&shape, weights),
            |packed| packed.refill_transposed(&shape, weights),
        );
        timer.packed();
        let bias = step.conv.bias.map(|id| self.parameters.values(id));
        let source =
            source(input, shape.in_len(), shape.in_channels, self.state.deferred[step.input.0].as_ref());
        let up = TileUpsampling { shape: &shape, source, weights: packed, bias };
        tile_transposed(self.amx, &up, &mut bf16_view_mut(out)[..shape.out_len()]);
        timer.stop(&mut self.times, shape.flops(), packed.bytes(), || transposed_name(&shape));
    }

    /// The upsampled map is made as it is read, but where several jobs would do that again.
    fn up_block(&mut self, at: usize, step: &UpBlock) {
        let mut timer = self.timer();
        let program = self.program;
        let up_shape = transposed_shape(program, &step.up, step.below, step.between.channels);
        let (made_channels, skip_channels) = (step.between.channels, program.map(step.skip).channels);
        let shape = conv_shape(program, &step.conv, made_channels + skip_channels, step.skip, step.out);
        let ranges = [
            self.lowered.range(step.below),
            self.lowered.range(step.skip),
            self.lowered.buffer(self.lowered.steps[at].between),
            self.lowered.range(step.out),
        ];
        let want = self.wants_statistics(&step.epilogue);
        let [below, skip, between, out] = views(self.arena, ranges);
        let deferred = |map: MapId| self.state.deferred[map.0].as_ref();
        let below = source(below, up_shape.in_len(), up_shape.in_channels, deferred(step.below));
        let skip = source(skip, program.values(step.skip), skip_channels, deferred(step.skip));
        let [up_weights, weights] = [&step.up, &step.conv].map(|c| self.parameters.values(c.weight));
        let [up_bias, bias] = [&step.up, &step.conv].map(|c| c.bias.map(|id| self.parameters.values(id)));
        let Packed { transposed, conv, .. } = &mut self.packed[at];
        let up_packed = transposed.get(
            || PackedTiles::transposed(&up_shape, up_weights),
            |packed| packed.refill_transposed(&up_shape, up_weights),
        );
        let packed =
            conv.get(|| PackedTiles::conv(&shape, weights), |packed| packed.refill_conv(&shape, weights));
        timer.packed();
        let mut stats = want.then(|| ChannelStats::new(shape.batch, shape.out_channels, shape.out_voxels()));
        let upsampling =
            TileUpsampling { shape: &up_shape, source: below, weights: up_packed, bias: up_bias };
        let first = if tile_upsampling_fits(&shape) {
            TileInput::Upsampled(upsampling)
        } else {
            let between = &mut bf16_view_mut(between)[..up_shape.out_len()];
            tile_transposed(self.amx, &upsampling, between);
            TileInput::Map(TileSource::plain(between, made_channels))
        };
        let inputs = [first, TileInput::Map(skip)];
        let call = TileCall { shape: &shape, inputs: &inputs, weights: packed, bias };
        let output = TileOutput::Map(&mut bf16_view_mut(out)[..shape.out_len()]);
        tile_conv3d(self.amx, &call, output, stats.as_mut());
        let bytes = packed.bytes() + up_packed.bytes();
        timer.stop(&mut self.times, shape.flops() + up_shape.flops(), bytes, || {
            let (kernel, [z, y, x]) = (join(shape.kernel), shape.output());
            let (below, co) = (up_shape.in_channels, shape.out_channels);
            format!(
                "conv {made_channels} (of {below})+{skip_channels} -> {co} @ {z}x{y}x{x}, {kernel}, tiles"
            )
        });
        self.epilogue(at, &step.epilogue, step.out, stats);
    }

    /// Where a map lies that a step reads, which is the network's input perhaps: then a rounded copy of it.
    pub(super) fn read_from(&mut self, at: usize, map: MapId) -> Range<usize> {
        if map != Program::INPUT {
            return self.lowered.range(map);
        }
        let range = self.lowered.buffer(self.lowered.steps[at].input);
        let shape = self.program.map(map);
        let to = &mut bf16_view_mut(&mut self.arena[range.clone()])[..self.patch.len()];
        tile_from_planar(self.patch, [shape.channels, shape.voxels()], to);
        range
    }

    fn add_activate(&mut self, at: usize, step: &AddActivate) {
        let timer = self.timer();
        let shape = self.program.map(step.out);
        let len = self.program.values(step.out);
        let (main, skip) = (self.read_from(at, step.main), self.read_from(at, step.skip));
        let out = self.lowered.range(step.out);
        // The result takes the place of the branch where nobody else reads that.
        let in_place = main == out;
        if !in_place {
            let [main, out] = views(self.arena, [main, out.clone()]);
            out.copy_from_slice(&main[..out.len()]);
        }
        let mut main_affine = self.state.deferred[step.main.0].as_ref().map(|d| (d.affine.clone(), d.slope));
        #[expect(clippy::float_cmp, reason = "1 means exactly: no activation")]
        if let Some((affine, slope)) = main_affine.take_if(|(_, slope)| *slope != 1.0) {
            self.redraw(at, step.out, &Deferred { affine, slope, source: None }, None, None);
        }
        let [skip, out] = views(self.arena, [skip, out]);
        let deferred = self.state.deferred[step.skip.0].as_ref();
        let branch = TileBranch {
            data: &bf16_view(skip)[..len],
            affine: deferred.map(|d| &d.affine),
            slope: deferred.map_or(1.0, |d| d.slope),
        };
        let affine = main_affine.as_ref().map(|(affine, _)| affine);
        let out: &mut [bf16] = &mut bf16_view_mut(out)[..len];
        tile_add_activate(out, affine, branch, [shape.channels, shape.voxels()], step.slope);
        if let Some(curve) = &step.curve {
            let first = Deferred::activation(self.program.batch * shape.channels, 1.0);
            self.redraw(at, step.out, &first, Some(curve), None);
        }
        timer.stop(&mut self.times, 0.0, 0, || format!("add {} @ {}", shape.channels, join(shape.size)));
    }

    fn pool(&mut self, at: usize, step: &Pool) {
        let timer = self.timer();
        let (from, shape) = (self.program.map(step.input), self.program.map(step.out));
        let input = self.read_from(at, step.input);
        let [input, out] = views(self.arena, [input, self.lowered.range(step.out)]);
        let deferred = self.state.deferred[step.input.0].as_ref();
        let source = source(input, self.program.values(step.input), from.channels, deferred);
        let out = &mut bf16_view_mut(out)[..self.program.values(step.out)];
        tile_avg_pool(&source, from.size, step.kernel, out);
        timer.stop(&mut self.times, 0.0, 0, || format!("average {} @ {}", shape.channels, join(shape.size)));
    }
}
