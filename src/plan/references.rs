//! Which references count (`docs/decision.md`), indexed by what they protect.

use std::ops::Range;

use super::{Difference, Rules};
use crate::model::{Id, InvalidTarget, Inventory, Kind, Mention, Referrer, Source, Stream, Target, Word};

/// One reference: the position of a referrer in the inventory, and of the mention in the referrer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Use {
    referrer: u32,
    mention: u32,
}

impl Use {
    /// The object that refers.
    #[must_use]
    pub fn referrer(self, inventory: &Inventory) -> &Referrer {
        &inventory.referrers.all()[self.referrer as usize]
    }

    /// Takes the reference out of its object.
    pub(super) fn forget(self, inventory: &mut Inventory) {
        inventory.referrers.forget_mention(self.referrer as usize, self.mention as usize);
    }

    /// The reference in it.
    #[must_use]
    pub fn mention(self, inventory: &Inventory) -> &Mention {
        &inventory.referrers.mentions(self.referrer as usize)[self.mention as usize]
    }
}

/// A reference that does not parse: the run stops, unless `--ignore-invalid-refs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidReference(pub(super) Use);

impl InvalidReference {
    /// Where it stands.
    #[must_use]
    pub fn place(self) -> Use {
        self.0
    }

    /// The reference implementation's line about it.
    #[must_use]
    pub fn describe(self, inventory: &Inventory) -> String {
        let (referrer, mention) = (self.0.referrer(inventory), self.0.mention(inventory));
        let text = |word: Word| inventory.names.words.text(word);
        let place = match text(mention.place) {
            "" => String::new(),
            place => format!("{place}: "),
        };
        let Target::Invalid(invalid) = &mention.target else { return String::new() };
        let InvalidTarget { expected, value, error, readable: _ } = &**invalid;
        format!(
            "{}/{} namespace={}: {place}invalid {expected} reference {value:?}: {error}",
            referrer.kind.word(),
            text(referrer.name),
            text(referrer.namespace)
        )
    }
}

/// Uses of things, sorted by what is used.
#[derive(Debug, Clone)]
struct Uses<K> {
    keys: Vec<K>,
    uses: Vec<Use>,
}

impl<K: Ord + Copy> Uses<K> {
    fn of(mut all: Vec<(K, Use)>) -> Self {
        all.sort_unstable();
        Self {
            keys: all.iter().map(|(key, _)| *key).collect(),
            uses: all.iter().map(|(_, place)| *place).collect(),
        }
    }

    /// Where the uses of these things stand: those whose part of the key is `wanted`.
    fn range<P: Ord>(&self, within: Range<usize>, part: impl Fn(&K) -> P, wanted: &P) -> Range<usize> {
        let keys = &self.keys[within.clone()];
        let begin = keys.partition_point(|key| part(key) < *wanted);
        let count = keys[begin..].partition_point(|key| part(key) == *wanted);
        within.start + begin..within.start + begin + count
    }

    /// The things that are used in a range, with their uses.
    fn each<P: PartialEq>(
        &self,
        mut range: Range<usize>,
        part: impl Fn(&K) -> P,
    ) -> impl Iterator<Item = (P, &[Use])> {
        std::iter::from_fn(move || {
            let key = part(self.keys[range.clone()].first()?);
            let count = self.keys[range.clone()].iter().take_while(|other| part(other) == key).count();
            let uses = &self.uses[range.start..range.start + count];
            range.start += count;
            Some((key, uses))
        })
    }
}

impl<K> Default for Uses<K> {
    fn default() -> Self {
        Self { keys: Vec::new(), uses: Vec::new() }
    }
}

/// The references to one stream.
#[derive(Debug, Clone)]
pub(super) struct StreamReferences<'r> {
    all: &'r References,
    tags: Range<usize>,
    images: Range<usize>,
}

impl<'r> StreamReferences<'r> {
    /// Who refers to the tag.
    pub(super) fn tag(&self, tag: Word) -> &'r [Use] {
        let tags = &self.all.tags;
        &tags.uses[tags.range(self.tags.clone(), |(_, tag)| *tag, &tag)]
    }

    /// Who refers to the image in the stream.
    pub(super) fn image(&self, image: Id) -> &'r [Use] {
        let images = &self.all.images;
        &images.uses[images.range(self.images.clone(), |(_, image)| *image, &image)]
    }

    /// Every image that is referred to in the stream, in the order of ids.
    pub(super) fn images(&self) -> impl Iterator<Item = (Id, &'r [Use])> + use<'r> {
        self.all.images.each(self.images.clone(), |(_, image)| *image)
    }
}

/// A stream by namespace and name, whether or not it is there.
type Repository = (Word, Word);

/// All references that count.
#[derive(Debug, Default, Clone)]
pub struct References {
    tags: Uses<(Repository, Word)>,
    images: Uses<(Repository, Id)>,
    digests: Uses<Id>,
    invalid: Vec<InvalidReference>,
    unknown_kinds: Vec<Use>,
}

/// Whether what the object refers to is protected: all but what a pod refers to that ended before the cutoff.
pub(super) fn counts(referrer: &Referrer, rules: &Rules) -> bool {
    let finished = referrer.finished_pod_created;
    referrer.kind != Kind::Pod || finished.is_none_or(|created| !rules.is_older(created))
}

/// References as they are collected.
#[derive(Default)]
struct Collected {
    tags: Vec<((Repository, Word), Use)>,
    images: Vec<((Repository, Id), Use)>,
    digests: Vec<(Id, Use)>,
    invalid: Vec<InvalidReference>,
    unknown_kinds: Vec<Use>,
}

impl Collected {
    fn add(&mut self, place: Use, mention: &Mention, target: &Target) {
        match target {
            Target::Tag { namespace, stream, tag } => {
                self.tags.push((((*namespace, *stream), *tag), place));
            }
            Target::Image { namespace, stream, digest } => {
                self.images.push((((*namespace, *stream), *digest), place));
                self.digests.push((*digest, place));
            }
            Target::Digest(digest) => self.digests.push((*digest, place)),
            Target::Invalid(invalid) => {
                if mention.source == Source::Spec {
                    self.invalid.push(InvalidReference(place));
                }
                if let Some(readable) = &invalid.readable {
                    self.add(place, mention, readable);
                }
            }
            Target::UnknownKind(_) => self.unknown_kinds.push(place),
        }
    }
}

impl References {
    /// Collects the references of every referrer that counts under the rules.
    #[must_use]
    pub fn collect(inventory: &Inventory, rules: &Rules) -> Self {
        let mut collected = Collected::default();
        for (position, referrer) in inventory.referrers.all().iter().enumerate() {
            if !counts(referrer, rules) {
                continue;
            }
            for (number, mention) in (0..).zip(inventory.referrers.mentions(position)) {
                #[expect(clippy::cast_possible_truncation, reason = "there are fewer than 2^32 referrers")]
                let place = Use { referrer: position as u32, mention: number };
                collected.add(place, mention, &mention.target);
            }
        }
        let Collected { tags, images, digests, invalid, unknown_kinds } = collected;
        let (tags, images, digests) = (Uses::of(tags), Uses::of(images), Uses::of(digests));
        Self { tags, images, digests, invalid, unknown_kinds }
    }

    /// The references that do not parse, in the order of the referrers.
    #[must_use]
    pub fn invalid(&self) -> &[InvalidReference] {
        &self.invalid
    }

    /// Builds whose `from` is of a kind that nobody knows.
    #[must_use]
    pub fn unknown_kinds(&self) -> &[Use] {
        &self.unknown_kinds
    }

    /// The references to a stream.
    pub(super) fn of_stream(&self, inventory: &Inventory, stream: &Stream) -> StreamReferences<'_> {
        self.of_repository(inventory, &stream.namespace, &stream.name)
    }

    /// The references to the stream of this name, whether or not it is there.
    pub(super) fn of_repository(
        &self,
        inventory: &Inventory,
        namespace: &str,
        name: &str,
    ) -> StreamReferences<'_> {
        let words = &inventory.names.words;
        let (tags, images) = match (words.find(namespace), words.find(name)) {
            (Some(namespace), Some(name)) => {
                let repository = (namespace, name);
                let (tags, images) = (0..self.tags.keys.len(), 0..self.images.keys.len());
                (
                    self.tags.range(tags, |(stream, _)| *stream, &repository),
                    self.images.range(images, |(stream, _)| *stream, &repository),
                )
            }
            // No reference has these words in it.
            _ => (0..0, 0..0),
        };
        StreamReferences { all: self, tags, images }
    }

    /// Who refers to the tag.
    #[must_use]
    pub fn of_tag(&self, inventory: &Inventory, stream: &Stream, tag: Word) -> &[Use] {
        self.of_stream(inventory, stream).tag(tag)
    }

    /// Who refers to the image in the stream.
    #[must_use]
    pub fn of_image(&self, inventory: &Inventory, stream: &Stream, image: Id) -> &[Use] {
        self.of_stream(inventory, stream).image(image)
    }

    /// Who refers to the sub-manifest of an index, of those of whom anybody refers to one in the stream: the one that
    /// keeps the index's items.
    #[must_use]
    pub fn of_submanifest(&self, inventory: &Inventory, stream: &Stream, index: Id) -> &[Use] {
        let references = self.of_stream(inventory, stream);
        let below = inventory.images.with_submanifests([index]).into_iter();
        let uses = below.filter(|manifest| *manifest != index).map(|manifest| references.image(manifest));
        uses.into_iter().find(|uses| !uses.is_empty()).unwrap_or_default()
    }

    /// Who refers to the image by digest, in whatever repository.
    #[must_use]
    pub fn of_digest(&self, image: Id) -> &[Use] {
        let all = 0..self.digests.keys.len();
        &self.digests.uses[self.digests.range(all, |digest| *digest, &image)]
    }

    /// Every image that is referred to by digest.
    pub(super) fn digests(&self) -> impl Iterator<Item = (Id, &[Use])> {
        self.digests.each(0..self.digests.keys.len(), |digest| *digest)
    }
}

/// Why the reference implementation would not see this reference; `None` if it does.
#[must_use]
pub(super) fn difference(inventory: &Inventory, rules: &Rules, place: Use) -> Option<Difference> {
    let (referrer, mention) = (place.referrer(inventory), place.mention(inventory));
    let namespace = inventory.names.words.text(referrer.namespace);
    let foreign = rules.namespace.as_deref().is_some_and(|limited_to| limited_to != namespace);
    match (mention.source, &mention.target) {
        (Source::Running, _) => Some(Difference::WhatRuns),
        (Source::Extra, _) => Some(Difference::MoreReferrers),
        (Source::Spec, Target::Invalid(_)) => Some(Difference::InvalidButReadable),
        (Source::Spec, _) if foreign => Some(Difference::ReferencedAcrossNamespaces),
        (Source::Spec, _) => None,
    }
}

/// The difference that a list of references makes: none if the reference implementation sees any of them.
#[must_use]
pub(super) fn difference_of_all(inventory: &Inventory, rules: &Rules, uses: &[Use]) -> Option<Difference> {
    let mut first = None;
    for place in uses {
        first = Some(first.unwrap_or(difference(inventory, rules, *place)?));
    }
    first
}
