//! Every operation of the augmentation against nnU-Net's own result, with the parameters that nnU-Net drew.

use glioseg_prep::augment::{
    BlurFlavour, BlurParams, BrightnessParams, ContrastParams, Displacement, GammaFlavour, GammaParams,
    LowResolutionFlavour, LowResolutionParams, Patch, Source, SpatialFlavour, SpatialParams,
    downsample_labels, scale_to, smooth,
};
use glioseg_volume::testing::{assert_close, shared_data};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

/// The records of one golden file and its arrays.
struct Golden {
    records: Vec<Value>,
    bytes: Vec<u8>,
}

struct Array {
    shape: Vec<usize>,
    values: Vec<f64>,
}

impl Array {
    fn f32(&self) -> Vec<f32> {
        self.values.iter().map(|&v| v as f32).collect()
    }

    fn labels(&self) -> Vec<i16> {
        self.values.iter().map(|&v| v as i16).collect()
    }

    fn spatial(&self) -> [usize; 3] {
        let n = self.shape.len();
        [self.shape[n - 3], self.shape[n - 2], self.shape[n - 1]]
    }
}

impl Golden {
    fn open(name: &str) -> Golden {
        let json = shared_data(&format!("golden/transforms/{name}.json"));
        let tensors = shared_data(&format!("golden/transforms/{name}.safetensors"));
        let records = serde_json::from_slice(&std::fs::read(json).expect("readable")).expect("JSON");
        Golden { records, bytes: std::fs::read(tensors).expect("readable") }
    }

    fn array(&self, name: &Value) -> Array {
        let name = name.as_str().expect("a name of an array");
        let tensors = SafeTensors::deserialize(&self.bytes).expect("safetensors");
        let view = tensors.tensor(name).expect("an array of this name");
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => data.as_chunks().0.iter().map(|&b| f64::from(f32::from_le_bytes(b))).collect(),
            Dtype::F64 => data.as_chunks().0.iter().map(|&b| f64::from_le_bytes(b)).collect(),
            Dtype::I16 => data.as_chunks().0.iter().map(|&b| f64::from(i16::from_le_bytes(b))).collect(),
            other => panic!("{name} is {other:?}"),
        };
        Array { shape: view.shape().to_vec(), values }
    }

    /// The records of an operation, with their number.
    fn of<'a>(&'a self, op: &'a str) -> impl Iterator<Item = (usize, &'a Value)> {
        let found: Vec<_> = self.records.iter().enumerate().filter(move |(_, r)| r["op"] == op).collect();
        assert!(!found.is_empty(), "no record of {op}");
        found.into_iter()
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect()
}

fn triple(value: &Value) -> [f64; 3] {
    numbers(value).try_into().expect("three numbers")
}

fn patch_of(value: &Value) -> [usize; 3] {
    triple(value).map(|v| v as usize)
}

/// A value for the channels that `apply_to_channel` names, by number or by flag.
fn per_channel<T: Copy>(channels: usize, apply: &Value, values: &[T]) -> Vec<Option<T>> {
    let mut out = vec![None; channels];
    let list = apply.as_array().expect("a list");
    let mut values = values.iter();
    for (i, v) in list.iter().enumerate() {
        let channel = match v.as_bool() {
            Some(false) => continue,
            Some(true) => i,
            None => v.as_u64().expect("a channel") as usize,
        };
        out[channel] = values.next().copied();
    }
    assert!(values.next().is_none(), "a value per channel");
    out
}

fn disagreements(ours: &[i16], reference: &[i16]) -> usize {
    assert_eq!(ours.len(), reference.len(), "label maps of different size");
    ours.iter().zip(reference).filter(|(a, b)| a != b).count()
}

fn image_patch(array: &Array) -> Patch {
    let shape = array.spatial();
    Patch::new(shape, array.f32(), vec![0; shape.iter().product()]).expect("fits")
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v2_spatial() {
    let golden = Golden::open("transforms_v2");
    for (i, r) in golden.of("spatial") {
        let (image, seg) = (golden.array(&r["inputs"]["image"]), golden.array(&r["inputs"]["segmentation"]));
        let p = &r["params"];
        let affine = p.get("affine").is_some();
        let displacement = p.get("elastic_offsets").map_or(Displacement::None, |name| {
            let offsets = golden.array(name).f32();
            Displacement::Given([0, 1, 2].map(|a| offsets.iter().skip(a).step_by(3).copied().collect()))
        });
        let params = SpatialParams {
            patch: patch_of(&p["patch"]),
            flavour: SpatialFlavour::V2,
            planar: false,
            angles: affine.then(|| triple(&p["angles"])),
            scales: affine.then(|| triple(&p["scales"])),
            displacement,
            // The records were made with the transform's own default, not with nnU-Net's -1.
            pad_label: 0,
        };
        if affine {
            let theirs: Vec<Vec<f64>> = p["affine"].as_array().expect("rows").iter().map(numbers).collect();
            for (a, b) in params.matrix().iter().flatten().zip(theirs.iter().flatten()) {
                assert!((a - b).abs() < 1e-12, "record {i}: matrix {a} instead of {b}");
            }
        }
        let whole = Patch::new(image.spatial(), image.f32(), seg.labels()).expect("fits");
        let out = params.apply(&Source::whole(&whole));
        let (expected, labels) =
            (golden.array(&r["outputs"]["image"]), golden.array(&r["outputs"]["segmentation"]));
        assert_close(&out.data, &expected.f32(), 1e-4, &format!("v2 spatial, record {i}"));
        assert_eq!(disagreements(&out.seg, &labels.labels()), 0, "labels of v2 spatial, record {i}");

        // The part that is said to be needed is enough.
        let (origin, size) = params.source_box(whole.shape);
        let part = cut(&whole, origin, size);
        let again = params.apply(&Source { patch: &part, origin, full: whole.shape });
        assert!(out == again, "v2 spatial, record {i}: the box {origin:?} + {size:?} is not enough");
    }
}

fn cut(from: &Patch, origin: [usize; 3], size: [usize; 3]) -> Patch {
    fn channels<T: Copy>(values: &[T], shape: [usize; 3], origin: [usize; 3], size: [usize; 3]) -> Vec<T> {
        let mut out = Vec::new();
        for channel in values.chunks_exact(shape.iter().product()) {
            for z in origin[0]..origin[0] + size[0] {
                for y in origin[1]..origin[1] + size[1] {
                    let row = (z * shape[1] + y) * shape[2] + origin[2];
                    out.extend_from_slice(&channel[row..row + size[2]]);
                }
            }
        }
        out
    }
    let data = channels(&from.data, from.shape, origin, size);
    Patch::new(size, data, channels(&from.seg, from.shape, origin, size)).expect("fits")
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v1_spatial() {
    let golden = Golden::open("transforms");
    for (i, r) in golden.of("spatial") {
        let (image, seg) = (golden.array(&r["inputs"]["data"]), golden.array(&r["inputs"]["seg"]));
        let params = SpatialParams {
            patch: patch_of(&r["params"]["patch"]),
            flavour: SpatialFlavour::V1,
            planar: false,
            angles: Some(triple(&r["params"]["angles"])),
            scales: Some(triple(&r["params"]["scale"])),
            displacement: Displacement::None,
            pad_label: -1,
        };
        let whole = Patch::new(image.spatial(), image.f32(), seg.labels()).expect("fits");
        let out = params.apply(&Source::whole(&whole));
        let expected = golden.array(&r["output"]);
        let (data, labels) = expected.values.split_at(out.data.len());
        let data: Vec<f32> = data.iter().map(|&v| v as f32).collect();
        let labels: Vec<i16> = labels.iter().map(|&v| v as i16).collect();
        assert_close(&out.data, &data, 1e-4, &format!("v1 spatial, record {i}"));
        assert_eq!(disagreements(&out.seg, &labels), 0, "labels of v1 spatial, record {i}");
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v1_elastic_offsets() {
    let golden = Golden::open("transforms");
    for (i, r) in golden.of("elastic_offsets") {
        let noise = golden.array(&r["inputs"]["noise"]);
        let expected = golden.array(&r["output"]);
        let magnitudes = triple(&r["params"]["magnitudes"]);
        let voxels = noise.values.len() / 3;
        for a in 0..3 {
            // The record holds what stood in for numbers of [0, 1), which nnU-Net stretches to [-1, 1).
            let field = noise.values[a * voxels..(a + 1) * voxels].iter().map(|v| v * 2.0 - 1.0).collect();
            let mut field = smooth(field, noise.spatial(), triple(&r["params"]["sigmas"]));
            scale_to(&mut field, magnitudes[a]);
            for (ours, theirs) in field.iter().zip(&expected.values[a * voxels..]) {
                assert!((ours - theirs).abs() < 1e-9, "record {i}, axis {a}: {ours} instead of {theirs}");
            }
        }
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v1_blur() {
    let golden = Golden::open("transforms");
    for (i, r) in golden.of("gaussian_blur") {
        let mut patch = image_patch(&golden.array(&r["inputs"]["data"]));
        let sigma = r["params"]["sigma"].as_f64().expect("a number");
        BlurParams { sigmas: vec![Some([sigma; 3])], flavour: BlurFlavour::Scipy }.apply(&mut patch);
        assert_close(&patch.data, &golden.array(&r["output"]).f32(), 1e-4, &format!("v1 blur, record {i}"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v2_blur() {
    let golden = Golden::open("transforms_v2");
    for (i, r) in golden.of("gaussian_blur") {
        let mut patch = image_patch(&golden.array(&r["inputs"]["image"]));
        let sigmas: Vec<[f64; 3]> =
            r["params"]["sigmas"].as_array().expect("a list").iter().map(triple).collect();
        let sigmas = per_channel(patch.channels(), &r["params"]["apply_to_channel"], &sigmas);
        BlurParams { sigmas, flavour: BlurFlavour::Torch }.apply(&mut patch);
        let expected = golden.array(&r["outputs"]["image"]).f32();
        assert_close(&patch.data, &expected, 1e-4, &format!("v2 blur, record {i}"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v1_gamma() {
    let golden = Golden::open("transforms");
    for (i, r) in golden.of("gamma") {
        let mut patch = image_patch(&golden.array(&r["inputs"]["data"]));
        GammaParams {
            gammas: vec![Some(r["params"]["gamma"].as_f64().expect("a number") as f32)],
            invert: r["params"]["invert"].as_bool().expect("a flag"),
            retain_stats: r["params"]["retain_stats"].as_bool().expect("a flag"),
            flavour: GammaFlavour::V1,
        }
        .apply(&mut patch);
        assert_close(&patch.data, &golden.array(&r["output"]).f32(), 1e-4, &format!("v1 gamma, record {i}"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v2_gamma() {
    let golden = Golden::open("transforms_v2");
    for (i, r) in golden.of("gamma") {
        let mut patch = image_patch(&golden.array(&r["inputs"]["image"]));
        let p = &r["params"];
        let gammas: Vec<f32> = numbers(&p["gamma"]).iter().map(|&g| g as f32).collect();
        GammaParams {
            gammas: per_channel(patch.channels(), &p["apply_to_channel"], &gammas),
            invert: p["invert_image"][0].as_bool().expect("a flag"),
            retain_stats: p["retain_stats"][0].as_bool().expect("a flag"),
            flavour: GammaFlavour::V2,
        }
        .apply(&mut patch);
        let expected = golden.array(&r["outputs"]["image"]).f32();
        assert_close(&patch.data, &expected, 1e-4, &format!("v2 gamma, record {i}"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v1_contrast() {
    let golden = Golden::open("transforms");
    for (i, r) in golden.of("contrast") {
        let mut patch = image_patch(&golden.array(&r["inputs"]["data"]));
        let factor = r["params"]["factor"].as_f64().expect("a number") as f32;
        ContrastParams { factors: vec![Some(factor)], preserve_range: true }.apply(&mut patch);
        let expected = golden.array(&r["output"]).f32();
        assert_close(&patch.data, &expected, 1e-4, &format!("v1 contrast, record {i}"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v2_contrast_and_brightness() {
    let golden = Golden::open("transforms_v2");
    let factors = |r: &Value, channels| {
        let factors: Vec<f32> = numbers(&r["params"]["multipliers"]).iter().map(|&g| g as f32).collect();
        per_channel(channels, &r["params"]["apply_to_channel"], &factors)
    };
    for (i, r) in golden.of("brightness") {
        let mut patch = image_patch(&golden.array(&r["inputs"]["image"]));
        BrightnessParams { factors: factors(r, patch.channels()) }.apply(&mut patch);
        let expected = golden.array(&r["outputs"]["image"]).f32();
        assert_close(&patch.data, &expected, 1e-5, &format!("v2 brightness, record {i}"));
    }
    // The records do not say whether the range was preserved: it was in the first, not in the second.
    for ((i, r), preserve_range) in golden.of("contrast").zip([true, false]) {
        let mut patch = image_patch(&golden.array(&r["inputs"]["image"]));
        ContrastParams { factors: factors(r, patch.channels()), preserve_range }.apply(&mut patch);
        let expected = golden.array(&r["outputs"]["image"]).f32();
        assert_close(&patch.data, &expected, 1e-4, &format!("v2 contrast, record {i}"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v1_low_resolution() {
    let golden = Golden::open("transforms");
    for (i, r) in golden.of("simulate_low_resolution") {
        let mut patch = image_patch(&golden.array(&r["inputs"]["data"]));
        let zoom = r["params"]["zoom"].as_f64().expect("a number");
        LowResolutionParams { scales: vec![Some([zoom; 3])], flavour: LowResolutionFlavour::Scipy }
            .apply(&mut patch);
        let expected = golden.array(&r["output"]).f32();
        assert_close(&patch.data, &expected, 1e-4, &format!("v1 low resolution, record {i}"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v2_low_resolution() {
    let golden = Golden::open("transforms_v2");
    for (i, r) in golden.of("low_resolution") {
        let mut patch = image_patch(&golden.array(&r["inputs"]["image"]));
        let scales: Vec<[f64; 3]> =
            r["params"]["scales"].as_array().expect("a list").iter().map(triple).collect();
        let scales = per_channel(patch.channels(), &r["params"]["apply_to_channel"], &scales);
        LowResolutionParams { scales, flavour: LowResolutionFlavour::Torch }.apply(&mut patch);
        let expected = golden.array(&r["outputs"]["image"]).f32();
        assert_close(&patch.data, &expected, 1e-4, &format!("v2 low resolution, record {i}"));
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn v2_deep_supervision() {
    let golden = Golden::open("transforms_v2");
    for (i, r) in golden.of("deep_supervision_targets") {
        let seg = golden.array(&r["inputs"]["segmentation"]);
        for (k, scale) in r["params"]["scales"].as_array().expect("a list").iter().enumerate() {
            let (shape, labels) = downsample_labels(&seg.labels(), seg.spatial(), triple(scale));
            let expected = golden.array(&r["outputs"][&k.to_string()]);
            assert_eq!(shape, expected.spatial(), "record {i}, head {k}");
            assert!(labels == expected.labels(), "record {i}, head {k}: labels differ");
        }
    }
}
