//! Commands in containers (`pods/exec`, over WebSocket): what they write as it comes, and how they ended.

use std::{collections::VecDeque, fmt, time::Duration};

use bytes::Bytes;
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use http::StatusCode;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status as RawStatus;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::{
    connect::Cluster,
    credentials::Login,
    error::ApiError,
    forward::failed,
    request::{Failed, Retry, is_object_name},
};
use crate::{
    cause::Cause,
    text::sanitize,
    throttle::{Turn, Work},
};

/// The longest line that is kept whole, in bytes; of a longer one only the beginning is.
const LINE: usize = 16 << 10;

/// How often the connection shows that it is alive: something in between may close one that is silent.
const PING: Duration = Duration::from_secs(20);

/// How long the other side may be silent that has answered pings before: as kubectl has it, and some more.
const SILENCE: Duration = Duration::from_secs(90);

/// The channels of `v4.channel.k8s.io` and `v5.channel.k8s.io`: the first byte of a frame.
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const STATUS: u8 = 3;

/// Which of a command's streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Its standard output.
    Out,
    /// Its standard error.
    Err,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// With this exit code.
    Exited(i32),
    /// It was not run, or its node cannot say how it ended: why.
    Failed(String),
    /// The connection broke: why. The command may go on.
    Lost(String),
}

impl Cluster {
    /// Runs a command in a container, without a terminal and without a standard input.
    ///
    /// Needs `get` and, since Kubernetes 1.35, `create` of `pods/exec`. The connection is kept alive by pings as long as
    /// somebody waits for a line.
    ///
    /// # Errors
    /// As [`Cluster::request`]. It is tried again only where the server did nothing.
    pub async fn execute(
        &self,
        namespace: &str,
        pod: &str,
        container: Option<&str>,
        command: &[&str],
    ) -> Result<Execution, ApiError> {
        if !is_object_name(namespace) || !is_object_name(pod) {
            return Err(ApiError::Invalid { message: format!("{}: no pod has such a name", sanitize(pod)) });
        }
        let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/exec");
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("stdout", "true").append_pair("stderr", "true");
        query.extend_pairs(container.map(|container| ("container", container)));
        query.extend_pairs(command.iter().map(|word| ("command", word)));
        let query = query.finish();
        let (path, query) = (&path, &query);
        let attempt = |login| async move { self.start(&login, path, query).await };
        self.attempts(Retry::Unsent, Work::Read, &mut Turn::free(), attempt).await
    }

    async fn start(&self, login: &Login, path: &str, query: &str) -> Result<Execution, Failed> {
        let client = self.upgrading_client(login)?;
        let request = http::Request::get(format!("{path}?{query}")).body(Vec::new());
        let request = request.map_err(|error| ApiError::Invalid { message: sanitize(&error.to_string()) })?;
        let begin = Instant::now();
        let answer = client.connect(request);
        let result = match self.answer_limit() {
            Some(limit) => tokio::time::timeout(limit, answer)
                .await
                .map_err(|_| Failed::from(ApiError::Timeout("waiting for the command to start"))),
            None => Ok(answer.await),
        };
        let result = result.and_then(|answer| answer.map_err(failed));
        let outcome = result.as_ref().map(|_| StatusCode::SWITCHING_PROTOCOLS);
        self.note(&http::Method::GET, path, begin.elapsed(), outcome);
        result.map(|connection| Execution::of(connection.into_stream()))
    }
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// A command that runs. The connection ends when this is dropped, which need not end the command.
pub struct Execution {
    sink: SplitSink<Socket, Message>,
    stream: SplitStream<Socket>,
    out: Lines,
    err: Lines,
    ping: Interval,
    /// When the other side was last heard.
    heard: Instant,
    answers_pings: bool,
    ended: Option<Ended>,
}

impl fmt::Debug for Execution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Execution").field("ended", &self.ended).finish_non_exhaustive()
    }
}

impl Execution {
    fn of(socket: Socket) -> Self {
        let (sink, stream) = socket.split();
        let mut ping = tokio::time::interval_at(Instant::now() + PING, PING);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            sink,
            stream,
            out: Lines::default(),
            err: Lines::default(),
            ping,
            heard: Instant::now(),
            answers_pings: false,
            ended: None,
        }
    }

    /// The next line of either stream, without its end; `None` once the command has ended, or the connection. Nothing is
    /// lost if it is not waited for any longer.
    pub async fn line(&mut self) -> Option<(Stream, String)> {
        loop {
            if let Some(line) = self.out.ready.pop_front() {
                return Some((Stream::Out, line));
            }
            if let Some(line) = self.err.ready.pop_front() {
                return Some((Stream::Err, line));
            }
            if self.ended.is_some() {
                return None;
            }
            tokio::select! {
                message = self.stream.next() => self.take(message),
                _ = self.ping.tick() => {
                    if self.answers_pings && self.heard.elapsed() > SILENCE {
                        self.end_with(Ended::Lost("the other side is silent".to_owned()));
                    } else if let Err(error) = self.sink.send(Message::Ping(Bytes::new())).await {
                        self.end_with(Ended::Lost(Cause::of(&error).text));
                    }
                }
            }
        }
    }

    /// How it ended, once there are no more lines; what was not read is lost.
    pub async fn end(mut self) -> Ended {
        while self.line().await.is_some() {}
        self.ended.unwrap_or_else(|| Ended::Lost("it has no end".to_owned()))
    }

    fn take(&mut self, message: Option<Result<Message, tokio_tungstenite::tungstenite::Error>>) {
        self.heard = Instant::now();
        match message {
            Some(Ok(Message::Binary(frame))) => match frame.split_first() {
                Some((&STDOUT, bytes)) => self.out.take(bytes),
                Some((&STDERR, bytes)) => self.err.take(bytes),
                Some((&STATUS, bytes)) if !bytes.is_empty() => {
                    let status = serde_json::from_slice(bytes);
                    self.end_with(status.map_or_else(
                        |error| Ended::Failed(sanitize(&format!("its end cannot be read: {error}"))),
                        |status| ended(&status),
                    ));
                }
                // Each channel begins with an empty frame.
                _ => {}
            },
            Some(Ok(Message::Pong(_))) => self.answers_pings = true,
            Some(Ok(Message::Close(_))) | None => {
                self.end_with(Ended::Lost("it was closed before the command had ended".to_owned()));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => self.end_with(Ended::Lost(Cause::of(&error).text)),
        }
    }

    fn end_with(&mut self, ended: Ended) {
        self.out.finish();
        self.err.finish();
        self.ended.get_or_insert(ended);
    }
}

/// What the error channel says in the end.
fn ended(status: &RawStatus) -> Ended {
    if status.status.as_deref() == Some("Success") {
        return Ended::Exited(0);
    }
    let causes = status.details.as_ref().and_then(|details| details.causes.as_ref());
    let code = causes.into_iter().flatten().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_ref()?.trim().parse().ok());
    match code {
        Some(code) => Ended::Exited(code),
        None => Ended::Failed(sanitize(status.message.as_deref().unwrap_or("the server does not say why"))),
    }
}

/// A stream in lines.
#[derive(Default)]
struct Lines {
    partial: Vec<u8>,
    ready: VecDeque<String>,
}

impl Lines {
    fn finish(&mut self) {
        if !self.partial.is_empty() {
            self.finish_line();
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.append(&bytes[..end]);
            self.finish_line();
            bytes = &bytes[end + 1..];
        }
        self.append(bytes);
    }

    fn append(&mut self, bytes: &[u8]) {
        let room = LINE.saturating_sub(self.partial.len());
        self.partial.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn finish_line(&mut self) {
        let line = std::mem::take(&mut self.partial);
        let line = line.strip_suffix(b"\r").unwrap_or(&line);
        self.ready.push_back(String::from_utf8_lossy(line).into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_were_cut() {
        let mut lines = Lines::default();
        for piece in ["a", "b\r\nc\n\nd", "e", "\n"] {
            lines.take(piece.as_bytes());
        }
        assert_eq!(lines.ready, ["ab", "c", "", "de"]);
        lines.take(&vec![b'x'; 3 * LINE]);
        lines.take(b"\ny\n");
        assert_eq!(lines.ready[4].len(), LINE);
        assert_eq!(lines.ready[5], "y");
        lines.take(b"no end");
        lines.finish();
        lines.finish();
        assert_eq!((lines.ready.len(), lines.ready[6].as_str()), (7, "no end"));
    }

    #[test]
    fn a_status_says_how_it_ended() {
        let read = |text: &str| ended(&serde_json::from_str(text).unwrap());
        assert_eq!(read(r#"{"metadata":{},"status":"Success"}"#), Ended::Exited(0));
        let code = r#"{"metadata":{},"status":"Failure","message":"command terminated with non-zero exit code: exit status 1",
            "reason":"NonZeroExitCode","details":{"causes":[{"reason":"ExitCode","message":"143"}]}}"#;
        assert_eq!(read(code), Ended::Exited(143));
        let failed = r#"{"metadata":{},"status":"Failure","message":"Internal error occurred: no\u001b[2J sh","code":500}"#;
        assert_eq!(read(failed), Ended::Failed("Internal error occurred: no\\u{1b}[2J sh".to_owned()));
    }
}
