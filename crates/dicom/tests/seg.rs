//! Segmentations as another reader sees them: every voxel at its place, whatever the order of the slices' axes.

mod made;

use std::collections::BTreeSet;

use dicom_dictionary_std::tags;
use dicom_object::InMemDicomObject;
use glioseg_dicom::write::seg::{Segment, segmentation};
use glioseg_dicom::write::{Code, SegOptions, Stamp};
use glioseg_dicom::{DicomError, Stack, Studies};
use glioseg_volume::{LabelMap, Turn};
use made::Slice;

fn segment(value: u16, label: &str) -> Segment {
    Segment {
        value,
        label: label.into(),
        category: Code::new("49755003", "SCT", "Morphologically Abnormal Structure"),
        kind: Code::new("52988006", "SCT", "Lesion"),
        rgb: [255, 0, 0],
    }
}

fn only_stack(dir: &std::path::Path) -> Stack {
    let mut found = Studies::read_all(dir).expect("a folder");
    found.studies[0].series.remove(0).stacks.remove(0)
}

fn items(object: &InMemDicomObject, tag: dicom_core::Tag) -> Vec<InMemDicomObject> {
    object.get(tag).and_then(|e| e.items()).expect("a sequence").to_vec()
}

fn numbers(object: &InMemDicomObject, tag: dicom_core::Tag) -> Vec<f64> {
    object.get(tag).expect("numbers").to_multi_float64().expect("numbers")
}

/// Segment number and place in tenths of a mm (LPS) of every set bit, read by the standard's rules.
fn voxels(file: &[u8]) -> BTreeSet<(u16, [i64; 3])> {
    let object = dicom_object::from_reader(file).expect("a DICOM file").into_inner();
    let number = |tag| object.get(tag).expect("a number").to_int::<usize>().expect("a number");
    let (rows, columns) = (number(tags::ROWS), number(tags::COLUMNS));
    let shared = &items(&object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE)[0];
    let orientation =
        numbers(&items(shared, tags::PLANE_ORIENTATION_SEQUENCE)[0], tags::IMAGE_ORIENTATION_PATIENT);
    let spacing = numbers(&items(shared, tags::PIXEL_MEASURES_SEQUENCE)[0], tags::PIXEL_SPACING);
    let bits = object.get(tags::PIXEL_DATA).expect("pixels").to_bytes().expect("bytes").to_vec();
    let mut found = BTreeSet::new();
    for (f, frame) in items(&object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE).iter().enumerate() {
        let position = numbers(&items(frame, tags::PLANE_POSITION_SEQUENCE)[0], tags::IMAGE_POSITION_PATIENT);
        let segment = items(frame, tags::SEGMENT_IDENTIFICATION_SEQUENCE)[0]
            .get(tags::REFERENCED_SEGMENT_NUMBER)
            .expect("a segment")
            .to_int::<u16>()
            .expect("a number");
        for i in 0..rows * columns {
            let bit = f * rows * columns + i;
            if bits[bit / 8] >> (bit % 8) & 1 == 1 {
                let (row, column) = ((i / columns) as f64, (i % columns) as f64);
                let place = [0, 1, 2].map(|w| {
                    let mm = position[w]
                        + orientation[w] * spacing[1] * column
                        + orientation[3 + w] * spacing[0] * row;
                    (mm * 10.0).round() as i64
                });
                assert!(found.insert((segment, place)), "one voxel twice");
            }
        }
    }
    found
}

#[test]
fn every_voxel_lies_where_the_label_map_has_it() {
    for in_plane in [[0, 1], [1, 2], [0, 2]] {
        for signs in 0..8 {
            let sign = |bit: usize| if signs >> bit & 1 == 1 { -1.0 } else { 1.0 };
            let mut orientation = [0.0; 6];
            orientation[in_plane[0]] = sign(0);
            orientation[3 + in_plane[1]] = sign(1);
            let (row, column) = (&orientation[..3], &orientation[3..]);
            let normal = [
                row[1] * column[2] - row[2] * column[1],
                row[2] * column[0] - row[0] * column[2],
                row[0] * column[1] - row[1] * column[0],
            ];
            let dir = tempfile::tempdir().expect("a folder");
            let slices: Vec<Slice> = (0..9)
                .map(|k| {
                    let k = if sign(2) > 0.0 { k } else { 8 - k };
                    let position = [0, 1, 2].map(|w| 10.0 + normal[w] * 3.0 * f64::from(k));
                    Slice { orientation, position: Some(position), ..Slice::new(f64::from(k) * 3.0) }
                })
                .collect();
            made::write(dir.path(), &slices);
            let stack = only_stack(dir.path());
            let data: Vec<u16> =
                (0..180).map(|i| [0, 0, 1, 0, 4, 0, 0][i * i % 7] * u16::from(i > 30)).collect();
            let map = LabelMap::new(data, stack.geometry.clone()).expect("a map");
            let expected: BTreeSet<(u16, [i64; 3])> = (0..180)
                .filter(|&i| map.data[i] > 0)
                .map(|i| {
                    let [z, y, x] = map.geometry.position(i);
                    let [r, a, s] = map.geometry.affine().apply([x as f64, y as f64, z as f64]);
                    let lps = [-r, -a, s].map(|mm| (mm * 10.0).round() as i64);
                    (if map.data[i] == 1 { 1 } else { 2 }, lps)
                })
                .collect();
            assert!(expected.len() > 20);
            // The map may have its axes in another order than the slices.
            let turn = Turn { axes: [2, 0, 1], flip: [true, false, true] };
            for map in [map.clone(), map.turned(&turn)] {
                let file =
                    segmentation(map, &stack, &[segment(1, "a"), segment(4, "b")], &SegOptions::default());
                assert_eq!(voxels(&file.expect("a file")), expected);
            }
        }
    }
}

#[test]
fn objects_name_their_source_and_have_identities_of_their_content() {
    let dir = tempfile::tempdir().expect("a folder");
    let slices: Vec<Slice> = (0..9).map(|k| Slice::new(f64::from(k) * 3.0)).collect();
    made::write(dir.path(), &slices);
    let stack = only_stack(dir.path());
    let map = |value: u16| {
        let mut data = vec![0; 180];
        data[70] = value;
        LabelMap::new(data, stack.geometry.clone()).expect("a map")
    };
    let options = SegOptions { model: "BL".into(), stamp: Stamp::default() };
    let write = |value: u16| segmentation(map(value), &stack, &[segment(1, "a")], &options).expect("a file");
    let read = |file: &[u8]| dicom_object::from_reader(file).expect("a DICOM file").into_inner();
    let text = |object: &InMemDicomObject, tag| {
        object.get(tag).expect("an element").to_str().expect("text").trim_matches(['\0', ' ']).to_owned()
    };
    let (one, again, other) = (write(1), write(1), write(0));
    assert_eq!(one, again, "the same content has the same identity");
    let one = read(&one);
    assert_ne!(text(&one, tags::SOP_INSTANCE_UID), text(&read(&other), tags::SOP_INSTANCE_UID));
    assert_eq!(text(&one, tags::STUDY_INSTANCE_UID), "1.2");
    assert_eq!(text(&one, tags::FRAME_OF_REFERENCE_UID), "1.2.5");
    assert_eq!(text(&one, tags::SERIES_NUMBER), "1004");
    assert_eq!(text(&one, tags::SERIES_DESCRIPTION), "glioseg BL (research only)");
    let series = &items(&one, tags::REFERENCED_SERIES_SEQUENCE)[0];
    assert_eq!(items(series, tags::REFERENCED_INSTANCE_SEQUENCE).len(), 9);
    let frames = items(&one, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    let derivation = &items(&frames[0], tags::DERIVATION_IMAGE_SEQUENCE)[0];
    let origin = &items(derivation, tags::SOURCE_IMAGE_SEQUENCE)[0];
    assert_eq!(text(origin, tags::REFERENCED_SOP_INSTANCE_UID), slices[3].instance);
    // Without a voxel, every segment has one empty frame.
    let empty = read(&other);
    assert_eq!(items(&empty, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE).len(), 1);

    let shifted = glioseg_volume::Geometry::isotropic([9, 5, 4]);
    let wrong = LabelMap::new(vec![0; 180], shifted).expect("a map");
    let error = segmentation(wrong, &stack, &[segment(1, "a")], &options).expect_err("another grid");
    assert!(matches!(&error, DicomError::OtherGrid { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("9 x 5 x 4 voxels of 1.000 x 1.000 x 1.000 mm")
            && text.contains("3.000 x 2.000 x 3.000"),
        "{text}"
    );
}
