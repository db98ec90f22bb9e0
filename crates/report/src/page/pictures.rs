//! Three orthogonal slices through a tumour: grey images with the outlines of every label map.
//!
//! Pictures are shown as radiologists look at them: the patient's right on the left, from below; anterior or superior
//! at the top. The grey image is a PNG of few levels, cut to the head and made smaller where a report has many cases;
//! outlines are lines along the voxels' borders, so they stay exact at any size.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use glioseg_volume::components::VoxelBox;
use glioseg_volume::{Geometry, LabelMap};
use serde::Serialize;

use super::outline::outline;
use super::png::png;
use glioseg_metrics::labels::Region;

/// How fine pictures are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fineness {
    /// Pixels along the longer side at most; larger ones are averaged.
    pub(crate) pixels: usize,
    /// Bits per pixel.
    pub(crate) bits: u8,
    /// How many background channels.
    pub(crate) backgrounds: usize,
}

impl Fineness {
    /// What keeps the report of so many cases small enough to be opened: some tens of MB.
    pub(crate) fn for_cases(cases: usize) -> Self {
        match cases {
            0..=60 => Self { pixels: 256, bits: 7, backgrounds: 2 },
            61..=300 => Self { pixels: 192, bits: 6, backgrounds: 2 },
            301..=800 => Self { pixels: 144, bits: 5, backgrounds: 1 },
            _ => Self { pixels: 112, bits: 5, backgrounds: 1 },
        }
    }
}

/// One slice.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Picture {
    /// `axial`, `coronal` or `sagittal`.
    plane: &'static str,
    /// Its place from 0, counted towards the patient's right, front or top.
    ras: usize,
    /// Its number from 1, along the axis it is cut across.
    slice: usize,
    /// Number of slices.
    of: usize,
    /// Voxels that are shown: width, height.
    size: [usize; 2],
    /// mm of a voxel: width, height.
    voxel: [f64; 2],
    /// What lies to the left, right, top and bottom.
    letters: [&'static str; 4],
    /// Grey images as PNG in base64, one per background.
    images: Vec<String>,
    /// Outlines: `[label map][region]`, in the order given.
    outlines: Vec<Vec<String>>,
}

/// A way to look at a volume: which array axis is which direction of a picture, and whether it is turned round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct View {
    name: &'static str,
    normal: (usize, bool),
    rows: (usize, bool),
    columns: (usize, bool),
    letters: [&'static str; 4],
}

/// Axial, coronal and sagittal view of a grid.
fn views(geometry: &Geometry) -> [View; 3] {
    let axes = geometry.affine().axes();
    // Index axis i (x, y, z) is array axis 2 - i; pictures begin at R, A and S, where an index that grows ends.
    let world = |w: usize| {
        let index = axes.iter().position(|&(found, _)| found == w).unwrap_or(w);
        (2 - index, axes[index].1)
    };
    let (right, front, top) = (world(0), world(1), world(2));
    let view =
        |name, normal: (usize, bool), rows, columns, letters| View { name, normal, rows, columns, letters };
    [
        view("axial", top, front, right, ["R", "L", "A", "P"]),
        view("coronal", front, top, right, ["R", "L", "S", "I"]),
        view("sagittal", right, top, front, ["A", "P", "S", "I"]),
    ]
}

impl View {
    /// Width and height of the part of a slice inside `frame`.
    fn size(&self, frame: &VoxelBox) -> [usize; 2] {
        let shape = frame.shape();
        [shape[self.columns.0], shape[self.rows.0]]
    }

    /// The values of slice `at` inside `frame`, row after row.
    fn cut<T: Copy>(&self, data: &[T], shape: [usize; 3], frame: &VoxelBox, at: usize) -> Vec<T> {
        let strides = [shape[1] * shape[2], shape[2], 1];
        let range = |(axis, turned): (usize, bool)| {
            let (start, end) = (frame.start[axis], frame.end[axis]);
            (start..end).map(move |i| if turned { start + end - 1 - i } else { i } * strides[axis])
        };
        let base = at * strides[self.normal.0];
        range(self.rows)
            .flat_map(|row| range(self.columns).map(move |c| base + row + c))
            .map(|i| data[i])
            .collect()
    }
}

/// Slices through the largest extent of the tumour in the first label map that has one.
///
/// `backgrounds` are channels `[z, y, x]` on the grid of `geometry`; `maps` are label maps on the same grid (`None`
/// where there is none), outlined region by region.
pub(crate) fn pictures(
    geometry: &Geometry,
    backgrounds: &[&[f32]],
    maps: &[Option<&LabelMap>],
    regions: &[Vec<Region>],
    fineness: Fineness,
) -> Vec<Picture> {
    let shape = geometry.shape;
    let head = backgrounds
        .iter()
        .map(|b| VoxelBox::of(b, shape, |v| *v != 0.0))
        .fold(VoxelBox::EMPTY, |a, b| a.union(&b));
    let tumours: Vec<VoxelBox> =
        maps.iter().flatten().map(|m| VoxelBox::of(&m.data, shape, |v| *v != 0)).collect();
    let mut frame = tumours.iter().fold(head, |a, b| a.union(b)).grown(3, shape);
    if frame.is_empty() {
        frame = VoxelBox { start: [0; 3], end: shape };
    }
    let first = maps.iter().flatten().find(|m| m.data.iter().any(|&v| v != 0));
    let windows: Vec<(f32, f32)> = backgrounds.iter().map(|b| window(b)).collect();
    views(geometry)
        .iter()
        .map(|view| {
            let middle = frame.start[view.normal.0].midpoint(frame.end[view.normal.0]);
            let at = first.and_then(|m| largest(&m.data, shape, view.normal.0)).unwrap_or(middle);
            let [width, height] = view.size(&frame);
            let images = backgrounds.iter().zip(&windows).map(|(data, &window)| {
                encode(&view.cut(data, shape, &frame, at), width, height, window, fineness)
            });
            let outlines = maps.iter().zip(regions).map(|(map, regions)| {
                let Some(map) = map else { return Vec::new() };
                let labels = view.cut(&map.data, shape, &frame, at);
                let of = |region: &Region| -> Vec<bool> {
                    labels.iter().map(|l| region.labels.contains(l)).collect()
                };
                regions.iter().map(|region| outline(&of(region), width)).collect()
            });
            Picture {
                plane: view.name,
                ras: if view.normal.1 { at } else { shape[view.normal.0] - 1 - at },
                slice: at + 1,
                of: shape[view.normal.0],
                size: [width, height],
                voxel: [geometry.spacing[view.columns.0], geometry.spacing[view.rows.0]],
                letters: view.letters,
                images: images.collect(),
                outlines: outlines.collect(),
            }
        })
        .collect()
}

/// The slice across `axis` with most labelled voxels.
fn largest(labels: &[u16], [depth, height, width]: [usize; 3], axis: usize) -> Option<usize> {
    let mut counts = vec![0usize; [depth, height, width][axis]];
    for (row, line) in labels.chunks_exact(width).enumerate() {
        let (z, y) = (row / height, row % height);
        if axis == 2 {
            line.iter().zip(&mut counts).for_each(|(&l, c)| *c += usize::from(l != 0));
        } else {
            counts[if axis == 0 { z } else { y }] += line.iter().filter(|&&l| l != 0).count();
        }
    }
    let most = *counts.iter().max()?;
    if most == 0 { None } else { counts.iter().position(|&c| c == most) }
}

/// Values shown as black and as white: 0.5 % and 99.7 % of the voxels that are not 0.
fn window(data: &[f32]) -> (f32, f32) {
    // A sample is enough for a window.
    let mut values: Vec<f32> =
        data.iter().copied().step_by(7).filter(|v| *v != 0.0 && v.is_finite()).collect();
    if values.is_empty() {
        return (0.0, 1.0);
    }
    values.sort_unstable_by(f32::total_cmp);
    let at = |q: f64| values[((values.len() - 1) as f64 * q) as usize];
    // Zero is the background of most images and stays black.
    let low = at(0.005).min(0.0).max(at(0.0));
    let (low, high) = (if at(0.005) > 0.0 { 0.0 } else { low }, at(0.997));
    if high > low { (low, high) } else { (low, low + 1.0) }
}

/// A grey PNG in base64.
fn encode(
    values: &[f32],
    width: usize,
    height: usize,
    (low, high): (f32, f32),
    fineness: Fineness,
) -> String {
    let (values, width, _) = shrink(values, width, height, fineness.pixels);
    let levels = f32::from(u8::MAX >> (8 - fineness.bits));
    let grey = |v: f32| {
        let share = ((v - low) / (high - low)).clamp(0.0, 1.0);
        // Few levels make a small file; they still span black to white.
        ((share * levels).round() / levels * 255.0).round() as u8
    };
    let pixels: Vec<u8> = values.iter().map(|&v| grey(if v.is_finite() { v } else { low })).collect();
    STANDARD.encode(png(&pixels, width))
}

/// Averages blocks until the longer side has at most `most` pixels.
fn shrink(values: &[f32], width: usize, height: usize, most: usize) -> (Vec<f32>, usize, usize) {
    let longer = width.max(height);
    if longer <= most {
        return (values.to_vec(), width, height);
    }
    let (w, h) = ((width * most / longer).max(1), (height * most / longer).max(1));
    let mut out = Vec::with_capacity(w * h);
    for y in 0..h {
        let rows = y * height / h..((y + 1) * height / h).max(y * height / h + 1);
        for x in 0..w {
            let columns = x * width / w..((x + 1) * width / w).max(x * width / w + 1);
            let sum: f32 = rows.clone().flat_map(|r| &values[r * width..][columns.clone()]).sum();
            out.push(sum / (rows.len() * columns.len()) as f32);
        }
    }
    (out, w, h)
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_volume::Affine;

    /// 4 x 5 x 6 voxels (z, y, x) with one labelled voxel, whose x axis runs to the patient's left.
    fn case() -> (Geometry, LabelMap) {
        let affine = Affine::from_rows([[-1.0, 0.0, 0.0, 5.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0]]);
        let geometry = Geometry::from_affine([4, 5, 6], affine).expect("regular");
        let mut data = vec![0; 4 * 5 * 6];
        data[(3 * 5 + 1) * 6 + 2] = 1;
        (geometry.clone(), LabelMap::new(data, geometry).expect("right length"))
    }

    #[test]
    fn pictures_are_seen_as_radiologists_see_them() {
        let (geometry, map) = case();
        let image = vec![1.0; 4 * 5 * 6];
        let regions = vec![vec![Region::new("WT", &[1])]];
        let found = pictures(&geometry, &[&image], &[Some(&map)], &regions, Fineness::for_cases(1));
        let place = |i: usize| (found[i].plane, found[i].slice, found[i].of, found[i].size, found[i].voxel);
        // x grows towards the left of the patient: slice 2 of 6 is the fourth from there.
        assert_eq!([0, 1, 2].map(|i| found[i].ras), [3, 1, 3]);
        assert_eq!(place(0), ("axial", 4, 4, [6, 5], [1.0, 1.0]));
        assert_eq!(place(1), ("coronal", 2, 5, [6, 4], [1.0, 2.0]));
        assert_eq!(place(2), ("sagittal", 3, 6, [5, 4], [1.0, 2.0]));
        // x grows towards the left of the patient, which is the right of the picture: column 2 stays column 2. The
        // voxel is at y = 1 of 5, and anterior is at the top: row 3. It is the topmost slice: row 0.
        assert_eq!(found[0].outlines, [["M2 3h1v1h-1v-1z"]]);
        assert_eq!(found[1].outlines, [["M2 0h1v1h-1v-1z"]]);
        assert_eq!(found[2].outlines, [["M3 0h1v1h-1v-1z"]]);
    }

    #[test]
    fn a_case_without_tumour_or_image_has_pictures_too() {
        let (geometry, mut map) = case();
        map.data.fill(0);
        let regions = vec![vec![Region::new("WT", &[1])], vec![]];
        let found = pictures(&geometry, &[], &[Some(&map), None], &regions, Fineness::for_cases(1));
        assert_eq!((found[0].slice, found[0].images.len()), (3, 0));
        assert_eq!(found[0].outlines, [vec![String::new()], vec![]]);
    }

    #[test]
    fn greys_survive_a_png_and_large_slices_shrink() {
        let values: Vec<f32> = (0..40 * 20).map(|i| (i % 40) as f32).collect();
        let fine = Fineness { pixels: 40, bits: 7, backgrounds: 1 };
        let decode = |text: String| super::super::png::tests::decode(&STANDARD.decode(text).expect("base64"));
        let (width, height, pixels) = decode(encode(&values, 40, 20, (0.0, 39.0), fine));
        assert_eq!((width, height, pixels[0], pixels[39]), (40, 20, 0, 255));
        let (width, height, pixels) =
            decode(encode(&values, 40, 20, (0.0, 39.0), Fineness { pixels: 10, ..fine }));
        assert_eq!((width, height, pixels.len()), (10, 5, 50));
        assert_eq!(pixels[0], 10, "the mean of 0 to 3 of 39");
        assert_eq!(window(&[0.0; 30]), (0.0, 1.0));
    }
}
