//! Connected components and dilation of a mask.
//!
//! Components are found from runs along x rather than voxels: a row of a tumour is a handful of runs, so a label map
//! of a thousand lesions costs little more than reading it. Numbers follow the first voxel of each component in memory
//! order, which is the numbering of scipy's `label` and of cc3d on an array `[z, y, x]`.

/// Which voxels count as neighbours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connectivity {
    /// The 6 that share a face.
    Faces,
    /// The 18 that share a face or an edge.
    Edges,
    /// The 26 that share a face, an edge or a corner.
    Corners,
}

impl Connectivity {
    /// Number of axes along which a neighbour may differ.
    const fn axes(self) -> usize {
        match self {
            Self::Faces => 1,
            Self::Edges => 2,
            Self::Corners => 3,
        }
    }

    /// Offsets `[z, y, x]` of all neighbours.
    pub fn offsets(self) -> Vec<[isize; 3]> {
        let mut offsets = Vec::with_capacity(26);
        for z in -1..=1 {
            for y in -1..=1 {
                for x in -1..=1isize {
                    let axes = [z, y, x].iter().filter(|&&v| v != 0).count();
                    if (1..=self.axes()).contains(&axes) {
                        offsets.push([z, y, x]);
                    }
                }
            }
        }
        offsets
    }
}

/// A box of voxels: first index and one past the last, `[z, y, x]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoxelBox {
    /// First voxel.
    pub start: [usize; 3],
    /// One past the last voxel.
    pub end: [usize; 3],
}

impl VoxelBox {
    /// The box that holds nothing; any union with it is the other box.
    pub const EMPTY: Self = Self { start: [usize::MAX; 3], end: [0; 3] };

    /// Voxels along z, y, x.
    pub fn shape(&self) -> [usize; 3] {
        [0, 1, 2].map(|a| self.end[a].saturating_sub(self.start[a]))
    }

    /// True if no voxel is inside.
    pub fn is_empty(&self) -> bool {
        self.shape().contains(&0)
    }

    /// Number of voxels inside.
    pub fn voxels(&self) -> usize {
        self.shape().iter().product()
    }

    /// The smallest box around both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self {
            start: [0, 1, 2].map(|a| self.start[a].min(other.start[a])),
            end: [0, 1, 2].map(|a| self.end[a].max(other.end[a])),
        }
    }

    /// The box with `margin` voxels more on every side, inside an array of `shape`.
    #[must_use]
    pub fn grown(&self, margin: usize, shape: [usize; 3]) -> Self {
        if self.is_empty() {
            return *self;
        }
        Self {
            start: self.start.map(|v| v.saturating_sub(margin)),
            end: [0, 1, 2].map(|a| (self.end[a] + margin).min(shape[a])),
        }
    }

    /// The smallest box around the voxels of an array `[z, y, x]` that satisfy `wanted`; empty if there are none.
    ///
    /// # Panics
    /// If `data` is shorter than `shape` asks for.
    pub fn of<T>(data: &[T], shape: [usize; 3], wanted: impl Fn(&T) -> bool) -> Self {
        let mut found = Self::EMPTY;
        let [depth, height, width] = shape;
        for z in 0..depth {
            for y in 0..height {
                let row = &data[(z * height + y) * width..][..width];
                let Some(first) = row.iter().position(&wanted) else { continue };
                let last = row.iter().rposition(&wanted).unwrap_or(first);
                found = found.union(&Self { start: [z, y, first], end: [z + 1, y + 1, last + 1] });
            }
        }
        found
    }

    /// Copies the box out of an array `[z, y, x]` of `shape`.
    ///
    /// # Panics
    /// If the box reaches beyond the array.
    pub fn cut<T: Copy>(&self, data: &[T], shape: [usize; 3]) -> Vec<T> {
        let width = self.shape()[2];
        let mut out = Vec::with_capacity(self.voxels());
        for z in self.start[0]..self.end[0] {
            for y in self.start[1]..self.end[1] {
                out.extend_from_slice(&data[(z * shape[1] + y) * shape[2] + self.start[2]..][..width]);
            }
        }
        out
    }
}

/// The connected components of a mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Components {
    /// Number of the component of every voxel from 1, 0 outside; `[z, y, x]`.
    pub labels: Vec<u32>,
    /// Voxels of component `i + 1`.
    pub sizes: Vec<usize>,
    /// The box of component `i + 1`.
    pub boxes: Vec<VoxelBox>,
}

impl Components {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.sizes.len()
    }
}

/// A run of voxels of the mask along x.
struct Run {
    row: usize,
    start: usize,
    end: usize,
}

/// Root of a node of the union-find forest; halves the path on its way.
fn root(parent: &mut [u32], mut node: u32) -> u32 {
    while parent[node as usize] != node {
        let above = parent[parent[node as usize] as usize];
        parent[node as usize] = above;
        node = above;
    }
    node
}

/// Finds the connected components of `mask`, an array `[z, y, x]`, in time linear in its size.
///
/// # Panics
/// If `mask` has another length than `shape` asks for, or more than `u32::MAX` runs.
///
/// # Source
/// The same components and numbers as `scipy.ndimage.label` and `cc3d.connected_components`.
///
/// ```
/// use glioseg_volume::components::{Connectivity, components};
/// let mask = [true, false, true, true, false, false];
/// let found = components(&mask, [1, 2, 3], Connectivity::Faces);
/// assert_eq!(found.labels, [1, 0, 2, 1, 0, 0]);
/// assert_eq!(found.sizes, [2, 1]);
/// ```
pub fn components(mask: &[bool], shape: [usize; 3], connectivity: Connectivity) -> Components {
    assert_eq!(mask.len(), shape.iter().product::<usize>(), "mask and shape {shape:?}");
    let [_, height, width] = shape;
    let (runs, first_run) = runs_of(mask, shape);
    let mut parent: Vec<u32> = (0..u32::try_from(runs.len()).expect("fewer than 2^32 runs")).collect();
    // Rows before this one that can touch it: (rows back in z, rows on in y, whether a step along x is allowed too).
    let near: &[(usize, isize, usize)] = match connectivity {
        Connectivity::Faces => &[(0, -1, 0), (1, 0, 0)],
        Connectivity::Edges => &[(0, -1, 1), (1, -1, 0), (1, 0, 1), (1, 1, 0)],
        Connectivity::Corners => &[(0, -1, 1), (1, -1, 1), (1, 0, 1), (1, 1, 1)],
    };
    for row in 0..first_run.len().saturating_sub(1) {
        let here = first_run[row]..first_run[row + 1];
        if here.is_empty() {
            continue;
        }
        let (z, y) = (row / height, row % height);
        for &(back, step, slack) in near {
            let Some(other_y) = y.checked_add_signed(step).filter(|&v| v < height) else { continue };
            let Some(other_z) = z.checked_sub(back) else { continue };
            let other_row = other_z * height + other_y;
            let (mut a, mut b) = (here.start, first_run[other_row]);
            while a < here.end && b < first_run[other_row + 1] {
                if runs[a].start < runs[b].end + slack && runs[b].start < runs[a].end + slack {
                    let (x, y) = (root(&mut parent, a as u32), root(&mut parent, b as u32));
                    // The smaller run comes first in memory and so names the component.
                    parent[x.max(y) as usize] = x.min(y);
                }
                if runs[a].end < runs[b].end { a += 1 } else { b += 1 }
            }
        }
    }
    let mut number = vec![0u32; runs.len()];
    let mut found = Components { labels: vec![0; mask.len()], sizes: Vec::new(), boxes: Vec::new() };
    for (i, run) in runs.iter().enumerate() {
        let top = root(&mut parent, i as u32) as usize;
        if number[top] == 0 {
            found.sizes.push(0);
            found.boxes.push(VoxelBox::EMPTY);
            number[top] = found.sizes.len() as u32;
        }
        let which = number[top] as usize - 1;
        found.sizes[which] += run.end - run.start;
        let (z, y) = (run.row / height, run.row % height);
        let place = VoxelBox { start: [z, y, run.start], end: [z + 1, y + 1, run.end] };
        found.boxes[which] = found.boxes[which].union(&place);
        found.labels[run.row * width + run.start..run.row * width + run.end].fill(number[top]);
    }
    found
}

/// Runs in memory order, and for every row (and one past the last) the index of its first run.
fn runs_of(mask: &[bool], shape: [usize; 3]) -> (Vec<Run>, Vec<usize>) {
    let [depth, height, width] = shape;
    let mut runs = Vec::new();
    let mut first_run = Vec::with_capacity(depth * height + 1);
    for row in 0..depth * height {
        first_run.push(runs.len());
        let line = &mask[row * width..][..width];
        let mut x = 0;
        while let Some(skip) = line[x..].iter().position(|&v| v) {
            let start = x + skip;
            let end = line[start..].iter().position(|&v| !v).map_or(width, |n| start + n);
            runs.push(Run { row, start, end });
            x = end;
        }
    }
    first_run.push(runs.len());
    (runs, first_run)
}

/// Grows a mask by `iterations` steps to the neighbours of `connectivity`; nothing leaves the array.
///
/// Only the front moves, so the cost is that of the voxels added.
///
/// # Panics
/// If `mask` has another length than `shape` asks for.
///
/// # Source
/// `scipy.ndimage.binary_dilation` with `generate_binary_structure(3, 1 | 2 | 3)`.
pub fn dilate(mask: &[bool], shape: [usize; 3], connectivity: Connectivity, iterations: usize) -> Vec<bool> {
    assert_eq!(mask.len(), shape.iter().product::<usize>(), "mask and shape {shape:?}");
    let offsets = connectivity.offsets();
    let mut grown = mask.to_vec();
    let mut front: Vec<usize> = (0..mask.len()).filter(|&i| mask[i]).collect();
    for _ in 0..iterations {
        let mut next = Vec::new();
        for index in front {
            let place = [index / (shape[1] * shape[2]), index / shape[2] % shape[1], index % shape[2]];
            for offset in &offsets {
                let inside = |a: usize| place[a].checked_add_signed(offset[a]).filter(|&v| v < shape[a]);
                if let (Some(z), Some(y), Some(x)) = (inside(0), inside(1), inside(2)) {
                    let to = (z * shape[1] + y) * shape[2] + x;
                    if !grown[to] {
                        grown[to] = true;
                        next.push(to);
                    }
                }
            }
        }
        front = next;
    }
    grown
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Flood fill from every voxel not yet reached, in memory order.
    fn by_flood(mask: &[bool], shape: [usize; 3], connectivity: Connectivity) -> Vec<u32> {
        let mut labels = vec![0; mask.len()];
        let mut count = 0;
        for seed in 0..mask.len() {
            if !mask[seed] || labels[seed] != 0 {
                continue;
            }
            count += 1;
            labels[seed] = count;
            let mut open = vec![seed];
            while let Some(i) = open.pop() {
                let place = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
                for o in connectivity.offsets() {
                    let to: Vec<_> = (0..3).filter_map(|a| place[a].checked_add_signed(o[a])).collect();
                    if to.len() == 3 && (0..3).all(|a| to[a] < shape[a]) {
                        let j = (to[0] * shape[1] + to[1]) * shape[2] + to[2];
                        if mask[j] && labels[j] == 0 {
                            labels[j] = count;
                            open.push(j);
                        }
                    }
                }
            }
        }
        labels
    }

    fn masks() -> impl Strategy<Value = (Vec<bool>, [usize; 3])> {
        [1..7usize, 1..7usize, 1..9usize].prop_flat_map(|shape| {
            let density = prop::sample::select(vec![0.1, 0.3, 0.5, 0.8]);
            density.prop_flat_map(move |p| {
                (prop::collection::vec(prop::bool::weighted(p), shape.iter().product::<usize>()), Just(shape))
            })
        })
    }

    const ALL: [Connectivity; 3] = [Connectivity::Faces, Connectivity::Edges, Connectivity::Corners];

    proptest! {
        #[test]
        fn components_are_those_of_a_flood_fill((mask, shape) in masks()) {
            for connectivity in ALL {
                let found = components(&mask, shape, connectivity);
                let labels = by_flood(&mask, shape, connectivity);
                prop_assert_eq!(&found.labels, &labels);
                for i in 0..found.count() {
                    let own = |v: &u32| *v as usize == i + 1;
                    prop_assert_eq!(found.sizes[i], labels.iter().filter(|v| own(v)).count());
                    prop_assert_eq!(found.boxes[i], VoxelBox::of(&labels, shape, own));
                }
            }
        }

        #[test]
        fn dilation_adds_the_neighbours_of_every_step((mask, shape) in masks(), steps in 0..4usize) {
            for connectivity in ALL {
                let mut expected = mask.clone();
                for _ in 0..steps {
                    let before = expected.clone();
                    for i in 0..mask.len() {
                        let place = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
                        expected[i] |= connectivity.offsets().iter().any(|o| {
                            let to: Vec<_> = (0..3).filter_map(|a| place[a].checked_add_signed(o[a])).collect();
                            to.len() == 3
                                && (0..3).all(|a| to[a] < shape[a])
                                && before[(to[0] * shape[1] + to[1]) * shape[2] + to[2]]
                        });
                    }
                }
                prop_assert_eq!(dilate(&mask, shape, connectivity, steps), expected);
            }
        }
    }

    #[test]
    fn neighbourhoods_have_6_18_and_26_voxels() {
        assert_eq!(ALL.map(|c| c.offsets().len()), [6, 18, 26]);
    }

    #[test]
    fn an_empty_array_has_no_components() {
        assert_eq!(components(&[], [0, 3, 4], Connectivity::Corners).count(), 0);
        assert!(VoxelBox::of(&[false; 8], [2, 2, 2], |&v| v).is_empty());
    }
}
