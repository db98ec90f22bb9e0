//! What a person sees on stderr: messages, errors with place and remedy, progress.
#![expect(clippy::print_stderr, reason = "this module is the one that writes to stderr")]

use std::borrow::Cow;
use std::error::Error;
use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use glioseg_diagnose::Diagnose;

use crate::commands::print;
use crate::progress::{Heartbeat, Progress};

/// Where messages go: to a terminal with a progress bar, or line by line.
#[derive(Debug)]
pub(crate) struct Ui {
    quiet: bool,
    /// Whether stdout and stderr are read by a person in one place.
    one_screen: bool,
    progress: Progress,
}

impl Ui {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let progress = match (quiet, terminal) {
            (true, _) => Progress::Quiet,
            (false, true) => Progress::terminal(),
            (false, false) => Progress::Lines(Heartbeat::new(|line| eprintln!("{}", visible(line)))),
        };
        Self { quiet, one_screen: terminal && !quiet && std::io::stdout().is_terminal(), progress }
    }

    /// Whether data and log appear on the same terminal: what the log says need not be said again as data.
    pub(crate) fn one_screen(&self) -> bool {
        self.one_screen
    }

    /// A line of the log; not with `--quiet`.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            self.progress.aside(|| eprintln!("{}", visible(line)));
        }
    }

    /// A warning; also with `--quiet`.
    pub(crate) fn warn(&self, line: &str) {
        self.progress.aside(|| eprintln!("warning: {}", visible(line)));
    }

    /// What went wrong with one case, while the others are worked on.
    pub(crate) fn fail(&self, line: &str) {
        self.progress.aside(|| eprintln!("error: {}", visible(line)));
    }

    /// An error with the file it is about and what to do, in three lines.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.progress.aside(|| eprintln!("{}", visible(&describe(error))));
    }

    /// A line of data on stdout, while the bar is out of the way.
    pub(crate) fn print(&self, line: &str) -> anyhow::Result<()> {
        self.progress.aside(|| print(line))
    }

    /// Begins with work whose end is not known.
    pub(crate) fn begin(&self, label: &str) {
        self.progress.start(visible(label).into_owned(), 0, "");
    }

    /// Begins with `total` pieces of work, called `unit`.
    pub(crate) fn start(&self, label: &str, total: usize, unit: &'static str) {
        self.progress.start(visible(label).into_owned(), total as u64, unit);
    }

    /// One piece of work is done.
    pub(crate) fn advance(&self) {
        self.progress.advance();
    }

    /// The work is done or given up.
    pub(crate) fn stop(&self) {
        self.progress.stop();
    }
}

/// The text with control characters, such as a header or a file name may hold, written out: they would act on the terminal. Ends of
/// lines and tabs, which the program's own lines have, stay.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let escaped = text.chars().map(|c| if acts(c) { c.escape_default().to_string() } else { c.to_string() });
    Cow::Owned(escaped.collect())
}

/// `error: …`, `  in: …`, `  hint: …`.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    format!("error: {}", about(error.as_ref()))
}

/// What an error says with its causes, then the place and the remedy that the first link of the chain knows which has one.
///
/// A cause that the message before it already tells is not told again, nor is a place.
pub(crate) fn about(error: &(dyn Error + 'static)) -> String {
    let (mut text, mut path, mut hint) = (String::new(), None, None);
    let mut next = Some(error);
    while let Some(link) = next {
        let message = link.to_string();
        if !text.contains(&message) {
            let _ = write!(text, "{}{message}", if text.is_empty() { "" } else { ": " });
        }
        if let Some(told) = diagnosis(link) {
            path = path.or_else(|| told.path().map(ToOwned::to_owned));
            hint = hint.or_else(|| told.hint());
        }
        next = link.source();
    }
    if let Some(path) = path.filter(|p| !text.contains(&p.display().to_string())) {
        let _ = write!(text, "\n  in: {}", path.display());
    }
    if let Some(hint) = hint {
        let _ = write!(text, "\n  hint: {hint}");
    }
    text
}

/// The errors that know a remedy; a test compares the list with the sources.
macro_rules! diagnosed {
    ($($error:ty),* $(,)?) => {
        fn diagnosis<'a>(link: &'a (dyn Error + 'static)) -> Option<&'a dyn Diagnose> {
            $(if let Some(error) = link.downcast_ref::<$error>() {
                return Some(error);
            })*
            None
        }

        #[cfg(test)]
        fn kind(link: &(dyn Error + 'static)) -> Option<&'static str> {
            $(if link.is::<$error>() {
                return Some(stringify!($error));
            })*
            None
        }

        #[cfg(test)]
        const DIAGNOSED: &[&str] = &[$(stringify!($error)),*];
    };
}

diagnosed!(
    glioseg_volume::VolumeError,
    glioseg_align::AlignError,
    glioseg_dicom::DicomError,
    glioseg_dicom::NamedSeriesError,
    glioseg_formats::FormatError,
    glioseg_interop::InteropError,
    glioseg_interop::PickleError,
    glioseg_kernels::KernelError,
    glioseg_cuda::CudaError,
    glioseg_plan::PlanError,
    glioseg_plan::matching::MatchError,
    glioseg_plan::names::NameError,
    glioseg_prep::PrepError,
    glioseg_prep::augment::AugmentError,
    glioseg_prep::store::StoreError,
    glioseg_net::NetError,
    glioseg_metrics::MetricsError,
    glioseg_report::ReportError,
    glioseg_infer::cases::CaseError,
    glioseg_workflow::crossval::CrossvalError,
    glioseg_workflow::preprocess::PreprocessError,
    glioseg_workflow::ready::ReadyError,
    glioseg_infer::ensemble::EnsembleError,
    glioseg_infer::InferError,
    glioseg_infer::output::OutputError,
    glioseg_infer::postprocess::PostprocessError,
    glioseg_infer::recipe::RecipeError,
    glioseg_train::TrainError,
    crate::problem::Problem,
);

/// `3d04h`, `1h05m`, `3m07s`, `12.4 s`.
pub(crate) fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        86400.. => format!("{}d{:02}h", s / 86400, s / 3600 % 24),
        3600.. => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        100.. => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{:.1} s", d.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::{Path, PathBuf};

    use glioseg_align::AlignError;
    use glioseg_cuda::CudaError;
    use glioseg_dicom::{DicomError, NamedSeriesError};
    use glioseg_formats::FormatError;
    use glioseg_infer::InferError;
    use glioseg_infer::cases::CaseError;
    use glioseg_infer::ensemble::EnsembleError;
    use glioseg_infer::output::OutputError;
    use glioseg_infer::postprocess::PostprocessError;
    use glioseg_infer::recipe::RecipeError;
    use glioseg_interop::{InteropError, PickleError};
    use glioseg_kernels::KernelError;
    use glioseg_metrics::MetricsError;
    use glioseg_net::NetError;
    use glioseg_plan::PlanError;
    use glioseg_plan::matching::MatchError;
    use glioseg_plan::names::NameError;
    use glioseg_prep::PrepError;
    use glioseg_prep::augment::AugmentError;
    use glioseg_prep::store::StoreError;
    use glioseg_report::ReportError;
    use glioseg_train::TrainError;
    use glioseg_volume::VolumeError;
    use glioseg_workflow::crossval::CrossvalError;
    use glioseg_workflow::preprocess::PreprocessError;
    use glioseg_workflow::ready::ReadyError;

    use super::*;
    use crate::problem::Problem;

    #[test]
    fn durations_have_two_units_at_most() {
        let told =
            [0.5, 99.0, 187.0, 3900.0, 86_399.0, 270_000.0].map(|s| duration(Duration::from_secs_f64(s)));
        assert_eq!(told, ["0.5 s", "99.0 s", "3m07s", "1h05m", "23h59m", "3d03h"]);
    }

    #[test]
    fn an_error_tells_message_place_and_hint() {
        let error = CaseError::Unreadable { reason: "no such file or folder".into(), path: "cases".into() };
        let text = describe(&anyhow::Error::new(error));
        assert_eq!(
            text,
            "error: cannot read the input: no such file or folder\n  in: cases\n  hint: check the path and its permissions"
        );
    }

    /// Every error type once, with a part of its hint.
    fn examples() -> Vec<(anyhow::Error, &'static str)> {
        let path = || PathBuf::from("some/file");
        let kernels = || KernelError::UnknownIsa { given: "foo".into() };
        let system = || io::Error::from(io::ErrorKind::StorageFull);
        let singular = || VolumeError::SingularAffine { rows: [[0.0; 4]; 3] };
        let empty = || FormatError::Empty { path: path() };
        let no_cases = || PlanError::NoCases { folder: path(), reason: "it is empty".into() };
        let spacing = || PrepError::Spacing { spacing_mm: [0.0; 3] };
        let rule = || MetricsError::UnknownRule { name: "a".into(), known: vec!["b".into()] };
        let refused = || PickleError::Refused { name: "os.system".into() };
        let twice = || CrossvalError::Twice { case: "a".into(), second: path() };
        vec![
            (singular().into(), "set a valid sform or qform"),
            (AlignError::Constant { value: 0.0 }.into(), "whether the image is the right one"),
            (
                DicomError::Damaged { path: path(), reason: "cut off".into() }.into(),
                "export or copy the file again",
            ),
            (NamedSeriesError { text: "t1c".into() }.into(), "such as t1c=8"),
            (
                FormatError::Placement { path: path(), source: singular() }.into(),
                "set a valid sform or qform",
            ),
            (FormatError::Io { path: path(), action: "write", source: system() }.into(), "the disk is full"),
            (
                InteropError::Damaged { path: path(), what: "no end".into() }.into(),
                "copy or download the file again",
            ),
            (InteropError::Pickle { path: path(), source: refused() }.into(), "numbers and text only"),
            (refused().into(), "numbers and text only"),
            (kernels().into(), "unset GLIOSEG_KERNELS_ISA"),
            (no_cases().into(), ""),
            (spacing().into(), "check the voxel size"),
            (AugmentError::NoCases.into(), "check the fold"),
            (StoreError::Format { path: path(), reason: "cut off".into() }.into(), "glioseg prep"),
            (
                StoreError::Prep { case: "a".into(), source: Box::new(spacing()) }.into(),
                "check the voxel size",
            ),
            (NetError::Spec { what: "no stage".into() }.into(), "`architecture` in plans.json"),
            (NetError::Kernels(kernels()).into(), "unset GLIOSEG_KERNELS_ISA"),
            (CudaError::NoDriver { file: "libcuda.so.1" }.into(), "install NVIDIA's driver"),
            (rule().into(), "name rules of that list"),
            (ReportError::from(rule()).into(), "name rules of that list"),
            (ReportError::from(empty()).into(), "copy or download the file again"),
            (CaseError::Unreadable { reason: "gone".into(), path: path() }.into(), "check the path"),
            (MatchError::NotAPair { text: "t1".into() }.into(), "write it like"),
            (NameError::Unset { given: "1".into(), variable: "nnUNet_raw" }.into(), "export nnUNet_raw"),
            (CaseError::from(MatchError::NotAPair { text: "t1".into() }).into(), "write it like"),
            (twice().into(), "the folds of splits_final.json"),
            (CrossvalError::from(empty()).into(), "copy or download the file again"),
            (PreprocessError::MaskForSeveral { count: 2 }.into(), "one by one"),
            (PreprocessError::from(singular()).into(), "set a valid sform or qform"),
            (ReadyError::Channels { count: 2 }.into(), "without --strict"),
            (ReadyError::from(no_cases()).into(), ""),
            (OutputError::LabelOrder.into(), "leave out --save-probabilities"),
            (EnsembleError::from(OutputError::LabelOrder).into(), "leave out --save-probabilities"),
            (PostprocessError::OutputIsInput { path: path() }.into(), "another"),
            (RecipeError::Unknown { name: "a".into(), known: vec![] }.into(), ""),
            (InferError::from(NetError::Kernels(kernels())).into(), "unset GLIOSEG_KERNELS_ISA"),
            (
                TrainError::from(InferError::from(NetError::Kernels(kernels()))).into(),
                "unset GLIOSEG_KERNELS_ISA",
            ),
            (TrainError::from(StoreError::from(no_cases())).into(), ""),
            (Problem::new("nothing to do", "see --help"), "see --help"),
        ]
    }

    #[test]
    fn every_error_shows_its_hint_and_its_cause_once_however_it_is_wrapped() {
        let wrappers: [fn(anyhow::Error) -> anyhow::Error; 3] =
            [|e| e, |e| e.context("cannot start"), |e| e.context("the model").context("case `a`")];
        let mut seen = Vec::new();
        for wrap in wrappers {
            for (error, hint) in examples() {
                let innermost = error.chain().last().expect("the error itself").to_string();
                seen.extend(kind(error.as_ref()));
                let hint = match hint {
                    "" => diagnosis(error.as_ref()).and_then(Diagnose::hint).expect("a hint"),
                    hint => hint.to_owned(),
                };
                let text = describe(&wrap(error));
                let (message, remedy) =
                    text.split_once("\n  hint: ").unwrap_or_else(|| panic!("no hint: {text}"));
                assert!(remedy.contains(&hint) && !remedy.contains("hint:"), "{text}");
                assert_eq!(message.matches(&innermost).count(), 1, "{text}");
            }
        }
        for kind in DIAGNOSED {
            assert!(seen.contains(kind), "no example of {kind}");
        }
    }

    #[test]
    fn the_list_names_every_error_of_the_sources() {
        fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()) {
                if entry.is_dir() {
                    sources(&entry, found);
                } else if entry.extension().is_some_and(|e| e == "rs") {
                    found.push(entry);
                }
            }
        }
        let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let mut files = Vec::new();
        for entry in std::fs::read_dir(crates).expect("the workspace") {
            sources(&entry.expect("a crate").path().join("src"), &mut files);
        }
        let mut errors = 0;
        for file in files {
            let text = std::fs::read_to_string(&file).expect("text");
            for line in text.lines() {
                let name = line.strip_prefix("pub enum ").and_then(|l| l.split([' ', '<']).next());
                let Some(name) = name.filter(|n| n.ends_with("Error")) else { continue };
                errors += 1;
                assert!(
                    DIAGNOSED.iter().any(|known| known.replace(' ', "").rsplit("::").next() == Some(name)),
                    "{name} of {} implements `Diagnose` and is named in the list of this file, or its hints are lost",
                    file.display()
                );
            }
        }
        assert!(errors > 15, "only {errors} found");
    }

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(visible("a\x1b[31m\u{9b}b\tc\nd\r"), "a\\u{1b}[31m\\u{9b}b\tc\nd\\r");
        assert!(matches!(visible("plain\ttext\n"), Cow::Borrowed(_)));
    }
}
