//! `cronjob` and `job`: what they print, what `kubectl` and the API server make of it, and that a run with the rights that
//! these objects give does what it should, and says so where one of them is missing.
//!
//! `UPDATE_MANIFESTS=1 cargo test --test schedule` writes `tests/schedule/cronjob.yaml` anew.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests: whatever is wrong here fails them"
)]

mod common;
#[path = "common/load.rs"]
mod load;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Plugin, Ran};
use load::{Site, SiteConfig};
use sandbox::api::Store;
use sandbox::redis::Server;
use sandbox::registry::RedisCache;
use sandbox::{Config, Operator, Pace, Sandbox};
use serde_json::{Value, json};

const NAMESPACE: &str = "openshift-image-registry";
const ACCOUNT: &str = "system:serviceaccount:openshift-image-registry:prune-images";
const REDIS_PASSWORD: &str = "geheim-7d1c";
const SECRET: &str = "image-registry-private-configuration";

fn cronjob(args: &[&str]) -> Ran {
    Plugin::new().arg("cronjob").args(args).run()
}

fn items(list: &Value) -> Vec<Value> {
    assert_eq!((list["kind"].as_str(), list["apiVersion"].as_str()), (Some("List"), Some("v1")), "{list}");
    list["items"].as_array().unwrap().clone()
}

fn find(items: &[Value], kind: &str) -> Value {
    items.iter().find(|item| item["kind"] == kind).cloned().unwrap_or_default()
}

fn pod(job: &Value) -> &Value {
    let template = if job["kind"] == "Job" {
        &job["spec"]["template"]
    } else {
        &job["spec"]["jobTemplate"]["spec"]["template"]
    };
    assert!(template.is_object(), "{job}");
    template
}

fn args(job: &Value) -> Vec<String> {
    let args = pod(job)["spec"]["containers"][0]["args"].as_array().unwrap().iter();
    args.map(|arg| arg.as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_objects_are_these() {
    let ran = cronjob(&[
        "--schedule=30 2 * * *",
        "--timezone=Europe/Vienna",
        "--keep-tag-revisions=5",
        "--keep-younger-than=96h",
        "--referrers-from=rollouts.argoproj.io",
        "--registry-cache=restart",
        "--check=all",
        "--redis-url=rediss://prune@redis.cache.svc:6379",
        "--redis-secret=redis/password",
        "--limits=memory=1Gi",
    ])
    .exits(0);
    // The next runs depend on the time, and are tested where that is given.
    let mut shown = String::new();
    let mut times = 0;
    for line in ran.stdout.lines() {
        if line.starts_with("#   2") {
            times += 1;
            assert!(line.contains(" 02:30 +0"), "{line}");
        } else {
            shown.push_str(line);
            shown.push('\n');
        }
    }
    assert_eq!(times, 3, "{ran}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schedule/cronjob.yaml");
    if std::env::var_os("UPDATE_MANIFESTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &shown).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written == shown, "tests/schedule/cronjob.yaml is not current:\n{shown}");
    let parsed: Value = serde_saphyr::from_str(&ran.stdout).unwrap();
    assert_eq!(items(&parsed).len(), 8, "{ran}");
}

#[test]
fn pods_pass_as_they_are_and_carry_the_label() {
    let list = cronjob(&["-o", "json"]).exits(0).json();
    let job = find(&items(&list), "CronJob");
    let pod = pod(&job);
    assert_eq!(pod["metadata"]["labels"]["app"], "image-pruner");
    let spec = &pod["spec"];
    assert_eq!(
        spec["securityContext"],
        json!({ "runAsNonRoot": true, "seccompProfile": { "type": "RuntimeDefault" } })
    );
    let container = &spec["containers"][0];
    assert_eq!(
        container["securityContext"],
        json!({ "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": { "drop": ["ALL"] } })
    );
    assert_eq!(spec["restartPolicy"], "Never");
    let jobs = &job["spec"];
    assert_eq!(
        (&jobs["concurrencyPolicy"], &jobs["jobTemplate"]["spec"]["backoffLimit"]),
        (&json!("Forbid"), &json!(0))
    );
    let elsewhere =
        cronjob(&["-o", "json", "--job-namespace=pruning", "--registry-cache=restart"]).exits(0).json();
    let items = items(&elsewhere);
    assert_eq!(self::pod(&find(&items, "CronJob"))["metadata"]["labels"].get("app"), None);
    // The right is needed where the registry is, whoever has it.
    let (role, binding) = (find(&items, "Role"), find(&items, "RoleBinding"));
    assert_eq!(
        (&role["metadata"]["namespace"], &binding["metadata"]["namespace"]),
        (&json!(NAMESPACE), &json!(NAMESPACE))
    );
    assert_eq!(binding["subjects"][0]["namespace"], "pruning");
}

#[test]
fn only_what_is_needed_is_given() {
    let none: [&str; 0] = [];
    let rules = |flags: &[&str]| -> Vec<String> {
        let list = cronjob(&[&["-o", "json"], flags].concat()).exits(0).json();
        let granted = items(&list).into_iter().filter(|item| item["rules"].is_array());
        let given = granted.flat_map(|role| role["rules"].as_array().unwrap().clone());
        let (always, further): (Vec<String>, Vec<String>) = given
            .map(|rule| rule_text(&rule))
            .partition(|given| PROTECTING.iter().any(|(rule, ..)| given == rule));
        assert_eq!(always.len(), PROTECTING.len(), "{always:?}");
        further
    };
    for flags in [
        &["--registry-cache=evict"][..],
        &["--registry-cache=auto"],
        &["--registry-cache=wait"],
        &["--registry-cache=flush"],
        &["--registry-cache=none", "--registry-secret=x"],
        &["--registry-cache=restart", "--check=all", "--prune-registry=false"],
    ] {
        assert_eq!(rules(flags), none, "{flags:?}");
    }
    assert_eq!(rules(&["--registry-cache=restart"]), ["create pods/eviction"]);
    assert_eq!(
        rules(&["--registry-cache=disable"]),
        ["get configs/cluster", "update deployments/image-registry"]
    );
    assert_eq!(
        rules(&["--registry-cache=disable", "--registry-namespace=a", "--registry-deployment=b"]),
        ["update deployments/b"]
    );
    assert_eq!(rules(&["--check=sample"]), ["get imagestreams/layers"]);
    assert_eq!(rules(&["--referrers-from=a.b,a.v1.b,c"]), ["list a", "list c"]);
    assert_eq!(
        rules(&["--registry-secret=s", "--registry-configmap=c"]),
        ["get configmaps/c", "get secrets/s"]
    );
    assert_eq!(rules(&["--registry-secret=s", "--redis-url=redis://r"]), none);
}

fn rule_text(rule: &Value) -> String {
    let text = |field: &str| rule[field][0].as_str().unwrap_or_default().to_owned();
    let name = rule["resourceNames"][0].as_str().map(|name| format!("/{name}")).unwrap_or_default();
    format!("{} {}{name}", text("verbs"), text("resources"))
}

#[test]
fn with_a_claim_the_job_first_finishes_what_was_cut_short() {
    let flags = [
        "-o",
        "json",
        "--journal-claim=journal",
        "--keep-tag-revisions=5",
        "--namespace=shop",
        "--selector=a=b",
        "--registry-cache=restart",
        "--timeout=1h",
        "--metrics-file=/m",
        "--num-workers=2",
    ];
    let job = find(&items(&cronjob(&flags).exits(0).json()), "CronJob");
    let spec = &pod(&job)["spec"];
    assert_eq!(
        spec["volumes"][0],
        json!({ "name": "state", "persistentVolumeClaim": { "claimName": "journal" } })
    );
    let first = &spec["initContainers"][0];
    let container = &spec["containers"][0];
    for field in ["image", "env", "volumeMounts", "securityContext", "resources"] {
        assert_eq!(first[field], container[field], "{field}");
    }
    assert_eq!(
        first["args"],
        json!([
            "resume",
            "--confirm",
            "--num-workers=2",
            "--timeout=1h",
            "--registry-cache=restart",
            "--check=off",
            "--verify=off",
            "--certificate-authority=/var/run/configmaps/serviceca/service-ca.crt",
        ])
    );
    let without = find(&items(&cronjob(&["-o", "json"]).exits(0).json()), "CronJob");
    let spec = &pod(&without)["spec"];
    assert_eq!(
        (&spec["volumes"][0], &spec["initContainers"]),
        (&json!({ "name": "state", "emptyDir": {} }), &json!(null))
    );
    cronjob(&["--journal-claim=A"]).exits(2).says("\"A\" for \"--journal-claim\" flag");
}

#[test]
fn a_job_is_a_job() {
    let ran =
        Plugin::new().args(["job", "-o", "json", "-n", "shop", "--num-workers=2", "-v", "3"]).run().exits(0);
    let job = find(&items(&ran.json()), "Job");
    let name = job["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("prune-images-20"), "{name}");
    assert_eq!(
        args(&job),
        [
            "--confirm",
            "--namespace=shop",
            "--num-workers=2",
            "--v=3",
            "--check=off",
            "--verify=off",
            "--certificate-authority=/var/run/configmaps/serviceca/service-ca.crt"
        ]
    );
    let named = Plugin::new().args(["job", "-o", "json", "--name=once"]).run().exits(0);
    assert_eq!(find(&items(&named.json()), "Job")["metadata"]["name"], "once");
}

#[test]
fn mistakes_are_told_before_anything_is_printed() {
    for (flags, message, hint) in [
        (&["--schedule=0 0 3 * * *"][..], "for \"--schedule\" flag: it has 6 fields", "there are no seconds"),
        (
            &["--schedule=TZ=UTC 0 3 * * *"],
            "the time zone does not belong into it",
            "--timezone=Europe/Vienna",
        ),
        (&["--schedule=0 0 L * *"], "L is not between 1 and 31", "--schedule='30 2 * * *'"),
        (
            &["--timezone=Europe/Wien"],
            "there is no such time zone in the IANA database",
            "--timezone=Etc/UTC",
        ),
        (&["--keep-tag-revisions=-1"], "--keep-tag-revisions must be greater than or equal to 0", "--help"),
        (&["--keep-younger-than=3d"], "time: unknown unit \"d\"", "--keep-younger-than=72h"),
        (&["--num-workers=x"], "for \"--num-workers\" flag", "--help"),
        (&["--registry-cache=all"], "for \"--registry-cache\" flag: it must be one of", "--help"),
        (&["--name=Prune"], "for \"--name\" flag: it has at most 52", "--help"),
        (&["--job-namespace=a.b"], "for \"--job-namespace\" flag: a namespace has", "--help"),
        (
            &["--requests=cpu=much"],
            "\"cpu=much\" for \"--requests\" flag",
            "--requests=cpu=100m,memory=256Mi",
        ),
        (&["--report=page.html"], "--report cannot be carried into the job", "--dry-run --report=FILE"),
        (
            &["--redis-password-file=p"],
            "--redis-password-file: the job has no file of this machine",
            "--redis-secret=NAME/KEY",
        ),
        (
            &["--redis-url=redis://:geheim@r"],
            "--redis-url: everybody who may read jobs would see its password",
            "--redis-secret",
        ),
        (
            &["--redis-url=redis://u@r"],
            "--redis-url names a user, and there is no password",
            "--redis-secret=NAME/KEY",
        ),
        (&["--redis-secret=redis"], "\"redis\" for \"--redis-secret\" flag", "--redis-secret=NAME/KEY"),
        (&["--confirm"], "--confirm needs --apply", "the job itself always has --confirm"),
        (&["--apply", "-o", "json"], "--output cannot be specified with --apply", "leave --apply out"),
        (&["--failed-jobs-history-limit=-1"], "it must be between 0 and 2147483647", "--help"),
        (&["--image=a b"], "it is no pull spec", "--help"),
        (&["now"], "no arguments are allowed to this command", "--help"),
    ] {
        let ran = cronjob(flags).exits(2).says(message).says(hint).does_not_say("geheim");
        assert_eq!(ran.stdout, "", "{ran}");
    }
}

#[test]
fn what_is_secret_and_who_is_trusted_come_from_files() {
    let authority = Sandbox::start(Config::default()).ca_pem();
    let plugin = Plugin::new().file("ca.crt", &authority).args([
        "job",
        "-o",
        "json",
        "--certificate-authority=ca.crt",
        "--registry-url=https://registry.example.com",
        "--redis-url=rediss://redis.example.com",
        "--redis-ca=ca.crt",
        "--redis-secret=redis/pass",
        "--redis-client-secret=client",
    ]);
    let list = plugin.run().exits(0).json();
    let items = items(&list);
    let map = find(&items, "ConfigMap");
    assert_eq!(
        (map["data"]["ca.crt"].as_str(), map["data"]["redis-ca.crt"].as_str()),
        (Some(&*authority), Some(&*authority))
    );
    let job = find(&items, "Job");
    let args = args(&job);
    for arg in [
        "--registry-url=https://registry.example.com",
        "--certificate-authority=/var/run/configmaps/given/ca.crt",
        "--redis-ca=/var/run/configmaps/given/redis-ca.crt",
        "--redis-password-file=/var/run/secrets/redis/password/password",
        "--redis-client-certificate=/var/run/secrets/redis/client/tls.crt",
        "--redis-client-key=/var/run/secrets/redis/client/tls.key",
    ] {
        assert!(args.iter().any(|known| known == arg), "{arg}: {args:?}");
    }
    // A route is vouched for by another authority than the replicas: theirs is read.
    let role = find(&items, "Role");
    let rules: Vec<String> = role["rules"].as_array().unwrap().iter().map(rule_text).collect();
    assert!(rules.contains(&"get configmaps/openshift-service-ca.crt".to_owned()), "{rules:?}");
    let volumes = pod(&job)["spec"]["volumes"].as_array().unwrap();
    let mounts = pod(&job)["spec"]["containers"][0]["volumeMounts"].as_array().unwrap();
    let names = |list: &[Value]| {
        list.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(volumes), names(mounts));
    assert_eq!(volumes.len(), 4, "{volumes:?}");
}

/// Runs the real `kubectl` as the administrator; `None` where it is not installed.
fn kubectl(sandbox: &Sandbox, args: &[&str], input: &str) -> Option<String> {
    let home = tempfile::tempdir().unwrap();
    let kubeconfig = sandbox.write_kubeconfig(home.path(), "admin");
    let mut command = Command::new("kubectl");
    command.env("HOME", home.path()).arg("--kubeconfig").arg(kubeconfig).args(args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut child) = command.spawn() else {
        eprintln!("skipped: kubectl is missing; apt-get install kubernetes-client");
        return None;
    };
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "kubectl {args:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    Some(text(&output.stdout))
}

#[test]
fn kubectl_applies_them() {
    let sandbox = Sandbox::start(Config::default());
    let flags = ["--registry-cache=restart", "--check=all", "--keep-tag-revisions=5"];
    let printed = cronjob(&flags).exits(0).stdout;
    let Some(created) = kubectl(&sandbox, &["apply", "-f", "-"], &printed) else { return };
    assert_eq!(created.lines().filter(|line| line.ends_with(" created")).count(), 8, "{created}");
    let again = kubectl(&sandbox, &["apply", "-f", "-"], &printed).unwrap();
    assert!(again.lines().all(|line| line.ends_with(" unchanged")), "{again}");
    for item in items(&cronjob(&[&["-o", "json"], &flags[..]].concat()).exits(0).json()) {
        let plural = format!("{}s", item["kind"].as_str().unwrap().to_lowercase());
        let text = |field: &str| item["metadata"][field].as_str().unwrap_or_default().to_owned();
        let stored = sandbox.store().get(&plural, &text("namespace"), &text("name")).unwrap();
        for part in ["spec", "rules", "roleRef", "subjects"] {
            assert_eq!(stored.get(part), item.get(part), "{plural} {part}");
        }
    }
    let shown =
        kubectl(&sandbox, &["get", "cronjob.batch/prune-images", "-n", NAMESPACE, "-o", "name"], "").unwrap();
    assert_eq!(shown, "cronjob.batch/prune-images\n");
}

/// A run of a command that speaks with a sandbox, as the administrator.
fn as_admin(sandbox: &Sandbox, command: &str, args: &[&str]) -> Ran {
    let plugin = Plugin::new();
    let kubeconfig = sandbox.write_kubeconfig(plugin.home(), "admin");
    plugin.arg(command).arg("--kubeconfig").arg(kubeconfig).args(args).run()
}

#[test]
fn applying_shows_what_changes_and_changes_it_when_told_to() {
    let sandbox = Sandbox::start(Config::default());
    let run = |args: &[&str]| as_admin(&sandbox, "cronjob", args);
    let before = sandbox.store().revision();
    run(&["--apply"])
        .exits(0)
        .prints("--- (none)\n+++ cronjob.batch/prune-images (created)\n")
        .says("8 object(s) would change - nothing was. Add --confirm to apply them");
    assert_eq!(sandbox.store().revision(), before);
    run(&["--apply", "--confirm"]).exits(0).prints("cronjob.batch/prune-images applied\n");
    let cron = sandbox.store().get("cronjobs", NAMESPACE, "prune-images").unwrap();
    assert_eq!(cron["metadata"]["managedFields"][0]["manager"], "oc-prune-images");
    let ran = run(&["--apply"]).exits(0).says("Nothing would change.");
    assert_eq!(ran.stdout, "");
    run(&["--apply", "--confirm"]).exits(0).prints("cronjob.batch/prune-images unchanged\n");
    let other = ["--apply", "--schedule=0 5 * * *", "--keep-tag-revisions=7"];
    run(&other)
        .exits(0)
        .prints("-  schedule: 0 1 * * *\n+  schedule: 0 5 * * *\n")
        .prints("+            - --keep-tag-revisions=7\n");
    // What somebody else has set since is theirs.
    let edit = json!({ "spec": { "schedule": "0 4 * * *" } }).to_string();
    if kubectl(
        &sandbox,
        &["patch", "cronjob", "prune-images", "-n", NAMESPACE, "--type=merge", "-p", &edit],
        "",
    )
    .is_none()
    {
        return;
    }
    run(&[&other[..], &["--confirm"]].concat())
        .exits(1)
        .says("error: apply cronjob.batch/prune-images: conflict: Apply failed with 1 conflict: conflict with \"kubectl")
        .says("hint: take these fields over from whoever set them: oc prune-images cronjob --schedule='0 5 * * *'")
        .says("--apply --confirm --force-conflicts");
    run(&[&other[..], &["--confirm", "--force-conflicts"]].concat()).exits(0);
    let cron = sandbox.store().get("cronjobs", NAMESPACE, "prune-images").unwrap();
    assert_eq!(cron["spec"]["schedule"], "0 5 * * *");
}

#[test]
fn who_may_not_give_rights_is_told_so() {
    let rights = sandbox::api::Rule::new(
        &["get", "patch", "create"],
        &["", "batch", "rbac.authorization.k8s.io"],
        &["serviceaccounts", "configmaps", "cronjobs", "roles", "rolebindings", "clusterrolebindings"],
    );
    let sandbox = Sandbox::start(Config::default().user("editor", "editor", vec![rights]));
    let plugin = Plugin::new();
    let kubeconfig = sandbox.write_kubeconfig(plugin.home(), "editor");
    let plugin = plugin.args(["cronjob", "--apply", "--confirm", "--kubeconfig"]).arg(kubeconfig);
    plugin
        .run()
        .exits(1)
        .says("error: apply clusterrolebinding.rbac.authorization.k8s.io/openshift-image-registry-prune-images: forbidden")
        .says("attempting to grant RBAC permissions not currently held")
        .says("hint: only who has a right may give it: apply it as a cluster administrator");
    assert!(sandbox.store().names("cronjobs").is_empty());
}

/// A cluster whose own pruner is set to this, with the job of its operator.
fn with_own_pruner(spec: &Value, active: &[&str]) -> Sandbox {
    let sandbox = Sandbox::start(Config::default().with_group("imageregistry.operator.openshift.io"));
    let store = sandbox.store();
    store.create("imagepruners", json!({ "metadata": { "name": "cluster" }, "spec": spec }));
    let active: Vec<Value> = active.iter().map(|name| json!({ "name": name })).collect();
    store.create(
        "cronjobs",
        json!({
            "metadata": { "namespace": NAMESPACE, "name": "image-pruner" },
            "spec": { "schedule": spec["schedule"], "suspend": spec["suspend"] },
            "status": { "active": active },
        }),
    );
    sandbox
}

const SUSPEND: &str = "oc patch imagepruners.imageregistry.operator.openshift.io/cluster --type=merge -p '{\"spec\":{\"suspend\":true}}'";

#[test]
fn the_settings_of_the_clusters_own_pruner_are_taken() {
    let spec = json!({
        "schedule": "15 4 * * 6", "suspend": false, "keepTagRevisions": 7, "keepYoungerThanDuration": "48h",
        "ignoreInvalidImageReferences": true, "successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 2,
        "resources": { "requests": { "cpu": "250m" }, "limits": { "memory": "2Gi" } },
        "nodeSelector": { "node-role.kubernetes.io/infra": "" },
        "tolerations": [{ "key": "infra", "operator": "Exists" }], "logLevel": "Debug",
    });
    let sandbox = with_own_pruner(&spec, &[]);
    let list = as_admin(&sandbox, "cronjob", &["--from-imagepruner", "--keep-tag-revisions=2", "-o", "json"])
        .exits(0)
        .says("warning: the cluster's own pruner is active (schedule \"15 4 * * 6\")")
        .says(SUSPEND)
        .json();
    let job = find(&items(&list), "CronJob");
    let of_job = &job["spec"];
    assert_eq!((&of_job["schedule"], &of_job["suspend"]), (&json!("15 4 * * 6"), &json!(false)));
    assert_eq!(
        (&of_job["successfulJobsHistoryLimit"], &of_job["failedJobsHistoryLimit"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(
        args(&job)[..5],
        [
            "--confirm",
            "--keep-tag-revisions=2",
            "--keep-younger-than=48h",
            "--ignore-invalid-refs=true",
            "--v=4"
        ]
    );
    let pod = &pod(&job)["spec"];
    for field in ["nodeSelector", "tolerations"] {
        assert_eq!(pod[field], spec[field]);
    }
    assert_eq!(pod["containers"][0]["resources"], spec["resources"]);
    let none = Sandbox::start(Config::default());
    as_admin(&none, "cronjob", &["--from-imagepruner"])
        .exits(1)
        .says("it has no imagepruners.imageregistry.operator.openshift.io/cluster");
}

#[test]
fn a_second_pruner_is_warned_of() {
    let dry_run = |sandbox: &Sandbox, user: &str| {
        let plugin = Plugin::new();
        let kubeconfig = sandbox.write_kubeconfig(plugin.home(), user);
        plugin.arg("--kubeconfig").arg(kubeconfig).run().exits(0)
    };
    let spec = json!({ "schedule": "0 0 * * *", "suspend": false });
    let sandbox = with_own_pruner(&spec, &["image-pruner-29"]);
    // The role of pruners may see the job, not the settings.
    for user in ["admin", "pruner"] {
        dry_run(&sandbox, user)
            .says("warning: the cluster's own pruner is active")
            .says("is running right now (job image-pruner-29 in namespace openshift-image-registry)")
            .does_not_say("imagepruners.imageregistry.operator.openshift.io \"cluster\" is forbidden");
    }
    let suspended = with_own_pruner(&json!({ "schedule": "0 0 * * *", "suspend": true }), &[]);
    for user in ["admin", "pruner"] {
        dry_run(&suspended, user).does_not_say("own pruner");
    }
    dry_run(&Sandbox::start(Config::default()), "pruner").does_not_say("own pruner");
}

/// What a job does in a cluster that has just applied it.
struct Scheduled<'a> {
    site: Site,
    redis: Option<&'a Server>,
    list: Value,
}

const LONG: Duration = Duration::from_secs(600);

impl<'a> Scheduled<'a> {
    fn start(flags: &[&str], redis: Option<&'a Server>) -> Self {
        let ttl = if flags.contains(&"--registry-cache=wait") { Duration::from_secs(2) } else { LONG };
        if let Some(server) = redis {
            assert_eq!(server.text("FLUSHALL"), "+OK");
        }
        let config = SiteConfig { replicas: 2, redis: None, ttl, controller: Some(Pace::default()), seed: 5 };
        let site = Site::start_with(&config, |cluster| {
            if flags.contains(&"--registry-cache=disable") {
                cluster.operator = Some(Operator::default());
            }
            if let (Some(server), Some(registry)) = (redis, &mut cluster.registry) {
                let mut settings = RedisCache::at(server.address());
                settings.password = Some(REDIS_PASSWORD.to_owned());
                registry.redis = Some(settings);
            }
        });
        // Under one that manages it the Deployment would be turned back.
        site.cluster.sandbox().store().update("configs", "", "cluster", |operator| {
            operator["spec"]["managementState"] = "Unmanaged".into();
        });
        let mut all = vec!["-o", "json", "--keep-tag-revisions=1"];
        all.extend(flags);
        let secret = format!("--registry-secret={SECRET}");
        if redis.is_some() {
            all.push(&secret);
        }
        let list = cronjob(&all).exits(0).json();
        let sandbox = site.cluster.sandbox();
        if kubectl(sandbox, &["apply", "-f", "-"], &list.to_string()).is_none() {
            let apply: Vec<&str> = all[2..].iter().copied().chain(["--apply", "--confirm"]).collect();
            as_admin(sandbox, "cronjob", &apply).exits(0);
        }
        sandbox.access().add_token(ACCOUNT, "sha256~of-the-service-account");
        Self { site, redis, list }
    }

    fn store(&self) -> &Store {
        self.site.cluster.sandbox().store()
    }

    /// Runs the container's arguments with the token of the service account.
    fn run(&self) -> Ran {
        let plugin = Plugin::new();
        let kubeconfig = self.site.cluster.kubeconfig(plugin.home(), ACCOUNT);
        let plugin = plugin.file("service-ca.crt", self.site.cluster.sandbox().ca_pem());
        let args = args(&find(&items(&self.list), "CronJob"));
        let args = args.into_iter().map(|arg| arg.replace("/var/run/configmaps/serviceca/", ""));
        plugin.args(args).arg("--kubeconfig").arg(kubeconfig).run()
    }

    /// The rules that were given beyond the cluster's own role, each with its role.
    fn rules(&self) -> Vec<(&'static str, String, String, Value)> {
        let mut rules = Vec::new();
        for resource in ["clusterroles", "roles"] {
            for role in self.store().list(resource) {
                let own = role["metadata"]["labels"]["app.kubernetes.io/name"] == "prune-images";
                let text = |field: &str| role["metadata"][field].as_str().unwrap_or_default().to_owned();
                for rule in role["rules"].as_array().into_iter().flatten().filter(|_| own) {
                    rules.push((resource, text("namespace"), text("name"), rule.clone()));
                }
            }
        }
        rules
    }

    fn without(self, (resource, namespace, name, rule): &(&str, String, String, Value)) -> Self {
        assert!(self.store().update(resource, namespace, name, |role| {
            role["rules"].as_array_mut().unwrap().retain(|known| known != rule);
        }));
        self
    }

    fn stale(&self) -> Vec<load::Stale> {
        let digests = self.site.layers.iter().map(|layer| layer.digest.to_string()).collect();
        let repositories = self.site.layers.iter().flat_map(|layer| layer.repositories.clone()).collect();
        self.site.stale(&digests, &repositories, self.redis)
    }
}

/// Runs a step with the rights that were given for it, then without each of them.
fn suffices(flags: &[&str], redis: Option<&Server>, is_complete: bool, missing: &[(&str, i32, &str)]) {
    let scheduled = Scheduled::start(flags, redis);
    let rules = scheduled.rules();
    let ran = scheduled.run().exits(0);
    let storage = scheduled.site.cluster.storage();
    assert!(scheduled.site.layers.iter().all(|layer| storage.blob_size(&layer.digest).is_none()), "{ran}");
    if is_complete {
        let stale = scheduled.stale();
        assert!(stale.is_empty(), "{flags:?}: {stale:?}\n{ran}");
    }
    scheduled.site.kept_is_whole(&ran);
    let given: BTreeSet<String> = rules.iter().map(|(.., rule)| rule_text(rule)).collect();
    let expected: BTreeSet<String> =
        missing.iter().chain(&PROTECTING).map(|(rule, ..)| (*rule).to_owned()).collect();
    assert_eq!(given, expected, "{flags:?}");
    for (name, code, said) in missing {
        let rule = rules.iter().find(|(.., rule)| rule_text(rule) == *name).unwrap();
        let without = Scheduled::start(flags, redis).without(rule);
        let ran = without.run().exits(*code).says(said);
        let nothing_deleted = *code == 1;
        let storage = without.site.cluster.storage();
        let kept = without.site.layers.iter().all(|layer| storage.blob_size(&layer.digest).is_some());
        assert_eq!(nothing_deleted, kept, "without {name}\n{ran}");
        without.site.kept_is_whole(&ran);
    }
}

/// What every job may do: read what protects, and keep a second prune away.
const PROTECTING: [(&str, i32, &str); 5] = [
    ("list namespaces", 0, "rights are missing: list namespaces"),
    ("list controllerrevisions", 0, "rights are missing: list controllerrevisions.apps"),
    (
        "get leases/oc-prune-images",
        0,
        "Lock: on this machine alone: the right to get leases.coordination.k8s.io in namespace openshift-image-registry",
    ),
    (
        "create leases",
        0,
        "Lock: on this machine alone: the right to create leases.coordination.k8s.io in namespace",
    ),
    (
        "update leases/oc-prune-images",
        0,
        "Lock: the Lease could not be given back, and ends by itself in 2m: forbidden",
    ),
];
const EVICTION: (&str, i32, &str) =
    ("create pods/eviction", 1, "create pods/eviction in namespace openshift-image-registry");
const LAYERS: (&str, i32, &str) = (
    "get imagestreams/layers",
    0,
    "not checked: asking the replicas takes the right to get imagestreams/layers",
);
const PASSWORD: (&str, i32, &str) = (
    "get secrets/image-registry-private-configuration",
    4,
    "get secrets/image-registry-private-configuration in namespace openshift-image-registry",
);

#[test]
fn the_rights_suffice_in_memory() {
    suffices(&["--registry-cache=auto"], None, true, &PROTECTING);
    suffices(&["--registry-cache=evict", "--check=all"], None, true, &[LAYERS]);
    suffices(&["--registry-cache=wait"], None, true, &[]);
    suffices(&["--registry-cache=none"], None, false, &[]);
}

#[test]
fn the_rights_suffice_for_a_restart() {
    suffices(&["--registry-cache=restart"], None, true, &[EVICTION]);
}

#[test]
fn the_rights_suffice_to_switch_the_caches_off() {
    suffices(
        &["--registry-cache=disable"],
        None,
        true,
        &[
            ("get configs/cluster", 1, "get configs.imageregistry.operator.openshift.io/cluster"),
            ("update deployments/image-registry", 1, "cannot update resource \"deployments\""),
        ],
    );
}

#[test]
fn the_rights_suffice_with_redis() {
    if !Server::installed() {
        eprintln!("skipped: redis-server is missing; apt-get install redis-server");
        return;
    }
    let redis = Server::start(&[&format!("requirepass {REDIS_PASSWORD}")]).with_password(REDIS_PASSWORD);
    let secret = |code, said| (PASSWORD.0, code, said);
    let redis = Some(&redis);
    suffices(&["--registry-cache=evict"], redis, true, &[PASSWORD]);
    suffices(&["--registry-cache=auto"], redis, true, &[PASSWORD]);
    suffices(&["--registry-cache=restart"], redis, true, &[EVICTION, PASSWORD]);
    suffices(&["--registry-cache=flush"], redis, false, &[secret(1, PASSWORD.2)]);
    suffices(&["--registry-cache=none"], redis, false, &[]);
}

#[test]
fn other_resources_are_read_by_the_right_for_it() {
    suffices(
        &["--referrers-from=routes.route.openshift.io"],
        None,
        true,
        &[("list routes", 1, "cannot list resource \"routes\"")],
    );
}

#[test]
fn the_image_is_a_static_binary_and_nothing_else() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = std::fs::read_to_string(root.join("Containerfile")).unwrap();
    let lines: Vec<&str> = file.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let last_stage = lines.iter().rposition(|line| line.starts_with("FROM ")).unwrap();
    assert_eq!(lines[last_stage], "FROM scratch");
    // Not root, by number: a name would need a file of users, and `runAsNonRoot` could not be checked.
    let user = lines[last_stage..].iter().find_map(|line| line.strip_prefix("USER ")).unwrap();
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id > 0)), "{user}");
    assert_eq!(*lines.last().unwrap(), "ENTRYPOINT [\"/oc-prune_images\"]");
    for line in &lines[last_stage + 1..lines.len() - 1] {
        let known = ["COPY --from=build ", "USER "].iter().any(|begin| line.starts_with(begin));
        assert!(known, "{line}");
    }
    assert!(file.contains("--bin oc-prune_images") && root.join("LICENSE").exists());
}
