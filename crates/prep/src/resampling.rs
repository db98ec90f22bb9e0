//! From the resampling functions of a plan to those of the volume crate.

use glioseg_plan::{InterpolationMode, Resampling, ResamplingFn};
use glioseg_volume::resample::{Flavour, Order, ResampleOptions, separate_axis};

/// How the plan resamples between two grids; `None` where it leaves the array as it is, whatever its shape.
///
/// Spacings are in mm, in the plan's (transposed) axis order. For data they are the image's and the plan's, for
/// probabilities the plan's and the image's.
///
/// # Source
/// nnU-Net v2, `resample_data_or_seg_to_shape`, `resample_torch_fornnunet`, `no_resampling_hack`.
pub fn resample_options(
    resampling: &Resampling,
    spacing_mm: [f64; 3],
    new_spacing_mm: [f64; 3],
) -> Option<ResampleOptions> {
    let separate_axis = separate_axis(
        resampling.force_separate_z,
        resampling.anisotropy_threshold,
        spacing_mm,
        new_spacing_mm,
    );
    match resampling.function {
        ResamplingFn::Identity => None,
        ResamplingFn::ToShape | ResamplingFn::ToSpacing => Some(ResampleOptions {
            order: order(resampling.order),
            order_z: order(resampling.order_z),
            separate_axis,
            flavour: Flavour::Scipy,
        }),
        ResamplingFn::Torch => Some(ResampleOptions {
            // nnU-Net passes `mode` on only where an axis is separate.
            order: if separate_axis.is_some() { mode(resampling.mode) } else { Order::Linear },
            order_z: mode(resampling.mode_z),
            separate_axis,
            flavour: Flavour::Torch,
        }),
    }
}

fn order(order: u8) -> Order {
    match order {
        0 => Order::Nearest,
        1 => Order::Linear,
        2 => Order::Quadratic,
        _ => Order::Cubic,
    }
}

fn mode(mode: InterpolationMode) -> Order {
    match mode {
        InterpolationMode::Linear => Order::Linear,
        InterpolationMode::NearestExact => Order::Nearest,
    }
}
