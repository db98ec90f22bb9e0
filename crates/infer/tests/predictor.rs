//! A predictor in memory gives what the files hold, and a stop leaves nothing behind.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use glioseg_diagnose::Diagnose as _;
use glioseg_formats::nifti;
use glioseg_infer::{Batch, CaseImages, Event, InferError, PredictOptions, Predictor, Watch, batch};
use glioseg_plan::OutputLabels;
use glioseg_plan::record::{CaseStatus, Record};
use glioseg_volume::Volume;
use glioseg_volume::phantom::{PhantomOptions, phantom};

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/phantom-model")
}

fn predictor(options: PredictOptions) -> Predictor {
    Predictor::open(&[model()], options).expect("the model that comes along")
}

fn quick() -> PredictOptions {
    PredictOptions { mirroring: false, ..PredictOptions::default() }
}

/// A phantom of 44 x 42 x 40 voxels of 4 mm.
fn head(seed: u64) -> Volume {
    let options =
        PhantomOptions { shape: [44, 42, 40], spacing_mm: [4.0; 3], seed, ..PhantomOptions::default() };
    phantom(&options).expect("a phantom").channels
}

fn write_case(folder: &Path, case: &str, image: &Volume) {
    for c in 0..image.channels {
        let channel = Volume::new(1, image.channel(c).to_vec(), image.geometry.clone()).expect("a channel");
        nifti::write_volume(&folder.join(format!("{case}_{c:04}.nii.gz")), &channel).expect("written");
    }
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries.map(|e| e.file_name().into_string().expect("a name")).collect()
}

fn record(folder: &Path) -> Record {
    Record::read(folder).expect("a whole record").expect("a record")
}

#[test]
fn a_case_in_memory_gives_the_bytes_of_the_same_case_in_files() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&input).expect("a folder");
    let image = head(3);
    write_case(&input, "one", &image);
    let options = PredictOptions {
        save_probabilities: true,
        uncertainty: true,
        labels: OutputLabels::Brats2023,
        ..quick()
    };
    let predictor = predictor(options);
    let inputs = [input];
    let summary = batch(&predictor, &Batch::new(&inputs, &out), &|_| {}).expect("a batch");
    assert_eq!((summary.done, summary.failed), (1, 0));
    let found = predictor.predict(CaseImages::new("one", image), &Watch::default()).expect("a prediction");

    let again = dir.path().join("again.nii.gz");
    let same = |volume: &str| {
        let (ours, theirs) = (std::fs::read(&again), std::fs::read(out.join(volume)));
        assert!(ours.expect("written") == theirs.expect("written"), "{volume} differs");
    };
    nifti::write_labels(&again, &found.labels).expect("written");
    same("one.nii.gz");
    let maps = found.uncertainty.expect("maps");
    for (name, map) in [("entropy", maps.entropy()), ("disagreement", maps.disagreement())] {
        nifti::write_volume(&again, &map).expect("written");
        same(&format!("uncertainty/one_{name}.nii.gz"));
    }
    let mut zip =
        zip::ZipArchive::new(std::fs::File::open(out.join("one.npz")).expect("an npz")).expect("a zip");
    let entry = zip.by_name("probabilities.npy").expect("the array");
    let saved: Vec<f32> = npyz::NpyFile::new(entry).expect("an npy").into_vec().expect("f32");
    let probabilities = found.probabilities.expect("probabilities");
    let whole: Vec<f32> = (0..probabilities.outputs()).flat_map(|o| probabilities.channel(o)).collect();
    assert!(whole.iter().map(|v| v.to_bits()).eq(saved.iter().map(|v| v.to_bits())), "probabilities differ");

    let (ours, mut theirs) = (found.record, record(&out).cases.remove(0));
    assert_eq!(ours.volume_ml, theirs.volume_ml);
    assert_eq!(ours.flags, theirs.flags);
    let (scores, written) = (ours.uncertainty.expect("scores"), theirs.uncertainty.take().expect("scores"));
    assert_eq!((scores.score, scores.regions), (written.score, written.regions));
    assert_eq!(written.entropy.as_deref(), Some(Path::new("uncertainty/one_entropy.nii.gz")));
}

#[test]
fn what_is_wrong_with_a_case_in_memory_is_told_by_its_name() {
    let predictor = predictor(PredictOptions { strict: true, ..quick() });
    let refused = |image: Volume| {
        predictor.predict(CaseImages::new("mine", image), &Watch::default()).expect_err("refused").to_string()
    };
    let good = head(3);
    let two = Volume::new(2, good.data[..2 * good.geometry.voxels()].to_vec(), good.geometry.clone());
    let text = refused(two.expect("two channels"));
    assert!(text.starts_with("the case has 2 channels, the model expects 4: t1, t1ce"), "{text}");
    let mut nan = good.clone();
    nan.data[7] = f32::NAN;
    let text = refused(nan);
    assert!(text.contains("mine holds 1 voxels of"), "{text}");
    let mut twice = good.clone();
    let voxels = good.geometry.voxels();
    twice.data.copy_within(..voxels, voxels);
    let text = refused(twice);
    assert_eq!(text, "the channels `t1` and `t1ce` are the same image (correlation 1)");
    assert!(matches!(Predictor::open(&[], quick()), Err(InferError::NoModels)));
}

#[test]
fn a_stop_within_a_tile_leaves_nothing_behind_and_the_rest_can_be_done_later() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out, whole) = (dir.path().join("in"), dir.path().join("out"), dir.path().join("whole"));
    std::fs::create_dir(&input).expect("a folder");
    for (case, seed) in [("a", 1), ("b", 2), ("c", 3)] {
        write_case(&input, case, &head(seed));
    }
    let predictor = predictor(PredictOptions { save_probabilities: true, ..quick() });
    let inputs = [input];
    // In the time of the first tile of all, and of the third tile of the second case.
    for (case, tile, done) in [("a", 0, &[][..]), ("b", 2, &["a"][..])] {
        let (stop, at) = (AtomicBool::new(false), Mutex::new((String::new(), 0)));
        let observer = |event: Event<'_>| {
            let mut at = at.lock().expect("no panic");
            match event {
                Event::Case { case, .. } => *at = (case.to_owned(), 0),
                Event::Pass => at.1 += 1,
                _ => return,
            }
            if *at == (case.to_owned(), tile) {
                stop.store(true, Ordering::SeqCst);
            }
        };
        let job = Batch { stop: Some(&stop), ..Batch::new(&inputs, &out) };
        let summary = batch(&predictor, &job, &observer).expect("it ends in good order");
        assert_eq!((summary.done, summary.failed, summary.left), (done.len(), 0, 3 - done.len()), "{case}");
        assert_eq!(*at.lock().expect("no panic"), (case.to_owned(), tile), "no further tile was started");
        let files = ["dataset.json", "plans.json", "predict.json"];
        let mut expected: BTreeSet<String> = files.map(str::to_owned).into();
        expected
            .extend(done.iter().flat_map(|c| ["nii.gz", "npz", "pkl"].map(|ending| format!("{c}.{ending}"))));
        assert_eq!(names(&out), expected);
        let record = record(&out);
        let told: Vec<(&str, CaseStatus)> =
            record.cases.iter().map(|c| (c.case.as_str(), c.status)).collect();
        assert_eq!(told, done.iter().map(|c| (*c, CaseStatus::Done)).collect::<Vec<_>>());
    }
    let rest = Batch { skip_finished: true, ..Batch::new(&inputs, &out) };
    let summary = batch(&predictor, &rest, &|_| {}).expect("the rest");
    assert_eq!((summary.done, summary.skipped, summary.left), (2, 1, 0));
    assert_eq!(record(&out).cases.len(), 3);
    batch(&predictor, &Batch::new(&inputs, &whole), &|_| {}).expect("all at once");
    for name in names(&whole).into_iter().filter(|n| n != "predict.json") {
        let [ours, theirs] = [&out, &whole].map(|f| std::fs::read(f.join(&name)).expect("a file"));
        assert!(ours == theirs, "{name} differs");
    }
}

#[test]
fn mirror_axes_that_do_not_exist_matter_only_where_tiles_are_mirrored() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("model");
    glioseg_infer::convert::convert(&model(), &path, &mut |_| {}).expect("the model in our form");
    let checkpoint = path.join("fold_0/checkpoint_final.safetensors");
    let mut bytes = std::fs::read(&checkpoint).expect("a checkpoint");
    let axes = b"[0,1,2]";
    let at = bytes.windows(axes.len()).position(|w| w == axes).expect("the axes");
    bytes[at..at + axes.len()].copy_from_slice(b"[0,1,7]");
    std::fs::write(&checkpoint, bytes).expect("written");

    let error =
        Predictor::open(std::slice::from_ref(&path), PredictOptions::default()).expect_err("no axis 7");
    assert!(error.to_string().contains("0, 1, 7"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--no-mirroring")), "{:?}", error.hint());
    Predictor::open(&[path], quick()).expect("nothing is mirrored");
}
