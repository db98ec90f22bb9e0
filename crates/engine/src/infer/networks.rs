//! The networks of all models and folds, as far as they fit into memory.

use std::sync::{Arc, Mutex, PoisonError};

use glioseg_net::{Checkpoint, Engine, Mode, Parameters, Program};

use super::{Decision, InferError, PredictOptions};
use crate::model::Model;

/// Weights of all folds stay in memory while they take at most this many bytes; else one fold is held at a time.
const RESIDENT_WEIGHTS: usize = 1 << 30;

/// The folds' networks, all in memory or one at a time, and what computes them.
pub(super) struct Networks {
    /// SHA-256 of every fold's checkpoint, model by model.
    pub(super) hashes: Vec<Vec<String>>,
    /// For tiles of every model's size.
    programs: Vec<Program>,
    /// The weights, where all of them fit.
    resident: Option<Vec<Vec<Arc<Parameters>>>>,
    engine: Mutex<Box<dyn Engine>>,
    interpolate_positions: bool,
}

impl Networks {
    pub(super) fn load(models: &[Model], options: &PredictOptions) -> Result<Self, InferError> {
        let interpolate = options.interpolate_positions;
        let engine = options.engine.start()?;
        let mut hashes = Vec::new();
        let (mut resident, mut bytes) = (Some(Vec::new()), 0);
        for model in models {
            let mut of_model = Vec::new();
            let mut networks = Vec::new();
            for fold in &model.folds {
                // Every fold is loaded once at the start, so that a damaged one is an error before hours of work.
                let checkpoint = Checkpoint::open(&fold.checkpoint)?;
                of_model.push(checkpoint.sha256()?);
                let weights = Arc::new(weights(model, &checkpoint, interpolate)?);
                bytes += weights.num_trained() * size_of::<f32>();
                if bytes > RESIDENT_WEIGHTS {
                    resident = None;
                }
                if resident.is_some() {
                    networks.push(weights);
                } else {
                    networks.clear();
                }
            }
            hashes.push(of_model);
            if let Some(resident) = &mut resident {
                resident.push(networks);
            }
        }
        let programs = models.iter().map(|m| program(m, interpolate)).collect::<Result<_, _>>()?;
        Ok(Self {
            hashes,
            programs,
            resident,
            engine: Mutex::new(engine),
            interpolate_positions: interpolate,
        })
    }

    /// Calls `work` with the network of every fold of a model in turn.
    pub(super) fn for_each_fold(
        &self,
        at: usize,
        model: &Model,
        mut work: impl FnMut(&mut dyn Engine) -> Result<(), InferError>,
    ) -> Result<(), InferError> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.prepare(&self.programs[at])?;
        for (i, fold) in model.folds.iter().enumerate() {
            let weights = if let Some(resident) = &self.resident {
                Arc::clone(&resident[at][i])
            } else {
                let checkpoint = Checkpoint::open(&fold.checkpoint)?;
                Arc::new(weights(model, &checkpoint, self.interpolate_positions)?)
            };
            engine.load(weights)?;
            work(engine.as_mut())?;
        }
        Ok(())
    }
}

/// What a model computes for one tile.
fn program(model: &Model, interpolate_positions: bool) -> Result<Program, InferError> {
    let mut spec = model.network.clone();
    if interpolate_positions && spec.fixed_input().is_some() {
        spec = spec.with_positions_for(model.tile());
    }
    Ok(Program::new(&spec, 1, model.tile(), Mode::Predict)?)
}

/// The weights of a fold, for tiles of the model's size.
fn weights(
    model: &Model,
    checkpoint: &Checkpoint,
    interpolate_positions: bool,
) -> Result<Parameters, InferError> {
    let mut spec = model.network.clone();
    if interpolate_positions && spec.fixed_input().is_some() {
        spec = spec.with_positions_for(model.tile());
    }
    spec.check_input(spec.in_channels, model.tile())?;
    let mut weights = Parameters::zeros(&spec)?;
    if interpolate_positions {
        weights.load_interpolating_positions(checkpoint)?;
    } else {
        weights.load_checkpoint(checkpoint)?;
    }
    Ok(weights)
}

/// One network pass: logits, or probabilities where version 1's rules want every pass activated.
pub(crate) fn forward(
    engine: &mut dyn Engine,
    patch: &[f32],
    activation: Option<&Decision>,
) -> Result<Vec<f32>, InferError> {
    let logits = engine.forward(patch)?;
    let logits = logits.heads[0];
    Ok(match activation {
        Some(decision) => decision.activate_pass(logits),
        None => logits.to_vec(),
    })
}
