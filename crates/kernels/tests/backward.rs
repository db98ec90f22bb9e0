//! Gradients against their references, on every instruction set.

mod common;

use common::{Numbers, assert_close, cpus};
use glioseg_kernels::{
    Algorithm, ConvShape, Cpu, Moments, NormCall, NormKind, PackedBackwardData, Prologue, Source,
    TransposedShape, backward_weights_scratch, bias_gradient, channel_stats, conv_transpose3d_reference,
    conv3d_backward_data, conv3d_backward_data_reference, conv3d_backward_weights,
    conv3d_backward_weights_by, conv3d_backward_weights_reference, norm_backward, norm_backward_reference,
};
use proptest::prelude::*;

fn check(shape: &ConvShape, split: usize, prologue: bool, cpus: &[Cpu]) {
    let mut numbers = Numbers::new(shape.in_len() as u64 * 13 + shape.out_len() as u64);
    let voxels = shape.in_voxels();
    let channels: Vec<usize> =
        if split == 0 { vec![shape.in_channels] } else { vec![split, shape.in_channels - split] };
    let data: Vec<_> = channels.iter().map(|c| numbers.many(shape.batch * c * voxels)).collect();
    let scale: Vec<_> = channels.iter().map(|c| numbers.many(shape.batch * c)).collect();
    let shift: Vec<_> = channels.iter().map(|c| numbers.many(shape.batch * c)).collect();
    let sources: Vec<_> = (0..channels.len())
        .map(|i| Source {
            data: &data[i],
            channels: channels[i],
            prologue: prologue.then(|| Prologue { scale: &scale[i], shift: &shift[i], slope: 0.01 }),
        })
        .collect();
    let weights = numbers.many(shape.weight_len());
    let grad = numbers.many(shape.out_len());
    let grad_source = Source::plain(&grad, shape.out_channels);
    let want_data = conv3d_backward_data_reference(shape, &grad, &weights);
    let want_weights = conv3d_backward_weights_reference(shape, &sources, grad_source);
    // Sums of the products' magnitudes: what the errors are relative to.
    let (grad_size, weights_size) = (common::magnitudes(&grad), common::magnitudes(&weights));
    let data_size = conv3d_backward_data_reference(shape, &grad_size, &weights_size);
    let applied: Vec<_> = sources.iter().map(|s| common::magnitudes(&common::apply(s, voxels))).collect();
    let plain: Vec<_> = applied.iter().zip(&channels).map(|(a, &c)| Source::plain(a, c)).collect();
    let weight_size =
        conv3d_backward_weights_reference(shape, &plain, Source::plain(&grad_size, shape.out_channels));
    for &cpu in cpus {
        for algorithm in [Algorithm::Direct, Algorithm::Winograd] {
            let packed = PackedBackwardData::new(cpu, shape, &weights, algorithm);
            let mut got = vec![f32::NAN; shape.in_len()];
            let mut scratch = vec![f32::NAN; PackedBackwardData::scratch(cpu, shape, algorithm).lent];
            conv3d_backward_data(shape, &grad, &packed, &mut scratch, &mut got);
            let mut memory = vec![f32::NAN; PackedBackwardData::packed_len(shape, algorithm)];
            let lent = PackedBackwardData::new_in(cpu, shape, &weights, 0, algorithm, &mut memory);
            let mut again = vec![f32::NAN; shape.in_len()];
            conv3d_backward_data(shape, &grad, &lent, &mut scratch, &mut again);
            assert_eq!(got, again, "weights prepared in lent memory, {shape:?}");
            let tolerance = if algorithm == Algorithm::Direct { 1e-6 } else { 1e-5 };
            // The last channels alone, from the weights of all.
            let first = shape.in_channels / 2;
            let some = ConvShape { in_channels: shape.in_channels - first, ..*shape };
            let mut memory = vec![f32::NAN; PackedBackwardData::packed_len(&some, algorithm)];
            let last = PackedBackwardData::new_in(cpu, &some, &weights, first, algorithm, &mut memory);
            let mut scratch = vec![f32::NAN; PackedBackwardData::scratch(cpu, &some, algorithm).lent];
            let mut of_last = vec![f32::NAN; some.in_len()];
            conv3d_backward_data(&some, &grad, &last, &mut scratch, &mut of_last);
            let lasts = |all: &[f32]| -> Vec<f32> {
                let samples = all.chunks_exact(shape.in_channels * voxels);
                samples.flat_map(|sample| &sample[first * voxels..]).copied().collect()
            };
            assert_close(
                &format!("{} {algorithm:?} data from channel {first} of {shape:?}", cpu.name()),
                &of_last,
                &lasts(&want_data),
                &lasts(&data_size),
                tolerance,
            );
            assert_close(
                &format!("{} {algorithm:?} data {shape:?}", cpu.name()),
                &got,
                &want_data,
                &data_size,
                tolerance,
            );
        }
        for algorithm in [Algorithm::Direct, Algorithm::Winograd] {
            if algorithm.supports(shape) {
                let mut got = vec![f32::NAN; shape.weight_len()];
                let lent = backward_weights_scratch(cpu, shape, algorithm).lent;
                let mut scratch = vec![f32::NAN; lent];
                conv3d_backward_weights_by(
                    cpu,
                    shape,
                    &sources,
                    grad_source,
                    algorithm,
                    &mut got,
                    &mut scratch,
                );
                let what = format!("{} {algorithm:?} weights {split} {shape:?}", cpu.name());
                assert_close(
                    &what,
                    &got,
                    &want_weights,
                    &weight_size,
                    if algorithm == Algorithm::Direct { 1e-6 } else { 1e-5 },
                );
            }
        }
    }
}

#[test]
fn gradients_match_the_reference_around_block_edges() {
    let cpus = cpus();
    for w in [1, 2, 3, 4, 7, 9, 15, 16, 17, 31, 33, 65] {
        check(&ConvShape::same(1, 2, 3, [3, 5, w], [3; 3], [1; 3]), 0, true, &cpus);
    }
    for (ci, co) in [(1, 1), (3, 7), (8, 9), (15, 17), (17, 16), (33, 5)] {
        check(&ConvShape::same(2, ci, co, [3, 4, 6], [3; 3], [1; 3]), ci / 2, true, &cpus);
    }
}

#[test]
fn gradients_match_the_reference_with_strides_and_flat_kernels() {
    let cpus = cpus();
    for kernel in [[3, 3, 3], [1, 3, 3], [1, 1, 1], [2, 2, 2], [5, 3, 1]] {
        for stride in [[2, 2, 2], [1, 2, 2], [1, 1, 1], [2, 1, 3]] {
            for input in [[4, 6, 8], [5, 7, 9]] {
                check(&ConvShape::same(2, 3, 5, input, kernel, stride), 1, false, &cpus);
            }
        }
    }
}

#[test]
fn weight_gradients_match_the_reference_over_many_boxes() {
    check(&ConvShape::same(2, 5, 6, [10, 40, 50], [3; 3], [1; 3]), 2, true, &cpus());
    check(&ConvShape::same(1, 4, 6, [21, 39, 67], [3; 3], [2; 3]), 2, true, &cpus());
    check(&ConvShape::same(1, 35, 34, [5, 9, 18], [3; 3], [1; 3]), 2, true, &cpus());
    check(&ConvShape::same(2, 5, 6, [3, 21, 70], [1, 3, 3], [1; 3]), 2, true, &cpus());
}

#[test]
fn transposed_gradients_are_those_of_the_strided_convolution() {
    // <transposed(x), g> is linear in x and in w, so its derivatives are the gradients.
    let up =
        TransposedShape { batch: 2, in_channels: 3, out_channels: 4, input: [2, 3, 5], kernel: [1, 2, 2] };
    let shape = up.gradient_shape();
    let mut numbers = Numbers::new(3);
    let (x, w, g) = (numbers.many(up.in_len()), numbers.many(up.weight_len()), numbers.many(up.out_len()));
    let value = |x: &[f32], w: &[f32]| -> f64 {
        let y = conv_transpose3d_reference(&up, Source::plain(x, 3), w, None);
        y.iter().zip(&g).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
    };
    let cpu = Cpu::available()[0];
    let packed = glioseg_kernels::PackedConv::new(cpu, &shape, &w, Algorithm::Auto);
    let mut dx = vec![0.0; x.len()];
    let mut scratch = vec![f32::NAN; glioseg_kernels::PackedConv::scratch(cpu, &shape, Algorithm::Auto).lent];
    glioseg_kernels::conv3d(&shape, &[Source::plain(&g, 4)], &packed, None, &mut dx, None, &mut scratch);
    let mut dw = vec![0.0; w.len()];
    let mut scratch = vec![f32::NAN; backward_weights_scratch(cpu, &shape, Algorithm::Auto).lent];
    conv3d_backward_weights(
        cpu,
        &shape,
        &[Source::plain(&g, 4)],
        Source::plain(&x, 3),
        &mut dw,
        &mut scratch,
    );
    for i in [0, 7, 40, x.len() - 1] {
        let mut unit = vec![0.0; x.len()];
        unit[i] = 1.0;
        assert!((value(&unit, &w) - f64::from(dx[i])).abs() < 1e-5, "input {i}");
    }
    for i in [0, 5, 23, w.len() - 1] {
        let mut unit = vec![0.0; w.len()];
        unit[i] = 1.0;
        assert!((value(&x, &unit) - f64::from(dw[i])).abs() < 1e-5, "weight {i}");
    }
}

#[test]
fn norm_gradients_match_the_reference_for_every_kind() {
    for cpu in cpus() {
        for kind in [NormKind::Instance, NormKind::Group(2), NormKind::Group(3), NormKind::Batch] {
            for voxels in [5, 17, 40_000] {
                let (batch, channels) = (2, 6);
                let mut numbers = Numbers::new(voxels as u64);
                let x: Vec<_> =
                    numbers.many(batch * channels * voxels).iter().map(|x| 3.0 * x + 1.0).collect();
                let (gamma, beta) = (numbers.many(channels), numbers.many(channels));
                let grad = numbers.many(x.len());
                let moments = Moments::new(&channel_stats(cpu, &x, channels, voxels), kind);
                let call = NormCall {
                    x: &x,
                    voxels,
                    kind,
                    moments: &moments,
                    gamma: &gamma,
                    beta: &beta,
                    eps: 1e-5,
                    slope: 0.01,
                };
                let (want, gradients) = norm_backward_reference(&call, &grad);
                let mut got = grad;
                let found = norm_backward(cpu, &call, &mut got);
                let what = format!("{} {kind:?} {voxels}", cpu.name());
                assert_close(&what, &got, &want, &want, 2e-6);
                assert_close(&what, &found.gamma, &gradients.gamma, &gradients.gamma, 1e-5);
                assert_close(&what, &found.beta, &gradients.beta, &gradients.beta, 1e-5);
            }
        }
    }
}

#[test]
fn bias_gradient_sums_over_samples_and_voxels() {
    let grad = Numbers::new(4).many(2 * 3 * 50);
    for cpu in cpus() {
        let got = bias_gradient(cpu, &grad, 3, 50);
        for c in 0..3 {
            let want: f32 = [0, 1].iter().map(|n| grad[(n * 3 + c) * 50..][..50].iter().sum::<f32>()).sum();
            assert!((got[c] - want).abs() < 1e-5);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn gradients_of_any_shape_match_the_reference(
        batch in 1usize..=3,
        ci in 1usize..20,
        co in 1usize..20,
        input in prop::array::uniform3(1usize..11),
        kernel in prop::array::uniform3(prop::sample::select(vec![1usize, 3])),
        stride in prop::array::uniform3(1usize..=2),
        split in 0usize..20,
    ) {
        let shape = ConvShape::same(batch, ci, co, input, kernel, stride);
        check(&shape, split % ci, true, &Cpu::available());
    }
}
