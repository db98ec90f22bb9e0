//! Descriptors of the graph interface: made, given attributes, finalised.

use std::ffi::c_void;
use std::sync::Arc;

use super::{Api, Cudnn, Raw};
use crate::error::CudaError;

/// A type of values that an attribute takes.
///
/// # Safety
/// Values of this type must be laid out as `cudnnBackendAttributeType_t` [`Self::TYPE`] says.
pub(super) unsafe trait Value: Copy {
    /// The number of the type.
    const TYPE: i32;
}

/// Numbers of an enumeration of cuDNN; the first parameter is the number of its type.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
pub(super) struct Enumerated<const TYPE: i32>(i32);

impl<const TYPE: i32> Enumerated<TYPE> {
    /// The value of this number.
    pub(super) const fn new(number: i32) -> Self {
        Self(number)
    }

    /// The number of the value.
    pub(super) const fn number(self) -> i32 {
        self.0
    }
}

/// `cudnnDataType_t`.
pub(super) type DataType = Enumerated<1>;
/// `cudnnConvolutionMode_t`.
pub(super) type ConvolutionMode = Enumerated<7>;
/// `cudnnBackendHeurMode_t`.
pub(super) type HeuristicMode = Enumerated<8>;
/// `cudnnBackendNumericalNote_t`.
pub(super) type NumericalNote = Enumerated<11>;

// SAFETY: enumerations of C have the size of an `int`, and the numbers are those of the header.
unsafe impl<const TYPE: i32> Value for Enumerated<TYPE> {
    const TYPE: i32 = TYPE;
}
// SAFETY: `CUDNN_TYPE_INT64`.
unsafe impl Value for i64 {
    const TYPE: i32 = 3;
}
// SAFETY: `CUDNN_TYPE_FLOAT`.
unsafe impl Value for f32 {
    const TYPE: i32 = 4;
}
// SAFETY: `CUDNN_TYPE_CHAR`.
unsafe impl Value for u8 {
    const TYPE: i32 = 24;
}
/// `CUDNN_TYPE_BACKEND_DESCRIPTOR`.
const DESCRIPTOR: i32 = 15;

/// A descriptor that this program owns.
#[derive(Debug)]
pub(super) struct Descriptor {
    api: Arc<Api>,
    raw: Raw,
}

// SAFETY: cuDNN's descriptors belong to no thread; only `&mut` and owning functions change one.
unsafe impl Send for Descriptor {}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: the descriptor was made by `cudnnBackendCreateDescriptor` and is destroyed once. Others that name it keep what
        // they need of it: cuDNN counts its uses.
        unsafe { (self.api.destroy)(self.raw) };
    }
}

impl Cudnn {
    /// A new descriptor of this kind (`cudnnBackendDescriptorType_t`).
    pub(super) fn descriptor(&self, kind: i32) -> Result<Descriptor, CudaError> {
        let mut raw = std::ptr::null_mut();
        // SAFETY: the pointer is to a pointer that lives through the call.
        let status = unsafe { (self.api.create)(kind, &raw mut raw) };
        self.api.check(status, || format!("making a descriptor of kind {kind}"))?;
        Ok(Descriptor { api: Arc::clone(&self.api), raw })
    }
}

impl Descriptor {
    /// Gives it the values of an attribute.
    pub(super) fn set<T: Value>(self, attribute: i32, values: &[T]) -> Result<Self, CudaError> {
        // SAFETY: there are as many values as are said to be, of the type that is said (`Value`), and cuDNN copies them.
        unsafe { self.set_raw(attribute, T::TYPE, values.len(), values.as_ptr().cast()) }?;
        Ok(self)
    }

    /// Gives it other descriptors.
    pub(super) fn of(self, attribute: i32, others: &[&Descriptor]) -> Result<Self, CudaError> {
        let raws: Vec<Raw> = others.iter().map(|other| other.raw).collect();
        // SAFETY: as many descriptors as are said to be, each of them alive through the call.
        unsafe { self.set_raw(attribute, DESCRIPTOR, raws.len(), raws.as_ptr().cast()) }?;
        Ok(self)
    }

    /// # Safety
    /// `values` must point to `count` values of `kind`.
    unsafe fn set_raw(
        &self,
        attribute: i32,
        kind: i32,
        count: usize,
        values: *const c_void,
    ) -> Result<(), CudaError> {
        // SAFETY: the caller's promise about the values; the descriptor is alive.
        let status = unsafe { (self.api.set)(self.raw, attribute, kind, count as i64, values) };
        self.api.check(status, || format!("setting attribute {attribute}"))
    }

    /// Closes it: attributes do not change any more.
    pub(super) fn finalized(self) -> Result<Self, CudaError> {
        // SAFETY: the descriptor is alive and not finalised yet.
        let status = unsafe { (self.api.finalize)(self.raw) };
        self.api.check(status, || "finalising a descriptor".to_owned())?;
        Ok(self)
    }

    /// Reads an attribute into `values`; how many of them there are.
    pub(super) fn get<T: Value>(&self, attribute: i32, values: &mut [T]) -> Result<usize, CudaError> {
        // SAFETY: there is room for as many values as are said, of the type that is said.
        unsafe { self.get_raw(attribute, T::TYPE, values.len(), values.as_mut_ptr().cast()) }
    }

    /// How many descriptors an attribute holds.
    pub(super) fn count(&self, attribute: i32) -> Result<usize, CudaError> {
        // SAFETY: nothing is written when no values are asked for.
        unsafe { self.get_raw(attribute, DESCRIPTOR, 0, std::ptr::null_mut()) }
    }

    /// Fills `others`, which were made for it, with the descriptors of an attribute.
    pub(super) fn fill(&self, attribute: i32, others: &mut [Descriptor]) -> Result<usize, CudaError> {
        let mut raws: Vec<Raw> = others.iter().map(|other| other.raw).collect();
        // SAFETY: cuDNN writes into the descriptors that the pointers name, which are alive and borrowed alone.
        unsafe { self.get_raw(attribute, DESCRIPTOR, raws.len(), raws.as_mut_ptr().cast()) }
    }

    /// # Safety
    /// `values` must point to room for `count` values of `kind`.
    unsafe fn get_raw(
        &self,
        attribute: i32,
        kind: i32,
        count: usize,
        values: *mut c_void,
    ) -> Result<usize, CudaError> {
        let mut found = 0i64;
        // SAFETY: the caller's promise about the values; the descriptor is alive, and the count lives through the call.
        let status =
            unsafe { (self.api.get)(self.raw, attribute, kind, count as i64, &raw mut found, values) };
        self.api.check(status, || format!("reading attribute {attribute}"))?;
        Ok(usize::try_from(found).unwrap_or(0))
    }
}
