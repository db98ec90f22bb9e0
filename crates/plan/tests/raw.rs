//! Which files belong to a dataset, and what is wrong with one that has none.

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::nifti::{write_labels, write_volume};
use glioseg_plan::{Dataset, Fold, PlanError, RawDataset, Splits};
use glioseg_volume::{Geometry, LabelMap, Volume};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// A dataset whose files are empty: only their names matter.
fn made(description: &Value, files: &[&str]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["imagesTr", "labelsTr"] {
        std::fs::create_dir(folder.path().join(name)).expect("a folder");
    }
    std::fs::write(folder.path().join("dataset.json"), description.to_string()).expect("written");
    for file in files {
        std::fs::write(folder.path().join(file), "").expect("written");
    }
    folder
}

fn v2() -> Value {
    json!({"channel_names": {"0": "t1", "1": "t2"}, "labels": {"background": 0, "tumor": 1},
        "numTraining": 2, "file_ending": ".nii.gz"})
}

fn v1() -> Value {
    json!({"name": "BRATS", "tensorImageSize": "4D", "modality": {"0": "FLAIR", "1": "T1w"},
        "labels": {"0": "background", "1": "edema", "2": "core"}, "numTraining": 2, "numTest": 1,
        "training": [{"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
                     {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}],
        "test": ["./imagesTs/c.nii.gz"]})
}

fn relative(folder: &Path, files: &[PathBuf]) -> Vec<String> {
    let name = |f: &PathBuf| f.strip_prefix(folder).expect("inside").display().to_string();
    files.iter().map(name).collect()
}

#[test]
fn cases_and_channels_are_listed_in_order_and_strays_are_named() {
    let folder = made(
        &v2(),
        &[
            "imagesTr/b_0001.nii.gz",
            "imagesTr/b_0000.nii.gz",
            "imagesTr/a-x_0000.nii.gz",
            "imagesTr/a-x_0001.nii.gz",
            "imagesTr/readme.txt",
            "imagesTr/c_01.nii.gz",
            "imagesTr/._a_0000.nii.gz",
            "labelsTr/a-x.nii.gz",
            "labelsTr/d.nii.gz",
        ],
    );
    let dataset = RawDataset::open(folder.path()).expect("a dataset");
    assert_eq!(dataset.case_names(), ["a-x", "b"]);
    assert_eq!(
        relative(folder.path(), &dataset.cases[1].images),
        ["imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz"]
    );
    assert_eq!(dataset.cases[1].labels, folder.path().join("labelsTr/b.nii.gz"));
    assert_eq!(
        relative(folder.path(), &dataset.strays),
        ["imagesTr/c_01.nii.gz", "imagesTr/readme.txt", "labelsTr/d.nii.gz"]
    );
    assert_eq!((dataset.description.image_reader().name(), dataset.description_v2()), ("SimpleITKIO", v2()));
}

#[test]
fn linked_files_may_lie_anywhere() {
    let mut description = v2();
    description["dataset"] = json!({
        "z": {"images": ["x/1.nii.gz", "/data/2.nii.gz"], "label": "y/l.nii.gz"},
        "a": {"images": ["3.nii.gz"], "label": "$GLIOSEG_NO_SUCH_VARIABLE/l.nii.gz"}
    });
    let folder = made(&description, &[]);
    let dataset = RawDataset::open(folder.path()).expect("a dataset");
    assert_eq!(dataset.case_names(), ["z", "a"]);
    assert_eq!(dataset.cases[0].images, [folder.path().join("x/1.nii.gz"), PathBuf::from("/data/2.nii.gz")]);
    assert_eq!(dataset.cases[1].labels, folder.path().join("$GLIOSEG_NO_SUCH_VARIABLE/l.nii.gz"));

    description["dataset"] = json!({"../z": {"images": ["1.nii.gz"], "label": "l.nii.gz"}});
    let folder = made(&description, &[]);
    let error = RawDataset::open(folder.path()).expect_err("files would be written elsewhere");
    assert!(error.to_string().contains("`dataset.../z` is {\"images\":[\"1.nii.gz\"]"), "{error}");
}

#[test]
fn datasets_of_version_1_and_of_the_decathlon_are_taken_and_converted() {
    let files =
        ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b.nii.gz", "imagesTr/x_0000.nii.gz"];
    let folder = made(&v1(), &files);
    let dataset = RawDataset::open(folder.path()).expect("a dataset");
    assert_eq!(dataset.case_names(), ["a", "b"]);
    assert_eq!(dataset.cases[0].labels, folder.path().join("labelsTr/a.nii.gz"));
    assert_eq!(relative(folder.path(), &dataset.cases[0].images), &files[..2]);
    assert_eq!(relative(folder.path(), &dataset.cases[1].images), &files[2..3]);
    assert_eq!(relative(folder.path(), &dataset.strays), &files[3..]);
    let converted = dataset.description_v2();
    assert_eq!(
        converted,
        json!({"name": "BRATS", "channel_names": {"0": "FLAIR", "1": "T1w"},
            "labels": {"background": 0, "edema": 1, "core": 2}, "numTraining": 2, "file_ending": ".nii.gz"})
    );
    let again = Dataset::from_value(converted, Path::new("dataset.json")).expect("valid");
    assert_eq!(again.labels, dataset.description.labels);
}

#[test]
fn a_dataset_without_cases_says_what_was_found_instead() {
    let open = |description: &Value, files: &[&str]| {
        let folder = made(description, files);
        let error = RawDataset::open(folder.path()).expect_err("nothing to train on");
        let text = error.to_string().replace(&folder.path().display().to_string(), "DIR");
        (text, error.hint().unwrap_or_default())
    };
    let (text, hint) = open(&v2(), &[]);
    insta::assert_snapshot!(text, @"DIR holds no training case: there are no files in DIR/imagesTr");
    assert!(hint.contains("imagesTr/CASE_0000.nii.gz"), "{hint}");
    let (text, _) = open(&v2(), &["imagesTr/a.nii.gz", "imagesTr/b.nii.gz"]);
    insta::assert_snapshot!(text, @"DIR holds no training case: no file in DIR/imagesTr is named like CASE_0000.nii.gz; there are 2 others, such as a.nii.gz");
    let mut png = v2();
    png["file_ending"] = json!(".png");
    let (text, hint) = open(&png, &[]);
    insta::assert_snapshot!(text, @r#"DIR/dataset.json: `file_ending` is ".png", but images are read as .nii.gz or .nii only"#);
    assert!(hint.contains("convert"), "{hint}");
    let error = RawDataset::open(Path::new("no/such/dataset")).expect_err("not there");
    assert!(error.to_string().starts_with("cannot read no/such/dataset/dataset.json: "), "{error}");
    assert!(error.hint().expect("a hint").contains("imagesTr"), "{error}");
}

#[test]
fn folds_of_a_user_are_read_and_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join(Splits::FILE);
    let attempt = |value: Value| {
        std::fs::write(&path, value.to_string()).expect("written");
        Splits::read(&path).map_err(|e| e.to_string().replace(&folder.path().display().to_string(), "DIR"))
    };
    let cases = ["a", "b", "c"];
    let splits =
        attempt(json!([{"train": ["a", "b"], "val": ["c"]}, {"val": [], "train": ["c"]}])).expect("valid");
    assert_eq!(splits.folds[1], Fold { train: vec!["c".into()], val: vec![] });
    assert_eq!(splits.check(0, &cases, &path).expect("known cases"), [""; 0]);
    let warnings = splits.check(1, &cases, &path).expect("known cases");
    assert_eq!(warnings, ["fold 1 uses neither for training nor validation: a, b"]);
    let both = attempt(json!([{"train": ["a", "b", "c"], "val": ["c"]}])).expect("valid");
    assert_eq!(
        both.check(0, &cases, &path).expect("known cases"),
        ["fold 0 validates with cases that it trains on, so its score will be too high: c"]
    );
    assert!(attempt(json!({"train": ["a"], "val": ["c"]})).expect_err("no list").contains("a list"));
}

#[test]
fn a_bad_fold_does_not_stop_the_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (path, copy) = (folder.path().join(Splits::FILE), folder.path().join("copy.json"));
    let folds = json!([
        {"train": ["a", "b"], "val": ["c"]},
        {"train": ["a", "x", "y"], "val": ["c"]},
        {"train": [], "val": ["c"]},
        {"train": ["a", "a"], "val": ["c"]},
        {"train": ["a"]},
        {"train": ["a", 2], "val": ["c"]},
        7,
        {"train": ["b", "c"], "val": ["a"]},
    ]);
    std::fs::write(&path, folds.to_string()).expect("written");
    Splits::take_over(&path, &copy).expect("copied");
    Splits::take_over(&path, &copy).expect("the same");
    let splits = Splits::read(&copy).expect("a list");
    let check = |fold| splits.check(fold, &["a", "b", "c"], Path::new("splits_final.json"));
    for fold in [0, 7, 8] {
        assert_eq!(check(fold).expect("usable"), [""; 0], "{fold}");
    }
    assert_eq!(splits.fold(7, &["a", "b", "c"]).train, ["b", "c"]);
    let wrong: Vec<String> = (1..7).map(|fold| check(fold).expect_err("bad").to_string()).collect();
    insta::assert_snapshot!(wrong.join("\n"), @r#"
    splits_final.json: fold 1 names 2 cases that are not in the dataset: x, y
    splits_final.json: fold 2 trains on no case
    splits_final.json: fold 3 lists `a` twice in "train"
    splits_final.json: fold 4 is wrong: `[4].val` is missing; found train
    splits_final.json: fold 5 is wrong: `[5].train[1]` is 2, but must be a string
    splits_final.json: fold 6 is wrong: `[6]` is 7, but must be an object
    "#);
    assert!(check(1).expect_err("bad").hint().expect("a hint").contains("five folds"));
}

#[test]
fn the_reader_is_that_of_the_dataset_and_an_unknown_one_is_refused() {
    let reader = |name: Value, ending: &str| {
        let mut description = v2();
        description["overwrite_image_reader_writer"] = name;
        description["file_ending"] = json!(ending);
        Dataset::from_value(description, Path::new("dataset.json")).map(|d| d.image_reader().name())
    };
    assert_eq!(reader(json!("NibabelIOWithReorient"), ".nii.gz").expect("known"), "NibabelIOWithReorient");
    assert_eq!(reader(Value::Null, ".nii.gz").expect("none"), "SimpleITKIO");
    assert_eq!(reader(json!("None"), ".nii.gz").expect("none"), "SimpleITKIO");
    assert_eq!(reader(Value::Null, ".nii").expect("none"), "NibabelIO");
    let error = reader(json!("MyReader"), ".nii.gz").expect_err("nobody knows what it does");
    let message = error.to_string();
    for part in ["dataset.json", "overwrite_image_reader_writer", "MyReader"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn files_of_a_case_that_are_stored_differently_meet_with_a_turning_reader() {
    use glioseg_formats::nifti::{write_labels, write_volume};
    use glioseg_plan::{ImageReader, RawCase};
    use glioseg_volume::{Affine, Geometry, LabelMap, Turn, Volume};

    let folder = tempfile::tempdir().expect("a folder");
    let shape = [3, 4, 5];
    let grid = Geometry::from_affine(
        shape,
        Affine::from_rows([[1.0, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 3.0, 0.0]]),
    )
    .expect("regular");
    let values: Vec<u16> = (0..60).map(|i| i % 2).collect();
    let floats: Vec<f32> = (0..60).map(|i| i as f32).collect();
    let turn = Turn { axes: [2, 1, 0], flip: [false, true, true] };
    let turned =
        Geometry::from_affine(turn.along(shape), grid.affine().turned(&turn, shape)).expect("regular");
    let path = |name: &str| folder.path().join(name);
    let write = |name: &str, data: Vec<f32>, grid: &Geometry| {
        write_volume(&path(name), &Volume::new(1, data, grid.clone()).expect("whole")).expect("written");
        path(name)
    };
    let images = vec![
        write("c_0000.nii.gz", floats.clone(), &grid),
        write("c_0001.nii.gz", turn.apply(floats.clone(), shape), &turned),
    ];
    let map = LabelMap::new(turn.apply(values.clone(), shape), turned).expect("whole");
    write_labels(&path("c.nii.gz"), &map).expect("written");
    let case = RawCase { name: "c".into(), images, labels: path("c.nii.gz") };
    let description = Dataset::from_value(v2(), Path::new("dataset.json")).expect("valid");
    for reader in [ImageReader::NibabelWithReorient, ImageReader::SimpleItkWithReorient] {
        let read = case.read(&description, reader).expect("readable");
        assert_eq!(read.image.data, [floats.clone(), floats.clone()].concat());
        assert_eq!(read.labels.data, values);
        assert_eq!(read.oddities, Vec::<String>::new());
    }
    let error = case.read(&description, ImageReader::SimpleItk).expect_err("another grid");
    assert!(error.to_string().contains("c_0001.nii.gz"), "{error}");
}

#[test]
fn undeclared_labels_are_refused_with_case_file_label_and_voxels() {
    let mut description = v2();
    description["channel_names"] = json!({"0": "t1"});
    description["labels"] = json!({"background": 0, "whole": [1, 2], "core": 2, "ignore": 3});
    description["regions_class_order"] = json!([1, 2]);
    let folder = made(&description, &["imagesTr/a_0000.nii.gz"]);
    let geometry = Geometry::isotropic([2, 3, 4]);
    let image = Volume::new(1, (0u8..24).map(f32::from).collect(), geometry.clone()).expect("an image");
    write_volume(&folder.path().join("imagesTr/a_0000.nii.gz"), &image).expect("written");
    let read = |map: Vec<u16>| {
        let map = LabelMap::new(map, geometry.clone()).expect("labels");
        write_labels(&folder.path().join("labelsTr/a.nii.gz"), &map).expect("written");
        let dataset = RawDataset::open(folder.path()).expect("a dataset");
        dataset.cases[0].read(&dataset.description, dataset.description.image_reader())
    };
    let mut map: Vec<u16> = (0..24).map(|i| i % 4).collect();
    assert!(read(map.clone()).is_ok(), "the ignore label is declared");
    map[..3].fill(4);
    map[23] = 9;
    let error = read(map).expect_err("labels 4 and 9");
    insta::assert_snapshot!(error, @"case `a`: the label map has labels that dataset.json does not declare: 4 (3 voxels), 9 (1 voxel); it declares 0, 1, 2, 3");
    assert!(matches!(&error, PlanError::UndeclaredLabels { labels, .. } if labels == &[(4, 3), (9, 1)]));
    assert!(error.path().is_some_and(|path| path.ends_with("labelsTr/a.nii.gz")), "{error:?}");
    assert!(error.hint().expect("a hint").contains("declare"), "{error}");
}

#[test]
fn the_files_that_version_1_lists_are_those_that_are_used() {
    let mut description = v1();
    description["training"] = json!([
        {"image": "./imagesTr/a_0000.nii.gz", "label": "./labelsTr2/a.nii.gz"},
        {"image": "/data/b.nii.gz", "label": "labelsTr\\b-seg.nii.gz"},
    ]);
    let files = ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "labelsTr/a.nii.gz"];
    let folder = made(&description, &files);
    let error = RawDataset::open(folder.path()).expect_err("there is no folder /data");
    assert!(error.to_string().starts_with("cannot read /data: "), "{error}");
    description["training"][1]["image"] = json!(folder.path().join("b.nii.gz"));
    std::fs::write(folder.path().join("dataset.json"), description.to_string()).expect("written");
    let dataset = RawDataset::open(folder.path()).expect("a dataset");
    assert_eq!(dataset.case_names(), ["a", "b"]);
    assert_eq!(relative(folder.path(), &dataset.cases[0].images), &files[..2]);
    assert_eq!(dataset.cases[0].labels, folder.path().join("labelsTr2/a.nii.gz"));
    assert_eq!(dataset.cases[1].images, [folder.path().join("b.nii.gz")]);
    assert_eq!(dataset.cases[1].labels, folder.path().join("labelsTr/b-seg.nii.gz"));
    assert_eq!(relative(folder.path(), &dataset.strays), &files[2..]);

    description["training"][1] = json!({"image": "other/a.nii.gz", "label": "labelsTr/a.nii.gz"});
    let folder = made(&description, &files);
    std::fs::create_dir(folder.path().join("other")).expect("a folder");
    let error = RawDataset::open(folder.path()).expect_err("two cases of one name");
    assert!(error.to_string().contains("another case than `a`"), "{error}");
}

#[cfg(unix)]
#[test]
fn files_that_cannot_be_opened_or_named_belong_to_cases() {
    use std::os::unix::ffi::OsStrExt as _;
    let folder = made(&v2(), &["imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz"]);
    let path = |name: &[u8]| folder.path().join(std::ffi::OsStr::from_bytes(name));
    std::os::unix::fs::symlink("nowhere", path(b"imagesTr/b_0000.nii.gz")).expect("a link");
    std::fs::create_dir(path(b"imagesTr/c_0000.nii.gz")).expect("a folder");
    std::fs::create_dir(path(b"imagesTr/more")).expect("a folder");
    for name in [&b"imagesTr/d\xff_0000.nii.gz"[..], b"labelsTr/d\xff.nii.gz"] {
        std::fs::write(path(name), "").expect("written");
    }
    let dataset = RawDataset::open(folder.path()).expect("a dataset");
    assert_eq!(dataset.case_names(), ["a", "b", "c", "d\u{fffd}"]);
    assert_eq!(dataset.cases[3].images, [path(b"imagesTr/d\xff_0000.nii.gz")]);
    assert_eq!(dataset.cases[3].labels, path(b"labelsTr/d\xff.nii.gz"));
    assert!(dataset.strays.is_empty(), "{:?}", dataset.strays);
    for (case, file) in [(1, "b_0000.nii.gz"), (2, "c_0000.nii.gz")] {
        let error = dataset.cases[case]
            .read(&dataset.description, dataset.description.image_reader())
            .expect_err("no image");
        assert!(error.to_string().contains(file), "{error}");
    }
}
