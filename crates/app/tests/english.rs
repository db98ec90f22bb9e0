//! Phrases that the project does not use: thought in another language, or riddles.

use std::path::{Path, PathBuf};

/// The phrase, and what is said instead.
const PHRASES: [(&str, &str); 9] = [
    (" beside ", "next to, or besides"),
    ("is there already", "already exists"),
    (" anew", "again"),
    ("begun with", "started with"),
    (" goes on ", "continues or resumes"),
    ("how honest", "how well calibrated"),
    ("nothing says", "is unknown"),
    (" mend the ", "fix the"),
    ("asks for {needed} bytes", "promises … bytes, the file has …"),
];

/// Code in which a phrase's word is a name.
const NAMES: [&str; 3] = ["let beside ", "let mut beside ", "match beside "];

/// Words behind "is no" that make good English of it.
const NO: [&str; 5] = ["longer", "larger", "more", "less", "good"];

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let skipped = ["assets", "target", "node_modules", "fixtures", "english.rs"];
        if skipped.iter().any(|s| name == *s) {
            continue;
        }
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs" || e == "md") {
            found.push(path);
        }
    }
}

/// What is wrong with a line.
fn faults(line: &str) -> Vec<String> {
    let mut faults = vec![];
    for (phrase, instead) in PHRASES {
        if line.contains(phrase) && !NAMES.iter().any(|name| line.contains(name)) {
            faults.push(format!("`{}`: {instead}", phrase.trim()));
        }
    }
    for (at, phrase) in line.match_indices(" is no ") {
        let before = line[..at].rsplit(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let word = line[at + phrase.len()..].split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if !before.eq_ignore_ascii_case("there") && !NO.contains(&word) {
            faults.push(format!("`is no {word}`: is not a {word}"));
        }
    }
    faults
}

#[test]
fn phrases_of_another_language_are_found() {
    assert_eq!(faults("the file is no image beside the plans").len(), 2);
    assert!(faults("there is no fold 3; it is no longer used, and next to it").is_empty());
}

#[test]
fn nobody_uses_phrases_of_another_language() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut found = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    for folder in ["crates", "docs", "xtask"] {
        files(&root.join(folder), &mut found);
    }
    assert!(found.len() > 200, "only {} files", found.len());
    let mut wrong = vec![];
    for path in found {
        let text = std::fs::read_to_string(&path).expect("text");
        for (number, line) in text.lines().enumerate() {
            let place = format!("{}:{}", path.display(), number + 1);
            wrong.extend(faults(line).into_iter().map(|fault| format!("{place}: {fault}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
