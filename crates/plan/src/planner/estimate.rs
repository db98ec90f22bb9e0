//! How much memory training a network takes, in nnU-Net's unit.

use super::Topology;
use crate::ArchitectureKind;

/// Feature map voxels of all convolutions of a network for one patch: what nnU-Net plans memory by.
///
/// `blocks` and `decoder_convs` are per stage, `classes` the number of entries of `labels` in `dataset.json`.
///
/// # Source
/// dynamic-network-architectures, `compute_conv_feature_map_size` without deep supervision.
pub(super) fn feature_map_voxels(
    kind: ArchitectureKind,
    topology: &Topology,
    features: &[usize],
    blocks: &[usize],
    decoder_convs: usize,
    classes: usize,
) -> u64 {
    let mut size: Vec<u64> = topology.patch.iter().map(|&s| s as u64).collect();
    let last = topology.stages() - 1;
    let mut sum = 0;
    for (stage, stride) in topology.strides.iter().enumerate() {
        size.iter_mut().zip(stride).for_each(|(s, &by)| *s /= by as u64);
        let voxels: u64 = size.iter().product();
        let map = features[stage] as u64 * voxels;
        let blocks = blocks[stage] as u64;
        sum += match kind {
            ArchitectureKind::PlainConvUNet | ArchitectureKind::GenericUNet => blocks * map,
            ArchitectureKind::ResidualEncoderUNet | ArchitectureKind::ResidualUNet => {
                // The stem at full resolution; below it, the skip of a block that changes channels or resolution.
                2 * blocks * map + map
            }
        };
        if stage < last {
            // Convolutions and the transposed convolution.
            sum += decoder_convs as u64 * map + map;
        }
        if stage == 0 {
            sum += classes as u64 * voxels;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_of_the_brats_networks_are_those_of_nnunet() {
        let features = [32, 64, 128, 256, 320, 320];
        // Every trace that nnU-Net takes from the median shape of BraTS to its patch.
        for (patch, plain, residual) in [
            ([160, 192, 160], 1_066_156_800, 1_311_369_600),
            ([160, 192, 128], 852_925_440, 1_049_095_680),
            ([128, 192, 128], 682_340_352, 839_276_544),
            ([128, 160, 128], 568_616_960, 699_397_120),
            ([128, 128, 128], 454_893_568, 559_517_696),
        ] {
            let topology = Topology::of(&[1.0; 3], &patch.map(f64::from));
            assert_eq!(topology.patch, patch.map(|s| s as usize));
            let estimate = |kind, blocks: &[usize], decoder| {
                feature_map_voxels(kind, &topology, &features, blocks, decoder, 4)
            };
            assert_eq!(estimate(ArchitectureKind::PlainConvUNet, &[2; 6], 2), plain, "{patch:?}");
            let blocks = [1, 3, 4, 6, 6, 6];
            assert_eq!(estimate(ArchitectureKind::ResidualEncoderUNet, &blocks, 1), residual, "{patch:?}");
        }
    }
}
