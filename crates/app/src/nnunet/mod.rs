//! nnU-Net's habits: its options and its names of datasets, as far as this program has the same thing.
//!
//! nnU-Net writes long options with one dash (`-chk`, `-step_size`), which clap reads as bundles of short ones. So a command line is
//! rewritten before clap sees it, by a table of rows: command, nnU-Net's option, what it is here. A line without such options stays
//! as it is. What has no counterpart is refused with the way to get it here; what changes nothing but the speed is said and left out.

mod named;
mod table;

use std::ffi::{OsStr, OsString};

use clap::{Arg, Command, CommandFactory};

pub(crate) use named::find_named;
use table::{ROWS, Row};

use crate::cli::Cli;
use crate::problem::Problem;

/// What an option of nnU-Net is here.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Becomes {
    /// An option or flag, with the same value.
    Same(&'static str),
    /// An option whose values, which follow each other, are separated by commas here.
    List(&'static str),
    /// The dataset, which is an argument without an option here.
    Dataset,
    /// These words, and then the value.
    With(&'static [&'static str]),
    /// What a function makes of the value; an error is a message and a hint.
    Made(fn(&str) -> Result<Vec<String>, [String; 2]>),
    /// The number of shares of the cases.
    Parts,
    /// Which share, from 0.
    Part,
    /// Left out with this explanation: it changes no result.
    Nothing(&'static str),
    /// Refused with this hint.
    Refused(&'static str),
}

/// How many values an option of nnU-Net takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    One,
    /// All that follow, up to the next option.
    Many,
}

/// A command line in this program's own options, and what is to be said about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Translated {
    pub(crate) arguments: Vec<OsString>,
    pub(crate) notes: Vec<String>,
}

/// Rewrites nnU-Net's options as this program's; `arguments` begin with the program's name.
///
/// # Errors
/// A [`Problem`] for an option that this program does not have, with what it has instead.
pub(crate) fn translate(arguments: impl IntoIterator<Item = OsString>) -> anyhow::Result<Translated> {
    let root = Cli::command();
    let mut line = Line { rest: arguments.into_iter().collect(), ..Line::default() };
    line.rest.reverse();
    line.keep();
    let (mut command, mut name) = (&root, String::new());
    while let Some(word) = line.rest.last().cloned() {
        let text = word.to_str().unwrap_or_default();
        if let Some(below) = command.find_subcommand(text).filter(|_| command.has_subcommands()) {
            let space = if name.is_empty() { "" } else { " " };
            name = format!("{name}{space}{text}");
            command = below;
            line.keep();
        } else if text == "--" {
            line.done.extend(std::mem::take(&mut line.rest).into_iter().rev());
        } else if let Some((row, value)) = find(&name, text) {
            line.rest.pop();
            line.take(row, value)?;
        } else if text.starts_with('-') && text.len() > 1 {
            line.own(&root, command, text);
        } else {
            line.argument(&name);
        }
    }
    line.finish()
}

/// The row of an option, and a value that is joined to it by `=`.
fn find<'a>(command: &str, text: &'a str) -> Option<(&'static Row, Option<&'a str>)> {
    let (option, value) = text.split_once('=').map_or((text, None), |(option, value)| (option, Some(value)));
    let row = ROWS.iter().find(|row| row.option == option && row.commands.contains(&command))?;
    Some((row, value))
}

/// A command line in work.
#[derive(Debug, Default)]
struct Line {
    /// What is still to be read, the next word last.
    rest: Vec<OsString>,
    done: Vec<OsString>,
    notes: Vec<String>,
    /// Arguments without an option so far, the dataset of `-d` among them.
    positions: usize,
    parts: Option<String>,
    part: Option<String>,
}

impl Line {
    /// Takes the next word over as it is.
    fn keep(&mut self) {
        self.done.extend(self.rest.pop());
    }

    /// The next word, where it is not an option.
    fn value(&mut self, wanted: impl Fn(&str) -> bool) -> Option<String> {
        let word = self.rest.last()?.to_str()?;
        let option = word.starts_with('-') && word.parse::<f64>().is_err();
        if option || !wanted(word) {
            return None;
        }
        self.rest.pop()?.into_string().ok()
    }

    /// An option of this program, with its values.
    fn own(&mut self, root: &Command, command: &Command, text: &str) {
        let arg = option_of(command, text).or_else(|| option_of(root, text));
        self.keep();
        let Some(arg) = arg.filter(|a| a.get_action().takes_values() && !text.contains('=')) else { return };
        // A value that is joined to a short option: `-f0`.
        if !text.starts_with("--") && text.len() > 2 {
            return;
        }
        let most = arg.get_num_args().map_or(1, |range| range.max_values());
        for _ in 0..most {
            if self.rest.last().is_none_or(|word| word.to_string_lossy().starts_with('-') && most > 1) {
                break;
            }
            self.keep();
        }
    }

    /// An argument without an option: those that nnU-Net has and this program has not become options.
    fn argument(&mut self, command: &str) {
        self.positions += 1;
        let option = match (command, self.positions) {
            ("train" | "crossval", 2) => Some("--configuration"),
            ("train", 3) => Some("--fold"),
            ("evaluate", 1) => Some("--ref"),
            ("evaluate", 2) => Some("--pred"),
            _ => None,
        };
        self.done.extend(option.map(OsString::from));
        self.keep();
    }

    fn take(&mut self, row: &Row, joined: Option<&str>) -> anyhow::Result<()> {
        let missing = || {
            Problem::new(
                format!("{} needs a value", row.option),
                "see `glioseg COMMAND --help` for what it may be",
            )
        };
        // Where this program's own option has the same name, its arguments may follow it.
        let greedy = |line: &Self| row.takes == Takes::Many && line.may_take_all(row);
        let mut values: Vec<String> = joined.map(str::to_owned).into_iter().collect();
        if joined.is_none() && row.takes != Takes::Nothing {
            values.push(self.value(|_| true).ok_or_else(missing)?);
            while greedy(self) {
                let Some(value) = self.value(|word| row.takes_value(word)) else { break };
                values.push(value);
            }
        }
        let first = values.first().map(String::as_str).unwrap_or_default();
        match row.becomes {
            Becomes::Same(option) => {
                self.done.push(option.into());
                self.done.extend(values.iter().map(OsString::from));
            }
            Becomes::List(option) => self.done.extend([option.into(), values.join(",").into()]),
            Becomes::Dataset => {
                if values.len() > 1 {
                    return Err(Problem::new(
                        format!("{} {}: several datasets", row.option, values.join(" ")),
                        "give the command once for each of them",
                    ));
                }
                self.positions += 1;
                self.done.push(first.into());
            }
            Becomes::With(words) => {
                self.done.extend(words.iter().map(OsString::from));
                self.done.extend(values.iter().map(OsString::from));
            }
            Becomes::Made(make) => {
                let made = make(first).map_err(|[message, hint]| {
                    Problem::new(format!("{} {first}: {message}", row.option), hint)
                })?;
                self.done.extend(made.into_iter().map(OsString::from));
            }
            Becomes::Parts => self.parts = Some(first.to_owned()),
            Becomes::Part => self.part = Some(first.to_owned()),
            Becomes::Nothing(why) => {
                let whole = [&[row.option.to_owned()], values.as_slice()].concat().join(" ");
                self.notes.push(format!("{whole} has no effect: {why}"));
            }
            Becomes::Refused(hint) => {
                return Err(Problem::new(
                    format!("{} is an option of nnU-Net that glioseg has not", row.option),
                    hint,
                ));
            }
        }
        Ok(())
    }

    /// Whether all values that follow belong to the option, rather than that one is the dataset.
    fn may_take_all(&self, row: &Row) -> bool {
        let ahead = self.rest.iter().any(|word| word == OsStr::new("-d"));
        row.option == "-d" || !row.beside_a_dataset() || self.positions > 0 || ahead
    }

    fn finish(mut self) -> anyhow::Result<Translated> {
        if self.parts.is_some() || self.part.is_some() {
            let number = |text: &Option<String>, otherwise: usize| {
                text.as_ref().map_or(Some(otherwise), |t| t.parse().ok())
            };
            let (parts, part) = (number(&self.parts, 1), number(&self.part, 0));
            let (Some(parts), Some(part)) = (parts, part.filter(|&k| parts.is_some_and(|n| k < n))) else {
                let told =
                    |text: Option<String>, otherwise: &str| text.unwrap_or_else(|| otherwise.to_owned());
                return Err(Problem::new(
                    format!(
                        "-num_parts {} -part_id {} is not a share of the cases",
                        told(self.parts, "1"),
                        told(self.part, "0")
                    ),
                    "-part_id counts from 0 and is smaller than -num_parts; here it is --part K/N, which counts from 1",
                ));
            };
            if parts > 1 {
                self.done.extend(["--part".into(), format!("{}/{parts}", part + 1).into()]);
            }
        }
        Ok(Translated { arguments: self.done, notes: self.notes })
    }
}

/// The option of a command that `text` names, with or without a value joined to it.
fn option_of<'a>(command: &'a Command, text: &str) -> Option<&'a Arg> {
    let name = text.split_once('=').map_or(text, |(name, _)| name);
    command.get_arguments().find(|arg| match name.strip_prefix("--") {
        Some(long) => arg.get_long_and_visible_aliases().is_some_and(|names| names.contains(&long)),
        None => arg.get_short().is_some_and(|short| name[1..].starts_with(short)),
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli;
    use crate::commands::plan::PlannerName;

    fn words(line: &str) -> Vec<OsString> {
        std::iter::once("glioseg").chain(line.split_whitespace()).map(OsString::from).collect()
    }

    fn translated(line: &str) -> String {
        let translated = translate(words(line)).unwrap_or_else(|e| panic!("{line}: {e}"));
        let words: Vec<&str> = translated.arguments.iter().filter_map(|word| word.to_str()).collect();
        words[1..].join(" ")
    }

    #[test]
    fn a_line_of_this_program_stays_as_it_is() {
        for line in [
            "predict -m a -m b -i x_t1.nii x_t2.nii -o out -f 0,2 --part 2/3",
            "predict -m a b -i in -o out -fall --step 0.5 --no-mirroring",
            "--threads 2 -q predict --model a --input b --output c",
            "train Dataset001_BraTS -c 3d_fullres -f 0 --set loss.smooth=0",
            "train -f 0 Dataset001_BraTS",
            "crossval -f 0,1 Dataset001_BraTS -c 3d_fullres,2d",
            "prep -c 3d_fullres,2d Dataset001_BraTS",
            "prep -c 3d_fullres 7",
            "plan Dataset001_BraTS --overwrite-target-spacing 1 1 2 --planner resenc-m",
            "evaluate --ref a --pred b -o c --ref-suffix -seg --labels 1,2",
            "postprocess -i a -o b --threshold --labels brats",
            "dataset check Dataset001_BraTS --json",
            "compare a b",
            "info -- -d",
            "--help",
            "train --help",
        ] {
            assert_eq!(translated(line), line);
        }
    }

    #[test]
    fn options_of_nnunet_become_those_of_this_program() {
        for (given, expected) in [
            (
                "predict -i IN -o OUT -d 137 -c 3d_fullres -f 0 1 2 -tr nnUNetTrainer -p nnUNetPlans -chk checkpoint_best.pth \
                 --disable_tta",
                "predict -i IN -o OUT --dataset 137 --configuration 3d_fullres -f 0,1,2 --trainer nnUNetTrainer --plans \
                 nnUNetPlans --checkpoint checkpoint_best.pth --no-mirroring",
            ),
            (
                "predict -m M -i IN -o OUT -f all -step_size 0.7 --save_probabilities --continue_prediction",
                "predict -m M -i IN -o OUT -f all --step 0.7 --save-probabilities --continue",
            ),
            ("predict -chk=best --c -device cuda", "predict --checkpoint best --continue --device cuda"),
            ("predict -num_parts 4 -part_id 0 -i IN", "predict -i IN --part 1/4"),
            ("predict -num_parts 1 -part_id 0 -i IN", "predict -i IN"),
            ("predict -npp 3 -nps 3 --verbose -i IN", "predict -i IN"),
            ("predict -prev_stage_predictions LOW -i IN", "predict --prev-stage LOW -i IN"),
            ("train 137 3d_fullres 0", "train 137 --configuration 3d_fullres --fold 0"),
            (
                "train 137 3d_fullres all --npz --c",
                "train 137 --configuration 3d_fullres --fold all --save-probabilities --resume",
            ),
            (
                "train Dataset137_B 2d 1 -tr nnUNetTrainer_250epochs -p nnUNetPlans -device cpu -num_gpus 1",
                "train Dataset137_B --configuration 2d --fold 1 --epochs 250 --set trainer=nnUNetTrainer_250epochs -p nnUNetPlans \
                 --device cpu",
            ),
            ("train 1 3d_fullres 0 -tr nnUNetTrainer", "train 1 --configuration 3d_fullres --fold 0"),
            (
                "train 1 2d 0 -tr nnUNetTrainerDA5",
                "train 1 --configuration 2d --fold 0 --augmentation da5 --set trainer=nnUNetTrainerDA5",
            ),
            ("train 1 2d 0 -pretrained_weights W.pth", "train 1 --configuration 2d --fold 0 --weights W.pth"),
            ("plan -d 137 -pl nnUNetPlannerResEncM", "plan 137 --planner nnUNetPlannerResEncM"),
            (
                "plan -d 137 -np 8 -gpu_memory_target 24 -overwrite_target_spacing 1 1 2 -overwrite_plans_name mine",
                "plan 137 --gpu-memory 24 --overwrite-target-spacing 1 1 2 --name mine",
            ),
            ("plan -d 137 --verify_dataset_integrity --no_pp", "plan 137 --verify-dataset"),
            (
                "fingerprint -d 137 --clean --verify_dataset_integrity",
                "fingerprint 137 --overwrite --verify-dataset",
            ),
            ("prep -d 137 -plans_name P -c 2d 3d_fullres -np 8 4", "prep 137 --plans P -c 2d,3d_fullres"),
            ("prep -c 2d 3d_fullres -d 137", "prep -c 2d,3d_fullres 137"),
            ("crossval 137 -c 2d 3d_fullres -f 0 1 2", "crossval 137 -c 2d,3d_fullres -f 0,1,2"),
            ("dataset check -d 137", "dataset check 137"),
            ("ensemble -i a b -o c --save_npz -np 4", "ensemble -i a b -o c --save-probabilities"),
            (
                "evaluate GT PRED -l 1 2 3 -il 9 -o out",
                "evaluate --ref GT --pred PRED --labels 1,2,3 --ignore-label 9 -o out",
            ),
            (
                "evaluate -djfile d.json -pfile p.json -o out GT PRED",
                "evaluate --dataset d.json -o out --ref GT --pred PRED",
            ),
            ("postprocess -i a -o b -pp_pkl_file p.pkl", "postprocess -i a -o b --file p.pkl"),
            (
                "postprocess -i a -ref b -dataset_json d.json",
                "postprocess -i a --search largest --ref b --dataset d.json",
            ),
        ] {
            assert_eq!(translated(given), expected, "{given}");
        }
    }

    #[test]
    fn what_this_program_has_not_is_refused_with_what_it_has() {
        for (line, hint) in [
            ("train 1 3d_fullres 0 --val", "--resume"),
            ("train 1 3d_fullres 0 -num_gpus 2", "one fold each"),
            ("train 1 3d_fullres 0 -tr nnUNetTrainerMyOwn", "--set"),
            ("plan -d 1 2", "once for each"),
            ("plan -d 1 -c 3d_fullres", "glioseg prep"),
            ("plan -d 1 --clean", "glioseg fingerprint"),
            ("plan -d 1 -preprocessor_name Mine", "leave it out"),
            ("predict -num_parts 2 -part_id 2", "counts from 0"),
            ("predict -i IN -chk", "--help"),
        ] {
            let error = translate(words(line)).expect_err(line);
            let text = crate::ui::describe(&error);
            assert!(text.contains("hint:") && text.contains(hint), "{line}: {text}");
        }
    }

    #[test]
    fn what_has_no_effect_is_said() {
        let notes = translate(words("predict -npp 3 -i IN")).expect("taken").notes;
        assert_eq!(notes.len(), 1);
        assert!(notes[0].starts_with("-npp 3 has no effect"), "{notes:?}");
    }

    #[test]
    fn every_row_leads_to_an_option_that_there_is() {
        let root = Cli::command();
        for row in ROWS {
            for name in row.commands {
                let command =
                    name.split(' ').fold(&root, |c, word| c.find_subcommand(word).expect("a command"));
                if let Becomes::Same(option) | Becomes::List(option) = row.becomes {
                    let arg = option_of(command, option).unwrap_or_else(|| panic!("{name} has no {option}"));
                    let takes = arg.get_action().takes_values();
                    assert_eq!(takes, row.takes != Takes::Nothing, "{name} {}", row.option);
                }
                // What clap understands anyhow is not to be changed in meaning.
                if row.option.len() > 2 {
                    let own = option_of(command, row.option).filter(|_| row.option.starts_with("--"));
                    assert!(own.is_none(), "{name} has {} itself", row.option);
                }
            }
        }
    }

    #[test]
    fn the_lines_of_nnunet_are_understood_by_clap() {
        let parsed = |line: &str| Cli::try_parse_from(translate(words(line)).expect("translated").arguments);
        let cli = parsed("plan -d 137 -pl nnUNetPlannerResEncL").expect("valid");
        let cli::Command::Plan(plan) = cli.command else { panic!("plan") };
        assert_eq!(plan.planner, PlannerName::ResencL);
        let cli = parsed("predict -i IN -o OUT -d 137 -c 3d_fullres -f 0 1").expect("valid");
        let cli::Command::Predict(predict) = cli.command else { panic!("predict") };
        assert_eq!(predict.by_name.dataset.as_deref(), Some(std::path::Path::new("137")));
        let cli = parsed("train 137 3d_lowres 2").expect("valid");
        let cli::Command::Train(train) = cli.command else { panic!("train") };
        assert_eq!((train.how.configuration.as_str(), train.fold.to_string()), ("3d_lowres", "2".to_owned()));
    }
}
