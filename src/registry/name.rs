//! Names that may stand in a request's path. Pure.
//!
//! They come from objects that project users can write: `../admin` must not become a path.

use url::Url;

use super::answer::RegistryError;
use crate::model::is_digest;

/// The longest repository name, in bytes (distribution's grammar).
const LONGEST_REPOSITORY: usize = 255;

/// What a request deletes or asks for. Its names are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target<'a> {
    /// A layer's link in a repository.
    LayerLink { repository: &'a str, digest: &'a str },
    /// A manifest's link in a repository.
    ManifestLink { repository: &'a str, digest: &'a str },
    /// The data of a blob or manifest.
    Blob { digest: &'a str },
}

impl<'a> Target<'a> {
    pub(super) fn layer_link(repository: &'a str, digest: &'a str) -> Result<Self, RegistryError> {
        check_repository(repository)?;
        check_digest(digest)?;
        Ok(Self::LayerLink { repository, digest })
    }

    pub(super) fn manifest_link(repository: &'a str, digest: &'a str) -> Result<Self, RegistryError> {
        check_repository(repository)?;
        check_digest(digest)?;
        Ok(Self::ManifestLink { repository, digest })
    }

    pub(super) fn blob(digest: &'a str) -> Result<Self, RegistryError> {
        check_digest(digest)?;
        Ok(Self::Blob { digest })
    }

    /// Returns the URL to delete it at, below `base` (distribution API, "Deleting").
    pub(super) fn url(self, base: &Url) -> Url {
        let mut url = base.clone();
        // A base has a host, so it can hold segments; each one is percent-encoded.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear();
            match self {
                Self::LayerLink { repository, digest } => {
                    segments.push("v2").extend(repository.split('/')).push("blobs").push(digest);
                }
                Self::ManifestLink { repository, digest } => {
                    segments.push("v2").extend(repository.split('/')).push("manifests").push(digest);
                }
                Self::Blob { digest } => {
                    segments.push("admin").push("blobs").push(digest);
                }
            }
        }
        url
    }
}

fn check_repository(name: &str) -> Result<(), RegistryError> {
    if is_repository(name) { Ok(()) } else { Err(RegistryError::invalid_name("repository", name)) }
}

/// Whether it is a repository's name by distribution's grammar, without a host.
#[must_use]
pub fn is_repository(name: &str) -> bool {
    name.len() <= LONGEST_REPOSITORY && name.split('/').all(is_component)
}

fn check_digest(digest: &str) -> Result<(), RegistryError> {
    if is_digest(digest) { Ok(()) } else { Err(RegistryError::invalid_name("digest", digest)) }
}

/// Whether it is a path component of distribution's grammar:
/// `[a-z0-9]+ ( ( . | _ | __ | -+ ) [a-z0-9]+ )*`.
fn is_component(component: &str) -> bool {
    let is_alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    component.starts_with(is_alphanumeric)
        && component.ends_with(is_alphanumeric)
        && component.split(is_alphanumeric).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn only_repository_names_and_digests_become_paths() {
        let digest = format!("sha256:{HEX}");
        for repository in ["a/b", "shop/web", "shop/web.ui-2__x_y", "a---b", "plain", "a/b/c"] {
            assert!(Target::layer_link(repository, &digest).is_ok(), "{repository}");
        }
        for repository in [
            "",
            "/",
            "a/",
            "/a",
            "a//b",
            "../admin",
            "a/../b",
            "a/.",
            "a/..",
            "A/b",
            "a/b?x",
            "a/b#x",
            "a%2fb",
            "a b",
            "a/b\r\nX: y",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a.-b",
            "ä/b",
        ] {
            let error = Target::manifest_link(repository, &digest).unwrap_err();
            assert!(matches!(error, RegistryError::InvalidName { .. }), "{repository}");
        }
        assert!(Target::blob(&format!("{}/{}", "a".repeat(200), "b".repeat(55))).is_err());
        assert!(Target::layer_link(&format!("{}/{}", "a".repeat(200), "b".repeat(55)), &digest).is_err());
        for digest in
            [format!("sha256:{HEX}"), format!("tarsum.dev+sha256:{HEX}"), format!("sha512:{HEX}{HEX}")]
        {
            assert!(Target::blob(&digest).is_ok(), "{digest}");
        }
        for digest in [
            "",
            HEX,
            "latest",
            "sha256:",
            "sha256:zz",
            "sha256:../../x",
            "sha256:0123",
            ":0123",
            &format!("../sha256:{HEX}"),
            &format!("sha256:{HEX}/.."),
            &format!("sha256:{HEX}?x"),
            &format!("256:{HEX}"),
        ] {
            assert!(matches!(Target::blob(digest), Err(RegistryError::InvalidName { .. })), "{digest}");
        }
    }

    #[test]
    fn each_target_has_the_path_of_the_reference() {
        let base = Url::parse("https://[::1]:5000/").unwrap();
        let digest = format!("tarsum.dev+sha256:{HEX}");
        for (target, path) in [
            (Target::layer_link("a/b", &digest), format!("/v2/a/b/blobs/{digest}")),
            (Target::manifest_link("a/b", &digest), format!("/v2/a/b/manifests/{digest}")),
            (Target::blob(&digest), format!("/admin/blobs/{digest}")),
        ] {
            assert_eq!(target.unwrap().url(&base).as_str(), format!("https://[::1]:5000{path}"));
        }
    }
}
