//! `glioseg report`, `view` and `predict --uncertainty`, as a user runs them.

mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Stdio};

use base64::Engine as _;
use glioseg_formats::nifti;
use support::{glioseg, numbered, predict, record, run, write_case};

/// A server that ends with the test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Serves a folder; the second value is the address.
fn serve(folder: &Path) -> (Served, String) {
    let folder = folder.display().to_string();
    let mut child = glioseg(&["view", &folder, "--port", "0", "-q"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("an address");
    let address = line.trim().strip_prefix("http://").and_then(|l| l.split('/').next()).expect("an address");
    (Served(child), address.to_owned())
}

/// What a block of a report holds.
fn block(report: &str, id: &str) -> serde_json::Value {
    let head = format!("id=\"{id}\">");
    let start = report.find(&head).expect("the block") + head.len();
    let packed = report[start..].split('<').next().expect("its text");
    let bytes = base64::engine::general_purpose::STANDARD.decode(packed).expect("base64");
    serde_json::from_reader(flate2::read::GzDecoder::new(&bytes[..])).expect("JSON")
}

/// Head and body of an answer.
fn ask(address: &str, request: &str) -> (String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.write_all(request.replace("HOST", address).as_bytes()).expect("written");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer");
    let end = answer.windows(4).position(|w| w == b"\r\n\r\n").expect("a head");
    (String::from_utf8_lossy(&answer[..end]).into_owned(), answer[end + 4..].to_vec())
}

#[test]
fn slow_clients_do_not_stop_the_others() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("a.txt"), "here").expect("written");
    // Larger than what the system keeps of an answer that nobody reads.
    std::fs::write(dir.path().join("big.nii"), vec![7; 32 << 20]).expect("written");
    let (_server, address) = serve(dir.path());
    let mut slow = Vec::new();
    for i in 0..200 {
        let request = match i % 4 {
            0 => "POST /a.txt HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1000000\r\n\r\nabc",
            1 => "GET /a.txt HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1000000\r\n\r\nabc",
            2 => "GET /big.nii HTTP/1.1\r\nHost: HOST\r\n\r\n",
            _ => "GET /a.txt HTTP/1.1\r\nHo",
        };
        let mut stream = TcpStream::connect(&address).expect("it listens");
        stream.write_all(request.replace("HOST", &address).as_bytes()).expect("written");
        slow.push(stream);
    }
    let get = |path: &str| {
        ask(&address, &format!("GET {path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n"))
    };
    let (head, body) = get("/a.txt");
    assert!(head.starts_with("HTTP/1.1 200") && body == b"here", "{head}");
    let (head, body) = get("/big.nii");
    assert!(head.contains("Content-Length: 33554432"), "{head}");
    assert!(body.len() == 32 << 20 && body.iter().all(|&b| b == 7), "the file, whole");
    // Whoever was slow gets the rest all the same.
    let mut half = slow.swap_remove(3);
    half.write_all(format!("st: {address}\r\nConnection: close\r\n\r\n").as_bytes()).expect("in time");
    let mut answer = String::new();
    half.read_to_string(&mut answer).expect("an answer");
    assert!(answer.ends_with("here"), "{answer}");
}

#[test]
fn only_what_reports_consist_of_is_served() {
    let dir = tempfile::tempdir().expect("a folder");
    let inside = dir.path().join("inside");
    std::fs::create_dir_all(inside.join(".git")).expect("a folder");
    for (name, text) in [
        ("inside/a.nii.gz", "0123456789"),
        ("inside/.git/x.txt", "no"),
        ("inside/key", "no"),
        ("secret.txt", "no"),
    ] {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    let (_server, address) = serve(&inside);
    let get = |path: &str, more: &str| {
        ask(&address, &format!("GET {path} HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n{more}\r\n"))
    };
    let (head, body) = get("/a.nii.gz", "");
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("Content-Length: 10"), "{head}");
    assert_eq!(body, b"0123456789");
    let (head, body) = get("/a.nii.gz", "Range: bytes=2-4\r\n");
    assert!(head.starts_with("HTTP/1.1 206") && head.contains("Content-Range: bytes 2-4/10"), "{head}");
    assert_eq!(body, b"234");
    let (head, body) = get("/", "");
    let page = String::from_utf8_lossy(&body);
    assert!(
        head.starts_with("HTTP/1.1 200") && page.contains("a.nii.gz") && !page.contains(".git"),
        "{page}"
    );
    for path in ["/../secret.txt", "/%2e%2e/secret.txt", "/.git/x.txt", "/key", "/none.html"] {
        assert!(get(path, "").0.starts_with("HTTP/1.1 404"), "{path}");
    }
    let foreign = "GET /a.nii.gz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(ask(&address, foreign).0.starts_with("HTTP/1.1 421"), "another name");
    let write = "PUT /a.nii.gz HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    assert!(ask(&address, write).0.starts_with("HTTP/1.1 405"), "nothing is written");
    let (code, _, stderr) = run(&["view", "/no/such/folder"]);
    assert!(code == 2 && stderr.contains("cannot open") && stderr.contains("hint: "), "{stderr}");
}

#[test]
fn uncertainty_flags_and_report_come_with_a_prediction() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&input).expect("a folder");
    write_case(&numbered(&input, "one"), 3);
    let (code, _, stderr) = predict(&input, &out, &["--uncertainty", "--save-probabilities", "--report"]);
    assert_eq!(code, 0, "{stderr}");
    let labels = nifti::read_labels(&out.join("one.nii.gz")).expect("labels");
    let maps = ["entropy", "disagreement"].map(|name| {
        let path = out.join(format!("uncertainty/one_{name}.nii.gz"));
        let map = nifti::read_volume(&path).expect("a map");
        assert_eq!(
            (map.channels, &map.geometry),
            (3, &labels.geometry),
            "a channel per region on the image's grid"
        );
        map
    });
    assert!(maps[0].data.iter().all(|v| (0.0..=1.0).contains(v)), "bits");
    assert!(maps[1].data.iter().all(|v| (0.0..=0.5).contains(v)), "a standard deviation of probabilities");
    assert!(maps.iter().flat_map(|m| &m.data).all(|v| (v * 1024.0).fract() == 0.0), "small files");
    // Sure in the middle of the tumour, unsure at its edge.
    let edge = maps[0].channel(0).iter().copied().fold(0.0, f32::max);
    assert!(edge > 0.5, "{edge}");
    let case = &record(&out)["cases"][0];
    let score = case["uncertainty"]["score"].as_f64().expect("a score");
    assert!(score > 0.0 && score < 1.0, "{score}");
    assert_eq!(case["uncertainty"]["regions"][0]["region"], "whole tumor");
    assert_eq!(case["uncertainty"]["regions"][0]["labels"], serde_json::json!([1, 2, 3]));
    assert_eq!(case["uncertainty"]["entropy"], "uncertainty/one_entropy.nii.gz");
    let report = std::fs::read_to_string(out.join("report.html")).expect("a report");
    assert!(report.contains("id=\"case-0\"") && report.contains("not a medical device"));
    let shown = block(&report, "case-0");
    assert_eq!(
        shown["maps"],
        serde_json::json!([[
            ["entropy", "uncertainty/one_entropy.nii.gz"],
            ["disagreement", "uncertainty/one_disagreement.nii.gz"]
        ]]),
        "the viewer offers the maps"
    );
    // Maps of uncertainty are no label maps: the folder is scored as before, and says how well they tell the Dice.
    let (reference, scores) = (dir.path().join("ref"), dir.path().join("scores"));
    std::fs::create_dir(&reference).expect("a folder");
    nifti::write_labels(&reference.join("one.nii.gz"), &labels).expect("written");
    let model = support::model().join("dataset.json").display().to_string();
    let [reference, out, scores] = [&reference, &out, &scores].map(|p| p.display().to_string());
    let (code, stdout, stderr) =
        run(&["evaluate", "--ref", &reference, "--pred", &out, "--dataset", &model, "-o", &scores]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains("how well the predictions' uncertainty tells the Dice"), "{stdout}");
    // Nor are the saved probabilities: they are compared with the reference, and the report shows how well calibrated they are.
    assert!(
        stdout.contains("calibration of the saved probabilities (cases: 1; voxels up to 10 mm"),
        "{stdout}"
    );
    assert!(Path::new(&scores).join("calibration.csv").is_file());
    let evaluate =
        ["evaluate", "--ref", &reference, "--pred", &out, "--dataset", &model, "-o", &scores, "--json"];
    let (_, lines, _) = run(&evaluate);
    let lines = lines.lines().map(|l| serde_json::from_str(l).expect("JSON"));
    let lines: Vec<serde_json::Value> = lines.collect();
    for key in ["calibration", "uncertainty"] {
        let found = lines.iter().filter(|l| l[key]["region"].is_string()).count();
        assert!(found >= 3, "{key}: {found} regions");
    }
    let page = dir.path().join("report.html");
    let (code, _, stderr) = run(&["report", "--scores", &scores, "-o", &page.display().to_string()]);
    assert_eq!(code, 0, "{stderr}");
    let text = std::fs::read_to_string(&page).expect("a report");
    let found = &block(&text, "overview")["runs"][0]["calibration"];
    // The reference is the prediction itself: probabilities above one half are all true.
    let error = found["regions"][0]["ece"].as_f64().expect("an error");
    assert!((0.0..0.1).contains(&error) && found["regions"][0]["bins"][14]["voxels"] != 0, "{found}");
    // Damaged probabilities cost their case its calibration and nothing else, and cannot be averaged.
    let npz = Path::new(&out).join("one.npz");
    let bytes = std::fs::read(&npz).expect("probabilities");
    let ensembled = dir.path().join("ensembled").display().to_string();
    let spoilt = [
        (bytes[..bytes.len() / 2].to_vec(), "it is not an npz", "is it cut off?"),
        (array_of_nan([3, 44, 42, 40]), "values that are NaN or infinite", "predict the case again"),
    ];
    for (bytes, message, hint) in spoilt {
        std::fs::write(&npz, &bytes).expect("written");
        let (code, stdout, stderr) =
            run(&["evaluate", "--ref", &reference, "--pred", &out, "--dataset", &model, "-o", &scores]);
        assert_eq!(code, 1, "{stderr}");
        assert!(stderr.contains("case `one` is left out of the calibration: "), "{stderr}");
        assert!(stderr.contains(message) && stderr.contains(hint), "{stderr}");
        assert!(stdout.contains("brats2021") && !stdout.contains("calibration"), "{stdout}");
        let (code, _, stderr) = run(&["ensemble", "-i", &out, "-o", &ensembled]);
        assert!(code == 1 && stderr.contains(message) && stderr.contains(hint), "{stderr}");
    }
}

/// An npz as nnU-Net saves probabilities, which are none.
fn array_of_nan(shape: [usize; 4]) -> Vec<u8> {
    let [c, z, y, x] = shape;
    let mut head =
        format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({c}, {z}, {y}, {x}), }}").into_bytes();
    head.resize(117, b' ');
    head.push(b'\n');
    let mut npy = b"\x93NUMPY\x01\x00\x76\x00".to_vec();
    npy.extend(head);
    npy.extend(f32::NAN.to_le_bytes().repeat(shape.iter().product()));
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    zip.start_file("probabilities.npy", zip::write::SimpleFileOptions::default()).expect("an entry");
    zip.write_all(&npy).expect("memory");
    zip.finish().expect("an archive").into_inner()
}

#[test]
fn a_case_without_tumour_or_far_from_training_is_flagged() {
    let dir = tempfile::tempdir().expect("a folder");
    let (input, out) = (dir.path().join("in"), dir.path().join("out"));
    std::fs::create_dir(&input).expect("a folder");
    let files = numbered(&input, "one");
    write_case(&files, 3);
    for file in &files {
        let mut volume = nifti::read_volume(file).expect("an image");
        // Intensities of another unit, and nothing to be seen.
        volume
            .data
            .iter_mut()
            .filter(|v| **v != 0.0)
            .enumerate()
            .for_each(|(i, v)| *v = 1e6 + (i % 7) as f32);
        nifti::write_volume(file, &volume).expect("written");
    }
    let (code, _, stderr) = predict(&input, &out, &[]);
    assert_eq!(code, 0, "{stderr}");
    let found = record(&out)["cases"][0]["flags"].clone();
    let kinds: Vec<&str> =
        found.as_array().expect("flags").iter().filter_map(|f| f["kind"].as_str()).collect();
    assert!(kinds.contains(&"unlike-training"), "{found}");
    assert!(found.to_string().contains("median intensity of"), "{found}");
    assert!(stderr.contains("median intensity of"), "flags are told: {stderr}");
}

#[test]
fn a_report_of_nothing_says_what_to_give() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().display().to_string();
    let (code, _, stderr) = run(&["report"]);
    assert!(code == 2 && stderr.contains("nothing to report") && stderr.contains("hint: "), "{stderr}");
    let (code, _, stderr) = run(&["report", "--scores", &folder]);
    assert!(code == 2 && stderr.contains("neither scores.json nor summary.json"), "{stderr}");
    let (code, _, stderr) = run(&["report", "--pred", &folder]);
    assert!(code == 2 && stderr.contains("holds no label map"), "{stderr}");
}

#[test]
#[cfg_attr(not(real_cases), ignore = "needs two real cases, see CONTRIBUTING.md")]
fn five_algorithms_on_real_cases_are_scored_ranked_and_reported() {
    let real = glioseg_volume::testing::shared_data("real");
    let dir = tempfile::tempdir().expect("a folder");
    let real = real.display().to_string();
    let algorithms = ["hnfnetv1", "isen", "sanet0", "scan", "yixinmpl"];
    let scores: Vec<String> = algorithms.iter().map(|a| dir.path().join(a).display().to_string()).collect();
    for (algorithm, out) in algorithms.iter().zip(&scores) {
        let suffix = format!("_algo-{algorithm}-20");
        let (code, _, stderr) = run(&[
            "evaluate",
            "--ref",
            &real,
            "--ref-suffix",
            "_seg",
            "--pred",
            &real,
            "--pred-suffix",
            &suffix,
            "--labels",
            "1-2-4",
            "--rules",
            "brats2021,nnunet",
            "-o",
            out,
        ]);
        assert_eq!(code, 0, "{stderr}");
    }
    let runs: Vec<&str> = scores.iter().map(String::as_str).collect();
    let (code, stdout, stderr) = run(&[vec!["rank"], runs.clone()].concat());
    assert_eq!(code, 0, "{stderr}");
    assert!(algorithms.iter().all(|a| stdout.contains(a)), "{stdout}");
    let report = dir.path().join("report.html").display().to_string();
    let arguments = [vec!["report", "-o", &report, "--images", &real, "--scores"], runs].concat();
    let (code, _, stderr) = run(&arguments);
    assert_eq!(code, 0, "{stderr}");
    assert!(stderr.contains("2 cases in") && !stderr.contains("another grid"), "{stderr}");
}
