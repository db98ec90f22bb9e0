//! Steps on a finished label map, as data: postprocessing as a file, a recipe or a record holds it.

use glioseg_volume::LabelMap;
use glioseg_volume::components::{Connectivity, components};
use serde::{Deserialize, Serialize};

/// Which voxels belong to one component.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Neighbours {
    /// Those that share a face, as nnU-Net v1.
    Faces,
    /// Those that share a face, an edge or a corner, as nnU-Net v2.
    Corners,
}

impl From<Neighbours> for Connectivity {
    fn from(neighbours: Neighbours) -> Self {
        match neighbours {
            Neighbours::Faces => Self::Faces,
            Neighbours::Corners => Self::Corners,
        }
    }
}

/// One thing that is done to a label map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum PostprocessingStep {
    /// Only the largest component of the union of `labels` stays; all of the largest, if several are equally large.
    KeepLargest {
        /// Label values that are joined.
        labels: Vec<u16>,
        /// What connects voxels.
        neighbours: Neighbours,
        /// If given, only components smaller than this are removed, in mm³.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        small_below_mm3: Option<f64>,
    },
    /// Fewer than `below_voxels` voxels of `labels` in the whole image become `with`.
    ReplaceSmall {
        /// Label values that are counted together.
        labels: Vec<u16>,
        /// The least number of voxels that stays.
        below_voxels: u64,
        /// What they become.
        with: u16,
    },
}

impl PostprocessingStep {
    /// Keeps the largest component of the union of `labels`, as nnU-Net v2 does.
    pub fn keep_largest(labels: &[u16]) -> Self {
        Self::KeepLargest { labels: labels.to_vec(), neighbours: Neighbours::Corners, small_below_mm3: None }
    }

    /// Label values that the step speaks of.
    pub fn labels(&self) -> impl Iterator<Item = u16> {
        let (labels, with) = match self {
            Self::KeepLargest { labels, .. } => (labels, None),
            Self::ReplaceSmall { labels, with, .. } => (labels, Some(*with)),
        };
        labels.iter().copied().chain(with)
    }

    /// Applies the step; the number of voxels that changed.
    pub fn apply(&self, map: &mut LabelMap) -> usize {
        match self {
            Self::KeepLargest { labels, neighbours, small_below_mm3 } => {
                let voxel_mm3 = map.geometry.voxel_ml() * 1000.0;
                let spare =
                    |size: usize| small_below_mm3.is_some_and(|least| size as f64 * voxel_mm3 >= least);
                keep_largest(&mut map.data, map.geometry.shape, labels, *neighbours, spare)
            }
            Self::ReplaceSmall { labels, below_voxels, with } => {
                let count = map.count_of(labels);
                if count == 0 || count as u64 >= *below_voxels {
                    return 0;
                }
                map.data.iter_mut().filter(|v| labels.contains(v)).for_each(|v| *v = *with);
                if labels.contains(with) { count - map.count_of(&[*with]).min(count) } else { count }
            }
        }
    }
}

/// Removes all but the largest components of the voxels of `labels`; a smaller one stays too where `spare` says so of its size.
///
/// # Source
/// nnU-Net v2, `remove_all_but_largest_component_from_segmentation`; v1, `remove_all_but_the_largest_connected_component`.
fn keep_largest(
    data: &mut [u16],
    shape: [usize; 3],
    labels: &[u16],
    neighbours: Neighbours,
    spare: impl Fn(usize) -> bool,
) -> usize {
    let mask: Vec<bool> = data.iter().map(|v| labels.contains(v)).collect();
    let found = components(&mask, shape, neighbours.into());
    let Some(&largest) = found.sizes.iter().max() else { return 0 };
    let keep: Vec<bool> = found.sizes.iter().map(|&size| size == largest || spare(size)).collect();
    let mut removed = 0;
    for (value, &component) in data.iter_mut().zip(&found.labels) {
        if component > 0 && !keep[component as usize - 1] {
            *value = 0;
            removed += 1;
        }
    }
    removed
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_volume::Geometry;

    fn map(rows: &[&[u16]]) -> LabelMap {
        let data: Vec<u16> = rows.concat();
        LabelMap::new(data, Geometry::isotropic([1, rows.len(), rows[0].len()])).expect("a map")
    }

    #[test]
    fn the_largest_component_of_the_union_stays_and_ties_stay_together() {
        let mut tumour = map(&[&[1, 2, 0, 0, 3], &[0, 0, 0, 0, 0], &[3, 3, 0, 0, 0]]);
        let mut single = tumour.clone();
        assert_eq!(
            PostprocessingStep::keep_largest(&[1, 2, 3]).apply(&mut tumour),
            1,
            "the voxel at the right"
        );
        assert_eq!(tumour.data, [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0]);
        // Label 3 alone: the pair is larger than the single voxel; labels 1 and 2 are not touched.
        assert_eq!(PostprocessingStep::keep_largest(&[3]).apply(&mut single), 1);
        assert_eq!(single.data, [1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0]);
        assert_eq!(PostprocessingStep::keep_largest(&[7]).apply(&mut single), 0, "no such voxel");
    }

    #[test]
    fn corners_connect_in_version_two_and_faces_only_in_version_one() {
        let diagonal = map(&[&[1, 1, 0], &[0, 0, 1]]);
        let step = |neighbours, small_below_mm3| PostprocessingStep::KeepLargest {
            labels: vec![1],
            neighbours,
            small_below_mm3,
        };
        for (neighbours, small_below, removed) in [
            (Neighbours::Corners, None, 0),
            (Neighbours::Faces, None, 1),
            (Neighbours::Faces, Some(1.5), 1),
            (Neighbours::Faces, Some(1.0), 0),
        ] {
            assert_eq!(
                step(neighbours, small_below).apply(&mut diagonal.clone()),
                removed,
                "{neighbours:?} {small_below:?}"
            );
        }
    }

    #[test]
    fn the_threshold_is_strictly_less() {
        let rule = |below_voxels| PostprocessingStep::ReplaceSmall { labels: vec![3], below_voxels, with: 2 };
        let tumour = map(&[&[1, 3, 3, 2, 0]]);
        for (below, changed) in [(0, 0), (2, 0), (3, 2)] {
            let mut map = tumour.clone();
            assert_eq!(rule(below).apply(&mut map), changed, "{below}");
            assert_eq!(map.count_of(&[3]), 2 - changed);
            assert_eq!(map.count_of(&[2]), 1 + changed);
        }
    }
}
