//! What was read from the cluster, reduced to the fields that the rules of `docs/decision.md` read.

use std::collections::{BTreeMap, BTreeSet};

use super::{Id, Names, Quantity, Selector, pull_spec};

/// Everything the plan is made from. Times are seconds since the Unix epoch.
#[derive(Debug, Default, Clone)]
pub struct Inventory {
    /// All names of images and blobs.
    pub names: Names,
    /// The Image objects.
    pub images: Images,
    /// The image streams of the whole cluster, sorted by namespace and name.
    pub streams: Vec<Stream>,
    /// Everything that refers to images, sorted by kind, namespace and name.
    pub referrers: Vec<Referrer>,
    /// The limits of type `openshift.io/Image`, by namespace.
    pub limits: BTreeMap<Box<str>, Vec<LimitRange>>,
    /// Namespaces that carry the protecting label or annotation.
    pub protected_namespaces: Vec<Box<str>>,
    /// `--selector`: what [`Stream::selected`] was found with, also when streams are read again.
    pub selector: Option<Selector>,
}

/// One Image object (`image.openshift.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "six independent facts about an object, not states of one machine"
)]
pub struct Image {
    /// `metadata.name`: the manifest's digest.
    pub name: Id,
    /// `metadata.uid`, when it has the form of a UUID: the precondition of its deletion.
    pub uid: Option<u128>,
    /// `metadata.creationTimestamp`; the smallest value when absent, as Go's zero time.
    pub created: i64,
    /// `dockerImageMetadata.Size` in bytes; 0 when absent.
    pub size: i64,
    /// `dockerImageMetadata.Id`, when not empty and the image is no index.
    pub config: Option<Id>,
    /// Whether the media type is Docker schema 2 or an OCI manifest: only then is the config deleted.
    pub config_deletable: bool,
    /// Whether the media type is an image index or a manifest list.
    pub index: bool,
    /// Annotation `openshift.io/image.managed` is "true".
    pub managed: bool,
    /// Label or annotation `prune-images/keep` is "true".
    pub protected: bool,
    /// No index, and without `dockerImageMetadata`: nobody knows which config it needs.
    pub metadata_absent: bool,
    /// `namespace/name` in `dockerImageReference` of a managed image: the repository that it was pushed to.
    pub repository: Option<Id>,
    /// It was not in the list of images and was found by name later: pushed meanwhile.
    pub appeared: bool,
    layers: u32,
    manifests: u32,
}

/// The Image objects, with their layers and sub-manifests in flat arrays.
#[derive(Debug, Default, Clone)]
pub struct Images {
    records: Vec<Image>,
    layers: Vec<Id>,
    manifests: Vec<Id>,
    by_name: Vec<u32>,
    blob_bytes: Vec<u64>,
}

const NONE: u32 = u32::MAX;

impl Images {
    /// All images, in the order they were added.
    #[must_use]
    pub fn all(&self) -> &[Image] {
        &self.records
    }

    /// The position of the image of this name in [`Images::all`].
    #[must_use]
    pub fn find(&self, name: Id) -> Option<usize> {
        let position = *self.by_name.get(name.index())?;
        (position != NONE).then_some(position as usize)
    }

    /// The names in `dockerImageLayers`, in order, duplicates included.
    #[must_use]
    pub fn layers(&self, position: usize) -> &[Id] {
        let end = self.records.get(position + 1).map_or(self.layers.len(), |next| next.layers as usize);
        &self.layers[self.records[position].layers as usize..end]
    }

    /// The digests in `dockerImageManifests`, in order.
    #[must_use]
    pub fn manifests(&self, position: usize) -> &[Id] {
        let end = self.records.get(position + 1).map_or(self.manifests.len(), |next| next.manifests as usize);
        &self.manifests[self.records[position].manifests as usize..end]
    }

    /// These names, and those of the sub-manifests below them at any depth, whether or not their Images are there.
    #[must_use]
    pub fn with_submanifests(&self, names: impl IntoIterator<Item = Id>) -> BTreeSet<Id> {
        let mut open: Vec<Id> = names.into_iter().collect();
        let mut all: BTreeSet<Id> = open.iter().copied().collect();
        while let Some(name) = open.pop() {
            if let Some(position) = self.find(name) {
                open.extend(self.manifests(position).iter().filter(|manifest| all.insert(**manifest)));
            }
        }
        all
    }

    /// The size of a blob in bytes, where any Image tells it.
    #[must_use]
    pub fn blob_bytes(&self, blob: Id) -> Option<u64> {
        self.blob_bytes.get(blob.index()).copied().filter(|bytes| *bytes > 0)
    }

    /// Notes the size of a blob, in bytes; zero and less mean unknown.
    pub fn set_blob_bytes(&mut self, blob: Id, bytes: i64) {
        if let Ok(bytes @ 1..) = u64::try_from(bytes) {
            if self.blob_bytes.len() <= blob.index() {
                self.blob_bytes.resize(blob.index() + 1, 0);
            }
            self.blob_bytes[blob.index()] = bytes;
        }
    }

    /// These images as `change` makes them, without those that it answers `None` for.
    #[must_use]
    pub fn filtered(&self, change: impl Fn(&Image) -> Option<Image>) -> Self {
        let mut images = Self { blob_bytes: self.blob_bytes.clone(), ..Self::default() };
        for (position, image) in self.records.iter().enumerate() {
            if let Some(image) = change(image) {
                images.push(image, self.layers(position), self.manifests(position));
            }
        }
        images
    }

    /// Adds an image; `layers` and `manifests` of the record are filled in here. The first image of a name wins.
    ///
    /// # Panics
    /// Never in practice: 2^32 layers do not fit into the API server.
    #[expect(clippy::cast_possible_truncation, reason = "2^32 layers do not fit into the API server")]
    pub fn push(&mut self, mut image: Image, layers: &[Id], manifests: &[Id]) {
        if self.find(image.name).is_some() {
            return;
        }
        if self.by_name.len() <= image.name.index() {
            self.by_name.resize(image.name.index() + 1, NONE);
        }
        self.by_name[image.name.index()] = self.records.len() as u32;
        image.layers = self.layers.len() as u32;
        image.manifests = self.manifests.len() as u32;
        self.layers.extend_from_slice(layers);
        self.manifests.extend_from_slice(manifests);
        self.records.push(image);
    }
}

impl Image {
    /// An image that is nothing but its name; the reader fills in the rest.
    #[must_use]
    pub fn named(name: Id) -> Self {
        Self {
            name,
            uid: None,
            created: i64::MIN,
            size: 0,
            config: None,
            config_deletable: false,
            index: false,
            managed: false,
            protected: false,
            metadata_absent: false,
            repository: None,
            appeared: false,
            layers: 0,
            manifests: 0,
        }
    }
}

/// One image stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.resourceVersion`, to tell whether it changed since it was read.
    pub resource_version: Box<str>,
    /// `metadata.creationTimestamp`.
    pub created: i64,
    /// Label or annotation `prune-images/keep` is "true".
    pub protected: bool,
    /// Whether its labels match [`Inventory::selector`]; without one, every stream is selected.
    pub selected: bool,
    /// `status.tags`, in order.
    pub tags: Vec<Tag>,
}

impl Stream {
    /// A stream that is nothing but its name, `namespace/name`.
    #[must_use]
    pub fn named(repository: &str) -> Self {
        let (namespace, name) = repository.split_once('/').unwrap_or(("", repository));
        Self {
            namespace: namespace.into(),
            name: name.into(),
            resource_version: "".into(),
            created: i64::MIN,
            protected: false,
            selected: true,
            tags: Vec::new(),
        }
    }

    /// The repository of the stream in the registry: `namespace/name`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// A tag of a stream, with its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// The tag.
    pub name: Box<str>,
    /// Its tag event items; position 0 is the current one.
    pub items: Vec<Item>,
    /// Whether the tag of the same name in `spec.tags` is imported from outside.
    pub import: Import,
}

/// How the server imports a tag, by its entry in `spec.tags` (openshift-controller-manager, `pkg/image/controller`).
///
/// Only a `from` of kind `DockerImage` without `reference: true` is ever imported; what follows another tag or image of
/// the cluster changes when that does, and not because of its own status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Import {
    /// Not at all.
    #[default]
    Never,
    /// When the generation of the entry is greater than the one that was imported, which the newest item tells.
    OnChange {
        /// So many items, from position 0 on, tell that the entry was imported as it is.
        imported: u32,
    },
    /// Likewise, and every few minutes (`importPolicy.scheduled`).
    Scheduled {
        /// As in [`Import::OnChange`]; `u32::MAX` if the entry has no generation.
        imported: u32,
    },
}

/// One tag event item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// When the tag began to point at the image.
    pub created: i64,
    /// The image it names.
    pub image: Id,
}

/// The kinds that refer to images, in the order in which referrers are listed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// core/v1.
    Pod,
    /// core/v1.
    ReplicationController,
    /// apps/v1.
    DaemonSet,
    /// apps/v1.
    Deployment,
    /// apps/v1.
    ReplicaSet,
    /// apps/v1.
    StatefulSet,
    /// apps/v1: what a rollback of a `DaemonSet` or `StatefulSet` would start.
    ControllerRevision,
    /// batch/v1.
    Job,
    /// batch/v1.
    CronJob,
    /// apps.openshift.io/v1.
    DeploymentConfig,
    /// build.openshift.io/v1.
    Build,
    /// build.openshift.io/v1.
    BuildConfig,
    /// A resource named with `--referrers-from`.
    Other(Box<str>),
}

impl Kind {
    /// The kind of this name in the API, `ReplicaSet`, if it is one that refers to images by itself.
    #[must_use]
    pub fn of_api(name: &str) -> Option<Self> {
        const ALL: [Kind; 12] = [
            Kind::Pod,
            Kind::ReplicationController,
            Kind::DaemonSet,
            Kind::Deployment,
            Kind::ReplicaSet,
            Kind::StatefulSet,
            Kind::ControllerRevision,
            Kind::Job,
            Kind::CronJob,
            Kind::DeploymentConfig,
            Kind::Build,
            Kind::BuildConfig,
        ];
        ALL.into_iter().find(|kind| kind.word().eq_ignore_ascii_case(name))
    }

    /// The word that the reference uses in its messages: `pod`, `replicationcontroller`, ….
    #[must_use]
    pub fn word(&self) -> &str {
        match self {
            Self::Pod => "pod",
            Self::ReplicationController => "replicationcontroller",
            Self::DaemonSet => "daemonset",
            Self::Deployment => "deployment",
            Self::ReplicaSet => "replicaset",
            Self::StatefulSet => "statefulset",
            Self::ControllerRevision => "controllerrevision",
            Self::Job => "job",
            Self::CronJob => "cronjob",
            Self::DeploymentConfig => "deploymentconfig",
            Self::Build => "build",
            Self::BuildConfig => "buildconfig",
            Self::Other(resource) => resource,
        }
    }
}

/// An object that refers to images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// What it is.
    pub kind: Kind,
    /// `metadata.namespace`; empty for a cluster-scoped object.
    pub namespace: Box<str>,
    /// `metadata.name`.
    pub name: Box<str>,
    /// The controller among `metadata.ownerReferences`, as `Kind/name`.
    pub owner: Option<Box<str>>,
    /// For a pod that is neither Running nor Pending: its `metadata.creationTimestamp`. Such a pod counts only
    /// while it is not older than the cutoff; every other referrer always counts.
    pub finished_pod_created: Option<i64>,
    /// Its references.
    pub mentions: Vec<Mention>,
}

/// Where in the object a reference stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// An init container or container of a pod spec, or `from` of a build strategy: what the reference reads.
    Spec,
    /// `status.*ContainerStatuses[].imageID` of a pod: what really runs.
    Running,
    /// Ephemeral containers, `volumes[].image`, `spec.source.images[].from`, `ControllerRevisions`,
    /// `--referrers-from`: what the reference does not read.
    Extra,
}

/// The place of a reference in its object, as text for people.
pub type Place = Box<str>;

/// One reference of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// For instance `container app`, `init container setup`; empty for a build strategy.
    pub place: Place,
    /// Which rule reads it.
    pub source: Source,
    /// What it refers to.
    pub target: Target,
}

/// What a reference refers to (`docs/decision.md`, "Which references count").
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The tag of an image stream.
    Tag {
        /// The stream's namespace.
        namespace: Box<str>,
        /// The stream.
        stream: Box<str>,
        /// The tag.
        tag: Box<str>,
    },
    /// An image in a repository, by digest.
    Image {
        /// The stream's namespace.
        namespace: Box<str>,
        /// The stream.
        stream: Box<str>,
        /// The image's name.
        digest: Box<str>,
    },
    /// An image by digest alone.
    Digest(Box<str>),
    /// A string that does not parse.
    Invalid {
        /// What it should have been: `image`, `ImageStreamTag`, `ImageStreamImage`.
        expected: &'static str,
        /// The string.
        value: Box<str>,
        /// Why it does not parse, in the reference's words.
        error: Box<str>,
        /// What it refers to once the white space around it is gone.
        readable: Option<Box<Target>>,
    },
    /// A `from` of a kind that nobody knows: ignored, with a warning.
    UnknownKind(Box<str>),
}

impl Target {
    /// What a pull spec refers to; `None` if it is blank or of another form than `host/namespace/name[:tag][@digest]`.
    #[must_use]
    pub fn of_pull_spec(value: &str) -> Option<Self> {
        if value.trim().is_empty() {
            return None;
        }
        match pull_spec::parse(value) {
            Ok(spec) if spec.host.is_empty() || spec.namespace.is_empty() || spec.name.contains('/') => None,
            Ok(spec) if spec.digest.is_empty() => Some(Self::Tag {
                namespace: spec.namespace.into(),
                stream: spec.name.into(),
                tag: if spec.tag.is_empty() { "latest" } else { spec.tag }.into(),
            }),
            Ok(spec) => Some(Self::Image {
                namespace: spec.namespace.into(),
                stream: spec.name.into(),
                digest: spec.digest.into(),
            }),
            Err(error) => Some(Self::invalid("image", value, error, Self::of_pull_spec)),
        }
    }

    /// What `from` of a build refers to (`ObjectReference`); `None` if it is a blank or foreign pull spec.
    #[must_use]
    pub fn of_build_source(kind: &str, namespace: &str, name: &str) -> Option<Self> {
        let read = |name: &str| match kind {
            "ImageStreamTag" => pull_spec::parse_image_stream_tag(name).map(|(stream, tag)| Self::Tag {
                namespace: namespace.into(),
                stream: stream.into(),
                tag: tag.into(),
            }),
            _ => pull_spec::parse_image_stream_image(name).map(|(stream, digest)| Self::Image {
                namespace: namespace.into(),
                stream: stream.into(),
                digest: digest.into(),
            }),
        };
        match kind {
            "DockerImage" => Self::of_pull_spec(name),
            "ImageStreamTag" | "ImageStreamImage" => {
                let expected = if kind == "ImageStreamTag" { "ImageStreamTag" } else { "ImageStreamImage" };
                Some(
                    read(name).unwrap_or_else(|error| {
                        Self::invalid(expected, name, &error, |text| read(text).ok())
                    }),
                )
            }
            other => Some(Self::UnknownKind(other.into())),
        }
    }

    /// What a container's `imageID` refers to: the digest that really runs, in whatever form the runtime gives it.
    #[must_use]
    pub fn of_image_id(value: &str) -> Option<Self> {
        let value = value.trim();
        let spec = value.split_once("://").map_or(value, |(_runtime, spec)| spec);
        if let Some(target @ Self::Image { .. }) = Self::of_pull_spec(spec) {
            return Some(target);
        }
        let digest = spec.rsplit_once('@').map_or(spec, |(_, digest)| digest);
        super::is_digest(digest).then(|| Self::Digest(digest.into()))
    }

    fn invalid(
        expected: &'static str,
        value: &str,
        error: &str,
        read: impl Fn(&str) -> Option<Self>,
    ) -> Self {
        let trimmed = value.trim();
        let readable = if trimmed.len() == value.len() || trimmed.is_empty() {
            None
        } else {
            read(trimmed).filter(|target| !matches!(target, Self::Invalid { .. })).map(Box::new)
        };
        Self::Invalid { expected, value: value.into(), error: error.into(), readable }
    }
}

/// A limit of type `openshift.io/Image` with `max.storage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRange {
    /// The `LimitRange` object it stands in.
    pub name: Box<str>,
    /// `max.storage`.
    pub max_storage: Quantity,
}
