//! Where everything of a program lies in memory, in bf16.

use std::ops::Range;

use glioseg_kernels::{
    ConvShape, Cpu, PackedTiles, Scratch, bf16_values, tile_conv3d_scratch, tile_transposed_scratch,
    tile_upsampling_fits,
};

use crate::engine::cpu::{axial_shape, conv_shape, deferred_slope, transposed_shape};
use crate::program::{Block, BufferId, Epilogue, Lifetimes, MapId, Placement, Program, Step, UpBlock};

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

/// A program's memory, in values of f32.
#[derive(Debug)]
pub(super) struct Lowered {
    pub(super) placement: Placement,
    maps: Vec<Option<BufferId>>,
    pub(super) steps: Vec<Buffers>,
    /// For the probabilities of a head.
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
            readers: program.readers(),
            slopes,
            packed_bytes: 0,
            scratch: Scratch::default(),
        };
        let steps =
            program.forward.iter().enumerate().map(|(at, step)| lowering.step(at, step, cpu)).collect();
        let end = program.forward.len();
        for &head in &program.heads {
            lowering.touch(head, end);
        }
        // Full resolution comes first.
        let probabilities =
            program.heads.first().map(|&largest| lowering.moment(program.values(largest), end));
        let Lowering { lives, maps, packed_bytes, scratch, .. } = lowering;
        Self { placement: lives.place(), maps, steps, probabilities, packed_bytes, scratch }
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
            Step::AddActivate(add) if self.readers[add.main.0] == 1 && add.main != Program::INPUT => {
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
}
