//! Which components of label maps are better removed: decided on references, as nnU-Net decides it.

use std::path::PathBuf;

use glioseg_formats::nifti::read_labels;
use glioseg_infer::postprocess::{Postprocessing, PostprocessingStep};
use glioseg_metrics::rules::nnunet;
use glioseg_metrics::{LabelScheme, NnUnetCase, NnUnetSummary, Pair};
use glioseg_plan::Labels;
use rayon::prelude::*;
use serde_json::{Map, Value, json};

use crate::crossval::CrossvalError;

/// A label map and its reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// The label map.
    pub prediction: PathBuf,
    /// What it should be.
    pub reference: PathBuf,
}

/// What was decided.
#[derive(Debug, Clone)]
pub struct Determined {
    /// The steps, with what they rest on as notes.
    pub steps: Postprocessing,
    /// Scores before them.
    pub before: NnUnetSummary,
    /// Scores after them.
    pub after: NnUnetSummary,
    /// For every step what nnU-Net calls `labels_or_regions`: a label, or the labels of a region or of all foreground.
    pub kept: Vec<Value>,
}

impl Determined {
    /// nnU-Net's `postprocessing.json`.
    ///
    /// # Source
    /// nnU-Net v2, `determine_postprocessing`.
    pub fn nnunet_json(&self) -> String {
        let function = "remove_all_but_largest_component_from_segmentation";
        let arguments: Vec<Value> = self.kept.iter().map(|kept| json!({"labels_or_regions": kept})).collect();
        NnUnetSummary::python(&json!({
            "input_folder": self.before.means(),
            "postprocessed": self.after.means(),
            "postprocessing_fns": vec![function; arguments.len()],
            "postprocessing_kwargs": arguments,
        }))
    }
}

/// Decides whether only the largest component of all foreground, and of every label or region, is kept.
///
/// `before` are the scores of the cases as they are, where they are known.
///
/// # Errors
/// [`CrossvalError::Grid`] for a label map on another grid than its reference; errors of files.
///
/// # Source
/// nnU-Net v2, `determine_postprocessing`: all foreground if its mean Dice becomes greater and that of no class smaller;
/// then every class, on what was adopted before, if its own Dice becomes greater.
pub fn determine(
    cases: &[Judged],
    labels: &Labels,
    before: Option<&NnUnetSummary>,
) -> Result<Determined, CrossvalError> {
    let classes = labels.classes();
    let mut foreground: Vec<u16> = classes.iter().flat_map(|(_, l)| l.iter().copied()).collect();
    foreground.sort_unstable();
    foreground.dedup();
    let before = match before {
        Some(known) => known.clone(),
        None => score(cases, labels, &Postprocessing::default())?,
    };
    let mean = |s: &NnUnetSummary| s.foreground_mean.get("Dice").unwrap_or(f64::NAN);
    let of_class = |s: &NnUnetSummary, i: usize| {
        s.mean.get_index(i).and_then(|(_, v)| v.get("Dice")).unwrap_or(f64::NAN)
    };
    let mut found =
        Determined { steps: Postprocessing::default(), after: before.clone(), before, kept: Vec::new() };
    let mut tried = vec![];
    let mut attempt =
        |found: &mut Determined, what: &str, (labels_of, kept): (&[u16], Value), class: Option<usize>| {
            let step = PostprocessingStep::keep_largest(labels_of);
            let steps = [found.steps.steps.as_slice(), std::slice::from_ref(&step)].concat();
            let after = score(cases, labels, &Postprocessing::new(steps))?;
            let value = |s: &NnUnetSummary| class.map_or_else(|| mean(s), |i| of_class(s, i));
            let worse = class.is_none()
                && (0..classes.len()).any(|i| of_class(&after, i) < of_class(&found.after, i));
            let (dice_before, dice_after) = (value(&found.after), value(&after));
            let adopted = dice_after > dice_before && !worse;
            tried.push(json!({
            "keep_largest_of": what, "dice_before": dice_before, "dice_after": dice_after, "adopted": adopted,
        }));
            if adopted {
                found.steps.steps.push(step);
                found.kept.push(kept);
                found.after = after;
            }
            Ok::<_, CrossvalError>(())
        };
    attempt(&mut found, "all foreground", (&foreground, json!(foreground)), None)?;
    if classes.len() > 1 {
        for (i, (name, of)) in classes.iter().enumerate() {
            let kept = if labels.has_regions() { json!(of) } else { json!(of[0]) };
            attempt(&mut found, name, (of, kept), Some(i))?;
        }
    }
    let mut notes = Map::new();
    notes.insert("tried".into(), Value::Array(tried));
    found.steps.notes = notes;
    Ok(found)
}

/// Scores of all cases after these steps.
///
/// # Errors
/// As [`determine`].
pub fn score(
    cases: &[Judged],
    labels: &Labels,
    steps: &Postprocessing,
) -> Result<NnUnetSummary, CrossvalError> {
    let scheme = LabelScheme::dataset(labels);
    let cases = cases.par_iter().map(|Judged { prediction, reference: path }| {
        let (reference, mut map) = (read_labels(path)?, read_labels(prediction)?);
        if reference.shape() != map.shape() {
            return Err(CrossvalError::Grid {
                path: prediction.clone(),
                found: map.shape(),
                reference: path.clone(),
                expected: reference.shape(),
            });
        }
        steps.apply(&mut map);
        let pair = Pair::new(&reference, &map, labels.ignore_label());
        Ok(NnUnetCase::of(prediction, path, nnunet::score(&pair, &scheme)))
    });
    Ok(NnUnetSummary::of(cases.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use glioseg_formats::nifti::write_labels;
    use glioseg_plan::Dataset;
    use glioseg_volume::{Geometry, LabelMap};

    use super::*;

    #[test]
    fn what_becomes_better_is_adopted_and_what_becomes_worse_is_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let write = |name: &str, data: &[u16]| {
            let path = dir.path().join(name);
            let map = LabelMap::new(data.to_vec(), Geometry::isotropic([1, 1, data.len()])).expect("a map");
            write_labels(&path, &map).expect("written");
            path
        };
        let description = json!({"channel_names": {"0": "t1"}, "labels": {"background": 0, "a": 1, "b": 2},
            "numTraining": 1, "file_ending": ".nii.gz"});
        let dataset = Dataset::from_value(description, Path::new("dataset.json")).expect("valid");
        // A false spot of label 1; label 2 truly has two parts.
        let judged = [Judged {
            reference: write("r.nii.gz", &[1, 1, 1, 0, 0, 2, 2, 0, 2, 0]),
            prediction: write("p.nii.gz", &[1, 1, 1, 0, 1, 2, 2, 0, 2, 0]),
        }];
        let found = determine(&judged, &dataset.labels, None).expect("decided");
        assert_eq!(found.steps.steps, [PostprocessingStep::keep_largest(&[1])]);
        assert_eq!(found.kept, [json!(1)]);
        assert_eq!(found.steps.notes["tried"].as_array().map(Vec::len), Some(3));
        let dice = |s: &NnUnetSummary| s.foreground_mean.get("Dice").expect("a Dice");
        assert!((dice(&found.before) - f64::midpoint(6.0 / 7.0, 1.0)).abs() < 1e-12);
        assert!((dice(&found.after) - 1.0).abs() < 1e-12);
        let text = found.nnunet_json();
        let json: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["postprocessing_kwargs"], json!([{"labels_or_regions": 1}]));
        assert_eq!(json["postprocessed"]["mean"]["2"]["Dice"], 1.0);
    }
}
