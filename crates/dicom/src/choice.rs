//! Which series of a study become the channels of a case, by their headers or by name.

use std::fmt;
use std::str::FromStr;

use glioseg_diagnose::{Diagnose, first_few};
use thiserror::Error;

use crate::role::{Candidate, Role, Verdict, roles};
use crate::study::{LeftOut, Series, Study};
use crate::{DicomError, Stack};

/// A series, or one of its volumes, with what became of it.
#[derive(Debug)]
pub struct Listed<'a> {
    /// The series.
    pub series: &'a Series,
    /// The volume; `None` where the series has none.
    pub stack: Option<&'a Stack>,
    /// Which contrast it is; a series without a volume is out.
    pub verdict: Verdict,
}

/// A contrast that a user names a series for: `t1c=8`, `t2f=4.1` or `t2w=1.2.826.…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSeries {
    /// The contrast.
    pub role: Role,
    /// Number of the series, name of the volume, or UID of the series.
    pub series: String,
}

/// A text that names no contrast and series.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` does not name a series for a contrast")]
pub struct NamedSeriesError {
    /// The text.
    pub text: String,
}

impl Diagnose for NamedSeriesError {
    fn hint(&self) -> Option<String> {
        Some("write CONTRAST=SERIES, such as t1c=8: t1n, t1c, t2w or t2f, and a number or UID that `glioseg dicom list` shows".into())
    }
}

impl FromStr for NamedSeries {
    type Err = NamedSeriesError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = text.split_once('=').and_then(|(role, series)| {
            let role = Role::ALL.into_iter().find(|r| r.name().eq_ignore_ascii_case(role.trim()))?;
            let series = series.trim();
            (!series.is_empty()).then(|| Self { role, series: series.to_owned() })
        });
        found.ok_or_else(|| NamedSeriesError { text: text.to_owned() })
    }
}

impl fmt::Display for NamedSeries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.role, self.series)
    }
}

impl Study {
    /// Every volume, and every series without one, with what it is.
    pub fn list(&self, named: &[NamedSeries]) -> Vec<Listed<'_>> {
        let usable: Vec<(&Series, &Stack)> = self
            .series
            .iter()
            .filter(|series| series.left_out.is_none())
            .flat_map(|series| series.stacks.iter().map(move |stack| (series, stack)))
            .collect();
        let candidates: Vec<Candidate<'_>> = usable
            .iter()
            .map(|(_, stack)| Candidate { name: &stack.name, facts: &stack.facts, geometry: &stack.geometry })
            .collect();
        let mut verdicts = roles(&candidates).into_iter();
        let mut listed = Vec::new();
        for series in &self.series {
            if let Some(left_out) = &series.left_out {
                let reason = match left_out {
                    LeftOut::Fault(error) => error.to_string(),
                    LeftOut::NotAVolume(reason) => reason.clone(),
                };
                // A volume of a series that cannot be used as it is can still be named.
                listed.push(Listed { series, stack: None, verdict: Verdict::Out(reason) });
                continue;
            }
            for stack in &series.stacks {
                let none = Verdict::Out(String::new());
                listed.push(Listed { series, stack: Some(stack), verdict: verdicts.next().unwrap_or(none) });
            }
        }
        for wanted in named {
            self.take_named(wanted, &mut listed);
        }
        listed
    }

    /// Gives a contrast to the series that a user names for it.
    fn take_named<'a>(&'a self, wanted: &NamedSeries, listed: &mut Vec<Listed<'a>>) {
        let Some((series, stack)) = self.named(&wanted.series) else { return };
        for other in listed.iter_mut() {
            if matches!(&other.verdict, Verdict::Chosen(role, _) if *role == wanted.role) {
                other.verdict =
                    Verdict::AlsoPossible(wanted.role, format!("series {} is asked for", wanted.series));
            }
        }
        let verdict = Verdict::Chosen(wanted.role, "asked for".into());
        let same =
            |l: &&mut Listed<'_>| l.series.uid == series.uid && l.stack.is_none_or(|s| s.name == stack.name);
        match listed.iter_mut().find(same) {
            Some(found) => (found.stack, found.verdict) = (Some(stack), verdict),
            None => listed.push(Listed { series, stack: Some(stack), verdict }),
        }
    }

    fn named(&self, name: &str) -> Option<(&Series, &Stack)> {
        let all =
            || self.series.iter().flat_map(|series| series.stacks.iter().map(move |stack| (series, stack)));
        let by_name = all().find(|(_, stack)| stack.name == name);
        by_name.or_else(|| all().find(|(series, _)| series.uid == name))
    }

    /// The volumes of the contrasts asked for, in their order.
    ///
    /// # Errors
    /// [`DicomError::UnknownSeries`] for a name that the study does not have, [`DicomError::Undecided`] where a T1 may be without or
    /// with agent, [`DicomError::NoSeries`] where a contrast is missing.
    pub fn choose(&self, wanted: &[Role], named: &[NamedSeries]) -> Result<Vec<(Role, &Stack)>, DicomError> {
        for name in named {
            if self.named(&name.series).is_none() {
                let known: Vec<&str> =
                    self.series.iter().flat_map(|s| &s.stacks).map(|s| s.name.as_str()).collect();
                return Err(DicomError::UnknownSeries {
                    series: name.series.clone(),
                    known: first_few(&known, 20),
                });
            }
        }
        let listed = self.list(named);
        wanted
            .iter()
            .map(|&role| {
                let chosen =
                    listed.iter().find(|l| matches!(&l.verdict, Verdict::Chosen(r, _) if *r == role));
                match chosen.and_then(|l| l.stack) {
                    Some(stack) => Ok((role, stack)),
                    None => Err(self.without(role, &listed)),
                }
            })
            .collect()
    }

    fn without(&self, role: Role, listed: &[Listed<'_>]) -> DicomError {
        let undecided: Vec<String> = listed
            .iter()
            .filter(|l| matches!(l.verdict, Verdict::Undecided(_)))
            .map(|l| l.series.title())
            .collect();
        if matches!(role, Role::T1n | Role::T1c) && !undecided.is_empty() {
            return DicomError::Undecided { series: first_few(&undecided, 6) };
        }
        let reasons: Vec<String> = listed
            .iter()
            .map(|l| {
                let what = match &l.verdict {
                    Verdict::Chosen(role, _) => role.to_string(),
                    Verdict::AlsoPossible(role, reason) => format!("{role} ({reason})"),
                    Verdict::Out(reason) | Verdict::Undecided(reason) => reason.clone(),
                };
                format!("{}: {what}", l.series.title())
            })
            .collect();
        DicomError::NoSeries {
            study: self.title(),
            contrast: role.to_string(),
            looked: first_few(&reasons, 20).replace(", series", "; series"),
        }
    }

    /// `the study of 2026-01-02`.
    pub fn title(&self) -> String {
        match (self.date.get(..4), self.date.get(4..6), self.date.get(6..8)) {
            (Some(year), Some(month), Some(day)) => format!("the study of {year}-{month}-{day}"),
            _ => format!("the study {}", self.uid),
        }
    }
}
