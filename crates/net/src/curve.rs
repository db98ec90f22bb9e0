//! Activations that are curves, or whose kink has a learnt or steep slope: what the kernels' leaky ReLU, a maximum of two
//! lines, cannot be.
//!
//! They are computed in f64 and go over a map in a pass of their own. There is no derivative: such networks predict, and training
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
            Self::Gelu { tanh: false } => {
                each(values, |x| x * 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)))
            }
            Self::Gelu { tanh: true } => {
                let factor = std::f64::consts::FRAC_2_SQRT_PI * std::f64::consts::FRAC_1_SQRT_2;
                each(values, |x| 0.5 * x * (1.0 + (factor * (x + 0.044_715 * x * x * x)).tanh()));
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
    fn curves_are_pytorchs() {
        // torch 2.15, `torch.nn.functional`, of -3, -1, -0.1, 0, 0.5, 2 in f32.
        let x = [-3.0f32, -1.0, -0.1, 0.0, 0.5, 2.0];
        let cases: [(Curve, [f32; 6]); 7] = [
            (
                Curve::Gelu { tanh: false },
                [-0.00405022502, -0.158655256, -0.0460172184, 0.0, 0.345731229, 1.95449972],
            ),
            (
                Curve::Gelu { tanh: true },
                [-0.00363743305, -0.158807993, -0.0460172482, 0.0, 0.345714003, 1.95459771],
            ),
            (Curve::Elu { alpha: 1.0 }, [-0.950212955, -0.63212055, -0.0951625854, 0.0, 0.5, 2.0]),
            (Curve::Elu { alpha: 0.3 }, [-0.285063893, -0.189636171, -0.0285487771, 0.0, 0.5, 2.0]),
            (Curve::Silu, [-0.142277613, -0.268941432, -0.0475020818, 0.0, 0.311229676, 1.76159406]),
            (
                Curve::Prelu { parameters: 1, init: 0.25 },
                [-5.10000038, -1.70000005, -0.170000002, 0.0, 0.5, 2.0],
            ),
            (Curve::Steep { slope: 1.5 }, [-4.5, -1.5, -0.150000006, 0.0, 0.5, 2.0]),
        ];
        for (curve, expected) in cases {
            let mut values = x;
            curve.apply(&mut values, 1.7);
            for (ours, theirs) in values.iter().zip(expected) {
                assert!((ours - theirs).abs() <= 2e-7 * theirs.abs().max(1e-2), "{curve:?}: {ours} {theirs}");
            }
        }
    }
}
