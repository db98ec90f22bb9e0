//! The way back: every step of the preparation that moves voxels leaves what undoes it.
//!
//! Steps are undone last to first. A network's answer lies on the plan's grid. [`Undo::Resample`], the last step of every
//! preparation, is undone while the values are still continuous, slab by slab ([`Trail::resampling`]). What is left moves
//! whole voxels and serves labels and probabilities alike ([`Trail::back`]). On that way a box stays a box, so that nothing
//! of the size of the image is made before somebody asks for it.
//!
//! A step of another kind (a rigid transform) is a variant of [`Undo`] and an arm in [`Trail::back`]; whoever
//! takes that step pushes it.

use glioseg_volume::Turn;
use glioseg_volume::crop::{self, Box3, box_shape};
use glioseg_volume::resample::ResampleOptions;

/// What undoes one step of the preparation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// Reorders and flips the axes.
    Turn(Turn),
    /// Puts the box that was cut out back into its place.
    Crop {
        /// Voxels before the step.
        shape: [usize; 3],
        /// The box that was kept.
        bbox: Box3,
    },
    /// Resamples to the grid before the step.
    Resample {
        /// Voxels before the step.
        shape: [usize; 3],
        /// How continuous values are resampled; `None` leaves them as they are.
        options: Option<ResampleOptions>,
    },
}

/// The way back from the grid of the plan to that of the image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trail {
    /// In the order in which the steps were taken.
    steps: Vec<Undo>,
}

/// Values of one or more channels inside a box of a larger grid.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Boxed<T> {
    /// `[c, z, y, x]` of the box.
    pub values: Vec<T>,
    /// The box.
    pub bbox: Box3,
    /// Voxels of the grid.
    pub shape: [usize; 3],
}

impl Trail {
    /// Adds what undoes the step that was just taken.
    pub fn push(&mut self, step: Undo) {
        self.steps.push(step);
    }

    /// How continuous values leave the plan's grid: voxels after resampling and how they are made, `None` where values are
    /// left as they are.
    ///
    /// # Panics
    /// If the last step is none of resampling, which every preparation ends with.
    pub fn resampling(&self) -> ([usize; 3], Option<&ResampleOptions>) {
        match self.steps.last() {
            Some(Undo::Resample { shape, options }) => (*shape, options.as_ref()),
            other => panic!("a preparation ends with resampling, not with {other:?}"),
        }
    }

    /// Undoes every step but the last resampling.
    ///
    /// # Shapes
    /// `values` are `[c, z, y, x]` of the shape that [`Trail::resampling`] tells.
    ///
    /// # Panics
    /// If `values` are of another size, or a step other than the last resamples.
    ///
    /// # Source
    /// nnU-Net v2, `convert_predicted_logits_to_segmentation_with_correct_shape`.
    pub fn back<T: Copy + Send + Sync>(&self, values: Vec<T>) -> Boxed<T> {
        let (shape, _) = self.resampling();
        let mut at = Boxed { values, bbox: shape.map(|n| [0, n]), shape };
        for step in self.steps[..self.steps.len() - 1].iter().rev() {
            match step {
                Undo::Turn(turn) => {
                    at.values = turn.apply(at.values, box_shape(at.bbox));
                    at.bbox = turn.of_box(at.bbox, at.shape);
                    at.shape = turn.along(at.shape);
                }
                Undo::Crop { shape, bbox } => {
                    assert_eq!(at.shape, box_shape(*bbox), "values of another box");
                    at.bbox = [0, 1, 2].map(|a| at.bbox[a].map(|i| i + bbox[a][0]));
                    at.shape = *shape;
                }
                Undo::Resample { .. } => panic!("labels cannot be resampled on the way back: {step:?}"),
            }
        }
        at
    }
}

impl<T: Copy> Boxed<T> {
    /// Voxels of the box.
    fn voxels(&self) -> usize {
        box_shape(self.bbox).iter().product()
    }

    /// One channel inside the box, `[z, y, x]`.
    ///
    /// # Panics
    /// If there is no such channel.
    pub fn inside(&self, channel: usize) -> &[T] {
        let voxels = self.voxels();
        &self.values[channel * voxels..][..voxels]
    }

    /// One channel on the whole grid, `[z, y, x]`, `outside` around the box.
    ///
    /// # Panics
    /// If there is no such channel.
    pub fn channel(&self, channel: usize, outside: T) -> Vec<T> {
        let mut whole = vec![outside; self.shape.iter().product()];
        crop::insert(self.inside(channel), self.bbox, &mut whole, self.shape);
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_volume::resample::Order;
    use proptest::prelude::*;

    /// Takes the steps that the trail undoes.
    fn forward(
        values: &[u32],
        stored: [usize; 3],
        turn: Turn,
        bbox: Box3,
        axes: [usize; 3],
    ) -> (Vec<u32>, Trail) {
        let (values, shape) = (turn.apply(values.to_vec(), stored), turn.along(stored));
        let backward = [0, 1, 2].map(|a| axes.iter().position(|&b| b == a).expect("a permutation"));
        let turned = crop::transpose(values, shape, axes);
        let turned_shape = axes.map(|a| shape[a]);
        let cropped = crop::crop(turned, turned_shape, bbox);
        let mut trail = Trail::default();
        trail.push(Undo::Turn(turn.inverse()));
        trail.push(Undo::Turn(Turn::order(backward)));
        trail.push(Undo::Crop { shape: turned_shape, bbox });
        trail.push(Undo::Resample { shape: box_shape(bbox), options: None });
        (cropped, trail)
    }

    fn cases() -> impl Strategy<Value = ([usize; 3], Box3, [usize; 3])> {
        let axes =
            prop::sample::select(vec![[0usize, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]);
        ([1..6usize, 1..6, 1..6], axes, [0.0..1.0f64, 0.0..1.0, 0.0..1.0], [0.0..1.0f64, 0.0..1.0, 0.0..1.0])
            .prop_map(|(shape, axes, low, length)| {
                let turned = axes.map(|a| shape[a]);
                let bbox = [0, 1, 2].map(|a| {
                    let start = (low[a] * turned[a] as f64) as usize;
                    [start, start + 1 + (length[a] * (turned[a] - start) as f64) as usize]
                });
                (shape, bbox.map(|[a, b]| [a, b]), axes)
            })
            .prop_filter("inside", |(shape, bbox, axes)| {
                let turned = axes.map(|a| shape[a]);
                (0..3).all(|a| bbox[a][1] <= turned[a])
            })
    }

    proptest! {
        #[test]
        fn every_voxel_of_the_box_returns_to_its_place_and_the_rest_is_outside(
            (turned, bbox, axes) in cases(),
            first in prop::sample::select(vec![[0usize, 1, 2], [2, 0, 1], [0, 2, 1]]),
            flip in any::<[bool; 3]>(),
        ) {
            let turn = Turn { axes: first, flip };
            let shape = turn.inverse().along(turned);
            let image: Vec<u32> = (1..=2 * shape.iter().product::<usize>() as u32).collect();
            let (prepared, trail) = forward(&image, shape, turn, bbox, axes);
            let kept: std::collections::HashSet<u32> = prepared.iter().copied().collect();
            let back = trail.back(prepared);
            prop_assert_eq!(back.shape, shape);
            let whole = [back.channel(0, 0), back.channel(1, 0)].concat();
            for (found, there) in whole.iter().zip(&image) {
                prop_assert_eq!(*found, if kept.contains(there) { *there } else { 0 });
            }
        }
    }

    #[test]
    fn the_last_step_tells_how_values_leave_the_plans_grid() {
        let options = Some(ResampleOptions::uniform(Order::Linear));
        let mut trail = Trail::default();
        trail.push(Undo::Resample { shape: [3, 4, 5], options });
        assert_eq!(trail.resampling(), ([3, 4, 5], options.as_ref()));
    }

    #[test]
    #[should_panic(expected = "a preparation ends with resampling")]
    fn a_trail_without_resampling_is_no_preparation() {
        Trail::default().back(vec![0u16; 8]);
    }
}
