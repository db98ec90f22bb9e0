//! Cases that hold the voxels of another case: a file copied under a second name, whatever its compression.

use super::Severity;
use crate::sources::hexadecimal;
use glioseg_volume::{LabelMap, Volume};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::borrow::Borrow;
use std::collections::HashMap;

/// What the voxels of a case are, as hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaseDigest {
    /// One per channel; empty where every voxel is the same, which says nothing.
    pub channels: Vec<String>,
    /// Of the label map; empty where every voxel is the same.
    pub labels: String,
}

impl CaseDigest {
    /// The digest of a case; `images` hold its channels in order.
    pub fn of<V: Borrow<Volume>>(images: &[V], labels: &LabelMap) -> CaseDigest {
        let channels = images.iter().map(Borrow::borrow).flat_map(|image| {
            let shape = image.shape();
            (0..image.channels).map(move |c| {
                let values = image.channel(c);
                // Adding 0 turns -0 into 0.
                digest(shape, values.len(), |i| (values[i] + 0.0).to_bits().to_le_bytes())
            })
        });
        let labels = digest(labels.shape(), labels.data.len(), |i| u32::from(labels.data[i]).to_le_bytes());
        CaseDigest { channels: channels.collect(), labels }
    }
}

/// Hash of a `[z, y, x]` array; empty if all its voxels are the same.
fn digest(shape: [usize; 3], voxels: usize, bytes: impl Fn(usize) -> [u8; 4]) -> String {
    const STEP: usize = 1 << 14;
    if (1..voxels).all(|i| bytes(i) == bytes(0)) {
        return String::new();
    }
    let mut hash = Sha256::new();
    for size in shape {
        hash.update((size as u64).to_le_bytes());
    }
    let mut buffer = Vec::with_capacity(STEP * 4);
    for start in (0..voxels).step_by(STEP) {
        buffer.clear();
        buffer.extend((start..voxels.min(start + STEP)).flat_map(&bytes));
        hash.update(&buffer);
    }
    hexadecimal(&hash.finalize())
}

/// A case that shares voxels with an earlier one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Twin {
    /// The later case.
    pub case: String,
    /// The earlier case.
    pub of: String,
    /// The first channel that is the same, if one is, and the number of channels.
    pub channel: Option<(usize, usize)>,
    /// Whether the label map is the same.
    pub labels: bool,
}

impl Twin {
    /// The same image with other labels contradicts itself; a case that is there twice only counts double, and makes
    /// folds look better than they are.
    pub fn severity(&self) -> Severity {
        if self.channel.is_some() && !self.labels { Severity::Error } else { Severity::Warning }
    }

    /// What was found.
    pub fn message(&self) -> String {
        let of = &self.of;
        let what = match self.channel {
            None => return format!("the label map is that of case `{of}`, but the image is another"),
            Some((_, 1)) => "the image".to_owned(),
            Some((channel, _)) => format!("channel {channel} of the image"),
        };
        if self.labels {
            format!("{what} and the label map are those of case `{of}`")
        } else {
            format!("{what} is that of case `{of}`, but the label map is another")
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> &'static str {
        match (self.channel.is_some(), self.labels) {
            (true, true) => {
                "keep one of the two: in different folds, one would be trained on and score the other"
            }
            (true, false) => "copy the right image again, or take one of the two cases out of the dataset",
            _ => "copy the right label map again, or take one of the two cases out of the dataset",
        }
    }
}

/// The cases of a list that share a channel or a label map with an earlier one.
pub fn twins(cases: &[(&str, &CaseDigest)]) -> Vec<Twin> {
    let (mut channels, mut labels) = (HashMap::new(), HashMap::new());
    let mut found = Vec::new();
    for (number, (case, digest)) in cases.iter().enumerate() {
        let image = digest
            .channels
            .iter()
            .enumerate()
            .filter(|(_, d)| !d.is_empty())
            .find_map(|(channel, d)| Some((channel, *channels.get(d.as_str())?)));
        let map = labels.get(digest.labels.as_str()).filter(|_| !digest.labels.is_empty());
        if let Some(of) = image.map(|(_, of)| of).or(map.copied()) {
            let (other, same): (&str, &CaseDigest) = cases[of];
            found.push(Twin {
                case: (*case).to_owned(),
                of: other.to_owned(),
                channel: image.map(|(channel, _)| (channel, digest.channels.len())),
                labels: same.labels == digest.labels,
            });
        }
        for d in &digest.channels {
            channels.entry(d.as_str()).or_insert(number);
        }
        labels.entry(digest.labels.as_str()).or_insert(number);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_volume::Geometry;

    fn case(values: &[f32], labels: &[u16]) -> CaseDigest {
        let geometry = Geometry::isotropic([1, 1, labels.len()]);
        let channels = values.len() / labels.len();
        let image = Volume::new(channels, values.to_vec(), geometry.clone()).expect("an image");
        CaseDigest::of(&[image], &LabelMap::new(labels.to_vec(), geometry).expect("labels"))
    }

    #[test]
    fn a_shared_channel_or_label_map_is_found_but_nothing_that_is_constant() {
        let cases = [
            ("a", case(&[1.0, 2.0, 0.0, 0.0], &[0, 1])),
            ("b", case(&[3.0, 2.0, 0.0, 0.0], &[0, 0])),
            ("c", case(&[5.0, 6.0, 1.0, 2.0], &[1, 0])),
            ("d", case(&[7.0, 8.0, 9.0, 8.0], &[1, 0])),
            ("e", case(&[3.0, 2.0, 4.0, 4.0], &[0, 0])),
        ];
        let listed: Vec<(&str, &CaseDigest)> = cases.iter().map(|(name, digest)| (*name, digest)).collect();
        let found: Vec<(String, Severity)> =
            twins(&listed).iter().map(|t| (format!("{}: {}", t.case, t.message()), t.severity())).collect();
        let expected = [
            ("c: channel 1 of the image is that of case `a`, but the label map is another", Severity::Error),
            ("d: the label map is that of case `c`, but the image is another", Severity::Warning),
            ("e: channel 0 of the image and the label map are those of case `b`", Severity::Warning),
        ];
        assert_eq!(found, expected.map(|(text, severity)| (text.to_owned(), severity)));
    }
}
