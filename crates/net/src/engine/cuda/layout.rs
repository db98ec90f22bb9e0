//! Where parameters lie on a device: matrices of convolutions with their channels padded, everything else as it is.

use std::ops::Range;

use crate::program::{Conv, MapId, ParameterId, Program, Step};

/// Channels of a map on a device are a multiple of this; kernels take as many at a time.
pub(super) const GROUP: usize = 8;
/// Parameters begin at multiples of so many values.
pub(super) const ALIGNMENT: usize = 64;

/// Channels, and how many places they take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Padded {
    /// Channels.
    pub(super) real: usize,
    /// Places.
    pub(super) places: usize,
}

impl Padded {
    /// With places for whole groups.
    pub(super) fn new(real: usize) -> Self {
        Self { real, places: real.next_multiple_of(GROUP) }
    }

    /// Without padding.
    pub(super) fn tight(real: usize) -> Self {
        Self { real, places: real }
    }
}

/// A map's channels on a device; the network's input has no padding.
pub(super) fn channels_of(program: &Program, map: MapId) -> Padded {
    let real = program.map(map).channels;
    if map == Program::INPUT { Padded::tight(real) } else { Padded::new(real) }
}

/// How a matrix `[first, second, taps]` of a file lies on a device: `[first, taps, second]`, the second of several parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Matrix {
    pub(super) first: Padded,
    pub(super) second: Vec<Padded>,
    pub(super) taps: usize,
}

impl Matrix {
    /// Values on the device.
    pub(super) fn len(&self) -> usize {
        self.first.places * self.taps * self.row()
    }

    fn row(&self) -> usize {
        self.second.iter().map(|part| part.places).sum()
    }

    /// For every value of the file its place on the device.
    fn places(&self) -> impl Iterator<Item = usize> {
        let row = self.row();
        let mut start = 0;
        let mut columns = vec![];
        for part in &self.second {
            columns.extend(start..start + part.real);
            start += part.places;
        }
        (0..self.first.real).flat_map(move |o| {
            let columns = columns.clone();
            columns.into_iter().flat_map(move |i| (0..self.taps).map(move |t| (o * self.taps + t) * row + i))
        })
    }

    /// The file's values as the device has them.
    pub(super) fn pack(&self, values: &[f32], to: &mut [f32]) {
        for (place, &value) in self.places().zip(values) {
            to[place] = value;
        }
    }

    /// The way back.
    pub(super) fn unpack(&self, from: &[f32]) -> Vec<f32> {
        self.places().map(|place| from[place]).collect()
    }
}

/// What a parameter is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    /// Of a convolution: in the maps' precision too, gradient in it.
    Matrix(Matrix),
    /// Of a head: in single precision.
    Head(Matrix),
    /// Values as they are, in single precision.
    Vector,
}

/// The region that a parameter lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Region {
    /// Matrices of convolutions.
    Matrices,
    /// Everything else that is trained.
    Vectors,
    /// Running statistics.
    Kept,
}

/// A parameter's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) role: Role,
    pub(super) region: Region,
    /// Values of the region.
    pub(super) range: Range<usize>,
}

/// All parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) places: Vec<Place>,
    /// Values of matrices, vectors, running statistics.
    pub(super) len: [usize; 3],
}

impl Layout {
    pub(super) fn new(program: &Program) -> Self {
        let mut roles: Vec<Role> = program.parameters.iter().map(|_| Role::Vector).collect();
        let mut matrix = |id: ParameterId, first: Padded, second: Vec<Padded>, taps: usize| {
            roles[id.0] = Role::Matrix(Matrix { first, second, taps });
        };
        let taps = |conv: &Conv| conv.kernel.iter().product::<usize>();
        for step in &program.forward {
            let out = channels_of(program, step.out());
            let inputs: Vec<Padded> = step.inputs().iter().map(|&i| channels_of(program, i)).collect();
            match step {
                Step::Block(block) => matrix(block.conv.weight, out, inputs, taps(&block.conv)),
                Step::UpBlock(block) => {
                    let between = Padded::new(block.between.channels);
                    matrix(block.up.weight, inputs[0], vec![between], taps(&block.up));
                    matrix(block.conv.weight, out, vec![between, inputs[1]], taps(&block.conv));
                }
                Step::Up(up) => matrix(up.conv.weight, inputs[0], vec![out], taps(&up.conv)),
                Step::Attention(attention) => {
                    let hidden = attention.heads * attention.dim_heads;
                    for axis in &attention.axes {
                        matrix(axis.q, Padded::new(hidden), vec![out], 1);
                        matrix(axis.kv, Padded::new(2 * hidden), vec![out], 1);
                        matrix(axis.out, out, vec![Padded::new(hidden)], 1);
                    }
                }
                Step::Head(_) | Step::Pool(_) | Step::AddActivate(_) => {}
            }
        }
        for step in &program.forward {
            if let Step::Head(head) = step {
                let first = Padded::tight(program.map(head.out).channels);
                let second = vec![channels_of(program, head.input)];
                roles[head.conv.weight.0] = Role::Head(Matrix { first, second, taps: 1 });
            }
        }
        let mut len = [0; 3];
        let place = |(role, shape): (Role, &crate::ParameterShape)| {
            let region = match role {
                _ if !shape.trained => Region::Kept,
                Role::Matrix(_) => Region::Matrices,
                _ => Region::Vectors,
            };
            let values = match &role {
                Role::Matrix(matrix) | Role::Head(matrix) => matrix.len(),
                Role::Vector => shape.len(),
            };
            let end = &mut len[region as usize];
            let start = *end;
            *end = (start + values).next_multiple_of(ALIGNMENT);
            Place { role, region, range: start..start + values }
        };
        let places = roles.into_iter().zip(program.parameters.iter()).map(place).collect();
        Self { places, len }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_comes_back_as_it_was_and_its_padding_stays() {
        let matrix = Matrix { first: Padded::new(3), second: vec![Padded::new(5), Padded::new(9)], taps: 4 };
        assert_eq!(matrix.len(), 8 * 4 * (8 + 16));
        let values: Vec<f32> = (1..=3 * 14 * 4).map(|v| v as f32).collect();
        let mut packed = vec![0.0; matrix.len()];
        matrix.pack(&values, &mut packed);
        assert_eq!(matrix.unpack(&packed), values);
        assert_eq!(packed.iter().filter(|&&v| v > 0.0).count(), values.len());
        // Output 1, input 6 (the second of the second part), tap 2.
        assert!((packed[(4 + 2) * 24 + 8 + 1] - values[(14 + 6) * 4 + 2]).abs() < 0.5);
    }
}
