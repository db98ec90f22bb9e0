//! Networks as programs, the engines that run them, and their weights.
//!
//! [`NetworkSpec`] says what a network is made of, [`Program`] what is computed for a batch of a size, [`Parameters`] holds the
//! values, an [`Engine`] computes, [`Checkpoint`] reads weights and metadata from nnU-Net's `.pth` or from safetensors.
//!
//! ```
//! use std::sync::Arc;
//! use glioseg_net::{EngineChoice, Mode, NetworkSpec, Parameters, Program};
//!
//! let spec = NetworkSpec::plain(4, 3, &[(8, [3; 3], [1; 3]), (16, [3; 3], [2; 3])]);
//! let mut engine = EngineChoice::default().start()?;
//! let memory = engine.prepare(&Program::new(&spec, 1, [8, 16, 8], Mode::Predict)?)?;
//! engine.load(Arc::new(Parameters::random(&spec, 0)?))?;
//! let logits = engine.forward(&vec![0.0; 4 * 8 * 16 * 8])?;
//! assert_eq!(logits.heads[0].len(), 3 * 8 * 16 * 8);
//! assert!(memory.total() < 1 << 20);
//! # Ok::<(), glioseg_net::NetError>(())
//! ```
//!
//! What nnU-Net's files hold next to tensors comes back as plain data; reading one never runs code from it.

pub mod checkpoint;
mod curve;
pub mod engine;
mod error;
mod init;
mod loading;
pub mod loss;
pub mod networks;
pub mod optimiser;
mod parameters;
pub mod program;
mod shapes;
mod spec;

pub use checkpoint::Checkpoint;
pub use curve::Curve;
pub use engine::{
    Device, Engine, EngineChoice, Evaluation, Kernels, LayerTime, Logits, MemoryPlan, Precision, StepReport,
    Update,
};
pub use error::NetError;
pub use init::mix;
pub use parameters::Parameters;
pub use program::{Mode, Program};
pub use shapes::{Initial, ParameterId, ParameterShape};
pub use spec::{
    AttentionSpec, BlockKind, Dims, Naming, NetworkSpec, NormKind, NormSpec, StageSpec, StepSpec,
    decoder_like_encoder,
};
