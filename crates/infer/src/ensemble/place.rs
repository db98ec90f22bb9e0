//! Where the voxels of saved probabilities are: from the label map next to them, or nnU-Net's properties.

use std::path::{Path, PathBuf};

use glioseg_formats::{FormatError, nifti};
use glioseg_interop::{Value, read_pickle_file};
use glioseg_volume::crop::{Box3, box_shape};
use glioseg_volume::{Affine, Geometry, Turn, TurnRule};

use super::EnsembleError;
use super::saved::Version;

/// A reader that turned the image.
#[derive(Debug, Clone, PartialEq)]
enum TurningReader {
    /// nibabel's affine is that of the file.
    Nibabel,
    /// ITK's geometry is that of the turned image; where the axes x, y, z of the file led, such as `LPS`.
    Itk(String),
}

/// nnU-Net's properties of a case, as far as they are needed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Properties {
    /// Voxels of the whole image, z, y, x, and the box that was cut out of it (v1).
    crop: Option<([usize; 3], Box3)>,
    /// Spacing, origin and direction of ITK.
    itk: Option<([f64; 3], [f64; 3], [f64; 9])>,
    /// nibabel's affine of the file.
    affine: Option<[[f64; 4]; 3]>,
    /// How the reader turned the image, if it is one that turns; the array is in the turned order then.
    reader: Option<TurningReader>,
    /// `regions_class_order` of a region-based model of v1.
    pub paints: Option<Vec<u16>>,
}

impl Properties {
    /// Reads `CASE.pkl`; `None` if there is none. An ensemble of v1 writes a list of all models' properties: the first counts.
    ///
    /// # Errors
    /// [`EnsembleError::Interop`] if it is not a pickle, [`EnsembleError::Format`] if it holds something else.
    pub fn next_to(npz: &Path) -> Result<Option<Self>, EnsembleError> {
        let path = npz.with_extension("pkl");
        if !path.is_file() {
            return Ok(None);
        }
        let whole = read_pickle_file(&path)?;
        let first = whole.as_list().and_then(<[Value]>::first).unwrap_or(&whole);
        if first.as_dict().is_none() {
            let reason = format!("it holds {}, not the properties of a case", first.kind());
            return Err(EnsembleError::format(&path, reason));
        }
        Ok(Some(Self::of(first)))
    }

    fn of(value: &Value) -> Self {
        let inside = |outer: &str, key: &str| {
            let holder = if outer.is_empty() { Some(value) } else { value.get(outer) };
            holder.and_then(|v| v.get(key)).and_then(numbers)
        };
        let itk = |spacing: Option<Vec<f64>>, origin: Option<Vec<f64>>, direction: Option<Vec<f64>>| {
            Some((spacing?.try_into().ok()?, origin?.try_into().ok()?, direction?.try_into().ok()?))
        };
        let v1 = itk(inside("", "itk_spacing"), inside("", "itk_origin"), inside("", "itk_direction"));
        let v2 = itk(
            inside("sitk_stuff", "spacing"),
            inside("sitk_stuff", "origin"),
            inside("sitk_stuff", "direction"),
        );
        let affine = inside("nibabel_stuff", "original_affine").filter(|a| a.len() == 16);
        let whole = |values: Vec<f64>| values.into_iter().map(|v| v as usize).collect::<Vec<_>>();
        let size = inside("", "original_size_of_raw_data").map(whole);
        let bbox = inside("", "crop_bbox").map(whole);
        let crop = size.zip(bbox).and_then(|(size, bbox)| {
            let (pairs, _) = bbox.as_chunks::<2>();
            Some((<[usize; 3]>::try_from(size).ok()?, <Box3>::try_from(pairs).ok()?))
        });
        let orientation =
            value.get("sitk_stuff").and_then(|s| s.get("original_orientation")).and_then(Value::as_str);
        let reader = match orientation {
            Some(orientation) => Some(TurningReader::Itk(orientation.to_owned())),
            None => inside("nibabel_stuff", "reoriented_affine").map(|_| TurningReader::Nibabel),
        };
        Self {
            crop,
            reader,
            itk: v1.or(v2),
            affine: affine.map(|a| [0, 1, 2].map(|r| [0, 1, 2, 3].map(|c| a[4 * r + c]))),
            paints: inside("", "regions_class_order").map(|o| o.into_iter().map(|v| v as u16).collect()),
        }
    }

    /// How an image of this grid was turned before it became the array.
    fn turn(&self, geometry: &Geometry) -> Turn {
        match self.reader {
            None => Turn::NONE,
            Some(TurningReader::Nibabel) => geometry.turn_to_ras(TurnRule::Nibabel),
            Some(TurningReader::Itk(_)) => geometry.turn_to_ras(TurnRule::Itk),
        }
    }

    /// The grid of the image whose array has `shape`, z, y, x.
    fn geometry(&self, shape: [usize; 3]) -> Result<Option<Geometry>, EnsembleError> {
        let Some(grid) = self.told(shape)? else { return Ok(None) };
        match &self.reader {
            None => Ok(Some(grid)),
            // The affine is that of the file, whose shape is another one.
            Some(TurningReader::Nibabel) => self.told(self.turn(&grid).inverse().along(shape)),
            Some(TurningReader::Itk(orientation)) => {
                Ok(turn_from(orientation).map(|turn| grid.turned(&turn.inverse())))
            }
        }
    }

    /// The grid of `shape` that is told, the file's or the turned image's.
    fn told(&self, shape: [usize; 3]) -> Result<Option<Geometry>, EnsembleError> {
        let affine = if let Some((spacing, origin, direction)) = self.itk {
            // ITK's world is LPS, that of an affine RAS.
            let sign = [-1.0, -1.0, 1.0];
            Affine::from_rows([0, 1, 2].map(|w| {
                let column = |a: usize| sign[w] * direction[3 * w + a] * spacing[a];
                [column(0), column(1), column(2), sign[w] * origin[w]]
            }))
        } else if let Some(rows) = self.affine {
            Affine::from_rows(rows)
        } else {
            return Ok(None);
        };
        Ok(Some(Geometry::from_affine(shape, affine).map_err(FormatError::from)?))
    }
}

/// What turns an image whose axes x, y, z lead to these letters of L, R, A, P, S, I so that they lead to R, A, S.
fn turn_from(orientation: &str) -> Option<Turn> {
    let mut turn = Turn::NONE;
    let mut seen = [false; 3];
    for (index, letter) in orientation.chars().enumerate() {
        let axes = [['S', 'I'], ['A', 'P'], ['R', 'L']];
        let axis = axes.iter().position(|letters| letters.contains(&letter))?;
        if index > 2 || std::mem::replace(&mut seen[axis], true) {
            return None;
        }
        (turn.axes[axis], turn.flip[axis]) = (2 - index, letter == axes[axis][1]);
    }
    seen.iter().all(|&s| s).then_some(turn)
}

/// All numbers of nested lists, tuples and arrays.
fn numbers(value: &Value) -> Option<Vec<f64>> {
    if let Some(array) = value.as_array() {
        return array.to_f64();
    }
    match value.as_list() {
        Some(items) => items.iter().map(numbers).collect::<Option<Vec<_>>>().map(|v| v.concat()),
        None => value.as_f64().map(|v| vec![v]),
    }
}

/// The image's grid, and the box in it that the array fills.
#[derive(Debug, Clone, PartialEq)]
pub struct SavedPlace {
    /// The image's grid, as its file has it.
    pub geometry: Geometry,
    /// How the image is turned before the box is cut out of it: by readers that turn images to R, A, S.
    pub turn: Turn,
    /// The box in the turned image.
    pub bbox: Box3,
}

impl SavedPlace {
    /// The place of an array of `shape` (z, y, x) in `npz`.
    ///
    /// A label map next to it has the image's own header and goes before the properties; these tell whether the array is turned.
    ///
    /// # Errors
    /// [`EnsembleError::NoGeometry`] if nothing tells the grid, [`EnsembleError::Format`] if what tells it does not fit the array.
    pub fn of(
        npz: &Path,
        version: Version,
        shape: [usize; 3],
        properties: Option<&Properties>,
    ) -> Result<Self, EnsembleError> {
        let crop = properties.and_then(|p| p.crop).filter(|_| version == Version::V1);
        let (whole, bbox) = crop.unwrap_or((shape, shape.map(|n| [0, n])));
        // The upper bound may lie one beyond the array: nnU-Net v1 takes the array's own size.
        let bbox = [0, 1, 2].map(|a| [bbox[a][0], (bbox[a][0] + shape[a]).min(whole[a])]);
        if box_shape(bbox) != shape {
            let reason = format!(
                "the array has shape {shape:?} (z, y, x), which does not fit into the image of {whole:?} at {bbox:?}"
            );
            return Err(EnsembleError::format(npz, reason));
        }
        let geometry = match label_map_beside(npz) {
            Some(path) => {
                let geometry = nifti::read_info(&path)?.geometry;
                let found = properties.map_or(Turn::NONE, |p| p.turn(&geometry)).along(geometry.shape);
                if found != whole {
                    let reason = format!(
                        "the label map {} has shape {found:?}, but the probabilities belong to an image of {whole:?} (z, y, x)",
                        path.display()
                    );
                    return Err(EnsembleError::format(npz, reason));
                }
                Some(geometry)
            }
            None => properties.map(|p| p.geometry(whole)).transpose()?.flatten(),
        };
        match geometry {
            Some(geometry) => {
                let turn = properties.map_or(Turn::NONE, |p| p.turn(&geometry));
                Ok(Self { geometry, turn, bbox })
            }
            None => Err(EnsembleError::NoGeometry { path: npz.into() }),
        }
    }
}

impl SavedPlace {
    /// How the array of another file of this case is turned.
    pub(super) fn turn_of(&self, properties: Option<&Properties>) -> Turn {
        properties.map_or(Turn::NONE, |p| p.turn(&self.geometry))
    }
}

/// The label map of the same case, next to an npz.
fn label_map_beside(npz: &Path) -> Option<PathBuf> {
    ["nii.gz", "nii"].into_iter().map(|ending| npz.with_extension(ending)).find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn itks_orientation_tells_how_an_image_was_turned() {
        let lps = Turn { axes: [0, 1, 2], flip: [false, true, true] };
        assert_eq!(turn_from("LPS"), Some(lps));
        assert_eq!(turn_from("RAS"), Some(Turn::NONE));
        assert_eq!(turn_from("AIR"), Some(Turn { axes: [1, 2, 0], flip: [true, false, false] }));
        for wrong in ["", "LP", "LPSX", "LRS", "lps"] {
            assert_eq!(turn_from(wrong), None, "{wrong}");
        }
    }
}
