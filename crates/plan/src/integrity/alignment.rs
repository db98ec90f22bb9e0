//! Does a label map lie where its image has edges, or would it do so mirrored or moved?
//!
//! A label map that was turned, cut or padded without its image has the right shape and the right header and teaches
//! nonsense. Where it is right, its border lies on edges of the image: voxels just inside differ from voxels just outside,
//! and in the same direction all along. This is a warning, never an error: some structures have no edge.

use glioseg_volume::{LabelMap, Volume};
use std::borrow::Borrow;

/// Points of the border that are looked at.
const POINTS: usize = 4000;
/// With fewer, chance makes edges.
const FEWEST: usize = 200;
/// Steps along every axis that a map may be moved by.
const REACH: isize = 8;
/// Mean of the differences over their deviation that counts as an edge.
const EDGE: f64 = 0.5;
/// So many times clearer than as it stands.
const CLEARER: f64 = 3.0;

/// Two voxels on a line across the border, the first inside.
type Pair = ([isize; 3], [isize; 3]);

/// What is wrong with the place of a label map; `None` if it lies well, or nothing can be said.
pub(super) fn misplaced<V: Borrow<Volume>>(images: &[V], labels: &LabelMap) -> Option<String> {
    let shape = labels.shape();
    let pairs = border(labels);
    if pairs.len() < FEWEST {
        return None;
    }
    let channels: Vec<&[f32]> = images
        .iter()
        .map(Borrow::borrow)
        .flat_map(|image| (0..image.channels).map(move |c| image.channel(c)))
        .collect();
    let clearest = |place: &dyn Fn([isize; 3]) -> [isize; 3]| {
        channels.iter().map(|values| edge(values, shape, &pairs, place)).fold(0.0, f64::max)
    };
    let own = clearest(&|v| v);
    let mut best: (f64, String) = (0.0, String::new());
    for mask in 1..8usize {
        let flips = [0, 1, 2].map(|a| mask >> a & 1 == 1);
        let mirrored = |v: [isize; 3]| {
            [0, 1, 2].map(|a| if flips[a] { shape[a].cast_signed() - 1 - v[a] } else { v[a] })
        };
        let found = clearest(&mirrored);
        if found > best.0 {
            let axes: Vec<&str> = (0..3).filter(|&a| flips[a]).map(|a| ["z", "y", "x"][a]).collect();
            best = (found, format!("mirrored along {}", axes.join(" and ")));
        }
    }
    let steps = || (-REACH..=REACH).step_by(2);
    for (z, y, x) in steps().flat_map(|z| steps().flat_map(move |y| steps().map(move |x| (z, y, x)))) {
        let found = clearest(&|v: [isize; 3]| [v[0] + z, v[1] + y, v[2] + x]);
        if found > best.0 {
            best = (found, format!("moved by about {z}, {y}, {x} voxels (z, y, x)"));
        }
    }
    let (clear, how) = best;
    (clear > EDGE && clear > CLEARER * own)
        .then(|| format!("the labels do not lie on edges of the image, but would if they were {how}"))
}

/// Pairs of voxels across the border of the foreground, spread over the image.
fn border(labels: &LabelMap) -> Vec<Pair> {
    let shape = labels.shape();
    let strides = [shape[1] * shape[2], shape[2], 1];
    let mut pairs = Vec::new();
    for (i, _) in labels.data.iter().enumerate().filter(|(_, label)| **label > 0) {
        let voxel = labels.geometry.position(i);
        for axis in 0..3 {
            for step in [-1isize, 1] {
                // One voxel beyond the neighbour: edges are not sharp.
                let beyond = voxel[axis].checked_add_signed(2 * step).filter(|&at| at < shape[axis]);
                let next = i.wrapping_add_signed(step * strides[axis].cast_signed());
                if beyond.is_some() && labels.data[next] == 0 {
                    let inside = voxel.map(usize::cast_signed);
                    let mut outside = inside;
                    outside[axis] += 2 * step;
                    pairs.push((inside, outside));
                }
            }
        }
    }
    let step = pairs.len().div_ceil(POINTS).max(1);
    pairs.into_iter().step_by(step).collect()
}

/// Mean difference across the border over its deviation, where `place` puts the border; 0 if much of it lies outside.
fn edge(values: &[f32], shape: [usize; 3], pairs: &[Pair], place: &dyn Fn([isize; 3]) -> [isize; 3]) -> f64 {
    let at = |v: [isize; 3]| {
        let inside = v.iter().zip(shape).all(|(&i, size)| i >= 0 && i < size.cast_signed());
        inside.then(|| {
            let [z, y, x] = v.map(isize::cast_unsigned);
            f64::from(values[(z * shape[1] + y) * shape[2] + x])
        })
    };
    let differences: Vec<f64> = pairs
        .iter()
        .filter_map(|&(inside, outside)| Some(at(place(inside))? - at(place(outside))?))
        .collect();
    if differences.len() * 2 < pairs.len() {
        return 0.0;
    }
    let n = differences.len() as f64;
    let mean = differences.iter().sum::<f64>() / n;
    let variance = differences.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / n;
    match (mean.abs(), variance.sqrt()) {
        (0.0, _) => 0.0,
        // A made image without noise.
        (mean, deviation) => mean / deviation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_volume::Geometry;

    const SHAPE: [usize; 3] = [24, 30, 36];

    /// A noisy image with a bright ball, and the ball as labels, moved by `shift` and mirrored along `flip`.
    fn made(shift: [usize; 3], flip: Option<usize>) -> (Volume, LabelMap) {
        let geometry = Geometry::isotropic(SHAPE);
        let centre = [8.0, 10.0, 12.0];
        let ball = |v: [usize; 3]| (0..3).map(|a| (v[a] as f64 - centre[a]).powi(2)).sum::<f64>() < 36.0;
        let mut noise = 7u32;
        let image = (0..geometry.voxels())
            .map(|i| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                100.0
                    + f32::from((noise >> 24) as u8) / 8.0
                    + if ball(geometry.position(i)) { 40.0 } else { 0.0 }
            })
            .collect();
        let labels = (0..geometry.voxels())
            .map(|i| {
                let mut v = geometry.position(i);
                if let Some(axis) = flip {
                    v[axis] = SHAPE[axis] - 1 - v[axis];
                }
                let v = [0, 1, 2].map(|a| v[a].wrapping_sub(shift[a]).min(1000));
                u16::from(ball(v))
            })
            .collect();
        let image = Volume::new(1, image, geometry.clone()).expect("an image");
        (image, LabelMap::new(labels, geometry).expect("labels"))
    }

    #[test]
    fn labels_on_the_edges_of_their_image_are_right() {
        let (image, labels) = made([0; 3], None);
        assert_eq!(misplaced(&[image], &labels), None);
    }

    #[test]
    fn mirrored_and_moved_labels_are_told_with_the_way_back() {
        let told = |shift, flip| {
            let (image, labels) = made(shift, flip);
            misplaced(&[image], &labels).expect("misplaced")
        };
        assert!(told([0; 3], Some(2)).ends_with("mirrored along x"), "{}", told([0; 3], Some(2)));
        let moved = told([4, 0, 6], None);
        assert!(moved.ends_with("moved by about -4, 0, -6 voxels (z, y, x)"), "{moved}");
    }
}
