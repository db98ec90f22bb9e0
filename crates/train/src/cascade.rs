//! Cascades: what one stage's trainings leave for the next.
//!
//! The validation of a fold segments its held-out cases also on the grid of the next stage. All folds write to one folder in the
//! model's folder, so that every case is segmented by a network that has not seen it; there the next stage's trainings read them.

use std::path::{Path, PathBuf};

use glioseg_formats::label_array;
use glioseg_plan::{Configuration, Plans, Rules, Splits};
use glioseg_prep::CaseProperties;
use glioseg_prep::store::{StoredCase, StoredCases};

use super::TrainError;

/// Folder of a stage's model that holds its segmentations for `next`.
///
/// # Source
/// nnU-Net v2, `nnUNetTrainer.__init__`.
pub(super) fn folder(model: &Path, next: &str) -> PathBuf {
    model.join("predicted_next_stage").join(next)
}

/// The file of a case in such a folder.
pub(super) fn file(folder: &Path, case: &str) -> PathBuf {
    folder.join(format!("{case}{}", label_array::ENDING))
}

/// The configurations that take this one's segmentation, and a warning for each that the plans do not have.
pub(super) fn next_stages(plans: &Plans, configuration: &Configuration) -> (Vec<Configuration>, Vec<String>) {
    if configuration.rules == Rules::V1 {
        return (Vec::new(), Vec::new());
    }
    let (mut found, mut warnings) = (Vec::new(), Vec::new());
    for name in &configuration.next_stage {
        match plans.configuration(name) {
            Ok(next) => found.push(next),
            Err(error) => {
                warnings.push(format!("nothing is left for the next stage `{name}` of the cascade: {error}"));
            }
        }
    }
    (found, warnings)
}

/// Voxels of a case on the grids of the next stages.
pub(super) fn shapes(
    properties: &CaseProperties,
    next_stages: &[Configuration],
) -> Result<Vec<[usize; 3]>, TrainError> {
    let shape = |next| properties.shape_for(next).map_err(|e| TrainError::Infer(Box::new(e.into())));
    next_stages.iter().map(shape).collect()
}

/// Adds to prepared cases the segmentations of the stage before, `previous`, that lie in `folder`.
///
/// # Errors
/// [`TrainError::NoPreviousStage`] with the first case that has none, and the fold that would make it.
pub(super) fn add_previous(
    cases: [&mut StoredCases; 2],
    folder: &Path,
    configuration: &Configuration,
    (previous, splits): (&str, &Path),
) -> Result<(), TrainError> {
    let find = |case: &StoredCase| {
        let plain = file(folder, case.name());
        [plain.clone(), plain.with_extension("npz")].into_iter().find(|path| path.is_file())
    };
    let all = || cases.iter().flat_map(|cases| &cases.0);
    let missing: Vec<&str> = all().filter(|case| find(case).is_none()).map(StoredCase::name).collect();
    if let Some(first) = missing.first() {
        let path = file(folder, first);
        let validates = |splits: Splits| splits.folds.iter().position(|f| f.val.iter().any(|v| v == first));
        return Err(TrainError::NoPreviousStage {
            configuration: configuration.name.clone(),
            previous: previous.to_owned(),
            missing: missing.len(),
            of: all().count(),
            first: (*first).to_owned(),
            fold: Splits::read(splits).ok().and_then(validates),
            packed: path.with_extension("b2nd").is_file(),
            path,
        });
    }
    for case in cases.into_iter().flat_map(|cases| &mut cases.0) {
        if let Some(path) = find(case) {
            *case = case.clone().with_previous(&path)?;
        }
    }
    Ok(())
}

/// Whether a case has its segmentations for all next stages.
pub(super) fn has_all(model: &Path, next_stages: &[Configuration], case: &str) -> bool {
    next_stages.iter().all(|next| {
        let plain = file(&folder(model, &next.name), case);
        ["npy", "npz", "b2nd"].into_iter().any(|ending| plain.with_extension(ending).is_file())
    })
}

/// Writes a case's segmentations for the next stages, `labels` of the voxels `shapes`.
pub(super) fn write(
    model: &Path,
    next_stages: &[Configuration],
    case: &str,
    shapes: &[[usize; 3]],
    labels: &[Vec<u16>],
) -> Result<(), TrainError> {
    for ((next, &shape), labels) in next_stages.iter().zip(shapes).zip(labels) {
        let folder = folder(model, &next.name);
        std::fs::create_dir_all(&folder).map_err(|e| TrainError::io(&folder, "make", e))?;
        label_array::write(&file(&folder, case), shape, labels)?;
    }
    Ok(())
}

/// Removes a case's segmentations for the next stages, which are of another network.
pub(super) fn remove(model: &Path, next_stages: &[Configuration], case: &str) -> Result<(), TrainError> {
    for next in next_stages {
        let path = file(&folder(model, &next.name), case);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(TrainError::io(&path, "remove", e));
            }
            _ => {}
        }
    }
    Ok(())
}
