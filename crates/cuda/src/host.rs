//! The host in place of a GPU: the text of the kernels compiled by this machine's C++ compiler, convolutions by plain loops.
//!
//! What is proven with it: that kernels, launches and lists of launches compute what they should. What is not: everything that is
//! a GPU's own, such as threads that really run at once.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use half::{bf16, f16};
use libloading::Library;

use crate::cudnn::{Convolution, Element, Pass};
use crate::error::CudaError;
use crate::launch::{Arg, Launch, ON_MAPS, PLAIN, Slice};
use crate::machine::{Machine, Product};

const SOURCES: [(&str, &str); 2] =
    [("kernels.cu", include_str!("kernels.cu")), ("host.cpp", include_str!("host.cpp"))];

/// Runs a kernel; see `host.cpp`.
type Run = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *mut *mut c_void,
    *const c_int,
    c_int,
    c_int,
) -> *const c_char;

/// The kernels' text has one set of threads: one kernel at a time in the whole process.
static ALONE: Mutex<()> = Mutex::new(());

/// The host as a machine.
#[derive(Debug)]
pub struct Host {
    run: Run,
    _library: Library,
    /// In units that are aligned as kernels need it.
    memory: Vec<u128>,
}

// SAFETY: the library's function is called with `ALONE` held, and the memory is the value's own.
unsafe impl Send for Host {}

impl Host {
    /// Compiles the kernels in `folder`, unless they are there already; or why not.
    ///
    /// # Errors
    /// What is missing, in words: there may be no compiler.
    pub fn build(folder: &Path) -> Result<Self, String> {
        let text = |error: std::io::Error| error.to_string();
        let names = ON_MAPS.iter().flat_map(|name| Element::ALL.map(|e| format!("{name}_{}", e.word())));
        let names = names.chain(PLAIN.map(str::to_owned));
        let table = names.fold(String::new(), |table, name| table + "ENTRY(" + &name + ")\n");
        let mut hasher = DefaultHasher::new();
        (SOURCES, &table).hash(&mut hasher);
        let folder = folder.join(format!("kernels-{:016x}", hasher.finish()));
        let library = folder.join("kernels.so");
        if !library.is_file() {
            std::fs::create_dir_all(&folder).map_err(text)?;
            for (name, source) in SOURCES.iter().copied().chain([("table.inc", table.as_str())]) {
                std::fs::write(folder.join(name), source).map_err(text)?;
            }
            // Several tests may do this at once: each writes a file of its own and moves it to its place.
            let own = folder.join(format!("{}-{:?}.so", std::process::id(), std::thread::current().id()));
            let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
            let answer = Command::new(compiler)
                .args(["-std=c++20", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-o"])
                .arg(&own)
                .arg(folder.join("host.cpp"))
                .output()
                .map_err(|error| format!("there is no C++ compiler: {error}"))?;
            if !answer.status.success() {
                return Err(String::from_utf8_lossy(&answer.stderr).into_owned());
            }
            std::fs::rename(own, &library).map_err(text)?;
        }
        // SAFETY: the library was compiled from the sources above; it has no initialisers but those of C++'s own library.
        let library = unsafe { Library::new(&library) }.map_err(|error| error.to_string())?;
        // SAFETY: the type is that of the function in `host.cpp`.
        let run = *unsafe { library.get::<Run>("glioseg_run") }.map_err(|error| error.to_string())?;
        Ok(Self { run, _library: library, memory: vec![] })
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.memory.len() * size_of::<u128>();
        // SAFETY: numbers are bytes, and as many as there are.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), len) }
    }

    fn slice(&mut self, slice: Slice) -> &mut [u8] {
        &mut self.bytes_mut()[slice.start()..slice.start() + slice.bytes()]
    }

    /// Values of a slice as f32.
    pub fn values(&mut self, slice: Slice, element: Element) -> Vec<f32> {
        decode(self.slice(slice), element)
    }

    /// Writes values, rounded as they are kept.
    pub fn set(&mut self, slice: Slice, element: Element, values: &[f32]) {
        let bytes = encode(values, element);
        self.slice(slice)[..bytes.len()].copy_from_slice(&bytes);
    }
}

/// Bytes of values, rounded to nearest.
pub fn encode(values: &[f32], element: Element) -> Vec<u8> {
    match element {
        Element::F32 => values.iter().flat_map(|v| v.to_ne_bytes()).collect(),
        Element::Bf16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_ne_bytes()).collect(),
        Element::F16 => values.iter().flat_map(|&v| f16::from_f32(v).to_ne_bytes()).collect(),
    }
}

/// The values of bytes.
pub fn decode(bytes: &[u8], element: Element) -> Vec<f32> {
    match element {
        Element::F32 => bytes.as_chunks().0.iter().map(|&b| f32::from_ne_bytes(b)).collect(),
        Element::Bf16 => bytes.as_chunks().0.iter().map(|&b| bf16::from_ne_bytes(b).to_f32()).collect(),
        Element::F16 => bytes.as_chunks().0.iter().map(|&b| f16::from_ne_bytes(b).to_f32()).collect(),
    }
}

impl Machine for Host {
    fn name(&self) -> String {
        "host".to_owned()
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), CudaError> {
        // All ones are not a number in any of the types: what nobody wrote shows.
        self.memory = vec![u128::MAX; bytes.div_ceil(size_of::<u128>())];
        Ok(())
    }

    fn free(&self) -> Option<u64> {
        None
    }

    fn write(&mut self, to: Slice, bytes: &[u8]) -> Result<(), CudaError> {
        self.slice(to).copy_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, from: Slice, bytes: &mut [u8]) -> Result<(), CudaError> {
        bytes.copy_from_slice(self.slice(from));
        Ok(())
    }

    fn clear(&mut self, to: Slice) -> Result<(), CudaError> {
        self.slice(to).fill(0);
        Ok(())
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), CudaError> {
        let name = CString::new(launch.kernel.as_str()).expect("a name without zeros");
        let len = self.memory.len() * size_of::<u128>();
        let base: *mut u8 = self.memory.as_mut_ptr().cast();
        let mut sizes = vec![];
        // In units that are aligned as the largest value needs it.
        let mut values: Vec<Vec<u64>> = launch
            .args
            .iter()
            .map(|arg| match arg {
                Arg::Memory(slice) => {
                    sizes.push(size_of::<usize>() as c_int);
                    let at = slice.map_or(std::ptr::null_mut(), |slice| {
                        assert!(slice.start() + slice.bytes() <= len, "{slice:?} of {len} bytes");
                        base.wrapping_add(slice.start())
                    });
                    vec![at as u64]
                }
                Arg::Value(bytes) => {
                    sizes.push(bytes.len() as c_int);
                    let word = |bytes: &[u8]| {
                        let mut word = [0; 8];
                        word[..bytes.len()].copy_from_slice(bytes);
                        u64::from_ne_bytes(word)
                    };
                    bytes.chunks(8).map(word).collect()
                }
            })
            .collect();
        let mut args: Vec<*mut c_void> = values.iter_mut().map(|value| value.as_mut_ptr().cast()).collect();
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: number and sizes of the values are compared with the kernel's before it runs; every address is within the memory,
        // with as many bytes behind it as the launch's constructor has found the kernel to touch.
        let fault = unsafe {
            (self.run)(
                name.as_ptr(),
                launch.grid.as_ptr(),
                args.as_mut_ptr(),
                sizes.as_ptr(),
                sizes.len() as c_int,
                c_int::from(launch.meets),
            )
        };
        if fault.is_null() {
            return Ok(());
        }
        // SAFETY: not null, so one of the constant texts of `host.cpp`.
        let status = unsafe { CStr::from_ptr(fault) }.to_string_lossy().into_owned();
        panic!("{launch:?}: {status}");
    }

    fn convolve(&mut self, product: &Product) -> Result<(), CudaError> {
        let Product { convolution, operands } = product;
        let element = convolution.element;
        let values = convolution.values();
        let mut of: Vec<Vec<f32>> =
            (0..3).map(|i| self.values(operands[i].part(0, values[i] * element.bytes()), element)).collect();
        let written = match convolution.pass {
            Pass::Forward => 2,
            Pass::Data => 0,
            Pass::Filter => 1,
        };
        if !convolution.add {
            of[written].fill(0.0);
        }
        let [x, w, y] = &mut of[..] else { unreachable!("three operands") };
        convolve(convolution, x, w, y);
        self.set(operands[written], element, &of[written]);
        Ok(())
    }
}

/// Adds a product to the operand that its pass writes.
fn convolve(of: &Convolution, x: &mut [f32], w: &mut [f32], y: &mut [f32]) {
    let ([from, to], [iz, iy, ix], output) = (of.channels, of.input, of.output());
    let [kz, ky, kx] = of.kernel;
    let place = |out: usize, tap: usize, a: usize| {
        (out * of.stride[a] + tap).checked_sub(of.padding[a]).filter(|&i| i < of.input[a])
    };
    for n in 0..of.batch {
        for (oz, oy, ox) in voxels(output) {
            let y = &mut y[(((n * output[0] + oz) * output[1] + oy) * output[2] + ox) * to..][..to];
            for (tz, ty, tx) in voxels(of.kernel) {
                let (Some(z), Some(r), Some(c)) = (place(oz, tz, 0), place(oy, ty, 1), place(ox, tx, 2))
                else {
                    continue;
                };
                let x = &mut x[(((n * iz + z) * iy + r) * ix + c) * from..][..from];
                let tap = (tz * ky + ty) * kx + tx;
                for (o, y) in y.iter_mut().enumerate() {
                    let w = &mut w[(o * kz * ky * kx + tap) * from..][..from];
                    match of.pass {
                        Pass::Forward => *y += x.iter().zip(w).map(|(x, w)| x * *w).sum::<f32>(),
                        Pass::Data => x.iter_mut().zip(w).for_each(|(x, w)| *x += *y * *w),
                        Pass::Filter => x.iter().zip(w).for_each(|(x, w)| *w += *y * x),
                    }
                }
            }
        }
    }
}

fn voxels([z, y, x]: [usize; 3]) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..z).flat_map(move |z| (0..y).flat_map(move |y| (0..x).map(move |x| (z, y, x))))
}
