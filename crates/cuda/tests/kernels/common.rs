//! The host as a machine, with memory that is handed out piece by piece.

use std::path::Path;

use glioseg_cuda::host::Host;
use glioseg_cuda::{Element, Launch, Machine as _, Slice};

/// Bytes of its memory.
const MEMORY: usize = 64 << 20;

/// The host, and what of its memory is taken.
pub(crate) struct Bench {
    pub(crate) host: Host,
    taken: usize,
    state: u64,
}

impl Bench {
    /// `None`, with a word, where there is no C++ compiler.
    #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
    pub(crate) fn new() -> Option<Self> {
        match Host::build(Path::new(env!("CARGO_TARGET_TMPDIR"))) {
            Ok(mut host) => {
                host.reserve(MEMORY).expect("memory");
                Some(Self { host, taken: 0, state: 1 })
            }
            Err(reason) => {
                assert!(reason.contains("there is no C++ compiler"), "{reason}");
                eprintln!("left out: {reason}");
                None
            }
        }
    }

    /// Room for so many values; the first pieces are given again when all is taken.
    pub(crate) fn space(&mut self, values: usize, element: Element) -> Slice {
        let bytes = values * element.bytes();
        if self.taken + bytes > MEMORY {
            self.taken = 0;
        }
        let slice = Slice::new(self.taken, bytes);
        self.taken = (self.taken + bytes).next_multiple_of(64);
        slice
    }

    pub(crate) fn put(&mut self, values: &[f32], element: Element) -> Slice {
        let slice = self.space(values.len(), element);
        self.host.set(slice, element, values);
        slice
    }

    pub(crate) fn put_bytes(&mut self, bytes: &[u8]) -> Slice {
        let slice = self.space(bytes.len().div_ceil(4), Element::F32).part(0, bytes.len());
        self.host.write(slice, bytes).expect("written");
        slice
    }

    pub(crate) fn get(&mut self, slice: Slice, element: Element) -> Vec<f32> {
        self.host.values(slice, element)
    }

    pub(crate) fn doubles(&mut self, slice: Slice) -> Vec<f64> {
        let mut bytes = vec![0; slice.bytes()];
        self.host.read(slice, &mut bytes).expect("read");
        bytes.as_chunks().0.iter().map(|&b| f64::from_ne_bytes(b)).collect()
    }

    pub(crate) fn run(&mut self, launch: &Launch) {
        self.host.launch(launch).expect("a launch");
    }

    /// Numbers between `-most` and `most` without pattern.
    pub(crate) fn random(&mut self, len: usize, most: f32) -> Vec<f32> {
        let mut next = || {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 7;
            self.state ^= self.state << 17;
            (self.state >> 40) as f32 / (1u64 << 24) as f32 * 2.0 - 1.0
        };
        (0..len).map(|_| next() * most).collect()
    }
}

/// Values that are at most `tolerance` times the largest expected one away from what is expected.
#[track_caller]
pub(crate) fn near(name: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{name}");
    let size = expected.iter().fold(1e-3f64, |most, v| most.max(v.abs()));
    for (i, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let far = (f64::from(found) - expected).abs();
        assert!(far <= tolerance * size, "{name}: value {i} is {found} instead of {expected}");
    }
}
