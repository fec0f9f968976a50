//! `cache flush` against real Redis servers: standalone, TLS, ACL, socket, replica, loading, cluster, Sentinel.
//!
//! Needs `redis-server`; without it the tests say so and do nothing.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "tests: whatever is wrong here fails them"
)]

// Not all of `common`: no test here needs a cluster.
#[path = "common/plugin.rs"]
#[allow(dead_code, reason = "each test uses a part")]
mod plugin;
#[path = "common/redis.rs"]
mod redis_keys;

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use plugin::{Plugin, Ran};
use redis_keys::{
    FOREIGN, assert_forgotten, cutting_proxy, digest, dump_all, is_installed, seed, seed_cluster,
};
use sandbox::redis::{Server, free_port};
use sandbox::tls::Authority;

const PASSWORD: &str = "geheim-9f3c";

fn flush(url: &str) -> Plugin {
    Plugin::new().args(["cache", "flush"]).arg(format!("--redis-url={url}"))
}

fn without_password(ran: Ran) -> Ran {
    assert!(!format!("{}{}", ran.stdout, ran.stderr).contains(PASSWORD), "a password is shown\n{ran}");
    ran
}

/// A list of the blobs with both repositories that have them.
fn list(blobs: std::ops::Range<usize>) -> String {
    let lines: Vec<_> = blobs.map(|n| format!("shop/web@{0}\nshop/api@{0}\n", digest(n))).collect();
    lines.concat()
}

#[test]
fn deleted_blobs_are_forgotten_and_everything_else_stays() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..20);
    let before = server.dump();
    let dry = flush(&server.url())
        .file("list", list(0..15))
        .args(["--digests-from=list", "--dry-run"])
        .run()
        .exits(0);
    assert_eq!(
        dry.stdout,
        format!("Summary: would evict 45 key(s) and 30 set member(s) of {}\n", server.url())
    );
    assert_eq!(server.dump(), before, "a dry run changes nothing");
    let ran = flush(&server.url()).file("list", list(0..15)).arg("--digests-from=list").run().exits(0);
    assert_eq!(ran.stdout, format!("Summary: evicted 45 key(s) and 30 set member(s) of {}\n", server.url()));
    let _ = ran.says("warning: each replica").says("hint: pushes that re-use");
    let doomed: Vec<_> = (0..15).map(digest).collect();
    let after = server.dump();
    assert_forgotten(&before, &after, &doomed);
    let mut members: Vec<_> =
        server.text("SMEMBERS repository::shop/web::blobs").lines().map(str::to_owned).collect();
    members.sort();
    assert_eq!(members, (15..20).map(digest).collect::<Vec<_>>());
    let again = flush(&server.url()).file("list", list(0..15)).arg("--digests-from=list").run().exits(0);
    let _ = again.prints("evicted 0 key(s) and 0 set member(s)");
    assert_eq!(server.dump(), after, "twice does no harm");
}

#[test]
fn a_digest_alone_leaves_its_repositories_unless_they_are_scanned() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..3);
    let before = server.dump();
    let list = format!("{}\n", digest(0));
    let ran = flush(&server.url()).file("list", &list).arg("--digests-from=list").run().exits(0);
    let _ = ran
        .prints("evicted 1 key(s) and 0 set member(s)")
        .says("warning: 1 blob(s) came without a repository")
        .says("--digests-from=list --scan-repositories");
    let ran =
        flush(&server.url()).file("list", &list).args(["--digests-from=list", "--scan-repositories"]).run();
    let _ = ran.exits(0).prints("evicted 2 key(s) and 2 set member(s)").does_not_say("without a repository");
    assert_forgotten(&before, &server.dump(), &[digest(0)]);
}

#[test]
fn the_document_of_a_prune_says_what_is_gone() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..3);
    let before = server.dump();
    let document = serde_json::json!({
        "apiVersion": "prune-images/v1alpha1",
        "kind": "PruneResult",
        "result": { "changes": [
            { "kind": "layerLink", "repository": "shop/web", "digest": digest(0) },
            { "kind": "layerLink", "repository": "shop/api", "digest": digest(0) },
            { "kind": "layerLink", "repository": "shop/web", "digest": digest(1) },
            { "kind": "blob", "digest": digest(0), "bytes": 3 },
        ]},
    });
    let ran = flush(&server.url()).file("result.json", document.to_string()).arg("--from=result.json").run();
    let _ = ran.exits(0).prints("evicted 4 key(s) and 3 set member(s)");
    let after = server.dump();
    assert!(after.contains_key(&format!("blobs::{}", digest(1))), "a blob that lost only a link stays");
    assert!(after.contains_key(&format!("repository::shop/api::blobs::{}", digest(1))));
    let lost = format!("repository::shop/web::blobs::{}", digest(1));
    assert!(!after.contains_key(&lost));
    assert!(!after["repository::shop/web::blobs"].windows(71).any(|member| member == digest(1).as_bytes()));
    assert!(after["repository::shop/api::blobs"].windows(71).any(|member| member == digest(1).as_bytes()));
    for key in before.keys().filter(|key| !key.contains(&digest(0)) && **key != lost) {
        assert!(after.contains_key(key), "{key} is lost");
    }
    for key in FOREIGN.map(|line| line.split(' ').nth(1).unwrap()) {
        assert_eq!(after[key], before[key], "{key} has changed");
    }
}

#[test]
fn everything_of_the_cache_goes_and_nothing_else() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..3000);
    let foreign: BTreeMap<_, _> = server.dump().into_iter().filter(|(key, _)| !key.contains("::")).collect();
    let dry = flush(&server.url()).args(["--all", "--dry-run"]).run().exits(0);
    let _ = dry.prints("would evict 9002 key(s)").does_not_say("each replica");
    let _ = flush(&server.url()).arg("--all").run().exits(0).prints("Summary: evicted 9002 key(s)");
    let after = server.dump();
    let names: Vec<_> = after.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "blobs::photos",
            "myblobs::sha256:00",
            "repository::A::blobs",
            "scores",
            "session:1",
            "upload:blobs"
        ]
    );
    assert!(foreign.iter().all(|(key, bytes)| after[key] == *bytes));
}

#[test]
fn inputs_that_say_nothing_are_refused_before_any_connection() {
    for (content, flag, message) in [
        ("latest\n", "--digests-from=x", "error: read digests from x: line 1: \"latest\" is no digest"),
        ("{}", "--from=x", "error: read the result from x: it is no document"),
    ] {
        let ran = flush("redis://127.0.0.1:1").file("x", content).arg(flag).run().exits(1);
        let _ = ran.says(message).says("hint: ");
    }
    let ran = flush("redis://127.0.0.1:1").file("x", "# nothing\n").arg("--digests-from=x").run().exits(0);
    let _ = ran.prints("evicted 0 key(s)");
    let ran = flush("redis://127.0.0.1:1").arg("--digests-from=-").run().exits(0);
    let _ = ran.prints("evicted 0 key(s)");
}

#[test]
fn a_refused_connection_is_a_failed_step_with_the_command_to_repeat_it() {
    let url = format!("redis://:{PASSWORD}@127.0.0.1:{}/2", free_port());
    let ran = without_password(flush(&url).arg("--all").run().exits(4));
    let _ = ran
        .says("connection refused")
        .says("hint: the cache may still name what was deleted")
        .says("--redis-password-file=FILE --all");
}

#[test]
fn logins_that_are_refused_have_their_own_words() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[
        &format!("user default on >{PASSWORD} ~* &* +@all"),
        "user cache on >cachepw-77 ~blobs::* ~repository::* +ping +unlink +srem +scan +role",
        "user old on >cachepw-77 ~blobs::* ~repository::* +ping +del +srem",
        "user reader on >cachepw-77 ~* +@read +ping",
    ])
    .with_password(PASSWORD);
    seed(&server, 0..5);
    let before = server.dump();
    let port = server.port();
    let one = |url: &str, password: &str, n: usize| {
        let plugin = flush(url)
            .file("list", list(n..n + 1))
            .arg("--digests-from=list")
            .file("pw", format!("{password}\n"));
        let plugin = if password.is_empty() { plugin } else { plugin.arg("--redis-password-file=pw") };
        let ran = without_password(plugin.run());
        assert!(!format!("{}{}", ran.stdout, ran.stderr).contains("cachepw-77"), "{ran}");
        ran
    };
    let url = server.url();
    let _ = one(&url, "", 0).exits(4).says("NOAUTH").says("--redis-password-file=FILE");
    let _ = one(&url, "wrong", 0).exits(4).says("WRONGPASS").says("as user default");
    let _ = one(&format!("redis://nobody@127.0.0.1:{port}"), "wrong", 0).exits(4).says("as user nobody");
    let _ = one(&format!("redis://reader@127.0.0.1:{port}"), "cachepw-77", 0)
        .exits(4)
        .says("NOPERM")
        .says("ACL SETUSER reader");
    assert_eq!(server.dump(), before, "who may not, does not");
    let _ = one(&url, PASSWORD, 0).exits(0).prints("evicted 3 key(s) and 2 set member(s)");
    let _ = one(&format!("redis://:{PASSWORD}@127.0.0.1:{port}"), "", 1).exits(0).prints("evicted 3 key(s)");
    let _ = one(&format!("redis://cache@127.0.0.1:{port}?protocol=resp3"), "cachepw-77", 2)
        .exits(0)
        .prints("evicted 3 key(s)");
    // UNLINK is not allowed, DEL is.
    let _ =
        one(&format!("redis://old@127.0.0.1:{port}"), "cachepw-77", 3).exits(0).prints("evicted 3 key(s)");
    assert_forgotten(&before, &server.dump(), &[digest(0), digest(1), digest(2), digest(3)]);
}

#[test]
fn sockets_databases_and_servers_without_unlink_will_do() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&["rename-command UNLINK \"\""]);
    seed(&server, 0..3);
    let socket = server.socket();
    let _ = flush(&format!("unix://{}?db=3", socket.display()))
        .arg("--all")
        .run()
        .exits(0)
        .prints("evicted 0 key(s)");
    let ran = flush(&format!("unix://{}", socket.display())).arg("--all").run().exits(0);
    let _ = ran.prints("evicted 11 key(s)");
    let ran = flush(&format!("{}/99", server.url())).arg("--all").run().exits(4);
    let _ = ran.says("use database 99").says("out of range");
}

#[test]
fn a_replica_leads_to_its_master() {
    if !is_installed() {
        return;
    }
    let master = Server::start(&[]);
    seed(&master, 0..3);
    let blind = "user blind on >blind-pw ~* +ping +unlink +del +srem";
    let replica = master.start_replica(&[blind]);
    let before = master.dump();
    let ran = flush(&replica.url()).file("list", list(0..1)).arg("--digests-from=list").run().exits(0);
    let _ = ran
        .prints("evicted 3 key(s) and 2 set member(s)")
        .says(&format!("its master 127.0.0.1:{} is used", master.port()));
    assert_forgotten(&before, &master.dump(), &[digest(0)]);
    // A user who may not ask for the master learns it from the first change.
    let url = format!("redis://blind@127.0.0.1:{}", replica.port());
    let blind =
        flush(&url).file("pw", "blind-pw").args(["--redis-password-file=pw", "--redis-timeout=300ms"]);
    let ran = blind.file("list", list(1..2)).arg("--digests-from=list").run().exits(4);
    let _ = ran.says("it is a read-only replica (READONLY").says("redis-sentinel://");
}

#[test]
fn a_slot_on_its_way_to_another_master_is_followed() {
    if !is_installed() {
        return;
    }
    let nodes = Server::start_cluster(3);
    seed_cluster(&nodes, 0..4);
    let url = format!("redis-cluster://127.0.0.1:{}", nodes[0].port());
    for (n, args) in [(0, "--digests-from=list"), (1, "--all")] {
        let key = format!("blobs::{}", digest(n));
        let slot = nodes[0].text(&format!("CLUSTER KEYSLOT {key}")).trim_start_matches(':').to_owned();
        let has_slot = |node: &&Server| !node.text(&format!("EXISTS {key}")).starts_with("-MOVED");
        let source = nodes.iter().find(has_slot).unwrap();
        let target = nodes.iter().find(|node| node.port() != source.port()).unwrap();
        let id = |node: &Server| node.text("CLUSTER MYID");
        assert_eq!(target.text(&format!("CLUSTER SETSLOT {slot} IMPORTING {}", id(source))), "+OK");
        assert_eq!(source.text(&format!("CLUSTER SETSLOT {slot} MIGRATING {}", id(target))), "+OK");
        assert_eq!(source.text(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", target.port())), "+OK");
        let count = format!("CLUSTER COUNTKEYSINSLOT {slot}");
        assert_eq!(target.text(&count), ":1");
        let _ = flush(&url).file("list", list(n..n + 1)).arg(args).run().exits(0);
        assert_eq!(target.text(&count), ":0", "{args}");
    }
}

#[test]
fn a_server_that_loads_is_waited_for_and_told_when_patience_ends() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..200);
    let _ = server.run("SAVE");
    // 1000 microseconds for each key: about 0.6 seconds for the 600 keys.
    let dir = tempfile::tempdir().unwrap();
    std::fs::copy(server.directory().join("dump.rdb"), dir.path().join("dump.rdb")).unwrap();
    drop(server);
    let slow = ["key-load-delay 5000", "loading-process-events-interval-bytes 1024"];
    let again = Server::start_in(dir, &slow);
    let ran = flush(&again.url()).args(["--all", "--redis-timeout=200ms"]).run().exits(4);
    let _ = ran.says("LOADING").says("--redis-timeout=10m");
    let _ = flush(&again.url()).arg("--all").run().exits(0).prints("evicted 602 key(s)");
}

#[test]
fn tls_wants_the_ca_and_the_client_certificate() {
    if !is_installed() {
        return;
    }
    let authority = Authority::default();
    let client = authority.client("client");
    let server = Server::start_tls(&authority, &["bind 127.0.0.1 127.0.0.2"]);
    let port = server.port();
    seed(&server, 0..3);
    let secure = format!("rediss://localhost:{port}");
    let with = |url: &str, args: &[&str]| {
        flush(url)
            .file("ca", authority.pem())
            .file("crt", &client.certificate_pem)
            .file("key", &client.key_pem)
            .args(args.iter().copied())
            .arg("--all")
            .run()
    };
    let client_args = ["--redis-ca=ca", "--redis-client-certificate=crt", "--redis-client-key=key"];
    let _ =
        with(&secure, &[]).exits(4).says("certificate signed by unknown authority").says("--redis-ca=FILE");
    let _ = with(&secure, &["--redis-ca=ca"]).exits(4).says("--redis-client-certificate=FILE");
    let _ = with(&server.url(), &[]).exits(4).says(&format!("--redis-url=rediss://127.0.0.1:{port}"));
    // Not by a name that the certificate has.
    let other = format!("rediss://127.0.0.2:{port}");
    let _ = with(&other, &client_args)
        .exits(4)
        .says("x509")
        .says("call the server by a name that the certificate has");
    let _ = with(&secure, &client_args).exits(0).prints("evicted 11 key(s)");
    let plain = Server::start(&[]);
    let ran = with(&format!("rediss://localhost:{}", plain.port()), &["--redis-ca=ca", "--redis-timeout=2s"])
        .exits(4);
    let _ = ran.says(&format!("--redis-url=redis://localhost:{}", plain.port()));
}

#[test]
fn what_speaks_http_is_no_redis() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
        }
    });
    let ran = flush(&format!("redis://127.0.0.1:{port}")).arg("--all").run().exits(4);
    let _ = ran.says("not in Redis's protocol").says("rediss://");
}

#[test]
fn a_server_that_does_not_answer_is_given_up_with_its_own_words() {
    // Connections are accepted by the system, and nobody answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let ran = flush(&url).args(["--all", "--redis-timeout=300ms"]).run().exits(4);
    let _ = ran.says(&format!("connect to {}: i/o timeout", &url[8..])).says("--redis-timeout=5m");
}

#[test]
fn a_connection_that_is_lost_again_and_again_is_given_up_with_its_own_words() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..1000);
    let before = server.dump();
    // Each connection gets through the login, and never through a batch.
    let port = cutting_proxy(server.port(), usize::MAX, 200);
    let ran = flush(&format!("redis://127.0.0.1:{port}"))
        .file("list", list(0..900))
        .args(["--digests-from=list", "--redis-timeout=500ms"])
        .run()
        .exits(4);
    let _ =
        ran.says("evict keys: ").says("hint: the cache may still name what was deleted; then repeat it: ");
    let _ = flush(&server.url()).file("list", list(0..900)).arg("--digests-from=list").run().exits(0);
    assert_forgotten(&before, &server.dump(), &(0..900).map(digest).collect::<Vec<_>>());
}

#[test]
fn a_connection_lost_in_the_middle_of_a_batch_is_made_anew() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..1000);
    let before = server.dump();
    let port = cutting_proxy(server.port(), 3, 20_000);
    let ran = flush(&format!("redis://127.0.0.1:{port}"))
        .file("list", list(0..900))
        .arg("--digests-from=list")
        .run();
    let _ = ran.exits(0).prints("Summary: evicted");
    assert_forgotten(&before, &server.dump(), &(0..900).map(digest).collect::<Vec<_>>());
}

#[test]
fn a_cluster_forgets_on_every_master() {
    if !is_installed() {
        return;
    }
    let nodes = Server::start_cluster(3);
    seed_cluster(&nodes, 0..30);
    let before = dump_all(&nodes);
    let seeds = format!("redis-cluster://127.0.0.1:1,127.0.0.1:{}", nodes[0].port());
    let ran = flush(&nodes[0].url()).file("list", list(0..10)).arg("--digests-from=list").run().exits(4);
    let _ = ran.says("MOVED").says(&format!("--redis-url=redis-cluster://127.0.0.1:{}", nodes[0].port()));
    let ran = flush(&seeds).file("list", list(0..10)).arg("--digests-from=list").run().exits(0);
    let _ = ran.prints("Summary: evicted");
    assert_forgotten(&before, &dump_all(&nodes), &(0..10).map(digest).collect::<Vec<_>>());
    let list: String = (10..20).map(|n| digest(n) + "\n").collect();
    let ran =
        flush(&seeds).file("list", list).args(["--digests-from=list", "--scan-repositories"]).run().exits(0);
    let _ = ran.prints("evicted 30 key(s) and 20 set member(s)");
    assert_forgotten(&before, &dump_all(&nodes), &(0..20).map(digest).collect::<Vec<_>>());
    let _ = flush(&seeds).args(["--all", "--dry-run"]).run().exits(0).prints("would evict 32 key(s)");
    let _ = flush(&seeds).arg("--all").run().exits(0).prints("evicted 32 key(s)");
    assert_eq!(dump_all(&nodes).len(), FOREIGN.len());
    let single = Server::start(&[]);
    let ran = flush(&format!("redis-cluster://127.0.0.1:{}", single.port())).arg("--all").run().exits(4);
    let _ = ran.says("no node of a Redis Cluster").says("--redis-url=redis://HOST");
}

#[test]
fn sentinels_tell_the_master() {
    if !is_installed() {
        return;
    }
    let auth = [format!("requirepass {PASSWORD}"), format!("masterauth {PASSWORD}")];
    let auth: Vec<&str> = auth.iter().map(String::as_str).collect();
    let master = Server::start(&auth).with_password(PASSWORD);
    seed(&master, 0..3);
    let before = master.dump();
    let sentinel = master.start_sentinel("mymaster");
    let hosts = format!("redis-sentinel://127.0.0.1:1,127.0.0.1:{}", sentinel.port());
    let run = |name: &str| {
        let plugin = flush(&format!("{hosts}/{name}")).file("pw", PASSWORD).arg("--redis-password-file=pw");
        without_password(plugin.file("list", list(0..1)).arg("--digests-from=list").run())
    };
    let _ = run("other").exits(4).says("knows no master by this name").says("SENTINEL MASTERS");
    let _ = run("mymaster").exits(0).prints("evicted 3 key(s) and 2 set member(s)");
    assert_forgotten(&before, &master.dump(), &[digest(0)]);
}

#[test]
fn a_signal_ends_the_run_with_the_command_to_repeat_it() {
    if !is_installed() {
        return;
    }
    let server = Server::start(&[]);
    seed(&server, 0..3);
    // Nobody answers: the run waits until the signal comes.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let running = flush(&format!("redis://127.0.0.1:{port}")).arg("--all").start();
    let (_connection, _) = listener.accept().unwrap();
    running.signal("TERM");
    let _ = running.wait().exits(143).says("ended early by SIGTERM").says("cache flush --redis-url");
}
