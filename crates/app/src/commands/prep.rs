//! `glioseg prep`: preprocess a dataset for training.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Instant;

use clap::Args;
use glioseg_plan::{Configuration, Plans, RawDataset};
use glioseg_prep::guard::check_stored;
use glioseg_prep::store::{
    CaseDone, Outcome as CaseOutcome, PrepareOptions, PrepareSummary, StoreError, prepare_dataset,
};

use super::dataset::{open, output_folder};
use super::{Outcome, Problem, interrupt, print};
use crate::ui::{Ui, about, duration};

/// Preprocesses all cases of a dataset as planned: one file per case, from which training reads its patches.
///
/// Cases are done in parallel, as many at once as half of the free memory holds. Finished ones are kept when the command runs
/// again, unless files or plans have changed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  glioseg prep Dataset001_BraTS -c 3d_fullres\n\n\
    Without --output, files go to $nnUNet_preprocessed/NAME if that variable is set, else to nnUNet_preprocessed/NAME beside \
    a folder nnUNet_raw,\nelse to NAME_preprocessed beside the dataset.\n\n\
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
    /// Make finished cases anew
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
        let planned = format!("glioseg plan {} --name {}", options.dataset.display(), options.plans);
        let message = format!("there are no plans {}", path.display());
        return Err(Problem::new(
            message,
            format!("make them with `{planned}`, or name others with --plans"),
        ));
    }
    let plans = Plans::read(&path)?;
    let configurations: Vec<_> =
        options.configuration.iter().map(|name| plans.configuration(name)).collect::<Result<_, _>>()?;
    let mut failed = 0;
    for configuration in &configurations {
        let cases = folder.join(&configuration.data_identifier);
        let (start, of) = (Instant::now(), dataset.cases.len());
        let threads = rayon::current_num_threads();
        ui.say(&format!(
            "{} | {of} cases | {threads} threads | into {}",
            configuration.name,
            cases.display()
        ));
        let summary = prepare(&dataset, &plans, configuration, &cases, options.overwrite, ui)?;
        if summary.left > 0 {
            return Ok(Outcome::SomeFailed);
        }
        let doubtful = warn_of_channels(&dataset, &summary, ui);
        if options.strict {
            failed += doubtful;
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

/// Preprocesses what is not there yet, and says what becomes of every case that is done. Ctrl-C stops it: then cases are left.
pub(crate) fn prepare(
    dataset: &RawDataset,
    plans: &Plans,
    configuration: &Configuration,
    cases: &Path,
    overwrite: bool,
    ui: &Ui,
) -> anyhow::Result<PrepareSummary> {
    let of = dataset.cases.len();
    let (seen, stop) = (Mutex::new(0), interrupt::flag());
    let observer = |done: CaseDone<'_>| {
        let mut seen = seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *seen += 1;
        let number = *seen;
        match done.result {
            Ok(CaseOutcome::Kept) => {}
            Ok(CaseOutcome::Prepared) => {
                ui.say(&format!("case {number}/{of} {} | {}", done.case, duration(done.time)));
            }
            Err(error) => ui.warn(&describe(done.case, error)),
        }
    };
    let how = PrepareOptions { overwrite, stop: Some(&stop) };
    let summary = prepare_dataset(dataset, plans, configuration, cases, how, &observer)?;
    if !summary.removed.is_empty() {
        let names = summary.removed.join(", ");
        ui.say(&format!("removed, since they are no longer in the dataset: {names}"));
    }
    for warning in &summary.warnings {
        ui.warn(warning);
    }
    if summary.left > 0 {
        ui.say(&format!(
            "{} of {of} done; resume with the same command: finished cases are kept",
            summary.cases.len()
        ));
    }
    Ok(summary)
}

/// Warns of cases whose channels do not look like their names; how many there are.
pub(crate) fn warn_of_channels(dataset: &RawDataset, summary: &PrepareSummary, ui: &Ui) -> usize {
    let doubtful = check_stored(&summary.cases, &dataset.description.channel_names);
    for (case, doubts) in &doubtful {
        ui.warn(&format!("case `{case}`: {}", doubts.join("; ")));
    }
    doubtful.len()
}

/// Message, place and remedy of a case that failed.
fn describe(case: &str, error: &StoreError) -> String {
    let (told, name) = (about(error), format!("case `{case}`"));
    if error.to_string().contains(&name) { told } else { format!("{name}: {told}") }
}
