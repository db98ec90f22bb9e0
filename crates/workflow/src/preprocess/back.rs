//! The way back: a label map of the space on the grid of a scan.

use std::path::{Path, PathBuf};

use glioseg_align::Transform;
use glioseg_formats::nifti;
use glioseg_plan::SourceFile;
use glioseg_volume::resample::affine_labels;
use glioseg_volume::{Geometry, LabelMap};

use super::error::PreprocessError;
use super::record::{PreprocessRecord, RECORD};
use super::space::index_map;

/// Finds the transform of a scan: from a point of the space to that of the scan.
///
/// `transforms` is a file of a transform, or the folder of prepared studies, or that of their transforms. In a folder the scan is
/// known by its content, whatever it is called; `labels` must be a label map of the same study, `CASE.nii.gz`.
///
/// # Errors
/// [`PreprocessError::UnknownScan`] if the scan was not prepared there, [`PreprocessError::OtherStudy`] if the label map is named after
/// another study, and errors of reading.
pub fn way_to_scan(transforms: &Path, scan: &Path, labels: &Path) -> Result<Transform, PreprocessError> {
    if transforms.is_file() {
        return Ok(Transform::read(transforms)?);
    }
    let record = record_of(transforms);
    let all = PreprocessRecord::read(&record)?;
    let sha256 = SourceFile::of(scan)?.sha256;
    let stem = labels.file_name().and_then(|n| n.to_str()).and_then(nifti::stem).unwrap_or_default();
    let ways = || all.cases.iter().flat_map(|study| study.channels.iter().map(move |c| (study, c)));
    // Phantoms and copies can give two studies one file.
    let of_study = ways().find(|(study, c)| c.sha256 == sha256 && study.case == stem);
    let Some((study, channel)) = of_study.or_else(|| ways().find(|(_, c)| c.sha256 == sha256)) else {
        return Err(PreprocessError::UnknownScan { path: scan.to_owned(), record });
    };
    if study.case != stem && all.cases.iter().any(|other| other.case == stem) {
        let (study, labels) = (study.case.clone(), labels.to_owned());
        return Err(PreprocessError::OtherStudy { scan: scan.to_owned(), study, labels });
    }
    Ok(channel.transform()?)
}

/// `preprocess.json` of a folder of prepared studies, or of the folder of their transforms.
fn record_of(folder: &Path) -> PathBuf {
    let own = folder.join(RECORD);
    match folder.parent() {
        Some(parent) if !own.is_file() && parent.join(RECORD).is_file() => parent.join(RECORD),
        _ => own,
    }
}

/// The label map on the grid of a scan: every voxel has the label of the nearest voxel in the space, 0 outside of it.
///
/// `to_scan` takes a point of the space to that of the scan. The result has exactly the header of the scan.
///
/// # Errors
/// [`PreprocessError::Volume`] if the scan's grid cannot hold labels.
pub fn to_scan(labels: &LabelMap, to_scan: &Transform, scan: &Geometry) -> Result<LabelMap, PreprocessError> {
    let map = index_map(scan, &to_scan.inverse(), &labels.geometry);
    let data = affine_labels(&labels.data, labels.geometry.shape, scan.shape, &map);
    Ok(LabelMap::new(data, scan.clone())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_volume::{Affine, Turn};

    #[test]
    fn voxels_return_exactly_by_the_identity_and_by_every_order_of_the_axes() {
        let rows = [[-1.0, 0.0, 0.0, 3.0], [0.0, -1.5, 0.0, -7.0], [0.0, 0.0, 2.0, 11.0]];
        let grid = Geometry::from_affine([5, 6, 7], Affine::from_rows(rows)).expect("regular");
        let labels = LabelMap::new((0..210).map(|i| i % 4).collect(), grid).expect("whole");
        for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            for flip in [[false; 3], [true, false, false], [false, true, true]] {
                let expected = labels.clone().turned(&Turn { axes, flip });
                let found = to_scan(&labels, &Transform::IDENTITY, &expected.geometry).expect("whole");
                assert_eq!(found, expected, "{axes:?} {flip:?}");
                let back = to_scan(&found, &Transform::IDENTITY, &labels.geometry).expect("whole");
                assert_eq!(back.data, labels.data);
            }
        }
        // One voxel of 1 mm to the left: the scan's voxel 0 shows the space's voxel 1 and the last one nothing.
        let shift = Transform::translation([-1.0, 0.0, 0.0]);
        let found = to_scan(&labels, &shift, &labels.geometry).expect("whole");
        assert_eq!((found.data[0], found.data[5], found.data[6]), (labels.data[1], labels.data[6], 0));
    }
}
