//! Structure sets: regions as outlines in the slices of a series, for programs that plan radiotherapy.
//!
//! # Source
//! DICOM PS3.3, RT Structure Set IOD.

use dicom_core::VR;
use dicom_dictionary_std::{tags, uids};
use dicom_object::InMemDicomObject;
use glioseg_volume::LabelMap;

use super::SegOptions;
use super::contour::outlines;
use super::elements::{
    bytes, equipment, images, object, patient_and_study, reference, sequence, short, source, text,
};
use crate::stack::Slice;
use crate::{DicomError, Stack};

/// The class that a reference to a study names.
const STUDY_CLASS: &str = "1.2.840.10008.3.1.2.3.1";

/// A region that is outlined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Structure {
    /// Its name, at most 64 characters.
    pub name: String,
    /// The labels that belong to it.
    pub labels: Vec<u16>,
    /// Colour to show it in: red, green, blue.
    pub rgb: [u8; 3],
    /// Whether it is gross tumour (GTV).
    pub gross_tumour: bool,
}

/// The file of a structure set of a volume.
///
/// # Errors
/// As [`super::seg::segmentation`].
pub fn structure_set(
    map: LabelMap,
    stack: &Stack,
    structures: &[Structure],
    options: &SegOptions,
) -> Result<Vec<u8>, DicomError> {
    let map = stack.on_own_grid(map)?;
    let first = &stack.slices()[0];
    let header = source(&first.instance.path)?;
    let stamp = &options.stamp;
    let voxels: Vec<u8> = map.data.iter().flat_map(|v| v.to_le_bytes()).collect();
    let names: Vec<u8> = structures
        .iter()
        .flat_map(|s| s.name.bytes().chain(s.labels.iter().flat_map(|l| l.to_le_bytes())))
        .collect();
    let parts = [first.instance.series.as_bytes(), options.model.as_bytes(), &names, &voxels];
    let uid = |kind: &str| stamp.uid(&[&[kind.as_bytes()], &parts[..]].concat());
    let instance = uid("RTSTRUCT");
    let frame = first.instance.frame_of_reference.clone().unwrap_or_default();

    let mut out = InMemDicomObject::new_empty();
    patient_and_study(&header, &mut out);
    equipment(&mut out);
    let number = first.instance.series_number.unwrap_or(0) + 2000;
    let (date, time) = (stamp.time.format("%Y%m%d").to_string(), stamp.time.format("%H%M%S").to_string());
    for (tag, vr, value) in [
        (tags::SOP_CLASS_UID, VR::UI, uids::RT_STRUCTURE_SET_STORAGE),
        (tags::SOP_INSTANCE_UID, VR::UI, &instance),
        (tags::SERIES_INSTANCE_UID, VR::UI, &uid("RTSTRUCT series")),
        (tags::SERIES_NUMBER, VR::IS, &number.to_string()),
        (tags::SERIES_DESCRIPTION, VR::LO, &options.description()),
        (tags::MODALITY, VR::CS, "RTSTRUCT"),
        (tags::OPERATORS_NAME, VR::PN, ""),
        (tags::INSTANCE_NUMBER, VR::IS, "1"),
        (tags::STRUCTURE_SET_LABEL, VR::SH, "glioseg"),
        (tags::STRUCTURE_SET_DESCRIPTION, VR::ST, "Segmentation by glioseg, for research only"),
        (tags::STRUCTURE_SET_DATE, VR::DA, &date),
        (tags::STRUCTURE_SET_TIME, VR::TM, &time),
        (tags::APPROVAL_STATUS, VR::CS, "UNAPPROVED"),
    ] {
        out.put(text(tag, vr, value));
    }
    out.put(sequence(tags::REFERENCED_FRAME_OF_REFERENCE_SEQUENCE, vec![referenced(stack, &frame)]));
    let mut sets = [Vec::new(), Vec::new(), Vec::new()];
    let mut longest = 0;
    for (i, structure) in structures.iter().enumerate() {
        let number = (i + 1).to_string();
        let contours = contours(structure, &map, stack, &mut longest);
        let colour = structure.rgb.map(|v| v.to_string()).join("\\");
        sets[0].push(object([
            text(tags::ROI_NUMBER, VR::IS, &number),
            text(tags::REFERENCED_FRAME_OF_REFERENCE_UID, VR::UI, &frame),
            text(tags::ROI_NAME, VR::LO, &short(&structure.name, 64)),
            text(tags::ROI_GENERATION_ALGORITHM, VR::CS, "AUTOMATIC"),
        ]));
        let mut roi = object([
            text(tags::ROI_DISPLAY_COLOR, VR::IS, &colour),
            text(tags::REFERENCED_ROI_NUMBER, VR::IS, &number),
        ]);
        if !contours.is_empty() {
            roi.put(sequence(tags::CONTOUR_SEQUENCE, contours));
        }
        sets[1].push(roi);
        sets[2].push(object([
            text(tags::OBSERVATION_NUMBER, VR::IS, &number),
            text(tags::REFERENCED_ROI_NUMBER, VR::IS, &number),
            text(tags::RTROI_INTERPRETED_TYPE, VR::CS, if structure.gross_tumour { "GTV" } else { "" }),
            text(tags::ROI_INTERPRETER, VR::PN, ""),
        ]));
    }
    let sequences =
        [tags::STRUCTURE_SET_ROI_SEQUENCE, tags::ROI_CONTOUR_SEQUENCE, tags::RTROI_OBSERVATIONS_SEQUENCE];
    for (tag, set) in sequences.into_iter().zip(sets) {
        out.put(sequence(tag, set));
    }
    bytes(out, uids::RT_STRUCTURE_SET_STORAGE, &instance, longest)
        .map_err(|reason| DicomError::Unwritten { reason })
}

/// The frame of reference with the study, the series and all its images.
fn referenced(stack: &Stack, frame: &str) -> InMemDicomObject {
    let first = &stack.slices()[0].instance;
    let series = object([
        text(tags::SERIES_INSTANCE_UID, VR::UI, &first.series),
        sequence(tags::CONTOUR_IMAGE_SEQUENCE, images(stack)),
    ]);
    let study = object([
        text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, STUDY_CLASS),
        text(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, &first.study),
        sequence(tags::RT_REFERENCED_SERIES_SEQUENCE, vec![series]),
    ]);
    object([
        text(tags::FRAME_OF_REFERENCE_UID, VR::UI, frame),
        sequence(tags::RT_REFERENCED_STUDY_SEQUENCE, vec![study]),
    ])
}

/// The outlines of a structure in all slices; `longest` becomes the length of the longest text.
fn contours(
    structure: &Structure,
    map: &LabelMap,
    stack: &Stack,
    longest: &mut usize,
) -> Vec<InMemDicomObject> {
    let [_, rows, columns] = map.shape();
    let mut out = Vec::new();
    for (slice, labels) in stack.slices().iter().zip(map.data.chunks_exact(rows * columns)) {
        let inside: Vec<bool> = labels.iter().map(|label| structure.labels.contains(label)).collect();
        if !inside.contains(&true) {
            continue;
        }
        for polygon in outlines(&inside, rows, columns) {
            let points: Vec<String> = polygon
                .iter()
                .flat_map(|&[row, column]| in_the_world(slice, row, column))
                .map(fixed)
                .collect();
            let data = points.join("\\");
            *longest = (*longest).max(data.len());
            let mut image = reference(slice);
            if slice.instance.frames.len() > 1 {
                image.put(text(tags::REFERENCED_FRAME_NUMBER, VR::IS, &(slice.frame + 1).to_string()));
            }
            out.push(object([
                sequence(tags::CONTOUR_IMAGE_SEQUENCE, vec![image]),
                text(tags::CONTOUR_GEOMETRIC_TYPE, VR::CS, "CLOSED_PLANAR"),
                text(tags::NUMBER_OF_CONTOUR_POINTS, VR::IS, &polygon.len().to_string()),
                text(tags::CONTOUR_DATA, VR::DS, &data),
            ]));
        }
    }
    out
}

/// The place of a pixel in mm, LPS.
fn in_the_world(slice: &Slice, row: f64, column: f64) -> [f64; 3] {
    let (along, down) = slice.orientation.split_at(3);
    let [between_rows, between_columns] = slice.spacing;
    [0, 1, 2].map(|w| slice.position[w] + column * between_columns * along[w] + row * between_rows * down[w])
}

/// A number in at most 12 characters, without an exponent.
fn fixed(value: f64) -> String {
    let digits = (0..=10).rev().find(|&d| format!("{value:.d$}").len() <= 12).unwrap_or(0);
    let text = format!("{value:.digits$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_contours_are_short() {
        let values = [1.5, -123.456_789_012_345, 0.0, -1e-12, 12_345.678_912_345];
        assert_eq!(
            values.map(fixed),
            ["1.5", "-123.4567890".trim_end_matches('0'), "0", "0", "12345.678912"]
        );
    }
}
