//! What all written objects have in common: patient and study of the source, identities, codes, numbers as text.

use std::collections::HashSet;
use std::path::Path;

use dicom_core::chrono::{DateTime, Utc};
use dicom_core::value::DataSetSequence;
use dicom_core::{DataElement, PrimitiveValue, Tag, VR};
use dicom_dictionary_std::{tags, uids};
use dicom_object::{FileMetaTableBuilder, InMemDicomObject};
use sha2::{Digest as _, Sha256};

use crate::stack::Slice;
use crate::{DicomError, Stack};

/// A concept of a terminology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// Its code, such as `6574001`.
    pub value: String,
    /// The terminology: `SCT`, `DCM`, `NCIt`.
    pub scheme: String,
    /// What it means, in words.
    pub meaning: String,
}

impl Code {
    /// A concept.
    pub fn new(value: &str, scheme: &str, meaning: &str) -> Self {
        Self { value: value.into(), scheme: scheme.into(), meaning: meaning.into() }
    }

    pub(super) fn item(&self) -> InMemDicomObject {
        object([
            text(tags::CODE_VALUE, VR::SH, &self.value),
            text(tags::CODING_SCHEME_DESIGNATOR, VR::SH, &self.scheme),
            text(tags::CODE_MEANING, VR::LO, &self.meaning),
        ])
    }
}

/// When an object is written, and under whose root its identities are.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The time.
    pub time: DateTime<Utc>,
    /// A root such as `1.2.826.0.1.3680043.2.1143`; `None` for `2.25`, which needs no registration.
    pub uid_root: Option<String>,
}

impl Default for Stamp {
    /// Now.
    fn default() -> Self {
        Self { time: Utc::now(), uid_root: None }
    }
}

impl Stamp {
    /// An identity that is the same for the same parts.
    pub(super) fn uid(&self, parts: &[&[u8]]) -> String {
        let mut hash = Sha256::new();
        for part in parts {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
        let number = hash.finalize()[..16].iter().fold(0u128, |sum, &byte| sum << 8 | u128::from(byte));
        match &self.uid_root {
            None => format!("2.25.{number}"),
            // A UID has 64 characters at most.
            Some(root) => {
                let digits = number.to_string();
                let room = 63usize.saturating_sub(root.len());
                format!("{root}.{}", &digits[..digits.len().min(room)])
            }
        }
    }
}

/// How an object names what made it.
#[derive(Debug, Clone, Default)]
pub struct SegOptions {
    /// The model, in a few words.
    pub model: String,
    /// Time and identities.
    pub stamp: Stamp,
}

impl SegOptions {
    /// The description of the series.
    pub(super) fn description(&self) -> String {
        short(&format!("glioseg {} (research only)", self.model).replace("  ", " "), 64)
    }
}

/// At most so many characters.
pub(super) fn short(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// Class and identity of the image that a slice comes from.
pub(super) fn reference(slice: &Slice) -> InMemDicomObject {
    object([
        text(tags::REFERENCED_SOP_CLASS_UID, VR::UI, &slice.instance.sop_class),
        text(tags::REFERENCED_SOP_INSTANCE_UID, VR::UI, &slice.instance.sop_uid),
    ])
}

/// Class and identity of every image of a volume, once each.
pub(super) fn images(stack: &Stack) -> Vec<InMemDicomObject> {
    let mut seen = HashSet::new();
    let first = stack.slices().iter().filter(|slice| seen.insert(slice.instance.sop_uid.as_str()));
    first.map(reference).collect()
}

pub(super) type Element = DataElement<InMemDicomObject>;

pub(super) fn object(elements: impl IntoIterator<Item = Element>) -> InMemDicomObject {
    InMemDicomObject::from_element_iter(elements)
}

pub(super) fn text(tag: Tag, vr: VR, value: &str) -> Element {
    DataElement::new(tag, vr, PrimitiveValue::from(value))
}

pub(super) fn shorts<const N: usize>(tag: Tag, values: [u16; N]) -> Element {
    DataElement::new(tag, VR::US, PrimitiveValue::U16(values.as_slice().into()))
}

pub(super) fn decimals(tag: Tag, values: &[f64]) -> Element {
    let values: Vec<String> = values.iter().map(|&v| decimal(v)).collect();
    DataElement::new(tag, VR::DS, PrimitiveValue::Strs(values.into()))
}

pub(super) fn sequence(tag: Tag, items: Vec<InMemDicomObject>) -> Element {
    DataElement::new(tag, VR::SQ, DataSetSequence::from(items))
}

/// A number in at most 16 characters.
pub(super) fn decimal(value: f64) -> String {
    let short = format!("{value}");
    if short.len() <= 16 {
        return short;
    }
    for digits in (0..=14).rev() {
        let text = format!("{value:.digits$}");
        if text.len() <= 16 {
            let text =
                if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            return if text == "-0" { "0".into() } else { text.into() };
        }
    }
    format!("{value:.9e}")
}

/// Patient and study as the source has them; what must be there and is not is empty.
pub(super) fn patient_and_study(source: &InMemDicomObject, into: &mut InMemDicomObject) {
    let copied = [
        (tags::SPECIFIC_CHARACTER_SET, None),
        (tags::PATIENT_NAME, Some(VR::PN)),
        (tags::PATIENT_ID, Some(VR::LO)),
        (tags::PATIENT_BIRTH_DATE, Some(VR::DA)),
        (tags::PATIENT_SEX, Some(VR::CS)),
        (tags::STUDY_INSTANCE_UID, None),
        (tags::STUDY_DATE, Some(VR::DA)),
        (tags::STUDY_TIME, Some(VR::TM)),
        (tags::STUDY_ID, Some(VR::SH)),
        (tags::ACCESSION_NUMBER, Some(VR::SH)),
        (tags::REFERRING_PHYSICIAN_NAME, Some(VR::PN)),
        (tags::STUDY_DESCRIPTION, None),
        (tags::FRAME_OF_REFERENCE_UID, None),
        (tags::POSITION_REFERENCE_INDICATOR, Some(VR::LO)),
    ];
    for (tag, needed) in copied {
        match (source.get(tag), needed) {
            (Some(element), _) => {
                into.put(element.clone());
            }
            (None, Some(vr)) => {
                into.put(text(tag, vr, ""));
            }
            (None, None) => {}
        }
    }
    if source.get(tags::SPECIFIC_CHARACTER_SET).is_none() {
        into.put(text(tags::SPECIFIC_CHARACTER_SET, VR::CS, "ISO_IR 192"));
    }
}

/// The program as the maker of an object.
pub(super) fn equipment(into: &mut InMemDicomObject) {
    for element in [
        text(tags::MANUFACTURER, VR::LO, "glioseg"),
        text(tags::MANUFACTURER_MODEL_NAME, VR::LO, "glioseg"),
        text(tags::DEVICE_SERIAL_NUMBER, VR::LO, "0"),
        text(tags::SOFTWARE_VERSIONS, VR::LO, env!("CARGO_PKG_VERSION")),
    ] {
        into.put(element);
    }
}

/// The bytes of a file with this object, whose longest text has so many bytes: more than 65,534 have no place where kinds of
/// values are told.
///
/// # Errors
/// What the library says, in words.
pub(super) fn bytes(
    object: InMemDicomObject,
    class: &str,
    instance: &str,
    longest: usize,
) -> Result<Vec<u8>, String> {
    let syntax =
        if longest > 65_534 { uids::IMPLICIT_VR_LITTLE_ENDIAN } else { uids::EXPLICIT_VR_LITTLE_ENDIAN };
    let meta = FileMetaTableBuilder::new()
        .transfer_syntax(syntax)
        .media_storage_sop_class_uid(class)
        .media_storage_sop_instance_uid(instance);
    let file = object.with_meta(meta).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.write_all(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// [`crate::file::header`] of the file that patient and study are taken from.
pub(super) fn source(path: &Path) -> Result<InMemDicomObject, DicomError> {
    crate::file::header(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_fit_into_sixteen_characters() {
        let table = [
            (0.5, "0.5"),
            (-13.0, "-13"),
            (1.0 / 3.0, "0.33333333333333"),
            (-123.456_789_012_345_67, "-123.45678901235"),
            (1e-20, "0"),
            (-1e-20, "0"),
            (0.1 + 0.2, "0.3"),
        ];
        for (value, expected) in table {
            let text = decimal(value);
            assert_eq!(text, expected, "{value}");
            assert!(text.len() <= 16);
        }
    }

    #[test]
    fn identities_follow_their_parts() {
        let stamp = Stamp::default();
        let one = stamp.uid(&[b"a", b"bc"]);
        assert_eq!(one, stamp.uid(&[b"a", b"bc"]));
        assert_ne!(one, stamp.uid(&[b"ab", b"c"]));
        assert!(one.starts_with("2.25.") && one.len() <= 64 && one[5..].bytes().all(|b| b.is_ascii_digit()));
        let own = Stamp { uid_root: Some("1.2.826.0.1.3680043.2.1143".into()), ..stamp };
        assert!(own.uid(&[b"a"]).starts_with("1.2.826.0.1.3680043.2.1143.") && own.uid(&[b"a"]).len() <= 64);
    }
}
