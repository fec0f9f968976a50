//! What refers to images, as flat records.

use std::borrow::Cow;

use super::{Id, Names, Word, pull_spec};

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
    pub namespace: Word,
    /// `metadata.name`.
    pub name: Word,
    /// The controller among `metadata.ownerReferences`, as `Kind/name`.
    pub owner: Option<Word>,
    /// For a pod that is neither Running nor Pending: its `metadata.creationTimestamp`. Such a pod counts only
    /// while it is not older than the cutoff; every other referrer always counts.
    pub finished_pod_created: Option<i64>,
    /// Where its references begin, and how many there are.
    mentions: (u32, u32),
}

/// The objects that refer to images, with their references in one array.
#[derive(Debug, Default, Clone)]
pub struct Referrers {
    records: Vec<Referrer>,
    mentions: Vec<Mention>,
}

impl Referrers {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Referrer] {
        &self.records
    }

    /// The references of the referrer at this position in [`Referrers::all`].
    #[must_use]
    pub fn mentions(&self, position: usize) -> &[Mention] {
        let (begin, count) = self.records[position].mentions;
        &self.mentions[begin as usize..][..count as usize]
    }

    /// Notes a reference of the object that is being read.
    pub fn mention(&mut self, mention: Mention) {
        self.mentions.push(mention);
    }

    /// The references of the object that is being read, so far.
    #[must_use]
    pub fn open(&self) -> &[Mention] {
        &self.mentions[self.closed()..]
    }

    /// Adds the object that was read, unless it refers to nothing.
    ///
    /// # Panics
    /// Never in practice: 2^32 references do not fit into the API server.
    #[expect(clippy::cast_possible_truncation, reason = "2^32 references do not fit into the API server")]
    pub fn close(&mut self, mut referrer: Referrer) {
        let begin = self.closed();
        if begin < self.mentions.len() {
            referrer.mentions = (begin as u32, (self.mentions.len() - begin) as u32);
            self.records.push(referrer);
        }
    }

    /// Where the references end that have a referrer: those of the last one are the last.
    fn closed(&self) -> usize {
        self.records.last().map_or(0, |last| (last.mentions.0 + last.mentions.1) as usize)
    }

    /// Forgets all of one kind.
    pub fn forget(&mut self, kind: &Kind) {
        self.records.retain(|referrer| referrer.kind != *kind);
        self.mentions.truncate(self.closed());
    }

    /// Takes one reference, by its position among those of its referrer, out.
    pub fn forget_mention(&mut self, referrer: usize, mention: usize) {
        let (begin, count) = &mut self.records[referrer].mentions;
        self.mentions[*begin as usize..][mention..*count as usize].rotate_left(1);
        *count -= 1;
    }

    /// Adds those of another table, whose names are `theirs`.
    #[expect(clippy::cast_possible_truncation, reason = "2^32 references do not fit into the API server")]
    pub fn merge(&mut self, other: Self, theirs: &Names, ours: &mut Names) {
        let words: Vec<Word> = theirs.words.all().map(|(_, text)| ours.words.intern(text)).collect();
        let ids: Vec<Id> = theirs.ids().map(|id| ours.intern(&theirs.text(id))).collect();
        let moved = self.mentions.len() as u32;
        let mentions = other.mentions.into_iter();
        self.mentions.extend(mentions.map(|mention| Mention {
            place: words[mention.place.index()],
            target: mention.target.renamed(&words, &ids),
            ..mention
        }));
        self.records.extend(other.records.into_iter().map(|referrer| Referrer {
            namespace: words[referrer.namespace.index()],
            name: words[referrer.name.index()],
            owner: referrer.owner.map(|owner| words[owner.index()]),
            mentions: (moved + referrer.mentions.0, referrer.mentions.1),
            ..referrer
        }));
    }

    /// Sorts them by kind, namespace and name. Nothing can be added afterwards.
    pub fn sort(&mut self, names: &Names) {
        let text = |word: Word| names.words.text(word);
        self.records.sort_unstable_by(|a, b| {
            a.kind
                .cmp(&b.kind)
                .then_with(|| text(a.namespace).cmp(text(b.namespace)))
                .then_with(|| text(a.name).cmp(text(b.name)))
        });
    }

    /// The position of an object, once they are sorted.
    #[must_use]
    pub fn find(&self, names: &Names, kind: &Kind, namespace: &str, name: &str) -> Option<usize> {
        let text = |word: Word| names.words.text(word);
        let place = |other: &Referrer| {
            (&other.kind, text(other.namespace), text(other.name)).cmp(&(kind, namespace, name))
        };
        self.records.binary_search_by(place).ok()
    }
}

impl Referrer {
    /// An object of this kind and name; whoever reads it fills in the rest.
    #[must_use]
    pub fn named(kind: Kind, namespace: Word, name: Word) -> Self {
        Self { kind, namespace, name, owner: None, finished_pod_created: None, mentions: (0, 0) }
    }
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

/// One reference of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// Where in the object it stands, for people: `container app`, `init container setup`; empty for a build strategy.
    pub place: Word,
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
        namespace: Word,
        /// The stream.
        stream: Word,
        /// The tag.
        tag: Word,
    },
    /// An image in a repository, by digest.
    Image {
        /// The stream's namespace.
        namespace: Word,
        /// The stream.
        stream: Word,
        /// The image's name.
        digest: Id,
    },
    /// An image by digest alone.
    Digest(Id),
    /// A string that does not parse.
    Invalid(Box<InvalidTarget>),
    /// A `from` of a kind that nobody knows: ignored, with a warning.
    UnknownKind(Word),
}

/// A string that does not parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidTarget {
    /// What it should have been: `image`, `ImageStreamTag`, `ImageStreamImage`.
    pub expected: &'static str,
    /// The string.
    pub value: Box<str>,
    /// Why it does not parse, in the reference's words.
    pub error: Box<str>,
    /// What it refers to once the white space around it is gone.
    pub readable: Option<Target>,
}

impl Target {
    /// The same with the ids of another table.
    fn renamed(self, words: &[Word], ids: &[Id]) -> Self {
        let word = |word: Word| words[word.index()];
        match self {
            Self::Tag { namespace, stream, tag } => {
                Self::Tag { namespace: word(namespace), stream: word(stream), tag: word(tag) }
            }
            Self::Image { namespace, stream, digest } => {
                Self::Image { namespace: word(namespace), stream: word(stream), digest: ids[digest.index()] }
            }
            Self::Digest(digest) => Self::Digest(ids[digest.index()]),
            Self::UnknownKind(kind) => Self::UnknownKind(word(kind)),
            Self::Invalid(mut invalid) => {
                invalid.readable = invalid.readable.map(|target| target.renamed(words, ids));
                Self::Invalid(invalid)
            }
        }
    }
}

/// What a reference refers to, as the text of the object has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetText<'a> {
    /// As [`Target::Tag`].
    Tag {
        /// The stream's namespace.
        namespace: &'a str,
        /// The stream.
        stream: &'a str,
        /// The tag.
        tag: &'a str,
    },
    /// As [`Target::Image`].
    Image {
        /// The stream's namespace.
        namespace: &'a str,
        /// The stream.
        stream: &'a str,
        /// The image's name.
        digest: &'a str,
    },
    /// As [`Target::Digest`].
    Digest(&'a str),
    /// As [`Target::Invalid`].
    Invalid {
        /// What it should have been.
        expected: &'static str,
        /// The string.
        value: &'a str,
        /// Why it does not parse.
        error: Cow<'static, str>,
        /// What it refers to once the white space around it is gone.
        readable: Option<Box<Self>>,
    },
    /// As [`Target::UnknownKind`].
    UnknownKind(&'a str),
}

impl<'a> TargetText<'a> {
    /// The target, with an id for each name in it. A digest that is referred to gets one even if nothing has it yet: an
    /// image may appear under it.
    pub fn intern(self, names: &mut Names) -> Target {
        match self {
            Self::Tag { namespace, stream, tag } => Target::Tag {
                namespace: names.words.intern(namespace),
                stream: names.words.intern(stream),
                tag: names.words.intern(tag),
            },
            Self::Image { namespace, stream, digest } => Target::Image {
                namespace: names.words.intern(namespace),
                stream: names.words.intern(stream),
                digest: names.intern(digest),
            },
            Self::Digest(digest) => Target::Digest(names.intern(digest)),
            Self::Invalid { expected, value, error, readable } => Target::Invalid(Box::new(InvalidTarget {
                expected,
                value: value.into(),
                error: error.into(),
                readable: readable.map(|target| target.intern(names)),
            })),
            Self::UnknownKind(kind) => Target::UnknownKind(names.words.intern(kind)),
        }
    }

    /// What a pull spec refers to; `None` if it is blank or of another form than `host/namespace/name[:tag][@digest]`.
    #[must_use]
    pub fn of_pull_spec(value: &'a str) -> Option<Self> {
        if value.trim().is_empty() {
            return None;
        }
        match pull_spec::parse(value) {
            Ok(spec) if spec.host.is_empty() || spec.namespace.is_empty() || spec.name.contains('/') => None,
            Ok(spec) if spec.digest.is_empty() => Some(Self::Tag {
                namespace: spec.namespace,
                stream: spec.name,
                tag: if spec.tag.is_empty() { "latest" } else { spec.tag },
            }),
            Ok(spec) => {
                Some(Self::Image { namespace: spec.namespace, stream: spec.name, digest: spec.digest })
            }
            Err(error) => Some(Self::invalid("image", value, error.into(), Self::of_pull_spec)),
        }
    }

    /// What `from` of a build refers to (`ObjectReference`); `None` if it is a blank or foreign pull spec.
    #[must_use]
    pub fn of_build_source(kind: &'a str, namespace: &'a str, name: &'a str) -> Option<Self> {
        let read = |name: &'a str| match kind {
            "ImageStreamTag" => pull_spec::parse_image_stream_tag(name).map(|(stream, tag)| Self::Tag {
                namespace,
                stream,
                tag,
            }),
            _ => pull_spec::parse_image_stream_image(name).map(|(stream, digest)| Self::Image {
                namespace,
                stream,
                digest,
            }),
        };
        match kind {
            "DockerImage" => Self::of_pull_spec(name),
            "ImageStreamTag" | "ImageStreamImage" => {
                let expected = if kind == "ImageStreamTag" { "ImageStreamTag" } else { "ImageStreamImage" };
                Some(read(name).unwrap_or_else(|error| {
                    Self::invalid(expected, name, error.into(), |text| read(text).ok())
                }))
            }
            other => Some(Self::UnknownKind(other)),
        }
    }

    /// What a container's `imageID` refers to: the digest that really runs, in whatever form the runtime gives it.
    #[must_use]
    pub fn of_image_id(value: &'a str) -> Option<Self> {
        let value = value.trim();
        let spec = value.split_once("://").map_or(value, |(_runtime, spec)| spec);
        if let Some(target @ Self::Image { .. }) = Self::of_pull_spec(spec) {
            return Some(target);
        }
        let digest = spec.rsplit_once('@').map_or(spec, |(_, digest)| digest);
        super::is_digest(digest).then_some(Self::Digest(digest))
    }

    fn invalid(
        expected: &'static str,
        value: &'a str,
        error: Cow<'static, str>,
        read: impl Fn(&'a str) -> Option<Self>,
    ) -> Self {
        let trimmed = value.trim();
        let readable = if trimmed.len() == value.len() || trimmed.is_empty() {
            None
        } else {
            read(trimmed).filter(|target| !matches!(target, Self::Invalid { .. })).map(Box::new)
        };
        Self::Invalid { expected, value, error, readable }
    }
}
