//! Memory for packed data: aligned to a cache line, and scratch that every thread keeps between jobs.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Huge page of x86-64 and usual aarch64 systems.
const HUGE_PAGE: usize = 2 << 20;

/// A zeroed slice of f32 aligned to 64 bytes.
pub(crate) struct Buffer {
    pointer: NonNull<f32>,
    len: usize,
}

// SAFETY: `Buffer` owns its memory, as a `Vec` does.
unsafe impl Send for Buffer {}
// SAFETY: a shared `Buffer` can only be read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Aligned to a cache line, or to a huge page if it is large.
    fn layout(len: usize) -> Layout {
        let large = len * size_of::<f32>() >= HUGE_PAGE / 2;
        let alignment = if large { HUGE_PAGE } else { 64 };
        let len = if large { len.next_multiple_of(HUGE_PAGE / size_of::<f32>()) } else { len };
        Layout::array::<f32>(len)
            .and_then(|l| l.align_to(alignment))
            .expect("the length of a buffer fits the address space")
    }

    /// Memory that nobody has written yet.
    fn unwritten(len: usize) -> Self {
        if len == 0 {
            return Self { pointer: NonNull::dangling(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout is not empty.
        let raw = unsafe { alloc(layout) };
        #[expect(clippy::cast_ptr_alignment, reason = "the layout is aligned to 64 bytes")]
        let Some(pointer) = NonNull::new(raw.cast::<f32>()) else { handle_alloc_error(layout) };
        advise_huge_pages(raw as usize, layout.size());
        Self { pointer, len }
    }

    pub(crate) fn zeroed(len: usize) -> Self {
        let buffer = Self::unwritten(len);
        // SAFETY: our own memory. Written by hand: `alloc_zeroed` with a large alignment would write before the advice.
        unsafe { buffer.pointer.as_ptr().write_bytes(0, len) };
        buffer
    }

    /// A buffer whose values `fill` writes, so that a large one is not zeroed in vain.
    ///
    /// # Safety
    /// `fill` writes every element with [`Shared::write`], and reads none before.
    pub(crate) unsafe fn written_by(len: usize, fill: impl FnOnce(Shared<'_, f32>)) -> Self {
        let buffer = Self::unwritten(len);
        fill(Shared { pointer: buffer.pointer.as_ptr(), len, life: std::marker::PhantomData });
        buffer
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated in `zeroed` with the same layout.
            unsafe { dealloc(self.pointer.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        // SAFETY: `len` initialised elements (or none, at a dangling pointer).
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: `len` initialised elements (or none, at a dangling pointer), borrowed mutably with the owner.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer({} f32)", self.len)
    }
}

/// Memory of prepared weights: their own, or lent by the caller.
#[derive(Debug)]
pub(crate) enum Storage<'a> {
    Own(Buffer),
    Lent(&'a mut [f32]),
}

impl Deref for Storage<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        match self {
            Self::Own(buffer) => buffer,
            Self::Lent(values) => values,
        }
    }
}

/// Bytes that `len` values of prepared weights or scratch take in memory of their own: whole huge pages if they are many.
pub fn buffer_bytes(len: usize) -> usize {
    if len == 0 { 0 } else { Buffer::layout(len).size() }
}

/// Values in huge pages where the system offers them, aligned to a cache line: memory that many maps share.
///
/// The pages are taken from the system when they are first written.
#[derive(Debug, Default)]
pub struct Arena {
    memory: Vec<f32>,
    /// The first value that a cache line starts with.
    start: usize,
    len: usize,
}

impl Arena {
    /// Memory for `len` values, all 0.
    pub fn new(len: usize) -> Self {
        const LINE: usize = 64;
        let memory = zeroed_tensor(len + LINE / size_of::<f32>());
        let address = memory.as_ptr() as usize;
        let start = (address.next_multiple_of(LINE) - address) / size_of::<f32>();
        Self { memory, start, len }
    }

    /// Values of the arena.
    pub fn values(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..][..self.len]
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A zeroed vector for a tensor, in huge pages where the system offers them.
///
/// A tensor of hundreds of MiB in 4 KiB pages costs tens of milliseconds of page faults when it is first written, and every
/// row a kernel reads costs a miss of the address cache. Linux hands out huge pages on request; elsewhere, and for small
/// tensors, this is `vec![0.0; len]`.
pub fn zeroed_tensor(len: usize) -> Vec<f32> {
    let tensor = vec![0.0f32; len];
    advise_huge_pages(tensor.as_ptr() as usize, len * size_of::<f32>());
    tensor
}

/// Asks for huge pages in all whole ones of our own allocation.
fn advise_huge_pages(address: usize, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        const MADV_HUGEPAGE: i32 = 14;
        unsafe extern "C" {
            fn madvise(address: *mut std::ffi::c_void, length: usize, advice: i32) -> i32;
        }
        let start = address.next_multiple_of(HUGE_PAGE);
        let end = (address + bytes) / HUGE_PAGE * HUGE_PAGE;
        if end > start {
            // SAFETY: whole pages inside our allocation; the advice changes no contents. Refusal does no harm.
            let _ = unsafe { madvise(start as *mut std::ffi::c_void, end - start, MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (address, bytes);
}

/// Makes freed memory of a few MiB go back to the system at once instead of staying with the process in pieces.
///
/// The GNU C library keeps such pieces for later requests, and which of them fit changes from pass to pass: without this the
/// memory of a full-size network grows by a tenth over its first passes. Elsewhere this does nothing. Once is enough.
pub fn return_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const M_MMAP_THRESHOLD: i32 = -3;
        unsafe extern "C" {
            fn mallopt(parameter: i32, value: i32) -> i32;
        }
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            // SAFETY: sets a number of the allocator, under its own lock. Refusal does no harm.
            let _ = unsafe { mallopt(M_MMAP_THRESHOLD, 4 << 20) };
        });
    }
}

/// Gives pages back to the system that hold nothing but freed memory, such as what reading and preparing a case left between
/// allocations that stay.
pub fn trim_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: the allocator's own, under its own locks; it touches freed memory only.
        let _ = unsafe { malloc_trim(0) };
    }
}

thread_local! {
    static SCRATCH: RefCell<Buffer> = RefCell::new(Buffer::zeroed(0));
}

/// Gives `work` this thread's scratch, at least `len` long, its contents unspecified. Not re-entrant.
///
/// The scratch stays with the thread, so that a job does not pay for fresh pages.
pub(crate) fn with_scratch<R>(len: usize, work: impl FnOnce(&mut [f32]) -> R) -> R {
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < len {
            *scratch = Buffer::zeroed(0);
            *scratch = Buffer::zeroed(len);
        }
        work(&mut scratch[..len])
    })
}

/// Values of this thread's scratch.
pub fn scratch_of_thread() -> usize {
    SCRATCH.with_borrow(|scratch| scratch.len())
}

/// A slice that several threads write, each its own parts.
#[derive(Clone, Copy)]
pub(crate) struct Shared<'a, T> {
    pointer: *mut T,
    len: usize,
    life: std::marker::PhantomData<&'a mut [T]>,
}

// SAFETY: access goes through `range`, whose callers promise disjoint parts.
unsafe impl<T: Send> Send for Shared<'_, T> {}
// SAFETY: threads that share it reach elements only through `range` and `write`, whose callers promise disjoint parts.
unsafe impl<T: Send> Sync for Shared<'_, T> {}

impl<'a, T> Shared<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Self { pointer: slice.as_mut_ptr(), len: slice.len(), life: std::marker::PhantomData }
    }

    /// Address of element `i`, which may lie outside: good for a prefetch only.
    #[inline(always)]
    pub(crate) fn address(self, i: usize) -> *const T {
        self.pointer.wrapping_add(i)
    }

    /// Writes `values` from `start` on; what was there need not be a value.
    ///
    /// # Safety
    /// Inside the slice, and no live reference overlaps the part.
    #[inline(always)]
    pub(crate) unsafe fn write<const N: usize>(self, start: usize, values: [T; N])
    where
        T: Copy,
    {
        debug_assert!(start + N <= self.len, "{start}..+{N} of {}", self.len);
        // SAFETY: the caller's promise.
        unsafe { self.pointer.add(start).cast::<[T; N]>().write(values) }
    }

    /// # Safety
    /// Inside the slice, and no other live reference overlaps the part.
    #[inline(always)]
    pub(crate) unsafe fn range(self, start: usize, len: usize) -> &'a mut [T] {
        debug_assert!(start + len <= self.len, "{start}..+{len} of {}", self.len);
        // SAFETY: the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(start), len) }
    }
}
