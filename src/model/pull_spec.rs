//! Pull specs and image stream references, by the grammar of openshift/library-go
//! `pkg/image/internal/reference`: older and wider than today's distribution grammar (`Foo/bar` is valid).
//!
//! Error texts are the reference implementation's, because administrators search for them.

use std::sync::LazyLock;

use regex::Regex;

/// The longest name (host and path) that a pull spec may have, in bytes.
const NAME_TOTAL_LENGTH_MAX: usize = 255;

/// A pull spec split at its parts; absent parts are empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullSpec<'a> {
    /// Host and port, if the first component looks like one.
    pub host: &'a str,
    /// The first path component after the host, if there are at least two.
    pub namespace: &'a str,
    /// The rest of the path; holds a `/` where there are more than two components.
    pub name: &'a str,
    /// The tag, without the colon.
    pub tag: &'a str,
    /// The digest, without the at sign.
    pub digest: &'a str,
}

// Go's and Rust's regex engines agree on leftmost-first matching, so the published expressions are used as they
// stand instead of a hand-written scanner. `[[:word:]]` is Go's ASCII `\w`.
static REFERENCE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    let host_component = "(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])";
    let host = format!(r"{host_component}(?:\.{host_component})*(?::[0-9]+)?");
    let component = "[a-z0-9]+(?:(?:[._]|__|[-]*)[a-z0-9]+)*";
    let name = format!("(?:{host}/)?{component}(?:/{component})*");
    let tag = "[[:word:]][[:word:].-]{0,127}";
    let digest = "[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[[:xdigit:]]{32,}";
    Regex::new(&format!("^({name})(?::({tag}))?(?:@({digest}))?$")).ok()
});

fn captures(text: &str) -> Option<regex::Captures<'_>> {
    REFERENCE.as_ref().and_then(|regex| regex.captures(text))
}

/// Splits a pull spec as `ParseDockerImageReference` of library-go does.
///
/// # Errors
/// The reference's text: `invalid reference format`, `repository name must be lowercase`, …
pub fn parse(text: &str) -> Result<PullSpec<'_>, &'static str> {
    let Some(parts) = captures(text) else {
        return Err(if text.is_empty() {
            "repository name must have at least one component"
        } else if captures(&text.to_lowercase()).is_some() {
            "repository name must be lowercase"
        } else {
            "invalid reference format"
        });
    };
    let part = |index| parts.get(index).map_or("", |matched| matched.as_str());
    let (name, tag, digest) = (part(1), part(2), part(3));
    if name.len() > NAME_TOTAL_LENGTH_MAX {
        return Err("repository name must not be more than 255 characters");
    }
    if !digest.is_empty() {
        validate_digest(digest)?;
    }
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (first, rest),
        None if name.contains('.') || name.starts_with("localhost") => (name, ""),
        _ => ("", name),
    };
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    Ok(PullSpec { host, namespace, name, tag, digest })
}

/// The checks of library-go `pkg/image/internal/digest` beyond the grammar: known algorithm, right length.
fn validate_digest(digest: &str) -> Result<(), &'static str> {
    let Some((algorithm, hex)) = digest.split_once(':') else { return Err("invalid checksum digest format") };
    let wanted = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return Err("unsupported digest algorithm"),
    };
    if hex.len() == wanted { Ok(()) } else { Err("invalid checksum digest length") }
}

/// Splits an `ImageStreamTag` name at its one colon.
///
/// # Errors
/// The reference's text (library-go `imageutil.ParseImageStreamTagName`).
pub fn parse_image_stream_tag(name: &str) -> Result<(&str, &str), String> {
    if name.contains('@') {
        return Err(format!("{name:?} is an image stream image, not an image stream tag"));
    }
    match name.split_once(':') {
        Some((stream, tag)) if !tag.contains(':') => {
            if stream.is_empty() || tag.is_empty() {
                Err(format!("image stream tag name {name:?} must have a name and a tag"))
            } else {
                Ok((stream, tag))
            }
        }
        _ => Err(format!("expected exactly one : delimiter in the istag {name:?}")),
    }
}

/// Splits an `ImageStreamImage` name at its one at sign.
///
/// # Errors
/// The reference's text (library-go `imageutil.ParseImageStreamImageName`).
pub fn parse_image_stream_image(name: &str) -> Result<(&str, &str), String> {
    match name.split_once('@') {
        Some((stream, digest)) if !digest.contains('@') => {
            if stream.is_empty() || digest.is_empty() {
                Err(format!("image stream image name {name:?} must have a name and ID"))
            } else {
                Ok((stream, digest))
            }
        }
        _ => Err(format!("expected exactly one @ in the isimage name {name:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ed904db56ee1199a54e5c1c82a76150a39d0fcd17659371fb800035f88af370a";

    #[test]
    fn splits_by_the_reference_grammar() {
        let full = format!("172.30.1.1:5000/infra/billing:prod@{DIGEST}");
        let table: &[(&str, [&str; 5])] = &[
            (&full, ["172.30.1.1:5000", "infra", "billing", "prod", DIGEST]),
            ("busybox", ["", "", "busybox", "", ""]),
            ("localhost", ["localhost", "", "", "", ""]),
            ("localhost/a/b", ["localhost", "a", "b", "", ""]),
            ("a.b.c", ["a.b.c", "", "", "", ""]),
            ("ci/golang:v2", ["", "ci", "golang", "v2", ""]),
            ("quay.io/a/b/c:1", ["quay.io", "a", "b/c", "1", ""]),
            ("Foo/bar", ["", "Foo", "bar", "", ""]),
            ("host:5000/x", ["host:5000", "", "x", "", ""]),
            ("a__b/c-----d", ["", "a__b", "c-----d", "", ""]),
        ];
        for (text, [host, namespace, name, tag, digest]) in table {
            assert_eq!(parse(text), Ok(PullSpec { host, namespace, name, tag, digest }), "{text}");
        }
    }

    #[test]
    fn refuses_with_the_reference_texts() {
        let table = [
            ("", "repository name must have at least one component"),
            (" ", "invalid reference format"),
            ("a b", "invalid reference format"),
            ("host.io/shop/golang:", "invalid reference format"),
            ("FOO", "repository name must be lowercase"),
            ("host.io/a/B:Tag", "repository name must be lowercase"),
            ("x@sha256:ed904db56ee1199a54e5c1c82a76150a39d0fcd1", "invalid checksum digest length"),
            ("x@tarsum.dev+sha256:ed904db56ee1199a54e5c1c82a76150a39d0fcd1", "unsupported digest algorithm"),
            ("x@sha256:ed904db", "invalid reference format"),
            ("host.io/a/b:é", "invalid reference format"),
        ];
        for (text, error) in table {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        assert_eq!(
            parse(&format!("host.io/a/{}", "x".repeat(256))),
            Err("repository name must not be more than 255 characters")
        );
    }

    #[test]
    fn splits_stream_tags_and_stream_images() {
        assert_eq!(parse_image_stream_tag("ruby:2.5"), Ok(("ruby", "2.5")));
        assert_eq!(
            parse_image_stream_tag("a@b").unwrap_err(),
            "\"a@b\" is an image stream image, not an image stream tag"
        );
        for (bad, part) in
            [("a", "exactly one :"), ("a:b:c", "exactly one :"), (":b", "must have"), ("a:", "must have")]
        {
            assert!(parse_image_stream_tag(bad).unwrap_err().contains(part), "{bad}");
        }
        assert_eq!(parse_image_stream_image("ruby@sha256:1"), Ok(("ruby", "sha256:1")));
        for (bad, part) in
            [("a:b", "exactly one @"), ("a@b@c", "exactly one @"), ("@b", "must have"), ("", "exactly one")]
        {
            assert!(parse_image_stream_image(bad).unwrap_err().contains(part), "{bad}");
        }
    }
}
