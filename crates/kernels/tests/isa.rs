//! The choice of instruction set, and that threads do not change results.

mod common;

use common::Numbers;
use glioseg_diagnose::Diagnose as _;
use glioseg_kernels::{
    Algorithm, ChannelStats, ConvShape, Cpu, KernelError, Level, PackedConv, Source,
    backward_weights_scratch, channel_stats, conv3d, conv3d_backward_weights_by,
};

#[test]
fn a_word_that_names_no_level_is_an_error_with_a_hint() {
    let error = Cpu::named("avx9").expect_err("no such level");
    assert_eq!(error, KernelError::UnknownIsa { given: "avx9".to_owned() });
    assert!(error.to_string().contains("`avx9`"), "{error}");
    assert!(error.hint().expect("a hint").contains("scalar"));
}

#[test]
fn a_level_of_another_cpu_is_an_error() {
    let foreign = if cfg!(target_arch = "x86_64") { Level::Neon } else { Level::Avx2 };
    let error = Cpu::named(foreign.word()).expect_err("another CPU's");
    assert!(matches!(error, KernelError::UnsupportedIsa { given, .. } if given == foreign));
}

#[test]
fn every_available_level_can_be_named() {
    for cpu in Cpu::available() {
        assert_eq!(Cpu::named(cpu.level().word()), Ok(cpu));
        assert!(cpu.lanes() >= 4 && cpu.name().contains(cpu.level().word()));
    }
    assert_eq!(Cpu::available()[0].level(), Level::Scalar);
}

#[test]
fn results_are_the_same_bits_for_any_number_of_threads() {
    let shape = ConvShape::same(2, 20, 24, [17, 19, 37], [3; 3], [1; 3]);
    let mut numbers = Numbers::new(11);
    let (data, weights) = (numbers.many(shape.in_len()), numbers.many(shape.weight_len()));
    let run = |cpu: Cpu, algorithm: Algorithm, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| {
            let packed = PackedConv::new(cpu, &shape, &weights, algorithm);
            let mut out = vec![0.0; shape.out_len()];
            let mut stats = ChannelStats::new(2, 24, shape.out_voxels());
            let sources = [Source::plain(&data, 20)];
            let mut scratch = vec![f32::NAN; PackedConv::scratch(cpu, &shape, algorithm).lent];
            conv3d(&shape, &sources, &packed, None, &mut out, Some(&mut stats), &mut scratch);
            let mut gradient = vec![0.0; shape.weight_len()];
            let grad = Source::plain(&out, 24);
            let mut scratch = vec![f32::NAN; backward_weights_scratch(cpu, &shape, algorithm).lent];
            conv3d_backward_weights_by(cpu, &shape, &sources, grad, algorithm, &mut gradient, &mut scratch);
            let again = channel_stats(cpu, &out, 24, shape.out_voxels());
            (out, stats, gradient, again)
        })
    };
    for cpu in Cpu::available() {
        for algorithm in [Algorithm::Direct, Algorithm::Winograd, Algorithm::Gemm] {
            let one = run(cpu, algorithm, 1);
            for threads in [2, 3, 7] {
                assert!(one == run(cpu, algorithm, threads), "{} {algorithm:?} {threads}", cpu.name());
            }
        }
    }
}
