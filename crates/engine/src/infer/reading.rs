//! A case from its files to what every model's network takes.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Instant;

use glioseg_formats::{FormatError, nifti};
use glioseg_prep::guard::ChannelCheck;
use glioseg_prep::{PreparedCase, preprocess_case};
use glioseg_volume::{Geometry, Volume};

use super::InferError;
use super::flags::ImageFacts;
use crate::cases::CaseFiles;
use crate::model::Model;

/// A case that is read and prepared for every model.
pub(super) struct Ready {
    pub(super) files: CaseFiles,
    pub(super) channels: ChannelCheck,
    pub(super) geometry: Geometry,
    pub(super) prepared: Vec<Arc<PreparedCase>>,
    pub(super) image: ImageFacts,
    pub(super) warnings: Vec<String>,
    pub(super) read_seconds: f64,
}

/// A case that failed, at whatever step.
pub(super) struct Failure {
    pub(super) files: CaseFiles,
    pub(super) error: Box<InferError>,
}

/// Reads and prepares one case after the other.
pub(super) fn read_cases(
    cases: Vec<CaseFiles>,
    models: &[Model],
    strict: bool,
    queue: &SyncSender<Result<Ready, Failure>>,
) {
    for files in cases {
        let ready =
            read_case(&files, models, strict).map_err(|error| Failure { files, error: Box::new(error) });
        if queue.send(ready).is_err() {
            return;
        }
    }
}

/// Reads the channels of a case in parallel; they must share one grid and be finite. If `strict` they must also look like their names.
fn read_channels(
    files: &CaseFiles,
    channels: &[String],
    strict: bool,
) -> Result<(Volume, ChannelCheck, Vec<String>), InferError> {
    let (volume, infos) = nifti::read_stack(&files.files)?;
    if volume.channels != channels.len() {
        return Err(InferError::Channels {
            path: files.files[0].clone(),
            expected: channels.to_vec(),
            found: volume.channels,
        });
    }
    let file_of: Vec<&Path> = files
        .files
        .iter()
        .zip(&infos)
        .flat_map(|(path, info)| std::iter::repeat_n(path.as_path(), info.channels))
        .collect();
    volume
        .check_finite()
        .map_err(|found| FormatError::NotFinite { path: file_of[found.channel].into(), found })?;
    let mut warnings = Vec::new();
    for (path, info) in files.files.iter().zip(&infos).skip(1) {
        let grids = infos[0].geometry.same_grid(&info.geometry);
        if !(grids.origin && grids.direction) {
            warnings.push(format!(
                "the {} of {} differs from that of {}; voxels are taken to correspond",
                if grids.origin { "direction" } else { "origin" },
                path.display(),
                files.files[0].display()
            ));
        }
    }
    for (i, channel) in channels.iter().enumerate() {
        let values = volume.channel(i);
        if values.iter().all(|v| v.to_bits() == values[0].to_bits()) {
            warnings.push(format!(
                "channel `{channel}` is {} everywhere ({})",
                values[0],
                file_of[i].display()
            ));
        }
    }
    let check = ChannelCheck::of_volume(&volume, channels);
    let doubts = check.messages(channels, &file_of);
    if strict && !doubts.is_empty() {
        return Err(InferError::DoubtfulChannels { doubts, path: files.files[0].clone() });
    }
    warnings.extend(doubts);
    Ok((volume, check, warnings))
}

/// Whether two models prepare a case in the same way.
fn prepares_alike(a: &Model, b: &Model) -> bool {
    let (x, y) = (&a.configuration, &b.configuration);
    a.plans.transpose_forward() == b.plans.transpose_forward()
        && x.rules == y.rules
        && a.plans.foreground_intensities() == b.plans.foreground_intensities()
        && x.spacing == y.spacing
        && x.normalization == y.normalization
        && x.use_mask_for_norm == y.use_mask_for_norm
        && x.resampling_data == y.resampling_data
}

fn read_case(files: &CaseFiles, models: &[Model], strict: bool) -> Result<Ready, InferError> {
    let start = Instant::now();
    let (volume, channels, warnings) = read_channels(files, &models[0].dataset.channel_names, strict)?;
    let geometry = volume.geometry.clone();
    let image = ImageFacts::of(&volume);
    let mut volume = Some(volume);
    let mut prepared: Vec<Arc<PreparedCase>> = Vec::with_capacity(models.len());
    for (i, model) in models.iter().enumerate() {
        if let Some(same) = models[..i].iter().position(|other| prepares_alike(other, model)) {
            prepared.push(Arc::clone(&prepared[same]));
            continue;
        }
        // The image is copied only where a later model prepares it in another way.
        let later =
            (i + 1..models.len()).any(|j| !models[..=i].iter().any(|m| prepares_alike(m, &models[j])));
        let image = if later { volume.clone() } else { volume.take() };
        let image = image.expect("the image is kept until the last preparation");
        prepared.push(Arc::new(preprocess_case(image, &model.plans, &model.configuration)?));
    }
    Ok(Ready {
        files: files.clone(),
        channels,
        geometry,
        prepared,
        image,
        warnings,
        read_seconds: start.elapsed().as_secs_f64(),
    })
}
