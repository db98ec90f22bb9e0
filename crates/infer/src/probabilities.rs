//! `CASE.npz`: probabilities as nnU-Net saves them, of either version.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use glioseg_formats::{FormatError, atomic, npz};
use glioseg_interop::{Value, write_pickle};
use glioseg_volume::Geometry;
use glioseg_volume::crop::box_shape;
use half::f16;

use super::export::{Decision, Probabilities};

/// Writes `probabilities`, `f32`, `[output, z, y, x]`, as a compressed npz; one output is in memory at a time.
///
/// # Errors
/// [`FormatError::Io`] with the path; no unfinished file is left.
pub fn write_probabilities(path: &Path, probabilities: &Probabilities) -> Result<(), FormatError> {
    let shape = probabilities.shape();
    write_npz(path, "probabilities", probabilities.outputs(), shape, |output| probabilities.channel(output))
}

/// Writes version 1's `softmax`, `f16`, `[output, z, y, x]` of the cropped box, as a compressed npz.
///
/// # Errors
/// As [`write_probabilities`].
pub(crate) fn write_softmax(path: &Path, probabilities: &Probabilities) -> Result<(), FormatError> {
    let shape = box_shape(probabilities.bbox());
    write_npz(path, "softmax", probabilities.outputs(), shape, |output| {
        probabilities.inside(output).iter().map(|&p| f16::from_f32(p)).collect()
    })
}

fn write_npz<T: npz::Element>(
    path: &Path,
    key: &str,
    outputs: usize,
    shape: [usize; 3],
    output: impl Fn(usize) -> Vec<T>,
) -> Result<(), FormatError> {
    let [z, y, x] = shape;
    npz::write(path, key, &[outputs, z, y, x], |push| (0..outputs).try_for_each(|i| push(&output(i))))
}

/// What version 1 keeps of a case next to its probabilities: enough for `nnUNet_ensemble` to put the box back.
#[derive(Debug)]
pub(crate) struct V1Properties {
    /// Files of the channels.
    pub(crate) files: Vec<PathBuf>,
    /// Grid of the image.
    pub(crate) geometry: Geometry,
    /// Voxels after resampling, in the plan's axis order.
    pub(crate) resampled: [usize; 3],
    /// Their spacing in mm.
    pub(crate) spacing_mm: [f64; 3],
}

impl V1Properties {
    /// Writes `CASE.pkl`.
    ///
    /// # Errors
    /// [`FormatError::Io`] with the path; no unfinished file is left.
    ///
    /// # Source
    /// nnU-Net v1, `ImageCropper.crop` and `save_segmentation_nifti_from_softmax`.
    pub(crate) fn write(&self, path: &Path, probabilities: &Probabilities) -> Result<(), FormatError> {
        let int = |n: usize| Value::Int(n as i128);
        let ints = |n: [usize; 3]| Value::Tuple(n.map(int).to_vec());
        let floats = |n: &[f64]| Value::Tuple(n.iter().map(|&f| Value::Float(f)).collect());
        let text = |s: &str| Value::Str(s.into());
        let Geometry { shape, spacing, .. } = &self.geometry;
        let bbox = probabilities.bbox();
        let [z, y, x] = *spacing;
        let direction = self.geometry.direction();
        let mut entries = vec![
            ("original_size_of_raw_data", ints(*shape)),
            ("original_spacing", floats(spacing)),
            (
                "list_of_data_files",
                Value::List(self.files.iter().map(|f| text(&f.to_string_lossy())).collect()),
            ),
            ("seg_file", Value::None),
            ("itk_origin", floats(&self.geometry.origin())),
            ("itk_spacing", floats(&[x, y, z])),
            ("itk_direction", floats(direction.as_flattened())),
            ("crop_bbox", Value::List(bbox.map(|b| Value::List(b.map(int).to_vec())).to_vec())),
            ("size_after_cropping", ints(box_shape(bbox))),
            ("size_after_resampling", ints(self.resampled)),
            ("spacing_after_resampling", floats(&self.spacing_mm)),
        ];
        if let Decision::Regions(order) = probabilities.decision() {
            let order = order.iter().map(|&v| Value::Int(v.into())).collect();
            entries.push(("regions_class_order", Value::Tuple(order)));
        }
        let dict = Value::Dict(entries.into_iter().map(|(key, value)| (text(key), value)).collect());
        let bytes = write_pickle(&dict).expect("plain data");
        atomic::write(path, |file| file.write_all(&bytes))
    }
}
