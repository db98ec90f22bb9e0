//! nnU-Net's experiment planner: from a fingerprint to plans.
//!
//! [`plan`] decides spacing, axis order, patch, batch and network of every configuration and gives the `plans.json`
//! that nnU-Net would write, key for key. Memory is not measured but counted ([`Attempt::estimate`]), as nnU-Net does
//! it: the result depends on the fingerprint and the options alone. Left out: the planners with torch's resampling,
//! which differ in nothing else.

mod brats21;
mod configuration;
mod estimate;
mod moved;
mod target;
mod topology;

use crate::{Fingerprint, Normalization, PlanError, RawDataset, Splits};
use configuration::{Setting, plan_configuration};
use glioseg_formats::atomic;
use glioseg_interop::python_json;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use target::Target;

pub use moved::MovedPlans;
pub(crate) use topology::Topology;

/// Below this share of a case in a patch of `3d_fullres`, nnU-Net adds `3d_lowres`.
const LOWRES_SHARE: f64 = 0.25;

/// The kinds of experiment planner.
///
/// In JSON they have the words of the command line: `default`, `resenc-m`, `brats21` …
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Planner {
    /// `ExperimentPlanner`: plain U-Net for 8 GB.
    #[serde(rename = "default")]
    Default,
    /// `ResEncUNetPlanner`: residual encoder for 8 GB, batches of at most 5 % of the dataset.
    #[serde(rename = "resenc")]
    ResEnc,
    /// `nnUNetPlannerResEncM`: residual encoder for 8 GB.
    #[serde(rename = "resenc-m")]
    ResEncM,
    /// `nnUNetPlannerResEncL`: residual encoder for 24 GB.
    #[serde(rename = "resenc-l")]
    ResEncL,
    /// `nnUNetPlannerResEncXL`: residual encoder for 40 GB.
    #[serde(rename = "resenc-xl")]
    ResEncXl,
    /// `ExperimentPlanner3D_v21` of nnU-Net v1 with the BraTS 2021 winner's baseline network, and version 1's rules.
    #[serde(rename = "brats21")]
    Brats21,
}

impl Planner {
    /// nnU-Net's class name.
    pub fn class_name(self) -> &'static str {
        match self {
            Planner::Default => "ExperimentPlanner",
            Planner::ResEnc => "ResEncUNetPlanner",
            Planner::ResEncM => "nnUNetPlannerResEncM",
            Planner::ResEncL => "nnUNetPlannerResEncL",
            Planner::ResEncXl => "nnUNetPlannerResEncXL",
            Planner::Brats21 => "ExperimentPlanner3D_v21",
        }
    }

    /// Name of the plans unless another is given.
    pub fn plans_name(self) -> &'static str {
        match self {
            Planner::Default => "nnUNetPlans",
            Planner::ResEnc => "nnUNetResEncUNetPlans",
            Planner::ResEncM => "nnUNetResEncUNetMPlans",
            Planner::ResEncL => "nnUNetResEncUNetLPlans",
            Planner::ResEncXl => "nnUNetResEncUNetXLPlans",
            Planner::Brats21 => "nnUNetPlansv2.1",
        }
    }

    /// GB of GPU memory that it plans for unless told otherwise.
    pub fn gpu_memory_gb(self) -> f64 {
        match self {
            Planner::Default | Planner::ResEnc | Planner::ResEncM | Planner::Brats21 => 8.0,
            Planner::ResEncL => 24.0,
            Planner::ResEncXl => 40.0,
        }
    }
}

/// What the user can choose of a plan.
#[derive(Debug, Clone, PartialEq)]
pub struct PlanOptions {
    /// Which planner.
    pub planner: Planner,
    /// GB of GPU memory to plan for, instead of [`Planner::gpu_memory_gb`].
    pub gpu_memory_gb: Option<f64>,
    /// Spacing of `3d_fullres` in mm, z, y, x (not transposed), instead of the median.
    pub overwrite_target_spacing_mm: Option<[f64; 3]>,
    /// Name of the plans, instead of [`Planner::plans_name`].
    pub plans_name: Option<String>,
}

impl PlanOptions {
    /// Name of the plans: the one asked for, or the planner's.
    fn name(&self) -> &str {
        self.plans_name.as_deref().unwrap_or(self.planner.plans_name())
    }
}

impl Default for PlanOptions {
    fn default() -> Self {
        Self {
            planner: Planner::Default,
            gpu_memory_gb: None,
            overwrite_target_spacing_mm: None,
            plans_name: None,
        }
    }
}

/// A patch that the planner tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The configuration.
    pub configuration: String,
    /// The patch.
    pub patch: Vec<usize>,
    /// Feature map voxels of the network for it.
    pub estimate: u64,
}

/// Finished plans.
#[derive(Debug, Clone)]
pub struct Planned {
    /// `plans.json`, its keys in nnU-Net's order.
    pub json: Value,
    /// Every patch that was tried, in order; the last one of a configuration is the planned one (of `3d_lowres`: of each
    /// spacing that was tried).
    pub attempts: Vec<Attempt>,
    /// What the user should know, such as why there is no `3d_lowres`.
    pub notes: Vec<String>,
}

/// Plans a dataset.
///
/// # Errors
/// [`PlanError::PlanOption`] for options that make no sense, [`PlanError::Memory`] if not even the smallest patch fits
/// the memory, [`PlanError::Fingerprint`] if the fingerprint is of other data.
///
/// # Source
/// nnU-Net v2, `ExperimentPlanner.plan_experiment`.
pub fn plan(
    dataset: &RawDataset,
    fingerprint: &Fingerprint,
    options: &PlanOptions,
) -> Result<Planned, PlanError> {
    check(options)?;
    fingerprint.check(dataset, &dataset.folder)?;
    if options.planner == Planner::Brats21 {
        return brats21::plan(dataset, fingerprint, options);
    }
    let description = &dataset.description;
    let target = Target::of(fingerprint, options.overwrite_target_spacing_mm);
    let schemes: Vec<Normalization> = description.channel_names.iter().map(|n| scheme(n)).collect();
    let cropped = fingerprint.median_relative_size_after_cropping < 0.75;
    let labels =
        description.labels.entries().len() + usize::from(description.labels.ignore_label().is_some());
    let plans_name = options.name();
    let setting = Setting {
        planner: options.planner,
        gpu_memory_gb: options.gpu_memory_gb.unwrap_or(options.planner.gpu_memory_gb()),
        plans_name,
        classes: labels,
        use_mask_for_norm: schemes.iter().map(|&s| cropped && s == Normalization::ZScore).collect(),
        normalization: schemes,
    };
    let cases = description.num_training.unwrap_or(dataset.cases.len()) as f64;
    let mut planned = Planned { json: Value::Null, attempts: Vec::new(), notes: Vec::new() };

    let shape = target.median_shape;
    let voxels: f64 = shape.iter().product();
    let three_d = if shape[0] > 1.0 { Some(plan_3d(&setting, &target, cases, &mut planned)?) } else { None };
    let sizes: Vec<Value> = shape[1..].iter().map(|&s| Value::from(s)).collect();
    let mut two_d = plan_configuration(
        &setting,
        "2d",
        &target.spacing_mm[1..],
        &shape[1..],
        &sizes,
        voxels * cases,
        &mut planned.attempts,
    )?;
    two_d.json.insert("batch_dice".to_owned(), true.into());

    let mut configurations = Map::new();
    configurations.insert("2d".to_owned(), Value::Object(two_d.json));
    if let Some(ThreeD { fullres, lowres }) = three_d {
        let cascade = lowres.is_some();
        if let Some(mut lowres) = lowres {
            lowres.insert("next_stage".to_owned(), "3d_cascade_fullres".into());
            configurations.insert("3d_lowres".to_owned(), Value::Object(lowres));
        }
        configurations.insert("3d_fullres".to_owned(), Value::Object(fullres));
        if cascade {
            let cascade = json!({"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"});
            configurations.insert("3d_cascade_fullres".to_owned(), cascade);
        }
    }
    planned.json = plans_json(dataset, fingerprint, options, &target, &configurations);
    Ok(planned)
}

/// The plans of these configurations.
fn plans_json(
    dataset: &RawDataset,
    fingerprint: &Fingerprint,
    options: &PlanOptions,
    target: &Target,
    configurations: &Map<String, Value>,
) -> Value {
    json!({
        "dataset_name": dataset.name,
        "plans_name": options.name(),
        "original_median_spacing_after_transp": target.original_spacing_mm,
        "original_median_shape_after_transp": target.original_shape.map(|s| s.round_ties_even() as u64),
        "image_reader_writer": dataset.description.image_reader().name(),
        "transpose_forward": target.transpose_forward,
        "transpose_backward": target.transpose_backward,
        "configurations": configurations,
        "experiment_planner_used": options.planner.class_name(),
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": fingerprint.intensities_json(),
    })
}

fn check(options: &PlanOptions) -> Result<(), PlanError> {
    if let Some(gb) = options.gpu_memory_gb
        && !(gb.is_finite() && gb > 0.0)
    {
        return Err(PlanError::PlanOption {
            option: "the GPU memory",
            found: format!("{gb} GB"),
            expected: "more than 0",
        });
    }
    if let Some(spacing) = options.overwrite_target_spacing_mm
        && spacing.iter().any(|s| !(s.is_finite() && *s > 0.0))
    {
        return Err(PlanError::PlanOption {
            option: "the target spacing",
            found: format!("{spacing:?} mm"),
            expected: "three lengths above 0 (z, y, x)",
        });
    }
    if let Some(name) = &options.plans_name
        && (name.is_empty() || name.starts_with('.') || name.contains(['/', '\\']))
    {
        return Err(PlanError::PlanOption {
            option: "the name of the plans",
            found: format!("`{name}`"),
            expected: "a file name without slash and leading dot",
        });
    }
    Ok(())
}

/// nnU-Net's scheme for a channel, by its name.
///
/// # Source
/// nnU-Net v2, `map_channel_name_to_normalization.py`.
fn scheme(channel: &str) -> Normalization {
    match channel.to_lowercase().as_str() {
        "ct" => Normalization::Ct,
        "nonorm" => Normalization::None,
        "rescale_to_0_1" => Normalization::RescaleTo01,
        "rgb_to_0_1" => Normalization::RgbTo01,
        _ => Normalization::ZScore,
    }
}

struct ThreeD {
    fullres: Map<String, Value>,
    lowres: Option<Map<String, Value>>,
}

/// `3d_fullres`, and `3d_lowres` where a patch would see too little of a case.
fn plan_3d(
    setting: &Setting<'_>,
    target: &Target,
    cases: f64,
    planned: &mut Planned,
) -> Result<ThreeD, PlanError> {
    const STEP: f64 = 1.03;
    let (spacing, shape) = (target.spacing_mm, target.median_shape);
    let voxels: f64 = shape.iter().product();
    let sizes: Vec<Value> = shape.iter().map(|&s| Value::from(s)).collect();
    let mut fullres = plan_configuration(
        setting,
        "3d_fullres",
        &spacing,
        &shape,
        &sizes,
        voxels * cases,
        &mut planned.attempts,
    )?;
    let voxels_of = |patch: &[usize]| patch.iter().map(|&s| s as f64).product::<f64>();
    let mut low_spacing = spacing;
    let (mut low_voxels, mut in_patch) = (voxels, voxels_of(&fullres.patch));
    let mut lowres = None;
    while in_patch / low_voxels < LOWRES_SHARE {
        let coarsest = low_spacing.iter().copied().fold(0.0, f64::max);
        let uneven = low_spacing.iter().any(|s| coarsest / s > 2.0);
        low_spacing = low_spacing.map(|s| if !uneven || coarsest / s > 2.0 { s * STEP } else { s });
        let low_shape = [0, 1, 2].map(|a| spacing[a] / low_spacing[a] * shape[a]);
        low_voxels = low_shape.iter().product();
        let whole = low_shape.map(f64::round_ties_even);
        let sizes: Vec<Value> = whole.iter().map(|&s| Value::from(s as u64)).collect();
        let found = plan_configuration(
            setting,
            "3d_lowres",
            &low_spacing,
            &whole,
            &sizes,
            low_voxels * cases,
            &mut planned.attempts,
        )?;
        in_patch = voxels_of(&found.patch);
        lowres = Some(found.json);
    }
    if lowres.is_some() && voxels / low_voxels < 2.0 {
        planned.notes.push(format!(
            "no 3d_lowres: its images would have {low_voxels:.0} voxels, hardly fewer than the {voxels:.0} of 3d_fullres"
        ));
        lowres = None;
    }
    if let Some(lowres) = &mut lowres {
        lowres.insert("batch_dice".to_owned(), false.into());
    }
    fullres.json.insert("batch_dice".to_owned(), lowres.is_some().into());
    Ok(ThreeD { fullres: fullres.json, lowres })
}

impl Planned {
    /// Name of the plans.
    pub fn name(&self) -> &str {
        self.json["plans_name"].as_str().unwrap_or_default()
    }

    /// Writes `NAME.json`, `dataset.json` (a copy, or v1's converted) and, where the raw dataset has one, `splits_final.json` into a folder.
    ///
    /// Configurations of an older file that were not planned now are kept, so that hand-made ones survive. Returns the
    /// path of the plans.
    ///
    /// # Errors
    /// Errors of reading the older files and of writing; [`PlanError::SplitsDiffer`].
    ///
    /// # Source
    /// nnU-Net v2, `ExperimentPlanner.save_plans`.
    pub fn write(&self, dataset: &RawDataset, folder: &Path) -> Result<PathBuf, PlanError> {
        let path = folder.join(format!("{}.json", self.name()));
        let mut json = self.json.clone();
        if path.exists() {
            let old = crate::read_json(&path)?;
            if let (Some(old), Some(new)) =
                (old["configurations"].as_object(), json["configurations"].as_object_mut())
            {
                for (name, configuration) in old {
                    new.entry(name.clone()).or_insert_with(|| configuration.clone());
                }
            }
        }
        write_beside(dataset, folder)?;
        save(&path, &json)?;
        Ok(path)
    }
}

fn save(path: &Path, value: &Value) -> Result<(), PlanError> {
    let text = python_json(value, glioseg_interop::KeyOrder::Given);
    Ok(atomic::write(path, |file| file.write_all(text.as_bytes()))?)
}

/// What lies next to plans: `dataset.json` (a copy, or v1's converted) and, where the raw dataset has one, `splits_final.json`.
fn write_beside(dataset: &RawDataset, folder: &Path) -> Result<(), PlanError> {
    Splits::take_over(&dataset.folder.join(Splits::FILE), &folder.join(Splits::FILE))?;
    let description = folder.join("dataset.json");
    match std::fs::read(dataset.folder.join("dataset.json")) {
        Ok(text) if dataset.description.raw.get("channel_names").is_some() => {
            Ok(atomic::write(&description, |file| file.write_all(&text))?)
        }
        _ => save(&description, &dataset.description_v2()),
    }
}
