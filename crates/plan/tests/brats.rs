//! BraTS folders of every year become datasets; what is mixed or strange is refused by name.

use std::fs;
use std::path::Path;

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::nifti;
use glioseg_plan::brats::{Cohort, Linking, survey, write_dataset};
use glioseg_plan::{Convention, RawDataset, ReadCase, TumourParts};
use glioseg_volume::{Geometry, LabelMap, Volume};

const OLD: [&str; 4] = ["_t1", "_t1ce", "_t2", "_flair"];
const NEW: [&str; 4] = ["-t1n", "-t1c", "-t2w", "-t2f"];

/// A tumour of nested cubes, in the values of a coding; `cavity` is one more voxel at the edge.
fn tumour(values: [u16; 3], cavity: Option<u16>) -> Vec<u16> {
    let [necrosis, oedema, enhancing] = values;
    let mut data = vec![0; 1000];
    for (i, value) in data.iter_mut().enumerate() {
        let depth = [i / 100, i / 10 % 10, i % 10].iter().map(|&v| v.min(9 - v)).min().unwrap_or(0);
        *value = [0, oedema, oedema, enhancing, necrosis][depth];
    }
    data[0] = cavity.unwrap_or(0);
    data
}

fn case(root: &Path, folder: &str, suffixes: [&str; 4], ending: &str, labels: Option<(&str, Vec<u16>)>) {
    let name = folder.rsplit('/').next().expect("a name");
    let folder = root.join(folder);
    fs::create_dir_all(&folder).expect("a folder");
    let geometry = Geometry::isotropic([10; 3]);
    for (c, suffix) in suffixes.iter().enumerate() {
        let image = Volume::new(1, vec![c as f32 + 1.0; 1000], geometry.clone()).expect("an image");
        nifti::write_volume(&folder.join(format!("{name}{suffix}{ending}")), &image).expect("written");
    }
    if let Some((file, data)) = labels {
        let map = LabelMap::new(data, geometry).expect("labels");
        nifti::write_labels(&folder.join(file.replace('*', name) + ending), &map).expect("written");
    }
}

fn looked(root: &Path) -> Cohort {
    survey(root, None).unwrap_or_else(|e| panic!("{e}"))
}

/// The error's message with the root left out, and its hint.
fn refused(root: &Path, coding: Option<Convention>) -> (String, String) {
    let error = survey(root, coding).expect_err("refused");
    (error.to_string().replace(&format!("{}/", root.display()), ""), error.hint().unwrap_or_default())
}

#[test]
fn editions_until_2022_become_nnunets_own_coding() {
    let dir = tempfile::tempdir().expect("a folder");
    let (src, out) = (dir.path().join("src"), dir.path().join("Dataset001_BraTS"));
    let coded = |cavity| Some(("*_seg", tumour([1, 2, 4], cavity)));
    case(&src, "HGG/Brats18_2013_0_1", OLD, ".nii.gz", coded(None));
    case(&src, "LGG/Brats18_TCIA09_1_1", OLD, ".nii.gz", coded(None));
    case(&src, "LGG/Brats18_TCIA09_2_1", OLD, ".nii.gz", None);
    fs::remove_file(src.join("HGG/Brats18_2013_0_1/Brats18_2013_0_1_t2.nii.gz")).expect("removed");
    let cohort = looked(&src);
    assert_eq!(cohort.edition.to_string(), "BraTS 2018");
    assert_eq!((cohort.coding, cohort.coding_seen, cohort.labelled()), (Convention::Brats124, true, 1));
    assert_eq!(cohort.incomplete, [("Brats18_2013_0_1".to_owned(), "t2".to_owned())]);
    let written = write_dataset(&cohort, &out, Linking::Auto, &|_| {}).expect("written");
    assert_eq!((written.training, written.test, written.recoded), (1, 1, 1));
    assert_eq!(written.linking, Linking::Link, "a temporary folder has hard links");
    let dataset = RawDataset::open(&out).expect("a dataset");
    assert_eq!(dataset.description.channel_names, ["T1", "T1ce", "T2", "Flair"]);
    assert_eq!(TumourParts::of(&dataset.description).expect("regions"), Convention::NnUnet.parts());
    let ReadCase { image: volume, labels, .. } =
        dataset.cases[0].read(&dataset.description, dataset.description.image_reader()).expect("readable");
    assert_eq!(labels.data, tumour([2, 1, 3], None));
    assert_eq!([0, 1, 2, 3].map(|c| volume.channel(c)[0] as u8), [1, 2, 3, 4]);
    assert!(out.join("imagesTs/Brats18_TCIA09_2_1_0003.nii.gz").is_file());
    let error = write_dataset(&cohort, &out, Linking::Copy, &|_| {}).expect_err("it is there");
    assert!(error.to_string().contains("dataset.json already exists"), "{error}");
}

#[test]
fn the_odd_label_map_of_2020_is_found_and_files_can_be_references() {
    let dir = tempfile::tempdir().expect("a folder");
    let (src, out) = (dir.path().join("src"), dir.path().join("out"));
    case(&src, "BraTS20_Training_001", OLD, ".nii", Some(("*_seg", tumour([1, 2, 4], None))));
    case(&src, "BraTS20_Training_355", OLD, ".nii", Some(("W39_1998.09.19_Segm", tumour([1, 2, 4], None))));
    case(&src, "BraTS20_Training_400", OLD, ".nii", None);
    let cohort = looked(&src);
    assert_eq!((cohort.labelled(), cohort.ending.as_str(), cohort.others.len()), (2, ".nii", 0));
    let written = write_dataset(&cohort, &out, Linking::Reference, &|_| {}).expect("written");
    assert_eq!((written.training, written.test), (2, 1));
    assert!(
        fs::read_dir(out.join("imagesTr")).expect("a folder").next().is_none(),
        "images stay where they are"
    );
    let dataset = RawDataset::open(&out).expect("a dataset");
    for case in &dataset.cases {
        let read = case.read(&dataset.description, dataset.description.image_reader());
        let labels = read.expect("readable").labels;
        assert_eq!(labels.data, tumour([2, 1, 3], None), "{}", case.name);
    }
}

#[test]
fn editions_since_2023_stay_as_they_are() {
    let dir = tempfile::tempdir().expect("a folder");
    for (name, cavity, coding, regions) in
        [("2023", None, Convention::Brats123, 3), ("2024", Some(4), Convention::Brats1234, 4)]
    {
        let (src, out) = (dir.path().join(name), dir.path().join(format!("{name}-out")));
        case(&src, "BraTS-GLI-00000-000", NEW, ".nii.gz", Some(("*-seg", tumour([1, 2, 3], None))));
        case(&src, "BraTS-GLI-00001-100", NEW, ".nii.gz", Some(("*-seg", tumour([1, 2, 3], cavity))));
        let cohort = looked(&src);
        assert_eq!(cohort.coding, coding);
        let written = write_dataset(&cohort, &out, Linking::Auto, &|_| {}).expect("written");
        assert_eq!((written.training, written.recoded), (2, 0));
        let dataset = RawDataset::open(&out).expect("a dataset");
        let labels = &dataset.description.labels;
        assert_eq!(labels.regions().len(), regions);
        assert_eq!(labels.regions().iter().map(|r| r.paint).collect::<Vec<_>>(), [2, 1, 3, 4][..regions]);
        assert_eq!(TumourParts::of(&dataset.description).expect("regions"), coding.parts());
        assert_eq!(dataset.description.channel_names, ["t1n", "t1c", "t2w", "t2f"]);
        // References to label maps that need no change.
        let out = dir.path().join(format!("{name}-references"));
        write_dataset(&cohort, &out, Linking::Reference, &|_| {}).expect("written");
        let dataset = RawDataset::open(&out).expect("a dataset");
        let read = dataset.cases[1].read(&dataset.description, dataset.description.image_reader());
        let map = read.expect("readable").labels;
        assert_eq!(map.data, tumour([1, 2, 3], cavity));
        assert!(dataset.cases[1].labels.starts_with(&src));
    }
}

#[test]
fn mixtures_are_refused_with_a_file_of_either_side() {
    let coded = |values| Some(("*_seg", tumour(values, None)));
    let dir = tempfile::tempdir().expect("a folder");
    case(dir.path(), "BraTS2021_00000", OLD, ".nii.gz", coded([1, 2, 4]));
    case(dir.path(), "BraTS2021_00002", OLD, ".nii.gz", coded([1, 2, 3]));
    let (error, hint) = refused(dir.path(), None);
    assert_eq!(
        error,
        "the cohort mixes label codings: label 3 in BraTS2021_00002/BraTS2021_00002_seg.nii.gz, but label 4 in \
         BraTS2021_00000/BraTS2021_00000_seg.nii.gz"
    );
    assert!(hint.contains("each alone"), "{hint}");
    case(dir.path(), "BraTS20_Training_001", OLD, ".nii.gz", None);
    let (error, _) = refused(dir.path(), None);
    assert!(
        error.starts_with("the cohort mixes editions: BraTS 2021 in BraTS2021_00000/")
            || error.starts_with("the cohort mixes editions: BraTS 2020 in BraTS20_Training_001/"),
        "{error}"
    );
    let dir = tempfile::tempdir().expect("a folder");
    case(dir.path(), "BraTS2021_00000", OLD, ".nii.gz", None);
    case(dir.path(), "BraTS2021_00001", OLD, ".nii", None);
    assert!(refused(dir.path(), None).0.starts_with("the cohort mixes file endings: .nii.gz in "));
    case(dir.path(), "more/BraTS2021_00000", OLD, ".nii.gz", None);
    fs::remove_dir_all(dir.path().join("BraTS2021_00001")).expect("removed");
    let (error, _) = refused(dir.path(), None);
    assert!(error.starts_with("case `BraTS2021_00000`: is there twice: "), "{error}");
}

#[test]
fn strange_and_unclear_labels_are_refused_by_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path();
    let labels = |values, cavity| Some(("*_seg", tumour(values, cavity)));
    case(root, "BraTS2021_00000", OLD, ".nii.gz", labels([1, 2, 4], Some(7)));
    case(root, "BraTS2021_00001", OLD, ".nii.gz", labels([1, 2, 4], Some(9)));
    assert_eq!(
        refused(root, None).0,
        "BraTS2021_00000/BraTS2021_00000_seg.nii.gz has the label 7 (and 1 more files have such labels), which no coding of \
         BraTS has"
    );
    fs::remove_dir_all(root.join("BraTS2021_00001")).expect("removed");
    // Old names, but oedema and necrotic core exchanged: not what 1-2-4 means.
    case(root, "BraTS2021_00000", OLD, ".nii.gz", labels([2, 1, 4], None));
    let (error, hint) = refused(root, None);
    assert!(
        error.contains("labels look like nnU-Net's BraTS coding")
            && error.contains("label 1 has by far the longer border"),
        "{error}"
    );
    assert!(hint.contains("--coding"), "{hint}");
    // Old names with nnU-Net's coding are understood, and so is a coding that is told.
    case(root, "BraTS2021_00000", OLD, ".nii.gz", labels([2, 1, 3], None));
    assert_eq!(looked(root).coding, Convention::NnUnet);
    assert_eq!(survey(root, Some(Convention::Brats123)).expect("told").coding, Convention::Brats123);
    let (error, _) = refused(root, Some(Convention::Brats124));
    assert!(error.contains("it has the labels 0, 1, 2, 3, which BraTS until 2022"), "{error}");
    let empty = tempfile::tempdir().expect("a folder");
    fs::write(empty.path().join("scan.nii.gz"), b"").expect("written");
    let (error, _) = refused(empty.path(), None);
    assert!(
        error.contains("no file has a BraTS name; there are 1 other images, such as scan.nii.gz"),
        "{error}"
    );
    case(empty.path(), "BraTS-PED-00000-000", NEW, ".nii.gz", None);
    assert!(refused(empty.path(), None).0.contains("other labels than the adult editions"));
}
