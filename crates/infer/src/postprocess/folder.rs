//! Folders of label maps.

use std::path::{Path, PathBuf};

use glioseg_formats::nifti;
use rayon::prelude::*;

use super::{PostprocessError, SearchCase};
use crate::output::{OutputRules, write_labels};

/// What is done to every label map.
#[derive(Debug, Clone, Default)]
pub struct PostprocessOptions {
    /// The steps, on the values as they are read, and how values are written.
    pub rules: OutputRules,
    /// Values that may occur; none allows any.
    pub known: Vec<u16>,
}

/// What became of a label map.
#[derive(Debug)]
pub struct PostprocessedCase {
    /// The case.
    pub case: String,
    /// Voxels that each step changed, or why there is no result.
    pub changed: Result<Vec<usize>, PostprocessError>,
}

/// Applies steps and recoding to label maps, in parallel, and writes `OUT/CASE.nii.gz`; `observer` hears of every case.
///
/// A case that fails does not stop the others. The results are in the order of `cases`.
///
/// # Errors
/// [`PostprocessError::OutputIsInput`], or [`PostprocessError::Volume`] if the folder cannot be made; then nothing is done.
pub fn postprocess_cases(
    cases: &[(String, PathBuf)],
    out: &Path,
    options: &PostprocessOptions,
    observer: &(dyn Fn(&PostprocessedCase) + Sync),
) -> Result<Vec<PostprocessedCase>, PostprocessError> {
    std::fs::create_dir_all(out).map_err(|source| glioseg_formats::FormatError::Io {
        path: out.into(),
        action: "make",
        source,
    })?;
    let same = |path: &Path| path.parent().and_then(|p| p.canonicalize().ok()) == out.canonicalize().ok();
    if cases.iter().any(|(_, path)| same(path)) {
        return Err(PostprocessError::OutputIsInput { path: out.into() });
    }
    let done = cases.par_iter().map(|(case, path)| {
        let changed = postprocess_file(path, out, case, options);
        let done = PostprocessedCase { case: case.clone(), changed };
        observer(&done);
        done
    });
    Ok(done.collect())
}

fn postprocess_file(
    path: &Path,
    out: &Path,
    case: &str,
    options: &PostprocessOptions,
) -> Result<Vec<usize>, PostprocessError> {
    let mut map = nifti::read_labels(path)?;
    let strange =
        |label| PostprocessError::StrangeLabel { path: path.to_owned(), label, known: options.known.clone() };
    let found = map.counts();
    if let Some(&label) = found.keys().find(|v| !options.known.is_empty() && !options.known.contains(v)) {
        return Err(strange(label));
    }
    let changed = options.rules.apply(&mut map).map_err(strange)?;
    // As the input, so that a folder stays a folder of one kind.
    let plain = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("nii"));
    write_labels(out, case, if plain { ".nii" } else { ".nii.gz" }, &map)?;
    Ok(changed)
}

/// Counts a label of a prediction and one of its reference, for the search of a threshold.
///
/// # Errors
/// [`PostprocessError::Shape`] if the two differ in shape; those of reading.
pub fn count_pair(prediction: (&Path, u16), reference: (&Path, u16)) -> Result<SearchCase, PostprocessError> {
    let (found, expected) = (nifti::read_labels(prediction.0)?, nifti::read_labels(reference.0)?);
    if found.shape() != expected.shape() {
        return Err(PostprocessError::Shape {
            path: prediction.0.to_owned(),
            found: found.shape(),
            reference: reference.0.to_owned(),
            expected: expected.shape(),
        });
    }
    let both = found.data.iter().zip(&expected.data);
    Ok(SearchCase {
        predicted: found.count_of(&[prediction.1]) as u64,
        reference: expected.count_of(&[reference.1]) as u64,
        both: both.filter(|&(&p, &r)| p == prediction.1 && r == reference.1).count() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{Postprocessing, PostprocessingStep};
    use super::*;
    use glioseg_volume::{Geometry, LabelMap};

    #[test]
    fn a_strange_label_fails_its_case_and_no_other() {
        let dir = tempfile::tempdir().expect("a folder");
        let save = |name: &str, data: Vec<u16>| {
            let path = dir.path().join(name);
            let map = LabelMap::new(data, Geometry::isotropic([1, 1, 4])).expect("a map");
            nifti::write_labels(&path, &map).expect("written");
            (name.trim_end_matches(".nii.gz").to_owned(), path)
        };
        let cases = [save("a.nii.gz", vec![0, 3, 2, 1]), save("b.nii.gz", vec![0, 7, 0, 0])];
        let options = PostprocessOptions {
            rules: OutputRules {
                postprocessing: Postprocessing::new(vec![PostprocessingStep::ReplaceSmall {
                    labels: vec![3],
                    below_voxels: 2,
                    with: 2,
                }]),
                ..OutputRules::default()
            },
            known: vec![0, 1, 2, 3],
        };
        let out = dir.path().join("out");
        let done = postprocess_cases(&cases, &out, &options, &|_| {}).expect("started");
        assert_eq!(done[0].changed.as_ref().expect("done"), &[1]);
        assert_eq!(nifti::read_labels(&out.join("a.nii.gz")).expect("written").data, [0, 2, 2, 1]);
        let error = done[1].changed.as_ref().expect_err("label 7").to_string();
        assert!(error.contains("b.nii.gz holds the label 7, but the labels are [0, 1, 2, 3]"), "{error}");
        assert!(!out.join("b.nii.gz").exists());
        let error = postprocess_cases(&cases, dir.path(), &options, &|_| {}).expect_err("the same folder");
        assert!(error.to_string().contains("is also the input"), "{error}");
        let counts = count_pair((&cases[0].1, 3), (&cases[0].1, 3)).expect("counted");
        assert_eq!(counts, SearchCase { predicted: 1, reference: 1, both: 1 });
    }
}
