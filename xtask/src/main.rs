//! The project's own chores, so that a machine with a Rust toolchain needs nothing else.
//!
//! `cargo xtask check` is what has to hold before a change lands, cheapest first; `cargo xtask test` is its longest part. Tools
//! that a toolchain does not bring (nextest, typos, cargo-deny) are used where they are installed, and named where not.
#![expect(clippy::print_stderr, reason = "a program for developers, which talks on stderr")]

use std::process::{Command, ExitCode};

const USAGE: &str = "usage: cargo xtask check | lint | test

check  fmt, typos, clippy, tests, documentation examples, licences: all that has to hold
lint   fmt, typos, clippy
test   tests and documentation examples";

fn main() -> ExitCode {
    let chore = std::env::args().nth(1).unwrap_or_default();
    let done = match chore.as_str() {
        "check" => lint() && test() && licences(),
        "lint" => lint(),
        "test" => test(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn lint() -> bool {
    cargo("fmt --all --check")
        && optional("typos", &["--version"], "typos", &[])
        && cargo("clippy --workspace --all-targets -- -D warnings")
}

fn test() -> bool {
    if has("cargo", &["nextest", "--version"]) {
        cargo("nextest run --workspace --no-fail-fast") && cargo("test --workspace --doc")
    } else {
        cargo("test --workspace")
    }
}

fn licences() -> bool {
    optional("cargo", &["deny", "--version"], "cargo", &["deny", "check", "bans", "licenses", "sources"])
}

fn cargo(arguments: &str) -> bool {
    run("cargo", &arguments.split(' ').collect::<Vec<_>>())
}

/// Runs a tool where its version can be asked for; else says that it is left out.
fn optional(probe: &str, probe_arguments: &[&str], program: &str, arguments: &[&str]) -> bool {
    if has(probe, probe_arguments) {
        return run(program, arguments);
    }
    eprintln!("xtask: left out, not installed: {program} {}", arguments.join(" "));
    true
}

fn has(program: &str, arguments: &[&str]) -> bool {
    Command::new(program).args(arguments).output().is_ok_and(|o| o.status.success())
}

fn run(program: &str, arguments: &[&str]) -> bool {
    eprintln!("xtask: {program} {}", arguments.join(" "));
    match Command::new(program).args(arguments).status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("xtask: cannot run {program}: {error}");
            false
        }
    }
}
