//! Where users have NVIDIA's libraries.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libloading::Library;

use crate::error::CudaError;

/// The environment variable that names folders with libraries, separated as those of `PATH`.
pub const LIBRARIES_VARIABLE: &str = "GLIOSEG_CUDA_LIBS";

/// The folders in which libraries are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Libraries {
    folders: Vec<PathBuf>,
}

/// What decides about the folders.
#[derive(Debug, Clone, Default)]
struct Environment {
    /// `GLIOSEG_CUDA_LIBS`.
    folders: Option<OsString>,
    /// `CUDA_PATH`, the toolkit's folder.
    toolkit: Option<OsString>,
    /// `VIRTUAL_ENV`, the folder of an active Python environment.
    python: Option<OsString>,
}

impl Libraries {
    /// The folders of this process: those of `GLIOSEG_CUDA_LIBS`, then the system's own, the toolkit's, and those that pip fills
    /// in an active Python environment.
    pub fn find() -> Self {
        Self::of(&Environment {
            folders: std::env::var_os(LIBRARIES_VARIABLE),
            toolkit: std::env::var_os("CUDA_PATH"),
            python: std::env::var_os("VIRTUAL_ENV"),
        })
    }

    fn of(environment: &Environment) -> Self {
        let Environment { folders, toolkit, python } = environment;
        let mut all: Vec<PathBuf> = folders.iter().flat_map(std::env::split_paths).collect();
        all.retain(|folder| !folder.as_os_str().is_empty());
        // A library without a folder is looked for where the system's loader does.
        all.push(PathBuf::new());
        all.extend(toolkit.iter().map(|toolkit| Path::new(toolkit).join("lib64")));
        all.extend(python.iter().flat_map(|python| pip_folders(Path::new(python))));
        Self { folders: all }
    }

    /// The folders in their order; an empty path stands for the system's own.
    pub fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    /// Opens the first library of this name.
    ///
    /// # Errors
    /// [`CudaError::Unusable`] if a file of this name is in one of the folders and cannot be opened. `Ok(None)` if there is none.
    pub(crate) fn open(&self, name: &str) -> Result<Option<(Library, PathBuf)>, CudaError> {
        for folder in &self.folders {
            let path = folder.join(name);
            let system = folder.as_os_str().is_empty();
            if !system && !path.is_file() {
                continue;
            }
            // SAFETY: opening a library runs its initialisers. The names are those of NVIDIA's libraries, from folders that the
            // user or the system names for them; what such a library does then is NVIDIA's to answer for.
            match unsafe { Library::new(&path) } {
                Ok(library) => return Ok(Some((library, path))),
                Err(_) if system => {}
                Err(error) => return Err(CudaError::Unusable { path, reason: error.to_string() }),
            }
        }
        Ok(None)
    }
}

/// `lib/python3*/site-packages/nvidia/*/lib` of an environment, in order of their names.
fn pip_folders(environment: &Path) -> Vec<PathBuf> {
    let below = |folder: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        found.sort();
        found
    };
    let mut folders = vec![];
    for python in below(&environment.join("lib")) {
        if python.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")) {
            folders.extend(below(&python.join("site-packages/nvidia")).into_iter().map(|p| p.join("lib")));
        }
    }
    folders.retain(|folder| folder.is_dir());
    folders
}

/// The folder in which the Python of this machine has cuDNN, to be suggested for [`LIBRARIES_VARIABLE`]; `None` without Python or
/// without cuDNN in it. Starts `python3`.
pub fn python_folder() -> Option<PathBuf> {
    let script = "import nvidia.cudnn, os; print(os.path.join(list(nvidia.cudnn.__path__)[0], 'lib'))";
    let answer = Command::new("python3").args(["-c", script]).stderr(Stdio::null()).output().ok()?;
    let folder = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
    (answer.status.success() && folder.join(crate::cudnn::FILE).is_file()).then_some(folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder below the build's own, empty at first.
    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("glioseg-cuda-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder");
        path
    }

    #[test]
    fn the_users_folders_come_first_and_pips_last() {
        let root = folder("order");
        let pip = root.join("env/lib/python3.12/site-packages/nvidia/cudnn/lib");
        std::fs::create_dir_all(&pip).expect("a folder");
        std::fs::create_dir_all(root.join("env/lib/python2/site-packages/nvidia/cudnn/lib"))
            .expect("a folder");
        let found = Libraries::of(&Environment {
            folders: Some(std::env::join_paths(["/a", "", "/b"]).expect("paths")),
            toolkit: Some("/cuda".into()),
            python: Some(root.join("env").into()),
        });
        let expected = [Path::new("/a"), Path::new("/b"), Path::new(""), Path::new("/cuda/lib64"), &pip];
        assert_eq!(found.folders(), expected);
        assert_eq!(Libraries::of(&Environment::default()).folders(), [Path::new("")]);
        std::fs::remove_dir_all(root).expect("removed");
    }

    #[test]
    fn a_damaged_library_is_named_and_a_missing_one_is_not_there() {
        let root = folder("damaged");
        let libraries = Libraries { folders: vec![root.clone()] };
        assert!(matches!(libraries.open("libdamaged.so.9"), Ok(None)));
        let path = root.join("libdamaged.so.9");
        std::fs::write(&path, "not a library").expect("written");
        let error = libraries.open("libdamaged.so.9").expect_err("a text is not a library");
        assert!(error.to_string().starts_with(&format!("{}: ", path.display())), "{error}");
        std::fs::remove_dir_all(root).expect("removed");
    }
}
