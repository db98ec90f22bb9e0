//! The mean of several arrays and the labels it gives, piece by piece: no array is ever in memory as a whole.

use half::f16;

use super::EnsembleError;
use super::saved::{Array, Version};
use crate::Decision;

/// Values that are read at a time from every array.
const STEP: usize = 1 << 16;

/// The mean of all arrays, which must have one shape; `sink` gets it in order. Labels of every voxel come back.
///
/// # Source
/// nnU-Net v2, `average_probabilities`: a sum in `f32` in the order of the folders, divided once. v1, `merge_files`: the mean of
/// halves, summed in `f32`, is rounded to half before anything is decided, so that 0.5002 is no longer above one half.
pub(crate) fn merge(
    arrays: &mut [Array<'_>],
    decision: &Decision,
    mut sink: impl FnMut(&[f32]) -> Result<(), EnsembleError>,
) -> Result<Vec<u16>, EnsembleError> {
    let (count, version, voxels) = (arrays.len() as f32, arrays[0].version, arrays[0].voxels());
    let mut seg = vec![0u16; voxels];
    let mut best = if let Decision::Labels(_) = decision { vec![0f32; voxels] } else { Vec::new() };
    let (mut mean, mut next) = (Vec::new(), Vec::new());
    for output in 0..decision.outputs() {
        for start in (0..voxels).step_by(STEP) {
            let length = STEP.min(voxels - start);
            mean.resize(length, 0.0);
            next.resize(length, 0.0);
            arrays[0].next(&mut mean)?;
            for array in &mut arrays[1..] {
                array.next(&mut next)?;
                mean.iter_mut().zip(&next).for_each(|(m, n)| *m += n);
            }
            for value in &mut mean {
                *value /= count;
                if version == Version::V1 {
                    *value = f16::from_f32(*value).to_f32();
                }
            }
            sink(&mean)?;
            let best = best.get_mut(start..).unwrap_or_default();
            decision.take(output, &mean, true, &mut seg[start..start + length], best);
        }
    }
    Ok(seg)
}
