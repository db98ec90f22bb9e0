//! What errors know, they tell: the file, the case, the number.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// A variant of an error: its name, its message as written, its fields.
struct Variant {
    name: String,
    message: String,
    fields: Vec<String>,
}

#[test]
fn every_fact_of_an_error_is_told() {
    let (mut untold, mut facts) = (Vec::new(), BTreeMap::new());
    for source in sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..")) {
        let text = fs::read_to_string(&source).expect("a source");
        for (name, body) in error_enums(&text) {
            let advice = block_after(&text, &format!("impl Diagnose for {name} {{")).unwrap_or_default();
            for variant in variants(body) {
                let told: Vec<&String> = variant
                    .fields
                    .iter()
                    .filter(|field| mentions(&variant.message, field) || mentions(advice, field))
                    .collect();
                let missing = variant.fields.iter().filter(|field| !told.contains(field));
                untold.extend(missing.map(|field| format!("{name}::{}: {field}", variant.name)));
                if !variant.fields.is_empty() {
                    facts.insert(format!("{name}::{}", variant.name), variant.fields.join(" "));
                }
            }
        }
    }
    assert!(untold.is_empty(), "fields that neither message nor hint nor place tells: {untold:#?}");
    let table = facts.iter().fold(String::new(), |mut table, (variant, fields)| {
        let _ = writeln!(table, "{variant}: {fields}");
        table
    });
    insta::assert_snapshot!("facts", table);
}

/// All source files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("tests") && !path.ends_with("target") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
    found
}

/// Names and bodies of the enums that derive `Error`.
fn error_enums(text: &str) -> Vec<(&str, &str)> {
    let mut found = Vec::new();
    for (at, _) in text.match_indices("enum ") {
        let before = text[..at].rsplit("\n\n").next().unwrap_or_default();
        let derives = before.lines().any(|l| l.trim_start().starts_with("#[derive(") && l.contains("Error"));
        let name = text[at + 5..].split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        if derives && let Some(body) = block_after(text, &format!("enum {name} {{")) {
            found.push((name, body));
        }
    }
    found
}

/// What stands between the braces that `opening` ends with.
fn block_after<'a>(text: &'a str, opening: &str) -> Option<&'a str> {
    let start = text.find(opening)? + opening.len();
    let mut depth = 1;
    for (i, c) in text[start..].char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[start..start + i]);
        }
    }
    None
}

/// The variants of an enum: each begins with `#[error(`.
fn variants(body: &str) -> Vec<Variant> {
    body.split("#[error(")
        .skip(1)
        .map(|part| {
            let end = part.find(")]").unwrap_or(part.len());
            let (message, rest) = (part[..end].to_owned(), part[end..].trim_start_matches(")]").trim_start());
            let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
            let fields =
                block_after(rest, &format!("{name} {{")).filter(|_| rest[name.len()..].starts_with(" {"));
            let fields = fields
                .unwrap_or_default()
                .lines()
                .map(str::trim)
                .filter(|line| !line.starts_with("//") && !line.starts_with('#'))
                .filter_map(|line| {
                    line.split_once(':').map(|(name, _)| name.trim_start_matches("pub ").to_owned())
                })
                // The cause is printed after the message.
                .filter(|name| name != "source")
                .collect();
            Variant { name, message, fields }
        })
        .collect()
}

/// Whether a text holds a word.
fn mentions(text: &str, word: &str) -> bool {
    let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    text.match_indices(word).any(|(at, _)| {
        !part_of_word(text[..at].chars().next_back()) && !part_of_word(text[at + word.len()..].chars().next())
    })
}
