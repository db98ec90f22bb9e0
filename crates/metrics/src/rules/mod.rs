//! The rules: which numbers are computed, and what counts when something is empty or missing.

pub mod brats2021;
pub mod brats2023;
pub mod brats2026;
pub mod extra;
pub mod nnunet;

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::MetricsError;
use crate::labels::LabelScheme;
use crate::metric::Metric;
use crate::number::{self, Values};
use crate::pair::Pair;

pub use brats2023::Challenge;

/// A set of metrics with its treatment of special cases. Numbers of different rules are not comparable, even where
/// they share a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rule {
    /// nnU-Net's Dice, `IoU` and counts.
    NnUnet,
    /// BraTS 2018 to 2022, per region.
    Brats2021,
    /// BraTS 2023, lesion-wise.
    Brats2023(Challenge),
    /// BraTS 2026, lesion-wise: BraTS-evaluation 0.0.10 on panoptica.
    Brats2026,
    /// Surface Dice at a tolerance, average surface distance, volumes, lesion counts.
    Extra,
}

impl Rule {
    /// The rules that `all` stands for.
    pub const ALL: [Self; 5] =
        [Self::NnUnet, Self::Brats2021, Self::Brats2023(Challenge::Gli), Self::Brats2026, Self::Extra];

    /// As on the command line and next to every number.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NnUnet => "nnunet",
            Self::Brats2021 => "brats2021",
            Self::Brats2023(Challenge::Gli) => "brats2023",
            Self::Brats2023(Challenge::Ssa) => "brats2023-ssa",
            Self::Brats2023(Challenge::Men) => "brats2023-men",
            Self::Brats2023(Challenge::Ped) => "brats2023-ped",
            Self::Brats2023(Challenge::Met) => "brats2023-met",
            Self::Brats2026 => "brats2026",
            Self::Extra => "extra",
        }
    }

    /// Every rule there is.
    pub fn every() -> impl Iterator<Item = Self> {
        let others = [Challenge::Ssa, Challenge::Men, Challenge::Ped, Challenge::Met].map(Self::Brats2023);
        Self::ALL.into_iter().chain(others)
    }

    /// Parses a list such as `nnunet,brats2021`, or `all`.
    ///
    /// # Errors
    /// [`MetricsError::UnknownRule`].
    pub fn parse_list(text: &str) -> Result<Vec<Self>, MetricsError> {
        let mut rules = Vec::new();
        for name in text.split(',').map(str::trim).filter(|n| !n.is_empty()) {
            let named = if name == "all" { Self::ALL.to_vec() } else { vec![name.parse()?] };
            for rule in named {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
        Ok(rules)
    }

    /// Its name for people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::NnUnet => "nnU-Net",
            Self::Brats2021 => "BraTS 2018–2022",
            Self::Brats2023(Challenge::Gli) => "BraTS 2023, lesion-wise",
            Self::Brats2023(Challenge::Ssa) => "BraTS 2023 SSA, lesion-wise",
            Self::Brats2023(Challenge::Men) => "BraTS 2023 MEN, lesion-wise",
            Self::Brats2023(Challenge::Ped) => "BraTS 2023 PED, lesion-wise",
            Self::Brats2023(Challenge::Met) => "BraTS 2023 MET, lesion-wise",
            Self::Brats2026 => "BraTS 2026, lesion-wise",
            Self::Extra => "further measures",
        }
    }

    /// What it computes, and what counts where something is empty or missing, in a few sentences.
    pub const fn about(self) -> &'static str {
        match self {
            Self::NnUnet => {
                "nnU-Net's Dice and IoU. A region that is empty in reference and prediction has no value; cases without a \
                 prediction are left out."
            }
            Self::Brats2021 => {
                "Dice, 95th percentile Hausdorff distance (mm), sensitivity and specificity per region. Empty in both: Dice \
                 1, HD95 0. Empty in one, or no prediction: Dice 0, HD95 373.1287 (the image's diagonal)."
            }
            Self::Brats2023(_) => {
                "Every lesion of the reference is scored for itself; a missed lesion, and every false one, counts as Dice 0 \
                 and HD95 374. Small lesions are left out."
            }
            Self::Brats2026 => {
                "Lesions are matched as panoptica does: recognition quality (rq) counts found lesions, segmentation quality \
                 (sq) scores those that were found."
            }
            Self::Extra => {
                "NSD: share of the surfaces that agree within a tolerance. ASD: average surface distance in mm. Volumes in \
                 mL, and numbers of lesions."
            }
        }
    }

    /// Every metric that it may state for a case.
    pub const fn metrics(self) -> &'static [Metric] {
        match self {
            Self::NnUnet => &nnunet::METRICS,
            Self::Brats2021 => &brats2021::METRICS,
            Self::Brats2023(_) => &brats2023::METRICS,
            Self::Brats2026 => &brats2026::METRICS,
            Self::Extra => &extra::METRICS,
        }
    }

    /// The metric of that name.
    pub fn metric(self, key: &str) -> Option<&'static Metric> {
        self.metrics().iter().find(|metric| metric.key == key)
    }

    /// The metrics that a ranking uses, the most telling first.
    pub fn ranked(self) -> impl Iterator<Item = &'static Metric> {
        self.metrics().iter().filter(|metric| metric.ranked)
    }

    /// Rules as people like to see them: the one that says most at a glance first.
    pub fn preferred() -> impl Iterator<Item = Self> {
        let first =
            [Self::Brats2021, Self::Brats2023(Challenge::Gli), Self::Brats2026, Self::NnUnet, Self::Extra];
        first.into_iter().chain(Self::every().filter(move |rule| !first.contains(rule)))
    }

    /// Scores a pair in every region of `scheme` that the rule uses.
    pub fn score(self, pair: &Pair, scheme: &LabelScheme, options: &ScoreOptions) -> RuleScores {
        let regions = match self {
            Self::NnUnet => nnunet::score(pair, scheme),
            Self::Brats2021 => brats2021::score(pair, scheme),
            Self::Brats2023(challenge) => brats2023::score(pair, scheme, challenge),
            Self::Brats2026 => brats2026::score(pair, scheme),
            Self::Extra => extra::score(pair, scheme, options.tolerance_mm),
        };
        RuleScores { rule: self, regions }
    }

    /// What a case without a prediction counts as; `None` where the rule leaves it out.
    pub fn missing(self, scheme: &LabelScheme) -> Option<RuleScores> {
        let of = |regions: &[crate::labels::Region], values: Values| {
            regions
                .iter()
                .map(|r| RegionScores { region: r.name.clone(), values: values.clone(), lesions: Vec::new() })
                .collect()
        };
        let regions = match self {
            // nnU-Net evaluates the predictions that there are.
            Self::NnUnet | Self::Extra => return None,
            Self::Brats2021 => of(&scheme.regions, brats2021::missing()),
            Self::Brats2023(_) => of(&scheme.regions, brats2023::missing()),
            Self::Brats2026 => of(&scheme.groups, brats2026::missing()),
        };
        Some(RuleScores { rule: self, regions })
    }
}

impl FromStr for Rule {
    type Err = MetricsError;

    fn from_str(text: &str) -> Result<Self, MetricsError> {
        Self::every().find(|rule| rule.name() == text).ok_or_else(|| MetricsError::UnknownRule {
            name: text.to_owned(),
            known: Self::every().map(|rule| rule.name().to_owned()).chain(["all".to_owned()]).collect(),
        })
    }
}

impl TryFrom<String> for Rule {
    type Error = MetricsError;

    fn try_from(text: String) -> Result<Self, MetricsError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.name().to_owned()
    }
}

/// What a person may choose about the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ScoreOptions {
    /// Distance in mm within which surfaces count as equal in the surface Dice of [`Rule::Extra`].
    pub tolerance_mm: f64,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self { tolerance_mm: 1.0 }
    }
}

/// All numbers of one rule for one case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleScores {
    /// The rule.
    pub rule: Rule,
    /// Its regions, in order.
    pub regions: Vec<RegionScores>,
}

/// All numbers of one rule for one region of a case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionScores {
    /// Name of the region.
    pub region: String,
    /// Metric to value.
    pub values: Values,
    /// The reference's lesions, for the lesion-wise rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lesions: Vec<Lesion>,
}

/// A lesion of the reference.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lesion {
    /// Its voxels.
    pub voxels: usize,
    /// Its volume in mm³.
    pub volume_mm3: f64,
    /// Whether the prediction found it.
    pub matched: bool,
    /// Whether it counts: BraTS 2023 leaves small ones out.
    pub counted: bool,
    /// Dice with what was found.
    #[serde(with = "number::float")]
    pub dice: f64,
    /// Surface Dice with what was found; NaN for rules without.
    #[serde(with = "number::float")]
    pub nsd: f64,
    /// 95th percentile Hausdorff distance in mm.
    #[serde(with = "number::float")]
    pub hd95: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Better;

    #[test]
    fn lists_of_rules_are_read_once_each() {
        let names = |text: &str| {
            Rule::parse_list(text).expect("known").into_iter().map(Rule::name).collect::<Vec<_>>()
        };
        assert_eq!(names("brats2021, nnunet,brats2021"), ["brats2021", "nnunet"]);
        assert_eq!(names("all"), ["nnunet", "brats2021", "brats2023", "brats2026", "extra"]);
        let error = Rule::parse_list("nnunet,brats2022").expect_err("no such rule");
        assert!(error.to_string().contains("`brats2022`; rules: nnunet, brats2021"), "{error}");
        for rule in Rule::every() {
            assert_eq!(rule.name().parse::<Rule>().expect("its own name"), rule);
        }
    }

    #[test]
    fn directions_of_metrics_are_data() {
        let better = |rule: Rule, key: &str| rule.metric(key).map(|m| m.better);
        assert_eq!(better(Rule::Brats2021, "HD95"), Some(Better::Less));
        assert_eq!(better(Rule::Brats2023(Challenge::Gli), "LesionWise_Score_Dice"), Some(Better::More));
        // Neither spread can be ranked by, whatever it is the spread of.
        assert_eq!(better(Rule::Brats2026, "sq_dsc_std"), Some(Better::Neither));
        assert_eq!(better(Rule::Brats2026, "sq_hd95_std"), Some(Better::Neither));
        assert_eq!(better(Rule::NnUnet, "n_ref"), Some(Better::Neither));
        assert_eq!(better(Rule::NnUnet, "HD95"), None);
    }

    #[test]
    fn tables_of_metrics_are_sound() {
        assert_eq!(Rule::preferred().count(), Rule::every().count());
        for rule in Rule::every() {
            let metrics = rule.metrics();
            for (i, metric) in metrics.iter().enumerate() {
                let place = format!("{}/{}", rule.name(), metric.key);
                assert!(
                    metrics[..i].iter().all(|m| m.key != metric.key && m.label != metric.label),
                    "{place}"
                );
                assert!(!metric.ranked || (metric.shown && metric.has_direction()), "{place}");
                assert!(metric.range.0 < metric.range.1 && !metric.label.is_empty(), "{place}");
            }
            assert!(rule.ranked().next().is_some() && !rule.about().is_empty(), "{}", rule.name());
        }
    }

    #[test]
    fn every_number_of_a_case_has_a_row_and_lies_in_its_range() {
        let scheme = LabelScheme::brats(glioseg_plan::Convention::Brats1234);
        let shape = [6, 7, 8];
        let map = |seed: u32| {
            let value = |i: u32| match i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24 {
                v @ 0..30 => (v % 5) as u16,
                _ => 0,
            };
            let data = (0..6 * 7 * 8).map(value).collect();
            glioseg_volume::LabelMap::new(data, glioseg_volume::Geometry::isotropic(shape))
                .expect("336 voxels")
        };
        let empty = glioseg_volume::LabelMap::new(vec![0; 336], glioseg_volume::Geometry::isotropic(shape));
        let empty = empty.expect("336 voxels");
        let maps = [map(1), map(1 << 30), empty];
        for rule in Rule::every() {
            let mut stated = std::collections::BTreeSet::new();
            let pairs = maps.iter().flat_map(|a| maps.iter().map(move |b| Pair::new(a, b, None)));
            let scored = pairs.map(|pair| rule.score(&pair, &scheme, &ScoreOptions::default()));
            for region in scored.chain(rule.missing(&scheme)).flat_map(|scores| scores.regions) {
                for (key, value) in region.values.iter() {
                    let metric =
                        rule.metric(key).unwrap_or_else(|| panic!("{}/{key} has no row", rule.name()));
                    let (least, greatest) = metric.range;
                    assert!(
                        value.is_nan() || (least..=greatest).contains(&value),
                        "{}/{key} is {value}",
                        rule.name()
                    );
                    stated.insert(metric.key);
                }
            }
            for metric in rule.metrics() {
                assert!(stated.contains(metric.key), "{} never states {}", rule.name(), metric.key);
            }
        }
    }
}
