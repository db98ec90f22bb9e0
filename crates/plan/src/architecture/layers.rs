//! The layers of a network: which class, with which arguments.

use super::{Dropout, MAX_FEATURES, Nonlin, Norm, NormKind, named};
use crate::PlanError;
use crate::json::Node;

/// Where PyTorch has its layers; any of the names leads to the same class.
macro_rules! modules {
    ($module:literal) => {
        &[concat!("torch.nn.modules.", $module), "torch.nn.modules", "torch.nn"]
    };
}

/// That `conv_op`, where it is there, is a convolution over `dim` axes.
pub(super) fn check_conv(args: &Node<'_>, dim: usize) -> Result<(), PlanError> {
    let Some(conv) = args.opt("conv_op")? else { return Ok(()) };
    let names = ["Conv2d", "Conv3d"];
    let found = named(&conv, modules!("conv"), &names)?;
    let expected = names[dim - 2];
    if found == expected {
        return Ok(());
    }
    Err(conv.wrong(format!("torch.nn.modules.conv.{expected}, since the patch has {dim} axes")))
}

pub(super) fn flag(node: &Node<'_>, key: &str, default: bool) -> Result<bool, PlanError> {
    node.opt(key)?.map_or(Ok(default), |n| n.bool())
}

/// The arguments `key`, all of which are among `known`.
fn arguments<'a>(
    args: &Node<'a>,
    key: &str,
    known: &[&str],
    class: &str,
) -> Result<Option<Node<'a>>, PlanError> {
    let node = args.opt(key)?;
    if let Some(node) = &node {
        node.only(known, class)?;
    }
    Ok(node)
}

/// The number `key` of arguments, where it is there.
fn number(kwargs: Option<&Node<'_>>, key: &str) -> Result<Option<f64>, PlanError> {
    match kwargs {
        None => Ok(None),
        Some(node) => node.opt(key)?.map(|n| n.f64()).transpose(),
    }
}

pub(super) fn norm(args: &Node<'_>, dim: usize) -> Result<Norm, PlanError> {
    const KWARGS: &str = "norm_op_kwargs";
    let Some(op) = args.opt("norm_op")? else {
        return Ok(Norm { kind: NormKind::None, eps: 1e-5, affine: false, running: false });
    };
    let batch = ["BatchNorm2d", "BatchNorm3d"][dim - 2];
    let instance = ["InstanceNorm2d", "InstanceNorm3d"][dim - 2];
    let found = named(&op, modules!("instancenorm"), &[instance])
        .or_else(|_| named(&op, modules!("batchnorm"), &[batch]))
        .or_else(|_| named(&op, modules!("normalization"), &["GroupNorm"]));
    let Ok(class) = found else {
        let known = [("instancenorm", instance), ("batchnorm", batch), ("normalization", "GroupNorm")]
            .map(|(module, class)| format!("torch.nn.modules.{module}.{class}"));
        return Err(op.unknown(&known.each_ref().map(String::as_str)));
    };
    let known: &[&str] = match class {
        "GroupNorm" => &["num_groups", "eps", "affine"],
        _ => &["eps", "momentum", "affine", "track_running_stats"],
    };
    let kwargs = arguments(args, KWARGS, known, class)?;
    let eps = number(kwargs.as_ref(), "eps")?.unwrap_or(1e-5);
    let switch = |key, default| kwargs.as_ref().map_or(Ok(default), |node| flag(node, key, default));
    // The defaults are torch's.
    let affine = switch("affine", class != instance)?;
    let running = switch("track_running_stats", class == batch)?;
    let kind = if class == instance {
        NormKind::Instance
    } else if class == batch {
        NormKind::Batch
    } else {
        NormKind::Group { groups: args.get(KWARGS)?.get("num_groups")?.count(MAX_FEATURES)? }
    };
    Ok(Norm { kind, eps, affine, running })
}

pub(super) fn dropout(args: &Node<'_>) -> Result<Option<Dropout>, PlanError> {
    let Some(op) = args.opt("dropout_op")? else { return Ok(None) };
    let class = named(&op, modules!("dropout"), &["Dropout2d", "Dropout3d", "Dropout"])?;
    let kwargs = arguments(args, "dropout_op_kwargs", &["p", "inplace"], class)?;
    let p = number(kwargs.as_ref(), "p")?.unwrap_or(0.5);
    if (0.0..=1.0).contains(&p) {
        Ok(Some(Dropout { p }))
    } else {
        Err(args.get("dropout_op_kwargs")?.get("p")?.wrong("a share from 0 to 1"))
    }
}

/// # Source
/// `torch.nn.modules.activation`, with its defaults.
pub(super) fn nonlin(args: &Node<'_>) -> Result<Nonlin, PlanError> {
    let Some(op) = args.opt("nonlin")? else { return Ok(Nonlin::Identity) };
    let class = named(&op, modules!("activation"), &["LeakyReLU", "ReLU", "GELU", "ELU", "SiLU", "PReLU"])?;
    let known: &[&str] = match class {
        "LeakyReLU" => &["negative_slope", "inplace"],
        "GELU" => &["approximate"],
        "ELU" => &["alpha", "inplace"],
        "PReLU" => &["num_parameters", "init"],
        _ => &["inplace"],
    };
    let kwargs = arguments(args, "nonlin_kwargs", known, class)?;
    let value = |key: &str, default: f64| number(kwargs.as_ref(), key).map(|found| found.unwrap_or(default));
    let given = |key: &str| kwargs.as_ref().map_or(Ok(None), |node| node.opt(key));
    Ok(match class {
        "LeakyReLU" => Nonlin::LeakyRelu { slope: value("negative_slope", 0.01)? },
        "ReLU" => Nonlin::Relu,
        "GELU" => match given("approximate")? {
            None => Nonlin::Gelu { tanh: false },
            Some(node) => match node.str()? {
                "none" => Nonlin::Gelu { tanh: false },
                "tanh" => Nonlin::Gelu { tanh: true },
                _ => return Err(node.unknown(&["none", "tanh"])),
            },
        },
        "ELU" => Nonlin::Elu { alpha: value("alpha", 1.0)? },
        "SiLU" => Nonlin::Silu,
        _ => Nonlin::PRelu {
            parameters: given("num_parameters")?.map_or(Ok(1), |n| n.count(MAX_FEATURES))?,
            init: value("init", 0.25)?,
        },
    })
}
