//! Axial attention as a layer: position embeddings and the attention along one axis after the other.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::Init;
use crate::ops::{self, AttentionWeights, Features, Norm};
use crate::spec::{AttentionSpec, NetworkSpec, NormKind, NormSpec};

/// Parameters of the attention along one axis.
#[derive(Module, Debug)]
pub(crate) struct AxisAttention {
    /// `[heads dim_heads, channels]`.
    pub(crate) q: Param<Tensor<2>>,
    /// `[2 heads dim_heads, channels]`: keys, then values.
    pub(crate) kv: Param<Tensor<2>>,
    /// `[channels, heads dim_heads]`.
    pub(crate) out: Param<Tensor<2>>,
    /// `[channels]`.
    pub(crate) bias: Param<Tensor<1>>,
}

/// Position embeddings, attention along the three axes and what follows.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    /// `[1, channels, z, 1, 1]`, `[1, channels, 1, y, 1]`, `[1, channels, 1, 1, x]`.
    pub(crate) positions: Vec<Param<Tensor<5>>>,
    /// One per axis.
    pub(crate) axes: Vec<AxisAttention>,
    pub(crate) norm: Option<Norm>,
    #[module(skip)]
    slope: f32,
    #[module(skip)]
    spec: AttentionSpec,
}

impl Attention {
    /// PyTorch's initial weights: standard normal embeddings; matrices and biases uniform, bounded by one over the root of the inputs.
    pub(crate) fn new(
        init: &mut Init<'_>,
        spec: AttentionSpec,
        channels: usize,
        network: &NetworkSpec,
    ) -> Self {
        let hidden = spec.heads * spec.dim_heads;
        let positions = (0..3).map(|axis| {
            let mut shape = [1, channels, 1, 1, 1];
            shape[2 + axis] = spec.shape[axis];
            init.normal(shape)
        });
        let positions = positions.collect();
        let mut uniform = |outputs: usize, inputs: usize| init.uniform([outputs, inputs], inputs);
        let axes: Vec<_> = (0..3)
            .map(|_| (uniform(hidden, channels), uniform(2 * hidden, channels), uniform(channels, hidden)))
            .collect();
        let axes = axes.into_iter().map(|(q, kv, out)| AxisAttention {
            q,
            kv,
            out,
            bias: init.uniform([channels], hidden),
        });
        Self {
            positions,
            axes: axes.collect(),
            norm: spec.norm.then(|| Norm::new(NormSpec::new(NormKind::Batch), channels, 1.0, init.device())),
            slope: network.slope,
            spec,
        }
    }

    pub(crate) fn forward(&self, x: Features) -> Features {
        let x = x.materialize();
        let weights = AttentionWeights {
            heads: self.spec.heads,
            dim_heads: self.spec.dim_heads,
            positions: std::array::from_fn(|axis| self.positions[axis].val()),
            axes: std::array::from_fn(|axis| {
                let AxisAttention { q, kv, out, bias } = &self.axes[axis];
                (q.val(), kv.val(), out.val(), bias.val())
            }),
            sum: self.spec.sum,
            residual: self.spec.residual && self.norm.is_none(),
        };
        let Some(norm) = &self.norm else { return ops::axial_attention(x, weights).into() };
        let y = ops::normalize(ops::axial_attention(x.clone(), weights), norm, Some(self.slope));
        if self.spec.residual { x.add(y.materialize()).into() } else { y }
    }
}
