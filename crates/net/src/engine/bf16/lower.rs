//! Where everything of a program lies in memory, in bf16.

use std::ops::Range;

use glioseg_kernels::{
    ConvShape, Cpu, PackedTiles, Scratch, bf16_values, tile_conv3d_backward_data_scratch,
    tile_conv3d_backward_weights_scratch, tile_conv3d_scratch, tile_transposed_scratch, tile_upsampling_fits,
};

use crate::engine::cpu::{axial_shape, conv_shape, deferred_slope, transposed_shape};
use crate::program::{
    BackwardStep, Block, BufferId, Conv, Epilogue, Lifetimes, MapId, Meeting, Placement, Program, Step,
    UpBlock,
};

/// Buffers of a step.
#[derive(Debug, Clone, Default)]
pub(super) struct Buffers {
    /// The network's input as a map, where a step that is not a convolution reads it.
    pub(super) input: Option<BufferId>,
    /// The upsampled map, where it is not made as it is read.
    pub(super) between: Option<BufferId>,
    /// Maps in single precision, `[n, c, z, y, x]`: what attention reads and writes, or one that is changed.
    pub(super) planar: [Option<BufferId>; 2],
}

/// Maps in single precision, `[n, c, z, y, x]`, of the backward pass of an attention.
#[derive(Debug, Clone, Copy)]
pub(super) struct AttentionBuffers {
    /// The input, what every axis writes, the gradient of the output, and what leads from axis to axis.
    pub(super) x: BufferId,
    pub(super) kept: [BufferId; 3],
    pub(super) grad: BufferId,
    pub(super) between: [BufferId; 2],
    pub(super) result: BufferId,
}

/// Buffers of a step of the backward pass.
#[derive(Debug, Clone, Default)]
pub(super) struct BackwardBuffers {
    /// The gradient of a head's logits, rounded.
    pub(super) rounded: Option<BufferId>,
    /// What the kernels take next to their operands.
    pub(super) scratch: Option<BufferId>,
    pub(super) attention: Option<AttentionBuffers>,
}

/// A program's memory, in values of f32.
#[derive(Debug)]
pub(super) struct Lowered {
    pub(super) placement: Placement,
    maps: Vec<Option<BufferId>>,
    /// Gradients of every map as its readers see it; they are led back to what was written in place.
    gradients: Vec<Option<BufferId>>,
    pub(super) steps: Vec<Buffers>,
    pub(super) backward: Vec<BackwardBuffers>,
    /// For the probabilities of a head, outside training.
    pub(super) probabilities: Option<BufferId>,
    pub(super) packed_bytes: usize,
    pub(super) scratch: Scratch,
}

/// Whether what follows a convolution takes a way around through single precision.
pub(super) fn detour(epilogue: &Epilogue) -> bool {
    epilogue.curve.is_some() || (epilogue.nonlin_first && epilogue.norm.is_some())
}

struct Lowering<'a> {
    program: &'a Program,
    lives: Lifetimes,
    maps: Vec<Option<BufferId>>,
    gradients: Vec<Option<BufferId>>,
    readers: Vec<usize>,
    /// The slope of what is deferred with a map.
    slopes: Vec<Option<f32>>,
    packed_bytes: usize,
    scratch: Scratch,
}

impl Lowered {
    pub(super) fn new(program: &Program, cpu: Cpu) -> Self {
        let mut slopes = vec![None; program.maps.len()];
        for step in &program.forward {
            slopes[step.out().0] = deferred_slope(step);
        }
        let mut lowering = Lowering {
            program,
            lives: Lifetimes::default(),
            maps: vec![None; program.maps.len()],
            gradients: vec![None; program.maps.len()],
            readers: program.readers(),
            slopes,
            packed_bytes: 0,
            scratch: Scratch::default(),
        };
        let mut steps: Vec<Buffers> =
            program.forward.iter().enumerate().map(|(at, step)| lowering.step(at, step, cpu)).collect();
        let end = program.forward.len();
        let training = program.mode.is_training();
        for &head in &program.heads {
            lowering.touch(head, end);
            if training {
                lowering.touch_gradient(head, end);
            }
        }
        // Full resolution comes first.
        let largest = program.heads.first().filter(|_| !training);
        let probabilities = largest.map(|&largest| lowering.moment(program.values(largest), end));
        let backward = program.backward.iter().enumerate();
        let backward =
            backward.map(|(at, step)| lowering.backward(end + 1 + at, step, &mut steps, cpu)).collect();
        let Lowering { lives, maps, gradients, packed_bytes, scratch, .. } = lowering;
        let placement = lives.place();
        Self { placement, maps, gradients, steps, backward, probabilities, packed_bytes, scratch }
    }

    /// Where the gradient of a map lies.
    pub(super) fn gradient(&self, map: MapId) -> Range<usize> {
        self.buffer(self.gradients[map.0])
    }

    /// Where a map lies; nowhere for the input.
    pub(super) fn range(&self, map: MapId) -> Range<usize> {
        self.buffer(self.maps[map.0])
    }

    /// Where a buffer lies; nowhere if there is none.
    pub(super) fn buffer(&self, id: Option<BufferId>) -> Range<usize> {
        id.map_or(0..0, |id| self.placement.range(id))
    }
}

impl Lowering<'_> {
    /// A buffer that holds something at one step only.
    fn moment(&mut self, len: usize, at: usize) -> BufferId {
        let id = self.lives.add(len);
        self.lives.touch(id, at);
        id
    }

    fn touch(&mut self, map: MapId, at: usize) {
        if let Some(id) = self.maps[map.0] {
            self.lives.touch(id, at);
        }
    }

    fn convolution(&mut self, shape: &ConvShape, scratch: Scratch) {
        self.packed_bytes += PackedTiles::conv_bytes(shape);
        self.scratch = self.scratch.max(scratch);
    }

    fn step(&mut self, at: usize, step: &Step, cpu: Cpu) -> Buffers {
        let program = self.program;
        let mut buffers = Buffers::default();
        for input in step.inputs() {
            self.touch(input, at);
        }
        let out = step.out();
        let values = program.values(out);
        self.maps[out.0] = match step {
            // Nobody else reads it: the sum takes its place.
            Step::AddActivate(add)
                if self.readers[add.main.0] == 1
                    && add.main != Program::INPUT
                    && !program.mode.is_training() =>
            {
                self.maps[add.main.0]
            }
            Step::Head(_) => Some(self.lives.add(values)),
            _ => Some(self.lives.add(bf16_values(values))),
        };
        self.touch(out, at);
        let reads_input = step.inputs().contains(&Program::INPUT);
        if reads_input && !matches!(step, Step::Block(_) | Step::Head(_)) {
            buffers.input = Some(self.moment(bf16_values(program.values(Program::INPUT)), at));
        }
        match step {
            Step::Block(Block { inputs, conv, epilogue, .. }) => {
                let channels = inputs.iter().map(|&i| program.map(i).channels).sum();
                let shape = conv_shape(program, conv, channels, inputs[0], out);
                self.convolution(&shape, tile_conv3d_scratch(&shape, None));
                buffers.planar[0] = detour(epilogue).then(|| self.moment(values, at));
            }
            Step::Head(head) => {
                let shape =
                    conv_shape(program, &head.conv, program.map(head.input).channels, head.input, out);
                self.convolution(&shape, tile_conv3d_scratch(&shape, None));
            }
            Step::Up(up) => {
                let shape = transposed_shape(program, &up.conv, up.input, program.map(out).channels);
                self.packed_bytes += PackedTiles::transposed_bytes(&shape);
                self.scratch = self.scratch.max(tile_transposed_scratch(&shape));
            }
            Step::UpBlock(UpBlock { below, up, between, skip, conv, epilogue, .. }) => {
                let up = transposed_shape(program, up, *below, between.channels);
                let shape =
                    conv_shape(program, conv, between.channels + program.map(*skip).channels, *skip, out);
                self.packed_bytes += PackedTiles::transposed_bytes(&up);
                if tile_upsampling_fits(&shape) {
                    self.convolution(&shape, tile_conv3d_scratch(&shape, Some(&up)));
                } else {
                    buffers.between = Some(self.moment(bf16_values(up.out_len()), at));
                    self.convolution(
                        &shape,
                        tile_conv3d_scratch(&shape, None).max(tile_transposed_scratch(&up)),
                    );
                }
                buffers.planar[0] = detour(epilogue).then(|| self.moment(values, at));
            }
            Step::AddActivate(add) => {
                #[expect(clippy::float_cmp, reason = "1 means exactly: no activation")]
                let main_activated = self.slopes[add.main.0].is_some_and(|slope| slope != 1.0);
                if add.curve.is_some() || main_activated {
                    buffers.planar[0] = Some(self.moment(values, at));
                }
            }
            Step::Attention(attention) => {
                buffers.planar = [Some(self.moment(values, at)), Some(self.moment(values, at))];
                for axis in 0..3 {
                    self.scratch = self.scratch.max(axial_shape(program, attention, axis).scratch(cpu));
                }
            }
            Step::Pool(_) => {}
        }
        buffers
    }

    fn touch_gradient(&mut self, map: MapId, at: usize) {
        let id = self.gradients[map.0].unwrap_or_else(|| {
            // Those of logits come from the loss.
            let values = self.program.values(map);
            let logits = self.program.heads.contains(&map);
            self.lives.add(if logits { values } else { bf16_values(values) })
        });
        self.gradients[map.0] = Some(id);
        self.lives.touch(id, at);
    }

    fn backward(
        &mut self,
        at: usize,
        BackwardStep { step: index, meetings }: &BackwardStep,
        steps: &mut [Buffers],
        cpu: Cpu,
    ) -> BackwardBuffers {
        let program = self.program;
        let step = &program.forward[*index];
        let out = step.out();
        let mut buffers = BackwardBuffers::default();
        self.touch_gradient(out, at);
        for (input, &meeting) in step.inputs().into_iter().zip(meetings) {
            if meeting != Meeting::Unused {
                self.touch_gradient(input, at);
            }
        }
        // Normalisation and activation are led back here, by way of what was written.
        if self.slopes[out.0].is_some() || matches!(step, Step::AddActivate(_)) {
            self.touch(out, at);
        }
        let inputs = step.inputs();
        if matches!(step, Step::Block(_) | Step::Head(_) | Step::Up(_) | Step::Attention(_)) {
            for &input in &inputs {
                self.touch(input, at);
            }
            if let Some(id) = steps[*index].input {
                self.lives.touch(id, at);
            }
        }
        match step {
            Step::Block(block) => {
                self.conv_backward(at, &block.conv, (&inputs, out), meetings, &mut buffers);
            }
            Step::Head(head) => {
                buffers.rounded = Some(self.moment(bf16_values(program.values(out)), at));
                self.conv_backward(at, &head.conv, (&inputs, out), meetings, &mut buffers);
            }
            Step::Up(up) => {
                let shape = transposed_shape(program, &up.conv, up.input, program.map(out).channels);
                let shape = shape.gradient_shape();
                self.convolution(&shape, tile_conv3d_scratch(&shape, None));
                buffers.scratch = self.lent(tile_conv3d_backward_weights_scratch(&shape), at);
            }
            Step::Attention(attention) => {
                let len = program.values(attention.input);
                let mut map = || self.moment(len, at);
                buffers.attention = Some(AttentionBuffers {
                    x: map(),
                    kept: [map(), map(), map()],
                    grad: map(),
                    between: [map(), map()],
                    result: map(),
                });
                let shapes = [0, 1, 2].map(|axis| axial_shape(program, attention, axis));
                let scratch =
                    shapes.iter().fold(Scratch::default(), |most, s| most.max(s.backward_scratch(cpu)));
                buffers.scratch = self.lent(scratch, at);
            }
            Step::AddActivate(_) | Step::Pool(_) | Step::UpBlock(_) => {}
        }
        buffers
    }

    /// What calls at this step take next to their operands.
    fn lent(&mut self, scratch: Scratch, at: usize) -> Option<BufferId> {
        self.scratch = self.scratch.max(scratch);
        (scratch.lent > 0).then(|| self.moment(scratch.lent, at))
    }

    fn conv_backward(
        &mut self,
        at: usize,
        conv: &Conv,
        (inputs, out): (&[MapId], MapId),
        meetings: &[Meeting],
        buffers: &mut BackwardBuffers,
    ) {
        let program = self.program;
        let channels = inputs.iter().map(|&input| program.map(input).channels).sum();
        let shape = conv_shape(program, conv, channels, inputs[0], out);
        buffers.scratch = self.lent(tile_conv3d_backward_weights_scratch(&shape), at);
        for (&input, _) in inputs.iter().zip(meetings).filter(|(_, m)| **m != Meeting::Unused) {
            let part = ConvShape { in_channels: program.map(input).channels, ..shape };
            self.packed_bytes += PackedTiles::backward_data_bytes(&part);
            self.scratch = self.scratch.max(tile_conv3d_backward_data_scratch(&part));
        }
    }
}
