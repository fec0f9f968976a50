//! Which caches the registry has, by its configuration. Pure: as measured on the integrated registry.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::environment::{Environment, KeyOf, Origin, Source};
use super::settings::{self, Configured, Leaf, Scalar, Section, Settings};
use crate::cache::redis::address::{PORT, SENTINEL_PORT, host_and_port};
use crate::cache::redis::{Protocol, RedisAddress, Topology};
use crate::cli::duration;
use crate::text::brief;

/// The life of an entry in the digest cache where nothing is said about it at all.
const DEFAULT_TTL: Duration = Duration::from_secs(600);

/// The caches of the integrated registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheConfig {
    /// Each replica's own memory, in front of everything.
    pub digest_cache: DigestCache,
    /// What the replicas ask before the storage.
    pub descriptor_cache: DescriptorCache,
    /// The settings that this is from.
    pub configured: Vec<ConfiguredSetting>,
    /// What else is to be known about them, safe to print.
    pub notes: Vec<String>,
}

/// A setting about caches, and where it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfiguredSetting {
    /// Its path in the configuration file: `redis.addr`.
    pub name: &'static str,
    /// Its value, safe to print; absent where it is not known, is a password, or comes from a Secret.
    pub value: Option<String>,
    /// Where it is made.
    pub at: Configured,
}

/// Each replica's own cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DigestCache {
    /// It is on: an entry lives this long from when it was put in.
    On {
        /// How long.
        ttl: Duration,
    },
    /// It is off.
    Off,
    /// The registry does not start with this setting: why. Pods of an earlier configuration may still have one.
    DoesNotStart(String),
    /// It may be on: what would have to be read.
    Unknown(Source),
}

/// The cache of blob descriptors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescriptorCache {
    /// None of its own: the digest cache takes its place.
    InMemory,
    /// None at all.
    Absent,
    /// A Redis that all replicas share.
    Redis(Box<Redis>),
    /// The registry does not start with this setting: why.
    DoesNotStart(String),
    /// There may be a Redis: what would have to be read.
    Unknown(Source),
}

/// How the registry reaches its Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redis {
    /// Hosts and ports: several of a cluster or of Sentinels.
    pub addresses: Setting<Vec<(String, u16)>>,
    /// The name by which Sentinels know the master; without one there are none.
    pub master: Setting<String>,
    /// The number of the database; 0 unless set.
    pub database: Setting<u32>,
    /// The ACL user.
    pub user: Setting<String>,
    /// The password.
    pub password: Setting<Password>,
    /// Whether TLS is spoken.
    pub tls: Setting<bool>,
}

/// A value of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Setting<T> {
    /// It is not set.
    Unset,
    /// It is known.
    Is(T),
    /// It could not be read.
    Unreadable(Source),
    /// It is set to what means nothing: why. Does not repeat the value.
    Invalid(String),
}

/// A password, which does not print.
#[derive(Debug, Clone)]
pub struct Password(pub SecretString);

impl PartialEq for Password {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Password {}

impl CacheConfig {
    /// The worse of two configurations: a registry may run pods of both.
    ///
    /// A cache that may be there is worse than a digest cache that is there, whose entries' life is known, and not so
    /// bad as a Redis that is there.
    #[must_use]
    pub fn or_worse(mut self, other: &Self) -> Self {
        self.digest_cache = match (self.digest_cache, &other.digest_cache) {
            (DigestCache::On { ttl }, DigestCache::On { ttl: theirs }) => {
                DigestCache::On { ttl: ttl.max(*theirs) }
            }
            (own, theirs) if own.rank() >= theirs.rank() => own,
            (_, theirs) => theirs.clone(),
        };
        if other.descriptor_cache.rank() > self.descriptor_cache.rank() {
            self.descriptor_cache = other.descriptor_cache.clone();
        }
        for note in &other.notes {
            if !self.notes.contains(note) {
                self.notes.push(note.clone());
            }
        }
        self
    }

    /// The Redis, if there surely is one.
    #[must_use]
    pub fn redis(&self) -> Option<&Redis> {
        match &self.descriptor_cache {
            DescriptorCache::Redis(redis) => Some(redis),
            _ => None,
        }
    }
}

impl DigestCache {
    fn rank(&self) -> u8 {
        match self {
            Self::Unknown(_) => 3,
            Self::On { .. } => 2,
            Self::Off => 1,
            Self::DoesNotStart(_) => 0,
        }
    }
}

impl DescriptorCache {
    fn rank(&self) -> u8 {
        match self {
            Self::Redis(_) => 4,
            Self::Unknown(_) => 3,
            Self::InMemory => 2,
            Self::Absent => 1,
            Self::DoesNotStart(_) => 0,
        }
    }
}

impl Redis {
    /// How it is reached.
    ///
    /// # Errors
    /// What of it is not known, and why, safe to print.
    pub fn address(&self) -> Result<RedisAddress, Vec<String>> {
        let mut unknown = Vec::new();
        let addresses = known("address", &self.addresses, &mut unknown).unwrap_or_default();
        let master = known("name of the master", &self.master, &mut unknown).unwrap_or_default();
        let database = known("database", &self.database, &mut unknown).unwrap_or_default();
        let user = known("user", &self.user, &mut unknown);
        let password = known("password", &self.password, &mut unknown);
        let tls = known("TLS setting", &self.tls, &mut unknown).unwrap_or_default();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        // The rules of the registry's client.
        let topology = match (addresses.as_slice(), master) {
            ([], _) => return Err(vec!["the address is not set".to_owned()]),
            (_, master) if !master.is_empty() => Topology::Sentinel { sentinels: addresses, master },
            ([(host, port)], _) => Topology::Single { host: host.clone(), port: *port },
            _ => Topology::Cluster(addresses),
        };
        let database = match topology {
            Topology::Cluster(_) => 0,
            _ => i64::from(database),
        };
        Ok(RedisAddress {
            topology,
            tls,
            database,
            user,
            password: password.map(|Password(password)| password),
            protocol: Protocol::default(),
        })
    }
}

fn known<T: Clone>(what: &str, setting: &Setting<T>, unknown: &mut Vec<String>) -> Option<T> {
    match setting {
        Setting::Is(value) => return Some(value.clone()),
        Setting::Unset => {}
        Setting::Unreadable(source) => {
            unknown.push(format!("the {what} stands in {source}, which cannot be read"));
        }
        Setting::Invalid(why) => unknown.push(format!("the {what} means nothing: {why}")),
    }
    None
}

/// Decides which caches a registry with this environment has.
///
/// A configuration file that cannot be read counts as one that may say anything; variables win over it, as in the
/// registry itself.
#[must_use]
pub fn cache_of(environment: &Environment) -> CacheConfig {
    let settings = Settings::of(environment);
    CacheConfig {
        digest_cache: digest_cache(&settings).unwrap_or_else(DigestCache::DoesNotStart),
        descriptor_cache: descriptor_cache(&settings).unwrap_or_else(DescriptorCache::DoesNotStart),
        configured: configured(&settings),
        notes: settings.unreadable_file.into_iter().collect(),
    }
}

/// The cache, or why the registry does not start.
fn digest_cache(settings: &Settings) -> Result<DigestCache, String> {
    let read = |name, read: fn(&str) -> Result<i128, String>| valid(setting(settings, name, read));
    let disabled = match valid(setting(settings, settings::DISABLED, boolean))? {
        Setting::Is(true) => return Ok(DigestCache::Off),
        Setting::Unreadable(source) => Some(source),
        Setting::Is(false) | Setting::Unset | Setting::Invalid(_) => None,
    };
    let ttl = match (read(settings::LEGACY, go_duration)?, &settings.openshift_cache) {
        (Setting::Unset, Section::Absent) => match read(settings::LEGACY_OPTION, go_duration)? {
            // Not even a section: then the registry has a default of its own.
            Setting::Unset => Setting::Is(i128::try_from(DEFAULT_TTL.as_nanos()).unwrap_or(i128::MAX)),
            option => option,
        },
        (Setting::Unset, Section::Present) => read(settings::TTL, yaml_duration)?,
        (Setting::Unset, Section::Unread(source)) => Setting::Unreadable(source.clone()),
        (legacy, _) => legacy,
    };
    Ok(match (ttl, disabled) {
        // A section without this setting: entries live for no time.
        (Setting::Unset | Setting::Invalid(_) | Setting::Is(..=0), _) => DigestCache::Off,
        (_, Some(source)) | (Setting::Unreadable(source), None) => DigestCache::Unknown(source),
        (Setting::Is(nanoseconds), None) => {
            let ttl = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
            DigestCache::On { ttl }
        }
    })
}

/// The cache, or why the registry does not start.
fn descriptor_cache(settings: &Settings) -> Result<DescriptorCache, String> {
    // The older name counts only where the newer one is absent.
    let (name, leaf) = match (settings.get(settings::DESCRIPTOR), settings.get(settings::LAYERINFO)) {
        (Some(leaf), _) => (settings::DESCRIPTOR, Some(leaf)),
        (None, leaf) => (settings::LAYERINFO, leaf),
    };
    let at = match (leaf, &settings.storage_cache) {
        (Some(leaf), _) => leaf,
        (None, Section::Absent) => return Ok(DescriptorCache::Absent),
        (None, Section::Unread(source)) => return Ok(DescriptorCache::Unknown(source.clone())),
        (None, Section::Present) => return Err(format!("storage.cache has no {}", settings::DESCRIPTOR)),
    };
    let kind = match &at.scalar {
        Scalar::Is(Some(text)) => text.expose_secret(),
        Scalar::Is(None) => return Err(format!("{} is empty", named(name, at))),
        Scalar::Unread(source) => return Ok(DescriptorCache::Unknown(source.clone())),
        Scalar::Malformed => return Err(format!("{} is no text", named(name, at))),
    };
    match kind {
        "inmemory" | "openshift" => Ok(DescriptorCache::InMemory),
        // Quotes with nothing in between, which is not the same as nothing.
        "" => Ok(DescriptorCache::Absent),
        "redis" => redis(settings).map(|redis| DescriptorCache::Redis(Box::new(redis))),
        _ => Err(format!("{} is no cache that the registry knows", with_value(name, at))),
    }
}

fn redis(settings: &Settings) -> Result<Redis, String> {
    let text = |name| setting(settings, name, |text| Ok(text.to_owned()));
    let not_empty = |setting| match setting {
        Setting::Is(text) if String::is_empty(&text) => Setting::Unset,
        setting => setting,
    };
    let number = |text: &str| text.parse().map_err(|_| "it is no number".to_owned());
    let master = not_empty(text(settings::MASTERNAME));
    let is_sentinel = !matches!(master, Setting::Unset);
    let hosts = |text: &str| addresses(text, if is_sentinel { SENTINEL_PORT } else { PORT });
    let single = setting(settings, settings::ADDR, |text| addresses(text, PORT));
    let (addresses, is_old) = match single {
        Setting::Unset => (setting(settings, settings::ADDRS, hosts), false),
        Setting::Is(list) if list.is_empty() => (setting(settings, settings::ADDRS, hosts), false),
        // It may be either form.
        Setting::Unreadable(source) => match setting(settings, settings::ADDRS, hosts) {
            Setting::Is(list) if !list.is_empty() => (Setting::Is(list), false),
            _ => (Setting::Unreadable(source), false),
        },
        single => (single, true),
    };
    let addresses = match addresses {
        Setting::Is(list) if list.is_empty() => Setting::Unset,
        addresses => addresses,
    };
    if addresses == Setting::Unset {
        return Err("the descriptor cache is redis, and redis.addr is not set".to_owned());
    }
    let password = match not_empty(text(settings::PASSWORD)) {
        Setting::Is(password) => Setting::Is(Password(password.into())),
        Setting::Unset => Setting::Unset,
        Setting::Unreadable(source) => Setting::Unreadable(source),
        Setting::Invalid(why) => Setting::Invalid(why),
    };
    let enabled = setting(settings, settings::TLS_ENABLED, boolean);
    let tls = if is_old { enabled } else { newer_tls(settings, enabled) };
    let database = setting(settings, settings::DB, number);
    // The older form knows neither.
    let (user, master) =
        if is_old { (Setting::Unset, Setting::Unset) } else { (not_empty(text(settings::USERNAME)), master) };
    Ok(Redis { addresses, master, database, user, password, tls })
}

/// Versions 3 speak TLS if a file for it is named.
fn newer_tls(settings: &Settings, enabled: Setting<bool>) -> Setting<bool> {
    let files =
        [settings::TLS_CERTIFICATE, settings::TLS_KEY, settings::TLS_ROOTCAS, settings::TLS_CLIENTCAS]
            .map(|name| setting(settings, name, |text| Ok(!text.is_empty())));
    std::iter::once(enabled)
        .chain(files)
        .reduce(|one, other| match (one, other) {
            (Setting::Is(true), _) | (_, Setting::Is(true)) => Setting::Is(true),
            (Setting::Unreadable(source), _) | (_, Setting::Unreadable(source)) => {
                Setting::Unreadable(source)
            }
            (Setting::Invalid(why), _) | (_, Setting::Invalid(why)) => Setting::Invalid(why),
            (Setting::Unset, other) => other,
            (one, _) => one,
        })
        .unwrap_or(Setting::Unset)
}

/// Reads a setting; null stands for the empty text.
fn setting<T>(
    settings: &Settings,
    name: &'static str,
    read: impl FnOnce(&str) -> Result<T, String>,
) -> Setting<T> {
    let Some(leaf) = settings.get(name) else { return Setting::Unset };
    match &leaf.scalar {
        // Null is the value that a setting has when it is not set.
        Scalar::Is(None) => Setting::Unset,
        Scalar::Is(Some(text)) => match read(text.expose_secret()) {
            Ok(value) => Setting::Is(value),
            Err(why) => Setting::Invalid(format!("{}: {why}", with_value(name, leaf))),
        },
        Scalar::Unread(source) => Setting::Unreadable(source.clone()),
        Scalar::Malformed => Setting::Invalid(format!("{}: it is not of the right form", named(name, leaf))),
    }
}

/// The registry does not start with an invalid setting.
fn valid<T>(setting: Setting<T>) -> Result<Setting<T>, String> {
    match setting {
        Setting::Invalid(why) => Err(why),
        setting => Ok(setting),
    }
}

/// A setting as an administrator would look for it.
fn named(name: &str, leaf: &Leaf) -> String {
    match &leaf.at {
        Configured::Variable { name, .. } => name.clone(),
        Configured::Image | Configured::File(_) | Configured::UnreadFile(_) => name.to_owned(),
    }
}

/// The same with its value, if that may be shown.
fn with_value(name: &'static str, leaf: &Leaf) -> String {
    let separator = if matches!(leaf.at, Configured::Variable { .. }) { "=" } else { ": " };
    let value = shown(name, leaf).map(|value| format!("{separator}{value}")).unwrap_or_default();
    format!("{}{value}", named(name, leaf))
}

/// The value of a setting for people, unless it may be secret.
fn shown(name: &'static str, leaf: &Leaf) -> Option<String> {
    let Scalar::Is(text) = &leaf.scalar else { return None };
    let text = text.as_ref().map_or("null", ExposeSecret::expose_secret);
    let from = match &leaf.at {
        Configured::Variable { from, .. } => from.as_ref(),
        Configured::File(from) => Some(from),
        Configured::Image | Configured::UnreadFile(_) => None,
    };
    let is_secret = from.is_some_and(|KeyOf { source, .. }| source.origin == Origin::Secret)
        || name == settings::PASSWORD;
    // A URL with a password, where an address should be.
    let is_address = matches!(name, settings::ADDR | settings::ADDRS);
    let is_wrong = is_address && addresses(text, PORT).is_err();
    (!is_secret && !is_wrong).then(|| brief(text))
}

fn configured(settings: &Settings) -> Vec<ConfiguredSetting> {
    let entry = |(name, leaf): (&'static str, &Leaf)| ConfiguredSetting {
        name,
        value: shown(name, leaf),
        at: leaf.at.clone(),
    };
    settings.all().map(entry).collect()
}

/// A boolean of YAML 1.1, which is what the registry reads.
fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" | "y" | "Y" => Ok(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" | "n" | "N" => Ok(false),
        _ => Err("it is neither true nor false".to_owned()),
    }
}

/// A duration in nanoseconds.
fn go_duration(text: &str) -> Result<i128, String> {
    duration::parse(text).map(|duration| duration.as_nanos()).map_err(|_| "it is no duration".to_owned())
}

/// A duration in nanoseconds; a bare number counts them.
fn yaml_duration(text: &str) -> Result<i128, String> {
    text.parse::<i64>().map(i128::from).or_else(|_| go_duration(text))
}

/// Reads `HOST:PORT,HOST:PORT`. The error does not repeat it: it may hold a password.
fn addresses(text: &str, default: u16) -> Result<Vec<(String, u16)>, String> {
    text.split(',')
        .map(str::trim)
        .filter(|host| !host.is_empty())
        .map(|host| address(host, default))
        .collect()
}

fn address(text: &str, default: u16) -> Result<(String, u16), String> {
    let wrong = || "it is no HOST:PORT".to_owned();
    let (host, port) = host_and_port(text, default).map_err(|_| wrong())?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let is_host = if text.starts_with('[') {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.chars().all(is_name)
    };
    if is_host { Ok((host, port)) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::super::environment::{ConfigFile, Value, Variable};
    use super::*;

    const DISABLED: &str = "REGISTRY_OPENSHIFT_CACHE_DISABLED";
    const TTL: &str = "REGISTRY_OPENSHIFT_CACHE_BLOBREPOSITORYTTL";
    const DESCRIPTOR: &str = "REGISTRY_STORAGE_CACHE_BLOBDESCRIPTOR";
    const REDIS: (&str, &str) = (DESCRIPTOR, "redis");
    const ADDR: (&str, &str) = ("REGISTRY_REDIS_ADDR", "redis.infra.svc:6379");

    fn secret(name: &str) -> Source {
        Source { origin: Origin::Secret, namespace: "n".to_owned(), name: name.to_owned() }
    }

    fn environment(variables: &[(&str, &str)]) -> Environment {
        let plain = |&(name, value): &(&str, &str)| {
            (name.to_owned(), Variable { value: Value::Plain(value.to_owned().into()), from: None })
        };
        Environment { variables: variables.iter().map(plain).collect(), ..Environment::default() }
    }

    fn elsewhere(environment: &mut Environment, name: &str, object: &str) {
        let variable = Variable { value: Value::Elsewhere(secret(object)), from: None };
        environment.variables.insert(name.to_owned(), variable);
    }

    /// With a mounted file that was read.
    fn with_file(text: &str, variables: &[(&str, &str)]) -> Environment {
        let from = KeyOf { source: secret("config"), key: "config.yml".to_owned() };
        let file = ConfigFile::Is { from, text: text.to_owned().into() };
        Environment { file, ..environment(variables) }
    }

    fn digest(variables: &[(&str, &str)]) -> DigestCache {
        cache_of(&environment(variables)).digest_cache
    }

    fn descriptor(variables: &[(&str, &str)]) -> DescriptorCache {
        cache_of(&environment(variables)).descriptor_cache
    }

    fn digest_of(text: &str, variables: &[(&str, &str)]) -> DigestCache {
        cache_of(&with_file(text, variables)).digest_cache
    }

    fn descriptor_of(text: &str, variables: &[(&str, &str)]) -> DescriptorCache {
        cache_of(&with_file(text, variables)).descriptor_cache
    }

    fn redis_of(environment: &Environment) -> Redis {
        match cache_of(environment).descriptor_cache {
            DescriptorCache::Redis(redis) => *redis,
            other => panic!("{other:?}"),
        }
    }

    fn url(environment: &Environment) -> String {
        redis_of(environment).address().unwrap().to_string()
    }

    fn on(seconds: u64) -> DigestCache {
        DigestCache::On { ttl: Duration::from_secs(seconds) }
    }

    #[test]
    fn the_digest_cache_is_on_unless_a_setting_really_turns_it_off() {
        assert_eq!(digest(&[]), on(600));
        assert_eq!(digest(&[(DESCRIPTOR, "inmemory")]), on(600));
        assert_eq!(digest(&[REDIS]), on(600), "whatever the other cache is");
        for yes in ["true", "yes", "On", "y"] {
            assert_eq!(digest(&[(DISABLED, yes)]), DigestCache::Off, "{yes}");
        }
        for off in ["0s", "0", "-1m", "", "~"] {
            assert_eq!(digest(&[(TTL, off)]), DigestCache::Off, "{off:?}");
        }
        assert_eq!(digest(&[(TTL, "1m30s")]), on(90));
        assert_eq!(digest(&[(TTL, "90000000000")]), on(90), "nanoseconds");
        for no in ["false", "", "~", "off"] {
            assert_eq!(digest(&[(DISABLED, no)]), on(600), "{no:?}: the image's own file has the section");
        }
        for word in ["maybe", "tRUE", "1", "{}"] {
            assert!(matches!(digest(&[(DISABLED, word)]), DigestCache::DoesNotStart(_)), "{word}");
        }
        for ttl in ["soon", "5 m", "1d", "[]"] {
            assert!(matches!(digest(&[(TTL, ttl)]), DigestCache::DoesNotStart(_)), "{ttl}");
        }
    }

    #[test]
    fn a_section_of_the_file_that_is_absent_means_something_else_than_an_empty_one() {
        assert_eq!(digest_of("version: 0.1", &[]), on(600), "a default of the registry's own");
        assert_eq!(digest_of("openshift:\n  version: 1.0", &[]), on(600));
        assert_eq!(digest_of("openshift: {cache: {}}", &[]), DigestCache::Off);
        assert_eq!(digest_of("openshift: {cache: }", &[]), on(600));
        assert_eq!(digest_of("openshift: {cache: {blobrepositoryttl: 60s}}", &[]), on(60));
        let disabled = "openshift: {cache: {disabled: yes, blobrepositoryttl: 60s}}";
        assert_eq!(digest_of(disabled, &[]), DigestCache::Off);
        assert_eq!(digest_of(disabled, &[(DISABLED, "false")]), on(60), "variables win");

        assert_eq!(digest_of("version: 0.1", &[(DISABLED, "false")]), DigestCache::Off, "no life at all");
        assert_eq!(digest_of("version: 0.1", &[("REGISTRY_OPENSHIFT_CACHE_OTHER", "1")]), DigestCache::Off);
        assert_eq!(digest_of("version: 0.1", &[(TTL, "5m")]), on(300));
        let whole = ("REGISTRY_OPENSHIFT_CACHE", "{disabled: true}");
        assert_eq!(digest(&[whole]), DigestCache::Off);
        assert_eq!(digest(&[whole, (DISABLED, "no")]), DigestCache::Off, "the section of the file is gone");
        assert_eq!(digest(&[whole, (DISABLED, "no"), (TTL, "1m")]), on(60));
        assert_eq!(digest(&[("REGISTRY_OPENSHIFT_CACHE", "")]), on(600), "none again");
        assert_eq!(digest(&[("REGISTRY_OPENSHIFT", "{cache: {disabled: true}}")]), on(600), "never read");

        assert_eq!(descriptor_of("version: 0.1", &[]), DescriptorCache::Absent);
        assert_eq!(descriptor_of("storage: filesystem", &[]), DescriptorCache::Absent);
        assert_eq!(descriptor_of("storage: {cache: {blobdescriptor: ''}}", &[]), DescriptorCache::Absent);
        for broken in
            ["{cache: {}}", "{cache: }", "{cache: {blobdescriptor: }}", "{cache: {blobdescriptor: none}}"]
        {
            let found = descriptor_of(&format!("storage: {broken}"), &[]);
            assert!(matches!(found, DescriptorCache::DoesNotStart(_)), "{broken}: {found:?}");
        }
    }

    #[test]
    fn settings_of_old_registries_count() {
        let legacy = (settings::LEGACY_TTL, "30s");
        assert_eq!(digest(&[legacy]), on(30));
        assert_eq!(digest(&[legacy, (TTL, "5m")]), on(30), "wins over the newer one");
        assert_eq!(digest(&[(settings::LEGACY_TTL, "")]), on(600));
        assert!(matches!(digest(&[(settings::LEGACY_TTL, "soon")]), DigestCache::DoesNotStart(_)));
        let option = "middleware: {repository: [{name: openshift, options: {blobrepositorycachettl: 2m}}]}";
        assert_eq!(digest_of(option, &[]), on(120));
        assert_eq!(digest_of(&format!("{option}\nopenshift: {{cache: {{}}}}"), &[]), DigestCache::Off);
        let layerinfo = "storage: {cache: {layerinfo: redis}}\nredis: {addr: 'r:1'}";
        assert_eq!(url(&with_file(layerinfo, &[])), "redis://r:1");
        assert_eq!(descriptor_of(layerinfo, &[(DESCRIPTOR, "inmemory")]), DescriptorCache::InMemory);
        let older = [("REGISTRY_STORAGE_CACHE_LAYERINFO", "redis"), ADDR];
        assert_eq!(descriptor(&older), DescriptorCache::InMemory, "the file's newer name wins");
        let cleared = [older[0], older[1], ("REGISTRY_STORAGE", "filesystem")];
        assert!(
            matches!(descriptor(&cleared), DescriptorCache::Redis(_)),
            "the file's storage section is gone"
        );
    }

    #[test]
    fn the_descriptor_cache_is_redis_only_if_it_says_so() {
        assert_eq!(descriptor(&[]), DescriptorCache::InMemory);
        assert_eq!(descriptor(&[(DESCRIPTOR, "inmemory")]), DescriptorCache::InMemory);
        assert_eq!(descriptor(&[(DESCRIPTOR, "openshift")]), DescriptorCache::InMemory);
        assert_eq!(descriptor(&[(DESCRIPTOR, "''")]), DescriptorCache::Absent);
        for name in ["", "none", "memcached", "REDIS", "[redis]"] {
            let found = descriptor(&[(DESCRIPTOR, name), ADDR]);
            assert!(matches!(found, DescriptorCache::DoesNotStart(_)), "{name}: the registry panics");
        }
        assert!(matches!(descriptor(&[REDIS]), DescriptorCache::DoesNotStart(_)), "no address");
        assert!(matches!(descriptor(&[REDIS, (ADDR.0, "")]), DescriptorCache::DoesNotStart(_)));
        assert!(matches!(descriptor(&[(DESCRIPTOR, "\"redis\" # ours"), ADDR]), DescriptorCache::Redis(_)));
        let whole = [
            ("REGISTRY_STORAGE_CACHE", "{blobdescriptor: redis}"),
            ("REGISTRY_REDIS", "{addr: 'r:1', db: 2}"),
        ];
        assert_eq!(url(&environment(&whole)), "redis://r:1/2");
        let both = [whole[0], whole[1], ("REGISTRY_REDIS_DB", "3")];
        assert_eq!(url(&environment(&both)), "redis://r:1/3");
        // The operator sets this one, and with it the file's section is gone.
        let file = "storage: {cache: {blobdescriptor: redis}}\nredis: {addr: 'r:1'}";
        assert_eq!(descriptor_of(file, &[("REGISTRY_STORAGE", "filesystem")]), DescriptorCache::Absent);
        assert_eq!(url(&with_file(file, &[("REGISTRY_STORAGE_S3_BUCKET", "b")])), "redis://r:1");
    }

    #[test]
    fn a_redis_is_found_with_what_can_be_read_of_it_and_does_not_print_its_password() {
        let variables = [
            REDIS,
            ADDR,
            ("REGISTRY_REDIS_DB", "3"),
            ("REGISTRY_REDIS_PASSWORD", "0123hunter2"),
            ("REGISTRY_REDIS_TLS_ENABLED", "true"),
            (DISABLED, "true"),
        ];
        let found = cache_of(&environment(&variables));
        assert!(!format!("{found:?}").contains("hunter2"));
        let redis = found.redis().unwrap();
        assert_eq!(redis.password, Setting::Is(Password("0123hunter2".to_owned().into())));
        let address = redis.address().unwrap();
        assert_eq!(address.to_string(), "rediss://redis.infra.svc:6379/3");
        assert_eq!(address.password.unwrap().expose_secret(), "0123hunter2");
        let password = found.configured.iter().find(|setting| setting.name == "redis.password").unwrap();
        assert_eq!(password.value, None);
        assert_eq!(password.at.to_string(), "variable REGISTRY_REDIS_PASSWORD");

        let mut hidden = environment(&[REDIS, ADDR]);
        elsewhere(&mut hidden, "REGISTRY_REDIS_PASSWORD", "redis");
        let redis = redis_of(&hidden);
        assert_eq!(redis.password, Setting::Unreadable(secret("redis")));
        assert_eq!(redis.database, Setting::Unset);
        assert_eq!(
            redis.address().unwrap_err(),
            ["the password stands in secret n/redis, which cannot be read"]
        );
    }

    #[test]
    fn sentinels_and_clusters_are_those_of_the_registrys_client() {
        let address = |redis: &str| {
            url(&with_file(&format!("storage: {{cache: {{blobdescriptor: redis}}}}\nredis: {redis}"), &[]))
        };
        assert_eq!(address("{addrs: ['r:1']}"), "redis://r:1");
        assert_eq!(address("{addrs: ['[::1]:7'], username: u, password: p}"), "redis://u@[::1]:7");
        assert_eq!(address("{addrs: ['a:1', 'b:2'], db: 3}"), "redis-cluster://a:1,b:2");
        assert_eq!(
            address("{addrs: [a, 'b:2'], mastername: m, db: 3, tls: {rootcas: [/ca.crt]}}"),
            "rediss-sentinel://a:26379,b:2/m/3"
        );
        assert_eq!(address("{addrs: ['a:1'], tls: {certificate: '', key: ''}}"), "redis://a:1");
        assert_eq!(
            address("{addr: 'a:1', addrs: ['b:1'], username: u}"),
            "redis://a:1",
            "the older form wins"
        );
        let variables =
            [REDIS, ("REGISTRY_REDIS_ADDRS", "[a:1, b:2]"), ("REGISTRY_REDIS_OPTIONS_USERNAME", "u")];
        assert_eq!(url(&environment(&variables)), "redis-cluster://u@a:1,b:2");
        for wrong in ["redis://:hunter2@h:1", "h:port", "h:0", "a b:1", "'[::1]junk'", "'::1'"] {
            let found = cache_of(&environment(&[REDIS, ("REGISTRY_REDIS_ADDR", wrong)]));
            let unknown = found.redis().unwrap().address().unwrap_err();
            assert_eq!(unknown, ["the address means nothing: REGISTRY_REDIS_ADDR: it is no HOST:PORT"]);
            assert!(!format!("{found:?}").contains("hunter2"));
        }
    }

    #[test]
    fn what_cannot_be_read_may_be_there() {
        let file = Environment { file: ConfigFile::Elsewhere(secret("config")), ..Environment::default() };
        let found = cache_of(&file);
        assert_eq!(found.digest_cache, DigestCache::Unknown(secret("config")));
        assert_eq!(found.descriptor_cache, DescriptorCache::Unknown(secret("config")));

        let variables = [(DISABLED, "true"), (DESCRIPTOR, "inmemory")];
        let overridden = Environment { file: file.file.clone(), ..environment(&variables) };
        let found = cache_of(&overridden);
        assert_eq!(
            (found.digest_cache, found.descriptor_cache),
            (DigestCache::Off, DescriptorCache::InMemory)
        );
        let ttl = Environment { file: file.file.clone(), ..environment(&[(TTL, "5m")]) };
        assert_eq!(cache_of(&ttl).digest_cache, DigestCache::Unknown(secret("config")), "it may be disabled");
        let ttl = Environment { file: file.file.clone(), ..environment(&[(TTL, "5m"), (DISABLED, "no")]) };
        assert_eq!(cache_of(&ttl).digest_cache, on(300));
        let redis = Environment { file: file.file, ..environment(&[REDIS, ADDR]) };
        assert_eq!(redis_of(&redis).password, Setting::Unreadable(secret("config")));

        let bulk = vec![("REGISTRY_".to_owned(), secret("all"))];
        let bulk = Environment { bulk, ..environment(&[(DESCRIPTOR, "inmemory")]) };
        assert_eq!(cache_of(&bulk).digest_cache, DigestCache::Unknown(secret("all")));
        assert_eq!(cache_of(&bulk).descriptor_cache, DescriptorCache::InMemory);
        let bulk = Environment { variables: environment(&[REDIS, ADDR]).variables, ..bulk };
        assert_eq!(redis_of(&bulk).database, Setting::Unreadable(secret("all")));
        let mut whole = environment(&[]);
        elsewhere(&mut whole, "REGISTRY_STORAGE_CACHE", "cache");
        assert_eq!(cache_of(&whole).descriptor_cache, DescriptorCache::Unknown(secret("cache")));
    }

    #[test]
    fn a_file_that_does_not_parse_may_say_anything_and_is_not_repeated() {
        let found = cache_of(&with_file("redis:\n  password: hunter2\n\tbad", &[]));
        assert_eq!(found.digest_cache, DigestCache::Unknown(secret("config")));
        assert_eq!(found.notes.len(), 1);
        assert!(found.notes[0].starts_with("key config.yml of secret n/config is no configuration file"));
        assert!(!format!("{found:?}").contains("hunter2"));
        let secret_value = cache_of(&with_file("storage: {cache: {blobdescriptor: hunter2}}", &[]));
        let DescriptorCache::DoesNotStart(why) = &secret_value.descriptor_cache else { panic!() };
        assert_eq!(why, "storage.cache.blobdescriptor is no cache that the registry knows");
        assert!(!format!("{secret_value:?}").contains("hunter2"));
    }

    #[test]
    fn the_worse_of_two_configurations_counts() {
        let of = |variables: &[(&str, &str)]| cache_of(&environment(variables));
        let off = of(&[(DISABLED, "true")]);
        let short = of(&[(TTL, "1m")]);
        let redis = of(&[(DISABLED, "true"), REDIS, ADDR]);
        let broken = of(&[(DISABLED, "maybe"), (DESCRIPTOR, "")]);
        assert_eq!(off.clone().or_worse(&short).digest_cache, on(60));
        assert_eq!(short.clone().or_worse(&of(&[])).digest_cache, on(600));
        assert_eq!(broken.clone().or_worse(&off).digest_cache, DigestCache::Off);
        assert!(short.clone().or_worse(&redis).redis().is_some());
        assert!(redis.or_worse(&broken).redis().is_some());
        let hidden = Environment { file: ConfigFile::Elsewhere(secret("c")), ..Environment::default() };
        let worst = short.or_worse(&cache_of(&hidden));
        assert_eq!(worst.digest_cache, DigestCache::Unknown(secret("c")));
    }
}
