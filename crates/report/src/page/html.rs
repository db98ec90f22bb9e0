//! The page itself: a skeleton, the programs that fill it, and the data, all in one file.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use rayon::prelude::*;
use serde::Serialize;

use super::data::{CaseData, Overview};

const SKELETON: &str = include_str!("../../assets/page.html");
const STYLE: &str = include_str!("../../assets/dist/report.css");
/// Unpacks the rest; small enough to be read.
const LOADER: &str = include_str!("../../assets/loader.js");
/// Tables and charts, compressed.
const PROGRAM: &[u8] = include_bytes!("../../assets/dist/report.js.gz");
/// The volume viewer, compressed; unpacked when it is first opened.
const VIEWER: &[u8] = include_bytes!("../../assets/dist/viewer.js.gz");

/// Licences of what the two consist of.
const NOTICE: &str = include_str!("../../assets/dist/NOTICE.txt");

/// The whole file.
pub(crate) fn html(title: &str, overview: &Overview<'_>, cases: &[CaseData]) -> String {
    let blocks: Vec<String> = cases
        .par_iter()
        .enumerate()
        .map(|(i, case)| block(&format!("case-{i}"), &packed_json(&case.block)))
        .collect();
    let parts = [
        ("title", escape(title)),
        ("style", STYLE.to_owned()),
        ("loader", LOADER.to_owned()),
        ("overview", block("overview", &packed_json(overview))),
        ("program", block("program", &STANDARD.encode(PROGRAM))),
        ("viewer", block("viewer", &STANDARD.encode(VIEWER))),
        ("notice", block("notice", &packed(NOTICE.as_bytes()))),
        ("cases", blocks.concat()),
    ];
    let mut out = String::with_capacity(parts.iter().map(|(_, p)| p.len()).sum::<usize>() + SKELETON.len());
    let mut rest = SKELETON;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (name, after) = after.split_once("}}").expect("the skeleton closes its braces");
        let (_, part) =
            parts.iter().find(|(known, _)| *known == name).expect("the skeleton names known parts");
        out.push_str(part);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// JSON, compressed, in base64.
fn packed_json(value: &impl Serialize) -> String {
    packed(&serde_json::to_vec(value).expect("plain data"))
}

/// Bytes, compressed, in base64.
fn packed(bytes: &[u8]) -> String {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let bytes = gzip.write_all(bytes).and_then(|()| gzip.finish());
    STANDARD.encode(bytes.expect("memory takes every byte"))
}

/// Data that a browser neither shows nor runs.
fn block(id: &str, base64: &str) -> String {
    format!("<script type=\"application/gzip\" id=\"{id}\">{base64}</script>\n")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
