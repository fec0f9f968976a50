//! The registry's service: an address of its own that leads to one of the endpoints, whichever.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use fastrand::Rng;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};

use crate::cluster::Running;
use crate::workload::{NAME, NAMESPACE};

/// Leads each connection to an endpoint, until the returned task is aborted.
pub(crate) fn serve(running: &Arc<Running>, listener: TcpListener, seed: u64) -> AbortHandle {
    listener.set_nonblocking(true).expect("a non-blocking listener");
    let running = running.clone();
    let mut random = Rng::with_seed(seed);
    let task = running.runtime().clone().spawn(async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    let endpoints = endpoints(&running);
                    let chosen = random.choice(endpoints);
                    connections.spawn(lead(stream, chosen));
                },
                Some(_) = connections.join_next() => {}
            }
        }
    });
    task.abort_handle()
}

/// Where the endpoints really listen.
fn endpoints(running: &Running) -> Vec<SocketAddr> {
    let Some(object) = running.api().store().get("endpoints", NAMESPACE, NAME) else { return Vec::new() };
    let subsets = object["subsets"].as_array();
    let addresses =
        subsets.into_iter().flatten().filter_map(|subset| subset["addresses"].as_array()).flatten();
    addresses.filter_map(|address| running.address_of(address["targetRef"]["name"].as_str()?)).collect()
}

/// Without an endpoint, or with one that is gone, the connection ends at once.
async fn lead(mut stream: TcpStream, endpoint: Option<SocketAddr>) {
    let Some(endpoint) = endpoint else { return };
    if let Ok(mut replica) = TcpStream::connect(endpoint).await {
        let _ = stream.set_nodelay(true);
        let _ = replica.set_nodelay(true);
        // Either side may leave.
        let _ = copy_bidirectional(&mut stream, &mut replica).await;
    }
}
