//! The twins: what the tiles compute, voxel by voxel.

use half::bf16;

use super::pack::{TileInput, TileSource, TileUpsampling};
use crate::conv3d::ConvShape;
use crate::source::{Source, apply_prologue};
use crate::transposed::{TransposedShape, conv_transpose3d_reference};
use crate::{Prologue, conv3d_backward_data_reference, conv3d_backward_weights_reference, conv3d_reference};

/// A map as `[n, c, z, y, x]`, normalised, activated and rounded as the packing does it.
fn planar(source: &TileSource<'_>, voxels: usize) -> Vec<f32> {
    let channels = source.channels;
    let value = |i: usize| {
        let (row, voxel) = (i / voxels, i % voxels);
        let (sample, c) = (row / channels, row % channels);
        let raw = source.data[(sample * voxels + voxel) * channels + c].to_f32();
        let prologue =
            source.prologue.map(|Prologue { scale, shift, slope }| (scale[row], shift[row], slope));
        bf16::from_f32(apply_prologue(prologue, raw)).to_f32()
    };
    (0..source.data.len()).map(value).collect()
}

fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect()
}

/// What [`super::tile_transposed`] computes, as `[n, c, z, y, x]` and not yet rounded. `weights` is `[in, out, kz, ky, kx]`.
pub fn tile_transposed_reference(
    shape: &TransposedShape,
    source: &TileSource<'_>,
    weights: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let input = planar(source, shape.in_voxels());
    conv_transpose3d_reference(shape, Source::plain(&input, source.channels), &rounded(weights), bias)
}

/// What a convolution reads, as `[n, c, z, y, x]`, with the number of channels.
fn maps(shape: &ConvShape, inputs: &[TileInput<'_>], up_weights: &[f32]) -> Vec<(Vec<f32>, usize)> {
    let voxels = shape.in_voxels();
    inputs
        .iter()
        .map(|input| {
            let values = match input {
                TileInput::Map(source) => planar(source, voxels),
                TileInput::Planar { data, .. } => rounded(data),
                TileInput::Upsampled(TileUpsampling { shape, source, bias, .. }) => {
                    rounded(&tile_transposed_reference(shape, source, up_weights, *bias))
                }
            };
            (values, input.channels())
        })
        .collect()
}

/// What [`super::tile_conv3d`] computes, as `[n, c, z, y, x]` and not yet rounded. `weights` is `[out, in, kz, ky, kx]`;
/// `up_weights` are those of the input that is upsampled, whose own are not looked at.
pub fn tile_conv3d_reference(
    shape: &ConvShape,
    inputs: &[TileInput<'_>],
    weights: &[f32],
    up_weights: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let maps = maps(shape, inputs, up_weights);
    let sources: Vec<Source<'_>> =
        maps.iter().map(|(values, channels)| Source::plain(values, *channels)).collect();
    conv3d_reference(shape, &sources, &rounded(weights), bias)
}

/// What [`super::tile_conv3d_backward_data`] computes, as `[n, c, z, y, x]` and not yet rounded.
pub fn tile_conv3d_backward_data_reference(shape: &ConvShape, grad: &[bf16], weights: &[f32]) -> Vec<f32> {
    let grad = planar(&TileSource::plain(grad, shape.out_channels), shape.out_voxels());
    conv3d_backward_data_reference(shape, &grad, &rounded(weights))
}

/// What [`super::tile_conv3d_backward_weights`] computes.
pub fn tile_conv3d_backward_weights_reference(
    shape: &ConvShape,
    inputs: &[TileInput<'_>],
    grad: &TileSource<'_>,
) -> Vec<f32> {
    let maps = maps(shape, inputs, &[]);
    let sources: Vec<Source<'_>> =
        maps.iter().map(|(values, channels)| Source::plain(values, *channels)).collect();
    let grad = planar(grad, shape.out_voxels());
    conv3d_backward_weights_reference(shape, &sources, Source::plain(&grad, shape.out_channels))
}
