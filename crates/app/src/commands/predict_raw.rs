//! `glioseg predict --raw`: scans prepared, segmented, and the segmentation brought back to a scan.

use std::path::{Path, PathBuf};

use glioseg_formats::nifti;
use glioseg_plan::record::CaseStatus;
use glioseg_workflow::preprocess::{PreprocessError, PreprocessRecord, RECORD, StudyRecord, to_scan};

use super::apply::volumes;
use super::preprocess::{FileNames, Interpolation, Preprocess};
use super::{Outcome, predict, preprocess};
use crate::cli::Predict;
use crate::ui::Ui;

/// Folder in OUT of the prepared images.
const PREPARED: &str = "prepared";
/// Folder in OUT of the label maps on the grids of the scans. Apart from the others, so that nobody takes them for further cases.
const NATIVE: &str = "native";

pub(crate) fn run(options: &Predict, ui: &Ui) -> anyhow::Result<Outcome> {
    let prepared = options.output.join(PREPARED);
    let scans = Preprocess {
        input: options.input.clone(),
        t1n: None,
        t1c: None,
        t2w: None,
        t2f: None,
        case: None,
        output: prepared.clone(),
        space: options.scans.space,
        atlas: options.scans.atlas.clone(),
        center: None,
        brain: options.scans.brain.clone(),
        brain_mask: options.scans.brain_mask.clone(),
        mirroring: false,
        compute: options.compute.clone(),
        names: FileNames::Brats2023,
        interpolation: Interpolation::Linear,
        strict: options.strict,
        continue_: options.continue_,
        json: false,
    };
    let (first, stopped) = preprocess::prepare(&scans, ui, false)?;
    let record = PreprocessRecord::read(&prepared.join(RECORD))?;
    if stopped || !record.cases.iter().any(|study| study.status == CaseStatus::Done) {
        return Ok(Outcome::SomeFailed);
    }
    let mut cases = options.clone();
    cases.scans.raw = false;
    cases.input = vec![prepared];
    let second = predict::run(&cases, ui)?;
    let folder = options.output.join(NATIVE);
    std::fs::create_dir_all(&folder)
        .map_err(|source| PreprocessError::Output { path: folder.clone(), source })?;
    for study in record.cases.iter().filter(|study| study.status == CaseStatus::Done) {
        let written =
            [".nii.gz", ".nii"].map(|ending| options.output.join(format!("{}{ending}", study.case)));
        // A case that failed has no label map; that was told.
        let Some(labels) = written.iter().find(|path| path.is_file()) else { continue };
        back(study, labels, &folder, ui)?;
    }
    Ok(if (first, second) == (Outcome::Done, Outcome::Done) { Outcome::Done } else { Outcome::SomeFailed })
}

/// Writes a label map on the grid of the study's centre channel.
fn back(study: &StudyRecord, labels: &Path, folder: &Path, ui: &Ui) -> anyhow::Result<()> {
    let Some(centre) = study.channels.iter().find(|channel| channel.channel == study.center) else {
        return Ok(());
    };
    let scan = nifti::read_info(&centre.file)?.geometry;
    let on_scan =
        to_scan(&nifti::read_labels(labels)?, &centre.transform().map_err(PreprocessError::from)?, &scan)?;
    let path: PathBuf = folder.join(labels.file_name().unwrap_or_default());
    nifti::write_labels(&path, &on_scan)?;
    ui.say(&format!(
        "{} on {} | mL by label {}",
        path.display(),
        centre.file.display(),
        volumes(&on_scan).replace('\t', ", ")
    ));
    Ok(())
}
