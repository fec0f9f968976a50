//! The lists that are read, and what becomes of their pages. Pure: bytes in, inventory out.

use std::collections::BTreeMap;

use super::decode::{
    self, AnyObject, BuildObject, CronJobObject, DecodeError, ImageObject, ImageReader, LimitRangeObject,
    NamespaceObject, Object, PageMetadata, PodObject, ReferrerReader, Refers, RevisionObject, StreamObject,
    TemplateObject,
};
use super::read::segment;
use crate::model::{Inventory, Kind, LimitRange, Names, Referrers, Selector, Stream};

/// What a list holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Image objects.
    Images,
    /// Image streams.
    ImageStreams,
    /// Limits of image sizes.
    LimitRanges,
    /// Namespaces, for the protecting label or annotation.
    Namespaces,
    /// Objects of this kind, for their references.
    Referrers(Kind),
}

/// What to do when the server does not let the list be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// The run stops: nobody knows what the list would protect.
    Stops,
    /// A group that the server does not serve is an empty list (`docs/decision.md`, "Inputs").
    GroupMayBeMissing,
    /// It only adds protection where it may be read.
    MayBeUnreadable,
}

/// One list of the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    /// The plural name, as in RBAC rules: `pods`.
    pub resource: Box<str>,
    /// The API group; empty for core.
    pub group: Box<str>,
    /// The API version.
    pub version: Box<str>,
    /// What it holds.
    pub content: Content,
    /// What to do when it cannot be read.
    pub absence: Absence,
}

impl List {
    fn new(group: &str, version: &str, resource: &str, content: Content) -> Self {
        let absence = match resource {
            "deploymentconfigs" | "builds" | "buildconfigs" => Absence::GroupMayBeMissing,
            "namespaces" | "controllerrevisions" => Absence::MayBeUnreadable,
            _ => Absence::Stops,
        };
        let (resource, group, version) = (resource.into(), group.into(), version.into());
        Self { resource, group, version, content, absence }
    }

    /// A resource named with `--referrers-from`.
    #[must_use]
    pub fn of_referrers(group: &str, version: &str, resource: &str) -> Self {
        let kind = if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        let list = Self::new(group, version, resource, Content::Referrers(Kind::Other(kind.into())));
        // Who names a resource counts on what it protects.
        Self { absence: Absence::Stops, ..list }
    }

    /// The list of Images: read before the streams, so that a stream names no image that is not there yet.
    #[must_use]
    pub fn images() -> Self {
        Self::new("image.openshift.io", "v1", "images", Content::Images)
    }

    /// The list of image streams.
    #[must_use]
    pub fn image_streams() -> Self {
        Self::new("image.openshift.io", "v1", "imagestreams", Content::ImageStreams)
    }

    /// Every list but those of images and image streams, in the order of the reference's messages.
    #[must_use]
    pub fn others() -> Vec<Self> {
        let referrers = |group, resource, kind| Self::new(group, "v1", resource, Content::Referrers(kind));
        vec![
            referrers("", "pods", Kind::Pod),
            referrers("", "replicationcontrollers", Kind::ReplicationController),
            referrers("build.openshift.io", "buildconfigs", Kind::BuildConfig),
            referrers("build.openshift.io", "builds", Kind::Build),
            referrers("apps", "daemonsets", Kind::DaemonSet),
            referrers("apps", "deployments", Kind::Deployment),
            referrers("apps.openshift.io", "deploymentconfigs", Kind::DeploymentConfig),
            referrers("apps", "replicasets", Kind::ReplicaSet),
            referrers("apps", "statefulsets", Kind::StatefulSet),
            referrers("batch", "jobs", Kind::Job),
            referrers("batch", "cronjobs", Kind::CronJob),
            Self::new("", "v1", "limitranges", Content::LimitRanges),
            referrers("apps", "controllerrevisions", Kind::ControllerRevision),
            Self::new("", "v1", "namespaces", Content::Namespaces),
        ]
    }

    /// The path of the list, cluster-wide or in one namespace.
    #[must_use]
    pub fn path(&self, namespace: Option<&str>) -> String {
        let Self { group, version, resource, .. } = self;
        let root =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{}/{resource}", segment(namespace)),
            None => format!("{root}/{resource}"),
        }
    }

    /// The resource as in messages of the server: `daemonsets.apps`.
    #[must_use]
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.resource.to_string()
        } else {
            format!("{}.{}", self.resource, self.group)
        }
    }
}

/// A list that was read, and the state of the cluster that it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListState {
    /// The list.
    pub list: List,
    /// The namespace that it is limited to.
    pub namespace: Option<String>,
    /// Its `metadata.resourceVersion`: all pages of a list show the same state.
    pub version: String,
}

/// What was read so far.
#[derive(Debug, Default)]
pub struct Parts {
    names: Names,
    images: ImageReader,
    /// What selects streams.
    selector: Option<Selector>,
    streams: Vec<Stream>,
    repositories: BTreeMap<String, i64>,
    limits: BTreeMap<Box<str>, Vec<LimitRange>>,
    protected_namespaces: Vec<Box<str>>,
    referrers: Referrers,
    warnings: Vec<String>,
    states: Vec<ListState>,
    objects: usize,
}

impl Parts {
    /// Parts that go on with names that are already interned, and select streams.
    pub(super) fn with(names: Names, selector: Option<Selector>) -> Self {
        Self { names, selector, ..Self::default() }
    }

    /// The names and the streams, sorted.
    pub(super) fn into_streams(mut self) -> (Names, Vec<Stream>) {
        sort_streams(&mut self.streams);
        (self.names, self.streams)
    }

    /// The referrers, sorted, their names interned in this table.
    pub(super) fn into_referrers(self, names: &mut Names) -> Referrers {
        let mut referrers = Referrers::default();
        referrers.merge(self.referrers, &self.names, names);
        referrers.sort(names);
        referrers
    }

    /// Counts the objects of another list from here on.
    pub(super) fn begin(&mut self) {
        self.objects = 0;
    }

    /// Notes which state of the cluster a list shows that was read to its end.
    pub(super) fn end(&mut self, list: &List, namespace: Option<&str>, version: String) {
        let (list, namespace) = (list.clone(), namespace.map(ToOwned::to_owned));
        self.states.push(ListState { list, namespace, version });
    }

    /// Forgets what a list gave so far: it is read again from its start.
    pub(super) fn restart(&mut self, list: &List) {
        self.objects = 0;
        self.warnings.clear();
        match &list.content {
            Content::Images => self.images = ImageReader::default(),
            Content::ImageStreams => {
                self.streams.clear();
                self.repositories.clear();
            }
            Content::LimitRanges => self.limits.clear(),
            Content::Namespaces => self.protected_namespaces.clear(),
            Content::Referrers(kind) => self.referrers.forget(kind),
        }
    }

    /// Takes one page.
    pub(super) fn page(&mut self, list: &List, page: &[u8]) -> Result<PageMetadata, DecodeError> {
        let Self {
            names,
            images,
            selector,
            streams,
            repositories,
            limits,
            protected_namespaces,
            referrers,
            warnings,
            states: _,
            objects,
        } = self;
        match &list.content {
            Content::Images => decode::page(page, None, |object: ImageObject| {
                *objects += 1;
                images.take(names, &object);
            }),
            Content::ImageStreams => decode::page(page, None, |object: StreamObject| {
                *objects += 1;
                if let Some((created, host)) = object.registry() {
                    let newest = repositories.entry(host).or_insert(created);
                    *newest = created.max(*newest);
                }
                streams.push(object.reduce(names, selector.as_ref()));
            }),
            Content::LimitRanges => decode::page(page, None, |object: LimitRangeObject| {
                *objects += 1;
                let (namespace, found, unreadable) = object.reduce();
                for quantity in unreadable {
                    warnings.push(format!(
                        "a limit range of namespace {namespace} has a max.storage that is no quantity, {quantity:?}: it limits nothing"
                    ));
                }
                limits.entry(namespace).or_default().extend(found);
            }),
            Content::Namespaces => decode::page(page, None, |object: NamespaceObject| {
                *objects += 1;
                protected_namespaces.extend(object.protected());
            }),
            Content::Referrers(kind) => {
                fn read<'a, T: Object<'a> + Refers>(
                    page: &'a [u8],
                    kind: &Kind,
                    objects: &mut usize,
                    mut reader: ReferrerReader<'_>,
                ) -> Result<PageMetadata, DecodeError> {
                    decode::page(page, Some(kind), |object: T| {
                        *objects += 1;
                        object.reduce(kind, &mut reader);
                    })
                }
                let read_page = match kind {
                    Kind::Pod => read::<PodObject>,
                    Kind::CronJob => read::<CronJobObject>,
                    Kind::Build | Kind::BuildConfig => read::<BuildObject>,
                    Kind::ControllerRevision => read::<RevisionObject>,
                    Kind::Other(_) => read::<AnyObject>,
                    Kind::ReplicationController
                    | Kind::DaemonSet
                    | Kind::Deployment
                    | Kind::ReplicaSet
                    | Kind::StatefulSet
                    | Kind::Job
                    | Kind::DeploymentConfig => read::<TemplateObject>,
                };
                read_page(page, kind, objects, ReferrerReader { names, referrers })
            }
        }
    }

    /// How many objects the present list gave so far.
    pub(super) fn objects(&self) -> usize {
        self.objects
    }

    /// Puts the parts of another list beside these.
    pub(super) fn merge(&mut self, other: Self) {
        let Self {
            names,
            images,
            selector: _,
            streams,
            repositories,
            limits,
            protected_namespaces,
            referrers,
            warnings,
            states,
            objects: _,
        } = other;
        // Only one part reads images and streams, which keep the ids that they have there.
        debug_assert!(images.images.all().is_empty() && streams.is_empty());
        self.repositories.extend(repositories);
        self.limits.extend(limits);
        self.protected_namespaces.extend(protected_namespaces);
        self.referrers.merge(referrers, &names, &mut self.names);
        self.warnings.extend(warnings);
        self.states.extend(states);
    }

    /// The inventory, in an order that does not depend on the order of arrival.
    pub(super) fn finish(self) -> Read {
        let Self {
            names,
            images,
            selector,
            mut streams,
            repositories,
            limits,
            mut protected_namespaces,
            mut referrers,
            warnings,
            states,
            objects: _,
        } = self;
        let ImageReader { images, managed_hosts, undecodable } = images;
        sort_streams(&mut streams);
        protected_namespaces.sort_unstable();
        referrers.sort(&names);
        let inventory =
            Inventory { names, images, streams, referrers, limits, protected_namespaces, selector };
        let repositories = repositories.into_iter().map(|(host, created)| (created, host)).collect();
        Read { inventory, repositories, managed_hosts, undecodable, warnings, states }
    }
}

fn sort_streams(streams: &mut [Stream]) {
    streams.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
}

/// What all lists together gave.
#[derive(Debug, Default)]
pub struct Read {
    /// What the plan is made from.
    pub inventory: Inventory,
    /// Each host in `status.dockerImageRepository` of streams, with its slash, and the creation time, in seconds, of the
    /// newest of these streams.
    pub repositories: Vec<(i64, String)>,
    /// Hosts in `dockerImageReference` of managed images, with how many name them.
    pub managed_hosts: BTreeMap<Box<str>, usize>,
    /// Images whose metadata cannot be decoded, and why: the run stops.
    pub undecodable: Vec<(String, String)>,
    /// What else is to be said.
    pub warnings: Vec<String>,
    /// The lists that were read, each with the state of the cluster that it shows.
    pub states: Vec<ListState>,
}

/// Reads whole lists that are in memory: for replays of the plan.
///
/// # Errors
/// The text says which list cannot be decoded, and why.
pub fn read_lists<'a>(lists: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Read, String> {
    read_lists_selecting(lists, None)
}

/// As [`read_lists`], with the selector of streams.
///
/// # Errors
/// As [`read_lists`].
pub fn read_lists_selecting<'a>(
    lists: impl IntoIterator<Item = (&'a str, &'a [u8])>,
    selector: Option<Selector>,
) -> Result<Read, String> {
    let mut lists: Vec<(&str, &[u8])> = lists.into_iter().collect();
    let order = |resource: &str| all_lists().position(|list| *list.resource == *resource);
    lists.sort_by_key(|(resource, _)| order(resource));
    read_pages(lists, selector)
}

/// Reads pages that are in memory, in an order in which images come first: for benchmarks.
///
/// # Errors
/// As [`read_lists`].
pub fn read_pages<R: AsRef<str>, P: AsRef<[u8]>>(
    pages: impl IntoIterator<Item = (R, P)>,
    selector: Option<Selector>,
) -> Result<Read, String> {
    let lists: Vec<List> = all_lists().collect();
    let mut parts = Parts::with(Names::default(), selector);
    for (resource, page) in pages {
        let resource = resource.as_ref();
        let list = lists.iter().find(|list| *list.resource == *resource);
        let list = list.ok_or_else(|| format!("{resource}: no list of the inventory"))?;
        parts.page(list, page.as_ref()).map_err(|error| format!("{resource}: {error}"))?;
    }
    Ok(parts.finish())
}

fn all_lists() -> impl Iterator<Item = List> {
    [List::images(), List::image_streams()].into_iter().chain(List::others())
}
