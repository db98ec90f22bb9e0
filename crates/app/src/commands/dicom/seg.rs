//! `glioseg dicom seg` and `rtstruct`: a label map as a DICOM object of the series it belongs to.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use glioseg_diagnose::count;
use glioseg_dicom::role::{Role, Verdict};
use glioseg_dicom::write::rtstruct::structure_set;
use glioseg_dicom::write::seg::{Segment, segmentation};
use glioseg_dicom::write::{Code, SegOptions, Stamp};
use glioseg_dicom::{DicomError, LeftOut, Stack, Studies};
use glioseg_formats::{atomic, nifti};
use glioseg_infer::dicom::{segments_of, segments_of_parts, structures};
use glioseg_plan::{Convention, Recoding};
use glioseg_volume::LabelMap;
use glioseg_volume::resample::affine_labels;
use serde::Deserialize;

use super::super::{Outcome, described, print};
use super::{no_images, read};
use crate::problem::Problem;
use crate::ui::Ui;

/// A label map, the study it belongs to, and what its labels mean.
///
/// The label map must lie on the grid of one of the series, in whatever order of the axes. The object says that it is for
/// research only; it is not a medical device's.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg dicom seg predicted/case.nii.gz --source study -o case.dcm\n\n\
    Exit code: 0 written, 2 could not be written.")]
pub(crate) struct DicomObject {
    /// The label map, on the grid of one of the series
    #[arg(value_name = "LABELS")]
    pub(crate) input: PathBuf,
    /// Folder of the study
    #[arg(long, value_name = "STUDY")]
    pub(crate) source: PathBuf,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Number or UID of the series [default: the one whose grid the label map has]
    #[arg(long, value_name = "SERIES")]
    pub(crate) series: Option<String>,
    /// Bring a label map from another grid onto that of the series, by the nearest voxel
    #[arg(long, requires = "series")]
    pub(crate) resample: bool,
    /// Says what the labels mean [default: dataset.json next to the label map]
    #[arg(long, value_name = "dataset.json", help_heading = "Labels")]
    pub(crate) dataset: Option<PathBuf>,
    /// Coding of the labels: 1-2-4 (brats2018 to brats2022), 1-2-3 (brats2023), 1-2-3-4 (brats2024) or nnunet
    #[arg(long, value_name = "CODING", conflicts_with = "dataset", help_heading = "Labels")]
    pub(crate) labels: Option<Convention>,
    /// Names, codes and colours of the labels, in dcmqi's form of JSON
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dataset", "labels"], help_heading = "Labels")]
    pub(crate) segment_codes: Option<PathBuf>,
    /// Name of the model or method, as the object names it
    #[arg(long, value_name = "TEXT", default_value = "", help_heading = "Object")]
    pub(crate) model: String,
    /// Root of the identities, where the institution has one [default: 2.25]
    #[arg(long, value_name = "UID", value_parser = root, help_heading = "Object")]
    pub(crate) uid_root: Option<String>,
}

fn root(text: &str) -> Result<String, String> {
    let part =
        |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()) && (p == "0" || !p.starts_with('0'));
    let fits = text.len() <= 40 && text.split('.').count() > 1 && text.split('.').all(part);
    if fits {
        Ok(text.to_owned())
    } else {
        Err("numbers with points between them, such as 1.2.826.0.1.3680043.2.1143".into())
    }
}

/// Which object is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// A segmentation.
    Seg,
    /// A structure set.
    Rtstruct,
}

pub(crate) fn run(options: &DicomObject, form: Form, ui: &Ui) -> anyhow::Result<Outcome> {
    let map = nifti::read_labels(&options.input)?;
    let segments = segments(options, &map, ui)?;
    let found = read(&options.source, ui)?;
    if found.studies.is_empty() {
        return Err(no_images(&options.source, &found));
    }
    let stack = series_of(options, &map, &found)?;
    let map = if options.resample { onto(stack, &map)? } else { map };
    let seg = SegOptions {
        model: options.model.clone(),
        stamp: Stamp { uid_root: options.uid_root.clone(), ..Stamp::default() },
    };
    let (bytes, what) = match form {
        Form::Seg => (segmentation(map, stack, &segments, &seg)?, count(segments.len(), "segment")),
        Form::Rtstruct => {
            let structures = structures(&segments);
            (structure_set(map, stack, &structures, &seg)?, count(structures.len(), "structure"))
        }
    };
    atomic::write(&options.output, |file| file.write_all(&bytes))?;
    ui.say(&format!("{what} on series {}", stack.name));
    print(&options.output.display().to_string())?;
    Ok(Outcome::Done)
}

/// The volume that was named, or the one whose grid the map has: that with contrast agent where several have it.
fn series_of<'a>(options: &DicomObject, map: &LabelMap, found: &'a Studies) -> anyhow::Result<&'a Stack> {
    let all = || {
        found
            .studies
            .iter()
            .flat_map(|study| &study.series)
            .flat_map(|series| series.stacks.iter().map(move |s| (series, s)))
    };
    if let Some(wanted) = &options.series {
        let named = all().find(|(series, stack)| stack.name == *wanted || series.uid == *wanted);
        if let Some((_, stack)) = named {
            return Ok(stack);
        }
        let fault = found
            .studies
            .iter()
            .flat_map(|s| &s.series)
            .find(|s| s.uid == *wanted || s.number.is_some_and(|n| n.to_string() == *wanted));
        if let Some(LeftOut::Fault(error)) = fault.and_then(|s| s.left_out.as_ref()) {
            return Err(Problem::new(
                error.to_string(),
                glioseg_diagnose::Diagnose::hint(error).unwrap_or_default(),
            ));
        }
        let known: Vec<&str> = all().map(|(_, stack)| stack.name.as_str()).collect();
        return Err(DicomError::UnknownSeries { series: wanted.clone(), known: known.join(", ") }.into());
    }
    let fitting: Vec<&Stack> =
        all().map(|(_, stack)| stack).filter(|stack| stack.has_grid(&map.geometry)).collect();
    let with_agent = found.studies.iter().flat_map(|study| study.list(&[])).find_map(|listed| {
        let chosen = matches!(listed.verdict, Verdict::Chosen(Role::T1c, _));
        listed.stack.filter(|stack| chosen && stack.has_grid(&map.geometry))
    });
    if let Some(stack) = with_agent.or_else(|| fitting.first().copied()) {
        return Ok(stack);
    }
    let names: Vec<&str> = all().map(|(_, stack)| stack.name.as_str()).collect();
    Err(Problem::new(
        format!(
            "no series of {} has the grid of {} ({} x {} x {} voxels)",
            options.source.display(),
            options.input.display(),
            map.shape()[0],
            map.shape()[1],
            map.shape()[2]
        ),
        format!(
            "give the label map that belongs to the study, or name a series and bring the map onto its grid with --series NUMBER \
             --resample; series: {}",
            names.join(", ")
        ),
    ))
}

/// The map on the grid of a volume, by the nearest voxel.
fn onto(stack: &Stack, map: &LabelMap) -> anyhow::Result<LabelMap> {
    let grid = &stack.geometry;
    let to_map = map.geometry.affine().inverse()?.compose(&grid.affine());
    let data = affine_labels(&map.data, map.shape(), grid.shape, &to_map);
    Ok(LabelMap::new(data, grid.clone())?)
}

/// What the labels are: as dcmqi's file says, as the coding, as the dataset.
fn segments(options: &DicomObject, map: &LabelMap, ui: &Ui) -> anyhow::Result<Vec<Segment>> {
    if let Some(path) = &options.segment_codes {
        return from_dcmqi(path);
    }
    if let Some(coding) = options.labels {
        return Ok(segments_of_parts(&coding.parts()));
    }
    let folder = options.input.parent().unwrap_or(Path::new("."));
    let Some(dataset) = described(options.dataset.as_deref(), [folder], ui)? else {
        let values: Vec<String> =
            map.counts().into_keys().filter(|&v| v > 0).map(|v| v.to_string()).collect();
        return Err(Problem::new(
            format!(
                "the meaning of the labels in {} is unknown ({})",
                options.input.display(),
                values.join(", ")
            ),
            "give --dataset dataset.json, --labels 1-2-4, 1-2-3, 1-2-3-4 or nnunet, or --segment-codes FILE",
        ));
    };
    Ok(segments_of(&dataset, &Recoding::default()))
}

/// dcmqi's description of segments, as far as it is used.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Dcmqi {
    segment_attributes: Vec<Vec<DcmqiSegment>>,
}

#[derive(Debug, Deserialize)]
struct DcmqiSegment {
    #[serde(rename = "labelID")]
    label_id: u16,
    #[serde(rename = "SegmentLabel")]
    label: Option<String>,
    #[serde(rename = "SegmentDescription")]
    description: Option<String>,
    #[serde(rename = "SegmentedPropertyCategoryCodeSequence")]
    category: DcmqiCode,
    #[serde(rename = "SegmentedPropertyTypeCodeSequence")]
    kind: DcmqiCode,
    #[serde(rename = "recommendedDisplayRGBValue")]
    rgb: Option<[u8; 3]>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DcmqiCode {
    code_value: String,
    coding_scheme_designator: String,
    code_meaning: String,
}

fn from_dcmqi(path: &Path) -> anyhow::Result<Vec<Segment>> {
    let refused = |reason: String| {
        Problem::new(
            format!("{} does not describe segments: {reason}", path.display()),
            "write it as dcmqi does: segmentAttributes with labelID, SegmentLabel and the code sequences of each segment",
        )
    };
    let bytes = std::fs::read(path).map_err(|error| {
        Problem::new(format!("cannot read {}: {error}", path.display()), "check the path")
    })?;
    let read: Dcmqi = serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))?;
    let code = |c: DcmqiCode| Code {
        value: c.code_value,
        scheme: c.coding_scheme_designator,
        meaning: c.code_meaning,
    };
    let mut segments: Vec<Segment> = Vec::new();
    for one in read.segment_attributes.into_iter().flatten() {
        if one.label_id == 0 || segments.iter().any(|s| s.value == one.label_id) {
            return Err(refused(format!("labelID {} is 0 or named twice", one.label_id)));
        }
        let label = one.label.or(one.description).unwrap_or_else(|| one.kind.code_meaning.clone());
        segments.push(Segment {
            value: one.label_id,
            label,
            category: code(one.category),
            kind: code(one.kind),
            rgb: one.rgb.unwrap_or([128, 174, 128]),
        });
    }
    if segments.is_empty() {
        return Err(refused("segmentAttributes is empty".into()));
    }
    Ok(segments)
}
