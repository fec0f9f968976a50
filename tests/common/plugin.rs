//! The plugin as users start it: a process with an environment of its own.

use std::ffi::OsString;
use std::fmt;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// No run takes longer, unless something hangs.
const LIMIT: Duration = Duration::from_secs(60);

/// A run to be started. Nothing of the test's own environment reaches it.
#[derive(Debug)]
pub(crate) struct Plugin {
    home: TempDir,
    args: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    input: Option<Vec<u8>>,
}

impl Plugin {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let environment = [("PATH", home.path()), ("HOME", home.path())];
        let environment = environment.map(|(name, value)| (name.into(), value.into())).into();
        Self { home, args: Vec::new(), environment, input: None }
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn args<A: Into<OsString>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The home directory; also where the run starts.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Writes a file below the home directory.
    pub(crate) fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.home.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
        self
    }

    /// What the run reads from its standard input; without it there is nothing.
    pub(crate) fn input(mut self, text: impl Into<Vec<u8>>) -> Self {
        self.input = Some(text.into());
        self
    }

    /// Runs to the end.
    pub(crate) fn run(self) -> Ran {
        self.start().wait()
    }

    pub(crate) fn start(self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oc-prune_images"));
        command.env_clear().envs(self.environment).args(&self.args).current_dir(self.home.path());
        command.stdin(if self.input.is_some() { Stdio::piped() } else { Stdio::null() });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        if let (Some(input), Some(mut stdin)) = (self.input, child.stdin.take()) {
            // A run that ends early reads no more, and what it says is of interest then.
            thread::spawn(move || stdin.write_all(&input));
        }
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        Running { home: self.home, args: self.args, child, stdout, stderr, started: Instant::now() }
    }
}

/// What a stream gave so far.
#[derive(Debug, Default)]
struct Text {
    text: String,
    ended: bool,
}

type Shared = Arc<(Mutex<Text>, Condvar)>;

/// Reads a stream to its end in a thread of its own.
fn collect(stream: Option<impl Read + Send + 'static>) -> Shared {
    let shared = Shared::default();
    let (writer, mut lines) = (shared.clone(), BufReader::new(stream.unwrap()));
    thread::spawn(move || {
        loop {
            let mut line = Vec::new();
            let ended = lines.read_until(b'\n', &mut line).unwrap() == 0;
            let mut text = writer.0.lock().unwrap();
            text.text.push_str(&String::from_utf8_lossy(&line));
            text.ended = ended;
            writer.1.notify_all();
            if ended {
                return;
            }
        }
    });
    shared
}

/// Waits until the condition holds and returns the text; whether it does.
fn wait_for(shared: &Shared, limit: Duration, condition: impl Fn(&Text) -> bool) -> (String, bool) {
    let text = shared.0.lock().unwrap();
    let (text, timeout) = shared.1.wait_timeout_while(text, limit, |text| !condition(text)).unwrap();
    (text.text.clone(), !timeout.timed_out())
}

/// A run that goes on.
#[derive(Debug)]
pub(crate) struct Running {
    home: TempDir,
    args: Vec<OsString>,
    child: Child,
    stdout: Shared,
    stderr: Shared,
    started: Instant,
}

impl Running {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, as `kill -INT` does.
    pub(crate) fn signal(&self, name: &str) {
        let killed = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(killed.unwrap().success());
    }

    /// Waits until stderr contains this.
    pub(crate) fn wait_until_it_says(&self, said: &str) {
        let (text, found) = wait_for(&self.stderr, LIMIT, |text| text.ended || text.text.contains(said));
        assert!(found && text.contains(said), "expected in stderr: {said}\n{text}");
    }

    pub(crate) fn wait(mut self) -> Ran {
        let left = LIMIT.saturating_sub(self.started.elapsed());
        let in_time = wait_for(&self.stdout, left, |text| text.ended).1
            && wait_for(&self.stderr, left, |text| text.ended).1;
        if !in_time {
            self.child.kill().unwrap();
        }
        let status = self.child.wait().unwrap();
        let all = |shared: &Shared| wait_for(shared, LIMIT, |text| text.ended).0;
        let ran = Ran {
            args: self.args,
            code: status.code(),
            stdout: all(&self.stdout),
            stderr: all(&self.stderr),
            took: self.started.elapsed(),
        };
        assert!(in_time, "killed after {LIMIT:?}\n{ran}");
        drop(self.home);
        ran
    }
}

/// A run that ended.
#[derive(Debug)]
pub(crate) struct Ran {
    args: Vec<OsString>,
    /// The exit code; `None` after a signal that was not handled.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Ran {
    /// Fails unless this is the exit code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert!(self.code == Some(code), "expected exit code {code}\n{self}");
        self
    }

    /// Fails unless stderr contains this.
    #[track_caller]
    pub(crate) fn says(self, text: &str) -> Self {
        assert!(self.stderr.contains(text), "expected in stderr: {text}\n{self}");
        self
    }

    /// Fails if stderr contains this.
    #[track_caller]
    pub(crate) fn does_not_say(self, text: &str) -> Self {
        assert!(!self.stderr.contains(text), "not expected in stderr: {text}\n{self}");
        self
    }

    /// Fails unless stdout contains this.
    #[track_caller]
    pub(crate) fn prints(self, text: &str) -> Self {
        assert!(self.stdout.contains(text), "expected in stdout: {text}\n{self}");
        self
    }

    /// The document on stdout.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("stdout is no JSON: {error}\n{self}"))
    }
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 6000;
        let args: Vec<_> = self.args.iter().map(|arg| arg.to_string_lossy()).collect();
        writeln!(
            f,
            "$ oc-prune_images {}\nexit code: {:?} after {:?}",
            args.join(" "),
            self.code,
            self.took
        )?;
        for (name, text) in [("stdout", &self.stdout), ("stderr", &self.stderr)] {
            let shown: String = text.chars().take(SHOWN).collect();
            writeln!(f, "--- {name}, {} bytes\n{shown}", text.len())?;
        }
        Ok(())
    }
}
