//! The Redis of a prune: many workers evict at once, whatever happens to the servers meanwhile.
//!
//! Needs `redis-server`; without it the tests say so and do nothing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests: whatever is wrong here fails them"
)]

#[path = "common/redis.rs"]
mod redis_keys;

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::future::join_all;
use oc_prune_images::cache::redis::{Access, Dialer, Doomed, Event, Layout, Problem, SharedCache, Tell};
use redis_keys::{
    SOON, access, assert_forgotten, contents, cutting_proxy, digest, doomed, dump_all, is_installed, seed,
    seed_cluster, silent, soon,
};
use sandbox::redis::Server;
use secrecy::SecretString;

async fn connect(url: &str) -> SharedCache {
    SharedCache::connect(access(url), Dialer::direct(), Layout::default(), silent()).await.unwrap()
}

fn digests(blobs: impl IntoIterator<Item = usize>) -> Vec<String> {
    blobs.into_iter().map(digest).collect()
}

/// Evicts blobs one by one in several workers.
async fn work(cache: &SharedCache, blobs: std::ops::Range<usize>, workers: usize) {
    let queue = Mutex::new(blobs);
    let next = || queue.lock().unwrap().next();
    join_all((0..workers).map(|_| async {
        while let Some(n) = next() {
            cache.evict(doomed(n), SOON).await.unwrap();
        }
    }))
    .await;
}

/// Waits until everything is confirmed; nothing but time tells.
async fn caught_up(cache: &SharedCache) {
    soon(async {
        while !cache.unconfirmed().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_workers_evict_at_once_and_everything_else_stays() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..600);
    let before = server.dump();
    let _ = server.run("CONFIG RESETSTAT");
    let cache = connect(&server.url()).await;
    work(&cache, 0..500, 20).await;
    let stats = server.text("INFO commandstats");
    assert_forgotten(&before, &server.dump(), &digests(0..500));
    let evicted = cache.evicted();
    assert_eq!((evicted.keys, evicted.members, evicted.scanned), (1500, 1000, 0));
    assert!(cache.unconfirmed().is_empty());
    // Keys are computed, so it does not matter how many others there are; what is asked for together is one batch, where
    // the members of a repository's set leave it in one command.
    assert!(!stats.contains("cmdstat_scan") && !stats.contains("cmdstat_keys"), "{stats}");
    let calls = |name: &str| -> usize {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.unwrap().split(',').next().unwrap().parse().unwrap()
    };
    assert_eq!(calls("unlink"), 1500);
    assert!(calls("srem") < 300, "{} commands for 1000 members", calls("srem"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_back_meanwhile_is_evicted_at_the_end_and_told() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..10);
    let before = server.dump();
    let cache = connect(&server.url()).await;
    work(&cache, 0..8, 3).await;
    let mut link = Doomed::default();
    link.link("shop/web", &digest(9));
    cache.evict(link, SOON).await.unwrap();
    for line in [
        format!("HSET blobs::{} size 1", digest(3)),
        format!("HSET blobs::{} size 1", digest(5)),
        format!("SADD repository::shop/web::blobs {}", digest(6)),
    ] {
        assert_eq!(server.text(&line), ":1".to_owned());
    }
    let again = soon(cache.finish()).await.unwrap();
    assert_eq!(again.blobs, BTreeSet::from([digest(3), digest(5)]));
    let after = server.dump();
    let gone: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).collect();
    assert_eq!(gone.len(), 3 * 8 + 1);
    assert!(after.contains_key(&format!("blobs::{}", digest(9))), "a blob that lost only a link stays");
    assert_eq!(cache.evicted().keys, 3 * 8 + 1 + 2);
    // The last one is over, and nobody would be told of another.
    assert!(cache.evict(doomed(8), SOON).await.is_err());
    assert_eq!(cache.unconfirmed(), doomed(8));
    let again = soon(cache.finish()).await.unwrap();
    assert_eq!(again.blobs, BTreeSet::from([digest(3), digest(5), digest(8)]));
    let left = server.dump();
    assert!(!left.keys().any(|key| digests(0..9).iter().any(|digest| key.contains(digest))));
    assert!(left.contains_key(&format!("repository::shop/api::blobs::{}", digest(9))));
}

/// Kills a server, and has it find its data when it is started again, with further lines of configuration.
fn kill(server: &mut Server, lines: &str) {
    assert_eq!(server.text("SAVE"), "+OK");
    server.stop();
    let path = server.directory().join("redis.conf");
    let config = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{config}\n{lines}\n")).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_down_holds_nobody_up_and_is_caught_up_on() {
    if !is_installed() {
        return;
    }
    let mut server = Server::start(&[]);
    seed(&server, 0..40);
    let before = contents(&server);
    let cache = connect(&server.url()).await;
    work(&cache, 0..10, 3).await;
    // It is still loading when it can be connected to again.
    kill(&mut server, "key-load-delay 2000\nloading-process-events-interval-bytes 1024");
    let failure = cache.evict(doomed(10), Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(failure.problem, Problem::Refused, "{failure}");
    let begin = Instant::now();
    for n in 11..30 {
        let failure = cache.evict(doomed(n), Duration::from_secs(60)).await.unwrap_err();
        assert_eq!(failure.problem, Problem::Refused, "{failure}");
    }
    assert!(begin.elapsed() < Duration::from_secs(2), "workers are held up");
    let unconfirmed = cache.unconfirmed();
    assert_eq!(unconfirmed.digests().collect::<Vec<_>>(), digests(10..30));
    assert_eq!(unconfirmed.links().count(), 40);
    server.start_again();
    caught_up(&cache).await;
    work(&cache, 30..35, 3).await;
    assert_forgotten(&before, &contents(&server), &digests(0..35));
    // Until then Redis has given them to any replica that asked.
    let again = soon(cache.finish()).await.unwrap();
    assert_eq!(again.blobs, digests(10..30).into_iter().collect());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_never_confirmed_is_evicted_at_the_end_or_known_to_be_left() {
    if !is_installed() {
        return;
    }
    let mut server = Server::start(&[]);
    seed(&server, 0..8);
    let before = contents(&server);
    let url = server.url();
    let impatient = Access { patience: Duration::from_millis(300), ..access(&url) };
    let cache = SharedCache::connect(impatient, Dialer::direct(), Layout::default(), silent()).await.unwrap();
    cache.evict(doomed(0), SOON).await.unwrap();
    kill(&mut server, "");
    cache.evict(doomed(1), Duration::from_millis(100)).await.unwrap_err();
    cache.evict(doomed(2), Duration::from_millis(100)).await.unwrap_err();
    let failure = soon(cache.finish()).await.unwrap_err();
    assert_eq!(failure.problem, Problem::Refused, "{failure}");
    assert_eq!(cache.unconfirmed().digests().collect::<Vec<_>>(), digests(1..3));
    server.start_again();
    let again = soon(cache.finish()).await.unwrap();
    assert_eq!(again.blobs, digests(1..3).into_iter().collect());
    assert!(cache.unconfirmed().is_empty());
    assert_forgotten(&before, &contents(&server), &digests(0..3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_hangs_holds_nobody_up() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..10);
    let before = server.dump();
    let cache = connect(&server.url()).await;
    let info = server.text("INFO server");
    let pid = info.lines().find_map(|line| line.trim().strip_prefix("process_id:")).unwrap();
    let signal = |name: &str| assert!(Command::new("kill").args([name, pid]).status().unwrap().success());
    signal("-STOP");
    let failure = cache.evict(doomed(0), Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(failure.problem, Problem::TimedOut);
    assert_eq!(failure.to_string(), "evict keys: no answer within 200ms");
    let begin = Instant::now();
    cache.evict(doomed(1), Duration::from_secs(60)).await.unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(2), "workers are held up");
    signal("-CONT");
    caught_up(&cache).await;
    work(&cache, 2..4, 2).await;
    assert_forgotten(&before, &server.dump(), &digests(0..4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_in_the_middle_of_a_batch_is_made_anew() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..400);
    let before = server.dump();
    let port = cutting_proxy(server.port(), 5, 7000);
    let cache = connect(&format!("redis://127.0.0.1:{port}")).await;
    work(&cache, 0..300, 20).await;
    assert_forgotten(&before, &server.dump(), &digests(0..300));
    assert!(soon(cache.finish()).await.unwrap().blobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_allowed_is_told_at_once() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[
        "user old on >pw ~blobs::* ~repository::* +ping +del +srem",
        "user reader on >pw ~* +@read +ping",
    ]);
    seed(&server, 0..4);
    let before = server.dump();
    let login = |user: &str| {
        let mut access = access(&format!("redis://{user}@127.0.0.1:{}", server.port()));
        access.address.password = Some(SecretString::from("pw"));
        SharedCache::connect(access, Dialer::direct(), Layout::default(), silent())
    };
    // UNLINK is not allowed, DEL is.
    let old = login("old").await.unwrap();
    old.evict(doomed(0), SOON).await.unwrap();
    let reader = login("reader").await.unwrap();
    let failure = tokio::time::timeout(SOON / 2, reader.evict(doomed(1), SOON)).await.unwrap().unwrap_err();
    assert_eq!(failure.problem, Problem::NotAllowed, "{failure}");
    assert_eq!(reader.unconfirmed(), doomed(1));
    assert_eq!(soon(reader.finish()).await.unwrap_err().problem, Problem::NotAllowed);
    assert_forgotten(&before, &server.dump(), &digests(0..1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_that_becomes_a_replica_leads_to_the_new_one() {
    if !is_installed() {
        return;
    }
    let old = Server::start(&[]);
    let new = Server::start(&[&format!("replicaof 127.0.0.1 {}", old.port())]);
    seed(&old, 0..10);
    new.wait_for("INFO replication", "master_link_status:up");
    let before = contents(&old);
    let told = Arc::new(Mutex::new(Vec::new()));
    let tell: Tell = {
        let told = Arc::clone(&told);
        Arc::new(move |event| told.lock().unwrap().push(event.clone()))
    };
    let cache =
        SharedCache::connect(access(&old.url()), Dialer::direct(), Layout::default(), tell).await.unwrap();
    work(&cache, 0..3, 2).await;
    new.wait_for("DBSIZE", &old.text("DBSIZE"));
    assert_eq!(new.text("REPLICAOF NO ONE"), "+OK");
    assert_eq!(old.text(&format!("REPLICAOF 127.0.0.1 {}", new.port())), "+OK");
    work(&cache, 3..6, 2).await;
    assert_forgotten(&before, &contents(&new), &digests(0..6));
    let followed = Event::Followed {
        replica: format!("127.0.0.1:{}", old.port()),
        master: format!("127.0.0.1:{}", new.port()),
    };
    assert_eq!(*told.lock().unwrap(), [followed]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_of_the_sentinels_is_followed() {
    if !is_installed() {
        return;
    }
    let old = Server::start(&[]);
    let new = Server::start(&[&format!("replicaof 127.0.0.1 {}", old.port())]);
    seed(&old, 0..10);
    new.wait_for("INFO replication", "master_link_status:up");
    let before = contents(&old);
    let sentinel = old.start_sentinel("mymaster");
    for setting in ["down-after-milliseconds 500", "failover-timeout 3000"] {
        assert_eq!(sentinel.text(&format!("SENTINEL SET mymaster {setting}")), "+OK");
    }
    let cache = connect(&format!("redis-sentinel://127.0.0.1:{}/mymaster", sentinel.port())).await;
    work(&cache, 0..3, 2).await;
    sentinel.wait_for_replica("mymaster");
    new.wait_for("DBSIZE", &old.text("DBSIZE"));
    // It dies, and the Sentinel finds out by itself.
    drop(old);
    work(&cache, 3..6, 2).await;
    assert!(new.text("ROLE").contains("master"));
    assert_forgotten(&before, &contents(&new), &digests(0..6));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_masters_of_a_cluster_forget_also_while_slots_move() {
    if !is_installed() {
        return;
    }
    let nodes = Server::start_cluster(3);
    seed_cluster(&nodes, 0..60);
    let before = dump_all(&nodes);
    let cache = connect(&format!("redis-cluster://127.0.0.1:{}", nodes[0].port())).await;
    work(&cache, 0..20, 5).await;
    // One slot is on its way, another one has moved for good.
    for (n, is_done) in [(20, false), (21, true)] {
        let key = format!("blobs::{}", digest(n));
        let slot = nodes[0].text(&format!("CLUSTER KEYSLOT {key}")).trim_start_matches(':').to_owned();
        let source = nodes.iter().find(|node| !node.text(&format!("EXISTS {key}")).starts_with("-MOVED"));
        let source = source.unwrap();
        let target = nodes.iter().find(|node| node.port() != source.port()).unwrap();
        let id = |node: &Server| node.text("CLUSTER MYID");
        assert_eq!(target.text(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", id(source))), "+OK");
        assert_eq!(source.text(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", id(target))), "+OK");
        for key in source.text(&format!("CLUSTER GETKEYSINSLOT {slot} 100")).lines() {
            let migrate = format!("MIGRATE 127.0.0.1 {} {key} 0 5000", target.port());
            assert_eq!(source.text(&migrate), "+OK");
        }
        if is_done {
            for node in &nodes {
                let _ = node.run(&format!("CLUSTER SETSLOT {slot} NODE {}", id(target)));
            }
        }
    }
    work(&cache, 20..40, 5).await;
    assert_forgotten(&before, &dump_all(&nodes), &digests(0..40));
    assert!(soon(cache.finish()).await.unwrap().blobs.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_only_named_node_is_replaced_in_the_middle_forgets() {
    if !is_installed() {
        return;
    }
    let mut nodes = Server::start_cluster(3);
    let replica = Server::start(&["cluster-enabled yes", "cluster-replica-no-failover yes"]);
    assert_eq!(replica.text(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[0].port())), "+OK");
    for node in nodes.iter().chain([&replica]) {
        node.wait_for("CLUSTER INFO", "cluster_known_nodes:4");
    }
    // Only now: a node that is slow to answer within the timeout would not be let in.
    for node in nodes.iter().chain([&replica]) {
        assert_eq!(node.text("CONFIG SET cluster-node-timeout 1000"), "+OK");
    }
    let id = nodes[0].text("CLUSTER MYID");
    replica.wait_for("CLUSTER NODES", &id);
    assert_eq!(replica.text(&format!("CLUSTER REPLICATE {id}")), "+OK");
    seed_cluster(&nodes, 0..40);
    replica.wait_for("INFO replication", "master_link_status:up");
    let cache = connect(&format!("redis-cluster://127.0.0.1:{}", nodes[0].port())).await;
    work(&cache, 0..10, 5).await;
    replica.wait_for("DBSIZE", &nodes[0].text("DBSIZE"));
    drop(nodes.remove(0));
    // The replica takes over only once the library has given up on the connection.
    let failure = soon(async {
        loop {
            match cache.evict(doomed(10), Duration::from_millis(100)).await {
                Err(failure) if failure.cause.starts_with("no answer") => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                result => return result.unwrap_err(),
            }
        }
    })
    .await;
    assert!(matches!(failure.problem, Problem::Down | Problem::Refused | Problem::Cut), "{failure}");
    assert_eq!(replica.text("CLUSTER FAILOVER TAKEOVER"), "+OK");
    caught_up(&cache).await;
    work(&cache, 11..30, 5).await;
    nodes.push(replica);
    let left: Vec<_> = nodes.iter().flat_map(|node| node.dump().into_keys()).collect();
    assert!(!left.iter().any(|key| digests(0..30).iter().any(|digest| key.contains(digest))));
    for n in 30..40 {
        assert_eq!(left.iter().filter(|key| key.contains(&digest(n))).count(), 3);
    }
}
