//! What computes a network: one trait, an engine per device and precision.
//!
//! An engine owns its memory, its prepared weights and its times; nothing here belongs to the process, so two engines with
//! different settings work side by side. What a program needs is known before its first step ([`MemoryPlan`]).
//!
//! The trait as later engines see it: [`Engine::prepare`] is where a device makes its plans, captures its launches and takes its
//! arena; [`Engine::load`] and [`Engine::parameters`] move the truth on disk to and from it; [`Engine::step`] and
//! [`Engine::evaluate`] keep logits, loss and overlap on the device and bring back numbers.

mod bf16;
mod choice;
mod cpu;
pub mod cuda;
mod device;
mod interface;
mod memory;
mod norm;
mod reference;
mod shared;
mod state;

pub use bf16::Bf16Engine;
pub use choice::EngineChoice;
pub use cpu::CpuEngine;
pub use device::{Device, Kernels, Precision};
pub use interface::{Engine, Evaluation, LayerTime, Logits, StepReport, Update};
pub use memory::MemoryPlan;
pub use reference::{ReferenceEngine, Rounding};
