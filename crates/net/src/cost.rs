//! What a network costs: arithmetic and parameters, from its description alone.

use crate::spec::{AttentionSpec, BlockKind, NetworkSpec};

/// One convolution of a network, as far as its cost goes.
struct Layer {
    /// Weights without bias.
    weights: usize,
    /// How often every weight is used: output voxels, or input voxels of a transposed convolution.
    voxels: usize,
    /// Values beside the weights: bias, and factor and offset of the normalisation.
    vectors: usize,
    /// Values that it writes.
    written: usize,
    /// Operations without weights: the scores and sums of attention.
    products: usize,
}

/// Attention along all three axes and its embeddings.
fn attention(channels: usize, spec: AttentionSpec, voxels: usize) -> Layer {
    let hidden = spec.heads * spec.dim_heads;
    let lengths: usize = spec.shape.iter().sum();
    Layer {
        weights: 3 * 4 * channels * hidden,
        voxels,
        vectors: 3 * channels + channels * lengths + if spec.norm { 2 * channels } else { 0 },
        products: 4 * hidden * lengths * voxels,
        // Along every axis what goes in is kept; queries, keys, values and scores are made again for the gradient.
        written: 3 * channels * voxels,
    }
}

/// Feature maps of the largest size whose gradients, or copies for the kernels, exist at once. Measured, as what a training step of two
/// samples takes beside the rest: 1.5 to 1.9 with nnU-Net's network at 64³ to 128³, 2.6 with the winner's wide one at 128³.
const GRADIENT_MAPS: usize = 3;

impl NetworkSpec {
    /// Floating point operations of one forward pass of one sample: two per multiply-add of every convolution,
    /// strided, transposed and all heads included, padding counted.
    ///
    /// Normalisation, activation and biases are left out, as is usual.
    ///
    /// # Shapes
    /// `size` is the input's `[z, y, x]`; see [`Self::check_input`].
    pub fn flops(&self, size: [usize; 3]) -> u64 {
        self.layers(size).iter().map(|l| 2 * l.weights as u64 * l.voxels as u64 + l.products as u64).sum()
    }

    /// Number of trainable values, as of [`Unet::num_parameters`](crate::Unet::num_parameters).
    pub fn num_parameters(&self) -> usize {
        self.layers([1; 3]).iter().map(|l| l.weights + l.vectors).sum()
    }

    /// Bytes of feature maps and their gradients in a training step with one sample, about: every map that a layer writes
    /// is kept for the backward pass, and beside them the gradients of a few of the largest are there at once.
    ///
    /// # Shapes
    /// `size` is the input's `[z, y, x]`; see [`Self::check_input`].
    pub fn training_bytes(&self, size: [usize; 3]) -> u64 {
        let layers = self.layers(size);
        let kept: usize = layers.iter().map(|l| l.written).sum();
        let largest = layers.iter().map(|l| l.written).max().unwrap_or(0);
        let input = self.in_channels * size.iter().product::<usize>();
        4 * (input + kept + GRADIENT_MAPS * largest) as u64
    }

    fn layers(&self, size: [usize; 3]) -> Vec<Layer> {
        let mut layers = vec![];
        let product = |a: [usize; 3]| a.iter().product::<usize>();
        let affine = if self.norm.is_some_and(|n| n.affine) { 2 } else { 0 };
        let block = |io: [usize; 2], kernel: [usize; 3], voxels: usize| Layer {
            weights: io[0] * io[1] * product(kernel),
            voxels,
            vectors: io[1] * (affine + usize::from(self.conv_bias)),
            written: io[1] * voxels,
            products: 0,
        };
        let mut channels = self.in_channels;
        let mut size = size;
        if self.block == BlockKind::Residual {
            layers.push(block([channels, self.stem_features], self.encoder[0].kernel, product(size)));
            channels = self.stem_features;
        }
        let mut sizes = vec![];
        for stage in &self.encoder {
            size = std::array::from_fn(|a| size[a].div_ceil(stage.stride[a]));
            sizes.push(product(size));
            let voxels = product(size);
            for _ in 0..stage.blocks {
                layers.push(block([channels, stage.features], stage.kernel, voxels));
                if self.block == BlockKind::Residual {
                    layers.push(block([stage.features; 2], stage.kernel, voxels));
                    if channels != stage.features {
                        // The skip connection's projection never has a bias.
                        let mut projection = block([channels, stage.features], [1; 3], voxels);
                        projection.vectors = affine * stage.features;
                        layers.push(projection);
                    }
                }
                channels = stage.features;
            }
            layers.extend(stage.attention.map(|a| attention(channels, a, voxels)));
        }
        for (j, step) in self.decoder.iter().enumerate() {
            let level = self.encoder.len() - 2 - j;
            layers.push(Layer {
                weights: channels * step.up_features * product(self.encoder[level + 1].stride),
                voxels: sizes[level + 1],
                vectors: if self.up_bias { step.up_features } else { 0 },
                written: step.up_features * sizes[level],
                products: 0,
            });
            layers.extend(step.attention.map(|a| attention(step.up_features, a, sizes[level])));
            channels = step.up_features + self.encoder[level].features;
            for &features in &step.convs {
                layers.push(block([channels, features], step.kernel, sizes[level]));
                channels = features;
            }
            layers.push(Layer {
                weights: channels * self.num_outputs,
                voxels: sizes[level],
                vectors: if self.head_bias { self.num_outputs } else { 0 },
                written: self.num_outputs * sizes[level],
                products: 0,
            });
        }
        layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Device, NormKind, NormSpec, Unet};

    #[test]
    fn the_brats_network_needs_965_gflop_at_128_voxels() {
        let flops = NetworkSpec::brats(3).flops([128; 3]) as f64;
        assert!((flops / 1e9 - 965.0).abs() < 1.0, "{flops}");
    }

    #[test]
    fn a_tiny_network_counted_by_hand() {
        let spec = NetworkSpec::plain(1, 2, &[(2, [1, 3, 3], [1; 3]), (4, [3; 3], [1, 2, 2])]);
        // encoder: 2x1x9 and 2x2x9 at 32 voxels, 4x2x27 and 4x4x27 at 8 voxels;
        // decoder: transposed 4x2x4 from 8 voxels, 2x4x9 and 2x2x9 at 32 voxels, head 2x2 at 32 voxels
        let products = 32 * (18 + 36) + 8 * (216 + 432) + 8 * 32 + 32 * (72 + 36 + 4);
        assert_eq!(spec.flops([2, 4, 4]), 2 * products);
        // six blocks with bias, factor and offset, then the biases of the transposed convolution and the head
        let parameters = 18 + 36 + 216 + 432 + 32 + 72 + 36 + 4 + 3 * (2 + 2 + 4 + 4 + 2 + 2) + 2 + 2;
        assert_eq!(spec.num_parameters(), parameters);
    }

    #[test]
    fn parameters_are_those_of_the_network() -> Result<(), crate::NetError> {
        let stages = [(4, [3; 3], [1; 3]), (8, [3; 3], [2; 3]), (8, [3; 3], [1, 2, 2])];
        let mut grouped = NetworkSpec::plain(3, 2, &stages);
        grouped.norm = Some(NormSpec::new(NormKind::Group(2)));
        grouped.up_bias = false;
        grouped.head_bias = false;
        let mut bare = NetworkSpec::plain(3, 2, &stages);
        bare.norm = None;
        let mut residual = NetworkSpec::residual(3, 2, &stages, &[1, 2, 3]);
        residual.conv_bias = false;
        for spec in [NetworkSpec::plain(3, 2, &stages), grouped, bare, residual] {
            assert_eq!(
                spec.num_parameters(),
                Unet::new(&spec, &Device::flex())?.num_parameters(),
                "{spec:?}"
            );
        }
        Ok(())
    }
}
