//! Axial attention: projections are convolutions of kernel 1, scores a kernel of their own.

use glioseg_cuda::launch::Lines;
use glioseg_cuda::{Launch, Pass};

use super::super::layout::Padded;
use super::forward::After;
use super::{Buffer, Builder, Made, Work};
use crate::NetError;
use crate::program::{Attention, Conv, Meeting, ParameterId};

/// What the backward pass of one axis reads.
#[derive(Debug, Clone, Copy)]
struct OfAxis {
    source: Buffer,
    q: Buffer,
    kv: Buffer,
    result: Buffer,
    /// What gave the next axis its source, unless the results are added.
    made: Option<Made>,
}

/// What the backward pass reads.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    axes: Vec<OfAxis>,
    made: Made,
}

/// A projection.
fn projection(weight: ParameterId) -> Conv {
    Conv { weight, bias: None, kernel: [1; 3], stride: [1; 3], padding: [0; 3] }
}

impl Builder<'_> {
    fn lines(step: &Attention, axis: usize) -> Lines {
        Lines { axis, heads: step.heads, dim: step.dim_heads }
    }

    /// Zeros where kernels write the features of heads alone.
    fn clear_padding(&mut self, buffer: Buffer) {
        if buffer.channels.real != buffer.channels.places {
            let at = self.at(buffer.id);
            self.push(Work::Clear(at));
        }
    }

    pub(super) fn attention(&mut self, index: usize, step: &Attention) -> Result<(), NetError> {
        let shape = self.program.map(step.input);
        if let Some(&length) = shape.size.iter().find(|&&length| !Lines::fits(length)) {
            let what = format!("attention along {length} voxels does not run on GPUs");
            return Err(NetError::Spec { what });
        }
        let (size, hidden) = (shape.size, step.heads * step.dim_heads);
        let input = self.map_of(step.input);
        let embedded = self.shaped(shape);
        let positions = step.positions.map(|id| self.parameter(id));
        let (x, e) = (self.map(input), self.map(embedded));
        self.launch(Launch::embed(&x, positions, shape.channels, &e));
        let (mut source, mut axes) = (embedded, vec![]);
        let mut y = self.shaped(shape);
        for (axis, of) in step.axes.iter().enumerate() {
            let q = self.map_buffer(Padded::new(hidden), size);
            let kv = self.map_buffer(Padded::new(2 * hidden), size);
            let result = self.map_buffer(Padded::new(hidden), size);
            self.convolve(Pass::Forward, &projection(of.q), [source, q], false);
            self.convolve(Pass::Forward, &projection(of.kv), [source, kv], false);
            self.clear_padding(result);
            let maps = [q, kv, result].map(|buffer| self.map(buffer));
            let lines = Self::lines(step, axis);
            self.launch(Launch::attention(&lines, &maps[0], &maps[1], &maps[2]));
            let added = step.sum && axis > 0;
            if !step.sum {
                y = self.shaped(shape);
            }
            self.convolve(Pass::Forward, &projection(of.out), [result, y], added);
            let mut kept = OfAxis { source, q, kv, result, made: None };
            if !step.sum && axis < 2 {
                let next = self.shaped(shape);
                let after = After { norm: None, biases: [Some(of.bias), None, None], mask: None, slope: 1.0 };
                kept.made = Some(self.normalised(y, &after, Some(next), vec![]));
                source = next;
            }
            axes.push(kept);
        }
        let [first, second, third] = step.axes.map(|axis| Some(axis.bias));
        let biases = if step.sum { [first, second, third] } else { [third, None, None] };
        let (norm, slope) = step.norm.as_ref().map_or((None, 1.0), |(norm, slope)| (Some(norm), *slope));
        let after = After { norm, biases, mask: None, slope };
        let made = if step.residual {
            let (z, out) = (self.shaped(shape), self.map_of(step.out));
            let made = self.normalised(y, &after, Some(z), vec![]);
            let maps = [z, input, out].map(|buffer| self.map(buffer));
            self.launch(Launch::add([&maps[0], &maps[1]], &maps[2], 1.0));
            self.join(step.out, out);
            made
        } else {
            self.normalised_into(y, &after, step.out)
        };
        self.attentions.insert(index, Kept { axes, made });
        Ok(())
    }

    pub(super) fn attention_backward(&mut self, index: usize, step: &Attention, meeting: Meeting) {
        let Kept { axes, made } = self.attentions[&index].clone();
        let shape = self.program.map(step.input);
        let dz = self.gradient_of(step.out);
        // The residual's gradient is read once more.
        let mut dy = if step.residual { self.shaped(shape) } else { dz };
        self.norm_backward(&made, dz, dy);
        let of_embedded = self.shaped(shape);
        let mut written = false;
        for (axis, kept) in axes.iter().enumerate().rev() {
            if let Some(made) = &kept.made {
                self.norm_backward(made, dy, dy);
            }
            let first = step.sum || axis == 0;
            let to = if first { of_embedded } else { self.shaped(shape) };
            let add = first && std::mem::replace(&mut written, first);
            self.axis_backward(step, axis, kept, (dy, to, add));
            if !step.sum {
                dy = to;
            }
        }
        for (axis, &id) in step.positions.iter().enumerate() {
            let (of, to) = (self.map(of_embedded), self.of_parameter(id));
            self.launch(Launch::embed_backward(&of, axis, shape.channels, to));
        }
        let parts = [Some(of_embedded), step.residual.then_some(dz)];
        let mut add = meeting == Meeting::Add;
        if meeting != Meeting::Unused {
            let to = self.gradient_of(step.input);
            for part in parts.into_iter().flatten() {
                let (from, to) = (self.map(part), self.map(to));
                self.launch(Launch::through(&from, [&from, &to], add, 1.0));
                add = true;
            }
        }
    }

    /// Gradients of one axis: of its matrices, and of its source into `to`.
    fn axis_backward(
        &mut self,
        step: &Attention,
        axis: usize,
        kept: &OfAxis,
        (dy, to, add): (Buffer, Buffer, bool),
    ) {
        let (of, lines) = (step.axes[axis], Self::lines(step, axis));
        let OfAxis { source, q, kv, result, .. } = *kept;
        let like = |builder: &mut Self, buffer: Buffer| builder.map_buffer(buffer.channels, buffer.size);
        let [d, dq, dkv] = [result, q, kv].map(|buffer| like(self, buffer));
        self.convolve(Pass::Filter, &projection(of.out), [result, dy], false);
        self.convolve(Pass::Data, &projection(of.out), [d, dy], false);
        self.clear_padding(dq);
        self.clear_padding(dkv);
        let maps = [q, kv, d, dq].map(|buffer| self.map(buffer));
        let rows = self.buffer(lines.row_values(&maps[0]) * 4);
        let to_rows = self.at(rows);
        let [of_q, of_kv, of_d, of_dq] = &maps;
        self.launch(Launch::attention_queries(&lines, [of_q, of_kv], of_d, of_dq, to_rows));
        let maps = [q, kv, d, dkv].map(|buffer| self.map(buffer));
        let from_rows = self.at(rows);
        let [of_q, of_kv, of_d, of_dkv] = &maps;
        self.launch(Launch::attention_keys(&lines, [of_q, of_kv], of_d, of_dkv, from_rows));
        self.convolve(Pass::Filter, &projection(of.q), [source, dq], false);
        self.convolve(Pass::Filter, &projection(of.kv), [source, dkv], false);
        self.convolve(Pass::Data, &projection(of.q), [to, dq], add);
        self.convolve(Pass::Data, &projection(of.kv), [to, dkv], true);
    }
}
