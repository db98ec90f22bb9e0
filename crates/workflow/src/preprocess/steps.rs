//! One study: registered, masked, resampled once, written.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use glioseg_align::{Pyramid, Registration, RegistrationOptions, Transform, register};
use glioseg_formats::{atomic, nifti};
use glioseg_infer::Watch;
use glioseg_plan::record::CaseStatus;
use glioseg_volume::resample::affine;
use glioseg_volume::{Geometry, LabelMap, Volume};
use rayon::prelude::*;

use super::brain::{Brain, OnTheWay};
use super::checks::{Placed, checks, volume_ml};
use super::error::PreprocessError;
use super::record::{ChannelRecord, Check, StudyRecord, Verdict, four_rows};
use super::space::{Target, index_map};
use super::study::{Channel, Study};
use super::{Names, PreprocessOptions};

/// Folder of the transforms in the output folder.
pub const TRANSFORMS: &str = "transforms";

/// Header positions that are turned by more degrees than this, or overlap by less, are looked for more widely.
const DOUBTFUL_DEGREES: f64 = 45.0;
const DOUBTFUL_OVERLAP: f64 = 0.5;
/// An image with more zeros than this part was masked.
const MASKED: f64 = 0.4;

/// What stays the same for all studies of a batch.
pub(super) struct Workshop<'a> {
    pub(super) options: &'a PreprocessOptions,
    pub(super) target: &'a Target,
    pub(super) template: Option<Pyramid<'a>>,
    /// The template's brain on the grid of the space.
    pub(super) template_brain: Option<Vec<bool>>,
    pub(super) brain: Brain,
    pub(super) out: &'a Path,
}

/// Whoever hears of the steps, and may stop between them.
pub(super) struct Follow<'a> {
    pub(super) watch: Watch<'a>,
    pub(super) tell: &'a (dyn Fn(&'static str) + Sync),
}

impl Follow<'_> {
    fn step(&self, name: &'static str) -> Result<(), PreprocessError> {
        if self.watch.is_stopped() {
            return Err(PreprocessError::Stopped);
        }
        (self.tell)(name);
        Ok(())
    }
}

/// A study registered to the space.
struct Registered {
    from_centre: Vec<Option<Registration>>,
    to_template: Option<Registration>,
    /// From a point of the space to that of each channel.
    to_channels: Vec<Transform>,
}

impl Workshop<'_> {
    /// Prepares a study and writes its files; the record of what was done.
    ///
    /// # Errors
    /// [`PreprocessError`]; with `--strict` also where a check fails, before anything is written.
    pub(super) fn prepare(&self, study: &Study, follow: &Follow<'_>) -> Result<StudyRecord, PreprocessError> {
        let start = Instant::now();
        let mut record = StudyRecord::failed(&study.id, String::new(), None);
        (record.error, record.status) = (None, CaseStatus::Done);
        study.centre().name().clone_into(&mut record.center);
        record.warnings.clone_from(&study.warnings);
        let grid = self.target.grid.clone().unwrap_or_else(|| study.centre().volume.geometry.clone());
        if self.is_there(study, &grid) {
            follow.step("copying")?;
            record.unchanged = true;
            record.warnings.push(format!("already in the space {}: copied", self.options.space.name()));
            for channel in &study.channels {
                let written = self.write_channel(study, channel, &channel.volume)?;
                record.channels.push(channel_record(channel, written, &Transform::IDENTITY, None));
            }
            self.write_transforms(study, &vec![Transform::IDENTITY; study.channels.len()], None)?;
            record.seconds = seconds(start);
            return Ok(record);
        }
        let pyramids = study.channels.par_iter().map(|channel| {
            Pyramid::new(&channel.volume.data, &channel.volume.geometry)
                .map_err(|source| PreprocessError::Image { path: channel.path.clone(), source })
        });
        let pyramids = pyramids.collect::<Result<Vec<_>, _>>()?;
        follow.step("registering")?;
        let registered = self.register(study, &pyramids);
        follow.step("finding the brain")?;
        let on = OnTheWay { study, grid: &grid, to_channels: &registered.to_channels };
        let mask = self.brain.mask(&on, &follow.watch)?;
        follow.step("checking")?;
        record.checks = checks(&Placed {
            study,
            pyramids: &pyramids,
            from_centre: &registered.from_centre,
            to_template: registered.to_template.as_ref(),
            to_channels: &registered.to_channels,
            grid: &grid,
            mask: mask.as_deref(),
            template_brain: self.template_brain.as_deref(),
        });
        drop(pyramids);
        self.judge(&record.checks)?;
        follow.step("resampling")?;
        for (i, channel) in study.channels.iter().enumerate() {
            let moved = self.resample(channel, &registered.to_channels[i], &grid, mask.as_deref())?;
            let written = self.write_channel(study, channel, &moved)?;
            let found = registered.from_centre[i].as_ref().or(registered.to_template.as_ref());
            record.channels.push(channel_record(channel, written, &registered.to_channels[i], found));
        }
        self.write_transforms(study, &registered.to_channels, Some(&registered.from_centre))?;
        if let Some(mask) = mask {
            record.brain_ml = Some((volume_ml(&mask, &grid) * 1000.0).round() / 1000.0);
            let labels = LabelMap::new(mask.iter().map(|&m| u16::from(m)).collect(), grid)?;
            nifti::write_labels(&self.out.join(self.options.names.mask(&study.id)), &labels)?;
        }
        record.seconds = seconds(start);
        Ok(record)
    }

    /// Whether all channels lie on the grid of the space, masked.
    fn is_there(&self, study: &Study, grid: &Geometry) -> bool {
        self.target.grid.is_some()
            && study.channels.iter().all(|channel| {
                let grids = grid.same_grid(&channel.volume.geometry);
                let zeros = channel.volume.data.iter().filter(|&&v| v == 0.0).count();
                grids.same_lattice()
                    && grids.same_position()
                    && zeros as f64 > MASKED * channel.volume.data.len() as f64
            })
    }

    fn register(&self, study: &Study, pyramids: &[Pyramid<'_>]) -> Registered {
        let centre = &pyramids[study.centre];
        let trusted = |i: usize| study.channels[i].oriented && study.centre().oriented;
        let from_centre: Vec<Option<Registration>> = (0..pyramids.len())
            .into_par_iter()
            .map(|i| (i != study.centre).then(|| carefully(centre, &pyramids[i], trusted(i))))
            .collect();
        let to_template = self.template.as_ref().map(|t| carefully(t, centre, study.centre().oriented));
        let to_centre = match (&to_template, &self.target.template) {
            (Some(found), Some(template)) => found.transform.after(&template.from_space),
            _ => Transform::IDENTITY,
        };
        let to_channels = from_centre
            .iter()
            .map(|found| found.as_ref().map_or(to_centre, |found| found.transform.after(&to_centre)))
            .collect();
        Registered { from_centre, to_template, to_channels }
    }

    /// An error if a check fails and the preparation is strict.
    fn judge(&self, checks: &[Check]) -> Result<(), PreprocessError> {
        let failed = checks.iter().filter(|c| c.verdict == Verdict::Fail).map(|c| c.message.clone());
        let failed: Vec<String> = failed.collect();
        if self.options.strict && !failed.is_empty() {
            return Err(PreprocessError::Checks { failed });
        }
        Ok(())
    }

    /// The channel on the grid of the space, 0 outside the brain.
    fn resample(
        &self,
        channel: &Channel,
        to_channel: &Transform,
        grid: &Geometry,
        mask: Option<&[bool]>,
    ) -> Result<Volume, PreprocessError> {
        let (data, from) = (&channel.volume.data, &channel.volume.geometry);
        let map = index_map(grid, to_channel, from);
        let mut values = affine(data, from.shape, grid.shape, &map, self.options.interpolation);
        if channel.whole {
            for value in &mut values {
                *value = value.round_ties_even();
            }
        }
        if let Some(mask) = mask {
            for (value, _) in values.iter_mut().zip(mask).filter(|(_, inside)| !**inside) {
                *value = 0.0;
            }
        }
        Ok(Volume::new(1, values, grid.clone())?)
    }

    /// Writes a channel; the name of its file.
    fn write_channel(
        &self,
        study: &Study,
        channel: &Channel,
        volume: &Volume,
    ) -> Result<PathBuf, PreprocessError> {
        let name = PathBuf::from(self.options.names.channel(&study.id, channel.index));
        let path = self.out.join(&name);
        if channel.whole {
            nifti::write_whole_volume(&path, volume)?;
        } else {
            nifti::write_volume(&path, volume)?;
        }
        Ok(name)
    }

    /// Writes the transforms: of every channel to the space, and of every other channel to the centre.
    fn write_transforms(
        &self,
        study: &Study,
        to_channels: &[Transform],
        from_centre: Option<&[Option<Registration>]>,
    ) -> Result<(), PreprocessError> {
        let folder = self.out.join(TRANSFORMS);
        std::fs::create_dir_all(&folder)
            .map_err(|source| PreprocessError::Output { path: folder.clone(), source })?;
        let write = |name: String, transform: &Transform| -> Result<(), PreprocessError> {
            atomic::write(&folder.join(format!("{name}.mat")), |file| file.write_all(&transform.to_mat()))?;
            let text = transform.to_tfm();
            atomic::write(&folder.join(format!("{name}.tfm")), |file| file.write_all(text.as_bytes()))?;
            Ok(())
        };
        let (id, centre) = (&study.id, study.centre().name());
        for (i, channel) in study.channels.iter().enumerate() {
            let name = channel.name();
            write(format!("{id}-{name}_to_{}", self.options.space.name()), &to_channels[i])?;
            if let Some(found) = from_centre.and_then(|all| all[i].as_ref()) {
                write(format!("{id}-{name}_to_{centre}"), &found.transform)?;
            }
        }
        Ok(())
    }
}

impl Names {
    /// File name of a channel.
    pub(super) fn channel(self, case: &str, index: usize) -> String {
        match self {
            Self::Brats2023 => format!("{case}-{}.nii.gz", super::study::CHANNELS[index]),
            Self::Brats2021 => format!("{case}_{}.nii.gz", super::study::CHANNELS_2021[index]),
        }
    }

    /// File name of the brain mask.
    pub(super) fn mask(self, case: &str) -> String {
        match self {
            Self::Brats2023 => format!("{case}-mask.nii.gz"),
            Self::Brats2021 => format!("{case}_mask.nii.gz"),
        }
    }
}

/// Registers, and searches widely where the headers are not to be trusted or the result is doubtful.
fn carefully(fixed: &Pyramid<'_>, moving: &Pyramid<'_>, trusted: bool) -> Registration {
    let narrow = register(fixed, moving, &RegistrationOptions::default());
    let doubtful = narrow.information < narrow.information_before - 1e-3
        || narrow.transform.angle_degrees() > DOUBTFUL_DEGREES
        || narrow.overlap < DOUBTFUL_OVERLAP;
    if trusted && !doubtful {
        return narrow;
    }
    let wide = register(fixed, moving, &RegistrationOptions { wide: true, ..RegistrationOptions::default() });
    let evaluations = narrow.evaluations + wide.evaluations;
    let best = if wide.information > narrow.information { wide } else { narrow };
    Registration { evaluations, ..best }
}

fn channel_record(
    channel: &Channel,
    output: PathBuf,
    transform: &Transform,
    found: Option<&Registration>,
) -> ChannelRecord {
    let rounded = |v: f64| (v * 1e5).round() / 1e5;
    ChannelRecord {
        channel: channel.name().to_owned(),
        file: channel.path.clone(),
        sha256: channel.sha256.clone(),
        output,
        transform: four_rows(transform),
        information: found.map(|r| [rounded(r.information_before), rounded(r.information)]),
        evaluations: found.map_or(0, |r| r.evaluations),
    }
}

fn seconds(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}
