//! The connection to the API server: found and authenticated as kubectl does it, with bounded requests.
//!
//! kube speaks HTTP and TLS here; everything in which it differs from kubectl is done in this room: which
//! kubeconfig counts, proxies, login programs, token files, timeouts and retries.

mod buffered;
mod connect;
mod credentials;
mod error;
mod exec;
mod forward;
mod kubeconfig;
mod options;
mod proxy;
mod remote;
mod request;
#[cfg(test)]
pub(crate) mod test_support;
mod warnings;

pub use connect::{Cluster, install_crypto};
pub use credentials::{Refresh, TokenSource};
pub use error::ApiError;
pub(crate) use error::pruner_may;
pub use forward::Forward;
pub use kubeconfig::{Entries, entries};
pub use options::{ConnectionOptions, Environment, RequestTimeout};
pub use remote::{Ended, Execution, Stream};
pub(crate) use request::is_object_name;
pub use request::{ApiRequest, ApiResponse, Buffers, Lines, Retry, Taking};
pub use warnings::Announce;

pub use crate::cause::{Cause, CauseKind, io_text};
pub use crate::text::sanitize;
