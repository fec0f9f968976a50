//! What an answer for a pruned blob says about the cache of the replica that gave it. Pure.

use reqwest::StatusCode;
use reqwest::header::CONTENT_LENGTH;

use super::answer::Answer;

/// Whether a replica still believes in a blob whose data was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Freshness {
    /// It says that there is no such blob.
    Clean,
    /// Its cache has the blob, the storage has not.
    Stale(Evidence),
    /// The data is there: an upload brought the blob back.
    ThereAgain,
    /// The token lacks `get imagestreams/layers` in the repository's namespace, or is not accepted at all.
    NotAllowed,
    /// The answers tell neither: what came instead, on one line.
    Unknown(String),
}

/// Who says that a replica is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// The replica itself: 500, and the file with the data is missing, or the error says nothing at all, as where only its
    /// own memory has the blob. Only after this, twice, may it be told again to forget the blob.
    Replica,
    /// The storage that it points to: 404 or 403. The latter may have other reasons, so it is no leave to delete.
    Storage,
    /// The connection broke off where the data should begin, as plain distribution does.
    NoData,
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is settled.
    Is(Freshness),
    /// Only the storage knows: ask there.
    Follow(String),
    /// The body of a GET tells more.
    Get,
}

/// Decides what the answer to `HEAD …/blobs/<digest>` means.
///
/// A 500 alone is no proof: a storage that is down gives one, too, and what is taken for stale may be told to forget a
/// fresh upload. Nor is a 200: plain distribution answers it from the cache.
pub(super) fn of_head(answer: &Answer) -> Step {
    match answer.status {
        StatusCode::OK | StatusCode::INTERNAL_SERVER_ERROR => Step::Get,
        _ => of_any(answer),
    }
}

/// Decides what the answer to `GET …/blobs/<digest>` means, of whose body the beginning was read.
pub(super) fn of_get(digest: &str, answer: &Answer) -> Step {
    Step::Is(match answer.status {
        // What was announced never came: the connection broke off where the data should begin.
        StatusCode::OK if answer.body.is_empty() && !is_empty_blob(answer) => {
            if answer.timed_out {
                // A slow storage sends nothing either.
                Freshness::Unknown("no data came in time".to_owned())
            } else {
                Freshness::Stale(Evidence::NoData)
            }
        }
        StatusCode::OK => Freshness::ThereAgain,
        _ if answer.misses_data_of(digest) => Freshness::Stale(Evidence::Replica),
        _ => return of_any(answer),
    })
}

/// Decides what the storage's answer means, which the registry pointed to without asking it.
pub(super) fn of_storage(answer: &Answer) -> Freshness {
    match answer.status {
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Freshness::Stale(Evidence::Storage),
        StatusCode::OK => Freshness::ThereAgain,
        _ => Freshness::Unknown(format!("ask the storage: {}", answer.summary())),
    }
}

fn of_any(answer: &Answer) -> Step {
    if let Some(location) = answer.redirect() {
        return Step::Follow(location);
    }
    Step::Is(match answer.status {
        StatusCode::NOT_FOUND => Freshness::Clean,
        StatusCode::UNAUTHORIZED => Freshness::NotAllowed,
        _ => Freshness::Unknown(answer.summary()),
    })
}

fn is_empty_blob(answer: &Answer) -> bool {
    answer.headers.get(CONTENT_LENGTH).is_some_and(|length| length == "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::answer::answer;

    const DIGEST: &str = "sha256:7f185d3d3df08a1af2a6f2d19c02be9b00cb4a0d981c7576a8ac28333691331e";
    /// The recorded answer of a stale replica.
    const MISSING: &str = r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"Path":"/docker/registry/v2/blobs/sha256/7f/7f185d3d3df08a1af2a6f2d19c02be9b00cb4a0d981c7576a8ac28333691331e/data","DriverName":"filesystem"}}]}"#;

    #[test]
    fn a_head_settles_little() {
        let head = |status, headers: &[_]| of_head(&answer(status, headers, ""));
        assert_eq!(head(404, &[]), Step::Is(Freshness::Clean));
        assert_eq!(head(401, &[]), Step::Is(Freshness::NotAllowed));
        assert_eq!(head(500, &[]), Step::Get);
        assert_eq!(head(200, &[("content-length", "300")]), Step::Get);
        let storage = "https://bucket.s3.example.com/x?X-Amz-Signature=s";
        assert_eq!(head(307, &[("location", storage)]), Step::Follow(storage.to_owned()));
        assert!(matches!(head(503, &[]), Step::Is(Freshness::Unknown(_))));
        assert!(matches!(head(307, &[]), Step::Is(Freshness::Unknown(_))));
    }

    #[test]
    fn a_get_tells_a_stale_cache_from_a_storage_that_is_down_and_from_a_new_upload() {
        let get = |status, headers: &[_], body| of_get(DIGEST, &answer(status, headers, body));
        assert_eq!(get(500, &[], MISSING), Step::Is(Freshness::Stale(Evidence::Replica)));
        // What a replica says when only its own memory has the blob, in front of a Redis that has forgotten it.
        let only_memory = r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{}}]}"#;
        assert_eq!(get(500, &[], only_memory), Step::Is(Freshness::Stale(Evidence::Replica)));
        let storage = r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"DriverName":"s3aws","Enclosed":{}}}]}"#;
        assert!(matches!(get(500, &[], storage), Step::Is(Freshness::Unknown(_))));
        let down =
            r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"DriverName":"s3aws"}}]}"#;
        assert!(matches!(get(500, &[], down), Step::Is(Freshness::Unknown(_))));
        assert_eq!(get(200, &[("content-length", "300")], ""), Step::Is(Freshness::Stale(Evidence::NoData)));
        let late = Answer { timed_out: true, ..answer(200, &[("content-length", "300")], "") };
        assert!(matches!(of_get(DIGEST, &late), Step::Is(Freshness::Unknown(_))), "a slow storage");
        assert_eq!(get(200, &[("content-length", "300")], "x"), Step::Is(Freshness::ThereAgain));
        assert_eq!(get(200, &[("content-length", "0")], ""), Step::Is(Freshness::ThereAgain));
        assert_eq!(get(404, &[], ""), Step::Is(Freshness::Clean));
    }

    #[test]
    fn the_storage_has_the_last_word() {
        let storage = |status| of_storage(&answer(status, &[], "<Error>AccessDenied</Error>"));
        assert_eq!(storage(404), Freshness::Stale(Evidence::Storage));
        assert_eq!(storage(403), Freshness::Stale(Evidence::Storage));
        assert_eq!(storage(200), Freshness::ThereAgain);
        assert!(matches!(storage(503), Freshness::Unknown(_)));
    }
}
