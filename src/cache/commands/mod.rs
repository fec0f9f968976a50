//! The subcommands of `cache`.

pub mod flush;
