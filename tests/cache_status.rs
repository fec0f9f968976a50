//! `cache status` through the real program: roles × configurations of the registry, and no password anywhere.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests: whatever is wrong here fails them")]

mod common;

use base64::Engine as _;
use common::{Plugin, Ran};
use sandbox::api::{Rule, image_pruner, port_forwarder, settings_reader};
use sandbox::{Cluster, ClusterConfig, Config};
use serde_json::{Value, json};

const NAMESPACE: &str = "openshift-image-registry";
const NAME: &str = "image-registry";
const PASSWORD: &str = "geheim-7c1e";
const DESCRIPTOR: &str = "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR";

struct Registry {
    cluster: Cluster,
}

impl Registry {
    fn start(replicas: usize) -> Self {
        Self::with(ClusterConfig { replicas, ..ClusterConfig::default() })
    }

    fn with(config: ClusterConfig) -> Self {
        let sandbox = Config::default().with_group("imageregistry.operator.openshift.io");
        let cluster = Cluster::start(ClusterConfig { sandbox, ..config });
        let access = cluster.sandbox().access();
        let also = |rule: Rule| image_pruner().into_iter().chain([rule]).collect();
        access.add_user("reader", "pruner-and-secrets", also(settings_reader()));
        access.add_user("forwarder", "pruner-and-port-forward", also(port_forwarder()));
        let this = Self { cluster };
        let store = this.cluster.sandbox().store();
        let generation = store.get("deployments", NAMESPACE, NAME).unwrap()["metadata"]["generation"].clone();
        store.update("deployments", NAMESPACE, NAME, |object| {
            object["status"]["observedGeneration"] = generation;
        });
        this.manage("Managed");
        this
    }

    fn manage(&self, state: &str) {
        let store = self.cluster.sandbox().store();
        let spec = json!({ "managementState": state, "replicas": 2 });
        if !store.update("configs", "", "cluster", |object| object["spec"] = spec.clone()) {
            store.create("configs", json!({ "metadata": { "name": "cluster" }, "spec": spec }));
        }
    }

    /// Changes the pod spec of the Deployment and of all pods.
    fn configure(&self, change: impl Fn(&mut Value)) {
        let store = self.cluster.sandbox().store();
        store
            .update("deployments", NAMESPACE, NAME, |object| change(&mut object["spec"]["template"]["spec"]));
        for pod in store.list("pods") {
            let name = pod["metadata"]["name"].as_str().unwrap();
            assert!(store.update("pods", NAMESPACE, name, |object| change(&mut object["spec"])));
        }
    }

    /// Sets variables, in place of those that are there.
    fn set(&self, variables: &Value) {
        self.configure(|spec| {
            let env = spec["containers"][0]["env"].as_array_mut().unwrap();
            for variable in variables.as_array().unwrap() {
                env.retain(|there| there["name"] != variable["name"]);
                env.push(variable.clone());
            }
        });
    }

    fn unset(&self, names: &[&str]) {
        self.configure(|spec| {
            let env = spec["containers"][0]["env"].as_array_mut().unwrap();
            env.retain(|there| names.iter().all(|name| there["name"] != *name));
        });
    }

    fn secret(&self, name: &str, keys: &[(&str, &str)]) {
        let encoded =
            |text: &str| Value::from(base64::engine::general_purpose::STANDARD.encode(text.as_bytes()));
        let data: serde_json::Map<String, Value> =
            keys.iter().map(|(key, text)| ((*key).to_owned(), encoded(text))).collect();
        let metadata = json!({ "namespace": NAMESPACE, "name": name });
        self.cluster.sandbox().store().create("secrets", json!({ "metadata": metadata, "data": data }));
    }

    /// A registry whose configuration file is mounted from a Secret.
    fn mount(&self, text: &str) {
        self.secret("registry-config", &[("config.yml", text)]);
        // The operator's variables would win over the file.
        self.unset(&["REGISTRY_STORAGE", DESCRIPTOR]);
        self.configure(|spec| {
            spec["volumes"] = json!([{ "name": "config", "secret": { "secretName": "registry-config" } }]);
            let mount = json!({ "name": "config", "mountPath": "/config.yml", "subPath": "config.yml" });
            spec["containers"][0]["volumeMounts"].as_array_mut().unwrap().push(mount);
        });
    }

    /// Runs it, and looks for passwords.
    fn run(&self, user: &str, args: &[&str]) -> Ran {
        let plugin = Plugin::new();
        let kubeconfig = self.cluster.kubeconfig(plugin.home(), user);
        let ran = plugin.args(["cache", "status", "--kubeconfig"]).arg(kubeconfig).args(args).run();
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(PASSWORD), "a password is shown\n{ran}");
        let encoded = base64::engine::general_purpose::STANDARD.encode(PASSWORD);
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(&encoded), "a password is shown\n{ran}");
        ran
    }

    fn json(&self, user: &str) -> Value {
        // Both in one: the log must not show passwords, and must not disturb the document.
        let status = self.run(user, &["-o", "json", "--v=10"]).exits(0).json();
        let schema: Value = serde_json::from_str(include_str!("../docs/schema/cache-status.json")).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let errors: Vec<String> = validator.iter_errors(&status).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}\n{status:#}");
        status
    }
}

fn rights(status: &Value, allowed: &str) -> Vec<String> {
    let rights = status["rights"].as_array().unwrap().iter();
    let these = rights.filter(|right| right["allowed"] == allowed);
    these.map(|right| right["right"].as_str().unwrap().to_owned()).collect()
}

fn unreadable(status: &Value) -> Vec<&str> {
    status["unreadable"].as_array().unwrap().iter().map(|entry| entry["what"].as_str().unwrap()).collect()
}

fn redis_variables(password: &Value) -> Value {
    json!([
        { "name": DESCRIPTOR, "value": "redis" },
        { "name": "REGISTRY_REDIS_ADDR", "value": "redis.infra.svc:6379" },
        { "name": "REGISTRY_REDIS_DB", "value": "3" },
        password,
    ])
}

#[test]
fn the_registry_as_the_operator_makes_it() {
    let registry = Registry::start(2);
    let ran = registry.run("admin", &[]).exits(0);
    for line in [
        "Registry: deployment/image-registry in namespace openshift-image-registry, 2 of 2 replica(s) ready\n",
        "Operator: Managed\n",
        "Digest cache: on, an entry lives for 10m (the image's own configuration file)\n",
        "Descriptor cache: inmemory, none of its own (variable REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR)\n",
        "  yes  create pods/eviction in namespace openshift-image-registry ",
        "Cache step: evict: each of 2 registry replica(s) forgets each blob right after it is deleted\n",
    ] {
        ran_prints(&ran, line);
    }
    for replica in 0..2 {
        let pod = registry.cluster.pod_name(replica);
        let line = ran.stdout.lines().find(|line| line.contains(&pod)).unwrap();
        assert!(line.contains(&format!("worker-{replica}")) && line.ends_with("ready  direct"), "{line}");
    }
    assert!(!ran.stdout.contains("Redis:") && !ran.stdout.contains("What is missing"), "{ran}");
    assert!(
        registry
            .cluster
            .sandbox()
            .request_log()
            .mutations()
            .iter()
            .all(|entry| entry.path.ends_with("/selfsubjectaccessreviews"))
    );
}

#[track_caller]
fn ran_prints(ran: &Ran, text: &str) {
    assert!(ran.stdout.contains(text), "expected in stdout: {text}\n{ran}");
}

#[test]
fn the_pruner_alone_sees_the_caches_and_what_is_missing() {
    let registry = Registry::start(1);
    let status = registry.json("pruner");
    assert_eq!(status["apiVersion"], "prune-images/v1alpha1");
    assert_eq!(status["kind"], "CacheStatus");
    assert_eq!(status["registry"]["state"], "found");
    assert_eq!(status["registry"]["rollingOut"], false);
    assert_eq!(status["operator"], json!({ "state": "unknown" }));
    assert_eq!(status["caches"]["digestCache"]["state"], "on");
    assert_eq!(status["caches"]["digestCache"]["ttlSeconds"], 600.0);
    assert_eq!(status["caches"]["descriptorCache"]["state"], "inmemory");
    assert_eq!(status["replicas"][0]["reach"], "direct");
    assert_eq!(unreadable(&status), ["the operator's configuration"]);
    assert_eq!(
        rights(&status, "yes"),
        [
            "list pods in namespace openshift-image-registry",
            "get deployments.apps/image-registry in namespace openshift-image-registry",
            "delete images.image.openshift.io in the whole cluster",
        ]
    );
    let missing = rights(&status, "no");
    for right in [
        "get imagestreams.image.openshift.io/layers in the whole cluster",
        "create pods/portforward in namespace openshift-image-registry",
        "create pods/eviction in namespace openshift-image-registry",
        "delete pods in namespace openshift-image-registry",
        "patch deployments.apps/image-registry in namespace openshift-image-registry",
        "update configs.imageregistry.operator.openshift.io/cluster in the whole cluster",
    ] {
        assert!(missing.iter().any(|denied| denied == right), "{right}: {missing:?}");
    }
    assert_eq!(status["cacheStep"]["step"], "evict", "{status}");
    registry
        .run("pruner", &[])
        .exits(0)
        .prints("  oc adm policy add-cluster-role-to-user registry-viewer <user>\n")
        .prints("Operator: not known, it may manage the registry\n");
}

#[test]
fn nobody_is_told_what_is_missing() {
    let registry = Registry::start(1);
    let status = registry.json("nobody");
    assert_eq!(status["registry"]["state"], "unknown");
    assert!(status.get("caches").is_none() && status.get("replicas").is_none(), "{status:#}");
    assert_eq!(
        unreadable(&status),
        [
            "deployment openshift-image-registry/image-registry",
            "the pods in namespace openshift-image-registry",
            "the operator's configuration",
        ]
    );
    assert!(rights(&status, "yes").is_empty());
    registry
        .run("nobody", &[])
        .exits(0)
        .prints("Registry: image-registry in namespace openshift-image-registry is not known\n")
        .prints("Replicas: not known\n")
        .prints("    oc adm policy add-cluster-role-to-user system:image-pruner <user>\n")
        .prints("Cache step: wait: the registry may have a Redis: ");
}

#[test]
fn a_redis_in_variables_is_shown_without_its_password() {
    let registry = Registry::start(1);
    registry.manage("Unmanaged");
    registry.set(&redis_variables(&json!({ "name": "REGISTRY_REDIS_PASSWORD", "value": PASSWORD })));
    registry.set(&json!([{ "name": "REGISTRY_REDIS_TLS_ENABLED", "value": "true" }]));
    let status = registry.json("pruner");
    let expected = json!({
        "url": "rediss://redis.infra.svc:6379/3",
        "addresses": ["redis.infra.svc:6379"],
        "topology": "single",
        "database": 3,
        "tls": true,
        "password": "set",
        "passwordConfigured": "variable REGISTRY_REDIS_PASSWORD",
        "unknown": [],
    });
    assert_eq!(status["caches"]["redis"], expected);
    let ran = registry.run("admin", &["-o", "yaml", "-v=10"]).exits(0);
    ran_prints(&ran, "kind: CacheStatus\n");
    ran_prints(&ran, "managementState: Unmanaged\n");
    ran.prints("cacheStep:\n  step: evict\n");
}

#[test]
fn a_password_in_a_secret_is_read_by_who_may() {
    let registry = Registry::start(1);
    registry.secret("redis", &[("password", PASSWORD)]);
    registry.set(&redis_variables(&json!({
        "name": "REGISTRY_REDIS_PASSWORD",
        "valueFrom": { "secretKeyRef": { "name": "redis", "key": "password" } },
    })));
    let at = "variable REGISTRY_REDIS_PASSWORD, key password of secret openshift-image-registry/redis";
    for user in ["reader", "admin"] {
        let redis = &registry.json(user)["caches"]["redis"];
        assert_eq!(
            (&redis["password"], &redis["url"]),
            (&json!("set"), &json!("redis://redis.infra.svc:6379/3"))
        );
        assert_eq!(redis["passwordConfigured"], at);
    }
    let status = registry.json("pruner");
    let redis = &status["caches"]["redis"];
    assert_eq!((&redis["password"], redis.get("url")), (&json!("unknown"), None));
    assert_eq!(redis["addresses"], json!(["redis.infra.svc:6379"]));
    let entry = &status["unreadable"][1];
    assert_eq!(entry["what"], "secret openshift-image-registry/redis");
    assert_eq!(entry["right"], "get secrets/redis in namespace openshift-image-registry");
    assert!(
        rights(&status, "no").contains(&"get secrets/redis in namespace openshift-image-registry".to_owned())
    );
    registry
        .run("pruner", &[])
        .exits(0)
        .prints("password unknown (variable REGISTRY_REDIS_PASSWORD, key password of secret")
        .prints("oc create role prune-images-get-secrets-redis --verb=get --resource=secrets --resource-name=redis")
        .prints("Cache step: evict: each of 1 registry replica(s) forgets each blob right after it is deleted; the registry's Redis (unknown) cannot be spoken to: the password stands in secret")
        .prints("  left as it is: the registry's Redis (unknown)");
    let log = registry.cluster.sandbox().request_log();
    let read = log.filter(|entry| entry.path.contains("/secrets/"));
    let read: std::collections::BTreeSet<_> = read.iter().map(|entry| entry.path.clone()).collect();
    assert_eq!(read.len(), 1, "none but the one that matters: {read:?}");
}

const FILE: &str = "\
version: 0.1
storage:
  cache:
    blobdescriptor: redis
  filesystem:
    rootdirectory: /registry
redis:
  addrs: [sentinel-0:26379, sentinel-1:26379]
  mastername: mymaster
  username: registry
  password: geheim-7c1e
  tls:
    rootcas: [/etc/redis/ca.crt]
";

#[test]
fn a_mounted_configuration_file_is_read_by_who_may() {
    let registry = Registry::start(1);
    registry.mount(FILE);
    let status = registry.json("reader");
    assert_eq!(status["caches"]["digestCache"]["state"], "on", "no section: the registry's own default");
    assert_eq!(status["caches"]["digestCache"]["ttlSeconds"], 600.0);
    let redis = &status["caches"]["redis"];
    assert_eq!(redis["url"], "rediss-sentinel://registry@sentinel-0:26379,sentinel-1:26379/mymaster");
    assert_eq!((&redis["topology"], &redis["password"]), (&json!("sentinel"), &json!("set")));
    let at = "the configuration file, key config.yml of secret openshift-image-registry/registry-config";
    assert_eq!(redis["passwordConfigured"], at);
    assert_eq!(status["caches"]["descriptorCache"]["configured"], json!([at]));

    registry.set(&json!([{ "name": "REGISTRY_OPENSHIFT_CACHE_DISABLED", "value": "false" }]));
    let status = registry.json("reader");
    assert_eq!(status["caches"]["digestCache"]["state"], "off", "no section: entries live for no time");

    let status = registry.json("pruner");
    assert_eq!(status["caches"]["digestCache"]["state"], "unknown");
    assert_eq!(status["caches"]["descriptorCache"]["state"], "unknown");
    assert_eq!(
        status["caches"]["descriptorCache"]["reason"],
        "secret openshift-image-registry/registry-config cannot be read"
    );
    registry
        .run("pruner", &[])
        .exits(0)
        .prints(
            "Descriptor cache: may be redis: secret openshift-image-registry/registry-config cannot be read",
        )
        .prints("the registry may have a Redis: its configuration cannot be read (missing right: get secrets/registry-config in namespace openshift-image-registry)");
}

#[test]
fn a_disabled_cache_needs_no_step_unless_a_pod_still_has_one() {
    let registry = Registry::start(2);
    registry.set(&json!([{ "name": "REGISTRY_OPENSHIFT_CACHE_DISABLED", "value": "true" }]));
    let status = registry.json("pruner");
    assert_eq!(status["caches"]["digestCache"]["state"], "off");
    assert_eq!(
        status["caches"]["digestCache"]["configured"][1],
        "variable REGISTRY_OPENSHIFT_CACHE_DISABLED"
    );
    assert_eq!(status["cacheStep"]["message"], "none needed: the registry's caches are off");
    assert_eq!(status["caches"]["otherPods"], json!([]));

    // A pod from before.
    let pod = registry.cluster.pod_name(1);
    registry.cluster.sandbox().store().update("pods", NAMESPACE, &pod, |object| {
        let env = object["spec"]["containers"][0]["env"].as_array_mut().unwrap();
        env.retain(|variable| variable["name"] != "REGISTRY_OPENSHIFT_CACHE_DISABLED");
    });
    let status = registry.json("pruner");
    assert_eq!(status["caches"]["digestCache"]["state"], "on");
    assert_eq!(status["caches"]["otherPods"], json!([pod]));
}

#[test]
fn settings_that_keep_the_registry_from_starting_are_told() {
    let registry = Registry::start(1);
    registry.set(&json!([{ "name": DESCRIPTOR, "value": "" }]));
    registry.run("pruner", &[]).exits(0).prints(
        "Descriptor cache: the registry does not start: REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR is empty",
    );
}

#[test]
fn replicas_that_cannot_be_reached_are_reached_through_a_port_forward() {
    let registry = Registry::start(2);
    registry.cluster.disconnect_replica(1);
    let reach = |status: &Value| {
        let replicas = status["replicas"].as_array().unwrap().iter();
        replicas.map(|replica| replica["reach"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(reach(&registry.json("pruner")), ["direct", "notFromHere"]);
    assert_eq!(reach(&registry.json("forwarder")), ["direct", "portForward"]);
    registry
        .run("pruner", &[])
        .exits(0)
        .prints("  not from here\n")
        .prints("Cache step: wait: 10m after the last deletion")
        .prints("cannot be reached from here");
    registry.run("forwarder", &[]).exits(0).prints("  port-forward\n").prints(
        "Cache step: evict: each of 2 registry replica(s) (1 directly, 1 by port-forward) forgets each blob",
    );
}

#[test]
fn a_pod_that_is_not_ready_says_why() {
    let registry = Registry::start(1);
    registry.cluster.sandbox().store().create(
        "pods",
        json!({
            "metadata": { "namespace": NAMESPACE, "name": "new", "labels": { "docker-registry": "default" } },
            "spec": { "containers": [{ "name": "registry" }] },
            "status": { "phase": "Pending", "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes\u{1b}[2J",
            }] },
        }),
    );
    let ran = registry.run("pruner", &[]).exits(0);
    ran_prints(&ran, "  new: Unschedulable: 0/3 nodes\\u{1b}[2J\n");
    assert_eq!(registry.json("pruner")["replicas"].as_array().unwrap().len(), 2);
}

#[test]
fn a_cluster_without_a_registry_is_no_failure() {
    let registry = Registry::start(1);
    let store = registry.cluster.sandbox().store();
    registry.manage("Removed");
    store.delete("deployments", NAMESPACE, NAME);
    registry.cluster.stop_replica(0);
    registry
        .run("admin", &[])
        .exits(0)
        .prints("Registry: none: there is no image-registry in namespace openshift-image-registry, and no pod of it\n")
        .prints("Operator: Removed\n")
        .prints("Cache step: none: there is no deployment/image-registry in namespace openshift-image-registry");
    assert_eq!(registry.json("admin")["registry"]["state"], "absent");
}

#[test]
fn the_registry_of_an_old_cluster_is_found_and_another_one_by_its_name() {
    let registry = Registry::start(1);
    let store = registry.cluster.sandbox().store();
    let spec = |value: &str| {
        json!({
            "replicas": 2,
            "selector": { "docker-registry": "default" },
            "template": { "spec": { "containers": [{ "name": "registry", "env": [
                { "name": "REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL", "value": value },
            ] }] } },
        })
    };
    for (namespace, name, ttl) in [("default", "docker-registry", "1m"), ("other", "mine.too", "2m")] {
        let metadata = json!({ "namespace": namespace, "name": name });
        store.create("deploymentconfigs", json!({ "metadata": metadata, "spec": spec(ttl) }));
    }
    let other = ["--registry-namespace=other", "--registry-deployment=mine.too"];
    registry
        .run("pruner", &other)
        .exits(0)
        .prints("Registry: deploymentconfig/mine.too in namespace other, 0 of 2 replica(s) ready")
        .prints(
            "Digest cache: on, an entry lives for 2m (variable REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL)\n",
        );
    store.delete("deployments", NAMESPACE, NAME);
    registry
        .run("pruner", &[])
        .exits(0)
        .prints("Registry: deploymentconfig/docker-registry in namespace default")
        .prints("an entry lives for 1m");
}

#[test]
fn an_api_server_that_cannot_be_reached_is_a_failure() {
    let plugin = Plugin::new().args(["cache", "status", "--server=https://127.0.0.1:1", "--token=x"]);
    plugin.run().exits(1).says("error: reach the API server: ").says("connection refused");
    let registry = Registry::start(1);
    let plugin = Plugin::new().args(["cache", "status", "--token=wrong", "--kubeconfig"]);
    let kubeconfig = registry.cluster.kubeconfig(plugin.home(), "pruner");
    plugin.arg(kubeconfig).run().exits(1).says("Unauthorized");
    Plugin::new().args(["cache", "status", "--registry-namespace=a/../b"]).run().exits(2);
}
