//! Mean and deviation of all samples, exactly as numpy computes them.
//!
//! numpy adds f32 values up in f32, pairwise within pieces of its buffer size and piece after piece beyond. With 10⁸
//! samples that differs from the true mean in the sixth digit, so the same sums are formed here: over the samples in
//! their order, twice. The samples themselves are not held. A case keeps the values that were drawn from, or the
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

/// numpy's `add.reduce` of f32 values that come one by one.
#[derive(Debug, Clone, Default)]
struct Sum {
    buffer: Vec<f32>,
    total: f32,
}

impl Sum {
    fn push(&mut self, value: f32) {
        self.buffer.push(value);
        if self.buffer.len() == BUFFER {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.total += pairwise(&self.buffer);
        self.buffer.clear();
    }

    fn finish(mut self) -> f32 {
        if !self.buffer.is_empty() {
            self.flush();
        }
        self.total
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
}

/// Samples of all cases.
#[derive(Debug)]
pub(super) struct Samples {
    file: SpooledTempFile,
    cases: Vec<(usize, Vec<RandomState>)>,
    channels: usize,
    per_case: usize,
}

impl Samples {
    /// `per_case` samples are drawn from every channel of every case that has foreground.
    pub(super) fn new(channels: usize, per_case: usize) -> Self {
        Self { file: SpooledTempFile::new(IN_MEMORY), cases: Vec::new(), channels, per_case }
    }

    /// Adds a case; one without values adds nothing.
    pub(super) fn add(&mut self, case: CaseSamples) -> Result<(), PlanError> {
        let count = case.values.first().map_or(0, Vec::len);
        if count == 0 {
            return Ok(());
        }
        for values in &case.values {
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_ne_bytes()).collect();
            self.file.write_all(&bytes).map_err(|e| failed("write", e))?;
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
        let divide = |sum: f32| (f64::from(sum) / n) as f32;
        let means: Vec<f32> = self.sums(|_, v| v)?.into_iter().map(divide).collect();
        let squares = self.sums(|channel, v| {
            let difference = v - means[channel];
            difference * difference
        })?;
        Ok(means.into_iter().zip(squares.into_iter().map(|sum| divide(sum).sqrt())).collect())
    }

    /// Sum over the samples of every channel, in their order.
    fn sums(&mut self, term: impl Fn(usize, f32) -> f32 + Sync) -> Result<Vec<f32>, PlanError> {
        let mut sums = vec![Sum::default(); self.channels];
        self.file.rewind().map_err(|e| failed("read", e))?;
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        for (count, draws) in &self.cases {
            bytes.resize(self.channels * count * 4, 0);
            self.file.read_exact(&mut bytes).map_err(|e| failed("read", e))?;
            values.clear();
            values.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_ne_bytes(b)));
            let last = (count - 1) as u32;
            sums.par_iter_mut().zip(values.par_chunks_exact(*count)).enumerate().for_each(
                |(channel, (sum, values))| match draws.get(channel) {
                    None => values.iter().for_each(|&v| sum.push(term(channel, v))),
                    Some(before) => draw(&mut before.clone(), last, self.per_case, |i| {
                        sum.push(term(channel, values[i]));
                    }),
                },
            );
        }
        Ok(sums.into_iter().map(Sum::finish).collect())
    }
}

/// Draws `count` indices from 0 to `last`, in order.
pub(super) fn draw(random: &mut RandomState, last: u32, count: usize, mut each: impl FnMut(usize)) {
    let mut indices = [0; 1024];
    let mut left = count;
    while left > 0 {
        let some = &mut indices[..left.min(1024)];
        random.intervals(last, some);
        for &i in some.iter() {
            each(i as usize);
        }
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
            samples.add(CaseSamples { values: vec![values.to_vec()], draws: Vec::new() }).expect("space");
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
    fn samples_drawn_again_are_the_same() {
        let values = ramp(50);
        let mut random = RandomState::new(1234);
        let before = random.clone();
        let drawn: Vec<f32> = (0..9000).map(|_| values[random.interval(49) as usize]).collect();
        let mut samples = Samples::new(1, 9000);
        samples.add(CaseSamples { values: vec![values], draws: vec![before] }).expect("space");
        samples.add(CaseSamples::default()).expect("nothing to add");
        assert_eq!(samples.mean_and_std().expect("readable")[0], mean_and_std(&[&drawn]));
    }
}
