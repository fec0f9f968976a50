//! The cache step of a confirmed run: after it no replica of the registry answers for what was pruned.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::planned::{head_everywhere, planned_layers};
use common::{Plugin, Ran};
use http::Method;
use sandbox::example::Example;
use sandbox::{Cluster, ClusterConfig};

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
        self.plugin(args).run()
    }

    fn plugin(&self, args: &[&str]) -> Plugin {
        let plugin = Plugin::new();
        let kubeconfig = self.cluster.kubeconfig(plugin.home(), "pruner");
        let plugin = plugin.file("ca.crt", self.cluster.sandbox().ca_pem());
        plugin.arg("--kubeconfig").arg(kubeconfig).arg("--certificate-authority=ca.crt").args(args)
    }

    /// Layer links that a dry run plans to delete together with their blobs.
    fn planned(&self) -> Vec<(String, String)> {
        planned_layers(&self.run(&["-o", "json"]).exits(0).json())
    }

    /// The answers of all replicas to HEAD of these blobs.
    fn ask(&self, blobs: &[(String, String)]) -> Vec<u16> {
        assert_eq!(self.cluster.serving().len(), REPLICAS);
        head_everywhere(&self.cluster, blobs)
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
    store.delete("deployments.apps", "openshift-image-registry", "image-registry");
    for replica in 0..REPLICAS {
        store.delete("pods", "openshift-image-registry", &registry.cluster.pod_name(replica));
    }
    let home = tempfile::tempdir().unwrap();
    let ran = registry.plugin(&["--confirm"]).env("XDG_STATE_HOME", home.path()).run().exits(0);
    // What was deleted stays written down, for whoever finds the caches.
    assert_eq!(std::fs::read_dir(home.path().join("oc-prune-images")).unwrap().count(), 1, "{ran}");
    let stale = registry.ask(&planned).into_iter().filter(|status| *status == 500).count();
    assert!(stale >= (REPLICAS - 1) * planned.len() / 2, "{stale} stale answers\n{ran}");
    ran.says("Cache step: none: there is no deployment/image-registry in namespace openshift-image-registry")
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
    let ran = registry.run(&["--confirm", "--registry-cache=evict"]).exits(4);
    ran.says("did not confirm that they forgot every blob")
        .says(&registry.cluster.pod_name(2))
        .says("hint: make the replicas forget, after Redis: oc rollout restart deployment/image-registry");
}
