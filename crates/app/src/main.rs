//! The glioseg program: brain-tumour segmentation of MRI.
//!
//! stdout is data, stderr is progress and log. Exit code 0: all done; 1: some case failed; 2: could not start.

mod arguments;
mod cli;
mod commands;
#[cfg(test)]
mod documents;
mod nnunet;
mod problem;
mod progress;
mod ui;
mod web;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let nnunet::Translated { arguments, notes } = match nnunet::translate(std::env::args_os()) {
        Ok(translated) => translated,
        Err(error) => {
            ui::Ui::new(false).error(&error);
            return ExitCode::from(2);
        }
    };
    if let Err(error) = arguments::check_tilde(&arguments, std::path::Path::new("~").exists()) {
        ui::Ui::new(false).error(&error);
        return ExitCode::from(2);
    }
    let mut cli = match cli::Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data, a wrong option is not; clap knows which stream is meant.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let ui = ui::Ui::new(cli.quiet);
    for note in &notes {
        ui.say(note);
    }
    let started = nnunet::find_named(&mut cli.command, &ui).and_then(|()| commands::set_threads(cli.threads));
    let outcome = started.and_then(|()| match &cli.command {
        cli::Command::Preprocess(options) => commands::preprocess::run(options, &ui),
        cli::Command::Predict(options) => commands::predict::run(options, &ui),
        cli::Command::Apply(options) => commands::apply::run(options, &ui),
        cli::Command::Ensemble(options) => commands::ensemble::run(options, &ui),
        cli::Command::Postprocess(options) => commands::postprocess::run(options, &ui),
        cli::Command::Dataset(command) => commands::dataset::run(command, &ui),
        cli::Command::Dicom(command) => commands::dicom::run(command, &ui),
        cli::Command::Fingerprint(options) => commands::fingerprint::run(options, &ui),
        cli::Command::Plan(options) => commands::plan::run(options, &ui),
        cli::Command::Prep(options) => commands::prep::run(options, &ui),
        cli::Command::Crossval(options) => commands::crossval::run(options, &ui),
        cli::Command::Train(options) => commands::train::run(options, &ui),
        cli::Command::Evaluate(options) => commands::evaluate::run(options, &ui),
        cli::Command::Rank(options) => commands::rank::run(options, &ui),
        cli::Command::Compare(options) => commands::compare::run(options, &ui),
        cli::Command::Report(options) => commands::report::run(options, &ui),
        cli::Command::View(options) => commands::view::run(options, &ui),
        cli::Command::Info(options) => commands::info::run(options),
        cli::Command::Devices(options) => commands::devices::run(options),
        cli::Command::Convert(options) => commands::convert::run(options, &ui),
        cli::Command::Bench(options) => commands::bench::run(options, &ui),
        cli::Command::Phantom(options) => commands::phantom::run(options, &ui),
        cli::Command::Demo(options) => commands::demo::run(options, &ui),
    });
    match outcome {
        Ok(commands::Outcome::Done) => ExitCode::SUCCESS,
        Ok(commands::Outcome::SomeFailed) => ExitCode::from(1),
        Err(error) => {
            ui.error(&error);
            ExitCode::from(2)
        }
    }
}
