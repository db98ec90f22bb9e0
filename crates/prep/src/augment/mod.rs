//! Training-time augmentation of patches, as nnU-Net does it.
//!
//! [`Augmentation::pipeline`] gives nnU-Net's lists of operations for a configuration; [`AugmentedBatches`] takes patches
//! from [`Cases`], augments them in threads and hands out batches in order. Every operation is split into drawing
//! (`sample`) and doing (`apply`), so that what it does can be compared with nnU-Net's own results. All randomness of a
//! patch comes from seed, epoch and index through [`PatchRng`], so neither the number of threads nor a resumed training
//! changes a bit.
//!
//! Left out: nnU-Net v1's growing margin (see [`choose_corner`]), its 2d rotation angles of DA4, and augmentations that
//! none of the trainers use.
#![expect(clippy::cast_possible_wrap, reason = "voxels are counted far below the limits of a signed number")]

mod batches;
mod blur;
mod cascade;
mod elastic;
mod error;
mod filters;
mod flips;
mod intensity;
mod local;
mod low_resolution;
mod math;
mod patch;
mod pipeline;
mod presets;
mod random;
mod sampler;
mod spatial;
mod spline;
mod target;
mod warp;

pub use batches::{AugmentedBatches, Batch, BatchOptions};
pub use blur::{BlurFlavour, BlurParams, GaussianBlur};
pub use cascade::{
    BinaryOperators, BinaryParams, Morphology, RemoveComponent, RemoveParams, append_previous_stage,
};
pub use elastic::{ElasticParams, scale_to, smooth};
pub use error::AugmentError;
pub use filters::{MedianFilter, MedianParams, Sharpen, SharpenParams};
pub use flips::{Mirror, MirrorParams, Rot90, Rot90Params, Transpose, TransposeParams};
pub use intensity::{
    AdditiveBrightness, AdditiveBrightnessParams, Brightness, BrightnessParams, Contrast, ContrastParams,
    Gamma, GammaFlavour, GammaParams, GaussianNoise, NoiseParams,
};
pub use local::{
    BlankRectangles, BrightnessGradient, GradientParams, LocalGamma, LocalGammaParams, LocalKernel,
    Rectangle, RectanglesParams,
};
pub use low_resolution::{LowResolution, LowResolutionFlavour, LowResolutionParams};
pub use patch::{Layout, Patch, Source};
pub use pipeline::{AugmentStep, Augmented, Op, Params, Pipeline, PipelineParams};
pub use presets::{Augmentation, PipelineOptions};
pub use random::{Draw, PatchRng};
pub use sampler::{CaseError, Cases, ClassSummary, Demand, Oversampling, choose_corner, corner_range};
pub use spatial::{Displacement, Elastic, Spatial, SpatialFlavour, SpatialParams, enlarged_patch};
pub use target::{MaskOutside, Target, TargetOptions, TargetValues, downsample_labels, remove_outside};
