//! Short texts of the cluster's objects, each held once: names, namespaces, tags, places of references.

use std::fmt;
use std::hash::BuildHasher;
use std::num::NonZeroU32;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

/// A short text of the cluster. Words of one [`Words`] are equal if their texts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(NonZeroU32);

impl Word {
    /// The position of the word in an array of all words.
    pub(super) fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// The table of words.
#[derive(Default, Clone)]
pub struct Words {
    /// All texts, one behind the other.
    text: String,
    /// Where each text ends.
    ends: Vec<u32>,
    table: HashTable<Word>,
    // Whoever may create objects chooses their names: a seeded hash.
    hasher: RandomState,
}

/// The words in their order; how they are found differs from run to run.
impl fmt::Debug for Words {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all().map(|(_, text)| text)).finish()
    }
}

impl Words {
    /// The word of a text, which is added if it is new.
    ///
    /// # Panics
    /// Never in practice: the API server cannot hold 4 GiB of names.
    pub fn intern(&mut self, text: &str) -> Word {
        self.find(text).unwrap_or_else(|| self.intern_joined(&[text]))
    }

    /// The word of these parts, one behind the other.
    ///
    /// # Panics
    /// As [`Words::intern`].
    pub fn intern_joined(&mut self, parts: &[&str]) -> Word {
        let begin = self.text.len();
        self.text.extend(parts.iter().copied());
        if let Some(word) = self.find(&self.text[begin..]) {
            self.text.truncate(begin);
            return word;
        }
        #[expect(clippy::expect_used, reason = "the API server cannot hold 4 GiB of names")]
        let word = {
            self.ends.push(u32::try_from(self.text.len()).expect("less than 4 GiB of names"));
            let number = u32::try_from(self.ends.len()).ok().and_then(NonZeroU32::new);
            Word(number.expect("fewer than 2^32 words, and one at least"))
        };
        let Self { text, ends, table, hasher } = self;
        let hash = |word: &Word| hasher.hash_one(of(text, ends, *word).as_bytes());
        table.insert_unique(hash(&word), word, hash);
        word
    }

    /// The word of a text, if anything has it.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Word> {
        let hash = self.hasher.hash_one(text.as_bytes());
        self.table.find(hash, |word| self.text(*word) == text).copied()
    }

    /// The text of a word.
    #[must_use]
    pub fn text(&self, word: Word) -> &str {
        of(&self.text, &self.ends, word)
    }

    /// All words, in the order in which they were added.
    pub fn all(&self) -> impl Iterator<Item = (Word, &str)> {
        let words = (1..=self.ends.len()).filter_map(|number| u32::try_from(number).ok());
        words.filter_map(NonZeroU32::new).map(|number| (Word(number), self.text(Word(number))))
    }
}

fn of<'t>(text: &'t str, ends: &[u32], word: Word) -> &'t str {
    let position = word.index();
    let begin = if position == 0 { 0 } else { ends[position - 1] };
    &text[begin as usize..ends[position] as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interns_each_text_once() {
        let mut words = Words::default();
        let texts = ["latest", "", "é", "late", "latest2"];
        let all: Vec<Word> = texts.iter().map(|text| words.intern(text)).collect();
        for (text, word) in texts.iter().zip(&all) {
            assert_eq!(words.intern(text), *word);
            assert_eq!(words.find(text), Some(*word));
            assert_eq!(words.text(*word), *text);
        }
        assert_eq!(words.intern_joined(&["la", "", "test"]), all[0]);
        assert_eq!(words.find("absent"), None);
        assert_eq!(words.all().map(|(_, text)| text).collect::<Vec<_>>(), texts);
        assert_eq!(words.all().map(|(word, _)| word).collect::<Vec<_>>(), all);
    }
}
