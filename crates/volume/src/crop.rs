//! The non-zero region of an image, cropping to it and back, and the order of the axes.
//!
//! Arrays are slices in `[c, z, y, x]` order. Cropping moves rows inside the array it is given, so that a case never
//! exists twice; everything that takes rows works on whole rows, which are contiguous.

use rayon::prelude::*;

/// A box of voxels: first and one past the last index of every axis.
pub type Box3 = [[usize; 2]; 3];

/// Voxels along every axis of a box.
pub fn box_shape(bbox: Box3) -> [usize; 3] {
    bbox.map(|[lo, hi]| hi - lo)
}

/// Where any channel is not zero (NaN is not), holes not filled.
///
/// # Shapes
/// `data` is `[c, z, y, x]`, the result `[z, y, x]`.
///
/// # Panics
/// If `data` does not hold whole channels of `shape`.
///
/// # Source
/// nnU-Net v2, `create_nonzero_mask` without its last step, [`fill_holes`].
pub fn nonzero_mask(data: &[f32], shape: [usize; 3]) -> Vec<bool> {
    let voxels: usize = shape.iter().product();
    assert!(
        voxels > 0 && data.len().is_multiple_of(voxels),
        "{} values are no channels of {shape:?}",
        data.len()
    );
    let mut mask = vec![false; voxels];
    for channel in data.chunks_exact(voxels) {
        mask.par_chunks_mut(1 << 16).zip(channel.par_chunks(1 << 16)).for_each(|(mask, values)| {
            mask.iter_mut().zip(values).for_each(|(m, &v)| *m |= v != 0.0);
        });
    }
    mask
}

/// Sets the background voxels that no path of background faces connects with the border of the volume.
///
/// # Panics
/// If `mask` does not hold `shape` voxels.
///
/// # Source
/// scipy, `binary_fill_holes` with its default structure (6 neighbours).
pub fn fill_holes(mask: &mut [bool], shape: [usize; 3]) {
    let [nz, ny, nx] = shape;
    assert_eq!(mask.len(), nz * ny * nx, "mask of another size than its shape {shape:?}");
    // Runs of background along x, joined with the runs they touch in the rows before; the first set is the outside.
    let mut runs: Vec<[u32; 2]> = Vec::new();
    let mut first_run = Vec::with_capacity(nz * ny + 1);
    let mut sets = vec![OUTSIDE];
    for (row, values) in mask.chunks_exact(nx).enumerate() {
        first_run.push(runs.len());
        let (z, y) = (row / ny, row % ny);
        let edge = z == 0 || z == nz - 1 || y == 0 || y == ny - 1;
        let mut x = 0;
        while let Some(start) = values[x..].iter().position(|m| !m).map(|i| x + i) {
            let end = values[start..].iter().position(|&m| m).map_or(nx, |i| start + i);
            let set = sets.len();
            sets.push(set);
            runs.push([start as u32, end as u32]);
            if edge || start == 0 || end == nx {
                join(&mut sets, OUTSIDE, set);
            }
            x = end;
        }
        for before in [(y > 0).then(|| row - 1), (z > 0).then(|| row - ny)].into_iter().flatten() {
            let (here, there) = (first_run[row]..runs.len(), first_run[before]..first_run[before + 1]);
            join_touching(&mut sets, &runs, here, there);
        }
    }
    first_run.push(runs.len());
    for (row, values) in mask.chunks_exact_mut(nx).enumerate() {
        for run in first_run[row]..first_run[row + 1] {
            if find(&mut sets, run + 1) != OUTSIDE {
                let [start, end] = runs[run];
                values[start as usize..end as usize].fill(true);
            }
        }
    }
}

/// The set that every background voxel of the border belongs to; run `i` starts as set `i + 1`.
const OUTSIDE: usize = 0;

fn find(sets: &mut [usize], mut i: usize) -> usize {
    while sets[i] != i {
        sets[i] = sets[sets[i]];
        i = sets[i];
    }
    i
}

fn join(sets: &mut [usize], a: usize, b: usize) {
    let (a, b) = (find(sets, a), find(sets, b));
    // The smaller number is kept, so the outside stays the outside.
    sets[a.max(b)] = a.min(b);
}

/// Joins the runs of two adjacent rows that share a position; both lists ascend.
fn join_touching(
    sets: &mut [usize],
    runs: &[[u32; 2]],
    mut here: std::ops::Range<usize>,
    mut there: std::ops::Range<usize>,
) {
    while !here.is_empty() && !there.is_empty() {
        let ([a0, a1], [b0, b1]) = (runs[here.start], runs[there.start]);
        if a0 < b1 && b0 < a1 {
            join(sets, here.start + 1, there.start + 1);
        }
        if a1 <= b1 {
            here.start += 1;
        } else {
            there.start += 1;
        }
    }
}

/// The smallest box that holds every set voxel; `None` where none is set.
///
/// # Panics
/// If `mask` does not hold `shape` voxels.
///
/// # Source
/// `acvl_utils`, `get_bbox_from_mask` (which gives the whole image where we give `None`).
pub fn bounding_box(mask: &[bool], shape: [usize; 3]) -> Option<Box3> {
    let [nz, ny, nx] = shape;
    assert_eq!(mask.len(), nz * ny * nx, "mask of another size than its shape {shape:?}");
    let mut bbox: Option<Box3> = None;
    for (row, values) in mask.chunks_exact(nx).enumerate() {
        let (Some(first), Some(last)) = (values.iter().position(|&m| m), values.iter().rposition(|&m| m))
        else {
            continue;
        };
        let here = [row / ny, row % ny].map(|i| [i, i + 1]);
        let here = [here[0], here[1], [first, last + 1]];
        bbox = Some(match bbox {
            None => here,
            Some(b) => [0, 1, 2].map(|a| [b[a][0].min(here[a][0]), b[a][1].max(here[a][1])]),
        });
    }
    bbox
}

fn check_box(len: usize, shape: [usize; 3], bbox: Box3) {
    let voxels: usize = shape.iter().product();
    assert!(voxels > 0 && len.is_multiple_of(voxels), "{len} values are no channels of {shape:?}");
    assert!(
        (0..3).all(|a| bbox[a][0] <= bbox[a][1] && bbox[a][1] <= shape[a]),
        "box {bbox:?} reaches out of {shape:?}"
    );
}

/// First index in `[z, y, x]` order of every row of a box.
fn row_starts(shape: [usize; 3], bbox: Box3) -> impl Iterator<Item = usize> {
    let [[z0, z1], [y0, y1], [x0, _]] = bbox;
    (z0..z1).flat_map(move |z| (y0..y1).map(move |y| (z * shape[1] + y) * shape[2] + x0))
}

/// Cuts a box out of every channel, inside the array itself.
///
/// # Shapes
/// `data` is `[c, z, y, x]` of `shape`, the result of [`box_shape`].
///
/// # Panics
/// If `data` does not hold whole channels of `shape`, or the box reaches out of it.
pub fn crop<T: Copy>(mut data: Vec<T>, shape: [usize; 3], bbox: Box3) -> Vec<T> {
    check_box(data.len(), shape, bbox);
    if box_shape(bbox) == shape {
        return data;
    }
    let voxels: usize = shape.iter().product();
    let width = bbox[2][1] - bbox[2][0];
    let mut to = 0;
    for channel in (0..data.len()).step_by(voxels) {
        for start in row_starts(shape, bbox) {
            data.copy_within(channel + start..channel + start + width, to);
            to += width;
        }
    }
    data.truncate(to);
    data.shrink_to_fit();
    data
}

/// Writes a cut-out box back to its place in every channel of `into`; what lies outside the box is left as it is.
///
/// # Shapes
/// `cropped` is `[c, z, y, x]` of [`box_shape`], `into` of `shape`.
///
/// # Panics
/// If the arrays do not hold the same number of whole channels, or the box reaches out of `shape`.
///
/// # Source
/// `acvl_utils`, `insert_crop_into_image`.
pub fn insert<T: Copy>(cropped: &[T], bbox: Box3, into: &mut [T], shape: [usize; 3]) {
    check_box(into.len(), shape, bbox);
    let voxels: usize = shape.iter().product();
    let box_voxels: usize = box_shape(bbox).iter().product();
    let channels = into.len() / voxels;
    assert_eq!(cropped.len(), channels * box_voxels, "not {channels} channels of the box {bbox:?}");
    let width = bbox[2][1] - bbox[2][0];
    if box_voxels == 0 {
        return;
    }
    for (into, cropped) in into.chunks_exact_mut(voxels).zip(cropped.chunks_exact(box_voxels)) {
        for (start, row) in row_starts(shape, bbox).zip(cropped.chunks_exact(width)) {
            into[start..start + width].copy_from_slice(row);
        }
    }
}

/// Permutes the spatial axes of every channel: axis `a` of the result is axis `axes[a]` of `data`.
///
/// # Shapes
/// `data` is `[c, z, y, x]` of `shape`, the result of `axes.map(|a| shape[a])`.
///
/// # Panics
/// If `axes` is not a permutation, or `data` does not hold whole channels of `shape`.
///
/// # Source
/// numpy, `transpose([0, *[a + 1 for a in axes]])`.
pub fn transpose<T: Copy + Send + Sync>(data: Vec<T>, shape: [usize; 3], axes: [usize; 3]) -> Vec<T> {
    assert!((0..3).all(|a| axes.contains(&a)), "{axes:?} is not a permutation of the axes");
    let voxels: usize = shape.iter().product();
    assert!(
        voxels > 0 && data.len().is_multiple_of(voxels),
        "{} values are no channels of {shape:?}",
        data.len()
    );
    if axes == [0, 1, 2] {
        return data;
    }
    let step = [shape[1] * shape[2], shape[2], 1];
    let [sz, sy, sx] = axes.map(|a| step[a]);
    let [nz, ny, nx] = axes.map(|a| shape[a]);
    let mut out = data.clone();
    out.par_chunks_mut(ny * nx).enumerate().for_each(|(plane, out)| {
        let start = plane / nz * voxels + plane % nz * sz;
        for (y, out) in out.chunks_exact_mut(nx).enumerate() {
            out.iter_mut().enumerate().for_each(|(x, o)| *o = data[start + y * sy + x * sx]);
        }
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What [`fill_holes`] must do, step by step: grow the outside until it stops.
    fn fill_holes_reference(mask: &[bool], shape: [usize; 3]) -> Vec<bool> {
        let [nz, ny, nx] = shape;
        let index = |z: usize, y: usize, x: usize| (z * ny + y) * nx + x;
        let mut outside = vec![false; mask.len()];
        loop {
            let mut changed = false;
            for z in 0..nz {
                for y in 0..ny {
                    for x in 0..nx {
                        let edge = z == 0 || y == 0 || x == 0 || z == nz - 1 || y == ny - 1 || x == nx - 1;
                        let reached = edge
                            || outside[index(z - 1, y, x)]
                            || outside[index(z + 1, y, x)]
                            || outside[index(z, y - 1, x)]
                            || outside[index(z, y + 1, x)]
                            || outside[index(z, y, x - 1)]
                            || outside[index(z, y, x + 1)];
                        let i = index(z, y, x);
                        if !mask[i] && reached && !outside[i] {
                            outside[i] = true;
                            changed = true;
                        }
                    }
                }
            }
            if !changed {
                return outside.iter().map(|o| !o).collect();
            }
        }
    }

    #[test]
    fn a_hole_is_filled_and_a_bay_is_not() {
        let shape = [5, 5, 5];
        let shell = |z: usize, y: usize, x: usize| {
            [z, y, x].iter().all(|i| (1..4).contains(i)) && [z, y, x] != [2, 2, 2]
        };
        let mut mask: Vec<bool> = (0..125).map(|i| shell(i / 25, i / 5 % 5, i % 5)).collect();
        let mut bay = mask.clone();
        bay[2 * 25 + 2 * 5 + 1] = false;
        let open = bay.clone();
        fill_holes(&mut mask, shape);
        fill_holes(&mut bay, shape);
        assert!(mask[62]);
        assert_eq!(bay, open);
    }

    #[test]
    fn diagonal_gaps_do_not_connect() {
        // The centre touches the outside only over an edge.
        let mut mask = vec![true; 27];
        mask[13] = false;
        mask[13 + 9 + 3] = false;
        fill_holes(&mut mask, [3, 3, 3]);
        assert!(mask[13] && !mask[25]);
    }

    #[test]
    fn nothing_is_filled_in_a_single_slice() {
        let ring = [true, true, true, true, false, true, true, true, true];
        let mut mask = ring.to_vec();
        fill_holes(&mut mask, [1, 3, 3]);
        assert_eq!(mask, ring);
    }

    #[test]
    fn an_empty_mask_has_no_box() {
        assert_eq!(bounding_box(&[false; 8], [2, 2, 2]), None);
        assert_eq!(bounding_box(&[true; 8], [2, 2, 2]), Some([[0, 2]; 3]));
    }

    #[test]
    fn the_mask_is_the_union_of_the_channels_and_nan_counts() {
        assert_eq!(nonzero_mask(&[0.0, -1.0, 0.0, f32::NAN, 0.0, -0.0], [1, 1, 3]), [true, true, false]);
    }

    #[test]
    fn transposing_moves_every_voxel() {
        let data: Vec<usize> = (0..2 * 24).collect();
        let out = transpose(data.clone(), [2, 3, 4], [2, 0, 1]);
        for c in 0..2 {
            for z in 0..2 {
                for y in 0..3 {
                    for x in 0..4 {
                        assert_eq!(out[c * 24 + (x * 2 + z) * 3 + y], data[c * 24 + (z * 3 + y) * 4 + x]);
                    }
                }
            }
        }
    }

    fn shape_and_box() -> impl Strategy<Value = ([usize; 3], Box3)> {
        let axis = || {
            (1..8usize)
                .prop_flat_map(|n| (Just(n), 0..n))
                .prop_flat_map(|(n, lo)| (Just(n), Just(lo), lo + 1..=n))
        };
        [axis(), axis(), axis()].prop_map(|a| (a.map(|(n, _, _)| n), a.map(|(_, lo, hi)| [lo, hi])))
    }

    proptest! {
        #[test]
        fn crop_and_insert_are_inverse((shape, bbox) in shape_and_box(), channels in 1..4usize) {
            let voxels: usize = shape.iter().product();
            let data: Vec<u32> = (1..=(channels * voxels) as u32).collect();
            let cropped = crop(data.clone(), shape, bbox);
            prop_assert_eq!(cropped.len(), channels * box_shape(bbox).iter().product::<usize>());
            let mut back = vec![0u32; data.len()];
            insert(&cropped, bbox, &mut back, shape);
            for (i, (&b, &d)) in back.iter().zip(&data).enumerate() {
                let v = i % voxels;
                let at = [v / (shape[1] * shape[2]), v / shape[2] % shape[1], v % shape[2]];
                let inside = (0..3).all(|a| (bbox[a][0]..bbox[a][1]).contains(&at[a]));
                prop_assert_eq!(b, if inside { d } else { 0 });
            }
        }

        #[test]
        fn the_box_holds_the_mask_and_no_side_is_loose(
            (shape, _) in shape_and_box(),
            seed in proptest::collection::vec(proptest::bool::weighted(0.05), 343),
        ) {
            let mask = &seed[..shape.iter().product()];
            let set: Vec<[usize; 3]> = (0..mask.len())
                .filter(|&i| mask[i])
                .map(|v| [v / (shape[1] * shape[2]), v / shape[2] % shape[1], v % shape[2]])
                .collect();
            let bbox = bounding_box(mask, shape);
            prop_assert_eq!(bbox.is_some(), !set.is_empty());
            if let Some(bbox) = bbox {
                for a in 0..3 {
                    prop_assert_eq!(set.iter().map(|v| v[a]).min(), Some(bbox[a][0]));
                    prop_assert_eq!(set.iter().map(|v| v[a] + 1).max(), Some(bbox[a][1]));
                }
            }
        }

        #[test]
        fn holes_are_filled_as_by_growing_the_outside(
            (shape, _) in shape_and_box(),
            seed in proptest::collection::vec(proptest::bool::weighted(0.6), 343),
        ) {
            let mut mask = seed[..shape.iter().product()].to_vec();
            let expected = fill_holes_reference(&mask, shape);
            fill_holes(&mut mask, shape);
            prop_assert_eq!(mask, expected);
        }

        #[test]
        fn transposing_back_restores((shape, _) in shape_and_box(), forward in Just([0, 1, 2usize]).prop_shuffle()) {
            let data: Vec<usize> = (0..2 * shape.iter().product::<usize>()).collect();
            let backward = [0, 1, 2].map(|a| forward.iter().position(|&f| f == a).expect("a permutation"));
            let there = transpose(data.clone(), shape, forward);
            prop_assert_eq!(transpose(there, forward.map(|a| shape[a]), backward), data);
        }
    }
}
