//! The objects of the API server, with their revisions.
//!
//! Objects are kept as the JSON bytes that lists send, so that a list of many costs copies and no serialisation. The
//! changes of late are kept beside them: watches read them forwards, and lists at an older revision backwards.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tokio::sync::watch;

use super::resource::Resource;
use super::status::Failure;
use crate::lock;

/// How many changes are remembered for watches and for the further pages of lists.
const HISTORY: usize = 50_000;

/// An object as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    /// The JSON of a list item: without `kind` and `apiVersion`.
    pub(crate) bytes: Bytes,
    pub(crate) revision: u64,
}

impl Object {
    /// The object without `kind` and `apiVersion`.
    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("a stored object")
    }

    /// The object as a request for it alone is answered.
    pub(crate) fn complete(&self, resource: &Resource) -> Bytes {
        let mut complete =
            format!(r#"{{"kind":{:?},"apiVersion":{:?},"#, resource.kind, resource.api_version());
        complete.push_str(std::str::from_utf8(&self.bytes[1..]).expect("stored as UTF-8"));
        complete.into()
    }
}

/// What happened to an object.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) resource: &'static Resource,
    pub(crate) key: String,
    /// The object before; `None` if it was created.
    pub(crate) before: Option<Object>,
    /// The object afterwards; `None` if it was deleted.
    pub(crate) after: Option<Object>,
    /// The object as a watch reports it: the new one, or the deleted one at the revision of its deletion.
    pub(crate) reported: Object,
}

/// The conditions of a deletion.
#[derive(Clone, Debug, Default)]
pub(crate) struct Preconditions {
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

impl Preconditions {
    /// The preconditions in the options of a deletion.
    pub(crate) fn of(options: &Value) -> Self {
        let text = |field: &str| options["preconditions"][field].as_str().map(ToOwned::to_owned);
        Self { uid: text("uid"), resource_version: text("resourceVersion"), dry_run: false }
    }

    /// Fails if they do not hold for an object.
    pub(crate) fn check(&self, resource: &Resource, name: &str, object: &Value) -> Result<(), Failure> {
        for (what, wanted, found) in [
            ("UID", &self.uid, metadata(object, "uid")),
            ("ResourceVersion", &self.resource_version, metadata(object, "resourceVersion")),
        ] {
            if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
                return Err(Failure::precondition(resource, name, what, wanted, found));
            }
        }
        Ok(())
    }
}

/// A page of a list.
#[derive(Debug, Default)]
pub(crate) struct Page {
    pub(crate) revision: u64,
    pub(crate) items: Vec<Object>,
    /// Where the next page begins, and how many objects follow.
    pub(crate) next: Option<(String, usize)>,
}

struct State {
    revision: u64,
    /// Changes up to this revision are forgotten.
    compacted: u64,
    objects: HashMap<(&'static str, &'static str), BTreeMap<String, Object>>,
    history: VecDeque<Change>,
    random: fastrand::Rng,
    /// How many objects follow a page that was served, so that a long list is not counted again for every page.
    following: HashMap<(&'static str, &'static str, u64, String), usize>,
}

/// The objects of an API server; clones share them.
#[derive(Clone)]
pub struct Store {
    state: Arc<Mutex<State>>,
    revision: watch::Sender<u64>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("revision", &*self.revision.borrow()).finish_non_exhaustive()
    }
}

impl Default for Store {
    fn default() -> Self {
        // A cluster that has lived for a while: revision 1 is long forgotten.
        let revision = 1000;
        let state = State {
            revision,
            compacted: revision,
            objects: HashMap::new(),
            history: VecDeque::new(),
            random: fastrand::Rng::new(),
            following: HashMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), revision: watch::Sender::new(revision) }
    }
}

/// The key of an object, in the order of etcd.
pub(crate) fn key(resource: &Resource, namespace: &str, name: &str) -> String {
    if resource.namespaced { format!("{namespace}/{name}") } else { name.to_owned() }
}

/// A string in an object's metadata; empty if it is not there.
pub(crate) fn metadata<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// The current time as objects write it.
#[must_use]
pub fn now() -> String {
    timestamp(Timestamp::now())
}

/// A time as objects write it.
#[must_use]
pub fn timestamp(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).expect("a time").to_string()
}

impl State {
    fn of(&mut self, resource: &'static Resource) -> &mut BTreeMap<String, Object> {
        self.objects.entry((resource.group, resource.plural)).or_default()
    }

    fn get(&self, resource: &'static Resource, key: &str) -> Option<&Object> {
        self.objects.get(&(resource.group, resource.plural))?.get(key)
    }

    fn uid(&mut self) -> String {
        let (high, low) = (self.random.u64(..), self.random.u64(..));
        format!(
            "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
            high >> 32,
            (high >> 16) & 0xffff,
            high & 0xfff,
            low >> 52,
            low & 0xffff_ffff_ffff
        )
    }

    /// Puts an object in order for the store: list items carry no kind, and a revision.
    fn seal(&mut self, mut object: Value) -> Object {
        self.revision += 1;
        let revision = self.revision;
        if let Some(fields) = object.as_object_mut() {
            fields.shift_remove("kind");
            fields.shift_remove("apiVersion");
        }
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        Object { bytes: object.to_string().into(), revision }
    }

    fn record(
        &mut self,
        resource: &'static Resource,
        key: String,
        before: Option<Object>,
        after: Option<Object>,
    ) {
        let revision = self.revision;
        let reported = match (&before, &after) {
            (_, Some(after)) => after.clone(),
            (Some(before), None) => {
                let mut object = before.value();
                object["metadata"]["resourceVersion"] = revision.to_string().into();
                Object { bytes: object.to_string().into(), revision }
            }
            (None, None) => return,
        };
        match &after {
            Some(after) => self.of(resource).insert(key.clone(), after.clone()),
            None => self.of(resource).remove(&key),
        };
        self.history.push_back(Change { revision, resource, key, before, after, reported });
        if self.history.len() > HISTORY
            && let Some(oldest) = self.history.pop_front()
        {
            self.compacted = oldest.revision;
        }
    }
}

impl Store {
    /// The object of this resource (`pods`, or with its group: `images.config.openshift.io`); the namespace of a
    /// cluster-scoped object is empty.
    #[must_use]
    pub fn get(&self, resource: &str, namespace: &str, name: &str) -> Option<Value> {
        let resource = Resource::named(resource).expect("a resource of the sandbox");
        self.find(resource, namespace, name).map(|object| object.value())
    }

    /// All objects of this resource, in the order of their keys.
    #[must_use]
    pub fn list(&self, resource: &str) -> Vec<Value> {
        let resource = Resource::named(resource).expect("a resource of the sandbox");
        let state = lock(&self.state);
        let objects = state.objects.get(&(resource.group, resource.plural));
        objects.into_iter().flat_map(BTreeMap::values).map(Object::value).collect()
    }

    /// All objects of this resource in a namespace, in the order of their names.
    #[must_use]
    pub fn in_namespace(&self, resource: &str, namespace: &str) -> Vec<Value> {
        let resource = Resource::named(resource).expect("a resource of the sandbox");
        let page = self.page(resource, namespace, None, None, usize::MAX, None).unwrap_or_default();
        page.items.iter().map(Object::value).collect()
    }

    /// `namespace/name`, or the name of cluster-scoped objects, of all objects of this resource.
    #[must_use]
    pub fn names(&self, resource: &str) -> Vec<String> {
        let resource = Resource::named(resource).expect("a resource of the sandbox");
        let state = lock(&self.state);
        let objects = state.objects.get(&(resource.group, resource.plural));
        objects.into_iter().flat_map(BTreeMap::keys).cloned().collect()
    }

    /// Creates an object and returns it; `uid` and `creationTimestamp` are filled in where they are absent.
    #[expect(clippy::must_use_candidate, reason = "most callers know what they created")]
    pub fn create(&self, resource: &str, object: Value) -> Value {
        let resource = Resource::named(resource).expect("a resource of the sandbox");
        match self.insert(resource, object) {
            Ok(object) => object.value(),
            Err(failure) => panic!("create: {}", failure.to_json()),
        }
    }

    /// Changes an object in place, whatever its resourceVersion, and returns whether it exists.
    pub fn update(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> bool {
        let resource = Resource::named(resource).expect("a resource of the sandbox");
        self.modify(resource, namespace, name, |object| {
            change(object);
            Ok(())
        })
        .is_ok()
    }

    /// Deletes an object and returns whether it existed.
    #[expect(clippy::must_use_candidate, reason = "most callers know what exists")]
    pub fn delete(&self, resource: &str, namespace: &str, name: &str) -> bool {
        let resource = Resource::named(resource).expect("a resource of the sandbox");
        self.remove(resource, namespace, name, &Preconditions::default()).is_ok()
    }

    /// Forgets all changes so far: watches from before, and further pages of lists begun before, are too old.
    pub fn compact(&self) {
        let mut state = lock(&self.state);
        state.compacted = state.revision;
        state.history.clear();
    }

    /// The current revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        *self.revision.borrow()
    }

    /// Adds many objects at once, whose revisions are counted from `first`, without telling watches of each. `build`
    /// returns the key and the JSON of a list item.
    pub(crate) fn load<T>(
        &self,
        resource: &'static Resource,
        first: u64,
        parts: impl Iterator<Item = T>,
        mut build: impl FnMut(T) -> (String, Bytes),
    ) {
        let mut state = lock(&self.state);
        for (revision, part) in (first..).zip(parts) {
            let (key, bytes) = build(part);
            state.of(resource).insert(key, Object { bytes, revision });
            state.revision = state.revision.max(revision);
        }
        state.compacted = state.revision;
        state.history.clear();
        self.revision.send_replace(state.revision);
    }

    pub(crate) fn find(&self, resource: &'static Resource, namespace: &str, name: &str) -> Option<Object> {
        lock(&self.state).get(resource, &key(resource, namespace, name)).cloned()
    }

    pub(crate) fn insert(&self, resource: &'static Resource, mut object: Value) -> Result<Object, Failure> {
        let mut state = lock(&self.state);
        if !object["metadata"].is_object() {
            object["metadata"] = json!({});
        }
        let generated = metadata(&object, "generateName").to_owned();
        if metadata(&object, "name").is_empty() && !generated.is_empty() {
            let suffix: String = std::iter::repeat_with(|| state.random.lowercase()).take(5).collect();
            object["metadata"]["name"] = format!("{generated}{suffix}").into();
        }
        let name = metadata(&object, "name").to_owned();
        let key = key(resource, metadata(&object, "namespace"), &name);
        if state.get(resource, &key).is_some() {
            return Err(Failure::already_exists(resource, &name));
        }
        let uid = state.uid();
        if let Some(fields) = object["metadata"].as_object_mut() {
            fields.entry("uid").or_insert_with(|| uid.into());
            fields.entry("creationTimestamp").or_insert_with(|| now().into());
        }
        let object = state.seal(object);
        state.record(resource, key, None, Some(object.clone()));
        self.revision.send_replace(state.revision);
        Ok(object)
    }

    /// Changes an object; one that stays the same keeps its revision.
    pub(crate) fn modify(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        change: impl FnOnce(&mut Value) -> Result<(), Failure>,
    ) -> Result<Object, Failure> {
        let mut state = lock(&self.state);
        let key = key(resource, namespace, name);
        let before = state.get(resource, &key).cloned().ok_or_else(|| Failure::not_found(resource, name))?;
        let mut object = before.value();
        change(&mut object)?;
        object["metadata"]["resourceVersion"] = before.revision.to_string().into();
        if object == before.value() {
            return Ok(before);
        }
        let after = state.seal(object);
        state.record(resource, key, Some(before), Some(after.clone()));
        self.revision.send_replace(state.revision);
        Ok(after)
    }

    pub(crate) fn remove(
        &self,
        resource: &'static Resource,
        namespace: &str,
        name: &str,
        conditions: &Preconditions,
    ) -> Result<Object, Failure> {
        let mut state = lock(&self.state);
        let key = key(resource, namespace, name);
        let before = state.get(resource, &key).cloned().ok_or_else(|| Failure::not_found(resource, name))?;
        conditions.check(resource, name, &before.value())?;
        if !conditions.dry_run {
            state.revision += 1;
            state.record(resource, key, Some(before.clone()), None);
            self.revision.send_replace(state.revision);
        }
        Ok(before)
    }

    /// A page of the objects of a resource (in one namespace, unless that is empty) as they were at a revision (now,
    /// without one), from the key `start` on. `None` if that revision is forgotten.
    pub(crate) fn page(
        &self,
        resource: &'static Resource,
        namespace: &str,
        at: Option<u64>,
        start: Option<&str>,
        limit: usize,
        wanted: Option<&dyn Fn(&Object) -> bool>,
    ) -> Option<Page> {
        let mut state = lock(&self.state);
        let revision = at.unwrap_or(state.revision);
        if revision < state.compacted && at.is_some() {
            return None;
        }
        let (from, to) = if namespace.is_empty() {
            (Bound::Unbounded, Bound::Unbounded)
        } else {
            // `0` follows `/`.
            (Bound::Included(format!("{namespace}/")), Bound::Excluded(format!("{namespace}0")))
        };
        let from = start.map_or(from, |start| Bound::Included(start.to_owned()));
        let changed = state.overlay(resource, revision);
        let empty = BTreeMap::new();
        let objects = state.objects.get(&(resource.group, resource.plural)).unwrap_or(&empty);
        let restored = changed.range::<String, _>((from.clone(), to.clone()));
        let mut restored = restored.filter_map(|(key, object)| Some((key, object.as_ref()?))).peekable();
        let mut current =
            objects.range::<String, _>((from, to)).filter(|(key, _)| !changed.contains_key(*key)).peekable();
        let mut merged = std::iter::from_fn(|| match (current.peek(), restored.peek()) {
            (Some((left, _)), Some((right, _))) if right < left => restored.next(),
            (Some(_), _) => current.next(),
            (None, _) => restored.next(),
        })
        .filter(|(_, object)| wanted.is_none_or(|wanted| wanted(object)));

        let mut page = Page { revision, ..Page::default() };
        let mut last = String::new();
        while page.items.len() < limit
            && let Some((key, object)) = merged.next()
        {
            page.items.push(object.clone());
            last.clone_from(key);
        }
        let served = page.items.len();
        let place = |key: &str| (resource.group, resource.plural, revision, format!("{namespace}|{key}"));
        let known =
            start.filter(|_| wanted.is_none()).and_then(|start| state.following.get(&place(start)).copied());
        let following = match known {
            Some(count) => count.saturating_sub(served),
            None => merged.count(),
        };
        if following > 0 {
            // The next page starts right behind this key.
            let next = format!("{last}\0");
            let place = place(&next);
            if state.following.len() > 10_000 {
                state.following.clear();
            }
            if wanted.is_none() {
                state.following.insert(place, following);
            }
            page.next = Some((next, following));
        }
        Some(page)
    }

    /// The changes after a revision, up to now; `Err` with the oldest revision known if that one is forgotten.
    pub(crate) fn changes(&self, resource: &'static Resource, after: u64) -> Result<(Vec<Change>, u64), u64> {
        let state = lock(&self.state);
        if after < state.compacted {
            return Err(state.compacted);
        }
        let first = state.history.partition_point(|change| change.revision <= after);
        let changes =
            state.history.range(first..).filter(|change| change.resource == resource).cloned().collect();
        Ok((changes, state.revision))
    }

    /// Whether something has changed after a revision that `wanted` is true for (asked with the resource and the key), and
    /// the current revision.
    pub(crate) fn touched(&self, after: u64, wanted: fn(&str, &str) -> bool) -> (bool, u64) {
        let state = lock(&self.state);
        let first = state.history.partition_point(|change| change.revision <= after);
        let touched = after < state.compacted
            || state.history.range(first..).any(|change| wanted(change.resource.plural, &change.key));
        (touched, state.revision)
    }

    /// Tells when the revision changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }
}

impl State {
    /// What has to be seen in place of the current objects at an older revision: `None` for objects that did not exist.
    fn overlay(&self, resource: &'static Resource, revision: u64) -> BTreeMap<String, Option<Object>> {
        let changes = self.history.iter().rev().take_while(|change| change.revision > revision);
        let own = changes.filter(|change| change.resource == resource);
        own.map(|change| (change.key.clone(), change.before.clone())).collect()
    }
}

/// Fields of a JSON object that must be objects themselves; creates them where they are absent.
pub(crate) fn object_at<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value[field].is_object() {
        value[field] = json!({});
    }
    value[field].as_object_mut().expect("made an object above")
}
