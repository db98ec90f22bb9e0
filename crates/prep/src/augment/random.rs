//! Random numbers that depend on (seed, epoch, index) alone, and the distributions that nnU-Net draws from.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

/// The random numbers of one patch.
///
/// A `ChaCha8` stream whose 256-bit key is `seed`, `epoch`, `index` and a constant, each 64 bits, little endian. Streams
/// of different patches are unrelated, and no patch's numbers depend on which thread makes it or on what was made
/// before it.
#[derive(Debug, Clone)]
pub struct PatchRng(ChaCha8Rng);

impl PatchRng {
    /// The stream of patch number `index` of `epoch`.
    pub fn new(seed: u64, epoch: u64, index: u64) -> PatchRng {
        let mut key = [0; 32];
        for (bytes, word) in key.chunks_exact_mut(8).zip([seed, epoch, index, 0x6e6e_5f70_6174_6368]) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        PatchRng(ChaCha8Rng::from_seed(key))
    }

    /// A stream for one operation's field of noise; `seed` comes from [`PatchRng::word`].
    pub fn field(seed: u64) -> PatchRng {
        PatchRng::new(seed, u64::MAX, u64::MAX)
    }

    /// 64 random bits.
    pub fn word(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Uniform in `[0, 1)`, a multiple of 2⁻⁵³.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// Uniform in `[low, high)`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit()
    }

    /// True with probability `p`.
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Uniform among `0..n`, without bias.
    ///
    /// # Panics
    /// If `n` is 0.
    ///
    /// # Source
    /// Lemire, *Fast random integer generation in an interval* (2019).
    pub fn below(&mut self, n: usize) -> usize {
        assert!(n > 0, "nothing to choose from");
        let n = n as u64;
        loop {
            let product = u128::from(self.word()) * u128::from(n);
            if product as u64 >= n.wrapping_neg() % n {
                return (product >> 64) as usize;
            }
        }
    }

    /// Uniform among the integers `low..=high`.
    ///
    /// # Panics
    /// If `low > high`.
    pub fn between(&mut self, low: isize, high: isize) -> isize {
        assert!(low <= high, "no integer from {low} to {high}");
        low + self.below((high - low) as usize + 1) as isize
    }

    /// A standard normal number.
    pub fn normal(&mut self) -> f32 {
        StandardNormal.sample(&mut self.0)
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// For every channel, with probability `p`, a value.
    pub(super) fn per_channel<T>(
        &mut self,
        channels: usize,
        p: f64,
        mut value: impl FnMut(&mut Self) -> T,
    ) -> Vec<Option<T>> {
        (0..channels).map(|_| self.chance(p).then(|| value(self))).collect()
    }
}

/// How a number is drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Draw {
    /// Always this.
    Fixed(f64),
    /// Uniform in `[low, high)`.
    Uniform(f64, f64),
    /// With probability 0.5, and if `low < 1`, uniform in `[low, 1)`, else in `[max(low, 1), high)`: nnU-Net's way to
    /// make factors below and above 1 equally likely.
    AroundOne(f64, f64),
    /// One of two uniform ranges, 50:50.
    Either((f64, f64), (f64, f64)),
}

impl Draw {
    /// A value.
    pub fn sample(&self, rng: &mut PatchRng) -> f64 {
        match *self {
            Draw::Fixed(value) => value,
            Draw::Uniform(low, high) => rng.uniform(low, high),
            Draw::AroundOne(low, high) => {
                if rng.chance(0.5) && low < 1.0 {
                    rng.uniform(low, 1.0)
                } else {
                    rng.uniform(low.max(1.0), high)
                }
            }
            Draw::Either(first, second) => {
                let (low, high) = if rng.chance(0.5) { first } else { second };
                rng.uniform(low, high)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_depend_on_seed_epoch_and_index() {
        let first = |s, e, i| PatchRng::new(s, e, i).word();
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        let all =
            [first(1, 2, 3), first(1, 3, 2), first(2, 1, 3), first(3, 2, 1), first(0, 0, 0), first(0, 0, 1)];
        for (i, a) in all.iter().enumerate() {
            assert!(all[i + 1..].iter().all(|b| a != b), "two streams begin alike");
        }
    }

    #[test]
    fn the_stream_is_fixed_for_all_time() {
        // A resumed training must see the numbers of the program that began it.
        let mut rng = PatchRng::new(1, 2, 3);
        assert_eq!([rng.word(), rng.word()], [STREAM_1_2_3[0], STREAM_1_2_3[1]]);
    }

    const STREAM_1_2_3: [u64; 2] = [10_859_132_276_006_079_963, 731_350_203_319_458_355];

    #[test]
    fn integers_are_even() {
        let mut rng = PatchRng::new(0, 0, 0);
        let mut counts = [0usize; 5];
        for _ in 0..50_000 {
            counts[(rng.between(-2, 2) + 2) as usize] += 1;
        }
        assert!(counts.iter().all(|&c| c.abs_diff(10_000) < 450), "{counts:?}");
    }

    #[test]
    fn draws_stay_in_range_and_balance_around_one() {
        let mut rng = PatchRng::new(7, 0, 0);
        let draw = Draw::AroundOne(0.7, 1.5);
        let values: Vec<f64> = (0..20_000).map(|_| draw.sample(&mut rng)).collect();
        assert!(values.iter().all(|v| (0.7..1.5).contains(v)));
        let below = values.iter().filter(|v| **v < 1.0).count();
        assert!(below.abs_diff(10_000) < 400, "{below} of 20000 below 1");
        assert!((0..100).all(|_| Draw::AroundOne(1.2, 1.5).sample(&mut rng) >= 1.2));
        assert!((0..100).all(|_| {
            let v = Draw::Either((-5.0, -1.0), (1.0, 5.0)).sample(&mut rng).abs();
            (1.0..=5.0).contains(&v)
        }));
    }

    #[test]
    fn normal_numbers_have_mean_0_and_deviation_1() {
        let mut rng = PatchRng::new(5, 0, 0);
        let values: Vec<f64> = (0..100_000).map(|_| f64::from(rng.normal())).collect();
        let mean = values.iter().sum::<f64>() / 1e5;
        let var = values.iter().map(|v| v * v).sum::<f64>() / 1e5;
        assert!(mean.abs() < 0.015 && (var - 1.0).abs() < 0.02, "{mean} {var}");
    }
}
