//! A patch, and what of the enlarged patch it is cut from.

use super::AugmentError;

/// Image and segmentation of one patch.
///
/// # Shapes
/// `data` is `[c, z, y, x]`, `seg` is `[s, z, y, x]`: label map first, in a cascade the previous stage's second; -1 is
/// outside. Patches of 2d configurations have one slice, `z = 1`.
#[derive(Debug, Clone, PartialEq)]
pub struct Patch {
    /// Voxels per axis.
    pub shape: [usize; 3],
    /// Image.
    pub data: Vec<f32>,
    /// Segmentation.
    pub seg: Vec<i16>,
}

impl Patch {
    /// A patch from its parts.
    ///
    /// # Errors
    /// [`AugmentError::PatchSize`] if `data` or `seg` is empty or holds no whole number of channels of `shape`.
    pub fn new(shape: [usize; 3], data: Vec<f32>, seg: Vec<i16>) -> Result<Patch, AugmentError> {
        let voxels = shape.iter().product::<usize>();
        let fits = |len: usize| voxels > 0 && len > 0 && len.is_multiple_of(voxels);
        if fits(data.len()) && fits(seg.len()) {
            Ok(Patch { shape, data, seg })
        } else {
            Err(AugmentError::PatchSize { shape, data: data.len(), seg: seg.len() })
        }
    }

    /// Voxels of one channel.
    pub fn voxels(&self) -> usize {
        self.shape.iter().product()
    }

    /// Channels of the image.
    pub fn channels(&self) -> usize {
        self.data.len() / self.voxels()
    }

    /// Channels of the segmentation.
    pub fn seg_channels(&self) -> usize {
        self.seg.len() / self.voxels()
    }

    /// One channel of the image.
    pub fn channel(&self, c: usize) -> &[f32] {
        let n = self.voxels();
        &self.data[c * n..(c + 1) * n]
    }

    /// One channel of the image, to change.
    pub fn channel_mut(&mut self, c: usize) -> &mut [f32] {
        let n = self.voxels();
        &mut self.data[c * n..(c + 1) * n]
    }

    /// Channels of the image that have a value, with it.
    pub(super) fn selected<'a, T>(
        &'a mut self,
        values: &'a [Option<T>],
    ) -> impl Iterator<Item = (&'a mut [f32], &'a T)> {
        let n = self.voxels();
        self.data.chunks_exact_mut(n).zip(values).filter_map(|(c, v)| v.as_ref().map(|v| (c, v)))
    }
}

/// What sampling needs to know of a patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Channels of the image.
    pub channels: usize,
    /// Voxels per axis of the final patch.
    pub shape: [usize; 3],
    /// The configuration is 2d: axis 0 has one slice and takes no part.
    pub planar: bool,
}

impl Layout {
    /// The axes that take part.
    pub fn axes(&self) -> std::ops::Range<usize> {
        usize::from(self.planar)..3
    }
}

/// The enlarged patch that the spatial transform samples from, or the part of it that was read.
///
/// Reading only what [`super::PipelineParams::source_box`] names spares most of the reading of patches that are merely
/// cropped.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The voxels that were read.
    pub patch: &'a Patch,
    /// Where they begin in the enlarged patch.
    pub origin: [usize; 3],
    /// Voxels per axis of the enlarged patch.
    pub full: [usize; 3],
}

impl<'a> Source<'a> {
    /// A source that is there as a whole.
    pub fn whole(patch: &'a Patch) -> Source<'a> {
        Source { patch, origin: [0; 3], full: patch.shape }
    }
}
