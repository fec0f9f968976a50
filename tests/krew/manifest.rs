//! The rules of a krew manifest: those of krew 0.5, of krew-index's review, and a few that keep ours right.
//!
//! From `internal/index/validation`, `internal/installation` and `cmd/validate-krew-manifest` of kubernetes-sigs/krew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use regex::Regex;
use serde::{Deserialize, Serialize};

/// A manifest. krew ignores fields that it does not know, and so a misspelled one: here it is refused.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Manifest {
    pub(crate) api_version: String,
    pub(crate) kind: String,
    pub(crate) metadata: Metadata,
    pub(crate) spec: Spec,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    pub(crate) name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Spec {
    pub(crate) version: String,
    pub(crate) homepage: String,
    pub(crate) short_description: String,
    pub(crate) description: String,
    pub(crate) caveats: String,
    pub(crate) platforms: Vec<Platform>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Platform {
    pub(crate) uri: String,
    pub(crate) sha256: String,
    pub(crate) bin: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) files: Option<Vec<FileOperation>>,
    pub(crate) selector: Selector,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FileOperation {
    pub(crate) from: String,
    pub(crate) to: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Selector {
    pub(crate) match_labels: BTreeMap<String, String>,
}

impl Platform {
    /// Whether it is for this operating system and architecture, by Go's names.
    pub(crate) fn matches(&self, os: &str, arch: &str) -> bool {
        self.selector.match_labels.iter().all(|(key, value)| match key.as_str() {
            "os" => value == os,
            "arch" => value == arch,
            _ => false,
        })
    }
}

/// What krew and its index know (`cmd/validate-krew-manifest/main.go`).
const KNOWN: [(&str, &str); 11] = [
    ("windows", "386"),
    ("windows", "amd64"),
    ("windows", "arm64"),
    ("linux", "386"),
    ("linux", "amd64"),
    ("linux", "arm"),
    ("linux", "arm64"),
    ("linux", "ppc64le"),
    ("darwin", "386"),
    ("darwin", "amd64"),
    ("darwin", "arm64"),
];

/// The targets that ours has to have.
pub(crate) const TARGETS: [(&str, &str); 7] = [
    ("darwin", "amd64"),
    ("darwin", "arm64"),
    ("linux", "amd64"),
    ("linux", "arm64"),
    ("linux", "ppc64le"),
    ("windows", "amd64"),
    ("windows", "arm64"),
];

/// Reads a manifest strictly.
pub(crate) fn parse(text: &str) -> Result<Manifest, String> {
    serde_saphyr::from_str(text).map_err(|error| error.to_string())
}

/// The first rule that the manifest breaks; `file` is the name that it is submitted by.
pub(crate) fn check(manifest: &Manifest, file: &str) -> Result<(), String> {
    let Manifest { api_version, kind, metadata, spec } = manifest;
    let rule = |holds: bool, problem: &str| if holds { Ok(()) } else { Err(problem.to_owned()) };
    rule(api_version == "krew.googlecontainertools.github.com/v1alpha2", "apiVersion")?;
    rule(kind == "Plugin", "kind")?;
    name(&metadata.name)?;
    rule(file == format!("{}.yaml", metadata.name), "file name is not that of the plugin")?;
    let version = Regex::new(r"^v(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?$").unwrap();
    rule(version.is_match(&spec.version), "version")?;
    rule(spec.homepage == env!("CARGO_PKG_REPOSITORY"), "homepage is not the repository")?;
    rule(!spec.short_description.is_empty(), "shortDescription is empty")?;
    rule(!spec.short_description.contains(['\r', '\n']), "shortDescription has several lines")?;
    rule(spec.short_description.chars().count() <= 50, "shortDescription is cut by krew search")?;
    rule(!spec.description.is_empty(), "description is empty")?;
    rule(
        !spec.description.lines().any(|line| line.trim_start().starts_with('-')),
        "description lists options",
    )?;
    rule(
        spec.caveats.contains("completion --install") && spec.caveats.contains("`oc prune-images`"),
        "caveats do not tell of completion and oc",
    )?;
    for one in &spec.platforms {
        platform(one, &spec.version)?;
    }
    pairs(&spec.platforms)
}

fn name(name: &str) -> Result<(), String> {
    const DEVICES: [&str; 4] = ["CON", "PRN", "AUX", "NUL"];
    if !Regex::new(r"^[A-Za-z0-9_-]+$").unwrap().is_match(name) {
        return Err("name has other characters".to_owned());
    }
    let upper = name.to_uppercase();
    let port = ["COM", "LPT"].iter().filter_map(|port| upper.strip_prefix(port)).any(|n| n.len() == 1);
    if DEVICES.contains(&upper.as_str()) || port {
        return Err("name is a device of Windows".to_owned());
    }
    if name != name.to_lowercase() || name.contains('_') {
        return Err("name is not in kebab-case".to_owned());
    }
    Ok(())
}

fn platform(platform: &Platform, version: &str) -> Result<(), String> {
    let Platform { uri, sha256, bin, files, selector } = platform;
    let rule =
        |holds: bool, problem: &str| if holds { Ok(()) } else { Err(format!("{problem}: {platform:?}")) };
    rule(uri.starts_with("https://"), "uri is not https")?;
    rule(uri.contains(&format!("/{version}/")), "uri is of another version")?;
    rule(Regex::new("^[a-f0-9]{64}$").unwrap().is_match(sha256), "sha256")?;
    rule(!selector.match_labels.is_empty(), "selector is empty")?;
    rule(
        selector.match_labels.keys().all(|key| matches!(key.as_str(), "os" | "arch")),
        "selector has other keys",
    )?;
    rule(!bin.is_empty() && !bin.starts_with('/') && clean(bin) == *bin && !bin.starts_with(".."), "bin")?;
    let windows = selector.match_labels.get("os").is_some_and(|os| os == "windows");
    let is_exe = Path::new(bin).extension().is_some_and(|extension| extension == "exe");
    rule(windows == is_exe, "bin ends with .exe on Windows, and nowhere else")?;
    let Some(files) = files else { return Ok(()) };
    rule(!files.is_empty(), "files is empty")?;
    for FileOperation { from, to } in files {
        rule(!from.is_empty() && !to.is_empty(), "files need from and to")?;
        rule(clean(to) == *to, "to is not clean")?;
    }
    Ok(())
}

/// Each platform is for known pairs, no pair is for two, and all of ours are there.
fn pairs(platforms: &[Platform]) -> Result<(), String> {
    for platform in platforms {
        if !KNOWN.iter().any(|(os, arch)| platform.matches(os, arch)) {
            return Err(format!("no known platform: {:?}", platform.selector));
        }
    }
    let mut found = BTreeSet::new();
    for (os, arch) in &KNOWN {
        match platforms.iter().filter(|platform| platform.matches(os, arch)).count() {
            0 => {}
            1 => {
                found.insert((*os, *arch));
            }
            _ => return Err(format!("several platforms are for {os}/{arch}")),
        }
    }
    if found == TARGETS.into() { Ok(()) } else { Err(format!("targets: {found:?}")) }
}

/// Go's `filepath.Clean`.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            _ => parts.push(part),
        }
    }
    match (rooted, parts.join("/").as_str()) {
        (true, rest) => format!("/{rest}"),
        (false, "") => ".".to_owned(),
        (false, rest) => rest.to_owned(),
    }
}
