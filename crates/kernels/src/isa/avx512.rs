//! AVX-512: 16 lanes, 32 registers.

#![allow(
    clippy::wildcard_imports,
    reason = "an instruction set is imported whole; the lint is silent in test builds"
)]

use std::arch::x86_64::*;

use super::Isa;

/// Proof that the CPU has AVX-512 F, DQ, VL and BW.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    /// The CPU must have the features.
    pub(super) unsafe fn new_unchecked() -> Self {
        Self(())
    }
}

#[inline(always)]
fn mask(n: usize) -> __mmask16 {
    debug_assert!(n <= 16);
    ((1u32 << n) - 1) as u16
}

impl Isa for Avx512 {
    type F32 = __m512;
    type F64 = __m512d;
    const LANES: usize = 16;
    const REGISTERS: usize = 32;

    #[inline(always)]
    fn splat(self, x: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: &[f32], at: usize) -> __m512 {
        debug_assert!(at + 16 <= from.len(), "load of {at}..+16 from {}", from.len());
        // SAFETY: `self` proves AVX-512; the caller keeps what is read inside the slice.
        unsafe { _mm512_loadu_ps(from.as_ptr().add(at)) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: &[f32], at: usize, n: usize) -> __m512 {
        debug_assert!(at + n <= from.len(), "load of {at}..+{n} from {}", from.len());
        // SAFETY: `self` proves AVX-512; the caller keeps the first `n` lanes inside, and masked ones are not read.
        unsafe { _mm512_maskz_loadu_ps(mask(n), from.as_ptr().add(at)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: &mut [f32], at: usize, v: __m512) {
        debug_assert!(at + 16 <= to.len(), "store of {at}..+16 to {}", to.len());
        // SAFETY: `self` proves AVX-512; the caller keeps what is written inside the slice.
        unsafe { _mm512_storeu_ps(to.as_mut_ptr().add(at), v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: &mut [f32], at: usize, n: usize, v: __m512) {
        debug_assert!(at + n <= to.len(), "store of {at}..+{n} to {}", to.len());
        // SAFETY: `self` proves AVX-512; the caller keeps the first `n` lanes inside, and masked ones are not written.
        unsafe { _mm512_mask_storeu_ps(to.as_mut_ptr().add(at), mask(n), v) }
    }
    #[inline(always)]
    fn keep_first(self, v: __m512, n: usize) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_maskz_mov_ps(mask(n), v) }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn select_positive(self, selector: __m512, x: __m512, y: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let positive = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(selector, _mm512_setzero_ps());
            _mm512_mask_blend_ps(positive, y, x)
        }
    }
    #[inline(always)]
    fn transpose4(self, v: [__m512; 4]) -> [__m512; 4] {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let ab_low = _mm512_castps_pd(_mm512_unpacklo_ps(v[0], v[1]));
            let ab_high = _mm512_castps_pd(_mm512_unpackhi_ps(v[0], v[1]));
            let cd_low = _mm512_castps_pd(_mm512_unpacklo_ps(v[2], v[3]));
            let cd_high = _mm512_castps_pd(_mm512_unpackhi_ps(v[2], v[3]));
            [
                _mm512_castpd_ps(_mm512_unpacklo_pd(ab_low, cd_low)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(ab_low, cd_low)),
                _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)),
                _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_quads(self, to: &mut [f32], at: usize, pitch: usize, v: __m512) {
        debug_assert!(at + 3 * pitch + 4 <= to.len(), "quads at {at} by {pitch} in {}", to.len());
        // SAFETY: `self` proves AVX-512; the caller keeps what is written inside the slice.
        unsafe {
            let to = to.as_mut_ptr().add(at);
            _mm_storeu_ps(to, _mm512_castps512_ps128(v));
            _mm_storeu_ps(to.add(pitch), _mm512_extractf32x4_ps::<1>(v));
            _mm_storeu_ps(to.add(2 * pitch), _mm512_extractf32x4_ps::<2>(v));
            _mm_storeu_ps(to.add(3 * pitch), _mm512_extractf32x4_ps::<3>(v));
        }
    }
    #[inline(always)]
    fn deinterleave2(self, a: __m512, b: __m512) -> (__m512, __m512) {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
            let odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
            (_mm512_permutex2var_ps(a, even, b), _mm512_permutex2var_ps(a, odd, b))
        }
    }
    #[inline(always)]
    fn interleave2(self, even: __m512, odd: __m512) -> (__m512, __m512) {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
            let high = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
            (_mm512_permutex2var_ps(even, low, odd), _mm512_permutex2var_ps(even, high, odd))
        }
    }
    #[inline(always)]
    fn zero64(self) -> __m512d {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_setzero_pd() }
    }
    #[inline(always)]
    fn add_wide(self, acc: __m512d, v: __m512) -> __m512d {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let low = _mm512_cvtps_pd(_mm512_castps512_ps256(v));
            let high = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(v));
            _mm512_add_pd(_mm512_add_pd(acc, low), high)
        }
    }
    #[inline(always)]
    fn fma_wide(self, acc: __m512d, a: __m512, b: __m512) -> __m512d {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let a0 = _mm512_cvtps_pd(_mm512_castps512_ps256(a));
            let a1 = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(a));
            let b0 = _mm512_cvtps_pd(_mm512_castps512_ps256(b));
            let b1 = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(b));
            _mm512_fmadd_pd(a1, b1, _mm512_fmadd_pd(a0, b0, acc))
        }
    }
    #[inline(always)]
    fn sum64(self, acc: __m512d) -> f64 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_reduce_add_pd(acc) }
    }
    #[inline(always)]
    fn sum(self, v: __m512) -> f32 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_reduce_add_ps(v) }
    }
    #[inline(always)]
    fn prefetch(self, from: &[f32], at: usize) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.as_ptr().wrapping_add(at).cast()) }
    }
    #[inline(always)]
    fn prefetch_write(self, address: *const f32) {
        // SAFETY: a prefetch of any address is harmless.
        unsafe { _mm_prefetch::<_MM_HINT_ET0>(address.cast()) }
    }
}
