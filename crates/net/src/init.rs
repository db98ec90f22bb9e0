//! Initial weights as nnU-Net draws them, lazily and from a seed.
//!
//! Every tensor has its own stream of random numbers, made from the seed and the tensor's position in the network,
//! so that the values depend neither on the thread count nor on the order of use; and a tensor that is loaded from
//! a file before its first use is never drawn.

use std::f64::consts::TAU;

use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use rayon::prelude::*;

/// Values drawn from one stream; also the unit of parallel work.
const CHUNK: usize = 1 << 14;

/// He initialisation for a leaky ReLU of slope 0.01, whatever slope the network has.
///
/// # Source
/// `InitWeights_He(1e-2)`: `kaiming_normal_` with fan-in, which is `size(1) * prod(kernel)` also for transposed
/// convolutions (there `size(1)` counts the *output* channels).
pub(crate) fn he_std(shape: [usize; 5]) -> f64 {
    let fan_in = shape[1..].iter().product::<usize>() as f64;
    (2.0 / (1.0 + 0.01f64.powi(2))).sqrt() / fan_in.sqrt()
}

/// Draws parameters one after the other.
#[derive(Debug)]
pub(crate) struct Init<'a> {
    seed: u64,
    drawn: u64,
    device: &'a Device,
}

impl<'a> Init<'a> {
    pub(crate) fn new(seed: u64, device: &'a Device) -> Self {
        Self { seed, drawn: 0, device }
    }

    pub(crate) fn device(&self) -> &'a Device {
        self.device
    }

    /// A weight with He's distribution, drawn at its first use.
    pub(crate) fn he(&mut self, shape: [usize; 5]) -> Param<Tensor<5>> {
        self.drawn(shape, move |key, len| normal(key, len, he_std(shape)))
    }

    /// A tensor of standard normal values, drawn at its first use.
    pub(crate) fn normal<const D: usize>(&mut self, shape: [usize; D]) -> Param<Tensor<D>> {
        self.drawn(shape, |key, len| normal(key, len, 1.0))
    }

    /// A tensor of values between plus and minus one over the root of `inputs`, drawn at its first use: PyTorch's linear layers.
    pub(crate) fn uniform<const D: usize>(&mut self, shape: [usize; D], inputs: usize) -> Param<Tensor<D>> {
        self.drawn(shape, move |key, len| uniform(key, len, 1.0 / (inputs as f64).sqrt()))
    }

    fn drawn<const D: usize>(
        &mut self,
        shape: [usize; D],
        draw: impl Fn(u64, usize) -> Vec<f32> + Send + Sync + 'static,
    ) -> Param<Tensor<D>> {
        self.drawn += 1;
        let key = mix(self.seed) ^ mix(self.drawn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Param::uninitialized(
            ParamId::new(),
            move |device, require_grad| {
                let values = draw(key, shape.iter().product());
                Tensor::from_data(TensorData::new(values, shape), device).set_require_grad(require_grad)
            },
            self.device.clone(),
            true,
            shape.into(),
        )
    }

    /// A bias of zeros.
    pub(crate) fn zeros(&self, channels: usize) -> Param<Tensor<1>> {
        constant(channels, 0.0, self.device)
    }
}

/// A vector of equal values, made at its first use.
pub(crate) fn constant(channels: usize, value: f32, device: &Device) -> Param<Tensor<1>> {
    Param::uninitialized(
        ParamId::new(),
        move |device, require_grad| Tensor::full([channels], value, device).set_require_grad(require_grad),
        device.clone(),
        true,
        [channels].into(),
    )
}

/// `len` values of mean 0 and this standard deviation.
fn normal(key: u64, len: usize, std: f64) -> Vec<f32> {
    let mut values = vec![0f32; len];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(i, chunk)| {
        let mut state = mix(key.wrapping_add(i as u64));
        let mut uniform = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            // 53 bits, shifted by half a step so that the logarithm below never sees 0.
            ((mix(state) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
        };
        for pair in chunk.chunks_mut(2) {
            let radius = std * (-2.0 * uniform().ln()).sqrt();
            let (sin, cos) = (TAU * uniform()).sin_cos();
            pair[0] = (radius * cos) as f32;
            if let Some(second) = pair.get_mut(1) {
                *second = (radius * sin) as f32;
            }
        }
    });
    values
}

/// Uniform values between `-bound` and `bound`.
fn uniform(key: u64, len: usize, bound: f64) -> Vec<f32> {
    let mut values = vec![0f32; len];
    values.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        for (i, v) in values.iter_mut().enumerate() {
            let bits =
                mix(key.wrapping_add(((chunk * CHUNK + i) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            // 53 random bits as a fraction of 1.
            let fraction = (bits >> 11) as f64 / (1u64 << 53) as f64;
            *v = ((2.0 * fraction - 1.0) * bound) as f32;
        }
    });
    values
}

/// The finalizer of `SplitMix64`: neighbouring numbers become unrelated ones.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normal_has_the_asked_moments() {
        let values = normal(7, 200_001, 0.3);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        let fourth = values.iter().map(|&v| (f64::from(v) - mean).powi(4)).sum::<f64>() / n;
        assert!(mean.abs() < 0.003, "mean {mean}");
        assert!((var.sqrt() - 0.3).abs() < 0.002, "std {}", var.sqrt());
        assert!((fourth / var.powi(2) - 3.0).abs() < 0.06, "kurtosis {}", fourth / var.powi(2));
    }

    #[test]
    fn uniform_has_the_asked_bounds() {
        let values = uniform(7, 200_001, 0.25);
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var = values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
        assert!(values.iter().all(|v| v.abs() <= 0.25));
        assert!(mean.abs() < 0.002 && (var.sqrt() - 0.5 / 12f64.sqrt()).abs() < 0.002, "{mean} {var}");
    }

    #[test]
    fn he_std_counts_the_second_axis_for_transposed_convolutions_too() {
        // weight of a transposed convolution from 320 to 256 channels
        let expected = (2.0f64 / 1.0001).sqrt() / (256.0f64 * 8.0).sqrt();
        assert!((he_std([320, 256, 2, 2, 2]) - expected).abs() < 1e-12);
    }
}
