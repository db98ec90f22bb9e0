//! How a model learned, read from the logs in its folder.

use std::collections::BTreeMap;
use std::path::Path;

use glioseg_formats::FormatError;
use glioseg_plan::Dataset;
use indexmap::IndexMap;
use serde::Serialize;

use crate::error::ReportError;
use glioseg_metrics::number::Number;

/// What a fold's training wrote epoch by epoch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curve {
    /// The fold, such as `fold_0`.
    pub fold: String,
    /// Epochs, ascending.
    pub epochs: Vec<u64>,
    /// Name to values, one per epoch; NaN where an epoch lacks it.
    pub series: IndexMap<String, Vec<Number>>,
}

/// One epoch's numbers by name.
type Epoch = IndexMap<String, f64>;

/// The learning curves of every fold below a model's folder (or of the folder itself, if it is a fold), by name.
/// Folds without a log are left out.
///
/// # Errors
/// [`ReportError::Volume`] if a log that is there cannot be read.
///
/// # Source
/// This program's `training_log.jsonl`, a line of JSON per epoch; nnU-Net v2 and v1, `training_log_*.txt`.
pub fn read_curves(model: &Path) -> Result<Vec<Curve>, ReportError> {
    let folders = |path: &Path| -> Vec<std::path::PathBuf> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.path());
        let mut found: Vec<_> = entries.collect();
        found.sort();
        found
    };
    let mut candidates: Vec<_> = folders(model).into_iter().filter(|p| p.is_dir()).collect();
    candidates.push(model.to_owned());
    let names = region_names(model);
    let mut curves = Vec::new();
    for fold in candidates {
        let mut epochs: BTreeMap<u64, Epoch> = BTreeMap::new();
        // Several logs are runs that were continued; names carry the date, so that later ones replace earlier epochs.
        for file in folders(&fold) {
            let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            let read = || {
                let failed = |source| FormatError::Io { path: file.clone(), action: "read", source };
                std::fs::read(&file).map(|b| String::from_utf8_lossy(&b).into_owned()).map_err(failed)
            };
            if name == "training_log.jsonl" {
                epochs.extend(own_log(&read()?));
            } else if name.starts_with("training_log") && file.extension().is_some_and(|e| e == "txt") {
                epochs.extend(nnunet_log(&read()?));
            }
        }
        if !epochs.is_empty() {
            let name = fold.file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned());
            curves.push(curve(name, &epochs, &names));
        }
    }
    Ok(curves)
}

/// Names of the regions or labels that a model's Dice values belong to, in order; none without a `dataset.json`.
fn region_names(model: &Path) -> Vec<String> {
    let mut beside = [Some(model), model.parent()].into_iter().flatten().map(|f| f.join("dataset.json"));
    let Some(dataset) = beside.find_map(|p| Dataset::read(&p).ok()) else { return Vec::new() };
    dataset.labels.classes().into_iter().map(|(name, _)| name).collect()
}

fn curve(fold: String, epochs: &BTreeMap<u64, Epoch>, regions: &[String]) -> Curve {
    let mut names: Vec<&String> = Vec::new();
    for name in epochs.values().flat_map(Epoch::keys) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let column =
        |name: &String| epochs.values().map(|e| Number(e.get(name).copied().unwrap_or(f64::NAN))).collect();
    let shown = |name: &String| {
        let number = name.strip_prefix("Dice ").and_then(|n| n.parse::<usize>().ok());
        let region = number.and_then(|n| regions.get(n.checked_sub(1)?));
        region.map_or_else(|| name.clone(), |region| format!("Dice {region}"))
    };
    Curve {
        fold,
        epochs: epochs.keys().copied().collect(),
        series: names.into_iter().map(|n| (shown(n), column(n))).collect(),
    }
}

/// The epochs of a `training_log.jsonl`; a line that is damaged or none of an epoch is left out.
fn own_log(text: &str) -> Vec<(u64, Epoch)> {
    let line = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        let number = value.get("epoch")?.as_u64()?;
        let mut epoch = Epoch::new();
        for (key, name) in [
            ("train_loss", "train loss"),
            ("val_loss", "validation loss"),
            ("lr", "learning rate"),
            ("ema_dice", "Dice, moving average"),
        ] {
            if let Some(v) = value.get(key).and_then(serde_json::Value::as_f64) {
                epoch.insert(name.to_owned(), v);
            }
        }
        for (i, dice) in value.get("dice").and_then(|d| d.as_array()).into_iter().flatten().enumerate() {
            if let Some(v) = dice.as_f64() {
                epoch.insert(format!("Dice {}", i + 1), v);
            }
        }
        Some((number, epoch))
    };
    text.lines().filter_map(line).collect()
}

/// The epochs of a `training_log_*.txt`; what is not a number of an epoch is left out.
fn nnunet_log(text: &str) -> Vec<(u64, Epoch)> {
    let mut epochs: Vec<(u64, Epoch)> = Vec::new();
    for line in text.lines() {
        // v2 puts the date before a colon and a space, v1 too.
        let lower = line.to_lowercase();
        let after =
            |word: &str| lower.split_once(word).map(|(_, rest)| rest.trim_start_matches([':', ' ']).trim());
        if let Some(number) = after("epoch ").or_else(|| after("epoch:")).and_then(|t| t.parse().ok()) {
            epochs.push((number, Epoch::new()));
            continue;
        }
        let Some((_, epoch)) = epochs.last_mut() else { continue };
        let mut one = |name: &str, words: &[&str]| {
            let value = words.iter().find_map(|w| after(w)?.split_whitespace().next()?.parse().ok());
            if let Some(value) = value {
                epoch.insert(name.to_owned(), value);
            }
        };
        one("train loss", &["train_loss", "train loss"]);
        one("validation loss", &["val_loss", "validation loss"]);
        one("learning rate", &["current learning rate", "lr:"]);
        let dice = after("pseudo dice").or_else(|| after("average global foreground dice"));
        if let Some(list) = dice.and_then(|d| d.split_once('[')).and_then(|(_, l)| l.split_once(']')) {
            for (i, value) in list.0.split(',').enumerate() {
                // numpy 2 prints `np.float32(0.9)`.
                let value = value.trim().trim_end_matches(')');
                let value = value.rsplit('(').next().unwrap_or(value);
                if let Ok(value) = value.parse() {
                    epoch.insert(format!("Dice {}", i + 1), value);
                }
            }
        }
    }
    epochs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_of_nnunet_become_curves() {
        let v2 = "2024-01-01 10:00:00.1: Epoch 0\n2024-01-01 10:00:00.2: Current learning rate: 0.01\n\
            2024-01-01 10:00:09.1: train_loss -0.1\n2024-01-01 10:00:09.1: val_loss -0.2\n\
            2024-01-01 10:00:09.1: Pseudo dice [np.float32(0.5), np.float32(0.25), nan]\n\
            2024-01-01 10:00:09.1: Epoch time: 9.0 s\n2024-01-01 10:00:10.1: Epoch 1\n\
            2024-01-01 10:00:19.1: train_loss -0.3\n";
        let v1 = "2021-01-01 10:00:00: \nepoch:  1\n2021-01-01 10:00:00: train loss : -0.6\n\
            2021-01-01 10:00:00: validation loss: -0.5\n\
            2021-01-01 10:00:00: Average global foreground Dice: [0.8, 0.7]\n2021-01-01 10:00:00: lr: 0.005\n";
        let folder = tempfile::tempdir().expect("a folder");
        let fold = folder.path().join("fold_0");
        std::fs::create_dir(&fold).expect("a folder");
        assert!(read_curves(folder.path()).expect("no log is not an error").is_empty());
        std::fs::write(fold.join("training_log_2021_1.txt"), v2).expect("writable");
        std::fs::write(fold.join("training_log_2021_2.txt"), v1).expect("writable");
        let found = read_curves(folder.path()).expect("logs");
        assert_eq!(
            (found.len(), found[0].fold.as_str(), found[0].epochs.as_slice()),
            (1, "fold_0", &[0, 1][..])
        );
        let values = |name: &str| found[0].series[name].iter().map(|n| n.0).collect::<Vec<_>>();
        assert_eq!(values("train loss"), [-0.1, -0.6]);
        assert_eq!(values("validation loss"), [-0.2, -0.5]);
        assert_eq!(values("learning rate"), [0.01, 0.005]);
        assert_eq!(values("Dice 2"), [0.25, 0.7]);
    }

    #[test]
    fn our_own_logs_name_the_regions() {
        let folder = tempfile::tempdir().expect("a folder");
        let fold = folder.path().join("fold_all");
        std::fs::create_dir(&fold).expect("a folder");
        let log = "{\"epoch\":0,\"lr\":0.01,\"train_loss\":0.5,\"val_loss\":0.4,\"dice\":[0.1,null],\"ema_dice\":0.1}\n\
            {\"epoch\":1,\"lr\":0.009,\"train_loss\":0.4,\"val_loss\":0.3,\"dice\":[0.2,0.3],\"ema_dice\":0.11}\n{\"epo";
        std::fs::write(fold.join("training_log.jsonl"), log).expect("writable");
        let dataset = r#"{"channel_names": {"0": "t1"}, "labels": {"background": 0, "oedema": 1, "core": 2},
            "numTraining": 1, "file_ending": ".nii.gz"}"#;
        std::fs::write(folder.path().join("dataset.json"), dataset).expect("writable");
        let found = read_curves(folder.path()).expect("logs");
        let names: Vec<&String> = found[0].series.keys().collect();
        assert_eq!(
            names,
            [
                "train loss",
                "validation loss",
                "learning rate",
                "Dice, moving average",
                "Dice oedema",
                "Dice core"
            ]
        );
        let core = &found[0].series["Dice core"];
        assert!(core[0].0.is_nan() && (core[1].0 - 0.3).abs() < 1e-12, "{core:?}");
    }
}
