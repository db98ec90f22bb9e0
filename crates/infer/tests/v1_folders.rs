//! Folders of nnU-Net v1, whole and broken: a tiny one that comes along, made by PyTorch (`fixtures/v1-model/make.py`).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glioseg_diagnose::Diagnose as _;
use glioseg_infer::InferError;
use glioseg_infer::model::{CheckpointChoice, Folds, Model};
use glioseg_interop::{Value, read_pickle_file, write_pickle};
use glioseg_net::{Checkpoint, EngineChoice, Mode, NetError, Parameters, Program};
use glioseg_plan::Rules;
use glioseg_volume::testing::relative_l2;

const NAME: &str = "nnUNetTrainerV2BraTSRegions_DA4_BN_BD_normalUnet_axialattention__nnUNetPlansv2.1";
const MODEL: &str = "model_final_checkpoint.model";

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/v1-model")
}

/// A copy of the fixture that may be broken, in a folder of this name, with its fold in `fold`.
fn copy(name: &str, fold: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a folder");
    let (from, to) = (fixture().join(NAME), dir.path().join(name));
    fs::create_dir_all(to.join(fold)).expect("a folder");
    fs::copy(from.join("plans.pkl"), to.join("plans.pkl")).expect("plans");
    for file in [MODEL.to_owned(), format!("{MODEL}.pkl")] {
        fs::copy(from.join("fold_0").join(&file), to.join(fold).join(&file)).expect("weights");
    }
    (dir, to)
}

fn open(path: &Path) -> Result<Model, Box<InferError>> {
    Model::open(path, &Folds::Found, &CheckpointChoice::Final).map_err(Box::new)
}

/// Message and hint of the error.
fn refused(path: &Path) -> (String, String) {
    let error = open(path).expect_err("a broken model");
    (error.to_string(), error.hint().unwrap_or_default())
}

#[test]
fn everything_is_told_and_the_network_answers_as_pytorchs() {
    let model = open(&fixture().join(NAME)).expect("a model");
    assert_eq!(model.plans.dataset_name(), "Task500_BraTS2021");
    assert_eq!(model.plans.plans_name(), "nnUNetPlansv2.1");
    // Two stages, of which the second was trained.
    assert_eq!((model.configuration.name.as_str(), model.tile()), ("3d_fullres", [8, 16, 8]));
    assert_eq!(model.configuration.rules, Rules::V1);
    assert_eq!(model.dataset.channel_names, ["T1", "T1ce", "T2", "FLAIR"]);
    assert_eq!(model.dataset.labels.output_names(), ["whole tumor", "tumor core", "enhancing tumor"]);
    assert_eq!(model.mirror_axes, [0, 1, 2]);
    assert_eq!(model.configuration.use_mask_for_norm, [true; 4]);
    assert_eq!(model.network.fixed_input(), Some([8, 16, 8]));
    let checkpoint = Checkpoint::open(&model.folds[0].checkpoint).expect("weights");
    assert_eq!(checkpoint.metadata().current_epoch, Some(7));
    let mut weights = Parameters::zeros(&model.network).expect("a network");
    weights.load_checkpoint(&checkpoint).expect("its weights");
    let answer = Checkpoint::open(fixture().join("answer.safetensors")).expect("the reference");
    let x = answer.read("x").expect("an input");
    let mut engine = EngineChoice::default().start().expect("an engine");
    let program = Program::new(&model.network, 1, [8, 16, 8], Mode::Evaluate).expect("a program");
    engine.prepare(&program).expect("memory");
    engine.load(Arc::new(weights)).expect("weights");
    let heads = engine.forward(&x).expect("an answer").heads;
    assert_eq!(heads.len(), 2);
    for (i, ours) in heads.into_iter().enumerate() {
        let distance = relative_l2(ours, &answer.read(&format!("out.{i}")).expect("logits"));
        assert!(distance < 1e-5, "head {i}: {distance}");
    }
}

#[test]
fn folds_may_be_called_all() {
    let (_dir, path) = copy(NAME, "all");
    assert_eq!(open(&path).expect("a model").folds[0].name, "all");
    let one = Model::open(&path, &Folds::These(vec![0]), &CheckpointChoice::Final).expect_err("no fold 0");
    assert_eq!(one.to_string(), "the model has no fold 0 with a model_final_checkpoint; it has fold all");
    let best = Model::open(&path, &Folds::Found, &CheckpointChoice::Best).expect_err("no best checkpoint");
    assert_eq!(best.to_string(), "the model has no fold with a model_best; it has no folds");
}

#[test]
fn without_its_description_a_model_is_known_by_its_folders() {
    let (dir, path) = copy(NAME, "fold_0");
    fs::remove_file(path.join(format!("fold_0/{MODEL}.pkl"))).expect("removed");
    // The plans have two stages, and nothing tells which was trained.
    let (message, hint) = refused(&path);
    assert!(message.contains("the plans have the stages 0 (spacing [2.0,2.0,2.0] mm), 1 "), "{message}");
    assert!(hint.contains("3d_fullres/TASK/TRAINER__PLANS"), "{hint}");
    for (network, tile) in [("3d_fullres", [8, 16, 8]), ("3d_lowres", [8, 8, 8])] {
        let task = dir.path().join(network).join("Task500_BraTS2021");
        fs::create_dir_all(&task).expect("folders");
        let moved = task.join(NAME);
        let moved = fs::rename(&path, &moved).map(|()| moved).expect("moved");
        let model = open(&moved).expect("a model");
        assert_eq!((model.tile(), model.plans.dataset_name()), (tile, "Task500_BraTS2021"));
        fs::rename(&moved, &path).expect("moved back");
    }
    // Without plans.pkl, nothing tells the plans.
    fs::remove_file(path.join("plans.pkl")).expect("removed");
    assert!(refused(&path).0.contains("it has neither plans.pkl nor plans in"));
}

/// Rewrites an entry of the description next to the weights.
fn change(path: &Path, key: &str, value: &Value) {
    let file = path.join(format!("fold_0/{MODEL}.pkl"));
    let Value::Dict(mut entries) = read_pickle_file(&file).expect("the description") else {
        panic!("a dict")
    };
    // Arrays are not written; the plans are in plans.pkl too.
    entries.retain(|(k, _)| k.as_str() != Some("plans"));
    for (k, v) in &mut entries {
        if k.as_str() == Some(key) {
            *v = value.clone();
        }
    }
    fs::write(file, write_pickle(&Value::Dict(entries)).expect("plain data")).expect("written");
}

#[test]
fn trainers_without_a_known_network_are_refused_by_name() {
    let (_dir, path) = copy(NAME, "fold_0");
    change(&path, "name", &Value::Str("nnUNetTrainerMine".into()));
    let (message, hint) = refused(&path);
    assert!(message.contains("the trainer `nnUNetTrainerMine` cannot be used"), "{message}");
    assert!(hint.contains("nnUNetTrainerV2BraTSRegions_DA4_BN_BD"), "{hint}");
    change(&path, "name", &Value::Str("nnUNetTrainerV2BraTSRegions_SwinUNETR".into()));
    assert!(refused(&path).0.contains("MONAI's SwinUNETR"));
    // Another of the winner's networks: the weights say what does not fit.
    change(&path, "name", &Value::Str("nnUNetTrainerV2BraTSRegions_DA4_BN_BD".into()));
    let model = open(&path).expect("plans of a network");
    let mut weights = Parameters::zeros(&model.network).expect("a network");
    let checkpoint = Checkpoint::open(&model.folds[0].checkpoint).expect("weights");
    let error = weights.load_checkpoint(&checkpoint).expect_err("surplus tensors");
    assert!(error.to_string().contains("tensor `axial_embedding.0.params.0` of shape"), "{error}");
}

#[test]
fn the_second_stage_of_a_cascade_is_refused() {
    let (_dir, path) = copy(NAME, "fold_0");
    change(&path, "name", &Value::Str("nnUNetTrainerV2CascadeFullRes".into()));
    assert!(refused(&path).0.contains("second stage of a cascade"));
}

#[test]
fn pickles_that_ask_for_code_are_refused_by_name() {
    for (file, text) in
        [("plans.pkl", &b"cposix\nsystem\n(S'true'\ntR."[..]), (MODEL, &b"\x80\x02cbuiltins\neval\n)R."[..])]
    {
        let (_dir, path) = copy(NAME, "fold_0");
        let file = if file == MODEL { path.join(format!("fold_0/{MODEL}.pkl")) } else { path.join(file) };
        fs::write(&file, text).expect("written");
        if file.ends_with("plans.pkl") {
            fs::remove_file(path.join(format!("fold_0/{MODEL}.pkl"))).expect("removed");
        }
        let (message, hint) = refused(&path);
        let named = message.contains("posix.system") || message.contains("builtins.eval");
        assert!(named && message.contains(&file.display().to_string()), "{message}");
        assert!(hint.contains("do not open this file with other programs"), "{hint}");
    }
}

#[test]
fn truncated_files_are_said_to_be() {
    for name in
        ["plans.pkl", "fold_0/model_final_checkpoint.model.pkl", "fold_0/model_final_checkpoint.model"]
    {
        let whole = fs::read(fixture().join(NAME).join(name)).expect("the file");
        for share in [0, 1, 3, 7] {
            let (_dir, path) = copy(NAME, "fold_0");
            if name == "plans.pkl" {
                fs::remove_file(path.join(format!("fold_0/{MODEL}.pkl"))).expect("removed");
            }
            fs::write(path.join(name), &whole[..whole.len() * share / 8]).expect("written");
            let error = open(&path).expect_err("a part of a file");
            assert!(matches!(*error, InferError::Net(_)), "{name}, {share} eighths: {error}");
            assert!(error.to_string().contains(name) && error.hint().is_some(), "{error}");
        }
    }
}

#[test]
fn weights_that_end_early_are_an_error() {
    let (_dir, path) = copy(NAME, "fold_0");
    let file = path.join("fold_0").join(MODEL);
    let whole = fs::read(&file).expect("the file");
    // A byte of a tensor's values is missing in the middle: the archive's directory no longer fits.
    let mut short = whole.clone();
    short.drain(whole.len() / 2..whole.len() / 2 + 1000);
    fs::write(&file, short).expect("written");
    let failed = match open(&path) {
        Err(_) => true,
        Ok(model) => {
            let mut weights = Parameters::zeros(&model.network).expect("a network");
            let loaded = Checkpoint::open(&file).and_then(|c| weights.load_checkpoint(&c));
            matches!(
                loaded,
                Err(NetError::Damaged { .. } | NetError::Truncated { .. } | NetError::Interop(_))
            )
        }
    };
    assert!(failed);
}
