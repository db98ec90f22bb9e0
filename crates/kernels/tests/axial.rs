//! Axial attention against its definition, and its gradient against differences.

mod common;

use common::{Numbers, assert_close, cpus, magnitudes};
use glioseg_kernels::{
    AxialCall, AxialOutput, AxialShape, AxialWeights, Cpu, axial_attention, axial_attention_backward,
    axial_attention_reference, position_gradients,
};

struct Case {
    shape: AxialShape,
    x: Vec<f32>,
    positions: [Vec<f32>; 3],
    q: Vec<f32>,
    kv: Vec<f32>,
    out: Vec<f32>,
    bias: Vec<f32>,
}

impl Case {
    fn new(channels: usize, size: [usize; 3], axis: usize, [heads, dim_heads]: [usize; 2]) -> Self {
        let shape = AxialShape { batch: 2, channels, size, axis, heads, dim_heads };
        let (mut numbers, hidden) = (Numbers::new(7), heads * dim_heads);
        Self {
            shape,
            x: numbers.many(shape.len()),
            positions: size.map(|n| numbers.many(channels * n)),
            q: numbers.many(hidden * channels),
            kv: numbers.many(2 * hidden * channels),
            out: numbers.many(channels * hidden),
            bias: numbers.many(channels),
        }
    }

    fn weights(&self) -> AxialWeights<'_> {
        AxialWeights { q: &self.q, kv: &self.kv, out: &self.out, bias: &self.bias }
    }

    fn positions(&self) -> [&[f32]; 3] {
        self.positions.each_ref().map(Vec::as_slice)
    }

    fn call<'a>(&'a self, weights: &'a AxialWeights<'a>) -> AxialCall<'a> {
        AxialCall { shape: &self.shape, input: Some(&self.x), positions: None, weights }
    }

    fn forward(&self, cpu: Cpu, embedded: bool) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.x.len()];
        let positions = embedded.then(|| self.positions());
        let weights = self.weights();
        let call = AxialCall { positions, ..self.call(&weights) };
        axial_attention(cpu, &call, AxialOutput::Store, &mut out);
        out
    }
}

/// Sizes around every block: of lines (lanes), of positions (4), of rows (8) and of vectors (2).
fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new(8, [6, 5, 7], 0, [2, 4]),
        Case::new(3, [1, 17, 2], 1, [1, 1]),
        Case::new(5, [2, 3, 33], 2, [3, 5]),
        Case::new(16, [12, 16, 20], 1, [4, 16]),
    ];
    for axis in 0..3 {
        cases.push(Case::new(9, [8, 8, 8], axis, [2, 12]));
    }
    cases
}

#[test]
fn attention_equals_its_definition_on_every_instruction_set() {
    for cpu in cpus() {
        for case in cases() {
            for embedded in [false, true] {
                let positions = embedded.then(|| case.positions());
                let want = axial_attention_reference(&case.shape, &case.x, positions, &case.weights());
                let what = format!("{} {:?} embedded {embedded}", cpu.name(), case.shape);
                assert_close(&what, &case.forward(cpu, embedded), &want, &want, 2e-6);
            }
        }
    }
}

#[test]
fn results_are_stored_added_or_joined_and_the_input_may_be_the_output() {
    for cpu in cpus() {
        for case in cases() {
            let plain = case.forward(cpu, false);
            let run = |input: Option<&[f32]>, output: AxialOutput<'_>, mut out: Vec<f32>| {
                let weights = case.weights();
                let call = AxialCall { input, ..case.call(&weights) };
                axial_attention(cpu, &call, output, &mut out);
                out
            };
            assert_eq!(run(None, AxialOutput::Store, case.x.clone()), plain, "{:?}", case.shape);
            let sum: Vec<f32> = plain.iter().zip(&case.x).map(|(y, x)| y + x).collect();
            assert_eq!(run(Some(&case.x), AxialOutput::Add, case.x.clone()), sum);
            let joined = run(Some(&case.x), AxialOutput::StoreWith(&case.x), vec![f32::NAN; case.x.len()]);
            assert_eq!(joined, sum);
        }
    }
}

/// `Σ g y` in f64, whose derivatives are what the backward pass computes.
fn objective(case: &Case, g: &[f32]) -> f64 {
    let y = axial_attention_reference(&case.shape, &case.x, Some(case.positions()), &case.weights());
    y.iter().zip(g).map(|(y, g)| f64::from(*y) * f64::from(*g)).sum()
}

type Field = fn(&mut Case) -> &mut Vec<f32>;

#[test]
fn the_gradient_is_that_of_the_definition() {
    for (channels, size, axis, heads) in
        [(4, [3, 2, 5], 2, [2, 3]), (3, [5, 2, 3], 0, [1, 4]), (5, [2, 6, 3], 1, [2, 4])]
    {
        let case = Case::new(channels, size, axis, heads);
        let g = Numbers::new(3).many(case.x.len());
        let fields: [(&str, Field); 8] = [
            ("input", |c| &mut c.x),
            ("q", |c| &mut c.q),
            ("kv", |c| &mut c.kv),
            ("out", |c| &mut c.out),
            ("bias", |c| &mut c.bias),
            ("positions z", |c| &mut c.positions[0]),
            ("positions y", |c| &mut c.positions[1]),
            ("positions x", |c| &mut c.positions[2]),
        ];
        let differences = fields.map(|(_, field)| {
            let mut moved = Case::new(channels, size, axis, heads);
            let step = 1e-2f32;
            let gradient = |i: usize| {
                let old = field(&mut moved)[i];
                let mut at = |value: f32| {
                    field(&mut moved)[i] = value;
                    objective(&moved, &g)
                };
                // The fourth-order difference.
                let [a, b, c, d] = [2.0, 1.0, -1.0, -2.0].map(|s| at(old + s * step));
                field(&mut moved)[i] = old;
                ((8.0 * (b - c) - (a - d)) / (12.0 * f64::from(step))) as f32
            };
            let mut case = Case::new(channels, size, axis, heads);
            (0..field(&mut case).len()).map(gradient).collect::<Vec<_>>()
        });
        for cpu in cpus() {
            let mut dx = vec![f32::NAN; case.x.len()];
            let (positions, weights) = (Some(case.positions()), case.weights());
            let output = AxialOutput::Store;
            let call = AxialCall { positions, ..case.call(&weights) };
            let mut scratch = vec![f32::NAN; case.shape.backward_scratch(cpu).lent];
            let found = axial_attention_backward(cpu, &call, &g, output, &mut dx, &mut scratch);
            let [z, y, x] = position_gradients(&dx, channels, size);
            let gradients = [dx, found.q, found.kv, found.out, found.bias, z, y, x];
            for (((name, _), gradient), want) in fields.iter().zip(&gradients).zip(&differences) {
                let what = format!("{} {:?} {name}", cpu.name(), case.shape);
                assert_close(&what, gradient, want, want, 1e-4);
            }
        }
    }
}

#[test]
fn every_instruction_set_has_the_same_gradient() {
    for case in cases() {
        let g = Numbers::new(5).many(case.x.len());
        let gradient = |cpu: Cpu| {
            let mut dx = case.x.clone();
            let weights = case.weights();
            let mut scratch = vec![f32::NAN; case.shape.backward_scratch(cpu).lent];
            let call = case.call(&weights);
            let found = axial_attention_backward(cpu, &call, &g, AxialOutput::Add, &mut dx, &mut scratch);
            [dx, found.q, found.kv, found.out, found.bias]
        };
        let mut all = cpus().into_iter().map(|cpu| (cpu, gradient(cpu)));
        let (_, first) = all.next().expect("plain Rust");
        for (cpu, other) in all {
            for (a, b) in other.iter().zip(&first) {
                assert_close(&format!("{} {:?}", cpu.name(), case.shape), a, b, &magnitudes(b), 1e-5);
            }
        }
    }
}
