//! The plugin as users start it: a process with an environment of its own.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
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
}

impl Plugin {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let environment = [("PATH", home.path()), ("HOME", home.path())];
        let environment = environment.map(|(name, value)| (name.into(), value.into())).into();
        Self { home, args: Vec::new(), environment }
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

    /// Runs to the end.
    pub(crate) fn run(self) -> Ran {
        self.start().wait()
    }

    pub(crate) fn start(self) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oc-prune_images"));
        command.env_clear().envs(self.environment).args(&self.args).current_dir(self.home.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
        Running { home: self.home, args: self.args, child, stdout, stderr, started: Instant::now() }
    }
}

/// Reads a stream to its end in a thread of its own.
fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        stream.unwrap().read_to_end(&mut bytes).unwrap();
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

/// A run that goes on.
#[derive(Debug)]
pub(crate) struct Running {
    home: TempDir,
    args: Vec<OsString>,
    child: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
    started: Instant,
}

impl Running {
    /// Sends a signal, as `kill -INT` does.
    pub(crate) fn signal(&self, name: &str) {
        let killed = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(killed.unwrap().success());
    }

    pub(crate) fn wait(mut self) -> Ran {
        let left = || LIMIT.saturating_sub(self.started.elapsed());
        let stdout = self.stdout.recv_timeout(left());
        let stderr = self.stderr.recv_timeout(left());
        let in_time = stdout.is_ok() && stderr.is_ok();
        if !in_time {
            self.child.kill().unwrap();
        }
        let status = self.child.wait().unwrap();
        let late = |receiver: &Receiver<String>| receiver.recv_timeout(LIMIT).unwrap_or_default();
        let ran = Ran {
            args: self.args,
            code: status.code(),
            stdout: stdout.unwrap_or_else(|_| late(&self.stdout)),
            stderr: stderr.unwrap_or_else(|_| late(&self.stderr)),
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
