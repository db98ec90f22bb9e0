//! What the subcommands do.

pub(crate) mod apply;
pub(crate) mod bench;
pub(crate) mod compare;
pub(crate) mod convert;
pub(crate) mod crossval;
pub(crate) mod dataset;
pub(crate) mod demo;
pub(crate) mod devices;
pub(crate) mod dicom;
pub(crate) mod ensemble;
pub(crate) mod evaluate;
pub(crate) mod fingerprint;
pub(crate) mod info;
mod interrupt;
pub(crate) mod phantom;
pub(crate) mod plan;
pub(crate) mod postprocess;
pub(crate) mod predict;
mod predict_raw;
pub(crate) mod prep;
pub(crate) mod preprocess;
pub(crate) mod rank;
mod ready;
pub(crate) mod report;
mod table;
pub(crate) mod train;
pub(crate) mod view;

use std::io::Write as _;
use std::path::Path;

use glioseg_plan::Dataset;

use crate::ui::{Ui, visible};

/// How a command ended that could start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// All done.
    Done,
    /// Some case failed, or Ctrl-C stopped the work; what is done is kept.
    SomeFailed,
}

/// What describes the labels: the file that was given, else one in `folders`, of which the user is told.
pub(crate) fn described<P: AsRef<Path>>(
    given: Option<&Path>,
    folders: impl IntoIterator<Item = P>,
    ui: &Ui,
) -> anyhow::Result<Option<Dataset>> {
    let found = Dataset::describing(given, folders)?;
    if let (None, Some(found)) = (given, &found) {
        ui.say(&format!("labels from {}", found.path.display()));
    }
    Ok(found.map(|found| found.dataset))
}

/// Sets the number of threads of everything that computes; once, before the first tensor.
pub(crate) fn set_threads(threads: Option<u16>) -> anyhow::Result<()> {
    if let Some(threads) = threads {
        rayon::ThreadPoolBuilder::new().num_threads(usize::from(threads)).build_global()?;
    }
    Ok(())
}

/// A line of data on stdout. A reader that has gone (`| head`) is not an error.
pub(crate) fn print(line: &str) -> anyhow::Result<()> {
    match writeln!(std::io::stdout().lock(), "{}", visible(line)) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(()),
    }
}

/// Most memory that the process has used, in bytes, where the system tells.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|l| l.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}
