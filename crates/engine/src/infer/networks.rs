//! The networks of all models and folds, as far as they fit into memory.

use burn::tensor::{Device, Tensor, TensorData};
use glioseg_net::{Checkpoint, Unet};

use super::{Decision, InferError, PredictOptions};
use crate::model::Model;

/// Weights of all folds stay in memory while they take at most this many bytes; else one fold is held at a time.
const RESIDENT_WEIGHTS: usize = 1 << 30;

/// The folds' networks, all in memory or one at a time.
pub(super) struct Networks {
    /// SHA-256 of every fold's checkpoint, model by model.
    pub(super) hashes: Vec<Vec<String>>,
    /// The networks, where all of them fit.
    resident: Option<Vec<Vec<Unet>>>,
    pub(super) device: Device,
    interpolate_positions: bool,
}

impl Networks {
    pub(super) fn load(models: &[Model], options: &PredictOptions) -> Result<Self, InferError> {
        let empty = Self {
            hashes: Vec::new(),
            resident: None,
            device: options.device.clone(),
            interpolate_positions: options.interpolate_positions,
        };
        let mut hashes = Vec::new();
        let (mut resident, mut bytes) = (Some(Vec::new()), 0);
        for model in models {
            let mut of_model = Vec::new();
            let mut networks = Vec::new();
            for fold in &model.folds {
                // Every fold is loaded once at the start, so that a damaged one is an error before hours of work.
                let checkpoint = Checkpoint::open(&fold.checkpoint)?;
                of_model.push(checkpoint.sha256()?);
                let network = empty.network(model, &checkpoint)?;
                bytes += network.num_parameters() * size_of::<f32>();
                if bytes > RESIDENT_WEIGHTS {
                    resident = None;
                }
                if resident.is_some() {
                    networks.push(network);
                } else {
                    networks.clear();
                }
            }
            hashes.push(of_model);
            if let Some(resident) = &mut resident {
                resident.push(networks);
            }
        }
        Ok(Self { hashes, resident, ..empty })
    }

    /// The network of a fold, for tiles of the model's size.
    fn network(&self, model: &Model, checkpoint: &Checkpoint) -> Result<Unet, InferError> {
        let mut spec = model.network.clone();
        if self.interpolate_positions && spec.fixed_input().is_some() {
            spec = spec.with_positions_for(model.tile());
        }
        spec.check_input(spec.in_channels, model.tile())?;
        let mut network = Unet::new(&spec, &self.device)?;
        if self.interpolate_positions {
            network.load_weights_interpolating_positions(checkpoint)?;
        } else {
            network.load_weights(checkpoint)?;
        }
        Ok(network)
    }

    /// Calls `work` with the network of every fold of a model in turn.
    pub(super) fn for_each_fold(
        &self,
        at: usize,
        model: &Model,
        mut work: impl FnMut(&Unet) -> Result<(), InferError>,
    ) -> Result<(), InferError> {
        if let Some(resident) = &self.resident {
            return resident[at].iter().try_for_each(work);
        }
        for fold in &model.folds {
            work(&self.network(model, &Checkpoint::open(&fold.checkpoint)?)?)?;
        }
        Ok(())
    }
}

/// One network pass: logits, or probabilities where version 1's rules want every pass activated; on the CPU nothing is copied on the way in or out.
pub(crate) fn forward(
    network: &Unet,
    patch: Vec<f32>,
    shape: [usize; 5],
    device: &Device,
    activation: Option<&Decision>,
) -> Result<Vec<f32>, InferError> {
    let input = Tensor::<5>::from_data(TensorData::new(patch, shape), device);
    let logits = network.forward(input).into_data();
    let found = logits.num_elements();
    let logits =
        logits.try_into_vec::<f32>().map_err(|_| InferError::LogitsShape { expected: found, found: 0 })?;
    Ok(match activation {
        Some(decision) => decision.activate_pass(&logits),
        None => logits,
    })
}
