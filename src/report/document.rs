//! `PrunePlan` and `PruneResult`: the versioned documents of `-o json` and `-o yaml` (`docs/output.md`).

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::Serialize;

use crate::cache::{CacheOutcome, CachePlan};
use crate::execute::Outcome;
use crate::model::{Id, IdSet, Inventory, Kind, Names, Referrer, Target, Word};
use crate::plan::{
    Counts, Difference, Differing, DifferingObject, ImageDecision, ImageVerdict, InvalidReference,
    ItemDecision, ItemKeep, ItemRemove, ItemVerdict, Keep, Links, Plan, Reimport, Stage2, StreamVerdict, Use,
    UsedBy, named_blobs,
};
use crate::registry::RegistryAccess;
/// The `apiVersion` of both documents.
pub const API_VERSION: &str = "prune-images/v1alpha1";

/// Everything that would be pruned and everything that stays, with reasons.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrunePlan {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `PrunePlan`.
    pub kind: &'static str,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "flattened: the schema takes the fields' own texts")]
    pub body: PlanBody,
    /// What would be done about the registry's caches.
    pub cache: CachePlan,
}

/// What was pruned, with the plan that it was made from.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PruneResult {
    /// `prune-images/v1alpha1`.
    pub api_version: &'static str,
    /// `PruneResult`.
    pub kind: &'static str,
    #[serde(flatten)]
    #[expect(missing_docs, reason = "flattened: the schema takes the fields' own texts")]
    pub body: PlanBody,
    /// What was done.
    pub result: Outcome,
    /// What was done about the registry's caches.
    pub cache: CacheOutcome,
}

/// What both documents have.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanBody {
    /// The cluster, and the rules of the decision.
    pub metadata: Metadata,
    /// How much is planned.
    pub summary: Counts,
    /// Every image stream that was looked at.
    pub image_streams: Vec<StreamEntry>,
    /// Whether images and blobs are deleted at all: `runs`, `skippedForNamespace`, `skippedForSelector`,
    /// `skippedForMetadata`.
    pub stage2: &'static str,
    /// Every image.
    pub images: Vec<ImageEntry>,
    /// Links and blobs that a run which was cut short has left behind, and no list of the cluster names any longer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leftovers: Option<LeftoverEntries>,
    /// What `oc adm prune images` would delete and this plan keeps.
    pub differences: Vec<DifferenceEntry>,
    /// Items that go and that the server imports again.
    pub reimports: Reimports,
    /// Items whose Image object does not exist, whether they go or stay: somebody deleted it by hand.
    pub missing_images: Vec<MissingEntry>,
    /// References that do not parse.
    pub invalid_references: Vec<InvalidEntry>,
    /// What else the administrator should know.
    pub warnings: Vec<String>,
}

/// The cluster, and the rules of the decision.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "one for each boolean flag")]
pub struct Metadata {
    /// The URL of the API server.
    pub server: String,
    /// The time that ages are counted from (RFC 3339): the earlier of the local clock and the API server's.
    pub now: String,
    /// `--keep-tag-revisions`; absent with `--prune-over-size-limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_tag_revisions: Option<u32>,
    /// `now` minus `--keep-younger-than` (RFC 3339); absent with `--prune-over-size-limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cutoff: Option<String>,
    /// `--prune-over-size-limit`.
    pub prune_over_size_limit: bool,
    /// `--all`.
    pub all: bool,
    /// `--namespace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `--selector`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `--prune-registry`.
    pub prune_registry: bool,
    /// `--ignore-invalid-refs`.
    pub ignore_invalid_refs: bool,
    /// The registry, and by which way it was reached; absent where it was not: in a dry run, and with
    /// `--prune-registry=false`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registry: Option<RegistryAccess>,
}

/// An image stream.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StreamEntry {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `examined`, or why nothing in it changes: `otherNamespace`, `notSelected`, `young`, `protected`, `metadataAbsent`.
    pub verdict: &'static str,
    /// Its tag event items.
    pub items: Vec<ItemEntry>,
    /// The digests of the manifest links that go.
    pub manifest_links: Vec<String>,
    /// The digests of the layer links that go.
    pub layer_links: Vec<String>,
    /// The bytes of those blobs of its removed items that the plan deletes; a blob that several streams lose
    /// counts for each of them here, and once in `summary.bytes`.
    pub bytes: u64,
}

/// A tag event item.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ItemEntry {
    /// The tag.
    pub tag: String,
    /// Its position in the tag's history; 0 is the current one.
    pub position: u32,
    /// The image that it names.
    pub image: String,
    /// When the tag began to point at the image (RFC 3339); absent if the item does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// `keep` or `remove`.
    pub decision: &'static str,
    /// The rule that decided: see `docs/decision.md`.
    pub reason: &'static str,
    /// When the server imports it again, because `spec.tags` asks for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reimport: Option<Reimport>,
    /// Who refers to it, where a referrer decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerEntry>,
}

/// A reference that decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReferrerEntry {
    /// `pod`, `replicationcontroller`, ….
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where in it the reference stands, for instance `container app`; empty for a build strategy.
    pub place: String,
    /// Which object controls it: for a pod the `Deployment`, `Job`, … at the top, as far as these refer to images
    /// themselves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
}

/// The object that controls another one of its namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Owner {
    /// `deployment`, `cronjob`, ….
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// How much comes back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reimports {
    /// Items, at most one of each tag.
    pub items: usize,
    /// The bytes of those blobs of their images that the plan deletes: they fill up again as these images are pulled.
    pub bytes: u64,
}

/// An item whose Image object does not exist.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MissingEntry {
    /// The stream's namespace.
    pub namespace: String,
    /// The stream.
    pub name: String,
    /// The tag.
    pub tag: String,
    /// The item's position in the tag's history.
    pub position: u32,
    /// The image that it names.
    pub image: String,
    /// `keep` or `remove`.
    pub decision: &'static str,
    /// The rule that decided, or the verdict about the stream.
    pub reason: &'static str,
    /// Who refers to it, and so to an image that cannot be pulled.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerEntry>,
}

/// An image.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageEntry {
    /// Its name: the manifest's digest.
    pub name: String,
    /// `keep` or `delete`.
    pub decision: &'static str,
    /// The rule that decided: see `docs/decision.md`.
    pub reason: &'static str,
    /// What names it: `namespace/stream:tag`, or the digest of an index.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// Who refers to it, where a referrer decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerEntry>,
    /// The blobs that go with it: each blob stands with the last image that names it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<BlobEntry>,
    /// The bytes of these blobs.
    pub bytes: u64,
}

/// A blob that goes.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlobEntry {
    /// Its digest.
    pub digest: String,
    /// Its size, where an Image tells it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// What a run that was cut short has left behind.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeftoverEntries {
    /// Manifest links: `namespace/stream@digest`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub manifest_links: Vec<String>,
    /// Layer links: `namespace/stream@digest`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layer_links: Vec<String>,
    /// Blobs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<BlobEntry>,
}

/// What `oc adm prune images` would delete and this plan keeps.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DifferenceEntry {
    /// `item`, `manifestLink`, `layerLink`, `image`, `blob`.
    pub kind: &'static str,
    /// `namespace/stream:tag@position`, `namespace/stream@digest`, or a digest.
    pub object: String,
    /// Why it stays.
    pub reason: Difference,
    /// Who refers to it, where a referrer decided.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub referrers: Vec<ReferrerEntry>,
}

/// A reference that does not parse.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InvalidEntry {
    /// Where it stands.
    #[serde(flatten)]
    pub referrer: ReferrerEntry,
    /// What stands there.
    pub value: String,
    /// What it refers to once the white space around it is gone, and so protects: `namespace/stream:tag`,
    /// `namespace/stream@digest`. Absent if it protects nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protects: Option<String>,
    /// The reference implementation's line about it.
    pub message: String,
}

/// A time in seconds as RFC 3339; `None` for Go's zero time.
pub(super) fn time(seconds: i64) -> Option<String> {
    jiff::Timestamp::from_second(seconds).ok().filter(|_| seconds != i64::MIN).map(|time| time.to_string())
}

/// What a reference refers to.
fn target_text(names: &Names, target: &Target) -> Option<String> {
    let word = |word: &Word| names.words.text(*word);
    match target {
        Target::Tag { namespace, stream, tag } => {
            Some(format!("{}/{}:{}", word(namespace), word(stream), word(tag)))
        }
        Target::Image { namespace, stream, digest } => {
            Some(format!("{}/{}@{}", word(namespace), word(stream), names.text(*digest)))
        }
        Target::Digest(digest) => Some(names.text(*digest).into_owned()),
        Target::Invalid(_) | Target::UnknownKind(_) => None,
    }
}

/// The reason code of an item.
#[must_use]
pub fn item_reason(verdict: ItemVerdict) -> &'static str {
    match verdict {
        ItemVerdict::Keep(keep, _) => match keep {
            ItemKeep::Young => "young",
            ItemKeep::TagReferenced => "tagReferenced",
            ItemKeep::ImageAppeared => "imageAppeared",
            ItemKeep::Revision => "keepTagRevisions",
            ItemKeep::WithinSizeLimit => "withinSizeLimit",
            ItemKeep::ImageReferenced => "imageReferenced",
            ItemKeep::SubmanifestReferenced => "submanifestReferenced",
            ItemKeep::Protected => "protected",
            ItemKeep::NotPlanned => "notPlanned",
        },
        ItemVerdict::Remove(remove) => match remove {
            ItemRemove::ImageMissing => "imageMissing",
            ItemRemove::Unreferenced => "unreferenced",
            ItemRemove::OverSizeLimit => "overSizeLimit",
        },
    }
}

/// The reason code of an image.
#[must_use]
pub fn image_reason(verdict: ImageVerdict) -> &'static str {
    match verdict {
        ImageVerdict::Delete => "unused",
        ImageVerdict::KeepStage2Skipped => "stage2Skipped",
        ImageVerdict::KeepUsed(UsedBy::Item { .. }, _) => "usedByItem",
        ImageVerdict::KeepUsed(UsedBy::Index(_), _) => "usedByIndex",
        ImageVerdict::KeepNotManaged => "notManaged",
        ImageVerdict::KeepYoung => "young",
        ImageVerdict::KeepAppeared => "imageAppeared",
        ImageVerdict::KeepNotPlanned => "notPlanned",
        ImageVerdict::KeepReferenced(..) => "referencedByDigest",
        ImageVerdict::KeepProtected => "protected",
    }
}

/// The code of a stream's verdict.
#[must_use]
pub fn stream_verdict(verdict: StreamVerdict) -> &'static str {
    match verdict {
        StreamVerdict::Examined => "examined",
        StreamVerdict::OtherNamespace => "otherNamespace",
        StreamVerdict::NotSelected => "notSelected",
        StreamVerdict::Young => "young",
        StreamVerdict::Protected => "protected",
        StreamVerdict::MetadataAbsent(_) => "metadataAbsent",
    }
}

/// References of an inventory as entries.
#[must_use]
pub fn referrer_entries(inventory: &Inventory, uses: &[Use]) -> Vec<ReferrerEntry> {
    let word = |word| inventory.names.words.text(word).to_owned();
    let entry = |place: &Use| {
        let (referrer, mention) = (place.referrer(inventory), place.mention(inventory));
        ReferrerEntry {
            kind: referrer.kind.word().to_owned(),
            namespace: word(referrer.namespace),
            name: word(referrer.name),
            place: word(mention.place),
            owner: owner(inventory, referrer),
        }
    };
    uses.iter().map(entry).collect()
}

/// What controls the object, at the top of the chain.
fn owner(inventory: &Inventory, referrer: &Referrer) -> Option<Owner> {
    let word = |word| inventory.names.words.text(word);
    let (mut kind, mut name) = word(referrer.owner?).split_once('/')?;
    // A pod's replica set has a deployment above it, and nothing goes on for ever.
    for _ in 0..4 {
        let Some(known) = Kind::of_api(kind) else { break };
        let all = &inventory.referrers;
        let found = all.find(&inventory.names, &known, word(referrer.namespace), name);
        let Some(above) = found.and_then(|position| all.all()[position].owner) else { break };
        (kind, name) = word(above).split_once('/')?;
    }
    Some(Owner { kind: kind.to_lowercase(), name: name.to_owned() })
}

/// Reads a plan for people and programs: names instead of ids.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What the plan was made from.
    pub inventory: &'a Inventory,
    /// The plan.
    pub plan: &'a Plan,
}

impl<'a> View<'a> {
    /// A name as text.
    #[must_use]
    pub fn text(&self, id: Id) -> String {
        self.inventory.names.text(id).into_owned()
    }

    /// A word as text.
    #[must_use]
    pub fn word(&self, word: Word) -> &'a str {
        self.inventory.names.words.text(word)
    }

    /// References as entries.
    #[must_use]
    pub fn referrers(&self, uses: &[Use]) -> Vec<ReferrerEntry> {
        referrer_entries(self.inventory, uses)
    }

    /// Items that go and that the server imports again, by the positions of their streams.
    pub fn reimports(&self) -> impl Iterator<Item = (usize, &'a ItemDecision, Reimport)> {
        let streams = self.inventory.streams.iter().zip(&self.plan.streams).enumerate();
        streams.flat_map(|(position, (stream, decision))| {
            let items = decision.items.iter();
            items.filter_map(move |item| Some((position, item, decision.reimport(stream, item)?)))
        })
    }

    /// How much comes back.
    #[must_use]
    pub fn reimport_counts(&self) -> Reimports {
        let images: Vec<Id> = self.reimports().map(|(_, item, _)| item.image).collect();
        if images.is_empty() {
            return Reimports::default();
        }
        Reimports { items: images.len(), bytes: self.bytes_of(images.into_iter(), &self.plan.doomed_blobs()) }
    }

    /// The known bytes of those blobs of these images, their sub-manifests included, that go.
    fn bytes_of(&self, names: impl Iterator<Item = Id>, doomed: &IdSet) -> u64 {
        let images = &self.inventory.images;
        let all = images.with_submanifests(names);
        let there = all.iter().filter_map(|name| images.find(*name));
        let blobs = there.flat_map(|position| named_blobs(self.inventory, position));
        let blobs: BTreeSet<Id> = blobs.filter(|blob| doomed.contains(*blob)).collect();
        blobs.iter().filter_map(|blob| images.blob_bytes(*blob)).sum()
    }

    /// Items of streams in scope whose Image object does not exist, with the verdict about each: that of its stream, if
    /// its items were not looked at.
    #[must_use]
    pub fn missing_images(&self) -> Vec<(MissingEntry, Result<ItemVerdict, StreamVerdict>)> {
        let mut missing = Vec::new();
        let streams = self.inventory.streams.iter().zip(&self.plan.streams);
        for (stream, decision) in streams.filter(|(_, decision)| decision.verdict.is_in_scope()) {
            let mut decisions = decision.items.iter();
            let tags = stream.tags.iter();
            for (tag, position, item) in
                tags.flat_map(|tag| (0..).zip(&tag.items).map(move |(position, item)| (tag, position, item)))
            {
                // One for each item, or none at all.
                let verdict = decisions.next().map_or(Err(decision.verdict), |item| Ok(item.verdict));
                let image = self.text(item.image);
                // An item without a name is of a tag that only refers to an image elsewhere.
                if self.inventory.images.find(item.image).is_some() || image.is_empty() {
                    continue;
                }
                let references = &self.plan.references;
                let mut uses = references.of_image(self.inventory, stream, item.image).to_vec();
                if position == 0 {
                    uses.extend(references.of_tag(self.inventory, stream, tag.name));
                }
                let entry = MissingEntry {
                    namespace: stream.namespace.to_string(),
                    name: stream.name.to_string(),
                    tag: self.word(tag.name).to_owned(),
                    position,
                    image,
                    decision: if matches!(verdict, Ok(ItemVerdict::Remove(_))) { "remove" } else { "keep" },
                    reason: verdict.map_or_else(stream_verdict, item_reason),
                    referrers: self.referrers(&uses),
                };
                missing.push((entry, verdict));
            }
        }
        missing
    }

    /// References that do not parse.
    #[must_use]
    pub fn invalid_references(&self) -> Vec<InvalidEntry> {
        let invalid = self.plan.references.invalid().iter();
        let entry = |invalid: &InvalidReference| {
            let referrer = self.referrers(&[invalid.place()]).pop()?;
            let Target::Invalid(target) = &invalid.place().mention(self.inventory).target else {
                return None;
            };
            let readable = target.readable.as_ref();
            Some(InvalidEntry {
                referrer,
                value: target.value.to_string(),
                protects: readable.and_then(|target| target_text(&self.inventory.names, target)),
                message: invalid.describe(self.inventory),
            })
        };
        invalid.filter_map(entry).collect()
    }

    /// Who decided that an item stays.
    #[must_use]
    pub fn item_referrers(&self, stream: usize, item: &ItemDecision) -> &'a [Use] {
        let of_stream = &self.inventory.streams[stream];
        let references = &self.plan.references;
        match item.verdict {
            ItemVerdict::Keep(ItemKeep::TagReferenced, _) => {
                references.of_tag(self.inventory, of_stream, of_stream.tags[item.tag as usize].name)
            }
            ItemVerdict::Keep(ItemKeep::ImageReferenced, _) => {
                references.of_image(self.inventory, of_stream, item.image)
            }
            ItemVerdict::Keep(ItemKeep::SubmanifestReferenced, _) => {
                references.of_submanifest(self.inventory, of_stream, item.image)
            }
            _ => &[],
        }
    }

    /// What names an image: `namespace/stream:tag`, or the digest of an index.
    #[must_use]
    pub fn used_by(&self, verdict: ImageVerdict) -> Option<String> {
        match verdict {
            ImageVerdict::KeepUsed(UsedBy::Item { stream, tag }, _) => {
                let stream = &self.inventory.streams[stream as usize];
                Some(format!("{}:{}", stream.repository(), self.word(stream.tags[tag as usize].name)))
            }
            ImageVerdict::KeepUsed(UsedBy::Index(index), _) => {
                Some(self.text(self.inventory.images.all()[index as usize].name))
            }
            _ => None,
        }
    }

    /// The known bytes of the blobs that go with an image.
    #[must_use]
    pub fn image_bytes(&self, decision: ImageDecision<'_>) -> u64 {
        decision.blobs.iter().filter_map(|blob| self.inventory.images.blob_bytes(*blob)).sum()
    }

    /// The bytes of the blobs of a stream's removed items, their sub-manifests included, that go.
    #[must_use]
    pub fn stream_bytes(&self, stream: usize, doomed: &IdSet) -> u64 {
        let removed = self.plan.streams[stream].items.iter();
        let removed = removed.filter(|item| matches!(item.verdict, ItemVerdict::Remove(_)));
        self.bytes_of(removed.map(|item| item.image), doomed)
    }

    /// Numbers of what goes.
    #[must_use]
    pub fn summary(&self) -> Counts {
        self.plan.counts(self.inventory)
    }

    /// What a run that was cut short has left behind; nothing where there is none.
    #[must_use]
    pub fn leftovers(&self) -> Option<LeftoverEntries> {
        let leftovers = &self.plan.leftovers;
        let links = |of: fn(&Links) -> &BTreeSet<Id>| {
            let all = leftovers.links.iter();
            all.flat_map(|(repository, links)| {
                of(links).iter().map(move |id| format!("{repository}@{}", self.text(*id)))
            })
            .collect()
        };
        let blob =
            |id: &Id| BlobEntry { digest: self.text(*id), bytes: self.inventory.images.blob_bytes(*id) };
        (!leftovers.is_empty()).then(|| LeftoverEntries {
            manifest_links: links(|links| &links.manifests),
            layer_links: links(|links| &links.layers),
            blobs: leftovers.blobs.iter().map(blob).collect(),
        })
    }

    fn stream_entry(&self, position: usize, doomed: &IdSet) -> StreamEntry {
        let stream = &self.inventory.streams[position];
        let decision = &self.plan.streams[position];
        let texts = |ids: &[Id]| ids.iter().map(|id| self.text(*id)).collect();
        let items = decision.items.iter().map(|item| {
            let tag = &stream.tags[item.tag as usize];
            ItemEntry {
                tag: self.word(tag.name).to_owned(),
                position: item.position,
                image: self.text(item.image),
                created: time(tag.items[item.position as usize].created),
                decision: if matches!(item.verdict, ItemVerdict::Remove(_)) { "remove" } else { "keep" },
                reason: item_reason(item.verdict),
                reimport: decision.reimport(stream, item),
                referrers: self.referrers(self.item_referrers(position, item)),
            }
        });
        StreamEntry {
            namespace: stream.namespace.to_string(),
            name: stream.name.to_string(),
            verdict: stream_verdict(decision.verdict),
            items: items.collect(),
            manifest_links: texts(&decision.manifest_links),
            layer_links: texts(&decision.layer_links),
            bytes: self.stream_bytes(position, doomed),
        }
    }

    fn image_entry(&self, position: usize) -> ImageEntry {
        let decision = self.plan.images.at(position);
        let referrers = match decision.verdict {
            ImageVerdict::KeepReferenced(referenced, _) => self.plan.references.of_digest(referenced),
            _ => &[],
        };
        let blob =
            |id: &Id| BlobEntry { digest: self.text(*id), bytes: self.inventory.images.blob_bytes(*id) };
        ImageEntry {
            name: self.text(self.inventory.images.all()[position].name),
            decision: if decision.verdict == ImageVerdict::Delete { "delete" } else { "keep" },
            reason: image_reason(decision.verdict),
            used_by: self.used_by(decision.verdict),
            referrers: self.referrers(referrers),
            blobs: decision.blobs.iter().map(blob).collect(),
            bytes: self.image_bytes(decision),
        }
    }

    fn difference_entries(&self) -> Vec<DifferenceEntry> {
        let repository = |position: u32| self.inventory.streams[position as usize].repository();
        let entry = |differing: Differing<'_>| {
            let (kind, object) = match differing.object {
                DifferingObject::Item(stream, tag, position) => {
                    let tag = self.word(self.inventory.streams[stream as usize].tags[tag as usize].name);
                    ("item", format!("{}:{tag}@{position}", repository(stream)))
                }
                DifferingObject::ManifestLink(stream, id) => {
                    ("manifestLink", format!("{}@{}", repository(stream), self.text(id)))
                }
                DifferingObject::LayerLink(stream, id) => {
                    ("layerLink", format!("{}@{}", repository(stream), self.text(id)))
                }
                DifferingObject::Image(position) => {
                    ("image", self.text(self.inventory.images.all()[position].name))
                }
                DifferingObject::Blob(id) => ("blob", self.text(id)),
            };
            DifferenceEntry {
                kind,
                object,
                reason: differing.reason,
                referrers: self.referrers(differing.referrers),
            }
        };
        self.plan.differences.iter().map(entry).collect()
    }

    /// The cluster, and the rules of the decision.
    #[must_use]
    pub fn metadata(&self, context: &Context) -> Metadata {
        let Context { server, now, ignore_invalid_refs, registry, warnings: _ } = context;
        let rules = &self.plan.rules;
        let (keep_tag_revisions, cutoff) = match rules.keep {
            Keep::Recent { tag_revisions, cutoff } => (
                Some(tag_revisions),
                jiff::Timestamp::from_nanosecond(cutoff).ok().map(|time| time.to_string()),
            ),
            Keep::WithinSizeLimit => (None, None),
        };
        Metadata {
            server: server.clone(),
            now: now.to_string(),
            keep_tag_revisions,
            cutoff,
            prune_over_size_limit: rules.keep == Keep::WithinSizeLimit,
            all: rules.all,
            namespace: rules.namespace.clone(),
            selector: self.inventory.selector.as_ref().map(ToString::to_string),
            prune_registry: rules.prune_registry,
            ignore_invalid_refs: *ignore_invalid_refs,
            registry: registry.clone(),
        }
    }

    /// The plan as a document.
    #[must_use]
    pub fn body(&self, context: &Context) -> PlanBody {
        let doomed = self.plan.doomed_blobs();
        let in_scope = |position: &usize| self.plan.streams[*position].verdict.is_in_scope();
        PlanBody {
            metadata: self.metadata(context),
            summary: self.summary(),
            image_streams: (0..self.plan.streams.len())
                .filter(in_scope)
                .map(|position| self.stream_entry(position, &doomed))
                .collect(),
            stage2: match self.plan.stage2 {
                Stage2::Runs => "runs",
                Stage2::SkippedForNamespace => "skippedForNamespace",
                Stage2::SkippedForSelector => "skippedForSelector",
                Stage2::SkippedForMetadata(_) => "skippedForMetadata",
            },
            images: (0..self.plan.images.len()).map(|position| self.image_entry(position)).collect(),
            leftovers: self.leftovers(),
            differences: self.difference_entries(),
            reimports: self.reimport_counts(),
            missing_images: self.missing_images().into_iter().map(|(entry, _)| entry).collect(),
            invalid_references: self.invalid_references(),
            warnings: context.warnings.clone(),
        }
    }
}

/// What a document says beside the plan.
#[derive(Debug, Clone)]
pub struct Context {
    /// The URL of the API server.
    pub server: String,
    /// The time that ages are counted from.
    pub now: jiff::Timestamp,
    /// `--ignore-invalid-refs`.
    pub ignore_invalid_refs: bool,
    /// The registry that was connected to.
    pub registry: Option<RegistryAccess>,
    /// What else the administrator should know.
    pub warnings: Vec<String>,
}

impl PrunePlan {
    /// The document of a dry run.
    #[must_use]
    pub fn new(body: PlanBody, cache: CachePlan) -> Self {
        Self { api_version: API_VERSION, kind: "PrunePlan", body, cache }
    }
}

impl PruneResult {
    /// The document of a confirmed run.
    #[must_use]
    pub fn new(body: PlanBody, result: Outcome, cache: CacheOutcome) -> Self {
        Self { api_version: API_VERSION, kind: "PruneResult", body, result, cache }
    }
}
