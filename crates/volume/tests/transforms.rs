//! Resampling, cropping and hole filling against records of nnU-Net's own functions.

use glioseg_volume::crop::{bounding_box, crop, fill_holes, nonzero_mask};
use glioseg_volume::resample::{
    Flavour, LabelRule, Order, ResampleOptions, resample, resample_labels, resampled_shape, separate_axis,
};
use glioseg_volume::testing::{assert_close, shared_data};
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

struct Records {
    list: Vec<Value>,
    tensors: Vec<u8>,
}

impl Records {
    fn read() -> Records {
        let json = std::fs::read(shared_data("golden/transforms/transforms.json")).expect("the records");
        let tensors =
            std::fs::read(shared_data("golden/transforms/transforms.safetensors")).expect("the arrays");
        Records { list: serde_json::from_slice(&json).expect("JSON"), tensors }
    }

    /// The records of an operation; there must be some.
    fn of(&self, op: &str) -> Vec<&Value> {
        let records: Vec<&Value> = self.list.iter().filter(|r| r["op"] == op).collect();
        assert!(!records.is_empty(), "no record of {op}");
        records
    }

    /// Shape and values of the array that a record names.
    fn array(&self, name: &Value) -> (Vec<usize>, Vec<f32>) {
        let tensors = SafeTensors::deserialize(&self.tensors).expect("a safetensors file");
        let tensor = tensors.tensor(name.as_str().expect("a name")).expect("the array");
        let bytes = tensor.data();
        let values = match tensor.dtype() {
            Dtype::F32 => {
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
            }
            Dtype::U8 => bytes.iter().map(|&b| f32::from(b)).collect(),
            other => panic!("an array of {other:?}"),
        };
        (tensor.shape().to_vec(), values)
    }
}

fn triple<T: Copy + std::fmt::Debug>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> [T; 3] {
    let list: Vec<T> = value.as_array().expect("a list").iter().map(|v| read(v).expect("a number")).collect();
    <[T; 3]>::try_from(list).expect("three numbers")
}

fn sizes(value: &Value) -> [usize; 3] {
    triple(value, |v| v.as_u64().and_then(|n| usize::try_from(n).ok()))
}

/// Old shape, new shape and options of a record.
fn setup(record: &Value, shape: &[usize]) -> ([usize; 3], [usize; 3], ResampleOptions) {
    let p = &record["params"];
    let from = <[usize; 3]>::try_from(&shape[1..]).expect("three axes");
    let to = sizes(&p["new_shape"]);
    let [spacing, new_spacing] = [&p["spacing"], &p["new_spacing"]].map(|s| triple(s, Value::as_f64));
    assert_eq!(resampled_shape(from, spacing, new_spacing), to);
    let order = |key: &str| match p[key].as_u64() {
        Some(0) => Order::Nearest,
        Some(1) => Order::Linear,
        Some(2) => Order::Quadratic,
        _ => Order::Cubic,
    };
    let separate_axis = separate_axis(None, 3.0, spacing, new_spacing);
    let options = ResampleOptions {
        order: order("order"),
        order_z: order("order_z"),
        separate_axis,
        flavour: Flavour::Scipy,
    };
    (from, to, options)
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn images_and_probabilities_are_resampled_as_by_nnunet() {
    let records = Records::read();
    for op in ["resample_data", "resample_probabilities"] {
        for record in records.of(op) {
            let (shape, data) = records.array(&record["inputs"]["data"]);
            let (out_shape, expected) = records.array(&record["output"]);
            let (from, to, options) = setup(record, &shape);
            assert_eq!(out_shape, [&shape[..1], &to[..]].concat());
            let ours: Vec<f32> = data
                .chunks_exact(from.iter().product())
                .flat_map(|channel| resample(channel, from, to, &options))
                .collect();
            // Values are of the order of 1; f32 between the passes costs about 1e-6.
            assert_close(&ours, &expected, 5e-6, &format!("{op} {from:?} {to:?}"));
        }
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn label_maps_are_resampled_as_by_nnunet() {
    let records = Records::read();
    for record in records.of("resample_seg") {
        let (shape, seg) = records.array(&record["inputs"]["seg"]);
        let (_, expected) = records.array(&record["output"]);
        let (from, to, options) = setup(record, &shape);
        let labels = |values: &[f32]| values.iter().map(|&v| v as i16).collect::<Vec<i16>>();
        let ours = resample_labels(&labels(&seg), from, to, &options, LabelRule::Best);
        assert_eq!(ours, labels(&expected), "{from:?} {to:?}");
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn the_non_zero_region_is_nnunets() {
    let records = Records::read();
    for record in records.of("crop_to_nonzero") {
        let (shape, data) = records.array(&record["inputs"]["data"]);
        let (_, seg) = records.array(&record["output"]);
        let shape = <[usize; 3]>::try_from(&shape[1..]).expect("three axes");
        let mut mask = nonzero_mask(&data, shape);
        fill_holes(&mut mask, shape);
        let bbox = bounding_box(&mask, shape).expect("something is not zero");
        let expected: Vec<_> = record["params"]["bbox"].as_array().expect("a box").clone();
        for a in 0..3 {
            assert_eq!(serde_json::json!(bbox[a]), expected[a]);
        }
        let inside: Vec<f32> = crop(mask, shape, bbox).iter().map(|&m| if m { 0.0 } else { -1.0 }).collect();
        assert_eq!(inside, seg);
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn holes_are_filled_as_by_scipy() {
    let records = Records::read();
    for record in records.of("fill_holes") {
        let (shape, mask) = records.array(&record["inputs"]["mask"]);
        let (_, expected) = records.array(&record["output"]);
        let mut mask: Vec<bool> = mask.iter().map(|&v| v != 0.0).collect();
        fill_holes(&mut mask, <[usize; 3]>::try_from(shape).expect("three axes"));
        let filled: Vec<f32> = mask.iter().map(|&m| f32::from(u8::from(m))).collect();
        assert_eq!(filled, expected);
    }
}
