//! Which rights a prune in the cluster needs beyond those of `system:image-pruner`. Pure.

use crate::cache::Strategy;
use crate::cache::detect::{Need, Origin, Place, Source, WorkloadKind};
use crate::inventory::ResourceName;
use crate::registry::Via;

/// What the rights depend on.
#[derive(Debug, Clone)]
pub(super) struct Roles<'a> {
    /// Where the registry runs.
    pub place: &'a Place,
    /// What makes its pods.
    pub kind: WorkloadKind,
    /// `--registry-cache`; none if nothing is deleted from a registry.
    pub step: Option<Strategy>,
    /// Whether the registry is asked for blobs: `--check` or `--verify`, where they were asked for.
    pub checks: bool,
    /// What the registry's configuration refers to, and must be read to know its caches.
    pub sources: &'a [Source],
    /// Whether `--redis-url` says where Redis is, or that there is none.
    pub redis_is_given: bool,
    /// `--registry-via`.
    pub via: Option<Via>,
    /// Whether the registry's certificate is signed by another authority than those of the replicas.
    pub has_other_authority: bool,
    /// `--referrers-from`.
    pub referrers: &'a [ResourceName],
}

/// A rule of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub(super) verb: String,
    pub(super) group: String,
    /// The resource with its subresource.
    pub(super) resource: String,
    pub(super) name: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) purpose: String,
}

impl From<Need> for Grant {
    fn from(Need { rule, purpose }: Need) -> Self {
        let resource = match rule.subresource {
            "" => rule.resource.to_owned(),
            subresource => format!("{}/{subresource}", rule.resource),
        };
        Self {
            verb: rule.verb.to_owned(),
            group: rule.group.to_owned(),
            resource,
            name: rule.name,
            namespace: rule.namespace,
            purpose: purpose.to_owned(),
        }
    }
}

/// What a prune reads where it may, and goes on without otherwise: whoever gives rights gives these.
const PROTECTING: [(&str, &str, &str); 2] = [
    ("", "namespaces", "keep what namespaces with the mark prune-images/keep have"),
    ("apps", "controllerrevisions", "keep the images that a rollback of a stateful set or daemon set needs"),
];

fn list(group: &str, resource: &str, purpose: &str) -> Grant {
    Grant {
        verb: "list".to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        name: None,
        namespace: None,
        purpose: purpose.to_owned(),
    }
}

/// The further rights. A job in the cluster reaches the replicas at their pods' addresses, so that `evict`, `wait`,
/// `flush` and `none` need none, and neither does `auto`, which begins with `evict` and ends with `wait`.
#[must_use]
pub(super) fn roles(roles: &Roles<'_>) -> Vec<Grant> {
    let Roles { place, kind, step, checks, sources, redis_is_given, via, has_other_authority, referrers } =
        roles;
    let mut grants: Vec<Grant> =
        PROTECTING.map(|(group, resource, purpose)| list(group, resource, purpose)).into();
    let mut seen = Vec::new();
    for ResourceName { resource, group, .. } in *referrers {
        if seen.contains(&(resource, group)) {
            continue;
        }
        seen.push((resource, group));
        grants.push(list(group, resource, "see which images they use: --referrers-from"));
    }
    grants.extend(Need::lease(place).map(Grant::from));
    let Some(step) = step else { return grants };
    // What is in Secrets is how to log in to Redis.
    let is_needed = |source: &&Source| !redis_is_given || source.origin != Origin::Secret;
    let mut needs: Vec<Need> = match step {
        Strategy::None => Vec::new(),
        _ => sources.iter().filter(is_needed).filter_map(Need::read_source).collect(),
    };
    match step {
        Strategy::Auto | Strategy::Evict | Strategy::Flush | Strategy::Wait | Strategy::None => {}
        // The one way that is open whoever looks after the Deployment, and heeds its budget.
        Strategy::Restart => needs.push(Need::evict_pods(place)),
        Strategy::Disable => {
            needs.push(Need::switch_off(*kind, place));
            // Only the default registry has an operator.
            if **place == Place::default() {
                needs.push(Need::see_operator());
            }
        }
    }
    if *checks {
        needs.push(Need::check());
    }
    match via {
        Some(Via::Route) => needs.push(Need::list_routes(place)),
        Some(Via::PortForward) => needs.extend(Need::forward(place)),
        Some(Via::Auto | Via::Direct) | None => {}
    }
    if *has_other_authority && (*checks || matches!(step, Strategy::Auto | Strategy::Evict)) {
        needs.push(Need::read_authority(place));
    }
    needs.sort();
    needs.dedup();
    grants.extend(needs.into_iter().map(Grant::from));
    grants
}
