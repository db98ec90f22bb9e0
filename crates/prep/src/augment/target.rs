//! What the network is trained against: masking, label -1, regions, deep supervision.

use glioseg_kernels::vectorised;

use super::Patch;
use super::low_resolution::nearest_exact;

/// Sets voxels outside (segmentation channel 0 below 0) to 0 in the channels that were normalised inside a mask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskOutside {
    /// Per channel: `use_mask_for_norm`.
    pub channels: Vec<bool>,
}

impl MaskOutside {
    /// Masks.
    ///
    /// # Source
    /// batchgeneratorsv2, `MaskImageTransform`.
    pub fn apply(&self, patch: &mut Patch) {
        let n = patch.voxels();
        let outside = &patch.seg[..n];
        for (channel, _) in patch.data.chunks_exact_mut(n).zip(&self.channels).filter(|(_, m)| **m) {
            vectorised(
                #[inline(always)]
                || {
                    for (v, &s) in channel.iter_mut().zip(outside) {
                        *v = if s < 0 { 0.0 } else { *v };
                    }
                },
            );
        }
    }
}

/// Turns label -1 into 0, in all channels of the segmentation.
///
/// # Source
/// batchgeneratorsv2, `RemoveLabelTransform(-1, 0)`.
pub fn remove_outside(patch: &mut Patch) {
    vectorised(
        #[inline(always)]
        || patch.seg.iter_mut().for_each(|s| *s = if *s == -1 { 0 } else { *s }),
    );
}

/// What targets are made of the segmentation.
#[derive(Debug, Clone, PartialEq)]
pub struct TargetOptions {
    /// Regions in the order of the network's outputs, each a list of labels; none for training on labels.
    pub regions: Option<Vec<Vec<i16>>>,
    /// The ignore label; with regions it becomes one more channel at the end.
    pub ignore_label: Option<i16>,
    /// Voxels of each head's target by voxels of the patch, per axis; full resolution first.
    pub scales: Vec<[f64; 3]>,
}

/// The target of one head.
///
/// # Shapes
/// `[c, z, y, x]`: one channel of labels, or one per region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Voxels per axis.
    pub shape: [usize; 3],
    /// The values.
    pub values: TargetValues,
}

/// Values of a [`Target`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetValues {
    /// A label per voxel.
    Labels(Vec<i16>),
    /// 0 or 1 per region and voxel.
    Regions(Vec<u8>),
}

impl Target {
    /// Channels of the target.
    pub fn channels(&self) -> usize {
        match &self.values {
            TargetValues::Labels(_) => 1,
            TargetValues::Regions(values) => values.len() / self.shape.iter().product::<usize>(),
        }
    }
}

impl TargetOptions {
    /// The target of every head.
    ///
    /// # Source
    /// batchgeneratorsv2, `ConvertSegmentationToRegionsTransform`, then `DownsampleSegForDSTransform`; picking voxels
    /// and naming regions commute.
    pub fn targets(&self, labels: &[i16], shape: [usize; 3]) -> Vec<Target> {
        let make = |&scale: &[f64; 3]| {
            let (shape, labels) = downsample_labels(labels, shape, scale);
            let values = match &self.regions {
                None => TargetValues::Labels(labels),
                Some(regions) => {
                    let ignore = self.ignore_label.map(|l| vec![l]);
                    let mut values = Vec::with_capacity((regions.len() + 1) * labels.len());
                    for region in regions.iter().chain(&ignore) {
                        let start = values.len();
                        values.resize(start + labels.len(), 0);
                        let values = &mut values[start..];
                        vectorised(
                            #[inline(always)]
                            || {
                                // A block of voxels stays in the cache for all labels of the region.
                                for (values, labels) in values.chunks_mut(4096).zip(labels.chunks(4096)) {
                                    for &label in region {
                                        for (v, &l) in values.iter_mut().zip(labels) {
                                            *v |= u8::from(l == label);
                                        }
                                    }
                                }
                            },
                        );
                    }
                    TargetValues::Regions(values)
                }
            };
            Target { shape, values }
        };
        self.scales.iter().map(make).collect()
    }
}

/// Picks labels on a grid of `shape * scale` voxels (rounded half to even, at least one per axis).
///
/// # Source
/// batchgeneratorsv2, `DownsampleSegForDSTransform`: `interpolate(mode='nearest-exact')`.
pub fn downsample_labels(labels: &[i16], shape: [usize; 3], scale: [f64; 3]) -> ([usize; 3], Vec<i16>) {
    let small = [0, 1, 2].map(|a| ((shape[a] as f64 * scale[a]).round_ties_even() as usize).max(1));
    if small == shape {
        return (shape, labels.to_vec());
    }
    let picks = [0, 1, 2].map(|a| nearest_exact(shape[a], small[a]));
    let mut out = Vec::with_capacity(small.iter().product());
    for z in &picks[0] {
        for y in &picks[1] {
            let row = &labels[(z * shape[1] + y) * shape[2]..][..shape[2]];
            out.extend(picks[2].iter().map(|&x| row[x]));
        }
    }
    (small, out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_overlap_and_the_ignore_label_comes_last() {
        let options = TargetOptions {
            regions: Some(vec![vec![1, 2, 3], vec![2, 3], vec![3]]),
            ignore_label: Some(4),
            scales: vec![[1.0; 3]],
        };
        let targets = options.targets(&[0, 1, 2, 3, 4], [1, 1, 5]);
        assert_eq!(targets[0].channels(), 4);
        #[rustfmt::skip]
        let expected = vec![
            0, 1, 1, 1, 0,
            0, 0, 1, 1, 0,
            0, 0, 0, 1, 0,
            0, 0, 0, 0, 1,
        ];
        assert_eq!(targets[0].values, TargetValues::Regions(expected));
    }

    #[test]
    fn heads_see_the_odd_voxels() {
        let labels: Vec<i16> = (0..8).collect();
        let options = TargetOptions {
            regions: None,
            ignore_label: None,
            scales: vec![[1.0; 3], [1.0, 1.0, 0.5], [1.0, 1.0, 0.25]],
        };
        let targets = options.targets(&labels, [1, 1, 8]);
        assert_eq!(targets[0].values, TargetValues::Labels(labels));
        assert_eq!(targets[1].values, TargetValues::Labels(vec![1, 3, 5, 7]));
        assert_eq!(targets[2].values, TargetValues::Labels(vec![2, 6]));
    }

    #[test]
    fn masking_zeroes_only_masked_channels_outside() {
        let mut p = Patch::new([1, 1, 2], vec![1.0, 2.0, 3.0, 4.0], vec![-1, 0]).expect("fits");
        MaskOutside { channels: vec![true, false] }.apply(&mut p);
        assert_eq!(p.data, [0.0, 2.0, 3.0, 4.0]);
        remove_outside(&mut p);
        assert_eq!(p.seg, [0, 0]);
    }
}
