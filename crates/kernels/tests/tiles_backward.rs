//! The backward pass on tiles against its plain twins.

mod common;
#[path = "common/tiles.rs"]
mod shared;

use common::{Numbers, assert_close, magnitudes};
use glioseg_kernels::{
    Amx, ChannelStats, ConvShape, Moments, NormCall, NormKind, PackedTiles, Prologue, TileInput,
    TileNormCall, TileSource, TransposedShape, avg_pool3d_backward, norm_backward_reference,
    tile_activation_backward, tile_avg_pool_backward, tile_bias_gradient, tile_conv3d_backward_data,
    tile_conv3d_backward_data_reference, tile_conv3d_backward_weights,
    tile_conv3d_backward_weights_reference, tile_conv3d_backward_weights_scratch, tile_give,
    tile_norm_backward, tile_scale_channels,
};
use half::bf16;
use proptest::prelude::*;
use shared::{ROUNDED, map, planar, tiles};

/// The gradient of the input, written and added, of some of the channels.
fn check_data(amx: Amx, shape: &ConvShape) {
    let name = format!("{shape:?}");
    let mut numbers = Numbers::new((shape.in_len() * 3 + shape.out_len()) as u64);
    let grad = map(&mut numbers, shape.out_len());
    // The convolution reads two more channels before these and one behind them.
    let all = ConvShape { in_channels: shape.in_channels + 3, ..*shape };
    let weights = numbers.many(all.weight_len());
    let packed = PackedTiles::backward_data(shape, &weights, 2);
    assert_eq!(packed.bytes(), PackedTiles::backward_data_bytes(shape), "{name}");
    let of_part = |co: usize| &weights[(co * all.in_channels + 2) * all.taps()..];
    let own: Vec<f32> = (0..shape.out_channels)
        .flat_map(|co| of_part(co)[..shape.in_channels * all.taps()].iter().copied())
        .collect();
    let want = tile_conv3d_backward_data_reference(shape, &grad, &own);
    let sizes = [shape.in_channels, shape.in_voxels()];
    let mut result = vec![bf16::NAN; shape.in_len()];
    tile_conv3d_backward_data(amx, shape, &grad, &packed, &mut result, false);
    // Errors are relative to what might cancel: few taps see a voxel.
    let size: Vec<f32> = want.iter().map(|v| v.abs() + 0.1).collect();
    assert_close(&name, &planar(&result, sizes), &want, &size, ROUNDED);
    let before = map(&mut numbers, shape.in_len());
    let mut sum = before.clone();
    tile_conv3d_backward_data(amx, shape, &grad, &packed, &mut sum, true);
    let want: Vec<f32> = want.iter().zip(planar(&before, sizes)).map(|(w, b)| w + b).collect();
    assert_close(&format!("{name}, added"), &planar(&sum, sizes), &want, &size, ROUNDED);
    // Other weights in the same memory.
    let mut again = PackedTiles::backward_data(shape, &vec![1.0; weights.len()], 2);
    again.refill_backward_data(shape, &weights, 2);
    let mut other = before;
    tile_conv3d_backward_data(amx, shape, &grad, &again, &mut other, true);
    assert!(sum == other, "{name}: weights in memory of others");
}

/// The gradient of the weights, of one or two inputs or an image; with `normalised` the gradient is changed as it is read.
fn check_weights(amx: Amx, shape: &ConvShape, (second, image): (usize, bool), normalised: bool) {
    let name = format!("{shape:?}, {second}, {image}");
    let mut numbers = Numbers::new((shape.in_len() * 5 + shape.out_len()) as u64);
    let (batch, first) = (shape.batch, shape.in_channels - second);
    let voxels = shape.in_voxels();
    let data = map(&mut numbers, batch * first * voxels);
    let plain = numbers.many(batch * first * voxels);
    let other = map(&mut numbers, batch * second * voxels);
    let (scale, shift) = (numbers.many(batch * first), numbers.many(batch * first));
    let prologue = Some(Prologue { scale: &scale, shift: &shift, slope: 0.01 });
    let mut inputs = vec![if image {
        TileInput::Planar { data: &plain, channels: first }
    } else {
        TileInput::Map(TileSource { data: &data, channels: first, prologue })
    }];
    if second > 0 {
        inputs.push(TileInput::Map(TileSource::plain(&other, second)));
    }
    let grad = map(&mut numbers, shape.out_len());
    let (of_scale, of_shift) =
        (numbers.many(batch * shape.out_channels), numbers.many(batch * shape.out_channels));
    let prologue = normalised.then_some(Prologue { scale: &of_scale, shift: &of_shift, slope: 0.1 });
    let grad = TileSource { data: &grad, channels: shape.out_channels, prologue };
    let want = tile_conv3d_backward_weights_reference(shape, &inputs, &grad);
    let mut result = vec![f32::NAN; shape.weight_len()];
    let mut scratch = vec![f32::NAN; tile_conv3d_backward_weights_scratch(shape).lent];
    tile_conv3d_backward_weights(amx, shape, &inputs, &grad, &mut result, &mut scratch);
    let size: Vec<f32> = want.iter().map(|v| v.abs() + 0.1).collect();
    // A normalised value next to a tie may be rounded the other way.
    let exact = if image && !normalised { 1e-5 } else { 1e-3 };
    assert_close(&name, &result, &want, &size, exact);
}

fn check(amx: Amx, shape: &ConvShape) {
    check_data(amx, shape);
    check_weights(amx, shape, (0, false), false);
}

#[test]
fn gradients_match_their_twins_around_block_edges() {
    let Some(amx) = tiles() else { return };
    for w in [1, 2, 15, 16, 17, 31, 32, 33, 47, 66] {
        check(amx, &ConvShape::same(1, 32, 32, [2, 3, w], [3; 3], [1; 3]));
        check(amx, &ConvShape::same(2, 5, 3, [2, 3, w], [3; 3], [1; 3]));
        check(amx, &ConvShape::same(1, 9, 11, [4, 3, w], [3; 3], [2; 3]));
    }
    for channels in [1, 4, 15, 16, 17, 31, 32, 33, 63, 64, 65] {
        check(amx, &ConvShape::same(1, channels, 7, [3, 4, 18], [3; 3], [1; 3]));
        check(amx, &ConvShape::same(1, 6, channels, [3, 4, 18], [3; 3], [2; 3]));
    }
}

#[test]
fn gradients_of_other_kernels_and_strides_match_their_twins() {
    let Some(amx) = tiles() else { return };
    for kernel in [[1, 3, 3], [3, 1, 3], [1, 1, 1], [2, 2, 2], [5, 3, 1], [1, 1, 7]] {
        for stride in [[1, 1, 1], [2, 2, 2], [1, 2, 2], [2, 1, 1], [3, 3, 3]] {
            check(amx, &ConvShape::same(1, 12, 36, [5, 6, 23], kernel, stride));
        }
    }
}

#[test]
fn weights_of_two_inputs_of_an_image_and_of_a_transposed_convolution_match_their_twin() {
    let Some(amx) = tiles() else { return };
    for (a, b) in [(32, 32), (5, 9), (31, 1), (40, 24), (20, 60)] {
        let shape = ConvShape::same(2, a + b, 34, [3, 4, 22], [3; 3], [1; 3]);
        check_weights(amx, &shape, (b, false), false);
    }
    for (channels, stride) in [(1, 1), (4, 1), (33, 1), (4, 2)] {
        let shape = ConvShape::same(2, channels, 32, [3, 4, 40], [3; 3], [stride; 3]);
        check_weights(amx, &shape, (0, true), false);
    }
    for kernel in [[2; 3], [1, 2, 2], [2, 1, 3]] {
        let up = TransposedShape { batch: 2, in_channels: 40, out_channels: 20, input: [3, 4, 10], kernel };
        check_weights(amx, &up.gradient_shape(), (0, false), true);
    }
}

/// Strips, segments, parts and splits: every way in which a call is cut.
#[test]
fn gradients_of_many_jobs_match_their_twins() {
    let Some(amx) = tiles() else { return };
    for shape in [
        ConvShape::same(2, 32, 3, [17, 20, 70], [3; 3], [1; 3]),
        ConvShape::same(1, 160, 68, [4, 3, 3], [3; 3], [1; 3]),
        ConvShape::same(2, 70, 40, [9, 9, 9], [3; 3], [2; 3]),
        ConvShape::same(1, 140, 2, [10, 16, 16], [3; 3], [1; 3]),
        ConvShape::same(1, 32, 9, [1, 70, 70], [1, 3, 3], [1; 3]),
    ] {
        check(amx, &shape);
    }
}

#[test]
fn gradients_in_bf16_are_the_same_bits_for_any_number_of_threads() {
    let Some(amx) = tiles() else { return };
    let shape = ConvShape::same(2, 20, 40, [17, 19, 37], [3; 3], [2, 1, 2]);
    let mut numbers = Numbers::new(12);
    let (data, grad) = (map(&mut numbers, shape.in_len()), map(&mut numbers, shape.out_len()));
    let weights = numbers.many(shape.weight_len());
    let packed = PackedTiles::backward_data(&shape, &weights, 0);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let mut of_data = vec![bf16::NAN; shape.in_len()];
            tile_conv3d_backward_data(amx, &shape, &grad, &packed, &mut of_data, false);
            let mut of_weights = vec![f32::NAN; shape.weight_len()];
            let mut scratch = vec![0.0; tile_conv3d_backward_weights_scratch(&shape).lent];
            let inputs = [TileInput::Map(TileSource::plain(&data, 20))];
            let grad = TileSource::plain(&grad, 40);
            tile_conv3d_backward_weights(amx, &shape, &inputs, &grad, &mut of_weights, &mut scratch);
            (of_data, of_weights)
        })
    };
    let one = run(1);
    for threads in [2, 3, 7] {
        assert!(one == run(threads), "{threads} threads");
    }
}

#[test]
fn normalisations_lead_gradients_back_as_their_derivative_says() {
    let (batch, channels, voxels) = (2, 6, 1500);
    let mut numbers = Numbers::new(5);
    let x = map(&mut numbers, batch * channels * voxels);
    let grad = map(&mut numbers, x.len());
    let (gamma, beta) = (numbers.many(channels), numbers.many(channels));
    let sizes = [channels, voxels];
    let (plain, plain_grad) = (planar(&x, sizes), planar(&grad, sizes));
    let mut stats = ChannelStats::new(batch, channels, voxels);
    for (row, values) in plain.chunks_exact(voxels).enumerate() {
        stats.sum[row] = values.iter().map(|&v| f64::from(v)).sum();
        stats.sum_sq[row] = values.iter().map(|&v| f64::from(v) * f64::from(v)).sum();
    }
    for kind in [NormKind::Instance, NormKind::Batch, NormKind::Group(3)] {
        for slope in [0.01, 1.0, 0.0] {
            let moments = &Moments::new(&stats, kind);
            let (gamma, beta, eps) = (&gamma[..], &beta[..], 1e-5);
            let call = NormCall { x: &plain, voxels, kind, moments, gamma, beta, eps, slope };
            let (want, of_affine) = norm_backward_reference(&call, &plain_grad);
            let mut result = grad.clone();
            let call = TileNormCall { x: &x, voxels, kind, moments, gamma, beta, eps, slope };
            let (found, of_bias) = tile_norm_backward(&call, &mut result);
            let name = format!("{kind:?}, slope {slope}");
            assert_close(&name, &planar(&result, sizes), &want, &want, ROUNDED);
            assert_close(&format!("{name}, gamma"), &found.gamma, &of_affine.gamma, &of_affine.gamma, 1e-4);
            assert_close(&format!("{name}, beta"), &found.beta, &of_affine.beta, &of_affine.beta, 1e-4);
            let sums = tile_bias_gradient(&result, sizes);
            assert_close(&format!("{name}, bias"), &of_bias, &sums, &vec![1.0; channels], 1e-5);
        }
    }
}

#[test]
fn passes_over_gradients_do_what_their_definitions_say() {
    let (batch, channels, size) = (2, 5, [4, 6, 30]);
    let voxels = size.iter().product::<usize>();
    let sizes = [channels, voxels];
    let mut numbers = Numbers::new(6);
    let values = map(&mut numbers, batch * channels * voxels);
    let grad = map(&mut numbers, values.len());
    let plain = planar(&grad, sizes);

    let mut result = grad.clone();
    tile_activation_backward(&values, 0.1, &mut result);
    let signs = planar(&values, sizes);
    let want: Vec<f32> = plain.iter().zip(&signs).map(|(g, &v)| if v > 0.0 { *g } else { 0.1 * g }).collect();
    assert_close("activation", &planar(&result, sizes), &want, &want, ROUNDED);

    let mut result = values.clone();
    tile_give(&grad, &mut result, true);
    let want: Vec<f32> = plain.iter().zip(&signs).map(|(g, v)| g + v).collect();
    assert_close("sum", &planar(&result, sizes), &want, &magnitudes(&want), ROUNDED);
    tile_give(&grad, &mut result, false);
    assert_eq!(result, grad, "copied");

    let factors = numbers.many(batch * channels);
    tile_scale_channels(&mut result, &factors, sizes);
    let want: Vec<f32> = plain.iter().enumerate().map(|(i, g)| g * factors[i / voxels]).collect();
    assert_close("channels", &planar(&result, sizes), &want, &want, ROUNDED);

    let sums: Vec<f32> = (0..channels)
        .map(|c| (0..batch).map(|n| plain[(n * channels + c) * voxels..][..voxels].iter().sum::<f32>()).sum())
        .collect();
    assert_close("bias", &tile_bias_gradient(&grad, sizes), &sums, &magnitudes(&sums), 1e-4);

    let kernel = [2, 3, 2];
    let pooled = map(&mut numbers, values.len() / 12);
    let mut want = vec![0.0; values.len()];
    avg_pool3d_backward(&planar(&pooled, [channels, voxels / 12]), size, kernel, &mut want);
    let mut result = vec![bf16::NAN; values.len()];
    tile_avg_pool_backward(&pooled, (channels, size), kernel, &mut result, false);
    assert_close("pool", &planar(&result, sizes), &want, &want, ROUNDED);
    let mut result = grad.clone();
    tile_avg_pool_backward(&pooled, (channels, size), kernel, &mut result, true);
    let want: Vec<f32> = want.iter().zip(&plain).map(|(w, g)| w + g).collect();
    assert_close("pool, added", &planar(&result, sizes), &want, &want, ROUNDED);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn any_gradient_matches_its_twin(
        batch in 1usize..=2,
        channels in 1usize..40,
        out_channels in 1usize..40,
        input in prop::array::uniform3(3usize..10),
        kernel in prop::array::uniform3(1usize..=3),
        stride in prop::array::uniform3(1usize..=3),
    ) {
        if let Some(amx) = tiles() {
            check(amx, &ConvShape::same(batch, channels, out_channels, input, kernel, stride));
        }
    }
}
