//! Which volume of a study is which contrast of a tumour study: T1 without and with contrast agent, T2, FLAIR.
//!
//! Physics decides before names: echo, repetition and inversion times tell the contrast, and a name alone decides where they are
//! missing. Every decision has its reason in words, and what cannot be decided is said instead of guessed.

use std::fmt;

use glioseg_diagnose::{count, first_few};
use glioseg_volume::Geometry;

use crate::file::Facts;

/// A contrast of a study of brain tumours, by its name in the BraTS challenges since 2023.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// T1 without contrast agent.
    T1n,
    /// T1 with contrast agent.
    T1c,
    /// T2.
    T2w,
    /// FLAIR.
    T2f,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::T1n, Self::T1c, Self::T2w, Self::T2f];

    /// `t1n`, `t1c`, `t2w`, `t2f`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::T1n => "t1n",
            Self::T1c => "t1c",
            Self::T2w => "t2w",
            Self::T2f => "t2f",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A volume as far as its role is concerned.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Name of the stack: `8`, `8.1`.
    pub name: &'a str,
    /// What its header says.
    pub facts: &'a Facts,
    /// Its grid.
    pub geometry: &'a Geometry,
}

/// What became of a candidate, with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is this contrast.
    Chosen(Role, String),
    /// It could be this contrast, but another one is better.
    AlsoPossible(Role, String),
    /// It is none of the four.
    Out(String),
    /// It is T1, and nothing tells whether an agent had been given.
    Undecided(String),
}

const DERIVED: [&str; 23] = [
    "ADC",
    "EADC",
    "FA",
    "TRACEW",
    "DIFFUSION",
    "PERFUSION",
    "CBF",
    "CBV",
    "MTT",
    "TTP",
    "PHASE",
    "P",
    "SUB",
    "SUBTRACTION",
    "PROJECTION IMAGE",
    "MIP",
    "MNIP",
    "MOSAIC",
    "SCREEN SAVE",
    "CSA REPORT",
    "LOCALIZER",
    "MPR_MIP",
    "CSA MIP",
];
const OTHER_SCANS: [&str; 26] = [
    "adc",
    "dwi",
    "dti",
    "trace",
    "swi",
    "swan",
    "tof",
    "mra",
    "mrv",
    "pwi",
    "dsc",
    "dce",
    "perf",
    "cbv",
    "asl",
    "bold",
    "spectro",
    "scout",
    "loc",
    "localizer",
    "survey",
    "calib",
    "b1map",
    "fieldmap",
    "field map",
    "stir",
];
const T1_WORDS: [&str; 11] =
    ["t1", "t1w", "mprage", "mp rage", "bravo", "spgr", "fspgr", "vibe", "tfe", "space t1", "ir fspgr"];
const T2_WORDS: [&str; 8] = ["t2", "t2w", "tse", "fse", "frfse", "space", "cube", "vista"];
const FLAIR_WORDS: [&str; 4] = ["flair", "dark fluid", "darkfluid", "tirm dark"];
const AGENT_WORDS: [&str; 9] = ["gd", "gad", "gado", "post", "ce", "km", "contrast", "enhanced", "postgad"];
const NO_AGENT_WORDS: [&str; 8] =
    ["pre", "without", "native", "nativ", "ohne", "no contrast", "w o", "non contrast"];
const NOT_AGENTS: [&str; 7] = ["NO", "NONE", "N", "0", "-", "WITHOUT", "NO CONTRAST"];
/// Volumes of fewer slices are none of the four.
pub(crate) const FEWEST: usize = 8;
/// A whole head is at least so long.
const WHOLE_HEAD_MM: f64 = 110.0;

/// Which candidates are which contrasts; one verdict for each candidate, in their order.
pub fn roles(candidates: &[Candidate<'_>]) -> Vec<Verdict> {
    let looked: Vec<Result<(Kind, String), String>> = candidates.iter().map(kind).collect();
    let t1: Vec<usize> = (0..candidates.len()).filter(|&i| matches!(looked[i], Ok((Kind::T1, _)))).collect();
    let facts: Vec<&Facts> = t1.iter().map(|&i| candidates[i].facts).collect();
    let agents = agents(&facts);
    let found: Vec<Result<(Role, String), Verdict>> = looked
        .into_iter()
        .enumerate()
        .map(|(i, looked)| match looked {
            Err(reason) => Err(Verdict::Out(reason)),
            Ok((Kind::T2, reason)) => Ok((Role::T2w, reason)),
            Ok((Kind::Flair, reason)) => Ok((Role::T2f, reason)),
            Ok((Kind::T1, reason)) => {
                let (agent, why) = &agents[t1.iter().position(|&t| t == i).unwrap_or(0)];
                match agent {
                    Some(true) => Ok((Role::T1c, format!("{reason}; {why}"))),
                    Some(false) => Ok((Role::T1n, format!("{reason}; {why}"))),
                    None => Err(Verdict::Undecided(format!("{reason}; {why}"))),
                }
            }
        })
        .collect();
    let mut verdicts: Vec<Verdict> = found
        .iter()
        .map(|f| match f {
            Ok((role, reason)) => Verdict::Chosen(*role, reason.clone()),
            Err(verdict) => verdict.clone(),
        })
        .collect();
    for role in Role::ALL {
        let mut same: Vec<usize> =
            (0..found.len()).filter(|&i| matches!(&found[i], Ok((r, _)) if *r == role)).collect();
        same.sort_by(|&a, &b| better(&candidates[a], &candidates[b]));
        let Some((&best, others)) = same.split_first() else { continue };
        for &other in others {
            let why = why_not(&candidates[best], &candidates[other]);
            let reformatted = is_derived(candidates[other].facts) && !is_derived(candidates[best].facts);
            verdicts[other] = if reformatted {
                Verdict::Out(format!(
                    "a derived image of the same contrast ({role}); series {} is original",
                    candidates[best].name
                ))
            } else {
                Verdict::AlsoPossible(role, why)
            };
        }
    }
    verdicts
}

enum Kind {
    T1,
    T2,
    Flair,
}

/// The contrast with the reason; or why it is none of the four.
fn kind(candidate: &Candidate<'_>) -> Result<(Kind, String), String> {
    let facts = candidate.facts;
    let slices = candidate.geometry.shape[0];
    if slices < FEWEST {
        return Err(format!("it has {} only", count(slices, "slice")));
    }
    if let Some(word) = facts.image_type.iter().find(|word| DERIVED.contains(&word.as_str())) {
        return Err(format!("its image type says {word}"));
    }
    if facts.scanning_sequence.iter().any(|s| s == "EP") {
        return Err("echo-planar".into());
    }
    if let Some(b) = facts.b_value.filter(|&b| b > 0.0) {
        return Err(format!("diffusion weighted (b {b})"));
    }
    if facts.angiography {
        return Err("a picture of vessels".into());
    }
    let names = normal(&facts.names.join(" "));
    if let Some(word) = OTHER_SCANS.iter().find(|word| has(&names, word)) {
        return Err(format!("its name says `{word}`"));
    }
    let (echo, repetition, inversion) =
        (facts.echo_time, facts.repetition_time, facts.inversion_time.filter(|&t| t > 0.0));
    let gradient = facts.scanning_sequence.iter().any(|s| s == "GR");
    let times = in_words(facts);
    match facts.contrast.as_deref() {
        Some("T1") => return Ok((Kind::T1, times)),
        Some("T2") => return Ok((Kind::T2, times)),
        Some("FLUID_ATTENUATED") => return Ok((Kind::Flair, times)),
        Some(
            other @ ("DIFFUSION" | "PERFUSION" | "PROTON_DENSITY" | "T2_STAR" | "FLOW_ENCODED" | "STIR"
            | "TAGGING" | "TOF"),
        ) => {
            return Err(format!("its acquisition contrast is {other}"));
        }
        _ => {}
    }
    if let Some(te) = echo {
        if gradient && (15.0..=60.0).contains(&te) {
            return Err(format!("a gradient echo with a long echo time, T2* ({times})"));
        }
        if inversion.is_some_and(|ti| (100.0..=250.0).contains(&ti)) {
            return Err(format!("fat is suppressed by inversion, STIR ({times})"));
        }
        if te >= 60.0 && inversion.is_some_and(|ti| ti >= 1500.0) {
            return Ok((Kind::Flair, times));
        }
        let short = repetition.is_some_and(|tr| tr <= 1200.0) || gradient && te <= 12.0;
        if te <= 30.0 && (short || inversion.is_some_and(|ti| (400.0..=1400.0).contains(&ti))) {
            return Ok((Kind::T1, times));
        }
        if te <= 30.0 && repetition.is_some_and(|tr| tr > 1800.0) {
            return Err(format!("proton density ({times})"));
        }
        if te >= 60.0 && inversion.is_none() && repetition.is_some_and(|tr| tr >= 1500.0) {
            return Ok((Kind::T2, times));
        }
    }
    let by_name = |kind| Ok((kind, format!("by its name; {times}")));
    let any = |words: &[&str]| words.iter().any(|word| has(&names, word));
    if any(&T1_WORDS) {
        by_name(Kind::T1)
    } else if any(&FLAIR_WORDS) {
        by_name(Kind::Flair)
    } else if any(&T2_WORDS) {
        by_name(Kind::T2)
    } else {
        Err(format!("neither times nor name tell a contrast ({times})"))
    }
}

/// `TE 10, TR 600`.
fn in_words(facts: &Facts) -> String {
    let times = [("TE", facts.echo_time), ("TR", facts.repetition_time), ("TI", facts.inversion_time)];
    let mut parts: Vec<String> =
        times.into_iter().filter_map(|(name, time)| Some(format!("{name} {}", time?))).collect();
    parts.extend(facts.contrast.iter().map(|c| format!("acquisition contrast {c}")));
    if parts.is_empty() { "no times".into() } else { parts.join(", ") }
}

/// Lower case, and spaces around words for everything that is not a letter, digit or plus.
fn normal(text: &str) -> String {
    let plain = text
        .to_lowercase()
        .chars()
        .map(|c| if c.is_alphanumeric() || c == '+' { c } else { ' ' })
        .collect::<String>();
    format!(" {} ", plain.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn has(normal: &str, word: &str) -> bool {
    normal.contains(&format!(" {word} "))
}

/// Whether an agent had been given before each T1; `None` where nothing tells.
fn agents(all: &[&Facts]) -> Vec<(Option<bool>, String)> {
    let named = |facts: &Facts| {
        facts.agent_administered.unwrap_or_else(|| {
            facts.agent.as_deref().is_some_and(|agent| !NOT_AGENTS.contains(&agent.to_uppercase().as_str()))
        })
    };
    let words = |facts: &Facts| {
        let names = normal(&facts.names.join(" "));
        let no = NO_AGENT_WORDS.iter().find(|word| has(&names, word));
        let yes = AGENT_WORDS.iter().any(|word| has(&names, word))
            || names.contains("+c ")
            || names.contains(" c+");
        match (no, yes) {
            // `no contrast` and `pre contrast` hold the word for the agent too.
            (Some(_), _) => Some(false),
            (None, true) => Some(true),
            (None, false) => None,
        }
    };
    // A scanner may leave the tag on all that follows, or set it for a whole study.
    let all_named = all.len() > 1 && all.iter().all(|facts| named(facts));
    all.iter()
        .map(|facts| {
            let given = facts.agent.as_deref().unwrap_or("named by the header");
            if all_named {
                if let (Some(scan), Some(bolus)) =
                    (seconds(facts.acquired.as_ref()), seconds(facts.agent_time.as_ref()))
                {
                    let after = scan >= bolus;
                    return (
                        Some(after),
                        format!("{} the agent was given", if after { "after" } else { "before" }),
                    );
                }
                return match words(facts) {
                    Some(true) => (Some(true), "its name says that an agent was given".into()),
                    Some(false) => (Some(false), "its name says that no agent was given".into()),
                    None => (None, format!("every T1 of the study names the agent ({given})")),
                };
            }
            match (words(facts), named(facts)) {
                (Some(false), _) => (Some(false), "its name says that no agent was given".into()),
                (_, true) => (Some(true), format!("agent {given}")),
                (Some(true), false) => (Some(true), "its name says that an agent was given".into()),
                (None, false) => (Some(false), "no contrast agent".into()),
            }
        })
        .collect()
}

/// `hhmmss.ffffff` as seconds.
fn seconds(time: Option<&String>) -> Option<f64> {
    let time = time?;
    let part = |from: usize, to: usize| time.get(from..to)?.parse::<f64>().ok();
    let rest = time.get(4..).and_then(|rest| rest.split(['+', '-']).next()?.parse::<f64>().ok());
    Some(part(0, 2)? * 3600.0 + part(2, 4)? * 60.0 + rest.unwrap_or(0.0))
}

fn is_derived(facts: &Facts) -> bool {
    facts.image_type.iter().any(|word| word == "DERIVED" || word == "SECONDARY")
}

/// Voxel size: the largest edge, and the volume.
fn coarseness(geometry: &Geometry) -> (f64, f64) {
    let spacing = geometry.spacing;
    (spacing.iter().copied().fold(0.0, f64::max), spacing.iter().product())
}

fn is_whole(geometry: &Geometry) -> bool {
    geometry.shape[0] as f64 * geometry.spacing[0] >= WHOLE_HEAD_MM
}

/// The better candidate for a role comes first.
fn better(a: &Candidate<'_>, b: &Candidate<'_>) -> std::cmp::Ordering {
    // Voxels that are the same but for rounding are the same.
    let rounded = |g: &Geometry| {
        let (edge, volume) = coarseness(g);
        ((edge * 1e3).round() as i64, (volume * 1e3).round() as i64)
    };
    let key = |c: &Candidate<'_>| (is_derived(c.facts), !is_whole(c.geometry), rounded(c.geometry));
    let later = seconds(b.facts.acquired.as_ref()).partial_cmp(&seconds(a.facts.acquired.as_ref()));
    let number = |c: &Candidate<'_>| c.name.parse::<f64>().unwrap_or(f64::MAX);
    key(a).cmp(&key(b)).then(later.unwrap_or(std::cmp::Ordering::Equal)).then(number(a).total_cmp(&number(b)))
}

/// Why `other` is not the one, in words.
fn why_not(best: &Candidate<'_>, other: &Candidate<'_>) -> String {
    let (a, b) = (coarseness(best.geometry), coarseness(other.geometry));
    let reason = if is_whole(best.geometry) && !is_whole(other.geometry) {
        "shows a part of the head"
    } else if b.0 > a.0 * 1.001 {
        "thicker slices"
    } else if b.1 > a.1 * 1.001 {
        "larger voxels"
    } else if seconds(other.facts.acquired.as_ref()) < seconds(best.facts.acquired.as_ref()) {
        "acquired earlier"
    } else {
        "higher number"
    };
    reason.to_owned()
}

/// Names of the roles that no candidate fills; empty where all are filled.
pub fn missing(verdicts: &[Verdict]) -> String {
    let filled = |role: &Role| verdicts.iter().any(|v| matches!(v, Verdict::Chosen(r, _) if r == role));
    let names: Vec<&str> = Role::ALL.iter().filter(|r| !filled(r)).map(|r| r.name()).collect();
    first_few(&names, 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(names: &str, te: f64, tr: f64, ti: f64) -> Facts {
        let some = |v: f64| (v > 0.0).then_some(v);
        Facts {
            names: vec![names.into()],
            echo_time: some(te),
            repetition_time: some(tr),
            inversion_time: some(ti),
            image_type: vec!["ORIGINAL".into(), "PRIMARY".into()],
            ..Facts::default()
        }
    }

    fn grid(slice_mm: f64) -> Geometry {
        let affine = glioseg_volume::Affine::from_rows([
            [-1.0, 0.0, 0.0, 0.0],
            [0.0, -1.0, 0.0, 0.0],
            [0.0, 0.0, slice_mm, 0.0],
        ]);
        Geometry::from_affine([(140.0 / slice_mm) as usize, 200, 200], affine).expect("a grid")
    }

    /// Verdicts of named facts, in short.
    fn verdicts(all: &[(Facts, f64)]) -> Vec<String> {
        let grids: Vec<Geometry> = all.iter().map(|(_, mm)| grid(*mm)).collect();
        let names: Vec<String> = (1..=all.len()).map(|n| n.to_string()).collect();
        let candidates: Vec<Candidate<'_>> = all
            .iter()
            .enumerate()
            .map(|(i, (facts, _))| Candidate { name: &names[i], facts, geometry: &grids[i] })
            .collect();
        let short = |v: Verdict| match v {
            Verdict::Chosen(role, _) => role.to_string(),
            Verdict::AlsoPossible(role, why) => format!("also {role}, {why}"),
            Verdict::Out(reason) => format!("out: {reason}"),
            Verdict::Undecided(reason) => format!("undecided: {reason}"),
        };
        roles(&candidates).into_iter().map(short).collect()
    }

    #[test]
    fn times_tell_the_contrast_before_names() {
        let gradient = |f: Facts| Facts { scanning_sequence: vec!["GR".into()], ..f };
        let planar = |f: Facts| Facts { scanning_sequence: vec!["EP".into()], ..f };
        let table = [
            (facts("AX T1", 10.0, 600.0, 0.0), "t1n"),
            // A T1 FLAIR is a T1 whatever it is called, a T1 name with the times of a FLAIR is one.
            (facts("T1 FLAIR", 9.0, 2200.0, 860.0), "t1n"),
            (facts("T1 something", 120.0, 9000.0, 2500.0), "t2f"),
            (gradient(facts("MPRAGE", 3.0, 2300.0, 900.0)), "t1n"),
            (facts("AX", 101.0, 5200.0, 0.0), "t2w"),
            (facts("AX", 120.0, 9000.0, 2500.0), "t2f"),
            (facts("PD", 20.0, 3000.0, 0.0), "out: proton density (TE 20, TR 3000)"),
            (
                facts("fat", 60.0, 4000.0, 160.0),
                "out: fat is suppressed by inversion, STIR (TE 60, TR 4000, TI 160)",
            ),
            (
                gradient(facts("AX GRE", 20.0, 600.0, 0.0)),
                "out: a gradient echo with a long echo time, T2* (TE 20, TR 600)",
            ),
            (planar(facts("AX", 90.0, 6000.0, 0.0)), "out: echo-planar"),
            (facts("AX DWI b1000", 90.0, 6000.0, 0.0), "out: its name says `dwi`"),
            // Without times, names decide.
            (facts("t2_tirm_tra_dark-fluid", 0.0, 0.0, 0.0), "t2f"),
            (facts("AX T2 FLAIR", 0.0, 0.0, 0.0), "t2f"),
            (facts("t2_tse_tra", 0.0, 0.0, 0.0), "t2w"),
            (facts("Sag MP-RAGE", 0.0, 0.0, 0.0), "t1n"),
            (facts("whatever", 0.0, 0.0, 0.0), "out: neither times nor name tell a contrast (no times)"),
        ];
        for (facts, expected) in table {
            assert_eq!(verdicts(&[(facts.clone(), 2.0)]), [expected], "{facts:?}");
        }
        let enhanced =
            Facts { contrast: Some("FLUID_ATTENUATED".into()), ..facts("SPACE", 380.0, 5000.0, 1700.0) };
        assert_eq!(verdicts(&[(enhanced, 2.0)]), ["t2f"]);
        let map = Facts {
            image_type: vec!["DERIVED".into(), "PRIMARY".into(), "ADC".into()],
            ..facts("x", 90.0, 6000.0, 0.0)
        };
        assert_eq!(verdicts(&[(map, 2.0)]), ["out: its image type says ADC"]);
    }

    #[test]
    fn an_agent_is_told_by_tag_name_and_time() {
        let t1 = |names: &str, agent: &str| Facts {
            agent: (!agent.is_empty()).then(|| agent.to_owned()),
            ..facts(names, 10.0, 600.0, 0.0)
        };
        let two = |a: Facts, b: Facts| verdicts(&[(a, 2.0), (b, 2.0)]);
        assert_eq!(two(t1("AX T1", ""), t1("AX T1", "Gadovist")), ["t1n", "t1c"]);
        assert_eq!(two(t1("AX T1", "NONE"), t1("AX T1 +C", "")), ["t1n", "t1c"]);
        assert_eq!(two(t1("AX T1 pre", "Gadovist"), t1("AX T1 post", "Gadovist")), ["t1n", "t1c"]);
        assert_eq!(two(t1("T1 no contrast", ""), t1("T1 w contrast", "")), ["t1n", "t1c"]);
        assert_eq!(two(t1("T1 w/o", ""), t1("T1 C+", "")), ["t1n", "t1c"]);
        let at = |time: &str| Facts {
            acquired: Some(time.into()),
            agent_time: Some("101500".into()),
            ..t1("AX T1", "Gadovist")
        };
        assert_eq!(two(at("100000.5"), at("102000")), ["t1n", "t1c"]);
        let undecided = two(t1("AX T1", "Gadovist"), t1("COR T1", "Gadovist"));
        assert!(
            undecided.iter().all(|v| v.contains("every T1 of the study names the agent (Gadovist)")),
            "{undecided:?}"
        );
    }

    #[test]
    fn the_finest_whole_original_is_chosen_and_the_others_are_named() {
        let t2 = || facts("T2", 100.0, 5000.0, 0.0);
        let derived = Facts { image_type: vec!["DERIVED".into(), "SECONDARY".into(), "MPR".into()], ..t2() };
        let early = Facts { acquired: Some("100000".into()), ..t2() };
        let late = Facts { acquired: Some("110000".into()), ..t2() };
        assert_eq!(
            verdicts(&[(derived, 1.0), (t2(), 5.0), (early, 2.0), (late, 2.0)]),
            [
                "out: a derived image of the same contrast (t2w); series 4 is original",
                "also t2w, thicker slices",
                "also t2w, acquired earlier",
                "t2w"
            ]
        );
    }

    #[test]
    fn missing_roles_are_named() {
        assert_eq!(missing(&[Verdict::Chosen(Role::T1c, String::new())]), "t1n, t2w, t2f");
    }
}
