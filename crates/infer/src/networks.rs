//! The networks of all models and folds, as far as they fit into memory; the one place of inference that knows what computes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use glioseg_net::{Checkpoint, Engine, EngineChoice, MemoryPlan, Mode, NetworkSpec, Parameters, Program};

use super::{InferError, Pass};
use crate::model::Model;

/// Weights of all folds stay in memory while they take at most this many bytes; else one fold is held at a time.
const RESIDENT_WEIGHTS: usize = 1 << 30;

/// The folds' networks, and what computes them.
#[derive(Debug)]
pub struct Networks {
    /// SHA-256 of every fold's checkpoint, model by model.
    hashes: Vec<Vec<String>>,
    /// For tiles of every model's size.
    programs: Vec<Program>,
    weights: Weights,
    /// What the largest program takes.
    largest: MemoryPlan,
    engine: Mutex<Box<dyn Engine>>,
}

/// Where the weights are.
#[derive(Debug)]
enum Weights {
    /// Those of all folds are in memory, model by model.
    Resident(Vec<Vec<Arc<Parameters>>>),
    /// One fold's are, the others' are read when it is their turn.
    OnDisk { interpolate_positions: bool },
    /// The engine has those of the only fold.
    InEngine,
}

impl Networks {
    /// Loads the weights of all folds; `interpolate_positions` fits position embeddings of another patch.
    ///
    /// # Errors
    /// [`InferError::Net`] if a checkpoint is damaged or not that of its model, or the engine cannot work here.
    pub(super) fn load(
        models: &[Model],
        engine: EngineChoice,
        interpolate_positions: bool,
    ) -> Result<Self, InferError> {
        let engine = engine.start()?;
        let mut hashes = Vec::new();
        let (mut resident, mut bytes) = (Some(Vec::new()), 0);
        for model in models {
            let mut of_model = Vec::new();
            let mut networks = Vec::new();
            for fold in &model.folds {
                // Every fold is loaded once at the start, so that a damaged one is an error before hours of work.
                let checkpoint = Checkpoint::open(&fold.checkpoint)?;
                of_model.push(checkpoint.sha256()?);
                let weights = Arc::new(weights(model, &checkpoint, interpolate_positions)?);
                if let Some(twin) = fold.twin() {
                    same_weights(&weights, &fold.checkpoint, &twin)?;
                }
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
        let programs = models
            .iter()
            .map(|model| program(&spec(model, interpolate_positions), model))
            .collect::<Result<_, _>>()?;
        let weights = resident.map_or(Weights::OnDisk { interpolate_positions }, Weights::Resident);
        Self::reserve(hashes, programs, weights, engine)
    }

    /// A network whose weights the engine has already: `model` with one fold.
    ///
    /// # Errors
    /// [`InferError::Net`] if the network cannot take the model's tiles.
    pub fn of_engine(model: &Model, engine: Box<dyn Engine>) -> Result<Self, InferError> {
        let programs = vec![program(&model.network, model)?];
        Self::reserve(Vec::new(), programs, Weights::InEngine, engine)
    }

    /// Takes the memory of the largest program, so that what does not fit is refused before the first case.
    fn reserve(
        hashes: Vec<Vec<String>>,
        programs: Vec<Program>,
        weights: Weights,
        mut engine: Box<dyn Engine>,
    ) -> Result<Self, InferError> {
        let largest = match programs.iter().max_by_key(|program| engine.plan(program).total()) {
            Some(program) => engine.prepare(program)?,
            None => MemoryPlan::default(),
        };
        Ok(Self { hashes, programs, weights, largest, engine: Mutex::new(engine) })
    }

    /// What the largest program takes, with the weights of all folds that are in memory.
    pub(super) fn memory(&self) -> MemoryPlan {
        let mut plan = self.largest;
        if let Weights::Resident(all) = &self.weights {
            let values = |weights: &Arc<Parameters>| weights.iter().map(|(_, v)| v.len()).sum::<usize>();
            plan.parameters =
                all.iter().flatten().map(|weights| (values(weights) * size_of::<f32>()) as u64).sum();
        }
        plan
    }

    /// SHA-256 of every fold's checkpoint, model by model; none where no file was read.
    pub(super) fn hashes(&self) -> &[Vec<String>] {
        &self.hashes
    }

    /// Calls `work` with a pass through the network of every fold of model number `at` in turn.
    pub(super) fn for_each_fold(
        &self,
        at: usize,
        model: &Model,
        work: &mut dyn FnMut(&mut Pass<'_>) -> Result<(), InferError>,
    ) -> Result<(), InferError> {
        let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        engine.prepare(&self.programs[at])?;
        for (i, fold) in model.folds.iter().enumerate() {
            match &self.weights {
                Weights::Resident(all) => engine.load(Arc::clone(&all[at][i]))?,
                Weights::OnDisk { interpolate_positions } => {
                    let checkpoint = Checkpoint::open(&fold.checkpoint)?;
                    engine.load(Arc::new(weights(model, &checkpoint, *interpolate_positions)?))?;
                }
                Weights::InEngine => {}
            }
            work(&mut |patch, read| {
                read(engine.forward(patch)?.heads[0]);
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Refuses two checkpoints of one name that hold different weights: which is meant cannot be known.
fn same_weights(weights: &Parameters, taken: &Path, twin: &Path) -> Result<(), InferError> {
    let other = Checkpoint::open(twin)?;
    let same = weights.iter().all(|(shape, values)| {
        // Values that only one of the files has (position embeddings that were interpolated) are not compared.
        other.read(&shape.name).map_or(true, |theirs| {
            theirs.len() != values.len() || theirs.iter().zip(values).all(|(a, b)| a.to_bits() == b.to_bits())
        })
    });
    if same {
        return Ok(());
    }
    Err(InferError::TwoCheckpoints { taken: taken.to_owned(), twin: twin.to_owned() })
}

/// A model's network, for tiles of its size.
fn spec(model: &Model, interpolate_positions: bool) -> NetworkSpec {
    let spec = model.network.clone();
    if interpolate_positions && spec.fixed_input().is_some() {
        return spec.with_positions_for(model.tile());
    }
    spec
}

/// What a network computes for one tile.
fn program(spec: &NetworkSpec, model: &Model) -> Result<Program, InferError> {
    Ok(Program::new(spec, 1, model.tile(), Mode::Predict)?)
}

/// The weights of a fold, for tiles of the model's size.
fn weights(
    model: &Model,
    checkpoint: &Checkpoint,
    interpolate_positions: bool,
) -> Result<Parameters, InferError> {
    let spec = spec(model, interpolate_positions);
    spec.check_input(spec.in_channels, model.tile())?;
    let mut weights = Parameters::zeros(&spec)?;
    if interpolate_positions {
        weights.load_interpolating_positions(checkpoint)?;
    } else {
        weights.load_checkpoint(checkpoint)?;
    }
    Ok(weights)
}
