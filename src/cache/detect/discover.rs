//! Finds the registry's pods and configuration, as far as the present rights reach.

use crate::cluster::{ApiError, ApiRequest, Cluster};
use crate::text::sanitize;

use super::caches::{CacheConfig, cache_of};
use super::objects::{self, Pod, Rule, Workload};

/// What selects the registry's pods where no workload says otherwise.
const LABELS: &str = "docker-registry=default";

/// The registry of clusters before the operator.
const OLD: (&str, &str) = ("default", "docker-registry");

/// Where the registry runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The namespace.
    pub namespace: String,
    /// The Deployment, or the `DeploymentConfig` of old clusters. Its service has the same name.
    pub deployment: String,
}

impl Default for Place {
    fn default() -> Self {
        Self { namespace: "openshift-image-registry".to_owned(), deployment: "image-registry".to_owned() }
    }
}

impl Place {
    /// The name that the certificate of each replica is for: that of the service.
    #[must_use]
    pub fn service_name(&self) -> String {
        format!("{}.{}.svc", self.deployment, self.namespace)
    }
}

/// What was asked of the API server, or why it is not known.
#[derive(Debug, Clone)]
pub enum Reading<T> {
    /// It is there.
    Is(T),
    /// It is not there.
    Absent,
    /// It could not be read: count with it.
    Unreadable {
        /// What the server said.
        why: String,
        /// The right that would allow it, if a right is missing.
        rule: Option<Rule>,
    },
}

/// The registry as the API server shows it.
#[derive(Debug, Clone)]
pub struct Discovery {
    /// Where it was found.
    pub place: Place,
    /// The Deployment or `DeploymentConfig`.
    pub workload: Reading<Workload>,
    /// The pods that serve, may serve or served; [`Reading::Absent`] if there is none.
    pub pods: Reading<Vec<Pod>>,
    /// What selects the pods.
    pub selector: String,
}

impl Discovery {
    /// Which caches it has; `None` if the workload is not known.
    #[must_use]
    pub fn caches(&self) -> Option<CacheConfig> {
        match &self.workload {
            Reading::Is(workload) => Some(cache_of(&workload.environment)),
            Reading::Absent | Reading::Unreadable { .. } => None,
        }
    }

    /// The rights that would show what is hidden now, each once.
    #[must_use]
    pub fn missing_rules(&self) -> Vec<Rule> {
        let mut rules = Vec::new();
        match &self.workload {
            Reading::Unreadable { rule, .. } => rules.extend(rule.clone()),
            Reading::Is(workload) => {
                let environment = &workload.environment;
                let elsewhere = environment.variables.iter().filter_map(|(name, value)| match value {
                    objects::Value::Elsewhere(source) if matters(name) => Some(source),
                    _ => None,
                });
                let bulk = environment.bulk.iter().map(|(_, source)| source);
                let sources = elsewhere.chain(bulk).chain(&environment.file);
                rules.extend(sources.filter_map(objects::Source::rule));
            }
            Reading::Absent => {}
        }
        if let Reading::Unreadable { rule, .. } = &self.pods {
            rules.extend(rule.clone());
        }
        rules.sort();
        rules.dedup();
        rules
    }
}

/// Whether a variable says something about caches. The others may be as secret as they like.
fn matters(name: &str) -> bool {
    ["REGISTRY_STORAGE_CACHE", "REGISTRY_OPENSHIFT_CACHE", "REGISTRY_REDIS"]
        .iter()
        .any(|prefix| name.starts_with(prefix))
}

/// Looks for the registry. What cannot be read is part of the result.
pub async fn discover(cluster: &Cluster, place: &Place) -> Discovery {
    let mut place = place.clone();
    let mut workload = read(
        cluster,
        &format!("/apis/apps/v1/namespaces/{}/deployments/{}", place.namespace, place.deployment),
        rule("get", "apps", "deployments", &place),
        objects::deployment,
    )
    .await;
    if matches!(workload, Reading::Absent) {
        let mut candidates = vec![place.clone()];
        if place == Place::default() {
            candidates.push(Place { namespace: OLD.0.to_owned(), deployment: OLD.1.to_owned() });
        }
        for candidate in candidates {
            let Place { namespace, deployment } = &candidate;
            let found = read(
                cluster,
                &format!("/apis/apps.openshift.io/v1/namespaces/{namespace}/deploymentconfigs/{deployment}"),
                rule("get", "apps.openshift.io", "deploymentconfigs", &candidate),
                objects::deployment_config,
            )
            .await;
            if matches!(found, Reading::Is(_)) {
                place = candidate;
                workload = found;
                break;
            }
        }
    }
    let selector = match &workload {
        Reading::Is(Workload { selector, .. }) if !selector.is_empty() => selector.clone(),
        _ => LABELS.to_owned(),
    };
    let pods = match pods(cluster, &place, &selector).await {
        Reading::Is(pods) if pods.is_empty() => Reading::Absent,
        reading => reading,
    };
    Discovery { place, workload, pods, selector }
}

/// Lists the registry's pods. Never from a cache of the server: a pod that has an address must not be missed.
pub(in crate::cache) async fn pods(cluster: &Cluster, place: &Place, selector: &str) -> Reading<Vec<Pod>> {
    let selector: String = url::form_urlencoded::byte_serialize(selector.as_bytes()).collect();
    let path = format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", place.namespace);
    let rule = Rule { name: None, ..rule("list", "", "pods", place) };
    read(cluster, &path, rule, objects::pods).await
}

fn rule(verb: &'static str, group: &'static str, resource: &'static str, place: &Place) -> Rule {
    let Place { namespace, deployment } = place;
    Rule { verb, group, resource, namespace: namespace.clone(), name: Some(deployment.clone()) }
}

async fn read<T>(
    cluster: &Cluster,
    path: &str,
    rule: Rule,
    decode: impl FnOnce(&[u8]) -> Result<T, serde_json::Error>,
) -> Reading<T> {
    match cluster.request(ApiRequest::get(path)).await {
        Ok(answer) => match decode(&answer.body) {
            Ok(value) => Reading::Is(value),
            Err(error) => Reading::Unreadable { why: sanitize(&error.to_string()), rule: None },
        },
        Err(ApiError::NotFound { .. }) => Reading::Absent,
        Err(error) => {
            let rule = matches!(error, ApiError::Forbidden { .. }).then_some(rule);
            Reading::Unreadable { why: error.to_string(), rule }
        }
    }
}
