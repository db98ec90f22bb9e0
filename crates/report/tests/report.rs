//! Reports of made cohorts: what is in the file, what is not, and how large it is.

use std::path::{Path, PathBuf};

use glioseg_formats::nifti::{write_labels, write_volume};
use glioseg_metrics::LabelScheme;
use glioseg_plan::Convention;
use glioseg_report::page::{ReportCase, ReportInput, ReportRun, write_report};
use glioseg_volume::{Geometry, LabelMap, Volume};

const SHAPE: [usize; 3] = [72, 90, 80];

/// A head of noise with a tumour of three shells, as image and label map.
fn files(folder: &Path) -> (PathBuf, PathBuf) {
    let voxels = SHAPE.iter().product();
    let (mut image, mut labels) = (vec![0f32; voxels], vec![0u16; voxels]);
    let mut state = 1u32;
    for i in 0..voxels {
        let place = [i / (SHAPE[1] * SHAPE[2]), i / SHAPE[2] % SHAPE[1], i % SHAPE[2]];
        let from = |center: [f64; 3]| {
            (0..3).map(|a| ((place[a] as f64 - center[a]) / SHAPE[a] as f64).powi(2)).sum::<f64>().sqrt()
        };
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        if from([36.0, 45.0, 40.0]) < 0.48 {
            image[i] = 200.0 + (state >> 24) as f32;
        }
        labels[i] = match from([40.0, 33.0, 48.0]) {
            d if d < 0.05 => 1,
            d if d < 0.1 => 4,
            d if d < 0.18 => 2,
            _ => 0,
        };
    }
    let geometry = Geometry::isotropic(SHAPE);
    let (at, reference) = (folder.join("flair.nii"), folder.join("seg.nii"));
    write_volume(&at, &Volume::new(1, image, geometry.clone()).expect("right length")).expect("writable");
    write_labels(&reference, &LabelMap::new(labels, geometry).expect("right length")).expect("writable");
    (at, reference)
}

fn input(cases: Vec<ReportCase>) -> ReportInput {
    let regions = LabelScheme::brats(Convention::Brats124).regions;
    ReportInput {
        title: "A <cohort> & more".into(),
        runs: vec![ReportRun { name: "run".into(), regions: regions.clone(), ..ReportRun::default() }],
        cases,
        regions,
        curves: Vec::new(),
    }
}

#[test]
fn a_report_of_1251_cases_stays_openable() {
    let folder = tempfile::tempdir().expect("a folder");
    let (image, labels) = files(folder.path());
    let case = |i: usize| ReportCase {
        id: format!("BraTS2021_{i:05}"),
        channels: ["flair", "t1ce"].map(|n| (n.to_owned(), image.clone())).to_vec(),
        reference: Some(labels.clone()),
        predictions: vec![Some(labels.clone())],
        ..ReportCase::default()
    };
    let path = folder.path().join("report.html");
    let written = write_report(&input((0..1251).map(case).collect()), &path, &|_, _| {}).expect("a report");
    assert_eq!((written.cases, written.left_out.len()), (1251, 0));
    let text = std::fs::read_to_string(&path).expect("written");
    assert_eq!(text.len(), written.bytes);
    // Noise is the worst of images to compress; a browser opens a page of some tens of MB.
    assert!(text.len() < 60_000_000, "{} bytes", text.len());
    assert_eq!(text.matches("id=\"case-").count(), 1251, "a block per case, unpacked when it is opened");
    assert!(!text.contains("<svg") && !text.contains("<img"), "nothing is drawn before it is asked for");
}

#[test]
fn the_file_is_whole_and_text_from_outside_is_data() {
    let folder = tempfile::tempdir().expect("a folder");
    let (image, labels) = files(folder.path());
    let other = folder.path().join("other.nii");
    let small = Geometry::isotropic([4, 4, 4]);
    write_labels(&other, &LabelMap::new(vec![0; 64], small).expect("right length")).expect("writable");
    let broken = folder.path().join("broken.nii.gz");
    std::fs::write(&broken, b"no image").expect("writable");
    let cases = vec![
        ReportCase {
            id: "</script><img src=x onerror=alert(1)>".into(),
            channels: vec![("flair".into(), image)],
            reference: Some(labels),
            predictions: vec![Some(other)],
            ..ReportCase::default()
        },
        ReportCase { id: "b".into(), reference: Some(broken), ..ReportCase::default() },
        ReportCase { id: "c".into(), ..ReportCase::default() },
    ];
    let path = folder.path().join("report.html");
    let written = write_report(&input(cases), &path, &|_, _| {}).expect("a report");
    let told = written.left_out.join("\n");
    assert!(told.contains("run lies on another grid and is not drawn"), "{told}");
    assert!(told.contains("broken.nii.gz"), "{told}");
    let text = std::fs::read_to_string(&path).expect("written");
    assert!(text.contains("<title>A &lt;cohort&gt; &amp; more</title>"));
    assert!(!text.contains("onerror") && !text.contains("{{"), "names reach the page as data only");
    for outside in ["src=\"http", "href=\"http", "url(http", "@import"] {
        assert!(!text.contains(outside), "{outside}");
    }
    assert!(text.contains("Content-Security-Policy") && text.contains("not a medical device"));
    // The file itself names what a server has to serve: the folder that holds it and the volumes.
    assert_eq!(written.root, folder.path().canonicalize().expect("absolute"));
}
