//! Exit codes, and the failure that ends a run as the administrator reads it.

use std::fmt;

/// Exit codes of the plugin: a closed list, documented in `docs/exit-codes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// Everything that was to be done is done; also: nothing to do, a dry run.
    Done = 0,
    /// An error before any change was made.
    NothingChanged = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The run finished, and some objects could not be pruned.
    Failures = 3,
    /// A registry cache may still name what was deleted. Wins over [`Exit::Failures`].
    CacheMayLie = 4,
    /// `--timeout` ended the run.
    Timeout = 124,
    /// SIGINT (Ctrl-C) ended the run.
    Interrupted = 130,
    /// SIGTERM ended the run.
    Terminated = 143,
}

/// A failure that ends the run: what failed, why, and what to do next.
///
/// Printed as `error: <what failed>: <cause>` and one `hint: …` line for each hint. Never holds a token or a
/// password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code that the run ends with.
    pub exit: Exit,
    /// `<what failed>: <cause>`, without `error: ` in front.
    pub message: String,
    /// What helps: the exact command or flag, one line each, without `hint: ` in front.
    pub hints: Vec<String>,
}

impl Failure {
    /// A mistake on the command line (exit code 2).
    pub fn usage(message: impl Into<String>) -> Self {
        Self { exit: Exit::Usage, message: message.into(), hints: Vec::new() }
    }

    /// An error before any change was made (exit code 1).
    pub fn nothing_changed(message: impl Into<String>) -> Self {
        Self { exit: Exit::NothingChanged, message: message.into(), hints: Vec::new() }
    }

    /// Adds a line that says what helps.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.message)?;
        for hint in &self.hints {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}
