//! The rows: options of nnU-Net 2, command by command, and what they are here.

use super::{Becomes, Takes};
use Becomes::{Dataset, List, Made, Nothing, Part, Parts, Refused, Same, With};
use Takes::{Many, One};

/// An option of nnU-Net.
#[derive(Debug)]
pub(crate) struct Row {
    /// The commands here that take what nnU-Net's command takes.
    pub(crate) commands: &'static [&'static str],
    /// nnU-Net's option.
    pub(crate) option: &'static str,
    /// How many values follow it.
    pub(crate) takes: Takes,
    /// What it is here.
    pub(crate) becomes: Becomes,
}

impl Row {
    /// Whether this can be one of several values.
    pub(crate) fn takes_value(&self, word: &str) -> bool {
        match self.option {
            "-f" => word == "all" || word.bytes().all(|b| b.is_ascii_digit()),
            "-l" | "-np" | "-il" => word.bytes().all(|b| b.is_ascii_digit()),
            _ => true,
        }
    }

    /// Whether the command's dataset may stand after the option's value, as this program's own lines have it.
    pub(crate) fn beside_a_dataset(&self) -> bool {
        self.commands.iter().any(|c| PLANNED.contains(c))
    }
}

const fn row(commands: &'static [&'static str], option: &'static str, takes: Takes, becomes: Becomes) -> Row {
    Row { commands, option, takes, becomes }
}

/// Commands whose argument is a raw dataset.
const PLANNED: &[&str] = &["fingerprint", "plan", "prep", "train", "crossval", "dataset check"];
const PREDICT: &[&str] = &["predict"];
const TRAIN: &[&str] = &["train"];
const TRAINED: &[&str] = &["train", "crossval"];
const CROSSVAL: &[&str] = &["crossval"];
const FINGERPRINT: &[&str] = &["fingerprint"];
const PLAN: &[&str] = &["plan"];
const PREP: &[&str] = &["prep"];
const EVALUATE: &[&str] = &["evaluate"];
const ENSEMBLE: &[&str] = &["ensemble"];
const POSTPROCESS: &[&str] = &["postprocess"];
const FOLDERS: &[&str] = &["evaluate", "ensemble", "postprocess", "fingerprint", "plan", "prep", "crossval"];
const ALL: &[&str] =
    &["predict", "train", "fingerprint", "plan", "prep", "evaluate", "ensemble", "postprocess", "crossval"];

const FLAG: Takes = Takes::Nothing;
const PROCESSES: &str =
    "glioseg uses threads instead of processes, one per core unless --threads N says otherwise";
const BESIDE: &str =
    "cases are read and written while the network runs, with as many threads as --threads N says";
const SAYS: &str = "what is done is always said; -q says less";

/// All rows. The first that fits counts.
pub(crate) const ROWS: &[Row] = &[
    // nnUNetv2_predict, nnUNetv2_predict_from_modelfolder
    row(PREDICT, "-d", One, Same("--dataset")),
    row(PREDICT, "-c", One, Same("--configuration")),
    row(PREDICT, "-tr", One, Same("--trainer")),
    row(PREDICT, "-p", One, Same("--plans")),
    row(PREDICT, "-f", Many, List("-f")),
    row(PREDICT, "-chk", One, Same("--checkpoint")),
    row(PREDICT, "-step_size", One, Same("--step")),
    row(PREDICT, "--disable_tta", FLAG, Same("--no-mirroring")),
    row(PREDICT, "--save_probabilities", FLAG, Same("--save-probabilities")),
    row(PREDICT, "--continue_prediction", FLAG, Same("--continue")),
    row(PREDICT, "--c", FLAG, Same("--continue")),
    row(PREDICT, "-num_parts", One, Parts),
    row(PREDICT, "-part_id", One, Part),
    row(PREDICT, "-npp", One, Nothing(BESIDE)),
    row(PREDICT, "-nps", One, Nothing(BESIDE)),
    row(PREDICT, "--not_on_device", FLAG, Nothing("everything is computed in main memory")),
    row(PREDICT, "-prev_stage_predictions", One, Same("--prev-stage")),
    // nnUNetv2_train
    row(TRAIN, "-pretrained_weights", One, Same("--weights")),
    row(TRAIN, "--npz", FLAG, Same("--save-probabilities")),
    row(TRAIN, "--c", FLAG, Same("--resume")),
    row(
        TRAIN,
        "--val",
        FLAG,
        Refused(
            "`glioseg train … --resume` repeats the validation of a finished training where cases are missing; `glioseg predict -m \
             MODEL -f FOLD` and `glioseg evaluate` do it elsewhere",
        ),
    ),
    row(
        TRAIN,
        "--val_best",
        FLAG,
        Refused(
            "predict the fold's cases with `glioseg predict -m MODEL -f FOLD --checkpoint best`, and score them with `glioseg evaluate`",
        ),
    ),
    row(
        TRAIN,
        "--disable_checkpointing",
        FLAG,
        Refused("checkpoints cannot be left out; `--save-every 1d` writes hardly any within an epoch"),
    ),
    row(TRAIN, "-num_gpus", One, Made(one_gpu)),
    row(TRAINED, "-tr", One, Made(trainer)),
    // nnUNetv2_find_best_configuration
    row(CROSSVAL, "-c", Many, List("-c")),
    row(CROSSVAL, "-f", Many, List("-f")),
    row(CROSSVAL, "--no_overwrite", FLAG, Nothing("finished folds are always kept")),
    row(
        CROSSVAL,
        "--disable_ensembling",
        FLAG,
        Refused("ensembles are compared where several configurations are given: give one at a time"),
    ),
    // nnUNetv2_extract_fingerprint, nnUNetv2_plan_experiment, nnUNetv2_plan_and_preprocess, nnUNetv2_preprocess
    row(PLANNED, "-d", Many, Dataset),
    row(&["fingerprint", "plan"], "-fpe", One, Made(extractor)),
    row(&["fingerprint", "plan"], "--verify_dataset_integrity", FLAG, Same("--verify-dataset")),
    row(PREP, "--verify_dataset_integrity", FLAG, Nothing("every case is checked anyway")),
    row(FINGERPRINT, "--clean", FLAG, Same("--overwrite")),
    row(
        PLAN,
        "--clean",
        FLAG,
        Refused(
            "`glioseg fingerprint DIR --overwrite` makes the fingerprint again; it is made again anyway where images have changed",
        ),
    ),
    row(PLAN, "-pl", One, Same("--planner")),
    row(PLAN, "-gpu_memory_target", One, Same("--gpu-memory")),
    row(PLAN, "-preprocessor_name", One, Made(preprocessor)),
    row(PLAN, "-overwrite_target_spacing", Many, Same("--overwrite-target-spacing")),
    row(PLAN, "-overwrite_plans_name", One, Same("--name")),
    row(
        PLAN,
        "--no_pp",
        FLAG,
        Nothing("planning and preprocessing are two commands, `glioseg plan` and `glioseg prep`"),
    ),
    row(PLAN, "-npfp", One, Nothing(PROCESSES)),
    row(
        PLAN,
        "-c",
        Many,
        Refused(
            "preprocessing is a command of its own: `glioseg plan DIR`, then `glioseg prep DIR -c 3d_fullres`",
        ),
    ),
    row(PREP, "-plans_name", One, Same("--plans")),
    row(PREP, "-c", Many, List("-c")),
    // nnUNetv2_move_plans_between_datasets
    row(PLAN, "-s", One, Same("--plans-from")),
    row(PLAN, "-t", One, Dataset),
    row(PLAN, "-sp", One, Same("--source-name")),
    row(PLAN, "-tp", One, Same("--name")),
    // nnUNetv2_evaluate_folder, nnUNetv2_evaluate_simple
    row(EVALUATE, "-djfile", One, Same("--dataset")),
    row(EVALUATE, "-pfile", One, Nothing("scores do not depend on the plans")),
    row(EVALUATE, "-l", Many, List("--labels")),
    row(EVALUATE, "-il", One, Same("--ignore-label")),
    row(EVALUATE, "--chill", FLAG, Nothing("a missing prediction never stops the evaluation; it is named")),
    // nnUNetv2_ensemble
    row(ENSEMBLE, "--save_npz", FLAG, Same("--save-probabilities")),
    // nnUNetv2_determine_postprocessing, nnUNetv2_apply_postprocessing
    row(POSTPROCESS, "-pp_pkl_file", One, Same("--file")),
    row(POSTPROCESS, "-ref", One, With(&["--search", "largest", "--ref"])),
    row(POSTPROCESS, "-dataset_json", One, Same("--dataset")),
    row(POSTPROCESS, "-plans_json", One, Nothing("steps do not depend on the plans")),
    row(
        POSTPROCESS,
        "--remove_postprocessed",
        FLAG,
        Nothing("results are written where --output says, and only there"),
    ),
    // Of several commands
    row(&["predict", "train", "crossval"], "-device", One, Same("--device")),
    row(FOLDERS, "-np", Many, Nothing(PROCESSES)),
    row(ALL, "--verbose", FLAG, Nothing(SAYS)),
    row(ALL, "--no_pbar", FLAG, Nothing("bars are shown on a terminal only; -q shows none")),
    row(ALL, "--disable_progress_bar", FLAG, Nothing("bars are shown on a terminal only; -q shows none")),
];

fn one_gpu(count: &str) -> Result<Vec<String>, [String; 2]> {
    if count == "1" {
        return Ok(vec![]);
    }
    Err([
        "a training runs on one device".into(),
        "leave the option out; several devices train one fold each, with -f 0, -f 1 and so on".into(),
    ])
}

/// nnU-Net's trainers that differ from the default in something that is a setting here. The folder is named as nnU-Net's.
///
/// # Source
/// nnU-Net v2, `nnunetv2.training.nnUNetTrainer.variants`.
fn trainer(name: &str) -> Result<Vec<String>, [String; 2]> {
    let named = |mut options: Vec<String>| {
        options.extend(["--set".to_owned(), format!("trainer={name}")]);
        Ok(options)
    };
    let option = |option: &str, value: &str| vec![option.to_owned(), value.to_owned()];
    let epochs = name.strip_prefix("nnUNetTrainer_").and_then(|rest| {
        let number = rest.strip_suffix("epochs").or_else(|| rest.strip_suffix("epoch"))?;
        number.bytes().all(|b| b.is_ascii_digit()).then_some(number)
    });
    match (name, epochs) {
        ("nnUNetTrainer", _) => Ok(vec![]),
        (_, Some(number)) if !number.is_empty() => named(option("--epochs", number)),
        ("nnUNetTrainerDA5", _) => named(option("--augmentation", "da5")),
        ("nnUNetTrainerDiceCELoss_noSmooth", _) => named(option("--set", "loss.smooth=0")),
        _ => Err([
            "glioseg has no trainer of this name".into(),
            "trainers are settings here: --epochs, --augmentation, --optimiser, --lr, --set NAME=VALUE (--print-settings shows \
             them all), or a --preset; --set trainer=NAME names the folder"
                .into(),
        ]),
    }
}

fn extractor(name: &str) -> Result<Vec<String>, [String; 2]> {
    only(name, "DatasetFingerprintExtractor")
}

fn preprocessor(name: &str) -> Result<Vec<String>, [String; 2]> {
    only(name, "DefaultPreprocessor")
}

/// A class that can be named, but not chosen.
fn only(name: &str, known: &str) -> Result<Vec<String>, [String; 2]> {
    if name == known {
        return Ok(vec![]);
    }
    Err([format!("glioseg has {known} only"), "leave it out".into()])
}
