//! What a number of a rule is: its name for people, its unit, its range, and whether more of it is better.
//!
//! Tables, rankings and the report's page read these rows; nothing guesses from a name.

use serde::{Serialize, Serializer};

/// Whether more or less of a metric is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// More is.
    More,
    /// Less is.
    Less,
    /// Neither: a count, a volume, a spread.
    Neither,
}

/// What a metric is counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A share or a score without a unit.
    One,
    /// Millimetres.
    Mm,
    /// Voxel edges.
    Edges,
    /// Millilitres.
    Ml,
    /// Cubic millimetres.
    Mm3,
    /// Voxels.
    Voxels,
    /// Lesions.
    Lesions,
}

impl Unit {
    /// As it stands behind a number; nothing for shares.
    pub const fn name(self) -> &'static str {
        match self {
            Self::One => "",
            Self::Mm => "mm",
            Self::Edges => "voxel edges",
            Self::Ml => "mL",
            Self::Mm3 => "mm³",
            Self::Voxels => "voxels",
            Self::Lesions => "lesions",
        }
    }

    /// Whether values of one case are whole numbers.
    pub const fn counts(self) -> bool {
        matches!(self, Self::Voxels | Self::Lesions)
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A metric of a rule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Metric {
    /// Its name in files and on the command line, as the rule's own program has it.
    pub key: &'static str,
    /// Its name for people.
    pub label: &'static str,
    /// What it is counted in.
    pub unit: Unit,
    /// Whether more of it is better.
    pub better: Better,
    /// The least and the greatest value it can have.
    pub range: (f64, f64),
    /// Whether the rule's ranking uses it.
    pub ranked: bool,
    /// Whether a table for people shows it.
    pub shown: bool,
}

impl Metric {
    /// A share from 0 to 1, of which more is better.
    pub(crate) const fn share(key: &'static str, label: &'static str) -> Self {
        let (unit, better, range) = (Unit::One, Better::More, (0.0, 1.0));
        Self { key, label, unit, better, range, ranked: false, shown: false }
    }

    /// A distance, of which less is better.
    pub(crate) const fn distance(key: &'static str, label: &'static str) -> Self {
        let (unit, better, range) = (Unit::Mm, Better::Less, (0.0, f64::INFINITY));
        Self { key, label, unit, better, range, ranked: false, shown: false }
    }

    /// Something that is counted or measured and is neither good nor bad.
    pub(crate) const fn amount(key: &'static str, label: &'static str, unit: Unit) -> Self {
        let (better, range) = (Better::Neither, (0.0, f64::INFINITY));
        Self { key, label, unit, better, range, ranked: false, shown: false }
    }

    /// The same in another unit.
    pub(crate) const fn in_unit(self, unit: Unit) -> Self {
        Self { unit, ..self }
    }

    /// The same with another range.
    pub(crate) const fn within(self, least: f64, greatest: f64) -> Self {
        Self { range: (least, greatest), ..self }
    }

    /// Shown in tables for people.
    pub(crate) const fn shown(self) -> Self {
        Self { shown: true, ..self }
    }

    /// Used by the rule's ranking, and shown.
    pub(crate) const fn ranked(self) -> Self {
        Self { ranked: true, shown: true, ..self }
    }

    /// Whether values can be ordered from worse to better.
    pub const fn has_direction(&self) -> bool {
        !matches!(self.better, Better::Neither)
    }

    /// Whether it is a share, from 0 to 1.
    pub const fn is_share(&self) -> bool {
        matches!(self.unit, Unit::One) && self.has_direction()
    }

    /// How much better `to` is than `from`: positive where it is; for a metric without direction the fall.
    pub fn gain(&self, from: f64, to: f64) -> f64 {
        if self.better == Better::More { to - from } else { from - to }
    }

    /// What a value counts as in a ranking. NaN is what the rules of nnU-Net and BraTS 2026 (and surfaces) answer for a
    /// region that is empty in both, so it is perfect.
    pub fn ranking_value(&self, value: f64) -> f64 {
        match (value.is_nan(), self.better) {
            (true, Better::More) => self.range.1,
            (true, Better::Less) => self.range.0,
            _ => value,
        }
    }
}
