//! Axial attention and its derivative, one line after the other in f64.

use crate::parameters::Parameters;
use crate::program::{Attention, AxisParameters, MapShape, ParameterId, Program};

/// Voxels of one line of a map: channel `c` of position `t` lies at `start + c * voxels + t * stride`.
struct Line {
    start: usize,
    stride: usize,
}

/// All lines of a map along an axis.
fn lines(shape: MapShape, batch: usize, axis: usize) -> Vec<Line> {
    let stride: usize = shape.size[axis + 1..].iter().product();
    let across = shape.size[axis] * stride;
    let starts = (0..batch).flat_map(move |n| {
        let outer = (0..shape.voxels() / across).flat_map(move |o| (0..stride).map(move |i| o * across + i));
        outer.map(move |within| n * shape.values() + within)
    });
    starts.map(|start| Line { start, stride }).collect()
}

/// What the backward pass of one head of a line needs; all `[position, feature]` but the weights `[query, key]`.
struct OfHead {
    q: Vec<Vec<f64>>,
    k: Vec<Vec<f64>>,
    v: Vec<Vec<f64>>,
    weights: Vec<Vec<f64>>,
    result: Vec<Vec<f64>>,
}

/// One axis of one attention.
struct Axis<'a> {
    shape: MapShape,
    heads: usize,
    dim: usize,
    along: usize,
    q: &'a [f32],
    kv: &'a [f32],
    out: &'a [f32],
    bias: &'a [f32],
    /// Added to the input.
    positions: Option<[&'a [f32]; 3]>,
}

/// `rows[first..first + count] x`, of a matrix with as many columns as `x` has values.
fn product(matrix: &[f32], first: usize, count: usize, x: &[f64]) -> Vec<f64> {
    let row = |r: usize| &matrix[(first + r) * x.len()..][..x.len()];
    (0..count).map(|r| row(r).iter().zip(x).map(|(&m, &x)| f64::from(m) * x).sum()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

impl<'a> Axis<'a> {
    fn new(program: &Program, parameters: &'a Parameters, step: &Attention, axis: usize) -> Self {
        let AxisParameters { q, kv, out, bias } = step.axes[axis];
        let [q, kv, out, bias] = [q, kv, out, bias].map(|id| parameters.values(id));
        let embedded = axis == 0 || step.sum;
        let positions = embedded.then(|| step.positions.map(|id| parameters.values(id)));
        let (shape, heads, dim) = (program.map(step.input), step.heads, step.dim_heads);
        Self { shape, heads, dim, along: axis, q, kv, out, bias, positions }
    }

    /// A line of the input with embeddings, `[position, channel]`.
    fn gather(&self, input: &[f32], line: &Line) -> Vec<Vec<f64>> {
        let (voxels, size) = (self.shape.voxels(), self.shape.size);
        let value = |t: usize, c: usize| {
            let at = line.start + t * line.stride;
            let mut value = f64::from(input[at + c * voxels]);
            if let Some(positions) = self.positions {
                let voxel = at % voxels;
                let place = [voxel / (size[1] * size[2]), voxel / size[2] % size[1], voxel % size[2]];
                for a in 0..3 {
                    value += f64::from(positions[a][c * size[a] + place[a]]);
                }
            }
            value
        };
        (0..size[self.along]).map(|t| (0..self.shape.channels).map(|c| value(t, c)).collect()).collect()
    }

    fn head(&self, x: &[Vec<f64>], head: usize) -> OfHead {
        let (dim, hidden) = (self.dim, self.heads * self.dim);
        let project = |matrix: &[f32], first: usize| -> Vec<Vec<f64>> {
            x.iter().map(|x| product(matrix, first, dim, x)).collect()
        };
        let (q, k) = (project(self.q, head * dim), project(self.kv, head * dim));
        let v = project(self.kv, hidden + head * dim);
        let scale = 1.0 / (dim as f64).sqrt();
        let weights: Vec<Vec<f64>> = q
            .iter()
            .map(|q| {
                let scores: Vec<f64> = k.iter().map(|k| dot(q, k) * scale).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let exp: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let sum: f64 = exp.iter().sum();
                exp.iter().map(|e| e / sum).collect()
            })
            .collect();
        let result = weights
            .iter()
            .map(|w| (0..dim).map(|e| w.iter().zip(&v).map(|(w, v)| w * v[e]).sum()).collect())
            .collect();
        OfHead { q, k, v, weights, result }
    }

    fn forward(&self, input: &[f32], batch: usize, result: &mut [f32]) {
        let (channels, voxels, hidden) = (self.shape.channels, self.shape.voxels(), self.heads * self.dim);
        for line in lines(self.shape, batch, self.along) {
            let x = self.gather(input, &line);
            let heads: Vec<OfHead> = (0..self.heads).map(|h| self.head(&x, h)).collect();
            for t in 0..x.len() {
                let joined: Vec<f64> = heads.iter().flat_map(|h| h.result[t].iter().copied()).collect();
                for c in 0..channels {
                    let y = dot(&joined, &row(self.out, c, hidden)) + f64::from(self.bias[c]);
                    result[line.start + c * voxels + t * line.stride] += y as f32;
                }
            }
        }
    }

    /// Adds the gradient of the (embedded) input to `result`; gradients of queries, keys and values, output and bias.
    fn backward(&self, input: &[f32], grad: &[f32], batch: usize, result: &mut [f32]) -> [Vec<f64>; 4] {
        let (channels, voxels) = (self.shape.channels, self.shape.voxels());
        let (dim, hidden) = (self.dim, self.heads * self.dim);
        let mut sums = [self.q, self.kv, self.out, self.bias].map(|m| vec![0.0f64; m.len()]);
        for line in lines(self.shape, batch, self.along) {
            let x = self.gather(input, &line);
            let at = |t: usize, c: usize| line.start + c * voxels + t * line.stride;
            let g: Vec<Vec<f64>> =
                (0..x.len()).map(|t| (0..channels).map(|c| f64::from(grad[at(t, c)])).collect()).collect();
            let mut dx = vec![vec![0.0; channels]; x.len()];
            for h in 0..self.heads {
                let head = self.head(&x, h);
                let columns = h * dim;
                let mut of_result = vec![vec![0.0; dim]; x.len()];
                for t in 0..x.len() {
                    for c in 0..channels {
                        for e in 0..dim {
                            let place = c * hidden + columns + e;
                            sums[2][place] += g[t][c] * head.result[t][e];
                            of_result[t][e] += g[t][c] * f64::from(self.out[place]);
                        }
                    }
                }
                let [dq, dk, dv] = head.backward(&of_result, dim);
                for (d, (matrix, sum, first)) in [dq, dk, dv].into_iter().zip([
                    (self.q, 0, h * dim),
                    (self.kv, 1, h * dim),
                    (self.kv, 1, hidden + h * dim),
                ]) {
                    for t in 0..x.len() {
                        for e in 0..dim {
                            for c in 0..channels {
                                let place = (first + e) * channels + c;
                                sums[sum][place] += d[t][e] * x[t][c];
                                dx[t][c] += d[t][e] * f64::from(matrix[place]);
                            }
                        }
                    }
                }
            }
            for t in 0..x.len() {
                for c in 0..channels {
                    sums[3][c] += g[t][c];
                    result[at(t, c)] += dx[t][c] as f32;
                }
            }
        }
        sums
    }
}

fn row(matrix: &[f32], row: usize, columns: usize) -> Vec<f64> {
    matrix[row * columns..][..columns].iter().map(|&v| f64::from(v)).collect()
}

impl OfHead {
    /// Gradients of queries, keys and values from that of the result.
    fn backward(&self, of_result: &[Vec<f64>], dim: usize) -> [Vec<Vec<f64>>; 3] {
        let length = self.q.len();
        let scale = 1.0 / (dim as f64).sqrt();
        let zeros = || vec![vec![0.0; dim]; length];
        let (mut dq, mut dk, mut dv) = (zeros(), zeros(), zeros());
        for t in 0..length {
            let of_weights: Vec<f64> = self.v.iter().map(|v| dot(&of_result[t], v)).collect();
            let mean = dot(&of_weights, &self.weights[t]);
            for s in 0..length {
                let weight = self.weights[t][s];
                let of_score = weight * (of_weights[s] - mean) * scale;
                for e in 0..dim {
                    dq[t][e] += of_score * self.k[s][e];
                    dk[s][e] += of_score * self.q[t][e];
                    dv[s][e] += weight * of_result[t][e];
                }
            }
        }
        [dq, dk, dv]
    }
}

/// Attention along all axes, without what follows; and the maps that the second and third axis read.
pub(super) fn attend(
    program: &Program,
    parameters: &Parameters,
    step: &Attention,
    input: &[f32],
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let mut between = vec![];
    let mut result = vec![0.0; input.len()];
    for axis in 0..3 {
        let of_axis = Axis::new(program, parameters, step, axis);
        if step.sum || axis == 0 {
            of_axis.forward(input, program.batch, &mut result);
        } else {
            let before = std::mem::replace(&mut result, vec![0.0; input.len()]);
            of_axis.forward(&before, program.batch, &mut result);
            between.push(before);
        }
    }
    (result, between)
}

/// Gradient of the input, and those of all parameters.
pub(super) fn attend_backward(
    program: &Program,
    parameters: &Parameters,
    step: &Attention,
    (input, between): (&[f32], &[Vec<f32>]),
    grad: &[f32],
) -> (Vec<f32>, Vec<(ParameterId, Vec<f32>)>) {
    let narrow = |sums: Vec<f64>| sums.into_iter().map(|s| s as f32).collect();
    let mut gradients = vec![];
    let mut result = vec![0.0; input.len()];
    let mut from = grad.to_vec();
    for axis in (0..3).rev() {
        let of_axis = Axis::new(program, parameters, step, axis);
        let read = if step.sum || axis == 0 { input } else { &between[axis - 1] };
        let sums = of_axis.backward(read, &from, program.batch, &mut result);
        let AxisParameters { q, kv, out, bias } = step.axes[axis];
        gradients.extend([q, kv, out, bias].into_iter().zip(sums.map(narrow)));
        if !step.sum && axis > 0 {
            from = std::mem::replace(&mut result, vec![0.0; input.len()]);
        }
    }
    let shape = program.map(step.input);
    for (axis, id) in step.positions.into_iter().enumerate() {
        let length = shape.size[axis];
        let stride: usize = shape.size[axis + 1..].iter().product();
        let mut sums = vec![0.0f64; shape.channels * length];
        for (i, &g) in result.iter().enumerate() {
            let (c, place) = (i / shape.voxels() % shape.channels, i % shape.voxels() / stride % length);
            sums[c * length + place] += f64::from(g);
        }
        gradients.push((id, narrow(sums)));
    }
    (result, gradients)
}
