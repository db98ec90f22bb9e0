//! What speaks for and against the result.
//!
//! None of the checks needs a truth. The strongest is the closure: the other pairs of channels are registered too, and a point that
//! goes round a triangle of channels should end where it began.

use glioseg_align::{Pyramid, Registration, RegistrationOptions, Transform, register};
use glioseg_volume::Geometry;
use rayon::prelude::*;

use super::record::{Check, Verdict};
use super::study::Study;

/// A study in the space.
pub(super) struct Placed<'a> {
    pub(super) study: &'a Study,
    pub(super) pyramids: &'a [Pyramid<'a>],
    /// From the centre channel to each channel; the identity for itself.
    pub(super) from_centre: &'a [Option<Registration>],
    /// The registration of the centre channel to the template.
    pub(super) to_template: Option<&'a Registration>,
    /// From a point of the space to that of each channel.
    pub(super) to_channels: &'a [Transform],
    pub(super) grid: &'a Geometry,
    pub(super) mask: Option<&'a [bool]>,
    /// The template's brain on the grid.
    pub(super) template_brain: Option<&'a [bool]>,
}

/// The distance between looked-at voxels along each axis.
const STEP: usize = 6;

fn verdict(warn: bool, fail: bool) -> Verdict {
    match (warn, fail) {
        (_, true) => Verdict::Fail,
        (true, false) => Verdict::Warn,
        _ => Verdict::Ok,
    }
}

/// All checks that apply.
pub(super) fn checks(placed: &Placed<'_>) -> Vec<Check> {
    let points = placed.points();
    let mut found = Vec::new();
    let mut add = |name: String, value: f64, verdict, message: String| {
        let value = (value * 1000.0).round() / 1000.0;
        found.push(Check { name, value, verdict, message });
    };
    for (index, registration) in placed.from_centre.iter().enumerate() {
        let Some(registration) = registration else { continue };
        let (name, centre) = (placed.study.channels[index].name(), placed.study.centre().name());
        let gain = registration.information - registration.information_before;
        let worse = gain < -1e-3;
        add(
            format!("gain {name}"),
            gain,
            verdict(worse, false),
            if worse {
                format!("{name} agrees with {centre} less well than by the headers alone")
            } else {
                format!("{name} shares {gain:.3} nats more with {centre} than by the headers alone")
            },
        );
        let (angle, shift) =
            (registration.transform.angle_degrees(), placed.shift(&registration.transform, &points));
        add(
            format!("motion {name}"),
            shift,
            verdict(angle > 10.0 || shift > 15.0, angle > 45.0),
            format!(
                "{name} lies {shift:.1} mm and {angle:.1} degrees from where its header puts it against {centre}"
            ),
        );
    }
    for (index, channel) in placed.study.channels.iter().enumerate() {
        let determinant = placed.to_channels[index].determinant();
        if (determinant - 1.0).abs() > 1e-3 {
            let message =
                format!("the transform of {} has determinant {determinant:.4}, not 1", channel.name());
            add(format!("determinant {}", channel.name()), determinant, Verdict::Fail, message);
        }
        let seen = placed.seen(index, &points);
        add(
            format!("overlap {}", channel.name()),
            seen,
            verdict(seen < 0.98, seen < 0.85),
            format!("{} shows {:.1} % of the {}", channel.name(), 100.0 * seen, placed.what()),
        );
    }
    for (name, value) in placed.closures(&points) {
        let message = format!("round {name} a point ends {value:.2} mm from where it began");
        add(format!("closure {name}"), value, verdict(value > 1.0, value > 2.0), message);
    }
    if let Some(registration) = placed.to_template {
        let angle = registration.transform.angle_degrees();
        add(
            "orientation".to_owned(),
            angle,
            verdict(angle > 45.0, angle > 60.0),
            format!("the head is turned by {angle:.0} degrees against the template"),
        );
    }
    if let Some(mask) = placed.mask {
        let ml = volume_ml(mask, placed.grid);
        add(
            "brain volume".to_owned(),
            ml,
            verdict(!(900.0..=2000.0).contains(&ml), !(600.0..=2500.0).contains(&ml)),
            format!("the brain mask has {ml:.0} mL"),
        );
        let cut = placed.cut(mask);
        add(
            "mask at border".to_owned(),
            cut,
            verdict(cut > 0.01, false),
            format!("{:.1} % of the mask's surface lie at the border of what was scanned", 100.0 * cut),
        );
        if let Some(brain) = placed.template_brain {
            let dice = dice(mask, brain);
            let message = format!("the mask and the template's brain have a Dice of {dice:.2}");
            add("template".to_owned(), dice, verdict(dice < 0.8, dice < 0.65), message);
        }
    }
    found
}

/// Volume of a mask in mL.
pub(super) fn volume_ml(mask: &[bool], grid: &Geometry) -> f64 {
    mask.iter().filter(|&&m| m).count() as f64 * grid.voxel_ml()
}

fn dice(a: &[bool], b: &[bool]) -> f64 {
    let count = |m: &[bool]| m.iter().filter(|&&v| v).count();
    let both = a.iter().zip(b).filter(|(a, b)| **a && **b).count();
    2.0 * both as f64 / (count(a) + count(b)).max(1) as f64
}

fn distance(a: [f64; 3], b: [f64; 3]) -> f64 {
    (0..3).map(|k| (a[k] - b[k]).powi(2)).sum::<f64>().sqrt()
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0usize), |(sum, count), v| (sum + v, count + 1));
    sum / count.max(1) as f64
}

impl Placed<'_> {
    const fn what(&self) -> &'static str {
        if self.mask.is_some() { "brain" } else { "head" }
    }

    /// Points of the space inside the brain; without a mask, where the centre channel is brighter than its mean.
    fn points(&self) -> Vec<[f64; 3]> {
        let to_world = Transform::of_grid(self.grid);
        let centre = &self.study.centre().volume;
        let bright = centre.data.iter().map(|&v| f64::from(v)).sum::<f64>() / centre.data.len().max(1) as f64;
        let to_voxel =
            Transform::of_grid(&centre.geometry).inverse().after(&self.to_channels[self.study.centre]);
        let [nz, ny, nx] = self.grid.shape;
        let mut points = Vec::new();
        // A coarse axis has few voxels already.
        let step = self.grid.spacing.map(|s| ((STEP as f64 / s).round() as usize).max(1));
        for z in (0..nz).step_by(step[0]) {
            for y in (0..ny).step_by(step[1]) {
                for x in (0..nx).step_by(step[2]) {
                    let point = to_world.apply([x as f64, y as f64, z as f64]);
                    let inside = match self.mask {
                        Some(mask) => mask[(z * ny + y) * nx + x],
                        None => value_at(&centre.data, centre.geometry.shape, to_voxel.apply(point))
                            .is_some_and(|v| f64::from(v) > bright),
                    };
                    if inside {
                        points.push(point);
                    }
                }
            }
        }
        points
    }

    /// Mean distance in mm by which a transform moves the points, which are brought to the centre channel before.
    fn shift(&self, transform: &Transform, points: &[[f64; 3]]) -> f64 {
        let to_centre = &self.to_channels[self.study.centre];
        mean(points.iter().map(|p| {
            let p = to_centre.apply(*p);
            distance(p, transform.apply(p))
        }))
    }

    /// The part of the points that a channel shows.
    fn seen(&self, channel: usize, points: &[[f64; 3]]) -> f64 {
        let geometry = &self.study.channels[channel].volume.geometry;
        let to_voxel = Transform::of_grid(geometry).inverse().after(&self.to_channels[channel]);
        mean(points.iter().map(|p| if holds(geometry.shape, to_voxel.apply(*p)) { 1.0 } else { 0.0 }))
    }

    /// For every pair of the other channels: mean distance in mm between the direct way to the second and that by the first.
    fn closures(&self, points: &[[f64; 3]]) -> Vec<(String, f64)> {
        let others: Vec<(usize, &Registration)> =
            self.from_centre.iter().enumerate().filter_map(|(i, r)| Some((i, r.as_ref()?))).collect();
        let mut pairs = Vec::new();
        for (k, first) in others.iter().enumerate() {
            pairs.extend(others[k + 1..].iter().map(|second| (*first, *second)));
        }
        let to_centre = &self.to_channels[self.study.centre];
        pairs
            .into_par_iter()
            .map(|((a, to_a), (b, to_b))| {
                let between = register(&self.pyramids[a], &self.pyramids[b], &RegistrationOptions::default());
                let around = between.transform.after(&to_a.transform);
                let error = mean(points.iter().map(|p| {
                    let p = to_centre.apply(*p);
                    distance(around.apply(p), to_b.transform.apply(p))
                }));
                let names = [self.study.centre, a, b].map(|i| self.study.channels[i].name());
                (names.join("-"), error)
            })
            .collect()
    }

    /// The part of the mask's surface beyond which the space or the centre channel ends.
    fn cut(&self, mask: &[bool]) -> f64 {
        let [nz, ny, nx] = self.grid.shape;
        let geometry = &self.study.centre().volume.geometry;
        let to_voxel = Transform::of_grid(geometry)
            .inverse()
            .after(&self.to_channels[self.study.centre])
            .after(&Transform::of_grid(self.grid));
        let at = |z: isize, y: isize, x: isize| -> Option<usize> {
            let inside = |i: isize, n: usize| i >= 0 && (i as usize) < n;
            (inside(z, nz) && inside(y, ny) && inside(x, nx))
                .then(|| (z as usize * ny + y as usize) * nx + x as usize)
        };
        let (mut surface, mut cut) = (0usize, 0usize);
        for (i, _) in mask.iter().enumerate().filter(|(_, m)| **m) {
            let [z, y, x] = self.grid.position(i).map(|v| v as isize);
            for [dz, dy, dx] in [[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]] {
                let (z, y, x) = (z + dz, y + dy, x + dx);
                let next = at(z, y, x);
                if next.is_some_and(|next| mask[next]) {
                    continue;
                }
                surface += 1;
                let place = to_voxel.apply([x as f64, y as f64, z as f64]);
                cut += usize::from(next.is_none() || !holds(geometry.shape, place));
            }
        }
        cut as f64 / surface.max(1) as f64
    }
}

/// Whether a place (x, y, z in voxels) is at most half a voxel outside.
fn holds([nz, ny, nx]: [usize; 3], place: [f64; 3]) -> bool {
    place.iter().zip([nx, ny, nz]).all(|(&p, n)| p >= -0.5 && p <= n as f64 - 0.5)
}

/// The value of the nearest voxel.
fn value_at(values: &[f32], shape: [usize; 3], place: [f64; 3]) -> Option<f32> {
    if !holds(shape, place) {
        return None;
    }
    let [nz, ny, nx] = shape;
    let index = |p: f64, n: usize| ((p + 0.5).max(0.0) as usize).min(n - 1);
    values.get((index(place[2], nz) * ny + index(place[1], ny)) * nx + index(place[0], nx)).copied()
}
