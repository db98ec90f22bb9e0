//! Studies of phantoms whose scans were moved by known transforms, brought back to one space.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use glioseg_align::Transform;
use glioseg_formats::nifti;
use glioseg_infer::PredictOptions;
use glioseg_infer::cases::StudyFiles;
use glioseg_plan::record::CaseStatus;
use glioseg_volume::phantom::{Phantom, PhantomOptions, phantom};
use glioseg_volume::{Affine, Geometry, LabelMap, Volume};
use glioseg_workflow::preprocess::{
    BrainSource, CHANNELS, Names, PreprocessBatch, PreprocessError, PreprocessEvent, PreprocessOptions,
    PreprocessRecord, PreprocessSummary, RECORD, Space, StudyInput, Verdict, preprocess, to_scan,
    way_to_scan,
};
use tempfile::TempDir;

fn head() -> Phantom {
    let options =
        PhantomOptions { shape: [56; 3], spacing_mm: [3.0; 3], seed: 11, ..PhantomOptions::default() };
    phantom(&options).expect("a phantom")
}

/// A rotation (degrees) about z and then a shift, about the middle of a grid.
fn rigid(degrees: f64, shift: [f64; 3], grid: &Geometry) -> Transform {
    let (s, c) = degrees.to_radians().sin_cos();
    let [z, y, x] = grid.shape.map(|n| (n as f64 - 1.0) / 2.0);
    let centre = Transform::of_grid(grid).apply([x, y, z]);
    let turn = Transform::new([[c, -s, 0.0, 0.0], [s, c, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]).expect("regular");
    let back = Transform::translation(centre.map(|v| -v));
    Transform::translation([0, 1, 2].map(|k| centre[k] + shift[k])).after(&turn).after(&back)
}

/// The grid after the patient has moved: the same voxels lie elsewhere.
fn moved(grid: &Geometry, by: &Transform) -> Geometry {
    let [x, y, z] = by.after(&Transform::of_grid(grid)).rows();
    Geometry::from_affine(grid.shape, Affine::from_rows([x.map(|v| -v), y.map(|v| -v), z])).expect("regular")
}

fn write(path: &Path, values: &[f32], grid: &Geometry) {
    let volume = Volume::new(1, values.to_vec(), grid.clone()).expect("whole");
    nifti::write_whole_volume(path, &volume).expect("written");
}

/// How each scan of the study was moved.
fn motions(grid: &Geometry) -> [Transform; 4] {
    [
        rigid(4.0, [3.0, -2.0, 5.0], grid),
        rigid(-6.0, [10.0, 4.0, -3.0], grid),
        rigid(0.0, [0.0, 6.0, 8.0], grid),
        rigid(9.0, [-7.0, 2.0, 1.0], grid),
    ]
}

/// A study `P01` of scans, a mask on the grid of T1c, and an atlas: the unmoved T1.
fn study(folder: &Path) -> Phantom {
    let head = head();
    let grid = &head.channels.geometry;
    std::fs::create_dir_all(folder.join("raw")).expect("a folder");
    for (i, motion) in motions(grid).iter().enumerate() {
        let path = folder.join(format!("raw/P01_{}.nii.gz", CHANNELS[i]));
        // Scanners have no zeros around the head.
        let noisy: Vec<f32> = head.channels.channel(i).iter().map(|&v| v.max(1.0)).collect();
        write(&path, &noisy, &moved(grid, motion));
    }
    let brain = head.channels.channel(0).iter().map(|&v| u16::from(v > 0.0)).collect();
    let mask = LabelMap::new(brain, moved(grid, &motions(grid)[1])).expect("whole");
    nifti::write_labels(&folder.join("mask.nii.gz"), &mask).expect("written");
    write(&folder.join("atlas.nii.gz"), head.channels.channel(0), grid);
    head
}

fn options(folder: &Path) -> PreprocessOptions {
    PreprocessOptions {
        atlas: Some(folder.join("atlas.nii.gz")),
        brain: BrainSource::Mask(folder.join("mask.nii.gz")),
        ..PreprocessOptions::default()
    }
}

type Told = (PreprocessSummary, Vec<String>);

fn run(
    folder: &Path,
    input: &StudyInput,
    options: &PreprocessOptions,
    go_on: bool,
) -> Result<Told, PreprocessError> {
    let told = Mutex::new(Vec::new());
    let batch = PreprocessBatch { input, out: &folder.join("out"), skip_finished: go_on, stop: None };
    let observer = |event: PreprocessEvent<'_>| {
        if let PreprocessEvent::Finished { record } = event {
            let error = record.error.clone().unwrap_or_default();
            told.lock().expect("unharmed").push(format!("{} {error}", record.case));
        }
    };
    let summary = preprocess(&batch, options, &observer)?;
    Ok((summary, told.into_inner().expect("unharmed")))
}

fn raw(folder: &Path) -> StudyInput {
    StudyInput::Found(vec![folder.join("raw")])
}

fn record(folder: &Path) -> PreprocessRecord {
    PreprocessRecord::read(&folder.join("out").join(RECORD)).expect("a record")
}

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry"));
    let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn temporary() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Mean distance in mm between two transforms over the head.
fn error(a: &Transform, b: &Transform, head: &Phantom) -> f64 {
    let grid = &head.channels.geometry;
    let to_world = Transform::of_grid(grid);
    let (mut sum, mut count) = (0.0, 0.0);
    for (i, _) in head.channels.channel(0).iter().enumerate().step_by(29).filter(|(_, v)| **v > 0.0) {
        let [z, y, x] = grid.position(i).map(|p| p as f64);
        let point = to_world.apply([x, y, z]);
        let (p, q) = (a.apply(point), b.apply(point));
        sum += (0..3).map(|k| (p[k] - q[k]).powi(2)).sum::<f64>().sqrt();
        count += 1.0;
    }
    sum / count
}

#[test]
fn moved_scans_come_back_to_the_atlas_and_every_transform_is_kept() {
    let folder = temporary();
    let head = study(folder.path());
    let (summary, _) =
        run(folder.path(), &raw(folder.path()), &options(folder.path()), false).expect("prepared");
    assert_eq!((summary.done, summary.failed), (1, 0));
    let out = folder.path().join("out");
    let all = ["P01-mask.nii.gz", "P01-t1c.nii.gz", "P01-t1n.nii.gz", "P01-t2f.nii.gz", "P01-t2w.nii.gz"];
    assert_eq!(names(&out), [&all[..], &["preprocess.json", "transforms"]].concat());
    assert_eq!(names(&out.join("transforms")).len(), 2 * (4 + 3));

    let record = record(folder.path());
    let study = &record.cases[0];
    assert_eq!((study.center.as_str(), study.status, study.unchanged), ("t1c", CaseStatus::Done, false));
    let mask = nifti::read_labels(&out.join("P01-mask.nii.gz")).expect("readable");
    let grid = &head.channels.geometry;
    assert_eq!(mask.geometry.affine(), grid.affine());
    for (i, motion) in motions(grid).iter().enumerate() {
        let channel = &study.channels[i];
        assert_eq!(channel.channel, CHANNELS[i]);
        let found = channel.transform().expect("regular");
        assert!(error(&found, motion, &head) < 0.4, "{}: {} mm", CHANNELS[i], error(&found, motion, &head));
        let file = out.join(format!("transforms/P01-{}_to_sri24.mat", CHANNELS[i]));
        assert_eq!(Transform::read(&file).expect("readable"), found);
        // The image is what it was before the head moved, and 0 around the brain.
        let image = nifti::read_volume(&out.join(&channel.output)).expect("readable");
        let before = head.channels.channel(i);
        let (mut difference, mut size) = (0.0, 0.0);
        for (j, (&now, &then)) in image.data.iter().zip(before).enumerate() {
            assert!(mask.data[j] > 0 || now == 0.0);
            difference += f64::from(now - then).powi(2);
            size += f64::from(then).powi(2);
        }
        assert!((difference / size).sqrt() < 0.25, "{}", (difference / size).sqrt());
        let stored = nifti::read_info(&out.join(&channel.output)).expect("readable").dtype;
        assert_eq!(stored.name(), "i16", "whole numbers stay whole numbers");
    }
    // The way between two scans is kept too.
    let between = Transform::read(&out.join("transforms/P01-t2w_to_t1c.tfm")).expect("readable");
    let truth = motions(grid)[2].after(&motions(grid)[1].inverse());
    let at_t1c = between.after(&motions(grid)[1]);
    assert!(error(&at_t1c, &truth.after(&motions(grid)[1]), &head) < 0.3);
    let failed: Vec<_> = study.checks.iter().filter(|c| c.verdict == Verdict::Fail).collect();
    assert!(failed.is_empty(), "{failed:?}");
    let closures = study.checks.iter().filter(|c| c.name.starts_with("closure"));
    assert_eq!(closures.map(|c| assert!(c.value < 0.3, "{c:?}")).count(), 3);
}

#[test]
fn a_bad_study_does_not_stop_the_others_and_continuing_does_what_is_left() {
    let folder = temporary();
    let head = head();
    let grid = &head.channels.geometry;
    let put = |name: &str, values: &[f32], grid: &Geometry| {
        std::fs::create_dir_all(folder.path().join("raw")).expect("a folder");
        write(&folder.path().join("raw").join(name), values, grid);
    };
    let t1 = head.channels.channel(0);
    put("good_t1.nii.gz", t1, grid);
    put("good_t2.nii.gz", head.channels.channel(2), grid);
    put("constant_t1.nii.gz", &vec![7.0; t1.len()], grid);
    put("constant_t2.nii.gz", t1, grid);
    let flat = Geometry::isotropic([2, 56, 56]);
    put("flat_t1.nii.gz", &t1[..2 * 56 * 56], &flat);
    put("flat_t2.nii.gz", t1, grid);
    put("twice_t1.nii.gz", t1, grid);
    put("twice_t1n.nii.gz", t1, grid);
    let series = Volume::new(2, [t1, t1].concat(), grid.clone()).expect("whole");
    nifti::write_volume(&folder.path().join("raw/series_t1.nii.gz"), &series).expect("written");
    std::fs::write(folder.path().join("raw/broken_t1.nii.gz"), b"no image").expect("written");
    let options = PreprocessOptions { space: Space::Native, names: Names::Brats2021, ..Default::default() };
    let (summary, told) = run(folder.path(), &raw(folder.path()), &options, false).expect("some");
    assert_eq!((summary.done, summary.failed, summary.skipped), (1, 5, 0), "{told:?}");
    let expected = [
        ("broken ", "is not a NIfTI file"),
        ("constant ", "constant_t1.nii.gz cannot be registered: every voxel of the image is 7"),
        ("flat ", "[2, 56, 56] voxels (z, y, x)"),
        ("good ", ""),
        ("series ", "holds 2 images; a channel is one"),
        ("twice ", "two files for channel `t1n`"),
    ];
    for (told, (case, reason)) in told.iter().zip(expected) {
        assert!(told.starts_with(case) && told.contains(reason), "{told}");
    }
    let out = folder.path().join("out");
    assert_eq!(names(&out), ["good_t1.nii.gz", "good_t2.nii.gz", "preprocess.json", "transforms"]);

    // What is there is kept; what failed is tried again; with other settings everything is prepared again.
    let stamp = || std::fs::metadata(out.join("good_t1.nii.gz")).and_then(|m| m.modified()).expect("there");
    let before = stamp();
    std::fs::remove_file(folder.path().join("raw/twice_t1.nii.gz")).expect("removed");
    let (summary, told) = run(folder.path(), &raw(folder.path()), &options, true).expect("some");
    assert_eq!((summary.done, summary.failed, summary.skipped), (1, 4, 1), "{told:?}");
    assert_eq!(stamp(), before);
    assert_eq!(record(folder.path()).cases.len(), 6);
    std::fs::remove_file(out.join("good_t2.nii.gz")).expect("removed");
    let (summary, _) = run(folder.path(), &raw(folder.path()), &options, true).expect("some");
    assert_eq!((summary.done, summary.skipped), (1, 1));
}

#[test]
fn images_that_are_in_the_space_are_copied_as_they_are() {
    let folder = temporary();
    let head = head();
    let grid = &head.channels.geometry;
    std::fs::create_dir_all(folder.path().join("raw")).expect("a folder");
    for (i, name) in CHANNELS.iter().enumerate() {
        let path = folder.path().join(format!("raw/P01-{name}.nii.gz"));
        let volume = Volume::new(1, head.channels.channel(i).to_vec(), grid.clone()).expect("whole");
        nifti::write_whole_volume(&path, &volume).expect("written");
    }
    write(&folder.path().join("atlas.nii.gz"), head.channels.channel(0), grid);
    let options = PreprocessOptions { brain: BrainSource::None, ..options(folder.path()) };
    run(folder.path(), &raw(folder.path()), &options, false).expect("copied");
    let study = &record(folder.path()).cases[0];
    assert!(study.unchanged && study.warnings[0].contains("already in the space sri24"), "{study:?}");
    for channel in &study.channels {
        assert_eq!(channel.transform().expect("regular"), Transform::IDENTITY);
        let read = |path: PathBuf| nifti::read_volume(&path).expect("readable").data;
        assert_eq!(read(folder.path().join("out").join(&channel.output)), read(channel.file.clone()));
    }
}

#[test]
fn what_makes_the_whole_batch_impossible_is_told_before_anything_is_written() {
    let folder = temporary();
    let head = study(folder.path());
    let refused = |input: &StudyInput, options: &PreprocessOptions| {
        let error = run(folder.path(), input, options, false).expect_err("refused");
        assert!(!folder.path().join("out").join(RECORD).exists());
        error.to_string()
    };
    let usual = options(folder.path());
    let with = |brain: BrainSource| PreprocessOptions { brain, ..usual.clone() };
    std::fs::create_dir_all(folder.path().join("empty")).expect("a folder");
    let empty = StudyInput::Found(vec![folder.path().join("empty")]);
    assert!(refused(&empty, &usual).contains("there are no files in it"));
    let tumour = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/phantom-model");
    let model = with(BrainSource::Model(tumour, Box::default()));
    assert!(refused(&raw(folder.path()), &model).contains("4 channels and 3 foreground labels"));
    let inside = StudyInput::Found(vec![folder.path().to_owned()]);
    assert!(refused(&inside, &usual).contains("lies in the input folder"));
    let missing = StudyFiles { id: "a".into(), files: vec![Some("nowhere.nii.gz".into()), None, None, None] };
    assert!(refused(&StudyInput::Given(missing), &usual).contains("no such file"));
    let missing = PreprocessOptions { atlas: Some("nowhere.nii.gz".into()), ..usual.clone() };
    assert!(refused(&raw(folder.path()), &missing).contains("nowhere.nii.gz"));

    // A mask must lie on a grid that is known, and cannot be one for several studies.
    let other = folder.path().join("other.nii.gz");
    let labels = LabelMap::new(vec![1; 1000], Geometry::isotropic([10; 3])).expect("whole");
    nifti::write_labels(&other, &labels).expect("written");
    let options = PreprocessOptions { space: Space::Native, atlas: None, ..with(BrainSource::Mask(other)) };
    let (summary, told) = run(folder.path(), &raw(folder.path()), &options, false).expect("a failed study");
    assert!(summary.failed == 1 && told[0].contains("has the grid of no channel"), "{told:?}");
    write(&folder.path().join("raw/P02_t1.nii.gz"), head.channels.channel(0), &head.channels.geometry);
    let two = run(folder.path(), &raw(folder.path()), &usual, false).expect_err("two studies").to_string();
    assert!(two.contains("one brain mask is given, but 2 studies"), "{two}");
}

#[test]
fn a_header_without_orientation_is_told_and_refused_with_strict() {
    let folder = temporary();
    let head = head();
    std::fs::create_dir_all(folder.path().join("raw")).expect("a folder");
    let mut forms = head.channels.geometry.forms().clone();
    (forms.qform_code, forms.sform_code) = (0, 0);
    let unset = Geometry::from_forms(head.channels.geometry.shape, forms).expect("regular");
    write(&folder.path().join("raw/a_t1.nii.gz"), head.channels.channel(0), &unset);
    let options = PreprocessOptions { space: Space::Native, ..PreprocessOptions::default() };
    run(folder.path(), &raw(folder.path()), &options, false).expect("a warning");
    let study = &record(folder.path()).cases[0];
    assert!(
        study.status == CaseStatus::Done && study.warnings[0].contains("left and right may be exchanged"),
        "{study:?}"
    );
    let strict = PreprocessOptions { strict: true, ..options };
    let (summary, told) = run(folder.path(), &raw(folder.path()), &strict, false).expect("a failed study");
    assert!(summary.failed == 1 && told[0].contains("does not say how the image lies"), "{told:?}");
}

#[test]
fn a_model_of_nnunet_finds_the_brain_and_label_maps_return_to_the_scan() {
    let folder = temporary();
    let head = study(folder.path());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/brain-model");
    let predict = PredictOptions { mirroring: false, ..PredictOptions::default() };
    let options =
        PreprocessOptions { brain: BrainSource::Model(model, Box::new(predict)), ..options(folder.path()) };
    let (summary, told) = run(folder.path(), &raw(folder.path()), &options, false).expect("prepared");
    assert_eq!(summary.done, 1, "{told:?}");
    let out = folder.path().join("out");
    let mask = nifti::read_labels(&out.join("P01-mask.nii.gz")).expect("readable");
    let brain: Vec<bool> = head.channels.channel(0).iter().map(|&v| v > 0.0).collect();
    let count = |of: &dyn Fn(usize) -> bool| (0..brain.len()).filter(|&i| of(i)).count() as f64;
    let both = count(&|i| brain[i] && mask.data[i] > 0);
    let dice = 2.0 * both / (count(&|i| brain[i]) + count(&|i| mask.data[i] > 0));
    assert!(dice > 0.9, "{dice}");

    // The tumour of the space on the grid of the scan, which moved with it.
    let labels = folder.path().join("P01.nii.gz");
    nifti::write_labels(&labels, &head.labels).expect("written");
    let scan = folder.path().join("raw/P01_t2w.nii.gz");
    for place in [out.clone(), out.join("transforms"), out.join("transforms/P01-t2w_to_sri24.tfm")] {
        let way = way_to_scan(&place, &scan, &labels).expect("found");
        let geometry = nifti::read_info(&scan).expect("readable").geometry;
        let back = to_scan(&head.labels, &way, &geometry).expect("whole");
        assert_eq!(back.geometry, geometry, "the header of the scan");
        let same = back.data.iter().zip(&head.labels.data).filter(|(a, b)| a == b && **a > 0).count() as f64;
        let of = |map: &[u16]| map.iter().filter(|v| **v > 0).count() as f64;
        assert!(2.0 * same / (of(&back.data) + of(&head.labels.data)) > 0.85);
    }
    let other = way_to_scan(&out, &labels, &labels).expect_err("no scan").to_string();
    assert!(other.contains("is none of the scans of"), "{other}");
}
