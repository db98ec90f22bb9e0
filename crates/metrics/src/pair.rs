//! A reference and a prediction on one grid, cut to the box in which either has a label.
//!
//! One pass over the voxels makes a table of how often each label of the reference meets each of the prediction; every
//! count of every region and rule is a sum over it. What needs places (borders, lesions) works on masks cut to their own
//! box: voxels outside are background in both, and a border looks the same there as in the whole image.

use std::collections::HashMap;

use glioseg_volume::LabelMap;
use glioseg_volume::components::VoxelBox;
use serde::{Deserialize, Serialize};

/// Voxels of a region in reference and prediction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// In both.
    pub tp: u64,
    /// In the prediction only.
    pub fp: u64,
    /// In the reference only.
    pub fn_: u64,
    /// In neither.
    pub tn: u64,
}

impl Counts {
    /// Voxels of the reference.
    pub const fn reference(&self) -> u64 {
        self.tp + self.fn_
    }

    /// Voxels of the prediction.
    pub const fn prediction(&self) -> u64 {
        self.tp + self.fp
    }

    /// 2 TP / (2 TP + FP + FN); NaN where both are empty.
    pub fn dice(&self) -> f64 {
        ratio(2 * self.tp, 2 * self.tp + self.fp + self.fn_)
    }

    /// TP / (TP + FP + FN); NaN where both are empty.
    pub fn iou(&self) -> f64 {
        ratio(self.tp, self.tp + self.fp + self.fn_)
    }

    /// TP / (TP + FN); NaN where the reference is empty.
    pub fn sensitivity(&self) -> f64 {
        ratio(self.tp, self.reference())
    }

    /// TN / (TN + FP); NaN where the reference is everywhere.
    pub fn specificity(&self) -> f64 {
        ratio(self.tn, self.tn + self.fp)
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Two label maps of one grid.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Voxels of the whole image along z, y, x.
    shape: [usize; 3],
    spacing: [f64; 3],
    /// Where the cut lies in the image.
    place: VoxelBox,
    reference: Vec<u16>,
    prediction: Vec<u16>,
    /// Label in the reference, label in the prediction, voxels.
    table: Vec<(u16, u16, u64)>,
}

/// The masks of a region, cut to the box around both.
#[derive(Debug, Clone)]
pub struct Masks {
    /// Where the cut lies in the whole image.
    pub place: VoxelBox,
    /// Voxels of the whole image along z, y, x.
    pub image: [usize; 3],
    /// mm along z, y, x.
    pub spacing: [f64; 3],
    /// Voxels of the reference, `[z, y, x]` of the cut.
    pub reference: Vec<bool>,
    /// Voxels of the prediction.
    pub prediction: Vec<bool>,
}

impl Masks {
    /// Voxels of the cut along z, y, x.
    pub fn shape(&self) -> [usize; 3] {
        self.place.shape()
    }

    /// The same region with up to `margin` voxels more around it, as far as the image reaches.
    #[must_use]
    pub fn with_margin(&self, margin: usize) -> Self {
        let place = self.place.grown(margin, self.image);
        let (shape, own) = (place.shape(), self.shape());
        let spread = |mask: &[bool]| {
            let mut out = vec![false; place.voxels()];
            let before = [0, 1, 2].map(|a| self.place.start[a] - place.start[a]);
            for (row, line) in mask.chunks_exact(own[2].max(1)).enumerate() {
                let (z, y) = (row / own[1] + before[0], row % own[1] + before[1]);
                out[(z * shape[1] + y) * shape[2] + before[2]..][..own[2]].copy_from_slice(line);
            }
            out
        };
        if self.place.is_empty() {
            return self.clone();
        }
        Self { place, reference: spread(&self.reference), prediction: spread(&self.prediction), ..*self }
    }
}

impl Pair {
    /// Joins two label maps; voxels where the reference has the label `ignore` count for nothing and are background
    /// in both.
    ///
    /// # Panics
    /// If the maps differ in shape: compare the grids first, where the files can be named.
    pub fn new(reference: &LabelMap, prediction: &LabelMap, ignore: Option<u16>) -> Self {
        assert_eq!(reference.shape(), prediction.shape(), "reference and prediction must share a grid");
        let shape = reference.shape();
        let place = used(&reference.data, shape).union(&used(&prediction.data, shape));
        let mut cut_reference = place.cut(&reference.data, shape);
        let mut cut_prediction = place.cut(&prediction.data, shape);
        let mut tally = Tally::default();
        tally.add_all(&cut_reference, &cut_prediction);
        tally.add(0, 0, (reference.data.len() - cut_reference.len()) as u64);
        let mut table = tally.finish();
        if let Some(ignore) = ignore {
            table.retain(|&(r, _, _)| r != ignore);
            for (r, p) in cut_reference.iter_mut().zip(&mut cut_prediction) {
                if *r == ignore {
                    (*r, *p) = (0, 0);
                }
            }
        }
        let spacing = reference.geometry.spacing;
        Self { shape, spacing, place, reference: cut_reference, prediction: cut_prediction, table }
    }

    /// Label in the reference, label in the prediction, voxels; the ignore label left out.
    pub fn table(&self) -> impl Iterator<Item = (u16, u16, u64)> {
        self.table.iter().copied()
    }

    /// The reference's labels and the shape z, y, x of the cut.
    pub fn reference(&self) -> (&[u16], [usize; 3]) {
        (&self.reference, self.place.shape())
    }

    /// The prediction's labels and the shape z, y, x of the cut.
    pub fn prediction(&self) -> (&[u16], [usize; 3]) {
        (&self.prediction, self.place.shape())
    }

    /// mm along z, y, x.
    pub const fn spacing(&self) -> [f64; 3] {
        self.spacing
    }

    /// Volume of a voxel in mm³.
    pub fn voxel_mm3(&self) -> f64 {
        self.spacing[2] * self.spacing[1] * self.spacing[0]
    }

    /// Counts of the union of `labels`.
    pub fn counts(&self, labels: &[u16]) -> Counts {
        let mut counts = Counts::default();
        for &(r, p, n) in &self.table {
            match (labels.contains(&r), labels.contains(&p)) {
                (true, true) => counts.tp += n,
                (false, true) => counts.fp += n,
                (true, false) => counts.fn_ += n,
                (false, false) => counts.tn += n,
            }
        }
        counts
    }

    /// Masks of the union of `labels`, cut to the box around both.
    pub fn masks(&self, labels: &[u16]) -> Masks {
        let shape = self.place.shape();
        let wanted = |value: &u16| labels.contains(value);
        let inner = VoxelBox::of(&self.reference, shape, wanted).union(&VoxelBox::of(
            &self.prediction,
            shape,
            wanted,
        ));
        let empty = inner.is_empty();
        let place = VoxelBox {
            start: [0, 1, 2].map(|a| if empty { 0 } else { inner.start[a] + self.place.start[a] }),
            end: [0, 1, 2].map(|a| if empty { 0 } else { inner.end[a] + self.place.start[a] }),
        };
        let mask = |data: &[u16]| {
            if empty { Vec::new() } else { inner.cut(data, shape).iter().map(wanted).collect() }
        };
        Masks {
            place,
            image: self.shape,
            spacing: self.spacing,
            reference: mask(&self.reference),
            prediction: mask(&self.prediction),
        }
    }
}

/// The box around everything that is not background.
fn used(data: &[u16], shape: [usize; 3]) -> VoxelBox {
    let [depth, height, width] = shape;
    let mut found = VoxelBox::EMPTY;
    for z in 0..depth {
        for y in 0..height {
            let row = &data[(z * height + y) * width..][..width];
            // Most rows are empty, and this sum of bits is quick.
            if row.iter().fold(0, |all, &v| all | v) == 0 {
                continue;
            }
            let first = row.iter().position(|&v| v != 0).unwrap_or(0);
            let last = row.iter().rposition(|&v| v != 0).unwrap_or(first);
            found = found.union(&VoxelBox { start: [z, y, first], end: [z + 1, y + 1, last + 1] });
        }
    }
    if found.is_empty() { VoxelBox { start: [0; 3], end: [0; 3] } } else { found }
}

/// Counts pairs of labels: a small table for the labels that occur, else a map.
#[derive(Default)]
struct Tally {
    small: Vec<u64>,
    large: HashMap<(u16, u16), u64>,
}

/// Labels below this are counted in a table.
const SMALL: usize = 16;

impl Tally {
    fn add(&mut self, reference: u16, prediction: u16, count: u64) {
        if usize::from(reference | prediction) < SMALL {
            self.small.resize(SMALL * SMALL, 0);
            self.small[usize::from(reference) * SMALL + usize::from(prediction)] += count;
        } else {
            *self.large.entry((reference, prediction)).or_default() += count;
        }
    }

    fn add_all(&mut self, reference: &[u16], prediction: &[u16]) {
        let mut run = ((0, 0), 0);
        for (&r, &p) in reference.iter().zip(prediction) {
            if run.0 == (r, p) {
                run.1 += 1;
            } else {
                self.add(run.0.0, run.0.1, run.1);
                run = ((r, p), 1);
            }
        }
        self.add(run.0.0, run.0.1, run.1);
    }

    fn finish(self) -> Vec<(u16, u16, u64)> {
        let small = self.small.iter().enumerate().map(|(i, &n)| ((i / SMALL) as u16, (i % SMALL) as u16, n));
        let large = self.large.into_iter().map(|((r, p), n)| (r, p, n));
        let mut table: Vec<_> = small.chain(large).filter(|&(_, _, n)| n > 0).collect();
        table.sort_unstable();
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_volume::Geometry;

    fn map(data: Vec<u16>) -> LabelMap {
        LabelMap::new(data, Geometry::isotropic([1, 2, 4])).expect("8 voxels")
    }

    #[test]
    fn counts_cover_the_whole_image_but_for_ignored_voxels() {
        let reference = map(vec![0, 1, 1, 2, 0, 0, 900, 7]);
        let prediction = map(vec![0, 1, 2, 2, 0, 1, 900, 1]);
        let pair = Pair::new(&reference, &prediction, None);
        assert_eq!(pair.counts(&[1]), Counts { tp: 1, fp: 2, fn_: 1, tn: 4 });
        assert_eq!(pair.counts(&[1, 2, 900]), Counts { tp: 4, fp: 2, fn_: 0, tn: 2 });
        let pair = Pair::new(&reference, &prediction, Some(7));
        assert_eq!(pair.counts(&[1]), Counts { tp: 1, fp: 1, fn_: 1, tn: 4 });
        assert_eq!(pair.masks(&[1]).prediction.iter().filter(|&&v| v).count(), 2);
    }

    #[test]
    fn masks_are_cut_to_their_box_and_grow_back_inside_the_image() {
        let reference = map(vec![0, 0, 1, 0, 0, 0, 0, 0]);
        let prediction = map(vec![0, 1, 0, 0, 0, 0, 0, 0]);
        let masks = Pair::new(&reference, &prediction, None).masks(&[1]);
        assert_eq!((masks.shape(), masks.place.start), ([1, 1, 2], [0, 0, 1]));
        assert_eq!(
            (masks.reference.clone(), masks.prediction.clone()),
            (vec![false, true], vec![true, false])
        );
        let grown = masks.with_margin(3);
        assert_eq!(grown.shape(), [1, 2, 4]);
        assert_eq!(grown.reference, [false, false, true, false, false, false, false, false]);
        let empty = Pair::new(&reference, &prediction, None).masks(&[5]);
        assert!(empty.reference.is_empty() && empty.with_margin(2).reference.is_empty());
    }
}
