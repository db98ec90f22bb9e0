//! The networks of the BraTS 2021 winner at full size, by their names in the paper.

use glioseg_plan::{
    Architecture, ArchitectureKind, AttentionPlace, AxialAttention, GenericUNet, Nonlin, Norm, NormKind,
};

use crate::spec::NetworkSpec;

impl NetworkSpec {
    /// Names that [`Self::brats21`] knows: the baseline, the larger encoder, group norm, both, and axial attention.
    pub const BRATS21: [&'static str; 5] = ["bl", "bl-l", "bl-gn", "bl-l-gn", "bl-aa"];

    /// A network of the BraTS 2021 winner, for patches of 128 x 128 x 128 voxels, 4 channels and 3 regions; `None` for a name that is
    /// not in [`Self::BRATS21`].
    ///
    /// # Source
    /// Luu and Park, "Extending nn-UNet for brain tumor segmentation"; their trainer classes.
    pub fn brats21(name: &str) -> Option<Self> {
        let batch = NormKind::Batch;
        let group = NormKind::Group { groups: 32 };
        let (norm, encoder_scale, attention) = match name {
            "bl" => (batch, 1, false),
            "bl-l" => (batch, 2, false),
            "bl-gn" => (group, 1, false),
            "bl-l-gn" => (group, 2, false),
            "bl-aa" => (batch, 1, true),
            _ => return None,
        };
        let most = if encoder_scale == 2 { 512 } else { 320 };
        let architecture = Architecture {
            kind: ArchitectureKind::GenericUNet,
            dim: 3,
            features_per_stage: (0..6).map(|s| ((32 * encoder_scale) << s).min(most)).collect(),
            kernel_sizes: vec![vec![3; 3]; 6],
            strides: (0..6).map(|s| vec![if s == 0 { 1 } else { 2 }; 3]).collect(),
            blocks_per_stage: vec![2; 6],
            n_conv_per_stage_decoder: vec![2; 5],
            conv_bias: true,
            norm: Norm { kind: norm, eps: 1e-5, affine: true },
            dropout: None,
            nonlin: Nonlin::LeakyRelu { slope: 0.01 },
            nonlin_first: false,
            generic: Some(GenericUNet {
                encoder_scale,
                dropout_stages: Vec::new(),
                attention: attention.then(|| AxialAttention {
                    heads: 2,
                    dim_heads: 8,
                    volume_shape: [128; 3],
                    excluded_levels: vec![0],
                    place: AttentionPlace::Decoder,
                }),
            }),
        };
        Some(Self::from_plan(&architecture, 4, 3).unwrap_or_else(|e| unreachable!("{name}: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_winners_networks_have_the_papers_sizes() {
        let sizes = [31_198_176, 87_413_760, 31_198_176, 87_413_760, 50_561_760];
        for (name, size) in NetworkSpec::BRATS21.into_iter().zip(sizes) {
            let spec = NetworkSpec::brats21(name).expect(name);
            assert_eq!(spec.num_parameters(), size, "{name}");
            assert_eq!(spec.fixed_input(), (name == "bl-aa").then_some([128; 3]), "{name}");
        }
        assert_eq!(NetworkSpec::brats21("bl-xl"), None);
    }
}
