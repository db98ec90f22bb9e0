//! Parts of a made-up fingerprint.

use glioseg_plan::ForegroundIntensities;

/// Intensities of a channel, for plans that do not depend on them.
pub(crate) fn intensities() -> ForegroundIntensities {
    ForegroundIntensities {
        mean: 1.0,
        std: 1.0,
        percentile_00_5: 0.0,
        percentile_99_5: 2.0,
        min: 0.0,
        max: 3.0,
        median: 1.0,
    }
}
