//! Turning an image so that its axes lead to R, A and S, and back.

use crate::affine::{Affine, Matrix3};
use crate::crop::{self, Box3};
use crate::geometry::Geometry;
use crate::volume::LabelMap;

/// A new order of the axes of an array, some of which run backwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Axis `a` of the turned array is axis `axes[a]` of the array before; z, y, x.
    pub axes: [usize; 3],
    /// Whether axis `a` of the turned array runs backwards.
    pub flip: [bool; 3],
}

/// Which library's rules decide how an image has to be turned. They differ for slanted axes, and where a header's voxel
/// size is not that of its affine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TurnRule {
    /// nibabel's `as_closest_canonical`, by nibabel's affine.
    Nibabel,
    /// ITK's `DICOMOrientImageFilter`, by ITK's direction.
    Itk,
}

impl Default for Turn {
    fn default() -> Self {
        Self::NONE
    }
}

impl Turn {
    /// Leaves every voxel where it is.
    pub const NONE: Self = Self { axes: [0, 1, 2], flip: [false; 3] };

    /// Another order alone: axis `a` of the turned array is axis `axes[a]` of the array before.
    pub const fn order(axes: [usize; 3]) -> Self {
        Self { axes, flip: [false; 3] }
    }

    /// True if nothing moves.
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    /// The turn that takes everything back.
    #[must_use]
    pub fn inverse(&self) -> Self {
        let mut back = Self::NONE;
        for (a, &before) in self.axes.iter().enumerate() {
            back.axes[before] = a;
            back.flip[before] = self.flip[a];
        }
        back
    }

    /// This turn and then `next`.
    #[must_use]
    pub fn then(&self, next: &Self) -> Self {
        Self {
            axes: next.axes.map(|a| self.axes[a]),
            flip: [0, 1, 2].map(|a| next.flip[a] ^ self.flip[next.axes[a]]),
        }
    }

    /// One value per axis, in the order of the turned array: its shape, its spacing.
    pub fn along<T: Copy>(&self, of: [T; 3]) -> [T; 3] {
        self.axes.map(|a| of[a])
    }

    /// Where a box lies after the turn; `shape` is the array's before it.
    pub fn of_box(&self, bbox: Box3, shape: [usize; 3]) -> Box3 {
        [0, 1, 2].map(|a| {
            let (n, [low, high]) = (shape[self.axes[a]], bbox[self.axes[a]]);
            if self.flip[a] { [n - high, n - low] } else { [low, high] }
        })
    }

    /// Turns all channels of an array.
    ///
    /// # Shapes
    /// `data` is `[c, z, y, x]` with `shape` z, y, x; the result is `[c, …]` of [`Turn::along`] `shape`.
    ///
    /// # Panics
    /// If `data` does not hold whole channels of `shape`.
    pub fn apply<T: Copy + Send + Sync>(&self, data: Vec<T>, shape: [usize; 3]) -> Vec<T> {
        let mut data = crop::transpose(data, shape, self.axes);
        let [_, ny, nx] = self.along(shape);
        let slice = ny * nx;
        let voxels: usize = shape.iter().product();
        if voxels == 0 {
            return data;
        }
        assert!(data.len().is_multiple_of(voxels), "{} values are no channels of {shape:?}", data.len());
        for channel in data.chunks_exact_mut(voxels) {
            if self.flip[2] {
                channel.chunks_exact_mut(nx).for_each(<[T]>::reverse);
            }
            if self.flip[1] {
                channel.chunks_exact_mut(slice).for_each(|plane| swap_rows(plane, nx));
            }
            if self.flip[0] {
                swap_rows(channel, slice);
            }
        }
        data
    }
}

/// Reverses the order of rows of `length` values.
fn swap_rows<T: Copy>(values: &mut [T], length: usize) {
    let rows = values.len() / length;
    for row in 0..rows / 2 {
        let (front, back) = values.split_at_mut((rows - 1 - row) * length);
        front[row * length..][..length].swap_with_slice(&mut back[..length]);
    }
}

impl Geometry {
    /// What turns an array of this grid so that its axes x, y, z lead to R, A, S as nearly as they can.
    ///
    /// # Source
    /// nibabel, `as_closest_canonical`; ITK, `DICOMOrientImageFilter` for `RAS`.
    pub fn turn_to_ras(&self, rule: TurnRule) -> Turn {
        // Index axes and world axes are in x, y, z.
        let axes = match rule {
            TurnRule::Nibabel => self.affine().axes(),
            TurnRule::Itk => clearest_first(&self.direction()),
        };
        let mut turn = Turn::NONE;
        for (index, (world, positive)) in axes.into_iter().enumerate() {
            turn.axes[2 - world] = 2 - index;
            turn.flip[2 - world] = !positive;
        }
        turn
    }

    /// The grid of the array after `turn`, placed by the affine.
    #[must_use]
    pub fn turned(&self, turn: &Turn) -> Self {
        let mut grid = self.clone();
        grid.shape = turn.along(self.shape);
        // An affine that was regular stays so.
        Self::from_affine(grid.shape, self.affine().turned(turn, self.shape)).unwrap_or(grid)
    }

    /// Spacing in mm of the array after [`Geometry::turn_to_ras`], along its own axes.
    ///
    /// nibabel takes the lengths of the affine's columns, rounded to `f32`, once it turns an image; ITK keeps `pixdim`.
    pub fn spacing_after(&self, turn: &Turn, rule: TurnRule) -> [f64; 3] {
        if turn.is_none() || rule == TurnRule::Itk {
            return turn.along(self.spacing);
        }
        let [x, y, z] = self.affine().column_lengths().map(|v| f64::from(v as f32));
        turn.along([z, y, x])
    }
}

impl LabelMap {
    /// The map with its axes turned to those of `grid`; its shape then compares with the grid's.
    #[must_use]
    pub fn along(self, grid: &Geometry, rule: TurnRule) -> Self {
        let turn = self.geometry.turn_to_ras(rule).then(&grid.turn_to_ras(rule).inverse());
        self.turned(&turn)
    }

    /// The map with its axes turned; voxels stay where they are in the world.
    #[must_use]
    pub fn turned(self, turn: &Turn) -> Self {
        if turn.is_none() {
            return self;
        }
        let Self { data, geometry } = self;
        let shape = geometry.shape;
        let turned = geometry.turned(turn);
        Self { data: turn.apply(data, shape), geometry: turned }
    }
}

/// The world axis that each index axis follows, and whether it leads to R, A or S: the largest component of all first.
///
/// `direction` is ITK's, whose world leads to L, P, S.
fn clearest_first(direction: &Matrix3) -> [(usize, bool); 3] {
    let mut axes = [(0, true); 3];
    let (mut index_left, mut world_left) = ([true; 3], [true; 3]);
    for _ in 0..3 {
        let mut best = None;
        for index in 0..3 {
            for (world, row) in direction.iter().enumerate() {
                let length = row[index].abs();
                if index_left[index] && world_left[world] && best.is_none_or(|(_, _, most)| length > most) {
                    best = Some((index, world, length));
                }
            }
        }
        let Some((index, world, _)) = best else { break };
        (index_left[index], world_left[world]) = (false, false);
        let positive = direction[world][index] > 0.0;
        axes[index] = (world, if world < 2 { !positive } else { positive });
    }
    axes
}

impl Affine {
    /// The affine of an array of `shape` (z, y, x) after `turn`.
    #[must_use]
    pub fn turned(&self, turn: &Turn, shape: [usize; 3]) -> Self {
        let rows = self.rows();
        let mut turned = rows;
        for (row, out) in rows.iter().zip(&mut turned) {
            for index in 0..3 {
                // Array axes are z, y, x, columns x, y, z.
                let (axis, before) = (2 - index, turn.axes[2 - index]);
                let step = row[2 - before];
                out[index] = if turn.flip[axis] { -step } else { step };
                if turn.flip[axis] {
                    out[3] += step * (shape[before] as f64 - 1.0);
                }
            }
        }
        Self::from_rows(turned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn turns() -> impl Strategy<Value = Turn> {
        let orders = vec![[0usize, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
        (prop::sample::select(orders), any::<[bool; 3]>()).prop_map(|(axes, flip)| Turn { axes, flip })
    }

    /// A matrix of three turns about x, y and z.
    fn rotation([a, b, c]: [f64; 3]) -> Matrix3 {
        let product = |p: Matrix3, q: Matrix3| {
            [0, 1, 2].map(|r| [0, 1, 2].map(|s| (0..3).map(|k| p[r][k] * q[k][s]).sum::<f64>()))
        };
        let x = [[1.0, 0.0, 0.0], [0.0, a.cos(), -a.sin()], [0.0, a.sin(), a.cos()]];
        let y = [[b.cos(), 0.0, b.sin()], [0.0, 1.0, 0.0], [-b.sin(), 0.0, b.cos()]];
        let z = [[c.cos(), -c.sin(), 0.0], [c.sin(), c.cos(), 0.0], [0.0, 0.0, 1.0]];
        product(product(x, y), z)
    }

    fn near(a: [f64; 3], b: [f64; 3]) -> bool {
        a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-12)
    }

    fn placed(shape: [usize; 3], linear: Matrix3, spacing_xyz: [f64; 3]) -> Geometry {
        let rows = [0, 1, 2].map(|w| {
            let [x, y, z] = [0, 1, 2].map(|a| linear[w][a] * spacing_xyz[a]);
            [x, y, z, 10.0 * w as f64]
        });
        Geometry::from_affine(shape, Affine::from_rows(rows)).expect("a regular affine")
    }

    proptest! {
        #[test]
        fn a_turn_and_its_inverse_leave_everything_in_place(
            turn in turns(), next in turns(), shape in [1..5usize, 1..5, 1..5]
        ) {
            let image: Vec<u32> = (0..2 * shape.iter().product::<usize>() as u32).collect();
            let once = turn.apply(image.clone(), shape);
            let turned = turn.along(shape);
            prop_assert_eq!(&turn.inverse().apply(once.clone(), turned), &image);
            prop_assert_eq!(turn.then(&next).apply(image, shape), next.apply(once, turned));
            prop_assert!(turn.then(&turn.inverse()).is_none());
        }

        #[test]
        fn a_box_turns_with_its_voxels(
            turn in turns(), shape in [2..6usize, 2..6, 2..6], corner in [0..2usize, 0..2, 0..2]
        ) {
            let bbox = [0, 1, 2].map(|a| [corner[a], shape[a]]);
            let mut marked = vec![0u8; shape.iter().product()];
            crop::insert(&vec![1u8; crop::box_shape(bbox).iter().product()], bbox, &mut marked, shape);
            let turned = turn.apply(marked, shape);
            let found = crop::bounding_box(
                &turned.iter().map(|&v| v == 1).collect::<Vec<_>>(), turn.along(shape)).expect("marked");
            prop_assert_eq!(found, turn.of_box(bbox, shape));
        }

        #[test]
        fn after_the_turn_axes_lead_to_ras_and_voxels_stay_where_they_are(
            angles in [-3.0..3.0f64, -3.0..3.0, -3.0..3.0], mirrored in any::<bool>(),
            rule in prop::sample::select(vec![TurnRule::Nibabel, TurnRule::Itk])
        ) {
            let mut linear = rotation(angles);
            if mirrored {
                for row in &mut linear {
                    row[0] = -row[0];
                }
            }
            let geometry = placed([4, 5, 6], linear, [1.0, 2.0, 3.0]);
            let turn = geometry.turn_to_ras(rule);
            let affine = geometry.affine();
            let turned = affine.turned(&turn, geometry.shape);
            let spacing = geometry.spacing_after(&turn, rule);
            for (a, b) in turned.column_lengths().into_iter().rev().zip(spacing) {
                prop_assert!((a - b).abs() < 1e-5);
            }
            // The first voxel of the turned array in the world, found both ways.
            let corner = turn.inverse().of_box([[0, 1]; 3], turn.along(geometry.shape)).map(|[low, _]| low as f64);
            let (there, here) = (affine.apply([corner[2], corner[1], corner[0]]), turned.apply([0.0; 3]));
            prop_assert!(there.iter().zip(here).all(|(a, b)| (a - b).abs() < 1e-9));
            prop_assert!((0..3).all(|a| turned.rows()[a][a] > -1e-6), "{:?}", turned);
            prop_assert!(turned.determinant() > 0.0);
        }
    }

    #[test]
    fn sagittal_slices_become_axial() {
        // Index axes lead to A, S and R; 3 mm between slices, which are the last axis.
        let linear = [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]];
        let geometry = placed([4, 5, 6], linear, [1.0, 1.5, 3.0]);
        assert_eq!(geometry.orientation(), "ASR");
        for rule in [TurnRule::Nibabel, TurnRule::Itk] {
            let turn = geometry.turn_to_ras(rule);
            assert_eq!((turn.axes, turn.flip), ([1, 2, 0], [false; 3]));
            assert_eq!(turn.along(geometry.shape), [5, 6, 4]);
            assert!(near(geometry.spacing_after(&turn, rule), [1.5, 1.0, 3.0]));
        }
    }

    #[test]
    fn only_nibabel_takes_the_voxel_size_from_the_affine_it_turns() {
        let mut forms = placed([2, 3, 4], rotation([0.0, 0.0, 3.0]), [2.0, 2.0, 3.0]).forms().clone();
        forms.pixdim = [1.0; 4];
        let geometry = Geometry::from_forms([2, 3, 4], forms).expect("a regular affine");
        let turn = geometry.turn_to_ras(TurnRule::Nibabel);
        assert!(!turn.is_none());
        assert!(near(geometry.spacing_after(&turn, TurnRule::Nibabel), [3.0, 2.0, 2.0]));
        assert!(near(geometry.spacing_after(&turn, TurnRule::Itk), [1.0; 3]));
    }
}
