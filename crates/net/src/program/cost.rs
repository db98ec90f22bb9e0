//! What a network costs: arithmetic and parameters, from its program alone.

use super::{Attention, Conv, MapId, Mode, ParameterId, Program, Step};
use crate::NetError;
use crate::shapes::ParameterShape;
use crate::spec::NetworkSpec;

impl Program {
    fn weights(&self, id: ParameterId) -> u64 {
        self.parameters[id.0].len() as u64
    }

    /// Two operations per multiply-add: every weight is used once per voxel of `map`.
    fn products(&self, conv: &Conv, map: MapId) -> u64 {
        2 * self.weights(conv.weight) * self.map(map).voxels() as u64
    }

    fn of_attention(&self, step: &Attention) -> u64 {
        let shape = self.map(step.input);
        let (hidden, voxels) = (step.heads * step.dim_heads, shape.voxels());
        let matrices: u64 =
            step.axes.iter().flat_map(|a| [a.q, a.kv, a.out]).map(|id| self.weights(id)).sum();
        2 * matrices * voxels as u64 + (4 * hidden * shape.size.iter().sum::<usize>() * voxels) as u64
    }

    /// Floating point operations of one step with one sample; see [`Self::flops`].
    pub fn step_flops(&self, step: &Step) -> u64 {
        match step {
            Step::Block(s) => self.products(&s.conv, s.out),
            Step::UpBlock(s) => self.products(&s.up, s.below) + self.products(&s.conv, s.out),
            Step::Up(s) => self.products(&s.conv, s.input),
            Step::Head(s) => self.products(&s.conv, s.out),
            Step::Attention(s) => self.of_attention(s),
            Step::AddActivate(_) | Step::Pool(_) => 0,
        }
    }

    /// Floating point operations of one forward pass of one sample: two per multiply-add of every convolution, padding
    /// counted, and the products of attention.
    ///
    /// Normalisation, activation and biases are left out, as is usual.
    pub fn flops(&self) -> u64 {
        self.forward.iter().map(|step| self.step_flops(step)).sum()
    }

    /// Number of trainable values.
    pub fn num_parameters(&self) -> usize {
        self.parameters.iter().filter(|p| p.trained).map(ParameterShape::len).sum()
    }
}

impl NetworkSpec {
    /// Floating point operations of one forward pass of one sample with all heads; see [`Program::flops`].
    ///
    /// # Shapes
    /// `size` is the input's `[z, y, x]`; see [`Self::check_input`].
    ///
    /// # Errors
    /// As of [`Program::new`].
    pub fn flops(&self, size: [usize; 3]) -> Result<u64, NetError> {
        Ok(Program::new(self, 1, size, Mode::Evaluate)?.flops())
    }

    /// Number of trainable values.
    ///
    /// # Errors
    /// [`NetError::Spec`] if the description contradicts itself.
    pub fn num_parameters(&self) -> Result<usize, NetError> {
        Ok(self.parameters()?.iter().filter(|p| p.trained).map(ParameterShape::len).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_brats_network_needs_965_gflop_at_128_voxels() -> Result<(), NetError> {
        let flops = NetworkSpec::brats(3).flops([128; 3])? as f64;
        assert!((flops / 1e9 - 965.0).abs() < 1.0, "{flops}");
        Ok(())
    }

    #[test]
    fn a_tiny_network_counted_by_hand() -> Result<(), NetError> {
        let spec = NetworkSpec::plain(1, 2, &[(2, [1, 3, 3], [1; 3]), (4, [3; 3], [1, 2, 2])]);
        // encoder: 2x1x9 and 2x2x9 at 32 voxels, 4x2x27 and 4x4x27 at 8 voxels;
        // decoder: transposed 4x2x4 from 8 voxels, 2x4x9 and 2x2x9 at 32 voxels, head 2x2 at 32 voxels
        let products = 32 * (18 + 36) + 8 * (216 + 432) + 8 * 32 + 32 * (72 + 36 + 4);
        assert_eq!(spec.flops([2, 4, 4])?, 2 * products);
        // six blocks with bias, factor and offset, then the biases of the transposed convolution and the head
        let parameters = 18 + 36 + 216 + 432 + 32 + 72 + 36 + 4 + 3 * (2 + 2 + 4 + 4 + 2 + 2) + 2 + 2;
        assert_eq!(spec.num_parameters()?, parameters);
        Ok(())
    }
}
