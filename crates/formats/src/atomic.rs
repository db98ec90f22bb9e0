//! Files that are either complete or not there.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::FormatError;

/// Counts the files of this process, so that two writers never share a temporary name.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Removes an unfinished file when the writing ends early.
struct Unfinished<'a>(Option<&'a Path>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some(path) = self.0 {
            // The error that brought us here is the one to report.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a file under a temporary name in the same folder, makes it durable, and only then gives it its name.
///
/// A reader, or a later run after a crash, therefore sees the old file, the new one, or none. A file of that name is
/// replaced. Temporary names begin with a dot and end in `.part`.
///
/// # Errors
/// [`FormatError::Io`] that names `path`; nothing is left behind.
pub fn write(
    path: &Path,
    fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), FormatError> {
    let temporary = temporary_name(path);
    let file = File::create_new(&temporary).map_err(|error| FormatError::io(path, "write", error))?;
    let mut unfinished = Unfinished(Some(&temporary));
    finish(file, fill)
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|error| FormatError::io(path, "write", error))?;
    unfinished.0 = None;
    sync_folder(path);
    Ok(())
}

fn finish(file: File, fill: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<()> {
    let mut writer = BufWriter::with_capacity(1 << 18, file);
    fill(&mut writer)?;
    writer.flush()?;
    writer.get_ref().sync_all()
}

fn temporary_name(path: &Path) -> PathBuf {
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}-{count}.part", std::process::id()))
}

/// Makes the new name durable too, where the system can; a failure loses nothing that is already on disk.
fn sync_folder(path: &Path) {
    if cfg!(unix) {
        let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let _ = File::open(parent).and_then(|folder| folder.sync_all());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_diagnose::Diagnose as _;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("the folder is there");
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.bin");
        write(&path, |f| f.write_all(b"old")).expect("writable");
        let error = write(&path, |f| {
            f.write_all(b"half")?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        })
        .expect_err("the writer failed");
        assert!(error.to_string().contains("a.bin"), "{error}");
        let hint = error.hint().expect("a hint");
        assert!(
            hint.contains("disk is full") && hint.contains(&folder.path().display().to_string()),
            "{hint}"
        );
        assert_eq!(fs::read(&path).expect("still there"), b"old");
        assert_eq!(names(folder.path()), ["a.bin"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_an_error_even_when_it_shows_only_at_the_end() {
        let full = File::options().write(true).open("/dev/full").expect("Linux has /dev/full");
        let error = finish(full, |f| f.write_all(b"fits the buffer")).expect_err("no space");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_missing_folder_is_named_with_a_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("none/a.bin");
        let error = write(&path, |f| f.write_all(b"x")).expect_err("no folder");
        assert!(error.to_string().contains("none/a.bin"), "{error}");
        assert!(error.hint().expect("a hint").contains("create the output folder"));
    }
}
