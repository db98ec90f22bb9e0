//! What the kernel tests share: numbers, comparison, and the list of instruction sets.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::print_stderr, reason = "a test names what it could not test")]

use glioseg_kernels::{Cpu, Level, Source};

/// A small deterministic generator, roughly uniform in -1..1.
pub(crate) struct Numbers(u64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66)
    }

    pub(crate) fn one(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub(crate) fn many(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.one()).collect()
    }
}

/// All instruction sets of this machine; the others are named, not silently passed.
pub(crate) fn cpus() -> Vec<Cpu> {
    let cpus = Cpu::available();
    for level in Level::ALL {
        if !cpus.iter().any(|cpu| cpu.level() == level) {
            eprintln!("not tested: this CPU has no {}", level.word());
        }
    }
    cpus
}

/// Absolute values.
pub(crate) fn magnitudes(values: &[f32]) -> Vec<f32> {
    values.iter().map(|x| x.abs()).collect()
}

/// A source's values with its prologue applied.
pub(crate) fn apply(source: &Source<'_>, voxels: usize) -> Vec<f32> {
    let value = |(i, &x): (usize, &f32)| {
        source.prologue.map_or(x, |p| {
            let y = x * p.scale[i / voxels] + p.shift[i / voxels];
            if y > 0.0 { y } else { y * p.slope }
        })
    };
    source.data.iter().enumerate().map(value).collect()
}

/// Fails with the count and the first positions if the L2 error exceeds `tolerance` times the L2 norm of `size`, or a value
/// is not finite, or one is further off than 100 times the tolerance of the largest.
///
/// `size` is what errors are relative to: `want` itself, or the sums of the products' magnitudes where few values might
/// cancel.
pub(crate) fn assert_close(what: &str, got: &[f32], want: &[f32], size: &[f32], tolerance: f64) {
    assert_eq!(got.len(), want.len(), "{what}: lengths");
    let norm = |it: &mut dyn Iterator<Item = f64>| it.map(|x| x * x).sum::<f64>().sqrt();
    let error = norm(&mut got.iter().zip(want).map(|(a, b)| f64::from(*a) - f64::from(*b)))
        / norm(&mut size.iter().map(|x| f64::from(*x))).max(1e-30);
    let largest = size.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
    let bound = 100.0 * tolerance * largest;
    let bad: Vec<_> = got
        .iter()
        .zip(want)
        .enumerate()
        .filter(|(_, (a, b))| !a.is_finite() || (f64::from(**a) - f64::from(**b)).abs() > bound)
        .map(|(i, (a, b))| (i, *a, *b))
        .collect();
    assert!(
        bad.is_empty() && error <= tolerance,
        "{what}: relative L2 {error:.2e} (tolerance {tolerance:.0e}), {} of {} values off by more than {bound:.2e}; \
         first (index, got, want): {:?}",
        bad.len(),
        got.len(),
        &bad[..bad.len().min(8)]
    );
}
