//! What a call takes next to its operands.

use crate::buffer::buffer_bytes;

/// Values that a call takes next to its operands, told by the code that cuts the call into jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scratch {
    /// What every thread takes, and keeps for later calls.
    pub per_thread: usize,
    /// What the caller lends; its contents do not matter.
    pub lent: usize,
}

impl Scratch {
    /// What is enough for both calls, one after the other.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { per_thread: self.per_thread.max(other.per_thread), lent: self.lent.max(other.lent) }
    }

    /// Bytes that all threads of rayon's pool keep.
    pub fn bytes_of_threads(self) -> usize {
        rayon::current_num_threads() * buffer_bytes(self.per_thread)
    }
}

/// The first `len` values of what the caller lends, and the rest.
///
/// # Panics
/// If there are fewer.
pub(crate) fn split(scratch: &mut [f32], len: usize) -> (&mut [f32], &mut [f32]) {
    assert!(scratch.len() >= len, "scratch of {} values for {len}", scratch.len());
    scratch.split_at_mut(len)
}
