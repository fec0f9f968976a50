//! `docs/permissions.md`: its tables are roles. What they allow is enough for the runs below them, and not too much.

use std::collections::BTreeSet;

use http::{Method, StatusCode};
use oc_prune_images::inventory::List;
use sandbox::Cluster;
use sandbox::api::Rule;

use crate::page::Page;
use crate::session::Session;

const PAGE: &str = "docs/permissions.md";

/// The user that has the rights of the page's tables.
pub(crate) const GRANTED: &str = "granted";

/// One verb on one resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    section: String,
    verb: String,
    /// `imagestreams/status`.
    resource: String,
    group: String,
    everywhere: bool,
}

impl Right {
    fn rule(&self) -> Rule {
        let rule = Rule::new(&[&self.verb], &[&self.group], &[&self.resource]);
        if self.everywhere { rule } else { rule.in_namespace("openshift-image-registry") }
    }

    /// `list cronjobs.batch`, as the program says it.
    fn named(&self) -> String {
        let (resource, subresource) = self.resource.split_once('/').unwrap_or((&self.resource, ""));
        let dot = if self.group.is_empty() { "" } else { "." };
        let slash = if subresource.is_empty() { "" } else { "/" };
        format!("{} {resource}{dot}{}{slash}{subresource}", self.verb, self.group)
    }
}

/// The rights of all tables.
fn rights() -> Vec<Right> {
    let mut section = String::new();
    let mut rights = Vec::new();
    for line in &Page::read(PAGE).lines {
        if let Some(heading) = line.strip_prefix('#') {
            heading.trim_start_matches('#').trim().clone_into(&mut section);
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", verbs, resources, place @ ("cluster" | "registry"), _, ""] = cells.as_slice() else {
            continue;
        };
        for resource in resources.split(", ") {
            let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
            let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
            let slash = if subresource.is_empty() { "" } else { "/" };
            rights.extend(verbs.split(", ").map(|verb| Right {
                section: section.clone(),
                verb: verb.to_owned(),
                resource: format!("{resource}{slash}{subresource}"),
                group: group.to_owned(),
                everywhere: *place == "cluster",
            }));
        }
    }
    assert!(rights.len() > 30, "{rights:#?}");
    rights
}

/// The rules of these sections.
pub(crate) fn rules_of(sections: &[&str]) -> Vec<Rule> {
    let rights = rights();
    for section in sections {
        assert!(rights.iter().any(|right| right.section == *section), "{PAGE} has no section {section:?}");
    }
    rights.iter().filter(|right| sections.contains(&right.section.as_str())).map(Right::rule).collect()
}

/// The sections of what a run asks for and goes on without.
const OPTIONAL: [&str; 2] = ["Done without", "More protection"];

/// Fails if the user of the page was refused anything else.
pub(crate) fn refused_nothing(cluster: &Cluster, place: &str) {
    let optional: Vec<Right> =
        rights().into_iter().filter(|right| OPTIONAL.contains(&right.section.as_str())).collect();
    let is_optional = |path: &str, query: &str| {
        let watches = query.contains("watch=1");
        optional.iter().any(|right| {
            (right.verb == "watch") == watches && path.split('/').any(|part| part == right.resource)
        })
    };
    let refused = cluster.sandbox().request_log().filter(|entry| {
        entry.user.as_deref() == Some(GRANTED)
            && matches!(entry.status, Some(StatusCode::FORBIDDEN | StatusCode::UNAUTHORIZED))
            && !(entry.method == Method::GET && is_optional(&entry.path, &entry.query))
    });
    let refused: Vec<_> = refused.iter().map(|entry| format!("{} {}", entry.method, entry.path)).collect();
    assert!(refused.is_empty(), "{place}: refused: {refused:#?}");
}

#[test]
fn every_list_of_the_code_is_in_the_table() {
    let named: BTreeSet<String> = rights().iter().map(Right::named).collect();
    for list in [List::images(), List::image_streams()].into_iter().chain(List::others()) {
        assert!(named.contains(&format!("list {}", list.qualified())), "{PAGE} does not name {list:?}");
    }
}

#[test]
fn every_right_that_cache_status_asks_for_is_in_a_table() {
    let named: BTreeSet<String> = rights().iter().map(Right::named).collect();
    let session = Session::start("an operator manages the registry");
    let (output, code) = session.run("oc prune-images cache status -o json 2>/dev/null", "pruner");
    assert_eq!(code, 0, "{output}");
    let status: serde_json::Value = serde_json::from_str(&output).unwrap();
    let asked = status["rights"].as_array().unwrap();
    assert!(asked.len() > 5, "{output}");
    for right in asked {
        let text = right["right"].as_str().unwrap().split(" in ").next().unwrap();
        // The one object that it is about.
        let objects = ["/image-registry", "/cluster", "/openshift-service-ca.crt"];
        let text = objects.into_iter().find_map(|object| text.strip_suffix(object)).unwrap_or(text);
        assert!(named.contains(text), "{PAGE} does not name {text}");
    }
}

/// Without any single list of a dry run, it stops and names what is missing.
#[test]
fn each_right_of_a_dry_run_is_needed() {
    let session = Session::start("an operator manages the registry");
    let all: Vec<Right> =
        rights().into_iter().filter(|right| right.section == "A dry run" && right.verb == "list").collect();
    for missing in &all {
        let others = all.iter().filter(|right| *right != missing).map(Right::rule).collect();
        let user = format!("without-{}", missing.resource);
        session.add_user(&user, others);
        let (output, code) = session.run("oc prune-images", &user);
        assert_eq!(code, 1, "without the right to {}: {output}", missing.named());
        assert!(output.contains(&format!("error: {}: forbidden", missing.named())), "{output}");
    }
}
