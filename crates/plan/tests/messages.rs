//! What is read from hand-written plans and descriptions, and the message for each way they can be wrong.

use glioseg_diagnose::Diagnose as _;
use glioseg_plan::{
    ArchitectureKind, Dataset, Dropout, Nonlin, NormKind, PlanError, Plans, Region, ResamplingFn,
};
use serde_json::{Value, json};
use std::path::Path;

fn configuration() -> Value {
    json!({"data_identifier": "nnUNetPlans_3d_fullres", "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2, "patch_size": [128, 128, 128], "median_image_size_in_voxels": [140.0, 171.0, 137.0],
        "spacing": [1.0, 1.0, 1.0],
        "normalization_schemes": ["ZScoreNormalization", "ZScoreNormalization", "ZScoreNormalization", "ZScoreNormalization"],
        "use_mask_for_norm": [true, true, true, true],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": {"is_seg": false, "order": 3, "order_z": 0, "force_separate_z": null},
        "resampling_fn_seg_kwargs": {"is_seg": true, "order": 1, "order_z": 0, "force_separate_z": null},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": {"is_seg": false, "order": 1, "order_z": 0, "force_separate_z": null},
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {"n_stages": 6, "features_per_stage": [32, 64, 128, 256, 320, 320],
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": [[3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]],
                "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
                "n_conv_per_stage": [2, 2, 2, 2, 2, 2], "n_conv_per_stage_decoder": [2, 2, 2, 2, 2], "conv_bias": true,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-05, "affine": true},
                "dropout_op": null, "dropout_op_kwargs": null,
                "nonlin": "torch.nn.LeakyReLU", "nonlin_kwargs": {"inplace": true}},
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]},
        "batch_dice": false})
}

fn plans_json() -> Value {
    json!({"dataset_name": "Dataset137_BraTS2021", "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [1.0, 1.0, 1.0], "original_median_shape_after_transp": [140, 171, 137],
        "image_reader_writer": "SimpleITKIO", "transpose_forward": [0, 1, 2], "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration()},
        "experiment_planner_used": "ExperimentPlanner", "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": {"max": 1.0, "mean": 0.5, "median": 0.5, "min": 0.0,
            "percentile_00_5": 0.1, "percentile_99_5": 0.9, "std": 0.2}}})
}

fn read(value: Value) -> Result<Plans, PlanError> {
    Plans::from_value(value, Path::new("model/plans.json"))
}

/// Plans whose value at `pointer` is replaced, or removed where `value` is `None`.
fn changed(pointer: &str, value: Option<Value>) -> Value {
    let mut plans = plans_json();
    let (parent, key) = pointer.rsplit_once('/').expect("a pointer has a slash");
    let parent = plans.pointer_mut(parent).expect("the parent is there").as_object_mut().expect("an object");
    match value {
        Some(value) => parent.insert(key.to_owned(), value),
        None => parent.shift_remove(key),
    };
    plans
}

/// Message and hint of the error that the plans give, be it while reading or for the configuration.
fn message(plans: Value) -> String {
    let error = match read(plans) {
        Err(error) => error,
        Ok(plans) => plans.configuration("3d_fullres").expect_err("the plans are wrong"),
    };
    match error.hint() {
        Some(hint) => format!("{error}\nhint: {hint}"),
        None => error.to_string(),
    }
}

const CONFIGURATION: &str = "/configurations/3d_fullres";

fn wrong(key: &str, value: Value) -> String {
    message(changed(&format!("{CONFIGURATION}/{key}"), Some(value)))
}

fn missing(key: &str) -> String {
    message(changed(&format!("{CONFIGURATION}/{key}"), None))
}

#[test]
fn the_usual_brats_plans_are_read() {
    let plans = read(plans_json()).expect("the usual plans");
    let c = plans.configuration("3d_fullres").expect("the usual configuration");
    assert_eq!(c.patch_size, [128, 128, 128]);
    assert_eq!(c.architecture.features_per_stage, [32, 64, 128, 256, 320, 320]);
    assert_eq!(c.architecture.num_stages(), 6);
    assert_eq!(c.raw["median_image_size_in_voxels"], json!([140.0, 171.0, 137.0]));
    assert_eq!(plans.raw()["label_manager"], "LabelManager");
}

#[test]
fn a_child_overrides_its_parents() {
    let mut plans = plans_json();
    plans["configurations"]["b"] =
        json!({"inherits_from": "3d_fullres", "batch_size": 4, "previous_stage": "3d_lowres"});
    plans["configurations"]["c"] =
        json!({"inherits_from": "b", "patch_size": [64, 64, 64], "mine": [1, "x"]});
    let plans = read(plans).expect("valid plans");
    let c = plans.configuration("c").expect("a grandchild");
    assert_eq!((c.batch_size, c.patch_size.as_slice()), (4, &[64, 64, 64][..]));
    assert_eq!((c.previous_stage.as_deref(), c.name.as_str()), (Some("3d_lowres"), "c"));
    assert_eq!(c.raw["mine"], json!([1, "x"]));
}

#[test]
fn inheritance_in_a_circle_is_an_error() {
    let mut plans = plans_json();
    plans["configurations"]["3d_fullres"]["inherits_from"] = json!("b");
    plans["configurations"]["b"] = json!({"inherits_from": "c"});
    plans["configurations"]["c"] = json!({"inherits_from": "b"});
    insta::assert_snapshot!(message(plans), @"
    model/plans.json: configurations inherit in a circle: 3d_fullres -> b -> c -> b
    hint: remove `inherits_from` from the configuration that is meant to be the parent
    ");
}

#[test]
fn a_parent_that_is_not_there_is_named() {
    insta::assert_snapshot!(wrong("inherits_from", json!("3d_fulres")), @"
    model/plans.json: `configurations.3d_fullres.inherits_from` names `3d_fulres`, which is not known; known are 3d_fullres
    hint: did you mean `3d_fullres`?
    ");
}

#[test]
fn an_unknown_configuration_lists_the_known_ones() {
    let mut plans = plans_json();
    plans["configurations"]["2d"] = configuration();
    let error = read(plans).expect("valid plans").configuration("3d_fulres").expect_err("misspelt");
    insta::assert_snapshot!(error, @"model/plans.json has no configuration `3d_fulres`; it has 3d_fullres, 2d");
    assert_eq!(error.hint().as_deref(), Some("did you mean `3d_fullres`?"));
}

#[test]
fn missing_keys_are_named() {
    insta::assert_snapshot!(missing("patch_size"), @"model/plans.json: `configurations.3d_fullres.patch_size` is missing; found data_identifier, preprocessor_name, batch_size, median_image_size_in_voxels, spacing, normalization_schemes, use_mask_for_norm, resampling_fn_data, resampling_fn_seg, resampling_fn_data_kwargs, resampling_fn_seg_kwargs, resampling_fn_probabilities, resampling_fn_probabilities_kwargs, architecture, batch_dice");
    insta::assert_snapshot!(missing("architecture"), @"model/plans.json: `configurations.3d_fullres.architecture` is missing; found data_identifier, preprocessor_name, batch_size, patch_size, median_image_size_in_voxels, spacing, normalization_schemes, use_mask_for_norm, resampling_fn_data, resampling_fn_seg, resampling_fn_data_kwargs, resampling_fn_seg_kwargs, resampling_fn_probabilities, resampling_fn_probabilities_kwargs, batch_dice");
    insta::assert_snapshot!(missing("architecture/arch_kwargs/strides"), @"model/plans.json: `configurations.3d_fullres.architecture.arch_kwargs.strides` is missing; found n_stages, features_per_stage, conv_op, kernel_sizes, n_conv_per_stage, n_conv_per_stage_decoder, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs");
    insta::assert_snapshot!(missing("resampling_fn_probabilities"), @"model/plans.json: `configurations.3d_fullres.resampling_fn_probabilities` is missing; found data_identifier, preprocessor_name, batch_size, patch_size, median_image_size_in_voxels, spacing, normalization_schemes, use_mask_for_norm, resampling_fn_data, resampling_fn_seg, resampling_fn_data_kwargs, resampling_fn_seg_kwargs, resampling_fn_probabilities_kwargs, architecture, batch_dice");
    insta::assert_snapshot!(message(changed("/transpose_forward", None)), @"model/plans.json: `transpose_forward` is missing; found dataset_name, plans_name, original_median_spacing_after_transp, original_median_shape_after_transp, image_reader_writer, transpose_backward, configurations, experiment_planner_used, label_manager, foreground_intensity_properties_per_channel");
    insta::assert_snapshot!(message(json!({})), @"model/plans.json: `transpose_forward` is missing; found no keys");
    let mut plans = changed(&format!("{CONFIGURATION}/patch_size"), None);
    plans["configurations"]["3d_fullres"]["patch_sizes"] = json!([1, 2, 3]);
    insta::assert_snapshot!(message(plans).lines().last().unwrap_or_default(), @"hint: is `patch_sizes` a misspelling of it?");
}

#[test]
fn wrong_values_say_what_was_found_and_what_is_valid() {
    insta::assert_snapshot!(message(json!([1])), @"model/plans.json: `the whole file` is [1], but must be an object");
    insta::assert_snapshot!(wrong("patch_size", json!("128")), @r#"model/plans.json: `configurations.3d_fullres.patch_size` is the string "128", but must be a list"#);
    insta::assert_snapshot!(wrong("patch_size", json!([128, 0, 128])), @"model/plans.json: `configurations.3d_fullres.patch_size[1]` is 0, but must be a whole number from 1 to 16384");
    insta::assert_snapshot!(wrong("patch_size", json!([128])), @"model/plans.json: `configurations.3d_fullres.patch_size` is [128], but must be a list of 2 or 3 whole numbers");
    insta::assert_snapshot!(wrong("spacing", json!([1.0, 1.0])), @"model/plans.json: `configurations.3d_fullres.spacing` is [1.0,1.0], but must be a list of 3 numbers, as many as `patch_size` has");
    insta::assert_snapshot!(wrong("spacing", json!([1.0, -1.0, 1.0])), @"model/plans.json: `configurations.3d_fullres.spacing[1]` is -1.0, but must be a length in mm above 0");
    insta::assert_snapshot!(wrong("spacing", json!([1.0, "NaN", 1.0])), @r#"model/plans.json: `configurations.3d_fullres.spacing[1]` is the string "NaN", but must be a length in mm above 0"#);
    insta::assert_snapshot!(wrong("use_mask_for_norm", json!([true])), @"model/plans.json: `configurations.3d_fullres.use_mask_for_norm` is [true], but must be a list of 4 entries, as many as `normalization_schemes`");
    insta::assert_snapshot!(wrong("batch_dice", json!("yes")), @r#"model/plans.json: `configurations.3d_fullres.batch_dice` is the string "yes", but must be true or false"#);
    insta::assert_snapshot!(wrong("resampling_fn_data_kwargs", json!({"order": 4})), @"model/plans.json: `configurations.3d_fullres.resampling_fn_data_kwargs.order` is 4, but must be a spline order from 0 to 3");
    insta::assert_snapshot!(wrong("architecture/arch_kwargs/features_per_stage", json!([32, 64])), @"model/plans.json: `configurations.3d_fullres.architecture.arch_kwargs.features_per_stage` is [32,64], but must be a list of 6 entries (from `n_stages`), found 2");
    insta::assert_snapshot!(wrong("architecture/arch_kwargs/strides", json!([[1, 1], [2, 2], [2, 2], [2, 2], [2, 2], [2, 2]])), @"model/plans.json: `configurations.3d_fullres.architecture.arch_kwargs.strides[0]` is [1,1], but must be a list of 3 numbers, one per axis of the patch");
    insta::assert_snapshot!(wrong("architecture/arch_kwargs/kernel_sizes", json!(4)), @"model/plans.json: `configurations.3d_fullres.architecture.arch_kwargs.kernel_sizes` is 4, but must be odd along every axis");
    insta::assert_snapshot!(wrong("architecture/arch_kwargs/conv_op", json!("torch.nn.modules.conv.Conv2d")), @r#"model/plans.json: `configurations.3d_fullres.architecture.arch_kwargs.conv_op` is the string "torch.nn.modules.conv.Conv2d", but must be torch.nn.modules.conv.Conv3d, since the patch has 3 axes"#);
    insta::assert_snapshot!(message(changed("/transpose_forward", Some(json!([0, 1, 1])))), @"model/plans.json: `transpose_forward` is [0,1,1], but must be a permutation of [0, 1, 2]");
    insta::assert_snapshot!(message(changed("/transpose_forward", Some(json!([1, 2, 0])))), @"model/plans.json: `transpose_backward` is [0,1,2], but must be the inverse of `transpose_forward`, which is [1, 2, 0]");
}

#[test]
fn unknown_names_list_the_known_ones() {
    insta::assert_snapshot!(wrong("architecture/network_class_name", json!("dynamic_network_architectures.architectures.unet.PlainConvUnet")), @"
    model/plans.json: `configurations.3d_fullres.architecture.network_class_name` names `dynamic_network_architectures.architectures.unet.PlainConvUnet`, which is not known; known are PlainConvUNet, ResidualEncoderUNet, ResidualUNet, Generic_UNet
    hint: did you mean `PlainConvUNet`?
    ");
    insta::assert_snapshot!(wrong("architecture/network_class_name", json!("my.own.Transformer")), @"
    model/plans.json: `configurations.3d_fullres.architecture.network_class_name` names `my.own.Transformer`, which is not known; known are PlainConvUNet, ResidualEncoderUNet, ResidualUNet, Generic_UNet
    hint: only nnU-Net's own networks, resampling functions and normalisation schemes can be used
    ");
    insta::assert_snapshot!(wrong("normalization_schemes", json!(["ZScoreNormalisation"])), @"
    model/plans.json: `configurations.3d_fullres.normalization_schemes[0]` names `ZScoreNormalisation`, which is not known; known are ZScoreNormalization, CTNormalization, NoNormalization, RescaleTo01Normalization, RGBTo01Normalization
    hint: did you mean `ZScoreNormalization`?
    ");
    insta::assert_snapshot!(wrong("resampling_fn_seg", json!("resample_seg")), @"
    model/plans.json: `configurations.3d_fullres.resampling_fn_seg` names `resample_seg`, which is not known; known are resample_data_or_seg_to_shape, resample_data_or_seg_to_spacing, resample_torch_fornnunet, no_resampling_hack
    hint: only nnU-Net's own networks, resampling functions and normalisation schemes can be used
    ");
    insta::assert_snapshot!(wrong("architecture/arch_kwargs/norm_op", json!("torch.nn.LayerNorm")), @"
    model/plans.json: `configurations.3d_fullres.architecture.arch_kwargs.norm_op` names `torch.nn.LayerNorm`, which is not known; known are torch.nn.modules.instancenorm.InstanceNorm3d, torch.nn.modules.batchnorm.BatchNorm3d, torch.nn.modules.normalization.GroupNorm
    hint: only nnU-Net's own networks, resampling functions and normalisation schemes can be used
    ");
    insta::assert_snapshot!(wrong("architecture/arch_kwargs/nonlin", json!("torch.nn.SeLU")), @"
    model/plans.json: `configurations.3d_fullres.architecture.arch_kwargs.nonlin` names `torch.nn.SeLU`, which is not known; known are torch.nn.LeakyReLU, torch.nn.ReLU, torch.nn.GELU, torch.nn.ELU, torch.nn.SiLU, torch.nn.PReLU
    hint: did you mean `torch.nn.ELU`?
    ");
}

/// The message for plans that have `value` at `pointer` below the configuration.
fn told(pointer: &str, value: Value) -> String {
    message(changed(&format!("/configurations/3d_fullres/{pointer}"), Some(value)))
}

#[test]
fn what_would_run_as_something_else_is_refused_by_name() {
    insta::assert_snapshot!(told("preprocessor_name", json!("ResizePreprocessor")), @"
    model/plans.json: `configurations.3d_fullres.preprocessor_name` names `ResizePreprocessor`, which is not known; known are DefaultPreprocessor
    hint: only nnU-Net's own networks, resampling functions and normalisation schemes can be used
    ");
    insta::assert_snapshot!(message(changed("/label_manager", Some(json!("MyLabelManager")))), @"
    model/plans.json: `label_manager` names `MyLabelManager`, which is not known; known are LabelManager
    hint: did you mean `LabelManager`?
    ");
    insta::assert_snapshot!(told("architecture/network_class_name", json!("mylab.networks.PlainConvUNet")), @"
    model/plans.json: `configurations.3d_fullres.architecture.network_class_name` names `mylab.networks.PlainConvUNet`, which is not known; known are PlainConvUNet, ResidualEncoderUNet, ResidualUNet, Generic_UNet
    hint: a class of another package is another network, even if it has the name of nnU-Net's
    ");
    insta::assert_snapshot!(told("architecture/arch_kwargs/pool", json!("max")), @"
    model/plans.json: `configurations.3d_fullres.architecture.arch_kwargs.pool` is not an argument of PlainConvUNet, which has n_stages, features_per_stage, conv_op, kernel_sizes, strides, n_conv_per_stage_decoder, conv_bias, norm_op, norm_op_kwargs, dropout_op, dropout_op_kwargs, nonlin, nonlin_kwargs, deep_supervision, n_conv_per_stage, nonlin_first
    hint: nnU-Net itself does not know it; a network or function that somebody changed cannot be run here
    ");
    insta::assert_snapshot!(told("architecture/arch_kwargs/nonlin_kwargs", json!({"negativ_slope": 0.2})), @"
    model/plans.json: `configurations.3d_fullres.architecture.arch_kwargs.nonlin_kwargs.negativ_slope` is not an argument of LeakyReLU, which has negative_slope, inplace
    hint: did you mean `negative_slope`?
    ");
    for (pointer, value) in [
        ("architecture/arch_kwargs/norm_op_kwargs", json!({"eps": 1e-5, "epsilon": 1})),
        ("architecture/arch_kwargs/nonlin_first_block", Value::Null),
        ("architecture/arch_kwargs/n_blocks_per_stage", json!(2)),
        ("architecture/arch_kwargs/nonlin", json!("mylab.LeakyReLU")),
        ("architecture/arch_kwargs/nonlin", json!("LeakyReLU")),
        ("architecture/arch_kwargs/norm_op", json!("mylab.InstanceNorm3d")),
        ("architecture/arch_kwargs/conv_op", json!("mylab.Conv3d")),
        ("resampling_fn_data_kwargs", json!({"order": 3, "prefilter": false})),
    ] {
        let text = told(pointer, value);
        let last = pointer.rsplit('/').next().expect("a key");
        assert!(text.contains(last) && text.contains("hint: "), "{text}");
    }
    for name in ["torch.nn.LeakyReLU", "torch.nn.modules.LeakyReLU", "torch.nn.modules.activation.LeakyReLU"]
    {
        let plans = changed("/configurations/3d_fullres/architecture/arch_kwargs/nonlin", Some(json!(name)));
        read(plans).expect("plans").configuration("3d_fullres").expect(name);
    }
}

#[test]
fn plans_of_early_2_x_are_read() {
    let mut plans = plans_json();
    let c = plans["configurations"]["3d_fullres"].as_object_mut().expect("an object");
    c.shift_remove("architecture");
    for (key, value) in [
        ("UNet_class_name", json!("ResidualEncoderUNet")),
        ("UNet_base_num_features", json!(32)),
        ("unet_max_num_features", json!(320)),
        ("n_conv_per_stage_encoder", json!([1, 3, 4, 6, 6])),
        ("n_conv_per_stage_decoder", json!([1, 1, 1, 1])),
        ("num_pool_per_axis", json!([2, 4, 4])),
        ("pool_op_kernel_sizes", json!([[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2]])),
        ("conv_kernel_sizes", json!([[1, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3], [3, 3, 3]])),
    ] {
        c.insert(key.to_owned(), value);
    }
    let net = read(plans.clone()).expect("valid").configuration("3d_fullres").expect("valid").architecture;
    assert_eq!(net.kind, ArchitectureKind::ResidualEncoderUNet);
    assert_eq!(net.features_per_stage, [32, 64, 128, 256, 320]);
    assert_eq!((net.strides[1].as_slice(), net.kernel_sizes[0].as_slice()), (&[1, 2, 2][..], &[1, 3, 3][..]));
    assert_eq!(net.blocks_per_stage, [1, 3, 4, 6, 6]);
    assert!(net.conv_bias && net.norm.affine && net.norm.kind == NormKind::Instance);

    plans["configurations"]["3d_fullres"]["UNet_class_name"] = json!("ResidualEncoderUnet");
    insta::assert_snapshot!(message(plans), @"
    model/plans.json: `configurations.3d_fullres.UNet_class_name` names `ResidualEncoderUnet`, which is not known; known are PlainConvUNet, ResidualEncoderUNet, ResidualUNet, Generic_UNet
    hint: did you mean `ResidualEncoderUNet`?
    ");
}

#[test]
fn scalars_stand_for_every_stage_and_absent_arguments_have_the_constructors_defaults() {
    let mut plans = plans_json();
    let args = &mut plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"];
    for (key, value) in [
        ("n_conv_per_stage", json!(2)),
        ("n_conv_per_stage_decoder", json!(1)),
        ("features_per_stage", json!(16)),
        ("kernel_sizes", json!(3)),
        ("norm_op", json!("torch.nn.modules.batchnorm.BatchNorm3d")),
        ("norm_op_kwargs", Value::Null),
        ("dropout_op", json!("torch.nn.modules.dropout.Dropout3d")),
        ("dropout_op_kwargs", json!({"p": 0.25})),
        ("nonlin", json!("torch.nn.modules.activation.ReLU")),
        ("nonlin_first", json!(true)),
    ] {
        args[key] = value;
    }
    args.as_object_mut().expect("an object").shift_remove("conv_bias");
    let net = read(plans).expect("valid").configuration("3d_fullres").expect("valid").architecture;
    assert_eq!((net.blocks_per_stage, net.n_conv_per_stage_decoder), (vec![2; 6], vec![1; 5]));
    assert_eq!((net.features_per_stage, net.kernel_sizes), (vec![16; 6], vec![vec![3; 3]; 6]));
    assert!(net.norm.kind == NormKind::Batch && net.norm.affine && !net.conv_bias && net.nonlin_first);
    assert_eq!((net.dropout, net.nonlin), (Some(Dropout { p: 0.25 }), Nonlin::Relu));
}

#[test]
fn resampling_functions_take_their_own_defaults() {
    let mut plans = plans_json();
    let c = &mut plans["configurations"]["3d_fullres"];
    c["resampling_fn_data"] = json!("resample_torch_fornnunet");
    c["resampling_fn_data_kwargs"] = json!({"is_seg": false, "memefficient_seg_resampling": false});
    c["resampling_fn_seg_kwargs"] = json!({});
    c["resampling_fn_probabilities"] = json!("no_resampling_hack");
    c["resampling_fn_probabilities_kwargs"] = Value::Null;
    let c = read(plans).expect("valid").configuration("3d_fullres").expect("valid");
    assert_eq!((c.resampling_data.function, c.resampling_data.force_separate_z), (ResamplingFn::Torch, None));
    assert_eq!((c.resampling_seg.order, c.resampling_seg.force_separate_z), (3, Some(false)));
    assert_eq!(c.resampling_probabilities.function, ResamplingFn::Identity);
}

fn dataset(value: Value) -> Result<Dataset, PlanError> {
    Dataset::from_value(value, Path::new("model/dataset.json"))
}

fn brats() -> Value {
    json!({"channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
        "numTraining": 1251, "file_ending": ".nii.gz", "regions_class_order": [1, 2, 3], "reference": "kept"})
}

#[test]
fn regions_keep_file_order_and_their_paint() {
    let mut value = brats();
    value["labels"] =
        json!({"background": 0, "wt": [1, 2, 3], "tc": [3, 1], "et": 3, "empty": [0, 0], "ignore": 4});
    value["regions_class_order"] = json!([2, 1, 3]);
    let dataset = dataset(value).expect("valid");
    let region =
        |name: &str, labels: &[u16], paint| Region { name: name.to_owned(), labels: labels.to_vec(), paint };
    assert_eq!(
        dataset.labels.regions(),
        [region("wt", &[1, 2, 3], 2), region("tc", &[3, 1], 1), region("et", &[3], 3)]
    );
    assert_eq!((dataset.labels.num_outputs(), dataset.labels.ignore_label()), (3, Some(4)));
    assert_eq!(dataset.labels.all_labels(), [0, 1, 2, 3]);
    assert_eq!(dataset.labels.output_names(), ["wt", "tc", "et"]);
    assert_eq!(dataset.raw["reference"], "kept");
}

#[test]
fn plain_labels_have_one_output_each_with_background() {
    let mut value = brats();
    value["labels"] = json!({"edema": 2, "background": 0, "core": [1], "ignore": 3});
    let labels = dataset(value).expect("valid").labels;
    assert!(!labels.has_regions() && labels.regions().is_empty());
    assert_eq!(labels.num_outputs(), 3);
    assert_eq!(labels.foreground(), [("core", 1), ("edema", 2)]);
    assert_eq!(labels.output_names(), ["background", "core", "edema"]);
}

#[test]
fn channels_are_ordered_by_number_and_v1_descriptions_are_read() {
    let value = json!({"modality": {"10": "k", "1": "b", "0": "a", "2": "c", "3": "d", "4": "e", "5": "f", "6": "g",
        "7": "h", "8": "i", "9": "j"}, "labels": {"0": "background", "1": "edema", "2": "core"}, "numTraining": 3});
    let dataset = dataset(value).expect("valid");
    assert_eq!(dataset.channel_names.concat(), "abcdefghijk");
    assert_eq!(dataset.labels.foreground(), [("edema", 1), ("core", 2)]);
    assert_eq!(dataset.file_ending, ".nii.gz");
}

#[test]
fn wrong_descriptions_are_refused_with_the_key() {
    let message = |key: &str, value: Value| {
        let mut description = brats();
        if value.is_null() {
            description.as_object_mut().expect("an object").shift_remove(key);
        } else {
            description[key] = value;
        }
        dataset(description).expect_err("the description is wrong").to_string()
    };
    insta::assert_snapshot!(message("channel_names", Value::Null), @"model/dataset.json: `channel_names` is missing; found labels, numTraining, file_ending, regions_class_order, reference");
    insta::assert_snapshot!(message("channel_names", json!({"0": "T1", "2": "T2"})), @r#"model/dataset.json: `channel_names` is {"0":"T1","2":"T2"}, but must be an object that names the channels "0", "1", … (or from "1" on) without a gap, such as {"0": "T1", "1": "FLAIR"}"#);
    insta::assert_snapshot!(message("channel_names", json!({"T1": 0})), @r#"model/dataset.json: `channel_names` is {"T1":0}, but must be an object that names the channels "0", "1", … (or from "1" on) without a gap, such as {"0": "T1", "1": "FLAIR"}"#);
    insta::assert_snapshot!(message("labels", Value::Null), @"model/dataset.json: `labels` is missing; found channel_names, numTraining, file_ending, regions_class_order, reference");
    insta::assert_snapshot!(message("labels", json!({"tumor": 1})), @"model/dataset.json: `labels.background` is missing; found tumor");
    insta::assert_snapshot!(message("labels", json!({"background": 1})), @"model/dataset.json: `labels.background` is 1, but must be 0");
    insta::assert_snapshot!(message("labels", json!({"background": 0, "tumor": -1})), @"model/dataset.json: `labels.tumor` is -1, but must be a label value from 0 to 65534, or a list of them");
    insta::assert_snapshot!(message("labels", json!({"background": 0, "tumor": []})), @"model/dataset.json: `labels.tumor` is [], but must be a label value or a list of them that is not empty");
    insta::assert_snapshot!(message("labels", json!({"background": 0, "tumor": 1, "ignore": 5})), @"model/dataset.json: `labels.ignore` is 5, but must be 2, one more than the highest other label");
    insta::assert_snapshot!(message("regions_class_order", Value::Null), @"model/dataset.json: `regions_class_order` is missing; found channel_names, labels, numTraining, file_ending, reference");
    insta::assert_snapshot!(message("regions_class_order", json!([1, 2])), @"model/dataset.json: `regions_class_order` is [1,2], but must be a list with one label value for each of the 3 regions whole tumor, tumor core, enhancing tumor");
    insta::assert_snapshot!(message("file_ending", json!("nii.gz")), @r#"model/dataset.json: `file_ending` is the string "nii.gz", but must be a file ending that starts with a dot, such as ".nii.gz""#);
}

#[test]
fn what_a_prediction_does_not_need_may_be_missing_or_written_as_text() {
    let described = |more: &str| {
        let text = format!(r#"{{"file_ending": ".nii.gz", {more}}}"#);
        Dataset::parse(text.as_bytes(), Path::new("dataset.json"))
    };
    let labels = r#""labels": {"background": 0, "a": 1}"#;
    let dataset =
        described(&format!(r#""channel_names": {{"1": "T1", "2": "FLAIR"}}, "numTraining": "10", {labels}"#));
    let dataset = dataset.expect("numbers from 1");
    assert_eq!((dataset.channel_names, dataset.num_training), (vec!["T1".into(), "FLAIR".into()], Some(10)));
    for channels in
        [r#"{"1": "T1", "3": "T2"}"#, r#"{"2": "T1"}"#, r#"{"0": "T1", "2": "T2"}"#, r#"{"a": "T1"}"#]
    {
        let error = described(&format!(r#""channel_names": {channels}, {labels}"#)).expect_err(channels);
        assert!(error.to_string().contains("(or from \"1\" on) without a gap"), "{error}");
    }
    let regions = r#""channel_names": {"0": "T1"}, "labels": {"background": 0, "wt": [1, 2], "tc": ["2"]}"#;
    for order in [r#"["1", "2"]"#, r#"[1, "2"]"#, r#""[1, 2]""#, r#""1, 2""#, r#""12""#] {
        let dataset = described(&format!(r#"{regions}, "regions_class_order": {order}"#)).expect(order);
        let paints: Vec<u16> = dataset.labels.regions().iter().map(|r| r.paint).collect();
        assert_eq!(paints, [1, 2], "{order}");
    }
    for order in [r#""1""#, r#""one""#, r#"["one", 2]"#, r#""1,2,3""#] {
        described(&format!(r#"{regions}, "regions_class_order": {order}"#)).expect_err(order);
    }

    let mut plans = plans_json();
    let c = plans["configurations"]["3d_fullres"].as_object_mut().expect("an object");
    for key in ["batch_size", "resampling_fn_seg", "resampling_fn_seg_kwargs", "data_identifier"] {
        c.shift_remove(key);
    }
    let channel = &mut plans["foreground_intensity_properties_per_channel"]["0"];
    for key in ["min", "max", "median"] {
        channel.as_object_mut().expect("an object").shift_remove(key);
    }
    let c = read(plans).expect("plans").configuration("3d_fullres").expect("enough for a prediction");
    let error = c.check_trainable(Path::new("plans.json")).expect_err("not for a training").to_string();
    assert!(error.starts_with("plans.json: `configurations.3d_fullres.batch_size` is missing"), "{error}");
    let c = read(plans_json()).expect("plans").configuration("3d_fullres").expect("valid");
    c.check_trainable(Path::new("plans.json")).expect("all is there");
}
