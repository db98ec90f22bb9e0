//! NEON of aarch64: 4 lanes, 32 registers.

#![allow(
    clippy::wildcard_imports,
    reason = "an instruction set is imported whole; the lint is silent in test builds"
)]

use std::arch::aarch64::*;

use super::Isa;

/// Proof that the CPU has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// # Safety
    /// The CPU must have NEON.
    pub(super) unsafe fn new_unchecked() -> Self {
        Self(())
    }
}

impl Isa for Neon {
    type F32 = float32x4_t;
    type F64 = float64x2_t;
    const LANES: usize = 4;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vdupq_n_f32(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: &[f32], at: usize) -> float32x4_t {
        debug_assert!(at + 4 <= from.len(), "load of {at}..+4 from {}", from.len());
        // SAFETY: `self` proves NEON; the caller keeps what is read inside the slice.
        unsafe { vld1q_f32(from.as_ptr().add(at)) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: &[f32], at: usize, n: usize) -> float32x4_t {
        debug_assert!(n <= 4 && at + n <= from.len(), "load of {at}..+{n} from {}", from.len());
        let mut lanes = [0.0f32; 4];
        // SAFETY: `self` proves NEON; `n` is at most 4, and the caller keeps the `n` values inside the slice.
        unsafe {
            std::ptr::copy_nonoverlapping(from.as_ptr().add(at), lanes.as_mut_ptr(), n);
            vld1q_f32(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store(self, to: &mut [f32], at: usize, v: float32x4_t) {
        debug_assert!(at + 4 <= to.len(), "store of {at}..+4 to {}", to.len());
        // SAFETY: `self` proves NEON; the caller keeps what is written inside the slice.
        unsafe { vst1q_f32(to.as_mut_ptr().add(at), v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: &mut [f32], at: usize, n: usize, v: float32x4_t) {
        debug_assert!(n <= 4 && at + n <= to.len(), "store of {at}..+{n} to {}", to.len());
        let mut lanes = [0.0f32; 4];
        // SAFETY: `self` proves NEON; `n` is at most 4, and the caller keeps the `n` values inside the slice.
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to.as_mut_ptr().add(at), n);
        }
    }
    #[inline(always)]
    fn keep_first(self, v: float32x4_t, n: usize) -> float32x4_t {
        let lane = [0u32, 1, 2, 3];
        // SAFETY: `self` proves NEON.
        unsafe {
            let keep = vcltq_u32(vld1q_u32(lane.as_ptr()), vdupq_n_u32(n as u32));
            vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(v), keep))
        }
    }
    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vaddq_f32(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vsubq_f32(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vmulq_f32(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vfmaq_f32(c, a, b) }
    }
    #[inline(always)]
    fn fnma(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vfmsq_f32(c, a, b) }
    }
    #[inline(always)]
    fn max(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vmaxq_f32(a, b) }
    }
    #[inline(always)]
    fn select_positive(self, selector: float32x4_t, x: float32x4_t, y: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vbslq_f32(vcgtzq_f32(selector), x, y) }
    }
    #[inline(always)]
    fn transpose4(self, v: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: `self` proves NEON.
        unsafe {
            let ab_even = vreinterpretq_f64_f32(vtrn1q_f32(v[0], v[1]));
            let ab_odd = vreinterpretq_f64_f32(vtrn2q_f32(v[0], v[1]));
            let cd_even = vreinterpretq_f64_f32(vtrn1q_f32(v[2], v[3]));
            let cd_odd = vreinterpretq_f64_f32(vtrn2q_f32(v[2], v[3]));
            [
                vreinterpretq_f32_f64(vtrn1q_f64(ab_even, cd_even)),
                vreinterpretq_f32_f64(vtrn1q_f64(ab_odd, cd_odd)),
                vreinterpretq_f32_f64(vtrn2q_f64(ab_even, cd_even)),
                vreinterpretq_f32_f64(vtrn2q_f64(ab_odd, cd_odd)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_quads(self, to: &mut [f32], at: usize, _pitch: usize, v: float32x4_t) {
        // SAFETY: the caller's promise.
        unsafe { self.store(to, at, v) }
    }
    #[inline(always)]
    fn deinterleave2(self, a: float32x4_t, b: float32x4_t) -> (float32x4_t, float32x4_t) {
        // SAFETY: `self` proves NEON.
        unsafe { (vuzp1q_f32(a, b), vuzp2q_f32(a, b)) }
    }
    #[inline(always)]
    fn interleave2(self, even: float32x4_t, odd: float32x4_t) -> (float32x4_t, float32x4_t) {
        // SAFETY: `self` proves NEON.
        unsafe { (vzip1q_f32(even, odd), vzip2q_f32(even, odd)) }
    }
    #[inline(always)]
    fn zero64(self) -> float64x2_t {
        // SAFETY: `self` proves NEON.
        unsafe { vdupq_n_f64(0.0) }
    }
    #[inline(always)]
    fn add_wide(self, acc: float64x2_t, v: float32x4_t) -> float64x2_t {
        // SAFETY: `self` proves NEON.
        unsafe { vaddq_f64(vaddq_f64(acc, vcvt_f64_f32(vget_low_f32(v))), vcvt_high_f64_f32(v)) }
    }
    #[inline(always)]
    fn fma_wide(self, acc: float64x2_t, a: float32x4_t, b: float32x4_t) -> float64x2_t {
        // SAFETY: `self` proves NEON.
        unsafe {
            let low = vfmaq_f64(acc, vcvt_f64_f32(vget_low_f32(a)), vcvt_f64_f32(vget_low_f32(b)));
            vfmaq_f64(low, vcvt_high_f64_f32(a), vcvt_high_f64_f32(b))
        }
    }
    #[inline(always)]
    fn sum64(self, acc: float64x2_t) -> f64 {
        // SAFETY: `self` proves NEON.
        unsafe { vaddvq_f64(acc) }
    }
    #[inline(always)]
    fn sum(self, v: float32x4_t) -> f32 {
        // SAFETY: `self` proves NEON.
        unsafe { vaddvq_f32(v) }
    }
    #[inline(always)]
    fn prefetch(self, _from: &[f32], _at: usize) {}
    #[inline(always)]
    fn prefetch_write(self, _address: *const f32) {}
}
