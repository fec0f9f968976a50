//! Which references count (`docs/decision.md`), indexed by what they protect.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use super::{Difference, Rules};
use crate::model::{Id, Inventory, Kind, Mention, Referrer, Source, Target};

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
        &inventory.referrers[self.referrer as usize]
    }

    /// Takes the reference out of its object.
    pub(super) fn forget(self, inventory: &mut Inventory) {
        inventory.referrers[self.referrer as usize].mentions.remove(self.mention as usize);
    }

    /// The reference in it.
    #[must_use]
    pub fn mention(self, inventory: &Inventory) -> &Mention {
        &self.referrer(inventory).mentions[self.mention as usize]
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
        let place = if mention.place.is_empty() { String::new() } else { format!("{}: ", mention.place) };
        let Target::Invalid { expected, value, error, .. } = &mention.target else { return String::new() };
        format!(
            "{}/{} namespace={}: {place}invalid {expected} reference {value:?}: {error}",
            referrer.kind.word(),
            referrer.name,
            referrer.namespace
        )
    }
}

/// The references to one stream.
#[derive(Debug, Default, Clone)]
pub(super) struct StreamReferences {
    pub(super) tags: BTreeMap<Box<str>, Vec<Use>>,
    pub(super) images: BTreeMap<Id, Vec<Use>>,
}

/// All references that count.
#[derive(Debug, Default, Clone)]
pub struct References {
    streams: HashMap<String, StreamReferences>,
    digests: BTreeMap<Id, Vec<Use>>,
    invalid: Vec<InvalidReference>,
    unknown_kinds: Vec<Use>,
}

/// Whether what the object refers to is protected: all but what a pod refers to that ended before the cutoff.
pub(super) fn counts(referrer: &Referrer, rules: &Rules) -> bool {
    let finished = referrer.finished_pod_created;
    referrer.kind != Kind::Pod || finished.is_none_or(|created| !rules.is_older(created))
}

impl References {
    /// Collects the references of every referrer that counts under the rules.
    #[must_use]
    pub fn collect(inventory: &Inventory, rules: &Rules) -> Self {
        let mut references = Self::default();
        for (referrer_position, referrer) in (0..).zip(&inventory.referrers) {
            if !counts(referrer, rules) {
                continue;
            }
            for (mention_position, mention) in (0..).zip(&referrer.mentions) {
                let place = Use { referrer: referrer_position, mention: mention_position };
                references.add(inventory, place, mention, &mention.target);
            }
        }
        references
    }

    fn add(&mut self, inventory: &Inventory, place: Use, mention: &Mention, target: &Target) {
        match target {
            Target::Tag { namespace, stream, tag } => {
                let stream = self.streams.entry(format!("{namespace}/{stream}")).or_default();
                stream.tags.entry(tag.clone()).or_default().push(place);
            }
            Target::Image { namespace, stream, digest } => {
                // Every digest that a referrer names is interned with the inventory: one that is not cannot name
                // anything that is there.
                if let Some(id) = inventory.names.find(digest) {
                    let stream = self.streams.entry(format!("{namespace}/{stream}")).or_default();
                    stream.images.entry(id).or_default().push(place);
                    self.digests.entry(id).or_default().push(place);
                }
            }
            Target::Digest(digest) => {
                if let Some(id) = inventory.names.find(digest) {
                    self.digests.entry(id).or_default().push(place);
                }
            }
            Target::Invalid { readable, .. } => {
                if mention.source == Source::Spec {
                    self.invalid.push(InvalidReference(place));
                }
                if let Some(readable) = readable {
                    self.add(inventory, place, mention, readable);
                }
            }
            Target::UnknownKind(_) => self.unknown_kinds.push(place),
        }
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

    /// The references to the stream `namespace/name`.
    pub(super) fn of_stream(&self, repository: &str) -> Option<&StreamReferences> {
        self.streams.get(repository)
    }

    /// Who refers to the tag.
    #[must_use]
    pub fn of_tag(&self, repository: &str, tag: &str) -> &[Use] {
        self.of_stream(repository).and_then(|stream| stream.tags.get(tag)).map_or(&[], Vec::as_slice)
    }

    /// Who refers to the image in the stream.
    #[must_use]
    pub fn of_image(&self, repository: &str, image: Id) -> &[Use] {
        self.of_stream(repository).and_then(|stream| stream.images.get(&image)).map_or(&[], Vec::as_slice)
    }

    /// Who refers to the image by digest, in whatever repository.
    #[must_use]
    pub fn of_digest(&self, image: Id) -> &[Use] {
        self.digests.get(&image).map_or(&[], Vec::as_slice)
    }

    /// Every image that is referred to by digest.
    pub(super) fn digests(&self) -> impl Iterator<Item = (Id, &[Use])> {
        self.digests.iter().map(|(id, uses)| (*id, uses.as_slice()))
    }
}

/// Why the reference implementation would not see this reference; `None` if it does.
#[must_use]
pub(super) fn difference(inventory: &Inventory, rules: &Rules, place: Use) -> Option<Difference> {
    let (referrer, mention) = (place.referrer(inventory), place.mention(inventory));
    let foreign = rules.namespace.as_deref().is_some_and(|namespace| *namespace != *referrer.namespace);
    match (mention.source, &mention.target) {
        (Source::Running, _) => Some(Difference::WhatRuns),
        (Source::Extra, _) => Some(Difference::MoreReferrers),
        (Source::Spec, Target::Invalid { .. }) => Some(Difference::InvalidButReadable),
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
