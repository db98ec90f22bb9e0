//! Checkpoints as people write them: the same facts in other Python types, and objects beside the weights.

use std::io::{Cursor, Write};
use std::path::PathBuf;

use glioseg_diagnose::Diagnose as _;
use glioseg_net::{Checkpoint, NetError};

/// Text as a pickle has it.
fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

/// A dict of the names and values, which are instructions of a pickle.
fn dict(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut out = b"}(".to_vec();
    for (key, value) in entries {
        out.extend([&text(key)[..], value].concat());
    }
    out.push(b'u');
    out
}

/// A tensor of `shape` (at most 255 each) in storage `key`; `storage` names its type and `len` counts its elements.
fn tensor(storage: &str, key: &str, len: u8, shape: &[u8]) -> Vec<u8> {
    let mut out = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    out.extend(text("storage"));
    out.extend(format!("ctorch\n{storage}\n").into_bytes());
    out.extend([text(key), text("cpu"), vec![b'K', len]].concat());
    out.extend(b"tQK\0(");
    out.extend(shape.iter().flat_map(|&n| [b'K', n]));
    out.extend(b"t(");
    let strides = (0..shape.len()).map(|i| shape[i + 1..].iter().product::<u8>());
    out.extend(strides.flat_map(|n| [b'K', n]));
    out.extend(b"t\x89}tR");
    out
}

/// A numpy array of one axis.
fn array(code: &str, count: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out =
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01K".to_vec();
    out.push(count);
    out.extend(b"\x85cnumpy\ndtype\n");
    out.extend(text(code));
    out.extend([&b"\x89\x88\x87R\x89C"[..], &[bytes.len() as u8], bytes, b"tb"].concat());
    out
}

struct File {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

/// A PyTorch archive of this object and these storages.
fn file(object: &[u8], storages: &[(&str, &[u8])]) -> File {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint_final.pth");
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let pickle = [&b"\x80\x02"[..], object, b"."].concat();
    let data: Vec<(String, &[u8])> = storages.iter().map(|(k, b)| (format!("c/data/{k}"), *b)).collect();
    for (name, bytes) in std::iter::once(("c/data.pkl".to_owned(), &pickle[..])).chain(data) {
        zip.start_file(name, stored).expect("an entry");
        zip.write_all(bytes).expect("written");
    }
    std::fs::write(&path, zip.finish().expect("an archive").into_inner()).expect("written");
    File { _folder: folder, path }
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn longs(values: &[i64]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A checkpoint with one weight, `w`, of 1.5 and -2, and this entry beside it.
fn with(key: &str, value: &[u8], storages: &[(&str, &[u8])]) -> Result<Checkpoint, NetError> {
    let weights = dict(&[("w", &tensor("FloatStorage", "0", 2, &[2]))]);
    let object = dict(&[("network_weights", &weights), (key, value)]);
    let values = floats(&[1.5, -2.0]);
    let file = file(&object, &[&[("0", &values[..])], storages].concat());
    let checkpoint = Checkpoint::open(&file.path)?;
    assert_eq!(checkpoint.read("w")?, [1.5, -2.0]);
    // The values are read while the file is there; only they need it.
    let axes = checkpoint.mirror_axes(3);
    axes.map(|_| checkpoint)
}

const AXES: &str = "inference_allowed_mirroring_axes";

#[test]
fn mirror_axes_are_numbers_in_every_form_that_python_has() {
    let scalar = |n: u8| [&tensor("LongStorage", &n.to_string(), 1, &[])[..]].concat();
    let zero_d = [scalar(1), scalar(2)].concat();
    let numpy_scalar = |n: u8| {
        [
            b"cnumpy.core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0i4\x89\x88\x87RC\x04".to_vec(),
            vec![n, 0, 0, 0],
            b"\x86R".to_vec(),
        ]
        .concat()
    };
    let cases: Vec<(&str, Vec<u8>, &[usize])> = vec![
        ("None", b"N".to_vec(), &[]),
        ("an empty tuple", b")".to_vec(), &[]),
        ("a tuple", b"K\0K\x01K\x02\x87".to_vec(), &[0, 1, 2]),
        ("a list", b"](K\x01K\x02e".to_vec(), &[1, 2]),
        ("an array of i64", array("<i8", 3, &longs(&[0, 1, 2])), &[0, 1, 2]),
        ("an array of u8", array("|u1", 2, &[2, 0]), &[2, 0]),
        ("an array of f64", array("<f8", 1, &1f64.to_le_bytes()), &[1]),
        (
            "a tuple of numpy's integers",
            [numpy_scalar(0), numpy_scalar(2), b"\x86".to_vec()].concat(),
            &[0, 2],
        ),
        ("a tensor", tensor("LongStorage", "3", 2, &[2]), &[0, 2]),
        ("a tuple of tensors", [&zero_d[..], b"\x86"].concat(), &[1, 2]),
    ];
    for (what, value, expected) in cases {
        let storages = [("1", longs(&[1])), ("2", longs(&[2])), ("3", longs(&[0, 2]))];
        let storages: Vec<(&str, &[u8])> = storages.iter().map(|(k, b)| (*k, &b[..])).collect();
        let checkpoint = with(AXES, &value, &storages).expect(what);
        assert_eq!(checkpoint.metadata().mirror_axes.as_deref(), Some(expected), "{what}");
    }
    let checkpoint = with("other", b"N", &[]).expect("a checkpoint");
    assert_eq!(checkpoint.metadata().mirror_axes, None);
}

#[test]
fn mirror_axes_that_do_not_exist_are_an_error() {
    let cases: [(&str, Vec<u8>, &str); 8] = [
        ("beyond the last", b"K\0K\x03\x86".to_vec(), "are 0, 3; the network has the axes 0, 1, 2"),
        ("negative", b"J\xff\xff\xff\xff\x85".to_vec(), "are -1; the network"),
        ("twice", b"K\x01K\x01\x86".to_vec(), "are 1, 1; the network"),
        ("a number", b"K\0".to_vec(), "are an integer; the network"),
        ("text", text("0,1"), "are a string; the network"),
        ("flags", b"\x88\x88\x88\x87".to_vec(), "are a bool; the network"),
        ("halves", array("<f8", 1, &0.5f64.to_le_bytes()), "are 0.5; the network"),
        ("flags of numpy", array("|b1", 3, &[1, 1, 1]), "are a numpy array; the network"),
    ];
    for (what, value, expected) in cases {
        let error = with(AXES, &value, &[]).expect_err(what);
        let text = error.to_string();
        assert!(text.contains("checkpoint_final.pth: the axes that may be mirrored"), "{text}");
        assert!(text.contains(expected), "{what}: {text}");
        assert!(error.hint().is_some_and(|hint| hint.contains("(0, 1)")));
    }
}
