//! The way of a challenge: BraTS folders to a dataset; ensembles, postprocessing, labels and recipes to a submission.

mod support;

use std::fs;
use std::path::Path;

use glioseg_formats::nifti;
use glioseg_volume::testing::shared_data;
use glioseg_volume::{Geometry, LabelMap};
use support::{model, numbered, predict, record, run, write_case};

fn labels(folder: &Path, case: &str) -> LabelMap {
    nifti::read_labels(&folder.join(format!("{case}.nii.gz"))).expect("a label map")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn the_winners_chain_is_that_of_his_own_program() {
    let golden = shared_data("golden/v1");
    let dir = tempfile::tempdir().expect("a folder");
    let [mean, thresholded, converted, at_once] =
        ["mean", "thresholded", "converted", "at-once"].map(|n| dir.path().join(n));
    let [bl, bl_l_gn] = ["BL", "BL_L_GN"].map(|m| text(&golden.join("predicted").join(m)));
    let same = |ours: &Path, theirs: &str| {
        for case in ["case_03", "case_07"] {
            assert_eq!(labels(ours, case).data, labels(&golden.join(theirs), case).data, "{theirs} {case}");
        }
    };
    let (code, stdout, stderr) = run(&["ensemble", "-i", &bl, &bl_l_gn, "-o", &text(&mean)]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.starts_with("case_03\t1="), "{stdout}");
    same(&mean, "ensemble");
    let (code, stdout, stderr) =
        run(&["postprocess", "-i", &text(&mean), "-o", &text(&thresholded), "--threshold", "2345"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(stdout, "case_03\tchanged=0\ncase_07\tchanged=2344\n");
    same(&thresholded, "thresholded/ensemble_2345");
    // Without a number the winner's 200; labels back to those of BraTS 2021.
    let raw = golden.join("predicted/BL_no_mirroring");
    let (code, _, stderr) = run(&[
        "postprocess",
        "-i",
        &text(&raw),
        "-o",
        &text(&converted),
        "--input-labels",
        "nnunet",
        "--labels",
        "brats",
        "--threshold",
    ]);
    assert_eq!(code, 0, "{stderr}");
    same(&converted, "converted/BL_no_mirroring_200");
    for below in ["1", "2"] {
        let (raw, out) = (golden.join("predicted/BL_GN"), dir.path().join(format!("BL_GN_{below}")));
        let coded = ["--input-labels", "nnunet", "--threshold", below];
        let (code, _, stderr) =
            run(&[&["postprocess", "-i", &text(&raw), "-o", &text(&out)][..], &coded].concat());
        assert_eq!(code, 0, "{stderr}");
        same(&out, &format!("thresholded/BL_GN_{below}"));
    }
    let steps = thresholded.join("postprocessing.json");
    let steps_text = fs::read_to_string(&steps).expect("the steps are written");
    fs::write(&steps, steps_text.replace("2345", "200")).expect("written");
    let arguments =
        ["ensemble", "-i", &bl, &bl_l_gn, "-o", &text(&at_once), "--labels", "brats", "--postprocessing"];
    let (code, _, stderr) = run(&[&arguments[..], &[&text(&steps)]].concat());
    assert_eq!(code, 0, "{stderr}");
    same(&at_once, "converted/ensemble_200");
    // What was written describes itself.
    let (code, _, stderr) = run(&[
        "postprocess",
        "-i",
        &text(&at_once),
        "-o",
        &text(&dir.path().join("back")),
        "--labels",
        "brats2023",
    ]);
    assert_eq!(code, 0, "{stderr}");
    let (ours, brats) = (labels(&dir.path().join("back"), "case_07").data, labels(&at_once, "case_07").data);
    assert!(brats.contains(&4) && ours.iter().zip(&brats).all(|(&a, &b)| a == if b == 4 { 3 } else { b }));
}

fn save(folder: &Path, case: &str, values: &[u16]) {
    fs::create_dir_all(folder).expect("a folder");
    let map = LabelMap::new(values.to_vec(), Geometry::isotropic([1, 2, 5])).expect("ten voxels");
    nifti::write_labels(&folder.join(format!("{case}.nii.gz")), &map).expect("written");
}

#[test]
fn the_best_threshold_is_found_and_applied() {
    let dir = tempfile::tempdir().expect("a folder");
    let [pred, reference, out] = ["pred", "ref", "out"].map(|n| dir.path().join(n));
    // A false spot of two voxels, and a true tumour of four; references are coded as in BraTS 2021.
    save(&pred, "a", &[0, 3, 3, 2, 1, 0, 0, 0, 0, 0]);
    save(&reference, "a-seg", &[0, 1, 1, 1, 2, 0, 0, 0, 0, 0]);
    save(&pred, "b", &[0, 3, 3, 3, 3, 0, 0, 0, 0, 0]);
    save(&reference, "b-seg", &[0, 4, 4, 4, 0, 0, 0, 0, 0, 0]);
    let base =
        ["postprocess", "-i", &text(&pred), "-o", &text(&out), "--input-labels", "nnunet"].map(str::to_owned);
    let with =
        |more: &[&str]| run(&base.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>());
    let search = ["--search", "--ref", &text(&reference), "--ref-labels", "1-2-4", "--thresholds", "0,2,3,5"];
    let (code, stdout, stderr) = with(&search);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(
        lines[1..5],
        [
            "    0  0.4286   0 of 2",
            "    2  0.4286   0 of 2",
            "    3  0.9286   1 of 2  best",
            "    5  0.5000   2 of 2"
        ],
        "{stdout}"
    );
    assert_eq!(labels(&out, "a").data, [0, 2, 2, 2, 1, 0, 0, 0, 0, 0]);
    assert_eq!(labels(&out, "b").data, labels(&pred, "b").data);
    let steps: serde_json::Value =
        serde_json::from_slice(&fs::read(out.join("postprocessing.json")).expect("written")).expect("JSON");
    assert_eq!(steps["steps"][0]["replace_small"]["below_voxels"], 3);
    assert_eq!(steps["notes"]["threshold_search"]["scores"][2]["removed"], 1);

    fs::remove_file(reference.join("b-seg.nii.gz")).expect("removed");
    let (code, _, stderr) = with(&search);
    assert_eq!(code, 2);
    assert!(stderr.contains("case `b` of") && stderr.contains("has no reference in"), "{stderr}");
    let (code, _, stderr) = with(&[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("error: nothing to do"), "{stderr}");
    let (code, _, stderr) = run(&["postprocess", "-i", &text(&pred), "-o", &text(&out), "--threshold", "9"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("the meaning of the labels in") && stderr.contains("--input-labels"), "{stderr}");
    let (code, _, stderr) = with(&["--labels", "brats", "--file", "none.json"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("cannot read none.json"), "{stderr}");
}

#[test]
fn a_recipe_averages_models_and_writes_the_labels_of_its_year() {
    let dir = tempfile::tempdir().expect("a folder");
    let [input, plain, recipe, copy] = ["in", "plain", "recipe", "copy"].map(|n| dir.path().join(n));
    fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "one"), 3);
    let (code, _, stderr) = predict(&input, &plain, &[]);
    assert_eq!(code, 0, "{stderr}");
    let m = text(&model());
    let with = |out: &Path, more: &[&str]| {
        let base =
            ["predict", "-i", &text(&input), "-o", &text(out), "--no-mirroring", "-m", &m].map(str::to_owned);
        run(&base.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>())
    };
    // The same model twice has its own mean.
    let (code, _, stderr) = with(&recipe, &["-m", &m, "--recipe", "brats21"]);
    assert_eq!(code, 0, "{stderr}");
    let (dataset, brats) = (labels(&plain, "one").data, labels(&recipe, "one").data);
    let enhancing = dataset.iter().filter(|&&v| v == 3).count();
    let expected = dataset.iter().map(|&v| match v {
        1 => 2,
        2 => 1,
        3 if enhancing < 200 => 1,
        3 => 4,
        v => v,
    });
    assert!(enhancing > 0, "the phantom has an enhancing tumour");
    assert_eq!(brats, expected.collect::<Vec<u16>>());
    // A folder is not continued in other labels.
    let (code, _, stderr) = with(&recipe, &["--continue"]);
    assert_eq!(code, 2, "{stderr}");
    assert!(
        stderr.contains("have the labels [2, 1, 4] painted 2, [1, 4] painted 1, [4] painted 4, but"),
        "{stderr}"
    );
    let settings = &record(&recipe)["settings"];
    assert_eq!(settings["labels"], "brats");
    assert_eq!(settings["postprocessing"][0]["replace_small"]["below_voxels"], 200);

    // A model folder's own steps are applied, unless they are switched off; a broken file is an error.
    fs::create_dir_all(copy.join("fold_0")).expect("a folder");
    for file in ["plans.json", "dataset.json", "fold_0/checkpoint_final.pth"] {
        fs::copy(model().join(file), copy.join(file)).expect("copied");
    }
    let steps = copy.join("postprocessing.json");
    let all =
        r#"{"steps": [{"replace_small": {"labels": [1, 2, 3], "below_voxels": 100000000, "with": 0}}]}"#;
    fs::write(&steps, all).expect("written");
    let m = text(&copy);
    let predict = |more: &[&str]| {
        let out = dir.path().join("stepped");
        let base = ["predict", "-i", &text(&input), "-o", &text(&out), "--no-mirroring", "-m", &m]
            .map(str::to_owned);
        let (code, _, stderr) =
            run(&base.iter().map(String::as_str).chain(more.iter().copied()).collect::<Vec<_>>());
        (code, stderr, out)
    };
    let (code, stderr, out) = predict(&[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(labels(&out, "one").data.iter().all(|&v| v == 0), "the step removes everything");
    assert!(stderr.contains("the segmentation is empty"), "{stderr}");
    let (code, stderr, out) = predict(&["--postprocessing", "none"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(labels(&out, "one").data, dataset);
    fs::write(&steps, all.replace("[1, 2, 3]", "[1, 2, 7]")).expect("written");
    let (code, stderr, _) = predict(&[]);
    assert_eq!(code, 2);
    assert!(stderr.contains("has a step for label 7, but the labels are [0, 1, 2, 3]"), "{stderr}");
}

#[test]
fn recipes_and_ensembles_that_do_not_fit_are_refused_before_anything_is_done() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "one"), 3);
    for (more, part) in [
        (vec!["--recipe", "brats21"], "the recipe `brats21` averages 2 models (BL: the baseline"),
        (vec!["--recipe", "brats99"], "unknown recipe `brats99`; recipes: brats21"),
        (vec!["--recipe", "brats21", "--postprocessing", "none"], "cannot be used with"),
        (
            vec!["--labels", "brats22"],
            "conventions: dataset, 1-2-4, 1-2-3, 1-2-3-4, nnunet, brats2018 to brats2022, brats2023, brats2024",
        ),
    ] {
        let (code, _, stderr) = predict(&input, &out, &more);
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert!(!out.exists(), "nothing was written");
    let (code, _, stderr) = run(&["ensemble", "-i", &text(&input), "-o", &text(&out)]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("holds no saved probabilities") && stderr.contains("--save-probabilities"),
        "{stderr}"
    );
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

#[test]
fn brats_folders_become_a_dataset_without_findings() {
    let dir = tempfile::tempdir().expect("a folder");
    let [src, out] = ["src", "Dataset001_Phantom"].map(|n| dir.path().join(n));
    let (code, _, stderr) =
        run(&["phantom", "--cases", "2", "--size", "32", "--layout", "brats", "--out", &text(&src)]);
    assert_eq!(code, 0, "{stderr}");
    let (code, stdout, stderr) = run(&["dataset", "brats", &text(&src), &text(&out)]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.ends_with("2 training cases, 0 test cases | hard links | 0 label maps rewritten\n"),
        "{stdout}"
    );
    assert!(stderr.contains("2 cases, 2 with label maps | labels 0, 1, 2, 3: BraTS 2023"), "{stderr}");
    let (code, stdout, stderr) = run(&["dataset", "check", &text(&out)]);
    assert_eq!(code, 0, "{stdout}{stderr}");
    assert!(stdout.contains("2 cases, 0 errors"), "{stdout}");
    // A second time, and into the source.
    let (code, _, stderr) = run(&["dataset", "brats", &text(&src), &text(&out)]);
    assert_eq!(code, 2);
    assert!(
        stderr.contains("dataset.json already exists") && stderr.contains("hint: choose another folder"),
        "{stderr}"
    );
    let (code, _, stderr) = run(&["dataset", "brats", &text(&src), &text(&src.join("inside"))]);
    assert_eq!(code, 2);
    assert!(stderr.contains("would lie inside"), "{stderr}");
    // A case that lacks a channel is named, and the others are done.
    let case = src.join("BraTS-PHANTOM-00000-000");
    fs::remove_file(case.join("BraTS-PHANTOM-00000-000-t1c.nii.gz")).expect("removed");
    let again = dir.path().join("again");
    let (code, stdout, stderr) =
        run(&["dataset", "brats", "--json", "--files", "copy", &text(&src), &text(&again)]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("case `BraTS-PHANTOM-00000-000` is left out: it has no t1ce"), "{stderr}");
    let line: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!(
        (&line["training"], &line["incomplete"], &line["files"]),
        (&1.into(), &1.into(), &"copies".into())
    );
}

#[test]
#[cfg_attr(not(real_cases), ignore = "needs two real cases, see CONTRIBUTING.md")]
fn real_cases_become_a_dataset() {
    let shared = shared_data("real");
    let dir = tempfile::tempdir().expect("a folder");
    let [real, out] = ["real", "out"].map(|n| dir.path().join(n));
    for case in ["TCGA-DU-7294", "TCGA-FG-6692"] {
        fs::create_dir_all(real.join(case)).expect("a folder");
        for file in fs::read_dir(shared.join(case)).expect("a case") {
            let file = file.expect("a file");
            fs::copy(file.path(), real.join(case).join(file.file_name())).expect("copied");
        }
    }
    let (code, stdout, stderr) =
        run(&["dataset", "brats", &text(&real), &text(&out), "--files", "reference"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stdout.contains("2 training cases, 0 test cases | references | 2 label maps rewritten"),
        "{stdout}"
    );
    assert!(stderr.contains("10 other images are left alone"), "{stderr}");
    let name = "TCGA-DU-7294";
    let [raw, ours] =
        [real.join(format!("{name}/{name}_seg.nii.gz")), out.join(format!("labelsTr/{name}.nii.gz"))]
            .map(|p| nifti::read_labels(&p).expect("labels").counts());
    assert_eq!((raw.get(&1), raw.get(&2), raw.get(&4)), (ours.get(&2), ours.get(&1), ours.get(&3)));
}

#[test]
#[cfg_attr(not(golden), ignore = "needs golden data, see CONTRIBUTING.md")]
fn the_recipe_on_the_winners_own_models_gives_his_submission() {
    let golden = shared_data("golden");
    let dir = tempfile::tempdir().expect("a folder");
    let [input, out, saved, merged] = ["in", "out", "saved", "merged"].map(|n| dir.path().join(n));
    fs::create_dir(&input).expect("a folder");
    for file in numbered(Path::new(""), "case_03") {
        fs::copy(golden.join("pipeline/iso/raw/imagesTs").join(&file), input.join(&file)).expect("copied");
    }
    let [bl, bl_l_gn] = ["BL", "BL_L_GN"].map(|m| text(&golden.join("v1").join(m)));
    let (input, to) = (text(&input), text(&out));
    let (code, _, stderr) =
        run(&["predict", "--recipe", "brats21", "-m", &bl, "-m", &bl_l_gn, "-i", &input, "-o", &to]);
    assert_eq!(code, 0, "{stderr}");
    let (ours, theirs) =
        (labels(&out, "case_03"), labels(&golden.join("v1/converted/ensemble_200"), "case_03"));
    let other = ours.data.iter().zip(&theirs.data).filter(|(a, b)| a != b).count();
    assert!(other * 10_000 <= theirs.data.len(), "{other} voxels differ");
    assert_eq!(record(&out)["models"].as_array().map(Vec::len), Some(2));
    // What is saved with other label values is merged in these values too.
    let (to, merged_text) = (text(&saved), text(&merged));
    let more = ["--no-mirroring", "--folds", "0", "--save-probabilities", "--labels", "brats"];
    let (code, _, stderr) = run(&[&["predict", "-m", &bl, "-i", &input, "-o", &to][..], &more].concat());
    assert_eq!(code, 0, "{stderr}");
    let (code, _, stderr) = run(&["ensemble", "-i", &to, "-o", &merged_text]);
    assert_eq!(code, 0, "{stderr}");
    let (direct, through) = (labels(&saved, "case_03").counts(), labels(&merged, "case_03").counts());
    assert!(direct.len() > 2 && direct.keys().eq(through.keys()), "{direct:?} {through:?}");
}
