//! The header of one file: what it says of its series, its place and its pixels.

use std::path::{Path, PathBuf};

use dicom_core::Tag;
use dicom_dictionary_std::{StandardSopClassDictionary, tags, uids};
use dicom_object::InMemDicomObject;
use dicom_transfer_syntax_registry::entries::{
    EXPLICIT_VR_BIG_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN,
};

use crate::DicomError;
use crate::guard::{Checked, Coding, Finding, PixelPlace, check};

/// How stored numbers become values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PixelFormat {
    pub rows: usize,
    pub columns: usize,
    pub bits_allocated: usize,
    pub bits_stored: usize,
    pub high_bit: usize,
    pub signed: bool,
    pub samples: usize,
    /// Small values are bright.
    pub inverted: bool,
}

/// One slice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    /// Centre of the first pixel in mm, LPS.
    pub position: Option<[f64; 3]>,
    /// Directions of a row (increasing column) and of a column.
    pub orientation: Option<[f64; 6]>,
    /// Distance of the rows, and of the columns, in mm.
    pub spacing: Option<[f64; 2]>,
    pub slope: f64,
    pub intercept: f64,
    /// What parts a series into volumes: echo, time, weighting, kind of value, stack.
    pub part: Part,
    pub echo_time: Option<f64>,
}

/// Slices of one volume have one of these.
#[derive(Debug, Clone, Default, PartialEq, PartialOrd)]
pub(crate) struct Part {
    pub stack: Option<String>,
    pub echo: Option<i64>,
    pub time: Option<i64>,
    pub b_value: Option<f64>,
    pub kind: Vec<String>,
}

impl Part {
    pub(crate) fn without_time(&self) -> Self {
        Self { time: None, ..self.clone() }
    }
}

/// What tells the contrast of a series, as the header says it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// Echo, repetition and inversion time in ms.
    pub echo_time: Option<f64>,
    /// See `echo_time`.
    pub repetition_time: Option<f64>,
    /// See `echo_time`.
    pub inversion_time: Option<f64>,
    /// Kinds of the sequence: SE, GR, IR, EP.
    pub scanning_sequence: Vec<String>,
    /// Where the pixels come from: ORIGINAL or DERIVED, PRIMARY or SECONDARY, and kinds.
    pub image_type: Vec<String>,
    /// Names that people gave: description of the series, protocol, sequence.
    pub names: Vec<String>,
    /// The contrast agent, where one is named.
    pub agent: Option<String>,
    /// Whether it was given, where that is said.
    pub agent_administered: Option<bool>,
    /// When it was given, as `hhmmss`.
    pub agent_time: Option<String>,
    /// Contrast that an enhanced image names, such as `FLUID_ATTENUATED`.
    pub contrast: Option<String>,
    /// A picture of vessels.
    pub angiography: bool,
    /// Largest diffusion weighting.
    pub b_value: Option<f64>,
    /// When it was acquired, as `hhmmss`.
    pub acquired: Option<String>,
    /// Part of the body.
    pub body_part: Option<String>,
}

/// One file.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub path: PathBuf,
    pub sop_class: String,
    pub sop_uid: String,
    pub study: String,
    pub study_date: String,
    pub series: String,
    pub series_number: Option<i64>,
    pub description: String,
    pub frame_of_reference: Option<String>,
    pub syntax: String,
    pub lossy: bool,
    pub burned_in: bool,
    pub facts: Facts,
    pub pixels: PixelFormat,
    pub frames: Vec<Frame>,
}

/// What a file of a folder is.
#[derive(Debug)]
pub(crate) enum Kind {
    /// An image of magnetic resonance.
    Image(Box<Instance>),
    /// Another DICOM object: the name of its class.
    Other(String),
    /// Not DICOM.
    Foreign,
}

/// SOP classes that are read.
const CLASSES: [&str; 3] = [
    uids::MR_IMAGE_STORAGE,
    uids::ENHANCED_MR_IMAGE_STORAGE,
    uids::LEGACY_CONVERTED_ENHANCED_MR_IMAGE_STORAGE,
];

/// Reads what a file is; its pixels are only measured.
pub(crate) fn read(path: &Path) -> Result<Kind, DicomError> {
    let bytes = std::fs::read(path).map_err(|source| DicomError::Read { path: path.into(), source })?;
    let checked = match check(&bytes) {
        Ok(checked) => checked,
        Err(Finding::NotDicom) => return Ok(Kind::Foreign),
        Err(broken) => return Err(broken.of(path)),
    };
    let object = parse(&checked).map_err(|reason| DicomError::Damaged { path: path.into(), reason })?;
    let class = text(&object, tags::SOP_CLASS_UID).unwrap_or_default();
    if !CLASSES.contains(&class.as_str()) {
        return Ok(Kind::Other(class_name(&class)));
    }
    let attribute = |reason: String| DicomError::Attribute { path: path.into(), reason };
    let pixels = pixel_format(&object).map_err(attribute)?;
    let count = whole(&object, tags::NUMBER_OF_FRAMES).map_or(1, |n| n.max(0) as usize);
    let Some(place) = &checked.pixels else { return Err(attribute("it has no pixels (7FE0,0010)".into())) };
    if count == 0 {
        return Err(attribute("it has no frames (0028,0008)".into()));
    }
    if let PixelPlace::Native(range) = place {
        let needed = pixels.bytes_of_frame() as u128 * count as u128;
        let found = range.len() as u128;
        if found < needed || found > needed + 1 {
            let reason = format!(
                "{count} x {} x {} pixels of {} bits are {needed} bytes, but its pixels have {found}",
                pixels.rows, pixels.columns, pixels.bits_allocated
            );
            return Err(DicomError::Damaged { path: path.into(), reason });
        }
    }
    let need = |tag: Tag, name: &str| {
        text(&object, tag).ok_or_else(|| attribute(format!("{name} {tag} is missing")))
    };
    let frames = frames(&object, count).map_err(attribute)?;
    Ok(Kind::Image(Box::new(Instance {
        sop_uid: need(tags::SOP_INSTANCE_UID, "SOPInstanceUID")?,
        study: need(tags::STUDY_INSTANCE_UID, "StudyInstanceUID")?,
        series: need(tags::SERIES_INSTANCE_UID, "SeriesInstanceUID")?,
        path: path.into(),
        sop_class: class,
        study_date: text(&object, tags::STUDY_DATE).unwrap_or_default(),
        series_number: whole(&object, tags::SERIES_NUMBER),
        description: text(&object, tags::SERIES_DESCRIPTION).unwrap_or_default(),
        frame_of_reference: text(&object, tags::FRAME_OF_REFERENCE_UID),
        syntax: checked.syntax.clone(),
        lossy: text(&object, tags::LOSSY_IMAGE_COMPRESSION).is_some_and(|v| v == "01"),
        burned_in: text(&object, tags::BURNED_IN_ANNOTATION).is_some_and(|v| v == "YES"),
        facts: facts(&object, &frames),
        pixels,
        frames,
    })))
}

/// The attributes of a file, without its pixels.
///
/// # Errors
/// [`DicomError::Read`], [`DicomError::Damaged`].
pub(crate) fn header(path: &Path) -> Result<InMemDicomObject, DicomError> {
    let bytes = std::fs::read(path).map_err(|source| DicomError::Read { path: path.into(), source })?;
    let checked = check(&bytes).map_err(|finding| finding.of(path))?;
    parse(&checked).map_err(|reason| DicomError::Damaged { path: path.into(), reason })
}

/// The elements before the pixels.
fn parse(checked: &Checked<'_>) -> Result<InMemDicomObject, String> {
    let header = &checked.bytes[checked.header.clone()];
    let syntax = match checked.coding {
        Coding::ImplicitLittle => IMPLICIT_VR_LITTLE_ENDIAN.erased(),
        Coding::ExplicitLittle => EXPLICIT_VR_LITTLE_ENDIAN.erased(),
        Coding::ExplicitBig => EXPLICIT_VR_BIG_ENDIAN.erased(),
    };
    InMemDicomObject::read_dataset_with_ts(header, &syntax).map_err(|error| chain(&error))
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

fn class_name(uid: &str) -> String {
    use dicom_core::dictionary::UidDictionary as _;
    StandardSopClassDictionary.by_uid(uid).map_or_else(|| uid.to_owned(), |entry| entry.name.to_owned())
}

fn pixel_format(object: &InMemDicomObject) -> Result<PixelFormat, String> {
    let number = |tag: Tag, name: &str| match whole(object, tag) {
        Some(value) if (1..=65_535).contains(&value) => Ok(value as usize),
        Some(value) => Err(format!("{name} {tag} is {value}")),
        None => Err(format!("{name} {tag} is missing")),
    };
    let bits_allocated = number(tags::BITS_ALLOCATED, "BitsAllocated")?;
    if ![8, 16, 32].contains(&bits_allocated) {
        return Err(format!("BitsAllocated {} is {bits_allocated}, not 8, 16 or 32", tags::BITS_ALLOCATED));
    }
    let bits_stored = whole(object, tags::BITS_STORED).map_or(bits_allocated, |b| b.max(0) as usize);
    let high_bit = whole(object, tags::HIGH_BIT).map_or(bits_stored.saturating_sub(1), |b| b.max(0) as usize);
    if bits_stored == 0
        || bits_stored > bits_allocated
        || high_bit >= bits_allocated
        || high_bit + 1 < bits_stored
    {
        return Err(format!("{bits_stored} bits up to bit {high_bit} do not fit into {bits_allocated}"));
    }
    Ok(PixelFormat {
        rows: number(tags::ROWS, "Rows")?,
        columns: number(tags::COLUMNS, "Columns")?,
        bits_allocated,
        bits_stored,
        high_bit,
        signed: whole(object, tags::PIXEL_REPRESENTATION) == Some(1),
        samples: whole(object, tags::SAMPLES_PER_PIXEL).map_or(1, |n| n.max(1) as usize),
        inverted: text(object, tags::PHOTOMETRIC_INTERPRETATION).is_some_and(|p| p == "MONOCHROME1"),
    })
}

impl PixelFormat {
    /// Bytes of an uncompressed frame.
    pub(crate) const fn bytes_of_frame(&self) -> usize {
        self.rows * self.columns * self.samples * (self.bits_allocated / 8)
    }
}

/// The places and scales of all frames: from the functional groups of an enhanced image, else from the image itself.
fn frames(object: &InMemDicomObject, count: usize) -> Result<Vec<Frame>, String> {
    let groups = items(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE);
    if groups.is_empty() && count == 1 {
        return Ok(vec![frame(&Groups { own: None, shared: None, object })]);
    }
    if groups.len() != count {
        return Err(format!("it has {count} frames, but places for {}", groups.len()));
    }
    let shared = items(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE).first();
    Ok(groups.iter().map(|own| frame(&Groups { own: Some(own), shared, object })).collect())
}

/// Where the attributes of a frame are: in its own groups, in those of all frames, or in the image.
struct Groups<'a> {
    own: Option<&'a InMemDicomObject>,
    shared: Option<&'a InMemDicomObject>,
    object: &'a InMemDicomObject,
}

impl Groups<'_> {
    /// The first of these places that has the attribute.
    fn find<T>(&self, group: Tag, read: impl Fn(&InMemDicomObject) -> Option<T>) -> Option<T> {
        let nested = [self.own, self.shared].into_iter().flatten();
        nested.filter_map(|groups| items(groups, group).first()).find_map(&read).or_else(|| read(self.object))
    }
}

fn frame(groups: &Groups<'_>) -> Frame {
    let scale = |tag| groups.find(tags::PIXEL_VALUE_TRANSFORMATION_SEQUENCE, |g| number(g, tag));
    let part = Part {
        stack: groups.find(tags::FRAME_CONTENT_SEQUENCE, |g| text(g, tags::STACK_ID)),
        echo: whole(groups.object, tags::ECHO_NUMBERS),
        time: groups
            .find(tags::FRAME_CONTENT_SEQUENCE, |g| whole(g, tags::TEMPORAL_POSITION_INDEX))
            .or_else(|| whole(groups.object, tags::TEMPORAL_POSITION_IDENTIFIER)),
        b_value: groups.find(tags::MR_DIFFUSION_SEQUENCE, |g| number(g, tags::DIFFUSION_B_VALUE)),
        kind: words(groups.object, tags::IMAGE_TYPE).into_iter().skip(2).take(2).collect(),
    };
    Frame {
        position: groups.find(tags::PLANE_POSITION_SEQUENCE, |g| numbers(g, tags::IMAGE_POSITION_PATIENT)),
        orientation: groups
            .find(tags::PLANE_ORIENTATION_SEQUENCE, |g| numbers(g, tags::IMAGE_ORIENTATION_PATIENT)),
        spacing: groups.find(tags::PIXEL_MEASURES_SEQUENCE, |g| numbers(g, tags::PIXEL_SPACING)),
        slope: scale(tags::RESCALE_SLOPE).unwrap_or(1.0),
        intercept: scale(tags::RESCALE_INTERCEPT).unwrap_or(0.0),
        part,
        echo_time: groups.find(tags::MR_ECHO_SEQUENCE, |g| number(g, tags::EFFECTIVE_ECHO_TIME)),
    }
}

fn facts(object: &InMemDicomObject, frames: &[Frame]) -> Facts {
    let own = items(object, tags::PER_FRAME_FUNCTIONAL_GROUPS_SEQUENCE).first();
    let shared = items(object, tags::SHARED_FUNCTIONAL_GROUPS_SEQUENCE).first();
    let groups = Groups { own, shared, object };
    let agent = text(object, tags::CONTRAST_BOLUS_AGENT).or_else(|| {
        let agents = items(object, tags::CONTRAST_BOLUS_AGENT_SEQUENCE);
        agents.first().and_then(|agent| text(agent, tags::CODE_MEANING))
    });
    let names =
        [tags::SERIES_DESCRIPTION, tags::PROTOCOL_NAME, tags::SEQUENCE_NAME, tags::PULSE_SEQUENCE_NAME];
    let b_values = frames.iter().filter_map(|f| f.part.b_value);
    Facts {
        echo_time: number(object, tags::ECHO_TIME).or_else(|| frames.first().and_then(|f| f.echo_time)),
        repetition_time: groups
            .find(tags::MR_TIMING_AND_RELATED_PARAMETERS_SEQUENCE, |g| number(g, tags::REPETITION_TIME)),
        inversion_time: groups
            .find(tags::MR_MODIFIER_SEQUENCE, |g| number(g, tags::INVERSION_TIMES))
            .or_else(|| number(object, tags::INVERSION_TIME)),
        scanning_sequence: words(object, tags::SCANNING_SEQUENCE),
        image_type: words(object, tags::IMAGE_TYPE),
        names: names.into_iter().filter_map(|tag| text(object, tag)).collect(),
        agent,
        agent_administered: groups
            .find(tags::CONTRAST_BOLUS_USAGE_SEQUENCE, |g| text(g, tags::CONTRAST_BOLUS_AGENT_ADMINISTERED))
            .map(|v| v == "YES"),
        agent_time: text(object, tags::CONTRAST_BOLUS_START_TIME),
        contrast: text(object, tags::ACQUISITION_CONTRAST),
        angiography: text(object, tags::ANGIO_FLAG).is_some_and(|v| v == "Y"),
        b_value: b_values.fold(None, |most: Option<f64>, b| Some(most.map_or(b, |m| m.max(b)))),
        acquired: text(object, tags::ACQUISITION_TIME).or_else(|| {
            text(object, tags::ACQUISITION_DATE_TIME).and_then(|t| t.get(8..).map(str::to_owned))
        }),
        body_part: text(object, tags::BODY_PART_EXAMINED),
    }
}

/// The items of a sequence; none where it is absent.
pub(crate) fn items(object: &InMemDicomObject, tag: Tag) -> &[InMemDicomObject] {
    object.get(tag).and_then(|element| element.items()).unwrap_or(&[])
}

/// A text without the spaces around it; `None` where it is absent or empty.
pub(crate) fn text(object: &InMemDicomObject, tag: Tag) -> Option<String> {
    let value = object.get(tag)?.to_str().ok()?;
    let value = value.trim_matches(['\0', ' ']);
    (!value.is_empty()).then(|| value.to_owned())
}

fn words(object: &InMemDicomObject, tag: Tag) -> Vec<String> {
    let all = text(object, tag).unwrap_or_default();
    all.split('\\').map(|word| word.trim().to_ascii_uppercase()).filter(|word| !word.is_empty()).collect()
}

fn number(object: &InMemDicomObject, tag: Tag) -> Option<f64> {
    let value = object.get(tag)?;
    let first = value.to_multi_float64().ok()?.first().copied()?;
    first.is_finite().then_some(first)
}

/// Exactly so many finite numbers.
fn numbers<const N: usize>(object: &InMemDicomObject, tag: Tag) -> Option<[f64; N]> {
    let values = object.get(tag)?.to_multi_float64().ok()?;
    let values: [f64; N] = values.try_into().ok()?;
    values.iter().all(|v| v.is_finite()).then_some(values)
}

fn whole(object: &InMemDicomObject, tag: Tag) -> Option<i64> {
    object.get(tag)?.to_int::<i64>().ok()
}
