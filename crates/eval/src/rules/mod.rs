//! The rules: which numbers are computed, and what counts when something is empty or missing.

pub mod brats2021;
pub mod brats2023;
pub mod brats2026;
pub mod extra;
pub mod nnunet;

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::labels::LabelScheme;
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

    /// As on the command line and beside every number.
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
    /// [`EvalError::UnknownRule`].
    pub fn parse_list(text: &str) -> Result<Vec<Self>, EvalError> {
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

    /// The metrics that a ranking uses: name, and whether more is better.
    pub const fn ranked(self) -> &'static [(&'static str, bool)] {
        match self {
            Self::NnUnet => &[("Dice", true)],
            Self::Brats2021 => &[("Dice", true), ("HD95", false)],
            Self::Brats2023(_) => &[("LesionWise_Score_Dice", true), ("LesionWise_Score_HD95", false)],
            Self::Brats2026 => &[("rq", true), ("sq_dsc", true), ("sq_nsd", true)],
            Self::Extra => &[("NSD", true), ("ASD", false)],
        }
    }

    /// The metrics that a table for people shows.
    pub const fn shown(self) -> &'static [&'static str] {
        match self {
            Self::NnUnet => &["Dice", "IoU"],
            Self::Brats2021 => &["Dice", "HD95", "Sensitivity", "Specificity"],
            Self::Brats2023(_) => {
                &["LesionWise_Score_Dice", "LesionWise_Score_HD95", "Num_TP", "Num_FP", "Num_FN"]
            }
            Self::Brats2026 => &["rq", "sq_dsc", "sq_nsd", "sq_hd95", "global_bin_dsc", "global_bin_hd95"],
            Self::Extra => &["NSD", "ASD", "volume_difference_mL", "lesions_reference", "lesions_prediction"],
        }
    }

    /// Whether more of a metric is better; `None` for counts and the like.
    pub fn more_is_better(self, metric: &str) -> Option<bool> {
        let lower = metric.to_lowercase();
        if ["hd95", "asd"].iter().any(|m| lower.contains(m)) {
            return Some(false);
        }
        let good = ["dice", "iou", "nsd", "dsc", "rq", "sensitivity", "specificity", "prec", "rec"];
        (!lower.contains("std") && good.iter().any(|m| lower.contains(m))).then_some(true)
    }

    /// What a value counts as in a ranking: NaN is what the rules of nnU-Net and BraTS 2026 (and surfaces) answer for a
    /// region that is empty in both, so it is perfect.
    pub fn ranking_value(self, metric: &str, value: f64) -> f64 {
        match (value.is_nan(), self.more_is_better(metric)) {
            (true, Some(true)) => 1.0,
            (true, Some(false)) => 0.0,
            _ => value,
        }
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
    type Err = EvalError;

    fn from_str(text: &str) -> Result<Self, EvalError> {
        Self::every().find(|rule| rule.name() == text).ok_or_else(|| EvalError::UnknownRule {
            name: text.to_owned(),
            known: Self::every().map(|rule| rule.name().to_owned()).chain(["all".to_owned()]).collect(),
        })
    }
}

impl TryFrom<String> for Rule {
    type Error = EvalError;

    fn try_from(text: String) -> Result<Self, EvalError> {
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

    #[test]
    fn lists_of_rules_are_read_once_each() {
        let names = |text: &str| {
            Rule::parse_list(text).expect("known").into_iter().map(Rule::name).collect::<Vec<_>>()
        };
        assert_eq!(names("brats2021, nnunet,brats2021"), ["brats2021", "nnunet"]);
        assert_eq!(names("all"), ["nnunet", "brats2021", "brats2023", "brats2026", "extra"]);
        let error = Rule::parse_list("nnunet,brats2022").expect_err("no such rule");
        assert!(error.to_string().contains("`brats2022`; there are nnunet, brats2021"), "{error}");
        for rule in Rule::every() {
            assert_eq!(rule.name().parse::<Rule>().expect("its own name"), rule);
        }
    }

    #[test]
    fn directions_of_metrics_are_known() {
        assert_eq!(Rule::Brats2021.more_is_better("HD95"), Some(false));
        assert_eq!(Rule::Brats2023(Challenge::Gli).more_is_better("LesionWise_Score_Dice"), Some(true));
        assert_eq!(Rule::Brats2026.more_is_better("sq_dsc_std"), None);
        assert_eq!(Rule::NnUnet.more_is_better("n_ref"), None);
        for rule in Rule::every() {
            for &(metric, more) in rule.ranked() {
                assert_eq!(rule.more_is_better(metric), Some(more), "{metric}");
            }
        }
    }
}
