//! Registrations of phantoms whose true transform is known.

use glioseg_align::{AlignError, Freedom, Pyramid, Registration, RegistrationOptions, Transform, register};
use glioseg_volume::phantom::{Phantom, PhantomOptions, phantom};
use glioseg_volume::resample::{Interpolation, affine};
use glioseg_volume::{Affine, Geometry, Turn};

const RIGID: RegistrationOptions = RegistrationOptions { freedom: Freedom::Rigid, wide: false };

fn head(seed: u64) -> Phantom {
    let options = PhantomOptions { shape: [80; 3], spacing_mm: [2.0; 3], seed, ..PhantomOptions::default() };
    phantom(&options).expect("a phantom")
}

/// A grid about a point of the world, axes towards L, P and S. `shape` is z, y, x.
fn grid(shape: [usize; 3], spacing_xyz: [f64; 3], centre: [f64; 3]) -> Geometry {
    let [z, y, x] = shape;
    let first = [x, y, z].map(|n| (n as f64 - 1.0) / 2.0);
    let first = [0, 1, 2].map(|k| centre[k] - spacing_xyz[k] * first[k]);
    let [x, y, z] = spacing_xyz;
    let rows = [[-x, 0.0, 0.0, -first[0]], [0.0, -y, 0.0, -first[1]], [0.0, 0.0, z, first[2]]];
    Geometry::from_affine(shape, Affine::from_rows(rows)).expect("regular")
}

/// The middle of a grid in the world.
fn centre(geometry: &Geometry) -> [f64; 3] {
    let [z, y, x] = geometry.shape.map(|n| (n as f64 - 1.0) / 2.0);
    Transform::of_grid(geometry).apply([x, y, z])
}

/// The rotation of angles (degrees) about x, y and z around `centre`, then a shift.
fn rigid(degrees: [f64; 3], shift: [f64; 3], centre: [f64; 3]) -> Transform {
    let [(sx, cx), (sy, cy), (sz, cz)] = degrees.map(|d| d.to_radians().sin_cos());
    let of = |rows: [[f64; 3]; 3]| {
        let rows = rows.map(|[a, b, c]| [a, b, c, 0.0]);
        Transform::new(rows).expect("regular")
    };
    let x = of([[1.0, 0.0, 0.0], [0.0, cx, -sx], [0.0, sx, cx]]);
    let y = of([[cy, 0.0, sy], [0.0, 1.0, 0.0], [-sy, 0.0, cy]]);
    let z = of([[cz, -sz, 0.0], [sz, cz, 0.0], [0.0, 0.0, 1.0]]);
    let back = Transform::translation(centre.map(|c| -c));
    let there = Transform::translation([0, 1, 2].map(|k| centre[k] + shift[k]));
    there.after(&z).after(&y).after(&x).after(&back)
}

/// The image as a scanner sees it after the head has moved by `truth`: on `to`, whose slices are `thick` voxels of it.
fn moved(values: &[f32], from: &Geometry, truth: &Transform, to: &Geometry, thick: usize) -> Vec<f32> {
    let to_input = Transform::of_grid(from).inverse().after(&truth.inverse());
    let mut sum = vec![0f32; to.voxels()];
    for k in 0..thick {
        let offset = (k as f64 + 0.5) / thick as f64 - 0.5;
        let voxel = Transform::of_grid(to).after(&Transform::translation([0.0, 0.0, offset]));
        let map = Affine::from_rows(to_input.after(&voxel).rows());
        let part = affine(values, from.shape, to.shape, &map, Interpolation::Cubic);
        sum.iter_mut().zip(part).for_each(|(s, v)| *s += v / thick as f32);
    }
    sum
}

fn found(
    fixed: (&[f32], &Geometry),
    moving: (&[f32], &Geometry),
    options: RegistrationOptions,
) -> Registration {
    let pyramid = |(values, geometry): (_, _)| Pyramid::new(values, geometry).expect("usable");
    register(&pyramid(fixed), &pyramid(moving), &options)
}

/// Mean distance in mm between two transforms over the voxels of the head.
fn error(a: &Transform, b: &Transform, head: &Phantom) -> f64 {
    let geometry = &head.channels.geometry;
    let to_world = Transform::of_grid(geometry);
    let (mut sum, mut count) = (0.0, 0.0);
    for (i, _) in head.channels.channel(0).iter().enumerate().step_by(37).filter(|(_, v)| **v > 0.0) {
        let [z, y, x] = geometry.position(i).map(|p| p as f64);
        let point = to_world.apply([x, y, z]);
        let (p, q) = (a.apply(point), b.apply(point));
        sum += (0..3).map(|k| (p[k] - q[k]).powi(2)).sum::<f64>().sqrt();
        count += 1.0;
    }
    sum / count
}

#[test]
fn a_large_motion_is_found_within_a_tenth_of_a_voxel_whatever_the_contrast() {
    let case = head(3);
    let (t1, from) = (case.channels.channel(0), &case.channels.geometry);
    let truth = rigid([20.0, -12.0, 15.0], [20.0, -15.0, 12.0], centre(from));
    let to = grid([98, 96, 100], [2.0, 2.0, 2.0], truth.apply(centre(from)));
    let same = moved(t1, from, &truth, &to, 1);
    let most = same.iter().fold(0f32, |m, v| m.max(*v));
    let inverted: Vec<f32> = same.iter().map(|&v| if v > 0.0 { 1.05 * most - v } else { 0.0 }).collect();
    for (what, image) in [("same", &same), ("inverted", &inverted)] {
        let result = found((t1, from), (image, &to), RIGID);
        let error = error(&result.transform, &truth, &case);
        assert!(error < 0.2, "{what}: {error} mm");
        assert!(result.information > result.information_before && result.overlap > 0.9, "{result:?}");
    }
    // Twelve parameters find no more than was there.
    let affine = RegistrationOptions { freedom: Freedom::Affine, ..RIGID };
    let result = found((t1, from), (&inverted, &to), affine);
    assert!(error(&result.transform, &truth, &case) < 0.3);
    assert!(result.transform.scales().iter().all(|s| (s - 1.0).abs() < 0.01), "{:?}", result.transform);
}

#[test]
fn the_order_and_direction_of_the_axes_do_not_matter() {
    let options =
        PhantomOptions { shape: [44, 46, 42], spacing_mm: [4.0; 3], seed: 4, ..PhantomOptions::default() };
    let case = phantom(&options).expect("a phantom");
    let (t1, t2, from) = (case.channels.channel(0), case.channels.channel(2), &case.channels.geometry);
    let truth = rigid([8.0, 5.0, -6.0], [6.0, -5.0, 4.0], centre(from));
    let to = grid([44, 48, 45], [4.0, 4.0, 4.0], centre(from));
    let image = moved(t2, from, &truth, &to, 1);
    let straight = found((t1, from), (&image, &to), RIGID).transform;
    assert!(error(&straight, &truth, &case) < 0.6, "{}", error(&straight, &truth, &case));
    for axes in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for flips in 0..8 {
            let turn = Turn { axes, flip: [flips & 1 > 0, flips & 2 > 0, flips & 4 > 0] };
            let turned = turn.apply(image.clone(), to.shape);
            let result = found((t1, from), (&turned, &to.turned(&turn)), RIGID).transform;
            assert!(
                error(&result, &straight, &case) < 0.02,
                "{turn:?}: {}",
                error(&result, &straight, &case)
            );
        }
    }
}

#[test]
fn thick_slices_noise_bias_and_a_cut_field_of_view_cost_less_than_a_third_of_a_millimetre() {
    let options = PhantomOptions {
        shape: [96; 3],
        spacing_mm: [1.7; 3],
        seed: 6,
        noise: 0.05,
        bias: 0.2,
        ..PhantomOptions::default()
    };
    let case = phantom(&options).expect("a phantom");
    let (t1, t2, from) = (case.channels.channel(1), case.channels.channel(2), &case.channels.geometry);
    let truth = rigid([7.0, -9.0, 5.0], [8.0, 6.0, -7.0], centre(from));
    // The top 12 % of the head are not seen.
    let [x, y, z] = centre(from);
    let to = grid([29, 180, 180], [1.0, 1.0, 5.0], [x, y, z - 18.0]);
    let image = moved(t2, from, &truth, &to, 5);
    let result = found((t1, from), (&image, &to), RIGID);
    let error = error(&result.transform, &truth, &case);
    assert!(error < 0.3, "{error} mm");
}

#[test]
fn any_start_leads_to_the_same_place_with_a_wide_search() {
    let options =
        PhantomOptions { shape: [48; 3], spacing_mm: [3.5; 3], seed: 8, ..PhantomOptions::default() };
    let case = phantom(&options).expect("a phantom");
    let (t1, t2, geometry) = (case.channels.channel(0), case.channels.channel(2), &case.channels.geometry);
    let straight = found((t1, geometry), (t2, geometry), RIGID).transform;
    assert!(error(&straight, &Transform::IDENTITY, &case) < 0.2);
    let mut state = 1u64;
    let mut draw = |size: f64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        size * ((state >> 33) as f64 / f64::from(1u32 << 30) - 1.0)
    };
    for start in 0..6 {
        let angles = [draw(26.0), draw(26.0), draw(26.0)];
        let shift = [draw(200.0), draw(200.0), draw(200.0)];
        // The header moves, not a voxel.
        let wrong = rigid(angles, shift, centre(geometry));
        let rows = wrong.after(&Transform::of_grid(geometry)).rows();
        let rows = [rows[0].map(|v| -v), rows[1].map(|v| -v), rows[2]];
        let header = Geometry::from_affine(geometry.shape, Affine::from_rows(rows)).expect("regular");
        let result = found((t1, geometry), (t2, &header), RegistrationOptions { wide: true, ..RIGID });
        let error = error(&wrong.inverse().after(&result.transform), &straight, &case);
        assert!(error < 0.05, "start {start}, turned {angles:?}, shifted {shift:?}: {error} mm");
    }
}

#[test]
fn the_result_does_not_depend_on_threads_nor_much_on_the_direction() {
    let case = head(9);
    let geometry = &case.channels.geometry;
    let pair =
        |a, b| found((case.channels.channel(a), geometry), (case.channels.channel(b), geometry), RIGID);
    let there = pair(0, 2);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let again = pool.install(|| pair(0, 2));
        let bits = |r: Registration| {
            r.transform.rows().as_flattened().iter().map(|v| v.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!((bits(again), again), (bits(there), there), "{threads} threads");
    }
    let back = pair(2, 0).transform;
    let round = back.after(&there.transform);
    assert!(
        error(&round, &Transform::IDENTITY, &case) < 0.2,
        "{}",
        error(&round, &Transform::IDENTITY, &case)
    );
    // Round a triangle of contrasts.
    let (first, second) = (pair(0, 3).transform, pair(3, 2).transform);
    let closure = error(&second.after(&first), &there.transform, &case);
    assert!(closure < 0.3, "{closure}");
}

#[test]
fn images_that_cannot_be_registered_are_told() {
    let refused = |values: &[f32], geometry: &Geometry| Pyramid::new(values, geometry).expect_err("refused");
    let flat = grid([4, 30, 30], [1.0, 1.0, 5.0], [0.0; 3]);
    assert!(matches!(refused(&[1.0; 3600], &flat), AlignError::TooCoarse { shape: [4, 30, 30], .. }));
    let thick = grid([10, 10, 10], [1.0, 1.0, 9.0], [0.0; 3]);
    let error = refused(&[1.0; 1000], &thick).to_string();
    assert!(error.contains("[9.0, 1.0, 1.0] mm is too coarse to register"), "{error}");
    let fine = grid([10, 10, 10], [1.0, 1.0, 1.0], [0.0; 3]);
    assert!(refused(&[3.0; 1000], &fine).to_string().contains("every voxel of the image is 3"));
    let mut broken = vec![1.0; 1000];
    (broken[3], broken[4]) = (f32::NAN, 2.0);
    assert!(refused(&broken, &fine).to_string().contains("1 voxels of the image are not finite"));
}
