//! What was deleted, read from a list of digests or from the document of a prune. Pure.

use serde::Deserialize;
use thiserror::Error;

use super::redis::{Doomed, is_cached_repository, is_digest};
use crate::journal::{self, LinkKind};
use crate::text::brief;

/// Why an input says nothing about what was deleted.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InputError {
    /// A line of a list.
    #[error("line {line}: \"{text}\" is no digest", text = brief(.text))]
    NoDigest {
        /// Counted from 1.
        line: usize,
        /// The line.
        text: String,
    },
    /// A line of a list, with something in front of the digest.
    #[error("line {line}: \"{text}\" is no repository", text = brief(.text))]
    NoRepository {
        /// Counted from 1.
        line: usize,
        /// What stands before the `@`.
        text: String,
    },
    /// The document does not parse, or lacks something.
    #[error("it is no document of `-o json` or `-o yaml`: {0}")]
    NoDocument(String),
    /// It begins as a journal does, and is none.
    #[error("{0}")]
    NoJournal(String),
    /// A document of another kind.
    #[error("it is a {}, not the PruneResult of a confirmed prune", brief(.0))]
    OtherKind(String),
}

/// Reads one digest per line, optionally as `namespace/name@digest`; blank lines and `#` comments are skipped.
///
/// # Errors
/// The first line that is none of these: a typing error must not leave a stale entry unnoticed.
pub fn digests(text: &str) -> Result<Doomed, InputError> {
    let mut doomed = Doomed::default();
    for (number, line) in text.lines().enumerate() {
        let (line, number) = (line.trim(), number + 1);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (repository, digest) = match line.rsplit_once('@') {
            Some((repository, digest)) => (Some(repository), digest),
            None => (None, line),
        };
        if !is_digest(digest) {
            return Err(InputError::NoDigest { line: number, text: line.to_owned() });
        }
        doomed.blob(digest);
        if let Some(repository) = repository {
            if !is_cached_repository(repository) {
                return Err(InputError::NoRepository { line: number, text: repository.to_owned() });
            }
            doomed.link(repository, digest);
        }
    }
    Ok(doomed)
}

/// Reads what a prune has deleted: its document, or its journal.
///
/// # Errors
/// It is neither.
pub(super) fn result(text: &str) -> Result<Doomed, InputError> {
    let is_journal = text.starts_with(r#"{"record":"#);
    if is_journal { from_journal(text) } else { result_document(text) }
}

/// What a journal says was deleted.
fn from_journal(text: &str) -> Result<Doomed, InputError> {
    let loaded = journal::read(text.as_bytes()).map_err(|error| InputError::NoJournal(error.to_string()))?;
    let repository = |position: u32| loaded.repositories.get(position as usize).map_or("", AsRef::as_ref);
    let mut doomed = Doomed::default();
    for (id, blob) in loaded.blobs.iter().filter(|(_, blob)| blob.done) {
        let digest = loaded.names.text(*id);
        doomed.blob(&digest);
        for position in &blob.repositories {
            doomed.link(repository(*position), &digest);
        }
    }
    for ((position, LinkKind::Layer | LinkKind::Manifest, id), _) in
        loaded.links.iter().filter(|(_, done)| **done)
    {
        doomed.link(repository(*position), &loaded.names.text(*id));
    }
    Ok(doomed)
}

/// The part of a `PruneResult` that matters here.
#[derive(Deserialize)]
struct Document {
    kind: String,
    result: Option<ResultPart>,
}

#[derive(Deserialize)]
struct ResultPart {
    changes: Vec<Change>,
}

#[derive(Deserialize)]
struct Change {
    kind: String,
    repository: Option<String>,
    digest: Option<String>,
    #[serde(default)]
    repositories: Vec<String>,
}

/// Reads the document of a confirmed prune, JSON or YAML.
///
/// # Errors
/// It is no such document.
pub fn result_document(text: &str) -> Result<Doomed, InputError> {
    let no_document = |error: String| InputError::NoDocument(brief(&error));
    let document: Document = if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| no_document(error.to_string()))?
    } else {
        serde_saphyr::from_str(text).map_err(|error| no_document(error.to_string()))?
    };
    let Document { kind, result } = document;
    if kind != "PruneResult" {
        return Err(InputError::OtherKind(kind));
    }
    let result = result.ok_or_else(|| no_document("result is missing".to_owned()))?;
    let mut doomed = Doomed::default();
    for Change { kind, repository, digest, repositories } in &result.changes {
        match (kind.as_str(), repository, digest) {
            ("blob", _, Some(digest)) => {
                doomed.blob(digest);
                for repository in repositories {
                    doomed.link(repository, digest);
                }
            }
            ("layerLink" | "manifestLink", Some(repository), Some(digest)) => doomed.link(repository, digest),
            _ => {}
        }
    }
    Ok(doomed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::execute::{Change, Outcome};

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    #[test]
    fn lists_hold_digests_with_and_without_repositories() {
        let (a, b) = (digest('a'), digest('b'));
        let read = digests(&format!("# deleted\n\n  {a}\r\nshop/web@{b}\nTeam.io/api@{b}\n")).unwrap();
        let mut expected = Doomed::default();
        expected.blob(&a);
        expected.blob(&b);
        expected.link("shop/web", &b);
        expected.link("Team.io/api", &b);
        assert_eq!(read, expected);
        assert_eq!(read.without_repository(), 1);
        assert!(digests("\n# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_no_digest_is_refused_with_its_line() {
        let a = digest('a');
        let error = |text: &str| digests(text).unwrap_err().to_string();
        assert_eq!(error(&format!("{a}\n\nlatest\n")), "line 3: \"latest\" is no digest");
        assert_eq!(error(&a[..70]), format!("line 1: \"{}\" is no digest", &a[..70]));
        assert_eq!(error(&format!("{a} {a}")), format!("line 1: \"{a} {a}\" is no digest"));
        assert_eq!(error(&format!("host:5000/a@{a}")), "line 1: \"host:5000/a\" is no repository");
        assert_eq!(error("\u{1b}[2J"), "line 1: \"\\u{1b}[2J\" is no digest");
    }

    #[test]
    fn a_result_says_which_blobs_and_links_are_gone() {
        let (a, b) = (digest('a'), digest('b'));
        let outcome = Outcome {
            changes: vec![
                Change::Items { repository: "shop/web".into(), items: 3 },
                Change::LayerLink { repository: "shop/web".into(), digest: a.clone() },
                Change::ManifestLink { repository: "shop/web".into(), digest: b.clone() },
                Change::Blob { digest: a.clone(), bytes: Some(3), repositories: vec!["shop/api".into()] },
                Change::Image { name: b.clone() },
            ],
            ..Outcome::default()
        };
        let document = serde_json::json!({ "apiVersion": "prune-images/v1alpha1", "kind": "PruneResult", "result": outcome });
        let mut expected = Doomed::default();
        expected.blob(&a);
        expected.link("shop/web", &a);
        expected.link("shop/api", &a);
        expected.link("shop/web", &b);
        assert_eq!(result_document(&document.to_string()), Ok(expected.clone()));
        assert_eq!(result_document(&serde_saphyr::to_string(&document).unwrap()), Ok(expected));
    }

    #[test]
    fn a_journal_says_it_too() {
        let (a, b) = (digest('a'), digest('b'));
        let lines = [
            json!({
                "record": "begin", "version": 1, "program": "0.1.0", "server": "https://h", "cluster": "h", "user": "u",
                "host": "h", "pid": 1, "started": "2026-11-24T16:00:00Z",
                "selection": {
                    "now": "2026-11-24T16:00:00Z", "all": true, "pruneRegistry": true, "ignoreInvalidRefs": false,
                },
            }),
            json!({ "record": "blob", "digest": a, "repositories": ["shop/web", "shop/api"] }),
            json!({ "record": "blob", "digest": digest('c') }),
            json!({ "record": "planned", "streams": 1, "images": 1, "blobs": 2 }),
            json!({ "record": "done", "kind": "layerLink", "repository": "shop/web", "digest": b, "ms": 1 }),
            json!({ "record": "done", "kind": "blob", "digest": a, "ms": 2 }),
        ];
        let text = lines.map(|line| line.to_string() + "\n").concat();
        let mut expected = Doomed::default();
        expected.blob(&a);
        expected.link("shop/web", &a);
        expected.link("shop/api", &a);
        expected.link("shop/web", &b);
        assert_eq!(result(&text), Ok(expected));
        assert_eq!(
            result("{\"record\":1}\n").unwrap_err().to_string().split(':').next(),
            Some("it is no journal")
        );
    }

    #[test]
    fn other_documents_are_refused() {
        let error = |text: &str| result_document(text).unwrap_err().to_string();
        assert_eq!(
            error(r#"{"kind": "PrunePlan"}"#),
            "it is a PrunePlan, not the PruneResult of a confirmed prune"
        );
        assert!(error("{").starts_with("it is no document of `-o json` or `-o yaml`: "));
        assert!(error("Summary: deleted 3 blob(s)").starts_with("it is no document"));
        assert!(error(r#"{"kind": "PruneResult"}"#).ends_with("result is missing"));
    }
}
