//! Questions at the terminal.
//!
//! They look as those of `dialoguer`, whose themes draw them; the keys are read here. Its own loops know no end of input
//! (Ctrl-D), let nobody leave a line of input with Esc, leave the cursor hidden after Ctrl-C, and lose count of lines that
//! are wider than the terminal.

use std::fmt;
use std::io::ErrorKind;

use console::{Key, truncate_str};
use dialoguer::theme::{ColorfulTheme, SimpleTheme, Theme};

use super::{Ui, terminal};

/// What somebody did at a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer<T> {
    /// Gave an answer.
    Given(T),
    /// Left: Esc, the end of the input, a terminal that went away.
    Left,
    /// Pressed Ctrl-C.
    Interrupted,
}

/// A key, as far as it means the same at every prompt.
enum Pressed {
    Key(Key),
    Leave,
    Interrupt,
}

/// What Ctrl-D and Ctrl-U send.
const END_OF_INPUT: char = '\u{4}';
const FORGET_LINE: char = '\u{15}';

impl Ui {
    /// Asks for one of these items, which must not be empty; each is cut to one line.
    pub fn choose(&self, question: &str, items: &[String], preselected: usize) -> Answer<usize> {
        let terminal = &self.terminal;
        let keys = terminal.take_keys();
        if !terminal.has_cursor() {
            drop(keys);
            return self.choose_by_number(question, items);
        }
        let theme = theme();
        let term = &terminal.term;
        // What cannot be written is seen at the next key: the terminal went away.
        let _ = term.hide_cursor();
        let _ = term.write_line(&text(|out| theme.format_select_prompt(out, question)));
        let mut at = preselected.min(items.len().saturating_sub(1));
        let mut shown = 0;
        let answer = loop {
            let _ = term.clear_last_lines(shown);
            let width = terminal.width().saturating_sub(1);
            for (position, item) in items.iter().enumerate() {
                let line = text(|out| theme.format_select_prompt_item(out, item, position == at));
                let _ = term.write_line(&truncate_str(&line, width, "..."));
            }
            shown = items.len();
            match self.key() {
                Pressed::Leave | Pressed::Key(Key::Char('q')) => break Answer::Left,
                Pressed::Interrupt => break Answer::Interrupted,
                Pressed::Key(Key::Enter) => break Answer::Given(at),
                Pressed::Key(Key::ArrowDown | Key::Tab | Key::Char('j')) => at = (at + 1) % items.len(),
                Pressed::Key(Key::ArrowUp | Key::BackTab | Key::Char('k')) => {
                    at = (at + items.len() - 1) % items.len();
                }
                Pressed::Key(Key::Home) => at = 0,
                Pressed::Key(Key::End) => at = items.len() - 1,
                Pressed::Key(_) => {}
            }
        };
        let _ = term.clear_last_lines(shown + 1);
        if let Answer::Given(chosen) = answer {
            let line = text(|out| theme.format_select_prompt_selection(out, question, &items[chosen]));
            let _ = term.write_line(&truncate_str(&line, terminal.width().saturating_sub(1), "..."));
        }
        drop(keys);
        answer
    }

    /// As [`Ui::choose`], for a terminal whose cursor cannot be moved.
    fn choose_by_number(&self, question: &str, items: &[String]) -> Answer<usize> {
        self.message(question);
        for (item, number) in items.iter().zip(1..) {
            self.message(&format!("  {number}) {item}"));
        }
        loop {
            match self.line(&format!("Number (1 to {})", items.len())) {
                Answer::Given(word) => match word.trim().parse::<usize>() {
                    Ok(number) if (1..=items.len()).contains(&number) => return Answer::Given(number - 1),
                    _ => {}
                },
                Answer::Left => return Answer::Left,
                Answer::Interrupted => return Answer::Interrupted,
            }
        }
    }

    /// Asks for a yes; everything but `y` is a no.
    pub fn confirm(&self, question: &str) -> Answer<bool> {
        let keys = self.terminal.take_keys();
        self.write(&text(|out| theme().format_confirm_prompt(out, question, None)));
        let answer = match self.key() {
            Pressed::Key(Key::Char('y' | 'Y')) => Answer::Given(true),
            Pressed::Key(_) => Answer::Given(false),
            Pressed::Leave => Answer::Left,
            Pressed::Interrupt => Answer::Interrupted,
        };
        self.write(match answer {
            Answer::Given(true) => "yes\n",
            Answer::Given(false) => "no\n",
            Answer::Left | Answer::Interrupted => "\n",
        });
        drop(keys);
        answer
    }

    /// Asks for a line.
    pub fn line(&self, question: &str) -> Answer<String> {
        let keys = self.terminal.take_keys();
        self.write(&text(|out| theme().format_input_prompt(out, question, None)));
        let mut line = String::new();
        let answer = loop {
            match self.key() {
                Pressed::Leave => break Answer::Left,
                Pressed::Interrupt => break Answer::Interrupted,
                Pressed::Key(Key::Enter) => break Answer::Given(line),
                Pressed::Key(Key::Backspace) if line.pop().is_some() => self.write("\u{8} \u{8}"),
                Pressed::Key(Key::Char(FORGET_LINE)) => {
                    self.write(&"\u{8} \u{8}".repeat(line.len()));
                    line.clear();
                }
                // A value is digits and units: one column each.
                Pressed::Key(Key::Char(c)) if c.is_ascii_graphic() || c == ' ' => {
                    line.push(c);
                    self.write(c.encode_utf8(&mut [0; 4]));
                }
                Pressed::Key(_) => {}
            }
        };
        self.write("\n");
        drop(keys);
        answer
    }

    /// The next key.
    fn key(&self) -> Pressed {
        loop {
            match self.terminal.term.read_key_raw() {
                Ok(Key::Escape | Key::Char(END_OF_INPUT)) => return Pressed::Leave,
                Ok(Key::CtrlC) => return Pressed::Interrupt,
                Ok(key) => return Pressed::Key(key),
                // A signal came: whoever listens to it ends the run.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Pressed::Leave,
            }
        }
    }

    fn write(&self, text: &str) {
        // What cannot be written is seen at the next key: the terminal went away.
        let _ = self.terminal.term.write_str(text);
    }
}

/// How prompts look: colours are left out by `console` where they are not wanted.
fn theme() -> Box<dyn Theme> {
    if terminal::is_unicode(|name| std::env::var(name).ok()) {
        Box::new(ColorfulTheme::default())
    } else {
        Box::new(SimpleTheme)
    }
}

fn text(format: impl FnOnce(&mut dyn fmt::Write) -> fmt::Result) -> String {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    let _ = format(&mut text);
    text
}
