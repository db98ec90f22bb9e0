//! Networks of papers by name, at full size: what benches time, and what GPUs are planned for.

use crate::spec::{
    AttentionSpec, Naming, NetworkSpec, NormKind, NormSpec, StageSpec, StepSpec, decoder_like_encoder,
};

/// Names of [`named`], in the order of the paper.
pub const NAMES: [&str; 6] = ["nnunet", "bl", "bl-l", "bl-gn", "bl-l-gn", "bl-aa"];

/// nnU-Net's network for BraTS, or one of the BraTS 2021 winner's, at full size.
pub fn named(name: &str) -> Option<NetworkSpec> {
    let (batch, groups) = (NormKind::Batch, NormKind::Group(32));
    Some(match name {
        "nnunet" => NetworkSpec::brats(3),
        "bl" => winner(1, 320, batch, false),
        "bl-l" => winner(2, 512, batch, false),
        "bl-gn" => winner(1, 320, groups, false),
        "bl-l-gn" => winner(2, 512, groups, false),
        "bl-aa" => winner(1, 320, batch, true),
        _ => return None,
    })
}

/// Luu and Park, "Extending nn-UNet for brain tumor segmentation": an encoder `scale` times as wide as the decoder's output.
fn winner(scale: usize, most: usize, norm: NormKind, attention: bool) -> NetworkSpec {
    let mut spec = NetworkSpec::brats(3);
    let stages = spec.encoder.len();
    for (s, stage) in spec.encoder.iter_mut().enumerate() {
        *stage = StageSpec { features: ((32 * scale) << s).min(most), ..stage.clone() };
    }
    spec.stem_features = spec.encoder[0].features;
    spec.decoder = decoder_like_encoder(&spec.encoder, &vec![2; stages - 1]);
    for (j, step) in spec.decoder.iter_mut().enumerate() {
        let level = stages - 2 - j;
        let narrow = step.up_features / scale;
        *step = StepSpec { convs: vec![step.up_features, narrow], ..step.clone() };
        // Not at full resolution.
        step.attention = (attention && level > 0).then(|| AttentionSpec {
            heads: 2 << level,
            dim_heads: 8 << level,
            shape: [128 >> level; 3],
            sum: false,
            norm: false,
            residual: true,
        });
    }
    spec.up_bias = false;
    spec.head_bias = false;
    spec.norm = Some(NormSpec::new(norm));
    spec.naming = Naming::V1;
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_have_the_papers_numbers_of_parameters() -> Result<(), crate::NetError> {
        let expected = [31_198_991, 31_198_176, 87_413_760, 31_198_176, 87_413_760, 50_561_760];
        for (name, parameters) in NAMES.into_iter().zip(expected) {
            let spec = named(name).expect("a name of the list");
            assert_eq!(spec.num_parameters()?, parameters, "{name}");
        }
        Ok(())
    }
}
