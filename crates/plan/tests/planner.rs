//! Plans are those of nnU-Net: real runs, the published figures for BraTS, and made-up fingerprints.

mod support;

use glioseg_diagnose::Diagnose as _;
use glioseg_plan::{
    ArchitectureKind, Dataset, Fingerprint, PlanError, PlanOptions, Planned, Planner, Plans, RawCase,
    RawDataset, Splits, plan, read_json,
};
use glioseg_volume::testing::shared_data;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use support::intensities;

/// A dataset that exists in memory only.
fn dataset(name: &str, description: Value, cases: usize) -> RawDataset {
    let case = |i: usize| RawCase {
        name: format!("case_{i:04}"),
        images: vec![PathBuf::from(format!("case_{i:04}_0000.nii.gz"))],
        labels: PathBuf::from(format!("case_{i:04}.nii.gz")),
    };
    RawDataset {
        folder: PathBuf::from(name),
        name: name.to_owned(),
        description: Dataset::from_value(description, Path::new("dataset.json"))
            .expect("a valid description"),
        cases: (0..cases).map(case).collect(),
        strays: Vec::new(),
    }
}

fn brats(shape: [usize; 3]) -> (RawDataset, Fingerprint) {
    let cases = 1251;
    let fingerprint = Fingerprint {
        spacings_mm: vec![[1.0; 3]; cases],
        shapes_after_crop: vec![shape; cases],
        foreground_intensities: vec![intensities(); 4],
        median_relative_size_after_cropping: 0.367,
    };
    let description = json!({
        "channel_names": {"0": "T1", "1": "T1ce", "2": "T2", "3": "Flair"},
        "labels": {"background": 0, "whole tumor": [1, 2, 3], "tumor core": [2, 3], "enhancing tumor": [3]},
        "numTraining": cases, "file_ending": ".nii.gz", "regions_class_order": [1, 2, 3]
    });
    (dataset("Dataset137_BraTS2021", description, cases), fingerprint)
}

fn planned(shape: [usize; 3], planner: Planner) -> Planned {
    let (dataset, fingerprint) = brats(shape);
    plan(&dataset, &fingerprint, &PlanOptions { planner, ..PlanOptions::default() }).expect("plans")
}

fn read(planned: &Planned) -> Plans {
    Plans::from_value(planned.json.clone(), Path::new("plans.json")).expect("plans that can be read")
}

fn estimates(planned: &Planned, configuration: &str) -> Vec<(Vec<usize>, u64)> {
    let of = planned.attempts.iter().filter(|a| a.configuration == configuration);
    of.map(|a| (a.patch.clone(), a.estimate)).collect()
}

/// Equal in structure, and in numbers to 1e-6.
fn assert_same(ours: &Value, theirs: &Value, at: &str) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = |m: &serde_json::Map<String, Value>| m.keys().cloned().collect::<Vec<_>>();
            assert_eq!(keys(a), keys(b), "keys of {at}");
            a.iter().for_each(|(k, v)| assert_same(v, &b[k], &format!("{at}.{k}")));
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "length of {at}: {ours} {theirs}");
            a.iter().zip(b).enumerate().for_each(|(i, (a, b))| assert_same(a, b, &format!("{at}[{i}]")));
        }
        (Value::Number(a), Value::Number(b)) => {
            assert_eq!(a.is_f64(), b.is_f64(), "whole or not at {at}: {a} {b}");
            let (a, b) = (a.as_f64().expect("a number"), b.as_f64().expect("a number"));
            assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{at}: {a} {b}");
        }
        _ => assert_eq!(ours, theirs, "{at}"),
    }
}

fn assert_same_text(ours: &Path, theirs: &Path) {
    let text = |path: &Path| std::fs::read_to_string(path).expect("text");
    let (a, b) = (text(ours), text(theirs));
    let differing = a.lines().zip(b.lines()).enumerate().find(|(_, (a, b))| a != b);
    assert_eq!(differing, None, "line of {}", ours.display());
    assert_eq!(a.len(), b.len());
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn golden_plans_come_out_byte_for_byte() {
    for (set, name) in [("iso", "Dataset501_iso"), ("aniso", "Dataset502_aniso")] {
        let folder = shared_data(&format!("golden/pipeline/{set}"));
        let mut dataset = RawDataset::open(&folder.join("raw")).expect("a dataset");
        name.clone_into(&mut dataset.name);
        let fingerprint =
            Fingerprint::read(&folder.join("planned/dataset_fingerprint.json")).expect("a fingerprint");
        let planned = plan(&dataset, &fingerprint, &PlanOptions::default()).expect("plans");
        let out = tempfile::tempdir().expect("a folder");
        let path = planned.write(&dataset, out.path()).expect("written");
        assert_eq!(path, out.path().join("nnUNetPlans.json"));
        assert_same_text(&path, &folder.join("planned/nnUNetPlans.json"));
        assert_same_text(&out.path().join("dataset.json"), &folder.join("raw/dataset.json"));
    }
}

#[derive(Debug)]
struct Brats {
    planner: Planner,
    patch: [usize; 3],
    batch: usize,
    estimate: u64,
    batch_2d: usize,
    estimate_2d: u64,
    blocks: [usize; 6],
    decoder_convs: usize,
    kind: ArchitectureKind,
}

#[test]
fn plans_for_brats_are_the_published_ones() {
    use ArchitectureKind::{PlainConvUNet, ResidualEncoderUNet};
    let resenc = |planner, patch, batch, estimate, batch_2d| Brats {
        planner,
        patch,
        batch,
        estimate,
        batch_2d,
        estimate_2d: 15_129_600,
        blocks: [1, 3, 4, 6, 6, 6],
        decoder_convs: 1,
        kind: ResidualEncoderUNet,
    };
    let cases = [
        Brats {
            planner: Planner::Default,
            patch: [128; 3],
            batch: 2,
            estimate: 454_893_568,
            batch_2d: 105,
            estimate_2d: 9_676_800,
            blocks: [2; 6],
            decoder_convs: 2,
            kind: PlainConvUNet,
        },
        resenc(Planner::ResEncM, [128; 3], 2, 559_517_696, 107),
        resenc(Planner::ResEncL, [160, 192, 160], 3, 1_311_369_600, 301),
        resenc(Planner::ResEncXl, [160, 192, 160], 5, 1_311_369_600, 444),
    ];
    for case in &cases {
        let planned = planned([140, 171, 137], case.planner);
        let plans = read(&planned);
        assert_eq!(plans.configuration_names(), ["2d", "3d_fullres"], "{case:?}");
        assert_eq!(plans.plans_name(), case.planner.plans_name());
        assert_eq!(plans.transpose_forward(), [0, 1, 2]);
        let three = plans.configuration("3d_fullres").expect("a configuration");
        assert_eq!((&three.patch_size[..], three.batch_size), (&case.patch[..], case.batch), "{case:?}");
        assert_eq!(estimates(&planned, "3d_fullres").last().expect("one").1, case.estimate, "{case:?}");
        assert!(!three.batch_dice && three.use_mask_for_norm == [true; 4]);
        assert_eq!(three.data_identifier, "nnUNetPlans_3d_fullres");
        let net = three.architecture;
        assert_eq!(net.features_per_stage, [32, 64, 128, 256, 320, 320]);
        assert_eq!((net.kind, &net.blocks_per_stage[..]), (case.kind, &case.blocks[..]));
        assert_eq!(net.n_conv_per_stage_decoder, [case.decoder_convs; 5]);
        assert_eq!(net.strides[1..], vec![vec![2; 3]; 5]);
        assert!(net.kernel_sizes.iter().all(|k| *k == [3; 3]));
        let two = plans.configuration("2d").expect("a configuration");
        assert_eq!((&two.patch_size[..], two.batch_size), (&[192, 160][..], case.batch_2d), "{case:?}");
        assert_eq!(estimates(&planned, "2d").last().expect("one").1, case.estimate_2d, "{case:?}");
        assert!(two.batch_dice && two.data_identifier == "nnUNetPlans_2d");
        assert_eq!(two.architecture.features_per_stage, [32, 64, 128, 256, 512, 512]);
    }
}

#[test]
fn the_brats_patch_shrinks_step_by_step_as_nnunet_shrinks_it() {
    let patches = [[160, 192, 160], [160, 192, 128], [128, 192, 128], [128, 160, 128], [128, 128, 128]];
    for (planner, values) in [
        (Planner::Default, [1_066_156_800, 852_925_440, 682_340_352, 568_616_960, 454_893_568]),
        (Planner::ResEncM, [1_311_369_600, 1_049_095_680, 839_276_544, 699_397_120, 559_517_696]),
    ] {
        let trace: Vec<_> = patches.iter().map(|p| p.to_vec()).zip(values).collect();
        assert_eq!(estimates(&planned([140, 171, 137], planner), "3d_fullres"), trace);
    }
}

#[test]
fn the_brats_patch_depends_on_the_median_shape() {
    for (shape, planner, patch, batch) in [
        ([139, 174, 138], Planner::Default, [128, 160, 112], 2),
        ([139, 174, 138], Planner::ResEncL, [160, 192, 160], 3),
        ([139, 174, 138], Planner::ResEncXl, [160, 192, 160], 5),
        ([155, 240, 240], Planner::Default, [96, 160, 160], 2),
        ([155, 240, 240], Planner::ResEncL, [128, 224, 224], 2),
        ([155, 240, 240], Planner::ResEncXl, [160, 256, 256], 3),
        ([64, 192, 160], Planner::Default, [64, 192, 160], 3),
        ([64, 192, 160], Planner::ResEncL, [64, 192, 160], 8),
    ] {
        let plans = read(&planned(shape, planner));
        let three = plans.configuration("3d_fullres").expect("a configuration");
        assert_eq!((&three.patch_size[..], three.batch_size), (&patch[..], batch), "{shape:?} {planner:?}");
    }
    let whole = read(&planned([155, 240, 240], Planner::Default)).configuration("2d").expect("2d");
    assert_eq!((&whole.patch_size[..], whole.batch_size), (&[256, 256][..], 49));
    assert_eq!(whole.architecture.num_stages(), 7);
}

#[test]
fn made_up_fingerprints_are_planned_as_nnunet_plans_them() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/plans.json");
    let scenarios = read_json(&path).expect("the fixture");
    let scenarios = scenarios.as_array().expect("a list");
    assert!(scenarios.len() >= 15);
    for scenario in scenarios {
        let name = scenario["name"].as_str().expect("a name");
        let fingerprint = Fingerprint::parse(scenario["fingerprint"].to_string().as_bytes(), Path::new(name))
            .expect("valid");
        let theirs = &scenario["plans"];
        let dataset = dataset(
            theirs["dataset_name"].as_str().expect("a name"),
            scenario["dataset"].clone(),
            fingerprint.spacings_mm.len(),
        );
        let options = &scenario["options"];
        let spacing = options["overwrite_target_spacing"].as_array();
        let options = PlanOptions {
            planner: match scenario["planner"].as_str().expect("a planner") {
                "default" => Planner::Default,
                "resenc" => Planner::ResEnc,
                "resenc-m" => Planner::ResEncM,
                "resenc-l" => Planner::ResEncL,
                _ => Planner::ResEncXl,
            },
            gpu_memory_gb: options["gpu_memory_target_in_gb"].as_f64(),
            overwrite_target_spacing_mm: spacing.map(|s| [0, 1, 2].map(|a| s[a].as_f64().expect("mm"))),
            plans_name: options["plans_name"].as_str().map(str::to_owned),
        };
        let planned = plan(&dataset, &fingerprint, &options).expect("plans");
        assert_same(&planned.json, theirs, name);
        // nnU-Net remembers estimates, so it lists every patch once; ours come in the same order.
        let estimates = scenario["estimates"].as_array().expect("a list");
        for estimate in estimates {
            let patch: Vec<u64> =
                estimate[0].as_array().expect("a patch").iter().filter_map(Value::as_u64).collect();
            let same =
                |a: &&glioseg_plan::Attempt| a.patch.iter().map(|&s| s as u64).eq(patch.iter().copied());
            let wanted = estimate[1].as_u64().expect("a count");
            assert!(
                planned.attempts.iter().filter(same).any(|a| a.estimate == wanted),
                "{name}: {patch:?} {wanted}"
            );
        }
    }
}

#[test]
fn hand_made_configurations_survive_planning_again() {
    let (dataset, fingerprint) = brats([140, 171, 137]);
    let planned = plan(&dataset, &fingerprint, &PlanOptions::default()).expect("plans");
    let folder = tempfile::tempdir().expect("a folder");
    let path = planned.write(&dataset, folder.path()).expect("written");
    let mut json = read_json(&path).expect("JSON");
    json["configurations"]["mine"] = json!({"inherits_from": "3d_fullres", "batch_size": 5});
    json["configurations"]["3d_fullres"]["batch_size"] = json!(99);
    std::fs::write(&path, json.to_string()).expect("written");
    planned.write(&dataset, folder.path()).expect("written");
    let plans = Plans::read(&path).expect("plans");
    assert_eq!(plans.configuration_names(), ["2d", "3d_fullres", "mine"]);
    assert_eq!(plans.configuration("mine").expect("kept").batch_size, 5);
    assert_eq!(plans.configuration("3d_fullres").expect("new").batch_size, 2);
}

#[test]
fn folds_of_the_raw_dataset_are_taken_over_and_must_not_change() {
    let (mut dataset, fingerprint) = brats([140, 171, 137]);
    let planned = plan(&dataset, &fingerprint, &PlanOptions::default()).expect("plans");
    let (raw, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    raw.path().clone_into(&mut dataset.folder);
    let names = dataset.case_names();
    Splits::five_folds(&names[..10]).expect("folds").write(&raw.path().join(Splits::FILE)).expect("written");
    planned.write(&dataset, out.path()).expect("written");
    planned.write(&dataset, out.path()).expect("the same folds again");
    assert_eq!(Splits::read(&out.path().join(Splits::FILE)).expect("folds").folds.len(), 5);
    let other = Splits::five_folds(&names[..9]).expect("folds");
    other.write(&raw.path().join(Splits::FILE)).expect("written");
    let error = planned.write(&dataset, out.path()).expect_err("other folds");
    assert!(error.to_string().ends_with("differ in fold 0"), "{error}");
    assert!(error.hint().expect("a hint").contains("delete"), "{error}");
}

#[test]
fn impossible_options_are_refused_with_a_reason() {
    let (dataset, fingerprint) = brats([140, 171, 137]);
    let attempt = |options: PlanOptions| plan(&dataset, &fingerprint, &options).expect_err("impossible");
    let error = attempt(PlanOptions { gpu_memory_gb: Some(1e-6), ..PlanOptions::default() });
    assert!(matches!(error, PlanError::Memory { .. }), "{error}");
    insta::assert_snapshot!(error, @"no 3d_lowres network fits 0.000001 GB: its smallest patch [2, 2, 1] is estimated at 272 feature map voxels, and 70 are allowed");
    assert!(error.hint().expect("a hint").contains("--gpu-memory"));
    let error = attempt(PlanOptions { gpu_memory_gb: Some(-1.0), ..PlanOptions::default() });
    insta::assert_snapshot!(error, @"the GPU memory is -1 GB, but must be more than 0");
    let error =
        attempt(PlanOptions { overwrite_target_spacing_mm: Some([1.0, 0.0, 1.0]), ..PlanOptions::default() });
    insta::assert_snapshot!(error, @"the target spacing is [1.0, 0.0, 1.0] mm, but must be three lengths above 0 (z, y, x)");
    let error = attempt(PlanOptions { plans_name: Some("a/b".into()), ..PlanOptions::default() });
    insta::assert_snapshot!(error, @"the name of the plans is `a/b`, but must be a file name without slash and leading dot");
}

#[test]
fn a_fingerprint_of_another_dataset_is_refused() {
    let (mut dataset, fingerprint) = brats([140, 171, 137]);
    dataset.cases.pop();
    let error = plan(&dataset, &fingerprint, &PlanOptions::default()).expect_err("one case fewer");
    insta::assert_snapshot!(error, @"Dataset137_BraTS2021: the fingerprint is of 1251 cases with 4 channels, but the dataset Dataset137_BraTS2021 has 1250 cases with 4 channels");
    assert!(error.hint().expect("a hint").contains("glioseg fingerprint"));
}

#[test]
fn the_winners_planner_gives_brats_its_patch_of_128() {
    let found = planned([140, 171, 137], Planner::Brats21);
    let estimates = |name: &str| {
        let of = found.attempts.iter().filter(|a| a.configuration == name);
        of.map(|a| a.estimate).collect::<Vec<_>>()
    };
    let expected = [1_085_817_600, 868_654_080, 694_923_264, 579_102_720, 463_282_176];
    assert_eq!(estimates("3d_fullres"), expected);
    let plans = read(&found);
    assert_eq!(plans.plans_name(), "nnUNetPlansv2.1");
    let c = plans.configuration("3d_fullres").expect("valid");
    assert_eq!((c.patch_size.as_slice(), c.batch_size), (&[128, 128, 128][..], 2));
    assert_eq!(c.architecture.features_per_stage, [32, 64, 128, 256, 320, 320]);
    let c = plans.configuration("2d").expect("valid");
    assert_eq!((c.patch_size.as_slice(), c.batch_size), (&[192, 160][..], 106));
    assert_eq!(plans.configuration_names(), ["2d", "3d_fullres"]);
    let (dataset, facts) = brats([140, 171, 137]);
    let options =
        PlanOptions { planner: Planner::Brats21, gpu_memory_gb: Some(24.0), ..PlanOptions::default() };
    let error = plan(&dataset, &facts, &options).expect_err("no memory to choose");
    assert!(error.to_string().contains("brats21, which plans as the winner did"), "{error}");
}
