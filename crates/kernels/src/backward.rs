//! Gradients, for training.
//!
//! A transposed convolution with kernel = stride needs nothing of its own: its data gradient is [`conv3d`](crate::conv3d())
//! with that kernel and stride and the same weights (`[in, out, ...]` read as `[out, in, ...]`), and its weight gradient is
//! that convolution's, with the roles of input and output gradient exchanged: see
//! [`TransposedShape::gradient_shape`](crate::TransposedShape::gradient_shape).

pub(crate) mod data;
pub(crate) mod norm;
pub(crate) mod weights;
mod winograd;
