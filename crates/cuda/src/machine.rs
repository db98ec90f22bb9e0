//! What runs launches: a GPU, or the host where tests stand in for one.

use std::fmt;

use crate::cudnn::Convolution;
use crate::error::CudaError;
use crate::launch::{Launch, Slice};

/// One product of a convolution with the places of its operands.
///
/// # Shapes
/// `x` is the input or its gradient, `w` the weights or theirs, `y` the output or its: [`Convolution::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// What is computed.
    pub convolution: Convolution,
    /// Input, weights and output; the pass says which of them is written.
    pub operands: [Slice; 3],
}

impl Product {
    /// A product whose operands are as long as it needs.
    ///
    /// # Panics
    /// If one is shorter.
    pub fn new(convolution: Convolution, operands: [Slice; 3]) -> Self {
        for (values, slice) in convolution.values().into_iter().zip(operands) {
            let needed = values * convolution.element.bytes();
            assert!(slice.bytes() >= needed, "{convolution}: {slice:?} where {needed} bytes are needed");
        }
        Self { convolution, operands }
    }
}

/// A memory, and what computes on it, in the order in which it is asked.
pub trait Machine: Send + fmt::Debug {
    /// What a record calls it.
    fn name(&self) -> String;

    /// Takes this many bytes, in place of those it has; what they hold is undefined.
    ///
    /// # Errors
    /// What the machine says that does not have so many.
    fn reserve(&mut self, bytes: usize) -> Result<(), CudaError>;

    /// Bytes that are free, where the machine knows.
    fn free(&self) -> Option<u64>;

    /// Writes bytes from the host.
    ///
    /// # Errors
    /// What the machine says that fails.
    ///
    /// # Panics
    /// If the slice has another length, or is not in the memory.
    fn write(&mut self, to: Slice, bytes: &[u8]) -> Result<(), CudaError>;

    /// Reads bytes to the host, when everything before is done.
    ///
    /// # Errors
    /// What the machine says that fails.
    ///
    /// # Panics
    /// As [`Self::write`].
    fn read(&mut self, from: Slice, bytes: &mut [u8]) -> Result<(), CudaError>;

    /// Sets all bytes to 0.
    ///
    /// # Errors
    /// What the machine says that fails.
    fn clear(&mut self, to: Slice) -> Result<(), CudaError>;

    /// Starts a kernel.
    ///
    /// # Errors
    /// What the machine says that fails.
    fn launch(&mut self, launch: &Launch) -> Result<(), CudaError>;

    /// Starts a convolution.
    ///
    /// # Errors
    /// What the machine says that fails.
    fn convolve(&mut self, product: &Product) -> Result<(), CudaError>;
}
