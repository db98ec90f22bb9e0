//! Buffers that layers pass on to each other.
//!
//! A feature map of a full-size network has hundreds of MiB; fresh memory of that size costs as much time as a pass over it.
//! So a layer's output goes, where possible, into memory that an earlier layer has left. What is kept never
//! makes the process larger than its layers already were at their largest moment.

use std::sync::{Mutex, MutexGuard, PoisonError};

use burn::backend::flex::{FlexTensor, Layout};
use burn::tensor::{Bytes, DType};
use glioseg_kernels::zeroed_tensor;

/// Smaller buffers are not worth keeping.
const SMALLEST: usize = 16 * 1024;

/// Values, not bytes.
struct Pool {
    free: Vec<Vec<f32>>,
    /// Lent and not yet given back.
    lent: usize,
    /// Most ever lent.
    most: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), lent: 0, most: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    // A panic elsewhere leaves the pool's own state whole.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn kept(&self) -> usize {
        self.free.iter().map(Vec::capacity).sum()
    }

    /// Frees kept buffers until `extra` more values make the process no larger than its layers have been.
    fn make_room(&mut self, extra: usize) {
        loop {
            let over = (self.lent + self.kept() + extra).saturating_sub(self.most);
            if over == 0 || self.free.is_empty() {
                return;
            }
            // The smallest that is enough, or else the largest.
            let size = |i: &usize| self.free[*i].capacity();
            let enough = (0..self.free.len()).filter(|i| size(i) >= over).min_by_key(size);
            let chosen = enough.or_else(|| (0..self.free.len()).max_by_key(size));
            self.free.swap_remove(chosen.unwrap_or(0));
        }
    }
}

/// A buffer of exactly `len` values, which are unspecified; whoever takes it overwrites all of them.
pub(crate) fn take(len: usize) -> Vec<f32> {
    if len < SMALLEST {
        return vec![0.0; len];
    }
    let mut pool = pool();
    pool.lent += len;
    pool.most = pool.most.max(pool.lent);
    let fits = |v: &Vec<f32>| v.capacity() >= len && v.capacity() <= len + len / 8;
    let found =
        (0..pool.free.len()).filter(|&i| fits(&pool.free[i])).min_by_key(|&i| pool.free[i].capacity());
    if let Some(i) = found {
        let mut buffer = pool.free.swap_remove(i);
        drop(pool);
        buffer.resize(len, 0.0);
        if cfg!(debug_assertions) {
            buffer.fill(f32::NAN);
        }
        return buffer;
    }
    pool.make_room(0);
    drop(pool);
    zeroed_tensor(len)
}

/// Takes back a buffer that nobody reads any more.
pub(crate) fn give(buffer: Vec<f32>) {
    if buffer.capacity() >= SMALLEST {
        let mut pool = pool();
        pool.lent = pool.lent.saturating_sub(buffer.len());
        pool.free.push(buffer);
    }
}

/// Makes room for `len` values that somebody else is about to allocate for a short time.
pub(crate) fn make_room(len: usize) {
    pool().make_room(len);
}

/// A new forward pass starts: whatever was lent before and has left the layers, as logits do, is not ours any more.
pub(crate) fn start() {
    pool().lent = 0;
}

/// Frees the memory that layers keep for the next pass; prepared weights stay.
pub fn release_memory() {
    let mut pool = pool();
    pool.free = Vec::new();
    pool.most = 0;
}

/// The values, if nobody else holds them.
pub(crate) fn into_values(tensor: FlexTensor) -> Result<Vec<f32>, FlexTensor> {
    if !tensor.is_unique() || !tensor.is_contiguous() || tensor.layout().start_offset() != 0 {
        return Err(tensor);
    }
    let values = tensor.layout().num_elements();
    if tensor.bytes().len() != values * size_of::<f32>() {
        return Err(tensor);
    }
    Ok(tensor.into_data().try_into_vec::<f32>().expect("f32, as asked before the layer"))
}

/// Keeps the memory of a tensor if this was its last use.
pub(crate) fn recycle(tensor: FlexTensor) {
    if let Ok(values) = into_values(tensor) {
        give(values);
    }
}

/// A tensor of these values; no copy.
pub(crate) fn tensor(values: Vec<f32>, shape: impl Into<burn::tensor::Shape>) -> FlexTensor {
    let shape = shape.into();
    assert_eq!(values.len(), shape.num_elements(), "values of a tensor of shape {shape:?}");
    FlexTensor::new(Bytes::from_elems(values), Layout::contiguous(shape), DType::F32)
}

/// The same tensor without gaps; no copy if it has none.
pub(crate) fn contiguous(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<f32>().is_some() { tensor } else { tensor.to_contiguous() }
}

/// The values of a contiguous tensor.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor.as_slice().expect("a contiguous tensor of f32")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_gives_its_memory_back_only_at_its_last_use() {
        let values = vec![1.5f32; 20_000];
        let address = values.as_ptr();
        let first = tensor(values, [20_000]);
        let second = first.clone();
        let first = into_values(first).expect_err("shared");
        drop(second);
        let values = into_values(first).expect("the last one");
        assert_eq!(values.as_ptr(), address);
        assert_eq!(values, vec![1.5; 20_000]);
    }

    #[test]
    fn a_view_keeps_its_memory() {
        let whole = tensor(vec![1.0f32; 40_000], [2, 20_000]);
        assert!(into_values(whole.narrow(0, 1, 1)).is_err());
        let whole = tensor(vec![1.0f32; 40_000], [2, 20_000]);
        let narrow = whole.narrow(0, 0, 1);
        drop(whole);
        assert!(into_values(narrow).is_err());
    }
}
