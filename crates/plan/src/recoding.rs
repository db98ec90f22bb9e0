//! The values of written label maps: the dataset's own, or those of BraTS.
//!
//! A model paints the values of its `dataset.json`; challenges and other tools want those of their year. Which value is which part
//! of the tumour follows from the dataset's regions (or the names of plain labels), so that any BraTS model can be translated. Every
//! writer also writes a `dataset.json` for the values it wrote, so that a folder of label maps says itself what they mean.

use std::io::Write as _;
use std::path::Path;

use glioseg_formats::{FormatError, atomic};
use glioseg_interop::{KeyOrder, python_json};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{Convention, Dataset, Labels, PlanError, TumourParts};

/// Which values written label maps have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum OutputLabels {
    /// Those of the dataset.
    #[default]
    Dataset,
    /// Those of BraTS until 2022: 1 necrotic core, 2 oedema, 4 enhancing tumour.
    Brats,
    /// Those of BraTS since 2023: 1 necrotic core, 2 oedema, 3 enhancing tumour, 4 resection cavity.
    Brats2023,
    /// nnU-Net's own BraTS coding: 1 oedema, 2 necrotic core, 3 enhancing tumour.
    NnUnet,
}

/// `dataset`, or a coding as [`Convention`] reads it.
impl std::str::FromStr for OutputLabels {
    type Err = PlanError;

    fn from_str(text: &str) -> Result<Self, PlanError> {
        if text.trim().eq_ignore_ascii_case("dataset") {
            return Ok(Self::Dataset);
        }
        match text.parse::<Convention>() {
            Ok(Convention::Brats124) => Ok(Self::Brats),
            Ok(Convention::Brats123 | Convention::Brats1234) => Ok(Self::Brats2023),
            Ok(Convention::NnUnet) => Ok(Self::NnUnet),
            Err(PlanError::UnknownConvention { name, mut known }) => {
                known.insert(0, "dataset".to_owned());
                Err(PlanError::UnknownConvention { name, known })
            }
            Err(error) => Err(error),
        }
    }
}

impl TryFrom<String> for OutputLabels {
    type Error = PlanError;

    fn try_from(text: String) -> Result<Self, PlanError> {
        text.parse()
    }
}

impl From<OutputLabels> for String {
    fn from(labels: OutputLabels) -> Self {
        labels.name().to_owned()
    }
}

impl OutputLabels {
    /// As on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Brats => "brats",
            Self::Brats2023 => "brats2023",
            Self::NnUnet => "nnunet",
        }
    }

    /// How values of `dataset` become these.
    ///
    /// # Errors
    /// [`PlanError::TumourParts`] if the dataset's labels have no place in the coding, with the reason.
    pub fn recoding(self, dataset: &Dataset) -> Result<Recoding, PlanError> {
        match self {
            Self::Dataset => Ok(Recoding::default()),
            _ => self.recoding_of(&TumourParts::of(dataset)?),
        }
    }

    /// How values of a known coding become these.
    ///
    /// # Errors
    /// [`PlanError::TumourParts`] if there is a resection cavity, which BraTS until 2022 has not.
    pub fn recoding_of(self, parts: &TumourParts) -> Result<Recoding, PlanError> {
        let to = match (self, parts.cavity) {
            (Self::Dataset, _) => return Ok(Recoding::default()),
            (Self::Brats, _) => Convention::Brats124,
            (Self::Brats2023, None) => Convention::Brats123,
            (Self::Brats2023, Some(_)) => Convention::Brats1234,
            (Self::NnUnet, _) => Convention::NnUnet,
        };
        let mut table = parts.recoding(&to.parts())?;
        table.sort_unstable();
        Ok(Recoding { table })
    }
}

/// A table from old to new values; none leaves every value as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recoding {
    /// Sorted by old value.
    table: Vec<(u16, u16)>,
}

impl Recoding {
    /// The new value; `None` for one that the coding does not have.
    pub fn get(&self, value: u16) -> Option<u16> {
        if self.table.is_empty() {
            return Some(value);
        }
        self.table.binary_search_by_key(&value, |&(from, _)| from).ok().map(|at| self.table[at].1)
    }

    /// Recodes a label map in place.
    ///
    /// # Errors
    /// The first value that the coding does not have; the map is half done then.
    pub fn apply(&self, data: &mut [u16]) -> Result<(), u16> {
        if self.table.is_empty() {
            return Ok(());
        }
        for run in data.chunk_by_mut(|a, b| a == b) {
            let value = self.get(run[0]).ok_or(run[0])?;
            run.fill(value);
        }
        Ok(())
    }

    /// Whether outputs keep their order in the description of recoded labels: those of plain labels are sorted by value.
    pub fn keeps_order(&self, dataset: &Dataset) -> bool {
        let new: Vec<Option<u16>> = dataset.labels.all_labels().iter().map(|&v| self.get(v)).collect();
        dataset.labels.has_regions() || new.is_sorted()
    }

    /// `dataset.json` of recoded label maps, in nnU-Net v2's form.
    ///
    /// # Panics
    /// If the recoding was made for another dataset.
    pub fn description(&self, dataset: &Dataset) -> Value {
        let new =
            |value: u16| self.get(value).expect("a value of the dataset that the recoding was made for");
        let mut labels = Map::new();
        for label in dataset.labels.entries() {
            let value = match label.values[..] {
                [value] if value == 0 || !dataset.labels.has_regions() => json!(new(value)),
                _ => json!(label.values.iter().map(|&v| new(v)).collect::<Vec<_>>()),
            };
            labels.insert(label.name.clone(), value);
        }
        // No network predicts it, so that a recoded label map needs none.
        if let Some(ignore) = dataset.labels.ignore_label().filter(|_| self.table.is_empty()) {
            labels.insert("ignore".into(), json!(ignore));
        }
        let channels = dataset.channel_names.iter().enumerate().map(|(i, c)| (i.to_string(), json!(c)));
        let mut map = Map::new();
        map.insert("channel_names".into(), Value::Object(channels.collect()));
        map.insert("labels".into(), Value::Object(labels));
        if dataset.labels.has_regions() {
            let paints: Vec<u16> = dataset.labels.regions().iter().map(|r| new(r.paint)).collect();
            map.insert("regions_class_order".into(), json!(paints));
        }
        map.insert("numTraining".into(), json!(dataset.num_training.unwrap_or(0)));
        map.insert("file_ending".into(), json!(dataset.written_ending()));
        Value::Object(map)
    }
}

/// Writes `dataset.json` of recoded label maps into `folder`.
///
/// # Errors
/// [`FormatError::Io`] that names the file.
pub fn write_description(folder: &Path, dataset: &Dataset, recoding: &Recoding) -> Result<(), FormatError> {
    let text = python_json(&recoding.description(dataset), KeyOrder::Given);
    atomic::write(&folder.join("dataset.json"), |file| file.write_all(text.as_bytes()))
}

/// What label maps that are in `folder` mean, and what `recoding` gives, if these are not the same: such maps must not be mixed.
pub fn other_labels(folder: &Path, dataset: &Dataset, recoding: &Recoding) -> Option<(String, String)> {
    let path = folder.join("dataset.json");
    let found = Dataset::read(&path).ok()?;
    let wanted = Dataset::from_value(recoding.description(dataset), &path).ok()?;
    differing_labels(&found, &wanted)
}

/// What the labels of two datasets mean, in words, if it is not the same: values and regions, and of plain labels the names too.
///
/// Names of the same part of a tumour are equal (`ED` and `edema`), as are spellings. Where a description of nnU-Net v1 or a name such as
/// `label 1` says nothing reliable, the values decide alone.
pub fn differing_labels(a: &Dataset, b: &Dataset) -> Option<(String, String)> {
    let (first, second) = (meaning(&a.labels), meaning(&b.labels));
    if first != second {
        return Some((first, second));
    }
    let named = |dataset: &Dataset| dataset.raw.get("channel_names").is_some();
    if a.labels.has_regions() || !named(a) || !named(b) {
        return None;
    }
    if let (Ok(a), Ok(b)) = (TumourParts::of(a), TumourParts::of(b)) {
        return (a != b).then(|| (parts_in_words(&a), parts_in_words(&b)));
    }
    let names = a.labels.foreground().into_iter().zip(b.labels.foreground());
    let same = |((a, value), (b, _)): ((&str, u16), (&str, u16))| {
        let (a, b) = (plain_name(a), plain_name(b));
        let says_nothing =
            |name: &str| ["", "label", "class", "region"].iter().any(|word| name == format!("{word}{value}"));
        a == b || a.is_empty() || b.is_empty() || says_nothing(&a) || says_nothing(&b)
    };
    let in_words = |dataset: &Dataset| {
        let all: Vec<String> =
            dataset.labels.foreground().iter().map(|(name, value)| format!("{value} {name}")).collect();
        all.join(", ")
    };
    (!names.into_iter().all(same)).then(|| (in_words(a), in_words(b)))
}

/// A label's name without what only spelling makes different.
fn plain_name(name: &str) -> String {
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    plain.replace("oedema", "edema").replace("tumour", "tumor")
}

fn parts_in_words(parts: &TumourParts) -> String {
    let mut all = vec![
        (parts.necrosis, "necrotic core"),
        (parts.oedema, "oedema"),
        (parts.enhancing, "enhancing tumour"),
    ];
    all.extend(parts.cavity.map(|value| (value, "resection cavity")));
    all.sort_unstable();
    all.iter().map(|(value, name)| format!("{value} {name}")).collect::<Vec<_>>().join(", ")
}

/// What outputs and labels mean, in words, to compare two datasets: `WT [1, 2, 3] painted 1, …`, or the label values.
pub fn meaning(labels: &Labels) -> String {
    let regions: Vec<String> =
        labels.regions().iter().map(|r| format!("{:?} painted {}", r.labels, r.paint)).collect();
    if regions.is_empty() { format!("{:?}", labels.all_labels()) } else { regions.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dataset(labels: &str) -> Dataset {
        let text = format!(r#"{{"channel_names": {{"0": "T1"}}, "file_ending": ".nii.gz", {labels}}}"#);
        Dataset::parse(text.as_bytes(), Path::new("dataset.json")).expect("a dataset")
    }

    #[test]
    fn codings_to_write_have_the_names_of_codings_to_read() {
        use OutputLabels::{Brats, Brats2023, Dataset, NnUnet};
        for (text, expected) in [
            ("dataset", Dataset),
            ("brats", Brats),
            ("brats2021", Brats),
            ("1-2-4", Brats),
            ("2023", Brats2023),
            ("1-2-3", Brats2023),
            ("brats2024", Brats2023),
            ("nnunet", NnUnet),
        ] {
            assert_eq!(text.parse::<OutputLabels>().expect(text), expected, "{text}");
            let json = serde_json::to_string(&expected).expect("text");
            assert_eq!(serde_json::from_str::<OutputLabels>(&json).expect("the same"), expected);
        }
        let error = "brats2031".parse::<OutputLabels>().expect_err("no such year").to_string();
        assert!(error.contains("dataset, 1-2-4") && error.contains("brats2018 to brats2022"), "{error}");
    }

    #[test]
    fn plain_labels_differ_by_name_too() {
        let of = |labels: &str| dataset(&format!(r#""labels": {{"background": 0, {labels}}}"#));
        let differ = |a: &str, b: &str| differing_labels(&of(a), &of(b));
        let swapped = differ(r#""edema": 1, "core": 2"#, r#""core": 1, "edema": 2"#).expect("swapped");
        assert_eq!(swapped, ("1 edema, 2 core".into(), "1 core, 2 edema".into()));
        assert!(differ(r#""edema": 1, "core": 2"#, r#""edema": 1, "vessel": 2"#).is_some());
        assert_eq!(differ(r#""Edema": 1, "enh. tumour": 2"#, r#""oedema": 1, "enh_tumor": 2"#), None);
        // Names of the same parts of a tumour, and names that say nothing.
        let brats = r#""NCR": 1, "ED": 2, "ET": 3"#;
        assert_eq!(differ(brats, r#""necrotic core": 1, "edema": 2, "enhancing tumor": 3"#), None);
        let nnunet = r#""edema": 1, "necrotic core": 2, "enhancing tumor": 3"#;
        assert_eq!(
            differ(brats, nnunet),
            Some((
                "1 necrotic core, 2 oedema, 3 enhancing tumour".into(),
                "1 oedema, 2 necrotic core, 3 enhancing tumour".into()
            ))
        );
        assert_eq!(differ(r#""liver": 1, "lesion": 2"#, r#""label 1": 1, "2": 2"#), None);
        assert!(differ(r#""liver": 1, "lesion": 2"#, r#""label 2": 1, "lesion": 2"#).is_some());
        assert!(differ(r#""liver": 1"#, r#""liver": 1, "lesion": 2"#).is_some());
    }

    const REGIONS: &str = r#""labels": {"background": 0, "WT": [1, 2, 3], "TC": [2, 3], "ET": [3]}, "regions_class_order": [1, 2, 3]"#;

    #[test]
    fn labels_go_back_to_those_of_brats() {
        let nnunet = dataset(REGIONS);
        let recoded = |labels: OutputLabels| {
            let mut data = [0, 0, 1, 1, 2, 3, 1];
            labels.recoding(&nnunet).expect("possible").apply(&mut data).expect("known");
            data
        };
        assert_eq!(recoded(OutputLabels::Dataset), [0, 0, 1, 1, 2, 3, 1]);
        assert_eq!(recoded(OutputLabels::Brats), [0, 0, 2, 2, 1, 4, 2]);
        assert_eq!(recoded(OutputLabels::Brats2023), [0, 0, 2, 2, 1, 3, 2]);
        let recoding = OutputLabels::Brats.recoding(&nnunet).expect("possible");
        assert_eq!(recoding.apply(&mut [1, 9]), Err(9));
    }

    #[test]
    fn the_description_speaks_of_the_new_values() {
        let nnunet = dataset(REGIONS);
        let value = OutputLabels::Brats.recoding(&nnunet).expect("possible").description(&nnunet);
        let again = Dataset::from_value(value, Path::new("dataset.json")).expect("a dataset");
        assert_eq!(meaning(&again.labels), "[2, 1, 4] painted 2, [1, 4] painted 1, [4] painted 4");
        assert_eq!(TumourParts::of(&again).expect("parts"), Convention::Brats124.parts());
        let same = Recoding::default().description(&nnunet);
        assert_eq!(Dataset::from_value(same, Path::new("x")).expect("a dataset").labels, nnunet.labels);
    }

    #[test]
    fn combinations_without_a_meaning_are_errors_that_say_why() {
        let post = dataset(r#""labels": {"background": 0, "NETC": 1, "SNFH": 2, "ET": 3, "RC": 4}"#);
        let error = OutputLabels::Brats.recoding(&post).expect_err("4 is taken");
        assert_eq!(
            error.to_string(),
            "the labels have no other coding: label 4 is a resection cavity, which the other coding does not have"
        );
        assert!(OutputLabels::Brats2023.recoding(&post).is_ok());
        let liver = dataset(r#""labels": {"background": 0, "liver": 1}"#);
        let error = OutputLabels::Brats.recoding(&liver).expect_err("no tumour");
        assert!(
            error.to_string().contains("label 1 (`liver`) is not part of a tumour by its name"),
            "{error}"
        );
        assert!(OutputLabels::Dataset.recoding(&liver).is_ok());
    }
}
