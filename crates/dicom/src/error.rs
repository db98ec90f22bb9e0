//! What can be wrong with files and series.

use std::path::{Path, PathBuf};

use glioseg_diagnose::{Diagnose, count};
use thiserror::Error;

/// Why a file, or a series of them, cannot be an image.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DicomError {
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// More files, or deeper folders, than a study has.
    #[error("{} holds more than {most} files", path.display())]
    TooMany {
        /// The folder.
        path: PathBuf,
        /// How many are looked at.
        most: usize,
    },
    /// Nothing to read.
    #[error("{} holds no DICOM images of magnetic resonance{}", path.display(), seen(found))]
    NoImages {
        /// The folder.
        path: PathBuf,
        /// What was found instead, in words; may be empty.
        found: String,
    },
    /// A damaged file.
    #[error("{} is damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A compression that is not decoded.
    #[error("{} is stored as {name} ({uid}), which glioseg does not decode", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Name of the transfer syntax.
        name: String,
        /// Its UID.
        uid: String,
    },
    /// Attributes that a slice needs are missing or make no sense.
    #[error("{}: {reason}", path.display())]
    Attribute {
        /// The file.
        path: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// Slices between others are missing.
    #[error("{series}: {} missing between its slices, the first after the slice at {after_mm:.2} mm", count(*missing, "slice") + if *missing == 1 { " is" } else { " are" })]
    MissingSlices {
        /// The series, in words.
        series: String,
        /// How many are missing.
        missing: usize,
        /// Place of the slice before the first gap, along the normal.
        after_mm: f64,
    },
    /// Two slices at one place.
    #[error("{series}: {} and {} lie at one place ({position_mm:.2} mm along the normal) and differ", first.display(), second.display())]
    RepeatedPosition {
        /// The series, in words.
        series: String,
        /// Place of both, along the normal.
        position_mm: f64,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Two images with one identity.
    #[error("{series}: {} and {} have one SOPInstanceUID but differ", first.display(), second.display())]
    Duplicate {
        /// The series, in words.
        series: String,
        /// One file.
        first: PathBuf,
        /// The other.
        second: PathBuf,
    },
    /// Slices at irregular distances.
    #[error("{series}: its slices are {least_mm:.3} to {most_mm:.3} mm apart")]
    UnevenSpacing {
        /// The series, in words.
        series: String,
        /// The smallest distance.
        least_mm: f64,
        /// The largest.
        most_mm: f64,
    },
    /// Slices that are shifted against each other.
    #[error("{series}: its slices are sheared by {degrees:.1} degrees, as of a tilted gantry")]
    Sheared {
        /// The series, in words.
        series: String,
        /// Angle between the line of the slices and their normal.
        degrees: f64,
    },
    /// Several volumes in one series.
    #[error("{series}: it holds {volumes} volumes, such as the time points of one scan")]
    SeveralVolumes {
        /// The series, in words.
        series: String,
        /// How many.
        volumes: usize,
    },
    /// Slices of several sizes.
    #[error("{series}: its slices have {} sizes: {}", sizes.len(), listed(sizes))]
    MixedSizes {
        /// The series, in words.
        series: String,
        /// Rows, columns and number of slices.
        sizes: Vec<(usize, usize, usize)>,
    },
    /// A contrast that no series has.
    #[error("{study} has no {contrast}; {looked}")]
    NoSeries {
        /// The study, in words.
        study: String,
        /// The contrast.
        contrast: String,
        /// Every series with what it is.
        looked: String,
    },
    /// T1 with or without agent.
    #[error("nothing tells which T1 was made with contrast agent: {series}")]
    Undecided {
        /// The series in question.
        series: String,
    },
    /// A series that the study does not have.
    #[error("there is no volume `{series}`; volumes: {known}")]
    UnknownSeries {
        /// What was asked for.
        series: String,
        /// Names of the volumes.
        known: String,
    },
    /// Positions that cannot be compared.
    #[error(
        "series {first} and {second} are not in one frame of reference: the patient may have moved between them"
    )]
    DifferentFrames {
        /// One series.
        first: String,
        /// The other.
        second: String,
    },
    /// A label map on another grid than the images it is to be stored with.
    #[error("the label map has {map} (R, A, S), but series {series} has {volume}")]
    OtherGrid {
        /// The map's grid, in words.
        map: String,
        /// The series.
        series: String,
        /// Its grid, in words.
        volume: String,
    },
    /// An object that cannot be put into bytes.
    #[error("the DICOM object cannot be written: {reason}")]
    Unwritten {
        /// What the writer says.
        reason: String,
    },
    /// The affine of a series is not that of an image.
    #[error("{series}: {reason}")]
    Place {
        /// The series, in words.
        series: String,
        /// What is wrong.
        reason: String,
    },
}

fn seen(found: &str) -> String {
    if found.is_empty() { String::new() } else { format!("; found: {found}") }
}

fn listed(sizes: &[(usize, usize, usize)]) -> String {
    let one = |(rows, columns, slices): &(usize, usize, usize)| {
        format!("{rows} x {columns} ({})", count(*slices, "slice"))
    };
    sizes.iter().map(one).collect::<Vec<_>>().join(", ")
}

impl Diagnose for DicomError {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Read { .. } => "check the path and its permissions",
                Self::TooMany { .. } => "give the folder of one study, or of a few",
                Self::NoImages { .. } => {
                    "give a folder with the files of a study as the scanner or archive exported them"
                }
                Self::Damaged { .. } => "export or copy the file again",
                Self::Syntax { .. } => {
                    "decompress it with dcmtk's `dcmdjpeg`, `dcmdjpls` or `dcmdrle`, or with `gdcmconv --raw`"
                }
                Self::Attribute { .. } => "export the series again as original images, with all attributes",
                Self::MissingSlices { .. } => {
                    "export the series again; the files of the missing slices may lie in another folder"
                }
                Self::RepeatedPosition { .. } => {
                    "two scans seem to be mixed in one series: keep the files of one of them in the folder"
                }
                Self::Duplicate { .. } => "one of the two was changed after the scan: remove it",
                Self::UnevenSpacing { .. } => {
                    "export the series again as original images; some of its slices may have been moved"
                }
                Self::Sheared { .. } => "export a series that was not reconstructed with a tilt",
                Self::SeveralVolumes { .. } => "keep the files of one volume in the folder",
                Self::MixedSizes { .. } => "keep the files of one size in the folder",
                Self::NoSeries { .. } => "name a series for it, such as --series t2f=9",
                Self::Undecided { .. } => "say it, such as --series t1n=2 --series t1c=8",
                Self::UnknownSeries { .. } => "`glioseg dicom list` shows the volumes",
                Self::DifferentFrames { .. } => {
                    "give --assume-aligned if the patient did not move, or convert with --grid none and register the images"
                }
                Self::OtherGrid { .. } => {
                    "give the label map that belongs to these images, or bring it onto their grid with --resample"
                }
                Self::Unwritten { .. } => "the header of the source may hold what DICOM does not allow: check it with dciodvfy",
                Self::Place { .. } => "export the series again as original images",
            }
            .into(),
        )
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Self::Read { path, .. }
            | Self::TooMany { path, .. }
            | Self::NoImages { path, .. }
            | Self::Damaged { path, .. }
            | Self::Syntax { path, .. }
            | Self::Attribute { path, .. } => Some(path),
            _ => None,
        }
    }
}
