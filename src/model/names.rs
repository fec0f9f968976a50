//! Names of images and blobs, interned: each digest is held once, as its raw 32 bytes.

use std::borrow::Cow;
use std::fmt;
use std::hash::BuildHasher;
use std::num::NonZeroU32;
use std::sync::OnceLock;

use foldhash::quality::RandomState;
use hashbrown::{HashMap, HashTable};

use super::{IdSet, Word, Words};

const SHA256: &str = "sha256:";

/// The interned name of an image or a blob; an index into flat arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
// One more than the index, so that an absent id costs nothing.
pub struct Id(NonZeroU32);

impl Id {
    /// The position of the name in flat arrays of [`Names::len`] elements.
    #[must_use]
    pub fn index(self) -> usize {
        self.0.get() as usize - 1
    }

    /// The id at this position.
    #[expect(clippy::expect_used, reason = "2^32 names of 32 bytes are 128 GiB: no such cluster exists")]
    pub(super) fn at(index: usize) -> Self {
        let number = u32::try_from(index + 1).ok().and_then(NonZeroU32::new);
        Self(number.expect("fewer than 2^32 names"))
    }
}

/// The table of names. `sha256:` digests cost 32 bytes each; any other name (old algorithms, names that are no
/// digest at all) is held as text.
#[derive(Default, Clone)]
pub struct Names {
    raw: Vec<[u8; 32]>,
    /// Which names are no `sha256:` digests, and what they are.
    is_other: IdSet,
    others: HashMap<Id, Word>,
    /// Made again when it is needed, once it was left: see [`Names::rest`].
    table: OnceLock<HashTable<Id>>,
    // Names come from the cluster, so anyone who may push chooses them: a seeded hash.
    hasher: RandomState,
    /// The words of the objects that these names stand in.
    pub words: Words,
}

/// The names by their ids; how they are found differs from run to run.
impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids().map(|id| self.text(id))).entry(&self.words).finish()
    }
}

impl Names {
    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Whether there are no names.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty()
    }

    /// The id of a name, which is added if it is new.
    ///
    /// # Panics
    /// Never in practice: 2^32 names need more memory than the API server may hold.
    pub fn intern(&mut self, name: &str) -> Id {
        let sha256 = sha256_bytes(name);
        let hash = self.hash(name, sha256.as_ref());
        if let Some(id) = self.find_hashed(hash, name, sha256.as_ref()) {
            return id;
        }
        let id = Id::at(self.raw.len());
        if sha256.is_none() {
            self.is_other.insert(id);
            self.others.insert(id, self.words.intern(name));
        }
        self.raw.push(sha256.unwrap_or_default());
        let Self { raw, is_other, others, table, hasher, words } = self;
        if let Some(table) = table.get_mut() {
            table.insert_unique(hash, id, hash_of(raw, is_other, others, hasher, words));
        }
        id
    }

    /// Gives back the memory with which names are found by their texts. Whoever looks for one makes it anew.
    pub fn rest(&mut self) {
        self.table.take();
    }

    fn table(&self) -> &HashTable<Id> {
        self.table.get_or_init(|| {
            let Self { raw, is_other, others, table: _, hasher, words } = self;
            let hash = hash_of(raw, is_other, others, hasher, words);
            let mut table = HashTable::with_capacity(raw.len());
            for id in self.ids() {
                table.insert_unique(hash(&id), id, &hash);
            }
            table
        })
    }

    /// The ids of all names, in the order in which they were added.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        (0..self.raw.len()).map(Id::at)
    }

    /// The id of a name, if anything has it.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Id> {
        let sha256 = sha256_bytes(name);
        self.find_hashed(self.hash(name, sha256.as_ref()), name, sha256.as_ref())
    }

    /// The name as text.
    #[must_use]
    pub fn text(&self, id: Id) -> Cow<'_, str> {
        if let Some(other) = self.other(id) {
            return Cow::Borrowed(other);
        }
        let mut text = String::with_capacity(SHA256.len() + 64);
        text.push_str(SHA256);
        for byte in self.raw[id.index()] {
            for nibble in [byte >> 4, byte & 15] {
                text.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
            }
        }
        Cow::Owned(text)
    }

    /// Whether the name is a digest that a registry can hold (see [`is_digest`]).
    #[must_use]
    pub fn is_digest(&self, id: Id) -> bool {
        self.other(id).is_none_or(is_digest)
    }

    /// The text of a name that is no `sha256:` digest.
    fn other(&self, id: Id) -> Option<&str> {
        if !self.is_other.contains(id) {
            return None;
        }
        self.others.get(&id).map(|word| self.words.text(*word))
    }

    fn hash(&self, name: &str, sha256: Option<&[u8; 32]>) -> u64 {
        match sha256 {
            Some(bytes) => self.hasher.hash_one(bytes),
            None => self.hasher.hash_one(name.as_bytes()),
        }
    }

    fn find_hashed(&self, hash: u64, name: &str, sha256: Option<&[u8; 32]>) -> Option<Id> {
        let equal = |&id: &Id| match sha256 {
            Some(bytes) => self.raw[id.index()] == *bytes && !self.is_other.contains(id),
            None => self.other(id) == Some(name),
        };
        self.table().find(hash, equal).copied()
    }
}

/// The hash of a name that is there.
fn hash_of(
    raw: &[[u8; 32]],
    is_other: &IdSet,
    others: &HashMap<Id, Word>,
    hasher: &RandomState,
    words: &Words,
) -> impl Fn(&Id) -> u64 {
    |id| {
        let other = if is_other.contains(*id) { others.get(id) } else { None };
        match other {
            Some(word) => hasher.hash_one(words.text(*word).as_bytes()),
            None => hasher.hash_one(raw[id.index()]),
        }
    }
}

/// The 32 bytes of a lower-case `sha256:` digest.
fn sha256_bytes(name: &str) -> Option<[u8; 32]> {
    let hex: &[u8; 64] = name.strip_prefix(SHA256)?.as_bytes().try_into().ok()?;
    // Without branches, so that many digits are read at once: this is done for every name of every object.
    let mut digits = [0_u8; 64];
    let mut is_other = 0_u8;
    for (digit, character) in digits.iter_mut().zip(hex) {
        let (decimal, letter) = (character.wrapping_sub(b'0'), character.wrapping_sub(b'a'));
        is_other |= u8::from(decimal > 9) & u8::from(letter > 5);
        *digit = if decimal < 10 { decimal } else { letter.wrapping_add(10) };
    }
    let mut bytes = [0; 32];
    for (position, byte) in bytes.iter_mut().enumerate() {
        *byte = digits[2 * position] << 4 | digits[2 * position + 1] & 15;
    }
    (is_other == 0).then_some(bytes)
}

/// Whether a name is `algorithm:value` with nothing in it that could leave its place in a URL or a path.
///
/// Algorithms that registries know must have a value of their length, in lower-case hex; of others (old clusters
/// hold `tarsum.dev+sha256:…`) only the form is known.
#[must_use]
pub fn is_digest(name: &str) -> bool {
    let Some((algorithm, value)) = name.split_once(':') else { return false };
    let lower_hex =
        |length| value.len() == length && value.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'));
    match algorithm {
        "sha256" => lower_hex(64),
        "sha384" => lower_hex(96),
        "sha512" => lower_hex(128),
        _ => {
            // Distribution's grammar: parts such as `tarsum.dev+sha256`, at least 32 hex digits.
            let is_part = |part: &str| {
                part.starts_with(|c: char| c.is_ascii_lowercase())
                    && part.bytes().all(|c| matches!(c, b'a'..=b'z' | b'0'..=b'9'))
            };
            algorithm.split(['.', '+', '_', '-']).all(is_part)
                && (32..=256).contains(&value.len())
                && value.bytes().all(|c| c.is_ascii_hexdigit())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interns_each_name_once() {
        let mut names = Names::default();
        let texts = [
            "0".into(),
            format!("sha256:{}", "0".repeat(64)),
            format!("sha256:{}ff", "0".repeat(62)),
            format!("sha256:{}FF", "0".repeat(62)),
            "tarsum.dev+sha256:1234".into(),
            "4a8dba85".into(),
            String::new(),
        ];
        let ids: Vec<Id> = texts.iter().map(|text| names.intern(text)).collect();
        for (text, id) in texts.iter().zip(&ids) {
            assert_eq!(names.intern(text), *id);
            assert_eq!(names.find(text), Some(*id));
            assert_eq!(names.text(*id), *text);
        }
        assert_eq!(names.len(), texts.len());
        names.rest();
        let more = names.intern("later");
        for (text, id) in texts.iter().zip(&ids) {
            assert_eq!(names.find(text), Some(*id));
        }
        assert_eq!(names.find("later"), Some(more));
        assert_eq!(names.find("absent"), None);
    }

    #[test]
    fn knows_what_a_registry_can_hold() {
        let good = format!("sha256:{}", "a".repeat(64));
        let tarsum = format!("tarsum.dev+{good}");
        let old = format!("md5:{}", "0F".repeat(16));
        for digest in [good.as_str(), &tarsum, &old] {
            assert!(is_digest(digest), "{digest}");
        }
        let upper = good.to_uppercase();
        for name in [
            "",
            "4a8dba85",
            ":",
            "sha256:",
            "sha256:abc",
            &upper[..],
            "sha256:../../x",
            "a/b:c",
            "a..b:c",
            "x:é",
            "x:a%2f",
            "md5:abc",
        ] {
            assert!(!is_digest(name), "{name}");
        }
    }
}
