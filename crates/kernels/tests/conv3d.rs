//! The convolution against its reference, on every instruction set, around every block edge.

mod common;

use common::{Numbers, assert_close, cpus};
use glioseg_kernels::{
    Algorithm, ChannelStats, ConvShape, Cpu, PackedConv, Prologue, Source, conv3d, conv3d_reference,
};
use proptest::prelude::*;

/// A convolution with random data; `split` channels come from the first of two sources (0: one source only).
#[derive(Debug, Clone)]
struct Case {
    shape: ConvShape,
    split: usize,
    prologue: bool,
    bias: bool,
}

fn tolerance(algorithm: Algorithm) -> f64 {
    match algorithm {
        Algorithm::Direct | Algorithm::Gemm => 1e-6,
        _ => 1e-5,
    }
}

fn check(case: &Case, algorithms: &[Algorithm], cpus: &[Cpu]) {
    let shape = &case.shape;
    let mut numbers = Numbers::new(shape.in_len() as u64 * 31 + shape.out_len() as u64);
    let voxels = shape.in_voxels();
    let channels: Vec<usize> = if case.split == 0 {
        vec![shape.in_channels]
    } else {
        vec![case.split, shape.in_channels - case.split]
    };
    let data: Vec<_> = channels.iter().map(|c| numbers.many(shape.batch * c * voxels)).collect();
    let scale: Vec<_> = channels.iter().map(|c| numbers.many(shape.batch * c)).collect();
    let shift: Vec<_> = channels.iter().map(|c| numbers.many(shape.batch * c)).collect();
    let sources: Vec<_> = (0..channels.len())
        .map(|i| Source {
            data: &data[i],
            channels: channels[i],
            // The second source may have another activation than the first.
            prologue: case.prologue.then(|| Prologue {
                scale: &scale[i],
                shift: &shift[i],
                slope: if i == 0 { 0.01 } else { 1.0 },
            }),
        })
        .collect();
    let weights = numbers.many(shape.weight_len());
    let bias = case.bias.then(|| numbers.many(shape.out_channels));
    let want = conv3d_reference(shape, &sources, &weights, bias.as_deref());
    let applied: Vec<_> = sources.iter().map(|s| common::magnitudes(&common::apply(s, voxels))).collect();
    let plain: Vec<_> = applied.iter().zip(&channels).map(|(a, &c)| Source::plain(a, c)).collect();
    let size = conv3d_reference(shape, &plain, &common::magnitudes(&weights), None);
    // Of many values few cancel: there the error is measured against the values themselves.
    let size = if want.len() >= 1000 { want.clone() } else { size };
    for &cpu in cpus {
        for &algorithm in algorithms {
            let packed = PackedConv::new(cpu, shape, &weights, algorithm);
            let mut out = vec![f32::NAN; shape.out_len()];
            let mut stats = ChannelStats::new(shape.batch, shape.out_channels, shape.out_voxels());
            let mut scratch = vec![f32::NAN; PackedConv::scratch(cpu, shape, algorithm).lent];
            conv3d(shape, &sources, &packed, bias.as_deref(), &mut out, Some(&mut stats), &mut scratch);
            let what = format!("{} {algorithm:?} {case:?}", cpu.name());
            assert_close(&what, &out, &want, &size, tolerance(algorithm));
            for (row, values) in out.chunks_exact(shape.out_voxels()).enumerate() {
                let sum: f64 = values.iter().map(|&x| f64::from(x)).sum();
                let sum_sq: f64 = values.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                let size: f64 = values.iter().map(|&x| f64::from(x).abs()).sum();
                assert!((stats.sum[row] - sum).abs() <= 1e-6 * size, "{what}: sum of row {row}");
                assert!((stats.sum_sq[row] - sum_sq).abs() <= 1e-6 * sum_sq, "{what}: squares of row {row}");
            }
            let mut again = vec![f32::NAN; shape.out_len()];
            conv3d(shape, &sources, &packed, bias.as_deref(), &mut again, None, &mut scratch);
            assert_eq!(out, again, "{what}: without statistics");
        }
    }
}

fn same(
    batch: usize,
    ci: usize,
    co: usize,
    input: [usize; 3],
    kernel: [usize; 3],
    stride: [usize; 3],
) -> ConvShape {
    ConvShape::same(batch, ci, co, input, kernel, stride)
}

#[test]
fn direct_matches_the_reference_around_block_edges() {
    let cpus = cpus();
    for w in [1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 18, 31, 33, 47, 48, 49, 50, 65] {
        let case =
            Case { shape: same(1, 2, 9, [2, 3, w], [3; 3], [1; 3]), split: 0, prologue: true, bias: true };
        check(&case, &[Algorithm::Direct, Algorithm::Gemm], &cpus);
    }
    for co in [1, 2, 3, 4, 5, 7, 8, 9, 10, 16, 17, 33] {
        let case =
            Case { shape: same(2, 3, co, [3, 4, 6], [3; 3], [1; 3]), split: 1, prologue: true, bias: false };
        check(&case, &[Algorithm::Direct, Algorithm::Gemm], &cpus);
    }
    for (d, h) in [(1, 1), (2, 17), (5, 16), (9, 8), (10, 3)] {
        let case =
            Case { shape: same(3, 2, 3, [d, h, 7], [3; 3], [1; 3]), split: 0, prologue: false, bias: true };
        check(&case, &[Algorithm::Direct, Algorithm::Gemm], &cpus);
    }
}

#[test]
fn direct_matches_the_reference_with_strides_and_flat_kernels() {
    let cpus = cpus();
    for kernel in [[1, 1, 1], [1, 3, 3], [3, 1, 3], [3, 3, 1], [5, 3, 1], [3, 3, 5]] {
        for stride in [[1, 1, 1], [2, 2, 2], [1, 2, 2], [2, 1, 1], [1, 1, 3]] {
            for input in [[5, 6, 7], [4, 4, 34]] {
                let case = Case {
                    shape: same(2, 5, 11, input, kernel, stride),
                    split: 2,
                    prologue: true,
                    bias: true,
                };
                check(&case, &[Algorithm::Direct, Algorithm::Gemm], &cpus);
            }
        }
    }
}

#[test]
fn direct_matches_the_reference_when_input_channels_come_in_chunks() {
    let cpus = cpus();
    let case =
        Case { shape: same(1, 130, 9, [10, 17, 40], [3; 3], [1; 3]), split: 65, prologue: true, bias: true };
    check(&case, &[Algorithm::Direct, Algorithm::Gemm], &cpus);
}

#[test]
fn winograd_matches_the_reference_around_block_edges() {
    let cpus = cpus();
    for w in [1, 2, 3, 4, 5, 8, 9, 12, 15, 16, 17, 18, 31, 32, 33, 64, 65, 66] {
        let case =
            Case { shape: same(1, 2, 3, [3, 5, w], [3; 3], [1; 3]), split: 0, prologue: true, bias: true };
        check(&case, &[Algorithm::Winograd], &cpus);
    }
    for (d, h) in [(1, 1), (4, 4), (5, 8), (8, 9), (9, 17)] {
        for kernel in [[3, 3, 3], [1, 3, 3]] {
            let case = Case {
                shape: same(2, 3, 4, [d, h, 17], kernel, [1; 3]),
                split: 1,
                prologue: true,
                bias: true,
            };
            check(&case, &[Algorithm::Winograd], &cpus);
        }
    }
    for co in [1, 15, 16, 17, 31, 32, 33, 49, 130] {
        let case =
            Case { shape: same(1, 3, co, [4, 5, 6], [3; 3], [1; 3]), split: 0, prologue: false, bias: false };
        check(&case, &[Algorithm::Winograd], &cpus);
    }
    for ci in [31, 33, 70, 140] {
        let case = Case {
            shape: same(1, ci, 17, [8, 9, 17], [3; 3], [1; 3]),
            split: 16,
            prologue: true,
            bias: true,
        };
        check(&case, &[Algorithm::Winograd], &cpus);
    }
}

#[test]
fn winograd_takes_any_padding() {
    for padding in [[0, 0, 0], [2, 1, 0], [0, 3, 2]] {
        let shape = ConvShape { padding, ..same(1, 5, 6, [5, 6, 19], [3; 3], [1; 3]) };
        let case = Case { shape, split: 2, prologue: true, bias: true };
        check(&case, &[Algorithm::Winograd, Algorithm::Direct, Algorithm::Gemm], &cpus());
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let kernel = prop::array::uniform3(prop::sample::select(vec![1usize, 3]));
    let stride = prop::array::uniform3(1usize..=2);
    let sizes = prop::array::uniform3(1usize..20);
    (1usize..=3, 1usize..20, 1usize..20, sizes, kernel, stride, 0usize..20, any::<bool>(), any::<bool>())
        .prop_map(|(n, ci, co, input, kernel, stride, split, prologue, bias)| Case {
            shape: ConvShape::same(n, ci, co, input, kernel, stride),
            split: split % ci,
            prologue,
            bias,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn any_shape_matches_the_reference(case in cases()) {
        let all = Algorithm::ALL;
        let able: Vec<_> = all.into_iter().filter(|a| a.supports(&case.shape)).collect();
        check(&case, &able, &Cpu::available());
    }
}
