//! `cache check` sees what is stale, and `cache flush` in a cluster makes Redis and stale replicas forget it.

#![allow(clippy::unwrap_used, reason = "tests: whatever is wrong here fails them")]
#![allow(clippy::print_stderr, reason = "says what is skipped")]

mod common;
#[path = "common/load.rs"]
mod load;

use std::collections::BTreeSet;
use std::time::Duration;

use common::{Plugin, Ran};
use http::Method;
use load::{CHECKER, Site, SiteConfig};
use sandbox::fault::{Action, Fault};
use sandbox::log::Server as Asked;
use sandbox::redis::Server;
use serde_json::Value;

const REPLICAS: usize = 3;

fn site(redis: Option<&Server>) -> Site {
    let ttl = Duration::from_secs(600);
    Site::start(&SiteConfig { replicas: REPLICAS, redis, ttl, controller: None, seed: 5 })
}

/// A subcommand of `cache` with this document, as this user.
fn cache(site: &Site, user: &str, document: &str, args: &[&str]) -> Ran {
    cache_with(site, user, document, &[args, &["--from=input"]].concat())
}

/// [`cache`] with arguments that name the input, which is in a file `input`.
fn cache_with(site: &Site, user: &str, input: &str, args: &[&str]) -> Ran {
    let plugin = Plugin::new().file("input", input);
    let kubeconfig = site.cluster.kubeconfig(plugin.home(), user);
    let plugin = plugin.file("ca.crt", site.cluster.sandbox().ca_pem());
    let plugin = plugin.arg("cache").args(args).arg("--kubeconfig").arg(kubeconfig);
    plugin.arg("--certificate-authority=ca.crt").run()
}

fn is_clean(site: &Site, redis: Option<&Server>, ran: &Ran) {
    let digests: BTreeSet<String> = site.layers.iter().map(|layer| layer.digest.to_string()).collect();
    let repositories: BTreeSet<String> =
        site.layers.iter().flat_map(|layer| layer.repositories.clone()).collect();
    let stale = site.stale(&digests, &repositories, redis);
    assert!(stale.is_empty(), "{stale:?}\n{ran}");
}

#[test]
fn what_is_stale_is_seen_and_then_mended_and_then_not_seen() {
    if !Server::installed() {
        eprintln!("skipped: redis-server is missing; apt-get install redis-server");
        return;
    }
    let redis = Server::start(&[]);
    let site = site(Some(&redis));
    let pruned = site.plugin(CHECKER, &["--confirm", "--registry-cache=none"]).run().exits(0);
    let document = pruned.stdout.clone();
    let pruned = pruned.says("warning: the registry's caches may still name the deleted blobs: redis://");
    let check = cache(&site, CHECKER, &document, &["check", "-o", "json"]).exits(4);
    let found = check.json();
    assert_eq!(found["verdict"], "stale", "{check}");
    assert_eq!(found["withoutRepository"], 0, "{check}\n{pruned}");
    let schema: Value = serde_json::from_str(include_str!("../docs/schema/cache-check.json")).unwrap();
    assert!(jsonschema::validator_for(&schema).unwrap().is_valid(&found), "{check}");
    let text = cache(&site, CHECKER, &document, &["check"]).exits(4).prints("stale: replica image-registry-");
    let _ = text.says("hint: make Redis and the replicas forget: oc prune-images cache flush --from=input");
    // Who may not ask is told which right is missing, and nothing is called clean.
    let ran = cache(&site, "pruner", &document, &["check"]).exits(1);
    let _ = ran.says("asking takes the right to get imagestreams/layers");

    let ran = cache(&site, CHECKER, &document, &["flush", "--dry-run"]).exits(0);
    let _ = ran.prints("Summary: would evict ");
    let before = deletions(&site);
    let ran = cache(&site, CHECKER, &document, &["flush"]).exits(0);
    is_clean(&site, Some(&redis), &ran);
    let ran = ran.prints("Summary: evicted ");
    // Each replica that was told had just said that the data is missing.
    let told = deletions(&site) - before;
    assert!(told > 0 && told <= found["check"]["stale"].as_array().unwrap().len(), "{told}\n{ran}");
    let ran = cache(&site, CHECKER, &document, &["check"]).exits(0);
    let _ = ran.prints("3 replica(s) asked ");
    site.kept_is_whole(&"flushed");
}

fn deletions(site: &Site) -> usize {
    let log = site.cluster.sandbox().request_log();
    log.filter(|entry| entry.method == Method::DELETE && entry.path.starts_with("/admin/blobs/")).len()
}

#[test]
fn replicas_that_are_clean_are_told_nothing() {
    let site = site(None);
    let document = site.plugin(CHECKER, &["--confirm"]).run().exits(0).stdout;
    let before = deletions(&site);
    let ran = cache(&site, CHECKER, &document, &["flush"]).exits(0);
    assert_eq!(deletions(&site), before, "{ran}");
    let _ = ran.says("the registry has no Redis");
    // Without the right to ask nothing is called clean.
    let ran = cache(&site, "pruner", &document, &["flush"]).exits(4);
    assert_eq!(deletions(&site), before, "{ran}");
    // Nor where nobody knows what to ask.
    let alone = site.layers.iter().map(|layer| layer.digest.as_str()).collect::<Vec<_>>().join("\n");
    let unasked = cache_with(&site, CHECKER, &alone, &["flush", "--digests-from=input"]).exits(4);
    assert_eq!(deletions(&site), before, "{unasked}");
    let _ = unasked.says("hint: a blob is asked for in a repository that had it");
    let _ = ran.says("or restart the replicas: oc rollout restart deployment/image-registry");
}

/// What a prune leaves stale on purpose can be mended later: what it deleted is kept, and the command says where.
#[test]
fn what_was_left_stale_on_purpose_is_mended_by_the_command_that_is_told() {
    let site = site(None);
    let home = tempfile::tempdir().unwrap();
    let plugin = site.plugin(CHECKER, &["--confirm", "--registry-cache=none"]);
    let pruned = plugin.env("XDG_STATE_HOME", home.path()).run().exits(0);
    let folder = home.path().join("oc-prune-images").display().to_string();
    let (_, file) = pruned.stderr.split_once(&format!("--from={folder}")).unwrap();
    let end = file.find(".journal").unwrap();
    let document = std::fs::read_to_string(format!("{folder}{}.journal", &file[..end])).unwrap();
    let _ = cache(&site, CHECKER, &document, &["check"]).exits(4);
    let ran = cache(&site, CHECKER, &document, &["flush"]).exits(0);
    is_clean(&site, None, &ran);
}

/// A replica that knows a blob from one repository says 404 in every other one.
#[test]
fn a_replica_is_asked_in_every_repository_that_had_the_blob() {
    let site = site(None);
    let layer = site.layers.iter().find(|layer| layer.repositories.len() > 1).unwrap();
    let repository = layer.repositories.iter().max().unwrap();
    site.cluster.replica(1).restart();
    let path = format!("/v2/{repository}/blobs/{}", layer.digest);
    let client = site.cluster.client_of(1, "admin");
    let answer = site.cluster.block_on(client.send(Method::HEAD, &path, &[], "")).unwrap();
    assert_eq!(answer.status(), 200);
    let deaf = Fault::new(Action::ResetBefore).server(Asked::Registry(1)).method(Method::DELETE);
    site.cluster.sandbox().faults().add(deaf.path(layer.digest.as_str()).times(1));
    let ran = site.plugin(CHECKER, &["--confirm", "--registry-cache=evict", "--check=off"]).run().exits(0);
    is_clean(&site, None, &ran);
}
