//! nnU-Net's `summary.json`: written as nnU-Net writes it, and read back.

use std::io::Write as _;
use std::path::Path;

use glioseg_formats::atomic;
use glioseg_interop::{KeyOrder, python_json};
use glioseg_plan::read_json;
use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use crate::error::MetricsError;
use crate::labels::Class;
use crate::number::{Number, Values};
use crate::rules::nnunet::METRICS;
use crate::rules::{RegionScores, Rule};
use crate::statistics::mean;

/// What a `summary.json` holds.
#[derive(Debug, Clone, PartialEq)]
pub struct NnUnetSummary {
    /// Mean of the class means.
    pub foreground_mean: Values,
    /// Mean over cases of every class, by its key; NaN left out.
    pub mean: IndexMap<String, Values>,
    /// The cases.
    pub cases: Vec<NnUnetCase>,
}

/// A case of a `summary.json`.
#[derive(Debug, Clone, PartialEq)]
pub struct NnUnetCase {
    /// The prediction's file.
    pub prediction_file: String,
    /// The reference's file.
    pub reference_file: String,
    /// Metrics of every class, by its key.
    pub metrics: IndexMap<String, Values>,
}

impl NnUnetCase {
    /// What [`nnunet::score`](crate::rules::nnunet::score) found of a prediction and its reference.
    pub fn of(prediction: &Path, reference: &Path, scores: Vec<RegionScores>) -> Self {
        Self {
            prediction_file: prediction.display().to_string(),
            reference_file: reference.display().to_string(),
            metrics: scores.into_iter().map(|r| (r.region, r.values)).collect(),
        }
    }
}

impl NnUnetSummary {
    /// Averages cases; classes and metrics are those of the first.
    ///
    /// A class mean leaves NaN out; the foreground mean does not, so that it is NaN if a class is NaN in every case.
    ///
    /// # Source
    /// nnU-Net v2, `compute_metrics_on_folder`.
    pub fn of(cases: Vec<NnUnetCase>) -> Self {
        let mut means: IndexMap<String, Values> = IndexMap::new();
        for (class, metrics) in cases.first().map(|c| &c.metrics).into_iter().flatten() {
            let mut values = Values::new();
            for (metric, _) in metrics.iter() {
                let column: Vec<f64> = cases
                    .iter()
                    .filter_map(|c| c.metrics.get(class)?.get(metric))
                    .filter(|v| !v.is_nan())
                    .collect();
                values.set(metric, mean(&column));
            }
            means.insert(class.clone(), values);
        }
        let mut foreground_mean = Values::new();
        for metric in METRICS.iter().map(|metric| metric.key) {
            let column: Vec<f64> =
                means.iter().filter(|(key, _)| *key != "0").filter_map(|(_, v)| v.get(metric)).collect();
            foreground_mean.set(metric, mean(&column));
        }
        Self { foreground_mean, mean: means, cases }
    }

    /// The text that nnU-Net writes: sorted keys, four spaces, bare `NaN`.
    ///
    /// # Source
    /// nnU-Net v2, `save_summary_json`.
    pub fn to_json(&self) -> String {
        // Counts are whole numbers in a case.
        let whole = |name: &str, value: f64| match Rule::NnUnet.metric(name) {
            Some(metric) if metric.unit.counts() => json!(value as u64),
            _ => json!(Number(value)),
        };
        let real = |_: &str, value: f64| json!(Number(value));
        let object = |values: &Values, number: &dyn Fn(&str, f64) -> Value| -> Value {
            values.iter().map(|(name, value)| (name.to_owned(), number(name, value))).collect()
        };
        let classes = |map: &IndexMap<String, Values>, number: &dyn Fn(&str, f64) -> Value| -> Value {
            map.iter().map(|(class, values)| (class.clone(), object(values, number))).collect()
        };
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|case| {
                json!({
                    "metrics": classes(&case.metrics, &whole),
                    "prediction_file": case.prediction_file,
                    "reference_file": case.reference_file,
                })
            })
            .collect();
        let all = json!({
            "foreground_mean": object(&self.foreground_mean, &real),
            "mean": classes(&self.mean, &real),
            "metric_per_case": cases,
        });
        Self::python(&all)
    }

    /// `foreground_mean` and `mean`, as in the file; numbers that are none are texts.
    pub fn means(&self) -> Value {
        let object = |values: &Values| -> Value {
            values.iter().map(|(name, value)| (name.to_owned(), json!(Number(value)))).collect()
        };
        let classes: Value =
            self.mean.iter().map(|(class, values)| (class.clone(), object(values))).collect();
        json!({"foreground_mean": object(&self.foreground_mean), "mean": classes})
    }

    /// The text that nnU-Net writes of such values: sorted keys, four spaces, bare `NaN`.
    pub fn python(value: &Value) -> String {
        let text = python_json(value, KeyOrder::Sorted);
        // Only numbers stand at the end of a line after `: `; a file of that name would stand after another key.
        let mut out = String::with_capacity(text.len());
        for line in text.split_inclusive('\n') {
            let file = line.trim_start().starts_with("\"prediction_file\"")
                || line.trim_start().starts_with("\"reference_file\"");
            if file {
                out.push_str(line);
            } else {
                out.push_str(&line.replace(": \"NaN\"", ": NaN").replace(": \"Infinity\"", ": Infinity"));
            }
        }
        out
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`MetricsError::Volume`] that names it.
    pub fn write(&self, path: &Path) -> Result<(), MetricsError> {
        atomic::write(path, |file| file.write_all(self.to_json().as_bytes()))?;
        Ok(())
    }

    /// Reads a `summary.json` that nnU-Net v2 or this program wrote.
    ///
    /// # Errors
    /// [`MetricsError::Plan`] if it is not JSON, [`MetricsError::Scores`] if it is not a summary.
    pub fn read(path: &Path) -> Result<Self, MetricsError> {
        let root = read_json(path)?;
        let wrong = |reason: String| MetricsError::Scores { path: path.to_owned(), reason };
        let values = |value: &Value, place: &str| -> Result<Values, MetricsError> {
            serde_json::from_value(value.clone())
                .map_err(|e| wrong(format!("`{place}` is not an object of numbers: {e}")))
        };
        let get = |value: &Value, key: &str| -> Result<Value, MetricsError> {
            value.get(key).cloned().ok_or_else(|| wrong(format!("`{key}` is missing")))
        };
        let classes = |value: &Value, place: &str| -> Result<IndexMap<String, Values>, MetricsError> {
            let map: &Map<String, Value> =
                value.as_object().ok_or_else(|| wrong(format!("`{place}` is not an object")))?;
            map.iter()
                .map(|(key, v)| match Class::from_key(key) {
                    Some(class) => Ok((class.key(), values(v, key)?)),
                    None => {
                        Err(wrong(format!("`{key}` in `{place}` is neither a label nor a tuple of labels")))
                    }
                })
                .collect()
        };
        let cases = get(&root, "metric_per_case")?;
        let cases = cases.as_array().ok_or_else(|| wrong("`metric_per_case` is not a list".to_owned()))?;
        let cases = cases
            .iter()
            .map(|case| {
                let text = |key| {
                    let value = get(case, key)?;
                    value.as_str().map(str::to_owned).ok_or_else(|| wrong(format!("`{key}` is not a string")))
                };
                Ok(NnUnetCase {
                    prediction_file: text("prediction_file")?,
                    reference_file: text("reference_file")?,
                    metrics: classes(&get(case, "metrics")?, "metrics")?,
                })
            })
            .collect::<Result<Vec<_>, MetricsError>>()?;
        Ok(Self {
            foreground_mean: values(&get(&root, "foreground_mean")?, "foreground_mean")?,
            mean: classes(&get(&root, "mean")?, "mean")?,
            cases,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pair::Counts;
    use crate::rules::nnunet::values;

    fn case(name: &str, one: Counts, two: Counts) -> NnUnetCase {
        let class = |labels: &[u16]| Class::Region(labels.to_vec()).key();
        NnUnetCase {
            prediction_file: format!("pred/{name}"),
            reference_file: format!("ref/{name}"),
            metrics: [(class(&[1, 2]), values(&one)), (class(&[2]), values(&two))].into_iter().collect(),
        }
    }

    #[test]
    fn means_leave_undefined_cases_out_but_not_undefined_classes() {
        let some = Counts { tp: 1, fp: 1, fn_: 0, tn: 2 };
        let none = Counts { tp: 0, fp: 0, fn_: 0, tn: 4 };
        let summary = NnUnetSummary::of(vec![case("a", some, none), case("b", none, none)]);
        assert!((summary.mean["(1, 2)"].get("Dice").expect("Dice") - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(summary.mean["(1, 2)"].get("FP"), Some(0.5));
        assert!(summary.mean["(2,)"].get("Dice").is_some_and(f64::is_nan));
        assert!(summary.foreground_mean.get("Dice").is_some_and(f64::is_nan));
        assert_eq!(summary.foreground_mean.get("n_pred"), Some(0.5));
    }

    #[test]
    fn files_look_like_those_of_nnunet_and_read_back() {
        let some = Counts { tp: 1, fp: 1, fn_: 0, tn: 2 };
        let none = Counts { tp: 0, fp: 0, fn_: 0, tn: 4 };
        let summary = NnUnetSummary::of(vec![case("NaN", some, none)]);
        let text = summary.to_json();
        assert!(
            text.starts_with("{\n    \"foreground_mean\": {\n        \"Dice\": NaN,\n        \"FN\": 0.0,"),
            "{text}"
        );
        assert!(
            text.contains("\"(2,)\": {\n                    \"Dice\": NaN,\n                    \"FN\": 0,"),
            "{text}"
        );
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("summary.json");
        summary.write(&path).expect("writable");
        let back = NnUnetSummary::read(&path).expect("our own file");
        assert_eq!(back.to_json(), text);
        std::fs::write(&path, "{\"mean\": {}}").expect("writable");
        let error = NnUnetSummary::read(&path).expect_err("no cases");
        assert!(error.to_string().contains("`metric_per_case` is missing"), "{error}");
    }
}
