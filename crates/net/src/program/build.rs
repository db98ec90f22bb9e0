//! From a network's description to its program: the topology, written once.

use std::collections::HashMap;
use std::sync::Arc;

use super::names::Names;
use super::{
    AddActivate, Attention, AxisParameters, BackwardStep, Block, Conv, Curved, Epilogue, Head, MapId,
    MapShape, Meeting, Mode, Norm, ParameterId, Pool, Program, Step, Up, UpBlock,
};
use crate::NetError;
use crate::curve::Curve;
use crate::shapes::{Initial, ParameterShape};
use crate::spec::{AttentionSpec, BlockKind, Dims, Naming, NetworkSpec, NormKind, NormSpec};

impl Program {
    /// The program of a network for inputs of `batch` samples of `size` voxels, `[z, y, x]`.
    ///
    /// # Errors
    /// [`NetError::Spec`] if the description contradicts itself; [`NetError::Input`] and [`NetError::Positions`] if an input
    /// of this size does not fit.
    ///
    /// # Panics
    /// If the mode names another number of heads than the network has.
    pub fn new(spec: &NetworkSpec, batch: usize, size: [usize; 3], mode: Mode) -> Result<Self, NetError> {
        spec.validate()?;
        spec.check_input(spec.in_channels, size)?;
        if let Mode::Train { heads } = &mode {
            assert_eq!(heads.len(), spec.decoder.len(), "heads of the network");
        }
        if let (Some(curve), true) = (spec.curve, mode.is_training()) {
            let what = format!("the activation {} can predict, but not be trained", curve.name());
            return Err(NetError::Spec { what });
        }
        let batch_norm = |norm: NormSpec| (norm.kind == NormKind::Batch) == norm.running;
        if mode.is_training() && !spec.norm.is_none_or(batch_norm) {
            let what =
                "norms whose `track_running_stats` is not torch's default can predict, but not be trained";
            return Err(NetError::Spec { what: what.into() });
        }
        // The order of parameters is that of the file, which is known when all have been named.
        let mut first = Builder::new(spec, size, mode.clone(), HashMap::new());
        first.network();
        let parameters = in_file_order(first.named, spec.naming);
        let ids = parameters.iter().enumerate().map(|(i, p)| (p.name.clone(), ParameterId(i))).collect();
        let mut builder = Builder::new(spec, size, mode.clone(), ids);
        builder.network();
        let Builder { maps, steps: forward, heads, .. } = builder;
        let (levels, heads) = heads.into_iter().rev().unzip();
        let backward = if mode.is_training() { backward(&forward, maps.len()) } else { vec![] };
        Ok(Self { batch, mode, maps, parameters: parameters.into(), forward, backward, heads, levels })
    }
}

impl NetworkSpec {
    /// All parameters and running statistics in nnU-Net's order.
    ///
    /// # Errors
    /// [`NetError::Spec`] if the description contradicts itself.
    pub fn parameters(&self) -> Result<Arc<[ParameterShape]>, NetError> {
        let size = self.fixed_input().unwrap_or_else(|| self.divisor());
        Ok(Program::new(self, 1, size, Mode::Predict)?.parameters)
    }
}

/// What a file keeps together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Encoder,
    DecoderBlocks,
    Ups,
    Heads,
    AttentionDown,
    Embeddings,
    AttentionUp,
}

fn in_file_order(named: Vec<(Group, ParameterShape)>, naming: Naming) -> Vec<ParameterShape> {
    let order: &[Group] = match naming {
        Naming::V2 => &[Group::Encoder, Group::DecoderBlocks, Group::Ups, Group::Heads],
        Naming::V1 => &[
            Group::DecoderBlocks,
            Group::Encoder,
            Group::Ups,
            Group::Heads,
            Group::AttentionDown,
            Group::Embeddings,
            Group::AttentionUp,
        ],
    };
    let rank = |group: Group| order.iter().position(|&g| g == group).unwrap_or(order.len());
    let mut named = named;
    named.sort_by_key(|(group, _)| rank(*group));
    named.into_iter().map(|(_, shape)| shape).collect()
}

/// The gradients of every forward step that leads to a head, from the last to the first.
fn backward(forward: &[Step], maps: usize) -> Vec<BackwardStep> {
    let mut met = vec![false; maps];
    let mut backward = vec![];
    for (step, forward) in forward.iter().enumerate().rev() {
        if !matches!(forward, Step::Head(_)) && !met[forward.out().0] {
            continue;
        }
        let mut meetings = vec![];
        for map in forward.inputs() {
            meetings.push(if map == Program::INPUT {
                Meeting::Unused
            } else if std::mem::replace(&mut met[map.0], true) {
                Meeting::Add
            } else {
                Meeting::Write
            });
        }
        backward.push(BackwardStep { step, meetings });
    }
    backward
}

/// He initialisation for a leaky ReLU of slope 0.01, whatever slope the network has.
///
/// # Source
/// `InitWeights_He(1e-2)`: `kaiming_normal_` with fan-in, which is `size(1) * prod(kernel)` also for transposed
/// convolutions (there `size(1)` counts the *output* channels).
fn he(inputs: usize, kernel: [usize; 3]) -> Initial {
    let fan_in = (inputs * kernel.iter().product::<usize>()) as f64;
    Initial::Normal { std: (2.0 / (1.0 + 0.01f64.powi(2))).sqrt() / fan_in.sqrt() }
}

/// Writes steps, maps and parameters down in the order of the forward pass.
struct Builder<'a> {
    spec: &'a NetworkSpec,
    names: Names,
    mode: Mode,
    /// Places in the file; empty while they are not known.
    ids: HashMap<String, ParameterId>,
    named: Vec<(Group, ParameterShape)>,
    /// Parameters drawn at random so far.
    drawn: u64,
    group: Group,
    maps: Vec<MapShape>,
    steps: Vec<Step>,
    /// Level and logits, deepest first.
    heads: Vec<(usize, MapId)>,
}

impl<'a> Builder<'a> {
    fn new(spec: &'a NetworkSpec, size: [usize; 3], mode: Mode, ids: HashMap<String, ParameterId>) -> Self {
        Self {
            spec,
            names: Names { naming: spec.naming, stages: spec.encoder.len() },
            mode,
            ids,
            named: vec![],
            drawn: 0,
            group: Group::Encoder,
            maps: vec![MapShape { channels: spec.in_channels, size }],
            steps: vec![],
            heads: vec![],
        }
    }

    fn parameter(&mut self, name: String, shape: Vec<usize>, initial: Initial) -> ParameterId {
        let draw = if matches!(initial, Initial::Constant { .. }) {
            0
        } else {
            self.drawn += 1;
            self.drawn
        };
        let id = self.ids.get(&name).copied().unwrap_or(ParameterId(0));
        self.named.push((self.group, ParameterShape { name, shape, initial, draw, trained: true }));
        id
    }

    fn constant(&mut self, name: String, channels: usize, value: f32) -> ParameterId {
        self.parameter(name, vec![channels], Initial::Constant { value })
    }

    fn map(&mut self, channels: usize, size: [usize; 3]) -> MapId {
        self.maps.push(MapShape { channels, size });
        MapId(self.maps.len() - 1)
    }

    fn shape(&self, map: MapId) -> MapShape {
        self.maps[map.0]
    }

    /// The weight's shape as it stands in a file: kernels of 2D networks have no depth axis.
    fn kernel_shape(&self, channels: [usize; 2], kernel: [usize; 3]) -> Vec<usize> {
        let skipped = usize::from(self.spec.dims == Dims::Two);
        channels.into_iter().chain(kernel.into_iter().skip(skipped)).collect()
    }

    /// A convolution from `channels[0]` to `channels[1]` with padding that keeps the size at stride 1.
    fn conv(
        &mut self,
        prefix: &str,
        channels: [usize; 2],
        [kernel, stride]: [[usize; 3]; 2],
        bias: bool,
    ) -> Conv {
        let shape = self.kernel_shape([channels[1], channels[0]], kernel);
        let weight = self.parameter(format!("{prefix}.weight"), shape, he(channels[0], kernel));
        let bias = bias.then(|| self.constant(format!("{prefix}.bias"), channels[1], 0.0));
        Conv { weight, bias, kernel, stride, padding: kernel.map(|k| (k - 1) / 2) }
    }

    fn norm(&mut self, prefix: &str, spec: NormSpec, channels: usize, gamma: f32) -> Norm {
        let affine = spec.affine.then(|| {
            let gamma = self.constant(format!("{prefix}.weight"), channels, gamma);
            [gamma, self.constant(format!("{prefix}.bias"), channels, 0.0)]
        });
        let running = spec.running.then(|| {
            let first = self.named.len();
            let mean = self.constant(format!("{prefix}.running_mean"), channels, 0.0);
            let var = self.constant(format!("{prefix}.running_var"), channels, 1.0);
            self.named[first..].iter_mut().for_each(|(_, shape)| shape.trained = false);
            [mean, var]
        });
        Norm { spec, affine, running }
    }

    /// What follows a block's convolution to `channels` channels; its first factor is `gamma`.
    fn epilogue(&mut self, prefix: &str, channels: usize, gamma: f32) -> Epilogue {
        let prefix = format!("{prefix}.{}", self.names.norm());
        let norm = self.spec.norm.map(|spec| self.norm(&prefix, spec, channels, gamma));
        Epilogue { dropout: 0.0, norm, slope: None, curve: None, nonlin_first: false }
    }

    /// The same with the activation behind it, whose parameters are named `prefix`.
    fn activated(&mut self, prefix: &str, epilogue: Epilogue, dropout: f64) -> Epilogue {
        let curve = self.curved(&format!("{prefix}.nonlin"));
        let slope = curve.is_none().then_some(self.spec.slope);
        Epilogue { dropout, slope, curve, nonlin_first: self.spec.nonlin_first, ..epilogue }
    }

    /// The activation that is not a leaky ReLU.
    fn curved(&mut self, prefix: &str) -> Option<Curved> {
        let curve = self.spec.curve?;
        let slopes = match curve {
            Curve::Prelu { parameters, init } => {
                Some(self.constant(format!("{prefix}.weight"), parameters, init))
            }
            _ => None,
        };
        Some(Curved { curve, slopes })
    }

    /// Convolution, dropout, normalisation, activation.
    fn block(
        &mut self,
        prefix: &str,
        inputs: Vec<MapId>,
        features: usize,
        [kernel, stride]: [[usize; 3]; 2],
        dropout: f64,
    ) -> MapId {
        let channels = inputs.iter().map(|&i| self.shape(i).channels).sum();
        let bias = self.spec.conv_bias;
        let conv = self.conv(&format!("{prefix}.conv"), [channels, features], [kernel, stride], bias);
        let epilogue = self.epilogue(prefix, features, 1.0);
        let epilogue = self.activated(prefix, epilogue, dropout);
        self.emit_block(inputs, features, conv, epilogue)
    }

    fn emit_block(&mut self, inputs: Vec<MapId>, features: usize, conv: Conv, epilogue: Epilogue) -> MapId {
        let size = self.shape(inputs[0]).size;
        let out = self.map(features, std::array::from_fn(|a| size[a].div_ceil(conv.stride[a])));
        self.steps.push(Step::Block(Block { inputs, conv, epilogue, out }));
        out
    }

    /// Two convolutions in parallel with a skip connection.
    ///
    /// # Source
    /// `BasicBlockD`; the second normalisation starts as 0 (`init_last_bn_before_add_to_0`), so that each block starts as its
    /// skip connection.
    fn residual(
        &mut self,
        prefix: &str,
        inputs: &[MapId],
        features: usize,
        geometry: [[usize; 3]; 2],
        dropout: f64,
    ) -> MapId {
        let channels: usize = inputs.iter().map(|&i| self.shape(i).channels).sum();
        let [kernel, stride] = geometry;
        let first = self.block(&format!("{prefix}.conv1"), inputs.to_vec(), features, geometry, dropout);
        let name = format!("{prefix}.conv2");
        let bias = self.spec.conv_bias;
        let conv = self.conv(&format!("{name}.conv"), [features; 2], [kernel, [1; 3]], bias);
        let epilogue = self.epilogue(&name, features, 0.0);
        let main = self.emit_block(vec![first], features, conv, epilogue);
        let curve = self.curved(&format!("{prefix}.nonlin2"));
        let mut skips = inputs.to_vec();
        let pools = stride != [1; 3];
        if pools {
            for skip in &mut skips {
                let MapShape { channels, size } = self.shape(*skip);
                let out = self.map(channels, std::array::from_fn(|a| size[a] / stride[a]));
                self.steps.push(Step::Pool(Pool { input: *skip, kernel: stride, out }));
                *skip = out;
            }
        }
        if channels != features || skips.len() > 1 {
            let name = format!("{prefix}.skip.{}", usize::from(pools));
            let conv = self.conv(&format!("{name}.conv"), [channels, features], [[1; 3]; 2], false);
            let epilogue = self.epilogue(&name, features, 1.0);
            skips = vec![self.emit_block(skips, features, conv, epilogue)];
        }
        let (shape, skip) = (self.shape(main), skips[0]);
        let out = self.map(shape.channels, shape.size);
        let slope = if curve.is_some() { 1.0 } else { self.spec.slope };
        self.steps.push(Step::AddActivate(AddActivate { main, skip, slope, curve, out }));
        out
    }

    /// Axial attention under the winner's names.
    ///
    /// # Source
    /// PyTorch's initial weights: standard normal embeddings; matrices and biases uniform, bounded by one over the root of
    /// the inputs.
    fn attention(&mut self, input: MapId, spec: AttentionSpec, [embedding, unit]: [&str; 2]) -> MapId {
        let (MapShape { channels, size }, hidden) = (self.shape(input), spec.heads * spec.dim_heads);
        let group = self.group;
        if !spec.norm && group == Group::AttentionUp {
            self.group = Group::Embeddings;
        }
        let positions = std::array::from_fn(|axis| {
            let mut shape = vec![1, channels, 1, 1, 1];
            shape[2 + axis] = spec.shape[axis];
            self.parameter(format!("{embedding}.params.{axis}"), shape, Initial::Normal { std: 1.0 })
        });
        self.group = group;
        let uniform = |inputs: usize| Initial::Uniform { bound: 1.0 / (inputs as f64).sqrt() };
        // Biases are drawn after all matrices, but stand in the file behind those of their axis.
        let first_bias = self.drawn + 9;
        let axes = std::array::from_fn(|axis| {
            let name = |what: &str| format!("{unit}.axial_attentions.{axis}.fn.{what}");
            let q = self.parameter(name("to_q.weight"), vec![hidden, channels], uniform(channels));
            let kv = self.parameter(name("to_kv.weight"), vec![2 * hidden, channels], uniform(channels));
            let out = self.parameter(name("to_out.weight"), vec![channels, hidden], uniform(hidden));
            let drawn = self.drawn;
            self.drawn = first_bias + axis as u64;
            let bias = self.parameter(name("to_out.bias"), vec![channels], uniform(hidden));
            self.drawn = if axis == 2 { first_bias + 3 } else { drawn };
            AxisParameters { q, kv, out, bias }
        });
        let norm = spec.norm.then(|| {
            let prefix = unit.strip_suffix(".1").unwrap_or(unit);
            let norm = self.norm(&format!("{prefix}.2"), NormSpec::new(NormKind::Batch), channels, 1.0);
            (norm, self.spec.slope)
        });
        let out = self.map(channels, size);
        let AttentionSpec { heads, dim_heads, sum, residual, .. } = spec;
        self.steps.push(Step::Attention(Attention {
            input,
            heads,
            dim_heads,
            positions,
            axes,
            sum,
            norm,
            residual,
            out,
        }));
        out
    }

    fn network(&mut self) {
        let spec = self.spec;
        let mut x = Program::INPUT;
        if spec.block == BlockKind::Residual {
            let first = &spec.encoder[0];
            let geometry = [first.kernel, [1; 3]];
            x = self.block("encoder.stem.convs.0", vec![x], spec.stem_features, geometry, first.dropout);
        }
        let mut skips = vec![];
        let mut attentions = 0;
        for (s, stage) in spec.encoder.iter().enumerate() {
            for b in 0..stage.blocks {
                let stride = if b == 0 { stage.stride } else { [1; 3] };
                x = match spec.block {
                    BlockKind::Plain => {
                        let name = self.names.encoder(s, b, stage.blocks);
                        self.block(&name, vec![x], stage.features, [stage.kernel, stride], stage.dropout)
                    }
                    BlockKind::Residual => {
                        let name = format!("encoder.stages.{s}.blocks.{b}");
                        let geometry = [stage.kernel, stride];
                        self.residual(&name, &[x], stage.features, geometry, stage.dropout)
                    }
                };
            }
            if let Some(attention) = stage.attention {
                self.group = Group::AttentionDown;
                let prefix = format!("axial_attention_down.{attentions}.axial_attention");
                x = self.attention(x, attention, [&format!("{prefix}.0"), &format!("{prefix}.1")]);
                self.group = Group::Encoder;
                attentions += 1;
            }
            skips.push(x);
        }
        skips.pop();
        self.decoder(x, skips);
    }

    fn decoder(&mut self, mut x: MapId, mut skips: Vec<MapId>) {
        let spec = self.spec;
        let mut attentions = 0;
        for (j, step) in spec.decoder.iter().enumerate() {
            let level = spec.decoder.len() - 1 - j;
            let skip = skips.pop().expect("as many skips as decoder steps");
            let up = self.up(j, x, step.up_features);
            let size = self.shape(skip).size;
            let between = MapShape { channels: step.up_features, size };
            let input = x;
            let mut upsampled = None;
            // Two convolutions of a residual block read it.
            if step.attention.is_some() || self.mode.is_training() || spec.residual_decoder {
                let out = self.map(between.channels, between.size);
                self.steps.push(Step::Up(Up { input, conv: up, out }));
                upsampled = Some(out);
            }
            if let (Some(attention), Some(map)) = (step.attention, upsampled) {
                self.group = Group::AttentionUp;
                // Alone, or with a norm behind it: two classes, two ways to name.
                let names = if attention.norm {
                    let prefix = format!("axial_attention_up.{attentions}.axial_attention");
                    [format!("{prefix}.0"), format!("{prefix}.1")]
                } else {
                    [format!("axial_embedding.{attentions}"), format!("axial_attention.{attentions}")]
                };
                upsampled = Some(self.attention(map, attention, names.each_ref().map(String::as_str)));
                attentions += 1;
            }
            self.group = Group::DecoderBlocks;
            for (c, &features) in step.convs.iter().enumerate() {
                let name = self.names.decoder(j, c, step.convs.len());
                let geometry = [step.kernel, [1; 3]];
                if spec.residual_decoder {
                    let name = format!("decoder.stages.{j}.blocks.{c}");
                    let inputs = match upsampled {
                        Some(map) if c == 0 => vec![map, skip],
                        _ => vec![x],
                    };
                    x = self.residual(&name, &inputs, features, geometry, step.dropout);
                    continue;
                }
                x = match (c, upsampled) {
                    (0, Some(map)) => self.block(&name, vec![map, skip], features, geometry, step.dropout),
                    (0, None) => {
                        let channels = [between.channels + self.shape(skip).channels, features];
                        let bias = spec.conv_bias;
                        let conv = self.conv(&format!("{name}.conv"), channels, geometry, bias);
                        let epilogue = self.epilogue(&name, features, 1.0);
                        let epilogue = self.activated(&name, epilogue, step.dropout);
                        let out = self.map(features, size);
                        let below = input;
                        let block = UpBlock { below, up, between, skip, conv, epilogue, out };
                        self.steps.push(Step::UpBlock(block));
                        out
                    }
                    _ => self.block(&name, vec![x], features, geometry, step.dropout),
                };
            }
            self.head(j, level, x);
        }
    }

    /// The transposed convolution of decoder step `j`; its kernel is the stride of the stage below.
    fn up(&mut self, j: usize, below: MapId, features: usize) -> Conv {
        self.group = Group::Ups;
        let prefix = self.names.up(j);
        let kernel = self.spec.encoder[self.spec.encoder.len() - 1 - j].stride;
        let shape = self.kernel_shape([self.shape(below).channels, features], kernel);
        let weight = self.parameter(format!("{prefix}.weight"), shape, he(features, kernel));
        let bias = self.spec.up_bias.then(|| self.constant(format!("{prefix}.bias"), features, 0.0));
        Conv { weight, bias, kernel, stride: kernel, padding: [0; 3] }
    }

    fn head(&mut self, j: usize, level: usize, input: MapId) {
        self.group = Group::Heads;
        let (MapShape { channels, size }, outputs) = (self.shape(input), self.spec.num_outputs);
        let prefix = self.names.head(j);
        let conv = self.conv(&prefix, [channels, outputs], [[1; 3]; 2], self.spec.head_bias);
        let wanted = match &self.mode {
            Mode::Predict => level == 0,
            Mode::Evaluate => true,
            Mode::Train { heads } => heads[level],
        };
        if wanted {
            let out = self.map(outputs, size);
            self.steps.push(Step::Head(Head { input, conv, level, out }));
            self.heads.push((level, out));
        }
    }
}
