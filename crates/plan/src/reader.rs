//! nnU-Net's image readers, as far as they differ.

use glioseg_volume::{Geometry, Turn, TurnRule};

/// How nnU-Net reads images: the class that plans and datasets name.
///
/// # Source
/// nnU-Net v2, `nnunetv2.imageio`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ImageReader {
    /// `SimpleITKIO`: voxels in the order of the file.
    #[default]
    SimpleItk,
    /// `NibabelIO`: the same.
    Nibabel,
    /// `SimpleITKIOWithReorient`: turned so that the axes lead to R, A and S, by ITK's rule.
    SimpleItkWithReorient,
    /// `NibabelIOWithReorient`: turned so that the axes lead to R, A and S, by nibabel's rule.
    NibabelWithReorient,
}

impl ImageReader {
    /// The names of the readers there are.
    pub const NAMES: [&str; 4] =
        ["SimpleITKIO", "NibabelIO", "SimpleITKIOWithReorient", "NibabelIOWithReorient"];

    /// The reader of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "SimpleITKIO" => Some(Self::SimpleItk),
            "NibabelIO" => Some(Self::Nibabel),
            "SimpleITKIOWithReorient" => Some(Self::SimpleItkWithReorient),
            "NibabelIOWithReorient" => Some(Self::NibabelWithReorient),
            _ => None,
        }
    }

    /// nnU-Net's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::SimpleItk => "SimpleITKIO",
            Self::Nibabel => "NibabelIO",
            Self::SimpleItkWithReorient => "SimpleITKIOWithReorient",
            Self::NibabelWithReorient => "NibabelIOWithReorient",
        }
    }

    /// By which rule images are turned; `None` if they stay as they are stored.
    pub const fn turns(self) -> Option<TurnRule> {
        match self {
            Self::SimpleItk | Self::Nibabel => None,
            Self::SimpleItkWithReorient => Some(TurnRule::Itk),
            Self::NibabelWithReorient => Some(TurnRule::Nibabel),
        }
    }

    /// How an image of this grid is turned, and its spacing in mm after that, along the axes of the turned array.
    pub fn turn(self, geometry: &Geometry) -> (Turn, [f64; 3]) {
        match self.turns() {
            None => (Turn::NONE, geometry.spacing),
            Some(rule) => {
                let turn = geometry.turn_to_ras(rule);
                (turn, geometry.spacing_after(&turn, rule))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reader_is_found_by_its_name_and_no_other_is() {
        for name in ImageReader::NAMES {
            assert_eq!(ImageReader::from_name(name).map(ImageReader::name), Some(name));
        }
        for other in ["", "Tiff3DIO", "nibabelio", "NibabelIOWithReorient2"] {
            assert_eq!(ImageReader::from_name(other), None);
        }
    }
}
