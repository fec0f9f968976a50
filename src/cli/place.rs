//! The flags that say where the registry runs.

use std::fmt::Write as _;

use clap::Args;

use super::validate::{invalid, nonempty};
use crate::{
    cache::{detect::Place, rollout::is_name},
    error::Failure,
    text::quoted,
};

/// The heading of the flags about the registry's caches.
pub(super) const CACHE: &str = "The registry's caches";

/// Where the registry runs, as typed.
#[derive(Args)]
#[command(next_help_heading = CACHE)]
pub(super) struct PlaceArgs {
    /// The namespace that the registry runs in
    ///
    /// Default: openshift-image-registry.
    #[arg(long, value_name = "NAME")]
    registry_namespace: Option<String>,

    /// The deployment of the registry, whose service has the same name
    ///
    /// Default: image-registry; on old clusters the deployment config docker-registry in the namespace default.
    #[arg(long, value_name = "NAME")]
    registry_deployment: Option<String>,
}

impl PlaceArgs {
    /// Checks the names and fills in the defaults.
    pub(super) fn place(&self) -> Result<Place, Failure> {
        let default = Place::default();
        Ok(Place {
            namespace: name("--registry-namespace", self.registry_namespace.clone(), default.namespace)?,
            deployment: name("--registry-deployment", self.registry_deployment.clone(), default.deployment)?,
        })
    }

    /// The flags to repeat a command with, each with a blank in front.
    pub(super) fn flags(&self) -> String {
        let mut line = String::new();
        for (flag, value) in [
            ("--registry-namespace", nonempty(self.registry_namespace.clone())),
            ("--registry-deployment", nonempty(self.registry_deployment.clone())),
        ] {
            if let Some(value) = value {
                // Writing to a `String` cannot fail.
                let _ = write!(line, " {flag}={}", quoted(&value));
            }
        }
        line
    }
}

fn name(flag: &'static str, word: Option<String>, default: String) -> Result<String, Failure> {
    match nonempty(word) {
        None => Ok(default),
        Some(word) if is_name(&word) => Ok(word),
        Some(word) => Err(invalid(
            flag,
            &word,
            "a name has lower case letters, digits, '-' and '.', and neither begins nor ends with '-' or '.'",
        )),
    }
}
