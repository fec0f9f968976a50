//! What the tests that run the plugin share: the plugin as a process, a sandbox with API server and registry, objects.

#![allow(dead_code, unused_imports, reason = "each test uses a part")]
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests: whatever is wrong here fails the test"
)]

pub(crate) mod cluster;
pub(crate) mod objects;
pub(crate) mod planned;
pub(crate) mod plugin;
pub(crate) mod shop;

pub(crate) use cluster::Cluster;
pub(crate) use plugin::{Plugin, Ran};
