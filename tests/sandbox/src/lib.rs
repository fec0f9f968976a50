//! An embedded OpenShift-like API server and image registry for the tests and the demo.
//!
//! A [`Sandbox`] holds the API server; its answers are shaped like those recorded from real servers. Tests put objects
//! into its [`Store`](api::Store), inject [faults](fault::Faults) and read the [log](log::RequestLog) of what a client
//! asked:
//!
//! ```no_run
//! use sandbox::fault::{Action, Answer, Fault};
//! use sandbox::{Config, Sandbox};
//!
//! let sandbox = Sandbox::start(Config::default().deny("pruner", "list", "apps", "daemonsets"));
//! sandbox.load_objects(serde_json::json!({
//!     "apiVersion": "image.openshift.io/v1",
//!     "kind": "ImageStream",
//!     "metadata": { "namespace": "shop", "name": "web" },
//! }));
//! sandbox.faults().add(Fault::new(Action::Answer(Answer::too_many_requests(1))).path("/images").times(2));
//! let kubeconfig = sandbox.write_kubeconfig(std::path::Path::new("/tmp"), "pruner");
//! // Run something with this kubeconfig, then:
//! assert!(sandbox.request_log().mutations().is_empty());
//! # drop(kubeconfig);
//! ```
//!
//! A [`Cluster`] has a registry as well, with any number of replicas, which share the log and the faults with the API
//! server. With a [`Pace`] its pods come and go as its Deployment wants them; with an [`Operator`] that is kept as its
//! configuration says:
//!
//! ```no_run
//! use sandbox::{Cluster, ClusterConfig, Operator, Pace};
//!
//! let cluster = Cluster::start(ClusterConfig {
//!     replicas: 3,
//!     controller: Some(Pace::default().seeded(7)),
//!     operator: Some(Operator::default()),
//!     ..ClusterConfig::default()
//! });
//! let served = cluster.serving();
//! // Run something that restarts the registry, then:
//! assert!(cluster.serving().iter().all(|number| !served.contains(number)));
//! ```
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "test support: a sandbox that cannot start has to fail the test at once"
)]

pub mod api;
mod cluster;
mod controller;
pub mod example;
pub mod fault;
pub mod generate;
pub mod load;
pub mod log;
pub mod redis;
pub mod registry;
pub mod registry_backend;
mod route;
mod sandbox;
mod seed;
pub mod serve;
pub mod tls;
mod workload;

pub use cluster::{Cluster, ClusterConfig};
pub use controller::{Nodes, Operator, Pace};
pub use route::RouteConfig;
pub use sandbox::{Config, Sandbox};
pub use seed::Seeded;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex even if another test thread panicked while it held it: the data is plain values.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
