//! How well calibrated saved probabilities are: `CASE.npz` next to the predictions against the references.
//!
//! The arrays are read plane by plane, and only what lies in the box around the tumour is kept: an ECE over a whole image says little
//! more than that most of it is background (Mehrtash et al. 2020 take boxes for the same reason).

use std::path::{Path, PathBuf};

use glioseg_formats::nifti;
use glioseg_metrics::calibration::{Calibration, CalibrationScores, RegionCalibration};
use glioseg_metrics::{LabelScheme, MetricsError};
use glioseg_plan::record::Record;
use glioseg_plan::{Dataset, Labels};
use glioseg_report::{CaseScores, CaseStatus, CohortScores};
use glioseg_volume::LabelMap;
use glioseg_volume::crop::{self, Box3, box_shape};
use rayon::prelude::*;

use glioseg_infer::ensemble::EnsembleError;
use glioseg_infer::ensemble::place::{Properties, SavedPlace};
use glioseg_infer::ensemble::saved::Archive;

/// Around the labels of reference and prediction, so much counts too.
const MARGIN_MM: f64 = 10.0;
/// Intervals of a reliability diagram, as in Guo et al. 2017.
const BINS: usize = 15;

/// What was found next to a cohort's predictions.
#[derive(Debug, Default)]
pub struct Calibrated {
    /// The calibration; `None` where no case has probabilities that can be used.
    pub scores: Option<CalibrationScores>,
    /// Cases whose probabilities cannot be used, and why.
    pub failed: Vec<(String, EnsembleError)>,
    /// Cases whose probabilities were left out, since the `predict.json` next to them says that they are of an earlier
    /// prediction.
    pub stale: Vec<String>,
}

/// A region: its name, its labels in the references, and the outputs whose sum is its probability.
struct Asked<'a> {
    name: &'a str,
    labels: &'a [u16],
    outputs: Vec<usize>,
}

/// Compares the probabilities next to the scored predictions, of either version of nnU-Net, with the references.
///
/// The `dataset.json` next to them says what the outputs mean: regions, or labels whose probabilities are summed. A region that the
/// outputs do not make up is left out.
pub fn calibration(scores: &CohortScores) -> Calibrated {
    let with = |case: &CaseScores| {
        let npz = npz_of(case.prediction.as_ref()?);
        (case.status == CaseStatus::Scored && npz.is_file()).then_some(npz)
    };
    let found = scores.cases.iter().filter_map(|case| Some((case, with(case)?)));
    // A file of that name by another program is not a reason to leave a cohort out.
    let record = Record::read(&scores.prediction).ok().flatten();
    let current = |npz: &Path| {
        let name = npz.file_stem().unwrap_or_default().to_string_lossy();
        record.as_ref().is_none_or(|record| record.may_have_probabilities(&name))
    };
    let (cases, stale): (Vec<(&CaseScores, PathBuf)>, Vec<_>) = found.partition(|(_, npz)| current(npz));
    let stale: Vec<String> = stale.into_iter().map(|(case, _)| case.case.clone()).collect();
    let Some((_, first)) = cases.first() else { return Calibrated { stale, ..Calibrated::default() } };
    let folder = first.parent().unwrap_or(Path::new("."));
    let dataset = match Dataset::describing(None, [folder]) {
        Ok(Some(found)) => Ok(found.dataset),
        Ok(None) => Err(EnsembleError::NoDataset { folder: folder.to_owned() }),
        Err(error) => Err(error.into()),
    };
    let dataset = match dataset {
        Ok(dataset) => dataset,
        Err(error) => {
            return Calibrated { scores: None, failed: vec![(cases[0].0.case.clone(), error)], stale };
        }
    };
    let theirs =
        scores.prediction_convention.map_or_else(|| scores.labels.clone(), LabelScheme::brats).regions;
    let regions: Vec<Asked<'_>> = scores
        .labels
        .regions
        .iter()
        .zip(&theirs)
        .filter_map(|(own, theirs)| {
            let outputs = outputs_of(&dataset.labels, &theirs.labels)?;
            Some(Asked { name: &own.name, labels: &own.labels, outputs })
        })
        .collect();
    let outputs = dataset.labels.num_outputs();
    let found: Vec<_> = cases
        .par_iter()
        .map(|(case, npz)| of_case(case, npz, outputs, &regions, scores.labels.ignore))
        .collect();
    let (mut all, mut count, mut failed) = (vec![Calibration::new(BINS); regions.len()], 0, Vec::new());
    for ((case, _), gathered) in cases.iter().zip(found) {
        match gathered {
            // Nothing there and nothing predicted.
            Ok(None) => {}
            Ok(Some(gathered)) => {
                count += 1;
                all.iter_mut().zip(&gathered).for_each(|(all, own)| all.join(own));
            }
            Err(error) => failed.push((case.case.clone(), error)),
        }
    }
    let scores = (count > 0 && !regions.is_empty()).then(|| CalibrationScores {
        cases: count,
        margin_mm: MARGIN_MM,
        regions: regions.iter().zip(&all).map(|(r, c)| RegionCalibration::new(r.name, c)).collect(),
    });
    Calibrated { scores, failed, stale }
}

/// `CASE.npz` next to `CASE.nii.gz`.
fn npz_of(prediction: &Path) -> PathBuf {
    let plain = if prediction.extension().is_some_and(|e| e.eq_ignore_ascii_case("gz")) {
        prediction.with_extension("")
    } else {
        prediction.to_owned()
    };
    plain.with_extension("npz")
}

/// The outputs that make up a region of these labels; `None` if there are none.
fn outputs_of(labels: &Labels, region: &[u16]) -> Option<Vec<usize>> {
    let sorted = |values: &[u16]| {
        let mut values = values.to_vec();
        values.sort_unstable();
        values
    };
    if labels.has_regions() {
        let at = labels.regions().iter().position(|r| sorted(&r.labels) == sorted(region))?;
        return Some(vec![at]);
    }
    let at = |label: &u16| labels.all_labels().iter().position(|l| l == label);
    region.iter().map(at).collect::<Option<Vec<_>>>().filter(|outputs| !outputs.is_empty())
}

/// The calibration of every region in a case; `None` where reference and prediction are empty.
fn of_case(
    case: &CaseScores,
    npz: &Path,
    outputs: usize,
    regions: &[Asked<'_>],
    ignore: Option<u16>,
) -> Result<Option<Vec<Calibration>>, EnsembleError> {
    let reference = nifti::read_labels(&case.reference)?;
    let prediction = case.prediction.as_ref().map(|p| nifti::read_labels(p)).transpose()?;
    let mut archive = Archive::open(npz)?;
    let mut array = archive.array()?;
    if array.shape[0] != outputs {
        let reason = format!("it has {} outputs, but the dataset has {outputs}", array.shape[0]);
        return Err(EnsembleError::format(npz, reason));
    }
    let shape = [array.shape[1], array.shape[2], array.shape[3]];
    let properties = Properties::next_to(npz)?;
    let place = SavedPlace::of(npz, array.version, shape, properties.as_ref())?;
    if place.geometry.shape != reference.shape() {
        let (found, wanted) = (place.geometry.shape, reference.shape());
        let reason =
            format!("it belongs to an image of {found:?} voxels, its reference has {wanted:?} (z, y, x)");
        return Err(EnsembleError::format(npz, reason));
    }
    // From here on everything is in the order of the array.
    let reference = reference.turned(&place.turn);
    let prediction = prediction.map(|prediction| prediction.turned(&place.turn));
    let Some(bbox) = around(&reference, prediction.as_ref(), ignore) else { return Ok(None) };
    let inside: usize = box_shape(bbox).iter().product();
    let mut sums = vec![vec![0f32; inside]; regions.len()];
    let mut plane = vec![0f32; shape[1] * shape[2]];
    for output in 0..outputs {
        for z in 0..shape[0] {
            array.next(&mut plane)?;
            if let Some(&value) = plane.iter().find(|p| !(-1e-3..=1.001).contains(*p)) {
                return Err(EnsembleError::format(
                    npz,
                    format!("it holds {value}, which is not a probability"),
                ));
            }
            for (sum, _) in sums.iter_mut().zip(regions).filter(|(_, r)| r.outputs.contains(&output)) {
                add_plane(&plane, z, place.bbox, sum, bbox);
            }
        }
    }
    let truth = crop::crop(reference.data.clone(), reference.shape(), bbox);
    let counts: Vec<bool> = truth.iter().map(|&label| ignore != Some(label)).collect();
    let gathered = regions.iter().zip(&sums).map(|(region, sum)| {
        let counted = sum.iter().zip(&truth).zip(&counts).filter(|(_, counts)| **counts);
        let (probabilities, positive): (Vec<f32>, Vec<bool>) =
            counted.map(|((p, label), _)| (p.clamp(0.0, 1.0), region.labels.contains(label))).unzip();
        let mut own = Calibration::new(BINS);
        own.add(&probabilities, &positive)
            .map_err(|e: MetricsError| EnsembleError::format(npz, e.to_string()))?;
        Ok(own)
    });
    gathered.collect::<Result<Vec<_>, _>>().map(Some)
}

/// Adds plane `z` of an array that fills `from` to what `into` has of it.
fn add_plane(plane: &[f32], z: usize, from: Box3, sum: &mut [f32], into: Box3) {
    let z = z + from[0][0];
    if !(into[0][0]..into[0][1]).contains(&z) {
        return;
    }
    let width = from[2][1] - from[2][0];
    let [_, rows, columns] = box_shape(into);
    for y in into[1][0].max(from[1][0])..into[1][1].min(from[1][1]) {
        for x in into[2][0].max(from[2][0])..into[2][1].min(from[2][1]) {
            let at = ((z - into[0][0]) * rows + y - into[1][0]) * columns + x - into[2][0];
            sum[at] += plane[(y - from[1][0]) * width + x - from[2][0]];
        }
    }
}

/// The box around all labels of both maps with its margin.
fn around(reference: &LabelMap, prediction: Option<&LabelMap>, ignore: Option<u16>) -> Option<Box3> {
    let shape = reference.shape();
    let labelled = |label: u16| label != 0 && ignore != Some(label);
    let mut mask: Vec<bool> = reference.data.iter().map(|&l| labelled(l)).collect();
    if let Some(prediction) = prediction.filter(|p| p.shape() == shape) {
        mask.iter_mut().zip(&prediction.data).for_each(|(m, &l)| *m |= labelled(l));
    }
    let tight = crop::bounding_box(&mask, shape)?;
    Some([0, 1, 2].map(|a| {
        let margin = (MARGIN_MM / reference.geometry.spacing[a]).round() as usize;
        [tight[a][0].saturating_sub(margin), (tight[a][1] + margin).min(shape[a])]
    }))
}
