//! Reads one page of a list and keeps of each object what the plan needs.
//!
//! Go's JSON reader takes `null` for "nothing" anywhere, and real objects are full of it; so does this one.
//! Strings that are not used are skipped, not copied: a manifest of 10 MB in an Image costs nothing here.

mod protobuf;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::value::{BorrowedStrDeserializer, Error as PlainError};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, Expected, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess,
    Unexpected, Visitor,
};
use serde_json::value::RawValue;

use crate::model::{
    Id, Image, Images, Import, Item, Kind, LimitRange, Mention, Names, Quantity, Referrer, Referrers,
    Selector, Source, Stream, Tag, TargetText, Uuid, Word, pull_spec,
};
use crate::wire::{self, Value, WireError};

/// The label and annotation that protects what carries it.
pub(super) const KEEP_MARK: &str = "prune-images/keep";
const MANAGED_ANNOTATION: &str = "openshift.io/image.managed";
const LIMIT_TYPE_IMAGE: &str = "openshift.io/Image";

/// A string; `null` is the empty one.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl std::ops::Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;
        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
            fn visit_unit<E>(self) -> Result<Text<'de>, E> {
                Ok(Text::default())
            }
        }
        deserializer.deserialize_any(TextVisitor)
    }
}

/// `null` and absence are the default value.
fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// JSON that is looked at later, if at all.
#[derive(Debug, Default, Clone, Copy)]
struct Raw<'a>(Option<&'a str>);

impl<'de: 'a, 'a> Deserialize<'de> for Raw<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Option::<&RawValue>::deserialize(deserializer)?.map(RawValue::get)))
    }
}

/// Seconds since the Unix epoch; absent and `null` are Go's zero time. A fraction counts as a whole second, so
/// that nothing looks older than it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Time(i64);

impl Default for Time {
    fn default() -> Self {
        Self(i64::MIN)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Text::deserialize(deserializer)?;
        if text.is_empty() {
            return Ok(Self::default());
        }
        if let Some(seconds) = whole_seconds(&text) {
            return Ok(Self(seconds));
        }
        let time: jiff::Timestamp =
            text.parse().map_err(|_| D::Error::custom(format_args!("{:?} is no RFC 3339 time", &*text)))?;
        Ok(Self(time.as_second() + i64::from(time.subsec_nanosecond() > 0)))
    }
}

/// The time in the form that Kubernetes writes, `2026-01-02T03:04:05Z`, which is read ten times as fast this way.
/// `None` for any other form and for what may be no time at all.
fn whole_seconds(text: &str) -> Option<i64> {
    let text: &[u8; 20] = text.as_bytes().try_into().ok()?;
    let number = |range: std::ops::Range<usize>| {
        text[range]
            .iter()
            .try_fold(0, |sum, digit| digit.is_ascii_digit().then(|| sum * 10 + i64::from(digit - b'0')))
    };
    let marked = [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':'), (19, b'Z')];
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    // Days that not every month has are left to the thorough reading.
    let is_plain = marked.iter().all(|(at, mark)| text[*at] == *mark)
        && (1..=12).contains(&month)
        && (1..=28).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    // Years are counted from March, so that the day of a leap year is the last one (Howard Hinnant's `days_from_civil`).
    let year = if month < 3 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days =
        year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468;
    is_plain.then_some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// The two labels and annotations that matter.
#[derive(Debug, Default, Clone, Copy)]
struct Marked {
    keep: bool,
    managed: bool,
}

impl<'de> Deserialize<'de> for Marked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MarkedVisitor;
        impl<'de> Visitor<'de> for MarkedVisitor {
            type Value = Marked;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Marked, A::Error> {
                let mut marked = Marked::default();
                while let Some(key) = map.next_key::<Text>()? {
                    match &*key {
                        KEEP_MARK => marked.keep = &*map.next_value::<Text>()? == "true",
                        MANAGED_ANNOTATION => marked.managed = &*map.next_value::<Text>()? == "true",
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(marked)
            }
        }
        deserializer.deserialize_map(MarkedVisitor)
    }
}

/// The labels of a stream, which a selector may ask for.
#[derive(Debug, Default)]
struct Labels<'a>(Vec<(Text<'a>, Text<'a>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Labels<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;
        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = Labels<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of strings")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels<'de>, A::Error> {
                let mut labels = Vec::new();
                while let Some(label) = map.next_entry()? {
                    labels.push(label);
                }
                Ok(Labels(labels))
            }
        }
        deserializer.deserialize_map(LabelsVisitor)
    }
}

/// Whether labels protect what carries them.
trait Protecting {
    fn keep(&self) -> bool;
}

impl Protecting for Marked {
    fn keep(&self) -> bool {
        self.keep
    }
}

impl Protecting for Labels<'_> {
    fn keep(&self) -> bool {
        self.0.iter().any(|(key, value)| &**key == KEEP_MARK && &**value == "true")
    }
}

/// Kind and name of the controller among the owners.
#[derive(Debug, Default)]
struct Controller<'a>(Option<(Text<'a>, Text<'a>)>);

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct OwnerReference<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    controller: bool,
}

impl<'a> OwnerReference<'a> {
    fn named(self) -> Controller<'a> {
        Controller(Some((self.kind, self.name)))
    }
}

impl Controller<'_> {
    fn intern(&self, names: &mut Names) -> Option<Word> {
        let (kind, name) = self.0.as_ref()?;
        Some(names.words.intern_joined(&[kind, "/", name]))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Controller<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OwnersVisitor;
        impl<'de> Visitor<'de> for OwnersVisitor {
            type Value = Controller<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of owners")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut owners: A) -> Result<Controller<'de>, A::Error> {
                let mut controller = Controller(None);
                while let Some(owner) = owners.next_element::<OwnerReference>()? {
                    if owner.controller {
                        controller = owner.named();
                    }
                }
                Ok(controller)
            }
        }
        deserializer.deserialize_seq(OwnersVisitor)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, bound(deserialize = "L: Default + Deserialize<'de>, 'de: 'a"))]
struct Metadata<'a, L = Marked> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    namespace: Text<'a>,
    #[serde(borrow)]
    uid: Text<'a>,
    #[serde(borrow)]
    resource_version: Text<'a>,
    creation_timestamp: Time,
    #[serde(deserialize_with = "nullable")]
    labels: L,
    #[serde(deserialize_with = "nullable")]
    annotations: Marked,
    #[serde(borrow, deserialize_with = "nullable")]
    owner_references: Controller<'a>,
}

impl<L: Protecting> Metadata<'_, L> {
    fn is_protected(&self) -> bool {
        self.labels.keep() || self.annotations.keep
    }
}

/// What a page of a list says about itself.
#[derive(Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PageMetadata {
    /// The state that the list shows.
    #[serde(deserialize_with = "nullable")]
    pub(super) resource_version: String,
    /// The token for the next page; empty on the last one.
    #[serde(rename = "continue", deserialize_with = "nullable")]
    pub(super) next: String,
}

/// An object that cannot be used: the run stops, because nobody knows what it protects.
#[derive(Debug, thiserror::Error)]
pub(super) enum DecodeError {
    /// The page is no list in JSON.
    #[error("malformed answer: {0}")]
    Malformed(#[from] serde_json::Error),
    /// An object without a name.
    #[error("malformed answer: object {0} of the page has no name")]
    NoName(usize),
    /// The answer is JSON, but no list.
    #[error("malformed answer: no items in it")]
    NoItems,
    /// The page is no list in protobuf.
    #[error("malformed answer: {0}")]
    Protobuf(#[from] WireError),
}

/// Reads a page of objects of this kind, in whichever format it is, and hands each to `take` as it comes.
pub(super) fn page<'a, T: Object<'a>>(
    page: &'a [u8],
    kind: Option<&Kind>,
    take: impl FnMut(T),
) -> Result<PageMetadata, DecodeError> {
    match wire::object(page) {
        Some(object) => protobuf::list(object?, kind, take),
        None => list(page, take),
    }
}

/// What stands in front of the objects of a page in JSON, where it is looked for.
const HEAD: usize = 16 << 10;

/// The token for the page behind one of which only the beginning is there, if it can be told by now: the API server
/// writes the metadata of a list in front of its items. Empty where there is none, or where it will not be told.
pub(super) fn next_of_beginning(beginning: &[u8]) -> Option<String> {
    const ITEMS: &[u8] = b"\"items\":";
    if let Some(list) = wire::beginning(beginning) {
        return protobuf::metadata(list).map(|metadata| metadata.next);
    }
    let head = &beginning[..beginning.len().min(HEAD)];
    let Some(end) = head.windows(ITEMS.len()).position(|window| window == ITEMS) else {
        return (head.len() == HEAD).then(String::new);
    };
    // What stands in front of the items is an object but for its end.
    let mut object = head[..end].trim_ascii_end().strip_suffix(b",").unwrap_or_default().to_vec();
    object.push(b'}');
    let seed = ListSeed { take: &mut |_: NamespaceObject<'_>| {}, object: PhantomData };
    let read = seed.deserialize(&mut serde_json::Deserializer::from_slice(&object));
    Some(read.map(|(metadata, _)| metadata.next).unwrap_or_default())
}

/// Reads a page in JSON, and hands every object to `take` as it comes.
fn list<'de, T, F>(page: &'de [u8], mut take: F) -> Result<PageMetadata, DecodeError>
where
    T: Deserialize<'de> + Named,
    F: FnMut(T),
{
    let mut nameless = None;
    let mut position = 0;
    let mut checked = |object: T| {
        if object.is_nameless() {
            nameless.get_or_insert(position);
        }
        position += 1;
        take(object);
    };
    let mut deserializer = serde_json::Deserializer::from_slice(page);
    let seed = ListSeed { take: &mut checked, object: PhantomData };
    let (metadata, has_items) = seed.deserialize(&mut deserializer)?;
    deserializer.end()?;
    match nameless {
        Some(position) => Err(DecodeError::NoName(position)),
        None if !has_items => Err(DecodeError::NoItems),
        None => Ok(metadata),
    }
}

/// An object of a list in either format.
pub(super) trait Object<'a>: Deserialize<'a> + Default + Named {
    /// Takes a field of protobuf's; the kind decides where its parts stand.
    fn of_field(&mut self, kind: Option<&Kind>, number: u32, value: Value<'a>) -> Result<(), WireError>;
}

/// An object of a list: each has a name, and one without is no object.
pub(super) trait Named {
    /// Whether `metadata.name` is empty.
    fn is_nameless(&self) -> bool;
}

struct ListSeed<'f, T, F> {
    take: &'f mut F,
    object: PhantomData<T>,
}

impl<'de, T, F> DeserializeSeed<'de> for ListSeed<'_, T, F>
where
    T: Deserialize<'de>,
    F: FnMut(T),
{
    type Value = (PageMetadata, bool);
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T, F> Visitor<'de> for ListSeed<'_, T, F>
where
    T: Deserialize<'de>,
    F: FnMut(T),
{
    type Value = (PageMetadata, bool);
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut metadata = PageMetadata::default();
        let mut has_items = false;
        while let Some(key) = map.next_key::<Text>()? {
            match &*key {
                "metadata" => metadata = map.next_value::<Option<PageMetadata>>()?.unwrap_or_default(),
                "items" => {
                    has_items = true;
                    map.next_value_seed(ItemsSeed { take: &mut *self.take, object: PhantomData })?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((metadata, has_items))
    }
}

struct ItemsSeed<'f, T, F> {
    take: &'f mut F,
    object: PhantomData<T>,
}

impl<'de, T, F> DeserializeSeed<'de> for ItemsSeed<'_, T, F>
where
    T: Deserialize<'de>,
    F: FnMut(T),
{
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T, F> Visitor<'de> for ItemsSeed<'_, T, F>
where
    T: Deserialize<'de>,
    F: FnMut(T),
{
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of objects")
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut objects: A) -> Result<(), A::Error> {
        while let Some(object) = objects.next_element::<T>()? {
            (self.take)(object);
        }
        Ok(())
    }
}

macro_rules! named {
    ($($object:ident),*) => {
        $(impl Named for $object<'_> {
            fn is_nameless(&self) -> bool {
                self.metadata.name.is_empty()
            }
        })*
    };
}

named!(ImageObject, StreamObject, PodObject, TemplateObject, CronJobObject, RevisionObject, BuildObject);
named!(LimitRangeObject, NamespaceObject);

/// An Image object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ImageObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow)]
    docker_image_reference: Text<'a>,
    #[serde(borrow)]
    docker_image_metadata: DockerMetadata<'a>,
    #[serde(borrow)]
    docker_image_manifest_media_type: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    docker_image_layers: Vec<LayerObject<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    docker_image_manifests: Vec<ManifestObject<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LayerObject<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    size: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ManifestObject<'a> {
    #[serde(borrow)]
    digest: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    manifest_size: i64,
}

/// `dockerImageMetadata`: `None` if it is absent or `null`; the error says why it cannot be decoded.
///
/// It is decoded with the Image around it, which goes on behind what does not fit: the text is long, and is read once.
#[derive(Debug)]
struct DockerMetadata<'a>(Result<Option<DockerImage<'a>>, String>);

impl Default for DockerMetadata<'_> {
    fn default() -> Self {
        Self(Ok(None))
    }
}

/// The fields of `dockerImageMetadata` that the rules read.
#[derive(Debug, Default)]
struct DockerImage<'a> {
    id: Text<'a>,
    size: i64,
}

impl<'de: 'a, 'a> Deserialize<'de> for DockerMetadata<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DockerVisitor).map(Self)
    }
}

struct DockerVisitor;

impl<'de> Visitor<'de> for DockerVisitor {
    type Value = Result<Option<DockerImage<'de>>, String>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the metadata of an image")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Ok(None))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut image = DockerImage::default();
        let mut fields = Lenient { seen: 0, problem: None };
        while let Some(key) = map.next_key::<Text>()? {
            // Those besides the two make the whole undecodable in the reference if they are of a wrong type
            // (openshift/api `docker10.DockerImage`).
            match &*key {
                "Id" | "ID" | "id" => image.id = fields.next(0, &mut map)?,
                "Size" | "size" => image.size = fields.next::<Count, _>(1, &mut map)?.0,
                "Created" | "created" => _ = fields.next::<Time, _>(2, &mut map)?,
                "Parent" | "parent" => _ = fields.next::<Text, _>(3, &mut map)?,
                "Comment" | "comment" => _ = fields.next::<Text, _>(4, &mut map)?,
                "Container" | "container" => _ = fields.next::<Text, _>(5, &mut map)?,
                "DockerVersion" | "dockerVersion" => _ = fields.next::<Text, _>(6, &mut map)?,
                "Author" | "author" => _ = fields.next::<Text, _>(7, &mut map)?,
                "Architecture" | "architecture" => _ = fields.next::<Text, _>(8, &mut map)?,
                _ => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(fields.problem.map_or(Ok(Some(image)), Err))
    }
    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Err(mistyped(Unexpected::Bool(value), &self)))
    }
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Err(mistyped(Unexpected::Signed(value), &self)))
    }
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Err(mistyped(Unexpected::Unsigned(value), &self)))
    }
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Err(mistyped(Unexpected::Float(value), &self)))
    }
    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Err(mistyped(Unexpected::Str(text), &self)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_seq(list)?;
        Ok(Err(mistyped(Unexpected::Seq, &self)))
    }
}

/// Reads fields, and goes on behind what is of a wrong type.
struct Lenient {
    /// The fields that were there, as bits.
    seen: u16,
    /// What the first one was that did not fit.
    problem: Option<String>,
}

impl Lenient {
    /// The value of the field that is due, which is the field of this number; the default if it does not fit.
    fn next<'de, T, A>(&mut self, field: u8, map: &mut A) -> Result<T, A::Error>
    where
        T: Default + Deserialize<'de>,
        A: MapAccess<'de>,
    {
        let again = self.seen & (1 << field) != 0;
        self.seen |= 1 << field;
        let read = map
            .next_value::<Fitting<T>>()?
            .0
            .and_then(|value| if again { Err("a field is there twice".to_owned()) } else { Ok(value) });
        read.or_else(|problem| {
            self.problem.get_or_insert(problem);
            Ok(T::default())
        })
    }
}

/// A plain value, or what is there instead.
struct Fitting<T>(Result<T, String>);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Fitting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(FittingVisitor(PhantomData)).map(Self)
    }
}

struct FittingVisitor<T>(PhantomData<T>);

impl<T> FittingVisitor<T> {
    fn read<'de>(from: impl Deserializer<'de, Error = PlainError>) -> Result<T, String>
    where
        T: Deserialize<'de>,
    {
        T::deserialize(from).map_err(|error| error.to_string())
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for FittingVisitor<T> {
    type Value = Result<T, String>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a plain value")
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Self::read(().into_deserializer()))
    }
    fn visit_bool<E>(self, value: bool) -> Result<Self::Value, E> {
        Ok(Self::read(value.into_deserializer()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Self::read(value.into_deserializer()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Self::Value, E> {
        Ok(Self::read(value.into_deserializer()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Self::Value, E> {
        Ok(Self::read(value.into_deserializer()))
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Self::read(BorrowedStrDeserializer::new(text)))
    }
    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Self::read(text.into_deserializer()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_seq(list)?;
        Ok(Err(mistyped(Unexpected::Seq, &self)))
    }
    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        IgnoredAny.visit_map(map)?;
        Ok(Err(mistyped(Unexpected::Map, &self)))
    }
}

/// The words for something else than what was expected.
fn mistyped(found: Unexpected<'_>, expected: &dyn Expected) -> String {
    PlainError::invalid_type(found, expected).to_string()
}

/// An integer; `null` is 0.
#[derive(Debug, Default, Clone, Copy)]
struct Count(i64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct CountVisitor;
        impl Visitor<'_> for CountVisitor {
            type Value = Count;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }
            fn visit_unit<E>(self) -> Result<Count, E> {
                Ok(Count::default())
            }
            fn visit_i64<E>(self, value: i64) -> Result<Count, E> {
                Ok(Count(value))
            }
            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Count, E> {
                let fits = i64::try_from(value).map(Count);
                fits.map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
            }
        }
        deserializer.deserialize_any(CountVisitor)
    }
}

/// The Image objects as they arrive, with what else they tell.
#[derive(Debug, Default)]
pub(super) struct ImageReader {
    pub(super) images: Images,
    /// Hosts in `dockerImageReference` of managed images, with how many name them.
    pub(super) managed_hosts: BTreeMap<Box<str>, usize>,
    /// Images whose metadata cannot be decoded, and why.
    pub(super) undecodable: Vec<(String, String)>,
}

impl ImageReader {
    pub(super) fn take(&mut self, names: &mut Names, object: &ImageObject<'_>) {
        if let Err(error) = object.reduce(names, &mut self.images, false) {
            self.undecodable.push((object.metadata.name.to_string(), error));
        }
        if object.metadata.annotations.managed
            && let Some((host, _)) = object.docker_image_reference.split_once('/')
        {
            match self.managed_hosts.get_mut(host) {
                Some(count) => *count += 1,
                None => drop(self.managed_hosts.insert(host.into(), 1)),
            }
        }
    }
}

/// Reads a single Image.
pub(super) fn image(object: &[u8]) -> Result<ImageObject<'_>, DecodeError> {
    let image: ImageObject<'_> = serde_json::from_slice(object)?;
    if image.is_nameless() { Err(DecodeError::NoName(0)) } else { Ok(image) }
}

/// Reads a single image stream.
pub(super) fn stream(object: &[u8]) -> Result<StreamObject<'_>, DecodeError> {
    let stream: StreamObject<'_> = serde_json::from_slice(object)?;
    if stream.is_nameless() { Err(DecodeError::NoName(0)) } else { Ok(stream) }
}

impl ImageObject<'_> {
    /// Adds what the plan needs of it; the error says why its metadata cannot be decoded.
    pub(super) fn reduce(
        &self,
        names: &mut Names,
        images: &mut Images,
        appeared: bool,
    ) -> Result<(), String> {
        let mut image = Image::named(names.intern(&self.metadata.name));
        image.uid = Uuid::parse(&self.metadata.uid);
        image.created = self.metadata.creation_timestamp.0;
        image.managed = self.metadata.annotations.managed;
        image.protected = self.metadata.is_protected();
        image.appeared = appeared;
        image.repository = repository_of(&self.docker_image_reference)
            .filter(|_| image.managed)
            .map(|name| names.words.intern(name));
        let media_type = &*self.docker_image_manifest_media_type;
        image.index = is_index(media_type);
        image.config_deletable = has_config(media_type);
        let mut decoded = Ok(());
        match &self.docker_image_metadata.0 {
            Ok(Some(metadata)) => {
                image.size = metadata.size;
                if !metadata.id.is_empty() && !image.index {
                    image.config = Some(names.intern(&metadata.id));
                }
            }
            Err(error) => {
                // Nobody knows which config it needs: as if it had none.
                image.metadata_absent = !image.index;
                decoded = Err(error.clone());
            }
            Ok(None) => image.metadata_absent = !image.index,
        }
        let mut layers: Vec<Id> = Vec::with_capacity(self.docker_image_layers.len());
        let mut rest = image.size;
        for layer in &self.docker_image_layers {
            let id = names.intern(&layer.name);
            if !layers.contains(&id) {
                rest = rest.saturating_sub(layer.size.max(0));
            }
            layers.push(id);
            images.set_blob_bytes(id, layer.size);
        }
        if let Some(config) = image.config.filter(|_| image.config_deletable) {
            // `dockerImageMetadata.Size` is the layers, each once, and the config (openshift-apiserver
            // `internalimageutil.InternalImageWithMetadata`).
            images.set_blob_bytes(config, rest);
        }
        let mut manifests: Vec<Id> = Vec::with_capacity(self.docker_image_manifests.len());
        for manifest in &self.docker_image_manifests {
            let id = names.intern(&manifest.digest);
            manifests.push(id);
            images.set_blob_bytes(id, manifest.manifest_size);
        }
        images.push(image, &layers, &manifests);
        decoded
    }
}

/// `namespace/name` of `host/namespace/name[:tag][@digest]`.
fn repository_of(pull_spec: &str) -> Option<&str> {
    let (_, path) = pull_spec.split_once('/')?;
    let name = path.split(['@', ':']).next()?;
    (name.matches('/').count() == 1).then_some(name)
}

fn is_index(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

fn has_config(media_type: &str) -> bool {
    matches!(
        media_type,
        "application/vnd.docker.distribution.manifest.v2+json" | "application/vnd.oci.image.manifest.v1+json"
    )
}

/// An image stream.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StreamObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a, Labels<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: StreamSpec<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    status: StreamStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamSpec<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    tags: Vec<SpecTag<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecTag<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    from: From<'a>,
    generation: Option<i64>,
    #[serde(deserialize_with = "nullable")]
    reference: bool,
    #[serde(deserialize_with = "nullable")]
    import_policy: ImportPolicy,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ImportPolicy {
    #[serde(deserialize_with = "nullable")]
    scheduled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct StreamStatus<'a> {
    #[serde(borrow)]
    docker_image_repository: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    tags: Vec<TagObject<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TagObject<'a> {
    #[serde(borrow)]
    tag: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    items: Vec<ItemObject<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    conditions: Vec<TagCondition<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ItemObject<'a> {
    created: Time,
    #[serde(borrow)]
    image: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    generation: i64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TagCondition<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(deserialize_with = "nullable")]
    generation: i64,
}

impl TagObject<'_> {
    /// How the tag is imported, by the tags of the spec (`tagImportable`, `tagNeedsImport` and `resetScheduledTags` of
    /// openshift-controller-manager).
    fn import(&self, spec: &[SpecTag<'_>]) -> Import {
        let Some(spec) = spec.iter().find(|spec| *spec.name == *self.tag) else { return Import::Never };
        if &*spec.from.kind != "DockerImage" || spec.reference {
            return Import::Never;
        }
        let imported = spec.generation.filter(|generation| *generation > 0).map(|generation| {
            let mut conditions = self.conditions.iter();
            let import = conditions.find(|condition| &*condition.kind == "ImportSuccess");
            let count = if import.is_some_and(|condition| condition.generation >= generation) {
                self.items.len()
            } else {
                self.items.iter().take_while(|item| item.generation >= generation).count()
            };
            u32::try_from(count).unwrap_or(u32::MAX)
        });
        // What is named by digest cannot have become another image.
        let is_scheduled = spec.import_policy.scheduled
            && pull_spec::parse(&spec.from.name).is_ok_and(|from| from.digest.is_empty());
        match imported {
            _ if is_scheduled => Import::Scheduled { imported: imported.unwrap_or(u32::MAX) },
            Some(imported) => Import::OnChange { imported },
            None => Import::Never,
        }
    }
}

impl StreamObject<'_> {
    /// What the plan needs of it.
    pub(super) fn reduce(&self, names: &mut Names, selector: Option<&Selector>) -> Stream {
        let label = |key: &str| {
            self.metadata.labels.0.iter().find(|(name, _)| **name == *key).map(|(_, value)| &**value)
        };
        let tags = self.status.tags.iter().map(|tag| Tag {
            name: names.words.intern(&tag.tag),
            items: tag
                .items
                .iter()
                .map(|item| Item { created: item.created.0, image: names.intern(&item.image) })
                .collect(),
            import: tag.import(&self.spec.tags),
        });
        Stream {
            namespace: self.metadata.namespace.as_ref().into(),
            name: self.metadata.name.as_ref().into(),
            resource_version: self.metadata.resource_version.as_ref().into(),
            created: self.metadata.creation_timestamp.0,
            protected: self.metadata.is_protected(),
            selected: selector.is_none_or(|selector| selector.matches(label)),
            tags: tags.collect(),
        }
    }

    /// The host in `status.dockerImageRepository`, with its slash, and the stream's creation time: which registry the
    /// server means.
    pub(super) fn registry(&self) -> Option<(i64, String)> {
        let repository = &*self.status.docker_image_repository;
        let host = repository.split_inclusive('/').next()?;
        Some((self.metadata.creation_timestamp.0, host.to_owned()))
    }
}

impl AsRef<str> for Text<'_> {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// A `LimitRange`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct LimitRangeObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: LimitRangeSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LimitRangeSpec<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    limits: Vec<LimitObject<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LimitObject<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    max: MaxObject<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MaxObject<'a> {
    #[serde(borrow)]
    storage: Option<QuantityText<'a>>,
}

/// A quantity: a string, or a bare number.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum QuantityText<'a> {
    #[serde(borrow)]
    Text(Cow<'a, str>),
    Number(serde_json::Number),
}

impl LimitRangeObject<'_> {
    /// The namespace, its limits of images, and the quantities that cannot be read.
    pub(super) fn reduce(&self) -> (Box<str>, Vec<LimitRange>, Vec<String>) {
        let mut limits = Vec::new();
        let mut unreadable = Vec::new();
        for limit in self.spec.limits.iter().filter(|limit| &*limit.kind == LIMIT_TYPE_IMAGE) {
            let text = match &limit.max.storage {
                Some(QuantityText::Text(text)) => text.to_string(),
                Some(QuantityText::Number(number)) => number.to_string(),
                None => continue,
            };
            match Quantity::parse(&text) {
                Some(max_storage) => {
                    limits.push(LimitRange { name: self.metadata.name.as_ref().into(), max_storage });
                }
                None => unreadable.push(text),
            }
        }
        (self.metadata.namespace.as_ref().into(), limits, unreadable)
    }
}

/// A namespace.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct NamespaceObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

impl NamespaceObject<'_> {
    /// Its name, if it carries the protecting label or annotation.
    pub(super) fn protected(&self) -> Option<Box<str>> {
        self.metadata.is_protected().then(|| self.metadata.name.as_ref().into())
    }
}

/// A pod.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: PodSpec<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    status: PodStatus<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus<'a> {
    #[serde(borrow)]
    phase: Text<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    container_statuses: Vec<ContainerStatus<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    init_container_statuses: Vec<ContainerStatus<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    ephemeral_container_statuses: Vec<ContainerStatus<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ContainerStatus<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow, rename = "imageID")]
    image_id: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    init_containers: Vec<Container<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    containers: Vec<Container<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    ephemeral_containers: Vec<Container<'a>>,
    #[serde(borrow, deserialize_with = "nullable")]
    volumes: Vec<Volume<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Container<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    image: Text<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Volume<'a> {
    #[serde(borrow)]
    name: Text<'a>,
    #[serde(borrow)]
    image: Option<ImageVolume<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ImageVolume<'a> {
    #[serde(borrow)]
    reference: Text<'a>,
}

impl PodSpec<'_> {
    /// Notes its references; in a `ControllerRevision` (`source` is `Extra`) none is one that the reference reads.
    fn mentions(&self, source: Source, reader: &mut ReferrerReader<'_>) {
        for container in &self.init_containers {
            reader.pull_spec(&["init container ", &container.name], source, &container.image);
        }
        for container in &self.containers {
            reader.pull_spec(&["container ", &container.name], source, &container.image);
        }
        for container in &self.ephemeral_containers {
            reader.pull_spec(&["ephemeral container ", &container.name], Source::Extra, &container.image);
        }
        for volume in &self.volumes {
            if let Some(image) = &volume.image {
                reader.pull_spec(&["volume ", &volume.name], Source::Extra, &image.reference);
            }
        }
    }

    /// The repository that a container is started from.
    fn repository_of(&self, container: &str) -> Option<(&str, &str)> {
        let mut all = self.containers.iter().chain(&self.init_containers).chain(&self.ephemeral_containers);
        let spec = all.find(|candidate| &*candidate.name == container)?;
        match TargetText::of_pull_spec(&spec.image)? {
            TargetText::Tag { namespace, stream, .. } | TargetText::Image { namespace, stream, .. } => {
                Some((namespace, stream))
            }
            _ => None,
        }
    }
}

/// Takes the objects that refer to images, as they arrive.
#[derive(Debug)]
pub(super) struct ReferrerReader<'r> {
    pub(super) names: &'r mut Names,
    pub(super) referrers: &'r mut Referrers,
}

impl ReferrerReader<'_> {
    /// Notes a reference of the object that is being read.
    fn mention(&mut self, place: &[&str], source: Source, target: TargetText<'_>) {
        let place = self.names.words.intern_joined(place);
        let target = target.intern(self.names);
        self.referrers.mention(Mention { place, source, target });
    }

    fn pull_spec(&mut self, place: &[&str], source: Source, value: &str) {
        if let Some(target) = TargetText::of_pull_spec(value) {
            self.mention(place, source, target);
        }
    }

    /// Notes a reference, unless the object has one to the same already.
    fn new_mention(&mut self, place: &[&str], source: Source, target: TargetText<'_>) {
        let target = target.intern(self.names);
        if !self.referrers.open().iter().any(|mention| mention.target == target) {
            let place = self.names.words.intern_joined(place);
            self.referrers.mention(Mention { place, source, target });
        }
    }

    /// Ends the object, of which nothing is kept if it refers to nothing.
    fn close(&mut self, kind: &Kind, metadata: &Metadata<'_>, finished_pod_created: Option<i64>) {
        if self.referrers.open().is_empty() {
            return;
        }
        let words = &mut self.names.words;
        let (namespace, name) = (words.intern(&metadata.namespace), words.intern(&metadata.name));
        let owner = metadata.owner_references.intern(self.names);
        let mut referrer = Referrer::named(kind.clone(), namespace, name);
        (referrer.owner, referrer.finished_pod_created) = (owner, finished_pod_created);
        self.referrers.close(referrer);
    }
}

/// An object that refers to images.
pub(super) trait Refers {
    /// Adds what it refers to; nothing if it has no reference at all.
    fn reduce(&self, kind: &Kind, reader: &mut ReferrerReader<'_>);
}

impl Refers for PodObject<'_> {
    fn reduce(&self, kind: &Kind, reader: &mut ReferrerReader<'_>) {
        self.spec.mentions(Source::Spec, reader);
        let PodStatus { phase, container_statuses, init_container_statuses, ephemeral_container_statuses } =
            &self.status;
        let statuses = [container_statuses, init_container_statuses, ephemeral_container_statuses];
        for status in statuses.into_iter().flatten() {
            let Some(target) = TargetText::of_image_id(&status.image_id) else { continue };
            let place = ["image that runs in container ", &status.name];
            // The runtime may report the digest under another repository than the pod was started from, and the
            // next start pulls from the latter.
            if let TargetText::Image { digest, .. } | TargetText::Digest(digest) = &target
                && let Some((namespace, stream)) = self.spec.repository_of(&status.name)
            {
                let started = TargetText::Image { namespace, stream, digest };
                reader.new_mention(&place, Source::Running, started);
            }
            reader.new_mention(&place, Source::Running, target);
        }
        let is_live = matches!(&**phase, "Running" | "Pending");
        let finished = (!is_live).then_some(self.metadata.creation_timestamp.0);
        reader.close(kind, &self.metadata, finished);
    }
}

/// An object with a pod template in its spec.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TemplateObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: TemplateSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct TemplateSpec<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    template: PodTemplate<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct PodTemplate<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    spec: PodSpec<'a>,
}

impl Refers for TemplateObject<'_> {
    fn reduce(&self, kind: &Kind, reader: &mut ReferrerReader<'_>) {
        self.spec.template.spec.mentions(Source::Spec, reader);
        reader.close(kind, &self.metadata, None);
    }
}

/// A `CronJob`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CronJobObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: CronJobSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CronJobSpec<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    job_template: JobTemplate<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct JobTemplate<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    spec: TemplateSpec<'a>,
}

impl Refers for CronJobObject<'_> {
    fn reduce(&self, kind: &Kind, reader: &mut ReferrerReader<'_>) {
        self.spec.job_template.spec.template.spec.mentions(Source::Spec, reader);
        reader.close(kind, &self.metadata, None);
    }
}

/// A `ControllerRevision`: the template that a rollback of a `DaemonSet` or `StatefulSet` would start.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RevisionObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    // Anything may stand in a revision's data; what has no pod template refers to nothing.
    #[serde(borrow)]
    data: Raw<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RevisionData<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    spec: TemplateSpec<'a>,
}

impl Refers for RevisionObject<'_> {
    fn reduce(&self, kind: &Kind, reader: &mut ReferrerReader<'_>) {
        if let Some(Ok(data)) = self.data.0.map(serde_json::from_str::<RevisionData>) {
            data.spec.template.spec.mentions(Source::Extra, reader);
            reader.close(kind, &self.metadata, None);
        }
    }
}

/// A Build or `BuildConfig`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct BuildObject<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    spec: BuildSpec<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BuildSpec<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    strategy: Strategy<'a>,
    #[serde(borrow, deserialize_with = "nullable")]
    source: BuildSource<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Strategy<'a> {
    #[serde(borrow, rename = "sourceStrategy")]
    source: Option<WithFrom<'a>>,
    #[serde(borrow, rename = "dockerStrategy")]
    docker: Option<WithFrom<'a>>,
    #[serde(borrow, rename = "customStrategy")]
    custom: Option<WithFrom<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct BuildSource<'a> {
    #[serde(borrow, deserialize_with = "nullable")]
    images: Vec<WithFrom<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct WithFrom<'a> {
    #[serde(borrow)]
    from: Option<From<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct From<'a> {
    #[serde(borrow)]
    kind: Text<'a>,
    #[serde(borrow)]
    namespace: Text<'a>,
    #[serde(borrow)]
    name: Text<'a>,
}

impl Refers for BuildObject<'_> {
    fn reduce(&self, kind: &Kind, reader: &mut ReferrerReader<'_>) {
        fn target<'a>(own: &'a str, from: &'a From<'_>) -> Option<TargetText<'a>> {
            let namespace = if from.namespace.is_empty() { own } else { &from.namespace };
            TargetText::of_build_source(&from.kind, namespace, &from.name)
        }
        let own = &self.metadata.namespace;
        let Strategy { source, docker, custom } = &self.spec.strategy;
        let strategy = source.as_ref().or(docker.as_ref()).or(custom.as_ref());
        let from = strategy.and_then(|strategy| strategy.from.as_ref());
        if let Some(target) = from.and_then(|from| target(own, from)) {
            reader.mention(&[], Source::Spec, target);
        }
        for from in self.spec.source.images.iter().filter_map(|image| image.from.as_ref()) {
            if let Some(target) = target(own, from) {
                reader.mention(&["source image"], Source::Extra, target);
            }
        }
        reader.close(kind, &self.metadata, None);
    }
}

/// An object of a resource named with `--referrers-from`: any string in it that is a pull spec of the form
/// `host/namespace/name` protects.
#[derive(Debug, Default)]
pub(super) struct AnyObject(serde_json::Value);

impl<'de> Deserialize<'de> for AnyObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde_json::Value::deserialize(deserializer).map(Self)
    }
}

impl Named for AnyObject {
    fn is_nameless(&self) -> bool {
        self.metadata("name").is_empty()
    }
}

impl AnyObject {
    fn metadata(&self, field: &str) -> &str {
        self.0.pointer(&format!("/metadata/{field}")).and_then(serde_json::Value::as_str).unwrap_or("")
    }

    fn controller(&self) -> Option<Controller<'_>> {
        let owners = self.0.pointer("/metadata/ownerReferences")?;
        Option::<Controller>::deserialize(owners).ok().flatten()
    }
}

impl Refers for AnyObject {
    fn reduce(&self, kind: &Kind, reader: &mut ReferrerReader<'_>) {
        fn walk(path: &str, value: &serde_json::Value, reader: &mut ReferrerReader<'_>) {
            match value {
                serde_json::Value::String(text) => {
                    if let Some(target @ (TargetText::Tag { .. } | TargetText::Image { .. })) =
                        TargetText::of_pull_spec(text)
                    {
                        reader.mention(&[path], Source::Extra, target);
                    }
                }
                serde_json::Value::Array(values) => {
                    for (position, value) in values.iter().enumerate() {
                        walk(&format!("{path}[{position}]"), value, reader);
                    }
                }
                serde_json::Value::Object(fields) => {
                    for (name, value) in fields {
                        walk(&format!("{path}.{name}"), value, reader);
                    }
                }
                _ => {}
            }
        }
        for (name, value) in self.0.as_object().into_iter().flatten() {
            if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                walk(&format!(".{name}"), value, reader);
            }
        }
        let text = |field| Text(Cow::Borrowed(self.metadata(field)));
        let metadata = Metadata {
            name: text("name"),
            namespace: text("namespace"),
            owner_references: self.controller().unwrap_or_default(),
            ..Metadata::default()
        };
        reader.close(kind, &metadata, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_alike_in_either_way() {
        for text in [
            "1970-01-01T00:00:00Z",
            "1969-12-28T23:59:59Z",
            "2024-02-28T23:59:59Z",
            "2024-03-01T00:00:00Z",
            "2100-03-01T00:00:00Z",
            "2000-12-28T12:34:56Z",
            "0001-01-01T00:00:00Z",
            "9999-12-01T00:00:00Z",
        ] {
            let thorough: jiff::Timestamp = text.parse().unwrap();
            assert_eq!(whole_seconds(text), Some(thorough.as_second()), "{text}");
        }
        for text in [
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-31T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:60:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01 00:00:00Z",
            "2026-01-01T00:00:0xZ",
            "2026-01-01T00:00:00+01:00",
            "",
        ] {
            assert_eq!(whole_seconds(text), None, "{text}");
        }
    }

    #[test]
    fn the_beginning_of_a_page_tells_where_the_next_one_begins() {
        let told = |page: &[u8]| next_of_beginning(page);
        let head =
            br#"{"kind":"ImageList","metadata":{"resourceVersion":"7","continue":"a\"items\":b"},"items":["#;
        assert_eq!(told(head), Some(r#"a"items":b"#.to_owned()));
        for length in 0..head.len() - 1 {
            assert_eq!(told(&head[..length]), None, "{length}");
        }
        // The last page, one that tells it behind the items, and what is no list.
        for page in [&br#"{"metadata":{},"items":[]}"#[..], br#"{"items":[],"metadata":{"continue":"a"}}"#] {
            assert_eq!(told(page), Some(String::new()));
        }
        assert_eq!(told(&[b' '; HEAD - 1]), None);
        assert_eq!(told(&[b' '; HEAD]), Some(String::new()));
    }

    #[test]
    fn so_does_one_in_protobuf() {
        // `runtime.Unknown` with a type, and a list with metadata and the beginning of an item.
        let page = b"k8s\0\x0a\x02\x0a\x00\x12\x80\x08\x0a\x07\x0a\x00\x1a\x03abc\x12\xff\x07rest";
        let end = page.len() - 7;
        assert_eq!(next_of_beginning(page), Some("abc".to_owned()));
        assert_eq!(next_of_beginning(&page[..end]), Some("abc".to_owned()));
        for length in 0..end {
            assert_eq!(next_of_beginning(&page[..length]), None, "{length}");
        }
    }
}
