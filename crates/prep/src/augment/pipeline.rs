//! The augmentations as lists of operations.
//!
//! A [`Pipeline`] is data: one spatial transform, then steps, each an operation with its probability. Drawing and
//! applying are apart: [`Pipeline::sample`] turns random numbers into [`PipelineParams`], [`Pipeline::apply`] turns these
//! and a patch into the network's input, so that both can be looked at on their own.

use super::blur::{BlurFlavour, BlurParams, GaussianBlur};
use super::cascade::{BinaryOperators, BinaryParams, RemoveComponent, RemoveParams, append_previous_stage};
use super::filters::{MedianFilter, MedianParams, Sharpen, SharpenParams};
use super::flips::{Mirror, MirrorParams, Rot90, Rot90Params, Transpose, TransposeParams};
use super::intensity::{
    AdditiveBrightness, AdditiveBrightnessParams, Brightness, BrightnessParams, Contrast, ContrastParams,
    Gamma, GammaParams, GaussianNoise, NoiseParams,
};
use super::local::{
    BlankRectangles, BrightnessGradient, GradientParams, LocalGamma, LocalGammaParams, RectanglesParams,
};
use super::low_resolution::{LowResolution, LowResolutionParams};
use super::random::PatchRng;
use super::spatial::{Spatial, SpatialParams};
use super::target::{MaskOutside, Target, TargetOptions, remove_outside};
use super::{Layout, Patch, Source};

/// An operation that runs with some probability.
#[derive(Debug, Clone, PartialEq)]
pub struct AugmentStep {
    /// Probability per patch.
    pub p: f64,
    /// The operation.
    pub op: Op,
}

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident($op:ty => $params:ty),)*) => {
        /// An operation on a patch.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Op {
            $($(#[$doc])* $name($op),)*
            /// [`MaskOutside`].
            MaskOutside(MaskOutside),
            /// [`remove_outside`].
            RemoveOutside,
            /// [`append_previous_stage`] with these labels.
            AppendPreviousStage(Vec<i16>),
            /// [`BinaryOperators`].
            BinaryOperators(BinaryOperators),
            /// [`RemoveComponent`].
            RemoveComponent(RemoveComponent),
            /// One of these, all as likely; it then runs with its own probability.
            OneOf(Vec<AugmentStep>),
        }

        /// What an operation drew.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Params {
            $($(#[$doc])* $name($params),)*
            /// [`MaskOutside`].
            MaskOutside(MaskOutside),
            /// [`remove_outside`].
            RemoveOutside,
            /// [`append_previous_stage`] with these labels.
            AppendPreviousStage(Vec<i16>),
            /// [`BinaryOperators`].
            BinaryOperators(BinaryParams),
            /// [`RemoveComponent`].
            RemoveComponent(RemoveParams),
        }

        impl Op {
            /// Draws whether the operation runs, and its parameters.
            fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> Option<Params> {
                Some(match self {
                    $(Op::$name(op) => Params::$name(op.sample(layout, rng)),)*
                    Op::MaskOutside(op) => Params::MaskOutside(op.clone()),
                    Op::RemoveOutside => Params::RemoveOutside,
                    Op::AppendPreviousStage(labels) => Params::AppendPreviousStage(labels.clone()),
                    Op::BinaryOperators(op) => Params::BinaryOperators(op.sample(layout.planar, rng)),
                    Op::RemoveComponent(op) => Params::RemoveComponent(op.sample(rng)),
                    Op::OneOf(steps) => return steps[rng.below(steps.len())].sample(layout, rng),
                })
            }
        }

        impl Params {
            /// Applies the operation.
            pub fn apply(&self, patch: &mut Patch) {
                match self {
                    $(Params::$name(params) => params.apply(patch),)*
                    Params::MaskOutside(params) => params.apply(patch),
                    Params::RemoveOutside => remove_outside(patch),
                    Params::AppendPreviousStage(labels) => append_previous_stage(patch, labels),
                    Params::BinaryOperators(params) => params.apply(patch),
                    Params::RemoveComponent(params) => params.apply(patch),
                }
            }
        }
    };
}

operations! {
    /// [`GaussianNoise`].
    Noise(GaussianNoise => NoiseParams),
    /// [`GaussianBlur`].
    Blur(GaussianBlur => BlurParams),
    /// [`Brightness`].
    Brightness(Brightness => BrightnessParams),
    /// [`AdditiveBrightness`].
    AdditiveBrightness(AdditiveBrightness => AdditiveBrightnessParams),
    /// [`Contrast`].
    Contrast(Contrast => ContrastParams),
    /// [`LowResolution`].
    LowResolution(LowResolution => LowResolutionParams),
    /// [`Gamma`].
    Gamma(Gamma => GammaParams),
    /// [`Mirror`].
    Mirror(Mirror => MirrorParams),
    /// [`Rot90`].
    Rot90(Rot90 => Rot90Params),
    /// [`Transpose`].
    Transpose(Transpose => TransposeParams),
    /// [`MedianFilter`].
    Median(MedianFilter => MedianParams),
    /// [`BlankRectangles`].
    Rectangles(BlankRectangles => RectanglesParams),
    /// [`BrightnessGradient`].
    Gradient(BrightnessGradient => GradientParams),
    /// [`LocalGamma`].
    LocalGamma(LocalGamma => LocalGammaParams),
    /// [`Sharpen`].
    Sharpen(Sharpen => SharpenParams),
}

impl AugmentStep {
    fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> Option<Params> {
        if rng.chance(self.p) { self.op.sample(layout, rng) } else { None }
    }
}

/// A whole augmentation.
#[derive(Debug, Clone, PartialEq)]
pub struct Pipeline {
    /// The final patch.
    pub layout: Layout,
    /// Voxels per axis of the enlarged patch that is loaded.
    pub enlarged: [usize; 3],
    /// The axes that are mirrored, also at inference.
    pub mirror_axes: Vec<usize>,
    /// Cuts the final patch from the enlarged one.
    pub spatial: Spatial,
    /// What follows, in order.
    pub steps: Vec<AugmentStep>,
    /// What becomes of the segmentation at the end.
    pub targets: TargetOptions,
}

/// What a [`Pipeline`] drew for one patch.
#[derive(Debug, Clone, PartialEq)]
pub struct PipelineParams {
    /// The spatial transform.
    pub spatial: SpatialParams,
    /// The steps that run; none for those that do not.
    pub steps: Vec<Option<Params>>,
}

impl PipelineParams {
    /// The part of an enlarged patch of `full` voxels that is read: first voxel and size per axis.
    pub fn source_box(&self, full: [usize; 3]) -> ([usize; 3], [usize; 3]) {
        self.spatial.source_box(full)
    }
}

/// Input and targets of the network for one patch.
#[derive(Debug, Clone, PartialEq)]
pub struct Augmented {
    /// Voxels per axis.
    pub shape: [usize; 3],
    /// Image, `[c, z, y, x]`.
    pub data: Vec<f32>,
    /// Targets of the heads, full resolution first.
    pub targets: Vec<Target>,
}

impl Pipeline {
    /// Draws everything that is random about a patch.
    pub fn sample(&self, rng: &mut PatchRng) -> PipelineParams {
        let spatial = self.spatial.sample(&self.layout, rng);
        let steps = self.steps.iter().map(|step| step.sample(&self.layout, rng)).collect();
        PipelineParams { spatial, steps }
    }

    /// Applies what was drawn.
    pub fn apply(&self, params: &PipelineParams, source: &Source<'_>) -> Augmented {
        let mut patch = Patch { shape: self.layout.shape, data: Vec::new(), seg: Vec::new() };
        let targets = self.apply_into(params, source, &mut patch);
        Augmented { shape: patch.shape, data: patch.data, targets }
    }

    /// Like [`Pipeline::apply`], in the memory of an earlier patch: `patch.data` becomes the input of the network.
    pub fn apply_into(&self, params: &PipelineParams, source: &Source<'_>, patch: &mut Patch) -> Vec<Target> {
        params.spatial.apply_into(source, patch);
        for step in params.steps.iter().flatten() {
            step.apply(patch);
        }
        self.targets.targets(&patch.seg[..patch.voxels()], patch.shape)
    }
}

/// Shorthand for the lists of [`super::presets`].
pub(super) fn step(p: f64, op: Op) -> AugmentStep {
    AugmentStep { p, op }
}

pub(super) fn torch_blur(low: f64, high: f64, per_axis: bool) -> Op {
    let sigma = super::Draw::Uniform(low, high);
    Op::Blur(GaussianBlur { sigma, per_axis, p_channel: 0.5, flavour: BlurFlavour::Torch })
}
