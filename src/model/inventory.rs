//! What was read from the cluster, reduced to the fields that the rules of `docs/decision.md` read.

use std::collections::BTreeMap;

use super::{Id, Images, Names, Quantity, Referrers, Selector, Word};

/// Everything the plan is made from. Times are seconds since the Unix epoch.
#[derive(Debug, Default, Clone)]
pub struct Inventory {
    /// All names of images and blobs, and the words of the other objects.
    pub names: Names,
    /// The Image objects.
    pub images: Images,
    /// The image streams of the whole cluster, sorted by namespace and name.
    pub streams: Vec<Stream>,
    /// Everything that refers to images, sorted by kind, namespace and name.
    pub referrers: Referrers,
    /// The limits of type `openshift.io/Image`, by namespace.
    pub limits: BTreeMap<Box<str>, Vec<LimitRange>>,
    /// Namespaces that carry the protecting label or annotation.
    pub protected_namespaces: Vec<Box<str>>,
    /// `--selector`: what [`Stream::selected`] was found with, also when streams are read again.
    pub selector: Option<Selector>,
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
    pub name: Word,
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

/// A limit of type `openshift.io/Image` with `max.storage`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitRange {
    /// The `LimitRange` object it stands in.
    pub name: Box<str>,
    /// `max.storage`.
    pub max_storage: Quantity,
}
