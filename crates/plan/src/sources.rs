//! Files that something was made of, to see whether they have changed.

use glioseg_formats::FormatError;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::Path;
use std::time::UNIX_EPOCH;

/// A file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFile {
    /// Name without folder: a dataset may be moved.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Time of the last change, ns since 1970; 0 where the system does not tell.
    pub modified_ns: u64,
    /// Hash of the content, in hexadecimal.
    pub sha256: String,
}

impl SourceFile {
    /// Size, time and hash of a file as it is now.
    ///
    /// # Errors
    /// [`FormatError::Io`] if it cannot be read.
    pub fn of(path: &Path) -> Result<Self, FormatError> {
        Ok(Self { sha256: content(path)?, ..Self::stamp(path)? })
    }

    /// Everything but the hash.
    fn stamp(path: &Path) -> Result<Self, FormatError> {
        let metadata = fs::metadata(path).map_err(|e| FormatError::io(path, "read", e))?;
        let since = metadata.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        Ok(Self {
            name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            bytes: metadata.len(),
            modified_ns: since.map_or(0, |d| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
            sha256: String::new(),
        })
    }

    /// Whether this is still the file: of the same name, size and time, or else of the same content.
    pub fn holds(&self, path: &Path) -> bool {
        Self::stamp(path).is_ok_and(|now| {
            self.name == now.name
                && self.bytes == now.bytes
                && ((self.modified_ns == now.modified_ns && now.modified_ns != 0)
                    || content(path).is_ok_and(|hash| hash == self.sha256))
        })
    }
}

/// SHA-256 of a file.
fn content(path: &Path) -> Result<String, FormatError> {
    let failed = |error| FormatError::io(path, "read", error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer).map_err(failed)? {
            0 => return Ok(hexadecimal(&hash.finalize())),
            n => hash.update(&buffer[..n]),
        }
    }
}

/// SHA-256 of bytes in memory, in hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
