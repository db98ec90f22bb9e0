//! Where the tiles of a sliding window lie.
//!
//! A volume smaller than the patch is padded with zeros, the same amount before and after (one more after where odd);
//! the padding is virtual here: a [`Grid`] only knows by how much a tile's start is shifted.

use glioseg_volume::crop::Box3;

use super::InferError;

/// Start voxel of every tile along one axis; together the tiles cover the axis.
///
/// Tiles are spread evenly, at most `step * tile` apart; the last one ends on the last voxel.
///
/// # Shapes and units
/// `size`, `tile` and the result count voxels of the padded volume; `step` is a fraction of `tile`.
///
/// # Errors
/// [`InferError::TileLargerThanVolume`] if `tile > size`: pad the volume first.
/// [`InferError::Step`] if `step` is not in `0 < step <= 1`.
///
/// # Source
/// nnU-Net v2, `compute_steps_for_sliding_window`; rounds half to even, as numpy does.
///
/// ```
/// # use glioseg_infer::tile_starts;
/// assert_eq!(tile_starts(109, 64, 0.5)?, [0, 22, 45]);
/// assert_eq!(tile_starts(193, 128, 0.5)?, [0, 32, 65]);
/// # Ok::<(), glioseg_infer::InferError>(())
/// ```
pub fn tile_starts(size: usize, tile: usize, step: f64) -> Result<Vec<usize>, InferError> {
    if !(step > 0.0 && step <= 1.0) {
        return Err(InferError::Step { step });
    }
    if tile > size || tile == 0 {
        return Err(InferError::TileLargerThanVolume { tile, size });
    }
    let span = (size - tile) as f64;
    let count = (span / (tile as f64 * step)).ceil() as usize + 1;
    let stride = if count > 1 { span / (count - 1) as f64 } else { 0.0 };
    Ok((0..count).map(|i| (stride * i as f64).round_ties_even() as usize).collect())
}

/// The tiles of one volume: `tile` voxels each, at every combination of `starts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Voxels of one tile, `[z, y, x]`.
    pub tile: [usize; 3],
    /// Voxels of the volume before padding.
    pub shape: [usize; 3],
    /// Zeros added before the volume on every axis.
    pub pad_before: [usize; 3],
    starts: [Vec<usize>; 3],
}

impl Grid {
    /// Tiles of `tile` voxels over a volume of `shape` voxels, `step * tile` apart at most.
    ///
    /// # Errors
    /// [`InferError::Step`], and [`InferError::TileLargerThanVolume`] for a tile of no voxels.
    pub fn new(shape: [usize; 3], tile: [usize; 3], step: f64) -> Result<Self, InferError> {
        let mut starts: [Vec<usize>; 3] = Default::default();
        let mut pad_before = [0; 3];
        for a in 0..3 {
            pad_before[a] = tile[a].saturating_sub(shape[a]) / 2;
            starts[a] = tile_starts(shape[a].max(tile[a]), tile[a], step)?;
        }
        Ok(Self { tile, shape, pad_before, starts })
    }

    /// Number of tiles.
    pub fn len(&self) -> usize {
        self.starts.iter().map(Vec::len).product()
    }

    /// Whether there is no tile; never so for a grid that [`Grid::new`] made.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Start of every tile in voxels of the unpadded volume (negative in the padding), last axis fastest.
    pub fn starts(&self) -> impl Iterator<Item = [isize; 3]> + '_ {
        let [z, y, x] = &self.starts;
        let shift = |start: usize, a: usize| start as isize - self.pad_before[a] as isize;
        z.iter().flat_map(move |&z| {
            y.iter().flat_map(move |&y| x.iter().map(move |&x| [shift(z, 0), shift(y, 1), shift(x, 2)]))
        })
    }

    /// Part of the tile at `start` that lies in the volume: for every axis the first and past-the-last voxel of the tile.
    pub(crate) fn inside(&self, start: [isize; 3]) -> Box3 {
        std::array::from_fn(|a| {
            let low = (-start[a]).max(0) as usize;
            let high = (self.shape[a] as isize - start[a]).clamp(0, self.tile[a] as isize) as usize;
            [low, high]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tile_starts_equal_the_examples_of_nnunet() {
        for (size, expected) in [
            (140, vec![0, 12]),
            (171, vec![0, 43]),
            (137, vec![0, 9]),
            (240, vec![0, 56, 112]),
            (128, vec![0]),
        ] {
            assert_eq!(tile_starts(size, 128, 0.5).expect("valid"), expected, "size {size}");
        }
    }

    #[test]
    fn a_step_of_nothing_or_more_than_a_tile_is_refused() {
        for step in [0.0, -0.5, 1.5, f64::NAN] {
            assert!(matches!(tile_starts(10, 5, step), Err(InferError::Step { .. })), "step {step}");
        }
        assert!(matches!(tile_starts(4, 5, 0.5), Err(InferError::TileLargerThanVolume { .. })));
    }

    #[test]
    fn a_small_volume_is_padded_evenly_with_the_odd_voxel_after() {
        let grid = Grid::new([3, 8, 5], [8, 8, 4], 0.5).expect("valid");
        assert_eq!(grid.pad_before, [2, 0, 0]);
        assert_eq!(grid.starts().collect::<Vec<_>>(), [[-2, 0, 0], [-2, 0, 1]]);
        assert_eq!(grid.inside([-2, 0, 0]), [[2, 5], [0, 8], [0, 4]]);
    }

    proptest! {
        #[test]
        fn tile_starts_cover_every_voxel(size in 1usize..300, tile in 1usize..130, step in 0.05f64..=1.0) {
            let tile = tile.min(size);
            let starts = tile_starts(size, tile, step).expect("valid");
            prop_assert_eq!(starts[0], 0);
            prop_assert_eq!(starts[starts.len() - 1] + tile, size);
            for pair in starts.windows(2) {
                prop_assert!(pair[1] >= pair[0] && pair[1] - pair[0] <= tile, "{:?}", starts);
            }
        }
    }
}
