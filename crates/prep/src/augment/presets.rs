//! nnU-Net's augmentations: v2's default, v2's DA5, the BraTS 2021 winner's DA4, and none.

use super::blur::{BlurFlavour, GaussianBlur};
use super::cascade::{BinaryOperators, RemoveComponent};
use super::filters::{MedianFilter, Sharpen};
use super::flips::{Mirror, Rot90, Transpose, exchangeable_axes};
use super::intensity::{AdditiveBrightness, Brightness, Contrast, Gamma, GammaFlavour, GaussianNoise};
use super::local::{BlankRectangles, BrightnessGradient, LocalGamma};
use super::low_resolution::{LowResolution, LowResolutionFlavour};
use super::pipeline::{AugmentStep, Op, Pipeline, step, torch_blur};
use super::spatial::{Elastic, Spatial, SpatialFlavour, enlarged_patch};
use super::target::{MaskOutside, TargetOptions};
use super::{AugmentError, Draw, Layout};
use std::f64::consts::PI;
use std::str::FromStr;

/// Which augmentation a network is trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augmentation {
    /// nnU-Net v2's default.
    Default,
    /// nnU-Net v2's `nnUNetTrainerDA5`.
    Da5,
    /// The BraTS 2021 winner's (nnU-Net v1's DA4 as configured by `nnUNetTrainerV2BraTSRegions_DA4_BN_BD`).
    Da4,
    /// Patches as they are; also what validation during training uses.
    None,
}

impl Augmentation {
    /// The names on the command line, in the order of the variants.
    pub const WORDS: [&str; 4] = ["default", "da5", "da4", "none"];

    /// The name on the command line.
    pub fn word(self) -> &'static str {
        Augmentation::WORDS[self as usize]
    }
}

impl FromStr for Augmentation {
    type Err = AugmentError;

    fn from_str(word: &str) -> Result<Augmentation, AugmentError> {
        let all = [Augmentation::Default, Augmentation::Da5, Augmentation::Da4, Augmentation::None];
        all.into_iter()
            .find(|a| a.word() == word)
            .ok_or_else(|| AugmentError::UnknownAugmentation { given: word.into() })
    }
}

/// What an augmentation needs to know of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineOptions {
    /// Voxels per axis of the network's patch; `[1, y, x]` in 2d.
    pub patch: [usize; 3],
    /// A 2d configuration.
    pub planar: bool,
    /// Channels of the image as it is stored.
    pub channels: usize,
    /// Per channel: `use_mask_for_norm`.
    pub mask_channels: Vec<bool>,
    /// In a cascade, the labels of the previous stage, which become channels.
    pub previous_stage_labels: Option<Vec<i16>>,
    /// Regions, ignore label and scales of the heads.
    pub targets: TargetOptions,
}

/// What follows from the shape of the patch.
struct Geometry {
    /// Largest angle in radians.
    rotation: f64,
    /// Slices along axis 0 are transformed alike, without interpolation between them.
    dummy_2d: bool,
}

impl Geometry {
    /// # Source
    /// nnU-Net v2, `configure_rotation_dummyDA_mirroring_and_inital_patch_size`.
    fn new(options: &PipelineOptions) -> Geometry {
        let [z, y, x] = options.patch.map(|n| n as f64);
        let degrees = |d: f64| d / 360.0 * 2.0 * PI;
        if options.planar {
            let rotation = degrees(if y.max(x) / y.min(x) > 1.5 { 15.0 } else { 180.0 });
            return Geometry { rotation, dummy_2d: false };
        }
        let dummy_2d = z.max(y).max(x) / z > 3.0;
        Geometry { rotation: degrees(if dummy_2d { 180.0 } else { 30.0 }), dummy_2d }
    }
}

impl Augmentation {
    /// The pipeline of a configuration.
    pub fn pipeline(self, options: &PipelineOptions) -> Pipeline {
        match self {
            Augmentation::Default => v2_default(options),
            Augmentation::Da5 => da5(options),
            Augmentation::Da4 => da4(options),
            Augmentation::None => none(options),
        }
    }
}

fn assemble(
    options: &PipelineOptions,
    enlarged: [usize; 3],
    spatial: Spatial,
    steps: Vec<AugmentStep>,
) -> Pipeline {
    Pipeline {
        layout: layout(options),
        enlarged,
        mirror_axes: layout(options).axes().collect(),
        spatial,
        steps,
        targets: options.targets.clone(),
    }
}

fn layout(options: &PipelineOptions) -> Layout {
    Layout { channels: options.channels, shape: options.patch, planar: options.planar }
}

fn mirror(options: &PipelineOptions) -> AugmentStep {
    step(1.0, Op::Mirror(Mirror { axes: layout(options).axes().collect() }))
}

/// The enlarged patch of v2, which keeps axis 0 where that is transformed slice by slice.
fn v2_enlarged(options: &PipelineOptions, geometry: &Geometry, smallest_scale: f64) -> [usize; 3] {
    let mut enlarged = enlarged_patch(options.patch, geometry.rotation, smallest_scale, options.planar);
    if geometry.dummy_2d {
        enlarged[0] = options.patch[0];
    }
    enlarged
}

/// Masking, label -1 and the previous stage; `p_label` is the probability per label of spoiling the latter.
fn finish(options: &PipelineOptions, augment_previous_stage: Option<f64>) -> Vec<AugmentStep> {
    let mut steps = Vec::new();
    if options.mask_channels.contains(&true) {
        steps.push(step(1.0, Op::MaskOutside(MaskOutside { channels: options.mask_channels.clone() })));
    }
    steps.push(step(1.0, Op::RemoveOutside));
    if let Some(labels) = &options.previous_stage_labels {
        steps.push(step(1.0, Op::AppendPreviousStage(labels.clone())));
        if let Some(p_label) = augment_previous_stage {
            let labels = labels.len();
            let operators = BinaryOperators { labels, radius_vox: (1.0, 8.0), p_label };
            steps.push(step(0.4, Op::BinaryOperators(operators)));
            steps.push(step(0.2, Op::RemoveComponent(RemoveComponent { labels, largest: 0.15, p_label })));
        }
    }
    steps
}

fn gamma_v2(invert: bool) -> Op {
    Op::Gamma(Gamma { gamma: Draw::AroundOne(0.7, 1.5), invert, flavour: GammaFlavour::V2 })
}

fn noise() -> Op {
    Op::Noise(GaussianNoise { deviation: Draw::Uniform(0.0, 0.1) })
}

/// # Source
/// nnU-Net v2, `nnUNetTrainer.get_training_transforms`.
fn v2_default(options: &PipelineOptions) -> Pipeline {
    let geometry = Geometry::new(options);
    let spatial = Spatial {
        flavour: SpatialFlavour::V2,
        planar: options.planar || geometry.dummy_2d,
        p_rotation: 0.2,
        rotation: geometry.rotation,
        p_rotation_axis: 1.0,
        p_scaling: 0.2,
        scale: Draw::Uniform(0.7, 1.4),
        p_one_scale: 1.0,
        elastic: None,
    };
    let around_one = Draw::AroundOne(0.75, 1.25);
    let mut steps = vec![
        step(0.1, noise()),
        step(0.2, torch_blur(0.5, 1.0, true)),
        step(0.15, Op::Brightness(Brightness { factor: around_one })),
        step(0.15, Op::Contrast(Contrast { factor: around_one, p_channel: 1.0, preserve_range: true })),
        step(
            0.25,
            Op::LowResolution(LowResolution {
                scale: Draw::Uniform(0.5, 1.0),
                p_channel: 0.5,
                keep_axis_0: geometry.dummy_2d,
                flavour: LowResolutionFlavour::Torch,
            }),
        ),
        step(0.1, gamma_v2(true)),
        step(0.3, gamma_v2(false)),
        mirror(options),
    ];
    steps.extend(finish(options, Some(0.5)));
    assemble(options, v2_enlarged(options, &geometry, 0.85), spatial, steps)
}

/// # Source
/// nnU-Net v2, `nnUNetTrainerDA5.get_training_transforms`.
fn da5(options: &PipelineOptions) -> Pipeline {
    let geometry = Geometry::new(options);
    let spatial = Spatial {
        flavour: SpatialFlavour::V2,
        planar: options.planar || geometry.dummy_2d,
        p_rotation: 0.4,
        rotation: geometry.rotation,
        p_rotation_axis: 0.5,
        p_scaling: 0.2,
        scale: Draw::Uniform(0.7, 1.43),
        p_one_scale: 0.0,
        elastic: None,
    };
    let mut steps = Vec::new();
    let axes = exchangeable_axes(&layout(options));
    if !axes.is_empty() {
        steps.push(step(0.5, Op::Rot90(Rot90 { axes: axes.clone() })));
        steps.push(step(0.5, Op::Transpose(Transpose { axes })));
    }
    let contrast = |preserve_range| {
        Op::Contrast(Contrast { factor: Draw::AroundOne(0.5, 2.0), p_channel: 0.5, preserve_range })
    };
    let strength = Draw::Either((-5.0, -1.0), (1.0, 5.0));
    steps.extend([
        step(
            1.0,
            Op::OneOf(vec![
                step(0.2, Op::Median(MedianFilter { smallest: 2, largest: 7, p_channel: 0.5 })),
                step(0.2, torch_blur(0.3, 1.5, false)),
            ]),
        ),
        step(0.1, noise()),
        step(0.1, Op::AdditiveBrightness(AdditiveBrightness { deviation: 0.5, p_channel: 0.5 })),
        step(1.0, Op::OneOf(vec![step(0.2, contrast(true)), step(0.2, contrast(false))])),
        step(
            0.15,
            Op::LowResolution(LowResolution {
                scale: Draw::Uniform(0.25, 1.0),
                p_channel: 0.5,
                keep_axis_0: geometry.dummy_2d,
                flavour: LowResolutionFlavour::Torch,
            }),
        ),
        // Both are inverted in nnU-Net 2.8.1.
        step(0.1, gamma_v2(true)),
        step(0.1, gamma_v2(true)),
        mirror(options),
        step(0.4, Op::Rectangles(BlankRectangles { most: 4, p_channel: 0.5 })),
        step(0.3, Op::Gradient(BrightnessGradient { strength, p_channel: 0.5 })),
        step(
            0.3,
            Op::LocalGamma(LocalGamma { gamma: Draw::Either((0.01, 0.8), (1.5, 4.0)), p_channel: 0.5 }),
        ),
        step(0.2, Op::Sharpen(Sharpen { strength: Draw::Uniform(0.1, 1.0), p_channel: 0.5 })),
    ]);
    steps.extend(finish(options, Some(1.0)));
    assemble(options, v2_enlarged(options, &geometry, 0.7), spatial, steps)
}

/// The winner's; where its 3d patch would be transformed slice by slice, which the winner's never was, the slices are
/// rotated by the same ±90°.
///
/// # Source
/// nnU-Net v1, `get_insaneDA_augmentation2` with the parameters of `nnUNetTrainerV2BraTSRegions_DA4_BN_BD`.
fn da4(options: &PipelineOptions) -> Pipeline {
    let geometry = Geometry::new(options);
    let planar = options.planar || geometry.dummy_2d;
    let spatial = Spatial {
        flavour: SpatialFlavour::V1,
        planar,
        p_rotation: 0.3,
        rotation: PI / 2.0,
        p_rotation_axis: 1.0,
        p_scaling: 0.3,
        scale: Draw::AroundOne(0.65, 1.6),
        // Independent scaling has probability 0.3.
        p_one_scale: 0.7,
        elastic: Some(Elastic { p: 0.3, scale: Draw::Uniform(0.0, 0.25) }),
    };
    let gamma =
        |invert| Op::Gamma(Gamma { gamma: Draw::AroundOne(0.5, 1.6), invert, flavour: GammaFlavour::V1 });
    let mut steps = vec![
        step(0.15, noise()),
        step(
            0.2,
            Op::Blur(GaussianBlur {
                sigma: Draw::Uniform(0.5, 1.5),
                per_axis: false,
                p_channel: 0.5,
                flavour: BlurFlavour::Scipy,
            }),
        ),
        step(0.15, Op::Brightness(Brightness { factor: Draw::Uniform(0.7, 1.3) })),
        step(
            0.15,
            Op::Contrast(Contrast {
                factor: Draw::AroundOne(0.65, 1.5),
                p_channel: 1.0,
                preserve_range: true,
            }),
        ),
        step(
            0.25,
            Op::LowResolution(LowResolution {
                scale: Draw::Uniform(0.5, 1.0),
                p_channel: 0.5,
                keep_axis_0: geometry.dummy_2d,
                flavour: LowResolutionFlavour::Scipy,
            }),
        ),
        step(0.15, gamma(true)),
        step(0.3, Op::AdditiveBrightness(AdditiveBrightness { deviation: 0.2, p_channel: 0.5 })),
        step(0.3, gamma(false)),
        mirror(options),
    ];
    steps.extend(finish(options, Some(0.5)));
    let enlarged = enlarged_patch(options.patch, PI / 2.0, 0.7, planar);
    assemble(options, enlarged, spatial, steps)
}

/// # Source
/// nnU-Net v2, `nnUNetTrainer.get_validation_transforms`.
fn none(options: &PipelineOptions) -> Pipeline {
    let spatial = Spatial {
        flavour: SpatialFlavour::V2,
        planar: options.planar,
        p_rotation: 0.0,
        rotation: 0.0,
        p_rotation_axis: 0.0,
        p_scaling: 0.0,
        scale: Draw::Fixed(1.0),
        p_one_scale: 1.0,
        elastic: None,
    };
    let plain = PipelineOptions { mask_channels: Vec::new(), ..options.clone() };
    let mut pipeline = assemble(options, options.patch, spatial, finish(&plain, None));
    pipeline.mirror_axes.clear();
    pipeline
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::augment::{Displacement, Params, PatchRng, PipelineParams};

    fn options(patch: [usize; 3], planar: bool) -> PipelineOptions {
        PipelineOptions {
            patch,
            planar,
            channels: 4,
            mask_channels: vec![true; 4],
            previous_stage_labels: None,
            targets: TargetOptions { regions: None, ignore_label: None, scales: vec![[1.0; 3]] },
        }
    }

    fn draw(augmentation: Augmentation, count: u64) -> Vec<PipelineParams> {
        let pipeline = augmentation.pipeline(&options([32; 3], false));
        (0..count).map(|i| pipeline.sample(&mut PatchRng::new(17, 0, i))).collect()
    }

    /// Five standard deviations of a frequency.
    fn assert_frequency(what: &str, count: usize, of: usize, p: f64) {
        let expected = p * of as f64;
        let margin = 5.0 * (of as f64 * p * (1.0 - p)).sqrt() + 1e-9;
        assert!(
            (count as f64 - expected).abs() <= margin,
            "{what}: {count} of {of} instead of {expected:.0}"
        );
    }

    fn frequencies(augmentation: Augmentation, expected: &[(&str, f64)]) {
        let drawn = draw(augmentation, 4000);
        for (k, &(name, p)) in expected.iter().enumerate() {
            let ran: Vec<&Params> = drawn.iter().filter_map(|d| d.steps[k].as_ref()).collect();
            let alike = ran.iter().all(|r| name.split('|').any(|n| format!("{r:?}").starts_with(n)));
            assert!(alike, "step {k} of {augmentation:?} is not {name}: {:?}", ran.first());
            assert_frequency(&format!("step {k}, {name}"), ran.len(), drawn.len(), p);
        }
        assert_eq!(drawn[0].steps.len(), expected.len(), "steps of {augmentation:?}");
    }

    #[test]
    fn default_runs_its_steps_in_order_and_as_often_as_nnunet() {
        let steps = [
            ("Noise", 0.1),
            ("Blur", 0.2),
            ("Brightness", 0.15),
            ("Contrast", 0.15),
            ("LowResolution", 0.25),
            ("Gamma", 0.1),
            ("Gamma", 0.3),
            ("Mirror", 1.0),
            ("MaskOutside", 1.0),
            ("RemoveOutside", 1.0),
        ];
        frequencies(Augmentation::Default, &steps);
        let drawn = draw(Augmentation::Default, 4000);
        let rotated = drawn.iter().filter(|d| d.spatial.angles.is_some()).count();
        assert_frequency("rotation", rotated, 4000, 0.2);
        let scaled: Vec<[f64; 3]> = drawn.iter().filter_map(|d| d.spatial.scales).collect();
        assert_frequency("scaling", scaled.len(), 4000, 0.2);
        assert!(
            scaled.iter().all(|s| s.iter().all(|f| f.total_cmp(&s[0]).is_eq() && (0.7..1.4).contains(f)))
        );
        let limit = PI / 6.0;
        assert!(
            drawn.iter().filter_map(|d| d.spatial.angles).flatten().all(|a| a.abs() <= limit && a != 0.0)
        );
        for axis in 0..3 {
            let flipped =
                |d: &&PipelineParams| matches!(&d.steps[7], Some(Params::Mirror(m)) if m.flip[axis]);
            assert_frequency("mirroring", drawn.iter().filter(flipped).count(), 4000, 0.5);
        }
        let blurred: Vec<_> = drawn
            .iter()
            .filter_map(|d| if let Some(Params::Blur(b)) = &d.steps[1] { Some(&b.sigmas) } else { None })
            .flatten()
            .collect();
        assert_frequency(
            "blurred channels",
            blurred.iter().filter(|s| s.is_some()).count(),
            blurred.len(),
            0.5,
        );
        assert!(blurred.iter().filter_map(|s| s.as_ref()).flatten().all(|s| (0.5..1.0).contains(s)));
    }

    #[test]
    fn da5_runs_its_steps_in_order_and_as_often_as_nnunet() {
        let steps = [
            ("Rot90", 0.5),
            ("Transpose", 0.5),
            ("Median|Blur", 0.2),
            ("Noise", 0.1),
            ("AdditiveBrightness", 0.1),
            ("Contrast", 0.2),
            ("LowResolution", 0.15),
            ("Gamma", 0.1),
            ("Gamma", 0.1),
            ("Mirror", 1.0),
            ("Rectangles", 0.4),
            ("Gradient", 0.3),
            ("LocalGamma", 0.3),
            ("Sharpen", 0.2),
            ("MaskOutside", 1.0),
            ("RemoveOutside", 1.0),
        ];
        frequencies(Augmentation::Da5, &steps);
        let drawn = draw(Augmentation::Da5, 4000);
        let medians = drawn.iter().filter(|d| matches!(d.steps[2], Some(Params::Median(_)))).count();
        assert_frequency("median", medians, 4000, 0.1);
        let angles: Vec<f64> = drawn.iter().filter_map(|d| d.spatial.angles).flatten().collect();
        assert_frequency("rotation", angles.len() / 3, 4000, 0.4);
        assert_frequency("turning axes", angles.iter().filter(|a| **a != 0.0).count(), angles.len(), 0.5);
        let gammas = drawn.iter().flat_map(|d| [&d.steps[7], &d.steps[8]]).flatten();
        assert!(gammas.into_iter().all(|g| matches!(g, Params::Gamma(g) if g.invert && g.retain_stats)));
        assert_eq!(Augmentation::Da5.pipeline(&options([16, 24, 32], false)).steps.len(), steps.len() - 2);
    }

    #[test]
    fn da4_runs_its_steps_in_order_and_as_often_as_the_winner() {
        let steps = [
            ("Noise", 0.15),
            ("Blur", 0.2),
            ("Brightness", 0.15),
            ("Contrast", 0.15),
            ("LowResolution", 0.25),
            ("Gamma", 0.15),
            ("AdditiveBrightness", 0.3),
            ("Gamma", 0.3),
            ("Mirror", 1.0),
            ("MaskOutside", 1.0),
            ("RemoveOutside", 1.0),
        ];
        frequencies(Augmentation::Da4, &steps);
        let drawn = draw(Augmentation::Da4, 4000);
        let elastic: Vec<_> = drawn
            .iter()
            .filter_map(|d| if let Displacement::Drawn(e) = &d.spatial.displacement { Some(e) } else { None })
            .collect();
        assert_frequency("elastic", elastic.len(), 4000, 0.3);
        for e in elastic {
            assert!((0.0..8.0).contains(&e.sigmas_vox[0]));
            let ratio = |a: usize| e.magnitudes_vox[a] / e.sigmas_vox[a];
            assert!((0..3).all(|a| (0.125..=0.5).contains(&ratio(a))));
        }
        let scaled: Vec<[f64; 3]> = drawn.iter().filter_map(|d| d.spatial.scales).collect();
        assert_frequency("scaling", scaled.len(), 4000, 0.3);
        let apart = scaled.iter().filter(|s| s[0].total_cmp(&s[1]).is_ne()).count();
        assert_frequency("scaling per axis", apart, scaled.len(), 0.3);
        let below = scaled.iter().filter(|s| s[0] < 1.0).count();
        assert_frequency("enlarging", below, scaled.len(), 0.5);
    }

    #[test]
    fn shapes_decide_rotation_and_dummy_2d() {
        let degrees = |p: &Pipeline| (p.spatial.rotation * 180.0 / PI).round();
        let p = Augmentation::Default.pipeline(&options([128; 3], false));
        assert_eq!((p.enlarged, degrees(&p), p.spatial.planar), ([205; 3], 30.0, false));
        let p = Augmentation::Da5.pipeline(&options([128; 3], false));
        assert_eq!(p.enlarged, [249; 3]);
        let p = Augmentation::Da4.pipeline(&options([128; 3], false));
        assert_eq!((p.enlarged, degrees(&p)), ([182; 3], 90.0));
        let p = Augmentation::Default.pipeline(&options([16, 128, 128], false));
        assert_eq!((p.enlarged[0], degrees(&p), p.spatial.planar), (16, 180.0, true));
        let p = Augmentation::Default.pipeline(&options([1, 256, 160], true));
        assert_eq!((p.enlarged[0], degrees(&p), p.mirror_axes), (1, 15.0, vec![1, 2]));
        let p = Augmentation::Default.pipeline(&options([1, 256, 256], true));
        assert_eq!((p.enlarged, degrees(&p)), ([1, 301, 301], 180.0));
    }

    #[test]
    fn words_name_augmentations_and_others_are_refused() {
        for word in Augmentation::WORDS {
            assert_eq!(word.parse::<Augmentation>().expect("known").word(), word);
        }
        let error = "da6".parse::<Augmentation>().expect_err("unknown");
        assert_eq!(error.to_string(), "unknown augmentation `da6`; augmentations: default, da5, da4, none");
    }
}
