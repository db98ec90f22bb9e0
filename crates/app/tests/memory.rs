//! What a network is said to take is what it takes.
#![cfg(target_os = "linux")]

mod support;

/// The program itself, its threads, and sums of a few channels.
const BASE_GIB: f64 = 24.0 / 1024.0;

/// Planned and most resident memory of a benchmark, in GiB.
fn bench(arguments: &[&str]) -> [f64; 2] {
    let all = [&["bench"], arguments, &["--runs", "1", "--threads", "2"]].concat();
    let (code, out, err) = support::run(&all);
    assert_eq!(code, 0, "{arguments:?}: {err}");
    let line: serde_json::Value =
        serde_json::from_str(out.lines().last().expect("a line")).expect("a line of JSON");
    ["planned_gib", "peak_gib"].map(|key| line[key].as_f64().unwrap_or_else(|| panic!("no {key}: {line}")))
}

fn check(arguments: &[&str]) {
    let [planned, peak] = bench(arguments);
    let (least, most) = (planned * 0.95, planned * 1.05 + BASE_GIB);
    assert!((least..=most).contains(&peak), "{arguments:?}: {planned} GiB planned, {peak} taken");
}

#[test]
fn a_forward_pass_takes_what_was_planned() {
    for size in ["32", "64"] {
        for net in ["nnunet", "bl-l-gn", "bl-aa"] {
            check(&["network", "--net", net, "--size", size]);
        }
    }
}

#[test]
#[allow(clippy::print_stderr, reason = "a test names what it could not test")]
fn bf16_takes_what_was_planned() {
    if let Err(reason) = glioseg_kernels::Amx::detect() {
        eprintln!("not tested: {reason}");
        return;
    }
    let bf16 = ["--precision", "bf16"];
    for (net, batch) in [("nnunet", "2"), ("bl-aa", "1")] {
        check(&[&["step", "--net", net, "--size", "32", "--batch", batch], &bf16[..]].concat());
    }
}

#[test]
fn a_training_step_takes_what_was_planned() {
    for (net, size, batch) in
        [("nnunet", "32", "2"), ("nnunet", "64", "1"), ("bl-l-gn", "32", "1"), ("bl-aa", "32", "1")]
    {
        check(&["step", "--net", net, "--size", size, "--batch", batch]);
    }
}
