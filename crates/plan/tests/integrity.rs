//! The integrity check lists every problem of every case, each with both sides.

use glioseg_formats::nifti::{write_labels, write_volume};
use glioseg_plan::{RawDataset, Severity, check_dataset, header_errors};
use glioseg_volume::testing::shared_data;
use glioseg_volume::{Affine, Geometry, LabelMap, Volume};
use serde_json::{Value, json};
use std::path::Path;

const SHAPE: [usize; 3] = [3, 4, 5];

fn grid(spacing: f64, origin: f64, shape: [usize; 3]) -> Geometry {
    let rows = [[spacing, 0.0, 0.0, origin], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
    Geometry::from_affine(shape, Affine::from_rows(rows)).expect("a regular affine")
}

fn image(folder: &Path, name: &str, geometry: &Geometry, value: impl Fn(usize) -> f32) {
    let data = (0..geometry.voxels()).map(value).collect();
    let volume = Volume::new(1, data, geometry.clone()).expect("an image");
    write_volume(&folder.join("imagesTr").join(name), &volume).expect("written");
}

fn labels(folder: &Path, name: &str, geometry: &Geometry, value: impl Fn(usize) -> u16) {
    let data = (0..geometry.voxels()).map(value).collect();
    let map = LabelMap::new(data, geometry.clone()).expect("labels");
    write_labels(&folder.join("labelsTr").join(name), &map).expect("written");
}

fn description() -> Value {
    json!({"channel_names": {"0": "t1", "1": "t2"},
        "labels": {"background": 0, "edema": 1, "core": 2}, "numTraining": 5, "file_ending": ".nii.gz"})
}

/// Five good cases, then `spoil`; the problems as text, with the folder's name replaced.
fn problems(description: &Value, spoil: impl Fn(&Path)) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["imagesTr", "labelsTr"] {
        std::fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    std::fs::write(folder.path().join("dataset.json"), description.to_string()).expect("written");
    let good = grid(1.0, 0.0, SHAPE);
    for (number, case) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let value = move |i: usize| (i + 100 * number) as f32;
        image(folder.path(), &format!("{case}_0000.nii.gz"), &good, value);
        image(folder.path(), &format!("{case}_0001.nii.gz"), &good, move |i| value(i) + 1000.0);
        labels(folder.path(), &format!("{case}.nii.gz"), &good, |i| {
            ((i + usize::from(i < 3 * number)) % 3) as u16
        });
    }
    spoil(folder.path());
    let dataset = RawDataset::open(folder.path()).expect("a dataset");
    let report = check_dataset(&dataset, &|_| {});
    assert_eq!(report.is_ok(), report.problems.iter().all(|p| p.severity == Severity::Warning));
    let lines: Vec<String> = report
        .problems
        .iter()
        .map(|p| {
            let path =
                p.path.as_ref().expect("a path").strip_prefix(folder.path()).expect("inside").display();
            let text =
                format!("{:?} {:?} {path}: {}", p.severity, p.case.as_deref().unwrap_or("-"), p.message);
            text.replace(&folder.path().display().to_string(), "DIR")
        })
        .collect();
    lines.join("\n")
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn a_good_dataset_has_no_problems() {
    assert_eq!(problems(&description(), |_| {}), "");
    for set in ["iso", "aniso"] {
        let folder = shared_data(&format!("golden/pipeline/{set}/raw"));
        let dataset = RawDataset::open(&folder).expect("a dataset");
        let report = check_dataset(&dataset, &|_| {});
        assert!(report.is_ok() && report.cases == 6, "{:?}", report.problems);
        assert!(report.label_voxels[&0] > report.label_voxels[&1]);
    }
}

#[test]
fn every_problem_of_every_case_is_in_one_list() {
    let text = problems(&description(), |folder| {
        image(folder, "a_0000.nii.gz", &grid(1.0, 0.0, SHAPE), |i| if i == 7 { f32::NAN } else { 1.0 });
        image(folder, "a_0001.nii.gz", &grid(1.0, 5.0, SHAPE), |_| 0.0);
        labels(folder, "a.nii.gz", &grid(1.0, 0.0, SHAPE), |i| [0, 3, 9][i % 3]);
        image(folder, "b_0001.nii.gz", &grid(2.0, 0.0, SHAPE), |i| i as f32);
        labels(folder, "b.nii.gz", &grid(1.0, 0.0, [3, 4, 6]), |_| 0);
        std::fs::remove_file(folder.join("labelsTr/c.nii.gz")).expect("there");
        std::fs::remove_file(folder.join("imagesTr/c_0001.nii.gz")).expect("there");
        std::fs::write(folder.join("imagesTr/d_0000.nii.gz"), b"no image").expect("written");
        std::fs::rename(folder.join("imagesTr/e_0001.nii.gz"), folder.join("imagesTr/e_0002.nii.gz"))
            .expect("there");
        std::fs::write(folder.join("labelsTr/notes.txt"), b"").expect("written");
    });
    insta::assert_snapshot!(text, @r#"
    Warning "-" labelsTr/notes.txt: belongs to no training case
    Warning "a" imagesTr/a_0001.nii.gz: has origin (x, y, z; mm) [-5.0, 0.0, 0.0], but a_0000.nii.gz has [0.0, 0.0, 0.0]
    Warning "a" imagesTr/a_0000.nii.gz: NaN and infinite voxels count as 0: 1 of 60
    Warning "a" imagesTr/a_0001.nii.gz: every voxel is 0
    Error "a" labelsTr/a.nii.gz: has labels that dataset.json does not declare: 3 (20 voxels), 9 (20 voxels); it declares 0, 1, 2
    Error "b" imagesTr/b_0001.nii.gz: has spacing (z, y, x; mm) [1.0, 1.0, 2.0], but b_0000.nii.gz has [1.0, 1.0, 1.0]
    Error "b" labelsTr/b.nii.gz: has shape (z, y, x) [3, 4, 6], but b_0000.nii.gz has [3, 4, 5]
    Warning "b" labelsTr/b.nii.gz: has no foreground: every voxel is 0
    Error "c" imagesTr/c_0000.nii.gz: the case has 1 channel in 1 file, but dataset.json names 2: t1, t2
    Error "c" labelsTr/c.nii.gz: cannot read DIR/labelsTr/c.nii.gz: No such file or directory (os error 2)
    Error "d" imagesTr/d_0000.nii.gz: DIR/imagesTr/d_0000.nii.gz is not a NIfTI file: it has only 8 bytes, and no header begins there
    Error "e" imagesTr/e_0002.nii.gz: is channel file 1 of its case, so its name should end in _0001.nii.gz
    "#);
}

#[test]
fn mistakes_of_the_description_are_found() {
    let mut wrong = description();
    wrong["numTraining"] = json!(7);
    wrong["labels"] = json!({"background": 0, "edema": 1, "core": 2, "never": 4, "ignore": 5});
    insta::assert_snapshot!(problems(&wrong, |_| {}), @r#"
    Error "-" dataset.json: `numTraining` is 7, but there are 5 training cases
    Error "-" dataset.json: label values must follow each other without a gap, but they are 0, 1, 2, 4, 5
    Warning "-" labelsTr: label 4 (never) occurs in no case
    "#);
    let old = json!({"modality": {"0": "t1", "1": "t2"},
        "labels": {"0": "background", "1": "edema", "2": "core"}, "numTraining": 2,
        "training": [{"image": "imagesTr/a.nii.gz", "label": "labelsTr/a.nii.gz"},
                     {"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}]});
    insta::assert_snapshot!(problems(&old, |folder| {
        for case in ["c", "d", "e"] {
            std::fs::remove_file(folder.join(format!("labelsTr/{case}.nii.gz"))).expect("there");
            std::fs::remove_file(folder.join(format!("imagesTr/{case}_0001.nii.gz"))).expect("there");
        }
    }), @r#"
    Warning "-" dataset.json: `modality` and turned round `labels` are those of nnU-Net v1; planning converts them
    Warning "-" : 2 cases are too few for five folds; train on all of them with `-f all`
    Warning "-" imagesTr/c_0000.nii.gz: belongs to no training case
    Warning "-" imagesTr/d_0000.nii.gz: belongs to no training case
    Warning "-" imagesTr/e_0000.nii.gz: belongs to no training case
    "#);
}

#[test]
fn a_file_that_serves_twice_is_found() {
    let mut linked = description();
    linked["numTraining"] = json!(2);
    linked["dataset"] = json!({
        "x": {"images": ["imagesTr/a_0000.nii.gz", "imagesTr/a_0000.nii.gz"], "label": "labelsTr/a.nii.gz"},
        "y": {"images": ["imagesTr/b_0001.nii.gz", "imagesTr/b_0000.nii.gz"], "label": "labelsTr/a.nii.gz"}
    });
    insta::assert_snapshot!(problems(&linked, |_| {}), @r#"
    Warning "-" : 2 cases are too few for five folds; train on all of them with `-f all`
    Error "-" imagesTr/a_0000.nii.gz: is used 2 times: by x, x
    Error "-" labelsTr/a.nii.gz: is used 2 times: by x, y
    Warning "y" labelsTr/a.nii.gz: the label map is that of case `x`, but the image is another
    "#);
}

/// An image whose header is changed: `patch` gets the bytes of a NIfTI-1 file.
fn patched(folder: &Path, name: &str, patch: impl Fn(&mut Vec<u8>)) {
    let path = folder.join(name);
    let plain = folder.join("plain.nii");
    let volume = glioseg_formats::nifti::read_volume(&path).expect("an image");
    write_volume(&plain, &volume).expect("written");
    let mut bytes = std::fs::read(&plain).expect("readable");
    patch(&mut bytes);
    std::fs::write(&path, bytes).expect("written");
    std::fs::remove_file(plain).expect("there");
}

#[test]
fn a_case_that_is_unlike_the_others_is_found() {
    let text = problems(&description(), |folder| {
        for file in ["imagesTr/a_0000", "imagesTr/a_0001", "labelsTr/a"] {
            // Micrometres.
            patched(folder, &format!("{file}.nii.gz"), |bytes| bytes[123] = 3);
        }
        let turned = [[-1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        let turned = Geometry::from_affine(SHAPE, Affine::from_rows(turned)).expect("a regular affine");
        image(folder, "b_0000.nii.gz", &turned, |i| i as f32 + 7.5);
        image(folder, "b_0001.nii.gz", &turned, |i| i as f32 + 8.5);
        labels(folder, "b.nii.gz", &turned, |i| (i % 7 % 3) as u16);
        for file in ["imagesTr/c_0000", "imagesTr/c_0001", "labelsTr/c"] {
            patched(folder, &format!("{file}.nii.gz"), |bytes| bytes[84..88].fill(0));
        }
        std::fs::copy(folder.join("imagesTr/d_0001.nii.gz"), folder.join("imagesTr/e_0001.nii.gz"))
            .expect("copied");
    });
    insta::assert_snapshot!(text, @r#"
    Warning "-" : images are stored in 2 orientations: RAS in 4 cases (a, c, d, e), LAS in 1 case (b)
    Error "a" imagesTr/a_0000.nii.gz: voxels measure 0.001 x 0.001 x 0.001 mm (z, y, x), those of the middle case 1 x 1 x 1 mm
    Warning "c" imagesTr/c_0000.nii.gz: its header has the spacing (pixdim) 0 along y, which counts as 1, as in nnU-Net
    Warning "c" imagesTr/c_0001.nii.gz: its header has the spacing (pixdim) 0 along y, which counts as 1, as in nnU-Net
    Warning "c" labelsTr/c.nii.gz: its header has the spacing (pixdim) 0 along y, which counts as 1, as in nnU-Net
    Error "e" imagesTr/e_0001.nii.gz: channel 1 of the image is that of case `d`, but the label map is another
    "#);
}

#[test]
fn an_image_of_two_dimensions_among_others_is_an_error_of_the_headers() {
    let text = problems(&description(), |folder| {
        let flat = grid(1.0, 0.0, [1, 4, 5]);
        for file in ["b_0000.nii.gz", "b_0001.nii.gz"] {
            image(folder, file, &flat, |i| i as f32 + if file.ends_with("0.nii.gz") { 3.5 } else { 4.5 });
            // dim[0] = 2
            patched(folder, &format!("imagesTr/{file}"), |bytes| bytes[40] = 2);
        }
        labels(folder, "b.nii.gz", &flat, |i| (i % 3) as u16);
        let large = grid(1.0, 0.0, [60, 80, 20]);
        image(folder, "c_0000.nii.gz", &large, |i| i as f32 + 0.25);
        image(folder, "c_0001.nii.gz", &large, |i| i as f32 + 0.75);
        labels(folder, "c.nii.gz", &large, |i| (i % 3) as u16);
        let dataset = RawDataset::open(folder).expect("a dataset");
        let errors: Vec<String> = header_errors(&dataset).into_iter().map(|p| p.message).collect();
        assert_eq!(errors.len(), 2, "{errors:?}");
    });
    insta::assert_snapshot!(text, @r#"
    Error "b" labelsTr/b.nii.gz: has spacing (z, y, x; mm) [1.0, 1.0, 1.0], but b_0000.nii.gz has [999.0, 1.0, 1.0]
    Error "b" imagesTr/b_0000.nii.gz: the image has two dimensions, but 4 other cases have three
    Warning "c" imagesTr/c_0000.nii.gz: the image has 60 x 80 x 20 voxels (z, y, x), that of the middle case 3 x 4 x 5
    "#);
}
