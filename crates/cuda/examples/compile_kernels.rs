//! Compiles `kernels.cu` with NVRTC: to the PTX that the program contains, or for one kind of GPU to see what its kernels need.
//!
//! `compile_kernels FOLDER` writes `src/kernels.ptx`; `compile_kernels FOLDER sm_90 …` prints registers and spills of every kernel
//! instead. FOLDER holds `libnvrtc.so.12` or `.13`. `cargo xtask ptx` brings NVRTC and calls this.
#![expect(clippy::print_stdout, reason = "a program for developers")]

use std::error::Error;
use std::ffi::{CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};

use libloading::Library;
use sha2::{Digest as _, Sha256};

const SOURCE: &str = include_str!("../src/kernels.cu");

/// The oldest GPUs that the program runs on: Volta.
const OLDEST: &str = "compute_70";

type Program = *mut c_void;
type Answer = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Length = unsafe extern "C" fn(Program, *mut usize) -> c_int;

struct Nvrtc {
    library: Library,
    /// NVRTC opens it by name; one that is open already is found wherever it lies.
    _builtins: Library,
}

impl Nvrtc {
    fn open(folder: &Path) -> Result<Self, Box<dyn Error>> {
        let mut files: Vec<_> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
        files.sort();
        let named = |name: &str| {
            let begins =
                |path: &&PathBuf| path.file_name().is_some_and(|f| f.to_string_lossy().starts_with(name));
            files.iter().find(begins).cloned().ok_or(format!("there is no {name} in {}", folder.display()))
        };
        let (builtins, library) = (named("libnvrtc-builtins.so.")?, named("libnvrtc.so.")?);
        // SAFETY: both are NVIDIA's libraries, whose initialisers are theirs to answer for.
        let (builtins, library) = unsafe { (Library::new(builtins)?, Library::new(library)?) };
        Ok(Self { library, _builtins: builtins })
    }

    /// A text that NVRTC has about a program, such as its PTX.
    fn text(&self, program: Program, what: &str) -> Result<String, Box<dyn Error>> {
        let (mut length, mut text) = (0, vec![]);
        // SAFETY: `nvrtcGetXSize` and `nvrtcGetX` have these types for every X, and the second writes as many bytes as the first says.
        unsafe {
            let size = self.library.get::<Length>(format!("nvrtcGet{what}Size").as_str())?;
            let get = self.library.get::<Answer>(format!("nvrtcGet{what}").as_str())?;
            size(program, &raw mut length);
            text.resize(length, 0u8);
            get(program, text.as_mut_ptr().cast());
        }
        Ok(String::from_utf8_lossy(&text).trim_end_matches('\0').to_owned())
    }

    /// PTX, and what the compiler says.
    fn compile(&self, architecture: &str) -> Result<[String; 2], Box<dyn Error>> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const c_void,
            *const c_void,
        ) -> c_int;
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
        let source = CString::new(SOURCE)?;
        let options = [
            CString::new(format!("--gpu-architecture={architecture}"))?,
            CString::new("--std=c++17")?,
            CString::new("--ptxas-options=-v")?,
        ];
        // What `ptxas` says is there only when it runs.
        let count = if architecture.starts_with("sm_") { 3 } else { 2 };
        let pointers = options.each_ref().map(|option| option.as_ptr());
        let mut program = std::ptr::null_mut();
        // SAFETY: the types are those of `nvrtc.h`; all texts end with a zero and live through the calls.
        let status = unsafe {
            let create = self.library.get::<Create>("nvrtcCreateProgram")?;
            let compile = self.library.get::<Compile>("nvrtcCompileProgram")?;
            let (none, name) = (std::ptr::null(), c"kernels.cu".as_ptr());
            create(&raw mut program, source.as_ptr(), name, 0, none, none);
            compile(program, count, pointers.as_ptr())
        };
        let said = self.text(program, "ProgramLog")?;
        if status != 0 {
            return Err(format!("{architecture}: NVRTC status {status}\n{said}").into());
        }
        Ok([self.text(program, "PTX")?, said])
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: compile_kernels FOLDER [sm_90 …]")?;
    let nvrtc = Nvrtc::open(Path::new(&folder))?;
    let mut architectures = arguments.peekable();
    if architectures.peek().is_none() {
        let hash: String =
            Sha256::digest(SOURCE).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let [ptx, said] = nvrtc.compile(OLDEST)?;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels.ptx");
        let text = format!("// kernels.cu {hash}\n{ptx}");
        std::fs::write(&path, &text)?;
        println!("{}: {} bytes of PTX for {OLDEST}\n{said}", path.display(), text.len());
    }
    for architecture in architectures {
        let [_, said] = nvrtc.compile(&architecture)?;
        println!("{architecture}");
        let mut name = String::new();
        for line in said.lines() {
            if let Some((_, rest)) = line.split_once("Compiling entry function '") {
                rest.split('\'').next().unwrap_or_default().clone_into(&mut name);
            } else if line.contains("registers")
                || (line.contains("spill") && !line.contains("0 bytes spill stores"))
            {
                println!("  {name:24} {}", line.trim_start_matches("ptxas info    :").trim());
            }
        }
    }
    Ok(())
}
