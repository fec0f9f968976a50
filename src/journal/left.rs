//! From a plan to the records of a journal, and from a journal to the plan of what is left. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::format::{LinkKind, Loaded, PlannedItem, PlannedStream, Record};
use crate::model::{Id, Image, Inventory, Item, Stream, Tag, Uuid};
use crate::plan::{
    ImageVerdict, ItemVerdict, Leftovers, Links, Plan, Repositories, Rules, StreamDecision, Unfinished,
    decide_agreed,
};

/// How many records of each kind a plan has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Planned {
    /// Streams that lose items.
    pub streams: usize,
    /// Images that go.
    pub images: usize,
    /// Blobs that go.
    pub blobs: usize,
}

/// Tells the records of a plan, one by one.
///
/// # Errors
/// What `each` answers.
pub fn planned(
    inventory: &Inventory,
    plan: &Plan,
    repositories: &Repositories,
    each: &mut dyn FnMut(&Record) -> io::Result<()>,
) -> io::Result<Planned> {
    let text = |id: Id| inventory.names.text(id).into_owned();
    let mut counts = Planned::default();
    for (stream, decision) in inventory.streams.iter().zip(&plan.streams) {
        if decision.removed() > 0 {
            counts.streams += 1;
            each(&Record::Stream(planned_stream(inventory, stream, decision)))?;
        }
    }
    let blob = |id: Id| Record::Blob {
        digest: text(id),
        bytes: inventory.images.blob_bytes(id),
        repositories: repositories.of_blob(id).into_iter().map(str::to_owned).collect(),
    };
    for (image, decision) in inventory.images.all().iter().zip(&plan.images) {
        if decision.verdict != ImageVerdict::Delete {
            continue;
        }
        counts.images += 1;
        each(&Record::Image {
            name: text(image.name),
            uid: image.uid.map(|uid| format!("{:032x}", uid.bits())),
        })?;
        for id in decision.blobs {
            counts.blobs += 1;
            each(&blob(*id))?;
        }
    }
    Ok(counts)
}

/// A decision about a stream, in names.
#[must_use]
pub fn planned_stream(inventory: &Inventory, stream: &Stream, decision: &StreamDecision) -> PlannedStream {
    let text = |id: &Id| inventory.names.text(*id).into_owned();
    let goes = decision.items.iter().filter(|item| matches!(item.verdict, ItemVerdict::Remove(_)));
    let items = goes.filter_map(|item| {
        let tag = stream.tags.get(item.tag as usize)?;
        let created = tag.items.get(item.position as usize)?.created;
        Some(PlannedItem {
            tag: inventory.names.words.text(tag.name).to_owned(),
            image: text(&item.image),
            created,
        })
    });
    PlannedStream {
        repository: stream.repository(),
        items: items.collect(),
        manifest_links: decision.manifest_links.iter().map(text).collect(),
        layer_links: decision.layer_links.iter().map(text).collect(),
    }
}

/// What is left of a journal's plan, now that the cluster is this: what the rules still let go of what was agreed to, and
/// what nothing names any longer.
#[must_use]
pub fn left(loaded: &Loaded, inventory: &mut Inventory, rules: &Rules) -> Plan {
    let unfinished = unfinished(loaded, inventory);
    let repository = |position: &u32| loaded.repositories.get(*position as usize).map_or("", AsRef::as_ref);
    let items: BTreeMap<&str, BTreeSet<(&str, &str, i64)>> = loaded
        .items
        .iter()
        .map(|(position, items)| {
            let items = items.iter().map(|item| (&*item.tag, &*item.image, item.created));
            (repository(position), items.collect())
        })
        .collect();
    // What an item named that was decided about anew could go, too, though the plan did not name it.
    let of_items: BTreeSet<&str> = items.values().flatten().map(|(_, image, _)| *image).collect();
    let item = |stream: &Stream, tag: &Tag, item: &Item| {
        items.get(&*stream.repository()).is_some_and(|items| {
            let tag = inventory.names.words.text(tag.name);
            items.contains(&(tag, &*inventory.names.text(item.image), item.created))
        })
    };
    let image = |image: &Image| {
        let name = inventory.names.text(image.name);
        let known = loaded.names.find(&name).and_then(|id| loaded.images.get(&id));
        match known {
            Some(known) => known.uid.is_none() || known.uid == image.uid.map(Uuid::bits),
            None => of_items.contains(&*name),
        }
    };
    let mut plan = decide_agreed(inventory, rules, item, image);
    plan.take_up(inventory, unfinished);
    plan
}

/// The links that a journal knows of and does not know to be gone: for a run that is not about its plan.
#[must_use]
pub fn open_links(loaded: &Loaded, inventory: &mut Inventory) -> BTreeMap<Box<str>, Links> {
    unfinished(loaded, inventory).links
}

fn unfinished(loaded: &Loaded, inventory: &mut Inventory) -> Unfinished {
    let repository = |position: u32| loaded.repositories.get(position as usize).cloned().unwrap_or_default();
    let mut unfinished = Unfinished::default();
    for ((position, kind, id), done) in &loaded.links {
        if *done {
            continue;
        }
        let links: &mut Links = unfinished.links.entry(repository(*position)).or_default();
        let id = inventory.names.intern(&loaded.names.text(*id));
        match kind {
            LinkKind::Manifest => links.manifests.insert(id),
            LinkKind::Layer => links.layers.insert(id),
        };
    }
    for (id, blob) in &loaded.blobs {
        let id = inventory.names.intern(&loaded.names.text(*id));
        let repositories = blob.repositories.iter().map(|position| repository(*position)).collect();
        unfinished.repositories.insert(id, repositories);
        if let Some(bytes) = blob.bytes.filter(|_| inventory.images.blob_bytes(id).is_none()) {
            inventory.images.set_blob_bytes(id, i64::try_from(bytes).unwrap_or_default());
        }
        if !blob.done {
            unfinished.blobs.insert(id);
        }
    }
    unfinished
}

/// What another run has, or may have, deleted from the registry: what caches have to forget.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inherited {
    /// Blobs, with the repositories that had them.
    pub blobs: Vec<InheritedBlob>,
    /// Links: repository and digest.
    pub links: Vec<(String, String)>,
}

/// A blob that another run has, or may have, deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InheritedBlob {
    /// The blob.
    pub digest: String,
    /// The repositories that had it.
    pub repositories: BTreeSet<String>,
    /// Whether Redis and every replica have confirmed that they forgot it.
    pub forgotten: bool,
}

impl Inherited {
    /// What a journal tells of. What `plan` deletes is left out: its run makes the caches forget it.
    #[must_use]
    pub fn of(loaded: &Loaded, inventory: &Inventory, plan: &Plan) -> Self {
        let mut goes = plan.doomed_blobs();
        goes.extend(plan.leftovers.blobs.iter().copied());
        let name = |position: u32| loaded.repositories.get(position as usize).map_or("", AsRef::as_ref);
        let text = |id: &Id| loaded.names.text(*id).into_owned();
        let Leftovers { links: left, .. } = &plan.leftovers;
        let is_left = |position: u32, kind: LinkKind, digest: &str| {
            let (Some(links), Some(id)) = (left.get(name(position)), inventory.names.find(digest)) else {
                return false;
            };
            match kind {
                LinkKind::Manifest => links.manifests.contains(&id),
                LinkKind::Layer => links.layers.contains(&id),
            }
        };
        let mut inherited = Self::default();
        for (id, blob) in &loaded.blobs {
            let digest = text(id);
            if inventory.names.find(&digest).is_some_and(|id| goes.contains(id)) {
                continue;
            }
            let repositories = blob.repositories.iter().map(|position| name(*position).to_owned()).collect();
            // One that is not known to be gone may be, if the run was cut short in between.
            inherited.blobs.push(InheritedBlob { digest, repositories, forgotten: blob.forgotten });
        }
        for (position, kind, id) in loaded.links.keys() {
            let digest = text(id);
            if !is_left(*position, *kind, &digest) {
                inherited.links.push((name(*position).to_owned(), digest));
            }
        }
        inherited
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.links.is_empty()
    }
}
