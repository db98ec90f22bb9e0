//! What can go wrong with an image in memory, and what to do about it.

use glioseg_diagnose::Diagnose;

/// An image that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The affine squeezes space flat, or holds NaN.
    #[error("the affine is singular: [{:?}, {:?}, {:?}]", rows[0], rows[1], rows[2])]
    SingularAffine {
        /// The affine's rows.
        rows: [[f64; 4]; 3],
    },
    /// An array whose length is not that of its shape.
    #[error("{found} values for {channels} channels of shape {shape:?}, which need {expected}")]
    Length {
        /// Channels.
        channels: usize,
        /// z, y, x.
        shape: [usize; 3],
        /// Values needed.
        expected: usize,
        /// Values given.
        found: usize,
    },
}

impl Diagnose for VolumeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::SingularAffine { .. } => Some(
                "set a valid sform or qform in the header, for example by copying it from another channel of the case"
                    .to_owned(),
            ),
            Self::Length { .. } => None,
        }
    }
}

/// Voxels that are NaN or infinite.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error(
    "{count} voxels of {total} that are not finite, the first ({value}) in channel {channel} at z, y, x = {position:?}"
)]
pub struct NotFinite {
    /// How many voxels.
    pub count: usize,
    /// Of how many.
    pub total: usize,
    /// Channel of the first.
    pub channel: usize,
    /// Its voxel, z, y, x.
    pub position: [usize; 3],
    /// Its value.
    pub value: f32,
}
