//! What the cache step would do: found out by reading alone, without a word to the registry or to Redis.
//!
//! For `cache status` and dry runs. A confirmed run finds out by doing: whether a replica shows the right certificate, or
//! Redis takes the password, is not known here.

use std::time::Duration;

use futures::future::{join, join_all, join3};
use tokio::net::TcpStream;

use super::choose::{self, Choice, SharedRedis, Situation, choose};
use super::detect::{self, Discovery, Pod, Reading, Rights};
use super::outcome::CachePlan;
use super::redis::{RedisOptions, Topology};
use super::step::{self, CacheOptions};
use crate::cluster::Cluster;

/// How long an address has to take a connection.
const REACH: Duration = Duration::from_secs(2);

/// How a replica can be reached from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Its address takes connections.
    Direct,
    /// It can be by a port-forward.
    PortForward,
    /// Neither.
    NotFromHere,
    /// It has no address yet.
    NoAddress,
}

/// What the cache step would do, and what it is foreseen from.
#[derive(Debug)]
pub(super) struct Foreseen {
    /// The registry.
    pub(super) found: Discovery,
    /// What the user may do.
    pub(super) rights: Rights,
    /// How each pod can be reached, in the order of the pods.
    pub(super) ways: Vec<Way>,
    /// What would be done.
    pub(super) plan: CachePlan,
}

/// What a dry run's document says of the cache step.
pub async fn plan(cluster: &Cluster, options: &CacheOptions) -> CachePlan {
    foresee(cluster, options).await.plan
}

pub(super) async fn foresee(cluster: &Cluster, options: &CacheOptions) -> Foreseen {
    let found = detect::discover(cluster, &options.place).await;
    let pods = found.pods.get().map(Vec::as_slice).unwrap_or_default();
    let connections = join_all(pods.iter().map(takes_connections));
    let (connections, rights) = join(connections, detect::rights(cluster, &found)).await;
    let ways: Vec<Way> =
        pods.iter().zip(connections).map(|(pod, direct)| way(pod, direct, &rights)).collect();
    let choice = if let Some(choice) = step::for_nowhere(options, &found) {
        choice
    } else {
        let situation = situation(cluster, &found, &rights, &ways, &options.redis).await;
        choose(options.strategy, &situation).unwrap_or_else(|impossible| refused(&impossible))
    };
    let plan = CachePlan::of(&choice);
    Foreseen { found, rights, ways, plan }
}

/// What was asked for by name is not possible: a confirmed run would end before any change.
fn refused(impossible: &choose::Impossible) -> Choice {
    Choice {
        step: "none",
        redis: false,
        replicas: choose::ReplicaStep::Leave,
        next: Vec::new(),
        message: format!("none: it would be refused: {impossible}"),
        left: Vec::new(),
    }
}

async fn situation(
    cluster: &Cluster,
    found: &Discovery,
    rights: &Rights,
    ways: &[Way],
    options: &RedisOptions,
) -> Situation {
    let (redis, restart, memory) = join3(
        redis(found, rights, options),
        step::restart(cluster, found),
        std::future::ready(step::memory(found)),
    )
    .await;
    Situation { memory, redis, reach: reach(found, ways), restart }
}

fn reach(found: &Discovery, ways: &[Way]) -> choose::Reach {
    let pods = match &found.pods {
        Reading::Is(pods) => pods,
        Reading::Absent => {
            return choose::Reach::NotAll(format!(
                "no pod of the registry was found in namespace {}",
                found.place.namespace
            ));
        }
        Reading::Unreadable { why, .. } => {
            return choose::Reach::NotAll(format!("the registry's pods cannot be listed: {why}"));
        }
    };
    let (mut direct, mut forwarded) = (0, 0);
    for (pod, way) in pods.iter().zip(ways).filter(|(pod, _)| pod.runs) {
        match way {
            Way::Direct => direct += 1,
            Way::PortForward => forwarded += 1,
            Way::NoAddress => {}
            Way::NotFromHere => {
                return choose::Reach::NotAll(format!(
                    "replica {} cannot be reached from here, neither at its address nor by a port-forward (missing right: create pods/portforward in namespace {})",
                    pod.name, found.place.namespace
                ));
            }
        }
    }
    choose::Reach::All { direct, forwarded }
}

/// The Redis, as far as a connection to its port tells.
async fn redis(found: &Discovery, rights: &Rights, options: &RedisOptions) -> SharedRedis {
    let access = match step::redis_access(found, options) {
        Ok(access) => access,
        Err(shared) => return shared,
    };
    let address = access.address.to_string();
    let Topology::Single { host, port } = &access.address.topology else {
        return SharedRedis::Reachable(address);
    };
    let connection = tokio::time::timeout(REACH, TcpStream::connect((host.as_str(), *port))).await;
    let forwards = rights.allow("get", "services", "")
        && rights.allow("list", "pods", "")
        && rights.allow("create", "pods", "portforward");
    match connection {
        Ok(Ok(_)) => SharedRedis::Reachable(address),
        _ if forwards => SharedRedis::Reachable(address),
        Ok(Err(error)) => SharedRedis::Unreachable { address, why: crate::cause::io_text(&error) },
        Err(_) => SharedRedis::Unreachable { address, why: format!("no answer within {REACH:?}") },
    }
}

/// Whether something listens at the pod's address that can be reached from here.
async fn takes_connections(pod: &Pod) -> bool {
    let Some(address) = pod.address else { return false };
    let connection = tokio::time::timeout(REACH, TcpStream::connect(address)).await;
    matches!(connection, Ok(Ok(_)))
}

fn way(pod: &Pod, direct: bool, rights: &Rights) -> Way {
    match pod.address {
        None => Way::NoAddress,
        Some(_) if direct => Way::Direct,
        // Which of the two is asked for depends on the server's age.
        Some(_)
            if rights.allow("get", "pods", "portforward")
                && rights.allow("create", "pods", "portforward") =>
        {
            Way::PortForward
        }
        Some(_) => Way::NotFromHere,
    }
}
