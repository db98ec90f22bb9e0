//! Patches per second of v2's default augmentation (or of `--augmentation NAME`) on one 4-channel region-based patch,
//! one thread: the counterpart of the Python benchmark that `docs/benchmarks.md` names.
//!
//! `bench_augment [--patches 48] [--patch 128 128 128] [--augmentation default]`. Prints one JSON line.
#![expect(clippy::print_stdout, reason = "a benchmark reports")]

use glioseg_prep::augment::{Augmentation, Patch, PatchRng, PipelineOptions, Source, TargetOptions};
use std::time::Instant;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut patches, mut patch, mut augmentation) = (48u64, [128usize; 3], Augmentation::Default);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        match argument.as_str() {
            "--patches" => patches = value()?.parse()?,
            "--patch" => patch = [value()?.parse()?, value()?.parse()?, value()?.parse()?],
            "--augmentation" => augmentation = value()?.parse()?,
            _ => return Err(format!("unknown option {argument}").into()),
        }
    }
    let pipeline = augmentation.pipeline(&PipelineOptions {
        patch,
        planar: false,
        channels: 4,
        mask_channels: vec![true; 4],
        previous_stage_labels: None,
        targets: TargetOptions {
            regions: Some(vec![vec![1, 2, 3], vec![2, 3], vec![3]]),
            ignore_label: None,
            scales: [1.0, 0.5, 0.25, 0.125, 0.0625].map(|s| [s; 3]).to_vec(),
        },
    });
    let voxels: usize = pipeline.enlarged.iter().product();
    let mut rng = PatchRng::new(0, 0, u64::MAX);
    let data = (0..4 * voxels).map(|_| rng.normal()).collect();
    let seg = (0..voxels).map(|_| i16::from(rng.below(60) >= 56)).collect();
    let big = Patch::new(pipeline.enlarged, data, seg)?;

    // As in training, the memory of a patch serves the next.
    let mut patch = Patch { shape: [0; 3], data: Vec::new(), seg: Vec::new() };
    let mut run = |index: u64| {
        let params = pipeline.sample(&mut PatchRng::new(0, 0, index));
        let targets = pipeline.apply_into(&params, &Source::whole(&big), &mut patch);
        std::hint::black_box((&patch, targets));
    };
    run(u64::MAX);
    let start = Instant::now();
    for index in 0..patches {
        run(index);
    }
    let seconds = start.elapsed().as_secs_f64() / patches as f64;
    println!(
        "{{\"patches_per_second\": {:.3}, \"seconds_per_patch\": {seconds:.4}, \"input\": {:?}}}",
        1.0 / seconds,
        pipeline.enlarged
    );
    Ok(())
}
