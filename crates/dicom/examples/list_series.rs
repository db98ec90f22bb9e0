//! Lists the series of a folder, and what keeps them from being volumes: `list_series FOLDER [OUT]`. With OUT, volumes are written
//! there as raw little-endian `f32`, `NAME_ZxYxX.f32`, with their affine (R, A, S) in `NAME.txt`.

use std::path::Path;

use glioseg_dicom::{LeftOut, Studies};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: list_series FOLDER [OUT]")?;
    let out = arguments.next();
    let found = Studies::read_all(Path::new(&folder))?;
    for study in &found.studies {
        println!("study of {}, {} series", study.date, study.series.len());
        for series in &study.series {
            println!("  {} | {} files", series.title(), series.files);
            match &series.left_out {
                Some(LeftOut::Fault(error)) => println!("    error: {error}"),
                Some(LeftOut::NotAVolume(reason)) => println!("    not a volume: {reason}"),
                None => {}
            }
            series.notes.iter().for_each(|note| println!("    note: {note}"));
            for stack in &series.stacks {
                println!(
                    "    {} | {:?} voxels of {:?} mm",
                    stack.name, stack.geometry.shape, stack.geometry.spacing
                );
                stack.notes.iter().for_each(|note| println!("    note: {note}"));
                let Some(out) = &out else { continue };
                let volume = stack.read()?;
                let [z, y, x] = volume.shape();
                let bytes: Vec<u8> = volume.data.iter().flat_map(|v| v.to_le_bytes()).collect();
                std::fs::write(format!("{out}/{}_{z}x{y}x{x}.f32", stack.name), bytes)?;
                let rows = volume.geometry.affine().rows();
                std::fs::write(format!("{out}/{}.txt", stack.name), format!("{rows:?}"))?;
            }
        }
    }
    for error in &found.bad {
        println!("bad: {error}");
    }
    println!("others: {}", found.others_in_words());
    Ok(())
}
