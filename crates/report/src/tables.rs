//! Files of a cohort's scores: everything as JSON, cases and statistics as CSV, and the challenges' own layouts.

use std::io::Write as _;
use std::path::Path;

use glioseg_formats::atomic;
use indexmap::IndexSet;

use crate::cohort::{CaseScores, CaseStatus, CohortScores, MetricName};
use crate::error::ReportError;
use glioseg_metrics::rules::{Rule, brats2021, brats2026};
use glioseg_metrics::statistics::mean;
use glioseg_metrics::{NnUnetCase, NnUnetSummary};

/// Writes a table whole or not at all.
fn write_csv(path: &Path, rows: impl IntoIterator<Item = Vec<String>>) -> Result<(), ReportError> {
    let failed = |source| ReportError::Csv { path: path.to_owned(), source };
    let mut writer = csv::Writer::from_writer(Vec::new());
    for row in rows {
        writer.write_record(&row).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|e| failed(e.into_error().into()))?;
    atomic::write(path, |file| file.write_all(&bytes))?;
    Ok(())
}

/// A number as both pandas and R read it.
fn cell(value: f64) -> String {
    if value.is_nan() {
        "NaN".to_owned()
    } else if value.is_infinite() {
        if value > 0.0 { "inf".to_owned() } else { "-inf".to_owned() }
    } else {
        value.to_string()
    }
}

impl CohortScores {
    /// Writes every table into a folder: `summary.json` where there is one, `scores.json`, `cases.csv`, `statistics.csv`,
    /// `brats2026_seg.csv`, `calibration.csv`, `winner_results.csv`.
    ///
    /// # Errors
    /// [`ReportError`] for a file that cannot be written.
    pub fn write_tables(&self, folder: &Path) -> Result<(), ReportError> {
        if let Some(summary) = self.nnunet_summary() {
            summary.write(&folder.join("summary.json"))?;
        }
        self.write_json(&folder.join("scores.json"))?;
        self.write_cases(&folder.join("cases.csv"))?;
        self.write_statistics(&folder.join("statistics.csv"))?;
        self.write_brats2026(&folder.join("brats2026_seg.csv"))?;
        self.write_calibration(&folder.join("calibration.csv"))?;
        self.write_winner(&folder.join("winner_results.csv"))?;
        Ok(())
    }

    /// What nnU-Net would write: the cases with a prediction, under its own rule. `None` if that rule was not asked for.
    pub fn nnunet_summary(&self) -> Option<NnUnetSummary> {
        if !self.rules.contains(&Rule::NnUnet) {
            return None;
        }
        let cases = self
            .cases
            .iter()
            .filter(|c| c.status == CaseStatus::Scored)
            .filter_map(|case| {
                let own = case.scores.iter().find(|s| s.rule == Rule::NnUnet)?;
                Some(NnUnetCase::of(case.prediction.as_ref()?, &case.reference, own.regions.clone()))
            })
            .collect();
        Some(NnUnetSummary::of(cases))
    }

    /// Writes everything as JSON (`scores.json`): what `rank`, `compare` and reports read.
    ///
    /// # Errors
    /// [`ReportError::Volume`] that names the file.
    ///
    /// # Panics
    /// Never: scores are plain data.
    pub fn write_json(&self, path: &Path) -> Result<(), ReportError> {
        let text = serde_json::to_vec_pretty(self).expect("scores are plain data");
        atomic::write(path, |file| file.write_all(&text))?;
        Ok(())
    }

    /// Reads a file of [`Self::write_json`].
    ///
    /// # Errors
    /// [`ReportError::Plan`] if it is not JSON, [`ReportError::Scores`] if it holds something else.
    pub fn read_json(path: &Path) -> Result<Self, ReportError> {
        let value = glioseg_plan::read_json(path)?;
        serde_json::from_value(value)
            .map_err(|e| ReportError::Scores { path: path.to_owned(), reason: e.to_string() })
    }

    /// Writes a row per case (`cases.csv`): case, status, then a column `rule/region/metric` for every number. Empty
    /// cells are numbers that a rule does not state for a case.
    ///
    /// # Errors
    /// [`ReportError::Csv`] or [`ReportError::Volume`] that names the file.
    pub fn write_cases(&self, path: &Path) -> Result<(), ReportError> {
        let columns: IndexSet<MetricName> =
            self.cases.iter().flat_map(|c| Self::numbers(c).map(|(name, _)| name)).collect();
        let head = ["case".to_owned(), "status".to_owned()]
            .into_iter()
            .chain(columns.iter().map(ToString::to_string))
            .collect();
        let row = |case: &CaseScores| {
            let mut cells = vec![String::new(); columns.len()];
            for (name, value) in Self::numbers(case) {
                if let Some(at) = columns.get_index_of(&name) {
                    cells[at] = cell(value);
                }
            }
            let status = match case.status {
                CaseStatus::Scored => "scored",
                CaseStatus::Missing => "missing",
                CaseStatus::Failed => "failed",
            };
            [case.case.clone(), status.to_owned()].into_iter().chain(cells).collect()
        };
        write_csv(path, std::iter::once(head).chain(self.cases.iter().map(row)))
    }

    /// Writes a row per metric (`statistics.csv`).
    ///
    /// # Errors
    /// As [`Self::write_cases`].
    pub fn write_statistics(&self, path: &Path) -> Result<(), ReportError> {
        let head = [
            "rule",
            "region",
            "metric",
            "n",
            "undefined",
            "mean",
            "ci_low",
            "ci_high",
            "sd",
            "min",
            "q1",
            "median",
            "q3",
            "max",
        ];
        let rows = self.statistics.iter().map(|s| {
            let v = &s.summary;
            let mut row = vec![s.name.rule.clone(), s.name.region.clone(), s.name.metric.clone()];
            row.extend([v.n.to_string(), v.undefined.to_string()]);
            row.extend([v.mean, v.ci_low, v.ci_high, v.sd, v.min, v.q1, v.median, v.q3, v.max].map(cell));
            row
        });
        write_csv(path, std::iter::once(head.map(str::to_owned).to_vec()).chain(rows))
    }

    /// Writes a row per region and interval of probability (`calibration.csv`): what a reliability diagram shows. Returns
    /// false, and writes nothing, where no probabilities were looked at.
    ///
    /// # Errors
    /// As [`Self::write_cases`].
    pub fn write_calibration(&self, path: &Path) -> Result<bool, ReportError> {
        let Some(calibration) = &self.calibration else { return Ok(false) };
        let head =
            ["region", "from", "to", "voxels", "mean_probability", "frequency", "region_ece", "region_brier"];
        let rows = calibration.regions.iter().flat_map(|region| {
            let width = 1.0 / region.bins.len() as f64;
            region.bins.iter().enumerate().map(move |(i, bin)| {
                let edges = [i as f64 * width, (i + 1) as f64 * width];
                let mut row = vec![region.region.clone()];
                row.extend(edges.map(cell));
                row.push(bin.voxels.to_string());
                row.extend([bin.confidence(), bin.frequency(), region.ece, region.brier].map(cell));
                row
            })
        });
        write_csv(path, std::iter::once(head.map(str::to_owned).to_vec()).chain(rows))?;
        Ok(true)
    }

    /// Writes the table of BraTS-evaluation (`seg`): a row per case, then mean, sample standard deviation and median.
    /// Failed cases are left out. Returns false, and writes nothing, without scores of that rule.
    ///
    /// # Errors
    /// As [`Self::write_cases`].
    ///
    /// # Source
    /// BraTS-evaluation 0.0.10, `parse_seg_results`.
    pub fn write_brats2026(&self, path: &Path) -> Result<bool, ReportError> {
        const COLUMNS: [(&str, &str); 15] = [
            ("all_instance_tp", "tp"),
            ("all_instance_fp", "fp"),
            ("all_instance_fn", "fn"),
            ("all_instance_prec", "prec"),
            ("all_instance_rec", "rec"),
            ("all_instance_f1", "rq"),
            ("global_dsc", "global_bin_dsc"),
            ("global_nsd", "global_bin_nsd"),
            ("global_hd95", "global_bin_hd95"),
            ("lesionwise_dsc_mean", "sq_dsc"),
            ("lesionwise_dsc_std", "sq_dsc_std"),
            ("lesionwise_nsd_mean", "sq_nsd"),
            ("lesionwise_nsd_std", "sq_nsd_std"),
            ("lesionwise_hd95_mean", "sq_hd95"),
            ("lesionwise_hd95_std", "sq_hd95_std"),
        ];
        let rule = Rule::Brats2026;
        let mut rows: Vec<(String, Vec<f64>)> = Vec::new();
        // Cases with a prediction come first, as there.
        for wanted in [CaseStatus::Scored, CaseStatus::Missing] {
            for case in self.cases.iter().filter(|c| c.status == wanted) {
                let Some(own) = case.scores.iter().find(|s| s.rule == rule) else { continue };
                let value = |region: &glioseg_metrics::rules::RegionScores, metric: &str| {
                    let value = region.values.get(metric).unwrap_or(f64::NAN);
                    brats2026::tabled(rule.name(), metric, value)
                };
                let row =
                    own.regions.iter().flat_map(|r| COLUMNS.map(|(_, metric)| value(r, metric))).collect();
                rows.push((case.case.clone(), row));
            }
        }
        let Some((_, first)) = rows.first() else { return Ok(false) };
        let width = first.len();
        let column = |i: usize| -> Vec<f64> { rows.iter().map(|r| r.1[i]).filter(|v| !v.is_nan()).collect() };
        let deviation = |v: Vec<f64>| {
            let m = mean(&v);
            (v.iter().map(|x| (x - m).powi(2)).sum::<f64>() / (v.len() as f64 - 1.0)).sqrt()
        };
        let total = |name: &str, of: &dyn Fn(Vec<f64>) -> f64| {
            (name.to_owned(), (0..width).map(|i| of(column(i))).collect::<Vec<f64>>())
        };
        let totals = [
            total("mean", &|v| mean(&v)),
            total("std", &deviation),
            total("median", &|mut v| glioseg_metrics::surface::percentile(&mut v, 0.5)),
        ];
        let head = std::iter::once("subject_id".to_owned()).chain(
            self.labels.groups.iter().flat_map(|g| COLUMNS.map(|(name, _)| format!("{name}_{}", g.name))),
        );
        // pandas leaves NaN empty.
        let text = |v: &f64| if v.is_nan() { String::new() } else { cell(*v) };
        let lines = rows
            .iter()
            .chain(&totals)
            .map(|(name, values)| std::iter::once(name.clone()).chain(values.iter().map(text)).collect());
        write_csv(path, std::iter::once(head.collect()).chain(lines))?;
        Ok(true)
    }

    /// Writes the table of the BraTS 2021 winner's repository (`results.csv`): Dice with 4 and HD95 with 3 decimals.
    /// Returns false, and writes nothing, without scores of the rule of 2021 for WT, TC and ET.
    ///
    /// # Errors
    /// As [`Self::write_cases`].
    ///
    /// # Source
    /// The winner's `Task500_BraTS_2021.py`, `evaluate_BraTS_folder`.
    pub fn write_winner(&self, path: &Path) -> Result<bool, ReportError> {
        let head = ["name", "dc_whole", "dc_core", "dc_enh", "hd95_whole", "hd95_core", "hd95_enh"];
        let row = |case: &CaseScores| {
            let own = case.scores.iter().find(|s| s.rule == Rule::Brats2021)?;
            let value = |region: &str, metric: &str| {
                own.regions.iter().find(|r| r.region == region)?.values.get(metric)
            };
            let mut row = vec![case.case.clone()];
            for region in ["WT", "TC", "ET"] {
                row.push(format!("{:.4}", value(region, "Dice")?));
            }
            for region in ["WT", "TC", "ET"] {
                // Its constant has a digit more, which three decimals hide.
                let hd95 = value(region, "HD95")?;
                row.push(format!("{:.3}", if hd95 >= brats2021::EMPTY_HD95 { 373.128_66 } else { hd95 }));
            }
            Some(row)
        };
        let rows: Vec<Vec<String>> = self.cases.iter().filter_map(row).collect();
        if rows.is_empty() {
            return Ok(false);
        }
        write_csv(path, std::iter::once(head.map(str::to_owned).to_vec()).chain(rows))?;
        Ok(true)
    }
}
