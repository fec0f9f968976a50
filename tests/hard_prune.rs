//! `hard-prune` through the real binary, against a registry whose pods run the fake of its own hard prune over the real
//! storage, while its controllers and its operator do what they do.

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
use std::sync::Arc;
use std::time::Duration;

use common::{Plugin, Ran};
use fastrand::Rng;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{Method, StatusCode};
use load::{REPOSITORIES, Site, SiteConfig};
use sandbox::api::exec::{Execs, Output, Program, Start};
use sandbox::api::{
    REGISTRY_ACCOUNT, Rule, endpoint_reader, evictor, executor, operator_configurator, pruner_and,
};
use sandbox::log::Server as Asked;
use sandbox::redis::Server;
use sandbox::{ClusterConfig, Operator, Pace};
use serde_json::{Value, json};

const NAMESPACE: &str = "openshift-image-registry";
const USER: &str = "hardener";
const LONG: Duration = Duration::from_secs(600);
const KEPT: &str = "prune-images/read-only-before";

/// What the documentation gives to whoever is to do this, besides `system:image-pruner`.
fn rules() -> Vec<Rule> {
    let deployment = Rule::new(&["get", "update"], &["apps"], &["deployments"]).in_namespace(NAMESPACE);
    let reviews = Rule::new(&["create"], &["authorization.k8s.io"], &["subjectaccessreviews"]);
    let layers = Rule::new(&["get"], &["image.openshift.io"], &["imagestreams/layers"]);
    vec![
        layers,
        executor(),
        operator_configurator(),
        deployment.named(&["image-registry"]),
        reviews,
        evictor(),
        endpoint_reader(),
    ]
}

struct Fixture {
    site: Site,
    /// What nothing in the API names any more.
    orphans: BTreeSet<String>,
}

impl Fixture {
    fn managed() -> Self {
        Self::with(2, None, |cluster| cluster.operator = Some(Operator::default()))
    }

    /// A registry with a prune behind it that deleted objects alone, and a stream that somebody has deleted. Every replica
    /// remembers every layer.
    fn with(replicas: usize, redis: Option<&Server>, change: impl FnOnce(&mut ClusterConfig)) -> Self {
        let config = SiteConfig { replicas, redis, ttl: LONG, controller: Some(Pace::default()), seed: 7 };
        let site = Site::start_with(&config, change);
        let sandbox = site.cluster.sandbox();
        sandbox.access().add_user(USER, USER, pruner_and(rules()));
        sandbox.access().grant(REGISTRY_ACCOUNT, Rule::new(&["list"], &["image.openshift.io"], &["images"]));
        let pruned = site.plugin(USER, &["--confirm", "--prune-registry=false"]).run().exits(0);
        pruned.says("hard-prune");
        let store = sandbox.store();
        store.delete("imagestreams", "load", "c");
        let images: BTreeSet<String> = store
            .list("images")
            .iter()
            .flat_map(|image| {
                let layers =
                    image["dockerImageLayers"].as_array().unwrap().iter().map(|layer| &layer["name"]);
                let own = [&image["metadata"]["name"], &image["dockerImageMetadata"]["Id"]];
                own.into_iter()
                    .chain(layers)
                    .map(|name| name.as_str().unwrap().to_owned())
                    .collect::<Vec<_>>()
            })
            .collect();
        let blobs = site.cluster.storage().blobs().into_iter().map(|digest| digest.to_string());
        let orphans: BTreeSet<String> = blobs.filter(|blob| !images.contains(blob)).collect();
        assert!(orphans.len() > 20, "{}", orphans.len());
        let mut fixture = Self { site, orphans };
        // Its stream is gone, its Image is not: it is no image that anybody can pull, and its blobs stay.
        fixture.site.kept.retain(|(repository, _)| repository != "load/c");
        fixture
    }

    fn plugin(&self, args: &[&str]) -> Plugin {
        let plugin = Plugin::new();
        let kubeconfig = self.site.cluster.kubeconfig(plugin.home(), USER);
        let plugin = plugin.file("ca.crt", self.site.cluster.sandbox().ca_pem());
        let trust = "--certificate-authority=ca.crt";
        plugin.arg("hard-prune").arg("--kubeconfig").arg(kubeconfig).arg(trust).args(args)
    }

    fn execs(&self) -> &Execs {
        self.site.cluster.sandbox().api().execs()
    }

    fn held(&self) {
        self.site.cluster.block_on(async {
            tokio::time::timeout(Duration::from_secs(40), self.execs().wait_held()).await.unwrap();
        });
    }

    fn object(&self, resource: &str) -> Value {
        let (namespace, name) = match resource {
            "configs" => ("", "cluster"),
            _ => (NAMESPACE, "image-registry"),
        };
        self.site.cluster.sandbox().store().get(resource, namespace, name).unwrap()
    }

    fn is_read_only(&self) -> bool {
        self.object("deployments").to_string().contains("MAINTENANCE_READONLY")
    }

    /// The orphans whose data is still there.
    fn left(&self) -> BTreeSet<String> {
        let blobs = self.site.cluster.storage().blobs().into_iter().map(|digest| digest.to_string());
        blobs.filter(|blob| self.orphans.contains(blob)).collect()
    }

    /// The answers to a push, by replica.
    fn pushes(&self) -> Vec<StatusCode> {
        let path = format!("/v2/{}/blobs/uploads/", REPOSITORIES[0]);
        let clients = self.site.clients().into_iter();
        clients
            .map(|client| {
                self.site.cluster.block_on(client.send(Method::POST, &path, &[], "")).unwrap().status()
            })
            .collect()
    }

    /// Nothing that was deleted is named by any cache, what is used is whole, and what was deleted can be pushed anew.
    #[track_caller]
    fn is_well(&self, redis: Option<&Server>, ran: &Ran) {
        let repositories = REPOSITORIES[..2].iter().map(|name| (*name).to_owned()).collect();
        let stale = self.site.stale(&self.orphans, &repositories, redis);
        assert!(stale.is_empty(), "{stale:#?}\n{ran}");
        self.site.kept_is_whole(ran);
        assert_eq!(self.execs().unguarded(), 0, "deleted while a replica took pushes\n{ran}");
        assert!(!self.is_read_only(), "still read-only\n{ran}");
        assert!(self.execs().processes().is_empty(), "{:?}\n{ran}", self.execs().processes());
        for resource in ["deployments", "configs"] {
            let store = self.site.cluster.sandbox().store();
            let objects = store.list(resource);
            assert!(!objects.iter().any(|object| object.to_string().contains(KEPT)), "{ran}");
        }
        self.site.pushes_are_whole_again(&mut Rng::with_seed(9), ran);
    }

    /// Requests that change something at the API server.
    fn changes(&self) -> Vec<String> {
        let log = self.site.cluster.sandbox().request_log();
        let entries = log.filter(|entry| {
            entry.server == Asked::Api && entry.is_mutation() && !entry.path.contains("accessreviews")
        });
        entries.into_iter().map(|entry| format!("{} {}", entry.method, entry.path)).collect()
    }
}

#[test]
fn a_check_names_every_orphan_and_changes_nothing() {
    let fixture = Fixture::managed();
    let before = fixture.changes();
    let ran = fixture.plugin(&["-o", "json"]).run().exits(0).says("add --confirm to do it");
    let document = ran.json();
    assert_eq!(
        (document["kind"].as_str(), document["confirmed"].as_bool()),
        (Some("HardPruneResult"), Some(false))
    );
    let named =
        document["check"]["blobs"].as_array().unwrap().iter().map(|blob| blob.as_str().unwrap().to_owned());
    assert_eq!(named.collect::<BTreeSet<_>>(), fixture.orphans, "{ran}");
    assert_eq!(document["check"]["blobCount"], fixture.orphans.len());
    assert_eq!(document["check"]["repositories"], json!(["load/c"]));
    let bytes: u64 = fixture
        .site
        .cluster
        .storage()
        .blobs()
        .iter()
        .filter(|blob| fixture.orphans.contains(blob.as_str()))
        .map(|blob| fixture.site.cluster.storage().blob_size(blob).unwrap())
        .sum();
    let told = document["check"]["bytes"].as_u64().unwrap();
    assert!(told.abs_diff(bytes) * 1000 < bytes, "{told} of {bytes}");
    for condition in document["preconditions"].as_array().unwrap() {
        assert_eq!(condition["holds"], true, "{condition}");
    }
    let directory = tempfile::tempdir().unwrap();
    let page = directory.path().join("page.html");
    let text = fixture.plugin(&[]).arg("--report").arg(&page).run().exits(0);
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("Would delete blob: ") && page.contains("Would free up "), "{page}");
    for orphan in &fixture.orphans {
        assert!(text.stdout.contains(&format!("Would delete blob: {orphan}\n")), "{orphan}\n{text}");
    }
    text.prints("Would delete repository: load/c\n").prints("Would free up ");
    assert_eq!(fixture.left(), fixture.orphans);
    assert_eq!(fixture.changes(), before);
}

#[test]
fn under_an_operator_no_replica_takes_pushes_while_it_deletes_and_every_cache_is_clean_after() {
    let fixture = Fixture::managed();
    let uids = |fixture: &Fixture| -> BTreeSet<String> {
        fixture
            .site
            .cluster
            .serving()
            .into_iter()
            .map(|number| fixture.site.cluster.pod_uid(number))
            .collect()
    };
    let before = uids(&fixture);
    fixture.execs().hold_after(3);
    let running = fixture.plugin(&["--confirm", "-o", "json"]).start();
    fixture.held();
    let config = fixture.object("configs");
    assert_eq!(config["spec"]["readOnly"], true);
    assert!(config["metadata"]["annotations"][KEPT].as_str().unwrap().contains("process"), "{config:#}");
    let pushes = fixture.pushes();
    assert!(
        pushes.len() == 2 && pushes.iter().all(|status| *status == StatusCode::METHOD_NOT_ALLOWED),
        "{pushes:?}"
    );
    let meanwhile = uids(&fixture);
    assert!(before.is_disjoint(&meanwhile), "{before:?} {meanwhile:?}");
    fixture.site.kept_is_whole(&"while it deletes");
    fixture.execs().release();
    let ran = running.wait().exits(0);
    assert_eq!(fixture.left(), BTreeSet::new(), "{ran}");
    assert_eq!(fixture.object("configs")["spec"]["readOnly"], false, "as it was");
    assert!(meanwhile.is_disjoint(&uids(&fixture)), "a pod with a stale cache serves\n{ran}");
    let document = ran.json();
    let schema: Value = serde_json::from_str(include_str!("../docs/schema/hard-prune-result.json")).unwrap();
    jsonschema::validator_for(&schema).unwrap().validate(&document).unwrap();
    assert_eq!(document["readOnly"], "putBack");
    assert_eq!(document["deleted"]["blobCount"], fixture.orphans.len(), "{ran}");
    assert_eq!(document["deleted"]["bytes"], document["check"]["bytes"]);
    assert_eq!(document["cache"]["replaced"].as_array().unwrap().len(), 2, "{ran}");
    let check = &document["cache"]["check"];
    assert_eq!((&check["replicas"], &check["stale"]), (&json!(2), &Value::Null), "{check}");
    assert!(check["clean"].as_u64() > Some(50), "{check}");
    fixture.is_well(None, &ran);
    // Once more there is nothing, and nothing is switched for it.
    let changes = fixture.changes();
    let again = fixture.plugin(&["--confirm", "-o", "json"]).run().exits(0);
    assert_eq!(
        (&again.json()["check"]["blobCount"], &again.json()["readOnly"]),
        (&json!(0), &json!("untouched"))
    );
    assert_eq!(fixture.changes(), changes);
}

#[test]
fn without_an_operator_the_deployment_gets_exactly_what_it_had_and_redis_forgets() {
    if !Server::installed() {
        eprintln!("skipped: redis-server is missing; apt-get install redis-server");
        return;
    }
    let redis = Server::start(&[]);
    let fixture = Fixture::with(2, Some(&redis), |_| ());
    assert!(fixture.orphans.iter().any(|orphan| redis.text("KEYS *").contains(orphan.as_str())));
    let before = fixture.object("deployments")["spec"]["template"]["spec"].clone();
    let ran = fixture.plugin(&["--confirm"]).run().exits(0);
    assert_eq!(fixture.left(), BTreeSet::new(), "{ran}");
    assert_eq!(fixture.object("deployments")["spec"]["template"]["spec"], before, "{ran}");
    let ran = ran.says("evicted from redis://").prints(&format!("Deleted {} blobs", fixture.orphans.len()));
    let keys = redis.text("KEYS *");
    assert!(!fixture.orphans.iter().any(|orphan| keys.contains(orphan.as_str())), "{keys}\n{ran}");
    fixture.is_well(Some(&redis), &ran);
}

#[test]
fn ctrl_c_and_the_end_of_its_time_end_the_process_and_put_everything_back() {
    let fixture = Fixture::managed();
    for (signal, code, word, lines) in [("INT", 130, "SIGINT", 12), ("TERM", 143, "SIGTERM", 4)] {
        let left = fixture.left().len();
        // The first lines are those of links, and of the repository.
        fixture.execs().hold_after(lines);
        let running = fixture.plugin(&["--confirm", "-o", "json"]).start();
        fixture.held();
        assert!(fixture.is_read_only());
        running.signal(signal);
        let ran = running.wait().exits(code);
        let document = ran.json();
        assert_eq!(
            (&document["interrupted"], &document["readOnly"]),
            (&json!(word), &json!("putBack")),
            "{ran}"
        );
        assert!(fixture.execs().processes().is_empty(), "{ran}");
        assert!(!fixture.is_read_only(), "{ran}");
        assert!(fixture.left().len() <= left, "{ran}");
        let repositories = REPOSITORIES[..2].iter().map(|name| (*name).to_owned()).collect();
        assert!(fixture.site.stale(&fixture.orphans, &repositories, None).is_empty(), "{ran}");
        fixture.site.kept_is_whole(&ran);
        fixture.execs().release();
    }
    // Wherever it is by then.
    fixture.execs().hold_after(4);
    let ran = fixture.plugin(&["--confirm", "-o", "json", "--timeout=9s"]).run().exits(124);
    assert!(!fixture.is_read_only() && fixture.execs().processes().is_empty(), "{ran}");
    fixture.execs().release();
    assert!(!fixture.left().is_empty() && fixture.left() != fixture.orphans, "{:?}", fixture.left().len());
    let ran = fixture.plugin(&["--confirm"]).run().exits(0);
    assert_eq!(fixture.left(), BTreeSet::new(), "{ran}");
    fixture.is_well(None, &ran);
}

#[test]
fn after_a_kill_the_next_run_ends_what_goes_on_and_puts_back_what_was_switched() {
    for restore in [false, true] {
        let fixture = Fixture::managed();
        fixture.execs().hold_after(12);
        let running = fixture.plugin(&["--confirm"]).start();
        fixture.held();
        running.signal("KILL");
        assert_eq!(running.wait().code, None);
        assert_eq!(fixture.execs().processes(), ["/usr/bin/dockerregistry -prune=delete"], "it goes on");

        let told = fixture.plugin(&[]).run().exits(0).says("has switched that on, and not put it back");
        told.says("hint: put it back: oc prune-images hard-prune --restore --confirm");
        let words: &[&str] = if restore { &["--restore", "--confirm"] } else { &["--confirm"] };
        let refused =
            fixture.plugin(words).run().exits(1).says("error: hard prune: another one is deleting: process ");
        let refused = refused
            .says(&format!("end it, and go on: oc prune-images hard-prune {} --take-over", words.join(" ")));
        assert!(fixture.is_read_only() && fixture.execs().processes().len() == 1, "{refused}");

        let ran = fixture.plugin(words).arg("--take-over").run().exits(0);
        let ran = ran.says("Ending process ");
        fixture.execs().release();
        if restore {
            assert!(!fixture.left().is_empty(), "{ran}");
            fixture.plugin(words).run().exits(0).prints("nothing to put back");
        } else {
            assert_eq!(fixture.left(), BTreeSet::new(), "{ran}");
        }
        fixture.is_well(None, &ran);
    }
}

#[test]
fn a_kill_in_mid_rollout_leaves_nothing_that_restore_does_not_put_back() {
    let fixture = Fixture::managed();
    for said in [
        "Read-only mode: waiting for the operator",
        "Read-only mode: on; serving",
        "Read-only mode: putting it back",
    ] {
        let running = fixture.plugin(&["--confirm"]).start();
        running.wait_until_it_says(said);
        running.signal("KILL");
        running.wait();
        let ran = fixture.plugin(&["--restore", "--confirm", "--take-over"]).run().exits(0);
        assert!(fixture.execs().processes().is_empty(), "{said}\n{ran}");
        let settled = fixture.site.cluster.wait_for_rollout(Duration::from_secs(20));
        assert!(fixture.site.cluster.block_on(settled), "{said}\n{ran}");
        assert!(!fixture.is_read_only(), "{said}\n{ran}");
        assert_eq!(fixture.object("configs")["spec"]["readOnly"], false, "{said}\n{ran}");
        // What was deleted is pushed again for the next one.
        fixture.site.pushes_are_whole_again(&mut Rng::with_seed(9), &ran);
        for name in ["again-0", "again-1"] {
            fixture.site.cluster.sandbox().store().delete("imagestreams", "load", name);
        }
        for image in fixture.site.cluster.sandbox().store().list("images") {
            let image = image["metadata"]["name"].as_str().unwrap();
            if fixture.site.kept.iter().all(|(_, kept)| kept.as_str() != image) {
                fixture.site.cluster.sandbox().store().delete("images", "", image);
            }
        }
    }
    let ran = fixture.plugin(&["--confirm"]).run().exits(0);
    fixture.is_well(None, &ran);
}

#[test]
fn a_connection_that_breaks_ends_nothing_but_itself() {
    for ends_with_connection in [false, true] {
        let fixture = Fixture::managed();
        fixture.execs().speak_only("v4.channel.k8s.io");
        if ends_with_connection {
            fixture.execs().end_with_connection();
        }
        fixture.execs().hold_after(12);
        let running = fixture.plugin(&["--confirm", "-o", "json"]).start();
        fixture.held();
        fixture.execs().cut();
        running.wait_until_it_says("again");
        fixture.execs().release();
        let ran = running.wait().exits(0).says("the connection broke");
        assert_eq!(fixture.left(), BTreeSet::new(), "{ran}");
        let deleted = &ran.json()["deleted"];
        assert_eq!(deleted["blobCount"], fixture.orphans.len(), "those that nobody heard of included\n{ran}");
        fixture.is_well(None, &ran);
    }
}

#[test]
fn what_cannot_be_ended_keeps_the_registry_read_only() {
    let fixture = Fixture::managed();
    fixture.execs().make_deaf(true);
    fixture.execs().hold_after(12);
    let running = fixture.plugin(&["--confirm", "-o", "json"]).start();
    fixture.held();
    running.signal("INT");
    running.wait_until_it_says("it cannot be ended yet");
    assert!(fixture.is_read_only());
    fixture.execs().make_deaf(false);
    let ran = running.wait().exits(130);
    fixture.execs().release();
    assert_eq!(ran.json()["readOnly"], "putBack");
    assert!(!fixture.is_read_only() && fixture.execs().processes().is_empty(), "{ran}");
}

#[test]
fn read_only_mode_that_somebody_else_wants_stays_on() {
    let fixture = Fixture::managed();
    fixture.site.cluster.sandbox().store().update("configs", "", "cluster", |config| {
        config["spec"]["readOnly"] = true.into();
        config["metadata"]["generation"] = 2.into();
    });
    let rolled_out = async {
        let cluster = &fixture.site.cluster;
        let limit = Duration::from_secs(20);
        let asked = |store: &sandbox::api::Store| {
            store.list("deployments").iter().any(|it| it.to_string().contains("MAINTENANCE_READONLY"))
        };
        cluster.wait_until(limit, asked).await && cluster.wait_for_rollout(limit).await
    };
    assert!(fixture.site.cluster.block_on(rolled_out));
    let ran = fixture.plugin(&["--confirm", "-o", "json"]).run().exits(0).says("it is on, and stays on");
    assert_eq!(ran.json()["readOnly"], "keptOn");
    assert_eq!(fixture.left(), BTreeSet::new(), "{ran}");
    assert!(fixture.is_read_only(), "{ran}");
    assert_eq!(fixture.object("configs")["spec"]["readOnly"], true);
    let repositories = REPOSITORIES[..2].iter().map(|name| (*name).to_owned()).collect();
    assert!(fixture.site.stale(&fixture.orphans, &repositories, None).is_empty(), "{ran}");
}

#[test]
fn a_missing_right_is_told_before_anything_is_changed() {
    let fixture = Fixture::managed();
    let access = fixture.site.cluster.sandbox().access();
    let reset = || {
        access.add_user(USER, USER, pruner_and(rules()));
        access.add_user(REGISTRY_ACCOUNT, "system:registry", Vec::new());
        let image = ["image.openshift.io"];
        access.grant(REGISTRY_ACCOUNT, Rule::new(&["list"], &image, &["images"]));
        access.grant(REGISTRY_ACCOUNT, Rule::new(&["get"], &image, &["imagestreams"]));
    };
    let account = "give it the role: oc adm policy add-cluster-role-to-user system:image-pruner -z registry -n openshift-image-registry";
    for (user, verb, group, resource, message, hint) in [
        (
            USER,
            "create",
            "",
            "pods/exec",
            "missing: create pods/exec in namespace openshift-image-registry",
            "oc create role prune-images-create-pods-exec --verb=create --resource=pods/exec -n openshift-image-registry",
        ),
        (
            USER,
            "update",
            "imageregistry.operator.openshift.io",
            "configs",
            "missing: update configs.imageregistry.operator.openshift.io/cluster",
            "--resource-name=cluster",
        ),
        (
            USER,
            "get",
            "imageregistry.operator.openshift.io",
            "configs",
            "may not be read",
            "the right that shows it: get configs",
        ),
        (
            REGISTRY_ACCOUNT,
            "list",
            "image.openshift.io",
            "images",
            "the registry's service account registry lacks what hard prune needs: list images.image.openshift.io",
            account,
        ),
    ] {
        reset();
        access.deny(user, verb, group, resource);
        let before = fixture.changes();
        let ran = fixture.plugin(&["--confirm"]).run().exits(1).says(message).says(hint);
        assert_eq!(fixture.changes(), before, "{ran}");
        assert!(!fixture.is_read_only(), "{ran}");
    }
    // Whoever may not ask for others: the bindings say it, and else hard prune itself.
    reset();
    access.deny(USER, "create", "authorization.k8s.io", "subjectaccessreviews");
    fixture
        .plugin(&[])
        .run()
        .exits(0)
        .says("??  whether the registry's service account registry may list images is not known");
    access.deny(REGISTRY_ACCOUNT, "list", "image.openshift.io", "images");
    let ran = fixture.plugin(&["--confirm"]).run().exits(1).says("error listing images: ").says(account);
    assert!(!fixture.is_read_only(), "{ran}");
    access.grant(USER, Rule::new(&["list"], &["rbac.authorization.k8s.io"], &["clusterrolebindings"]));
    fixture.site.cluster.sandbox().store().create(
        "clusterrolebindings",
        json!({
            "metadata": { "name": "registry-pruner" },
            "roleRef": { "kind": "ClusterRole", "name": "system:image-pruner" },
            "subjects": [{ "kind": "ServiceAccount", "namespace": NAMESPACE, "name": "registry" }],
        }),
    );
    fixture.plugin(&[]).run().says("(ClusterRole system:image-pruner)");
    assert_eq!(fixture.left(), fixture.orphans);
}

/// A storage with more in it than anybody makes for a test.
#[derive(Debug)]
struct Large(usize);

impl Program for Large {
    fn run(&self, _: Start, output: Output) -> BoxFuture<'static, u8> {
        let blobs = self.0;
        async move {
            for n in 0..blobs {
                output
                    .log(format!("level=info msg=\"Would delete blob: sha256:{n:064x}\" go.version=go1.24.4"))
                    .await;
            }
            output.out(format!("Would delete {blobs} blobs")).await;
            output.out("Would free up 1.5TiB of disk space").await;
            0
        }
        .boxed()
    }
}

#[test]
fn much_output_is_read_as_it_comes() {
    const BLOBS: usize = 50_000;
    let fixture = Fixture::managed();
    fixture.execs().install(Arc::new(Large(BLOBS)));
    let ran = fixture
        .plugin(&[])
        .run()
        .exits(0)
        .prints("Would delete 50000 blobs, ")
        .prints("Would free up 1.5TiB");
    assert_eq!(ran.stdout.lines().count(), BLOBS + 2);
}
