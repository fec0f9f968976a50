//! The variables that turn the registry's caches off, in a workload's pod template and in its pods. Pure.
//!
//! Which settings really do it was measured: `openshift.cache.disabled` alone leaves a Redis in use, and any name but
//! a known one in `storage.cache.blobdescriptor` keeps the registry from starting.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Turns each replica's own digest cache off.
pub(crate) const DISABLED: &str = "REGISTRY_OPENSHIFT_CACHE_DISABLED";

/// Chooses the cache of blob descriptors.
pub(crate) const DESCRIPTOR: &str = "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR";

/// Read-only mode (`storage.maintenance.readonly`), as YAML or JSON.
pub(crate) const READ_ONLY: &str = "REGISTRY_STORAGE_MAINTENANCE_READONLY";

/// Both, with the value that turns the caches off.
pub(crate) const OFF: [(&str, &str); 2] = [(DISABLED, "true"), (DESCRIPTOR, "inmemory")];

/// The annotation of the workload (not of its pod template) that keeps what was there before.
pub(crate) const KEPT: &str = "prune-images/caches-before-disable";

/// The port of the integrated registry.
const PORT: u64 = 5000;

/// What a container's environment says about these variables: the whole entry of each, if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The entry of [`DISABLED`].
    pub(crate) disabled: Option<Value>,
    /// The entry of [`DESCRIPTOR`].
    pub(crate) descriptor: Option<Value>,
    /// The entry of [`READ_ONLY`].
    pub(crate) read_only: Option<Value>,
}

impl Settings {
    /// Reads them from the registry's container: the one of this name, else the one that looks like it.
    #[must_use]
    pub(crate) fn of(containers: &[Value], name: Option<&str>) -> Self {
        let container = registry_container(containers, name).map(|index| &containers[index]);
        let entry = |name: &str| {
            Some(container?["env"].as_array()?.iter().rfind(|entry| entry["name"] == name)?.clone())
        };
        Self { disabled: entry(DISABLED), descriptor: entry(DESCRIPTOR), read_only: entry(READ_ONLY) }
    }

    /// Whether they turn every cache off, whatever a configuration file says.
    #[must_use]
    pub(crate) fn are_off(&self) -> bool {
        let is = |entry: &Option<Value>, words: &[&str]| {
            let text = entry
                .as_ref()
                .filter(|entry| entry["valueFrom"].is_null())
                .and_then(|entry| entry["value"].as_str());
            text.is_some_and(|text| words.contains(&text))
        };
        // As measured; other spellings may work as well, and are replaced.
        is(&self.disabled, &["true", "yes"]) && is(&self.descriptor, &["inmemory", "openshift"])
    }
}

impl Settings {
    /// Whether they make the registry refuse every change.
    #[must_use]
    pub(crate) fn is_read_only(&self) -> bool {
        let Some(entry) = self.read_only.as_ref().filter(|entry| entry["valueFrom"].is_null()) else {
            return false;
        };
        // `{enabled: true}` as the operator writes it, `{"enabled":true}` as the documentation does.
        let text = entry["value"].as_str().unwrap_or_default();
        text.chars().filter(|c| !c.is_whitespace() && *c != '"' && *c != '\'').eq("{enabled:true}".chars())
    }
}

/// The index of the container that is the registry: by this name, else by its usual name, else by its port, else the
/// first one.
#[must_use]
pub(crate) fn registry_container(containers: &[Value], name: Option<&str>) -> Option<usize> {
    let named = |name: &str| containers.iter().position(|container| container["name"] == name);
    let listens = |container: &Value| {
        container["ports"].as_array().into_iter().flatten().any(|port| port["containerPort"] == PORT)
    };
    name.and_then(named)
        .or_else(|| named("registry"))
        .or_else(|| containers.iter().position(listens))
        .or_else(|| (!containers.is_empty()).then_some(0))
}

/// What `cache disable` keeps in the annotation [`KEPT`], so that `cache enable` can restore it exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    /// The container whose environment was changed.
    pub(crate) container: String,
    /// The variables as they were; empty once they are restored and only the state is left to put back.
    #[serde(default)]
    pub(crate) env: Vec<KeptVariable>,
    /// The operator's `managementState`, if it was changed, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) management_state: Option<String>,
}

/// A variable as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptVariable {
    /// Its name.
    pub(crate) name: String,
    /// The whole entry; absent if it was not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) was: Option<Value>,
    /// Where it stood in the list. `$(NAME)` refers only to what stands above.
    #[serde(default)]
    pub(crate) at: usize,
}

/// Why a workload cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SettingsError {
    /// Its pod template has no container.
    #[error("its pod template has no container")]
    NoContainer,
    /// The container that was changed is gone.
    #[error("its pod template has no container {0:?} any more")]
    OtherContainer(String),
    /// The annotation cannot be read.
    #[error("its annotation {KEPT} cannot be read: {0}")]
    Annotation(String),
}

/// Reads the annotation.
///
/// # Errors
/// It is there and says nothing.
pub(crate) fn kept(workload: &Value) -> Result<Option<Kept>, SettingsError> {
    let Some(text) = workload["metadata"]["annotations"][KEPT].as_str() else { return Ok(None) };
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| SettingsError::Annotation(crate::text::sanitize(&error.to_string())))
}

/// Writes the annotation, or removes it.
pub(crate) fn keep(workload: &mut Value, kept: Option<&Kept>) {
    let Some(kept) = kept else {
        if let Some(annotations) = workload["metadata"]["annotations"].as_object_mut() {
            annotations.shift_remove(KEPT);
        }
        return;
    };
    let annotations = &mut workload["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[KEPT] = json!(kept).to_string().into();
}

/// What the container says now, to be kept.
///
/// # Errors
/// There is no container.
pub(crate) fn current(workload: &Value) -> Result<Kept, SettingsError> {
    let containers = containers(workload);
    let index = registry_container(containers, None).ok_or(SettingsError::NoContainer)?;
    let container = &containers[index];
    let env = container["env"].as_array().map(Vec::as_slice).unwrap_or_default();
    let variable = |(name, _): (&str, &str)| {
        let at = env.iter().rposition(|entry| entry["name"] == name);
        KeptVariable { name: name.to_owned(), was: at.map(|at| env[at].clone()), at: at.unwrap_or(env.len()) }
    };
    let container = container["name"].as_str().unwrap_or_default().to_owned();
    Ok(Kept { container, env: OFF.map(variable).into(), management_state: None })
}

/// Sets the variables that turn the caches off, in place where they are set already.
///
/// # Errors
/// There is no container.
pub(crate) fn turn_off(workload: &mut Value, container: Option<&str>) -> Result<(), SettingsError> {
    let env = env(workload, container)?;
    for (name, value) in OFF {
        let entry = json!({ "name": name, "value": value });
        // One that stands there twice counts by its last entry.
        match env.iter_mut().rfind(|entry| entry["name"] == name) {
            Some(old) => *old = entry,
            None => env.push(entry),
        }
    }
    Ok(())
}

/// Restores what was kept. Returns the names of those that somebody has changed since: they stay as they are.
///
/// # Errors
/// The container is gone.
pub(crate) fn restore(workload: &mut Value, kept: &Kept) -> Result<Vec<String>, SettingsError> {
    let mut changed = Vec::new();
    let found = containers(workload);
    if !found.iter().any(|container| container["name"] == kept.container.as_str()) {
        return Err(SettingsError::OtherContainer(kept.container.clone()));
    }
    let env = env(workload, Some(&kept.container))?;
    let mut back = Vec::new();
    for variable in &kept.env {
        let name = variable.name.as_str();
        let off = OFF.into_iter().find(|(known, _)| *known == name).map(|(_, value)| value);
        match env.iter().rposition(|entry| entry["name"] == name) {
            Some(at) if off.is_some_and(|off| env[at]["value"] == off) => {
                env.remove(at);
                back.push(variable);
            }
            None if variable.was.is_none() => {}
            _ => changed.push(variable.name.clone()),
        }
    }
    // From the first place to the last, so that each stands where it stood.
    back.sort_by_key(|variable| variable.at);
    for variable in back {
        if let Some(entry) = &variable.was {
            env.insert(variable.at.min(env.len()), entry.clone());
        }
    }
    Ok(changed)
}

/// Whether a workload may use a Redis, as far as it is written into it.
#[must_use]
pub(crate) fn may_use_redis(workload: &Value) -> bool {
    let containers = containers(workload);
    let Some(index) = registry_container(containers, None) else { return true };
    let container = &containers[index];
    if let Some(entry) = Settings::of(containers, None).descriptor {
        return !entry["value"].as_str().is_some_and(|value| matches!(value, "inmemory" | "openshift"));
    }
    // Then a file says it, or a variable that comes in bulk.
    let list = |field: &str| container[field].as_array().map(Vec::as_slice).unwrap_or_default();
    let is_mounted = list("volumeMounts").iter().filter_map(|mount| mount["mountPath"].as_str());
    let is_mounted = is_mounted.into_iter().any(|path| std::path::Path::new("/config.yml").starts_with(path));
    // A whole section may come in one variable, as YAML.
    let is_named = list("env").iter().any(|entry| {
        let name = entry["name"].as_str().unwrap_or_default();
        matches!(name, "REGISTRY_CONFIGURATION_PATH" | "REGISTRY_STORAGE" | "REGISTRY_STORAGE_CACHE")
    });
    !list("envFrom").is_empty() || is_named || is_mounted
}

/// The containers of the pod template.
pub(super) fn containers(workload: &Value) -> &[Value] {
    workload["spec"]["template"]["spec"]["containers"].as_array().map(Vec::as_slice).unwrap_or_default()
}

fn env<'a>(workload: &'a mut Value, container: Option<&str>) -> Result<&'a mut Vec<Value>, SettingsError> {
    let index = registry_container(containers(workload), container).ok_or(SettingsError::NoContainer)?;
    let env = &mut workload["spec"]["template"]["spec"]["containers"][index]["env"];
    if !env.is_array() {
        *env = json!([]);
    }
    env.as_array_mut().ok_or(SettingsError::NoContainer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(env: &Value) -> Value {
        json!({
            "metadata": { "name": "image-registry", "annotations": { "other": "stays" } },
            "spec": { "template": { "spec": { "containers": [
                { "name": "proxy", "env": [{ "name": DISABLED, "value": "of another container" }] },
                { "name": "registry", "env": env },
            ] } } },
        })
    }

    fn settings(workload: &Value) -> Settings {
        Settings::of(containers(workload), None)
    }

    #[test]
    fn what_disable_changes_enable_restores_exactly() {
        for env in [
            json!([]),
            json!([{ "name": "A", "value": "1" }]),
            json!([{ "name": DESCRIPTOR, "value": "redis" }, { "name": "A", "value": "1" }]),
            json!([
                { "name": "A", "value": "1" },
                { "name": DESCRIPTOR, "valueFrom": { "configMapKeyRef": { "name": "m", "key": "k" } } },
                { "name": "B", "value": "2" },
                { "name": DISABLED, "value": "false" },
                { "name": "C", "value": "$(B)" },
            ]),
        ] {
            let before = workload(&env);
            let mut object = before.clone();
            let kept = current(&object).unwrap();
            keep(&mut object, Some(&kept));
            turn_off(&mut object, Some(&kept.container)).unwrap();
            assert!(settings(&object).are_off(), "{object}");
            assert!(!settings(&before).are_off());
            assert_eq!(
                object["spec"]["template"]["spec"]["containers"][0],
                before["spec"]["template"]["spec"]["containers"][0]
            );
            let read = super::kept(&object).unwrap().unwrap();
            assert_eq!(read, kept);
            assert_eq!(restore(&mut object, &read).unwrap(), Vec::<String>::new());
            keep(&mut object, None);
            assert_eq!(object, before);
        }
    }

    #[test]
    fn what_somebody_changed_meanwhile_stays() {
        let mut object = workload(&json!([{ "name": DESCRIPTOR, "value": "redis" }]));
        let kept = current(&object).unwrap();
        turn_off(&mut object, None).unwrap();
        let env = &mut object["spec"]["template"]["spec"]["containers"][1]["env"];
        env[0]["value"] = "openshift".into();
        assert_eq!(restore(&mut object, &kept).unwrap(), [DESCRIPTOR]);
        assert_eq!(settings(&object).descriptor.unwrap()["value"], "openshift");
        assert_eq!(settings(&object).disabled, None);

        object["spec"]["template"]["spec"]["containers"][1]["name"] = "other".into();
        assert_eq!(restore(&mut object, &kept), Err(SettingsError::OtherContainer("registry".to_owned())));
    }

    #[test]
    fn only_what_was_measured_counts_as_off() {
        let off = |disabled: &str, descriptor: &str| {
            settings(&workload(&json!([
                { "name": DISABLED, "value": disabled }, { "name": DESCRIPTOR, "value": descriptor },
            ])))
            .are_off()
        };
        assert!(off("true", "inmemory") && off("yes", "openshift"));
        assert!(
            !off("false", "inmemory")
                && !off("true", "redis")
                && !off("true", "")
                && !off("maybe", "inmemory")
        );
        let referred = json!([
            { "name": DISABLED, "valueFrom": {}, "value": "true" }, { "name": DESCRIPTOR, "value": "inmemory" },
        ]);
        assert!(!settings(&workload(&referred)).are_off());
        assert!(
            !settings(&workload(&json!([{ "name": DISABLED, "value": "true" }]))).are_off(),
            "a file may say redis"
        );
    }

    #[test]
    fn a_redis_may_be_where_none_is_ruled_out() {
        assert!(!may_use_redis(&workload(&json!([]))), "the image's own file has none");
        assert!(!may_use_redis(&workload(&json!([{ "name": DESCRIPTOR, "value": "inmemory" }]))));
        assert!(may_use_redis(&workload(&json!([{ "name": DESCRIPTOR, "value": "redis" }]))));
        assert!(may_use_redis(&workload(&json!([{ "name": DESCRIPTOR, "valueFrom": {} }]))));
        for (name, value) in
            [("REGISTRY_STORAGE_CACHE", "{blobdescriptor: redis}"), ("REGISTRY_STORAGE", "{cache: {}}")]
        {
            assert!(may_use_redis(&workload(&json!([{ "name": name, "value": value }]))), "{name}");
        }
        for (field, value) in [
            ("envFrom", json!([{ "secretRef": { "name": "s" } }])),
            ("volumeMounts", json!([{ "name": "c", "mountPath": "/config.yml" }])),
        ] {
            let mut object = workload(&json!([]));
            object["spec"]["template"]["spec"]["containers"][1][field] = value;
            assert!(may_use_redis(&object), "{field}");
        }
    }

    #[test]
    fn an_annotation_that_says_nothing_is_told() {
        let mut object = workload(&json!([]));
        object["metadata"]["annotations"][KEPT] = "{".into();
        assert!(matches!(kept(&object), Err(SettingsError::Annotation(_))));
    }
}
