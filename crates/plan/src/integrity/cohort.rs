//! What only a look at several cases shows: orientations, dimensions, spacings and sizes.

use super::{CaseCheck, Problem, Severity};
use crate::RawDataset;
use crate::fingerprint::median;
use glioseg_diagnose::{count, first_few};
use glioseg_volume::Geometry;
use std::collections::BTreeMap;

/// A voxel, or an image, whose edge differs by more than this factor from the cohort's is a mistake of units. Clinical
/// images of one body part stay well below it, even where thick slices stand next to isotropic ones.
const FAR: f64 = 10.0;

/// Fewer cases have no middle to be far from.
const FEWEST: usize = 3;

/// Images stored with their axes in different directions, where the reader does not turn them.
pub(super) fn orientations(dataset: &RawDataset, cases: &[CaseCheck]) -> Option<Problem> {
    if dataset.description.image_reader().turns().is_some() {
        return None;
    }
    let mut seen: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for check in cases {
        if let Some(geometry) = &check.geometry {
            seen.entry(geometry.orientation()).or_default().push(&check.case);
        }
    }
    if seen.len() < 2 {
        return None;
    }
    let mut groups: Vec<(&String, &Vec<&str>)> = seen.iter().collect();
    groups.sort_by_key(|(_, names)| std::cmp::Reverse(names.len()));
    let each: Vec<String> = groups
        .iter()
        .map(|(axes, names)| format!("{axes} in {} ({})", count(names.len(), "case"), first_few(names, 5)))
        .collect();
    Some(Problem {
        severity: Severity::Warning,
        case: None,
        path: Some(dataset.folder.clone()),
        message: format!("images are stored in {} orientations: {}", groups.len(), each.join(", ")),
        hint: Some(
            "the network would see heads turned differently: store all alike, or set \
             `overwrite_image_reader_writer` to \"NibabelIOWithReorient\" in dataset.json"
                .to_owned(),
        ),
    })
}

/// Cases of two dimensions among others, and cases whose voxels or sizes are far from those of the others.
pub(super) fn outliers(cases: &[CaseCheck]) -> Vec<Problem> {
    let known: Vec<(&CaseCheck, &Geometry)> =
        cases.iter().filter_map(|c| c.geometry.as_ref().map(|g| (c, g))).collect();
    let mut problems = Vec::new();
    let mut add = |check: &CaseCheck, severity, message: String, hint: &str| {
        problems.push(Problem {
            severity,
            case: Some(check.case.clone()),
            path: check.first.clone(),
            message,
            hint: Some(hint.to_owned()),
        });
    };
    let (flat, deep): (Vec<_>, Vec<_>) = known.into_iter().partition(|(_, g)| g.forms().flat);
    if !deep.is_empty() {
        for (check, _) in &flat {
            let message = format!("the image has two dimensions, but {} three", have(deep.len()));
            add(check, Severity::Error, message, "take it out of the dataset, or give the whole volume");
        }
    }
    let cohort = if deep.is_empty() { flat } else { deep };
    if cohort.len() < FEWEST {
        return problems;
    }
    let edge = |sizes: [f64; 3]| sizes.iter().product::<f64>().cbrt();
    let far = |value: f64, middle: f64| value / middle > FAR || middle / value > FAR;
    let voxel = |g: &Geometry| edge(g.spacing);
    let size = |g: &Geometry| edge(g.shape.map(|s| s as f64));
    let middle_voxel = median(cohort.iter().map(|(_, g)| voxel(g)));
    let middle_size = median(cohort.iter().map(|(_, g)| size(g)));
    let middle = |of: &dyn Fn(&Geometry, usize) -> f64| {
        let axes = [0, 1, 2].map(|a| median(cohort.iter().map(|(_, g)| of(g, a))));
        format!("{} x {} x {}", axes[0], axes[1], axes[2])
    };
    for (check, geometry) in &cohort {
        let [z, y, x] = geometry.spacing;
        if far(voxel(geometry), middle_voxel) {
            let message = format!(
                "voxels measure {z} x {y} x {x} mm (z, y, x), those of the middle case {} mm",
                middle(&|g, a| g.spacing[a])
            );
            let hint = "is the unit wrong (micrometres, metres), or the header lost? correct the file";
            add(check, Severity::Error, message, hint);
        }
        let [z, y, x] = geometry.shape;
        if far(size(geometry), middle_size) {
            let message = format!(
                "the image has {z} x {y} x {x} voxels (z, y, x), that of the middle case {}",
                middle(&|g, a| g.shape[a] as f64)
            );
            add(check, Severity::Warning, message, "is it an image of this kind?");
        }
    }
    problems
}

fn have(n: usize) -> String {
    if n == 1 { "another case has".to_owned() } else { format!("{n} other cases have") }
}
