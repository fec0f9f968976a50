//! Why what stays stays: images and bytes by reason.

use super::{ImageVerdict, ItemKeep, ItemVerdict, Plan, StreamVerdict, UsedBy, decide::named_blobs};
use crate::model::{IdSet, Inventory};

/// Why an image stays, as people ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// A live object names it, its tag, or an index that holds it.
    InUse,
    /// It, its stream or its namespace carries the protecting label or annotation.
    Protected,
    /// It is within `--keep-tag-revisions`.
    Revision,
    /// It, its item or its stream is younger than `--keep-younger-than`.
    Young,
    /// It exceeds no limit of its namespace.
    WithinSizeLimit,
    /// It was not pushed to the integrated registry, and `--all=false`.
    NotManaged,
    /// The plan is not about it: it is in another namespace, or images are not deleted at all.
    OutOfScope,
    /// Something about it is not known well enough: it appeared meanwhile, or metadata is absent.
    Unclear,
}

impl Reason {
    /// All reasons, those that nothing but a change to the cluster's objects can take away first.
    pub const ALL: [Self; 8] = [
        Self::InUse,
        Self::Protected,
        Self::Revision,
        Self::Young,
        Self::WithinSizeLimit,
        Self::NotManaged,
        Self::OutOfScope,
        Self::Unclear,
    ];
}

/// What stays for one reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stays {
    /// The reason.
    pub reason: Reason,
    /// The images.
    pub images: usize,
    /// The bytes of their blobs, as far as no reason further up holds them already.
    pub bytes: u64,
}

/// Images and bytes that stay, by reason, in the order of [`Reason::ALL`]; reasons without images are left out. Each
/// image and each blob counts once.
///
/// A tag event item stays for the first rule that fits (`docs/decision.md`), so that an image that is young as well as
/// in use counts as young.
#[must_use]
pub fn stays(inventory: &Inventory, plan: &Plan) -> Vec<Stays> {
    let mut of_reason: Vec<Vec<usize>> = vec![Vec::new(); Reason::ALL.len()];
    for position in 0..inventory.images.all().len() {
        if let Some(reason) = reason(inventory, plan, position)
            && let Some(images) = Reason::ALL.iter().position(|known| *known == reason)
        {
            of_reason[images].push(position);
        }
    }
    let mut seen = IdSet::with_names(inventory.names.len());
    let mut all = Vec::new();
    for (reason, images) in Reason::ALL.into_iter().zip(of_reason) {
        let blobs = images.iter().flat_map(|position| named_blobs(inventory, *position));
        let bytes = blobs
            .filter(|blob| inventory.names.is_digest(*blob) && seen.insert(*blob))
            .filter_map(|blob| inventory.images.blob_bytes(blob))
            .sum();
        if !images.is_empty() {
            all.push(Stays { reason, images: images.len(), bytes });
        }
    }
    all
}

/// Why an image stays; nothing if it goes.
fn reason(inventory: &Inventory, plan: &Plan, mut position: usize) -> Option<Reason> {
    // An index can be held by another one, but never by itself: its name is the digest of what it lists.
    for _ in 0..=inventory.images.all().len() {
        return Some(match plan.images.at(position).verdict {
            ImageVerdict::Delete => return None,
            ImageVerdict::KeepStage2Skipped => Reason::OutOfScope,
            ImageVerdict::KeepUsed(UsedBy::Index(index), _) => {
                position = index as usize;
                continue;
            }
            ImageVerdict::KeepUsed(UsedBy::Item { stream, tag }, _) => {
                of_item(inventory, plan, position, stream as usize, tag)
            }
            ImageVerdict::KeepNotManaged => Reason::NotManaged,
            ImageVerdict::KeepYoung => Reason::Young,
            ImageVerdict::KeepAppeared | ImageVerdict::KeepNotPlanned => Reason::Unclear,
            ImageVerdict::KeepReferenced(..) => Reason::InUse,
            ImageVerdict::KeepProtected => Reason::Protected,
        });
    }
    None
}

fn of_item(inventory: &Inventory, plan: &Plan, position: usize, stream: usize, tag: u32) -> Reason {
    let decision = &plan.streams[stream];
    match decision.verdict {
        StreamVerdict::Examined => {}
        StreamVerdict::OtherNamespace | StreamVerdict::NotSelected => return Reason::OutOfScope,
        StreamVerdict::Young => return Reason::Young,
        StreamVerdict::Protected => return Reason::Protected,
        StreamVerdict::MetadataAbsent(_) => return Reason::Unclear,
    }
    let image = inventory.images.all()[position].name;
    let first = decision.items.partition_point(|item| item.tag < tag);
    let of_tag = decision.items[first..].iter().take_while(|item| item.tag == tag);
    let kept = of_tag.into_iter().find_map(|item| match item.verdict {
        ItemVerdict::Keep(keep, _) if item.image == image => Some(keep),
        _ => None,
    });
    match kept {
        Some(ItemKeep::TagReferenced | ItemKeep::ImageReferenced | ItemKeep::SubmanifestReferenced) => {
            Reason::InUse
        }
        Some(ItemKeep::Young) => Reason::Young,
        Some(ItemKeep::Revision) => Reason::Revision,
        Some(ItemKeep::WithinSizeLimit) => Reason::WithinSizeLimit,
        Some(ItemKeep::Protected) => Reason::Protected,
        Some(ItemKeep::ImageAppeared | ItemKeep::NotPlanned) | None => Reason::Unclear,
    }
}
