//! What becomes needed while a plan is carried out, by the rules that made the plan.
//!
//! The guard only ever grows: what was needed once since the lists were read stays, even if nothing needs it any more. The
//! next run decides about that.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hashbrown::{HashMap, HashSet};
use schemars::JsonSchema;
use serde::Serialize;

use super::decide::{ItemKeep, ItemVerdict, StreamDecision, StreamVerdict, named_blobs};
use super::references::counts;
use super::{Difference, Rules};
use crate::model::{Id, Inventory, Mention, Names, Referrer, Stream, Target, Word};

/// Who needs something that was to be deleted.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// `pod`, `deployment`, …, `imagestream`, `image`, `namespace`.
    pub kind: String,
    /// Its namespace; empty for what belongs to none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Where in it the reference stands, for instance `container app` or `tag latest`; empty for the object as a whole.
    pub place: String,
}

/// As `pod/shop/web container app`.
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        for part in [&self.namespace, &self.name].into_iter().filter(|part| !part.is_empty()) {
            write!(f, "/{part}")?;
        }
        if self.place.is_empty() { Ok(()) } else { write!(f, " {}", self.place) }
    }
}

/// What was deleted by now, for [`Guard::broken`].
#[derive(Debug, Default)]
pub struct Gone<'a> {
    /// Blobs, manifests included.
    pub blobs: BTreeSet<&'a str>,
    /// Image objects.
    pub images: BTreeSet<&'a str>,
    /// Manifest links, as repository and digest.
    pub manifest_links: BTreeSet<(&'a str, &'a str)>,
    /// Layer links, as repository and digest.
    pub layer_links: BTreeSet<(&'a str, &'a str)>,
}

/// Something that is needed, and that was deleted before that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// Who needs it.
    pub holder: Holder,
    /// Where it is looked for: `namespace/stream`; empty if that is not known.
    pub repository: String,
    /// The tag under which it is looked for; empty for a reference by digest.
    pub tag: String,
    /// The image.
    pub image: String,
    /// Blobs that are gone; the registry knows whether they are back.
    pub blobs: Vec<String>,
    /// Blobs and manifests whose links in the repository are gone; likewise.
    pub links: Vec<String>,
    /// Whether the Image object is gone, or the stream's item that named it.
    pub unlisted: bool,
}

/// An item of a tag: the tag, when it began to point at the image, and the image.
type SeenItem = (Box<str>, i64, Box<str>);

/// What one repository needs.
#[derive(Debug, Default)]
struct Repository {
    /// Tags that are referred to.
    tags: HashMap<Box<str>, u32>,
    /// Images that are referred to.
    images: HashMap<Id, u32>,
    /// Manifests whose links stay.
    manifests: HashMap<Id, u32>,
    /// Blobs whose layer links stay.
    blobs: HashMap<Id, u32>,
    /// The stream got the protecting label or annotation.
    marked: Option<u32>,
    /// The items as they were seen last, with the tag of each: those that come are new.
    items: Option<HashSet<SeenItem>>,
    /// Images whose items this run removed, with the tag of which they were the current one.
    removed: BTreeMap<Id, Option<Box<str>>>,
}

/// An image that was not there when the lists were read, or another one of the same name.
#[derive(Debug)]
struct Appeared {
    blobs: Vec<Id>,
    manifests: Vec<Box<str>>,
}

/// A need, for what was deleted before.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Need {
    holder: u32,
    repository: Option<Box<str>>,
    tag: Box<str>,
    image: Box<str>,
}

/// The parts of an image: itself, and what it holds at any depth.
#[derive(Debug, Default)]
struct Holding {
    manifests: BTreeSet<Id>,
    blobs: BTreeSet<Id>,
}

/// What became needed since the lists were read.
#[derive(Debug, Default)]
pub struct Guard {
    holders: Vec<Holder>,
    positions: HashMap<Holder, u32>,
    repositories: HashMap<Box<str>, Repository>,
    /// Image objects that stay.
    images: HashMap<Id, u32>,
    /// Blobs that stay, manifests included.
    blobs: HashMap<Id, u32>,
    /// Images that got the protecting label or annotation.
    marked: HashMap<Id, u32>,
    /// Namespaces that got it.
    namespaces: HashMap<Box<str>, u32>,
    appeared: HashMap<Box<str>, Appeared>,
    /// An image appeared of which nobody knows what it needs: nothing is deleted any more.
    unclear: Option<u32>,
    needs: HashSet<Need>,
}

impl Guard {
    /// Takes in what was seen: `seen` has the new or changed objects alone, `inventory` what was known before. Every name
    /// that is not in the inventory is of something that cannot be deleted.
    pub fn learn(&mut self, inventory: &Inventory, rules: &Rules, seen: &Inventory) {
        for position in 0..seen.images.all().len() {
            self.image_seen(inventory, seen, position);
        }
        for namespace in &seen.protected_namespaces {
            if inventory.protected_namespaces.binary_search(namespace).is_err() {
                let holder = self.holder("namespace", "", namespace, "");
                self.namespaces.insert(namespace.clone(), holder);
            }
        }
        for stream in &seen.streams {
            self.stream_seen(inventory, &seen.names, stream);
        }
        for (position, referrer) in seen.referrers.all().iter().enumerate() {
            if counts(referrer, rules) {
                for mention in seen.referrers.mentions(position) {
                    self.mention_seen(inventory, &seen.names, referrer, mention, &mention.target);
                }
            }
        }
    }

    /// Whether nothing became needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.needs.is_empty()
    }

    fn holder(&mut self, kind: &str, namespace: &str, name: &str, place: &str) -> u32 {
        let [kind, namespace, name, place] = [kind, namespace, name, place].map(ToOwned::to_owned);
        let holder = Holder { kind, namespace, name, place };
        if let Some(position) = self.positions.get(&holder) {
            return *position;
        }
        let position = u32::try_from(self.holders.len()).unwrap_or(u32::MAX);
        self.holders.push(holder.clone());
        self.positions.insert(holder, position);
        position
    }

    fn at(&self, position: u32) -> &Holder {
        &self.holders[position as usize]
    }

    fn repository(&mut self, repository: &str) -> &mut Repository {
        self.repositories.entry(repository.into()).or_default()
    }

    fn image_seen(&mut self, inventory: &Inventory, seen: &Inventory, position: usize) {
        let image = &seen.images.all()[position];
        let name = seen.names.text(image.name);
        let known = inventory
            .names
            .find(&name)
            .and_then(|id| Some((id, &inventory.images.all()[inventory.images.find(id)?])));
        // Of the same name, but pushed again after it was deleted.
        let is_new = known.is_none_or(|(_, known)| known.uid != image.uid);
        if is_new {
            let manifests = seen.images.manifests(position).iter();
            let blobs = named_blobs(seen, position);
            let appeared = Appeared {
                blobs: blobs.filter_map(|blob| inventory.names.find(&seen.names.text(blob))).collect(),
                manifests: manifests.map(|manifest| seen.names.text(*manifest).into()).collect(),
            };
            let is_unclear = image.metadata_absent;
            self.appeared.insert(name.as_ref().into(), appeared);
            let holder = self.holder("image", "", &name, "");
            if is_unclear {
                self.unclear.get_or_insert(holder);
            }
            let repository = image.repository.map(|repository| seen.names.words.text(repository));
            self.need(inventory, holder, repository, "", &name);
            // A stream or an object may have named it before it was seen.
            let waiting: Vec<(u32, Option<Box<str>>, Box<str>)> = self
                .needs
                .iter()
                .filter(|need| *need.image == *name)
                .map(|need| (need.holder, need.repository.clone(), need.tag.clone()))
                .collect();
            for (holder, repository, tag) in waiting {
                self.need(inventory, holder, repository.as_deref(), &tag, &name);
            }
        }
        if let Some((id, known)) = known
            && image.protected
            && !known.protected
        {
            let holder = self.holder("image", "", &name, "");
            self.marked.insert(id, holder);
            self.need(inventory, holder, None, "", &name);
        }
    }

    fn stream_seen(&mut self, inventory: &Inventory, names: &Names, stream: &Stream) {
        let repository = stream.repository();
        let before = stream_of(inventory, &stream.namespace, &stream.name);
        if stream.protected && before.is_none_or(|before| !before.protected) {
            let holder = self.holder("imagestream", &stream.namespace, &stream.name, "");
            self.repository(&repository).marked.get_or_insert(holder);
        }
        let now: HashSet<SeenItem> = items(names, stream).collect();
        let known = self.repository(&repository).items.take().unwrap_or_else(|| {
            before.map(|before| items(&inventory.names, before).collect()).unwrap_or_default()
        });
        let mut new: Vec<_> = now.difference(&known).collect();
        new.sort_unstable();
        for (tag, _, image) in new {
            let holder = self.holder("imagestream", &stream.namespace, &stream.name, &format!("tag {tag}"));
            self.need(inventory, holder, Some(&repository), tag, image);
        }
        self.repository(&repository).items = Some(now);
    }

    fn mention_seen(
        &mut self,
        inventory: &Inventory,
        names: &Names,
        referrer: &Referrer,
        mention: &Mention,
        target: &Target,
    ) {
        let word = |word: &Word| names.words.text(*word);
        let holder = |guard: &mut Self| {
            let Referrer { kind, namespace, name, .. } = referrer;
            guard.holder(kind.word(), word(namespace), word(name), word(&mention.place))
        };
        match target {
            Target::Tag { namespace, stream, tag } => {
                let holder = holder(self);
                let (namespace, stream, tag) = (word(namespace), word(stream), word(tag));
                let repository = format!("{namespace}/{stream}");
                let known = self.repository(&repository);
                known.tags.entry(tag.into()).or_insert(holder);
                // What the tag named before this run took it away is what whoever refers to it expects.
                let removed = known.removed.iter().find(|(_, of)| of.as_deref() == Some(tag));
                let current = removed.map(|(image, _)| *image).or_else(|| {
                    let stream = stream_of(inventory, namespace, stream)?;
                    let tag = inventory.names.words.find(tag)?;
                    let tag = stream.tags.iter().find(|candidate| candidate.name == tag)?;
                    Some(tag.items.first()?.image)
                });
                if let Some(image) = current {
                    let image = inventory.names.text(image);
                    self.need(inventory, holder, Some(&repository), tag, &image);
                }
            }
            Target::Image { namespace, stream, digest } => {
                let holder = holder(self);
                let repository = format!("{}/{}", word(namespace), word(stream));
                let digest = names.text(*digest);
                if let Some(id) = inventory.names.find(&digest) {
                    self.repository(&repository).images.entry(id).or_insert(holder);
                }
                self.need(inventory, holder, Some(&repository), "", &digest);
            }
            Target::Digest(digest) => {
                let holder = holder(self);
                self.need(inventory, holder, None, "", &names.text(*digest));
            }
            Target::Invalid(invalid) => {
                if let Some(readable) = &invalid.readable {
                    self.mention_seen(inventory, names, referrer, mention, readable);
                }
            }
            Target::UnknownKind(_) => {}
        }
    }

    /// Notes that an image is needed, everywhere or in a repository as well.
    fn need(&mut self, inventory: &Inventory, holder: u32, repository: Option<&str>, tag: &str, image: &str) {
        let Holding { manifests, blobs } = self.holding(inventory, image);
        for id in &manifests {
            self.images.entry(*id).or_insert(holder);
        }
        for id in &blobs {
            self.blobs.entry(*id).or_insert(holder);
        }
        if let Some(repository) = repository {
            let repository = self.repository(repository);
            for id in manifests {
                repository.manifests.entry(id).or_insert(holder);
            }
            for id in blobs {
                repository.blobs.entry(id).or_insert(holder);
            }
        }
        self.needs.insert(Need {
            holder,
            repository: repository.map(Into::into),
            tag: tag.into(),
            image: image.into(),
        });
    }

    /// The image and its sub-manifests at any depth, as far as they were known before, and their blobs.
    fn holding(&self, inventory: &Inventory, image: &str) -> Holding {
        let mut holding = Holding::default();
        let mut open: Vec<Box<str>> = vec![image.into()];
        let mut seen: HashSet<Box<str>> = HashSet::new();
        while let Some(name) = open.pop() {
            if !seen.insert(name.clone()) {
                continue;
            }
            if let Some(appeared) = self.appeared.get(&name) {
                holding.blobs.extend(&appeared.blobs);
                open.extend(appeared.manifests.iter().cloned());
            }
            let Some(id) = inventory.names.find(&name) else { continue };
            holding.manifests.insert(id);
            holding.blobs.insert(id);
            if let Some(position) = inventory.images.find(id) {
                holding.blobs.extend(named_blobs(inventory, position));
                let manifests = inventory.images.manifests(position).iter();
                open.extend(manifests.map(|manifest| inventory.names.text(*manifest).into()));
            }
        }
        holding
    }

    /// Notes that this run removed an item, which was the current one of its tag if that is given.
    pub fn removed(&mut self, repository: &str, image: Id, current_of: Option<&str>) {
        let removed = &mut self.repository(repository).removed;
        let tag = removed.entry(image).or_default();
        if let Some(current) = current_of {
            *tag = Some(current.into());
        }
    }

    /// Takes out of a decision about a stream, as it is now, what became needed since. Returns the items that stay for
    /// it: tag, image and who needs it.
    #[must_use]
    pub fn spare(
        &self,
        inventory: &Inventory,
        stream: &Stream,
        decision: &mut StreamDecision,
    ) -> Vec<(String, Id, Holder)> {
        let none = Repository::default();
        let needed = self.repositories.get(&*stream.repository()).unwrap_or(&none);
        let marked = needed.marked.or_else(|| self.namespaces.get(&stream.namespace).copied());
        if needed.tags.is_empty() && needed.images.is_empty() && marked.is_none() && self.marked.is_empty() {
            return Vec::new();
        }
        let mut spared = Vec::new();
        for item in &mut decision.items {
            if !matches!(item.verdict, ItemVerdict::Remove(_)) {
                continue;
            }
            let tag = inventory.names.words.text(stream.tags[item.tag as usize].name);
            let of_tag = needed.tags.get(tag).filter(|_| item.position == 0);
            let of_index = || {
                let all = inventory.images.with_submanifests([item.image]);
                all.into_iter().find_map(|part| needed.images.get(&part).copied())
            };
            let (keep, holder) = if let Some(holder) = marked.or(self.marked.get(&item.image).copied()) {
                (ItemKeep::Protected, holder)
            } else if let Some(holder) = of_tag {
                (ItemKeep::TagReferenced, *holder)
            } else if let Some(holder) = needed.images.get(&item.image) {
                (ItemKeep::ImageReferenced, *holder)
            } else if let Some(holder) = of_index() {
                (ItemKeep::SubmanifestReferenced, holder)
            } else {
                continue;
            };
            item.verdict = ItemVerdict::Keep(keep, Some(Difference::ReferencedNewly));
            spared.push((tag.to_string(), item.image, self.at(holder).clone()));
        }
        if marked.is_some() && !spared.is_empty() {
            decision.verdict = StreamVerdict::Protected;
        }
        if !spared.is_empty() {
            let (mut manifests, mut blobs) = (BTreeSet::new(), BTreeSet::new());
            for item in decision.items.iter().filter(|item| matches!(item.verdict, ItemVerdict::Keep(..))) {
                manifests.insert(item.image);
                if let Some(position) = inventory.images.find(item.image) {
                    blobs.extend(named_blobs(inventory, position));
                }
            }
            decision.manifest_links.retain(|link| !manifests.contains(link));
            decision.layer_links.retain(|link| !blobs.contains(link));
        }
        spared
    }

    /// Who needs the manifest link, if anybody does.
    #[must_use]
    pub fn manifest_link(&self, repository: &str, manifest: Id) -> Option<&Holder> {
        self.repositories.get(repository)?.manifests.get(&manifest).map(|holder| self.at(*holder))
    }

    /// Who needs the layer link, if anybody does.
    #[must_use]
    pub fn layer_link(&self, repository: &str, blob: Id) -> Option<&Holder> {
        self.repositories.get(repository)?.blobs.get(&blob).map(|holder| self.at(*holder))
    }

    /// Who needs the blob, if anybody does.
    #[must_use]
    pub fn blob(&self, blob: Id) -> Option<&Holder> {
        self.blobs.get(&blob).or(self.unclear.as_ref()).map(|holder| self.at(*holder))
    }

    /// Who needs the Image object, if anybody does.
    #[must_use]
    pub fn image(&self, image: Id) -> Option<&Holder> {
        self.images.get(&image).or(self.unclear.as_ref()).map(|holder| self.at(*holder))
    }

    /// What is needed and was deleted before that was seen. `inventory` has the streams as they are now.
    #[must_use]
    pub fn broken(&self, inventory: &Inventory, gone: &Gone<'_>) -> Vec<Broken> {
        let mut all = Vec::new();
        for Need { holder, repository, tag, image } in &self.needs {
            let in_repository = repository.as_deref();
            let linked = |links: &BTreeSet<(&str, &str)>, digest: &str| {
                in_repository.is_some_and(|repository| links.contains(&(repository, digest)))
            };
            let Holding { manifests, blobs } = self.holding(inventory, image);
            let (mut lost, mut unlinked): (BTreeSet<String>, BTreeSet<String>) = Default::default();
            for id in &blobs {
                let digest = inventory.names.text(*id);
                // Who pushes an image again sends its manifest, whatever the registry has.
                if manifests.contains(id) && self.appeared.contains_key(&*digest) {
                    continue;
                }
                if gone.blobs.contains(&*digest) {
                    lost.insert(digest.into_owned());
                } else if linked(&gone.layer_links, &digest) {
                    unlinked.insert(digest.into_owned());
                }
            }
            let object_is_gone = gone.images.contains(&**image) && !self.appeared.contains_key(image);
            let item_is_gone = in_repository.is_some_and(|repository| {
                let removed = self.repositories.get(repository).map(|known| &known.removed);
                let id = inventory.names.find(image);
                removed.zip(id).is_some_and(|(removed, id)| removed.contains_key(&id))
                    && !is_named(inventory, repository, tag, image)
            });
            // With the item comes the link of the manifest.
            if item_is_gone {
                let digests = manifests.iter().map(|id| inventory.names.text(*id));
                unlinked.extend(
                    digests.filter(|digest| linked(&gone.manifest_links, digest)).map(Cow::into_owned),
                );
            }
            if lost.is_empty() && unlinked.is_empty() && !object_is_gone && !item_is_gone {
                continue;
            }
            all.push(Broken {
                holder: self.at(*holder).clone(),
                repository: in_repository.unwrap_or_default().to_owned(),
                tag: tag.to_string(),
                image: image.to_string(),
                blobs: lost.into_iter().collect(),
                links: unlinked.into_iter().collect(),
                unlisted: object_is_gone || item_is_gone,
            });
        }
        all.sort_by(|a, b| (&a.holder, &a.image).cmp(&(&b.holder, &b.image)));
        all
    }
}

fn stream_of<'a>(inventory: &'a Inventory, namespace: &str, name: &str) -> Option<&'a Stream> {
    let found = inventory
        .streams
        .binary_search_by(|stream| (&*stream.namespace, &*stream.name).cmp(&(namespace, name)));
    found.ok().map(|position| &inventory.streams[position])
}

/// Whether the stream names the image, under this tag as the current one if a tag is given.
fn is_named(inventory: &Inventory, repository: &str, tag: &str, image: &str) -> bool {
    let Some((namespace, name)) = repository.split_once('/') else { return false };
    let Some(stream) = stream_of(inventory, namespace, name) else { return false };
    let Some(id) = inventory.names.find(image) else { return false };
    stream.tags.iter().any(|candidate| {
        if tag.is_empty() {
            candidate.items.iter().any(|item| item.image == id)
        } else {
            inventory.names.words.text(candidate.name) == tag
                && candidate.items.first().is_some_and(|item| item.image == id)
        }
    })
}

/// Every item.
fn items<'a>(names: &'a Names, stream: &'a Stream) -> impl Iterator<Item = SeenItem> + 'a {
    stream.tags.iter().flat_map(move |tag| {
        let name = names.words.text(tag.name);
        tag.items.iter().map(move |item| (name.into(), item.created, names.text(item.image).into()))
    })
}
