//! Tiles of a case that stays in a machine's memory.

use super::map::Map;
use super::{Arg, Launch, Slice, blocks, flag, float, int, size, structure};
use crate::cudnn::Element;

/// A tile of a case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tile {
    /// Voxels of the case, `[z, y, x]`.
    pub shape: [usize; 3],
    /// Voxels of the tile, `[z, y, x]`.
    pub size: [usize; 3],
    /// The case's voxel where it begins, `[z, y, x]`; it may begin before the case and end behind it.
    pub start: [isize; 3],
    /// Whether it is mirrored along z, y, x.
    pub mirrored: [bool; 3],
}

impl Tile {
    fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    fn places(&self) -> [Arg; 3] {
        let start = self.start.map(|s| {
            let start = i32::try_from(s).expect("a number of 32 bits");
            Arg::Value(start.to_ne_bytes().to_vec())
        });
        [size(self.shape), size(self.size), structure(start)]
    }

    fn check(&self, map: &Map) {
        assert_eq!((map.batch, map.size), (1, self.size), "a map and its tile");
    }

    fn mirror(&self) -> Arg {
        let [z, y, x] = self.mirrored.map(usize::from);
        int(z * 4 + y * 2 + x)
    }
}

impl Launch {
    /// Cuts a tile out of a case `[channels, z, y, x]` in f32, mirrored, with zeros outside: a map of one sample.
    pub fn gather(case: Slice, tile: &Tile, map: &Map) -> Self {
        tile.check(map);
        let values = map.channels * tile.shape.iter().product::<usize>();
        let map_bytes = map.at.holds(map.values(), map.element.bytes());
        let mut args = vec![case.holds(values, 4), map_bytes];
        args.extend(tile.places());
        args.extend([int(map.channels), tile.mirror()]);
        Self::new("gather", [blocks(tile.voxels()), 1, 1], args).of(map.element)
    }

    /// Logits `[outputs, tile]` mirrored back, into `mean` or added to it.
    pub fn unmirror(logits: Slice, tile: &Tile, outputs: usize, mean: Slice, add: bool) -> Self {
        let values = outputs * tile.voxels();
        let args = vec![
            logits.holds(values, 4),
            mean.holds(values, 4),
            size(tile.size),
            int(outputs),
            tile.mirror(),
            flag(add),
        ];
        Self::new("unmirror", [blocks(values), 1, 1], args)
    }

    /// Adds `logits * share * weights` to the sums `[outputs, z, y, x]` of the case, rounded as these are kept; `weights` is
    /// a tile in f32.
    pub fn accumulate(
        [logits, weights]: [Slice; 2],
        tile: &Tile,
        outputs: usize,
        (sums, element): (Slice, Element),
        share: f32,
    ) -> Self {
        let values = outputs * tile.voxels();
        let sum_values = outputs * tile.shape.iter().product::<usize>();
        let mut args = vec![
            logits.holds(values, 4),
            weights.holds(tile.voxels(), 4),
            sums.holds(sum_values, element.bytes()),
        ];
        args.extend(tile.places());
        args.extend([int(outputs), float(share)]);
        Self::new("accumulate", [blocks(values), 1, 1], args).of(element)
    }
}
