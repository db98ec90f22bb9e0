//! What is said of files that are damaged or no images, and that nothing is allocated for them.

mod made;

use std::path::Path;

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::{FormatError, nifti};
use glioseg_volume::{Geometry, LabelMap};
use made::{Made, gzip, write};
use proptest::prelude::*;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The message and hint of reading `path`; both name or explain something.
fn refusal(path: &Path) -> (String, String) {
    let error = nifti::read_volume(path).expect_err("the file is bad");
    let message = error.to_string();
    let name = path.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(message.contains(&name), "{message} does not name {name}");
    (message, error.hint().expect("a hint"))
}

#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "\"{part}\" is not in: {text}");
    }
}

#[test]
fn an_empty_file_is_called_empty() {
    let folder = folder();
    let (message, hint) = refusal(&write(folder.path(), "a.nii.gz", b""));
    assert_says(&message, &["is empty (0 bytes)"]);
    assert_says(&hint, &["again"]);
}

#[test]
fn a_missing_file_is_named() {
    let folder = folder();
    let (message, hint) = refusal(&folder.path().join("none.nii"));
    assert_says(&message, &["cannot read"]);
    assert_says(&hint, &["not there"]);
}

#[test]
fn other_files_are_not_nifti() {
    let folder = folder();
    let text = b"<html>404: this page has been moved somewhere else, and more of it".repeat(20);
    let (message, hint) = refusal(&write(folder.path(), "a.nii.gz", &text));
    assert_says(&message, &["a.nii.gz is an HTML page that says `not found`, not a NIfTI file"]);
    assert_says(&hint, &["download the file again"]);
    let (message, hint) = refusal(&write(folder.path(), "noise.nii", &[b'x'; 1000]));
    assert_says(&message, &["is not a NIfTI file", "348 or 540"]);
    assert_says(&hint, &["glioseg dicom convert"]);
    let (message, _) = refusal(&write(folder.path(), "short.nii", b"short"));
    assert_says(&message, &["is not a NIfTI file", "only 5 bytes"]);

    let mut bytes = Made::small().bytes();
    bytes[344..348].copy_from_slice(b"nope");
    let (message, _) = refusal(&write(folder.path(), "magic.nii", &bytes));
    assert_says(&message, &["is not a NIfTI file", "magic is \"nope\""]);
    bytes[344..348].fill(0);
    let (message, _) = refusal(&write(folder.path(), "analyze.hdr", &bytes));
    assert_says(&message, &["Analyze 7.5"]);
    let pair = Made { single: false, ..Made::small() };
    let (message, _) = refusal(&pair.write(folder.path(), "lonely.nii"));
    assert_says(&message, &[".hdr/.img"]);
}

#[test]
fn what_a_file_is_instead_is_said_with_the_remedy() {
    let folder = folder();
    let mut dicom = vec![0; 400];
    dicom[128..132].copy_from_slice(b"DICM");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut packed, &b"NRRD0005\n".repeat(60)).expect("memory");
    for (bytes, what, remedy) in [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n".to_vec(),
            "a Git LFS pointer",
            "git lfs pull",
        ),
        (b"PK\x03\x04".repeat(200), "a zip archive", "unzip"),
        (b"BZh91AY&SY".repeat(50), "a bzip2 file", "bunzip2"),
        (b"ObjectType = Image\n".repeat(30), "a MetaImage", "3D Slicer"),
        (dicom, "a DICOM file", "glioseg dicom convert"),
        (packed.finish().expect("memory"), "an NRRD image, once it is unpacked", "SimpleITK"),
    ] {
        let (message, hint) = refusal(&write(folder.path(), "a.nii.gz", &bytes));
        assert_says(&message, &[what, "a.nii.gz", "not a NIfTI file"]);
        assert_says(&hint, &[remedy]);
    }
}

#[test]
fn a_truncated_gzip_breaks_off() {
    let folder = folder();
    let mut made = Made { dim: vec![3, 40, 50, 60], ..Made::small() };
    // Numbers that do not compress, so that every cut falls into the voxels.
    made.voxels = (0..120_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    let packed = gzip(&made.bytes());
    for keep in [packed.len() / 2, packed.len() - 1, packed.len() - 8] {
        let (message, hint) = refusal(&write(folder.path(), "a.nii.gz", &packed[..keep]));
        assert_says(&message, &["damaged", "breaks off", "unpacked bytes"]);
        assert_says(&hint, &["incomplete or damaged"]);
    }
}

#[test]
fn a_changed_byte_in_a_gzip_is_noticed() {
    let folder = folder();
    let mut made = Made { dim: vec![3, 40, 50, 60], ..Made::small() };
    made.voxels = (0..120_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 23) as u8).collect();
    let packed = gzip(&made.bytes());
    for at in [packed.len() / 2, packed.len() - 6] {
        let mut bad = packed.clone();
        bad[at] ^= 0x55;
        let (message, _) = refusal(&write(folder.path(), "a.nii.gz", &bad));
        assert_says(&message, &["damaged", "corrupt"]);
    }
}

#[test]
fn a_gzip_that_holds_too_little_is_cut_short() {
    let folder = folder();
    let mut made = Made::small();
    made.voxels.truncate(23);
    let (message, hint) = refusal(&made.write_gz(folder.path(), "a.nii.gz"));
    assert_says(&message, &["is cut short", "376 bytes", "375"]);
    assert_says(&hint, &["again"]);
}

#[test]
fn truncated_voxels_are_counted() {
    let folder = folder();
    let mut bytes = Made::small().bytes();
    bytes.pop();
    let (message, hint) = refusal(&write(folder.path(), "a.nii", &bytes));
    assert_says(&message, &["is cut short", "promises 376 bytes", "has 375"]);
    assert_says(&hint, &["again"]);
    let (message, _) = refusal(&write(folder.path(), "head.nii", &bytes[..200]));
    assert_says(&message, &["is cut short", "promises 348 bytes", "has 200"]);
}

#[test]
fn dimensions_must_be_positive_and_few() {
    let folder = folder();
    for (dim, parts) in [
        (vec![3, 0, 3, 4], vec!["[0, 3, 4]", "0 is not positive"]),
        (vec![3, 2, -3, 4], vec!["[2, -3, 4]", "-3 is not positive"]),
        (vec![0, 2, 3, 4], vec!["declares 0"]),
        (vec![9, 2, 3, 4], vec!["declares 9"]),
        (vec![-1, 2, 3, 4], vec!["declares -1"]),
        (vec![1, 24], vec!["single axis"]),
        (vec![5, 2, 3, 1, 2, 2], vec!["can be the channels"]),
    ] {
        for version in [1, 2] {
            let made = Made { dim: dim.clone(), version, ..Made::small() };
            let (message, hint) = refusal(&made.write(folder.path(), "a.nii"));
            assert_says(&message, &["impossible dimensions"]);
            assert_says(&message, &parts);
            assert_says(&hint, &["header is damaged"]);
        }
    }
}

#[test]
fn absurd_dimensions_are_refused_before_memory_is_asked_for() {
    let folder = folder();
    // 32767^3 doubles are 281 TB; 2^62 bytes overflow any product with more.
    let large = Made { dim: vec![3, 32767, 32767, 32767], datatype: 64, ..Made::small() };
    let (message, _) = refusal(&large.write(folder.path(), "a.nii"));
    assert_says(&message, &["impossible dimensions", "281449207693656", "no more than 376"]);
    let (message, _) = refusal(&large.write_gz(folder.path(), "a.nii.gz"));
    assert_says(&message, &["impossible dimensions", "can hold no more than"]);
    for dim in [vec![3, 1 << 31, 1 << 31, 1], vec![3, i64::MAX, i64::MAX, i64::MAX]] {
        let made = Made { version: 2, dim, ..Made::small() };
        let (message, _) = refusal(&made.write(folder.path(), "a.nii"));
        assert_says(&message, &["impossible dimensions"]);
    }
    let info = nifti::read_info(&large.write(folder.path(), "a.nii"));
    assert!(matches!(info, Err(FormatError::Dims { .. })), "{info:?}");
}

#[test]
fn a_voxel_offset_beyond_the_file_is_cut_short() {
    let folder = folder();
    let mut bytes = Made::small().bytes();
    bytes[108..112].copy_from_slice(&3.0e38f32.to_le_bytes());
    assert!(nifti::read_volume(&write(folder.path(), "a.nii", &bytes)).is_err());
    assert!(nifti::read_volume(&write(folder.path(), "a.nii.gz", &gzip(&bytes))).is_err());
    bytes[108..112].copy_from_slice(&360f32.to_le_bytes());
    let (message, _) = refusal(&write(folder.path(), "b.nii", &bytes));
    assert_says(&message, &["is cut short", "promises 384 bytes"]);
}

#[test]
fn voxels_that_are_no_numbers_are_named() {
    let folder = folder();
    for (datatype, name) in
        [(128, "RGB"), (32, "complex"), (1536, "128-bit"), (2304, "RGBA"), (77, "unknown")]
    {
        let made = Made { datatype, ..Made::small() };
        let (message, hint) = refusal(&made.write(folder.path(), "a.nii"));
        assert_says(&message, &[name, &format!("NIfTI type {datatype}"), "not a plain number"]);
        assert_says(&hint, &["convert"]);
    }
}

#[test]
fn a_singular_affine_is_shown() {
    let folder = folder();
    let mut made = Made::small();
    made.srow[1] = [2.0, 0.0, 0.0, 0.0];
    let (message, hint) = refusal(&made.write(folder.path(), "a.nii"));
    assert_says(&message, &["affine is singular", "[2.0, 0.0, 0.0, 0.0]"]);
    assert_says(&hint, &["sform or qform"]);
    made.srow = [[f64::NAN; 4]; 3];
    assert_says(&refusal(&made.write(folder.path(), "b.nii")).0, &["affine is singular", "NaN"]);
    // With a good qform next to it, the image has a place.
    made.codes = (1, 1);
    let volume = nifti::read_volume(&made.write(folder.path(), "c.nii")).expect("the qform is good");
    assert_eq!(volume.geometry.orientation(), "RAS");
}

#[test]
fn voxels_that_are_not_finite_are_counted_and_the_first_is_named() {
    let folder = folder();
    let mut values = [1f32; 24];
    values[13] = f32::NEG_INFINITY;
    values[20] = f32::NAN;
    let voxels = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let made = Made { datatype: 16, voxels, dim: vec![4, 2, 3, 2, 2], ..Made::small() };
    let path = made.write(folder.path(), "a.nii");
    let volume = nifti::read_volume(&path).expect("NaN can be read");
    let found = volume.check_finite().expect_err("two voxels");
    let error = FormatError::NotFinite { path, found };
    assert_says(
        &error.to_string(),
        &["a.nii", "2 voxels of 24", "the first (-inf) in channel 1 at z, y, x = [0, 0, 1]"],
    );
    assert_says(&error.hint().expect("a hint"), &["without --strict they count as 0"]);
    let sound = nifti::read_volume(&Made::small().write(folder.path(), "b.nii")).expect("sound");
    assert!(sound.check_finite().is_ok());
}

#[test]
fn a_label_map_holds_whole_numbers_and_one_channel() {
    let folder = folder();
    let made = Made { scale: (0.5, 0.0), ..Made::small() };
    let error = nifti::read_labels(&made.write(folder.path(), "a.nii")).expect_err("halves");
    assert_says(&error.to_string(), &["a.nii", "not a label map", "0.5", "[0, 0, 1]"]);
    assert_says(&error.hint().expect("a hint"), &["0 to 65535"]);
    let made = Made { scale: (1.0, -1.0), ..Made::small() };
    let error = nifti::read_labels(&made.write(folder.path(), "b.nii")).expect_err("-1");
    assert_says(&error.to_string(), &["-1"]);
    let made = Made { dim: vec![4, 2, 3, 2, 2], ..Made::small() };
    let error = nifti::read_labels(&made.write(folder.path(), "c.nii")).expect_err("two channels");
    assert_says(&error.to_string(), &["c.nii", "2 channels"]);
}

#[test]
fn files_of_a_case_with_different_grids_are_both_printed() {
    let folder = folder();
    let first = Made::small().write(folder.path(), "t1.nii");
    let second = Made { pixdim: [1.0, 1.0, 2.0, 3.5], ..Made::small() }.write(folder.path(), "t2.nii");
    let error = nifti::read_stack(&[&first, &second]).expect_err("another spacing");
    assert_says(
        &error.to_string(),
        &[
            "different grids",
            "t1.nii has 4 x 3 x 2 voxels of 3 x 2 x 1 mm",
            "t2.nii has 4 x 3 x 2 voxels of 3.5 x 2 x 1",
        ],
    );
    assert_says(&error.hint().expect("a hint"), &["share one grid"]);
}

#[test]
fn a_folder_that_does_not_exist_or_is_a_file_is_named_with_a_remedy() {
    let folder = folder();
    let labels = LabelMap::new(vec![0; 8], Geometry::isotropic([2, 2, 2])).expect("8 voxels");
    write(folder.path(), "file", b"x");
    for parent in ["none", "file"] {
        let path = folder.path().join(parent).join("seg.nii.gz");
        let error = nifti::write_labels(&path, &labels).expect_err("no such folder");
        assert_says(&error.to_string(), &["cannot write", "seg.nii.gz"]);
        assert_says(&error.hint().expect("a hint"), &["output folder"]);
    }
}

#[test]
fn arrays_of_the_wrong_length_are_not_written() {
    let folder = folder();
    let labels = LabelMap { data: vec![0; 7], geometry: Geometry::isotropic([2, 2, 2]) };
    let path = folder.path().join("seg.nii");
    let error = nifti::write_labels(&path, &labels).expect_err("7 of 8");
    assert_says(&error.to_string(), &["7 values", "[2, 2, 2]", "need 8"]);
    assert!(!path.exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a header says, reading ends in an image or an error, and an image survives being written.
    #[test]
    fn a_damaged_header_never_panics(
        version in 1u8..=2,
        changes in prop::collection::vec((0usize..548, any::<u8>()), 1..6),
        keep in 0usize..600,
    ) {
        let mut bytes = Made { version, codes: (1, 1), ..Made::small() }.bytes();
        for (at, value) in changes {
            let at = at % (bytes.len() - 24);
            bytes[at] = value;
        }
        // Most files whole, some cut short.
        if keep < 200 {
            bytes.truncate(keep * 2);
        }
        let folder = folder();
        let path = write(folder.path(), "a.nii", &bytes);
        if let Ok(volume) = nifti::read_volume(&path) {
            let copy = folder.path().join("b.nii");
            nifti::write_volume(&copy, &volume).expect("writable");
            let back = nifti::read_volume(&copy).expect("ours");
            prop_assert_eq!(back.geometry.shape, volume.geometry.shape);
            let bits = |v: &glioseg_volume::Volume| v.data.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&back), bits(&volume));
            prop_assert_eq!(back.geometry.orientation(), volume.geometry.orientation());
            prop_assert_eq!(back.geometry.spacing.map(f64::to_bits), volume.geometry.spacing.map(f64::to_bits));
            prop_assert_eq!(back.geometry.origin().map(f64::to_bits), volume.geometry.origin().map(f64::to_bits));
        } else {
            let error = nifti::read_volume(&path).expect_err("bad before");
            prop_assert!(!error.to_string().is_empty() && error.hint().is_some());
        }
    }
}

#[test]
fn what_itk_reads_all_the_same_is_read_and_told() {
    let folder = folder();
    let sound = Made::small();
    let expected = nifti::read_volume(&sound.write(folder.path(), "sound.nii")).expect("sound");
    let oddities = |path: &Path| {
        let (volume, infos) = nifti::read_stack(&[path]).expect("readable");
        assert_eq!((&volume.data, volume.shape()), (&expected.data, expected.shape()), "{}", path.display());
        infos[0].oddities.clone()
    };
    assert_eq!(oddities(&folder.path().join("sound.nii")), Vec::<String>::new());
    for (size, big) in [(0, false), (7, true)] {
        let made = Made { big, ..Made::small() };
        let mut bytes = made.bytes();
        bytes[..4].copy_from_slice(&if big { i32::to_be_bytes(size) } else { i32::to_le_bytes(size) });
        let path = write(folder.path(), &format!("size{size}.nii"), &bytes);
        assert_eq!(oddities(&path), [format!("its header says that it has {size} bytes, not 348")]);
    }
    let packed = gzip(&sound.bytes());
    for cut in [1, 4, 8] {
        let path = write(folder.path(), &format!("cut{cut}.nii.gz"), &packed[..packed.len() - cut]);
        assert_eq!(oddities(&path), ["it ends before its check sum, so damage would not be seen"]);
        // Where nobody is told, such a file is refused.
        assert_says(&refusal(&path).0, &["breaks off"]);
    }
    for dim in [vec![4, 2, 3, 4, 0], vec![7, 2, 3, 4, 1, 1, 0, 0], vec![5, 2, 3, 4, 1, 0]] {
        let path = Made { dim: dim.clone(), ..Made::small() }.write(folder.path(), "dims.nii");
        assert_eq!(oddities(&path), Vec::<String>::new(), "{dim:?}");
    }
}

#[test]
fn scales_count_as_in_itk() {
    let folder = folder();
    let plain = nifti::read_volume(&Made::small().write(folder.path(), "plain.nii")).expect("sound").data;
    for (scale, slope, inter) in [
        ((2e-16, 0.0), 1.0, 0.0),
        ((1e-38, 0.0), 1.0, 0.0),
        ((-1e-17, 5.0), 1.0, 5.0),
        ((0.0, 5.0), 1.0, 5.0),
        ((f64::INFINITY, 0.0), 1.0, 0.0),
        ((f64::NAN, 5.0), 1.0, 5.0),
        ((2.0, f64::INFINITY), 2.0, 0.0),
        ((1.0, 1e-17), 1.0, 0.0),
        ((3e-16, 0.0), f64::from(3e-16f32), 0.0),
    ] {
        let made = Made { scale, ..Made::small() };
        let found = nifti::read_volume(&made.write(folder.path(), "scaled.nii")).expect("sound").data;
        let expected: Vec<f32> = plain.iter().map(|&v| (f64::from(v) * slope + inter) as f32).collect();
        assert_eq!(found, expected, "{scale:?}");
    }
}

#[test]
fn a_finite_value_that_no_f32_holds_is_named_as_such() {
    let folder = folder();
    let mut values = [1f64; 24];
    values[5] = f64::INFINITY;
    values[7] = -1e300;
    let voxels = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let path = Made { datatype: 64, voxels, ..Made::small() }.write(folder.path(), "a.nii");
    assert_says(&refusal(&path).0, &["a.nii", "-1e300", "[1, 0, 1]", "beyond the range of 32-bit floats"]);
    // A scale can do it too.
    let made = Made { scale: (3e38, 0.0), ..Made::small() };
    assert_says(&refusal(&made.write(folder.path(), "b.nii")).0, &["b.nii", "beyond the range"]);
}

#[test]
fn labels_that_are_no_numbers_count_as_0_where_somebody_is_told() {
    let folder = folder();
    let mut values = [2f32; 24];
    (values[3], values[4]) = (f32::NAN, f32::INFINITY);
    let voxels = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let path = Made { datatype: 16, voxels, ..Made::small() }.write(folder.path(), "a.nii");
    assert_says(&nifti::read_labels(&path).expect_err("NaN").to_string(), &["not a label map", "NaN"]);
    let mut oddities = Vec::new();
    let map = nifti::read_labels_noting(&path, &mut oddities).expect("noted");
    assert_eq!(map.data, [[2, 2, 2, 0, 0, 2].as_slice(), &[2; 18]].concat());
    assert_eq!(oddities, [format!("{}: NaN and infinite voxels count as 0: 2 of 24", path.display())]);
}
