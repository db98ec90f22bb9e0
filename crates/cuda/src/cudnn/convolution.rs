//! A convolution in numbers.

use std::fmt;

/// What the values of maps and weights are; sums are in single precision always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element {
    /// Single precision.
    F32,
    /// bfloat16: GPUs since compute capability 8.0.
    Bf16,
    /// Half precision.
    F16,
}

impl Element {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// Bytes of a value.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }

    /// The word of messages, and the ending of the names of kernels.
    pub const fn word(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// `cudnnDataType_t`.
    pub(super) const fn number(self) -> i32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 2,
            Self::Bf16 => 9,
        }
    }
}

/// Which of the three products of a convolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Pass {
    /// Input and weights to output.
    Forward,
    /// Gradient of the output and weights to gradient of the input.
    Data,
    /// Input and gradient of the output to gradient of the weights.
    Filter,
}

impl Pass {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Forward, Self::Data, Self::Filter];

    /// The word of messages.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Data => "data gradient",
            Self::Filter => "weight gradient",
        }
    }
}

/// One product of a 3D convolution. Maps are `[n, z, y, x, c]`, weights `[out, kz, ky, kx, in]`.
///
/// A transposed convolution whose stride is its kernel is the data gradient of the convolution back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Convolution {
    /// Which product.
    pub pass: Pass,
    /// Values of maps and weights.
    pub element: Element,
    /// Samples.
    pub batch: usize,
    /// Channels of the input and of the output.
    pub channels: [usize; 2],
    /// Voxels of the input, `[z, y, x]`.
    pub input: [usize; 3],
    /// Voxels, `[z, y, x]`.
    pub kernel: [usize; 3],
    /// Voxels, `[z, y, x]`.
    pub stride: [usize; 3],
    /// Zeros on either side, `[z, y, x]`.
    pub padding: [usize; 3],
    /// The result is added to what is there.
    pub add: bool,
}

impl Convolution {
    /// Voxels of the output, `[z, y, x]`.
    ///
    /// # Panics
    /// If a padded axis is shorter than the kernel.
    pub fn output(&self) -> [usize; 3] {
        std::array::from_fn(|a| {
            let padded = self.input[a] + 2 * self.padding[a];
            assert!(padded >= self.kernel[a], "{self}: a kernel larger than the padded input");
            (padded - self.kernel[a]) / self.stride[a] + 1
        })
    }

    /// Values of input, weights and output.
    pub fn values(&self) -> [usize; 3] {
        let [from, to] = self.channels;
        let product = |size: [usize; 3]| size.iter().product::<usize>();
        [
            self.batch * product(self.input) * from,
            product(self.kernel) * from * to,
            self.batch * product(self.output()) * to,
        ]
    }

    /// Floating point operations, two per multiply-add, padding counted.
    pub fn flops(&self) -> u64 {
        let product = |size: [usize; 3]| size.iter().product::<usize>() as u64;
        let [from, to] = self.channels.map(|c| c as u64);
        2 * self.batch as u64 * from * to * product(self.kernel) * product(self.output())
    }
}

impl fmt::Display for Convolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [from, to] = self.channels;
        let by = |[z, y, x]: [usize; 3]| format!("{z}x{y}x{x}");
        write!(
            f,
            "the {} of a convolution {from} -> {to} of [{}] {} voxels, kernel {}, stride {}, in {}{}",
            self.pass.word(),
            self.batch,
            by(self.input),
            by(self.kernel),
            by(self.stride),
            self.element.word(),
            if self.add { ", added" } else { "" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_words_of_a_convolution() {
        let convolution = Convolution {
            pass: Pass::Data,
            element: Element::Bf16,
            batch: 2,
            channels: [32, 64],
            input: [128, 128, 7],
            kernel: [3; 3],
            stride: [1, 2, 2],
            padding: [1; 3],
            add: true,
        };
        assert_eq!(convolution.output(), [128, 64, 4]);
        assert_eq!(convolution.values(), [2 * 128 * 128 * 7 * 32, 27 * 32 * 64, 2 * 128 * 64 * 4 * 64]);
        assert_eq!(convolution.flops(), 2 * 27 * 32 * convolution.values()[2] as u64);
        assert_eq!(
            convolution.to_string(),
            "the data gradient of a convolution 32 -> 64 of [2] 128x128x7 voxels, kernel 3x3x3, stride 1x2x2, in bf16, added"
        );
    }
}
