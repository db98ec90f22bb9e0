//! JPEG-LS, lossless and near-lossless, for images of one component of 2 to 16 bits.
//!
//! Written here since the crates that decode it bind a library of C++.
//!
//! # Source
//! ITU-T T.87; names of variables are those of its annex A.

/// Lengths of runs, as powers of two, by the run index.
const J: [u32; 32] =
    [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// A decoded image.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Image {
    pub rows: usize,
    pub columns: usize,
    pub bits: u32,
    pub values: Vec<u16>,
}

/// Decodes an image of at most so many pixels.
///
/// # Errors
/// What is damaged or not supported, in words.
pub(crate) fn decode(bytes: &[u8], most: usize) -> Result<Image, String> {
    let (frame, scan) = headers(bytes)?;
    let pixels = frame.rows.checked_mul(frame.columns).filter(|&n| n > 0 && n <= most);
    if pixels.is_none() {
        return Err(format!("it has {} x {} pixels", frame.rows, frame.columns));
    }
    let values = Coder::new(&frame, &scan.limits, scan.near)?.scan(frame, &bytes[scan.start..])?;
    Ok(Image { rows: frame.rows, columns: frame.columns, bits: frame.bits, values })
}

#[derive(Debug, Clone, Copy)]
struct FrameHeader {
    rows: usize,
    columns: usize,
    bits: u32,
}

/// MAXVAL, T1, T2, T3 and RESET; 0 is the default.
#[derive(Debug, Default)]
struct Limits {
    most: i32,
    thresholds: [i32; 3],
    reset: i32,
}

struct Scan {
    near: i32,
    limits: Limits,
    start: usize,
}

/// Reads the markers up to the coded pixels.
fn headers(bytes: &[u8]) -> Result<(FrameHeader, Scan), String> {
    let cut = || "it ends inside its headers".to_owned();
    if !bytes.starts_with(&[0xFF, 0xD8]) {
        return Err("it does not begin as a JPEG".into());
    }
    let (mut at, mut frame, mut limits) = (2, None, Limits::default());
    loop {
        let &[0xFF, marker] = bytes.get(at..at + 2).ok_or_else(cut)? else {
            return Err(format!("a marker is missing at byte {at}"));
        };
        if marker == 0xFF {
            at += 1;
            continue;
        }
        let word = |i: usize| bytes.get(i..i + 2).map(|b| usize::from(b[0]) << 8 | usize::from(b[1]));
        let length = word(at + 2).filter(|&n| n >= 2).ok_or_else(cut)?;
        let body = bytes.get(at + 4..at + 2 + length).ok_or_else(cut)?;
        let pair = |i: usize| body.get(i..i + 2).map(|b| i32::from(b[0]) << 8 | i32::from(b[1]));
        at += 2 + length;
        match (marker, body) {
            (0xF7, &[bits, _, _, _, _, components, ..]) => {
                if components != 1 || !(2..=16).contains(&bits) {
                    return Err(format!("it has {components} components of {bits} bits"));
                }
                let size = |i| pair(i).map_or(0, |v| v as usize);
                frame = Some(FrameHeader { rows: size(1), columns: size(3), bits: u32::from(bits) });
            }
            (0xF8, [1, ..]) => {
                let value = |i| pair(i).ok_or_else(cut);
                limits = Limits {
                    most: value(1)?,
                    thresholds: [value(3)?, value(5)?, value(7)?],
                    reset: value(9)?,
                };
            }
            (0xDA, &[1, _, mapping, near, _, point]) => {
                let frame = frame.ok_or("its size is missing")?;
                if mapping != 0 || point != 0 {
                    return Err("it uses a mapping table or a point transform".into());
                }
                return Ok((frame, Scan { near: i32::from(near), limits, start: at }));
            }
            (0xFE | 0xE0..=0xEF, _) => {}
            (marker, _) => return Err(format!("marker {marker:02X} is not supported")),
        }
    }
}

/// Statistics of a context.
#[derive(Debug, Clone, Copy)]
struct Context {
    a: i32,
    b: i32,
    c: i32,
    n: i32,
}

struct Coder {
    most: i32,
    near: i32,
    range: i32,
    thresholds: [i32; 3],
    reset: i32,
    /// Bits of an error, and the longest code.
    quantised_bits: u32,
    limit: u32,
    contexts: Vec<Context>,
    /// Contexts at the end of runs; `b` counts negative errors.
    ends: [Context; 2],
    run_index: usize,
}

/// Bits that number `0..values` takes.
fn bits_of(values: i32) -> u32 {
    32 - (values - 1).max(0).leading_zeros()
}

impl Coder {
    fn new(frame: &FrameHeader, limits: &Limits, near: i32) -> Result<Self, String> {
        let most = if limits.most == 0 { (1 << frame.bits) - 1 } else { limits.most };
        if most < 1 || most >= 1 << frame.bits || near > 255.min(most / 2) {
            return Err(format!(
                "its largest value {most} and its error {near} do not fit {} bits",
                frame.bits
            ));
        }
        let defaults = thresholds(most, near);
        let mut chosen = [0; 3];
        for (i, chosen) in chosen.iter_mut().enumerate() {
            *chosen = if limits.thresholds[i] == 0 { defaults[i] } else { limits.thresholds[i] };
        }
        if chosen[0] <= near || chosen[1] < chosen[0] || chosen[2] < chosen[1] || chosen[2] > most {
            return Err(format!("its thresholds are {chosen:?}"));
        }
        let range = if near == 0 { most + 1 } else { (most + 2 * near) / (2 * near + 1) + 1 };
        let bits = bits_of(most + 1).max(2);
        let first = Context { a: ((range + 32) / 64).max(2), b: 0, c: 0, n: 1 };
        let reset = if limits.reset == 0 { 64 } else { limits.reset };
        if reset < 3 {
            return Err(format!("its contexts are reset after {reset}"));
        }
        Ok(Self {
            most,
            near,
            range,
            thresholds: chosen,
            reset,
            quantised_bits: bits_of(range),
            limit: 2 * (bits + bits.max(8)),
            contexts: vec![first; 365],
            ends: [first; 2],
            run_index: 0,
        })
    }

    fn scan(mut self, frame: FrameHeader, bytes: &[u8]) -> Result<Vec<u16>, String> {
        let mut bits = Bits { bytes, at: 0, held: 0, count: 0 };
        let width = frame.columns;
        // A line with a value before its first pixel and one behind its last.
        let (mut above, mut line) = (vec![0i32; width + 2], vec![0i32; width + 2]);
        let mut out = Vec::with_capacity(frame.rows * width);
        for _ in 0..frame.rows {
            line[0] = above[1];
            above[width + 1] = above[width];
            self.line(&above, &mut line, &mut bits)?;
            out.extend(line[1..=width].iter().map(|&v| v as u16));
            std::mem::swap(&mut above, &mut line);
        }
        Ok(out)
    }

    fn line(&mut self, above: &[i32], line: &mut [i32], bits: &mut Bits<'_>) -> Result<(), String> {
        let width = line.len() - 2;
        let mut x = 1;
        while x <= width {
            let [left, up, corner, next] = [line[x - 1], above[x], above[x - 1], above[x + 1]];
            let q = [next - up, up - corner, corner - left].map(|d| self.quantise(d));
            if q != [0; 3] {
                line[x] = self.regular([left, up, corner], q, bits)?;
                x += 1;
                continue;
            }
            x = self.run(line, x, bits)?;
            if x <= width {
                line[x] = self.run_end(left, above[x], bits)?;
                self.run_index = self.run_index.saturating_sub(1);
                x += 1;
            }
        }
        Ok(())
    }

    fn quantise(&self, d: i32) -> i32 {
        let [t1, t2, t3] = self.thresholds;
        let size = match d.abs() {
            d if d <= self.near => 0,
            d if d < t1 => 1,
            d if d < t2 => 2,
            d if d < t3 => 3,
            _ => 4,
        };
        size * d.signum()
    }

    fn regular(
        &mut self,
        [left, up, corner]: [i32; 3],
        q: [i32; 3],
        bits: &mut Bits<'_>,
    ) -> Result<i32, String> {
        let index = 81 * q[0] + 9 * q[1] + q[2];
        let (sign, index) = (index.signum(), index.unsigned_abs() as usize);
        let predicted = if corner >= left.max(up) {
            left.min(up)
        } else if corner <= left.min(up) {
            left.max(up)
        } else {
            left + up - corner
        };
        let context = &mut self.contexts[index];
        let predicted = (predicted + sign * context.c).clamp(0, self.most);
        let k = golomb(context.n, context.a)?;
        let mapped = bits.golomb(k, self.limit, self.quantised_bits)?;
        let half = (mapped >> 1) as i32;
        let negative = mapped & 1 == 1;
        let error = if self.near == 0 && k == 0 && 2 * context.b <= -context.n {
            if negative { half } else { -half - 1 }
        } else if negative {
            -half - 1
        } else {
            half
        };
        context.update(error, self.near, self.reset);
        Ok(self.reconstruct(predicted, sign * error))
    }

    /// Fills a run of the value on the left; where it ends.
    fn run(&mut self, line: &mut [i32], start: usize, bits: &mut Bits<'_>) -> Result<usize, String> {
        let (end, value) = (line.len() - 1, line[start - 1]);
        let mut x = start;
        while bits.bit()? {
            let length = 1usize << J[self.run_index];
            let stop = end.min(x + length);
            line[x..stop].fill(value);
            if x + length <= end {
                self.run_index = (self.run_index + 1).min(31);
            }
            x = stop;
            if x == end {
                return Ok(end);
            }
        }
        let length = bits.read(J[self.run_index])? as usize;
        if x + length >= end {
            return Err("a run reaches beyond its line".into());
        }
        line[x..x + length].fill(value);
        Ok(x + length)
    }

    /// The pixel that ends a run.
    fn run_end(&mut self, left: i32, up: i32, bits: &mut Bits<'_>) -> Result<i32, String> {
        let same = (left - up).abs() <= self.near;
        let (kind, predicted) = (i32::from(same), if same { left } else { up });
        let sign = if !same && left > up { -1 } else { 1 };
        let context = &mut self.ends[usize::from(same)];
        let k = golomb(context.n, context.a + if same { context.n >> 1 } else { 0 })?;
        let limit = self.limit - J[self.run_index] - 1;
        let mapped = bits.golomb(k, limit, self.quantised_bits)? as i32;
        let sum = mapped + kind;
        let odd = sum & 1 == 1;
        let size = (sum >> 1) + i32::from(odd);
        let error = if (k != 0 || 2 * context.b >= context.n) == odd { -size } else { size };
        context.b += i32::from(error < 0);
        context.a += (mapped + 1 - kind) >> 1;
        if context.n == self.reset {
            context.a >>= 1;
            context.b >>= 1;
            context.n >>= 1;
        }
        context.n += 1;
        Ok(self.reconstruct(predicted, sign * error))
    }

    fn reconstruct(&self, predicted: i32, error: i32) -> i32 {
        let step = 2 * self.near + 1;
        let value = predicted + error * step;
        let value = if value < -self.near {
            value + self.range * step
        } else if value > self.most + self.near {
            value - self.range * step
        } else {
            value
        };
        value.clamp(0, self.most)
    }
}

impl Context {
    fn update(&mut self, error: i32, near: i32, reset: i32) {
        self.b += error * (2 * near + 1);
        self.a += error.abs();
        if self.n == reset {
            self.a >>= 1;
            self.b >>= 1;
            self.n >>= 1;
        }
        self.n += 1;
        if self.b <= -self.n {
            self.b = (self.b + self.n).max(1 - self.n);
            self.c = (self.c - 1).max(-128);
        } else if self.b > 0 {
            self.b = (self.b - self.n).min(0);
            self.c = (self.c + 1).min(127);
        }
    }
}

/// The standard's own thresholds.
fn thresholds(most: i32, near: i32) -> [i32; 3] {
    let clamp = |value: i32, least: i32| if value > most || value < least { least } else { value };
    let [a, b, c] = if most >= 128 {
        let factor = (most.min(4095) + 128) / 256;
        [factor + 2 + 3 * near, factor * 4 + 3 + 5 * near, factor * 17 + 4 + 7 * near]
    } else {
        let factor = 256 / (most + 1);
        [(3 / factor + 3 * near).max(2), (7 / factor + 5 * near).max(3), (21 / factor + 7 * near).max(4)]
    };
    let t1 = clamp(a, near + 1);
    let t2 = clamp(b, t1);
    [t1, t2, clamp(c, t2)]
}

/// Bits that are written as they are.
fn golomb(n: i32, a: i32) -> Result<u32, String> {
    (0..24)
        .find(|&k| i64::from(n) << k >= i64::from(a))
        .ok_or_else(|| "its errors are larger than its values".into())
}

/// The coded bits; after a byte of ones, the highest bit of the next one is left out.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
}

impl Bits<'_> {
    fn bit(&mut self) -> Result<bool, String> {
        if self.count == 0 {
            let byte = *self.bytes.get(self.at).ok_or("its pixels are cut short")?;
            let after_ones = self.at > 0 && self.bytes[self.at - 1] == 0xFF;
            if after_ones && byte >= 0x80 {
                return Err("its pixels are cut short".into());
            }
            self.held = u32::from(byte);
            self.count = if after_ones { 7 } else { 8 };
            self.at += 1;
        }
        self.count -= 1;
        Ok(self.held >> self.count & 1 == 1)
    }

    fn read(&mut self, count: u32) -> Result<u32, String> {
        (0..count).try_fold(0, |sum, _| Ok(sum << 1 | u32::from(self.bit()?)))
    }

    /// A number whose high part is a run of zeros, and which is written as it is where that would be too long.
    fn golomb(&mut self, k: u32, limit: u32, quantised_bits: u32) -> Result<u32, String> {
        let longest = limit.checked_sub(quantised_bits + 1).ok_or("its codes are too long")?;
        let mut high = 0;
        while !self.bit()? {
            high += 1;
            if high > longest {
                return Err("its codes are too long".into());
            }
        }
        if high < longest { Ok(high << k | self.read(k)?) } else { Ok(self.read(quantised_bits)? + 1) }
    }
}
