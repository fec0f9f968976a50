//! The flags of the subcommands that speak with the replicas of a cluster's registry.

use clap::Args;

use super::{connection::ConnectionArgs, place::PlaceArgs, registry::RegistryArgs};
use crate::{cache::commands::ClusterAccess, error::Failure};

/// Which cluster, and where its registry is, as typed.
#[derive(Args)]
pub(super) struct ClusterArgs {
    #[command(flatten)]
    place: PlaceArgs,

    #[command(flatten)]
    registry: RegistryArgs,

    #[command(flatten)]
    connection: ConnectionArgs,
}

impl ClusterArgs {
    /// Checks the values and fills in the defaults.
    pub(super) fn access(self) -> Result<ClusterAccess, Failure> {
        Ok(ClusterAccess {
            place: self.place.place()?,
            connection: self.connection.options()?,
            // Last, because it reads a file.
            registry: self.registry.options()?,
        })
    }

    /// Whether any of the flags that name a registry was given.
    pub(super) fn is_given(&self) -> bool {
        self.place.is_given()
    }
}
