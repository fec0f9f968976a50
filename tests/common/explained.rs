//! What an explanation says is what the plan does, and what it asks to be changed is enough.

#![expect(clippy::panic, reason = "what cannot be found fails the test")]

use std::collections::BTreeSet;

use oc_prune_images::model::Inventory;
use oc_prune_images::plan::explain::{Change, Explainer, ImageExplanation, apply};
use oc_prune_images::plan::{ImageVerdict, ItemVerdict, Plan, StreamVerdict, decide};
use oc_prune_images::report::document::{Context, View, image_reason, item_reason, stream_verdict};
use oc_prune_images::report::explain::{ExplainedImage, Reporter};

/// Fails unless the explanation of every image and item agrees with the plan, with the same reason.
///
/// Whether something stays is told by the rules that hold it, each of them looked at anew: if there is none, it goes.
pub(crate) fn agrees(inventory: &Inventory, plan: &Plan, now: jiff::Timestamp) {
    let view = View { inventory, plan };
    let reporter = Reporter::new(view, now);
    let explainer = Explainer::new(inventory, plan);
    let doomed: BTreeSet<_> = plan.images.blobs().iter().copied().collect();
    let context = Context {
        server: String::new(),
        now,
        ignore_invalid_refs: true,
        registry: None,
        warnings: Vec::new(),
    };
    let body = view.body(&context);
    for ((image, decision), planned) in inventory.images.all().iter().zip(&plan.images).zip(&body.images) {
        let document = reporter.image(image.name);
        let name = &document.name;
        assert_eq!((document.decision, document.reason), (planned.decision, planned.reason), "{name}");
        assert_eq!(deciding_reason(&document), image_reason(decision.verdict), "{document:#?}");
        let looked_at = explainer.image(image.name);
        let is_held = !looked_at.obstacles.is_empty()
            || looked_at.places.iter().any(|place| !place.obstacles.is_empty());
        assert_eq!(is_held, decision.verdict != ImageVerdict::Delete, "{document:#?}");
        assert_eq!(document.to_be_pruned.is_some(), is_held);
        assert_eq!(document.because.is_empty(), is_held);
        if decision.verdict == ImageVerdict::Delete {
            for fate in &looked_at.blobs {
                assert_eq!(fate.goes, doomed.contains(&fate.blob), "{name}: {fate:?}");
            }
        }
        if let ImageVerdict::KeepReferenced(_, _) = decision.verdict {
            assert!(document.held_by.iter().any(|rule| !rule.referrers.is_empty()), "{document:#?}");
        }
    }
    for (position, (stream, decision)) in inventory.streams.iter().zip(&plan.streams).enumerate() {
        let mut verdicts = decision.items.iter();
        for (tag_position, tag) in stream.tags.iter().enumerate() {
            for (item_position, item) in (0..).zip(&tag.items) {
                let place = explainer.place(position, tag_position, item_position);
                let document = reporter.image(item.image);
                let entry = document.places.iter().find(|entry| {
                    entry.through.is_none()
                        && entry.image_stream == stream.repository()
                        && entry.tag == inventory.names.words.text(tag.name)
                        && entry.position == item_position
                });
                let entry =
                    entry.unwrap_or_else(|| panic!("{}:{item:?} is not explained", stream.repository()));
                let (stays, reason) = if decision.verdict == StreamVerdict::Examined {
                    let verdict = verdicts.next().map(|item| item.verdict);
                    let Some(verdict) = verdict else { panic!("an item without a decision") };
                    (matches!(verdict, ItemVerdict::Keep(..)), item_reason(verdict))
                } else {
                    (true, stream_verdict(decision.verdict))
                };
                assert_eq!((place.stays(), entry.reason), (stays, reason), "{entry:#?}");
                assert_eq!(entry.decision == "keep", stays);
                assert_eq!(entry.held_by.is_empty(), !stays, "{entry:#?}");
                if stays {
                    assert_eq!(entry.held_by[0].reason, reason, "{entry:#?}");
                }
            }
        }
    }
}

/// The reason that the rules give which hold an image, in their order.
fn deciding_reason(image: &ExplainedImage) -> &'static str {
    let rule = image.held_by.first().map(|rule| rule.reason);
    if rule == Some("stage2Skipped") {
        return "stage2Skipped";
    }
    let kept = |through: bool| {
        image.places.iter().any(|place| !place.held_by.is_empty() && place.through.is_some() == through)
    };
    match (kept(false), kept(true), rule) {
        (true, _, _) => "usedByItem",
        (_, true, _) => "usedByIndex",
        (_, _, Some(rule)) => rule,
        (_, _, None) => "unused",
    }
}

/// Fails unless the image is pruned once everything is changed that its explanation asks for, in both ways, and unless
/// each of these changes is needed for something.
pub(crate) fn changes_are_enough(inventory: &Inventory, plan: &Plan, explained: &ImageExplanation) {
    let name = inventory.names.text(explained.image);
    if let Some(changes) = explained.changes(inventory) {
        assert_eq!(changes.is_empty(), is_gone(inventory, plan, explained), "{name}: {changes:?}");
        let (then, rules) = apply(inventory, &plan.rules, &changes);
        let after = decide(&then, &rules);
        assert!(is_gone(&then, &after, explained), "{name} stays after {changes:#?}\n{explained:#?}");
        let doomed: BTreeSet<_> = after.images.blobs().iter().copied().collect();
        let is_there = then.images.find(explained.image).is_some();
        for fate in explained.blobs.iter().filter(|fate| fate.goes && is_there) {
            assert!(
                doomed.contains(&fate.blob),
                "{name}: {} stays\n{explained:#?}",
                inventory.names.text(fate.blob)
            );
        }
        for left_out in 0..changes.len() {
            // What asks to forget an image may make other changes to it needless.
            if changes.iter().any(|change| matches!(change, Change::ForgetImage(_))) {
                break;
            }
            let fewer: Vec<Change> = changes
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != left_out)
                .map(|(_, c)| c.clone())
                .collect();
            let (then, rules) = apply(inventory, &plan.rules, &fewer);
            // A finished pod counts no longer once it is older than the cutoff, which another change may bring about.
            let needless = matches!(changes[left_out], Change::Dereference(_));
            assert!(
                needless || !is_gone(&then, &decide(&then, &rules), explained),
                "{name} goes without {:?} of {changes:#?}",
                changes[left_out]
            );
        }
    }
    if let Some(changes) = explained.changes_with_tags_deleted(inventory) {
        let (then, rules) = apply(inventory, &plan.rules, &changes);
        let after = decide(&then, &rules);
        let gone = then
            .images
            .find(explained.image)
            .is_none_or(|at| after.images.at(at).verdict == ImageVerdict::Delete);
        assert!(gone, "{name} stays after {changes:#?}\n{explained:#?}");
    }
}

/// Whether the image, and every item that holds it, goes.
fn is_gone(inventory: &Inventory, plan: &Plan, explained: &ImageExplanation) -> bool {
    let image = inventory.images.find(explained.image);
    let items = explained.places.iter().all(|place| {
        let stream = &plan.streams[place.stream];
        let tag = u32::try_from(place.tag).unwrap_or(u32::MAX);
        let mut items = stream.items.iter().filter(|item| item.tag == tag && item.position == place.position);
        stream.verdict == StreamVerdict::Examined
            && items.all(|item| matches!(item.verdict, ItemVerdict::Remove(_)))
    });
    items && image.is_none_or(|position| plan.images.at(position).verdict == ImageVerdict::Delete)
}
