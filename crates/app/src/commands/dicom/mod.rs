//! `glioseg dicom`: what a folder of DICOM files holds, and its series as volumes.

mod seg;

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use glioseg_diagnose::{Diagnose as _, count};
use glioseg_dicom::role::{Role, Verdict};
use glioseg_dicom::{DicomError, LeftOut, Listed, NamedSeries, Studies, Study, one_grid};
use glioseg_formats::nifti;
use serde_json::json;

use seg::{DicomObject, Form};

use super::table::table;
use super::{Outcome, print};
use crate::ui::{Ui, about};

/// Read DICOM studies, and write segmentations: list the series, convert them to NIfTI, label maps back
#[derive(Debug, Subcommand)]
pub(crate) enum DicomCommand {
    /// Say which series a study has, and which of them are T1, T1 with contrast agent, T2 and FLAIR
    List(DicomList),
    /// Write a study's contrasts as NIfTI images on one grid, or every series as it is
    Convert(DicomConvert),
    /// Write a label map as a DICOM segmentation (SEG) of a series
    Seg(DicomObject),
    /// Write a label map as a DICOM structure set (RTSTRUCT) of a series
    Rtstruct(DicomObject),
}

/// Looks at the headers of all files in a folder: its studies, their series, and which contrast each is, with the reason.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg dicom list study\n\n\
    Echo, repetition and inversion times decide before names; contrast agent is told by the header, by names and by times. What\n\
    cannot be a volume (missing or sheared slices, several volumes in one series) is named with the reason.\n\n\
    Exit code: 0 listed, 1 some file is damaged, 2 could not start.")]
pub(crate) struct DicomList {
    /// Folder of a study, or of several
    #[arg(value_name = "STUDY")]
    pub(crate) input: PathBuf,
    /// One line of JSON per series on stdout instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// Writes CASE-t1n.nii.gz, CASE-t1c.nii.gz, CASE-t2w.nii.gz and CASE-t2f.nii.gz, where CASE is the name of the output folder.
///
/// The series with contrast agent gives the grid, turned so that its slices are axial but not resampled; the others are
/// resampled onto it by their headers. Nothing is registered, and the skull stays: models trained on BraTS images expect
/// registered images without skull.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  glioseg dicom convert study -o case\n  \
    glioseg dicom convert study -o series --grid none\n  \
    glioseg dicom convert study -o case --series t1c=8 --series t2f=9\n\n\
    A folder with several studies becomes a folder of cases, named by their dates.\n\n\
    Exit code: 0 all studies done, 1 some study or file failed, 2 could not start.")]
pub(crate) struct DicomConvert {
    /// Folder of a study, or of several
    #[arg(value_name = "STUDY")]
    pub(crate) input: PathBuf,
    /// Folder for the images; made if it is not there
    #[arg(short, long, value_name = "CASE")]
    pub(crate) output: PathBuf,
    /// Series that gives the grid: t1n, t1c, t2w or t2f; or `none`: every series as it is
    #[arg(long, value_name = "CONTRAST", default_value = "t1c", value_parser = grid)]
    pub(crate) grid: Grid,
    /// Takes this series for a contrast: t1c=8, with a number or UID that `dicom list` shows; may be repeated
    #[arg(long, value_name = "CONTRAST=SERIES", value_parser = named)]
    pub(crate) series: Vec<NamedSeries>,
    /// Trust that all series lie in one frame of reference, though their headers do not say so
    #[arg(long)]
    pub(crate) assume_aligned: bool,
}

/// What gives the grid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grid {
    /// The series of this contrast.
    Of(Role),
    /// Nothing: every series has its own.
    None,
}

fn grid(text: &str) -> Result<Grid, String> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(Grid::None);
    }
    let role = Role::ALL.into_iter().find(|role| role.name().eq_ignore_ascii_case(text));
    role.map(Grid::Of).ok_or_else(|| "t1n, t1c, t2w, t2f or none".into())
}

pub(crate) fn named(text: &str) -> Result<NamedSeries, String> {
    text.parse().map_err(|error: glioseg_dicom::NamedSeriesError| {
        format!("{error}; {}", error.hint().unwrap_or_default())
    })
}

pub(crate) fn run(command: &DicomCommand, ui: &Ui) -> anyhow::Result<Outcome> {
    match command {
        DicomCommand::List(options) => list(options, ui),
        DicomCommand::Convert(options) => convert(options, ui),
        DicomCommand::Seg(options) => seg::run(options, Form::Seg, ui),
        DicomCommand::Rtstruct(options) => seg::run(options, Form::Rtstruct, ui),
    }
}

/// Looks at all headers, and tells what is wrong with files.
fn read(input: &Path, ui: &Ui) -> anyhow::Result<Studies> {
    ui.begin("reading headers");
    let found = Studies::read_all(input);
    ui.stop();
    let found = found?;
    for error in &found.bad {
        ui.fail(&about(error));
    }
    Ok(found)
}

fn no_images(input: &Path, found: &Studies) -> anyhow::Error {
    DicomError::NoImages { path: input.to_owned(), found: found.others_in_words() }.into()
}

fn list(options: &DicomList, ui: &Ui) -> anyhow::Result<Outcome> {
    let found = read(&options.input, ui)?;
    if found.studies.is_empty() && found.bad.is_empty() {
        return Err(no_images(&options.input, &found));
    }
    for study in &found.studies {
        let listed = study.list(&[]);
        if options.json {
            for one in &listed {
                print(&json_line(study, one).to_string())?;
            }
        } else {
            show(study, &listed, print)?;
        }
    }
    let others = found.others_in_words();
    if !others.is_empty() {
        ui.say(&format!("also there: {others}"));
    }
    Ok(if found.bad.is_empty() { Outcome::Done } else { Outcome::SomeFailed })
}

fn json_line(study: &Study, one: &Listed<'_>) -> serde_json::Value {
    let (role, what, reason) = match &one.verdict {
        Verdict::Chosen(role, reason) => (Some(role.name()), "chosen", reason),
        Verdict::AlsoPossible(role, reason) => (Some(role.name()), "also_possible", reason),
        Verdict::Out(reason) => (None, "out", reason),
        Verdict::Undecided(reason) => (None, "undecided", reason),
    };
    let facts = one.stack.map_or(&one.series.facts, |stack| &stack.facts);
    json!({
        "study": study.uid,
        "date": study.date,
        "series": one.stack.map_or_else(|| one.series.number.map(|n| n.to_string()), |s| Some(s.name.clone())),
        "uid": one.series.uid,
        "description": one.series.description,
        "files": one.series.files,
        "shape_zyx": one.stack.map(|s| s.geometry.shape),
        "spacing_zyx_mm": one.stack.map(|s| s.geometry.spacing),
        "echo_time_ms": facts.echo_time,
        "repetition_time_ms": facts.repetition_time,
        "inversion_time_ms": facts.inversion_time,
        "contrast": role,
        "verdict": what,
        "reason": reason,
        "notes": notes(one),
    })
}

fn notes<'a>(one: &Listed<'a>) -> Vec<&'a str> {
    let of_stack = one.stack.iter().flat_map(|s| &s.notes);
    one.series.notes.iter().chain(of_stack).map(String::as_str).collect()
}

/// The series of a study, the chosen ones first.
pub(crate) fn show(
    study: &Study,
    listed: &[Listed<'_>],
    mut line: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let files: usize = study.series.iter().map(|s| s.files).sum();
    line(&format!("{}: {} series, {}", study.title(), study.series.len(), count(files, "file")))?;
    let order = |one: &&Listed<'_>| match &one.verdict {
        Verdict::Chosen(role, _) => (0, Some(*role)),
        Verdict::AlsoPossible(role, _) => (1, Some(*role)),
        Verdict::Undecided(_) => (2, None),
        Verdict::Out(_) => (3, None),
    };
    let mut sorted: Vec<&Listed<'_>> = listed.iter().collect();
    sorted.sort_by_key(order);
    let mut rows = vec![["", "series", "description", "voxels", "mm", "why"].map(str::to_owned).to_vec()];
    for one in sorted {
        let (role, why) = match &one.verdict {
            Verdict::Chosen(role, reason) => (role.to_string(), reason.clone()),
            Verdict::AlsoPossible(role, reason) => {
                ("-".to_owned(), format!("also possible for {role}: {reason}"))
            }
            Verdict::Undecided(reason) => ("?".to_owned(), format!("T1 with or without agent: {reason}")),
            Verdict::Out(reason) => ("-".to_owned(), reason.clone()),
        };
        let number = || one.series.number.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let size = |values: [String; 3]| values.join(" x ");
        rows.push(vec![
            role,
            one.stack.map_or_else(number, |s| s.name.clone()),
            one.series.description.clone(),
            one.stack.map(|s| size(s.geometry.shape.map(|n| n.to_string()))).unwrap_or_default(),
            one.stack.map(|s| size(s.geometry.spacing.map(millimetres))).unwrap_or_default(),
            std::iter::once(why.as_str()).chain(notes(one)).collect::<Vec<_>>().join("; "),
        ]);
    }
    table(&rows, 6).iter().try_for_each(|row| line(row))
}

/// `0.9375`, `2`.
fn millimetres(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn convert(options: &DicomConvert, ui: &Ui) -> anyhow::Result<Outcome> {
    let found = read(&options.input, ui)?;
    if found.studies.is_empty() {
        ui.fail(&about(no_images(&options.input, &found).as_ref()));
        return Ok(Outcome::SomeFailed);
    }
    let mut failed = !found.bad.is_empty();
    let folders = folders(&options.output, &found.studies);
    for (study, folder) in found.studies.iter().zip(folders) {
        let done = match options.grid {
            Grid::None => every_series(study, &folder, ui),
            Grid::Of(reference) => contrasts(study, &folder, reference, options, ui),
        };
        match done {
            Ok(all) => failed |= !all,
            Err(error) => {
                failed = true;
                ui.fail(&format!("{}: {}", study.title(), about(error.as_ref())));
            }
        }
    }
    Ok(if failed { Outcome::SomeFailed } else { Outcome::Done })
}

/// One folder per study: the output itself, or folders in it that are named by it and the date.
fn folders(output: &Path, studies: &[Study]) -> Vec<PathBuf> {
    if studies.len() == 1 {
        return vec![output.to_owned()];
    }
    let mut taken: Vec<String> = Vec::new();
    for study in studies {
        let date = if study.date.is_empty() { "undated" } else { &study.date };
        let base = format!("{}_{date}", case_name(output));
        let same = |name: &str| taken.iter().any(|t| t == name);
        let name = (1..=studies.len())
            .map(|n| if n == 1 { base.clone() } else { format!("{base}_{n}") })
            .find(|n| !same(n));
        taken.extend(name);
    }
    taken.iter().map(|name| output.join(name)).collect()
}

/// The case is named by its folder, never by what the files say of the patient.
fn case_name(folder: &Path) -> String {
    folder.file_name().map_or_else(|| "case".to_owned(), |name| name.to_string_lossy().into_owned())
}

fn make(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// Writes the four contrasts on one grid.
fn contrasts(
    study: &Study,
    folder: &Path,
    reference: Role,
    options: &DicomConvert,
    ui: &Ui,
) -> anyhow::Result<bool> {
    let listed = study.list(&options.series);
    show(study, &listed, |line| {
        ui.say(line);
        Ok(())
    })?;
    let chosen = study.choose(&Role::ALL, &options.series)?;
    ui.begin("reading pixels");
    let case = one_grid(&chosen, reference, options.assume_aligned);
    ui.stop();
    let case = case?;
    for note in &case.notes {
        ui.warn(note);
    }
    make(folder)?;
    for (role, volume) in &case.channels {
        let path = folder.join(format!("{}-{role}.nii.gz", case_name(folder)));
        nifti::write_volume(&path, volume)?;
        print(&path.display().to_string())?;
    }
    Ok(true)
}

/// Writes every volume as it is; false if some series has a fault.
fn every_series(study: &Study, folder: &Path, ui: &Ui) -> anyhow::Result<bool> {
    let mut all = true;
    let mut written = 0;
    for series in &study.series {
        match &series.left_out {
            Some(LeftOut::Fault(error)) => {
                all = false;
                ui.fail(&about(error));
                continue;
            }
            Some(LeftOut::NotAVolume(reason)) => {
                ui.say(&format!("{} is left out: {reason}", series.title()));
                continue;
            }
            None => {}
        }
        for note in series.notes.iter().chain(series.stacks.iter().flat_map(|s| &s.notes)) {
            ui.warn(&format!("{}: {note}", series.title()));
        }
        for stack in &series.stacks {
            match stack.read() {
                Ok(volume) => {
                    make(folder)?;
                    let path = folder.join(format!("series_{}.nii.gz", stack.name));
                    nifti::write_volume(&path, &volume)?;
                    print(&path.display().to_string())?;
                    written += 1;
                }
                Err(error) => {
                    all = false;
                    ui.fail(&about(&error));
                }
            }
        }
    }
    if written == 0 && all {
        ui.fail(&format!("{} has no volume", study.title()));
    }
    Ok(all && written > 0)
}
