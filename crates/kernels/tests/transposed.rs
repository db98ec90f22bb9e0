//! The transposed convolution against its reference.

mod common;

use common::{Numbers, assert_close, cpus};
use glioseg_kernels::{
    Cpu, PackedTransposed, Prologue, Source, TransposedShape, conv_transpose3d, conv_transpose3d_reference,
};
use proptest::prelude::*;

fn check(shape: &TransposedShape, prologue: bool, bias: bool, cpus: &[Cpu]) {
    let mut numbers = Numbers::new(shape.in_len() as u64 * 7 + shape.out_len() as u64);
    let data = numbers.many(shape.in_len());
    let rows = shape.batch * shape.in_channels;
    let (scale, shift) = (numbers.many(rows), numbers.many(rows));
    let weights = numbers.many(shape.weight_len());
    let bias = bias.then(|| numbers.many(shape.out_channels));
    let prologue = prologue.then_some(Prologue { scale: &scale, shift: &shift, slope: 0.01 });
    let source = Source { data: &data, channels: shape.in_channels, prologue };
    let want = conv_transpose3d_reference(shape, source, &weights, bias.as_deref());
    for &cpu in cpus {
        let packed = PackedTransposed::new(cpu, shape, &weights);
        let mut out = vec![f32::NAN; shape.out_len()];
        conv_transpose3d(shape, source, &packed, bias.as_deref(), &mut out);
        assert_close(&format!("{} {shape:?}", cpu.name()), &out, &want, &want, 1e-6);
    }
}

#[test]
fn transposed_matches_the_reference_around_block_edges() {
    let cpus = cpus();
    for w in [1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 47, 49, 65] {
        let shape =
            TransposedShape { batch: 2, in_channels: 3, out_channels: 5, input: [2, 3, w], kernel: [2; 3] };
        check(&shape, true, true, &cpus);
    }
    for out_channels in [1, 2, 3, 4, 5, 7, 8, 9, 17, 33] {
        for kernel in [[2, 2, 2], [1, 2, 2], [2, 2, 1], [2, 1, 3], [1, 1, 4]] {
            let shape = TransposedShape { batch: 1, in_channels: 4, out_channels, input: [3, 4, 6], kernel };
            check(&shape, false, true, &cpus);
        }
    }
}

#[test]
fn transposed_matches_the_reference_over_several_jobs() {
    let cpus = cpus();
    let shape =
        TransposedShape { batch: 3, in_channels: 70, out_channels: 33, input: [9, 13, 21], kernel: [2; 3] };
    check(&shape, true, false, &cpus);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_matches_the_reference(
        batch in 1usize..=3,
        in_channels in 1usize..12,
        out_channels in 1usize..20,
        input in prop::array::uniform3(1usize..12),
        kernel in prop::array::uniform3(1usize..=3),
        prologue: bool,
        bias: bool,
    ) {
        let shape = TransposedShape { batch, in_channels, out_channels, input, kernel };
        check(&shape, prologue, bias, &Cpu::available());
    }
}
