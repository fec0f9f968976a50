//! Sets of names as bits.

use super::Id;

/// A set of ids of one table of names: one bit for each name. Emptying it costs as much as it holds.
#[derive(Debug, Clone, Default)]
pub struct IdSet {
    bits: Vec<u64>,
    /// Which parts of `bits` hold something, unless they are `MANY`.
    filled: Vec<u32>,
}

/// From so many parts on, all of them are emptied one by one.
const MANY: usize = 1 << 12;

impl IdSet {
    /// The empty set for so many names; it grows with what is inserted.
    #[must_use]
    pub fn with_names(names: usize) -> Self {
        Self { bits: vec![0; names.div_ceil(64)], filled: Vec::new() }
    }

    /// Whether the id is in it.
    #[must_use]
    pub fn contains(&self, id: Id) -> bool {
        self.bits.get(id.index() / 64).is_some_and(|bits| bits >> (id.index() % 64) & 1 == 1)
    }

    /// Adds an id; returns whether it was not in it before.
    pub fn insert(&mut self, id: Id) -> bool {
        let part = id.index() / 64;
        if part >= self.bits.len() {
            self.bits.resize(part + 1, 0);
        }
        let bits = &mut self.bits[part];
        if *bits == 0 && self.filled.len() < MANY {
            #[expect(clippy::cast_possible_truncation, reason = "ids are 32 bits")]
            self.filled.push(part as u32);
        }
        let before = *bits;
        *bits |= 1 << (id.index() % 64);
        *bits != before
    }

    /// Takes an id out; returns whether it was in it.
    pub fn remove(&mut self, id: Id) -> bool {
        let Some(bits) = self.bits.get_mut(id.index() / 64) else { return false };
        let before = *bits;
        *bits &= !(1 << (id.index() % 64));
        *bits != before
    }

    /// Empties it.
    pub fn clear(&mut self) {
        if self.filled.len() == MANY {
            self.bits.fill(0);
        } else {
            for part in &self.filled {
                self.bits[*part as usize] = 0;
            }
        }
        self.filled.clear();
    }

    /// How many ids it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bits.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|bits| *bits == 0)
    }

    /// Its ids in their order.
    pub fn iter(&self) -> impl Iterator<Item = Id> + '_ {
        self.bits.iter().enumerate().flat_map(|(part, bits)| {
            let mut left = *bits;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros() as usize)?;
                left &= left - 1;
                Some(Id::at(part * 64 + bit))
            })
        })
    }
}

impl FromIterator<Id> for IdSet {
    fn from_iter<T: IntoIterator<Item = Id>>(ids: T) -> Self {
        let mut set = Self::default();
        set.extend(ids);
        set
    }
}

impl Extend<Id> for IdSet {
    fn extend<T: IntoIterator<Item = Id>>(&mut self, ids: T) {
        for id in ids {
            self.insert(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    proptest::proptest! {
        #[test]
        fn holds_what_was_inserted_since_it_was_empty(
            rounds in proptest::collection::vec(proptest::collection::vec(0_usize..600_000, 0..200), 1..4),
            many in proptest::bool::ANY,
        ) {
            let mut set = IdSet::with_names(1000);
            for round in rounds {
                let round = round.into_iter().chain((0..600_000).step_by(64).filter(|_| many));
                let mut expected = BTreeSet::new();
                for position in round {
                    proptest::prop_assert_eq!(set.insert(Id::at(position)), expected.insert(position));
                }
                proptest::prop_assert_eq!(set.len(), expected.len());
                proptest::prop_assert!(set.iter().map(Id::index).eq(expected));
                set.clear();
                proptest::prop_assert!(set.is_empty());
            }
        }
    }
}
