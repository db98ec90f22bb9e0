//! Launches of our kernels: a function per kernel that knows its grid and checks the length of everything it touches.
//!
//! Nothing is started here, so a list of launches can be looked at and tested; and since a [`Launch`] is made here alone, whoever
//! runs one need not check again. Every function panics if lengths or shapes contradict each other: that is a contradiction in this
//! program.

mod attention;
mod head;
mod map;
mod prediction;
mod update;

pub use attention::Lines;
pub use head::{Logits, LossRule, LossTarget};
pub use map::{Form, Map, NormRule};
pub use prediction::Tile;

use crate::cudnn::Element;

/// Threads of a block; `THREADS` of the kernels.
pub(crate) const THREADS: usize = 256;

/// Bytes of a machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slice {
    start: usize,
    bytes: usize,
}

impl Slice {
    /// `bytes` bytes from `start` on.
    ///
    /// # Panics
    /// If the start is not a multiple of 16.
    pub fn new(start: usize, bytes: usize) -> Self {
        assert!(start.is_multiple_of(16), "memory from {start} on is not aligned");
        Self { start, bytes }
    }

    /// The first byte.
    pub fn start(self) -> usize {
        self.start
    }

    /// How many there are.
    pub fn bytes(self) -> usize {
        self.bytes
    }

    /// `bytes` of its bytes, from its `from`-th on.
    ///
    /// # Panics
    /// If it is not so long.
    #[must_use]
    pub fn part(self, from: usize, bytes: usize) -> Self {
        assert!(from + bytes <= self.bytes, "{bytes} bytes from {from} of {self:?}");
        Self { start: self.start + from, bytes }
    }

    /// Itself, if it holds so many values of so many bytes.
    #[track_caller]
    fn holds(self, values: usize, of: usize) -> Arg {
        assert!(self.bytes >= values * of, "{self:?} where {values} values of {of} bytes are needed");
        Arg::Memory(Some(self))
    }
}

/// A value that a kernel is given.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Arg {
    /// An address; null if there is none.
    Memory(Option<Slice>),
    /// Bytes as C lays them out.
    Value(Vec<u8>),
}

/// A kernel with its grid and values.
#[derive(Debug, Clone, PartialEq)]
pub struct Launch {
    pub(crate) kernel: String,
    pub(crate) grid: [u32; 3],
    pub(crate) args: Vec<Arg>,
    /// Threads of a block meet.
    pub(crate) meets: bool,
}

impl Launch {
    /// The kernel's name.
    pub fn kernel(&self) -> &str {
        &self.kernel
    }

    fn new(kernel: &'static str, grid: [usize; 3], args: Vec<Arg>) -> Self {
        let grid = grid.map(|n| u32::try_from(n).expect("a grid of 32-bit numbers"));
        assert!(grid[1] <= 65_535 && grid[2] <= 65_535, "{kernel}: a grid of {grid:?} blocks");
        let meets = MEETING.contains(&kernel);
        Self { kernel: kernel.to_owned(), grid, args, meets }
    }

    /// The same for maps of these values.
    fn of(mut self, element: Element) -> Self {
        self.kernel = format!("{}_{}", self.kernel, element.word());
        self
    }
}

/// Kernels on maps, once for each kind of values.
#[cfg(any(feature = "host", test))]
pub(crate) const ON_MAPS: [&str; 25] = [
    "pack",
    "stats",
    "apply",
    "norm_sums",
    "norm_backward",
    "put",
    "take",
    "add",
    "through",
    "pool",
    "pool_backward",
    "head",
    "head_data",
    "head_weights",
    "squares",
    "sgd",
    "adamw",
    "copy",
    "embed",
    "embed_backward",
    "attention",
    "attention_queries",
    "attention_keys",
    "gather",
    "accumulate",
];

/// The other kernels.
#[cfg(any(feature = "host", test))]
pub(crate) const PLAIN: [&str; 11] = [
    "fold",
    "affine",
    "norm_terms",
    "head_terms",
    "loss_regions",
    "loss_labels",
    "loss_terms",
    "loss_regions_gradient",
    "loss_labels_gradient",
    "norm_total",
    "unmirror",
];

/// Kernels whose threads meet.
const MEETING: [&str; 13] = [
    "stats",
    "fold",
    "norm_sums",
    "head_weights",
    "loss_regions",
    "loss_labels",
    "loss_terms",
    "squares",
    "norm_total",
    "embed_backward",
    "attention",
    "attention_queries",
    "attention_keys",
];

fn int(value: usize) -> Arg {
    let value = i32::try_from(value).expect("a number of 32 bits");
    Arg::Value(value.to_ne_bytes().to_vec())
}

fn flag(value: bool) -> Arg {
    int(usize::from(value))
}

fn long(value: usize) -> Arg {
    Arg::Value((value as i64).to_ne_bytes().to_vec())
}

fn float(value: f32) -> Arg {
    Arg::Value(value.to_ne_bytes().to_vec())
}

fn double(value: f64) -> Arg {
    Arg::Value(value.to_ne_bytes().to_vec())
}

/// A structure of values without gaps between them.
fn structure(parts: impl IntoIterator<Item = Arg>) -> Arg {
    let bytes = parts.into_iter().flat_map(|part| match part {
        Arg::Value(bytes) => bytes,
        Arg::Memory(_) => unreachable!("a structure of values"),
    });
    Arg::Value(bytes.collect())
}

fn size([z, y, x]: [usize; 3]) -> Arg {
    structure([int(z), int(y), int(x)])
}

fn optional(slice: Option<Slice>, values: usize) -> Arg {
    slice.map_or(Arg::Memory(None), |slice| slice.holds(values, size_of::<f32>()))
}

/// Blocks of a thread per value.
fn blocks(values: usize) -> usize {
    values.div_ceil(THREADS)
}
