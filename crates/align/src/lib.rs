//! Registration: where a point of one image lies in another.
//!
//! [`register`] finds the rigid (or affine) transform that makes the mutual information of two images largest. It works in world
//! millimetres throughout, so that voxel sizes, orientations and shapes of the two images need not agree and nothing is reoriented.
//! World coordinates are ITK's: L, P and S are positive. A [`Transform`] takes a point of the fixed image to the point of the
//! moving image, which is what resampling the moving image onto the fixed one asks for, and what ITK and ANTs keep in files.
//!
//! There is no randomness, and sums have one order: the result is the same bytes for any number of threads. Left out: anything that
//! is not linear, and masks. A mask around the fixed brain makes matters worse, since air and skull say where the head ends.

mod descent;
mod error;
mod information;
mod motion;
mod pyramid;
mod register;
mod samples;
pub mod transform;

pub use error::AlignError;
pub use pyramid::Pyramid;
pub use register::{Freedom, Registration, RegistrationOptions, information_at, register};
pub use transform::Transform;
