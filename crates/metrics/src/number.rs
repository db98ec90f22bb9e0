//! Named numbers that may be NaN or infinite, and how they stand in JSON.
//!
//! JSON has no such numbers. Files of Python hold the bare tokens `NaN` and `Infinity`, which readers other than
//! Python's refuse; our own hold the strings `"NaN"`, `"Infinity"` and `"-Infinity"` in their place.

pub use glioseg_plan::number::{Number, float};
use indexmap::IndexMap;
use serde::de::Deserializer;
use serde::ser::{SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};

/// Metric name to value, in the order in which the rule states them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values(IndexMap<String, f64>);

impl Values {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value, or replaces the one of that name.
    pub fn set(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), value);
    }

    /// The value of a metric, where the rule states one.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied()
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(name, &value)| (name.as_str(), value))
    }

    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromIterator<(&'a str, f64)> for Values {
    fn from_iter<I: IntoIterator<Item = (&'a str, f64)>>(pairs: I) -> Self {
        Self(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, &value) in &self.0 {
            map.serialize_entry(name, &Number(value))?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let map = IndexMap::<String, Number>::deserialize(deserializer)?;
        Ok(Self(map.into_iter().map(|(name, Number(value))| (name, value)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_json_lacks_survive_a_file() {
        let values: Values =
            [("a", f64::NAN), ("b", f64::INFINITY), ("c", f64::NEG_INFINITY), ("d", 0.1), ("e", 3.0)]
                .into_iter()
                .collect();
        let text = serde_json::to_string(&values).expect("plain data");
        assert_eq!(text, r#"{"a":"NaN","b":"Infinity","c":"-Infinity","d":0.1,"e":3.0}"#);
        let back: Values = serde_json::from_str(&text).expect("our own text");
        assert!(back.get("a").is_some_and(f64::is_nan));
        assert_eq!(back.iter().skip(1).collect::<Vec<_>>(), values.iter().skip(1).collect::<Vec<_>>());
        assert!(serde_json::from_str::<Values>(r#"{"a":"many"}"#).is_err());
    }
}
