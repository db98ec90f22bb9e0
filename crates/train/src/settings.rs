//! How a network is trained, as data: a preset is a JSON file with some of these fields, the others have nnU-Net v2's values.

use std::path::Path;

use glioseg_net::loss::{DiceForm, LossOptions, deep_supervision_weights};
use glioseg_net::optimiser::OptimiserOptions;
use glioseg_plan::{Labels, Planner, Plans, read_json};
use glioseg_prep::augment::{Augmentation, Oversampling};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::TrainError;
use super::setup::signed;

/// Everything that decides a training besides dataset, plans and fold. They act in this order: `configuration` changes the plan,
/// `sampling` and `augmentation` make the batches, `loss` and `supervision` judge the answer, the rest steps.
///
/// ```
/// use glioseg_train::Settings;
///
/// let settings: Settings = serde_json::from_str(r#"{"epochs": 100, "loss": {"smooth": 0.0}}"#)?;
/// assert_eq!((settings.epochs, settings.iterations, settings.loss.smooth), (100, 250, 0.0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// First part of the result folder's name, in nnU-Net the trainer class.
    pub trainer: String,
    /// Who makes the plans where none are named.
    pub planner: Planner,
    /// Epochs.
    pub epochs: usize,
    /// Training batches per epoch.
    pub iterations: usize,
    /// Validation batches per epoch.
    pub val_iterations: usize,
    /// Learning rate of the first epoch.
    pub lr: f64,
    /// It falls as this power of the share of epochs that are left.
    pub lr_exponent: f64,
    /// What changes the weights.
    pub optimiser: OptimiserOptions,
    /// All gradients together are made no longer than this.
    pub clip: Option<f64>,
    /// How patches are varied.
    #[serde(with = "augmentation_word")]
    pub augmentation: Augmentation,
    /// Which patches must show foreground.
    pub sampling: Sampling,
    /// The loss of one output.
    pub loss: LossSettings,
    /// How the outputs of all resolutions are weighted.
    pub supervision: Supervision,
    /// Replaces entries of the plan's configuration, such as `{"batch_size": 4}` or parts of `architecture`; `null` removes one.
    pub configuration: Map<String, Value>,
    /// Where all randomness comes from: first weights, patches, augmentation, dropout.
    pub seed: u64,
    /// Threads that make batches; without a number, as many as are of use.
    pub batch_threads: Option<usize>,
}

impl Default for Settings {
    /// nnU-Net v2's `nnUNetTrainer`.
    fn default() -> Self {
        Self {
            trainer: "nnUNetTrainer".into(),
            planner: Planner::Default,
            epochs: 1000,
            iterations: 250,
            val_iterations: 50,
            lr: 0.01,
            lr_exponent: 0.9,
            optimiser: OptimiserOptions::NNUNET,
            clip: Some(12.0),
            augmentation: Augmentation::Default,
            sampling: Sampling::default(),
            loss: LossSettings::default(),
            supervision: Supervision::default(),
            configuration: Map::new(),
            seed: 0,
            batch_threads: None,
        }
    }
}

/// Which patches must show foreground.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sampling {
    /// Share of the patches.
    pub foreground: f64,
    /// Every patch is drawn with that probability, instead of the last ones of every batch.
    pub random: bool,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { foreground: 0.33, random: false }
    }
}

impl From<Sampling> for Oversampling {
    fn from(sampling: Sampling) -> Self {
        match sampling {
            Sampling { foreground, random: false } => Self::Last(foreground),
            Sampling { foreground, random: true } => Self::Random(foreground),
        }
    }
}

/// The loss of one output; whether labels or regions are learned is the dataset's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossSettings {
    /// Weight of the Dice.
    pub dice_weight: f64,
    /// Weight of the cross entropy.
    pub voxel_weight: f64,
    /// Added to both sides of the Dice's fraction.
    pub smooth: f64,
    /// How the Dice avoids a division by 0.
    pub form: DiceForm,
    /// One Dice for the whole batch; without it, as the plan says.
    pub batch_dice: Option<bool>,
    /// Whether the first output counts in the Dice; without it only where regions are learned.
    pub background: Option<bool>,
}

impl Default for LossSettings {
    fn default() -> Self {
        Self {
            dice_weight: 1.0,
            voxel_weight: 1.0,
            smooth: 1e-5,
            form: DiceForm::V2,
            batch_dice: None,
            background: None,
        }
    }
}

impl LossSettings {
    /// The loss for a dataset's labels.
    pub(super) fn options(&self, labels: &Labels, batch_dice: bool) -> LossOptions {
        LossOptions {
            dice_weight: self.dice_weight,
            voxel_weight: self.voxel_weight,
            batch_dice: self.batch_dice.unwrap_or(batch_dice),
            smooth: self.smooth,
            background: self.background.unwrap_or(labels.has_regions()),
            form: self.form,
            ignore_label: labels.ignore_label().map(signed),
        }
    }
}

/// Weights of the outputs of all resolutions.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supervision {
    /// Halved with every resolution, the lowest left out.
    #[default]
    Halving,
    /// Full resolution only.
    FullResolution,
    /// These, full resolution first; those that are missing are 0.
    Weights(Vec<f64>),
}

impl Supervision {
    /// Weight of every head, full resolution first.
    pub(super) fn weights(&self, heads: usize) -> Vec<f64> {
        match self {
            Self::Halving => deep_supervision_weights(heads),
            Self::FullResolution => (0..heads).map(|i| f64::from(u8::from(i == 0))).collect(),
            Self::Weights(weights) => (0..heads).map(|i| weights.get(i).copied().unwrap_or(0.0)).collect(),
        }
    }
}

/// Presets that come along: name and content.
const PRESETS: [(&str, &str); 7] = [
    ("default", "{}"),
    ("demo", include_str!("../presets/demo.json")),
    ("bl", include_str!("../presets/bl.json")),
    ("bl-l", include_str!("../presets/bl-l.json")),
    ("bl-gn", include_str!("../presets/bl-gn.json")),
    ("bl-l-gn", include_str!("../presets/bl-l-gn.json")),
    ("bl-aa", include_str!("../presets/bl-aa.json")),
];

impl Settings {
    /// Names of the presets that come along.
    pub fn preset_names() -> impl Iterator<Item = &'static str> {
        PRESETS.iter().map(|(name, _)| *name)
    }

    /// A preset that comes along, by its name, or that of a file.
    ///
    /// # Errors
    /// As [`Self::read`]; [`TrainError::UnknownPreset`] if it is neither.
    pub fn preset(name: &str) -> Result<Self, TrainError> {
        if let Some((name, text)) = PRESETS.iter().find(|(known, _)| *known == name) {
            return Self::parse(serde_json::from_str(text).unwrap_or_default(), Path::new(name));
        }
        if Path::new(name).is_file() {
            return Self::read(Path::new(name));
        }
        let known = Self::preset_names().map(str::to_owned).collect();
        Err(TrainError::UnknownPreset { name: name.to_owned(), known })
    }

    fn parse(value: Value, path: &Path) -> Result<Self, TrainError> {
        let settings: Self = serde_json::from_value(value)
            .map_err(|e| TrainError::Preset { path: path.to_owned(), reason: e.to_string() })?;
        settings.check()?;
        Ok(settings)
    }

    /// Reads a preset: a JSON object with some of the fields.
    ///
    /// # Errors
    /// [`TrainError::Preset`] if the file is none, [`TrainError::Setting`] for a value that makes no sense.
    pub fn read(path: &Path) -> Result<Self, TrainError> {
        Self::parse(read_json(path)?, path)
    }

    /// These settings with one changed: `NAME=VALUE`, with the names of a preset's file joined by dots. A value that is not JSON is a text.
    ///
    /// ```
    /// # use glioseg_train::Settings;
    /// let settings = Settings::default().with("loss.smooth=0")?.with("configuration.patch_size=[64, 64, 64]")?;
    /// assert_eq!(settings.loss.smooth, 0.0);
    /// # Ok::<(), glioseg_train::TrainError>(())
    /// ```
    ///
    /// # Errors
    /// [`TrainError::Assignment`] if there is no such setting, or it cannot have this value.
    pub fn with(&self, assignment: &str) -> Result<Self, TrainError> {
        let wrong = |reason: String| TrainError::Assignment { text: assignment.to_owned(), reason };
        let (name, text) = assignment.split_once('=').ok_or_else(|| wrong("it has no `=`".into()))?;
        let value = serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()));
        let mut all = serde_json::to_value(self).map_err(|e| wrong(e.to_string()))?;
        let mut place = &mut all;
        for key in name.trim().split('.') {
            if place.is_null() {
                *place = Value::Object(Map::new());
            }
            place = match place {
                Value::Object(fields) => fields.entry(key.to_owned()).or_insert(Value::Null),
                _ => return Err(wrong(format!("`{key}` cannot be set in what is not an object"))),
            };
        }
        *place = value;
        serde_json::from_value(all).map_err(|e| wrong(e.to_string()))
    }

    /// Whether every value makes sense.
    ///
    /// # Errors
    /// [`TrainError::Setting`] with the first that does not.
    pub fn check(&self) -> Result<(), TrainError> {
        let wrong = |name: &'static str, found: String, expected: &'static str| {
            Err(TrainError::Setting { name, found, expected })
        };
        for (name, count) in [
            ("epochs", self.epochs),
            ("iterations", self.iterations),
            ("val_iterations", self.val_iterations),
        ] {
            if count == 0 || count > 1 << 30 {
                return wrong(name, count.to_string(), "at least 1");
            }
        }
        if !(self.lr.is_finite() && self.lr > 0.0) {
            return wrong("lr", self.lr.to_string(), "more than 0");
        }
        if !(self.lr_exponent.is_finite() && self.lr_exponent >= 0.0) {
            return wrong("lr_exponent", self.lr_exponent.to_string(), "at least 0");
        }
        if let Some(clip) = self.clip
            && !(clip.is_finite() && clip > 0.0)
        {
            return wrong("clip", clip.to_string(), "more than 0, or null");
        }
        if !(0.0..=1.0).contains(&self.sampling.foreground) {
            return wrong("sampling.foreground", self.sampling.foreground.to_string(), "from 0 to 1");
        }
        let loss = &self.loss;
        for (name, weight) in
            [("loss.dice_weight", loss.dice_weight), ("loss.voxel_weight", loss.voxel_weight)]
        {
            if !(weight.is_finite() && weight >= 0.0) {
                return wrong(name, weight.to_string(), "at least 0");
            }
        }
        if loss.dice_weight + loss.voxel_weight <= 0.0 {
            return wrong(
                "loss.dice_weight",
                "0, as loss.voxel_weight".into(),
                "more than 0, or the other one",
            );
        }
        if !(loss.smooth.is_finite() && loss.smooth >= 0.0) {
            return wrong("loss.smooth", loss.smooth.to_string(), "at least 0");
        }
        if let Supervision::Weights(weights) = &self.supervision
            && (weights.iter().any(|w| !w.is_finite() || *w < 0.0) || weights.iter().sum::<f64>() <= 0.0)
        {
            return wrong("supervision.weights", format!("{weights:?}"), "numbers from 0, not all 0");
        }
        if self.batch_threads == Some(0) {
            return wrong("batch_threads", "0".into(), "at least 1, or null");
        }
        if self.trainer.is_empty() || self.trainer.contains(['/', '\\']) || self.trainer.contains("__") {
            return wrong(
                "trainer",
                format!("`{}`", self.trainer),
                "a name without slash and double underscore",
            );
        }
        Ok(())
    }

    /// The plans with [`Self::configuration`] in place of what they have.
    ///
    /// # Errors
    /// Errors of plans that contradict themselves afterwards.
    pub fn apply_to(&self, plans: &Plans, configuration: &str) -> Result<Plans, TrainError> {
        if self.configuration.is_empty() {
            return Ok(plans.clone());
        }
        let mut raw = plans.raw().clone();
        let mut resolved = plans.configuration(configuration)?.raw;
        resolved.shift_remove("inherits_from");
        let mut resolved = Value::Object(resolved);
        merge(&mut resolved, &Value::Object(self.configuration.clone()));
        raw["configurations"][configuration] = resolved;
        Ok(Plans::from_value(raw, plans.path())?)
    }
}

/// JSON merge patch (RFC 7396).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.shift_remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// An augmentation by its name on the command line.
mod augmentation_word {
    use glioseg_prep::augment::Augmentation;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde wants")]
    pub(super) fn serialize<S: Serializer>(value: &Augmentation, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(value.word())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Augmentation, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn settings_come_back_from_json_and_a_misspelt_field_is_refused() {
        let settings = Settings {
            augmentation: Augmentation::Da4,
            supervision: Supervision::Weights(vec![1.0, 0.5]),
            optimiser: OptimiserOptions::ADAMW,
            ..Settings::default()
        };
        let text = serde_json::to_string(&settings).expect("JSON");
        assert_eq!(serde_json::from_str::<Settings>(&text).expect("settings"), settings);
        let wrong = serde_json::from_str::<Settings>(r#"{"epoch": 3}"#).expect_err("misspelt").to_string();
        assert!(
            wrong.contains("unknown field `epoch`, expected one of `trainer`, `planner`, `epochs`"),
            "{wrong}"
        );
        let wrong = serde_json::from_str::<Settings>(r#"{"augmentation": "da6"}"#).expect_err("unknown");
        assert!(wrong.to_string().contains("augmentations: default, da5, da4, none"), "{wrong}");
    }

    #[test]
    fn presets_that_come_along_can_be_read_and_others_are_named() {
        for name in Settings::preset_names() {
            Settings::preset(name).unwrap_or_else(|e| panic!("{name}: {e}"));
        }
        let error = Settings::preset("dmeo").expect_err("unknown").to_string();
        assert!(error.starts_with("unknown preset `dmeo`; presets: default, demo"), "{error}");
    }

    #[test]
    fn every_setting_and_preset_is_documented() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/presets.md");
        let text = std::fs::read_to_string(path).expect("the documentation");
        let settings = serde_json::to_value(Settings::default()).expect("JSON");
        let mut names: Vec<String> = Settings::preset_names().map(str::to_owned).collect();
        for (name, value) in settings.as_object().expect("an object") {
            match value.as_object() {
                Some(parts) if name == "sampling" || name == "loss" => {
                    names.extend(parts.keys().map(|part| format!("{name}.{part}")));
                }
                _ => names.push(name.clone()),
            }
        }
        for name in names {
            assert!(text.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn single_settings_are_changed_by_name_and_others_are_refused() {
        let set = |text| Settings::preset("bl").expect("a preset").with(text);
        assert_eq!(set("clip=null").expect("no clipping").clip, None);
        assert_eq!(set("trainer=mine").expect("a text").trainer, "mine");
        let wide = set("configuration.architecture.arch_kwargs.base_num_features=8").expect("a new key");
        let arguments = &wide.configuration["architecture"]["arch_kwargs"];
        assert_eq!((&arguments["base_num_features"], &arguments["encoder_scale"]), (&json!(8), &json!(1)));
        for (text, message) in [
            ("epochs", "`epochs` cannot be set: it has no `=`"),
            ("epoch=3", "unknown field `epoch`, expected one of `trainer`"),
            ("epochs=many", "invalid type: string \"many\", expected usize"),
            ("epochs.x=1", "`x` cannot be set in what is not an object"),
            ("planner=huge", "unknown variant `huge`, expected one of `default`, `resenc`"),
        ] {
            let error = set(text).expect_err("refused").to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn values_that_make_no_sense_are_named() {
        let message = |settings: Settings| settings.check().expect_err("refused").to_string();
        let defaults = Settings::default;
        assert_eq!(
            message(Settings { epochs: 0, ..defaults() }),
            "the setting `epochs` is 0, but must be at least 1"
        );
        assert!(message(Settings { lr: f64::NAN, ..defaults() }).contains("`lr` is NaN"));
        let loss = LossSettings { dice_weight: 0.0, voxel_weight: 0.0, ..LossSettings::default() };
        assert!(message(Settings { loss, ..defaults() }).contains("loss.dice_weight"));
        assert!(defaults().check().is_ok());
    }

    #[test]
    fn a_configuration_is_changed_where_the_settings_say_and_nowhere_else() {
        let mut plan = json!({"a": {"b": 1, "c": [1, 2]}, "d": 2});
        merge(&mut plan, &json!({"a": {"c": [3], "e": {"f": 4}}, "d": null}));
        assert_eq!(plan, json!({"a": {"b": 1, "c": [3], "e": {"f": 4}}}));
    }
}
