//! Asks the registry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use futures::StreamExt as _;

use super::outcome::{BrokenPart, PartKind, Problem, Verification, VerifiedBroken};
use super::select::{Check, Part};
use crate::cluster::{ApiRequest, Cluster};
use crate::inventory::image_path;
use crate::model::{Id, Inventory, Stream};
use crate::plan::{References, Use};
use crate::registry::{Presence, Registry};
use crate::report::document::referrer_entries;

/// How many questions are on their way at once.
const AT_ONCE: usize = 16;

/// After so many questions in a row without an answer nothing more is asked.
const UNANSWERED: usize = 8;

/// How many answers that settle nothing are repeated in a report.
const SHOWN: usize = 5;

/// What is asked, and where: the position of the stream, and the part.
type Question = (usize, Part);

/// Asks for every part of these images, of which `candidates` would be to ask for. `goes_on` says whether the next
/// question may still be asked.
pub async fn verify(
    cluster: &Cluster,
    registry: &Registry,
    inventory: &Inventory,
    references: &References,
    checks: &[Check],
    candidates: usize,
    goes_on: &(dyn Fn() -> bool + Sync),
) -> Verification {
    let questions: BTreeSet<Question> =
        checks.iter().flat_map(|check| check.parts.iter().map(|part| (check.stream, *part))).collect();
    let answers = Answers::default();
    let asked = futures::stream::iter(&questions).map(|question| async {
        let (stream, part) = question;
        let stream = &inventory.streams[*stream];
        if !goes_on() || answers.is_closed(&stream.namespace) {
            return (*question, None);
        }
        let presence = ask(registry, inventory, &stream.repository(), *part).await;
        answers.heard(&stream.namespace, &presence);
        (*question, Some(presence))
    });
    let asked: Vec<(Question, Option<Presence>)> = asked.buffer_unordered(AT_ONCE).collect().await;
    let is_there = |presence: &Option<Presence>| *presence == Some(Presence::There);
    let there: BTreeSet<Id> =
        asked.iter().filter(|(_, presence)| is_there(presence)).map(|((_, part), _)| part.digest).collect();
    let mut found = Verification {
        images: checks.len(),
        candidates,
        questions: questions.len(),
        ..Verification::default()
    };
    let mut bad: BTreeMap<Question, Option<Presence>> = BTreeMap::new();
    for (question, presence) in asked {
        match &presence {
            Some(Presence::There) => continue,
            Some(Presence::NotAllowed) => found.not_allowed += 1,
            None if answers.forbids(&inventory.streams[question.0].namespace) => found.not_allowed += 1,
            None => found.unknown += 1,
            Some(Presence::Unknown(why)) => {
                found.unknown += 1;
                if found.unknown_answers.len() < SHOWN && !found.unknown_answers.contains(why) {
                    found.unknown_answers.push(why.clone());
                }
            }
            Some(Presence::Absent | Presence::DataMissing | Presence::Truncated { .. }) => {}
        }
        bad.insert(question, presence);
    }
    for check in checks {
        let questions = check.parts.iter().map(|part| (check.stream, *part));
        let answers: Vec<(Part, &Option<Presence>)> =
            questions.filter_map(|question| Some((question.1, bad.get(&question)?))).collect();
        let mut parts: Vec<BrokenPart> = answers
            .iter()
            .filter_map(|(part, presence)| broken_part(inventory, *part, presence.as_ref()?, &there))
            .collect();
        let settled = parts.len() == answers.len();
        drop_foreign(cluster, inventory, check.image, &mut parts).await;
        if !parts.is_empty() {
            found.broken.push(broken(inventory, references, check, parts));
        } else if settled {
            found.whole += 1;
        }
    }
    found
}

/// What the answers so far mean for the next question.
#[derive(Default)]
struct Answers {
    /// Namespaces whose repositories this user may not read.
    forbidden: Mutex<BTreeSet<Box<str>>>,
    /// How many questions in a row got no answer.
    unanswered: AtomicUsize,
}

impl Answers {
    fn forbids(&self, namespace: &str) -> bool {
        self.forbidden.lock().unwrap_or_else(PoisonError::into_inner).contains(namespace)
    }

    fn is_closed(&self, namespace: &str) -> bool {
        self.unanswered.load(Ordering::Relaxed) >= UNANSWERED || self.forbids(namespace)
    }

    fn heard(&self, namespace: &str, presence: &Presence) {
        match presence {
            Presence::NotAllowed => {
                self.forbidden.lock().unwrap_or_else(PoisonError::into_inner).insert(namespace.into());
            }
            Presence::Unknown(_) => {
                self.unanswered.fetch_add(1, Ordering::Relaxed);
                return;
            }
            _ => {}
        }
        self.unanswered.store(0, Ordering::Relaxed);
    }
}

/// Asks; twice before anything counts as broken: a connection can break off where the data would begin, and a replica
/// that is being replaced can answer anything.
async fn ask(registry: &Registry, inventory: &Inventory, repository: &str, part: Part) -> Presence {
    let digest = inventory.names.text(part.digest);
    let once = async || match part.kind {
        PartKind::Manifest => registry.has_manifest(repository, &digest).await,
        PartKind::Config | PartKind::Layer => registry.has_blob(repository, &digest, part.bytes).await,
    };
    match once().await {
        Presence::Absent | Presence::DataMissing | Presence::Truncated { .. } => once().await,
        presence => presence,
    }
}

fn broken_part(
    inventory: &Inventory,
    part: Part,
    presence: &Presence,
    there: &BTreeSet<Id>,
) -> Option<BrokenPart> {
    let (problem, found_bytes) = match presence {
        Presence::Absent if there.contains(&part.digest) => (Problem::MissingLink, None),
        Presence::Absent => (Problem::Missing, None),
        Presence::DataMissing => (Problem::MissingBlob, None),
        Presence::Truncated { found } => (Problem::Truncated, *found),
        Presence::There | Presence::NotAllowed | Presence::Unknown(_) => return None,
    };
    let digest = inventory.names.text(part.digest).into_owned();
    Some(BrokenPart { kind: part.kind, digest, problem, bytes: part.bytes, found_bytes })
}

/// Layers that are served from elsewhere (Windows base layers) are in no registry, and are not missed in one.
async fn drop_foreign(cluster: &Cluster, inventory: &Inventory, image: Id, parts: &mut Vec<BrokenPart>) {
    let is_layer = |part: &BrokenPart| part.kind == PartKind::Layer;
    if !parts.iter().any(is_layer) {
        return;
    }
    let mut foreign = BTreeSet::new();
    for manifest in inventory.images.with_submanifests([image]) {
        let name = inventory.names.text(manifest);
        let Ok(answer) = cluster.request(ApiRequest::get(image_path(&name))).await else { continue };
        let Ok(object) = serde_json::from_slice::<serde_json::Value>(&answer.body) else { continue };
        let layers = object.get("dockerImageLayers").and_then(serde_json::Value::as_array);
        for layer in layers.into_iter().flatten() {
            let field = |name| layer.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
            // `…rootfs.foreign.diff.tar.gzip` (Docker), `…layer.nondistributable.v1.tar` (OCI).
            if field("mediaType").contains("foreign") || field("mediaType").contains("nondistributable") {
                foreign.insert(field("name").to_owned());
            }
        }
    }
    parts.retain(|part| !is_layer(part) || !foreign.contains(&part.digest));
}

fn broken(
    inventory: &Inventory,
    references: &References,
    check: &Check,
    parts: Vec<BrokenPart>,
) -> VerifiedBroken {
    let stream: &Stream = &inventory.streams[check.stream];
    let repository = stream.repository();
    let (mut tags, mut uses): (Vec<String>, Vec<Use>) = (Vec::new(), Vec::new());
    for tag in &stream.tags {
        let Some(position) = tag.items.iter().position(|item| item.image == check.image) else { continue };
        let name = inventory.names.words.text(tag.name);
        tags.push(if position == 0 { name.to_owned() } else { format!("{name}@{position}") });
        if position == 0 {
            uses.extend(references.of_tag(inventory, stream, tag.name));
        }
    }
    for manifest in inventory.images.with_submanifests([check.image]) {
        uses.extend(references.of_image(inventory, stream, manifest));
        uses.extend(references.of_digest(manifest));
    }
    uses.sort_unstable();
    uses.dedup();
    let image = inventory.names.text(check.image).into_owned();
    VerifiedBroken { repository, tags, image, parts, referrers: referrer_entries(inventory, &uses) }
}
