//! What joins plans, trainings, predictions and scores: raw scans brought to the space of BraTS, readiness for a training,
//! cross-validation, calibration of saved probabilities.

pub mod calibration;
pub mod crossval;
pub mod postprocessing;
pub mod preprocess;
pub mod ready;
