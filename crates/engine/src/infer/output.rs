//! `CASE.npz`: probabilities as nnU-Net saves them.

use std::io::{BufWriter, Write};
use std::path::Path;

use glioseg_volume::{VolumeError, atomic};
use npyz::WriterBuilder;

use super::export::Probabilities;

/// Writes `probabilities`, `f32`, `[output, z, y, x]`, as a compressed npz; one output is in memory at a time.
///
/// # Errors
/// [`VolumeError::Io`] with the path; no unfinished file is left.
pub(crate) fn write_probabilities(path: &Path, probabilities: &Probabilities) -> Result<(), VolumeError> {
    atomic::write(path, |file| {
        let mut zip = zip::ZipWriter::new(file);
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Deflated)
            .compression_level(Some(1))
            .large_file(true);
        zip.start_file("probabilities.npy", options)?;
        let [z, y, x] = probabilities.shape().map(|n| n as u64);
        let mut array = npyz::WriteOptions::<f32>::new()
            .default_dtype()
            .shape(&[probabilities.outputs() as u64, z, y, x])
            .writer(BufWriter::new(&mut zip))
            .begin_nd()?;
        for output in 0..probabilities.outputs() {
            array.extend(probabilities.channel(output))?;
        }
        array.finish()?;
        zip.finish()?.flush()
    })
}
