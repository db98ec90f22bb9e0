//! Reading input rows into scratch: prologue first, then zero padding.

use crate::isa::Isa;

/// Writes zeros to `dst[start..end]`.
#[inline(always)]
pub(crate) fn zero_range<I: Isa>(isa: I, dst: &mut [f32], start: usize, end: usize) {
    debug_assert!(end <= dst.len());
    let zero = isa.splat(0.0);
    let mut at = start;
    while at < end {
        let n = (end - at).min(I::LANES);
        // SAFETY: `at + n <= end <= dst.len()`.
        unsafe { isa.store_first(dst, at, n, zero) };
        at += n;
    }
}

/// Writes `dst[i] = prologue(row[start + i])`, and zero where `start + i` lies outside `row`.
#[inline(always)]
pub(crate) fn pack_row<I: Isa>(
    isa: I,
    row: &[f32],
    start: isize,
    prologue: Option<(f32, f32, f32)>,
    dst: &mut [f32],
) {
    let lead = (-start).clamp(0, dst.len() as isize) as usize;
    let from = (start + lead as isize) as usize;
    let n = row.len().saturating_sub(from).min(dst.len() - lead);
    zero_range(isa, dst, 0, lead);
    // SAFETY: `from + n <= row.len()` and `lead + n <= dst.len()`, and every access below stays under `n`.
    unsafe {
        if let Some((scale, shift, slope)) = prologue {
            let (scale, shift, slope) = (isa.splat(scale), isa.splat(shift), isa.splat(slope));
            let mut i = 0;
            while i + I::LANES <= n {
                let y = isa.fma(isa.load(row, from + i), scale, shift);
                isa.store(dst, lead + i, isa.max(y, isa.mul(y, slope)));
                i += I::LANES;
            }
            if i < n {
                let y = isa.fma(isa.load_first(row, from + i, n - i), scale, shift);
                isa.store_first(dst, lead + i, n - i, isa.max(y, isa.mul(y, slope)));
            }
        } else {
            let mut i = 0;
            while i + I::LANES <= n {
                isa.store(dst, lead + i, isa.load(row, from + i));
                i += I::LANES;
            }
            if i < n {
                isa.store_first(dst, lead + i, n - i, isa.load_first(row, from + i, n - i));
            }
        }
    }
    let len = dst.len();
    zero_range(isa, dst, lead + n, len);
}

/// Splits `row` by its index modulo `step`: `dst[phase * pitch + i] = row[i * step + phase]`.
#[inline(always)]
pub(crate) fn split_phases<I: Isa>(isa: I, row: &[f32], step: usize, dst: &mut [f32], pitch: usize) {
    let len = row.len() / step;
    let mut done = 0;
    if step == 2 {
        let (even, odd) = dst.split_at_mut(pitch);
        assert!(len <= even.len() && len <= odd.len(), "{len} values in phases of {pitch}");
        while done + I::LANES <= len {
            // SAFETY: `2 * (done + LANES) <= row.len()` and `done + LANES <= len`.
            unsafe {
                let (e, o) = isa.deinterleave2(isa.load(row, 2 * done), isa.load(row, 2 * done + I::LANES));
                isa.store(even, done, e);
                isa.store(odd, done, o);
            }
            done += I::LANES;
        }
    }
    for i in done..len {
        for phase in 0..step {
            dst[phase * pitch + i] = row[i * step + phase];
        }
    }
}
