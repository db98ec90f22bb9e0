//! Reading: sizes are checked first, then voxels stream into the final array.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};

use glioseg_diagnose::{Expected, ForeignFile};
use glioseg_volume::{Geometry, LabelMap, Turn, TurnRule, Volume, try_zeroed};
use rayon::prelude::*;

use super::dtype::DType;
use super::gzip::Members;
use super::header::{Header, SIZE_1, SIZE_2, version_of};
use crate::FormatError;

/// Deflate cannot shrink its input by more than this factor.
const MAX_DEFLATE_RATIO: u64 = 1032;

/// What becomes of a gzip stream whose end is missing.
const BREAKS_OFF: &str = "breaks off";

/// Values unpacked and converted at a time.
const STEP: usize = 1 << 16;

/// What the header of an image says.
#[derive(Debug, Clone)]
pub struct ImageInfo {
    /// Sizes in file order: x, y, z, and further ones where the file has them.
    pub dims: Vec<usize>,
    /// Channels: the size of the fourth dimension, else 1.
    pub channels: usize,
    /// Shape, spacing and position.
    pub geometry: Geometry,
    /// Voxel type as stored.
    pub dtype: DType,
    /// True if the file is big-endian.
    pub big_endian: bool,
    /// NIfTI version, 1 or 2.
    pub version: u8,
    /// True if the file is compressed with gzip.
    pub compressed: bool,
    /// Slope and intercept that turn stored into real values; `None` without scaling.
    pub scale: Option<(f64, f64)>,
    /// Meaning of the qform (0 = there is none).
    pub qform_code: i32,
    /// Meaning of the sform (0 = there is none).
    pub sform_code: i32,
    /// The header's free text.
    pub description: String,
    /// What is wrong with a file that is read all the same: a sentence each, without the file's name.
    pub oddities: Vec<String>,
}

/// A file opened for unpacking.
struct Source {
    path: PathBuf,
    reader: Box<dyn Read>,
    compressed: bool,
    /// The most bytes that can come out.
    at_most: u64,
    /// Bytes that came out.
    unpacked: u64,
    /// Whether a file without its check sum is read.
    lenient: bool,
    /// What is wrong, although the file is read.
    oddities: Vec<String>,
}

impl Source {
    fn open(path: &Path) -> Result<Self, FormatError> {
        let failed = |error| FormatError::io(path, "read", error);
        let file = File::open(path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let mut buffered = BufReader::with_capacity(1 << 17, file);
        let first = buffered.fill_buf().map_err(failed)?;
        if first.is_empty() {
            return Err(FormatError::Empty { path: path.to_owned() });
        }
        let compressed = first.starts_with(&[0x1f, 0x8b]);
        let (reader, at_most): (Box<dyn Read>, u64) = if compressed {
            (Box::new(Members::new(buffered)), length.saturating_mul(MAX_DEFLATE_RATIO))
        } else {
            (Box::new(buffered), length)
        };
        Ok(Self {
            path: path.to_owned(),
            reader,
            compressed,
            at_most,
            unpacked: 0,
            lenient: false,
            oddities: Vec::new(),
        })
    }

    /// Reads until `buffer` is full or the file ends; returns the count.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, FormatError> {
        let mut count = 0;
        while count < buffer.len() {
            match self.reader.read(&mut buffer[count..]) {
                Ok(0) => break,
                Ok(n) => {
                    count += n;
                    self.unpacked += n as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(count)
    }

    fn failed(&self, error: io::Error) -> FormatError {
        let detail = match error.kind() {
            io::ErrorKind::UnexpectedEof => BREAKS_OFF.to_owned(),
            // What the decoder reports of bad data, as against errors of the system.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => format!("is corrupt ({error})"),
            _ => return FormatError::io(&self.path, "read", error),
        };
        FormatError::Gzip { path: self.path.clone(), detail, unpacked: self.unpacked }
    }

    /// Skips to `offset` of the unpacked file; false if it ends before.
    fn skip_to(&mut self, offset: u64) -> Result<bool, FormatError> {
        let mut waste = [0; 4096];
        while self.unpacked < offset {
            let count = (offset - self.unpacked).min(waste.len() as u64) as usize;
            if self.fill(&mut waste[..count])? < count {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads to the end of a compressed file, so that its check sums are compared.
    fn verify_rest(&mut self) -> Result<(), FormatError> {
        if self.compressed {
            let mut waste = vec![0; 1 << 16];
            loop {
                match self.fill(&mut waste) {
                    Ok(count) if count == waste.len() => {}
                    Ok(_) => break,
                    // Every voxel was there; ITK reads such files too.
                    Err(FormatError::Gzip { detail, .. }) if self.lenient && detail == BREAKS_OFF => {
                        self.oddities
                            .push("it ends before its check sum, so damage would not be seen".to_owned());
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// The two files of a pair, or the same file twice: (header, voxels).
fn pair_of(path: &Path) -> (PathBuf, PathBuf) {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let (stem, gz) = match name.strip_suffix(".gz") {
        Some(stem) => (stem, ".gz"),
        None => (name.as_str(), ""),
    };
    match stem.rsplit_once('.') {
        Some((base, "hdr" | "img")) => {
            (path.with_file_name(format!("{base}.hdr{gz}")), path.with_file_name(format!("{base}.img{gz}")))
        }
        _ => (path.to_owned(), path.to_owned()),
    }
}

/// What a file is that does not begin as NIfTI does.
fn foreign(source: &Source, head: &[u8]) -> Option<ForeignFile> {
    if source.compressed {
        return ForeignFile::unpacked(&source.path, head, Expected::Image);
    }
    ForeignFile::at(&source.path, Expected::Image)
}

/// Opens `path`, reads its header and checks it against the size of the file with the voxels.
///
/// Returns that file, positioned at its first voxel if `to_voxels`.
fn open_checked(path: &Path, to_voxels: bool) -> Result<(Header, Source), FormatError> {
    let (header_path, voxel_path) = pair_of(path);
    let mut source = Source::open(&header_path)?;
    let mut bytes = vec![0; SIZE_2];
    let mut count = source.fill(&mut bytes[..SIZE_1])?;
    let version = version_of(&bytes[..count]);
    if let Some((2, _)) = version {
        count += source.fill(&mut bytes[count..])?;
    }
    let needed = if matches!(version, Some((2, _))) { SIZE_2 } else { SIZE_1 };
    if version.is_none()
        && let Some(foreign) = foreign(&source, &bytes[..count])
    {
        return Err(FormatError::Foreign(foreign));
    }
    if count < needed {
        return Err(match version {
            Some(_) => FormatError::Truncated {
                path: header_path,
                needed: needed as u64,
                found_at_most: count as u64,
            },
            None => FormatError::NotNifti {
                path: header_path,
                found: format!("it has only {count} bytes, and no header begins there"),
            },
        });
    }
    let header = Header::parse(&header_path, &bytes)?;
    let size = if header.big_endian { i32::from_be_bytes } else { i32::from_le_bytes };
    let size = bytes.first_chunk().map_or(0, |first| size(*first));
    let odd_size =
        (size as usize != needed).then(|| format!("its header says that it has {size} bytes, not {needed}"));
    if !header.single_file {
        if voxel_path == header_path {
            return Err(FormatError::NotNifti {
                path: header_path,
                found: "it is the header of a pair (.hdr/.img) under another name".to_owned(),
            });
        }
        source = Source::open(&voxel_path)?;
    }
    let bytes = header.values * header.dtype.size() as u64;
    let needed = bytes.saturating_add(header.offset);
    if needed > source.at_most {
        let dims = header.dims.clone();
        // A header that promises far more than any file holds is damaged; a little more, and the file is cut short.
        if source.compressed || needed / 16 > source.at_most {
            let reason =
                format!("they need {needed} bytes, but the file can hold no more than {}", source.at_most);
            return Err(FormatError::Dims { path: source.path, dims, reason });
        }
        return Err(FormatError::Truncated { path: source.path, needed, found_at_most: source.at_most });
    }
    source.oddities.extend(odd_size);
    source.oddities.extend(header.geometry.forms().missing_spacing());
    if to_voxels && !source.skip_to(header.offset)? {
        return Err(FormatError::Truncated { path: source.path, needed, found_at_most: source.unpacked });
    }
    Ok((header, source))
}

/// Streams all voxels as f32; `take` gets the index of the first value and the values.
fn stream(
    header: &Header,
    source: &mut Source,
    mut take: impl FnMut(usize, &[f32]) -> Result<(), FormatError>,
) -> Result<(), FormatError> {
    let size = header.dtype.size();
    let values = header.values as usize;
    let mut bytes = vec![0; STEP.min(values) * size];
    let mut floats = vec![0f32; STEP.min(values)];
    for start in (0..values).step_by(STEP) {
        let count = STEP.min(values - start);
        let raw = &mut bytes[..count * size];
        if source.fill(raw)? < raw.len() {
            let needed = header.offset + header.values * size as u64;
            return Err(FormatError::Truncated {
                path: source.path.clone(),
                needed,
                found_at_most: source.unpacked,
            });
        }
        let floats = &mut floats[..count];
        header.dtype.decode(header.big_endian, header.scale, raw, floats);
        if let Some((i, value)) = header.dtype.beyond_single(header.big_endian, header.scale, raw, floats) {
            let position = header.geometry.position((start + i) % header.geometry.voxels());
            return Err(FormatError::Range { path: source.path.clone(), value, position });
        }
        take(start, floats)?;
    }
    source.verify_rest()
}

/// Zeros that the system maps only as they are written, so that a header which promises too much costs nothing.
fn zeros<T: Default + Clone>(count: usize, path: &Path) -> Result<Vec<T>, FormatError> {
    try_zeroed(count).ok_or_else(|| FormatError::Memory {
        path: path.to_owned(),
        bytes: (count as u64).saturating_mul(size_of::<T>() as u64),
    })
}

fn read_into(header: &Header, source: &mut Source, out: &mut [f32]) -> Result<(), FormatError> {
    stream(header, source, |start, values| {
        out[start..start + values.len()].copy_from_slice(values);
        Ok(())
    })
}

/// Reads an image; a fourth dimension becomes channels.
///
/// # Shapes and units
/// `[c, z, y, x]`, the file's own order in memory; voxels are not reoriented. Values are scaled by the header's slope and
/// intercept. They may be NaN: see [`Volume::check_finite`].
///
/// # Errors
/// A [`FormatError`] that names the file: it is missing, empty, no NIfTI file, damaged, cut short, of a type that is
/// no number, or has a singular affine.
pub fn read_volume(path: &Path) -> Result<Volume, FormatError> {
    let (header, mut source) = open_checked(path, true)?;
    let mut data = zeros(header.values as usize, path)?;
    read_into(&header, &mut source, &mut data)?;
    Ok(Volume::new(header.channels, data, header.geometry)?)
}

/// Reads the files of a case into one image, in parallel; every file adds its channels, in order.
///
/// The geometry is that of the first file. Files may differ from it in origin and direction (compare them with
/// [`Geometry::same_grid`] to warn), as nnU-Net allows; `infos` tells what each file is.
///
/// # Errors
/// As [`read_volume`]; [`FormatError::GridMismatch`] if shapes or spacings differ, before any voxel is read.
///
/// # Panics
/// If `paths` is empty.
pub fn read_stack<P: AsRef<Path> + Sync>(paths: &[P]) -> Result<(Volume, Vec<ImageInfo>), FormatError> {
    read_stack_along(paths, None)
}

/// As [`read_stack`], but a file whose axes lead elsewhere than those of the first is turned to them first, by `rule`.
///
/// nnU-Net's readers that turn every file to RAS compare files after that; turned to the first file's axes they are just as
/// comparable, and the image stays on the grid that its segmentation is written on.
///
/// # Errors
/// As [`read_stack`]; shapes and spacings are compared after the turn.
///
/// # Panics
/// If `paths` is empty.
pub fn read_stack_along<P: AsRef<Path> + Sync>(
    paths: &[P],
    rule: Option<TurnRule>,
) -> Result<(Volume, Vec<ImageInfo>), FormatError> {
    assert!(!paths.is_empty(), "a case has at least one file");
    let mut infos = paths.iter().map(|p| read_info(p.as_ref())).collect::<Result<Vec<_>, _>>()?;
    let geometry = infos[0].geometry.clone();
    let turns: Vec<Turn> = infos
        .iter_mut()
        .map(|info| rule.map_or(Turn::NONE, |rule| turn_along(info, &geometry, rule)))
        .collect();
    for (path, info) in paths.iter().zip(&infos) {
        if !geometry.same_grid(&info.geometry).same_lattice() {
            return Err(FormatError::GridMismatch {
                first_path: paths[0].as_ref().to_owned(),
                first: Box::new(geometry),
                path: path.as_ref().to_owned(),
                other: Box::new(info.geometry.clone()),
            });
        }
    }
    let channels = infos.iter().map(|i| i.channels).sum();
    let mut data = zeros::<f32>(channels * geometry.voxels(), paths[0].as_ref())?;
    let mut rest = &mut data[..];
    let mut jobs = Vec::with_capacity(paths.len());
    for ((path, info), turn) in paths.iter().zip(&infos).zip(turns) {
        let (part, after) = rest.split_at_mut(info.channels * geometry.voxels());
        jobs.push((path.as_ref(), turn, part));
        rest = after;
    }
    let results: Vec<Result<Vec<String>, FormatError>> = jobs
        .into_par_iter()
        .map(|(path, turn, part)| {
            let (header, mut source) = open_checked(path, true)?;
            source.lenient = true;
            if header.values as usize != part.len() {
                let changed = io::Error::other("the file changed while it was read");
                return Err(FormatError::io(path, "read", changed));
            }
            read_into(&header, &mut source, part)?;
            if !turn.is_none() {
                part.copy_from_slice(&turn.apply(part.to_vec(), header.geometry.shape));
            }
            Ok(source.oddities)
        })
        .collect();
    for (info, oddities) in infos.iter_mut().zip(results) {
        info.oddities = oddities?;
    }
    Ok((Volume::new(channels, data, geometry)?, infos))
}

/// The turn that brings a file to the axes of `first`; the grid in `info` becomes that after it.
fn turn_along(info: &mut ImageInfo, first: &Geometry, rule: TurnRule) -> Turn {
    let to_ras = info.geometry.turn_to_ras(rule);
    let back = first.turn_to_ras(rule).inverse();
    let turn = to_ras.then(&back);
    if !turn.is_none() {
        let spacing = back.along(info.geometry.spacing_after(&to_ras, rule));
        let shape = info.geometry.shape;
        let affine = info.geometry.affine().turned(&turn, shape);
        let turned = Geometry::from_affine(turn.along(shape), affine);
        info.geometry = turned.unwrap_or_else(|_| first.clone());
        info.geometry.spacing = spacing;
    }
    turn
}

/// Reads a label map.
///
/// # Errors
/// As [`read_volume`]; [`FormatError::NotLabel`] if a value is not a whole number of 0 to 65535;
/// [`FormatError::LabelChannels`] if the file has more than one channel.
pub fn read_labels(path: &Path) -> Result<LabelMap, FormatError> {
    labels_of(path, None)
}

/// Reads a label map in which NaN and infinity count as 0; whatever is odd about the file is added to `oddities`, a
/// sentence each that names the file.
///
/// # Errors
/// As [`read_labels`].
pub fn read_labels_noting(path: &Path, oddities: &mut Vec<String>) -> Result<LabelMap, FormatError> {
    labels_of(path, Some(oddities))
}

fn labels_of(path: &Path, oddities: Option<&mut Vec<String>>) -> Result<LabelMap, FormatError> {
    let (header, mut source) = open_checked(path, true)?;
    if header.channels != 1 {
        return Err(FormatError::LabelChannels { path: path.to_owned(), channels: header.channels });
    }
    source.lenient = oddities.is_some();
    let mut data = zeros::<u16>(header.values as usize, path)?;
    let mut not_numbers = 0usize;
    stream(&header, &mut source, |start, values| {
        for (i, (&value, label)) in values.iter().zip(&mut data[start..]).enumerate() {
            if oddities.is_some() && !value.is_finite() {
                not_numbers += 1;
                continue;
            }
            *label = value as u16;
            if f32::from(*label).to_bits() != (value + 0.0).to_bits() {
                let position = header.geometry.position(start + i);
                return Err(FormatError::NotLabel { path: path.to_owned(), value, position });
            }
        }
        Ok(())
    })?;
    if let Some(oddities) = oddities {
        let file = path.display();
        oddities.extend(source.oddities.iter().map(|odd| format!("{file}: {odd}")));
        if not_numbers > 0 {
            let total = header.values;
            oddities.push(format!("{file}: NaN and infinite voxels count as 0: {not_numbers} of {total}"));
        }
    }
    Ok(LabelMap::new(data, header.geometry)?)
}

/// Reads the header alone.
///
/// # Errors
/// As [`read_volume`], except that damage among the voxels is not seen.
pub fn read_info(path: &Path) -> Result<ImageInfo, FormatError> {
    let (header, source) = open_checked(path, false)?;
    Ok(ImageInfo {
        dims: header.dims.iter().map(|&d| d as usize).collect(),
        channels: header.channels,
        dtype: header.dtype,
        big_endian: header.big_endian,
        version: header.version,
        compressed: source.compressed,
        scale: header.scale,
        qform_code: header.geometry.forms().qform_code,
        sform_code: header.geometry.forms().sform_code,
        description: header.description,
        oddities: source.oddities,
        geometry: header.geometry,
    })
}
