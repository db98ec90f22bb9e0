//! A made brain with a tumour, in the form of a BraTS case, for demonstrations and tests that need no download.
//!
//! Every voxel is a function of the seed and its place alone: the same on every machine and with any number of
//! threads. The head shrinks with the field of view, so that 48 x 48 x 48 voxels hold a whole one.
//!
//! It looks like a head and has the contrasts of one, but no anatomy to measure by: it is a test image, not a model
//! of disease.

mod anatomy;
mod noise;
mod tumour;

use rayon::prelude::*;

use crate::affine::Affine;
use crate::error::VolumeError;
use crate::geometry::Geometry;
use crate::volume::{LabelMap, Volume};
use anatomy::{Anatomy, HALF_EXTENT_MM};
use noise::{Noise, scale};
use tumour::Foci;

/// Names of a phantom's channels in order, as in a BraTS 2021 case.
pub const CHANNELS: [&str; 4] = ["t1", "t1ce", "t2", "flair"];

/// What kind of tumour a phantom has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tumour {
    /// The seed decides between the kinds with a tumour; half of all are [`Tumour::Enhancing`].
    #[default]
    Any,
    /// None at all.
    None,
    /// A necrotic core in an enhancing rim, with oedema.
    Enhancing,
    /// A core without enhancement, little oedema.
    NonEnhancing,
    /// Two or three separate foci.
    Multifocal,
    /// A focus of a centimetre.
    Tiny,
}

/// How to make a phantom.
#[derive(Debug, Clone, PartialEq)]
pub struct PhantomOptions {
    /// Voxels along z, y, x.
    pub shape: [usize; 3],
    /// Voxel size in mm along z, y, x.
    pub spacing_mm: [f64; 3],
    /// Decides everything that the other options leave open.
    pub seed: u64,
    /// Kind of tumour.
    pub tumour: Tumour,
    /// Deviation of the scanner's noise, as a fraction of the signal of white matter.
    pub noise: f32,
    /// Strength of the slow change of brightness across the head: 0.1 = some ± 10 %.
    pub bias: f32,
}

impl Default for PhantomOptions {
    /// 96 x 96 x 96 voxels of 1 mm, seed 0, any tumour, 3 % noise, 12 % bias.
    fn default() -> Self {
        Self { shape: [96; 3], spacing_mm: [1.0; 3], seed: 0, tumour: Tumour::Any, noise: 0.03, bias: 0.12 }
    }
}

/// A made case.
#[derive(Debug, Clone, PartialEq)]
pub struct Phantom {
    /// The four [`CHANNELS`]; whole numbers up to a few thousand, exactly 0 outside the brain and nowhere inside.
    pub channels: Volume,
    /// 0 background and healthy brain, 1 oedema, 2 necrotic or non-enhancing core, 3 enhancing tumour: nnU-Net's
    /// coding of BraTS, in which the regions are 1-2-3, 2-3 and 3.
    pub labels: LabelMap,
}

/// Signals of one channel, for a gain of 1.
struct Contrast {
    white: f32,
    grey: f32,
    csf: f32,
    oedema: f32,
    necrosis: f32,
    enhancing: f32,
}

const CONTRASTS: [Contrast; 4] = [
    Contrast { white: 560.0, grey: 420.0, csf: 160.0, oedema: 430.0, necrosis: 290.0, enhancing: 450.0 },
    Contrast { white: 560.0, grey: 430.0, csf: 165.0, oedema: 430.0, necrosis: 280.0, enhancing: 980.0 },
    Contrast { white: 300.0, grey: 430.0, csf: 960.0, oedema: 700.0, necrosis: 820.0, enhancing: 560.0 },
    Contrast { white: 340.0, grey: 430.0, csf: 110.0, oedema: 790.0, necrosis: 460.0, enhancing: 640.0 },
];

/// Makes a phantom.
///
/// # Errors
/// [`VolumeError::SingularAffine`] if a voxel size is not a positive number.
///
/// ```
/// use glioseg_volume::phantom::{PhantomOptions, phantom};
///
/// let case = phantom(&PhantomOptions { shape: [24, 28, 24], seed: 3, ..PhantomOptions::default() })?;
/// assert_eq!(case.channels.channels, 4);
/// assert_eq!(case.labels.shape(), [24, 28, 24]);
/// # Ok::<(), glioseg_volume::VolumeError>(())
/// ```
pub fn phantom(options: &PhantomOptions) -> Result<Phantom, VolumeError> {
    let PhantomOptions { shape, spacing_mm, seed, tumour, .. } = *options;
    let geometry = geometry(shape, spacing_mm)?;
    let [depth, height, width] = shape;

    // One millimetre of the grown head in millimetres of this field of view; heads are not made larger than life.
    let extent = [2, 1, 0].map(|a| (shape[a] as f64 * spacing_mm[a]) as f32);
    let fit = (0..3).map(|a| extent[a] / (2.0 * HALF_EXTENT_MM[a])).fold(1.0, f32::min);
    let step = [2, 1, 0].map(|a| spacing_mm[a] as f32 / fit);
    let edge_mm = (step.iter().sum::<f32>() / 3.0).max(0.8);
    let anatomy = Anatomy::new(seed, edge_mm);
    let foci = Foci::new(tumour, seed, &anatomy, edge_mm);
    let bias = Noise::new(seed, 40);
    let texture = Noise::new(seed, 41);
    let gains = [0, 1, 2, 3].map(|c| Noise::new(seed, 42).uniform(c, 0.75, 1.6));
    let grain = [0, 1, 2, 3].map(|c| [Noise::new(seed, 50 + 2 * c), Noise::new(seed, 51 + 2 * c)]);

    let slice = height * width;
    let voxel = |z: usize, y: usize, x: usize| -> ([f32; 4], u16) {
        let centred = |i: usize, n: usize, step: f32| (i as f32 - (n as f32 - 1.0) / 2.0) * step;
        // Index x runs to the left of the head, y backwards.
        let p = [-centred(x, width, step[0]), -centred(y, height, step[1]), centred(z, depth, step[2])];
        let surface = anatomy.surface(p);
        if surface > 0.0 {
            return ([0.0; 4], 0);
        }
        let tissue = anatomy.tissue(foci.unshifted(p));
        let growth = foci.growth(p, tissue, -surface);
        let healthy = 1.0 - growth.oedema - growth.necrosis - growth.enhancing;
        let mottle = 1.0 + 0.10 * texture.layered(scale(p, 1.0 / 7.0), 2) * (1.5 - healthy);
        let index = (z * slice + y * width + x) as u64;
        let mut out = [0.0; 4];
        for (c, value) in out.iter_mut().enumerate() {
            let contrast = &CONTRASTS[c];
            let brain =
                tissue.white * contrast.white + tissue.grey * contrast.grey + tissue.csf * contrast.csf;
            let ill = growth.oedema * contrast.oedema
                + growth.necrosis * contrast.necrosis
                + growth.enhancing * contrast.enhancing;
            let field = 1.0
                + 2.0 * options.bias * bias.smooth([p[0] / 90.0 + 3.0 * c as f32, p[1] / 90.0, p[2] / 90.0]);
            let signal = (healthy * brain + ill) * mottle * field;
            // The magnitude of a complex signal, which makes the noise of a scanner Rician.
            let sigma = options.noise * contrast.white;
            let real = signal + sigma * grain[c][0].normal(index);
            let imaginary = sigma * grain[c][1].normal(index);
            let magnitude = (real * real + imaginary * imaginary).sqrt() * gains[c];
            *value = magnitude.round().max(1.0);
        }
        (out, growth.label)
    };
    let slices: Vec<Vec<([f32; 4], u16)>> = (0..depth)
        .into_par_iter()
        .map(|z| (0..slice).map(|i| voxel(z, i / width, i % width)).collect())
        .collect();
    let mut data = Vec::with_capacity(4 * geometry.voxels());
    for c in 0..4 {
        data.extend(slices.iter().flatten().map(|(values, _)| values[c]));
    }
    let labels = slices.iter().flatten().map(|&(_, label)| label).collect();
    Ok(Phantom {
        channels: Volume::new(4, data, geometry.clone())?,
        labels: LabelMap::new(labels, geometry)?,
    })
}

/// The grid of a BraTS case: index x to the left, y backwards, z upwards, the first voxel of x and z at 0.
fn geometry(shape: [usize; 3], spacing_mm: [f64; 3]) -> Result<Geometry, VolumeError> {
    let [sz, sy, sx] = spacing_mm;
    let back = (shape[1].max(1) - 1) as f64 * sy;
    let affine = Affine::from_rows([[-sx, 0.0, 0.0, 0.0], [0.0, -sy, 0.0, back], [0.0, 0.0, sz, 0.0]]);
    if spacing_mm.iter().any(|s| !(s.is_finite() && *s > 0.0)) {
        return Err(VolumeError::SingularAffine { rows: affine.rows() });
    }
    Geometry::from_affine(shape, affine)
}
