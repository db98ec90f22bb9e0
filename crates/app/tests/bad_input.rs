//! Bad input: a message that names file and remedy, nothing lost, the batch continues.

mod support;

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use glioseg_formats::nifti;
use glioseg_volume::Volume;
use glioseg_volume::phantom::{PhantomOptions, phantom};
use support::{glioseg, model, numbered, predict, record, run, small_phantom, write_case};

/// A case whose channel 1 is spoilt by `spoil`, in its own folder.
fn spoilt(root: &Path, case: &str, spoil: impl FnOnce(&Path)) {
    let files = numbered(root, case);
    write_case(&files, 11);
    spoil(&files[1]);
}

fn unzipped(path: &Path) -> Vec<u8> {
    let volume = nifti::read_volume(path).expect("readable before");
    let plain = path.with_extension("");
    nifti::write_volume(&plain, &volume).expect("written");
    let bytes = fs::read(&plain).expect("readable");
    fs::remove_file(&plain).expect("removed");
    bytes
}

/// Puts `bytes` in the place of a compressed file, compressed again.
fn zip_again(path: &Path, bytes: &[u8]) {
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(bytes).expect("memory");
    fs::write(path, gz.finish().expect("memory")).expect("written");
}

#[test]
fn a_gpu_that_cannot_be_used_is_refused_with_what_is_missing() {
    let (code, stdout, stderr) = run(&["devices", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let devices: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert!(devices["cpu"]["precisions"].as_array().is_some_and(|p| p.contains(&"f32".into())), "{stdout}");
    let missing = devices["cuda"]["missing"][0]["what"].as_str().expect("something is missing");
    let unfinished = missing.contains("does not compute on them yet");
    let dir = tempfile::tempdir().expect("a folder");
    for (device, told) in [
        ("cuda", if unfinished { "does not compute on GPUs yet" } else { missing }),
        ("cuda:0", if unfinished { "does not compute on GPUs yet" } else { missing }),
        ("cuda:first", "unknown device `cuda:first`"),
    ] {
        let (code, _, stderr) = predict(dir.path(), &dir.path().join("out"), &["--device", device]);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(told) && stderr.contains("hint: "), "{device}: {stderr}");
    }
}

#[test]
fn bad_cases_are_named_with_a_remedy_and_the_good_one_is_done() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "good"), 11);
    spoilt(&input, "truncated", |p| {
        let bytes = fs::read(p).expect("readable");
        fs::write(p, &bytes[..bytes.len() / 2]).expect("written");
    });
    spoilt(&input, "corrupt", |p| {
        let mut bytes = fs::read(p).expect("readable");
        let middle = bytes.len() / 2;
        bytes[middle..middle + 64].fill(0xa5);
        fs::write(p, bytes).expect("written");
    });
    spoilt(&input, "empty", |p| fs::write(p, b"").expect("written"));
    spoilt(&input, "magic", |p| zip_again(p, &[b'x'; 4000]));
    spoilt(&input, "dims", |p| {
        let mut bytes = unzipped(p);
        for axis in 0..3 {
            bytes[42 + 2 * axis..44 + 2 * axis].copy_from_slice(&i16::MAX.to_le_bytes());
        }
        zip_again(p, &bytes);
    });
    spoilt(&input, "nan", |p| {
        let mut volume = nifti::read_volume(p).expect("readable");
        volume.data[1234] = f32::NAN;
        nifti::write_volume(p, &volume).expect("written");
    });
    spoilt(&input, "grid", |p| {
        let options = PhantomOptions { shape: [40; 3], spacing_mm: [3.0; 3], ..PhantomOptions::default() };
        let other = phantom(&options).expect("a phantom").channels;
        let channel = Volume::new(1, other.channel(1).to_vec(), other.geometry.clone()).expect("a channel");
        nifti::write_volume(p, &channel).expect("written");
    });
    spoilt(&input, "singular", |p| {
        let mut bytes = unzipped(p);
        bytes[252..254].copy_from_slice(&0i16.to_le_bytes());
        bytes[254..256].copy_from_slice(&1i16.to_le_bytes());
        bytes[280..328].fill(0);
        zip_again(p, &bytes);
    });
    spoilt(&input, "missing", |p| fs::remove_file(p).expect("removed"));
    spoilt(&input, "twice", |p| {
        fs::copy(p, p.with_file_name("twice_t1c.nii.gz")).expect("copied");
    });

    let (code, stdout, stderr) = predict(&input, &out, &[]);
    assert_eq!(code, 1, "{stderr}");
    assert_eq!(stdout.lines().count(), 2, "only the good case and that with a NaN: {stdout}");
    assert!(stderr.contains("nan_0001.nii.gz: NaN and infinite voxels count as 0: 1 of"), "{stderr}");
    assert!(out.join("good.nii.gz").is_file());
    let record = record(&out);
    let failed: Vec<&serde_json::Value> =
        record["cases"].as_array().expect("cases").iter().filter(|c| c["status"] == "failed").collect();
    assert_eq!(failed.len(), 9, "{failed:#?}");
    for (case, message, hint) in [
        ("truncated", "truncated_0001.nii.gz is damaged: its gzip stream", "copy or download it again"),
        ("corrupt", "corrupt_0001.nii.gz is damaged: its gzip stream", "copy or download it again"),
        ("empty", "empty_0001.nii.gz is empty (0 bytes)", "copy or download the file again"),
        ("magic", "magic_0001.nii.gz is not a NIfTI file", "give a NIfTI-1 or NIfTI-2 file"),
        ("dims", "dims_0001.nii.gz", "damaged"),
        (
            "grid",
            "44 x 42 x 40 voxels of 4 x 4 x 4 mm (z, y, x), but",
            "`glioseg preprocess` registers raw scans",
        ),
        ("grid", "40 x 40 x 40 voxels of 3 x 3 x 3 mm", "share one grid"),
        ("singular", "affine is singular", "sform or qform"),
        ("missing", "case `missing` has no file for channel `t1ce`; found: `t1`, `t2`, `flair`", "t1ce"),
        ("twice", "two files for channel `t1ce`", "keep one of the two"),
    ] {
        let entry =
            failed.iter().find(|c| c["case"] == case).unwrap_or_else(|| panic!("no entry for {case}"));
        let (error, remedy) = (entry["error"].as_str().unwrap_or(""), entry["hint"].as_str().unwrap_or(""));
        assert!(error.contains(message), "{case}: {error}");
        assert!(remedy.contains(hint), "{case}: {remedy}");
        assert!(stderr.contains(error), "{case} is told on stderr too: {stderr}");
        assert!(!out.join(format!("{case}.nii.gz")).exists(), "{case}");
    }
}

/// A copy of the model that may be changed.
fn model_copy(to: &Path) -> PathBuf {
    fs::create_dir_all(to.join("fold_0")).expect("a folder");
    for file in ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"] {
        fs::copy(model().join(file), to.join(file)).expect("copied");
    }
    to.into()
}

/// Exit code and stderr of a prediction of one good case with `model`.
fn start(model: &Path, input: &Path, out: &Path, more: &[&str]) -> (i32, String) {
    let [model, input, out] = [model, input, out].map(|p| p.display().to_string());
    let mut arguments = vec!["predict", "-m", &model, "-i", &input, "-o", &out, "--no-mirroring"];
    arguments.extend(more);
    let (code, stdout, stderr) = run(&arguments);
    assert_eq!(stdout, "", "no data on stdout");
    (code, stderr)
}

#[test]
fn a_model_that_cannot_be_used_is_said_before_any_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "good"), 2);
    let expect = |model: &Path, more: &[&str], words: &[&str]| {
        let (code, stderr) = start(model, &input, &out, more);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.contains("\n  hint: "), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "no `{word}` in: {stderr}");
        }
    };
    let copy = model_copy(&dir.path().join("m"));
    let checkpoint = copy.join("fold_0/checkpoint_final.pth");
    expect(
        &copy,
        &["-f", "3"],
        &["the model has no fold 3 with a checkpoint_final; it has fold 0", "--folds"],
    );
    expect(&copy, &["--checkpoint", "best"], &["no fold with a checkpoint_best", "--checkpoint final"]);
    expect(&dir.path().join("nowhere"), &[], &["nowhere is not a model folder: there is no such folder"]);

    let plans = fs::read_to_string(copy.join("plans.json")).expect("plans");
    let other = plans.replacen("24", "48", 1);
    assert_ne!(plans, other);
    let mut value: serde_json::Value = serde_json::from_str(&plans).expect("JSON");
    value["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["features_per_stage"] =
        serde_json::json!([8, 16, 48, 32]);
    fs::write(copy.join("plans.json"), value.to_string()).expect("written");
    expect(&copy, &[], &["checkpoint_final.pth", "encoder.stages.2.0.convs.0.conv.weight", "24", "48"]);
    fs::write(copy.join("plans.json"), plans).expect("written");

    fs::write(&checkpoint, b"this is not an archive").expect("written");
    expect(&copy, &[], &["checkpoint_final.pth"]);
    let mut zip = zip::ZipWriter::new(fs::File::create(&checkpoint).expect("a file"));
    zip.start_file(
        "archive/data.pkl",
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
    )
    .expect("an entry");
    zip.write_all(b"\x80\x02cposix\nsystem\nX\x07\x00\x00\x00echo hi\x85R.").expect("written");
    zip.finish().expect("an archive");
    expect(&copy, &[], &["checkpoint_final.pth", "posix.system"]);
}

#[test]
fn folds_whose_training_has_not_ended_are_left_out_and_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "good"), 2);
    let copy = model_copy(&dir.path().join("m"));
    for fold in ["fold_1", "fold_3"] {
        fs::create_dir(copy.join(fold)).expect("a folder");
    }
    let [model, input, out] = [&copy, &input, &out].map(|p| p.display().to_string());
    let run_with = |more: &[&str]| {
        let line = ["predict", "-m", &model, "-i", &input, "-o", &out, "--no-mirroring"];
        run(&[&line[..], more].concat())
    };
    let (code, _, stderr) = run_with(&[]);
    assert!(code == 0 && stderr.contains("without such a checkpoint are left out: 1, 3"), "{stderr}");
    let (code, _, stderr) = run_with(&["-f", "0"]);
    assert!(code == 0 && !stderr.contains("left out"), "they were not asked for: {stderr}");
}

#[test]
fn an_output_that_cannot_be_is_said_before_any_work() {
    let dir = tempfile::tempdir().expect("a folder");
    let input = dir.path().join("in");
    fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "good"), 2);
    let (code, stderr) = start(&model(), &input, &input.join("results/new"), &[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("lies inside the input") && stderr.contains("next to the input"), "{stderr}");
    assert!(!input.join("results").exists(), "nothing is made");
    let file = dir.path().join("file");
    fs::write(&file, b"").expect("written");
    let (code, stderr) = start(&model(), &input, &file, &[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("cannot write") && stderr.contains("choose an output folder"), "{stderr}");
}

#[test]
fn an_input_without_cases_says_which_names_are_expected() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&input).expect("a folder");
    let phantom = small_phantom(1);
    let channel = Volume::new(1, phantom.channel(0).to_vec(), phantom.geometry.clone()).expect("whole");
    nifti::write_volume(&input.join("scan.nii.gz"), &channel).expect("written");
    let (code, stderr) = start(&model(), &input, &out, &[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("the names of scan.nii.gz do not tell case and channel"), "{stderr}");
    assert!(stderr.contains("CASE_0000.nii.gz") && stderr.contains("CASE-t1c.nii.gz"), "{stderr}");
}

#[test]
fn one_file_with_all_channels_is_a_case_too() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&input).expect("a folder");
    nifti::write_volume(&input.join("all_0000.nii.gz"), &small_phantom(2)).expect("written");
    write_case(&numbered(&input, "four"), 2);
    let (code, _, stderr) = predict(&input, &out, &[]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(
        fs::read(out.join("all.nii.gz")).expect("one"),
        fs::read(out.join("four.nii.gz")).expect("other")
    );
}

#[test]
fn a_wrong_option_lists_the_valid_ones() {
    let (code, _, stderr) = run(&["predict", "-m", "a", "-i", "b", "-o", "c", "--kernels", "fast"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("auto") && stderr.contains("direct") && stderr.contains("reference"), "{stderr}");
}

#[test]
fn hints_are_shown_whichever_command_they_come_through() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name).display().to_string();
    fs::write(at("a.nii.gz"), b"").expect("written");
    fs::write(at("a.pth"), b"PK, but no archive").expect("written");
    fs::write(at("plans.json"), b"{").expect("written");
    let again = "hint: copy or download the file again";
    for (arguments, told, hint) in [
        (["info", &at("a.nii.gz")], "is empty (0 bytes)", again),
        (["info", &at("a.pth")], "the zip directory at its end is missing", again),
        (["info", &at("plans.json")], "is not valid JSON", "hint: "),
    ] {
        let (code, _, stderr) = run(&arguments);
        assert_eq!(code, 2, "{stderr}");
        assert_eq!(stderr.matches(told).count(), 1, "{stderr}");
        assert!(stderr.contains(hint), "{stderr}");
    }
    let model = model().display().to_string();
    let plans = Path::new(&model).join("plans.json").display().to_string();
    fs::create_dir(at("in")).expect("a folder");
    write_case(&numbered(Path::new(&at("in")), "a"), 11);
    for arguments in [
        vec!["predict", "-m", &model, "-i", &at("in"), "-o", &at("out")],
        vec!["bench", "network", "--net", &plans, "--size", "8"],
    ] {
        let output =
            glioseg(&arguments).env("GLIOSEG_KERNELS_ISA", "foo").output().expect("the program starts");
        let stderr = String::from_utf8(output.stderr).expect("utf-8");
        assert!(!output.status.success(), "{stderr}");
        assert_eq!(stderr.matches("GLIOSEG_KERNELS_ISA is `foo`").count(), 1, "{stderr}");
        assert_eq!(stderr.matches("hint: unset GLIOSEG_KERNELS_ISA").count(), 1, "{stderr}");
    }
}

#[test]
fn an_unknown_device_says_what_this_build_has() {
    for (option, value) in [("--device", "tpu"), ("--precision", "f8")] {
        let (code, _, stderr) = run(&["predict", "-m", "a", "-i", "b", "-o", "c", option, value]);
        assert_eq!(code, 2, "{stderr}");
        let known = if option == "--device" {
            "this build runs on: cpu"
        } else {
            "this build computes in: f32, bf16"
        };
        assert!(stderr.contains(value) && stderr.contains(known) && stderr.contains("hint:"), "{stderr}");
    }
}

#[test]
fn a_fold_with_its_weights_twice_says_which_are_taken_and_refuses_different_ones() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out, both) = (dir.path().join("in"), dir.path().join("out"), dir.path().join("both"));
    fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "good"), 2);
    let (code, _, stderr) = run(&["convert", &model().display().to_string(), &both.display().to_string()]);
    assert_eq!(code, 0, "{stderr}");
    let fold = both.join("fold_0");
    fs::copy(model().join("fold_0/checkpoint_final.pth"), fold.join("checkpoint_final.pth")).expect("copied");
    let arguments = |out: &Path| {
        let [model, input, out] = [&both, &input, out].map(|p| p.display().to_string());
        run(&["predict", "-m", &model, "-i", &input, "-o", &out, "--no-mirroring"])
    };
    let (code, _, stderr) = arguments(&out);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains("fold 0 has its weights twice")
            && stderr.contains("checkpoint_final.safetensors is taken"),
        "{stderr}"
    );
    let ours = fold.join("checkpoint_final.safetensors");
    let mut bytes = fs::read(&ours).expect("weights");
    let last = bytes.len() - 1;
    bytes[last] ^= 0x40;
    fs::write(&ours, bytes).expect("written");
    let (code, _, stderr) = arguments(&dir.path().join("other"));
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("hold different weights") && stderr.contains("--checkpoint checkpoint_final.pth"),
        "{stderr}"
    );
}
