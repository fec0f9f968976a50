//! An image registry that behaves like OpenShift's integrated one: N replicas, each with its own digest cache, over
//! one storage directory.
//!
//! Replicas answer requests from what they remember, then from what a Redis remembers for all of them, then from the
//! storage, then from what the cluster says. That order, and who forgets what when, is the whole point: it is how a
//! replica gets stale after a prune. See `lookup`.

mod access;
mod answer;
mod cache;
pub mod client;
mod config;
mod descriptors;
mod digest;
mod docker;
mod hard_prune;
mod lookup;
mod manifest;
mod replica;
mod storage;
mod storage_host;
mod upload;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use self::config::{RedisCache, RegistryConfig, configured};
pub use self::digest::Digest;
pub use self::docker::docker_registry_binary;
pub use self::hard_prune::HardPrune;
pub use self::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
pub use self::replica::Replica;
pub use self::storage::{Link, Storage};
pub use self::storage_host::{StorageHost, StorageHostConfig};

use self::docker::DockerRegistry;
use crate::registry_backend::Cluster;

/// What moves the bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// This process.
    #[default]
    InProcess,
    /// A `docker-registry` process over the same storage directory. Blobs and manifests come from it and go to it;
    /// credentials, caches, `/admin/blobs/` and what the cluster has to say stay with the replicas in front of it. It
    /// runs without a cache of its own, so that the replicas' caches alone decide what is stale.
    DockerRegistry {
        /// The program; see [`docker_registry_binary`].
        binary: PathBuf,
    },
}

impl Backend {
    /// `docker-registry` if it is installed, else this process.
    #[must_use]
    pub fn installed() -> Self {
        docker_registry_binary().map_or(Self::InProcess, |binary| Self::DockerRegistry { binary })
    }
}

/// A registry: its storage, its configuration and, if it has one, its `docker-registry` process.
#[derive(Clone, Debug)]
pub struct Registry {
    shared: Arc<Shared>,
}

struct Shared {
    storage: Storage,
    cluster: Arc<dyn Cluster>,
    config: RegistryConfig,
    docker: Option<DockerRegistry>,
    replicas: AtomicUsize,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("storage", &self.storage)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

impl Registry {
    /// A registry over a storage directory. With [`Backend::DockerRegistry`] it waits until that process answers.
    pub async fn new(
        storage_directory: impl Into<PathBuf>,
        cluster: Arc<dyn Cluster>,
        config: RegistryConfig,
    ) -> io::Result<Self> {
        let storage = Storage::new(storage_directory);
        let docker = match &config.backend {
            Backend::InProcess => None,
            Backend::DockerRegistry { binary } => Some(DockerRegistry::start(binary, &storage).await?),
        };
        let replicas = AtomicUsize::new(0);
        Ok(Self { shared: Arc::new(Shared { storage, cluster, config, docker, replicas }) })
    }

    /// One more replica, with a cache of its own; they are numbered from 0.
    #[must_use]
    pub fn replica(&self) -> Replica {
        self.replica_with(self.shared.config.clone())
    }

    /// One more replica with a configuration of its own, as old and new pods have during a rollout. The backend is the
    /// registry's all the same.
    #[must_use]
    pub fn replica_with(&self, config: RegistryConfig) -> Replica {
        Replica::new(self.shared.clone(), config, self.shared.replicas.fetch_add(1, Ordering::Relaxed))
    }

    /// The storage that all replicas share.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.shared.storage
    }

    /// Ends the `docker-registry` process, if there is one, and waits for its end. What still runs would keep it
    /// otherwise: every connection to a replica holds the registry.
    pub fn stop(&self) {
        if let Some(docker) = &self.shared.docker {
            docker.stop();
        }
    }
}
