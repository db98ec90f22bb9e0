//! `glioseg ensemble`: average saved probabilities.

use std::path::PathBuf;
use std::sync::Mutex;

use clap::Args;
use glioseg_diagnose::{count, first_few};
use glioseg_infer::ensemble::{EnsembleError, EnsembleOptions, EnsembledCase, EnsembledFolders, ensemble};
use glioseg_infer::postprocess::Postprocessing;
use glioseg_plan::OutputLabels;
use serde_json::json;

use super::{Outcome, print};
use crate::ui::{Ui, about};

/// Averages the probabilities that several predictions saved (CASE.npz), and writes one label map per case.
///
/// Files of nnU-Net v2, of v1 and of glioseg are read; each version's own rounding is kept, so that the result is what
/// nnU-Net's own commands write. The order is: mean, decision, postprocessing, labels.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  glioseg ensemble -i predicted/BL predicted/BL_L_GN -o ensemble --labels brats\n\n\
    Exit code: 0 all cases done, 1 some case failed (the others are written), 2 could not start."
)]
pub(crate) struct Ensemble {
    /// Folders with CASE.npz, the same cases in each
    #[arg(short, long, required = true, value_name = "DIR", num_args = 1..)]
    pub(crate) input: Vec<PathBuf>,
    /// Folder for CASE.nii.gz and dataset.json; made if it is not there
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// What the outputs mean [default: the dataset.json in the folders]
    #[arg(long, value_name = "FILE")]
    pub(crate) dataset: Option<PathBuf>,
    /// Steps on every label map: a postprocessing.json of glioseg or nnU-Net
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) postprocessing: Option<PathBuf>,
    /// Which values are written: dataset (those of dataset.json), brats2018 to brats2022 or brats (1-2-4), brats2023 or
    /// brats2024 (1-2-3, and 4 a resection cavity), nnunet
    #[arg(long, value_name = "CODING", default_value = "dataset", help_heading = "Output")]
    pub(crate) labels: OutputLabels,
    /// Also write the mean as CASE.npz, in the form of the input
    #[arg(long, help_heading = "Output")]
    pub(crate) save_probabilities: bool,
    /// Skip the cases that the output folder has already
    #[arg(long = "continue", help_heading = "Output")]
    pub(crate) continue_: bool,
    /// One line of JSON per case on stdout instead of a table
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
}

pub(crate) fn run(options: &Ensemble, ui: &Ui) -> anyhow::Result<Outcome> {
    let postprocessing = options.postprocessing.as_deref().map(Postprocessing::read).transpose();
    let ensemble_options = EnsembleOptions {
        dataset: options.dataset.clone(),
        postprocessing: postprocessing?.unwrap_or_default(),
        postprocessing_path: options.postprocessing.clone().unwrap_or_default(),
        labels: options.labels,
        save_probabilities: options.save_probabilities,
        skip_finished: options.continue_,
    };
    let number = Mutex::new(0);
    let observer = |case: &EnsembledCase, of: usize| {
        let mut number = number.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *number += 1;
        match &case.result {
            Ok(Some(_)) => ui.say(&format!("case {number}/{of} {}", case.case)),
            Ok(None) => ui.say(&format!("case {number}/{of} {} already exists", case.case)),
            Err(error) => ui.fail(&describe(&case.case, error)),
        }
    };
    ui.begin("averaging");
    let done = ensemble(&options.input, &options.output, &ensemble_options, &observer);
    ui.stop();
    let EnsembledFolders { cases, stale, left_in_output } = done?;
    if !stale.is_empty() {
        let names: Vec<String> = stale.iter().map(|p| p.display().to_string()).collect();
        ui.warn(&format!(
            "of an earlier prediction, since the predict.json next to them does not tell of them, and left out: {}",
            first_few(&names, 5)
        ));
    }
    if !left_in_output.is_empty() {
        ui.warn(&format!(
            "{} holds files that are not of this ensemble: {}; remove them, or `glioseg evaluate` will score them too",
            options.output.display(),
            first_few(&left_in_output, 5)
        ));
    }
    let mut failed = 0;
    for case in &cases {
        match &case.result {
            Ok(Some(counts)) => print(&line(&case.case, counts, options.json))?,
            Ok(None) => {}
            Err(_) => failed += 1,
        }
    }
    ui.say(&format!("{}, {failed} failed; see {}", count(cases.len(), "case"), options.output.display()));
    Ok(if failed > 0 { Outcome::SomeFailed } else { Outcome::Done })
}

fn line(case: &str, counts: &[(u16, usize)], as_json: bool) -> String {
    if as_json {
        let voxels: serde_json::Map<_, _> = counts.iter().map(|(v, n)| (v.to_string(), json!(n))).collect();
        return json!({"case": case, "voxels": voxels}).to_string();
    }
    let fields = counts.iter().map(|(value, count)| format!("\t{value}={count}"));
    format!("{case}{}", fields.collect::<String>())
}

fn describe(case: &str, error: &EnsembleError) -> String {
    format!("case `{case}`: {}", about(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_the_voxels_of_every_value() {
        assert_eq!(line("a", &[(1, 20), (4, 3)], false), "a\t1=20\t4=3");
        assert_eq!(line("a", &[(1, 20)], true), r#"{"case":"a","voxels":{"1":20}}"#);
    }
}
