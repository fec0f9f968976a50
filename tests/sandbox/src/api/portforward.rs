//! Port-forwards to pods over WebSocket, as the kubelet behind an API server speaks them (`v4.channel.k8s.io`).
//!
//! Each port has a channel for data and one for errors; the first frame of each says which port it is. Nothing tells a
//! client that one direction has ended: the pod's end ends the port, and the end of all ports the connection.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, Stream, StreamExt, future};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION,
    UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{self, Message};

use super::resource::Resource;
use super::status::{Failure, Target};
use super::store::{Store, metadata};
use super::{Api, Call};
use crate::lock;
use crate::serve::{Body, full};

/// The only subprotocol: binary frames, the first byte is the channel.
const PROTOCOL: &str = "v4.channel.k8s.io";

/// How long the pod's side may still answer when the client's has ended.
const LINGER: Duration = Duration::from_secs(1);

/// Namespace, pod and port.
type Port = (String, String, u16);

/// Where the ports of pods really listen, and what is open to them; clones share everything.
#[derive(Clone, Debug)]
pub struct Forwards {
    ports: Arc<Mutex<HashMap<Port, SocketAddr>>>,
    open: watch::Sender<usize>,
    cuts: watch::Sender<u64>,
}

impl Default for Forwards {
    fn default() -> Self {
        Self { ports: Arc::default(), open: watch::Sender::new(0), cuts: watch::Sender::new(0) }
    }
}

impl Forwards {
    /// Says where a port of a pod really listens; without it, that is the pod's IP and the same port.
    pub fn map(&self, namespace: &str, pod: &str, port: u16, address: SocketAddr) {
        lock(&self.ports).insert((namespace.to_owned(), pod.to_owned(), port), address);
    }

    /// Forgets where the ports of a pod listen.
    pub fn forget(&self, namespace: &str, pod: &str) {
        lock(&self.ports).retain(|(in_namespace, of_pod, _), _| in_namespace != namespace || of_pod != pod);
    }

    /// Cuts all port-forwards that are open, as an API server does that is restarted.
    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// How many port-forwards are open.
    #[must_use]
    pub fn open(&self) -> usize {
        *self.open.borrow()
    }

    /// Waits until this many port-forwards are open.
    pub async fn wait_open(&self, wanted: usize) {
        // It cannot fail: this value holds the sender.
        let _ = self.open.subscribe().wait_for(|open| *open == wanted).await;
    }

    fn address(&self, namespace: &str, pod: &str, port: u16) -> Option<SocketAddr> {
        lock(&self.ports).get(&(namespace.to_owned(), pod.to_owned(), port)).copied()
    }
}

/// A pod that ports are forwarded to, or that runs a command.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) ip: Option<IpAddr>,
}

impl Api {
    /// Where the ports of pods really listen.
    #[must_use]
    pub fn forwards(&self) -> &Forwards {
        &self.forwards
    }

    /// The pod of a request that becomes a connection to it, if it runs somewhere and the user may connect.
    pub(super) fn pod_to_connect(
        &self,
        call: &Call<'_>,
    ) -> Result<(&'static Resource, serde_json::Value), Failure> {
        let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
        // Whoever opens a WebSocket asks with GET, and has to have the right to POST all the same.
        let target = Target { name, ..call.info.target() };
        if self.reason(call.user, "create", &target).is_none() {
            return Err(Failure::forbidden(call.user, "create", &target));
        }
        let pods = Resource::find("", "pods").ok_or_else(Failure::no_such_resource)?;
        let pod =
            self.store.find(pods, namespace, name).ok_or_else(|| Failure::not_found(pods, name))?.value();
        if pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
            return Err(Failure::bad_request(format!("pod {name} does not have a host assigned")));
        }
        Ok((pods, pod))
    }

    /// Answers a request for `pods/portforward`, and forwards once the connection is the WebSocket's.
    pub(super) fn port_forward(&self, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
        let (pods, pod) = self.pod_to_connect(call)?;
        let upgrade = match handshake(call.method, call.headers, call.upgrade.as_ref()) {
            Ok(upgrade) => upgrade.clone(),
            Err((code, problem)) => return Ok(super::text(code, problem)),
        };
        // Servers from before the tunnelling of SPDY refuse `SPDY/3.1+portforward.k8s.io` like this.
        if !offered(call.headers, PROTOCOL) {
            return Ok(super::text(StatusCode::FORBIDDEN, "unable to negotiate a WebSocket subprotocol"));
        }
        // Only for WebSockets: clients that speak SPDY name the ports in its streams.
        let ports = ports(call.ports.iter().map(String::as_str))?;
        let accept = call.headers.get(SEC_WEBSOCKET_KEY).map(|key| derive_accept_key(key.as_bytes()));
        let accept = accept.and_then(|accept| HeaderValue::from_str(accept.as_str()).ok());
        let Some(accept) = accept else {
            return Ok(super::text(StatusCode::BAD_REQUEST, "missing or bad Sec-WebSocket-Key"));
        };

        let ip = pod["status"]["podIP"].as_str().and_then(|ip| ip.parse().ok());
        let uid = metadata(&pod, "uid").to_owned();
        let pod = Pod { namespace: namespace.to_owned(), name: name.to_owned(), uid, ip };
        let (forwards, store) = (self.forwards.clone(), self.store.clone());
        tokio::spawn(async move {
            let Ok(stream) = upgrade.await else { return };
            let socket = WebSocketStream::from_raw_socket(TokioIo::new(stream), Role::Server, None).await;
            forwards.open.send_modify(|open| *open += 1);
            let mut cuts = forwards.cuts.subscribe();
            tokio::select! {
                () = forward(socket, &ports, &pod, &forwards) => {}
                () = gone(&store, pods, &pod) => {}
                _ = cuts.changed() => {}
            }
            forwards.open.send_modify(|open| *open -= 1);
        });

        let mut answer = Response::new(full(""));
        *answer.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = answer.headers_mut();
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(PROTOCOL));
        Ok(answer)
    }
}

/// The ports that a request names: `ports=5000&ports=5001`, or `ports=5000,5001`.
fn ports<'a>(named: impl Iterator<Item = &'a str>) -> Result<Vec<u16>, Failure> {
    let named: Vec<&str> = named.flat_map(|list| list.split(',')).collect();
    if named.is_empty() {
        return Err(Failure::bad_request("query parameter \"ports\" is required"));
    }
    let port = |text: &str| match text.parse::<u16>() {
        Ok(0) => Err(Failure::bad_request(format!("port {text:?} must be > 0"))),
        Ok(port) => Ok(port),
        Err(_) => Err(Failure::bad_request(format!("unable to parse {text:?} as a port"))),
    };
    named.into_iter().map(port).collect()
}

/// Whether one of a header's values is this.
fn has(headers: &HeaderMap, name: HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// Whether the client can speak this subprotocol.
pub(super) fn offered(headers: &HeaderMap, protocol: &str) -> bool {
    has(headers, SEC_WEBSOCKET_PROTOCOL, protocol)
}

/// Checks what a client must send to open a WebSocket, and takes the connection.
pub(super) fn handshake<'a>(
    method: &Method,
    headers: &HeaderMap,
    upgrade: Option<&'a OnUpgrade>,
) -> Result<&'a OnUpgrade, (StatusCode, &'static str)> {
    let has = |name, wanted| has(headers, name, wanted);
    let upgrade = upgrade
        .filter(|_| has(CONNECTION, "upgrade"))
        .ok_or((StatusCode::BAD_REQUEST, "Upgrade request required"))?;
    if method != Method::GET || !has(UPGRADE, "websocket") {
        return Err((StatusCode::BAD_REQUEST, "unable to upgrade: only WebSockets are spoken here"));
    }
    if !has(SEC_WEBSOCKET_VERSION, "13") {
        return Err((StatusCode::BAD_REQUEST, "unsupported WebSocket version"));
    }
    Ok(upgrade)
}

/// Waits until the pod is gone.
pub(super) async fn gone(store: &Store, pods: &'static Resource, pod: &Pod) {
    let mut revisions = store.subscribe();
    let mut seen = 0;
    loop {
        let Some(found) = store.find(pods, &pod.namespace, &pod.name) else { return };
        if found.revision != seen {
            seen = found.revision;
            if metadata(&found.value(), "uid") != pod.uid {
                return;
            }
        }
        if revisions.changed().await.is_err() {
            return;
        }
    }
}

/// Forwards until all ports have ended, or the client.
async fn forward<S>(socket: WebSocketStream<S>, ports: &[u16], pod: &Pod, forwards: &Forwards)
where
    WebSocketStream<S>: Stream<Item = tungstenite::Result<Message>>
        + futures::Sink<Message, Error = tungstenite::Error>
        + Unpin,
{
    let (mut sink, stream) = socket.split();
    let (frames, mut waiting) = mpsc::channel::<Message>(16);
    let (inputs, outputs): (Vec<_>, Vec<_>) = ports.iter().map(|_| mpsc::channel::<Bytes>(4)).unzip();
    let running = ports.iter().zip(outputs).enumerate().map(|(index, (&port, from_client))| {
        let address = forwards
            .address(&pod.namespace, &pod.name, port)
            .or_else(|| pod.ip.map(|ip| SocketAddr::new(ip, port)));
        // Channels are numbered in a byte: a client that names more ports than that gets no further ones.
        let channel = u8::try_from(2 * index).unwrap_or(u8::MAX - 1);
        forward_port(port, channel, address, pod, from_client, frames.clone())
    });
    let running = future::join_all(running.collect::<Vec<_>>());
    drop(frames);
    let sending = async {
        while let Some(frame) = waiting.recv().await {
            if sink.send(frame).await.is_err() {
                return;
            }
        }
        // The client may be gone already.
        let _ = sink.send(Message::Close(None)).await;
        let _ = sink.close().await;
    };
    let receiving = async {
        receive(stream, inputs).await;
        tokio::time::sleep(LINGER).await;
    };
    tokio::select! {
        _ = future::join(running, sending) => {}
        () = receiving => {}
    }
}

/// Hands what the client sends to its port, until the client ends.
async fn receive(
    mut stream: impl Stream<Item = tungstenite::Result<Message>> + Unpin,
    inputs: Vec<mpsc::Sender<Bytes>>,
) {
    while let Some(Ok(message)) = stream.next().await {
        match message {
            Message::Binary(mut frame) if frame.len() > 1 => {
                let channel = usize::from(frame.split_to(1)[0]);
                // A client has nothing to say on a channel for errors.
                if let Some(input) = inputs.get(channel / 2).filter(|_| channel.is_multiple_of(2)) {
                    // The port may have ended.
                    let _ = input.send(frame).await;
                }
            }
            Message::Close(_) => return,
            _ => {}
        }
    }
}

fn frame(channel: u8, data: &[u8]) -> Message {
    let mut frame = BytesMut::with_capacity(1 + data.len());
    frame.put_u8(channel);
    frame.put_slice(data);
    Message::Binary(frame.freeze())
}

/// Forwards one port until the pod ends its connection.
async fn forward_port(
    port: u16,
    channel: u8,
    address: Option<SocketAddr>,
    pod: &Pod,
    from_client: mpsc::Receiver<Bytes>,
    frames: mpsc::Sender<Message>,
) {
    for channel in [channel, channel + 1] {
        if frames.send(frame(channel, &port.to_le_bytes())).await.is_err() {
            return;
        }
    }
    let connected = match address {
        Some(address) => TcpStream::connect(address).await,
        None => Err(io::ErrorKind::AddrNotAvailable.into()),
    };
    let problem = match connected {
        Ok(stream) => copy(stream, channel, from_client, &frames).await.err().map(|error| error.to_string()),
        Err(_) => Some(format!("dial tcp4 127.0.0.1:{port}: connect: connection refused")),
    };
    if let Some(problem) = problem {
        let uid = &pod.uid;
        let message = format!(
            "error forwarding port {port} to pod {uid}, uid : port forward into network namespace \
             \"/var/run/netns/{uid}\": {problem}"
        );
        // The client may be gone.
        let _ = frames.send(frame(channel + 1, message.as_bytes())).await;
    }
}

async fn copy(
    mut stream: TcpStream,
    channel: u8,
    mut from_client: mpsc::Receiver<Bytes>,
    frames: &mpsc::Sender<Message>,
) -> io::Result<()> {
    let _ = stream.set_nodelay(true);
    let (mut reader, mut writer) = stream.split();
    let to_client = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let length = reader.read(&mut buffer).await?;
            if length == 0 || frames.send(frame(channel, &buffer[..length])).await.is_err() {
                return io::Result::Ok(());
            }
        }
    };
    let to_pod = async {
        while let Some(data) = from_client.recv().await {
            writer.write_all(&data).await?;
        }
        writer.shutdown().await?;
        // The pod may have more to say.
        pending::<io::Result<()>>().await
    };
    tokio::select! {
        result = to_client => result,
        result = to_pod => result,
    }
}

/// The values of a parameter in a query, in order.
pub(super) fn values(query: Option<&str>, parameter: &str) -> Vec<String> {
    let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    pairs.filter(|(name, _)| name == parameter).map(|(_, value)| value.into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ports() {
        let named = |query: &str| ports(values(Some(query), "ports").iter().map(String::as_str)).ok();
        assert_eq!(named("ports=5000"), Some(vec![5000]));
        assert_eq!(named("ports=5000%2C5001&x=1&ports=80"), Some(vec![5000, 5001, 80]));
        assert_eq!(named("ports=0"), None);
        assert_eq!(named("ports=http"), None);
        assert_eq!(named(""), None);
    }
}
