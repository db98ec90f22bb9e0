//! What is told while a dataset is made ready for a training.

use glioseg_diagnose::count;
use glioseg_plan::{IgnoreLabel, RawDataset};
use glioseg_prep::store::{CaseOutcome, StoreError};
use glioseg_workflow::ready::ReadyEvent;

use crate::ui::{Ui, about, duration};

/// Tells what happens; `fingerprint`, `plan`, `prep`, `train` and `crossval` say it in the same words.
pub(crate) fn teller(ui: &Ui) -> impl Fn(ReadyEvent<'_>) + Sync + '_ {
    move |event| match event {
        ReadyEvent::FingerprintKept { path } => {
            ui.say(&format!("{} already exists; --overwrite makes it again", path.display()));
        }
        ReadyEvent::FingerprintStale { path, reason } => {
            ui.say(&format!("{} is made again: {reason}", path.display()));
        }
        ReadyEvent::PlansStale { path, reason } => ui.warn(&format!(
            "{} was made of other data: {reason}; `glioseg plan` makes fingerprint and plans again",
            path.display()
        )),
        ReadyEvent::Reading { of } => ui.start("fingerprint", of, "cases"),
        ReadyEvent::Read { case, number, of, oddities } => {
            ui.advance();
            ui.say(&format!("case {number}/{of} {case}"));
            for odd in oddities {
                ui.warn(odd);
            }
            if number == of {
                ui.begin("fingerprint: mean and deviation of the intensities");
            }
        }
        ReadyEvent::Fingerprinted { cases, time } => {
            ui.stop();
            ui.say(&format!("fingerprint of {} in {}", count(cases, "case"), duration(time)));
        }
        ReadyEvent::Planned { planned, path, too_few } => {
            for note in &planned.notes {
                ui.say(note);
            }
            if let Some(cases) = too_few {
                let too_few = "too few for five folds; train on all with `-f all`";
                let is = if cases == 1 { "is" } else { "are" };
                ui.warn(&format!("{} {is} {too_few}", count(cases, "case")));
            }
            ui.say(&format!("{} written", path.display()));
        }
        ReadyEvent::Preparing { configuration, of } => {
            ui.start(&format!("prep {configuration}"), of, "cases");
        }
        ReadyEvent::Case { done, number, of } => {
            ui.advance();
            match done.result {
                Ok(CaseOutcome::Prepared) => {
                    ui.say(&format!("case {number}/{of} {} | {}", done.case, duration(done.time)));
                }
                Err(error) => ui.fail(&describe(done.case, error)),
                Ok(CaseOutcome::Kept) => {}
            }
        }
        ReadyEvent::Prepared { summary, of } => {
            ui.stop();
            if !summary.removed.is_empty() {
                let names = summary.removed.join(", ");
                ui.say(&format!("removed, since they are no longer in the dataset: {names}"));
            }
            for (case, error) in summary.failed.iter().rev().take(summary.compared).rev() {
                ui.fail(&describe(case, error));
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
        }
        ReadyEvent::Doubtful { case, doubts } => ui.warn(&format!("case `{case}`: {}", doubts.join("; "))),
        _ => {}
    }
}

/// How the ignore label counts: as `--as-nnunet` says, else as in the fingerprint that exists, else left out.
pub(crate) fn ignore_label(dataset: &RawDataset, as_nnunet: bool, ui: &Ui) -> Option<IgnoreLabel> {
    if let Some(label) = dataset.description.labels.ignore_label() {
        ui.say(&if as_nnunet {
            format!("the ignore label {label} counts as foreground, as in nnU-Net")
        } else {
            format!("the ignore label {label} is left out of the intensities; nnU-Net counts it as foreground (--as-nnunet)")
        });
    }
    as_nnunet.then_some(IgnoreLabel::AsForeground)
}

/// Message, place and remedy of a case that failed.
fn describe(case: &str, error: &StoreError) -> String {
    let (told, name) = (about(error), format!("case `{case}`"));
    if error.to_string().contains(&name) { told } else { format!("{name}: {told}") }
}
