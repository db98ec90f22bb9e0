//! How far the work is: a bar on a terminal, a line every half minute elsewhere.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};

use crate::ui::duration;

/// Longest silence where there is no terminal.
const SILENCE: Duration = Duration::from_secs(25);
/// Columns of the counts and times next to the label, with room for large numbers.
const COUNTS: usize = 48;
/// Columns of a bar that says something.
const BAR: usize = 10;

/// Shows how far the work is, one piece of work at a time.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Shows nothing.
    Quiet,
    /// Draws a bar.
    Bar(ProgressBar),
    /// Writes a line when nothing was written for a while.
    Lines(Heartbeat),
}

impl Progress {
    pub(crate) fn terminal() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        Self::Bar(bar.with_finish(ProgressFinish::AndClear))
    }

    /// Begins with `total` pieces of work, called `unit`; 0 is a number that is not known.
    pub(crate) fn start(&self, label: String, total: u64, unit: &'static str) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => {
                bar.set_style(style(&label, total, unit, columns()));
                bar.reset();
                bar.set_length(total);
                bar.set_message(label);
                bar.enable_steady_tick(Duration::from_secs(1));
            }
            Self::Lines(beat) => beat.lock().work = Some(Work::new(label, total, unit)),
        }
    }

    /// One piece of work is done.
    pub(crate) fn advance(&self) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => bar.inc(1),
            Self::Lines(beat) => {
                if let Some(work) = &mut beat.lock().work {
                    work.done += 1;
                }
            }
        }
    }

    /// The work is done or given up; nothing of it stays on a terminal.
    pub(crate) fn stop(&self) {
        match self {
            Self::Quiet => {}
            Self::Bar(bar) => {
                bar.disable_steady_tick();
                bar.finish_and_clear();
            }
            Self::Lines(beat) => beat.lock().work = None,
        }
    }

    /// Writes something while the bar is out of the way.
    pub(crate) fn aside<T>(&self, write: impl FnOnce() -> T) -> T {
        match self {
            Self::Quiet => write(),
            Self::Bar(bar) => bar.suspend(write),
            Self::Lines(beat) => {
                let mut state = beat.lock();
                state.spoken = Instant::now();
                write()
            }
        }
    }
}

/// Columns of the terminal.
fn columns() -> usize {
    console::Term::stderr().size_checked().map_or(80, |(_, columns)| usize::from(columns))
}

/// The bar as wide as there is room; without room for it, counts and times alone, below the label if need be.
fn style(label: &str, total: u64, unit: &str, columns: usize) -> ProgressStyle {
    let template = template(label, total, unit, columns);
    ProgressStyle::with_template(&template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

fn template(label: &str, total: u64, unit: &str, columns: usize) -> String {
    if total == 0 {
        return "{msg} | {elapsed} elapsed".into();
    }
    let counts = format!("{{pos}}/{{len}} {unit}, {{elapsed}} elapsed, {{eta}} left");
    let label = console::measure_text_width(label);
    let bar = columns.saturating_sub(label + COUNTS).min(30);
    if bar >= BAR {
        format!("{{msg}} [{{bar:{bar}}}] {counts}")
    } else if label + COUNTS <= columns {
        format!("{{msg}} {counts}")
    } else {
        format!("{{msg}}\n{counts}")
    }
}

/// A piece of work and how much of it is done.
#[derive(Debug)]
struct Work {
    label: String,
    unit: &'static str,
    done: u64,
    total: u64,
    started: Instant,
}

impl Work {
    fn new(label: String, total: u64, unit: &'static str) -> Self {
        Self { label, unit, done: 0, total, started: Instant::now() }
    }

    /// `case-1 (1/3) | 12/64 passes | 1m40s | eta 7m13s`.
    fn line(&self, elapsed: Duration) -> String {
        let Self { label, unit, done, total, .. } = self;
        let spent = duration(elapsed);
        match (*total, *done) {
            (0, _) => format!("{label} | {spent}"),
            (_, 0) => format!("{label} | 0/{total} {unit} | {spent}"),
            (total, done) if done >= total => {
                format!("{label} | {done}/{total} {unit} | {spent} | finishing")
            }
            (total, done) => {
                let left = elapsed.as_secs_f64() / done as f64 * (total - done) as f64;
                let eta = duration(Duration::from_secs_f64(left));
                format!("{label} | {done}/{total} {unit} | {spent} | eta {eta}")
            }
        }
    }
}

#[derive(Debug)]
struct Beat {
    work: Option<Work>,
    /// When something was written last.
    spoken: Instant,
    closed: bool,
}

/// A thread that writes how far the work is when nothing else was written for a while.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    shared: Arc<(Mutex<Beat>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Lines go to `write`.
    pub(crate) fn new(write: impl Fn(&str) + Send + 'static) -> Self {
        Self::every(SILENCE, write)
    }

    fn every(silence: Duration, write: impl Fn(&str) + Send + 'static) -> Self {
        let beat = Beat { work: None, spoken: Instant::now(), closed: false };
        let shared = Arc::new((Mutex::new(beat), Condvar::new()));
        let watched = Arc::clone(&shared);
        // If the thread cannot start, no lines are written and the work continues.
        let thread = std::thread::Builder::new().name("progress".into());
        let thread = thread.spawn(move || speak(&watched, silence, &write)).ok();
        Self { shared, thread }
    }

    fn lock(&self) -> MutexGuard<'_, Beat> {
        self.shared.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a line whenever there was none for as long as `silence`, until it is closed.
fn speak((beat, changed): &(Mutex<Beat>, Condvar), silence: Duration, write: &dyn Fn(&str)) {
    let mut beat = beat.lock().unwrap_or_else(PoisonError::into_inner);
    while !beat.closed {
        let wait = silence.saturating_sub(beat.spoken.elapsed());
        if wait.is_zero() {
            beat.spoken = Instant::now();
            if let Some(work) = &beat.work {
                write(&work.line(work.started.elapsed()));
            }
        } else {
            beat = changed.wait_timeout(beat, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.lock().closed = true;
        self.shared.1.notify_all();
        if let Some(thread) = self.thread.take() {
            // It has nothing to report.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_and_how_long() {
        let mut work = Work::new("case-1 (1/3)".into(), 64, "passes");
        let line = |work: &Work, seconds| work.line(Duration::from_secs(seconds));
        assert_eq!(line(&work, 26), "case-1 (1/3) | 0/64 passes | 26.0 s");
        work.done = 16;
        assert_eq!(line(&work, 100), "case-1 (1/3) | 16/64 passes | 1m40s | eta 5m00s");
        work.done = 64;
        assert_eq!(line(&work, 400), "case-1 (1/3) | 64/64 passes | 6m40s | finishing");
        let unknown = Work::new("reading case 2/3".into(), 0, "");
        assert_eq!(line(&unknown, 30), "reading case 2/3 | 30.0 s");
    }

    #[test]
    fn silence_is_broken_only_while_there_is_work() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&lines);
        let write = move |line: &str| written.lock().expect("whole").push(line.to_owned());
        let progress = Progress::Lines(Heartbeat::every(Duration::from_millis(20), write));
        let wait = |least: usize| {
            let start = Instant::now();
            while lines.lock().expect("whole").len() < least {
                assert!(start.elapsed() < Duration::from_secs(20), "no line came");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        std::thread::sleep(Duration::from_millis(60));
        assert!(lines.lock().expect("whole").is_empty(), "nothing to tell");
        progress.start("fold 0".into(), 4, "batches");
        progress.advance();
        wait(2);
        progress.stop();
        let told = lines.lock().expect("whole").len();
        assert!(lines.lock().expect("whole")[0].starts_with("fold 0 | 1/4 batches | "));
        std::thread::sleep(Duration::from_millis(60));
        // One line may have been on its way.
        assert!(lines.lock().expect("whole").len() <= told + 1);
    }

    #[test]
    fn a_bar_never_pushes_counts_out_of_the_terminal() {
        let wide = template("case-1 (1/3)", 64, "passes", 120);
        assert!(wide.starts_with("{msg} [{bar:30}] {pos}/{len} passes"), "{wide}");
        let narrow = template("case-1 (1/3)", 64, "passes", 60);
        assert!(narrow.starts_with("{msg} {pos}/{len} passes"), "{narrow}");
        let long = template("BraTS-GLI-00000-000 (1/3)", 64, "passes", 60);
        assert!(long.starts_with("{msg}\n{pos}/{len} passes"), "{long}");
    }
}
