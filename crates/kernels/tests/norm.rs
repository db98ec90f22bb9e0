//! Normalisation, residual addition and pooling against plain loops.

mod common;

use common::{Numbers, assert_close, cpus};
use glioseg_kernels::{
    Moments, NormKind, ScaleShift, add_activate, avg_pool3d, avg_pool3d_backward, channel_stats,
    norm_reference, normalize, normalize_in_place,
};

#[test]
fn norm_matches_the_reference_for_every_kind() {
    for cpu in cpus() {
        for kind in
            [NormKind::Instance, NormKind::Group(1), NormKind::Group(3), NormKind::Group(6), NormKind::Batch]
        {
            for voxels in [1, 2, 15, 17, 4096 * 8 + 3, 70_001] {
                let (batch, channels) = (2, 6);
                let mut numbers = Numbers::new(voxels as u64);
                let data: Vec<_> =
                    numbers.many(batch * channels * voxels).iter().map(|x| 2.0 * x + 0.5).collect();
                let (gamma, beta) = (numbers.many(channels), numbers.many(channels));
                let want = norm_reference(&data, batch, kind, &gamma, &beta, 1e-5, 0.01);
                let stats = channel_stats(cpu, &data, channels, voxels);
                let affine = ScaleShift::new(&Moments::new(&stats, kind), kind, batch, &gamma, &beta, 1e-5);
                let mut got = vec![f32::NAN; data.len()];
                normalize(cpu, &data, &mut got, voxels, affine.prologue(0.01));
                // One voxel of batch 2 may have a variance near eps, which magnifies rounding.
                let tolerance = if voxels < 3 { 1e-4 } else { 1e-6 };
                assert_close(&format!("{} {kind:?} {voxels}", cpu.name()), &got, &want, &want, tolerance);
                let mut in_place = data.clone();
                normalize_in_place(cpu, &mut in_place, voxels, affine.prologue(0.01));
                assert_eq!(in_place, got);
            }
        }
    }
}

#[test]
fn variance_is_accurate_far_from_zero() {
    for cpu in cpus() {
        let voxels = 100_000;
        let data: Vec<_> = Numbers::new(5).many(voxels).iter().map(|x| 1000.0 + x).collect();
        let mean = data.iter().map(|&x| f64::from(x)).sum::<f64>() / voxels as f64;
        let var = data.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / voxels as f64;
        let moments = Moments::new(&channel_stats(cpu, &data, 1, voxels), NormKind::Instance);
        assert!((moments.var[0] / var - 1.0).abs() < 1e-6, "{} {} {var}", cpu.name(), moments.var[0]);
    }
}

#[test]
fn add_activate_adds_two_normalised_branches() {
    for cpu in cpus() {
        let (rows, voxels) = (6, 40_003);
        let mut numbers = Numbers::new(9);
        let (main, skip) = (numbers.many(rows * voxels), numbers.many(rows * voxels));
        let a = ScaleShift { scale: numbers.many(rows), shift: numbers.many(rows) };
        let b = ScaleShift { scale: numbers.many(rows), shift: numbers.many(rows) };
        for skip_affine in [None, Some(&b)] {
            let want: Vec<_> = (0..rows * voxels)
                .map(|i| {
                    let row = i / voxels;
                    let s = skip_affine.map_or(skip[i], |b| skip[i] * b.scale[row] + b.shift[row]);
                    let y = main[i] * a.scale[row] + a.shift[row] + s;
                    if y > 0.0 { y } else { 0.01 * y }
                })
                .collect();
            let mut got = main.clone();
            add_activate(cpu, &mut got, &skip, voxels, &a, skip_affine, 0.01);
            assert_close(&cpu.name(), &got, &want, &want, 1e-6);
        }
    }
}

#[test]
fn avg_pool_means_blocks_and_its_gradient_shares_them() {
    let (input, kernel) = ([4, 5, 7], [2, 1, 3]);
    let data = Numbers::new(1).many(2 * 140);
    let mut got = vec![0.0; 2 * 2 * 5 * 2];
    avg_pool3d(&data, input, kernel, &mut got);
    let mut want = Vec::new();
    for v in 0..2 {
        for z in 0..2 {
            for y in 0..5 {
                for x in 0..2 {
                    let at = |a: usize, c: usize| data[v * 140 + ((2 * z + a) * 5 + y) * 7 + 3 * x + c];
                    let sum: f32 = (0..2).map(|a| (0..3).map(|c| at(a, c)).sum::<f32>()).sum();
                    want.push(sum / 6.0);
                }
            }
        }
    }
    assert_close("pool", &got, &want, &want, 1e-6);
    // The gradient is the transpose: <pool(x), g> = <x, backward(g)>.
    let g = Numbers::new(2).many(got.len());
    let mut back = vec![f32::NAN; data.len()];
    avg_pool3d_backward(&g, input, kernel, &mut back);
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    assert!((dot(&got, &g) - dot(&data, &back)).abs() < 1e-5);
}
