//! Forward passes of the steps, and the places of the loss.

use glioseg_cuda::launch::{Logits, NormRule};
use glioseg_cuda::{Convolution, Launch, Pass};

use super::super::layout::Padded;
use super::{Buffer, Builder, Made, OfHead};
use crate::NetError;
use crate::program::{
    Block, BufferId, Conv, Epilogue, Head, MapId, MapShape, Norm, ParameterId, Program, Step, Up, UpBlock,
};
use crate::spec::NormKind;

/// What follows a convolution.
pub(super) struct After<'e> {
    pub(super) norm: Option<&'e Norm>,
    pub(super) biases: [Option<ParameterId>; 3],
    pub(super) mask: Option<BufferId>,
    pub(super) slope: f32,
}

impl Builder<'_> {
    pub(super) fn run_forward(&mut self, patch: BufferId) -> Result<(), NetError> {
        let program = self.program;
        for step in &program.forward {
            if let Step::Block(Block { inputs, .. }) = step
                && let [a, b] = inputs[..]
            {
                self.note_join([a, b]);
            }
        }
        let input = self.map_of(Program::INPUT);
        let (from, to) = (self.at(patch), self.map(input));
        self.launch(Launch::pack(from, &to));
        for (index, step) in program.forward.iter().enumerate() {
            match step {
                Step::Block(block) => {
                    let x = self.input_of(block);
                    self.block(index, x, (&block.conv, &block.epilogue), block.out)?;
                }
                Step::UpBlock(block) => {
                    let joined = self.joined_for(block);
                    self.block(index, joined, (&block.conv, &block.epilogue), block.out)?;
                }
                Step::Up(up) => self.up(index, up),
                Step::AddActivate(add) => {
                    refuse(add.curve.is_some())?;
                    let [main, skip, out] = [add.main, add.skip, add.out].map(|id| self.map_of(id));
                    let [main, skip, sum] = [main, skip, out].map(|buffer| self.map(buffer));
                    self.launch(Launch::add([&main, &skip], &sum, add.slope));
                    self.join(add.out, out);
                }
                Step::Pool(pool) => {
                    let [input, out] = [pool.input, pool.out].map(|id| self.map_of(id));
                    let [from, means] = [input, out].map(|buffer| self.map(buffer));
                    self.launch(Launch::pool(&from, pool.kernel, &means));
                    self.join(pool.out, out);
                }
                Step::Attention(attention) => self.attention(index, attention)?,
                Step::Head(head) => self.head(head),
            }
        }
        Ok(())
    }

    /// Two maps that a block reads as one.
    fn note_join(&mut self, pair: [MapId; 2]) {
        if self.joined.contains_key(&pair) {
            return;
        }
        let channels = pair.map(|map| Padded::new(self.program.map(map).channels).places);
        let joined =
            self.map_buffer(Padded::tight(channels[0] + channels[1]), self.program.map(pair[0]).size);
        self.joined.insert(pair, joined);
        self.joins.entry(pair[0]).or_default().push((pair, 0));
        self.joins.entry(pair[1]).or_default().push((pair, channels[0]));
    }

    /// What a block's convolution reads.
    pub(super) fn input_of(&mut self, block: &Block) -> Buffer {
        match block.inputs[..] {
            [a, b] => self.joined[&[a, b]],
            _ => self.map_of(block.inputs[0]),
        }
    }

    /// The upsampled map and the skip as one map.
    fn joined_for(&mut self, block: &UpBlock) -> Buffer {
        let MapShape { channels, size } = block.between;
        let (skip, between) = (self.map_of(block.skip), Padded::new(channels).places);
        let joined = self.map_buffer(Padded::tight(between + skip.channels.places), size);
        let below = self.map_of(block.below);
        let u = self.upsampled(below, &block.up, block.between);
        let after = After { norm: None, biases: [block.up.bias, None, None], mask: None, slope: 1.0 };
        self.normalised(u, &after, None, vec![(joined, 0)]);
        let (skip, to) = (self.map(skip), self.map(joined));
        self.launch(Launch::put(&skip, &to, between));
        joined
    }

    /// Copies a map that a step wrote into the joined ones that it is a part of.
    pub(super) fn join(&mut self, id: MapId, buffer: Buffer) {
        for (pair, at) in self.joins.get(&id).cloned().unwrap_or_default() {
            let joined = self.joined[&pair];
            let (from, to) = (self.map(buffer), self.map(joined));
            self.launch(Launch::put(&from, &to, at));
        }
    }

    /// A product of a convolution of `x` to `y`; the pass says which is written.
    pub(super) fn convolve(&mut self, pass: Pass, conv: &Conv, [x, y]: [Buffer; 2], add: bool) {
        let convolution = Convolution {
            pass,
            element: self.element,
            batch: self.program.batch,
            channels: [x.channels.places, y.channels.places],
            input: x.size,
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
            add,
        };
        let weights = match pass {
            Pass::Filter => self.of_parameter(conv.weight),
            Pass::Forward | Pass::Data => self.matrix(conv.weight),
        };
        let operands = [self.at(x.id), weights, self.at(y.id)];
        self.product(convolution, operands);
    }

    fn block(
        &mut self,
        index: usize,
        x: Buffer,
        (conv, epilogue): (&Conv, &Epilogue),
        out: MapId,
    ) -> Result<(), NetError> {
        refuse(epilogue.curve.is_some())?;
        let shape = self.program.map(out);
        let y = self.shaped(shape);
        self.convolve(Pass::Forward, conv, [x, y], false);
        let rows = self.program.batch * shape.channels;
        let mask = (epilogue.dropout > 0.0 && self.program.mode.is_training()).then(|| {
            let id = self.buffer(rows * 4);
            self.masks.push((index, epilogue.dropout, id, rows));
            id
        });
        let (slope, biases) = (epilogue.slope.unwrap_or(1.0), [conv.bias, None, None]);
        let norm = epilogue.norm.as_ref();
        let made = if norm.is_some() && epilogue.nonlin_first {
            let between = self.shaped(shape);
            let first = After { norm: None, biases, mask, slope };
            let made = self.normalised(y, &first, Some(between), vec![]);
            let second = After { norm, biases: [None; 3], mask: None, slope: 1.0 };
            vec![made, self.normalised_into(between, &second, out)]
        } else {
            vec![self.normalised_into(y, &After { norm, biases, mask, slope }, out)]
        };
        self.made.insert(index, made);
        Ok(())
    }

    /// Normalises into a map of the program, and into the joined maps that it is a part of; into those alone if nobody else reads it.
    pub(super) fn normalised_into(&mut self, y: Buffer, after: &After<'_>, out: MapId) -> Made {
        let joins = self.joins.get(&out).cloned().unwrap_or_default();
        let alone = |step: &Step| match step {
            Step::Block(block) if block.inputs.len() > 1 => false,
            step => step.inputs().contains(&out),
        };
        let z = self.program.forward.iter().any(alone).then(|| self.map_of(out));
        let joined = joins.iter().map(|(pair, at)| (self.joined[pair], *at)).collect();
        self.normalised(y, after, z, joined)
    }

    /// Statistics, normalisation and activation of `y`.
    pub(super) fn normalised(
        &mut self,
        y: Buffer,
        after: &After<'_>,
        mut z: Option<Buffer>,
        joined: Vec<(Buffer, usize)>,
    ) -> Made {
        let training = self.program.mode.is_training();
        let rule = rule(after.norm, y.channels.real, training);
        let rows = self.program.batch * y.channels.places;
        let made = Made {
            y,
            form: self.buffer(rows * 16),
            total: self.buffer(rows * 4),
            mask: after.mask,
            rule,
            affine: after.norm.and_then(|norm| norm.affine),
            biases: after.biases,
            kept: after.norm.and_then(|norm| norm.running),
            slope: after.slope,
        };
        let map = self.map(y);
        let sums = self.buffer(map.sum_values(map.batch) * 8);
        if matches!(rule, NormRule::Own { .. }) {
            let part = self.buffer(map.part_values(map.batch) * 4);
            let to = self.at(part);
            self.launch(Launch::stats(&map, to));
            let (from, to) = (self.at(part), self.at(sums));
            self.launch(Launch::fold(&map, map.batch, from, to));
        }
        let (from, form, _) = (self.at(sums), self.form(&made), self.map(y));
        self.launch(Launch::affine(&map, from, &form));
        // The first joined map is written on the way, others behind it.
        let mut joined = joined.into_iter();
        loop {
            let next = joined.next();
            if z.is_none() && next.is_none() {
                return made;
            }
            let (map, form) = (self.map(y), self.form(&made));
            let to = z.take().map(|z| self.map(z));
            let also = next.map(|(joined, at)| (self.map(joined), at));
            let also = also.as_ref().map(|(joined, at)| (joined, *at));
            self.launch(Launch::apply(&map, &form, to.as_ref(), also, made.slope));
        }
    }

    /// What a transposed convolution writes, without its bias.
    fn upsampled(&mut self, below: Buffer, conv: &Conv, shape: MapShape) -> Buffer {
        let u = self.shaped(shape);
        self.convolve(Pass::Data, conv, [u, below], false);
        u
    }

    fn up(&mut self, index: usize, up: &Up) {
        let below = self.map_of(up.input);
        let u = self.upsampled(below, &up.conv, self.program.map(up.out));
        let after = After { norm: None, biases: [up.conv.bias, None, None], mask: None, slope: 1.0 };
        let made = self.normalised_into(u, &after, up.out);
        self.made.insert(index, vec![made]);
    }

    fn head(&mut self, head: &Head) {
        let MapShape { channels, size } = self.program.map(head.out);
        let (batch, voxels) = (self.program.batch, size.iter().product::<usize>());
        let bytes = batch * channels * voxels * 4;
        let buffers = [self.buffer(bytes), self.buffer(bytes)];
        self.logits.insert(head.out, buffers);
        let input = self.map_of(head.input);
        let (map, weights) = (self.map(input), self.parameter(head.conv.weight));
        let bias = head.conv.bias.map(|id| self.parameter(id));
        let logits = Logits { at: self.at(buffers[0]), batch, outputs: channels, voxels };
        self.launch(Launch::head(&map, weights, bias, &logits));
    }

    /// Places of the loss of every head; its launches are made when it is known which loss.
    pub(super) fn losses(&mut self) -> Vec<OfHead> {
        let program = self.program;
        let mut heads = vec![];
        for head in &program.heads {
            let MapShape { channels, size } = program.map(*head);
            let (batch, voxels) = (program.batch, size.iter().product::<usize>());
            let [logits, gradient] = self.logits[head];
            let logits = Logits { at: self.at(logits), batch, outputs: channels, voxels };
            let bytes = [
                logits.part_values() * 8,
                logits.sum_values() * 8,
                logits.term_values() * 4,
                // Labels in 2 bytes, or regions and what is ignored in 1.
                batch * voxels * (channels + 1).max(2),
            ];
            let ids = bytes.map(|bytes| self.buffer(bytes));
            let [part, sums, terms, target] = ids.map(|id| self.at(id));
            heads.push(OfHead { logits, gradient: self.at(gradient), target, part, sums, terms });
        }
        // Nothing else is done meanwhile.
        self.time += 1;
        heads
    }
}

/// A normalisation as kernels know it.
fn rule(norm: Option<&Norm>, channels: usize, training: bool) -> NormRule {
    let Some(norm) = norm else { return NormRule::None };
    let eps = norm.spec.eps as f32;
    if norm.running.is_some() && !training {
        return NormRule::Kept { eps };
    }
    match norm.spec.kind {
        NormKind::Instance => NormRule::Own { per: 1, batch: false, eps },
        NormKind::Group(groups) => NormRule::Own { per: channels / groups, batch: false, eps },
        NormKind::Batch => NormRule::Own { per: 1, batch: true, eps },
    }
}

/// Refuses what kernels lack.
fn refuse(curved: bool) -> Result<(), NetError> {
    if curved {
        let what = "activations other than a leaky ReLU do not run on GPUs".into();
        return Err(NetError::Spec { what });
    }
    Ok(())
}
