//! An image at four resolutions.

use std::borrow::Cow;

use glioseg_volume::Geometry;
use rayon::prelude::*;

use crate::error::AlignError;
use crate::samples::otsu;
use crate::transform::Transform;

/// Spacing in mm that each level is brought near to, and the width (sigma, mm) of the Gaussian after it. The finest level is not
/// smoothed: with 0.7 mm, errors on known truth were twice as large.
pub(crate) const LEVELS: [(f64, f64); 4] = [(8.0, 6.0), (4.0, 3.0), (2.0, 1.5), (1.0, 0.0)];

/// A Gaussian narrower than this, in voxels, is left out.
const NARROW: f64 = 0.3;
/// Fewest slices, and the largest distance of two, that can be registered.
const FEWEST_SLICES: usize = 8;
const THICKEST_MM: f64 = 8.0;

/// Values on a grid in the world.
#[derive(Debug, Clone)]
pub(crate) struct Grid<'a> {
    /// Voxels along x, y, z.
    pub(crate) size: [usize; 3],
    /// From voxel index x, y, z to the world.
    pub(crate) to_world: Transform,
    /// Values, x fastest.
    pub(crate) values: Cow<'a, [f32]>,
}

/// An image prepared for registration: the levels from coarse to fine, and the centre of what is in it.
///
/// It serves any number of registrations, as the fixed or as the moving image.
#[derive(Debug)]
pub struct Pyramid<'a> {
    pub(crate) levels: [Grid<'a>; 4],
    /// Centre of mass of the voxels above Otsu's threshold, in the world.
    pub(crate) mass_centre: [f64; 3],
    /// Centre of the grid, in the world.
    pub(crate) grid_centre: [f64; 3],
}

impl<'a> Pyramid<'a> {
    /// The levels of an image.
    ///
    /// # Shapes
    /// `values` are one channel, `[z, y, x]` of the geometry's shape.
    ///
    /// # Errors
    /// [`AlignError::TooCoarse`], [`AlignError::Constant`], [`AlignError::NotFinite`] for images that cannot be registered.
    ///
    /// # Panics
    /// If `values` are of another length.
    pub fn new(values: &'a [f32], geometry: &Geometry) -> Result<Self, AlignError> {
        assert_eq!(values.len(), geometry.voxels(), "values of another shape than {:?}", geometry.shape);
        check(values, geometry)?;
        let [z, y, x] = geometry.shape;
        let image =
            Grid { size: [x, y, z], to_world: Transform::of_grid(geometry), values: Cow::Borrowed(values) };
        let levels = LEVELS.map(|(spacing, sigma)| image.level(spacing, sigma));
        let mass_centre = levels[1].mass_centre();
        let grid_centre = image.centre();
        Ok(Self { levels, mass_centre, grid_centre })
    }
}

fn check(values: &[f32], geometry: &Geometry) -> Result<(), AlignError> {
    let (shape, spacing_mm) = (geometry.shape, Transform::of_grid(geometry).scales());
    if shape.iter().any(|&n| n < FEWEST_SLICES) || spacing_mm.iter().any(|&s| s > THICKEST_MM + 1e-3) {
        let [x, y, z] = spacing_mm.map(|s| (s * 1000.0).round() / 1000.0);
        return Err(AlignError::TooCoarse { shape, spacing_mm: [z, y, x] });
    }
    let count = values.iter().filter(|v| !v.is_finite()).count();
    if count > 0 {
        return Err(AlignError::NotFinite { count });
    }
    let first = values[0].to_bits();
    if values.iter().all(|v| v.to_bits() == first) {
        return Err(AlignError::Constant { value: values[0] });
    }
    Ok(())
}

impl Grid<'_> {
    /// Averages blocks of voxels up to `spacing` mm, then smooths with a Gaussian of `sigma` mm. An axis whose voxels are thicker
    /// stays as it is.
    fn level(&self, spacing: f64, sigma: f64) -> Self {
        let thick = self.to_world.scales();
        let block = [0, 1, 2].map(|k| ((spacing / thick[k] + 1e-6).floor() as usize).clamp(1, self.size[k]));
        let mut level = if block == [1; 3] { self.clone() } else { self.averaged(block) };
        let thick = level.to_world.scales();
        for axis in 0..3 {
            level.smooth(axis, sigma / thick[axis]);
        }
        level
    }

    /// Means of blocks; what is left at the far ends is cut off.
    fn averaged(&self, block: [usize; 3]) -> Self {
        let size = [0, 1, 2].map(|k| self.size[k] / block[k]);
        let weight = 1.0 / block.iter().product::<usize>() as f32;
        let mut values = vec![0f32; size.iter().product()];
        values.par_chunks_mut(size[0] * size[1]).enumerate().for_each(|(z, plane)| {
            for (y, row) in plane.chunks_exact_mut(size[0]).enumerate() {
                for from in (0..block[2] * block[1]).map(|i| {
                    let (z, y) = (z * block[2] + i / block[1], y * block[1] + i % block[1]);
                    &self.values[(z * self.size[1] + y) * self.size[0]..][..size[0] * block[0]]
                }) {
                    for (out, part) in row.iter_mut().zip(from.chunks_exact(block[0])) {
                        *out += part.iter().sum::<f32>() * weight;
                    }
                }
            }
        });
        // Voxel 0 of the result lies in the middle of the first block.
        let mut rows = [[0.0; 4]; 3];
        for k in 0..3 {
            rows[k][k] = block[k] as f64;
            rows[k][3] = (block[k] as f64 - 1.0) / 2.0;
        }
        let to_world = self.to_world.after(&Transform::of_rows(rows));
        Self { size, to_world, values: Cow::Owned(values) }
    }

    /// A Gaussian of `sigma` voxels along an axis; the ends repeat.
    fn smooth(&mut self, axis: usize, sigma: f64) {
        let n = self.size[axis];
        if sigma < NARROW || n < 2 {
            return;
        }
        let radius = (3.0 * sigma).ceil() as usize;
        let bell = |i: usize| (-(i as f64 - radius as f64).powi(2) / (2.0 * sigma * sigma)).exp() as f32;
        let mut kernel: Vec<f32> = (0..=2 * radius).map(bell).collect();
        let total: f32 = kernel.iter().sum();
        for value in &mut kernel {
            *value /= total;
        }
        let strides = [1, self.size[0], self.size[0] * self.size[1]];
        let (b, c) = ((axis + 1) % 3, (axis + 2) % 3);
        let values = self.values.to_mut();
        let mut line = vec![0f32; n + 2 * radius];
        for j in 0..self.size[c] {
            for i in 0..self.size[b] {
                let start = i * strides[b] + j * strides[c];
                for (q, value) in line.iter_mut().enumerate() {
                    *value = values[start + q.saturating_sub(radius).min(n - 1) * strides[axis]];
                }
                for q in 0..n {
                    values[start + q * strides[axis]] =
                        kernel.iter().zip(&line[q..]).map(|(k, v)| k * v).sum();
                }
            }
        }
    }

    /// The middle of the grid in the world.
    fn centre(&self) -> [f64; 3] {
        self.to_world.apply(self.size.map(|n| (n as f64 - 1.0) / 2.0))
    }

    /// Mean place of the voxels above Otsu's threshold.
    fn mass_centre(&self) -> [f64; 3] {
        let threshold = otsu(&self.values);
        let (mut count, mut sum) = (0usize, [0usize; 3]);
        for (index, _) in self.values.iter().enumerate().filter(|(_, v)| **v > threshold) {
            count += 1;
            for (s, i) in sum.iter_mut().zip(self.index(index)) {
                *s += i;
            }
        }
        if count == 0 {
            return self.centre();
        }
        self.to_world.apply(sum.map(|s| s as f64 / count as f64))
    }

    /// The box of the voxels above half Otsu's threshold and 5 mm around it, in voxels: lower and upper end along x, y, z.
    pub(crate) fn head_box(&self) -> [[f64; 2]; 3] {
        const MARGIN_MM: f64 = 5.0;
        // Half the threshold keeps dark tissue and leaves out most of the air.
        let threshold = 0.5 * otsu(&self.values);
        let (mut low, mut high) = ([usize::MAX; 3], [0; 3]);
        for (index, _) in self.values.iter().enumerate().filter(|(_, v)| **v > threshold) {
            for (k, i) in self.index(index).into_iter().enumerate() {
                low[k] = low[k].min(i);
                high[k] = high[k].max(i);
            }
        }
        let thick = self.to_world.scales();
        [0, 1, 2].map(|k| {
            let end = self.size[k] as f64 - 1.0;
            if low[k] > high[k] {
                return [0.0, end];
            }
            let margin = MARGIN_MM / thick[k];
            [(low[k] as f64 - margin).max(-0.5), (high[k] as f64 + margin).min(end + 0.5)]
        })
    }

    /// x, y, z of an index into the values.
    fn index(&self, index: usize) -> [usize; 3] {
        let [nx, ny, _] = self.size;
        [index % nx, index / nx % ny, index / (nx * ny)]
    }

    /// True for a place (voxels) at most half a voxel outside.
    pub(crate) fn holds(&self, place: [f64; 3]) -> bool {
        (0..3).all(|k| place[k] >= -0.5 && place[k] <= self.size[k] as f64 - 0.5)
    }

    /// The trilinear value at a place (voxels) and its slope per voxel along x, y, z; `None` more than half a voxel outside.
    #[inline]
    pub(crate) fn interpolate(&self, place: [f64; 3]) -> Option<(f32, [f32; 3])> {
        if !self.holds(place) {
            return None;
        }
        let mut fraction = [0f32; 3];
        let mut step = [1, self.size[0], self.size[0] * self.size[1]];
        let mut at = 0;
        for k in 0..3 {
            let last = self.size[k] - 1;
            let inside = place[k].clamp(0.0, last as f64);
            // The last voxel is the far end of the cell before it.
            let cell = (inside as usize).min(last.saturating_sub(1));
            fraction[k] = (inside - cell as f64) as f32;
            at += cell * step[k];
            if last == 0 {
                step[k] = 0;
            }
        }
        let [x, y, z] = fraction;
        let row = |at: usize| {
            let (a, b) = (self.values[at], self.values[at + step[0]]);
            (a + (b - a) * x, b - a)
        };
        let plane = |at: usize| {
            let ((near, slope_near), (far, slope_far)) = (row(at), row(at + step[1]));
            (near + (far - near) * y, slope_near + (slope_far - slope_near) * y, far - near)
        };
        let ((v0, x0, y0), (v1, x1, y1)) = (plane(at), plane(at + step[2]));
        Some((v0 + (v1 - v0) * z, [x0 + (x1 - x0) * z, y0 + (y1 - y0) * z, v1 - v0]))
    }
}
