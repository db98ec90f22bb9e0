//! One HTML file that shows a cohort: scores, ranking, learning curves, and every case with slices and a 3D viewer.
//!
//! The decision that shaped it: the file holds everything but the volumes, so that it opens anywhere and asks nothing
//! of a network; volumes are linked by relative paths. What the page needs at once (tables) is one compressed block;
//! every case has a block of its own, unpacked when the case is opened, so that a thousand cases stay readable. Text
//! from outside reaches the page as data, never as HTML.

mod curves;
mod data;
mod html;
mod outline;
mod pictures;
mod png;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use glioseg_formats::atomic;
use glioseg_plan::record::Record;
use rayon::prelude::*;

pub use curves::{Curve, read_curves};

use crate::cohort::CohortScores;
use crate::error::ReportError;
use glioseg_metrics::labels::Region;

/// What a report shows.
#[derive(Debug, Clone, Default)]
pub struct ReportInput {
    /// Its heading.
    pub title: String,
    /// Sets of predictions, each with what is known of it.
    pub runs: Vec<ReportRun>,
    /// The cases, in the order in which they are listed.
    pub cases: Vec<ReportCase>,
    /// Regions of the references, as outlined.
    pub regions: Vec<Region>,
    /// How models learned.
    pub curves: Vec<Curve>,
}

/// A set of predictions.
#[derive(Debug, Clone, Default)]
pub struct ReportRun {
    /// What it is called.
    pub name: String,
    /// Its scores, where it was scored.
    pub scores: Option<CohortScores>,
    /// The record of its prediction, where there is one.
    pub predicted: Option<Record>,
    /// The regions of [`ReportInput::regions`] in the coding of these predictions, in the same order.
    pub regions: Vec<Region>,
}

/// The files of a case. A file that is not there, or cannot be read, is left out of the report and named there.
#[derive(Debug, Clone, Default)]
pub struct ReportCase {
    /// Its name.
    pub id: String,
    /// Channel name and image.
    pub channels: Vec<(String, PathBuf)>,
    /// The reference.
    pub reference: Option<PathBuf>,
    /// The prediction of every run, in the order of [`ReportInput::runs`].
    pub predictions: Vec<Option<PathBuf>>,
    /// Maps of uncertainty of every run: `entropy` or `disagreement`, and a file with a channel per region of the record.
    pub maps: Vec<Vec<(String, PathBuf)>>,
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportSummary {
    /// Number of cases.
    pub cases: usize,
    /// Files that could not be shown, with the reason.
    pub left_out: Vec<String>,
    /// Bytes of the report.
    pub bytes: usize,
    /// The folder that holds report and volumes: what a server has to serve.
    pub root: PathBuf,
}

/// Writes a report; `progress` is told the number of cases done and of all.
///
/// # Errors
/// [`ReportError::NothingInCommon`] if runs are to be ranked that share no case or metric, [`ReportError::Volume`] if the
/// file cannot be written. Images that cannot be read are no error: [`ReportSummary::left_out`] names them.
pub fn write_report(
    input: &ReportInput,
    path: &Path,
    progress: &(dyn Fn(usize, usize) + Sync),
) -> Result<ReportSummary, ReportError> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let fineness = pictures::Fineness::for_cases(input.cases.len());
    let done = AtomicUsize::new(0);
    let cases: Vec<data::CaseData> = input
        .cases
        .par_iter()
        .map(|case| {
            let found = data::case_data(case, input, &folder, fineness);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, input.cases.len());
            found
        })
        .collect();
    let left_out = cases.iter().flat_map(|c| c.problems.iter().cloned()).collect();
    let root = root(&folder, input);
    let overview = data::overview(input, &cases, up(&folder, &root))?;
    let html = html::html(&input.title, &overview, &cases);
    atomic::write(path, |file| file.write_all(html.as_bytes()))?;
    Ok(ReportSummary { cases: cases.len(), left_out, bytes: html.len(), root })
}

/// The innermost folder that holds the report and all volumes.
fn root(folder: &Path, input: &ReportInput) -> PathBuf {
    let mut root = folder.to_owned();
    for case in &input.cases {
        let files = case
            .channels
            .iter()
            .map(|(_, p)| p)
            .chain(&case.reference)
            .chain(case.predictions.iter().flatten())
            .chain(case.maps.iter().flatten().map(|(_, p)| p));
        for file in files.filter_map(|f| f.canonicalize().ok()) {
            while !file.starts_with(&root) {
                if !root.pop() {
                    return folder.to_owned();
                }
            }
        }
    }
    root
}

/// How many folders `root` lies above `folder`.
fn up(folder: &Path, root: &Path) -> usize {
    folder.components().count().saturating_sub(root.components().count())
}

/// `file` as seen from `folder` (absolute), with `/` between names.
fn relative(folder: &Path, file: &Path) -> String {
    let file = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    let (a, b): (Vec<_>, Vec<_>) = (folder.components().collect(), file.components().collect());
    let shared = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    if shared == 0 {
        return file.display().to_string();
    }
    let ups = std::iter::repeat_n("..".to_owned(), a.len() - shared);
    let downs = b[shared..].iter().map(|c| c.as_os_str().to_string_lossy().into_owned());
    ups.chain(downs).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_are_linked_from_the_folder_of_the_report() {
        let folder = Path::new("/a/b/c");
        assert_eq!(relative(folder, Path::new("/a/b/c/d/x.nii.gz")), "d/x.nii.gz");
        assert_eq!(relative(folder, Path::new("/a/x y.nii.gz")), "../../x y.nii.gz");
        assert_eq!(up(folder, Path::new("/a")), 2);
    }
}
