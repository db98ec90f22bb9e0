//! Maps: statistics, normalisation and activation, copies, sums, means.

use super::{Arg, Launch, Slice, THREADS, blocks, flag, float, int, long, optional, size, structure};
use crate::cudnn::Element;

/// Channels that lie next to each other in a kernel's hands.
const GROUP: usize = 8;
/// Blocks that share a sample, at most: a few for each multiprocessor of the largest GPUs.
const BLOCKS: usize = 512;
/// The most channels of a map: a block has a thread per group of them.
const MOST_CHANNELS: usize = THREADS * GROUP;

/// A map `[n, voxels, channels]` in a machine's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Map {
    /// Where it lies.
    pub at: Slice,
    /// Samples.
    pub batch: usize,
    /// Voxels of a sample, `[z, y, x]`.
    pub size: [usize; 3],
    /// Channels with their padding: a multiple of 8.
    pub channels: usize,
    /// Its values.
    pub element: Element,
}

/// A normalisation as kernels know it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NormRule {
    /// None.
    None,
    /// By statistics of the map.
    Own {
        /// Neighbouring channels that share statistics.
        per: usize,
        /// Samples share statistics.
        batch: bool,
        /// Added to the variance.
        eps: f32,
    },
    /// By statistics that were kept.
    Kept {
        /// Added to the variance.
        eps: f32,
    },
}

impl NormRule {
    fn arg(self) -> Arg {
        let (kind, per, batch, eps) = match self {
            Self::None => (0, 1, false, 0.0),
            Self::Own { per, batch, eps } => (1, per, batch, eps),
            Self::Kept { eps } => (2, 1, true, eps),
        };
        structure([int(kind), int(per), flag(batch), float(eps)])
    }
}

/// Parameters and results of a normalisation of a map with `real` channels; all in f32.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Which.
    pub rule: NormRule,
    /// Channels without padding.
    pub real: usize,
    /// `[real]`.
    pub gamma: Option<Slice>,
    /// `[real]`.
    pub beta: Option<Slice>,
    /// `[real]` each: what the convolutions before would have added.
    pub biases: [Option<Slice>; 3],
    /// `[n, real]`: factors of dropout.
    pub mask: Option<Slice>,
    /// `[real]` each: mean and variance that are kept.
    pub kept: Option<[Slice; 2]>,
    /// `[n, channels, 4]`: what it becomes.
    pub form: Slice,
    /// `[n, channels]`: sums of normalised values.
    pub total: Slice,
}

impl Map {
    /// Voxels of a sample.
    pub fn voxels(&self) -> usize {
        self.size.iter().product()
    }

    /// Values of all samples.
    pub fn values(&self) -> usize {
        self.batch * self.voxels() * self.channels
    }

    /// Bytes of all samples.
    pub fn bytes(&self) -> usize {
        self.values() * self.element.bytes()
    }

    fn check_real(&self, real: usize) {
        assert!(real <= self.channels, "{real} of {} channels", self.channels);
    }

    fn groups(&self) -> usize {
        assert!(
            self.channels.is_multiple_of(GROUP) && (1..=MOST_CHANNELS).contains(&self.channels),
            "a map of {} channels",
            self.channels
        );
        self.channels / GROUP
    }

    /// Values of 8 channels.
    fn len(&self) -> usize {
        self.values() / self.channels * self.groups()
    }

    /// Voxels that a block covers.
    fn rows(&self) -> usize {
        let lanes = THREADS / self.groups();
        self.voxels().div_ceil(BLOCKS).next_multiple_of(lanes)
    }

    /// Blocks that share a sample.
    fn blocks(&self) -> usize {
        self.voxels().div_ceil(self.rows())
    }

    pub(super) fn arg(&self) -> Arg {
        self.at.holds(self.values(), self.element.bytes())
    }

    pub(super) fn other(&self, other: &Self) -> Arg {
        assert_eq!(
            (self.batch, self.voxels(), self.channels, self.element),
            (other.batch, other.voxels(), other.channels, other.element),
            "two maps of a kernel"
        );
        other.arg()
    }

    fn rowed(&self) -> [Arg; 3] {
        [int(self.voxels()), int(self.groups()), int(self.rows())]
    }

    /// Values of the parts of sums for `rows` rows of the map: [`Launch::stats`], [`Launch::norm_sums`] with one row per sample.
    pub fn part_values(&self, rows: usize) -> usize {
        rows * self.blocks() * self.channels * 2
    }

    /// Values of folded sums, in f64.
    pub fn sum_values(&self, rows: usize) -> usize {
        rows * self.channels * 2
    }

    pub(super) fn head_grid(&self, outputs: usize) -> ([usize; 3], [Arg; 3]) {
        ([self.blocks(), self.batch, outputs], self.rowed())
    }

    pub(super) fn pieces(&self) -> (Arg, Arg, usize, usize) {
        (self.arg(), int(self.groups()), self.groups(), self.len())
    }
}

impl Launch {
    /// A patch `[n, channels, voxels]` in f32 becomes a map, whose channels need not be a multiple of 8.
    pub fn pack(patch: Slice, map: &Map) -> Self {
        let voxels = map.voxels();
        let args = vec![patch.holds(map.values(), 4), map.arg(), int(voxels), int(map.channels)];
        Self::new("pack", [blocks(voxels), map.batch, 1], args).of(map.element)
    }

    /// Parts of the sums and sums of squares of a map: [`Map::part_values`] in f32.
    pub fn stats(map: &Map, part: Slice) -> Self {
        let mut args = vec![map.arg(), part.holds(map.part_values(map.batch), 4)];
        args.extend(map.rowed());
        Self::new("stats", [map.blocks(), map.batch, 1], args).of(map.element)
    }

    /// Adds the parts of a map up, for so many rows of it: [`Map::sum_values`] in f64.
    pub fn fold(map: &Map, rows: usize, part: Slice, sums: Slice) -> Self {
        let args = vec![
            part.holds(map.part_values(rows), 4),
            sums.holds(map.sum_values(rows), 8),
            int(map.blocks()),
            int(map.groups()),
        ];
        Self::new("fold", [map.groups(), rows, 1], args)
    }

    /// What a normalisation becomes, from the folded sums of [`Self::stats`]; without a norm they are not read. Running statistics
    /// are changed where `form.kept` is given and the rule is [`NormRule::Own`].
    pub fn affine(map: &Map, sums: Slice, form: &Form) -> Self {
        let Form { rule, real, gamma, beta, biases, mask, kept, form, total } = *form;
        let rows = map.batch * map.channels;
        map.check_real(real);
        let mut args = vec![sums.holds(rows * 2, 8), optional(gamma, real), optional(beta, real)];
        args.extend(biases.map(|bias| optional(bias, real)));
        args.push(optional(mask, map.batch * real));
        args.extend([0, 1].map(|i| optional(kept.map(|kept| kept[i]), real)));
        args.extend([form.holds(rows * 4, 4), total.holds(rows, 4), rule.arg()]);
        args.extend([map.batch, map.channels, real, map.voxels()].map(int));
        Self::new("affine", [blocks(rows), 1, 1], args)
    }

    /// `activation(y * scale + shift)` into `z`, and into the channels from `at` on of a joined map; one of them may be missing.
    pub fn apply(y: &Map, form: &Form, z: Option<&Map>, joined: Option<(&Map, usize)>, slope: f32) -> Self {
        let none = Arg::Memory(None);
        let [voxels, groups, rows] = y.rowed();
        let (also, also_groups, at) = match joined {
            Some((joined, at)) => (y.within(joined, at), joined.groups(), at / GROUP),
            None => (none.clone(), 0, 0),
        };
        let args = vec![
            y.arg(),
            form.form.holds(y.batch * y.channels * 4, 4),
            z.map_or(none, |z| y.other(z)),
            also,
            voxels,
            groups,
            rows,
            int(also_groups),
            int(at),
            float(slope),
        ];
        Self::new("apply", [y.blocks(), y.batch, 1], args).of(y.element)
    }

    /// Parts of the sums that the gradient `dz` of [`Self::apply`]'s result gives: [`Map::part_values`] in f32.
    pub fn norm_sums(y: &Map, dz: &Map, form: &Form, part: Slice, slope: f32) -> Self {
        let mut args = vec![
            y.arg(),
            y.other(dz),
            form.form.holds(y.batch * y.channels * 4, 4),
            part.holds(y.part_values(y.batch), 4),
        ];
        args.extend(y.rowed());
        args.push(float(slope));
        Self::new("norm_sums", [y.blocks(), y.batch, 1], args).of(y.element)
    }

    /// Terms `[n, channels, 2]` of [`Self::norm_backward`] from the folded sums, and the gradients of factor, offset and biases.
    pub fn norm_terms(
        map: &Map,
        sums: Slice,
        form: &Form,
        terms: Slice,
        [gamma, beta]: [Option<Slice>; 2],
        biases: [Option<Slice>; 3],
    ) -> Self {
        let (rows, real) = (map.batch * map.channels, form.real);
        let mut args = vec![
            sums.holds(rows * 2, 8),
            optional(form.gamma, real),
            form.form.holds(rows * 4, 4),
            form.total.holds(rows, 4),
            terms.holds(rows * 2, 4),
            optional(gamma, real),
            optional(beta, real),
        ];
        args.extend(biases.map(|bias| optional(bias, real)));
        args.push(form.rule.arg());
        args.extend([map.batch, map.channels, real, map.voxels()].map(int));
        Self::new("norm_terms", [blocks(rows), 1, 1], args)
    }

    /// The gradient of `y`; it may lie where `dz` does.
    pub fn norm_backward(y: &Map, [dz, dy]: [&Map; 2], form: &Form, terms: Slice, slope: f32) -> Self {
        let rows = y.batch * y.channels;
        let mut args =
            vec![y.arg(), y.other(dz), form.form.holds(rows * 4, 4), terms.holds(rows * 2, 4), y.other(dy)];
        args.extend(y.rowed());
        args.push(float(slope));
        Self::new("norm_backward", [y.blocks(), y.batch, 1], args).of(y.element)
    }

    /// Copies a map into the channels from `at` on of a joined one.
    pub fn put(map: &Map, joined: &Map, at: usize) -> Self {
        let args = vec![
            map.arg(),
            map.within(joined, at),
            long(map.len()),
            int(map.groups()),
            int(joined.groups()),
            int(at / GROUP),
        ];
        Self::new("put", [blocks(map.len()), 1, 1], args).of(map.element)
    }

    /// Copies those channels into a map, or adds them to it.
    pub fn take(joined: &Map, at: usize, map: &Map, add: bool) -> Self {
        let args = vec![
            map.within(joined, at),
            map.arg(),
            long(map.len()),
            int(map.groups()),
            int(joined.groups()),
            int(at / GROUP),
            flag(add),
        ];
        Self::new("take", [blocks(map.len()), 1, 1], args).of(map.element)
    }

    /// `activation(a + b)`.
    pub fn add([a, b]: [&Map; 2], sum: &Map, slope: f32) -> Self {
        let args = vec![a.arg(), a.other(b), a.other(sum), long(a.len()), float(slope)];
        Self::new("add", [blocks(a.len()), 1, 1], args).of(a.element)
    }

    /// The gradient `dz` through an activation that wrote `z`, into `dx` or added to it; `dx` may lie where `dz` does.
    pub fn through(z: &Map, [dz, dx]: [&Map; 2], add: bool, slope: f32) -> Self {
        let args = vec![z.arg(), z.other(dz), z.other(dx), long(z.len()), flag(add), float(slope)];
        Self::new("through", [blocks(z.len()), 1, 1], args).of(z.element)
    }

    /// The mean of every block of `kernel` voxels.
    pub fn pool(map: &Map, kernel: [usize; 3], means: &Map) -> Self {
        pooled(map, kernel, means);
        let args = vec![
            map.arg(),
            means.arg(),
            long(means.len()),
            size(means.size),
            size(kernel),
            int(map.groups()),
        ];
        Self::new("pool", [blocks(means.len()), 1, 1], args).of(map.element)
    }

    /// Its gradient, into `map` or added to it.
    pub fn pool_backward(means: &Map, kernel: [usize; 3], map: &Map, add: bool) -> Self {
        pooled(map, kernel, means);
        let args = vec![
            means.arg(),
            map.arg(),
            long(map.len()),
            size(map.size),
            size(kernel),
            int(map.groups()),
            flag(add),
        ];
        Self::new("pool_backward", [blocks(map.len()), 1, 1], args).of(map.element)
    }
}

fn pooled(map: &Map, kernel: [usize; 3], means: &Map) {
    let size: [usize; 3] = std::array::from_fn(|a| means.size[a] * kernel[a]);
    assert_eq!(
        (map.batch, map.size, map.channels, map.element),
        (means.batch, size, means.channels, means.element),
        "a map and its means"
    );
}

impl Map {
    /// A joined map that has this one's channels from `at` on.
    fn within(&self, joined: &Self, at: usize) -> Arg {
        assert!(
            at.is_multiple_of(GROUP)
                && at + self.channels <= joined.channels
                && (self.batch, self.voxels(), self.element)
                    == (joined.batch, joined.voxels(), joined.element),
            "{self:?} from channel {at} on in {joined:?}"
        );
        joined.arg()
    }
}
