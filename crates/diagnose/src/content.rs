//! What a file is by its first bytes, where it is not what its name says: a pointer of Git LFS, a web page, an archive, an image of
//! another format.
//!
//! One function decides ([`Content::of`]); whoever opens a file asks it once the file turns out not to be what it should.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::Diagnose;

/// Bytes from the beginning of a file that tell what it is.
const HEAD: u64 = 4096;

/// A kind of file that is often found in the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// The few lines that stand for a file of Git LFS until it is fetched.
    LfsPointer,
    /// The path that stands for a file of git-annex or `DataLad` until it is fetched.
    AnnexPointer,
    /// A web page.
    Html {
        /// It asks for a login.
        login: bool,
        /// It says that something is not there.
        missing: bool,
    },
    /// XML, such as a storage server's error.
    Xml,
    /// JSON text.
    Json,
    /// A zip archive; PyTorch's files and npz are such too.
    Zip,
    /// Compressed by gzip.
    Gzip,
    /// Compressed by bzip2.
    Bzip2,
    /// Compressed by xz.
    Xz,
    /// Compressed by Zstandard.
    Zstd,
    /// A 7z archive.
    SevenZip,
    /// A RAR archive.
    Rar,
    /// A tar archive.
    Tar,
    /// A NIfTI image.
    Nifti,
    /// An NRRD image.
    Nrrd,
    /// A `MetaImage`, `.mha` or `.mhd`.
    MetaImage,
    /// A DICOM file.
    Dicom,
    /// An image of `FreeSurfer`, `.mgh`, or `.mgz` once unpacked.
    Mgh,
    /// HDF5; MINC 2 and new MATLAB files are such.
    Hdf5,
    /// `NetCDF`; MINC 1 is such.
    NetCdf,
    /// A MATLAB file.
    Matlab,
    /// A numpy array, `.npy`.
    Numpy,
    /// A pickle.
    Pickle,
    /// A picture: PNG, JPEG or TIFF.
    Picture,
    /// A PDF.
    Pdf,
}

impl Content {
    /// What begins with these bytes; `None` if nothing known does. A few hundred bytes tell all but a page's own words.
    pub fn of(head: &[u8]) -> Option<Self> {
        const MAGIC: &[(&[u8], Content)] = &[
            (b"version https://git-lfs.github.com/spec/", Content::LfsPointer),
            (b"version https://hawser.github.com/spec/", Content::LfsPointer),
            (b"/annex/objects/", Content::AnnexPointer),
            (b"PK\x03\x04", Content::Zip),
            (b"PK\x05\x06", Content::Zip),
            (b"PK\x07\x08", Content::Zip),
            (b"\x1f\x8b", Content::Gzip),
            (b"\xfd7zXZ\0", Content::Xz),
            (b"\x28\xb5\x2f\xfd", Content::Zstd),
            (b"7z\xbc\xaf\x27\x1c", Content::SevenZip),
            (b"Rar!\x1a\x07", Content::Rar),
            (b"NRRD000", Content::Nrrd),
            (b"\x89HDF\r\n\x1a\n", Content::Hdf5),
            (b"CDF\x01", Content::NetCdf),
            (b"CDF\x02", Content::NetCdf),
            (b"MATLAB 5.0 MAT-file", Content::Matlab),
            (b"\x93NUMPY", Content::Numpy),
            (b"\x89PNG\r\n", Content::Picture),
            (b"\xff\xd8\xff", Content::Picture),
            (b"II*\0", Content::Picture),
            (b"MM\0*", Content::Picture),
            (b"%PDF-", Content::Pdf),
        ];
        let by_magic = MAGIC.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, content)| *content);
        by_magic.or_else(|| Self::by_structure(head)).or_else(|| Self::by_text(head))
    }

    /// Binary files whose mark is not at the beginning, or is too short to be believed alone.
    fn by_structure(head: &[u8]) -> Option<Self> {
        let at = |start: usize, text: &[u8]| head.get(start..start + text.len()) == Some(text);
        let big = |start: usize| Some(i32::from_be_bytes(*head.get(start..)?.first_chunk()?));
        if head.starts_with(b"BZh") && at(4, b"1AY&SY") {
            return Some(Self::Bzip2);
        }
        if at(257, b"ustar") {
            return Some(Self::Tar);
        }
        if [&b"n+1\0"[..], b"ni1\0"].iter().any(|m| at(344, m)) || at(4, b"n+2\0") || at(4, b"ni2\0") {
            return Some(Self::Nifti);
        }
        // Without its preamble a file begins with group 8 or 2, and the type of the first value.
        let value = head.get(4..6).is_some_and(|kind| kind.iter().all(u8::is_ascii_uppercase));
        if at(128, b"DICM") || (value && (at(0, &[8, 0]) || at(0, &[2, 0]))) {
            return Some(Self::Dicom);
        }
        // Version 1, four sizes and a voxel type that there is.
        let sizes = (1..5).all(|i| big(4 * i).is_some_and(|n| (1..=1 << 16).contains(&n)));
        if big(0) == Some(1) && sizes && big(20).is_some_and(|kind| [0, 1, 3, 4].contains(&kind)) {
            return Some(Self::Mgh);
        }
        (head.len() > 2 && head[0] == 0x80 && (2..=5).contains(&head[1])).then_some(Self::Pickle)
    }

    fn by_text(head: &[u8]) -> Option<Self> {
        let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
        let lower = String::from_utf8_lossy(head).to_ascii_lowercase();
        let html = ["<!doctype html", "<html", "<head", "<body"].iter().any(|tag| lower.starts_with(tag));
        let later = (lower.starts_with("<?xml") || lower.starts_with("<!--")) && lower.contains("<html");
        if html || later {
            let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
            return Some(Self::Html {
                login: has(&["login", "log in", "sign in", "signin", "password"]),
                missing: has(&["404", "not found"]),
            });
        }
        if lower.starts_with("<?xml") || lower.starts_with("<error>") {
            return Some(Self::Xml);
        }
        let keys = ["objecttype =", "objecttype=", "ndims =", "ndims="];
        if keys.iter().any(|key| lower.starts_with(key)) {
            return Some(Self::MetaImage);
        }
        let json = match head {
            [b'{', rest @ ..] => {
                rest.trim_ascii_start().starts_with(b"\"") || rest.trim_ascii_start() == b"}"
            }
            [b'[', rest @ ..] => {
                matches!(rest.trim_ascii_start(), [b'{' | b'[' | b'"' | b']' | b'0'..=b'9', ..])
            }
            _ => false,
        };
        json.then_some(Self::Json)
    }

    /// What the file at `path` is; `None` if it cannot be read or nothing known.
    pub fn of_file(path: &Path) -> Option<Self> {
        let mut head = Vec::new();
        File::open(path).ok()?.take(HEAD).read_to_end(&mut head).ok()?;
        Self::of(&head)
    }

    /// What to do to get what was meant.
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::LfsPointer => {
                "the file itself was not fetched: install git-lfs and run `git lfs pull` in the repository"
            }
            Self::AnnexPointer => {
                "the file itself was not fetched: run `datalad get` or `git annex get` with its path in the repository"
            }
            Self::Html { login: true, .. } => {
                "the download gave a login page: log in, or use the site's own download tool or token, and download the file again"
            }
            Self::Html { missing: true, .. } => {
                "the download gave the page of an error: the address is wrong or has changed; download the file again from a right one"
            }
            Self::Html { .. } => {
                "the download gave a web page instead of the file: use the address of the file itself (on GitHub that of `Raw`) and \
                 download it again"
            }
            Self::Xml => {
                "open it in an editor: it is often a server's error message; then download the file again"
            }
            Self::Json => "open it in an editor: is it a server's answer, or another file than was meant?",
            Self::Zip => "unpack it (`unzip FILE`) and give what is in it",
            Self::Gzip => "unpack it (`gunzip FILE`) and give what is in it",
            Self::Bzip2 => "unpack it (`bunzip2 FILE`); images may be compressed by gzip only",
            Self::Xz => "unpack it (`unxz FILE`); images may be compressed by gzip only",
            Self::Zstd => "unpack it (`unzstd FILE`); images may be compressed by gzip only",
            Self::SevenZip => "unpack it (`7z x FILE`) and give what is in it",
            Self::Rar => "unpack it (`unrar x FILE`) and give what is in it",
            Self::Tar => "unpack it (`tar xf FILE`) and give what is in it",
            Self::Nifti => "give it where an image is expected",
            Self::Nrrd | Self::MetaImage => "convert it to NIfTI, for example in 3D Slicer or with SimpleITK",
            Self::Dicom => "convert the study with `glioseg dicom convert`, and give the .nii.gz files",
            Self::Mgh => {
                "convert it to NIfTI with FreeSurfer's `mri_convert IN.mgz OUT.nii.gz`, or with nibabel"
            }
            Self::Hdf5 => "convert it to NIfTI (for MINC: `mnc2nii`), or give the file that was meant",
            Self::NetCdf => "convert it to NIfTI (for MINC: `mnc2nii`)",
            Self::Matlab => "export the array from MATLAB with `niftiwrite`",
            Self::Numpy => {
                "an array has no grid: write it as NIfTI with its affine, for example with nibabel"
            }
            Self::Pickle => "give it where a pickle is expected: plans.pkl, CASE.pkl or weights",
            Self::Picture => {
                "a picture has neither grid nor voxel size: give the NIfTI image that it was made from"
            }
            Self::Pdf => "give the file that was meant",
        }
    }
}

impl fmt::Display for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::LfsPointer => "a Git LFS pointer",
            Self::AnnexPointer => "a git-annex pointer",
            Self::Html { login: true, .. } => "an HTML page that asks for a login",
            Self::Html { missing: true, .. } => "an HTML page that says `not found`",
            Self::Html { .. } => "an HTML page",
            Self::Xml => "an XML text",
            Self::Json => "a JSON text",
            Self::Zip => "a zip archive",
            Self::Gzip => "a gzip file",
            Self::Bzip2 => "a bzip2 file",
            Self::Xz => "an xz file",
            Self::Zstd => "a Zstandard file",
            Self::SevenZip => "a 7z archive",
            Self::Rar => "a RAR archive",
            Self::Tar => "a tar archive",
            Self::Nifti => "a NIfTI image",
            Self::Nrrd => "an NRRD image",
            Self::MetaImage => "a MetaImage",
            Self::Dicom => "a DICOM file",
            Self::Mgh => "a FreeSurfer image (MGH)",
            Self::Hdf5 => "an HDF5 file",
            Self::NetCdf => "a NetCDF file",
            Self::Matlab => "a MATLAB file",
            Self::Numpy => "a numpy array (.npy)",
            Self::Pickle => "a pickle",
            Self::Picture => "a picture (PNG, JPEG or TIFF)",
            Self::Pdf => "a PDF",
        })
    }
}

/// What a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expected {
    /// A NIfTI image.
    Image,
    /// JSON.
    Json,
    /// Weights of a network.
    Weights,
    /// An npz.
    Npz,
    /// A pickle.
    Pickle,
}

impl Expected {
    const fn name(self) -> &'static str {
        match self {
            Self::Image => "a NIfTI file",
            Self::Json => "a JSON file",
            Self::Weights => "a file of weights",
            Self::Npz => "an npz",
            Self::Pickle => "a pickle",
        }
    }

    /// Whether such a file may be this, damaged perhaps.
    fn may_be(self, content: Content) -> bool {
        matches!(
            (self, content),
            (Self::Image, Content::Gzip | Content::Nifti)
                | (Self::Json, Content::Json)
                | (Self::Weights, Content::Zip | Content::Pickle)
                | (Self::Npz, Content::Zip)
                | (Self::Pickle, Content::Pickle)
        )
    }
}

/// A file that is of another kind than its reader reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignFile {
    /// The file.
    pub path: PathBuf,
    /// What it is.
    pub content: Content,
    /// What it should be.
    pub expected: Expected,
    /// Whether it is that once it is unpacked by gzip.
    pub packed: bool,
}

impl ForeignFile {
    /// What the file at `path` is, if it is not a file of the kind that is expected.
    pub fn at(path: &Path, expected: Expected) -> Option<Self> {
        Self::new(path, Content::of_file(path)?, expected, false)
    }

    /// The same for a file whose beginning is known.
    pub fn beginning(path: &Path, head: &[u8], expected: Expected) -> Option<Self> {
        Self::new(path, Content::of(head)?, expected, false)
    }

    /// The same for the unpacked beginning of a file.
    pub fn unpacked(path: &Path, head: &[u8], expected: Expected) -> Option<Self> {
        Self::new(path, Content::of(head)?, expected, true)
    }

    fn new(path: &Path, content: Content, expected: Expected, packed: bool) -> Option<Self> {
        (!expected.may_be(content)).then(|| Self { path: path.to_owned(), content, expected, packed })
    }
}

impl fmt::Display for ForeignFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unpacked = if self.packed { ", once it is unpacked" } else { "" };
        write!(f, "{} is {}{unpacked}, not {}", self.path.display(), self.content, self.expected.name())
    }
}

impl Error for ForeignFile {}

impl Diagnose for ForeignFile {
    fn hint(&self) -> Option<String> {
        Some(self.content.remedy().to_owned())
    }

    fn path(&self) -> Option<&Path> {
        Some(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(length: usize, marks: &[(usize, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; length];
        for (at, mark) in marks {
            bytes[*at..at + mark.len()].copy_from_slice(mark);
        }
        bytes
    }

    #[test]
    fn files_are_told_by_their_first_bytes() {
        let page = |login, missing| Content::Html { login, missing };
        let mgh =
            with(284, &[(0, &[0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 3])]);
        let cases: [(&[u8], Content); 27] = [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n", Content::LfsPointer),
            (b"/annex/objects/MD5E-s12--d4.nii.gz\n", Content::AnnexPointer),
            (b"<!DOCTYPE html><html><body>hello", page(false, false)),
            (b"\n  <html><title>Sign in</title>", page(true, false)),
            (b"\xef\xbb\xbf<HTML><h1>404 Not Found</h1>", page(false, true)),
            (b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code>", Content::Xml),
            (b"<?xml version=\"1.0\"?><!DOCTYPE html><html>", page(false, false)),
            (b"{\"message\": \"Not Found\"}", Content::Json),
            (b"[{\"train\": []}]", Content::Json),
            (b"PK\x03\x04\x14\0", Content::Zip),
            (b"\x1f\x8b\x08\0", Content::Gzip),
            (b"BZh91AY&SY\x01", Content::Bzip2),
            (b"\xfd7zXZ\0\0", Content::Xz),
            (b"\x28\xb5\x2f\xfd\0", Content::Zstd),
            (b"7z\xbc\xaf\x27\x1c\0", Content::SevenZip),
            (b"NRRD0005\n# Complete NRRD", Content::Nrrd),
            (b"ObjectType = Image\nNDims = 3\n", Content::MetaImage),
            (b"NDims = 3\nDimSize = 4 4 4\n", Content::MetaImage),
            (b"\x89HDF\r\n\x1a\n\0", Content::Hdf5),
            (b"CDF\x01\0", Content::NetCdf),
            (b"\x93NUMPY\x01\0", Content::Numpy),
            (b"\x80\x02}q\0.", Content::Pickle),
            (b"\x08\0\x05\0CS\x0a\0ISO_IR 100", Content::Dicom),
            (&with(200, &[(128, b"DICM")]), Content::Dicom),
            (&with(512, &[(257, b"ustar")]), Content::Tar),
            (&with(348, &[(344, b"n+1\0")]), Content::Nifti),
            (&mgh, Content::Mgh),
        ];
        for (head, content) in cases {
            assert_eq!(Content::of(head), Some(content), "{}", head.escape_ascii());
        }
        for nothing in
            [&b""[..], b"some text", b"{no json}", b"[x", &[0; 400], &[0, 0, 0, 1], b"BZh9", b"\x80"]
        {
            assert_eq!(Content::of(nothing), None, "{}", nothing.escape_ascii());
        }
    }

    #[test]
    fn a_foreign_file_is_named_with_its_remedy_and_one_of_the_right_kind_is_none() {
        let foreign =
            ForeignFile::unpacked(Path::new("a.nii.gz"), b"NRRD0004\n", Expected::Image).expect("foreign");
        assert_eq!(foreign.to_string(), "a.nii.gz is an NRRD image, once it is unpacked, not a NIfTI file");
        assert!(foreign.hint().expect("a remedy").contains("3D Slicer"));
        for (expected, head) in [
            (Expected::Image, &b"\x1f\x8b\x08\0"[..]),
            (Expected::Json, b"{\"a\": 1}"),
            (Expected::Weights, b"PK\x03\x04"),
            (Expected::Weights, b"\x80\x02}"),
            (Expected::Npz, b"PK\x03\x04"),
            (Expected::Pickle, b"\x80\x04}"),
        ] {
            assert_eq!(ForeignFile::unpacked(Path::new("x"), head, expected), None, "{expected:?}");
        }
    }
}
