//! Which tensor of a file belongs to which parameter.
//!
//! The names are nnU-Net's, in nnU-Net's order. A checkpoint of nnU-Net holds most tensors under several names
//! (`all_modules.0` next to `conv`, the whole encoder again under `decoder.encoder`); such names are checked and
//! otherwise ignored. Nothing of a network is changed before every tensor of the file has been checked.

use std::collections::{HashMap, HashSet};

use crate::NetError;
use crate::checkpoint::{COUNTER, Checkpoint};
use crate::error::Mismatch;
use crate::optimiser::Optimiser;
use crate::parameters::Parameters;
use crate::shapes::ParameterId;
use crate::spec::Naming;

impl Parameters {
    /// Takes the weights of a checkpoint.
    ///
    /// Prefixes `module.` and `_orig_mod.`, which wrappers leave behind, do not matter.
    ///
    /// # Errors
    /// [`NetError::Mismatch`] if a tensor is missing, surplus or of another shape; then nothing was changed. What
    /// [`Checkpoint::read`] says if the values cannot be read.
    pub fn load_checkpoint(&mut self, checkpoint: &Checkpoint) -> Result<(), NetError> {
        self.load(checkpoint, false)
    }

    /// [`Self::load_checkpoint`], with position embeddings interpolated linearly where the network has them for another size.
    ///
    /// # Errors
    /// As [`Self::load_checkpoint`].
    pub fn load_interpolating_positions(&mut self, checkpoint: &Checkpoint) -> Result<(), NetError> {
        self.load(checkpoint, true)
    }

    fn load(&mut self, checkpoint: &Checkpoint, interpolate: bool) -> Result<(), NetError> {
        let shapes = self.shapes().clone();
        let index: HashMap<String, usize> =
            shapes.iter().enumerate().map(|(i, s)| (s.name.clone(), i)).collect();
        let mut sources: Vec<Option<&str>> = vec![None; shapes.len()];
        let mut aliases = vec![];
        let mut differences = vec![];
        let mut differing = HashSet::new();
        for tensor in checkpoint.tensors() {
            let name = strip_wrappers(tensor.name);
            if name.ends_with(COUNTER) {
                continue;
            }
            let own = own_name(name, |leaf| checkpoint.has(&tensor.name.replace(".weight", leaf)));
            let Some(&i) = index.get(&own) else {
                differences
                    .push(Mismatch::Surplus { name: tensor.name.to_owned(), found: tensor.shape.to_vec() });
                continue;
            };
            let expected = shapes[i].shape.clone();
            let resizable = interpolate && is_position(&own) && same_but_length(tensor.shape, &expected);
            if tensor.shape != expected && !resizable && differing.insert(own.clone()) {
                let (name, found) = (tensor.name.to_owned(), tensor.shape.to_vec());
                differences.push(Mismatch::Shape { name, found, expected });
            }
            if own == name {
                sources[i] = Some(tensor.name);
            } else {
                aliases.push((i, tensor.name));
            }
        }
        for &(i, alias) in &aliases {
            sources[i].get_or_insert(alias);
        }
        for (shape, source) in shapes.iter().zip(&sources) {
            if source.is_none() {
                let (name, expected) = (shape.name.clone(), shape.shape.clone());
                differences.push(Mismatch::Missing { name, expected });
            }
        }
        // The first difference shown is the most telling one: a shape, since names follow from it.
        differences.sort_by_key(|d| match d {
            Mismatch::Shape { .. } => 0,
            Mismatch::Missing { .. } | Mismatch::Positions { .. } => 1,
            Mismatch::Surplus { .. } | Mismatch::Alias { .. } => 2,
        });
        if !differences.is_empty() {
            return Err(mismatch(checkpoint, differences));
        }
        let sources: Vec<&str> = sources.into_iter().flatten().collect();
        for &(i, alias) in &aliases {
            if alias != sources[i]
                && !checkpoint.same_place(alias, sources[i])
                && checkpoint.read(alias)? != checkpoint.read(sources[i])?
            {
                let (alias, name) = (alias.to_owned(), sources[i].to_owned());
                return Err(mismatch(checkpoint, vec![Mismatch::Alias { alias, name }]));
            }
        }
        for (i, source) in sources.into_iter().enumerate() {
            self.take(i, checkpoint, source)?;
        }
        Ok(())
    }
}

impl Parameters {
    /// Reads a tensor into its place; position embeddings of another length are interpolated.
    fn take(&mut self, i: usize, checkpoint: &Checkpoint, source: &str) -> Result<(), NetError> {
        let (values, wanted) = (checkpoint.read(source)?, &self.shapes()[i]);
        let (rows, count) = (wanted.shape.get(1).copied().unwrap_or(1), wanted.len());
        let fits = values.len() == count;
        self.set(ParameterId(i), if fits { values } else { resize(&values, rows, count / rows) });
        Ok(())
    }

    /// Takes the weights of another training but for the heads, as a beginning. Returns the names of the tensors that
    /// keep what they have.
    ///
    /// Version 2: all tensors but those of the heads must be there. Version 1: so must those of the blocks, and of the
    /// others, heads too, those are taken that fit.
    ///
    /// # Errors
    /// [`NetError::Mismatch`] if a tensor that must be there is missing or of another shape, or position embeddings are for
    /// another size and `interpolate` is not set; then nothing was changed.
    ///
    /// # Source
    /// nnU-Net v2 and v1, `load_pretrained_weights` (which leaves position embeddings of another size random without a word).
    pub fn load_pretrained(
        &mut self,
        checkpoint: &Checkpoint,
        interpolate: bool,
    ) -> Result<Vec<String>, NetError> {
        let naming = self.naming();
        let found: HashMap<String, (&str, &[usize])> =
            checkpoint.tensors().map(|t| (strip_wrappers(t.name).to_owned(), (t.name, t.shape))).collect();
        let shapes = self.shapes().clone();
        let (mut sources, mut kept, mut differences) = (vec![], vec![], vec![]);
        for (i, shape) in shapes.iter().enumerate() {
            let (name, expected) = (shape.name.clone(), shape.shape.clone());
            let (needed, may) = match naming {
                Naming::V2 => (!name.contains(".seg_layers."), !name.contains(".seg_layers.")),
                Naming::V1 => (name.contains("conv_blocks"), true),
            };
            let position = is_position(&name);
            match found.get(&name) {
                Some((source, shape)) if may && *shape == expected => sources.push((i, *source)),
                Some((source, shape)) if position && same_but_length(shape, &expected) => {
                    if interpolate {
                        sources.push((i, *source));
                    } else {
                        differences.push(Mismatch::Positions { name, found: shape.to_vec(), expected });
                    }
                }
                None if needed => differences.push(Mismatch::Missing { name, expected }),
                Some((_, shape)) if needed => {
                    differences.push(Mismatch::Shape { name, found: shape.to_vec(), expected });
                }
                _ => kept.push(name),
            }
        }
        if !differences.is_empty() {
            return Err(mismatch(checkpoint, differences));
        }
        for (i, source) in sources {
            self.take(i, checkpoint, source)?;
        }
        Ok(kept)
    }
}

/// Whether this is the name of a position embedding.
fn is_position(name: &str) -> bool {
    name.rsplit_once(".params.").is_some_and(|(_, axis)| axis.len() == 1)
}

/// Whether two position embeddings differ in nothing but the length of their axis.
fn same_but_length(found: &[usize], expected: &[usize]) -> bool {
    found.len() == 5
        && expected.len() == 5
        && found[..2] == expected[..2]
        && (2..5).all(|a| found[a] > 0 && (found[a] == expected[a] || expected[a] > 1))
}

/// Rows interpolated linearly to another length, half a voxel from either end as images are.
fn resize(values: &[f32], rows: usize, length: usize) -> Vec<f32> {
    let from = values.len() / rows.max(1);
    let mut out = Vec::with_capacity(rows * length);
    for row in values.chunks_exact(from.max(1)) {
        for i in 0..length {
            let at = ((i as f64 + 0.5) * from as f64 / length as f64 - 0.5).clamp(0.0, (from - 1) as f64);
            let (low, share) = (at.floor() as usize, at.fract() as f32);
            let high = (low + 1).min(from - 1);
            out.push(row[low] * (1.0 - share) + row[high] * share);
        }
    }
    out
}

fn mismatch(checkpoint: &Checkpoint, mut differences: Vec<Mismatch>) -> NetError {
    let others = differences.len() - 1;
    NetError::Mismatch {
        path: checkpoint.path().to_owned(),
        first: Box::new(differences.swap_remove(0)),
        others,
        origin: checkpoint.origin(),
    }
}

/// The name without what `DistributedDataParallel` and `torch.compile` put before it.
fn strip_wrappers(mut name: &str) -> &str {
    while let Some(rest) = name.strip_prefix("module.").or_else(|| name.strip_prefix("_orig_mod.")) {
        name = rest;
    }
    name
}

/// The tensor's own name, where this one is nnU-Net's second name for it; `has` tells whether the file has the same module's
/// tensor with this end in place of `.weight`.
fn own_name(name: &str, has: impl Fn(&str) -> bool) -> String {
    let name = name
        .strip_prefix("decoder.encoder.")
        .map_or_else(|| name.to_owned(), |rest| format!("encoder.{rest}"));
    // Newer versions of axial-attention call an embedding `param_0` instead of `params.0`.
    if let Some((prefix, axis)) = name.rsplit_once(".param_") {
        return format!("{prefix}.params.{axis}");
    }
    let Some((prefix, rest)) = name.split_once(".all_modules.") else { return name };
    match rest.split_once('.') {
        // 0 is the convolution. The norm and a PReLU are the other modules with tensors, in either order; a norm that has
        // factors has offsets too.
        Some(("0", leaf)) => format!("{prefix}.conv.{leaf}"),
        Some((_, "weight")) if !has(".bias") => format!("{prefix}.nonlin.weight"),
        Some((index, leaf)) if index.parse::<u8>().is_ok_and(|i| i <= 3) => format!("{prefix}.norm.{leaf}"),
        _ => name,
    }
}

impl Optimiser {
    /// Takes the state from a checkpoint.
    ///
    /// # Errors
    /// [`NetError::Damaged`] if the checkpoint does not hold all of it.
    pub fn restore(&mut self, checkpoint: &Checkpoint, steps: &[u64]) -> Result<(), NetError> {
        let (found, expected) = (steps.len(), self.steps().len());
        if found != expected {
            let what = format!("steps of {found} parameters instead of {expected}");
            return Err(NetError::Damaged { path: checkpoint.path().to_owned(), what });
        }
        self.set_state(steps, |name| checkpoint.read_state(name))
    }
}
