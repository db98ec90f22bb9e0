//! cuDNN 9 through its graph interface: ten functions, and numbers of `cudnn_graph.h` written down by hand.
//!
//! A convolution becomes a graph of one operation; heuristics offer engines for it, and an engine that can be finalised is a
//! [`Plan`]. This works for a GPU that is only described ([`DeviceProperties`]), so plans are tested where there is no GPU.

mod convolution;
mod descriptor;
mod plan;

use std::ffi::{CStr, c_char, c_void};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libloading::Library;

use crate::error::CudaError;
use crate::libraries::Libraries;

pub use convolution::{Convolution, Element, Pass};
pub use plan::{DeviceProperties, Plan, Target};

/// cuDNN's library.
pub(crate) const FILE: &str = "libcudnn.so.9";

/// `cudnnStatus_t`.
type Status = i32;
/// `cudnnBackendDescriptor_t`.
type Raw = *mut c_void;

/// Functions of cuDNN; all of them may be called from any thread.
#[derive(Debug)]
struct Api {
    create: unsafe extern "C" fn(i32, *mut Raw) -> Status,
    set: unsafe extern "C" fn(Raw, i32, i32, i64, *const c_void) -> Status,
    finalize: unsafe extern "C" fn(Raw) -> Status,
    get: unsafe extern "C" fn(Raw, i32, i32, i64, *mut i64, *mut c_void) -> Status,
    destroy: unsafe extern "C" fn(Raw) -> Status,
    version: unsafe extern "C" fn() -> usize,
    last_error: unsafe extern "C" fn(*mut c_char, usize),
    _library: Library,
}

/// cuDNN, opened.
#[derive(Debug, Clone)]
pub struct Cudnn {
    api: Arc<Api>,
    file: PathBuf,
}

/// Looks a function up; its type is the field's that it goes to.
macro_rules! function {
    ($library:expr, $name:literal) => {
        // SAFETY: the type is that of the function of this name in `cudnn_graph.h`, which keeps it throughout version 9.
        unsafe { $library.get($name) }
            .map(|function| *function)
            .map_err(|_| CudaError::Function { library: "cuDNN", function: $name })?
    };
}

impl Cudnn {
    /// Opens cuDNN 9.
    ///
    /// # Errors
    /// [`CudaError::NoCudnn`] if it is in none of the folders, [`CudaError::Version`] if it is another version.
    pub fn open(libraries: &Libraries) -> Result<Self, CudaError> {
        let Some((library, file)) = libraries.open(FILE)? else {
            return Err(CudaError::NoCudnn { file: FILE, searched: libraries.folders().to_vec() });
        };
        let api = Api {
            create: function!(library, "cudnnBackendCreateDescriptor"),
            set: function!(library, "cudnnBackendSetAttribute"),
            finalize: function!(library, "cudnnBackendFinalize"),
            get: function!(library, "cudnnBackendGetAttribute"),
            destroy: function!(library, "cudnnBackendDestroyDescriptor"),
            version: function!(library, "cudnnGetVersion"),
            last_error: function!(library, "cudnnGetLastErrorString"),
            _library: library,
        };
        let cudnn = Self { api: Arc::new(api), file };
        if cudnn.version() / 10_000 != 9 {
            let found = cudnn.version_text();
            return Err(CudaError::Version { library: "cuDNN", found, needed: "version 9" });
        }
        Ok(cudnn)
    }

    /// The file it was opened from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn version(&self) -> usize {
        // SAFETY: it takes nothing and returns a number.
        unsafe { (self.api.version)() }
    }

    /// Its version, such as `9.28.1`.
    pub fn version_text(&self) -> String {
        let version = self.version();
        format!("{}.{}.{}", version / 10_000, version % 10_000 / 100, version % 100)
    }
}

impl Api {
    fn check(&self, status: Status, call: impl FnOnce() -> String) -> Result<(), CudaError> {
        if status == 0 {
            return Ok(());
        }
        let mut text = [0u8; 1024];
        // SAFETY: it writes at most as many bytes as it is told there are, the last of them zero.
        unsafe { (self.last_error)(text.as_mut_ptr().cast(), text.len()) };
        let message = CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy().into_owned();
        Err(CudaError::Cudnn { call: call(), status, message })
    }
}
