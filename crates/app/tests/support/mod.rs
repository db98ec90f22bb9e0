//! Runs the program as a user does, on phantoms and the small model that comes along.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use glioseg_formats::nifti;
use glioseg_volume::Volume;
use glioseg_volume::phantom::{PhantomOptions, phantom};

/// The model that comes along: four channels, three regions, patch 40³.
pub(crate) fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/phantom-model")
}

/// A run of the program.
pub(crate) fn glioseg(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_glioseg"));
    command.args(arguments).env_remove("RAYON_NUM_THREADS");
    command
}

/// Exit code, stdout and stderr.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = glioseg(arguments).output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("utf-8");
    (status.code().expect("an exit code"), text(stdout), text(stderr))
}

/// `predict` without mirroring of `input` to `out`, with further arguments.
pub(crate) fn predict(input: &Path, out: &Path, more: &[&str]) -> (i32, String, String) {
    let (model, input, out) = (model(), input.display().to_string(), out.display().to_string());
    let model = model.display().to_string();
    let mut arguments = vec!["predict", "-m", &model, "-i", &input, "-o", &out, "--no-mirroring"];
    arguments.extend(more);
    run(&arguments)
}

/// Names that nnU-Net gives the channels of `case`.
pub(crate) fn numbered(folder: &Path, case: &str) -> Vec<PathBuf> {
    (0..4).map(|c| folder.join(format!("{case}_{c:04}.nii.gz"))).collect()
}

/// A phantom of 44 x 42 x 40 voxels of 4 mm.
pub(crate) fn small_phantom(seed: u64) -> Volume {
    let options =
        PhantomOptions { shape: [44, 42, 40], spacing_mm: [4.0; 3], seed, ..PhantomOptions::default() };
    phantom(&options).expect("a phantom").channels
}

/// Writes the channels of a phantom to `paths`.
pub(crate) fn write_case(paths: &[PathBuf], seed: u64) {
    let volume = small_phantom(seed);
    for (c, path) in paths.iter().enumerate() {
        let channel = Volume::new(1, volume.channel(c).to_vec(), volume.geometry.clone()).expect("a channel");
        nifti::write_volume(path, &channel).expect("written");
    }
}

/// Copies a folder with all that it holds.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy_folder(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copied");
        }
    }
}

/// Changes a JSON file.
pub(crate) fn edit_json(path: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let text = std::fs::read(path).expect("readable");
    let mut value = serde_json::from_slice(&text).expect("JSON");
    change(&mut value);
    std::fs::write(path, value.to_string()).expect("written");
}

/// `predict.json` of an output folder.
pub(crate) fn record(out: &Path) -> serde_json::Value {
    let text = std::fs::read(out.join("predict.json")).expect("a record");
    serde_json::from_slice(&text).expect("JSON")
}
