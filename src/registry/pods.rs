//! The way through the API server: each new connection goes to a pod of the registry that is ready, by a port-forward.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Mutex;

use super::Announce;
use crate::cache::detect::{self, Need, Place, Pod, Reading, Rule};
use crate::cluster::{ApiError, Cluster, Forward};
use crate::text::{printable, sanitize};

/// How long one pod may take to be forwarded to before the next one is tried.
const FORWARD: Duration = Duration::from_secs(10);

/// How long the list of the pods may take where one is forwarded to already: a connection has its own time.
const LIST: Duration = Duration::from_secs(3);

/// Leads connections to a pod that is ready: to the same one as long as it is. Clones share what is open.
#[derive(Clone)]
pub(super) struct Pods {
    inner: Arc<Inner>,
}

struct Inner {
    cluster: Cluster,
    place: Place,
    selector: String,
    announce: Announce,
    /// Held while opening: connections that are made together need one port-forward.
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    current: Option<(Pod, Forward)>,
    /// Requests may still be under way there.
    earlier: Vec<Forward>,
}

/// Why no pod can be forwarded to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub(super) struct NoPod {
    /// In one line, safe to print.
    pub(super) why: String,
    /// The rights that are missing, of the same resource.
    pub(super) missing: Vec<Rule>,
}

impl NoPod {
    fn because(why: impl Into<String>) -> Self {
        Self { why: why.into(), missing: Vec::new() }
    }
}

impl fmt::Debug for Pods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pods").field(&self.inner.place).finish()
    }
}

impl Pods {
    /// The pods of the registry at this place. `announce` is told when another pod has to be taken.
    pub(super) fn new(cluster: Cluster, place: Place, selector: String, announce: Announce) -> Self {
        Self { inner: Arc::new(Inner { cluster, place, selector, announce, open: Mutex::default() }) }
    }

    /// Where the registry is.
    pub(super) fn place(&self) -> &Place {
        &self.inner.place
    }

    /// Where to connect to, and which pod that is.
    pub(super) async fn dial(&self) -> Result<(SocketAddr, String), NoPod> {
        let Inner { cluster, place, selector, announce, open } = &*self.inner;
        let mut open = open.lock().await;
        let ready = ready(cluster, place, selector);
        let ready = match &open.current {
            Some(_) => tokio::time::timeout(LIST, ready)
                .await
                .unwrap_or_else(|_| Err(NoPod::because("the registry's pods were not listed in time"))),
            None => ready.await,
        };
        if let Some((pod, forward)) = &open.current
            && forward.failure().is_none()
            // What cannot be asked may have stayed as it was.
            && ready.as_ref().map_or(true, |ready| ready.iter().any(|other| other.uid == pod.uid))
        {
            return Ok((forward.address(), pod.name.clone()));
        }
        let mut ready = ready?;
        if ready.is_empty()
            && let Some((pod, forward)) = &open.current
            && forward.failure().is_none()
        {
            // It leads somewhere still, and there is no better one.
            return Ok((forward.address(), pod.name.clone()));
        }
        let is_ready = |pod: &Pod| ready.iter().any(|other| other.uid == pod.uid);
        let failed_alone = open.current.as_ref().is_some_and(|(pod, _)| is_ready(pod));
        // One that failed may do so again.
        let failed = open.current.as_ref().map(|(pod, _)| pod.uid.clone());
        ready.sort_by_key(|pod| Some(&pod.uid) == failed.as_ref());
        let mut last = NoPod::because("no pod of the registry is ready");
        for pod in ready {
            match forward(cluster, place, &pod).await {
                Ok(forward) => {
                    let (address, name) = (forward.address(), pod.name.clone());
                    if let Some((before, earlier)) = open.current.replace((pod, forward)) {
                        if before.name != name {
                            let before = printable(&before.name);
                            let why = if failed_alone {
                                format!("that to pod {before} failed")
                            } else {
                                format!("pod {before} is no longer there or ready")
                            };
                            announce(&format!(
                                "the registry is now reached through a port-forward to pod {}: {why}",
                                printable(&name)
                            ));
                        }
                        open.earlier.push(earlier);
                    }
                    return Ok((address, name));
                }
                // Another pod would be as forbidden.
                Err(error) if !error.missing.is_empty() => return Err(error),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// The pods that are ready and stay.
async fn ready(cluster: &Cluster, place: &Place, selector: &str) -> Result<Vec<Pod>, NoPod> {
    let namespace = &place.namespace;
    match detect::pods(cluster, place, selector).await {
        Reading::Is(pods) => Ok(pods.into_iter().filter(Pod::takes_forward).collect()),
        Reading::Absent => Ok(Vec::new()),
        Reading::Unreadable { why, rule } => Err(NoPod {
            why: format!("list the pods of namespace {namespace}: {}", sanitize(&why)),
            missing: rule.into_iter().collect(),
        }),
    }
}

async fn forward(cluster: &Cluster, place: &Place, pod: &Pod) -> Result<Forward, NoPod> {
    let namespace = &place.namespace;
    let port = pod.address.map_or(0, |address| address.port());
    let opening = cluster.forward(namespace, &pod.name, port);
    let error = match tokio::time::timeout(FORWARD, opening).await {
        Ok(Ok(forward)) => return Ok(forward),
        Ok(Err(error)) => error,
        Err(_) => ApiError::Timeout("waiting for the port-forward"),
    };
    let missing = match error {
        // A server asks for one of the two or for both, and names the first that is missing.
        ApiError::Forbidden { .. } => Need::forward(place).map(|need| need.rule).into(),
        _ => Vec::new(),
    };
    Err(NoPod { why: format!("pod {}: {}", printable(&pod.name), sanitize(&error.to_string())), missing })
}

impl Resolve for Pods {
    fn resolve(&self, _: Name) -> Resolving {
        let pods = self.clone();
        Box::pin(async move {
            let (address, _) = pods.dial().await?;
            let addresses: Addrs = Box::new(std::iter::once(address));
            Ok(addresses)
        })
    }
}
