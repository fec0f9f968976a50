//! The objects of a prune in the cluster, as `oc apply -f -` takes them. Pure.

use std::fmt::Write as _;

use jiff::Zoned;
use serde_json::{Map, Value, json};

use super::cron::Schedule;
use super::roles::Grant;

/// The cluster role that every OpenShift cluster has for this.
const PRUNER: &str = "system:image-pruner";

/// The annotation of a role that says what its rules are for.
const PURPOSE: &str = "prune-images/rules";

/// Where the job keeps its journal.
const STATE: &str = "/var/lib/prune-images";

/// Where the authorities are mounted, as in the job of the image-registry operator.
const AUTHORITIES: &str = "/var/run/configmaps/serviceca";

/// The file of the service CA, whose name the cluster decides.
const SERVICE_CA: &str = "service-ca.crt";

/// Where the Secrets of Redis are mounted.
const REDIS: &str = "/var/run/secrets/redis";

/// How long a job that ended is kept, in seconds: a week.
const KEPT: u32 = 7 * 24 * 60 * 60;

/// How late a job may start after its time, in seconds.
const LATE: u32 = 60 * 60;

/// How much longer than `--timeout` the job may live, in seconds: it ends by itself, and cleanly.
const SLACK: u64 = 5 * 60;

/// How often it runs.
#[derive(Debug, Clone)]
pub enum Frequency {
    /// Once: a Job.
    Once,
    /// A `CronJob`.
    Scheduled {
        /// When.
        schedule: Box<Schedule>,
        /// The name of the time zone that the schedule is meant in; that of the controller, which is UTC, without.
        timezone: Option<String>,
        /// Whether it does not run at present.
        suspend: bool,
        /// How many jobs that went well are kept.
        successful: u32,
        /// How many failed ones are.
        failed: u32,
    },
}

/// Who signed the registry's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authority {
    /// The service CA, which the cluster writes into a `ConfigMap`.
    Service,
    /// The one in this PEM text.
    Given(String),
    /// Nobody is asked.
    None,
}

/// A key of a Secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretKey {
    /// The Secret, in the job's namespace.
    pub name: String,
    /// The key.
    pub key: String,
}

/// Requests and limits, by resource.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// What it is sure to get.
    pub requests: Vec<(String, String)>,
    /// What it gets at most.
    pub limits: Vec<(String, String)>,
}

/// A prune in the cluster.
#[derive(Debug, Clone)]
pub struct Job {
    /// How often.
    pub frequency: Frequency,
    /// The name of the service account and the roles.
    pub name: String,
    /// The name of the Job or `CronJob`.
    pub job_name: String,
    /// The namespace of all that is in one.
    pub namespace: String,
    /// The namespace of the registry.
    pub registry_namespace: String,
    /// The image of the program.
    pub image: String,
    /// The `PersistentVolumeClaim` for the journal; it ends with the pod without one.
    pub journal_claim: Option<String>,
    /// The prune's flags, without `--confirm`.
    pub flags: Vec<String>,
    /// The further rights.
    pub grants: Vec<Grant>,
    /// Who signed the registry's certificate.
    pub authority: Authority,
    /// The authority of Redis, a PEM text.
    pub redis_ca: Option<String>,
    /// The password of Redis.
    pub redis_password: Option<SecretKey>,
    /// A Secret of type `kubernetes.io/tls` with the client certificate for Redis.
    pub redis_client: Option<String>,
    /// Requests and limits.
    pub resources: Resources,
    /// `--timeout`, in seconds.
    pub timeout: Option<u64>,
    /// Which nodes it may run on, as in a pod.
    pub node_selector: Option<Value>,
    /// Which taints it tolerates, as in a pod.
    pub tolerations: Option<Value>,
    /// Affinities, as in a pod.
    pub affinity: Option<Value>,
}

/// An object, with what is said above it.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Lines of a comment, without `#`.
    pub comment: Vec<String>,
    /// The object.
    pub object: Value,
}

/// The objects, in the order in which they are to be created. `now` is what the next run times are counted from.
#[must_use]
pub fn documents(job: &Job, now: &Zoned) -> Vec<Document> {
    let mut documents = vec![plain(object("v1", "ServiceAccount", &job.name, Some(&job.namespace)))];
    documents.extend(authorities(job).map(plain));
    let bound = format!("{}-{}", job.namespace, job.name);
    documents.push(Document {
        comment: vec![format!("What a prune needs, by the cluster's own role {PRUNER}.")],
        object: binding(job, "ClusterRoleBinding", &bound, None, ("ClusterRole", PRUNER)),
    });
    documents.extend(roles(job, &bound));
    documents.push(workload(job, now));
    documents
}

fn plain(object: Value) -> Document {
    Document { comment: Vec::new(), object }
}

/// Beginning of an object.
fn object(api_version: &str, kind: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), name.into());
    if let Some(namespace) = namespace {
        metadata.insert("namespace".to_owned(), namespace.into());
    }
    metadata.insert("labels".to_owned(), json!({ "app.kubernetes.io/name": "prune-images" }));
    json!({ "apiVersion": api_version, "kind": kind, "metadata": metadata })
}

fn ca_name(job: &Job) -> String {
    format!("{}-ca", job.name)
}

/// The certificates of authorities; the cluster fills in those of its services.
fn authorities(job: &Job) -> impl Iterator<Item = Value> {
    let service = (job.authority == Authority::Service).then(|| {
        let mut map = object("v1", "ConfigMap", &ca_name(job), Some(&job.namespace));
        map["metadata"]["annotations"] = json!({ "service.beta.openshift.io/inject-cabundle": "true" });
        map
    });
    let mut data = Map::new();
    if let Authority::Given(pem) = &job.authority {
        data.insert("ca.crt".to_owned(), pem.as_str().into());
    }
    if let Some(pem) = &job.redis_ca {
        data.insert("redis-ca.crt".to_owned(), pem.as_str().into());
    }
    // A ConfigMap that the cluster fills in has nothing else.
    let given = (!data.is_empty()).then(|| {
        let mut map = object("v1", "ConfigMap", &format!("{}-given", ca_name(job)), Some(&job.namespace));
        map["data"] = data.into();
        map
    });
    service.into_iter().chain(given)
}

fn binding(job: &Job, kind: &str, name: &str, namespace: Option<&str>, role: (&str, &str)) -> Value {
    let mut binding = object("rbac.authorization.k8s.io/v1", kind, name, namespace);
    binding["roleRef"] = json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1 });
    binding["subjects"] = json!([{ "kind": "ServiceAccount", "name": job.name, "namespace": job.namespace }]);
    binding
}

/// The roles of the further rights, each with its binding: one for the whole cluster, one for each namespace.
fn roles(job: &Job, bound: &str) -> Vec<Document> {
    let mut scopes: Vec<Option<&str>> = job.grants.iter().map(|grant| grant.namespace.as_deref()).collect();
    scopes.sort_unstable();
    scopes.dedup();
    let mut documents = Vec::new();
    for scope in scopes {
        let (kind, name) = match scope {
            None => ("ClusterRole", format!("{bound}-more")),
            // Beside those of others in that namespace.
            Some(namespace) if namespace != job.namespace => ("Role", bound.to_owned()),
            Some(_) => ("Role", job.name.clone()),
        };
        let grants = || job.grants.iter().filter(move |grant| grant.namespace.as_deref() == scope);
        let mut role = object("rbac.authorization.k8s.io/v1", kind, &name, scope);
        let mut purposes = String::new();
        let mut rules = Vec::new();
        for Grant { verb, group, resource, name, purpose, .. } in grants() {
            let mut granted = json!({ "apiGroups": [group], "resources": [resource], "verbs": [verb] });
            let mut what = resource.clone();
            if let Some(name) = name {
                granted["resourceNames"] = json!([name]);
                // Writing to a `String` cannot fail.
                let _ = write!(what, "/{name}");
            }
            let _ = writeln!(purposes, "{verb} {what}: {purpose}");
            rules.push(granted);
        }
        role["metadata"]["annotations"] = json!({ PURPOSE: purposes });
        role["rules"] = rules.into();
        documents.push(Document {
            comment: vec!["What the chosen flags need beyond that.".to_owned()],
            object: role,
        });
        let binding_kind = if scope.is_none() { "ClusterRoleBinding" } else { "RoleBinding" };
        documents.push(plain(binding(job, binding_kind, &name, scope, (kind, &name))));
    }
    documents
}

fn workload(job: &Job, now: &Zoned) -> Document {
    let Job { job_name, namespace, .. } = job;
    match &job.frequency {
        Frequency::Once => {
            let mut once = object("batch/v1", "Job", job_name, Some(namespace));
            once["spec"] = job_spec(job);
            once["spec"]["ttlSecondsAfterFinished"] = KEPT.into();
            plain(once)
        }
        Frequency::Scheduled { schedule, timezone, suspend, successful, failed } => {
            let mut cron = object("batch/v1", "CronJob", job_name, Some(namespace));
            let mut spec = Map::new();
            spec.insert("schedule".to_owned(), schedule.text().into());
            if let Some(zone) = timezone {
                spec.insert("timeZone".to_owned(), zone.as_str().into());
            }
            spec.insert("concurrencyPolicy".to_owned(), "Forbid".into());
            spec.insert("suspend".to_owned(), (*suspend).into());
            spec.insert("startingDeadlineSeconds".to_owned(), LATE.into());
            spec.insert("successfulJobsHistoryLimit".to_owned(), (*successful).into());
            spec.insert("failedJobsHistoryLimit".to_owned(), (*failed).into());
            spec.insert("jobTemplate".to_owned(), json!({ "spec": job_spec(job) }));
            cron["spec"] = spec.into();
            Document { comment: next_times(schedule, timezone.as_deref(), *suspend, now), object: cron }
        }
    }
}

fn next_times(schedule: &Schedule, timezone: Option<&str>, suspend: bool, now: &Zoned) -> Vec<String> {
    let zone = timezone.unwrap_or("UTC, the time zone of the cluster's controllers");
    let mut lines = vec![format!("The next runs, in {zone}:")];
    let next = schedule.next(now, 3);
    lines.extend(next.iter().map(|time| time.strftime("  %Y-%m-%d %H:%M %:z, %A").to_string()));
    if suspend {
        lines.push("It is suspended: nothing runs until spec.suspend is false.".to_owned());
    }
    lines
}

fn job_spec(job: &Job) -> Value {
    let mut spec = Map::new();
    // A prune that failed half-way is finished by the next one, not by the same again at once.
    spec.insert("backoffLimit".to_owned(), 0.into());
    if let Some(seconds) = job.timeout {
        spec.insert("activeDeadlineSeconds".to_owned(), seconds.saturating_add(SLACK).into());
    }
    let mut labels = json!({ "app.kubernetes.io/name": "prune-images" });
    if job.namespace == job.registry_namespace {
        // The namespace's NetworkPolicies let only pods with this label open connections.
        labels["app"] = "image-pruner".into();
    }
    spec.insert("template".to_owned(), json!({ "metadata": { "labels": labels }, "spec": pod_spec(job) }));
    spec.into()
}

/// The pod, which the security context constraint `restricted-v2` lets pass as it is.
fn pod_spec(job: &Job) -> Value {
    let mut args = vec!["--confirm".to_owned()];
    args.extend(job.flags.iter().cloned());
    let state = match &job.journal_claim {
        Some(claim) => json!({ "name": "state", "persistentVolumeClaim": { "claimName": claim } }),
        None => json!({ "name": "state", "emptyDir": {} }),
    };
    let mut volumes = vec![state];
    let mut mounts = vec![json!({ "name": "state", "mountPath": STATE })];
    let mut mount = |name: &str, volume: Value, path: &str| {
        let mut named = Map::new();
        named.insert("name".to_owned(), name.into());
        named.extend(volume.as_object().cloned().unwrap_or_default());
        volumes.push(named.into());
        mounts.push(json!({ "name": name, "mountPath": path, "readOnly": true }));
    };
    if job.authority == Authority::Service {
        mount("service-ca", json!({ "configMap": { "name": ca_name(job) } }), AUTHORITIES);
        args.push(format!("--certificate-authority={AUTHORITIES}/{SERVICE_CA}"));
    }
    if let Authority::Given(_) = job.authority {
        args.push(format!("--certificate-authority={GIVEN}/ca.crt"));
    }
    if job.redis_ca.is_some() {
        args.push(format!("--redis-ca={GIVEN}/redis-ca.crt"));
    }
    if job.redis_ca.is_some() || matches!(job.authority, Authority::Given(_)) {
        let name = format!("{}-given", ca_name(job));
        mount("given-ca", json!({ "configMap": { "name": name } }), GIVEN);
    }
    if let Some(SecretKey { name, key }) = &job.redis_password {
        let items = json!([{ "key": key, "path": "password" }]);
        let path = format!("{REDIS}/password");
        mount("redis-password", json!({ "secret": { "secretName": name, "items": items } }), &path);
        args.push(format!("--redis-password-file={path}/password"));
    }
    if let Some(name) = &job.redis_client {
        let path = format!("{REDIS}/client");
        mount("redis-client", json!({ "secret": { "secretName": name } }), &path);
        args.push(format!("--redis-client-certificate={path}/tls.crt"));
        args.push(format!("--redis-client-key={path}/tls.key"));
    }
    let container = json!({
        "name": "prune-images",
        "image": job.image,
        "args": args,
        "env": [{ "name": "XDG_STATE_HOME", "value": STATE }],
        "resources": resources(&job.resources),
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        },
    });
    // What a run before this one has left is finished first: only its journal knows of it.
    let finishing = job.journal_claim.as_ref().map(|_| {
        let args = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let args: Vec<&str> = std::iter::once("resume").chain(args.filter(|arg| !decides(arg))).collect();
        let mut finishing = container.clone();
        finishing["name"] = "resume".into();
        finishing["args"] = args.into();
        finishing
    });
    let mut pod = Map::new();
    pod.insert("serviceAccountName".to_owned(), job.name.as_str().into());
    pod.insert("restartPolicy".to_owned(), "Never".into());
    // No user: the cluster gives one out of the namespace's range.
    pod.insert(
        "securityContext".to_owned(),
        json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } }),
    );
    for (field, value) in
        [("nodeSelector", &job.node_selector), ("tolerations", &job.tolerations), ("affinity", &job.affinity)]
    {
        if let Some(value) = value {
            pod.insert(field.to_owned(), value.clone());
        }
    }
    if let Some(finishing) = finishing {
        pod.insert("initContainers".to_owned(), json!([finishing]));
    }
    pod.insert("containers".to_owned(), json!([container]));
    pod.insert("volumes".to_owned(), volumes.into());
    pod.into()
}

/// Whether this flag of a prune is none of `resume`, which takes what decides from the journal; or tells of the prune alone.
fn decides(arg: &str) -> bool {
    const FLAGS: [&str; 10] = [
        "--keep-tag-revisions",
        "--keep-younger-than",
        "--prune-over-size-limit",
        "--all",
        "--prune-registry",
        "--ignore-invalid-refs",
        "--namespace",
        "--selector",
        "--referrers-from",
        "--metrics-file",
    ];
    FLAGS.contains(&arg.split('=').next().unwrap_or(arg))
}

/// Where authorities that were given are mounted.
const GIVEN: &str = "/var/run/configmaps/given";

fn resources(resources: &Resources) -> Value {
    let amounts = |amounts: &[(String, String)]| -> Map<String, Value> {
        amounts.iter().map(|(name, amount)| (name.clone(), amount.as_str().into())).collect()
    };
    let mut all = Map::new();
    for (field, list) in [("requests", &resources.requests), ("limits", &resources.limits)] {
        if !list.is_empty() {
            all.insert(field.to_owned(), amounts(list).into());
        }
    }
    all.into()
}

/// The objects as one `List`.
#[must_use]
pub fn list(documents: &[Document]) -> Value {
    let items: Vec<&Value> = documents.iter().map(|document| &document.object).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items })
}

/// The same `List` in YAML, with its comments, below these lines.
///
/// # Errors
/// An object cannot be written, which none here is.
pub fn yaml(head: &[String], documents: &[Document]) -> Result<String, serde_saphyr::ser::Error> {
    let mut text = String::new();
    // Writing to a `String` cannot fail.
    for line in head {
        let _ = writeln!(text, "# {line}");
    }
    text.push_str("apiVersion: v1\nkind: List\nitems:\n");
    for Document { comment, object } in documents {
        for line in comment {
            let _ = writeln!(text, "# {line}");
        }
        let object = serde_saphyr::to_string(object)?;
        for (number, line) in object.lines().enumerate() {
            let mark = if number == 0 { "- " } else { "  " };
            let _ = if line.is_empty() { writeln!(text) } else { writeln!(text, "{mark}{line}") };
        }
    }
    Ok(text)
}

/// The kinds of these objects, their paths, and whether they are in a namespace.
const KINDS: [(&str, &str, bool); 8] = [
    ("ServiceAccount", "api/v1/serviceaccounts", true),
    ("ConfigMap", "api/v1/configmaps", true),
    ("ClusterRole", "apis/rbac.authorization.k8s.io/v1/clusterroles", false),
    ("ClusterRoleBinding", "apis/rbac.authorization.k8s.io/v1/clusterrolebindings", false),
    ("Role", "apis/rbac.authorization.k8s.io/v1/roles", true),
    ("RoleBinding", "apis/rbac.authorization.k8s.io/v1/rolebindings", true),
    ("CronJob", "apis/batch/v1/cronjobs", true),
    ("Job", "apis/batch/v1/jobs", true),
];

fn field<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Where the API server has one of these objects.
#[must_use]
pub fn path(object: &Value) -> String {
    let kind = field(object, "/kind");
    let (name, namespace) = (field(object, "/metadata/name"), field(object, "/metadata/namespace"));
    let Some((_, path, is_namespaced)) = KINDS.iter().find(|(known, ..)| *known == kind) else {
        return String::new();
    };
    match path.rsplit_once('/') {
        Some((group, plural)) if *is_namespaced => format!("/{group}/namespaces/{namespace}/{plural}/{name}"),
        _ => format!("/{path}/{name}"),
    }
}

/// An object as messages name it: `cronjob.batch/prune-images`.
#[must_use]
pub fn title(object: &Value) -> String {
    let group = field(object, "/apiVersion").split_once('/').map(|(group, _)| format!(".{group}"));
    let kind = field(object, "/kind").to_lowercase();
    format!("{kind}{}/{}", group.unwrap_or_default(), field(object, "/metadata/name"))
}
