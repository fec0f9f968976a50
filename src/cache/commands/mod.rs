//! The subcommands of `cache`.

pub mod flush;
pub mod status;
