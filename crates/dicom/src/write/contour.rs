//! Outlines of a region in a slice, as closed polygons.
//!
//! They run midway between the centres of pixels inside and outside, so that whoever tests centres gets every pixel back. Pixels
//! that touch at a corner are apart. A hole is joined to its outline by a line there and back (a keyhole), the form that the
//! standard has for readers that know no holes.

use std::collections::BTreeMap;

/// A point between two pixels: twice its row and twice its column.
type Half = (i64, i64);

/// Closed polygons around the pixels of a region; points are `[row, column]` in pixels, the first not repeated.
///
/// # Shapes
/// `inside` has `rows * columns` pixels, row by row.
pub(super) fn outlines(inside: &[bool], rows: usize, columns: usize) -> Vec<Vec<[f64; 2]>> {
    let loops = loops(inside, rows, columns);
    let (mut outer, holes): (Vec<Vec<Half>>, Vec<Vec<Half>>) = loops.into_iter().partition(|l| area(l) > 0);
    for hole in holes {
        // The smallest outline around it is its own.
        let around = outer.iter_mut().filter(|o| contains(o, hole[0])).min_by_key(|o| area(o));
        if let Some(around) = around {
            *around = joined(around, &hole);
        }
    }
    outer
        .into_iter()
        .map(|polygon| {
            let corners = without_straight(&polygon);
            corners.into_iter().map(|(r, c)| [r as f64 / 2.0, c as f64 / 2.0]).collect()
        })
        .collect()
}

/// Closed loops along the border, inside on one and the same side: those around pixels have a positive area, those around holes a
/// negative one.
fn loops(inside: &[bool], rows: usize, columns: usize) -> Vec<Vec<Half>> {
    let at = |r: i64, c: i64| {
        (0..rows as i64).contains(&r)
            && (0..columns as i64).contains(&c)
            && inside[r as usize * columns + c as usize]
    };
    let mut next: BTreeMap<Half, Half> = BTreeMap::new();
    // Every square of four pixels, with a border of empty ones.
    for r in -1..rows as i64 {
        for c in -1..columns as i64 {
            let corners = [at(r, c), at(r, c + 1), at(r + 1, c + 1), at(r + 1, c)];
            let case = corners.iter().rev().fold(0u8, |sum, &set| sum << 1 | u8::from(set));
            let (top, right) = ((2 * r, 2 * c + 1), (2 * r + 1, 2 * c + 2));
            let (bottom, left) = ((2 * r + 2, 2 * c + 1), (2 * r + 1, 2 * c));
            let lines: &[(Half, Half)] = match case {
                1 => &[(left, top)],
                2 => &[(top, right)],
                3 => &[(left, right)],
                4 => &[(right, bottom)],
                5 => &[(left, top), (right, bottom)],
                6 => &[(top, bottom)],
                7 => &[(left, bottom)],
                8 => &[(bottom, left)],
                9 => &[(bottom, top)],
                10 => &[(top, right), (bottom, left)],
                11 => &[(bottom, right)],
                12 => &[(right, left)],
                13 => &[(right, top)],
                14 => &[(top, left)],
                _ => &[],
            };
            next.extend(lines.iter().copied());
        }
    }
    let mut loops = Vec::new();
    while let Some((start, mut point)) = next.pop_first() {
        let mut polygon = vec![start];
        while point != start {
            polygon.push(point);
            let Some(after) = next.remove(&point) else { break };
            point = after;
        }
        loops.push(polygon);
    }
    loops
}

/// Twice the area in quarters of pixels; positive where the inside is on the side that [`loops`] has it.
fn area(polygon: &[Half]) -> i64 {
    pairs(polygon).map(|((r0, c0), (r1, c1))| r0 * c1 - r1 * c0).sum()
}

fn pairs(polygon: &[Half]) -> impl Iterator<Item = (Half, Half)> + '_ {
    (0..polygon.len()).map(|i| (polygon[i], polygon[(i + 1) % polygon.len()]))
}

/// Whether a point lies inside of a polygon; none of its corners has the row of a quarter.
fn contains(polygon: &[Half], (row, column): Half) -> bool {
    let (row, column) = (row as f64 + 0.25, column as f64 + 0.125);
    let mut within = false;
    for ((r0, c0), (r1, c1)) in pairs(polygon) {
        let [r0, c0, r1, c1] = [r0, c0, r1, c1].map(|v| v as f64);
        if (r0 > row) != (r1 > row) && column < (c1 - c0) * (row - r0) / (r1 - r0) + c0 {
            within = !within;
        }
    }
    within
}

/// The outline with a hole: to the hole at the nearest pair of points, around it, and back.
fn joined(outline: &[Half], hole: &[Half]) -> Vec<Half> {
    let distance = |a: Half, b: Half| (a.0 - b.0).pow(2) + (a.1 - b.1).pow(2);
    let all = (0..outline.len()).flat_map(|i| (0..hole.len()).map(move |j| (i, j)));
    let (i, j) = all.min_by_key(|&(i, j)| distance(outline[i], hole[j])).unwrap_or((0, 0));
    let around = hole[j..].iter().chain(&hole[..=j]);
    outline[..=i].iter().chain(around).chain(&outline[i..]).copied().collect()
}

/// The polygon without points in the middle of a straight line. A line there and back keeps its ends.
fn without_straight(polygon: &[Half]) -> Vec<Half> {
    let n = polygon.len();
    let kept = (0..n).filter(|&i| {
        let (before, here, after) = (polygon[(i + n - 1) % n], polygon[i], polygon[(i + 1) % n]);
        let (a, b) = ((here.0 - before.0, here.1 - before.1), (after.0 - here.0, after.1 - here.1));
        a.0 * b.1 != a.1 * b.0 || a.0 * b.0 + a.1 * b.1 < 0
    });
    kept.map(|i| polygon[i]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The region of `#` in a picture.
    fn region(picture: &[&str]) -> (Vec<bool>, usize, usize) {
        let inside: Vec<bool> = picture.iter().flat_map(|row| row.bytes().map(|b| b == b'#')).collect();
        (inside, picture.len(), picture[0].len())
    }

    /// Pixels whose centres lie within an odd number of polygons, or of turns of one.
    fn filled(polygons: &[Vec<[f64; 2]>], rows: usize, columns: usize) -> Vec<bool> {
        let crossings = |row: f64, column: f64| {
            let mut within = false;
            for polygon in polygons {
                for (i, &[r0, c0]) in polygon.iter().enumerate() {
                    let [r1, c1] = polygon[(i + 1) % polygon.len()];
                    if (r0 > row) != (r1 > row) && column < (c1 - c0) * (row - r0) / (r1 - r0) + c0 {
                        within = !within;
                    }
                }
            }
            within
        };
        (0..rows * columns).map(|i| crossings((i / columns) as f64, (i % columns) as f64)).collect()
    }

    #[test]
    fn a_pixel_is_a_diamond_and_a_block_has_eight_corners() {
        let (inside, rows, columns) = region(&["...", ".#.", "..."]);
        assert_eq!(outlines(&inside, rows, columns), [[[0.5, 1.0], [1.0, 0.5], [1.5, 1.0], [1.0, 1.5]]]);
        let (inside, rows, columns) = region(&["####", "####", "####"]);
        let block = outlines(&inside, rows, columns);
        assert_eq!((block.len(), block[0].len()), (1, 8));
    }

    #[test]
    fn pixels_that_touch_at_a_corner_are_apart_and_holes_are_joined() {
        let (inside, rows, columns) = region(&["#..", ".#.", "..#"]);
        assert_eq!(outlines(&inside, rows, columns).len(), 3);
        let (inside, rows, columns) = region(&["#####", "#...#", "#.#.#", "#...#", "#####"]);
        let ring = outlines(&inside, rows, columns);
        assert_eq!(ring.len(), 2, "a ring with its hole, and what lies in it");
        assert_eq!(filled(&ring, rows, columns), inside);
    }

    #[test]
    fn every_region_comes_back_from_its_outlines() {
        let mut seed = 11u64;
        let mut next = move || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            seed >> 40
        };
        for trial in 0..300 {
            let (rows, columns) = (1 + trial % 13, 1 + trial % 11);
            let share = next() % 100;
            let inside: Vec<bool> = (0..rows * columns).map(|_| next() % 100 < share).collect();
            let polygons = outlines(&inside, rows, columns);
            assert_eq!(filled(&polygons, rows, columns), inside, "trial {trial}");
            assert!(polygons.iter().all(|p| p.len() >= 3));
        }
    }
}
