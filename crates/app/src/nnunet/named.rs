//! Datasets and models that a command line names as nnU-Net does.

use std::path::PathBuf;

use glioseg_plan::names::{ModelName, NameError, Root, Roots};

use crate::cli::Command;
use crate::commands::dataset::DatasetCommand;
use crate::ui::Ui;

/// Puts folders in the place of numbers and names of datasets, wherever a command expects a folder of that kind.
///
/// # Errors
/// [`NameError`] for a name that stands for no folder, or for several.
pub(crate) fn find_named(command: &mut Command, ui: &Ui) -> anyhow::Result<()> {
    find_in(command, &Roots::from_environment(), &|line| ui.say(line))?;
    Ok(())
}

fn find_in(command: &mut Command, roots: &Roots, say: &dyn Fn(&str)) -> Result<(), NameError> {
    let put = |place: &mut PathBuf, found: Result<PathBuf, NameError>| -> Result<(), NameError> {
        let found = found?;
        if *place != found {
            say(&format!("{} is {}", place.display(), found.display()));
            *place = found;
        }
        Ok(())
    };
    let folder = |place: &mut PathBuf, root: Root| {
        let found = roots.find(place, root);
        put(place, found)
    };
    let model = |place: &mut PathBuf| {
        let found = roots.find_model(place);
        put(place, found)
    };
    match command {
        Command::Predict(options) => {
            let named = &options.by_name;
            if let Some(dataset) = &named.dataset {
                let name = ModelName {
                    configuration: named.configuration.as_deref(),
                    trainer: named.trainer.as_deref(),
                    plans: named.plans.as_deref(),
                };
                options.model = vec![roots.model(dataset, &name)?];
            }
            options.model.iter_mut().try_for_each(model)
        }
        Command::Dataset(DatasetCommand::Check(options)) => folder(&mut options.dataset, Root::Raw),
        Command::Fingerprint(options) => folder(&mut options.dataset, Root::Raw),
        Command::Plan(options) => {
            folder(&mut options.dataset, Root::Raw)?;
            options.plans_from.iter_mut().try_for_each(|p| folder(p, Root::Preprocessed))
        }
        Command::Prep(options) => folder(&mut options.dataset, Root::Raw),
        Command::Train(options) => {
            folder(&mut options.dataset, Root::Raw)?;
            options.how.preprocessed.iter_mut().try_for_each(|p| folder(p, Root::Preprocessed))?;
            options.weights.iter_mut().try_for_each(model)
        }
        Command::Crossval(options) => {
            folder(&mut options.dataset, Root::Raw)?;
            options.how.preprocessed.iter_mut().try_for_each(|p| folder(p, Root::Preprocessed))
        }
        Command::Report(options) => options.model.iter_mut().try_for_each(model),
        Command::Convert(options) => model(&mut options.source),
        Command::Info(options) => {
            let found = roots.find_any(&options.path);
            put(&mut options.path, found)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;

    /// The folders that a command takes, below the roots.
    fn found(line: &str, roots: &Roots) -> Vec<PathBuf> {
        let words = std::iter::once("glioseg").chain(line.split_whitespace());
        let mut command = Cli::try_parse_from(words).expect(line).command;
        find_in(&mut command, roots, &|_| {}).expect(line);
        match command {
            Command::Predict(o) => o.model,
            Command::Dataset(DatasetCommand::Check(o)) => vec![o.dataset],
            Command::Fingerprint(o) => vec![o.dataset],
            Command::Plan(o) => [o.dataset].into_iter().chain(o.plans_from).collect(),
            Command::Prep(o) => vec![o.dataset],
            Command::Train(o) => [o.dataset].into_iter().chain(o.how.preprocessed).chain(o.weights).collect(),
            Command::Crossval(o) => [o.dataset].into_iter().chain(o.how.preprocessed).collect(),
            Command::Report(o) => o.model,
            Command::Convert(o) => vec![o.source],
            Command::Info(o) => vec![o.path],
            _ => vec![],
        }
    }

    #[test]
    fn every_command_takes_numbers_and_names() {
        let dir = tempfile::tempdir().expect("a folder");
        let name = "Dataset137_BraTS";
        let at = |root: &str| dir.path().join(root).join(name);
        let model = at("res").join("nnUNetTrainer__nnUNetPlans__3d_fullres");
        for folder in [&at("raw"), &at("pre"), &model] {
            std::fs::create_dir_all(folder).expect("a folder");
        }
        let [raw, preprocessed, results] = ["raw", "pre", "res"].map(|root| Some(dir.path().join(root)));
        let roots = Roots { raw, preprocessed, results };
        for given in ["137", name] {
            for command in ["dataset check", "fingerprint", "plan", "prep", "train", "crossval", "info"] {
                assert_eq!(found(&format!("{command} {given}"), &roots), [at("raw")], "{command} {given}");
            }
            let both = [at("raw"), at("pre"), model.clone()];
            assert_eq!(
                found(&format!("train {given} --preprocessed {given} --weights {given}"), &roots),
                both
            );
            assert_eq!(found(&format!("plan {given} --plans-from {given}"), &roots), [at("raw"), at("pre")]);
            let predict = [
                format!("predict -m {given} -i a -o b"),
                format!("predict --dataset {given} -i a -o b"),
                format!("predict --dataset {given} --configuration 3d_fullres -i a -o b"),
                format!("convert {given} b"),
                format!("report --model {given} -o b"),
            ];
            for line in predict {
                assert_eq!(found(&line, &roots), std::slice::from_ref(&model), "{line}");
            }
        }
    }
}
