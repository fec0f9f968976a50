//! The resources the API server knows.

/// A resource of the API.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The name in paths, plural.
    pub plural: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// Whether its objects live in namespaces.
    pub namespaced: bool,
    /// The abbreviations of kubectl.
    pub short_names: &'static [&'static str],
    /// Whether the status is a subresource: updates of the object leave it alone, and the other way round.
    pub status: bool,
}

const fn resource(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    short_names: &'static [&'static str],
    status: bool,
) -> Resource {
    Resource { group, plural, kind, namespaced: true, short_names, status }
}

const fn cluster_scoped(mut resource: Resource) -> Resource {
    resource.namespaced = false;
    resource
}

/// All resources whose objects are stored.
pub static RESOURCES: [Resource; 34] = [
    resource("", "configmaps", "ConfigMap", &["cm"], false),
    resource("", "endpoints", "Endpoints", &["ep"], false),
    resource("", "events", "Event", &["ev"], false),
    resource("", "limitranges", "LimitRange", &["limits"], false),
    cluster_scoped(resource("", "namespaces", "Namespace", &["ns"], true)),
    resource("", "pods", "Pod", &["po"], true),
    resource("", "replicationcontrollers", "ReplicationController", &["rc"], true),
    resource("", "secrets", "Secret", &[], false),
    resource("", "serviceaccounts", "ServiceAccount", &["sa"], false),
    resource("", "services", "Service", &["svc"], true),
    resource("apps", "controllerrevisions", "ControllerRevision", &[], false),
    resource("apps", "daemonsets", "DaemonSet", &["ds"], true),
    resource("apps", "deployments", "Deployment", &["deploy"], true),
    resource("apps", "replicasets", "ReplicaSet", &["rs"], true),
    resource("apps", "statefulsets", "StatefulSet", &["sts"], true),
    resource("batch", "cronjobs", "CronJob", &["cj"], true),
    resource("batch", "jobs", "Job", &[], true),
    resource("coordination.k8s.io", "leases", "Lease", &[], false),
    resource("discovery.k8s.io", "endpointslices", "EndpointSlice", &[], false),
    resource("policy", "poddisruptionbudgets", "PodDisruptionBudget", &["pdb"], true),
    cluster_scoped(resource(
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        "ClusterRoleBinding",
        &[],
        false,
    )),
    cluster_scoped(resource("rbac.authorization.k8s.io", "clusterroles", "ClusterRole", &[], false)),
    resource("rbac.authorization.k8s.io", "rolebindings", "RoleBinding", &[], false),
    resource("rbac.authorization.k8s.io", "roles", "Role", &[], false),
    resource("apps.openshift.io", "deploymentconfigs", "DeploymentConfig", &["dc"], true),
    resource("build.openshift.io", "buildconfigs", "BuildConfig", &["bc"], false),
    resource("build.openshift.io", "builds", "Build", &[], false),
    cluster_scoped(resource("image.openshift.io", "images", "Image", &[], false)),
    resource("image.openshift.io", "imagestreams", "ImageStream", &["is"], true),
    resource("route.openshift.io", "routes", "Route", &[], true),
    cluster_scoped(resource("config.openshift.io", "clusteroperators", "ClusterOperator", &["co"], true)),
    cluster_scoped(resource("config.openshift.io", "images", "Image", &[], true)),
    cluster_scoped(resource("imageregistry.operator.openshift.io", "configs", "Config", &[], true)),
    cluster_scoped(resource("imageregistry.operator.openshift.io", "imagepruners", "ImagePruner", &[], true)),
];

/// The groups that OpenShift's operators bring; off by default, as they are on the recorded servers.
pub const OPERATOR_GROUPS: [&str; 2] = ["config.openshift.io", "imageregistry.operator.openshift.io"];

impl Resource {
    /// The resource of this group and plural.
    #[must_use]
    pub fn find(group: &str, plural: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.group == group && resource.plural == plural)
    }

    /// The resource that `name` means: `images`, or `images.config.openshift.io` where the plural alone means another.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        let (plural, group) =
            name.split_once('.').map_or((name, None), |(plural, group)| (plural, Some(group)));
        RESOURCES
            .iter()
            .find(|resource| resource.plural == plural && group.is_none_or(|group| group == resource.group))
    }

    /// The resource of an object, by its `kind` and `apiVersion`.
    #[must_use]
    pub fn of_kind(api_version: &str, kind: &str) -> Option<&'static Self> {
        RESOURCES.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version)
    }

    /// The group and version as objects name it.
    #[must_use]
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", self.group) }
    }

    /// The resource as messages name it: `images.image.openshift.io`, `pods`.
    #[must_use]
    pub fn qualified(&self) -> String {
        qualified(self.plural, self.group)
    }

    /// Whether the aggregated API server of OpenShift serves it.
    #[must_use]
    pub fn aggregated(&self) -> bool {
        aggregated(self.group)
    }
}

/// A resource or kind with its group, as messages name it.
pub(crate) fn qualified(name: &str, group: &str) -> String {
    if group.is_empty() { name.to_owned() } else { format!("{name}.{group}") }
}

/// Whether the aggregated API server of OpenShift serves this group.
pub(crate) fn aggregated(group: &str) -> bool {
    group.ends_with(".openshift.io") && !OPERATOR_GROUPS.contains(&group)
}

/// The groups with at least one resource, the core group excepted, in order.
pub(crate) fn groups() -> Vec<&'static str> {
    let mut groups: Vec<&str> =
        RESOURCES.iter().map(|resource| resource.group).filter(|group| !group.is_empty()).collect();
    groups.extend(["authentication.k8s.io", "authorization.k8s.io"]);
    groups.sort_unstable();
    groups.dedup();
    groups
}
