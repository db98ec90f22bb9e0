//! NVIDIA GPUs without CUDA at build time: libraries opened at run time, convolution plans of cuDNN, and our own kernels.
//!
//! The decision that shaped it: the one program that everybody gets runs on an NVIDIA GPU where it finds the driver and cuDNN 9,
//! and needs neither to be built or to run without them. So nothing is linked: [`Libraries`] knows where users have these files,
//! functions are looked up by name, and cuDNN's interface is written down here by hand. All `unsafe` code about GPUs is in this
//! crate.
//!
//! What a network is stays outside: convolutions come as numbers ([`Convolution`]).

mod cudnn;
mod devices;
mod driver;
mod error;
#[cfg(feature = "host")]
pub mod host;
pub mod launch;
mod libraries;
mod machine;

pub use cudnn::{Convolution, Cudnn, DeviceProperties, Element, Pass, Plan, Target};
pub use devices::{Gpu, Survey, survey};
pub use driver::Driver;
pub use error::CudaError;
pub use launch::{Launch, Slice};
pub use libraries::{LIBRARIES_VARIABLE, Libraries, python_folder};
pub use machine::{Machine, Product};
