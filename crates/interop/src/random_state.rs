//! numpy's legacy `RandomState`, which nnU-Net seeds wherever a choice must be repeatable.
//!
//! The same seed gives the same draws as numpy, on every machine and whatever the number of threads. Left out: the
//! continuous distributions, and ranges of more than 2³² values.

/// Words of state of the Mersenne twister.
const N: usize = 624;
/// Distance of the word that is mixed in.
const M: usize = 397;

/// The Mersenne twister MT19937 as `numpy.random.RandomState(seed)` uses it.
///
/// ```
/// # use glioseg_interop::RandomState;
/// let mut random = RandomState::new(12345);
/// assert_eq!(random.permutation(10), [0, 7, 3, 9, 6, 4, 1, 8, 5, 2]);
/// ```
#[derive(Clone)]
pub struct RandomState {
    key: [u32; N],
    next: usize,
}

/// What leaves the generator for a word of its state.
fn temper(mut y: u32) -> u32 {
    y ^= y >> 11;
    y ^= (y << 7) & 0x9d2c_5680;
    y ^= (y << 15) & 0xefc6_0000;
    y ^ (y >> 18)
}

impl std::fmt::Debug for RandomState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RandomState").field("next", &self.next).finish_non_exhaustive()
    }
}

impl RandomState {
    /// A generator in the state that numpy's `RandomState(seed)` starts in.
    pub fn new(seed: u32) -> Self {
        let mut key = [0; N];
        let mut word = seed;
        for (i, slot) in key.iter_mut().enumerate() {
            *slot = word;
            word = 1_812_433_253u32.wrapping_mul(word ^ (word >> 30)).wrapping_add(i as u32 + 1);
        }
        Self { key, next: N }
    }

    fn refill(&mut self) {
        fn mix(high: u32, low: u32) -> u32 {
            let y = (high & 0x8000_0000) | (low & 0x7fff_ffff);
            (y >> 1) ^ (0x9908_b0df & 0u32.wrapping_sub(y & 1))
        }
        let key = &mut self.key;
        for i in 0..N - M {
            key[i] = key[i + M] ^ mix(key[i], key[i + 1]);
        }
        for i in N - M..N - 1 {
            key[i] = key[i + M - N] ^ mix(key[i], key[i + 1]);
        }
        key[N - 1] = key[M - 1] ^ mix(key[N - 1], key[0]);
        self.next = 0;
    }

    /// 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == N {
            self.refill();
        }
        let word = temper(self.key[self.next]);
        self.next += 1;
        word
    }

    /// A number from 0 to `max`, both included, each as likely; 0 without a draw where `max` is 0.
    ///
    /// # Source
    /// numpy, `random_interval` and `buffered_bounded_masked_uint32`: draws are masked and those above `max` rejected.
    pub fn interval(&mut self, max: u32) -> u32 {
        if max == 0 {
            return 0;
        }
        let mask = u32::MAX >> max.leading_zeros();
        loop {
            let value = self.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }

    /// Fills `out` with numbers from 0 to `max`: the same as calling [`RandomState::interval`] for each, but faster.
    ///
    /// # Source
    /// numpy, `RandomState.choice(max + 1, out.len())`.
    pub fn intervals(&mut self, max: u32, out: &mut [u32]) {
        if max == 0 {
            return out.fill(0);
        }
        let mask = u32::MAX >> max.leading_zeros();
        let (mut filled, mut words) = (0, [0; N]);
        while filled < out.len() {
            if self.next == N {
                self.refill();
            }
            // As many words as are there, and as are needed at least: no two numbers come of one word.
            let count = (N - self.next).min(out.len() - filled);
            let words = &mut words[..count];
            words.iter_mut().zip(&self.key[self.next..]).for_each(|(word, &key)| *word = temper(key) & mask);
            self.next += count;
            for &value in words.iter() {
                // Whether a draw is rejected is as good as random: overwriting a rejected one beats a branch.
                out[filled] = value;
                filled += usize::from(value <= max);
            }
        }
    }

    /// A number from 0 up to, but not including, 1.
    ///
    /// # Source
    /// numpy, `random_sample`.
    pub fn random_sample(&mut self) -> f64 {
        let (a, b) = (self.next_u32() >> 5, self.next_u32() >> 6);
        (f64::from(a) * 67_108_864.0 + f64::from(b)) / 9_007_199_254_740_992.0
    }

    /// Puts the elements in random order.
    ///
    /// # Panics
    /// If there are more than 2³² elements.
    ///
    /// # Source
    /// numpy, `RandomState.shuffle`.
    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for i in (1..values.len()).rev() {
            let j = self.interval(index(i));
            values.swap(i, j as usize);
        }
    }

    /// The numbers from 0 to `n - 1` in random order.
    ///
    /// # Panics
    /// If `n` is above 2³².
    ///
    /// # Source
    /// numpy, `RandomState.permutation(n)`.
    pub fn permutation(&mut self, n: usize) -> Vec<u32> {
        let mut values: Vec<u32> = (0..n).map(index).collect();
        self.shuffle(&mut values);
        values
    }

    /// `size` different numbers below `n`, in the order they are drawn.
    ///
    /// # Panics
    /// If `size` is above `n`, or `n` above 2³².
    ///
    /// # Source
    /// numpy, `RandomState.choice(n, size, replace=False)`.
    pub fn choose(&mut self, n: usize, size: usize) -> Vec<u32> {
        assert!(size <= n, "{size} different numbers of {n}");
        let mut values = self.permutation(n);
        values.truncate(size);
        values
    }
}

fn index(i: usize) -> u32 {
    u32::try_from(i)
        .expect("numpy's legacy generator draws other numbers above 2^32, and no array here is so large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_those_of_numpy() {
        let mut random = RandomState::new(1234);
        let first: Vec<u32> = (0..4).map(|_| random.next_u32()).collect();
        assert_eq!(first, [822_569_775, 2_137_449_171, 2_671_936_806, 3_512_589_365]);
        let mut random = RandomState::new(0);
        assert_eq!(random.random_sample().to_bits(), 0.548_813_503_927_324_7_f64.to_bits());
        // A later block of the twister: the 2000th draw.
        let mut random = RandomState::new(12345);
        let late = (0..2000).map(|_| random.next_u32()).last();
        assert_eq!(late, Some(3_374_551_203));
    }

    #[test]
    fn choices_are_those_of_numpy() {
        assert_eq!(RandomState::new(5).choose(1000, 7), [544, 515, 193, 11, 279, 653, 643]);
        let mut random = RandomState::new(5);
        let with_replacement: Vec<u32> = (0..9).map(|_| random.interval(36)).collect();
        assert_eq!(with_replacement, [35, 14, 16, 9, 8, 36, 27, 30, 16]);
        for max in [0, 1, 36, 1000, u32::MAX] {
            let (mut one, mut many) = (RandomState::new(5), RandomState::new(5));
            let mut out = [9; 1500];
            many.intervals(max, &mut out);
            assert!(out.iter().all(|&v| v == one.interval(max)), "up to {max}");
            assert_eq!(one.next_u32(), many.next_u32());
        }
    }

    #[test]
    fn an_interval_of_one_value_draws_nothing() {
        let (mut a, mut b) = (RandomState::new(7), RandomState::new(7));
        assert_eq!(a.interval(0), 0);
        assert_eq!(a.next_u32(), b.next_u32());
        assert!((0..1000).all(|_| a.interval(5) <= 5));
    }
}
