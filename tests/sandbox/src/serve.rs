//! Serves a handler on a listener, with or without TLS, with faults and a request log.
//!
//! Both halves of the sandbox are handlers: what a handler never sees (faults, the log, TLS, cut connections) is here.

use std::convert::Infallible;
use std::fmt;
use std::future::pending;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{Stream, StreamExt, future, stream};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http::{HeaderValue, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::fault::{Action, Answer, Faults};
use crate::log::{RequestLog, Server};
use crate::tls::ServerTls;

/// The body of an answer. An error in it cuts the connection.
pub type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Answers a request whose body has been read. Handlers are shared by all connections.
///
/// A handler may put a [`User`] into the extensions of its answer (for the log), and finds a [`User`] in those of the
/// request if the client showed a certificate of the sandbox's authority. `hyper::upgrade::on` works on the request.
pub type Handler = Arc<dyn Fn(Request<Bytes>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// An authenticated user, as an extension of a request or an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User(pub String);

/// A body that is there at once.
#[must_use]
pub fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

/// What is served.
#[derive(Clone)]
pub struct Service {
    /// The name under which requests are logged and faults matched.
    pub server: Server,
    /// Answers requests.
    pub handler: Handler,
    /// Looked at before each request.
    pub faults: Faults,
    /// Where requests are written down.
    pub log: RequestLog,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A listener being served. Dropping it closes the listener and all its connections.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    task: AbortHandle,
}

impl Serving {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Listens on a free port of 127.0.0.1.
#[must_use]
pub fn listen() -> TcpListener {
    TcpListener::bind(("127.0.0.1", 0)).expect("listen on 127.0.0.1")
}

/// Serves on the listener until the returned value is dropped; with `tls` as https, else as http.
#[must_use]
pub fn serve(runtime: &Handle, listener: TcpListener, tls: Option<ServerTls>, service: Service) -> Serving {
    let address = listener.local_addr().expect("the listener's address");
    listener.set_nonblocking(true).expect("a non-blocking listener");
    let task = runtime.spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        // Connections die with this task: they are in its set.
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    connections.spawn(connection(stream, tls.clone(), service.clone()));
                },
                Some(_) = connections.join_next() => {}
            }
        }
    });
    Serving { address, task: task.abort_handle() }
}

/// Waits for Ctrl-C or, where there is such a thing, SIGTERM: a program that returns then ends what it started, too.
pub async fn asked_to_stop() {
    #[cfg(unix)]
    let terminated = async {
        let kind = tokio::signal::unix::SignalKind::terminate();
        tokio::signal::unix::signal(kind).expect("wait for SIGTERM").recv().await
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        result = tokio::signal::ctrl_c() => result.expect("wait for Ctrl-C"),
        _ = terminated => {}
    }
}

async fn connection(mut stream: TcpStream, tls: Option<ServerTls>, service: Service) {
    // Without this, small answers wait for the client's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return http(stream, None, service).await };
    let mut first = [0];
    if !matches!(stream.peek(&mut first).await, Ok(1)) {
        return;
    }
    // A TLS connection begins with a handshake record, and Go's server tells others so in plain text.
    if first != [0x16] {
        let answer = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
        let _ = stream.write_all(answer).await;
        let _ = stream.shutdown().await;
        return;
    }
    if let Ok(stream) = TlsAcceptor::from(tls.config.clone()).accept(stream).await {
        let user = tls.client_user(stream.get_ref().1.peer_certificates()).map(User);
        http(stream, user, service).await;
    }
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    user: Option<User>,
    service: Service,
) {
    let answer = service_fn(move |request| {
        let (service, user) = (service.clone(), user.clone());
        async move { service.answer(request, user).await }
    });
    // An error means that the client left or a fault cut the connection.
    let _ = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // Otherwise idle connections are closed after 30 s, and a client's next request may meet the closing.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), answer)
        .with_upgrades()
        .await;
}

/// Tells hyper to close the connection without an answer.
fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, "cut by a fault")
}

impl Service {
    async fn answer(self, request: Request<Incoming>, user: Option<User>) -> io::Result<Response<Body>> {
        let (mut head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let sequence = self.log.arrived(self.server, &head, &body);
        let target = head.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let mut last = None;
        for action in self.faults.hit(self.server, &head.method, target) {
            match action {
                Action::Latency(pause) => tokio::time::sleep(pause).await,
                // A hook may block: it is the test's code.
                Action::Hook(hook) => {
                    let _ = tokio::task::spawn_blocking(move || hook()).await;
                }
                other => last = Some(other),
            }
        }
        let handled = match last {
            Some(Action::ResetBefore) => return Err(cut()),
            Some(Action::Hang) => return pending().await,
            Some(Action::Answer(ref answer)) => {
                self.log.update(sequence, |entry| entry.status = Some(answer.status));
                return Ok(standing_in(answer.clone()));
            }
            _ => {
                if let Some(user) = user {
                    head.extensions.insert(user);
                }
                (self.handler)(Request::from_parts(head, body)).await
            }
        };
        self.log.update(sequence, |entry| {
            entry.handled = true;
            entry.user = handled.extensions().get::<User>().map(|user| user.0.clone());
        });
        if let Some(Action::HookAfter(hook)) = &last {
            let hook = hook.clone();
            let _ = tokio::task::spawn_blocking(move || hook()).await;
        }
        let answer = match last {
            Some(Action::ResetAfter) => return Err(cut()),
            Some(Action::AnswerAfter(answer)) => standing_in(answer),
            Some(Action::Truncate(length)) => truncated(handled, length),
            Some(Action::Trickle(size, pause)) => trickling(handled, size, pause),
            Some(Action::SetHeaders(headers)) => {
                let mut answer = handled;
                answer.headers_mut().extend(headers);
                answer
            }
            Some(Action::ReplaceBody(body)) => {
                let mut answer = handled;
                answer.headers_mut().remove(CONTENT_LENGTH);
                answer.map(|_| full(body))
            }
            Some(Action::Flood(bytes)) => flooding(handled, bytes),
            _ => handled,
        };
        self.log.update(sequence, |entry| entry.status = Some(answer.status()));
        Ok(answer)
    }
}

fn standing_in(answer: Answer) -> Response<Body> {
    let mut response = Response::new(full(answer.body));
    *response.status_mut() = answer.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    for (name, value) in answer.headers {
        response.headers_mut().insert(name, value);
    }
    response
}

/// The data of a body, whose length the answer goes on to announce if it did before.
fn taken_apart(mut answer: Response<Body>) -> (Response<()>, impl Stream<Item = io::Result<Bytes>> + Send) {
    if let Some(length) = answer.body().size_hint().exact() {
        answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    }
    let (head, body) = answer.into_parts();
    let data = BodyStream::new(body)
        .filter_map(|frame| future::ready(frame.map(|frame| frame.into_data().ok()).transpose()));
    (Response::from_parts(head, ()), data)
}

fn streamed(
    head: Response<()>,
    data: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Response<Body> {
    head.map(|()| StreamBody::new(data.map(|data| data.map(Frame::data))).boxed_unsync())
}

fn truncated(answer: Response<Body>, length: usize) -> Response<Body> {
    let (head, data) = taken_apart(answer);
    let kept = data
        .scan(Some(length), |left, data| {
            let piece = left.map(|wanted| {
                data.map(|data| {
                    let piece = data.slice(..wanted.min(data.len()));
                    // Nothing left to send: the stream has to end now, not when more data comes.
                    *left = Some(wanted - piece.len()).filter(|rest| *rest > 0);
                    (piece, left.is_none())
                })
            });
            future::ready(piece)
        })
        .flat_map(|piece| match piece {
            Ok((piece, false)) => stream::once(future::ready(Ok(piece))).boxed(),
            Ok((piece, true)) => stream::once(future::ready(Ok(piece))).chain(late_cut()).boxed(),
            Err(error) => stream::once(future::ready(Err(error))).boxed(),
        })
        .chain(late_cut());
    streamed(head, kept)
}

/// Cuts the connection once hyper has had the time to send what came before.
fn late_cut() -> impl Stream<Item = io::Result<Bytes>> {
    stream::once(async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Err(cut())
    })
}

/// Spaces are what a JSON reader skips without an end.
fn flooding(mut answer: Response<Body>, bytes: u64) -> Response<Body> {
    const PIECE: &[u8] = &[b' '; 64 << 10];
    answer.headers_mut().remove(CONTENT_LENGTH);
    let pieces = stream::iter((0..bytes.div_ceil(PIECE.len() as u64)).map(|_| Ok(Bytes::from_static(PIECE))));
    streamed(answer.map(|_| ()), pieces)
}

fn trickling(answer: Response<Body>, size: usize, pause: Duration) -> Response<Body> {
    let (head, data) = taken_apart(answer);
    let pieces = data
        .flat_map(move |data| {
            let pieces: Vec<io::Result<Bytes>> = match data {
                Ok(data) => {
                    let ends = (0..data.len())
                        .step_by(size.max(1))
                        .map(|start| start..data.len().min(start + size.max(1)));
                    ends.map(|range| Ok(data.slice(range))).collect()
                }
                Err(error) => vec![Err(error)],
            };
            stream::iter(pieces)
        })
        .then(move |piece| async move {
            tokio::time::sleep(pause).await;
            piece
        });
    streamed(head, pieces)
}
