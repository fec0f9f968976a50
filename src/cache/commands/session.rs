//! What the subcommands begin with that speak with the cluster and with the registry's replicas.

use std::sync::Arc;

use super::super::detect::{self, Discovery, Place};
use super::super::replicas::{Evictor, Pace};
use super::super::step::service_ca;
use crate::cli::RegistryOptions;
use crate::cluster::{Cluster, ConnectionOptions, Environment};
use crate::error::Failure;
use crate::registry::{self, Address, Origin, RegistryUrl, Settings};
use crate::text::printable;
use crate::ui::Ui;

/// The port of the registry's service.
const PORT: u16 = 5000;

/// Which cluster, as whom, and where its registry is.
#[derive(Debug, Clone)]
pub struct ClusterAccess {
    /// Which cluster, and as whom.
    pub connection: ConnectionOptions,
    /// Where the registry runs.
    pub place: Place,
    /// How to trust its replicas.
    pub registry: RegistryOptions,
}

impl ClusterAccess {
    /// The flags to repeat a command with, each with a blank in front, but for the token.
    #[must_use]
    pub fn flags(&self) -> String {
        let Self { connection, place, registry } = self;
        format!("{}{}{}", place.flags(), registry.flags(), connection.flags())
    }
}

/// A cluster, and its registry as it was found.
#[derive(Debug)]
pub(in crate::cache) struct Session {
    /// The API server.
    pub(in crate::cache) cluster: Cluster,
    /// The registry.
    pub(in crate::cache) found: Discovery,
}

impl Session {
    /// Connects, and looks for the registry.
    pub(super) async fn open(access: &ClusterAccess, ui: &Arc<Ui>) -> Result<Self, Failure> {
        let cluster = Cluster::connect(&access.connection, &Environment::of_process()).await?;
        let cluster = cluster.on_warning(ui.server_warnings());
        let found = detect::discover(&cluster, &access.place).await;
        Ok(Self { cluster, found })
    }

    /// Finds the replicas and how each can be spoken to. Each has to show a certificate of the registry's service.
    ///
    /// # Errors
    /// There is no token, the pods cannot be listed, or none was found.
    pub(in crate::cache) async fn replicas(
        &self,
        access: &ClusterAccess,
        ui: &Arc<Ui>,
    ) -> Result<Evictor, Failure> {
        let Self { cluster, found } = self;
        let url = match &access.registry.url {
            Some(url) => url.clone(),
            None => RegistryUrl::parse(&format!("https://{}:{PORT}", found.place.service_name()))?,
        };
        let address = Address { url, origin: Origin::Flag };
        let settings = Settings::of(&access.registry, cluster, address, ui.warnings());
        let registry = registry::for_replicas(settings, cluster.token_source()).await?;
        let registry = service_ca(cluster, &found.place, registry).await;
        let failed = |why: String| {
            Failure::nothing_changed(format!("find the registry's replicas: {}", printable(&why)))
                .hint("see what there is, and which rights are missing: oc prune-images cache status")
        };
        let evictor =
            Evictor::start(cluster.clone(), registry, found, Pace::default()).await.map_err(failed)?;
        if evictor.replicas().is_empty() && evictor.unreachable().is_empty() {
            return Err(failed(format!("no pod was found in namespace {}", found.place.namespace))
                .hint("name the registry: --registry-namespace=NAMESPACE --registry-deployment=NAME"));
        }
        Ok(evictor)
    }
}
