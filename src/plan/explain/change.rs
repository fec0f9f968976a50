//! What would have to change, and the cluster as it would be then.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Id, Images, Inventory, LimitRange, Quantity};
use crate::plan::{Keep, Rules, Use};

/// What carries the label or annotation `prune-images/keep: "true"`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mark {
    /// An Image.
    Image(Id),
    /// An image stream.
    Stream {
        /// Its namespace.
        namespace: Box<str>,
        /// Its name.
        name: Box<str>,
    },
    /// A namespace.
    Namespace(Box<str>),
}

/// One thing that would have to change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// `--namespace` is not given.
    NoNamespace,
    /// `--selector` is not given.
    NoSelector,
    /// `--all`.
    All,
    /// `--keep-tag-revisions` is this, or less.
    KeepTagRevisions(u32),
    /// `--keep-younger-than` is the age of what was created then (seconds), or less; or it gets that old.
    KeepYoungerThan(i64),
    /// The plan is made again: the image is in the list then.
    PlanAgain,
    /// The object does not refer to it any more.
    Dereference(Use),
    /// The mark is taken off.
    Unmark(Mark),
    /// The Image, which has no metadata, is deleted.
    ForgetImage(Id),
    /// A limit of the namespace is below so many bytes.
    LowerLimit {
        /// The namespace.
        namespace: Box<str>,
        /// The size of the image.
        below: i64,
    },
    /// The tag is deleted, with all its items.
    DeleteTag {
        /// The position of the stream in the inventory.
        stream: usize,
        /// The position of the tag in the stream.
        tag: usize,
    },
}

impl Change {
    /// Whether these changes bring it about.
    pub(super) fn is_part_of(&self, changes: &[Self]) -> bool {
        changes.iter().any(|other| match (self, other) {
            (Self::KeepTagRevisions(number), Self::KeepTagRevisions(other)) => other <= number,
            (Self::KeepYoungerThan(created), Self::KeepYoungerThan(other)) => other >= created,
            (one, other) => one == other,
        })
    }
}

/// Each change once; of values for the same flag, the one that does for all.
pub(super) fn merged(changes: Vec<Change>) -> Vec<Change> {
    let mut all: BTreeSet<Change> = BTreeSet::new();
    let (mut revisions, mut youngest) = (None, None);
    for change in changes {
        match change {
            Change::KeepTagRevisions(number) => revisions = Some(revisions.unwrap_or(number).min(number)),
            Change::KeepYoungerThan(created) => youngest = Some(youngest.unwrap_or(created).max(created)),
            other => {
                all.insert(other);
            }
        }
    }
    all.extend(revisions.map(Change::KeepTagRevisions));
    all.extend(youngest.map(Change::KeepYoungerThan));
    all.into_iter().collect()
}

/// The cluster and the rules as they would be after these changes.
#[must_use]
pub fn apply(inventory: &Inventory, rules: &Rules, changes: &[Change]) -> (Inventory, Rules) {
    let (mut inventory, mut rules) = (inventory.clone(), rules.clone());
    let mut dereferenced = BTreeSet::new();
    let mut deleted: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for change in changes {
        match change {
            Change::NoNamespace => rules.namespace = None,
            Change::NoSelector => {
                inventory.selector = None;
                for stream in &mut inventory.streams {
                    stream.selected = true;
                }
            }
            Change::All => rules.all = true,
            Change::KeepTagRevisions(number) => {
                if let Keep::Recent { tag_revisions, .. } = &mut rules.keep {
                    *tag_revisions = (*tag_revisions).min(*number);
                }
            }
            Change::KeepYoungerThan(created) => {
                if let Keep::Recent { cutoff, .. } = &mut rules.keep {
                    *cutoff = (*cutoff).max(i128::from(*created) * super::super::NANOS);
                }
            }
            Change::PlanAgain => {
                inventory.images = rebuilt(&inventory.images, |image| {
                    image.appeared = false;
                    true
                });
            }
            Change::Dereference(place) => {
                dereferenced.insert(*place);
            }
            Change::Unmark(Mark::Image(name)) => {
                inventory.images = rebuilt(&inventory.images, |image| {
                    image.protected &= image.name != *name;
                    true
                });
            }
            Change::Unmark(Mark::Stream { namespace, name }) => {
                let streams = inventory.streams.iter_mut();
                for stream in streams.filter(|stream| stream.namespace == *namespace && stream.name == *name)
                {
                    stream.protected = false;
                }
            }
            Change::Unmark(Mark::Namespace(name)) => {
                inventory.protected_namespaces.retain(|namespace| namespace != name);
            }
            Change::ForgetImage(name) => {
                inventory.images = rebuilt(&inventory.images, |image| image.name != *name);
            }
            Change::LowerLimit { namespace, below } => {
                if let Some(max_storage) = Quantity::parse(&(below - 1).to_string()) {
                    let limit = LimitRange { name: "lowered".into(), max_storage };
                    inventory.limits.entry(namespace.clone()).or_default().push(limit);
                }
            }
            Change::DeleteTag { stream, tag } => {
                deleted.entry(*stream).or_default().insert(*tag);
            }
        }
    }
    for (stream, tags) in deleted {
        let mut position = 0..;
        inventory.streams[stream]
            .tags
            .retain(|_| position.next().is_none_or(|position| !tags.contains(&position)));
    }
    // From the end, so that the positions of the others stay what they are.
    for place in dereferenced.iter().rev() {
        place.forget(&mut inventory);
    }
    (inventory, rules)
}

/// The images that `keep` says yes to, as it changed them.
fn rebuilt(images: &Images, keep: impl Fn(&mut crate::model::Image) -> bool) -> Images {
    images.filtered(|image| {
        let mut image = image.clone();
        keep(&mut image).then_some(image)
    })
}
