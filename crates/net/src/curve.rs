//! Activations that are curves, or whose kink has a learnt or steep slope: what the kernels' leaky ReLU, a maximum of two
//! lines, cannot be.
//!
//! They are computed one value at a time, in a pass of their own over a map. They have no derivative here: such networks predict, and training
//! them is refused.

/// An activation other than a leaky ReLU of slope at most 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Curve {
    /// `x` times the normal distribution's share below `x`.
    Gelu {
        /// That share by a hyperbolic tangent.
        tanh: bool,
    },
    /// `x`, or `alpha (exp(x) - 1)` where `x` is negative.
    Elu {
        /// The factor for negative values.
        alpha: f32,
    },
    /// `x` times the logistic function of `x`.
    Silu,
    /// `x`, or `x` times a learnt factor where `x` is negative.
    Prelu {
        /// Learnt factors: 1, or one per channel.
        parameters: usize,
        /// What they are before training.
        init: f32,
    },
    /// A leaky ReLU of a slope above 1.
    Steep {
        /// The factor for negative values.
        slope: f32,
    },
}

impl Curve {
    /// PyTorch's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gelu { .. } => "GELU",
            Self::Elu { .. } => "ELU",
            Self::Silu => "SiLU",
            Self::Prelu { .. } => "PReLU",
            Self::Steep { .. } => "LeakyReLU of a slope above 1",
        }
    }

    /// The activation of every value; `slope` is the learnt factor of their channel.
    ///
    /// # Source
    /// PyTorch, `ActivationGeluKernel`, `elu_kernel`, `silu_kernel`, `prelu_kernel`.
    pub(crate) fn apply(self, values: &mut [f32], slope: f32) {
        match self {
            // The sum is rounded to f32 as PyTorch's: far below 0 little is left of it.
            Self::Gelu { tanh: false } => {
                let erf = |x: f32| libm::erf(f64::from(x * std::f32::consts::FRAC_1_SQRT_2)) as f32;
                for x in values {
                    *x = *x * 0.5 * (1.0 + erf(*x));
                }
            }
            Self::Gelu { tanh: true } => {
                let factor = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
                let tanh = |x: f32| f64::from(factor * (x + 0.044_715 * (x * x * x))).tanh() as f32;
                for x in values {
                    *x = 0.5 * *x * (1.0 + tanh(*x));
                }
            }
            Self::Elu { alpha } => each(values, |x| if x > 0.0 { x } else { f64::from(alpha) * x.exp_m1() }),
            Self::Silu => each(values, |x| x / (1.0 + (-x).exp())),
            Self::Prelu { .. } => leaky(values, slope),
            Self::Steep { slope } => leaky(values, slope),
        }
    }
}

fn each(values: &mut [f32], f: impl Fn(f64) -> f64) {
    for value in values {
        *value = f(f64::from(*value)) as f32;
    }
}

fn leaky(values: &mut [f32], slope: f32) {
    for value in values.iter_mut().filter(|v| **v < 0.0) {
        *value *= slope;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::excessive_precision, reason = "the digits that torch prints")]
    fn curves_are_pytorchs() {
        // torch 2.15, `torch.nn.functional`, of -3, -1, -0.1, 0, 0.5, 2 in f32.
        let x = [-3.0f32, -1.0, -0.1, 0.0, 0.5, 2.0];
        let cases: [(Curve, [f32; 6]); 7] = [
            (
                Curve::Gelu { tanh: false },
                [-0.004_050_225_02, -0.158_655_256, -0.046_017_218_4, 0.0, 0.345_731_229, 1.954_499_72],
            ),
            (
                Curve::Gelu { tanh: true },
                [-0.003_637_433_05, -0.158_807_993, -0.046_017_248_2, 0.0, 0.345_714_003, 1.954_597_71],
            ),
            (Curve::Elu { alpha: 1.0 }, [-0.950_212_955, -0.632_120_55, -0.095_162_585_4, 0.0, 0.5, 2.0]),
            (Curve::Elu { alpha: 0.3 }, [-0.285_063_893, -0.189_636_171, -0.028_548_777_1, 0.0, 0.5, 2.0]),
            (
                Curve::Silu,
                [-0.142_277_613, -0.268_941_432, -0.047_502_081_8, 0.0, 0.311_229_676, 1.761_594_06],
            ),
            (
                Curve::Prelu { parameters: 1, init: 0.25 },
                [-5.100_000_38, -1.700_000_05, -0.170_000_002, 0.0, 0.5, 2.0],
            ),
            (Curve::Steep { slope: 1.5 }, [-4.5, -1.5, -0.150_000_006, 0.0, 0.5, 2.0]),
        ];
        for (curve, expected) in cases {
            let mut values = x;
            curve.apply(&mut values, 1.7);
            for (ours, theirs) in values.iter().zip(expected) {
                // PyTorch's own error function is off by 3.6e-7 at -2.12, which GELU multiplies by 1.5.
                assert!((ours - theirs).abs() <= 6e-7 * theirs.abs().max(1.0), "{curve:?}: {ours} {theirs}");
            }
        }
    }
}
