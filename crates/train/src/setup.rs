//! What a training is made of, gathered and checked before anything is computed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use glioseg_formats::atomic;
use glioseg_interop::{KeyOrder, python_json};
use glioseg_net::loss::LossOptions;
use glioseg_net::{Dims, NetworkSpec};
use glioseg_plan::{Configuration, Fold, Labels, Plans, RawDataset, Rules, Splits, read_json};
use glioseg_prep::augment::{Augmentation, BatchOptions, Pipeline, PipelineOptions, TargetOptions};
use glioseg_prep::store::{StoredCase, StoredCases, case_path};

use glioseg_infer::model::network_channels;

use super::{Settings, TrainError, cascade};

/// Which part of the dataset is trained on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FoldChoice {
    /// A fold of the cross-validation.
    Number(usize),
    /// Every case, which is also what the training is validated with.
    All,
}

impl std::fmt::Display for FoldChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::All => f.write_str("all"),
        }
    }
}

impl std::str::FromStr for FoldChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("all") {
            return Ok(Self::All);
        }
        text.parse()
            .map(Self::Number)
            .map_err(|_| format!("`{text}` is neither `all` nor the number of a fold"))
    }
}

/// Where a training takes its data from and puts its results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Places {
    /// Raw dataset.
    pub dataset: PathBuf,
    /// Folder with plans, splits and prepared cases.
    pub preprocessed: PathBuf,
    /// Folder that gets `TRAINER__PLANS__CONFIGURATION`.
    pub results: PathBuf,
    /// Name of the plans.
    pub plans: String,
    /// Configuration of the plans.
    pub configuration: String,
}

/// Why the online validation has another stream of random numbers than the training.
const VALIDATION_SEED: u64 = 0x7661_6c69_6461_7465;

/// A training that can begin.
#[derive(Debug)]
pub struct Setup {
    /// The raw dataset.
    pub dataset: RawDataset,
    /// The plans, changed as the settings say.
    pub plans: Plans,
    /// The configuration, changed as the settings say.
    pub configuration: Configuration,
    /// Which fold.
    pub choice: FoldChoice,
    /// Its cases.
    pub fold: Fold,
    /// How the network is trained.
    pub settings: Settings,
    /// The network.
    pub network: NetworkSpec,
    /// Names of the labels or regions that the online validation scores.
    pub classes: Vec<String>,
    /// `TRAINER__PLANS__CONFIGURATION`.
    pub model_folder: PathBuf,
    /// `fold_K` in it.
    pub folder: PathBuf,
    /// What the user should know.
    pub warnings: Vec<String>,
    pub(super) train_cases: StoredCases,
    pub(super) val_cases: StoredCases,
    /// The configurations that take this one's segmentation.
    pub(super) next_stages: Vec<Configuration>,
    targets: TargetOptions,
}

impl Setup {
    /// Opens dataset, plans, splits and prepared cases; makes `splits_final.json` where there is none.
    ///
    /// # Errors
    /// [`TrainError`] for whatever does not fit together.
    ///
    /// # Source
    /// nnU-Net v2, `nnUNetTrainer.initialize`, `do_split`, `_get_deep_supervision_scales`.
    pub fn new(places: &Places, choice: FoldChoice, settings: &Settings) -> Result<Self, TrainError> {
        settings.check()?;
        let dataset = RawDataset::open(&places.dataset)?;
        let plans = Plans::read(&places.preprocessed.join(format!("{}.json", places.plans)))?;
        let plans = settings.apply_to(&plans, &places.configuration)?;
        let configuration = plans.configuration(&places.configuration)?;
        configuration.check_trainable(plans.path())?;
        if configuration.previous_stage.is_some() && configuration.rules == Rules::V1 {
            return Err(TrainError::CascadeV1 { configuration: configuration.name });
        }
        let labels = &dataset.description.labels;
        let channels = network_channels(&dataset.description, &configuration);
        let network = NetworkSpec::from_plan(&configuration.architecture, channels, labels.num_outputs())?;
        let slices = 3 - configuration.dim();
        let divisor = network.divisor();
        if (0..configuration.dim()).any(|a| !configuration.patch_size[a].is_multiple_of(divisor[a + slices]))
        {
            let divisor = divisor[slices..].to_vec();
            return Err(TrainError::Patch { patch: configuration.patch_size.clone(), divisor });
        }
        let (fold, note) = fold(&dataset, &places.preprocessed, choice)?;
        let cases = places.preprocessed.join(&configuration.data_identifier);
        let mut train_cases = open_cases(&fold.train, &cases, &configuration)?;
        let mut val_cases = open_cases(&fold.val, &cases, &configuration)?;
        let model_of = |stage: &str| {
            places.results.join(format!("{}__{}__{stage}", settings.trainer, plans.plans_name()))
        };
        if let Some(previous) = &configuration.previous_stage {
            let folder = cascade::folder(&model_of(previous), &configuration.name);
            let splits = places.preprocessed.join(Splits::FILE);
            cascade::add_previous(
                [&mut train_cases, &mut val_cases],
                &folder,
                &configuration,
                (previous, &splits),
            )?;
        }
        let model_folder = model_of(&configuration.name);
        let (next_stages, missing_stages) = cascade::next_stages(&plans, &configuration);
        let mut setup = Self {
            folder: model_folder.join(format!("fold_{choice}")),
            classes: labels.classes().into_iter().map(|(name, _)| name).collect(),
            targets: targets(labels, &network),
            warnings: vec![],
            settings: settings.clone(),
            dataset,
            plans,
            configuration,
            choice,
            fold,
            network,
            model_folder,
            train_cases,
            val_cases,
            next_stages,
        };
        setup.warnings = note.into_iter().chain(missing_stages).chain(setup.look()).collect();
        Ok(setup)
    }

    /// What can be trained on but should be known.
    fn look(&self) -> Vec<String> {
        let mut warnings = vec![];
        let labels = &self.dataset.description.labels;
        let mut missing: Vec<String> = vec![];
        for (name, values) in labels.classes() {
            let wanted: Vec<i16> = values.into_iter().map(signed).collect();
            if !self.train_cases.0.iter().any(|case| shows(case, &wanted)) {
                missing.push(name);
            }
        }
        if missing.len() == self.classes.len() {
            warnings.push("no training case of this fold has any foreground".into());
        } else {
            let cannot =
                |name: String| format!("no training case of this fold has `{name}`: it cannot be learned");
            warnings.extend(missing.into_iter().map(cannot));
        }
        let small: Vec<&str> = {
            let patch = &self.configuration.patch_size;
            let smaller = |case: &&StoredCase| {
                case.shape()[3 - patch.len()..].iter().zip(patch).any(|(size, patch)| size < patch)
            };
            self.train_cases.0.iter().filter(smaller).map(StoredCase::name).collect()
        };
        if let Some(first) = small.first() {
            let (count, of) = (small.len(), self.train_cases.0.len());
            warnings.push(format!(
                "{count} of {of} cases are smaller than the patch and are padded, such as `{first}`"
            ));
        }
        let train: HashSet<&String> = self.fold.train.iter().collect();
        let both = self.fold.val.iter().filter(|name| train.contains(name)).count();
        if both > 0 {
            warnings.push(format!(
                "{both} of {} validation cases are trained on, so the validation says little",
                self.fold.val.len()
            ));
        }
        if self.fold.val.is_empty() {
            warnings.push("the fold has no validation cases; training cases take their place online".into());
        }
        if labels.ignore_label().is_some() && labels.has_regions() && self.settings.loss.voxel_weight > 0.0 {
            warnings.push(
                "with an ignore label nnU-Net adds up the cross entropy of all regions; so does glioseg"
                    .into(),
            );
        }
        warnings
    }

    /// Voxels of a patch; one slice for a 2D configuration.
    pub fn patch(&self) -> [usize; 3] {
        match self.configuration.patch_size[..] {
            [y, x] => [1, y, x],
            [z, y, x] => [z, y, x],
            _ => unreachable!("plans are checked to have two or three axes"),
        }
    }

    /// Whether every validation case has its segmentation for every next stage of a cascade.
    pub fn next_stages_done(&self) -> bool {
        self.fold.val.iter().all(|case| cascade::has_all(&self.model_folder, &self.next_stages, case))
    }

    pub(super) fn loss(&self) -> LossOptions {
        self.settings.loss.options(&self.dataset.description.labels, self.configuration.batch_dice)
    }

    pub(super) fn head_weights(&self) -> Vec<f64> {
        self.settings.supervision.weights(self.network.decoder.len())
    }

    /// How patches are made: for training, or as they are for validation.
    pub(super) fn pipeline(&self, augmentation: Augmentation) -> Pipeline {
        augmentation.pipeline(&PipelineOptions {
            patch: self.patch(),
            planar: self.network.dims == Dims::Two,
            channels: self.dataset.description.channel_names.len(),
            mask_channels: self.configuration.use_mask_for_norm.clone(),
            previous_stage_labels: self.configuration.previous_stage.as_ref().map(|_| {
                self.dataset.description.labels.foreground().into_iter().map(|(_, v)| signed(v)).collect()
            }),
            targets: self.targets.clone(),
        })
    }

    /// Axes of the patch `[z, y, x]` that may be mirrored at inference.
    pub(super) fn mirror_axes(&self) -> Vec<usize> {
        self.pipeline(self.settings.augmentation).mirror_axes
    }

    /// Threads that make training batches ahead.
    pub(super) fn batch_threads(&self) -> usize {
        self.settings.batch_threads.unwrap_or_else(|| rayon::current_num_threads().clamp(1, 6))
    }

    /// The batches from an epoch's iteration on.
    pub(super) fn batches(&self, validation: bool, start: (u64, u64)) -> BatchOptions {
        let settings = &self.settings;
        let (iterations, seed) = if validation {
            (settings.val_iterations, settings.seed ^ VALIDATION_SEED)
        } else {
            (settings.iterations, settings.seed)
        };
        BatchOptions {
            batch_size: self.configuration.batch_size,
            oversampling: settings.sampling.into(),
            has_ignore_label: self.dataset.description.labels.ignore_label().is_some(),
            seed,
            iterations_per_epoch: iterations as u64,
            start,
            threads: if validation { 1 } else { self.batch_threads() },
            queue: 1,
        }
    }

    /// Writes plans and dataset description next to the folds.
    pub(super) fn write_description(&self) -> Result<(), TrainError> {
        std::fs::create_dir_all(&self.folder).map_err(|e| TrainError::io(&self.folder, "make", e))?;
        let plans = self.model_folder.join("plans.json");
        if plans.exists() && self.other_folds() {
            let there = read_json(&plans)?;
            if there != *self.plans.raw() {
                let (before, now) = first_difference(&there, self.plans.raw());
                let what = "the plans".to_owned();
                return Err(TrainError::OtherTraining { path: plans, what, before, now });
            }
        }
        let save = |name: &str, value: &serde_json::Value| {
            let text = python_json(value, KeyOrder::Given);
            atomic::write(&self.model_folder.join(name), |file| {
                std::io::Write::write_all(file, text.as_bytes())
            })
        };
        save("plans.json", self.plans.raw())?;
        save("dataset.json", &self.dataset.description_v2())?;
        Ok(())
    }

    /// Whether another fold lies next to this one.
    fn other_folds(&self) -> bool {
        let entries = std::fs::read_dir(&self.model_folder).into_iter().flatten().flatten();
        entries.map(|e| e.path()).any(|p| {
            let name = p.file_name().unwrap_or_default().to_string_lossy().into_owned();
            p != self.folder && name.starts_with("fold_") && holds_checkpoint(&p)
        })
    }
}

/// Whether a fold's folder has any checkpoint.
pub(super) fn holds_checkpoint(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten();
    names.map(|e| e.file_name().to_string_lossy().into_owned()).any(|n| n.starts_with("checkpoint_"))
}

/// The first value in which two JSON values differ, with its path, from either.
pub(super) fn first_difference(a: &serde_json::Value, b: &serde_json::Value) -> (String, String) {
    use serde_json::Value;
    if let (Value::Object(a), Value::Object(b)) = (a, b) {
        for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
            let (x, y) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
            if x != y {
                let (x, y) = first_difference(x, y);
                let join = |rest: String| match rest.strip_prefix('`') {
                    Some(path) => format!("`{key}.{path}"),
                    None => format!("`{key}` {rest}"),
                };
                return (join(x), join(y));
            }
        }
    }
    let short = |v: &Value| {
        let text = v.to_string();
        if text.chars().count() > 60 {
            format!("{}…", text.chars().take(60).collect::<String>())
        } else {
            text
        }
    };
    (short(a), short(b))
}

/// The cases of a fold, and what should be known of it.
fn fold(
    dataset: &RawDataset,
    folder: &Path,
    choice: FoldChoice,
) -> Result<(Fold, Option<String>), TrainError> {
    let names = dataset.case_names();
    let FoldChoice::Number(number) = choice else { return Ok((Splits::all(&names), None)) };
    let path = folder.join(Splits::FILE);
    let splits = if path.exists() {
        let splits = Splits::read(&path)?;
        splits.check(number, &names, &path)?;
        splits
    } else {
        let splits = Splits::five_folds(&names)?;
        splits.write(&path)?;
        splits
    };
    let made = (number >= splits.folds.len()).then(|| {
        format!(
            "there are {} folds; fold {number} is a random split of 80 to 20 of its own",
            splits.folds.len()
        )
    });
    Ok((splits.fold(number, &names), made))
}

fn open_cases(
    names: &[String],
    folder: &Path,
    configuration: &Configuration,
) -> Result<StoredCases, TrainError> {
    let missing: Vec<&String> = names.iter().filter(|name| !case_path(folder, name).is_file()).collect();
    if let Some(first) = missing.first() {
        return Err(TrainError::NotPrepared {
            configuration: configuration.name.clone(),
            missing: missing.len(),
            of: names.len(),
            first: (*first).clone(),
            path: case_path(folder, first),
        });
    }
    let cases = names.iter().map(|name| StoredCase::open(&case_path(folder, name)));
    Ok(StoredCases(cases.collect::<Result<_, _>>()?))
}

/// A label as prepared cases hold it.
pub(super) fn signed(label: u16) -> i16 {
    i16::try_from(label).unwrap_or(i16::MAX)
}

/// Whether a case has any of these labels, as far as its list of classes tells: regions or, by version 1's rules, single labels.
fn shows(case: &StoredCase, wanted: &[i16]) -> bool {
    (0..case.num_classes()).any(|class| {
        case.class_count(class) > 0 && case.class_labels(class).iter().all(|label| wanted.contains(label))
    })
}

/// What the network is trained against.
fn targets(labels: &Labels, network: &NetworkSpec) -> TargetOptions {
    let mut scale = [1.0; 3];
    let scales = network.encoder.iter().take(network.decoder.len()).map(|stage| {
        for a in 0..3 {
            scale[a] /= stage.stride[a] as f64;
        }
        scale
    });
    TargetOptions {
        regions: labels.has_regions().then(|| {
            labels.regions().iter().map(|r| r.labels.iter().map(|&label| signed(label)).collect()).collect()
        }),
        ignore_label: labels.ignore_label().map(signed),
        scales: scales.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn folds_are_read_from_the_command_line() {
        assert_eq!("all".parse(), Ok(FoldChoice::All));
        assert_eq!("3".parse(), Ok(FoldChoice::Number(3)));
        assert!("x".parse::<FoldChoice>().is_err());
        assert_eq!(FoldChoice::Number(2).to_string(), "2");
    }

    #[test]
    fn a_difference_is_shown_with_its_path() {
        let (a, b) = (json!({"x": 1, "y": {"z": [1, 2]}}), json!({"x": 1, "y": {"z": [1, 3]}}));
        assert_eq!(first_difference(&a, &b), ("`y.z` [1,2]".into(), "`y.z` [1,3]".into()));
        assert_eq!(first_difference(&json!({}), &json!({"k": 5})), ("`k` null".into(), "`k` 5".into()));
    }

    #[test]
    fn targets_shrink_with_the_strides_and_the_lowest_stage_has_none() {
        let stages = [(4, [3; 3], [1; 3]), (8, [3; 3], [1, 2, 2]), (8, [3; 3], [2; 3])];
        let description = json!({"channel_names": {"0": "t1"}, "labels": {"background": 0, "a": 1, "ignore": 2},
            "numTraining": 1, "file_ending": ".nii.gz"});
        let dataset =
            glioseg_plan::Dataset::from_value(description, Path::new("dataset.json")).expect("valid");
        let made = targets(&dataset.labels, &NetworkSpec::plain(1, 2, &stages));
        assert_eq!(made.scales, [[1.0; 3], [1.0, 0.5, 0.5]]);
        assert_eq!((made.regions, made.ignore_label), (None, Some(2)));
        assert_eq!(dataset.labels.classes(), [("a".to_owned(), vec![1])]);
    }
}
