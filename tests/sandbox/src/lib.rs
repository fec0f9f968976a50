//! An embedded OpenShift-like API server and image registry for the tests and the demo.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::panic,
    reason = "test support: a sandbox that cannot start has to fail the test at once"
)]

pub mod api;
pub mod fault;
pub mod generate;
pub mod load;
pub mod log;
pub mod registry;
pub mod registry_backend;
mod sandbox;
pub mod serve;
pub mod tls;

pub use sandbox::{Config, Sandbox};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex even if another test thread panicked while it held it: the data is plain values.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
