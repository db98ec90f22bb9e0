//! The axes that may be mirrored, in any of the forms that Python programs write them.

use glioseg_interop::{NdArray, TorchFile, Value};

use super::{Checkpoint, Container};
use crate::NetError;

/// nnU-Net's name for them.
const KEY: &str = "inference_allowed_mirroring_axes";

impl Checkpoint {
    /// Axes that may be mirrored at inference, each below `dim`; empty if none may or the file does not tell.
    ///
    /// A list, tuple, set, range, numpy array or tensor of whole numbers is taken, in the order of the file.
    ///
    /// # Errors
    /// [`NetError::MirrorAxes`] if it is something else, or an axis does not exist or stands there twice.
    ///
    /// # Source
    /// nnU-Net v2, `nnUNetPredictor._internal_maybe_mirror_and_predict`, which asserts the same of the largest axis.
    pub fn mirror_axes(&self, dim: usize) -> Result<Vec<usize>, NetError> {
        let refused = |found: String| NetError::MirrorAxes { path: self.path.clone(), found, dim };
        let axes = match &self.container {
            Container::Torch(torch) => read(torch).map_err(|found| refused(found.into()))?,
            Container::Flat(_) => {
                self.metadata.mirror_axes.iter().flatten().map(|&axis| axis as f64).collect()
            }
        };
        let shown = || axes.iter().map(f64::to_string).collect::<Vec<_>>().join(", ");
        let mut out: Vec<usize> = Vec::new();
        for &axis in &axes {
            let known =
                (0..dim).find(|&a| (a as f64 - axis).abs() < f64::EPSILON).filter(|a| !out.contains(a));
            out.push(known.ok_or_else(|| refused(shown()))?);
        }
        Ok(out)
    }
}

/// The axes of a file of PyTorch, where they are whole numbers from 0; `None` where the file does not tell.
pub(super) fn understood(torch: &TorchFile) -> Option<Vec<usize>> {
    torch.value().get(KEY)?;
    let whole = |x: f64| (x >= 0.0 && x.fract() == 0.0 && x < 1e9).then_some(x as usize);
    read(torch).ok()?.into_iter().map(whole).collect()
}

/// The axes as numbers; what was found where they are none.
fn read(torch: &TorchFile) -> Result<Vec<f64>, &'static str> {
    let Some(axes) = torch.value().get(KEY) else { return Ok(vec![]) };
    match axes {
        Value::None => Ok(vec![]),
        Value::List(items) | Value::Tuple(items) | Value::Set(items) => items
            .iter()
            .map(|item| match &numbers(torch, item)?[..] {
                &[number] if is_scalar(item) => Ok(number),
                _ => Err(item.kind()),
            })
            .collect(),
        other if is_scalar(other) => Err(other.kind()),
        other => numbers(torch, other),
    }
}

/// Whether this is one number and not a list of one.
fn is_scalar(value: &Value) -> bool {
    match value {
        Value::Array(array) => array.shape.is_empty(),
        Value::Tensor(tensor) => tensor.shape.is_empty(),
        _ => true,
    }
}

/// The numbers of a scalar, or of an array or tensor of one axis.
fn numbers(torch: &TorchFile, value: &Value) -> Result<Vec<f64>, &'static str> {
    let kind = value.kind();
    match value {
        Value::Int(_) | Value::Float(_) => Ok(value.as_f64().into_iter().collect()),
        Value::Array(array) if array.shape.len() < 2 && !is_bool(array) => array.to_f64().ok_or(kind),
        // At most one entry per axis of an image: anything longer is not a list of axes.
        Value::Tensor(tensor) if tensor.shape.len() < 2 && tensor.count().is_some_and(|n| n <= 8) => {
            let values = torch.read(tensor).map_err(|_| kind)?;
            Ok(values.into_iter().map(f64::from).collect())
        }
        _ => Err(kind),
    }
}

/// Booleans do not number axes.
fn is_bool(array: &NdArray) -> bool {
    array.dtype == glioseg_interop::ArrayType::Bool
}
