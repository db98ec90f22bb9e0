//! The winner's presets from the command line: plans, training, and the submission of two models.

mod support;

use std::path::Path;

use support::{record, run};

/// Trains a preset at small width on patches that are not cubes, and gives the model's folder.
fn train(folder: &Path, results: &str, preset: &str, more: &[&str]) -> Result<String, (i32, String)> {
    let (dataset, out) = (folder.join("phantoms"), folder.join(results));
    let (dataset, out) = (dataset.display().to_string(), out.display().to_string());
    let width = "configuration.architecture.arch_kwargs.base_num_features=4";
    let short = ["--epochs", "1", "--iterations", "2", "--val-iterations", "1"];
    let mut arguments = vec!["train", &dataset, "-o", &out, "--preset", preset, "--set", width];
    arguments.extend(short);
    arguments.extend(more);
    let (code, shown, log) = run(&arguments);
    match code {
        0 => Ok(shown.lines().last().expect("the model's folder").to_owned()),
        _ => Err((code, log)),
    }
}

#[test]
fn presets_train_by_the_winners_plans_and_become_his_submission() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let phantoms = folder.join("phantoms").display().to_string();
    let (code, _, log) = run(&["phantom", "--cases", "5", "--size", "40", "--out", &phantoms]);
    assert_eq!(code, 0, "{log}");
    let groups = "configuration.architecture.arch_kwargs.norm_op_kwargs.num_groups=4";
    let patch = ["--patch", "64,32,48"];
    let model = |preset, more: &[&str]| {
        let more = [&patch[..], more].concat();
        train(folder, "results", preset, &more)
            .unwrap_or_else(|(code, log)| panic!("{preset}, {code}: {log}"))
    };
    let (bl, wide) = (model("bl", &[]), model("bl-l-gn", &["--set", groups]));
    assert!(bl.ends_with("nnUNetTrainerV2BraTSRegions_DA4_BN_BD__nnUNetPlansv2.1__3d_fullres"), "{bl}");
    let plans = std::fs::read_to_string(Path::new(&wide).join("plans.json")).expect("plans");
    for part in [r#""rules": "nnunet_v1""#, r#""encoder_scale": 2"#, r#""base_num_features": 4"#] {
        assert!(plans.contains(part), "{part}: {plans}");
    }
    let attentive = model("bl-aa", &[]);

    // The submission of two, with BraTS's labels.
    let (input, out) = (folder.join("one"), folder.join("submission"));
    std::fs::create_dir(&input).expect("made");
    for channel in 0..4 {
        let name = format!("phantom_000_000{channel}.nii.gz");
        std::fs::copy(folder.join("phantoms/imagesTr").join(&name), input.join(&name)).expect("copied");
    }
    let (code, _, log) = run(&[
        "predict",
        "--recipe",
        "brats21",
        "-m",
        &bl,
        "-m",
        &wide,
        "-i",
        &input.display().to_string(),
        "-o",
        &out.display().to_string(),
        "--no-mirroring",
    ]);
    assert_eq!(code, 0, "{log}");
    assert!(out.join("phantom_000.nii.gz").is_file());
    assert_eq!(record(&out)["models"].as_array().map(Vec::len), Some(2), "{}", record(&out));

    // Position embeddings are for one patch, unless they are to be interpolated.
    let begin = ["--patch", "32,32,32", "--weights", &attentive];
    let (code, log) = train(folder, "again", "bl-aa", &begin).expect_err("another patch");
    assert_eq!(code, 2, "{log}");
    for part in ["the position embeddings `axial_embedding.", "--interpolate-positions"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    let begin = [&begin[..], &["--interpolate-positions"]].concat();
    train(folder, "again", "bl-aa", &begin).unwrap_or_else(|(code, log)| panic!("{code}: {log}"));
}
