//! Inference and training.
