//! Fast 3D kernels on plain slices; all the unsafe code of the project.
//!
//! Tensors are contiguous f32 slices `[n, c, d, h, w]`. Each operation has a slow, readable twin called `*_reference`,
//! which is its specification, and runs on the best instruction set of the machine ([`Cpu::detect`]). Work is split over
//! rayon's global pool by the shape alone, so results are the same bits for any number of threads.
//!
//! ```
//! use glioseg_kernels::{Algorithm, ConvShape, Cpu, PackedConv, Source, conv3d};
//!
//! let cpu = Cpu::detect()?;
//! let shape = ConvShape::same(1, 1, 1, [3, 3, 3], [3, 3, 3], [1, 1, 1]);
//! let weights = PackedConv::new(cpu, &shape, &[1.0; 27], Algorithm::Auto);
//! let mut out = vec![0.0; shape.out_len()];
//! let mut scratch = vec![0.0; PackedConv::scratch(cpu, &shape, Algorithm::Auto).lent];
//! conv3d(&shape, &[Source::plain(&[1.0; 27], 1)], &weights, None, &mut out, None, &mut scratch);
//! assert_eq!(out[13], 27.0); // the middle voxel sees all 27
//! assert_eq!(out[0], 8.0); // a corner sees 8, the rest is padding
//! # Ok::<(), glioseg_kernels::KernelError>(())
//! ```

mod axial;
mod backward;
mod buffer;
mod conv3d;
mod error;
mod isa;
mod norm;
mod peak;
mod pool;
mod scratch;
mod source;
mod stats;
#[doc(hidden)]
pub mod testing;
mod tiles;
mod transposed;
mod upsampled;

pub use axial::{
    AxialCall, AxialGradients, AxialOutput, AxialShape, AxialWeights, Positions, axial_attention,
    axial_attention_backward, axial_attention_reference, position_gradients,
};
pub use backward::data::{PackedBackwardData, conv3d_backward_data, conv3d_backward_data_reference};
pub use backward::norm::{NormCall, NormGradients, norm_backward, norm_backward_reference};
pub use backward::weights::{
    backward_weights_scratch, bias_gradient, conv3d_backward_weights, conv3d_backward_weights_by,
    conv3d_backward_weights_reference,
};
pub use buffer::{Arena, buffer_bytes, return_freed_memory, trim_freed_memory, zeroed_tensor};
pub use conv3d::{Algorithm, ConvShape, PackedConv, conv3d, conv3d_reference};
pub use error::KernelError;
pub use isa::{Cpu, ISA_VARIABLE, Level, vectorised};
pub use norm::{
    Moments, NormKind, ScaleShift, add_activate, channel_stats, norm_reference, normalize, normalize_in_place,
};
pub use peak::measure_peak;
pub use pool::{avg_pool3d, avg_pool3d_backward};
pub use scratch::Scratch;
pub use source::{Prologue, Source};
pub use stats::ChannelStats;
pub use tiles::{
    Amx, PackedTiles, TILES_VARIABLE, TileBranch, TileCall, TileInput, TileNormCall, TileOutput, TileSource,
    TileUpsampling, bf16_values, bf16_view, bf16_view_mut, measure_tile_peak, tile_activation_backward,
    tile_add_activate, tile_avg_pool, tile_avg_pool_backward, tile_bias_gradient, tile_conv3d,
    tile_conv3d_backward_data, tile_conv3d_backward_data_reference, tile_conv3d_backward_data_scratch,
    tile_conv3d_backward_weights, tile_conv3d_backward_weights_reference,
    tile_conv3d_backward_weights_scratch, tile_conv3d_reference, tile_conv3d_scratch, tile_from_planar,
    tile_give, tile_norm_backward, tile_scale_channels, tile_to_planar, tile_transposed,
    tile_transposed_reference, tile_transposed_scratch, tile_upsampling_fits,
};
pub use transposed::{PackedTransposed, TransposedShape, conv_transpose3d, conv_transpose3d_reference};
pub use upsampled::{UpsampledCall, Upsampling, conv3d_upsampled};
