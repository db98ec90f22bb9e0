//! `glioseg evaluate`, `rank` and `report` as a user meets them: bad input is named with its remedy, and odd cohorts are scored.

mod support;

use std::path::{Path, PathBuf};

use glioseg_formats::nifti;
use glioseg_volume::{Affine, Geometry, LabelMap};
use support::run;

const SHAPE: [usize; 3] = [20, 22, 24];

/// A tumour of three shells; `labels` are core, enhancing and oedema from the inside, 0 where there is none.
fn tumour(shift: usize, [core, enhancing, oedema]: [u16; 3]) -> Vec<u16> {
    let center = [10.0, 11.0, 11.0 + shift as f64];
    let label = |i: usize| {
        let place = [i / (SHAPE[1] * SHAPE[2]), i / SHAPE[2] % SHAPE[1], i % SHAPE[2]];
        let distance = (0..3).map(|a| (place[a] as f64 - center[a]).powi(2)).sum::<f64>().sqrt();
        match distance {
            d if d < 3.0 => core,
            d if d < 5.0 => enhancing,
            d if d < 8.0 => oedema,
            _ => 0,
        }
    };
    (0..SHAPE.iter().product()).map(label).collect()
}

const BRATS21: [u16; 3] = [1, 4, 2];
const BRATS23: [u16; 3] = [1, 3, 2];
const NNUNET: [u16; 3] = [2, 3, 1];

fn save(path: &Path, data: Vec<u16>, spacing: [f64; 3]) {
    let [x, y, z] = spacing;
    let affine = Affine::from_rows([[x, 0.0, 0.0, 0.0], [0.0, y, 0.0, 0.0], [0.0, 0.0, z, 0.0]]);
    let geometry = Geometry::from_affine(SHAPE, affine).expect("regular");
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    nifti::write_labels(path, &LabelMap::new(data, geometry).expect("right length")).expect("written");
}

struct Cohort {
    dir: tempfile::TempDir,
}

impl Cohort {
    /// References of `cases`, predictions a voxel away from them.
    fn new(cases: &[&str], labels: [u16; 3]) -> Self {
        let cohort = Self { dir: tempfile::tempdir().expect("a folder") };
        for case in cases {
            cohort.reference(case, tumour(0, labels));
            cohort.prediction(case, tumour(1, labels));
        }
        cohort
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn reference(&self, case: &str, data: Vec<u16>) {
        save(&self.path(&format!("ref/{case}.nii.gz")), data, [1.0; 3]);
    }

    fn prediction(&self, case: &str, data: Vec<u16>) {
        save(&self.path(&format!("pred/{case}.nii.gz")), data, [1.0; 3]);
    }

    /// Exit code, stdout, and stderr with the cohort's folder as DIR.
    fn evaluate(&self, more: &[&str]) -> (i32, String, String) {
        let [reference, prediction, out] =
            ["ref", "pred", "scores"].map(|n| self.path(n).display().to_string());
        let mut arguments = vec!["evaluate", "--ref", &reference, "--pred", &prediction, "-o", &out];
        arguments.extend(more);
        let (code, stdout, stderr) = run(&arguments);
        (code, stdout, stderr.replace(&self.dir.path().display().to_string(), "DIR"))
    }

    /// A run that cannot start: exit code 2, nothing on stdout, an error and a hint with these words.
    fn refused(&self, more: &[&str], words: &[&str]) {
        let (code, stdout, stderr) = self.evaluate(more);
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains("error: ") && stderr.contains("\n  hint: "), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "no `{word}` in: {stderr}");
        }
        assert!(!self.path("scores/scores.json").exists(), "no table of a run that did not start");
    }

    /// Row `case` of a column of `cases.csv`.
    fn cell(&self, case: &str, column: &str) -> String {
        let text = std::fs::read_to_string(self.path("scores/cases.csv")).expect("a table");
        let mut rows = csv::Reader::from_reader(text.as_bytes());
        let at = rows.headers().expect("a head").iter().position(|h| h == column).expect("the column");
        let row = rows.records().map(|r| r.expect("a row")).find(|r| &r[0] == case).expect("the case");
        row[at].to_owned()
    }

    /// The report of the scores: exit code, stderr.
    fn report(&self) -> (i32, String) {
        let [scores, out] = ["scores", "report.html"].map(|n| self.path(n).display().to_string());
        let (code, _, stderr) = run(&["report", "--scores", &scores, "-o", &out]);
        (code, stderr)
    }
}

#[test]
fn another_grid_fails_its_case_and_both_grids_are_named() {
    let cohort = Cohort::new(&["a", "b"], BRATS21);
    save(&cohort.path("pred/b.nii.gz"), tumour(1, BRATS21), [1.0, 1.0, 2.5]);
    let (code, stdout, stderr) = cohort.evaluate(&["--labels", "1-2-4"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(
        stderr.contains(
            "case `b`: prediction DIR/pred/b.nii.gz has 24 x 22 x 20 voxels of 1 x 1 x 2.5 mm but its reference \
             DIR/ref/b.nii.gz has 24 x 22 x 20 voxels of 1 x 1 x 1 mm"
        ),
        "{stderr}"
    );
    assert!(stderr.contains("hint: a prediction is scored on its reference's own grid"), "{stderr}");
    assert!(stderr.contains("could not score b: they are in no mean"), "{stderr}");
    assert!(stdout.contains("brats2021") && cohort.cell("a", "status") == "scored");
    assert_eq!(
        (cohort.cell("b", "status").as_str(), cohort.cell("b", "brats2021/WT/Dice").as_str()),
        ("failed", "")
    );
    let (code, stderr) = cohort.report();
    assert_eq!(code, 0, "{stderr}");
}

#[test]
fn missing_and_extra_cases_are_named_and_count_as_the_rule_says() {
    let cohort = Cohort::new(&["a", "b"], BRATS21);
    std::fs::rename(cohort.path("pred/b.nii.gz"), cohort.path("pred/c.nii.gz")).expect("renamed");
    let (code, stdout, stderr) = cohort.evaluate(&["--labels", "1-2-4", "--rules", "nnunet,brats2021"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(
        stderr.contains(
            "no prediction for 1 of 2 cases: b; they count as worst for brats2021; nnunet leave them out"
        ),
        "{stderr}"
    );
    assert!(stderr.contains("without a reference, and left out: 1 prediction: c"), "{stderr}");
    assert_eq!(cohort.cell("b", "brats2021/ET/HD95"), "373.1287");
    assert_eq!(cohort.cell("b", "brats2021/ET/Dice"), "0");
    assert_eq!(cohort.cell("b", "nnunet/(4,)/Dice"), "");
    let n = |rule: &str| {
        let line = stdout.lines().find(|l| l.starts_with(rule) && l.contains("Dice")).expect("a row");
        line.split("Dice").nth(1).and_then(|l| l.split_whitespace().next()).map(str::to_owned)
    };
    assert_eq!((n("nnunet"), n("brats2021")), (Some("1".into()), Some("2".into())), "{stdout}");
}

#[test]
fn labels_that_no_rule_knows_are_refused_or_fail_their_case() {
    let cohort = Cohort::new(&["a", "b"], BRATS21);
    cohort.prediction("b", tumour(1, [7, 4, 2]));
    let (code, _, stderr) = cohort.evaluate(&["--labels", "1-2-4"]);
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("case `b`: DIR/pred/b.nii.gz holds the label 7, but the labels of"), "{stderr}");
    assert!(
        stderr.contains("hint: give the dataset.json that describes these labels with --dataset"),
        "{stderr}"
    );
    for case in ["a", "b"] {
        cohort.reference(case, tumour(0, [9, 18, 27]));
        cohort.prediction(case, tumour(1, [9, 18, 27]));
    }
    std::fs::remove_dir_all(cohort.path("scores")).expect("removed");
    cohort.refused(
        &[],
        &["cannot tell what the labels 0, 9, 18, 27 in DIR/ref mean", "give --dataset dataset.json"],
    );
    cohort.refused(&["--labels", "1-2-3"], &["holds the labels 9, 18, 27, but the labels of", "--dataset"]);
    let (code, stdout, stderr) = cohort.evaluate(&["--labels", "9,18,27", "--rules", "nnunet"]);
    assert!(code == 0 && stdout.contains("27"), "{stderr}");
}

#[test]
fn another_convention_is_refused_with_the_guess() {
    let cohort = Cohort::new(&["a"], BRATS23);
    cohort.refused(
        &["--labels", "nnunet"],
        &[
            "references in DIR/ref are said to be coded as nnU-Net's",
            "but look like BraTS 2023",
            "--trust-labels",
        ],
    );
    cohort.refused(
        &["--labels", "1-2-4"],
        &["DIR/ref/a.nii.gz holds the label 3", "the file looks like BraTS 2023"],
    );
    cohort.prediction("a", tumour(1, NNUNET));
    cohort.refused(
        &["--labels", "1-2-3"],
        &[
            "predictions in DIR/pred are said to be coded as BraTS 2023",
            "but look like nnU-Net's",
            "--pred-labels",
        ],
    );
    let (code, _, stderr) = cohort.evaluate(&["--labels", "1-2-3", "--pred-labels", "nnunet"]);
    assert_eq!(code, 0, "{stderr}");
    assert_eq!(cohort.cell("a", "status"), "scored");
}

#[test]
fn empty_folders_and_foreign_names_say_what_was_looked_for() {
    let cohort = Cohort::new(&["a"], BRATS21);
    let away = |name: &str| std::fs::rename(cohort.path(name), cohort.path("away")).expect("moved");
    away("pred/a.nii.gz");
    cohort.refused(
        &[],
        &["DIR/pred holds no label map (.nii.gz or .nii)", "give a folder of CASE.nii.gz files"],
    );
    std::fs::rename(cohort.path("away"), cohort.path("pred/other.nii.gz")).expect("moved");
    cohort.refused(
        &[],
        &[
            "no prediction in DIR/pred belongs to a reference in DIR/ref",
            "is case `a`",
            "is case `other`",
            "--pred-suffix",
        ],
    );
    away("ref/a.nii.gz");
    cohort.refused(&[], &["DIR/ref holds no label map"]);
    std::fs::remove_dir(cohort.path("ref")).expect("removed");
    cohort.refused(&[], &["DIR/ref"]);
    cohort
        .refused(&["--rules", "brats2019"], &["unknown rule `brats2019`; rules: nnunet, brats2021", "hint"]);
}

#[test]
fn odd_cohorts_are_scored_ranked_and_reported() {
    // One case, thick slices, a long name with a space and a letter beyond ASCII, and no enhancing tumour anywhere.
    let name = format!("Übung {}", "x".repeat(120));
    let cohort = Cohort::new(&[], BRATS21);
    for (folder, shift) in [("ref", 0), ("pred", 1)] {
        let path = cohort.path(&format!("{folder}/{name}.nii.gz"));
        save(&path, tumour(shift, [1, 1, 2]), [0.5, 0.5, 5.0]);
    }
    let (code, stdout, stderr) = cohort.evaluate(&["--labels", "1-2-4"]);
    assert_eq!(code, 0, "{stderr}");
    // Empty in both: perfect by the rule of 2021, no number by nnU-Net's.
    assert_eq!(cohort.cell(&name, "brats2021/ET/Dice"), "1");
    assert_eq!(cohort.cell(&name, "nnunet/(4,)/Dice"), "NaN");
    assert!(
        !stdout.lines().any(|l| l.starts_with("nnunet") && l.contains("(4,)")),
        "no row of dashes: {stdout}"
    );
    // A voxel to the right is half a millimetre.
    assert_eq!(cohort.cell(&name, "brats2021/WT/HD95"), "0.5");
    let (code, stderr) = cohort.report();
    assert!(code == 0 && stderr.contains("1 case in"), "{stderr}");
    let scores = cohort.path("scores").display().to_string();
    let (code, stdout, stderr) = run(&["rank", &scores, &scores]);
    assert!(code == 0 && stdout.contains("winner"), "{stdout}{stderr}");
    let (code, stdout, stderr) = run(&["compare", &scores, &scores]);
    assert!(code == 0 && stdout.contains(&name), "{stdout}{stderr}");
    // What cannot be ordered from worse to better ranks nothing, whatever it is the spread of.
    for spread in ["sq_dsc_std", "sq_hd95_std"] {
        let (code, _, stderr) = run(&["rank", &scores, &scores, "--metrics", spread]);
        assert!(
            code == 2 && stderr.contains(&format!("cannot rank by {spread}: `{spread}` (spread of")),
            "{stderr}"
        );
        assert!(stderr.contains("hint: name one of Dice, HD95"), "{stderr}");
    }
    let (code, stdout, stderr) =
        run(&["rank", &scores, &scores, "--metrics", "sq_hd95", "--rule", "brats2026"]);
    assert!(code == 0 && stdout.contains("wt sq_hd95"), "{stdout}{stderr}");
    let (code, _, stderr) = run(&["rank", &scores, &scores, "--metrics", "kappa"]);
    assert!(code == 2 && stderr.contains("no rule has a metric `kappa`"), "{stderr}");
}

#[test]
fn datasets_with_labels_as_strings_are_understood() {
    let cohort = Cohort::new(&["a"], NNUNET);
    let dataset = r#"{"modality": {"0": "T1"}, "labels": {"0": "background", "1": "edema", "2": "non-enhancing", "3": "enhancing"},
        "numTraining": 1, "file_ending": ".nii.gz"}"#;
    std::fs::write(cohort.path("ref/dataset.json"), dataset).expect("written");
    let (code, stdout, stderr) = cohort.evaluate(&[]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("labels from DIR/ref/dataset.json"), "{stderr}");
    assert!(stdout.contains("brats2021"), "{stdout}");
    let strings = r#"{"channel_names": {"0": "T1"}, "labels": {"background": "0", "edema": "1", "non-enhancing": "2", "enhancing": "3"},
        "numTraining": 1, "file_ending": ".nii.gz"}"#;
    std::fs::write(cohort.path("ref/dataset.json"), strings).expect("written");
    let (code, again, stderr) = cohort.evaluate(&[]);
    assert_eq!((code, again), (0, stdout), "{stderr}");
    std::fs::write(cohort.path("ref/dataset.json"), strings.replace("\"3\"", "\"three\"")).expect("written");
    let (code, _, stderr) = cohort.evaluate(&[]);
    assert!(
        code == 2 && stderr.contains("`labels.enhancing` is the string \"three\", but must be a label value"),
        "{stderr}"
    );
}
