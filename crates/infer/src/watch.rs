//! Progress of a prediction, and how it is stopped.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::InferError;

/// Whoever watches a prediction: hears of every network pass, and may stop it before the next one.
///
/// ```
/// # use glioseg_infer::Watch;
/// # use std::sync::atomic::AtomicBool;
/// let (stop, passes) = (AtomicBool::new(false), std::cell::Cell::new(0));
/// let count = || passes.set(passes.get() + 1);
/// let watch = Watch::default().stop(&stop).on_pass(&count);
/// assert!(!watch.is_stopped());
/// ```
#[derive(Clone, Copy, Default)]
pub struct Watch<'a> {
    stop: Option<&'a AtomicBool>,
    passed: Option<&'a dyn Fn()>,
}

impl<'a> Watch<'a> {
    /// Ends with [`InferError::Stopped`] before the next network pass once `stop` is set.
    #[must_use]
    pub fn stop(self, stop: &'a AtomicBool) -> Self {
        Self { stop: Some(stop), ..self }
    }

    /// Calls `passed` after every network pass.
    #[must_use]
    pub fn on_pass(self, passed: &'a dyn Fn()) -> Self {
        Self { passed: Some(passed), ..self }
    }

    /// Whether it was told to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Ordering::SeqCst))
    }

    /// An error once it was told to stop.
    pub(crate) fn check(&self) -> Result<(), InferError> {
        if self.is_stopped() { Err(InferError::Stopped) } else { Ok(()) }
    }

    /// A network pass is done.
    pub(crate) fn passed(&self) {
        if let Some(passed) = self.passed {
            passed();
        }
    }
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("stopped", &self.is_stopped()).finish_non_exhaustive()
    }
}
