//! One configuration of plans: patch, spacing, normalisation, resampling, network.

use crate::json::Node;
use crate::{Architecture, PlanError};
use serde_json::{Map, Value};
use std::path::Path;

/// The longest patch edge and largest batch that are taken.
const MAX_PATCH: usize = 1 << 14;
const MAX_BATCH: usize = 1 << 20;

/// What stands for a batch size that plans do not have.
const NO_BATCH: usize = 2;

/// Key of the function that resamples label maps.
const LABELS_FN: &str = "resampling_fn_seg";

/// How the intensities of a channel are scaled.
///
/// # Source
/// nnU-Net v2, `default_normalization_schemes.py`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Normalization {
    /// Mean 0, standard deviation 1 of the case (or of its mask).
    ZScore,
    /// Clipped and scaled by the training set's foreground statistics.
    Ct,
    /// Left as it is.
    None,
    /// To the range 0 to 1 of the case.
    RescaleTo01,
    /// 0 to 255 to 0 to 1.
    RgbTo01,
}

impl Normalization {
    const ALL: [Normalization; 5] = [
        Normalization::ZScore,
        Normalization::Ct,
        Normalization::None,
        Normalization::RescaleTo01,
        Normalization::RgbTo01,
    ];

    /// nnU-Net's class name.
    pub fn name(self) -> &'static str {
        match self {
            Normalization::ZScore => "ZScoreNormalization",
            Normalization::Ct => "CTNormalization",
            Normalization::None => "NoNormalization",
            Normalization::RescaleTo01 => "RescaleTo01Normalization",
            Normalization::RgbTo01 => "RGBTo01Normalization",
        }
    }
}

/// Whose rules hold for a configuration: order of preprocessing, what is averaged at inference, how it is exported.
///
/// Our own key `rules` in plans; nnU-Net's plans have none, and version 2's rules hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Rules {
    /// nnU-Net v2: normalised before resampling; the mean of logits.
    #[default]
    V2,
    /// nnU-Net v1: normalised after resampling, zero outside the mask; the mean of probabilities.
    V1,
}

impl Rules {
    const ALL: [Rules; 2] = [Rules::V2, Rules::V1];

    /// The value of the key `rules`.
    pub fn name(self) -> &'static str {
        match self {
            Rules::V2 => "nnunet_v2",
            Rules::V1 => "nnunet_v1",
        }
    }
}

/// Which of nnU-Net's resampling functions is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResamplingFn {
    /// `resample_data_or_seg_to_shape`, the default.
    ToShape,
    /// `resample_data_or_seg_to_spacing`: the same, computing the shape itself.
    ToSpacing,
    /// `resample_torch_fornnunet`.
    Torch,
    /// `no_resampling_hack`: the data are passed through.
    Identity,
}

impl ResamplingFn {
    const ALL: [ResamplingFn; 4] =
        [ResamplingFn::ToShape, ResamplingFn::ToSpacing, ResamplingFn::Torch, ResamplingFn::Identity];

    /// nnU-Net's function name.
    pub fn name(self) -> &'static str {
        match self {
            ResamplingFn::ToShape => "resample_data_or_seg_to_shape",
            ResamplingFn::ToSpacing => "resample_data_or_seg_to_spacing",
            ResamplingFn::Torch => "resample_torch_fornnunet",
            ResamplingFn::Identity => "no_resampling_hack",
        }
    }
}

impl ResamplingFn {
    /// What may stand in its `_kwargs`.
    fn arguments(self) -> &'static [&'static str] {
        match self {
            ResamplingFn::ToShape | ResamplingFn::ToSpacing => {
                &["is_seg", "order", "order_z", "force_separate_z", "separate_z_anisotropy_threshold"]
            }
            ResamplingFn::Torch => &[
                "is_seg",
                "num_threads",
                "device",
                "memefficient_seg_resampling",
                "force_separate_z",
                "separate_z_anisotropy_threshold",
                "mode",
                "aniso_axis_mode",
            ],
            ResamplingFn::Identity => &[],
        }
    }
}

/// Interpolation of [`ResamplingFn::Torch`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterpolationMode {
    /// Linear along every axis.
    Linear,
    /// The nearest voxel centre (`nearest-exact`).
    NearestExact,
}

/// A resampling function with its arguments.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Resampling {
    /// The function.
    pub function: ResamplingFn,
    /// Whether label maps are resampled.
    pub is_seg: bool,
    /// Spline order, 0 to 3; unused by [`ResamplingFn::Torch`].
    pub order: u8,
    /// Spline order along the axis that is treated separately, 0 to 3; unused by [`ResamplingFn::Torch`].
    pub order_z: u8,
    /// Whether the axis of largest spacing is treated separately; `None`: by [`Resampling::anisotropy_threshold`].
    pub force_separate_z: Option<bool>,
    /// Largest over smallest spacing above which an axis is treated separately.
    pub anisotropy_threshold: f64,
    /// Interpolation of [`ResamplingFn::Torch`].
    pub mode: InterpolationMode,
    /// Interpolation of [`ResamplingFn::Torch`] along the separate axis.
    pub mode_z: InterpolationMode,
    /// Whether [`ResamplingFn::Torch`] resamples label maps one label at a time.
    pub memory_efficient_seg: bool,
}

impl Resampling {
    /// nnU-Net's own setting for label maps.
    fn of_labels() -> Self {
        Self {
            function: ResamplingFn::ToShape,
            is_seg: true,
            order: 1,
            order_z: 0,
            force_separate_z: None,
            anisotropy_threshold: 3.0,
            mode: InterpolationMode::Linear,
            mode_z: InterpolationMode::NearestExact,
            memory_efficient_seg: false,
        }
    }
}

/// One configuration of plans, `inherits_from` resolved.
///
/// Sizes and spacings are in the plans' transposed axis order, `[z, y, x]`, or `[y, x]` for a 2d configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Configuration {
    /// Name in the plans, such as `3d_fullres`.
    pub name: String,
    /// Voxels of a patch; 2 or 3 entries.
    pub patch_size: Vec<usize>,
    /// Patches of a batch; 2 where the plans do not say, which training refuses ([`Configuration::check_trainable`]).
    pub batch_size: usize,
    /// Target spacing in mm; as many entries as `patch_size`.
    pub spacing: Vec<f64>,
    /// Scheme of every channel.
    pub normalization: Vec<Normalization>,
    /// For every channel whether statistics are taken inside the non-zero mask.
    pub use_mask_for_norm: Vec<bool>,
    /// How images are resampled.
    pub resampling_data: Resampling,
    /// How label maps are resampled.
    pub resampling_seg: Resampling,
    /// How logits are resampled back.
    pub resampling_probabilities: Resampling,
    /// The network.
    pub architecture: Architecture,
    /// Whose rules hold for preprocessing, inference and export.
    pub rules: Rules,
    /// Whether the Dice loss sums over the batch.
    pub batch_dice: bool,
    /// The configuration whose prediction is an input of this one (cascade).
    pub previous_stage: Option<String>,
    /// The configurations that take this one's prediction.
    pub next_stage: Vec<String>,
    /// Folder of the preprocessed data.
    pub data_identifier: String,
    /// Preprocessor class.
    pub preprocessor: String,
    /// The whole configuration with inherited keys.
    pub raw: Map<String, Value>,
}

impl Configuration {
    /// That what a training needs stands in the plans, besides what a prediction needs.
    ///
    /// # Errors
    /// [`PlanError::MissingKey`]; `path` is the plans' file.
    pub fn check_trainable(&self, path: &Path) -> Result<(), PlanError> {
        let missing = ["batch_size", LABELS_FN].into_iter().find(|key| !self.raw.contains_key(*key));
        let Some(key) = missing else { return Ok(()) };
        Err(PlanError::MissingKey {
            path: path.to_owned(),
            key: format!("configurations.{}.{key}", self.name),
            present: self.raw.keys().cloned().collect(),
        })
    }

    /// 2 or 3.
    pub fn dim(&self) -> usize {
        self.patch_size.len()
    }

    pub(crate) fn from_node(
        node: &Node<'_>,
        name: &str,
        plans_name: &str,
    ) -> Result<Configuration, PlanError> {
        let patch = node.get("patch_size")?;
        let patch_size = patch.list()?.iter().map(|n| n.count(MAX_PATCH)).collect::<Result<Vec<_>, _>>()?;
        let dim = patch_size.len();
        if !(2..=3).contains(&dim) {
            return Err(patch.wrong("a list of 2 or 3 whole numbers"));
        }
        let schemes = node.get("normalization_schemes")?;
        let normalization = schemes.list()?.iter().map(normalization).collect::<Result<Vec<_>, _>>()?;
        let masks = node.get("use_mask_for_norm")?;
        let use_mask_for_norm = masks.list()?.iter().map(Node::bool).collect::<Result<Vec<_>, _>>()?;
        if use_mask_for_norm.len() != normalization.len() {
            return Err(masks.wrong(format!(
                "a list of {} entries, as many as `normalization_schemes`",
                normalization.len()
            )));
        }
        let next_stage = match node.opt("next_stage")? {
            None => Vec::new(),
            Some(n) if n.value().is_array() => {
                n.list()?.iter().map(|n| n.str().map(str::to_owned)).collect::<Result<_, _>>()?
            }
            Some(n) => vec![n.str()?.to_owned()],
        };
        let rules = node.opt("rules")?.map_or(Ok(Rules::default()), |n| rules(&n))?;
        let text = |key: &str| node.opt(key)?.map(|n| n.str().map(str::to_owned)).transpose();
        Ok(Configuration {
            name: name.to_owned(),
            batch_size: node.opt("batch_size")?.map_or(Ok(NO_BATCH), |n| n.count(MAX_BATCH))?,
            spacing: spacing(&node.get("spacing")?, dim)?,
            normalization,
            use_mask_for_norm,
            resampling_data: resampling(node, "resampling_fn_data")?,
            resampling_seg: match node.opt(LABELS_FN)? {
                Some(_) => resampling(node, LABELS_FN)?,
                None => Resampling::of_labels(),
            },
            resampling_probabilities: resampling(node, "resampling_fn_probabilities")?,
            architecture: Architecture::from_configuration(node, &patch_size)?,
            rules,
            batch_dice: node.opt("batch_dice")?.map_or(Ok(false), |n| n.bool())?,
            previous_stage: text("previous_stage")?,
            next_stage,
            data_identifier: text("data_identifier")?.unwrap_or_else(|| format!("{plans_name}_{name}")),
            preprocessor: preprocessor(node, rules)?,
            raw: node.map()?.clone(),
            patch_size,
        })
    }
}

fn spacing(node: &Node<'_>, dim: usize) -> Result<Vec<f64>, PlanError> {
    let list = node.list()?;
    if list.len() != dim {
        return Err(node.wrong(format!("a list of {dim} numbers, as many as `patch_size` has")));
    }
    let mm = |n: &Node<'_>| match n.f64()? {
        x if x.is_finite() && x > 0.0 => Ok(x),
        _ => Err(n.wrong("a length in mm above 0")),
    };
    list.iter().map(mm).collect()
}

fn normalization(node: &Node<'_>) -> Result<Normalization, PlanError> {
    let name = node.str()?;
    let known = Normalization::ALL.map(Normalization::name);
    Normalization::ALL.into_iter().find(|n| n.name() == name).ok_or_else(|| node.unknown(&known))
}

fn rules(node: &Node<'_>) -> Result<Rules, PlanError> {
    let name = node.str()?;
    Rules::ALL
        .into_iter()
        .find(|r| r.name() == name)
        .ok_or_else(|| node.unknown(&Rules::ALL.map(Rules::name)))
}

/// The class that prepares cases; one of another name does something else.
fn preprocessor(configuration: &Node<'_>, rules: Rules) -> Result<String, PlanError> {
    let known: &[&str] = match rules {
        Rules::V2 => &["DefaultPreprocessor"],
        Rules::V1 => &["GenericPreprocessor", "PreprocessorFor2D"],
    };
    match configuration.opt("preprocessor_name")? {
        None => Ok(known[0].to_owned()),
        Some(node) if known.contains(&node.str()?) => Ok(node.str()?.to_owned()),
        Some(node) => Err(node.unknown(known)),
    }
}

fn resampling(configuration: &Node<'_>, key: &str) -> Result<Resampling, PlanError> {
    let name = configuration.get(key)?;
    let known = ResamplingFn::ALL.map(ResamplingFn::name);
    let wanted = name.str()?;
    let function =
        ResamplingFn::ALL.into_iter().find(|f| f.name() == wanted).ok_or_else(|| name.unknown(&known))?;
    // Absent arguments take the defaults of the Python functions, which differ between the two families.
    let mut out = Resampling {
        function,
        is_seg: false,
        order: 3,
        order_z: 0,
        force_separate_z: if function == ResamplingFn::Torch { None } else { Some(false) },
        anisotropy_threshold: 3.0,
        mode: InterpolationMode::Linear,
        mode_z: InterpolationMode::NearestExact,
        memory_efficient_seg: false,
    };
    let Some(kwargs) = configuration.opt(&format!("{key}_kwargs"))? else { return Ok(out) };
    kwargs.only(function.arguments(), function.name())?;
    if let Some(node) = kwargs.opt("is_seg")? {
        out.is_seg = node.bool()?;
    }
    if let Some(node) = kwargs.opt("order")? {
        out.order = order(&node)?;
    }
    if let Some(node) = kwargs.opt("order_z")? {
        out.order_z = order(&node)?;
    }
    if kwargs.has("force_separate_z") {
        out.force_separate_z = kwargs.opt("force_separate_z")?.map(|n| n.bool()).transpose()?;
    }
    if let Some(node) = kwargs.opt("separate_z_anisotropy_threshold")? {
        out.anisotropy_threshold = node.f64()?;
    }
    if let Some(node) = kwargs.opt("mode")? {
        out.mode = mode(&node)?;
    }
    if let Some(node) = kwargs.opt("aniso_axis_mode")? {
        out.mode_z = mode(&node)?;
    }
    if let Some(node) = kwargs.opt("memefficient_seg_resampling")? {
        out.memory_efficient_seg = node.bool()?;
    }
    Ok(out)
}

fn order(node: &Node<'_>) -> Result<u8, PlanError> {
    match node.usize() {
        Ok(order @ 0..=3) => Ok(order as u8),
        _ => Err(node.wrong("a spline order from 0 to 3")),
    }
}

fn mode(node: &Node<'_>) -> Result<InterpolationMode, PlanError> {
    match node.str()? {
        "linear" => Ok(InterpolationMode::Linear),
        "nearest-exact" => Ok(InterpolationMode::NearestExact),
        _ => Err(node.unknown(&["linear", "nearest-exact"])),
    }
}
