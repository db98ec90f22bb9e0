//! The GPU's driver, as far as the functions go that tell what is there.

use std::ffi::{CStr, c_char, c_int};

use libloading::Library;

use crate::error::CudaError;
use crate::libraries::Libraries;

/// The driver's library.
const FILE: &str = "libcuda.so.1";

/// The oldest driver that takes the kernels of this program: PTX 8.1, CUDA 12.1.
const OLDEST: i32 = 12_010;

/// `CUdevice_attribute`: multiprocessors, and the two parts of the compute capability.
const MULTIPROCESSORS: c_int = 16;
const CAPABILITY: [c_int; 2] = [75, 76];

type Status = c_int;

/// Functions of the driver; all of them may be called from any thread.
#[derive(Debug)]
struct Api {
    init: unsafe extern "C" fn(u32) -> Status,
    version: unsafe extern "C" fn(*mut c_int) -> Status,
    count: unsafe extern "C" fn(*mut c_int) -> Status,
    get: unsafe extern "C" fn(*mut c_int, c_int) -> Status,
    name: unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status,
    memory: unsafe extern "C" fn(*mut usize, c_int) -> Status,
    attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status,
    error: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
}

/// The driver, started.
#[derive(Debug)]
pub struct Driver {
    api: Api,
    version: i32,
    _library: Library,
}

/// Looks a function up; its type is the field's that it goes to.
macro_rules! function {
    ($library:expr, $name:literal) => {
        // SAFETY: the type is that of the function of this name in `cuda.h`, whose functions never change theirs.
        unsafe { $library.get($name) }
            .map(|function| *function)
            .map_err(|_| CudaError::Function { library: "the NVIDIA driver", function: $name })?
    };
}

impl Driver {
    /// Opens and starts the driver.
    ///
    /// # Errors
    /// [`CudaError::NoDriver`] without a driver, [`CudaError::DriverOff`] if it does not start, [`CudaError::Version`] if it is
    /// too old for this program's kernels.
    pub fn open(libraries: &Libraries) -> Result<Self, CudaError> {
        let Some((library, _)) = libraries.open(FILE)? else {
            return Err(CudaError::NoDriver { file: FILE });
        };
        let api = Api {
            init: function!(library, "cuInit"),
            version: function!(library, "cuDriverGetVersion"),
            count: function!(library, "cuDeviceGetCount"),
            get: function!(library, "cuDeviceGet"),
            name: function!(library, "cuDeviceGetName"),
            memory: function!(library, "cuDeviceTotalMem_v2"),
            attribute: function!(library, "cuDeviceGetAttribute"),
            error: function!(library, "cuGetErrorName"),
        };
        let mut driver = Self { api, version: 0, _library: library };
        let off = |call| {
            move |error| match error {
                CudaError::Driver { status, .. } => CudaError::DriverOff { call, status },
                other => other,
            }
        };
        // SAFETY: `cuInit` takes no flags yet and may be called any number of times.
        let status = unsafe { (driver.api.init)(0) };
        driver.check("cuInit", status).map_err(off("cuInit"))?;
        // SAFETY: the pointer is to an integer that lives through the call.
        let status = unsafe { (driver.api.version)(&raw mut driver.version) };
        driver.check("cuDriverGetVersion", status)?;
        if driver.version < OLDEST {
            let found = driver.version_text();
            return Err(CudaError::Version { library: "a driver for CUDA", found, needed: "12.1 or later" });
        }
        Ok(driver)
    }

    fn check(&self, call: &'static str, status: Status) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        let mut name = std::ptr::null();
        // SAFETY: the pointer is to a pointer that lives through the call; the driver sets it to a constant text or to null.
        unsafe { (self.api.error)(status, &raw mut name) };
        let status = if name.is_null() {
            status.to_string()
        } else {
            // SAFETY: not null, so it is the driver's constant text, which ends with a zero.
            unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
        };
        Err(CudaError::Driver { call, status })
    }

    /// The CUDA version that it is for, such as `13.0`.
    pub fn version_text(&self) -> String {
        format!("{}.{}", self.version / 1000, self.version % 1000 / 10)
    }

    /// How many GPUs there are; those that `CUDA_VISIBLE_DEVICES` hides are not.
    ///
    /// # Errors
    /// What the driver says.
    pub fn count(&self) -> Result<usize, CudaError> {
        let mut count = 0;
        // SAFETY: the pointer is to an integer that lives through the call.
        let status = unsafe { (self.api.count)(&raw mut count) };
        self.check("cuDeviceGetCount", status)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// Name, memory in bytes, multiprocessors and compute capability of a GPU.
    ///
    /// # Errors
    /// [`CudaError::NoGpu`] if there are not so many; what the driver says.
    pub fn gpu(&self, index: usize) -> Result<crate::Gpu, CudaError> {
        let found = self.count()?;
        if index >= found {
            return Err(CudaError::NoGpu { index, found });
        }
        let mut device = 0;
        // SAFETY: the pointer is to an integer that lives through the call.
        let status = unsafe { (self.api.get)(&raw mut device, index as c_int) };
        self.check("cuDeviceGet", status)?;
        let mut name = [0; 256];
        // SAFETY: the driver writes at most as many bytes as it is told there are, the last of them zero.
        let status = unsafe { (self.api.name)(name.as_mut_ptr(), name.len() as c_int, device) };
        self.check("cuDeviceGetName", status)?;
        let mut memory = 0;
        // SAFETY: the pointer is to an integer that lives through the call.
        let status = unsafe { (self.api.memory)(&raw mut memory, device) };
        self.check("cuDeviceTotalMem", status)?;
        let attribute = |which| {
            let mut value = 0;
            // SAFETY: the pointer is to an integer that lives through the call.
            let status = unsafe { (self.api.attribute)(&raw mut value, which, device) };
            self.check("cuDeviceGetAttribute", status).map(|()| value.max(0).cast_unsigned())
        };
        let name: Vec<u8> = name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect();
        Ok(crate::Gpu {
            index,
            name: String::from_utf8_lossy(&name).into_owned(),
            memory: memory as u64,
            multiprocessors: attribute(MULTIPROCESSORS)?,
            capability: [attribute(CAPABILITY[0])?, attribute(CAPABILITY[1])?],
        })
    }
}
