//! Folders of made cases: what is scored, what is named, what is refused.

use std::path::Path;

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::nifti::write_labels;
use glioseg_metrics::{LabelScheme, Rule};
use glioseg_plan::Convention;
use glioseg_report::{
    CaseStatus, CohortScores, EvaluateOptions, LabelSource, RankOptions, ReportError, Run, compare,
    evaluate_cohort, rank,
};
use glioseg_volume::{Affine, Geometry, LabelMap};

const SHAPE: [usize; 3] = [20, 22, 24];

/// A tumour of three shells around `center`: `labels` are core, oedema, enhancing from the outside: oedema radius 8,
/// enhancing 5, core 3.
fn tumour(center: [f64; 3], convention: Convention) -> Vec<u16> {
    let glioseg_plan::TumourParts { necrosis: core, oedema, enhancing, .. } = convention.parts();
    let mut data = vec![0; SHAPE.iter().product()];
    for (i, value) in data.iter_mut().enumerate() {
        let place = [i / (SHAPE[1] * SHAPE[2]), i / SHAPE[2] % SHAPE[1], i % SHAPE[2]];
        let distance = (0..3).map(|a| (place[a] as f64 - center[a]).powi(2)).sum::<f64>().sqrt();
        *value = match distance {
            d if d < 3.0 => core,
            d if d < 5.0 => enhancing,
            d if d < 8.0 => oedema,
            _ => 0,
        };
    }
    data
}

fn save(path: &Path, data: Vec<u16>) {
    save_on(path, data, Geometry::isotropic(SHAPE));
}

fn save_on(path: &Path, data: Vec<u16>, geometry: Geometry) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    write_labels(path, &LabelMap::new(data, geometry).expect("right length")).expect("writable");
}

const CENTER: [f64; 3] = [10.0, 11.0, 12.0];
const SHIFTED: [f64; 3] = [10.0, 11.0, 13.0];

/// References and predictions `a`, `b`; `ref` has `c` too, `pred` has `d`.
fn cohort(convention: Convention) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for case in ["a", "b", "c"] {
        save(&folder.path().join(format!("ref/{case}-seg.nii.gz")), tumour(CENTER, convention));
    }
    for (case, center) in [("a", SHIFTED), ("b", CENTER), ("d", CENTER)] {
        save(&folder.path().join(format!("pred/{case}.nii.gz")), tumour(center, convention));
    }
    folder
}

fn known(convention: Convention) -> EvaluateOptions {
    EvaluateOptions {
        labels: LabelSource::Known(Box::new(LabelScheme::brats(convention))),
        ..EvaluateOptions::default()
    }
}

fn evaluate(folder: &tempfile::TempDir, options: &EvaluateOptions) -> Result<CohortScores, ReportError> {
    evaluate_cohort(&folder.path().join("ref"), &folder.path().join("pred"), options, &|_, _, _| {})
}

#[test]
fn missing_cases_count_as_their_rule_says_and_extra_ones_are_named() {
    let folder = cohort(Convention::Brats124);
    let scores = evaluate(&folder, &known(Convention::Brats124)).expect("a cohort");
    let statuses: Vec<CaseStatus> = scores.cases.iter().map(|c| c.status).collect();
    assert_eq!(statuses, [CaseStatus::Scored, CaseStatus::Scored, CaseStatus::Missing]);
    assert_eq!(scores.extra, ["d"]);
    let mean = |rule, region, metric| scores.statistic(rule, region, metric).expect("a statistic").mean;
    let n = |rule, region, metric| scores.statistic(rule, region, metric).expect("a statistic").n;
    // nnU-Net averages what was predicted.
    let dice = mean(Rule::NnUnet, "(1, 2, 4)", "Dice");
    assert!((0.9..1.0).contains(&dice), "{dice}");
    assert_eq!(n(Rule::NnUnet, "(1, 2, 4)", "Dice"), 2);
    // BraTS counts a missing case as 0 and as the greatest distance.
    assert!((mean(Rule::Brats2021, "WT", "Dice") - dice * 2.0 / 3.0).abs() < 1e-12);
    assert!((mean(Rule::Brats2021, "ET", "HD95") - (1.0 + 0.0 + 373.1287) / 3.0).abs() < 1e-9);
    assert_eq!(n(Rule::Brats2026, "wt", "rq"), 3);
    assert!((mean(Rule::Brats2026, "wt", "rq") - 2.0 / 3.0).abs() < 1e-12);
    assert!((mean(Rule::Brats2026, "wt", "global_bin_hd95") - (1.0 + 373.0) / 3.0).abs() < 1e-9);
}

#[test]
fn the_convention_is_guessed_where_nobody_tells() {
    for convention in [Convention::Brats124, Convention::Brats123, Convention::NnUnet] {
        let scores = evaluate(&cohort(convention), &EvaluateOptions::default()).expect("a cohort");
        assert_eq!((scores.labels.convention, scores.labels_guessed), (Some(convention), true));
    }
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["ref/a.nii.gz", "pred/a.nii.gz"] {
        save(&folder.path().join(name), tumour(CENTER, Convention::Brats123).iter().map(|v| v * 9).collect());
    }
    let error = evaluate(&folder, &EvaluateOptions::default()).expect_err("no convention has 27");
    assert!(error.to_string().contains("cannot tell what the labels 0, 9, 18, 27"), "{error}");
    let plain = LabelSource::Known(Box::new(LabelScheme::plain(&[9, 18, 27])));
    let scores = evaluate(&folder, &EvaluateOptions { labels: plain, ..EvaluateOptions::default() });
    let summary = scores.expect("plain labels").nnunet_summary().expect("nnU-Net's rule");
    assert_eq!(summary.mean.keys().collect::<Vec<_>>(), ["9", "18", "27"]);
}

#[test]
fn another_convention_is_refused_with_a_guess() {
    // Labels that do not occur in the convention given.
    let folder = cohort(Convention::Brats124);
    let error = evaluate(&folder, &known(Convention::NnUnet)).expect_err("label 4");
    assert!(error.to_string().contains("holds the label 4"), "{error}");
    assert!(error.hint().is_some_and(|h| h.contains("BraTS until 2022")), "{:?}", error.hint());
    // The same labels with another meaning.
    let folder = cohort(Convention::Brats123);
    let error = evaluate(&folder, &known(Convention::NnUnet)).expect_err("1 lies inside 2");
    assert!(error.to_string().contains("references in"), "{error}");
    assert!(error.to_string().contains("look like BraTS 2023"), "{error}");
    let trusted = EvaluateOptions { trust_labels: true, ..known(Convention::NnUnet) };
    assert!(evaluate(&folder, &trusted).is_ok());
    // Predictions in another convention than the references.
    let mixed = cohort(Convention::Brats123);
    for case in ["a", "b", "d"] {
        save(&mixed.path().join(format!("pred/{case}.nii.gz")), tumour(CENTER, Convention::NnUnet));
    }
    let error = evaluate(&mixed, &known(Convention::Brats123)).expect_err("nnU-Net's predictions");
    assert!(
        error.to_string().contains("predictions in") && error.to_string().contains("nnU-Net's"),
        "{error}"
    );
    let recoded =
        EvaluateOptions { prediction_convention: Some(Convention::NnUnet), ..known(Convention::Brats123) };
    let scores = evaluate(&mixed, &recoded).expect("recoded");
    let first = &scores.cases[0];
    assert_eq!(first.status, CaseStatus::Scored);
    assert_eq!(first.scores[1].regions[1].values.get("Dice"), Some(1.0), "recoded predictions are perfect");
}

#[test]
fn a_bad_case_fails_alone() {
    let folder = cohort(Convention::Brats124);
    save(&folder.path().join("pred/b.nii.gz"), vec![7; SHAPE.iter().product()]);
    let scores = evaluate(&folder, &known(Convention::Brats124)).expect("a is fine");
    assert_eq!(scores.with_status(CaseStatus::Failed), ["b"]);
    assert!(
        scores.cases[1].error.as_deref().is_some_and(|e| e.contains("holds the label 7")),
        "{:?}",
        scores.cases[1]
    );
    assert_eq!(scores.statistic(Rule::NnUnet, "(4,)", "Dice").map(|s| s.n), Some(1));

    let scaled = Affine::from_rows([[2.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]);
    let geometry = Geometry::from_affine(SHAPE, scaled).expect("regular");
    save_on(&folder.path().join("pred/b.nii.gz"), tumour(CENTER, Convention::Brats124), geometry);
    let scores = evaluate(&folder, &known(Convention::Brats124)).expect("a is fine");
    let error = scores.cases[1].error.as_deref().expect("another spacing");
    assert!(error.contains("24 x 22 x 20 voxels of 2 x 1 x 1 mm"), "{error}");

    let moved = Affine::from_rows([[1.0, 0.0, 0.0, 5.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]]);
    let geometry = Geometry::from_affine(SHAPE, moved).expect("regular");
    save_on(&folder.path().join("pred/b.nii.gz"), tumour(CENTER, Convention::Brats124), geometry);
    let scores = evaluate(&folder, &known(Convention::Brats124)).expect("both are fine");
    assert_eq!(scores.cases[1].status, CaseStatus::Scored);
    assert!(scores.cases[1].warnings[0].contains("differ in origin"), "{:?}", scores.cases[1].warnings);

    let strict = EvaluateOptions { strict: true, ..known(Convention::Brats124) };
    let strict = evaluate(&folder, &strict).expect("a is fine");
    assert_eq!(
        (strict.with_status(CaseStatus::Scored), strict.with_status(CaseStatus::Failed)),
        (vec!["a"], vec!["b"])
    );
    assert_eq!(strict.cases[1].error.as_ref(), scores.cases[1].warnings.first());
    assert_eq!(
        strict.cases[1].hint.as_deref(),
        Some("correct the files; without --strict this is a warning")
    );
    assert_eq!(strict.statistic(Rule::NnUnet, "(4,)", "Dice").map(|s| s.n), Some(1));

    std::fs::write(folder.path().join("pred/b.nii.gz"), b"no image").expect("writable");
    let scores = evaluate(&folder, &known(Convention::Brats124)).expect("a is fine");
    assert_eq!(scores.with_status(CaseStatus::Failed), ["b"]);
}

#[test]
fn folders_without_common_cases_are_refused() {
    let folder = cohort(Convention::Brats124);
    for case in ["a", "b"] {
        std::fs::remove_file(folder.path().join(format!("pred/{case}.nii.gz"))).expect("it is there");
    }
    let error = evaluate(&folder, &known(Convention::Brats124)).expect_err("only d is left");
    assert!(error.to_string().contains("the first prediction is case `d`"), "{error}");
    std::fs::remove_file(folder.path().join("pred/d.nii.gz")).expect("it is there");
    let error = evaluate(&folder, &known(Convention::Brats124)).expect_err("nothing is left");
    assert!(error.to_string().contains("holds no label map"), "{error}");
}

#[test]
fn a_large_region_of_ignored_voxels_changes_nothing_outside() {
    let mut scheme = LabelScheme::brats(Convention::Brats124);
    scheme.ignore = Some(5);
    scheme.known.push(5);
    let folder = cohort(Convention::Brats124);
    let mut reference = tumour(CENTER, Convention::Brats124);
    reference[..SHAPE[1] * SHAPE[2]].fill(5);
    save(&folder.path().join("ref/a-seg.nii.gz"), reference);
    let mut prediction = tumour(CENTER, Convention::Brats124);
    prediction[..SHAPE[1] * SHAPE[2]].fill(2);
    save(&folder.path().join("pred/a.nii.gz"), prediction);
    let options =
        EvaluateOptions { labels: LabelSource::Known(Box::new(scheme)), ..EvaluateOptions::default() };
    let scores = evaluate(&folder, &options).expect("a cohort");
    for rule in &scores.cases[0].scores {
        for (metric, best) in
            [("Dice", 1.0), ("HD95", 0.0), ("LesionWise_Score_Dice", 1.0), ("sq_dsc", 1.0), ("NSD", 1.0)]
        {
            if let Some(value) = rule.regions[0].values.get(metric) {
                assert_eq!((metric, value), (metric, best), "{:?}", rule.rule);
            }
        }
    }
}

#[test]
fn tables_are_written_and_runs_read_back() {
    let folder = cohort(Convention::Brats124);
    let out = folder.path().join("run-a");
    std::fs::create_dir(&out).expect("a folder");
    let scores = evaluate(&folder, &known(Convention::Brats124)).expect("a cohort");
    scores.write_json(&out.join("scores.json")).expect("writable");
    scores.write_cases(&out.join("cases.csv")).expect("writable");
    scores.write_statistics(&out.join("statistics.csv")).expect("writable");
    assert!(scores.write_brats2026(&out.join("seg.csv")).expect("writable"));
    assert!(scores.write_winner(&out.join("results.csv")).expect("writable"));
    let text = |name: &str| std::fs::read_to_string(out.join(name)).expect("written");
    assert_eq!(text("results.csv").lines().nth(3), Some("c,0.0000,0.0000,0.0000,373.129,373.129,373.129"));
    let cases = text("cases.csv");
    let mut lines = cases.lines();
    assert!(
        lines.next().is_some_and(|l| l.starts_with("case,status,nnunet/(1, 2, 4)/Dice,")
            || l.starts_with("case,status,\"nnunet/(1, 2, 4)/Dice\",")),
        "{cases}"
    );
    assert!(lines.next().is_some_and(|l| l.starts_with("a,scored,0.")), "{cases}");
    assert!(lines.nth(1).is_some_and(|l| l.starts_with("c,missing,,,")), "{cases}");
    let seg = text("seg.csv");
    assert!(seg.starts_with("subject_id,all_instance_tp_snfh,all_instance_fp_snfh"), "{seg}");
    assert_eq!(
        seg.lines().map(|l| l.split(',').next().unwrap_or_default()).collect::<Vec<_>>(),
        ["subject_id", "a", "b", "c", "mean", "std", "median"]
    );
    let back = CohortScores::read_json(&out.join("scores.json")).expect("our own file");
    // NaN is not equal to itself, so that the texts are compared.
    let json = |s: &CohortScores| serde_json::to_string(s).expect("plain data");
    assert_eq!(json(&back), json(&scores));

    let summary = folder.path().join("run-b/summary.json");
    std::fs::create_dir(summary.parent().expect("a parent")).expect("a folder");
    scores.nnunet_summary().expect("nnU-Net's rule").write(&summary).expect("writable");
    let runs = Run::read_all(&[out.as_path(), summary.parent().expect("a parent")]).expect("two runs");
    assert_eq!((runs[0].name.as_str(), runs[1].name.as_str()), ("run-a", "run-b"));
    assert_eq!(runs[1].cases.keys().collect::<Vec<_>>(), ["a", "b"]);
    let ranking = rank(&runs, &RankOptions::default()).expect("nnU-Net's rule is common");
    assert_eq!(ranking.rule, Rule::NnUnet);
    assert!(ranking.places.iter().all(|p| p.place == 1), "{ranking:?}");
    let compared = compare(&runs[0], &runs[1], None, &[]).expect("common cases");
    assert!(compared.cases.iter().all(|c| c.gain == 0.0));
    assert_eq!(compared.only_first, ["c"]);
    let error = Run::read(&folder.path().join("ref")).expect_err("no scores");
    assert!(error.to_string().contains("neither scores.json nor summary.json"), "{error}");
}

#[test]
fn label_maps_of_an_earlier_prediction_are_named_and_not_scored() {
    use glioseg_plan::record::{CaseRecord, Record};
    let folder = cohort(Convention::Brats123);
    let options = known(Convention::Brats123);
    let before = evaluate(&folder, &options).expect("scores");
    let scored: Vec<String> = before.with_status(CaseStatus::Scored).into_iter().map(str::to_owned).collect();
    assert!(scored.len() > 1 && before.stale.is_empty());
    let mut record: Record = serde_json::from_value(serde_json::json!({
        "program": "glioseg", "version": "0", "notice": "", "models": [], "settings": null, "cases": []
    }))
    .expect("a record");
    for case in &scored[1..] {
        let mut done = CaseRecord::failed(case.clone(), vec![], String::new(), None);
        done.status = glioseg_plan::record::CaseStatus::Done;
        record.put(done);
    }
    // The first case failed now; its file is of an earlier prediction.
    record.put(CaseRecord::failed(scored[0].clone(), vec![], "cut off".into(), None));
    record.write(&before.prediction.join("predict.json")).expect("written");
    let after = evaluate(&folder, &options).expect("scores");
    assert_eq!(after.with_status(CaseStatus::Scored), scored[1..]);
    assert!(after.stale.contains(&scored[0]), "{:?}", after.stale);
    assert!(after.with_status(CaseStatus::Missing).contains(&scored[0].as_str()));
}
