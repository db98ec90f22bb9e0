//! A model of nnU-Net v1 on the command line: what it is, its conversion, and the same bytes from both.

mod support;

use std::fs;
use std::path::Path;

use support::{numbered, record, run, write_case};

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
fn a_model_of_version_1_is_described_converted_and_applied() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join(
        "../../fixtures/v1-model/nnUNetTrainerV2BraTSRegions_DA4_BN_BD_normalUnet_axialattention__nnUNetPlansv2.1",
    );
    let (code, stdout, stderr) = run(&["info", &text(&model), "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let facts: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(
        (facts["rules"].as_str(), facts["network"].as_str()),
        (Some("nnunet_v1"), Some("Generic_UNet"))
    );
    assert_eq!(facts["patch"], serde_json::json!([8, 16, 8]));
    for (file, kind) in
        [("plans.pkl", "plans of nnU-Net v1"), ("fold_0/model_final_checkpoint.model", "checkpoint")]
    {
        let (code, stdout, stderr) = run(&["info", &text(&model.join(file))]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains(kind), "{stdout}");
    }

    let dir = tempfile::tempdir().expect("a folder");
    let [converted, cases, old, new] = ["converted", "cases", "old", "new"].map(|n| dir.path().join(n));
    let (code, stdout, stderr) = run(&["convert", &text(&model), &text(&converted)]);
    assert_eq!((code, stdout.trim()), (0, text(&converted).as_str()), "{stderr}");
    assert!(stderr.contains("the same answer to a forward pass"), "{stderr}");
    assert!(converted.join("fold_0/checkpoint_final.safetensors").is_file());
    let (code, _, stderr) = run(&["convert", &text(&model), &text(&converted)]);
    assert_eq!(code, 2);
    assert!(stderr.contains("is not empty\n  hint: choose a folder that is not there yet"), "{stderr}");

    fs::create_dir(&cases).expect("a folder");
    write_case(&numbered(&cases, "a"), 3);
    for (model, out) in [(&model, &old), (&converted, &new)] {
        let (model, cases, out) = (text(model), text(&cases), text(out));
        let line = [
            "predict",
            "-m",
            &model,
            "-i",
            &cases,
            "-o",
            &out,
            "--no-mirroring",
            "--step",
            "1",
            "--save-probabilities",
        ];
        let (code, _, stderr) = run(&line);
        assert_eq!(code, 0, "{stderr}");
    }
    for file in ["a.nii.gz", "a.npz", "a.pkl"] {
        let [a, b] = [&old, &new].map(|folder| fs::read(folder.join(file)).expect(file));
        assert!(a == b, "{file} differs");
    }
    assert_eq!(record(&old)["models"][0]["rules"], "nnunet_v1");
    assert_eq!(record(&old)["models"][0]["rules"], record(&new)["models"][0]["rules"]);
}
