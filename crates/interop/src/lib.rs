//! Files and numbers of Python programs: pickles, PyTorch's containers, Python's JSON, numpy's random numbers.
//!
//! What is read comes back as plain data; nothing in a file is ever run. This crate knows no network and no plan: what a
//! key means is for those to say who asked for it.

mod error;
mod pickle;
mod python_json;
mod random_state;
mod torch;
mod value;

pub use error::{InteropError, PickleError};
pub use pickle::{read_pickle, read_pickle_file, write_pickle};
pub use python_json::{KeyOrder, parse_python_json, python_json};
pub use random_state::RandomState;
pub use torch::TorchFile;
pub use value::{ArrayType, NdArray, StorageRef, TensorRef, TensorType, Value};
