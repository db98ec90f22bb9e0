//! `glioseg plan`: configurations of nnU-Net for a dataset.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use glioseg_interop::{KeyOrder, python_json};
use glioseg_plan::{PlanOptions, Planned, Planner, Plans};
use glioseg_workflow::ready;

use super::dataset::{by, open, output_folder};
use super::ready::{ignore_label, teller};
use super::{Outcome, print};
use crate::ui::Ui;

/// Plans spacing, patch, batch and network of every configuration that nnU-Net would make, and writes NAME.json.
///
/// The fingerprint is made first if it is not there, or if the images have changed since. Configurations added to NAME.json by hand are kept.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  glioseg plan Dataset001_BraTS\n  glioseg plan Dataset001_BraTS --planner resenc-l --gpu-memory 20\n  glioseg plan Dataset001_BraTS --planner brats21\n\n\
    Without --output, files go to $nnUNet_preprocessed/NAME if that variable is set, else to nnUNet_preprocessed/NAME next to \
    a folder nnUNet_raw,\nelse to NAME_preprocessed next to the dataset."
)]
pub(crate) struct Plan {
    /// Raw dataset: dataset.json with imagesTr and labelsTr
    #[arg(value_name = "DIR")]
    pub(crate) dataset: PathBuf,
    /// Folder with the fingerprint, and for the plans; see below for the default
    #[arg(short, long, value_name = "OUT")]
    pub(crate) output: Option<PathBuf>,
    /// Kind of network and memory to plan for
    #[arg(long, value_enum, default_value = "default")]
    pub(crate) planner: PlannerName,
    /// GPU memory to plan for, in GB [default: 8, with resenc-l 24, with resenc-xl 40]
    #[arg(long, value_name = "GB")]
    pub(crate) gpu_memory: Option<f64>,
    /// Spacing of `3d_fullres` in mm, axes as in the files' arrays (z y x), instead of the median
    #[arg(long, value_names = ["Z", "Y", "X"], num_args = 3)]
    pub(crate) overwrite_target_spacing: Option<Vec<f64>>,
    /// Name of the plans [default: nnUNetPlans, with a residual encoder nnUNetResEncUNetMPlans and so on]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Count voxels with the ignore label as foreground, as nnU-Net does; they are left out otherwise
    #[arg(long)]
    pub(crate) as_nnunet: bool,
    /// Print the plans themselves
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlannerName {
    /// Plain U-Net, 8 GB
    Default,
    /// Residual encoder, 8 GB
    ResencM,
    /// Residual encoder, 24 GB
    ResencL,
    /// Residual encoder, 40 GB
    ResencXl,
    /// As the winner of BraTS 2021: nnU-Net v1's planner, baseline network and rules
    Brats21,
}

pub(crate) fn run(options: &Plan, ui: &Ui) -> anyhow::Result<Outcome> {
    let dataset = open(&options.dataset)?;
    let folder = output_folder(&options.dataset, options.output.as_ref())?;
    let plan_options = PlanOptions {
        planner: match options.planner {
            PlannerName::Default => Planner::Default,
            PlannerName::ResencM => Planner::ResEncM,
            PlannerName::ResencL => Planner::ResEncL,
            PlannerName::ResencXl => Planner::ResEncXl,
            PlannerName::Brats21 => Planner::Brats21,
        },
        gpu_memory_gb: options.gpu_memory,
        overwrite_target_spacing_mm: options.overwrite_target_spacing.as_ref().map(|s| [s[0], s[1], s[2]]),
        plans_name: options.name.clone(),
    };
    let ignore = ignore_label(&dataset, options.as_nnunet, ui);
    let (planned, path) = ready::plans(&dataset, &folder, &plan_options, ignore, &teller(ui))?;
    if options.json {
        print(&python_json(&planned.json, KeyOrder::Given))?;
    } else {
        table(&planned, &Plans::from_value(planned.json.clone(), &path)?)?;
    }
    Ok(Outcome::Done)
}

fn table(planned: &Planned, plans: &Plans) -> anyhow::Result<()> {
    for name in plans.configuration_names() {
        if planned.json["configurations"][name].get("inherits_from").is_some() {
            print(&format!("{name} | 3d_fullres with the result of 3d_lowres as an input"))?;
            continue;
        }
        let c = plans.configuration(name)?;
        let estimate = planned.attempts.iter().rfind(|a| &a.configuration == name).map_or(0, |a| a.estimate);
        let spacing: Vec<String> = c.spacing.iter().map(|s| format!("{s:.3}")).collect();
        print(&format!(
            "{name} | patch {} | batch {} | spacing {} mm | {} | features {} | {:.0} M feature map voxels",
            by(&c.patch_size),
            c.batch_size,
            spacing.join(" x "),
            c.architecture.kind.name(),
            c.architecture.features_per_stage.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
            estimate as f64 / 1e6
        ))?;
    }
    Ok(())
}
