//! What the documents say is so: commands are understood, links lead somewhere, messages are the program's own.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::cli::Cli;
use crate::nnunet::translate;

#[path = "../tests/support/shell_blocks.rs"]
mod shell_blocks;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// All files below a folder whose names end in `ending`.
fn below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut found = vec![];
    for path in entries.map(|entry| entry.expect("an entry").path()) {
        if path.is_dir() {
            found.extend(below(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found
}

/// The documents that people read.
fn documents() -> Vec<PathBuf> {
    let names = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"];
    let mut all: Vec<PathBuf> = names.iter().map(|name| root().join(name)).collect();
    all.extend(below(&root().join("docs"), ".md"));
    all
}

/// What stands between backticks within a line.
fn code(markdown: &str) -> impl Iterator<Item = &str> {
    markdown
        .lines()
        .filter(|line| !line.trim_start().starts_with("```"))
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Whether the command line is understood; where only a part of it is told, as in running text, the rest may be missing.
fn check(command: &str, whole: bool, path: &Path) {
    let command = command.split(" > ").next().unwrap_or(command);
    let words = command.split_whitespace().map(|word| word.trim_matches(['\'', '"']));
    let words =
        translate(words.map(OsString::from)).unwrap_or_else(|e| panic!("{}: {command}\n{e}", path.display()));
    let Err(error) = Cli::try_parse_from(words.arguments) else { return };
    let fine = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => true,
        ErrorKind::MissingRequiredArgument
        | ErrorKind::MissingSubcommand
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => !whole,
        _ => false,
    };
    assert!(fine, "{}: {command}\n{error}", path.display());
}

#[test]
fn commands_in_documents_are_understood() {
    let mut seen = 0;
    for path in documents() {
        let text = read(&path);
        for line in shell_blocks::shell_commands(&text) {
            for command in line.split(';').map(str::trim).filter(|c| c.starts_with("glioseg ")) {
                check(command, true, &path);
                seen += 1;
            }
        }
        for command in code(&text).filter(|c| c.starts_with("glioseg ") && !c.contains('…')) {
            check(command, false, &path);
            seen += 1;
        }
    }
    assert!(seen > 60, "only {seen} commands found");
}

#[test]
fn links_in_documents_lead_to_files() {
    for path in documents() {
        let text = read(&path);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or(link);
            if !file.is_empty() && !file.contains("://") {
                let target = path.parent().expect("a folder").join(file);
                assert!(target.exists(), "{}: {link}", path.display());
            }
        }
    }
}

#[test]
fn messages_in_the_faq_are_the_programs_own() {
    let sources: Vec<String> = std::fs::read_dir(root().join("crates"))
        .expect("crates")
        .map(|entry| entry.expect("an entry").path().join("src"))
        .flat_map(|folder| below(&folder, ".rs"))
        .map(|path| {
            // Long literals continue on the next line after a backslash.
            let text = read(&path);
            let mut lines = text.split("\\\n");
            let first = lines.next().unwrap_or_default().to_owned();
            lines.fold(first, |joined, line| joined + line.trim_start())
        })
        .collect();
    let faq = read(&root().join("docs/faq.md"));
    let headings: Vec<&str> = faq.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    assert!(headings.len() > 15, "{headings:?}");
    for heading in headings {
        let message = heading.trim_matches('`');
        let parts: Vec<&str> = message.split('…').map(str::trim).filter(|part| part.len() > 2).collect();
        let said = |text: &String| parts.iter().all(|part| text.contains(part));
        assert!(!parts.is_empty() && sources.iter().any(said), "no source says: {message}");
    }
}

#[test]
fn the_citation_is_of_this_version() {
    let citation = read(&root().join("CITATION.cff"));
    let version = concat!("\nversion: ", env!("CARGO_PKG_VERSION"), "\n");
    assert!(citation.contains(version), "{version}");
}
