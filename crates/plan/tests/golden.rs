//! Real plans and descriptions are read, and what is in them comes out.

use glioseg_plan::{ArchitectureKind, Dataset, Nonlin, Norm, NormKind, Normalization, Plans, ResamplingFn};
use glioseg_volume::testing::shared_data;
use std::path::Path;

fn plans(name: &str) -> Plans {
    Plans::read(&shared_data(&format!("golden/pipeline/{name}"))).expect("plans as nnU-Net wrote them")
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn every_golden_plan_is_read_with_all_configurations() {
    for set in ["iso", "aniso"] {
        for file in ["plans.json", "planned/nnUNetPlans.json", "model/plans.json", "predicted/plans.json"] {
            let plans = plans(&format!("{set}/{file}"));
            assert_eq!(plans.configuration_names(), ["2d", "3d_fullres"], "{set}/{file}");
            for name in plans.configuration_names() {
                let configuration = plans.configuration(name).expect("a configuration as nnU-Net wrote it");
                assert_eq!(configuration.dim(), if name == "2d" { 2 } else { 3 });
                assert_eq!(configuration.architecture.dim, configuration.dim());
                assert_eq!(configuration.data_identifier, format!("nnUNetPlans_{name}"));
            }
        }
    }
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn the_anisotropic_plan_says_what_its_file_says() {
    let plans = plans("aniso/plans.json");
    assert_eq!(plans.dataset_name(), "Dataset502_aniso");
    assert_eq!(plans.plans_name(), "nnUNetPlans");
    assert_eq!(plans.image_reader().name(), "SimpleITKIO");
    assert_eq!((plans.transpose_forward(), plans.transpose_backward()), ([0, 1, 2], [0, 1, 2]));
    assert_eq!(plans.original_median_spacing(), Some([3.0, 1.0, 1.0]));
    let written = plans.raw()["original_median_shape_after_transp"].as_array().expect("a list");
    let written: Vec<f64> = written.iter().filter_map(serde_json::Value::as_f64).collect();
    assert_eq!(plans.original_median_shape().map(Vec::from), Some(written));
    assert_eq!(plans.foreground_intensities().len(), 2);
    let written = &plans.raw()["foreground_intensity_properties_per_channel"]["0"]["std"];
    assert_eq!(Some(plans.foreground_intensities()[0].std), written.as_f64());

    let c = plans.configuration("3d_fullres").expect("a configuration");
    assert_eq!((c.patch_size.as_slice(), c.batch_size), (&[12, 40, 48][..], 2));
    assert_eq!(c.spacing, [3.0, 1.0, 1.0]);
    assert_eq!(c.normalization, [Normalization::Ct, Normalization::ZScore]);
    assert_eq!(c.use_mask_for_norm, [false, false]);
    assert_eq!(c.resampling_data.function, ResamplingFn::ToShape);
    assert_eq!((c.resampling_data.order, c.resampling_data.order_z, c.resampling_data.is_seg), (3, 0, false));
    assert_eq!((c.resampling_seg.order, c.resampling_seg.is_seg), (1, true));
    assert_eq!((c.resampling_probabilities.order, c.resampling_probabilities.force_separate_z), (1, None));
    assert!(!c.batch_dice);

    let net = c.architecture;
    assert_eq!(net.kind, ArchitectureKind::PlainConvUNet);
    assert_eq!(net.features_per_stage, [8, 16, 32]);
    assert_eq!(net.kernel_sizes, [[1, 3, 3], [3, 3, 3], [3, 3, 3]]);
    assert_eq!(net.strides, [[1, 1, 1], [1, 2, 2], [2, 2, 2]]);
    assert_eq!((net.blocks_per_stage, net.n_conv_per_stage_decoder), (vec![2, 2, 2], vec![2, 2]));
    assert!(net.conv_bias && net.dropout.is_none() && !net.nonlin_first);
    assert_eq!(net.norm, Norm { kind: NormKind::Instance, eps: 1e-5, affine: true, running: false });
    assert_eq!(net.nonlin, Nonlin::LeakyRelu { slope: 0.01 });
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn golden_datasets_are_read() {
    let path = shared_data("golden/pipeline/aniso/model/dataset.json");
    let dataset = Dataset::read(&path).expect("a description as nnU-Net wrote it");
    assert_eq!(dataset.channel_names, ["CT", "t1ce"]);
    assert!(!dataset.labels.has_regions());
    assert_eq!(dataset.labels.foreground(), [("tumor", 1), ("enhancing", 2)]);
    assert_eq!(dataset.labels.num_outputs(), 3);
    assert_eq!((dataset.file_ending.as_str(), dataset.num_training), (".nii.gz", Some(6)));

    let path = shared_data("golden/pipeline/iso/model/dataset.json");
    let dataset = Dataset::read(&path).expect("a description as nnU-Net wrote it");
    assert_eq!(dataset.channel_names.len(), 4);
    assert!(dataset.labels.has_regions());
    assert_eq!(dataset.labels.num_outputs(), dataset.labels.regions().len());
}

#[test]
fn a_missing_file_is_named() {
    let error = Plans::read(Path::new("no/such/plans.json")).expect_err("there is none");
    assert!(error.to_string().starts_with("cannot read no/such/plans.json: "), "{error}");
}
