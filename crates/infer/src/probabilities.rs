//! `CASE.npz`: probabilities as nnU-Net saves them, of either version.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use glioseg_formats::{FormatError, atomic, npz};
use glioseg_interop::{Value, write_pickle};
use glioseg_plan::ImageReader;
use glioseg_prep::CaseProperties;
use glioseg_volume::crop::{Box3, box_shape};
use glioseg_volume::{Affine, Geometry, Turn};
use half::f16;

use super::export::{Decision, Probabilities};

/// Writes `probabilities`, `f32`, `[output, z, y, x]`, as a compressed npz; one output is in memory at a time.
///
/// The array has the image's own axes, before `turn`.
///
/// # Errors
/// [`FormatError::Io`] with the path; no unfinished file is left.
fn write_probabilities(path: &Path, probabilities: &Probabilities, turn: &Turn) -> Result<(), FormatError> {
    let shape = probabilities.shape();
    write_npz(path, "probabilities", probabilities.outputs(), turn.along(shape), |output| {
        turn.apply(probabilities.channel(output), shape)
    })
}

/// Writes version 1's `softmax`, `f16`, `[output, z, y, x]` of the cropped box, as a compressed npz.
///
/// # Errors
/// As [`write_probabilities`].
fn write_softmax(path: &Path, probabilities: &Probabilities) -> Result<(), FormatError> {
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
    fn write(&self, path: &Path, probabilities: &Probabilities) -> Result<(), FormatError> {
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
            ("crop_bbox", bounds(bbox)),
            ("size_after_cropping", ints(box_shape(bbox))),
            ("size_after_resampling", ints(self.resampled)),
            ("spacing_after_resampling", floats(&self.spacing_mm)),
        ];
        if let Decision::Regions(order) = probabilities.decision() {
            let order = order.iter().map(|&v| Value::Int(v.into())).collect();
            entries.push(("regions_class_order", Value::Tuple(order)));
        }
        write_dict(path, entries)
    }
}

/// What version 2 keeps of a case next to its probabilities: what the reader of its plans tells, and where the box was. From
/// this `nnUNetv2_ensemble` writes the label map.
#[derive(Debug)]
pub(crate) struct V2Properties {
    /// The reader that the plans name.
    pub(crate) reader: ImageReader,
    /// Grid of the image.
    pub(crate) geometry: Geometry,
    /// What the preparation did.
    pub(crate) case: CaseProperties,
}

impl V2Properties {
    /// Writes `CASE.npz`, in the order that the reader gives an image, and `CASE.pkl`.
    ///
    /// # Errors
    /// [`FormatError::Io`] with the path; no unfinished file is left.
    pub(crate) fn write(&self, npz: &Path, probabilities: &Probabilities) -> Result<(), FormatError> {
        let (turn, spacing) = self.reader.turn(&self.geometry);
        write_dict(&npz.with_extension("pkl"), self.entries(&turn, spacing))?;
        write_probabilities(npz, probabilities, &turn)
    }

    /// # Source
    /// nnU-Net v2, `read_images` of the four readers, and `DefaultPreprocessor.run_case_npy`.
    fn entries(&self, turn: &Turn, spacing: [f64; 3]) -> Vec<(&'static str, Value)> {
        let mut entries = match self.reader {
            ImageReader::SimpleItk | ImageReader::SimpleItkWithReorient => {
                vec![("sitk_stuff", dict(self.itk(turn)))]
            }
            ImageReader::Nibabel | ImageReader::NibabelWithReorient => {
                let affine = self.geometry.affine();
                let mut stuff = vec![("original_affine", matrix(&affine))];
                if self.reader.turns().is_some() {
                    stuff.push(("reoriented_affine", matrix(&affine.turned(turn, self.geometry.shape))));
                }
                vec![("nibabel_stuff", dict(stuff))]
            }
        };
        let CaseProperties { shape_before_cropping, bbox, shape_after_cropping, .. } = &self.case;
        entries.extend([
            ("spacing", Value::List(spacing.map(Value::Float).to_vec())),
            ("shape_before_cropping", ints(*shape_before_cropping)),
            ("bbox_used_for_cropping", bounds(*bbox)),
            ("shape_after_cropping_and_before_resampling", ints(*shape_after_cropping)),
        ]);
        entries
    }

    /// Spacing, origin and direction of the turned image, as SimpleITK tells them.
    fn itk(&self, turn: &Turn) -> Vec<(&'static str, Value)> {
        let (spacing, direction) = (self.geometry.spacing, self.geometry.direction());
        let mut origin = self.geometry.origin();
        let mut turned = direction;
        for index in 0..3 {
            // Array axes are z, y, x, those of ITK x, y, z.
            let (axis, before) = (2 - index, turn.axes[2 - index]);
            for world in 0..3 {
                let step = direction[world][2 - before];
                turned[world][index] = if turn.flip[axis] { -step + 0.0 } else { step };
                if turn.flip[axis] {
                    origin[world] += step * spacing[before] * (self.geometry.shape[before] as f64 - 1.0);
                }
            }
        }
        let [z, y, x] = turn.along(spacing);
        let mut stuff = vec![
            ("spacing", floats(&[x, y, z])),
            ("origin", floats(&origin)),
            ("direction", floats(turned.as_flattened())),
        ];
        if self.reader.turns().is_some() {
            stuff.push(("original_orientation", text(&orientation_before(turn))));
        }
        stuff
    }
}

/// Where the axes x, y, z led that `turn` makes lead to R, A, S: ITK's `LPS`, `RAI` and so on.
fn orientation_before(turn: &Turn) -> String {
    let letter = |index: usize| {
        let axis = turn.axes.iter().position(|&before| before == 2 - index).expect("a permutation");
        let letters = [['S', 'I'], ['A', 'P'], ['R', 'L']][axis];
        letters[usize::from(turn.flip[axis])]
    };
    [0, 1, 2].map(letter).iter().collect()
}

/// How a case's probabilities are saved, and what is kept next to them.
#[derive(Debug)]
pub(crate) struct Saving {
    /// Version 1's way, for models of its rules: `softmax` of the box.
    pub(crate) v1: Option<V1Properties>,
    /// Version 2's way: `probabilities` of the whole image.
    pub(crate) v2: V2Properties,
}

impl Saving {
    /// Writes `npz` as the models' own version does, and the properties of the case next to it.
    ///
    /// # Errors
    /// [`FormatError::Io`] with the path; no unfinished file is left.
    pub(crate) fn write(&self, npz: &Path, probabilities: &Probabilities) -> Result<(), FormatError> {
        let Some(properties) = &self.v1 else { return self.v2.write(npz, probabilities) };
        properties.write(&npz.with_extension("pkl"), probabilities)?;
        write_softmax(npz, probabilities)
    }
}

fn int(n: usize) -> Value {
    Value::Int(n as i128)
}

fn ints(n: [usize; 3]) -> Value {
    Value::Tuple(n.map(int).to_vec())
}

fn floats(n: &[f64]) -> Value {
    Value::Tuple(n.iter().map(|&f| Value::Float(f)).collect())
}

fn text(s: &str) -> Value {
    Value::Str(s.into())
}

fn bounds(bbox: Box3) -> Value {
    Value::List(bbox.map(|b| Value::List(b.map(int).to_vec())).to_vec())
}

/// The four rows, as lists: numpy takes them for an array.
fn matrix(affine: &Affine) -> Value {
    let rows = affine.rows().into_iter().chain([[0.0, 0.0, 0.0, 1.0]]);
    Value::List(rows.map(|row| Value::List(row.map(Value::Float).to_vec())).collect())
}

fn dict(entries: Vec<(&'static str, Value)>) -> Value {
    Value::Dict(entries.into_iter().map(|(key, value)| (text(key), value)).collect())
}

fn write_dict(path: &Path, entries: Vec<(&'static str, Value)>) -> Result<(), FormatError> {
    let bytes = write_pickle(&dict(entries)).expect("plain data");
    atomic::write(path, |file| file.write_all(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_orientation_before_a_turn_is_itks() {
        // Axes x, y, z that lead to L, P, S, as an image of identical direction has them.
        let lps = Turn { axes: [0, 1, 2], flip: [false, true, true] };
        assert_eq!(orientation_before(&lps), "LPS");
        assert_eq!(orientation_before(&Turn::NONE), "RAS");
        // x leads to A, y to I, z to R.
        let turn = Turn { axes: [1, 2, 0], flip: [true, false, false] };
        assert_eq!(orientation_before(&turn), "AIR");
    }
}
