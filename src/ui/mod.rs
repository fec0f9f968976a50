//! The streams of the process, and the terminal behind them: the only room that writes to stdout and stderr, and that
//! reads what somebody types at a prompt.

mod progress;
mod prompt;
mod terminal;

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use progress::{Bar, Counters};
pub use prompt::Answer;

use crate::error::Failure;
use progress::Bars;
use terminal::Terminal;

/// What is written to stdout at once, in bytes.
const PIECE: usize = 64 << 10;

/// Where results and messages go.
#[derive(Debug, Default)]
pub struct Ui {
    stdout_closed: AtomicBool,
    before_abort: Mutex<Option<String>>,
    transcript: Mutex<Option<Vec<u8>>>,
    bars: Bars,
    terminal: Terminal,
}

impl Ui {
    /// The streams of this process. Whatever ends it, the terminal is left as it was found.
    #[must_use]
    pub fn of_process() -> Arc<Self> {
        let ui = Arc::new(Self::default());
        let (before, at_panic) = (std::panic::take_hook(), Arc::clone(&ui));
        std::panic::set_hook(Box::new(move |panic| {
            at_panic.terminal.restore();
            before(panic);
        }));
        ui
    }

    /// Writes results to stdout.
    ///
    /// A reader that went away (`| head`) is no error: a run that deletes goes on without it.
    pub fn result(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.transcript().is_none() {
            return self.print(write);
        }
        let mut text = Vec::new();
        // Writing to memory cannot fail.
        let _ = write(&mut text);
        if let Some(transcript) = self.transcript().as_mut() {
            transcript.extend_from_slice(&text);
        }
        self.print(|out| out.write_all(&text));
    }

    fn print(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.stdout_closed.load(Ordering::Relaxed) {
            return;
        }
        let write = || {
            let mut out = io::BufWriter::with_capacity(PIECE, io::stdout().lock());
            if write(&mut out).and_then(|()| out.flush()).is_err() {
                self.stdout_closed.store(true, Ordering::Relaxed);
            }
        };
        if io::stdout().is_terminal() { self.bars.aside(write) } else { write() }
    }

    /// Writes a line about the run to stderr.
    pub fn message(&self, text: &str) {
        self.note(text);
        self.bars.aside(|| {
            // Nobody is left to be told of a closed stderr.
            let _ = writeln!(io::stderr().lock(), "{text}");
        });
    }

    /// Keeps what is said from here on, on both streams, for [`Ui::said`].
    pub fn keep_transcript(&self) {
        *self.transcript() = Some(Vec::new());
    }

    /// What was said since [`Ui::keep_transcript`].
    #[must_use]
    pub fn said(&self) -> String {
        self.transcript().as_ref().map_or_else(String::new, |said| String::from_utf8_lossy(said).into_owned())
    }

    fn note(&self, text: &str) {
        if let Some(transcript) = self.transcript().as_mut() {
            // Writing to memory cannot fail.
            let _ = writeln!(transcript, "{text}");
        }
    }

    fn transcript(&self) -> std::sync::MutexGuard<'_, Option<Vec<u8>>> {
        self.transcript.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a warning to stderr.
    pub fn warning(&self, text: &str) {
        self.message(&format!("warning: {text}"));
    }

    /// Hears of what the run should be warned of.
    pub fn warnings(self: &Arc<Self>) -> Arc<dyn Fn(&str) + Send + Sync> {
        let ui = self.clone();
        Arc::new(move |text| ui.warning(text))
    }

    /// Hears of what the API server warns of, and tells it as `oc` does.
    pub fn server_warnings(self: &Arc<Self>) -> Arc<dyn Fn(&str) + Send + Sync> {
        let ui = self.clone();
        Arc::new(move |text| ui.message(&format!("Warning: {text}")))
    }

    /// Keeps what is to be said if the run is aborted from here on.
    pub fn before_abort(&self, text: Option<String>) {
        *self.before_abort.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    /// Says that the run is aborted, and what it leaves.
    pub fn abort(&self) {
        self.restore();
        if let Some(text) = self.before_abort.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.message(&format!("error: aborted: {text}"));
        }
    }

    /// Writes the failure that ends the run to stderr.
    pub fn failure(&self, failure: &Failure) {
        self.message(&failure.to_string());
    }

    /// Leaves the terminal as it was found: no bars, a cursor, lines as the user edits them. For the end of the process,
    /// in whatever state a prompt is.
    pub fn restore(&self) {
        self.bars.clear();
        self.terminal.restore();
    }

    /// Leaves the terminal as it was before the prompt at which somebody may be: nobody waits for the answer any longer.
    pub fn leave_prompt(&self) {
        self.terminal.restore();
    }

    /// Whether a person reads stderr.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        io::stderr().is_terminal()
    }

    /// Whether somebody can be asked: all three streams are terminals.
    #[must_use]
    pub fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stdout().is_terminal() && io::stderr().is_terminal()
    }

    /// How many columns a line of stdout should have at most: those of the terminal, 80 without one.
    #[must_use]
    pub fn width(&self) -> usize {
        if io::stdout().is_terminal() { self.terminal.width() } else { terminal::WIDTH }
    }
}
