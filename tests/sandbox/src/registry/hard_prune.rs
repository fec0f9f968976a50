//! `/usr/bin/dockerregistry -prune=check|delete` over the storage and the API's objects: the rules, the order and the words
//! of openshift/image-registry (`pkg/dockerregistry/server/prune`, `pkg/cmd/dockerregistry/prune.go`).
//!
//! It is a process of its own: it knows nothing of read-only mode, and tells no cache. Layer links of repositories whose
//! stream is there stay, as they do there.

use std::collections::BTreeSet;
use std::fmt;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use serde_json::Value;

use super::manifest::{DOCKER_MANIFEST, OCI_MANIFEST};
use super::storage::{Link, Storage, blob_path};
use crate::api::Api;
use crate::api::exec::{Output, Program, Start};
use crate::registry_backend::Cluster as _;
use crate::workload::NAMESPACE;

/// The program in the registry's image.
#[derive(Clone)]
pub struct HardPrune {
    storage: Storage,
    api: Api,
}

impl fmt::Debug for HardPrune {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HardPrune").field(&self.storage).finish()
    }
}

impl HardPrune {
    /// Over this storage.
    #[must_use]
    pub fn new(storage: Storage, api: Api) -> Self {
        Self { storage, api }
    }

    async fn prune(&self, start: &Start, output: &Output) -> Result<(u64, u64), (u64, u64)> {
        let Start { delete, log_level, account } = start;
        let log = async |level: &str, message: String| {
            let severity =
                |level: &str| ["debug", "info", "warning", "error"].iter().position(|l| *l == level);
            if severity(level) >= severity(if log_level == "warn" { "warning" } else { log_level }) {
                output
                    .log(format!(
                        "time=\"2026-07-01T10:00:00Z\" level={level} msg={message:?} go.version=go1.24.4"
                    ))
                    .await;
            }
        };
        let (mut blobs, mut bytes) = (0, 0);
        if !self.api.allowed(account, "list", "images", "", "") {
            let message = format!(
                "error listing images: images.image.openshift.io is forbidden: User {account:?} cannot list resource \
                 \"images\" in API group \"image.openshift.io\" at the cluster scope"
            );
            log("error", message).await;
            return Err((0, 0));
        }
        let used = self.used();
        let repositories = self.storage.repositories();
        if repositories.is_empty() {
            log(
                "warning",
                "No repositories found: filesystem: Path not found: /docker/registry/v2/repositories"
                    .to_owned(),
            )
            .await;
            return Ok((0, 0));
        }
        for repository in repositories {
            let (namespace, name) = repository.split_once('/').unwrap_or(("", &repository));
            if !self.api.allowed(account, "get", "imagestreams", namespace, name) {
                let message = format!(
                    "failed to get the image stream {repository}: imagestreams.image.openshift.io {name:?} is forbidden"
                );
                log("error", message).await;
                return Err((blobs, bytes));
            }
            if !self.api.stream_exists(namespace, name) {
                log(
                    "info",
                    format!("The image stream {repository} is not found, will remove the whole repository"),
                )
                .await;
                if *delete {
                    log("info", format!("Deleting repo: /docker/registry/v2/repositories/{repository}"))
                        .await;
                    let _ = self.storage.delete_repository(&repository);
                } else {
                    log("info", format!("Would delete repository: {repository}")).await;
                }
                continue;
            }
            let listed = self.listed(namespace, name);
            for manifest in self.storage.manifest_links(&repository) {
                if used.contains(manifest.as_str()) && listed.contains(manifest.as_str()) {
                    continue;
                }
                if *delete {
                    log("info", format!("Deleting manifest link: {repository}@{manifest}")).await;
                    let _ = self.storage.unlink(Link::Manifest, &repository, &manifest);
                } else {
                    log("info", format!("Would delete manifest link: {repository}@{manifest}")).await;
                }
            }
        }
        for blob in self.storage.blobs().into_iter().filter(|blob| !used.contains(blob.as_str())) {
            blobs += 1;
            bytes += self.storage.blob_size(&blob).unwrap_or_default();
            if *delete {
                log("info", format!("Deleting blob: {}", blob_path(&blob))).await;
                if !self.all_read_only() {
                    output.note_unguarded();
                }
                if let Err(error) = self.storage.delete_blob(&blob) {
                    log("error", format!("failed to delete the blob {blob}: {error}")).await;
                    return Err((blobs, bytes));
                }
            } else {
                log("info", format!("Would delete blob: {blob}")).await;
            }
        }
        Ok((blobs, bytes))
    }

    /// Whether no pod takes pushes: none without read-only mode in its environment.
    fn all_read_only(&self) -> bool {
        let pods = self.api.store().in_namespace("pods", NAMESPACE);
        pods.iter().all(|pod| {
            let mut containers = pod["spec"]["containers"].as_array().into_iter().flatten();
            containers.any(|container| {
                let mut env = container["env"].as_array().into_iter().flatten();
                env.any(|entry| entry["name"] == "REGISTRY_STORAGE_MAINTENANCE_READONLY")
            })
        })
    }

    /// What images use: their manifests, configs and layers.
    fn used(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        for image in self.api.store().list("images") {
            let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
            used.extend(text(&image["metadata"]["name"]));
            let media_type = image["dockerImageManifestMediaType"].as_str();
            if media_type.is_some_and(|known| [DOCKER_MANIFEST, OCI_MANIFEST].contains(&known)) {
                used.extend(text(&image["dockerImageMetadata"]["Id"]));
            }
            let layers = image["dockerImageLayers"].as_array().into_iter().flatten();
            used.extend(layers.filter_map(|layer| text(&layer["name"])));
        }
        used
    }

    fn listed(&self, namespace: &str, name: &str) -> BTreeSet<String> {
        let stream = self.api.store().get("imagestreams", namespace, name).unwrap_or_default();
        let tags = stream["status"]["tags"].as_array().into_iter().flatten();
        let items = tags.filter_map(|tag| tag["items"].as_array()).flatten();
        items.filter_map(|item| item["image"].as_str().map(ToOwned::to_owned)).collect()
    }
}

impl Program for HardPrune {
    fn run(&self, start: Start, output: Output) -> BoxFuture<'static, u8> {
        let program = self.clone();
        async move {
            let result = program.prune(&start, &output).await;
            let (blobs, bytes) = result.unwrap_or_else(|so_far| so_far);
            if start.delete {
                output.out(format!("Deleted {blobs} blobs")).await;
                output.out(format!("Freed up {} of disk space", size(bytes))).await;
            } else {
                output.out(format!("Would delete {blobs} blobs")).await;
                output.out(format!("Would free up {} of disk space", size(bytes))).await;
                output.out("Use -prune=delete to actually delete the data").await;
            }
            u8::from(result.is_err())
        }
        .boxed()
    }
}

/// A size as go-units' `BytesSize` prints it: four significant digits.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    #[expect(clippy::cast_precision_loss, reason = "four digits are printed")]
    let (mut number, mut unit) = (bytes as f64, 0);
    while number >= 1024.0 && unit + 1 < UNITS.len() {
        number /= 1024.0;
        unit += 1;
    }
    let decimals = match number {
        n if n >= 1000.0 => 0,
        n if n >= 100.0 => 1,
        n if n >= 10.0 => 2,
        _ => 3,
    };
    let text = format!("{number:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    format!("{text}{}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_four_digits() {
        for (bytes, text) in [
            (0, "0B"),
            (1023, "1023B"),
            (6071, "5.929KiB"),
            (2_684_354_560, "2.5GiB"),
            (1_048_576_000, "1000MiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
