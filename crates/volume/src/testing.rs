//! Support for tests of every crate: where the reference results lie, and how arrays are compared.
//!
//! Not part of the public interface. The reference results (`shared/golden`) and real cases (`shared/real`) are not part of the
//! repository. A test that needs them carries `#[cfg_attr(not(golden), ignore = "…")]` (or `real_cases`; `fixtures/shared-data.rs`
//! sets both), so that it is reported as ignored where they are missing, and takes them from [`shared_data`].

use std::path::{Path, PathBuf};

/// `NAME` in the folder of shared data: the one that `GLIOSEG_SHARED` names, or `shared` next to the checkout.
///
/// # Panics
/// If it is missing: the test that asks for it must fail, or be ignored for a reason.
pub fn shared_data(name: &str) -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let folder = std::env::var_os("GLIOSEG_SHARED").map_or_else(beside, PathBuf::from);
    let path = folder.join(name);
    assert!(path.exists(), "missing reference data: {} (see CONTRIBUTING.md)", path.display());
    path
}

/// Relative L2 distance `|a - b| / |b|` in f64 (the absolute one where `b` is zero).
///
/// # Panics
/// If the lengths differ.
pub fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len(), "arrays of different length");
    let (mut diff, mut norm) = (0f64, 0f64);
    for (&a, &b) in a.iter().zip(b) {
        diff += (f64::from(a) - f64::from(b)).powi(2);
        norm += f64::from(b).powi(2);
    }
    if norm == 0.0 { diff.sqrt() } else { (diff / norm).sqrt() }
}

/// Panics with count, first positions, both values and the tolerance where `|a - b| > atol`.
///
/// # Panics
/// If the lengths differ or any element is out of tolerance.
pub fn assert_close(a: &[f32], b: &[f32], atol: f32, what: &str) {
    assert_eq!(a.len(), b.len(), "{what}: arrays of different length");
    let bad: Vec<usize> =
        (0..a.len()).filter(|&i| (a[i] - b[i]).abs() > atol || (a[i] - b[i]).is_nan()).collect();
    let first: Vec<_> = bad.iter().take(5).map(|&i| (i, a[i], b[i])).collect();
    assert!(
        bad.is_empty(),
        "{what}: {} of {} values differ by more than {atol}; first (index, ours, reference): {first:?}",
        bad.len(),
        a.len()
    );
}
