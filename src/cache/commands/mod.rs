//! The subcommands of `cache`.

pub mod flush;
pub mod status;
pub mod switch;
