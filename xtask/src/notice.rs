//! `NOTICE`: whose code is in the program, and under which licences.
//!
//! What the program for Linux on x86-64 links is listed, as cargo resolves it. Of several licences that a crate offers one is taken, Apache-2.0 where
//! possible, because its text is in the repository anyway; the texts of the others are copied from the crates' own files. The built-in template is named with
//! its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const HEAD: &str = "\
glioseg
Copyright the glioseg project

glioseg is under the Apache licence 2.0, see LICENSE. The program also contains the crates below, each under the licence that is named.
The page of a report contains programs in JavaScript; their licences are in crates/report/assets/dist/NOTICE.txt and in every report.

This file is written by `cargo xtask notice`.
";

/// The licence of the built-in template, which the program contains too.
const TEMPLATE: &str = include_str!("../../crates/workflow/templates/NOTICE.txt");

/// In this order a licence is taken where a crate offers several.
const PREFERRED: [&str; 7] = ["Apache-2.0", "MIT", "Zlib", "BSD-3-Clause", "ISC", "Unlicense", "MPL-2.0"];

/// Writes `NOTICE`, or with `check` says whether it is up to date.
pub(crate) fn notice(check: bool) -> bool {
    let text = match make() {
        Ok(text) => text,
        Err(error) => {
            eprintln!("xtask: NOTICE: {error}");
            return false;
        }
    };
    let path = &Path::new(env!("CARGO_MANIFEST_DIR")).join("../NOTICE");
    if !check {
        return std::fs::write(path, text).inspect_err(|e| eprintln!("xtask: NOTICE: {e}")).is_ok();
    }
    let current = std::fs::read_to_string(path).is_ok_and(|old| old == text);
    if !current {
        eprintln!("xtask: NOTICE is not that of Cargo.lock; run `cargo xtask notice`");
    }
    current
}

fn make() -> Result<String, String> {
    let mut text = format!("{HEAD}\nThe template of `glioseg preprocess`: {TEMPLATE}");
    // Texts, and the crates that each is of.
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (package, (licence, repository)) in packages()? {
        let taken = choose(&licence);
        let _ = write!(text, "\n{package}: {licence}");
        if taken != "Apache-2.0" {
            let none = || format!("{taken}; the crate brings no text of its own, see {repository}");
            let own = licence_text(&package, taken)?.unwrap_or_else(none);
            texts.entry(own.trim().to_owned()).or_default().push(package);
        }
    }
    text.push('\n');
    for (own, of) in texts {
        let _ = write!(text, "\n{}\n{}\n\n{own}\n", "-".repeat(80), of.join(", "));
    }
    Ok(text)
}

/// `NAME VERSION` of every crate in the program that is not our own, with its licence and repository.
fn packages() -> Result<BTreeMap<String, (String, String)>, String> {
    let mut command = Command::new("cargo");
    command.args(["tree", "--package", "glioseg-app", "--edges", "normal,no-proc-macro", "--prefix", "none"]);
    command.args(["--target", "x86_64-unknown-linux-gnu", "--format", "{p}|{l}|{r}"]);
    let output = command.output().map_err(|e| format!("cannot run cargo tree: {e}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let mut fields = line.split('|');
        let (Some(package), Some(licence), Some(repository)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(format!("cargo tree says {line}"));
        };
        // `name v1.2.3`, and for our own crates their folder.
        let mut words = package.split_whitespace();
        let (Some(name), Some(version)) = (words.next(), words.next()) else { continue };
        if !name.starts_with("glioseg-") {
            found.insert(
                format!("{name} {}", version.trim_start_matches('v')),
                (licence.to_owned(), repository.to_owned()),
            );
        }
    }
    Ok(found)
}

/// The licence that is taken of an expression such as `MIT OR Apache-2.0`.
fn choose(expression: &str) -> &str {
    let offered: Vec<&str> =
        expression.split(" OR ").flat_map(|part| part.split('/')).map(str::trim).collect();
    PREFERRED.into_iter().find(|licence| offered.contains(licence)).unwrap_or(expression)
}

/// The text of a licence as the crate brings it, if it does.
fn licence_text(package: &str, licence: &str) -> Result<Option<String>, String> {
    let folder = source(package)?;
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    let word = licence.split('-').next().unwrap_or(licence).to_lowercase();
    let is_licence = |name: &&String| {
        let name = name.to_lowercase();
        ["license", "licence", "copying", "unlicense"].iter().any(|start| name.starts_with(start))
    };
    let named = names.iter().filter(is_licence).find(|name| name.to_lowercase().contains(&word));
    let Some(name) = named.or_else(|| names.iter().find(is_licence)) else {
        return Ok(None);
    };
    let path = folder.join(name);
    std::fs::read_to_string(&path).map(Some).map_err(|e| format!("{}: {e}", path.display()))
}

/// Where cargo has unpacked a crate.
fn source(package: &str) -> Result<PathBuf, String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let registry = home.ok_or("neither CARGO_HOME nor HOME is set")?.join("registry/src");
    let entries = std::fs::read_dir(&registry).map_err(|e| format!("{}: {e}", registry.display()))?;
    let name = package.replace(' ', "-");
    let mut folders = entries.filter_map(|entry| Some(entry.ok()?.path().join(&name)));
    folders
        .find(|folder| folder.is_dir())
        .ok_or_else(|| format!("the source of {package} is not in {}", registry.display()))
}

#[cfg(test)]
mod tests {
    use super::choose;

    #[test]
    fn apache_is_taken_where_it_is_offered() {
        for (expression, taken) in [
            ("MIT OR Apache-2.0", "Apache-2.0"),
            ("MIT/Apache-2.0", "Apache-2.0"),
            ("Unlicense/MIT", "MIT"),
            ("Apache-2.0 WITH LLVM-exception OR MIT", "MIT"),
            ("MPL-2.0", "MPL-2.0"),
            ("(MIT AND Unicode-3.0)", "(MIT AND Unicode-3.0)"),
        ] {
            assert_eq!(choose(expression), taken, "{expression}");
        }
    }
}
