//! An image and a label map in memory.

use crate::error::{NotFinite, VolumeError};
use crate::geometry::Geometry;

/// An image of one or more channels on one grid.
#[derive(Debug, Clone, PartialEq)]
pub struct Volume {
    /// How many channels.
    pub channels: usize,
    /// Values, `[c, z, y, x]`.
    pub data: Vec<f32>,
    /// The grid.
    pub geometry: Geometry,
}

/// A label per voxel.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelMap {
    /// Labels, `[z, y, x]`.
    pub data: Vec<u16>,
    /// The grid.
    pub geometry: Geometry,
}

impl Volume {
    /// An image of `channels * z * y * x` values.
    ///
    /// # Errors
    /// [`VolumeError::Length`] if `data` has another length, or there is no channel.
    pub fn new(channels: usize, data: Vec<f32>, geometry: Geometry) -> Result<Self, VolumeError> {
        check_length(channels, data.len(), &geometry)?;
        Ok(Self { channels, data, geometry })
    }

    /// z, y, x.
    pub const fn shape(&self) -> [usize; 3] {
        self.geometry.shape
    }

    /// Values of a channel, `[z, y, x]`.
    ///
    /// # Panics
    /// If there is no such channel.
    pub fn channel(&self, channel: usize) -> &[f32] {
        assert!(channel < self.channels, "channel {channel} of {}", self.channels);
        let voxels = self.geometry.voxels();
        &self.data[channel * voxels..(channel + 1) * voxels]
    }

    /// Values of a channel, `[z, y, x]`.
    ///
    /// # Panics
    /// If there is no such channel.
    pub fn channel_mut(&mut self, channel: usize) -> &mut [f32] {
        assert!(channel < self.channels, "channel {channel} of {}", self.channels);
        let voxels = self.geometry.voxels();
        &mut self.data[channel * voxels..(channel + 1) * voxels]
    }

    /// Checks that every voxel is a finite number.
    ///
    /// # Errors
    /// [`NotFinite`] with the number of NaN and infinite voxels and the first of them.
    pub fn check_finite(&self) -> Result<(), NotFinite> {
        // The exponent bits are all set for NaN and infinity only; a branch-free count is quick enough to run always.
        let count = self.data.iter().filter(|v| !v.is_finite()).count();
        if count == 0 {
            return Ok(());
        }
        let index = self.data.iter().position(|v| !v.is_finite()).unwrap_or(0);
        let voxels = self.geometry.voxels();
        Err(NotFinite {
            count,
            total: self.data.len(),
            channel: index / voxels,
            position: self.geometry.position(index % voxels),
            value: self.data[index],
        })
    }

    /// Makes every voxel that is NaN or infinite 0; tells channel and number of each channel that had some.
    pub fn clear_not_finite(&mut self) -> Vec<(usize, usize)> {
        let voxels = self.geometry.voxels();
        let mut found = Vec::new();
        for (channel, values) in self.data.chunks_exact_mut(voxels.max(1)).enumerate() {
            let count = values.iter().filter(|v| !v.is_finite()).count();
            if count > 0 {
                values.iter_mut().filter(|v| !v.is_finite()).for_each(|v| *v = 0.0);
                found.push((channel, count));
            }
        }
        found
    }
}

impl LabelMap {
    /// A map of `z * y * x` labels.
    ///
    /// # Errors
    /// [`VolumeError::Length`] if `data` has another length.
    pub fn new(data: Vec<u16>, geometry: Geometry) -> Result<Self, VolumeError> {
        check_length(1, data.len(), &geometry)?;
        Ok(Self { data, geometry })
    }

    /// z, y, x.
    pub const fn shape(&self) -> [usize; 3] {
        self.geometry.shape
    }
}

fn check_length(channels: usize, found: usize, geometry: &Geometry) -> Result<(), VolumeError> {
    let expected = channels * geometry.voxels();
    if channels == 0 || expected != found {
        return Err(VolumeError::Length { channels, shape: geometry.shape, expected, found });
    }
    Ok(())
}
