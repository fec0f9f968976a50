//! The command line: flags as typed become validated [`Options`]. No other room sees the command line library.

mod args;
mod cache;
mod caching;
mod cluster;
mod completion;
mod connection;
pub mod duration;
mod explain;
mod hard_prune;
mod journal;
mod man;
mod options;
mod parse;
mod place;
mod place_files;
mod redis;
mod registry;
mod resume;
mod running;
mod schedule;
mod selection;
mod subcommand;
mod usage;
mod validate;
mod values;
mod verify;
mod what_if;

#[cfg(test)]
mod tests;

pub use completion::{Candidate, Completion, Source};
pub use journal::{JournalOptions, JournalTask};
pub use options::{
    CaBundle, ExplainOptions, Keep, LookFormat, Options, OutputFormat, PruneOptions, RegistryOptions,
};
pub use parse::{Invocation, commands, parse, parse_called_by};
pub use place_files::{NewFile, PlaceFilesOptions};
pub use selection::{keep_tag_revisions, keep_younger_than};
pub use usage::UsageOptions;
pub use verify::VerifyOptions;
pub use what_if::WhatIfOptions;
