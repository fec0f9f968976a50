//! What `/usr/bin/dockerregistry -prune=…` writes, line by line. Pure.
//!
//! What it deletes is in its log (stderr, at level info), the counts are on stdout at the end. The words are those of
//! openshift/image-registry, `pkg/dockerregistry/server/prune` and `pkg/cmd/dockerregistry/prune.go`, and of the vacuum of
//! distribution. They are looked for wherever they stand in a line: logs are text, JSON or logstash, as configured.

use crate::cache::redis::is_digest;
use crate::registry::is_repository;
use crate::text::brief;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A repository without an image stream goes, with all its links.
    Repository(String),
    /// A link of a repository to a manifest that its image stream does not list goes.
    ManifestLink {
        /// The repository.
        repository: String,
        /// The manifest's digest.
        digest: String,
    },
    /// A blob that no image uses goes.
    Blob(String),
    /// How many blobs there were, at the end.
    Blobs(u64),
    /// How much they held in bytes, to the four digits that are printed.
    Bytes(u64),
    /// An error or a warning, safe to print.
    Problem(String),
    /// Anything else.
    Other,
}

/// Where the storage keeps things.
const ROOT: &str = "/docker/registry/v2/";

/// Reads a line.
#[must_use]
pub fn read(line: &str) -> Line {
    if let Some(name) =
        either(line, "Would delete repository: ", &format!("Deleting repo: {ROOT}repositories/"))
    {
        return if is_repository(name) { Line::Repository(name.to_owned()) } else { Line::Other };
    }
    if let Some((repository, digest)) =
        either(line, "Would delete manifest link: ", "Deleting manifest link: ")
            .and_then(|rest| rest.split_once('@'))
    {
        return if is_repository(repository) && is_digest(digest) {
            Line::ManifestLink { repository: repository.to_owned(), digest: digest.to_owned() }
        } else {
            Line::Other
        };
    }
    if let Some(digest) = after(line, "Would delete blob: ") {
        return if is_digest(digest) { Line::Blob(digest.to_owned()) } else { Line::Other };
    }
    if let Some(path) = after(line, "Deleting blob: ") {
        return blob_of_path(path).map_or(Line::Other, Line::Blob);
    }
    if let Some(blobs) = count(line) {
        return Line::Blobs(blobs);
    }
    if let Some(bytes) = line.strip_suffix(" of disk space").and_then(|line| {
        let size = line.strip_prefix("Would free up ").or_else(|| line.strip_prefix("Freed up "))?;
        bytes(size)
    }) {
        return Line::Bytes(bytes);
    }
    if is_problem(line) { Line::Problem(problem(line)) } else { Line::Other }
}

fn either<'a>(line: &'a str, dry: &str, real: &str) -> Option<&'a str> {
    after(line, dry).or_else(|| after(line, real))
}

/// The word that follows this text. Names and digests have no blanks and no quotation marks.
fn after<'a>(line: &'a str, text: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(text)?;
    let end = rest.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\\' | '\'')).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// `…/blobs/sha256/ab/abcd…`
fn blob_of_path(path: &str) -> Option<String> {
    let mut parts = path.split_once("/blobs/")?.1.split('/');
    let (algorithm, shard, hex) = (parts.next()?, parts.next()?, parts.next()?);
    let digest = format!("{algorithm}:{hex}");
    (hex.starts_with(shard) && is_digest(&digest)).then_some(digest)
}

/// `Would delete 12 blobs`, `Deleted 12 blobs`.
fn count(line: &str) -> Option<u64> {
    let line = line.strip_suffix(" blobs")?;
    line.strip_prefix("Would delete ").or_else(|| line.strip_prefix("Deleted "))?.parse().ok()
}

/// A size as go-units prints it: four digits and a binary unit, `5.929KiB`.
fn bytes(size: &str) -> Option<u64> {
    const UNITS: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];
    let begin = size.find(|c: char| c.is_ascii_alphabetic() && c != 'e')?;
    let (number, unit) = size.split_at(begin);
    let power = UNITS.iter().position(|known| *known == unit)?;
    let number: f64 = number.trim().parse().ok()?;
    let bytes = number * 1024_f64.powi(i32::try_from(power).ok()?);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a number that is not negative; more than 2^64 bytes are as many as can be said"
    )]
    (number >= 0.0).then_some(bytes.round() as u64)
}

fn is_problem(line: &str) -> bool {
    ["error", "fatal", "panic", "warning"].iter().any(|level| {
        line.contains(&format!("level={level}")) || line.contains(&format!("\"level\":\"{level}\""))
    }) || line.starts_with("panic: ")
        || line.starts_with("fatal error: ")
}

/// The message of a log line without what stands around it.
fn problem(line: &str) -> String {
    let message = serde_json::from_str::<serde_json::Value>(line)
        .ok()
        .and_then(|value| value.get("msg").or_else(|| value.get("message"))?.as_str().map(ToOwned::to_owned));
    let message = message.or_else(|| quoted_message(line));
    brief(message.as_deref().unwrap_or(line))
}

/// The value of `msg="…"`, in which Go has escaped quotation marks.
fn quoted_message(line: &str) -> Option<String> {
    let (_, rest) = line.split_once("msg=")?;
    let Some(rest) = rest.strip_prefix('"') else {
        return rest.split(' ').next().map(ToOwned::to_owned);
    };
    let mut text = String::new();
    let mut escaped = false;
    for c in rest.chars() {
        match (escaped, c) {
            (false, '\\') => escaped = true,
            (false, '"') => return Some(text),
            (true, 'n' | 't') => {
                text.push(' ');
                escaped = false;
            }
            (_, c) => {
                text.push(c);
                escaped = false;
            }
        }
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: usize) -> String {
        format!("sha256:{n:064x}")
    }

    #[test]
    fn each_form_of_log_is_read() {
        let (hex, path) = (format!("{:064x}", 7), format!("/docker/registry/v2/blobs/sha256/00/{:064x}", 7));
        let link =
            |repository: &str| Line::ManifestLink { repository: repository.to_owned(), digest: digest(7) };
        for (message, wanted) in [
            (format!("Would delete blob: sha256:{hex}"), Line::Blob(digest(7))),
            (format!("Deleting blob: {path}"), Line::Blob(digest(7))),
            (format!("Would delete manifest link: shop/web@sha256:{hex}"), link("shop/web")),
            (format!("Deleting manifest link: shop/web@sha256:{hex}"), link("shop/web")),
            ("Would delete repository: shop/web".to_owned(), Line::Repository("shop/web".to_owned())),
            (
                "Deleting repo: /docker/registry/v2/repositories/shop/web".to_owned(),
                Line::Repository("shop/web".to_owned()),
            ),
        ] {
            for line in [
                format!("time=\"2026-11-24T10:00:00Z\" level=info msg=\"{message}\" go.version=go1.24.4"),
                format!(r#"{{"level":"info","msg":"{message}","time":"2026-11-24T10:00:00Z"}}"#),
                message.clone(),
            ] {
                assert_eq!(read(&line), wanted, "{line}");
            }
        }
    }

    #[test]
    fn nothing_but_names_is_taken_for_names() {
        for line in [
            "level=info msg=\"Would delete blob: sha256:../../x\"",
            "level=info msg=\"Would delete repository: ../admin\"",
            "level=info msg=\"Deleting blob: /docker/registry/v2/blobs/sha256/00/11\"",
            "level=info msg=\"Deleting manifest link: shop/web\"",
            "Would delete many blobs",
            "Would free up much of disk space",
            "",
        ] {
            assert_eq!(read(line), Line::Other, "{line}");
        }
    }

    #[test]
    fn the_summary_is_read() {
        assert_eq!(read("Would delete 12 blobs"), Line::Blobs(12));
        assert_eq!(read("Deleted 0 blobs"), Line::Blobs(0));
        for (text, wanted) in [
            ("Would free up 5.929KiB of disk space", 6071),
            ("Freed up 0B of disk space", 0),
            ("Freed up 2.5GiB of disk space", 2_684_354_560),
            ("Freed up 1000MiB of disk space", 1_048_576_000),
        ] {
            assert_eq!(read(text), Line::Bytes(wanted), "{text}");
        }
    }

    #[test]
    fn problems_are_told_without_what_stands_around_them() {
        let text = r#"time="2026-11-24T10:00:00Z" level=error msg="error listing images: images.image.openshift.io is forbidden: User \"system:serviceaccount:openshift-image-registry:registry\" cannot list resource \"images\"" go.version=go1.24"#;
        let wanted = "error listing images: images.image.openshift.io is forbidden: User \"system:serviceaccount:openshift-image-registry:registry\" cannot list resource \"images\"";
        assert_eq!(read(text), Line::Problem(wanted.to_owned()));
        let json = r#"{"level":"warning","msg":"No repositories found: \u001b[2J"}"#;
        assert_eq!(read(json), Line::Problem("No repositories found: \\u{1b}[2J".to_owned()));
        assert_eq!(read("panic: no storage"), Line::Problem("panic: no storage".to_owned()));
    }
}
