//! Rotation, scaling and elastic deformation, sampled at once from the enlarged patch.
//!
//! What is drawn becomes one matrix and, where elastic, one field of displacements; the image is then sampled only at
//! the voxels that are kept. Without any of the three, the patch is a plain crop.

use super::elastic::ElasticParams;
use super::random::{Draw, PatchRng};
use super::warp;
use super::{Layout, Patch, Source};

/// Whose spatial transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpatialFlavour {
    /// batchgeneratorsv2: coordinates `Rz·Ry·Rx·diag(scale)·g`; image linear, segmentation by the largest linear score.
    V2,
    /// batchgenerators: coordinates `diag(scale)·(Rx·Ry·Rz)ᵀ·g`; image by cubic spline, segmentation linear.
    V1,
}

/// Elastic deformation (batchgenerators' `SpatialTransform_2`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Elastic {
    /// Probability.
    pub p: f64,
    /// Standard deviation of the smoothing, as a fraction of the patch.
    pub scale: Draw,
}

/// Rotates, scales, deforms.
#[derive(Debug, Clone, PartialEq)]
pub struct Spatial {
    /// Whose arithmetic.
    pub flavour: SpatialFlavour,
    /// Slices along axis 0 stay apart: 2d, and dummy 2d.
    pub planar: bool,
    /// Probability of a rotation.
    pub p_rotation: f64,
    /// Angles are uniform between minus and plus this, in radians.
    pub rotation: f64,
    /// Probability that a rotation turns about a given axis.
    pub p_rotation_axis: f64,
    /// Probability of scaling.
    pub p_scaling: f64,
    /// The factor; above 1 objects become smaller.
    pub scale: Draw,
    /// Probability that all axes share one factor.
    pub p_one_scale: f64,
    /// Elastic deformation.
    pub elastic: Option<Elastic>,
}

/// Displacements of the voxels of a patch.
#[derive(Debug, Clone, PartialEq)]
pub enum Displacement {
    /// None.
    None,
    /// To be made from a seed.
    Drawn(ElasticParams),
    /// As given, per axis, in voxels.
    Given([Vec<f32>; 3]),
}

/// What [`Spatial`] drew.
#[derive(Debug, Clone, PartialEq)]
pub struct SpatialParams {
    /// Voxels per axis of the final patch.
    pub patch: [usize; 3],
    /// Whose arithmetic.
    pub flavour: SpatialFlavour,
    /// Slices along axis 0 stay apart.
    pub planar: bool,
    /// About the axes 0, 1, 2, in radians; planar transforms use the last.
    pub angles: Option<[f64; 3]>,
    /// Along the axes 0, 1, 2.
    pub scales: Option<[f64; 3]>,
    /// Elastic deformation.
    pub displacement: Displacement,
    /// Label outside the source; nnU-Net's is -1.
    pub pad_label: i16,
}

impl Spatial {
    /// Draws the parameters.
    pub fn sample(&self, layout: &Layout, rng: &mut PatchRng) -> SpatialParams {
        let axes = usize::from(self.planar)..3;
        let elastic = self.elastic.filter(|e| rng.chance(e.p)).map(|e| {
            let scale = e.scale.sample(rng);
            let sigmas_vox = layout.shape.map(|n| scale * n as f64);
            let magnitudes_vox = sigmas_vox.map(|s| rng.uniform(s / 8.0, s / 2.0));
            ElasticParams { sigmas_vox, magnitudes_vox, seed: rng.word() }
        });
        let angles = rng.chance(self.p_rotation).then(|| {
            // A planar rotation has one angle.
            let turning = if self.planar { 2..3 } else { 0..3 };
            let mut angles = [0.0; 3];
            for a in turning {
                let angle = rng.uniform(-self.rotation, self.rotation);
                angles[a] = if rng.chance(self.p_rotation_axis) { angle } else { 0.0 };
            }
            angles
        });
        let scales = rng.chance(self.p_scaling).then(|| {
            let one = rng.chance(self.p_one_scale).then(|| self.scale.sample(rng));
            let mut scales = [1.0; 3];
            for a in axes {
                scales[a] = one.unwrap_or_else(|| self.scale.sample(rng));
            }
            scales
        });
        SpatialParams {
            patch: layout.shape,
            flavour: self.flavour,
            planar: self.planar,
            angles,
            scales,
            displacement: elastic.map_or(Displacement::None, Displacement::Drawn),
            pad_label: OUTSIDE,
        }
    }
}

impl SpatialParams {
    /// A plain centre crop.
    pub fn crop(patch: [usize; 3], flavour: SpatialFlavour) -> SpatialParams {
        SpatialParams {
            patch,
            flavour,
            planar: false,
            angles: None,
            scales: None,
            displacement: Displacement::None,
            pad_label: OUTSIDE,
        }
    }

    /// Nothing is transformed: the patch is a crop.
    pub fn is_crop(&self) -> bool {
        self.angles.is_none() && self.scales.is_none() && self.displacement == Displacement::None
    }

    /// The matrix that takes a voxel of the patch, relative to its centre, to a voxel of the source.
    pub fn matrix(&self) -> [[f64; 3]; 3] {
        let angles = self.angles.unwrap_or([0.0; 3]);
        let scales = self.scales.unwrap_or([1.0; 3]);
        let rotation = |axis: usize| {
            let (s, c) = angles[axis].sin_cos();
            match axis {
                0 => [[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]],
                1 => [[c, 0.0, s], [0.0, 1.0, 0.0], [-s, 0.0, c]],
                _ => [[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]],
            }
        };
        let (s, c) = angles[2].sin_cos();
        let planar = [[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]];
        let mut matrix = match (self.flavour, self.planar) {
            (_, true) => planar,
            (SpatialFlavour::V2, false) => product(product(rotation(2), rotation(1)), rotation(0)),
            (SpatialFlavour::V1, false) => product(product(rotation(0), rotation(1)), rotation(2)),
        };
        if self.flavour == SpatialFlavour::V1 {
            matrix = [0, 1, 2].map(|i| [0, 1, 2].map(|j| matrix[j][i]));
        }
        for i in 0..3 {
            for j in 0..3 {
                matrix[i][j] *= match self.flavour {
                    SpatialFlavour::V2 => scales[j],
                    SpatialFlavour::V1 => scales[i],
                };
            }
        }
        matrix
    }

    /// Where a crop begins in a source of `full` voxels; negative where the source is smaller.
    fn crop_start(&self, full: [usize; 3]) -> [isize; 3] {
        [0, 1, 2].map(|a| {
            let (s, p) = (full[a] as isize, self.patch[a] as isize);
            match self.flavour {
                SpatialFlavour::V2 => s / 2 - p / 2,
                SpatialFlavour::V1 => (s - p).div_euclid(2),
            }
        })
    }

    /// The part of a source of `full` voxels that is read: first voxel and size per axis.
    pub fn source_box(&self, full: [usize; 3]) -> ([usize; 3], [usize; 3]) {
        let range = |low: isize, high: isize, n: usize| {
            let low = low.clamp(0, n as isize - 1);
            (low as usize, (high.clamp(low + 1, n as isize) - low) as usize)
        };
        let boxes: [(usize, usize); 3] = if self.is_crop() {
            let start = self.crop_start(full);
            [0, 1, 2].map(|a| range(start[a], start[a] + self.patch[a] as isize, full[a]))
        } else if self.flavour == SpatialFlavour::V2 && self.displacement == Displacement::None {
            let matrix = self.matrix();
            [0, 1, 2].map(|a| {
                let reach: f64 =
                    (0..3).map(|k| matrix[a][k].abs() * (self.patch[k] as f64 - 1.0) / 2.0).sum();
                let centre = (full[a] as f64 - 1.0) / 2.0;
                // One voxel to spare for rounding.
                range((centre - reach).floor() as isize - 1, (centre + reach).ceil() as isize + 2, full[a])
            })
        } else {
            full.map(|n| (0, n))
        };
        (boxes.map(|b| b.0), boxes.map(|b| b.1))
    }

    /// The patch: outside the source the image is 0 and the segmentation [`SpatialParams::pad_label`].
    ///
    /// # Panics
    /// If given displacements do not hold one number per voxel of the patch.
    pub fn apply(&self, source: &Source<'_>) -> Patch {
        let mut out = Patch { shape: self.patch, data: Vec::new(), seg: Vec::new() };
        self.apply_into(source, &mut out);
        out
    }

    /// Like [`SpatialParams::apply`], in the memory of an earlier patch.
    ///
    /// # Panics
    /// If given displacements do not hold one number per voxel of the patch.
    ///
    /// # Source
    /// batchgeneratorsv2, `SpatialTransform`; batchgenerators, `augment_spatial_2`.
    pub fn apply_into(&self, source: &Source<'_>, out: &mut Patch) {
        let from = source.patch;
        out.shape = self.patch;
        if self.is_crop() {
            let start = self.crop_start(source.full);
            let start = [0, 1, 2].map(|a| start[a] - source.origin[a] as isize);
            crop_channels(&from.data, from.shape, start, self.patch, 0.0, &mut out.data);
            crop_channels(&from.seg, from.shape, start, self.patch, self.pad_label, &mut out.seg);
            return;
        }
        // Every voxel is written, so what is there may stay.
        let voxels: usize = self.patch.iter().product();
        out.data.resize(from.channels() * voxels, 0.0);
        out.seg.resize(from.seg_channels() * voxels, 0);
        let offsets = match &self.displacement {
            Displacement::None => None,
            Displacement::Drawn(params) => Some(params.offsets(self.patch, self.planar)),
            Displacement::Given(offsets) => Some(offsets.clone()),
        };
        let coordinates = warp::Coordinates::new(self.matrix(), self.patch, source, offsets);
        match self.flavour {
            SpatialFlavour::V2 => warp::linear(source, &coordinates, self.planar, self.pad_label, out),
            SpatialFlavour::V1 => warp::cubic(source, &coordinates, self.pad_label, out),
        }
    }
}

/// The label of voxels outside the image.
const OUTSIDE: i16 = -1;

fn product(a: [[f64; 3]; 3], b: [[f64; 3]; 3]) -> [[f64; 3]; 3] {
    [0, 1, 2].map(|i| [0, 1, 2].map(|j| (0..3).map(|k| a[i][k] * b[k][j]).sum()))
}

/// The box of `shape` that begins at `start`, in place of what `out` holds.
pub(super) fn crop_channels<T: Copy>(
    values: &[T],
    from: [usize; 3],
    start: [isize; 3],
    shape: [usize; 3],
    pad: T,
    out: &mut Vec<T>,
) {
    let channels = values.len() / from.iter().product::<usize>();
    out.clear();
    out.reserve_exact(channels * shape.iter().product::<usize>());
    let inside = |axis: usize, i: usize| {
        let at = start[axis] + i as isize;
        (0..from[axis] as isize).contains(&at).then_some(at as usize)
    };
    let left = (-start[2]).clamp(0, shape[2] as isize) as usize;
    let right = (from[2] as isize - start[2]).clamp(left as isize, shape[2] as isize) as usize;
    for c in 0..channels {
        for z in 0..shape[0] {
            for y in 0..shape[1] {
                let row = inside(0, z).zip(inside(1, y)).filter(|_| right > left);
                if let Some((sz, sy)) = row {
                    let first = ((c * from[0] + sz) * from[1] + sy) * from[2];
                    let first = first + (start[2] + left as isize) as usize;
                    out.extend(std::iter::repeat_n(pad, left));
                    out.extend_from_slice(&values[first..first + right - left]);
                    out.extend(std::iter::repeat_n(pad, shape[2] - right));
                } else {
                    out.extend(std::iter::repeat_n(pad, shape[2]));
                }
            }
        }
    }
}

/// Voxels per axis of the enlarged patch that rotated and shrunk patches fit into.
///
/// `rotation` is the largest angle in radians (limited to π/2), `smallest_scale` the divisor at the end. Planar patches
/// grow along the axes 1 and 2 only.
///
/// # Source
/// nnU-Net, `get_patch_size`.
pub fn enlarged_patch(patch: [usize; 3], rotation: f64, smallest_scale: f64, planar: bool) -> [usize; 3] {
    let (s, c) = rotation.min(std::f64::consts::FRAC_PI_2).sin_cos();
    let p = patch.map(|n| n as f64);
    // The patch as a row vector times the rotation about each axis.
    let turned: &[[f64; 3]] = &[
        [p[0], p[1] * c + p[2] * s, p[2] * c - p[1] * s],
        [p[0] * c - p[2] * s, p[1], p[0] * s + p[2] * c],
        [p[0] * c + p[1] * s, p[1] * c - p[0] * s, p[2]],
    ];
    let turned = if planar { &turned[..1] } else { turned };
    let mut largest = p;
    for t in turned {
        for a in 0..3 {
            largest[a] = largest[a].max(t[a].abs());
        }
    }
    let mut out = largest.map(|n| (n / smallest_scale) as usize);
    if planar {
        out[0] = patch[0];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source(shape: [usize; 3]) -> Patch {
        let n: usize = shape.iter().product();
        let data = (0..2 * n).map(|i| (i * 7919 % 1009) as f32 * 0.01).collect();
        Patch::new(shape, data, (0..n).map(|i| (i / 5 % 11 % 4) as i16 - 1).collect()).expect("fits")
    }

    fn affine(patch: [usize; 3], planar: bool, angles: [f64; 3], scales: [f64; 3]) -> SpatialParams {
        SpatialParams {
            planar,
            angles: Some(angles),
            scales: Some(scales),
            ..SpatialParams::crop(patch, SpatialFlavour::V2)
        }
    }

    #[test]
    fn the_identity_is_the_crop() {
        let p = source([14, 13, 12]);
        for flavour in [SpatialFlavour::V2, SpatialFlavour::V1] {
            let crop = SpatialParams::crop([8, 7, 10], flavour);
            let identity = SpatialParams { angles: Some([0.0; 3]), scales: Some([1.0; 3]), ..crop.clone() };
            let (crop, same) = (crop.apply(&Source::whole(&p)), identity.apply(&Source::whole(&p)));
            assert_eq!(crop.seg, same.seg);
            let worst = crop.data.iter().zip(&same.data).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst < 1e-4, "{flavour:?} differs by {worst}");
        }
    }

    #[test]
    fn planar_transforms_treat_slices_apart() {
        let p = source([3, 14, 15]);
        let angles = [0.0, 0.0, 0.7];
        let whole = affine([3, 9, 8], true, angles, [1.0, 1.3, 0.8]).apply(&Source::whole(&p));
        for z in 0..3 {
            let slice = p.cut([z, 0, 0], [1, 14, 15]);
            let alone = affine([1, 9, 8], true, angles, [1.0, 1.3, 0.8]).apply(&Source::whole(&slice));
            assert_eq!(whole.cut([z, 0, 0], [1, 9, 8]), alone);
        }
    }

    #[test]
    fn given_displacements_of_nothing_are_nothing() {
        let p = source([10, 10, 10]);
        let still = Displacement::Given([0, 1, 2].map(|_| vec![0.0; 6 * 6 * 6]));
        let params = SpatialParams { displacement: still, ..affine([6; 3], false, [0.1; 3], [1.1; 3]) };
        let without = affine([6; 3], false, [0.1; 3], [1.1; 3]).apply(&Source::whole(&p));
        let with = params.apply(&Source::whole(&p));
        assert_eq!(without.seg, with.seg);
        assert!(without.data.iter().zip(&with.data).all(|(a, b)| (a - b).abs() < 1e-4));
    }

    proptest! {
        #[test]
        fn the_box_that_is_read_is_enough(
            planar in any::<bool>(),
            crop in any::<bool>(),
            size in [1usize..12, 3usize..12, 3usize..12],
            full in [1usize..16, 3usize..16, 3usize..16],
            angles in [-3.2f64..3.2, -3.2f64..3.2, -3.2f64..3.2],
            scales in [0.6f64..1.5, 0.6f64..1.5, 0.6f64..1.5],
        ) {
            let depth = if planar { size[0] } else { full[0] };
            let p = source([depth, full[1], full[2]]);
            let mut params = affine(size, planar, angles, [if planar { 1.0 } else { scales[0] }, scales[1], scales[2]]);
            if crop {
                params = SpatialParams::crop(size, SpatialFlavour::V2);
            }
            let (origin, read) = params.source_box(p.shape);
            let part = p.cut(origin.map(|o| o as isize), read);
            let from_part = params.apply(&Source { patch: &part, origin, full: p.shape });
            prop_assert!(params.apply(&Source::whole(&p)) == from_part);
        }
    }

    #[test]
    fn enlarged_patches_are_nnunets() {
        let deg = |d: f64| d / 360.0 * 2.0 * std::f64::consts::PI;
        let cube = [128; 3];
        assert_eq!(enlarged_patch(cube, deg(30.0), 0.85, false), [205; 3]);
        assert_eq!(enlarged_patch([160, 192, 160], deg(30.0), 0.85, false), [275, 289, 257]);
        assert_eq!(enlarged_patch([64, 192, 160], deg(30.0), 0.85, false), [178, 289, 200]);
        assert_eq!(enlarged_patch(cube, deg(30.0), 0.7, false), [249; 3]);
        assert_eq!(enlarged_patch(cube, deg(90.0), 0.7, false), [182; 3]);
    }

    #[test]
    fn crops_pad_where_the_source_ends() {
        let p = Patch::new([1, 2, 3], (1..7).map(|i| i as f32).collect(), vec![4; 6]).expect("fits");
        let out = SpatialParams::crop([1, 4, 5], SpatialFlavour::V2).apply(&Source::whole(&p));
        #[rustfmt::skip]
        let expected = [
            0.0, 0.0, 0.0, 0.0, 0.0,
            0.0, 1.0, 2.0, 3.0, 0.0,
            0.0, 4.0, 5.0, 6.0, 0.0,
            0.0, 0.0, 0.0, 0.0, 0.0,
        ];
        assert_eq!(out.data, expected);
        assert_eq!(out.seg.iter().filter(|&&s| s == -1).count(), 14);
    }
}
