//! What joins trained models, predictions and scores: cross-validation, and calibration of saved probabilities.

pub mod calibration;
pub mod crossval;
