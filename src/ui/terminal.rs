//! What the terminal can do, and how it is left: as it was found.

use std::sync::{Mutex, PoisonError};

use console::Term;

/// Columns of a terminal that does not tell how many it has.
pub(super) const WIDTH: usize = 80;

/// The terminal that stderr and stdin are.
#[derive(Debug)]
pub(super) struct Terminal {
    pub(super) term: Term,
    /// How it was found, as long as it is otherwise.
    found: Mutex<Option<modes::Modes>>,
}

impl Default for Terminal {
    fn default() -> Self {
        Self { term: Term::stderr(), found: Mutex::default() }
    }
}

impl Terminal {
    pub(super) fn width(&self) -> usize {
        self.term.size_checked().map_or(WIDTH, |(_, columns)| usize::from(columns))
    }

    /// Whether the cursor can be moved about.
    pub(super) fn has_cursor(&self) -> bool {
        self.term.is_term() && !console::is_dumb()
    }

    /// Takes the keys as they are pressed, without echo, until the guard goes. What was typed before is forgotten: it
    /// was no answer.
    pub(super) fn take_keys(&self) -> Keys<'_> {
        let mut found = self.found();
        if found.is_none() {
            *found = modes::raw();
        }
        Keys { terminal: self }
    }

    /// Leaves it as it was found.
    pub(super) fn restore(&self) {
        if let Some(found) = self.found().take() {
            modes::set(&found);
            if self.has_cursor() {
                // A terminal that went away needs no cursor.
                let _ = self.term.show_cursor();
            }
        }
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Option<modes::Modes>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As long as it is there, keys are taken as they are pressed.
pub(super) struct Keys<'a> {
    terminal: &'a Terminal,
}

impl Drop for Keys<'_> {
    fn drop(&mut self) {
        self.terminal.restore();
    }
}

/// Whether the locale has more than ASCII, by the variables that decide it, the strongest first.
pub(super) fn is_unicode(variable: impl Fn(&str) -> Option<String>) -> bool {
    let locale =
        ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().filter_map(variable).find(|word| !word.is_empty());
    locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

/// The modes of the terminal that stdin is.
#[cfg(unix)]
mod modes {
    use std::io::stdin;

    use rustix::termios::{OptionalActions, Termios, tcgetattr, tcsetattr};

    pub(super) type Modes = Termios;

    /// `console` sets these modes for each key and puts the old ones back, so that what is typed between two keys would
    /// be echoed, and Ctrl-C would be one time a key and the other a signal. Output goes on as before.
    pub(super) fn raw() -> Option<Modes> {
        let found = tcgetattr(stdin()).ok()?;
        let mut raw = found.clone();
        raw.make_raw();
        raw.output_modes = found.output_modes;
        tcsetattr(stdin(), OptionalActions::Flush, &raw).ok()?;
        Some(found)
    }

    pub(super) fn set(modes: &Modes) {
        // A terminal that went away has no modes.
        let _ = tcsetattr(stdin(), OptionalActions::Drain, modes);
    }
}

/// Elsewhere `console` reads keys without changing modes.
#[cfg(not(unix))]
mod modes {
    pub(super) type Modes = ();

    pub(super) fn raw() -> Option<Modes> {
        Some(())
    }

    pub(super) fn set((): &Modes) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strongest_variable_decides_about_unicode() {
        for (variables, unicode) in [
            (&[("LANG", "en_US.UTF-8")][..], true),
            (&[("LC_ALL", "C"), ("LANG", "en_US.UTF-8")], false),
            (&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("LANG", "C")], true),
            (&[("LC_CTYPE", "de_DE.ISO-8859-1")], false),
            (&[], false),
        ] {
            let variable = |name: &str| {
                variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(is_unicode(variable), unicode, "{variables:?}");
        }
    }
}
