//! The commands of docs/tutorial.md, run as they are written.
#![cfg(unix)]

#[path = "support/shell_blocks.rs"]
mod shell_blocks;

use std::path::Path;
use std::process::Command;

use glioseg_formats::nifti;
use shell_blocks::shell_commands;

#[test]
fn every_command_of_the_tutorial_runs_as_written() {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tutorial.md");
    let commands = shell_commands(&std::fs::read_to_string(document).expect("the tutorial"));
    for verb in ["dataset", "train", "crossval", "predict", "evaluate", "report", "postprocess"] {
        assert!(commands.iter().any(|c| c.starts_with(&format!("glioseg {verb} "))), "{verb}: {commands:#?}");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let program = Path::new(env!("CARGO_BIN_EXE_glioseg")).parent().expect("its folder").to_owned();
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(program).chain(std::env::split_paths(&others)));
    let path = path.expect("folders without colons");
    for command in &commands {
        let mut shell = Command::new("sh");
        shell.args(["-c", command]).current_dir(folder.path()).env("PATH", &path);
        // Where results go must not depend on who runs the test.
        for variable in ["nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"] {
            shell.env_remove(variable);
        }
        let output = shell.output().expect("a shell");
        let [out, log] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        assert!(output.status.success(), "{command}\n{out}\n{log}");
    }
    // What the text promises is there.
    for name in [
        "Dataset001_Mine_preprocessed/nnUNetPlans.json",
        "Dataset001_Mine_results/gliosegDemo__nnUNetPlans__3d_fullres/fold_0/progress.png",
        "Dataset001_Mine_results/gliosegDemo__nnUNetPlans__3d_fullres/fold_1/validation/summary.json",
        "predicted/predict.json",
        "scores/scores.json",
        "report.html",
    ] {
        assert!(folder.path().join(name).is_file(), "{name}");
    }
    for case in ["BraTS-PHANTOM-00000-000", "BraTS-PHANTOM-00001-000"] {
        let labels = nifti::read_labels(&folder.path().join(format!("submission/{case}.nii.gz")));
        let counts = labels.expect("a label map").counts();
        assert!(counts.len() > 1 && counts.keys().all(|&label| label <= 3), "{case}: {counts:?}");
    }
}
