//! Commands in pods over WebSocket, as the kubelet behind an API server runs them (`v5.channel.k8s.io`, and v4).
//!
//! Frames begin with the channel: 1 the command's stdout, 2 its stderr, 3 a `Status` at its end. What the registry's image
//! has is emulated: `/bin/sh` knows the scripts that look through `/proc` for hard prunes and end them, and a script that
//! ends in `exec /usr/bin/dockerregistry -prune=…` becomes that process. A process is the container's: it goes on when the
//! connection ends, unless [`Execs::end_with_connection`] says that its runtime ends it, and ends with its pod.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use bytes::{BufMut, BytesMut};
use futures::future::BoxFuture;
use futures::{FutureExt, SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::portforward::{Pod, gone, handshake, offered};
use super::resource::Resource;
use super::status::Failure;
use super::store::{Store, metadata};
use super::{Api, Call};
use crate::lock;
use crate::serve::{Body, full};

/// The subprotocols, the better one first.
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

/// The program that is hard prune.
const PROGRAM: &str = "/usr/bin/dockerregistry";

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;

/// What is started in a container.
#[derive(Clone, Debug)]
pub struct Start {
    /// Whether `-prune=delete`; otherwise `-prune=check`.
    pub delete: bool,
    /// `REGISTRY_LOG_LEVEL`, as the command or the container's environment has it.
    pub log_level: String,
    /// The user name of the pod's service account.
    pub account: String,
}

/// What `/usr/bin/dockerregistry` does.
pub trait Program: Send + Sync + std::fmt::Debug {
    /// Runs to its end, which is its exit code.
    fn run(&self, start: Start, output: Output) -> BoxFuture<'static, u8>;
}

/// Where a process writes to.
#[derive(Clone, Debug)]
pub struct Output {
    lines: mpsc::Sender<(u8, String)>,
    execs: Execs,
    deletes: bool,
}

impl Output {
    /// Writes a line to stdout.
    pub async fn out(&self, line: impl Into<String>) {
        self.line(STDOUT, line.into()).await;
    }

    /// Writes a line to stderr.
    pub async fn log(&self, line: impl Into<String>) {
        self.line(STDERR, line.into()).await;
    }

    /// Notes that something is deleted while a pod may take pushes.
    pub fn note_unguarded(&self) {
        lock(&self.execs.state).unguarded += 1;
    }

    async fn line(&self, channel: u8, line: String) {
        // Where nobody reads any more, it goes nowhere.
        let _ = self.lines.send((channel, line + "\n")).await;
        if self.deletes {
            self.execs.written().await;
        }
    }
}

/// A process in a pod.
#[derive(Debug)]
struct Process {
    id: u32,
    pod: String,
    command: String,
    /// The signal that ends it.
    kill: watch::Sender<Option<u8>>,
}

/// When a process that deletes waits.
#[derive(Debug, Default)]
struct Hold {
    /// After so many more lines.
    after: Option<usize>,
    holds: bool,
}

#[derive(Debug, Default)]
struct State {
    program: Option<Arc<dyn Program>>,
    processes: Vec<Process>,
    started: u32,
    ends_with_connection: bool,
    protocols: Vec<&'static str>,
    deaf: bool,
    unguarded: usize,
}

/// The processes in pods, and what tests do to them; clones share everything.
#[derive(Clone, Debug)]
pub struct Execs {
    state: Arc<Mutex<State>>,
    hold: watch::Sender<Hold>,
    cuts: watch::Sender<u64>,
}

impl Default for Execs {
    fn default() -> Self {
        let state = State { protocols: PROTOCOLS.to_vec(), ..State::default() };
        Self {
            state: Arc::new(Mutex::new(state)),
            hold: watch::Sender::new(Hold::default()),
            cuts: watch::Sender::new(0),
        }
    }
}

impl Execs {
    /// Gives the images of pods their program.
    pub fn install(&self, program: Arc<dyn Program>) {
        lock(&self.state).program = Some(program);
    }

    /// Speaks only this subprotocol.
    pub fn speak_only(&self, protocol: &'static str) {
        lock(&self.state).protocols = vec![protocol];
    }

    /// Has the node end processes whose connection ends, as some container runtimes do.
    pub fn end_with_connection(&self) {
        lock(&self.state).ends_with_connection = true;
    }

    /// Has processes heed no signal.
    pub fn make_deaf(&self, deaf: bool) {
        lock(&self.state).deaf = deaf;
    }

    /// Lets the next process that deletes wait after it has written so many lines.
    pub fn hold_after(&self, lines: usize) {
        self.hold.send_replace(Hold { after: Some(lines), holds: false });
    }

    /// Waits until a process waits.
    pub async fn wait_held(&self) {
        // It cannot fail: this value holds the sender.
        let _ = self.hold.subscribe().wait_for(|hold| hold.holds).await;
    }

    /// Lets it go on.
    pub fn release(&self) {
        self.hold.send_replace(Hold::default());
    }

    /// Cuts all connections to commands, as an API server does that is restarted.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// The command lines of the processes that run.
    #[must_use]
    pub fn processes(&self) -> Vec<String> {
        lock(&self.state).processes.iter().map(|process| process.command.clone()).collect()
    }

    /// How often something was deleted while a pod might have taken pushes.
    #[must_use]
    pub fn unguarded(&self) -> usize {
        lock(&self.state).unguarded
    }

    async fn written(&self) {
        let holds = self.hold.send_if_modified(|hold| match &mut hold.after {
            Some(1) => {
                *hold = Hold { after: None, holds: true };
                true
            }
            Some(lines) => {
                *lines -= 1;
                false
            }
            None => false,
        });
        if holds {
            let _ = self.hold.subscribe().wait_for(|hold| !hold.holds).await;
        }
    }

    fn of_pod(&self, pod: &str) -> Vec<(u32, String)> {
        let state = lock(&self.state);
        let own = state.processes.iter().filter(|process| process.pod == pod);
        own.map(|process| (process.id, process.command.clone())).collect()
    }

    fn kill(&self, pod: &str, ending: &str, signal: u8) {
        let state = lock(&self.state);
        for process in &state.processes {
            if process.pod == pod && process.command.contains(ending) && !(state.deaf && signal != 9) {
                process.kill.send_replace(Some(signal));
            }
        }
    }

    /// Starts a process; its exit code comes at its end.
    fn start(&self, pod: &str, start: &Start, pod_gone: BoxFuture<'static, ()>) -> Option<Started> {
        let (kill, mut killed) = watch::channel(None);
        let (program, id) = {
            let mut state = lock(&self.state);
            let program = state.program.clone()?;
            state.started += 1;
            let id = 40 + state.started;
            let mode = if start.delete { "delete" } else { "check" };
            let command = format!("{PROGRAM} -prune={mode}");
            state.processes.push(Process { id, pod: pod.to_owned(), command, kill });
            (program, id)
        };
        let (lines, output) = mpsc::channel(64);
        let execs = self.clone();
        let running =
            program.run(start.clone(), Output { lines, execs: self.clone(), deletes: start.delete });
        let task = tokio::spawn(async move {
            let code = tokio::select! {
                code = running => code,
                () = pod_gone => 137,
                signal = killed.wait_for(Option::is_some) => {
                    128 + signal.ok().and_then(|signal| *signal).unwrap_or(15)
                }
            };
            lock(&execs.state).processes.retain(|process| process.id != id);
            code
        });
        Some((output, task))
    }
}

/// What a process writes, and its exit code.
type Started = (mpsc::Receiver<(u8, String)>, tokio::task::JoinHandle<u8>);

/// What a command line means in the registry's image.
#[derive(Debug, PartialEq, Eq)]
enum Command {
    Prune { delete: bool, log_level: Option<String> },
    Find,
    Stop(String),
    Unknown,
}

impl Command {
    fn of(words: &[String]) -> Self {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            [PROGRAM, flag] => Self::prune(flag, None),
            ["/bin/sh", "-c", script, rest @ ..] => {
                if let Some((before, flag)) = script.split_once(&format!("exec {PROGRAM} ")) {
                    let level = before.split(' ').find_map(|word| word.strip_prefix("REGISTRY_LOG_LEVEL="));
                    return Self::prune(flag, level.map(ToOwned::to_owned));
                }
                match rest {
                    [_, "/proc", mode] if script.contains("kill ") => Self::Stop((*mode).to_owned()),
                    [_, "/proc"] if script.contains("cmdline") => Self::Find,
                    _ => Self::Unknown,
                }
            }
            _ => Self::Unknown,
        }
    }

    fn prune(flag: &str, log_level: Option<String>) -> Self {
        match flag {
            "-prune=check" => Self::Prune { delete: false, log_level },
            "-prune=delete" => Self::Prune { delete: true, log_level },
            _ => Self::Unknown,
        }
    }
}

impl Api {
    /// The processes in pods.
    #[must_use]
    pub fn execs(&self) -> &Execs {
        &self.execs
    }

    /// Answers a request for `pods/exec`, and runs the command once the connection is the WebSocket's.
    pub(super) fn execute(&self, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
        let (pods, pod) = self.pod_to_connect(call)?;
        let containers = pod["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let container = match call.query.get("container") {
            Some(wanted) => containers.iter().find(|container| container["name"] == wanted.as_str()),
            None => containers.first(),
        };
        let Some(container) = container else {
            let wanted = call.query.get("container").map(String::as_str).unwrap_or_default();
            return Err(Failure::bad_request(format!("container {wanted} is not valid for pod {name}")));
        };
        if call.commands.is_empty() {
            return Err(Failure::bad_request("you must specify at least 1 command for the container"));
        }
        let upgrade = match handshake(call.method, call.headers, call.upgrade.as_ref()) {
            Ok(upgrade) => upgrade.clone(),
            Err((code, problem)) => return Ok(super::text(code, problem)),
        };
        let spoken = lock(&self.execs.state).protocols.clone();
        let Some(protocol) = spoken.into_iter().find(|protocol| offered(call.headers, protocol)) else {
            return Ok(super::text(StatusCode::FORBIDDEN, "unable to negotiate a WebSocket subprotocol"));
        };
        let accept = call.headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
        let accept = accept.and_then(|accept| HeaderValue::from_str(accept.as_str()).ok());
        let Some(accept) = accept else {
            return Ok(super::text(StatusCode::BAD_REQUEST, "missing or bad Sec-WebSocket-Key"));
        };
        let account = pod["spec"]["serviceAccountName"].as_str().unwrap_or("default");
        let running = Running {
            execs: self.execs.clone(),
            command: Command::of(&call.commands),
            first: call.commands.first().cloned().unwrap_or_default(),
            log_level: log_level(container),
            account: format!("system:serviceaccount:{namespace}:{account}"),
            pod: Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                uid: metadata(&pod, "uid").to_owned(),
                ip: None,
            },
            store: self.store.clone(),
        };
        tokio::spawn(async move {
            let Ok(stream) = upgrade.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
            let mut cuts = running.execs.cuts.subscribe();
            let (store, watched) = (running.store.clone(), running.pod.clone());
            tokio::select! {
                () = running.serve(socket, pods) => {}
                () = gone(&store, pods, &watched) => {}
                _ = cuts.changed() => {}
            }
        });
        let mut answer = Response::new(full(""));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
        Ok(answer)
    }
}

/// `REGISTRY_LOG_LEVEL` of the container; a hard prune without one says warnings only.
fn log_level(container: &Value) -> String {
    let mut env = container["env"].as_array().into_iter().flatten();
    let level = env.find(|entry| entry["name"] == "REGISTRY_LOG_LEVEL");
    level.and_then(|entry| entry["value"].as_str()).unwrap_or("warning").to_owned()
}

/// A command about to run.
struct Running {
    execs: Execs,
    command: Command,
    first: String,
    log_level: String,
    account: String,
    pod: Pod,
    store: Store,
}

impl Running {
    async fn serve<S>(self, socket: WebSocketStream<S>, pods: &'static Resource)
    where
        S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let (mut sink, mut stream) = socket.split();
        // What the client sends is of no interest; reading it answers its pings and shows its end.
        let (left, mut client_left) = watch::channel(false);
        let reading = async move {
            while let Some(Ok(message)) = stream.next().await {
                if matches!(message, Message::Close(_)) {
                    break;
                }
            }
            left.send_replace(true);
            std::future::pending::<()>().await;
        };
        let Self { execs, command, first, log_level, account, pod, store } = self;
        let running = async move {
            let mut said = VecDeque::new();
            let code = match command {
                Command::Unknown => Err(format!(
                    "Internal error occurred: error executing command in container: {first}: no such file or directory"
                )),
                Command::Find => {
                    said.extend(
                        execs.of_pod(&pod.uid).into_iter().map(|(id, line)| format!("{id} {line} \n")),
                    );
                    Ok(0)
                }
                Command::Stop(mode) => {
                    let ending = format!("-prune={mode}");
                    execs.kill(&pod.uid, &ending, 15);
                    let deaf = lock(&execs.state).deaf;
                    while !deaf && execs.of_pod(&pod.uid).iter().any(|(_, line)| line.contains(&ending)) {
                        tokio::task::yield_now().await;
                    }
                    let left = execs.of_pod(&pod.uid).iter().any(|(_, line)| line.contains(&ending));
                    Ok(u8::from(left))
                }
                Command::Prune { delete, log_level: own } => {
                    let log_level = own.unwrap_or(log_level);
                    let watched = pod.clone();
                    let pod_gone = async move { gone(&store, pods, &watched).await }.boxed();
                    match execs.start(&pod.uid, &Start { delete, log_level, account }, pod_gone) {
                        None => Err(format!(
                            "Internal error occurred: error executing command in container: {PROGRAM}: no such file or directory"
                        )),
                        Some((mut output, task)) => {
                            loop {
                                let line = tokio::select! {
                                    line = output.recv() => line,
                                    _ = client_left.wait_for(|left| *left) => {
                                        if lock(&execs.state).ends_with_connection {
                                            execs.kill(&pod.uid, PROGRAM, 13);
                                        }
                                        return;
                                    }
                                };
                                let Some((channel, line)) = line else { break };
                                if sink.send(frame(channel, line.as_bytes())).await.is_err() {
                                    return;
                                }
                            }
                            Ok(task.await.unwrap_or(2))
                        }
                    }
                }
            };
            for line in said {
                if sink.send(frame(STDOUT, line.as_bytes())).await.is_err() {
                    return;
                }
            }
            // The client may be gone already.
            let _ = sink.send(frame(ERROR, status(code).to_string().as_bytes())).await;
            let _ = sink.send(Message::Close(None)).await;
            let _ = sink.close().await;
        };
        tokio::select! {
            () = running => {}
            () = reading => {}
        }
    }
}

/// The end of a command, as the API server says it.
fn status(code: Result<u8, String>) -> Value {
    match code {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "reason": "NonZeroExitCode",
            "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
        }),
        Err(message) => json!({
            "metadata": {}, "status": "Failure", "message": message, "reason": "InternalError", "code": 500,
            "details": { "causes": [{ "message": message }] },
        }),
    }
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(1 + data.len());
    frame.put_u8(channel);
    frame.put_slice(data);
    Message::Binary(frame.freeze())
}
