//! Where everything of a program lies in memory, decided before its first step.
//!
//! Normalisation and activation make no pass over memory of their own here: a map holds what its convolution wrote, and whoever
//! reads it applies what is *deferred*. So a reader that cannot (attention, pooling, an addition behind an activation) needs a
//! finished copy for a moment, and the backward pass reads maps as they were written.

use glioseg_kernels::{
    Algorithm, AxialShape, ConvShape, Cpu, PackedBackwardData, PackedConv, PackedTransposed, Scratch,
    TransposedShape, Upsampling, backward_weights_scratch, buffer_bytes,
};

use crate::program::{
    Attention, BackwardStep, BufferId, Conv, Epilogue, Lifetimes, MapId, Meeting, Placement, Program, Step,
};

/// Buffers of a step of the forward pass.
#[derive(Debug, Clone, Default)]
pub(super) struct ForwardBuffers {
    /// Inputs with what is deferred done, where the step cannot do it as it reads.
    pub(super) finished: [Option<BufferId>; 2],
    /// Prepared weights that are made in every pass: of the transposed convolution, of the convolution.
    pub(super) packed: [Option<BufferId>; 2],
    /// The upsampled map, where it is made as a whole.
    pub(super) between: Option<BufferId>,
    /// What the kernels take next to their operands.
    pub(super) scratch: Option<BufferId>,
    /// Maps between the axes of attention, and its result before a normalisation.
    pub(super) kept: Vec<BufferId>,
}

/// Buffers of a step of the backward pass.
#[derive(Debug, Clone, Default)]
pub(super) struct BackwardBuffers {
    /// Gradient of every input, finished as the step read it; it is led back to what was written in place.
    pub(super) results: [Option<BufferId>; 2],
    /// A copy for that, where two inputs have the same gradient and it is added to others.
    pub(super) raw: [Option<BufferId>; 2],
    /// Prepared weights for every input.
    pub(super) packed: [Option<BufferId>; 2],
    /// What attention passes from axis to axis.
    pub(super) between: [Option<BufferId>; 2],
    /// What the kernels take next to their operands, one call after the other.
    pub(super) scratch: Option<BufferId>,
}

/// A program's memory.
#[derive(Debug)]
pub(super) struct Lowered {
    pub(super) placement: Placement,
    /// Values of every map as they were written; none for the input, which the caller holds.
    pub(super) maps: Vec<Option<BufferId>>,
    /// Gradients of every map as it was written.
    pub(super) gradients: Vec<Option<BufferId>>,
    pub(super) forward: Vec<ForwardBuffers>,
    pub(super) backward: Vec<BackwardBuffers>,
    /// For the probabilities of a head, outside training.
    pub(super) probabilities: Option<BufferId>,
    /// Whether prepared weights stay between passes, as [`ForwardBuffers::packed`].
    pub(super) keeps: Vec<[bool; 2]>,
    /// Bytes of all that stay.
    pub(super) kept_bytes: usize,
    /// Bytes of scratch that the threads keep.
    pub(super) scratch_bytes: usize,
    /// The most values that are alive at one step.
    #[cfg(test)]
    bound: usize,
}

/// The slope of the activation that is deferred with a map, 1 for a normalisation alone; `None` if nothing is deferred.
pub(in crate::engine) fn deferred_slope(step: &Step) -> Option<f32> {
    match step {
        Step::Block(crate::program::Block { epilogue, .. })
        | Step::UpBlock(crate::program::UpBlock { epilogue, .. }) => of_epilogue(epilogue),
        Step::Attention(Attention { norm: Some((_, slope)), residual: false, .. }) => Some(*slope),
        _ => None,
    }
}

fn of_epilogue(epilogue: &Epilogue) -> Option<f32> {
    if epilogue.curve.is_some() {
        // A curve is drawn at once; a normalisation behind it can wait.
        return (epilogue.nonlin_first && epilogue.norm.is_some()).then_some(1.0);
    }
    match (epilogue.norm, epilogue.slope) {
        (Some(_), Some(_)) if epilogue.nonlin_first => Some(1.0),
        (Some(_), slope) => Some(slope.unwrap_or(1.0)),
        (None, slope) => slope,
    }
}

/// Sizes of a convolution of maps with `channels` channels together.
pub(in crate::engine) fn conv_shape(
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
pub(in crate::engine) fn transposed_shape(
    program: &Program,
    conv: &Conv,
    from: MapId,
    channels: usize,
) -> TransposedShape {
    let below = program.map(from);
    TransposedShape {
        batch: program.batch,
        in_channels: below.channels,
        out_channels: channels,
        input: below.size,
        kernel: conv.kernel,
    }
}

/// Sizes of an attention along an axis.
pub(in crate::engine) fn axial_shape(program: &Program, step: &Attention, axis: usize) -> AxialShape {
    let map = program.map(step.input);
    AxialShape {
        batch: program.batch,
        channels: map.channels,
        size: map.size,
        axis,
        heads: step.heads,
        dim_heads: step.dim_heads,
    }
}

struct Lowering<'a> {
    program: &'a Program,
    cpu: Cpu,
    algorithm: Algorithm,
    /// Bytes of prepared weights that may still be kept.
    budget: usize,
    /// What is enough for every call.
    scratch: Scratch,
    lives: Lifetimes,
    deferred: Vec<Option<f32>>,
    readers: Vec<usize>,
    maps: Vec<Option<BufferId>>,
    gradients: Vec<Option<BufferId>>,
    keeps: Vec<[bool; 2]>,
    kept_bytes: usize,
}

impl Lowered {
    /// Gives everything its place; at most `budget` bytes of prepared weights stay between passes.
    pub(super) fn new(program: &Program, cpu: Cpu, algorithm: Algorithm, budget: usize) -> Self {
        let mut deferred = vec![None; program.maps.len()];
        for step in &program.forward {
            deferred[step.out().0] = deferred_slope(step);
        }
        let mut lowering = Lowering {
            program,
            cpu,
            algorithm,
            budget: if program.mode.is_training() { 0 } else { budget },
            scratch: Scratch::default(),
            lives: Lifetimes::default(),
            deferred,
            readers: program.readers(),
            maps: vec![None; program.maps.len()],
            gradients: vec![None; program.maps.len()],
            keeps: vec![],
            kept_bytes: 0,
        };
        let mut forward: Vec<ForwardBuffers> =
            program.forward.iter().enumerate().map(|(at, step)| lowering.forward(at, step)).collect();
        let end = program.forward.len();
        let mut probabilities = None;
        for &head in &program.heads {
            lowering.touch_map(head, end);
            if program.mode.is_training() {
                let id = lowering.gradient(head);
                lowering.lives.touch(id, end);
            }
        }
        if let (false, Some(&largest)) = (program.mode.is_training(), program.heads.first()) {
            // Full resolution comes first.
            probabilities = Some(lowering.moment(program.values(largest), end));
        }
        let backward = program
            .backward
            .iter()
            .enumerate()
            .map(|(at, step)| lowering.backward(end + 1 + at, step, &mut forward))
            .collect();
        let Lowering { lives, maps, gradients, keeps, kept_bytes, scratch, .. } = lowering;
        Self {
            placement: lives.place(),
            maps,
            gradients,
            forward,
            backward,
            probabilities,
            keeps,
            kept_bytes,
            scratch_bytes: scratch.bytes_of_threads(),
            #[cfg(test)]
            bound: lives.bound(),
        }
    }
}

impl Lowering<'_> {
    /// A buffer that holds something at one step only.
    fn moment(&mut self, len: usize, at: usize) -> BufferId {
        let id = self.lives.add(len);
        self.lives.touch(id, at);
        id
    }

    fn touch_map(&mut self, map: MapId, at: usize) {
        if let Some(id) = self.maps[map.0] {
            self.lives.touch(id, at);
        }
    }

    fn gradient(&mut self, map: MapId) -> BufferId {
        if let Some(id) = self.gradients[map.0] {
            return id;
        }
        let id = self.lives.add(self.program.values(map));
        self.gradients[map.0] = Some(id);
        id
    }

    /// Prepared weights of `len` values: kept while there is room, else made in every pass.
    fn packed(&mut self, len: usize, at: usize) -> (Option<BufferId>, bool) {
        let bytes = buffer_bytes(len);
        if bytes <= self.budget {
            self.budget -= bytes;
            self.kept_bytes += bytes;
            return (None, true);
        }
        (Some(self.moment(len, at)), false)
    }

    /// What calls at this step take next to their operands.
    fn scratch(&mut self, scratch: Scratch, at: usize) -> Option<BufferId> {
        self.scratch = self.scratch.max(scratch);
        (scratch.lent > 0).then(|| self.moment(scratch.lent, at))
    }

    /// Prepared weights and scratch of a convolution.
    fn convolution(&mut self, at: usize, shape: &ConvShape, buffers: &mut ForwardBuffers) -> bool {
        let keeps;
        (buffers.packed[1], keeps) = self.packed(PackedConv::packed_len(shape, self.algorithm), at);
        buffers.scratch = self.scratch(PackedConv::scratch(self.cpu, shape, self.algorithm), at);
        keeps
    }

    fn forward(&mut self, at: usize, step: &Step) -> ForwardBuffers {
        let program = self.program;
        let mut buffers = ForwardBuffers::default();
        let mut keeps = [false; 2];
        for input in step.inputs() {
            self.touch_map(input, at);
        }
        let out = step.out();
        match step {
            Step::AddActivate(add) if self.in_place(add.main) => self.maps[out.0] = self.maps[add.main.0],
            _ => self.maps[out.0] = Some(self.lives.add(program.values(out))),
        }
        self.touch_map(out, at);
        match step {
            Step::Block(crate::program::Block { inputs, conv, .. }) => {
                let channels = inputs.iter().map(|&i| program.map(i).channels).sum();
                let shape = conv_shape(program, conv, channels, inputs[0], out);
                keeps[1] = self.convolution(at, &shape, &mut buffers);
            }
            Step::Head(head) => {
                let channels = program.map(head.input).channels;
                let shape = conv_shape(program, &head.conv, channels, head.input, out);
                keeps[1] = self.convolution(at, &shape, &mut buffers);
            }
            Step::Up(up) => {
                let shape = transposed_shape(program, &up.conv, up.input, program.map(out).channels);
                (buffers.packed[0], keeps[0]) = self.packed(PackedTransposed::packed_len(&shape), at);
                buffers.scratch = self.scratch(PackedTransposed::scratch(&shape), at);
            }
            Step::UpBlock(block) => {
                let up = transposed_shape(program, &block.up, block.below, block.between.channels);
                (buffers.packed[0], keeps[0]) = self.packed(PackedTransposed::packed_len(&up), at);
                let channels = block.between.channels + program.map(block.skip).channels;
                let shape = conv_shape(program, &block.conv, channels, block.skip, out);
                let len = PackedConv::packed_len(&shape, self.algorithm);
                (buffers.packed[1], keeps[1]) = self.packed(len, at);
                let scratch = if Upsampling::slabs(&up) == 1 {
                    buffers.between = Some(self.moment(up.out_len(), at));
                    let convolution = PackedConv::scratch(self.cpu, &shape, self.algorithm);
                    PackedTransposed::scratch(&up).max(convolution)
                } else {
                    Upsampling::scratch(self.cpu, &up, &shape, self.algorithm)
                };
                buffers.scratch = self.scratch(scratch, at);
            }
            Step::AddActivate(_) | Step::Pool(_) | Step::Attention(_) => {
                self.finished(at, step, &mut buffers);
            }
        }
        self.keeps.push(keeps);
        buffers
    }

    /// Whether a step may write over the map: nobody else reads it, now or in a backward pass.
    fn in_place(&self, map: MapId) -> bool {
        !self.program.mode.is_training() && self.readers[map.0] == 1 && map != Program::INPUT
    }

    /// Finished inputs, and what attention keeps.
    fn finished(&mut self, at: usize, step: &Step, buffers: &mut ForwardBuffers) {
        for (i, input) in step.inputs().into_iter().enumerate() {
            let Some(slope) = self.deferred[input.0] else { continue };
            #[expect(clippy::float_cmp, reason = "1 means exactly: no activation")]
            let needed = match step {
                // An addition takes normalised values, but none whose activation is deferred.
                Step::AddActivate(_) => slope != 1.0,
                // Attention can write over what nobody else reads.
                Step::Attention(_) => !self.in_place(input),
                _ => true,
            };
            if needed {
                buffers.finished[i] = Some(self.moment(self.program.values(input), at));
            }
        }
        let Step::Attention(attention) = step else { return };
        let shapes = [0, 1, 2].map(|axis| axial_shape(self.program, attention, axis));
        let scratch = shapes.iter().fold(Scratch::default(), |most, s| most.max(s.scratch(self.cpu)));
        buffers.scratch = self.scratch(scratch, at);
        if self.program.mode.is_training() {
            let len = self.program.values(attention.out);
            let between = if attention.sum { 0 } else { 2 };
            let before_norm = usize::from(attention.norm.is_some() && attention.residual);
            buffers.kept = (0..between + before_norm).map(|_| self.moment(len, at)).collect();
        }
    }

    fn backward(
        &mut self,
        at: usize,
        step: &BackwardStep,
        forward: &mut [ForwardBuffers],
    ) -> BackwardBuffers {
        let program = self.program;
        let BackwardStep { step: index, meetings } = step;
        let step = &program.forward[*index];
        let mut buffers = BackwardBuffers::default();
        let of_out = self.gradient(step.out());
        self.lives.touch(of_out, at);
        let reads = matches!(step, Step::Block(_) | Step::Up(_) | Step::Head(_));
        for (i, (input, &meeting)) in step.inputs().into_iter().zip(meetings).enumerate() {
            let deferred = self.deferred[input.0].is_some();
            if reads || deferred {
                self.touch_map(input, at);
            }
            if meeting == Meeting::Unused {
                continue;
            }
            let id = self.gradient(input);
            self.lives.touch(id, at);
            let len = program.values(input);
            buffers.results[i] = match step {
                Step::AddActivate(_) => Some(of_out),
                _ if meeting == Meeting::Write => Some(id),
                _ => Some(self.moment(len, at)),
            };
            if deferred && meeting == Meeting::Add && matches!(step, Step::AddActivate(_)) {
                buffers.raw[i] = Some(self.moment(len, at));
            }
        }
        match step {
            Step::Block(block) => {
                if block.epilogue.nonlin_first && block.epilogue.norm.is_some() {
                    self.touch_map(block.out, at);
                }
                self.conv_backward(at, &block.conv, (&block.inputs, block.out), meetings, &mut buffers);
            }
            Step::Head(head) => {
                self.conv_backward(at, &head.conv, (&[head.input], head.out), meetings, &mut buffers);
            }
            Step::Up(up) => {
                let shape = transposed_shape(program, &up.conv, up.input, program.map(up.out).channels);
                let shape = shape.gradient_shape();
                let len = PackedConv::packed_len(&shape, Algorithm::Direct);
                buffers.packed[0] = Some(self.moment(len, at));
                let of_weights = backward_weights_scratch(self.cpu, &shape, Algorithm::Auto);
                let of_data = PackedConv::scratch(self.cpu, &shape, Algorithm::Direct);
                buffers.scratch = self.scratch(of_weights.max(of_data), at);
            }
            // Its sign is that of the sum.
            Step::AddActivate(add) => self.touch_map(add.out, at),
            Step::Attention(attention) => {
                let own = &forward[*index];
                for &id in own.kept.iter().chain(own.finished.iter().flatten()) {
                    self.lives.touch(id, at);
                }
                self.touch_map(attention.input, at);
                let len = program.values(attention.input);
                buffers.between = [Some(self.moment(len, at)), Some(self.moment(len, at))];
                let shapes = [0, 1, 2].map(|axis| axial_shape(program, attention, axis));
                let scratch =
                    shapes.iter().fold(Scratch::default(), |most, s| most.max(s.backward_scratch(self.cpu)));
                buffers.scratch = self.scratch(scratch, at);
            }
            Step::Pool(_) | Step::UpBlock(_) => {}
        }
        buffers
    }

    fn conv_backward(
        &mut self,
        at: usize,
        conv: &Conv,
        (inputs, out): (&[MapId], MapId),
        meetings: &[Meeting],
        buffers: &mut BackwardBuffers,
    ) {
        let wanted = inputs.iter().enumerate().filter(|(i, _)| meetings[*i] != Meeting::Unused);
        let parts: Vec<ConvShape> = wanted
            .map(|(_, &input)| conv_shape(self.program, conv, self.program.map(input).channels, input, out))
            .collect();
        // The weights' gradient first, then one input after the other.
        let channels = inputs.iter().map(|&input| self.program.map(input).channels).sum();
        let whole = conv_shape(self.program, conv, channels, inputs[0], out);
        let of_weights = backward_weights_scratch(self.cpu, &whole, Algorithm::Auto);
        let scratch = parts.iter().fold(of_weights, |most, part| {
            most.max(PackedBackwardData::scratch(self.cpu, part, self.algorithm))
        });
        buffers.scratch = self.scratch(scratch, at);
        if let Some(len) = parts.iter().map(|p| PackedBackwardData::packed_len(p, self.algorithm)).max() {
            buffers.packed = [Some(self.moment(len, at)); 2];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NetError;
    use crate::program::Mode;
    use crate::spec::NetworkSpec;

    /// Networks of nnU-Net's size, at a patch that tests can hold in mind.
    fn networks() -> Vec<(&'static str, NetworkSpec)> {
        let features = [32, 64, 128, 256, 320, 320];
        let stages: Vec<_> = features
            .into_iter()
            .enumerate()
            .map(|(s, f)| (f, [3; 3], [if s == 0 { 1 } else { 2 }; 3]))
            .collect();
        vec![
            ("plain", NetworkSpec::brats(3)),
            ("residual", NetworkSpec::residual(4, 3, &stages, &[1, 3, 4, 6, 6, 6])),
        ]
    }

    #[test]
    fn the_arena_is_hardly_larger_than_what_is_alive_together() -> Result<(), NetError> {
        let cpu = Cpu::detect()?;
        for (name, spec) in networks() {
            let train = Mode::Train { heads: vec![true, true, true, true, false] };
            for (batch, mode) in [(1, Mode::Predict), (1, Mode::Evaluate), (2, train)] {
                for budget in [0, 64 << 20] {
                    let program = Program::new(&spec, batch, [64; 3], mode.clone())?;
                    let lowered = Lowered::new(&program, cpu, Algorithm::Auto, budget);
                    let (len, bound) = (lowered.placement.len, lowered.bound);
                    let share = len as f64 / bound as f64;
                    assert!((1.0..=1.1).contains(&share), "{name}, {mode:?}: {len} for {bound}");
                }
            }
        }
        Ok(())
    }
}
