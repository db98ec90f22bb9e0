//! What the page is told: one block for the tables, one per case.

use std::path::Path;

use glioseg_formats::FormatError;
use glioseg_formats::nifti::{read_labels, read_volume};
use glioseg_plan::record::{CaseUncertainty, Flag, ModelRecord, Settings};
use glioseg_volume::{LabelMap, Volume};
use serde::Serialize;

use super::curves::Curve;
use super::pictures::{Fineness, Picture, pictures};
use super::{ReportCase, ReportInput, relative};
use crate::cohort::{CaseStatus, CohortScores};
use crate::error::ReportError;
use crate::rank::{RankOptions, Ranking, rank};
use crate::run::Run;
use crate::uncertainty::UncertaintyScores;
use glioseg_metrics::calibration::CalibrationScores;
use glioseg_metrics::labels::Region;
use glioseg_metrics::number::Number;
use glioseg_metrics::rules::Rule;
use glioseg_metrics::statistics::Summary;
use glioseg_metrics::{Better, Unit};

/// Channels that make a good background, the best first, as their usual names.
const BACKGROUNDS: [&[&str]; 2] =
    [&["flair", "t2f", "t2flair", "fla"], &["t1ce", "t1c", "t1gd", "t1post", "t1wce", "ce"]];

/// Everything of a case.
#[derive(Debug)]
pub(crate) struct CaseData {
    /// What its own block holds.
    pub(crate) block: CaseBlock,
    /// mL of every region in the reference, then in every run; `None` where there is no label map.
    volumes: Vec<Option<Vec<Number>>>,
    /// What could not be shown.
    pub(crate) problems: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct CaseBlock {
    /// Channel name and relative path.
    channels: Vec<(String, String)>,
    /// Relative path.
    reference: Option<String>,
    /// Relative path, run by run.
    predictions: Vec<Option<String>>,
    /// Run by run: kind of the map and relative path.
    maps: Vec<Vec<(String, String)>>,
    /// Names of the backgrounds of the pictures.
    backgrounds: Vec<String>,
    pictures: Vec<Picture>,
    problems: Vec<String>,
}

/// Reads the files of a case and draws it.
pub(crate) fn case_data(
    case: &ReportCase,
    input: &ReportInput,
    folder: &Path,
    fineness: Fineness,
) -> CaseData {
    let mut problems = Vec::new();
    let mut labels = |path: Option<&std::path::PathBuf>| -> Option<LabelMap> {
        let path = path?;
        read_labels(path).map_err(|e| problems.push(problem(&case.id, &e))).ok()
    };
    let mut maps = vec![labels(case.reference.as_ref())];
    maps.extend((0..input.runs.len()).map(|i| labels(case.predictions.get(i).and_then(Option::as_ref))));
    let mut backgrounds: Vec<(String, Volume)> = Vec::new();
    for (name, path) in chosen(&case.channels, fineness.backgrounds) {
        match read_volume(path) {
            Ok(volume) => backgrounds.push((name.clone(), volume)),
            Err(error) => problems.push(problem(&case.id, &error)),
        }
    }
    let geometry = maps
        .iter()
        .flatten()
        .map(|m| &m.geometry)
        .chain(backgrounds.iter().map(|(_, v)| &v.geometry))
        .next()
        .cloned();
    let mut regions = vec![input.regions.clone()];
    regions.extend(input.runs.iter().map(|r| r.regions.clone()));
    let volumes = maps
        .iter()
        .zip(&regions)
        .map(|(map, regions)| map.as_ref().map(|map| volumes_ml(map, regions)))
        .collect();
    let mut pictures_of_case = Vec::new();
    if let Some(geometry) = geometry {
        // What lies on another grid cannot be drawn over the rest.
        for (i, map) in maps.iter_mut().enumerate() {
            if map.as_ref().is_some_and(|m| m.shape() != geometry.shape) {
                let what = if i == 0 { "the reference".to_owned() } else { input.runs[i - 1].name.clone() };
                problems.push(format!("{}: {what} lies on another grid and is not drawn", case.id));
                *map = None;
            }
        }
        backgrounds.retain(|(name, volume)| {
            let fits = volume.shape() == geometry.shape;
            if !fits {
                problems.push(format!("{}: channel {name} lies on another grid and is not drawn", case.id));
            }
            fits
        });
        let images: Vec<&[f32]> = backgrounds.iter().map(|(_, v)| v.channel(0)).collect();
        let maps: Vec<Option<&LabelMap>> = maps.iter().map(Option::as_ref).collect();
        pictures_of_case = pictures(&geometry, &images, &maps, &regions, fineness);
    }
    let link = |path: &std::path::PathBuf| path.is_file().then(|| relative(folder, path));
    let block = CaseBlock {
        channels: case.channels.iter().filter_map(|(name, path)| Some((name.clone(), link(path)?))).collect(),
        reference: case.reference.as_ref().and_then(link),
        predictions: (0..input.runs.len())
            .map(|i| case.predictions.get(i).and_then(Option::as_ref).and_then(link))
            .collect(),
        maps: (0..input.runs.len())
            .map(|i| {
                let own = case.maps.get(i).into_iter().flatten();
                own.filter_map(|(kind, path)| Some((kind.clone(), link(path)?))).collect()
            })
            .collect(),
        backgrounds: backgrounds.into_iter().map(|(name, _)| name).collect(),
        pictures: pictures_of_case,
        problems: problems.clone(),
    };
    CaseData { block, volumes, problems }
}

fn problem(case: &str, error: &FormatError) -> String {
    format!("{case}: {error}")
}

/// The channels to draw on: FLAIR and contrast-enhanced T1 where they are, else the first ones.
fn chosen(channels: &[(String, std::path::PathBuf)], count: usize) -> Vec<(&String, &std::path::PathBuf)> {
    let plain = |name: &str| -> String {
        name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let mut order: Vec<usize> = BACKGROUNDS
        .iter()
        .filter_map(|names| channels.iter().position(|(name, _)| names.contains(&plain(name).as_str())))
        .collect();
    order.extend((0..channels.len()).filter(|i| !order.contains(i)).collect::<Vec<_>>());
    order.into_iter().take(count).map(|i| (&channels[i].0, &channels[i].1)).collect()
}

fn volumes_ml(map: &LabelMap, regions: &[Region]) -> Vec<Number> {
    let counts = map.counts();
    let ml = |region: &Region| {
        let voxels: usize = region.labels.iter().filter_map(|l| counts.get(l)).sum();
        Number(five_digits(voxels as f64 * map.geometry.voxel_ml()))
    };
    regions.iter().map(ml).collect()
}

/// What the tables show.
#[derive(Debug, Serialize)]
pub(crate) struct Overview<'a> {
    title: &'a str,
    version: &'static str,
    regions: &'a [Region],
    /// Rules of the runs' scores, in the order in which they are shown.
    rules: Vec<RuleText>,
    runs: Vec<RunData<'a>>,
    cases: Vec<CaseRow<'a>>,
    ranking: Option<Ranking>,
    curves: &'a [Curve],
    /// How many folders above the report the folder lies that holds all volumes.
    up: usize,
}

/// What is said of a rule.
#[derive(Debug, Serialize)]
struct RuleText {
    key: &'static str,
    label: &'static str,
    about: &'static str,
}

#[derive(Debug, Serialize)]
struct RunData<'a> {
    name: &'a str,
    reference: Option<String>,
    prediction: Option<String>,
    labels: Option<&'a str>,
    labels_guessed: bool,
    tolerance_mm: Option<f64>,
    bootstrap_samples: Option<usize>,
    extra: &'a [String],
    columns: Vec<Column<'a>>,
    models: &'a [ModelRecord],
    settings: Option<&'a Settings>,
    /// How well uncertainty tells the Dice.
    uncertainty: Option<&'a UncertaintyScores>,
    /// How well calibrated its probabilities are.
    calibration: Option<&'a CalibrationScores>,
    /// Regions in the coding of these predictions.
    regions: &'a [Region],
}

/// A metric of a region under a rule, for every case.
#[derive(Debug, Serialize)]
struct Column<'a> {
    rule: &'a str,
    region: &'a str,
    metric: &'a str,
    /// Its name for people.
    label: &'static str,
    unit: Unit,
    /// Whether more is better; nothing for counts and the like.
    more: Option<bool>,
    /// Whether its values are shares, from 0 to 1.
    share: bool,
    /// Whether the rule ranks by it.
    ranked: bool,
    summary: Summary,
    values: Vec<Option<Number>>,
}

#[derive(Debug, Serialize)]
struct CaseRow<'a> {
    id: &'a str,
    /// Run by run: `scored`, `missing`, `failed`, or nothing where it was not scored.
    status: Vec<Option<CaseStatus>>,
    /// Run by run.
    flags: Vec<Vec<Flag>>,
    warnings: Vec<String>,
    errors: Vec<String>,
    volumes: &'a [Option<Vec<Number>>],
    uncertainty: Vec<Option<Unsure<'a>>>,
    seconds: Vec<Option<f64>>,
}

/// What the tables show of a prediction's uncertainty.
#[derive(Debug, Serialize)]
struct Unsure<'a> {
    score: Number,
    regions: Vec<UnsureRegion<'a>>,
}

#[derive(Debug, Serialize)]
struct UnsureRegion<'a> {
    region: &'a str,
    labels: &'a [u16],
    score: Number,
}

impl<'a> Unsure<'a> {
    fn of(uncertainty: &'a CaseUncertainty) -> Self {
        let regions = uncertainty.regions.iter().map(|r| UnsureRegion {
            region: &r.region,
            labels: &r.labels,
            score: Number(r.score),
        });
        Self { score: Number(uncertainty.score), regions: regions.collect() }
    }
}

/// Gathers the tables.
pub(crate) fn overview<'a>(
    input: &'a ReportInput,
    cases: &'a [CaseData],
    up: usize,
) -> Result<Overview<'a>, ReportError> {
    let scored: Vec<Run> =
        input.runs.iter().filter_map(|r| r.scores.as_ref().map(|s| Run::of_cohort(&r.name, s))).collect();
    let ranking = if scored.len() > 1 { Some(rank(&scored, &RankOptions::default())?) } else { None };
    let place = |path: &Path| path.file_name().map(|n| n.to_string_lossy().into_owned());
    let runs = input.runs.iter().map(|run| {
        let scores = run.scores.as_ref();
        RunData {
            name: &run.name,
            reference: scores.and_then(|s| place(&s.reference)),
            prediction: scores.and_then(|s| place(&s.prediction)),
            labels: scores.map(|s| s.labels.name.as_str()),
            labels_guessed: scores.is_some_and(|s| s.labels_guessed),
            tolerance_mm: scores.map(|s| s.options.tolerance_mm),
            bootstrap_samples: scores.map(|s| s.bootstrap.samples),
            extra: scores.map_or(&[], |s| s.extra.as_slice()),
            columns: scores.map(|s| columns(s, &input.cases)).unwrap_or_default(),
            models: run.predicted.as_ref().map_or(&[], |p| p.models.as_slice()),
            settings: run.predicted.as_ref().and_then(|p| p.settings.as_ref()),
            uncertainty: scores.and_then(|s| s.uncertainty.as_ref()),
            calibration: scores.and_then(|s| s.calibration.as_ref()),
            regions: &run.regions,
        }
    });
    let rows = input.cases.iter().zip(cases).map(|(case, data)| {
        let scores =
            |run: &'a super::ReportRun| run.scores.as_ref()?.cases.iter().find(|c| c.case == case.id);
        let predicted = |run: &'a super::ReportRun| run.predicted.as_ref()?.case(&case.id);
        let several = input.runs.len() > 1;
        let named = |run: &super::ReportRun, text: &str| {
            if several { format!("{}: {text}", run.name) } else { text.to_owned() }
        };
        let (mut warnings, mut errors) = (Vec::new(), Vec::new());
        for run in &input.runs {
            let (s, p) = (scores(run), predicted(run));
            warnings.extend(s.iter().flat_map(|c| &c.warnings).map(|w| named(run, w)));
            warnings.extend(p.iter().flat_map(|c| &c.warnings).map(|w| named(run, w)));
            errors.extend(s.iter().filter_map(|c| c.error.as_ref()).map(|e| named(run, e)));
            errors.extend(p.iter().filter_map(|c| c.error.as_ref()).map(|e| named(run, e)));
        }
        CaseRow {
            id: &case.id,
            status: input.runs.iter().map(|r| scores(r).map(|c| c.status)).collect(),
            flags: input
                .runs
                .iter()
                .map(|r| predicted(r).map(|c| c.flags.clone()).unwrap_or_default())
                .collect(),
            warnings,
            errors,
            volumes: &data.volumes,
            uncertainty: input
                .runs
                .iter()
                .map(|r| Some(Unsure::of(predicted(r)?.uncertainty.as_ref()?)))
                .collect(),
            seconds: input.runs.iter().map(|r| predicted(r).map(|c| c.seconds.values().sum())).collect(),
        }
    });
    Ok(Overview {
        title: &input.title,
        version: env!("CARGO_PKG_VERSION"),
        regions: &input.regions,
        rules: Rule::preferred()
            .filter(|rule| {
                input.runs.iter().filter_map(|r| r.scores.as_ref()).any(|s| s.rules.contains(rule))
            })
            .map(|rule| RuleText { key: rule.name(), label: rule.label(), about: rule.about() })
            .collect(),
        runs: runs.collect(),
        cases: rows.collect(),
        ranking,
        curves: &input.curves,
        up,
    })
}

/// The metrics that people look at, rule by rule, with the value of every case.
fn columns<'a>(scores: &'a CohortScores, cases: &[ReportCase]) -> Vec<Column<'a>> {
    let by_name: std::collections::HashMap<&str, &crate::cohort::CaseScores> =
        scores.cases.iter().map(|c| (c.case.as_str(), c)).collect();
    let shown = scores.statistics.iter().filter_map(|s| {
        let rule: Rule = s.name.rule.parse().ok()?;
        let metric = rule.metric(&s.name.metric).filter(|metric| metric.shown && s.summary.n > 0)?;
        Some((rule, metric, s))
    });
    shown
        .map(|(rule, metric, s)| {
            let value = |case: &ReportCase| {
                let own = by_name.get(case.id.as_str())?.scores.iter().find(|r| r.rule == rule)?;
                let region = own.regions.iter().find(|r| r.region == s.name.region)?;
                region.values.get(&s.name.metric).map(|v| Number(five_digits(v)))
            };
            Column {
                rule: &s.name.rule,
                region: &s.name.region,
                metric: &s.name.metric,
                label: metric.label,
                unit: metric.unit,
                more: metric.has_direction().then_some(metric.better == Better::More),
                share: metric.is_share(),
                ranked: metric.ranked,
                summary: s.summary,
                values: cases.iter().map(value).collect(),
            }
        })
        .collect()
}

/// A value with the digits that a table can show, so that the file stays small.
fn five_digits(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return value;
    }
    let scale = 10f64.powi(4 - value.abs().log10().floor() as i32);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flair_and_contrast_enhanced_t1_are_drawn_on() {
        let channels = ["t1", "t1ce", "t2", "FLAIR"].map(|n| (n.to_owned(), n.into()));
        let names = |count| chosen(&channels, count).into_iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>();
        assert_eq!((names(1), names(2)), (vec!["FLAIR"], vec!["FLAIR", "t1ce"]));
        let others = ["a", "b"].map(|n| (n.to_owned(), n.into()));
        assert_eq!(chosen(&others, 2).len(), 2);
    }

    #[test]
    fn five_digits_are_kept() {
        let of = [0.123_456_78, 1234.567, 1e-9, -2.718_991, 0.0].map(|v| five_digits(v).to_string());
        assert_eq!(of, ["0.12346", "1234.6", "0.000000001", "-2.719", "0"]);
    }
}
