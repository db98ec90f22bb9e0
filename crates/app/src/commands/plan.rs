//! `glioseg plan`: configurations of nnU-Net for a dataset.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use glioseg_interop::{KeyOrder, python_json};
use glioseg_plan::{MovedPlans, PlanOptions, Planned, Planner, Plans, RawDataset, preprocessed_folder};
use glioseg_workflow::ready;

use super::dataset::{by, is_fit, open, output_folder};
use super::ready::{ignore_label, teller};
use super::{Outcome, print};
use crate::problem::Problem;
use crate::ui::Ui;

/// Plans spacing, patch, batch and network of every configuration that nnU-Net would make, and writes NAME.json.
///
/// The fingerprint is made first if it is not there, or if the images have changed since. Configurations added to NAME.json by hand are kept.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  glioseg plan Dataset001_BraTS\n  glioseg plan Dataset001_BraTS --planner resenc-l --gpu-memory 20\n  glioseg plan Dataset001_BraTS --planner brats21\n  \
    glioseg plan Dataset002_Mine --plans-from Dataset001_BraTS --name nnUNetPlans_from1\n\n\
    With --plans-from nothing is planned, and no fingerprint is needed: patch, spacing, network and normalisation stay as they are; \
    the\nname, the dataset, the reader and the folders of prepared cases become this dataset's. Then `glioseg prep DIR --plans NAME` and\n\
    `glioseg train DIR --plans NAME --weights MODEL` fine-tune the network.\n\n\
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
    /// Look over the dataset first, as `glioseg dataset check` does
    #[arg(long, hide = true)]
    pub(crate) verify_dataset: bool,
    /// Take over the plans of another dataset, to fine-tune its network: a plans file, a folder with one, or a dataset
    #[arg(long, value_name = "SOURCE", conflicts_with_all = ["planner", "gpu_memory", "overwrite_target_spacing", "as_nnunet"],
        help_heading = "Plans of another dataset")]
    pub(crate) plans_from: Option<PathBuf>,
    /// Name of the plans there [default: nnUNetPlans]
    #[arg(long, value_name = "NAME", requires = "plans_from", help_heading = "Plans of another dataset")]
    pub(crate) source_name: Option<String>,
    /// Print the plans themselves
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlannerName {
    /// Plain U-Net, 8 GB
    #[value(alias = "ExperimentPlanner")]
    Default,
    /// Residual encoder, 8 GB
    #[value(alias = "nnUNetPlannerResEncM")]
    ResencM,
    /// Residual encoder, 24 GB
    #[value(alias = "nnUNetPlannerResEncL")]
    ResencL,
    /// Residual encoder, 40 GB
    #[value(alias = "nnUNetPlannerResEncXL")]
    ResencXl,
    /// As the winner of BraTS 2021: nnU-Net v1's planner, baseline network and rules
    Brats21,
}

pub(crate) fn run(options: &Plan, ui: &Ui) -> anyhow::Result<Outcome> {
    if options.verify_dataset && !is_fit(&options.dataset, ui)? {
        return Ok(Outcome::SomeFailed);
    }
    let dataset = open(&options.dataset)?;
    let folder = output_folder(&options.dataset, options.output.as_ref())?;
    if let Some(source) = &options.plans_from {
        return take_over(source, &dataset, &folder, options, ui);
    }
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
        table(Some(&planned), &Plans::from_value(planned.json.clone(), &path)?)?;
    }
    Ok(Outcome::Done)
}

/// Writes the plans of another dataset as those of this one.
fn take_over(
    source: &Path,
    dataset: &RawDataset,
    folder: &Path,
    options: &Plan,
    ui: &Ui,
) -> anyhow::Result<Outcome> {
    let plans = Plans::read(&source_plans(source, options.source_name.as_deref())?)?;
    let file = plans.path().file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    // A model's plans.json says inside what it is called.
    let source_name = match plans.plans_name() {
        named if file == "plans" && !named.is_empty() => named.to_owned(),
        _ => file,
    };
    let name = options.name.as_deref().unwrap_or(&source_name);
    let moved = MovedPlans::new(&plans, &source_name, dataset, name)?;
    let path = moved.write(dataset, folder)?;
    ui.say(&format!("{} written, from {}", path.display(), plans.path().display()));
    let command = format!("glioseg prep {} --plans {name}", dataset.folder.display());
    ui.say(&format!("next: `{command}`, then `glioseg train` with --plans {name} and --weights MODEL"));
    if options.json {
        print(&python_json(&moved.json, KeyOrder::Given))?;
    } else {
        table(None, &Plans::from_value(moved.json, &path)?)?;
    }
    Ok(Outcome::Done)
}

/// The file of the plans that a file, a folder or a raw dataset stands for.
fn source_plans(source: &Path, name: Option<&str>) -> anyhow::Result<PathBuf> {
    if source.is_file() {
        return Ok(source.to_owned());
    }
    let file = format!("{}.json", name.unwrap_or("nnUNetPlans"));
    let mut places = vec![source.join(&file)];
    // A model's folder.
    places.extend(name.is_none().then(|| source.join("plans.json")));
    places.push(preprocessed_folder(source).join(&file));
    if let Some(found) = places.iter().find(|place| place.is_file()) {
        return Ok(found.clone());
    }
    let looked: Vec<String> = places.iter().map(|place| place.display().to_string()).collect();
    Err(Problem::new(
        format!("--plans-from {}: there are no plans; looked for {}", source.display(), looked.join(", ")),
        "make them with `glioseg plan`, name others with --source-name, or give the file itself",
    ))
}

fn table(planned: Option<&Planned>, plans: &Plans) -> anyhow::Result<()> {
    for name in plans.configuration_names() {
        if plans.raw()["configurations"][name].get("previous_stage").is_some() {
            print(&format!("{name} | 3d_fullres with the result of 3d_lowres as an input"))?;
            continue;
        }
        let c = plans.configuration(name)?;
        let estimate = planned.and_then(|p| p.attempts.iter().rfind(|a| &a.configuration == name));
        let estimate = estimate
            .map(|a| format!(" | {:.0} M feature map voxels", a.estimate as f64 / 1e6))
            .unwrap_or_default();
        let spacing: Vec<String> = c.spacing.iter().map(|s| format!("{s:.3}")).collect();
        print(&format!(
            "{name} | patch {} | batch {} | spacing {} mm | {} | features {}{estimate}",
            by(&c.patch_size),
            c.batch_size,
            spacing.join(" x "),
            c.architecture.kind.name(),
            c.architecture.features_per_stage.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        ))?;
    }
    Ok(())
}
