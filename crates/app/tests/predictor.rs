//! The library within a process against processes of the program, and Ctrl-C.

mod support;

use std::path::{Path, PathBuf};

use glioseg_infer::{Batch, PredictOptions, Predictor, batch};
use glioseg_plan::OutputLabels;
use support::{model, numbered, predict, write_case};

/// Every file of a folder but the record, with its bytes.
fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .expect("a folder")
        .flatten()
        .map(|e| (e.file_name().into_string().expect("a name"), e.path()))
        .filter(|(name, path)| name != "predict.json" && path.is_file())
        .map(|(name, path)| (name, std::fs::read(path).expect("readable")))
        .collect();
    files.sort();
    files
}

#[test]
fn two_predictors_in_two_threads_give_the_bytes_of_two_processes() {
    let dir = tempfile::tempdir().expect("a folder");
    let input = dir.path().join("in");
    std::fs::create_dir(&input).expect("a folder");
    for (case, seed) in [("a", 3), ("b", 5)] {
        write_case(&numbered(&input, case), seed);
    }
    let out = |name: &str| dir.path().join(name);
    let base = PredictOptions { mirroring: false, save_probabilities: true, ..PredictOptions::default() };
    let runs: [(&str, &[&str], PredictOptions); 2] = [
        ("one", &["--save-probabilities"], base.clone()),
        (
            "two",
            &["--save-probabilities", "--step", "0.3", "--labels", "brats"],
            PredictOptions { step: 0.3, labels: OutputLabels::Brats, ..base },
        ),
    ];
    for (name, more, _) in &runs {
        let (code, _, stderr) = predict(&input, &out(&format!("process-{name}")), more);
        assert_eq!(code, 0, "{stderr}");
    }
    let inputs: [PathBuf; 1] = [input];
    std::thread::scope(|scope| {
        for (name, _, options) in runs.clone() {
            let (inputs, out) = (&inputs, out(&format!("thread-{name}")));
            scope.spawn(move || {
                let predictor = Predictor::open(&[model()], options).expect("a model");
                let summary = batch(&predictor, &Batch::new(inputs, &out), &|_| {}).expect("a batch");
                assert_eq!((summary.done, summary.failed), (2, 0));
            });
        }
    });
    for (name, ..) in runs {
        let [thread, process] = ["thread", "process"].map(|kind| files(&out(&format!("{kind}-{name}"))));
        assert_eq!(
            thread.len(),
            8,
            "labels, probabilities and properties of two cases, dataset.json, plans.json"
        );
        for ((name, ours), (other, theirs)) in thread.iter().zip(&process) {
            assert_eq!(name, other);
            assert!(ours == theirs, "{name} differs");
        }
    }
}

#[cfg(unix)]
mod ctrl_c {
    use std::io::{BufRead as _, BufReader};
    use std::process::{Child, Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;
    use glioseg_formats::nifti;
    use glioseg_volume::Volume;
    use glioseg_volume::phantom::{PhantomOptions, phantom};
    use support::{glioseg, record, run};

    fn press(child: &Child) {
        let pid = child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    }

    /// Reads lines of stderr up to one that starts so; all lines so far.
    fn until(lines: &mut impl Iterator<Item = std::io::Result<String>>, start: &str) -> String {
        let mut seen = String::new();
        for line in lines.by_ref() {
            let line = line.expect("utf-8");
            seen += &line;
            seen.push('\n');
            if line.starts_with(start) {
                return seen;
            }
        }
        panic!("no line starts with `{start}`:\n{seen}");
    }

    fn start(arguments: &[&str]) -> Child {
        glioseg(arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("the program starts")
    }

    fn text(path: &Path) -> String {
        path.display().to_string()
    }

    #[test]
    fn predict_ends_with_a_whole_record_and_says_how_to_resume() {
        let dir = tempfile::tempdir().expect("a folder");
        let (input, out) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&input).expect("a folder");
        for (i, case) in ["a", "b", "c"].iter().enumerate() {
            write_case(&numbered(&input, case), i as u64);
        }
        let (m, i, o) = (text(&model()), text(&input), text(&out));
        // Tiles at small steps, so that a case takes a while.
        let arguments = ["predict", "-m", &m, "-i", &i, "-o", &o, "--step", "0.1"];
        let mut child = start(&arguments);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        until(&mut lines, "case 1/3 a | ");
        press(&child);
        let rest: Vec<String> = lines.map(|l| l.expect("utf-8")).collect();
        assert_eq!(child.wait().expect("it ends").code(), Some(1), "{rest:?}");
        assert!(rest.iter().any(|l| l == "1 of 3 done; resume with --continue"), "{rest:?}");
        assert!(rest.iter().any(|l| l.starts_with("stopping before the next tile")), "{rest:?}");
        let names: Vec<String> = super::files(&out).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["a.nii.gz", "dataset.json"], "no label map of another case, no temporary file");
        let cases = record(&out)["cases"].as_array().expect("a whole record").clone();
        assert_eq!(cases.iter().map(|c| c["case"].as_str()).collect::<Vec<_>>(), [Some("a")]);
        let stopped: Vec<&str> = arguments.into_iter().chain(["--continue"]).collect();
        let (code, _, stderr) = run(&stopped);
        assert_eq!(code, 0, "{stderr}");
        assert!(stderr.contains("2 done, 0 failed, 1 skipped"), "{stderr}");
        assert_eq!(record(&out)["cases"].as_array().map(Vec::len), Some(3));
        nifti::read_labels(&out.join("c.nii.gz")).expect("a label map");
    }

    #[test]
    fn the_second_one_ends_the_program_at_once() {
        let dir = tempfile::tempdir().expect("a folder");
        let (input, out) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::create_dir(&input).expect("a folder");
        // The first is a request, which is heard when the case is read; a large one gives time for the second.
        let large = PhantomOptions { shape: [128; 3], spacing_mm: [1.5; 3], ..PhantomOptions::default() };
        let image = phantom(&large).expect("a phantom").channels;
        for (c, path) in numbered(&input, "a").iter().enumerate() {
            let channel =
                Volume::new(1, image.channel(c).to_vec(), image.geometry.clone()).expect("a channel");
            nifti::write_volume(path, &channel).expect("written");
        }
        let (m, i, o) = (text(&model()), text(&input), text(&out));
        // On a busy machine the program may have stopped, with 1, before the second comes.
        let code =
            (0..10).map(|_| end_by_pressing(&["predict", "-m", &m, "-i", &i, "-o", &o])).find(|&c| c != 1);
        assert_eq!(code, Some(130));
        assert!(!out.join("a.nii.gz").exists());
    }

    /// The exit code of a program whose user presses Ctrl-C again and again.
    fn end_by_pressing(arguments: &[&str]) -> i32 {
        let mut child = start(arguments);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        until(&mut lines, "1 case ");
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child") {
                return status.code().expect("it ends by itself");
            }
            assert!(begun.elapsed() < Duration::from_mins(1), "it does not end");
            press(&child);
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn prep_keeps_the_finished_cases_and_says_how_to_resume() {
        let dir = tempfile::tempdir().expect("a folder");
        let (dataset, out) = (dir.path().join("Dataset001_P"), dir.path().join("pre"));
        let (d, o) = (text(&dataset), text(&out));
        let (code, _, log) = run(&["phantom", "--cases", "12", "--size", "40", "--out", &d]);
        assert_eq!(code, 0, "{log}");
        let (code, _, log) = run(&["plan", &d, "-o", &o]);
        assert_eq!(code, 0, "{log}");
        let arguments = ["prep", &d, "-o", &o, "--threads", "1"];
        let mut child = start(&arguments);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        until(&mut lines, "case 1/12 ");
        press(&child);
        let rest: Vec<String> = lines.map(|l| l.expect("utf-8")).collect();
        assert_eq!(child.wait().expect("it ends").code(), Some(1), "{rest:?}");
        let told = rest.iter().find_map(|l| {
            l.strip_suffix(" of 12 done; resume with the same command: finished cases are kept")
        });
        let done: usize = told.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("{rest:?}"));
        assert!((1..12).contains(&done), "{rest:?}");
        let folder = out.join("nnUNetPlans_3d_fullres");
        assert_eq!(super::files(&folder).len(), done, "nothing but finished cases");
        let (code, stdout, stderr) = run(&arguments);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains(&format!("{} prepared, {done} kept", 12 - done)), "{stdout}");
    }
}
