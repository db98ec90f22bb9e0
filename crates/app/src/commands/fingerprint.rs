//! `glioseg fingerprint`: what the planner needs to know of a dataset.

use std::path::PathBuf;

use clap::Args;
use glioseg_diagnose::count;
use glioseg_plan::IgnoreLabel;
use glioseg_workflow::ready::{FingerprintOptions, fingerprint};

use super::dataset::{by, is_fit, open, output_folder};
use super::ready::{ignore_label, teller};
use super::{Outcome, print};
use crate::ui::Ui;

/// Reads every training case and writes `dataset_fingerprint.json`: spacings, shapes, foreground intensities.
///
/// A fingerprint that exists is kept as long as the files that it was made of (sizes, times, headers; listed in
/// `dataset_fingerprint_sources.json`) are the same, and made again if they are not.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg fingerprint Dataset001_BraTS\n\n\
    Without --output, files go to $nnUNet_preprocessed/NAME if that variable is set, else to nnUNet_preprocessed/NAME next to \
    a folder nnUNet_raw,\nelse to NAME_preprocessed next to the dataset.")]
pub(crate) struct Fingerprint {
    /// Raw dataset: dataset.json with imagesTr and labelsTr
    #[arg(value_name = "DIR")]
    pub(crate) dataset: PathBuf,
    /// Folder for the file; see below for the default
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Make it again if it already exists
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Count voxels with the ignore label as foreground, as nnU-Net does; they are left out otherwise
    #[arg(long)]
    pub(crate) as_nnunet: bool,
    /// Look over the dataset first, as `glioseg dataset check` does
    #[arg(long, hide = true)]
    pub(crate) verify_dataset: bool,
}

pub(crate) fn run(options: &Fingerprint, ui: &Ui) -> anyhow::Result<Outcome> {
    if options.verify_dataset && !is_fit(&options.dataset, ui)? {
        return Ok(Outcome::SomeFailed);
    }
    let dataset = open(&options.dataset)?;
    let folder = output_folder(&options.dataset, options.output.as_ref())?;
    let ignore = ignore_label(&dataset, options.as_nnunet, ui).or(Some(IgnoreLabel::LeftOut));
    let how = FingerprintOptions { overwrite: options.overwrite, ignore };
    let (facts, path) = fingerprint(&dataset, &folder, how, &teller(ui))?;
    print(&path.display().to_string())?;
    let middle = facts.shapes_after_crop.len() / 2;
    let median = |mut of: Vec<f64>| {
        of.sort_unstable_by(f64::total_cmp);
        of[middle.min(of.len() - 1)]
    };
    let spacing = [0, 1, 2].map(|a| median(facts.spacings_mm.iter().map(|s| s[a]).collect()));
    let shape = [0, 1, 2].map(|a| median(facts.shapes_after_crop.iter().map(|s| s[a] as f64).collect()));
    print(&format!(
        "{} | median spacing {} mm | median shape after cropping {} | {:.0} % of the voxels",
        count(facts.shapes_after_crop.len(), "case"),
        by(&spacing),
        by(&shape),
        100.0 * facts.median_relative_size_after_cropping
    ))?;
    for (name, c) in dataset.description.channel_names.iter().zip(&facts.foreground_intensities) {
        print(&format!(
            "{name} | mean {:.4} | std {:.4} | range {:.4} to {:.4} | 0.5 % {:.4} | median {:.4} | 99.5 % {:.4}",
            c.mean, c.std, c.min, c.max, c.percentile_00_5, c.median, c.percentile_99_5
        ))?;
    }
    Ok(Outcome::Done)
}
