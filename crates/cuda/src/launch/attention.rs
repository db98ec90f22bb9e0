//! Axial attention: embeddings, and scores along lines. Projections are convolutions of kernel 1.

use super::map::Map;
use super::{Launch, Slice, THREADS, blocks, int, long, size, structure};

/// Places of a line that a block has.
const QUERIES: usize = 16;
/// The longest line: a block keeps the scores of its places.
const LONGEST: usize = 256;

/// Lines of a map along one axis, and the heads that look at them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    /// 0 is z, 2 is x.
    pub axis: usize,
    /// Number of heads.
    pub heads: usize,
    /// Features of a head.
    pub dim: usize,
}

impl Lines {
    /// Whether kernels take lines of this length.
    pub fn fits(length: usize) -> bool {
        length <= LONGEST
    }

    /// Features of all heads.
    pub fn hidden(&self) -> usize {
        self.heads * self.dim
    }

    /// Grid and numbers of a kernel on queries and keys with values.
    fn numbers(&self, q: &Map, kv: &Map) -> ([usize; 3], super::Arg) {
        let (length, hidden) = (q.size[self.axis], self.hidden());
        assert!(Self::fits(length), "lines of {length} voxels");
        assert_eq!((q.batch, q.size, q.element), (kv.batch, kv.size, kv.element), "queries and keys");
        assert!(hidden <= q.channels && 2 * hidden <= kv.channels, "{self:?} of {q:?} and {kv:?}");
        let inner: usize = q.size[self.axis + 1..].iter().product();
        let ints = [length, self.dim, hidden, q.channels, kv.channels];
        // Five numbers of 32 bits, and a gap before the one of 64.
        let numbers = structure(ints.map(int).into_iter().chain([int(0), long(inner)]));
        let lines = q.batch * q.voxels() / length;
        ([lines, self.heads, length.div_ceil(QUERIES)], numbers)
    }
}

impl Launch {
    /// A map with the embeddings `[real, size]` of the three axes added.
    pub fn embed(map: &Map, positions: [Slice; 3], real: usize, embedded: &Map) -> Self {
        let (x, groups, _, len) = map.pieces();
        let mut args = vec![x];
        args.extend([0, 1, 2].map(|a| positions[a].holds(real * map.size[a], 4)));
        args.extend([map.other(embedded), long(len), size(map.size), groups, int(real)]);
        Self::new("embed", [blocks(len), 1, 1], args).of(map.element)
    }

    /// The gradient `[real, size]` of the embeddings of one axis.
    pub fn embed_backward(gradient: &Map, axis: usize, real: usize, positions: Slice) -> Self {
        let (dz, groups, count, _) = gradient.pieces();
        let length = gradient.size[axis];
        let inner: usize = gradient.size[axis + 1..].iter().product();
        let outer = gradient.batch * gradient.voxels() / length / inner;
        let args = vec![
            dz,
            positions.holds(real * length, 4),
            long(outer),
            int(length),
            long(inner),
            groups,
            int(real),
        ];
        Self::new("embed_backward", [length, count, 1], args).of(gradient.element)
    }

    /// What every voxel sees of its line: queries, and keys with values behind them, to a result like the queries.
    pub fn attention(lines: &Lines, q: &Map, kv: &Map, result: &Map) -> Self {
        let (grid, numbers) = lines.numbers(q, kv);
        let args = vec![q.arg(), kv.arg(), q.other(result), numbers];
        Self::new("attention", grid, args).of(q.element)
    }

    /// The gradient of the queries; `rows`, `[n, voxels, heads, 2]` in f32, is what [`Self::attention_keys`] reads.
    pub fn attention_queries(
        lines: &Lines,
        [q, kv]: [&Map; 2],
        result: &Map,
        of_queries: &Map,
        rows: Slice,
    ) -> Self {
        let (grid, numbers) = lines.numbers(q, kv);
        let args = vec![
            q.arg(),
            kv.arg(),
            q.other(result),
            q.other(of_queries),
            rows.holds(lines.row_values(q), 4),
            numbers,
        ];
        Self::new("attention_queries", grid, args).of(q.element)
    }

    /// The gradient of keys and values.
    pub fn attention_keys(
        lines: &Lines,
        [q, kv]: [&Map; 2],
        result: &Map,
        of_keys: &Map,
        rows: Slice,
    ) -> Self {
        let (grid, numbers) = lines.numbers(q, kv);
        let args = vec![
            q.arg(),
            kv.arg(),
            q.other(result),
            kv.other(of_keys),
            rows.holds(lines.row_values(q), 4),
            numbers,
        ];
        Self::new("attention_keys", grid, args).of(q.element)
    }
}

impl Lines {
    /// Values of what [`Launch::attention_queries`] keeps for [`Launch::attention_keys`].
    pub fn row_values(&self, q: &Map) -> usize {
        q.batch * q.voxels() * self.heads * 2
    }
}

const _: () = assert!(THREADS.is_multiple_of(QUERIES));
