//! A case from its image to the plan's grid and back, and what is said when they do not fit.

use glioseg_diagnose::Diagnose as _;
use glioseg_plan::{Configuration, Plans};
use glioseg_prep::{Image, PrepError, PreparedCase, preprocess_case};
use glioseg_volume::{Affine, Geometry, Turn};
use serde_json::{Value, json};
use std::path::Path;

/// Plans with one configuration `c` for one channel; `change` edits it.
fn plans(transpose: [usize; 3], change: impl FnOnce(&mut Value)) -> (Plans, Configuration) {
    let backward = [0, 1, 2].map(|a| transpose.iter().position(|&f| f == a).expect("a permutation"));
    let mut configuration = json!({
        "batch_size": 2, "patch_size": [8, 8, 8], "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization"], "use_mask_for_norm": [true],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": false, "order": 3, "order_z": 0, "force_separate_z": null},
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": false, "order": 1, "order_z": 0, "force_separate_z": null},
        "architecture": {"network_class_name": "PlainConvUNet", "arch_kwargs": {"n_stages": 2,
            "features_per_stage": [8, 8], "kernel_sizes": 3, "strides": [1, 2], "n_conv_per_stage": 2,
            "n_conv_per_stage_decoder": 2, "nonlin": "torch.nn.LeakyReLU"}}});
    change(&mut configuration);
    let plans = json!({"plans_name": "p", "transpose_forward": transpose, "transpose_backward": backward,
        "configurations": {"c": configuration}});
    let plans = Plans::from_value(plans, Path::new("plans.json")).expect("plans");
    let configuration = plans.configuration("c").expect("a configuration");
    (plans, configuration)
}

/// One channel that is zero but for a box in which every voxel has its own value.
fn image(shape: [usize; 3]) -> Image {
    let inside = |i: usize| {
        let at = [i / (shape[1] * shape[2]), i / shape[2] % shape[1], i % shape[2]];
        (0..3).all(|a| (1..shape[a] - 2).contains(&at[a]))
    };
    let data = (0..shape.iter().product()).map(|i| if inside(i) { 1.0 + i as f32 } else { 0.0 }).collect();
    Image { data, channels: 1, shape, spacing_mm: [1.0; 3], grid: None }
}

fn prepare(image: Image, plans: &(Plans, Configuration)) -> Result<PreparedCase, PrepError> {
    preprocess_case(image, &plans.0, &plans.1)
}

#[test]
fn the_way_back_puts_every_voxel_where_it_was() {
    for transpose in [[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 2, 1]] {
        let plans = plans(transpose, |c| c["normalization_schemes"] = json!(["NoNormalization"]));
        let image = image([7, 9, 8]);
        let case = prepare(image.clone(), &plans).expect("a case that fits");
        assert_eq!(case.shape, transpose.map(|a| [4, 6, 5][a]));
        let back = case.properties.trail(&plans.1).back(case.data);
        assert_eq!(back.channel(0, 0.0), image.data, "{transpose:?}");
    }
}

#[test]
fn plans_with_a_turning_reader_see_every_image_in_ras() {
    let spacing = [1.0, 1.5, 3.0];
    let ras = image([7, 9, 8]);
    let place = |shape, rows| Geometry::from_affine(shape, Affine::from_rows(rows)).expect("regular");
    let upright = place(
        [7, 9, 8],
        [[spacing[2], 0.0, 0.0, 5.0], [0.0, spacing[1], 0.0, -4.0], [0.0, 0.0, spacing[0], 2.0]],
    );
    for reader in ["NibabelIOWithReorient", "SimpleITKIOWithReorient", "NibabelIO"] {
        let (plans, configuration) = plans([1, 2, 0], |_| ());
        let mut raw = plans.raw().clone();
        raw["image_reader_writer"] = json!(reader);
        let plans = Plans::from_value(raw, Path::new("plans.json")).expect("plans");
        let whole = |image: &Image, grid: &Geometry| {
            let image = Image { spacing_mm: grid.spacing, grid: Some(grid.clone()), ..image.clone() };
            preprocess_case(image, &plans, &configuration).expect("a case that fits")
        };
        let expected = whole(&ras, &upright);
        for turn in [
            Turn { axes: [0, 1, 2], flip: [false, true, true] },
            Turn { axes: [2, 0, 1], flip: [true, false, true] },
        ] {
            let data = turn.apply(ras.data.clone(), ras.shape);
            let affine = upright.affine().turned(&turn, ras.shape);
            let grid = place(turn.along(ras.shape), affine.rows());
            let turned = Image { data, shape: grid.shape, ..ras.clone() };
            let case = whole(&turned, &grid);
            if reader == "NibabelIO" {
                assert_ne!(case.data, expected.data, "voxels stay in the order of the file");
                continue;
            }
            assert_eq!((case.shape, &case.data), (expected.shape, &expected.data), "{reader} {turn:?}");
            // What leaves the plan's grid lands where the file has it: mark one voxel of the box.
            let marked: Vec<u16> =
                (0..case.properties.shape_after_cropping.iter().product()).map(|i| i as u16).collect();
            let back = |case: &PreparedCase| {
                case.properties.trail(&configuration).back(marked.clone()).channel(0, 0)
            };
            assert_eq!(back(&case), turn.apply(back(&expected), ras.shape));
        }
    }
}

#[test]
fn what_lies_outside_the_box_gets_the_given_value() {
    let plans = plans([1, 0, 2], |_| ());
    let case = prepare(image([7, 9, 8]), &plans).expect("a case that fits");
    let back = case.properties.trail(&plans.1).back(vec![3u16; case.data.len()]).channel(0, 7);
    assert_eq!(back.len(), 7 * 9 * 8);
    assert_eq!(back.iter().filter(|&&v| v == 3).count(), 4 * 6 * 5);
    assert_eq!((back[0], back[(3 * 9 + 4) * 8 + 4]), (7, 3));
}

#[test]
fn an_image_of_zeros_is_kept_whole_and_stays_zero() {
    for mask in [true, false] {
        let plans = plans([0, 1, 2], |c| c["use_mask_for_norm"] = json!([mask]));
        let mut image = image([5, 6, 7]);
        image.data.fill(0.0);
        image.spacing_mm = [1.5, 1.0, 1.0];
        let case = prepare(image, &plans).expect("a case that fits");
        assert_eq!(case.properties.bbox, [[0, 5], [0, 6], [0, 7]]);
        assert_eq!((case.shape, case.data), ([8, 6, 7], vec![0.0; 8 * 6 * 7]));
    }
}

#[test]
fn a_2d_plan_keeps_the_slices() {
    let plans = plans([0, 1, 2], |c| {
        c["patch_size"] = json!([8, 8]);
        c["spacing"] = json!([0.5, 0.5]);
    });
    let mut image = image([7, 9, 8]);
    image.spacing_mm = [2.5, 1.0, 1.0];
    let case = prepare(image, &plans).expect("a case that fits");
    assert_eq!(case.shape, [4, 12, 10]);
    assert_eq!(json!(case.properties.target_spacing), json!([2.5, 0.5, 0.5]));
    // 2.5 mm between slices against 0.5 mm inside them: the slices are treated separately on the way back.
    let back = case.properties.probabilities_resampling(&plans.1).expect("a resampling");
    assert_eq!(back.separate_axis, Some(0));
}

#[test]
fn the_result_does_not_depend_on_the_number_of_threads() {
    let plans = plans([2, 1, 0], |_| ());
    let mut image = image([40, 70, 60]);
    image.spacing_mm = [1.3, 0.9, 1.1];
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        pool.install(|| prepare(image.clone(), &plans)).expect("a case that fits")
    };
    assert_eq!(run(1), run(3));
}

#[test]
fn cases_that_do_not_fit_are_refused() {
    let message = |plans: &(Plans, Configuration), image: Image| {
        let error = prepare(image, plans).expect_err("it does not fit");
        format!("{error}\nhint: {}", error.hint().unwrap_or_default())
    };
    let usual = plans([0, 1, 2], |_| ());
    let two = Image { channels: 2, data: vec![1.0; 2 * 125], ..image([5, 5, 5]) };
    insta::assert_snapshot!(message(&usual, two), @"
    the image has 2 channels, but configuration `c` of the plans is for 1
    hint: give the channels named in the model's dataset.json, and no others
    ");
    insta::assert_snapshot!(message(&usual, Image { data: vec![1.0; 7], ..image([5, 5, 5]) }), @"
    7 values are not 1 channels of [5, 5, 5] voxels
    hint:
    ");
    insta::assert_snapshot!(message(&usual, Image { spacing_mm: [1.0, 0.0, 1.0], ..image([5, 5, 5]) }), @"
    the image has spacing [1.0, 0.0, 1.0] mm; every spacing must be above 0
    hint: check the voxel size in the image's header (pixdim of a NIfTI file, in mm)
    ");
    insta::assert_snapshot!(message(&usual, Image { spacing_mm: [1e9, 1.0, 1.0], ..image([9, 5, 5]) }), @"
    resampling [6, 2, 2] voxels of [1000000000.0, 1.0, 1.0] mm to [1.0, 1.0, 1.0] mm would give [6000000000, 2, 2] voxels, more than 536870912
    hint: check the voxel size in the image's header (pixdim of a NIfTI file, in mm)
    ");
    insta::assert_snapshot!(message(&usual, Image { spacing_mm: [1e300; 3], ..image([5, 5, 5]) }), @"
    resampling [2, 2, 2] voxels of [1e300, 1e300, 1e300] mm to [1.0, 1.0, 1.0] mm would give [18446744073709551615, 18446744073709551615, 18446744073709551615] voxels, more than 536870912
    hint: check the voxel size in the image's header (pixdim of a NIfTI file, in mm)
    ");
    let ct = plans([0, 1, 2], |c| c["normalization_schemes"] = json!(["CTNormalization"]));
    insta::assert_snapshot!(message(&ct, image([5, 5, 5])), @"
    channel 0 is normalised as CT, but the plans have foreground intensities for 0 channels only
    hint: the key foreground_intensity_properties_per_channel of plans.json must have an entry for every channel
    ");
    let rgb = plans([0, 1, 2], |c| c["normalization_schemes"] = json!(["RGBTo01Normalization"]));
    insta::assert_snapshot!(message(&rgb, image([9, 9, 9])), @"
    channel 0 is normalised as a colour, but its values run from 92 to 547, not from 0 to 255
    hint: a model for colour images needs 8-bit colour images
    ");
}
