//! The connection to the API server: found and authenticated as kubectl does it, with bounded requests.

mod cause;
mod options;

pub use cause::{Cause, CauseKind, io_text, sanitize};
pub use options::{ConnectionOptions, Environment, RequestTimeout};
