//! Bars and counts that show how far a run is; nothing without a terminal.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use console::{Term, truncate_str};
use indicatif::{
    HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle,
    TermLike,
};

use super::{Ui, terminal};

/// How often what moves by itself is drawn.
const TICK: Duration = Duration::from_millis(120);

/// How long something takes before its rate is shown.
const RATED: Duration = Duration::from_millis(500);

/// From so many columns on a bar has room for words.
const WIDE: usize = 64;

/// Columns for a count and a rate, with the blanks before them.
const NUMBERS: usize = 20;

/// All bars: a line of text goes above them.
#[derive(Debug)]
pub(super) struct Bars {
    multi: MultiProgress,
    shown: AtomicUsize,
}

impl Default for Bars {
    fn default() -> Self {
        // Buffered, so that a line is drawn at once.
        let term = Term::buffered_stderr();
        let target = if term.is_term() && !console::is_dumb() {
            ProgressDrawTarget::term_like(Box::new(Screen(term)))
        } else {
            ProgressDrawTarget::hidden()
        };
        Self { multi: MultiProgress::with_draw_target(target), shown: AtomicUsize::new(0) }
    }
}

impl Bars {
    /// Runs what writes to the terminal, with the bars out of its way.
    pub(super) fn aside(&self, write: impl FnOnce()) {
        if self.shown.load(Ordering::Relaxed) == 0 { write() } else { self.multi.suspend(write) }
    }

    /// Removes all bars.
    pub(super) fn clear(&self) {
        // The screen never fails.
        let _ = self.multi.clear();
        self.multi.set_draw_target(ProgressDrawTarget::hidden());
        self.shown.store(0, Ordering::Relaxed);
    }

    fn add(&self, bar: ProgressBar) -> ProgressBar {
        self.shown.fetch_add(1, Ordering::Relaxed);
        self.multi.add(bar)
    }

    fn remove(&self, bar: &ProgressBar) {
        bar.finish_and_clear();
        self.multi.remove(bar);
        // Once all are cleared, there is nothing to be counted.
        let _ = self.shown.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |shown| shown.checked_sub(1));
    }
}

/// Counts that grow, each with its rate: one line for each name.
#[derive(Debug)]
pub struct Counters {
    ui: Arc<Ui>,
    bars: Mutex<BTreeMap<String, ProgressBar>>,
}

impl Counters {
    /// Counts nothing yet.
    #[must_use]
    pub fn new(ui: &Arc<Ui>) -> Self {
        Self { ui: Arc::clone(ui), bars: Mutex::default() }
    }

    /// So many there are by now; fewer than before if the count starts again.
    pub fn set(&self, name: &str, count: usize) {
        let mut bars = self.bars.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = bars.entry(name.to_owned()).or_insert_with(|| {
            let room = self.ui.terminal.width().saturating_sub(NUMBERS + 1).clamp(8, 44);
            let template = format!("{{prefix:{room}}} {{count:>9}} {{rate:>9}}");
            let bar = self.ui.bars.add(ProgressBar::no_length().with_style(style(&template)));
            bar.set_prefix(short(name, room));
            bar
        });
        bar.set_position(count as u64);
        bar.tick();
    }
}

/// A resource without its group where there is no room for that.
fn short(name: &str, room: usize) -> String {
    let short = if name.len() > room { name.split('.').next().unwrap_or(name) } else { name };
    truncate_str(short, room, "...").into_owned()
}

impl Drop for Counters {
    fn drop(&mut self) {
        let bars = self.bars.get_mut().unwrap_or_else(PoisonError::into_inner);
        for bar in bars.values() {
            self.ui.bars.remove(bar);
        }
    }
}

/// Work that goes on: towards an end that is known, or without one. Gone when it is dropped.
#[derive(Debug)]
pub struct Bar {
    ui: Arc<Ui>,
    line: ProgressBar,
    failed: AtomicUsize,
    note: Mutex<String>,
}

impl Bar {
    /// Work of so many steps.
    #[must_use]
    pub fn of(ui: &Arc<Ui>, what: &str, steps: usize) -> Self {
        let template = if ui.terminal.width() >= WIDE {
            "{prefix} [{wide_bar}] {count}/{all}  {rate}{msg}  {left}"
        } else {
            "[{wide_bar}] {count}/{all} {rate}{msg} {left}"
        };
        let bar = ui.bars.add(ProgressBar::new(steps as u64).with_style(style(template)));
        bar.set_prefix(what.to_owned());
        Self::with(ui, bar)
    }

    /// Work of which nobody knows how long it is.
    #[must_use]
    pub fn endless(ui: &Arc<Ui>, what: &str) -> Self {
        let bar = ui.bars.add(ProgressBar::new_spinner().with_style(style("{spinner} {prefix}{msg}")));
        bar.set_prefix(what.to_owned());
        Self::with(ui, bar)
    }

    fn with(ui: &Arc<Ui>, bar: ProgressBar) -> Self {
        bar.tick();
        if !bar.is_hidden() {
            bar.enable_steady_tick(TICK);
        }
        Self { ui: Arc::clone(ui), line: bar, failed: AtomicUsize::new(0), note: Mutex::default() }
    }

    /// Another step is done.
    pub fn step(&self) {
        self.line.inc(1);
    }

    /// Another step has failed.
    pub fn fail(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.line.inc(1);
        self.say();
    }

    /// What else there is to be said.
    pub fn note(&self, text: &str) {
        text.clone_into(&mut self.note.lock().unwrap_or_else(PoisonError::into_inner));
        self.say();
    }

    fn say(&self) {
        let note = self.note.lock().unwrap_or_else(PoisonError::into_inner);
        let wide = self.ui.terminal.width() >= WIDE;
        let mut text = match (self.failed.load(Ordering::Relaxed), wide) {
            (0, _) => String::new(),
            (1, true) => "  1 error".to_owned(),
            (errors, true) => format!("  {errors} errors"),
            (errors, false) => format!(" {errors} err"),
        };
        // Beside a bar there is no room for it on a narrow terminal.
        if !note.is_empty() && (wide || self.line.length().is_none()) {
            text.push_str("  ");
            text.push_str(&note);
        }
        self.line.set_message(text);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.ui.bars.remove(&self.line);
    }
}

/// The style of a line. Markers are ASCII where the locale has no more.
fn style(template: &str) -> ProgressStyle {
    let (bar, ticks) = if terminal::is_unicode(|name| std::env::var(name).ok()) {
        ("━╸ ", "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏ ")
    } else {
        ("=> ", "|/-\\ ")
    };
    let count = |state: &ProgressState, out: &mut dyn fmt::Write| write(out, &HumanCount(state.pos()));
    let all = |state: &ProgressState, out: &mut dyn fmt::Write| {
        write(out, &HumanCount(state.len().unwrap_or_default()));
    };
    let rate = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A rate of the first moments is no rate.
        if state.elapsed() >= RATED {
            write(out, &Rate(state.per_sec()));
        }
    };
    let left = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // Before anything is done nobody knows.
        if state.pos() > 0 && Some(state.pos()) < state.len() {
            write(out, &format_args!("{:#} left", HumanDuration(state.eta())));
        }
    };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .with_key("count", count)
        .with_key("all", all)
        .with_key("rate", rate)
        .with_key("left", left)
        .progress_chars(bar)
        .tick_chars(ticks)
}

fn write(out: &mut dyn fmt::Write, what: &dyn fmt::Display) {
    // It is a `String`, to which writing cannot fail.
    let _ = write!(out, "{what}");
}

/// So many a second.
struct Rate(f64);

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(rate) = self;
        if *rate < 10.0 { write!(f, "{rate:.1}/s") } else { write!(f, "{rate:.0}/s") }
    }
}

/// The terminal as `indicatif` draws on it. One that went away is no error: a run that deletes goes on without it, while
/// `indicatif` would panic.
#[derive(Debug)]
struct Screen(Term);

/// Nobody is left to be told.
fn lost(result: io::Result<()>) -> io::Result<()> {
    result.or(Ok(()))
}

impl TermLike for Screen {
    fn width(&self) -> u16 {
        self.0.size().1
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        lost(self.0.move_cursor_up(lines))
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        lost(self.0.move_cursor_down(lines))
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        lost(self.0.move_cursor_right(columns))
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        lost(self.0.move_cursor_left(columns))
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        lost(self.0.write_line(text))
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        lost(self.0.write_str(text))
    }

    fn clear_line(&self) -> io::Result<()> {
        lost(self.0.clear_line())
    }

    fn flush(&self) -> io::Result<()> {
        lost(self.0.flush())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_needs_room() {
        assert_eq!(short("images.image.openshift.io", 44), "images.image.openshift.io");
        assert_eq!(short("images.image.openshift.io", 19), "images");
        assert_eq!(short("replicationcontrollers", 19), "replicationcontr...");
    }

    #[test]
    fn slow_rates_have_a_fraction() {
        for (rate, text) in [(0.25, "0.2/s"), (9.9, "9.9/s"), (12.4, "12/s"), (4155.0, "4155/s")] {
            assert_eq!(Rate(rate).to_string(), text);
        }
    }
}
