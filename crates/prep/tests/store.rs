//! Boxes are read as they were written, also beyond the image; damaged files are refused with a reason.

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::nifti::{write_labels, write_volume};
use glioseg_plan::{Fingerprint, PlanOptions, Plans, RawDataset, plan};
use glioseg_prep::augment::{Cases as _, ClassSummary};
use glioseg_prep::store::{
    PatchBox, PrepareOptions, StoredCase, StoredCases, case_path, prepare_dataset, stored_cases,
};
use glioseg_volume::{Geometry, LabelMap, Volume};
use proptest::prelude::*;
use serde_json::json;
use std::path::Path;
use std::sync::LazyLock;

const SHAPE: [usize; 3] = [9, 10, 11];

/// Two prepared cases of two channels in a folder that lives as long as the test.
static STORE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let (raw, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let geometry = Geometry::isotropic(SHAPE);
    for name in ["imagesTr", "labelsTr"] {
        std::fs::create_dir(raw.path().join(name)).expect("a folder");
    }
    let description = json!({"channel_names": {"0": "nonorm", "1": "nonorm"},
        "labels": {"background": 0, "tumor": 1}, "numTraining": 2, "file_ending": ".nii"});
    std::fs::write(raw.path().join("dataset.json"), description.to_string()).expect("written");
    for case in ["a", "b"] {
        for channel in 0..2u16 {
            let data = (0..990u16).map(|i| f32::from(i + 1000 * channel) + 0.5).collect();
            let image = Volume::new(1, data, geometry.clone()).expect("an image");
            write_volume(&raw.path().join(format!("imagesTr/{case}_{channel:04}.nii")), &image)
                .expect("written");
        }
        let labels = (0..990).map(|i| u16::from(i % 5 == 0)).collect();
        let labels = LabelMap::new(labels, geometry.clone()).expect("labels");
        write_labels(&raw.path().join(format!("labelsTr/{case}.nii")), &labels).expect("written");
    }
    let dataset = RawDataset::open(raw.path()).expect("a dataset");
    let fingerprint = Fingerprint::extract(&dataset, &|_, _| {}).expect("a fingerprint");
    let planned = plan(&dataset, &fingerprint, &PlanOptions::default()).expect("plans");
    assert_eq!(planned.json["image_reader_writer"], "NibabelIO");
    let plans = Plans::from_value(planned.json, Path::new("plans.json")).expect("plans");
    let configuration = plans.configuration("3d_fullres").expect("a configuration");
    prepare_dataset(&dataset, &plans, &configuration, out.path(), PrepareOptions::default(), &|_| {})
        .expect("prepared");
    out
});

#[test]
fn a_folder_of_cases_is_listed_in_order() {
    let cases = stored_cases(STORE.path()).expect("readable");
    let names: Vec<&str> = cases.iter().map(StoredCase::name).collect();
    assert_eq!(names, ["a", "b"]);
    let case = &cases[0];
    assert_eq!((case.channels(), case.shape(), case.num_classes()), (2, SHAPE, 1));
    assert_eq!((case.class_labels(0), case.class_count(0)), (&[1][..], 198));
    assert_eq!(case.class_voxels(0).expect("readable")[7], case.class_voxel(0, 7).expect("readable"));
    let properties = case.properties();
    assert_eq!((properties.shape_before_cropping, properties.bbox), (SHAPE, SHAPE.map(|s| [0, s])));
    assert_eq!(case.plan_hash().len(), 64);
}

proptest! {
    #[test]
    fn a_box_holds_the_image_and_padding_around_it(
        start in prop::array::uniform3(-14isize..14), size in prop::array::uniform3(1usize..15)
    ) {
        let case = StoredCase::open(&case_path(STORE.path(), "a")).expect("readable");
        let voxels: usize = size.iter().product();
        let (mut data, mut seg) = (vec![f32::NAN; 2 * voxels], vec![99; voxels]);
        case.read_box(PatchBox { start, size }, &mut data, &mut seg).expect("readable");
        let mut at = 0;
        for z in 0..size[0] {
            for y in 0..size[1] {
                for x in 0..size[2] {
                    let image = [z, y, x].map(isize::try_from).map(|i| i.expect("small"));
                    let image = [0, 1, 2].map(|a| usize::try_from(start[a] + image[a]).unwrap_or(usize::MAX));
                    let inside = (0..3).all(|a| image[a] < SHAPE[a]);
                    let i = if inside { (image[0] * 10 + image[1]) * 11 + image[2] } else { 0 };
                    let expected = if inside { [i as f32 + 0.5, i as f32 + 1000.5] } else { [0.0; 2] };
                    prop_assert_eq!([data[at], data[voxels + at]].map(f32::to_bits), expected.map(f32::to_bits));
                    prop_assert_eq!(seg[at], if inside { i16::from(i % 5 == 0) } else { -1 });
                    at += 1;
                }
            }
        }
        let mut alone = vec![99; voxels];
        case.read_seg(PatchBox { start, size }, &mut alone).expect("readable");
        prop_assert_eq!(alone, seg);
    }

    #[test]
    fn damaged_files_are_refused_or_read_but_never_panic(at in 0usize..1200, byte: u8, cut in 0usize..9000) {
        let mut bytes = std::fs::read(case_path(STORE.path(), "a")).expect("a case");
        bytes[at] = byte;
        bytes.truncate(bytes.len() - cut.min(bytes.len()) * usize::from(cut % 3 == 0));
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.case");
        std::fs::write(&path, &bytes).expect("written");
        if let Ok(case) = StoredCase::open(&path) && case.shape().iter().product::<usize>() < 10_000 {
            let _ = case.read_all();
            for class in 0..case.num_classes() {
                let _ = case.class_voxels(class);
            }
        }
    }
}

#[test]
fn damage_is_named_with_a_remedy() {
    let good = std::fs::read(case_path(STORE.path(), "b")).expect("a case");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("x.case");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).expect("written");
        let error = StoredCase::open(&path).expect_err("damaged");
        assert!(error.hint().expect("a hint").contains("glioseg prep"), "{error}");
        error.to_string().replace(&folder.path().display().to_string(), "DIR")
    };
    insta::assert_snapshot!(refused(b"GLIO"), @"DIR/x.case is not a usable prepared case: it has only 4 bytes");
    insta::assert_snapshot!(refused(&[7; 64]), @"DIR/x.case is not a usable prepared case: it does not begin with GLIOCASE");
    let mut newer = good.clone();
    newer[8] = 9;
    insta::assert_snapshot!(refused(&newer), @"DIR/x.case is not a usable prepared case: it is of version 9 of the format, this program reads 1");
    let mut long = good.clone();
    long[14] = 8;
    assert!(refused(&long).contains("its header is said to have"));
    let text = String::from_utf8_lossy(&good);
    let at = text.find("[9,10,11]").expect("the shape in the header");
    let mut other = good.clone();
    other[at + 1] = b'8';
    assert!(refused(&other).contains("its header puts the labels at "));
    let end = format!("it has {} bytes, its header promises {}", good.len() - 1, good.len());
    assert!(refused(&good[..good.len() - 1]).ends_with(&end));

    // A file that is replaced while it is used.
    std::fs::write(&path, &good).expect("written");
    let case = StoredCase::open(&path).expect("good");
    std::fs::write(&path, &good[..100]).expect("written");
    let error = case.read_all().expect_err("cut short");
    assert!(error.to_string().contains("it has 100 bytes"), "{error}");
    let error = StoredCase::open(&folder.path().join("none.case")).expect_err("not there");
    assert!(error.to_string().contains("none.case"), "{error}");
}

#[test]
fn the_sampler_sees_what_is_stored() {
    let all = stored_cases(STORE.path()).expect("readable");
    let cases = StoredCases::named(&all, &["b", "a"]).expect("known names");
    assert_eq!(StoredCases::named(&all, &["a", "c"]).expect_err("unknown"), "c");
    assert_eq!((cases.count(), cases.name(0), cases.shape(1).expect("there")), (2, "b", SHAPE));
    let classes = cases.classes(0).expect("there");
    assert_eq!(classes, [ClassSummary { annotated: false, voxels: 198 }]);
    let voxel = cases.class_voxel(0, 0, 5).expect("there");
    let patch = cases.read_box(0, voxel.map(usize::cast_signed), [1, 1, 1]).expect("there");
    assert_eq!((patch.seg, patch.data.len()), (vec![1], 2));
}
