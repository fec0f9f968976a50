//! What a journal says: one JSON object per line. Pure: bytes in, records out, and back.
//!
//! ```text
//! begin      who, when, where, and the flags that decided
//! stream     a stream that loses items: the items and the links that go
//! image      an image that goes
//! blob       a blob that goes, with the repositories that had it
//! planned    the plan is complete: nothing was changed before this line
//! decided    a stream that changed meanwhile, as it was decided about anew
//! done       a step that a server has confirmed
//! note       something to be remembered for the next run, by a name
//! resumed    another run goes on here
//! end        the run has ended in order
//! ```
//! A line that lacks its end was being written when the run was cut short: it is ignored. Every step can be done twice, so
//! a journal that lacks its last lines is as good as a whole one. Any other line that is not one of these is an error.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::execute::Change;
use crate::model::{Id, Names, is_digest};
use crate::text::brief;

/// The version of the format. A reader refuses what is newer.
pub const VERSION: u32 = 1;

/// The longest line that is read, in bytes: etcd takes no larger object than a few MB.
const LONGEST_LINE: u64 = 256 << 20;

/// Who began a run, when, where, and by which flags.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    /// The version of the format.
    pub version: u32,
    /// The version of the program.
    pub program: String,
    /// The URL of the API server.
    pub server: String,
    /// The name of the cluster's folder.
    pub cluster: String,
    /// Who the API server took the run for.
    pub user: String,
    /// The machine or pod that it ran on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// When it began.
    pub started: Timestamp,
    /// What decides.
    pub selection: Selection,
}

/// The flags that decide what goes, and the time that ages were counted from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selection {
    /// The time that ages are counted from.
    pub now: Timestamp,
    /// `--keep-tag-revisions`; absent with `--prune-over-size-limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_tag_revisions: Option<u32>,
    /// `--keep-younger-than`; absent with `--prune-over-size-limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_younger_than: Option<SignedDuration>,
    /// `--all`.
    pub all: bool,
    /// `--namespace`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// `--selector`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `--referrers-from`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub referrers_from: Vec<String>,
    /// `--prune-registry`.
    pub prune_registry: bool,
    /// `--ignore-invalid-refs`.
    pub ignore_invalid_refs: bool,
}

/// An item that goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedItem {
    /// The tag.
    pub tag: String,
    /// The image that it names.
    pub image: String,
    /// When the tag began to point at the image, in seconds since the Unix epoch.
    pub created: i64,
}

/// A stream that loses items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PlannedStream {
    /// `namespace/name`.
    pub repository: String,
    /// The items that go.
    pub items: Vec<PlannedItem>,
    /// The digests of the manifest links that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub manifest_links: Vec<String>,
    /// The digests of the layer links that go.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_links: Vec<String>,
}

/// Which kind of link in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LinkKind {
    /// Of a manifest.
    Manifest,
    /// Of a layer or config.
    Layer,
}

/// A step that a server has confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Step {
    /// The status of a stream was updated.
    Items {
        /// `namespace/name`.
        repository: String,
        /// How many items went.
        items: usize,
    },
    /// A manifest link is gone.
    ManifestLink {
        /// `namespace/name`.
        repository: String,
        /// The manifest.
        digest: String,
    },
    /// A layer link is gone.
    LayerLink {
        /// `namespace/name`.
        repository: String,
        /// The blob.
        digest: String,
    },
    /// A blob is gone.
    Blob {
        /// The blob.
        digest: String,
        /// Whether Redis and every replica have confirmed that they forgot it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        forgotten: bool,
    },
    /// An Image object is gone.
    Image {
        /// Its name.
        name: String,
    },
}

impl Step {
    /// The step of a change; `forgotten` says of a blob that no cache may name it.
    #[must_use]
    pub fn of(change: &Change, forgotten: bool) -> Self {
        match change.clone() {
            Change::Items { repository, items } => Self::Items { repository, items },
            Change::ManifestLink { repository, digest } => Self::ManifestLink { repository, digest },
            Change::LayerLink { repository, digest } => Self::LayerLink { repository, digest },
            Change::Blob { digest, .. } => Self::Blob { digest, forgotten },
            Change::Image { name } => Self::Image { name },
        }
    }
}

/// A run that goes on where another one was cut short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resumed {
    /// Who the API server took the run for.
    pub user: String,
    /// The machine or pod that it ran on.
    pub host: String,
    /// Its process there.
    pub pid: u32,
    /// When it began.
    pub started: Timestamp,
}

/// How a run has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct End {
    /// When.
    pub at: Timestamp,
    /// What ended it early: a signal, `timeout`, `lostLock`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early: Option<String>,
    /// How many objects could not be pruned.
    pub failures: usize,
    /// Links that could not be deleted although their stream no longer names them: only this journal knows of them.
    pub orphans: usize,
    /// Whether a cache may still name what was deleted.
    pub cache_may_lie: bool,
}

impl End {
    /// Whether everything is as it would be after a run that was not cut short.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.orphans == 0 && !self.cache_may_lie
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "camelCase")]
#[expect(missing_docs, reason = "the documentation of the file says what each is")]
pub enum Record {
    Begin(Header),
    Stream(PlannedStream),
    Image {
        name: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        uid: Option<String>,
    },
    Blob {
        digest: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bytes: Option<u64>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        repositories: Vec<String>,
    },
    Planned {
        streams: usize,
        images: usize,
        blobs: usize,
    },
    Decided(PlannedStream),
    Done {
        #[serde(flatten)]
        step: Step,
        /// Milliseconds since the run began, or since it was resumed.
        ms: u64,
    },
    Note {
        name: String,
        value: Value,
    },
    Resumed(Resumed),
    End(End),
}

impl Record {
    /// The line, with its end.
    ///
    /// # Errors
    /// It cannot be written as JSON, which none of these is.
    pub fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// A blob that goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadedBlob {
    /// Its size, where an Image told it.
    pub bytes: Option<u64>,
    /// The repositories that had it, as positions in [`Loaded::repositories`].
    pub repositories: Vec<u32>,
    /// Whether it is gone.
    pub done: bool,
    /// Whether no cache may name it.
    pub forgotten: bool,
}

/// An image that goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LoadedImage {
    /// The UID of its object.
    pub uid: Option<u128>,
    /// Whether it is gone.
    pub done: bool,
}

/// A whole journal.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// Who began it.
    pub header: Header,
    /// Whether the plan is complete: if not, nothing was changed.
    pub planned: bool,
    /// The names of images and blobs.
    pub names: Names,
    /// `namespace/name`.
    pub repositories: Vec<Box<str>>,
    /// The items that go, by the position of the stream's repository.
    pub items: BTreeMap<u32, Vec<PlannedItem>>,
    /// The links that go, and whether they are gone.
    pub links: BTreeMap<(u32, LinkKind, Id), bool>,
    /// The blobs that go.
    pub blobs: BTreeMap<Id, LoadedBlob>,
    /// The images that go.
    pub images: BTreeMap<Id, LoadedImage>,
    /// How many steps are done.
    pub steps: usize,
    /// What is to be remembered, by its name; what was taken back is left out.
    pub notes: BTreeMap<String, Value>,
    /// Runs that went on with it.
    pub resumed: Vec<Resumed>,
    /// How the last run ended, if it did.
    pub end: Option<End>,
    /// How many bytes of the file are whole lines: what follows was being written.
    pub whole: u64,
}

impl Loaded {
    /// Whether there is nothing left that a plain prune would not find by itself: it ended in order, or never began.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.notes.is_empty() && (!self.planned || self.end.as_ref().is_some_and(End::is_clean))
    }

    /// Whether everything was done.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_clean() && self.end.as_ref().is_none_or(|end| end.early.is_none() && end.failures == 0)
    }

    fn repository(&mut self, known: &mut BTreeMap<Box<str>, u32>, name: &str) -> u32 {
        if let Some(position) = known.get(name) {
            return *position;
        }
        #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 image streams")]
        let position = self.repositories.len() as u32;
        self.repositories.push(name.into());
        known.insert(name.into(), position);
        position
    }
}

/// Why a file is no journal.
#[derive(Debug, Error)]
pub enum Unreadable {
    /// The file cannot be read.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// It begins with something else.
    #[error("it is no journal: {0}")]
    NoJournal(String),
    /// It was written by a newer program.
    #[error("it is of version {0}, and this program knows version {VERSION} and older ones")]
    TooNew(u32),
    /// A line that says nothing.
    #[error("line {line}: {why}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// Reads a journal.
///
/// # Errors
/// It is none, or one of its lines is neither a record nor the torn last one.
pub fn read(mut input: impl BufRead) -> Result<Loaded, Unreadable> {
    let mut line = Vec::new();
    let first = match next_line(&mut input, &mut line)? {
        Line::Whole => serde_json::from_slice::<Record>(&line),
        Line::Torn | Line::End => {
            return Err(Unreadable::NoJournal("its first line is not whole".to_owned()));
        }
    };
    let header = match first {
        Ok(Record::Begin(header)) if header.version > VERSION => {
            return Err(Unreadable::TooNew(header.version));
        }
        Ok(Record::Begin(header)) => header,
        Ok(_) => return Err(Unreadable::NoJournal("it does not begin with the record `begin`".to_owned())),
        // A newer version may have other fields.
        Err(error) => match version(&line) {
            Some(version) if version > VERSION => return Err(Unreadable::TooNew(version)),
            _ => return Err(Unreadable::NoJournal(brief(&error.to_string()))),
        },
    };
    let mut loaded = Loaded {
        header,
        planned: false,
        names: Names::default(),
        repositories: Vec::new(),
        items: BTreeMap::new(),
        links: BTreeMap::new(),
        blobs: BTreeMap::new(),
        images: BTreeMap::new(),
        steps: 0,
        notes: BTreeMap::new(),
        resumed: Vec::new(),
        end: None,
        whole: line.len() as u64,
    };
    let mut known = BTreeMap::new();
    for number in 2.. {
        match next_line(&mut input, &mut line)? {
            Line::Whole => {}
            Line::Torn | Line::End => break,
        }
        let failed = |why: String| Unreadable::Line { line: number, why };
        let record = serde_json::from_slice(&line).map_err(|error| failed(brief(&error.to_string())))?;
        add(&mut loaded, &mut known, record).map_err(failed)?;
        loaded.whole += line.len() as u64;
    }
    Ok(loaded)
}

fn version(line: &[u8]) -> Option<u32> {
    let value: Value = serde_json::from_slice(line).ok()?;
    u32::try_from(value.get("version")?.as_u64()?).ok().filter(|_| value["record"] == "begin")
}

/// The first line of a journal, with its end.
///
/// # Errors
/// It cannot be read.
pub(super) fn first_line(input: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    next_line(input, &mut line)?;
    Ok(line)
}

enum Line {
    Whole,
    Torn,
    End,
}

fn next_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<Line> {
    line.clear();
    input.by_ref().take(LONGEST_LINE).read_until(b'\n', line)?;
    Ok(match line.last() {
        None => Line::End,
        Some(b'\n') => Line::Whole,
        Some(_) if line.len() as u64 == LONGEST_LINE => {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long"));
        }
        Some(_) => Line::Torn,
    })
}

fn digest(text: &str) -> Result<&str, String> {
    if is_digest(text) { Ok(text) } else { Err(format!("\"{}\" is no digest", brief(text))) }
}

fn uid(text: &str) -> Option<u128> {
    let hex: String = text.chars().filter(|c| *c != '-').collect();
    (hex.len() == 32).then(|| u128::from_str_radix(&hex, 16).ok()).flatten()
}

fn add(loaded: &mut Loaded, known: &mut BTreeMap<Box<str>, u32>, record: Record) -> Result<(), String> {
    match record {
        Record::Begin(_) => return Err("a second `begin`".to_owned()),
        Record::Stream(stream) | Record::Decided(stream) => {
            let PlannedStream { repository, items, manifest_links, layer_links } = stream;
            let repository = loaded.repository(known, &repository);
            let goes = loaded.items.entry(repository).or_default();
            for item in items {
                if !goes.contains(&item) {
                    goes.push(item);
                }
            }
            for (kind, digests) in [(LinkKind::Manifest, manifest_links), (LinkKind::Layer, layer_links)] {
                for text in digests {
                    let id = loaded.names.intern(digest(&text)?);
                    loaded.links.entry((repository, kind, id)).or_default();
                }
            }
        }
        Record::Image { name, uid: text } => {
            let id = loaded.names.intern(&name);
            loaded.images.insert(id, LoadedImage { uid: text.as_deref().and_then(uid), done: false });
        }
        Record::Blob { digest: text, bytes, repositories } => {
            let id = loaded.names.intern(digest(&text)?);
            let repositories = repositories.iter().map(|name| loaded.repository(known, name)).collect();
            loaded.blobs.insert(id, LoadedBlob { bytes, repositories, ..LoadedBlob::default() });
        }
        Record::Planned { .. } => loaded.planned = true,
        Record::Done { step, ms: _ } => {
            loaded.steps += 1;
            done(loaded, known, &step)?;
        }
        Record::Note { name, value: Value::Null } => drop(loaded.notes.remove(&name)),
        Record::Note { name, value } => drop(loaded.notes.insert(name, value)),
        Record::Resumed(resumed) => {
            loaded.resumed.push(resumed);
            loaded.end = None;
        }
        Record::End(end) => loaded.end = Some(end),
    }
    Ok(())
}

fn done(loaded: &mut Loaded, known: &mut BTreeMap<Box<str>, u32>, step: &Step) -> Result<(), String> {
    let mut link = |kind, repository: &str, text: &str| -> Result<(), String> {
        let repository = loaded.repository(known, repository);
        let id = loaded.names.intern(digest(text)?);
        loaded.links.insert((repository, kind, id), true);
        Ok(())
    };
    match step {
        Step::Items { .. } => {}
        Step::ManifestLink { repository, digest } => link(LinkKind::Manifest, repository, digest)?,
        Step::LayerLink { repository, digest } => link(LinkKind::Layer, repository, digest)?,
        Step::Blob { digest: text, forgotten } => {
            let id = loaded.names.intern(digest(text)?);
            let blob = loaded.blobs.entry(id).or_default();
            (blob.done, blob.forgotten) = (true, *forgotten);
        }
        Step::Image { name } => {
            let id = loaded.names.intern(name);
            loaded.images.entry(id).or_default().done = true;
        }
    }
    Ok(())
}

/// An object as it was before the run changed or deleted it: a line of the file beside the journal.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Object<'a> {
    /// An Image.
    #[serde(borrow)]
    Image(&'a RawValue),
    /// An `ImageStream`.
    #[serde(borrow)]
    Stream(&'a RawValue),
}

impl Object<'_> {
    /// The line, with its end.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn line(&self) -> io::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        // A server may answer with line breaks, which mean nothing outside of strings, where there can be none.
        line.retain(|byte| *byte != b'\n' && *byte != b'\r');
        line.push(b'\n');
        Ok(line)
    }
}

/// Reads the objects beside a journal, one by one; a torn last line is ignored.
///
/// # Errors
/// A line that is no object, and what `each` answers.
pub fn objects(
    mut input: impl BufRead,
    mut each: impl FnMut(Object<'_>) -> io::Result<()>,
) -> Result<(), Unreadable> {
    let mut line = Vec::new();
    for number in 1.. {
        match next_line(&mut input, &mut line)? {
            Line::Whole => {}
            Line::Torn | Line::End => break,
        }
        let object = serde_json::from_slice(&line)
            .map_err(|error| Unreadable::Line { line: number, why: brief(&error.to_string()) })?;
        each(object)?;
    }
    Ok(())
}

/// The object as it can be created again: without what only the server sets. Nothing if it is no object.
#[must_use]
pub fn export(kind: &str, raw: &str) -> Option<Value> {
    let Ok(Value::Object(fields)) = serde_json::from_str::<Value>(raw) else { return None };
    let mut object = serde_json::Map::new();
    object.insert("apiVersion".to_owned(), "image.openshift.io/v1".into());
    object.insert("kind".to_owned(), kind.into());
    object.extend(fields.into_iter().filter(|(name, _)| name != "apiVersion" && name != "kind"));
    if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
        for field in
            ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"]
        {
            metadata.shift_remove(field);
        }
    }
    Some(object.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn header() -> Header {
        Header {
            version: VERSION,
            program: "0.1.0".into(),
            server: "https://api:6443".into(),
            cluster: "api-1".into(),
            user: "admin".into(),
            host: "laptop".into(),
            pid: 7,
            started: Timestamp::UNIX_EPOCH,
            selection: Selection {
                now: Timestamp::UNIX_EPOCH,
                keep_tag_revisions: Some(3),
                keep_younger_than: Some(SignedDuration::from_mins(60)),
                all: true,
                namespace: None,
                selector: None,
                referrers_from: Vec::new(),
                prune_registry: true,
                ignore_invalid_refs: false,
            },
        }
    }

    fn stream(links: &[char]) -> PlannedStream {
        PlannedStream {
            repository: "shop/web".into(),
            items: vec![PlannedItem { tag: "latest".into(), image: digest('a'), created: 5 }],
            manifest_links: vec![digest('a')],
            layer_links: links.iter().copied().map(digest).collect(),
        }
    }

    fn done(step: Step) -> Record {
        Record::Done { step, ms: 3 }
    }

    fn records() -> Vec<Record> {
        vec![
            Record::Begin(header()),
            Record::Stream(stream(&['b'])),
            Record::Image { name: digest('a'), uid: Some("8ded3349-5a58-434c-8a04-7de89a824d07".into()) },
            Record::Blob { digest: digest('b'), bytes: Some(9), repositories: vec!["shop/web".into()] },
            Record::Blob { digest: digest('a'), bytes: None, repositories: vec!["shop/web".into()] },
            Record::Planned { streams: 1, images: 1, blobs: 2 },
            Record::Decided(stream(&['b', 'c'])),
            done(Step::Items { repository: "shop/web".into(), items: 1 }),
            done(Step::ManifestLink { repository: "shop/web".into(), digest: digest('a') }),
            done(Step::LayerLink { repository: "shop/web".into(), digest: digest('b') }),
            done(Step::Blob { digest: digest('b'), forgotten: true }),
            done(Step::Image { name: digest('a') }),
            Record::Note { name: "readOnly".into(), value: Value::Null },
            Record::Note { name: "x".into(), value: 1.into() },
        ]
    }

    fn text(records: &[Record]) -> Vec<u8> {
        records.iter().flat_map(|record| record.line().unwrap()).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let loaded = read(&*text(&records())).unwrap();
        assert_eq!(loaded.header, header());
        assert!(loaded.planned && loaded.end.is_none() && !loaded.is_clean());
        assert_eq!(loaded.steps, 5);
        assert_eq!(loaded.items[&0].len(), 1, "an item that was decided about twice goes once");
        let left: Vec<_> = loaded.links.iter().filter(|(_, done)| !**done).map(|(link, _)| *link).collect();
        let id = |c| loaded.names.find(&digest(c)).unwrap();
        assert_eq!(left, [(0, LinkKind::Layer, id('c'))]);
        let blob = &loaded.blobs[&id('b')];
        assert!(blob.done && blob.forgotten && blob.bytes == Some(9) && blob.repositories == [0]);
        assert!(!loaded.blobs[&id('a')].done);
        let image = &loaded.images[&id('a')];
        assert_eq!((image.done, image.uid), (true, Some(0x8ded_3349_5a58_434c_8a04_7de8_9a82_4d07)));
        assert_eq!(loaded.notes.keys().collect::<Vec<_>>(), ["x"]);
    }

    #[test]
    fn a_torn_last_line_is_ignored_wherever_it_is_torn() {
        let whole = text(&records());
        let first = records()[0].line().unwrap().len();
        for end in first..whole.len() {
            let loaded = read(&whole[..end]).unwrap();
            let lines = whole[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            assert_eq!(loaded.whole, lines as u64);
        }
        for end in 0..first {
            assert!(matches!(read(&whole[..end]), Err(Unreadable::NoJournal(_))), "{end}");
        }
        // A file system that lost power may have the length, and not the content.
        let mut zeros = whole.clone();
        zeros.extend([0; 4096]);
        assert_eq!(read(&*zeros).unwrap().whole, whole.len() as u64);
    }

    #[test]
    fn garbage_is_told_with_its_line() {
        let error = |text: &[u8]| read(text).unwrap_err().to_string();
        let with = |line: &str| [&text(&records()[..2]), line.as_bytes(), b"\n"].concat();
        assert!(error(b"{}\n").starts_with("it is no journal: "));
        assert!(error(b"Summary\n").starts_with("it is no journal: "));
        assert!(error(&text(&records()[1..])).contains("does not begin"));
        assert!(error(&with("")).starts_with("line 3: "), "{}", error(&with("")));
        assert!(error(&with("{\"record\":\"x\"}")).starts_with("line 3: unknown variant `x`"));
        let link = r#"{"record":"done","kind":"blob","digest":"../../etc","ms":1}"#;
        assert_eq!(error(&with(link)), "line 3: \"../../etc\" is no digest");
        assert_eq!(error(&text(&[records()[0].clone(), records()[0].clone()])), "line 2: a second `begin`");
        let newer = r#"{"record":"begin","version":2,"other":1}"#;
        let said = error(format!("{newer}\n").as_bytes());
        assert!(said.starts_with("it is of version 2"), "{said}");
    }

    #[test]
    fn how_it_ended_says_whether_something_is_left() {
        let end = |orphans, cache_may_lie, early: Option<&str>| {
            let end = End {
                at: Timestamp::UNIX_EPOCH,
                early: early.map(Into::into),
                failures: 0,
                orphans,
                cache_may_lie,
            };
            let mut records = records();
            records.pop();
            records.push(Record::End(end));
            let loaded = read(&*text(&records)).unwrap();
            (loaded.is_clean(), loaded.is_finished())
        };
        assert_eq!(end(0, false, None), (true, true));
        assert_eq!(end(1, false, None), (false, false));
        assert_eq!(end(0, true, None), (false, false));
        assert_eq!(end(0, false, Some("timeout")), (true, false));
        let mut again = records();
        again.pop();
        let over =
            End { at: Timestamp::UNIX_EPOCH, early: None, failures: 0, orphans: 0, cache_may_lie: false };
        again.push(Record::End(over));
        again.push(Record::Resumed(Resumed {
            user: "a".into(),
            host: "b".into(),
            pid: 1,
            started: Timestamp::UNIX_EPOCH,
        }));
        assert!(!read(&*text(&again)).unwrap().is_clean(), "another run has begun since");
        let void = read(&*text(&records()[..3])).unwrap();
        assert!(void.is_finished(), "nothing was changed before the plan was complete");
    }

    #[test]
    fn objects_are_kept_as_they_were_and_can_be_created_again() {
        let raw = r#"{"metadata":{"name":"x","uid":"1","resourceVersion":"7","annotations":{"a":"b"}},"dockerImageReference":"r","n":1.50}"#;
        let boxed = RawValue::from_string(raw.to_owned()).unwrap();
        let pretty = RawValue::from_string("{\n\"metadata\": {}\r\n}".to_owned()).unwrap();
        let mut lines = Object::Image(&boxed).line().unwrap();
        lines.extend(Object::Stream(&pretty).line().unwrap());
        lines.extend(b"{\"image\":{\"torn");
        let mut seen = Vec::new();
        objects(&*lines, |object| {
            seen.push(match object {
                Object::Image(raw) => format!("image {}", raw.get()),
                Object::Stream(raw) => format!("stream {}", raw.get()),
            });
            Ok(())
        })
        .unwrap();
        assert_eq!(seen, [format!("image {raw}"), "stream {\"metadata\": {}}".to_owned()]);
        assert_eq!(
            export("Image", raw).unwrap().to_string(),
            r#"{"apiVersion":"image.openshift.io/v1","kind":"Image","metadata":{"name":"x","annotations":{"a":"b"}},"dockerImageReference":"r","n":1.5}"#
        );
        assert_eq!(export("Image", "7"), None);
        assert!(matches!(objects(&b"{}\n"[..], |_| Ok(())), Err(Unreadable::Line { line: 1, .. })));
    }
}
