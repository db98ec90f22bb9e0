//! Statistics of millions of samples in the memory of their distinct values.

use crate::ForegroundIntensities;

/// How often every value was drawn: exact, and small where images hold whole numbers.
///
/// The counts stand in sorted lists that are merged when they are of similar length, so adding a case is cheap. At
/// worst, with no value drawn twice, a sample takes 8 bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Histogram {
    runs: Vec<Vec<(f32, u32)>>,
}

impl Histogram {
    /// Counts values in any order; those with a count of 0 are left out.
    pub(super) fn of(values: impl Iterator<Item = (f32, u32)>) -> Self {
        // Adding 0 turns -0 into 0, which numpy sorts as equal.
        let mut run: Vec<(f32, u32)> = values.filter(|v| v.1 > 0).map(|(v, n)| (v + 0.0, n)).collect();
        run.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        run.dedup_by(|next, kept| {
            let same = next.0.to_bits() == kept.0.to_bits();
            if same {
                kept.1 += next.1;
            }
            same
        });
        run.shrink_to_fit();
        Self { runs: vec![run] }
    }

    /// Adds the counts of another histogram.
    pub(super) fn add(&mut self, other: Histogram) {
        for run in other.runs {
            self.runs.push(run);
            while let [.., a, b] = &self.runs[..]
                && b.len() * 2 >= a.len()
            {
                self.merge_last();
            }
        }
    }

    fn merge_last(&mut self) {
        let (Some(b), Some(a)) = (self.runs.pop(), self.runs.pop()) else { return };
        let mut merged = Vec::with_capacity(a.len() + b.len());
        let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
        while let (Some(&x), Some(&y)) = (a.peek(), b.peek()) {
            match x.0.total_cmp(&y.0) {
                std::cmp::Ordering::Less => merged.extend(a.next()),
                std::cmp::Ordering::Greater => merged.extend(b.next()),
                std::cmp::Ordering::Equal => {
                    merged.push((x.0, x.1 + y.1));
                    a.next();
                    b.next();
                }
            }
        }
        merged.extend(a);
        merged.extend(b);
        merged.shrink_to_fit();
        self.runs.push(merged);
    }

    /// Percentiles, with the mean and deviation given; `None` if nothing was counted.
    ///
    /// # Source
    /// numpy, `percentile` of an f32 array with linear interpolation.
    pub(super) fn statistics(mut self, mean: f32, std: f32) -> Option<ForegroundIntensities> {
        while self.runs.len() > 1 {
            self.merge_last();
        }
        let run = self.runs.pop()?;
        let (first, last) = (run.first()?, run.last()?);
        let mut ends = Vec::with_capacity(run.len());
        let mut count = 0;
        for &(_, c) in &run {
            count += u64::from(c);
            ends.push(count);
        }
        let at = |position: u64| run[ends.partition_point(|&end| end <= position)].0;
        let percentile = |p: f64| {
            let position = (count - 1) as f64 * (p / 100.0);
            let t = position - position.floor();
            let below = position.floor() as u64;
            let (a, b) = (at(below), at((below + 1).min(count - 1)));
            let step = f64::from(b - a);
            if t >= 0.5 { f64::from(b) - step * (1.0 - t) } else { f64::from(a) + step * t }
        };
        Some(ForegroundIntensities {
            mean: f64::from(mean),
            std: f64::from(std),
            percentile_00_5: percentile(0.5),
            percentile_99_5: percentile(99.5),
            min: f64::from(first.0),
            max: f64::from(last.0),
            median: percentile(50.0),
        })
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the arithmetic is numpy's, to the last bit")]
mod tests {
    use super::*;

    fn one_by_one(samples: &[f32]) -> ForegroundIntensities {
        let mut all = Histogram::default();
        for &v in samples {
            all.add(Histogram::of(std::iter::once((v, 1))));
        }
        all.statistics(1.5, 0.25).expect("samples")
    }

    #[test]
    fn percentiles_are_those_of_numpy() {
        let samples = [0.5f32, -3.25, 7.125, 7.125, 0.1, 2.0, -0.0, 0.0, 11.5];
        let s = one_by_one(&samples);
        // numpy 2.2: np.percentile(a, (0.5, 50.0, 99.5)) of the float32 array.
        assert_eq!([s.percentile_00_5, s.median, s.percentile_99_5], [-3.12, 0.5, 11.325]);
        assert_eq!([s.min, s.max, s.mean, s.std], [-3.25, 11.5, 1.5, 0.25]);
    }

    #[test]
    fn counts_can_be_added_in_any_grouping() {
        let whole = Histogram::of([(2.0, 3), (1.0, 1), (5.0, 2), (1.0, 0)].into_iter());
        assert_eq!(whole.statistics(1.5, 0.25), Some(one_by_one(&[5.0, 2.0, 2.0, 1.0, 5.0, 2.0])));
        assert_eq!(Histogram::default().statistics(0.0, 0.0), None);
    }
}
