//! DICOM studies as a user reads them: what is told of them, what is written, and what is refused.

mod support;

#[path = "../../dicom/tests/made/mod.rs"]
mod made;

use std::path::Path;

use glioseg_formats::nifti;
use glioseg_volume::LabelMap;
use made::Slice;
use support::run;

/// Ten slices of a series, 3 mm apart.
fn series(number: u32, description: &'static str, times: [f64; 3]) -> Vec<Slice> {
    let one = |k: u32| {
        let slice = Slice::new(f64::from(k) * 3.0);
        let series = format!("1.2.3.{number}");
        Slice { number, description, times, instance: format!("{series}.{k}"), series, ..slice }
    };
    (0..10).map(one).collect()
}

/// Four contrasts; the one with agent is sagittal and finer.
fn study() -> Vec<Slice> {
    let mut all = series(2, "AX T1", [10.0, 600.0, 0.0]);
    let sagittal = |mut slice: Slice| {
        let k = slice.position.map_or(0.0, |p| p[2] / 3.0);
        slice.orientation = [0.0, 1.0, 0.0, 0.0, 0.0, -1.0];
        // Rows lead back, columns down, and slices follow each other to the right.
        slice.position = Some([9.0 - k, 0.0, 27.0]);
        slice.spacing = [3.0, 2.0];
        (slice.rows, slice.columns) = (10, 5);
        slice.pixels = (0..50u16).flat_map(|i| (i + 50 * k as u16).to_le_bytes()).collect();
        Slice { agent: "Gadovist", ..slice }
    };
    all.extend(series(6, "SAG T1 POST", [3.0, 900.0, 0.0]).into_iter().map(sagittal));
    all.extend(series(3, "AX T2", [100.0, 5000.0, 0.0]));
    all.extend(series(9, "FLAIR", [120.0, 9000.0, 2500.0]));
    all
}

fn folder(slices: &[Slice]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    let study = dir.path().join("study");
    std::fs::create_dir(&study).expect("a folder");
    made::write(&study, slices);
    dir
}

/// Runs `glioseg dicom COMMAND study …`, and with `convert` `-o case`.
fn dicom(dir: &tempfile::TempDir, command: &str, more: &[&str]) -> (i32, String, String) {
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (study, case) = (at("study"), at("case"));
    let mut arguments = vec!["dicom", command, &study];
    if command == "convert" {
        arguments.extend(["-o", &case]);
    }
    arguments.extend(more);
    let (code, out, log) = run(&arguments);
    let plain = |text: String| text.replace(&format!("{}/", dir.path().display()), "");
    (code, plain(out), plain(log))
}

#[test]
fn a_study_is_listed_with_reasons() {
    let dir = folder(&study());
    let (code, out, log) = dicom(&dir, "list", &[]);
    assert_eq!(code, 0, "{log}");
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines[0], "the study of 2026-01-02: 4 series, 40 files");
    assert!(lines[2].starts_with("t1n  2       AX T1        10 x 5 x 4   3 x 2 x 3"), "{out}");
    assert!(lines[3].starts_with("t1c  6") && lines[3].contains("agent Gadovist"), "{out}");
    let (code, out, log) = dicom(&dir, "list", &["--json"]);
    assert_eq!(code, 0, "{log}");
    let parsed: Vec<serde_json::Value> =
        out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let told: Vec<(&str, &str)> = parsed
        .iter()
        .map(|v| (v["series"].as_str().expect("a name"), v["contrast"].as_str().expect("a contrast")))
        .collect();
    assert_eq!(told, [("2", "t1n"), ("3", "t2w"), ("6", "t1c"), ("9", "t2f")]);
    assert_eq!(parsed[2]["echo_time_ms"], 3.0);
}

#[test]
fn contrasts_lie_on_the_grid_of_the_one_with_agent_turned_to_axial() {
    let dir = folder(&study());
    let (code, out, log) = dicom(&dir, "convert", &[]);
    assert_eq!(code, 0, "{log}");
    assert_eq!(
        out,
        "case/case-t1n.nii.gz\ncase/case-t1c.nii.gz\ncase/case-t2w.nii.gz\ncase/case-t2f.nii.gz\n"
    );
    let read = |name: &str| {
        nifti::read_volume(&dir.path().join(format!("case/case-{name}.nii.gz"))).expect("an image")
    };
    let (t1c, t2) = (read("t1c"), read("t2w"));
    // Sagittal slices of 10 rows and 5 columns, 10 of them: now z, y, x.
    assert_eq!((t1c.shape(), t1c.geometry.orientation()), ([10, 5, 10], "LPS".to_owned()));
    assert_eq!(t2.geometry, t1c.geometry);
    // Row j of slice k, column i: 27 - 3 j along z, 2 i along y, 9 - k along x.
    for (k, j, i) in [(0usize, 0usize, 0usize), (9, 9, 4), (3, 7, 2)] {
        let (z, y, x) = (9 - j, i, 9 - k);
        assert_eq!(t1c.data[(z * 5 + y) * 10 + x] as usize, k * 50 + j * 5 + i);
    }
    // The T2 has 4 columns of 3 mm and 5 rows of 2 mm: at x = 3 mm its second column.
    assert_eq!(t2.data[(4 * 5 + 2) * 10 + 3] as usize, 2 * 4 + 1 + 12 * 20);

    let (code, out, log) = dicom(&dir, "convert", &["--grid", "none"]);
    assert_eq!((code, out.lines().count()), (0, 4), "{log}");
    let whole = nifti::read_volume(&dir.path().join("case/series_6.nii.gz")).expect("an image");
    assert_eq!(whole.shape(), [10, 10, 5]);
}

#[test]
fn what_cannot_be_told_or_trusted_is_refused_with_a_remedy() {
    let refused = |slices: &[Slice], more: &[&str], words: &[&str]| {
        let dir = folder(slices);
        let (code, out, log) = dicom(&dir, "convert", more);
        assert_eq!((code, out.as_str()), (1, ""), "{log}");
        assert!(words.iter().all(|word| log.contains(word)), "{log}");
        assert!(!dir.path().join("case").exists(), "nothing is written");
    };
    let without =
        |number: u32| -> Vec<Slice> { study().into_iter().filter(|s| s.number != number).collect() };
    refused(
        &without(9),
        &[],
        &[
            "has no t2f; series 2 (AX T1): t1n; series 3",
            "hint: name a series for it, such as --series t2f=9",
        ],
    );
    refused(
        &study(),
        &["--series", "t1c=77"],
        &["there is no volume `77`; volumes: 2, 3, 6, 9", "`glioseg dicom list`"],
    );
    let mut moved = study();
    moved.iter_mut().filter(|s| s.number == 3).for_each(|s| s.frame = "1.2.6");
    refused(&moved, &[], &["series 6 and 3 are not in one frame of reference", "--assume-aligned"]);
    let agents: Vec<Slice> =
        study().into_iter().map(|s| Slice { agent: "Gadovist", description: "X", ..s }).collect();
    refused(
        &agents,
        &[],
        &[
            "nothing tells which T1 was made with contrast agent: series 2 (X), series 6 (X)",
            "--series t1n=2",
        ],
    );
    let mut gap = study();
    gap.remove(4);
    refused(&gap, &[], &["1 slice is missing between its slices"]);

    // The same with the remedies.
    let dir = folder(&moved);
    let (code, _, log) = dicom(&dir, "convert", &["--assume-aligned"]);
    assert_eq!(code, 0, "{log}");
    let dir = folder(&agents);
    let (code, _, log) = dicom(&dir, "convert", &["--series", "t1n=2", "--series", "t1c=6"]);
    assert_eq!(code, 0, "{log}");

    // A damaged file is told, and the rest is done.
    let dir = folder(&study());
    let cut = Slice::new(0.0).bytes();
    std::fs::write(dir.path().join("study/zz"), &cut[..cut.len() - 2]).expect("written");
    let (code, out, log) = dicom(&dir, "convert", &[]);
    assert_eq!((code, out.lines().count()), (1, 4), "{log}");
    assert!(
        log.contains("error: study/zz is damaged: (7FE0,0010) declares 40 bytes, but 38 are left"),
        "{log}"
    );

    let empty = folder(&[]);
    let (code, _, log) = dicom(&empty, "list", &[]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("study holds no DICOM images of magnetic resonance"), "{log}");
    let (code, _, log) = dicom(&empty, "convert", &["--series", "8"]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("write CONTRAST=SERIES, such as t1c=8"), "{log}");
}

#[test]
fn several_studies_become_cases_named_by_their_dates() {
    let mut slices = study();
    slices.extend(study().into_iter().map(|s| Slice {
        study: "1.9".into(),
        series: format!("9{}", s.series),
        instance: format!("9{}", s.instance),
        ..s
    }));
    let dir = folder(&slices);
    let (code, out, log) = dicom(&dir, "convert", &[]);
    assert_eq!((code, out.lines().count()), (0, 8), "{log}");
    for case in ["case_20260102", "case_20260102_2"] {
        assert!(Path::new(&dir.path().join(format!("case/{case}/{case}-t2f.nii.gz"))).is_file(), "{out}");
    }
}

#[test]
fn a_label_map_becomes_a_segmentation_of_the_series_it_belongs_to() {
    let dir = folder(&study());
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (code, _, log) = dicom(&dir, "convert", &[]);
    assert_eq!(code, 0, "{log}");
    let image = nifti::read_volume(&dir.path().join("case/case-t1c.nii.gz")).expect("an image");
    let data = image.data.iter().map(|&v| if (300.0..330.0).contains(&v) { 4 } else { 0 }).collect();
    let map = LabelMap::new(data, image.geometry).expect("a map");
    nifti::write_labels(&dir.path().join("labels.nii.gz"), &map).expect("written");
    let (labels, study, out) = (at("labels.nii.gz"), at("study"), at("seg.dcm"));
    let seg = |more: &[&str]| {
        let mut arguments = vec!["dicom", "seg", &labels, "--source", &study, "-o", &out];
        arguments.extend(more);
        run(&arguments)
    };
    let (code, _, log) = seg(&[]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("the meaning of the labels in") && log.contains("--segment-codes FILE"), "{log}");
    assert!(!Path::new(&out).exists());
    let (code, printed, log) = seg(&["--labels", "brats2021"]);
    assert_eq!((code, printed.trim()), (0, out.as_str()), "{log}");
    assert!(log.contains("3 segments on series 6"), "{log}");
    let first = std::fs::read(&out).expect("a file");
    assert!(first.windows(16).any(|w| w == b"Enhancing Lesion"));

    // The same as outlines, with the regions that radiotherapy asks for.
    let outlines = at("rt.dcm");
    let (code, _, log) =
        run(&["dicom", "rtstruct", &labels, "--source", &study, "-o", &outlines, "--labels", "brats2021"]);
    assert_eq!(code, 0, "{log}");
    assert!(log.contains("5 structures on series 6"), "{log}");
    let outlines = std::fs::read(&outlines).expect("a file");
    assert!(
        ["whole tumour", "tumour core", "CLOSED_PLANAR"]
            .iter()
            .all(|word| { outlines.windows(word.len()).any(|w| w == word.as_bytes()) })
    );

    let codes = serde_json::json!({"segmentAttributes": [[{
        "labelID": 4, "SegmentLabel": "something",
        "SegmentedPropertyCategoryCodeSequence": {"CodeValue": "85756007", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Tissue"},
        "SegmentedPropertyTypeCodeSequence": {"CodeValue": "51114001", "CodingSchemeDesignator": "SCT", "CodeMeaning": "Artery"},
        "recommendedDisplayRGBValue": [216, 101, 79]
    }]]});
    std::fs::write(at("codes.json"), codes.to_string()).expect("written");
    let (code, _, log) = seg(&["--segment-codes", &at("codes.json")]);
    assert_eq!(code, 0, "{log}");
    assert!(std::fs::read(&out).expect("a file").windows(6).any(|w| w == b"Artery"));
    std::fs::write(at("codes.json"), "{}").expect("written");
    let (code, _, log) = seg(&["--segment-codes", &at("codes.json")]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("does not describe segments") && log.contains("segmentAttributes"), "{log}");

    // Another grid is refused, and brought onto that of a named series if asked for.
    let (code, _, log) = seg(&["--labels", "1-2-4", "--series", "2"]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("the label map has 10 x 5 x 10 voxels") && log.contains("--resample"), "{log}");
    let (code, _, log) = seg(&["--labels", "1-2-4", "--series", "2", "--resample"]);
    assert_eq!(code, 0, "{log}");
    let (code, _, log) = seg(&["--labels", "1-2-4", "--series", "77"]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("there is no volume `77`; volumes: 2, 3, 6, 9"), "{log}");
    let (code, _, log) = seg(&["--labels", "1-2-4", "--uid-root", "1.02"]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("such as 1.2.826.0.1.3680043.2.1143"), "{log}");
    let far = LabelMap::new(vec![0; 8], glioseg_volume::Geometry::isotropic([2, 2, 2])).expect("a map");
    nifti::write_labels(Path::new(&labels), &far).expect("written");
    let (code, _, log) = seg(&["--labels", "1-2-4"]);
    assert_eq!(code, 2, "{log}");
    assert!(log.contains("no series of") && log.contains("(2 x 2 x 2 voxels)"), "{log}");
}

/// A phantom as four series of sagittal slices, whole numbers.
fn phantom_study(dir: &Path, date: &str) {
    let volume = support::small_phantom(5);
    let [nz, ny, nx] = volume.shape();
    let series = [
        (2, "AX T1", [10.0, 600.0, 0.0], ""),
        (6, "T1 POST", [10.0, 600.0, 0.0], "Gadovist"),
        (3, "T2", [100.0, 5000.0, 0.0], ""),
        (9, "FLAIR", [120.0, 9000.0, 2500.0], ""),
    ];
    std::fs::create_dir_all(dir).expect("a folder");
    for (c, (number, description, times, agent)) in series.into_iter().enumerate() {
        let channel = volume.channel(c);
        let slices: Vec<Slice> = (0..nx)
            .map(|x| {
                // Rows lead back, columns up; slices follow each other to the left.
                let values = (0..nz).rev().flat_map(|z| (0..ny).map(move |y| channel[(z * ny + y) * nx + x]));
                Slice {
                    series: format!("1.2.3.{number}"),
                    study: format!("1.2.{date}"),
                    instance: format!("1.2.3.{number}.{x}"),
                    number,
                    description,
                    times,
                    agent,
                    rows: nz,
                    columns: ny,
                    orientation: [0.0, 1.0, 0.0, 0.0, 0.0, -1.0],
                    position: Some([x as f64 * 4.0, 0.0, (nz - 1) as f64 * 4.0]),
                    spacing: [4.0, 4.0],
                    bits: (16, 16, 15),
                    pixels: values.flat_map(|v| (v.round() as u16).to_le_bytes()).collect(),
                    ..Slice::new(0.0)
                }
            })
            .collect();
        let folder = dir.join(number.to_string());
        std::fs::create_dir(&folder).expect("a folder");
        made::write(&folder, &slices);
    }
}

#[test]
fn a_study_is_predicted_as_its_images_are_and_gets_a_segmentation() {
    let dir = tempfile::tempdir().expect("a folder");
    let at = |name: &str| dir.path().join(name);
    phantom_study(&at("studies/anna"), "1");
    let (code, printed, log) = support::predict(&at("studies"), &at("out"), &["--write", "seg,rtstruct"]);
    assert_eq!(code, 0, "{log}");
    assert!(printed.starts_with("anna\t"), "{printed}");
    assert!(log.contains("case anna is the study of 2026-01-02") && log.contains("agent Gadovist"), "{log}");
    let names: Vec<bool> =
        ["anna.nii.gz", "anna.dcm", "anna_rtstruct.dcm"].map(|n| at("out").join(n).is_file()).to_vec();
    assert_eq!(names, [true; 3], "{log}");

    let record = support::record(&at("out"));
    let series = record["cases"][0]["series"].as_array().expect("series");
    let uids: Vec<&str> = series.iter().filter_map(|s| s["uid"].as_str()).collect();
    assert_eq!(uids, ["1.2.3.2", "1.2.3.6", "1.2.3.3", "1.2.3.9"]);

    // The same through NIfTI: the same label map, byte for byte, and the same segmentation of it.
    let [study, case] = [at("studies/anna"), at("case")].map(|p| p.display().to_string());
    let (code, _, log) = run(&["dicom", "convert", &study, "-o", &case]);
    assert_eq!(code, 0, "{log}");
    let (code, _, log) = support::predict(&at("case"), &at("again"), &[]);
    assert_eq!(code, 0, "{log}");
    let bytes = |path: &str| std::fs::read(at(path)).expect("a file");
    assert!(bytes("out/anna.nii.gz") == bytes("again/case.nii.gz"), "label maps differ");
    let seg = at("seg.dcm").display().to_string();
    let labels = at("out/anna.nii.gz").display().to_string();
    let (code, _, log) = run(&["dicom", "seg", &labels, "--source", &study, "-o", &seg]);
    assert_eq!(code, 0, "{log}");
    let pixels = |path: &str| {
        let object = dicom_object::open_file(at(path)).expect("DICOM");
        object.element(dicom_object::Tag(0x7FE0, 0x10)).expect("pixels").to_bytes().expect("bytes").to_vec()
    };
    assert_eq!(pixels("out/anna.dcm"), pixels("seg.dcm"));

    // Only what is missing is done again.
    std::fs::remove_file(at("out/anna.dcm")).expect("removed");
    let (code, _, log) = support::predict(&at("studies"), &at("out"), &["--continue"]);
    assert_eq!(code, 0, "{log}");
    assert!(at("out/anna.dcm").is_file(), "{log}");
    let (code, printed, log) = support::predict(&at("studies"), &at("out"), &["--continue"]);
    assert_eq!((code, printed.as_str()), (0, ""), "{log}");

    // A study without a contrast fails alone.
    phantom_study(&at("studies/berta"), "2");
    std::fs::remove_dir_all(at("studies/berta/9")).expect("removed");
    let (code, printed, log) = support::predict(&at("studies"), &at("both"), &["--write", "nifti"]);
    assert_eq!((code, printed.lines().count()), (1, 1), "{log}");
    assert!(log.contains("has no t2f") && log.contains("--series t2f=9"), "{log}");
    assert!(!at("both/anna.dcm").exists() && at("both/anna.nii.gz").is_file());
    let record = support::record(&at("both"));
    assert_eq!(
        (record["cases"][1]["case"].as_str(), record["cases"][1]["status"].as_str()),
        (Some("berta"), Some("failed"))
    );
}
