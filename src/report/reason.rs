//! Why something stays or goes, in words: one source for every text.

use crate::plan::{ImageVerdict, ItemKeep, ItemRemove, Keep, StreamVerdict, UsedBy};

/// Why an item stays.
pub(super) fn keep_text(rules: Keep, keep: ItemKeep) -> String {
    match keep {
        ItemKeep::Young => "younger than --keep-younger-than".into(),
        ItemKeep::TagReferenced => "the tag is in use".into(),
        ItemKeep::ImageAppeared => "its image was pushed just now".into(),
        ItemKeep::Revision => match rules {
            Keep::Recent { tag_revisions, .. } => format!("within --keep-tag-revisions={tag_revisions}"),
            Keep::WithinSizeLimit => "within --keep-tag-revisions".into(),
        },
        ItemKeep::WithinSizeLimit => "exceeds no limit of its namespace".into(),
        ItemKeep::ImageReferenced => "the image is in use".into(),
        ItemKeep::SubmanifestReferenced => "a sub-manifest of it is in use".into(),
        ItemKeep::Protected => "marked with prune-images/keep".into(),
        ItemKeep::NotPlanned => "the plan that was agreed to does not name it".into(),
    }
}

/// Why an item goes.
pub(super) fn remove_text(rules: Keep, remove: ItemRemove) -> String {
    match (remove, rules) {
        (ItemRemove::ImageMissing, _) => "its Image object does not exist".into(),
        (ItemRemove::Unreferenced, Keep::Recent { tag_revisions, .. }) => {
            format!("beyond --keep-tag-revisions={tag_revisions}, and nothing uses it")
        }
        (ItemRemove::Unreferenced | ItemRemove::OverSizeLimit, _) => {
            "exceeds a limit of its namespace, and nothing uses it".into()
        }
    }
}

/// Why a whole stream stays as it is.
pub(super) fn stream_text(verdict: StreamVerdict) -> &'static str {
    match verdict {
        StreamVerdict::Examined => "looked at item by item",
        StreamVerdict::OtherNamespace => "its stream is not in the namespace that --namespace gives",
        StreamVerdict::NotSelected => "the labels of its stream do not match --selector",
        StreamVerdict::Young => "its stream is younger than --keep-younger-than",
        StreamVerdict::Protected => "its stream or namespace is marked with prune-images/keep",
        StreamVerdict::MetadataAbsent(_) => "its stream lists an image without metadata",
    }
}

/// Why an Image object stays or goes.
pub(super) fn image_text(verdict: ImageVerdict) -> &'static str {
    match verdict {
        ImageVerdict::Delete => "nothing uses it",
        ImageVerdict::KeepStage2Skipped => "no image is deleted by this plan",
        ImageVerdict::KeepUsed(UsedBy::Item { .. }, _) => "an item names it",
        ImageVerdict::KeepUsed(UsedBy::Index(_), _) => "an image index that stays holds it",
        ImageVerdict::KeepNotManaged => "it was not pushed to the integrated registry, and --all=false",
        ImageVerdict::KeepYoung => "younger than --keep-younger-than",
        ImageVerdict::KeepAppeared => "it was pushed just now",
        ImageVerdict::KeepNotPlanned => "the plan that was agreed to does not name it",
        ImageVerdict::KeepReferenced(..) => "its digest is in use",
        ImageVerdict::KeepProtected => "marked with prune-images/keep",
    }
}
