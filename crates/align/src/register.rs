//! From two images to the transform between them.
//!
//! The coarsest level is searched from several starts, the next from the best three that differ, the finer two from the best.

use rayon::prelude::*;

use crate::descent::{Limits, descend};
use crate::information::Information;
use crate::motion::{Motion, turn_about};
use crate::pyramid::{LEVELS, Pyramid};
use crate::transform::Transform;

/// Samples of the fixed image on each level.
const SAMPLES: [usize; 4] = [6_000, 20_000, 60_000, 150_000];
/// Steps on the coarsest level, from every start, and their end in mm.
const FIRST: Limits = Limits { steps: 12, shortest: 0.3 };
/// Steps on the other levels, and of an affine after a rigid transform there.
const STEPS: usize = 60;
const AFFINE_STEPS: usize = 80;
/// The shortest step on a level, as a part of its spacing.
const SHORTEST: f64 = 0.005;
/// Starts that go on from the coarsest level, and how far apart in mm they must have ended.
const KEPT: usize = 3;
const APART_MM: f64 = 4.0;
/// From this overlap on, a larger one does not count as better.
const OVERLAP: f64 = 0.85;
/// Heads are rarely turned by more degrees than this, and each more makes the score smaller by this part.
const TURNED: f64 = 25.0;
const PER_DEGREE: f64 = 0.008;
/// Rotations (rad) about x, and about y and z, that a wide search starts from.
const ABOUT_X: [f64; 5] = [-0.6, -0.3, 0.0, 0.3, 0.6];
const ABOUT_YZ: [f64; 3] = [-0.35, 0.0, 0.35];

/// What the transform may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Freedom {
    /// Turn and shift: 6 parameters, for images of one head.
    #[default]
    Rigid,
    /// Also stretch and shear: 12 parameters, for images of different heads.
    Affine,
}

/// How to register.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RegistrationOptions {
    /// What the transform may do.
    pub freedom: Freedom,
    /// Also start from 44 turned positions: for headers that are not to be trusted. Without, the starts are the headers' positions,
    /// the centres of mass and the centres of the grids.
    pub wide: bool,
}

/// A registration.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Registration {
    /// From a point of the fixed image to that of the moving one.
    pub transform: Transform,
    /// Mutual information in nats at the finest level.
    pub information: f64,
    /// That of the headers' positions.
    pub information_before: f64,
    /// The part of the fixed image's samples that lie inside the moving image.
    pub overlap: f64,
    /// How often the information was computed.
    pub evaluations: usize,
}

/// One descent on one level.
#[derive(Clone, Copy)]
struct Fit {
    transform: Transform,
    score: f64,
    asked: usize,
}

/// Finds where the points of `fixed` lie in `moving`.
///
/// It always ends with a transform; whether that is the right one is for the caller to check, for example by going round a triangle of
/// images.
///
/// ```
/// use glioseg_align::{Pyramid, RegistrationOptions, register};
/// use glioseg_volume::phantom::{PhantomOptions, phantom};
///
/// let case = phantom(&PhantomOptions { shape: [32, 32, 32], spacing_mm: [4.0; 3], seed: 1, ..PhantomOptions::default() })?;
/// let pyramid = |c| Pyramid::new(case.channels.channel(c), &case.channels.geometry);
/// let found = register(&pyramid(0)?, &pyramid(2)?, &RegistrationOptions::default());
/// // T1 and T2 of a phantom lie where they should.
/// assert!(found.transform.angle_degrees() < 1.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn register(fixed: &Pyramid, moving: &Pyramid, options: &RegistrationOptions) -> Registration {
    let levels: Vec<Information> = (0..LEVELS.len())
        .map(|level| Information::new(&fixed.levels[level], &moving.levels[level], SAMPLES[level]))
        .collect();
    let (coarse, finest) = (&levels[0], &levels[LEVELS.len() - 1]);
    let mut fits: Vec<Fit> =
        starts(fixed, moving, options.wide).par_iter().map(|start| climb(coarse, start, 6, FIRST)).collect();
    let mut evaluations: usize = fits.iter().map(|f| f.asked).sum();
    fits.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut kept: Vec<Transform> = Vec::new();
    for fit in fits {
        if kept.len() < KEPT && kept.iter().all(|k| k.distance(&fit.transform, coarse.centre) > APART_MM) {
            kept.push(fit.transform);
        }
    }
    for (information, (spacing, _)) in levels.iter().zip(LEVELS).skip(1) {
        let shortest = SHORTEST * spacing;
        let mut best: Option<Fit> = None;
        for start in &kept {
            let fit = climb(information, start, 6, Limits { steps: STEPS, shortest });
            evaluations += fit.asked;
            if best.is_none_or(|b| fit.score >= b.score) {
                best = Some(fit);
            }
        }
        let Some(mut best) = best else { continue };
        if options.freedom == Freedom::Affine {
            best = climb(information, &best.transform, 12, Limits { steps: AFFINE_STEPS, shortest });
            evaluations += best.asked;
        }
        kept = vec![best.transform];
    }
    let transform = kept.first().copied().unwrap_or(Transform::IDENTITY);
    Registration {
        transform,
        information: finest.value(&transform),
        information_before: finest.value(&Transform::IDENTITY),
        overlap: finest.overlap(&transform),
        evaluations,
    }
}

/// Mutual information in nats at the finest level under a given transform.
pub fn information_at(fixed: &Pyramid, moving: &Pyramid, transform: &Transform) -> f64 {
    Information::new(&fixed.levels[3], &moving.levels[3], SAMPLES[3]).value(transform)
}

fn starts(fixed: &Pyramid, moving: &Pyramid, wide: bool) -> Vec<Transform> {
    let between = |a: [f64; 3], b: [f64; 3]| Transform::translation([0, 1, 2].map(|k| b[k] - a[k]));
    let masses = between(fixed.mass_centre, moving.mass_centre);
    let mut starts = vec![Transform::IDENTITY, masses, between(fixed.grid_centre, moving.grid_centre)];
    if wide {
        for x in ABOUT_X {
            for y in ABOUT_YZ {
                for z in ABOUT_YZ {
                    if [x, y, z].iter().any(|&a| a.abs() > 0.0) {
                        starts.push(masses.after(&turn_about([x, y, z], fixed.mass_centre)));
                    }
                }
            }
        }
    }
    starts
}

/// Climbs from a start to more information, with 6 or 12 parameters.
fn climb(information: &Information, start: &Transform, parameters: usize, limits: Limits) -> Fit {
    let motion = Motion { start: *start, centre: information.centre };
    let found = descend(parameters, limits, |p| {
        let (value, slopes) = information.value_and_slope(&motion.transform(p));
        (-value, motion.slopes(p, &slopes).iter().map(|s| -s).collect())
    });
    let transform = motion.transform(&found.at);
    Fit { transform, score: score(information, &transform, -found.value), asked: found.asked }
}

/// The information, less for a small overlap and a large rotation: otherwise two heads that barely touch, one of them upside down,
/// can win.
fn score(information: &Information, transform: &Transform, value: f64) -> f64 {
    let overlap = (information.overlap(transform) / OVERLAP).min(1.0);
    let turned = (transform.angle_degrees() - TURNED).max(0.0);
    value * overlap * (1.0 - PER_DEGREE * turned)
}
