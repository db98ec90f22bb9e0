//! Sizes of a convolution.

/// Sizes of a 3D convolution; axes are depth, height, width. Dilation and groups are 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConvShape {
    /// Samples.
    pub batch: usize,
    /// Channels read.
    pub in_channels: usize,
    /// Channels written.
    pub out_channels: usize,
    /// Input voxels per axis.
    pub input: [usize; 3],
    /// Kernel voxels per axis.
    pub kernel: [usize; 3],
    /// Step per axis.
    pub stride: [usize; 3],
    /// Zeros on either side per axis.
    pub padding: [usize; 3],
}

impl ConvShape {
    /// Stride 1 or more with "same" padding, `(kernel - 1) / 2`, as nnU-Net's layers have it.
    pub fn same(
        batch: usize,
        in_channels: usize,
        out_channels: usize,
        input: [usize; 3],
        kernel: [usize; 3],
        stride: [usize; 3],
    ) -> Self {
        let padding = kernel.map(|k| (k - 1) / 2);
        Self { batch, in_channels, out_channels, input, kernel, stride, padding }
    }

    /// Output voxels per axis.
    ///
    /// # Panics
    /// If the kernel is larger than the padded input, or a size is zero.
    pub fn output(&self) -> [usize; 3] {
        std::array::from_fn(|a| {
            let (size, kernel, stride) =
                (self.input[a] + 2 * self.padding[a], self.kernel[a], self.stride[a]);
            assert!(kernel > 0 && stride > 0 && kernel <= size, "no output of {self:?} along axis {a}");
            (size - kernel) / stride + 1
        })
    }

    /// Input voxels of one channel.
    pub fn in_voxels(&self) -> usize {
        self.input.iter().product()
    }

    /// Output voxels of one channel.
    pub fn out_voxels(&self) -> usize {
        self.output().iter().product()
    }

    /// Taps of the kernel.
    pub fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Length of the input.
    pub fn in_len(&self) -> usize {
        self.batch * self.in_channels * self.in_voxels()
    }

    /// Length of the output.
    pub fn out_len(&self) -> usize {
        self.batch * self.out_channels * self.out_voxels()
    }

    /// Length of the weights, `[out, in, kd, kh, kw]`.
    pub fn weight_len(&self) -> usize {
        self.out_channels * self.in_channels * self.taps()
    }

    /// Floating point operations of the direct algorithm: a multiplication and an addition per tap, padding included.
    pub fn flops(&self) -> f64 {
        2.0 * (self.batch * self.out_voxels()) as f64 * self.weight_len() as f64
    }
}
