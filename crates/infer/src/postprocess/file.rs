//! `postprocessing.json`: ours, and those of both versions of nnU-Net.

use std::io::Write as _;
use std::path::Path;

use glioseg_formats::atomic;
use glioseg_interop::{Value as Pickled, read_pickle_file, write_pickle};
use serde_json::{Map, Value, json};

use super::{FILE_NAME, Neighbours, PostprocessError, Postprocessing, PostprocessingStep};

/// Far more than any list of steps has.
const MAX_BYTES: u64 = 16 << 20;
/// Version of our file.
const VERSION: u64 = 1;

impl Postprocessing {
    /// The steps of a model folder; `None` if it has no `postprocessing.json`.
    ///
    /// # Errors
    /// As [`Postprocessing::read`].
    pub fn of_model(folder: &Path) -> Result<Option<Self>, PostprocessError> {
        let path = folder.join(FILE_NAME);
        if path.is_file() { Self::read(&path).map(Some) } else { Ok(None) }
    }

    /// Reads a `postprocessing.json` of this program, of nnU-Net v2 or of nnU-Net v1, or the `postprocessing.pkl` of version 2.
    ///
    /// # Errors
    /// [`PostprocessError::Read`]; [`PostprocessError::Format`] with what was found instead.
    pub fn read(path: &Path) -> Result<Self, PostprocessError> {
        let failed = |source| PostprocessError::Read { path: path.to_owned(), source };
        let format = |reason: String| PostprocessError::Format { path: path.to_owned(), reason };
        let bytes = std::fs::metadata(path).map_err(failed)?.len();
        if bytes > MAX_BYTES {
            return Err(format(format!("it has {bytes} bytes")));
        }
        let value = if path.extension().is_some_and(|ending| ending == "pkl") {
            let pickled = read_pickle_file(path).map_err(|e| format(e.to_string()))?;
            of_pickle(&pickled).map_err(format)?
        } else {
            let text = std::fs::read(path).map_err(failed)?;
            // Scores of nnU-Net may be NaN.
            glioseg_plan::parse_json(&text, path).map_err(|e| format(e.to_string()))?
        };
        let Some(map) = value.as_object() else { return Err(format("it is not a JSON object".into())) };
        let steps = if map.contains_key("steps") {
            own(map)
        } else if map.contains_key("postprocessing_fns") {
            version2(map)
        } else if map.contains_key("for_which_classes") {
            version1(map)
        } else {
            let keys: Vec<&str> = map.keys().map(String::as_str).collect();
            Err(format!(
                "it has none of `steps`, `postprocessing_fns`, `for_which_classes`, but {}",
                keys.join(", ")
            ))
        };
        let notes = map.get("notes").and_then(Value::as_object).cloned().unwrap_or_default();
        Ok(Self { steps: steps.map_err(format)?, notes })
    }

    /// Writes the file whole.
    ///
    /// # Errors
    /// [`PostprocessError::Volume`] that names the file.
    ///
    /// # Panics
    /// Never: steps and notes are plain data.
    pub fn write(&self, path: &Path) -> Result<(), PostprocessError> {
        let value =
            json!({"program": "glioseg", "version": VERSION, "steps": self.steps, "notes": self.notes});
        let mut text = serde_json::to_vec_pretty(&value).expect("plain data");
        text.push(b'\n');
        Ok(atomic::write(path, |file| file.write_all(&text))?)
    }
}

/// The function that nnU-Net v2 knows, and its module.
const KNOWN: &str = "remove_all_but_largest_component_from_segmentation";
const MODULE: &str = "nnunetv2.postprocessing.remove_connected_components";

/// nnU-Net v2's `postprocessing.pkl`: a tuple of functions, of which the names are read, and their arguments.
fn of_pickle(value: &Pickled) -> Result<Value, String> {
    let wrong = || "it is not a tuple of functions and their arguments, as nnU-Net v2 writes it".to_owned();
    let [functions, arguments] = value.as_list().ok_or_else(wrong)? else { return Err(wrong()) };
    let names = functions.as_list().ok_or_else(wrong)?.iter().map(|function| match function {
        Pickled::Foreign(name) | Pickled::Str(name) => {
            Ok(name.strip_prefix(MODULE).map_or(&**name, |rest| rest.trim_start_matches('.')).to_owned())
        }
        _ => Err(wrong()),
    });
    Ok(json!({
        "postprocessing_fns": names.collect::<Result<Vec<_>, _>>()?,
        "postprocessing_kwargs": arguments.to_json(),
    }))
}

/// The bytes of nnU-Net v2's `postprocessing.pkl`, from which `nnUNetv2_apply_postprocessing` works; `kept` is the
/// `labels_or_regions` of every step: a number, or a list of numbers that are joined.
///
/// # Panics
/// Never: labels are plain data.
///
/// # Source
/// nnU-Net v2, `determine_postprocessing`; a tuple is a region to its `region_or_label_to_mask`.
pub fn nnunet_pickle(kept: &[Value]) -> Vec<u8> {
    let argument = |kept: &Value| {
        let labels = match kept {
            Value::Array(labels) => Pickled::Tuple(
                labels.iter().filter_map(Value::as_i64).map(|l| Pickled::Int(l.into())).collect(),
            ),
            label => Pickled::Int(label.as_i64().unwrap_or_default().into()),
        };
        Pickled::Dict(vec![(Pickled::Str("labels_or_regions".into()), labels)])
    };
    let arguments = write_pickle(&Pickled::List(kept.iter().map(argument).collect())).expect("plain data");
    // The arguments without the protocol before them and the stop behind them.
    let (protocol, arguments) = arguments.split_at(2);
    let mut bytes = protocol.to_vec();
    bytes.extend(b"](");
    for _ in kept {
        bytes.extend(format!("c{MODULE}\n{KNOWN}\n").into_bytes());
    }
    bytes.push(b'e');
    bytes.extend(&arguments[..arguments.len() - 1]);
    // A tuple of the two.
    bytes.extend([0x86, b'.']);
    bytes
}

fn own(map: &Map<String, Value>) -> Result<Vec<PostprocessingStep>, String> {
    match map.get("version").and_then(Value::as_u64) {
        Some(VERSION) | None => {}
        Some(other) => {
            return Err(format!("it has version {other}, but this program knows version {VERSION}"));
        }
    }
    let steps: Vec<PostprocessingStep> =
        serde_json::from_value(map["steps"].clone()).map_err(|e| format!("in `steps`: {e}"))?;
    if steps.iter().any(|s| matches!(s, PostprocessingStep::KeepLargest { labels, .. } | PostprocessingStep::ReplaceSmall { labels, .. } if labels.is_empty())) {
        return Err("a step has no labels".into());
    }
    Ok(steps)
}

fn label(value: &Value) -> Result<u16, String> {
    // nnU-Net's writer may leave floats such as 3.0.
    let whole =
        value.as_u64().or_else(|| value.as_f64().filter(|v| v.fract() == 0.0 && *v >= 0.0).map(|v| v as u64));
    whole.and_then(|v| u16::try_from(v).ok()).ok_or_else(|| format!("{value} is not a label"))
}

/// Label values of a number, a list, or a list of lists.
fn union(value: &Value) -> Result<Vec<u16>, String> {
    let mut labels = match value {
        Value::Array(items) => items.iter().map(union).collect::<Result<Vec<_>, _>>()?.concat(),
        _ => vec![label(value)?],
    };
    labels.sort_unstable();
    labels.dedup();
    Ok(labels)
}

/// nnU-Net v2: names of functions, and what each was called with.
fn version2(map: &Map<String, Value>) -> Result<Vec<PostprocessingStep>, String> {
    let list =
        |key: &str| map.get(key).and_then(Value::as_array).ok_or_else(|| format!("`{key}` is not a list"));
    let (functions, arguments) = (list("postprocessing_fns")?, list("postprocessing_kwargs")?);
    if functions.len() != arguments.len() {
        return Err(format!("{} functions, but arguments for {}", functions.len(), arguments.len()));
    }
    let mut steps = Vec::new();
    for (function, arguments) in functions.iter().zip(arguments) {
        if function.as_str() != Some(KNOWN) {
            return Err(format!("the function {function} is not known; known is {KNOWN}"));
        }
        let labels = arguments.get("labels_or_regions").ok_or("a function without `labels_or_regions`")?;
        if arguments.get("background_label").is_some_and(|v| v.as_u64() != Some(0)) {
            return Err("`background_label` is not 0".into());
        }
        steps.push(PostprocessingStep::keep_largest(&union(labels)?));
    }
    Ok(steps)
}

/// nnU-Net v1: classes, or lists of classes that are joined, and the least sizes in mm³ as the text of a Python dict.
fn version1(map: &Map<String, Value>) -> Result<Vec<PostprocessingStep>, String> {
    let classes = match &map["for_which_classes"] {
        Value::Array(classes) => classes.as_slice(),
        Value::Null => &[],
        other => return Err(format!("`for_which_classes` is {other}, not a list")),
    };
    let sizes = match map.get("min_valid_object_sizes") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text == "None" => None,
        Some(Value::String(text)) => Some(python_sizes(text)?),
        Some(other) => return Err(format!("`min_valid_object_sizes` is {other}, not a text")),
    };
    classes
        .iter()
        .map(|class| {
            let labels = union(class)?;
            let small_below_mm3 = match &sizes {
                None => None,
                Some(sizes) => {
                    let size = sizes.iter().find(|(key, _)| *key == labels).map(|(_, size)| *size);
                    Some(size.ok_or_else(|| format!("`min_valid_object_sizes` has no entry for {class}"))?)
                }
            };
            Ok(PostprocessingStep::KeepLargest { labels, neighbours: Neighbours::Faces, small_below_mm3 })
        })
        .collect()
}

/// `{1: 250.0, (1, 2, 3): 1000.0}`.
fn python_sizes(text: &str) -> Result<Vec<(Vec<u16>, f64)>, String> {
    let wrong = || format!("`min_valid_object_sizes` is `{text}`, not a dict of classes and sizes");
    let mut rest = text.trim().strip_prefix('{').and_then(|t| t.strip_suffix('}')).ok_or_else(wrong)?.trim();
    let mut sizes = Vec::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once(':').ok_or_else(wrong)?;
        let (value, later) = after.split_once(',').unwrap_or((after, ""));
        let inner = key.trim().trim_start_matches('(').trim_end_matches(')');
        let labels = inner.split(',').map(str::trim).filter(|v| !v.is_empty());
        let mut labels = labels.map(str::parse).collect::<Result<Vec<u16>, _>>().map_err(|_| wrong())?;
        labels.sort_unstable();
        sizes.push((labels, value.trim().parse().map_err(|_| wrong())?));
        rest = later.trim_start();
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<PostprocessingStep>, String> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(FILE_NAME);
        std::fs::write(&path, text).expect("written");
        Postprocessing::read(&path).map(|p| p.steps).map_err(|e| e.to_string())
    }

    #[test]
    fn what_is_written_is_read_again() {
        let dir = tempfile::tempdir().expect("a folder");
        assert_eq!(Postprocessing::of_model(dir.path()).expect("no file"), None);
        let mut made = Postprocessing::new(vec![
            PostprocessingStep::keep_largest(&[1, 2, 3]),
            PostprocessingStep::ReplaceSmall { labels: vec![3], below_voxels: 200, with: 2 },
        ]);
        made.notes.insert("why".into(), "because".into());
        made.write(&dir.path().join(FILE_NAME)).expect("written");
        assert_eq!(Postprocessing::of_model(dir.path()).expect("readable"), Some(made));
    }

    #[test]
    fn files_of_nnunet_have_the_same_effect() {
        let text = r#"{"input_folder": {"mean": {"1": {"Dice": NaN}}}, "postprocessing_kwargs":
            [{"labels_or_regions": [[1, 2, 3], [2, 3], [3]]}, {"labels_or_regions": [2, 3]}, {"labels_or_regions": 3}],
            "postprocessing_fns": ["remove_all_but_largest_component_from_segmentation",
            "remove_all_but_largest_component_from_segmentation", "remove_all_but_largest_component_from_segmentation"]}"#;
        let expected = [&[1, 2, 3][..], &[2, 3], &[3]].map(PostprocessingStep::keep_largest);
        assert_eq!(read(text).expect("version 2"), expected);
        let v1 = |labels: &[u16], small_below_mm3| PostprocessingStep::KeepLargest {
            labels: labels.to_vec(),
            neighbours: Neighbours::Faces,
            small_below_mm3,
        };
        let text =
            r#"{"for_which_classes": [[1, 2], 2], "min_valid_object_sizes": "None", "num_samples": 2}"#;
        assert_eq!(read(text).expect("version 1"), [v1(&[1, 2], None), v1(&[2], None)]);
        let text = r#"{"for_which_classes": [[1, 2], 2], "min_valid_object_sizes": "{(1, 2): 12.5, 2: 3}"}"#;
        assert_eq!(read(text).expect("sizes"), [v1(&[1, 2], Some(12.5)), v1(&[2], Some(3.0))]);
        assert_eq!(read(r#"{"for_which_classes": []}"#).expect("nothing"), []);
    }

    #[test]
    fn a_pickle_for_nnunet_is_read_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("postprocessing.pkl");
        std::fs::write(&path, nnunet_pickle(&[json!([1, 2, 3]), json!(2), json!([3])])).expect("written");
        let read = Postprocessing::read(&path).expect("readable");
        assert_eq!(read.steps, [&[1, 2, 3][..], &[2], &[3]].map(PostprocessingStep::keep_largest));
        std::fs::write(&path, nnunet_pickle(&[])).expect("written");
        assert_eq!(Postprocessing::read(&path).expect("readable").steps, []);
        let other = glioseg_interop::write_pickle(&Pickled::Int(3)).expect("plain");
        std::fs::write(&path, other).expect("written");
        let error = Postprocessing::read(&path).expect_err("a number").to_string();
        assert!(error.contains("not a tuple of functions"), "{error}");
    }

    #[test]
    fn other_files_are_refused_with_what_they_hold() {
        for (text, part) in [
            ("[]", "it is not a JSON object"),
            (r#"{"labels": 1}"#, "but labels"),
            (r#"{"steps": [{"shrink": {}}]}"#, "unknown variant `shrink`"),
            (r#"{"steps": [], "version": 9}"#, "it has version 9"),
            (
                r#"{"steps": [{"replace_small": {"labels": [], "below_voxels": 3, "with": 1}}]}"#,
                "a step has no labels",
            ),
            (
                r#"{"steps": [{"keep_largest": {"labels": [1], "neighbours": "corners", "connectivity": 6}}]}"#,
                "unknown field `connectivity`",
            ),
            (r#"{"postprocessing_fns": ["os.system"], "postprocessing_kwargs": [{}]}"#, "is not known"),
            (r#"{"for_which_classes": [1], "min_valid_object_sizes": "{2: 3}"}"#, "has no entry for 1"),
            (r#"{"for_which_classes": [1], "min_valid_object_sizes": "{2: x}"}"#, "not a dict"),
            ("{", "is not valid JSON"),
        ] {
            let error = read(text).expect_err(text);
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
