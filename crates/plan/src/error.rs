//! What can be wrong with a dataset description or plans.

use std::path::PathBuf;

/// Why a `dataset.json` or `plans.json` was refused.
///
/// `key` is the path of the value inside the file, such as `configurations.3d_fullres.patch_size`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is far larger than any description or plans.
    #[error("{} has {bytes} bytes, more than the {limit} a description or plans may have", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size in bytes.
        bytes: u64,
        /// The most bytes that are read.
        limit: u64,
    },
    /// The file is not JSON.
    #[error("{} is not valid JSON (line {line}, column {column}): {source}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// Column of the mistake, from 1.
        column: usize,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// A key that must be there is not.
    #[error("{}: `{key}` is missing; {}", path.display(), present_keys(present))]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The missing key.
        key: String,
        /// The keys that stand in its place.
        present: Vec<String>,
    },
    /// A value of the wrong type, or one that contradicts another.
    #[error("{}: `{key}` is {found}, but must be {expected}", path.display())]
    WrongValue {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The value found, shortened.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// A name (of a network class, a function, a scheme) that this program does not know.
    #[error("{}: `{key}` names `{found}`, which is not known; known are {}", path.display(), known.join(", "))]
    UnknownName {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The name found.
        found: String,
        /// The names that are known.
        known: Vec<String>,
    },
    /// The plans hold no configuration of that name.
    #[error("{} has no configuration `{name}`; it has {}", path.display(), known.join(", "))]
    UnknownConfiguration {
        /// The file.
        path: PathBuf,
        /// The name asked for.
        name: String,
        /// The names in the file.
        known: Vec<String>,
    },
    /// Configurations that inherit from each other in a circle.
    #[error("{}: configurations inherit in a circle: {}", path.display(), chain.join(" -> "))]
    InheritanceCycle {
        /// The file.
        path: PathBuf,
        /// The configurations in the order visited; the last one is also an earlier one.
        chain: Vec<String>,
    },
}

fn present_keys(present: &[String]) -> String {
    if present.is_empty() {
        "there are no keys".to_owned()
    } else {
        format!("there are {}", present.join(", "))
    }
}

impl PlanError {
    /// What to do about it, where that is more than the message says.
    pub fn hint(&self) -> Option<String> {
        match self {
            PlanError::Read { .. } => Some(
                "a model folder holds dataset.json and plans.json beside its fold_* folders; give the folder named \
                 TRAINER__PLANS__CONFIGURATION"
                    .to_owned(),
            ),
            PlanError::TooLarge { .. } | PlanError::Syntax { .. } => {
                Some("is this the file nnU-Net wrote? copy it again from where the model was trained".to_owned())
            },
            PlanError::MissingKey { key, present, .. } => {
                closest(key.rsplit('.').next().unwrap_or(key), present).map(|name| format!("is `{name}` a misspelling of it?"))
            },
            PlanError::WrongValue { .. } => None,
            PlanError::UnknownName { found, known, .. } => {
                Some(closest(found, known).map_or_else(
                    || "only nnU-Net's own networks, resampling functions and normalisation schemes can be used".to_owned(),
                    |name| format!("did you mean `{name}`?"),
                ))
            },
            PlanError::UnknownConfiguration { name, known, .. } => closest(name, known).map(|name| format!("did you mean `{name}`?")),
            PlanError::InheritanceCycle { .. } => {
                Some("remove `inherits_from` from the configuration that is meant to be the parent".to_owned())
            },
        }
    }
}

/// The known name nearest to `name`, if it is near enough to be a misspelling.
fn closest<'a>(name: &str, known: &'a [String]) -> Option<&'a str> {
    let lower = name.to_lowercase();
    known
        .iter()
        .map(|k| (edit_distance(&lower, &k.to_lowercase()), k.as_str()))
        .filter(|&(d, k)| d <= (k.len() / 4).max(1))
        .min()
        .map(|(_, k)| k)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &cb) in b.iter().enumerate() {
            let next = (diagonal + usize::from(ca != cb)).min(row[j] + 1).min(row[j + 1] + 1);
            diagonal = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_edits() {
        for (a, b, d) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "abd", 1),
            ("abc", "ab", 1),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(edit_distance(a, b), d, "{a} {b}");
        }
    }

    #[test]
    fn closest_ignores_names_that_are_too_far() {
        let known = ["3d_fullres".to_owned(), "2d".to_owned()];
        assert_eq!(closest("3d_fulres", &known), Some("3d_fullres"));
        assert_eq!(closest("3d_lowres", &known), None);
    }
}
