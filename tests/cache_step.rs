//! The cache step of a confirmed run: after it no replica of the registry answers for what was pruned.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Plugin, Ran};
use http::Method;
use sandbox::example::Example;
use sandbox::{Cluster, ClusterConfig};
use serde_json::Value;

const REPLICAS: usize = 3;

struct Registry {
    cluster: Cluster,
}

impl Registry {
    fn start() -> Self {
        let cluster = Cluster::start(ClusterConfig { replicas: REPLICAS, ..ClusterConfig::default() });
        cluster.block_on(Example::build(&cluster)).unwrap();
        Self { cluster }
    }

    fn run(&self, args: &[&str]) -> Ran {
        let plugin = Plugin::new();
        let kubeconfig = self.cluster.kubeconfig(plugin.home(), "pruner");
        let plugin = plugin.file("ca.crt", self.cluster.sandbox().ca_pem());
        plugin.arg("--kubeconfig").arg(kubeconfig).arg("--certificate-authority=ca.crt").args(args).run()
    }

    /// Layer links that a dry run plans to delete together with their blobs.
    fn planned(&self) -> Vec<(String, String)> {
        let plan = self.run(&["-o", "json"]).exits(0).json();
        let blobs: Vec<&Value> = plan["images"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|image| image["blobs"].as_array())
            .flatten()
            .map(|blob| &blob["digest"])
            .collect();
        let mut planned = Vec::new();
        for stream in plan["imageStreams"].as_array().unwrap() {
            let repository =
                format!("{}/{}", stream["namespace"].as_str().unwrap(), stream["name"].as_str().unwrap());
            for link in stream["layerLinks"].as_array().unwrap() {
                if blobs.contains(&link) {
                    planned.push((repository.clone(), link.as_str().unwrap().to_owned()));
                }
            }
        }
        assert!(!planned.is_empty());
        planned
    }

    /// The answers of all replicas to HEAD of these blobs.
    fn ask(&self, blobs: &[(String, String)]) -> Vec<u16> {
        let mut answers = Vec::new();
        for replica in 0..REPLICAS {
            let client = self.cluster.client_of(replica, "admin");
            for (repository, digest) in blobs {
                let path = format!("/v2/{repository}/blobs/{digest}");
                let answer = self.cluster.block_on(client.send(Method::HEAD, &path, &[], "")).unwrap();
                answers.push(answer.status().as_u16());
            }
        }
        answers
    }
}

#[test]
fn every_replica_forgets_what_was_pruned() {
    let registry = Registry::start();
    let planned = registry.planned();
    assert!(registry.ask(&planned).iter().all(|status| *status == 200));
    let ran = registry.run(&["--confirm", "-o", "json"]).exits(0);
    assert_eq!(ran.json()["cache"]["step"], "evict", "{ran}");
    let answers = registry.ask(&planned);
    assert!(answers.iter().all(|status| *status == 404), "{answers:?}\n{ran}");
    ran.says("Cache step: evict: each of 3 registry replica(s)").says("Cache step: done");
}

#[test]
fn without_the_step_the_stale_answers_are_seen_and_told_of() {
    let registry = Registry::start();
    let planned = registry.planned();
    registry.ask(&planned);
    let store = registry.cluster.sandbox().store();
    store.update("deployments.apps", "openshift-image-registry", "image-registry", |object| {
        let container = &mut object["spec"]["template"]["spec"]["containers"][0];
        container["envFrom"] = serde_json::json!([{ "secretRef": { "name": "more" } }]);
        container["env"] = serde_json::json!([]);
    });
    let ran = registry.run(&["--confirm"]).exits(0);
    let stale = registry.ask(&planned).into_iter().filter(|status| *status == 500).count();
    assert!(stale >= (REPLICAS - 1) * planned.len() / 2, "{stale} stale answers\n{ran}");
    ran.says("Cache step: none: the registry may have a Redis: its configuration cannot be read")
        .says("warning: the registry's caches may still name the deleted blobs")
        .says("hint: pushes that re-use a deleted layer are broken until then");
}

#[test]
fn a_replica_that_does_not_confirm_is_told_of() {
    let registry = Registry::start();
    let planned = registry.planned();
    registry.ask(&planned);
    // It answers pings and nothing else: it can be reached when the step is chosen.
    let fault = sandbox::fault::Fault::new(sandbox::fault::Action::ResetBefore)
        .server(sandbox::log::Server::Registry(2))
        .method(Method::DELETE);
    registry.cluster.sandbox().faults().add(fault);
    let ran = registry.run(&["--confirm"]).exits(4);
    ran.says("did not confirm that they forgot every blob")
        .says(&registry.cluster.pod_name(2))
        .says("hint: make the replicas forget: oc rollout restart deployment/image-registry");
}
