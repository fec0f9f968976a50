//! What OpenShift's API server adds for images: tag events, `imagestreams/layers`, `imagestreamtags`, mappings.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::Api;
use super::resource::Resource;
use super::status::{Failure, Target};
use super::store::{metadata, now, object_at};
use crate::registry_backend::Cluster;

const GROUP: &str = "image.openshift.io";

/// The tag event lists of a stream, with their tags.
fn tags(stream: &Value) -> impl Iterator<Item = (&str, &Vec<Value>)> {
    let tags = stream["status"]["tags"].as_array().into_iter().flatten();
    tags.filter_map(|list| Some((list["tag"].as_str()?, list["items"].as_array()?)))
}

/// The digests that the items of a stream name.
fn digests(stream: &Value) -> BTreeSet<String> {
    let items = tags(stream).flat_map(|(_, items)| items);
    items.filter_map(|item| item["image"].as_str()).map(ToOwned::to_owned).collect()
}

fn strings<'a>(list: &'a Value, field: &'static str) -> impl Iterator<Item = &'a str> {
    list.as_array().into_iter().flatten().filter_map(move |entry| entry[field].as_str())
}

fn images() -> &'static Resource {
    Resource::find(GROUP, "images").expect("a resource of the sandbox")
}

fn streams() -> &'static Resource {
    Resource::find(GROUP, "imagestreams").expect("a resource of the sandbox")
}

impl Api {
    fn stream(&self, namespace: &str, name: &str) -> Result<Value, Failure> {
        let found = self.store.find(streams(), namespace, name);
        Ok(found.ok_or_else(|| Failure::not_found(streams(), name))?.value())
    }

    /// Fills in what the server computes for a new stream.
    pub(crate) fn prepare_stream(&self, stream: &mut Value) {
        let (namespace, name) = (metadata(stream, "namespace"), metadata(stream, "name"));
        let repository = format!("{}/{namespace}/{name}", self.settings().registry_host);
        object_at(stream, "metadata").entry("generation").or_insert_with(|| 1.into());
        object_at(stream, "spec").entry("lookupPolicy").or_insert_with(|| json!({ "local": false }));
        object_at(stream, "status").entry("dockerImageRepository").or_insert_with(|| repository.into());
    }

    /// The answer of `imagestreams/layers`.
    pub(crate) fn layers(&self, namespace: &str, name: &str) -> Result<Value, Failure> {
        let stream = self.stream(namespace, name)?;
        let mut found = BTreeMap::new();
        let mut blobs = BTreeMap::new();
        let mut open: Vec<String> = digests(&stream).into_iter().collect();
        while let Some(digest) = open.pop() {
            if found.contains_key(&digest) {
                continue;
            }
            let Some(image) = self.store.find(images(), "", &digest) else {
                let missing = json!({ "imageMissing": true, "layers": null, "config": null });
                found.insert(digest, missing);
                continue;
            };
            let image = image.value();
            let media_type = image["dockerImageManifestMediaType"].as_str().unwrap_or_default();
            blobs.insert(digest.clone(), json!({ "size": null, "mediaType": media_type }));
            let manifests: Vec<&str> = strings(&image["dockerImageManifests"], "digest").collect();
            open.extend(manifests.iter().map(ToString::to_string));
            for layer in image["dockerImageLayers"].as_array().into_iter().flatten() {
                if let Some(name) = layer["name"].as_str() {
                    let blob = json!({ "size": layer["size"], "mediaType": layer["mediaType"] });
                    blobs.insert(name.to_owned(), blob);
                }
            }
            let layers: Vec<&str> = strings(&image["dockerImageLayers"], "name").collect();
            let config_type = match media_type {
                "application/vnd.oci.image.manifest.v1+json" => "application/vnd.oci.image.config.v1+json",
                "application/vnd.docker.distribution.manifest.v2+json" => {
                    "application/vnd.docker.container.image.v1+json"
                }
                _ => "",
            };
            let config = image["dockerImageMetadata"]["Id"].as_str();
            let config = config.filter(|config| !config.is_empty() && !config_type.is_empty());
            if let Some(config) = config {
                blobs.insert(config.to_owned(), json!({ "size": null, "mediaType": config_type }));
            }
            let mut entry = json!({
                "imageMissing": false,
                "layers": if layers.is_empty() { Value::Null } else { layers.into() },
                "config": config,
            });
            if !manifests.is_empty() {
                entry["manifests"] = manifests.into();
            }
            found.insert(digest, entry);
        }
        let mut about = stream["metadata"].clone();
        if let Some(fields) = about.as_object_mut() {
            fields.retain(|field, _| {
                ["name", "namespace", "uid", "resourceVersion", "generation", "creationTimestamp"]
                    .contains(&field.as_str())
            });
        }
        Ok(json!({
            "kind": "ImageStreamLayers",
            "apiVersion": "image.openshift.io/v1",
            "metadata": about,
            "images": found.into_iter().collect::<Map<String, Value>>(),
            "blobs": blobs.into_iter().collect::<Map<String, Value>>(),
        }))
    }

    /// An `ImageStreamTag`; `name` is `stream:tag`.
    pub(crate) fn stream_tag_object(&self, namespace: &str, name: &str) -> Result<Value, Failure> {
        let missing = || Failure::not_found_as("imagestreamtags", GROUP, name);
        let (stream_name, tag) = name.split_once(':').ok_or_else(missing)?;
        let stream = self.stream(namespace, stream_name)?;
        let item = tags(&stream).find(|(known, _)| *known == tag).and_then(|(_, items)| items.first());
        let item = item.ok_or_else(missing)?;
        let image = item["image"].as_str().and_then(|digest| self.store.find(images(), "", digest));
        let mut image = image.ok_or_else(missing)?.value();
        // The recorded servers leave these to the Image itself.
        if let Some(fields) = image.as_object_mut() {
            fields.retain(|field, _| !["dockerImageManifest", "dockerImageConfig"].contains(&field.as_str()));
        }
        let spec = stream["spec"]["tags"].as_array().into_iter().flatten().find(|spec| spec["name"] == tag);
        Ok(json!({
            "kind": "ImageStreamTag",
            "apiVersion": "image.openshift.io/v1",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "uid": stream["metadata"]["uid"],
                "resourceVersion": stream["metadata"]["resourceVersion"],
                "creationTimestamp": item["created"],
            },
            "tag": spec,
            "generation": item["generation"],
            "lookupPolicy": stream["spec"].get("lookupPolicy").cloned().unwrap_or_else(|| json!({ "local": false })),
            "image": image,
        }))
    }

    /// Deletes a tag from the spec and status of its stream, and returns the uid of the stream.
    pub(crate) fn delete_stream_tag(&self, namespace: &str, name: &str) -> Result<String, Failure> {
        let missing = || Failure::not_found_as("imagestreamtags", GROUP, name);
        let (stream, tag) = name.split_once(':').ok_or_else(missing)?;
        let changed = self.store.modify(streams(), namespace, stream, |stream| {
            let mut removed = false;
            for (part, field) in [("spec", "name"), ("status", "tag")] {
                if let Some(tags) = stream[part].get_mut("tags").and_then(Value::as_array_mut) {
                    let before = tags.len();
                    tags.retain(|entry| entry[field] != tag);
                    removed |= tags.len() < before;
                }
            }
            if removed { Ok(()) } else { Err(missing()) }
        })?;
        Ok(metadata(&changed.value(), "uid").to_owned())
    }

    /// What an `ImageStreamMapping` does: creates the Image unless it exists, and puts an item on top of the tag.
    pub(crate) fn map_image(
        &self,
        namespace: &str,
        stream: &str,
        tag: Option<&str>,
        mut image: Value,
    ) -> Result<(), Failure> {
        self.stream(namespace, stream)?;
        let digest = metadata(&image, "name").to_owned();
        let repository = format!("{}/{namespace}/{stream}", self.settings().registry_host);
        let reference = image["dockerImageReference"]
            .as_str()
            .map_or_else(|| format!("{repository}@{digest}"), ToOwned::to_owned);
        image["dockerImageReference"] = reference.clone().into();
        if self.store.find(images(), "", &digest).is_none() {
            // Another push of the same image may win: that is the same image.
            let _ = self.store.insert(images(), image);
        }
        let Some(tag) = tag else { return Ok(()) };
        self.store.modify(streams(), namespace, stream, |stream| {
            let item = json!({
                "created": now(),
                "dockerImageReference": reference,
                "image": digest,
                "generation": stream["metadata"]["generation"].as_i64().unwrap_or(1),
            });
            let lists = object_at(stream, "status").entry("tags").or_insert_with(|| json!([]));
            if !lists.is_array() {
                *lists = json!([]);
            }
            let lists = lists.as_array_mut().expect("made a list above");
            match lists.iter_mut().find(|list| list["tag"] == tag) {
                // The same image pushed again makes no new item.
                Some(list) if list["items"][0]["image"] == digest.as_str() => {}
                Some(list) => match list["items"].as_array_mut() {
                    Some(items) => items.insert(0, item),
                    None => list["items"] = json!([item]),
                },
                None => lists.push(json!({ "tag": tag, "items": [item] })),
            }
            Ok(())
        })?;
        Ok(())
    }
}

impl Cluster for Api {
    fn user(&self, token: &str) -> Option<String> {
        self.access.user(token)
    }

    fn allowed(&self, user: &str, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let target = Target { group: GROUP, resource, subresource, namespace, name };
        self.reason(user, verb, &target).is_some()
    }

    fn stream_exists(&self, namespace: &str, name: &str) -> bool {
        self.stream(namespace, name).is_ok()
    }

    fn stream_names_image(&self, namespace: &str, name: &str, digest: &str) -> bool {
        self.layers(namespace, name).is_ok_and(|layers| layers["images"].get(digest).is_some())
    }

    fn stream_has_blob(&self, namespace: &str, name: &str, digest: &str) -> bool {
        self.layers(namespace, name).is_ok_and(|layers| layers["blobs"].get(digest).is_some())
    }

    fn stream_digests(&self, namespace: &str, name: &str) -> Vec<String> {
        let Ok(layers) = self.layers(namespace, name) else { return Vec::new() };
        let maps = [&layers["blobs"], &layers["images"]].into_iter().filter_map(Value::as_object);
        maps.flat_map(|map| map.keys().cloned()).collect()
    }

    fn stream_tag(&self, namespace: &str, name: &str, tag: &str) -> Option<String> {
        let stream = self.stream(namespace, name).ok()?;
        let newest = tags(&stream).find(|(known, _)| *known == tag)?.1.first()?;
        newest["image"].as_str().map(ToOwned::to_owned)
    }

    fn image_pushed(&self, namespace: &str, name: &str, tag: Option<&str>, image: Value) {
        if !self.stream_exists(namespace, name) {
            let mut stream = json!({ "metadata": { "name": name, "namespace": namespace } });
            self.prepare_stream(&mut stream);
            // Another push may have created it meanwhile.
            let _ = self.store.insert(streams(), stream);
        }
        // Fails only if the stream was deleted meanwhile.
        let _ = self.map_image(namespace, name, tag, image);
    }

    fn image(&self, digest: &str) -> Option<Value> {
        self.store.find(images(), "", digest).map(|image| image.value())
    }
}
