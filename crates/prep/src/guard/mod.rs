//! Are the channels of a case what their names say?
//!
//! A T2 image under the name of FLAIR, or one image given twice, makes a network answer nonsense without an error. The check compares
//! contrasts that physics fixes, on a sample of the brain's voxels:
//!
//! | test | what is compared | a channel by its right name |
//! | --- | --- | --- |
//! | `csf` | mean rank in T2 less that in FLAIR of the darkest 5 % of T1: CSF is dark on T1, bright on T2, suppressed on FLAIR | about 0.5 to 0.9 |
//! | `suppression` | rank in T2 of what is brightest on FLAIR (lesions) less the rank in FLAIR of what is brightest on T2 (CSF) | 0.4 to 0.7 |
//! | `tail` | skewness of T2's histogram less T1's: CSF is the bright tail of T2 and the dark tail of T1 | 0.2 to 0.9 |
//! | `contrast` | rank correlation of T2 with FLAIR less that of T2 with T1: T1 is T2's opposite, FLAIR is not | 0.3 to 0.8 |
//! | `enhancement` | asymmetry of the difference contrast-enhanced T1 less T1: vessels and tumour enhance, nothing fades | 0.2 to 0.7, 0 without enhancement |
//!
//! Every test is a difference of two channels' scores, and changes its sign where the two are exchanged. It counts from −1 to 1, and the
//! sum over all tests is compared between the names as given and every other assignment of the names. Another assignment is
//! believed if its sum is larger by [`MARGIN`] than that of any with fewer moved channels. Channels that are the same up to
//! brightness and contrast are duplicates.
//!
//! Calibrated on two real cases and on phantoms of all kinds: with right names no other assignment gains more than 0.6, with two names
//! exchanged the right one gains at least 2.0 (T1 and enhanced T1; the others 2.6 and more). T1 and enhanced T1 of a tumour that does not enhance cannot be
//! told apart, and are not. All numbers are ranks or ratios of quantiles, so that brightness, contrast and normalisation
//! do not matter. A region of interest without brain, or fewer than [`MIN_VOXELS`] voxels, is not judged.

mod measures;
pub mod space;
#[cfg(test)]
mod tests;

use std::path::Path;

use glioseg_plan::canonical_channel;
use glioseg_plan::record::{ChannelCheck, ChannelTest, Doubt, TestKind};
use glioseg_volume::Volume;
use rayon::prelude::*;

use crate::store::{PatchBox, StoreError, StoredCase};
use measures::Measures;

/// What another assignment of the names must gain to be believed.
pub const MARGIN: f64 = 1.2;
/// Fewer voxels than this are not judged.
pub const MIN_VOXELS: usize = 2000;
/// Correlation from which on two channels are the same image.
pub const DUPLICATE: f64 = 0.999;
/// About as many voxels are looked at.
const SAMPLE: usize = 50_000;
/// Slices that are read of a prepared case.
const SLICES: usize = 24;

/// A contrast that the check knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contrast {
    T1,
    T1Enhanced,
    T2,
    Flair,
}

impl Contrast {
    const ALL: [Self; 4] = [Self::T1, Self::T1Enhanced, Self::T2, Self::Flair];

    fn of(name: &str) -> Option<Self> {
        match canonical_channel(name).as_str() {
            "t1n" => Some(Self::T1),
            "t1c" => Some(Self::T1Enhanced),
            "t2w" => Some(Self::T2),
            "t2f" => Some(Self::Flair),
            _ => None,
        }
    }
}

/// The value of a test that counts as 1.
const fn scale(test: TestKind) -> f64 {
    match test {
        TestKind::Csf | TestKind::Suppression => 0.5,
        TestKind::Tail | TestKind::Contrast | TestKind::Enhancement => 0.4,
    }
}

/// Compares the channels of an image with their names.
pub fn check_volume(volume: &Volume, names: &[String]) -> ChannelCheck {
    let channels: Vec<&[f32]> = (0..volume.channels).map(|c| volume.channel(c)).collect();
    let chosen = sample_of(&channels, volume.geometry.voxels());
    let samples: Vec<Vec<f32>> =
        channels.par_iter().map(|c| chosen.iter().map(|&i| c[i]).collect()).collect();
    check_samples(&samples, names)
}

/// Compares the channels of a prepared case with their names, from some of its slices.
///
/// # Errors
/// [`StoreError`] if the file cannot be read.
fn check_case(case: &StoredCase, names: &[String]) -> Result<ChannelCheck, StoreError> {
    let [depth, height, width] = case.shape();
    let slice = height * width;
    let (mut data, mut seg) = (vec![0.0; case.channels() * slice], vec![0i16; slice]);
    let mut samples = vec![Vec::new(); case.channels()];
    let slices = depth.min(SLICES);
    for i in 0..slices {
        let z = (2 * i + 1) * depth / (2 * slices);
        let patch = PatchBox { start: [z as isize, 0, 0], size: [1, height, width] };
        case.read_box(patch, &mut data, &mut seg)?;
        let every = (slice * slices).div_ceil(2 * SAMPLE).max(1);
        // The first voxel moves with the slice, so that no lattice of rows is preferred.
        let chosen: Vec<usize> = (i % every..slice).step_by(every).filter(|&v| seg[v] >= 0).collect();
        for (sample, channel) in samples.iter_mut().zip(data.chunks_exact(slice)) {
            sample.extend(chosen.iter().map(|&v| channel[v]));
        }
    }
    Ok(check_samples(&samples, names))
}

/// Compares channels with their names: the same voxels of every channel.
///
/// # Panics
/// If there are more or fewer samples than names, or they differ in length.
fn check_samples(samples: &[Vec<f32>], names: &[String]) -> ChannelCheck {
    assert_eq!(samples.len(), names.len(), "a sample for every channel");
    let voxels = samples.first().map_or(0, Vec::len);
    assert!(samples.iter().all(|s| s.len() == voxels), "samples of the same voxels");
    if voxels < MIN_VOXELS {
        return ChannelCheck::default();
    }
    let measures = Measures::new(samples);
    let mut doubts = Vec::new();
    for first in 0..names.len() {
        for second in first + 1..names.len() {
            let correlation = measures.correlation[first][second];
            if correlation >= DUPLICATE {
                doubts.push(Doubt::Duplicate { first, second, correlation: round(correlation) });
            }
        }
    }
    // The first channel of every contrast.
    let places = Contrast::ALL.map(|contrast| names.iter().position(|n| Contrast::of(n) == Some(contrast)));
    let given = Assignment(places);
    let tests = given.tests(&measures);
    if doubts.is_empty() {
        doubts.extend(given.better(&measures, names));
    }
    let tests = tests
        .into_iter()
        .map(|(test, channels, value)| ChannelTest {
            test,
            channels: channels.iter().map(|&c| names[c].clone()).collect(),
            value: round(value),
            agreement: round(agreement(test, value)),
        })
        .collect();
    ChannelCheck { voxels, tests, doubts }
}

/// Every n-th of the voxels that are not zero in any channel, about [`SAMPLE`] of them.
fn sample_of(channels: &[&[f32]], voxels: usize) -> Vec<usize> {
    const CHUNK: usize = 1 << 16;
    let inside = |i: usize| channels.iter().all(|c| c[i] != 0.0);
    let chunks: Vec<std::ops::Range<usize>> =
        (0..voxels).step_by(CHUNK).map(|start| start..(start + CHUNK).min(voxels)).collect();
    let counts: Vec<usize> =
        chunks.par_iter().map(|chunk| chunk.clone().filter(|&i| inside(i)).count()).collect();
    let every = counts.iter().sum::<usize>().div_ceil(SAMPLE).max(1);
    let mut before = 0;
    let first: Vec<usize> = counts
        .iter()
        .map(|count| {
            let skip = (every - before % every) % every;
            before += count;
            skip
        })
        .collect();
    let picked = chunks
        .into_par_iter()
        .zip(first)
        .map(|(chunk, skip)| chunk.filter(|&i| inside(i)).skip(skip).step_by(every).collect::<Vec<_>>());
    picked.collect::<Vec<_>>().concat()
}

/// Doubts about the channels of prepared cases: for every case that raises some, its name and a sentence for each, which names the files.
///
/// A case that cannot be read is left out: training says so itself.
pub fn check_stored(cases: &[StoredCase], names: &[String]) -> Vec<(String, Vec<String>)> {
    let check = |case: &StoredCase| {
        if case.channels() != names.len() {
            return None;
        }
        let check = check_case(case, names).ok()?;
        let files: Vec<&Path> = case.image_names().into_iter().map(Path::new).collect();
        // One file may hold all channels.
        let files = if files.len() == 1 { vec![files[0]; names.len()] } else { files };
        let messages = check.messages(names, &files);
        (!messages.is_empty()).then(|| (case.name().to_owned(), messages))
    };
    cases.par_iter().filter_map(check).collect()
}

fn round(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn agreement(test: TestKind, value: f64) -> f64 {
    (value / scale(test)).clamp(-1.0, 1.0)
}

/// Which channel is which contrast, in the order of [`Contrast::ALL`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Assignment([Option<usize>; 4]);

type Tested = (TestKind, Vec<usize>, f64);

impl Assignment {
    /// All tests that the channels allow.
    fn tests(&self, m: &Measures) -> Vec<Tested> {
        let [t1, enhanced, t2, flair] = self.0;
        let t1_like: Vec<usize> = [t1, enhanced].into_iter().flatten().collect();
        let mut tests = Vec::new();
        if let (Some(t2), Some(flair)) = (t2, flair) {
            for &k in &t1_like {
                tests.push((TestKind::Csf, vec![k, t2, flair], m.dark[k][t2] - m.dark[k][flair]));
                let contrast = m.rank_correlation[t2][flair] - m.rank_correlation[t2][k];
                tests.push((TestKind::Contrast, vec![k, t2, flair], contrast));
            }
            let value = m.bright[flair][t2] - m.bright[t2][flair];
            tests.push((TestKind::Suppression, vec![t2, flair], value));
        }
        if let Some(t2) = t2 {
            for &k in &t1_like {
                tests.push((TestKind::Tail, vec![k, t2], m.skewness[t2] - m.skewness[k]));
            }
        }
        if let (Some(t1), Some(enhanced)) = (t1, enhanced) {
            tests.push((TestKind::Enhancement, vec![t1, enhanced], m.asymmetry[t1][enhanced]));
        }
        tests
    }

    fn score(&self, m: &Measures) -> f64 {
        self.tests(m).iter().map(|(test, _, value)| agreement(*test, *value)).sum()
    }

    /// Channels that have another contrast here than in `other`.
    fn moved(&self, other: &Self) -> usize {
        self.0.iter().zip(&other.0).filter(|(a, b)| a != b).count()
    }

    /// Every assignment of the same channels to the same contrasts.
    fn all(&self) -> Vec<Self> {
        let mut all = vec![Self([None; 4])];
        for at in (0..4).filter(|&at| self.0[at].is_some()) {
            let free = |a: &Self| -> Vec<usize> {
                self.0.iter().flatten().copied().filter(|c| !a.0.contains(&Some(*c))).collect()
            };
            all = all
                .into_iter()
                .flat_map(|a| {
                    free(&a).into_iter().map(move |channel| {
                        let mut next = a;
                        next.0[at] = Some(channel);
                        next
                    })
                })
                .collect();
        }
        all
    }

    /// The doubt about this assignment, if another one is to be believed.
    fn better(&self, m: &Measures, names: &[String]) -> Option<Doubt> {
        let scored: Vec<(usize, f64, Self)> =
            self.all().into_iter().map(|a| (a.moved(self), a.score(m), a)).collect();
        let best = scored.iter().map(|s| s.1).fold(f64::NEG_INFINITY, f64::max);
        // The fewest moved channels that explain what is seen; the best of these.
        let (moved, score, chosen) = scored
            .into_iter()
            .filter(|s| s.1 >= best - MARGIN)
            .min_by(|a, b| a.0.cmp(&b.0).then(b.1.total_cmp(&a.1)))?;
        if moved == 0 {
            return None;
        }
        let moved = (0..4).filter(|&i| chosen.0[i] != self.0[i]);
        // `chosen` calls channel chosen[i] what this assignment calls self[i].
        let mut moved: Vec<(usize, usize)> = moved.filter_map(|i| Some((chosen.0[i]?, self.0[i]?))).collect();
        moved.sort_unstable();
        Some(Doubt::Exchanged {
            moved,
            gain: round(score - self.score(m)),
            evidence: self.evidence(&chosen, m, names),
        })
    }

    /// The test that speaks most for `chosen`, in words.
    fn evidence(&self, chosen: &Self, m: &Measures, names: &[String]) -> String {
        let (mine, theirs) = (self.tests(m), chosen.tests(m));
        let gain = |i: &usize| agreement(theirs[*i].0, theirs[*i].2) - agreement(mine[*i].0, mine[*i].2);
        let Some(at) = (0..mine.len()).max_by(|a, b| gain(a).total_cmp(&gain(b))) else {
            return String::new();
        };
        let (test, channels, value) = &mine[at];
        let name = |i: usize| format!("`{}`", names[channels[i]]);
        match test {
            TestKind::Csf => format!(
                "CSF, the darkest of {}, has mean rank {:.2} in {} and {:.2} in {}, but CSF is bright on T2 and dark on FLAIR",
                name(0),
                m.dark[channels[0]][channels[1]],
                name(1),
                m.dark[channels[0]][channels[2]],
                name(2)
            ),
            TestKind::Suppression => format!(
                "the brightest of {} has mean rank {:.2} in {}, and the brightest of {} rank {:.2} in {}, but FLAIR suppresses CSF, \
                 the brightest of T2",
                name(0),
                m.bright[channels[0]][channels[1]],
                name(1),
                name(1),
                m.bright[channels[1]][channels[0]],
                name(0)
            ),
            TestKind::Tail => format!(
                "the histogram of {} has skewness {:.2} and that of {} {:.2}, but CSF makes T2's tail bright and T1's dark",
                name(0),
                m.skewness[channels[0]],
                name(1),
                m.skewness[channels[1]]
            ),
            TestKind::Contrast => format!(
                "{} goes with {} (rank correlation {:.2}) rather than with {} ({:.2}), but T2 is the opposite of T1",
                name(1),
                name(0),
                m.rank_correlation[channels[1]][channels[0]],
                name(2),
                m.rank_correlation[channels[1]][channels[2]]
            ),
            TestKind::Enhancement => format!(
                "the bright spots are on {} and not on {} (asymmetry {value:.2}), but vessels and tumour are brighter with contrast agent",
                name(0),
                name(1)
            ),
        }
    }
}
