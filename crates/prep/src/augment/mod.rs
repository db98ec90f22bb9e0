//! Training-time augmentation of patches, as nnU-Net does it.

mod blur;
mod elastic;
mod error;
mod flips;
mod intensity;
mod low_resolution;
mod math;
mod patch;
mod random;
mod spatial;
mod spline;
mod target;
mod warp;

pub use blur::{BlurFlavour, BlurParams, GaussianBlur};
pub use elastic::{ElasticParams, scale_to, smooth};
pub use error::AugmentError;
pub use flips::{Mirror, MirrorParams, Rot90, Rot90Params, Transpose, TransposeParams};
pub use intensity::{
    AdditiveBrightness, AdditiveBrightnessParams, Brightness, BrightnessParams, Contrast, ContrastParams,
    Gamma, GammaFlavour, GammaParams, GaussianNoise, NoiseParams,
};
pub use low_resolution::{LowResolution, LowResolutionFlavour, LowResolutionParams};
pub use patch::{Layout, Patch, Source};
pub use random::{Draw, PatchRng};
pub use spatial::{Displacement, Elastic, Spatial, SpatialFlavour, SpatialParams, enlarged_patch};
pub use target::{MaskOutside, Target, TargetOptions, TargetValues, downsample_labels, remove_outside};

/// Which augmentation a network is trained with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Augmentation {
    /// nnU-Net v2's default.
    Default,
    /// nnU-Net v2's `nnUNetTrainerDA5`.
    Da5,
    /// The BraTS 2021 winner's (nnU-Net v1's `nnUNetTrainerV2_DA4` as the winner configured it).
    Da4,
    /// Centre crops as they are.
    None,
}

impl Augmentation {
    /// The names on the command line, in the order of the variants.
    pub const WORDS: [&str; 4] = ["default", "da5", "da4", "none"];
}
