//! The guard: channels that are not what they are called.

mod support;

use std::fs;
use std::path::Path;

use glioseg_volume::testing::shared_data;
use support::{numbered, predict, record, run, write_case};

/// The small phantom under the names of its channels, but with `order[i]` as channel `i`.
fn case(folder: &Path, order: [usize; 4]) {
    fs::create_dir_all(folder).expect("a folder");
    let names = numbered(folder, "one");
    let mixed: Vec<_> = (0..4).map(|c| folder.join(format!("x{c}.nii.gz"))).collect();
    // Seed 3 has an enhancing tumour.
    write_case(&mixed, 3);
    for (name, from) in names.iter().zip(order) {
        fs::copy(&mixed[from], name).expect("copied");
    }
    for path in mixed {
        fs::remove_file(path).expect("removed");
    }
}

#[test]
fn exchanged_and_repeated_channels_are_named_and_refused_if_strict() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, order, words) in [
        ("right", [0, 1, 2, 3], None),
        ("t2-flair", [0, 1, 3, 2], Some(["look exchanged", "one_0002.nii.gz", "one_0003.nii.gz"])),
        ("twice", [0, 0, 2, 3], Some(["are the same image", "one_0000.nii.gz", "one_0001.nii.gz"])),
    ] {
        let (input, out) = (dir.path().join(name), dir.path().join(format!("{name}-out")));
        case(&input, order);
        let (code, _, stderr) = predict(&input, &out, &["-q"]);
        assert_eq!(code, 0, "{name}: {stderr}");
        let (strict, _, refused) = predict(&input, &dir.path().join("strict"), &["-q", "--strict"]);
        let checked = &record(&out)["cases"][0]["channels"];
        assert!(checked["tests"].as_array().is_some_and(|t| t.len() == 8), "{name}: {checked}");
        match words {
            None => {
                assert_eq!((stderr.as_str(), strict), ("", 0), "{refused}");
                assert!(checked["doubts"].is_null());
            }
            Some(words) => {
                for word in words {
                    assert!(stderr.contains(word), "{name} {word}: {stderr}");
                    assert!(refused.contains(word), "{name} {word}: {refused}");
                }
                assert!(refused.contains("leave out --strict"), "{refused}");
                assert_eq!(strict, 1, "the case failed");
                assert_eq!(checked["doubts"].as_array().map(Vec::len), Some(1), "{checked}");
            }
        }
    }
}

#[test]
fn prepared_cases_are_checked_before_training() {
    let dir = tempfile::tempdir().expect("a folder");
    let raw = dir.path().join("Dataset001_P");
    let text = |p: &Path| p.display().to_string();
    let (code, _, stderr) = run(&["phantom", "--cases", "2", "--size", "48", "--out", &text(&raw)]);
    assert_eq!(code, 0, "{stderr}");
    let channel = |case: usize, c: usize| raw.join(format!("imagesTr/phantom_{case:03}_{c:04}.nii.gz"));
    let prepare = |more: &[&str]| {
        let (folder, out) = (text(&raw), text(&dir.path().join("prepared")));
        let run_with = |first: &[&str]| {
            let (code, _, stderr) = run(&[first, &[folder.as_str(), "--output", &out]].concat());
            (code, stderr)
        };
        for first in ["fingerprint", "plan"] {
            let (code, stderr) = run_with(&[first]);
            assert_eq!(code, 0, "{first}: {stderr}");
        }
        run_with(&[&["prep", "-q"], more].concat())
    };
    let (code, stderr) = prepare(&[]);
    assert!(code == 0 && !stderr.contains("channels"), "nothing to warn of: {stderr}");
    let (a, b) = (channel(1, 2), channel(1, 3));
    let (t2, flair) = (fs::read(&a).expect("readable"), fs::read(&b).expect("readable"));
    fs::write(&a, flair).expect("written");
    fs::write(&b, t2).expect("written");
    let (code, stderr) = prepare(&[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("case `phantom_001`: the channels `t2` (phantom_001_0002.nii.gz)"), "{stderr}");
    assert!(!stderr.contains("case `phantom_000`"), "{stderr}");
    let (code, stderr) = prepare(&["--strict"]);
    assert_eq!(code, 1, "{stderr}");
}

#[test]
#[cfg_attr(not(real_cases), ignore = "needs two real cases, see CONTRIBUTING.md")]
fn real_cases_pass_and_their_exchanged_channels_do_not() {
    let real = shared_data("real");
    let dir = tempfile::tempdir().expect("a folder");
    let case = "TCGA-DU-7294";
    let wrong = dir.path().join("wrong");
    fs::create_dir(&wrong).expect("a folder");
    for (from, to) in [("t1", "t1ce"), ("t1ce", "t1"), ("t2", "t2"), ("flair", "flair")] {
        let file = |c: &str| format!("{case}_{c}.nii.gz");
        fs::copy(real.join(case).join(file(from)), wrong.join(file(to))).expect("copied");
    }
    // The images are refused before the network runs.
    let (code, _, stderr) = predict(&wrong, &dir.path().join("out"), &["--strict"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("look exchanged: the bright spots are on `t1`"), "{stderr}");
    assert!(
        stderr.contains(&format!("{case}_t1ce.nii.gz")) && stderr.contains(&format!("{case}_t1.nii.gz")),
        "{stderr}"
    );
}
