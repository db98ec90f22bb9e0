//! The format of a prepared case.
//!
//! ```text
//! offset  bytes  content (all numbers little-endian)
//!      0      8  "GLIOCASE"
//!      8      4  u32: version of the format, 1
//!     12      4  u32: length of the header
//!     16      n  header, JSON: see `Header`
//!      …         zeros up to a multiple of 64: the start of the payload, from which the header's offsets count
//!                image: f32, [c, z, y, x]
//!                labels: i16, [z, y, x], at a multiple of 64
//!                voxels of class 0, 1, …: u32 indices into [z, y, x], at a multiple of 64
//! ```
//!
//! The length of the file follows from the header; a file of another length is refused.

use super::StoreError;
use crate::{CaseProperties, TrainingCase};
use glioseg_plan::{CaseDigest, SourceFile};
use glioseg_volume::Turn;
use glioseg_volume::crop::Box3;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::path::Path;

/// How names of prepared cases end, without the dot.
pub const EXTENSION: &str = "case";

pub(super) const MAGIC: &[u8; 8] = b"GLIOCASE";
pub(super) const VERSION: u32 = 1;
/// Bytes before the header.
pub(super) const PREAMBLE: u64 = 16;
/// Headers hold file names and a few numbers; no honest one comes near.
pub(super) const MAX_HEADER: u32 = 1 << 20;
/// The most voxels of a case: indices have 32 bits.
pub(super) const MAX_VOXELS: u64 = 1 << 32;
const ALIGN: u64 = 64;

/// What preprocessing did to a case, as it is stored.
///
/// Named as in nnU-Net's properties, axes transposed; see [`CaseProperties`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredProperties {
    /// Where every axis of the image was turned to, and whether it runs backwards; absent where nothing was turned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub turned: Option<([usize; 3], [bool; 3])>,
    /// For every axis of the image, z, y, x, the plan's axis it went to.
    pub transpose_backward: [usize; 3],
    /// Voxels of the whole image.
    pub shape_before_cropping: [usize; 3],
    /// The non-zero box, `[low, high)`.
    pub bbox_used_for_cropping: Box3,
    /// Voxels of the box.
    pub shape_after_cropping_and_before_resampling: [usize; 3],
    /// Spacing of the image in mm.
    pub spacing: [f64; 3],
    /// Spacing of the plan in mm.
    pub target_spacing: [f64; 3],
}

impl From<&CaseProperties> for StoredProperties {
    fn from(p: &CaseProperties) -> Self {
        Self {
            turned: (!p.turn.is_none()).then_some((p.turn.axes, p.turn.flip)),
            transpose_backward: p.transpose_backward,
            shape_before_cropping: p.shape_before_cropping,
            bbox_used_for_cropping: p.bbox,
            shape_after_cropping_and_before_resampling: p.shape_after_cropping,
            spacing: p.spacing_transposed,
            target_spacing: p.target_spacing,
        }
    }
}

impl From<&StoredProperties> for CaseProperties {
    fn from(p: &StoredProperties) -> Self {
        Self {
            turn: p.turned.map_or(Turn::NONE, |(axes, flip)| Turn { axes, flip }),
            transpose_backward: p.transpose_backward,
            shape_before_cropping: p.shape_before_cropping,
            bbox: p.bbox_used_for_cropping,
            shape_after_cropping: p.shape_after_cropping_and_before_resampling,
            spacing_transposed: p.spacing,
            target_spacing: p.target_spacing,
        }
    }
}

/// Where the voxels of a class stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ClassHeader {
    pub labels: Vec<i16>,
    pub offset: u64,
    pub count: u64,
}

/// The header of a prepared case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Header {
    pub case: String,
    /// Hash of everything in plans and dataset that decides the content.
    pub plan_hash: String,
    pub sources: Vec<SourceFile>,
    /// What was odd about them, a sentence each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub oddities: Vec<String>,
    /// What the voxels of image and labels were, to find the same image in two cases.
    #[serde(default)]
    pub voxels: CaseDigest,
    pub channels: usize,
    pub shape: [usize; 3],
    pub properties: StoredProperties,
    pub seg_offset: u64,
    pub classes: Vec<ClassHeader>,
    /// Bytes of the payload.
    pub payload: u64,
}

fn align(offset: u64) -> u64 {
    offset.next_multiple_of(ALIGN)
}

/// First byte of the payload after a header of `length` bytes.
pub(super) fn payload_start(length: u32) -> u64 {
    align(PREAMBLE + u64::from(length))
}

impl Header {
    pub(super) fn of(name: &str, plan_hash: &str, sources: Vec<SourceFile>, case: &TrainingCase) -> Header {
        let voxels = case.seg.len() as u64;
        let seg_offset = align(case.case.channels as u64 * voxels * 4);
        let mut end = align(seg_offset + voxels * 2);
        let classes = case
            .class_locations
            .iter()
            .map(|class| {
                let (offset, count) = (end, class.voxels.len() as u64);
                end += count * 4;
                ClassHeader { labels: class.labels.clone(), offset, count }
            })
            .collect();
        Header {
            case: name.to_owned(),
            plan_hash: plan_hash.to_owned(),
            sources,
            oddities: Vec::new(),
            voxels: CaseDigest::default(),
            channels: case.case.channels,
            shape: case.case.shape,
            properties: (&case.case.properties).into(),
            seg_offset,
            classes,
            payload: end,
        }
    }

    /// Checks that every number is what its neighbours say, so that no later step can go astray.
    pub(super) fn check(&self, path: &Path) -> Result<(), StoreError> {
        let wrong = |reason: String| Err(StoreError::Format { path: path.to_owned(), reason });
        let voxels =
            self.shape.iter().try_fold(1u64, |n, &s| n.checked_mul(s as u64)).filter(|v| *v <= MAX_VOXELS);
        let Some(voxels) = voxels.filter(|&v| v > 0) else {
            return wrong(format!("its header has the impossible shape {:?}", self.shape));
        };
        let image = voxels.checked_mul(4).and_then(|b| b.checked_mul(self.channels as u64));
        let Some(image) = image.filter(|_| self.channels > 0 && self.channels <= 1 << 16) else {
            return wrong(format!("its header has {} channels", self.channels));
        };
        let mut end = align(image);
        if self.seg_offset != end {
            return wrong(format!("its header puts the labels at {}, not at {end}", self.seg_offset));
        }
        end = align(end + voxels * 2);
        for class in &self.classes {
            if class.offset != end || class.count > voxels {
                return wrong(format!(
                    "its header puts {} voxels of a class at {}",
                    class.count, class.offset
                ));
            }
            end += class.count * 4;
        }
        if self.payload != end {
            return wrong(format!("its header promises {} bytes of payload, not {end}", self.payload));
        }
        Ok(())
    }
}

/// Writes a prepared case.
pub(super) fn write(out: &mut impl Write, header: &Header, case: &TrainingCase) -> io::Result<()> {
    let text = serde_json::to_vec(header)?;
    let length = u32::try_from(text.len()).ok().filter(|&n| n <= MAX_HEADER);
    let length = length.ok_or_else(|| io::Error::other("more file names than a header holds"))?;
    out.write_all(MAGIC)?;
    out.write_all(&VERSION.to_le_bytes())?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&text)?;
    pad(out, PREAMBLE + u64::from(length))?;
    let image = case.case.data.len() as u64 * 4;
    numbers(out, &case.case.data, |v| v.to_le_bytes())?;
    pad(out, image)?;
    numbers(out, &case.seg, |v| v.to_le_bytes())?;
    pad(out, header.seg_offset + case.seg.len() as u64 * 2)?;
    for class in &case.class_locations {
        numbers(out, &class.voxels, |v| v.to_le_bytes())?;
    }
    Ok(())
}

fn pad(out: &mut impl Write, written: u64) -> io::Result<()> {
    out.write_all(&[0; ALIGN as usize][..(align(written) - written) as usize])
}

fn numbers<T, const N: usize>(
    out: &mut impl Write,
    values: &[T],
    bytes: impl Fn(&T) -> [u8; N],
) -> io::Result<()> {
    let mut buffer = Vec::with_capacity((1 << 16) * N);
    for values in values.chunks(1 << 16) {
        buffer.clear();
        buffer.extend(values.iter().flat_map(&bytes));
        out.write_all(&buffer)?;
    }
    Ok(())
}
