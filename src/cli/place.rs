//! The flags that say where the registry runs.

use clap::Args;

use super::validate::{NO_NAMESPACE, invalid, is_label, is_subdomain, nonempty};
use crate::{cache::detect::Place, error::Failure};

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
    /// Checks the names, which become parts of paths, and fills in the defaults.
    pub(super) fn place(&self) -> Result<Place, Failure> {
        let mut place = Place::default();
        if let Some(namespace) = nonempty(self.registry_namespace.clone()) {
            if !is_label(&namespace) {
                return Err(invalid("--registry-namespace", &namespace, NO_NAMESPACE));
            }
            place.namespace = namespace;
        }
        if let Some(deployment) = nonempty(self.registry_deployment.clone()) {
            if !is_subdomain(&deployment) {
                return Err(invalid(
                    "--registry-deployment",
                    &deployment,
                    "a name has at most 253 lower case letters, digits, '-' and '.', and begins and ends with a letter \
                     or digit",
                ));
            }
            place.deployment = deployment;
        }
        Ok(place)
    }

    /// Whether any of the flags was given.
    pub(super) fn is_given(&self) -> bool {
        [&self.registry_namespace, &self.registry_deployment]
            .into_iter()
            .any(|word| nonempty(word.clone()).is_some())
    }
}
