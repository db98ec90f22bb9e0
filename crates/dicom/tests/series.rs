//! Series as volumes: places, values, and what must never become a wrong number.

mod made;

use glioseg_diagnose::Diagnose as _;
use glioseg_dicom::{LeftOut, Series, Studies};
use made::Slice;

/// Ten slices, 3 mm apart.
fn stack() -> Vec<Slice> {
    (0..10).map(|k| Slice::new(f64::from(k) * 3.0)).collect()
}

/// A folder with these files.
fn folder(slices: &[Slice]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    made::write(dir.path(), slices);
    dir
}

fn only_series(dir: &tempfile::TempDir) -> Series {
    let mut found = Studies::read_all(dir.path()).expect("a folder");
    assert!(found.bad.is_empty(), "{:?}", found.bad);
    assert_eq!((found.studies.len(), found.studies[0].series.len()), (1, 1));
    found.studies[0].series.remove(0)
}

/// The error or reason of a series of these slices, without the folder's name, and the hint of the error.
fn refused(slices: &[Slice]) -> (String, String) {
    let dir = folder(slices);
    let series = only_series(&dir);
    let plain = |text: String| text.replace(&format!("{}/", dir.path().display()), "");
    match series.left_out {
        Some(LeftOut::Fault(error)) => (plain(error.to_string()), error.hint().expect("a hint")),
        Some(LeftOut::NotAVolume(reason)) => (reason, String::new()),
        None => panic!("a volume: {series:?}"),
    }
}

#[test]
fn slices_of_all_orientations_lie_where_their_headers_say() {
    for in_plane in [[0, 1], [1, 2], [0, 2]] {
        for signs in 0..8 {
            let sign = |bit: usize| if signs >> bit & 1 == 1 { -1.0 } else { 1.0 };
            let mut orientation = [0.0; 6];
            orientation[in_plane[0]] = sign(0);
            orientation[3 + in_plane[1]] = sign(1);
            let (row, column) = (&orientation[..3], &orientation[3..]);
            let normal = [
                row[1] * column[2] - row[2] * column[1],
                row[2] * column[0] - row[0] * column[2],
                row[0] * column[1] - row[1] * column[0],
            ];
            // Files may be in the order of the normal, or against it.
            let slices: Vec<Slice> = (0..10)
                .map(|k| {
                    let k = if sign(2) > 0.0 { k } else { 9 - k };
                    let position = [0, 1, 2].map(|w| 10.0 + normal[w] * 3.0 * f64::from(k));
                    Slice { orientation, position: Some(position), ..Slice::new(f64::from(k) * 3.0) }
                })
                .collect();
            let dir = folder(&slices);
            let series = only_series(&dir);
            let [stack] = &series.stacks[..] else { panic!("{series:?}") };
            let volume = stack.read().expect("a volume");
            assert_eq!(volume.shape(), [10, 5, 4]);
            let affine = volume.geometry.affine();
            for (k, j, i) in [(0, 0, 0), (9, 0, 0), (3, 4, 2), (9, 4, 3)] {
                // Columns are 3 mm apart, rows 2 mm.
                let lps = [0, 1, 2].map(|w| {
                    10.0 + normal[w] * 3.0 * f64::from(k)
                        + row[w] * 3.0 * f64::from(i)
                        + column[w] * 2.0 * f64::from(j)
                });
                let found = affine.apply([f64::from(i), f64::from(j), f64::from(k)]);
                let expected = [-lps[0], -lps[1], lps[2]];
                assert!((0..3).all(|w| (found[w] - expected[w]).abs() < 1e-9), "{found:?} {expected:?}");
                let value = volume.data[((k * 5 + j) * 4 + i) as usize];
                assert_eq!(value as i32, j * 4 + i + k * 3 * 20, "{k} {j} {i}");
            }
        }
    }
}

#[test]
fn stored_bits_become_values() {
    let values = |slice: &dyn Fn(Slice) -> Slice| {
        let slices: Vec<Slice> = stack().into_iter().map(slice).collect();
        let dir = folder(&slices);
        let series = only_series(&dir);
        series.stacks[0].read().expect("a volume").data[..4].to_vec()
    };
    let words =
        |all: &[u16]| -> Vec<u8> { all.iter().cycle().take(20).flat_map(|w| w.to_le_bytes()).collect() };
    // What lies outside the stored bits does not count.
    let pixels = words(&[0xF001, 0x0FFF, 0x0800, 7]);
    assert_eq!(values(&|s| Slice { pixels: pixels.clone(), ..s }), [1.0, 4095.0, 2048.0, 7.0]);
    assert_eq!(values(&|s| Slice { pixels: pixels.clone(), signed: true, ..s }), [1.0, -1.0, -2048.0, 7.0]);
    assert_eq!(
        values(&|s| Slice { pixels: pixels.clone(), photometric: "MONOCHROME1", ..s }),
        [4094.0, 0.0, 2047.0, 4088.0]
    );
    let high = words(&[0x001F, 0xFFF0, 0x8000, 0x0070]);
    assert_eq!(
        values(&|s| Slice { pixels: high.clone(), bits: (16, 12, 15), ..s }),
        [1.0, 4095.0, 2048.0, 7.0]
    );
    assert_eq!(
        values(&|s| Slice { pixels: pixels.clone(), scale: Some((0.5, -3.0)), ..s }),
        [-2.5, 2044.5, 1021.0, 0.5]
    );
    let bytes: Vec<u8> = (0..20).collect();
    assert_eq!(values(&|s| Slice { pixels: bytes.clone(), bits: (8, 8, 7), ..s }), [0.0, 1.0, 2.0, 3.0]);
    let long: Vec<u8> = (0..20u32).flat_map(|i| (i * 70_000).to_le_bytes()).collect();
    assert_eq!(
        values(&|s| Slice { pixels: long.clone(), bits: (32, 32, 31), ..s }),
        [0.0, 70_000.0, 140_000.0, 210_000.0]
    );
}

#[test]
fn faulty_series_are_refused_by_name() {
    let mut slices = stack();
    slices.remove(4);
    slices.remove(4);
    let (text, hint) = refused(&slices);
    assert_eq!(
        text,
        "series 4 (AX T2): 2 slices are missing between its slices, the first after the slice at 9.00 mm"
    );
    assert!(hint.contains("export the series again"), "{hint}");

    let mut slices = stack();
    slices.push(Slice { instance: "9".into(), pixels: vec![0; 40], ..slices[5].clone() });
    let (text, hint) = refused(&slices);
    assert_eq!(
        text,
        "series 4 (AX T2): IM0035 and IM0070 lie at one place (15.00 mm along the normal) and differ"
    );
    assert!(hint.contains("mixed in one series"), "{hint}");

    let mut slices = stack();
    slices.push(Slice { pixels: vec![0; 40], ..slices[5].clone() });
    assert_eq!(refused(&slices).0, "series 4 (AX T2): IM0035 and IM0070 have one SOPInstanceUID but differ");

    let mut slices = stack();
    slices[9].position = Some([0.0, 0.0, 27.5]);
    assert_eq!(refused(&slices).0, "series 4 (AX T2): its slices are 3.000 to 3.500 mm apart");

    let mut slices = stack();
    for (slice, y) in slices.iter_mut().zip(0..) {
        slice.position = slice.position.map(|[x, _, z]| [x, f64::from(y) * 0.3, z]);
    }
    assert_eq!(
        refused(&slices).0,
        "series 4 (AX T2): its slices are sheared by 5.7 degrees, as of a tilted gantry"
    );

    let mut slices = stack();
    slices[5].position = Some([0.0, 4.0, 15.0]);
    assert_eq!(
        refused(&slices).0,
        "series 4 (AX T2): its slices are shifted against each other by up to 4.00 mm"
    );

    let mut slices = stack();
    slices.extend(stack().into_iter().map(|s| Slice {
        time: Some(2),
        instance: s.instance.clone() + "9",
        ..s
    }));
    slices[..10].iter_mut().for_each(|s| s.time = Some(1));
    assert_eq!(
        refused(&slices).0,
        "series 4 (AX T2): it holds 2 volumes, such as the time points of one scan"
    );

    let mut slices = stack();
    slices[..2].iter_mut().for_each(|s| (s.rows, s.columns) = (4, 5));
    assert_eq!(
        refused(&slices).0,
        "series 4 (AX T2): its slices have 2 sizes: 4 x 5 (2 slices), 5 x 4 (8 slices)"
    );

    let mut slices = stack();
    slices[3].position = None;
    assert_eq!(
        refused(&slices).0,
        "IM0021: it does not tell where its slice lies: ImagePositionPatient (0020,0032) is missing"
    );
    assert_eq!(refused(&stack()[..1]).0, "it has 1 slice only");
    let cut = [stack()[0].clone(), stack()[1].clone(), stack()[3].clone()];
    assert!(refused(&cut).0.contains("1 slice is missing"), "{}", refused(&cut).0);
    let mut slices = stack()[..6].to_vec();
    slices[3..].iter_mut().for_each(|s| s.orientation = [0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(refused(&slices).0, "its 6 slices lie in 2 orientations");
}

#[test]
fn copies_are_used_once_and_short_series_are_told() {
    let mut slices = stack();
    slices.extend(stack()[2..4].to_vec());
    let series = only_series(&folder(&slices));
    assert_eq!(series.notes, ["2 files of it are there twice; one copy of each is used"]);
    assert_eq!(series.stacks[0].geometry.shape, [10, 5, 4]);
    assert_eq!(series.stacks[0].files().len(), 10);
    assert_eq!(series.stacks[0].notes, ["its 10 slices span 30 mm only: some may be missing at an end"]);
}

#[test]
fn echoes_of_one_series_are_volumes_with_times_of_their_own() {
    let mut slices = stack();
    for slice in &mut slices {
        (slice.echo, slice.times, slice.description) = (Some(1), [20.0, 3000.0, 0.0], "PD T2");
    }
    slices.extend(stack().into_iter().map(|s| Slice {
        echo: Some(2),
        times: [90.0, 3000.0, 0.0],
        instance: s.instance.clone() + "9",
        ..s
    }));
    let dir = folder(&slices);
    let found = Studies::read_all(dir.path()).expect("a folder");
    let listed = found.studies[0].list(&[]);
    let told: Vec<(&str, String)> = listed
        .iter()
        .map(|l| (l.stack.expect("a volume").name.as_str(), format!("{:?}", l.verdict)))
        .collect();
    assert_eq!(
        told,
        [
            ("4.1", r#"Out("proton density (TE 20, TR 3000)")"#.to_owned()),
            ("4.2", r#"Chosen(T2w, "TE 90, TR 3000")"#.to_owned())
        ]
    );
    // Four slices a volume are none of the four contrasts, but still a volume.
    let few = folder(&stack()[..4]);
    let found = Studies::read_all(few.path()).expect("a folder");
    let listed = found.studies[0].list(&[]);
    assert_eq!(format!("{:?}", listed[0].verdict), r#"Out("it has 4 slices only")"#);
    assert_eq!(listed[0].stack.expect("a volume").read().expect("pixels").shape(), [4, 5, 4]);
}

#[test]
fn visits_are_studies_and_damaged_files_are_named() {
    let mut slices = stack();
    slices.extend(stack().into_iter().map(|s| Slice { study: "1.9".into(), series: "1.9.3".into(), ..s }));
    let dir = folder(&slices);
    std::fs::write(dir.path().join("readme.txt"), "hello").expect("written");
    let cut = Slice::new(99.0).bytes();
    std::fs::create_dir(dir.path().join("below")).expect("a folder");
    std::fs::write(dir.path().join("below/cut.dcm"), &cut[..cut.len() - 9]).expect("written");
    let mut other = vec![0; 128];
    other.extend(b"DICM");
    made::element(&mut other, (2, 0x10), *b"UI", b"1.2.840.10008.1.2.1");
    made::element(&mut other, (8, 0x16), *b"UI", b"1.2.840.10008.5.1.4.1.1.66.4");
    std::fs::write(dir.path().join("seg.dcm"), other).expect("written");
    let found = Studies::read_all(dir.path()).expect("a folder");
    assert_eq!(found.studies.iter().map(|s| s.uid.as_str()).collect::<Vec<_>>(), ["1.2", "1.9"]);
    let [bad] = &found.bad[..] else { panic!("{:?}", found.bad) };
    let text = bad.to_string();
    assert!(text.ends_with("cut.dcm is damaged: (7FE0,0010) declares 40 bytes, but 31 are left"), "{text}");
    assert_eq!(
        found.others_in_words(),
        "1 of Segmentation Storage, 1 file that is not DICOM, 1 file that cannot be read"
    );
}
