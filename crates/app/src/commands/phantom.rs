//! `glioseg phantom`: artificial cases in the layouts that real ones come in.

use std::path::Path;

use anyhow::Context as _;
use glioseg_formats::nifti;
use glioseg_volume::phantom::{CHANNELS, Phantom as Made, PhantomOptions, phantom};
use glioseg_volume::{LabelMap, Volume};
use serde_json::json;

use super::Outcome;
use crate::cli::{Layout, Phantom};
use crate::problem::Problem;
use crate::ui::Ui;

/// Names of the channels in BraTS 2023 and later.
const BRATS_SUFFIXES: [&str; 4] = ["t1n", "t1c", "t2w", "t2f"];
/// Edge in mm of a phantom's field of view: the same head at every size.
const FIELD_MM: f64 = 192.0;

pub(crate) fn run(options: &Phantom, ui: &Ui) -> anyhow::Result<Outcome> {
    if options.cases == 0 {
        return Err(Problem::new("--cases is 0", "make at least one case"));
    }
    write_cohort(&options.out, options.cases, options.seed, usize::from(options.size), options.layout, ui)?;
    Ok(Outcome::Done)
}

/// Writes `cases` phantoms; case `i` of seed `s` is the same whatever the number of cases.
pub(crate) fn write_cohort(
    out: &Path,
    cases: usize,
    seed: u64,
    size: usize,
    layout: Layout,
    ui: &Ui,
) -> anyhow::Result<()> {
    for i in 0..cases {
        let options = PhantomOptions {
            shape: [size; 3],
            spacing_mm: [FIELD_MM / size as f64; 3],
            seed: seed.wrapping_mul(1_000_003).wrapping_add(i as u64),
            ..PhantomOptions::default()
        };
        let case = phantom(&options)?;
        match layout {
            Layout::Nnunet => write_nnunet(out, i, &case)?,
            Layout::Brats => write_brats(out, i, &case)?,
        }
        ui.say(&format!("phantom {}/{cases}", i + 1));
    }
    if matches!(layout, Layout::Nnunet) {
        write_description(out, cases)?;
    }
    Ok(())
}

/// Writes phantoms as an nnU-Net raw dataset.
pub(crate) fn write_raw(out: &Path, cases: &[Made]) -> anyhow::Result<()> {
    for (i, case) in cases.iter().enumerate() {
        write_nnunet(out, i, case)?;
    }
    write_description(out, cases.len())
}

/// Writes the `dataset.json` of a raw dataset of phantoms.
fn write_description(out: &Path, cases: usize) -> anyhow::Result<()> {
    let dataset = json!({
        "channel_names": CHANNELS.iter().enumerate().map(|(i, c)| (i.to_string(), json!(c))).collect::<serde_json::Map<_, _>>(),
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
        "regions_class_order": [1, 2, 3],
        "numTraining": cases,
        "file_ending": ".nii.gz",
        "description": "Made by glioseg phantom: 1 oedema, 2 necrotic core, 3 enhancing tumour.",
    });
    let path = out.join("dataset.json");
    std::fs::write(&path, serde_json::to_string_pretty(&dataset)?)
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Name of phantom number `i` in the nnU-Net layout.
pub(crate) fn case_name(i: usize) -> String {
    format!("phantom_{i:03}")
}

fn folder(path: &Path) -> anyhow::Result<&Path> {
    std::fs::create_dir_all(path).with_context(|| format!("cannot make the folder {}", path.display()))?;
    Ok(path)
}

fn write_channels(case: &Made, name: impl Fn(usize) -> std::path::PathBuf) -> anyhow::Result<()> {
    for c in 0..case.channels.channels {
        let channel = Volume::new(1, case.channels.channel(c).to_vec(), case.channels.geometry.clone())?;
        nifti::write_volume(&name(c), &channel)?;
    }
    Ok(())
}

fn write_nnunet(out: &Path, i: usize, case: &Made) -> anyhow::Result<()> {
    let (images, labels) = (out.join("imagesTr"), out.join("labelsTr"));
    let id = case_name(i);
    folder(&images)?;
    write_channels(case, |c| images.join(format!("{id}_{c:04}.nii.gz")))?;
    nifti::write_labels(&folder(&labels)?.join(format!("{id}.nii.gz")), &case.labels)?;
    Ok(())
}

/// One folder per case; labels 1 necrotic core, 2 oedema, 3 enhancing tumour, as BraTS has them.
fn write_brats(out: &Path, i: usize, case: &Made) -> anyhow::Result<()> {
    let id = format!("BraTS-PHANTOM-{i:05}-000");
    let path = out.join(&id);
    folder(&path)?;
    write_channels(case, |c| path.join(format!("{id}-{}.nii.gz", BRATS_SUFFIXES[c])))?;
    let data = case.labels.data.iter().map(|&l| [0, 2, 1, 3][usize::from(l)]).collect();
    let labels = LabelMap::new(data, case.labels.geometry.clone())?;
    nifti::write_labels(&path.join(format!("{id}-seg.nii.gz")), &labels)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_phantom_is_the_same_in_both_layouts_but_for_the_label_coding() {
        let dir = tempfile::tempdir().expect("a folder");
        let ui = Ui::new(true);
        for (layout, name) in [(Layout::Nnunet, "n"), (Layout::Brats, "b")] {
            write_cohort(&dir.path().join(name), 1, 5, 32, layout, &ui).expect("written");
        }
        let read = |p: &str| nifti::read_volume(&dir.path().join(p)).expect("readable");
        let nnunet = read("n/imagesTr/phantom_000_0003.nii.gz");
        assert_eq!(nnunet.data, read("b/BraTS-PHANTOM-00000-000/BraTS-PHANTOM-00000-000-t2f.nii.gz").data);
        let ours = read("n/labelsTr/phantom_000.nii.gz").data;
        let brats = read("b/BraTS-PHANTOM-00000-000/BraTS-PHANTOM-00000-000-seg.nii.gz").data;
        assert!(ours.iter().zip(&brats).all(|(&a, &b)| b as usize == [0, 2, 1, 3][a as usize]));
        assert!(ours.contains(&1.0), "a tumour");
        let dataset = glioseg_plan::Dataset::read(&dir.path().join("n/dataset.json")).expect("a dataset");
        assert_eq!(dataset.labels.num_outputs(), 3);
    }
}
