//! What a dry run plans to delete together with its data, and what replicas answer about it.

use http::Method;
use sandbox::Cluster;
use serde_json::Value;

/// Layer links, as repository and digest, that a plan deletes together with their blobs.
///
/// # Panics
/// If there is none.
pub(crate) fn planned_layers(plan: &Value) -> Vec<(String, String)> {
    let images = plan["images"].as_array().unwrap().iter();
    let blobs: Vec<&Value> =
        images.filter_map(|image| image["blobs"].as_array()).flatten().map(|blob| &blob["digest"]).collect();
    let mut planned = Vec::new();
    for stream in plan["imageStreams"].as_array().unwrap() {
        let name = |field: &str| stream[field].as_str().unwrap();
        let repository = format!("{}/{}", name("namespace"), name("name"));
        let links = stream["layerLinks"].as_array().unwrap().iter().filter(|link| blobs.contains(link));
        planned.extend(links.map(|link| (repository.clone(), link.as_str().unwrap().to_owned())));
    }
    assert!(!planned.is_empty());
    planned
}

/// The answers of the replicas that are served to HEAD of these blobs.
pub(crate) fn head_everywhere(cluster: &Cluster, blobs: &[(String, String)]) -> Vec<u16> {
    let mut answers = Vec::new();
    for replica in cluster.serving() {
        let client = cluster.client_of(replica, "admin");
        for (repository, digest) in blobs {
            let path = format!("/v2/{repository}/blobs/{digest}");
            let answer = cluster.block_on(client.send(Method::HEAD, &path, &[], "")).unwrap();
            answers.push(answer.status().as_u16());
        }
    }
    answers
}
