//! Checkpoints: PyTorch's own files, nnU-Net's own models, damaged and hostile files, and our own format.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use glioseg_diagnose::Diagnose as _;
use glioseg_interop::{NdArray, Value, read_pickle, read_pickle_file};
use glioseg_net::checkpoint::{CheckpointKind, Metadata, write_safetensors};
use glioseg_net::{
    Checkpoint, Dims, EngineChoice, Mode, NetError, NetworkSpec, NormKind, NormSpec, Parameters, Program,
    decoder_like_encoder,
};
use glioseg_plan::Plans;
use glioseg_volume::testing::{relative_l2, shared_data};

type Failure = Box<dyn std::error::Error>;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/network").join(name)
}

fn plain_2d() -> NetworkSpec {
    let mut spec = NetworkSpec::plain(
        2,
        3,
        &[(4, [1, 3, 3], [1; 3]), (6, [1, 3, 3], [1, 2, 2]), (8, [1, 3, 3], [1, 2, 2])],
    );
    spec.dims = Dims::Two;
    for (stage, blocks) in spec.encoder.iter_mut().zip([1, 2, 1]) {
        stage.blocks = blocks;
        stage.dropout = 0.25;
    }
    spec.decoder = decoder_like_encoder(&spec.encoder, &[2, 1]);
    (spec.conv_bias, spec.up_bias) = (false, false);
    spec.norm = Some(NormSpec { eps: 1e-3, ..NormSpec::new(NormKind::Batch) });
    spec.slope = 0.0;
    spec
}

fn residual() -> NetworkSpec {
    let stages =
        [(4, [1, 3, 3], [1; 3]), (6, [3; 3], [1, 2, 2]), (8, [3; 3], [2; 3]), (8, [3; 3], [1, 2, 1])];
    let mut spec = NetworkSpec::residual(2, 2, &stages, &[1, 2, 1, 1]);
    spec.decoder = decoder_like_encoder(&spec.encoder, &[1, 2, 1]);
    spec.norm = Some(NormSpec { affine: false, ..NormSpec::new(NormKind::Instance) });
    spec.slope = 0.2;
    spec
}

fn activation_first() -> NetworkSpec {
    let mut spec = NetworkSpec::plain(1, 2, &[(4, [3; 3], [1; 3]), (8, [3; 3], [2; 3])]);
    spec.nonlin_first = true;
    spec
}

/// A tensor of the pickle as `[n, c, z, y, x]`, whatever its rank.
fn tensor(checkpoint: &Checkpoint, value: &Value) -> Result<(Vec<f32>, [usize; 5]), Failure> {
    let tensor = value.as_tensor().ok_or("no tensor")?;
    let s = &tensor.shape;
    let shape = if s.len() == 4 { [s[0], s[1], 1, s[2], s[3]] } else { [s[0], s[1], s[2], s[3], s[4]] };
    Ok((checkpoint.read_tensor(tensor)?, shape))
}

#[test]
fn networks_written_by_pytorch_give_pytorchs_answers() -> Result<(), Failure> {
    for (name, spec) in [
        ("plain_2d.pth", plain_2d()),
        ("residual_old.pth", residual()),
        ("first_compiled.pth", activation_first()),
    ] {
        let checkpoint = Checkpoint::open(fixture(name))?;
        assert_eq!(checkpoint.kind(), CheckpointKind::NnUnetV2);
        let mut parameters = Parameters::zeros(&spec)?;
        parameters.load_checkpoint(&checkpoint)?;
        let data = checkpoint.pickle().ok_or("pickle")?;
        let (x, shape) = tensor(&checkpoint, data.get("x").ok_or("x")?)?;
        let expected = data.get("heads").and_then(Value::as_list).ok_or("heads")?;
        let mut engine = EngineChoice::default().start()?;
        engine.load(Arc::new(parameters))?;
        let size = [shape[2], shape[3], shape[4]];
        engine.prepare(&Program::new(&spec, shape[0], size, Mode::Predict)?)?;
        let alone = engine.forward(&x)?.heads[0].to_vec();
        let program = Program::new(&spec, shape[0], size, Mode::Evaluate)?;
        engine.prepare(&program)?;
        let heads = engine.forward(&x)?.heads;
        assert_eq!(heads.len(), expected.len(), "{name}");
        for (i, (ours, expected)) in heads.into_iter().zip(expected).enumerate() {
            let (values, shape) = tensor(&checkpoint, expected)?;
            let map = program.map(program.heads[i]);
            let [z, y, x] = map.size;
            assert_eq!([program.batch, map.channels, z, y, x], shape, "{name}, head {i}");
            let distance = relative_l2(ours, &values);
            assert!(distance < 2e-6, "{name}, head {i}: {distance}");
            assert!(i > 0 || ours == alone, "{name}: the full-resolution head alone differs");
        }
    }
    Ok(())
}

#[test]
fn metadata_and_odd_values_of_every_container_are_read() -> Result<(), Failure> {
    for name in ["plain_2d.pth", "residual_old.pth", "first_compiled.pth"] {
        let checkpoint = Checkpoint::open(fixture(name))?;
        let meta = checkpoint.metadata();
        assert_eq!(meta.trainer_name.as_deref(), Some("nnUNetTrainer"), "{name}");
        assert_eq!(meta.configuration.as_deref(), Some("2d"));
        assert_eq!(meta.fold, Some(3.into()));
        assert_eq!(meta.mirror_axes, Some(vec![0, 1]));
        assert_eq!((meta.current_epoch, meta.best_ema), (Some(7), Some(0.625)));
        let plans = meta.plans.as_ref().ok_or("plans")?;
        let expected = serde_json::json!({
            "plans_name": "nnUNetPlans", "spacing": [1.5, 1.0], "big": "1180591620717411303424", "none": null,
            "fortran": [[0, 1, 2], [3, 4, 5]], "swapped": [1.0, -2.5], "text": ["a", "grün"],
            "mask": [true, false], "set": [3], "nan": "NaN", "4": "four", "default": {"k": [1]},
            "path": "some/where"
        });
        assert_eq!(plans, &expected, "{name}");
        let keys: Vec<&String> = plans.as_object().ok_or("object")?.keys().collect();
        assert_eq!(
            keys.iter().take(3).map(|k| k.as_str()).collect::<Vec<_>>(),
            ["plans_name", "spacing", "big"]
        );
        let data = checkpoint.pickle().ok_or("pickle")?;
        let init = data.get("init_args").ok_or("init_args")?;
        assert_eq!(init.get("device").and_then(Value::as_str), Some("cuda:0"));
        assert_eq!(init.get("dtype").and_then(Value::as_str), Some("torch.float32"));

        let odd = |key: &str| -> Result<Vec<f32>, Failure> {
            let value = data.get("odd").and_then(|o| o.get(key)).and_then(Value::as_tensor).ok_or(key)?;
            Ok(checkpoint.read_tensor(value)?)
        };
        let grid: Vec<f32> = (0..24u8).map(f32::from).collect();
        for key in ["half", "bfloat16", "double", "long", "uint8", "parameter"] {
            assert_eq!(odd(key)?, grid, "{name}: {key}");
        }
        assert_eq!(odd("bool")?, grid.iter().map(|&v| f32::from(u8::from(v > 11.0))).collect::<Vec<_>>());
        assert_eq!(odd("scalar")?, [2.5]);
        assert_eq!(odd("slice")?, [13.0, 14.0, 21.0, 22.0], "{name}");
        // grid[i, j, k] = 12 i + 4 j + k, seen as [k, i, j]
        assert_eq!(odd("transposed")?[..7], [0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 1.0], "{name}");
    }
    Ok(())
}

#[test]
fn sha256_is_that_of_the_file() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.safetensors");
    let header = br#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header, &[0, 0, 128, 63]].concat())?;
    let checkpoint = Checkpoint::open(&path)?;
    assert_eq!(checkpoint.read("t")?, [1.0]);
    // From `sha256sum` of the same bytes.
    assert_eq!(checkpoint.sha256()?, SHA256_OF_SAMPLE);
    Ok(())
}

const SHA256_OF_SAMPLE: &str = "4acd8dd55b8b6744a003a7ee809ded4e59b8ba50fe5e676a746f8adcc3a44cb4";

// ---- nnU-Net's own models ----

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn genuine_models_load_by_their_own_plans() -> Result<(), Failure> {
    let folder = shared_data("golden/pipeline");
    for name in ["iso", "aniso"] {
        let model = folder.join(name).join("model");
        let plans = Plans::read(&model.join("plans.json"))?;
        let checkpoint = Checkpoint::open(model.join("fold_0/checkpoint_final.pth"))?;
        let meta = checkpoint.metadata();
        let configuration = plans.configuration(meta.configuration.as_deref().ok_or("configuration")?)?;
        let outputs =
            checkpoint.tensors().find(|t| t.name == "decoder.seg_layers.0.weight").ok_or("head")?.shape[0];
        let inputs = checkpoint.tensors().next().ok_or("first")?.shape[1];
        let spec = NetworkSpec::from_plan(&configuration.architecture, inputs, outputs)?;
        let mut parameters = Parameters::zeros(&spec)?;
        parameters.load_checkpoint(&checkpoint)?;
        for (tensor, values) in parameters.iter() {
            assert_eq!(values, checkpoint.read(&tensor.name)?, "{name}: {}", tensor.name);
        }
        assert_eq!(meta.mirror_axes, Some(vec![0, 1, 2]), "{name}");
        assert_eq!(meta.plans.as_ref().and_then(|p| p.get("plans_name")), plans.raw().get("plans_name"));
        assert!(meta.dataset_json.as_ref().is_some_and(|d| d.get("channel_names").is_some()));
        let sum: usize = parameters.shapes().iter().map(|s| s.shape.iter().product::<usize>()).sum();
        assert_eq!(sum, parameters.num_trained());
        // A forward pass at the plan's patch size.
        let patch: [usize; 3] = configuration.patch_size[..].try_into()?;
        let voxels: usize = patch.iter().product();
        let mut engine = EngineChoice::default().start()?;
        engine.load(Arc::new(parameters))?;
        engine.prepare(&Program::new(&spec, 1, patch, Mode::Predict)?)?;
        let logits = engine.forward(&vec![0.0; inputs * voxels])?;
        assert_eq!(logits.heads.len(), 1);
        assert_eq!(logits.heads[0].len(), outputs * voxels);
        assert!(logits.heads[0].iter().all(|v| v.is_finite()), "{name}");
    }
    Ok(())
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn every_configuration_of_the_reference_plans_describes_a_network() -> Result<(), Failure> {
    let folder = shared_data("golden/pipeline");
    let mut seen = 0;
    for file in [
        "iso/model/plans.json",
        "aniso/model/plans.json",
        "iso/planned/nnUNetPlans.json",
        "aniso/planned/nnUNetPlans.json",
    ] {
        let plans = Plans::read(&folder.join(file))?;
        for name in plans.configuration_names() {
            let configuration = plans.configuration(name)?;
            let spec = NetworkSpec::from_plan(&configuration.architecture, 4, 3)?;
            let patch = &configuration.patch_size;
            let size = [
                if patch.len() == 2 { 1 } else { patch[patch.len() - 3] },
                patch[patch.len() - 2],
                patch[patch.len() - 1],
            ];
            spec.check_input(4, size)?;
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} configurations");
    Ok(())
}

fn files_below(folder: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            files_below(&path, found)?;
        } else {
            found.push(path);
        }
    }
    Ok(())
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn every_pickle_and_model_of_version_1_is_read() -> Result<(), Failure> {
    let folder = shared_data("golden/v1");
    let mut files = vec![];
    files_below(&folder, &mut files)?;
    let (mut pickles, mut models) = (0, 0);
    for file in &files {
        match file.extension().and_then(|e| e.to_str()) {
            Some("pkl") => {
                let value = read_pickle_file(file)?;
                let entries = value.as_dict().or_else(|| value.as_list().and_then(|l| l[0].as_dict()));
                assert!(entries.is_some_and(|e| !e.is_empty()), "{}: {}", file.display(), value.kind());
                pickles += 1;
            }
            Some("model") => {
                let checkpoint = Checkpoint::open(file)?;
                assert_eq!(checkpoint.kind(), CheckpointKind::NnUnetV1);
                let name = checkpoint.metadata().trainer_name.clone().ok_or("trainer")?;
                assert!(name.starts_with("nnUNetTrainer"), "{name}");
                assert!(
                    checkpoint.metadata().plans.as_ref().is_some_and(|p| p.get("plans_per_stage").is_some())
                );
                for tensor in checkpoint.tensors() {
                    let values = checkpoint.read(tensor.name)?;
                    assert_eq!(values.len(), tensor.shape.iter().product::<usize>(), "{}", tensor.name);
                    assert!(values.iter().all(|v| v.is_finite()), "{}", tensor.name);
                }
                models += 1;
            }
            _ => {}
        }
    }
    assert!(pickles > 20 && models > 5, "{pickles} pickles, {models} models");
    let plans = read_pickle_file(&folder.join("plans.pkl"))?;
    let stages = plans.get("plans_per_stage").and_then(Value::as_dict).ok_or("plans_per_stage")?;
    let patch =
        stages[0].1.get("patch_size").and_then(Value::as_array).and_then(NdArray::to_i64).ok_or("patch")?;
    assert_eq!(patch.len(), 3);
    assert!(plans.get("num_modalities").and_then(Value::as_usize).is_some());
    Ok(())
}

// ---- checkpoints that do not fit ----

#[test]
fn a_checkpoint_of_another_plan_is_refused_with_both_shapes() -> Result<(), Failure> {
    let checkpoint = Checkpoint::open(fixture("plain_2d.pth"))?;
    let mut spec = plain_2d();
    spec.encoder[0].features = 5;
    let mut parameters = Parameters::random(&spec, 0)?;
    let before = parameters.clone();
    let error = parameters.load_checkpoint(&checkpoint).expect_err("another plan");
    let message = error.to_string();
    assert!(
        message.ends_with(
            "plain_2d.pth: tensor `encoder.stages.0.0.convs.0.conv.weight` has shape [4, 2, 3, 3] in the checkpoint, \
             but the plan's network expects [5, 2, 3, 3] (and 6 more differences)"
        ),
        "{message}"
    );
    assert_eq!(
        error.hint().as_deref(),
        Some(
            "the checkpoint and the plan do not belong together: the file says its weights are from `nnUNetTrainer` \
             `nnUNetPlans` `2d`; use the plans.json that lies in the model's folder"
        )
    );
    assert!(parameters == before, "a refused checkpoint changes nothing");

    let mut spec = plain_2d();
    spec.encoder[2].blocks = 2;
    let error =
        Parameters::zeros(&spec)?.load_checkpoint(&checkpoint).expect_err("one block more").to_string();
    assert!(
        error.contains(
            "tensor `encoder.stages.2.0.convs.1.conv.weight` is missing; the plan's network expects it with shape \
             [8, 8, 3, 3] (and 4 more differences)"
        ),
        "{error}"
    );

    let mut spec = plain_2d();
    spec.encoder[1].blocks = 1;
    let error =
        Parameters::zeros(&spec)?.load_checkpoint(&checkpoint).expect_err("one block less").to_string();
    assert!(
        error.contains(
            "tensor `encoder.stages.1.0.convs.1.conv.weight` of shape [6, 6, 3, 3] is in the checkpoint, but the \
             plan's network has no such tensor"
        ),
        "{error}"
    );
    Ok(())
}

#[test]
fn an_alias_with_other_values_is_refused() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let parameters = Parameters::random(&activation_first(), 0)?;
    let path = folder.path().join("net.safetensors");
    write_safetensors(&path, &parameters, &Metadata::default())?;
    // The same file with one alias appended.
    let bytes = std::fs::read(&path)?;
    let length = u64::from_le_bytes(bytes[..8].try_into()?) as usize;
    let mut header: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&bytes[8..8 + length])?;
    let end = bytes.len() - 8 - length;
    for (value, fits) in [(0f32, true), (1.0, false)] {
        let alias = serde_json::json!({"dtype": "F32", "shape": [4], "data_offsets": [end, end + 16]});
        header.insert("encoder.stages.0.0.convs.0.all_modules.0.bias".into(), alias);
        let text = serde_json::to_vec(&header)?;
        let file = [
            &(text.len() as u64).to_le_bytes()[..],
            &text,
            &bytes[8 + length..],
            &value.to_le_bytes().repeat(4),
        ];
        std::fs::write(&path, file.concat())?;
        let result = Parameters::zeros(&activation_first())?.load_checkpoint(&Checkpoint::open(&path)?);
        match result {
            Ok(()) => assert!(fits),
            Err(error) => {
                assert!(!fits, "{error}");
                assert!(
                    error.to_string().ends_with(
                        "tensor `encoder.stages.0.0.convs.0.all_modules.0.bias` stands for \
                         `encoder.stages.0.0.convs.0.conv.bias`, but the checkpoint holds other values for it"
                    ),
                    "{error}"
                );
            }
        }
    }
    Ok(())
}

// ---- damaged and hostile files ----

fn open_bytes(bytes: &[u8]) -> NetError {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("checkpoint_final.pth");
    std::fs::write(&path, bytes).expect("written");
    Checkpoint::open(&path).expect_err("the file is bad")
}

/// The message without the folder.
fn message(error: &NetError) -> String {
    let text = error.to_string();
    text[text.find("checkpoint_final.pth").expect("names the file")..].to_owned()
}

/// A PyTorch archive with this pickle and these storages.
fn archive(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(vec![]));
    let stored = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    let mut add = |name: String, bytes: &[u8]| {
        zip.start_file(name, stored).expect("entry");
        zip.write_all(bytes).expect("bytes");
    };
    add("checkpoint/data.pkl".into(), pickle);
    for (key, bytes) in storages {
        add(format!("checkpoint/data/{key}"), bytes);
    }
    zip.finish().expect("archive").into_inner()
}

/// `{"network_weights": {"w": tensor of shape (2,) in storage "0" of `len` floats}}`
fn one_tensor(len: u8) -> Vec<u8> {
    let mut p =
        b"\x80\x02}X\x0f\0\0\0network_weights}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    p.extend(b"X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK");
    p.push(len);
    p.extend(b"tQK\0K\x02\x85K\x01\x85\x89}tRss.");
    p
}

#[test]
fn a_small_archive_made_by_hand_is_read() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.pth");
    let storage: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    std::fs::write(&path, archive(&one_tensor(2), &[("0", &storage)]))?;
    assert_eq!(Checkpoint::open(&path)?.read("w")?, [1.5, -2.0]);
    Ok(())
}

struct Case {
    bytes: Vec<u8>,
    expected: &'static str,
}

#[test]
fn damaged_files_are_named_with_what_is_wrong() {
    let whole = std::fs::read(fixture("plain_2d.pth")).expect("fixture");
    let old = std::fs::read(fixture("residual_old.pth")).expect("fixture");
    let cases = [
        Case { bytes: vec![], expected: "the file is cut off after 0 bytes: it is empty" },
        Case { bytes: b"<!DOCTYPE html><html>".to_vec(), expected: "is an HTML page, not a file of weights" },
        Case {
            bytes: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\n".to_vec(),
            expected: "is a Git LFS pointer, not a file of weights",
        },
        Case {
            bytes: b"a text of its own".to_vec(),
            expected: "neither a PyTorch checkpoint nor a safetensors file; it starts with `a text of its ow`",
        },
        Case {
            bytes: whole[..whole.len() / 2].to_vec(),
            expected: "the file is cut off after 23928 bytes: the zip directory at its end is missing",
        },
        Case {
            bytes: old[..20].to_vec(),
            expected: "the pickle ends after 5 bytes, in the middle of its data",
        },
        Case { bytes: old[..old.len() - 3].to_vec(), expected: "the values of storage" },
        Case {
            bytes: archive(&one_tensor(2), &[("0", &[0; 4])]),
            expected: "`checkpoint/data/0` has 4 bytes, but the pickle says 2 elements of 4 bytes",
        },
        Case {
            bytes: archive(&one_tensor(2), &[]),
            expected: "`checkpoint/data/0` is missing in the archive",
        },
        Case {
            bytes: archive(&one_tensor(1), &[("0", &[0; 4])]),
            expected: "a tensor of shape [2] and stride [1] from element 0 on leaves its storage of 1 elements",
        },
        Case {
            bytes: archive(b"\x80\x02}X\x05\0\0\0epochK\x01s.", &[]),
            expected: "holds no weights: a dict of `epoch`",
        },
        Case { bytes: archive(b"\x80\x02K\x01.", &[]), expected: "holds no weights: an integer" },
        Case { bytes: archive(b"", &[]), expected: "the pickle ends after 0 bytes" },
    ];
    for case in cases {
        let error = open_bytes(&case.bytes);
        let text = message(&error);
        assert!(text.contains(case.expected), "{text}\nexpected: {}", case.expected);
        assert!(error.hint().is_some(), "{text} has no hint");
    }
}

#[test]
fn a_flipped_byte_in_the_weights_is_found_by_its_checksum() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("a.pth");
    let storage: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|f| f.to_le_bytes()).collect();
    let mut bytes = archive(&one_tensor(2), &[("0", &storage)]);
    let at = bytes.windows(8).position(|w| w == storage).ok_or("storage")?;
    bytes[at] ^= 1;
    std::fs::write(&path, bytes)?;
    let error = Checkpoint::open(&path)?.read("w").expect_err("checksum").to_string();
    assert!(
        error.contains("a.pth: damaged or unsupported: `checkpoint/data/0`: Invalid checksum"),
        "{error}"
    );
    Ok(())
}

#[test]
fn code_in_a_pickle_is_refused_by_name() {
    let cases: [(&[u8], &str); 6] = [
        (b"\x80\x02cposix\nsystem\nX\x06\0\0\0whoami\x85R.", "posix.system"),
        (b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.", "builtins.eval"),
        (b"\x80\x02c__builtin__\ngetattr\n.", "__builtin__.getattr"),
        (b"\x80\x02ctorch.storage\n_load_from_bytes\nU\x01x\x85R.", "torch.storage._load_from_bytes"),
        (b"\x80\x02cnumpy\nload\n.", "numpy.load"),
        (b"\x80\x02ccollections\nOrderedDict.__init__\n.", "collections.OrderedDict.__init__"),
    ];
    for (pickle, name) in cases {
        let text = message(&open_bytes(&archive(pickle, &[])));
        assert_eq!(text, format!("checkpoint_final.pth: refused: the pickle wants to call {name}"));
    }
    let old = [&std::fs::read(fixture("residual_old.pth")).expect("fixture")[..14], b"\x80\x02cos\npopen\n."]
        .concat();
    let text = message(&open_bytes(&old));
    assert!(text.ends_with("refused: the pickle wants to call os.popen"), "{text}");
}

#[test]
fn hostile_pickles_end_in_errors() {
    let deep: Vec<u8> = [&b"\x80\x02"[..], &b"]".repeat(5000), &b"a".repeat(4999), b"."].concat();
    let mut doubling = b"\x80\x04]\x94".to_vec();
    for i in 0..40u8 {
        doubling.extend([b']', 0x94, b'(', b'h', i, b'h', i, b'e']);
    }
    doubling.push(b'.');
    let cases: [(&str, Vec<u8>, &str); 11] = [
        ("nesting", deep, "beyond the limit of 200 levels of nesting"),
        ("a list in itself", b"\x80\x04]\x94h\0a.".to_vec(), "beyond the limit of 200 levels of nesting"),
        ("two to the forty", doubling, "beyond the limit of 8388608 objects"),
        ("announced bytes", b"\x80\x04\x8e\xff\xff\xff\x0f\0\0\0\0abc.".to_vec(), "ends after"),
        ("more bytes than any", b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.".to_vec(), "beyond the limit of 1073741824 bytes"),
        ("no object", b"\x80\x02.".to_vec(), "an empty stack"),
        ("below a mark", b"\x80\x02K\x01(0.".to_vec(), "an empty stack"),
        ("unknown memory", b"\x80\x02h\x07.".to_vec(), "object 7 is used before it is stored"),
        ("unknown instruction", b"\x80\x02\x84.".to_vec(), "instruction 0x84 is not supported"),
        ("an array of 2^62", b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01\x8a\x08\0\0\0\0\0\0\0\x40\x85cnumpy\ndtype\nX\x02\0\0\0f8\x89\x88\x87R\x89C\x01xtb.".to_vec(), "a numpy array of shape"),
        ("a protocol of the future", b"\x80\x09.".to_vec(), "protocol 9, known are 2 to 5"),
    ];
    for (what, pickle, expected) in cases {
        let text = read_pickle(&mut Cursor::new(pickle)).expect_err(what).to_string();
        assert!(text.contains(expected), "{what}: {text}");
    }
}

#[test]
fn random_damage_never_panics() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("damaged.pth");
    let mut state = 1u64;
    let mut random = move |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut read = 0;
    for name in ["first_compiled.pth", "residual_old.pth"] {
        let whole = std::fs::read(fixture(name))?;
        // Mostly in the pickle, where structure is.
        let pickle = whole.windows(15).position(|w| w == b"network_weights").ok_or("pickle")?;
        for _ in 0..300 {
            let mut bytes = whole.clone();
            for _ in 0..=random(4) {
                let at = if random(4) == 0 { random(bytes.len()) } else { pickle + random(4000) };
                bytes[at] = random(256) as u8;
            }
            if random(8) == 0 {
                bytes.truncate(random(whole.len()));
            }
            std::fs::write(&path, bytes)?;
            if let Ok(checkpoint) = Checkpoint::open(&path) {
                for tensor in checkpoint.tensors() {
                    if let Ok(values) = checkpoint.read(tensor.name) {
                        assert_eq!(values.len(), tensor.shape.iter().product::<usize>());
                        read += 1;
                    }
                }
            }
        }
    }
    assert!(read > 100, "only {read} tensors could be read");
    Ok(())
}

// ---- our own format ----

#[test]
fn safetensors_give_back_the_same_bits_and_metadata() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint_final.safetensors");
    for spec in [plain_2d(), residual(), activation_first()] {
        let parameters = Parameters::random(&spec, 5)?;
        let metadata = Metadata {
            trainer_name: Some("glioseg".into()),
            mirror_axes: Some(vec![]),
            current_epoch: Some(12),
            plans: Some(serde_json::json!({"z": 1, "a": [0.1, null]})),
            ..Metadata::default()
        };
        write_safetensors(&path, &parameters, &metadata)?;
        let checkpoint = Checkpoint::open(&path)?;
        assert_eq!(checkpoint.metadata(), &metadata);
        assert_eq!(checkpoint.kind(), CheckpointKind::Safetensors);
        let mut other = Parameters::random(&spec, 6)?;
        assert!(other != parameters);
        other.load_checkpoint(&checkpoint)?;
        assert!(other == parameters);
    }
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 1, "no temporary file is left");
    Ok(())
}

#[test]
fn foreign_safetensors_take_their_metadata_from_the_json_beside() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("checkpoint_final.safetensors");
    let header = br#"{"t":{"dtype":"BF16","shape":[1],"data_offsets":[0,2]}}"#;
    std::fs::write(&path, [&(header.len() as u64).to_le_bytes()[..], header, &[0x80, 0x3f]].concat())?;
    assert_eq!(Checkpoint::open(&path)?.metadata(), &Metadata::default());
    std::fs::write(path.with_extension("json"), r#"{"configuration": "3d_fullres", "mirror_axes": [0]}"#)?;
    let checkpoint = Checkpoint::open(&path)?;
    assert_eq!(checkpoint.metadata().configuration.as_deref(), Some("3d_fullres"));
    assert_eq!(checkpoint.metadata().mirror_axes, Some(vec![0]));
    assert_eq!(checkpoint.read("t")?, [1.0]);
    std::fs::write(path.with_extension("json"), "{")?;
    let error = Checkpoint::open(&path).expect_err("broken JSON").to_string();
    assert!(error.contains("checkpoint_final.json: damaged or unsupported: metadata: "), "{error}");
    Ok(())
}

#[test]
fn a_failed_write_leaves_the_old_file() -> Result<(), Failure> {
    let folder = tempfile::tempdir()?;
    let parameters = Parameters::random(&activation_first(), 0)?;
    let missing = folder.path().join("no/such/folder/net.safetensors");
    let error = write_safetensors(&missing, &parameters, &Metadata::default()).expect_err("no folder");
    assert!(error.to_string().contains("no/such/folder/net.safetensors: "), "{error}");
    // A folder of that name cannot be replaced by the file.
    let taken = folder.path().join("taken.safetensors");
    std::fs::create_dir_all(taken.join("inside"))?;
    write_safetensors(&taken, &parameters, &Metadata::default()).expect_err("a folder is in the way");
    assert_eq!(std::fs::read_dir(folder.path())?.count(), 1, "no temporary file is left");
    Ok(())
}

// ---- whole networks ----

#[test]
fn parameter_counts_are_nnunets() -> Result<(), Failure> {
    let brats = NetworkSpec::brats(3);
    assert_eq!((brats.num_parameters()?, brats.parameters()?.len()), (31_198_991, 108));
    let features = [32, 64, 128, 256, 320, 320];
    let stages: Vec<_> = features
        .iter()
        .enumerate()
        .map(|(s, &f)| (f, [3; 3], if s == 0 { [1; 3] } else { [2; 3] }))
        .collect();
    let spec = NetworkSpec::residual(4, 3, &stages, &[1, 3, 4, 6, 6, 6]);
    assert_eq!((spec.num_parameters()?, spec.parameters()?.len()), (102_353_167, 264));
    Ok(())
}

#[test]
fn initial_weights_are_nnunets() -> Result<(), Failure> {
    let parameters = Parameters::random(&residual_affine(), 3)?;
    for (shape, values) in parameters.iter() {
        let name = &shape.name;
        if name.ends_with("conv2.norm.weight") || name.ends_with("bias") {
            assert!(values.iter().all(|&v| v == 0.0), "{name}");
        } else if name.ends_with("norm.weight") {
            assert!(values.iter().all(|v| v.to_bits() == 1f32.to_bits()), "{name}");
        } else {
            assert!(values.iter().all(|&v| v != 0.0), "{name}");
        }
    }
    assert!(parameters == Parameters::random(&residual_affine(), 3)?);
    assert!(parameters != Parameters::random(&residual_affine(), 4)?);
    Ok(())
}

fn residual_affine() -> NetworkSpec {
    NetworkSpec { norm: Some(NormSpec::new(NormKind::Instance)), ..residual() }
}
