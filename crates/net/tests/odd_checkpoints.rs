//! Checkpoints as people write them: the same facts in other Python types, and objects next to the weights.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glioseg_diagnose::Diagnose as _;
use glioseg_interop::Value;
use glioseg_net::{
    Checkpoint, Curve, Dims, EngineChoice, Kernels, Mode, NetError, NetworkSpec, NormKind, NormSpec,
    Parameters, Program, decoder_like_encoder,
};
use glioseg_volume::testing::relative_l2;

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

/// A checkpoint with one weight, `w`, of 1.5 and -2, and this entry next to it.
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

/// A call of `name` (module and name, a line each) with these arguments.
fn call(name: &str, args: &[u8]) -> Vec<u8> {
    [&b"c"[..], name.as_bytes(), b"\n(", args, b"tR"].concat()
}

/// A tensor of two `u16` as torch writes it: a type of the call, and a storage of bytes.
fn short_integers(key: &str, name: &str) -> Vec<u8> {
    let storage =
        [text("storage"), b"ctorch.storage\nUntypedStorage\n".to_vec(), text(key), text("cpu")].concat();
    let args =
        [&b"("[..], &storage, b"K\x04tQK\0K\x02\x85K\x01\x85\x89}", format!("ctorch\n{name}\n").as_bytes()]
            .concat();
    call("torch._utils\n_rebuild_tensor_v3", &args)
}

#[test]
fn objects_beside_the_weights_become_placeholders() {
    let plain = tensor("FloatStorage", "1", 2, &[2]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        (
            "Namespace",
            [&b"cargparse\nNamespace\n)\x81}"[..], &text("lr"), b"K\x01sb"].concat(),
            "argparse.Namespace",
        ),
        ("Counter", call("collections\nCounter", b"}"), "collections.Counter"),
        ("SimpleNamespace", call("types\nSimpleNamespace", b""), "types.SimpleNamespace"),
        (
            "complex",
            call("__builtin__\ncomplex", b"G?\xf0\0\0\0\0\0\0G?\xf0\0\0\0\0\0\0"),
            "__builtin__.complex",
        ),
        ("an enumeration", call("__main__\nMode", b"K\x01"), "__main__.Mode"),
        ("a class alone", b"ctorch.nn.modules.conv\nConv3d\n".to_vec(), "torch.nn.modules.conv.Conv3d"),
        ("keywords", [&b"cmylab\nConfig\n)}"[..], b"\x92"].concat(), "mylab.Config"),
        ("items of a foreign list", b"cmylab\nItems\n)\x81(K\x01K\x02e".to_vec(), "mylab.Items"),
        ("complex numbers of numpy", array("<c8", 1, &[0; 8]), "numpy.ndarray of type c8"),
        (
            "a sparse tensor",
            call("torch._utils\n_rebuild_sparse_tensor", &[&b"N"[..], &plain].concat()),
            "torch._utils._rebuild_sparse_tensor",
        ),
        (
            "complex numbers of torch",
            tensor("ComplexFloatStorage", "2", 1, &[1]),
            "torch.Tensor of complex or quantised numbers",
        ),
        (
            "numbers of eight bits",
            short_integers("3", "float8_e4m3fn"),
            "torch.Tensor of torch.float8_e4m3fn",
        ),
    ];
    for (what, value, expected) in cases {
        let storages = [("1", floats(&[3.0, 4.0])), ("2", vec![0; 8]), ("3", vec![1, 0, 255, 255])];
        let used: Vec<(&str, &[u8])> = storages.iter().map(|(k, b)| (*k, &b[..])).collect();
        let checkpoint = with("extra", &value, &used).expect(what);
        let found = checkpoint.pickle().and_then(|p| p.get("extra")).expect("extra");
        assert_eq!(found, &Value::Foreign(expected.into()), "{what}");
        assert_eq!(found.to_json(), format!("object of {expected}"), "{what}");
    }
    let data = [
        (call("__builtin__\nxrange", b"K\x05K\0J\xfe\xff\xff\xff"), serde_json::json!([5, 3, 1])),
        ([&call("collections\ndeque", b")K\x03")[..], b"K\x01a"].concat(), serde_json::json!([1])),
        (call("__builtin__\nbytes", b""), serde_json::json!([])),
    ];
    for (value, expected) in data {
        let checkpoint = with("extra", &value, &[]).expect("data");
        assert_eq!(checkpoint.pickle().and_then(|p| p.get("extra")).map(Value::to_json), Some(expected));
    }
}

#[test]
fn weights_may_have_attributes_and_any_type_of_numbers() {
    let state = [&b"}"[..], &text("note"), b"K\x01s"].concat();
    let plain = tensor("FloatStorage", "0", 2, &[2]);
    let parameter =
        call("torch._utils\n_rebuild_parameter_with_state", &[&plain[..], b"\x88}", &state].concat());
    // The call inside stands there as its function and its arguments.
    let function = b"ctorch._utils\n_rebuild_tensor_v2\n";
    let inner = plain.strip_prefix(function).and_then(|rest| rest.strip_suffix(b"R")).expect("a call");
    let subclass = [&function[..], b"ctorch\nTensor\n", inner, &state].concat();
    let subclass = call("torch._tensor\n_rebuild_from_type_v2", &subclass);
    let short = short_integers("0", "uint16");
    let (float, shorts) = (floats(&[1.5, -2.0]), vec![7, 0, 255, 255]);
    for (weight, bytes, expected) in
        [(parameter, &float, [1.5, -2.0]), (subclass, &float, [1.5, -2.0]), (short, &shorts, [7.0, 65535.0])]
    {
        let file = file(&dict(&[("network_weights", &dict(&[("w", &weight)]))]), &[("0", bytes)]);
        assert_eq!(Checkpoint::open(&file.path).expect("a checkpoint").read("w").expect("values"), expected);
    }
}

#[test]
fn an_object_among_the_weights_is_refused_by_name() {
    for (weight, expected) in [
        (call("mylab\nWeight", b""), "the weight `w` is not a tensor of numbers but mylab.Weight"),
        (array("<f4", 1, &[0; 4]), "the weight `w` is not a tensor of numbers but a numpy array"),
    ] {
        let file = file(&dict(&[("network_weights", &dict(&[("w", &weight)]))]), &[]);
        let error = Checkpoint::open(&file.path).expect_err("no tensor");
        assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
    }
}

#[test]
fn what_only_runs_code_is_refused_even_beside_the_weights() {
    for name in [
        "os\nsystem",
        "subprocess\nPopen",
        "__builtin__\neval",
        "mylab\nConfig.__init__.__globals__",
        "torch.hub\nload",
    ] {
        let text = with("extra", &call(name, b""), &[]).expect_err(name).to_string();
        assert!(text.contains(&format!("the pickle wants to call {}", name.replace('\n', "."))), "{text}");
    }
}

// ---- networks that nnU-Net's own planner never chooses ----

type Change = fn(&mut NetworkSpec);

#[test]
fn curves_and_residual_decoders_give_pytorchs_answers() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/network/curves.pth");
    let stages = [(2, [1, 3, 3], [1; 3]), (3, [1, 3, 3], [1, 2, 2])];
    let (plain, residual) = (NetworkSpec::plain, |i, o, s: &[_]| NetworkSpec::residual(i, o, s, &[1, 1]));
    let cases: [(&str, NetworkSpec, Change); 5] = [
        ("decoder", residual(1, 2, &stages), |s| {
            (s.residual_decoder, s.curve) = (true, Some(Curve::Gelu { tanh: true }));
            s.norm = Some(NormSpec { running: true, ..NormSpec::new(NormKind::Instance) });
        }),
        ("stem", residual(1, 2, &stages), |s| {
            (s.stem_features, s.curve) = (4, Some(Curve::Prelu { parameters: 1, init: 0.25 }));
        }),
        ("first", plain(1, 2, &stages), |s| {
            (s.curve, s.nonlin_first) = (Some(Curve::Elu { alpha: 0.7 }), true);
            s.norm = Some(NormSpec::new(NormKind::Batch));
        }),
        ("channels", plain(1, 2, &[stages[0], (2, stages[1].1, stages[1].2)]), |s| {
            (s.curve, s.nonlin_first) = (Some(Curve::Prelu { parameters: 2, init: 0.25 }), true);
            s.norm = Some(NormSpec::new(NormKind::Batch));
        }),
        ("bare", plain(1, 2, &stages), |s| (s.curve, s.norm) = (Some(Curve::Silu), None)),
    ];
    for (name, mut spec, change) in cases {
        spec.encoder.iter_mut().for_each(|stage| stage.blocks = 1);
        spec.decoder = decoder_like_encoder(&spec.encoder, &[1]);
        spec.dims = Dims::Two;
        change(&mut spec);
        let data = Checkpoint::open(&path).expect("the fixture");
        let pickle = data.pickle().expect("a pickle");
        let values = |value: Option<&Value>| {
            let tensor = value.and_then(Value::as_tensor).expect("a tensor");
            data.read_tensor(tensor).expect("values")
        };
        let (x, expected) = (values(pickle.get("x")), values(pickle.get("logits").and_then(|l| l.get(name))));
        let checkpoint = Checkpoint::open(&path).expect("the fixture").under(&format!("{name}/"));
        let mut parameters = Parameters::zeros(&spec).expect(name);
        parameters.load_checkpoint(&checkpoint).unwrap_or_else(|e| panic!("{name}: {e}"));
        for kernels in Kernels::ALL {
            let mut engine = EngineChoice { kernels, ..EngineChoice::default() }.start().expect("an engine");
            engine.load(Arc::new(parameters.clone())).expect("loaded");
            engine.prepare(&Program::new(&spec, 1, [1, 4, 8], Mode::Predict).expect(name)).expect("prepared");
            let logits = engine.forward(&x).expect("logits");
            let distance = relative_l2(logits.heads[0], &expected);
            assert!(distance < 2e-6, "{name}, {kernels:?}: {distance}");
        }
    }
}
