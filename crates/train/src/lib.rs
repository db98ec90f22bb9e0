//! Training: from prepared cases to a result folder that [`predict`](glioseg_infer::predict) reads.
//!
//! [`Settings`] say how, [`Setup`] gathers and checks everything, [`train`] runs. The one decision that shaped it: nothing that
//! a training does depends on the clock or the number of threads (but for `--budget`, which is the clock's), and all
//! randomness follows from seed, epoch and iteration; so a training that was stopped at any moment resumes bit for bit.
//!
//! Left out: several machines.

mod cascade;
mod chart;
mod error;
mod estimate;
mod online;
mod pretrained;
mod run;
mod settings;
mod setup;
mod state;
mod tensorboard;
mod validation;

pub use error::TrainError;
pub use estimate::Estimate;
pub use run::{Event, TrainOptions, TrainOutcome, Trained, train};
pub use settings::{LossSettings, Sampling, Settings, Supervision};
pub use setup::{FoldChoice, Places, Setup};
pub use state::{EpochRecord, Progress, StartedWith, saved_settings};
pub use validation::FOLDER as VALIDATION_FOLDER;
