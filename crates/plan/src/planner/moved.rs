//! Plans of one dataset for another: what a network is to be fine-tuned with.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{save, write_beside};
use crate::{PlanError, Plans, RawDataset};

/// Plans of another dataset, made fit for this one.
#[derive(Debug, Clone, PartialEq)]
pub struct MovedPlans {
    /// The plans, in nnU-Net's form.
    pub json: Value,
    /// Their name.
    pub name: String,
}

impl MovedPlans {
    /// Takes over the plans of another dataset; `source_name` is what they are called there, `name` what they are called here.
    ///
    /// Dataset, reader and name change. With another name, so do the folders of prepared cases: what stood before the name's rest
    /// stays apart. Everything else (patch, spacing, network, normalisation and its intensities, axes) is kept, so that weights fit.
    ///
    /// # Errors
    /// [`PlanError`] if the result is not valid.
    ///
    /// # Source
    /// nnU-Net v2, `move_plans_between_datasets`.
    pub fn new(
        source: &Plans,
        source_name: &str,
        dataset: &RawDataset,
        name: &str,
    ) -> Result<Self, PlanError> {
        let mut json = source.raw().clone();
        if name != source_name
            && let Some(configurations) = json.get_mut("configurations").and_then(Value::as_object_mut)
        {
            for configuration in configurations.values_mut() {
                let Some(Value::String(identifier)) = configuration.get_mut("data_identifier") else {
                    continue;
                };
                *identifier = match identifier.strip_prefix(source_name) {
                    Some(rest) => format!("{name}{rest}"),
                    None => format!("{name}_{identifier}"),
                };
            }
        }
        json["dataset_name"] = json!(dataset.name);
        json["image_reader_writer"] = json!(dataset.description.image_reader().name());
        json["plans_name"] = json!(name);
        Plans::from_value(json.clone(), source.path())?;
        Ok(Self { json, name: name.to_owned() })
    }

    /// Writes `NAME.json`, and `dataset.json` and `splits_final.json` as [`Planned::write`](super::Planned::write) does.
    ///
    /// # Errors
    /// [`PlanError::PlansExist`] where other plans of this name are; errors of writing.
    pub fn write(&self, dataset: &RawDataset, folder: &Path) -> Result<PathBuf, PlanError> {
        let path = folder.join(format!("{}.json", self.name));
        if path.exists() && crate::read_json(&path)? != self.json {
            return Err(PlanError::PlansExist { path, name: self.name.clone() });
        }
        write_beside(dataset, folder)?;
        save(&path, &self.json)?;
        Ok(path)
    }
}
