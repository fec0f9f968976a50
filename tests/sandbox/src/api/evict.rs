//! Evictions of pods, and the budgets that hold them back.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::resource::Resource;
use super::status::Failure;
use super::store::{Preconditions, Store, metadata};
use super::{Api, Call, answered};
use crate::lock;
use crate::serve::Body;

/// A number, or a percentage of another one: those are rounded up.
pub(crate) fn scaled(value: &Value, whole: i64) -> Option<i64> {
    if let Some(number) = value.as_i64() {
        return Some(number);
    }
    let text = value.as_str()?;
    match text.strip_suffix('%') {
        Some(percent) => {
            let hundredths = percent.parse::<i64>().ok()? * whole;
            Some(hundredths.div_euclid(100) + i64::from(hundredths.rem_euclid(100) > 0))
        }
        None => text.parse().ok(),
    }
}

/// Whether a selector (`matchLabels` alone) selects an object.
pub(crate) fn selects(selector: &Value, object: &Value) -> bool {
    let labels = selector["matchLabels"].as_object();
    labels.is_some_and(|labels| {
        !labels.is_empty() && labels.iter().all(|(key, value)| &object["metadata"]["labels"][key] == value)
    })
}

/// Whether a pod is ready.
pub(crate) fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.is_some_and(|conditions| {
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    })
}

/// Whether a pod is on its way out.
pub(crate) fn terminating(pod: &Value) -> bool {
    !metadata(pod, "deletionTimestamp").is_empty()
}

/// The status of a budget, from the pods and the Deployments that there are.
pub(crate) fn budget_status(store: &Store, budget: &Value) -> Value {
    let namespace = metadata(budget, "namespace");
    let selector = &budget["spec"]["selector"];
    let pods: Vec<Value> =
        store.in_namespace("pods", namespace).into_iter().filter(|pod| selects(selector, pod)).collect();
    let owners = store.in_namespace("deployments", namespace);
    let owners = owners.iter().filter(|owner| selects(selector, &owner["spec"]["template"]));
    let scales: Vec<i64> = owners.map(|owner| owner["spec"]["replicas"].as_i64().unwrap_or(1)).collect();
    let counted = i64::try_from(pods.len()).unwrap_or(i64::MAX);
    let expected = if scales.is_empty() { counted } else { scales.iter().sum() };
    let healthy = pods.iter().filter(|pod| ready(pod) && !terminating(pod)).count();
    let healthy = i64::try_from(healthy).unwrap_or(i64::MAX);
    let spec = &budget["spec"];
    let wanted = match scaled(&spec["maxUnavailable"], expected) {
        Some(unavailable) => (expected - unavailable).max(0),
        None => scaled(&spec["minAvailable"], expected).unwrap_or(1),
    };
    let allowed = if expected > 0 { (healthy - wanted).max(0) } else { 0 };
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    json!({
        "conditions": [{ "type": "DisruptionAllowed", "status": status, "reason": reason, "message": "" }],
        "currentHealthy": healthy,
        "desiredHealthy": wanted,
        "disruptionsAllowed": allowed,
        "expectedPods": expected,
        "observedGeneration": budget["metadata"]["generation"].as_i64().unwrap_or(1),
    })
}

impl Api {
    /// Answers `POST …/pods/<name>/eviction`.
    pub(super) fn evict(&self, call: &Call<'_>) -> Result<Response<Body>, Failure> {
        let pods = Resource::find("", "pods").ok_or_else(Failure::no_such_resource)?;
        let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
        let eviction = if call.body.is_empty() { json!({}) } else { call.object("Eviction")? };
        let named = metadata(&eviction, "name");
        if !named.is_empty() && named != name {
            return Err(Failure::bad_request("name in URL does not match name in Eviction object"));
        }
        let pod =
            self.store.find(pods, namespace, name).ok_or_else(|| Failure::not_found(pods, name))?.value();
        let options = &eviction["deleteOptions"];
        let conditions = Preconditions { dry_run: call.dry_run(), ..Preconditions::of(options) };
        // Two evictions at once must not both find the budget untouched.
        let _one_at_a_time = lock(&self.evicting);
        // A pod that serves nobody needs no budget.
        let idle = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending"));
        if !idle && !terminating(&pod) {
            conditions.check(pods, name, &pod)?;
            self.within_budget(&pod)?;
        }
        self.delete_pod(namespace, name, options, &conditions)?;
        let done = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
        });
        Ok(answered(StatusCode::CREATED, &done))
    }

    /// Fails if a budget does not allow for one pod less.
    fn within_budget(&self, pod: &Value) -> Result<(), Failure> {
        let mut settings = lock(&self.settings);
        if settings.refuse_evictions > 0 {
            settings.refuse_evictions = settings.refuse_evictions.saturating_sub(1);
            return Err(Failure::disruption("image-registry", 1, 1));
        }
        drop(settings);
        let budgets = self.store.in_namespace("poddisruptionbudgets", metadata(pod, "namespace"));
        let mut own = budgets.iter().filter(|budget| selects(&budget["spec"]["selector"], pod));
        let Some(budget) = own.next() else { return Ok(()) };
        if own.next().is_some() {
            return Err(Failure::several_budgets());
        }
        let status = budget_status(&self.store, budget);
        let number = |field: &str| status[field].as_i64().unwrap_or_default();
        if !ready(pod) {
            let policy = budget["spec"]["unhealthyPodEvictionPolicy"].as_str();
            let healthy =
                number("currentHealthy") >= number("desiredHealthy") && number("desiredHealthy") > 0;
            if policy == Some("AlwaysAllow") || healthy {
                return Ok(());
            }
        }
        if number("disruptionsAllowed") > 0 {
            return Ok(());
        }
        Err(Failure::disruption(metadata(budget, "name"), number("desiredHealthy"), number("currentHealthy")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_rounded_up() {
        for (value, whole, wanted) in [
            (json!(2), 10, Some(2)),
            (json!("50%"), 3, Some(2)),
            (json!("25%"), 4, Some(1)),
            (json!("0%"), 4, Some(0)),
            (json!("1"), 4, Some(1)),
            (json!("x"), 4, None),
            (Value::Null, 4, None),
        ] {
            assert_eq!(scaled(&value, whole), wanted, "{value} of {whole}");
        }
    }
}
