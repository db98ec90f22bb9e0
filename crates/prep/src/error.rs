//! What can be wrong with a case that is preprocessed.

use glioseg_diagnose::{Diagnose, gib};

/// Why a case could not be preprocessed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PrepError {
    /// The image has another number of channels than the plan.
    #[error(
        "the image has {found} channels, but configuration `{configuration}` of the plans is for {expected}"
    )]
    Channels {
        /// Channels of the image.
        found: usize,
        /// Channels of the configuration.
        expected: usize,
        /// The configuration.
        configuration: String,
    },
    /// The array does not hold the channels it is said to hold.
    #[error("{len} values are not {channels} channels of {shape:?} voxels")]
    Length {
        /// Number of values.
        len: usize,
        /// Channels.
        channels: usize,
        /// Voxels along z, y, x.
        shape: [usize; 3],
    },
    /// A spacing that is not a length.
    #[error("the image has spacing {spacing_mm:?} mm; every spacing must be above 0")]
    Spacing {
        /// The spacing, z, y, x.
        spacing_mm: [f64; 3],
    },
    /// The grid of the plan would have absurdly many voxels.
    #[error(
        "resampling {shape:?} voxels of {spacing_mm:?} mm to {target_mm:?} mm would give {new_shape:?} voxels, more than \
         {limit}"
    )]
    TooLarge {
        /// Voxels of the cropped image, transposed.
        shape: [usize; 3],
        /// Its spacing, transposed.
        spacing_mm: [f64; 3],
        /// The plan's spacing.
        target_mm: [f64; 3],
        /// Voxels it would have.
        new_shape: [usize; 3],
        /// The most voxels a channel may have.
        limit: usize,
    },
    /// There is less free memory than the resampled case needs.
    #[error(
        "resampled to {new_shape:?} voxels the case needs {:.2} GiB of memory, but {:.2} GiB are free",
        gib(*needed), gib(*free)
    )]
    Memory {
        /// Voxels of the resampled case.
        new_shape: [usize; 3],
        /// Bytes needed.
        needed: u64,
        /// Bytes free.
        free: u64,
    },
    /// The plans have no foreground intensities for a channel that is normalised with them.
    #[error(
        "channel {channel} is normalised as CT, but the plans have foreground intensities for {known} channels only"
    )]
    NoIntensities {
        /// The channel.
        channel: usize,
        /// For how many channels there are intensities.
        known: usize,
    },
    /// A colour channel whose values are no bytes.
    #[error(
        "channel {channel} is normalised as a colour, but its values run from {min} to {max}, not from 0 to 255"
    )]
    NotRgb {
        /// The channel.
        channel: usize,
        /// Least value.
        min: f32,
        /// Greatest value.
        max: f32,
    },
    /// A label that the case store cannot hold.
    #[error("the label map holds {label}, but labels go up to 32767")]
    LabelTooLarge {
        /// The label.
        label: u16,
    },
    /// The plans resample the image, but not its label map.
    #[error("the plans resample images, but leave label maps as they are ({function})")]
    LabelResampling {
        /// nnU-Net's function.
        function: &'static str,
    },
}

impl Diagnose for PrepError {
    fn hint(&self) -> Option<String> {
        let hint = match self {
            PrepError::Channels { .. } => {
                "give the channels named in the model's dataset.json, and no others"
            }
            PrepError::Spacing { .. } | PrepError::TooLarge { .. } => {
                "check the voxel size in the image's header (pixdim of a NIfTI file, in mm)"
            }
            PrepError::Memory { .. } => {
                "close other programs or crop the image; if its voxel size in the header is wrong, correct that"
            }
            PrepError::NoIntensities { .. } => {
                "the key foreground_intensity_properties_per_channel of plans.json must have an entry for every channel"
            }
            PrepError::NotRgb { .. } => "a model for colour images needs 8-bit colour images",
            PrepError::LabelResampling { .. } => {
                "set resampling_fn_seg to resample_data_or_seg_to_shape in plans.json"
            }
            PrepError::LabelTooLarge { .. } => "number the labels without gaps, from 0",
            PrepError::Length { .. } => return None,
        };
        Some(hint.to_owned())
    }
}
