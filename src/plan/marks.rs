//! Sets of names that are emptied at no cost.

use crate::model::Id;

/// Marks ids for one round; the next round starts with none marked, at no cost.
#[derive(Debug)]
pub(super) struct Marks {
    round_of: Vec<u32>,
    round: u32,
}

impl Marks {
    pub(super) fn new(names: usize) -> Self {
        Self { round_of: vec![0; names], round: 1 }
    }

    pub(super) fn clear(&mut self) {
        self.round += 1;
    }

    pub(super) fn has(&self, id: Id) -> bool {
        self.round_of[id.index()] == self.round
    }

    /// Marks the id; returns whether it was not marked before.
    pub(super) fn add(&mut self, id: Id) -> bool {
        std::mem::replace(&mut self.round_of[id.index()], self.round) != self.round
    }
}
