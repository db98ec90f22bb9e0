//! Linear transforms of world points, and the files they are kept in.

mod itk;
mod text;

use std::path::Path;

use glioseg_volume::{Affine, Geometry};

use crate::error::AlignError;

/// A linear transform of world points: ITK's coordinates (L, P, S) in mm.
///
/// A transform of images takes a point of the *output* grid to the point of the *input* image whose value belongs there, as ITK's
/// do: `sitk.Resample(input, output_grid, transform)`. Points therefore go the other way than images: with the transform `t1c → t2`
/// one resamples T2 onto the grid of T1c.
///
/// ```
/// use glioseg_align::Transform;
///
/// let shift = Transform::translation([1.0, 0.0, 0.0]);
/// let flip = Transform::new([[-1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])?;
/// // First the shift, then the flip.
/// assert_eq!(flip.after(&shift).apply([2.0, 0.0, 0.0]), [-3.0, 0.0, 0.0]);
/// assert_eq!(shift.inverse().apply([2.0, 0.0, 0.0]), [1.0, 0.0, 0.0]);
/// # Ok::<(), glioseg_align::AlignError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transform {
    /// Upper three rows of the 4 x 4 matrix.
    rows: [[f64; 4]; 3],
}

impl Transform {
    /// Leaves every point where it is.
    pub const IDENTITY: Self =
        Self { rows: [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]] };

    /// A transform of the upper three rows of its 4 x 4 matrix.
    ///
    /// # Errors
    /// [`AlignError::Singular`] if it has no inverse.
    pub fn new(rows: [[f64; 4]; 3]) -> Result<Self, AlignError> {
        if Affine::from_rows(rows).is_singular() {
            return Err(AlignError::Singular { rows });
        }
        Ok(Self { rows })
    }

    /// A transform of rows that are known to be regular.
    pub(crate) const fn of_rows(rows: [[f64; 4]; 3]) -> Self {
        Self { rows }
    }

    /// Adds `shift` (mm) to every point.
    pub const fn translation(shift: [f64; 3]) -> Self {
        let [x, y, z] = shift;
        Self { rows: [[1.0, 0.0, 0.0, x], [0.0, 1.0, 0.0, y], [0.0, 0.0, 1.0, z]] }
    }

    /// From voxel index `x, y, z` of a grid to the world.
    pub fn of_grid(geometry: &Geometry) -> Self {
        let [x, y, z] = geometry.affine().rows();
        Self { rows: [x.map(|v| -v), y.map(|v| -v), z] }
    }

    /// The upper three rows of the 4 x 4 matrix.
    pub const fn rows(&self) -> [[f64; 4]; 3] {
        self.rows
    }

    /// Where a point goes.
    pub fn apply(&self, point: [f64; 3]) -> [f64; 3] {
        self.rows.map(|r| r[0] * point[0] + r[1] * point[1] + r[2] * point[2] + r[3])
    }

    /// First `first`, then `self`.
    #[must_use]
    pub fn after(&self, first: &Self) -> Self {
        Self { rows: Affine::from_rows(self.rows).compose(&Affine::from_rows(first.rows)).rows() }
    }

    /// The way back.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let m = &self.rows;
        let determinant = self.determinant();
        let minor = |r: usize, c: usize| {
            let (r1, r2) = ((r + 1) % 3, (r + 2) % 3);
            let (c1, c2) = ((c + 1) % 3, (c + 2) % 3);
            (m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]) / determinant
        };
        let rows = [0, 1, 2].map(|r| {
            let linear = [0, 1, 2].map(|c| minor(c, r));
            let shift = linear[0] * m[0][3] + linear[1] * m[1][3] + linear[2] * m[2][3];
            // Taken from 0, so that no shift is -0.
            [linear[0], linear[1], linear[2], 0.0 - shift]
        });
        Self { rows }
    }

    /// By how much volumes grow; negative for a mirror image.
    pub fn determinant(&self) -> f64 {
        Affine::from_rows(self.rows).determinant()
    }

    /// Lengths of the columns: how much each axis is stretched.
    pub fn scales(&self) -> [f64; 3] {
        Affine::from_rows(self.rows).column_lengths()
    }

    /// Angle of the rotation in degrees, 0 to 180; a transform that also stretches is taken for its mean scale.
    pub fn angle_degrees(&self) -> f64 {
        let scale = self.scales().iter().sum::<f64>() / 3.0;
        let trace = self.rows[0][0] + self.rows[1][1] + self.rows[2][2];
        ((trace / scale - 1.0) / 2.0).clamp(-1.0, 1.0).acos().to_degrees()
    }

    /// Largest distance in mm between where this and another transform take six points, 70 mm from `centre` along the axes.
    pub fn distance(&self, other: &Self, centre: [f64; 3]) -> f64 {
        let ends = (0..6).map(|k| {
            let mut point = centre;
            point[k / 2] += if k % 2 == 0 { 70.0 } else { -70.0 };
            distance(self.apply(point), other.apply(point))
        });
        ends.fold(0.0, f64::max)
    }

    /// The same transform of R, A, S coordinates, or back: x and y change their signs on both sides.
    #[must_use]
    pub fn flipped(&self) -> Self {
        let sign = [-1.0, -1.0, 1.0, 1.0];
        let mut rows = self.rows;
        for (r, row) in rows.iter_mut().enumerate() {
            for (c, value) in row.iter_mut().enumerate() {
                // Adding 0 turns -0 into 0.
                *value = *value * sign[r] * sign[c] + 0.0;
            }
        }
        Self { rows }
    }

    /// Reads a linear transform: ITK's `.mat` and `.tfm` (or `.txt`), or the 4 x 4 text of greedy, c3d or `NiftyReg`.
    ///
    /// What a file is follows from its content. The 4 x 4 text is taken to be of R, A, S coordinates, as those programs write it.
    ///
    /// # Errors
    /// [`AlignError::Io`], and [`AlignError::File`] for files without a linear transform.
    pub fn read(path: &Path) -> Result<Self, AlignError> {
        let io = |source| AlignError::Io { path: path.to_owned(), source };
        // A linear transform takes some hundred bytes, and a chain of them some thousand.
        let length = std::fs::metadata(path).map_err(io)?.len();
        if length > 1 << 20 {
            let what = format!("it has {length} bytes; a linear transform has some hundred");
            return Err(AlignError::File { path: path.to_owned(), what });
        }
        let bytes = std::fs::read(path).map_err(io)?;
        Self::decode(&bytes).map_err(|what| AlignError::File { path: path.to_owned(), what })
    }

    /// The transform that the bytes of a file hold, or what is wrong with them.
    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let rows = match std::str::from_utf8(bytes) {
            Ok(text) if text.trim_start().starts_with("#Insight Transform File") => itk::from_text(text)?,
            Ok(text) if !bytes.contains(&0) => text::from_text(text)?,
            _ => itk::from_matlab(bytes)?,
        };
        Self::new(rows).map_err(|error| error.to_string())
    }

    /// The file `.mat` that ITK and ANTs read: `AffineTransform_double_3_3` in MATLAB's level 4.
    pub fn to_mat(&self) -> Vec<u8> {
        itk::to_matlab(&self.rows)
    }

    /// The text `.tfm` that ITK and ANTs read.
    pub fn to_tfm(&self) -> String {
        itk::to_text(&self.rows)
    }

    /// The 4 x 4 text of R, A, S coordinates that greedy, c3d and `NiftyReg` read.
    pub fn to_ras_text(&self) -> String {
        text::to_text(&self.flipped().rows)
    }
}

pub(crate) fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests;
