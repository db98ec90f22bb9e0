//! The specification: loops over everything, sums in f64.

use super::ConvShape;
use crate::source::{Source, apply_prologue, plane};

/// What [`conv3d`](super::conv3d) computes, one voxel at a time.
///
/// `weights` is `[out, in, kd, kh, kw]`; the result is `[n, out, d, h, w]`.
pub fn conv3d_reference(
    shape: &ConvShape,
    sources: &[Source<'_>],
    weights: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let [id, ih, iw] = shape.input;
    let [kd, kh, kw] = shape.kernel;
    let [od, oh, ow] = shape.output();
    let inside = |o: usize, k: usize, axis: usize| {
        (o * shape.stride[axis] + k).checked_sub(shape.padding[axis]).filter(|&i| i < shape.input[axis])
    };
    let mut out = Vec::with_capacity(shape.out_len());
    for n in 0..shape.batch {
        let planes: Vec<_> = (0..shape.in_channels).map(|c| plane(sources, n, c, id * ih * iw)).collect();
        for co in 0..shape.out_channels {
            for z in 0..od {
                for y in 0..oh {
                    for x in 0..ow {
                        let mut sum = bias.map_or(0.0, |b| f64::from(b[co]));
                        for (ci, plane) in planes.iter().enumerate() {
                            for a in 0..kd {
                                let Some(iz) = inside(z, a, 0) else { continue };
                                for b in 0..kh {
                                    let Some(iy) = inside(y, b, 1) else { continue };
                                    for c in 0..kw {
                                        let Some(ix) = inside(x, c, 2) else { continue };
                                        let w = weights
                                            [(((co * shape.in_channels + ci) * kd + a) * kh + b) * kw + c];
                                        let value = apply_prologue(
                                            plane.prologue,
                                            plane.data[(iz * ih + iy) * iw + ix],
                                        );
                                        sum += f64::from(w) * f64::from(value);
                                    }
                                }
                            }
                        }
                        out.push(sum as f32);
                    }
                }
            }
        }
    }
    out
}
