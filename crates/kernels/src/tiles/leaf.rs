//! The instructions: everything here is a few lines of assembly or intrinsics on raw rows, and nothing decides.
//!
//! A row is a run of voxels, channels last. What reads 32 channels reads one cache line.

use std::arch::asm;
use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtne2ps_pbh, _mm512_extracti64x4_epi64, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_epi16, _mm512_maskz_loadu_epi16, _mm512_max_ps, _mm512_mul_ps, _mm512_set1_ps,
    _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps, _mm512_storeu_si512,
};
use std::marker::PhantomData;

use half::bf16;

use super::token::Amx;

/// Channels of a cache line, and of a pair of tiles of sums.
pub(super) const PAIR: usize = 32;
/// Rows of a tile.
pub(super) const ROWS: usize = 16;

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// The tile registers of this thread, eight of 16 rows of 64 bytes, while this lives.
pub(super) struct Tiles(PhantomData<*const ()>);

impl Tiles {
    pub(super) fn new(_: Amx) -> Self {
        let mut config = Config { palette: 1, start: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        config.bytes[..8].fill(64);
        config.rows[..8].fill(ROWS as u8);
        // SAFETY: the token says that the CPU has tiles and the system saves them; the configuration is 64 readable bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly)) };
        Self(PhantomData)
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: there are tiles, or this would not exist; nobody else on this thread uses them.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Products of two blocks of 16 voxels with a block of weights of 32 outputs.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    /// First voxel of both blocks.
    pub(super) voxels: [*const bf16; 2],
    /// Bytes from voxel to voxel of a block.
    pub(super) stride: usize,
    /// Bytes from the first voxel to the 32 values that every step multiplies.
    pub(super) offsets: &'a [usize],
    /// Per step two tiles of weights, `[output / 16][value / 2][output][2]`.
    pub(super) weights: *const bf16,
    /// Sums of both blocks, `[voxel][32]`, which are written.
    pub(super) sums: [*mut f32; 2],
}

impl Tiles {
    /// # Safety
    /// For every offset 16 rows of 64 bytes, `stride` apart, can be read from both blocks of voxels, 2048 bytes of weights per
    /// step; the sums are 16 rows of 32 values each that nobody else touches.
    #[inline]
    pub(super) unsafe fn multiply(&self, product: Product<'_>) {
        // SAFETY: the caller's promise.
        unsafe { Self::products::<2048>(self, product) }
    }

    /// The same weights at every step.
    ///
    /// # Safety
    /// As [`Self::multiply`], with the weights of one step.
    pub(super) unsafe fn multiply_same(&self, product: Product<'_>) {
        // SAFETY: the caller's promise.
        unsafe { Self::products::<0>(self, product) }
    }

    /// # Safety
    /// As [`Self::multiply`]; the weights of a step lie `NEXT` bytes behind those of the step before.
    #[inline(always)]
    unsafe fn products<const NEXT: usize>(_: &Self, product: Product<'_>) {
        let Product { voxels: [a, b], stride, offsets, weights, sums: [c, d] } = product;
        if offsets.is_empty() {
            return;
        }
        // SAFETY: the caller's promise; the configuration is there as long as a `Tiles`, and tiles are cleared before they are read.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "mov {o}, qword ptr [{t}]",
                "add {t}, 8",
                "tileloadd tmm6, [{w} + {line}*1]",
                "lea {p}, [{a} + {o}]",
                "tileloadd tmm4, [{p} + {s}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line}*1 + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "lea {p}, [{b} + {o}]",
                "tileloadd tmm5, [{p} + {s}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {w}, {next}",
                "dec {n}",
                "jnz 2b",
                "tilestored [{c} + {line}*2], tmm0",
                "tilestored [{c} + {line}*2 + 64], tmm1",
                "tilestored [{d} + {line}*2], tmm2",
                "tilestored [{d} + {line}*2 + 64], tmm3",
                next = const NEXT,
                t = inout(reg) offsets.as_ptr() => _,
                n = inout(reg) offsets.len() => _,
                w = inout(reg) weights => _,
                a = in(reg) a,
                b = in(reg) b,
                c = in(reg) c,
                d = in(reg) d,
                s = in(reg) stride,
                line = in(reg) 64usize,
                o = out(reg) _,
                p = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// Rows that are copied from a map into a packed one, with normalisation and activation on the way.
pub(super) struct Copy<'a> {
    /// `[voxel][channels]`.
    pub(super) from: &'a [bf16],
    pub(super) channels: usize,
    /// Factor and offset of every channel, and the slope.
    pub(super) prologue: Option<(&'a [f32], &'a [f32], f32)>,
    /// From the first channel of the first voxel on.
    pub(super) to: &'a mut [bf16],
    /// Values from voxel to voxel.
    pub(super) pitch: usize,
}

impl Copy<'_> {
    #[inline]
    pub(super) fn run(self, _: Amx) {
        let voxels = self.from.len() / self.channels;
        if voxels == 0 {
            return;
        }
        assert!((voxels - 1) * self.pitch + self.channels <= self.to.len(), "room for the rows");
        if let Some((scale, shift, slope)) = self.prologue {
            assert!(scale.len() >= self.channels && shift.len() >= self.channels, "factors of the channels");
            // SAFETY: the token says that the CPU has the instructions; the lengths were compared.
            unsafe { self.normalize(scale, shift, slope) }
        } else {
            let Self { from, channels, to, pitch, .. } = self;
            for (from, to) in from.chunks_exact(channels).zip(to.chunks_mut(pitch)) {
                to[..channels].copy_from_slice(from);
            }
        }
    }

    /// # Safety
    /// The CPU has the instructions, and the slices have the lengths that [`Self::run`] asks for.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn normalize(self, scale: &[f32], shift: &[f32], slope: f32) {
        let Self { from, channels, to, pitch, .. } = self;
        let voxels = from.len() / channels;
        let slope = _mm512_set1_ps(slope);
        for start in (0..channels).step_by(PAIR) {
            let n = (channels - start).min(PAIR);
            let factors = |values: &[f32]| {
                let mut padded = [0f32; PAIR];
                padded[..n].copy_from_slice(&values[start..start + n]);
                // SAFETY: 32 values.
                unsafe { [_mm512_loadu_ps(padded.as_ptr()), _mm512_loadu_ps(padded.as_ptr().add(16))] }
            };
            let (scale, shift) = (factors(scale), factors(shift));
            let mask = u32::MAX >> (PAIR - n);
            for v in 0..voxels {
                // SAFETY: `n` values at voxel `v` lie inside both slices, and no more are touched.
                unsafe {
                    let at = from.as_ptr().add(v * channels + start).cast();
                    let values = if n == PAIR {
                        _mm512_loadu_si512(at)
                    } else {
                        _mm512_maskz_loadu_epi16(mask, at.cast())
                    };
                    let [low, high] = widen(values);
                    let low = _mm512_fmadd_ps(low, scale[0], shift[0]);
                    let high = _mm512_fmadd_ps(high, scale[1], shift[1]);
                    let low = _mm512_max_ps(low, _mm512_mul_ps(low, slope));
                    let high = _mm512_max_ps(high, _mm512_mul_ps(high, slope));
                    let rounded = narrow(low, high);
                    let at = to.as_mut_ptr().add(v * pitch + start).cast::<i16>();
                    if n == PAIR {
                        _mm512_storeu_si512(at.cast(), rounded);
                    } else {
                        _mm512_mask_storeu_epi16(at, mask, rounded);
                    }
                }
            }
        }
    }
}

/// 32 values of bf16 as f32, in order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
fn widen(values: __m512i) -> [__m512; 2] {
    let half = |v: __m256i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(v)));
    [half(_mm512_extracti64x4_epi64::<0>(values)), half(_mm512_extracti64x4_epi64::<1>(values))]
}

/// Both vectors rounded to the nearest, ties to even.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn narrow(low: __m512, high: __m512) -> __m512i {
    // SAFETY: both are 64 bytes of any bits.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}

/// Sums of a run of voxels that become values of a map.
pub(super) struct Finish<'a> {
    /// `[voxel][32]`.
    pub(super) sums: &'a [f32],
    /// Added to every voxel.
    pub(super) bias: &'a [f32; PAIR],
    /// The first voxel's first channel of this block.
    pub(super) to: *mut bf16,
    /// Values from voxel to voxel.
    pub(super) pitch: usize,
    /// Channels of the block, at most 32.
    pub(super) channels: usize,
}

impl Finish<'_> {
    /// Writes the rounded values, and adds values and squares before rounding to `totals`.
    ///
    /// # Safety
    /// `channels` values can be written for every voxel, and nobody else touches them.
    #[inline]
    pub(super) unsafe fn run(self, _: Amx, totals: Option<&mut [[f64; 2]; PAIR]>) {
        // SAFETY: the token says that the CPU has the instructions; the rest is the caller's promise.
        unsafe {
            match totals {
                Some(totals) => {
                    let [sum, squares] = self.store::<true>();
                    for (c, total) in totals.iter_mut().enumerate() {
                        total[0] += f64::from(sum[c]);
                        total[1] += f64::from(squares[c]);
                    }
                }
                None => {
                    self.store::<false>();
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::run`], and the CPU has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn store<const TOTALS: bool>(self) -> [[f32; PAIR]; 2] {
        let Self { sums, bias, to, pitch, channels } = self;
        let mask = u32::MAX >> (PAIR - channels);
        let mut totals = [_mm512_setzero_ps(); 4];
        // SAFETY: 32 values.
        let bias = unsafe { [_mm512_loadu_ps(bias.as_ptr()), _mm512_loadu_ps(bias.as_ptr().add(16))] };
        for (v, row) in sums.chunks_exact(PAIR).enumerate() {
            // SAFETY: a row has 32 values; the target is the caller's promise.
            unsafe {
                let low = _mm512_add_ps(_mm512_loadu_ps(row.as_ptr()), bias[0]);
                let high = _mm512_add_ps(_mm512_loadu_ps(row.as_ptr().add(16)), bias[1]);
                if TOTALS {
                    totals[0] = _mm512_add_ps(totals[0], low);
                    totals[1] = _mm512_add_ps(totals[1], high);
                    totals[2] = _mm512_fmadd_ps(low, low, totals[2]);
                    totals[3] = _mm512_fmadd_ps(high, high, totals[3]);
                }
                let at = to.add(v * pitch).cast::<i16>();
                if channels == PAIR {
                    _mm512_storeu_si512(at.cast(), narrow(low, high));
                } else {
                    _mm512_mask_storeu_epi16(at, mask, narrow(low, high));
                }
            }
        }
        let mut found = [[0f32; PAIR]; 2];
        for (i, total) in totals.into_iter().enumerate() {
            // SAFETY: 16 of 32 values.
            unsafe { _mm512_storeu_ps(found[i / 2].as_mut_ptr().add(i % 2 * 16), total) };
        }
        found
    }
}
