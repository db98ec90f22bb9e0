//! The grids of BraTS, and the template that leads to them.

use std::io::Read as _;
use std::path::Path;

use flate2::read::GzDecoder;
use glioseg_align::Transform;
use glioseg_formats::nifti;
use glioseg_volume::resample::affine_labels;
use glioseg_volume::{Affine, Geometry};

use super::error::PreprocessError;

/// The built-in template: brain of ICBM 2009a, T1, 2 mm. See `templates/NOTICE.txt`.
const TEMPLATE: &[u8] = include_bytes!("../../templates/icbm152-2009a-t1-2mm.nii.gz");
/// Its voxels along z, y, x; the file's header is 352 bytes long.
const TEMPLATE_SHAPE: [usize; 3] = [94, 116, 98];
const TEMPLATE_HEADER: usize = 352;
/// Its affine (R, A, S).
const TEMPLATE_AFFINE: [[f64; 4]; 3] =
    [[2.0, 0.0, 0.0, -97.5], [0.0, 2.0, 0.0, -133.5], [0.0, 0.0, 2.0, -71.5]];

/// From a point of SRI24 to that of MNI152: the mean of twelve registrations of two patients, which differed by 1 to 3 mm.
const SRI24_TO_MNI152: [[f64; 4]; 3] = [
    [0.999_664, 0.025_647, -0.003_632, -115.437],
    [-0.025_701, 0.964_591, -0.262_496, 143.159],
    [-0.003_229, 0.262_502, 0.964_926, -34.113],
];

/// Where prepared images lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Space {
    /// SRI24: BraTS until 2024.
    #[default]
    Sri24,
    /// MNI152: BraTS since 2025, and after treatment.
    Mni152,
    /// The grid of the centre channel.
    Native,
}

impl Space {
    /// The word of the command line and of file names.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sri24 => "sri24",
            Self::Mni152 => "mni152",
            Self::Native => "native",
        }
    }

    /// The grid of 1 mm; none for the native space.
    pub fn grid(self) -> Option<Geometry> {
        let (shape, rows) = match self {
            Self::Sri24 => {
                ([155, 240, 240], [[-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 239.0], [0.0, 0.0, 1.0, 0.0]])
            }
            Self::Mni152 => {
                ([182, 218, 182], [[-1.0, 0.0, 0.0, 90.0], [0.0, 1.0, 0.0, -126.0], [0.0, 0.0, 1.0, -72.0]])
            }
            Self::Native => return None,
        };
        // The rows are regular.
        Geometry::from_affine(shape, Affine::from_rows(rows)).ok()
    }
}

impl std::str::FromStr for Space {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Sri24, Self::Mni152, Self::Native]
            .into_iter()
            .find(|space| space.name() == text.to_ascii_lowercase())
            .ok_or_else(|| format!("`{text}` is not a space; known are sri24, mni152 and native"))
    }
}

/// What the centre channel is registered to.
#[derive(Debug)]
pub(super) struct Template {
    /// Name for the record.
    pub(super) name: String,
    /// Values, `[z, y, x]`.
    pub(super) values: Vec<f32>,
    pub(super) geometry: Geometry,
    /// From a point of the space to that of the template.
    pub(super) from_space: Transform,
    /// Whether it shows the brain alone.
    stripped: bool,
}

/// A space with its grid and the way to it.
#[derive(Debug)]
pub(super) struct Target {
    /// The grid; none for the native space.
    pub(super) grid: Option<Geometry>,
    pub(super) template: Option<Template>,
}

impl Target {
    /// The space with the template of a file, or the built-in one.
    ///
    /// # Errors
    /// [`PreprocessError::Format`] for a file that cannot be read, [`PreprocessError::Series`] if it holds several images.
    pub(super) fn open(space: Space, atlas: Option<&Path>) -> Result<Self, PreprocessError> {
        let Some(grid) = space.grid() else { return Ok(Self { grid: None, template: None }) };
        let Some(path) = atlas else {
            return Ok(Self { grid: Some(grid), template: Some(Template::built_in(space)?) });
        };
        let volume = nifti::read_volume(path)?;
        if volume.channels != 1 {
            return Err(PreprocessError::Series { path: path.to_owned(), count: volume.channels });
        }
        let stripped = volume.data.iter().filter(|&&v| v == 0.0).count() * 5 > 2 * volume.data.len();
        // SRI24 circulates with flipped axes too; both files lie in the same place, and BraTS's header is written.
        let grid = if fills_the_same_box(&grid, &volume.geometry) { grid } else { volume.geometry.clone() };
        let template = Template {
            name: path.display().to_string(),
            values: volume.data,
            geometry: volume.geometry,
            from_space: Transform::IDENTITY,
            stripped,
        };
        Ok(Self { grid: Some(grid), template: Some(template) })
    }
}

impl Template {
    fn built_in(space: Space) -> Result<Self, PreprocessError> {
        let mut bytes = Vec::new();
        GzDecoder::new(TEMPLATE).read_to_end(&mut bytes).map_err(PreprocessError::BuiltIn)?;
        let values = bytes.iter().skip(TEMPLATE_HEADER).map(|&v| f32::from(v)).collect();
        let geometry = Geometry::from_affine(TEMPLATE_SHAPE, Affine::from_rows(TEMPLATE_AFFINE))?;
        let (name, from_space) = match space {
            Space::Sri24 => ("icbm152-2009a-2mm+constant", Transform::new(SRI24_TO_MNI152)?),
            _ => ("icbm152-2009a-2mm", Transform::IDENTITY),
        };
        Ok(Self { name: name.to_owned(), values, geometry, from_space, stripped: true })
    }

    /// The template's brain on a grid of the space; none where the template shows a skull.
    pub(super) fn brain(&self, grid: &Geometry) -> Option<Vec<bool>> {
        let to_voxel = index_map(grid, &self.from_space, &self.geometry);
        let inside: Vec<bool> = self.values.iter().map(|&v| v > 0.0).collect();
        self.stripped.then(|| affine_labels(&inside, self.geometry.shape, grid.shape, &to_voxel))
    }
}

/// From the voxels of one grid to those of another, by a transform of points.
pub(super) fn index_map(from: &Geometry, transform: &Transform, to: &Geometry) -> Affine {
    let back = Transform::of_grid(to).inverse();
    Affine::from_rows(back.after(transform).after(&Transform::of_grid(from)).rows())
}

/// Whether two grids have the same corners, in whatever order and direction their axes are.
fn fills_the_same_box(a: &Geometry, b: &Geometry) -> bool {
    let ends = |g: &Geometry| {
        let to_world = Transform::of_grid(g);
        let [z, y, x] = g.shape.map(|n| n as f64 - 1.0);
        let corners: Vec<[f64; 3]> = (0..8)
            .map(|i| {
                let end = |bit: i32, n: f64| if i & bit > 0 { n } else { 0.0 };
                to_world.apply([end(1, x), end(2, y), end(4, z)])
            })
            .collect();
        [0, 1, 2].map(|k| {
            corners
                .iter()
                .fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], c| [low.min(c[k]), high.max(c[k])])
        })
    };
    let same = ends(a).as_flattened().iter().zip(ends(b).as_flattened()).all(|(a, b)| (a - b).abs() < 0.01);
    same && a.voxels() == b.voxels()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_template_is_the_file_and_its_brain_lies_in_brats_space() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/icbm152-2009a-t1-2mm.nii.gz");
        let file = nifti::read_volume(&path).expect("readable");
        for space in [Space::Sri24, Space::Mni152] {
            let target = Target::open(space, None).expect("built in");
            let (template, grid) = (target.template.expect("one"), target.grid.expect("one"));
            assert_eq!((&template.values, template.geometry.shape), (&file.data, file.geometry.shape));
            assert_eq!(template.geometry.affine(), file.geometry.affine());
            let brain = template.brain(&grid).expect("no skull");
            let litres = brain.iter().filter(|&&b| b).count() as f64 / 1e6;
            assert!((1.7..2.1).contains(&litres), "{space:?} {litres}");
            let [z, y, x] = grid.shape;
            let mut faces = [0usize; 6];
            for i in (0..brain.len()).filter(|&i| brain[i]) {
                let [a, b, c] = grid.position(i);
                for (face, at) in
                    [a == 0, a + 1 == z, b == 0, b + 1 == y, c == 0, c + 1 == x].into_iter().enumerate()
                {
                    faces[face] += usize::from(at);
                }
            }
            // MNI's brain is larger than that of a person: in the 155 mm of BraTS its cerebellum is cut below, nothing else is.
            assert!(faces[0] < 4000 && faces[1..] == [0; 5], "{space:?} {faces:?}");
        }
    }

    #[test]
    fn the_grid_of_brats_is_that_of_its_files() {
        let grid = Space::Sri24.grid().expect("a grid");
        assert_eq!((grid.origin(), grid.orientation()), ([0.0, -239.0, 0.0], "LPS".to_owned()));
        assert_eq!(grid.direction(), [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]);
        // The same place, with x and y the other way round.
        let flipped = [[1.0, 0.0, 0.0, -239.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        let flipped = Geometry::from_affine(grid.shape, Affine::from_rows(flipped)).expect("regular");
        assert!(fills_the_same_box(&grid, &flipped));
        assert!(!fills_the_same_box(&grid, &Space::Mni152.grid().expect("a grid")));
        assert_eq!("SRI24".parse(), Ok(Space::Sri24));
        assert!("talairach".parse::<Space>().is_err_and(|e| e.contains("sri24, mni152 and native")));
    }
}
