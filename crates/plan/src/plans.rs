//! `plans.json`: what the planner decided for a dataset.

use crate::json::{Node, parse_json, read_json};
use crate::{Configuration, ImageReader, PlanError};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The class that turns outputs into label maps; nnU-Net has no other.
const LABEL_MANAGER: &str = "LabelManager";

/// Intensities of a channel inside the foreground of the training set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ForegroundIntensities {
    /// Mean.
    pub mean: f64,
    /// Population standard deviation.
    pub std: f64,
    /// 0.5th percentile.
    pub percentile_00_5: f64,
    /// 99.5th percentile.
    pub percentile_99_5: f64,
    /// Least value.
    pub min: f64,
    /// Greatest value.
    pub max: f64,
    /// Median.
    pub median: f64,
}

/// The reader that plans name. Another reader than those known would give the network other voxels.
fn image_reader(root: &Node<'_>) -> Result<ImageReader, PlanError> {
    let Some(node) = root.opt("image_reader_writer")? else { return Ok(ImageReader::default()) };
    ImageReader::from_name(node.str()?).ok_or_else(|| node.unknown(&ImageReader::NAMES))
}

/// nnU-Net v2's plans for a dataset.
///
/// # Source
/// nnU-Net v2 `plans.json`, `PlansManager`.
#[derive(Debug, Clone, PartialEq)]
pub struct Plans {
    path: PathBuf,
    raw: Value,
    dataset_name: String,
    name: String,
    image_reader: ImageReader,
    transpose_forward: [usize; 3],
    transpose_backward: [usize; 3],
    original_median_spacing: Option<[f64; 3]>,
    original_median_shape: Option<[f64; 3]>,
    foreground_intensities: Vec<ForegroundIntensities>,
    configuration_names: Vec<String>,
}

impl Plans {
    /// Reads `plans.json`.
    ///
    /// # Errors
    /// Any [`PlanError`] that names the file and the key. Configurations are only checked by [`Plans::configuration`].
    pub fn read(path: &Path) -> Result<Plans, PlanError> {
        Plans::from_value(read_json(path)?, path)
    }

    /// Reads the text of a `plans.json`; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Plans::read`].
    pub fn parse(text: &[u8], path: &Path) -> Result<Plans, PlanError> {
        Plans::from_value(parse_json(text, path)?, path)
    }

    /// Checks parsed JSON; `path` is only named in errors.
    ///
    /// # Errors
    /// As [`Plans::read`].
    pub fn from_value(raw: Value, path: &Path) -> Result<Plans, PlanError> {
        let root = Node::root(path, &raw);
        let text = |key: &str| root.opt(key)?.map_or(Ok(String::new()), |n| n.str().map(str::to_owned));
        let forward = root.get("transpose_forward")?;
        let transpose_forward = permutation(&forward)?;
        let backward = root.get("transpose_backward")?;
        let transpose_backward = permutation(&backward)?;
        if (0..3).any(|a| transpose_forward[transpose_backward[a]] != a) {
            return Err(
                backward.wrong(format!("the inverse of `transpose_forward`, which is {transpose_forward:?}"))
            );
        }
        let triple = |key: &str| root.opt(key)?.map(|n| triple(&n)).transpose();
        let intensities = match root.opt("foreground_intensity_properties_per_channel")? {
            Some(node) => Some(node),
            None => root.opt("foreground_intensity_properties_by_modality")?,
        };
        let configurations = root.get("configurations")?;
        let mut plans = Plans {
            path: path.to_owned(),
            dataset_name: text("dataset_name")?,
            name: text("plans_name")?,
            image_reader: image_reader(&root)?,
            transpose_forward,
            transpose_backward,
            original_median_spacing: triple("original_median_spacing_after_transp")?,
            original_median_shape: triple("original_median_shape_after_transp")?,
            foreground_intensities: intensities.map_or(Ok(Vec::new()), |n| foreground_intensities(&n))?,
            configuration_names: configurations.map()?.keys().cloned().collect(),
            raw: Value::Null,
        };
        plans.raw = raw;
        Ok(plans)
    }

    /// The file the plans came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole file, with the keys that have no meaning here.
    pub fn raw(&self) -> &Value {
        &self.raw
    }

    /// Name of the dataset, such as `Dataset137_BraTS2021`; empty where the file has none.
    pub fn dataset_name(&self) -> &str {
        &self.dataset_name
    }

    /// Name of the plans, such as `nnUNetPlans`; empty where the file has none.
    pub fn plans_name(&self) -> &str {
        &self.name
    }

    /// How images are read; as they are stored where the file does not say.
    pub fn image_reader(&self) -> ImageReader {
        self.image_reader
    }

    /// For every axis of the transposed array the axis `[z, y, x]` of the image it comes from.
    pub fn transpose_forward(&self) -> [usize; 3] {
        self.transpose_forward
    }

    /// The inverse of [`Plans::transpose_forward`].
    pub fn transpose_backward(&self) -> [usize; 3] {
        self.transpose_backward
    }

    /// Median spacing of the training images in mm, transposed.
    pub fn original_median_spacing(&self) -> Option<[f64; 3]> {
        self.original_median_spacing
    }

    /// Median voxels of the cropped training images, transposed.
    pub fn original_median_shape(&self) -> Option<[f64; 3]> {
        self.original_median_shape
    }

    /// Foreground statistics of every channel; empty where the file has none.
    pub fn foreground_intensities(&self) -> &[ForegroundIntensities] {
        &self.foreground_intensities
    }

    /// Names of the configurations, in file order.
    pub fn configuration_names(&self) -> &[String] {
        &self.configuration_names
    }

    /// A configuration with `inherits_from` resolved, checked.
    ///
    /// # Errors
    /// [`PlanError::UnknownConfiguration`], [`PlanError::InheritanceCycle`], or the error of the first wrong key.
    pub fn configuration(&self, name: &str) -> Result<Configuration, PlanError> {
        let root = Node::root(&self.path, &self.raw);
        if let Some(manager) = root.opt("label_manager")?
            && manager.str()? != LABEL_MANAGER
        {
            return Err(manager.unknown(&[LABEL_MANAGER]));
        }
        let value = Value::Object(self.resolve(name, &mut Vec::new())?);
        let node = Node::at(&self.path, format!("configurations.{name}"), &value);
        Configuration::from_node(&node, name, &self.name)
    }

    /// The keys of a configuration and of those it inherits from; its own win.
    fn resolve(&self, name: &str, chain: &mut Vec<String>) -> Result<Map<String, Value>, PlanError> {
        let again = chain.iter().any(|n| n == name);
        chain.push(name.to_owned());
        if again {
            return Err(PlanError::InheritanceCycle {
                path: self.path.clone(),
                chain: std::mem::take(chain),
            });
        }
        let Some(value) = self.raw.get("configurations").and_then(|c| c.get(name)) else {
            return Err(PlanError::UnknownConfiguration {
                path: self.path.clone(),
                name: name.to_owned(),
                known: self.configuration_names.clone(),
            });
        };
        let node = Node::at(&self.path, format!("configurations.{name}"), value);
        let own = node.map()?;
        let Some(parent) = node.opt("inherits_from")? else { return Ok(own.clone()) };
        let mut merged = match self.resolve(parent.str()?, chain) {
            // The name came from the file, not from the user: say where it stands.
            Err(PlanError::UnknownConfiguration { name: missing, .. })
                if Some(missing.as_str()) == parent.value().as_str() =>
            {
                let known: Vec<&str> = self.configuration_names.iter().map(String::as_str).collect();
                return Err(parent.unknown(&known));
            }
            merged => merged?,
        };
        for (key, value) in own {
            merged.insert(key.clone(), value.clone());
        }
        Ok(merged)
    }
}

fn permutation(node: &Node<'_>) -> Result<[usize; 3], PlanError> {
    let expected = || node.wrong("a permutation of [0, 1, 2]");
    let axes = node.list()?.iter().map(Node::usize).collect::<Result<Vec<_>, _>>().map_err(|_| expected())?;
    let axes = <[usize; 3]>::try_from(axes).map_err(|_| expected())?;
    if (0..3).all(|a| axes.contains(&a)) { Ok(axes) } else { Err(expected()) }
}

fn triple(node: &Node<'_>) -> Result<[f64; 3], PlanError> {
    let numbers = node.list()?.iter().map(Node::f64).collect::<Result<Vec<_>, _>>()?;
    <[f64; 3]>::try_from(numbers).map_err(|_| node.wrong("a list of 3 numbers"))
}

pub(crate) fn foreground_intensities(node: &Node<'_>) -> Result<Vec<ForegroundIntensities>, PlanError> {
    let channels = node.map()?.len();
    (0..channels)
        .map(|c| {
            let channel = node.get(&c.to_string())?;
            let number = |key: &str| channel.get(key)?.f64();
            // Nothing is computed from these.
            let unused = |key: &str| channel.opt(key)?.map_or(Ok(f64::NAN), |n| n.f64());
            Ok(ForegroundIntensities {
                mean: number("mean")?,
                std: number("std")?,
                percentile_00_5: number("percentile_00_5")?,
                percentile_99_5: number("percentile_99_5")?,
                min: unused("min")?,
                max: unused("max")?,
                median: unused("median")?,
            })
        })
        .collect()
}
