//! The workflows of the repository: what a release holds, and what its jobs may do.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Value, json};

use crate::manifest::TARGETS;
use crate::repository;

fn workflow(name: &str) -> Value {
    let path = repository().join(".github/workflows").join(name);
    serde_saphyr::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// All steps of all jobs, with the job's name.
fn steps(workflow: &Value) -> Vec<(&String, &Value)> {
    let jobs = workflow["jobs"].as_object().unwrap();
    jobs.iter()
        .flat_map(|(name, job)| job["steps"].as_array().into_iter().flatten().map(move |step| (name, step)))
        .collect()
}

#[test]
fn a_release_has_an_archive_for_each_target_of_the_manifest_and_s390x() {
    let release = workflow("release.yml");
    let matrix = release["jobs"]["build"]["strategy"]["matrix"]["include"].as_array().unwrap();
    let text = |target: &Value, field: &str| target[field].as_str().unwrap_or_default().to_owned();
    let built: Vec<(String, String)> =
        matrix.iter().map(|target| (text(target, "os"), text(target, "arch"))).collect();
    let mut wanted: BTreeSet<(String, String)> =
        TARGETS.iter().map(|(os, arch)| ((*os).to_owned(), (*arch).to_owned())).collect();
    wanted.insert(("linux".to_owned(), "s390x".to_owned()));
    assert_eq!(built.len(), wanted.len(), "none twice");
    assert_eq!(built.into_iter().collect::<BTreeSet<_>>(), wanted);
    for target in matrix {
        let (os, arch, triple) = (text(target, "os"), text(target, "arch"), text(target, "target"));
        let machine = match arch.as_str() {
            "amd64" => "x86_64",
            "arm64" => "aarch64",
            "ppc64le" => "powerpc64le",
            other => other,
        };
        let system = match os.as_str() {
            "darwin" => "-apple-darwin".to_owned(),
            "windows" => "-pc-windows-msvc".to_owned(),
            _ if matches!(arch.as_str(), "amd64" | "arm64") => "-unknown-linux-musl".to_owned(),
            _ => "-unknown-linux-gnu".to_owned(),
        };
        assert_eq!(triple, format!("{machine}{system}"));
    }
}

#[test]
fn a_release_has_checksums_an_sbom_and_the_manifest() {
    let release = workflow("release.yml");
    let runs: String = steps(&release)
        .into_iter()
        .filter(|(job, _)| *job == "package")
        .filter_map(|(_, step)| Some(step["run"].as_str()?.to_owned() + "\n"))
        .collect();
    for part in
        ["krew/archive ", "krew/manifest ", "sha256sum", "cyclonedx", "prune-images.yaml", "pages/man1"]
    {
        assert!(runs.contains(part), "{part}\n{runs}");
    }
    assert_eq!(release["on"], json!({ "push": { "tags": ["v*"] } }));
    assert_eq!(release["jobs"]["publish"]["needs"], json!(["ci", "package"]));
}

/// Two providers of cryptography in one process make rustls refuse to choose, and the build need more than a C compiler.
#[test]
fn a_release_links_one_provider_of_cryptography() {
    let lock = std::fs::read_to_string(repository().join("Cargo.lock")).unwrap();
    let has = |name: &str| lock.contains(&format!("\nname = \"{name}\"\n"));
    assert!(has("ring"));
    for other in ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls"] {
        assert!(!has(other), "{other}");
    }
}

#[test]
fn jobs_may_do_no_more_than_they_have_to() {
    let pinned =
        Regex::new(r"^(\./\.github/workflows/ci\.yml|[\w.-]+/[\w.-]+@(v\d+|[0-9a-f]{40}))$").unwrap();
    for name in ["ci.yml", "release.yml"] {
        let workflow = workflow(name);
        assert_eq!(workflow["permissions"], json!({ "contents": "read" }), "{name}");
        for (job, definition) in workflow["jobs"].as_object().unwrap() {
            let expected = match job.as_str() {
                "publish" => json!({ "contents": "write", "id-token": "write", "attestations": "write" }),
                _ => Value::Null,
            };
            assert_eq!(definition["permissions"], expected, "{name} {job}");
            let uses = definition["uses"].as_str();
            assert!(uses.is_none_or(|uses| pinned.is_match(uses)), "{name} {job}");
            assert!(uses.is_some() || definition["timeout-minutes"].is_u64(), "{name} {job}");
        }
        for (job, step) in steps(&workflow) {
            if let Some(uses) = step["uses"].as_str() {
                assert!(pinned.is_match(uses), "{name} {job}: {uses}");
                if uses.starts_with("actions/checkout@") {
                    assert_eq!(step["with"]["persist-credentials"], false, "{name} {job}");
                }
            }
            // What GitHub fills in becomes part of the script: a tag could carry commands.
            assert!(!step["run"].as_str().unwrap_or_default().contains("${{"), "{name} {job}: {step}");
        }
    }
}

#[test]
fn every_change_is_judged_by_the_same_script() {
    let ci = workflow("ci.yml");
    assert!(ci["on"].as_object().unwrap().contains_key("pull_request"));
    assert!(steps(&ci).iter().any(|(_, step)| step["run"] == "bash .ci/run"));
}
