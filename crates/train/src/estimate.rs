//! What a training will take: memory from the engine's plan, time from a step and some batches on this machine.

use std::sync::Arc;
use std::time::Instant;

use glioseg_net::loss::Targets;
use glioseg_net::optimiser::Optimiser;
use glioseg_net::{Engine, MemoryPlan, Mode, NetworkSpec, Parameters, Program, Update};

use super::{Setup, TrainError};
use glioseg_infer::{Grid, mirror_combinations};
use glioseg_prep::augment::{AugmentedBatches, BatchOptions};

/// Memory and time that a training is expected to take.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// Bytes of weights, their gradients and the optimiser's state.
    pub network: u64,
    /// Bytes of feature maps and their gradients, and of the threads' scratch.
    pub maps: u64,
    /// Bytes of batches made ahead.
    pub batches: u64,
    /// Seconds of one training iteration, while the next batches are made.
    pub iteration_seconds: f64,
    /// Seconds of an epoch with its validation.
    pub epoch_seconds: f64,
    /// Seconds of the validation at the end.
    pub validation_seconds: f64,
}

/// What the program itself takes, and what is left of earlier work.
const BASE_BYTES: u64 = 100_000_000;
/// A forward pass costs about a third of a training step.
const FORWARD_SHARE: f64 = 1.0 / 3.0;

impl Estimate {
    /// Bytes in all.
    pub fn bytes(&self) -> u64 {
        BASE_BYTES + self.network + self.maps + self.batches
    }

    /// Memory only; refuses what cannot fit.
    ///
    /// # Errors
    /// [`TrainError::Memory`] if more is needed than is free.
    pub(super) fn memory(setup: &Setup, plan: MemoryPlan, free: Option<u64>) -> Result<Self, TrainError> {
        let batch = setup.configuration.batch_size as u64;
        let kept = Optimiser::bytes_per_value(setup.settings.optimiser) as u64;
        // As many values are trained as have gradients.
        let optimiser = plan.gradients / size_of::<f32>() as u64 * kept;
        let voxels = |size: [usize; 3]| size.iter().product::<usize>() as u64;
        let channels = setup.network.in_channels as u64;
        let pipeline = setup.pipeline(setup.settings.augmentation);
        // Per voxel the image, the segmentation and the targets, of which full resolution is the largest.
        let outputs = setup.network.num_outputs as u64;
        let patch = voxels(setup.patch()) * (4 * channels + 2 * outputs);
        let source = voxels(pipeline.enlarged) * (4 * channels + 2);
        let threads = setup.batch_threads() as u64;
        // Every thread works on one batch and has one ready; validation has one thread of its own.
        let batches = threads * (2 * batch * patch + source + patch) + 2 * batch * patch;
        let estimate = Self {
            network: plan.parameters + plan.gradients + optimiser,
            // The patch is one of the batches.
            maps: plan.maps + plan.packed + plan.scratch,
            batches,
            iteration_seconds: 0.0,
            epoch_seconds: 0.0,
            validation_seconds: 0.0,
        };
        if let Some(free) = free
            && estimate.bytes() > free
        {
            return Err(TrainError::Memory {
                needed: estimate.bytes(),
                free,
                network: estimate.network,
                maps: estimate.maps,
                batches: estimate.batches,
            });
        }
        Ok(estimate)
    }

    /// Adds the time, from a step of a network of its own on noise (of half a patch where that is large) and from batches.
    ///
    /// # Errors
    /// [`TrainError::Net`] if the network cannot be made, [`TrainError::Augment`] if a batch cannot.
    pub(super) fn timed(mut self, setup: &Setup, engine: &mut dyn Engine) -> Result<Self, TrainError> {
        let (patch, divisor) = (setup.patch(), setup.network.divisor());
        let probe: [usize; 3] = std::array::from_fn(|a| {
            let half = patch[a] / 2;
            if patch[a] >= 64 && half.is_multiple_of(divisor[a]) { half } else { patch[a] }
        });
        let network = setup.network.clone().with_positions_for(probe);
        let seconds = step_seconds(setup, &network, probe, engine)?;
        let per_sample = seconds * setup.network.flops(patch)? as f64 / network.flops(probe)? as f64;
        let step = per_sample * setup.configuration.batch_size as f64;
        let settings = &setup.settings;
        let making = Making { seconds: batch_seconds(setup)?, threads: setup.batch_threads() };
        self.iteration_seconds = making.alongside(step);
        // Validation's batches are not varied: they cost next to nothing.
        self.epoch_seconds = self.iteration_seconds * settings.iterations as f64
            + step * FORWARD_SHARE * settings.val_iterations as f64;
        let mirrors = mirror_combinations(&setup.mirror_axes()).len();
        let tiles =
            setup.val_cases.0.iter().map(|case| Grid::new(case.shape(), patch, 0.5).map_or(0, |g| g.len()));
        self.validation_seconds = per_sample * FORWARD_SHARE * (tiles.sum::<usize>() * mirrors) as f64;
        Ok(self)
    }
}

/// What it takes to make batches.
#[derive(Debug, Clone, Copy)]
struct Making {
    /// Seconds of a thread for one batch.
    seconds: f64,
    /// Threads that make batches.
    threads: usize,
}

impl Making {
    /// Seconds of an iteration: the step uses all cores, and shares them with the threads that make batches.
    fn alongside(self, step: f64) -> f64 {
        let cores = rayon::current_num_threads().max(1) as f64;
        (step + self.seconds / cores).max(self.seconds / cores.min(self.threads.max(1) as f64))
    }
}

/// Seconds of a thread for a batch of this training.
fn batch_seconds(setup: &Setup) -> Result<f64, TrainError> {
    let options = BatchOptions { threads: 1, queue: 1, ..setup.batches(false, (0, 0)) };
    let start = Instant::now();
    let batches = AugmentedBatches::new(
        setup.train_cases.clone(),
        setup.pipeline(setup.settings.augmentation),
        options,
    )?;
    let mut made = 0;
    for batch in batches.take(4) {
        batch?;
        made += 1;
        if start.elapsed().as_secs_f64() > 2.0 {
            break;
        }
    }
    Ok(start.elapsed().as_secs_f64() / f64::from(made.max(1)))
}

/// Seconds of a training step with one sample of this size, once warm.
fn step_seconds(
    setup: &Setup,
    spec: &NetworkSpec,
    size: [usize; 3],
    engine: &mut dyn Engine,
) -> Result<f64, TrainError> {
    let mut loss = setup.loss();
    loss.ignore_label = None;
    let weights = setup.head_weights();
    let voxels: Vec<usize> = spec.head_sizes(size).iter().map(|s| s.iter().product()).collect();
    let regions = setup.dataset.description.labels.has_regions();
    let channels = if regions { spec.num_outputs } else { 0 };
    let (labels, masks) = (vec![0i16; voxels[0]], vec![0u8; channels * voxels[0]]);
    let targets: Vec<Targets<'_>> =
        voxels
            .iter()
            .map(|&n| {
                if regions { Targets::Regions(&masks[..channels * n]) } else { Targets::Labels(&labels[..n]) }
            })
            .collect();
    let update = Update {
        loss: &loss,
        weights: &weights,
        optimiser: setup.settings.optimiser,
        lr: 0.0,
        clip: setup.settings.clip,
        seed: 0,
    };
    engine.prepare(&Program::new(spec, 1, size, Mode::train(&weights))?)?;
    engine.load(Arc::new(Parameters::random(spec, 0)?))?;
    let values = (0..spec.in_channels * voxels[0]).map(|i| ((i * 7919) % 1009) as f32 / 504.0 - 1.0);
    let patch: Vec<f32> = values.collect();
    let mut seconds = f64::INFINITY;
    for _ in 0..2 {
        let start = Instant::now();
        engine.step(&patch, &targets, &update)?;
        seconds = seconds.min(start.elapsed().as_secs_f64());
        if seconds > 10.0 {
            break;
        }
    }
    Ok(seconds)
}
