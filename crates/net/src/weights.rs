//! Which tensor of a file belongs to which parameter.
//!
//! The names are nnU-Net's, in nnU-Net's order. A checkpoint of nnU-Net holds most tensors under several names
//! (`all_modules.0` beside `conv`, the whole encoder again under `decoder.encoder`); such names are checked and
//! otherwise ignored. Nothing of a network is changed before every tensor of the file has been checked.

use std::collections::{HashMap, HashSet};

use burn::module::{Param, RunningState};
use burn::tensor::{Gradients, Tensor, TensorData};

use crate::NetError;
use crate::attention::{Attention, AxisAttention};
use crate::checkpoint::Checkpoint;
use crate::error::Mismatch;
use crate::ops::Norm;
use crate::spec::{Dims, Naming};
use crate::unet::{Conv, ConvBlock, Step, Unet, UpConv};

/// A parameter or buffer with its name in a file.
pub(crate) struct Slot<'a> {
    pub(crate) name: String,
    param: Place<'a>,
    dims: Dims,
}

enum Place<'a> {
    Kernel(&'a mut Param<Tensor<5>>),
    Matrix(&'a mut Param<Tensor<2>>),
    Vector(&'a mut Param<Tensor<1>>),
    Running(&'a mut RunningState<Tensor<1>>),
}

impl Slot<'_> {
    /// Shape as it stands in a file: kernels of 2D networks have no depth axis.
    pub(crate) fn shape(&self) -> Vec<usize> {
        match &self.param {
            Place::Kernel(p) => {
                let mut shape = p.lazy_shape().to_vec();
                if self.dims == Dims::Two {
                    shape.remove(2);
                }
                shape
            }
            Place::Matrix(p) => p.lazy_shape().to_vec(),
            Place::Vector(p) => p.lazy_shape().to_vec(),
            Place::Running(state) => state.value().shape().to_vec(),
        }
    }

    /// A buffer is not trained.
    pub(crate) fn is_buffer(&self) -> bool {
        matches!(self.param, Place::Running(_))
    }

    /// The values, flat.
    pub(crate) fn data(&self) -> TensorData {
        match &self.param {
            Place::Kernel(p) => p.val().into_data(),
            Place::Matrix(p) => p.val().into_data(),
            Place::Vector(p) => p.val().into_data(),
            Place::Running(state) => state.value_sync().into_data(),
        }
    }

    /// The values, flat, as f32.
    pub(crate) fn values(&self) -> Vec<f32> {
        self.data().convert::<f32>().try_into_vec().expect("converted to f32")
    }

    fn gradient(&self, gradients: &Gradients) -> Option<Vec<f32>> {
        let data = match &self.param {
            Place::Kernel(p) => p.val().grad(gradients)?.into_data(),
            Place::Matrix(p) => p.val().grad(gradients)?.into_data(),
            Place::Vector(p) => p.val().grad(gradients)?.into_data(),
            Place::Running(_) => return None,
        };
        Some(data.convert::<f32>().try_into_vec().expect("converted to f32"))
    }

    /// The gradient, which leaves `gradients`.
    pub(crate) fn take_gradient(&self, gradients: &mut Gradients) -> Option<Vec<f32>> {
        let data = match &self.param {
            Place::Kernel(p) => p.val().grad_remove(gradients)?.into_data(),
            Place::Matrix(p) => p.val().grad_remove(gradients)?.into_data(),
            Place::Vector(p) => p.val().grad_remove(gradients)?.into_data(),
            Place::Running(_) => return None,
        };
        Some(data.convert::<f32>().try_into_vec().expect("converted to f32"))
    }

    /// Changes the values, in their own memory where nobody else holds it.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut [f32])) {
        fn take<const D: usize>(param: &mut Param<Tensor<D>>) -> TensorData {
            let empty = Tensor::empty([0; D], &param.lazy_device());
            let empty = Param::initialized(param.id, empty);
            std::mem::replace(param, empty).into_value().inner().into_data()
        }
        fn put<const D: usize>(param: &mut Param<Tensor<D>>, data: TensorData) {
            let tensor = Tensor::from_data(data, &param.lazy_device());
            *param = Param::initialized(param.id, tensor).set_require_grad(true);
        }
        let shape = match &self.param {
            Place::Kernel(p) => p.lazy_shape(),
            Place::Matrix(p) => p.lazy_shape(),
            Place::Vector(p) => p.lazy_shape(),
            Place::Running(state) => state.value().shape(),
        };
        let data = match &mut self.param {
            Place::Kernel(p) => take(p),
            Place::Matrix(p) => take(p),
            Place::Vector(p) => take(p),
            Place::Running(_) => self.data(),
        };
        let mut values: Vec<f32> = data.convert::<f32>().try_into_vec().expect("converted to f32");
        change(&mut values);
        let data = TensorData::new(values, shape);
        match &mut self.param {
            Place::Kernel(p) => put(p, data),
            Place::Matrix(p) => put(p, data),
            Place::Vector(p) => put(p, data),
            Place::Running(state) => {
                let device = state.value().device();
                **state = RunningState::new(Tensor::from_data(data, &device));
            }
        }
    }

    /// Replaces the values; there are as many as the shape says.
    fn set(&mut self, values: Vec<f32>) {
        fn param<const D: usize>(param: &mut Param<Tensor<D>>, values: Vec<f32>) {
            let data = TensorData::new(values, param.lazy_shape());
            let tensor = Tensor::from_data(data, &param.lazy_device());
            *param = Param::initialized(param.id, tensor).set_require_grad(true);
        }
        match &mut self.param {
            Place::Kernel(p) => param(p, values),
            Place::Matrix(p) => param(p, values),
            Place::Vector(p) => param(p, values),
            Place::Running(state) => {
                let old = state.value();
                let data = TensorData::new(values, old.shape());
                **state = RunningState::new(Tensor::from_data(data, &old.device()));
            }
        }
    }
}

impl Unet {
    /// Every parameter and buffer with its name, in the order in which PyTorch registers them.
    pub(crate) fn slots(&mut self) -> Vec<Slot<'_>> {
        let spec = self.spec().clone();
        let names = Names { naming: spec.naming, stages: spec.encoder.len() };
        let mut encoder = Collector::new(spec.dims, spec.naming);
        if let Some(stem) = &mut self.stem {
            encoder.block("encoder.stem.convs.0", stem);
        }
        let (mut down, mut downs) = (encoder.empty(), 0);
        for (s, stage) in self.encoder.iter_mut().enumerate() {
            let count = stage.plain.len();
            for (c, block) in stage.plain.iter_mut().enumerate() {
                encoder.block(&names.encoder(s, c, count), block);
            }
            for (b, block) in stage.residual.iter_mut().enumerate() {
                let prefix = format!("encoder.stages.{s}.blocks.{b}");
                encoder.block(&format!("{prefix}.conv1"), &mut block.conv1);
                encoder.block(&format!("{prefix}.conv2"), &mut block.conv2);
                let index = usize::from(block.pool.is_some());
                if let Some(projection) = &mut block.projection {
                    encoder.block(&format!("{prefix}.skip.{index}"), projection);
                }
            }
            if let Some(attention) = &mut stage.attention {
                down.unit(&format!("axial_attention_down.{downs}"), attention);
                downs += 1;
            }
        }
        let (mut steps, mut ups, mut heads) = (encoder.empty(), encoder.empty(), encoder.empty());
        let (mut embeddings, mut attentions, mut count_up) = (encoder.empty(), encoder.empty(), 0);
        for (j, Step { up, attention, convs, head }) in self.decoder.iter_mut().enumerate() {
            if let Some(attention) = attention {
                // Alone, or with a norm behind it: two classes, two ways to name.
                if attention.norm.is_some() {
                    attentions.unit(&format!("axial_attention_up.{count_up}"), attention);
                } else {
                    let Attention { positions, axes, .. } = attention;
                    embeddings.positions(&format!("axial_embedding.{count_up}"), positions);
                    attentions.axes(&format!("axial_attention.{count_up}"), axes);
                }
                count_up += 1;
            }
            let count = convs.len();
            for (c, block) in convs.iter_mut().enumerate() {
                steps.block(&names.decoder(j, c, count), block);
            }
            ups.up(&names.up(j), up);
            heads.conv(&names.head(j), head);
        }
        let parts = match spec.naming {
            Naming::V2 => vec![encoder, steps, ups, heads],
            Naming::V1 => vec![steps, encoder, ups, heads, down, embeddings, attentions],
        };
        parts.into_iter().flat_map(|p| p.slots).collect()
    }

    /// Names and shapes of all tensors as they stand in a file, in nnU-Net's order.
    pub fn tensor_names(&self) -> Vec<(String, Vec<usize>)> {
        self.clone().slots().iter().map(|s| (s.name.clone(), s.shape())).collect()
    }

    /// All tensors with their values, in nnU-Net's order.
    pub fn export(&self) -> Vec<(String, Vec<f32>)> {
        self.clone().slots().iter().map(|s| (s.name.clone(), s.values())).collect()
    }

    /// The gradient of every parameter, `None` where it had no influence on the loss.
    pub fn gradients(&self, gradients: &Gradients) -> Vec<(String, Option<Vec<f32>>)> {
        let mut net = self.clone();
        let slots = net.slots();
        slots.iter().filter(|s| !s.is_buffer()).map(|s| (s.name.clone(), s.gradient(gradients))).collect()
    }

    /// Takes the weights of a checkpoint.
    ///
    /// Prefixes `module.` and `_orig_mod.`, which wrappers leave behind, do not matter.
    ///
    /// # Errors
    /// [`NetError::Mismatch`] if a tensor is missing, surplus or of another shape; then nothing was changed. What
    /// [`Checkpoint::read`] says if the values cannot be read.
    pub fn load_weights(&mut self, checkpoint: &Checkpoint) -> Result<(), NetError> {
        self.load(checkpoint, false)
    }

    /// [`Self::load_weights`], with position embeddings interpolated linearly where the network has them for another size.
    ///
    /// # Errors
    /// As [`Self::load_weights`].
    pub fn load_weights_interpolating_positions(&mut self, checkpoint: &Checkpoint) -> Result<(), NetError> {
        self.load(checkpoint, true)
    }

    fn load(&mut self, checkpoint: &Checkpoint, interpolate: bool) -> Result<(), NetError> {
        let mut slots = self.slots();
        let index: HashMap<String, usize> =
            slots.iter().enumerate().map(|(i, s)| (s.name.clone(), i)).collect();
        let mut sources: Vec<Option<&str>> = vec![None; slots.len()];
        let mut aliases = vec![];
        let mut differences = vec![];
        let mut differing = HashSet::new();
        for tensor in checkpoint.tensors() {
            let name = strip_wrappers(tensor.name);
            if name.ends_with(".num_batches_tracked") {
                continue;
            }
            let own = own_name(name);
            let Some(&i) = index.get(&own) else {
                differences
                    .push(Mismatch::Surplus { name: tensor.name.to_owned(), found: tensor.shape.to_vec() });
                continue;
            };
            let expected = slots[i].shape();
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
        for (slot, source) in slots.iter().zip(&sources) {
            if source.is_none() {
                differences.push(Mismatch::Missing { name: slot.name.clone(), expected: slot.shape() });
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
        for (slot, source) in slots.iter_mut().zip(sources) {
            take(slot, checkpoint, source)?;
        }
        Ok(())
    }
}

/// Reads a tensor into its place; position embeddings of another length are interpolated.
fn take(slot: &mut Slot<'_>, checkpoint: &Checkpoint, source: &str) -> Result<(), NetError> {
    let (values, wanted) = (checkpoint.read(source)?, slot.shape());
    let count = wanted.iter().product::<usize>();
    slot.set(if values.len() == count { values } else { resize(&values, wanted[1], count / wanted[1]) });
    Ok(())
}

impl Unet {
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
        let naming = self.spec().naming;
        let found: HashMap<String, (&str, &[usize])> =
            checkpoint.tensors().map(|t| (strip_wrappers(t.name).to_owned(), (t.name, t.shape))).collect();
        let mut slots = self.slots();
        let (mut sources, mut kept, mut differences) = (vec![], vec![], vec![]);
        for (i, slot) in slots.iter().enumerate() {
            let (name, expected) = (slot.name.clone(), slot.shape());
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
            take(&mut slots[i], checkpoint, source)?;
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

/// The tensor's own name, where this one is nnU-Net's second name for it.
fn own_name(name: &str) -> String {
    let name = name
        .strip_prefix("decoder.encoder.")
        .map_or_else(|| name.to_owned(), |rest| format!("encoder.{rest}"));
    // Newer versions of axial-attention call an embedding `param_0` instead of `params.0`.
    if let Some((prefix, axis)) = name.rsplit_once(".param_") {
        return format!("{prefix}.params.{axis}");
    }
    let Some((prefix, rest)) = name.split_once(".all_modules.") else { return name };
    match rest.split_once('.') {
        // 0 is the convolution; the norm is the only other module with tensors, behind dropout or activation.
        Some(("0", leaf)) => format!("{prefix}.conv.{leaf}"),
        Some((index, leaf)) if index.parse::<u8>().is_ok_and(|i| i <= 3) => format!("{prefix}.norm.{leaf}"),
        _ => name,
    }
}

/// Names of the layers.
struct Names {
    naming: Naming,
    stages: usize,
}

impl Names {
    fn encoder(&self, stage: usize, conv: usize, count: usize) -> String {
        match self.naming {
            Naming::V2 => format!("encoder.stages.{stage}.0.convs.{conv}"),
            Naming::V1 if stage + 1 < self.stages => format!("conv_blocks_context.{stage}.blocks.{conv}"),
            Naming::V1 => format!("conv_blocks_context.{stage}.{}", in_two(conv, count)),
        }
    }

    fn decoder(&self, step: usize, conv: usize, count: usize) -> String {
        match self.naming {
            Naming::V2 => format!("decoder.stages.{step}.convs.{conv}"),
            Naming::V1 => format!("conv_blocks_localization.{step}.{}", in_two(conv, count)),
        }
    }

    fn up(&self, step: usize) -> String {
        match self.naming {
            Naming::V2 => format!("decoder.transpconvs.{step}"),
            Naming::V1 => format!("tu.{step}"),
        }
    }

    fn head(&self, step: usize) -> String {
        match self.naming {
            Naming::V2 => format!("decoder.seg_layers.{step}"),
            Naming::V1 => format!("seg_outputs.{step}"),
        }
    }
}

/// Version 1 keeps all convolutions but the last in one group and the last in a second one.
fn in_two(conv: usize, count: usize) -> String {
    if conv + 1 < count { format!("0.blocks.{conv}") } else { "1.blocks.0".into() }
}

/// Gathers slots under growing names.
struct Collector<'a> {
    dims: Dims,
    norm: &'static str,
    slots: Vec<Slot<'a>>,
}

impl<'a> Collector<'a> {
    fn new(dims: Dims, naming: Naming) -> Self {
        let norm = match naming {
            Naming::V2 => "norm",
            Naming::V1 => "instnorm",
        };
        Self { dims, norm, slots: vec![] }
    }

    fn empty<'b>(&self) -> Collector<'b> {
        Collector { dims: self.dims, norm: self.norm, slots: vec![] }
    }

    fn add(&mut self, name: String, param: Place<'a>) {
        self.slots.push(Slot { name, param, dims: self.dims });
    }

    fn conv(&mut self, prefix: &str, conv: &'a mut Conv) {
        self.add(format!("{prefix}.weight"), Place::Kernel(&mut conv.weight));
        if let Some(bias) = &mut conv.bias {
            self.add(format!("{prefix}.bias"), Place::Vector(bias));
        }
    }

    fn up(&mut self, prefix: &str, up: &'a mut UpConv) {
        self.add(format!("{prefix}.weight"), Place::Kernel(&mut up.weight));
        if let Some(bias) = &mut up.bias {
            self.add(format!("{prefix}.bias"), Place::Vector(bias));
        }
    }

    fn positions(&mut self, prefix: &str, positions: &'a mut [Param<Tensor<5>>]) {
        for (axis, position) in positions.iter_mut().enumerate() {
            self.add(format!("{prefix}.params.{axis}"), Place::Kernel(position));
        }
    }

    fn axes(&mut self, prefix: &str, axes: &'a mut [AxisAttention]) {
        for (axis, AxisAttention { q, kv, out, bias }) in axes.iter_mut().enumerate() {
            let prefix = format!("{prefix}.axial_attentions.{axis}.fn");
            self.add(format!("{prefix}.to_q.weight"), Place::Matrix(q));
            self.add(format!("{prefix}.to_kv.weight"), Place::Matrix(kv));
            self.add(format!("{prefix}.to_out.weight"), Place::Matrix(out));
            self.add(format!("{prefix}.to_out.bias"), Place::Vector(bias));
        }
    }

    /// Attention as the winner's `AxialAttention3D`.
    fn unit(&mut self, prefix: &str, attention: &'a mut Attention) {
        let Attention { positions, axes, norm, .. } = attention;
        let prefix = format!("{prefix}.axial_attention");
        self.positions(&format!("{prefix}.0"), positions);
        self.axes(&format!("{prefix}.1"), axes);
        if let Some(norm) = norm {
            self.norm(&format!("{prefix}.2"), norm);
        }
    }

    fn block(&mut self, prefix: &str, block: &'a mut ConvBlock) {
        self.conv(&format!("{prefix}.conv"), &mut block.conv);
        if let Some(norm) = &mut block.norm {
            self.norm(&format!("{prefix}.{}", self.norm), norm);
        }
    }

    fn norm(&mut self, prefix: &str, norm: &'a mut Norm) {
        if let Some(gamma) = &mut norm.gamma {
            self.add(format!("{prefix}.weight"), Place::Vector(gamma));
        }
        if let Some(beta) = &mut norm.beta {
            self.add(format!("{prefix}.bias"), Place::Vector(beta));
        }
        if let Some(mean) = &mut norm.running_mean {
            self.add(format!("{prefix}.running_mean"), Place::Running(mean));
        }
        if let Some(var) = &mut norm.running_var {
            self.add(format!("{prefix}.running_var"), Place::Running(var));
        }
    }
}
