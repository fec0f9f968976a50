//! The registry's configuration, as far as it is about caches: the file, and the variables that win over it. Pure.
//!
//! The rules are those of the registry's own parser. `REGISTRY_A_B` sets `a.b` to a YAML value. Variables are applied in
//! the order of their names, so one for a whole section (`REGISTRY_REDIS={addr: …}`) comes first and clears what the file
//! has there, and those for its settings come after it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::environment::{ConfigFile, Environment, KeyOf, Source, Value, Variable};

/// The variables that say something about caches, in the order in which they are applied.
pub(super) const VARIABLES: [&str; 26] = [
    LEGACY_TTL,
    "REGISTRY_OPENSHIFT_CACHE",
    "REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL",
    "REGISTRY_OPENSHIFT_CACHE_DISABLED",
    "REGISTRY_REDIS",
    "REGISTRY_REDIS_ADDR",
    "REGISTRY_REDIS_ADDRS",
    "REGISTRY_REDIS_DB",
    "REGISTRY_REDIS_MASTERNAME",
    "REGISTRY_REDIS_OPTIONS_ADDRS",
    "REGISTRY_REDIS_OPTIONS_DB",
    "REGISTRY_REDIS_OPTIONS_MASTERNAME",
    "REGISTRY_REDIS_OPTIONS_PASSWORD",
    "REGISTRY_REDIS_OPTIONS_USERNAME",
    "REGISTRY_REDIS_PASSWORD",
    "REGISTRY_REDIS_TLS",
    "REGISTRY_REDIS_TLS_CERTIFICATE",
    "REGISTRY_REDIS_TLS_CLIENTCAS",
    "REGISTRY_REDIS_TLS_ENABLED",
    "REGISTRY_REDIS_TLS_KEY",
    "REGISTRY_REDIS_TLS_ROOTCAS",
    "REGISTRY_REDIS_USERNAME",
    "REGISTRY_STORAGE",
    "REGISTRY_STORAGE_CACHE",
    "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR",
    "REGISTRY_STORAGE_CACHE_LAYERINFO",
];

/// Set, it wins over `openshift.cache.blobrepositoryttl` wherever that is from.
pub(super) const LEGACY_TTL: &str = "REGISTRY_MIDDLEWARE_REPOSITORY_OPENSHIFT_BLOBREPOSITORYCACHETTL";

pub(super) const DESCRIPTOR: &str = "storage.cache.blobdescriptor";
pub(super) const LAYERINFO: &str = "storage.cache.layerinfo";
pub(super) const DISABLED: &str = "openshift.cache.disabled";
pub(super) const TTL: &str = "openshift.cache.blobrepositoryttl";
/// Counts without an `openshift.cache` section.
pub(super) const LEGACY_OPTION: &str = "middleware.repository.openshift.blobrepositorycachettl";
/// The setting of [`LEGACY_TTL`].
pub(super) const LEGACY: &str = "blobrepositorycachettl";
pub(super) const ADDR: &str = "redis.addr";
pub(super) const ADDRS: &str = "redis.addrs";
pub(super) const USERNAME: &str = "redis.username";
pub(super) const PASSWORD: &str = "redis.password";
pub(super) const DB: &str = "redis.db";
pub(super) const MASTERNAME: &str = "redis.mastername";
pub(super) const TLS_ENABLED: &str = "redis.tls.enabled";
pub(super) const TLS_CERTIFICATE: &str = "redis.tls.certificate";
pub(super) const TLS_KEY: &str = "redis.tls.key";
/// 3.x versions differ in the name; either switches TLS on.
pub(super) const TLS_ROOTCAS: &str = "redis.tls.rootcas";
pub(super) const TLS_CLIENTCAS: &str = "redis.tls.clientcas";

const OF_TLS: [&str; 5] = [TLS_ENABLED, TLS_CERTIFICATE, TLS_KEY, TLS_ROOTCAS, TLS_CLIENTCAS];
const OF_REDIS: [&str; 11] = [
    ADDR,
    ADDRS,
    USERNAME,
    PASSWORD,
    DB,
    MASTERNAME,
    TLS_ENABLED,
    TLS_CERTIFICATE,
    TLS_KEY,
    TLS_ROOTCAS,
    TLS_CLIENTCAS,
];

/// Whether a variable says something about caches.
pub(super) fn matters(name: &str) -> bool {
    let is_in = |section: &str| {
        name.strip_prefix(section).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    name == "REGISTRY_STORAGE"
        || name == LEGACY_TTL
        || ["REGISTRY_STORAGE_CACHE", "REGISTRY_OPENSHIFT_CACHE", "REGISTRY_REDIS"].into_iter().any(is_in)
}

/// Where a setting is made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Configured {
    /// In the image's own configuration file.
    Image,
    /// In a variable of the container.
    Variable {
        /// Its name.
        name: String,
        /// The key that its value comes from, if it is not written into the pod.
        from: Option<KeyOf>,
    },
    /// In the mounted configuration file.
    File(KeyOf),
    /// In a configuration file that was not read.
    UnreadFile(Source),
}

impl fmt::Display for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image => f.write_str("the image's own configuration file"),
            Self::Variable { name, from: None } => write!(f, "variable {name}"),
            Self::Variable { name, from: Some(from) } => write!(f, "variable {name}, {from}"),
            Self::File(from) => write!(f, "the configuration file, {from}"),
            Self::UnreadFile(source) => write!(f, "the configuration file, {source}"),
        }
    }
}

/// A setting as written.
#[derive(Debug, Clone)]
pub(super) enum Scalar {
    /// A text of YAML; absent for null. May be a password, so it does not print.
    Is(Option<SecretString>),
    /// It may be set: what would have to be read.
    Unread(Source),
    /// It is no such value.
    Malformed,
}

#[derive(Debug, Clone)]
pub(super) struct Leaf {
    pub(super) scalar: Scalar,
    pub(super) at: Configured,
}

/// Whether a section is there; an empty one may mean something else than none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Section {
    Absent,
    Present,
    Unread(Source),
}

/// The registry's settings about caches.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) storage_cache: Section,
    pub(super) openshift_cache: Section,
    leaves: BTreeMap<&'static str, Leaf>,
    /// Why the file, which was read, says nothing.
    pub(super) unreadable_file: Option<String>,
}

impl Settings {
    /// Puts file and variables together.
    pub(super) fn of(environment: &Environment) -> Self {
        let mut settings = Self {
            storage_cache: Section::Absent,
            openshift_cache: Section::Absent,
            leaves: BTreeMap::new(),
            unreadable_file: None,
        };
        settings.take_file(&environment.file);
        let own = environment.variables.keys().map(String::as_str).filter(|name| matters(name));
        let names: BTreeSet<&str> = own.chain(VARIABLES).collect();
        for name in names {
            if let Some(variable) = environment.get(name) {
                settings.apply(name, &variable);
            }
        }
        settings
    }

    pub(super) fn get(&self, name: &str) -> Option<&Leaf> {
        self.leaves.get(name)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &Leaf)> {
        self.leaves.iter().map(|(name, leaf)| (*name, leaf))
    }

    fn take_file(&mut self, file: &ConfigFile) {
        match file {
            ConfigFile::Image => {
                self.storage_cache = Section::Present;
                self.openshift_cache = Section::Present;
                self.set(DESCRIPTOR, Some("inmemory".to_owned()), &Configured::Image);
                self.set(TTL, Some("10m".to_owned()), &Configured::Image);
            }
            ConfigFile::Elsewhere(source) => self.may_say_anything(source),
            ConfigFile::Is { from, text } => match yaml::<FileText>(text.expose_secret()) {
                Ok(file) => self.take_text(file.unwrap_or_default(), &Configured::File(from.clone())),
                Err(line) => {
                    // The registry's parser may be more generous than this one.
                    self.may_say_anything(&from.source);
                    let line = line.map(|line| format!(", line {line}")).unwrap_or_default();
                    self.unreadable_file = Some(format!("{from} is no configuration file{line}"));
                }
            },
        }
    }

    fn may_say_anything(&mut self, source: &Source) {
        let at = Configured::UnreadFile(source.clone());
        self.storage_cache = Section::Unread(source.clone());
        self.openshift_cache = Section::Unread(source.clone());
        for name in [DESCRIPTOR, LAYERINFO, DISABLED, TTL, LEGACY_OPTION].into_iter().chain(OF_REDIS) {
            self.unread(name, source, &at);
        }
    }

    fn take_text(&mut self, file: FileText, at: &Configured) {
        let FileText { storage, redis, openshift, middleware } = file;
        self.set_storage_cache(storage.0, at);
        self.set_redis(redis.unwrap_or_default(), at);
        self.set_openshift_cache(openshift.unwrap_or_default().cache, at);
        let ours = middleware.unwrap_or_default().repository.unwrap_or_default().into_iter();
        for part in ours.filter(|part| part.name.as_deref() == Some("openshift")) {
            if let Some(ttl) = part.options.unwrap_or_default().blobrepositorycachettl {
                self.set(LEGACY_OPTION, Some(ttl), at);
            }
        }
    }

    fn set(&mut self, name: &'static str, text: Option<String>, at: &Configured) {
        let scalar = Scalar::Is(text.map(SecretString::from));
        self.leaves.insert(name, Leaf { scalar, at: at.clone() });
    }

    fn unread(&mut self, name: &'static str, source: &Source, at: &Configured) {
        self.leaves.insert(name, Leaf { scalar: Scalar::Unread(source.clone()), at: at.clone() });
    }

    fn set_storage_cache(&mut self, section: Option<Cache>, at: &Configured) {
        self.leaves.remove(DESCRIPTOR);
        self.leaves.remove(LAYERINFO);
        self.storage_cache = if section.is_some() { Section::Present } else { Section::Absent };
        for (name, text) in section.unwrap_or_default() {
            match name.as_str() {
                "blobdescriptor" => self.set(DESCRIPTOR, text, at),
                "layerinfo" => self.set(LAYERINFO, text, at),
                _ => {}
            }
        }
    }

    fn set_openshift_cache(&mut self, section: Option<OpenshiftCache>, at: &Configured) {
        self.leaves.remove(DISABLED);
        self.leaves.remove(TTL);
        self.openshift_cache = if section.is_some() { Section::Present } else { Section::Absent };
        let OpenshiftCache { disabled, blobrepositoryttl } = section.unwrap_or_default();
        for (name, text) in [(DISABLED, disabled), (TTL, blobrepositoryttl)] {
            if text.is_some() {
                self.set(name, text, at);
            }
        }
    }

    fn set_redis(&mut self, redis: RedisText, at: &Configured) {
        let RedisText { addr, addrs, username, password, db, mastername, tls } = redis;
        for name in [ADDR, ADDRS, USERNAME, PASSWORD, DB, MASTERNAME] {
            self.leaves.remove(name);
        }
        for (name, text) in [
            (ADDR, addr),
            (ADDRS, addrs.map(|addrs| addrs.join(","))),
            (USERNAME, username),
            (PASSWORD, password),
            (DB, db),
            (MASTERNAME, mastername),
        ] {
            if text.is_some() {
                self.set(name, text, at);
            }
        }
        self.set_tls(tls.unwrap_or_default(), at);
    }

    fn set_tls(&mut self, tls: TlsText, at: &Configured) {
        let TlsText { enabled, certificate, key, rootcas, clientcas } = tls;
        for name in OF_TLS {
            self.leaves.remove(name);
        }
        for (name, text) in [
            (TLS_ENABLED, enabled),
            (TLS_CERTIFICATE, certificate),
            (TLS_KEY, key),
            (TLS_ROOTCAS, rootcas.map(|files| files.join(","))),
            (TLS_CLIENTCAS, clientcas.map(|files| files.join(","))),
        ] {
            if text.is_some() {
                self.set(name, text, at);
            }
        }
    }

    /// Applies one variable.
    fn apply(&mut self, name: &str, variable: &Variable) {
        let at = Configured::Variable { name: name.to_owned(), from: variable.from.clone() };
        let text = match &variable.value {
            Value::Plain(text) => Ok(text.expose_secret()),
            Value::Elsewhere(source) => Err(source),
        };
        if name == LEGACY_TTL {
            match text {
                // Not YAML, and empty is as good as absent.
                Ok("") => {}
                Ok(text) => self.set(LEGACY, Some(text.to_owned()), &at),
                Err(source) => self.unread(LEGACY, source, &at),
            }
            return;
        }
        let path: Vec<&str> = name.split('_').skip(1).collect();
        match path.as_slice() {
            ["STORAGE"] => match section::<Storage>(text) {
                Given::Is(storage) => self.set_storage_cache(storage.unwrap_or_default().0, &at),
                given => self.hide(&given, &[DESCRIPTOR, LAYERINFO], &at),
            },
            ["STORAGE", "CACHE"] => match section::<Cache>(text) {
                Given::Is(cache) => self.set_storage_cache(Some(cache.unwrap_or_default()), &at),
                given => self.hide(&given, &[DESCRIPTOR, LAYERINFO], &at),
            },
            ["STORAGE", "CACHE", setting, ..] => {
                open(&mut self.storage_cache, text);
                let known = match *setting {
                    "BLOBDESCRIPTOR" => DESCRIPTOR,
                    "LAYERINFO" => LAYERINFO,
                    _ => return,
                };
                self.set_leaf(known, text, &at);
            }
            ["OPENSHIFT", "CACHE"] => match section::<OpenshiftCache>(text) {
                Given::Is(cache) => self.set_openshift_cache(cache, &at),
                given => self.hide(&given, &[DISABLED, TTL], &at),
            },
            // Whatever the setting is called, a section comes into being, with a life of 0 for entries.
            ["OPENSHIFT", "CACHE", setting, ..] => {
                open(&mut self.openshift_cache, text);
                let known = match *setting {
                    "DISABLED" => DISABLED,
                    "BLOBREPOSITORYTTL" => TTL,
                    _ => return,
                };
                self.set_leaf(known, text, &at);
            }
            ["REDIS"] => match section::<RedisText>(text) {
                Given::Is(redis) => self.set_redis(redis.unwrap_or_default(), &at),
                given => self.hide(&given, &OF_REDIS, &at),
            },
            ["REDIS", "TLS"] => match section::<TlsText>(text) {
                Given::Is(tls) => self.set_tls(tls.unwrap_or_default(), &at),
                given => self.hide(&given, &OF_TLS, &at),
            },
            ["REDIS", "TLS", setting] => {
                let known = match *setting {
                    "ENABLED" => TLS_ENABLED,
                    "CERTIFICATE" => TLS_CERTIFICATE,
                    "KEY" => TLS_KEY,
                    "ROOTCAS" => return self.set_list(TLS_ROOTCAS, text, &at),
                    "CLIENTCAS" => return self.set_list(TLS_CLIENTCAS, text, &at),
                    _ => return,
                };
                self.set_leaf(known, text, &at);
            }
            // `redis.options` is how a variable had to name what stands in `redis` in the first 3.x versions.
            ["REDIS", "OPTIONS", setting] | ["REDIS", setting] => {
                let known = match *setting {
                    "ADDR" => ADDR,
                    "ADDRS" => return self.set_list(ADDRS, text, &at),
                    "USERNAME" => USERNAME,
                    "PASSWORD" => PASSWORD,
                    "DB" => DB,
                    "MASTERNAME" => MASTERNAME,
                    _ => return,
                };
                self.set_leaf(known, text, &at);
            }
            _ => {}
        }
    }

    /// A section is given by a variable that was not read, or does not parse: the registry does not start then.
    fn hide<T>(&mut self, given: &Given<'_, T>, names: &[&'static str], at: &Configured) {
        for &name in names {
            match given {
                Given::Unread(source) => self.unread(name, source, at),
                Given::Is(_) | Given::Broken => {
                    self.leaves.insert(name, Leaf { scalar: Scalar::Malformed, at: at.clone() });
                }
            }
        }
        let section = match names.first() {
            Some(&DESCRIPTOR) => &mut self.storage_cache,
            Some(&DISABLED) => &mut self.openshift_cache,
            _ => return,
        };
        *section = match given {
            Given::Unread(source) => Section::Unread((*source).clone()),
            Given::Is(_) | Given::Broken => Section::Present,
        };
    }

    fn set_leaf(&mut self, name: &'static str, text: Result<&str, &Source>, at: &Configured) {
        match text.map(yaml::<String>) {
            Ok(Ok(text)) => self.set(name, text, at),
            Ok(Err(_)) => {
                self.leaves.insert(name, Leaf { scalar: Scalar::Malformed, at: at.clone() });
            }
            Err(source) => self.unread(name, source, at),
        }
    }

    fn set_list(&mut self, name: &'static str, text: Result<&str, &Source>, at: &Configured) {
        match text.map(yaml::<Vec<String>>) {
            Ok(Ok(list)) => self.set(name, list.map(|list| list.join(",")), at),
            Ok(Err(_)) => {
                self.leaves.insert(name, Leaf { scalar: Scalar::Malformed, at: at.clone() });
            }
            Err(source) => self.unread(name, source, at),
        }
    }
}

/// A section comes into being with its first setting.
fn open(section: &mut Section, text: Result<&str, &Source>) {
    match text {
        Ok(_) => *section = Section::Present,
        Err(source) if *section == Section::Absent => *section = Section::Unread(source.clone()),
        Err(_) => {}
    }
}

/// A whole section, as a variable gives it.
enum Given<'a, T> {
    Is(Option<T>),
    Unread(&'a Source),
    Broken,
}

fn section<'a, T: DeserializeOwned>(text: Result<&str, &'a Source>) -> Given<'a, T> {
    match text.map(yaml::<T>) {
        Ok(Ok(section)) => Given::Is(section),
        Ok(Err(_)) => Given::Broken,
        Err(source) => Given::Unread(source),
    }
}

/// Reads YAML as the registry does. An error is the number of its line alone: its text would repeat what stands there.
fn yaml<T: DeserializeOwned>(text: &str) -> Result<Option<T>, Option<u64>> {
    let options = serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| error.location().map(|location| location.line()))
}

/// The file as far as it is about caches.
#[derive(Default, Deserialize)]
#[serde(default)]
struct FileText {
    storage: Storage,
    redis: Option<RedisText>,
    openshift: Option<OpenshiftText>,
    middleware: Option<MiddlewareText>,
}

/// A setting without a value is there all the same.
type Cache = BTreeMap<String, Option<String>>;

/// The cache section of the storage, which may be a name alone: `storage: filesystem`.
#[derive(Default)]
struct Storage(Option<Cache>);

#[derive(Default, Deserialize)]
#[serde(default)]
struct RedisText {
    addr: Option<String>,
    addrs: Option<Vec<String>>,
    username: Option<String>,
    password: Option<String>,
    db: Option<String>,
    mastername: Option<String>,
    tls: Option<TlsText>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct TlsText {
    enabled: Option<String>,
    certificate: Option<String>,
    key: Option<String>,
    rootcas: Option<Vec<String>>,
    clientcas: Option<Vec<String>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OpenshiftText {
    cache: Option<OpenshiftCache>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OpenshiftCache {
    disabled: Option<String>,
    blobrepositoryttl: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MiddlewareText {
    repository: Option<Vec<Middleware>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Middleware {
    name: Option<String>,
    options: Option<MiddlewareOptions>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct MiddlewareOptions {
    blobrepositorycachettl: Option<String>,
}

impl<'de> Deserialize<'de> for Storage {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StorageVisitor;
        impl<'de> Visitor<'de> for StorageVisitor {
            type Value = Storage;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a storage driver")
            }

            fn visit_str<E>(self, _: &str) -> Result<Storage, E> {
                Ok(Storage::default())
            }

            fn visit_unit<E>(self) -> Result<Storage, E> {
                Ok(Storage::default())
            }

            fn visit_none<E>(self) -> Result<Storage, E> {
                Ok(Storage::default())
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Storage, A::Error> {
                let mut storage = Storage::default();
                while let Some(name) = map.next_key::<String>()? {
                    if name == "cache" {
                        storage.0 = Some(map.next_value::<Option<Cache>>()?.unwrap_or_default());
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(storage)
            }
        }
        deserializer.deserialize_any(StorageVisitor)
    }
}
