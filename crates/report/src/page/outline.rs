//! The outline of a mask as the path of an SVG.

/// Right, down, left, up: x and y of a step along the edge of a pixel.
const STEPS: [(isize, isize); 4] = [(1, 0), (0, 1), (-1, 0), (0, -1)];

/// The edges of a mask `[y, x]` of `width` pixels a row as closed lines along the borders of pixels, in SVG's path
/// language and in pixels; empty for an empty mask.
///
/// Pixels that touch at a corner only have lines of their own.
///
/// # Panics
/// If the mask is not a whole number of rows.
pub(crate) fn outline(mask: &[bool], width: usize) -> String {
    assert!(width > 0 && mask.len().is_multiple_of(width), "{} pixels in rows of {width}", mask.len());
    let height = mask.len() / width;
    let inside = |x: isize, y: isize| {
        x >= 0 && y >= 0 && x < width as isize && y < height as isize && mask[y as usize * width + x as usize]
    };
    // Which edges leave a corner, with the mask on their right.
    let corners = width + 1;
    let mut edges = vec![0u8; corners * (height + 1)];
    for y in 0..height as isize {
        for x in (0..width as isize).filter(|&x| inside(x, y)) {
            let mut leave = |x: isize, y: isize, direction: u8| {
                edges[y as usize * corners + x as usize] |= 1 << direction;
            };
            if !inside(x, y - 1) {
                leave(x, y, 0);
            }
            if !inside(x + 1, y) {
                leave(x + 1, y, 1);
            }
            if !inside(x, y + 1) {
                leave(x + 1, y + 1, 2);
            }
            if !inside(x - 1, y) {
                leave(x, y + 1, 3);
            }
        }
    }
    let mut path = String::new();
    for start in 0..edges.len() {
        while edges[start] != 0 {
            path += &format!("M{} {}", start % corners, start / corners);
            let first = edges[start].trailing_zeros() as usize;
            let (mut at, mut direction) = (start, first);
            let (mut run, mut heading) = (0isize, first);
            loop {
                edges[at] &= !(1 << direction);
                let (dx, dy) = STEPS[direction];
                at = at.wrapping_add_signed(dx + dy * corners as isize);
                if direction == heading {
                    run += 1;
                } else {
                    push(&mut path, heading, run);
                    (heading, run) = (direction, 1);
                }
                // Right first, so that pixels joined by a corner stay apart; the line ends where it would continue as it began.
                let closes = |d: usize| at == start && d == first;
                let next = [1, 0, 3].map(|turn| (direction + turn) % 4);
                match next.into_iter().find(|&d| closes(d) || edges[at] >> d & 1 == 1) {
                    Some(found) if !closes(found) => direction = found,
                    _ => break,
                }
            }
            push(&mut path, heading, run);
            path.push('z');
        }
    }
    path
}

fn push(path: &mut String, direction: usize, run: isize) {
    let (dx, dy) = STEPS[direction];
    let (letter, length) = if dx == 0 { ('v', dy * run) } else { ('h', dx * run) };
    path.push(letter);
    path.push_str(&length.to_string());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rows: &[&str]) -> String {
        let mask: Vec<bool> = rows.iter().flat_map(|r| r.bytes().map(|b| b == b'#')).collect();
        outline(&mask, rows[0].len())
    }

    #[test]
    fn outlines_run_along_the_borders_of_pixels() {
        assert_eq!(of(&["...", "..."]), "");
        assert_eq!(of(&["...", ".#.", "..."]), "M1 1h1v1h-1v-1z");
        assert_eq!(of(&["##", "#."]), "M0 0h2v1h-1v1h-1v-2z");
        assert_eq!(of(&["###", "#.#", "###"]), "M0 0h3v3h-3v-3zM1 1v1h1v-1h-1z");
    }

    #[test]
    fn pixels_that_touch_at_a_corner_have_lines_of_their_own() {
        assert_eq!(of(&["#.", ".#"]), "M0 0h1v1h-1v-1zM1 1h1v1h-1v-1z");
        assert_eq!(of(&[".#", "#."]), "M1 0h1v1h-1v-1zM0 1h1v1h-1v-1z");
    }

    /// The area inside a path by the shoelace formula.
    fn area(path: &str) -> i64 {
        let mut twice = 0;
        for line in path.split('M').filter(|l| !l.is_empty()) {
            let line = line.trim_end_matches('z');
            let split = line.find(['h', 'v']).expect("a step");
            let (place, steps) = line.split_at(split);
            let (x, y) = place.split_once(' ').expect("x and y");
            let (mut x, mut y): (i64, i64) = (x.parse().expect("x"), y.parse().expect("y"));
            let mut rest = steps;
            while !rest.is_empty() {
                let end = rest[1..].find(['h', 'v']).map_or(rest.len(), |e| e + 1);
                let length: i64 = rest[1..end].parse().expect("a length");
                let (dx, dy) = if rest.starts_with('h') { (length, 0) } else { (0, length) };
                twice += x * dy - y * dx;
                (x, y) = (x + dx, y + dy);
                rest = &rest[end..];
            }
        }
        twice / 2
    }

    #[test]
    fn the_area_inside_is_the_mask() {
        let mut state = 9u32;
        for _ in 0..200 {
            let mask: Vec<bool> = (0..9 * 7)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    state >> 30 > 0
                })
                .collect();
            let voxels = mask.iter().filter(|&&m| m).count() as i64;
            assert_eq!(area(&outline(&mask, 9)), voxels);
        }
    }
}
