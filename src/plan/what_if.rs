//! What other values of `--keep-tag-revisions` and `--keep-younger-than` would free.

use super::decide::decide_alone;
use super::{Counts, Keep, Rules};
use crate::model::Inventory;

/// What one combination of values frees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freed {
    /// The combination.
    pub keep: Keep,
    /// What a plan with it deletes.
    pub counts: Counts,
    /// How many references do not parse under it: a prune stops at one, unless `--ignore-invalid-refs`.
    pub invalid_references: usize,
}

/// Decides once for each combination, with all else as in the rules; one plan at a time is in memory.
#[must_use]
pub fn what_if(inventory: &Inventory, rules: &Rules, combinations: &[Keep]) -> Vec<Freed> {
    let freed = |keep: &Keep| {
        let plan = decide_alone(inventory, &Rules { keep: *keep, ..rules.clone() });
        Freed {
            keep: *keep,
            counts: plan.counts(inventory),
            invalid_references: plan.references.invalid().len(),
        }
    };
    combinations.iter().map(freed).collect()
}
