//! Two repositories in front of two replicas, each with an image that stays and one that goes.

use std::collections::BTreeSet;

use http::Method;
use sandbox::Cluster;
use sandbox::registry::Digest;
use sandbox::registry::client::Format;
use serde_json::json;

use super::objects::age_stream;

pub(crate) const REPOSITORIES: [&str; 2] = ["shop/web", "shop/api"];

/// Pushes the images, old enough to be pruned, and has every replica learn of what goes. Those that go share a layer, and
/// so do those that stay; all have `base`. Returns the blobs that go, and the repositories that have them.
pub(crate) fn fill(cluster: &Cluster) -> Vec<(Digest, String)> {
    let store = cluster.sandbox().store();
    store.create("namespaces", json!({ "metadata": { "name": "shop" } }));
    let client = cluster.client("admin");
    let mut gone = Vec::new();
    for repository in REPOSITORIES {
        for number in 0..2 {
            let own = format!("layer {number} of {repository}");
            let content: Vec<Vec<u8>> = ["base", if number == 0 { "shared" } else { "kept" }, &own]
                .map(|text| text.as_bytes().to_vec())
                .into();
            let config = json!({ "architecture": "amd64", "os": "linux", "of": own });
            let push = client.push_image(repository, Some("latest"), Format::Docker, &content, &config);
            let pushed = cluster.block_on(push).unwrap();
            if number == 0 {
                let mut digests: Vec<Digest> = content[1..].iter().map(|bytes| Digest::of(bytes)).collect();
                digests.extend([Digest::of(config.to_string().as_bytes()), pushed.digest]);
                gone.extend(digests.into_iter().map(|digest| (digest, repository.to_owned())));
            }
        }
        age_stream(store, repository);
    }
    for (digest, repository) in &gone {
        head_everywhere(cluster, repository, digest);
    }
    gone
}

/// What each replica that serves answers to HEAD.
pub(crate) fn head_everywhere(cluster: &Cluster, repository: &str, digest: &Digest) -> Vec<u16> {
    let path = format!("/v2/{repository}/blobs/{digest}");
    let ask = |number| {
        let client = cluster.client_of(number, "admin");
        cluster.block_on(client.send(Method::HEAD, &path, &[], "")).unwrap().status().as_u16()
    };
    cluster.serving().into_iter().map(ask).collect()
}

/// What a replica still names of these blobs although the data is gone.
pub(crate) fn stale(cluster: &Cluster, gone: &[(Digest, String)]) -> BTreeSet<String> {
    let mut stale = BTreeSet::new();
    for (digest, repository) in gone {
        if cluster.storage().blob_size(digest).is_some() {
            continue;
        }
        for number in cluster.serving() {
            if cluster.replica(number).remembers(digest) {
                stale.insert(format!("{number}: {digest}"));
            }
        }
        if head_everywhere(cluster, repository, digest).into_iter().any(|status| status != 404) {
            stale.insert(format!("{repository}: {digest}"));
        }
    }
    stale
}
