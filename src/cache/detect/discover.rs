//! Finds the registry's pods and configuration, as far as the present rights reach, and asks which rights these are.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use futures::future::{join, join_all};
use http::Method;
use secrecy::SecretString;

use crate::cache::redis::RedisAddress;
use crate::cluster::{ApiError, ApiRequest, Cluster, Retry};
use crate::text::{self, sanitize};

use super::caches::{CacheConfig, Password, Redis, Setting, cache_of};
use super::environment::{Declared, Objects, Origin, Source};
use super::objects::{self, Operator, Pod, Reading, Workload, WorkloadKind};
use super::rights::{Need, OPERATOR_GROUP, Right, Rights, Rule, Verdict, verdict};

/// What selects the registry's pods where no workload says otherwise.
const LABELS: &str = "docker-registry=default";

/// The registry of clusters before the operator.
const OLD: (&str, &str) = ("default", "docker-registry");

/// Where the registry runs. Both names are parts of paths: they must be valid as such.
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

    /// The name that a replica's certificate has to be for, where the registry is known by this host: a route's host is
    /// none that a replica has a certificate for, a longer name of the service may be.
    #[must_use]
    pub fn certificate_name(&self, host: &str) -> String {
        let service = self.service_name();
        let is_longer =
            host.strip_prefix(&service).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        if is_longer { host.to_owned() } else { service }
    }

    /// The flags to repeat a command with, each with a blank in front: what is not where it is by default.
    #[must_use]
    pub fn flags(&self) -> String {
        let default = Self::default();
        let other = |own: &String, default: String| (*own != default).then(|| own.clone());
        text::flags([
            ("--registry-namespace", other(&self.namespace, default.namespace)),
            ("--registry-deployment", other(&self.deployment, default.deployment)),
        ])
    }
}

/// How the workload, or one of its pods, is configured.
#[derive(Debug, Clone)]
pub struct Configuration {
    /// The pod; absent for the workload's template, which new pods are made from.
    pub pod: Option<String>,
    /// What it makes of the caches.
    pub caches: CacheConfig,
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
    /// The operator's configuration; [`Reading::Absent`] if the cluster has no such operator.
    pub operator: Reading<Operator>,
    /// The template's configuration, if that could be read, then those of the pods.
    pub configurations: Vec<Configuration>,
    /// The Secrets and `ConfigMap`s that were needed for that, and whether they could be read.
    pub sources: Vec<(Source, Reading<()>)>,
}

impl Discovery {
    /// Which caches it has: the worst of what the workload's template and the pods, which may be of an earlier one,
    /// have. `None` if neither is known.
    #[must_use]
    pub fn caches(&self) -> Option<CacheConfig> {
        let mut all = self.configurations.iter().map(|configuration| &configuration.caches);
        let first = all.next()?.clone();
        Some(all.fold(first, CacheConfig::or_worse))
    }

    /// Whether there surely is no registry here: neither a workload nor a pod.
    #[must_use]
    pub fn is_absent(&self) -> bool {
        matches!((&self.workload, &self.pods), (Reading::Absent, Reading::Absent))
    }

    /// How to reach the Redis that the replicas share; `None` if there is none, or something needed for it is not
    /// known: see [`Discovery::redis_unknowns`].
    #[must_use]
    pub fn redis_address(&self) -> Option<RedisAddress> {
        self.redis(None).ok().flatten()
    }

    /// The same with a password that is known otherwise, so that the configured one need not be.
    #[must_use]
    pub fn redis_address_with(&self, password: &SecretString) -> Option<RedisAddress> {
        self.redis(Some(password)).ok().flatten()
    }

    /// What is not known of a Redis that is there or may be there; empty if all is known, or there surely is none.
    #[must_use]
    pub fn redis_unknowns(&self) -> Vec<String> {
        self.redis(None).err().unwrap_or_default()
    }

    fn redis(&self, password: Option<&SecretString>) -> Result<Option<RedisAddress>, Vec<String>> {
        use super::caches::DescriptorCache;
        let Some(caches) = self.caches() else { return Err(self.why_unknown()) };
        match caches.descriptor_cache {
            DescriptorCache::Unknown(source) => {
                return Err(vec![format!(
                    "whether there is a Redis stands in {source}, which cannot be read"
                )]);
            }
            DescriptorCache::Redis(_) => {}
            DescriptorCache::InMemory | DescriptorCache::Absent | DescriptorCache::DoesNotStart(_) => {
                return Ok(None);
            }
        }
        // The template comes first: its password is the newest one.
        let all = self.configurations.iter().filter_map(|configuration| configuration.caches.redis());
        let mut all = all.cloned().map(|redis| match password {
            Some(password) => Redis { password: Setting::Is(Password(password.clone())), ..redis },
            None => redis,
        });
        let Some(first) = all.next() else { return Ok(None) };
        let address = first.address()?;
        for other in all {
            // Two passwords for the same place are an old and a new one.
            if other.address()?.to_string() != address.to_string() {
                return Err(vec!["pods of different configurations use different ones".to_owned()]);
            }
        }
        Ok(Some(address))
    }

    fn why_unknown(&self) -> Vec<String> {
        match (&self.workload, &self.pods) {
            (Reading::Unreadable { why, .. }, _) | (_, Reading::Unreadable { why, .. }) => vec![why.clone()],
            _ => Vec::new(),
        }
    }

    /// The rights that would show the Secrets and `ConfigMap`s that are hidden now.
    #[must_use]
    pub fn missing_source_rules(&self) -> Vec<&Rule> {
        self.sources.iter().filter_map(|(_, reading)| reading.missing_rule()).collect()
    }

    /// The rights that would show what is hidden now, each once.
    #[must_use]
    pub fn missing_rules(&self) -> Vec<Rule> {
        let sources = self.sources.iter().filter_map(|(_, reading)| reading.missing_rule());
        let rules: BTreeSet<&Rule> =
            [self.workload.missing_rule(), self.pods.missing_rule(), self.operator.missing_rule()]
                .into_iter()
                .flatten()
                .chain(sources)
                .collect();
        rules.into_iter().cloned().collect()
    }
}

/// Looks for the registry. What cannot be read is part of the result.
pub async fn discover(cluster: &Cluster, place: &Place) -> Discovery {
    let (found, operator) = join(workload(cluster, place), operator(cluster)).await;
    let (place, workload) = found;
    let selector = selector_of(&workload);
    let pods = match declared_pods(cluster, &place, &selector).await {
        Reading::Is(pods) if pods.is_empty() => Reading::Absent,
        reading => reading,
    };
    let template = workload.get().map(|workload| (None, &workload.declared));
    let of_pods = pods.get().into_iter().flatten().map(|(pod, declared)| (Some(pod.name.clone()), declared));
    let declared: Vec<(Option<String>, &Declared)> = template.into_iter().chain(of_pods).collect();
    let sources: BTreeSet<Source> = declared.iter().flat_map(|(_, declared)| declared.sources()).collect();
    let objects: Objects = join_all(sources.into_iter().map(|source| async {
        let reading = object(cluster, &source).await;
        (source, reading)
    }))
    .await
    .into_iter()
    .collect();
    let configurations = declared
        .into_iter()
        .map(|(pod, declared)| Configuration { pod, caches: cache_of(&declared.resolve(&objects)) })
        .collect();
    let pods = match pods {
        Reading::Is(pods) => Reading::Is(pods.into_iter().map(|(pod, _)| pod).collect()),
        Reading::Absent => Reading::Absent,
        Reading::Unreadable { why, rule } => Reading::Unreadable { why, rule },
    };
    let sources = objects.into_iter().map(|(source, reading)| (source, without_value(reading))).collect();
    Discovery { place, workload, pods, selector, operator, configurations, sources }
}

/// Where the registry is, and what selects its pods: all that it takes to list them with [`pods`].
pub(crate) async fn whereabouts(cluster: &Cluster, place: &Place) -> (Place, String) {
    let (place, workload) = workload(cluster, place).await;
    let selector = selector_of(&workload);
    (place, selector)
}

fn selector_of(workload: &Reading<Workload>) -> String {
    match workload {
        Reading::Is(Workload { selector, .. }) if !selector.is_empty() => selector.clone(),
        _ => LABELS.to_owned(),
    }
}

fn without_value<T>(reading: Reading<T>) -> Reading<()> {
    match reading {
        Reading::Is(_) => Reading::Is(()),
        Reading::Absent => Reading::Absent,
        Reading::Unreadable { why, rule } => Reading::Unreadable { why, rule },
    }
}

/// The workload, and where it is: the `DeploymentConfig` of old clusters is looked for, too.
async fn workload(cluster: &Cluster, place: &Place) -> (Place, Reading<Workload>) {
    let Place { namespace, deployment } = place;
    let found = read(
        cluster,
        &format!("/apis/apps/v1/namespaces/{namespace}/deployments/{deployment}"),
        Need::read_workload(WorkloadKind::Deployment, place).rule,
        objects::deployment,
    )
    .await;
    if !matches!(found, Reading::Absent) {
        return (place.clone(), found);
    }
    let mut candidates = vec![place.clone()];
    if *place == Place::default() {
        candidates.push(Place { namespace: OLD.0.to_owned(), deployment: OLD.1.to_owned() });
    }
    for candidate in candidates {
        let Place { namespace, deployment } = &candidate;
        let found = read(
            cluster,
            &format!("/apis/apps.openshift.io/v1/namespaces/{namespace}/deploymentconfigs/{deployment}"),
            Need::read_workload(WorkloadKind::DeploymentConfig, &candidate).rule,
            objects::deployment_config,
        )
        .await;
        if matches!(found, Reading::Is(_)) {
            return (candidate, found);
        }
    }
    (place.clone(), found)
}

async fn operator(cluster: &Cluster) -> Reading<Operator> {
    let path = format!("/apis/{OPERATOR_GROUP}/v1/configs/cluster");
    read(cluster, &path, Need::read_operator().rule, objects::operator).await
}

/// Reads a Secret or a `ConfigMap`.
async fn object(cluster: &Cluster, source: &Source) -> Reading<BTreeMap<String, SecretString>> {
    let (Some(resource), Some(rule)) = (source.resource(), source.rule()) else {
        return Reading::Unreadable { why: "only the pod itself knows it".to_owned(), rule: None };
    };
    let decode = if source.origin == Origin::Secret { objects::secret } else { objects::config_map };
    let path = format!("/api/v1/namespaces/{}/{resource}/{}", source.namespace, source.name);
    match read(cluster, &path, rule, decode).await {
        // What the decoder says may repeat what it read.
        Reading::Unreadable { rule: None, why } if why.starts_with(UNDECODABLE) => {
            Reading::Unreadable { why: UNDECODABLE.to_owned(), rule: None }
        }
        reading => reading,
    }
}

/// Lists the registry's pods. Never from a cache of the server: a pod that has an address must not be missed.
pub(crate) async fn pods(cluster: &Cluster, place: &Place, selector: &str) -> Reading<Vec<Pod>> {
    match declared_pods(cluster, place, selector).await {
        Reading::Is(pods) => Reading::Is(pods.into_iter().map(|(pod, _)| pod).collect()),
        Reading::Absent => Reading::Absent,
        Reading::Unreadable { why, rule } => Reading::Unreadable { why, rule },
    }
}

async fn declared_pods(cluster: &Cluster, place: &Place, selector: &str) -> Reading<Vec<(Pod, Declared)>> {
    let selector: String = url::form_urlencoded::byte_serialize(selector.as_bytes()).collect();
    let path = format!("/api/v1/namespaces/{}/pods?labelSelector={selector}", place.namespace);
    read(cluster, &path, Need::list_pods(place).rule, objects::pods).await
}

const UNDECODABLE: &str = "the answer cannot be decoded";

async fn read<T>(
    cluster: &Cluster,
    path: &str,
    rule: Rule,
    decode: impl FnOnce(&[u8]) -> Result<T, serde_json::Error>,
) -> Reading<T> {
    match cluster.request(ApiRequest::get(path)).await {
        Ok(answer) => match decode(&answer.body) {
            Ok(value) => Reading::Is(value),
            Err(error) => Reading::Unreadable {
                why: format!("{UNDECODABLE}: {}", sanitize(&error.to_string())),
                rule: None,
            },
        },
        Err(ApiError::NotFound { .. }) => Reading::Absent,
        Err(error) => {
            let rule = matches!(error, ApiError::Forbidden { .. }).then_some(rule);
            Reading::Unreadable { why: error.to_string(), rule }
        }
    }
}

/// The rights that the cache step may need.
fn questions(found: &Discovery) -> Vec<Need> {
    let Discovery { place, workload, sources, .. } = found;
    let kind = workload.get().map_or(WorkloadKind::Deployment, |workload| workload.kind);
    let [see_forward, forward] = Need::forward(place);
    let mut questions = vec![Need::list_pods(place), Need::read_workload(kind, place)];
    questions.extend(sources.iter().filter_map(|(source, _)| Need::read_source(source)));
    questions.extend([
        Need::delete_images(),
        Need::check(),
        see_forward,
        forward,
        Need::list_routes(place),
        Need::read_authority(place),
        Need::read_services(place),
        Need::annotate(kind, place),
        Need::read_operator(),
        Need::configure(),
        Need::evict_pods(place),
        Need::delete_pods(place),
    ]);
    questions
}

/// Asks the API server what the present user may do of what the cache step may need: all at once.
pub async fn rights(cluster: &Cluster, found: &Discovery) -> Rights {
    let asked = questions(found).into_iter().map(|Need { rule, purpose }| async move {
        let verdict = ask(cluster, &rule).await;
        Right { rule, purpose, verdict }
    });
    Rights(join_all(asked).await)
}

/// Asks the API server whether the present user has a right.
pub(crate) async fn ask(cluster: &Cluster, rule: &Rule) -> Verdict {
    review(cluster, "selfsubjectaccessreviews", &rule.review()).await
}

/// Asks the API server whether a service account has a right; needs `create` of `subjectaccessreviews`.
pub(crate) async fn ask_of_account(
    cluster: &Cluster,
    rule: &Rule,
    namespace: &str,
    account: &str,
) -> Verdict {
    review(cluster, "subjectaccessreviews", &rule.review_of_account(namespace, account)).await
}

async fn review(cluster: &Cluster, resource: &str, review: &serde_json::Value) -> Verdict {
    let request = ApiRequest {
        body: Some(Bytes::from(review.to_string())),
        // A question leaves nothing behind.
        retry: Retry::Idempotent,
        ..ApiRequest::new(Method::POST, format!("/apis/authorization.k8s.io/v1/{resource}"))
    };
    match cluster.request(request).await {
        Ok(answer) => {
            verdict(&answer.body).unwrap_or_else(|error| Verdict::NotKnown(sanitize(&error.to_string())))
        }
        Err(error) => Verdict::NotKnown(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_longer_name_of_the_service_stands_for_it() {
        let place = Place::default();
        let service = place.service_name();
        for (host, name) in [
            (service.clone(), service.clone()),
            (format!("{service}.cluster.local"), format!("{service}.cluster.local")),
            (format!("{service}-x.example.com"), service.clone()),
            (format!("{service}x"), service.clone()),
            ("registry.example.com".to_owned(), service.clone()),
        ] {
            assert_eq!(place.certificate_name(&host), name, "{host}");
        }
    }
}
