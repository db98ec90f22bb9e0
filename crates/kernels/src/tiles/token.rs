//! Whether this process may use tiles.

use std::sync::OnceLock;

use crate::KernelError;
use crate::isa::{Cpu, ISA_VARIABLE, Level};

/// Environment variable that turns tiles off: `off`; `on` is as if it were not set.
pub const TILES_VARIABLE: &str = "GLIOSEG_KERNELS_TILES";

/// The proof that this process may use tiles of bf16, and AVX-512 with its bf16 instructions, which such CPUs have as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Amx(());

impl Amx {
    /// Looks at the environment and the CPU, and asks the operating system; the answer is kept.
    ///
    /// # Errors
    /// [`KernelError::UnknownTiles`] if [`TILES_VARIABLE`] is neither `on` nor `off`, [`KernelError::TilesOff`] if it or
    /// [`ISA_VARIABLE`] turns tiles off, [`KernelError::NoTiles`] on another CPU, [`KernelError::TilesRefused`] if the system
    /// refuses.
    pub fn detect() -> Result<Self, KernelError> {
        static CHOSEN: OnceLock<Result<Amx, KernelError>> = OnceLock::new();
        CHOSEN
            .get_or_init(|| {
                let word = |name| std::env::var_os(name).map(|w| w.to_string_lossy().into_owned());
                let words = [word(TILES_VARIABLE), word(ISA_VARIABLE)];
                decide(words, cpu_has_tiles(), ask_system).map(|()| Self(()))
            })
            .clone()
    }
}

/// From the values of the two variables, what the CPU has, and what the system answers.
pub(crate) fn decide(
    [tiles, isa]: [Option<String>; 2],
    present: bool,
    ask: impl FnOnce() -> Result<(), String>,
) -> Result<(), KernelError> {
    match tiles.as_deref() {
        None | Some("on") => {}
        Some("off") => {
            return Err(KernelError::TilesOff { variable: TILES_VARIABLE, given: "off".to_owned() });
        }
        Some(word) => return Err(KernelError::UnknownTiles { given: word.to_owned() }),
    }
    if let Some(given) = isa.filter(|word| word != Level::Avx512.word()) {
        // A word that means nothing is refused here as well as there.
        Cpu::named(&given)?;
        return Err(KernelError::TilesOff { variable: ISA_VARIABLE, given });
    }
    if !present {
        return Err(KernelError::NoTiles { found: describe() });
    }
    ask().map_err(|reason| KernelError::TilesRefused { reason })
}

/// Name of this CPU and its best instruction set.
fn describe() -> String {
    let best = Cpu::available().pop().map_or("", |cpu| cpu.level().word());
    let name = brand();
    if name.is_empty() { best.to_owned() } else { format!("{name}, {best}") }
}

#[cfg(target_arch = "x86_64")]
fn brand() -> String {
    use std::arch::x86_64::__cpuid;
    if __cpuid(0x8000_0000).eax < 0x8000_0004 {
        return String::new();
    }
    let mut bytes = vec![];
    for leaf in 0x8000_0002..=0x8000_0004 {
        let part = __cpuid(leaf);
        for register in [part.eax, part.ebx, part.ecx, part.edx] {
            bytes.extend(register.to_le_bytes());
        }
    }
    String::from_utf8_lossy(&bytes).trim_matches(['\0', ' ']).to_owned()
}

#[cfg(not(target_arch = "x86_64"))]
fn brand() -> String {
    std::env::consts::ARCH.to_owned()
}

#[cfg(target_arch = "x86_64")]
fn cpu_has_tiles() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    const BF16: u32 = 1 << 22;
    const TILE: u32 = 1 << 24;
    Cpu::named(Level::Avx512.word()).is_ok()
        && is_x86_feature_detected!("avx512bf16")
        && __cpuid(0).eax >= 7
        && __cpuid_count(7, 0).edx & (BF16 | TILE) == BF16 | TILE
}

#[cfg(not(target_arch = "x86_64"))]
fn cpu_has_tiles() -> bool {
    false
}

/// Asks Linux for the state that tiles need; it is granted to all threads, those to come included.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn ask_system() -> Result<(), String> {
    use std::ffi::c_long;
    const ARCH_PRCTL: c_long = 158;
    const ARCH_REQ_XCOMP_PERM: c_long = 0x1023;
    const XFEATURE_XTILEDATA: c_long = 18;
    unsafe extern "C" {
        fn syscall(number: c_long, ...) -> c_long;
    }
    // SAFETY: asks for a permission of this process; the call reads and writes no memory of ours.
    let answer = unsafe { syscall(ARCH_PRCTL, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) };
    if answer == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().to_string()) }
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn ask_system() -> Result<(), String> {
    Err("it is not Linux".to_owned())
}
