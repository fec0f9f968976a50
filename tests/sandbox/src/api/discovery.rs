//! What the API server says about itself.

use http::StatusCode;
use http::{Response, header};
use serde_json::{Value, json};

use super::resource::{RESOURCES, Resource, aggregated, groups};
use super::{Api, Failure, answered, openapi, respond, text};
use crate::lock;
use crate::serve::{Body, full};

const VERSION: &str = r#"{
  "major": "1",
  "minor": "36",
  "emulationMajor": "1",
  "emulationMinor": "36",
  "minCompatibilityMajor": "1",
  "minCompatibilityMinor": "35",
  "gitVersion": "v1.36.2",
  "gitCommit": "8e16b12fda",
  "gitTreeState": "clean",
  "buildDate": "2026-08-21T11:29:11Z",
  "goVersion": "go1.26.6",
  "compiler": "gc",
  "platform": "linux/amd64"
}"#;

impl Api {
    /// Answers what is no resource request.
    pub(super) fn discovery(&self, path: &str) -> Result<Response<Body>, Failure> {
        let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
        let answer = match segments.as_slice() {
            ["healthz" | "livez" | "readyz"] => return Ok(text(StatusCode::OK, "ok")),
            ["version"] => return Ok(respond(StatusCode::OK, "application/json", full(VERSION))),
            ["openapi", "v2"] => {
                return Ok(respond(StatusCode::OK, openapi::TYPE, full(openapi::document())));
            }
            ["api"] => json!({
                "kind": "APIVersions",
                "versions": ["v1"],
                "serverAddressByClientCIDRs": [{ "clientCIDR": "0.0.0.0/0", "serverAddress": "192.0.2.1:21002" }],
            }),
            ["api", "v1"] => {
                json!({ "kind": "APIResourceList", "groupVersion": "v1", "resources": resources("") })
            }
            ["apis"] => {
                let disabled = lock(&self.settings).disabled_groups.clone();
                let known = groups().into_iter().filter(|group| !disabled.contains(*group)).map(group);
                json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": known.collect::<Value>() })
            }
            ["apis", name] => {
                // The list of groups is the main server's: it knows a group whose server is down.
                if !groups().contains(name) || lock(&self.settings).disabled_groups.contains(*name) {
                    return Ok(text(StatusCode::NOT_FOUND, "404 page not found\n"));
                }
                let mut answer = json!({ "kind": "APIGroup", "apiVersion": "v1" });
                if let (Some(answer), Value::Object(group)) = (answer.as_object_mut(), group(name)) {
                    answer.extend(group);
                }
                answer
            }
            ["apis", name, version] => {
                if let Some(answer) = self.unreachable(name, version) {
                    return Ok(answer);
                }
                json!({
                    "kind": "APIResourceList",
                    "apiVersion": "v1",
                    "groupVersion": format!("{name}/v1"),
                    "resources": resources(name),
                })
            }
            _ => return Err(Failure::no_such_resource()),
        };
        let mut answer = answered(StatusCode::OK, &answer);
        if let ["apis", name, _] = segments.as_slice()
            && aggregated(name)
        {
            answer.headers_mut().append(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
        }
        Ok(answer)
    }
}

fn group(name: &str) -> Value {
    let version = json!({ "groupVersion": format!("{name}/v1"), "version": "v1" });
    json!({ "name": name, "versions": [version], "preferredVersion": version })
}

/// The resources of a group, with their subresources, in the order of their names.
fn resources(group: &str) -> Vec<Value> {
    let mut found: Vec<Value> =
        RESOURCES.iter().filter(|resource| resource.group == group).flat_map(entries).collect();
    let virtual_resource = |name: &str, kind: &str, verbs: &[&str]| {
        let namespaced = group == "image.openshift.io" && name != "imagesignatures";
        json!({ "name": name, "singularName": kind.to_lowercase(), "namespaced": namespaced, "kind": kind, "verbs": verbs })
    };
    let subresource = |name: &str, kind: &str, verbs: &[&str]| json!({ "name": name, "singularName": "", "namespaced": true, "kind": kind, "verbs": verbs });
    match group {
        "" => found.extend([
            subresource("pods/eviction", "Eviction", &["create"]),
            subresource("pods/exec", "PodExecOptions", &["create", "get"]),
            subresource("pods/portforward", "PodPortForwardOptions", &["create", "get"]),
        ]),
        "image.openshift.io" => found.extend([
            virtual_resource("imagestreammappings", "ImageStreamMapping", &["create"]),
            virtual_resource("imagestreamtags", "ImageStreamTag", &["delete", "get"]),
            subresource("imagestreams/layers", "ImageStreamLayers", &["get"]),
        ]),
        "authentication.k8s.io" => {
            found.push(virtual_resource("selfsubjectreviews", "SelfSubjectReview", &["create"]));
        }
        "authorization.k8s.io" => found.extend([
            virtual_resource("selfsubjectaccessreviews", "SelfSubjectAccessReview", &["create"]),
            virtual_resource("subjectaccessreviews", "SubjectAccessReview", &["create"]),
            virtual_resource("selfsubjectrulesreviews", "SelfSubjectRulesReview", &["create"]),
        ]),
        _ => {}
    }
    found.sort_by(|left, right| left["name"].as_str().cmp(&right["name"].as_str()));
    found
}

fn entries(resource: &Resource) -> Vec<Value> {
    let verbs = ["create", "delete", "get", "list", "patch", "update", "watch"];
    let mut whole = json!({
        "name": resource.plural,
        "singularName": resource.kind.to_lowercase(),
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": verbs,
    });
    if !resource.short_names.is_empty() {
        whole["shortNames"] = resource.short_names.into();
    }
    let mut entries = vec![whole];
    if resource.status {
        entries.push(json!({
            "name": format!("{}/status", resource.plural),
            "singularName": "",
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": ["get", "patch", "update"],
        }));
    }
    entries
}
