//! What a replica believes of a blob, and what it learns when it looks.
//!
//! The layers are those of the integrated registry, each of which may answer for the ones below it:
//!
//! 1. the digest cache, which knows blobs and the repositories that have them;
//! 2. for layers, not for manifests: what the descriptor cache knows of the repository;
//! 3. the repository's link;
//! 4. what the descriptor cache knows of the blob, whichever repository has it;
//! 5. the blob's data in the storage;
//! 6. where one of these fails: the data and the image stream, which needs no link.
//!
//! The descriptor cache is a Redis, or the digest cache once more, or nothing.

use ::redis::RedisResult;

use super::answer::{Code, Fault};
use super::descriptors::RedisDescriptors;
use super::digest::Digest;
use super::replica::{EMPTY_LAYERS, Replica, namespace_and_name};
use super::storage::Link;

impl Replica {
    /// The size of a blob in a repository, as far as this replica knows, or `None` if the repository does not have it.
    pub(super) async fn stat(&self, link: Link, repository: &str, digest: &Digest) -> Option<u64> {
        if let Some(size) = self.stat_linked(link, repository, digest).await {
            return Some(size);
        }
        let size = self.cache.size(digest).or_else(|| {
            let size = self.storage().blob_size(digest)?;
            self.cache.add(digest, Some(size), None);
            Some(size)
        })?;
        if EMPTY_LAYERS.contains(&digest.as_str()) || self.cache.is_member(digest, repository) {
            return Some(size);
        }
        let (namespace, name) = namespace_and_name(repository);
        let listed = self.cluster().stream_has_blob(namespace, name, digest.as_str())
            || self.cluster().stream_names_image(namespace, name, digest.as_str());
        if listed {
            for digest in self.cluster().stream_digests(namespace, name) {
                if let Some(digest) = Digest::parse(&digest) {
                    self.cache.add(&digest, None, Some(repository));
                }
            }
        }
        listed.then_some(size)
    }

    /// The size of a blob that a repository has a link to, or is believed to.
    async fn stat_linked(&self, link: Link, repository: &str, digest: &Digest) -> Option<u64> {
        if let Some(size) = self.cache.size_in(digest, repository) {
            return Some(size);
        }
        // Manifests are not looked up in what the descriptor cache knows of repositories.
        let redis = self.redis().filter(|_| link == Link::Layer);
        let known = match redis {
            Some(redis) => redis.stat_in(repository, digest).await,
            None => Ok(None),
        };
        let size = match known {
            Ok(Some(size)) => size,
            _ if self.storage().is_linked(link, repository, digest) => {
                let size = self.stat_anywhere(digest).await?;
                // What could not be asked is not told either.
                if let Some(redis) = redis.filter(|_| report(digest, &known)) {
                    report(digest, &redis.set_in(repository, digest, size).await);
                }
                size
            }
            _ => return None,
        };
        self.cache.add(digest, Some(size), Some(repository));
        Some(size)
    }

    /// The size of a blob, as far as the descriptor cache or the storage knows, whichever repository has it.
    pub(super) async fn stat_anywhere(&self, digest: &Digest) -> Option<u64> {
        if let Some(redis) = self.redis() {
            let known = redis.stat(digest).await;
            if let Ok(Some(size)) = known {
                return Some(size);
            }
            let size = self.storage().blob_size(digest)?;
            if report(digest, &known) {
                report(digest, &redis.set(digest, size).await);
            }
            return Some(size);
        }
        if self.config.no_descriptor_cache {
            return self.storage().blob_size(digest);
        }
        self.cache.size(digest).or_else(|| {
            let size = self.storage().blob_size(digest)?;
            self.cache.add(digest, Some(size), None);
            Some(size)
        })
    }

    /// Remembers a blob that has just been written and linked. Manifests go into the digest cache only.
    pub(super) async fn remember(&self, link: Link, repository: &str, digest: &Digest, size: u64) {
        self.cache.add(digest, Some(size), Some(repository));
        if let Some(redis) = self.redis().filter(|_| link == Link::Layer) {
            report(digest, &redis.set_in(repository, digest, size).await);
        }
    }

    /// Forgets that a repository has a blob, before its link is removed. With a Redis that does not know of it, or that
    /// cannot be asked, the registry goes no further.
    pub(super) async fn forget(&self, link: Link, repository: &str, digest: &Digest) -> Result<(), Fault> {
        self.cache.remove_member(digest, repository);
        let Some(redis) = self.redis().filter(|_| link == Link::Layer) else { return Ok(()) };
        match redis.clear_in(repository, digest).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(Fault::new(Code::BlobUnknown)),
            Err(error) => Err(Fault::with_detail(Code::Unknown, redis.detail(&error))),
        }
    }

    fn redis(&self) -> Option<&RedisDescriptors> {
        self.redis.as_deref()
    }
}

/// Logs that the cache could not be asked or told, and says whether it could.
fn report<T>(digest: &Digest, result: &RedisResult<T>) -> bool {
    if let Err(error) = result {
        tracing::error!(%digest, %error, "error from cache");
    }
    result.is_ok()
}
