//! What an answer says about a blob or manifest that an image needs: whether it can be pulled. Pure.

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};

use super::answer::Answer;

/// Whether a repository can hand out a blob or a manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// It can.
    There,
    /// The repository says that it has no such thing: its link or the data is missing.
    Absent,
    /// The repository has it, the storage has not.
    DataMissing,
    /// The data ends too early.
    Truncated {
        /// How many bytes there are, where the answer says so.
        found: Option<u64>,
    },
    /// The token lacks `get imagestreams/layers` in the repository's namespace, or is not accepted at all.
    NotAllowed,
    /// The answer tells nothing: what came instead, on one line.
    Unknown(String),
}

/// What follows from an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// It is settled.
    Is(Presence),
    /// Only the storage knows: ask there.
    Follow(String),
    /// The body of a GET tells more.
    Get,
}

/// Decides what the answer to `HEAD …/manifests/<digest>` means.
pub(super) fn of_manifest_head(answer: &Answer) -> Step {
    match answer.status {
        StatusCode::INTERNAL_SERVER_ERROR => Step::Get,
        _ => of_any(answer),
    }
}

/// Decides what the answer to `GET …/manifests/<digest>` means.
pub(super) fn of_manifest(digest: &str, answer: &Answer) -> Step {
    if answer.misses_data_of(digest) { Step::Is(Presence::DataMissing) } else { of_any(answer) }
}

/// Decides what the answer to a GET for the last byte of a blob means; of `bytes` bytes, where its size is known, and for
/// the first byte where it is not.
///
/// A HEAD proves nothing: a cache may answer it, and plain distribution always does.
pub(super) fn of_blob(digest: &str, bytes: Option<u64>, answer: &Answer) -> Step {
    match answer.status {
        StatusCode::PARTIAL_CONTENT | StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE => {
            Step::Is(of_data(bytes, answer))
        }
        _ if answer.misses_data_of(digest) => Step::Is(Presence::DataMissing),
        _ => of_any(answer),
    }
}

/// Decides what the storage's answer means, which the registry pointed to without asking it.
pub(super) fn of_storage(bytes: Option<u64>, answer: &Answer) -> Presence {
    match answer.status {
        StatusCode::PARTIAL_CONTENT | StatusCode::OK | StatusCode::RANGE_NOT_SATISFIABLE => {
            of_data(bytes, answer)
        }
        StatusCode::NOT_FOUND => Presence::DataMissing,
        // A 403 may have other reasons than a missing object: nobody is told that an image is broken for it.
        _ => Presence::Unknown(format!("ask the storage: {}", answer.summary())),
    }
}

fn of_data(bytes: Option<u64>, answer: &Answer) -> Presence {
    let header =
        |name| answer.headers.get(name).and_then(|value: &reqwest::header::HeaderValue| value.to_str().ok());
    // `bytes 41-41/42`, `bytes */42` (RFC 9110, 14.4).
    let total = match answer.status {
        StatusCode::OK => header(CONTENT_LENGTH),
        _ => header(CONTENT_RANGE).and_then(|range| range.rsplit_once('/')).map(|(_, total)| total),
    };
    let found = total.and_then(|total| total.parse::<u64>().ok());
    let is_short = bytes.zip(found).is_some_and(|(bytes, found)| found < bytes);
    if is_short {
        return Presence::Truncated { found };
    }
    match answer.status {
        StatusCode::RANGE_NOT_SATISFIABLE if bytes.is_none() && found == Some(0) => Presence::There,
        StatusCode::RANGE_NOT_SATISFIABLE => Presence::Unknown(answer.summary()),
        _ if !answer.body.is_empty() || found == Some(0) => Presence::There,
        // A slow storage sends nothing either.
        _ if answer.timed_out => Presence::Unknown("no data came in time".to_owned()),
        // What was announced never came. A cache knows how long it was; where the data ends, only reading it tells.
        _ if bytes.is_none() => Presence::DataMissing,
        _ => Presence::Truncated { found: None },
    }
}

fn of_any(answer: &Answer) -> Step {
    if let Some(location) = answer.redirect() {
        return Step::Follow(location);
    }
    Step::Is(match answer.status {
        StatusCode::OK => Presence::There,
        StatusCode::NOT_FOUND => Presence::Absent,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Presence::NotAllowed,
        _ => Presence::Unknown(answer.summary()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::answer::answer;

    const DIGEST: &str = "sha256:7f185d3d3df08a1af2a6f2d19c02be9b00cb4a0d981c7576a8ac28333691331e";
    /// The recorded answer of a stale replica.
    const MISSING: &str = r#"{"errors":[{"code":"UNKNOWN","message":"unknown error","detail":{"Path":"/docker/registry/v2/blobs/sha256/7f/7f185d3d3df08a1af2a6f2d19c02be9b00cb4a0d981c7576a8ac28333691331e/data","DriverName":"filesystem"}}]}"#;

    #[test]
    fn the_last_byte_tells_whether_a_blob_is_whole() {
        let blob =
            |bytes, status, headers: &[_], body| of_blob(DIGEST, bytes, &answer(status, headers, body));
        let is = |presence| Step::Is(presence);
        let range = ("content-range", "bytes 299-299/300");
        assert_eq!(blob(Some(300), 206, &[range], "x"), is(Presence::There));
        assert_eq!(blob(None, 206, &[("content-range", "bytes 0-0/300")], "x"), is(Presence::There));
        assert_eq!(blob(Some(300), 206, &[range], ""), is(Presence::Truncated { found: None }));
        assert_eq!(blob(None, 206, &[range], ""), is(Presence::DataMissing));
        let short = ("content-range", "bytes */200");
        assert_eq!(blob(Some(300), 416, &[short], ""), is(Presence::Truncated { found: Some(200) }));
        assert!(matches!(blob(None, 416, &[], ""), Step::Is(Presence::Unknown(_))));
        assert_eq!(blob(None, 416, &[("content-range", "bytes */0")], ""), is(Presence::There));
        // A server that knows no ranges.
        assert_eq!(blob(Some(300), 200, &[("content-length", "300")], "x"), is(Presence::There));
        let cut = &[("content-length", "200")];
        assert_eq!(blob(Some(300), 200, cut, "x"), is(Presence::Truncated { found: Some(200) }));
        assert_eq!(blob(Some(300), 404, &[], ""), is(Presence::Absent));
        assert_eq!(blob(Some(300), 401, &[], ""), is(Presence::NotAllowed));
        assert_eq!(blob(Some(300), 500, &[], MISSING), is(Presence::DataMissing));
        assert!(
            matches!(blob(Some(300), 500, &[], "{}"), Step::Is(Presence::Unknown(_))),
            "a storage in trouble"
        );
        let late = Answer { timed_out: true, ..answer(206, &[range], "") };
        assert!(matches!(of_blob(DIGEST, Some(300), &late), Step::Is(Presence::Unknown(_))));
        assert_eq!(
            blob(Some(3), 307, &[("location", "https://s3/x")], ""),
            Step::Follow("https://s3/x".into())
        );
    }

    #[test]
    fn the_storage_says_missing_only_with_404() {
        let storage = |status, headers: &[_], body| of_storage(Some(300), &answer(status, headers, body));
        assert_eq!(storage(206, &[("content-range", "bytes 299-299/300")], "x"), Presence::There);
        assert_eq!(storage(404, &[], "<Error>NoSuchKey</Error>"), Presence::DataMissing);
        assert!(matches!(storage(403, &[], ""), Presence::Unknown(_)));
        assert_eq!(
            storage(416, &[("content-range", "bytes */7")], ""),
            Presence::Truncated { found: Some(7) }
        );
    }

    #[test]
    fn a_manifest_is_there_or_not() {
        assert_eq!(of_manifest_head(&answer(200, &[], "")), Step::Is(Presence::There));
        assert_eq!(of_manifest_head(&answer(404, &[], "")), Step::Is(Presence::Absent));
        assert_eq!(of_manifest_head(&answer(500, &[], "")), Step::Get);
        assert_eq!(of_manifest(DIGEST, &answer(500, &[], MISSING)), Step::Is(Presence::DataMissing));
    }
}
