//! Exponential and logarithm in loops that vectorise, and sums with a fixed order.
//!
//! Nothing here contracts a multiplication and an addition into one, so that results are the same on every CPU.

/// Values whose partial sums are added up in f32 before they go into an f64.
const BLOCK: usize = 1024;
/// Partial sums side by side.
pub(super) const LANES: usize = 16;

/// `e^x` for `x <= 0`, within 2 units in the last place; below -87 as at -87. NaN stays NaN.
///
/// # Source
/// Cephes, `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    // Adding 1.5 * 2^23 rounds to an integer, which then stands in the lowest bits.
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        p = p * r + c;
    }
    let scale = f32::from_bits(shifted.to_bits().wrapping_add(127) << 23);
    (p * r * r + r + 1.0) * scale
}

/// Natural logarithm of a number in `1..2^64`, within 2 units in the last place of `max(1, ln x)`.
///
/// # Source
/// Cephes, `logf`.
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    // Mantissa in [sqrt(1/2), sqrt(2)): the offset carries into the exponent for larger ones.
    let carried = bits.wrapping_sub(0x3f35_04f3);
    let exponent = (carried.cast_signed() >> 23) as f32;
    let mantissa = f32::from_bits((carried & 0x007f_ffff) + 0x3f35_04f3);
    let f = mantissa - 1.0;
    let mut p = 7.037_683_6e-2_f32;
    for c in [
        -1.151_461e-1,
        1.167_699_9e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = p * f + c;
    }
    let z = f * f;
    let y = p * f * z - exponent * 2.121_944_4e-4 - 0.5 * z;
    f + y + exponent * 0.693_359_4
}

/// Adds up `N` sums over `len` values in a fixed order: `term(i)` gives what value `i` adds to each.
#[inline(always)]
pub(super) fn sums<const N: usize>(len: usize, mut term: impl FnMut(usize) -> [f32; N]) -> [f64; N] {
    let mut total = [0.0; N];
    let mut start = 0;
    while start < len {
        let end = (start + BLOCK).min(len);
        let mut lanes = [[0f32; LANES]; N];
        let whole = start + (end - start) / LANES * LANES;
        let mut i = start;
        while i < whole {
            for l in 0..LANES {
                let terms = term(i + l);
                for s in 0..N {
                    lanes[s][l] += terms[s];
                }
            }
            i += LANES;
        }
        for l in 0..end - whole {
            let terms = term(whole + l);
            for s in 0..N {
                lanes[s][l] += terms[s];
            }
        }
        for s in 0..N {
            total[s] += lanes[s].iter().map(|&v| f64::from(v)).sum::<f64>();
        }
        start = end;
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_and_ln_are_exact_to_two_units() {
        let (mut worst_exp, mut worst_ln) = (0f64, 0f64);
        for i in 0..200_000u32 {
            let x = -(i as f32) * 87.0 / 200_000.0;
            let exact = f64::from(x).exp();
            worst_exp = worst_exp.max((f64::from(exp(x)) - exact).abs() / exact);
            let u = 1.0 + i as f32 * 3e-4;
            let exact = f64::from(u).ln();
            worst_ln = worst_ln.max((f64::from(ln(u)) - exact).abs() / exact.max(1.0));
        }
        let unit = f64::from(f32::EPSILON);
        assert!(worst_exp < 2.0 * unit && worst_ln < 2.0 * unit, "{worst_exp} {worst_ln}");
        assert!(exp(f32::NAN).is_nan() && exp(-1e30) > 0.0 && exp(-1e30) < 1e-37);
        assert_eq!((exp(0.0), ln(1.0)), (1.0, 0.0));
    }

    #[test]
    fn sums_reach_every_value_once() {
        for len in [0, 1, 15, 16, 17, 1023, 1024, 1025, 3000] {
            let [count, total] = sums(len, |i| [1.0, i as f32]);
            assert_eq!((count, total), (len as f64, (len * len.saturating_sub(1) / 2) as f64));
        }
    }
}
