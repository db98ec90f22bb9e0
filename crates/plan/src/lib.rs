//! nnU-Net's dataset description and plans, read and checked.
//!
//! [`Dataset`] is a `dataset.json`, [`Plans`] a `plans.json` of nnU-Net v2 (also of the early 2.x format), and
//! [`Configuration`] one of its configurations with `inherits_from` resolved. Both keep the whole JSON next to the
//! checked fields, so that keys this program does not know survive. The decision that shaped the crate: every value
//! is fetched through its path (`configurations.3d_fullres.patch_size`), so every error can name file, key, what was
//! found and what is valid. A configuration is checked when it is asked for: a broken one next to it does not matter.

mod architecture;
pub mod brats;
mod configuration;
mod convention;
mod dataset;
mod error;
mod fingerprint;
mod groups;
mod integrity;
mod json;
mod made;
pub mod matching;
mod memory;
pub mod names;
pub mod number;
mod planner;
mod plans;
mod raw;
mod reader;
mod recoding;
pub mod record;
mod sources;
mod splits;
mod steps;
mod v1;

pub use architecture::{
    Architecture, ArchitectureKind, AttentionPlace, AxialAttention, Dropout, GenericUNet, Nonlin, Norm,
    NormKind,
};
pub use configuration::{Configuration, InterpolationMode, Normalization, Resampling, ResamplingFn, Rules};
pub use convention::{Convention, Evidence, TumourParts};
pub use dataset::{Dataset, Described, Label, Labels, Region, canonical_channel};
pub use error::PlanError;
pub use fingerprint::{Fingerprint, FingerprintSources, IgnoreLabel};
pub use groups::{case_groups, case_size};
pub use integrity::{
    CaseDigest, IntegrityReport, Problem, Severity, Twin, check_dataset, header_errors, twins,
};
pub use json::{parse_json, read_json};
pub use made::{Making, make_dataset};
pub use memory::{free_memory, memory_budget};
pub use planner::{Attempt, MovedPlans, PlanOptions, Planned, Planner, plan};
pub use plans::{ForegroundIntensities, Plans};
pub use raw::{RawCase, RawDataset, ReadCase, odd_images, preprocessed_folder, results_folder};
pub use reader::ImageReader;
pub use recoding::{OutputLabels, Recoding, differing_labels, meaning, other_labels, write_description};
pub use sources::{SourceFile, sha256};
pub use splits::{Fold, Splits};
pub use steps::{Neighbours, PostprocessingStep};
pub use v1::{V1Converted, V1Model, V1Trainer};
