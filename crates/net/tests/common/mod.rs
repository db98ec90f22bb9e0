//! Small networks of every kind of layer, and what engines make of them.
#![allow(dead_code, reason = "every test file uses its part")]

use std::sync::Arc;

use glioseg_net::loss::{LossOptions, Targets};
use glioseg_net::optimiser::OptimiserOptions;
use glioseg_net::{
    Curve, Dims, Engine, EngineChoice, Kernels, Mode, NetError, NetworkSpec, NormKind, NormSpec, ParameterId,
    Parameters, Program, StepReport, Update, decoder_like_encoder,
};
use glioseg_plan::{
    Architecture, ArchitectureKind, AttentionPlace, AxialAttention, GenericUNet, Nonlin, NormKind as PlanNorm,
};

pub(crate) type Failure = Box<dyn std::error::Error>;

/// A network, and what it is run on.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) spec: NetworkSpec,
    pub(crate) batch: usize,
    pub(crate) size: [usize; 3],
}

fn case(name: &'static str, spec: NetworkSpec, batch: usize, size: [usize; 3]) -> Case {
    Case { name, spec, batch, size }
}

fn plain() -> NetworkSpec {
    NetworkSpec::plain(3, 2, &[(5, [3; 3], [1; 3]), (9, [3; 3], [2; 3]), (18, [3; 3], [2; 3])])
}

fn with(change: impl Fn(&mut NetworkSpec)) -> NetworkSpec {
    let mut spec = plain();
    change(&mut spec);
    spec
}

fn two(mut spec: NetworkSpec) -> NetworkSpec {
    spec.dims = Dims::Two;
    spec
}

/// Every kind of layer, odd sizes behind the strides, channels that fill no vector.
pub(crate) fn cases() -> Vec<Case> {
    [plain_cases(), norm_cases(), residual_cases(), attention_cases()].concat()
}

pub(crate) fn plain_cases() -> Vec<Case> {
    let flat = [(6, [1, 3, 3], [1; 3]), (12, [1, 3, 3], [1, 2, 2]), (20, [1, 3, 3], [1, 2, 2])];
    // So many activations that some lie within rounding of the kink, which a slope near 1 makes harmless.
    let mut wide = NetworkSpec::plain(4, 3, &[(18, [3; 3], [1; 3]), (20, [3; 3], [2; 3])]);
    wide.slope = 0.95;
    vec![
        case("plain", plain(), 1, [12, 12, 20]),
        case("plain, two samples", plain(), 2, [4, 12, 8]),
        case("wide enough for Winograd", wide, 1, [10, 14, 18]),
        case("anisotropic", NetworkSpec::plain(2, 4, &MIXED), 2, [6, 10, 44]),
        case("two dimensions", two(NetworkSpec::plain(1, 2, &flat)), 2, [1, 20, 36]),
        case("two dimensions, residual", two(NetworkSpec::residual(2, 2, &flat, &[1, 2, 2])), 2, [1, 12, 20]),
        case("no activation", with(|s| s.slope = 1.0), 2, [8, 12, 4]),
        case(
            "plain ReLU, no biases",
            with(|s| (s.slope, s.conv_bias, s.up_bias, s.head_bias) = (0.0, false, false, false)),
            2,
            [8; 3],
        ),
        case("activation first", with(|s| s.nonlin_first = true), 1, [8, 8, 12]),
        case("ReLU first", with(|s| (s.nonlin_first, s.slope) = (true, 0.0)), 2, [8, 8, 4]),
        case("dropout", dropping(plain()), 2, [8, 8, 12]),
        case(
            "dropout behind the activation",
            with(|s| {
                *s = dropping(s.clone());
                s.nonlin_first = true;
            }),
            1,
            [8, 8, 12],
        ),
    ]
}

/// Kernels and strides that differ from axis to axis.
const MIXED: [(usize, [usize; 3], [usize; 3]); 3] =
    [(6, [1, 3, 3], [1; 3]), (8, [3; 3], [1, 2, 2]), (10, [3, 1, 3], [2, 1, 2])];

/// The network with dropout in its encoder and its decoder.
pub(crate) fn dropping(mut spec: NetworkSpec) -> NetworkSpec {
    spec.encoder[1].dropout = 0.5;
    spec.decoder[0].dropout = 0.25;
    spec
}

pub(crate) fn norm_cases() -> Vec<Case> {
    let norm = |kind| with(|s| s.norm = Some(NormSpec::new(kind)));
    let bare = |kind| with(|s| s.norm = Some(NormSpec { affine: false, ..NormSpec::new(kind) }));
    let mut groups = NetworkSpec::plain(2, 2, &[(8, [3; 3], [1; 3]), (16, [3; 3], [2; 3])]);
    groups.norm = Some(NormSpec::new(NormKind::Group(4)));
    vec![
        case("no norm", with(|s| s.norm = None), 2, [8, 4, 12]),
        case("no norm, dropout", with(|s| (s.norm, *s) = (None, dropping(s.clone()))), 1, [8, 4, 12]),
        case("groups of channels", groups.clone(), 2, [6, 6, 10]),
        case("groups, one sample", groups, 1, [6, 6, 10]),
        case("batch norm", norm(NormKind::Batch), 2, [8, 12, 4]),
        case("batch norm, one sample", norm(NormKind::Batch), 1, [8, 12, 4]),
        case(
            "batch norm behind the activation",
            with(|s| (s.norm, s.nonlin_first) = (Some(NormSpec::new(NormKind::Batch)), true)),
            2,
            [8, 12, 4],
        ),
        case("no affine", bare(NormKind::Instance), 2, [8, 4, 8]),
        case("batch norm, no affine", bare(NormKind::Batch), 2, [8, 4, 8]),
    ]
}

pub(crate) fn residual_cases() -> Vec<Case> {
    let mut norms = vec![];
    for (name, norm) in [
        ("residual, no norm", None),
        ("residual, batch norm", Some(NormSpec::new(NormKind::Batch))),
        ("residual, groups", Some(NormSpec::new(NormKind::Group(2)))),
    ] {
        let mut spec = NetworkSpec::residual(3, 2, &MIXED, &[2, 1, 2]);
        spec.norm = norm;
        norms.push(case(name, spec, 2, [4, 6, 20]));
    }
    // Equal widths: the skip is the map itself, or only pooled.
    let even = [(6, [3; 3], [1; 3]), (6, [3; 3], [2; 3]), (6, [3; 3], [1, 2, 1])];
    let mut relu = NetworkSpec::residual(2, 3, &even, &[1, 2, 1]);
    relu.slope = 0.0;
    let both = |spec: NetworkSpec| NetworkSpec { residual_decoder: true, ..spec };
    let mut bare = both(NetworkSpec::residual(2, 2, &MIXED, &[1, 1, 2]));
    (bare.norm, bare.stem_features) = (None, 5);
    let two_blocks = decoder_like_encoder(&relu.encoder, &[2, 2]);
    let deep = both(NetworkSpec { decoder: two_blocks, ..dropping(relu.clone()) });
    norms.extend([
        case("residual decoder", both(NetworkSpec::residual(3, 2, &MIXED, &[1, 2, 1])), 2, [4, 6, 20]),
        case("residual decoder, no norm, a narrow stem", bare, 1, [4, 6, 20]),
        case("residual decoder of two blocks, dropout", deep, 2, [6, 4, 10]),
        case("residual", NetworkSpec::residual(3, 2, &MIXED, &[1, 2, 3]), 2, [4, 6, 20]),
        case("residual, equal widths", NetworkSpec::residual(2, 3, &even, &[1, 2, 1]), 1, [6, 12, 10]),
        case("residual, ReLU", relu, 2, [6, 4, 10]),
        case("residual, dropout", dropping(NetworkSpec::residual(2, 3, &even, &[2, 1, 1])), 2, [6, 4, 10]),
    ]);
    norms
}

/// What can predict, but not be trained.
pub(crate) fn curved_cases() -> Vec<Case> {
    let gelu = Some(Curve::Gelu { tanh: false });
    let prelu = |parameters| Some(Curve::Prelu { parameters, init: 0.3 });
    let residual = |change: &dyn Fn(&mut NetworkSpec)| {
        let mut spec = NetworkSpec::residual(2, 2, &MIXED, &[1, 2, 1]);
        change(&mut spec);
        spec
    };
    let running = |kind| Some(NormSpec { running: kind != NormKind::Batch, ..NormSpec::new(kind) });
    let even = [(6, [3; 3], [1; 3]), (6, [3; 3], [2; 3])];
    let channels = NetworkSpec { curve: prelu(6), ..NetworkSpec::plain(2, 3, &even) };
    vec![
        case("GELU", with(|s| s.curve = gelu), 2, [8, 4, 12]),
        case("GELU without norm", with(|s| (s.curve, s.norm) = (gelu, None)), 1, [8, 4, 12]),
        case("GELU first", with(|s| (s.curve, s.nonlin_first) = (gelu, true)), 2, [8, 4, 12]),
        case("PReLU", with(|s| s.curve = prelu(1)), 2, [8, 4, 12]),
        case("PReLU per channel", channels, 2, [8, 4, 12]),
        case(
            "ELU, batch norm",
            with(|s| {
                (s.curve, s.norm) = (Some(Curve::Elu { alpha: 0.5 }), Some(NormSpec::new(NormKind::Batch)));
            }),
            2,
            [8, 4, 12],
        ),
        case("residual, SiLU", residual(&|s| s.curve = Some(Curve::Silu)), 1, [4, 6, 20]),
        case(
            "residual decoder, PReLU",
            residual(&|s| (s.curve, s.residual_decoder) = (prelu(1), true)),
            2,
            [4, 6, 20],
        ),
        case(
            "running statistics of an instance norm",
            with(|s| s.norm = running(NormKind::Instance)),
            2,
            [8, 4, 12],
        ),
        case(
            "a batch norm without running statistics",
            with(|s| s.norm = running(NormKind::Batch)),
            1,
            [8, 4, 12],
        ),
    ]
}

pub(crate) fn attention_cases() -> Vec<Case> {
    let mut made = vec![];
    for (names, place) in [
        (["attention in the decoder", "the same, odd sizes"], AttentionPlace::Decoder),
        (["attention everywhere", "the same everywhere, odd sizes"], AttentionPlace::Everywhere),
        (
            ["attention everywhere, residual", "the same everywhere, residual, odd sizes"],
            AttentionPlace::EverywhereResidual,
        ),
    ] {
        let mut spec = winner(4, 2, 320, 1, PlanNorm::Batch, Some((place, [8, 12, 16])));
        made.push(case(names[0], spec.clone(), 2, [8, 12, 16]));
        spec.norm = Some(NormSpec::new(NormKind::Instance));
        spec.encoder[1].stride = [1, 2, 2];
        spec.encoder[2].stride = [1, 1, 3];
        let size = [5, 14, 18];
        made.push(case(names[1], spec.with_positions_for(size), 1, size));
    }
    made
}

/// A network of the BraTS 2021 winner: `base` features, at most `most`, `pools` poolings.
pub(crate) fn winner(
    base: usize,
    pools: usize,
    most: usize,
    scale: usize,
    norm: PlanNorm,
    attention: Option<(AttentionPlace, [usize; 3])>,
) -> NetworkSpec {
    let stages = pools + 1;
    let plan = Architecture {
        kind: ArchitectureKind::GenericUNet,
        dim: 3,
        features_per_stage: (0..stages).map(|d| ((base * scale) << d).min(most)).collect(),
        kernel_sizes: vec![vec![3; 3]; stages],
        strides: (0..stages).map(|d| vec![if d == 0 { 1 } else { 2 }; 3]).collect(),
        stem_channels: None,
        blocks_per_stage: vec![2; stages],
        n_conv_per_stage_decoder: vec![2; pools],
        conv_bias: true,
        norm: glioseg_plan::Norm { kind: norm, eps: 1e-5, affine: true, running: norm == PlanNorm::Batch },
        dropout: None,
        nonlin: Nonlin::LeakyRelu { slope: 0.01 },
        nonlin_first: false,
        generic: Some(GenericUNet {
            encoder_scale: scale,
            dropout_stages: vec![],
            attention: attention.map(|(place, volume_shape)| AxialAttention {
                heads: if place == AttentionPlace::Decoder { 2 } else { 1 },
                dim_heads: if place == AttentionPlace::Decoder { 8 } else { 4 },
                volume_shape,
                excluded_levels: vec![0],
                place,
            }),
        }),
    };
    NetworkSpec::from_plan(&plan, 4, 3).expect("a network")
}

/// Numbers between -1 and 1 without pattern.
pub(crate) fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next() + next()).collect()
}

/// An engine of the CPU.
pub(crate) fn engine(kernels: Kernels) -> Result<Box<dyn Engine>, NetError> {
    EngineChoice { kernels, ..EngineChoice::default() }.start()
}

/// What a training step leaves.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trained {
    /// Logits of every head, before the step.
    pub(crate) heads: Vec<Vec<f32>>,
    pub(crate) report: StepReport,
    pub(crate) gradients: Vec<Option<Vec<f32>>>,
    pub(crate) parameters: Arc<Parameters>,
}

impl Case {
    pub(crate) fn program(&self, mode: Mode) -> Result<Program, NetError> {
        Program::new(&self.spec, self.batch, self.size, mode)
    }

    /// With all heads.
    pub(crate) fn training(&self) -> Result<Program, NetError> {
        self.program(Mode::Train { heads: vec![true; self.spec.decoder.len()] })
    }

    pub(crate) fn patch(&self) -> Vec<f32> {
        values(self.batch * self.spec.in_channels * self.size.iter().product::<usize>(), 7)
    }

    /// Regions of every head, without pattern.
    pub(crate) fn targets(&self) -> Vec<Vec<u8>> {
        let sizes = self.spec.head_sizes(self.size).into_iter().enumerate();
        let regions = |(head, size): (usize, [usize; 3])| {
            let len = self.batch * self.spec.num_outputs * size.iter().product::<usize>();
            values(len, 11 + head as u64).into_iter().map(|v| u8::from(v > 0.2)).collect()
        };
        sizes.map(regions).collect()
    }

    /// Initial values with every bias, factor and offset moved away from where it starts: a dropped channel is normalised to
    /// its offset, and 0 is the kink of the ReLU.
    pub(crate) fn parameters(&self) -> Result<Arc<Parameters>, NetError> {
        let mut parameters = Parameters::random(&self.spec, 3)?;
        for i in 0..parameters.shapes().len() {
            if parameters.shapes()[i].shape.len() == 1 {
                let noise = values(parameters.shapes()[i].len(), i as u64);
                let values = parameters.values_mut(ParameterId(i)).iter_mut();
                values.zip(noise).for_each(|(v, noise)| *v += 0.125 + noise / 16.0);
            }
        }
        Ok(Arc::new(parameters))
    }

    /// Logits of a prediction.
    pub(crate) fn predict(&self, engine: &mut dyn Engine) -> Result<Vec<f32>, NetError> {
        engine.prepare(&self.program(Mode::Predict)?)?;
        engine.load(self.parameters()?)?;
        let patch = self.patch();
        let first = engine.forward(&patch)?.heads[0].to_vec();
        // A second pass uses memory and prepared weights of the first.
        assert!(first == engine.forward(&patch)?.heads[0], "{}: the second pass", self.name);
        Ok(first)
    }

    /// Logits of all heads in training, then one step from the same parameters.
    pub(crate) fn train(&self, engine: &mut dyn Engine, seed: u64) -> Result<Trained, NetError> {
        engine.prepare(&self.training()?)?;
        engine.load(self.parameters()?)?;
        let patch = self.patch();
        let heads = engine.forward(&patch)?.heads.into_iter().map(<[f32]>::to_vec).collect();
        engine.load(self.parameters()?)?;
        let report = self.step(engine, seed)?;
        Ok(Trained { heads, report, gradients: engine.gradients()?, parameters: engine.parameters()? })
    }

    /// One step of the prepared training program.
    pub(crate) fn step(&self, engine: &mut dyn Engine, seed: u64) -> Result<StepReport, NetError> {
        let targets = self.targets();
        let targets: Vec<Targets<'_>> = targets.iter().map(|t| Targets::Regions(t)).collect();
        let weights: Vec<f64> = (0..targets.len()).map(|i| 1.0 / (1 + i) as f64).collect();
        let loss = LossOptions::v2(true, false);
        let optimiser = OptimiserOptions::NNUNET;
        let update = Update { loss: &loss, weights: &weights, optimiser, lr: 0.01, clip: Some(12.0), seed };
        engine.step(&self.patch(), &targets, &update)
    }
}
