//! Gives a registry what the objects of a snapshot name, so that it can be pruned.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::Cluster;
use crate::registry::Digest;

/// No file system takes a file of the absurd sizes that some objects tell.
const LARGEST: u64 = 1 << 40;

/// What a registry was given; links as repository and digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seeded {
    /// Blobs and manifests.
    pub blobs: BTreeSet<Digest>,
    /// Links of layers and configs.
    pub layer_links: BTreeSet<(String, Digest)>,
    /// Links of manifests.
    pub manifest_links: BTreeSet<(String, Digest)>,
}

/// What is to be stored under a digest, and linked where.
#[derive(Debug, Default)]
struct Blob {
    size: u64,
    layer_in: BTreeSet<String>,
    manifest_in: BTreeSet<String>,
}

/// An image: its blobs with their sizes, and its sub-manifests.
struct Image {
    size: u64,
    blobs: Vec<(Digest, u64)>,
    manifests: Vec<String>,
    /// Where its reference says it was pushed to, if it is a managed one.
    repository: Option<String>,
}

impl Cluster {
    /// Creates, in the registry's storage, the manifests and blobs of all images, and the links of all repositories that
    /// streams or managed images name. The files have the sizes that the images tell, and no content. Names that are
    /// no digests are left out: no registry can hold them.
    pub fn seed_registry(&self) -> Seeded {
        let store = self.sandbox().store();
        let images: HashMap<String, Image> = store
            .list("images")
            .iter()
            .filter_map(|image| Some((image["metadata"]["name"].as_str()?.to_owned(), Image::of(image))))
            .collect();
        let mut blobs = BTreeMap::new();
        for (name, image) in &images {
            add(&mut blobs, &images, name, image.repository.as_deref());
        }
        for stream in store.list("imagestreams") {
            let field = |field: &str| stream["metadata"][field].as_str().unwrap_or_default();
            let repository = format!("{}/{}", field("namespace"), field("name"));
            let tags = stream["status"]["tags"].as_array().into_iter().flatten();
            for item in tags.filter_map(|tag| tag["items"].as_array()).flatten() {
                if let Some(name) = item["image"].as_str() {
                    add(&mut blobs, &images, name, Some(&repository));
                }
            }
        }
        let mut seeded = Seeded::default();
        for (digest, Blob { size, layer_in, manifest_in }) in blobs {
            let names = |set: &BTreeSet<String>| set.iter().cloned().collect::<Vec<_>>();
            let (layers, manifests) = (names(&layer_in), names(&manifest_in));
            let layers: Vec<&str> = layers.iter().map(String::as_str).collect();
            let manifests: Vec<&str> = manifests.iter().map(String::as_str).collect();
            self.storage()
                .seed_fake(&digest, size.min(LARGEST), &layers, &manifests)
                .expect("write to the registry's storage");
            let link = |repository| (repository, digest.clone());
            seeded.layer_links.extend(layer_in.into_iter().map(link));
            seeded.manifest_links.extend(manifest_in.into_iter().map(link));
            seeded.blobs.insert(digest);
        }
        seeded
    }
}

/// Adds an image with all that belongs to it, in a repository if there is one.
fn add(
    blobs: &mut BTreeMap<Digest, Blob>,
    images: &HashMap<String, Image>,
    name: &str,
    repository: Option<&str>,
) {
    let (mut open, mut seen) = (vec![name], BTreeSet::new());
    while let Some(name) = open.pop() {
        // Indexes may name each other.
        if !seen.insert(name) {
            continue;
        }
        let image = images.get(name);
        if let Some(digest) = Digest::parse(name) {
            let manifest = blobs.entry(digest).or_default();
            manifest.size = manifest.size.max(image.map_or(0, |image| image.size));
            manifest.manifest_in.extend(repository.map(str::to_owned));
        }
        let Some(image) = image else { continue };
        for (digest, size) in &image.blobs {
            let blob = blobs.entry(digest.clone()).or_default();
            blob.size = blob.size.max(*size);
            blob.layer_in.extend(repository.map(str::to_owned));
        }
        open.extend(image.manifests.iter().map(String::as_str));
    }
}

impl Image {
    fn of(image: &Value) -> Self {
        let array = |field: &str| image[field].as_array().into_iter().flatten();
        let manifest = image["dockerImageManifest"].as_str().unwrap_or_default();
        let stored: Value = serde_json::from_str(manifest).unwrap_or_default();
        let layers = array("dockerImageLayers").filter_map(|layer| {
            Some((Digest::parse(layer["name"].as_str()?)?, layer["size"].as_u64().unwrap_or_default()))
        });
        // An index names itself there.
        let is_index = image["dockerImageManifests"].as_array().is_some_and(|list| !list.is_empty());
        let config = image["dockerImageMetadata"]["Id"].as_str().and_then(Digest::parse);
        let config = config
            .filter(|_| !is_index)
            .map(|config| (config, stored["config"]["size"].as_u64().unwrap_or_default()));
        let managed = image["metadata"]["annotations"]["openshift.io/image.managed"] == "true";
        let repository = image["dockerImageReference"].as_str().filter(|_| managed).and_then(repository);
        Self {
            size: manifest.len() as u64,
            blobs: layers.chain(config).collect(),
            manifests: array("dockerImageManifests")
                .filter_map(|manifest| manifest["digest"].as_str())
                .map(str::to_owned)
                .collect(),
            repository,
        }
    }
}

/// `namespace/name` of `host/namespace/name@digest`.
fn repository(reference: &str) -> Option<String> {
    let (repository, _) = reference.split_once('@')?;
    let mut parts = repository.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(_), Some(namespace), Some(name), None) if !namespace.is_empty() && !name.is_empty() => {
            Some(format!("{namespace}/{name}"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_repository_of_a_managed_image() {
        assert_eq!(repository("host:5000/shop/web@sha256:a").as_deref(), Some("shop/web"));
        for other in
            ["host/web@sha256:a", "host/a/b/c@sha256:a", "host//web@sha256:a", "host/shop/web:latest"]
        {
            assert_eq!(repository(other), None, "{other}");
        }
    }
}
