//! How many cases are worked on at once, so that memory stays bounded.

use crate::RawCase;
use glioseg_formats::nifti::read_info;
use std::ops::Range;

/// Splits cases into runs of neighbours that are worked on at once: at most one per thread, and together within
/// `budget` bytes, but always at least one.
///
/// A case uses several threads itself, so a run of one case is not a waste. Runs are done one after the other: with one
/// queue for all cases, a thread that waits for a part of its case would begin another case and hold both.
pub fn case_groups(case_bytes: &[u64], threads: usize, budget: u64) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let (mut start, mut bytes) = (0, 0u64);
    for (i, &case) in case_bytes.iter().enumerate() {
        let together = bytes.saturating_add(case);
        if i > start && (i - start >= threads.max(1) || together > budget) {
            groups.push(start..i);
            (start, bytes) = (i, case);
        } else {
            bytes = together;
        }
    }
    if start < case_bytes.len() {
        groups.push(start..case_bytes.len());
    }
    groups
}

/// Voxels and channels of a case as its headers tell; 0 where they cannot be read.
pub fn case_size(case: &RawCase) -> (u64, u64) {
    let infos = case.images.iter().filter_map(|path| read_info(path).ok());
    infos.fold((0, 0), |(voxels, channels), info| {
        (voxels.max(info.geometry.voxels() as u64), channels + info.channels as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_keep_to_threads_and_memory_and_lose_no_case() {
        assert_eq!(case_groups(&[1; 5], 2, 100), [0..2, 2..4, 4..5]);
        assert_eq!(case_groups(&[60, 30, 50, 200, 1], 8, 100), [0..2, 2..3, 3..4, 4..5]);
        assert_eq!(case_groups(&[], 2, 100), []);
        assert_eq!(case_groups(&[u64::MAX, u64::MAX], 2, 100), [0..1, 1..2]);
    }
}
