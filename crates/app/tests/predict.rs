//! `glioseg predict` from files to files.

mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use glioseg_formats::nifti;
use glioseg_volume::{Affine, Geometry, Turn, TurnRule, Volume};
use support::{glioseg, model, numbered, predict, record, run, write_case};

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_case_is_segmented_on_the_grid_of_its_images_and_recorded() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "one"), 3);
    let (code, stdout, stderr) = predict(&input, &out, &["--save-probabilities"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("one\twhole tumor="), "{stdout}");
    assert_eq!(stdout.lines().count(), 1, "stdout holds a line per case: {stdout}");
    assert!(stderr.contains("channel t1ce   <- *0001"), "the match is printed: {stderr}");
    let image = nifti::read_info(&input.join("one_0000.nii.gz")).expect("an image").geometry;
    let labels = nifti::read_labels(&out.join("one.nii.gz")).expect("labels");
    assert_eq!(labels.geometry, image);
    let record = record(&out);
    assert_eq!(record["cases"][0]["status"], "done");
    assert_eq!(record["models"][0]["folds"]["0"].as_str().map(str::len), Some(64), "a hash");
    let whole = labels.data.iter().filter(|&&l| l > 0).count() as f64 * image.voxel_ml();
    let recorded = record["cases"][0]["volume_ml"]["whole tumor"].as_f64().expect("a volume");
    assert!((whole - recorded).abs() < 1e-6, "{whole} {recorded}");
    assert!(whole > 1.0, "the model finds the phantom's tumour");
    assert!(out.join("one.npz").is_file());
}

#[test]
fn threads_runs_and_names_do_not_change_a_byte() {
    let dir = tempfile::tempdir().expect("a folder");
    let (numbers, brats) = (dir.path().join("numbers"), dir.path().join("brats/one"));
    std::fs::create_dir_all(&numbers).expect("a folder");
    std::fs::create_dir_all(&brats).expect("a folder");
    write_case(&numbered(&numbers, "one"), 5);
    write_case(&["t1n", "T1Gd", "t2w", "t2f"].map(|c| brats.join(format!("one-{c}.nii.gz"))), 5);
    let mut results = Vec::new();
    for (i, (input, more)) in [
        (&numbers, vec!["--threads", "1", "--save-probabilities"]),
        (&numbers, vec!["--threads", "2", "--save-probabilities"]),
        (&numbers, vec!["--threads", "3", "--save-probabilities"]),
        (&dir.path().join("brats"), vec!["--save-probabilities"]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = dir.path().join(format!("out{i}"));
        let (code, _, stderr) = predict(input, &out, &more);
        assert_eq!(code, 0, "{stderr}");
        results.push((bytes(&out.join("one.nii.gz")), bytes(&out.join("one.npz"))));
    }
    assert!(results.iter().all(|r| *r == results[0]), "other bytes");
}

#[test]
fn continue_after_a_kill_predicts_only_what_is_missing() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out, whole) = (dir.path().join("in"), dir.path().join("out"), dir.path().join("whole"));
    std::fs::create_dir(&input).expect("a folder");
    let cases = ["a", "b", "c", "d"];
    for (i, case) in cases.iter().enumerate() {
        write_case(&numbered(&input, case), i as u64);
    }
    let text = |p: &Path| p.display().to_string();
    let (m, i, o) = (text(&model()), text(&input), text(&out));
    let arguments = ["predict", "-m", &m, "-i", &i, "-o", &o, "--no-mirroring", "-q"];
    let mut child =
        glioseg(&arguments).stdout(std::process::Stdio::null()).spawn().expect("the program starts");
    let start = Instant::now();
    while !out.join("a.nii.gz").exists() && start.elapsed() < Duration::from_mins(5) {
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().expect("killed");
    child.wait().expect("ended");
    let finished: Vec<&str> =
        cases.into_iter().filter(|c| out.join(format!("{c}.nii.gz")).exists()).collect();
    assert!(finished.contains(&"a"), "{finished:?}");
    for case in &finished {
        nifti::read_labels(&out.join(format!("{case}.nii.gz"))).expect("no half file under a result's name");
    }
    let stamp =
        |case: &str| std::fs::metadata(out.join(format!("{case}.nii.gz"))).and_then(|m| m.modified()).ok();
    let before: Vec<_> = finished.iter().map(|c| stamp(c)).collect();
    let (code, stdout, stderr) = predict(&input, &out, &["--continue"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains(&format!("({} more are finished)", finished.len())), "{stderr}");
    assert_eq!(stdout.lines().count(), cases.len() - finished.len());
    assert_eq!(
        before,
        finished.iter().map(|c| stamp(c)).collect::<Vec<_>>(),
        "finished cases are left alone"
    );
    let (code, _, _) = predict(&input, &whole, &[]);
    assert_eq!(code, 0);
    for case in cases {
        let name = format!("{case}.nii.gz");
        assert_eq!(bytes(&out.join(&name)), bytes(&whole.join(&name)), "{case}");
    }
}

#[test]
fn parts_share_the_cases_and_keep_their_own_records() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&input).expect("a folder");
    for (i, case) in ["a", "b", "c"].iter().enumerate() {
        write_case(&numbered(&input, case), i as u64);
    }
    let (code, first, _) = predict(&input, &out, &["--part", "1/2", "--json"]);
    assert_eq!(code, 0);
    let (code, second, _) = predict(&input, &out, &["--part", "2/2", "--json"]);
    assert_eq!(code, 0);
    let names = |text: &str| -> Vec<String> {
        text.lines()
            .map(|l| {
                serde_json::from_str::<serde_json::Value>(l).expect("JSON")["case"]
                    .as_str()
                    .expect("a name")
                    .to_owned()
            })
            .collect()
    };
    assert_eq!((names(&first), names(&second)), (vec!["a".to_owned(), "c".to_owned()], vec!["b".to_owned()]));
    assert!(out.join("predict_part1of2.json").is_file() && out.join("predict_part2of2.json").is_file());
}

#[test]
fn two_models_are_averaged_and_one_model_twice_is_that_model() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, once, twice) = (dir.path().join("in"), dir.path().join("once"), dir.path().join("twice"));
    std::fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "one"), 7);
    let (code, _, _) = predict(&input, &once, &["--save-probabilities"]);
    assert_eq!(code, 0);
    let model = model().display().to_string();
    let (code, _, stderr) = predict(&input, &twice, &["--save-probabilities", "-m", &model]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(bytes(&once.join("one.nii.gz")), bytes(&twice.join("one.nii.gz")));
    assert_eq!(record(&twice)["models"].as_array().map(Vec::len), Some(2));
}

#[test]
fn every_choice_of_kernels_gives_the_same_labels_but_for_a_few_voxels() {
    let dir = tempfile::tempdir().expect("a folder");
    let input = dir.path().join("in");
    std::fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "one"), 9);
    let labels: Vec<Vec<u16>> = ["auto", "direct", "reference"]
        .iter()
        .map(|kernels| {
            let out = dir.path().join(kernels);
            let (code, _, stderr) = predict(&input, &out, &["--kernels", kernels]);
            assert_eq!(code, 0, "{stderr}");
            assert_eq!(record(&out)["settings"]["kernels"], *kernels);
            nifti::read_labels(&out.join("one.nii.gz")).expect("labels").data
        })
        .collect();
    for other in &labels[1..] {
        let different = other.iter().zip(&labels[0]).filter(|(a, b)| a != b).count();
        assert!(different <= other.len() / 10_000, "{different} of {}", other.len());
    }
}

#[test]
fn info_tells_what_a_model_an_image_and_a_checkpoint_are() {
    let dir = tempfile::tempdir().expect("a folder");
    write_case(&numbered(dir.path(), "one"), 1);
    let model = model();
    for (path, expected) in [
        (model.clone(), vec!["kind", "model", "enhancing tumor", "3d_fullres", "PlainConvUNet"]),
        (model.join("plans.json"), vec!["plans", "nnUNetPlans", "40, 40, 40"]),
        (model.join("dataset.json"), vec!["dataset description", "t1ce"]),
        (model.join("fold_0/checkpoint_final.pth"), vec!["checkpoint", "nnUNetTrainer", "sha256"]),
        (dir.path().join("one_0002.nii.gz"), vec!["image", "NIfTI-1, gzip", "44, 42, 40", "4.0, 4.0, 4.0"]),
    ] {
        let path = path.display().to_string();
        let (code, stdout, stderr) = run(&["info", &path]);
        assert_eq!(code, 0, "{path}: {stderr}");
        for word in expected {
            assert!(stdout.contains(word), "{path}: no `{word}` in\n{stdout}");
        }
        let (_, json, _) = run(&["info", &path, "--json"]);
        let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
        assert_eq!(value["path"], path.as_str());
    }
}

#[test]
fn a_model_that_reads_in_ras_gives_every_stored_order_the_same_segmentation() {
    let dir = tempfile::tempdir().expect("a folder");
    let turned_model = dir.path().join("model");
    support::copy_folder(&model(), &turned_model);
    support::edit_json(&turned_model.join("plans.json"), |plans| {
        plans["image_reader_writer"] = "NibabelIOWithReorient".into();
    });
    let volume = support::small_phantom(7);
    let grid = &volume.geometry;
    // The first case is stored in RAS; of the second every channel is stored in another order.
    let to_ras = grid.turn_to_ras(TurnRule::Nibabel);
    let orders = [[2, 0, 1], [0, 1, 2], [1, 2, 0], [0, 2, 1]];
    let turns = orders.map(|axes| to_ras.then(&Turn { axes, flip: [true, false, true] }));
    let input = dir.path().join("in");
    std::fs::create_dir(&input).expect("a folder");
    for (case, turns) in [("upright", [to_ras; 4]), ("turned", turns)] {
        for (c, path) in numbered(&input, case).iter().enumerate() {
            let place = Geometry::from_affine(
                turns[c].along(grid.shape),
                grid.affine().turned(&turns[c], grid.shape),
            )
            .expect("regular");
            let data = turns[c].apply(volume.channel(c).to_vec(), grid.shape);
            nifti::write_volume(path, &Volume::new(1, data, place).expect("whole")).expect("written");
        }
    }
    let out = dir.path().join("out");
    let arguments = ["predict", "-m", "MODEL", "-i", "IN", "-o", "OUT", "--no-mirroring"].map(|a| match a {
        "MODEL" => turned_model.display().to_string(),
        "IN" => input.display().to_string(),
        "OUT" => out.display().to_string(),
        other => other.to_owned(),
    });
    let (code, _, stderr) = run(&arguments.each_ref().map(String::as_str));
    assert_eq!(code, 0, "{stderr}");
    let labels = |case: &str| nifti::read_labels(&out.join(format!("{case}.nii.gz"))).expect("labels");
    let (upright, turned) = (labels("upright"), labels("turned"));
    assert!(upright.data.iter().any(|&l| l > 0), "a tumour is found");
    let image = nifti::read_info(&input.join("turned_0000.nii.gz")).expect("an image").geometry;
    assert_eq!(turned.geometry, image);
    let back = turned.geometry.turn_to_ras(TurnRule::Nibabel);
    assert_eq!(back.apply(turned.data, image.shape), upright.data);
    // The readers that turn nothing refuse channels of different grids.
    let (code, _, stderr) = predict(&input, &dir.path().join("plain"), &[]);
    assert_eq!(code, 1);
    assert!(stderr.contains("channels of one case have different grids"), "{stderr}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_case_that_does_not_fit_the_memory_fails_alone_with_both_numbers() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&input).expect("a folder");
    // Its name comes first, so that the batch has to continue after it.
    let huge = support::small_phantom(1);
    let affine = huge.geometry.affine().rows().map(|[a, b, c, t]| [10.0 * a, 10.0 * b, 10.0 * c, t]);
    let grid = Geometry::from_affine(huge.geometry.shape, Affine::from_rows(affine)).expect("regular");
    for (c, path) in numbered(&input, "a_huge").iter().enumerate() {
        let channel = Volume::new(1, huge.channel(c).to_vec(), grid.clone()).expect("whole");
        nifti::write_volume(path, &channel).expect("written");
    }
    write_case(&numbered(&input, "b_good"), 3);
    let command = format!(
        "ulimit -v 900000; exec {} predict -m {} -i {} -o {} --no-mirroring --threads 2",
        env!("CARGO_BIN_EXE_glioseg"),
        model().display(),
        input.display(),
        out.display()
    );
    let output = std::process::Command::new("sh").args(["-c", &command]).output().expect("a shell");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(out.join("b_good.nii.gz").is_file(), "the batch continues: {stderr}");
    assert!(!out.join("a_huge.nii.gz").exists());
    let record = record(&out);
    let failed = &record["cases"][0];
    assert_eq!(
        (failed["case"].as_str(), failed["status"].as_str()),
        (Some("a_huge"), Some("failed")),
        "{failed}"
    );
    let error = failed["error"].as_str().expect("an error");
    assert!(error.contains("GiB of memory, but 0.") && error.contains("GiB are free"), "{error}");
    assert!(stderr.contains("its voxel size in the header"), "{stderr}");
}

#[test]
fn files_of_any_name_are_given_channel_by_channel() {
    let dir = tempfile::tempdir().expect("a folder");
    let scans = dir.path().join("scans");
    for case in ["P1", "P2"] {
        std::fs::create_dir_all(scans.join(case)).expect("a folder");
        write_case(&["T1", "T1_gad", "T2", "DARK"].map(|c| scans.join(case).join(format!("{c}.nii.gz"))), 3);
    }
    let text = |path: &Path| path.display().to_string();
    let by_pattern = dir.path().join("by-pattern");
    let (code, stdout, stderr) = run(&[
        "predict",
        "-m",
        &text(&model()),
        "-i",
        &text(&scans),
        "-o",
        &text(&by_pattern),
        "--no-mirroring",
        "--channel",
        "flair=*/DARK.nii.gz",
        "--channel",
        "t1=*/T1.nii.gz",
        "--channel",
        "t2=*/T2.nii.gz",
        "--channel",
        "t1gd=*/T1_gad.nii.gz",
    ]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout.lines().count(), 2);
    assert!(stderr.contains("channel flair  <- */DARK.nii.gz"), "{stderr}");
    let one = dir.path().join("one");
    let channels = [("t1", "T1"), ("t1ce", "T1_gad"), ("t2", "T2"), ("flair", "DARK")]
        .map(|(name, file)| format!("{name}={}", text(&scans.join("P2").join(format!("{file}.nii.gz")))));
    let (model, out) = (text(&model()), text(&one));
    let mut arguments = vec!["predict", "-m", &model, "-o", &out, "--no-mirroring"];
    for channel in &channels {
        arguments.extend(["--channel", channel]);
    }
    let (code, _, stderr) = run(&arguments);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(bytes(&one.join("P2.nii.gz")), bytes(&by_pattern.join("P2.nii.gz")), "the folder's name");
    let (code, _, stderr) = run(&arguments[..arguments.len() - 2]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("files are given for t1, t1ce, t2") && stderr.contains("once for each channel"),
        "{stderr}"
    );
}

#[test]
fn a_dataset_is_made_of_files_of_any_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let scans = dir.path().join("scans");
    let grid = Geometry::isotropic([4, 5, 6]);
    for (case, largest) in [("P1", 2), ("P2", 1)] {
        std::fs::create_dir_all(scans.join(case)).expect("a folder");
        let volume =
            Volume::new(1, (0..120).map(|i| (i * largest) as f32).collect(), grid.clone()).expect("whole");
        nifti::write_volume(&scans.join(case).join("FLAIR.nii.gz"), &volume).expect("written");
        let labels = (0..120).map(|i| (i % (largest + 1)) as u16).collect();
        let map = glioseg_volume::LabelMap::new(labels, grid.clone()).expect("whole");
        nifti::write_labels(&scans.join(case).join("GT_W.nii.gz"), &map).expect("written");
    }
    std::fs::create_dir(scans.join("P3")).expect("a folder");
    std::fs::copy(scans.join("P1/FLAIR.nii.gz"), scans.join("P3/FLAIR.nii.gz")).expect("copied");
    let text = |path: &Path| path.display().to_string();
    let make = |out: &Path, more: &[&str]| {
        let (scans, out) = (text(&scans), text(out));
        let mut arguments = vec!["dataset", "make", &scans, &out, "--channel", "flair=*/FLAIR.nii.gz"];
        arguments.extend(["--label", "*/GT_W.nii.gz"]);
        arguments.extend(more);
        run(&arguments)
    };
    for files in ["auto", "copy"] {
        let out = dir.path().join(files);
        let (code, stdout, stderr) = make(&out, &["--label-name", "1=edema", "--files", files]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stdout.contains("2 cases | voxels per label 0: 100, 1: 100, 2: 40"), "{stdout}");
        assert!(stderr.contains("error: case `P3` is left out: it has no label"), "{stderr}");
        let description: serde_json::Value =
            serde_json::from_slice(&bytes(&out.join("dataset.json"))).expect("JSON");
        assert_eq!(description["labels"], serde_json::json!({"background": 0, "edema": 1, "label 2": 2}));
        assert_eq!(out.join("imagesTr/P1_0000.nii.gz").exists(), files == "copy");
        let (code, stdout, stderr) = run(&["dataset", "check", &text(&out)]);
        assert_eq!((code, stdout.lines().next().is_some()), (0, true), "{stdout}{stderr}");
    }
    // Values that do not follow each other are refused, and nothing is left that looks like a dataset.
    let mut map = nifti::read_labels(&scans.join("P1/GT_W.nii.gz")).expect("labels");
    map.data.iter_mut().filter(|l| **l == 2).for_each(|l| *l = 4);
    nifti::write_labels(&scans.join("P1/GT_W.nii.gz"), &map).expect("written");
    let out = dir.path().join("refused");
    let (code, _, stderr) = make(&out, &[]);
    assert_eq!(code, 2, "{stderr}");
    assert!(stderr.contains("P1/GT_W.nii.gz") && stderr.contains("has label 4"), "{stderr}");
    assert!(!out.join("dataset.json").exists());
}
