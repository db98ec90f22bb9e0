//! JSON as Python's `json` module reads and writes it: written exactly as `json.dump(value, file, indent=4)` does, so that files
//! of ours and of nnU-Net differ in nothing but their numbers.

use serde::Serialize as _;
use serde_json::Value;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io;

/// Whether keys stand in their own order or sorted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrder {
    /// As inserted (`sort_keys=False`).
    Given,
    /// Sorted (`sort_keys=True`, the default of nnU-Net's `save_json`).
    Sorted,
}

/// Parses JSON as Python's `json` writes it: the bare tokens `NaN`, `Infinity` and `-Infinity` are taken, and a byte order
/// mark is passed over.
///
/// Such a token becomes the string of the same spelling, since JSON values have no such numbers.
///
/// # Errors
/// Those of the parser, with line and column.
pub fn parse_python_json(text: &[u8]) -> serde_json::Result<Value> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    serde_json::from_slice(&quote_non_finite(text))
}

/// Puts quotes around the bare tokens `NaN`, `Infinity` and `-Infinity` outside strings.
fn quote_non_finite(text: &[u8]) -> Cow<'_, [u8]> {
    let mut out: Option<Vec<u8>> = None;
    let (mut i, mut copied, mut in_string) = (0, 0, false);
    while i < text.len() {
        if in_string {
            match text[i] {
                b'\\' => i += 1,
                b'"' => in_string = false,
                _ => {}
            }
            i += 1;
            continue;
        }
        if text[i] == b'"' {
            in_string = true;
        }
        let token = [&b"NaN"[..], b"Infinity", b"-Infinity"].into_iter().find(|t| text[i..].starts_with(t));
        if let Some(token) = token {
            let out = out.get_or_insert_with(|| Vec::with_capacity(text.len() + 64));
            out.extend_from_slice(&text[copied..i]);
            out.push(b'"');
            out.extend_from_slice(token);
            out.push(b'"');
            i += token.len();
            copied = i;
        } else {
            i += 1;
        }
    }
    match out {
        Some(mut out) => {
            out.extend_from_slice(&text[copied..]);
            Cow::Owned(out)
        }
        None => Cow::Borrowed(text),
    }
}

/// The text that Python writes for `value`: four spaces of indentation, ASCII only, floats as `repr` gives them.
///
/// # Panics
/// Never: memory takes every byte, and the formatter writes ASCII.
///
/// # Source
/// batchgenerators, `save_json`.
pub fn python_json(value: &Value, order: KeyOrder) -> String {
    let sorted;
    let value = match order {
        KeyOrder::Given => value,
        KeyOrder::Sorted => {
            sorted = sort(value);
            &sorted
        }
    };
    let mut out = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut out, Python(PrettyFormatter::with_indent(b"    ")));
    value.serialize(&mut serializer).expect("a Vec takes every byte and keys are strings");
    String::from_utf8(out).expect("the formatter writes ASCII")
}

fn sort(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().map(|(k, v)| (k.clone(), sort(v))).collect();
            entries.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(entries.into_iter().collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(sort).collect()),
        other => other.clone(),
    }
}

struct Python(PrettyFormatter<'static>);

impl Formatter for Python {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(repr(value).as_bytes())
    }

    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        let mut out = String::with_capacity(text.len());
        for c in text.chars() {
            if c.is_ascii() && c != '\x7f' {
                out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    // Writing to a String cannot fail.
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
        }
        writer.write_all(out.as_bytes())
    }

    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(writer, first)
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(writer, first)
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

/// A float as Python's `repr` writes it: the fewest digits that read back as the same number, and an exponent of at
/// least two digits where the number is below 1e-4 or from 1e16.
fn repr(value: f64) -> String {
    // Of two shortest texts serde_json takes, like Python, the even one; Rust's own formatting does not.
    let shortest = serde_json::Number::from_f64(value).map_or_else(|| value.to_string(), |n| n.to_string());
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((&shortest, "0"));
    let exponent: i32 = exponent.parse().expect("a whole exponent");
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let all = format!("{whole}{fraction}");
    let leading = all.len() - all.trim_start_matches('0').len();
    let digits = all.trim_matches('0');
    if digits.is_empty() {
        return format!("{sign}0.0");
    }
    // The number is 0.DIGITS * 10^point.
    let point = exponent as isize + whole.len().cast_signed() - leading.cast_signed();
    let count = digits.len();
    match point {
        -3..=0 => format!("{sign}0.{}{digits}", "0".repeat(point.unsigned_abs())),
        1..=16 => {
            let point = point.unsigned_abs();
            let (whole, fraction) = digits.split_at(point.min(count));
            let zeros = "0".repeat(point.saturating_sub(count));
            format!("{sign}{whole}{zeros}.{}", if fraction.is_empty() { "0" } else { fraction })
        }
        _ => {
            let (first, rest) = digits.split_at(1);
            let dot = if rest.is_empty() { "" } else { "." };
            let exponent_sign = if point <= 0 { '-' } else { '+' };
            format!("{sign}{first}{dot}{rest}e{exponent_sign}{:02}", (point - 1).abs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let values = [
            1.0,
            -0.0,
            0.1,
            1e-5,
            1.5e-7,
            1e-4,
            123_456_789.125,
            1e15,
            1e16,
            1.234e22,
            0.897_216_796_875,
            285.132_049_560_546_9,
            99.462_921_142_578_12,
            0.001_25,
            1e300,
            5e-324,
            20.0,
        ];
        let text: Vec<String> = values.iter().map(|&v| repr(v)).collect();
        assert_eq!(
            text,
            [
                "1.0",
                "-0.0",
                "0.1",
                "1e-05",
                "1.5e-07",
                "0.0001",
                "123456789.125",
                "1000000000000000.0",
                "1e+16",
                "1.234e+22",
                "0.897216796875",
                "285.1320495605469",
                "99.46292114257812",
                "0.00125",
                "1e+300",
                "5e-324",
                "20.0"
            ]
        );
    }

    #[test]
    fn text_without_tokens_is_not_copied() {
        assert!(matches!(quote_non_finite(b"{\"a\": 1.5}"), Cow::Borrowed(_)));
    }

    #[test]
    fn text_is_ascii_and_keys_can_be_sorted() {
        let value = json!({"b": ["ö\u{7f}\u{1f9e0}\"\n"], "a": {"z": [], "y": {}}});
        assert_eq!(
            python_json(&value, KeyOrder::Sorted),
            "{\n    \"a\": {\n        \"y\": {},\n        \"z\": []\n    },\n    \"b\": [\n        \
             \"\\u00f6\\u007f\\ud83e\\udde0\\\"\\n\"\n    ]\n}"
        );
        assert!(python_json(&value, KeyOrder::Given).starts_with("{\n    \"b\""));
    }
}
