//! JSON files of nnU-Net, of both versions, and of this program, told apart by their keys.

use std::path::Path;

use glioseg_infer::postprocess::{Postprocessing, PostprocessingStep};
use glioseg_plan::{Dataset, Plans, read_json};
use serde_json::{Value, json};

use super::{Facts, dataset_facts, plans_facts};

/// What a JSON file is. A description or plans that cannot be used are an error that says why.
pub(super) fn facts(path: &Path) -> anyhow::Result<Facts> {
    let value = read_json(path)?;
    if let Some(facts) = splits(path, &value) {
        return Ok(facts);
    }
    let has = |key: &str| value.get(key).is_some();
    if has("configurations") {
        return match Plans::read(path) {
            Ok(plans) => Ok(plans_facts(path, &plans)),
            // A network, reader or label manager of another package.
            Err(error) if value["configurations"].is_object() => {
                Ok(foreign_plans(path, &value, &error.to_string()))
            }
            Err(error) => Err(error.into()),
        };
    }
    if has("spacings") && has("shapes_after_crop") {
        return Ok(fingerprint(path, &value));
    }
    if has("metric_per_case") || has("foreground_mean") {
        return Ok(summary(path, &value));
    }
    if value.get("results").is_some_and(|r| r.get("mean").is_some() || r.get("all").is_some()) {
        return Ok(summary_v1(path, &value));
    }
    if ["steps", "postprocessing_fns", "for_which_classes"].iter().any(|key| has(key)) {
        return Ok(postprocessing(path, &Postprocessing::read(path)?));
    }
    if has("cases") && has("models") {
        return Ok(record(path, &value));
    }
    if has("best_model_or_ensemble") {
        return Ok(named(path, "what a cross-validation of nnU-Net found best", &value));
    }
    if has("list_of_lists_or_source_folder") {
        return Ok(named(path, "arguments of a prediction of nnU-Net", &value));
    }
    let trainer =
        ["my_init_kwargs", "configuration_manager", "plans_manager", "torch_version", "gt_niftis_folder"];
    if trainer.iter().any(|key| has(key)) {
        return Ok(debug(path, &value));
    }
    let described = ["channel_names", "modality", "labels"].iter().any(|key| has(key));
    match Dataset::from_value(value.clone(), path) {
        Ok(dataset) => Ok(dataset_facts("dataset description", path, &dataset)),
        Err(error) if described => Err(error.into()),
        Err(_) => Ok(named(path, "JSON", &value)),
    }
}

/// The steps of a `postprocessing.json` or `.pkl`.
pub(super) fn postprocessing(path: &Path, found: &Postprocessing) -> Facts {
    let mut facts = Facts::new("postprocessing", path);
    let steps = found.steps.iter().map(|step| match step {
        PostprocessingStep::KeepLargest { labels, small_below_mm3, .. } => json!({
            "keep_largest_component_of": labels,
            "if_smaller_than_mm3": small_below_mm3,
        }),
        PostprocessingStep::ReplaceSmall { labels, below_voxels, with } => {
            json!({"replace": labels, "below_voxels": below_voxels, "with": with})
        }
    });
    let steps: Vec<Value> = steps.collect();
    facts.add("number_of_steps", steps.len()).add("steps", steps);
    facts
}

/// Lists of training and validation cases, `splits_final.json` or version 1's `.pkl`.
pub(super) fn splits(path: &Path, value: &Value) -> Option<Facts> {
    let folds = value.as_array().filter(|folds| !folds.is_empty())?;
    let count = |fold: &Value, key: &str| fold.get(key).and_then(Value::as_array).map(Vec::len);
    let folds: Option<Vec<Value>> = folds
        .iter()
        .enumerate()
        .map(|(number, fold)| {
            Some(json!({"fold": number, "train": count(fold, "train")?, "val": count(fold, "val")?}))
        })
        .collect();
    let folds = folds?;
    let mut facts = Facts::new("folds of a cross-validation", path);
    facts.add("number_of_folds", folds.len()).add("folds", folds);
    Some(facts)
}

/// Plans that this program cannot use: what they say, and why not.
fn foreign_plans(path: &Path, value: &Value, why: &str) -> Facts {
    let mut facts = Facts::new("plans that glioseg cannot use", path);
    let configurations = value["configurations"].as_object();
    let configurations: Vec<Value> =
        configurations.into_iter().flatten().map(|(name, c)| raw_configuration(name, c, None)).collect();
    facts
        .add("why", why)
        .add("name", value["plans_name"].clone())
        .add("dataset", value["dataset_name"].clone())
        .add("transpose_forward", value["transpose_forward"].clone())
        .add("image_reader", value["image_reader_writer"].clone())
        .add("configurations", configurations);
    facts
}

/// A configuration as it stands in the file.
pub(super) fn raw_configuration(name: &str, value: &Value, why: Option<&str>) -> Value {
    let network = value["architecture"]["network_class_name"].as_str().or(value["UNet_class_name"].as_str());
    let features = &value["architecture"]["arch_kwargs"]["features_per_stage"];
    let mut told = json!({"name": name});
    let entries = [
        ("inherits_from", value["inherits_from"].clone()),
        ("network", json!(network)),
        ("patch", value["patch_size"].clone()),
        ("spacing_mm", value["spacing"].clone()),
        ("batch", value["batch_size"].clone()),
        ("features", features.clone()),
        ("cannot_be_used", json!(why)),
    ];
    for (key, entry) in entries.into_iter().filter(|(_, entry)| !entry.is_null()) {
        told[key] = entry;
    }
    told
}

fn fingerprint(path: &Path, value: &Value) -> Facts {
    let lists = |key: &str| -> Vec<Vec<f64>> {
        let rows = value[key].as_array().into_iter().flatten();
        rows.map(|row| row.as_array().into_iter().flatten().filter_map(Value::as_f64).collect()).collect()
    };
    let median = |rows: &[Vec<f64>]| -> Vec<f64> {
        (0..rows.first().map_or(0, Vec::len))
            .filter_map(|axis| {
                let mut values: Vec<f64> = rows.iter().filter_map(|row| row.get(axis).copied()).collect();
                values.sort_unstable_by(f64::total_cmp);
                let (low, high) = (values.get((values.len().max(1) - 1) / 2)?, values.get(values.len() / 2)?);
                Some(f64::midpoint(*low, *high))
            })
            .collect()
    };
    let (spacings, shapes) = (lists("spacings"), lists("shapes_after_crop"));
    let channels = value["foreground_intensity_properties_per_channel"].as_object();
    let channels: Vec<Value> = channels
        .into_iter()
        .flatten()
        .map(|(number, p)| {
            json!({"channel": number, "mean": p["mean"], "std": p["std"], "min": p["min"], "median": p["median"],
                "max": p["max"], "percentile_00_5": p["percentile_00_5"], "percentile_99_5": p["percentile_99_5"]})
        })
        .collect();
    let mut facts = Facts::new("fingerprint of a dataset", path);
    facts
        .add("cases", spacings.len())
        .add("median_spacing_mm_zyx", json!(median(&spacings)))
        .add("median_shape_after_cropping_zyx", json!(median(&shapes)))
        .add("median_relative_size_after_cropping", value["median_relative_size_after_cropping"].clone())
        .add("foreground_intensities", channels);
    facts
}

fn summary(path: &Path, value: &Value) -> Facts {
    let classes: Vec<Value> = value["mean"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(class, v)| json!({"class": class, "dice": v["Dice"], "iou": v["IoU"], "fp": v["FP"], "fn": v["FN"]}))
        .collect();
    let mut facts = Facts::new("scores of nnU-Net v2", path);
    facts
        .add("cases", value["metric_per_case"].as_array().map_or(Value::Null, |cases| json!(cases.len())))
        .add("foreground_mean_dice", value["foreground_mean"]["Dice"].clone())
        .add("classes", classes);
    facts
}

fn summary_v1(path: &Path, value: &Value) -> Facts {
    let results = &value["results"];
    let classes: Vec<Value> = results["mean"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(class, v)| json!({"class": class, "dice": v["Dice"], "jaccard": v["Jaccard"]}))
        .collect();
    let mut facts = Facts::new("scores of nnU-Net v1", path);
    facts
        .add("name", value["name"].clone())
        .add("task", value["task"].clone())
        .add("author", value["author"].clone())
        .add("timestamp", value["timestamp"].clone())
        .add("cases", results["all"].as_array().map_or(Value::Null, |cases| json!(cases.len())))
        .add("classes", classes);
    facts
}

fn record(path: &Path, value: &Value) -> Facts {
    let cases = value["cases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let failed = cases.iter().filter(|case| case["status"] == "failed").count();
    let models: Vec<Value> = value["models"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|m| json!({"model": m["path"], "configuration": m["configuration"], "folds": m["folds"].as_object().map(|f| f.keys().cloned().collect::<Vec<_>>())}))
        .collect();
    let mut facts = Facts::new("record of a prediction", path);
    facts.add("cases", cases.len()).add("failed", failed).add("models", models);
    facts
}

/// The trainer's attributes as nnU-Net wrote them for people; only what is short is told.
fn debug(path: &Path, value: &Value) -> Facts {
    let mut facts = Facts::new("a trainer's attributes (debug.json)", path);
    let short = |v: &Value| match v {
        Value::String(text) => text.len() <= 80 && !text.contains('\n'),
        Value::Array(items) => items.len() <= 8 && items.iter().all(|i| i.is_number() || i.is_string()),
        Value::Object(_) | Value::Null => false,
        Value::Bool(_) | Value::Number(_) => true,
    };
    let told: Vec<Value> = value
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, v)| short(v))
        .map(|(key, v)| json!({"attribute": key, "is": v}))
        .collect();
    facts.add("attributes", told);
    facts
}

/// A file of which the keys are told.
fn named(path: &Path, kind: &str, value: &Value) -> Facts {
    let mut facts = Facts::new(kind, path);
    match value {
        Value::Object(map) => {
            let content = map.iter().map(|(key, v)| json!({"key": key, "holds": holds(v)}));
            facts.add("content", content.collect::<Vec<_>>());
        }
        other => {
            facts.add("content", holds(other));
        }
    }
    facts
}

/// A short value itself, or what a long one is.
fn holds(value: &Value) -> Value {
    match value {
        Value::Object(map) => json!(format!("{} entries", map.len())),
        Value::Array(items) => json!(format!("a list of {}", items.len())),
        Value::String(text) if text.chars().count() > 100 => {
            json!(format!("{}…", text.chars().take(100).collect::<String>()))
        }
        other => other.clone(),
    }
}
