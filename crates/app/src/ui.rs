//! What a person sees on stderr: messages, errors with place and remedy, progress.
#![expect(clippy::print_stderr, reason = "this module is the one that writes to stderr")]

use std::fmt::Write as _;
use std::io::IsTerminal;
use std::time::Duration;

use glioseg_engine::cases::CaseError;
use glioseg_engine::infer::InferError;
use glioseg_engine::train::TrainError;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Where messages go: to a terminal with a progress bar, or line by line.
#[derive(Debug)]
pub(crate) struct Ui {
    quiet: bool,
    bar: ProgressBar,
}

impl Ui {
    pub(crate) fn new(quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal() && !quiet;
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Self { quiet, bar: ProgressBar::with_draw_target(None, target) }
    }

    /// A line of the log; not with `--quiet`.
    pub(crate) fn say(&self, line: &str) {
        if !self.quiet {
            self.bar.suspend(|| eprintln!("{line}"));
        }
    }

    /// A warning; also with `--quiet`.
    pub(crate) fn warn(&self, line: &str) {
        self.bar.suspend(|| eprintln!("warning: {line}"));
    }

    /// An error with the file it is about and what to do, in three lines.
    pub(crate) fn error(&self, error: &anyhow::Error) {
        self.bar.suspend(|| eprintln!("{}", describe(error)));
    }

    /// Shows a bar of `total` network passes for a case.
    pub(crate) fn start(&self, label: String, total: u64) {
        self.start_unit(label, total, "passes");
    }

    /// Shows a bar of `total` pieces of work.
    pub(crate) fn start_unit(&self, label: String, total: u64, unit: &str) {
        let template =
            format!("{{msg}} [{{bar:30}}] {{pos}}/{{len}} {unit}, {{elapsed}} elapsed, {{eta}} left");
        let style = ProgressStyle::with_template(&template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("=> ");
        self.bar.set_style(style);
        self.bar.reset();
        self.bar.set_length(total);
        self.bar.set_message(label);
    }

    pub(crate) fn advance(&self) {
        self.bar.inc(1);
    }

    pub(crate) fn stop(&self) {
        self.bar.finish_and_clear();
    }
}

/// `error: …`, `  in: …`, `  hint: …`.
pub(crate) fn describe(error: &anyhow::Error) -> String {
    let message: Vec<String> = error.chain().map(ToString::to_string).collect();
    let mut text = format!("error: {}", message.join(": "));
    let (path, hint) = if let Some(e) = error.downcast_ref::<InferError>() {
        (e.path().map(ToOwned::to_owned), e.hint())
    } else if let Some(e) = error.downcast_ref::<TrainError>() {
        (e.path().map(ToOwned::to_owned), e.hint())
    } else if let Some(e) = error.downcast_ref::<CaseError>() {
        (e.path().map(ToOwned::to_owned), e.hint())
    } else if let Some(e) = error.downcast_ref::<crate::commands::Problem>() {
        (None, Some(e.hint.clone()))
    } else {
        (None, None)
    };
    if let Some(path) = path.filter(|p| !text.contains(&p.display().to_string())) {
        let _ = write!(text, "\n  in: {}", path.display());
    }
    if let Some(hint) = hint {
        let _ = write!(text, "\n  hint: {hint}");
    }
    text
}

/// `1h05m`, `3m07s`, `12.4 s`.
pub(crate) fn duration(d: Duration) -> String {
    let s = d.as_secs();
    match s {
        3600.. => format!("{}h{:02}m", s / 3600, s / 60 % 60),
        100.. => format!("{}m{:02}s", s / 60, s % 60),
        _ => format!("{:.1} s", d.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_message_place_and_hint() {
        let error = CaseError::Unreadable { reason: "no such file or folder".into(), path: "cases".into() };
        let text = describe(&anyhow::Error::new(error));
        assert_eq!(
            text,
            "error: cannot read the input: no such file or folder\n  in: cases\n  hint: check the path and its permissions"
        );
    }

    #[test]
    fn durations_read_like_a_clock() {
        let seconds = |s| duration(Duration::from_secs(s));
        assert_eq!([seconds(12), seconds(187), seconds(3900)], ["12.0 s", "3m07s", "1h05m"]);
    }
}
