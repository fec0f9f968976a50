//! The flags that say which registry it is and how to trust it.

use std::path::PathBuf;

use clap::Args;

use super::{
    options::RegistryOptions,
    validate::{nonempty_path, registry, switch},
};
use crate::error::Failure;

/// The registry, as typed.
#[derive(Args)]
pub(super) struct RegistryArgs {
    /// The registry, as [SCHEME://]HOST[:PORT]
    ///
    /// Default: the address that the image streams name.
    #[arg(long, value_name = "URL")]
    registry_url: Option<String>,

    /// How to reach it: auto, direct, route or port-forward
    ///
    /// Default: direct with --registry-url, else auto. That tries the registry's address; if it cannot be resolved or
    /// reached, an admitted route to the registry's service; else a port-forward through the API server to one of its
    /// pods. A refused certificate or login ends it: the token goes no other way then. The replicas of the cache step
    /// are reached one by one, at their addresses or by port-forwards; with port-forward by these alone.
    #[arg(long, value_name = "WAY")]
    registry_via: Option<String>,

    /// The CA that signed the registry's certificate
    ///
    /// Added to the kubeconfig's CA. Excludes --force-insecure and an http:// registry URL. For the API server's CA
    /// use the kubeconfig.
    #[arg(long, value_name = "FILE")]
    certificate_authority: Option<PathBuf>,

    /// Accept any certificate of the registry, and plain HTTP
    ///
    /// With an https:// registry URL only the certificate goes unverified; HTTP is not tried.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    force_insecure: Option<String>,
}

impl RegistryArgs {
    /// Checks the values, and reads the CA.
    pub(super) fn options(self) -> Result<RegistryOptions, Failure> {
        registry(
            self.registry_url.as_deref(),
            self.registry_via,
            nonempty_path(self.certificate_authority),
            switch("--force-insecure", self.force_insecure.as_deref())?,
        )
    }
}
