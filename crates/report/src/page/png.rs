//! Grey PNG files. The format is a zlib stream in a frame of three chunks; the `png` crate would bring a second
//! compressor, whose features reach into the tensor library.

use std::io::Write as _;

use flate2::write::ZlibEncoder;
use flate2::{Compression, Crc};

/// A picture of 8-bit grey pixels, row after row, as a PNG.
///
/// # Panics
/// If `pixels` is not a whole number of rows.
///
/// # Source
/// PNG specification (third edition), colour type 0; of the line filters the one that makes the smallest file.
pub(crate) fn png(pixels: &[u8], width: usize) -> Vec<u8> {
    assert!(width > 0 && pixels.len().is_multiple_of(width), "{} pixels in rows of {width}", pixels.len());
    let streams = (0..=4).map(|filter| deflate(&filtered(pixels, width, filter)));
    let smallest = streams.min_by_key(Vec::len).unwrap_or_default();
    let mut header = Vec::new();
    header.extend((width as u32).to_be_bytes());
    header.extend(((pixels.len() / width) as u32).to_be_bytes());
    // 8 bits, grey, the only compression and filter method, not interlaced.
    header.extend([8, 0, 0, 0, 0]);
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", smallest), (b"IEND", Vec::new())] {
        out.extend((data.len() as u32).to_be_bytes());
        let mut crc = Crc::new();
        crc.update(kind);
        crc.update(&data);
        out.extend(kind);
        out.extend(data);
        out.extend(crc.sum().to_be_bytes());
    }
    out
}

/// What a filter predicts of a pixel from its neighbours to the left, above, and above to the left.
fn predicted(filter: u8, left: u8, above: u8, corner: u8) -> u8 {
    match filter {
        0 => 0,
        1 => left,
        2 => above,
        3 => left.midpoint(above),
        _ => {
            let estimate = i16::from(left) + i16::from(above) - i16::from(corner);
            let distance = |v: u8| (estimate - i16::from(v)).abs();
            let (l, a, c) = (distance(left), distance(above), distance(corner));
            if l <= a && l <= c {
                left
            } else if a <= c {
                above
            } else {
                corner
            }
        }
    }
}

/// Every row behind the number of the filter, as what the filter leaves over.
fn filtered(pixels: &[u8], width: usize, filter: u8) -> Vec<u8> {
    let mut out = Vec::with_capacity(pixels.len() + pixels.len() / width);
    let mut above = vec![0; width];
    for row in pixels.chunks_exact(width) {
        out.push(filter);
        for x in 0..width {
            let (left, corner) = if x > 0 { (row[x - 1], above[x - 1]) } else { (0, 0) };
            out.push(row[x].wrapping_sub(predicted(filter, left, above[x], corner)));
        }
        above.copy_from_slice(row);
    }
    out
}

fn deflate(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(bytes.len() / 2), Compression::best());
    encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("memory takes every byte")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Read as _;

    /// Width, height and pixels; checks every chunk.
    pub(crate) fn decode(file: &[u8]) -> (usize, usize, Vec<u8>) {
        assert_eq!(&file[..8], b"\x89PNG\r\n\x1a\n");
        let number = |at: usize| u32::from_be_bytes(file[at..at + 4].try_into().expect("four bytes"));
        let (mut at, mut data) = (8, Vec::new());
        while at < file.len() {
            let length = number(at) as usize;
            let mut crc = Crc::new();
            crc.update(&file[at + 4..at + 8 + length]);
            assert_eq!(crc.sum(), number(at + 8 + length));
            if &file[at + 4..at + 8] == b"IDAT" {
                data = file[at + 8..at + 8 + length].to_vec();
            }
            at += 12 + length;
        }
        let (width, height) = (number(16) as usize, number(20) as usize);
        let mut rows = Vec::new();
        flate2::read::ZlibDecoder::new(&data[..]).read_to_end(&mut rows).expect("a zlib stream");
        let mut pixels = vec![0; width * height];
        for (y, row) in rows.chunks_exact(width + 1).enumerate() {
            for x in 0..width {
                let at = |dx: usize, dy: usize| {
                    if x >= dx && y >= dy { pixels[(y - dy) * width + x - dx] } else { 0 }
                };
                pixels[y * width + x] =
                    row[x + 1].wrapping_add(predicted(row[0], at(1, 0), at(0, 1), at(1, 1)));
            }
        }
        (width, height, pixels)
    }

    #[test]
    fn pixels_survive_every_filter() {
        let noise: Vec<u8> = (0..31 * 17u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let ramp: Vec<u8> = (0..31 * 17u32).map(|i| (i / 31 * 9 + i % 31) as u8).collect();
        for pixels in [&noise, &ramp] {
            assert_eq!(decode(&png(pixels, 31)), (31, 17, pixels.clone()));
        }
        for filter in 0..=4 {
            let rows = filtered(&ramp, 31, filter);
            assert_eq!((rows.len(), rows[0], rows[32]), (32 * 17, filter, filter));
        }
        assert!(png(&ramp, 31).len() < 150, "a ramp is predicted by its neighbours");
    }
}
