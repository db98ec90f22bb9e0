//! U-Net modules and their weights on Burn, and the bridge to our own kernels.
//!
//! [`NetworkSpec`] says what a network is made of, [`Unet`] is that network on a device, [`Checkpoint`] reads
//! weights and metadata from nnU-Net's `.pth` or from safetensors, [`Unet::load_weights`] joins the two.
//!
//! ```
//! use glioseg_net::{Device, NetworkSpec, Tensor, Unet};
//!
//! let device = Device::flex();
//! let spec = NetworkSpec::plain(4, 3, &[(8, [3; 3], [1; 3]), (16, [3; 3], [2; 3])]);
//! let net = Unet::new(&spec, &device)?;
//! let logits = net.forward(Tensor::zeros([1, 4, 8, 16, 8], &device));
//! assert_eq!(logits.dims(), [1, 3, 8, 16, 8]);
//! # Ok::<(), glioseg_net::NetError>(())
//! ```
//!
//! Everything that computes goes through [`ops`]. What nnU-Net's files hold beside tensors comes back as plain data;
//! reading one never runs code from it.

mod attention;
mod bridge;
pub mod checkpoint;
mod cost;
mod error;
mod init;
pub mod loss;
pub mod ops;
pub mod optimiser;
mod spec;
mod step;
mod unet;
mod weights;

pub use bridge::{
    Kernels, LayerTime, Packed, kernels, packed_bytes, profile_layers, release_memory, set_kernels,
    set_packed_budget, take_layer_times,
};
pub use burn::module::Module;
pub use burn::tensor::{Device, Gradients, Tensor, TensorData};
pub use checkpoint::Checkpoint;
pub use error::NetError;
pub use init::mix;
pub use spec::{
    AttentionSpec, BlockKind, Dims, Naming, NetworkSpec, NormKind, NormSpec, StageSpec, StepSpec,
    decoder_like_encoder,
};
pub use step::{StepOptions, StepReport, training_step};
pub use unet::Unet;
