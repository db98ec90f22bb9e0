//! Files as nnU-Net saves them, made from numbers.

use std::fs;
use std::io::Write as _;
use std::path::Path;

use npyz::WriterBuilder as _;

/// Writes an npz file with one array in single precision.
pub(crate) fn save_array(path: &Path, name: &str, shape: &[u64], values: &[f32]) {
    let mut zip = zip::ZipWriter::new(fs::File::create(path).expect("a file"));
    zip.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).expect("an entry");
    let mut bytes = Vec::new();
    let mut array = npyz::WriteOptions::<f32>::new()
        .default_dtype()
        .shape(shape)
        .writer(&mut bytes)
        .begin_nd()
        .expect("a header");
    array.extend(values.iter().copied()).expect("values");
    array.finish().expect("all values");
    zip.write_all(&bytes).expect("written");
    zip.finish().expect("a zip");
}
