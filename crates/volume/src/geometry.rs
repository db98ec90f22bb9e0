//! Where the voxels of an image lie: shape, spacing, and the transforms of its header.
//!
//! The header's transforms are kept as they were read, so that a segmentation is written with exactly the header of
//! its image, whichever of the two forms (qform, sform) a reader prefers. Two readers matter: nibabel takes the sform
//! before the qform before neither, and its affine is [`Geometry::affine`]; ITK takes spacing from `pixdim` and
//! origin and direction by a rule of its own, and these are what nnU-Net compares and stores.

use crate::affine::{Affine, closest_orthogonal, is_orthogonal, is_singular, unit_columns};
use crate::error::VolumeError;

/// Shape, spacing and position of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    /// Voxels along z, y, x.
    pub shape: [usize; 3],
    /// Voxel size in mm along z, y, x, as SimpleITK reports it: `|pixdim|` brought to mm. An image of two dimensions
    /// has `999 * max(y, x)` along z, as nnU-Net gives it.
    pub spacing: [f64; 3],
    forms: HeaderForms,
}

/// What places an image in the world, as a NIfTI header says it: in x, y, z and the header's own unit.
///
/// Two transforms may be given, the qform (a turn, as a quaternion) and the sform (any affine); a code of 0 says that one is
/// absent.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderForms {
    /// True for an image of two dimensions.
    pub flat: bool,
    /// Meaning of the qform.
    pub qform_code: i32,
    /// Meaning of the sform.
    pub sform_code: i32,
    /// `qfac`, dx, dy, dz.
    pub pixdim: [f64; 4],
    /// The qform's quaternion b, c, d.
    pub quaternion: [f64; 3],
    /// The qform's offset.
    pub offset: [f64; 3],
    /// Rows of the sform.
    pub srow: [[f64; 4]; 3],
    /// Units of space (bits 0 to 2) and time.
    pub xyzt_units: u8,
}

/// Which properties of two grids agree, each within `1e-8 + 1e-5 * |b|` as numpy's `allclose`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "one answer per property, named by its field")]
pub struct GridComparison {
    /// Same voxel counts.
    pub shape: bool,
    /// Same voxel size.
    pub spacing: bool,
    /// Same position of the first voxel.
    pub origin: bool,
    /// Same directions of the axes.
    pub direction: bool,
}

impl GridComparison {
    /// Shape and spacing agree. nnU-Net refuses a case whose channels differ here.
    pub const fn same_lattice(self) -> bool {
        self.shape && self.spacing
    }

    /// Origin and direction agree. nnU-Net only warns where they differ.
    pub const fn same_position(self) -> bool {
        self.origin && self.direction
    }
}

impl HeaderForms {
    /// Says which voxel sizes the header leaves out (0, NaN or infinite), in words; `None` where there are all.
    pub fn missing_spacing(&self) -> Option<String> {
        let axes = if self.flat { &["x", "y"][..] } else { &["x", "y", "z"] };
        let missing: Vec<String> = axes
            .iter()
            .zip(&self.pixdim[1..])
            .filter(|(_, size)| !(size.is_finite() && **size != 0.0))
            .map(|(axis, size)| format!("{size} along {axis}"))
            .collect();
        (!missing.is_empty()).then(|| {
            format!(
                "its header has the spacing (pixdim) {}, which counts as 1, as in nnU-Net",
                missing.join(", ")
            )
        })
    }

    /// Voxel sizes with what the NIfTI library makes of missing ones: 0 and NaN count as 1.
    fn zooms(&self) -> [f64; 3] {
        [1, 2, 3].map(|i| {
            let value = self.pixdim[i].abs();
            if value.is_finite() && value > 0.0 { value } else { 1.0 }
        })
    }

    /// Factor from the header's unit of length to mm.
    fn unit_mm(&self) -> f64 {
        match self.xyzt_units & 7 {
            1 => 1e3,
            3 => 1e-3,
            _ => 1.0,
        }
    }

    /// The qform's affine, in the header's unit.
    fn qform(&self) -> Affine {
        let zooms = self.zooms();
        let qfac = if self.pixdim[0] < 0.0 { -1.0 } else { 1.0 };
        let r = rotation_of(self.quaternion);
        let rows = [0, 1, 2]
            .map(|w| [r[w][0] * zooms[0], r[w][1] * zooms[1], r[w][2] * zooms[2] * qfac, self.offset[w]]);
        Affine::from_rows(rows)
    }

    /// nibabel's affine of a header without forms: centre of the image at 0, x towards L.
    fn base(&self, shape: [usize; 3]) -> Affine {
        let zooms = self.zooms();
        let counts = [shape[2], shape[1], shape[0]];
        let mut rows = [[0.0; 4]; 3];
        for axis in 0..3 {
            let sign = if axis == 0 { -1.0 } else { 1.0 };
            rows[axis][axis] = sign * zooms[axis];
            rows[axis][3] = -sign * zooms[axis] * (counts[axis] as f64 - 1.0) / 2.0;
        }
        Affine::from_rows(rows)
    }

    fn sform(&self) -> Affine {
        Affine::from_rows(self.srow)
    }

    /// The form that ITK 5.4 takes for origin and direction; `None` where the header has neither.
    fn itk_form(&self) -> Option<Affine> {
        let (q, s) = (self.qform_code > 0, self.sform_code > 0);
        match (q, s) {
            (false, false) => None,
            (true, false) => Some(self.qform()),
            (false, true) => Some(self.sform()),
            (true, true) => {
                let (sform, qform) = (self.sform(), self.qform());
                let decomposes = !sform.is_singular() && is_orthogonal(&sform.linear(), 1e-4);
                let prefer_sform = decomposes && (self.sform_code == 1 || alike(&sform, &qform));
                Some(if prefer_sform { sform } else { qform })
            }
        }
    }
}

/// Sform and qform that differ by no more than the qform's rounding (ITK allows 1e-4).
fn alike(a: &Affine, b: &Affine) -> bool {
    a.rows().iter().flatten().zip(b.rows().iter().flatten()).all(|(a, b)| (a - b).abs() <= 1e-4)
}

fn rotation_of(bcd: [f64; 3]) -> [[f64; 3]; 3] {
    let [mut b, mut c, mut d] = bcd;
    let squares = b * b + c * c + d * d;
    let mut a = 0.0;
    if 1.0 - squares < 1e-7 {
        // A turn by half a circle: rounding can make the vector slightly too long.
        let length = squares.sqrt();
        (b, c, d) = (b / length, c / length, d / length);
    } else {
        a = (1.0 - squares).sqrt();
    }
    [
        [a * a + b * b - c * c - d * d, 2.0 * (b * c - a * d), 2.0 * (b * d + a * c)],
        [2.0 * (b * c + a * d), a * a + c * c - b * b - d * d, 2.0 * (c * d - a * b)],
        [2.0 * (b * d - a * c), 2.0 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
}

/// Quaternion b, c, d of a rotation (a >= 0).
fn quaternion_of(r: &[[f64; 3]; 3]) -> [f64; 3] {
    let trace = r[0][0] + r[1][1] + r[2][2] + 1.0;
    if trace > 0.5 {
        let a = 0.5 * trace.sqrt();
        return [
            0.25 * (r[2][1] - r[1][2]) / a,
            0.25 * (r[0][2] - r[2][0]) / a,
            0.25 * (r[1][0] - r[0][1]) / a,
        ];
    }
    let xd = 1.0 + r[0][0] - (r[1][1] + r[2][2]);
    let yd = 1.0 + r[1][1] - (r[0][0] + r[2][2]);
    let zd = 1.0 + r[2][2] - (r[0][0] + r[1][1]);
    let (a, bcd) = if xd > 1.0 {
        let b = 0.5 * xd.sqrt();
        let (c, d) = (0.25 * (r[0][1] + r[1][0]) / b, 0.25 * (r[0][2] + r[2][0]) / b);
        (0.25 * (r[2][1] - r[1][2]) / b, [b, c, d])
    } else if yd > 1.0 {
        let c = 0.5 * yd.sqrt();
        let (b, d) = (0.25 * (r[0][1] + r[1][0]) / c, 0.25 * (r[1][2] + r[2][1]) / c);
        (0.25 * (r[0][2] - r[2][0]) / c, [b, c, d])
    } else {
        let d = 0.5 * zd.sqrt();
        let (b, c) = (0.25 * (r[0][2] + r[2][0]) / d, 0.25 * (r[1][2] + r[2][1]) / d);
        (0.25 * (r[1][0] - r[0][1]) / d, [b, c, d])
    };
    if a < 0.0 { bcd.map(|v| -v) } else { bcd }
}

/// Rounds to what a NIfTI-1 header can hold.
fn single(value: f64) -> f64 {
    f64::from(value as f32)
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-8 + 1e-5 * b.abs()
}

impl Geometry {
    /// The geometry of header fields; `shape` is z, y, x.
    ///
    /// # Errors
    /// [`VolumeError::SingularAffine`] if the header declares forms and none of them is regular.
    pub fn from_forms(shape: [usize; 3], forms: HeaderForms) -> Result<Self, VolumeError> {
        let unit = forms.unit_mm();
        let [sx, sy, sz] = forms.zooms().map(|v| v * unit);
        let sz = if forms.flat { 999.0 * sx.max(sy) } else { sz };
        let geometry = Self { shape, spacing: [sz, sy, sx], forms };
        let (q, s) = (geometry.forms.qform_code > 0, geometry.forms.sform_code > 0);
        let sform_ok = s && !geometry.forms.sform().is_singular();
        let qform_ok = q && !geometry.forms.qform().is_singular();
        if (q || s) && !sform_ok && !qform_ok {
            let form = if s { geometry.forms.sform() } else { geometry.forms.qform() };
            return Err(VolumeError::SingularAffine { rows: form.rows() });
        }
        Ok(geometry)
    }

    /// A geometry of voxels placed by `affine`, which takes the index `x, y, z` to RAS+ mm. `shape` is z, y, x.
    ///
    /// Values are rounded to f32, the precision of a NIfTI-1 header, so that a written file gives the same geometry
    /// back. Axes that are not at right angles cannot be a qform, which is then left out.
    ///
    /// # Errors
    /// [`VolumeError::SingularAffine`] if the affine cannot be inverted.
    pub fn from_affine(shape: [usize; 3], affine: Affine) -> Result<Self, VolumeError> {
        let srow = affine.rows().map(|r| r.map(single));
        let affine = Affine::from_rows(srow);
        if affine.is_singular() {
            return Err(VolumeError::SingularAffine { rows: affine.rows() });
        }
        let linear = affine.linear();
        let mut rotation = closest_orthogonal(&linear);
        let qfac = if affine.determinant() < 0.0 { -1.0 } else { 1.0 };
        for row in &mut rotation {
            row[2] *= qfac;
        }
        let lengths = affine.column_lengths().map(single);
        let forms = HeaderForms {
            flat: false,
            qform_code: i32::from(is_orthogonal(&linear, 1e-4)),
            sform_code: 1,
            pixdim: [qfac, lengths[0], lengths[1], lengths[2]],
            quaternion: quaternion_of(&rotation).map(single),
            offset: affine.translation(),
            srow,
            xyzt_units: 2,
        };
        Self::from_forms(shape, forms)
    }

    /// Voxels of 1 mm, index equal to position: for tests and made images. `shape` is z, y, x.
    pub fn isotropic(shape: [usize; 3]) -> Self {
        let forms = HeaderForms {
            flat: false,
            qform_code: 1,
            sform_code: 1,
            pixdim: [1.0; 4],
            quaternion: [0.0; 3],
            offset: [0.0; 3],
            srow: Affine::IDENTITY.rows(),
            xyzt_units: 2,
        };
        Self { shape, spacing: [1.0; 3], forms }
    }

    /// Number of voxels of one channel.
    pub const fn voxels(&self) -> usize {
        self.shape[0] * self.shape[1] * self.shape[2]
    }

    /// The voxel z, y, x at an index into an array of this shape.
    pub const fn position(&self, index: usize) -> [usize; 3] {
        let [_, y, x] = self.shape;
        [index / (y * x), index / x % y, index % x]
    }

    /// The transforms as the image's header gave them.
    pub const fn forms(&self) -> &HeaderForms {
        &self.forms
    }

    /// Volume of a voxel in mL.
    ///
    /// The thickness of an image of two dimensions is unknown; nnU-Net's 999-fold spacing counts like any other.
    pub fn voxel_ml(&self) -> f64 {
        self.spacing.iter().product::<f64>() / 1000.0
    }

    /// From voxel index `x, y, z` to RAS+ mm, by nibabel's choice: sform, else qform, else voxel sizes about the
    /// centre. Other than nibabel it brings metres and micrometres to mm, and passes over a singular sform where there
    /// is a qform.
    pub fn affine(&self) -> Affine {
        let forms = &self.forms;
        let sform = forms.sform();
        let qform_usable = forms.qform_code > 0;
        let affine = if forms.sform_code > 0 && !(qform_usable && sform.is_singular()) {
            sform
        } else if qform_usable {
            forms.qform()
        } else {
            forms.base(self.shape)
        };
        let unit = forms.unit_mm();
        // Exactly as read where the header is in mm.
        if unit.to_bits() == 1f64.to_bits() {
            affine
        } else {
            Affine::from_rows(affine.rows().map(|r| r.map(|v| v * unit)))
        }
    }

    /// Where the index axes `x, y, z` lead, as nibabel's `aff2axcodes` says it: `RAS`, `LPS`, …
    pub fn orientation(&self) -> String {
        self.affine().orientation()
    }

    /// Position of the first voxel in ITK's world (LPS+, mm), in x, y, z.
    pub fn origin(&self) -> [f64; 3] {
        let unit = self.forms.unit_mm();
        let [x, y, z] = self.forms.itk_form().map_or([0.0; 3], |form| form.translation());
        // Adding 0 turns -0 into 0.
        [-x * unit + 0.0, -y * unit + 0.0, z * unit + 0.0]
    }

    /// Directions of the axes in ITK's world (LPS+): element `[w][a]` is component `w` of index axis `a`, both in
    /// x, y, z. Its rows in order are SimpleITK's `GetDirection`.
    pub fn direction(&self) -> [[f64; 3]; 3] {
        let Some(form) = self.forms.itk_form() else {
            return [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
        };
        let linear = form.linear();
        let mut unit = if is_orthogonal(&linear, 1e-4) || is_singular(&linear) {
            unit_columns(&linear)
        } else {
            closest_orthogonal(&linear)
        };
        for row in &mut unit[..2] {
            *row = row.map(|v| -v + 0.0);
        }
        unit
    }

    /// Compares the grid of another image of the case (`other`) with this, the first.
    ///
    /// # Source
    /// nnU-Net v2, `SimpleITKIO.read_images`: shape and spacing must agree, origin and direction should.
    pub fn same_grid(&self, other: &Self) -> GridComparison {
        let all = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(&a, &b)| close(a, b));
        GridComparison {
            shape: self.shape == other.shape,
            spacing: all(&other.spacing, &self.spacing),
            origin: all(&other.origin(), &self.origin()),
            direction: all(other.direction().as_flattened(), self.direction().as_flattened()),
        }
    }
}
