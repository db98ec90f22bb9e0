//! Backward passes of the steps.

use glioseg_cuda::{Launch, Pass};

use super::{Buffer, Builder, Made};
use crate::program::{BackwardStep, Block, Head, MapId, Meeting, Step, Up};

impl Builder<'_> {
    pub(super) fn run_backward(&mut self) {
        let program = self.program;
        for BackwardStep { step: index, meetings } in &program.backward {
            match &program.forward[*index] {
                Step::Block(block) => self.block_backward(*index, block, meetings),
                Step::Up(up) => self.up_backward(*index, up, meetings[0]),
                Step::Head(head) => self.head_backward(head, meetings[0]),
                Step::AddActivate(add) => {
                    let (z, dz) = (self.map_of(add.out), self.gradient_of(add.out));
                    for (input, &meeting) in [add.main, add.skip].into_iter().zip(meetings) {
                        if meeting != Meeting::Unused {
                            let to = self.gradient_of(input);
                            let [z, from, to] = [z, dz, to].map(|buffer| self.map(buffer));
                            let added = meeting == Meeting::Add;
                            self.launch(Launch::through(&z, [&from, &to], added, add.slope));
                        }
                    }
                }
                Step::Pool(pool) => {
                    if meetings[0] != Meeting::Unused {
                        let (from, to) = (self.gradient_of(pool.out), self.gradient_of(pool.input));
                        let [means, map] = [from, to].map(|buffer| self.map(buffer));
                        let added = meetings[0] == Meeting::Add;
                        self.launch(Launch::pool_backward(&means, pool.kernel, &map, added));
                    }
                }
                Step::Attention(attention) => self.attention_backward(*index, attention, meetings[0]),
                Step::UpBlock(_) => unreachable!("a step outside training"),
            }
        }
    }

    /// The gradient of what a normalisation read, from that of its result, and those of its parameters.
    pub(super) fn norm_backward(&mut self, made: &Made, dz: Buffer, dy: Buffer) {
        let y = self.map(made.y);
        let part = self.buffer(y.part_values(y.batch) * 4);
        let sums = self.buffer(y.sum_values(y.batch) * 8);
        let terms = self.buffer(y.batch * y.channels * 8);
        let (from, form, to) = (self.map(dz), self.form(made), self.at(part));
        self.launch(Launch::norm_sums(&y, &from, &form, to, made.slope));
        let (from, to) = (self.at(part), self.at(sums));
        self.launch(Launch::fold(&y, y.batch, from, to));
        let mut gradient = |id: Option<_>| id.map(|id| self.of_parameter(id));
        let affine = [0, 1].map(|i| gradient(made.affine.map(|affine| affine[i])));
        let biases = made.biases.map(gradient);
        let (from, form, to) = (self.at(sums), self.form(made), self.at(terms));
        self.launch(Launch::norm_terms(&y, from, &form, to, affine, biases));
        let (y, form, terms) = (self.map(made.y), self.form(made), self.at(terms));
        let [from, to] = [dz, dy].map(|buffer| self.map(buffer));
        self.launch(Launch::norm_backward(&y, [&from, &to], &form, terms, made.slope));
    }

    fn block_backward(&mut self, index: usize, block: &Block, meetings: &[Meeting]) {
        let dz = self.gradient_of(block.out);
        for made in self.made[&index].clone().iter().rev() {
            self.norm_backward(made, dz, dz);
        }
        let x = self.input_of(block);
        self.convolve(Pass::Filter, &block.conv, [x, dz], false);
        match (&block.inputs[..], meetings) {
            ([_], [Meeting::Unused]) => {}
            ([input], [meeting]) => {
                let dx = self.gradient_of(*input);
                self.convolve(Pass::Data, &block.conv, [dx, dz], *meeting == Meeting::Add);
            }
            (inputs, meetings) => {
                let joined = self.map_buffer(x.channels, x.size);
                self.convolve(Pass::Data, &block.conv, [joined, dz], false);
                let mut at = 0;
                for (input, meeting) in inputs.iter().zip(meetings) {
                    let dx = self.gradient_of(*input);
                    let (from, to) = (self.map(joined), self.map(dx));
                    self.launch(Launch::take(&from, at, &to, *meeting == Meeting::Add));
                    at += dx.channels.places;
                }
            }
        }
    }

    fn up_backward(&mut self, index: usize, up: &Up, meeting: Meeting) {
        let dz = self.gradient_of(up.out);
        if up.conv.bias.is_some() {
            // Nothing is normalised: the gradient stays as it is.
            for made in self.made[&index].clone() {
                self.bias_backward(&made, dz);
            }
        }
        let input = self.map_of(up.input);
        self.convolve(Pass::Filter, &up.conv, [dz, input], false);
        if meeting != Meeting::Unused {
            let dx = self.gradient_of(up.input);
            self.convolve(Pass::Forward, &up.conv, [dz, dx], meeting == Meeting::Add);
        }
    }

    /// The gradient of the bias of what is not normalised. The sums do not depend on the map, so the gradient stands for it.
    fn bias_backward(&mut self, made: &Made, dz: Buffer) {
        let map = self.map(dz);
        let part = self.buffer(map.part_values(map.batch) * 4);
        let sums = self.buffer(map.sum_values(map.batch) * 8);
        let terms = self.buffer(map.batch * map.channels * 8);
        let (form, to) = (self.form(made), self.at(part));
        self.launch(Launch::norm_sums(&map, &map, &form, to, 1.0));
        let (from, to) = (self.at(part), self.at(sums));
        self.launch(Launch::fold(&map, map.batch, from, to));
        let biases = made.biases.map(|id| id.map(|id| self.of_parameter(id)));
        let (from, form, to) = (self.at(sums), self.form(made), self.at(terms));
        self.launch(Launch::norm_terms(&map, from, &form, to, [None; 2], biases));
    }

    fn head_backward(&mut self, head: &Head, meeting: Meeting) {
        let logits = self.logits_of(head.out);
        let input = self.map_of(head.input);
        let map = self.map(input);
        let rows = map.batch * logits.outputs;
        let part = self.buffer(map.part_values(rows) * 4);
        let sums = self.buffer(map.sum_values(rows) * 8);
        let to = self.at(part);
        self.launch(Launch::head_weights(&map, &logits, to));
        let (from, to) = (self.at(part), self.at(sums));
        self.launch(Launch::fold(&map, rows, from, to));
        let (from, weights) = (self.at(sums), self.of_parameter(head.conv.weight));
        let bias = head.conv.bias.map(|id| self.of_parameter(id));
        self.launch(Launch::head_terms(&map, &logits, from, weights, bias));
        if meeting != Meeting::Unused {
            let dx = self.gradient_of(head.input);
            let (logits, weights, to) =
                (self.logits_of(head.out), self.parameter(head.conv.weight), self.map(dx));
            self.launch(Launch::head_data(&logits, weights, &to, meeting == Meeting::Add));
        }
    }

    /// The gradient of logits.
    fn logits_of(&mut self, id: MapId) -> glioseg_cuda::launch::Logits {
        let shape = self.program.map(id);
        let at = self.at(self.logits[&id][1]);
        let batch = self.program.batch;
        glioseg_cuda::launch::Logits { at, batch, outputs: shape.channels, voxels: shape.voxels() }
    }
}
