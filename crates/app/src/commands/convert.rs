//! `glioseg convert`: any model as our own folder.

use glioseg_infer::convert::convert;

use super::{Outcome, print};
use crate::cli::Convert;
use crate::ui::Ui;

pub(crate) fn run(options: &Convert, ui: &Ui) -> anyhow::Result<Outcome> {
    let model = convert(&options.source, &options.target, &mut |converted| {
        ui.say(&format!(
            "fold {} | {} parameters | {} | the same answer to a forward pass",
            converted.fold,
            converted.parameters,
            converted.file.display()
        ));
    })?;
    ui.say(&format!(
        "{} | trainer {} | rules {} | folds {}",
        model.plans.dataset_name(),
        model.trainer.as_deref().unwrap_or("-"),
        model.configuration.rules.name(),
        model.folds.iter().map(|f| f.name.as_str()).collect::<Vec<_>>().join(", ")
    ));
    print(&options.target.display().to_string())?;
    Ok(Outcome::Done)
}
