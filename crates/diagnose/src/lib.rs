//! What every error of the project can say besides its message.
//!
//! A crate of its own, since crates that share nothing else (kernels, readers of Python's files, images) have errors too.

mod content;

use std::error::Error;
use std::path::Path;

pub use content::{Content, Expected, ForeignFile};

/// An error that knows a remedy, and which file it is about.
///
/// An error that passes another one through (`#[error(transparent)]`) answers for it, because it takes its place in the
/// chain of causes; one that has a cause of its own need not: whoever prints a chain asks every link.
pub trait Diagnose: Error {
    /// What to do about it, where there is something to say.
    fn hint(&self) -> Option<String>;

    /// The file or folder it is about, where there is one.
    fn path(&self) -> Option<&Path> {
        None
    }
}

/// A number with its noun: `1 case`, `2 cases`.
///
/// ```
/// use glioseg_diagnose::count;
/// assert_eq!([count(0, "case"), count(1, "case"), count(2, "case")], ["0 cases", "1 case", "2 cases"]);
/// ```
pub fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// The first `most` of a list of names, and how many more there are.
///
/// ```
/// use glioseg_diagnose::first_few;
/// assert_eq!(first_few(&["a", "b"], 2), "a, b");
/// assert_eq!(first_few(&["a", "b", "c", "d"], 2), "a, b and 2 more");
/// ```
pub fn first_few<S: AsRef<str>>(names: &[S], most: usize) -> String {
    let shown: Vec<&str> = names.iter().take(most).map(AsRef::as_ref).collect();
    let more = if names.len() > most { format!(" and {} more", names.len() - most) } else { String::new() };
    shown.join(", ") + &more
}

/// Bytes in GiB, for messages.
pub fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}

/// Errors of other crates are large: [`From`] that boxes them into the variants of one of ours.
///
/// ```
/// # #[derive(Debug)] struct Large([u64; 32]);
/// # #[derive(Debug)] enum Ours { Theirs(Box<Large>) }
/// glioseg_diagnose::boxed_from!(Ours: Theirs(Large));
/// let Ours::Theirs(error) = Ours::from(Large([0; 32]));
/// assert_eq!(error.0[0], 0);
/// ```
#[macro_export]
macro_rules! boxed_from {
    ($target:ty: $($variant:ident($error:ty)),* $(,)?) => {
        $(impl ::std::convert::From<$error> for $target {
            fn from(error: $error) -> Self {
                Self::$variant(::std::boxed::Box::new(error))
            }
        })*
    };
}
