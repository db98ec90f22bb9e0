//! Convolutions of bf16 on tiles: the matrix units of Intel's server CPUs (AMX).
//!
//! Maps are channels last, `[n, z, y, x, c]`, in bf16. What shaped everything here: in a packed block of rows with its zeros
//! around, the taps along x and the channels are one run of values for every output voxel, and 16 voxels one behind the other are
//! the rows of a tile. So a convolution is a list of addresses, for any kernel, stride and number of channels, and nothing is
//! gathered. A job packs the planes that its outputs read into a ring that stays in the second-level cache, normalised, activated
//! and rounded once; sums leave the tiles in f32, are counted for the next normalisation, and are rounded as they are written.
//!
//! Stable Rust has no intrinsics for tiles but has inline assembly, which needs none: [`leaf`] holds all of it. Results are the
//! same bytes for any number of threads. Every operation has a plain twin called `*_reference`.

mod conv;
mod cut;
mod frame;
mod gradients;
#[cfg(target_arch = "x86_64")]
mod leaf;
#[cfg(not(target_arch = "x86_64"))]
#[path = "tiles/absent.rs"]
mod leaf;
mod maps;
mod outer;
mod outer_cut;
mod pack;
mod peak;
mod reference;
pub(crate) mod token;
mod upsample;
mod weights;

pub use conv::{TileCall, TileOutput, tile_conv3d, tile_conv3d_backward_data};
pub use cut::{tile_conv3d_backward_data_scratch, tile_conv3d_scratch, tile_upsampling_fits};
pub use gradients::{
    TileNormCall, tile_activation_backward, tile_avg_pool_backward, tile_bias_gradient, tile_give,
    tile_norm_backward, tile_scale_channels,
};
pub use maps::{
    TileBranch, bf16_values, bf16_view, bf16_view_mut, tile_add_activate, tile_avg_pool, tile_from_planar,
    tile_to_planar,
};
pub use outer::tile_conv3d_backward_weights;
pub use outer_cut::tile_conv3d_backward_weights_scratch;
pub use pack::{TileInput, TileSource, TileUpsampling};
pub use peak::measure_tile_peak;
pub use reference::{
    tile_conv3d_backward_data_reference, tile_conv3d_backward_weights_reference, tile_conv3d_reference,
    tile_transposed_reference,
};
pub use token::{Amx, TILES_VARIABLE};
pub use upsample::{tile_transposed, tile_transposed_scratch};
pub use weights::PackedTiles;
