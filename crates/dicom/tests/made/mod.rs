//! DICOM files, made byte by byte.

use std::path::Path;

/// How a file is made.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    pub series: String,
    pub study: String,
    pub instance: String,
    pub rows: usize,
    pub columns: usize,
    pub orientation: [f64; 6],
    pub position: Option<[f64; 3]>,
    pub spacing: [f64; 2],
    pub time: Option<u32>,
    pub echo: Option<u32>,
    /// Number and description of the series, and its echo, repetition and inversion times.
    pub number: u32,
    pub description: &'static str,
    pub times: [f64; 3],
    pub agent: &'static str,
    pub frame: &'static str,
    pub bits: (u16, u16, u16),
    pub signed: bool,
    pub photometric: &'static str,
    pub scale: Option<(f64, f64)>,
    /// Bytes of the pixels.
    pub pixels: Vec<u8>,
}

impl Slice {
    /// A slice of 5 x 4 pixels of 12 bits in 16, axial, at a place along z.
    pub(crate) fn new(z: f64) -> Self {
        Self {
            series: "1.2.3".into(),
            study: "1.2".into(),
            instance: format!("1.2.3.{}", (z * 1000.0).round() as i64 + 1_000_000),
            rows: 5,
            columns: 4,
            orientation: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0],
            position: Some([0.0, 0.0, z]),
            spacing: [2.0, 3.0],
            time: None,
            echo: None,
            number: 4,
            description: "AX T2",
            times: [0.0; 3],
            agent: "",
            frame: "1.2.5",
            bits: (16, 12, 11),
            signed: false,
            photometric: "MONOCHROME2",
            scale: None,
            pixels: (0..20u16).flat_map(|i| (i + z.abs() as u16 * 20).to_le_bytes()).collect(),
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = vec![0; 128];
        file.extend(b"DICM");
        element(&mut file, (2, 0x10), *b"UI", b"1.2.840.10008.1.2.1");
        file.extend(self.dataset());
        file
    }

    pub(crate) fn dataset(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let text = |values: &[f64]| values.iter().map(f64::to_string).collect::<Vec<_>>().join("\\");
        let short = |out: &mut Vec<u8>, tag, value: u16| element(out, tag, *b"US", &value.to_le_bytes());
        element(&mut out, (8, 0x16), *b"UI", b"1.2.840.10008.5.1.4.1.1.4");
        element(&mut out, (8, 0x18), *b"UI", self.instance.as_bytes());
        element(&mut out, (8, 0x20), *b"DA", b"20260102");
        element(&mut out, (8, 0x103E), *b"LO", self.description.as_bytes());
        if !self.agent.is_empty() {
            element(&mut out, (0x18, 0x10), *b"LO", self.agent.as_bytes());
        }
        if let Some(echo) = self.echo {
            element(&mut out, (0x18, 0x86), *b"IS", echo.to_string().as_bytes());
        }
        for (time, number) in self.times.iter().zip([0x81, 0x80, 0x82]) {
            if *time > 0.0 {
                element(&mut out, (0x18, number), *b"DS", time.to_string().as_bytes());
            }
        }
        if let Some(time) = self.time {
            element(&mut out, (0x20, 0x100), *b"IS", time.to_string().as_bytes());
        }
        element(&mut out, (0x20, 0x0D), *b"UI", self.study.as_bytes());
        element(&mut out, (0x20, 0x0E), *b"UI", self.series.as_bytes());
        element(&mut out, (0x20, 0x11), *b"IS", self.number.to_string().as_bytes());
        if let Some(position) = self.position {
            element(&mut out, (0x20, 0x32), *b"DS", text(&position).as_bytes());
        }
        element(&mut out, (0x20, 0x37), *b"DS", text(&self.orientation).as_bytes());
        element(&mut out, (0x20, 0x52), *b"UI", self.frame.as_bytes());
        short(&mut out, (0x28, 2), 1);
        element(&mut out, (0x28, 4), *b"CS", self.photometric.as_bytes());
        short(&mut out, (0x28, 0x10), self.rows as u16);
        short(&mut out, (0x28, 0x11), self.columns as u16);
        element(&mut out, (0x28, 0x30), *b"DS", text(&self.spacing).as_bytes());
        short(&mut out, (0x28, 0x100), self.bits.0);
        short(&mut out, (0x28, 0x101), self.bits.1);
        short(&mut out, (0x28, 0x102), self.bits.2);
        short(&mut out, (0x28, 0x103), u16::from(self.signed));
        if let Some((slope, intercept)) = self.scale {
            element(&mut out, (0x28, 0x1052), *b"DS", intercept.to_string().as_bytes());
            element(&mut out, (0x28, 0x1053), *b"DS", slope.to_string().as_bytes());
        }
        element(&mut out, (0x7FE0, 0x10), *b"OW", &self.pixels);
        out
    }
}

/// An element of explicit kind, lowest byte first, of even length.
pub(crate) fn element(out: &mut Vec<u8>, (group, number): (u16, u16), vr: [u8; 2], value: &[u8]) {
    out.extend(group.to_le_bytes());
    out.extend(number.to_le_bytes());
    out.extend(vr);
    let mut value = value.to_vec();
    if value.len() % 2 == 1 {
        value.push(if vr == *b"UI" { 0 } else { b' ' });
    }
    if matches!(&vr, b"OB" | b"OW" | b"SQ" | b"UN") {
        out.extend([0, 0]);
        out.extend((value.len() as u32).to_le_bytes());
    } else {
        out.extend((value.len() as u16).to_le_bytes());
    }
    out.extend(value);
}

/// Writes a file for each slice; their names say nothing of the order.
pub(crate) fn write(folder: &Path, slices: &[Slice]) {
    for (i, slice) in slices.iter().enumerate() {
        std::fs::write(folder.join(format!("IM{:04}", i * 7 % 1000)), slice.bytes()).expect("written");
    }
}
