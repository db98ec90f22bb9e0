//! What joins plans, trainings, predictions and scores: readiness for a training, cross-validation, calibration of saved
//! probabilities.

pub mod calibration;
pub mod crossval;
pub mod postprocessing;
pub mod ready;
