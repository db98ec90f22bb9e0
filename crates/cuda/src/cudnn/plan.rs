//! Plans: an engine of cuDNN for a convolution, with what it needs.

use super::descriptor::{ConvolutionMode, DataType, Descriptor, HeuristicMode, NumericalNote};
use super::{Convolution, Cudnn, Element, Pass};
use crate::error::CudaError;

/// `cudnnBackendDescriptorType_t`.
mod kind {
    pub(super) const CONVOLUTION: i32 = 1;
    pub(super) const ENGINE: i32 = 2;
    pub(super) const ENGINE_CONFIG: i32 = 3;
    pub(super) const HEURISTICS: i32 = 4;
    pub(super) const PLAN: i32 = 5;
    pub(super) const FORWARD: i32 = 10;
    pub(super) const FILTER: i32 = 11;
    pub(super) const DATA: i32 = 12;
    pub(super) const GRAPH: i32 = 15;
    pub(super) const TENSOR: i32 = 17;
    pub(super) const DEVICE_PROPERTIES: i32 = 38;
}

/// `cudnnBackendAttributeName_t`.
mod attribute {
    pub(super) const CONVOLUTION_COMPUTE_TYPE: i32 = 100;
    pub(super) const CONVOLUTION_MODE: i32 = 101;
    pub(super) const CONVOLUTION_DILATIONS: i32 = 102;
    pub(super) const CONVOLUTION_STRIDES: i32 = 103;
    pub(super) const CONVOLUTION_PADDING_BEHIND: i32 = 104;
    pub(super) const CONVOLUTION_PADDING_BEFORE: i32 = 105;
    pub(super) const CONVOLUTION_AXES: i32 = 106;
    pub(super) const HEURISTICS_MODE: i32 = 200;
    pub(super) const HEURISTICS_GRAPH: i32 = 201;
    pub(super) const HEURISTICS_RESULTS: i32 = 202;
    pub(super) const HEURISTICS_DEVICE: i32 = 204;
    pub(super) const CONFIG_ENGINE: i32 = 300;
    pub(super) const PLAN_CONFIG: i32 = 401;
    pub(super) const PLAN_WORKSPACE: i32 = 402;
    pub(super) const PLAN_DEVICE: i32 = 407;
    /// Alpha, beta, convolution, weights, input, output: six numbers for each pass from here.
    pub(super) const FORWARD: i32 = 700;
    pub(super) const DATA: i32 = 706;
    pub(super) const FILTER: i32 = 712;
    pub(super) const GRAPH_OPERATIONS: i32 = 801;
    pub(super) const TENSOR_ALIGNMENT: i32 = 900;
    pub(super) const TENSOR_TYPE: i32 = 901;
    pub(super) const TENSOR_DIMENSIONS: i32 = 902;
    pub(super) const TENSOR_STRIDES: i32 = 903;
    pub(super) const TENSOR_ID: i32 = 906;
    pub(super) const ENGINE_INDEX: i32 = 1301;
    pub(super) const ENGINE_NUMERICAL_NOTES: i32 = 1303;
    pub(super) const DEVICE_JSON: i32 = 2702;
}

/// `CUDNN_CROSS_CORRELATION`.
const CROSS_CORRELATION: i32 = 1;
/// `CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC`.
const NONDETERMINISTIC: i32 = 4;
/// `CUDNN_HEUR_MODE_INSTANT` and `CUDNN_HEUR_MODE_FALLBACK`, asked in this order.
const MODES: [i32; 2] = [0, 2];
/// Bytes that the address of a tensor is a multiple of.
const ALIGNMENT: i64 = 16;
/// Numbers by which a plan knows input, weights and output.
const IDS: [i64; 3] = [1, 2, 3];

/// A GPU that is described instead of present.
#[derive(Debug)]
pub struct DeviceProperties {
    descriptor: Descriptor,
}

impl DeviceProperties {
    /// Reads a description in cuDNN's own JSON; needs cuDNN 9.8.
    ///
    /// # Errors
    /// What cuDNN says about it.
    pub fn from_json(cudnn: &Cudnn, json: &str) -> Result<Self, CudaError> {
        let properties = cudnn.descriptor(kind::DEVICE_PROPERTIES)?;
        let descriptor = properties.set(attribute::DEVICE_JSON, json.trim().as_bytes())?.finalized()?;
        Ok(Self { descriptor })
    }
}

/// What plans are made for.
#[derive(Debug, Clone, Copy)]
pub enum Target<'a> {
    /// A GPU that is described.
    Described(&'a DeviceProperties),
}

/// An engine that can compute a convolution.
#[derive(Debug)]
pub struct Plan {
    _descriptor: Descriptor,
    /// cuDNN's number of the engine.
    pub engine: i64,
    /// Bytes that it needs next to its tensors.
    pub workspace: u64,
    /// Whether two runs give the same bytes.
    pub deterministic: bool,
}

impl Plan {
    /// The first plans that can be made, at most `most`, in the order of cuDNN's heuristics.
    ///
    /// # Errors
    /// [`CudaError::NoPlan`] if none can be made, and what else cuDNN says.
    pub fn candidates(
        cudnn: &Cudnn,
        target: Target<'_>,
        convolution: &Convolution,
        most: usize,
    ) -> Result<Vec<Self>, CudaError> {
        let graph = graph(cudnn, convolution)?;
        let (mut plans, mut offered, mut message) = (vec![], 0, String::new());
        for mode in MODES {
            if plans.len() >= most {
                break;
            }
            // A mode that knows no engine at all answers with an error.
            let configs = match configurations(cudnn, target, &graph, mode) {
                Ok(configs) => configs,
                Err(error) => {
                    message = error.to_string();
                    continue;
                }
            };
            offered += configs.len();
            for config in &configs {
                if plans.len() >= most {
                    break;
                }
                match finalise(cudnn, target, config) {
                    Ok(plan) => plans.push(plan),
                    Err(error) => message = error.to_string(),
                }
            }
        }
        if plans.is_empty() {
            return Err(CudaError::NoPlan { convolution: convolution.to_string(), offered, message });
        }
        Ok(plans)
    }
}

/// A tensor `[n, z, y, x, c]`; cuDNN counts axes as n, c, z, y, x always.
fn tensor(
    cudnn: &Cudnn,
    id: i64,
    [n, c]: [usize; 2],
    [z, y, x]: [usize; 3],
    element: Element,
) -> Result<Descriptor, CudaError> {
    let wide = |values: [usize; 5]| values.map(|v| v as i64);
    let strides = wide([c * z * y * x, 1, y * x * c, x * c, c]);
    cudnn
        .descriptor(kind::TENSOR)?
        .set(attribute::TENSOR_ID, &[id])?
        .set(attribute::TENSOR_TYPE, &[DataType::new(element.number())])?
        .set(attribute::TENSOR_DIMENSIONS, &wide([n, c, z, y, x]))?
        .set(attribute::TENSOR_STRIDES, &strides)?
        .set(attribute::TENSOR_ALIGNMENT, &[ALIGNMENT])?
        .finalized()
}

/// The graph whose only operation is the convolution.
fn graph(cudnn: &Cudnn, of: &Convolution) -> Result<Descriptor, CudaError> {
    let [from, to] = of.channels;
    let x = tensor(cudnn, IDS[0], [of.batch, from], of.input, of.element)?;
    let w = tensor(cudnn, IDS[1], [to, from], of.kernel, of.element)?;
    let y = tensor(cudnn, IDS[2], [of.batch, to], of.output(), of.element)?;
    let wide = |values: [usize; 3]| values.map(|v| v as i64);
    let convolution = cudnn
        .descriptor(kind::CONVOLUTION)?
        .set(attribute::CONVOLUTION_AXES, &[3i64])?
        .set(attribute::CONVOLUTION_COMPUTE_TYPE, &[DataType::new(Element::F32.number())])?
        .set(attribute::CONVOLUTION_MODE, &[ConvolutionMode::new(CROSS_CORRELATION)])?
        .set(attribute::CONVOLUTION_PADDING_BEFORE, &wide(of.padding))?
        .set(attribute::CONVOLUTION_PADDING_BEHIND, &wide(of.padding))?
        .set(attribute::CONVOLUTION_DILATIONS, &[1i64; 3])?
        .set(attribute::CONVOLUTION_STRIDES, &wide(of.stride))?
        .finalized()?;
    let (kind, first) = match of.pass {
        Pass::Forward => (kind::FORWARD, attribute::FORWARD),
        Pass::Data => (kind::DATA, attribute::DATA),
        Pass::Filter => (kind::FILTER, attribute::FILTER),
    };
    let operation = cudnn
        .descriptor(kind)?
        .set(first, &[1f32])?
        .set(first + 1, &[if of.add { 1f32 } else { 0.0 }])?
        .of(first + 2, &[&convolution])?
        .of(first + 3, &[&w])?
        .of(first + 4, &[&x])?
        .of(first + 5, &[&y])?
        .finalized()?;
    let graph = cudnn.descriptor(kind::GRAPH)?;
    graph.of(attribute::GRAPH_OPERATIONS, &[&operation])?.finalized()
}

/// The engines that the heuristics offer, best first.
fn configurations(
    cudnn: &Cudnn,
    Target::Described(device): Target<'_>,
    graph: &Descriptor,
    mode: i32,
) -> Result<Vec<Descriptor>, CudaError> {
    let heuristics = cudnn
        .descriptor(kind::HEURISTICS)?
        .of(attribute::HEURISTICS_GRAPH, &[graph])?
        .set(attribute::HEURISTICS_MODE, &[HeuristicMode::new(mode)])?
        .of(attribute::HEURISTICS_DEVICE, &[&device.descriptor])?
        .finalized()?;
    let count = heuristics.count(attribute::HEURISTICS_RESULTS)?;
    let mut configs =
        (0..count).map(|_| cudnn.descriptor(kind::ENGINE_CONFIG)).collect::<Result<Vec<_>, _>>()?;
    let filled = heuristics.fill(attribute::HEURISTICS_RESULTS, &mut configs)?;
    configs.truncate(filled);
    Ok(configs)
}

fn finalise(
    cudnn: &Cudnn,
    Target::Described(device): Target<'_>,
    config: &Descriptor,
) -> Result<Plan, CudaError> {
    let plan = cudnn
        .descriptor(kind::PLAN)?
        .of(attribute::PLAN_CONFIG, &[config])?
        .of(attribute::PLAN_DEVICE, &[&device.descriptor])?
        .finalized()?;
    let (mut workspace, mut index) = ([0i64], [0i64]);
    plan.get(attribute::PLAN_WORKSPACE, &mut workspace)?;
    let mut engine = [cudnn.descriptor(kind::ENGINE)?];
    config.fill(attribute::CONFIG_ENGINE, &mut engine)?;
    let [engine] = engine;
    engine.get(attribute::ENGINE_INDEX, &mut index)?;
    let mut notes = [NumericalNote::new(-1); 16];
    let found = engine.get(attribute::ENGINE_NUMERICAL_NOTES, &mut notes)?;
    let deterministic = notes.iter().take(found).all(|note| note.number() != NONDETERMINISTIC);
    Ok(Plan {
        _descriptor: plan,
        engine: index[0],
        workspace: u64::try_from(workspace[0]).unwrap_or(0),
        deterministic,
    })
}
