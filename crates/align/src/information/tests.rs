use glioseg_volume::phantom::{PhantomOptions, phantom};

use super::*;
use crate::motion::{Motion, turn_about};
use crate::pyramid::Pyramid;

/// Numbers from -1 to 1 that look random.
fn numbers(seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
    })
}

#[test]
fn the_slope_is_that_of_the_information_for_6_and_12_parameters() {
    // Air all around, so that no sample leaves the image.
    let options =
        PhantomOptions { shape: [88; 3], spacing_mm: [2.8; 3], seed: 5, ..PhantomOptions::default() };
    let case = phantom(&options).expect("a phantom");
    let pyramid = |c| Pyramid::new(case.channels.channel(c), &case.channels.geometry).expect("usable");
    let (fixed, moving) = (pyramid(1), pyramid(2));
    let information = Information::new(&fixed.levels[0], &moving.levels[0], 20_000);
    let mut draw = numbers(1);
    for pose in 0..5 {
        for parameters in [6, 12] {
            let mut next = |size: f64| draw.next().map_or(0.0, |v| v * size);
            let turn = turn_about([next(0.1), next(0.1), next(0.1)], information.centre);
            let motion = Motion { start: turn, centre: information.centre };
            let at: Vec<f64> = (0..parameters).map(|_| next(4.0)).collect();
            let value = |p: &[f64]| information.value(&motion.transform(p));
            let (here, rows) = information.value_and_slope(&motion.transform(&at));
            assert!((here - value(&at)).abs() < 1e-12);
            let slopes = motion.slopes(&at, &rows);
            let step = 0.02;
            let length = slopes.iter().map(|s| s * s).sum::<f64>().sqrt();
            let differences: Vec<f64> = (0..parameters)
                .map(|k| {
                    let mut p = at.clone();
                    p[k] += step;
                    let above = value(&p);
                    p[k] -= 2.0 * step;
                    (above - value(&p)) / (2.0 * step)
                })
                .collect();
            for (k, (slope, difference)) in slopes.iter().zip(&differences).enumerate() {
                let error = (slope - difference).abs() / length;
                assert!(
                    error < 1e-3,
                    "pose {pose}, parameter {k} of {parameters}: {slope} {difference} {error}"
                );
            }
        }
    }
}

#[test]
fn an_image_knows_most_about_itself_and_nothing_of_what_it_does_not_meet() {
    let options =
        PhantomOptions { shape: [32; 3], spacing_mm: [4.0; 3], seed: 2, ..PhantomOptions::default() };
    let case = phantom(&options).expect("a phantom");
    let image = Pyramid::new(case.channels.channel(0), &case.channels.geometry).expect("usable");
    let information = Information::new(&image.levels[1], &image.levels[1], 9000);
    let at = |shift: f64| information.value(&Transform::translation([shift, 0.0, 0.0]));
    assert!(at(0.0) > at(3.0) && at(3.0) > at(12.0) && at(12.0) > 0.0);
    let far = Transform::translation([200.0, 0.0, 0.0]);
    assert!(information.overlap(&far) < 0.25 && information.overlap(&Transform::IDENTITY) > 0.99);
    assert_eq!(information.value_and_slope(&far), (0.0, [[0.0; 4]; 3]));
}
