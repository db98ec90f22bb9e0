//! What the tests of tiles share.

use glioseg_kernels::Amx;
use half::bf16;

use super::common::Numbers;

/// The token, or a line that says what could not be tested.
#[allow(clippy::print_stderr, reason = "a test names what it could not test")]
pub(crate) fn tiles() -> Option<Amx> {
    Amx::detect().inspect_err(|e| eprintln!("not tested: {e}")).ok()
}

pub(crate) fn map(numbers: &mut Numbers, len: usize) -> Vec<bf16> {
    numbers.many(len).into_iter().map(bf16::from_f32).collect()
}

/// `[n, voxels, c]` as `[n, c, voxels]`.
pub(crate) fn planar(values: &[bf16], [channels, voxels]: [usize; 2]) -> Vec<f32> {
    let at =
        |i: usize| values[(i / (channels * voxels) * voxels + i % voxels) * channels + i / voxels % channels];
    (0..values.len()).map(|i| at(i).to_f32()).collect()
}

/// Half a unit in the last place of bf16, and what products in another order may move across it.
pub(crate) const ROUNDED: f64 = 4e-3;
