//! A shell with a cluster: what the reader of a page is assumed to have.

use std::path::Path;
use std::process::{Command, Stdio};

use bytes::Bytes;
use http::{Method, StatusCode};
use jiff::{SignedDuration, Timestamp};
use sandbox::api::{REGISTRY_ACCOUNT, Rule, Store, pruner_and, timestamp};
use sandbox::example::Example;
use sandbox::fault::{Action, Answer, Fault};
use sandbox::log::Server;
use sandbox::registry::Digest;
use sandbox::tls::Authority;
use sandbox::{Cluster, ClusterConfig, Config, Operator, RouteConfig};
use serde_json::json;
use tempfile::TempDir;

use crate::permissions::{GRANTED, rules_of};

/// How the documentation calls the servers that the sandbox has at addresses of its own.
const API: &str = "api.example.com:6443";
const REGISTRY: &str = "image-registry.openshift-image-registry.svc:5000";
const ROUTE: &str = "default-route-openshift-image-registry.apps.example.com";

/// The authorities that the system trusts: those of the route, if there is one.
const ROOTS: &str = "roots.crt";

/// The Debian packages' programs that pages may use beside the plugin.
const PROGRAMS: [&str; 2] = ["jq", "kubectl"];

/// A layer of the example that goes.
const BLOB: &str = "sha256:8d89d5d0dffa";

/// Seconds that a command may take, unless it hangs.
const LIMIT: &str = "60";

/// A cluster, and a home directory with a kubeconfig for it.
#[derive(Debug)]
pub(crate) struct Session {
    cluster: Option<Cluster>,
    home: TempDir,
}

impl Session {
    /// The session that a page asks for by `<!-- cluster: NAME -->`: the example, perhaps with something wrong. Where a run
    /// gets no further than to its lists, the cluster is empty, which is quicker.
    pub(crate) fn start(scene: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let layers = Rule::new(&["get"], &["image.openshift.io"], &["imagestreams/layers"]);
        let mut sandbox = Config::default().user("checker", "checker", pruner_and([layers]));
        let (scene, sections) = scene.split_once(" with the rights of ").unwrap_or((scene, ""));
        let sections: Vec<&str> = sections.split('"').skip(1).step_by(2).collect();
        if !sections.is_empty() {
            sandbox = sandbox.user(GRANTED, GRANTED, rules_of(&sections));
        }
        let mut config = ClusterConfig { sandbox, ..ClusterConfig::default() };
        match scene {
            "the pruner may not list cron jobs" => {
                config.sandbox = config.sandbox.deny("pruner", "list", "batch", "cronjobs");
            }
            "deletion is disabled" => config.registry.get_or_insert_default().delete_enabled = false,
            "an operator manages the registry" | "an operator runs the registry" | "hard prune can run" => {
                config.operator = Some(Operator::default());
            }
            "seen from outside" | "seen from outside, where there is a route" => {
                config.pods_reachable = false;
                config.host = Some(REGISTRY.to_owned());
                config.service_authority = Some(Authority::new("service"));
            }
            "a replica is cut off" | "two replicas remember a layer that was deleted by hand" => {
                config.replicas = 2;
            }
            _ => {}
        }
        let cluster = (scene != "none").then(|| Cluster::start(config));
        let session = Self { cluster, home };
        session.furnish();
        if !sections.is_empty() {
            session.login(GRANTED);
        }
        if let Some(cluster) = &session.cluster {
            session.spoil(scene, cluster);
        }
        session
    }

    fn spoil(&self, scene: &str, cluster: &Cluster) {
        let example = || drop(cluster.block_on(Example::build(cluster)).unwrap());
        let (store, faults) = (cluster.sandbox().store(), cluster.sandbox().faults());
        let kubeconfig = self.home.path().join(".kube/config");
        match scene {
            "hard prune can run" => {
                example();
                let images = Rule::new(&["list"], &["image.openshift.io"], &["images"]);
                cluster.sandbox().access().grant(REGISTRY_ACCOUNT, images);
                for image in store.list("images") {
                    store.delete("images", "", image["metadata"]["name"].as_str().unwrap_or_default());
                }
            }
            "example" | "deletion is disabled" | "an operator runs the registry" | "seen from outside" => {
                example();
            }
            "seen from outside, where there is a route" => {
                example();
                let router = Authority::new("router");
                std::fs::write(self.home.path().join(ROOTS), router.pem()).unwrap();
                let _ = cluster.expose(&RouteConfig::default_route(router.server(&["localhost"])));
            }
            "the pruner may not list cron jobs" | "an operator manages the registry" => {}
            "each build makes a tag of its own" => builds(store),
            "an image does not parse" => {
                let image = format!("{}/shop/web:", cluster.registry_host());
                let containers = json!([{ "name": "app", "image": image }]);
                let metadata = json!({ "namespace": "shop", "name": "typo" });
                store.create("pods", json!({ "metadata": metadata, "spec": { "containers": containers } }));
            }
            "an image has no metadata" => {
                let metadata = json!({ "name": format!("{BLOB}{}", "0".repeat(52)) });
                store.create(
                    "images",
                    json!({ "metadata": metadata, "dockerImageMetadata": { "Size": "large" } }),
                );
            }
            "the kubeconfig names no CA" => {
                let text = std::fs::read_to_string(&kubeconfig).unwrap();
                let lines = text.lines().filter(|line| !line.contains("certificate-authority-data"));
                std::fs::write(&kubeconfig, lines.collect::<Vec<_>>().join("\n")).unwrap();
            }
            "the login is a certificate" => {
                let path = cluster.sandbox().write_certificate_kubeconfig(self.home.path(), "pruner");
                std::fs::rename(path, kubeconfig).unwrap();
            }
            "a blob cannot be deleted" => {
                example();
                let broken = Action::Answer(Answer::new(StatusCode::INTERNAL_SERVER_ERROR));
                let path = format!("^/admin/blobs/{BLOB}");
                faults.add(Fault::new(broken).method(Method::DELETE).path(&path));
            }
            "two replicas remember a layer that was deleted by hand" => {
                example();
                let blobs = cluster.storage().blobs();
                let blob = blobs.iter().find(|blob| blob.as_str().starts_with(BLOB)).unwrap();
                let path = format!("/v2/shop/web/blobs/{blob}");
                for replica in cluster.serving() {
                    let client = cluster.client_of(replica, "admin");
                    let asked = client.send(Method::HEAD, &path, &[], Bytes::new());
                    assert_eq!(cluster.block_on(asked).unwrap().status(), StatusCode::OK);
                }
                assert!(cluster.storage().delete_blob(blob).unwrap());
            }
            "the data of a layer is lost" => {
                example();
                let stream = store.get("imagestreams", "shop", "web").unwrap();
                let image = stream["status"]["tags"][0]["items"][0]["image"].as_str().unwrap();
                let image = store.get("images", "", image).unwrap();
                let layers = image["dockerImageLayers"].as_array().unwrap();
                let layer = Digest::parse(layers[layers.len() - 1]["name"].as_str().unwrap()).unwrap();
                assert!(cluster.storage().delete_blob(&layer).unwrap());
            }
            "a run was killed" => {
                example();
                let pid = self.home.path().join(".pid");
                let file = pid.clone();
                // After the second change; the run has told who it is long before.
                let kill = Action::hook_after(move || {
                    let pid = std::fs::read_to_string(&file).unwrap();
                    assert!(Command::new("kill").args(["-KILL", pid.trim()]).status().unwrap().success());
                });
                let id = faults.add(Fault::new(kill).mutations().skip(1).times(1));
                self.run("oc-prune_images --confirm & echo $! > .pid; wait", "pruner");
                assert_eq!(faults.hits(id), 1);
                faults.remove(id);
                std::fs::remove_file(pid).unwrap();
            }
            "a replica is cut off" => {
                example();
                let cut = Fault::new(Action::ResetBefore).server(Server::Registry(1));
                faults.add(cut.method(Method::DELETE));
            }
            _ => panic!("no scene is called {scene:?}"),
        }
    }

    /// The cluster; fails where there is none.
    pub(crate) fn cluster(&self) -> &Cluster {
        self.cluster.as_ref().unwrap()
    }

    /// Makes a user with these rights, who may then run commands.
    pub(crate) fn add_user(&self, user: &str, rules: Vec<Rule>) {
        self.cluster().sandbox().access().add_user(user, user, rules);
        self.login(user);
    }

    fn login(&self, user: &str) {
        let _ = self.cluster().kubeconfig(self.home.path(), user);
    }

    /// Puts the kubeconfigs, and `oc` and the plugin, where the shell finds them.
    fn furnish(&self) {
        let home = self.home.path();
        let (programs, kube) = (home.join("bin"), home.join(".kube"));
        for directory in [&programs, &kube] {
            std::fs::create_dir(directory).unwrap();
        }
        let plugin = env!("CARGO_BIN_EXE_oc-prune_images");
        for name in ["oc-prune_images", "kubectl-prune_images"] {
            std::os::unix::fs::symlink(plugin, programs.join(name)).unwrap();
        }
        // `oc` finds plugins as `kubectl` does, and is no Debian package.
        let oc = "#!/bin/sh\nif [ \"$1\" = prune-images ]; then shift; exec oc-prune_images \"$@\"; fi\nexec kubectl \"$@\"\n";
        executable(&programs.join("oc"), oc);
        if let Some(cluster) = &self.cluster {
            std::fs::rename(cluster.kubeconfig(home, "pruner"), kube.join("config")).unwrap();
            for user in ["admin", "checker", "nobody"] {
                self.login(user);
            }
        }
    }

    /// Runs a command as this user and returns what a terminal would show, and the exit code.
    pub(crate) fn run(&self, command: &str, user: &str) -> (String, i32) {
        let home = self.home.path();
        let path = home.join("bin").display().to_string();
        let output = home.join(".output");
        let file = std::fs::File::create(&output).unwrap();
        let mut shell = Command::new("timeout");
        shell.args([LIMIT, "sh", "-c", &self.for_the_sandbox(command)]).current_dir(home).env_clear();
        shell.env("PATH", format!("{path}:/usr/local/bin:/usr/bin:/bin")).env("HOME", home);
        if home.join(ROOTS).exists() {
            shell.env("SSL_CERT_FILE", home.join(ROOTS));
        }
        if user != "pruner" {
            shell.env("KUBECONFIG", home.join(format!("kubeconfig-{user}")));
        }
        shell.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        let code = shell.status().unwrap().code().unwrap_or(-1);
        (self.for_the_reader(&std::fs::read_to_string(output).unwrap()), code)
    }

    /// The servers of the documentation become those of the sandbox.
    fn for_the_sandbox(&self, command: &str) -> String {
        self.servers().into_iter().fold(command.to_owned(), |text, (there, here)| text.replace(there, &here))
    }

    fn for_the_reader(&self, output: &str) -> String {
        let output = output.replace(&self.home.path().display().to_string(), "~");
        self.servers().into_iter().fold(output, |text, (there, here)| text.replace(&here, there))
    }

    /// Each server's name in the documentation, and where it is.
    fn servers(&self) -> Vec<(&'static str, String)> {
        let Some(cluster) = &self.cluster else { return Vec::new() };
        let api = cluster.sandbox().api_url();
        let routes = cluster.sandbox().store().list("routes");
        let route = routes.first().and_then(|route| route["spec"]["host"].as_str()).map(ToOwned::to_owned);
        let servers = [
            (API, Some(api.trim_start_matches("https://").to_owned())),
            (REGISTRY, Some(cluster.registry_host().to_owned())),
            (ROUTE, route),
        ];
        servers.into_iter().filter_map(|(there, here)| Some((there, here?))).collect()
    }
}

/// A stream that gets a tag with the date in its name each week, and each of these one image.
fn builds(store: &Store) {
    let mut tags = Vec::new();
    for (digit, weeks) in ('1'..='6').rev().zip(1..) {
        let digest = |kind: char| format!("sha256:{}", format!("{kind}{digit}").repeat(32));
        let image = digest('0');
        let created = Timestamp::now() - SignedDuration::from_hours(24 * 7 * weeks);
        let layers = json!([{ "name": digest('a'), "size": 50 << 20 }]);
        let metadata = json!({ "name": image, "creationTimestamp": timestamp(created) });
        let config = json!({ "Id": digest('b'), "Size": 1 });
        store.create(
            "images",
            json!({ "metadata": metadata, "dockerImageMetadata": config, "dockerImageLayers": layers }),
        );
        let items = json!([{ "created": timestamp(created), "image": image, "generation": 1 }]);
        tags.push(json!({ "tag": format!("2026010{digit}"), "items": items }));
    }
    let created = timestamp(Timestamp::now() - SignedDuration::from_hours(24 * 200));
    let metadata = json!({ "namespace": "ci", "name": "builds", "creationTimestamp": created });
    store.create("imagestreams", json!({ "metadata": metadata, "spec": {}, "status": { "tags": tags } }));
}

/// The first program that a command needs beside the plugin, and that this machine does not have.
pub(crate) fn missing(command: &str) -> Option<&'static str> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let uses = |program: &&str| {
        let other_command = |pair: &[&str]| pair[0] == "oc" && pair[1] != "prune-images";
        words.contains(program) || *program == "kubectl" && words.windows(2).any(other_command)
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed =
        |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).exists());
    PROGRAMS.into_iter().filter(uses).find(|program| !installed(program))
}

fn executable(path: &Path, content: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, content).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}
