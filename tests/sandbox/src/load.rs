//! Loads recorded and written objects.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::Sandbox;
use crate::api::{Resource, timestamp};

impl Sandbox {
    /// Loads `cluster.json` of a recorded case, with all times shifted so that its epoch is now.
    pub fn load_oracle(&self, dir: &Path) {
        let path = dir.join("cluster.json");
        let text = std::fs::read(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()));
        self.load_objects(serde_json::from_slice(&text).expect("a recorded cluster"));
    }

    /// Loads objects: one, a list (typed or not), an array of those, or a recorded cluster (an object whose `objects`
    /// hold a list per resource, and whose times are shifted so that its `epoch` is now). Namespaces that are not
    /// among the objects are created. Objects that exist are replaced.
    pub fn load_objects(&self, mut objects: Value) {
        if let Some(epoch) = objects["epoch"].as_str() {
            let epoch: Timestamp = epoch.parse().expect("an epoch");
            let now = Timestamp::from_second(Timestamp::now().as_second()).expect("a time");
            shift(&mut objects["objects"], now.duration_since(epoch));
        }
        let mut found = Vec::new();
        collect(objects, None, &mut found);
        let mut namespaces = BTreeSet::new();
        let settings = self.api().settings();
        for (resource, mut object) in found {
            if settings.rewrite_registry_host {
                rewrite_host(&mut object, &settings.registry_host);
            }
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            let (namespace, name) = (text("namespace"), text("name"));
            if resource.plural == "namespaces" {
                namespaces.remove(&name);
            } else if !namespace.is_empty() {
                namespaces.insert(namespace.clone());
            }
            let qualified = resource.qualified();
            self.store().delete(&qualified, &namespace, &name);
            self.store().create(&qualified, object);
        }
        for namespace in namespaces {
            if self.store().get("namespaces", "", &namespace).is_none() {
                let object = json!({ "metadata": { "name": namespace }, "status": { "phase": "Active" } });
                self.store().create("namespaces", object);
            }
        }
    }
}

/// Shifts every string that is a time.
fn shift(value: &mut Value, by: SignedDuration) {
    match value {
        Value::String(text) => {
            // Cheaper than to parse every string, and times begin like this.
            if text.as_bytes().get(4) == Some(&b'-')
                && let Ok(at) = text.parse::<Timestamp>()
            {
                let shifted = at.checked_add(by).expect("a time in range");
                // Metadata of images has fractions of seconds, metadata of objects has not.
                *text = if text.contains('.') { shifted.to_string() } else { timestamp(shifted) };
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| shift(value, by)),
        Value::Object(fields) => fields.values_mut().for_each(|value| shift(value, by)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Takes lists apart. `kind` is that of the items of a typed list, which do not name it.
fn collect(mut value: Value, kind: Option<&'static Resource>, found: &mut Vec<(&'static Resource, Value)>) {
    if let Value::Array(values) = value {
        for value in values {
            collect(value, kind, found);
        }
        return;
    }
    if let Some(lists) = value.get_mut("objects").and_then(Value::as_object_mut) {
        for list in lists.values_mut() {
            collect(list.take(), None, found);
        }
        return;
    }
    let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (api_version, own) = (text("apiVersion"), text("kind"));
    if let Some(items) = value.get_mut("items").map(Value::take) {
        let kind = own.strip_suffix("List").and_then(|kind| Resource::of_kind(&api_version, kind));
        if !items.is_null() {
            collect(items, kind, found);
        }
        return;
    }
    let resource = Resource::of_kind(&api_version, &own).or(kind);
    let resource =
        resource.unwrap_or_else(|| panic!("no resource of the sandbox has kind {own:?}, {api_version:?}"));
    found.push((resource, value));
}

/// Makes a stream or a managed image one of this registry.
fn rewrite_host(object: &mut Value, host: &str) {
    let moved =
        |reference: &str| reference.split_once('/').map(|(_, path)| Value::from(format!("{host}/{path}")));
    if let Some(repository) = object["status"]["dockerImageRepository"].as_str().map(ToOwned::to_owned) {
        let old = repository.split('/').next().unwrap_or_default().to_owned();
        object["status"]["dockerImageRepository"] = moved(&repository).unwrap_or(Value::Null);
        let lists = object["status"]["tags"].as_array_mut().into_iter().flatten();
        for item in lists.filter_map(|list| list["items"].as_array_mut()).flatten() {
            if let Some(reference) = item["dockerImageReference"].as_str()
                && reference.split('/').next() == Some(&old)
                && let Some(reference) = moved(reference)
            {
                item["dockerImageReference"] = reference;
            }
        }
    }
    if object["metadata"]["annotations"]["openshift.io/image.managed"] == "true"
        && let Some(reference) = object["dockerImageReference"].as_str().and_then(moved)
    {
        object["dockerImageReference"] = reference;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_times_and_nothing_else() {
        let mut value = json!({
            "a": ["2026-01-01T00:00:00Z", "2025-12-31T23:59:59.25Z"],
            "b": { "c": "2026-01-01", "d": "2026-nightly", "e": null, "f": 20_260_101 },
        });
        shift(&mut value, SignedDuration::from_hours(24));
        let expected = json!({
            "a": ["2026-01-02T00:00:00Z", "2026-01-01T23:59:59.25Z"],
            "b": { "c": "2026-01-01", "d": "2026-nightly", "e": null, "f": 20_260_101 },
        });
        assert_eq!(value, expected);
    }

    #[test]
    fn moves_what_belongs_to_the_registry() {
        let mut stream = json!({ "status": {
            "dockerImageRepository": "old:5000/shop/web",
            "tags": [{ "tag": "latest", "items": [
                { "dockerImageReference": "old:5000/shop/web@sha256:a" },
                { "dockerImageReference": "quay.io/shop/web@sha256:b" },
            ] }],
        } });
        rewrite_host(&mut stream, "new:80");
        assert_eq!(stream["status"]["dockerImageRepository"], "new:80/shop/web");
        let items = &stream["status"]["tags"][0]["items"];
        assert_eq!(items[0]["dockerImageReference"], "new:80/shop/web@sha256:a");
        assert_eq!(items[1]["dockerImageReference"], "quay.io/shop/web@sha256:b");

        for (managed, expected) in
            [("true", "new:80/shop/web@sha256:a"), ("false", "old:5000/shop/web@sha256:a")]
        {
            let annotations = json!({ "openshift.io/image.managed": managed });
            let mut image = json!({
                "metadata": { "annotations": annotations },
                "dockerImageReference": "old:5000/shop/web@sha256:a",
            });
            rewrite_host(&mut image, "new:80");
            assert_eq!(image["dockerImageReference"], expected);
        }
    }
}
