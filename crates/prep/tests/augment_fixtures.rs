//! Operations that `fixtures/augment/make.py` recorded from batchgeneratorsv2: those of DA5 and of cascades, 2d, and
//! patches that reach outside.

use glioseg_prep::augment::{
    BinaryParams, BlurFlavour, BlurParams, Displacement, GradientParams, LocalGammaParams, LocalKernel,
    LowResolutionFlavour, LowResolutionParams, MedianParams, Morphology, Patch, Rectangle, RectanglesParams,
    Rot90Params, SharpenParams, Source, SpatialFlavour, SpatialParams, TransposeParams,
};
use glioseg_volume::testing::assert_close;
use safetensors::SafeTensors;
use serde_json::Value;
use std::path::Path;

struct Record {
    number: usize,
    value: Value,
    image: Patch,
    expected: Vec<f32>,
    /// The records' arrays are `[c, y, x]`.
    planar: bool,
    labels: Vec<i16>,
}

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/augment").join(name);
    std::fs::read(path).expect("a fixture")
}

/// The records of an operation.
fn records(op: &str) -> Vec<Record> {
    let all: Vec<Value> = serde_json::from_slice(&fixture("augment.json")).expect("JSON");
    let bytes = fixture("augment.safetensors");
    let tensors = SafeTensors::deserialize(&bytes).expect("safetensors");
    let f32s = |name: &Value| -> (Vec<usize>, Vec<f32>) {
        let view = tensors.tensor(name.as_str().expect("a name")).expect("an array");
        let values = view.data().as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        (view.shape().to_vec(), values)
    };
    let i16s = |name: &Value| -> Vec<i16> {
        let view = tensors.tensor(name.as_str().expect("a name")).expect("an array");
        view.data().as_chunks().0.iter().map(|&b| i16::from_le_bytes(b)).collect()
    };
    let found: Vec<Record> = all
        .into_iter()
        .enumerate()
        .filter(|(_, r)| r["op"] == op)
        .map(|(number, value)| {
            let (shape, data) = f32s(&value["inputs"]["image"]);
            let planar = shape.len() == 3;
            let shape = if planar { [1, shape[1], shape[2]] } else { [shape[1], shape[2], shape[3]] };
            let seg = value["inputs"].get("segmentation").map_or(vec![0; shape.iter().product()], i16s);
            let (_, expected) = f32s(&value["outputs"]["image"]);
            let labels = value["outputs"].get("segmentation").map_or(Vec::new(), i16s);
            Record {
                number,
                image: Patch::new(shape, data, seg).expect("fits"),
                expected,
                planar,
                labels,
                value,
            }
        })
        .collect();
    assert!(!found.is_empty(), "no record of {op}");
    found
}

impl Record {
    fn number(&self, key: &str) -> f64 {
        self.value["params"][key].as_f64().expect("a number")
    }

    /// A list per axis, with `before` for the axis that 2d lacks.
    fn axes(&self, key: &str, before: f64) -> [f64; 3] {
        triple(&self.value["params"][key], before)
    }

    fn check(mut self, tolerance: f32, apply: impl FnOnce(&Record, &mut Patch)) {
        let mut patch = std::mem::replace(
            &mut self.image,
            Patch::new([1; 3], vec![0.0], vec![0]).expect("a placeholder fits"),
        );
        apply(&self, &mut patch);
        let what = format!("record {}: {} {}", self.number, self.value["op"], self.value["params"]);
        assert_close(&patch.data, &self.expected, tolerance, &what);
    }
}

fn triple(value: &Value, before: f64) -> [f64; 3] {
    let list: Vec<f64> =
        value.as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number")).collect();
    match list[..] {
        [y, x] => [before, y, x],
        [z, y, x] => [z, y, x],
        _ => panic!("{} axes", list.len()),
    }
}

#[test]
fn spatial_in_2d_and_3d_and_far_outside() {
    for r in records("spatial") {
        let affine = r.value["params"].get("angles").is_some();
        let params = SpatialParams {
            patch: r.axes("patch", 1.0).map(|v| v as usize),
            flavour: SpatialFlavour::V2,
            planar: r.planar,
            angles: affine.then(|| r.axes("angles", 0.0)),
            scales: affine.then(|| r.axes("scales", 1.0)),
            displacement: Displacement::None,
            pad_label: -1,
        };
        let out = params.apply(&Source::whole(&r.image));
        let what = format!("record {}: spatial {}", r.number, r.value["params"]);
        assert_close(&out.data, &r.expected, 1e-4, &what);
        let wrong = out.seg.iter().zip(&r.labels).filter(|(a, b)| a != b).count();
        assert_eq!((out.seg.len(), wrong), (r.labels.len(), 0), "labels that differ, {what}");
    }
}

#[test]
fn median() {
    for r in records("median") {
        let planar = r.planar;
        let sizes = vec![Some(r.number("size") as usize)];
        r.check(0.0, |_, patch| MedianParams { sizes, planar }.apply(patch));
    }
}

#[test]
fn sharpen() {
    for r in records("sharpen") {
        r.check(1e-5, |r, patch| {
            SharpenParams { strengths: vec![Some(r.number("strength") as f32)] }.apply(patch);
        });
    }
}

fn kernel(r: &Record, shape: [usize; 3]) -> LocalKernel {
    let (centres, widths) = (r.axes("centres", 0.0), r.axes("widths", 1.0));
    let first = usize::from(r.planar);
    LocalKernel {
        factors: [0, 1, 2].map(|a| {
            if a < first {
                return vec![1.0];
            }
            LocalKernel::axis(shape[a], centres[a] * shape[a] as f64, widths[a])
        }),
    }
}

#[test]
fn brightness_gradient() {
    for r in records("gradient") {
        r.check(1e-5, |r, patch| {
            let kernel = kernel(r, patch.shape);
            GradientParams { bumps: vec![Some((kernel, r.number("strength") as f32))] }.apply(patch);
        });
    }
}

#[test]
fn local_gamma() {
    for r in records("local_gamma") {
        r.check(1e-4, |r, patch| {
            let kernel = kernel(r, patch.shape);
            LocalGammaParams { bumps: vec![Some((kernel, r.number("gamma") as f32))] }.apply(patch);
        });
    }
}

#[test]
fn blur_and_low_resolution_in_2d_and_3d() {
    for r in records("blur") {
        r.check(1e-5, |r, patch| {
            let sigma = r.number("sigma");
            let sigmas = vec![Some([if r.planar { 0.0 } else { sigma }, sigma, sigma])];
            BlurParams { sigmas, flavour: BlurFlavour::Torch }.apply(patch);
        });
    }
    for r in records("low_resolution") {
        r.check(1e-5, |r, patch| {
            let scale = r.number("scale");
            let scales = vec![Some([if r.planar { 1.0 } else { scale }, scale, scale])];
            LowResolutionParams { scales, flavour: LowResolutionFlavour::Torch }.apply(patch);
        });
    }
}

#[test]
fn rectangles() {
    for r in records("rectangles") {
        r.check(1e-5, |r, patch| {
            let boxes = r.value["params"]["rectangles"].as_array().expect("a list");
            let rectangle = |b: &Value| {
                let [start, end] = [0, 1].map(|k| triple(&b[k], 0.0).map(|v| v as usize));
                Rectangle { start, size: [0, 1, 2].map(|a| end[a] - start[a]) }
            };
            let rectangles = vec![Some(boxes.iter().map(rectangle).collect())];
            RectanglesParams { rectangles }.apply(patch);
        });
    }
}

#[test]
fn turns_and_exchanged_axes() {
    for r in records("rot90") {
        r.check(0.0, |r, patch| {
            let plane = &r.value["params"]["plane"];
            let plane = [0, 1].map(|k| plane[k].as_u64().expect("an axis") as usize);
            Rot90Params { turns: r.number("turns") as usize, plane }.apply(patch);
        });
    }
    for r in records("transpose") {
        r.check(0.0, |r, patch| {
            TransposeParams { order: r.axes("order", 0.0).map(|v| v as usize) }.apply(patch);
        });
    }
}

#[test]
fn binary_operators() {
    for r in records("binary") {
        r.check(0.0, |r, patch| {
            let operator = match r.value["params"]["operator"].as_str().expect("a name") {
                "dilate" => Morphology::Dilate,
                "erode" => Morphology::Erode,
                "close" => Morphology::Close,
                _ => Morphology::Open,
            };
            let steps = vec![(0, operator, r.number("radius"))];
            BinaryParams { labels: 2, steps, planar: r.planar }.apply(patch);
        });
    }
}
