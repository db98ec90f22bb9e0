use std::path::PathBuf;

use super::*;
use glioseg_diagnose::Diagnose as _;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/transforms")
}

fn close(a: [f64; 3], b: [f64; 3], tolerance: f64) -> bool {
    distance(a, b) <= tolerance
}

fn some() -> Transform {
    Transform::new([
        [0.998, -0.05, 0.03, 3.5],
        [0.051, 1.02, -0.04, -7.25],
        [-0.028, 0.041, 0.9985, 1.0 / 3.0],
    ])
    .expect("regular")
}

#[test]
fn files_of_itk_take_points_where_itk_takes_them() {
    let text = std::fs::read_to_string(fixtures().join("points.json")).expect("readable");
    let told: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let point = |v: &serde_json::Value| [0, 1, 2].map(|k| v[k].as_f64().expect("a number"));
    let answers = told["answers"].as_object().expect("by file");
    for (name, answers) in answers {
        let transform = Transform::read(&fixtures().join(name)).expect(name);
        // ANTs keeps single precision.
        let tolerance = if name.contains("float") { 1e-5 } else { 1e-10 };
        for (from, to) in
            told["points"].as_array().expect("points").iter().zip(answers.as_array().expect("answers"))
        {
            let (found, expected) = (transform.apply(point(from)), point(to));
            assert!(close(found, expected, tolerance), "{name}: {found:?} {expected:?}");
        }
    }
    assert_eq!(answers.len(), 9);
}

#[test]
fn a_composite_applies_its_last_part_first() {
    let read = |name: &str| Transform::read(&fixtures().join(name)).expect(name);
    let (affine, euler) = (read("affine.tfm"), read("euler.tfm"));
    let (composite, point) = (read("composite.tfm"), [10.0, -20.0, 30.0]);
    assert!(close(composite.apply(point), affine.apply(euler.apply(point)), 1e-12));
    assert!(close(composite.apply(point), affine.after(&euler).apply(point), 1e-12));
}

#[test]
fn what_is_written_is_read_back_exactly() {
    let folder = tempfile::tempdir().expect("a folder");
    let files = [
        ("a.mat", some().to_mat()),
        ("a.tfm", some().to_tfm().into_bytes()),
        ("a.txt", some().to_ras_text().into_bytes()),
    ];
    for (name, bytes) in files {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("writable");
        assert_eq!(Transform::read(&path).expect(name), some(), "{name}");
    }
    // The layout that ITK reads: a header of 20 bytes and a name before the numbers of each of two vectors.
    let mat = some().to_mat();
    assert_eq!(mat.len(), 20 + 27 + 12 * 8 + 20 + 6 + 3 * 8);
    let affine = std::fs::read(fixtures().join("affine.mat")).expect("readable");
    assert_eq!((mat.len(), &mat[..47]), (affine.len(), &affine[..47]));
}

#[test]
fn text_of_greedy_is_in_ras() {
    let shift = Transform::translation([1.0, 2.0, 3.0]);
    assert_eq!(shift.to_ras_text(), "1 0 0 -1\n0 1 0 -2\n0 0 1 3\n0 0 0 1\n");
    assert_eq!(Transform::decode(b"1 0 0 -1\n0 1 0 -2\n0 0 1 3\n0 0 0 1\n"), Ok(shift));
}

#[test]
fn files_of_the_other_byte_order_are_read() {
    let mut swapped = Vec::new();
    let mat = some().to_mat();
    let mut rest = mat.as_slice();
    for (name, count) in [(27, 12), (6, 3)] {
        let (vector, next) = rest.split_at(20 + name + 8 * count);
        rest = next;
        swapped.extend(1000i32.to_be_bytes());
        vector[4..20].chunks(4).for_each(|word| swapped.extend(word.iter().rev()));
        swapped.extend(&vector[20..20 + name]);
        vector[20 + name..].chunks(8).for_each(|word| swapped.extend(word.iter().rev()));
    }
    assert_eq!(Transform::decode(&swapped), Ok(some()));
}

#[test]
fn other_files_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.mat");
    let bspline = "#Insight Transform File V1.0\nTransform: BSplineTransform_double_3_3\nParameters: 1\n";
    let two = some().to_tfm() + &some().to_tfm();
    let mut cut = some().to_mat();
    cut.truncate(100);
    let cases: [(&[u8], &str); 9] = [
        (b"", "it has 0 numbers"),
        (b"1 0 0 0 0 1 0 0 0 0 1 0 0 0 0 x", "`x` is not a number"),
        (b"1 0 0 0 0 1 0 0 0 0 1 0 0 0 1 1", "last row"),
        (b"1 0 0 0 0 1 0 0 0 0 0 0 0 0 0 1", "no inverse"),
        (bspline.as_bytes(), "is not linear"),
        (two.as_bytes(), "not one composite"),
        (&cut, "ends too early"),
        (
            b"\x00\x00\x00\x00\xff\xff\xff\x7f\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00a\x00",
            "does not hold the numbers",
        ),
        (b"\x89HDF\r\n\x1a\n\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "neither text nor"),
    ];
    for (bytes, reason) in cases {
        std::fs::write(&path, bytes).expect("writable");
        let error = Transform::read(&path).expect_err(reason);
        assert!(error.to_string().contains(reason), "{error}");
        assert!(error.hint().is_some_and(|h| h.contains(".tfm")) && error.path() == Some(&path));
    }
    let missing = Transform::read(&folder.path().join("none.mat")).expect_err("no file");
    assert!(missing.to_string().contains("none.mat"), "{missing}");
}

#[test]
fn the_inverse_leads_back_and_angles_are_those_of_the_rotation() {
    let point = [12.0, -34.0, 56.0];
    assert!(close(some().inverse().apply(some().apply(point)), point, 1e-12));
    let turn = crate::motion::turn_about([0.3, 0.0, 0.4], [10.0, 20.0, 30.0]);
    assert!((turn.angle_degrees() - 0.5f64.to_degrees()).abs() < 1e-9);
    assert!((turn.determinant() - 1.0).abs() < 1e-12);
    assert!(close(turn.apply([10.0, 20.0, 30.0]), [10.0, 20.0, 30.0], 1e-12));
    assert!(turn.distance(&Transform::IDENTITY, [0.0; 3]) > 20.0);
}
