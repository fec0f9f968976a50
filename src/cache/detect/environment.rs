//! The environment and the configuration file of the registry's container: as its pod says ([`Declared`]), and as the
//! container sees it once Secrets and `ConfigMap`s are read ([`Environment`]). Pure, with the rules of the kubelet.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, KeyToPath, PodSpec, Volume};
use secrecy::{ExposeSecret as _, SecretString};

use super::objects::{Reading, registry_container};
use super::rights::{Need, Rule};
use super::settings::{VARIABLES, matters};

/// Where the image's own configuration file is; the registry is started with it.
const CONFIG_FILE: &str = "/config.yml";
/// The variable that names another one.
const CONFIG_PATH: &str = "REGISTRY_CONFIGURATION_PATH";

/// The kind of object that a value comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// A Secret.
    Secret,
    /// A `ConfigMap`.
    ConfigMap,
    /// The pod itself: its limits, its volumes, its image.
    Pod,
}

/// Where a value or a file comes from that is not written into the pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Source {
    /// The kind of object.
    pub origin: Origin,
    /// Its namespace.
    pub namespace: String,
    /// Its name; empty for the pod itself.
    pub name: String,
}

impl Source {
    pub(super) fn pod(namespace: &str) -> Self {
        Self { origin: Origin::Pod, namespace: namespace.to_owned(), name: String::new() }
    }

    /// The resource in paths and rules; none for what only the pod itself knows.
    #[must_use]
    pub fn resource(&self) -> Option<&'static str> {
        match self.origin {
            Origin::Secret => Some("secrets"),
            Origin::ConfigMap => Some("configmaps"),
            Origin::Pod => None,
        }
    }

    /// The right that is needed to read it; none for what only the pod itself knows.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        Need::read_source(self).map(|need| need.rule)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { origin, namespace, name } = self;
        match origin {
            Origin::Secret => write!(f, "secret {namespace}/{name}"),
            Origin::ConfigMap => write!(f, "configmap {namespace}/{name}"),
            Origin::Pod => f.write_str("the pod itself"),
        }
    }
}

/// A key of a Secret or `ConfigMap`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyOf {
    /// The object.
    pub source: Source,
    /// The key; empty for the pod itself.
    pub key: String,
}

impl fmt::Display for KeyOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.source.origin {
            Origin::Pod => write!(f, "{}", self.source),
            Origin::Secret | Origin::ConfigMap => write!(f, "key {} of {}", self.key, self.source),
        }
    }
}

/// What was read of the Secrets and `ConfigMap`s: their keys with the values.
pub(super) type Objects = BTreeMap<Source, Reading<BTreeMap<String, SecretString>>>;

/// The value of a variable.
#[derive(Debug, Clone)]
pub enum Value {
    /// It is known. May be a password, so it does not print.
    Plain(SecretString),
    /// It is somewhere else, and was not read from there.
    Elsewhere(Source),
}

/// A variable of the container.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its value.
    pub value: Value,
    /// The key that it comes from, if it is not written into the pod.
    pub from: Option<KeyOf>,
}

/// The configuration file that the registry is started with.
#[derive(Debug, Clone, Default)]
pub enum ConfigFile {
    /// The one in the image.
    #[default]
    Image,
    /// It was read. It may hold passwords, so it does not print.
    Is {
        /// Where from.
        from: KeyOf,
        /// Its text.
        text: SecretString,
    },
    /// It is somewhere else, and was not read from there.
    Elsewhere(Source),
}

/// How the registry's container is configured, as far as it could be read.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// The variables by name.
    pub variables: BTreeMap<String, Variable>,
    /// Objects that were not read, all of whose keys become variables, with the prefix that they get.
    pub bulk: Vec<(String, Source)>,
    /// The configuration file.
    pub file: ConfigFile,
}

impl Environment {
    /// The variable; if it is not there but may come in bulk, from where.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Variable> {
        let bulk = || {
            let (prefix, source) =
                self.bulk.iter().rev().find(|(prefix, _)| name.starts_with(prefix.as_str()))?;
            let key = name[prefix.len()..].to_owned();
            let from = Some(KeyOf { source: source.clone(), key });
            Some(Variable { value: Value::Elsewhere(source.clone()), from })
        };
        self.variables.get(name).cloned().or_else(bulk)
    }
}

/// What a pod says about its registry container, before anything that it refers to is read.
#[derive(Debug, Clone, Default)]
pub struct Declared {
    namespace: String,
    /// In their order: a later one may refer to an earlier one.
    variables: Vec<(String, Given)>,
    bulk: Vec<Bulk>,
    file: DeclaredFile,
}

#[derive(Debug, Clone)]
enum Given {
    /// Written there; `$(NAME)` stands for another variable.
    Text(SecretString),
    Key {
        from: KeyOf,
        optional: bool,
    },
    /// A field of the pod.
    Pod,
}

#[derive(Debug, Clone)]
struct Bulk {
    prefix: String,
    source: Source,
    optional: bool,
}

#[derive(Debug, Clone, Default)]
enum DeclaredFile {
    #[default]
    Image,
    /// One of these; several where a volume is put together.
    OneOf(Vec<KeyOf>),
    /// A file of another kind of volume, or of an image that is not the usual one.
    Pod,
}

impl Declared {
    /// Reads what a pod spec says.
    pub(super) fn of(spec: &PodSpec, namespace: &str) -> Self {
        let Some(container) = registry_container(&spec.containers) else { return Self::default() };
        let source =
            |origin, name: &str| Source { origin, namespace: namespace.to_owned(), name: name.to_owned() };
        let given = |variable: &EnvVar| match &variable.value_from {
            // A value wins over a reference.
            Some(from) if variable.value.as_deref().unwrap_or_default().is_empty() => {
                given_by_reference(from, source)
            }
            _ => Given::Text(variable.value.clone().unwrap_or_default().into()),
        };
        let variables =
            container.env.iter().flatten().map(|variable| (variable.name.clone(), given(variable)));
        let bulk = container.env_from.iter().flatten().filter_map(|from| {
            let (source, optional) = match (&from.secret_ref, &from.config_map_ref) {
                (Some(secret), _) => (source(Origin::Secret, &secret.name), secret.optional),
                (None, Some(map)) => (source(Origin::ConfigMap, &map.name), map.optional),
                (None, None) => return None,
            };
            let prefix = from.prefix.clone().unwrap_or_default();
            Some(Bulk { prefix, source, optional: optional.unwrap_or_default() })
        });
        Self {
            namespace: namespace.to_owned(),
            variables: variables.collect(),
            bulk: bulk.collect(),
            file: declared_file(container, spec.volumes.as_deref().unwrap_or_default(), namespace),
        }
    }

    /// The objects that have to be read to know the registry's caches; no others, for the rest may be as secret as it
    /// likes.
    pub(super) fn sources(&self) -> BTreeSet<Source> {
        let mut needed: BTreeSet<&str> =
            self.variables.iter().map(|(name, _)| name.as_str()).filter(|name| matters(name)).collect();
        // A reference leads to an earlier variable only: from the end, one pass is enough.
        for (name, given) in self.variables.iter().rev() {
            if let Given::Text(text) = given
                && needed.contains(name.as_str())
            {
                let named = references(text.expose_secret());
                let known = self.variables.iter().map(|(name, _)| name.as_str());
                needed.extend(known.filter(|known| named.contains(*known)));
            }
        }
        let by_key = self.variables.iter().filter_map(|(name, given)| match given {
            Given::Key { from, .. } if needed.contains(name.as_str()) => Some(from.source.clone()),
            _ => None,
        });
        let texts = self.variables.iter().filter(|(name, _)| needed.contains(name.as_str()));
        let named: BTreeSet<String> = texts
            .filter_map(|(_, given)| match given {
                Given::Text(text) => Some(references(text.expose_secret())),
                _ => None,
            })
            .flatten()
            .collect();
        let may_matter = |prefix: &str| {
            let wanted = VARIABLES.iter().copied().chain(named.iter().map(String::as_str));
            prefix.is_empty() || matters(prefix) || wanted.into_iter().any(|name| name.starts_with(prefix))
        };
        let bulk = self.bulk.iter().filter(|bulk| may_matter(&bulk.prefix)).map(|bulk| bulk.source.clone());
        let file = match &self.file {
            DeclaredFile::OneOf(keys) => keys.as_slice(),
            DeclaredFile::Image | DeclaredFile::Pod => &[],
        };
        let file = file.iter().map(|key| key.source.clone());
        by_key.chain(bulk).chain(file).filter(|source| source.resource().is_some()).collect()
    }

    /// What the container sees. What `objects` does not have counts as not read.
    pub(super) fn resolve(&self, objects: &Objects) -> Environment {
        let mut environment = Environment { file: self.resolved_file(objects), ..Environment::default() };
        for Bulk { prefix, source, optional } in &self.bulk {
            match objects.get(source) {
                Some(Reading::Is(keys)) => {
                    for (key, value) in keys {
                        let from = Some(KeyOf { source: source.clone(), key: key.clone() });
                        let variable = Variable { value: Value::Plain(value.clone()), from };
                        environment.variables.insert(format!("{prefix}{key}"), variable);
                    }
                }
                Some(Reading::Absent) if *optional => {}
                // One that must be there and is not was there when the container started.
                Some(Reading::Absent | Reading::Unreadable { .. }) | None => {
                    environment.variables.retain(|name, _| !name.starts_with(prefix.as_str()));
                    environment.bulk.push((prefix.clone(), source.clone()));
                }
            }
        }
        for (name, given) in &self.variables {
            if let Some(variable) = self.resolved(given, objects, &environment) {
                environment.variables.insert(name.clone(), variable);
            }
        }
        environment
    }

    fn resolved(&self, given: &Given, objects: &Objects, so_far: &Environment) -> Option<Variable> {
        let pod = || Source::pod(&self.namespace);
        match given {
            Given::Text(text) => {
                let lookup = |name: &str| match so_far.get(name).map(|variable| variable.value) {
                    Some(Value::Plain(text)) => Ok(Some(text.expose_secret().to_owned())),
                    Some(Value::Elsewhere(source)) => Err(source),
                    // Set by the kubelet for each service that was there when the pod started.
                    None if is_of_a_service(name) => Err(pod()),
                    None => Ok(None),
                };
                let value = match expanded(text.expose_secret(), lookup) {
                    Ok(text) => Value::Plain(text.into()),
                    Err(source) => Value::Elsewhere(source),
                };
                Some(Variable { value, from: None })
            }
            Given::Key { from, optional } => {
                let value = match objects.get(&from.source) {
                    Some(Reading::Is(keys)) => keys.get(&from.key).map(|value| Value::Plain(value.clone())),
                    Some(Reading::Absent) => None,
                    Some(Reading::Unreadable { .. }) | None => Some(Value::Elsewhere(from.source.clone())),
                };
                let value = match value {
                    None if *optional => return None,
                    // It was there when the container started.
                    None => Value::Elsewhere(from.source.clone()),
                    Some(value) => value,
                };
                Some(Variable { value, from: Some(from.clone()) })
            }
            Given::Pod => Some(Variable { value: Value::Elsewhere(pod()), from: None }),
        }
    }

    fn resolved_file(&self, objects: &Objects) -> ConfigFile {
        let keys = match &self.file {
            DeclaredFile::Image => return ConfigFile::Image,
            DeclaredFile::Pod => return ConfigFile::Elsewhere(Source::pod(&self.namespace)),
            DeclaredFile::OneOf(keys) => keys,
        };
        let read = |key: &KeyOf| match objects.get(&key.source) {
            Some(Reading::Is(keys)) => Some(keys.get(&key.key).cloned()),
            Some(Reading::Absent) => Some(None),
            Some(Reading::Unreadable { .. }) | None => None,
        };
        for key in keys {
            if let Some(Some(text)) = read(key) {
                return ConfigFile::Is { from: key.clone(), text };
            }
        }
        let hidden = keys.iter().find(|key| read(key).is_none()).or(keys.first());
        ConfigFile::Elsewhere(hidden.map_or_else(|| Source::pod(&self.namespace), |key| key.source.clone()))
    }
}

fn given_by_reference(from: &EnvVarSource, source: impl Fn(Origin, &str) -> Source) -> Given {
    let (source, key, optional) = if let Some(secret) = &from.secret_key_ref {
        (source(Origin::Secret, &secret.name), &secret.key, secret.optional)
    } else if let Some(map) = &from.config_map_key_ref {
        (source(Origin::ConfigMap, &map.name), &map.key, map.optional)
    } else {
        return Given::Pod;
    };
    Given::Key { from: KeyOf { source, key: key.clone() }, optional: optional.unwrap_or_default() }
}

/// The variables that a text refers to.
fn references(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    // Never an error: every name is undefined.
    let _ = expanded::<()>(text, |name| {
        names.insert(name.to_owned());
        Ok(None)
    });
    names
}

/// Replaces `$(NAME)` as the kubelet does: `$$` stands for `$`, and what is not defined stays as it is.
fn expanded<E>(text: &str, mut lookup: impl FnMut(&str) -> Result<Option<String>, E>) -> Result<String, E> {
    let mut result = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        result.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let reference = after.strip_prefix('(').and_then(|inner| inner.split_once(')'));
        rest = if let Some(escaped) = after.strip_prefix('$') {
            result.push('$');
            escaped
        } else if let Some((name, following)) = reference {
            if let Some(value) = lookup(name)? {
                result.push_str(&value);
            } else {
                result.push_str("$(");
                result.push_str(name);
                result.push(')');
            }
            following
        } else {
            result.push('$');
            after
        };
    }
    result.push_str(rest);
    Ok(result)
}

/// Whether the kubelet may have set it for a service: `REDIS_SERVICE_HOST`, `REDIS_PORT_6379_TCP_ADDR`.
fn is_of_a_service(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST") || name.contains("_PORT")
}

/// Where the configuration file comes from.
fn declared_file(container: &Container, volumes: &[Volume], namespace: &str) -> DeclaredFile {
    let argument = [&container.command, &container.args]
        .into_iter()
        .flatten()
        .flatten()
        .rev()
        .find(|word| [".yml", ".yaml"].iter().any(|end| word.ends_with(end)));
    let variable = container.env.iter().flatten().rev().find(|variable| variable.name == CONFIG_PATH);
    let path = match (argument, variable) {
        (Some(path), _) => path.clone(),
        (None, Some(EnvVar { value: Some(path), .. })) if !path.contains('$') => path.clone(),
        (None, Some(_)) => return DeclaredFile::Pod,
        (None, None) => CONFIG_FILE.to_owned(),
    };
    let mounts = container.volume_mounts.iter().flatten();
    let Some(mount) = mounts
        .filter(|mount| Path::new(&path).starts_with(&mount.mount_path))
        .max_by_key(|mount| Path::new(&mount.mount_path).components().count())
    else {
        return if path == CONFIG_FILE { DeclaredFile::Image } else { DeclaredFile::Pod };
    };
    let Some(volume) = volumes.iter().find(|volume| volume.name == mount.name) else {
        return DeclaredFile::Pod;
    };
    let within = Path::new(&path).strip_prefix(&mount.mount_path).unwrap_or(Path::new(""));
    let mut file = PathBuf::from(mount.sub_path.as_deref().unwrap_or_default());
    if !within.as_os_str().is_empty() {
        file.push(within);
    }
    let keys = keys_of(volume, &file.to_string_lossy(), namespace);
    if keys.is_empty() { DeclaredFile::Pod } else { DeclaredFile::OneOf(keys) }
}

/// The keys that may be this file of a volume.
fn keys_of(volume: &Volume, file: &str, namespace: &str) -> Vec<KeyOf> {
    let key = |origin, name: &str, items: Option<&[KeyToPath]>| {
        let key = match items {
            Some(items) if !items.is_empty() => items.iter().find(|item| item.path == file)?.key.clone(),
            _ => file.to_owned(),
        };
        let source = Source { origin, namespace: namespace.to_owned(), name: name.to_owned() };
        Some(KeyOf { source, key })
    };
    let mut keys = Vec::new();
    if let Some(secret) = &volume.secret {
        let name = secret.secret_name.as_deref().unwrap_or_default();
        keys.extend(key(Origin::Secret, name, secret.items.as_deref()));
    }
    if let Some(map) = &volume.config_map {
        keys.extend(key(Origin::ConfigMap, &map.name, map.items.as_deref()));
    }
    for part in volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten()) {
        if let Some(secret) = &part.secret {
            keys.extend(key(Origin::Secret, &secret.name, secret.items.as_deref()));
        }
        if let Some(map) = &part.config_map {
            keys.extend(key(Origin::ConfigMap, &map.name, map.items.as_deref()));
        }
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::super::objects::deployment;
    use super::*;
    use serde_json::{Value as Json, json};

    /// What a Deployment with this container and these volumes declares.
    fn declared(container: &Json, volumes: &Json) -> Declared {
        let mut container = container.clone();
        container["name"] = "registry".into();
        let object = json!({
            "metadata": { "namespace": "n", "name": "image-registry" },
            "spec": {
                "selector": {},
                "template": { "spec": { "containers": [container], "volumes": volumes } },
            },
        });
        deployment(object.to_string().as_bytes()).unwrap().declared
    }

    fn source(origin: Origin, name: &str) -> Source {
        Source { origin, namespace: "n".to_owned(), name: name.to_owned() }
    }

    fn readable(origin: Origin, name: &str, keys: &[(&str, &str)]) -> Objects {
        let keys = keys.iter().map(|&(key, value)| (key.to_owned(), value.to_owned().into()));
        Objects::from([(source(origin, name), Reading::Is(keys.collect()))])
    }

    fn text(environment: &Environment, name: &str) -> String {
        match environment.get(name).map(|variable| variable.value) {
            Some(Value::Plain(text)) => text.expose_secret().to_owned(),
            Some(Value::Elsewhere(source)) => format!("<{source}>"),
            None => "<unset>".to_owned(),
        }
    }

    fn names(declared: &Declared) -> Vec<String> {
        declared.sources().iter().map(ToString::to_string).collect()
    }

    fn secret_key(name: &str, object: &str, key: &str) -> Json {
        json!({ "name": name, "valueFrom": { "secretKeyRef": { "name": object, "key": key } } })
    }

    #[test]
    fn only_what_matters_for_caches_is_read() {
        let declared = declared(
            &json!({
                "env": [
                    secret_key("REGISTRY_HTTP_SECRET", "private", "secret"),
                    secret_key("HOST", "host", "name"),
                    secret_key("OTHER", "other", "x"),
                    { "name": "REGISTRY_REDIS_ADDR", "value": "$(HOST):6379" },
                    secret_key("REGISTRY_REDIS_PASSWORD", "redis", "password"),
                    { "name": "REGISTRY_REDIS_DB", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                ],
                "envFrom": [
                    { "prefix": "REGISTRY_", "configMapRef": { "name": "more" } },
                    { "secretRef": { "name": "all" } },
                    { "prefix": "AWS_", "secretRef": { "name": "aws" } },
                ],
                "volumeMounts": [{ "name": "file", "mountPath": "/config.yml", "subPath": "c.yml" }],
            }),
            &json!([{ "name": "file", "secret": { "secretName": "config" } }]),
        );
        assert_eq!(
            names(&declared),
            ["secret n/all", "secret n/config", "secret n/host", "secret n/redis", "configmap n/more"]
        );
        let rule = source(Origin::ConfigMap, "more").rule().unwrap();
        assert_eq!(rule.to_string(), "get configmaps/more in namespace n");
        assert_eq!(Source::pod("n").rule(), None);
    }

    #[test]
    fn variables_are_put_together_as_the_kubelet_does() {
        let declared = declared(
            &json!({
                "env": [
                    { "name": "A", "value": "1" },
                    { "name": "B", "value": "$(A)-$(LATER)-$$(A)-$(K)-$(A" },
                    { "name": "LATER", "value": "x" },
                    { "name": "C", "value": "$(REDIS_SERVICE_HOST):6379" },
                    secret_key("REGISTRY_REDIS_PASSWORD", "redis", "password"),
                    secret_key("REGISTRY_REDIS_DB", "redis", "no such key"),
                    { "name": "REGISTRY_REDIS_USERNAME", "valueFrom":
                        { "secretKeyRef": { "name": "redis", "key": "no such key", "optional": true } } },
                    secret_key("D", "gone", "x"),
                    { "name": "E", "valueFrom": { "secretKeyRef": { "name": "gone", "key": "x", "optional": true } } },
                    { "name": "A", "value": "2" },
                ],
                "envFrom": [
                    { "configMapRef": { "name": "gone", "optional": true } },
                    { "secretRef": { "name": "redis" }, "prefix": "P_" },
                    { "secretRef": { "name": "keys" } },
                ],
            }),
            &json!([]),
        );
        let mut objects = readable(Origin::Secret, "redis", &[("password", "hunter2")]);
        objects.extend(readable(Origin::Secret, "keys", &[("K", "k"), ("A", "from bulk")]));
        objects.insert(source(Origin::Secret, "gone"), Reading::Absent);
        objects.insert(source(Origin::ConfigMap, "gone"), Reading::Absent);
        let environment = declared.resolve(&objects);
        assert_eq!(text(&environment, "A"), "2", "the last one counts, and wins over what comes in bulk");
        assert_eq!(text(&environment, "B"), "1-$(LATER)-$(A)-k-$(A");
        assert_eq!(text(&environment, "C"), "<the pod itself>");
        assert_eq!(text(&environment, "REGISTRY_REDIS_PASSWORD"), "hunter2");
        let from = environment.get("REGISTRY_REDIS_PASSWORD").unwrap().from.unwrap();
        assert_eq!(from.to_string(), "key password of secret n/redis");
        assert_eq!(text(&environment, "P_password"), "hunter2");
        assert_eq!(text(&environment, "REGISTRY_REDIS_DB"), "<secret n/redis>", "was there at the start");
        assert_eq!(text(&environment, "REGISTRY_REDIS_USERNAME"), "<unset>");
        assert_eq!((&*text(&environment, "D"), &*text(&environment, "E")), ("<secret n/gone>", "<unset>"));
        assert!(!format!("{declared:?} {environment:?}").contains("hunter2"));
    }

    #[test]
    fn what_comes_in_bulk_and_cannot_be_read_may_set_anything() {
        let container = json!({
            "env": [{ "name": "REGISTRY_REDIS_ADDR", "value": "r:1" }],
            "envFrom": [{ "configMapRef": { "name": "one" } }, { "secretRef": { "name": "two" }, "prefix": "REGISTRY_" },
                        { "configMapRef": { "name": "three" } }],
        });
        let declared = declared(&container, &json!([]));
        let mut objects = readable(Origin::ConfigMap, "one", &[("REGISTRY_REDIS_DB", "1"), ("X", "1")]);
        objects.extend(readable(Origin::ConfigMap, "three", &[("REGISTRY_REDIS_PASSWORD", "p")]));
        let environment = declared.resolve(&objects);
        assert_eq!(text(&environment, "REGISTRY_REDIS_ADDR"), "r:1");
        assert_eq!(text(&environment, "REGISTRY_REDIS_DB"), "<secret n/two>", "it may be another one there");
        assert_eq!(text(&environment, "REGISTRY_REDIS_PASSWORD"), "p", "comes later");
        assert_eq!((&*text(&environment, "X"), &*text(&environment, "Y")), ("1", "<unset>"));
    }

    #[test]
    fn the_configuration_file_is_found_wherever_it_is_mounted() {
        let file = |container: Json, volumes: Json| {
            let declared = declared(&container, &volumes);
            let mut objects = readable(Origin::Secret, "s", &[("k.yml", "of k"), ("config.yml", "of s")]);
            objects.extend(readable(Origin::ConfigMap, "m", &[("config.yml", "of m")]));
            match declared.resolve(&objects).file {
                ConfigFile::Image => "image".to_owned(),
                ConfigFile::Is { from, text } => format!("{from}: {}", text.expose_secret()),
                ConfigFile::Elsewhere(source) => format!("<{source}>"),
            }
        };
        let mounted = |path: &str| json!({ "volumeMounts": [{ "name": "v", "mountPath": path }] });
        let secret = json!([{ "name": "v", "secret": { "secretName": "s" } }]);
        assert_eq!(file(json!({}), json!([])), "image");
        assert_eq!(file(mounted("/etc/secrets"), secret.clone()), "image");
        let sub =
            json!({ "volumeMounts": [{ "name": "v", "mountPath": "/config.yml", "subPath": "k.yml" }] });
        assert_eq!(file(sub, secret.clone()), "key k.yml of secret n/s: of k");
        let mut named = mounted("/etc/registry");
        named["env"] =
            json!([{ "name": "REGISTRY_CONFIGURATION_PATH", "value": "/etc/registry/config.yml" }]);
        assert_eq!(file(named.clone(), secret.clone()), "key config.yml of secret n/s: of s");
        let items = json!({ "items": [{ "key": "k.yml", "path": "config.yml" }], "secretName": "s" });
        assert_eq!(
            file(named.clone(), json!([{ "name": "v", "secret": items }])),
            "key k.yml of secret n/s: of k"
        );
        let map = json!([{ "name": "v", "configMap": { "name": "m" } }]);
        assert_eq!(file(named.clone(), map), "key config.yml of configmap n/m: of m");
        let several = json!([{ "name": "v", "projected": { "sources": [
            { "secret": { "name": "s", "items": [{ "key": "k.yml", "path": "other.yml" }] } },
            { "configMap": { "name": "m" } },
        ] } }]);
        assert_eq!(file(named.clone(), several), "key config.yml of configmap n/m: of m");
        let hidden = json!([{ "name": "v", "secret": { "secretName": "hidden" } }]);
        assert_eq!(file(named.clone(), hidden), "<secret n/hidden>");
        assert_eq!(file(named, json!([{ "name": "v", "emptyDir": {} }])), "<the pod itself>");
        let mut argument = mounted("/etc/registry");
        argument["args"] = json!(["/usr/bin/dockerregistry", "/etc/registry/config.yml"]);
        assert_eq!(file(argument, secret), "key config.yml of secret n/s: of s");
        let elsewhere = json!({ "env": [{ "name": "REGISTRY_CONFIGURATION_PATH", "value": "/other.yml" }] });
        assert_eq!(file(elsewhere, json!([])), "<the pod itself>");
    }
}
