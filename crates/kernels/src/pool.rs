//! Average pooling with kernel = stride and its gradient.

use rayon::prelude::*;

/// Mean of every `kernel` block of every row-major volume of `data`, `[rows, d, h, w]`; a remainder is left out.
///
/// # Panics
/// If `data` is not whole volumes of size `input`, or `out` not whole volumes of size `input / kernel`.
pub fn avg_pool3d(data: &[f32], input: [usize; 3], kernel: [usize; 3], out: &mut [f32]) {
    let output: [usize; 3] = std::array::from_fn(|a| input[a] / kernel[a]);
    let (from, to) = (input.iter().product::<usize>(), output.iter().product::<usize>());
    check(data.len(), from, out.len(), to);
    let factor = 1.0 / kernel.iter().product::<usize>() as f32;
    let row = output[2];
    if to == 0 {
        return;
    }
    out.par_chunks_mut(row).enumerate().for_each(|(i, out)| {
        let (volume, rest) = (i / (output[0] * output[1]), i % (output[0] * output[1]));
        let (z, y) = (rest / output[1], rest % output[1]);
        out.fill(0.0);
        for a in 0..kernel[0] {
            for b in 0..kernel[1] {
                let at = volume * from + ((z * kernel[0] + a) * input[1] + y * kernel[1] + b) * input[2];
                for (o, block) in out.iter_mut().zip(data[at..at + input[2]].chunks_exact(kernel[2])) {
                    *o += block.iter().sum::<f32>();
                }
            }
        }
        for o in out {
            *o *= factor;
        }
    });
}

/// Gradient of [`avg_pool3d`] with respect to its input: every block gets its share, a remainder zero.
///
/// # Panics
/// As [`avg_pool3d`].
pub fn avg_pool3d_backward(grad: &[f32], input: [usize; 3], kernel: [usize; 3], out: &mut [f32]) {
    let output: [usize; 3] = std::array::from_fn(|a| input[a] / kernel[a]);
    let (from, to) = (input.iter().product::<usize>(), output.iter().product::<usize>());
    check(out.len(), from, grad.len(), to);
    let factor = 1.0 / kernel.iter().product::<usize>() as f32;
    if from == 0 {
        return;
    }
    out.par_chunks_mut(input[2]).enumerate().for_each(|(i, out)| {
        let (volume, rest) = (i / (input[0] * input[1]), i % (input[0] * input[1]));
        let (z, y) = (rest / input[1] / kernel[0], rest % input[1] / kernel[1]);
        out.fill(0.0);
        if z < output[0] && y < output[1] {
            let at = volume * to + (z * output[1] + y) * output[2];
            for (block, g) in out.chunks_exact_mut(kernel[2]).zip(&grad[at..at + output[2]]) {
                block.fill(g * factor);
            }
        }
    });
}

fn check(large: usize, from: usize, small: usize, to: usize) {
    assert!(from > 0 && large.is_multiple_of(from), "{large} values in volumes of {from}");
    assert_eq!(small, large / from * to, "values of the pooled volumes");
}
