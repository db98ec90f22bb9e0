//! Batches, made ahead of time by threads with bounded queues.
//!
//! Batch `k` is made by thread `k` modulo the number of threads, and taken from that thread's queue; so batches come in
//! order, no thread runs ahead by more than its queue holds, and the number of threads changes nothing but the speed.

use super::pipeline::Pipeline;
use super::random::PatchRng;
use super::sampler::{Cases, Demand, Oversampling, choose_corner, read_error};
use super::target::{Target, TargetValues};
use super::{AugmentError, Patch, Source};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How batches are made.
#[derive(Debug, Clone, PartialEq)]
pub struct BatchOptions {
    /// Patches per batch.
    pub batch_size: usize,
    /// Which patches must show foreground.
    pub oversampling: Oversampling,
    /// The dataset has an ignore label: patches that need not show foreground show something annotated.
    pub has_ignore_label: bool,
    /// Where all randomness comes from, together with epoch and index. Training and validation need different seeds.
    pub seed: u64,
    /// Batches per epoch.
    pub iterations_per_epoch: u64,
    /// Epoch and iteration of the first batch: 0 and 0, or where a training continues.
    pub start: (u64, u64),
    /// Threads.
    pub threads: usize,
    /// Batches that each thread makes ahead.
    pub queue: usize,
}

/// One batch.
///
/// # Shapes
/// `data` is `[b, c, z, y, x]`; the values of each target are `[b, c, z, y, x]` with its own shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Epoch it belongs to.
    pub epoch: u64,
    /// Number within the epoch.
    pub iteration: u64,
    /// The case of every patch.
    pub cases: Vec<String>,
    /// Channels of the image.
    pub channels: usize,
    /// Voxels per axis.
    pub shape: [usize; 3],
    /// Image.
    pub data: Vec<f32>,
    /// Targets of the heads, full resolution first.
    pub targets: Vec<Target>,
}

/// Everything that the threads share.
struct Maker<C> {
    cases: C,
    pipeline: Pipeline,
    options: BatchOptions,
}

impl<C: Cases> Maker<C> {
    /// Patch `index` of an epoch, from `case`.
    fn patch(
        &self,
        case: usize,
        index: u64,
        rng: &mut PatchRng,
        patch: &mut Patch,
    ) -> Result<Vec<Target>, AugmentError> {
        let (cases, pipeline) = (&self.cases, &self.pipeline);
        let in_batch = (index % self.options.batch_size as u64) as usize;
        let demand = if self.options.oversampling.forced(in_batch, self.options.batch_size, rng) {
            Demand::Foreground
        } else if self.options.has_ignore_label {
            Demand::Annotated
        } else {
            Demand::Nothing
        };
        let fail = |e| read_error(cases.name(case), e);
        let full = pipeline.enlarged;
        let corner = choose_corner(cases, case, full, pipeline.layout.shape, demand, rng).map_err(fail)?;
        let params = pipeline.sample(rng);
        let (origin, size) = params.source_box(full);
        let start = [0, 1, 2].map(|a| corner[a] + origin[a] as isize);
        let read = cases.read_box(case, start, size).map_err(fail)?;
        if read.shape != size {
            let case = cases.name(case).into();
            return Err(AugmentError::ReadShape { case, asked: size, got: read.shape });
        }
        Ok(pipeline.apply_into(&params, &Source { patch: &read, origin, full }, patch))
    }

    /// Batch `number`, counted from the first epoch's first.
    fn batch(&self, number: u64, scratch: &mut Patch) -> Result<Batch, AugmentError> {
        let options = &self.options;
        let (epoch, iteration) =
            (number / options.iterations_per_epoch, number % options.iterations_per_epoch);
        let mut batch = Batch {
            epoch,
            iteration,
            cases: Vec::new(),
            channels: 0,
            shape: self.pipeline.layout.shape,
            data: Vec::new(),
            targets: Vec::new(),
        };
        for in_batch in 0..options.batch_size as u64 {
            let index = iteration * options.batch_size as u64 + in_batch;
            let mut rng = PatchRng::new(options.seed, epoch, index);
            let case = rng.below(self.cases.count());
            // A thread that just vanished would leave the training waiting for ever.
            let made = catch_unwind(AssertUnwindSafe(|| self.patch(case, index, &mut rng, scratch)));
            let targets = made.unwrap_or_else(|panic| {
                let message = panic
                    .downcast_ref::<String>()
                    .map(String::as_str)
                    .or_else(|| panic.downcast_ref::<&str>().copied())
                    .unwrap_or("no message");
                Err(AugmentError::Worker { case: self.cases.name(case).into(), message: message.into() })
            })?;
            batch.cases.push(self.cases.name(case).into());
            batch.push(scratch, targets, options.batch_size);
        }
        Ok(batch)
    }
}

impl Batch {
    /// Appends a patch.
    fn push(&mut self, patch: &Patch, targets: Vec<Target>, batch_size: usize) {
        self.channels = patch.channels();
        self.data.reserve_exact(patch.data.len() * batch_size - self.data.len());
        self.data.extend_from_slice(&patch.data);
        if self.targets.is_empty() {
            self.targets = targets;
            return;
        }
        for (all, one) in self.targets.iter_mut().zip(targets) {
            match (&mut all.values, one.values) {
                (TargetValues::Labels(all), TargetValues::Labels(one)) => all.extend(one),
                (TargetValues::Regions(all), TargetValues::Regions(one)) => all.extend(one),
                (all, one) => panic!("one pipeline made targets of two kinds: {all:?} and {one:?}"),
            }
        }
    }
}

/// The batches of a training, one after the other, without end; after an error there are no more.
#[derive(Debug)]
pub struct AugmentedBatches {
    queues: Vec<Receiver<Result<Batch, AugmentError>>>,
    threads: Vec<JoinHandle<()>>,
    next: usize,
    failed: bool,
}

impl AugmentedBatches {
    /// Starts the threads.
    ///
    /// # Errors
    /// [`AugmentError::NoCases`]; [`AugmentError::Option`] if a count is 0; [`AugmentError::Spawn`].
    pub fn new<C: Cases + 'static>(
        cases: C,
        pipeline: Pipeline,
        options: BatchOptions,
    ) -> Result<AugmentedBatches, AugmentError> {
        if cases.count() == 0 {
            return Err(AugmentError::NoCases);
        }
        let counts = [
            ("the batch size", options.batch_size as u64),
            ("the number of iterations per epoch", options.iterations_per_epoch),
            ("the number of threads", options.threads as u64),
        ];
        for (what, value) in counts {
            if value == 0 {
                return Err(AugmentError::Option { what, value: value.to_string(), must: "at least 1" });
            }
        }
        let (threads, queue) = (options.threads, options.queue);
        let first = options.start.0 * options.iterations_per_epoch + options.start.1;
        let maker = Arc::new(Maker { cases, pipeline, options });
        let mut batches =
            AugmentedBatches { queues: Vec::new(), threads: Vec::new(), next: 0, failed: false };
        for t in 0..threads {
            let (sender, receiver) = sync_channel(queue);
            let maker = Arc::clone(&maker);
            let work = move || run(&maker, &sender, (first + t as u64..).step_by(threads));
            let thread = std::thread::Builder::new().name(format!("augment-{t}")).spawn(work);
            batches.queues.push(receiver);
            batches.threads.push(thread.map_err(AugmentError::Spawn)?);
        }
        Ok(batches)
    }
}

fn run<C: Cases>(
    maker: &Maker<C>,
    queue: &SyncSender<Result<Batch, AugmentError>>,
    numbers: impl Iterator<Item = u64>,
) {
    let mut scratch = Patch { shape: [0; 3], data: Vec::new(), seg: Vec::new() };
    for number in numbers {
        let batch = maker.batch(number, &mut scratch);
        let last = batch.is_err();
        if queue.send(batch).is_err() || last {
            return;
        }
    }
}

impl Iterator for AugmentedBatches {
    type Item = Result<Batch, AugmentError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let turn = self.next;
        self.next = (turn + 1) % self.queues.len();
        let batch = self.queues[turn].recv().unwrap_or_else(|_| {
            // Only a panic outside of a patch ends a thread without a word.
            let message = "it ended without a result".into();
            Err(AugmentError::Worker { case: String::new(), message })
        });
        self.failed = batch.is_err();
        Some(batch)
    }
}

impl Drop for AugmentedBatches {
    fn drop(&mut self) {
        // Without receivers, the threads end with their current batch.
        self.queues.clear();
        for thread in self.threads.drain(..) {
            // What a panicked thread had to say was said by its last batch.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sampler::tests::Memory;
    use super::super::{Augmentation, CaseError, ClassSummary, PipelineOptions, TargetOptions};
    use super::*;
    use glioseg_diagnose::Diagnose as _;

    fn memory() -> Memory {
        let case = |k: usize| {
            let shape = [20 + k, 24, 18];
            let n: usize = shape.iter().product();
            let data = (0..2 * n).map(|i| ((i * 31 + k) % 97) as f32 * 0.1).collect();
            let seg = (0..n).map(|i| (i / 50 % 7 % 4) as i16 - 1).collect();
            (Patch::new(shape, data, seg).expect("fits"), vec![(false, vec![[3, 4, 5], [10, 10, 10]])])
        };
        Memory((0..3).map(case).collect())
    }

    fn pipeline(augmentation: Augmentation) -> Pipeline {
        augmentation.pipeline(&PipelineOptions {
            patch: [12, 12, 12],
            planar: false,
            channels: 2,
            mask_channels: vec![true, false],
            previous_stage_labels: None,
            targets: TargetOptions {
                regions: Some(vec![vec![1, 2], vec![2]]),
                ignore_label: None,
                scales: vec![[1.0; 3], [0.5; 3]],
            },
        })
    }

    fn options(threads: usize) -> BatchOptions {
        BatchOptions {
            batch_size: 2,
            oversampling: Oversampling::DEFAULT,
            has_ignore_label: false,
            seed: 5,
            iterations_per_epoch: 4,
            start: (0, 0),
            threads,
            queue: 2,
        }
    }

    #[test]
    fn thread_count_changes_nothing() {
        for augmentation in [Augmentation::Default, Augmentation::Da5, Augmentation::Da4, Augmentation::None]
        {
            let batches = |threads| -> Vec<Batch> {
                let batches = AugmentedBatches::new(memory(), pipeline(augmentation), options(threads));
                batches.expect("starts").take(10).map(|b| b.expect("a batch")).collect()
            };
            let one = batches(1);
            assert_eq!((one[5].epoch, one[5].iteration), (1, 1));
            assert_eq!(one[0].data.len(), 2 * 2 * 12 * 12 * 12);
            assert_eq!((one[0].targets[1].shape, one[0].targets[1].channels()), ([6; 3], 4));
            assert!(one.iter().all(|b| b.data.iter().all(|v| v.is_finite())));
            assert_ne!(one[0].data, one[4].data, "epochs differ");
            for threads in [2, 3] {
                assert!(one == batches(threads), "{augmentation:?} with {threads} threads");
            }
        }
    }

    #[test]
    fn a_training_goes_on_where_it_stopped() {
        let all =
            AugmentedBatches::new(memory(), pipeline(Augmentation::Default), options(2)).expect("starts");
        let later = BatchOptions { start: (1, 2), ..options(3) };
        let later = AugmentedBatches::new(memory(), pipeline(Augmentation::Default), later).expect("starts");
        for (a, b) in all.skip(6).zip(later).take(3) {
            assert!(a.expect("a batch") == b.expect("a batch"));
        }
    }

    /// Cases of which the second fails.
    struct Broken(Memory, bool);

    impl Cases for Broken {
        fn count(&self) -> usize {
            self.0.count()
        }
        fn name(&self, case: usize) -> &str {
            self.0.name(case)
        }
        fn shape(&self, case: usize) -> Result<[usize; 3], CaseError> {
            self.0.shape(case)
        }
        fn classes(&self, case: usize) -> Result<Vec<ClassSummary>, CaseError> {
            self.0.classes(case)
        }
        fn class_voxel(&self, case: usize, class: usize, index: usize) -> Result<[usize; 3], CaseError> {
            self.0.class_voxel(case, class, index)
        }
        fn read_box(&self, case: usize, start: [isize; 3], size: [usize; 3]) -> Result<Patch, CaseError> {
            if case != 1 {
                return self.0.read_box(case, start, size);
            }
            assert!(!self.1, "the ground gave way");
            let cause = Box::new(std::io::Error::other("disk on fire"));
            Err(CaseError { file: Some("prepared/second.bin".into()), cause })
        }
    }

    #[test]
    fn errors_name_cause_file_and_case_and_end_the_batches() {
        let broken = Broken(memory(), false);
        let mut batches =
            AugmentedBatches::new(broken, pipeline(Augmentation::Default), options(2)).expect("starts");
        let error = batches.find_map(Result::err).expect("the second case comes up");
        assert_eq!(
            error.to_string(),
            "case `second` could not be read: disk on fire\n  in: prepared/second.bin"
        );
        assert!(error.hint().is_some());
        assert!(batches.next().is_none());
    }

    #[test]
    fn a_panic_names_the_case() {
        let broken = Broken(memory(), true);
        let mut batches =
            AugmentedBatches::new(broken, pipeline(Augmentation::Default), options(2)).expect("starts");
        let error = batches.find_map(Result::err).expect("the second case comes up");
        assert!(matches!(&error, AugmentError::Worker { case, message }
            if case == "second" && message == "the ground gave way"));
    }

    #[test]
    fn nothing_to_do_is_refused() {
        let start = |cases, options| {
            AugmentedBatches::new(cases, pipeline(Augmentation::None), options)
                .expect_err("refused")
                .to_string()
        };
        assert_eq!(start(Memory(vec![]), options(1)), "there are no training cases to take patches from");
        assert_eq!(start(memory(), options(0)), "the number of threads is 0, but must be at least 1");
    }
}
