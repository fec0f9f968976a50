//! What `deny.toml` and `docs/dependencies.md` say of the dependencies holds, also where cargo-deny is not installed.

#![expect(clippy::panic, clippy::unwrap_used, reason = "what cannot be read fails the test")]

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

/// Every package that is compiled in, for any platform.
fn packages() -> Vec<Value> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let asked = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    let answer: Value = match serde_json::from_slice(&asked.stdout) {
        Ok(answer) => answer,
        Err(error) => panic!("cargo metadata: {error}: {}", String::from_utf8_lossy(&asked.stderr)),
    };
    answer["packages"].as_array().unwrap().clone()
}

fn text<'a>(package: &'a Value, field: &str) -> &'a str {
    package[field].as_str().unwrap_or_default()
}

/// The strings of the list that this key has in `deny.toml`.
fn listed(section: &str, key: &str) -> BTreeSet<String> {
    let policy = read("deny.toml");
    let section = policy.split("\n[").find(|part| part.starts_with(&format!("{section}]"))).unwrap();
    let (_, list) = section.split_once(&format!("\n{key} = [")).unwrap();
    let list = list.split("\n]").next().unwrap();
    let lines = list.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.filter_map(|line| line.split('"').nth(1)).map(ToOwned::to_owned).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Whether one of these licences fulfils the expression (SPDX: AND binds tighter than OR).
fn is_fulfilled(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace(" / ", " OR ").replace('/', " OR ");
    let mut depth = 0;
    let mut parts = vec![String::new()];
    // Split at the OR of the outermost level.
    for word in expression.replace('(', " ( ").replace(')', " ) ").split_whitespace() {
        depth += match word {
            "(" => 1,
            ")" => -1,
            _ => 0,
        };
        if word == "OR" && depth == 0 {
            parts.push(String::new());
        } else {
            let last = parts.last_mut().unwrap();
            last.push_str(word);
            last.push(' ');
        }
    }
    parts.iter().any(|part| {
        let part = part.trim();
        if let Some((left, right)) = outer_and(part) {
            return is_fulfilled(left, allowed) && is_fulfilled(right, allowed);
        }
        match part.strip_prefix("( ").and_then(|part| part.strip_suffix(" )")) {
            Some(inner) => is_fulfilled(inner, allowed),
            None => allowed.contains(part),
        }
    })
}

/// The two sides of the first AND that stands in no parentheses.
fn outer_and(part: &str) -> Option<(&str, &str)> {
    part.match_indices(" AND ").find_map(|(at, and)| {
        let left = &part[..at];
        (left.matches('(').count() == left.matches(')').count()).then(|| (left, &part[at + and.len()..]))
    })
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let allowed = listed("licenses", "allow");
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR GPL-3.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        "Apache-2.0 AND ISC",
    ] {
        assert!(is_fulfilled(good, &allowed), "{good}");
    }
    for bad in ["GPL-3.0", "MIT AND GPL-3.0", "(GPL-3.0 OR AGPL-3.0) AND MIT", ""] {
        assert!(!is_fulfilled(bad, &allowed), "{bad}");
    }
}

#[test]
fn licences_bans_and_sources_are_those_that_are_allowed() {
    let (allowed, banned) = (listed("licenses", "allow"), listed("bans", "deny"));
    assert!(allowed.len() > 5 && banned.len() > 5, "{allowed:?} {banned:?}");
    let packages = packages();
    assert!(packages.len() > 100, "{}", packages.len());
    for package in &packages {
        let (name, license) = (text(package, "name"), text(package, "license"));
        assert!(is_fulfilled(license, &allowed), "{name} has the licence {license:?}: see deny.toml");
        assert!(!banned.contains(name), "{name} is banned: see deny.toml");
        let source = package["source"].as_str();
        let is_known =
            source.is_none_or(|source| source == "registry+https://github.com/rust-lang/crates.io-index");
        assert!(is_known, "{name} comes from {source:?}: see deny.toml");
    }
}

/// Each crate that the product names is in `docs/dependencies.md`, and nothing else is.
#[test]
fn every_direct_dependency_has_its_note() {
    let page = read("docs/dependencies.md");
    let noted: BTreeSet<&str> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
    let packages = packages();
    let members = packages.iter().filter(|package| package["source"].is_null());
    let direct: BTreeSet<&str> = members
        .flat_map(|member| member["dependencies"].as_array().unwrap())
        .filter(|dependency| !dependency["source"].is_null())
        .map(|dependency| text(dependency, "name"))
        .collect();
    assert_eq!(noted, direct, "docs/dependencies.md has a row for each direct dependency");
}
