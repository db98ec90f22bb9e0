//! `dataset.json`: channels and labels of a dataset.

use crate::json::{Node, parse_json, read_json};
use crate::{ImageReader, PlanError};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// More labels than any dataset has; label maps are `u8` or `u16`.
const MAX_LABEL: usize = u16::MAX as usize - 1;

/// nnU-Net's description of a dataset.
///
/// # Source
/// nnU-Net v2 `dataset.json`; also the old key `modality` for `channel_names`.
#[derive(Debug, Clone, PartialEq)]
pub struct Dataset {
    /// Name of every channel, in channel order.
    pub channel_names: Vec<String>,
    /// What the label values mean.
    pub labels: Labels,
    /// How image and label files end, with the dot, such as `.nii.gz`.
    pub file_ending: String,
    /// Number of training cases, where given.
    pub num_training: Option<usize>,
    /// Reader that the dataset asks for instead of the usual one.
    pub overwrite_image_reader: Option<ImageReader>,
    /// The whole file, with the keys that have no meaning here.
    pub raw: Value,
}

/// A `dataset.json` that says what labels mean, and where it was found.
#[derive(Debug, Clone)]
pub struct Described {
    /// What it says.
    pub dataset: Dataset,
    /// The file.
    pub path: PathBuf,
}

impl Dataset {
    /// The description to believe: the file that was given, else the first `dataset.json` in `folders`; `None` if there is
    /// none. Every command that must know what labels mean asks here.
    ///
    /// # Errors
    /// As [`Dataset::read`]; a description that cannot be read is not passed over for another one.
    pub fn describing<P: AsRef<Path>>(
        given: Option<&Path>,
        folders: impl IntoIterator<Item = P>,
    ) -> Result<Option<Described>, PlanError> {
        let beside = || folders.into_iter().map(|f| f.as_ref().join("dataset.json")).find(|p| p.is_file());
        let Some(path) = given.map(Path::to_owned).or_else(beside) else { return Ok(None) };
        Ok(Some(Described { dataset: Dataset::read(&path)?, path }))
    }

    /// How label maps that are written for it end: `.nii` where its own files do, else `.nii.gz`.
    pub fn written_ending(&self) -> &'static str {
        if self.file_ending.eq_ignore_ascii_case(".nii") { ".nii" } else { ".nii.gz" }
    }

    /// Reads `dataset.json`.
    ///
    /// # Errors
    /// Any [`PlanError`] that names the file and the key.
    pub fn read(path: &Path) -> Result<Dataset, PlanError> {
        Dataset::from_value(read_json(path)?, path)
    }

    /// Reads the text of a `dataset.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Dataset, PlanError> {
        Dataset::from_value(parse_json(text, path)?, path)
    }

    /// Checks parsed JSON; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn from_value(raw: Value, path: &Path) -> Result<Dataset, PlanError> {
        let root = Node::root(path, &raw);
        let channels = match root.opt("channel_names")? {
            Some(node) => node,
            None => root.opt("modality")?.ok_or_else(|| root.missing("channel_names"))?,
        };
        let channel_names = channel_names(&channels)?;
        let labels = Labels::from_node(&root)?;
        let file_ending = match root.opt("file_ending")? {
            // Datasets from nnU-Net v1 have no such key and are always `.nii.gz`.
            None if root.has("modality") => ".nii.gz".to_owned(),
            None => return Err(root.missing("file_ending")),
            Some(node) => match node.str()? {
                ending if ending.starts_with('.') && ending.len() > 1 => ending.to_owned(),
                _ => return Err(node.wrong("a file ending that starts with a dot, such as \".nii.gz\"")),
            },
        };
        let num_training = root.opt("numTraining")?.map(|n| whole_number(&n)).transpose()?;
        let overwrite_image_reader = match root.opt("overwrite_image_reader_writer")? {
            None => None,
            // nnU-Net's own way to say "no other than the usual one".
            Some(node) if node.str()? == "None" => None,
            Some(node) => {
                let known = ImageReader::from_name(node.str()?);
                Some(known.ok_or_else(|| node.unknown(&ImageReader::NAMES))?)
            }
        };
        Ok(Dataset { channel_names, labels, file_ending, num_training, overwrite_image_reader, raw })
    }

    /// How nnU-Net reads these images, unless plans say otherwise.
    ///
    /// # Source
    /// nnU-Net v2, `determine_reader_writer_from_dataset_json`.
    pub fn image_reader(&self) -> ImageReader {
        match self.overwrite_image_reader {
            Some(reader) => reader,
            None if self.file_ending.eq_ignore_ascii_case(".nii") => ImageReader::Nibabel,
            None => ImageReader::SimpleItk,
        }
    }
}

/// A whole number, or the text of one: hand-written files put numbers in quotes, and nnU-Net never counts with them.
fn whole_number(node: &Node<'_>) -> Result<usize, PlanError> {
    let text = node.value().as_str().and_then(|text| text.trim().parse().ok());
    text.map_or_else(|| node.usize(), Ok)
}

/// Names in the order of their numbers, which must run from 0 or 1 without a gap: nnU-Net only counts them.
fn channel_names(node: &Node<'_>) -> Result<Vec<String>, PlanError> {
    let entries = node.entries()?;
    let expected = || {
        node.wrong("an object that names the channels \"0\", \"1\", … (or from \"1\" on) without a gap, such as {\"0\": \"T1\", \"1\": \"FLAIR\"}")
    };
    if entries.is_empty() {
        return Err(expected());
    }
    let number = |text: &str| text.trim().parse::<usize>().ok();
    let first = usize::from(!entries.iter().any(|(text, _)| number(text) == Some(0)));
    let mut names = vec![None; entries.len()];
    for (text, name) in &entries {
        let index = number(text).and_then(|n| n.checked_sub(first));
        let slot = index.and_then(|i| names.get_mut(i)).ok_or_else(expected)?;
        if slot.replace(name.str()?.to_owned()).is_some() {
            return Err(expected());
        }
    }
    names.into_iter().collect::<Option<Vec<_>>>().ok_or_else(expected)
}

/// One name for the many names of a contrast: `t1n`, `t1c`, `t2w`, `t2f`; other names in lower case without punctuation.
///
/// ```
/// use glioseg_plan::canonical_channel;
/// assert_eq!(canonical_channel("T1ce"), canonical_channel("t1gd"));
/// assert_eq!(canonical_channel("FLAIR"), canonical_channel("t2f"));
/// assert_ne!(canonical_channel("T1"), canonical_channel("T2"));
/// ```
pub fn canonical_channel(name: &str) -> String {
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
    match plain.as_str() {
        "t1" | "t1n" | "t1w" | "t1native" | "t1pre" => "t1n".into(),
        "t1ce" | "t1c" | "t1gd" | "t1cegd" | "t1post" | "t1km" | "ce" | "t1wce" | "t1contrast" => {
            "t1c".into()
        }
        "t2" | "t2w" => "t2w".into(),
        "flair" | "t2f" | "t2flair" | "fla" => "t2f".into(),
        _ => plain,
    }
}

/// One entry of `labels`: a name and the values it stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The name.
    pub name: String,
    /// The label values; one unless the dataset has regions.
    pub values: Vec<u16>,
}

/// A union of labels that is predicted by one output, and the label value painted for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// The name in `labels`.
    pub name: String,
    /// The label values that belong to it, in the order of the file.
    pub labels: Vec<u16>,
    /// The value painted where it is predicted: its entry of `regions_class_order`.
    pub paint: u16,
}

/// What the values of a label map mean.
///
/// A dataset either has plain labels (softmax, one output per label with background) or regions (sigmoid, one output
/// per region, no background).
///
/// # Source
/// nnU-Net v2, `LabelManager`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    entries: Vec<Label>,
    regions: Vec<Region>,
    all: Vec<u16>,
    ignore: Option<u16>,
}

impl Labels {
    fn from_node(root: &Node<'_>) -> Result<Labels, PlanError> {
        let node = root.get("labels")?;
        let turned = turn_round(node.value());
        let node = turned.as_ref().map_or(node, |value| Node::at(root.path(), "labels".to_owned(), value));
        let mut entries = Vec::new();
        let (mut ignore, mut has_regions) = (None, false);
        for (name, value) in node.entries()? {
            // nnU-Net makes numbers of whatever Python's `int` takes.
            let number = |n: &Node<'_>| match whole_number(n) {
                Ok(v) if v <= MAX_LABEL => Ok(v as u16),
                _ => Err(n.wrong(format!("a label value from 0 to {MAX_LABEL}, or a list of them"))),
            };
            let values = match value.value() {
                Value::Array(list) if name == "ignore" || name == "background" || list.is_empty() => {
                    return Err(value.wrong(match name {
                        "ignore" => "one label value, not a list",
                        "background" => "0, not a list",
                        _ => "a label value or a list of them that is not empty",
                    }));
                }
                Value::Array(_) => value.list()?.iter().map(number).collect::<Result<Vec<_>, _>>()?,
                _ => vec![number(&value)?],
            };
            if name == "background" && values != [0] {
                return Err(value.wrong("0"));
            }
            if name == "ignore" {
                ignore = Some(values[0]);
                continue;
            }
            has_regions |= values.len() > 1;
            entries.push(Label { name: name.to_owned(), values });
        }
        if !entries.iter().any(|l| l.name == "background") {
            return Err(PlanError::MissingKey {
                path: root.file(),
                key: "labels.background".to_owned(),
                present: entries.into_iter().map(|l| l.name).collect(),
            });
        }
        let mut all: Vec<u16> = entries.iter().flat_map(|l| l.values.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        if let Some(ignore) = ignore {
            let highest = all.last().copied().unwrap_or(0);
            if ignore != highest + 1 {
                return Err(node
                    .get("ignore")?
                    .wrong(format!("{}, one more than the highest other label", highest + 1)));
            }
        }
        let mut regions = Vec::new();
        if has_regions {
            let candidates: Vec<&Label> =
                entries.iter().filter(|l| l.values.iter().any(|&v| v != 0)).collect();
            let order = root.get("regions_class_order")?;
            let listed = listed(order.value());
            let order = listed
                .as_ref()
                .map_or(order, |list| Node::at(root.path(), "regions_class_order".to_owned(), list));
            let paints = order.list()?;
            if paints.len() != candidates.len() {
                let names: Vec<&str> = candidates.iter().map(|l| l.name.as_str()).collect();
                return Err(order.wrong(format!(
                    "a list with one label value for each of the {} regions {}",
                    names.len(),
                    names.join(", ")
                )));
            }
            for (label, paint) in candidates.into_iter().zip(&paints) {
                let value = match whole_number(paint) {
                    Ok(v) if v <= MAX_LABEL => v as u16,
                    _ => return Err(paint.wrong(format!("a label value from 0 to {MAX_LABEL}"))),
                };
                regions.push(Region { name: label.name.clone(), labels: label.values.clone(), paint: value });
            }
        }
        Ok(Labels { entries, regions, all, ignore })
    }

    /// Whether outputs are regions (sigmoid) rather than labels (softmax).
    pub fn has_regions(&self) -> bool {
        !self.regions.is_empty()
    }

    /// The regions in output order; empty where the dataset has plain labels.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Every entry of `labels` in file order, background included, the ignore label left out.
    pub fn entries(&self) -> &[Label] {
        &self.entries
    }

    /// Name and value of every plain label but background, ascending by value; the name is empty where a value occurs
    /// only inside regions.
    pub fn foreground(&self) -> Vec<(&str, u16)> {
        let name = |v: u16| self.entries.iter().find(|l| l.values == [v]).map_or("", |l| l.name.as_str());
        self.all.iter().filter(|&&v| v != 0).map(|&v| (name(v), v)).collect()
    }

    /// What is scored and reported, with its labels: every region in output order, or every plain label but background, ascending.
    /// A label without a name has its value for one.
    pub fn classes(&self) -> Vec<(String, Vec<u16>)> {
        if self.has_regions() {
            return self.regions.iter().map(|r| (r.name.clone(), r.labels.clone())).collect();
        }
        let name = |name: &str, value: u16| if name.is_empty() { value.to_string() } else { name.to_owned() };
        self.foreground().into_iter().map(|(n, v)| (name(n, v), vec![v])).collect()
    }

    /// Every label value with background, ascending, the ignore label left out.
    pub fn all_labels(&self) -> &[u16] {
        &self.all
    }

    /// Every value that a label map may hold: all labels, and the ignore label last.
    pub fn declared(&self) -> Vec<u16> {
        self.all.iter().copied().chain(self.ignore).collect()
    }

    /// The value of voxels that are not scored, if there is one.
    pub fn ignore_label(&self) -> Option<u16> {
        self.ignore
    }

    /// Outputs of the network: one per region, or one per label with background.
    pub fn num_outputs(&self) -> usize {
        if self.has_regions() { self.regions.len() } else { self.all.len() }
    }

    /// Names of the outputs, in output order.
    pub fn output_names(&self) -> Vec<String> {
        if self.has_regions() {
            return self.regions.iter().map(|r| r.name.clone()).collect();
        }
        let name = |v: u16| {
            self.entries.iter().find(|l| l.values == [v]).map_or_else(|| v.to_string(), |l| l.name.clone())
        };
        self.all.iter().map(|&v| name(v)).collect()
    }
}

/// The list that a text stands for: `[1, 2, 3]` and `1, 2, 3`, or `123`, which nnU-Net reads digit by digit.
fn listed(order: &Value) -> Option<Value> {
    let text = order.as_str()?.trim();
    let text = text.strip_prefix(['[', '(']).and_then(|t| t.strip_suffix([']', ')'])).unwrap_or(text);
    let number = |part: &str| part.trim().parse::<u64>().ok().map(Value::from);
    if text.contains(',') {
        return text.split(',').map(number).collect();
    }
    text.chars().map(|digit| digit.to_digit(10).map(Value::from)).collect()
}

/// nnU-Net v1 wrote labels as `{"0": "background", "1": "edema"}`; this turns them into v2's `{"background": 0, …}`.
///
/// Names had no meaning then, so 0 may be called anything (`bg`).
fn turn_round(labels: &Value) -> Option<Value> {
    let map = labels.as_object().filter(|m| !m.is_empty())?;
    let turned = map.iter().map(|(number, name)| {
        let number = number.trim().parse::<u64>().ok()?;
        let name = if number == 0 { "background" } else { name.as_str()? };
        Some((name.to_owned(), Value::from(number)))
    });
    let turned: serde_json::Map<String, Value> = turned.collect::<Option<_>>()?;
    (turned.len() == map.len()).then_some(Value::Object(turned))
}
