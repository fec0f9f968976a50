//! Names of images and blobs, interned: each digest is held once, as its raw 32 bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::hash::BuildHasher;

use foldhash::quality::RandomState;
use hashbrown::HashTable;

const SHA256: &str = "sha256:";

/// The interned name of an image or a blob; an index into flat arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(u32);

impl Id {
    /// The position of the name in flat arrays of [`Names::len`] elements.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// The table of names. `sha256:` digests cost 32 bytes each; any other name (old algorithms, names that are no
/// digest at all) is held as text.
#[derive(Default, Clone)]
pub struct Names {
    raw: Vec<[u8; 32]>,
    others: BTreeMap<u32, Box<str>>,
    table: HashTable<u32>,
    // Names come from the cluster, so anyone who may push chooses them: a seeded hash.
    hasher: RandomState,
}

/// The names by their ids; how they are found differs from run to run.
impl fmt::Debug for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries((0..).map(Id).take(self.len()).map(|id| self.text(id))).finish()
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
        #[expect(clippy::expect_used, reason = "2^32 names of 32 bytes are 128 GiB: no such cluster exists")]
        let index = u32::try_from(self.raw.len()).expect("fewer than 2^32 names");
        if sha256.is_none() {
            self.others.insert(index, name.into());
        }
        self.raw.push(sha256.unwrap_or_default());
        let Self { raw, others, table, hasher } = self;
        table.insert_unique(hash, index, |&index| match others.get(&index) {
            Some(text) => hasher.hash_one(text.as_bytes()),
            None => hasher.hash_one(raw[index as usize]),
        });
        Id(index)
    }

    /// The ids of all names, in the order in which they were added.
    pub fn ids(&self) -> impl Iterator<Item = Id> + use<> {
        // As many as there are ids.
        (0..).take(self.raw.len()).map(Id)
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
        if let Some(other) = self.others.get(&id.0) {
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
        self.others.get(&id.0).is_none_or(|text| is_digest(text))
    }

    fn hash(&self, name: &str, sha256: Option<&[u8; 32]>) -> u64 {
        match sha256 {
            Some(bytes) => self.hasher.hash_one(bytes),
            None => self.hasher.hash_one(name.as_bytes()),
        }
    }

    fn find_hashed(&self, hash: u64, name: &str, sha256: Option<&[u8; 32]>) -> Option<Id> {
        let equal = |&index: &u32| match (sha256, self.others.get(&index)) {
            (Some(bytes), None) => self.raw[index as usize] == *bytes,
            (None, Some(text)) => **text == *name,
            _ => false,
        };
        self.table.find(hash, equal).map(|&index| Id(index))
    }
}

/// The 32 bytes of a lower-case `sha256:` digest.
fn sha256_bytes(name: &str) -> Option<[u8; 32]> {
    let hex: &[u8; 64] = name.strip_prefix(SHA256)?.as_bytes().try_into().ok()?;
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
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
