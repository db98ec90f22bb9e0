//! The project's own chores, so that a machine with a Rust toolchain needs nothing else.
//!
//! `cargo xtask check` is what has to hold before a change lands, cheapest first; `cargo xtask test` is its longest part. Tools
//! that a toolchain does not bring (nextest, typos, cargo-deny) are used where they are installed, and named where not.
#![expect(clippy::print_stderr, reason = "a program for developers, which talks on stderr")]

mod notice;

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

const USAGE: &str = "usage: cargo xtask check | lint | test [FILTER] | notice | ptx | browser [FOLDER | REPORT]

check    fmt, typos, NOTICE, clippy, documentation, tests, documentation examples, licences: all that has to hold
lint     fmt, typos, NOTICE, clippy, documentation
test     tests and documentation examples; with FILTER, only the tests whose name contains it
notice   writes NOTICE, the licences of what the program links
ptx      compiles the GPU's kernels to crates/cuda/src/kernels.ptx, which is committed (needs Python with pip, which brings NVRTC)
browser  a headless Chromium looks at a report (needs node, npm and chromium): at that of FOLDER, which `glioseg view` serves, or
         at that of a demo which is made first; pictures of what was seen go to target/browser-pictures";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (chore, of, rest) = (arguments.next().unwrap_or_default(), arguments.next(), arguments.next());
    if rest.is_some() || (of.is_some() && !["browser", "test"].contains(&chore.as_str())) {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    }
    let done = match chore.as_str() {
        "check" => lint() && test(None) && licences(),
        "lint" => lint(),
        "test" => test(of.as_deref()),
        "notice" => notice::notice(false),
        "ptx" => ptx(),
        "browser" => browser(of),
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
        && notice::notice(true)
        && cargo("clippy --workspace --all-targets -- -D warnings")
        && documentation()
}

/// Builds the documentation of our own crates; a broken link is an error.
fn documentation() -> bool {
    let mut command = Command::new("cargo");
    command.args(["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings");
    run_command(command)
}

/// All tests, or those whose name contains `filter`; then names the tests that were ignored.
fn test(filter: Option<&str>) -> bool {
    let nextest = has("cargo", &["nextest", "--version"]);
    let mut arguments = if nextest { vec!["nextest", "run"] } else { vec!["test"] };
    arguments.extend(["--workspace", "--no-fail-fast"]);
    arguments.extend(filter);
    let mut passed = run_command(with_data(&arguments));
    if nextest && filter.is_none() {
        passed &= run_command(with_data(&["test", "--workspace", "--doc"]));
    }
    name_ignored(filter);
    passed
}

/// `cargo` with these arguments, for tests. Reference data that were missing when the tests were built are noticed.
fn with_data(arguments: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(arguments);
    if std::env::var_os("GLIOSEG_GOLDEN").is_none() && shared().join("golden").is_dir() {
        // The build script watches this variable while data are missing (fixtures/shared-data.rs).
        command.env("GLIOSEG_GOLDEN", "found");
    }
    command
}

/// The folder of data that are not part of the repository.
fn shared() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared");
    std::env::var_os("GLIOSEG_SHARED").map_or_else(beside, PathBuf::from)
}

/// Counts and names the ignored tests among those that were asked for.
fn name_ignored(filter: Option<&str>) {
    let mut command = with_data(&["test", "--workspace", "--quiet", "--lib", "--bins", "--tests", "--"]);
    command.args(["--list", "--ignored", "--format", "terse"]).args(filter).stderr(Stdio::null());
    let Ok(output) = command.output() else { return };
    let text = String::from_utf8_lossy(&output.stdout);
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_suffix(": test")).collect();
    if !names.is_empty() {
        let shared = shared();
        eprintln!("xtask: {} tests ignored, their data are not in {}:", names.len(), shared.display());
        for name in names {
            eprintln!("    {name}");
        }
        eprintln!("xtask: GLIOSEG_GOLDEN=require makes them fail instead; see CONTRIBUTING.md");
    }
}

fn licences() -> bool {
    optional("cargo", &["deny", "--version"], "cargo", &["deny", "check", "bans", "licenses", "sources"])
}

/// NVIDIA's compiler at run time, the last whose PTX drivers from 530 on take.
const NVRTC: &str = "nvidia-cuda-nvrtc-cu12==12.1.105";

/// Compiles the GPU's kernels with NVRTC, which pip brings into the build's folder.
fn ptx() -> bool {
    let folder = "target/nvrtc";
    let bring = ["-m", "pip", "install", "--quiet", "--upgrade", "--no-deps", "--target", folder, NVRTC];
    let libraries = format!("{folder}/nvidia/cuda_nvrtc/lib");
    (Path::new(&libraries).is_dir() || run("python3", &bring))
        && cargo(&format!("run --quiet --package glioseg-cuda --example compile_kernels -- {libraries}"))
}

/// Serves a report and has a headless browser look at it; that of a demo, unless another is named.
fn browser(report: Option<String>) -> bool {
    let missing = ["node", "npm", "chromium"].into_iter().find(|tool| !has(tool, &["--version"]));
    if let Some(tool) = missing {
        eprintln!("xtask: left out, not installed: {tool}");
        return true;
    }
    let check = "crates/report/assets/check";
    if !run("npm", &["ci", "--prefix", check]) || !cargo("build --release --workspace") {
        return false;
    }
    let Some(program) = glioseg() else {
        eprintln!("xtask: the program was built, but not next to this one");
        return false;
    };
    let served = report.unwrap_or_else(|| "target/browser-demo".to_owned());
    let demo = ["demo", "--uncertainty", "--out", &served];
    if std::env::args().count() < 3 && !run(&program, &demo) {
        return false;
    }
    let Some((server, address)) = serve(&program, &served) else {
        eprintln!("xtask: cannot serve {served}");
        return false;
    };
    let _ended = Ended(server);
    let script = format!("{check}/check.mjs");
    let look = |address: &str, pictures: &str| run("node", &[&script, address, "--pictures", pictures]);
    if !look(&address, "target/browser-pictures") {
        return false;
    }
    // The same file without a server: everything but the volumes.
    let page = Path::new(&served);
    let page = if page.is_dir() { page.join("report.html") } else { page.to_owned() };
    match page.canonicalize() {
        Ok(page) => look(&format!("file://{}", page.display()), "target/browser-pictures/disk"),
        Err(_) => true,
    }
}

/// The release build of the program: it lies next to the build that this program is.
fn glioseg() -> Option<String> {
    let own = std::env::current_exe().ok()?;
    let built: PathBuf = own
        .parent()?
        .parent()?
        .join("release")
        .join("glioseg")
        .with_extension(std::env::consts::EXE_EXTENSION);
    built.is_file().then(|| built.display().to_string())
}

/// `glioseg view`, and the address at which it serves.
fn serve(program: &str, path: &str) -> Option<(Child, String)> {
    let mut command = Command::new(program);
    command.args(["view", path, "--port", "0", "-q"]).stdout(Stdio::piped());
    let mut server = command.spawn().ok()?;
    let mut address = String::new();
    let told = server.stdout.take().map(|out| BufReader::new(out).read_line(&mut address));
    if matches!(told, Some(Ok(n)) if n > 0) {
        return Some((server, address.trim().to_owned()));
    }
    drop(Ended(server));
    None
}

/// A server that serves until it is told to stop.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
    let mut command = Command::new(program);
    command.args(arguments);
    run_command(command)
}

fn run_command(mut command: Command) -> bool {
    let program = command.get_program().to_string_lossy().into_owned();
    let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    eprintln!("xtask: {program} {}", arguments.join(" "));
    match command.status() {
        Ok(status) => status.success(),
        Err(error) => {
            eprintln!("xtask: cannot run {program}: {error}");
            false
        }
    }
}
