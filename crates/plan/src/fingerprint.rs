//! The fingerprint of a dataset: what the planner needs to know of its images.
//!
//! Cases are read in parallel, as many at once as fit the memory. Of every case the same number of foreground
//! intensities is drawn with numpy's generator, as nnU-Net does; every figure is nnU-Net's to the last bit. The 10⁸
//! samples per channel are never held: percentiles come from counts of the distinct values, mean and deviation from
//! drawing again.

mod histogram;
mod samples;
mod sources;

pub use sources::FingerprintSources;

use crate::groups::{case_groups, case_size};
use crate::json::{Node, parse_json, read_json};
use crate::memory::memory_budget;
use crate::plans::foreground_intensities;
use crate::{ForegroundIntensities, PlanError, RawCase, RawDataset, ReadCase};
use glioseg_formats::atomic;
use glioseg_formats::nifti::read_info;
use glioseg_interop::{KeyOrder, RandomState, python_json};
use glioseg_volume::crop;
use histogram::Histogram;
use rayon::prelude::*;
use samples::{CaseSamples, Run, Samples, draw};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::path::Path;

/// Foreground voxels that are drawn per channel, over all cases.
const SAMPLES: usize = 100_000_000;

/// nnU-Net's seed for the draws of a case.
const SEED: u32 = 1234;

/// Whether voxels with the ignore label count as foreground in the statistics of intensities.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum IgnoreLabel {
    /// They do not: nobody said what they are.
    #[default]
    LeftOut,
    /// They do, as in nnU-Net, whose foreground is every label above 0.
    AsForeground,
}

/// What the planner needs to know of a dataset, `dataset_fingerprint.json`. One entry per case, in nnU-Net's order.
#[derive(Debug, Clone, PartialEq)]
pub struct Fingerprint {
    /// Spacing of every case in mm, z, y, x (not transposed).
    pub spacings_mm: Vec<[f64; 3]>,
    /// Voxels of every case after cropping to the non-zero region, z, y, x.
    pub shapes_after_crop: Vec<[usize; 3]>,
    /// Intensities in the foreground, one entry per channel.
    pub foreground_intensities: Vec<ForegroundIntensities>,
    /// Median over cases of voxels after cropping to voxels before.
    pub median_relative_size_after_cropping: f64,
}

/// What one case contributes.
struct CaseFacts {
    spacing_mm: [f64; 3],
    shape_after_crop: [usize; 3],
    relative_size: f64,
    /// One per channel.
    intensities: Vec<Histogram>,
    samples: CaseSamples,
    /// What is odd about its files.
    oddities: Vec<String>,
}

impl Fingerprint {
    /// Name of the file next to the preprocessed data.
    pub const FILE: &'static str = "dataset_fingerprint.json";

    /// Reads every case of a dataset; `progress` is told the name of each case that is done, and what is odd about its files. Voxels with the ignore label
    /// are left out of the intensities; see [`Fingerprint::extract_with`].
    ///
    /// # Errors
    /// As [`Fingerprint::extract_with`].
    pub fn extract(
        dataset: &RawDataset,
        progress: &(dyn Fn(&str, &[String]) + Sync),
    ) -> Result<Fingerprint, PlanError> {
        Fingerprint::extract_with(dataset, IgnoreLabel::LeftOut, progress)
    }

    /// Reads every case of a dataset; `progress` is told the name of each case that is done, and what is odd about its files.
    ///
    /// # Errors
    /// The [`PlanError`] of the first case that cannot be used; [`PlanError::NoForeground`] if no case has a labelled
    /// voxel. A single case without one contributes no intensities.
    ///
    /// # Source
    /// nnU-Net v2, `DatasetFingerprintExtractor`; it counts the ignore label as foreground, which is right only with
    /// [`IgnoreLabel::AsForeground`] here. Datasets without an ignore label have the same fingerprint either way.
    pub fn extract_with(
        dataset: &RawDataset,
        ignore: IgnoreLabel,
        progress: &(dyn Fn(&str, &[String]) + Sync),
    ) -> Result<Fingerprint, PlanError> {
        let left_out = match ignore {
            IgnoreLabel::LeftOut => dataset.description.labels.ignore_label(),
            IgnoreLabel::AsForeground => None,
        };
        let per_case = SAMPLES / dataset.cases.len().max(1);
        let bytes: Vec<u64> = dataset
            .cases
            .par_iter()
            .map(case_size)
            // Image and labels, mask, and what is drawn from the foreground (a small part of the image).
            .map(|(voxels, channels)| voxels * (channels * 4 + 2 + 1 + 8))
            .collect();
        let mut facts = Vec::with_capacity(dataset.cases.len());
        let channels = dataset.description.channel_names.len();
        let mut intensities = vec![Histogram::default(); channels];
        let mut samples = Samples::new(channels, per_case);
        for group in case_groups(&bytes, rayon::current_num_threads(), memory_budget()) {
            let first = group.start;
            let results: Vec<Result<CaseFacts, PlanError>> = dataset.cases[group]
                .par_iter()
                .enumerate()
                .map(|(number, case)| {
                    let place = ((first + number) * per_case, per_case);
                    let facts = analyze(case, dataset, left_out, place)?;
                    progress(&case.name, &facts.oddities);
                    Ok(facts)
                })
                .collect();
            for result in results {
                let mut case = result?;
                intensities.iter_mut().zip(case.intensities.drain(..)).for_each(|(all, own)| all.add(own));
                samples.add(std::mem::take(&mut case.samples))?;
                facts.push(case);
            }
        }
        let foreground: Option<Vec<_>> = intensities
            .into_iter()
            .zip(samples.mean_and_std()?)
            .map(|(histogram, (mean, std))| histogram.statistics(mean, std))
            .collect();
        Ok(Fingerprint {
            spacings_mm: facts.iter().map(|f| f.spacing_mm).collect(),
            shapes_after_crop: facts.iter().map(|f| f.shape_after_crop).collect(),
            foreground_intensities: foreground.ok_or(PlanError::NoForeground { cases: facts.len() })?,
            median_relative_size_after_cropping: median(facts.iter().map(|f| f.relative_size)),
        })
    }

    /// Reads `dataset_fingerprint.json`.
    ///
    /// # Errors
    /// Any [`PlanError`] that names the file and the key.
    pub fn read(path: &Path) -> Result<Fingerprint, PlanError> {
        Fingerprint::from_value(&read_json(path)?, path)
    }

    /// Reads the text of a fingerprint; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Fingerprint::read`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Fingerprint, PlanError> {
        Fingerprint::from_value(&parse_json(text, path)?, path)
    }

    fn from_value(value: &Value, path: &Path) -> Result<Fingerprint, PlanError> {
        let root = Node::root(path, value);
        let triples = |key: &str| -> Result<Vec<[Node<'_>; 3]>, PlanError> {
            root.get(key)?.list()?.iter().map(triple).collect()
        };
        let mm = |node: &Node<'_>| match node.f64()? {
            x if x.is_finite() && x > 0.0 => Ok(x),
            _ => Err(node.wrong("a length in mm above 0")),
        };
        let spacings_mm = triples("spacings")?
            .iter()
            .map(|[z, y, x]| Ok([mm(z)?, mm(y)?, mm(x)?]))
            .collect::<Result<Vec<_>, PlanError>>()?;
        let size = |node: &Node<'_>| node.count(1 << 24);
        let shapes_after_crop = triples("shapes_after_crop")?
            .iter()
            .map(|[z, y, x]| Ok([size(z)?, size(y)?, size(x)?]))
            .collect::<Result<Vec<_>, PlanError>>()?;
        if spacings_mm.is_empty() || spacings_mm.len() != shapes_after_crop.len() {
            return Err(PlanError::Fingerprint {
                path: path.to_owned(),
                reason: format!(
                    "{} spacings and {} shapes, but there must be one of each per case",
                    spacings_mm.len(),
                    shapes_after_crop.len()
                ),
            });
        }
        Ok(Fingerprint {
            spacings_mm,
            shapes_after_crop,
            foreground_intensities: foreground_intensities(
                &root.get("foreground_intensity_properties_per_channel")?,
            )?,
            median_relative_size_after_cropping: root.get("median_relative_size_after_cropping")?.f64()?,
        })
    }

    /// `foreground_intensity_properties_per_channel`, as it stands in the fingerprint and in plans.
    pub(crate) fn intensities_json(&self) -> Value {
        let channel = |c: &ForegroundIntensities| {
            json!({
                "max": c.max, "mean": c.mean, "median": c.median, "min": c.min,
                "percentile_00_5": c.percentile_00_5, "percentile_99_5": c.percentile_99_5, "std": c.std,
            })
        };
        let channels = self.foreground_intensities.iter().enumerate();
        // As json.dump sorts them: "10" comes before "2".
        let mut sorted: Vec<_> = channels.map(|(i, c)| (i.to_string(), channel(c))).collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        Value::Object(sorted.into_iter().collect::<Map<_, _>>())
    }

    /// The text of `dataset_fingerprint.json` as nnU-Net writes it.
    pub fn to_json(&self) -> String {
        let value = json!({
            "spacings": self.spacings_mm,
            "shapes_after_crop": self.shapes_after_crop,
            "foreground_intensity_properties_per_channel": self.intensities_json(),
            "median_relative_size_after_cropping": self.median_relative_size_after_cropping,
        });
        python_json(&value, KeyOrder::Sorted)
    }

    /// Writes `dataset_fingerprint.json`.
    ///
    /// # Errors
    /// [`PlanError::Volume`] if the file cannot be written; an older one is then left as it was.
    pub fn write(&self, path: &Path) -> Result<(), PlanError> {
        Ok(atomic::write(path, |file| file.write_all(self.to_json().as_bytes()))?)
    }

    /// Checks that the fingerprint can be that of `dataset`; `path` is named in the error.
    ///
    /// # Errors
    /// [`PlanError::Fingerprint`] if it has another number of cases or channels, or an image that can be read now has
    /// another spacing, or fewer voxels than were left after cropping.
    pub fn check(&self, dataset: &RawDataset, path: &Path) -> Result<(), PlanError> {
        let (cases, channels) = (dataset.cases.len(), dataset.description.channel_names.len());
        let (own_cases, own_channels) = (self.spacings_mm.len(), self.foreground_intensities.len());
        if (cases, channels) == (own_cases, own_channels) {
            return self.check_headers(dataset, path);
        }
        Err(PlanError::Fingerprint {
            path: path.to_owned(),
            reason: format!(
                "the fingerprint is of {own_cases} cases with {own_channels} channels, but the dataset {} has {cases} \
                 cases with {channels} channels",
                dataset.folder.display()
            ),
        })
    }

    /// Spacings and shapes of the images as their headers tell.
    fn check_headers(&self, dataset: &RawDataset, path: &Path) -> Result<(), PlanError> {
        for (number, case) in dataset.cases.iter().enumerate() {
            let Some(info) = case.images.first().and_then(|image| read_info(image).ok()) else { continue };
            let (own, now) = (self.spacings_mm[number], info.geometry.spacing);
            let (a, b) = (any_order(own), any_order(now));
            let same = a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs());
            let (cropped, whole) = (self.shapes_after_crop[number], info.geometry.shape);
            let fits =
                any_order(cropped).iter().zip(any_order(whole)).all(|(cropped, whole)| *cropped <= whole);
            if !(same && fits) {
                let reason = format!(
                    "the fingerprint has spacing {own:?} and shape {cropped:?} for case `{}`, but its image has {now:?} \
                     and {whole:?} (z, y, x): the images have changed",
                    case.name
                );
                return Err(PlanError::Fingerprint { path: path.to_owned(), reason });
            }
        }
        Ok(())
    }
}

/// Numbers whatever the order of the axes: a reader may turn them.
fn any_order<T: PartialOrd>(mut values: [T; 3]) -> [T; 3] {
    values.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    values
}

fn triple<'a>(node: &Node<'a>) -> Result<[Node<'a>; 3], PlanError> {
    <[Node<'a>; 3]>::try_from(node.list()?).map_err(|_| node.wrong("a list of 3 numbers (z, y, x)"))
}

/// Reads a case, crops it, and draws `per_case` intensities from its foreground, in which the label `left_out` does not
/// count; `before` were drawn from the cases before it.
fn analyze(
    case: &RawCase,
    dataset: &RawDataset,
    left_out: Option<u16>,
    (before, per_case): (usize, usize),
) -> Result<CaseFacts, PlanError> {
    let reader = dataset.description.image_reader();
    let ReadCase { image: volume, labels, oddities } = case.read(&dataset.description, reader)?;
    let (turn, spacing_mm) = reader.turn(&volume.geometry);
    let shape = turn.along(volume.shape());
    let voxels = volume.geometry.voxels();
    let labels = turn.apply(labels.data, volume.shape());
    let image = turn.apply(volume.data, volume.geometry.shape);
    let mut mask = crop::nonzero_mask(&image, shape);
    crop::fill_holes(&mut mask, shape);
    let bbox = crop::bounding_box(&mask, shape).unwrap_or_else(|| shape.map(|size| [0, size]));
    drop(mask);
    let [[z0, z1], [y0, y1], [x0, x1]] = bbox;
    let mut foreground = Vec::new();
    for z in z0..z1 {
        for y in y0..y1 {
            let row = (z * shape[1] + y) * shape[2];
            let counts = |label: u16| label > 0 && Some(label) != left_out;
            foreground.extend((row + x0..row + x1).filter(|&i| counts(labels[i])));
        }
    }
    drop(labels);
    let Ok(count) = u32::try_from(foreground.len()) else {
        let reason = format!("has {} labelled voxels, more than {}", foreground.len(), u32::MAX);
        return Err(PlanError::Case { case: case.name.clone(), path: case.labels.clone(), reason });
    };
    let mut random = RandomState::new(SEED);
    let (mut intensities, mut samples) = (Vec::new(), CaseSamples::default());
    for channel in image.chunks_exact(voxels) {
        let values: Vec<f32> = foreground.iter().map(|&i| channel[i]).collect();
        let Some(last) = count.checked_sub(1) else {
            intensities.push(Histogram::default());
            continue;
        };
        let mut run = Run::new(before);
        // numpy's RandomState.choice(values, per_case, replace=True); whatever is smaller is kept for drawing again.
        if values.len() > per_case {
            let mut drawn = Vec::with_capacity(per_case);
            draw(&mut random, last, per_case, |some| {
                drawn.extend(some.iter().map(|&i| values[i as usize]));
            });
            run.extend(&drawn, |v| v);
            intensities.push(Histogram::of(drawn.iter().map(|&v| (v, 1))));
            samples.values.push(drawn);
        } else {
            samples.draws.push(random.clone());
            let mut counts = vec![0u32; values.len()];
            draw(&mut random, last, per_case, |some| {
                for &i in some {
                    counts[i as usize] += 1;
                }
                run.extend(some, |i| values[i as usize]);
            });
            intensities.push(Histogram::of(values.iter().copied().zip(counts)));
            samples.values.push(values);
        }
        samples.runs.push(run);
    }
    let shape_after_crop = crop::box_shape(bbox);
    Ok(CaseFacts {
        spacing_mm,
        shape_after_crop,
        relative_size: shape_after_crop.iter().product::<usize>() as f64 / voxels as f64,
        intensities,
        samples,
        oddities,
    })
}

/// Median as numpy has it: of an even number the mean of the middle two.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => f64::NAN,
        _ if n % 2 == 1 => values[n / 2],
        _ => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}
