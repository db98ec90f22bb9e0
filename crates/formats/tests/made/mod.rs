//! NIfTI files made byte by byte, apart from the code under test.
#![allow(dead_code, reason = "every test binary uses its own part")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// A header and voxels to be; the defaults are a small valid image.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    pub(crate) version: u8,
    pub(crate) big: bool,
    pub(crate) single: bool,
    pub(crate) datatype: i16,
    /// dim[0] and the rest.
    pub(crate) dim: Vec<i64>,
    pub(crate) pixdim: [f64; 4],
    pub(crate) codes: (i32, i32),
    pub(crate) quaternion: [f64; 3],
    pub(crate) offset: [f64; 3],
    pub(crate) srow: [[f64; 4]; 3],
    pub(crate) scale: (f64, f64),
    pub(crate) units: u8,
    pub(crate) voxels: Vec<u8>,
}

impl Made {
    /// 2 x 3 x 4 (x, y, z) bytes 0 to 23, voxels of 1 x 2 x 3 mm.
    pub(crate) fn small() -> Self {
        Self {
            version: 1,
            big: false,
            single: true,
            datatype: 2,
            dim: vec![3, 2, 3, 4],
            pixdim: [1.0, 1.0, 2.0, 3.0],
            codes: (0, 1),
            quaternion: [0.0; 3],
            offset: [0.0; 3],
            srow: [[1.0, 0.0, 0.0, -5.0], [0.0, 2.0, 0.0, 6.0], [0.0, 0.0, 3.0, 7.5]],
            scale: (1.0, 0.0),
            units: 2,
            voxels: (0..24).collect(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.header();
        out.extend_from_slice(&self.voxels);
        out
    }

    /// The header with the bytes up to the first voxel.
    pub(crate) fn header(&self) -> Vec<u8> {
        let two = self.version == 2;
        let mut out = vec![0u8; if two { 544 } else { 352 }];
        let mut put = |at: usize, little: &[u8]| {
            let mut raw = little.to_vec();
            if self.big {
                raw.reverse();
            }
            out[at..at + raw.len()].copy_from_slice(&raw);
        };
        let float = |v: f64| if two { v.to_le_bytes().to_vec() } else { (v as f32).to_le_bytes().to_vec() };
        let int = |v: i64| if two { v.to_le_bytes().to_vec() } else { v.to_le_bytes()[..2].to_vec() };
        let code = |v: i32| v.to_le_bytes()[..if two { 4 } else { 2 }].to_vec();
        let (width, dims, pixdim, scl, forms, numbers) =
            if two { (8, 16, 104, 176, 344, 352) } else { (4, 40, 76, 112, 252, 256) };
        put(0, &(if two { 540i32 } else { 348 }).to_le_bytes());
        put(if two { 12 } else { 70 }, &self.datatype.to_le_bytes());
        for (i, &d) in self.dim.iter().enumerate() {
            put(dims + i * if two { 8 } else { 2 }, &int(d));
        }
        for (i, &d) in self.pixdim.iter().enumerate() {
            put(pixdim + i * width, &float(d));
        }
        put(scl, &float(self.scale.0));
        put(scl + width, &float(self.scale.1));
        put(forms, &code(self.codes.0));
        put(forms + if two { 4 } else { 2 }, &code(self.codes.1));
        for (i, &v) in self.quaternion.iter().chain(&self.offset).chain(self.srow.as_flattened()).enumerate()
        {
            put(numbers + i * width, &float(v));
        }
        let start = if self.single { out.len() } else { 0 };
        let mut put = |at: usize, little: &[u8]| {
            let mut raw = little.to_vec();
            if self.big {
                raw.reverse();
            }
            out[at..at + raw.len()].copy_from_slice(&raw);
        };
        if two {
            put(168, &(start as u64).to_le_bytes());
            put(500, &i32::from(self.units).to_le_bytes());
            let magic: &[u8] = if self.single { b"n+2\0\r\n\x1a\n" } else { b"ni2\0\r\n\x1a\n" };
            out[4..12].copy_from_slice(magic);
        } else {
            put(108, &(start as f32).to_le_bytes());
            put(123, &[self.units]);
            out[344..348].copy_from_slice(if self.single { b"n+1\0" } else { b"ni1\0" });
        }
        out
    }

    pub(crate) fn write(&self, folder: &Path, name: &str) -> PathBuf {
        write(folder, name, &self.bytes())
    }

    pub(crate) fn write_gz(&self, folder: &Path, name: &str) -> PathBuf {
        write(folder, name, &gzip(&self.bytes()))
    }
}

pub(crate) fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("the folder is writable");
    path
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}
