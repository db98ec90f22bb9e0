//! The project's own chores, so that a machine with a Rust toolchain needs nothing else.
//!
//! `cargo xtask check` is what has to hold before a change lands, cheapest first; `cargo xtask test` is its longest part. Tools
//! that a toolchain does not bring (nextest, typos, cargo-deny) are used where they are installed, and named where not.
#![expect(clippy::print_stderr, reason = "a program for developers, which talks on stderr")]

use std::io::{BufRead as _, BufReader};
use std::process::{Command, ExitCode, Stdio};

const USAGE: &str = "usage: cargo xtask check | lint | test | browser

check  fmt, typos, clippy, tests, documentation examples, licences: all that has to hold
lint   fmt, typos, clippy
test   tests and documentation examples
browser   the demo's report in a headless Chromium (needs node and chromium)";

fn main() -> ExitCode {
    let chore = std::env::args().nth(1).unwrap_or_default();
    let done = match chore.as_str() {
        "check" => lint() && test() && licences(),
        "lint" => lint(),
        "test" => test(),
        "browser" => browser(),
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

/// Makes the demo, serves its report and has a headless browser look at it.
fn browser() -> bool {
    let missing = ["node", "npm", "chromium"].into_iter().find(|tool| !has(tool, &["--version"]));
    if let Some(tool) = missing {
        eprintln!("xtask: left out, not installed: {tool}");
        return true;
    }
    let check = "crates/eval/assets/check";
    let out = "target/browser";
    if !run("npm", &["ci", "--prefix", check]) || !cargo(&format!("run --release -- demo --out {out}")) {
        return false;
    }
    let server = Command::new("cargo")
        .args(["run", "--release", "-q", "--", "view", out, "--port", "0", "-q"])
        .stdout(Stdio::piped())
        .spawn();
    let mut server = match server {
        Ok(server) => server,
        Err(error) => {
            eprintln!("xtask: cannot serve the demo: {error}");
            return false;
        }
    };
    let mut address = String::new();
    let told = server.stdout.take().map(|out| BufReader::new(out).read_line(&mut address));
    let pictures = format!("{out}/pictures");
    let script = format!("{check}/check.mjs");
    let done = matches!(told, Some(Ok(n)) if n > 0)
        && run("node", &[&script, address.trim(), "--pictures", &pictures]);
    // It serves until it is told to stop.
    let stopped = server.kill().and_then(|()| server.wait());
    done && stopped.is_ok()
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
