//! Stage 2: the blobs of an image, its manifest, then the Image object.
//!
//! Each blob stands with the last image, in the order of the plan, that names it. Before such a blob goes, the other
//! images that name it must be gone: these come earlier, so waiting for them cannot lock up. If one of them could not be
//! deleted, the blob stays, for that image still names it. Who waits for others is put aside, and keeps nobody waiting.
//!
//! Otherwise the order is free: what frees most goes first.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::OptionFuture;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::{Change, FailedObject, Run, Spared};
use crate::cluster::{ApiError, ApiRequest};
use crate::inventory::image_path;
use crate::model::{Id, Image, Inventory};
use crate::plan::{ImageDecision, ImageDecisions, ImageVerdict, named_blobs};
use crate::throttle::{Order, Turn};

const NONE: u32 = u32::MAX;

/// Which images wait for which.
struct Schedule {
    /// The images that go (by position), in the order in which they are begun.
    order: Vec<u32>,
    /// With which image (by position) a blob goes, by its id.
    holders: Vec<u32>,
    /// The blobs that several of these images name, and how many do.
    shared: HashMap<Id, u32>,
    /// Blobs with a link that could not be deleted: the registry deletes no link of what is gone.
    linked: BTreeSet<Id>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// How often other images, which are not done yet, name blobs that go with an image; by position.
    open: Vec<u32>,
    /// Blobs that an image names which could not be deleted.
    needed: HashSet<Id>,
    /// Images that wait for others.
    waiting: HashMap<usize, Begun>,
    ready: UnboundedSender<(usize, Begun)>,
}

/// What was done of an image that waits for others.
#[derive(Debug, Clone, Copy)]
struct Begun {
    /// Whether anything was sent.
    any: bool,
    /// Whether every blob that was to go is gone.
    all_gone: bool,
}

impl Schedule {
    #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 images")]
    fn new(
        inventory: &Inventory,
        decisions: &ImageDecisions,
        linked: BTreeSet<Id>,
    ) -> (Self, UnboundedReceiver<(usize, Begun)>) {
        let is_doomed = |position: &usize| decisions.at(*position).verdict == ImageVerdict::Delete;
        let doomed = || (0..decisions.len()).filter(is_doomed);
        let mut holders = vec![NONE; inventory.names.len()];
        for position in doomed() {
            for blob in decisions.at(position).blobs {
                holders[blob.index()] = position as u32;
            }
        }
        let mut open = vec![0; decisions.len()];
        let mut shared = HashMap::new();
        for position in doomed() {
            for blob in named_blobs(inventory, position) {
                let holder = holders[blob.index()];
                if holder != NONE && holder != position as u32 {
                    open[holder as usize] += 1;
                    *shared.entry(blob).or_insert(1) += 1;
                }
            }
        }
        // A blob that several name is freed by all of them together.
        let freed = |position: usize| -> u64 {
            let goes = named_blobs(inventory, position).filter(|blob| holders[blob.index()] != NONE);
            goes.map(|blob| {
                let bytes = inventory.images.blob_bytes(blob).unwrap_or_default();
                bytes / u64::from(shared.get(&blob).copied().unwrap_or(1))
            })
            .sum()
        };
        let mut order: Vec<(u64, u32)> =
            doomed().map(|position| (freed(position), position as u32)).collect();
        order.sort_by_key(|(freed, _)| Reverse(*freed));
        let order = order.into_iter().map(|(_, position)| position).collect();
        let (ready, becomes_ready) = unbounded_channel();
        let state = State { open, needed: HashSet::new(), waiting: HashMap::new(), ready };
        (Self { order, holders, shared, linked, state: Mutex::new(state) }, becomes_ready)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The blobs of an image that may go at once, and those that have to wait, its manifest last; each in the order in
    /// which they go.
    fn blobs(
        &self,
        inventory: &Inventory,
        position: usize,
        decision: ImageDecision<'_>,
    ) -> (Vec<Id>, Vec<Id>) {
        let manifest = inventory.images.all()[position].name;
        let is_alone =
            |blob: &Id| *blob != manifest && !self.shared.contains_key(blob) && !self.linked.contains(blob);
        let (mut alone, mut last): (Vec<Id>, Vec<Id>) =
            decision.blobs.iter().partition(|blob| is_alone(blob));
        let bytes = |blob: &Id| Reverse(inventory.images.blob_bytes(*blob));
        alone.sort_by_key(bytes);
        last.sort_by_key(|blob| (*blob == manifest, bytes(blob)));
        (alone, last)
    }

    /// Puts the image aside until those are done that name its blobs, too; false if there are none.
    fn waits(&self, position: usize, begun: Begun) -> bool {
        let mut state = self.state();
        let waits = state.open[position] > 0;
        if waits {
            state.waiting.insert(position, begun);
        }
        waits
    }

    /// Whether an image that could not be deleted names the blob, or a link does.
    fn is_needed(&self, blob: Id) -> bool {
        self.linked.contains(&blob) || self.state().needed.contains(&blob)
    }

    /// Notes that an image is done.
    fn done(&self, inventory: &Inventory, position: usize, is_gone: bool) {
        let mut state = self.state();
        for blob in named_blobs(inventory, position) {
            let holder = self.holders[blob.index()] as usize;
            if holder == NONE as usize || holder == position {
                continue;
            }
            if !is_gone {
                state.needed.insert(blob);
            }
            state.open[holder] -= 1;
            if state.open[holder] == 0
                && let Some(begun) = state.waiting.remove(&holder)
            {
                // The receiver lives as long as there are images.
                let _ = state.ready.send((holder, begun));
            }
        }
    }
}

/// An image to go on with.
enum Entry {
    /// From the beginning, with the turn for its first request.
    First(Turn),
    /// After those that it waited for.
    Again(Begun),
}

impl Run<'_> {
    /// Deletes the images that the decisions name, with their blobs.
    pub(super) async fn images(&self, inventory: &Inventory, decisions: &ImageDecisions) {
        let (schedule, mut ready) = Schedule::new(inventory, decisions, self.linked());
        let image = |position, entry| {
            let decision = decisions.at(position);
            self.image(inventory, &schedule, position, decision, entry)
        };
        let mut order = schedule.order.iter().map(|position| *position as usize).peekable();
        let mut open = FuturesUnordered::new();
        // What is begun next, once there is a turn.
        let mut next = None;
        loop {
            while open.len() < self.most_open
                && let Ok((position, begun)) = ready.try_recv()
            {
                open.push(image(position, Entry::Again(begun)));
            }
            if next.is_none()
                && open.len() < self.most_open
                && let Some(position) = order.next()
            {
                let server = self.first_server(decisions.at(position));
                next = Some(Box::pin(async move { (position, server.turn(Order::New).await) }));
            }
            if next.is_none() && open.is_empty() {
                break;
            }
            tokio::select! {
                Some((position, turn)) = OptionFuture::from(next.as_mut()) => {
                    next = None;
                    if self.goes_on() {
                        open.push(image(position, Entry::First(turn)));
                    } else {
                        // What was not begun is not gone: what it names stays.
                        for position in std::iter::once(position).chain(order.by_ref()) {
                            schedule.done(inventory, position, false);
                        }
                    }
                }
                Some(()) = open.next() => {}
            }
        }
    }

    /// The server that an image's first request goes to.
    fn first_server(&self, decision: ImageDecision<'_>) -> &crate::throttle::Throttle {
        if self.tools.registry.is_some() && !decision.blobs.is_empty() { &self.registry } else { &self.api }
    }

    /// Deletes an image, or as much of it as can be by now.
    async fn image(
        &self,
        inventory: &Inventory,
        schedule: &Schedule,
        position: usize,
        decision: ImageDecision<'_>,
        entry: Entry,
    ) {
        let image = &inventory.images.all()[position];
        if let Some(by) = self.guard(inventory, |guard| guard.image(image.name).cloned()) {
            self.spare(inventory.names.text(image.name).into_owned(), by);
            schedule.done(inventory, position, false);
            return;
        }
        let (alone, last) = schedule.blobs(inventory, position, decision);
        let (mut turn, mut all_gone) = match entry {
            Entry::First(mut turn) => {
                let mut all_gone = true;
                for blob in &alone {
                    all_gone &= self.blob(&mut turn, inventory, *blob).await;
                }
                if schedule.waits(position, Begun { any: !alone.is_empty(), all_gone }) {
                    return;
                }
                (turn, all_gone)
            }
            Entry::Again(Begun { any, all_gone }) => {
                let turn = self.first_server(decision).turn(Order::Begun).await;
                if !any && !self.goes_on() {
                    schedule.done(inventory, position, false);
                    return;
                }
                (turn, all_gone)
            }
        };
        for blob in last {
            if schedule.is_needed(blob) {
                let object = inventory.names.text(blob).into_owned();
                match self.guard(inventory, |guard| guard.blob(blob).cloned()) {
                    Some(by) => self.spare(object, by),
                    None => self.failed_removal(object),
                }
            } else {
                all_gone &= self.blob(&mut turn, inventory, blob).await;
            }
        }
        let name = inventory.names.text(image.name).into_owned();
        let is_gone = if all_gone {
            if self.tools.registry.is_some() && !decision.blobs.is_empty() {
                turn = self.api.turn_after(turn).await;
            }
            self.image_object(&mut turn, inventory, image, name).await
        } else {
            // Without its Image object nobody would know of the blob any longer: the next run tries again.
            self.failed_removal(name);
            false
        };
        drop(turn);
        schedule.done(inventory, position, is_gone);
    }

    fn failed_removal(&self, object: String) {
        self.ledger.spared(Spared { object, reason: "failedRemoval", by: None });
    }

    /// Whether the blob is gone, or stays because another image needs it by now.
    pub(super) async fn blob(&self, turn: &mut Turn, inventory: &Inventory, blob: Id) -> bool {
        // Without a registry nothing is gone from one, unless it was to be left alone.
        let Some(registry) = self.tools.registry else { return !self.plan.rules.prune_registry };
        let digest = inventory.names.text(blob).into_owned();
        turn.again().await;
        if let Some(by) = self.guard(inventory, |guard| guard.blob(blob).cloned()) {
            self.spare(digest, by);
            return true;
        }
        match registry.delete_blob(turn, &digest).await {
            Ok(_) => {
                let bytes = inventory.images.blob_bytes(blob);
                self.registry_answered();
                let repositories = self.tools.repositories.of_blob(blob);
                if let Some(caches) = self.tools.caches {
                    caches.blob_gone(&digest, &repositories).await;
                }
                let repositories = repositories.into_iter().map(str::to_owned).collect();
                self.ledger.changed(Change::Blob { digest, bytes, repositories });
                true
            }
            Err(error) => {
                self.registry_failed(&error);
                let (cause, hints) = (error.to_string(), error.hints());
                self.ledger.failed(FailedObject { failed: "delete blob", cause, object: digest, hints });
                false
            }
        }
    }

    /// Whether the Image object is gone.
    async fn image_object(
        &self,
        turn: &mut Turn,
        inventory: &Inventory,
        image: &Image,
        name: String,
    ) -> bool {
        if let Some(by) = self.guard(inventory, |guard| guard.image(image.name).cloned()) {
            self.spare(name, by);
            return false;
        }
        // The precondition keeps an image that was deleted and pushed again meanwhile.
        let options = serde_json::json!({
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "gracePeriodSeconds": 0,
            "preconditions": image.uid.map(|uid| serde_json::json!({ "uid": uid.to_string() })),
        });
        let request = ApiRequest::delete(image_path(&name), Bytes::from(options.to_string()));
        match self.tools.cluster.request_in(turn, request).await {
            Ok(_) => {
                self.ledger.changed(Change::Image { name });
                true
            }
            Err(ApiError::NotFound { .. }) => true,
            Err(error) => {
                let hints = self.tools.cluster.failure(&error, "delete image").hints;
                let cause = error.to_string();
                self.ledger.failed(FailedObject { failed: "delete image", cause, object: name, hints });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::{Keep, Rules, decide};

    fn digest(number: usize) -> String {
        format!("sha256:{number:064x}")
    }

    proptest! {
        /// Images, by the layers that they name; some cannot be deleted. They are begun and go on in any order.
        #[test]
        fn a_blob_goes_once_and_only_after_all_others_that_name_it(
            layers in proptest::collection::vec(proptest::collection::btree_set(0_usize..8, 0..5), 1..10),
            fails in any::<[bool; 10]>(),
            choices in proptest::collection::vec(any::<bool>(), 100),
        ) {
            let mut inventory = Inventory::default();
            for (number, layers) in layers.iter().enumerate() {
                let image = Image::named(inventory.names.intern(&digest(100 + number)));
                let layers: Vec<Id> = layers.iter().map(|layer| inventory.names.intern(&digest(*layer))).collect();
                inventory.images.push(image, &layers, &[]);
            }
            let keep = Keep::Recent { tag_revisions: 1, cutoff: i128::MAX };
            let rules = Rules { keep, all: true, namespace: None, prune_registry: true };
            let decisions = decide(&inventory, &rules).images;
            let (schedule, mut ready) = Schedule::new(&inventory, &decisions, BTreeSet::new());
            let mut order: Vec<usize> = schedule.order.iter().map(|position| *position as usize).collect();
            prop_assert_eq!(order.len(), layers.len());

            let (mut deleted, mut done) = (Vec::new(), vec![None; layers.len()]);
            let mut open: Vec<(usize, Option<Begun>)> = Vec::new();
            let mut choices = choices.into_iter().cycle();
            while done.contains(&None) {
                if choices.next() == Some(true) && !order.is_empty() {
                    open.push((order.remove(0), None));
                }
                while let Ok((position, begun)) = ready.try_recv() {
                    open.push((position, Some(begun)));
                }
                prop_assert!(!open.is_empty() || !order.is_empty(), "all wait for each other");
                if open.is_empty() || choices.next() == Some(true) {
                    continue;
                }
                let next = if choices.next() == Some(true) { 0 } else { open.len() - 1 };
                let (position, begun) = open.remove(next);
                let (alone, last) = schedule.blobs(&inventory, position, decisions.at(position));
                if begun.is_none() {
                    deleted.extend(alone);
                    if schedule.waits(position, Begun { any: true, all_gone: true }) {
                        continue;
                    }
                }
                for blob in last {
                    let others = (0..layers.len())
                        .filter(|other| *other != position && named_blobs(&inventory, *other).any(|named| named == blob));
                    let all_gone = others.map(|other| done[other]).all(|done| done == Some(true));
                    prop_assert_eq!(schedule.is_needed(blob), !all_gone);
                    if all_gone {
                        deleted.push(blob);
                    }
                }
                done[position] = Some(!fails[position]);
                schedule.done(&inventory, position, !fails[position]);
            }
            let names = (0..8).chain(100..100 + layers.len());
            for blob in names.filter_map(|number| inventory.names.find(&digest(number))) {
                let naming = (0..layers.len())
                    .filter(|position| named_blobs(&inventory, *position).any(|named| named == blob))
                    .collect::<Vec<_>>();
                let holder = naming.iter().max();
                let goes = naming.iter().all(|position| Some(position) == holder || !fails[*position]);
                prop_assert_eq!(deleted.iter().filter(|gone| **gone == blob).count(), usize::from(goes));
            }
        }
    }
}
