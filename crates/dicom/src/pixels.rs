//! The pixels of a file, frame by frame, as values.

use std::path::Path;

use dicom_transfer_syntax_registry::{TransferSyntaxIndex as _, TransferSyntaxRegistry};

use crate::file::{Instance, PixelFormat};
use crate::guard::{Checked, Coding, PixelPlace, check};
use crate::{DicomError, jpegls};

const RLE: &str = "1.2.840.10008.1.2.5";
/// JPEG, baseline and lossless (any predictor, and the first one).
const JPEG: [&str; 3] = ["1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"];

/// JPEG-LS, lossless and near-lossless.
const JPEG_LS: [&str; 2] = ["1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"];
/// JPEG 2000, lossless and with losses.
const JPEG_2000: [&str; 2] = ["1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"];

/// Whether the pixels of files in this transfer syntax can be read.
pub(crate) fn is_decoded(syntax: &str) -> bool {
    matches!(
        syntax,
        "1.2.840.10008.1.2" | "1.2.840.10008.1.2.1" | "1.2.840.10008.1.2.1.99" | "1.2.840.10008.1.2.2"
    ) || syntax == RLE
        || [&JPEG[..], &JPEG_LS, &JPEG_2000].iter().any(|known| known.contains(&syntax))
}

/// The name of a transfer syntax; its UID where it has none.
pub(crate) fn syntax_name(uid: &str) -> String {
    TransferSyntaxRegistry
        .get(uid)
        .map_or_else(|| "an unknown transfer syntax".to_owned(), |syntax| syntax.name().to_owned())
}

/// Reads frames of a file: `put(i, values)` gets the values of `frames[i]`, rows one after the other.
pub(crate) fn read(
    instance: &Instance,
    frames: &[usize],
    mut put: impl FnMut(usize, &[f32]),
) -> Result<(), DicomError> {
    let path = instance.path.as_path();
    let bytes = std::fs::read(path).map_err(|source| DicomError::Read { path: path.into(), source })?;
    let checked = check(&bytes).map_err(|finding| finding.of(path))?;
    let Some(place) = &checked.pixels else { return Err(damaged(path, "its pixels are gone")) };
    let format = &instance.pixels;
    let size = format.rows * format.columns;
    let mut values = Vec::with_capacity(size);
    for (i, &frame) in frames.iter().enumerate() {
        let stored = frame_bytes(instance, &checked, place, frame)?;
        let (slope, intercept) = (instance.frames[frame].slope, instance.frames[frame].intercept);
        values.clear();
        let big = checked.coding == Coding::ExplicitBig;
        values.extend(numbers(&stored, format, big).map(|n| (n * slope + intercept) as f32));
        if values.len() != size {
            return Err(damaged(path, format!("frame {} has {} of {size} pixels", frame + 1, values.len())));
        }
        put(i, &values);
    }
    Ok(())
}

fn damaged(path: &Path, reason: impl Into<String>) -> DicomError {
    DicomError::Damaged { path: path.into(), reason: reason.into() }
}

/// The stored bytes of a frame, decompressed.
fn frame_bytes<'a>(
    instance: &Instance,
    checked: &'a Checked<'_>,
    place: &PixelPlace,
    frame: usize,
) -> Result<std::borrow::Cow<'a, [u8]>, DicomError> {
    let path = instance.path.as_path();
    match place {
        PixelPlace::Native(range) => {
            let size = instance.pixels.bytes_of_frame();
            let start = range.start + frame * size;
            let bytes = checked.bytes.get(start..start + size);
            bytes.map(Into::into).ok_or_else(|| damaged(path, format!("frame {} is missing", frame + 1)))
        }
        PixelPlace::Fragments { .. } => {
            let packed = packed_frame(checked, place, instance.frames.len(), frame)
                .map_err(|reason| damaged(path, reason))?;
            let syntax = instance.syntax.as_str();
            let stored = if syntax == RLE {
                run_lengths(&packed, &instance.pixels)
            } else if JPEG.contains(&syntax) {
                jpeg(&packed, &instance.pixels)
            } else if JPEG_LS.contains(&syntax) {
                jpeg_ls(&packed, &instance.pixels)
            } else if JPEG_2000.contains(&syntax) {
                jpeg_2000(&packed, &instance.pixels)
            } else {
                return Err(DicomError::Syntax {
                    path: path.into(),
                    name: syntax_name(syntax),
                    uid: syntax.to_owned(),
                });
            };
            stored.map(Into::into).map_err(|reason| damaged(path, format!("frame {}: {reason}", frame + 1)))
        }
    }
}

/// The compressed bytes of a frame, which may lie in several fragments.
fn packed_frame(
    checked: &Checked<'_>,
    place: &PixelPlace,
    frames: usize,
    frame: usize,
) -> Result<Vec<u8>, String> {
    let PixelPlace::Fragments { table, fragments } = place else {
        return Err("its pixels are not compressed".into());
    };
    let bytes = &checked.bytes;
    let chosen = if frames == 1 {
        &fragments[..]
    } else if fragments.len() == frames {
        fragments.get(frame..=frame).unwrap_or_default()
    } else {
        // Offsets are counted from the head of the first fragment's item, 8 bytes before its bytes.
        let offsets: Vec<usize> = bytes[table.clone()]
            .chunks_exact(4)
            .map(|four| u32::from_le_bytes([four[0], four[1], four[2], four[3]]) as usize)
            .collect();
        let first = fragments.first().map_or(0, |f| f.start);
        let at = |offset: usize| fragments.iter().position(|f| f.start == first + offset);
        let start = offsets.get(frame).and_then(|&offset| at(offset));
        let end = offsets.get(frame + 1).map_or(Some(fragments.len()), |&offset| at(offset));
        match (start, end) {
            (Some(start), Some(end)) if start < end && offsets.len() == frames => &fragments[start..end],
            _ => {
                return Err(format!(
                    "{} fragments of pixels cannot be told apart into {frames} frames",
                    fragments.len()
                ));
            }
        }
    };
    if chosen.is_empty() {
        return Err("it has no compressed pixels".into());
    }
    Ok(chosen.iter().flat_map(|range| &bytes[range.clone()]).copied().collect())
}

/// JPEG, baseline or lossless, as little-endian numbers.
fn jpeg(packed: &[u8], format: &PixelFormat) -> Result<Vec<u8>, String> {
    let failed = |error: jpeg_decoder::Error| format!("its JPEG is damaged: {error}");
    let mut decoder = jpeg_decoder::Decoder::new(packed);
    decoder.set_max_decoding_buffer_size(format.bytes_of_frame());
    decoder.read_info().map_err(failed)?;
    let Some(info) = decoder.info() else { return Err("its JPEG has no size".into()) };
    let bits = match info.pixel_format {
        jpeg_decoder::PixelFormat::L8 => 8,
        jpeg_decoder::PixelFormat::L16 => 16,
        other => return Err(format!("its JPEG holds {other:?}, not numbers of one kind")),
    };
    format.agrees(usize::from(info.height), usize::from(info.width))?;
    if bits != format.bits_allocated {
        return Err(format!("its JPEG has {bits} bits, but the header {}", format.bits_allocated));
    }
    let mut bytes = decoder.decode().map_err(failed)?;
    if bits == 16 && cfg!(target_endian = "big") {
        bytes.chunks_exact_mut(2).for_each(<[u8]>::reverse);
    }
    Ok(bytes)
}

fn jpeg_ls(packed: &[u8], format: &PixelFormat) -> Result<Vec<u8>, String> {
    let image = jpegls::decode(packed, format.rows * format.columns)
        .map_err(|reason| format!("its JPEG-LS is damaged: {reason}"))?;
    format.agrees(image.rows, image.columns)?;
    Ok(format.stored(image.values.into_iter().map(u32::from)))
}

fn jpeg_2000(packed: &[u8], format: &PixelFormat) -> Result<Vec<u8>, String> {
    let failed = |error: hayro_jpeg2000::DecodeError| format!("its JPEG 2000 is damaged: {error}");
    let settings =
        hayro_jpeg2000::DecodeSettings { strict: true, ..hayro_jpeg2000::DecodeSettings::default() };
    let image = hayro_jpeg2000::Image::new(packed, &settings).map_err(failed)?;
    format.agrees(image.height() as usize, image.width() as usize)?;
    let mut context = hayro_jpeg2000::DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(failed)?;
    let [component] = decoded.components() else {
        return Err("its JPEG 2000 holds several components".into());
    };
    // Signed samples are shifted to be none.
    let shift = if format.signed { 1i64 << (component.bit_depth() - 1) } else { 0 };
    let whole = component.samples().iter().map(|&sample| (f64::from(sample).round() as i64 - shift) as u32);
    Ok(format.stored(whole))
}

impl PixelFormat {
    /// Compressed pixels have the size that the header tells.
    fn agrees(&self, rows: usize, columns: usize) -> Result<(), String> {
        if (rows, columns) == (self.rows, self.columns) {
            return Ok(());
        }
        Err(format!(
            "its compressed pixels are {rows} x {columns}, but the header says {} x {}",
            self.rows, self.columns
        ))
    }

    /// Numbers as they are stored without compression, lowest byte first.
    fn stored(&self, numbers: impl Iterator<Item = u32>) -> Vec<u8> {
        let width = self.bits_allocated / 8;
        let shift = self.high_bit + 1 - self.bits_stored;
        numbers.flat_map(|n| (u64::from(n) << shift).to_le_bytes().into_iter().take(width)).collect()
    }
}

/// Run lengths: a segment for each byte of a number, the highest first.
///
/// The decoder of dicom-rs panics where a segment is cut short.
fn run_lengths(packed: &[u8], format: &PixelFormat) -> Result<Vec<u8>, String> {
    const HEAD: usize = 64;
    let size = format.rows * format.columns;
    let (bytes, segments) = (format.bits_allocated / 8, format.samples * (format.bits_allocated / 8));
    let long = |i: usize| {
        packed.get(4 * i..4 * i + 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
    };
    let found = long(0).filter(|_| packed.len() >= HEAD).ok_or("its run lengths have no head")?;
    if found != segments || segments > 15 {
        return Err(format!("its run lengths have {found} segments instead of {segments}"));
    }
    let mut out = vec![0; size * segments];
    for segment in 0..segments {
        let start = long(segment + 1).unwrap_or(0);
        let end = if segment + 1 < segments { long(segment + 2).unwrap_or(0) } else { packed.len() };
        let runs = packed.get(start..end).filter(|_| start >= HEAD).ok_or("its run lengths lie outside")?;
        let (sample, byte) = (segment / bytes, bytes - 1 - segment % bytes);
        let mut pixel = 0;
        let mut put = |value: u8, times: usize| {
            for _ in 0..times.min(size - pixel) {
                out[(pixel * format.samples + sample) * bytes + byte] = value;
                pixel += 1;
            }
            pixel == size
        };
        let (mut at, mut full) = (0, false);
        // What follows the last pixel fills the segment up to an even length.
        while let Some(&control) = runs.get(at).filter(|_| !full) {
            at += 1;
            match control {
                0..=127 => {
                    let literal =
                        runs.get(at..at + usize::from(control) + 1).ok_or("its run lengths are cut short")?;
                    for &value in literal {
                        full = put(value, 1);
                    }
                    at += literal.len();
                }
                128 => {}
                129..=255 => {
                    let &value = runs.get(at).ok_or("its run lengths are cut short")?;
                    full = put(value, 257 - usize::from(control));
                    at += 1;
                }
            }
        }
        if !full {
            return Err(format!("its run lengths hold fewer than {size} pixels"));
        }
    }
    Ok(out)
}

/// Stored numbers: the bits in use, with their sign, inverted where small ones are bright.
fn numbers<'a>(bytes: &'a [u8], format: &'a PixelFormat, big: bool) -> impl Iterator<Item = f64> + 'a {
    let width = format.bits_allocated / 8;
    let shift = format.high_bit + 1 - format.bits_stored;
    let mask = (1u64 << format.bits_stored) - 1;
    let top = 1u64 << (format.bits_stored - 1);
    bytes.chunks_exact(width).map(move |chunk| {
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let raw = if big { chunk.iter().fold(0, add) } else { chunk.iter().rev().fold(0, add) };
        let value = raw >> shift & mask;
        let value = if format.signed { (value ^ top) as i64 - top as i64 } else { value as i64 };
        let value = match (format.inverted, format.signed) {
            (false, _) => value,
            (true, false) => mask as i64 - value,
            (true, true) => -1 - value,
        };
        value as f64
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file::{self, Kind};
    use std::collections::BTreeMap;

    fn fixtures() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/dicom")
    }

    fn values(path: &Path) -> Result<Vec<f32>, DicomError> {
        let Kind::Image(instance) = file::read(path)? else { panic!("{}: not an image", path.display()) };
        let mut out = Vec::new();
        read(&instance, &[0], |_, values| out.extend_from_slice(values))?;
        Ok(out)
    }

    #[test]
    fn every_way_of_storing_pixels_gives_what_other_programs_read() {
        let truth = std::fs::read(fixtures().join("truth.json")).expect("the values");
        let truth: BTreeMap<String, Vec<f32>> = serde_json::from_slice(&truth).expect("JSON");
        assert_eq!(truth.len(), 25);
        for (name, expected) in truth {
            let found = values(&fixtures().join(format!("{name}.dcm")));
            assert_eq!(found.unwrap_or_else(|e| panic!("{name}: {e}")), expected, "{name}");
        }
    }

    #[test]
    fn damaged_compressed_pixels_are_errors() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("bad.dcm");
        let mut seed = 3u64;
        let mut next = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        for name in ["u12_rle", "s16_jpeg70", "u12_jpegls", "u12_near", "s16_j2k"] {
            let good = std::fs::read(fixtures().join(format!("{name}.dcm"))).expect("a fixture");
            let mut refused = 0;
            for _ in 0..100 {
                let mut bad = good.clone();
                // Among the compressed pixels, which are at the end.
                let at = bad.len() - 1 - next(150);
                bad[at] = next(256) as u8;
                std::fs::write(&path, bad).expect("written");
                match values(&path) {
                    Ok(values) => assert_eq!(values.len(), 143, "{name}"),
                    Err(_) => refused += 1,
                }
            }
            assert!(refused > 0, "{name}");
        }
    }

    #[test]
    fn compressed_pixels_of_another_size_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        for name in ["u12_rle", "u12_jpeg70", "u12_jpegls", "u12_j2k"] {
            let mut bytes = std::fs::read(fixtures().join(format!("{name}.dcm"))).expect("a fixture");
            let rows = b"\x28\0\x10\0US\x02\0\x0D\0";
            let at = bytes.windows(rows.len()).position(|w| w == rows).expect("the rows");
            // 60,000 rows: as many pixels would take 1.3 MB, and a careless reader's whole image more.
            bytes[at + 8..at + 10].copy_from_slice(&60_000u16.to_le_bytes());
            let path = dir.path().join("bad.dcm");
            std::fs::write(&path, bytes).expect("written");
            let text = values(&path).expect_err("another size").to_string();
            assert!(text.contains("damaged: frame 1: its "), "{name}: {text}");
        }
    }
}
