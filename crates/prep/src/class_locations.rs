//! Where the foreground lies, for patches that must contain some of it.

use glioseg_interop::RandomState;
use glioseg_plan::Labels;
use std::collections::BTreeMap;

/// nnU-Net's seed for the choice of voxels of a case.
const SEED: u32 = 1234;
/// As many voxels of a class are kept, or the share below of all where that is more.
const MIN_SAMPLES: usize = 10_000;
const MIN_SHARE: f64 = 0.01;

/// Voxels of one class, drawn at random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClassLocations {
    /// The labels that make up the class: one, those of a region, or −1 and all labels for the annotated part of a
    /// dataset with an ignore label.
    pub labels: Vec<i16>,
    /// Indices into `[z, y, x]` in the order drawn; empty where the case has no such voxel.
    pub voxels: Vec<u32>,
}

/// Draws voxels of every class of a label map, one entry per region or foreground label in the dataset's order; with
/// an ignore label a last one for everything that is annotated.
///
/// # Shapes
/// `seg` is `[z, y, x]` with −1 outside the image.
///
/// # Panics
/// If `seg` has more than 2³² voxels, for which indices of 32 bits are too small.
///
/// # Source
/// nnU-Net v2, `DefaultPreprocessor._sample_foreground_locations`.
pub fn class_locations(seg: &[i16], labels: &Labels) -> Vec<ClassLocations> {
    let mut classes: Vec<Vec<i16>> =
        labels.classes().into_iter().map(|(_, of)| of.into_iter().map(value).collect()).collect();
    if labels.ignore_label().is_some() {
        classes.push(std::iter::once(-1).chain(labels.all_labels().iter().map(|&v| value(v))).collect());
    }
    locations(seg, classes)
}

/// The same for every foreground label alone, also of a dataset with regions.
///
/// # Source
/// nnU-Net v1, `GenericPreprocessor._run_internal`.
pub(crate) fn label_locations(seg: &[i16], labels: &Labels) -> Vec<ClassLocations> {
    locations(seg, labels.foreground().iter().map(|(_, v)| vec![value(*v)]).collect())
}

fn value(v: u16) -> i16 {
    i16::try_from(v).unwrap_or(i16::MAX)
}

fn locations(seg: &[i16], classes: Vec<Vec<i16>>) -> Vec<ClassLocations> {
    assert!(u32::try_from(seg.len()).is_ok(), "a label map of {} voxels", seg.len());
    let mut blocks: BTreeMap<i16, Vec<u32>> =
        classes.iter().flatten().map(|&label| (label, Vec::new())).collect();
    for (index, label) in seg.iter().enumerate() {
        if let Some(block) = blocks.get_mut(label) {
            block.push(index as u32);
        }
    }
    let mut random = RandomState::new(SEED);
    classes
        .into_iter()
        .map(|labels| {
            let parts: Vec<&[u32]> = labels.iter().map(|label| blocks[label].as_slice()).collect();
            let voxels = choose(&mut random, &parts);
            ClassLocations { labels, voxels }
        })
        .collect()
}

/// Draws from the concatenation of `parts`.
fn choose(random: &mut RandomState, parts: &[&[u32]]) -> Vec<u32> {
    let total: usize = parts.iter().map(|p| p.len()).sum();
    if total == 0 {
        return Vec::new();
    }
    let share = (total as f64 * MIN_SHARE).ceil() as usize;
    let count = MIN_SAMPLES.min(total).max(share);
    let mut chosen = random.choose(total, count);
    for offset in &mut chosen {
        let mut rest = *offset as usize;
        let part = parts.iter().find(|part| {
            let inside = rest < part.len();
            if !inside {
                rest -= part.len();
            }
            inside
        });
        *offset = part.map_or(0, |part| part[rest]);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_plan::Dataset;
    use serde_json::{Value, json};
    use std::path::Path;

    fn labels(labels: &Value, order: &Value) -> Labels {
        let description = json!({"channel_names": {"0": "t1"}, "labels": labels, "regions_class_order": order,
            "numTraining": 1, "file_ending": ".nii.gz"});
        Dataset::from_value(description, Path::new("dataset.json")).expect("a description").labels
    }

    /// 40 x 40 x 40 voxels with labels −1 to 4 in a fixed pattern.
    fn seg() -> Vec<i16> {
        (0..64_000u32).map(|i| ((i.wrapping_mul(2_654_435_761) >> 16) % 6) as i16 - 1).collect()
    }

    fn summary(of: &[ClassLocations]) -> Vec<(usize, Vec<u32>, u64)> {
        let sum = |v: &[u32]| v.iter().enumerate().map(|(i, &v)| (i as u64 % 101) * u64::from(v)).sum();
        of.iter()
            .map(|c| (c.voxels.len(), c.voxels.iter().take(3).copied().collect(), sum(&c.voxels)))
            .collect()
    }

    /// Count, first three voxels and weighted sum of what nnU-Net 2.8.1 draws from `seg`.
    const PLAIN: [(usize, &[u32], u64); 4] = [
        (10_000, &[43_450, 58_374, 29_612], 16_015_608_144),
        (10_000, &[44_134, 9_630, 28_367], 16_078_635_352),
        (10_000, &[58_889, 40_259, 28_720], 16_115_577_855),
        (0, &[], 0),
    ];
    const REGIONS: [(usize, &[u32], u64); 4] = [
        (10_000, &[18_918, 6_753, 43_258], 15_957_778_268),
        (10_000, &[11_689, 19_348, 46_433], 16_120_819_070),
        (10_000, &[63_676, 24_289, 59_827], 15_965_974_122),
        (10_000, &[34_895, 42_269, 21_603], 16_090_967_110),
    ];

    #[test]
    fn draws_of_labels_and_regions_are_those_of_nnunet() {
        let plain = labels(&json!({"background": 0, "a": 1, "b": 2, "never": 5, "c": 3}), &Value::Null);
        let found = class_locations(&seg(), &plain);
        let classes: Vec<&[i16]> = found.iter().map(|c| c.labels.as_slice()).collect();
        assert_eq!(classes, [[1], [2], [3], [5]]);
        assert_eq!(summary(&found), PLAIN.map(|(n, first, sum)| (n, first.to_vec(), sum)));

        let regions = json!({"background": 0, "whole": [3, 1, 2], "core": [2, 4], "one": [1], "ignore": 5});
        let found = class_locations(&seg(), &labels(&regions, &json!([1, 2, 3])));
        let classes: Vec<&[i16]> = found.iter().map(|c| c.labels.as_slice()).collect();
        assert_eq!(classes, [&[3, 1, 2][..], &[2, 4], &[1], &[-1, 0, 1, 2, 3, 4]]);
        assert_eq!(summary(&found), REGIONS.map(|(n, first, sum)| (n, first.to_vec(), sum)));
    }
}
