//! Objects of small clusters.

use jiff::{SignedDuration, Timestamp};
use sandbox::api::Store;
use sandbox::registry::Digest;
use serde_json::{Value, json};

pub(crate) const HOST: &str = "image-registry.openshift-image-registry.svc:5000";

/// The digest of this text: a name for what has no content.
pub(crate) fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).as_str().to_owned()
}

/// The time so many hours ago.
pub(crate) fn hours_ago(hours: i64) -> String {
    sandbox::api::timestamp(Timestamp::now() - SignedDuration::from_hours(hours))
}

/// Makes a stream and its images old enough to be pruned: two days and more.
pub(crate) fn age_stream(store: &Store, repository: &str) {
    let (namespace, name) = repository.split_once('/').unwrap();
    let mut images = Vec::new();
    store.update("imagestreams", namespace, name, |stream| {
        stream["metadata"]["creationTimestamp"] = hours_ago(24 * 100).into();
        let items = stream["status"]["tags"][0]["items"].as_array_mut().unwrap();
        for (position, item) in (0..).zip(items) {
            let created = hours_ago(24 * (2 + position));
            item["created"] = created.clone().into();
            images.push((item["image"].as_str().unwrap().to_owned(), created));
        }
    });
    for (image, created) in images {
        store.update("images", "", &image, |image| {
            image["metadata"]["creationTimestamp"] = created.clone().into();
        });
    }
}

/// A managed schema 2 image that was pushed two days ago. The layers' sizes are 1000, 1001, ….
pub(crate) fn image(name: &str, layers: &[&str]) -> Value {
    let layers: Vec<Value> = layers
        .iter()
        .zip(1000..)
        .map(|(layer, size)| {
            json!({
                "name": digest(layer),
                "size": size,
                "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
            })
        })
        .collect();
    json!({
        "apiVersion": "image.openshift.io/v1",
        "kind": "Image",
        "metadata": {
            "name": digest(name),
            "creationTimestamp": hours_ago(48),
            "annotations": { "openshift.io/image.managed": "true" },
        },
        "dockerImageReference": format!("{HOST}/shop/web@{}", digest(name)),
        "dockerImageMetadata": {
            "kind": "DockerImage",
            "apiVersion": "image.openshift.io/1.0",
            "Id": digest(&format!("config of {name}")),
            "Created": hours_ago(48),
            "Size": 3000,
        },
        "dockerImageMetadataVersion": "1.0",
        "dockerImageLayers": layers,
        "dockerImageManifestMediaType": "application/vnd.docker.distribution.manifest.v2+json",
    })
}

/// An item that names this image and is `position` hours older than two days.
pub(crate) fn item(image: &str, position: i64) -> Value {
    json!({
        "created": hours_ago(48 + position),
        "dockerImageReference": format!("{HOST}/shop/web@{}", digest(image)),
        "image": digest(image),
        "generation": 1,
    })
}

/// A stream with one tag, `latest`, that names these images, the newest first.
pub(crate) fn stream(namespace: &str, name: &str, images: &[&str]) -> Value {
    let items: Vec<Value> = images.iter().zip(0..).map(|(image, position)| item(image, position)).collect();
    json!({
        "apiVersion": "image.openshift.io/v1",
        "kind": "ImageStream",
        "metadata": { "namespace": namespace, "name": name, "creationTimestamp": hours_ago(2000) },
        "spec": { "lookupPolicy": { "local": false } },
        "status": {
            "dockerImageRepository": format!("{HOST}/{namespace}/{name}"),
            "tags": [{ "tag": "latest", "items": items }],
        },
    })
}

/// A running pod with one container.
pub(crate) fn pod(namespace: &str, name: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": namespace, "name": name, "creationTimestamp": hours_ago(100) },
        "spec": { "containers": [{ "name": "app", "image": image }] },
        "status": { "phase": "Running" },
    })
}

/// Streams `shop/web` (images a, b, c, d) and `shop/api` (e, f), an orphan o, and a pod that uses `shop/web`'s c.
///
/// With [`KEEP_ONE`], b, d, f and o go. The layer `base` is in every image; `bd` is in b and d.
pub(crate) fn shop() -> Vec<Value> {
    vec![
        image("a", &["base", "a1"]),
        image("b", &["base", "bd", "b1"]),
        image("c", &["base", "c1"]),
        image("d", &["base", "bd", "d1"]),
        image("e", &["base", "e1"]),
        image("f", &["base", "f1"]),
        image("o", &["base", "o1"]),
        stream("shop", "web", &["a", "b", "c", "d"]),
        stream("shop", "api", &["e", "f"]),
        pod("shop", "user", &format!("{HOST}/shop/web@{}", digest("c"))),
    ]
}

pub(crate) const KEEP_ONE: &str = "--keep-tag-revisions=1";
