//! Looks over the bytes of a file before a library reads them.
//!
//! A DICOM file of 10 kB can claim an element of 4 GiB, or nest sequences so deeply that a recursive reader overflows its stack. So
//! every element and item is walked first: declared lengths must fit into what surrounds them, and depth and number of elements
//! are limited. The walk also finds the pixels, so that frames can be read without parsing the file again.

use std::borrow::Cow;
use std::io::Read as _;
use std::ops::Range;
use std::path::Path;

use dicom_core::dictionary::{DataDictionary as _, DataDictionaryEntry as _};
use dicom_core::{Tag, VR};
use dicom_dictionary_std::{StandardDataDictionary, tags};

use crate::DicomError;

/// Sequences inside each other.
const DEPTH: usize = 16;
/// Elements and items of a file.
const ELEMENTS: usize = 1_000_000;
/// A deflated file may grow by this factor, and to this size.
const INFLATED_FACTOR: u64 = 64;
const INFLATED: u64 = 1 << 30;
/// A length that is not told; the element ends with a delimiter.
const UNDEFINED: u32 = u32::MAX;

/// What items and sequences are marked with.
const ITEM: Tag = Tag(0xFFFE, 0xE000);
const ITEM_END: Tag = Tag(0xFFFE, 0xE00D);
const SEQUENCE_END: Tag = Tag(0xFFFE, 0xE0DD);

pub(crate) const IMPLICIT: &str = "1.2.840.10008.1.2";
const DEFLATED: &str = "1.2.840.10008.1.2.1.99";
const BIG_ENDIAN: &str = "1.2.840.10008.1.2.2";

/// How values are coded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Kinds of values are told by the dictionary.
    ImplicitLittle,
    /// Kinds of values are written.
    ExplicitLittle,
    /// The same with the highest byte first.
    ExplicitBig,
}

impl Coding {
    const fn explicit(self) -> bool {
        !matches!(self, Self::ImplicitLittle)
    }

    const fn little(self) -> bool {
        !matches!(self, Self::ExplicitBig)
    }
}

/// Where the pixels are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PixelPlace {
    /// All frames in one run.
    Native(Range<usize>),
    /// Compressed: the table of the frames' offsets, and the fragments.
    Fragments {
        /// Basic offset table: offsets of the frames' first fragments, counted from the first fragment's item.
        table: Range<usize>,
        /// The fragments' bytes, without their items' heads.
        fragments: Vec<Range<usize>>,
    },
}

/// A file that can be read.
#[derive(Debug)]
pub(crate) struct Checked<'a> {
    /// The file, or what it holds deflated.
    pub bytes: Cow<'a, [u8]>,
    /// The elements before the pixels.
    pub header: Range<usize>,
    /// How they are coded.
    pub coding: Coding,
    /// UID of the transfer syntax.
    pub syntax: String,
    /// The pixels, where there are any.
    pub pixels: Option<PixelPlace>,
}

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It does not look like DICOM.
    NotDicom,
    /// It is damaged, or made to do damage.
    Broken(String),
}

impl Finding {
    /// The error of a file that was an image before.
    pub(crate) fn of(self, path: &Path) -> DicomError {
        let reason = match self {
            Self::NotDicom => "it has changed since it was looked at".to_owned(),
            Self::Broken(reason) => reason,
        };
        DicomError::Damaged { path: path.into(), reason }
    }
}

fn broken<T>(reason: impl Into<String>) -> Result<T, Finding> {
    Err(Finding::Broken(reason.into()))
}

/// Walks the whole file.
pub(crate) fn check(file: &[u8]) -> Result<Checked<'_>, Finding> {
    let meta = match (file.get(128..132), file.get(..4), file.get(..2)) {
        (Some(b"DICM"), ..) => Some(132),
        (_, Some(b"DICM"), _) => Some(4),
        // Files from before the preamble begin with the group of identification.
        (_, _, Some([8, 0])) if file.len() > 8 => None,
        _ => return Err(Finding::NotDicom),
    };
    let (syntax, start) = match meta {
        Some(start) => transfer_syntax(file, start)?,
        None => (IMPLICIT.to_owned(), 0),
    };
    let coding = match syntax.as_str() {
        IMPLICIT => Coding::ImplicitLittle,
        BIG_ENDIAN => Coding::ExplicitBig,
        _ => Coding::ExplicitLittle,
    };
    let (bytes, start) = if syntax == DEFLATED {
        (Cow::Owned(inflate(&file[start..])?), 0)
    } else {
        (Cow::Borrowed(file), start)
    };
    let found = Walk { bytes: &bytes, at: start, count: 0, pixels: None }.all(coding)?;
    let end = found.as_ref().map_or(bytes.len(), |(at, _)| *at);
    Ok(Checked { header: start..end, coding, syntax, pixels: found.map(|(_, place)| place), bytes })
}

/// The transfer syntax that the file's meta group names, and where the group ends.
fn transfer_syntax(file: &[u8], start: usize) -> Result<(String, usize), Finding> {
    let mut walk = Walk { bytes: file, at: start, count: 0, pixels: None };
    let mut syntax = None;
    while file.get(walk.at..walk.at + 2) == Some(&[2, 0]) {
        let head = walk.head(Coding::ExplicitLittle)?;
        let value = walk.take(head.length, file.len(), head.tag)?;
        if head.tag == tags::TRANSFER_SYNTAX_UID {
            let text = String::from_utf8_lossy(&file[value]);
            syntax = Some(text.trim_end_matches(['\0', ' ']).to_owned());
        }
    }
    match syntax {
        Some(syntax) => Ok((syntax, walk.at)),
        None => broken("it does not name its transfer syntax (0002,0010)"),
    }
}

fn inflate(packed: &[u8]) -> Result<Vec<u8>, Finding> {
    let limit = (packed.len() as u64).saturating_mul(INFLATED_FACTOR).min(INFLATED);
    let mut bytes = Vec::new();
    match flate2::read::DeflateDecoder::new(packed).take(limit + 1).read_to_end(&mut bytes) {
        Err(error) => broken(format!("its deflated part is damaged: {error}")),
        Ok(_) if bytes.len() as u64 > limit => {
            broken(format!("its deflated part holds more than {INFLATED_FACTOR} times its size"))
        }
        Ok(_) => Ok(bytes),
    }
}

/// What stands before a value.
struct Head {
    tag: Tag,
    vr: Option<VR>,
    length: u32,
}

/// What is being walked.
struct Level {
    /// A sequence holds items; an item, as the file itself, holds elements.
    sequence: bool,
    /// Where it ends at the latest.
    end: usize,
    /// Its length is not told: a delimiter ends it.
    open: bool,
    coding: Coding,
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    count: usize,
    pixels: Option<(usize, PixelPlace)>,
}

impl Walk<'_> {
    /// Walks to the end; where the element of the pixels begins, and where they are.
    fn all(mut self, coding: Coding) -> Result<Option<(usize, PixelPlace)>, Finding> {
        let mut levels = vec![Level { sequence: false, end: self.bytes.len(), open: false, coding }];
        while let Some(level) = levels.last() {
            if self.at >= level.end {
                if level.open {
                    return broken(format!("it ends inside a sequence, at byte {}", self.at));
                }
                levels.pop();
                continue;
            }
            let below =
                if level.sequence { self.item(level)? } else { self.element(level, levels.len() == 1)? };
            match below {
                Next::Stay => {}
                Next::Up => {
                    levels.pop();
                }
                Next::Down(_) if levels.len() > 2 * DEPTH => {
                    return broken(format!("its sequences are nested deeper than {DEPTH} levels"));
                }
                Next::Down(below) => levels.push(below),
            }
        }
        Ok(self.pixels)
    }

    fn item(&mut self, level: &Level) -> Result<Next, Finding> {
        let at = self.at;
        let head = self.head(Coding::ImplicitLittle.with_order(level.coding))?;
        match head.tag {
            ITEM if head.length == UNDEFINED => {
                Ok(Next::Down(Level { sequence: false, open: true, end: level.end, coding: level.coding }))
            }
            ITEM => {
                let end = self.fits(head.length, level.end, head.tag)?;
                Ok(Next::Down(Level { sequence: false, open: false, end, coding: level.coding }))
            }
            SEQUENCE_END if level.open => Ok(Next::Up),
            tag => broken(format!("a sequence holds {tag} at byte {at} instead of an item")),
        }
    }

    fn element(&mut self, level: &Level, outermost: bool) -> Result<Next, Finding> {
        let (at, coding) = (self.at, level.coding);
        let head = self.head(coding)?;
        if head.tag == ITEM_END && level.open {
            return Ok(Next::Up);
        }
        if head.tag.group() == 0xFFFE {
            return broken(format!("{} stands at byte {at}, where an element was expected", head.tag));
        }
        let is_pixels = head.tag == tags::PIXEL_DATA;
        let listed = || StandardDataDictionary.by_tag(head.tag).and_then(|entry| entry.vr().exact());
        let sequence = match head.vr {
            Some(VR::SQ) => true,
            Some(VR::UN) => head.length == UNDEFINED,
            Some(_) => false,
            None => !is_pixels && (head.length == UNDEFINED || listed() == Some(VR::SQ)),
        };
        if sequence {
            // An unknown sequence is coded without kinds of values, whatever the file's coding.
            let coding = if head.vr == Some(VR::UN) { Coding::ImplicitLittle } else { coding };
            let open = head.length == UNDEFINED;
            let end = if open { level.end } else { self.fits(head.length, level.end, head.tag)? };
            return Ok(Next::Down(Level { sequence: true, end, open, coding }));
        }
        let place = if head.length == UNDEFINED {
            if !is_pixels {
                return broken(format!("{} at byte {at} does not tell its length", head.tag));
            }
            self.fragments(level.end)?
        } else {
            PixelPlace::Native(self.take(head.length, level.end, head.tag)?)
        };
        if is_pixels && outermost {
            if self.pixels.is_some() {
                return broken("it holds pixels twice");
            }
            self.pixels = Some((at, place));
        }
        Ok(Next::Stay)
    }

    /// Compressed pixels: items without kinds of values, the first of which is the table of offsets.
    fn fragments(&mut self, end: usize) -> Result<PixelPlace, Finding> {
        let mut fragments = Vec::new();
        loop {
            let at = self.at;
            let head = self.head(Coding::ImplicitLittle)?;
            match head.tag {
                ITEM => fragments.push(self.take(head.length, end, head.tag)?),
                SEQUENCE_END => break,
                tag => {
                    return broken(format!(
                        "the compressed pixels hold {tag} at byte {at} instead of a fragment"
                    ));
                }
            }
        }
        if fragments.is_empty() {
            return broken("its compressed pixels lack the table of offsets");
        }
        let table = fragments.remove(0);
        Ok(PixelPlace::Fragments { table, fragments })
    }

    /// Reads a tag, where it is coded the kind of value, and the length.
    fn head(&mut self, coding: Coding) -> Result<Head, Finding> {
        self.count += 1;
        if self.count > ELEMENTS {
            return broken(format!("it holds more than {ELEMENTS} elements"));
        }
        let start = self.at;
        let cut = || Finding::Broken(format!("it ends inside an element, at byte {start}"));
        let bytes = self.bytes.get(start..start + 8).ok_or_else(cut)?;
        let short = |i: usize| {
            let pair = [bytes[i], bytes[i + 1]];
            if coding.little() { u16::from_le_bytes(pair) } else { u16::from_be_bytes(pair) }
        };
        let long =
            |four: [u8; 4]| if coding.little() { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) };
        let tag = Tag(short(0), short(2));
        if !coding.explicit() || tag.group() == 0xFFFE {
            self.at += 8;
            return Ok(Head { tag, vr: None, length: long([bytes[4], bytes[5], bytes[6], bytes[7]]) });
        }
        let Some(vr) = VR::from_binary([bytes[4], bytes[5]]) else {
            return broken(format!("{tag} at byte {start} has no known kind of value (VR)"));
        };
        let wide = matches!(
            vr,
            VR::OB
                | VR::OD
                | VR::OF
                | VR::OL
                | VR::OV
                | VR::OW
                | VR::SQ
                | VR::SV
                | VR::UC
                | VR::UN
                | VR::UR
                | VR::UT
                | VR::UV
        );
        if !wide {
            self.at += 8;
            return Ok(Head { tag, vr: Some(vr), length: u32::from(short(6)) });
        }
        let four = self.bytes.get(start + 8..start + 12).and_then(<[u8]>::first_chunk).ok_or_else(cut)?;
        self.at += 12;
        Ok(Head { tag, vr: Some(vr), length: long(*four) })
    }

    /// Where a value of this length ends, if it does before `end`.
    fn fits(&self, length: u32, end: usize, tag: Tag) -> Result<usize, Finding> {
        let stop = self.at as u64 + u64::from(length);
        if length == UNDEFINED || stop > end as u64 {
            let left = end.saturating_sub(self.at);
            return broken(format!("{tag} declares {length} bytes, but {left} are left"));
        }
        Ok(stop as usize)
    }

    /// Steps over a value.
    fn take(&mut self, length: u32, end: usize, tag: Tag) -> Result<Range<usize>, Finding> {
        let stop = self.fits(length, end, tag)?;
        Ok(std::mem::replace(&mut self.at, stop)..stop)
    }
}

impl Coding {
    /// This one in the byte order of another.
    const fn with_order(self, other: Self) -> Self {
        // Items have no kind of value, so the coding without kinds is read in either order.
        match other {
            Self::ExplicitBig => Self::ExplicitBig,
            _ => self,
        }
    }
}

enum Next {
    Stay,
    Up,
    Down(Level),
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXPLICIT: &str = "1.2.840.10008.1.2.1";

    /// A file in a transfer syntax.
    fn file(syntax: &str, dataset: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 128];
        file.extend(b"DICM\x02\0\x10\0UI");
        file.extend((syntax.len() as u16).to_le_bytes());
        file.extend(syntax.as_bytes());
        file.extend(dataset);
        file
    }

    /// An element of four bytes of length, kind `vr`.
    fn long(vr: [u8; 2], length: u32, value: &[u8]) -> Vec<u8> {
        [&[9, 0, 1, 0][..], &vr, &[0, 0], &length.to_le_bytes(), value].concat()
    }

    fn reason(bytes: &[u8]) -> String {
        match check(bytes) {
            Err(Finding::Broken(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn lengths_beyond_the_file_are_refused() {
        let huge = file(EXPLICIT, &long(*b"OB", 0xFFFF_FFF0, b"12"));
        assert_eq!(reason(&huge), "(0009,0001) declares 4294967280 bytes, but 2 are left");
        let cut = file(EXPLICIT, &[8, 0, 5, 0, b'C']);
        assert_eq!(reason(&cut), "it ends inside an element, at byte 159");
        // An item that reaches beyond its sequence.
        let item = [&[0xFE, 0xFF, 0, 0xE0][..], &20u32.to_le_bytes(), &[0; 8]].concat();
        let sequence = file(EXPLICIT, &long(*b"SQ", 16, &item));
        assert_eq!(reason(&sequence), "(FFFE,E000) declares 20 bytes, but 8 are left");
        let strange = file(EXPLICIT, b"\x08\0\x05\0zz\0\0");
        assert!(reason(&strange).contains("no known kind of value"), "{}", reason(&strange));
        assert!(matches!(check(b"hello"), Err(Finding::NotDicom)));
        assert!(matches!(check(&[]), Err(Finding::NotDicom)));
    }

    #[test]
    fn sequences_without_end_do_not_overflow_the_stack() {
        for (syntax, head) in [
            (EXPLICIT, [&[9, 0, 1, 0][..], b"SQ\0\0\xFF\xFF\xFF\xFF"].concat()),
            (IMPLICIT, [9, 0, 1, 0, 0xFF, 0xFF, 0xFF, 0xFF].to_vec()),
        ] {
            let level = [&head[..], &[0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF]].concat();
            assert_eq!(
                reason(&file(syntax, &level.repeat(20_000))),
                "its sequences are nested deeper than 16 levels"
            );
            let closed =
                [&[0xFE, 0xFF, 0x0D, 0xE0, 0, 0, 0, 0][..], &[0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0]].concat();
            let fine = [level.repeat(16), closed.repeat(16)].concat();
            check(&file(syntax, &fine)).expect("16 levels");
            assert!(reason(&file(syntax, &level.repeat(3))).contains("it ends inside a sequence"));
        }
    }

    #[test]
    fn a_deflated_file_does_not_fill_the_memory() {
        use std::io::Write as _;
        let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(&vec![0; 4 << 20]).expect("packed");
        let bomb = file(DEFLATED, &packer.finish().expect("packed"));
        assert_eq!(reason(&bomb), "its deflated part holds more than 64 times its size");
        let mut packer = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
        packer.write_all(&long(*b"OB", 2, b"12")).expect("packed");
        let fine = file(DEFLATED, &packer.finish().expect("packed"));
        assert_eq!(check(&fine).expect("fine").header, 0..14);
        assert!(reason(&file(DEFLATED, b"\xFF\xFF\xFF")).contains("its deflated part is damaged"));
    }

    #[test]
    fn compressed_pixels_are_found_fragment_by_fragment() {
        let item =
            |bytes: &[u8]| [&[0xFE, 0xFF, 0, 0xE0][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
        let end = [0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0];
        let head = [&[0xE0, 0x7F, 0x10, 0][..], b"OB\0\0\xFF\xFF\xFF\xFF"].concat();
        let bytes = file(
            "1.2.840.10008.1.2.5",
            &[head.clone(), item(&[]), item(b"ab"), item(b"cdef"), end.to_vec()].concat(),
        );
        let found = check(&bytes).expect("pixels");
        let Some(PixelPlace::Fragments { table, fragments }) = found.pixels else {
            panic!("{:?}", found.pixels)
        };
        assert!(table.is_empty());
        let texts: Vec<&[u8]> = fragments.into_iter().map(|range| &bytes[range]).collect();
        assert_eq!(texts, [&b"ab"[..], b"cdef"]);
        assert_eq!(
            reason(&file("1.2.840.10008.1.2.5", &[head, end.to_vec()].concat())),
            "its compressed pixels lack the table of offsets"
        );
    }

    #[test]
    fn damaged_files_never_panic() {
        let mut seed = 7u64;
        let mut next = move |below: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (seed >> 33) as usize % below
        };
        let item =
            |bytes: &[u8]| [&[0xFE, 0xFF, 0, 0xE0][..], &(bytes.len() as u32).to_le_bytes(), bytes].concat();
        let inner = long(*b"SQ", 22, &item(&long(*b"OB", 2, b"12")));
        let open =
            [&[9, 0, 2, 0][..], b"UN\0\0\xFF\xFF\xFF\xFF", &[0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0]].concat();
        let dataset = [inner, open, b"\x08\0\x60\0CS\x02\0MR".to_vec()].concat();
        for syntax in [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED] {
            let good = file(syntax, &dataset);
            for cut in 0..good.len() {
                let _ = check(&good[..cut]);
            }
            for _ in 0..2500 {
                let mut bad = good.clone();
                for _ in 0..=next(6) {
                    let at = next(bad.len());
                    bad[at] = next(256) as u8;
                }
                let _ = check(&bad);
            }
        }
    }
}
