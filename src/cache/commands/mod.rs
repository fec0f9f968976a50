//! The subcommands of `cache`.

mod session;

pub use session::ClusterAccess;
pub(super) use session::Session;

pub mod check;
pub mod flush;
pub mod status;
pub mod switch;
