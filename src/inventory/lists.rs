//! The lists that are read, and what becomes of their pages. Pure: bytes in, inventory out.

use std::collections::BTreeMap;

use super::decode::{
    self, AnyObject, BuildObject, CronJobObject, DecodeError, ImageObject, ImageReader, LimitRangeObject,
    NamespaceObject, PageMetadata, PodObject, Refers, RevisionObject, StreamObject, TemplateObject,
};
use crate::model::{Id, Inventory, Kind, LimitRange, Names, Referrer, Selector, Stream, Target};

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
            Some(namespace) => format!("{root}/namespaces/{namespace}/{resource}"),
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
    images: ImageReader,
    /// What selects streams.
    selector: Option<Selector>,
    streams: Vec<Stream>,
    repositories: Vec<(i64, String)>,
    limits: BTreeMap<Box<str>, Vec<LimitRange>>,
    protected_namespaces: Vec<Box<str>>,
    referrers: Vec<Referrer>,
    warnings: Vec<String>,
    states: Vec<ListState>,
    objects: usize,
}

impl Parts {
    /// Parts that go on with names that are already interned, and select streams.
    pub(super) fn with(names: Names, selector: Option<Selector>) -> Self {
        Self { images: ImageReader { names, ..ImageReader::default() }, selector, ..Self::default() }
    }

    /// The names and the streams, sorted.
    pub(super) fn into_streams(mut self) -> (Names, Vec<Stream>) {
        sort_streams(&mut self.streams);
        (self.images.names, self.streams)
    }

    /// The referrers, sorted, their digests interned.
    pub(super) fn into_referrers(mut self, names: &mut Names) -> Vec<Referrer> {
        sort_referrers(&mut self.referrers, names);
        self.referrers
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
            Content::Referrers(kind) => self.referrers.retain(|referrer| referrer.kind != *kind),
        }
    }

    /// Takes one page.
    pub(super) fn page(&mut self, list: &List, page: &[u8]) -> Result<PageMetadata, DecodeError> {
        let Self {
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
                images.take(&object);
            }),
            Content::ImageStreams => decode::page(page, None, |object: StreamObject| {
                *objects += 1;
                repositories.extend(object.repository());
                streams.push(object.reduce(&mut images.names, selector.as_ref()));
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
                let mut take = |referrer: Option<Referrer>| {
                    *objects += 1;
                    referrers.extend(referrer);
                };
                match kind {
                    Kind::Pod => {
                        decode::page(page, Some(kind), |object: PodObject| take(object.reduce(kind)))
                    }
                    Kind::CronJob => {
                        decode::page(page, Some(kind), |object: CronJobObject| take(object.reduce(kind)))
                    }
                    Kind::Build | Kind::BuildConfig => {
                        decode::page(page, Some(kind), |object: BuildObject| take(object.reduce(kind)))
                    }
                    Kind::ControllerRevision => {
                        decode::page(page, Some(kind), |object: RevisionObject| take(object.reduce(kind)))
                    }
                    Kind::Other(_) => {
                        decode::page(page, Some(kind), |object: AnyObject| take(object.reduce(kind)))
                    }
                    Kind::ReplicationController
                    | Kind::DaemonSet
                    | Kind::Deployment
                    | Kind::ReplicaSet
                    | Kind::StatefulSet
                    | Kind::Job
                    | Kind::DeploymentConfig => {
                        decode::page(page, Some(kind), |object: TemplateObject| take(object.reduce(kind)))
                    }
                }
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
        // Only one part reads images and streams: their names are in one table.
        if !images.names.is_empty() {
            self.images = images;
        }
        self.streams.extend(streams);
        self.repositories.extend(repositories);
        self.limits.extend(limits);
        self.protected_namespaces.extend(protected_namespaces);
        self.referrers.extend(referrers);
        self.warnings.extend(warnings);
        self.states.extend(states);
    }

    /// The inventory, in an order that does not depend on the order of arrival.
    pub(super) fn finish(self) -> Read {
        let Self {
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
        let ImageReader { mut names, images, managed_hosts, undecodable, .. } = images;
        sort_streams(&mut streams);
        protected_namespaces.sort_unstable();
        sort_referrers(&mut referrers, &mut names);
        let inventory =
            Inventory { names, images, streams, referrers, limits, protected_namespaces, selector };
        Read { inventory, repositories, managed_hosts, undecodable, warnings, states }
    }
}

fn sort_referrers(referrers: &mut [Referrer], names: &mut Names) {
    referrers.sort_by(|a, b| (&a.kind, &a.namespace, &a.name).cmp(&(&b.kind, &b.namespace, &b.name)));
    for mention in referrers.iter().flat_map(|referrer| &referrer.mentions) {
        intern(names, &mention.target);
    }
}

fn sort_streams(streams: &mut [Stream]) {
    streams.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
}

/// Digests that are referred to get an id, even if nothing has them yet: an image may appear under one.
fn intern(names: &mut Names, target: &Target) -> Option<Id> {
    match target {
        Target::Image { digest, .. } | Target::Digest(digest) => Some(names.intern(digest)),
        Target::Invalid { readable, .. } => readable.as_deref().and_then(|target| intern(names, target)),
        Target::Tag { .. } | Target::UnknownKind(_) => None,
    }
}

/// What all lists together gave.
#[derive(Debug, Default)]
pub struct Read {
    /// What the plan is made from.
    pub inventory: Inventory,
    /// `status.dockerImageRepository` of streams, with the streams' creation times in seconds.
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

/// Reads whole lists that are in memory: for replays and benchmarks of the plan.
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
    let mut pages: BTreeMap<&str, &[u8]> = lists.into_iter().collect();
    let mut parts = Parts::with(Names::default(), selector);
    for list in [List::images(), List::image_streams()].into_iter().chain(List::others()) {
        if let Some(page) = pages.remove(&*list.resource) {
            parts.page(&list, page).map_err(|error| format!("{}: {error}", list.resource))?;
        }
    }
    match pages.keys().next() {
        Some(unknown) => Err(format!("{unknown}: no list of the inventory")),
        None => Ok(parts.finish()),
    }
}
