//! Slabs of an up-sampled convolution against the two layers one after the other.

use glioseg_kernels::testing::{by_slabs, slab_len};
use glioseg_kernels::{
    Algorithm, ChannelStats, ConvShape, Cpu, PackedConv, PackedTransposed, Prologue, Source, TransposedShape,
    UpsampledCall, Upsampling, conv_transpose3d, conv3d,
};

fn numbers(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// One layer pair; slabs of `step` planes.
#[derive(Debug)]
struct Case {
    batch: usize,
    channels: [usize; 4],
    below: [usize; 3],
    up: [usize; 3],
    kernel: [usize; 3],
    step: usize,
    algorithm: Algorithm,
}

fn check(case: &Case, cpu: Cpu) {
    let [below, made, skip, outs] = case.channels;
    let up = TransposedShape {
        batch: case.batch,
        in_channels: below,
        out_channels: made,
        input: case.below,
        kernel: case.up,
    };
    let shape = ConvShape::same(case.batch, made + skip, outs, up.output(), case.kernel, [1; 3]);
    let data = [numbers(up.in_len(), 1), numbers(case.batch * skip * shape.in_voxels(), 2)];
    let scales = [numbers(case.batch * below, 3), numbers(case.batch * skip, 4)];
    let shifts = [numbers(case.batch * below, 5), numbers(case.batch * skip, 6)];
    let sources = [0, 1].map(|i| Source {
        data: &data[i],
        channels: [below, skip][i],
        prologue: Some(Prologue { scale: &scales[i], shift: &shifts[i], slope: 0.01 }),
    });
    let (up_bias, bias) = (numbers(made, 7), numbers(outs, 8));
    let up_weights = PackedTransposed::new(cpu, &up, &numbers(up.weight_len(), 9));
    let weights = PackedConv::new(cpu, &shape, &numbers(shape.weight_len(), 10), case.algorithm);
    let stats = || ChannelStats::new(case.batch, outs, shape.out_voxels());

    let mut between = vec![0.0; up.out_len()];
    conv_transpose3d(&up, sources[0], &up_weights, Some(&up_bias), &mut between);
    let whole = [Source::plain(&between, made), sources[1]];
    let (mut want, mut want_stats) = (vec![0.0; shape.out_len()], stats());
    let of_conv = PackedConv::scratch(cpu, &shape, case.algorithm).lent;
    let mut scratch = vec![f32::NAN; of_conv];
    conv3d(&shape, &whole, &weights, Some(&bias), &mut want, Some(&mut want_stats), &mut scratch);

    let upsampling =
        Upsampling { shape: &up, source: sources[0], weights: &up_weights, bias: Some(&up_bias) };
    let (mut out, mut out_stats) = (vec![f32::NAN; shape.out_len()], stats());
    // A slab's matrix is no larger than that of all.
    let mut scratch = vec![f32::NAN; slab_len(&up, case.step, case.kernel[0]) + of_conv];
    let bias = Some(bias.as_slice());
    let call = UpsampledCall { shape: &shape, upsampling, skip: sources[1], weights: &weights, bias };
    by_slabs(case.step, call, &mut out, Some(&mut out_stats), &mut scratch);
    let size = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    for (i, (a, b)) in out.iter().zip(&want).enumerate() {
        assert!((a - b).abs() <= 1e-5 * size, "{} {case:?}: {a} for {b} at {i}", cpu.name());
    }
    for (a, b) in out_stats.sum_sq.iter().zip(&want_stats.sum_sq) {
        assert!((a - b).abs() <= 1e-5 * b, "{} {case:?}: squares {a} for {b}", cpu.name());
    }
    assert_eq!(out_stats.sum.len(), want_stats.sum.len());
}

#[test]
fn slabs_give_what_the_two_layers_give_one_after_the_other() {
    for cpu in Cpu::available() {
        for algorithm in [Algorithm::Direct, Algorithm::Winograd, Algorithm::Gemm] {
            for (below, up, kernel, step) in [
                ([5, 3, 9], [2, 2, 2], [3, 3, 3], 8),
                ([5, 3, 9], [2, 2, 2], [3, 3, 3], 3),
                ([9, 4, 8], [1, 2, 2], [1, 3, 3], 4),
                ([7, 5, 6], [1, 2, 2], [3, 3, 3], 4),
                ([4, 4, 17], [2, 2, 2], [3, 3, 3], 1),
                ([2, 4, 4], [2, 2, 2], [3, 3, 3], 64),
            ] {
                for batch in [1, 2] {
                    let channels = [5, 3, 4, 18];
                    check(&Case { batch, channels, below, up, kernel, step, algorithm }, cpu);
                }
            }
        }
    }
}
