//! Initial weights as nnU-Net draws them, from a seed.
//!
//! Every tensor has its own stream of random numbers, made from the seed and the tensor's position in the network,
//! so that the values depend neither on the thread count nor on the order of use.

use std::f64::consts::TAU;

use rayon::prelude::*;

use crate::shapes::{Initial, ParameterShape};

/// Values drawn from one stream; also the unit of parallel work.
const CHUNK: usize = 1 << 14;

/// The first values of a tensor.
pub(crate) fn draw(shape: &ParameterShape, seed: u64) -> Vec<f32> {
    let key = mix(seed) ^ mix(shape.draw.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    match shape.initial {
        Initial::Normal { std } => normal(key, shape.len(), std),
        Initial::Uniform { bound } => uniform(key, shape.len(), bound),
        Initial::Constant { value } => vec![value; shape.len()],
    }
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
}
