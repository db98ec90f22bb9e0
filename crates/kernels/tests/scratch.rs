//! Every call takes the scratch that it tells.

use glioseg_kernels::testing::scratch_of_thread;
use glioseg_kernels::{
    Algorithm, AxialCall, AxialOutput, AxialShape, AxialWeights, ConvShape, Cpu, PackedBackwardData,
    PackedConv, PackedTransposed, Scratch, Source, TransposedShape, UpsampledCall, Upsampling,
    axial_attention, axial_attention_backward, backward_weights_scratch, conv_transpose3d, conv3d,
    conv3d_backward_data, conv3d_backward_weights_by, conv3d_upsampled,
};

/// Runs a call on a thread of its own, whose scratch must then be what was told.
fn check(what: &str, told: Scratch, call: impl FnOnce(&mut [f32]) + Send) {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build().expect("a pool");
    let found = pool.install(|| {
        call(&mut vec![f32::NAN; told.lent]);
        scratch_of_thread()
    });
    assert_eq!(found, told.per_thread, "{what}");
}

#[test]
fn convolutions_take_the_scratch_that_they_tell() {
    for (shape, algorithms) in [
        (ConvShape::same(2, 20, 40, [6, 9, 20], [3; 3], [1; 3]), &Algorithm::ALL[..]),
        (ConvShape::same(1, 3, 18, [2, 21, 33], [1, 3, 3], [1; 3]), &Algorithm::ALL[..]),
        (ConvShape::same(1, 18, 40, [9, 10, 11], [3; 3], [2; 3]), &[Algorithm::Direct, Algorithm::Gemm]),
    ] {
        let data = vec![1.0; shape.in_len()];
        let (sources, grads) = ([Source::plain(&data, shape.in_channels)], vec![1.0; shape.out_len()]);
        let weights = vec![1.0; shape.weight_len()];
        for cpu in Cpu::available() {
            for &algorithm in algorithms {
                let what = format!("{} {algorithm:?} {shape:?}", cpu.name());
                check(&what, PackedConv::scratch(cpu, &shape, algorithm), |scratch| {
                    let packed = PackedConv::new(cpu, &shape, &weights, algorithm);
                    conv3d(&shape, &sources, &packed, None, &mut grads.clone(), None, scratch);
                });
                check(&what, PackedBackwardData::scratch(cpu, &shape, algorithm), |scratch| {
                    let packed = PackedBackwardData::new(cpu, &shape, &weights, algorithm);
                    conv3d_backward_data(&shape, &grads, &packed, scratch, &mut data.clone());
                });
                check(&what, backward_weights_scratch(cpu, &shape, algorithm), |scratch| {
                    let grad = Source::plain(&grads, shape.out_channels);
                    let mut result = weights.clone();
                    conv3d_backward_weights_by(cpu, &shape, &sources, grad, algorithm, &mut result, scratch);
                });
            }
        }
    }
}

#[test]
fn upsampled_convolutions_take_the_scratch_that_they_tell() {
    let up =
        TransposedShape { batch: 2, in_channels: 24, out_channels: 12, input: [5, 6, 7], kernel: [2; 3] };
    let shape = ConvShape::same(2, 20, 40, up.output(), [3; 3], [1; 3]);
    let (below, skip) = (vec![1.0; up.in_len()], vec![1.0; 2 * 8 * shape.in_voxels()]);
    let (up_weights, weights) = (vec![1.0; up.weight_len()], vec![1.0; shape.weight_len()]);
    let source = Source::plain(&below, 24);
    for cpu in Cpu::available() {
        let upsampling = PackedTransposed::new(cpu, &up, &up_weights);
        check(&cpu.name(), PackedTransposed::scratch(&up), |_| {
            conv_transpose3d(&up, source, &upsampling, None, &mut vec![0.0; up.out_len()]);
        });
        for algorithm in Algorithm::ALL {
            let told = Upsampling::scratch(cpu, &up, &shape, algorithm);
            check(&format!("{} {algorithm:?}", cpu.name()), told, |scratch| {
                let packed = PackedConv::new(cpu, &shape, &weights, algorithm);
                let upsampling = Upsampling { shape: &up, source, weights: &upsampling, bias: None };
                let skip = Source::plain(&skip, 8);
                let call = UpsampledCall { shape: &shape, upsampling, skip, weights: &packed, bias: None };
                conv3d_upsampled(call, &mut vec![0.0; shape.out_len()], None, scratch);
            });
        }
    }
}

#[test]
fn attention_takes_the_scratch_that_it_tells() {
    for axis in 0..3 {
        let shape = AxialShape { batch: 1, channels: 6, size: [5, 7, 9], axis, heads: 2, dim_heads: 4 };
        let (matrix, values) = (vec![0.1; 6 * 8], vec![1.0; shape.len()]);
        let (twice, bias) = (vec![0.1; 2 * 6 * 8], vec![0.0; 6]);
        let weights = AxialWeights { q: &matrix, kv: &twice, out: &matrix, bias: &bias };
        let call = AxialCall { shape: &shape, input: Some(&values), positions: None, weights: &weights };
        for cpu in Cpu::available() {
            check(&cpu.name(), shape.scratch(cpu), |_| {
                axial_attention(cpu, &call, AxialOutput::Store, &mut values.clone());
            });
            check(&cpu.name(), shape.backward_scratch(cpu), |scratch| {
                let mut result = values.clone();
                axial_attention_backward(cpu, &call, &values, AxialOutput::Store, &mut result, scratch);
            });
        }
    }
}
