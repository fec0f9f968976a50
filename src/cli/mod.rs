//! The command line: flags as typed become validated [`Options`]. No other room sees the command line library.

mod args;
pub mod duration;
mod options;
mod parse;
mod registry_url;
mod validate;
mod values;

#[cfg(test)]
mod tests;

pub use options::{CaBundle, Keep, Options, OutputFormat, PruneOptions, RegistryOptions};
pub use parse::{Invocation, parse};
pub use registry_url::{RegistryUrl, RegistryUrlError, Scheme};
