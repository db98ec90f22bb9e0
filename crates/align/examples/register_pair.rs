//! Registers one image to another and prints the transform: `register_pair FIXED MOVING [wide] [affine] [out=FILE.tfm|FILE.mat]`.
//!
//! stdout: the three rows of the matrix, point of FIXED to point of MOVING, LPS mm. stderr: seconds, evaluations, information.
//! The benchmark of docs/benchmarks.md runs it on pairs of known truth.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example prints what it found")]

use std::path::Path;
use std::time::Instant;

use glioseg_align::{Freedom, Pyramid, RegistrationOptions, register};
use glioseg_formats::nifti;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [fixed, moving, options @ ..] = arguments.as_slice() else {
        return Err("usage: register_pair FIXED MOVING [wide] [affine] [out=FILE]".into());
    };
    let has = |word: &str| options.iter().any(|o| o == word);
    let (fixed, moving) = (nifti::read_volume(Path::new(fixed))?, nifti::read_volume(Path::new(moving))?);
    let start = Instant::now();
    let freedom = if has("affine") { Freedom::Affine } else { Freedom::Rigid };
    let found = register(
        &Pyramid::new(fixed.channel(0), &fixed.geometry)?,
        &Pyramid::new(moving.channel(0), &moving.geometry)?,
        &RegistrationOptions { freedom, wide: has("wide") },
    );
    eprintln!(
        "seconds {:.3} evaluations {} information {:.5} (before {:.5}) overlap {:.3}",
        start.elapsed().as_secs_f64(),
        found.evaluations,
        found.information,
        found.information_before,
        found.overlap
    );
    for row in found.transform.rows() {
        println!("{:.9} {:.9} {:.9} {:.9}", row[0], row[1], row[2], row[3]);
    }
    if let Some(path) = options.iter().find_map(|o| o.strip_prefix("out=")) {
        let matlab = Path::new(path).extension().is_some_and(|e| e == "mat");
        let bytes = if matlab { found.transform.to_mat() } else { found.transform.to_tfm().into_bytes() };
        std::fs::write(path, bytes)?;
    }
    Ok(())
}
