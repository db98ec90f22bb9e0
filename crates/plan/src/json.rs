//! JSON as Python writes it, and access that knows the path of every value.

use crate::PlanError;
use glioseg_diagnose::{Expected, ForeignFile};
use glioseg_interop::parse_python_json;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The most bytes a description or plans may have; a `dataset.json` that lists every file of a large dataset has a few MB.
const MAX_BYTES: u64 = 256 << 20;

/// Reads a JSON file as Python's `json` writes it: the bare tokens `NaN`, `Infinity` and `-Infinity` are taken.
///
/// Such a token becomes the string of the same spelling, since JSON values have no such numbers.
///
/// # Errors
/// [`PlanError::Read`], [`PlanError::TooLarge`], [`PlanError::Syntax`].
pub fn read_json(path: &Path) -> Result<Value, PlanError> {
    let failed = |source| PlanError::Read { path: path.to_owned(), source };
    let bytes = std::fs::metadata(path).map_err(failed)?.len();
    if bytes > MAX_BYTES {
        return Err(PlanError::TooLarge { path: path.to_owned(), bytes, limit: MAX_BYTES });
    }
    parse_json(&std::fs::read(path).map_err(failed)?, path)
}

/// Parses JSON as [`parse_python_json`] does; `path` is only named in errors.
///
/// # Errors
/// [`PlanError::Syntax`].
pub fn parse_json(text: &[u8], path: &Path) -> Result<Value, PlanError> {
    parse_python_json(text).map_err(|source| {
        if let Some(foreign) = ForeignFile::beginning(path, text, Expected::Json) {
            return PlanError::Foreign(foreign);
        }
        PlanError::Syntax { path: path.to_owned(), line: source.line(), column: source.column(), source }
    })
}

/// A value of a JSON file together with where it stands, so that errors can say so.
#[derive(Debug, Clone)]
pub(crate) struct Node<'a> {
    file: &'a Path,
    key: String,
    value: &'a Value,
}

impl<'a> Node<'a> {
    /// The root of a file.
    pub(crate) fn root(file: &'a Path, value: &'a Value) -> Self {
        Node { file, key: String::new(), value }
    }

    /// The same value, said to stand at `key`.
    pub(crate) fn at(file: &'a Path, key: String, value: &'a Value) -> Self {
        Node { file, key, value }
    }

    pub(crate) fn value(&self) -> &'a Value {
        self.value
    }

    pub(crate) fn key(&self) -> &str {
        if self.key.is_empty() { "the whole file" } else { &self.key }
    }

    fn child_key(&self, name: &str) -> String {
        if self.key.is_empty() { name.to_owned() } else { format!("{}.{name}", self.key) }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.file
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.file.to_owned()
    }

    /// The value of `name`; it must be there (`null` counts as there).
    pub(crate) fn get(&self, name: &str) -> Result<Node<'a>, PlanError> {
        let map = self.map()?;
        match map.get(name) {
            Some(value) => Ok(Node { file: self.file, key: self.child_key(name), value }),
            None => Err(self.missing(name)),
        }
    }

    /// The error that says that `name` is not here.
    pub(crate) fn missing(&self, name: &str) -> PlanError {
        let present = self.value.as_object().map(|m| m.keys().cloned().collect()).unwrap_or_default();
        PlanError::MissingKey { path: self.file(), key: self.child_key(name), present }
    }

    /// The value of `name`, `None` if it is absent or `null`.
    pub(crate) fn opt(&self, name: &str) -> Result<Option<Node<'a>>, PlanError> {
        let value = self.map()?.get(name).filter(|v| !v.is_null());
        Ok(value.map(|value| Node { file: self.file, key: self.child_key(name), value }))
    }

    /// Whether `name` is there, be it `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.value.get(name).is_some()
    }

    /// That this object has no keys but `known`, the arguments of `owner`; keys that are `null` count.
    ///
    /// # Errors
    /// [`PlanError::UnknownArgument`] with the first other one.
    pub(crate) fn only(&self, known: &[&str], owner: &str) -> Result<(), PlanError> {
        let Some(key) = self.map()?.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
        Err(PlanError::UnknownArgument {
            path: self.file(),
            key: self.child_key(key),
            owner: owner.to_owned(),
            known: known.iter().map(|&s| s.to_owned()).collect(),
        })
    }

    pub(crate) fn map(&self) -> Result<&'a Map<String, Value>, PlanError> {
        self.value.as_object().ok_or_else(|| self.wrong("an object"))
    }

    /// Every entry of an object, in the order of the file.
    pub(crate) fn entries(&self) -> Result<Vec<(&'a str, Node<'a>)>, PlanError> {
        let map = self.map()?;
        Ok(map
            .iter()
            .map(|(k, value)| (k.as_str(), Node { file: self.file, key: self.child_key(k), value }))
            .collect())
    }

    pub(crate) fn list(&self) -> Result<Vec<Node<'a>>, PlanError> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let item = |(i, value)| Node { file: self.file, key: format!("{}[{i}]", self.key), value };
        Ok(list.iter().enumerate().map(item).collect())
    }

    pub(crate) fn str(&self) -> Result<&'a str, PlanError> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    pub(crate) fn bool(&self) -> Result<bool, PlanError> {
        self.value.as_bool().ok_or_else(|| self.wrong("true or false"))
    }

    /// A number; the strings that stand for `NaN`, `Infinity` and `-Infinity` count.
    pub(crate) fn f64(&self) -> Result<f64, PlanError> {
        match self.value {
            Value::Number(n) => n.as_f64(),
            Value::String(s) => match s.as_str() {
                "NaN" => Some(f64::NAN),
                "Infinity" => Some(f64::INFINITY),
                "-Infinity" => Some(f64::NEG_INFINITY),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| self.wrong("a number"))
    }

    /// A whole number from 0, also if written as `3.0`.
    pub(crate) fn usize(&self) -> Result<usize, PlanError> {
        let whole = |x: &f64| x.fract() == 0.0 && (0.0..=9e15).contains(x);
        let value = self.value.as_u64().or_else(|| self.value.as_f64().filter(whole).map(|x| x as u64));
        value.and_then(|v| usize::try_from(v).ok()).ok_or_else(|| self.wrong("a whole number from 0"))
    }

    /// A whole number from 1 to `max`.
    pub(crate) fn count(&self, max: usize) -> Result<usize, PlanError> {
        match self.usize() {
            Ok(n) if (1..=max).contains(&n) => Ok(n),
            _ => Err(self.wrong(format!("a whole number from 1 to {max}"))),
        }
    }

    /// The error that says that this value must be `expected`.
    pub(crate) fn wrong(&self, expected: impl Into<String>) -> PlanError {
        let found = match self.value {
            Value::Null => "null".to_owned(),
            Value::String(s) => format!("the string \"{}\"", shorten(s)),
            value => shorten(&value.to_string()),
        };
        PlanError::WrongValue {
            path: self.file(),
            key: self.key().to_owned(),
            found,
            expected: expected.into(),
        }
    }

    /// The error that says that this name is not one of `known`.
    pub(crate) fn unknown(&self, known: &[&str]) -> PlanError {
        let found = self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned);
        PlanError::UnknownName {
            path: self.file(),
            key: self.key().to_owned(),
            found: shorten(&found),
            known: known.iter().map(|&s| s.to_owned()).collect(),
        }
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use glioseg_diagnose::Diagnose as _;

    #[test]
    fn non_finite_tokens_are_taken_outside_strings_only() {
        let text =
            br#"{"a": NaN, "b": [Infinity, -Infinity, -1], "NaN \" NaN": "say NaN, -Infinity", "c": "\\"}"#;
        let value = parse_json(text, Path::new("x.json")).expect("valid but for the tokens");
        let node = Node::root(Path::new("x.json"), &value);
        assert!(node.get("a").and_then(|n| n.f64()).expect("number").is_nan());
        let b: Vec<f64> = node
            .get("b")
            .and_then(|n| n.list())
            .expect("list")
            .iter()
            .map(|n| n.f64().expect("number"))
            .collect();
        assert_eq!(b, [f64::INFINITY, f64::NEG_INFINITY, -1.0]);
        assert_eq!(node.get("NaN \" NaN").and_then(|n| n.str()).expect("string"), "say NaN, -Infinity");
        assert_eq!(node.get("c").and_then(|n| n.str()).expect("string"), "\\");
    }

    #[test]
    fn broken_json_names_file_and_line() {
        let error = parse_json(b"{\n \"a\": 1,,\n}", Path::new("dir/plans.json")).expect_err("two commas");
        let text = error.to_string();
        assert!(text.contains("plans.json is not valid JSON (line 2, column 9)"), "{text}");
        assert!(error.hint().is_some());
    }

    #[test]
    fn numbers_keep_every_bit() {
        let value =
            parse_json(b"[0.48046875190734863, 1.2000000476837158, 3e-1]", Path::new("x")).expect("valid");
        let node = Node::root(Path::new("x"), &value);
        let numbers: Vec<f64> = node.list().expect("list").iter().map(|n| n.f64().expect("number")).collect();
        assert_eq!(
            numbers,
            ["0.48046875190734863", "1.2000000476837158", "3e-1"].map(|s| s.parse::<f64>().expect("number"))
        );
    }

    #[test]
    fn whole_numbers_may_be_written_with_a_point() {
        let value = parse_json(b"[3, 3.0, 3.5, -1, true]", Path::new("x")).expect("valid");
        let node = Node::root(Path::new("x"), &value);
        let list: Vec<_> = node.list().expect("list").iter().map(|n| n.usize().ok()).collect();
        assert_eq!(list, [Some(3), Some(3), None, None, None]);
    }
}
