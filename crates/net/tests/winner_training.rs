//! The winner's networks learn on phantoms as the baseline does, at small widths.

use std::sync::Arc;

use glioseg_net::loss::{DiceForm, LossOptions, Targets, deep_supervision_weights};
use glioseg_net::optimiser::OptimiserOptions;
use glioseg_net::{EngineChoice, Mode, NetworkSpec, Parameters, Program, Update};
use glioseg_plan::{
    Architecture, ArchitectureKind, AttentionPlace, AxialAttention, GenericUNet, Nonlin, Norm, NormKind,
};
use glioseg_volume::phantom::{PhantomOptions, phantom};

const SIZE: usize = 32;

fn network(norm: NormKind, encoder_scale: usize, attention: Option<AttentionPlace>) -> NetworkSpec {
    let plan = Architecture {
        kind: ArchitectureKind::GenericUNet,
        dim: 3,
        features_per_stage: (0..4).map(|s| ((8 * encoder_scale) << s).min(32 * encoder_scale)).collect(),
        kernel_sizes: vec![vec![3; 3]; 4],
        strides: (0..4).map(|s| vec![if s == 0 { 1 } else { 2 }; 3]).collect(),
        stem_channels: None,
        blocks_per_stage: vec![2; 4],
        n_conv_per_stage_decoder: vec![2; 3],
        conv_bias: true,
        norm: Norm { kind: norm, eps: 1e-5, affine: true, running: norm == NormKind::Batch },
        dropout: None,
        nonlin: Nonlin::LeakyRelu { slope: 0.01 },
        nonlin_first: false,
        generic: Some(GenericUNet {
            encoder_scale,
            dropout_stages: vec![],
            attention: attention.map(|place| AxialAttention {
                heads: 1,
                dim_heads: 4,
                volume_shape: [SIZE; 3],
                excluded_levels: vec![0],
                place,
            }),
        }),
    };
    NetworkSpec::from_plan(&plan, 4, 3).expect("a network")
}

/// Two phantoms, each channel scaled to mean 0 and deviation 1, and their regions at every resolution: every label, the second and third, the third.
fn batch(heads: usize) -> (Vec<f32>, Vec<Vec<u8>>) {
    let (mut x, mut targets) = (Vec::new(), vec![Vec::new(); heads]);
    for seed in [1, 2] {
        let options =
            PhantomOptions { shape: [SIZE; 3], spacing_mm: [5.5; 3], seed, ..PhantomOptions::default() };
        let made = phantom(&options).expect("a phantom");
        for c in 0..4 {
            let values = made.channels.channel(c);
            let mean = values.iter().sum::<f32>() / values.len() as f32;
            let deviation =
                (values.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / values.len() as f32).sqrt();
            x.extend(values.iter().map(|v| (v - mean) / deviation));
        }
        for (head, target) in targets.iter_mut().enumerate() {
            let (step, size) = (1 << head, SIZE >> head);
            for least in [1, 2, 3] {
                for i in 0..size.pow(3) {
                    let [z, y, x] =
                        [i / (size * size), i / size % size, i % size].map(|v| v * step + step / 2);
                    target.push(u8::from(made.labels.data[(z * SIZE + y) * SIZE + x] >= least));
                }
            }
        }
    }
    (x, targets)
}

/// Losses of some steps with the winner's settings.
fn losses(spec: &NetworkSpec, steps: usize) -> Vec<f64> {
    let weights = deep_supervision_weights(spec.decoder.len());
    let mut engine = EngineChoice::default().start().expect("an engine");
    let program = Program::new(spec, 2, [SIZE; 3], Mode::train(&weights)).expect("a program");
    engine.prepare(&program).expect("memory");
    engine.load(Arc::new(Parameters::random(spec, 0).expect("a network"))).expect("loaded");
    let loss = LossOptions { smooth: 0.0, form: DiceForm::V1, ..LossOptions::v2(true, true) };
    let optimiser = OptimiserOptions::NNUNET;
    let update = Update { loss: &loss, weights: &weights, optimiser, lr: 0.01, clip: Some(12.0), seed: 0 };
    let (x, targets) = batch(spec.decoder.len());
    let targets: Vec<Targets<'_>> = targets.iter().map(|t| Targets::Regions(t)).collect();
    let mut step = || {
        let report = engine.step(&x, &targets, &update).expect("a step");
        assert!(report.done);
        report.loss.total
    };
    (0..steps).map(|_| step()).collect()
}

#[test]
fn every_network_of_the_winner_learns_as_the_baseline_does() {
    const STEPS: usize = 25;
    let groups = NormKind::Group { groups: 4 };
    let fall = |name: &str, spec: &NetworkSpec| {
        let losses = losses(spec, STEPS);
        let fall = losses[0] - losses[STEPS - 1];
        assert!(fall > 0.15, "{name}: {losses:?}");
        fall
    };
    let baseline = fall("BL", &network(NormKind::Batch, 1, None));
    for (name, spec) in [
        ("BL+L+GN", network(groups, 2, None)),
        ("BL+AA", network(NormKind::Batch, 1, Some(AttentionPlace::Decoder))),
        ("residual axial U-Net", network(NormKind::Batch, 1, Some(AttentionPlace::EverywhereResidual))),
    ] {
        let fall = fall(name, &spec);
        assert!(fall > 0.5 * baseline, "{name} falls by {fall}, the baseline by {baseline}");
    }
}
