//! The subcommand `cache status`: which caches the registry has, how its replicas can be reached, and what the present
//! user may do. Reads and asks ([`find`], I/O), puts it into a document (pure), writes that for people (pure).

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::super::check::Extent;
use super::super::choose;
use super::super::detect::{
    self, CacheConfig, Configured, ConfiguredSetting, DescriptorCache, DigestCache, Discovery, Operator,
    Origin, Place, Pod, Reading, Redis, Rule, Setting, Strategy, Verdict, WorkloadKind,
};
use super::super::foresee::{Foreseen, Way, foresee};
use super::super::outcome::CachePlan;
use super::super::redis::{RedisOptions, Topology};
use super::super::step::CacheOptions;
use crate::cli::OutputFormat;
use crate::cluster::{ApiError, ApiRequest, Cluster, ConnectionOptions, Environment};
use crate::error::Failure;
use crate::execute::Signal;
use crate::registry::{self, ForeseenWay};
use crate::report::document::API_VERSION;
use crate::text::{printable, time_text};
use crate::ui::Ui;

/// Nothing is rolled out here.
const TIMEOUT: Duration = Duration::from_secs(600);

/// Everything that `cache status` was asked for.
#[derive(Debug, Clone)]
pub struct StatusOptions {
    /// Where the registry runs.
    pub place: Place,
    /// The Redis, as far as flags say.
    pub redis: RedisOptions,
    /// The form of the output: text, JSON or YAML.
    pub output: OutputFormat,
    /// `--report`.
    pub report: Option<PathBuf>,
    /// `-v`.
    pub verbosity: u8,
    /// Which cluster, and as whom.
    pub connection: ConnectionOptions,
}

/// Which caches the registry has, how its replicas can be reached, and what the user may do.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheStatus {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `CacheStatus`.
    pub kind: &'static str,
    /// The URL of the API server.
    pub server: String,
    /// The Deployment or `DeploymentConfig` of the registry.
    pub registry: RegistryEntry,
    /// The image-registry operator.
    pub operator: OperatorEntry,
    /// The caches; absent if neither the workload nor a pod could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caches: Option<CachesEntry>,
    /// The replicas; absent if they could not be listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<Vec<ReplicaEntry>>,
    /// By which ways the registry can be reached from here, in the order in which a prune tries them (`--registry-via`).
    pub ways: Vec<ForeseenWay>,
    /// What the user may do of what the cache step may need.
    pub rights: Vec<RightEntry>,
    /// What could not be read. It may say anything.
    pub unreadable: Vec<UnreadableEntry>,
    /// What `--registry-cache=auto` would do after a prune.
    pub cache_step: CachePlan,
}

/// The Deployment or `DeploymentConfig` of the registry.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RegistryEntry {
    /// `found`; `absent`: there is neither a workload nor a pod; `unknown`: it could not be read, or only pods were found.
    pub state: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `deployment` or `deploymentconfig`; absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// How many pods it wants.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
    /// How many are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<u32>,
    /// How new pods take the place of old ones: `RollingUpdate`, `Recreate`, or the word of a `DeploymentConfig`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<String>,
    /// Whether a new template starts no rollout.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paused: Option<bool>,
    /// Whether pods of an earlier template are still there, as the status says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rolling_out: Option<bool>,
}

/// The image-registry operator.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperatorEntry {
    /// `found`, `absent`, or `unknown`: it may manage the registry.
    pub state: &'static str,
    /// `Managed`, `Unmanaged`, `Removed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub management_state: Option<String>,
    /// `spec.readOnly`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<bool>,
    /// `spec.replicas`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
}

/// The caches: the worst of what the template and the pods, which may be of an earlier one, have.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CachesEntry {
    /// Each replica's own memory, in front of everything.
    pub digest_cache: DigestEntry,
    /// What the replicas ask before the storage.
    pub descriptor_cache: DescriptorEntry,
    /// The Redis that all replicas share, if there surely is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redis: Option<RedisEntry>,
    /// The settings that this is from.
    pub settings: Vec<SettingEntry>,
    /// Pods that are configured otherwise than the template.
    pub other_pods: Vec<String>,
    /// What else is to be known about them.
    pub notes: Vec<String>,
}

/// Each replica's own cache.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DigestEntry {
    /// `on`, `off`, `unknown`: it may be on; `doesNotStart`: the registry does not start with its settings.
    pub state: &'static str,
    /// How long an entry lives, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_seconds: Option<f64>,
    /// What would have to be read, or why the registry does not start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it is configured.
    pub configured: Vec<String>,
}

/// The cache of blob descriptors.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DescriptorEntry {
    /// `inmemory`, `none`, `redis`, `unknown`: there may be a Redis; `doesNotStart`: the registry does not start with its
    /// settings.
    pub state: &'static str,
    /// What would have to be read, or why the registry does not start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Where it is configured.
    pub configured: Vec<String>,
}

/// The Redis that all replicas share.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisEntry {
    /// The URL, without the password; absent unless everything is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `HOST:PORT` of the server, the cluster's nodes or the Sentinels.
    pub addresses: Vec<String>,
    /// `single`, `cluster` or `sentinel`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topology: Option<&'static str>,
    /// The number of the database.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub database: Option<u32>,
    /// Whether TLS is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<bool>,
    /// The ACL user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// `set`, `unset` or `unknown`.
    pub password: &'static str,
    /// Where the password comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_configured: Option<String>,
    /// What is not known, and why.
    pub unknown: Vec<String>,
}

/// A setting about caches.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingEntry {
    /// Its path in the configuration file.
    pub name: String,
    /// Its value; absent where it is not known, is a password, or comes from a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// Where it is made, in words.
    pub configured: String,
    /// The variable that it is made in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variable: Option<String>,
    /// The object that it comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<FromEntry>,
}

/// An object that a setting comes from.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FromEntry {
    /// `Secret`, `ConfigMap` or `Pod`.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name; empty for the pod itself.
    pub name: String,
    /// The key; absent where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// A replica of the registry.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaEntry {
    /// Its pod.
    pub pod: String,
    /// The pod's UID.
    pub uid: String,
    /// The node that it runs on.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Whether it is an endpoint of the service.
    pub ready: bool,
    /// Whether it is being deleted.
    pub terminating: bool,
    /// How it can be reached from here: `direct`, `portForward`, `notFromHere`; `noAddress`: it has none yet.
    pub reach: &'static str,
    /// Why it is not ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A right that the cache step may need.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RightEntry {
    /// The right, in words.
    pub right: String,
    /// What it is good for.
    pub purpose: &'static str,
    /// `yes`, `no` or `unknown`.
    pub allowed: &'static str,
    /// Why it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The command by which an administrator gives it, where it is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// What could not be read.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnreadableEntry {
    /// What.
    pub what: String,
    /// What the API server said.
    pub reason: String,
    /// The right that would show it, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub right: Option<String>,
    /// The command by which an administrator gives that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

fn way_word(way: Way) -> &'static str {
    match way {
        Way::Direct => "direct",
        Way::PortForward => "portForward",
        Way::NotFromHere => "notFromHere",
        Way::NoAddress => "noAddress",
    }
}

/// Reads and asks everything.
///
/// # Errors
/// Exit code 1 if the API server cannot be reached or refuses the login.
pub async fn find(options: &StatusOptions, ui: &Arc<Ui>) -> Result<CacheStatus, Failure> {
    let cluster = Cluster::connect(&options.connection, &Environment::of_process()).await?;
    let cluster = cluster.on_warning(ui.server_warnings());
    // Everything else that fails is a part of the answer: not that there is no server to ask.
    match cluster.request(ApiRequest::get("/version")).await {
        Ok(_) | Err(ApiError::Forbidden { .. } | ApiError::NotFound { .. }) => {}
        Err(error) => return Err(cluster.failure(&error, "reach the API server")),
    }
    let cache_options = CacheOptions {
        strategy: choose::Strategy::Auto,
        check: Extent::default(),
        timeout: TIMEOUT,
        place: options.place.clone(),
        redis: options.redis.clone(),
    };
    let foreseen = foresee(&cluster, &cache_options).await;
    let ways = registry::foresee(&cluster, &foreseen.found.place, forwarded_pod(&foreseen)).await;
    Ok(document(cluster.server(), &foreseen, ways))
}

/// The pod that a port-forward would lead to.
fn forwarded_pod(foreseen: &Foreseen) -> Result<String, String> {
    let Foreseen { found, rights, .. } = foreseen;
    let mut missing = rights
        .0
        .iter()
        .filter(|right| right.rule.subresource == "portforward" && right.verdict == Verdict::Denied);
    if let Some(right) = missing.next() {
        return Err(format!("a right is missing: {}", right.rule));
    }
    let pods = match &found.pods {
        Reading::Is(pods) => pods.as_slice(),
        Reading::Absent => &[],
        Reading::Unreadable { rule: Some(rule), .. } => return Err(format!("a right is missing: {rule}")),
        Reading::Unreadable { why, rule: None } => return Err(why.clone()),
    };
    let ready = pods.iter().find(|pod| pod.takes_forward());
    ready.map(|pod| format!("pod {}", pod.name)).ok_or_else(|| "no pod of the registry is ready".to_owned())
}

/// The failure of a run that a signal has ended.
#[must_use]
pub fn interrupted(signal: Signal) -> Failure {
    Failure {
        exit: signal.exit(),
        message: format!("show the cache's status: ended by {}", signal.name()),
        hints: Vec::new(),
    }
}

fn document(server: &str, foreseen: &Foreseen, to_registry: Vec<ForeseenWay>) -> CacheStatus {
    let Foreseen { found, rights, ways, plan } = foreseen;
    CacheStatus {
        api_version: API_VERSION,
        kind: "CacheStatus",
        server: server.to_owned(),
        registry: registry(found),
        operator: operator(&found.operator),
        caches: found.caches().map(|caches| caches_entry(found, &caches)),
        replicas: match &found.pods {
            Reading::Is(pods) => Some(pods.iter().zip(ways).map(|(pod, way)| replica(pod, *way)).collect()),
            Reading::Absent => Some(Vec::new()),
            Reading::Unreadable { .. } => None,
        },
        ways: to_registry,
        rights: rights.0.iter().map(right).collect(),
        unreadable: unreadable(found),
        cache_step: plan.clone(),
    }
}

fn registry(found: &Discovery) -> RegistryEntry {
    let workload = found.workload.get();
    RegistryEntry {
        state: match &found.workload {
            Reading::Is(_) => "found",
            Reading::Absent if found.is_absent() => "absent",
            Reading::Absent | Reading::Unreadable { .. } => "unknown",
        },
        namespace: found.place.namespace.clone(),
        name: found.place.deployment.clone(),
        kind: workload.map(|workload| workload.kind.word()),
        replicas: workload.map(|workload| workload.replicas),
        ready_replicas: workload.map(|workload| workload.counts.ready),
        strategy: workload.map(|workload| match &workload.strategy {
            Strategy::Rolling => "RollingUpdate".to_owned(),
            Strategy::Recreate => "Recreate".to_owned(),
            Strategy::Other(word) => word.clone(),
        }),
        paused: workload.map(|workload| workload.paused),
        rolling_out: workload.map(|workload| {
            workload.observed_generation < workload.generation
                || workload.counts.updated < workload.counts.replicas.max(workload.replicas)
        }),
    }
}

fn operator(reading: &Reading<Operator>) -> OperatorEntry {
    let operator = reading.get();
    OperatorEntry {
        state: match reading {
            Reading::Is(_) => "found",
            Reading::Absent => "absent",
            Reading::Unreadable { .. } => "unknown",
        },
        management_state: operator.map(|operator| operator.management_state.word().to_owned()),
        read_only: operator.map(|operator| operator.read_only),
        replicas: operator.and_then(|operator| operator.replicas),
    }
}

fn caches_entry(found: &Discovery, caches: &CacheConfig) -> CachesEntry {
    let configured = |prefixes: &[&str]| {
        let ours = caches.configured.iter().filter(|setting| {
            prefixes.iter().any(|prefix| setting.name.starts_with(prefix)) && counts(caches, setting)
        });
        let mut places: Vec<String> = ours.map(|setting| setting.at.to_string()).collect();
        places.sort();
        places.dedup();
        places
    };
    let (state, ttl, reason) = match &caches.digest_cache {
        DigestCache::On { ttl } => ("on", Some(*ttl), None),
        DigestCache::Off => ("off", None, None),
        DigestCache::DoesNotStart(why) => ("doesNotStart", None, Some(why.clone())),
        DigestCache::Unknown(source) => ("unknown", None, Some(format!("{source} cannot be read"))),
    };
    let digest_cache = DigestEntry {
        state,
        ttl_seconds: ttl.map(|ttl| ttl.as_secs_f64()),
        reason,
        configured: configured(&["openshift.cache.", "middleware.", "blobrepositorycachettl"]),
    };
    let (state, reason) = match &caches.descriptor_cache {
        DescriptorCache::InMemory => ("inmemory", None),
        DescriptorCache::Absent => ("none", None),
        DescriptorCache::Redis(_) => ("redis", None),
        DescriptorCache::DoesNotStart(why) => ("doesNotStart", Some(why.clone())),
        DescriptorCache::Unknown(source) => ("unknown", Some(format!("{source} cannot be read"))),
    };
    let descriptor_cache = DescriptorEntry { state, reason, configured: configured(&["storage.cache."]) };
    let mut all = found.configurations.iter();
    let template = all.clone().find(|configuration| configuration.pod.is_none());
    let other_pods = template.map_or_else(Vec::new, |template| {
        let is_other = |caches: &CacheConfig| {
            (&caches.digest_cache, &caches.descriptor_cache)
                != (&template.caches.digest_cache, &template.caches.descriptor_cache)
        };
        all.by_ref()
            .filter(|configuration| is_other(&configuration.caches))
            .filter_map(|configuration| configuration.pod.clone())
            .collect()
    });
    CachesEntry {
        digest_cache,
        descriptor_cache,
        redis: caches.redis().map(|redis| redis_entry(found, caches, redis)),
        settings: caches
            .configured
            .iter()
            .filter(|setting| counts(caches, setting))
            .map(setting_entry)
            .collect(),
        other_pods,
        notes: caches.notes.clone(),
    }
}

/// Whether a setting is about a cache that there may be: without a Redis, nothing of it matters.
fn counts(caches: &CacheConfig, setting: &ConfiguredSetting) -> bool {
    let may_be_redis = matches!(
        caches.descriptor_cache,
        DescriptorCache::Redis(_) | DescriptorCache::Unknown(_) | DescriptorCache::DoesNotStart(_)
    );
    let is_guess = matches!(setting.at, Configured::UnreadFile(_));
    may_be_redis && !is_guess || !setting.name.starts_with("redis.")
}

fn setting_entry(setting: &ConfiguredSetting) -> SettingEntry {
    let ConfiguredSetting { name, value, at } = setting;
    let (variable, from) = match at {
        Configured::Image => (None, None),
        Configured::Variable { name, from } => {
            (Some(name.clone()), from.as_ref().map(|from| (&from.source, Some(&from.key))))
        }
        Configured::File(from) => (None, Some((&from.source, Some(&from.key)))),
        Configured::UnreadFile(source) => (None, Some((source, None))),
    };
    SettingEntry {
        name: (*name).to_owned(),
        value: value.clone(),
        configured: at.to_string(),
        variable,
        from: from.map(|(source, key)| FromEntry {
            kind: match source.origin {
                Origin::Secret => "Secret",
                Origin::ConfigMap => "ConfigMap",
                Origin::Pod => "Pod",
            },
            namespace: source.namespace.clone(),
            name: source.name.clone(),
            key: key.filter(|key| !key.is_empty()).cloned(),
        }),
    }
}

fn is<T: Clone>(setting: &Setting<T>, unset: T) -> Option<T> {
    match setting {
        Setting::Is(value) => Some(value.clone()),
        Setting::Unset => Some(unset),
        Setting::Unreadable(_) | Setting::Invalid(_) => None,
    }
}

fn redis_entry(found: &Discovery, caches: &CacheConfig, redis: &Redis) -> RedisEntry {
    let address = found.redis_address();
    let topology = address.as_ref().map(|address| match address.topology {
        Topology::Single { .. } | Topology::Unix(_) => "single",
        Topology::Cluster(_) => "cluster",
        Topology::Sentinel { .. } => "sentinel",
    });
    let host = |(host, port): (String, u16)| {
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    };
    let password = caches.configured.iter().find(|setting| setting.name == "redis.password");
    RedisEntry {
        url: address.map(|address| address.to_string()),
        addresses: is(&redis.addresses, Vec::new()).unwrap_or_default().into_iter().map(host).collect(),
        topology,
        database: is(&redis.database, 0),
        tls: is(&redis.tls, false),
        user: is(&redis.user, String::new()).filter(|user| !user.is_empty()),
        password: match redis.password {
            Setting::Is(_) => "set",
            Setting::Unset => "unset",
            Setting::Unreadable(_) | Setting::Invalid(_) => "unknown",
        },
        password_configured: password.map(|setting| setting.at.to_string()),
        unknown: found.redis_unknowns(),
    }
}

fn replica(pod: &Pod, way: Way) -> ReplicaEntry {
    ReplicaEntry {
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        node: pod.node.clone(),
        address: pod.address.map(|address| address.to_string()),
        ready: pod.ready,
        terminating: pod.terminating,
        reach: way_word(way),
        problem: pod.unschedulable.clone().or_else(|| pod.waiting.clone()),
    }
}

fn right(right: &detect::Right) -> RightEntry {
    let detect::Right { rule, purpose, verdict } = right;
    let (allowed, reason) = match verdict {
        Verdict::Allowed => ("yes", None),
        Verdict::Denied => ("no", None),
        Verdict::NotKnown(why) => ("unknown", Some(why.clone())),
    };
    let command = (*verdict == Verdict::Denied).then(|| rule.command());
    RightEntry { right: rule.to_string(), purpose, allowed, reason, command }
}

fn unreadable(found: &Discovery) -> Vec<UnreadableEntry> {
    fn entry<T>(what: String, reading: &Reading<T>) -> Option<UnreadableEntry> {
        let Reading::Unreadable { why, rule } = reading else { return None };
        let right = rule.as_ref().map(ToString::to_string);
        Some(UnreadableEntry { what, reason: why.clone(), right, command: rule.as_ref().map(Rule::command) })
    }
    let Place { namespace, deployment } = &found.place;
    let kind = found.workload.get().map_or(WorkloadKind::Deployment, |workload| workload.kind);
    let workload = entry(format!("{} {namespace}/{deployment}", kind.word()), &found.workload);
    let pods = entry(format!("the pods in namespace {namespace}"), &found.pods);
    let operator = entry("the operator's configuration".to_owned(), &found.operator);
    let sources = found.sources.iter().filter_map(|(source, reading)| entry(source.to_string(), reading));
    [workload, pods, operator].into_iter().flatten().chain(sources).collect()
}

/// Writes the document for people.
///
/// # Errors
/// Those of the writer.
pub fn write_text(out: &mut dyn Write, status: &CacheStatus) -> io::Result<()> {
    let mut lines = Vec::new();
    tell_registry(status, &mut lines);
    if let Some(caches) = &status.caches {
        tell_caches(caches, &mut lines);
    }
    tell_replicas(status, &mut lines);
    if status.registry.state != "absent" {
        tell_ways(status, &mut lines);
    }
    tell_rights(status, &mut lines);
    lines.push(format!("Cache step: {}", status.cache_step.message));
    lines.extend(status.cache_step.left.iter().map(|left| format!("  left as it is: {left}")));
    for line in lines {
        writeln!(out, "{}", printable(&line))?;
    }
    Ok(())
}

fn tell_registry(status: &CacheStatus, lines: &mut Vec<String>) {
    let RegistryEntry {
        state,
        namespace,
        name,
        kind,
        replicas,
        ready_replicas,
        strategy,
        paused,
        rolling_out,
    } = &status.registry;
    let mut line = match (*state, kind) {
        ("absent", _) => {
            format!("Registry: none: there is no {name} in namespace {namespace}, and no pod of it")
        }
        (_, Some(kind)) => format!("Registry: {kind}/{name} in namespace {namespace}"),
        _ => format!("Registry: {name} in namespace {namespace} is not known"),
    };
    if let (Some(replicas), Some(ready)) = (replicas, ready_replicas) {
        line = format!("{line}, {ready} of {replicas} replica(s) ready");
    }
    if let Some(strategy) = strategy.as_deref().filter(|strategy| *strategy != "RollingUpdate") {
        line = format!("{line}, strategy {strategy}");
    }
    if *paused == Some(true) {
        line.push_str(", paused");
    }
    if *rolling_out == Some(true) {
        line.push_str(", a rollout is under way");
    }
    lines.push(line);
    let OperatorEntry { state, management_state, read_only, replicas: _ } = &status.operator;
    lines.push(match (*state, management_state) {
        (_, Some(word)) => {
            let read_only = if *read_only == Some(true) { ", the registry is read-only" } else { "" };
            format!("Operator: {word}{read_only}")
        }
        ("absent", None) => "Operator: none".to_owned(),
        _ => "Operator: not known, it may manage the registry".to_owned(),
    });
}

fn tell_caches(caches: &CachesEntry, lines: &mut Vec<String>) {
    let CachesEntry { digest_cache, descriptor_cache, redis, settings, other_pods, notes } = caches;
    let because = |reason: &Option<String>| reason.as_deref().unwrap_or_default().to_owned();
    let at = |configured: &[String]| match configured {
        [] => String::new(),
        places => format!(" ({})", places.join("; ")),
    };
    let digest = match (digest_cache.state, digest_cache.ttl_seconds) {
        ("on", Some(seconds)) => {
            let ttl = Duration::try_from_secs_f64(seconds).map_or_else(|_| format!("{seconds}s"), time_text);
            format!("on, an entry lives for {ttl}")
        }
        ("unknown", _) => format!("may be on: {}", because(&digest_cache.reason)),
        ("doesNotStart", _) => format!("the registry does not start: {}", because(&digest_cache.reason)),
        (state, _) => state.to_owned(),
    };
    lines.push(format!("Digest cache: {digest}{}", at(&digest_cache.configured)));
    let descriptor = match descriptor_cache.state {
        "inmemory" => "inmemory, none of its own".to_owned(),
        "unknown" => format!("may be redis: {}", because(&descriptor_cache.reason)),
        "doesNotStart" => format!("the registry does not start: {}", because(&descriptor_cache.reason)),
        state => state.to_owned(),
    };
    lines.push(format!("Descriptor cache: {descriptor}{}", at(&descriptor_cache.configured)));
    if let Some(redis) = redis {
        tell_redis(redis, lines);
    }
    if !other_pods.is_empty() {
        lines.push(format!("Pods of another configuration, the worse counts: {}", other_pods.join(", ")));
    }
    lines.extend(notes.iter().map(|note| format!("Note: {note}")));
    lines.push("Settings:".to_owned());
    let rows = settings.iter().map(|setting| {
        let value = setting.value.clone().unwrap_or_else(|| "(not shown)".to_owned());
        vec![setting.name.clone(), value, setting.configured.clone()]
    });
    table(rows.collect(), lines);
}

fn tell_redis(redis: &RedisEntry, lines: &mut Vec<String>) {
    let RedisEntry { url, addresses, topology, database, tls, user, password, password_configured, unknown } =
        redis;
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "not known".to_owned());
    let address = if addresses.is_empty() { "not known".to_owned() } else { addresses.join(",") };
    let mut parts = vec![
        url.clone().unwrap_or(address),
        format!("database {}", or_unknown(database.map(|number| number.to_string()))),
        format!("TLS {}", or_unknown(tls.map(|tls| if tls { "on" } else { "off" }.to_owned()))),
    ];
    parts.extend(topology.map(ToOwned::to_owned));
    parts.extend(user.as_ref().map(|user| format!("user {user}")));
    parts.push(match (*password, password_configured) {
        ("unset", _) => "no password".to_owned(),
        (state, Some(at)) => format!("password {state} ({at})"),
        (state, None) => format!("password {state}"),
    });
    lines.push(format!("Redis: {}", parts.join(", ")));
    lines.extend(unknown.iter().map(|unknown| format!("  not known: {unknown}")));
}

fn tell_replicas(status: &CacheStatus, lines: &mut Vec<String>) {
    let Some(replicas) = &status.replicas else {
        lines.push("Replicas: not known".to_owned());
        return;
    };
    if replicas.is_empty() {
        lines.push("Replicas: none".to_owned());
        return;
    }
    lines.push("Replicas:".to_owned());
    let mut rows = vec![["POD", "NODE", "ADDRESS", "STATE", "REACHED"].map(ToOwned::to_owned).to_vec()];
    rows.extend(replicas.iter().map(|replica| {
        let state = match (replica.terminating, replica.ready) {
            (true, _) => "terminating",
            (false, true) => "ready",
            (false, false) => "not ready",
        };
        let reach = match replica.reach {
            "portForward" => "port-forward",
            "notFromHere" => "not from here",
            "noAddress" => "no address yet",
            reach => reach,
        };
        let dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        vec![
            replica.pod.clone(),
            dash(&replica.node),
            dash(replica.address.as_deref().unwrap_or_default()),
            state.to_owned(),
            reach.to_owned(),
        ]
    }));
    table(rows, lines);
    for replica in replicas {
        if let Some(problem) = &replica.problem {
            lines.push(format!("  {}: {problem}", replica.pod));
        }
    }
}

fn tell_ways(status: &CacheStatus, lines: &mut Vec<String>) {
    lines.push("Ways to the registry, of which the first that leads there is taken:".to_owned());
    let row = |way: &ForeseenWay| {
        let open = if way.open { "yes" } else { "no" };
        vec![way.via.to_owned(), open.to_owned(), way.detail.clone()]
    };
    table(status.ways.iter().map(row).collect(), lines);
}

fn tell_rights(status: &CacheStatus, lines: &mut Vec<String>) {
    if !status.unreadable.is_empty() {
        lines.push("Not readable, may say anything:".to_owned());
        for UnreadableEntry { what, reason, right, command } in &status.unreadable {
            match right {
                Some(right) => lines.push(format!("  {what}: needs the right to {right}")),
                None => lines.push(format!("  {what}: {reason}")),
            }
            lines.extend(command.as_ref().map(|command| format!("    {command}")));
        }
    }
    lines.push("You may:".to_owned());
    let rows = status
        .rights
        .iter()
        .map(|right| vec![right.allowed.to_owned(), right.right.clone(), format!("to {}", right.purpose)]);
    table(rows.collect(), lines);
    let mut commands: Vec<&str> = Vec::new();
    for command in status.rights.iter().filter_map(|right| right.command.as_deref()) {
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    if !commands.is_empty() {
        lines.push("What is missing is given by:".to_owned());
        lines.extend(commands.into_iter().map(|command| format!("  {command}")));
    }
}

/// Columns, indented, as wide as their widest text.
fn table(rows: Vec<Vec<String>>, lines: &mut Vec<String>) {
    let mut widths = Vec::new();
    for row in &rows {
        for (column, text) in row.iter().enumerate() {
            let width = printable(text).chars().count();
            match widths.get_mut(column) {
                Some(widest) => *widest = width.max(*widest),
                None => widths.push(width),
            }
        }
    }
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(text, width)| format!("  {:<width$}", printable(text)));
        lines.push(cells.collect::<String>().trim_end().to_owned());
    }
}
