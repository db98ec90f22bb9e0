//! A study as it was scanned: its images and what is odd about their headers.

use std::path::PathBuf;

use glioseg_formats::nifti;
use glioseg_infer::cases::StudyFiles;
use glioseg_plan::SourceFile;
use glioseg_volume::{Geometry, Volume};
use rayon::prelude::*;

use super::error::PreprocessError;

/// The channels of a study, in this order.
pub const CHANNELS: [&str; 4] = ["t1n", "t1c", "t2w", "t2f"];
/// Their names until BraTS 2022, in the same order.
pub(super) const CHANNELS_2021: [&str; 4] = ["t1", "t1ce", "t2", "flair"];

/// Forms of a header that differ by more than this, in mm, are worth a warning.
const FORMS_DIFFER_MM: f64 = 1.0;

/// One image of a study.
#[derive(Debug)]
pub(super) struct Channel {
    /// Which of [`CHANNELS`].
    pub(super) index: usize,
    pub(super) path: PathBuf,
    pub(super) sha256: String,
    pub(super) volume: Volume,
    /// Whether the file's voxels are whole numbers.
    pub(super) whole: bool,
    /// Whether the header says how the image lies.
    pub(super) oriented: bool,
    warnings: Vec<String>,
}

/// The images of a study.
#[derive(Debug)]
pub(super) struct Study {
    pub(super) id: String,
    pub(super) channels: Vec<Channel>,
    /// The channel among them that the others are registered to.
    pub(super) centre: usize,
    pub(super) warnings: Vec<String>,
}

impl Channel {
    pub(super) fn name(&self) -> &'static str {
        CHANNELS[self.index]
    }

    fn read(index: usize, path: PathBuf) -> Result<Self, PreprocessError> {
        let (mut volume, infos) = nifti::read_stack(&[&path])?;
        if volume.channels != 1 {
            return Err(PreprocessError::Series { path, count: volume.channels });
        }
        let sha256 = SourceFile::of(&path)?.sha256;
        let mut warnings: Vec<String> = infos[0].oddities.clone();
        if let [(_, count)] = volume.clear_not_finite()[..] {
            warnings.push(format!("NaN and infinite voxels count as 0: {count} of {}", volume.data.len()));
        }
        let oriented = infos[0].qform_code > 0 || infos[0].sform_code > 0;
        if !oriented {
            warnings.push(
                "the header does not say how the image lies (qform and sform are unset): left and right may be exchanged, which \
                 cannot be seen in the images"
                    .to_owned(),
            );
        }
        if let Some(distance) = forms_differ(&volume.geometry) {
            warnings.push(format!(
                "qform and sform place voxels up to {distance:.1} mm apart; {} is taken",
                if infos[0].sform_code > 0 { "the sform" } else { "the qform" }
            ));
        }
        let warnings = warnings.into_iter().map(|w| format!("{}: {w}", path.display())).collect();
        let whole = volume.data.iter().all(|v| v.fract() == 0.0);
        Ok(Self { index, path, sha256, volume, whole, oriented, warnings })
    }
}

/// The largest distance of a corner by qform and by sform, where it matters.
fn forms_differ(geometry: &Geometry) -> Option<f64> {
    let forms = geometry.forms();
    if forms.qform_code <= 0 || forms.sform_code <= 0 {
        return None;
    }
    let of = |keep_sform: bool| {
        let mut forms = forms.clone();
        if keep_sform {
            forms.qform_code = 0;
        } else {
            forms.sform_code = 0;
        }
        Geometry::from_forms(geometry.shape, forms).ok().map(|g| g.affine())
    };
    let (sform, qform) = (of(true)?, of(false)?);
    let [z, y, x] = geometry.shape.map(|n| n as f64 - 1.0);
    let distance = (0..8)
        .map(|i| {
            let end = |bit: i32, n: f64| if i & bit > 0 { n } else { 0.0 };
            let corner = [end(1, x), end(2, y), end(4, z)];
            let (a, b) = (sform.apply(corner), qform.apply(corner));
            (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f64>().sqrt()
        })
        .fold(0.0, f64::max);
    (distance > FORMS_DIFFER_MM).then_some(distance)
}

impl Study {
    /// Reads the images of a study in parallel.
    ///
    /// # Errors
    /// [`PreprocessError`] that names the file; with `strict` also for a header that does not say how the image lies.
    pub(super) fn read(
        files: &StudyFiles,
        centre: Option<&str>,
        strict: bool,
    ) -> Result<Self, PreprocessError> {
        let there: Vec<(usize, PathBuf)> =
            files.files.iter().enumerate().filter_map(|(i, f)| Some((i, f.clone()?))).collect();
        let channels = there.into_par_iter().map(|(i, path)| Channel::read(i, path));
        let mut channels = channels.collect::<Result<Vec<_>, _>>()?;
        if let Some(channel) = channels.iter().find(|c| strict && !c.oriented) {
            return Err(PreprocessError::Unoriented { path: channel.path.clone() });
        }
        let centre = centre_of(&channels, centre)?;
        let warnings = channels.iter_mut().flat_map(|c| std::mem::take(&mut c.warnings)).collect();
        Ok(Self { id: files.id.clone(), channels, centre, warnings })
    }

    pub(super) fn centre(&self) -> &Channel {
        &self.channels[self.centre]
    }
}

/// T1 with contrast agent, else T1, else the channel with the smallest voxels; or the one that is asked for.
fn centre_of(channels: &[Channel], wanted: Option<&str>) -> Result<usize, PreprocessError> {
    let place = |name: &str| channels.iter().position(|c| c.name() == name);
    if let Some(wanted) = wanted {
        return place(wanted).ok_or_else(|| PreprocessError::Centre {
            wanted: wanted.to_owned(),
            found: channels.iter().map(|c| c.name().to_owned()).collect(),
        });
    }
    let finest = (0..channels.len()).min_by(|&a, &b| {
        let volume = |i: usize| channels[i].volume.geometry.voxel_ml();
        volume(a).total_cmp(&volume(b))
    });
    let found = place("t1c").or_else(|| place("t1n")).or(finest);
    found.ok_or_else(|| PreprocessError::Centre { wanted: "t1c".to_owned(), found: Vec::new() })
}
