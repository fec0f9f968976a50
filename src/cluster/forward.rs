//! Port-forwards: a local port whose connections end in a pod (`pods/portforward`, over WebSocket).

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures::FutureExt as _;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    api::{Api, Portforwarder},
    client::UpgradeConnectionError,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, copy_bidirectional},
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};

use super::{
    connect::Cluster,
    credentials::Login,
    error::{ApiError, Status},
    request::{self, Failed, Retry, is_object_name},
};
use crate::{
    cause::{Cause, io_text},
    text::sanitize,
    throttle::{Turn, Work},
};

/// How long to wait for the word that nobody listens. The node connects to the port only after the upgrade was
/// answered, and says nothing if that went well; it takes about as long as the upgrade did.
const WORD: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// The pause after a connection could not be accepted, for want of file descriptors mostly.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A local port whose connections go to a port of a pod.
///
/// Each accepted connection is a port-forward of its own, so that one that fails takes down no other. All of them, and
/// the local port, end when this is dropped.
pub struct Forward {
    address: SocketAddr,
    target: Arc<Target>,
    task: AbortHandle,
}

impl fmt::Debug for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Forward").field(&self.address).field(&self.target).finish()
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Cluster {
    /// Opens a local port on 127.0.0.1 whose connections go to this port of the pod, and shows that it can be done.
    ///
    /// Needs `get` and, since Kubernetes 1.35, `create` of `pods/portforward`.
    ///
    /// # Errors
    /// As [`Cluster::request`]; [`ApiError::PortForward`] if nobody listens on the port.
    pub async fn forward(&self, namespace: &str, pod: &str, port: u16) -> Result<Forward, ApiError> {
        let target = Arc::new(Target {
            cluster: self.clone(),
            namespace: namespace.to_owned(),
            pod: pod.to_owned(),
            port,
            failure: Mutex::default(),
        });
        let begin = Instant::now();
        let mut first = target.open().await?;
        let [shortest, longest] = WORD;
        target.prove(&mut first, begin.elapsed().clamp(shortest, longest)).await?;
        let no_port = |error| ApiError::PortForward(format!("open a local port: {}", io_text(&error)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(no_port)?;
        let address = listener.local_addr().map_err(no_port)?;
        let task = tokio::spawn(serve(Arc::clone(&target), listener, first)).abort_handle();
        Ok(Forward { address, target, task })
    }
}

impl Forward {
    /// Where to connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Why the last connection could not be carried to the pod; `None` if it could.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.target.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The other end.
struct Target {
    cluster: Cluster,
    namespace: String,
    pod: String,
    port: u16,
    failure: Mutex<Option<String>>,
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

/// An open port-forward. What is left of it ends with it.
struct Open {
    stream: DuplexStream,
    /// What the pod has said already.
    read: BytesMut,
    /// The error channel: a text, or nothing once the port-forward has ended.
    error: Pin<Box<dyn Future<Output = Option<String>> + Send>>,
    forwarder: Forwarder,
}

struct Forwarder(Option<Portforwarder>);

impl Drop for Forwarder {
    fn drop(&mut self) {
        // Left alone it would wait for the server to close its side.
        if let Some(forwarder) = &self.0 {
            forwarder.abort();
        }
    }
}

impl Target {
    fn name(&self) -> String {
        format!("port {} of pod {}/{}", self.port, sanitize(&self.namespace), sanitize(&self.pod))
    }

    async fn open(&self) -> Result<Open, ApiError> {
        // They become parts of a path.
        if !is_object_name(&self.namespace) || !is_object_name(&self.pod) {
            return Err(ApiError::Invalid { message: format!("{}: no pod has such a name", self.name()) });
        }
        let mut forwarder = self
            .cluster
            .attempts(Retry::Idempotent, Work::Read, &mut Turn::free(), |login| async move {
                self.upgrade(&login).await
            })
            .await?;
        let (Some(stream), Some(error)) = (forwarder.take_stream(self.port), forwarder.take_error(self.port))
        else {
            return Err(ApiError::PortForward(format!("{}: it has no stream", self.name())));
        };
        Ok(Open {
            stream,
            read: BytesMut::new(),
            error: Box::pin(error),
            forwarder: Forwarder(Some(forwarder)),
        })
    }

    async fn upgrade(&self, login: &Login) -> Result<Portforwarder, Failed> {
        let client = self.cluster.upgrading_client(login)?;
        let pods: Api<Pod> = Api::namespaced(client, &self.namespace);
        let begin = Instant::now();
        let ports = [self.port];
        let answer = pods.portforward(&self.pod, &ports);
        let result = match self.cluster.answer_limit() {
            Some(limit) => tokio::time::timeout(limit, answer)
                .await
                .map_err(|_| Failed::from(ApiError::Timeout("waiting for the port-forward"))),
            None => Ok(answer.await),
        };
        let result = result.and_then(|answer| answer.map_err(failed));
        let path = format!(
            "/api/v1/namespaces/{}/pods/{}/portforward?ports={}",
            self.namespace, self.pod, self.port
        );
        let outcome = result.as_ref().map(|_| StatusCode::SWITCHING_PROTOCOLS);
        self.cluster.note(&http::Method::GET, &path, begin.elapsed(), outcome);
        result
    }

    /// Waits for a moment whether the pod's side ends at once.
    async fn prove(&self, open: &mut Open, limit: Duration) -> Result<(), ApiError> {
        let name = self.name();
        let why = tokio::select! {
            told = &mut open.error => match told {
                Some(told) => explain(&told),
                None => open.forwarder.ended().await,
            },
            // One that speaks first has shown all that there is to show.
            read = open.stream.read_buf(&mut open.read) => match read {
                Ok(1..) => return Ok(()),
                // What the error channel has to say comes before the end.
                Ok(0) | Err(_) => match open.error.as_mut().now_or_never().flatten() {
                    Some(told) => explain(&told),
                    None => "it was closed at once".to_owned(),
                },
            },
            () = tokio::time::sleep(limit) => return Ok(()),
        };
        Err(ApiError::PortForward(format!("{name}: {why}")))
    }

    /// Carries what an accepted connection sends and gets, until one side ends.
    async fn carry(&self, local: &mut TcpStream, kept: Option<Open>) -> Result<(), String> {
        let mut open = match kept.and_then(Open::if_usable) {
            Some(open) => open,
            None => self.open().await.map_err(|error| error.to_string())?,
        };
        self.note(None);
        if !open.read.is_empty() {
            local.write_all(&open.read).await.map_err(|error| io_text(&error))?;
        }
        let Open { stream, error, .. } = &mut open;
        let told = async {
            match error.await {
                Some(told) => explain(&told),
                // The end of the stream says the same, after the last byte.
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            told = told => Err(told),
            // An end is an end, whatever it is called: who speaks over the connection knows whether it is in time.
            _ = copy_bidirectional(local, stream) => Ok(()),
        }
    }

    fn note(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }
}

impl Open {
    /// Gives it back unless it has ended meanwhile.
    fn if_usable(mut self) -> Option<Self> {
        let has_ended = self.error.as_mut().now_or_never().is_some();
        let is_closed = matches!(self.stream.read_buf(&mut self.read).now_or_never(), Some(Ok(0) | Err(_)));
        (!has_ended && !is_closed).then_some(self)
    }
}

impl Forwarder {
    /// Why it has ended. It has, or is about to: its error channel is closed.
    async fn ended(&mut self) -> String {
        let Some(forwarder) = self.0.take() else { return "it has ended".to_owned() };
        match forwarder.join().await {
            Ok(()) => "it was closed at once".to_owned(),
            Err(error) => Cause::of(&error).text,
        }
    }
}

/// What the error channel says, in one line.
fn explain(told: &str) -> String {
    if told.contains("connection refused") {
        format!("nobody listens there ({})", sanitize(told))
    } else {
        sanitize(told)
    }
}

/// Accepts connections, and carries each on its own.
async fn serve(target: Arc<Target>, listener: TcpListener, first: Open) {
    let mut first = Some(first);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((mut local, _)) => {
                    // A connection is as good without it, only slower: small writes wait for an acknowledgement.
                    let _ = local.set_nodelay(true);
                    let (target, kept) = (Arc::clone(&target), first.take());
                    connections.spawn(async move {
                        if let Err(error) = target.carry(&mut local, kept).await {
                            tracing::debug!(to = ?target, error, "a connection cannot be forwarded");
                            // Before the connection ends: who sees the end may ask why.
                            target.note(Some(error));
                        }
                        drop(local);
                    });
                }
                Err(error) => {
                    tracing::debug!(to = ?target, %error, "a connection cannot be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The error of an upgrade that kube made.
pub(super) fn failed(error: kube::Error) -> Failed {
    match error {
        kube::Error::Api(status) => {
            let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            // What was no Status reaches us inside of one that kube made up.
            let was_status = status.reason != "Failed to parse error data";
            let body = if was_status {
                serde_json::json!({ "kind": "Status", "message": status.message }).to_string()
            } else {
                status.message
            };
            let error = ApiError::of_answer(code, body.as_bytes(), Status::read(body.as_bytes()));
            let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
            Failed { error, retry_after }
        }
        kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(code)) => ApiError::Malformed(
            format!("{code} instead of a WebSocket: does something in between not let WebSockets through?"),
        )
        .into(),
        kube::Error::UpgradeConnection(UpgradeConnectionError::GetPendingUpgrade(error)) => {
            ApiError::Connection(Cause::of(&error)).into()
        }
        kube::Error::UpgradeConnection(error) => {
            ApiError::Malformed(format!("no WebSocket: {}", sanitize(&error.to_string()))).into()
        }
        kube::Error::BuildRequest(error) => {
            ApiError::Invalid { message: sanitize(&error.to_string()) }.into()
        }
        error => request::of_connection(&error).into(),
    }
}
