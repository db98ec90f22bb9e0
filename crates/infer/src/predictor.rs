//! Models in memory, ready to segment one case after the other.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use glioseg_formats::FormatError;
use glioseg_net::{EngineChoice, MemoryPlan};
use glioseg_plan::record::{CaseRecord, CaseStatus, ChannelCheck, Flag, FlagKind};
use glioseg_plan::{ImageReader, Labels, OutputLabels, Rules, differing_labels, free_memory};
use glioseg_prep::guard::check_volume;
use glioseg_prep::guard::space::{TrainingSpace, check_space};
use glioseg_prep::{CaseProperties, PreparedCase, preprocess_case, preprocess_later_stage};
use glioseg_volume::{Geometry, LabelMap, Volume};
use indexmap::IndexMap;

use super::case::{Answer, CaseFacts, Input, Undecided};
use super::export::{Decision, Logits, ProbabilitySum, Segmentation};
use super::flags::{ImageFacts, TrainingRange, flags};
use super::networks::Networks;
use super::probabilities::{Saving, V1Properties, V2Properties};
use super::uncertainty::{CaseMoments, Moments};
use super::window::sum_bytes;
use super::{
    Accumulation, CaseImages, Grid, InferError, Inferred, LogitSum, Origin, PostprocessingChoice, Prediction,
    Prepared, Watch, WindowOptions, previous,
};
use crate::cases::canonical_channel;
use crate::model::{CheckpointChoice, Folds, Model};
use crate::output::OutputRules;
use crate::postprocess::FILE_NAME;

/// How cases are predicted. The options act in this order: folds and checkpoint choose weights, step and mirroring choose
/// tiles; the decided label map is postprocessed and then recoded, probabilities stay as they are.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "independent switches, named by their fields")]
pub struct PredictOptions {
    /// Which folds of every model.
    pub folds: Folds,
    /// Which checkpoint of every fold.
    pub checkpoint: CheckpointChoice,
    /// Distance of neighbouring tiles as a fraction of the patch.
    pub step: f64,
    /// Average over mirrored tiles, where the model allows it.
    pub mirroring: bool,
    /// Precision of the running sums.
    pub accumulation: Accumulation,
    /// Interpolate position embeddings that are for another patch size than the plan's, instead of refusing the model.
    pub interpolate_positions: bool,
    /// What is done to the label map.
    pub postprocessing: PostprocessingChoice,
    /// Which label values are given.
    pub labels: OutputLabels,
    /// Also give probabilities (in a folder `CASE.npz`).
    pub save_probabilities: bool,
    /// Also give how far the passes agree: maps, and scores in the record.
    pub uncertainty: bool,
    /// Refuse a case whose channels do not look like their names; else it is a warning.
    pub strict: bool,
    /// What computes.
    pub engine: EngineChoice,
}

impl Default for PredictOptions {
    /// What nnU-Net does without options, on the CPU.
    fn default() -> Self {
        Self {
            folds: Folds::default(),
            checkpoint: CheckpointChoice::Final,
            step: 0.5,
            mirroring: true,
            accumulation: Accumulation::Half,
            interpolate_positions: false,
            postprocessing: PostprocessingChoice::default(),
            labels: OutputLabels::default(),
            save_probabilities: false,
            uncertainty: false,
            strict: false,
            engine: EngineChoice::default(),
        }
    }
}

/// Models that are applied together, and how; all but their weights.
#[derive(Debug)]
pub(crate) struct ModelSet {
    pub(crate) models: Vec<Model>,
    pub(crate) options: PredictOptions,
    pub(crate) rules: OutputRules,
    training: TrainingRange,
}

/// Models with their weights in memory, ready to segment cases.
///
/// One model is applied as nnU-Net v2 does: the mean of the logits over tiles, mirrorings and folds. Several models are
/// combined as `nnUNetv2_ensemble` does: the mean of their probabilities. A model of version 1 is applied by version 1's rules
/// (the mean of probabilities, in single precision), and several such models are combined as `nnUNet_ensemble` does, in half
/// precision.
#[derive(Debug)]
pub struct Predictor {
    set: ModelSet,
    networks: Networks,
}

impl Predictor {
    /// Opens model folders and loads their weights.
    ///
    /// # Errors
    /// [`InferError`] if a model cannot be opened, models do not fit together, or the options do not fit the models.
    pub fn open(models: &[PathBuf], options: PredictOptions) -> Result<Self, InferError> {
        Self::load(ModelSet::open(models, options)?)
    }

    /// Loads the weights.
    pub(crate) fn load(set: ModelSet) -> Result<Self, InferError> {
        let networks = Networks::load(&set.models, set.options.engine, set.options.interpolate_positions)?;
        Ok(Self { set, networks })
    }

    /// A model whose network is in memory already.
    ///
    /// # Errors
    /// [`InferError`] if the options do not fit the model.
    pub fn with_networks(
        model: Model,
        networks: Networks,
        options: PredictOptions,
    ) -> Result<Self, InferError> {
        Ok(Self { set: ModelSet::new(vec![model], options)?, networks })
    }

    /// The models.
    pub fn models(&self) -> &[Model] {
        &self.set.models
    }

    /// How they are applied.
    pub fn options(&self) -> &PredictOptions {
        &self.set.options
    }

    /// What the networks take while they run: the largest of them with the weights of all folds in memory. Cases and the running
    /// sums of their logits come on top.
    pub fn memory(&self) -> MemoryPlan {
        self.networks.memory()
    }

    /// The models without their weights.
    pub(crate) fn set(&self) -> &ModelSet {
        &self.set
    }

    /// SHA-256 of every fold's checkpoint, model by model.
    pub(crate) fn hashes(&self) -> &[Vec<String>] {
        self.networks.hashes()
    }

    /// Brings a case to the grids of the models' plans.
    ///
    /// # Errors
    /// [`InferError`] if the images do not fit the models: another number of channels, values that are no numbers, or, with
    /// [`PredictOptions::strict`], channels that do not look like their names.
    pub fn prepare(&self, case: CaseImages) -> Result<Prepared, InferError> {
        self.set.prepare(case)
    }

    /// Runs all networks over a case.
    ///
    /// # Errors
    /// [`InferError::Stopped`] if `watch` was told to stop; [`InferError::NonFiniteLogits`] and errors of the networks.
    pub fn infer(&self, case: &Prepared, watch: &Watch<'_>) -> Result<Inferred, InferError> {
        let start = Instant::now();
        let ModelSet { models, options, .. } = &self.set;
        let mut sum = if models.len() > 1 && self.set.by_v1() {
            ProbabilitySum::rounded()
        } else {
            ProbabilitySum::default()
        };
        let mut only = None;
        let mut next_stages = Vec::new();
        let mut moments = options.uncertainty.then(CaseMoments::default);
        for (at, (model, input)) in models.iter().zip(&case.inputs).enumerate() {
            let (answer, of_model) = self.answer(at, model, input, watch)?;
            for &shape in &case.next_stages {
                let trail = input.case.properties.trail_to(shape, &model.configuration);
                let logits = Logits { trail: &trail, ..answer.logits() };
                next_stages.push(logits.segment(&Decision::new(&model.dataset.labels)).labels);
            }
            if let (Some(all), Some(own)) = (&mut moments, of_model) {
                all.add(own, &answer.logits());
            }
            if options.save_probabilities || models.len() > 1 {
                sum.add(answer.logits().probabilities(&Decision::new(&model.dataset.labels)));
            } else {
                only = Some(answer);
            }
        }
        let first = &case.inputs[0].case;
        let seconds =
            [("read".to_owned(), case.facts.seconds), ("network".to_owned(), start.elapsed().as_secs_f64())];
        Ok(Inferred {
            facts: Arc::clone(&case.facts),
            undecided: only.map_or(Undecided::Probabilities(sum), Undecided::Answer),
            moments,
            next_stages,
            resampled: first.shape,
            properties: first.properties.clone(),
            seconds: seconds.into_iter().collect(),
        })
    }

    /// The mean answer of all folds of a model, and the moments of its passes where they are wanted.
    fn answer(
        &self,
        at: usize,
        model: &Model,
        input: &Input,
        watch: &Watch<'_>,
    ) -> Result<(Answer, Option<Moments>), InferError> {
        let options = &self.set.options;
        let (image, labels) = (input.image(), &model.dataset.labels);
        let rules = model.configuration.rules;
        let precision = options.accumulation.under(rules);
        let mut sum = LogitSum::new(labels.num_outputs(), image.shape, &input.window, precision)?;
        let activation = (rules == Rules::V1).then(|| Decision::new(labels));
        if options.uncertainty {
            sum.watch(Moments::new(labels, activation.is_some(), image.shape));
        }
        self.networks.for_each_fold(at, model, &mut |pass| match &activation {
            None => sum.add(image, pass, watch),
            Some(decision) => {
                // Version 1 activates every pass.
                let mut activated = |patch: &[f32], read: &mut dyn FnMut(&[f32])| {
                    pass(patch, &mut |logits| read(&decision.activate_pass(logits)))
                };
                sum.add(image, &mut activated, watch)
            }
        })?;
        let moments = sum.take_moments();
        let (shape, trail, activated) = (image.shape, input.trail.clone(), activation.is_some());
        Ok((Answer { values: sum.finish()?, shape, trail, precision, activated }, moments))
    }

    /// Decides, and brings the segmentation back to the grid of the image.
    ///
    /// # Errors
    /// [`InferError::Volume`] if the image's grid cannot hold the result.
    pub fn finish(&self, inferred: Inferred) -> Result<Prediction, InferError> {
        self.set.finish(inferred)
    }

    /// Segments a case: [`Predictor::prepare`], [`Predictor::infer`] and [`Predictor::finish`].
    ///
    /// # Errors
    /// Those of the three.
    pub fn predict(&self, case: CaseImages, watch: &Watch<'_>) -> Result<Prediction, InferError> {
        let prepared = self.prepare(case)?;
        let inferred = self.infer(&prepared, watch)?;
        drop(prepared);
        self.finish(inferred)
    }

    /// A case of one model that was prepared earlier; `geometry` is the grid of its image.
    ///
    /// # Errors
    /// [`InferError`] if the case does not fit the model.
    pub fn prepared(&self, id: &str, case: PreparedCase, geometry: Geometry) -> Result<Prepared, InferError> {
        let facts = CaseFacts {
            id: id.to_owned(),
            origin: Origin::Memory,
            geometry,
            seen: None,
            warnings: Vec::new(),
            seconds: 0.0,
        };
        self.set.inputs(facts, vec![Arc::new(case)])
    }
}

impl ModelSet {
    /// Opens models and checks that they fit together.
    pub(crate) fn open(models: &[PathBuf], options: PredictOptions) -> Result<Self, InferError> {
        let models = models
            .iter()
            .map(|m| Model::open_with(m, &options.folds, &options.checkpoint, options.mirroring))
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(models, options)
    }

    fn new(models: Vec<Model>, options: PredictOptions) -> Result<Self, InferError> {
        let first = models.first().ok_or(InferError::NoModels)?;
        check_agree(&models)?;
        let steps = options.postprocessing.steps(&models)?;
        let steps = (steps, FILE_NAME.as_ref());
        let rules = OutputRules::new(&first.dataset, steps, options.labels, options.save_probabilities)?;
        let training = TrainingRange::of(first);
        Ok(Self { models, options, rules, training })
    }

    /// The model whose dataset stands for all.
    pub(crate) fn first(&self) -> &Model {
        &self.models[0]
    }

    /// The reader of a case's files: that of the first model that turns images, if one does.
    pub(crate) fn image_reader(&self) -> ImageReader {
        let readers = || self.models.iter().map(|m| m.plans.image_reader());
        readers().find(|reader| reader.turns().is_some()).unwrap_or_default()
    }

    /// Whether all models are applied by version 1's rules.
    pub(crate) fn by_v1(&self) -> bool {
        self.models.iter().all(|m| m.configuration.rules == Rules::V1)
    }

    /// What the first model was trained on.
    fn training_space(&self) -> TrainingSpace {
        let model = self.first();
        TrainingSpace {
            masked: model.configuration.use_mask_for_norm.contains(&true),
            spacing_mm: model.plans.original_median_spacing(),
        }
    }

    /// Makes voxels that are NaN or infinite 0, with a warning; refuses them if the prediction is strict.
    fn clear_not_finite(&self, case: &mut CaseImages) -> Result<(), InferError> {
        if self.options.strict {
            case.image.check_finite().map_err(|found| {
                let file = case.origin.channel_files().get(found.channel).map(|f| (*f).to_owned());
                FormatError::NotFinite { path: file.unwrap_or_else(|| case.id.clone().into()), found }
            })?;
        }
        let total = case.image.geometry.voxels();
        for (channel, count) in case.image.clear_not_finite() {
            let names = &self.first().dataset.channel_names;
            let of = |file: &&std::path::Path| format!("{}: NaN and infinite voxels", file.display());
            let what = case
                .origin
                .channel_files()
                .get(channel)
                .map_or_else(|| format!("NaN and infinite voxels of channel `{}`", names[channel]), of);
            case.warnings.push(format!("{what} count as 0: {count} of {total}"));
        }
        Ok(())
    }

    /// [`Predictor::prepare`].
    pub(crate) fn prepare(&self, mut case: CaseImages) -> Result<Prepared, InferError> {
        let start = Instant::now();
        self.check_channel_count(&case)?;
        self.clear_not_finite(&mut case)?;
        let names = &self.first().dataset.channel_names;
        let space = check_space(&case.image, names, &self.training_space());
        // The comparison of channels knows brains alone: a skull would make it suggest an exchange.
        let channels = match space {
            Some(_) => ChannelCheck::default(),
            None => check_volume(&case.image, names),
        };
        let CaseImages { id, image, origin, previous, mut warnings, seconds } = case;
        if let Some(reason) = space {
            if self.options.strict {
                return Err(InferError::Unprepared { reason, path: origin.place(&id) });
            }
            warnings.push(format!(
                "{reason}; `glioseg preprocess` prepares raw scans; the channels were not compared with their names"
            ));
        }
        let files = origin.channel_files();
        for (i, channel) in names.iter().enumerate() {
            let values = image.channel(i);
            if values.iter().all(|v| v.to_bits() == values[0].to_bits()) {
                let file = files.get(i).map(|f| format!(" ({})", f.display())).unwrap_or_default();
                warnings.push(format!("channel `{channel}` is {} everywhere{file}", values[0]));
            }
        }
        let doubts = channels.messages(names, &files);
        if self.options.strict && !doubts.is_empty() {
            return Err(InferError::DoubtfulChannels { doubts, path: origin.place(&id) });
        }
        warnings.extend(doubts);
        let geometry = image.geometry.clone();
        let facts = ImageFacts::of(&image);
        let prepared = self.prepare_for_each(image, previous.as_ref(), (&id, &origin))?;
        let facts = CaseFacts {
            id,
            origin,
            geometry,
            seen: Some((channels, facts)),
            warnings,
            seconds: seconds + start.elapsed().as_secs_f64(),
        };
        self.inputs(facts, prepared)
    }

    /// Refuses images of another number of channels.
    fn check_channel_count(&self, case: &CaseImages) -> Result<(), InferError> {
        let names = &self.first().dataset.channel_names;
        if case.image.channels == names.len() {
            return Ok(());
        }
        Err(InferError::Channels {
            path: case.origin.place(&case.id),
            expected: names.clone(),
            found: case.image.channels,
        })
    }

    /// The image as every model's network reads it, for later stages of a cascade with the segmentation of the stage before; models
    /// that prepare it alike share one. `id` and `origin` are for messages.
    fn prepare_for_each(
        &self,
        image: Volume,
        previous: Option<&LabelMap>,
        (id, origin): (&str, &Origin),
    ) -> Result<Vec<Arc<PreparedCase>>, InferError> {
        let models = &self.models;
        let mut image = Some(image);
        let mut prepared: Vec<Arc<PreparedCase>> = Vec::with_capacity(models.len());
        for (i, model) in models.iter().enumerate() {
            if let Some(same) = models[..i].iter().position(|other| prepares_alike(other, model)) {
                prepared.push(Arc::clone(&prepared[same]));
                continue;
            }
            // The image is copied only where a later model prepares it in another way.
            let later =
                (i + 1..models.len()).any(|j| !models[..=i].iter().any(|m| prepares_alike(m, &models[j])));
            let image = if later { image.clone() } else { image.take() };
            let image = image.expect("the image is kept until the last preparation");
            let case = match (&model.configuration.previous_stage, previous) {
                (None, _) => preprocess_case(image, &model.plans, &model.configuration)?,
                (Some(stage), None) => {
                    let reason = format!("is missing; the network reads that of `{stage}`");
                    return Err(InferError::Previous { path: origin.place(id), reason });
                }
                (Some(_), Some(map)) => {
                    previous::check(map, &image, &model.dataset)
                        .map_err(|reason| InferError::Previous { path: origin.place(id), reason })?;
                    let labels = &model.dataset.labels;
                    preprocess_later_stage(image, &map.data, labels, &model.plans, &model.configuration)?
                }
            };
            prepared.push(Arc::new(case));
        }
        Ok(prepared)
    }

    /// Refuses a case whose answer does not fit the free memory.
    fn check_memory(&self, model: &Model, case: &PreparedCase, grid: &Geometry) -> Result<(), InferError> {
        let Some(free) = free_memory() else { return Ok(()) };
        let outputs = model.dataset.labels.num_outputs();
        let precision = self.options.accumulation.under(model.configuration.rules);
        let kept = self.options.save_probabilities || self.models.len() > 1;
        let inside: usize = case.properties.shape_after_cropping.iter().product();
        // Labels inside the box and on the whole grid; probabilities of the sum and of the next model.
        let back = 2 * (inside + grid.voxels()) + if kept { 8 * outputs * inside } else { 0 };
        let needed = sum_bytes(outputs, case.shape, precision, model.folds.len()) + back as u64;
        if needed > free {
            return Err(InferError::CaseMemory { shape: case.shape, needed, free });
        }
        Ok(())
    }

    /// Adds windows and the ways back to a case that is prepared for every model.
    fn inputs(&self, facts: CaseFacts, prepared: Vec<Arc<PreparedCase>>) -> Result<Prepared, InferError> {
        let mut passes = 0;
        let mut inputs = Vec::with_capacity(prepared.len());
        for (model, case) in self.models.iter().zip(prepared) {
            let window = WindowOptions {
                tile: model.tile(),
                step: self.options.step,
                mirror_axes: if self.options.mirroring { model.mirror_axes.clone() } else { Vec::new() },
                rules: model.configuration.rules,
            };
            let grid = Grid::new(case.shape, window.tile, window.step)?;
            passes += (grid.len() * model.folds.len()) << window.mirror_axes.len();
            self.check_memory(model, &case, &facts.geometry)?;
            let trail = case.properties.trail(&model.configuration);
            inputs.push(Input { case, trail, window });
        }
        Ok(Prepared { facts: Arc::new(facts), inputs, passes, next_stages: Vec::new() })
    }

    /// [`Predictor::finish`].
    pub(crate) fn finish(&self, inferred: Inferred) -> Result<Prediction, InferError> {
        let start = Instant::now();
        let Inferred { facts, undecided, moments, next_stages, resampled, properties, mut seconds } =
            inferred;
        let dataset = &self.first().dataset;
        let labels = &dataset.labels;
        let saving = self.saving(&facts, resampled, properties);
        let Segmentation { labels: values, probabilities } = match undecided {
            Undecided::Answer(answer) => answer.logits().segment(&Decision::new(labels)),
            Undecided::Probabilities(sum) => sum.finish(self.options.save_probabilities),
        };
        let mut map = LabelMap::new(values, facts.geometry.clone()).map_err(FormatError::from)?;
        let postprocessed_voxels = self.rules.postprocessing.apply(&mut map);
        let volume_ml = volumes(&map, labels);
        let mut found = Vec::new();
        if let Some((channels, image)) = &facts.seen {
            found = flags(&map, labels, &dataset.channel_names, image, &self.training);
            let doubts = channels.messages(&dataset.channel_names, &facts.origin.channel_files());
            found.extend(doubts.into_iter().map(|doubt| Flag::new(FlagKind::Channels, doubt)));
        }
        let (mut scores, maps) = moments.map(|m| m.finish(labels, &map)).unzip();
        // Regions are told by the labels that are written.
        for region in scores.iter_mut().flat_map(|u| &mut u.regions) {
            self.rules.recoding.apply(&mut region.labels).expect("values of the dataset");
        }
        // The decision paints values of the dataset, and the recoding was made for these.
        self.rules.recoding.apply(&mut map.data).expect("values of the dataset");
        seconds.insert("write".into(), start.elapsed().as_secs_f64());
        let record = CaseRecord {
            case: facts.id.clone(),
            status: CaseStatus::Done,
            files: facts.origin.files().to_vec(),
            series: facts.origin.series(),
            seconds,
            volume_ml,
            saved_probabilities: None,
            postprocessed_voxels,
            channels: facts.seen.as_ref().map(|(channels, _)| channels.clone()),
            warnings: facts.warnings.clone(),
            flags: found,
            uncertainty: scores,
            error: None,
            hint: None,
        };
        let origin = facts.origin.clone();
        Ok(Prediction { labels: map, probabilities, uncertainty: maps, record, next_stages, origin, saving })
    }

    /// How the probabilities of a case are saved: as the version of the models does.
    fn saving(&self, facts: &CaseFacts, resampled: [usize; 3], case: CaseProperties) -> Saving {
        let v1 = self.by_v1().then(|| V1Properties {
            files: facts.origin.files().to_vec(),
            geometry: facts.geometry.clone(),
            resampled,
            spacing_mm: case.target_spacing,
        });
        let reader = self.first().plans.image_reader();
        Saving { v1, v2: V2Properties { reader, geometry: facts.geometry.clone(), case } }
    }
}

/// Whether two models prepare a case in the same way.
fn prepares_alike(a: &Model, b: &Model) -> bool {
    let (x, y) = (&a.configuration, &b.configuration);
    a.plans.transpose_forward() == b.plans.transpose_forward()
        && a.plans.image_reader().turns() == b.plans.image_reader().turns()
        && x.rules == y.rules
        && a.plans.foreground_intensities() == b.plans.foreground_intensities()
        && x.spacing == y.spacing
        && x.normalization == y.normalization
        && x.use_mask_for_norm == y.use_mask_for_norm
        && x.resampling_data == y.resampling_data
        && x.previous_stage.is_some() == y.previous_stage.is_some()
        && (x.previous_stage.is_none()
            || x.resampling_seg == y.resampling_seg
                && a.dataset.labels.all_labels() == b.dataset.labels.all_labels())
}

fn check_agree(models: &[Model]) -> Result<(), InferError> {
    let first = &models[0];
    let channels = |m: &Model| {
        m.dataset.channel_names.iter().map(|c| canonical_channel(c)).collect::<Vec<_>>().join(", ")
    };
    for other in &models[1..] {
        let differ = |what, first_is: String, second_is: String| InferError::ModelsDiffer {
            what,
            first: first_is,
            second: second_is,
            first_path: first.path.clone(),
            second_path: other.path.clone(),
        };
        if channels(first) != channels(other) {
            return Err(differ("the channels", channels(first), channels(other)));
        }
        if let Some((one, two)) = differing_labels(&first.dataset, &other.dataset) {
            return Err(differ("the labels", one, two));
        }
    }
    Ok(())
}

/// Volume in mL of every region, or of every label but background.
fn volumes(map: &LabelMap, labels: &Labels) -> IndexMap<String, f64> {
    let counts = map.counts();
    let ml = |values: &[u16]| {
        let voxels: usize = values.iter().filter_map(|v| counts.get(v)).sum();
        (voxels as f64 * map.geometry.voxel_ml() * 1e6).round() / 1e6
    };
    labels.classes().into_iter().map(|(name, values)| (name, ml(&values))).collect()
}
