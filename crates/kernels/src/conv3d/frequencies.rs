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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::{Cpu, Kernel};

    /// Outputs of three taps on six inputs, and the taps' gradient for four gradients of the outputs.
    struct Both;

    impl Kernel for Both {
        type Out = ([f32; OUT], [f32; 3]);
        fn run<I: Isa>(self, isa: I) -> Self::Out {
            let taps = weight_frequencies([0.5, -1.25, 2.0]).map(|w| isa.splat(w as f32));
            let input = forward(isa, [1.0, -2.0, 0.25, 3.0, -0.5, 1.5].map(|x| isa.splat(x)));
            let grad = forward_gradient(isa, [0.75, -1.0, 2.0, 0.5].map(|x| isa.splat(x)));
            let out = backward(isa, std::array::from_fn(|i| isa.mul(taps[i], input[i])));
            let taps = backward_weights(isa, std::array::from_fn(|i| isa.mul(grad[i], input[i])));
            let lane = |v| isa.sum(isa.keep_first(v, 1));
            (out.map(lane), taps.map(lane))
        }
    }

    #[test]
    fn frequencies_multiply_to_a_convolution_and_its_gradient() {
        let x = [1.0f32, -2.0, 0.25, 3.0, -0.5, 1.5];
        let (w, g) = ([0.5f32, -1.25, 2.0], [0.75f32, -1.0, 2.0, 0.5]);
        let close = |a: f32, b: f32| (a - b).abs() < 1e-5;
        for cpu in Cpu::available() {
            let (out, taps) = cpu.dispatch(Both);
            for o in 0..OUT {
                let want: f32 = (0..3).map(|k| w[k] * x[o + k]).sum();
                assert!(close(out[o], want), "{} output {o}: {} for {want}", cpu.name(), out[o]);
            }
            for k in 0..3 {
                let want: f32 = (0..OUT).map(|o| g[o] * x[o + k]).sum();
                assert!(close(taps[k], want), "{} tap {k}: {} for {want}", cpu.name(), taps[k]);
            }
        }
    }
}
