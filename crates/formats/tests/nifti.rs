//! Every version, byte order and voxel type is read, and what is written is read back the same.

#![expect(clippy::float_cmp, reason = "what is read and written must be exact")]

mod made;

use std::fs;
use std::path::Path;

use ::nifti::{NiftiObject as _, RandomAccessNiftiVolume as _, ReaderOptions};
use glioseg_formats::nifti;
use glioseg_volume::{Affine, Geometry, LabelMap, Volume};
use made::{Made, gzip, write};
use proptest::prelude::*;
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Voxels of a NIfTI type from small numbers that every type holds, and the type's code.
fn stored(type_index: usize, big: bool, values: &[u8]) -> (i16, Vec<u8>) {
    macro_rules! bytes {
        ($code:expr, $type:ty) => {
            (
                $code,
                values
                    .iter()
                    .flat_map(|&v| {
                        let v = <$type>::from(v);
                        if big { v.to_be_bytes() } else { v.to_le_bytes() }
                    })
                    .collect(),
            )
        };
    }
    match type_index {
        0 => bytes!(2, u8),
        1 => (256, values.iter().map(|&v| v.wrapping_neg()).collect()),
        2 => bytes!(4, i16),
        3 => bytes!(512, u16),
        4 => bytes!(8, i32),
        5 => bytes!(768, u32),
        6 => bytes!(1024, i64),
        7 => bytes!(1280, u64),
        8 => bytes!(16, f32),
        _ => bytes!(64, f64),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_type_order_and_version_reads_the_same(
        type_index in 0usize..10,
        big: bool,
        version in 1u8..=2,
        packed: bool,
        single: bool,
        shape in prop::array::uniform4(1i64..6),
        slope in prop::sample::select(vec![1.0, 0.0, 2.0, -0.5]),
        inter in prop::sample::select(vec![0.0, 3.0]),
        seed: u8,
    ) {
        let count = shape.iter().product::<i64>() as usize;
        let values: Vec<u8> = (0..count).map(|i| (i as u8).wrapping_mul(37).wrapping_add(seed) % 127).collect();
        let (datatype, voxels) = stored(type_index, big, &values);
        let made = Made {
            version, big, single, datatype, voxels, scale: (slope, inter),
            dim: [&[4], &shape[..]].concat(), ..Made::small()
        };
        let folder = folder();
        let pack = |bytes: Vec<u8>| if packed { gzip(&bytes) } else { bytes };
        let gz = if packed { ".gz" } else { "" };
        let path = if single {
            write(folder.path(), &format!("a.nii{gz}"), &pack(made.bytes()))
        } else {
            write(folder.path(), &format!("a.img{gz}"), &pack(made.voxels.clone()));
            write(folder.path(), &format!("a.hdr{gz}"), &pack(made.header()))
        };
        let volume = nifti::read_volume(&path).expect("a valid file");
        let sign = if type_index == 1 { -1.0 } else { 1.0 };
        // ITK: a slope of 0 counts as 1, the intercept stays.
        let slope = if slope == 0.0 { 1.0 } else { slope };
        let expected: Vec<f32> = values.iter().map(|&v| (sign * f64::from(v) * slope + inter) as f32).collect();
        prop_assert_eq!(&volume.data, &expected);
        prop_assert_eq!(volume.channels, shape[3] as usize);
        prop_assert_eq!(volume.shape(), [shape[2], shape[1], shape[0]].map(|d| d as usize));
        prop_assert_eq!(volume.geometry.spacing, [3.0, 2.0, 1.0]);
        let info = nifti::read_info(&path).expect("a valid file");
        prop_assert_eq!((info.version, info.big_endian, info.compressed), (version, big, packed));
        prop_assert_eq!(&info.geometry, &volume.geometry);
    }

    #[test]
    fn what_is_written_is_read_back(
        shape in prop::array::uniform3(1usize..8),
        channels in 1usize..4,
        packed: bool,
        turn in prop::array::uniform3(-1.0..1.0f64),
        spacing in prop::array::uniform3(0.2..7.0f64),
        flips in prop::array::uniform3(any::<bool>()),
        position in prop::array::uniform3(-300.0..300.0f64),
        largest in prop::sample::select(vec![3u16, 254, 255, 65535]),
        seed: u32,
    ) {
        let affine = turned(turn, spacing, flips, position);
        let geometry = Geometry::from_affine(shape, affine).expect("regular");
        let voxels = geometry.voxels();
        let noise = |i: usize| (i as u32 ^ seed).wrapping_mul(2_654_435_761) >> 8;
        let data: Vec<f32> = (0..channels * voxels).map(|i| noise(i) as f32 / 1000.0 - 5000.0).collect();
        let folder = folder();
        let gz = if packed { ".gz" } else { "" };

        let volume = Volume::new(channels, data, geometry.clone()).expect("the right length");
        let path = folder.path().join(format!("image.nii{gz}"));
        nifti::write_volume(&path, &volume).expect("writable");
        prop_assert_eq!(&nifti::read_volume(&path).expect("ours"), &volume);

        let mut data: Vec<u16> = (0..voxels).map(|i| (noise(i) % (u32::from(largest) + 1)) as u16).collect();
        data[0] = largest;
        let labels = LabelMap::new(data, geometry).expect("the right length");
        let path = folder.path().join(format!("labels.nii{gz}"));
        nifti::write_labels(&path, &labels).expect("writable");
        prop_assert_eq!(&nifti::read_labels(&path).expect("ours"), &labels);
        let info = nifti::read_info(&path).expect("ours");
        prop_assert_eq!(info.dtype.name(), if largest < 255 { "u8" } else { "u16" });
        prop_assert_eq!(info.version, 1);

        // Both forms place the voxels alike, within the qform's rounding.
        let mut header = fs::read(folder.path().join("labels.nii")).unwrap_or_default();
        if !packed {
            header[254..256].fill(0);
            let path = write(folder.path(), "qform.nii", &header);
            let by_qform = nifti::read_info(&path).expect("ours").geometry.affine();
            // Three numbers of the quaternion are in the file, and the fourth is what they leave of 1: the smaller it is, the
            // less is left of it by their rounding.
            let number = |i: usize| f32::from_le_bytes([0, 1, 2, 3].map(|b| header[256 + 4 * i + b]));
            let fourth = (1.0 - (0..3).map(|i| f64::from(number(i)).powi(2)).sum::<f64>()).max(0.0).sqrt();
            let rounding = (1e-7 / fourth).min(4e-4);
            let tolerance = 1e-4 + 2.0 * rounding * 8.0 * spacing.iter().sum::<f64>();
            for corner in [[0.0; 3], [8.0, 8.0, 8.0]] {
                let (a, b) = (by_qform.apply(corner), labels.geometry.affine().apply(corner));
                for axis in 0..3 {
                    prop_assert!((a[axis] - b[axis]).abs() < tolerance, "{a:?} {b:?} {tolerance}");
                }
            }
        }
    }
}

/// A rotation (of quaternion 1 + turn), flips, voxel sizes and a position.
fn turned(turn: [f64; 3], spacing: [f64; 3], flips: [bool; 3], position: [f64; 3]) -> Affine {
    let [b, c, d] = turn;
    let n = 1.0 + b * b + c * c + d * d;
    let rotation = [
        [1.0 + b * b - c * c - d * d, 2.0 * (b * c - d), 2.0 * (b * d + c)],
        [2.0 * (b * c + d), 1.0 + c * c - b * b - d * d, 2.0 * (c * d - b)],
        [2.0 * (b * d - c), 2.0 * (c * d + b), 1.0 + d * d - b * b - c * c],
    ];
    let size = [0, 1, 2].map(|a| if flips[a] { -spacing[a] } else { spacing[a] });
    Affine::from_rows([0, 1, 2].map(|w| {
        let r = rotation[w];
        [r[0] * size[0] / n, r[1] * size[1] / n, r[2] * size[2] / n, position[w]]
    }))
}

#[test]
fn all_48_orientations_survive_a_file() {
    let folder = folder();
    let path = folder.path().join("a.nii");
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for bits in 0..8u8 {
            let mut rows = [[0.0, 0.0, 0.0, 4.5], [0.0, 0.0, 0.0, -6.0], [0.0, 0.0, 0.0, 80.25]];
            for (axis, size) in [0.5, 1.25, 3.0].into_iter().enumerate() {
                rows[order[axis]][axis] = if bits & (1 << axis) == 0 { size } else { -size };
            }
            let affine = Affine::from_rows(rows);
            let geometry = Geometry::from_affine([2, 3, 4], affine).expect("regular");
            assert_eq!(geometry.spacing, [3.0, 1.25, 0.5]);
            assert_eq!(geometry.affine(), affine);
            nifti::write_labels(&path, &LabelMap::new(vec![1; 24], geometry.clone()).expect("24"))
                .expect("writable");
            let back = nifti::read_info(&path).expect("ours").geometry;
            assert_eq!(back, geometry);
            // The qform alone says the same: its quaternion holds every one of them, flips as qfac.
            let mut bytes = fs::read(&path).expect("ours");
            bytes[254..256].fill(0);
            let qform = nifti::read_info(&write(folder.path(), "q.nii", &bytes)).expect("ours").geometry;
            for (a, b) in qform.affine().rows().as_flattened().iter().zip(affine.rows().as_flattened()) {
                assert!((a - b).abs() < 1e-5, "{order:?} {bits}: {:?} for {rows:?}", qform.affine().rows());
            }
            assert_eq!(qform.orientation(), affine.orientation());
        }
    }
}

#[test]
fn the_header_geometry_of_an_image_is_written_unchanged() {
    // Forms that disagree, odd codes, metres, a missing qfac, numbers that only f64 holds: none of it is tidied.
    let folder = folder();
    for (version, third) in [(1, 0.25), (2, 1.0 / 3.0)] {
        let made = Made {
            version,
            pixdim: [0.0, -1.5, 2.0, 3.0 + third],
            codes: (4, 2),
            quaternion: [0.5, third, -0.125],
            offset: [1.0 + third, -2.0, 3.0],
            units: 1 | 8,
            ..Made::small()
        };
        let image = nifti::read_volume(&made.write(folder.path(), "image.nii")).expect("valid");
        let labels = LabelMap::new(vec![2; 24], image.geometry.clone()).expect("24");
        let path = folder.path().join("seg.nii");
        nifti::write_labels(&path, &labels).expect("writable");
        assert_eq!(nifti::read_labels(&path).expect("ours"), labels);
        let (ours, original) = (fs::read(&path).expect("ours"), made.bytes());
        let ranges: &[std::ops::Range<usize>] = if version == 1 {
            &[0..4, 40..48, 76..92, 123..124, 252..328]
        } else {
            &[0..48, 104..136, 344..496, 500..504]
        };
        for range in ranges {
            // The data type (12 to 16 of version 2) is that of the labels, here the same.
            let skip = if version == 2 { 14..16 } else { 0..0 };
            for at in range.clone().filter(|at| !skip.contains(at)) {
                assert_eq!(ours[at], original[at], "version {version}, byte {at}");
            }
        }
        assert_eq!(image.geometry.spacing, [(3.0 + third) * 1e3, 2e3, 1.5e3]);
    }
}

#[test]
fn another_reader_agrees_on_what_we_write() {
    let folder = folder();
    let affine = turned([0.1, -0.2, 0.3], [0.9, 1.1, 4.0], [true, false, true], [10.0, -20.0, 30.0]);
    let geometry = Geometry::from_affine([5, 6, 7], affine).expect("regular");
    let data: Vec<f32> = (0..2 * 210).map(|i| i as f32 * 1.5 - 100.0).collect();
    let volume = Volume::new(2, data, geometry).expect("420");
    for name in ["a.nii", "a.nii.gz"] {
        let path = folder.path().join(name);
        nifti::write_volume(&path, &volume).expect("writable");
        let object = ReaderOptions::new().read_file(&path).expect("the nifti crate reads it");
        let header = object.header();
        assert_eq!(&header.dim[..5], [4, 7, 6, 5, 2]);
        assert_eq!((header.qform_code, header.sform_code), (1, 1));
        for (row, expected) in
            [header.srow_x, header.srow_y, header.srow_z].iter().zip(volume.geometry.affine().rows())
        {
            assert_eq!(row.map(f64::from), expected);
        }
        let voxels = object.into_volume();
        for (c, z, y, x) in [(0, 0, 0, 0), (0, 4, 5, 6), (1, 2, 3, 4), (1, 0, 5, 1)] {
            let value = voxels.get_f32(&[x, y, z, c]).expect("inside");
            let index = ((usize::from(c) * 5 + usize::from(z)) * 6 + usize::from(y)) * 7 + usize::from(x);
            assert_eq!(value.to_bits(), volume.data[index].to_bits());
        }
    }
}

#[test]
fn an_image_of_two_dimensions_becomes_one_slice_and_stays_flat() {
    let folder = folder();
    let made = Made { dim: vec![2, 4, 6], ..Made::small() };
    let volume = nifti::read_volume(&made.write(folder.path(), "a.nii")).expect("valid");
    assert_eq!(volume.shape(), [1, 6, 4]);
    assert_eq!(volume.geometry.spacing, [1998.0, 2.0, 1.0]);
    let path = folder.path().join("seg.nii");
    nifti::write_labels(&path, &LabelMap::new(vec![1; 24], volume.geometry).expect("24")).expect("writable");
    assert_eq!(nifti::read_info(&path).expect("ours").dims, [4, 6]);
}

#[test]
fn trailing_axes_of_one_are_no_channels() {
    let folder = folder();
    for (dim, channels) in
        [(vec![4, 2, 3, 4, 1], 1), (vec![5, 2, 3, 2, 1, 2], 2), (vec![7, 2, 3, 4, 1, 1, 1, 1], 1)]
    {
        let volume =
            nifti::read_volume(&Made { dim, ..Made::small() }.write(folder.path(), "a.nii")).expect("valid");
        assert_eq!(volume.channels, channels);
    }
}

#[test]
fn gzip_of_several_members_and_with_padding_is_read_whole() {
    let folder = folder();
    let bytes = Made::small().bytes();
    let expected = nifti::read_volume(&write(folder.path(), "a.nii", &bytes)).expect("valid");
    for cuts in [vec![0, 100, 376], vec![0, 360, 361, 376], vec![0, 376, 376]] {
        let mut packed: Vec<u8> = cuts.windows(2).flat_map(|w| gzip(&bytes[w[0]..w[1]])).collect();
        let path = write(folder.path(), "a.nii.gz", &packed);
        assert_eq!(nifti::read_volume(&path).expect("members"), expected, "{cuts:?}");
        packed.extend([0; 100]);
        let path = write(folder.path(), "padded.nii.gz", &packed);
        assert_eq!(nifti::read_volume(&path).expect("padding"), expected, "{cuts:?}");
    }
}

#[test]
fn the_name_does_not_decide_whether_a_file_is_compressed() {
    let folder = folder();
    let made = Made::small();
    let plain = nifti::read_volume(&made.write(folder.path(), "plain.nii.gz")).expect("not packed at all");
    let packed =
        nifti::read_volume(&made.write_gz(folder.path(), "packed.nii")).expect("packed nevertheless");
    assert_eq!(plain, packed);
}

#[test]
fn a_large_label_map_is_written_in_the_same_bytes_by_any_number_of_threads() {
    let folder = folder();
    let geometry = Geometry::isotropic([50, 256, 256]);
    // Several blocks, some smooth, some noise that does not compress.
    let noise =
        |i: usize| if i > 1_500_000 { ((i as u32).wrapping_mul(2_654_435_761) >> 24) as u16 } else { 0 };
    let labels =
        LabelMap::new((0..geometry.voxels()).map(noise).collect(), geometry).expect("the right length");
    let written = |threads: usize, name: &str| {
        let path = folder.path().join(name);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| nifti::write_labels(&path, &labels)).expect("writable");
        assert_eq!(nifti::read_labels(&path).expect("ours"), labels);
        fs::read(&path).expect("ours")
    };
    let one = written(1, "one.nii.gz");
    assert!(one == written(3, "three.nii.gz"), "the bytes depend on the thread count");
    // One member, so that readers that stop after the first see everything.
    let mut first = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&one[..]), &mut first)
        .expect("a gzip member");
    assert_eq!(first.len(), 352 + 2 * labels.data.len());
}

#[test]
fn an_empty_label_map_compresses_to_the_limit_and_is_still_believed() {
    let folder = folder();
    let path = folder.path().join("seg.nii.gz");
    let geometry = Geometry::isotropic([155, 240, 240]);
    let voxels = geometry.voxels();
    let empty = LabelMap::new(vec![0; voxels], geometry).expect("the right length");
    nifti::write_labels(&path, &empty).expect("writable");
    assert_eq!(nifti::read_labels(&path).expect("ours"), empty);
    // zlib's best comes closest to deflate's limit of 1032 to 1.
    let made = Made { dim: vec![3, 240, 240, 155], voxels: vec![0; voxels], ..Made::small() };
    let mut best = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut best, &made.bytes()).expect("memory");
    let packed = best.finish().expect("memory");
    assert!(packed.len() * 900 < voxels, "{} bytes", packed.len());
    let labels = nifti::read_labels(&write(folder.path(), "best.nii.gz", &packed)).expect("valid");
    assert!(labels.data == empty.data);
}

#[test]
fn a_written_file_replaces_the_old_one_and_leaves_no_other() {
    let folder = folder();
    let path = folder.path().join("seg.nii.gz");
    for label in [1u16, 2] {
        let labels = LabelMap::new(vec![label; 8], Geometry::isotropic([2, 2, 2])).expect("8");
        nifti::write_labels(&path, &labels).expect("writable");
        assert_eq!(nifti::read_labels(&path).expect("ours").data, [label; 8]);
    }
    assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
}

#[test]
fn scaled_integers_go_through_f32_as_in_itk() {
    // 16777217 has no f32: ITK rounds it to 16777216 before it scales, and subtracting shows that.
    let folder = folder();
    let voxels = 16_777_217i32.to_le_bytes().repeat(24);
    let made = Made { datatype: 8, voxels, scale: (1.0, -16_777_216.0), ..Made::small() };
    let volume = nifti::read_volume(&made.write(folder.path(), "a.nii")).expect("valid");
    assert!(volume.data.iter().all(|&v| v == 0.0));
}

#[test]
fn channels_of_several_files_are_stacked_in_order() {
    let folder = folder();
    let first = Made::small().write_gz(folder.path(), "0.nii.gz");
    let four = Made { dim: vec![4, 2, 3, 4, 2], voxels: (100..148).collect(), ..Made::small() };
    let second = four.write(folder.path(), "1.nii");
    let (volume, infos) = nifti::read_stack(&[first, second]).expect("one grid");
    assert_eq!((volume.channels, infos.len()), (3, 2));
    let expected: Vec<f32> = (0..24).chain(100..148).map(|v| v as f32).collect();
    assert_eq!(volume.data, expected);
}

/// Forms and what SimpleITK 2.5.7 and nibabel 5.4.2 say of them, for 1.5 x 2 x 3 mm voxels.
#[test]
fn origin_direction_and_affine_follow_itk_and_nibabel() {
    let srow = [[-1.5, 0.0, 0.0, 10.0], [0.0, -2.0, 0.0, 20.0], [0.0, 0.0, 3.0, -30.0]];
    // Half a turn about z.
    let base = Made {
        dim: vec![3, 5, 4, 3],
        pixdim: [1.0, 1.5, 2.0, 3.0],
        quaternion: [0.0, 0.0, 1.0],
        offset: [10.0, 20.0, -30.0],
        srow,
        voxels: vec![0; 60],
        ..Made::small()
    };
    let identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]];
    let folder = folder();
    let read = |made: &Made| nifti::read_info(&made.write(folder.path(), "a.nii")).expect("valid").geometry;
    for codes in [(1, 1), (1, 0), (0, 1), (1, 2)] {
        let geometry = read(&Made { codes, ..base.clone() });
        assert_eq!(geometry.origin(), [-10.0, -20.0, -30.0], "{codes:?}");
        assert_eq!(geometry.direction(), identity, "{codes:?}");
        assert_eq!(geometry.affine().rows(), srow, "{codes:?}");
        assert_eq!(geometry.orientation(), "LPS");
    }
    let neither = read(&Made { codes: (0, 0), ..base.clone() });
    assert_eq!((neither.origin(), neither.direction()), ([0.0; 3], identity));
    assert_eq!(
        neither.affine().rows(),
        [[-1.5, 0.0, 0.0, 3.0], [0.0, 2.0, 0.0, -3.0], [0.0, 0.0, 3.0, -3.0]]
    );
    let metres = read(&Made { units: 1, ..base.clone() });
    assert_eq!(metres.spacing, [3000.0, 2000.0, 1500.0]);
    assert_eq!(metres.origin(), [-10000.0, -20000.0, -30000.0]);
    let mismatch = read(&Made { pixdim: [1.0; 4], ..base.clone() });
    assert_eq!(mismatch.spacing, [1.0; 3], "ITK takes the spacing from pixdim, whatever the sform says");
    let missing = read(&Made { pixdim: [0.0, 0.0, f64::NAN, 3.0], ..base });
    assert_eq!(missing.spacing, [3.0, 1.0, 1.0]);
}

#[test]
fn grids_are_compared_as_numpy_allclose_does() {
    let shape = [3, 4, 5];
    let with = |size: f64, position: f64| {
        let rows = [[size, 0.0, 0.0, position], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]];
        Geometry::from_affine(shape, Affine::from_rows(rows)).expect("regular")
    };
    let first = with(1.0, 100.0);
    let nearly = first.same_grid(&with(1.000_005, 100.0005));
    assert!(nearly.same_lattice() && nearly.same_position(), "{nearly:?}");
    let moved = first.same_grid(&with(1.0, 101.0));
    assert!(moved.same_lattice() && !moved.same_position() && moved.direction, "{moved:?}");
    assert!(!first.same_grid(&with(1.0001, 100.0)).spacing);
    let flipped = first.same_grid(&with(-1.0, 100.0));
    assert!(flipped.same_lattice() && flipped.origin && !flipped.direction, "{flipped:?}");
    assert!(!first.same_grid(&Geometry::isotropic([3, 4, 6])).shape);
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn shared_images_have_the_shape_and_spacing_of_their_headers() {
    let golden = glioseg_volume::testing::shared_data("golden/pipeline");
    let files = |folder: &Path| -> Vec<_> {
        let entries = fs::read_dir(folder).expect("a folder of the reference results");
        entries
            .map(|e| e.expect("an entry").path())
            .filter(|p| p.extension().is_some_and(|e| e == "gz"))
            .collect()
    };
    for name in ["iso", "aniso"] {
        let raw = golden.join(name).join("raw");
        let text =
            fs::read(golden.join(name).join("planned/dataset_fingerprint.json")).expect("the fingerprint");
        let fingerprint: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
        let spacings: Vec<[f64; 3]> =
            serde_json::from_value(fingerprint["spacings"].clone()).expect("a spacing per training case");
        let mut seen = std::collections::BTreeMap::new();
        for part in ["imagesTr", "imagesTs"] {
            for path in files(&raw.join(part)) {
                let volume = nifti::read_volume(&path).expect("a reference image");
                assert_eq!(volume.geometry.orientation(), "LPS");
                volume.check_finite().expect("finite");
                assert!(volume.data.iter().any(|&v| v > 0.0));
                let case = path.file_name().expect("a name").to_string_lossy()[..7].to_owned();
                let labels = raw.join(part.replace("images", "labels")).join(format!("{case}.nii.gz"));
                let labels = nifti::read_labels(&labels).expect("its label map");
                assert!(volume.geometry.same_grid(&labels.geometry).same_lattice());
                assert!(labels.data.iter().all(|&v| v < 4) && labels.data.iter().any(|&v| v > 0));
                seen.insert((part, case), volume.geometry.spacing);
            }
        }
        let training: Vec<[f64; 3]> =
            seen.iter().filter(|((part, _), _)| *part == "imagesTr").map(|(_, &spacing)| spacing).collect();
        assert_eq!(training, spacings, "{name}, in the order of the cases");
        assert_eq!(seen.len(), 8);
    }
    let case_03 = nifti::read_info(&golden.join("aniso/raw/imagesTs/case_03_0000.nii.gz")).expect("an image");
    assert_eq!(case_03.geometry.shape, [15, 66, 50]);
    assert_eq!(case_03.geometry.origin(), [89.0, -187.0, 89.0]);
    assert_eq!(case_03.dtype.name(), "i16");
}

#[test]
#[cfg_attr(not(real_cases), ignore = "needs two real cases, see CONTRIBUTING.md")]
fn real_cases_are_read_and_their_grid_is_written_unchanged() {
    let real = glioseg_volume::testing::shared_data("real");
    let folder = folder();
    for case in ["TCGA-DU-7294", "TCGA-FG-6692"] {
        let path = |kind: &str| real.join(case).join(format!("{case}_{kind}.nii.gz"));
        let channels = ["t1", "t1ce", "t2", "flair"].map(path);
        let (volume, _) = nifti::read_stack(&channels).expect("a real case");
        assert_eq!((volume.channels, volume.shape()), (4, [155, 240, 240]));
        assert_eq!(volume.geometry.spacing, [1.0; 3]);
        for (c, channel) in channels.iter().enumerate() {
            assert_eq!(volume.channel(c), nifti::read_volume(channel).expect("a channel").data);
        }
        let labels = nifti::read_labels(&path("seg")).expect("a segmentation");
        let ours = folder.path().join("seg.nii.gz");
        let written = LabelMap::new(labels.data.clone(), volume.geometry).expect("its grid");
        nifti::write_labels(&ours, &written).expect("writable");
        let back = nifti::read_labels(&ours).expect("ours");
        assert_eq!(back, written);
        assert_eq!(back.geometry.orientation(), "LPS");
        assert_eq!(back.geometry.origin(), [0.0, -239.0, 0.0]);
    }
}
