//! The transforms of Winograd's F(4, 3) along one axis: four outputs of three taps from six products.
//!
//! Six inputs, three taps and six products are polynomials in six points, here 0, ±2/3, ±3/2 and infinity. With these the
//! relative L2 error of a 3×3×3 convolution of 256 channels is 3e-6, a third of what the usual 0, ±1, ±2 give, and the
//! transforms stay as short because the points are reciprocal (their squares multiply to one). The gradient with respect to
//! the weights uses the transposes.

use crate::isa::Isa;

/// Outputs per tile and axis, and frequencies.
pub(crate) const OUT: usize = 4;
pub(crate) const FREQ: usize = 6;
/// The points.
const A: f64 = 2.0 / 3.0;
const B: f64 = 3.0 / 2.0;

/// The six frequencies of three taps.
#[inline(always)]
pub(crate) fn weight_frequencies(g: [f64; 3]) -> [f64; FREQ] {
    let (a2, b2) = (A * A, B * B);
    let (na, nb) = (1.0 / (2.0 * a2 * (a2 - b2)), 1.0 / (2.0 * b2 * (b2 - a2)));
    [
        g[0],
        na * (g[0] + A * g[1] + a2 * g[2]),
        na * (g[0] - A * g[1] + a2 * g[2]),
        nb * (g[0] + B * g[1] + b2 * g[2]),
        nb * (g[0] - B * g[1] + b2 * g[2]),
        g[2],
    ]
}

/// Frequencies of six inputs.
#[inline(always)]
pub(crate) fn forward<I: Isa>(isa: I, d: [I::F32; FREQ]) -> [I::F32; FREQ] {
    let s = isa.splat((A * A + B * B) as f32);
    let (a, b) = (isa.splat(A as f32), isa.splat(B as f32));
    let (a2, b2) = (isa.splat((A * A) as f32), isa.splat((B * B) as f32));
    let (even_a, odd_a) = (isa.fnma(b2, d[2], d[4]), isa.fnma(b2, d[1], d[3]));
    let (even_b, odd_b) = (isa.fnma(a2, d[2], d[4]), isa.fnma(a2, d[1], d[3]));
    [
        isa.add(isa.fnma(s, d[2], d[0]), d[4]),
        isa.fma(a, odd_a, even_a),
        isa.fnma(a, odd_a, even_a),
        isa.fma(b, odd_b, even_b),
        isa.fnma(b, odd_b, even_b),
        isa.add(isa.fnma(s, d[3], d[5]), d[1]),
    ]
}

/// Four outputs from six frequencies.
#[inline(always)]
pub(crate) fn backward<I: Isa>(isa: I, m: [I::F32; FREQ]) -> [I::F32; OUT] {
    let (a, b) = (isa.splat(A as f32), isa.splat(B as f32));
    let (a2, b2) = (isa.splat((A * A) as f32), isa.splat((B * B) as f32));
    let (a3, b3) = (isa.splat((A * A * A) as f32), isa.splat((B * B * B) as f32));
    let (even_a, odd_a) = (isa.add(m[1], m[2]), isa.sub(m[1], m[2]));
    let (even_b, odd_b) = (isa.add(m[3], m[4]), isa.sub(m[3], m[4]));
    [
        isa.add(isa.add(m[0], even_a), even_b),
        isa.fma(a, odd_a, isa.mul(b, odd_b)),
        isa.fma(a2, even_a, isa.mul(b2, even_b)),
        isa.fma(a3, odd_a, isa.fma(b3, odd_b, m[5])),
    ]
}

/// Frequencies of four gradients.
#[inline(always)]
pub(crate) fn forward_gradient<I: Isa>(isa: I, g: [I::F32; OUT]) -> [I::F32; FREQ] {
    let (a, b) = (isa.splat(A as f32), isa.splat(B as f32));
    let (a2, b2) = (isa.splat((A * A) as f32), isa.splat((B * B) as f32));
    let (even_a, odd_a) = (isa.fma(a2, g[2], g[0]), isa.fma(a2, g[3], g[1]));
    let (even_b, odd_b) = (isa.fma(b2, g[2], g[0]), isa.fma(b2, g[3], g[1]));
    [
        g[0],
        isa.fma(a, odd_a, even_a),
        isa.fnma(a, odd_a, even_a),
        isa.fma(b, odd_b, even_b),
        isa.fnma(b, odd_b, even_b),
        g[3],
    ]
}

/// Three taps from the sums of six frequencies: the transpose of the weights' transform.
#[inline(always)]
pub(crate) fn backward_weights<I: Isa>(isa: I, u: [I::F32; FREQ]) -> [I::F32; 3] {
    let (a2, b2) = (A * A, B * B);
    let (na, nb) = (1.0 / (2.0 * a2 * (a2 - b2)), 1.0 / (2.0 * b2 * (b2 - a2)));
    let factor = |x: f64| isa.splat(x as f32);
    let (sum_a, difference_a) = (isa.add(u[1], u[2]), isa.sub(u[1], u[2]));
    let (sum_b, difference_b) = (isa.add(u[3], u[4]), isa.sub(u[3], u[4]));
    [
        isa.fma(factor(na), sum_a, isa.fma(factor(nb), sum_b, u[0])),
        isa.fma(factor(na * A), difference_a, isa.mul(factor(nb * B), difference_b)),
        isa.fma(factor(na * a2), sum_a, isa.fma(factor(nb * b2), sum_b, u[5])),
    ]
}
