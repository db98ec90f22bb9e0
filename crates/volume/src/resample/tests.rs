use super::*;

fn ramp(shape: [usize; 3]) -> Vec<f32> {
    (0..shape.iter().product::<usize>()).map(|i| ((i * 7919) % 101) as f32 - 50.0).collect()
}

#[test]
fn equal_shapes_pass_through() {
    let data = ramp([3, 4, 5]);
    for order in [Order::Nearest, Order::Linear, Order::Cubic] {
        assert_eq!(resample(&data, [3, 4, 5], [3, 4, 5], &ResampleOptions::uniform(order)), data);
    }
}

#[test]
fn order_0_halving_takes_the_odd_voxels() {
    let data: Vec<f32> = (0..8u8).map(f32::from).collect();
    let out = resample(&data, [1, 1, 8], [1, 1, 4], &ResampleOptions::uniform(Order::Nearest));
    assert_eq!(out, [1.0, 3.0, 5.0, 7.0]);
}

#[test]
fn order_1_doubling_blends_a_quarter() {
    let out = resample(&[0.0, 4.0], [1, 2, 1], [1, 4, 1], &ResampleOptions::uniform(Order::Linear));
    assert_eq!(out, [0.0, 1.0, 3.0, 4.0]);
}

#[test]
fn order_3_keeps_constants_and_the_range() {
    let out = resample(&[2.5; 24], [2, 3, 4], [5, 4, 7], &ResampleOptions::uniform(Order::Cubic));
    assert_eq!(out, [2.5; 140]);
    let data = ramp([4, 5, 6]);
    let out = resample(&data, [4, 5, 6], [9, 9, 9], &ResampleOptions::uniform(Order::Cubic));
    let (lo, hi) = ranges(&data, [4, 5, 6], None)[0];
    assert!(out.iter().all(|v| (lo..=hi).contains(v)));
    assert!(out.contains(&lo) || out.contains(&hi), "an overshoot is clipped");
}

#[test]
fn order_3_of_a_single_voxel_is_that_voxel() {
    let out = resample(&[3.0], [1, 1, 1], [2, 1, 3], &ResampleOptions::uniform(Order::Cubic));
    assert!(out.iter().all(|v| (v - 3.0).abs() < 1e-6));
}

#[test]
fn the_separate_axis_is_the_only_coarse_one() {
    struct Case {
        force: Option<bool>,
        from: [f64; 3],
        to: [f64; 3],
        axis: Option<usize>,
    }
    let cases = [
        Case { force: None, from: [1.0; 3], to: [1.0; 3], axis: None },
        Case { force: None, from: [3.0, 1.0, 1.0], to: [1.0; 3], axis: None },
        Case { force: None, from: [3.1, 1.0, 1.0], to: [1.0; 3], axis: Some(0) },
        Case { force: None, from: [1.0; 3], to: [1.0, 4.0, 1.0], axis: Some(1) },
        Case { force: None, from: [0.24, 1.25, 1.25], to: [1.0; 3], axis: None },
        Case { force: Some(true), from: [1.0, 1.0, 1.2], to: [9.0, 1.0, 1.0], axis: Some(2) },
        Case { force: Some(true), from: [1.0; 3], to: [9.0, 1.0, 1.0], axis: None },
        Case { force: Some(false), from: [9.0, 1.0, 1.0], to: [1.0; 3], axis: None },
    ];
    for case in cases {
        assert_eq!(
            separate_axis(case.force, 3.0, case.from, case.to),
            case.axis,
            "{:?} {:?}",
            case.from,
            case.to
        );
    }
}

#[test]
fn new_shapes_round_half_to_even_and_are_never_empty() {
    assert_eq!(resampled_shape([5, 7, 1], [0.5, 0.5, 0.1], [1.0; 3]), [2, 4, 1]);
    assert_eq!(resampled_shape([155, 240, 240], [1.0; 3], [1.3; 3]), [119, 185, 185]);
}

#[test]
fn slabs_hold_what_the_whole_volume_holds() {
    let (from, to) = ([9, 11, 10], [37, 150, 140]);
    let channels = [ramp(from), ramp(from).iter().map(|v| -v).collect()];
    let channels: Vec<&[f32]> = channels.iter().map(Vec::as_slice).collect();
    for (order, order_z, separate_axis) in [
        (Order::Nearest, Order::Nearest, None),
        (Order::Linear, Order::Nearest, None),
        (Order::Linear, Order::Nearest, Some(0)),
        (Order::Linear, Order::Linear, Some(1)),
        (Order::Nearest, Order::Linear, Some(2)),
        (Order::Cubic, Order::Nearest, Some(0)),
        (Order::Linear, Order::Cubic, Some(1)),
    ] {
        let options = ResampleOptions { order, order_z, separate_axis, flavour: Flavour::Scipy };
        for to in [to, from] {
            let mut slabs = vec![Vec::new(); channels.len()];
            let mut next = 0;
            let done: Result<(), ()> = resample_slabs(&channels, from, to, &options, |range, slab| {
                assert_eq!(range.start, next);
                next = range.end;
                slabs.iter_mut().zip(slab).for_each(|(all, part)| all.extend_from_slice(part));
                Ok(())
            });
            assert_eq!((done, next), (Ok(()), to[0]));
            for (slab, channel) in slabs.iter().zip(&channels) {
                assert_eq!(slab, &resample(channel, from, to, &options), "{options:?}");
            }
        }
    }
}

#[test]
fn the_first_error_ends_the_slabs() {
    let data = ramp([2, 2, 2]);
    let mut calls = 0;
    let options = ResampleOptions::uniform(Order::Linear);
    let done = resample_slabs(&[&data], [2, 2, 2], [900, 40, 40], &options, |range, _| {
        calls += 1;
        if range.start > 0 { Err(range.start) } else { Ok(()) }
    });
    assert_eq!((calls, done.is_err()), (2, true));
}

#[test]
fn ties_go_to_the_nearest_label_and_else_to_the_smallest() {
    let options = ResampleOptions::uniform(Order::Linear);
    // Four voxels to two: both outputs lie half-way between two voxels; order 0 takes the odd ones.
    let out = resample_labels(&[5i16, 2, -1, 7], [1, 1, 4], [1, 1, 2], &options, LabelRule::Best);
    assert_eq!(out, [2, 7]);
    // Four different labels meet: each scores a quarter, the nearest of them is the last.
    let out = resample_labels(&[1i16, 2, 3, 0], [1, 2, 2], [1, 1, 1], &options, LabelRule::Best);
    assert_eq!(out, [0]);
    let out = resample_labels(&[1i16, 2, 3, 0], [1, 2, 2], [1, 1, 1], &options, LabelRule::Half);
    assert_eq!(out, [0]);
    let out = resample_labels(&[5i16, 2, -1, 7], [1, 1, 4], [1, 1, 2], &options, LabelRule::Half);
    assert_eq!(out, [5, 7]);
}

#[test]
fn a_label_map_keeps_its_labels_at_any_order() {
    let labels: Vec<u8> =
        ramp([6, 5, 4]).iter().map(|v| if *v > 20.0 { 3 } else { u8::from(*v > 0.0) }).collect();
    for (order, order_z, separate_axis) in [
        (Order::Nearest, Order::Nearest, None),
        (Order::Cubic, Order::Nearest, None),
        (Order::Cubic, Order::Nearest, Some(1)),
        (Order::Linear, Order::Linear, Some(0)),
        (Order::Linear, Order::Cubic, Some(2)),
    ] {
        let options = ResampleOptions { order, order_z, separate_axis, flavour: Flavour::Scipy };
        let out = resample_labels(&labels, [6, 5, 4], [13, 9, 11], &options, LabelRule::Best);
        for label in [0, 1, 3] {
            let share =
                |l: &[u8]| l.iter().map(|&v| f64::from(u8::from(v == label))).sum::<f64>() / l.len() as f64;
            assert!((share(&out) - share(&labels)).abs() < 0.15, "{options:?} label {label}");
        }
        assert!(out.iter().all(|v| [0, 1, 3].contains(v)));
    }
}
