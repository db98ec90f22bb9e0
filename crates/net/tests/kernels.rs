//! The network on our kernels against the same network on Burn's operations, and against itself on other thread counts.

use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor, TensorData};
use glioseg_net::{
    Dims, Kernels, NetworkSpec, NormKind, NormSpec, Unet, packed_bytes, release_memory, set_kernels,
    set_packed_budget,
};
use glioseg_volume::testing::relative_l2;

type Failure = Box<dyn std::error::Error>;

/// The choice of kernels is the process's, so these tests take turns.
static TURN: Mutex<()> = Mutex::new(());

#[derive(Debug)]
struct Case {
    name: &'static str,
    spec: NetworkSpec,
    batch: usize,
    size: [usize; 3],
}

/// Every kind of layer, odd sizes behind the strides, channels that fill no vector.
fn cases() -> Vec<Case> {
    let plain =
        || NetworkSpec::plain(3, 2, &[(5, [3; 3], [1; 3]), (9, [3; 3], [2; 3]), (18, [3; 3], [2; 3])]);
    let with = |change: &dyn Fn(&mut NetworkSpec)| {
        let mut spec = plain();
        change(&mut spec);
        spec
    };
    let flat = [(6, [1, 3, 3], [1; 3]), (12, [1, 3, 3], [1, 2, 2]), (20, [1, 3, 3], [1, 2, 2])];
    let two = |mut spec: NetworkSpec| {
        spec.dims = Dims::Two;
        spec
    };
    let mixed = [(6, [1, 3, 3], [1; 3]), (8, [3; 3], [1, 2, 2]), (10, [3, 1, 3], [2, 1, 2])];
    // So many activations that some lie within rounding of the kink, which a slope near 1 makes harmless.
    let mut wide = NetworkSpec::plain(4, 3, &[(32, [3; 3], [1; 3]), (48, [3; 3], [2; 3])]);
    wide.slope = 0.95;
    let norm = |kind| Some(NormSpec::new(kind));
    let case = |name, spec, batch, size| Case { name, spec, batch, size };
    vec![
        case("plain", plain(), 1, [12, 20, 28]),
        case("plain, two samples", plain(), 2, [4, 12, 8]),
        case("wide enough for Winograd", wide, 2, [10, 18, 34]),
        case("anisotropic", NetworkSpec::plain(2, 4, &mixed), 2, [6, 10, 44]),
        case("two dimensions", two(NetworkSpec::plain(1, 2, &flat)), 2, [1, 20, 36]),
        case("two dimensions, residual", two(NetworkSpec::residual(2, 2, &flat, &[1, 2, 2])), 2, [1, 12, 20]),
        case("residual", NetworkSpec::residual(3, 2, &mixed, &[1, 2, 3]), 2, [4, 6, 20]),
        case("no norm", with(&|s| s.norm = None), 2, [8, 4, 12]),
        case(
            "groups of channels",
            {
                let mut spec = NetworkSpec::plain(2, 2, &[(8, [3; 3], [1; 3]), (16, [3; 3], [2; 3])]);
                spec.norm = norm(NormKind::Group(4));
                spec
            },
            2,
            [6, 6, 10],
        ),
        case("batch norm", with(&|s| s.norm = norm(NormKind::Batch)), 2, [8, 12, 4]),
        case("activation first", with(&|s| s.nonlin_first = true), 1, [8, 8, 12]),
        case(
            "plain ReLU, no biases",
            with(&|s| (s.slope, s.conv_bias, s.up_bias) = (0.0, false, false)),
            2,
            [8; 3],
        ),
        case("dropout", with(&|s| s.encoder[1].dropout = 0.5), 2, [8, 8, 12]),
        case(
            "no affine",
            with(&|s| s.norm = Some(NormSpec { affine: false, ..NormSpec::new(NormKind::Instance) })),
            2,
            [8, 4, 8],
        ),
    ]
}

fn values(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..len).map(|_| next() + next()).collect()
}

fn input(case: &Case, device: &Device) -> Tensor<5> {
    let [z, y, x] = case.size;
    let shape = [case.batch, case.spec.in_channels, z, y, x];
    Tensor::from_data(TensorData::new(values(shape.iter().product(), 7), shape), device)
}

fn flat(tensor: Tensor<5>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32 on the host")
}

/// Moves every bias and offset away from 0: a dropped channel is normalised to its offset, and at the kink of the
/// ReLU Burn's gradient is another than PyTorch's and ours.
struct Moved;

impl ModuleMapper for Moved {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|t| {
            if D != 1 {
                return t;
            }
            let (device, shape, leaf) = (t.device(), t.shape(), t.is_require_grad());
            let values: Vec<f32> = t.into_data().try_into_vec().expect("f32 on the host");
            let values = values.into_iter().map(|v| v + 0.125).collect();
            Tensor::from_data(TensorData::new(values, shape), &device).set_require_grad(leaf)
        })
    }
}

/// Logits in evaluation.
fn logits(case: &Case) -> Result<Vec<f32>, Failure> {
    let device = Device::flex();
    let net = Unet::seeded(&case.spec, 3, &device)?.map(&mut Moved);
    let first = flat(net.forward(input(case, &device)));
    // A second pass uses memory and prepared weights of the first.
    assert_eq!(first, flat(net.forward(input(case, &device))), "{}: the second pass", case.name);
    Ok(first)
}

type Gradients = Vec<(String, Vec<f32>)>;

/// Logits of all heads in training, and all gradients of a weighted sum of them.
fn step(case: &Case, device: &Device) -> Result<(Vec<Vec<f32>>, Gradients), Failure> {
    device.seed(5);
    let net = Unet::seeded(&case.spec, 3, device)?.map(&mut Moved);
    let heads = net.forward_heads(input(case, device));
    let mut loss: Option<Tensor<1>> = None;
    for (i, head) in heads.iter().enumerate() {
        let shape = head.dims();
        let weights = TensorData::new(values(shape.iter().product(), 11 + i as u64), shape);
        let part = (head.clone() * Tensor::from_data(weights, device)).sum();
        loss = Some(loss.map_or(part.clone(), |l| l + part));
    }
    let gradients = loss.ok_or("no heads")?.backward();
    let gradients = net.gradients(&gradients).into_iter().filter_map(|(name, g)| Some((name, g?))).collect();
    Ok((heads.into_iter().map(flat).collect(), gradients))
}

#[test]
fn every_network_gives_on_our_kernels_what_it_gives_on_burns_operations() -> Result<(), Failure> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for case in cases() {
        set_kernels(Kernels::Fallback)?;
        let expected = logits(&case)?;
        let device = Device::flex().autodiff();
        let (expected_heads, expected_gradients) = step(&case, &device)?;
        for kernels in [Kernels::Auto, Kernels::Direct] {
            set_kernels(kernels)?;
            let name = format!("{}, {kernels:?}", case.name);
            let distance = relative_l2(&logits(&case)?, &expected);
            assert!(distance < 1e-5, "{name}: logits differ by {distance}");
            for device in [device.clone(), device.clone().gradient_checkpointing()] {
                let (heads, gradients) = step(&case, &device)?;
                for (i, (head, expected)) in heads.iter().zip(&expected_heads).enumerate() {
                    let distance = relative_l2(head, expected);
                    assert!(distance < 1e-5, "{name}: head {i} differs by {distance}");
                }
                assert_eq!(gradients.len(), expected_gradients.len(), "{name}");
                for ((tensor, ours), (_, expected)) in gradients.iter().zip(&expected_gradients) {
                    let size = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt();
                    // Without influence on the loss a gradient is rounding: a bias before a normalisation by channel.
                    let by_channel = case.spec.norm.is_some_and(|n| !matches!(n.kind, NormKind::Group(_)));
                    if tensor.ends_with("conv.bias") && by_channel && !case.spec.nonlin_first {
                        assert!(size(ours) < 1e-2, "{name}: {tensor} has {}", size(ours));
                        continue;
                    }
                    let distance = relative_l2(ours, expected);
                    // A single activation at the kink of the ReLU makes 1e-3.
                    assert!(distance < 3e-3, "{name}: gradient of {tensor} differs by {distance}");
                }
            }
        }
    }
    set_kernels(Kernels::Auto)?;
    Ok(())
}

#[test]
fn results_are_the_same_bits_on_any_number_of_threads() -> Result<(), Failure> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    for kernels in [Kernels::Auto, Kernels::Direct] {
        set_kernels(kernels)?;
        for case in cases() {
            let mut first = None;
            for threads in [1, 2, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
                let result = pool.install(|| -> Result<_, String> {
                    let logits = logits(&case).map_err(|e| e.to_string())?;
                    let step = step(&case, &Device::flex().autodiff()).map_err(|e| e.to_string())?;
                    Ok((logits, step))
                })?;
                let first = first.get_or_insert_with(|| result.clone());
                assert!(*first == result, "{}, {kernels:?}: {threads} threads differ from 1", case.name);
            }
        }
    }
    set_kernels(Kernels::Auto)?;
    Ok(())
}

/// Squares every parameter.
struct Squared;

impl ModuleMapper for Squared {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|t| t.clone() * t)
    }
}

#[test]
fn changed_weights_are_seen_though_prepared_ones_are_kept() -> Result<(), Failure> {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    set_kernels(Kernels::Auto)?;
    let device = Device::flex();
    let case = &cases()[2];
    let one = Unet::seeded(&case.spec, 1, &device)?;
    let run = |net: &Unet| flat(net.forward(input(case, &device)));
    let before = packed_bytes();
    let first = run(&one);
    assert!(packed_bytes() > before, "nothing was kept");
    // A clone shares what is kept with its origin, then gets other weights.
    let clone = one.clone().map(&mut Squared);
    let changed = run(&clone);
    assert!(relative_l2(&changed, &first) > 0.1);
    set_kernels(Kernels::Fallback)?;
    assert!(relative_l2(&changed, &run(&clone)) < 1e-5);
    set_kernels(Kernels::Auto)?;
    assert_eq!(run(&one), first);
    let full = packed_bytes();
    drop((one, clone));
    assert_eq!(packed_bytes(), before, "of {full} bytes");
    // Without a budget nothing is kept, and nothing changes.
    set_packed_budget(0);
    let net = Unet::seeded(&case.spec, 1, &device)?;
    assert_eq!(run(&net), first);
    assert_eq!(packed_bytes(), before);
    set_packed_budget(64 << 20);
    release_memory();
    assert_eq!(run(&net), first);
    Ok(())
}
