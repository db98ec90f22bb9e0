//! AVX2 with fused multiply-add: 8 lanes, 16 registers.

#![allow(
    clippy::wildcard_imports,
    reason = "an instruction set is imported whole; the lint is silent in test builds"
)]

use std::arch::x86_64::*;

use super::Isa;

/// Proof that the CPU has AVX2 and FMA.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    /// The CPU must have the features.
    pub(super) unsafe fn new_unchecked() -> Self {
        Self(())
    }
}

#[inline(always)]
fn mask(n: usize) -> __m256i {
    debug_assert!(n <= 8);
    // SAFETY: only reached through an `Avx2`.
    unsafe {
        let lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(n as i32), lane)
    }
}

impl Isa for Avx2 {
    type F32 = __m256;
    type F64 = __m256d;
    const LANES: usize = 8;
    const REGISTERS: usize = 16;

    #[inline(always)]
    fn splat(self, x: f32) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_set1_ps(x) }
    }
    #[inline(always)]
    unsafe fn load(self, from: &[f32], at: usize) -> __m256 {
        debug_assert!(at + 8 <= from.len(), "load of {at}..+8 from {}", from.len());
        // SAFETY: `self` proves AVX2 and FMA; the caller keeps what is read inside the slice.
        unsafe { _mm256_loadu_ps(from.as_ptr().add(at)) }
    }
    #[inline(always)]
    unsafe fn load_first(self, from: &[f32], at: usize, n: usize) -> __m256 {
        debug_assert!(at + n <= from.len(), "load of {at}..+{n} from {}", from.len());
        // SAFETY: `self` proves AVX2 and FMA; the caller keeps the first `n` lanes inside, and masked ones are not read.
        unsafe { _mm256_maskload_ps(from.as_ptr().add(at), mask(n)) }
    }
    #[inline(always)]
    unsafe fn store(self, to: &mut [f32], at: usize, v: __m256) {
        debug_assert!(at + 8 <= to.len(), "store of {at}..+8 to {}", to.len());
        // SAFETY: `self` proves AVX2 and FMA; the caller keeps what is written inside the slice.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr().add(at), v) }
    }
    #[inline(always)]
    unsafe fn store_first(self, to: &mut [f32], at: usize, n: usize, v: __m256) {
        debug_assert!(at + n <= to.len(), "store of {at}..+{n} to {}", to.len());
        // SAFETY: `self` proves AVX2 and FMA; the caller keeps the first `n` lanes inside, and masked ones are not written.
        unsafe { _mm256_maskstore_ps(to.as_mut_ptr().add(at), mask(n), v) }
    }
    #[inline(always)]
    fn keep_first(self, v: __m256, n: usize) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_and_ps(v, _mm256_castsi256_ps(mask(n))) }
    }
    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_mul_ps(a, b) }
    }
    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn fnma(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_fnmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_max_ps(a, b) }
    }
    #[inline(always)]
    fn select_positive(self, selector: __m256, x: __m256, y: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let positive = _mm256_cmp_ps::<_CMP_GT_OQ>(selector, _mm256_setzero_ps());
            _mm256_blendv_ps(y, x, positive)
        }
    }
    #[inline(always)]
    fn transpose4(self, v: [__m256; 4]) -> [__m256; 4] {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let ab_low = _mm256_castps_pd(_mm256_unpacklo_ps(v[0], v[1]));
            let ab_high = _mm256_castps_pd(_mm256_unpackhi_ps(v[0], v[1]));
            let cd_low = _mm256_castps_pd(_mm256_unpacklo_ps(v[2], v[3]));
            let cd_high = _mm256_castps_pd(_mm256_unpackhi_ps(v[2], v[3]));
            [
                _mm256_castpd_ps(_mm256_unpacklo_pd(ab_low, cd_low)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(ab_low, cd_low)),
                _mm256_castpd_ps(_mm256_unpacklo_pd(ab_high, cd_high)),
                _mm256_castpd_ps(_mm256_unpackhi_pd(ab_high, cd_high)),
            ]
        }
    }
    #[inline(always)]
    unsafe fn store_quads(self, to: &mut [f32], at: usize, pitch: usize, v: __m256) {
        debug_assert!(at + pitch + 4 <= to.len(), "quads at {at} by {pitch} in {}", to.len());
        // SAFETY: `self` proves AVX2 and FMA; the caller keeps what is written inside the slice.
        unsafe {
            let to = to.as_mut_ptr().add(at);
            _mm_storeu_ps(to, _mm256_castps256_ps128(v));
            _mm_storeu_ps(to.add(pitch), _mm256_extractf128_ps::<1>(v));
        }
    }
    #[inline(always)]
    fn deinterleave2(self, a: __m256, b: __m256) -> (__m256, __m256) {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            // Within 128-bit halves first, then the halves' 64-bit quarters into order.
            let even = _mm256_castps_pd(_mm256_shuffle_ps::<0b10_00_10_00>(a, b));
            let odd = _mm256_castps_pd(_mm256_shuffle_ps::<0b11_01_11_01>(a, b));
            (
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(even)),
                _mm256_castpd_ps(_mm256_permute4x64_pd::<0b11_01_10_00>(odd)),
            )
        }
    }
    #[inline(always)]
    fn interleave2(self, even: __m256, odd: __m256) -> (__m256, __m256) {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let low = _mm256_unpacklo_ps(even, odd);
            let high = _mm256_unpackhi_ps(even, odd);
            (_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high))
        }
    }
    #[inline(always)]
    fn zero64(self) -> __m256d {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe { _mm256_setzero_pd() }
    }
    #[inline(always)]
    fn add_wide(self, acc: __m256d, v: __m256) -> __m256d {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let low = _mm256_cvtps_pd(_mm256_castps256_ps128(v));
            let high = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(v));
            _mm256_add_pd(_mm256_add_pd(acc, low), high)
        }
    }
    #[inline(always)]
    fn fma_wide(self, acc: __m256d, a: __m256, b: __m256) -> __m256d {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let a0 = _mm256_cvtps_pd(_mm256_castps256_ps128(a));
            let a1 = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(a));
            let b0 = _mm256_cvtps_pd(_mm256_castps256_ps128(b));
            let b1 = _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(b));
            _mm256_fmadd_pd(a1, b1, _mm256_fmadd_pd(a0, b0, acc))
        }
    }
    #[inline(always)]
    fn sum64(self, acc: __m256d) -> f64 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let pair = _mm_add_pd(_mm256_castpd256_pd128(acc), _mm256_extractf128_pd::<1>(acc));
            _mm_cvtsd_f64(_mm_add_sd(pair, _mm_unpackhi_pd(pair, pair)))
        }
    }
    #[inline(always)]
    fn sum(self, v: __m256) -> f32 {
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
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
