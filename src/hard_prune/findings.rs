//! What a hard prune would delete, or has begun to. Pure. A digest costs 32 bytes and little more.

use std::collections::BTreeSet;

use super::output::Line;
use crate::cache::redis::Doomed;
use crate::model::{Id, Names};

/// How many problems are kept; there may be one for every blob.
const PROBLEMS: usize = 20;

/// What a hard prune said.
#[derive(Debug, Default)]
pub struct Findings {
    repositories: BTreeSet<String>,
    blobs: Names,
    manifests: Names,
    linked_in: Names,
    links: BTreeSet<(Id, Id)>,
    /// How many blobs it counted; absent if it did not come to its end.
    pub counted: Option<u64>,
    /// How many bytes these held, to four digits; absent if it did not come to its end.
    pub bytes: Option<u64>,
    /// Errors and warnings, the first ones.
    pub problems: Vec<String>,
    /// How many more there were.
    pub more_problems: u64,
}

impl Findings {
    /// Takes what a line says.
    pub fn add(&mut self, line: Line) {
        match line {
            Line::Repository(name) => {
                self.repositories.insert(name);
            }
            Line::ManifestLink { repository, digest } => {
                let repository = self.linked_in.intern(&repository);
                self.links.insert((repository, self.manifests.intern(&digest)));
            }
            Line::Blob(digest) => {
                self.blobs.intern(&digest);
            }
            Line::Blobs(blobs) => self.counted = Some(blobs),
            Line::Bytes(bytes) => self.bytes = Some(bytes),
            Line::Problem(text) if self.problems.len() < PROBLEMS => {
                if !self.problems.contains(&text) {
                    self.problems.push(text);
                }
            }
            Line::Problem(_) => self.more_problems += 1,
            Line::Other => {}
        }
    }

    /// Adds the names of another one, and its counts to none.
    pub fn add_names(&mut self, other: &Self) {
        self.repositories.extend(other.repositories.iter().cloned());
        for blob in other.blobs() {
            self.blobs.intern(&blob);
        }
        for (repository, digest) in other.manifest_links() {
            self.add(Line::ManifestLink { repository, digest });
        }
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.repositories.is_empty() && self.links.is_empty() && self.blob_count() == 0
    }

    /// Repositories that go as a whole, in order.
    pub fn repositories(&self) -> impl Iterator<Item = &str> {
        self.repositories.iter().map(String::as_str)
    }

    /// How many repositories go as a whole.
    #[must_use]
    pub fn repository_count(&self) -> usize {
        self.repositories.len()
    }

    /// Links of other repositories: repository and manifest.
    pub fn manifest_links(&self) -> impl Iterator<Item = (String, String)> + '_ {
        let text = |(repository, manifest): &(Id, Id)| {
            (self.linked_in.text(*repository).into_owned(), self.manifests.text(*manifest).into_owned())
        };
        self.links.iter().map(text)
    }

    /// How many links of other repositories go.
    #[must_use]
    pub fn link_count(&self) -> usize {
        self.links.len()
    }

    /// The digests of the blobs, in the order in which they were named.
    pub fn blobs(&self) -> impl Iterator<Item = String> + '_ {
        self.blobs.ids().map(|id| self.blobs.text(id).into_owned())
    }

    /// How many blobs: those that were named, or those that were counted, if a registry names none.
    #[must_use]
    pub fn blob_count(&self) -> u64 {
        (self.blobs.len() as u64).max(self.counted.unwrap_or_default())
    }

    /// Whether it counted more than it named: its log says less than it did.
    #[must_use]
    pub fn has_unnamed(&self) -> bool {
        self.counted.is_some_and(|counted| counted > self.blobs.len() as u64)
    }

    /// What caches are to forget.
    #[must_use]
    pub fn doomed(&self) -> Doomed {
        let mut doomed = Doomed::default();
        for blob in self.blobs() {
            doomed.blob(&blob);
        }
        for (repository, manifest) in self.manifest_links() {
            doomed.link(&repository, &manifest);
        }
        doomed
    }
}

#[cfg(test)]
mod tests {
    use super::super::output::read;
    use super::*;

    #[test]
    fn what_was_said_twice_counts_once() {
        let digest = |n: usize| format!("sha256:{n:064x}");
        let mut findings = Findings::default();
        assert!(findings.is_empty());
        let lines = [
            format!("Would delete manifest link: shop/web@{}", digest(1)),
            "Would delete repository: shop/old".to_owned(),
            format!("Would delete blob: {}", digest(1)),
            format!("Would delete blob: {}", digest(2)),
        ];
        for line in lines.iter().chain(&lines) {
            findings.add(read(line));
        }
        assert_eq!((findings.repository_count(), findings.link_count(), findings.blob_count()), (1, 1, 2));
        let doomed = findings.doomed();
        assert_eq!((doomed.blobs(), doomed.without_repository()), (2, 1));

        findings.add(read("Would delete 5 blobs"));
        assert!(findings.has_unnamed() && findings.blob_count() == 5);
        let mut other = Findings::default();
        other.add_names(&findings);
        assert_eq!((other.link_count(), other.blob_count(), other.has_unnamed()), (1, 2, false));
    }

    #[test]
    fn few_of_many_problems_are_kept() {
        let mut findings = Findings::default();
        for n in 0..100 {
            findings.add(Line::Problem(format!("problem {n}")));
        }
        assert_eq!((findings.problems.len(), findings.more_problems), (PROBLEMS, 80));
    }
}
