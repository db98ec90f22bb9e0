//! The instructions: everything here is a few lines of assembly or intrinsics on raw rows, and nothing decides.
//!
//! A row is a run of voxels, channels last. What reads 32 channels reads one cache line.

use std::arch::asm;
use std::arch::x86_64::{
    __m256i, __m512, __m512bh, __m512i, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32,
    _mm512_cvtne2ps_pbh, _mm512_extracti64x4_epi64, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_epi16, _mm512_maskz_loadu_epi16, _mm512_max_ps, _mm512_mul_ps,
    _mm512_permutex2var_epi16, _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_shuffle_i32x4,
    _mm512_slli_epi32, _mm512_storeu_ps, _mm512_storeu_si512, _mm512_unpackhi_epi16, _mm512_unpackhi_epi32,
    _mm512_unpackhi_epi64, _mm512_unpacklo_epi16, _mm512_unpacklo_epi32, _mm512_unpacklo_epi64,
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

/// Products of 32 rows with 32 columns, whose sums run over voxels.
#[derive(Clone, Copy)]
pub(super) struct Outer<'a> {
    /// First voxel of the first row, `[row][voxel]`.
    pub(super) rows: *const bf16,
    /// Bytes from row to row.
    pub(super) pitch: usize,
    /// First pair of voxels, `[voxel / 2][column][2]`.
    pub(super) columns: *const bf16,
    /// Bytes to the 32 voxels that every step multiplies, of rows and of columns.
    pub(super) steps: &'a [[usize; 2]],
    /// Sums, `[row][column]`.
    pub(super) sums: *mut f32,
    /// Whether the sums begin here, instead of going on.
    pub(super) fresh: bool,
}

impl Tiles {
    /// # Safety
    /// For every step 64 bytes of 32 rows and 2048 bytes of columns can be read; the sums are 1024 values that nobody else
    /// touches.
    #[inline]
    pub(super) unsafe fn outer(_: &Self, outer: Outer<'_>) {
        let Outer { rows, pitch, columns, steps, sums, fresh } = outer;
        if steps.is_empty() {
            return;
        }
        // SAFETY: the caller's promise; the configuration is there as long as a `Tiles`, and tiles are cleared or loaded before they
        // are read.
        unsafe {
            asm!(
                "test {fresh}, {fresh}",
                "jnz 3f",
                "tileloadd tmm0, [{s} + {line}*1]",
                "tileloadd tmm1, [{s} + {line}*1 + 64]",
                "tileloadd tmm2, [{s} + {line}*1 + 2048]",
                "tileloadd tmm3, [{s} + {line}*1 + 2112]",
                "jmp 2f",
                "3:",
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "mov {o}, qword ptr [{t}]",
                "mov {p}, qword ptr [{t} + 8]",
                "add {t}, 16",
                "add {p}, {b}",
                "tileloadd tmm6, [{p} + {line}*1]",
                "lea {fresh}, [{a} + {o}]",
                "tileloadd tmm4, [{fresh} + {pitch}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{p} + {line}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "lea {fresh}, [{low} + {o}]",
                "tileloadd tmm5, [{fresh} + {pitch}*1]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "dec {n}",
                "jnz 2b",
                "tilestored [{s} + {line}*1], tmm0",
                "tilestored [{s} + {line}*1 + 64], tmm1",
                "tilestored [{s} + {line}*1 + 2048], tmm2",
                "tilestored [{s} + {line}*1 + 2112], tmm3",
                // Behind the branch it is an address.
                fresh = inout(reg) usize::from(fresh) => _,
                t = inout(reg) steps.as_ptr() => _,
                n = inout(reg) steps.len() => _,
                a = in(reg) rows,
                low = in(reg) rows.byte_add(16 * pitch),
                pitch = in(reg) pitch,
                b = in(reg) columns,
                s = in(reg) sums,
                line = in(reg) 128usize,
                o = out(reg) _,
                p = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }

    /// As [`Self::outer`] of the first 16 rows alone.
    ///
    /// # Safety
    /// As there, of 16 rows; the sums are the first 512 values.
    #[inline]
    pub(super) unsafe fn outer_half(_: &Self, outer: Outer<'_>) {
        let Outer { rows, pitch, columns, steps, sums, fresh } = outer;
        if steps.is_empty() {
            return;
        }
        // SAFETY: as in `outer`.
        unsafe {
            asm!(
                "test {fresh}, {fresh}",
                "jnz 3f",
                "tileloadd tmm0, [{s} + {line}*1]",
                "tileloadd tmm1, [{s} + {line}*1 + 64]",
                "jmp 2f",
                "3:",
                "tilezero tmm0",
                "tilezero tmm1",
                "2:",
                "mov {o}, qword ptr [{t}]",
                "mov {p}, qword ptr [{t} + 8]",
                "add {t}, 16",
                "add {p}, {b}",
                "add {o}, {a}",
                "tileloadd tmm6, [{p} + {line}*1]",
                "tileloadd tmm4, [{o} + {pitch}*1]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{p} + {line}*1 + 64]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "dec {n}",
                "jnz 2b",
                "tilestored [{s} + {line}*1], tmm0",
                "tilestored [{s} + {line}*1 + 64], tmm1",
                fresh = in(reg) usize::from(fresh),
                t = inout(reg) steps.as_ptr() => _,
                n = inout(reg) steps.len() => _,
                a = in(reg) rows,
                pitch = in(reg) pitch,
                b = in(reg) columns,
                s = in(reg) sums,
                line = in(reg) 128usize,
                o = out(reg) _,
                p = out(reg) _,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// Up to 32 voxels of up to 32 channels, `[voxel][32]`, on their way into another order.
#[repr(align(64))]
pub(super) struct Stage(pub(super) [bf16; PAIR * PAIR]);

impl Stage {
    pub(super) fn new() -> Self {
        Self([bf16::ZERO; PAIR * PAIR])
    }

    /// The first voxels as pairs, `[voxel / 2][32][2]`; the partner of an odd last one is 0.
    pub(super) fn store_pairs(&mut self, _: Amx, voxels: usize, to: &mut [bf16]) {
        if voxels % 2 == 1 {
            self.0[voxels * PAIR..][..PAIR].fill(bf16::ZERO);
        }
        assert!(voxels.next_multiple_of(2) * PAIR <= to.len(), "room for {voxels} voxels");
        // SAFETY: the token says that the CPU has the instructions; there is room.
        unsafe { self.pairs(voxels, to) }
    }

    /// # Safety
    /// The CPU has the instructions, and `to` has room for all pairs.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn pairs(&self, voxels: usize, to: &mut [bf16]) {
        let places = |first: i16| -> [i16; PAIR] {
            std::array::from_fn(|i| first + (i / 2) as i16 + 32 * (i % 2) as i16)
        };
        // SAFETY: both are 64 bytes; voxels lie in the stage, pairs in the target.
        unsafe {
            let (low, high) = (places(0), places(16));
            let low = _mm512_loadu_si512(low.as_ptr().cast());
            let high = _mm512_loadu_si512(high.as_ptr().cast());
            for pair in 0..voxels.div_ceil(2) {
                let at = self.0.as_ptr().add(2 * pair * PAIR);
                let (a, b) = (_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(PAIR).cast()));
                let to = to.as_mut_ptr().add(2 * pair * PAIR);
                _mm512_storeu_si512(to.cast(), _mm512_permutex2var_epi16(a, low, b));
                _mm512_storeu_si512(to.add(PAIR).cast(), _mm512_permutex2var_epi16(a, high, b));
            }
        }
    }

    /// The first voxels as 32 rows, one per channel, `pitch` values apart.
    pub(super) fn store_rows(&self, _: Amx, voxels: usize, to: &mut [bf16], pitch: usize) {
        assert!((PAIR - 1) * pitch + voxels <= to.len(), "room for {voxels} voxels in rows of {pitch}");
        // SAFETY: the token says that the CPU has the instructions; there is room.
        unsafe { self.rows(voxels, to, pitch) }
    }

    /// # Safety
    /// The CPU has the instructions, and `to` has room for all rows.
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn rows(&self, voxels: usize, to: &mut [bf16], pitch: usize) {
        let mask = u32::MAX >> (PAIR - voxels);
        // Of every 8 channels the first four, then the last four.
        for half in 0..2 {
            // SAFETY: all voxels lie in the stage, `voxels` values of every row in the target.
            unsafe {
                // No closures: they would not take on the instructions.
                let mut pairs = [_mm512_setzero_si512(); ROWS];
                for j in 0..ROWS {
                    let at = self.0.as_ptr().add(2 * j * PAIR);
                    let (a, b) = (_mm512_loadu_si512(at.cast()), _mm512_loadu_si512(at.add(PAIR).cast()));
                    pairs[j] =
                        if half == 0 { _mm512_unpacklo_epi16(a, b) } else { _mm512_unpackhi_epi16(a, b) };
                }
                let rows = transpose(&pairs);
                for i in 0..ROWS {
                    let channel = i / 4 * 8 + half * 4 + i % 4;
                    let at = to.as_mut_ptr().add(channel * pitch).cast::<i16>();
                    if voxels == PAIR {
                        _mm512_storeu_si512(at.cast(), rows[i]);
                    } else {
                        _mm512_mask_storeu_epi16(at, mask, rows[i]);
                    }
                }
            }
        }
    }
}

/// 16 rows of 16 values of 32 bits become 16 columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(r: &[__m512i; ROWS]) -> [__m512i; ROWS] {
    let mut t = *r;
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    let mut r = t;
    for i in 0..4 {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    // Quarter `q` of `r[4 i + k]` holds column `4 q + k` of rows `4 i` to `4 i + 3`.
    for k in 0..4 {
        for (i, first) in [0, 8].into_iter().enumerate() {
            let (a, b) = (r[first + k], r[first + 4 + k]);
            t[8 * i + k] = _mm512_shuffle_i32x4::<0x88>(a, b);
            t[8 * i + 4 + k] = _mm512_shuffle_i32x4::<0xdd>(a, b);
        }
    }
    let mut out = t;
    for k in 0..4 {
        out[k] = _mm512_shuffle_i32x4::<0x88>(t[k], t[8 + k]);
        out[8 + k] = _mm512_shuffle_i32x4::<0xdd>(t[k], t[8 + k]);
        out[4 + k] = _mm512_shuffle_i32x4::<0x88>(t[4 + k], t[12 + k]);
        out[12 + k] = _mm512_shuffle_i32x4::<0xdd>(t[4 + k], t[12 + k]);
    }
    out
}

/// Voxels that are copied from a map into a packed one, with normalisation and activation on the way.
pub(super) struct Copy<'a> {
    /// From the first channel of the first voxel to the last one of the last voxel at least.
    pub(super) from: &'a [bf16],
    /// Values from voxel to voxel there.
    pub(super) step: usize,
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
        let voxels = (self.from.len() + self.step - self.channels) / self.step;
        if voxels == 0 {
            return;
        }
        assert!((voxels - 1) * self.step + self.channels <= self.from.len(), "voxels to copy");
        assert!((voxels - 1) * self.pitch + self.channels <= self.to.len(), "room for the rows");
        if let Some((scale, shift, slope)) = self.prologue {
            assert!(scale.len() >= self.channels && shift.len() >= self.channels, "factors of the channels");
            // SAFETY: the token says that the CPU has the instructions; the lengths were compared.
            unsafe { self.copy::<true>(voxels, scale, shift, slope) }
        } else {
            // SAFETY: as above.
            unsafe { self.copy::<false>(voxels, &[], &[], 1.0) }
        }
    }

    /// # Safety
    /// The CPU has the instructions, and the slices have the lengths that [`Self::run`] asks for.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn copy<const NORMALIZE: bool>(self, voxels: usize, scale: &[f32], shift: &[f32], slope: f32) {
        let Self { from, step, channels, to, pitch, .. } = self;
        let slope = _mm512_set1_ps(slope);
        for start in (0..channels).step_by(PAIR) {
            let n = (channels - start).min(PAIR);
            let factors = |values: &[f32]| {
                let mut padded = [0f32; PAIR];
                if NORMALIZE {
                    padded[..n].copy_from_slice(&values[start..start + n]);
                }
                // SAFETY: 32 values.
                unsafe { [_mm512_loadu_ps(padded.as_ptr()), _mm512_loadu_ps(padded.as_ptr().add(16))] }
            };
            let (scale, shift) = (factors(scale), factors(shift));
            let mask = u32::MAX >> (PAIR - n);
            for v in 0..voxels {
                // SAFETY: `n` values at voxel `v` lie inside both slices, and no more are touched.
                unsafe {
                    let at = from.as_ptr().add(v * step + start).cast();
                    let mut values = if n == PAIR {
                        _mm512_loadu_si512(at)
                    } else {
                        _mm512_maskz_loadu_epi16(mask, at.cast())
                    };
                    if NORMALIZE {
                        let [low, high] = widen(values);
                        let low = _mm512_fmadd_ps(low, scale[0], shift[0]);
                        let high = _mm512_fmadd_ps(high, scale[1], shift[1]);
                        let low = _mm512_max_ps(low, _mm512_mul_ps(low, slope));
                        let high = _mm512_max_ps(high, _mm512_mul_ps(high, slope));
                        values = narrow(low, high);
                    }
                    let at = to.as_mut_ptr().add(v * pitch + start).cast::<i16>();
                    if n == PAIR {
                        _mm512_storeu_si512(at.cast(), values);
                    } else {
                        _mm512_mask_storeu_epi16(at, mask, values);
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
    /// Writes the rounded values, and adds values and squares before rounding to `totals`; with `add` what is there is added to
    /// them first.
    ///
    /// # Safety
    /// `channels` values can be written for every voxel, and nobody else touches them.
    #[inline]
    pub(super) unsafe fn run(self, _: Amx, add: bool, totals: Option<&mut [[f64; 2]; PAIR]>) {
        // SAFETY: the token says that the CPU has the instructions; the rest is the caller's promise.
        unsafe {
            match totals {
                Some(totals) => {
                    let [sum, squares] = self.store::<true, false>();
                    for (c, total) in totals.iter_mut().enumerate() {
                        total[0] += f64::from(sum[c]);
                        total[1] += f64::from(squares[c]);
                    }
                }
                None if add => {
                    self.store::<false, true>();
                }
                None => {
                    self.store::<false, false>();
                }
            }
        }
    }

    /// # Safety
    /// As [`Self::run`], and the CPU has the instructions.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512bf16")]
    unsafe fn store<const TOTALS: bool, const ADD: bool>(self) -> [[f32; PAIR]; 2] {
        let Self { sums, bias, to, pitch, channels } = self;
        let mask = u32::MAX >> (PAIR - channels);
        let mut totals = [_mm512_setzero_ps(); 4];
        // SAFETY: 32 values.
        let bias = unsafe { [_mm512_loadu_ps(bias.as_ptr()), _mm512_loadu_ps(bias.as_ptr().add(16))] };
        for (v, row) in sums.chunks_exact(PAIR).enumerate() {
            // SAFETY: a row has 32 values; the target is the caller's promise.
            unsafe {
                let mut low = _mm512_add_ps(_mm512_loadu_ps(row.as_ptr()), bias[0]);
                let mut high = _mm512_add_ps(_mm512_loadu_ps(row.as_ptr().add(16)), bias[1]);
                let at = to.add(v * pitch).cast::<i16>();
                if ADD {
                    let [first, second] = widen(_mm512_maskz_loadu_epi16(mask, at));
                    low = _mm512_add_ps(low, first);
                    high = _mm512_add_ps(high, second);
                }
                if TOTALS {
                    totals[0] = _mm512_add_ps(totals[0], low);
                    totals[1] = _mm512_add_ps(totals[1], high);
                    totals[2] = _mm512_fmadd_ps(low, low, totals[2]);
                    totals[3] = _mm512_fmadd_ps(high, high, totals[3]);
                }
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
