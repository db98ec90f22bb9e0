//! `glioseg info`: what a path holds, in words or as JSON.

mod json;

use std::path::{Path, PathBuf};

use glioseg_diagnose::Content;
use glioseg_formats::{nifti, npz};
use glioseg_infer::cases::canonical_channel;
use glioseg_infer::model::{CheckpointChoice, Folds, Model};
use glioseg_infer::postprocess::Postprocessing;
use glioseg_interop::{Value as Pickled, read_pickle_file};
use glioseg_net::Checkpoint;
use glioseg_plan::{Dataset, Plans};
use serde_json::{Map, Value, json};

use super::{Outcome, print};
use crate::cli::Info;
use crate::problem::Problem;

pub(crate) fn run(options: &Info) -> anyhow::Result<Outcome> {
    let facts = describe(&options.path)?;
    if options.json {
        print(&serde_json::to_string_pretty(&facts.json())?)?;
    } else {
        for line in facts.words() {
            print(&line)?;
        }
    }
    Ok(Outcome::Done)
}

/// What is known of a path: names and values in the order in which they are told.
#[derive(Debug, Default)]
struct Facts(Vec<(&'static str, Value)>);

impl Facts {
    fn new(kind: &str, path: &Path) -> Self {
        Self(vec![("kind", json!(kind)), ("path", json!(path.display().to_string()))])
    }

    fn add(&mut self, name: &'static str, value: impl Into<Value>) -> &mut Self {
        self.0.push((name, value.into()));
        self
    }

    fn json(&self) -> Value {
        Value::Object(self.0.iter().map(|(n, v)| ((*n).to_owned(), v.clone())).collect::<Map<_, _>>())
    }

    fn words(&self) -> Vec<String> {
        let width = self.0.iter().map(|(n, _)| n.len()).max().unwrap_or_default();
        let mut lines = Vec::new();
        for (name, value) in &self.0 {
            let name = name.replace('_', " ");
            match value {
                Value::Array(items) if items.iter().any(Value::is_object) => {
                    lines.push(format!("{name}:"));
                    lines.extend(items.iter().map(|i| format!("  {}", word(i))));
                }
                _ => lines.push(format!("{name:<width$}  {}", word(value))),
            }
        }
        lines
    }
}

/// A value without quotation marks and braces.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        // A header's text must not begin a line of its own.
        Value::String(s) => s.replace('\n', "\\n"),
        Value::Array(items) => items.iter().map(word).collect::<Vec<_>>().join(", "),
        Value::Object(map) => map
            .iter()
            .map(|(k, v)| format!("{} {}", k.replace('_', " "), word(v)))
            .collect::<Vec<_>>()
            .join(" | "),
        other => other.to_string(),
    }
}

fn describe(path: &Path) -> anyhow::Result<Facts> {
    if !path.exists() {
        return Err(Problem::new(format!("{} does not exist", path.display()), "check the path"));
    }
    if path.is_dir() {
        return folder(path);
    }
    let name = path.file_name().map(|n| n.to_string_lossy().to_ascii_lowercase()).unwrap_or_default();
    let ending = name.rsplit('.').next().unwrap_or_default();
    // What the file is goes before what it is called.
    match (Content::of_file(path), ending) {
        (Some(Content::Zip), "npz") => arrays(path),
        (Some(Content::Pickle) | None, "pkl") => pickle(path),
        (Some(Content::Zip | Content::Pickle), "pth" | "pt" | "model" | "ckpt")
        | (None, "pth" | "safetensors" | "model") => checkpoint(path),
        (Some(Content::Zip), _) => checkpoint(path).or_else(|_| Ok(other(path, Content::Zip))),
        (Some(Content::Pickle), _) => checkpoint(path).or_else(|_| pickle(path)),
        (Some(Content::Json), "jsonl") | (None, "txt") => Ok(log(path)),
        (Some(Content::Json), _) | (None, "json") => json::facts(path),
        (Some(Content::Gzip | Content::Nifti) | None, _) => image(path),
        (Some(content), _) => Ok(other(path, content)),
    }
}

/// A file of a kind that is not read: what it is, and what to do.
fn other(path: &Path, content: Content) -> Facts {
    let mut facts = Facts::new(&content.to_string(), path);
    let progress = path.file_name().is_some_and(|name| name == "progress.png");
    if progress && content == Content::Picture {
        facts.add(
            "shows",
            "the learning curves of a training; `glioseg report --model` draws them from its log",
        );
    } else {
        facts.add("remedy", content.remedy());
    }
    facts
}

/// A log of a training: its lines, and how far it came.
fn log(path: &Path) -> Facts {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let epochs = text.lines().filter_map(|line| {
        let line = line.rsplit(": ").next().unwrap_or(line).trim();
        line.strip_prefix("Epoch ")
            .or_else(|| line.strip_prefix("epoch:"))
            .and_then(|n| n.trim().parse::<u64>().ok())
    });
    let ours =
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?.get("epoch")?.as_u64());
    let last = epochs.chain(ours).last();
    let mut facts = Facts::new(if last.is_some() { "log of a training" } else { "text" }, path);
    facts.add("lines", text.lines().count()).add("last_epoch", json!(last));
    facts
}

/// The arrays of an npz.
fn arrays(path: &Path) -> anyhow::Result<Facts> {
    let archive = npz::Archive::open(path)?;
    let names = archive.file_names();
    let names: Vec<&str> = names.iter().map(|name| name.strip_suffix(".npy").unwrap_or(name)).collect();
    let mut facts = Facts::new("arrays (npz)", path);
    facts.add("arrays", json!(names));
    if let Some(saved) = names.iter().find(|name| ["probabilities", "softmax"].contains(name)) {
        let mut archive = npz::Archive::open(path)?;
        facts.add("shape", json!(archive.array(saved)?.shape()));
    }
    Ok(facts)
}

fn image(path: &Path) -> anyhow::Result<Facts> {
    let info = nifti::read_info(path)?;
    let mut facts = Facts::new("image", path);
    let [z, y, x] = info.geometry.shape;
    let rows = info.geometry.affine().rows();
    facts
        .add("format", format!("NIfTI-{}{}", info.version, if info.compressed { ", gzip" } else { "" }))
        .add(
            "voxel_type",
            format!("{:?}, {}-endian", info.dtype, if info.big_endian { "big" } else { "little" }),
        )
        .add("channels", info.channels)
        .add("shape_zyx", json!([z, y, x]))
        .add("spacing_mm_zyx", json!(info.geometry.spacing))
        .add("orientation", info.geometry.orientation())
        .add("origin_lps_mm", json!(info.geometry.origin()))
        .add("affine", json!(rows))
        .add("qform_code", info.qform_code)
        .add("sform_code", info.sform_code)
        .add("scale", json!(info.scale));
    if !info.description.is_empty() {
        facts.add("description", info.description.clone());
    }
    Ok(facts)
}

fn checkpoint(path: &Path) -> anyhow::Result<Facts> {
    let checkpoint = Checkpoint::open(path)?;
    let metadata = checkpoint.metadata();
    let (mut tensors, mut values) = (0, 0);
    for tensor in checkpoint.tensors() {
        tensors += 1;
        values += tensor.shape.iter().product::<usize>();
    }
    let mut facts = Facts::new("checkpoint", path);
    facts
        .add("format", format!("{:?}", checkpoint.kind()))
        .add("trainer", json!(metadata.trainer_name))
        .add("configuration", json!(metadata.configuration))
        .add("fold", json!(metadata.fold))
        .add("finished_epochs", json!(metadata.current_epoch))
        .add("best_score", json!(metadata.best_ema))
        .add("mirror_axes", json!(metadata.mirror_axes))
        .add("tensors", tensors)
        .add("values", values)
        .add("sha256", checkpoint.sha256()?);
    Ok(facts)
}

/// Plans, a model's description or a case's properties of nnU-Net v1; of anything else its keys.
fn pickle(path: &Path) -> anyhow::Result<Facts> {
    let value = read_pickle_file(path)?;
    let plans = value.get("plans").unwrap_or(&value);
    let Some(stages) = plans.get("plans_per_stage").and_then(Pickled::as_dict) else {
        if let Ok(found) = Postprocessing::read(path) {
            return Ok(json::postprocessing(path, &found));
        }
        if let Some(facts) = json::splits(path, &value.to_json()) {
            return Ok(facts);
        }
        let mut facts = Facts::new("pickle", path);
        let keys: Vec<Value> = match value.as_dict() {
            Some(entries) => {
                entries.iter().map(|(k, v)| json!({"key": k.to_string(), "holds": v.kind()})).collect()
            }
            None => vec![json!({"holds": value.kind()})],
        };
        facts.add("content", keys);
        return Ok(facts);
    };
    let mut facts = Facts::new("plans of nnU-Net v1", path);
    let told = |key: &str| plans.get(key).map_or(Value::Null, Pickled::to_json);
    if let Some(trainer) = value.get("name") {
        facts.add("trainer", trainer.to_json());
    }
    let stages: Vec<Value> = stages
        .iter()
        .map(|(number, stage)| {
            let told = |key: &str| stage.get(key).map_or(Value::Null, Pickled::to_json);
            json!({
                "stage": number.to_string(),
                "patch": told("patch_size"),
                "spacing_mm": told("current_spacing"),
                "batch": told("batch_size"),
                "pools": told("num_pool_per_axis"),
            })
        })
        .collect();
    facts
        .add("channels", told("modalities"))
        .add("classes", told("all_classes"))
        .add("base_features", told("base_num_features"))
        .add("mask_for_norm", told("use_mask_for_norm"))
        .add("transpose_forward", told("transpose_forward"))
        .add("stages", stages);
    Ok(facts)
}

fn dataset_facts(kind: &str, path: &Path, dataset: &Dataset) -> Facts {
    let mut facts = Facts::new(kind, path);
    let channels: Vec<Value> = dataset
        .channel_names
        .iter()
        .enumerate()
        .map(|(i, name)| json!({"number": format!("{i:04}"), "name": name, "read_as": canonical_channel(name)}))
        .collect();
    let labels: Vec<Value> =
        dataset.labels.entries().iter().map(|l| json!({"label": l.name, "values": l.values})).collect();
    facts
        .add("channels", channels)
        .add("labels", labels)
        .add(
            "training_of",
            if dataset.labels.has_regions() { "regions (sigmoid)" } else { "labels (softmax)" },
        )
        .add("outputs", json!(dataset.labels.output_names()))
        .add("ignore_label", json!(dataset.labels.ignore_label()))
        .add("file_ending", dataset.file_ending.clone())
        .add("training_cases", json!(dataset.num_training));
    facts
}

fn plans_facts(path: &Path, plans: &Plans) -> Facts {
    let mut facts = Facts::new("plans", path);
    let mut configurations = Vec::new();
    for name in plans.configuration_names() {
        let c = match plans.configuration(name) {
            Ok(c) => c,
            // Such as with a network of another package: the others can be told.
            Err(error) => {
                let raw = &plans.raw()["configurations"][name];
                configurations.push(json::raw_configuration(name, raw, Some(&error.to_string())));
                continue;
            }
        };
        configurations.push(json!({
            "name": name,
            "network": c.architecture.kind.name(),
            "patch": c.patch_size,
            "spacing_mm": c.spacing,
            "batch": c.batch_size,
            "features": c.architecture.features_per_stage,
        }));
    }
    facts
        .add("name", plans.plans_name())
        .add("dataset", plans.dataset_name())
        .add("transpose_forward", json!(plans.transpose_forward()))
        .add("image_reader", plans.image_reader().name())
        .add("configurations", configurations);
    facts
}

fn folder(path: &Path) -> anyhow::Result<Facts> {
    let record = path.join("predict.json");
    if record.is_file() {
        return json::facts(&record);
    }
    if Model::looks_like(path) {
        return model(path);
    }
    if path.join("dataset.json").is_file() {
        let dataset = Dataset::read(&path.join("dataset.json"))?;
        let mut facts = dataset_facts("dataset", path, &dataset);
        for folder in ["imagesTr", "labelsTr", "imagesTs", "labelsTs"] {
            let files = files_ending(&path.join(folder), &dataset.file_ending);
            if let Some(files) = files {
                facts.0.push((
                    if folder.starts_with("images") { "image_files" } else { "label_files" },
                    json!(format!("{folder}: {files}")),
                ));
            }
        }
        return Ok(facts);
    }
    let models: Vec<PathBuf> = std::fs::read_dir(path)?
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.is_dir() && Model::looks_like(p))
        .collect();
    if models.is_empty() {
        return Err(Problem::new(
            format!("{} holds neither a model nor a dataset", path.display()),
            "a model has plans.json and dataset.json (or plans.pkl, of version 1), a dataset has dataset.json; or give a single file",
        ));
    }
    let mut names: Vec<String> = models.iter().map(|m| m.display().to_string()).collect();
    names.sort();
    let mut facts = Facts::new("folder of models", path);
    facts.add("models", json!(names.iter().map(|n| json!({"model": n})).collect::<Vec<_>>()));
    Ok(facts)
}

fn files_ending(folder: &Path, ending: &str) -> Option<usize> {
    let entries = std::fs::read_dir(folder).ok()?;
    Some(entries.flatten().filter(|e| e.file_name().to_string_lossy().ends_with(ending)).count())
}

fn model(path: &Path) -> anyhow::Result<Facts> {
    let (model, choice) = match Model::open(path, &Folds::Found, &CheckpointChoice::Final) {
        Ok(model) => (model, CheckpointChoice::Final),
        Err(first) => match Model::open(path, &Folds::Found, &CheckpointChoice::Best) {
            Ok(model) => (model, CheckpointChoice::Best),
            Err(_) => return Err(first.into()),
        },
    };
    let mut facts = dataset_facts("model", path, &model.dataset);
    let folds: Vec<Value> = model
        .folds
        .iter()
        .map(|f| json!({"fold": f.name, "checkpoint": f.checkpoint.display().to_string()}))
        .collect();
    let attention = model.configuration.architecture.generic.as_ref().and_then(|g| g.attention.as_ref());
    let attention = attention.map_or(Value::Null, |a| json!(a.to_string()));
    facts
        .add("dataset", model.plans.dataset_name())
        .add("plans", model.plans.plans_name())
        .add("configuration", model.configuration.name.clone())
        .add("rules", model.configuration.rules.name())
        .add("network", model.configuration.architecture.kind.name())
        .add("normalization", model.configuration.architecture.norm.kind.to_string())
        .add("attention", attention)
        .add("features", json!(model.configuration.architecture.features_per_stage))
        .add("parameters", model.network.num_parameters().unwrap_or(0))
        .add("patch", json!(model.configuration.patch_size))
        .add("spacing_mm", json!(model.configuration.spacing))
        .add("trainer", json!(model.trainer))
        .add("mirror_axes", json!(model.mirror_axes))
        .add(
            "checkpoint",
            if model.path.join("plans.pkl").is_file() { choice.v1_stem() } else { choice.stem() },
        )
        .add("folds", folds);
    Ok(facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_aligned_and_lists_of_things_have_a_line_each() {
        let mut facts = Facts::new("model", Path::new("m"));
        facts
            .add("mirror_axes", json!([0, 1]))
            .add("folds", vec![json!({"fold": "0", "checkpoint": "a.pth"})]);
        assert_eq!(
            facts.words(),
            [
                "kind         model",
                "path         m",
                "mirror axes  0, 1",
                "folds:",
                "  fold 0 | checkpoint a.pth"
            ]
        );
    }

    #[test]
    fn a_path_that_is_not_there_is_said_so() {
        let error = describe(Path::new("no/such/file")).expect_err("nothing there");
        assert_eq!(error.to_string(), "no/such/file does not exist");
    }
}
