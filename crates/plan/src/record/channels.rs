//! What was found about the channels of a case: do they look like their names?

use std::path::Path;

use serde::{Deserialize, Serialize};

/// A comparison of channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestKind {
    /// CSF on T2 and FLAIR.
    Csf,
    /// The brightest of T2 on FLAIR, and the other way round.
    Suppression,
    /// The longer tail of the histogram.
    Tail,
    /// T2 against T1 and FLAIR.
    Contrast,
    /// What is brighter with contrast agent.
    Enhancement,
}

/// One test's outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ChannelTest {
    /// The test.
    pub test: TestKind,
    /// The channels, as they are named.
    pub channels: Vec<String>,
    /// What was measured; positive where the names are right.
    pub value: f64,
    /// How it counts, from −1 (the names contradict it) to 1 (they agree).
    pub agreement: f64,
}

/// Something that is probably wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Doubt {
    /// Two channels are the same image.
    Duplicate {
        /// Index of one channel.
        first: usize,
        /// Index of the other.
        second: usize,
        /// Their correlation.
        correlation: f64,
    },
    /// Channels that look like each other's names.
    Exchanged {
        /// For every channel that is concerned, its index and the index of the channel whose name it should have.
        moved: Vec<(usize, usize)>,
        /// What the right names gain.
        gain: f64,
        /// The evidence that weighs most, in words.
        evidence: String,
    },
}

/// What was found about a case's channels.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ChannelCheck {
    /// Voxels that were looked at; 0 if there are too few to judge.
    pub voxels: usize,
    /// Every test that the channels allow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tests: Vec<ChannelTest>,
    /// What is probably wrong; nothing if the channels are what they are called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<Doubt>,
}

impl ChannelCheck {
    /// Every doubt as a sentence that names the files; `files[c]` is that of channel `c`.
    pub fn messages(&self, names: &[String], files: &[&Path]) -> Vec<String> {
        let channel = |c: usize| match files.get(c) {
            Some(file) => format!("`{}` ({})", names[c], file.display()),
            None => format!("`{}`", names[c]),
        };
        self.doubts
            .iter()
            .map(|doubt| match doubt {
                Doubt::Duplicate { first, second, correlation } => format!(
                    "the channels {} and {} are the same image (correlation {correlation})",
                    channel(*first),
                    channel(*second)
                ),
                Doubt::Exchanged { moved, evidence, .. } => {
                    if let [(a, _), (b, _)] = moved[..] {
                        return format!(
                            "the channels {} and {} look exchanged: {evidence}",
                            channel(a),
                            channel(b)
                        );
                    }
                    let looks =
                        |&(c, like): &(usize, usize)| format!("{} looks like `{}`", channel(c), names[like]);
                    let each: Vec<String> = moved.iter().map(looks).collect();
                    format!("the channels look mixed up: {}; {evidence}", each.join(", "))
                }
            })
            .collect()
    }
}
