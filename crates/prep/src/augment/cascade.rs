//! The previous stage's segmentation as input of a cascade, and how it is made less reliable.

use super::Patch;
use super::random::PatchRng;

/// Moves the segmentation's last channel into the image, one 0/1 channel per label.
///
/// # Source
/// batchgeneratorsv2, `MoveSegAsOneHotToDataTransform(source_channel_idx=1)`.
pub fn append_previous_stage(patch: &mut Patch, labels: &[i16]) {
    let n = patch.voxels();
    let previous = patch.seg.split_off(patch.seg.len() - n);
    patch.data.reserve(labels.len() * n);
    for &label in labels {
        patch.data.extend(previous.iter().map(|&p| f32::from(u8::from(p == label))));
    }
}

/// What is done to a binary channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Morphology {
    /// Grow.
    Dilate,
    /// Shrink.
    Erode,
    /// Grow, then shrink.
    Close,
    /// Shrink, then grow.
    Open,
}

/// Grows, shrinks, closes or opens the channels of a one-hot segmentation at the end of the image.
#[derive(Debug, Clone, PartialEq)]
pub struct BinaryOperators {
    /// Channels at the end of the image that are labels.
    pub labels: usize,
    /// Smallest and largest radius of the ball in voxels.
    pub radius_vox: (f64, f64),
    /// Probability per label.
    pub p_label: f64,
}

/// What [`BinaryOperators`] drew: in the order of application, the label channel (0 is the first), what is done, and
/// the radius in voxels.
#[derive(Debug, Clone, PartialEq)]
pub struct BinaryParams {
    /// Label channels in all.
    pub labels: usize,
    /// The steps.
    pub steps: Vec<(usize, Morphology, f64)>,
    /// The ball is a disk.
    pub planar: bool,
}

impl BinaryOperators {
    /// Draws the parameters.
    pub fn sample(&self, planar: bool, rng: &mut PatchRng) -> BinaryParams {
        let steps = chosen(self.labels, self.p_label, rng)
            .into_iter()
            .map(|label| {
                let all = [Morphology::Dilate, Morphology::Erode, Morphology::Close, Morphology::Open];
                let operator = all[rng.below(all.len())];
                (label, operator, rng.uniform(self.radius_vox.0, self.radius_vox.1))
            })
            .collect();
        BinaryParams { labels: self.labels, steps, planar }
    }
}

/// Labels in random order, each with probability `p`.
fn chosen(labels: usize, p: f64, rng: &mut PatchRng) -> Vec<usize> {
    let mut order: Vec<usize> = (0..labels).collect();
    rng.shuffle(&mut order);
    order.retain(|_| rng.chance(p));
    order
}

impl BinaryParams {
    /// Applies the steps; voxels that a label gains are taken from the others.
    ///
    /// # Source
    /// batchgeneratorsv2, `ApplyRandomBinaryOperatorTransform`.
    pub fn apply(&self, patch: &mut Patch) {
        let n = patch.voxels();
        let shape = patch.shape;
        let first = patch.data.len() - self.labels * n;
        for &(label, operator, radius) in &self.steps {
            let ball = Ball::new(radius, self.planar);
            let before: Vec<u8> =
                patch.data[first + label * n..][..n].iter().map(|&v| u8::from(v != 0.0)).collect();
            let grown = |mask: &[u8]| ball.dilate(mask, shape);
            let shrunk = |mask: &[u8]| {
                let outside: Vec<u8> = mask.iter().map(|v| 1 - v).collect();
                grown(&outside).into_iter().map(|v| 1 - v).collect::<Vec<u8>>()
            };
            let after = match operator {
                Morphology::Dilate => grown(&before),
                Morphology::Erode => shrunk(&before),
                Morphology::Close => shrunk(&grown(&before)),
                Morphology::Open => grown(&shrunk(&before)),
            };
            for (other, channel) in patch.data[first..].chunks_exact_mut(n).enumerate() {
                for ((v, &now), &then) in channel.iter_mut().zip(&after).zip(&before) {
                    if other == label {
                        *v = f32::from(now);
                    } else if now > then {
                        *v = 0.0;
                    }
                }
            }
        }
    }
}

/// A structuring element as rows: offset along z and y, and the range of offsets along x.
struct Ball(Vec<(isize, isize, isize, isize)>);

impl Ball {
    /// # Source
    /// `skimage.morphology.ball`, which spreads `int(2 r + 1)` points from `-r` to `r` even where `r` is not whole, and
    /// `disk`, which goes from `-r` in whole steps to below `r + 1`. The convolution centres an even number of points to
    /// the left.
    fn new(radius: f64, planar: bool) -> Ball {
        let points = 2.0 * radius + 1.0;
        let n = if planar { points.ceil() } else { points } as usize;
        let pitch = if planar || n == 1 { 1.0 } else { 2.0 * radius / (n - 1) as f64 };
        let point = |i: usize| -radius + i as f64 * pitch;
        let offset = |i: usize| i as isize - (n as isize - 1) / 2;
        let mut rows = Vec::new();
        for z in 0..if planar { 1 } else { n } {
            let pz = if planar { 0.0 } else { point(z) };
            for y in 0..n {
                let inside = |x: &usize| pz * pz + point(y).powi(2) + point(*x).powi(2) <= radius * radius;
                let low = (0..n).find(inside);
                let high = (0..n).rev().find(inside);
                if let (Some(low), Some(high)) = (low, high) {
                    let dz = if planar { 0 } else { offset(z) };
                    rows.push((dz, offset(y), offset(low), offset(high)));
                }
            }
        }
        Ball(rows)
    }

    /// Which voxels see a set voxel through the element; nothing is set outside.
    fn dilate(&self, mask: &[u8], [nz, ny, nx]: [usize; 3]) -> Vec<u8> {
        // Set voxels before each position of a row, so that a range is looked up at once.
        let counts: Vec<u32> = mask
            .chunks_exact(nx)
            .flat_map(|row| {
                std::iter::once(0).chain(row.iter().scan(0, |sum, &v| {
                    *sum += u32::from(v);
                    Some(*sum)
                }))
            })
            .collect();
        let mut out = vec![0u8; mask.len()];
        for (r, row) in out.chunks_exact_mut(nx).enumerate() {
            let (z, y) = ((r / ny) as isize, (r % ny) as isize);
            for &(dz, dy, low, high) in &self.0 {
                let (z, y) = (z + dz, y + dy);
                if !(0..nz as isize).contains(&z) || !(0..ny as isize).contains(&y) {
                    continue;
                }
                let counts = &counts[(z as usize * ny + y as usize) * (nx + 1)..][..=nx];
                if counts[nx] == 0 {
                    continue;
                }
                for (x, v) in row.iter_mut().enumerate() {
                    let from = (x as isize + low).clamp(0, nx as isize) as usize;
                    let to = (x as isize + high + 1).clamp(0, nx as isize) as usize;
                    *v |= u8::from(counts[to] > counts[from]);
                }
            }
        }
        out
    }
}

/// Removes a component from channels of a one-hot segmentation at the end of the image.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoveComponent {
    /// Channels at the end of the image that are labels.
    pub labels: usize,
    /// Components of at least this fraction of the patch stay.
    pub largest: f64,
    /// Probability per label.
    pub p_label: f64,
}

/// What [`RemoveComponent`] drew: label channels in order, with random bits that pick the component.
#[derive(Debug, Clone, PartialEq)]
pub struct RemoveParams {
    /// Label channels in all.
    pub labels: usize,
    /// Components of at least this fraction of the patch stay.
    pub largest: f64,
    /// The steps.
    pub steps: Vec<(usize, u64)>,
}

impl RemoveComponent {
    /// Draws the parameters.
    pub fn sample(&self, rng: &mut PatchRng) -> RemoveParams {
        let steps = chosen(self.labels, self.p_label, rng).into_iter().map(|l| (l, rng.word())).collect();
        RemoveParams { labels: self.labels, largest: self.largest, steps }
    }
}

impl RemoveParams {
    /// Removes from each chosen channel one of its small components, voxels that touch by a corner being connected.
    ///
    /// # Source
    /// batchgeneratorsv2, `RemoveRandomConnectedComponentFromOneHotEncodingTransform(fill_with_other_class_p=0)`.
    pub fn apply(&self, patch: &mut Patch) {
        let n = patch.voxels();
        let shape = patch.shape;
        let first = patch.data.len() - self.labels * n;
        for &(label, bits) in &self.steps {
            let channel = &mut patch.data[first + label * n..][..n];
            let mut components = components(channel, shape);
            components.retain(|c| (c.len() as f64) < n as f64 * self.largest);
            if !components.is_empty() {
                let picked = PatchRng::field(bits).below(components.len());
                components[picked].iter().for_each(|&i| channel[i] = 0.0);
            }
        }
    }
}

/// The voxels of every component, in the order of its first voxel; 26 neighbours.
fn components(channel: &[f32], [nz, ny, nx]: [usize; 3]) -> Vec<Vec<usize>> {
    let mut free: Vec<bool> = channel.iter().map(|&v| v != 0.0).collect();
    let mut found = Vec::new();
    for start in 0..free.len() {
        if !free[start] {
            continue;
        }
        free[start] = false;
        let mut voxels = vec![start];
        let mut next = 0;
        while let Some(&i) = voxels.get(next) {
            next += 1;
            let (z, y, x) = (i / (ny * nx), i / nx % ny, i % nx);
            for z in z.saturating_sub(1)..(z + 2).min(nz) {
                for y in y.saturating_sub(1)..(y + 2).min(ny) {
                    for x in x.saturating_sub(1)..(x + 2).min(nx) {
                        let j = (z * ny + y) * nx + x;
                        if free[j] {
                            free[j] = false;
                            voxels.push(j);
                        }
                    }
                }
            }
        }
        found.push(voxels);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Voxels of a channel that are set.
    fn set(p: &Patch, c: usize) -> usize {
        p.channel(c).iter().filter(|v| **v > 0.5).count()
    }

    fn cross() -> Patch {
        let mut p = Patch::new([5, 5, 5], vec![7.0; 125], vec![0; 250]).expect("fits");
        p.seg[125 + 62] = 2;
        p.seg[125 + 63] = 1;
        p
    }

    #[test]
    fn the_previous_stage_becomes_one_channel_per_label() {
        let mut p = cross();
        append_previous_stage(&mut p, &[1, 2]);
        assert_eq!((p.channels(), p.seg_channels()), (3, 1));
        assert_eq!(p.channel(0), [7.0; 125]);
        assert_eq!(set(&p, 1), 1);
        assert!(p.channel(1)[63] > 0.5 && p.channel(2)[62] > 0.5);
    }

    #[test]
    fn growing_takes_voxels_from_the_other_label_and_shrinking_undoes_it() {
        let mut p = cross();
        append_previous_stage(&mut p, &[1, 2]);
        let step = |op| BinaryParams { labels: 2, steps: vec![(1, op, 1.0)], planar: false };
        step(Morphology::Dilate).apply(&mut p);
        assert_eq!(set(&p, 2), 7);
        assert_eq!(set(&p, 1), 0);
        step(Morphology::Erode).apply(&mut p);
        assert_eq!(set(&p, 2), 1);
        step(Morphology::Close).apply(&mut p);
        assert_eq!((set(&p, 2), p.channel(2)[62] > 0.5), (1, true));
        step(Morphology::Open).apply(&mut p);
        assert_eq!(set(&p, 2), 0);
    }

    #[test]
    fn balls_are_skimages() {
        // skimage.morphology.ball(r).sum() and disk(2).sum().
        let size = |r, planar| Ball::new(r, planar).0.iter().map(|b| b.3 - b.2 + 1).sum::<isize>();
        assert_eq!([1.0, 2.0, 3.0, 3.7, 5.5].map(|r| size(r, false)), [7, 33, 123, 160, 672]);
        assert_eq!(size(2.0, true), 13);
    }

    #[test]
    fn one_small_component_goes() {
        let mut data = vec![0.0; 5 * 5 * 5];
        data[0] = 1.0;
        // Touches the first by a corner.
        data[31] = 1.0;
        data[124] = 1.0;
        let mut p = Patch::new([5, 5, 5], data.clone(), vec![0; 125]).expect("fits");
        assert_eq!(components(&data, [5, 5, 5]), [vec![0, 31], vec![124]]);
        RemoveParams { labels: 1, largest: 1.5 / 125.0, steps: vec![(0, 5)] }.apply(&mut p);
        assert_eq!([0, 31, 124].map(|i| p.data[i] > 0.5), [true, true, false]);
    }
}
