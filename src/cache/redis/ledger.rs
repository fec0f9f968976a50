//! What was asked to be evicted, held compactly: a prune may delete hundreds of thousands of blobs. Pure.

use crate::model::{Id, Names};

use super::keys::Doomed;

/// A blob, or a link of a repository to one. Blobs sort before links, as they are evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Item {
    repository: Option<Id>,
    digest: Id,
}

/// Everything that was ever asked for.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    digests: Names,
    repositories: Names,
    items: Vec<Item>,
}

impl Ledger {
    /// Adds what is doomed, and returns it in short.
    pub(super) fn add(&mut self, doomed: &Doomed) -> Vec<Item> {
        let begin = self.items.len();
        for digest in doomed.digests() {
            self.items.push(Item { repository: None, digest: self.digests.intern(digest) });
        }
        for (repository, digest) in doomed.links() {
            let repository = Some(self.repositories.intern(repository));
            self.items.push(Item { repository, digest: self.digests.intern(digest) });
        }
        self.items[begin..].to_vec()
    }

    /// Everything, each once, in the order of eviction.
    pub(super) fn all(&self) -> Vec<Item> {
        let mut items = self.items.clone();
        sort(&mut items);
        items
    }

    /// The items in full.
    pub(super) fn doomed(&self, items: &[Item]) -> Doomed {
        let mut doomed = Doomed::default();
        for Item { repository, digest } in items {
            let digest = self.digests.text(*digest);
            match repository {
                None => doomed.blob(&digest),
                Some(repository) => doomed.link(&self.repositories.text(*repository), &digest),
            }
        }
        doomed
    }
}

/// Brings items into the order of eviction, each once.
pub(super) fn sort(items: &mut Vec<Item>) {
    items.sort_unstable();
    items.dedup();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_each_once_and_blobs_first() {
        let digest = |n: usize| format!("sha256:{n:064x}");
        let mut ledger = Ledger::default();
        let mut link = Doomed::default();
        link.link("shop/web", &digest(2));
        let mut blob = link.clone();
        blob.blob(&digest(2));
        blob.blob("tarsum.dev+sha256:abc");
        blob.link("shop/api", &digest(1));
        for doomed in [&link, &blob, &link] {
            let items = ledger.add(doomed);
            assert_eq!(ledger.doomed(&items), *doomed);
        }
        let all = ledger.all();
        assert_eq!(all.len(), 4);
        assert_eq!(ledger.doomed(&all), blob);
        assert_eq!(ledger.doomed(&all[..2]).blobs(), 2);
    }
}
