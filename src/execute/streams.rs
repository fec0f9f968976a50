//! Stage 1: the status of a stream, then its manifest links, then its layer links.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value;

use super::{Change, FailedObject, Run, Spared};
use crate::cache::CacheStep;
use crate::cause::io_text;
use crate::cluster::{ApiError, ApiRequest};
use crate::error::Failure;
use crate::inventory::{self, stream_path};
use crate::journal::{Object, planned_stream};
use crate::model::{Id, Stream};
use crate::plan::{Holder, ItemVerdict, StreamDecision, missing_images, needed_in_repository};
use crate::registry::{Deletion, RegistryError};
use crate::throttle::{Order, Turn};

/// How often a stream that keeps changing is decided about anew.
const ATTEMPTS: u32 = 8;
const FIRST_PAUSE: Duration = Duration::from_millis(20);

/// What the update of a stream removed, and which links go now.
#[derive(Debug, Default)]
struct Removed {
    images: BTreeSet<Id>,
    manifest_links: BTreeSet<Id>,
    layer_links: BTreeSet<Id>,
    /// Manifests that an index in the stream holds: the registry may refuse to delete their links.
    held: BTreeSet<Id>,
}

/// How far the update of a stream is.
#[derive(Debug)]
struct Progress {
    /// The stream as it was seen last.
    now: Stream,
    /// The updates that were made, each with the stream that it was decided from.
    made: Vec<(Stream, StreamDecision)>,
    /// An update whose answer was lost, and the stream that it was decided from. It may have been made: then the
    /// next look finds its items gone, and without this memory its links would be left behind for ever.
    unanswered: Option<(Stream, StreamDecision)>,
}

impl Progress {
    fn saw(&mut self, now: Stream) {
        if let Some((before, decision)) = self.unanswered.take()
            && was_made(&before, &decision, &now)
        {
            self.made.push((before, decision));
        }
        self.now = now;
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    Manifest,
    Layer,
}

impl Run<'_> {
    /// Prunes all streams; returns the images whose items went.
    pub(super) async fn streams(&self) -> BTreeSet<Id> {
        let decisions = self.plan.streams.iter().enumerate();
        let changing = decisions.filter(|(_, decision)| decision.removed() > 0);
        let work = futures::stream::iter(changing)
            .then(|(position, decision)| async move { (position, decision, self.api.turn(Order::New).await) })
            .map(|(position, decision, turn)| async move {
                if self.goes_on() { self.stream(position, decision, turn).await } else { BTreeSet::new() }
            });
        let removed = work.buffer_unordered(self.most_open);
        removed
            .fold(BTreeSet::new(), async |mut all, images| {
                all.extend(images);
                all
            })
            .await
    }

    async fn stream(&self, position: usize, planned: &StreamDecision, mut turn: Turn) -> BTreeSet<Id> {
        let stream = &self.inventory.read().await.streams[position].clone();
        let repository = stream.repository();
        let mut progress = Progress { now: stream.clone(), made: Vec::new(), unanswered: None };
        if let Err(failure) = self.update(&mut turn, stream, planned, &mut progress).await {
            let made = progress.made.len();
            if progress.unanswered.is_some()
                && let Ok(Some((_, now))) = self.fetch(&mut turn, stream).await
            {
                progress.saw(now);
            }
            if progress.made.len() == made {
                let Failure { message: cause, hints, .. } = failure;
                let object = repository.clone();
                self.ledger.failed(FailedObject { failed: "update image stream", cause, object, hints });
            }
        }
        let Removed { images, manifest_links, layer_links, held } = self.removed(&progress).await;
        if self.tools.registry.is_some() && !(manifest_links.is_empty() && layer_links.is_empty()) {
            // Before another stream is begun: what its status no longer names, nobody else removes.
            turn = self.registry.turn_after(turn).await;
        }
        let turn = self.links(Some(turn), &repository, &manifest_links, Link::Manifest, &held).await;
        let turn = self.links(turn, &repository, &layer_links, Link::Layer, &held).await;
        drop(turn);
        images
    }

    /// Updates the status; on a conflict the stream is fetched and decided about again.
    async fn update(
        &self,
        turn: &mut Turn,
        stream: &Stream,
        planned: &StreamDecision,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let mut spared = BTreeMap::new();
        let result = self.update_sparing(turn, stream, planned, progress, &mut spared).await;
        for (object, by) in spared {
            self.spare(object, by);
        }
        result
    }

    /// As [`Self::update`]; the items that stay because of who needs them by now are put into `spared`.
    async fn update_sparing(
        &self,
        turn: &mut Turn,
        stream: &Stream,
        planned: &StreamDecision,
        progress: &mut Progress,
        spared: &mut BTreeMap<String, Holder>,
    ) -> Result<(), Failure> {
        let mut last = String::new();
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                let pause = FIRST_PAUSE * 2_u32.pow(attempt - 1);
                turn.wait(pause.mul_f64(0.5 + fastrand::f64())).await;
            }
            let Some((mut object, fresh)) = self.fetch(turn, stream).await? else { return Ok(()) };
            progress.saw(fresh.clone());
            let mut decision = if fresh.resource_version == stream.resource_version {
                planned.clone()
            } else {
                self.decide_anew(&fresh).await?
            };
            if decision.removed() == 0 {
                return Ok(());
            }
            turn.again().await;
            // A stream that was only looked at is not begun.
            if !self.goes_on() {
                return Ok(());
            }
            {
                let inventory = self.inventory.read().await;
                let kept = self.guard(&inventory, |guard| guard.spare(&inventory, &fresh, &mut decision));
                for (tag, image, by) in kept {
                    let image = inventory.names.text(image);
                    spared.insert(format!("{}:{tag}@{image}", fresh.repository()), by);
                }
            }
            if decision.removed() == 0 {
                return Ok(());
            }
            let links = decision.manifest_links.len() + decision.layer_links.len();
            if links > 0 && self.tools.registry.is_none() {
                return Err(Failure::nothing_changed("the registry that holds its links is not known")
                    .hint("name it: --registry-url=https://HOST[:PORT]"));
            }
            let is_new = fresh.resource_version != stream.resource_version;
            self.write_down(&object, &fresh, is_new.then_some(&decision)).await?;
            let after = remove_items(&mut object, &fresh, &decision).map_err(Failure::nothing_changed)?;
            let body =
                serde_json::to_vec(&object).map_err(|error| Failure::nothing_changed(error.to_string()))?;
            let request = ApiRequest::put(format!("{}/status", stream_path(stream)), Bytes::from(body));
            match self.tools.cluster.request_in(turn, request).await {
                Ok(_) => {
                    progress.made.push((fresh, decision));
                    progress.now = after;
                    return Ok(());
                }
                Err(ApiError::NotFound { .. }) => return Ok(()),
                Err(error @ ApiError::Conflict { .. }) => last = error.to_string(),
                Err(error) if error.is_transient() => {
                    last = error.to_string();
                    progress.unanswered = Some((fresh, decision));
                }
                Err(error) => return Err(self.failure(&error)),
            }
        }
        Err(Failure::nothing_changed(format!("{last} (given up after {ATTEMPTS} attempts)")))
    }

    /// Keeps the stream as it is, and what was decided about it anew, before it is updated.
    async fn write_down(
        &self,
        object: &Value,
        stream: &Stream,
        decision: Option<&StreamDecision>,
    ) -> Result<(), Failure> {
        let Some(journal) = self.tools.journal else { return Ok(()) };
        let kept = serde_json::value::to_raw_value(object).map_err(std::io::Error::other);
        let mut kept = kept.and_then(|object| journal.before_update(&Object::Stream(&object)));
        if let Some(decision) = decision {
            let planned = planned_stream(&*self.inventory.read().await, stream, decision);
            kept = kept.and_then(|()| journal.decided(planned));
        }
        kept.map_err(|error| Failure::nothing_changed(format!("write the journal: {}", io_text(&error))))
    }

    /// The stream as it is, whole and reduced; nothing if it is gone.
    pub(super) async fn fetch(
        &self,
        turn: &mut Turn,
        stream: &Stream,
    ) -> Result<Option<(Value, Stream)>, Failure> {
        turn.again().await;
        let answer = self.tools.cluster.request_in(turn, ApiRequest::get(stream_path(stream))).await;
        let body = match answer {
            Ok(response) => response.body,
            Err(ApiError::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failure(&error)),
        };
        let object: Value =
            serde_json::from_slice(&body).map_err(|error| Failure::nothing_changed(error.to_string()))?;
        let fresh = inventory::reduce_stream(&mut *self.inventory.write().await, &body);
        Ok(Some((object, fresh.map_err(Failure::nothing_changed)?)))
    }

    /// The server's own words, with what helps.
    fn failure(&self, error: &ApiError) -> Failure {
        let Failure { exit, hints, .. } = self.tools.cluster.failure(error, "update image stream");
        Failure { exit, message: error.to_string(), hints }
    }

    async fn decide_anew(&self, fresh: &Stream) -> Result<StreamDecision, Failure> {
        let inventory = self.inventory.read().await;
        let missing = missing_images(&inventory, &self.plan.rules, std::slice::from_ref(fresh));
        if missing.is_empty() {
            return Ok(self.plan.decide_stream(&inventory, fresh));
        }
        drop(inventory);
        let mut inventory = self.inventory.write().await;
        inventory::add_appeared(self.tools.cluster, &mut inventory, &missing).await?;
        Ok(self.plan.decide_stream(&inventory, fresh))
    }

    /// Tells of the updates that were made, and says which links go: what the stream names now stays.
    async fn removed(&self, progress: &Progress) -> Removed {
        let mut removed = Removed::default();
        if progress.made.is_empty() {
            return removed;
        }
        let items = progress.made.iter().map(|(_, decision)| decision.removed()).sum();
        self.ledger.changed(Change::Items { repository: progress.now.repository(), items });
        let inventory = self.inventory.read().await;
        let needed = needed_in_repository(&inventory, &progress.now);
        for (before, decision) in &progress.made {
            let gone = decision.items.iter().filter(|item| matches!(item.verdict, ItemVerdict::Remove(_)));
            self.guard(&inventory, |guard| {
                for item in gone.clone() {
                    let tag = before.tags.get(item.tag as usize).filter(|_| item.position == 0);
                    let tag = tag.map(|tag| inventory.names.words.text(tag.name));
                    guard.removed(&progress.now.repository(), item.image, tag);
                }
            });
            removed.images.extend(gone.map(|item| item.image));
            removed.manifest_links.extend(&decision.manifest_links);
            removed.layer_links.extend(&decision.layer_links);
        }
        removed.manifest_links.retain(|link| !needed.manifests.contains(link));
        removed.layer_links.retain(|link| !needed.blobs.contains(link));
        removed.held = needed.submanifests;
        removed
    }

    /// The digest of a link, and who needs the link by now.
    async fn asked_for_link(&self, repository: &str, link: Id, kind: Link) -> (String, Option<Holder>) {
        let inventory = self.inventory.read().await;
        let by = self.guard(&inventory, |guard| match kind {
            Link::Manifest => guard.manifest_link(repository, link).cloned(),
            Link::Layer => guard.layer_link(repository, link).cloned(),
        });
        (inventory.names.text(link).into_owned(), by)
    }

    /// Deletes links; the first one in this turn, which comes back if there is none.
    pub(super) async fn links(
        &self,
        turn: Option<Turn>,
        repository: &str,
        links: &BTreeSet<Id>,
        kind: Link,
        held: &BTreeSet<Id>,
    ) -> Option<Turn> {
        let Some(registry) = self.tools.registry.filter(|_| !links.is_empty()) else { return turn };
        let mut first = turn;
        let links = futures::stream::iter(links).then(|link| {
            let first = first.take();
            async move {
                let turn = match first {
                    Some(turn) => turn,
                    None => self.registry.turn(Order::Begun).await,
                };
                (link, turn)
            }
        });
        // The turns bound what is in flight; the links of one large stream do not wait for each other.
        let deletions = links.map(|(link, mut turn)| async move {
            let held = held.contains(link);
            let (digest, by) = self.asked_for_link(repository, *link, kind).await;
            if let Some(by) = by {
                self.spare(format!("{repository}@{digest}"), by);
                return;
            }
            let result = match kind {
                Link::Manifest => registry.delete_manifest_link(&mut turn, repository, &digest).await,
                Link::Layer => {
                    let first = registry.delete_layer_link(&mut turn, repository, &digest).await;
                    // In front of a Redis that has forgotten the layer, a replica that remembers it answers 404 once,
                    // and the link stays.
                    match first {
                        Ok(Deletion::AlreadyGone) if self.tools.caches.is_some_and(CacheStep::has_redis) => {
                            turn.again().await;
                            registry.delete_layer_link(&mut turn, repository, &digest).await
                        }
                        first => first,
                    }
                }
            };
            match result {
                Ok(_) => {
                    self.registry_answered();
                    if let Some(caches) = self.tools.caches {
                        caches.link_gone(repository, &digest).await;
                    }
                    let repository = repository.to_owned();
                    self.ledger.changed(match kind {
                        Link::Manifest => Change::ManifestLink { repository, digest },
                        Link::Layer => Change::LayerLink { repository, digest },
                    });
                }
                Err(RegistryError::StillListedOrDisabled) if held && kind == Link::Manifest => {
                    let object = format!("{repository}@{digest}");
                    self.ledger.spared(Spared { object, reason: "heldByIndex", by: None });
                }
                Err(error) => {
                    self.registry_failed(&error);
                    self.link_failed(*link);
                    self.ledger.failed(FailedObject {
                        failed: match kind {
                            Link::Manifest => "delete manifest link",
                            Link::Layer => "delete layer link",
                        },
                        cause: error.to_string(),
                        object: format!("{repository}@{digest}"),
                        hints: error.hints(),
                    });
                }
            }
        });
        deletions.buffer_unordered(self.most_open).collect::<()>().await;
        None
    }
}

/// Whether the update that `decision` asked of `before` shows in the stream as it is now: none of its items is left.
fn was_made(before: &Stream, decision: &StreamDecision, now: &Stream) -> bool {
    decision.items.iter().filter(|item| matches!(item.verdict, ItemVerdict::Remove(_))).all(|item| {
        let Some(tag) = before.tags.get(item.tag as usize) else { return false };
        let Some(old) = tag.items.get(item.position as usize) else { return false };
        now.tags.iter().filter(|candidate| candidate.name == tag.name).all(|tag| !tag.items.contains(old))
    })
}

/// Takes the removed items out of the object; tags without items go, too (those with conditions only as well).
/// Returns the stream as it will be.
fn remove_items(object: &mut Value, stream: &Stream, decision: &StreamDecision) -> Result<Stream, String> {
    let changed = || "the image stream's status.tags is not what was decided about".to_owned();
    let tags = object.pointer_mut("/status/tags").and_then(Value::as_array_mut).ok_or_else(changed)?;
    let mut after = stream.clone();
    if tags.len() != after.tags.len() {
        return Err(changed());
    }
    let goes: BTreeSet<(usize, usize)> = decision
        .items
        .iter()
        .filter(|item| matches!(item.verdict, ItemVerdict::Remove(_)))
        .map(|item| (item.tag as usize, item.position as usize))
        .collect();
    for (tag_position, (tag, reduced)) in tags.iter_mut().zip(&mut after.tags).enumerate() {
        let mut positions = 0..;
        reduced
            .items
            .retain(|_| !positions.next().is_some_and(|position| goes.contains(&(tag_position, position))));
        let Some(items) = tag.get_mut("items").and_then(Value::as_array_mut) else { continue };
        let mut positions = 0..;
        items.retain(|_| !positions.next().is_some_and(|position| goes.contains(&(tag_position, position))));
        if items.len() != reduced.items.len() {
            return Err(changed());
        }
    }
    tags.retain(|tag| tag.get("items").and_then(Value::as_array).is_some_and(|items| !items.is_empty()));
    after.tags.retain(|tag| !tag.items.is_empty());
    Ok(after)
}
