//! Cases that are DICOM studies: which series are the model's channels, and the objects that are written next to the label map.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use glioseg_dicom::role::Role;
use glioseg_dicom::write::rtstruct::{Structure, structure_set};
use glioseg_dicom::write::seg::{Segment, segmentation};
use glioseg_dicom::write::{Code, SegOptions, Stamp};
use glioseg_dicom::{DicomError, NamedSeries, Stack, Studies, Study, one_grid};
use glioseg_formats::atomic;
use glioseg_plan::record::SeriesRecord;
use glioseg_plan::{Dataset, Recoding, TumourParts, canonical_channel};
use glioseg_volume::{LabelMap, Volume};

use crate::case::{CaseImages, Origin};
use crate::error::InferError;

/// How studies are read, and what is written for them besides NIfTI.
#[derive(Debug, Clone, Default)]
pub struct DicomOptions {
    /// Series that a user names for a contrast.
    pub series: Vec<NamedSeries>,
    /// Take all series to lie in one frame of reference.
    pub assume_aligned: bool,
    /// Write `CASE.dcm`, a segmentation.
    pub seg: bool,
    /// Write `CASE_rtstruct.dcm`, a structure set.
    pub rtstruct: bool,
}

/// A study whose series are the channels of a case.
#[derive(Debug)]
pub(crate) struct StudyCase {
    pub id: String,
    /// The volumes, in the order of the model's channels; their roles only tell them apart.
    chosen: Vec<(Role, Stack)>,
    /// Which of them gives the grid.
    reference: Role,
    assume_aligned: bool,
}

impl StudyCase {
    /// One file of every series.
    pub(crate) fn files(&self) -> Vec<PathBuf> {
        self.chosen.iter().filter_map(|(_, stack)| Some((*stack.files().first()?).to_owned())).collect()
    }

    fn series(&self) -> Vec<SeriesRecord> {
        let record = |stack: &Stack| SeriesRecord {
            name: stack.name.clone(),
            uid: stack.series_uid().to_owned(),
            study: stack.study_uid().to_owned(),
        };
        self.chosen.iter().map(|(_, stack)| record(stack)).collect()
    }

    /// Reads the pixels and brings all channels onto one grid.
    ///
    /// # Errors
    /// [`InferError::Dicom`], [`InferError::Volume`].
    pub(crate) fn read(&self) -> Result<CaseImages, InferError> {
        let start = Instant::now();
        let chosen: Vec<(Role, &Stack)> = self.chosen.iter().map(|(role, stack)| (*role, stack)).collect();
        let case = one_grid(&chosen, self.reference, self.assume_aligned)?;
        let mut warnings = case.notes;
        for (_, stack) in &self.chosen {
            warnings.extend(stack.notes.iter().map(|note| format!("series {}: {note}", stack.name)));
        }
        let geometry = case.channels[0].1.geometry.clone();
        let channels = case.channels.len();
        let data: Vec<f32> = case.channels.into_iter().flat_map(|(_, volume)| volume.data).collect();
        let image = Volume::new(channels, data, geometry).map_err(glioseg_formats::FormatError::from)?;
        let stack =
            self.chosen.iter().find(|(role, _)| *role == self.reference).map(|(_, stack)| stack.clone());
        let files = self.files();
        let of_channel = (0..channels).collect();
        let origin = match stack {
            Some(stack) => Origin::Dicom { files, of_channel, series: self.series(), stack: Arc::new(stack) },
            None => Origin::Files { files, of_channel },
        };
        Ok(CaseImages::of(self.id.clone(), image, origin, warnings, start.elapsed().as_secs_f64()))
    }
}

/// The studies of an input.
#[derive(Debug, Default)]
pub(crate) struct FoundDicom {
    /// Cases, or why a study is none; in the order of their names.
    pub cases: Vec<(String, Result<StudyCase, InferError>)>,
    /// The studies with the names of their cases, for whoever shows them.
    pub studies: Vec<(String, Study)>,
}

/// Looks for DICOM studies; `None` where the input holds no DICOM images.
///
/// # Errors
/// [`InferError::Dicom`] where a folder cannot be read.
pub(crate) fn find(
    inputs: &[PathBuf],
    channels: &[String],
    options: &DicomOptions,
) -> Result<Option<FoundDicom>, InferError> {
    let mut found = FoundDicom::default();
    let mut folders: Vec<(PathBuf, Study)> = Vec::new();
    for input in inputs {
        let Studies { studies, bad, .. } = Studies::read_all(input)?;
        for error in bad {
            let name = glioseg_diagnose::Diagnose::path(&error).and_then(Path::file_name);
            let name = name.map_or_else(|| "file".to_owned(), |n| n.to_string_lossy().into_owned());
            found.cases.push((name, Err(error.into())));
        }
        folders.extend(studies.into_iter().map(|study| (folder_of(&study, input), study)));
    }
    if folders.is_empty() && found.cases.is_empty() {
        return Ok(None);
    }
    let mut shared: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (folder, _) in &folders {
        *shared.entry(folder.clone()).or_default() += 1;
    }
    let mut taken: Vec<String> = Vec::new();
    for (folder, study) in folders {
        let name = folder.file_name().map_or_else(|| "case".to_owned(), |n| n.to_string_lossy().into_owned());
        let base = if shared[&folder] > 1 { format!("{name}_{}", study.date) } else { name };
        let free = |name: &String| !taken.contains(name);
        let id = (1..=taken.len() + 1)
            .map(|n| if n == 1 { base.clone() } else { format!("{base}_{n}") })
            .find(free);
        let id = id.unwrap_or(base);
        taken.push(id.clone());
        let case = case_of(&id, &study, channels, options);
        found.cases.push((id.clone(), case));
        found.studies.push((id, study));
    }
    found.cases.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(Some(found))
}

/// The deepest folder that holds all files of a study.
fn folder_of(study: &Study, input: &Path) -> PathBuf {
    let mut files =
        study.series.iter().flat_map(|s| &s.stacks).flat_map(Stack::files).filter_map(Path::parent);
    let Some(first) = files.next() else { return input.to_owned() };
    let common = files.fold(first.to_owned(), |common, folder| {
        common.ancestors().find(|a| folder.starts_with(a)).map_or_else(|| common.clone(), Path::to_owned)
    });
    // `.` and `..` have no name.
    if common.file_name().is_some() { common } else { common.canonicalize().unwrap_or(common) }
}

fn case_of(
    id: &str,
    study: &Study,
    channels: &[String],
    options: &DicomOptions,
) -> Result<StudyCase, InferError> {
    let named = options.series.as_slice();
    let case = |chosen: Vec<(Role, Stack)>| {
        let reference =
            chosen.iter().map(|(role, _)| *role).find(|role| *role == Role::T1c).unwrap_or(chosen[0].0);
        StudyCase { id: id.to_owned(), chosen, reference, assume_aligned: options.assume_aligned }
    };
    // A model of one channel takes the only volume there is, whatever it is called.
    let usable = || study.series.iter().filter(|s| s.left_out.is_none()).flat_map(|s| &s.stacks);
    if let ([_], true, Some(stack)) = (channels, usable().count() == 1 && named.is_empty(), usable().next()) {
        return Ok(case(vec![(Role::T1c, stack.clone())]));
    }
    let roles = channels.iter().map(|channel| {
        let plain = canonical_channel(channel);
        let role = Role::ALL.into_iter().find(|role| role.name() == plain);
        role.ok_or_else(|| InferError::NotAContrast { channel: channel.clone() })
    });
    let roles = roles.collect::<Result<Vec<Role>, _>>()?;
    let chosen = study.choose(&roles, named)?;
    Ok(case(chosen.into_iter().map(|(role, stack)| (role, stack.clone())).collect()))
}

/// Writes the objects of a case next to its label map.
#[derive(Debug)]
pub(crate) struct ObjectWriter {
    pub seg: bool,
    pub rtstruct: bool,
    pub segments: Vec<Segment>,
    pub model: String,
}

impl ObjectWriter {
    /// `CASE.dcm`.
    pub(crate) fn seg_path(folder: &Path, case: &str) -> PathBuf {
        folder.join(format!("{case}.dcm"))
    }

    /// # Errors
    /// [`InferError::Dicom`], [`InferError::Volume`].
    pub(crate) fn write(
        &self,
        folder: &Path,
        case: &str,
        labels: &LabelMap,
        stack: &Stack,
    ) -> Result<(), InferError> {
        let options = SegOptions { model: self.model.clone(), stamp: Stamp::default() };
        if self.rtstruct {
            let bytes = structure_set(labels.clone(), stack, &structures(&self.segments), &options)?;
            atomic::write(&folder.join(format!("{case}_rtstruct.dcm")), |file| file.write_all(&bytes))?;
        }
        if self.seg {
            let bytes = segmentation(labels.clone(), stack, &self.segments, &options)?;
            atomic::write(&Self::seg_path(folder, case), |file| file.write_all(&bytes))?;
        }
        Ok(())
    }
}

const NECROSIS: &str = "necrosis and non-enhancing core";
const OEDEMA: &str = "oedema";
const ENHANCING: &str = "enhancing tumour";

/// What the labels of a dataset are, in the standard's terms; values as `recoding` writes them.
pub fn segments_of(dataset: &Dataset, recoding: &Recoding) -> Vec<Segment> {
    let mut segments = TumourParts::of(dataset)
        .map_or_else(|_| segments_by_name(dataset), |parts| segments_of_parts(&parts));
    for segment in &mut segments {
        let mut value = [segment.value];
        if recoding.apply(&mut value).is_ok() {
            segment.value = value[0];
        }
    }
    segments.sort_by_key(|s| s.value);
    segments
}

fn abnormal() -> Code {
    Code::new("49755003", "SCT", "Morphologically Abnormal Structure")
}

fn lesion() -> Code {
    Code::new("52988006", "SCT", "Lesion")
}

/// Parts of a tumour: context group 7168 of the standard, which has no code for a cavity.
pub fn segments_of_parts(parts: &TumourParts) -> Vec<Segment> {
    let segment = |value, label: &str, kind, rgb| Segment {
        value,
        label: label.into(),
        category: abnormal(),
        kind,
        rgb,
    };
    let mut all = vec![
        segment(parts.necrosis, NECROSIS, Code::new("6574001", "SCT", "Necrosis"), [214, 39, 40]),
        segment(parts.oedema, OEDEMA, Code::new("79654002", "SCT", "Edema"), [44, 160, 44]),
        segment(parts.enhancing, ENHANCING, Code::new("C113842", "NCIt", "Enhancing Lesion"), [255, 200, 40]),
    ];
    all.extend(parts.cavity.map(|value| segment(value, "resection cavity", lesion(), [31, 119, 180])));
    all.sort_by_key(|s| s.value);
    all
}

/// Labels of any other dataset: their names, and colours that tell them apart.
fn segments_by_name(dataset: &Dataset) -> Vec<Segment> {
    const COLOURS: [[u8; 3]; 8] = [
        [214, 39, 40],
        [44, 160, 44],
        [31, 119, 180],
        [255, 200, 40],
        [148, 103, 189],
        [140, 86, 75],
        [227, 119, 194],
        [23, 190, 207],
    ];
    let foreground = dataset.labels.foreground().into_iter();
    foreground
        .enumerate()
        .map(|(i, (name, value))| Segment {
            value,
            label: if name.is_empty() { format!("label {value}") } else { name.to_owned() },
            category: abnormal(),
            kind: lesion(),
            rgb: COLOURS[i % COLOURS.len()],
        })
        .collect()
}

/// Every segment, and for parts of a tumour the regions that radiotherapy asks for: the tumour's core and the whole tumour.
pub fn structures(segments: &[Segment]) -> Vec<Structure> {
    let named = |name: &str| segments.iter().find(|s| s.label == name).map(|s| s.value);
    let gross = |s: &Segment| s.label == NECROSIS || s.label == ENHANCING;
    let mut all: Vec<Structure> = segments
        .iter()
        .map(|s| Structure {
            name: s.label.clone(),
            labels: vec![s.value],
            rgb: s.rgb,
            gross_tumour: gross(s),
        })
        .collect();
    if let (Some(necrosis), Some(oedema), Some(enhancing)) =
        (named(NECROSIS), named(OEDEMA), named(ENHANCING))
    {
        let region = |name: &str, labels: &[u16], rgb| Structure {
            name: name.into(),
            labels: labels.to_vec(),
            rgb,
            gross_tumour: true,
        };
        all.push(region("tumour core", &[necrosis, enhancing], [255, 127, 14]));
        all.push(region("whole tumour", &[necrosis, enhancing, oedema], [188, 189, 34]));
    }
    all
}

impl From<DicomError> for InferError {
    fn from(error: DicomError) -> Self {
        Self::Dicom(Box::new(error))
    }
}
