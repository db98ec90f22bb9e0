//! Counts and volumes of labels and regions.

use std::collections::BTreeMap;

use crate::volume::LabelMap;

impl LabelMap {
    /// Voxels of every label that occurs, in ascending order; background (0) is one of them.
    pub fn counts(&self) -> BTreeMap<u16, usize> {
        // Runs of one label are long, so the map is asked once per run.
        let mut counts = BTreeMap::new();
        for run in self.data.chunk_by(|a, b| a == b) {
            *counts.entry(run[0]).or_insert(0) += run.len();
        }
        counts
    }

    /// Voxels that carry any of `labels`: the size of a region such as the whole tumour.
    pub fn count_of(&self, labels: &[u16]) -> usize {
        self.counts().iter().filter(|(label, _)| labels.contains(label)).map(|(_, count)| count).sum()
    }

    /// Volume in mL of every label that occurs.
    pub fn volumes_ml(&self) -> BTreeMap<u16, f64> {
        let voxel = self.geometry.voxel_ml();
        self.counts().into_iter().map(|(label, count)| (label, count as f64 * voxel)).collect()
    }
}

#[cfg(test)]
mod tests {
    use crate::{Affine, Geometry, LabelMap};

    #[test]
    fn labels_are_counted_and_weighed_by_the_voxel_size() {
        let affine = Affine::from_rows([[-0.5, 0.0, 0.0, 0.0], [0.0, 2.0, 0.0, 0.0], [0.0, 0.0, 4.0, 0.0]]);
        let geometry = Geometry::from_affine([1, 2, 4], affine).expect("regular");
        let map = LabelMap::new(vec![0, 0, 3, 3, 0, 1, 3, 700], geometry).expect("8 voxels");
        assert_eq!(map.counts().into_iter().collect::<Vec<_>>(), [(0, 3), (1, 1), (3, 3), (700, 1)]);
        assert_eq!(map.count_of(&[1, 3, 9]), 4);
        // A voxel is 4 mm³ = 0.004 mL.
        let volumes = map.volumes_ml();
        assert!((volumes[&3] - 0.012).abs() < 1e-12 && (volumes[&1] - 0.004).abs() < 1e-12, "{volumes:?}");
    }
}
