//! Where the time of a pass goes, layer by layer; off unless asked for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

static ON: AtomicBool = AtomicBool::new(false);
static TIMES: Mutex<Vec<LayerTime>> = Mutex::new(Vec::new());

/// Time of one layer on our kernels.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTime {
    /// Operation, channels, output size, kernel, stride and algorithm.
    pub name: String,
    /// Seconds, preparation of weights included.
    pub seconds: f64,
    /// Seconds of the preparation of weights.
    pub packing: f64,
    /// Floating point operations of the direct algorithm.
    pub flops: f64,
    /// Bytes of the prepared weights.
    pub packed_bytes: usize,
}

/// Whether layers note their times from now on, in the whole process.
pub fn profile_layers(on: bool) {
    ON.store(on, Ordering::SeqCst);
}

/// The times noted since the last call, in order.
pub fn take_layer_times() -> Vec<LayerTime> {
    std::mem::take(&mut *TIMES.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Measures one layer from its making to [`Timer::stop`].
pub(super) struct Timer {
    start: Option<Instant>,
    packing: f64,
}

impl Timer {
    pub(super) fn start() -> Self {
        Self { start: ON.load(Ordering::Relaxed).then(Instant::now), packing: 0.0 }
    }

    /// The weights are ready.
    pub(super) fn packed(&mut self) {
        if let Some(start) = self.start {
            self.packing = start.elapsed().as_secs_f64();
        }
    }

    pub(super) fn stop(self, flops: f64, packed_bytes: usize, name: impl FnOnce() -> String) {
        if let Some(start) = self.start {
            let seconds = start.elapsed().as_secs_f64();
            let time = LayerTime { name: name(), seconds, packing: self.packing, flops, packed_bytes };
            TIMES.lock().unwrap_or_else(PoisonError::into_inner).push(time);
        }
    }
}
