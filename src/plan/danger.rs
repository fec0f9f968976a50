//! What makes a plan one that somebody should look at twice.

use super::{ImageVerdict, ItemVerdict, Keep, Plan};
use crate::model::Inventory;

/// Why a plan may be a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Danger {
    /// `--keep-tag-revisions=0`: no tag keeps its history, nor what it points at now unless something uses it.
    NoRevisions,
    /// `--ignore-invalid-refs`: what these references mean is not protected.
    InvalidReferences(usize),
    /// More than half of all images go.
    MostImages {
        /// How many go.
        going: usize,
        /// How many there are.
        all: usize,
    },
    /// Streams lose every item, and with them all tags.
    EmptiedStreams {
        /// How many.
        count: usize,
        /// The position of the first in the inventory.
        first: usize,
    },
}

/// Why this plan may be a mistake; nothing for one that deletes nothing.
#[must_use]
pub fn dangers(inventory: &Inventory, plan: &Plan, ignore_invalid_refs: bool) -> Vec<Danger> {
    let going = plan.images.iter().filter(|image| image.verdict == ImageVerdict::Delete).count();
    let removed: usize = plan.streams.iter().map(super::StreamDecision::removed).sum();
    if going + removed == 0 {
        return Vec::new();
    }
    let mut dangers = Vec::new();
    if matches!(plan.rules.keep, Keep::Recent { tag_revisions: 0, .. }) {
        dangers.push(Danger::NoRevisions);
    }
    if ignore_invalid_refs {
        dangers.push(Danger::InvalidReferences(plan.references.invalid().len()));
    }
    let all = inventory.images.all().len();
    if going > all / 2 {
        dangers.push(Danger::MostImages { going, all });
    }
    let is_emptied = |position: &usize| {
        let items = &plan.streams[*position].items;
        !items.is_empty() && items.iter().all(|item| matches!(item.verdict, ItemVerdict::Remove(_)))
    };
    let mut emptied = (0..plan.streams.len()).filter(is_emptied);
    if let Some(first) = emptied.next() {
        dangers.push(Danger::EmptiedStreams { count: 1 + emptied.count(), first });
    }
    dangers
}
