//! Loops that vectorise: sums in f64, powers.
//!
//! Nothing here contracts a multiplication and an addition into one, so that results are the same on every CPU.

use glioseg_kernels::vectorised;

const LANES: usize = 16;

/// Least and greatest value, mean, and sum of squared distances from the mean.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Moments {
    pub(super) min: f32,
    pub(super) max: f32,
    pub(super) mean: f64,
    pub(super) squares: f64,
    pub(super) count: usize,
}

impl Moments {
    /// Of a channel.
    pub(super) fn of(values: &[f32]) -> Moments {
        let mut sums = Sums::new(values.first().copied().unwrap_or(0.0));
        vectorised(
            #[inline(always)]
            || {
                for block in values.chunks(4096) {
                    sums.add(block);
                }
            },
        );
        sums.moments(values.len())
    }

    /// Standard deviation with `count - ddof` in the denominator; not a number where that is 0, as in torch.
    pub(super) fn deviation(&self, ddof: usize) -> f64 {
        (self.squares / (self.count as f64 - ddof as f64)).sqrt()
    }
}

/// Running sums behind [`Moments`], side by side in lanes; f64, so that large offsets do no harm.
#[derive(Debug, Clone)]
pub(super) struct Sums {
    shift: f64,
    sum: [f64; LANES],
    squares: [f64; LANES],
    min: [f32; LANES],
    max: [f32; LANES],
}

impl Sums {
    pub(super) fn new(shift: f32) -> Sums {
        Sums {
            shift: f64::from(shift),
            sum: [0.0; LANES],
            squares: [0.0; LANES],
            min: [f32::INFINITY; LANES],
            max: [f32::NEG_INFINITY; LANES],
        }
    }

    #[inline(always)]
    pub(super) fn add(&mut self, values: &[f32]) {
        let (mut sum, mut squares, mut min, mut max) = (self.sum, self.squares, self.min, self.max);
        let (blocks, rest) = values.as_chunks::<LANES>();
        for block in blocks {
            for l in 0..LANES {
                let v = f64::from(block[l]) - self.shift;
                sum[l] += v;
                squares[l] += v * v;
                min[l] = if block[l] < min[l] { block[l] } else { min[l] };
                max[l] = if block[l] > max[l] { block[l] } else { max[l] };
            }
        }
        for (l, &value) in rest.iter().enumerate() {
            let v = f64::from(value) - self.shift;
            sum[l] += v;
            squares[l] += v * v;
            min[l] = min[l].min(value);
            max[l] = max[l].max(value);
        }
        (self.sum, self.squares, self.min, self.max) = (sum, squares, min, max);
    }

    pub(super) fn moments(&self, count: usize) -> Moments {
        let sum: f64 = self.sum.iter().sum();
        let squares: f64 = self.squares.iter().sum();
        let mean = sum / count as f64;
        Moments {
            min: self.min.iter().copied().fold(f32::INFINITY, f32::min),
            max: self.max.iter().copied().fold(f32::NEG_INFINITY, f32::max),
            mean: mean + self.shift,
            squares: (squares - sum * mean).max(0.0),
            count,
        }
    }
}

/// Rounds to the nearest whole number, ties to even: as a float, and as an integer modulo 2³². For `|v| < 2²²`.
///
/// Adding 1.5 * 2²³ leaves the whole number in the lowest bits. A cast would do the same, but as it must saturate, it is
/// not vectorised.
#[inline(always)]
fn round(v: f32) -> (f32, u32) {
    const MAGIC: f32 = 12_582_912.0;
    let shifted = v + MAGIC;
    (shifted - MAGIC, shifted.to_bits().wrapping_sub(MAGIC.to_bits()))
}

/// The greatest whole number that is not above `v`: as a float, and as an integer. For `|v| < 2²²`.
#[inline(always)]
pub(super) fn floor(v: f32) -> (f32, i32) {
    let (near, bits) = round(v);
    let above = near > v;
    (if above { near - 1.0 } else { near }, bits.wrapping_sub(u32::from(above)) as i32)
}

/// `x` to the power of `g` for `x` in `[0, 1]`, to about 2e-6 of the result; 0 where `x` is 0.
///
/// # Source
/// The logarithm and exponential of the Cephes library (`logf`, `expf`).
#[inline(always)]
#[expect(clippy::excessive_precision, reason = "the constants are printed as published")]
pub(super) fn power(x: f32, g: f32) -> f32 {
    let bits = x.to_bits();
    // Exponent such that the mantissa is between sqrt(1/2) and sqrt(2).
    let e = (bits.wrapping_sub(0x3f35_04f3) as i32) >> 23;
    let m = f32::from_bits(bits.wrapping_sub((e as u32) << 23)) - 1.0;
    let z = m * m;
    let mut p = 7.037_683_629_2e-2;
    p = p * m - 1.151_461_031_0e-1;
    p = p * m + 1.167_699_874_0e-1;
    p = p * m - 1.242_014_084_6e-1;
    p = p * m + 1.424_932_278_7e-1;
    p = p * m - 1.666_805_766_5e-1;
    p = p * m + 2.000_071_476_5e-1;
    p = p * m - 2.499_999_399_3e-1;
    p = p * m + 3.333_333_117_4e-1;
    let log = m + (p * m * z - 0.5 * z);
    // y = g * log2(x), its whole part n apart from the rest.
    let whole = g * e as f32;
    let y = (whole + g * log * std::f32::consts::LOG2_E).max(-126.0);
    let (n, n_bits) = round(y);
    let r = ((whole - n) + g * log * std::f32::consts::LOG2_E).max(-1.0) * std::f32::consts::LN_2;
    let mut q = 1.987_569_150_0e-4;
    q = q * r + 1.398_199_950_7e-3;
    q = q * r + 8.333_451_907_3e-3;
    q = q * r + 4.166_579_589_4e-2;
    q = q * r + 1.666_666_545_9e-1;
    q = q * r + 5.000_000_120_1e-1;
    let exp = q * r * r + r + 1.0;
    let scaled = exp * f32::from_bits(n_bits.wrapping_add(127) << 23);
    if x > 0.0 { scaled } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_are_right_to_2e_6() {
        for g in [0.01f32, 0.05, 0.3, 0.7, 1.0, 1.3, 1.5, 2.2, 3.9] {
            for i in 0..=20_000 {
                let x = i as f32 / 20_000.0;
                for x in [x, x * 1e-3, x * 1e-7] {
                    let (ours, exact) = (f64::from(power(x, g)), f64::from(x).powf(f64::from(g)));
                    assert!(
                        (ours - exact).abs() <= 3e-6 * exact + 1e-30,
                        "{x}^{g}: {ours} instead of {exact}"
                    );
                }
            }
        }
    }

    #[test]
    fn floors_are_floors() {
        for v in [-4.0f32, -3.999, -0.5, -1e-9, -0.0, 0.0, 0.5, 1.0, 1.5, 2.5, 2.999_999_8, 1000.25, 4e6] {
            assert_eq!(floor(v), (v.floor(), v.floor() as i32), "{v}");
        }
    }

    #[test]
    fn moments_survive_a_large_offset() {
        let values: Vec<f32> = (0..10_007).map(|i| 30_000.0 + (i % 11) as f32).collect();
        let m = Moments::of(&values);
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / values.len() as f64;
        let var = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / values.len() as f64;
        assert_eq!((m.min, m.max), (30_000.0, 30_010.0));
        assert!((m.mean - mean).abs() < 1e-6 && (m.deviation(0) - var.sqrt()).abs() < 1e-6);
        assert!(m.deviation(1) > m.deviation(0));
    }
}
