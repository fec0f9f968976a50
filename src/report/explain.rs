//! `Explanation`: why images stay or go, as a document and, made from that, as text.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;

use super::document::{
    API_VERSION, Context, Metadata, Owner, ReferrerEntry, View, image_reason, item_reason,
};
use super::document::{stream_verdict, time};
use super::reason::{image_text, keep_text, remove_text, stream_text};
use crate::model::{Id, Kind, Referrer, Source};
use crate::plan::explain::{
    BlobFate, Change, Explainer, Found, ImageExplanation, Mark, Obstacle, Place, PlaceVerdict, Stuck, Within,
};
use crate::plan::{ItemKeep, ItemVerdict, Keep, Reimport, Use};
use crate::text::{quoted, time_text};

mod text;

pub use text::write_text;

/// Why images stay or go.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `Explanation`.
    pub kind: &'static str,
    /// The cluster, and the rules of the decision.
    pub metadata: Metadata,
    /// One for each target that was found, in the order in which they were given.
    pub explanations: Vec<TargetEntry>,
    /// The targets that were not found.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_found: Vec<NotFoundEntry>,
    /// With `--stuck`: images that no value of `--keep-tag-revisions` above 0 can ever prune.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stuck: Option<StuckEntry>,
    /// What else the administrator should know.
    pub warnings: Vec<String>,
}

/// A target that was found.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetEntry {
    /// As it was typed.
    pub target: String,
    /// The stream that it names, as `namespace/stream`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_stream: Option<String>,
    /// The tag that it names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// The images that are meant; none for a stream without items.
    pub images: Vec<ExplainedImage>,
}

/// A target that was not found.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotFoundEntry {
    /// As it was typed.
    pub target: String,
    /// What there is not.
    pub cause: String,
    /// Targets that could have been meant; of an ambiguous beginning of a digest, all that begin so.
    pub candidates: Vec<String>,
}

/// An image, and everything that holds it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedImage {
    /// Its name: the manifest's digest.
    pub name: String,
    /// `keep` or `delete`; `missing` if there is no such Image object.
    pub decision: &'static str,
    /// The rule that decided, as in a `PrunePlan`; `imageMissing` if there is no such Image object.
    pub reason: &'static str,
    /// The answer in one sentence.
    pub why: String,
    /// When it was created (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Its age in words, and how that compares with the cutoff.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<String>,
    /// Of an image index: the images that it holds, at any depth.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub submanifests: Vec<String>,
    /// Every item that names it, or an index above it.
    pub places: Vec<PlaceEntry>,
    /// Every rule that holds it beside its items, the first one first.
    pub held_by: Vec<ObstacleEntry>,
    /// For an image that goes: each rule that could hold it, and why it does not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<String>,
    /// For an image that stays: what would have to change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_be_pruned: Option<Remedy>,
    /// The bytes that go from the registry's storage if this image goes, and nothing else that stays today.
    pub freed_bytes: u64,
    /// The bytes of its blobs that stay even then, because other images name them.
    pub shared_bytes: u64,
    /// Its blobs, the manifest last.
    pub blobs: Vec<BlobFateEntry>,
}

/// An item, and everything that holds it.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlaceEntry {
    /// `namespace/stream`.
    pub image_stream: String,
    /// The tag.
    pub tag: String,
    /// The position of the item in the tag's history; 0 is the current one.
    pub position: u32,
    /// How many items the tag has.
    pub of: usize,
    /// When the tag began to point at the image (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Its age in words, and how that compares with the cutoff.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<String>,
    /// The index that the item names, if it holds the image because that is one of its sub-manifests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub through: Option<String>,
    /// `keep` or `remove`.
    pub decision: &'static str,
    /// The rule that decided, as in a `PrunePlan`; of a stream that stays as a whole, the stream's verdict.
    pub reason: &'static str,
    /// The same in words.
    pub why: String,
    /// Every rule that holds it, the deciding one first.
    pub held_by: Vec<ObstacleEntry>,
    /// When the server imports again what goes, because `spec.tags` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reimport: Option<Reimport>,
}

/// A rule that holds an item or an image.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObstacleEntry {
    /// Its code, as in a `PrunePlan`.
    pub reason: &'static str,
    /// What it looks at: `stream`, `item` or `image`.
    pub of: &'static str,
    /// The same in words.
    pub why: String,
    /// Everyone whose reference it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerEntry>,
    /// The other images that it is about: sub-manifests, indexes, images without metadata.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Of a rule about age: when it ends by itself (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// What would have to change for an image to be pruned.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Remedy {
    /// Whether anything can make the rules give way.
    pub possible: bool,
    /// All of these would have to change.
    pub all_of: Vec<ChangeEntry>,
    /// Or all of these: with the tags deleted that hold it. Absent where objects refer to one of these tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub or_all_of: Vec<ChangeEntry>,
}

/// One thing that would have to change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChangeEntry {
    /// What it is: `flag`, `wait`, `referrer`, `tag`, `mark`, `image`, `limit`, `again`.
    pub kind: &'static str,
    /// What has to change, in words.
    pub text: String,
    /// The flag with the value that does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flag: Option<String>,
    /// The command that does it; IMAGE stands for another image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
}

/// What becomes of a blob if the image goes.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlobFateEntry {
    /// Its digest.
    pub digest: String,
    /// Its size, where an Image tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// `goes`, `shared` with images that stay, or `left` because no rule deletes it.
    pub fate: &'static str,
    /// How many images that stay name it.
    pub shared_with: usize,
    /// Some of them: where they stand, or their digests.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub for_instance: Vec<String>,
}

/// Images that no value of `--keep-tag-revisions` above 0 can ever prune.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StuckEntry {
    /// How many images there are.
    pub images: usize,
    /// The bytes of all their blobs, each once.
    pub bytes: u64,
    /// The bytes that a prune would free once all `command`s were carried out, beyond what it frees today.
    pub freed_bytes: u64,
    /// The streams that hold them, the one whose `command` frees most first.
    pub image_streams: Vec<StuckStreamEntry>,
}

/// A stream that holds stuck images.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StuckStreamEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How many of its stuck tags have a date in their name.
    pub dated: usize,
    /// The bytes of all blobs of its stuck images, each once.
    pub bytes: u64,
    /// The bytes that a prune would free once this `command` alone was carried out.
    pub freed_bytes: u64,
    /// Deletes all stuck tags but the newest of the stream; absent if there are no others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// The stuck tags, the largest first.
    pub tags: Vec<StuckTagEntry>,
}

/// A tag with one item, which holds its image for good.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StuckTagEntry {
    /// The tag.
    pub tag: String,
    /// The date in its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub date: Option<String>,
    /// When it was made (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The image that it names.
    pub image: String,
    /// The bytes of the image's blobs.
    pub bytes: u64,
    /// Of these, the bytes of blobs that no other image names that stays.
    pub unique_bytes: u64,
    /// Whether `command` deletes it: it is not among the newest tags of its stream.
    pub proposed: bool,
}

/// How many images are named that share a blob.
const SHARERS: usize = 3;

/// Makes the document from a plan.
#[derive(Debug)]
pub struct Reporter<'a> {
    view: View<'a>,
    explainer: Explainer<'a>,
    now: Timestamp,
}

impl<'a> Reporter<'a> {
    /// Looks everything up that explanations need.
    #[must_use]
    pub fn new(view: View<'a>, now: Timestamp) -> Self {
        Self { view, explainer: Explainer::new(view.inventory, view.plan), now }
    }

    /// The document about these targets, as they were typed and what was found; and about what is stuck.
    #[must_use]
    pub fn document(
        &self,
        context: &Context,
        found: Vec<(String, Found)>,
        stuck: Option<&Stuck>,
    ) -> Explanation {
        let mut explanations = Vec::new();
        let mut not_found = Vec::new();
        for (target, found) in found {
            match found {
                Found::Images(images, within) => {
                    explanations.push(self.target(target, &images, within));
                }
                Found::Ambiguous(images) => not_found.push(NotFoundEntry {
                    target,
                    cause: format!("{} images have a digest that begins so", images.len()),
                    candidates: images.iter().map(|image| self.view.text(*image)).collect(),
                }),
                Found::Unknown { cause, nearest } => {
                    not_found.push(NotFoundEntry { target, cause, candidates: nearest });
                }
            }
        }
        Explanation {
            api_version: API_VERSION,
            kind: "Explanation",
            metadata: self.view.metadata(context),
            explanations,
            not_found,
            stuck: stuck.map(|stuck| self.stuck(stuck)),
            warnings: context.warnings.clone(),
        }
    }

    fn target(&self, target: String, images: &[Id], within: Option<Within>) -> TargetEntry {
        let stream = within.map(|within| &self.view.inventory.streams[within.stream]);
        let tag = within.and_then(|within| Some(&stream?.tags[within.tag?].name));
        TargetEntry {
            target,
            image_stream: stream.map(crate::model::Stream::repository),
            tag: tag.map(|tag| self.view.word(*tag).to_owned()),
            images: images.iter().map(|image| self.image(*image)).collect(),
        }
    }

    /// One image.
    #[must_use]
    pub fn image(&self, image: Id) -> ExplainedImage {
        let explained = self.explainer.image(image);
        let blobs = |goes: bool| {
            explained
                .blobs
                .iter()
                .filter(move |blob| if goes { blob.goes } else { !blob.shared_with.is_empty() })
        };
        let created = explained.position.map(|position| self.view.inventory.images.all()[position].created);
        let (decision, reason) = match explained.verdict {
            Some(verdict) => (if explained.stays() { "keep" } else { "delete" }, image_reason(verdict)),
            None => ("missing", "imageMissing"),
        };
        ExplainedImage {
            name: self.view.text(image),
            decision,
            reason,
            why: self.sentence(&explained),
            created: created.and_then(time),
            age: created.and_then(|created| self.age_and_cutoff(created)),
            submanifests: self.submanifests(image),
            places: explained.places.iter().map(|place| self.place(place)).collect(),
            held_by: explained
                .obstacles
                .iter()
                .map(|obstacle| self.obstacle(obstacle, "image", created.unwrap_or(i64::MIN), Some(image)))
                .collect(),
            because: self.because(&explained),
            to_be_pruned: self.is_held(&explained).then(|| self.remedy(&explained)),
            freed_bytes: blobs(true).filter_map(|blob| blob.bytes).sum(),
            shared_bytes: blobs(false).filter_map(|blob| blob.bytes).sum(),
            blobs: explained.blobs.iter().map(|blob| self.blob(blob)).collect(),
        }
    }

    /// Whether it, or an item that names it, stays.
    #[expect(clippy::unused_self, reason = "reads as the others")]
    fn is_held(&self, explained: &ImageExplanation) -> bool {
        explained.stays() || explained.position.is_none() && explained.places.iter().any(Place::stays)
    }

    /// The answer in one sentence.
    fn sentence(&self, explained: &ImageExplanation) -> String {
        let kept: Vec<&Place> = explained.places.iter().filter(|place| place.stays()).collect();
        let by_place = |place: &Place| {
            let through = match place.through {
                Some(index) => format!("image index {}, which holds it", self.view.text(index)),
                None => "it".to_owned(),
            };
            let referrers = match place.obstacles.first() {
                Some(obstacle) => self.some_referrers(&obstacle.uses()),
                None => String::new(),
            };
            let more = match kept.len() - 1 {
                0 => String::new(),
                n => format!("; {n} more item(s) hold it, too"),
            };
            format!("{} names {through}: {}{referrers}{more}", self.place_name(place), self.place_text(place))
        };
        let Some(verdict) = explained.verdict else {
            return match kept.first() {
                Some(place) => format!("has no Image object, and {}", by_place(place)),
                None if explained.places.is_empty() => "has no Image object, and no item names it".into(),
                None => "has no Image object: the items that name it go".into(),
            };
        };
        let verb = if explained.stays() { "stays" } else { "goes" };
        match (verdict, kept.first()) {
            (crate::plan::ImageVerdict::KeepUsed(..), Some(place)) => format!("{verb}: {}", by_place(place)),
            (crate::plan::ImageVerdict::KeepReferenced(..), _) => {
                let uses: Vec<Use> = explained
                    .obstacles
                    .iter()
                    .filter(|obstacle| matches!(obstacle, Obstacle::ReferencedByDigest(_)))
                    .flat_map(Obstacle::uses)
                    .collect();
                format!("{verb}: {}{}", image_text(verdict), self.some_referrers(&uses))
            }
            (crate::plan::ImageVerdict::KeepStage2Skipped, first) => {
                let why = match explained.obstacles.first() {
                    Some(Obstacle::Stage2Namespace) => "with --namespace no image is deleted",
                    Some(Obstacle::Stage2Selector) => "with --selector no image is deleted",
                    _ => "no image is deleted, because one has no metadata",
                };
                let also = first.map(|place| format!("; and {}", by_place(place))).unwrap_or_default();
                format!("{verb}: {why}{also}")
            }
            _ => format!("{verb}: {}", image_text(verdict)),
        }
    }

    /// The first referrers, and how many more.
    fn some_referrers(&self, uses: &[Use]) -> String {
        let names: Vec<String> = self.view.referrers(uses).iter().map(referrer_name).collect();
        let names: Vec<String> = once(names);
        match names.as_slice() {
            [] => String::new(),
            [one] => format!(" by {one}"),
            [one, two] => format!(" by {one} and {two}"),
            [one, rest @ ..] => format!(" by {one} and {} more", rest.len()),
        }
    }

    fn place_name(&self, place: &Place) -> String {
        let stream = &self.view.inventory.streams[place.stream];
        let tag = self.view.word(stream.tags[place.tag].name);
        format!("{}:{tag} at position {} out of {}", stream.repository(), place.position, place.of)
    }

    fn place_text(&self, place: &Place) -> String {
        let rules = self.view.plan.rules.keep;
        match place.verdict {
            PlaceVerdict::StreamStays(verdict) => stream_text(verdict).into(),
            PlaceVerdict::Item(ItemVerdict::Keep(keep, _)) => keep_text(rules, keep),
            PlaceVerdict::Item(ItemVerdict::Remove(remove)) => remove_text(rules, remove),
        }
    }

    fn place(&self, place: &Place) -> PlaceEntry {
        let stream = &self.view.inventory.streams[place.stream];
        let image = stream.tags[place.tag].items[place.position as usize].image;
        let held_by = place.obstacles.iter().map(|obstacle| match obstacle {
            Obstacle::StreamYoung => self.obstacle(obstacle, "stream", stream.created, None),
            Obstacle::OtherNamespace
            | Obstacle::NotSelected
            | Obstacle::StreamProtected(_)
            | Obstacle::StreamMetadataAbsent(_) => self.obstacle(obstacle, "stream", place.created, None),
            other => self.obstacle(other, "item", place.created, Some(image)),
        });
        PlaceEntry {
            image_stream: stream.repository(),
            tag: self.view.word(stream.tags[place.tag].name).to_owned(),
            position: place.position,
            of: place.of,
            created: time(place.created),
            age: self.age_and_cutoff(place.created),
            through: place.through.map(|index| self.view.text(index)),
            decision: if place.stays() { "keep" } else { "remove" },
            reason: match place.verdict {
                PlaceVerdict::StreamStays(verdict) => stream_verdict(verdict),
                PlaceVerdict::Item(verdict) => item_reason(verdict),
            },
            why: self.place_text(place),
            held_by: held_by.collect(),
            reimport: place.reimport,
        }
    }

    fn obstacle(
        &self,
        obstacle: &Obstacle,
        of: &'static str,
        created: i64,
        own: Option<Id>,
    ) -> ObstacleEntry {
        let rules = self.view.plan.rules.keep;
        let item = |keep: ItemKeep| (item_reason(ItemVerdict::Keep(keep, None)), keep_text(rules, keep));
        let (reason, why) = match obstacle {
            Obstacle::OtherNamespace => {
                ("otherNamespace", stream_text(crate::plan::StreamVerdict::OtherNamespace).to_owned())
            }
            Obstacle::NotSelected => {
                ("notSelected", stream_text(crate::plan::StreamVerdict::NotSelected).to_owned())
            }
            Obstacle::StreamYoung => ("young", stream_text(crate::plan::StreamVerdict::Young).to_owned()),
            Obstacle::StreamProtected(_) => {
                ("protected", stream_text(crate::plan::StreamVerdict::Protected).to_owned())
            }
            Obstacle::StreamMetadataAbsent(_) => {
                ("metadataAbsent", stream_text(crate::plan::StreamVerdict::MetadataAbsent(0)).to_owned())
            }
            Obstacle::ItemYoung | Obstacle::ImageYoung => item(ItemKeep::Young),
            Obstacle::TagReferenced(_) => item(ItemKeep::TagReferenced),
            Obstacle::Appeared => item(ItemKeep::ImageAppeared),
            Obstacle::Revision => item(ItemKeep::Revision),
            Obstacle::WithinSizeLimit => item(ItemKeep::WithinSizeLimit),
            Obstacle::ImageReferenced(_) => item(ItemKeep::ImageReferenced),
            Obstacle::SubmanifestReferenced(_) => item(ItemKeep::SubmanifestReferenced),
            Obstacle::ImageProtected(_) => item(ItemKeep::Protected),
            Obstacle::Stage2Namespace => ("stage2Skipped", "with --namespace no image is deleted".into()),
            Obstacle::Stage2Selector => ("stage2Skipped", "with --selector no image is deleted".into()),
            Obstacle::Stage2Metadata(_) => {
                ("stage2Skipped", "no image is deleted while one has no metadata".into())
            }
            Obstacle::ReferencedByDigest(_) => ("referencedByDigest", "its digest is in use".into()),
            Obstacle::NotManaged => {
                ("notManaged", image_text(crate::plan::ImageVerdict::KeepNotManaged).to_owned())
            }
        };
        let is_of_age =
            matches!(obstacle, Obstacle::StreamYoung | Obstacle::ItemYoung | Obstacle::ImageYoung);
        let images: Vec<Id> = match obstacle {
            Obstacle::StreamMetadataAbsent(images)
            | Obstacle::Stage2Metadata(images)
            | Obstacle::ImageProtected(images) => images.clone(),
            Obstacle::SubmanifestReferenced(pairs) | Obstacle::ReferencedByDigest(pairs) => {
                let images: BTreeSet<Id> = pairs.iter().map(|(image, _)| *image).collect();
                images.into_iter().collect()
            }
            _ => Vec::new(),
        };
        ObstacleEntry {
            reason,
            of,
            why,
            referrers: once(self.view.referrers(&obstacle.uses())),
            images: images
                .into_iter()
                .filter(|image| own != Some(*image))
                .map(|image| self.view.text(image))
                .collect(),
            until: if is_of_age { self.older_at(created).map(|time| time.to_string()) } else { None },
        }
    }

    /// When what was created then is older than the cutoff.
    fn older_at(&self, created: i64) -> Option<Timestamp> {
        let Keep::Recent { cutoff, .. } = self.view.plan.rules.keep else { return None };
        let age = self.now.as_nanosecond() - cutoff;
        Timestamp::from_nanosecond(i128::from(created) * 1_000_000_000 + age).ok()
    }

    /// Why each rule that could hold it does not.
    fn because(&self, explained: &ImageExplanation) -> Vec<String> {
        let (Some(position), false) = (explained.position, explained.stays()) else { return Vec::new() };
        let image = &self.view.inventory.images.all()[position];
        let mut because = Vec::new();
        if explained.places.is_empty() {
            because.push("no item of any image stream names it, nor an index that holds it".into());
        }
        for place in &explained.places {
            because.push(format!("{} goes: {}", self.place_name(place), self.place_text(place)));
        }
        because.push("nothing that runs or could run refers to its digest".into());
        if let Keep::Recent { .. } = self.view.plan.rules.keep {
            let age = self.age_and_cutoff(image.created);
            because.push(format!("it is {}", age.as_deref().unwrap_or("older than --keep-younger-than")));
        }
        because.push("it is not marked with prune-images/keep".into());
        if !self.view.plan.rules.all {
            because.push("it was pushed to the integrated registry, so --all=false does not keep it".into());
        }
        because
    }

    /// `3d4h old, older than --keep-younger-than=1h`.
    fn age_and_cutoff(&self, created: i64) -> Option<String> {
        let rules = &self.view.plan.rules;
        time(created)?;
        let age = match u64::try_from(self.now.as_second() - created) {
            Ok(age) => format!("{} old", age_text(age)),
            Err(_) => "created in the future".to_owned(),
        };
        let Keep::Recent { cutoff, .. } = rules.keep else { return Some(age) };
        let younger_than = u64::try_from((self.now.as_nanosecond() - cutoff) / 1_000_000_000).unwrap_or(0);
        let than = if rules.is_young(created) { "younger" } else { "older" };
        Some(format!("{age}, {than} than --keep-younger-than={}", flag_value(younger_than)))
    }

    fn submanifests(&self, image: Id) -> Vec<String> {
        let below = self.view.inventory.images.with_submanifests([image]);
        below.into_iter().filter(|name| *name != image).map(|name| self.view.text(name)).collect()
    }

    fn remedy(&self, explained: &ImageExplanation) -> Remedy {
        let changes = explained.changes(self.view.inventory);
        Remedy {
            possible: changes.is_some(),
            all_of: changes.as_deref().map(|changes| self.changes(changes)).unwrap_or_default(),
            or_all_of: self.with_tags(explained, changes.as_deref()),
        }
    }

    /// The way by deleting tags, where there are any to be deleted and nobody refers to them.
    fn with_tags(&self, explained: &ImageExplanation, first: Option<&[Change]>) -> Vec<ChangeEntry> {
        let mut kept = explained.places.iter().filter(|place| place.stays()).peekable();
        if kept.peek().is_none() || !kept.all(|place| place.deleted_tag().is_some()) {
            return Vec::new();
        }
        let changes = explained.changes_with_tags_deleted(self.view.inventory).unwrap_or_default();
        // It must save something that the first way asks for.
        let is_needless = first.is_some_and(|first| first.iter().all(|change| changes.contains(change)));
        if is_needless { Vec::new() } else { self.changes(&changes) }
    }

    fn changes(&self, changes: &[Change]) -> Vec<ChangeEntry> {
        let mut entries = Vec::new();
        // An object is changed once, however many of its places refer to the image.
        let mut objects: BTreeMap<ObjectName<'_>, Vec<Use>> = BTreeMap::new();
        let mut tags: Vec<(usize, usize)> = Vec::new();
        for change in changes {
            match change {
                Change::Dereference(place) => {
                    let name = self.object_name(place.referrer(self.view.inventory));
                    objects.entry(name).or_default().push(*place);
                }
                Change::DeleteTag { stream, tag } => tags.push((*stream, *tag)),
                other => entries.push(self.change(other)),
            }
        }
        let referrers = objects.iter().map(|(name, uses)| self.dereference(name, uses));
        let mut all: Vec<ChangeEntry> = referrers.collect();
        all.extend(tags.iter().map(|(stream, tag)| self.delete_tag(*stream, *tag)));
        all.append(&mut entries);
        all
    }

    fn delete_tag(&self, stream: usize, tag: usize) -> ChangeEntry {
        let of_stream = &self.view.inventory.streams[stream];
        let name = format!("{}:{}", of_stream.repository(), self.view.word(of_stream.tags[tag].name));
        let items = match of_stream.tags[tag].items.len() {
            1 => "its one item".to_owned(),
            n => format!("its {n} items"),
        };
        ChangeEntry {
            kind: "tag",
            text: format!("delete the tag {name}, with {items}"),
            flag: None,
            command: Some(format!("oc tag -d {}", quoted(&name))),
        }
    }

    fn change(&self, change: &Change) -> ChangeEntry {
        let flag =
            |text: String, flag: String| ChangeEntry { kind: "flag", text, flag: Some(flag), command: None };
        match change {
            Change::NoNamespace => ChangeEntry {
                kind: "flag",
                text: "prune without --namespace: images belong to no namespace".into(),
                flag: None,
                command: None,
            },
            Change::NoSelector => ChangeEntry {
                kind: "flag",
                text: "prune without --selector: images have no labels of streams".into(),
                flag: None,
                command: None,
            },
            Change::All => flag("prune without --all=false".into(), "--all=true".into()),
            Change::KeepTagRevisions(0) => flag(
                "--keep-tag-revisions=0, which removes the current item of every tag in the cluster that nothing uses"
                    .into(),
                "--keep-tag-revisions=0".into(),
            ),
            Change::KeepTagRevisions(number) => flag(
                format!("--keep-tag-revisions={number} or less, for every tag in the cluster"),
                format!("--keep-tag-revisions={number}"),
            ),
            Change::KeepYoungerThan(created) => self.older(*created),
            Change::PlanAgain => ChangeEntry {
                kind: "again",
                text: "run again: it was pushed after the images were read".into(),
                flag: None,
                command: None,
            },
            Change::Unmark(mark) => self.unmark(mark),
            Change::ForgetImage(image) => {
                let name = self.view.text(*image);
                ChangeEntry {
                    kind: "image",
                    text: format!(
                        "image {name} has no metadata, so that nobody knows what it needs: push it again, or delete it"
                    ),
                    flag: None,
                    command: Some(format!("oc delete image {}", quoted(&name))),
                }
            }
            Change::LowerLimit { namespace, below } => ChangeEntry {
                kind: "limit",
                text: format!(
                    "a LimitRange of namespace {namespace} must allow images of less than {below} bytes only \
                     (type openshift.io/Image, max.storage)"
                ),
                flag: None,
                command: Some(format!("oc edit limitrange -n {}", quoted(namespace))),
            },
            Change::Dereference(place) => {
                let name = self.object_name(place.referrer(self.view.inventory));
                self.dereference(&name, &[*place])
            }
            Change::DeleteTag { stream, tag } => self.delete_tag(*stream, *tag),
        }
    }

    fn older(&self, created: i64) -> ChangeEntry {
        let when = self.older_at(created);
        let wait = when.map_or_else(String::new, |when| {
            let left = when.as_second() - self.now.as_second();
            let left = u64::try_from(left.max(1)).map(age_text).unwrap_or_default();
            // Whole seconds are enough, and read better.
            let when = when.round(jiff::Unit::Second).unwrap_or(when);
            format!("it is older than --keep-younger-than at {when}, in {left}")
        });
        match u64::try_from(self.now.as_second() - created) {
            Ok(age) => {
                let age = flag_value(age);
                ChangeEntry {
                    kind: "flag",
                    text: format!("wait: {wait}; or --keep-younger-than={age} or less"),
                    flag: Some(format!("--keep-younger-than={age}")),
                    command: None,
                }
            }
            // Created in the future, as the clock here has it: no value of the flag reaches that far.
            Err(_) => ChangeEntry { kind: "wait", text: format!("wait: {wait}"), flag: None, command: None },
        }
    }

    fn unmark(&self, mark: &Mark) -> ChangeEntry {
        let (what, object, place) = match mark {
            Mark::Image(image) => {
                let name = self.view.text(*image);
                (format!("image {name}"), format!("image {}", quoted(&name)), String::new())
            }
            Mark::Stream { namespace, name } => (
                format!("image stream {namespace}/{name}"),
                format!("imagestream {}", quoted(name)),
                format!(" -n {}", quoted(namespace)),
            ),
            Mark::Namespace(name) => {
                (format!("namespace {name}"), format!("namespace {}", quoted(name)), String::new())
            }
        };
        ChangeEntry {
            kind: "mark",
            text: format!("take the label or annotation prune-images/keep off {what}"),
            flag: None,
            command: Some(format!(
                "oc label {object}{place} prune-images/keep- && oc annotate {object}{place} prune-images/keep-"
            )),
        }
    }

    fn object_name(&self, referrer: &Referrer) -> ObjectName<'_> {
        (referrer.kind.clone(), self.view.word(referrer.namespace), self.view.word(referrer.name))
    }

    /// What becomes of an object so that it does not refer to the image any more.
    fn dereference(&self, (kind, namespace, name): &ObjectName<'_>, uses: &[Use]) -> ChangeEntry {
        let mentions: Vec<_> = uses.iter().map(|place| place.mention(self.view.inventory)).collect();
        let places: Vec<String> = once(
            mentions
                .iter()
                .map(|mention| self.view.word(mention.place).to_owned())
                .filter(|place| !place.is_empty())
                .collect(),
        );
        let shown = if places.is_empty() { String::new() } else { format!(" ({})", places.join(", ")) };
        let object = format!("{}/{namespace}/{name}{shown}", kind.word());
        let scope = if namespace.is_empty() { String::new() } else { format!(" -n {}", quoted(namespace)) };
        let name = quoted(name);
        let delete = || format!("oc delete {} {name}{scope}", kind.word());
        let edit = || format!("oc edit {} {name}{scope}", kind.word());
        // Only containers can be given another image by command.
        let containers: Option<Vec<String>> = places
            .iter()
            .map(|place| {
                let container = place.strip_prefix("init container ").or(place.strip_prefix("container "))?;
                Some(format!("{}=IMAGE", quoted(container)))
            })
            .collect();
        let set_image = || match &containers {
            Some(containers) if !containers.is_empty() => {
                format!("oc set image {}/{name} {}{scope}", kind.word(), containers.join(" "))
            }
            _ => edit(),
        };
        let runs = mentions.iter().all(|mention| mention.source == Source::Running);
        let finished = uses
            .first()
            .is_some_and(|place| place.referrer(self.view.inventory).finished_pod_created.is_some());
        let (what, command) = match kind {
            Kind::Pod if runs => ("runs it: replace the pod", delete()),
            Kind::Pod if finished => {
                ("has ended, and counts until it is older than --keep-younger-than: delete it", delete())
            }
            Kind::Pod => ("uses it: delete it", delete()),
            Kind::ReplicationController | Kind::ReplicaSet => {
                ("would start it, even at 0 replicas: delete it", delete())
            }
            Kind::Deployment | Kind::StatefulSet | Kind::DeploymentConfig => {
                ("would start it, even at 0 replicas: give it another image, or delete it", set_image())
            }
            Kind::DaemonSet | Kind::CronJob => {
                ("would start it: give it another image, or delete it", set_image())
            }
            Kind::ControllerRevision => ("is what a rollback would start: delete it", delete()),
            Kind::Job | Kind::Build => ("names it, even when it is complete: delete it", delete()),
            Kind::BuildConfig => ("builds from it: let it build from another, or delete it", edit()),
            Kind::Other(_) => ("names it: change or delete it", edit()),
        };
        // What is deleted alone comes back as its owner says.
        let entry = self.view.referrers(&uses[..uses.len().min(1)]).pop();
        let then = entry.and_then(|entry| entry.owner).map_or_else(String::new, |owner| {
            let Owner { kind: above, name } = owner;
            match kind {
                Kind::Pod if runs => format!("; {above}/{name} starts another from its template"),
                _ => format!("; it belongs to {above}/{name}: if that makes it again, change that first"),
            }
        });
        ChangeEntry {
            kind: "referrer",
            text: format!("{object} {what}{then}"),
            flag: None,
            command: Some(command),
        }
    }

    fn blob(&self, fate: &BlobFate) -> BlobFateEntry {
        let instance = |position: &usize| match self.explainer.a_place_of(*position) {
            Some((stream, tag)) => {
                let stream = &self.view.inventory.streams[stream];
                format!("{}:{}", stream.repository(), self.view.word(stream.tags[tag].name))
            }
            None => self.view.text(self.view.inventory.images.all()[*position].name),
        };
        BlobFateEntry {
            digest: self.view.text(fate.blob),
            bytes: fate.bytes,
            fate: match (fate.goes, fate.shared_with.is_empty()) {
                (true, _) => "goes",
                (false, false) => "shared",
                (false, true) => "left",
            },
            shared_with: fate.shared_with.len(),
            for_instance: once(fate.shared_with.iter().take(SHARERS).map(instance).collect()),
        }
    }

    fn stuck(&self, stuck: &Stuck) -> StuckEntry {
        let streams = stuck.streams.iter().map(|of_stream| {
            let stream = &self.view.inventory.streams[of_stream.stream];
            let tags = of_stream.images.iter().map(|image| StuckTagEntry {
                tag: self.view.word(stream.tags[image.tag].name).to_owned(),
                date: image.date.map(|date| date.to_string()),
                created: time(image.created),
                image: self.view.text(image.image),
                bytes: image.bytes,
                unique_bytes: image.unique,
                proposed: image.proposed,
            });
            let tags: Vec<StuckTagEntry> = tags.collect();
            let proposed: Vec<String> = tags
                .iter()
                .filter(|tag| tag.proposed)
                .map(|tag| quoted(&format!("{}:{}", stream.name, tag.tag)))
                .collect();
            let command = format!("oc delete istag -n {} {}", quoted(&stream.namespace), proposed.join(" "));
            StuckStreamEntry {
                namespace: stream.namespace.to_string(),
                name: stream.name.to_string(),
                dated: tags.iter().filter(|tag| tag.date.is_some()).count(),
                bytes: of_stream.bytes,
                freed_bytes: of_stream.freed,
                command: (!proposed.is_empty()).then_some(command),
                tags,
            }
        });
        StuckEntry {
            images: stuck.images,
            bytes: stuck.bytes,
            freed_bytes: stuck.freed,
            image_streams: streams.collect(),
        }
    }
}

/// Kind, namespace and name.
type ObjectName<'a> = (Kind, &'a str, &'a str);

/// `pod/shop/user (container app)`.
fn referrer_name(entry: &ReferrerEntry) -> String {
    let ReferrerEntry { kind, namespace, name, place, owner: _ } = entry;
    if place.is_empty() {
        format!("{kind}/{namespace}/{name}")
    } else {
        format!("{kind}/{namespace}/{name} ({place})")
    }
}

/// Each value once, in the order of the first.
fn once<T: PartialEq>(values: Vec<T>) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(values.len());
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}

/// A number of seconds as a flag takes it.
fn flag_value(seconds: u64) -> String {
    if seconds == 0 { "0".to_owned() } else { time_text(Duration::from_secs(seconds)) }
}

/// An age in its two largest units: `3d4h`, `4h12m`, `12s`.
fn age_text(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        (_, _, _) if days < 10 => format!("{days}d{}h", hours % 24),
        _ => format!("{days}d"),
    }
}
