//! Patches: JSON merge patch, strategic merge patch and JSON patch.

use serde_json::{Map, Value, json};

/// Why a patch cannot be applied.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// It is no patch.
    Malformed(String),
    /// It does not fit the object: a failed test, a path that is not there.
    Unfit,
}

/// Applies a JSON merge patch.
pub(super) fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    if let Some(fields) = value.as_object_mut() {
        for (field, change) in patch {
            if change.is_null() {
                fields.shift_remove(field);
            } else {
                merge(fields.entry(field.as_str()).or_insert(Value::Null), change);
            }
        }
    }
}

/// The field that tells the elements of a list apart; `None` for lists that are replaced as a whole.
pub(super) fn merge_key(list: &str, elements: &[Value]) -> Option<&'static str> {
    Some(match list {
        "containers"
        | "initContainers"
        | "ephemeralContainers"
        | "env"
        | "volumes"
        | "imagePullSecrets"
        | "secrets" => "name",
        "volumeMounts" => "mountPath",
        "volumeDevices" => "devicePath",
        "ports" if elements.iter().any(|element| element.get("containerPort").is_some()) => "containerPort",
        "ports" if elements.iter().all(|element| element.get("port").is_some()) => "port",
        "conditions" => "type",
        "ownerReferences" => "uid",
        "hostAliases" | "podIPs" => "ip",
        _ => return None,
    })
}

/// Applies a strategic merge patch.
pub(super) fn strategic(value: &mut Value, patch: &Value) -> Result<(), Problem> {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return Ok(());
    };
    if !value.is_object() {
        *value = json!({});
    }
    let Some(fields) = value.as_object_mut() else { return Ok(()) };
    match patch.get("$patch").and_then(Value::as_str) {
        Some("replace") => {
            fields.clone_from(patch);
            fields.shift_remove("$patch");
            return Ok(());
        }
        Some("delete") => {
            fields.clear();
            return Ok(());
        }
        _ => {}
    }
    for (field, change) in patch {
        if let Some(list) = field.strip_prefix("$deleteFromPrimitiveList/") {
            let doomed = change.as_array().cloned().unwrap_or_default();
            if let Some(elements) = fields.get_mut(list).and_then(Value::as_array_mut) {
                elements.retain(|element| !doomed.contains(element));
            }
        } else if field.starts_with('$') {
            // An order of elements, or keys to retain: nothing here depends on either.
        } else if change.is_null() {
            fields.shift_remove(field);
        } else if let Value::Array(changes) = change {
            strategic_list(field, fields, changes)?;
        } else {
            strategic(fields.entry(field.as_str()).or_insert(Value::Null), change)?;
        }
    }
    Ok(())
}

fn strategic_list(field: &str, fields: &mut Map<String, Value>, changes: &[Value]) -> Result<(), Problem> {
    let directive = |element: &Value| element["$patch"].as_str().unwrap_or_default().to_owned();
    let replaces = changes.iter().any(|element| directive(element) == "replace");
    let mut elements = match fields.get_mut(field).map(Value::take) {
        Some(Value::Array(elements)) if !replaces => elements,
        _ => Vec::new(),
    };
    let key = merge_key(field, changes);
    if field == "finalizers" {
        elements
            .extend(changes.iter().filter(|change| !elements.contains(change)).cloned().collect::<Vec<_>>());
    } else if let (Some(key), false) = (key, replaces) {
        for change in changes {
            let wanted = change.get(key).ok_or_else(|| {
                Problem::Malformed(format!("map: {change} does not contain declared merge key: {key}"))
            })?;
            let place = elements.iter().position(|element| element.get(key) == Some(wanted));
            match (place, directive(change).as_str()) {
                (Some(place), "delete") => drop(elements.remove(place)),
                (None, "delete") => {}
                (Some(place), _) => strategic(&mut elements[place], change)?,
                (None, _) => {
                    let mut added = Value::Null;
                    strategic(&mut added, change)?;
                    elements.push(added);
                }
            }
        }
    } else {
        elements = changes.iter().filter(|element| directive(element).is_empty()).cloned().collect();
    }
    fields.insert(field.to_owned(), elements.into());
    Ok(())
}

/// Applies a JSON patch.
pub(super) fn operations(value: &mut Value, steps: &Value) -> Result<(), Problem> {
    let malformed = |what: &str| Problem::Malformed(format!("error decoding patch: {what}"));
    for step in steps.as_array().ok_or_else(|| malformed("no list of operations"))? {
        let text = |field: &str| step[field].as_str().ok_or_else(|| malformed(&format!("no {field}")));
        let path = text("path")?;
        let given = || step.get("value").cloned().ok_or_else(|| malformed("no value"));
        match text("op")? {
            "test" => {
                if value.pointer(path).unwrap_or(&Value::Null) != &given()? {
                    return Err(Problem::Unfit);
                }
            }
            "remove" => drop(removed(value, path)?),
            "add" => added(value, path, given()?)?,
            "replace" => *value.pointer_mut(path).ok_or(Problem::Unfit)? = given()?,
            "move" => {
                let moved = removed(value, text("from")?)?;
                added(value, path, moved)?;
            }
            "copy" => {
                let copied = value.pointer(text("from")?).cloned().ok_or(Problem::Unfit)?;
                added(value, path, copied)?;
            }
            other => return Err(malformed(&format!("unexpected kind: {other}"))),
        }
    }
    Ok(())
}

/// The parent of a path, and the last part of it.
fn parent<'a>(value: &'a mut Value, path: &str) -> Result<(&'a mut Value, String), Problem> {
    let (parent, last) = path.rsplit_once('/').ok_or(Problem::Unfit)?;
    let last = last.replace("~1", "/").replace("~0", "~");
    Ok((value.pointer_mut(parent).ok_or(Problem::Unfit)?, last))
}

fn removed(value: &mut Value, path: &str) -> Result<Value, Problem> {
    let (parent, last) = parent(value, path)?;
    match parent {
        Value::Object(fields) => fields.shift_remove(&last),
        Value::Array(elements) => last
            .parse::<usize>()
            .ok()
            .filter(|index| *index < elements.len())
            .map(|index| elements.remove(index)),
        _ => None,
    }
    .ok_or(Problem::Unfit)
}

fn added(value: &mut Value, path: &str, new: Value) -> Result<(), Problem> {
    if path.is_empty() {
        *value = new;
        return Ok(());
    }
    let (parent, last) = parent(value, path)?;
    match parent {
        Value::Object(fields) => drop(fields.insert(last, new)),
        Value::Array(elements) if last == "-" => elements.push(new),
        Value::Array(elements) => {
            let index = last.parse::<usize>().ok().filter(|index| *index <= elements.len());
            elements.insert(index.ok_or(Problem::Unfit)?, new);
        }
        _ => return Err(Problem::Unfit),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_with_a_key_are_merged_element_by_element() {
        let mut object = json!({ "containers": [{
            "name": "registry",
            "env": [{ "name": "A", "value": "1" }, { "name": "B", "value": "2" }],
            "args": ["x", "y"],
            "ports": [{ "containerPort": 5000 }],
        }] });
        let patch = json!({
            "$setElementOrder/containers": [{ "name": "registry" }],
            "containers": [{
                "name": "registry",
                "env": [{ "name": "C", "value": "3" }, { "name": "A", "value": "0" }, { "name": "B", "$patch": "delete" }],
                "args": ["z"],
                "ports": [{ "containerPort": 5001 }],
            }],
        });
        strategic(&mut object, &patch).unwrap();
        let wanted = json!({ "containers": [{
            "name": "registry",
            "env": [{ "name": "A", "value": "0" }, { "name": "C", "value": "3" }],
            "args": ["z"],
            "ports": [{ "containerPort": 5000 }, { "containerPort": 5001 }],
        }] });
        assert_eq!(object, wanted);
        let replacing = json!({ "containers": [{ "$patch": "replace" }, { "name": "other" }] });
        strategic(&mut object, &replacing).unwrap();
        assert_eq!(object, json!({ "containers": [{ "name": "other" }] }));
        let nameless = json!({ "containers": [{ "image": "x" }] });
        assert!(matches!(strategic(&mut object, &nameless), Err(Problem::Malformed(_))));
    }

    #[test]
    fn null_removes() {
        let mut object = json!({ "metadata": { "annotations": { "a": "1", "b": "2" } } });
        strategic(&mut object, &json!({ "metadata": { "annotations": { "a": null, "c": "3" } } })).unwrap();
        assert_eq!(object, json!({ "metadata": { "annotations": { "b": "2", "c": "3" } } }));
    }

    #[test]
    fn json_patches_are_applied_in_order() {
        let mut object = json!({ "a": { "b/c": 1 }, "list": [1, 3] });
        let patch = json!([
            { "op": "test", "path": "/a/b~1c", "value": 1 },
            { "op": "add", "path": "/list/1", "value": 2 },
            { "op": "add", "path": "/list/-", "value": 4 },
            { "op": "move", "from": "/a/b~1c", "path": "/moved" },
            { "op": "copy", "from": "/moved", "path": "/a/d" },
            { "op": "replace", "path": "/moved", "value": 2 },
            { "op": "remove", "path": "/list/0" },
        ]);
        operations(&mut object, &patch).unwrap();
        assert_eq!(object, json!({ "a": { "d": 1 }, "list": [2, 3, 4], "moved": 2 }));
        for patch in [
            json!([{ "op": "test", "path": "/moved", "value": 1 }]),
            json!([{ "op": "remove", "path": "/none" }]),
            json!([{ "op": "replace", "path": "/none", "value": 1 }]),
            json!([{ "op": "add", "path": "/list/9", "value": 1 }]),
        ] {
            assert_eq!(operations(&mut object, &patch), Err(Problem::Unfit), "{patch}");
        }
        assert!(matches!(operations(&mut object, &json!({})), Err(Problem::Malformed(_))));
    }
}
