//! Weights prepared for the kernels, kept beside the parameter they were made from.
//!
//! Transformed weights can be eight times as large as the parameter, so only so many bytes are kept per process; layers that
//! come later prepare theirs in every pass and free them at once. A kept entry holds on to the tensor it was made from:
//! while it does, nobody writes to that tensor in place, so the same address means the same values.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::flex::FlexTensor;
use glioseg_kernels::{Algorithm, ConvShape, PackedConv, PackedTransposed, TransposedShape};

use super::cpu;
use super::memory::{make_room, values};

/// Bytes that may be kept, and that are kept, in the whole process.
static BUDGET: AtomicUsize = AtomicUsize::new(64 << 20);
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// Limits the memory of weights that stay prepared between passes, in bytes; entries above it are dropped as they are used.
pub fn set_packed_budget(bytes: usize) {
    BUDGET.store(bytes, Ordering::SeqCst);
}

/// Bytes of all weights that are kept prepared.
pub fn packed_bytes() -> usize {
    KEPT.load(Ordering::SeqCst)
}

/// What a layer keeps; clones of a layer share it.
#[derive(Clone, Default)]
pub struct Packed(Arc<Mutex<Option<Entry>>>);

impl std::fmt::Debug for Packed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packed")
    }
}

struct Entry {
    key: Key,
    weights: Weights,
    bytes: usize,
}

impl Drop for Entry {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

struct Key {
    /// Keeps the address taken.
    tensor: FlexTensor,
    /// What the choice of the algorithm depends on.
    algorithm: Algorithm,
    input: [usize; 3],
}

impl Key {
    fn same(&self, other: &Self) -> bool {
        (self.algorithm, self.input) == (other.algorithm, other.input)
            && self.tensor.bytes().as_ptr() == other.tensor.bytes().as_ptr()
            && self.tensor.layout() == other.tensor.layout()
    }
}

#[derive(Clone)]
enum Weights {
    Conv(Arc<PackedConv>),
    Transposed(Arc<PackedTransposed>),
}

impl Packed {
    /// Prepared weights of a convolution; `weight` is `[out, in, kz, ky, kx]`, contiguous.
    pub(crate) fn conv(
        &self,
        shape: &ConvShape,
        weight: &FlexTensor,
        algorithm: Algorithm,
    ) -> Arc<PackedConv> {
        let key = Key { tensor: weight.clone(), algorithm, input: shape.input };
        let made = self.get(key, || {
            let packed = PackedConv::new(cpu(), shape, values(weight), algorithm);
            let bytes = packed.bytes();
            (Weights::Conv(Arc::new(packed)), bytes)
        });
        let Weights::Conv(packed) = made else { unreachable!("a layer is one kind of convolution") };
        packed
    }

    /// Prepared weights of a transposed convolution; `weight` is `[in, out, kz, ky, kx]`, contiguous.
    pub(crate) fn transposed(&self, shape: &TransposedShape, weight: &FlexTensor) -> Arc<PackedTransposed> {
        let key = Key { tensor: weight.clone(), algorithm: Algorithm::Direct, input: shape.input };
        let made = self.get(key, || {
            let packed = PackedTransposed::new(cpu(), shape, values(weight));
            let bytes = packed.bytes();
            (Weights::Transposed(Arc::new(packed)), bytes)
        });
        let Weights::Transposed(packed) = made else { unreachable!("a layer is one kind of convolution") };
        packed
    }

    /// Forgets what is kept; the parameter is about to change.
    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn get(&self, key: Key, make: impl FnOnce() -> (Weights, usize)) -> Weights {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = &*slot
            && entry.key.same(&key)
        {
            return entry.weights.clone();
        }
        *slot = None;
        // At most eight values for one: 216 frequencies for 27 taps.
        make_room(8 * key.tensor.layout().num_elements());
        let (weights, bytes) = make();
        let fits = |kept: usize| (kept + bytes <= BUDGET.load(Ordering::SeqCst)).then_some(kept + bytes);
        if KEPT.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok() {
            *slot = Some(Entry { key, weights: weights.clone(), bytes });
        }
        weights
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::memory::tensor;

    #[test]
    fn weights_are_prepared_again_when_they_change_and_only_then() {
        let shape = ConvShape::same(1, 1, 1, [4, 4, 4], [3, 3, 3], [1, 1, 1]);
        let packed = Packed::default();
        let weight = tensor(vec![1.0; 27], [1, 1, 3, 3, 3]);
        let first = packed.conv(&shape, &weight, Algorithm::Direct);
        let again = packed.conv(&shape, &weight.clone(), Algorithm::Direct);
        assert!(Arc::ptr_eq(&first, &again));
        let other = packed.conv(&shape, &tensor(vec![1.0; 27], [1, 1, 3, 3, 3]), Algorithm::Direct);
        assert!(!Arc::ptr_eq(&first, &other));
        packed.clear();
        let cleared = packed.conv(&shape, &weight, Algorithm::Direct);
        assert!(!Arc::ptr_eq(&first, &cleared));
    }
}
