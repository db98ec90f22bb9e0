//! Affine transforms from voxel indices to world millimetres.
//!
//! A NIfTI affine takes the *file's* index `(i, j, k) = (x, y, z)`, the reverse of our array axes, to RAS+ world
//! coordinates; this type keeps that convention so that its rows can be compared with nibabel's. Everything else in
//! this crate is in array order `z, y, x` or says otherwise.

use crate::error::VolumeError;

/// Columns shorter than this, in mm, or a determinant this small against the product of the column lengths make an
/// affine singular: a header holds f32, so parallel columns leave a determinant of about 1e-7, never 0.
const SINGULAR: f64 = 1e-6;

/// The upper three rows of a 4 x 4 affine from voxel index `(x, y, z)` to RAS+ millimetres.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    rows: [[f64; 4]; 3],
}

impl Affine {
    /// Index equals position: 1 mm voxels, RAS.
    pub const IDENTITY: Self =
        Self { rows: [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]] };

    /// An affine of its three rows (the fourth is `0 0 0 1`).
    pub const fn from_rows(rows: [[f64; 4]; 3]) -> Self {
        Self { rows }
    }

    /// The three rows.
    pub const fn rows(&self) -> [[f64; 4]; 3] {
        self.rows
    }

    /// World position in mm (RAS+) of a voxel index in `x, y, z`.
    pub fn apply(&self, index_xyz: [f64; 3]) -> [f64; 3] {
        self.rows.map(|r| r[0] * index_xyz[0] + r[1] * index_xyz[1] + r[2] * index_xyz[2] + r[3])
    }

    /// `self` after `first`: `compose(b).apply(v) = self.apply(b.apply(v))`.
    #[must_use]
    pub fn compose(&self, first: &Self) -> Self {
        let rows = self.rows.map(|r| {
            let mut out = [0.0; 4];
            for (c, value) in out.iter_mut().enumerate() {
                *value = (0..3).map(|k| r[k] * first.rows[k][c]).sum();
            }
            out[3] += r[3];
            out
        });
        Self { rows }
    }

    /// The 3 x 3 part.
    pub(crate) fn linear(&self) -> Matrix3 {
        self.rows.map(|r| [r[0], r[1], r[2]])
    }

    /// The last column: the world position of voxel 0, 0, 0 in mm.
    pub fn translation(&self) -> [f64; 3] {
        self.rows.map(|r| r[3])
    }

    /// Determinant of the 3 x 3 part: the volume of a voxel in mm³, negative for a left-handed index system.
    pub fn determinant(&self) -> f64 {
        determinant(&self.linear())
    }

    /// Lengths of the columns in mm, in `x, y, z`.
    pub fn column_lengths(&self) -> [f64; 3] {
        column_lengths(&self.linear())
    }

    /// True if some direction of the index space has no direction in the world, or a value is not finite.
    pub fn is_singular(&self) -> bool {
        is_singular(&self.linear()) || self.translation().iter().any(|v| !v.is_finite())
    }

    /// The affine from world mm back to the voxel index.
    ///
    /// # Errors
    /// [`VolumeError::SingularAffine`] where there is none.
    pub fn inverse(&self) -> Result<Self, VolumeError> {
        if self.is_singular() {
            return Err(VolumeError::SingularAffine { rows: self.rows });
        }
        let inverse = invert(&self.linear());
        let t = self.translation();
        let rows = inverse.map(|r| [r[0], r[1], r[2], -(r[0] * t[0] + r[1] * t[1] + r[2] * t[2])]);
        Ok(Self { rows })
    }

    /// For every index axis `x, y, z` the world axis it runs along most (0 = right/left, 1 = anterior/posterior,
    /// 2 = superior/inferior) and whether it runs towards R, A or S.
    ///
    /// # Source
    /// nibabel, `io_orientation`: axes are matched on the closest rotation, the clearest first, each world axis once.
    pub fn axes(&self) -> [(usize, bool); 3] {
        let linear = self.linear();
        let mut rotation = if is_singular(&linear) { linear } else { closest_orthogonal(&linear) };
        let strength = [0, 1, 2].map(|a| (0..3).map(|w| rotation[w][a].abs()).fold(0.0, f64::max));
        let mut order = [0, 1, 2];
        order.sort_by(|&a, &b| strength[b].total_cmp(&strength[a]));
        let mut axes = [(0, true); 3];
        for axis in order {
            // A world axis that is taken has a row of NaN, which is larger than nothing.
            let mut world = 0;
            for candidate in 1..3 {
                let (best, value) = (rotation[world][axis], rotation[candidate][axis]);
                if best.is_nan() || value.abs() > best.abs() {
                    world = candidate;
                }
            }
            axes[axis] = (world, rotation[world][axis] >= 0.0);
            rotation[world] = [f64::NAN; 3];
        }
        axes
    }

    /// Three letters that say where the index axes `x, y, z` lead, such as `RAS` or `LPS`.
    pub fn orientation(&self) -> String {
        const NAMES: [[char; 2]; 3] = [['L', 'R'], ['P', 'A'], ['I', 'S']];
        self.axes().iter().map(|&(world, positive)| NAMES[world][usize::from(positive)]).collect()
    }
}

pub(crate) type Matrix3 = [[f64; 3]; 3];

pub(crate) fn determinant(m: &Matrix3) -> f64 {
    m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
        + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0])
}

pub(crate) fn column_lengths(m: &Matrix3) -> [f64; 3] {
    [0, 1, 2].map(|c| (0..3).map(|r| m[r][c] * m[r][c]).sum::<f64>().sqrt())
}

pub(crate) fn is_singular(m: &Matrix3) -> bool {
    let lengths = column_lengths(m);
    let product: f64 = lengths.iter().product();
    let enough = determinant(m).abs() > SINGULAR * product;
    !(lengths.iter().all(|&l| l.is_finite() && l > SINGULAR) && enough)
}

/// The matrix with columns of length 1; a column of length 0 stays as it is.
pub(crate) fn unit_columns(m: &Matrix3) -> Matrix3 {
    let lengths = column_lengths(m).map(|l| if l > 0.0 { l } else { 1.0 });
    m.map(|r| [r[0] / lengths[0], r[1] / lengths[1], r[2] / lengths[2]])
}

/// True if the columns, brought to length 1, are at right angles within `tolerance`.
pub(crate) fn is_orthogonal(m: &Matrix3, tolerance: f64) -> bool {
    let unit = unit_columns(m);
    (0..3).all(|a| {
        (0..3).all(|b| {
            let dot: f64 = (0..3).map(|k| unit[a][k] * unit[b][k]).sum();
            (dot - f64::from(u8::from(a == b))).abs() <= tolerance
        })
    })
}

fn invert(m: &Matrix3) -> Matrix3 {
    let d = determinant(m);
    let minor = |r: usize, c: usize| {
        let (r1, r2) = ((r + 1) % 3, (r + 2) % 3);
        let (c1, c2) = ((c + 1) % 3, (c + 2) % 3);
        (m[r1][c1] * m[r2][c2] - m[r1][c2] * m[r2][c1]) / d
    };
    [0, 1, 2].map(|r| [0, 1, 2].map(|c| minor(c, r)))
}

/// The orthogonal matrix closest to a non-singular one after its columns are brought to length 1 (the polar factor,
/// by Newton's iteration; it keeps the sign of the determinant).
pub(crate) fn closest_orthogonal(m: &Matrix3) -> Matrix3 {
    let mut x = unit_columns(m);
    for _ in 0..50 {
        let inverse = invert(&x);
        let mut change = 0.0f64;
        let mut next = x;
        for r in 0..3 {
            for c in 0..3 {
                next[r][c] = f64::midpoint(x[r][c], inverse[c][r]);
                change = change.max((next[r][c] - x[r][c]).abs());
            }
        }
        x = next;
        if change < 1e-15 {
            break;
        }
    }
    x
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The affine of an axis order and three signs, with the given voxel sizes.
    fn oriented(order: [usize; 3], signs: [bool; 3], spacing: [f64; 3]) -> Affine {
        let mut rows = [[0.0; 4]; 3];
        for (axis, &world) in order.iter().enumerate() {
            rows[world][axis] = if signs[axis] { spacing[axis] } else { -spacing[axis] };
        }
        rows[0][3] = 12.5;
        rows[1][3] = -7.0;
        rows[2][3] = 31.25;
        Affine::from_rows(rows)
    }

    const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

    #[test]
    fn all_48_orientations_are_named_apart_and_invert() {
        let mut names = std::collections::BTreeSet::new();
        for order in ORDERS {
            for bits in 0..8 {
                let signs = [bits & 1 != 0, bits & 2 != 0, bits & 4 != 0];
                let affine = oriented(order, signs, [0.5, 1.25, 3.0]);
                let axes = affine.axes();
                assert_eq!(axes, [0, 1, 2].map(|a| (order[a], signs[a])), "{order:?} {signs:?}");
                names.insert(affine.orientation());
                let inverse = affine.inverse().expect("an orientation is not singular");
                let back = inverse.apply(affine.apply([3.0, 5.0, 7.0]));
                for (b, v) in back.iter().zip([3.0, 5.0, 7.0]) {
                    assert!((b - v).abs() < 1e-12, "{order:?} {signs:?}: {back:?}");
                }
            }
        }
        assert_eq!(names.len(), 48);
        assert_eq!(Affine::IDENTITY.orientation(), "RAS");
    }

    #[test]
    fn oblique_axes_are_named_by_the_closest_rotation() {
        // 30 degrees about z: x still leads mostly to R, y mostly to A.
        let (s, c) = (0.5, 0.75f64.sqrt());
        let affine = Affine::from_rows([[-c, s, 0.0, 0.0], [-s, -c, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]);
        assert_eq!(affine.orientation(), "LPS");
    }

    #[test]
    fn the_clearest_axis_is_named_first() {
        // The second and third axis both lead most to R; the third, slightly more, takes it.
        let affine = Affine::from_rows([
            [-0.346_517, 2.199_945, 1.223_394, 0.0],
            [-0.727_640, 2.133_926, -1.222_839, 0.0],
            [3.627_677, 0.638_163, -0.128_418, 0.0],
        ]);
        assert_eq!(affine.orientation(), "SAR");
    }

    #[test]
    fn parallel_columns_are_singular() {
        let affine = Affine::from_rows([[1.0, 2.0, 0.0, 0.0], [0.5, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]);
        assert!(affine.is_singular());
        assert!(affine.inverse().is_err());
        assert!(Affine::from_rows([[0.0; 4]; 3]).is_singular());
        assert!(!Affine::IDENTITY.is_singular());
    }

    proptest! {
        #[test]
        fn inverse_undoes_an_affine(
            values in prop::array::uniform3(prop::array::uniform4(-3.0..3.0f64)),
            point in prop::array::uniform3(-200.0..200.0f64),
        ) {
            let affine = Affine::from_rows(values);
            prop_assume!(affine.determinant().abs() > 0.05);
            let inverse = affine.inverse().expect("not singular");
            let back = inverse.apply(affine.apply(point));
            let both = affine.compose(&inverse).apply(point);
            for axis in 0..3 {
                prop_assert!((back[axis] - point[axis]).abs() < 1e-8, "{back:?} {point:?}");
                prop_assert!((both[axis] - point[axis]).abs() < 1e-8, "{both:?} {point:?}");
            }
        }
    }
}
