//! Rearrangements of voxels: mirroring, quarter turns, exchanged axes. Image and segmentation alike.

use glioseg_kernels::vectorised;

use super::random::PatchRng;
use super::{Layout, Patch};

/// Mirrors each of the axes with probability 0.5.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The axes that may be mirrored.
    pub axes: Vec<usize>,
}

/// What [`Mirror`] drew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MirrorParams {
    /// Whether each axis is mirrored.
    pub flip: [bool; 3],
}

impl Mirror {
    /// Draws the parameters.
    pub fn sample(&self, _layout: &Layout, rng: &mut PatchRng) -> MirrorParams {
        let mut flip = [false; 3];
        for &axis in &self.axes {
            flip[axis] = rng.chance(0.5);
        }
        MirrorParams { flip }
    }
}

impl MirrorParams {
    /// Mirrors.
    ///
    /// # Source
    /// batchgeneratorsv2, `MirrorTransform`.
    pub fn apply(&self, patch: &mut Patch) {
        if self.flip == [false; 3] {
            return;
        }
        let voxels = patch.voxels();
        vectorised(
            #[inline(always)]
            || {
                patch.data.chunks_exact_mut(voxels).for_each(|c| flip(c, patch.shape, self.flip));
                patch.seg.chunks_exact_mut(voxels).for_each(|c| flip(c, patch.shape, self.flip));
            },
        );
    }
}

/// Swaps every row with its mirror image, once.
#[inline(always)]
fn flip<T: Copy>(channel: &mut [T], [nz, ny, nx]: [usize; 3], flip: [bool; 3]) {
    let rows = nz * ny;
    for row in 0..rows {
        let (z, y) = (row / ny, row % ny);
        let z = if flip[0] { nz - 1 - z } else { z };
        let y = if flip[1] { ny - 1 - y } else { y };
        let other = z * ny + y;
        if other < row || (other == row && !flip[2]) {
            continue;
        }
        if other == row {
            channel[row * nx..(row + 1) * nx].reverse();
            continue;
        }
        let (head, tail) = channel.split_at_mut(other * nx);
        let (a, b) = (&mut head[row * nx..(row + 1) * nx], &mut tail[..nx]);
        if flip[2] {
            a.iter_mut().zip(b.iter_mut().rev()).for_each(|(a, b)| std::mem::swap(a, b));
        } else {
            a.swap_with_slice(b);
        }
    }
}

/// The axes that share the commonest length, where at least two do: those that may be exchanged.
pub(super) fn exchangeable_axes(layout: &Layout) -> Vec<usize> {
    let alike = |a: usize| layout.axes().filter(|&b| layout.shape[a] == layout.shape[b]).count();
    let most = layout.axes().map(alike).max().unwrap_or(0);
    if most > 1 { layout.axes().filter(|&a| alike(a) == most).collect() } else { Vec::new() }
}

/// Turns by a random multiple of 90° in a random plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rot90 {
    /// The axes that may span the plane; all of the same length.
    pub axes: Vec<usize>,
}

/// What [`Rot90`] drew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rot90Params {
    /// Quarter turns from the first axis towards the second.
    pub turns: usize,
    /// The plane, ascending.
    pub plane: [usize; 2],
}

impl Rot90 {
    /// Draws the parameters.
    ///
    /// # Panics
    /// If there are fewer than two axes.
    pub fn sample(&self, _layout: &Layout, rng: &mut PatchRng) -> Rot90Params {
        assert!(self.axes.len() > 1, "a turn needs two axes, but has {:?}", self.axes);
        let turns = rng.below(4);
        let mut axes = self.axes.clone();
        rng.shuffle(&mut axes);
        Rot90Params { turns, plane: [axes[0].min(axes[1]), axes[0].max(axes[1])] }
    }
}

impl Rot90Params {
    /// Turns.
    ///
    /// # Panics
    /// If the plane's axes differ in length and the turn is an odd one.
    ///
    /// # Source
    /// batchgeneratorsv2, `Rot90Transform`; `torch.rot90`.
    pub fn apply(&self, patch: &mut Patch) {
        let [a, b] = self.plane;
        let mut order = [0, 1, 2];
        let mut flip = [false; 3];
        match self.turns % 4 {
            0 => return,
            1 => {
                order.swap(a, b);
                flip[a] = true;
            }
            2 => {
                flip[a] = true;
                flip[b] = true;
            }
            _ => {
                order.swap(a, b);
                flip[b] = true;
            }
        }
        TransposeParams { order }.apply(patch);
        MirrorParams { flip }.apply(patch);
    }
}

/// Exchanges axes at random.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transpose {
    /// The axes that may be exchanged; all of the same length.
    pub axes: Vec<usize>,
}

/// What [`Transpose`] drew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransposeParams {
    /// The old axis that becomes each new one.
    pub order: [usize; 3],
}

impl Transpose {
    /// Draws the parameters.
    pub fn sample(&self, _layout: &Layout, rng: &mut PatchRng) -> TransposeParams {
        let mut shuffled = self.axes.clone();
        rng.shuffle(&mut shuffled);
        let mut order = [0, 1, 2];
        for (&to, &from) in self.axes.iter().zip(&shuffled) {
            order[to] = from;
        }
        TransposeParams { order }
    }
}

impl TransposeParams {
    /// Exchanges the axes.
    ///
    /// # Panics
    /// If exchanged axes differ in length.
    ///
    /// # Source
    /// batchgeneratorsv2, `TransposeAxesTransform`.
    pub fn apply(&self, patch: &mut Patch) {
        if self.order == [0, 1, 2] {
            return;
        }
        let shape = patch.shape;
        assert_eq!(self.order.map(|a| shape[a]), shape, "axes of different length are not exchangeable");
        let voxels = patch.voxels();
        let mut scratch = Vec::new();
        patch.data.chunks_exact_mut(voxels).for_each(|c| permute(c, shape, self.order, &mut scratch));
        let mut scratch = Vec::new();
        patch.seg.chunks_exact_mut(voxels).for_each(|c| permute(c, shape, self.order, &mut scratch));
    }
}

fn permute<T: Copy>(channel: &mut [T], [nz, ny, nx]: [usize; 3], order: [usize; 3], scratch: &mut Vec<T>) {
    scratch.clear();
    scratch.extend_from_slice(channel);
    let strides = order.map(|a| [ny * nx, nx, 1][a]);
    for (row, out) in channel.chunks_exact_mut(nx).enumerate() {
        let start = row / ny * strides[0] + row % ny * strides[1];
        for (v, s) in out.iter_mut().zip(scratch[start..].iter().step_by(strides[2])) {
            *v = *s;
        }
    }
    debug_assert_eq!(channel.len(), nz * ny * nx, "a channel of the patch");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patch(shape: [usize; 3]) -> Patch {
        let n: usize = shape.iter().product();
        Patch::new(shape, (0..2 * n).map(|i| i as f32).collect(), (0..n).map(|i| i as i16).collect())
            .expect("fits")
    }

    proptest! {
        #[test]
        fn mirroring_twice_is_the_identity(
            shape in [1usize..7, 1usize..7, 1usize..7],
            flip in any::<[bool; 3]>(),
        ) {
            let before = patch(shape);
            let mut after = before.clone();
            MirrorParams { flip }.apply(&mut after);
            for (i, &v) in after.channel(1).iter().enumerate() {
                let at = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
                let from: Vec<usize> =
                    (0..3).map(|a| if flip[a] { shape[a] - 1 - at[a] } else { at[a] }).collect();
                let expected = before.channel(1)[(from[0] * shape[1] + from[1]) * shape[2] + from[2]];
                prop_assert_eq!(v.to_bits(), expected.to_bits());
            }
            MirrorParams { flip }.apply(&mut after);
            prop_assert_eq!(before, after);
        }

        #[test]
        fn four_quarter_turns_are_the_identity(n in 1usize..6, turns in 1usize..4, plane in 0usize..3) {
            let plane = [[0, 1], [0, 2], [1, 2]][plane];
            let before = patch([n, n, n]);
            let mut after = before.clone();
            for _ in 0..4 {
                Rot90Params { turns, plane }.apply(&mut after);
            }
            prop_assert_eq!(before, after);
        }
    }

    #[test]
    fn a_quarter_turn_goes_as_in_torch() {
        // torch.rot90([[0, 1], [2, 3]], 1, (0, 1)) is [[1, 3], [0, 2]].
        let mut p = patch([1, 2, 2]);
        Rot90Params { turns: 1, plane: [1, 2] }.apply(&mut p);
        assert_eq!(p.seg, [1, 3, 0, 2]);
        let mut p = patch([1, 2, 2]);
        Rot90Params { turns: 3, plane: [1, 2] }.apply(&mut p);
        assert_eq!(p.seg, [2, 0, 3, 1]);
    }

    #[test]
    fn only_axes_of_the_commonest_length_are_exchanged() {
        let axes = |shape, planar| exchangeable_axes(&Layout { channels: 1, shape, planar });
        assert_eq!(axes([8, 8, 8], false), [0, 1, 2]);
        assert_eq!(axes([4, 8, 8], false), [1, 2]);
        assert_eq!(axes([4, 8, 4], false), [0, 2]);
        assert!(axes([4, 6, 8], false).is_empty());
        assert_eq!(axes([1, 8, 8], true), [1, 2]);
        assert!(axes([1, 1, 8], true).is_empty());
    }
}
