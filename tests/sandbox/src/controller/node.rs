//! The scheduler and the nodes: what becomes of a pod, and the replica that runs in it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Controllers, owner, set_condition};
use crate::api::evict::terminating;
use crate::api::{Store, metadata, now as time};
use crate::lock;
use crate::workload::NAMESPACE;

/// How long a container that crashed waits at most.
const LONGEST_BACK_OFF: Duration = Duration::from_secs(300);

/// Where the registry's file is.
const CONFIG_FILE: &str = "/config.yml";

/// What is known of a pod besides its object.
#[derive(Debug)]
pub(super) struct Pod {
    name: String,
    stage: Stage,
    restarts: u32,
    /// When it is gone, once it is being deleted.
    ends: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// No node has taken it yet.
    New,
    Starting(Instant),
    /// Its replica serves, and is ready then.
    Running {
        replica: usize,
        ready: Instant,
    },
    Ready {
        replica: usize,
    },
}

/// Why a container does not run.
#[derive(Debug, PartialEq, Eq)]
enum Unable {
    /// What its environment names is not there: it is not even started.
    Config(String),
    /// It ends at once, with these last words.
    Crash(String),
}

impl Controllers {
    /// Lets time pass for all pods, and returns when something is next.
    pub(super) fn live(&mut self, now: Instant) -> Option<Instant> {
        let objects = self.store.in_namespace("pods", NAMESPACE);
        let uid = |pod: &Value| metadata(pod, "uid").to_owned();
        // Pods that were deleted without grace.
        let lost: Vec<String> = self
            .pods
            .keys()
            .filter(|known| !objects.iter().any(|pod| uid(pod) == **known))
            .cloned()
            .collect();
        for uid in lost {
            if let Some(pod) = self.pods.remove(&uid) {
                self.let_go(&pod);
                self.running.forget(&pod.name);
            }
        }
        let (unschedulable, unready, crashed) = {
            let mut weather = lock(&self.running.nodes().state);
            (weather.unschedulable.clone(), weather.unready, std::mem::take(&mut weather.crashed))
        };
        let mut next: Option<Instant> = None;
        for object in &objects {
            let own = owner(object).is_some_and(|owner| owner["kind"] == "ReplicaSet");
            if !own && !terminating(object) {
                continue;
            }
            let name = metadata(object, "name").to_owned();
            let mut pod = self.pods.remove(&uid(object)).unwrap_or(Pod {
                name,
                stage: if own { Stage::New } else { Stage::Starting(now) },
                restarts: 0,
                ends: None,
            });
            if crashed.contains(&pod.name) && matches!(pod.stage, Stage::Running { .. } | Stage::Ready { .. })
            {
                self.let_go(&pod);
                self.crashed(&mut pod, "killed", now);
            }
            let due = self.advance(&mut pod, object, unschedulable.as_deref(), unready, now);
            match due {
                Due::Gone => self.running.forget(&pod.name),
                Due::At(due) => {
                    next = [next, due].into_iter().flatten().min();
                    self.pods.insert(uid(object), pod);
                }
            }
        }
        next
    }

    fn advance(
        &mut self,
        pod: &mut Pod,
        object: &Value,
        unschedulable: Option<&str>,
        unready: bool,
        now: Instant,
    ) -> Due {
        if terminating(object) {
            let pause = self.dice.pace.terminate;
            let ends = *pod.ends.get_or_insert_with(|| self.dice.after(pause, now));
            if ends > now {
                return Due::At(Some(ends));
            }
            // The object goes last, as its node sees to it.
            self.let_go(pod);
            self.store.delete("pods", NAMESPACE, &pod.name);
            return Due::Gone;
        }
        if pod.stage == Stage::New {
            if let Some(message) = unschedulable {
                self.status(pod, |status| {
                    let conditions = &mut status["conditions"];
                    set_condition(conditions, "PodScheduled", "False", "Unschedulable", message);
                });
                return Due::At(None);
            }
            let node = format!("worker-{}", self.dice.random.usize(..3));
            self.store.update("pods", NAMESPACE, &pod.name, |pod| {
                pod["spec"]["nodeName"] = node.into();
                set_condition(&mut pod["status"]["conditions"], "PodScheduled", "True", "", "");
            });
            let pause = self.dice.pace.start;
            pod.stage = Stage::Starting(self.dice.after(pause, now));
        }
        if let Stage::Starting(due) = pod.stage {
            if due > now {
                return Due::At(Some(due));
            }
            self.start(pod, object, now);
        }
        match pod.stage {
            Stage::Starting(due) => Due::At(Some(due)),
            Stage::Running { replica, ready } if ready <= now && !unready => {
                pod.stage = Stage::Ready { replica };
                self.status(pod, |status| readiness(status, true, ""));
                Due::At(None)
            }
            Stage::Running { ready, .. } => Due::At(Some(ready).filter(|ready| *ready > now)),
            Stage::New | Stage::Ready { .. } => Due::At(None),
        }
    }

    /// Starts a pod's container, or says why that fails.
    fn start(&mut self, pod: &mut Pod, object: &Value, now: Instant) {
        let configured = environment(&self.store, object)
            .and_then(|(env, file)| self.running.configured(&env, file.as_deref()).map_err(Unable::Crash));
        let config = match configured {
            Ok(config) => config,
            Err(Unable::Config(message)) => {
                let waiting = json!({ "reason": "CreateContainerConfigError", "message": message });
                self.status(pod, |status| container(status, "waiting", &waiting, false));
                pod.stage = Stage::Starting(self.dice.after(self.dice.pace.start * 2, now));
                return;
            }
            Err(Unable::Crash(message)) => return self.crashed(pod, &message, now),
        };
        let (replica, shown) = self.running.serve(&pod.name, metadata(object, "uid"), &config);
        let pause = self.dice.pace.ready;
        pod.stage = Stage::Running { replica, ready: self.dice.after(pause, now) };
        let restarts = pod.restarts;
        self.store.update("pods", NAMESPACE, &pod.name, |object| {
            object["spec"]["containers"][0]["ports"][0]["containerPort"] = shown.port().into();
            let status = &mut object["status"];
            status["phase"] = "Running".into();
            status["podIP"] = shown.ip().to_string().into();
            status["podIPs"] = json!([{ "ip": shown.ip().to_string() }]);
            if !status["startTime"].is_string() {
                status["startTime"] = time().into();
            }
            set_condition(&mut status["conditions"], "Initialized", "True", "", "");
            container(status, "running", &json!({ "startedAt": time() }), false);
            status["containerStatuses"][0]["restartCount"] = restarts.into();
            readiness(status, false, "containers with unready status: [registry]");
        });
    }

    /// Writes down that a container ended, and tries again later.
    fn crashed(&mut self, pod: &mut Pod, message: &str, now: Instant) {
        let back_off = self.dice.pace.start.saturating_mul(2_u32.saturating_pow(pod.restarts.min(16)));
        let restarts = pod.restarts;
        self.status(pod, |status| {
            let last = json!({
                "exitCode": 2, "reason": "Error", "message": message,
                "startedAt": time(), "finishedAt": time(),
            });
            let waiting = json!({
                "reason": "CrashLoopBackOff",
                "message": "back-off 10s restarting failed container=registry",
            });
            status["phase"] = "Running".into();
            container(status, "waiting", &waiting, false);
            status["containerStatuses"][0]["lastState"] = json!({ "terminated": last });
            status["containerStatuses"][0]["restartCount"] = restarts.into();
            readiness(status, false, "containers with unready status: [registry]");
        });
        pod.restarts += 1;
        pod.stage = Stage::Starting(self.dice.after(back_off.min(LONGEST_BACK_OFF), now));
    }

    /// Ends the replica of a pod.
    fn let_go(&self, pod: &Pod) {
        if let Stage::Running { replica, .. } | Stage::Ready { replica } = pod.stage {
            self.running.end(replica);
        }
    }

    fn status(&self, pod: &Pod, change: impl FnOnce(&mut Value)) {
        self.store.update("pods", NAMESPACE, &pod.name, |object| change(&mut object["status"]));
    }
}

enum Due {
    At(Option<Instant>),
    Gone,
}

/// Writes the state of a pod's container.
fn container(status: &mut Value, state: &str, about: &Value, ready: bool) {
    let container = &mut status["containerStatuses"];
    if !container.is_array() {
        *container = json!([{ "name": "registry", "restartCount": 0, "lastState": {} }]);
    }
    container[0]["ready"] = ready.into();
    container[0]["started"] = (state == "running").into();
    container[0]["state"] = json!({ state: about });
}

/// Writes whether a pod is ready.
fn readiness(status: &mut Value, ready: bool, message: &str) {
    let (text, reason) = if ready { ("True", "") } else { ("False", "ContainersNotReady") };
    for kind in ["Ready", "ContainersReady"] {
        set_condition(&mut status["conditions"], kind, text, reason, message);
    }
    status["containerStatuses"][0]["ready"] = ready.into();
}

type Environment = (BTreeMap<String, String>, Option<String>);

/// The environment of a pod's container, and the registry's file if the pod brings one.
fn environment(store: &Store, pod: &Value) -> Result<Environment, Unable> {
    let container = &pod["spec"]["containers"][0];
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut env = BTreeMap::new();
    for source in list(&container["envFrom"]) {
        let prefix = source["prefix"].as_str().unwrap_or_default();
        for (field, plural) in [("configMapRef", "configmaps"), ("secretRef", "secrets")] {
            let reference = &source[field];
            let Some(name) = reference["name"].as_str() else { continue };
            match store.get(plural, NAMESPACE, name) {
                Some(object) => {
                    env.extend(
                        entries(plural, &object)
                            .into_iter()
                            .map(|(key, text)| (format!("{prefix}{key}"), text)),
                    );
                }
                None if reference["optional"] == true => {}
                None => return Err(Unable::Config(not_found(plural, name))),
            }
        }
    }
    for variable in list(&container["env"]) {
        let Some(name) = variable["name"].as_str() else { continue };
        if let Some(text) = value(store, pod, &variable, &env)? {
            env.insert(name.to_owned(), text);
        }
    }
    let file = file(store, pod, container, env.get("REGISTRY_CONFIGURATION_PATH").map(String::as_str))?;
    Ok((env, file))
}

fn not_found(plural: &str, name: &str) -> String {
    format!("{} {name:?} not found", if plural == "secrets" { "secret" } else { "configmap" })
}

/// What a Secret or `ConfigMap` holds.
fn entries(plural: &str, object: &Value) -> BTreeMap<String, String> {
    let mut entries = BTreeMap::new();
    for field in ["data", "stringData"] {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            let decoded = if plural == "secrets" && field == "data" {
                STANDARD
                    .decode(text)
                    .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
                    .unwrap_or_default()
            } else {
                text.to_owned()
            };
            entries.insert(key.clone(), decoded);
        }
    }
    entries
}

/// The value of a variable; `None` if it is an optional one that is not there.
fn value(
    store: &Store,
    pod: &Value,
    variable: &Value,
    env: &BTreeMap<String, String>,
) -> Result<Option<String>, Unable> {
    let from = &variable["valueFrom"];
    for (field, plural) in [("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")] {
        let reference = &from[field];
        let (Some(name), Some(key)) = (reference["name"].as_str(), reference["key"].as_str()) else {
            continue;
        };
        let object = store.get(plural, NAMESPACE, name);
        let found = object.as_ref().and_then(|object| entries(plural, object).remove(key));
        return match (found, object) {
            (Some(text), _) => Ok(Some(text)),
            (None, _) if reference["optional"] == true => Ok(None),
            (None, None) => Err(Unable::Config(not_found(plural, name))),
            (None, Some(_)) => {
                let kind = if plural == "secrets" { "Secret" } else { "ConfigMap" };
                Err(Unable::Config(format!("couldn't find key {key} in {kind} {NAMESPACE}/{name}")))
            }
        };
    }
    if let Some(path) = from["fieldRef"]["fieldPath"].as_str() {
        let found = pod.pointer(&format!("/{}", path.replace('.', "/")));
        return Ok(Some(found.and_then(Value::as_str).unwrap_or_default().to_owned()));
    }
    Ok(Some(expanded(variable["value"].as_str().unwrap_or_default(), env)))
}

/// A value with its `$(NAME)`s replaced, where there is a variable of that name; `$$` is a `$`.
fn expanded(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            whole.push('$');
            rest = after;
            continue;
        }
        let named = after.strip_prefix('(').and_then(|named| named.split_once(')'));
        if let Some((value, after)) = named.and_then(|(name, after)| Some((env.get(name)?, after))) {
            whole.push_str(value);
            rest = after;
        } else {
            whole.push('$');
            rest = after;
        }
    }
    whole + rest
}

/// The registry's file, if it comes from a Secret or a `ConfigMap`: `None` for the one in the image.
fn file(store: &Store, pod: &Value, container: &Value, path: Option<&str>) -> Result<Option<String>, Unable> {
    let wanted = path.unwrap_or(CONFIG_FILE);
    let volumes = pod["spec"]["volumes"].as_array();
    for mount in container["volumeMounts"].as_array().into_iter().flatten() {
        let at = mount["mountPath"].as_str().unwrap_or_default().trim_end_matches('/');
        let inside = match wanted.strip_prefix(at) {
            Some("") => mount["subPath"].as_str().unwrap_or_default(),
            Some(rest) => rest.strip_prefix('/').unwrap_or_default(),
            None => continue,
        };
        let volume = volumes.into_iter().flatten().find(|volume| volume["name"] == mount["name"]);
        let (Some(volume), false) = (volume, inside.is_empty()) else { continue };
        for (field, name_field, plural) in
            [("secret", "secretName", "secrets"), ("configMap", "name", "configmaps")]
        {
            let source = &volume[field];
            let Some(name) = source[name_field].as_str() else { continue };
            let Some(object) = store.get(plural, NAMESPACE, name) else {
                return Err(Unable::Config(format!("MountVolume.SetUp failed: {}", not_found(plural, name))));
            };
            let items = source["items"].as_array();
            let key = items.map_or(Some(inside), |items| {
                items.iter().find(|item| item["path"] == inside).and_then(|item| item["key"].as_str())
            });
            if let Some(text) = key.and_then(|key| entries(plural, &object).remove(key)) {
                return Ok(Some(text));
            }
        }
    }
    match path.filter(|path| *path != CONFIG_FILE) {
        Some(path) => Err(Unable::Crash(format!("open {path}: no such file or directory"))),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_come_from_everywhere() {
        let store = Store::default();
        let object = |name: &str, data: Value| json!({ "metadata": { "namespace": NAMESPACE, "name": name }, "data": data });
        store.create("secrets", object("s", json!({ "k": STANDARD.encode("secret") })));
        store.create("configmaps", object("c", json!({ "k": "plain", "config.yml": "version: 0.1" })));
        let pod = |container: Value| {
            json!({
                "metadata": { "name": "p" },
                "spec": {
                    "containers": [container],
                    "volumes": [{ "name": "v", "configMap": { "name": "c" } }],
                },
            })
        };
        let whole = pod(json!({
            "envFrom": [{ "prefix": "C_", "configMapRef": { "name": "c" } }, { "secretRef": { "name": "none", "optional": true } }],
            "env": [
                { "name": "A", "value": "1" },
                { "name": "B", "value": "$(A)$(NONE)$$(A)" },
                { "name": "S", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } },
                { "name": "M", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } },
                { "name": "O", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "none", "optional": true } } },
                { "name": "N", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            ],
            "volumeMounts": [{ "name": "v", "mountPath": "/config.yml", "subPath": "config.yml" }],
        }));
        let (env, file) = environment(&store, &whole).unwrap();
        let env: Vec<String> = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let wanted =
            ["A=1", "B=1$(NONE)$(A)", "C_config.yml=version: 0.1", "C_k=plain", "M=plain", "N=p", "S=secret"];
        assert_eq!(env, wanted);
        assert_eq!(file.as_deref(), Some("version: 0.1"));

        let elsewhere = pod(json!({
            "env": [{ "name": "REGISTRY_CONFIGURATION_PATH", "value": "/etc/registry/config.yml" }],
            "volumeMounts": [{ "name": "v", "mountPath": "/etc/registry" }],
        }));
        assert_eq!(environment(&store, &elsewhere).unwrap().1.as_deref(), Some("version: 0.1"));
        for (container, wanted) in [
            (
                json!({ "env": [{ "name": "A", "valueFrom": { "secretKeyRef": { "name": "x", "key": "k" } } }] }),
                Unable::Config("secret \"x\" not found".to_owned()),
            ),
            (
                json!({ "env": [{ "name": "REGISTRY_CONFIGURATION_PATH", "value": "/nowhere" }] }),
                Unable::Crash("open /nowhere: no such file or directory".to_owned()),
            ),
        ] {
            assert_eq!(environment(&store, &pod(container)).unwrap_err(), wanted);
        }
    }
}
