//! What a program takes, and whether it is there.

use glioseg_diagnose::gib;
use std::fmt;

use crate::NetError;

/// Bytes that an engine and its caller take for a program, known before its first step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryPlan {
    /// Weights and running statistics.
    pub parameters: u64,
    /// Gradients of the weights, in training; what an optimiser keeps is the parameters'.
    pub gradients: u64,
    /// Feature maps, their gradients, and everything else that a step needs for a moment.
    pub maps: u64,
    /// Weights that stay prepared between passes.
    pub packed: u64,
    /// Scratch of the threads, which stays with them.
    pub scratch: u64,
    /// The patch, which the caller holds.
    pub input: u64,
}

impl MemoryPlan {
    /// All of it.
    pub fn total(self) -> u64 {
        self.parameters + self.gradients + self.maps + self.packed + self.scratch + self.input
    }

    /// Bytes of this plan that an engine has taken already, or will have free once its present program is gone.
    pub(super) fn held_by(self, held: Held) -> u64 {
        let arena = ((held.arena * size_of::<f32>()) as u64).min(self.maps);
        let parameters = if held.parameters { self.parameters } else { 0 };
        let present = held.present.map_or(0, |plan| plan.gradients + plan.packed);
        arena + parameters + present + held.scratch.min(self.scratch)
    }

    /// Refuses what does not fit into `free` bytes next to the `held` ones that are already taken for it.
    ///
    /// # Errors
    /// [`NetError::Memory`].
    pub(super) fn check(self, held: u64, free: Option<u64>) -> Result<(), NetError> {
        let needed = self.total().saturating_sub(held);
        match free {
            Some(free) if needed > free => Err(NetError::Memory { needed, free, plan: self }),
            _ => Ok(()),
        }
    }
}

/// What an engine holds between two programs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Values of the arena.
    pub arena: usize,
    /// Whether parameters are loaded.
    pub parameters: bool,
    /// The plan of the present program.
    pub present: Option<MemoryPlan>,
    /// Bytes of scratch that the threads keep.
    pub scratch: u64,
}

impl fmt::Display for MemoryPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { parameters, gradients, maps, packed, scratch, input } = *self;
        write!(f, "{:.2} GiB (maps {:.2}, weights {:.2}", gib(self.total()), gib(maps), gib(parameters))?;
        for (what, bytes) in [
            ("gradients", gradients),
            ("prepared weights", packed),
            ("scratch of the threads", scratch),
            ("patch", input),
        ] {
            if bytes > 0 {
                write!(f, ", {what} {:.2}", gib(bytes))?;
            }
        }
        f.write_str(")")
    }
}

#[cfg(test)]
mod tests {
    use glioseg_diagnose::Diagnose;

    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        let plan = MemoryPlan { parameters: 1 << 30, maps: 3 << 30, ..MemoryPlan::default() };
        let error = plan.check(1 << 30, Some((3 << 30) - 1)).expect_err("a byte too few");
        let text = "the network needs 3.00 GiB more memory, but 3.00 GiB are free; in all it takes 4.00 GiB (maps 3.00, weights 1.00)";
        assert_eq!(error.to_string(), text);
        assert!(error.hint().is_some_and(|h| h.contains("smaller")));
        assert!(plan.check(1 << 30, Some(3 << 30)).is_ok());
        assert!(plan.check(5 << 30, Some(0)).is_ok(), "nothing more is needed");
        assert!(plan.check(0, None).is_ok(), "nobody knows");
    }
}
