//! The plugin at a terminal: a pty with a screen behind it, and somebody who waits for what is on it.

use std::io::{Read as _, Write};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, SlavePty, native_pty_system};
use tempfile::TempDir;

/// Nothing takes longer, unless something hangs.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) const ENTER: &str = "\r";
pub(crate) const ESC: &str = "\x1b";
pub(crate) const CTRL_C: &str = "\x03";
pub(crate) const CTRL_D: &str = "\x04";
pub(crate) const DOWN: &str = "\x1b[B";
pub(crate) const END: &str = "\x1b[F";

/// A run to be started.
pub(crate) struct Setup {
    home: TempDir,
    args: Vec<String>,
    environment: Vec<(&'static str, &'static str)>,
    columns: u16,
    rows: u16,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let environment = vec![("TERM", "xterm-256color"), ("LANG", "C.UTF-8")];
        let home = tempfile::tempdir().unwrap();
        Self { home, args: Vec::new(), environment, columns: 100, rows: 60 }
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn env(mut self, name: &'static str, value: &'static str) -> Self {
        self.environment.push((name, value));
        self
    }

    pub(crate) fn columns(mut self, columns: u16) -> Self {
        self.columns = columns;
        self
    }

    pub(crate) fn start(self) -> Terminal {
        let size = PtySize { rows: self.rows, cols: self.columns, ..PtySize::default() };
        let pair = native_pty_system().openpty(size).unwrap();
        let found = modes(&*pair.master);
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_oc-prune_images"));
        command.env_clear();
        command.env("HOME", self.home.path());
        command.env("PATH", self.home.path());
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        command.args(&self.args);
        command.cwd(self.home.path());
        let child = pair.slave.spawn_command(command).unwrap();
        let seen = Arc::new((Mutex::new(Seen::new(self.rows, self.columns)), Condvar::new()));
        let (mut output, shared) = (pair.master.try_clone_reader().unwrap(), Arc::clone(&seen));
        let reader = std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end is an error on Linux: nobody has the other side open any longer.
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                shared.0.lock().unwrap().take(&buffer[..length]);
                shared.1.notify_all();
            }
        });
        let keys = pair.master.take_writer().unwrap();
        Terminal {
            _home: self.home,
            found,
            child,
            master: pair.master,
            slave: pair.slave,
            keys,
            seen,
            reader,
            at: 0,
        }
    }
}

/// What came out so far.
struct Seen {
    all: Vec<u8>,
    screen: vt100::Parser,
}

impl Seen {
    fn new(rows: u16, columns: u16) -> Self {
        let [rows, columns] = [rows, columns].map(|size| NonZeroU16::new(size).unwrap());
        Self { all: Vec::new(), screen: vt100::Parser::new(rows, columns, 0) }
    }

    fn take(&mut self, bytes: &[u8]) {
        self.all.extend(bytes);
        self.screen.process(bytes);
    }

    /// Everything, without what steers the terminal.
    fn text(&self) -> String {
        console::strip_ansi_codes(&String::from_utf8_lossy(&self.all)).into_owned()
    }
}

/// A run at a terminal.
pub(crate) struct Terminal {
    _home: TempDir,
    found: String,
    child: Box<dyn Child + Send + Sync>,
    master: Box<dyn MasterPty + Send>,
    slave: Box<dyn SlavePty + Send>,
    keys: Box<dyn Write + Send>,
    seen: Arc<(Mutex<Seen>, Condvar)>,
    reader: JoinHandle<()>,
    /// How far the text has been looked at.
    at: usize,
}

impl Terminal {
    /// Waits until this is written, after what was waited for last.
    #[track_caller]
    pub(crate) fn sees(&mut self, text: &str) -> &mut Self {
        let at = self.at;
        let find = |seen: &Seen| seen.text().get(at..).and_then(|rest| rest.find(text));
        let seen = self.seen.0.lock().unwrap();
        let (seen, _) = self.seen.1.wait_timeout_while(seen, LIMIT, |seen| find(seen).is_none()).unwrap();
        match find(&seen) {
            Some(found) => self.at = at + found + text.len(),
            None => panic!("expected: {text}\n{}\n--- all\n{}", seen.screen.screen().contents(), seen.text()),
        }
        drop(seen);
        self
    }

    /// Presses keys.
    pub(crate) fn press(&mut self, keys: &[&str]) -> &mut Self {
        for key in keys {
            self.keys.write_all(key.as_bytes()).unwrap();
        }
        self.keys.flush().unwrap();
        self
    }

    /// Sends a signal from elsewhere.
    pub(crate) fn signal(&mut self, name: &str) -> &mut Self {
        let process = self.child.process_id().unwrap().to_string();
        let killed = std::process::Command::new("kill").args([&format!("-{name}"), &process]).status();
        assert!(killed.unwrap().success());
        self
    }

    /// The lines on the screen, and whether each of them goes on in the next.
    pub(crate) fn screen(&self) -> (Vec<String>, Vec<bool>) {
        let seen = self.seen.0.lock().unwrap();
        let screen = seen.screen.screen();
        let (rows, columns) = screen.size();
        let lines = screen.rows(0, columns.get()).map(|line| line.trim_end().to_owned()).collect();
        (lines, (0..rows.get()).map(|row| screen.row_wrapped(row)).collect())
    }

    /// Waits for the end: the exit code, and a terminal as it was found.
    #[track_caller]
    pub(crate) fn ends(self, code: u32) -> Ended {
        let Self { found, mut child, master, slave, seen, reader, .. } = self;
        let mut killer = child.clone_killer();
        let (over, is_over) = channel::<()>();
        let watch = std::thread::spawn(move || {
            if is_over.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                // It may have ended in this very moment.
                let _ = killer.kill();
            }
        });
        let status = child.wait().unwrap();
        drop(over);
        watch.join().unwrap();
        let left = modes(&*master);
        // The reader ends once nobody else has the terminal open.
        drop(slave);
        reader.join().unwrap();
        let seen = seen.0.lock().unwrap();
        let ended = Ended { all: seen.all.clone(), text: seen.text() };
        assert_eq!(status.exit_code(), code, "{}", ended.text);
        assert_eq!(left, found, "the terminal's modes\n{}", ended.text);
        assert!(!seen.screen.screen().hide_cursor(), "the cursor is hidden\n{}", ended.text);
        let (_, column) = seen.screen.screen().cursor_position();
        assert_eq!(column, 0, "the shell's prompt would stand behind something\n{}", ended.text);
        ended
    }
}

/// A run that ended.
pub(crate) struct Ended {
    /// Every byte that came out.
    pub(crate) all: Vec<u8>,
    /// The same without what steers the terminal.
    pub(crate) text: String,
}

impl Ended {
    #[track_caller]
    pub(crate) fn saw(self, text: &str) -> Self {
        assert!(self.text.contains(text), "expected: {text}\n{}", self.text);
        self
    }

    #[track_caller]
    pub(crate) fn did_not_see(self, text: &str) -> Self {
        assert!(!self.text.contains(text), "not expected: {text}\n{}", self.text);
        self
    }
}

fn modes(master: &dyn MasterPty) -> String {
    format!("{:?}", master.get_termios().unwrap())
}
