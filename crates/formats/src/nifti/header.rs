//! The fixed part of a NIfTI-1 or NIfTI-2 file.

use std::path::Path;

use glioseg_volume::{Geometry, HeaderForms};

use super::dtype::DType;
use crate::FormatError;

/// Bytes of a NIfTI-1 header.
pub(crate) const SIZE_1: usize = 348;
/// Bytes of a NIfTI-2 header.
pub(crate) const SIZE_2: usize = 540;

/// What a header says, brought to one form for both versions.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) version: u8,
    pub(crate) big_endian: bool,
    /// False where the voxels lie in a file of their own (`.img`).
    pub(crate) single_file: bool,
    /// x, y, z, …: as many as declared.
    pub(crate) dims: Vec<i64>,
    pub(crate) dtype: DType,
    /// Where the voxels begin, in bytes of the unpacked file.
    pub(crate) offset: u64,
    /// (slope, intercept), unless the header has no scaling.
    pub(crate) scale: Option<(f64, f64)>,
    pub(crate) description: String,
    pub(crate) channels: usize,
    pub(crate) geometry: Geometry,
    /// Voxels of all channels.
    pub(crate) values: u64,
}

/// Little- or big-endian numbers at fixed places of a header.
struct Fields<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl Fields<'_> {
    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut raw = [0; N];
        raw.copy_from_slice(&self.bytes[at..at + N]);
        if self.big {
            raw.reverse();
        }
        raw
    }
    fn i16(&self, at: usize) -> i16 {
        i16::from_le_bytes(self.get(at))
    }
    fn i32(&self, at: usize) -> i32 {
        i32::from_le_bytes(self.get(at))
    }
    fn i64(&self, at: usize) -> i64 {
        i64::from_le_bytes(self.get(at))
    }
    fn f32(&self, at: usize) -> f64 {
        f64::from(f32::from_le_bytes(self.get(at)))
    }
    fn f64(&self, at: usize) -> f64 {
        f64::from_le_bytes(self.get(at))
    }
    fn text(&self, at: usize, len: usize) -> String {
        let raw = &self.bytes[at..at + len];
        let end = raw.iter().position(|&b| b == 0).unwrap_or(len);
        String::from_utf8_lossy(&raw[..end]).trim().to_owned()
    }
}

/// Version and byte order of a header, from its own size.
///
/// Some programs leave that size 0: a header with the magic of version 1 is one all the same, and its number of dimensions
/// tells the byte order, as ITK has it.
pub(crate) fn version_of(bytes: &[u8]) -> Option<(u8, bool)> {
    let first = *bytes.first_chunk()?;
    let (little, big) = (i32::from_le_bytes(first), i32::from_be_bytes(first));
    match (little, big) {
        (348, _) => Some((1, false)),
        (_, 348) => Some((1, true)),
        (540, _) => Some((2, false)),
        (_, 540) => Some((2, true)),
        _ if bytes.len() >= SIZE_1 && matches!(&bytes[344..348], b"n+1\0" | b"ni1\0") => {
            let count = [bytes[40], bytes[41]];
            let known = |n: i16| (1..=7).contains(&n);
            match (known(i16::from_le_bytes(count)), known(i16::from_be_bytes(count))) {
                (true, _) => Some((1, false)),
                (_, true) => Some((1, true)),
                _ => None,
            }
        }
        _ => None,
    }
}

impl Header {
    /// Reads the header in `bytes`, which hold all of it.
    pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, FormatError> {
        let not_nifti = |found: String| FormatError::NotNifti { path: path.to_owned(), found };
        let (version, big) = version_of(bytes).ok_or_else(|| {
            not_nifti(format!("a header of 348 or 540 bytes should begin it, but {:?} does", &bytes[..4]))
        })?;
        let fields = Fields { bytes, big };
        let magic = if version == 1 { &bytes[344..348] } else { &bytes[4..12] };
        let single_file = match (version, magic) {
            (1, b"n+1\0") | (2, b"n+2\0\r\n\x1a\n") => true,
            (1, b"ni1\0") | (2, b"ni2\0\r\n\x1a\n") => false,
            (1, [0, ..]) => {
                return Err(not_nifti("its header is of Analyze 7.5, which has no orientation".to_owned()));
            }
            (_, magic) => return Err(not_nifti(format!("its magic is \"{}\"", magic.escape_ascii()))),
        };
        if version == 1 {
            Self::parse_1(path, &fields, single_file)
        } else {
            Self::parse_2(path, &fields, single_file)
        }
    }

    fn parse_1(path: &Path, f: &Fields, single_file: bool) -> Result<Self, FormatError> {
        let dim: [i64; 8] = std::array::from_fn(|i| i64::from(f.i16(40 + 2 * i)));
        let f32s = |at: usize| -> [f64; 3] { std::array::from_fn(|i| f.f32(at + 4 * i)) };
        let forms = HeaderForms {
            flat: dim[0] == 2,
            qform_code: i32::from(f.i16(252)),
            sform_code: i32::from(f.i16(254)),
            pixdim: std::array::from_fn(|i| f.f32(76 + 4 * i)),
            quaternion: f32s(256),
            offset: f32s(268),
            srow: std::array::from_fn(|r| std::array::from_fn(|c| f.f32(280 + 16 * r + 4 * c))),
            xyzt_units: f.bytes[123],
        };
        let scale = (f.f32(112), f.f32(116));
        Self::check(
            path,
            (1, f.big, single_file),
            dim,
            f.i16(70),
            (f.f32(108), scale),
            f.text(148, 80),
            forms,
        )
    }

    fn parse_2(path: &Path, f: &Fields, single_file: bool) -> Result<Self, FormatError> {
        let dim: [i64; 8] = std::array::from_fn(|i| f.i64(16 + 8 * i));
        let f64s = |at: usize| -> [f64; 3] { std::array::from_fn(|i| f.f64(at + 8 * i)) };
        let forms = HeaderForms {
            flat: dim[0] == 2,
            qform_code: f.i32(344),
            sform_code: f.i32(348),
            pixdim: std::array::from_fn(|i| f.f64(104 + 8 * i)),
            quaternion: f64s(352),
            offset: f64s(376),
            srow: std::array::from_fn(|r| std::array::from_fn(|c| f.f64(400 + 32 * r + 8 * c))),
            xyzt_units: (f.i32(500) & 0xff) as u8,
        };
        let scale = (f.f64(176), f.f64(184));
        let offset = f.i64(168) as f64;
        Self::check(path, (2, f.big, single_file), dim, f.i16(12), (offset, scale), f.text(240, 80), forms)
    }

    fn check(
        path: &Path,
        (version, big_endian, single_file): (u8, bool, bool),
        dim: [i64; 8],
        datatype: i16,
        (offset, scale): (f64, (f64, f64)),
        description: String,
        forms: HeaderForms,
    ) -> Result<Self, FormatError> {
        let bad_dims = |dims: &[i64], reason: String| {
            Err(FormatError::Dims { path: path.to_owned(), dims: dims.to_vec(), reason })
        };
        if !(1..=7).contains(&dim[0]) {
            return bad_dims(&dim[1..], format!("it declares {} of them; NIfTI has 1 to 7", dim[0]));
        }
        let mut dims = dim[1..=dim[0] as usize].to_vec();
        // Trailing sizes of 0 count as 1, as in the NIfTI library.
        let last = dims.iter().rposition(|&d| d != 0).map_or(0, |i| i + 1).max(2).min(dims.len());
        dims[last..].fill(1);
        let dims = dims.as_slice();
        if let Some(bad) = dims.iter().find(|&&d| d < 1) {
            return bad_dims(dims, format!("{bad} is not positive"));
        }
        if dims.len() == 1 {
            return bad_dims(dims, "a single axis is not an image".to_owned());
        }
        let extra: Vec<i64> = dims.iter().skip(3).copied().filter(|&d| d > 1).collect();
        if extra.len() > 1 {
            return bad_dims(dims, "only one axis after x, y, z can be the channels".to_owned());
        }
        let dtype = DType::from_code(datatype).map_err(|name| FormatError::Dtype {
            path: path.to_owned(),
            code: datatype,
            name,
        })?;
        let values = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d as u64));
        let bytes = values.and_then(|n| n.checked_mul(8)).filter(|&n| isize::try_from(n).is_ok());
        let (Some(values), Some(_)) = (values, bytes) else {
            return bad_dims(dims, "so many voxels fit no memory".to_owned());
        };
        // Every dimension now fits a usize, since their product does.
        let channels = extra.first().map_or(1, |&d| d as usize);
        let shape = [dims.get(2).map_or(1, |&d| d as usize), dims[1] as usize, dims[0] as usize];

        let own_size = if version == 1 { SIZE_1 } else { SIZE_2 } as u64;
        // An absent or impossible offset means: right after the header and its 4 bytes for extensions.
        let offset = match (single_file, offset) {
            (true, o) if o.is_finite() && o >= own_size as f64 => o as u64,
            (true, o) if o.is_finite() && o > 0.0 => own_size,
            (true, _) => own_size + 4,
            (false, o) if o.is_finite() && o > 0.0 => o as u64,
            (false, _) => 0,
        };
        // As ITK's `NiftiImageIO` does: numbers that are not finite count as 0, a slope of nearly 0 as 1.
        let (slope, inter) = (finite(scale.0), finite(scale.1));
        let slope = if slope.abs() < f64::EPSILON { 1.0 } else { slope };
        let identity = (slope - 1.0).abs() <= f64::EPSILON && inter.abs() <= f64::EPSILON;
        let scale = (!identity).then_some((slope, inter));
        let geometry = Geometry::from_forms(shape, forms)
            .map_err(|source| FormatError::Placement { path: path.to_owned(), source })?;
        Ok(Self {
            version,
            big_endian,
            single_file,
            dims: dims.to_vec(),
            dtype,
            offset,
            scale,
            description,
            channels,
            geometry,
            values,
        })
    }
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}

/// Little-endian numbers put at fixed places.
struct Put(Vec<u8>);

impl Put {
    fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// The dimensions as a NIfTI-1 header holds them, if it can hold them and every number of `forms` exactly.
fn version_1_dims(forms: &HeaderForms, dims: &[usize]) -> Option<Vec<i16>> {
    let exact = |v: &f64| f64::from(*v as f32).to_bits() == v.to_bits() || v.is_nan();
    let numbers = [&forms.pixdim[..], &forms.quaternion, &forms.offset, forms.srow.as_flattened()];
    let code = |c: i32| i16::try_from(c).is_ok();
    let fits = numbers.into_iter().flatten().all(exact) && code(forms.qform_code) && code(forms.sform_code);
    fits.then(|| dims.iter().map(|&d| i16::try_from(d).ok()).collect()).flatten()
}

/// The bytes before the voxels of a single-file image: the header and an empty list of extensions.
///
/// It is NIfTI-1, which every reader knows, unless that cannot hold the geometry exactly.
pub(crate) fn encode(geometry: &Geometry, channels: usize, dtype: DType) -> Vec<u8> {
    let [z, y, x] = geometry.shape;
    let forms = geometry.forms();
    let dims: &[usize] = match (channels, forms.flat && z == 1) {
        (1, true) => &[x, y],
        (1, false) => &[x, y, z],
        _ => &[x, y, z, channels],
    };
    let bits = 8 * dtype.size() as u16;
    if let Some(dims) = version_1_dims(forms, dims) {
        let mut put = Put(vec![0; SIZE_1 + 4]);
        put.bytes(0, &348i32.to_le_bytes());
        put.bytes(38, b"r");
        put.bytes(40, &(dims.len() as u16).to_le_bytes());
        for axis in 0..7 {
            let size = dims.get(axis).copied().unwrap_or(1);
            put.bytes(42 + 2 * axis, &size.to_le_bytes());
        }
        put.bytes(70, &dtype.code().to_le_bytes());
        put.bytes(72, &bits.to_le_bytes());
        for i in 0..8 {
            let size = forms.pixdim.get(i).map_or(1.0, |&v| v as f32);
            put.bytes(76 + 4 * i, &size.to_le_bytes());
        }
        put.bytes(108, &352f32.to_le_bytes());
        put.bytes(112, &1f32.to_le_bytes());
        put.bytes(123, &[forms.xyzt_units]);
        put.bytes(252, &(forms.qform_code as i16).to_le_bytes());
        put.bytes(254, &(forms.sform_code as i16).to_le_bytes());
        let numbers = forms.quaternion.iter().chain(&forms.offset).chain(forms.srow.as_flattened());
        for (i, &value) in numbers.enumerate() {
            put.bytes(256 + 4 * i, &(value as f32).to_le_bytes());
        }
        put.bytes(344, b"n+1\0");
        return put.0;
    }
    let mut put = Put(vec![0; SIZE_2 + 4]);
    put.bytes(0, &540i32.to_le_bytes());
    put.bytes(4, b"n+2\0\r\n\x1a\n");
    put.bytes(12, &dtype.code().to_le_bytes());
    put.bytes(14, &bits.to_le_bytes());
    put.bytes(16, &(dims.len() as u64).to_le_bytes());
    for axis in 0..7 {
        let size = dims.get(axis).map_or(1, |&d| d as u64);
        put.bytes(24 + 8 * axis, &size.to_le_bytes());
    }
    for i in 0..8 {
        put.bytes(104 + 8 * i, &forms.pixdim.get(i).copied().unwrap_or(1.0).to_le_bytes());
    }
    put.bytes(168, &544i64.to_le_bytes());
    put.bytes(176, &1f64.to_le_bytes());
    put.bytes(344, &forms.qform_code.to_le_bytes());
    put.bytes(348, &forms.sform_code.to_le_bytes());
    let numbers = forms.quaternion.iter().chain(&forms.offset).chain(forms.srow.as_flattened());
    for (i, &value) in numbers.enumerate() {
        put.bytes(352 + 8 * i, &value.to_le_bytes());
    }
    put.bytes(500, &i32::from(forms.xyzt_units).to_le_bytes());
    put.0
}
