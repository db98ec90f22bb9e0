//! Building blocks that no call shows alone.

use glioseg_kernels::Cpu;
use glioseg_kernels::testing::{Taps, exp_in_place, taps_by_frequencies};

#[test]
fn frequencies_multiply_to_a_convolution_and_its_gradient() {
    let input = [1.0f32, -2.0, 0.25, 3.0, -0.5, 1.5];
    let (taps, gradient) = ([0.5f64, -1.25, 2.0], [0.75f32, -1.0, 2.0, 0.5]);
    let close = |a: f32, b: f64| (f64::from(a) - b).abs() < 1e-5;
    for cpu in Cpu::available() {
        let (out, found) = taps_by_frequencies(cpu, Taps { taps, input, gradient });
        for (o, &value) in out.iter().enumerate() {
            let want: f64 = (0..3).map(|k| taps[k] * f64::from(input[o + k])).sum();
            assert!(close(value, want), "{} output {o}: {value} for {want}", cpu.name());
        }
        for (k, &value) in found.iter().enumerate() {
            let want: f64 = gradient.iter().enumerate().map(|(o, &g)| f64::from(g * input[o + k])).sum();
            assert!(close(value, want), "{} tap {k}: {value} for {want}", cpu.name());
        }
    }
}

#[test]
fn exp_is_exact_to_a_few_units() {
    let mut values: Vec<f32> = (0..8000u16).map(|i| -f32::from(i) * 0.01).collect();
    let expected: Vec<f64> = values.iter().map(|&v| f64::from(v).exp()).collect();
    exp_in_place(&mut values);
    for (v, e) in values.iter().zip(expected) {
        assert!((f64::from(*v) / e - 1.0).abs() < 4e-7, "{v} {e}");
    }
    let mut far = [f32::NEG_INFINITY, -1e30, -200.0];
    exp_in_place(&mut far);
    assert!(far.iter().all(|&v| (0.0..1e-37).contains(&v)), "{far:?}");
}
