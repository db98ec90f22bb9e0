//! What is wrong with a command line.

use glioseg_diagnose::Diagnose;

/// A problem of the command line itself, with its remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Problem {
    message: String,
    hint: String,
}

impl Problem {
    #[expect(clippy::new_ret_no_self, reason = "commands give anyhow's errors")]
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> anyhow::Error {
        anyhow::Error::new(Self { message: message.into(), hint: hint.into() })
    }
}

impl Diagnose for Problem {
    fn hint(&self) -> Option<String> {
        Some(self.hint.clone())
    }
}
