//! What makes the caches of a registry stale, what clears them, and what fills them again: in memory, and with a Redis
//! that all replicas share.
//!
//! Needs `redis-server`; without it what needs it says so and does nothing.
#![expect(clippy::unwrap_used, clippy::print_stderr, reason = "helpers of tests are no tests to clippy")]

#[allow(dead_code, reason = "each test uses a part")]
mod registry_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use registry_support::{CLEAN, Pruned, STALE, STALE_ALONE, Served, backends, in_process, status};
use sandbox::fault::Faults;
use sandbox::log::RequestLog;
use sandbox::redis::Server;
use sandbox::registry::client::{Client, Credentials, Format};
use sandbox::registry::{
    Digest, Link, RedisCache, RegistryConfig, Storage, StorageHost, StorageHostConfig, configured,
    docker_registry_binary,
};
use sandbox::tls::Authority;
use serde_json::{Value, json};
use tokio::runtime::Handle;

fn start_redis() -> Option<Server> {
    if Server::installed() {
        return Some(Server::start(&[]));
    }
    eprintln!("skipped: redis-server is missing; apt-get install redis-server");
    None
}

fn with_redis(db: &Server) -> RegistryConfig {
    RegistryConfig { redis: Some(RedisCache::at(db.address())), ..in_process() }
}

/// The three keys of a blob in repositories.
fn keys(digest: &Digest, repositories: &[&str]) -> Vec<String> {
    let mut keys = vec![format!("blobs::{digest}")];
    for repository in repositories {
        keys.push(format!("repository::{repository}::blobs"));
        keys.push(format!("repository::{repository}::blobs::{digest}"));
    }
    keys
}

fn knows(db: &Server, digest: &Digest) -> bool {
    db.text(&format!("EXISTS blobs::{digest}")) == ":1"
}

/// Removes what a Redis knows of a blob, as an eviction does: no key is left, and no member of the sets.
fn evict(db: &Server, digest: &Digest, repositories: &[&str]) {
    assert_eq!(db.text(&format!("DEL blobs::{digest}")).len(), 2);
    for repository in repositories {
        let _ = db.run(&format!("SREM repository::{repository}::blobs {digest}"));
        let _ = db.run(&format!("DEL repository::{repository}::blobs::{digest}"));
    }
}

// ---- what goes wrong after a prune ----

#[tokio::test]
async fn the_replica_that_pruned_is_clean_and_the_other_is_stale() {
    for config in backends() {
        let pruned = Pruned::start(config.clone()).await;
        assert_eq!(pruned.ask(0).await, CLEAN);
        assert_eq!(pruned.ask(1).await, STALE);
        broken_pull(&pruned, "a/two").await;
        broken_pull(&pruned, "a/one").await;

        let Some(db) = start_redis() else { continue };
        let shared = RegistryConfig { redis: Some(RedisCache::at(db.address())), ..config.clone() };
        let pruned = Pruned::start(shared.clone()).await;
        assert_eq!(pruned.ask(0).await, CLEAN);
        assert_eq!(pruned.ask(1).await, STALE_ALONE);
        broken_pull(&pruned, "a/one").await;

        // Once the key is back, no replica knows better.
        let _ = db.run("FLUSHALL");
        let pruned = Pruned::pushed(Served::start(shared).await).await;
        pruned.prune_while_asked(1).await;
        assert_eq!(pruned.ask(0).await, STALE);
        assert_eq!(pruned.ask(1).await, STALE);
    }
}

async fn broken_pull(pruned: &Pruned, repository: &str) {
    let error = pruned.served.admin(1).pull_whole(repository, "broken").await.unwrap_err();
    let expected = format!("GET /v2/{repository}/blobs/{}: 500 ", pruned.layer);
    assert!(error.to_string().starts_with(&expected), "{error}");
}

#[tokio::test]
async fn the_detail_of_an_error_tells_which_cache_is_stale() {
    let detail = async |pruned: &Pruned| {
        let answer = pruned.served.admin(1).send(Method::GET, &pruned.path(), &[], "").await.unwrap();
        let body: Value = serde_json::from_slice(answer.body()).unwrap();
        assert_eq!((answer.status().as_u16(), &body["errors"][0]["code"]), (500, &json!("UNKNOWN")));
        body["errors"][0]["detail"].clone()
    };
    let of_storage = |detail: &Value| detail["Path"].as_str().unwrap().ends_with("/data");
    assert!(of_storage(&detail(&Pruned::start(in_process()).await).await));
    let without = RegistryConfig { no_descriptor_cache: true, ..in_process() };
    assert_eq!(detail(&Pruned::start(without).await).await, json!({}));
    let Some(db) = start_redis() else { return };
    assert_eq!(detail(&Pruned::start(with_redis(&db)).await).await, json!({}));
    let _ = db.run("FLUSHALL");
    let pruned = Pruned::pushed(Served::start(with_redis(&db)).await).await;
    pruned.prune_while_asked(1).await;
    assert!(of_storage(&detail(&pruned).await));
}

// ---- what clears what ----

/// What is done about the caches after a prune through replica 0.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Step {
    Nothing,
    /// The keys of the pruned layer are removed from the Redis.
    Keys,
    /// All keys are.
    FlushAll,
    /// `DELETE /admin/blobs/<digest>` goes to both replicas.
    Evict,
    Restart,
    /// The digest cache's TTL passes.
    Wait,
}

use Step::{Evict, FlushAll, Keys, Nothing, Restart, Wait};

async fn take(step: Step, pruned: &Pruned, db: Option<&Server>) {
    match step {
        Nothing => {}
        Keys => evict(db.unwrap(), &pruned.layer, &["a/one", "a/two"]),
        FlushAll => assert_eq!(db.unwrap().text("FLUSHALL"), "+OK"),
        Evict => {
            pruned.delete_blob(0).await;
            pruned.delete_blob(1).await;
        }
        Restart => pruned.served.replicas.iter().for_each(|(replica, _)| replica.restart()),
        Wait => {
            let begin = Instant::now();
            while pruned.served.replicas.iter().any(|(replica, _)| replica.remembers(&pruned.layer)) {
                assert!(begin.elapsed() < Duration::from_secs(20), "no entry ends");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

fn ttl(steps: &[Step]) -> Duration {
    // Long enough to prune meanwhile.
    Duration::from_secs(if steps.contains(&Wait) { 1 } else { 600 })
}

#[tokio::test]
async fn steps_in_memory() {
    for (steps, expected) in
        [(&[Nothing] as &[Step], STALE), (&[Evict], CLEAN), (&[Restart], CLEAN), (&[Wait], CLEAN)]
    {
        let pruned = Pruned::start(RegistryConfig { ttl: ttl(steps), ..in_process() }).await;
        for step in steps {
            take(*step, &pruned, None).await;
        }
        assert_eq!(pruned.ask(1).await, expected, "{steps:?}");
    }
    for disabled in [
        RegistryConfig { cache_disabled: true, ..in_process() },
        RegistryConfig { ttl: Duration::ZERO, ..in_process() },
    ] {
        assert_eq!(Pruned::start(disabled).await.ask(1).await, CLEAN);
    }
}

/// The Redis either forgot the layer when its link went, or was told of it again by a client that asked then.
#[tokio::test]
async fn steps_with_redis() {
    let Some(db) = start_redis() else { return };
    for (steps, forgotten, filled_again) in [
        (&[Nothing] as &[Step], STALE_ALONE, STALE),
        (&[Keys], STALE_ALONE, STALE_ALONE),
        (&[FlushAll], STALE_ALONE, STALE_ALONE),
        (&[Evict], CLEAN, STALE),
        (&[Restart], CLEAN, STALE),
        (&[Wait], CLEAN, STALE),
        (&[Keys, Evict], CLEAN, CLEAN),
        (&[Keys, Restart], CLEAN, CLEAN),
        (&[Keys, Wait], CLEAN, CLEAN),
        // The other way round is as good only if nobody asks in between: see below.
        (&[Evict, Keys], CLEAN, CLEAN),
    ] {
        let config = RegistryConfig { ttl: ttl(steps), ..with_redis(&db) };
        for (asked, expected) in [(false, forgotten), (true, filled_again)] {
            let _ = db.run("FLUSHALL");
            let pruned = Pruned::pushed(Served::start(config.clone()).await).await;
            if asked {
                pruned.prune_while_asked(1).await;
            } else {
                pruned.prune().await;
            }
            for step in steps {
                take(*step, &pruned, Some(&db)).await;
            }
            assert_eq!(pruned.ask(1).await, expected, "{steps:?}, asked: {asked}");
        }
    }
}

#[tokio::test]
async fn a_disabled_digest_cache_leaves_redis() {
    let Some(db) = start_redis() else { return };
    let config = RegistryConfig { cache_disabled: true, ..with_redis(&db) };
    let pruned = Pruned::start(config.clone()).await;
    assert_eq!(pruned.ask(1).await, CLEAN);
    let _ = db.run("FLUSHALL");
    let pruned = Pruned::pushed(Served::start(config).await).await;
    pruned.prune_while_asked(1).await;
    assert_eq!(pruned.ask(1).await, STALE);
    evict(&db, &pruned.layer, &["a/one", "a/two"]);
    assert_eq!(pruned.ask(1).await, CLEAN);
}

#[tokio::test]
async fn evicting_from_replicas_before_redis_fills_them_again() {
    let Some(db) = start_redis() else { return };
    let pruned = Pruned::pushed(Served::start(with_redis(&db)).await).await;
    pruned.prune_while_asked(1).await;
    pruned.delete_blob(1).await;
    assert!(!pruned.served.replicas[1].0.remembers(&pruned.layer));
    assert_eq!(pruned.head(1).await, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(pruned.served.replicas[1].0.remembers(&pruned.layer), "from Redis");
    evict(&db, &pruned.layer, &["a/one"]);
    assert_eq!(pruned.ask(1).await, STALE_ALONE);
    pruned.delete_blob(1).await;
    assert_eq!(pruned.head(1).await, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn deleting_a_blob_never_touches_redis() {
    let Some(db) = start_redis() else { return };
    let pruned = Pruned::pushed(Served::start(with_redis(&db)).await).await;
    let before = db.dump();
    pruned.delete_blob(0).await;
    pruned.delete_blob(1).await;
    assert_eq!(db.dump(), before);
}

// ---- what fills Redis again ----

#[tokio::test]
async fn a_question_between_link_and_stream_puts_a_blob_back_for_good() {
    let Some(db) = start_redis() else { return };
    for asked in [0, 1] {
        let _ = db.run("FLUSHALL");
        let pruned = Pruned::pushed(Served::start(with_redis(&db)).await).await;
        pruned.unlink().await;
        assert!(!knows(&db, &pruned.layer));
        let member = format!("SISMEMBER repository::a/one::blobs {}", pruned.layer);
        assert_eq!(db.text(&member), ":1", "what is known of the repository stays");
        assert_eq!(pruned.head(asked).await, StatusCode::OK);
        assert!(knows(&db, &pruned.layer));
        pruned.served.cluster.empty_stream("a/one");
        pruned.delete_blob(0).await;
        assert!(knows(&db, &pruned.layer));
        assert_eq!(pruned.ask(0).await, STALE);
    }
}

#[tokio::test]
async fn a_question_after_the_stream_was_updated_puts_nothing_back() {
    let Some(db) = start_redis() else { return };
    let pruned = Pruned::pushed(Served::start(with_redis(&db)).await).await;
    // Nothing in their own memory, as after the entries' life.
    pruned.served.replicas.iter().for_each(|(replica, _)| replica.restart());
    pruned.served.cluster.empty_stream("a/one");
    pruned.unlink().await;
    for replica in [0, 1] {
        assert_eq!(pruned.head(replica).await, StatusCode::NOT_FOUND);
    }
    assert!(!knows(&db, &pruned.layer));
    pruned.delete_blob(0).await;
    assert_eq!(pruned.ask(1).await, CLEAN);
    assert!(!knows(&db, &pruned.layer));
}

/// A stream that one asks for one of its layers teaches the replica all of them.
#[tokio::test]
async fn a_replica_that_learned_a_stream_answers_after_it_was_updated() {
    let served = Served::start(in_process()).await;
    let layers = [b"one layer".to_vec(), b"another layer".to_vec()];
    served.admin(0).push_image("a/one", Some("latest"), Format::Docker, &layers, &json!({})).await.unwrap();
    let paths = layers.each_ref().map(|layer| format!("/v2/a/one/blobs/{}", Digest::of(layer)));
    for path in &paths {
        assert_eq!(status(&served.pruner(0), Method::DELETE, path).await, StatusCode::ACCEPTED);
    }
    assert_eq!(status(&served.admin(1), Method::HEAD, &paths[0]).await, StatusCode::OK);
    served.cluster.empty_stream("a/one");
    assert_eq!(status(&served.admin(1), Method::HEAD, &paths[1]).await, StatusCode::OK);
    assert_eq!(status(&served.admin(0), Method::HEAD, &paths[1]).await, StatusCode::NOT_FOUND);
}

/// Pushes one layer to `a/one` and `a/two`, whose streams both list it.
async fn shared(served: &Served) -> Digest {
    let layer = b"a layer that two repositories have".to_vec();
    for repository in ["a/one", "a/two"] {
        let layers = std::slice::from_ref(&layer);
        let config = json!({ "for": repository });
        served.admin(0).push_image(repository, Some("latest"), Format::Oci, layers, &config).await.unwrap();
    }
    Digest::of(&layer)
}

#[tokio::test]
async fn a_question_to_the_other_repository_puts_a_shared_blob_back() {
    let Some(db) = start_redis() else { return };
    for asked in ["a/one", "a/two"] {
        let _ = db.run("FLUSHALL");
        let served = Served::start(with_redis(&db)).await;
        let layer = shared(&served).await;
        let path = |repository: &str| format!("/v2/{repository}/blobs/{layer}");
        let delete = async |path: &str| status(&served.pruner(0), Method::DELETE, path).await;
        assert_eq!(delete(&path("a/one")).await, StatusCode::ACCEPTED);
        assert!(!knows(&db, &layer));
        assert_eq!(status(&served.admin(1), Method::HEAD, &path(asked)).await, StatusCode::OK);
        assert!(knows(&db, &layer), "asked in {asked}");
        // The deletion of the second link makes Redis forget it once more.
        assert_eq!(delete(&path("a/two")).await, StatusCode::ACCEPTED);
        assert!(!knows(&db, &layer));
    }
}

#[tokio::test]
async fn a_leftover_of_a_repository_answers_once_another_one_brings_the_blob_back() {
    let Some(db) = start_redis() else { return };
    let served = Served::start(with_redis(&db)).await;
    let layer = shared(&served).await;
    served.cluster.empty_stream("a/one");
    let path = format!("/v2/a/one/blobs/{layer}");
    assert_eq!(status(&served.pruner(0), Method::DELETE, &path).await, StatusCode::ACCEPTED);
    served.replicas.iter().for_each(|(replica, _)| replica.restart());
    assert_eq!(status(&served.admin(0), Method::GET, &path).await, StatusCode::NOT_FOUND);
    let other = format!("/v2/a/two/blobs/{layer}");
    assert_eq!(status(&served.admin(1), Method::HEAD, &other).await, StatusCode::OK);
    assert!(knows(&db, &layer));
    assert!(!served.storage().is_linked(Link::Layer, "a/one", &layer));
    assert_eq!(status(&served.admin(0), Method::GET, &path).await, StatusCode::OK, "without a link");
    evict(&db, &layer, &["a/one"]);
    served.replicas.iter().for_each(|(replica, _)| replica.restart());
    assert_eq!(status(&served.admin(1), Method::HEAD, &other).await, StatusCode::OK);
    assert_eq!(status(&served.admin(0), Method::GET, &path).await, StatusCode::NOT_FOUND);
}

/// What is left of a blob that is gone answers only as a whole.
#[tokio::test]
async fn each_of_the_three_entries_is_needed() {
    let Some(db) = start_redis() else { return };
    let blob = Digest::of(b"never pushed");
    let entries = [
        format!("HSET blobs::{blob} digest {blob} size 12"),
        format!("SADD repository::a/one::blobs {blob}"),
        format!("HSET repository::a/one::blobs::{blob} mediatype application/octet-stream"),
    ];
    for left_out in [Some(0), Some(1), Some(2), None] {
        let _ = db.run("FLUSHALL");
        for (_, entry) in entries.iter().enumerate().filter(|(index, _)| Some(*index) != left_out) {
            let _ = db.run(entry);
        }
        let served = Served::start(with_redis(&db)).await;
        served.cluster.add_stream("a/one");
        let head = status(&served.admin(0), Method::HEAD, &format!("/v2/a/one/blobs/{blob}")).await;
        assert_eq!(head.as_u16(), if left_out.is_some() { 404 } else { 500 }, "without {left_out:?}");
    }
}

/// A replica that has just seen the data writes to Redis what another one deletes meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_that_a_deletion_overtakes_leaves_redis_stale() {
    let Some(db) = start_redis() else { return };
    let pruned = Pruned::pushed(Served::start(with_redis(&db)).await).await;
    pruned.served.replicas.iter().for_each(|(replica, _)| replica.restart());
    let _ = db.run("FLUSHALL");
    assert_eq!(db.text("CLIENT PAUSE 20000 WRITE"), "+OK");
    let db = Arc::new(db);
    let waiting = db.clone();
    let overtaking = async {
        let writes =
            tokio::task::spawn_blocking(move || waiting.wait_for("INFO clients", "blocked_clients:1"));
        writes.await.unwrap();
        pruned.delete_blob(0).await;
        assert!(pruned.served.storage().blob_size(&pruned.layer).is_none());
        assert_eq!(db.text("CLIENT UNPAUSE"), "+OK");
    };
    let (head, ()) = tokio::join!(pruned.head(1), overtaking);
    assert_eq!(head, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(knows(&db, &pruned.layer));
}

/// What nobody evicts from Redis makes a manifest that is pushed again unreadable.
#[tokio::test]
async fn manifests_have_one_key_and_keep_it() {
    let Some(db) = start_redis() else { return };
    let served = Served::start(with_redis(&db)).await;
    let push = async || {
        let layers = [b"a layer".to_vec()];
        served.admin(0).push_image("a/one", Some("latest"), Format::Oci, &layers, &json!({})).await.unwrap()
    };
    let manifest = push().await.digest;
    assert!(!knows(&db, &manifest), "a push writes no key for it");
    served.admin(1).pull_whole("a/one", "latest").await.unwrap();
    assert!(knows(&db, &manifest));
    assert!(!db.keys().contains(&keys(&manifest, &["a/one"])[2]));
    served.cluster.empty_stream("a/one");
    let pruner = served.pruner(0);
    let link = format!("/v2/a/one/manifests/{manifest}");
    assert_eq!(status(&pruner, Method::DELETE, &link).await, StatusCode::ACCEPTED);
    let blob = format!("/admin/blobs/{manifest}");
    for replica in [0, 1] {
        assert_eq!(status(&served.pruner(replica), Method::DELETE, &blob).await, StatusCode::NO_CONTENT);
    }
    assert!(knows(&db, &manifest));
    push().await;
    assert!(served.admin(0).pull_whole("a/one", "latest").await.is_err());
    evict(&db, &manifest, &[]);
    push().await;
    served.admin(0).pull_whole("a/one", "latest").await.unwrap();
}

#[tokio::test]
async fn a_mount_tells_redis_nothing() {
    let Some(db) = start_redis() else { return };
    let served = Served::start(with_redis(&db)).await;
    let client = served.admin(0);
    let blob = client.push_blob("a/one", b"shared").await.unwrap();
    assert_eq!(client.mount_blob("a/two", &blob, "a/one").await.unwrap(), StatusCode::CREATED);
    let mut expected = keys(&blob, &["a/one"]);
    expected.sort_unstable();
    assert_eq!(db.keys(), expected);
    let path = format!("/v2/a/two/blobs/{blob}");
    assert_eq!(status(&client, Method::HEAD, &path).await, StatusCode::OK);
    let mut expected = keys(&blob, &["a/one", "a/two"]);
    expected.sort_unstable();
    assert_eq!(db.keys(), expected);
}

// ---- Redis itself ----

#[tokio::test]
async fn without_redis_replicas_go_on_with_the_storage() {
    let Some(mut db) = start_redis() else { return };
    let pruned = Pruned::pushed(Served::start(with_redis(&db)).await).await;
    let Pruned { served, .. } = &pruned;
    served.replicas.iter().for_each(|(replica, _)| replica.restart());
    db.stop();
    for replica in [0, 1] {
        served.admin(replica).pull_whole("a/one", "latest").await.unwrap();
    }
    let layers = [b"pushed without Redis".to_vec()];
    served.admin(0).push_image("a/two", Some("new"), Format::Oci, &layers, &json!({})).await.unwrap();

    // A link, though, goes only when Redis has been told.
    served.cluster.empty_stream("a/one");
    let answer = served.pruner(0).send(Method::DELETE, &pruned.path(), &[], "").await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let body: Value = serde_json::from_slice(answer.body()).unwrap();
    assert_eq!(
        body["errors"][0]["detail"],
        json!({
            "Op": "dial", "Net": "tcp", "Source": null,
            "Addr": {"IP": "127.0.0.1", "Port": db.port(), "Zone": ""},
            "Err": {"Syscall": "connect", "Err": 111},
        })
    );
    assert!(served.storage().is_linked(Link::Layer, "a/one", &pruned.layer));

    db.start_again();
    pruned.unlink().await;
    assert!(!served.storage().is_linked(Link::Layer, "a/one", &pruned.layer));
}

/// A replica that answers from its own memory asks Redis only when it deletes the link, and takes its ignorance for an
/// answer.
#[tokio::test]
async fn a_link_that_redis_does_not_know_of_is_not_removed_at_first() {
    let Some(db) = start_redis() else { return };
    let pruned = Pruned::pushed(Served::start(with_redis(&db)).await).await;
    let _ = db.run("FLUSHALL");
    let delete = status(&pruned.served.pruner(0), Method::DELETE, &pruned.path()).await;
    assert_eq!(delete, StatusCode::NOT_FOUND);
    assert!(pruned.served.storage().is_linked(Link::Layer, "a/one", &pruned.layer));
    pruned.unlink().await;
    assert!(!pruned.served.storage().is_linked(Link::Layer, "a/one", &pruned.layer));
}

#[tokio::test]
async fn redis_with_tls_password_and_database() {
    if start_redis().is_none() {
        return;
    }
    let authority = Authority::default();
    let db = Server::start_tls(&authority, &["tls-auth-clients no", "requirepass s3cret"]);
    let db = db.with_password("s3cret");
    let redis = RedisCache {
        password: Some("s3cret".to_owned()),
        database: 2,
        tls_ca: Some(authority.pem()),
        ..RedisCache::at(db.address())
    };
    let config = RegistryConfig { redis: Some(redis.clone()), ..in_process() };
    let served = Served::start(config).await;
    served.admin(0).push_blob("a/one", b"a blob").await.unwrap();
    assert_eq!(db.keys(), Vec::<String>::new());
    assert!(db.text("INFO keyspace").contains("db2:keys=3"));

    // Whoever may not ask goes without, and may not delete either.
    for wrong in [
        RedisCache { password: None, ..redis.clone() },
        RedisCache { tls_ca: Some(Authority::new("another").pem()), ..redis.clone() },
        RedisCache { tls_ca: None, ..redis },
    ] {
        let config = RegistryConfig { redis: Some(wrong), ..in_process() };
        let served = Served::start(config).await;
        let blob = served.admin(0).push_blob("a/one", b"a blob").await.unwrap();
        let path = format!("/v2/a/one/blobs/{blob}");
        assert_eq!(status(&served.admin(1), Method::HEAD, &path).await, StatusCode::OK);
        let delete = status(&served.pruner(1), Method::DELETE, &path).await;
        assert_eq!(delete, StatusCode::INTERNAL_SERVER_ERROR);
    }
}

// ---- the keys are those of the real registry ----

#[tokio::test]
async fn docker_registry_writes_and_reads_the_same_keys() {
    let (Some(binary), Some(db)) = (docker_registry_binary(), start_redis()) else {
        eprintln!("skipped: docker-registry or redis-server is missing");
        return;
    };
    let served = Served::start(with_redis(&db)).await;
    let push = async |client: &Client| client.push_blob("a/one", b"the same blob").await.unwrap();
    let blob = push(&served.admin(0)).await;
    let written = db.dump();
    assert_eq!(written.len(), 3);

    let _ = db.run("FLUSHALL");
    let real = Plain::start(&binary, served.storage().directory(), &db).await;
    served.storage().delete_blob(&blob).unwrap();
    served.storage().unlink(Link::Layer, "a/one", &blob).unwrap();
    push(&real.client).await;
    assert_eq!(db.dump(), written, "byte for byte");

    // And each believes what the other has written.
    let path = format!("/v2/a/one/blobs/{blob}");
    served.storage().delete_blob(&blob).unwrap();
    served.storage().unlink(Link::Layer, "a/one", &blob).unwrap();
    assert_eq!(status(&served.admin(1), Method::HEAD, &path).await, StatusCode::INTERNAL_SERVER_ERROR);
    let _ = db.run("FLUSHALL");
    assert_eq!(status(&real.client, Method::HEAD, &path).await, StatusCode::NOT_FOUND);
    push(&served.admin(0)).await;
    served.storage().delete_blob(&blob).unwrap();
    served.storage().unlink(Link::Layer, "a/one", &blob).unwrap();
    assert_eq!(status(&real.client, Method::HEAD, &path).await, StatusCode::OK, "as 2.8 does");
}

/// A `docker-registry` with the Redis as its descriptor cache.
struct Plain {
    process: std::process::Child,
    client: Client,
    _directory: tempfile::TempDir,
}

impl Plain {
    async fn start(binary: &std::path::Path, storage: &std::path::Path, db: &Server) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = sandbox::redis::free_port();
        let config = json!({
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": true}},
            "storage": {
                "filesystem": {"rootdirectory": storage},
                "cache": {"blobdescriptor": "redis"},
            },
            "redis": {"addr": db.address()},
            "http": {"addr": format!("127.0.0.1:{port}")},
        });
        let file = directory.path().join("config.yml");
        std::fs::write(&file, config.to_string()).unwrap();
        let process = std::process::Command::new(binary)
            .arg("serve")
            .arg(&file)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let client = Client::new(&format!("http://127.0.0.1:{port}"), Credentials::None, None);
        let plain = Self { process, client, _directory: directory };
        let begin = Instant::now();
        while plain.client.send(Method::GET, "/v2/", &[], "").await.is_err() {
            assert!(begin.elapsed() < Duration::from_secs(20), "docker-registry does not answer");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        plain
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

// ---- configurations ----

#[tokio::test]
async fn settings_that_turn_caches_off_and_some_that_do_not() {
    let redis = start_redis();
    let address = redis.as_ref().map(Server::address).unwrap_or_default();
    let with_redis = format!("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=redis\nREGISTRY_REDIS_ADDR={address}\n");
    let without_digest_cache = format!("{with_redis}REGISTRY_OPENSHIFT_CACHE_DISABLED=true");
    let bare = "version: 0.1\nstorage: filesystem\n";
    let empty = "version: 0.1\nstorage: {filesystem: {}, cache: {blobdescriptor: ''}}\n";
    let disabled = format!("{bare}openshift: {{cache: {{disabled: true}}}}\n");
    let off = "REGISTRY_OPENSHIFT_CACHE_DISABLED=true\nREGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=inmemory";
    let stopped = [0; 5];
    for (environment, file, expected) in [
        ("", None, STALE),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=true", None, CLEAN),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=yes", None, CLEAN),
        (off, None, CLEAN),
        ("", Some(disabled.as_str()), CLEAN),
        ("REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL=0s", None, CLEAN),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=false", Some(bare), CLEAN),
        ("REGISTRY_OPENSHIFT_CACHE_DISABLED=maybe", None, stopped),
        ("", Some(bare), STALE_ALONE),
        ("", Some(empty), STALE_ALONE),
        ("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=", None, stopped),
        ("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=none", None, stopped),
        ("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=memory", None, stopped),
        ("REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR=redis", None, stopped),
        (&with_redis, None, STALE),
        (&without_digest_cache, None, STALE),
    ] {
        if environment.contains("REDIS") && redis.is_none() {
            continue;
        }
        let variables: BTreeMap<String, String> = environment
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let answers = match configured(&in_process(), &variables, file) {
            Err(_) => stopped,
            Ok(config) => {
                if let Some(db) = &redis {
                    let _ = db.run("FLUSHALL");
                }
                // Links can be deleted whatever these files say.
                let config = RegistryConfig { delete_enabled: true, ..config };
                let pruned = Pruned::pushed(Served::start(config.clone()).await).await;
                if config.redis.is_some() {
                    pruned.prune_while_asked(1).await;
                } else {
                    pruned.prune().await;
                }
                pruned.ask(1).await
            }
        };
        assert_eq!(answers, expected, "{environment}\n{file:?}");
    }
}

#[tokio::test]
async fn old_and_new_pods_of_a_rollout_have_configurations_of_their_own() {
    let disabled = RegistryConfig { cache_disabled: true, ..in_process() };
    let readonly = RegistryConfig { readonly: true, ..in_process() };
    let pruned = Pruned::pushed(Served::with([in_process(), disabled]).await).await;
    pruned.prune().await;
    assert_eq!(pruned.ask(1).await, CLEAN);
    let replica = pruned.served.registry.replica_with(readonly);
    assert!(replica.config().readonly && !pruned.served.replicas[0].0.config().readonly);
    assert_eq!(replica.number(), 2);
}

// ---- redirects ----

#[tokio::test]
async fn redirects_are_built_without_asking_the_storage() {
    for db in [None, start_redis()] {
        let redis = db.as_ref().map(|db| RedisCache::at(db.address()));
        let directory = tempfile::tempdir().unwrap();
        let storage = Storage::new(directory.path());
        let authority = Authority::default();
        let host = StorageHost::start(
            storage.clone(),
            StorageHostConfig::default(),
            &Handle::current(),
            Some(authority.server(&["127.0.0.1"])),
            &Faults::default(),
            &RequestLog::default(),
        );
        let config = RegistryConfig { redirect: Some(host.url()), redis, ..in_process() };
        let served = Served::over(directory, [config.clone(), config]).await;
        let blob = served.admin(0).push_blob("a/one", b"a blob").await.unwrap();
        served.cluster.add_stream("a/one");
        let path = format!("/v2/a/one/blobs/{blob}");
        let target = async |method: Method| {
            let answer = served.admin(1).send(method, &path, &[], "").await.unwrap();
            assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
            assert_eq!(answer.body(), "");
            answer.headers()["location"].to_str().unwrap().to_owned()
        };
        let anonymous = Client::new(&host.url(), Credentials::None, Some(&authority.pem()));
        let location = target(Method::HEAD).await;
        assert!(
            location.starts_with(&format!("{}/docker/registry/v2/blobs/sha256/", host.url())),
            "{location}"
        );
        let there = anonymous.send(Method::GET, &location, &[], "").await.unwrap();
        assert_eq!((there.status(), there.body().as_ref()), (StatusCode::OK, b"a blob".as_ref()));
        assert_eq!(status(&anonymous, Method::HEAD, &target(Method::GET).await).await, StatusCode::OK);
        // A host like this one takes neither a token nor a URL that is not signed.
        let token = Client::new(&host.url(), Credentials::Bearer("x".to_owned()), Some(&authority.pem()));
        assert_eq!(status(&token, Method::GET, &location).await, StatusCode::BAD_REQUEST);
        let unsigned = location.split('?').next().unwrap();
        assert_eq!(status(&anonymous, Method::GET, unsigned).await, StatusCode::FORBIDDEN);

        // The data goes, and replica 1 still redirects.
        storage.delete_blob(&blob).unwrap();
        let location = target(Method::HEAD).await;
        assert_eq!(status(&anonymous, Method::HEAD, &location).await, StatusCode::NOT_FOUND);
        host.set(StorageHostConfig { absent: StatusCode::FORBIDDEN, always: None });
        assert_eq!(status(&anonymous, Method::HEAD, &location).await, StatusCode::FORBIDDEN);
        host.set(StorageHostConfig { always: Some(StatusCode::SERVICE_UNAVAILABLE), ..Default::default() });
        assert_eq!(status(&anonymous, Method::HEAD, &location).await, StatusCode::SERVICE_UNAVAILABLE);

        // Where Redis forgot the blob, there is no size to build a redirect with.
        if let Some(db) = &db {
            evict(db, &blob, &["a/one"]);
            let head = status(&served.admin(1), Method::HEAD, &path).await;
            assert_eq!(head, StatusCode::INTERNAL_SERVER_ERROR);
        }
        let admin = format!("/admin/blobs/{blob}");
        assert_eq!(status(&served.pruner(1), Method::DELETE, &admin).await, StatusCode::NO_CONTENT);
        storage.unlink(Link::Layer, "a/one", &blob).unwrap();
        assert_eq!(status(&served.admin(1), Method::HEAD, &path).await, StatusCode::NOT_FOUND);
    }
}
