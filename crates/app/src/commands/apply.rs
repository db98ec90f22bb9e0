//! `glioseg apply`: a label map of the space on the grids of the scans.

use std::path::{Path, PathBuf};

use clap::Args;
use glioseg_formats::nifti;
use glioseg_volume::LabelMap;
use glioseg_workflow::preprocess::{PreprocessError, to_scan, way_to_scan};

use super::Outcome;
use crate::problem::Problem;
use crate::ui::Ui;

/// Brings a label map from the space of BraTS back to the grid of a scan.
///
/// Every voxel of the scan gets the label of the nearest voxel in the space, and 0 outside of it. The file that is written has exactly
/// the header of the scan, so that every viewer lays it over it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  glioseg apply predicted/P01.nii.gz --to raw/P01_t1c.nii.gz --transforms prepared -o P01_on_t1c.nii.gz\n  \
    glioseg apply predicted/P01.nii.gz --to raw/P01_t1c.nii.gz raw/P01_t2.nii.gz --transforms prepared -o on_the_scans"
)]
pub(crate) struct Apply {
    /// Label map in the space, such as predicted/CASE.nii.gz
    #[arg(value_name = "LABELS")]
    pub(crate) labels: PathBuf,
    /// Scan whose grid is wanted: one that `glioseg preprocess` read; may be several
    #[arg(long, value_name = "SCAN", required = true, num_args = 1..)]
    pub(crate) to: Vec<PathBuf>,
    /// Output folder of `glioseg preprocess`, its folder `transforms`, or the file of a transform (.mat, .tfm, text of greedy) that takes a
    /// point of the space to that of the scan
    #[arg(long, value_name = "DIR|FILE")]
    pub(crate) transforms: PathBuf,
    /// File to write; with several scans, a folder for files called as the scans are
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
}

pub(crate) fn run(options: &Apply, ui: &Ui) -> anyhow::Result<Outcome> {
    let labels = nifti::read_labels(&options.labels)?;
    let written: Vec<PathBuf> = match &options.to[..] {
        [_] => vec![options.output.clone()],
        several => {
            several.iter().map(|scan| options.output.join(scan.file_name().unwrap_or_default())).collect()
        }
    };
    for (i, path) in written.iter().enumerate() {
        if path.file_name().and_then(|n| n.to_str()).and_then(nifti::stem).is_none() {
            return Err(Problem::new(
                format!("{} is not the name of an image", path.display()),
                "let it end in .nii.gz",
            ));
        }
        let read = options.to.iter().chain([&options.labels]).any(|scan| same_file(scan, path));
        if read || written[..i].contains(path) {
            return Err(Problem::new(
                format!("{} would be overwritten", path.display()),
                "name another output",
            ));
        }
    }
    // Every way is looked for before anything is written.
    let ways = options.to.iter().map(|scan| way_to_scan(&options.transforms, scan, &options.labels));
    let ways = ways.collect::<Result<Vec<_>, PreprocessError>>()?;
    if options.to.len() > 1 {
        std::fs::create_dir_all(&options.output)
            .map_err(|source| PreprocessError::Output { path: options.output.clone(), source })?;
    }
    for ((scan, way), path) in options.to.iter().zip(ways).zip(written) {
        let on_scan = to_scan(&labels, &way, &nifti::read_info(scan)?.geometry)?;
        nifti::write_labels(&path, &on_scan)?;
        ui.print(&format!("{}\t{}", path.display(), volumes(&on_scan)))?;
    }
    ui.say(&format!("in the space\t{}", volumes(&labels)));
    Ok(Outcome::Done)
}

/// Volume of every label but background.
pub(super) fn volumes(labels: &LabelMap) -> String {
    let all = labels.volumes_ml();
    let told: Vec<String> =
        all.iter().filter(|(label, _)| **label > 0).map(|(label, ml)| format!("{label}={ml:.3}")).collect();
    if told.is_empty() { "empty".to_owned() } else { told.join("\t") }
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}
