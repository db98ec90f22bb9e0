//! The program on raw scans: `preprocess`, `apply`, `predict --raw`.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use glioseg_formats::nifti;
use support::{glioseg, model, run, small_phantom, write_case};
use tempfile::TempDir;

/// Studies of scans on one grid.
fn studies(names: &[&str]) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("raw")).expect("a folder");
    for (seed, name) in names.iter().enumerate() {
        let paths =
            ["t1", "t1ce", "t2", "flair"].map(|c| folder.path().join(format!("raw/{name}_{c}.nii.gz")));
        write_case(&paths, 20 + seed as u64);
    }
    folder
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// Names of the images in a folder.
fn images(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name.ends_with(".nii.gz"));
    names.sort();
    names
}

#[test]
fn what_is_missing_on_the_command_line_is_told() {
    let folder = studies(&["P01"]);
    let [raw, out] = ["raw", "out"].map(|name| text(&folder.path().join(name)));
    let (code, _, told) = run(&["preprocess", "-i", &raw, "-o", &out]);
    assert_eq!(code, 2, "{told}");
    for part in
        ["neither --brain nor --brain-mask is given", "--brain MODEL", "--brain-mask FILE", "--brain none"]
    {
        assert!(told.contains(part), "{told}");
    }
    let (code, _, told) = run(&["preprocess", "-o", &out, "--brain", "none"]);
    assert!(code == 2 && told.contains("no study is given"), "{told}");
    let (code, _, told) = run(&["preprocess", "-i", &raw, "-o", &out, "--brain", "none", "--space", "moon"]);
    assert!(code == 2 && told.contains("known are sri24, mni152 and native"), "{told}");
    let native = ["--brain", "none", "--space", "native", "--atlas", &raw];
    let (code, _, told) = run(&[&["preprocess", "-i", &raw, "-o", &out][..], &native].concat());
    assert!(code == 2 && told.contains("the native space has no atlas"), "{told}");
    assert!(!Path::new(&out).exists());
}

#[test]
fn a_killed_run_leaves_whole_files_and_the_next_one_finishes() {
    let folder = studies(&["P01", "P02", "P03"]);
    let (raw, out) = (text(&folder.path().join("raw")), folder.path().join("out"));
    let arguments =
        ["preprocess", "-i", &raw, "-o", &text(&out), "--brain", "none", "--space", "native", "--continue"];
    let mut running = glioseg(&arguments).spawn().expect("the program starts");
    let start = Instant::now();
    // As soon as files of the second study appear.
    while !images(&out).iter().any(|name| name.starts_with("P02")) && start.elapsed() < Duration::from_mins(1)
    {
        std::thread::sleep(Duration::from_millis(2));
    }
    running.kill().expect("it runs");
    running.wait().expect("it ran");
    for name in images(&out) {
        nifti::read_volume(&out.join(&name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }
    let (code, data, told) = run(&arguments);
    assert_eq!(code, 0, "{told}");
    assert!(told.contains("2 done, 0 failed, 1 skipped"), "{told}");
    assert_eq!(data.lines().count(), 2, "{data}");
    assert_eq!(images(&out).len(), 12);
}

#[test]
fn raw_scans_are_segmented_and_the_answer_returns_to_the_scan() {
    let folder = studies(&["P01"]);
    let [raw, out] = ["raw", "out"].map(|name| text(&folder.path().join(name)));
    let model = text(&model());
    let arguments =
        ["predict", "--raw", "-m", &model, "-i", &raw, "-o", &out, "--brain", "none", "--space", "native"];
    let (code, _, told) = run(&[&arguments[..], &["--no-mirroring"]].concat());
    assert_eq!(code, 0, "{told}");
    let out = folder.path().join("out");
    let native = nifti::read_labels(&out.join("native/P01.nii.gz")).expect("readable");
    let scan = folder.path().join("raw/P01_t1ce.nii.gz");
    assert_eq!(native.geometry, nifti::read_info(&scan).expect("readable").geometry);
    // The scan's grid is that of the space here, so that no label may move.
    let in_space = nifti::read_labels(&out.join("P01.nii.gz")).expect("readable");
    assert!(native == in_space && native.data.iter().any(|&v| v > 0));

    let labels = text(&out.join("P01.nii.gz"));
    let (to, prepared) = (text(&folder.path().join("raw/P01_t2.nii.gz")), text(&out.join("prepared")));
    let back = folder.path().join("back.nii.gz");
    let apply =
        |to: &str, back: &str| run(&["apply", &labels, "--to", to, "--transforms", &prepared, "-o", back]);
    let (code, data, told) = apply(&to, &text(&back));
    assert!(code == 0 && data.contains("back.nii.gz\t1="), "{data}{told}");
    let found = nifti::read_labels(&back).expect("readable");
    assert_eq!(found.geometry, small_phantom(20).geometry);
    let (code, _, told) = apply(&to, &to);
    assert!(code == 2 && told.contains("would be overwritten"), "{told}");
    let (code, _, told) = apply(&labels, &text(&back));
    assert!(code == 2 && told.contains("is none of the scans of"), "{told}");
    let (code, _, told) = run(&["predict", "-m", &model, "-i", &raw, "-o", &prepared, "--brain", "none"]);
    assert!(code == 2 && told.contains("--raw"), "{told}");
}
