//! `glioseg prep`: preprocess a dataset for training.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use glioseg_diagnose::count;
use glioseg_plan::Plans;
use glioseg_workflow::ready::{self, ReadyError};

use super::dataset::{open, output_folder};
use super::ready::teller;
use super::{Outcome, interrupt, print};
use crate::ui::{Ui, duration};

/// Preprocesses all cases of a dataset as planned: one file per case, from which training reads its patches.
///
/// Cases are done in parallel, as many at once as half of the free memory holds. Finished ones are kept when the command runs
/// again, unless files or plans have changed. A case with an error of `glioseg dataset check` (labels that dataset.json does not
/// declare, another grid, the image of another case) counts as failed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg prep Dataset001_BraTS -c 3d_fullres\n\n\
    Without --output, files go to $nnUNet_preprocessed/NAME if that variable is set, else to nnUNet_preprocessed/NAME next to \
    a folder nnUNet_raw,\nelse to NAME_preprocessed next to the dataset.\n\n\
    Ctrl-C stops after the cases in work; a second one ends at once.\n\n\
    Exit code: 0 all cases done, 1 some case failed or Ctrl-C (the others are written), 2 could not start or the disk is full.")]
pub(crate) struct Prep {
    /// Raw dataset: dataset.json with imagesTr and labelsTr
    #[arg(value_name = "DIR")]
    pub(crate) dataset: PathBuf,
    /// Configurations, separated by commas
    #[arg(short, long, value_name = "CONFIG", value_delimiter = ',', default_value = "3d_fullres")]
    pub(crate) configuration: Vec<String>,
    /// Name of the plans
    #[arg(short, long, value_name = "NAME", default_value = "nnUNetPlans")]
    pub(crate) plans: String,
    /// Folder with the plans, and for the cases; see below for the default
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Make finished cases again
    #[arg(long)]
    pub(crate) overwrite: bool,
    /// Count cases whose channels do not look like their names (exchanged, or one given twice) as failed
    #[arg(long)]
    pub(crate) strict: bool,
}

pub(crate) fn run(options: &Prep, ui: &Ui) -> anyhow::Result<Outcome> {
    let dataset = open(&options.dataset)?;
    let folder = output_folder(&options.dataset, options.output.as_ref())?;
    let path = folder.join(format!("{}.json", options.plans));
    if !path.exists() {
        let (dataset, name) = (options.dataset.clone(), options.plans.clone());
        return Err(ReadyError::NoPlans { path, dataset, name }.into());
    }
    let plans = Plans::read(&path)?;
    let configurations: Vec<_> =
        options.configuration.iter().map(|name| plans.configuration(name)).collect::<Result<_, _>>()?;
    let (told, mut failed) = (teller(ui), 0);
    for configuration in &configurations {
        let cases = folder.join(&configuration.data_identifier);
        let (start, of) = (Instant::now(), dataset.cases.len());
        let threads = rayon::current_num_threads();
        ui.say(&format!(
            "{} | {} | {} | into {}",
            configuration.name,
            count(of, "case"),
            count(threads, "thread"),
            cases.display()
        ));
        let summary = ready::cases(
            &dataset,
            (&plans, configuration),
            &cases,
            options.overwrite,
            &interrupt::flag(),
            &told,
        )?;
        if summary.left > 0 {
            return Ok(Outcome::SomeFailed);
        }
        let doubtful = ready::doubtful_channels(&dataset, &summary, &told);
        if options.strict {
            failed += doubtful + summary.cases.iter().filter(|case| !case.oddities().is_empty()).count();
        }
        let kept = summary.cases.len() - summary.prepared;
        print(&format!(
            "{} | {} prepared, {kept} kept, {} failed | {} | {}",
            configuration.name,
            summary.prepared,
            summary.failed.len(),
            duration(start.elapsed()),
            cases.display()
        ))?;
        failed += summary.failed.len();
    }
    Ok(if failed > 0 { Outcome::SomeFailed } else { Outcome::Done })
}
