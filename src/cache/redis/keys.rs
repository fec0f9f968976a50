//! The keys of distribution's Redis cache, and which of them name what was deleted. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::registry::is_repository;

/// How many members one command removes from a set.
const MEMBERS: usize = 500;

/// The longest name that a registry caches under, in bytes.
const LONGEST_NAME: usize = 255;

/// What was deleted from a registry, as far as its cache is concerned.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doomed {
    blobs: BTreeSet<String>,
    links: BTreeMap<String, BTreeSet<String>>,
}

impl Doomed {
    /// Adds a blob that is gone. The repositories that had it are added with [`Doomed::link`].
    pub fn blob(&mut self, digest: &str) {
        self.blobs.insert(digest.to_owned());
    }

    /// Adds a link that is gone from a repository; the blob itself may stay.
    pub fn link(&mut self, repository: &str, digest: &str) {
        self.links.entry(repository.to_owned()).or_default().insert(digest.to_owned());
    }

    /// The blobs that are gone.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        self.blobs.iter().map(String::as_str)
    }

    /// The links that are gone: repository and digest.
    pub fn links(&self) -> impl Iterator<Item = (&str, &str)> {
        let links = self.links.iter();
        links.flat_map(|(repository, digests)| {
            digests.iter().map(|digest| (repository.as_str(), digest.as_str()))
        })
    }

    /// Whether nothing was deleted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.links.is_empty()
    }

    /// How many blobs are gone.
    #[must_use]
    pub fn blobs(&self) -> usize {
        self.blobs.len()
    }

    /// Whether this blob is gone.
    #[must_use]
    pub fn has_blob(&self, digest: &str) -> bool {
        self.blobs.contains(digest)
    }

    /// How many blobs are gone of which no repository is known.
    #[must_use]
    pub fn without_repository(&self) -> usize {
        let linked: BTreeSet<_> = self.links.values().flatten().collect();
        self.blobs.iter().filter(|digest| !linked.contains(digest)).count()
    }
}

/// One command's worth of removal. Doing it twice does no harm.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Eviction {
    /// The whole key goes.
    Key(String),
    /// Members leave a set, which may hold others.
    Members {
        /// The set's key.
        set: String,
        /// At most a few hundred digests.
        digests: Vec<String>,
    },
}

/// A key of the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry<'a> {
    /// `blobs::<digest>`: the descriptor of a blob.
    Blob(&'a str),
    /// `repository::<name>::blobs`: the digests known in a repository.
    Members(&'a str),
    /// `repository::<name>::blobs::<digest>`: a blob's media type in a repository.
    Link {
        /// The repository.
        repository: &'a str,
        /// The blob.
        digest: &'a str,
    },
}

/// How the keys are spelled: distribution's layout, behind a prefix that is empty unless a proxy adds one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    prefix: String,
}

impl Layout {
    /// The layout with this in front of every key.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into() }
    }

    /// What to remove, descriptors first: without them an answer comes from the storage, whatever else is left.
    #[must_use]
    pub fn evictions(&self, doomed: &Doomed) -> Vec<Eviction> {
        let mut evictions: Vec<_> =
            doomed.blobs.iter().map(|digest| Eviction::Key(self.key(Entry::Blob(digest)))).collect();
        for (repository, digests) in &doomed.links {
            evictions.extend(self.members(repository, digests));
            evictions.extend(
                digests.iter().map(|digest| Eviction::Key(self.key(Entry::Link { repository, digest }))),
            );
        }
        evictions
    }

    /// What to remove because of a key that a scan has found, where any repository may have had the blobs.
    #[must_use]
    pub fn evictions_of_found(&self, entry: Entry<'_>, doomed: &Doomed) -> Vec<Eviction> {
        match entry {
            Entry::Members(repository) => self.members(repository, &doomed.blobs),
            Entry::Link { digest, .. } if doomed.has_blob(digest) => vec![Eviction::Key(self.key(entry))],
            Entry::Link { .. } | Entry::Blob(_) => Vec::new(),
        }
    }

    fn members(&self, repository: &str, digests: &BTreeSet<String>) -> Vec<Eviction> {
        let digests: Vec<_> = digests.iter().cloned().collect();
        let set = self.key(Entry::Members(repository));
        digests
            .chunks(MEMBERS)
            .map(|chunk| Eviction::Members { set: set.clone(), digests: chunk.to_vec() })
            .collect()
    }

    /// The key of an entry.
    #[must_use]
    pub fn key(&self, entry: Entry<'_>) -> String {
        let Self { prefix } = self;
        match entry {
            Entry::Blob(digest) => format!("{prefix}blobs::{digest}"),
            Entry::Members(repository) => format!("{prefix}repository::{repository}::blobs"),
            Entry::Link { repository, digest } => {
                format!("{prefix}repository::{repository}::blobs::{digest}")
            }
        }
    }

    /// The pattern that finds every key of the layout, and others: [`Layout::entry`] tells them apart.
    #[must_use]
    pub fn pattern(&self) -> String {
        let mut pattern = String::with_capacity(self.prefix.len() + 10);
        for c in self.prefix.chars() {
            if matches!(c, '*' | '?' | '[' | ']' | '^' | '\\') {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.push_str("*blobs*");
        pattern
    }

    /// What a key is; `None` for one that is not of this layout and must not be touched.
    #[must_use]
    pub fn entry<'a>(&self, key: &'a str) -> Option<Entry<'a>> {
        let key = key.strip_prefix(self.prefix.as_str())?;
        if let Some(digest) = key.strip_prefix("blobs::") {
            return is_digest(digest).then_some(Entry::Blob(digest));
        }
        let (repository, rest) = key.strip_prefix("repository::")?.split_once("::blobs")?;
        if !is_cached_repository(repository) {
            return None;
        }
        match rest.strip_prefix("::") {
            None => rest.is_empty().then_some(Entry::Members(repository)),
            Some(digest) => is_digest(digest).then_some(Entry::Link { repository, digest }),
        }
    }
}

/// Whether it is a name under which a registry caches what a repository has. Distribution takes the first component for
/// a host, and there for capitals, where others follow: `Team.io/web`.
#[must_use]
pub fn is_cached_repository(name: &str) -> bool {
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(is_inner)
    };
    let has_host = || {
        let Some((host, rest)) = name.split_once('/') else { return false };
        name.len() <= LONGEST_NAME && host.split('.').all(is_label) && is_repository(rest)
    };
    is_repository(name) || has_host()
}

/// Whether it is a digest that a registry caches: `sha256`, `sha384` or `sha512` with all its lower case hex digits.
#[must_use]
pub fn is_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let length = match algorithm {
        "sha256" => 64,
        "sha384" => 96,
        "sha512" => 128,
        _ => return false,
    };
    hex.len() == length && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn digest(c: char) -> String {
        format!("sha256:{}", c.to_string().repeat(64))
    }

    fn key(text: impl Into<String>) -> Eviction {
        Eviction::Key(text.into())
    }

    #[test]
    fn a_blob_goes_with_the_entries_of_every_repository_that_had_it_and_a_link_with_its_own_two() {
        let (a, b) = (digest('a'), digest('b'));
        let mut doomed = Doomed::default();
        doomed.blob(&a);
        doomed.link("shop/web", &a);
        doomed.link("shop/api", &a);
        doomed.link("shop/web", &b);
        let members = |repository: &str, digests: &[&String]| Eviction::Members {
            set: format!("p:repository::{repository}::blobs"),
            digests: digests.iter().map(|&digest| digest.clone()).collect(),
        };
        assert_eq!(
            Layout::new("p:").evictions(&doomed),
            [
                key(format!("p:blobs::{a}")),
                members("shop/api", &[&a]),
                key(format!("p:repository::shop/api::blobs::{a}")),
                members("shop/web", &[&a, &b]),
                key(format!("p:repository::shop/web::blobs::{a}")),
                key(format!("p:repository::shop/web::blobs::{b}")),
            ]
        );
        assert_eq!((doomed.blobs(), doomed.without_repository()), (1, 0));
    }

    #[test]
    fn long_lists_of_members_are_cut() {
        let mut doomed = Doomed::default();
        for n in 0..1100 {
            doomed.link("a/b", &format!("sha256:{n:064x}"));
        }
        let sizes: Vec<_> = Layout::default()
            .evictions(&doomed)
            .iter()
            .filter_map(|eviction| match eviction {
                Eviction::Members { digests, .. } => Some(digests.len()),
                Eviction::Key(_) => None,
            })
            .collect();
        assert_eq!(sizes, [500, 500, 100]);
    }

    #[test]
    fn a_scan_finds_the_repositories_of_doomed_blobs_and_touches_nothing_else() {
        let (a, b) = (digest('a'), digest('b'));
        let mut doomed = Doomed::default();
        doomed.blob(&a);
        let layout = Layout::default();
        let found = |entry| layout.evictions_of_found(entry, &doomed);
        assert_eq!(
            found(Entry::Members("a/b")),
            [Eviction::Members { set: "repository::a/b::blobs".into(), digests: vec![a.clone()] }]
        );
        let link = Entry::Link { repository: "a/b", digest: &a };
        assert_eq!(found(link), [key(format!("repository::a/b::blobs::{a}"))]);
        assert!(found(Entry::Link { repository: "a/b", digest: &b }).is_empty());
        assert!(found(Entry::Blob(&a)).is_empty());
    }

    #[test]
    fn every_key_of_the_layout_is_recognised_and_no_other() {
        let a = digest('a');
        for prefix in ["", "registry:", "a*b"] {
            let layout = Layout::new(prefix);
            for entry in [
                Entry::Blob(&a),
                Entry::Members("shop/web"),
                Entry::Members("library"),
                Entry::Members("Team.io/web"),
                Entry::Link { repository: "shop/web", digest: &a },
            ] {
                let key = layout.key(entry);
                assert_eq!(layout.entry(&key), Some(entry), "{key}");
                assert_eq!(Layout::new("other:").entry(&key), None, "{key}");
            }
        }
        for foreign in [
            "blobs::photos".to_owned(),
            "blobs::".to_owned(),
            format!("blobs:{a}"),
            format!("blobs::{}", a.to_uppercase()),
            format!("blobs::{a}::x"),
            format!("myblobs::{a}"),
            format!("Repository::a/b::blobs::{a}"),
            "repository::a/b::blobsize".to_owned(),
            "repository::a/b::blobs::".to_owned(),
            "repository::A B::blobs".to_owned(),
            "repository::::blobs".to_owned(),
            "repository::a/b".to_owned(),
            format!("registry:db:{{repository:a:{}}}", "0".repeat(64)),
        ] {
            assert_eq!(Layout::default().entry(&foreign), None, "{foreign}");
        }
    }

    #[test]
    fn the_pattern_takes_the_prefix_literally() {
        assert_eq!(Layout::default().pattern(), "*blobs*");
        assert_eq!(Layout::new("a*[b]?\\c:").pattern(), "a\\*\\[b\\]\\?\\\\c:*blobs*");
    }

    /// The keys of a Redis: hashes as nothing, sets as their members.
    type Keys = BTreeMap<String, BTreeSet<String>>;

    /// What a registry writes when it caches that a repository has a blob.
    fn cache(keys: &mut Keys, repository: &str, digest: &str) {
        keys.entry(["blobs", digest].join("::")).or_default();
        keys.entry(["repository", repository, "blobs"].join("::")).or_default().insert(digest.to_owned());
        keys.entry(["repository", repository, "blobs", digest].join("::")).or_default();
    }

    /// What a Redis does, which keeps no empty sets.
    fn evict(keys: &mut Keys, evictions: &[Eviction]) {
        for eviction in evictions {
            match eviction {
                Eviction::Key(key) => drop(keys.remove(key)),
                Eviction::Members { set, digests } => {
                    let Some(members) = keys.get_mut(set) else { continue };
                    members.retain(|member| !digests.contains(member));
                    if members.is_empty() {
                        keys.remove(set);
                    }
                }
            }
        }
    }

    const REPOSITORY: &str = "([A-Z][a-z]{0,2}(-x)?(\\.[a-z]{1,2})?/)?[a-z0-9]{1,3}((\\.|_|__|--?)[a-z0-9]{1,2}){0,2}(/(blobs|[a-z]{1,2})){0,2}";
    const DIGEST: &str = "sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}";
    /// What is nearly one of the keys, and anything else.
    const FOREIGN: &str = "(re|repository|blobs|x)?(::?|:::)(blobs|a/b|A|repository)?(::?)(blobs|sha256|a)?(:[0-9a-f]{0,65})?|blobs::sha256:[0-9A-F]{63,65}|repository::[a-zA-Z./:_-]{0,6}::blobs|\\PC{0,20}";

    proptest! {
        #[test]
        fn what_a_registry_cached_about_the_doomed_goes_and_nothing_else(
            repositories in proptest::collection::btree_set(REPOSITORY, 1..4),
            digests in proptest::collection::btree_set(DIGEST, 1..6),
            cached in proptest::collection::vec((any::<Index>(), any::<Index>()), 0..20),
            doomed_blobs in any::<[bool; 6]>(),
            doomed_links in proptest::collection::vec((any::<Index>(), any::<Index>()), 0..4),
            foreign in proptest::collection::btree_set(FOREIGN, 0..20),
            prefix in "|registry:|a\\*b",
        ) {
            let (repositories, digests): (Vec<_>, Vec<_>) =
                (repositories.into_iter().collect(), digests.into_iter().collect());
            let pair = |(repository, digest): &(Index, Index)| (repository.get(&repositories), digest.get(&digests));
            let gone: BTreeSet<&String> =
                digests.iter().zip(doomed_blobs).filter(|(_, is_gone)| *is_gone).map(|(digest, _)| digest).collect();
            let lost: BTreeSet<_> = doomed_links.iter().map(pair).collect();
            let (mut keys, mut expected) = (Keys::new(), Keys::new());
            for (repository, digest) in cached.iter().map(pair) {
                cache(&mut keys, repository, digest);
                if gone.contains(digest) {
                    continue;
                }
                if lost.contains(&(repository, digest)) {
                    expected.entry(format!("blobs::{digest}")).or_default();
                } else {
                    cache(&mut expected, repository, digest);
                }
            }
            let layout = Layout::new(prefix.as_str());
            let written: BTreeSet<String> = keys.keys().map(|key| format!("{prefix}{key}")).collect();
            for key in &written {
                let entry = layout.entry(key);
                prop_assert_eq!(entry.map(|entry| layout.key(entry)), Some(key.clone()), "not recognised");
            }
            let behind_prefix = |keys: Keys| -> Keys {
                let own = keys.into_iter().map(|(key, members)| (format!("{prefix}{key}"), members));
                let others = foreign.iter().filter(|key| !written.contains(*key));
                own.chain(others.map(|key| (key.clone(), BTreeSet::from([key.clone()])))).collect()
            };
            let (keys, expected) = (behind_prefix(keys), behind_prefix(expected));

            // Everybody who had a doomed blob is known.
            let mut doomed = Doomed::default();
            for digest in &gone {
                doomed.blob(digest);
                for repository in &repositories {
                    doomed.link(repository, digest);
                }
            }
            for (repository, digest) in &lost {
                doomed.link(repository, digest);
            }
            let mut computed = keys.clone();
            evict(&mut computed, &layout.evictions(&doomed));
            prop_assert_eq!(&computed, &expected);

            // Nobody is known, and a scan finds them.
            let mut alone = Doomed::default();
            for digest in &gone {
                alone.blob(digest);
            }
            for (repository, digest) in &lost {
                alone.link(repository, digest);
            }
            let mut scanned = keys.clone();
            evict(&mut scanned, &layout.evictions(&alone));
            for key in keys.keys() {
                if let Some(entry) = layout.entry(key) {
                    evict(&mut scanned, &layout.evictions_of_found(entry, &alone));
                }
            }
            prop_assert_eq!(&scanned, &expected);
        }

        #[test]
        fn a_key_that_is_taken_for_an_entry_is_that_entry_s_key(key in FOREIGN, prefix in "|registry:") {
            let layout = Layout::new(prefix);
            if let Some(entry) = layout.entry(&key) {
                prop_assert_eq!(layout.key(entry), key);
            }
        }
    }

    #[test]
    fn digests_and_repositories_are_those_of_distribution() {
        assert!(is_digest(&digest('0')) && is_digest(&format!("sha512:{}", "f".repeat(128))));
        for text in
            ["", "sha256:", "sha256:abc", &digest('A'), &digest('g'), &format!("md5:{}", "0".repeat(32))]
        {
            assert!(!is_digest(text), "{text}");
        }
        for name in ["web", "shop/web", "a.b/c_d/e__f/g--h"] {
            assert!(is_repository(name), "{name}");
        }
        for name in ["web", "Team.io/web", "Team/a/b", "a-B.c/d"] {
            assert!(is_cached_repository(name), "{name}");
        }
        for name in ["", "/", "a/", "A/b", "a b", "a..b", "host:5000/a", "../a", &"a".repeat(256)] {
            assert!(!is_repository(name), "{name}");
        }
        let long = format!("A/{}", "a".repeat(254));
        for name in
            ["", "A", "A/", "/a", "a/B", "A/B/c", "-A/b", "A-/b", "A..b/c", "A_b/c", "A:5000/b", &long]
        {
            assert!(!is_cached_repository(name), "{name}");
        }
    }
}
