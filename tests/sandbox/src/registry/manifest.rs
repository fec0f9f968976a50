//! Manifests, and the Image objects that the registry creates for them.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::digest::Digest;

/// Docker's manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";

/// A manifest of one of the four kinds above.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) media_type: &'static str,
    pub(super) body: Bytes,
    pub(super) digest: Digest,
    pub(super) content: Content,
}

#[derive(Clone, Debug)]
pub(super) enum Content {
    Image { config: Descriptor, layers: Vec<Descriptor> },
    Index(Vec<Descriptor>),
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) size: u64,
    pub(super) digest: String,
    #[serde(default)]
    platform: Platform,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
    #[serde(default)]
    variant: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    manifests: Option<Vec<Descriptor>>,
}

impl Manifest {
    /// Reads a manifest; `declared` is the `Content-Type` it came with, if it came from a client. `None` if it is none
    /// or contradicts what was declared.
    pub(super) fn parse(declared: Option<&str>, body: Bytes) -> Option<Self> {
        let raw: Raw = serde_json::from_slice(&body).ok()?;
        // OCI manifests need not name their type.
        let named = match (raw.media_type.as_str(), declared, &raw.manifests) {
            ("", Some(declared), _) => declared,
            ("", None, Some(_)) => OCI_INDEX,
            ("", None, None) => OCI_MANIFEST,
            (named, _, _) => named,
        };
        let media_type = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX]
            .into_iter()
            .find(|known| *known == named)?;
        if raw.schema_version != 2 || declared.is_some_and(|declared| declared != media_type) {
            return None;
        }
        let content = if matches!(media_type, DOCKER_LIST | OCI_INDEX) {
            Content::Index(raw.manifests?)
        } else {
            Content::Image { config: raw.config?, layers: raw.layers }
        };
        let digest = Digest::of(&body);
        Some(Self { media_type, body, digest, content })
    }

    /// The blobs that have to be in the repository before the manifest can be. The integrated registry does not ask
    /// for the manifests of an index.
    pub(super) fn references(&self) -> impl Iterator<Item = &Descriptor> {
        let (config, layers) = match &self.content {
            Content::Image { config, layers } => (Some(config), layers.as_slice()),
            Content::Index(_) => (None, [].as_slice()),
        };
        config.into_iter().chain(layers.iter().filter(|layer| layer.media_type != DOCKER_FOREIGN_LAYER))
    }

    /// The Image object for this manifest, whose config blob is `config` (an index has none).
    pub(super) fn image(&self, pull_spec: &str, config: &[u8]) -> Value {
        let layers_order = match self.content {
            Content::Image { .. } => "ascending",
            Content::Index(_) => "",
        };
        let mut image = json!({
            "kind": "Image",
            "apiVersion": "image.openshift.io/v1",
            "metadata": {
                "name": self.digest.as_str(),
                "annotations": {
                    "image.openshift.io/dockerLayersOrder": layers_order,
                    "image.openshift.io/manifestBlobStored": "true",
                    "openshift.io/image.managed": "true",
                },
            },
            "dockerImageReference": pull_spec,
            "dockerImageMetadata": self.metadata(config),
            "dockerImageMetadataVersion": "1.0",
        });
        match &self.content {
            Content::Image { layers, .. } => {
                image["dockerImageLayers"] = layers
                    .iter()
                    .map(|layer| json!({"name": layer.digest, "size": layer.size, "mediaType": layer.media_type}))
                    .collect();
                image["dockerImageManifestMediaType"] = self.media_type.into();
            }
            Content::Index(manifests) => {
                image["dockerImageManifestMediaType"] = self.media_type.into();
                image["dockerImageManifests"] = manifests.iter().map(sub_manifest).collect();
            }
        }
        image
    }

    fn metadata(&self, config: &[u8]) -> Value {
        let mut metadata = Map::new();
        metadata.insert("kind".into(), "DockerImage".into());
        metadata.insert("apiVersion".into(), "image.openshift.io/1.0".into());
        let Content::Image { config: descriptor, layers } = &self.content else {
            metadata.insert("Id".into(), self.digest.as_str().into());
            metadata.insert("Created".into(), seconds(jiff::Timestamp::now()).into());
            metadata.insert("ContainerConfig".into(), json!({}));
            return metadata.into();
        };

        let mut config: Map<String, Value> = serde_json::from_slice(config).unwrap_or_default();
        metadata.insert("Id".into(), descriptor.digest.as_str().into());
        let created = config.get("created").and_then(Value::as_str).and_then(|text| text.parse().ok());
        metadata.insert("Created".into(), created.map(seconds).into());
        let container_config = config.remove("container_config").unwrap_or_else(|| json!({}));
        metadata.insert("ContainerConfig".into(), container_config);
        for (from, to) in [
            ("docker_version", "DockerVersion"),
            ("author", "Author"),
            ("config", "Config"),
            ("architecture", "Architecture"),
        ] {
            if let Some(value) = config.remove(from).filter(|value| !value.is_null() && value != "") {
                metadata.insert(to.into(), value);
            }
        }
        // A layer that is listed twice is stored once.
        let mut sizes: Vec<(&str, u64)> =
            layers.iter().map(|layer| (layer.digest.as_str(), layer.size)).collect();
        sizes.push((&descriptor.digest, descriptor.size));
        sizes.sort_unstable();
        sizes.dedup_by_key(|(digest, _)| *digest);
        metadata.insert("Size".into(), sizes.iter().map(|(_, size)| size).sum::<u64>().into());
        metadata.into()
    }
}

fn sub_manifest(descriptor: &Descriptor) -> Value {
    let Platform { architecture, os, variant } = &descriptor.platform;
    let mut manifest = json!({
        "digest": descriptor.digest,
        "mediaType": descriptor.media_type,
        "manifestSize": descriptor.size,
        "architecture": architecture,
        "os": os,
    });
    if !variant.is_empty() {
        manifest["variant"] = variant.as_str().into();
    }
    manifest
}

/// A time as Kubernetes writes it, without fractions of a second.
fn seconds(time: jiff::Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
