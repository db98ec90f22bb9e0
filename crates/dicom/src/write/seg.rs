//! Segmentations: a bit per voxel, segment and slice.
//!
//! # Source
//! DICOM PS3.3, Segmentation IOD; context group 7168 for parts of tumours of the brain.

use dicom_core::{DataElement, PrimitiveValue, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use glioseg_volume::LabelMap;

use super::elements::{
    bytes, decimals, equipment, images, object, patient_and_study, reference, sequence, short, shorts,
    source, text,
};
use super::{Code, SegOptions};
use crate::{DicomError, Stack};

/// What a label of the map is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its value in the map.
    pub value: u16,
    /// What people read, at most 64 characters.
    pub label: String,
    /// The broad concept.
    pub category: Code,
    /// The concept.
    pub kind: Code,
    /// Colour to show it in: red, green, blue.
    pub rgb: [u8; 3],
}

/// The file of a segmentation of a volume: as many bits as voxels for each segment, slices without a voxel left out.
///
/// Patient, study and frame of reference are those of the source. Where no segment has a voxel, each has one empty slice.
///
/// # Errors
/// [`DicomError::OtherGrid`] if the map does not lie on the volume's grid, in whatever order of the axes; [`DicomError::Read`] or
/// [`DicomError::Damaged`] for the source's first file; [`DicomError::Unwritten`].
///
/// # Panics
/// Never: segments are counted in 16 bits.
pub fn segmentation(
    map: LabelMap,
    stack: &Stack,
    segments: &[Segment],
    options: &SegOptions,
) -> Result<Vec<u8>, DicomError> {
    let map = stack.on_own_grid(map)?;
    let first = &stack.slices()[0];
    let header = source(&first.instance.path)?;
    let frames = frames(&map, segments);
    let stamp = &options.stamp;
    let voxels: Vec<u8> = map.data.iter().flat_map(|v| v.to_le_bytes()).collect();
    let names: Vec<u8> = segments.iter().flat_map(|s| s.label.bytes().chain(s.value.to_le_bytes())).collect();
    let parts = [first.instance.series.as_bytes(), options.model.as_bytes(), &names, &voxels];
    let uid = |kind: &str| stamp.uid(&[&[kind.as_bytes()], &parts[..]].concat());
    let (instance, dimensions) = (uid("SEG"), uid("dimensions"));

    let mut out = InMemDicomObject::new_empty();
    patient_and_study(&header, &mut out);
    equipment(&mut out);
    let number = first.instance.series_number.unwrap_or(0) + 1000;
    let (date, time) = (stamp.time.format("%Y%m%d").to_string(), stamp.time.format("%H%M%S").to_string());
    for (tag, vr, value) in [
        (tags::SOP_CLASS_UID, VR::UI, uids::SEGMENTATION_STORAGE),
        (tags::SOP_INSTANCE_UID, VR::UI, &instance),
        (tags::SERIES_INSTANCE_UID, VR::UI, &uid("series")),
        (tags::SERIES_NUMBER, VR::IS, &number.to_string()),
        (tags::SERIES_DESCRIPTION, VR::LO, &options.description()),
        (tags::SERIES_DATE, VR::DA, &date),
        (tags::SERIES_TIME, VR::TM, &time),
        (tags::MODALITY, VR::CS, "SEG"),
        (tags::IMAGE_TYPE, VR::CS, "DERIVED\\PRIMARY"),
        (tags::INSTANCE_NUMBER, VR::IS, "1"),
        (tags::CONTENT_DATE, VR::DA, &date),
        (tags::CONTENT_TIME, VR::TM, &time),
        (tags::CONTENT_LABEL, VR::CS, "SEGMENTATION"),
        (tags::CONTENT_DESCRIPTION, VR::LO, "Segmentation by glioseg, for research only"),
        (tags::CONTENT_CREATOR_NAME, VR::PN, ""),
        (tags::SEGMENTATION_TYPE, VR::CS, "BINARY"),
        (tags::SEGMENTS_OVERLAP, VR::CS, "NO"),
        (tags::PHOTOMETRIC_INTERPRETATION, VR::CS, "MONOCHROME2"),
        (tags::LOSSY_IMAGE_COMPRESSION, VR::CS, if stack.is_lossy() { "01" } else { "00" }),
        (tags::NUMBER_OF_FRAMES, VR::IS, &frames.len().to_string()),
    ] {
        out.put(text(tag, vr, value));
    }
    let [_, rows, columns] = stack.geometry.shape;
    for (tag, value) in [
        (tags::SAMPLES_PER_PIXEL, 1),
        (tags::ROWS, rows as u16),
        (tags::COLUMNS, columns as u16),
        (tags::BITS_ALLOCATED, 1),
        (tags::BITS_STORED, 1),
        (tags::HIGH_BIT, 0),
        (tags::PIXEL_REPRESENTATION, 0),
    ] {
        out.put(shorts(tag, [value]));
    }
    out.put(sequence(tags::CONTRIBUTING_EQUIPMENT_SEQUENCE, vec![scanner(&header)]));
    out.put(sequence(tags::REFERENCED_SERIES_SEQUENCE, vec![referenced_series(stack)]));
    out.put(sequence(
        tags::SEGMENT_SEQUENCE,
        segments
            .iter()
            .enumerate()
            .map(|(i, s)| described(s, i, &uid(&format!("segment {i}")), options))
            .collect(),
    ));
    let organisation = |element| {
        object([text(tags::DIMENSION_ORGANIZATION_UID, VR::UI, &dimensions)].into_iter().chain(element))
    };
    out.put(sequence(tags::DIMENSION_ORGANIZATION_SEQUENCE, vec![organisation(Vec::new())]));
    let index = |pointer: dicom_core::Tag, group: dicom_core::Tag| {
        let tag = |name, value: dicom_core::Tag| DataElement::new(name, VR::AT, PrimitiveValue::from(value));
        organisation(vec![
            tag(tags::DIMENSION_INDEX_POINTER, pointer),
            tag(tags::FUNCTIONAL_GROUP_POINTER, group),
        ])
    };
    out.put(sequence(
        tags::DIMENSION_INDEX_SEQUENCE,
        vec![
            index(tags::REFERENCED_SEGMENT_NUMBER, tags::SEGMENT_IDENTIFICATION_SEQUENCE),
            index(tags::IMAGE_POSITION_PATIENT, tags::PLANE_POSITION_SEQUENCE),
        ],
    ));
    out.put(sequence(tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE, vec![shared(stack)]));
    let places = frames.iter().map(|frame| place(frame, stack));
    out.put(sequence(tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE, places.collect()));
    out.put(DataElement::new(tags::PIXEL_DATA, VR::OB, PrimitiveValue::from(bits(&frames, rows * columns))));
    bytes(out, uids::SEGMENTATION_STORAGE, &instance, 0).map_err(|reason| DicomError::Unwritten { reason })
}

/// A slice of a segment.
struct Frame<'a> {
    segment: usize,
    slice: usize,
    value: u16,
    labels: &'a [u16],
}

fn frames<'a>(map: &'a LabelMap, segments: &[Segment]) -> Vec<Frame<'a>> {
    let [_, rows, columns] = map.shape();
    let slices: Vec<&[u16]> = map.data.chunks_exact(rows * columns).collect();
    let all = segments.iter().enumerate().flat_map(|(segment, s)| {
        let own = slices.iter().enumerate().filter(|(_, labels)| labels.contains(&s.value));
        own.map(move |(slice, labels)| Frame { segment, slice, value: s.value, labels })
    });
    let all: Vec<Frame<'_>> = all.collect();
    if !all.is_empty() {
        return all;
    }
    let empty = segments.iter().enumerate();
    empty.map(|(segment, s)| Frame { segment, slice: 0, value: s.value, labels: slices[0] }).collect()
}

/// One bit per voxel, the first in the lowest, frames without a gap; an even number of bytes.
fn bits(frames: &[Frame<'_>], voxels: usize) -> Vec<u8> {
    let mut out = vec![0u8; (frames.len() * voxels).div_ceil(16) * 2];
    let all = frames.iter().flat_map(|frame| frame.labels.iter().map(|&label| label == frame.value));
    for (i, _) in all.enumerate().filter(|(_, set)| *set) {
        out[i / 8] |= 1 << (i % 8);
    }
    out
}

fn described(segment: &Segment, index: usize, uid: &str, options: &SegOptions) -> InMemDicomObject {
    let name = if options.model.is_empty() { "glioseg" } else { &options.model };
    let algorithm = object([
        sequence(
            tags::ALGORITHM_FAMILY_CODE_SEQUENCE,
            vec![Code::new("123110", "DCM", "Artificial Intelligence").item()],
        ),
        text(tags::ALGORITHM_NAME, VR::LO, &short(name, 64)),
        text(tags::ALGORITHM_VERSION, VR::LO, env!("CARGO_PKG_VERSION")),
        text(tags::ALGORITHM_SOURCE, VR::LO, "glioseg"),
    ]);
    object([
        shorts(tags::SEGMENT_NUMBER, [index as u16 + 1]),
        text(tags::SEGMENT_LABEL, VR::LO, &short(&segment.label, 64)),
        text(tags::SEGMENT_ALGORITHM_TYPE, VR::CS, "AUTOMATIC"),
        text(tags::SEGMENT_ALGORITHM_NAME, VR::LO, &short(name, 64)),
        sequence(tags::SEGMENTATION_ALGORITHM_IDENTIFICATION_SEQUENCE, vec![algorithm]),
        sequence(tags::SEGMENTED_PROPERTY_CATEGORY_CODE_SEQUENCE, vec![segment.category.item()]),
        sequence(tags::SEGMENTED_PROPERTY_TYPE_CODE_SEQUENCE, vec![segment.kind.item()]),
        sequence(tags::ANATOMIC_REGION_SEQUENCE, vec![Code::new("12738006", "SCT", "Brain").item()]),
        text(tags::TRACKING_ID, VR::UT, &format!("glioseg {}", segment.label)),
        text(tags::TRACKING_UID, VR::UI, uid),
        shorts(tags::RECOMMENDED_DISPLAY_CIE_LAB_VALUE, cie_lab(segment.rgb)),
    ])
}

/// `CIELab` of an sRGB colour for white of D50, coded as unsigned shorts: L of 0 to 100, a and b of -128 to 127.
fn cie_lab(rgb: [u8; 3]) -> [u16; 3] {
    let [r, g, b] = rgb.map(|v| {
        let v = f64::from(v) / 255.0;
        if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
    });
    let xyz = [
        (0.436_074_7 * r + 0.385_064_9 * g + 0.143_080_4 * b) / 0.964_22,
        0.222_504_5 * r + 0.716_878_6 * g + 0.060_616_9 * b,
        (0.013_932_2 * r + 0.097_104_5 * g + 0.714_173_3 * b) / 0.825_21,
    ];
    let [x, y, z] =
        xyz.map(|t| if t > 216.0 / 24_389.0 { t.cbrt() } else { (24_389.0 / 27.0 * t + 16.0) / 116.0 });
    let code = |share: f64| (share.clamp(0.0, 1.0) * 65_535.0).round() as u16;
    [
        code((116.0 * y - 16.0) / 100.0),
        code((500.0 * (x - y) + 128.0) / 255.0),
        code((200.0 * (y - z) + 128.0) / 255.0),
    ]
}

/// The scanner that the source comes from.
fn scanner(header: &InMemDicomObject) -> InMemDicomObject {
    let known = [tags::MANUFACTURER, tags::MANUFACTURER_MODEL_NAME]
        .into_iter()
        .filter_map(|tag| header.get(tag).cloned());
    let mut out = object(known);
    if header.get(tags::MANUFACTURER).is_none() {
        out.put(text(tags::MANUFACTURER, VR::LO, "unknown"));
    }
    out.put(sequence(
        tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE,
        vec![Code::new("109101", "DCM", "Acquisition Equipment").item()],
    ));
    out
}

/// The series with all its instances.
fn referenced_series(stack: &Stack) -> InMemDicomObject {
    object([
        text(tags::SERIES_INSTANCE_UID, VR::UI, &stack.slices()[0].instance.series),
        sequence(tags::REFERENCED_INSTANCE_SEQUENCE, images(stack)),
    ])
}

/// What all frames have in common: directions and sizes.
fn shared(stack: &Stack) -> InMemDicomObject {
    let first = &stack.slices()[0];
    let [distance, ..] = stack.geometry.spacing;
    object([
        sequence(
            tags::PLANE_ORIENTATION_SEQUENCE,
            vec![object([decimals(tags::IMAGE_ORIENTATION_PATIENT, &first.orientation)])],
        ),
        sequence(
            tags::PIXEL_MEASURES_SEQUENCE,
            vec![object([
                decimals(tags::SLICE_THICKNESS, &[distance]),
                decimals(tags::SPACING_BETWEEN_SLICES, &[distance]),
                decimals(tags::PIXEL_SPACING, &first.spacing),
            ])],
        ),
    ])
}

/// Where a frame lies, which segment it is, and which image it was made from.
fn place(frame: &Frame<'_>, stack: &Stack) -> InMemDicomObject {
    let slice = &stack.slices()[frame.slice];
    let mut origin = reference(slice);
    if slice.instance.frames.len() > 1 {
        let number = (slice.frame + 1).to_string();
        origin.put(text(tags::REFERENCED_FRAME_NUMBER, VR::IS, &number));
    }
    let purpose = Code::new("121322", "DCM", "Source image for image processing operation");
    origin.put(sequence(tags::PURPOSE_OF_REFERENCE_CODE_SEQUENCE, vec![purpose.item()]));
    origin.put(text(tags::SPATIAL_LOCATIONS_PRESERVED, VR::CS, "YES"));
    let derivation = object([
        sequence(tags::SOURCE_IMAGE_SEQUENCE, vec![origin]),
        sequence(tags::DERIVATION_CODE_SEQUENCE, vec![Code::new("113076", "DCM", "Segmentation").item()]),
    ]);
    let number = frame.segment as u16 + 1;
    let indices = [u32::from(number), frame.slice as u32 + 1];
    let indices = DataElement::new(
        tags::DIMENSION_INDEX_VALUES,
        VR::UL,
        PrimitiveValue::U32(indices.as_slice().into()),
    );
    object([
        sequence(tags::DERIVATION_IMAGE_SEQUENCE, vec![derivation]),
        sequence(tags::FRAME_CONTENT_SEQUENCE, vec![object([indices])]),
        sequence(
            tags::PLANE_POSITION_SEQUENCE,
            vec![object([decimals(tags::IMAGE_POSITION_PATIENT, &slice.position)])],
        ),
        sequence(
            tags::SEGMENT_IDENTIFICATION_SEQUENCE,
            vec![object([shorts(tags::REFERENCED_SEGMENT_NUMBER, [number])])],
        ),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_those_of_other_programs() {
        // White, and a red as L 53.2, a 80.1, b 67.2 for D65 is 54.3, 80.8, 69.9 for D50.
        assert_eq!(cie_lab([255, 255, 255])[0], 65_535);
        let [l, a, b] = cie_lab([255, 0, 0]).map(f64::from);
        let lab = [l / 655.35, a / 65_535.0 * 255.0 - 128.0, b / 65_535.0 * 255.0 - 128.0];
        let expected = [54.29, 80.80, 69.89];
        assert!(lab.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.05), "{lab:?}");
    }

    #[test]
    fn bits_have_no_gap_between_frames() {
        let frame = |labels: &'static [u16]| Frame { segment: 0, slice: 0, value: 1, labels };
        let frames = [
            frame(&[1, 0, 0, 1, 1]),
            frame(&[0, 1, 0, 0, 1]),
            frame(&[0, 0, 0, 0, 0]),
            frame(&[1, 1, 0, 2, 1]),
        ];
        assert_eq!(bits(&frames, 5), [0b0101_1001, 0b1000_0010, 0b0000_1001, 0]);
    }
}
