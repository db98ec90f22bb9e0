//! Mean and deviation of all samples, exactly as numpy computes them.
//!
//! numpy adds f32 values up in f32, pairwise within pieces of its buffer size and piece after piece beyond. With 10⁸
//! samples that differs from the true mean in the sixth digit, so the same sums are formed here: over the samples in
//! their order, once while a case is read and once more when the mean is known. The samples themselves are not held. A case keeps the values that were drawn from, or the
//! samples where they are fewer; together at most 400 MB per channel, on disk beyond a part of that.

use crate::PlanError;
use glioseg_formats::FormatError;
use glioseg_interop::RandomState;
use rayon::prelude::*;
use std::io::{Read as _, Seek as _, Write as _};
use tempfile::SpooledTempFile;

/// Bytes of samples that are held in memory.
const IN_MEMORY: usize = 256 << 20;

/// Elements of numpy's buffer: beyond it, sums are added one after the other.
const BUFFER: usize = 8192;

/// numpy's `add.reduce` of f32 values that come in runs.
#[derive(Debug, Clone, Default)]
struct Sum {
    buffer: Vec<f32>,
    total: f32,
}

impl Sum {
    fn add(&mut self, run: &Run) {
        debug_assert_eq!(self.buffer.len(), run.phase, "the run begins where the last one ended");
        self.buffer.extend(&run.head);
        if self.buffer.len() == BUFFER {
            self.total += pairwise(&self.buffer);
            self.buffer.clear();
        }
        self.total = run.totals.iter().fold(self.total, |sum, piece| sum + piece);
        self.buffer.extend(&run.tail);
    }

    fn finish(&self) -> f32 {
        if self.buffer.is_empty() { self.total } else { self.total + pairwise(&self.buffer) }
    }
}

/// The sums of a run of values in numpy's pieces, for a place among all values that is known before.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Values in the piece in which the run begins that come before it.
    phase: usize,
    /// What completes that piece; all values if they do not.
    head: Vec<f32>,
    /// Sums of the whole pieces that follow.
    totals: Vec<f32>,
    /// Values of the last piece, which is not complete.
    tail: Vec<f32>,
}

impl Run {
    /// A run that begins after `before` values.
    pub(super) fn new(before: usize) -> Self {
        Self { phase: before % BUFFER, ..Self::default() }
    }

    /// Adds the next values, one for each of `of`.
    pub(super) fn extend<T: Copy>(&mut self, of: &[T], value: impl Fn(T) -> f32) {
        let missing = (BUFFER - self.phase) % BUFFER - self.head.len();
        let (head, mut of) = of.split_at(of.len().min(missing));
        self.head.extend(head.iter().map(|&v| value(v)));
        while !of.is_empty() {
            let (now, later) = of.split_at(of.len().min(BUFFER - self.tail.len()));
            self.tail.extend(now.iter().map(|&v| value(v)));
            if self.tail.len() == BUFFER {
                self.totals.push(pairwise(&self.tail));
                self.tail.clear();
            }
            of = later;
        }
    }
}

/// numpy's `FLOAT_pairwise_sum`: the order of the additions decides the last digits.
fn pairwise(values: &[f32]) -> f32 {
    let n = values.len();
    if n < 8 {
        return values.iter().fold(-0.0, |sum, v| sum + v);
    }
    if n <= 128 {
        let mut lanes: [f32; 8] = std::array::from_fn(|i| values[i]);
        let (blocks, rest) = values[8..].as_chunks::<8>();
        for block in blocks {
            lanes.iter_mut().zip(block).for_each(|(lane, v)| *lane += v);
        }
        let [a, b, c, d, e, f, g, h] = lanes;
        return rest.iter().fold(((a + b) + (c + d)) + ((e + f) + (g + h)), |sum, v| sum + v);
    }
    let half = n / 2 - n / 2 % 8;
    pairwise(&values[..half]) + pairwise(&values[half..])
}

/// What samples of a case are made from, one entry per channel.
#[derive(Debug, Default)]
pub(super) struct CaseSamples {
    /// Samples, or values that they are drawn from; as many for every channel.
    pub values: Vec<Vec<f32>>,
    /// The generator before the draws of each channel; empty where `values` are the samples.
    pub draws: Vec<RandomState>,
    /// The samples' sums, for the place that they have if all cases before this one have samples.
    pub runs: Vec<Run>,
}

/// Samples of all cases.
#[derive(Debug)]
pub(super) struct Samples {
    file: SpooledTempFile,
    cases: Vec<(usize, Vec<RandomState>)>,
    sums: Vec<Sum>,
    per_case: usize,
}

impl Samples {
    /// `per_case` samples are drawn from every channel of every case that has foreground.
    pub(super) fn new(channels: usize, per_case: usize) -> Self {
        let sums = vec![Sum::default(); channels];
        Self { file: SpooledTempFile::new(IN_MEMORY), cases: Vec::new(), sums, per_case }
    }

    /// Adds a case; one without values adds nothing.
    pub(super) fn add(&mut self, case: CaseSamples) -> Result<(), PlanError> {
        let count = case.values.first().map_or(0, Vec::len);
        if count == 0 {
            return Ok(());
        }
        let before = self.cases.len() * self.per_case;
        for (channel, (values, sum)) in case.values.iter().zip(&mut self.sums).enumerate() {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
            self.file.write_all(&bytes).map_err(|e| failed("write", e))?;
            match case.runs.get(channel) {
                Some(run) if run.phase == before % BUFFER => sum.add(run),
                // A case before this one has no foreground.
                _ => sum.add(&run(values, case.draws.get(channel), (before, self.per_case), |v| v)),
            }
        }
        self.cases.push((count, case.draws));
        Ok(())
    }

    /// Mean and population standard deviation of every channel.
    ///
    /// # Source
    /// numpy, `_mean` and `_var` of `numpy/_core/_methods.py` for f32.
    pub(super) fn mean_and_std(&mut self) -> Result<Vec<(f32, f32)>, PlanError> {
        let n = (self.cases.len() * self.per_case) as f64;
        let divide = |sum: &Sum| (f64::from(sum.finish()) / n) as f32;
        let means: Vec<f32> = self.sums.iter().map(divide).collect();
        let squares = self.squares(&means)?;
        Ok(means.into_iter().zip(squares.iter().map(|sum| divide(sum).sqrt())).collect())
    }

    /// Sums of the squared distances from the means, over the samples of every channel in their order.
    fn squares(&mut self, means: &[f32]) -> Result<Vec<Sum>, PlanError> {
        let mut sums = vec![Sum::default(); means.len()];
        self.file.rewind().map_err(|e| failed("read", e))?;
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for (number, (count, draws)) in self.cases.iter().enumerate() {
            bytes.resize(means.len() * count * 4, 0);
            self.file.read_exact(&mut bytes).map_err(|e| failed("read", e))?;
            values.clear();
            values.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_ne_bytes(b)));
            let place = (number * self.per_case, self.per_case);
            sums.par_iter_mut().zip(values.par_chunks_exact(*count)).enumerate().for_each(
                |(channel, (sum, values))| {
                    sum.add(&run(values, draws.get(channel), place, |v| {
                        let difference = v - means[channel];
                        difference * difference
                    }));
                },
            );
        }
        Ok(sums)
    }
}

/// Sums of `term` over samples, or over `count` draws from values, that come after `before` others.
fn run(
    values: &[f32],
    draws: Option<&RandomState>,
    (before, count): (usize, usize),
    term: impl Fn(f32) -> f32,
) -> Run {
    let mut run = Run::new(before);
    match (draws, values.len() - 1) {
        (None, _) => run.extend(values, term),
        (Some(random), last) => draw(&mut random.clone(), last as u32, count, |some| {
            run.extend(some, |i| term(values[i as usize]));
        }),
    }
    run
}

/// Draws `count` indices from 0 to `last`, in order, a run at a time.
pub(super) fn draw(random: &mut RandomState, last: u32, count: usize, mut some_of: impl FnMut(&[u32])) {
    let mut indices = [0; 1024];
    let mut left = count;
    while left > 0 {
        let some = &mut indices[..left.min(1024)];
        random.intervals(last, some);
        some_of(some);
        left -= some.len();
    }
}

fn failed(action: &'static str, source: std::io::Error) -> PlanError {
    PlanError::Volume(FormatError::Io { path: std::env::temp_dir(), action, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The same values as numpy's `(arange(n) % 997 * 0.37 + 0.1).astype(float32)`.
    fn ramp(n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i % 997) as f64 * 0.37 + 0.1) as f32).collect()
    }

    fn mean_and_std(cases: &[&[f32]]) -> (f32, f32) {
        let mut samples = Samples::new(1, cases[0].len());
        for &values in cases {
            samples
                .add(CaseSamples { values: vec![values.to_vec()], ..CaseSamples::default() })
                .expect("space");
        }
        samples.mean_and_std().expect("readable")[0]
    }

    #[test]
    fn sums_round_as_those_of_numpy() {
        for (n, mean, std) in NUMPY {
            let values = ramp(n);
            assert_eq!(mean_and_std(&[&values]), (mean, std), "{n} values");
            if n % 2 == 0 {
                assert_eq!(
                    mean_and_std(&[&values[..n / 2], &values[n / 2..]]),
                    (mean, std),
                    "{n} in two cases"
                );
            }
        }
    }

    #[expect(clippy::excessive_precision, reason = "as numpy prints them")]
    const NUMPY: [(usize, f32, f32); 10] = [
        (1, 0.100_000_001_490_116_12, 0.0),
        (7, 1.209_999_918_937_683, 0.740_000_009_536_743_2),
        (8, 1.395_000_100_135_803_2, 0.847_776_472_568_512),
        (100, 18.415_000_915_527_344, 10.680_446_624_755_86),
        (129, 23.780_000_686_645_508, 13.778_050_422_668_457),
        (1000, 183.808_334_350_585_94, 106.804_016_113_281_25),
        (8192, 180.550_338_745_117_2, 107.661_186_218_261_72),
        (8193, 180.538_070_678_710_94, 107.660_346_984_863_28),
        (100_000, 183.973_159_790_039_06, 106.577_522_277_832_03),
        (3_000_000, 184.358_444_213_867_2, 106.490_219_116_210_94),
    ];

    #[test]
    fn runs_have_the_sums_of_their_places() {
        let values = ramp(30_000);
        for lengths in
            [vec![30_000], vec![100, 29_900], vec![8192, 8192, 13_616], vec![1, 8191, 9000, 12_808]]
        {
            let (mut sum, mut before) = (Sum::default(), 0);
            for length in lengths {
                let mut run = Run::new(before);
                values[before..before + length].chunks(999).for_each(|some| run.extend(some, |v| v));
                sum.add(&run);
                before += length;
            }
            let pieces = values.chunks(BUFFER).map(pairwise).fold(0.0, |sum, piece| sum + piece);
            assert_eq!(sum.finish().to_bits(), pieces.to_bits());
        }
    }

    #[test]
    fn a_case_without_values_moves_those_after_it() {
        let values = ramp(9000);
        let case = |before: usize| {
            let mut run = Run::new(before);
            run.extend(&values, |v| v);
            CaseSamples { values: vec![values.clone()], draws: Vec::new(), runs: vec![run] }
        };
        let sums = |cases: [CaseSamples; 3]| {
            let mut samples = Samples::new(1, 9000);
            for case in cases {
                samples.add(case).expect("space");
            }
            samples.mean_and_std().expect("readable")[0]
        };
        let with_a_gap = sums([case(0), CaseSamples::default(), case(18_000)]);
        assert_eq!(with_a_gap, sums([case(0), case(9000), CaseSamples::default()]));
        assert_eq!(with_a_gap, mean_and_std(&[&values, &values]));
    }

    #[test]
    fn samples_drawn_again_are_the_same() {
        let values = ramp(50);
        let mut random = RandomState::new(1234);
        let before = random.clone();
        let drawn: Vec<f32> = (0..9000).map(|_| values[random.interval(49) as usize]).collect();
        let mut samples = Samples::new(1, 9000);
        samples
            .add(CaseSamples { values: vec![values], draws: vec![before], runs: Vec::new() })
            .expect("space");
        samples.add(CaseSamples::default()).expect("nothing to add");
        assert_eq!(samples.mean_and_std().expect("readable")[0], mean_and_std(&[&drawn]));
    }
}
