//! What can go wrong with an image file, with both sides of a mismatch, and what to do about it.

use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use glioseg_diagnose::{Diagnose, ForeignFile};
use glioseg_volume::{Geometry, NotFinite, VolumeError};

/// An image file that cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file without any bytes.
    #[error("{} is empty (0 bytes)", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// The bytes are not those of a NIfTI file.
    #[error("{} is not a NIfTI file: {found}", path.display())]
    NotNifti {
        /// The file.
        path: PathBuf,
        /// What stands where the header should be.
        found: String,
    },
    /// The file is something else, which its first bytes tell.
    #[error(transparent)]
    Foreign(ForeignFile),
    /// The gzip stream breaks off or its check sum is wrong.
    #[error("{} is damaged: its gzip stream {detail} after {unpacked} unpacked bytes", path.display())]
    Gzip {
        /// The file.
        path: PathBuf,
        /// What happened to the stream.
        detail: String,
        /// Bytes that could be unpacked.
        unpacked: u64,
    },
    /// Fewer bytes than the header promises.
    #[error("{} is cut short: its header promises {needed} bytes, the file has {found_at_most}", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes of header and voxels, unpacked.
        needed: u64,
        /// Bytes there are; for a compressed file, the most that so small a file can unpack to.
        found_at_most: u64,
    },
    /// Dimensions that no image can have.
    #[error("{} has impossible dimensions {dims:?}: {reason}", path.display())]
    Dims {
        /// The file.
        path: PathBuf,
        /// The header's dimensions in file order (x, y, z, …), as many as it declares.
        dims: Vec<i64>,
        /// Why they are impossible.
        reason: String,
    },
    /// A voxel type that holds no single number.
    #[error("{} stores voxels as {name} (NIfTI type {code}), which is not a plain number", path.display())]
    Dtype {
        /// The file.
        path: PathBuf,
        /// The header's `datatype`.
        code: i16,
        /// Its name.
        name: &'static str,
    },
    /// The header places the image nowhere.
    #[error("{}: {source}", path.display())]
    Placement {
        /// The file.
        path: PathBuf,
        /// What is wrong with its affine.
        source: VolumeError,
    },
    /// NaN or infinite voxels.
    #[error("{} holds {found}", path.display())]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// How many, and the first.
        found: NotFinite,
    },
    /// A finite value that is infinite in the precision that everything is computed in.
    #[error(
        "{} holds {value:e} at z, y, x = {position:?}, which is beyond the range of 32-bit floats", path.display()
    )]
    Range {
        /// The file.
        path: PathBuf,
        /// The value.
        value: f64,
        /// Its voxel, z, y, x.
        position: [usize; 3],
    },
    /// A label map with a value that is not a label.
    #[error("{} is not a label map: it holds {value} at z, y, x = {position:?}", path.display())]
    NotLabel {
        /// The file.
        path: PathBuf,
        /// The value.
        value: f32,
        /// Its voxel, z, y, x.
        position: [usize; 3],
    },
    /// A label map with more than one channel.
    #[error("{} holds {channels} channels, but a label map has one", path.display())]
    LabelChannels {
        /// The file.
        path: PathBuf,
        /// How many.
        channels: usize,
    },
    /// Channels of one case on different grids.
    #[error(
        "channels of one case have different grids: {} has {}, but {} has {}",
        first_path.display(), grid(first), path.display(), grid(other)
    )]
    GridMismatch {
        /// The first file.
        first_path: PathBuf,
        /// Its grid.
        first: Box<Geometry>,
        /// The file that differs.
        path: PathBuf,
        /// Its grid.
        other: Box<Geometry>,
    },
    /// A file is not an npz, or not with the array that is asked for.
    #[error("{}: {reason}", path.display())]
    Npz {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file is not an array of labels, as one stage of a cascade leaves them for the next.
    #[error("{} is not an array of labels: {reason}", path.display())]
    LabelArray {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An image in memory that cannot be written.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// More memory than there is.
    #[error("{} needs {bytes} bytes of memory for its voxels, which the system does not give", path.display())]
    Memory {
        /// The file.
        path: PathBuf,
        /// Bytes.
        bytes: u64,
    },
}

fn grid(geometry: &Geometry) -> String {
    let mut text = String::new();
    let [z, y, x] = geometry.shape;
    let [sz, sy, sx] = geometry.spacing;
    // Writing to a String cannot fail.
    let _ = write!(text, "{z} x {y} x {x} voxels of {sz} x {sy} x {sx} mm (z, y, x)");
    text
}

impl FormatError {
    /// The system's refusal to `action` (`read`, `write`, …) a file or folder.
    pub fn io(path: &Path, action: &'static str, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), action, source }
    }
}

impl Diagnose for FormatError {
    fn hint(&self) -> Option<String> {
        let text = match self {
            Self::Io { source, action, path } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => format!(
                    "the disk is full: free some space or choose another folder than {}; nothing was left behind",
                    path.parent().unwrap_or(path).display()
                ),
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem if *action == "read" => {
                    "allow this user to read the file".to_owned()
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => format!(
                    "choose an output folder that this user may write to; {} is not",
                    path.parent().unwrap_or(path).display()
                ),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory if *action == "read" => {
                    "check the path; the file is not there".to_owned()
                }
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
                    "create the output folder first, or check that its path is a folder".to_owned()
                }
                _ => return None,
            },
            Self::Foreign(file) => return file.hint(),
            Self::Empty { .. } => "copy or download the file again".to_owned(),
            Self::NotNifti { .. } => {
                "give a NIfTI-1 or NIfTI-2 file (.nii, .nii.gz or .hdr/.img); convert DICOM with `glioseg dicom convert`"
                    .to_owned()
            }
            Self::Gzip { .. } | Self::Truncated { .. } => {
                "the file is incomplete or damaged: copy or download it again".to_owned()
            }
            Self::Dims { .. } => {
                "the header is damaged, or the image is not a volume: give a 2-D, 3-D or 4-D image".to_owned()
            }
            Self::Dtype { .. } => {
                "convert the image to an integer or floating-point type, one number per voxel".to_owned()
            }
            Self::Placement { source, .. } | Self::Volume(source) => return source.hint(),
            Self::NotFinite { .. } => {
                "replace these voxels in the file; without --strict they count as 0".to_owned()
            }
            Self::Range { .. } => {
                "no scanner gives such a value: look at the header's slope and intercept, or correct the voxel".to_owned()
            }
            Self::NotLabel { .. } => {
                "a label map holds whole numbers from 0 to 65535: is this an image or a probability map?"
                    .to_owned()
            }
            Self::LabelChannels { .. } => "give a 3-D label map".to_owned(),
            Self::GridMismatch { .. } => {
                "channels of a case must share one grid; `glioseg preprocess` registers raw scans and brings them to one, \
                 skull-stripped as the training's images were"
                    .to_owned()
            }
            Self::Npz { .. } => {
                "expected an npz as numpy writes it, its array f4 or f2 in C order; is it cut off?".to_owned()
            }
            Self::LabelArray { .. } => {
                "delete the file, and give the command of the training that wrote it again with --resume".to_owned()
            }
            Self::Memory { .. } => "close other programs, or crop the image first".to_owned(),
        };
        Some(text)
    }
}
