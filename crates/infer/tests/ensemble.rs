//! Ensembles of saved probabilities against both versions of nnU-Net, and everything that can be wrong with the folders.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::nifti;
use glioseg_infer::ensemble::{EnsembleOptions, ensemble};
use glioseg_infer::postprocess::{Postprocessing, PostprocessingStep};
use glioseg_plan::OutputLabels;
use glioseg_plan::record::{CaseRecord, CaseStatus, Record};
use glioseg_volume::testing::shared_data;
use glioseg_volume::{Affine, Geometry, LabelMap};
use support::save_array;

/// A folder in which the cases of both `a` and `b` are merged.
fn merged(folders: &[PathBuf], options: &EnsembleOptions) -> tempfile::TempDir {
    let out = tempfile::tempdir().expect("a folder");
    let done = ensemble(folders, out.path(), options, &|_, _| {}).expect("started");
    for case in done.cases {
        case.result.unwrap_or_else(|e| panic!("{}: {e}", case.case));
    }
    out
}

fn labels(folder: &Path, case: &str) -> LabelMap {
    nifti::read_labels(&folder.join(format!("{case}.nii.gz"))).expect("a label map")
}

fn array<T: npyz::Deserialize>(path: &Path, name: &str) -> Vec<T> {
    let mut zip = zip::ZipArchive::new(fs::File::open(path).expect("an npz")).expect("a zip");
    let entry = zip.by_name(&format!("{name}.npy")).expect("the array");
    npyz::NpyFile::new(entry).expect("an npy").into_vec().expect("values of that type")
}

fn case_03_only(from: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for entry in fs::read_dir(from).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("a name");
        if name.starts_with("case_03") || name.ends_with("set.json") {
            fs::copy(entry.path(), dir.path().join(name)).expect("copied");
        }
    }
    dir
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn version_one_is_merged_thresholded_and_converted_exactly() {
    let golden = shared_data("golden/v1");
    let folders = ["BL", "BL_L_GN"].map(|m| golden.join("predicted").join(m));
    let both = ["case_03", "case_07"];
    let plain = merged(&folders, &EnsembleOptions { save_probabilities: true, ..Default::default() });
    let same = |ours: &Path, theirs: &str| {
        for case in both {
            let (ours, theirs) = (labels(ours, case), labels(&golden.join(theirs), case));
            assert_eq!(ours.data, theirs.data, "{case}");
            let grids = theirs.geometry.same_grid(&ours.geometry);
            assert!(grids.same_lattice() && grids.same_position(), "{case}: {grids:?}");
        }
    };
    same(plain.path(), "ensemble");
    let (ours, theirs) = (plain.path().join("case_03.npz"), golden.join("ensemble/case_03.npz"));
    assert_eq!(array::<half::f16>(&ours, "softmax"), array::<half::f16>(&theirs, "softmax"));
    // What was saved can be merged again, with the properties that were copied along.
    let again = merged(&[plain.path().to_owned()], &EnsembleOptions::default());
    same(again.path(), "ensemble");

    for (below_voxels, folder) in [(200, "ensemble_200"), (2344, "ensemble_2344"), (2345, "ensemble_2345")] {
        let step = PostprocessingStep::ReplaceSmall { labels: vec![3], below_voxels, with: 2 };
        let postprocessing = Postprocessing::new(vec![step]);
        let out = merged(
            &folders,
            &EnsembleOptions { postprocessing: postprocessing.clone(), ..Default::default() },
        );
        same(out.path(), &format!("thresholded/{folder}"));
        if below_voxels == 200 {
            let options =
                EnsembleOptions { postprocessing, labels: OutputLabels::Brats, ..Default::default() };
            same(merged(&folders, &options).path(), "converted/ensemble_200");
        }
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn boxes_of_version_one_are_put_back_into_the_image() {
    let golden = shared_data("golden/v1/masked/predicted");
    // Without the label map next to it, the grid comes from the properties.
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["case_07.npz", "case_07.pkl"] {
        fs::copy(golden.join(name), dir.path().join(name)).expect("copied");
    }
    let out = merged(&[dir.path().to_owned()], &EnsembleOptions::default());
    let (ours, theirs) = (labels(out.path(), "case_07"), labels(&golden, "case_07"));
    assert_eq!(ours.data, theirs.data);
    let grids = theirs.geometry.same_grid(&ours.geometry);
    assert!(grids.same_lattice() && grids.same_position(), "{grids:?}");
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn version_two_is_the_mean_in_single_precision() {
    let golden = shared_data("golden/pipeline");
    for kind in ["iso", "aniso"] {
        let folders = ["predicted", "predicted_no_mirroring"].map(|f| golden.join(kind).join(f));
        let alone = merged(&folders[..1], &EnsembleOptions::default());
        for case in ["case_03", "case_07"] {
            assert_eq!(labels(alone.path(), case), labels(&folders[0], case), "{kind} {case} alone");
        }
        let out = merged(&folders, &EnsembleOptions { save_probabilities: true, ..Default::default() });
        let saved = array::<f32>(&out.path().join("case_03.npz"), "probabilities");
        let [a, b] = [0, 1].map(|i| array::<f32>(&folders[i].join("case_03.npz"), "probabilities"));
        let mean: Vec<f32> = a.iter().zip(&b).map(|(a, b)| (a + b) / 2.0).collect();
        assert_eq!(saved, mean, "{kind}");
        let map = labels(out.path(), "case_03");
        let voxels = map.data.len();
        let channels: Vec<&[f32]> = mean.chunks(voxels).collect();
        let dataset = glioseg_plan::Dataset::read(&folders[0].join("dataset.json")).expect("a dataset");
        let mut expected = vec![0; voxels];
        glioseg_infer::Decision::new(&dataset.labels).decide(&channels, true, &mut expected);
        assert_eq!(map.data, expected, "{kind}");
        let written = glioseg_plan::Dataset::read(&out.path().join("dataset.json")).expect("a description");
        assert_eq!(written.labels, dataset.labels);
    }
}

/// Saved probabilities of v2: one output per number, the same everywhere in an image of 2 x 3 x 4 voxels.
fn save(folder: &Path, case: &str, outputs: &[f32]) {
    let values: Vec<f32> = outputs.iter().flat_map(|&v| [v; 24]).collect();
    save_array(
        &folder.join(format!("{case}.npz")),
        "probabilities",
        &[outputs.len() as u64, 2, 3, 4],
        &values,
    );
    let affine = Affine::from_rows([[-1.0, 0.0, 0.0, 5.0], [0.0, -1.0, 0.0, 7.0], [0.0, 0.0, 2.0, 0.0]]);
    let geometry = Geometry::from_affine([2, 3, 4], affine).expect("regular");
    let map = LabelMap::new(vec![0; 24], geometry).expect("a map");
    nifti::write_labels(&folder.join(format!("{case}.nii.gz")), &map).expect("written");
}

const PLAIN: &str = r#"{"channel_names": {"0": "T1"}, "labels": {"background": 0, "edema": 1, "NCR": 2, "ET": 3}, "numTraining": 1, "file_ending": ".nii.gz"}"#;

fn folder(dataset: &str, cases: &[(&str, &[f32])]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("dataset.json"), dataset).expect("written");
    for (case, outputs) in cases {
        save(dir.path(), case, outputs);
    }
    dir
}

fn error_of(folders: &[&tempfile::TempDir], options: &EnsembleOptions) -> (String, String) {
    let folders: Vec<PathBuf> = folders.iter().map(|f| f.path().to_owned()).collect();
    let out = tempfile::tempdir().expect("a folder");
    let error = match ensemble(&folders, out.path(), options, &|_, _| {}) {
        Err(error) => error,
        Ok(done) => {
            let error = done.cases.into_iter().find_map(|c| c.result.err()).expect("a case that fails");
            assert!(!out.path().join("a.nii.gz").exists(), "no result of a case that failed");
            error
        }
    };
    let mut text = error.to_string();
    for (i, folder) in folders.iter().enumerate() {
        text = text.replace(&folder.display().to_string(), ["FIRST", "SECOND"][i]);
    }
    (text, error.hint().unwrap_or_default())
}

/// A `predict.json` that tells of these cases: whether they are done, and whether their probabilities were saved.
fn record(folder: &Path, cases: &[(&str, CaseStatus, Option<bool>)]) {
    let mut record = Record::default();
    for &(case, status, saved_probabilities) in cases {
        let failed = CaseRecord::failed(case.into(), vec![], String::new(), None);
        record.put(CaseRecord { status, saved_probabilities, ..failed });
    }
    record.write(&folder.join("predict.json")).expect("written");
}

#[test]
fn probabilities_of_an_earlier_prediction_are_left_out_or_refused() {
    const OUTPUTS: &[f32] = &[0.1, 0.6, 0.3, 0.0];
    let all = ["a", "b", "c", "d"].map(|case| (case, OUTPUTS));
    let one = folder(PLAIN, &all);
    let (done, failed) = (CaseStatus::Done, CaseStatus::Failed);
    // `a` was predicted by a version that does not say it, `b` again without probabilities, `c` failed, `d` is not listed.
    record(one.path(), &[("a", done, None), ("b", done, Some(false)), ("c", failed, None)]);
    let out = tempfile::tempdir().expect("a folder");
    for name in ["a.npz", "x.nii.gz", "notes.txt"] {
        fs::write(out.path().join(name), b"").expect("written");
    }
    let made = ensemble(&[one.path().to_owned()], out.path(), &EnsembleOptions::default(), &|_, _| {});
    let made = made.expect("an ensemble");
    assert_eq!(made.cases.iter().map(|c| c.case.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(made.stale, ["b", "c", "d"].map(|case| one.path().join(format!("{case}.npz"))));
    assert_eq!(made.left_in_output, ["a.npz", "x.nii.gz"]);

    // Where another folder has the case, an earlier prediction does not take its place.
    let two = folder(PLAIN, &[("a", OUTPUTS), ("b", OUTPUTS)]);
    let (text, hint) = error_of(&[&one, &two], &EnsembleOptions::default());
    assert_eq!(
        text,
        "FIRST/b.npz is of an earlier prediction: the predict.json next to it does not say that it was saved"
    );
    assert_eq!(hint, "predict the case again with --save-probabilities, or remove the file");
    record(one.path(), &[("b", done, Some(false))]);
    let (text, _) = error_of(&[&one], &EnsembleOptions::default());
    assert!(text.starts_with("FIRST/a.npz is of an earlier prediction"), "{text}");
}

#[test]
fn labels_are_decided_by_the_largest_mean_and_the_first_of_equal_ones() {
    let a = folder(PLAIN, &[("a", &[0.1, 0.6, 0.3, 0.0]), ("b", &[0.5, 0.0, 0.5, 0.0])]);
    let b = folder(PLAIN, &[("a", &[0.1, 0.0, 0.5, 0.4]), ("b", &[0.5, 0.0, 0.5, 0.0])]);
    let out = merged(&[a.path().to_owned(), b.path().to_owned()], &EnsembleOptions::default());
    let map = labels(out.path(), "a");
    assert_eq!(map.data, [2; 24]);
    assert_eq!(labels(out.path(), "b").data, [0; 24]);
    assert_eq!(map.geometry, labels(a.path(), "a").geometry);
    let brats = EnsembleOptions { labels: OutputLabels::Brats, ..Default::default() };
    assert_eq!(labels(merged(&[a.path().to_owned(), b.path().to_owned()], &brats).path(), "a").data, [1; 24]);
    let (error, hint) = error_of(&[&a, &b], &EnsembleOptions { save_probabilities: true, ..brats });
    assert!(error.contains("labels of another order"), "{error}");
    assert!(hint.contains("leave out --save-probabilities"), "{hint}");
}

#[test]
fn folders_that_do_not_fit_together_are_named_with_both_sides() {
    let options = EnsembleOptions::default();
    let a = folder(PLAIN, &[("a", &[0.1, 0.6, 0.3, 0.0]), ("b", &[0.5, 0.0, 0.5, 0.0])]);
    let fewer = folder(PLAIN, &[("a", &[0.1, 0.6, 0.3, 0.0])]);
    assert_eq!(error_of(&[&a, &fewer], &options).0, "SECOND has no b.npz, but FIRST has");
    assert_eq!(error_of(&[&fewer, &a], &options).0, "FIRST has no b.npz, but SECOND has");
    let empty = tempfile::tempdir().expect("a folder");
    assert_eq!(error_of(&[&a, &empty], &options).0, "SECOND holds no saved probabilities (CASE.npz)");

    let regions = PLAIN.replace(r#""edema": 1, "NCR": 2"#, r#""WT": [1, 2, 3], "TC": [2, 3]"#);
    let regions = regions.replace(r#""ET": 3}"#, r#""ET": [3]}, "regions_class_order": [1, 2, 3]"#);
    let regions = folder(&regions, &[("a", &[0.1, 0.6, 0.3])]);
    assert_eq!(
        error_of(&[&fewer, &regions], &options).0,
        "the outputs differ: FIRST/dataset.json has [0, 1, 2, 3], but SECOND/dataset.json has [1, 2, 3] painted 1, \
         [2, 3] painted 2, [3] painted 3"
    );
    let three = folder(PLAIN, &[("a", &[0.1, 0.6, 0.3])]);
    assert_eq!(
        error_of(&[&fewer, &three], &options).0,
        "the probabilities differ in shape: FIRST/a.npz has [4, 2, 3, 4], but SECOND/a.npz has [3, 2, 3, 4] (output, z, y, x)"
    );
    assert_eq!(
        error_of(&[&three], &options).0,
        "FIRST/a.npz: it has 3 outputs, but the dataset has 4: background, edema, NCR, ET"
    );
    let steps = Postprocessing::new(vec![PostprocessingStep::keep_largest(&[4])]);
    let (error, _) = error_of(
        &[&a],
        &EnsembleOptions {
            postprocessing: steps,
            postprocessing_path: "pp.json".into(),
            ..Default::default()
        },
    );
    assert_eq!(error, "pp.json has a step for label 4, but the labels are [0, 1, 2, 3]");
}

#[test]
fn damaged_files_fail_their_case_with_a_reason() {
    let options = EnsembleOptions::default();
    let with = |change: &dyn Fn(&Path)| {
        let dir = folder(PLAIN, &[("a", &[0.1, 0.6, 0.3, 0.0])]);
        change(&dir.path().join("a.npz"));
        error_of(&[&dir], &options).0
    };
    let cut = with(&|p| {
        let bytes = fs::read(p).expect("readable");
        fs::write(p, &bytes[..bytes.len() / 2]).expect("written");
    });
    assert!(cut.starts_with("FIRST/a.npz: it is not an npz"), "{cut}");
    let other = with(&|p| save_array(p, "data", &[4, 2, 3, 4], &[0.0; 96]));
    assert_eq!(other, "FIRST/a.npz: it has no array `probabilities` or `softmax`, but data.npy");
    let flat = with(&|p| save_array(p, "probabilities", &[4, 24], &[0.0; 96]));
    assert_eq!(flat, "FIRST/a.npz: `probabilities.npy` has shape [4, 24], not [output, z, y, x]");
    let nan = with(&|p| save_array(p, "probabilities", &[4, 2, 3, 4], &[f32::NAN; 96]));
    assert_eq!(nan, "FIRST/a.npz holds 24 values that are NaN or infinite");
    let moved = with(&|p| save_array(p, "probabilities", &[4, 2, 4, 3], &[0.0; 96]));
    assert!(
        moved.contains("has shape [2, 3, 4], but the probabilities belong to an image of [2, 4, 3]"),
        "{moved}"
    );
    let bare = with(&|p| fs::remove_file(p.with_extension("nii.gz")).expect("removed"));
    assert!(bare.contains("neither a label map nor a .pkl"), "{bare}");
    let code = with(&|p| {
        fs::remove_file(p.with_extension("nii.gz")).expect("removed");
        fs::write(p.with_extension("pkl"), b"cos\nsystem\n(S'true'\ntR.").expect("written");
    });
    assert!(code.contains("os.system"), "{code}");
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn probabilities_of_both_versions_are_not_mixed() {
    let golden = shared_data("golden");
    let (v1, v2) =
        (case_03_only(&golden.join("v1/predicted/BL")), case_03_only(&golden.join("pipeline/iso/predicted")));
    let (error, hint) = error_of(&[&v1, &v2], &EnsembleOptions::default());
    assert_eq!(
        error,
        "FIRST/case_03.npz holds probabilities of nnU-Net v1, but SECOND/case_03.npz those of nnU-Net v2"
    );
    assert!(hint.contains("predict -m A -m B"), "{hint}");
}
