//! What only the tests in `tests/` see of the inside. The crate is not built a second time for tests of its own.

pub use crate::axial::block::exp_in_place;
pub use crate::buffer::scratch_of_thread;
pub use crate::upsampled::{by_slabs, slab_len};

use crate::conv3d::frequencies::{backward, backward_weights, forward, forward_gradient, weight_frequencies};
use crate::isa::{Cpu, Isa, Kernel};

/// Whether there are tiles, from the values of `GLIOSEG_KERNELS_TILES` and `GLIOSEG_KERNELS_ISA`, what the CPU has, and what the
/// system answers.
///
/// # Errors
/// As [`crate::Amx::detect`].
pub fn decide_tiles(
    words: [Option<String>; 2],
    present: bool,
    ask: impl FnOnce() -> Result<(), String>,
) -> Result<(), crate::KernelError> {
    crate::tiles::token::decide(words, present, ask)
}

/// [`Taps`] on one instruction set: outputs, and the gradient of the taps.
pub fn taps_by_frequencies(cpu: Cpu, taps: Taps) -> ([f32; 4], [f32; 3]) {
    cpu.dispatch(taps)
}

/// Three taps on six inputs, and four gradients of the outputs.
#[derive(Debug, Clone, Copy)]
pub struct Taps {
    /// The taps.
    pub taps: [f64; 3],
    /// The inputs.
    pub input: [f32; 6],
    /// The gradients.
    pub gradient: [f32; 4],
}

impl Kernel for Taps {
    type Out = ([f32; 4], [f32; 3]);
    fn run<I: Isa>(self, isa: I) -> Self::Out {
        let taps = weight_frequencies(self.taps).map(|w| isa.splat(w as f32));
        let input = forward(isa, self.input.map(|x| isa.splat(x)));
        let grad = forward_gradient(isa, self.gradient.map(|x| isa.splat(x)));
        let out = backward(isa, std::array::from_fn(|i| isa.mul(taps[i], input[i])));
        let taps = backward_weights(isa, std::array::from_fn(|i| isa.mul(grad[i], input[i])));
        let lane = |v| isa.sum(isa.keep_first(v, 1));
        (out.map(lane), taps.map(lane))
    }
}
