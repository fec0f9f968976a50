//! Who has set which field: `metadata.managedFields`, and what server-side apply makes of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::patch::merge_key;
use super::resource::Resource;
use super::store::now;

/// A path as `fieldsV1` has it: `f:spec`, `k:{"name":"registry"}`, `.` for an element itself.
type Path = Vec<String>;

/// Whose fields are kept track of: what administrators apply. Everything else is written by controllers alone here.
pub(super) fn tracked(resource: &Resource) -> bool {
    matches!(resource.group, "rbac.authorization.k8s.io" | "batch")
        || resource.group.is_empty() && matches!(resource.plural, "configmaps" | "serviceaccounts")
}

/// What the server owns.
const OWN: [&str; 8] = [
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "managedFields",
    "deletionTimestamp",
];

/// The fields of an object that somebody can own, with their values.
fn leaves(object: &Value) -> BTreeMap<Path, Value> {
    let mut found = BTreeMap::new();
    for (field, value) in object.as_object().into_iter().flatten() {
        match field.as_str() {
            "apiVersion" | "kind" | "status" => {}
            "metadata" => {
                for (field, value) in value.as_object().into_iter().flatten() {
                    if !OWN.contains(&field.as_str()) {
                        collect(field, value, &mut vec!["f:metadata".to_owned()], &mut found);
                    }
                }
            }
            _ => collect(field, value, &mut Vec::new(), &mut found),
        }
    }
    found
}

fn collect(field: &str, value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    path.push(format!("f:{field}"));
    below(field, value, path, found);
    path.pop();
}

fn below(field: &str, value: &Value, path: &mut Path, found: &mut BTreeMap<Path, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (field, value) in fields {
                collect(field, value, path, found);
            }
        }
        Value::Array(elements) => match merge_key(field, elements) {
            Some(key) if elements.iter().all(|element| element.get(key).is_some()) => {
                for element in elements {
                    path.push(format!("k:{}", json!({ key: element[key] })));
                    path.push(".".to_owned());
                    found.insert(path.clone(), Value::Null);
                    path.pop();
                    below("", element, path, found);
                    path.pop();
                }
            }
            _ => drop(found.insert(path.clone(), value.clone())),
        },
        value => drop(found.insert(path.clone(), value.clone())),
    }
}

/// The value at a path, and where it stands; elements of lists are found by their keys.
fn at<'a>(value: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(value, |value, step| match step.split_at_checked(2) {
        Some(("f:", field)) => value.get_mut(field),
        Some(("k:", key)) => {
            let key: Map<String, Value> = serde_json::from_str(key).ok()?;
            let is_it = |element: &Value| key.iter().all(|(field, value)| &element[field] == value);
            value.as_array_mut()?.iter_mut().find(|element| is_it(element))
        }
        _ => Some(value),
    })
}

fn remove(object: &mut Value, path: &[String]) {
    let Some((last, parents)) = path.split_last() else { return };
    if last == "." {
        let Some((key, parents)) = parents.split_last() else { return };
        let Ok(key) = serde_json::from_str::<Map<String, Value>>(&key[2..]) else { return };
        if let Some(Value::Array(elements)) = at(object, parents) {
            elements.retain(|element| !key.iter().all(|(field, value)| &element[field] == value));
        }
    } else if let Some(Value::Object(fields)) = at(object, parents) {
        fields.shift_remove(&last[2..]);
        // An object that nobody has anything in any more is gone, too.
        if fields.is_empty()
            && !parents.is_empty()
            && !parents.last().is_some_and(|step| step.starts_with("k:"))
        {
            remove(object, parents);
        }
    }
}

fn merge(field: &str, value: &mut Value, applied: &Value) {
    match (value, applied) {
        (Value::Object(fields), Value::Object(applied)) => {
            for (field, applied) in applied {
                merge(field, fields.entry(field.as_str()).or_insert(Value::Null), applied);
            }
        }
        (Value::Array(elements), Value::Array(applied)) => match merge_key(field, applied) {
            Some(key) => {
                for new in applied {
                    match elements.iter_mut().find(|element| element[key] == new[key]) {
                        Some(element) => merge("", element, new),
                        None => elements.push(new.clone()),
                    }
                }
            }
            None => elements.clone_from(applied),
        },
        (value, applied) => *value = applied.clone(),
    }
}

fn encoded(paths: &BTreeSet<Path>) -> Value {
    let mut root = json!({});
    for path in paths {
        let mut place = &mut root;
        for step in path {
            if !place[step.as_str()].is_object() {
                place[step.as_str()] = json!({});
            }
            place = &mut place[step.as_str()];
        }
    }
    root
}

fn decoded(fields: &Value, path: &mut Path, paths: &mut BTreeSet<Path>) {
    let Some(fields) = fields.as_object().filter(|fields| !fields.is_empty()) else {
        if !path.is_empty() {
            paths.insert(path.clone());
        }
        return;
    };
    for (step, below) in fields {
        path.push(step.clone());
        decoded(below, path, paths);
        path.pop();
    }
}

/// What one manager has set by one operation.
struct Entry {
    manager: String,
    operation: &'static str,
    time: String,
    paths: BTreeSet<Path>,
}

fn entries(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    entries
        .map(|entry| {
            let mut paths = BTreeSet::new();
            decoded(&entry["fieldsV1"], &mut Vec::new(), &mut paths);
            let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
            let operation = if entry["operation"] == "Apply" { "Apply" } else { "Update" };
            Entry { manager: text("manager"), operation, time: text("time"), paths }
        })
        .collect()
}

fn put(object: &mut Value, resource: &Resource, entries: Vec<Entry>) {
    let written: Vec<Value> = entries
        .into_iter()
        .filter(|entry| !entry.paths.is_empty())
        .map(|Entry { manager, operation, time, paths }| {
            json!({
                "manager": manager, "operation": operation, "apiVersion": resource.api_version(), "time": time,
                "fieldsType": "FieldsV1", "fieldsV1": encoded(&paths),
            })
        })
        .collect();
    object["metadata"]["managedFields"] = written.into();
}

/// The entry of a manager, made if there is none.
fn own<'a>(entries: &'a mut Vec<Entry>, manager: &str, operation: &'static str) -> &'a mut Entry {
    let known = entries.iter().position(|entry| entry.manager == manager && entry.operation == operation);
    let index = known.unwrap_or_else(|| {
        let paths = BTreeSet::new();
        entries.push(Entry { manager: manager.to_owned(), operation, time: now(), paths });
        entries.len() - 1
    });
    &mut entries[index]
}

/// Notes who has written an object: `before` is what it was, if it was there.
pub(super) fn written(resource: &Resource, manager: &str, before: Option<&Value>, object: &mut Value) {
    if !tracked(resource) {
        return;
    }
    let (old, new) = (before.map(leaves).unwrap_or_default(), leaves(object));
    let mut entries = before.map(entries).unwrap_or_default();
    for entry in &mut entries {
        entry.paths.retain(|path| new.contains_key(path) && old.get(path) == new.get(path));
    }
    let changed = new.into_iter().filter(|(path, value)| old.get(path) != Some(value)).map(|(path, _)| path);
    let changed: BTreeSet<Path> = changed.collect();
    if !changed.is_empty() {
        let own = own(&mut entries, manager, "Update");
        own.time = now();
        own.paths.extend(changed);
    }
    put(object, resource, entries);
}

/// A field that somebody else has set to another value.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Conflict {
    pub(crate) manager: String,
    /// As messages have it: `.spec.schedule`.
    pub(crate) field: String,
}

fn shown(path: &Path) -> String {
    path.iter()
        .filter(|step| *step != ".")
        .map(|step| match step.split_at_checked(2) {
            Some(("k:", key)) => {
                format!("[{}]", key.trim_matches(['{', '}']).replace("\":", "=").replace('"', ""))
            }
            _ => format!(".{}", step.trim_start_matches("f:")),
        })
        .collect()
}

/// Applies a configuration to an object, which may not be there yet.
pub(super) fn apply(
    resource: &Resource,
    live: Option<&Value>,
    configuration: &Value,
    manager: &str,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let mut object = live.cloned().unwrap_or_else(|| json!({}));
    let wanted = leaves(configuration);
    let present = leaves(&object);
    let mut entries = entries(&object);
    let is_me = |entry: &Entry| entry.manager == manager && entry.operation == "Apply";
    let mut conflicts = Vec::new();
    for (path, value) in &wanted {
        if present.get(path) == Some(value) {
            continue;
        }
        for entry in entries.iter().filter(|entry| !is_me(entry) && entry.paths.contains(path)) {
            conflicts.push(Conflict { manager: entry.manager.clone(), field: shown(path) });
        }
    }
    if !conflicts.is_empty() && !force {
        return Err(conflicts);
    }
    for entry in entries.iter_mut().filter(|entry| !is_me(entry)) {
        entry.paths.retain(|path| wanted.get(path).is_none_or(|value| present.get(path) == Some(value)));
    }
    let others: BTreeSet<Path> =
        entries.iter().filter(|entry| !is_me(entry)).flat_map(|entry| entry.paths.iter().cloned()).collect();
    let mine = own(&mut entries, manager, "Apply");
    let given_up: Vec<Path> = mine
        .paths
        .iter()
        .filter(|path| !wanted.contains_key(*path) && !others.contains(*path))
        .cloned()
        .collect();
    mine.paths = wanted.into_keys().collect();
    // Elements before what is in them: they are found by a field of theirs.
    for path in &given_up {
        remove(&mut object, path);
    }
    merge("", &mut object, configuration);
    if let Some(fields) = object.as_object_mut() {
        fields.shift_remove("kind");
        fields.shift_remove("apiVersion");
    }
    put(&mut object, resource, entries);
    Ok(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cron_jobs() -> &'static Resource {
        Resource::find("batch", "cronjobs").unwrap()
    }

    fn job(schedule: &str, containers: &Value) -> Value {
        let pod = json!({ "spec": { "containers": containers } });
        json!({
            "metadata": { "name": "a", "labels": { "own": "1" } },
            "spec": { "schedule": schedule, "jobTemplate": { "spec": { "template": pod } } },
        })
    }

    #[test]
    fn what_is_no_longer_applied_goes_and_what_others_set_stays() {
        let first = job("0 1 * * *", &json!([{ "name": "x", "image": "i", "args": ["a"] }]));
        let mut live = apply(cron_jobs(), None, &first, "me", false).unwrap();
        let before = live.clone();
        live["spec"]["suspend"] = true.into();
        written(cron_jobs(), "edit", Some(&before), &mut live);
        let second = json!({
            "metadata": { "name": "a" },
            "spec": job("0 2 * * *", &json!([{ "name": "y", "image": "i" }]))["spec"],
        });
        let applied = apply(cron_jobs(), Some(&live), &second, "me", false).unwrap();
        assert_eq!(applied["spec"]["suspend"], true);
        assert_eq!(applied["spec"]["schedule"], "0 2 * * *");
        assert_eq!(applied["metadata"].get("labels"), None, "{applied}");
        let pod = &applied["spec"]["jobTemplate"]["spec"]["template"];
        assert_eq!(pod["spec"]["containers"], json!([{ "name": "y", "image": "i" }]));
        assert_eq!(apply(cron_jobs(), Some(&applied), &second, "me", false).unwrap(), applied);
    }

    #[test]
    fn who_set_another_value_is_in_the_way() {
        let mut live = job("0 1 * * *", &json!([{ "name": "x", "image": "i" }]));
        written(cron_jobs(), "kubectl", None, &mut live);
        let mine = job("0 2 * * *", &json!([{ "name": "x", "image": "j" }]));
        let conflicts = apply(cron_jobs(), Some(&live), &mine, "me", false).unwrap_err();
        let fields: Vec<&str> = conflicts.iter().map(|conflict| conflict.field.as_str()).collect();
        let image = ".spec.jobTemplate.spec.template.spec.containers[name=x].image";
        assert_eq!(fields, [image, ".spec.schedule"]);
        let applied = apply(cron_jobs(), Some(&live), &mine, "me", true).unwrap();
        assert_eq!(applied["spec"]["schedule"], "0 2 * * *");
        // What both say is both's.
        let same = apply(cron_jobs(), Some(&applied), &mine, "third", false).unwrap();
        assert_eq!(same["metadata"]["managedFields"].as_array().unwrap().len(), 3);
    }
}
