//! Which vector instructions a kernel runs on: one trait, one dispatch.
//!
//! A value of an [`Isa`] type is the proof that the CPU has its instructions, so only [`Cpu`] makes one. A kernel is
//! written once for any `Isa` and chosen at run time, never by `cfg(target_feature)`: a default build would quietly
//! ship scalar code. All vectors have at least four lanes (the scalar level is an array of four), because the Winograd
//! transforms work on groups of four.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

use std::sync::OnceLock;

use crate::KernelError;

/// Environment variable that lowers the instruction set: `scalar`, `neon`, `avx2` or `avx512`.
pub const ISA_VARIABLE: &str = "GLIOSEG_KERNELS_ISA";

/// An instruction set the kernels are written for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Plain Rust, whatever the target's baseline offers.
    Scalar,
    /// 128-bit vectors of aarch64.
    Neon,
    /// 256-bit vectors with fused multiply-add of x86-64.
    Avx2,
    /// 512-bit vectors of x86-64 (foundation, DQ, VL and BW).
    Avx512,
}

impl Level {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Neon, Self::Avx2, Self::Avx512];

    /// The value [`ISA_VARIABLE`] takes for this level.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Neon => "neon",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    fn supported(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
            }
            #[cfg(target_arch = "aarch64")]
            Self::Neon => std::arch::is_aarch64_feature_detected!("neon"),
            #[allow(unreachable_patterns, reason = "which arms exist depends on the target")]
            _ => false,
        }
    }
}

/// An instruction set this CPU has; the kernels take it as their first argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cpu(Level);

impl Cpu {
    /// The best instruction set of this CPU, or the one [`ISA_VARIABLE`] asks for; the answer is kept.
    ///
    /// # Errors
    /// [`KernelError::UnknownIsa`] or [`KernelError::UnsupportedIsa`] if the variable is set to something else.
    pub fn detect() -> Result<Self, KernelError> {
        static CHOSEN: OnceLock<Result<Cpu, KernelError>> = OnceLock::new();
        CHOSEN
            .get_or_init(|| match std::env::var_os(ISA_VARIABLE) {
                None => Ok(Self::best()),
                Some(word) => Self::named(&word.to_string_lossy()),
            })
            .clone()
    }

    /// The level called `word`.
    ///
    /// # Errors
    /// [`KernelError::UnknownIsa`] for a word that names no level, [`KernelError::UnsupportedIsa`] for a level this CPU
    /// lacks.
    pub fn named(word: &str) -> Result<Self, KernelError> {
        let Some(level) = Level::ALL.into_iter().find(|l| l.word() == word) else {
            return Err(KernelError::UnknownIsa { given: word.to_owned() });
        };
        if level.supported() {
            Ok(Self(level))
        } else {
            Err(KernelError::UnsupportedIsa { given: level, best: Self::best().level() })
        }
    }

    /// Every level of this CPU, lowest first.
    pub fn available() -> Vec<Self> {
        Level::ALL.into_iter().filter(|l| l.supported()).map(Self).collect()
    }

    fn best() -> Self {
        Self::available().into_iter().next_back().unwrap_or(Self(Level::Scalar))
    }

    /// The level.
    pub const fn level(self) -> Level {
        self.0
    }

    /// Lanes of one f32 vector.
    pub const fn lanes(self) -> usize {
        match self.0 {
            Level::Scalar | Level::Neon => 4,
            Level::Avx2 => 8,
            Level::Avx512 => 16,
        }
    }

    /// Name with architecture and element type, as logs and benches write it: `x86_64-avx2-f32`.
    pub fn name(self) -> String {
        format!("{}-{}-f32", std::env::consts::ARCH, self.0.word())
    }

    /// Runs `kernel` with this level's instructions enabled.
    #[inline]
    pub(crate) fn dispatch<K: Kernel>(self, kernel: K) -> K::Out {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx2,fma")]
                fn run<K: Kernel>(kernel: K, isa: avx512::Avx512) -> K::Out {
                    kernel.run(isa)
                }
                // SAFETY: only a CPU on which all of these were found has this level.
                unsafe { run(kernel, avx512::Avx512::new_unchecked()) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => {
                #[target_feature(enable = "avx2,fma")]
                fn run<K: Kernel>(kernel: K, isa: avx2::Avx2) -> K::Out {
                    kernel.run(isa)
                }
                // SAFETY: only a CPU on which AVX2 and FMA were found has this level.
                unsafe { run(kernel, avx2::Avx2::new_unchecked()) }
            }
            #[cfg(target_arch = "aarch64")]
            Level::Neon => {
                #[target_feature(enable = "neon")]
                fn run<K: Kernel>(kernel: K, isa: neon::Neon) -> K::Out {
                    kernel.run(isa)
                }
                // SAFETY: only a CPU on which NEON was found has this level.
                unsafe { run(kernel, neon::Neon::new_unchecked()) }
            }
            _ => kernel.run(scalar::Scalar),
        }
    }
}

/// Runs `work` compiled for the instructions of this CPU: plain loops that the compiler vectorises.
///
/// `work` and what it calls must be inlined into it: mark the closure `#[inline(always)]`. The compiler keeps the order of
/// floating point operations and fuses none, so the result is the same on every CPU. A word in [`ISA_VARIABLE`] that names no
/// instruction set, which [`Cpu::detect`] refuses, counts as none here.
///
/// ```
/// let mut values = [1.0f32, 2.0, 3.0];
/// glioseg_kernels::vectorised(
///     #[inline(always)]
///     || values.iter_mut().for_each(|v| *v = *v * 2.0 + 1.0),
/// );
/// assert_eq!(values, [3.0, 5.0, 7.0]);
/// ```
#[inline(always)]
pub fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    struct Loops<W>(W);
    impl<R, W: FnOnce() -> R> Kernel for Loops<W> {
        type Out = R;
        #[inline(always)]
        fn run<I: Isa>(self, _: I) -> R {
            (self.0)()
        }
    }
    Cpu::detect().unwrap_or_else(|_| Cpu::best()).dispatch(Loops(work))
}

/// A piece of work written for any [`Isa`]; `run` must be `#[inline(always)]` so that it takes on the caller's target
/// features. No closures in hot code: a closure that is not inlined loses them.
pub(crate) trait Kernel {
    type Out;
    fn run<I: Isa>(self, isa: I) -> Self::Out;
}

/// The vector operations; all lanes are f32.
///
/// Loads and stores take a slice and an index and check them only with debug assertions; that is what makes them unsafe.
pub(crate) trait Isa: Copy + Send + Sync + 'static {
    type F32: Copy;
    /// Half as many lanes of f64.
    type F64: Copy;
    const LANES: usize;
    /// Vector registers; decides the size of register blocks.
    const REGISTERS: usize;

    fn splat(self, x: f32) -> Self::F32;
    /// # Safety
    /// `at + LANES <= from.len()`.
    unsafe fn load(self, from: &[f32], at: usize) -> Self::F32;
    /// The first `n <= LANES` lanes; the others are zero.
    ///
    /// # Safety
    /// `at + n <= from.len()`.
    unsafe fn load_first(self, from: &[f32], at: usize, n: usize) -> Self::F32;
    /// # Safety
    /// `at + LANES <= to.len()`.
    unsafe fn store(self, to: &mut [f32], at: usize, v: Self::F32);
    /// The first `n <= LANES` lanes.
    ///
    /// # Safety
    /// `at + n <= to.len()`.
    unsafe fn store_first(self, to: &mut [f32], at: usize, n: usize, v: Self::F32);
    /// Keeps the first `n` lanes and zeroes the others.
    fn keep_first(self, v: Self::F32, n: usize) -> Self::F32;

    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a * b + c`, fused where the instruction set can.
    fn fma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `c - a * b`.
    fn fnma(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    fn max(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `x` where `selector > 0`, else `y`.
    fn select_positive(self, selector: Self::F32, x: Self::F32, y: Self::F32) -> Self::F32;

    /// Transposes 4×4 blocks: lanes `4q..4q+4` of the four inputs are row `q`'s 4×4 matrix. Its own inverse.
    fn transpose4(self, v: [Self::F32; 4]) -> [Self::F32; 4];
    /// Stores each four lanes `4q..4q + 4` to `to[at + q * pitch..]`.
    ///
    /// # Safety
    /// All of them lie inside `to`.
    unsafe fn store_quads(self, to: &mut [f32], at: usize, pitch: usize, v: Self::F32);
    /// Even and odd elements of the `2 * LANES` elements `a, b`.
    fn deinterleave2(self, a: Self::F32, b: Self::F32) -> (Self::F32, Self::F32);
    /// The inverse of [`Isa::deinterleave2`].
    fn interleave2(self, even: Self::F32, odd: Self::F32) -> (Self::F32, Self::F32);

    fn zero64(self) -> Self::F64;
    /// Adds all lanes of `v`, widened, to the lanes of `acc`.
    fn add_wide(self, acc: Self::F64, v: Self::F32) -> Self::F64;
    /// Adds the products of all lanes, widened before the product.
    fn fma_wide(self, acc: Self::F64, a: Self::F32, b: Self::F32) -> Self::F64;
    fn sum64(self, acc: Self::F64) -> f64;
    /// Sum of all lanes.
    fn sum(self, v: Self::F32) -> f32;
    /// Asks for the cache line of `from[at]`; any index will do.
    fn prefetch(self, from: &[f32], at: usize);
    /// Asks for a cache line that will be written.
    fn prefetch_write(self, address: *const f32);
}
