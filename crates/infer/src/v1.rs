//! Result folders of nnU-Net v1 and of the BraTS 2021 winner's fork.
//!
//! What a folder says about its model stands in `plans.pkl`, in every fold's `.model.pkl` (the trainer's class, its stage, the plans
//! again), in the names of the folders `NETWORK/TASK/TRAINER__PLANS`, and, for the sizes of position embeddings, in the weights.
//! As nnU-Net does, the first fold's `.model.pkl` is believed first.

use std::path::{Path, PathBuf};

use glioseg_interop::{Value, read_pickle_file};
use glioseg_net::{Checkpoint, NetError};
use glioseg_plan::{Configuration, Dataset, Plans, V1Model};

use crate::InferError;
use crate::folds::fold_folders;

/// What a model is, in version 2's terms.
pub(crate) struct Described {
    pub(crate) dataset: Dataset,
    pub(crate) plans: Plans,
    pub(crate) configuration: Configuration,
    pub(crate) trainer: String,
    pub(crate) mirror_axes: Vec<usize>,
}

/// Names of version 1's networks, which are names of folders too.
const NETWORKS: [&str; 4] = ["2d", "3d_lowres", "3d_fullres", "3d_cascade_fullres"];

/// Whether a folder looks like version 1's: with `plans.pkl`, or with folds that hold `.model` files.
pub(crate) fn is_model(path: &Path) -> bool {
    let has_model = |folder: &PathBuf| {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|e| e.path()).any(|p| p.extension().is_some_and(|e| e == "model"))
    };
    path.join("plans.pkl").is_file() || fold_folders(path).iter().any(|(_, folder)| has_model(folder))
}

/// Reads everything but the weights.
///
/// # Errors
/// [`InferError::NotAModel`] if plans or trainer are nowhere told; the errors of pickles, plans and checkpoint.
pub(crate) fn describe(path: &Path, checkpoint: &Path) -> Result<Described, InferError> {
    let beside = PathBuf::from(format!("{}.pkl", checkpoint.display()));
    let info = if beside.is_file() { Some(read_pickle_file(&beside).map_err(NetError::from)?) } else { None };
    let (plans, plans_path) = if let Some(plans) = info.as_ref().and_then(|i| i.get("plans")) {
        (plans.to_json(), beside.clone())
    } else {
        let file = path.join("plans.pkl");
        if !file.is_file() {
            let reason = format!("it has neither plans.pkl nor plans in {}", beside.display());
            return Err(InferError::NotAModel { path: path.into(), reason, below: Vec::new() });
        }
        (read_pickle_file(&file).map_err(NetError::from)?.to_json(), file)
    };
    // The trainer's arguments: plans file, fold, output folder, dataset folder, batch dice, stage, …
    let init = info.as_ref().and_then(|i| i.get("init")).and_then(Value::as_list).unwrap_or_default();
    let argument = |i: usize| init.get(i).and_then(Value::as_str).unwrap_or_default();
    let folders = Folders::of(path, argument(2));
    let Some(trainer) =
        info.as_ref().and_then(|i| i.get("name")).and_then(Value::as_str).or(folders.trainer())
    else {
        let reason = format!("neither its name TRAINER__PLANS nor {} tells the trainer", beside.display());
        return Err(InferError::NotAModel { path: path.into(), reason, below: Vec::new() });
    };
    let dataset_name = last_part(argument(3)).or(folders.task.as_deref()).unwrap_or_default();
    let plans_name = folders.plans().or_else(|| {
        let file = last_part(argument(0))?;
        Some(
            file.strip_suffix("_plans_3D.pkl").or_else(|| file.strip_suffix("_plans_2D.pkl")).unwrap_or(file),
        )
    });
    let converted = V1Model {
        plans: &plans,
        path: &plans_path,
        trainer,
        stage: init.get(5).and_then(Value::as_usize),
        network: folders.network.as_deref(),
        dataset_name,
        plans_name: plans_name.unwrap_or_default(),
        embeddings: embeddings(&Checkpoint::open(checkpoint)?),
    }
    .convert()?;
    let plans = Plans::from_value(converted.plans, &plans_path)?;
    let configuration = plans.configuration(&converted.configuration)?;
    let slices = usize::from(configuration.patch_size.len() == 2);
    Ok(Described {
        dataset: Dataset::from_value(converted.dataset, &plans_path)?,
        configuration,
        plans,
        trainer: trainer.to_owned(),
        mirror_axes: converted.mirror_axes.into_iter().map(|a| a + slices).collect(),
    })
}

/// The names of the folders `NETWORK/TASK/TRAINER__PLANS`: where the model lies now, else where it was trained.
struct Folders {
    model: Option<String>,
    task: Option<String>,
    network: Option<String>,
}

impl Folders {
    fn of(path: &Path, trained_at: &str) -> Self {
        let here = path.canonicalize().unwrap_or_else(|_| path.into());
        let [here, there] = [&here, Path::new(trained_at)].map(|p| {
            let name = |p: &Path| Some(p.file_name()?.to_str()?.to_owned());
            let above = |p: &Path| p.parent().map(Path::to_owned);
            let task = above(p);
            let network = task.as_deref().and_then(above).as_deref().and_then(name);
            Folders {
                model: name(p).filter(|n| n.contains("__")),
                task: task.as_deref().and_then(name).filter(|n| n.starts_with("Task")),
                network: network.filter(|n| NETWORKS.contains(&n.as_str())),
            }
        });
        Folders {
            model: here.model.or(there.model),
            task: here.task.or(there.task),
            network: here.network.or(there.network),
        }
    }

    fn trainer(&self) -> Option<&str> {
        Some(self.model.as_ref()?.split_once("__")?.0)
    }

    fn plans(&self) -> Option<&str> {
        Some(self.model.as_ref()?.split_once("__")?.1)
    }
}

/// The last folder of a path of whatever system.
fn last_part(path: &str) -> Option<&str> {
    path.rsplit(['/', '\\']).find(|part| !part.is_empty())
}

/// Number of position embeddings in the decoder, and the voxels that the finest of them is for.
fn embeddings(checkpoint: &Checkpoint) -> Option<(usize, [usize; 3])> {
    let mut finest: Option<(usize, [usize; 3])> = None;
    for tensor in checkpoint.tensors() {
        let name = tensor.name.strip_prefix("module.").unwrap_or(tensor.name);
        // `axial_embedding.U.params.K`, `axial_embedding.U.param_K`, `axial_attention_up.U.axial_attention.0.params.K`
        let rest = name.strip_prefix("axial_embedding.").or_else(|| name.strip_prefix("axial_attention_up."));
        let Some((step, rest)) = rest.and_then(|r| r.split_once('.')) else { continue };
        let rest = rest.strip_prefix("axial_attention.0.").unwrap_or(rest);
        let axis = rest.strip_prefix("params.").or_else(|| rest.strip_prefix("param_"));
        let (Ok(step), Some(Ok(axis))) = (step.parse::<usize>(), axis.map(str::parse::<usize>)) else {
            continue;
        };
        let (true, Some(&size)) = (axis < 3 && tensor.shape.len() == 5, tensor.shape.get(2 + axis)) else {
            continue;
        };
        if finest.is_none_or(|(last, _)| step > last) {
            finest = Some((step, [1; 3]));
        }
        if let Some((last, sizes)) = &mut finest
            && *last == step
        {
            sizes[axis] = size;
        }
    }
    finest.map(|(last, sizes)| (last + 1, sizes))
}
