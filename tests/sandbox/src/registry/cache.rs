//! The digest cache of one replica.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::digest::Digest;
use crate::lock;

/// What a replica remembers of blobs: their size, and the repositories known to have them.
///
/// This is what makes a replica stale: nothing but [`remove`](Self::remove), the end of an entry's life or a restart
/// makes it forget, whatever happens to the storage through another replica.
#[derive(Debug)]
pub(super) struct DigestCache {
    ttl: Duration,
    entries: Mutex<HashMap<Digest, Entry>>,
}

#[derive(Debug)]
struct Entry {
    expires: Instant,
    /// Unknown while only a repository's membership was learned, from the image stream.
    size: Option<u64>,
    repositories: BTreeSet<String>,
}

impl DigestCache {
    /// A cache whose entries live for `ttl` from when they are first put in; zero turns it off.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, entries: Mutex::default() }
    }

    /// The size of a blob, whichever repository has it.
    pub(super) fn size(&self, digest: &Digest) -> Option<u64> {
        self.live(digest, |entry| entry.size).flatten()
    }

    /// The size of a blob that this repository is known to have.
    pub(super) fn size_in(&self, digest: &Digest, repository: &str) -> Option<u64> {
        self.live(digest, |entry| entry.size.filter(|_| entry.repositories.contains(repository))).flatten()
    }

    /// Whether this repository is known to have the blob.
    pub(super) fn is_member(&self, digest: &Digest, repository: &str) -> bool {
        self.live(digest, |entry| entry.repositories.contains(repository)).unwrap_or(false)
    }

    /// Remembers a blob's size, a repository that has it, or both.
    pub(super) fn add(&self, digest: &Digest, size: Option<u64>, repository: Option<&str>) {
        if self.ttl.is_zero() {
            return;
        }
        let learn = |entry: &mut Entry| {
            entry.size = size.or(entry.size);
            entry.repositories.extend(repository.map(str::to_owned));
        };
        // An entry that is there keeps its end of life: hits and additions do not prolong it.
        if self.live(digest, learn).is_none() {
            let mut entry =
                Entry { expires: Instant::now() + self.ttl, size: None, repositories: BTreeSet::new() };
            learn(&mut entry);
            self.entries().insert(digest.clone(), entry);
        }
    }

    /// Forgets that a repository has the blob; the blob itself stays known.
    pub(super) fn remove_member(&self, digest: &Digest, repository: &str) {
        self.live(digest, |entry| entry.repositories.remove(repository));
    }

    /// Forgets the blob.
    pub(super) fn remove(&self, digest: &Digest) {
        self.entries().remove(digest);
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        self.entries().clear();
    }

    /// Does something with the entry of a blob, dropping the entry instead if its life is over.
    fn live<T>(&self, digest: &Digest, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut entries = self.entries();
        let entry = entries.get_mut(digest)?;
        if entry.expires < Instant::now() {
            entries.remove(digest);
            return None;
        }
        Some(act(entry))
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Digest, Entry>> {
        lock(&self.entries)
    }
}
