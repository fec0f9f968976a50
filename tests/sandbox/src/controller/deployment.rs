//! The controllers of Deployments and `ReplicaSet`s, for the registry's.

use std::time::Duration;

use fastrand::Rng;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::{owned, owner, owner_reference, set_condition};
use crate::api::evict::{ready, scaled, terminating};
use crate::api::{Api, Store, metadata, now};
use crate::workload::{NAME, NAMESPACE};

const REVISION: &str = "deployment.kubernetes.io/revision";
const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MOST: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";

/// What is remembered of a rollout between two looks at it.
#[derive(Debug, Default)]
pub(super) struct Rollout {
    /// When it last got on.
    progressed: Option<Instant>,
    /// When it is overdue, if it is under way.
    pub(super) deadline: Option<Instant>,
}

/// A `ReplicaSet`.
#[derive(Clone, Debug)]
struct Set {
    name: String,
    template: String,
    revision: i64,
    /// `spec.replicas`, as this look leaves it.
    replicas: i64,
    /// `status.replicas`, `readyReplicas` and `availableReplicas`.
    there: i64,
    ready: i64,
    available: i64,
    desired: Option<i64>,
    most: Option<i64>,
}

impl Set {
    fn of(object: &Value) -> Self {
        let status = |field: &str| object["status"][field].as_i64().unwrap_or_default();
        let annotation = |key: &str| {
            object["metadata"]["annotations"][key].as_str().and_then(|text| text.parse::<i64>().ok())
        };
        Self {
            name: metadata(object, "name").to_owned(),
            template: canonical(&object["spec"]["template"]),
            revision: annotation(REVISION).unwrap_or_default(),
            replicas: object["spec"]["replicas"].as_i64().unwrap_or_default(),
            there: status("replicas"),
            ready: status("readyReplicas"),
            available: status("availableReplicas"),
            desired: annotation(DESIRED),
            most: annotation(MOST),
        }
    }
}

/// What a Deployment says about how it is rolled out.
struct Wish {
    replicas: i64,
    surge: i64,
    unavailable: i64,
    recreate: bool,
}

impl Wish {
    fn of(spec: &Value) -> Self {
        let replicas = spec["replicas"].as_i64().unwrap_or(1);
        let recreate = spec["strategy"]["type"] == "Recreate";
        let rolling = &spec["strategy"]["rollingUpdate"];
        let or_quarter = |value: &Value| if value.is_null() { json!("25%") } else { value.clone() };
        let surge = scaled(&or_quarter(&rolling["maxSurge"]), replicas).unwrap_or_default();
        // What may be missing is rounded down.
        let unavailable = match &or_quarter(&rolling["maxUnavailable"]) {
            Value::String(text) if text.ends_with('%') => {
                text.trim_end_matches('%').parse::<i64>().unwrap_or_default() * replicas / 100
            }
            value => scaled(value, replicas).unwrap_or_default(),
        };
        let unavailable = if surge == 0 && unavailable == 0 { 1 } else { unavailable.min(replicas) };
        if recreate {
            return Self { replicas, surge: 0, unavailable: 0, recreate };
        }
        Self { replicas, surge, unavailable, recreate }
    }

    fn most(&self) -> i64 {
        self.replicas + self.surge
    }
}

/// A template as text that is the same for templates that mean the same.
fn canonical(template: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(fields) => {
                let mut names: Vec<&String> = fields.keys().filter(|name| !fields[*name].is_null()).collect();
                names.sort_unstable();
                names
                    .into_iter()
                    .map(|name| (name.clone(), sorted(&fields[name])))
                    .collect::<Map<_, _>>()
                    .into()
            }
            Value::Array(elements) => elements.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    let mut template = sorted(template);
    for field in ["labels", "annotations"] {
        if let Some(entries) = template["metadata"][field].as_object_mut() {
            entries.shift_remove(HASH);
        }
        if template["metadata"][field].as_object().is_none_or(Map::is_empty)
            && let Some(fields) = template["metadata"].as_object_mut()
        {
            fields.shift_remove(field);
        }
    }
    template.to_string()
}

/// The hash of a template, in the letters of Kubernetes.
fn template_hash(canonical: &str) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    Sha256::digest(canonical)
        .iter()
        .take(10)
        .map(|byte| char::from(LETTERS[usize::from(*byte) % 27]))
        .collect()
}

impl Rollout {
    /// Looks at the Deployment and takes the next step.
    pub(super) fn sync(&mut self, store: &Store, now: Instant) {
        self.deadline = None;
        let Some(deployment) = store.get("deployments", NAMESPACE, NAME) else {
            self.progressed = None;
            return;
        };
        let uid = metadata(&deployment, "uid");
        let spec = &deployment["spec"];
        let wish = Wish::of(spec);
        let objects = owned(store.in_namespace("replicasets", NAMESPACE), uid);
        let mut sets: Vec<Set> = objects.iter().map(Set::of).collect();
        // The oldest come first.
        sets.sort_by_key(|set| set.revision);
        let template = canonical(&spec["template"]);
        let paused = spec["paused"] == true;
        let mut new = sets.iter().position(|set| set.template == template);
        let mut created = None;
        let scaling = sets.iter().any(|set| set.replicas > 0 && set.desired != Some(wish.replicas));

        if paused || scaling {
            scale(store, &wish, &mut sets, new);
        } else if wish.recreate && !gone(store, &mut sets, new) {
            // The new ones wait until the last old one is gone.
        } else {
            if new.is_none() {
                let newest = sets.last().map_or(0, |set| set.revision);
                let set = create_set(store, &deployment, &template, newest + 1, &wish);
                created = Some(set.name.clone());
                sets.push(set);
                new = Some(sets.len() - 1);
            }
            if let Some(index) = new {
                roll(store, &wish, &mut sets, index);
            }
        }
        let newest = sets.iter().map(|set| set.revision).max().unwrap_or_default();
        if let Some(set) = new.map(|index| &mut sets[index])
            && set.revision < newest
        {
            // Back to an earlier template: its set is the newest again.
            set.revision = newest + 1;
            let revision = set.revision.to_string();
            store.update("replicasets", NAMESPACE, &set.name, |object| {
                object["metadata"]["annotations"][REVISION] = revision.into();
            });
        }
        let new = new.map(|index| sets[index].clone());
        self.report(store, &deployment, &wish, &sets, new.as_ref(), created.as_deref(), now);
        clean_up(store, spec, &sets, new.as_ref());
    }

    /// Writes the Deployment's status.
    #[expect(clippy::too_many_arguments, reason = "all that a status is about")]
    fn report(
        &mut self,
        store: &Store,
        deployment: &Value,
        wish: &Wish,
        sets: &[Set],
        new: Option<&Set>,
        created: Option<&str>,
        now: Instant,
    ) {
        let old = &deployment["status"];
        let was = |field: &str| old[field].as_i64().unwrap_or_default();
        let sum = |count: fn(&Set) -> i64| sets.iter().map(count).sum::<i64>();
        let (there, ready, available) =
            (sum(|set| set.there), sum(|set| set.ready), sum(|set| set.available));
        let updated = new.map_or(0, |set| set.there);
        let mut conditions = old["conditions"].clone();
        if available >= wish.replicas - wish.unavailable {
            let message = "Deployment has minimum availability.";
            set_condition(&mut conditions, "Available", "True", "MinimumReplicasAvailable", message);
        } else {
            let message = "Deployment does not have minimum availability.";
            set_condition(&mut conditions, "Available", "False", "MinimumReplicasUnavailable", message);
        }

        let spec = &deployment["spec"];
        let deadline = spec["progressDeadlineSeconds"].as_u64().unwrap_or(600);
        let reason = |conditions: &Value| {
            let progressing = conditions
                .as_array()
                .into_iter()
                .flatten()
                .find(|condition| condition["type"] == "Progressing");
            progressing.map_or(String::new(), |condition| {
                condition["reason"].as_str().unwrap_or_default().to_owned()
            })
        };
        let before = reason(&conditions);
        let mut progressing = |status: &str, reason: &str, message: &str| {
            set_condition(&mut conditions, "Progressing", status, reason, message);
        };
        let named = format!("ReplicaSet {:?}", new.map_or("", |set| &set.name));
        let whole =
            updated == wish.replicas && there == wish.replicas && available == wish.replicas && new.is_some();
        let over = before == "NewReplicaSetAvailable" && created.is_none() && there == updated;
        let got_on = updated > was("updatedReplicas")
            || there - updated < was("replicas") - was("updatedReplicas")
            || ready > was("readyReplicas")
            || available > was("availableReplicas");
        let mut moved = false;
        if spec["paused"] == true {
            progressing("Unknown", "DeploymentPaused", "Deployment is paused");
        } else if let Some(created) = created {
            progressing("True", "NewReplicaSetCreated", &format!("Created new replica set {created:?}"));
            moved = true;
        } else if before == "DeploymentPaused" {
            progressing("Unknown", "DeploymentResumed", "Deployment is resumed");
            moved = true;
        } else if over {
            // A rollout that has ended stays ended, whatever becomes of its pods.
        } else if whole {
            progressing("True", "NewReplicaSetAvailable", &format!("{named} has successfully progressed."));
        } else if got_on || self.progressed.is_none() {
            progressing("True", "ReplicaSetUpdated", &format!("{named} is progressing."));
            moved = true;
        } else if before != "NewReplicaSetAvailable"
            && self.progressed.is_some_and(|since| since + Duration::from_secs(deadline) <= now)
        {
            progressing("False", "ProgressDeadlineExceeded", &format!("{named} has timed out progressing."));
        }
        if moved {
            self.progressed = Some(now);
        }
        let after = reason(&conditions);
        let ended = ["NewReplicaSetAvailable", "DeploymentPaused", "ProgressDeadlineExceeded"];
        if !ended.contains(&after.as_str()) {
            self.deadline = self.progressed.map(|since| since + Duration::from_secs(deadline));
        }
        stamp(&mut conditions, &old["conditions"]);

        let mut status = json!({
            "observedGeneration": deployment["metadata"]["generation"].as_i64().unwrap_or(1),
            "replicas": there,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": available,
            "unavailableReplicas": (sum(|set| set.replicas) - available).max(0),
            "conditions": conditions,
        });
        // What is zero is left out.
        if let Some(fields) = status.as_object_mut() {
            fields.retain(|_, value| value != &json!(0));
        }
        let revision = new.map(|set| set.revision.to_string());
        store.update("deployments", NAMESPACE, NAME, |deployment| {
            deployment["status"] = status;
            if let Some(revision) = revision {
                deployment["metadata"]["annotations"][REVISION] = revision.into();
            }
        });
    }
}

/// Gives conditions that changed a new time of their last update.
fn stamp(conditions: &mut Value, before: &Value) {
    for condition in conditions.as_array_mut().into_iter().flatten() {
        let earlier =
            before.as_array().into_iter().flatten().find(|earlier| earlier["type"] == condition["type"]);
        let same = earlier.filter(|earlier| {
            ["status", "reason", "message"].iter().all(|field| earlier[field] == condition[field])
        });
        condition["lastUpdateTime"] =
            same.map_or_else(|| now().into(), |earlier| earlier["lastUpdateTime"].clone());
    }
}

/// Gives a set another size, and the size of the whole for the next time that it has to be scaled.
fn resize(store: &Store, wish: &Wish, set: &mut Set, replicas: i64) {
    let replicas = replicas.max(0);
    set.replicas = replicas;
    let (desired, most) = (wish.replicas.to_string(), wish.most().to_string());
    store.update("replicasets", NAMESPACE, &set.name, |object| {
        if object["spec"]["replicas"] != replicas {
            object["spec"]["replicas"] = replicas.into();
            let generation = object["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = (generation + 1).into();
        }
        object["metadata"]["annotations"][DESIRED] = desired.into();
        object["metadata"]["annotations"][MOST] = most.into();
    });
}

/// Follows a change of the number of replicas without going on with a rollout.
fn scale(store: &Store, wish: &Wish, sets: &mut [Set], new: Option<usize>) {
    let active: Vec<usize> = (0..sets.len()).filter(|index| sets[*index].replicas > 0).collect();
    match active.as_slice() {
        [] => {
            if let Some(index) = new.or(sets.len().checked_sub(1)) {
                resize(store, wish, &mut sets[index], wish.replicas);
            }
        }
        [only] => resize(store, wish, &mut sets[*only], wish.replicas),
        several => {
            let saturated = new.is_some_and(|index| {
                let set = &sets[index];
                set.replicas == wish.replicas
                    && set.desired == Some(wish.replicas)
                    && set.available == wish.replicas
            });
            if saturated {
                for index in several.iter().filter(|index| Some(**index) != new) {
                    resize(store, wish, &mut sets[*index], 0);
                }
                return;
            }
            let total: i64 = several.iter().map(|index| sets[*index].replicas).sum();
            let most = if wish.replicas > 0 { wish.most() } else { 0 };
            let missing = most - total;
            let mut order = several.to_vec();
            // The largest first, and of those the newest when there is something to add.
            order.sort_by_key(|index| {
                let revision = sets[*index].revision;
                (-sets[*index].replicas, if missing > 0 { -revision } else { revision })
            });
            let mut sizes: Vec<i64> = order.iter().map(|index| sets[*index].replicas).collect();
            let mut added = 0;
            for (size, index) in sizes.iter_mut().zip(&order) {
                let set = &sets[*index];
                let share = if wish.replicas == 0 {
                    -set.replicas
                } else {
                    let before = set.most.unwrap_or(total).max(1);
                    (2 * set.replicas * most + before).div_euclid(2 * before) - set.replicas
                };
                let left = missing - added;
                let share = if missing > 0 { share.clamp(0, left) } else { share.clamp(left, 0) };
                *size += share;
                added += share;
            }
            if let Some(first) = sizes.first_mut() {
                *first += missing - added;
            }
            for (index, size) in order.into_iter().zip(sizes) {
                resize(store, wish, &mut sets[index], size);
            }
        }
    }
}

/// Takes all pods of the old sets away, and returns whether the last of them is gone.
fn gone(store: &Store, sets: &mut [Set], new: Option<usize>) -> bool {
    let wish = Wish { replicas: 0, surge: 0, unavailable: 0, recreate: true };
    let mut old_sets = Vec::new();
    for (_, set) in sets.iter_mut().enumerate().filter(|(index, _)| Some(*index) != new) {
        if set.replicas > 0 {
            resize(store, &wish, set, 0);
        }
        old_sets.push(set.name.clone());
    }
    let pods = store.in_namespace("pods", NAMESPACE);
    !pods.iter().filter_map(owner).any(|owner| old_sets.iter().any(|set| owner["name"] == set.as_str()))
}

/// Takes the next step from the old sets to the new one.
fn roll(store: &Store, wish: &Wish, sets: &mut [Set], new: usize) {
    let total: i64 = sets.iter().map(|set| set.replicas).sum();
    let size = sets[new].replicas;
    let grown = match size {
        size if size > wish.replicas => wish.replicas,
        size if wish.recreate => size.max(wish.replicas),
        size if total >= wish.most() => size,
        size => size + (wish.most() - total).min(wish.replicas - size),
    };
    if grown != size {
        return resize(store, wish, &mut sets[new], grown);
    }
    let least = wish.replicas - wish.unavailable;
    let unavailable = size - sets[new].available;
    let mut spare = total - least - unavailable;
    let mut cleaned = false;
    // Pods that serve nobody go first.
    for set in sets.iter_mut().enumerate().filter(|(index, _)| *index != new).map(|(_, set)| set) {
        let unhealthy = (set.replicas - set.available).min(spare);
        if set.replicas > 0 && unhealthy > 0 {
            let left = set.replicas - unhealthy;
            resize(store, wish, set, left);
            spare -= unhealthy;
            cleaned = true;
        }
    }
    if spare <= 0 && !cleaned {
        return;
    }
    let available: i64 = sets.iter().map(|set| set.available).sum();
    let mut spare = available - least;
    for set in sets.iter_mut().enumerate().filter(|(index, _)| *index != new).map(|(_, set)| set) {
        let doomed = set.replicas.min(spare);
        if doomed > 0 {
            let left = set.replicas - doomed;
            resize(store, wish, set, left);
            spare -= doomed;
        }
    }
}

/// Makes the set of a new template, without pods.
fn create_set(store: &Store, deployment: &Value, canonical: &str, revision: i64, wish: &Wish) -> Set {
    let hash = template_hash(canonical);
    let mut template = deployment["spec"]["template"].clone();
    template["metadata"]["labels"][HASH] = hash.as_str().into();
    let mut selector = deployment["spec"]["selector"].clone();
    selector["matchLabels"][HASH] = hash.as_str().into();
    let object = store.create(
        "replicasets",
        json!({
            "metadata": {
                "namespace": NAMESPACE,
                "name": format!("{NAME}-{hash}"),
                "generation": 1,
                "labels": template["metadata"]["labels"],
                "annotations": {
                    REVISION: revision.to_string(),
                    DESIRED: wish.replicas.to_string(),
                    MOST: wish.most().to_string(),
                },
                "ownerReferences": owner_reference("Deployment", deployment),
            },
            "spec": { "replicas": 0, "selector": selector, "template": template },
            "status": { "replicas": 0 },
        }),
    );
    Set::of(&object)
}

/// Removes the oldest sets without pods.
fn clean_up(store: &Store, spec: &Value, sets: &[Set], new: Option<&Set>) {
    let limit =
        spec["revisionHistoryLimit"].as_u64().and_then(|limit| usize::try_from(limit).ok()).unwrap_or(10);
    let old: Vec<&Set> = sets.iter().filter(|set| new.is_none_or(|new| new.name != set.name)).collect();
    let doomed = old.len().saturating_sub(limit);
    for set in old.into_iter().filter(|set| set.replicas == 0 && set.there == 0).take(doomed) {
        store.delete("replicasets", NAMESPACE, &set.name);
    }
}

/// Gives each `ReplicaSet` as many pods as it wants, and takes away what belongs to nobody.
pub(super) fn sync_replica_sets(api: &Api, random: &mut Rng) {
    let store = api.store();
    let deployment = store.get("deployments", NAMESPACE, NAME);
    let mut sets = Vec::new();
    for set in store.in_namespace("replicasets", NAMESPACE) {
        let Some(owner) = owner(&set).filter(|owner| owner["kind"] == "Deployment") else { continue };
        if deployment.as_ref().is_some_and(|deployment| deployment["metadata"]["uid"] == owner["uid"]) {
            sets.push(set);
        } else {
            store.delete("replicasets", NAMESPACE, metadata(&set, "name"));
        }
    }
    for pod in store.in_namespace("pods", NAMESPACE) {
        let Some(owner) = owner(&pod).filter(|owner| owner["kind"] == "ReplicaSet") else { continue };
        if !sets.iter().any(|set| set["metadata"]["uid"] == owner["uid"]) && !terminating(&pod) {
            api.delete_pod_gracefully(NAMESPACE, metadata(&pod, "name"));
        }
    }
    for set in &sets {
        sync_replica_set(api, set, random);
    }
}

fn sync_replica_set(api: &Api, set: &Value, random: &mut Rng) {
    let store = api.store();
    let (name, uid) = (metadata(set, "name"), metadata(set, "uid"));
    let pods = owned(store.in_namespace("pods", NAMESPACE), uid);
    let over = |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    let mut active: Vec<&Value> = pods.iter().filter(|pod| !terminating(pod) && !over(pod)).collect();
    let wanted =
        set["spec"]["replicas"].as_u64().and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
    for _ in active.len()..wanted {
        let template = &set["spec"]["template"];
        let mut pod = json!({
            "metadata": {
                "namespace": NAMESPACE,
                "generateName": format!("{name}-"),
                "labels": template["metadata"]["labels"],
                "ownerReferences": owner_reference("ReplicaSet", set),
            },
            "spec": template["spec"],
            "status": { "phase": "Pending" },
        });
        if template["metadata"]["annotations"].is_object() {
            pod["metadata"]["annotations"] = template["metadata"]["annotations"].clone();
        }
        store.create("pods", pod);
    }
    if active.len() > wanted {
        random.shuffle(&mut active);
        // Those that serve least go first.
        active.sort_by_key(|pod| {
            (pod["spec"]["nodeName"].is_string(), pod["status"]["phase"] == "Running", ready(pod))
        });
        for pod in &active[..active.len() - wanted] {
            api.delete_pod_gracefully(NAMESPACE, metadata(pod, "name"));
        }
    }
    // What has just been made and deleted counts.
    let pods = owned(store.in_namespace("pods", NAMESPACE), uid);
    let active: Vec<&Value> = pods.iter().filter(|pod| !terminating(pod) && !over(pod)).collect();
    let ready = active.iter().filter(|pod| ready(pod)).count();
    let status = json!({
        "replicas": active.len(),
        "fullyLabeledReplicas": active.len(),
        "readyReplicas": ready,
        "availableReplicas": ready,
        "terminatingReplicas": pods.iter().filter(|pod| terminating(pod)).count(),
        "observedGeneration": set["metadata"]["generation"].as_i64().unwrap_or(1),
    });
    store.update("replicasets", NAMESPACE, name, |set| set["status"] = status);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_that_mean_the_same_have_one_hash() {
        let one = json!({ "metadata": { "labels": { "a": "1", HASH: "x" }, "annotations": {} }, "spec": { "b": 1, "c": null } });
        let two = json!({ "spec": { "b": 1 }, "metadata": { "labels": { "a": "1" } } });
        assert_eq!(canonical(&one), canonical(&two));
        let other = json!({ "spec": { "b": 1 }, "metadata": { "labels": { "a": "1" }, "annotations": { "r": "now" } } });
        assert_ne!(template_hash(&canonical(&other)), template_hash(&canonical(&two)));
    }

    #[test]
    fn what_a_rollout_may_add_is_rounded_up_and_what_may_be_missing_down() {
        let wish = |replicas: i64, rolling: Value| {
            let wish = Wish::of(&json!({ "replicas": replicas, "strategy": { "rollingUpdate": rolling } }));
            (wish.surge, wish.unavailable)
        };
        assert_eq!(wish(3, Value::Null), (1, 0));
        assert_eq!(wish(5, json!({ "maxSurge": "25%", "maxUnavailable": "50%" })), (2, 2));
        assert_eq!(wish(1, json!({ "maxSurge": 0, "maxUnavailable": 0 })), (0, 1));
        assert_eq!(wish(2, json!({ "maxSurge": 1, "maxUnavailable": 5 })), (1, 2));
    }
}
