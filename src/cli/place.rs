//! The flags that say where the registry runs.

use clap::Args;

use super::validate::{self, invalid, nonempty};
use crate::{cache::detect::Place, error::Failure};

/// Where the registry runs, as typed.
#[derive(Args)]
pub(super) struct PlaceArgs {
    /// The namespace that the registry runs in
    ///
    /// Default: openshift-image-registry; where that has none, default, as on old clusters.
    #[arg(long, value_name = "NAME")]
    registry_namespace: Option<String>,

    /// The Deployment of the registry, or its deployment config
    ///
    /// Default: image-registry; on old clusters docker-registry.
    #[arg(long, value_name = "NAME")]
    registry_deployment: Option<String>,
}

impl PlaceArgs {
    /// Checks the names, which become parts of paths.
    pub(super) fn place(self) -> Result<Place, Failure> {
        let mut place = Place::default();
        if let Some(namespace) = nonempty(self.registry_namespace) {
            if !validate::is_label(&namespace) {
                return Err(invalid("--registry-namespace", &namespace, validate::NO_NAMESPACE));
            }
            place.namespace = namespace;
        }
        if let Some(deployment) = nonempty(self.registry_deployment) {
            if !validate::is_subdomain(&deployment) {
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
}
