//! Finds the registry, chooses a connection, logs in and deletes. Knows HTTP; what goes is decided elsewhere.
//!
//! [`choose`] says which host it is; [`reach`] finds the way to it, directly, by a route or through the API server, and
//! yields a [`Registry`], whose methods send one request each. The decisions (which host, which protection, what an answer
//! means) are pure functions beside the I/O.
//!
//! The token goes only to a host that the server computed or the administrator named, only over a connection that
//! the rules of [`candidates`] allow, only to what has shown itself to be an image registry, and never along a
//! redirect.

mod address;
mod answer;
mod cause;
mod client;
mod connect;
#[cfg(test)]
mod fake;
mod freshness;
mod name;
mod pods;
mod presence;
mod reach;
mod security;
mod transport;
mod via;

pub use address::{Address, Origin, RegistryUrl, Scheme, choose};
pub use answer::{Deletion, RegistryError};
pub use client::{Registry, no_token};
pub use connect::{SERVICE_CA, Settings, connect, for_replicas};
pub use freshness::{Evidence, Freshness};
pub use name::is_repository;
pub use presence::Presence;
pub use reach::{foresee, reach, service_ca};
pub use security::{Allowance, Attempt, Condition, Protection, Reason, candidates};
pub use transport::Limits;
pub use via::{ForeseenWay, RegistryAccess, Via, Way};

pub use crate::cluster::{Announce, Refresh, TokenSource};
