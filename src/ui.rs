//! The streams of the process: the only file that writes to stdout and stderr.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Failure;

/// Where results and messages go.
#[derive(Debug, Default)]
pub struct Ui {
    stdout_closed: AtomicBool,
    before_abort: Mutex<Option<String>>,
}

impl Ui {
    /// Writes results to stdout.
    ///
    /// A reader that went away (`| head`) is no error: a run that deletes goes on without it.
    pub fn result(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        if self.stdout_closed.load(Ordering::Relaxed) {
            return;
        }
        let mut out = io::BufWriter::new(io::stdout().lock());
        if write(&mut out).and_then(|()| out.flush()).is_err() {
            self.stdout_closed.store(true, Ordering::Relaxed);
        }
    }

    /// Writes a line about the run to stderr.
    pub fn message(&self, text: &str) {
        // Nobody is left to be told of a closed stderr.
        let _ = writeln!(io::stderr().lock(), "{text}");
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
        if let Some(text) = self.before_abort.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.message(&format!("error: aborted: {text}"));
        }
    }

    /// Writes the failure that ends the run to stderr.
    pub fn failure(&self, failure: &Failure) {
        self.message(&failure.to_string());
    }

    /// Whether a person reads stderr.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        io::stderr().is_terminal()
    }
}
